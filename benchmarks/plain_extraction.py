"""The published algorithm, written plainly: what benchmarks/extraction.py compares the project's commands with.

One process, one clip at a time, float32, nothing resumable; otherwise as one would write it with care: the defaults of
transformers and torch (sdpa attention, all threads), models loaded once, prompts embedded once by CLIP, a clip's frames
in one batch where the libraries make that easy (ViT, py-feat), one at a time where the published scripts do (MTCNN,
CLIP, RoBERTa, windows of sound).

Every function takes clips (videos or folders of pictures) and an output folder. Models are loaded before `begin` is
called, so that only work is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

N_FRAMES = 32
N_WINDOWS = 32
RATE = 16000
SHORTEST = int(0.4 * RATE)  # WavLM's x-vector fails on less
CROP_SIDE = 224
CROP_MARGIN = 0.1
# As crop_images' default; facenet-pytorch's own, 20, would take several times as long.
MIN_FACE_SIZE = 40

Begin = Callable[[], None]


def frames(clips: Sequence[Path], output: Path, models: Path, device: torch.device, begin: Begin) -> None:
    """Every frame decoded and converted to RGB; 32 of them written as JPEG."""
    begin()
    for clip in clips:
        capture = cv2.VideoCapture(str(clip))
        pictures = []
        while True:
            there_is_one, picture = capture.read()
            if not there_is_one:
                break
            pictures.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
        folder = output / clip.stem
        folder.mkdir(parents=True)
        for index in np.linspace(0, len(pictures) - 1, N_FRAMES).round().astype(int):
            Image.fromarray(pictures[index]).save(folder / f"frame_{index}.jpg", quality=95)


def faces(clips: Sequence[Path], output: Path, models: Path, device: torch.device, begin: Begin) -> None:
    """MTCNN on one picture after the other; the square around the most probable face, 224 pixels wide."""
    from facenet_pytorch import MTCNN

    detector = MTCNN(keep_all=True, min_face_size=MIN_FACE_SIZE, device=device)
    begin()
    for clip in clips:
        (output / clip.name).mkdir(parents=True)
        for path in pictures_of(clip):
            picture = Image.open(path).convert("RGB")
            boxes, scores = detector.detect(picture)
            if boxes is not None:
                x0, y0, x1, y1 = boxes[int(np.argmax(scores))]
                half = max(x1 - x0, y1 - y0) * (0.5 + CROP_MARGIN)
                x, y = (x0 + x1) / 2, (y0 + y1) / 2
                picture = picture.crop((int(x - half), int(y - half), int(x + half), int(y + half)))
            picture.resize((CROP_SIDE, CROP_SIDE)).save(output / clip.name / path.name, quality=95)


@torch.inference_mode()
def visual(clips: Sequence[Path], output: Path, models: Path, device: torch.device, begin: Begin) -> None:
    """A clip's pictures through the processor, then ViT; the class tokens."""
    from transformers import AutoImageProcessor, AutoModel

    processor = AutoImageProcessor.from_pretrained(models / "vit")
    network = AutoModel.from_pretrained(models / "vit").to(device).eval()
    begin()
    for clip in clips:
        pictures = [Image.open(path).convert("RGB") for path in pictures_of(clip)]
        inputs = processor(images=pictures, return_tensors="pt").to(device)
        save(network(**inputs).last_hidden_state[:, 0], output / f"{clip.name}.pt")


@torch.inference_mode()
def audio(clips: Sequence[Path], output: Path, models: Path, device: torch.device, begin: Begin) -> None:
    """Half-overlapping windows through WavLM, one after the other. (Decoded by the project's own function.)"""
    from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

    from viper.media.sound import read_sound

    extractor = AutoFeatureExtractor.from_pretrained(models / "wavlm")
    network = AutoModelForAudioXVector.from_pretrained(models / "wavlm").to(device).eval()
    begin()
    for clip in clips:
        sound = read_sound(clip, RATE)
        assert sound is not None, f"{clip}: no sound"
        length = int(2 * len(sound.samples) / (N_WINDOWS + 1))
        embeddings = []
        for start in np.rint(np.arange(N_WINDOWS) * len(sound.samples) / (N_WINDOWS + 1)).astype(int):
            window = sound.samples[start : start + length]
            if len(window) < SHORTEST:
                window = np.resize(window, SHORTEST)
            inputs = extractor(window, sampling_rate=RATE, return_tensors="pt").to(device)
            embeddings.append(network(**inputs).embeddings[0])
        save(torch.stack(embeddings), output / f"{clip.stem}.pt")


@torch.inference_mode()
def textual(clips: Sequence[Path], output: Path, models: Path, device: torch.device, begin: Begin) -> None:
    """CLIP scores each frame against the prompts; RoBERTa reads the best one, frame by frame."""
    import open_clip
    from transformers import AutoModel, AutoTokenizer

    from viper.encoders.clip_prompts import load_prompts
    from viper.task import load_task

    clip_model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{models / 'clip'}")
    clip_model = clip_model.to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(models / "roberta")
    roberta = AutoModel.from_pretrained(models / "roberta").to(device).eval()
    prompts = load_task("hume_reaction").prompts
    assert prompts is not None
    sentences = load_prompts(prompts).sentences
    tokens = open_clip.get_tokenizer(f"local-dir:{models / 'clip'}")(list(sentences)).to(device)
    directions = clip_model.encode_text(tokens, normalize=True)
    begin()
    for clip in clips:
        embeddings = []
        for path in pictures_of(clip):
            picture = preprocess(Image.open(path).convert("RGB")).unsqueeze(0).to(device)
            similarity = clip_model.encode_image(picture, normalize=True) @ directions.T
            inputs = tokenizer(sentences[int(similarity.argmax())], return_tensors="pt").to(device)
            embeddings.append(roberta(**inputs).last_hidden_state[0, 0])
        save(torch.stack(embeddings), output / f"{clip.name}.pt")


@torch.inference_mode()
def fau(clips: Sequence[Path], output: Path, models: Path, device: torch.device, begin: Begin) -> None:
    """A clip's crops through py-feat's multitask network."""
    from viper.encoders.multitask import import_py_feat

    network = import_py_feat()(device=str(device), weights_path=str(models / "multitask.safetensors"), amp=False)
    begin()
    for clip in clips:
        pictures = [cv2.resize(cv2.imread(str(path)), (256, 256), interpolation=cv2.INTER_CUBIC)[..., ::-1]
                    for path in pictures_of(clip)]  # fmt: skip
        chips = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
        answer = network(chips)
        save(torch.from_numpy(np.concatenate([answer.au, answer.emotion], axis=1)), output / f"{clip.name}.pt")


def pictures_of(clip: Path) -> list[Path]:
    """A clip's pictures in the order of their frame numbers."""
    return sorted(clip.glob("*.jpg"), key=lambda path: int(path.stem.split("_")[1]))


def save(tokens: Any, path: Path) -> None:
    """As the published scripts do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tokens.cpu().clone(), path)  # a view would be saved with all that it is a view of
