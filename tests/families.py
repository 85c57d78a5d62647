"""Every family of networks that transformers has, as a tiny checkpoint on disk with random weights.

A family's own default config is taken, and every size in it that is known by name made small. What a family needs
beside that stands in a table; a family for which this gives no network is left out.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from checkpoints import seeded
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoModel, PretrainedConfig, PreTrainedTokenizerFast
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

SIDE = 32
MAX_NUMBERS = 5_000_000
_N_WORDS = 400
_SIZES: dict[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "word_embed_proj_dim", "d_embed", "emb_dim",
         "hidden_dim", "embedding_size", "moe_intermediate_size", "shared_expert_intermediate_size", "d_latents"), 32),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "d_ff", "n_inner", "d_inner", "ffn_hidden_size", "encoder_ffn_dim",
         "decoder_ffn_dim", "mlp_dim"), 64),
    **dict.fromkeys(
        ("d_kv", "d_head", "head_dim", "kv_channels", "attention_head_size", "qk_rope_head_dim", "qk_nope_head_dim",
         "v_head_dim", "state_size", "hidden_size_per_layer_input", "stem_width", "num_latents", "patch_size"), 8),
    **dict.fromkeys(("qk_head_dim", "kv_lora_rank", "q_lora_rank", "projection_dim", "num_conv_pos_embeddings"), 16),
    **dict.fromkeys(
        ("num_attention_heads", "n_heads", "n_head", "num_heads", "encoder_attention_heads", "decoder_attention_heads",
         "num_key_value_heads", "num_kv_heads", "encoder_num_attention_heads", "decoder_num_attention_heads",
         "encoder_num_key_value_heads", "decoder_num_key_value_heads", "num_experts", "n_routed_experts",
         "num_local_experts", "conv_kernel", "num_frames", "num_conv_pos_embedding_groups", "rotary_dim"), 4),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers", "depth",
         "num_encoder_layers", "num_decoder_layers", "encoder_num_hidden_layers", "decoder_num_hidden_layers",
         "num_experts_per_tok", "topk"), 2),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 128),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), _N_WORDS),
    "image_size": SIDE, "num_labels": 3, "entity_vocab_size": 50,
}  # fmt: skip
_STAGES = ("hidden_sizes", "embed_dims", "encoder_hidden_sizes", "neck_hidden_sizes")
_TOKENS = {
    "bos_token_id": 0, "cls_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "sep_token_id": 2,
    "decoder_start_token_id": 2, "unk_token_id": 3, "mask_token_id": 4, "forced_eos_token_id": 2,
    "image_token_id": 390, "video_token_id": 391, "audio_token_id": 392, "boi_token_id": 393, "eoi_token_id": 394,
}  # fmt: skip
_SWIN = {"embed_dim": 8, "num_heads": [1, 2, 2, 2], "depths": [1, 1, 1, 1], "window_size": 2, "patch_size": 2}
_TWO_STAGES = {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]}
_OWN: dict[str, dict[str, Any]] = {
    "swin": _SWIN,
    "swinv2": _SWIN,
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 16], "num_buckets": 4,
                 "attn_layers": ["local", "lsh"]},
    "esm": {"mask_token_id": 4},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "bit": {"embedding_size": 8, "hidden_sizes": [32, 32], "depths": [1, 1], "num_groups": 4},
    "convnext": _TWO_STAGES,
    "convnextv2": _TWO_STAGES,
    "regnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 4},
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320},
    "levit": {"hidden_sizes": [16] * 3, "num_attention_heads": [2] * 3, "key_dim": [8] * 3, "depths": [1] * 3,
              "image_size": 64, "patch_size": 16},
    "hiera": {"image_size": [SIDE, SIDE], "patch_size": [7, 7], "embed_dim": 8, "num_heads": [1, 1, 2, 2]},
    "mobilevit": {"patch_size": 2},
    "mobilevitv2": {"patch_size": 2},
    "clap": {
        "audio_config": {"patch_embeds_hidden_size": 8, "depths": [1] * 4, "hidden_size": 64, "projection_dim": 16,
                         "num_attention_heads": [1, 1, 2, 2]},
        "text_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64,
                        "vocab_size": _N_WORDS, "projection_dim": 16, "max_position_embeddings": 128},
    },
    "pvt": {"num_attention_heads": [1, 2, 4, 8]},
    "pvt_v2": {"num_attention_heads": [1, 2, 4, 8]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "expand": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "mobilebert": {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
}  # fmt: skip
# Of these all of the config is said here.
_WHOLE: dict[str, dict[str, Any]] = {
    "funnel": {"vocab_size": _N_WORDS, "block_sizes": [1, 1, 1], "num_decoder_layers": 1, "d_model": 32, "n_head": 4,
               "d_head": 8, "d_inner": 64},
    "whisper": {"vocab_size": _N_WORDS, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
                "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64,
                "decoder_ffn_dim": 64, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
                "decoder_start_token_id": 2},
    "mimi": {"num_filters": 4, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
             "num_key_value_heads": 4, "head_dim": 8, "intermediate_size": 64, "codebook_size": 16, "codebook_dim": 8,
             "vector_quantization_hidden_dimension": 8, "upsample_groups": 8},
    "encodec": {"num_filters": 4, "hidden_size": 16, "codebook_size": 16, "codebook_dim": 16, "num_lstm_layers": 1},
    "dac": {"encoder_hidden_size": 4, "decoder_hidden_size": 64, "codebook_size": 16, "codebook_dim": 4,
            "n_codebooks": 2, "hidden_size": 64},
}  # fmt: skip
_SENTENCES = [
    "a face of a person who laughs and cries",
    "the quick brown fox jumps over the lazy dog",
    "well I never knew that you could be so angry",
]


def families() -> list[str]:
    """Every `model_type` that AutoModel knows."""
    return list(modeling_auto.MODEL_MAPPING_NAMES)


def is_of_words(family: str) -> bool:
    """Whether a family reads nothing but words, by its config's parts."""
    parts = getattr(CONFIG_MAPPING[family], "sub_configs", {})
    return not any("vision" in part or "audio" in part or "image" in part for part in parts)


