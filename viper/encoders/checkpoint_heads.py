"""What checkpoints hold beside the encoder: heads of the training they come from, which no feature reads.

A weight that a network has no place for was either part of such a head, or it is lost and the features are wrong. So
heads are listed, by the names the published architectures give them, and everything else is an error.
"""

from __future__ import annotations

_SPEECH = (
    "classifier", "projector", "layer_weights",  # of classes, for a whole recording or for each step
    "lm_head",  # of letters (CTC)
    "quantizer", "project_hid", "project_q",  # of pretraining
)  # fmt: skip
_WORDS = (
    "classifier", "qa_outputs", "lm_head", "cls.predictions", "cls.seq_relationship",
    "score", "embed_out", "lm_loss", "logits_proj", "sequence_summary", "start_logits", "end_logits", "answer_class",
    "classification_head", "final_logits_bias",  # of encoder-decoders
)  # fmt: skip
# Masked image modelling draws the patches it hid, and has a token that stands for them.
_DRAWN = ("decoder", "embeddings.mask_token")
# Of a network that reads one half of an image-text model, the other half and what compares the two.
_OTHER_HALF = ("text_model", "text_projection", "visual_projection", "logit_scale", "logit_bias", "classifier")

# By the `model_type` of a checkpoint's config. A name stands for itself and all below it.
HEADS: dict[str, tuple[str, ...]] = {
    "vit": ("classifier", *_DRAWN),
    "vit_mae": _DRAWN,
    "deit": ("classifier", "cls_classifier", "distillation_classifier", *_DRAWN),
    "swin": ("classifier", *_DRAWN),
    "swinv2": ("classifier", *_DRAWN),
    "focalnet": ("classifier", *_DRAWN),
    # The norm belongs to the head: masked image modelling's (BEiT), the classifier's (CvT, PoolFormer).
    "beit": ("classifier", "lm_head", "layernorm", "decode_head", "auxiliary_head"),
    "data2vec-vision": ("classifier", "decode_head", "auxiliary_head", "fpn1", "fpn2"),
    "cvt": ("classifier", "layernorm"),
    "poolformer": ("classifier", "norm"),
    "levit": ("classifier", "classifier_distill"),
    "mobilenet_v2": ("classifier", "segmentation_head"),
    "mobilevit": ("classifier", "segmentation_head"),
    "mobilevitv2": ("classifier", "segmentation_head"),
    "segformer": ("classifier", "decode_head"),
    "clip_vision_model": _OTHER_HALF,
    "siglip_vision_model": _OTHER_HALF,
    "wav2vec2": _SPEECH,
    "wav2vec2-conformer": _SPEECH,
    "wav2vec2-bert": _SPEECH,
    "wavlm": _SPEECH,
    "hubert": _SPEECH,
    "unispeech": (*_SPEECH, "ctc_proj"),
    "unispeech-sat": (*_SPEECH, "speaker_proj", "label_embeddings_concat", "layer_norm_for_extract"),
    "data2vec-audio": _SPEECH,
    "sew": _SPEECH,
    "sew-d": _SPEECH,
    "bert": _WORDS,
    "roberta": _WORDS,
    "xlm-roberta": _WORDS,
    "camembert": _WORDS,
    "mpnet": _WORDS,
    "deberta": (*_WORDS, "lm_predictions", "mask_predictions"),
    "deberta-v2": (*_WORDS, "lm_predictions", "mask_predictions"),
    "distilbert": (
        "pre_classifier", "classifier", "qa_outputs", "vocab_transform", "vocab_layer_norm", "vocab_projector",
    ),
    "albert": ("classifier", "qa_outputs", "predictions", "sop_classifier"),
    "electra": ("classifier", "qa_outputs", "discriminator_predictions", "generator_predictions", "generator_lm_head"),
    "modernbert": ("classifier", "head", "decoder"),
    "modernbert-decoder": ("classifier", "head", "decoder"),
    "rwkv": (*_WORDS, "head"),
    "swiftformer": ("head", "dist_head", "norm"),
    "whisper": ("proj_out", "classifier", "projector", "layer_weights"),
    "eurobert": (*_WORDS, "dense"),
    "luke": (*_WORDS, "entity_predictions"),
    "splinter": (*_WORDS, "splinter_qass"),
    "funnel": (*_WORDS, "discriminator_predictions"),
    # Of a classifier `fc_norm` is read (viper.encoders.video), and so is no head.
    "videomae": ("classifier", "decoder", "encoder_to_decoder", "mask_token"),
}  # fmt: skip
# DINOv2, ConvNeXt, ResNet, Longformer, MobileBERT ... and architectures that nobody has looked at yet: names that no
# encoder gives to a part of its own.
OTHERS = (*_WORDS, "qa_classifier", "generator_predictions", "generator_lm_head", "pred_layer.proj")

# Not learnt: places and distances that older files hold, and networks now work out by themselves.
TABLES = ("position_ids", "relative_position_index", "relative_coords_table", "inv_freq")


def is_head(model_type: str, weight: str) -> bool:
    """Return whether a weight, by its name below the encoder or beside it, belongs to a head of that model type."""
    return any(weight == head or weight.startswith(f"{head}.") for head in HEADS.get(model_type, OTHERS))


def is_table(weight: str) -> bool:
    """Return whether it is no weight, whatever the architecture, but follows from the config."""
    return weight.split(".")[-1] in TABLES