def config_of(family: str) -> Any:
    """A family's config, made small; whatever its class raises where that cannot be."""
    made = CONFIG_MAPPING[family]
    if family in _WHOLE:
        return made(**_WHOLE[family])
    return made(**{**_smaller(made()), **_OWN.get(family, {})})


def _smaller(config: PretrainedConfig) -> dict[str, Any]:
    small: dict[str, Any] = {}
    for key, value in vars(config).items():
        is_list = isinstance(value, list | tuple) and len(value) > 0
        if isinstance(value, PretrainedConfig):
            small[key] = {**_smaller(value), "model_type": value.model_type}
        elif type(value) is int and key in _SIZES:
            small[key] = _SIZES[key]
        elif type(value) is int and key in _TOKENS:
            small[key] = _TOKENS[key]
        elif is_list and key == "depths":
            small[key] = [1] * len(value)
        elif is_list and key == "conv_dim":
            small[key] = [32] * len(value)
        elif is_list and key in _STAGES:
            small[key] = [8 * 2**stage for stage in range(len(value))]
        elif is_list and (key.endswith("layer_types") or key == "layers_block_type"):
            small[key] = [value[0], value[-1]]
        elif key in ("rope_parameters", "rope_scaling"):
            small[key] = _narrower(value)
    return small


def _narrower(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: [1, 1, 2] if key == "mrope_section" else _narrower(each) for key, each in value.items()}


def network_of(family: str, auto_class: Any = AutoModel, reads: str = "") -> Any:
    """A family's network with random weights, none of them zero; None where none so small can be made of it.

    `reads` is what it must read first: "input_ids", "pixel_values" ...; "" for anything.
    """
    try:
        config = config_of(family)
        config = type(config).from_dict(json.loads(config.to_json_string()))
        config.architectures = config.architectures or []  # of Funnel's two classes transformers looks for one there
        with torch.device("meta"):
            planned = auto_class.from_config(config)
        is_small = sum(tensor.numel() for tensor in planned.parameters()) <= MAX_NUMBERS
        if not is_small or reads not in ("", planned.main_input_name):
            return None
        return seeded(0, lambda: _shaken(auto_class.from_config(config)))
    except Exception:  # configs and networks that want other sizes raise anything
        return None


def _shaken(network: Any) -> Any:
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.is_floating_point():
                # As much as keeps what goes through: a network that tells nothing apart would prove nothing.
                fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 200
                parameter += max(0.1, 1.4 / fan_in**0.5) * torch.randn(parameter.shape)
        if network.main_input_name == "pixel_values":
            _settle(network)
    return network


def _settle(network: Any) -> None:
    """Give batch norms the statistics of what goes through, without which all pictures end alike."""
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.momentum = None
    with contextlib.suppress(Exception):  # a network that wants more than pictures stays as it is
        network.train()(pixel_values=torch.randn(8, 3, 2 * SIDE, 2 * SIDE))
    network.eval()


def write_words(folder: Path, layout: str) -> None:
    """A byte-level tokenizer: "cls" (a class token before, an end after), "eos" (an end after, as T5), "bos" (a start
    before, and no padding, as Llama), "none" (no special tokens, as GPT-2) or "xlnet" (the class token last)."""
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special, alphabet = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=380, special_tokens=special, initial_alphabet=alphabet)
    words.train_from_iterator(_SENTENCES * 3, trainer)
    single = {"cls": "<s> $A </s>", "eos": "$A </s>", "bos": "<s> $A", "none": "$A", "xlnet": "$A </s> <s>:2"}[layout]
    words.post_processor = processors.TemplateProcessing(
        single=single, pair=f"{single} $B", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    own: dict[str, Any] = {
        "cls": {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"},
        "xlnet": {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>", "padding_side": "left"},
        "eos": {"pad_token": "<pad>", "eos_token": "</s>"},
    }.get(layout, {"bos_token": "<s>", "eos_token": "</s>"})  # fmt: skip
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", **own).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "tokenizer_class": "PreTrainedTokenizerFast"}))


def words_layout(network: Any) -> str:
    """The layout of special tokens that checkpoints of a network's family have."""
    family = network.config.model_type
    if family == "xlnet":
        return family
    if getattr(network.config, "is_encoder_decoder", False):
        return "eos"
    writes = family in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return "bos" if writes and family not in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES else "cls"


def has_eyes(family: str) -> bool:
    """Whether the family has a processor of pictures."""
    return family in IMAGE_PROCESSOR_MAPPING_NAMES


def write_eyes(folder: Path, family: str) -> None:
    """The family's processor of pictures, for pictures of 32 pixels."""
    names = IMAGE_PROCESSOR_MAPPING_NAMES[family]
    processor = getattr(transformers, names.get("torchvision") or names["pil"])()
    side = {"levit": 64, "mobilevit": 64, "mobilevitv2": 128}.get(family, SIDE)
    for key in ("size", "crop_size", "pad_size"):
        if value := getattr(processor, key, None):
            setattr(processor, key, dict.fromkeys(dict(value), side))
    processor.save_pretrained(folder)


def has_ears(family: str) -> bool:
    """Whether the family has an extractor of sound."""
    return _extractor(family) is not None


def _extractor(family: str) -> str | None:
    # Checkpoints of w2v-BERT name SeamlessM4T's themselves.
    if family == "wav2vec2-bert":
        return "SeamlessM4TFeatureExtractor"
    return FEATURE_EXTRACTOR_MAPPING_NAMES.get(family)


def write_ears(folder: Path, family: str) -> None:
    """The family's extractor of sound, as it is by default."""
    # The published CLAPs that read one cut of a sound say so; by default an extractor makes four.
    options = {"truncation": "rand_trunc"} if family == "clap" else {}
    getattr(transformers, _extractor(family) or "")(**options).save_pretrained(folder)
