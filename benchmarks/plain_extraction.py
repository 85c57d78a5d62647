"""The published algorithm as the published scripts do it: what the project's commands are compared with.

    python benchmarks/plain_extraction.py visual faces features_plain models

One process (frames: with joblib, as many as are asked for), one clip after the other, float32, all of torch's threads,
nothing resumable. As in the scripts: cv2 decodes each frame with its own threads and writes those that are wanted as
they come; 16 pictures at once go through ViT, 32 windows of sound through WavLM, 32 pictures through CLIP and their 32
sentences, padded to 16 words, through RoBERTa; the prompts go through CLIP once, when the script starts. Where the
scripts are slower than they need be, this is not: no gradients are recorded, and windows are padded to the longest of
their batch, not each to two seconds (which would make another feature of them).

Two stages are not the scripts' own: faces (MTCNN instead of a detector that is in no package) and FAU.

Every function takes clips (videos or folders of pictures) and an output folder. Models are loaded before `begin` is
called, so that extraction.py can time the work alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

N_FRAMES = 32
N_WINDOWS = 32
RATE = 16000
SHORTEST = int(0.4 * RATE)  # WavLM's x-vector fails on less
PICTURES_AT_ONCE = 16
WINDOWS_AT_ONCE = 32
SENTENCES_AT_ONCE = 32
WORDS = 16
CROP_SIDE = 224
CROP_MARGIN = 0.1
# As crop_images' default; facenet-pytorch's own, 20, would take several times as long.
MIN_FACE_SIZE = 40
# A list of sentences, beside the checkpoints.
PROMPTS_FILE = "prompts.json"

Begin = Callable[[], None]


def frames(clips: Sequence[Path], output: Path, models: Path, device: str, begin: Begin, n_workers: int = 1) -> None:
    """Every frame decoded, 32 of them written as JPEG, by so many of joblib's processes (one: this one)."""
    begin()
    if n_workers == 1:
        for clip in clips:
            _frames_of(clip, output)
        return
    from joblib import Parallel, delayed

    Parallel(n_jobs=n_workers)(delayed(_frames_of)(clip, output) for clip in clips)


def _frames_of(clip: Path, output: Path) -> None:
    folder = output / clip.stem
    folder.mkdir(parents=True)
    capture = cv2.VideoCapture(str(clip))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    wanted = set(np.linspace(0, count - 1, N_FRAMES).round().astype(int).tolist())
    index = 0
    while True:
        there_is_one, picture = capture.read()
        if not there_is_one:
            return
        if index in wanted:
            cv2.imwrite(str(folder / f"frame_{index}.jpg"), picture)
        index += 1


def faces(clips: Sequence[Path], output: Path, models: Path, device: str, begin: Begin) -> None:
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


def visual(clips: Sequence[Path], output: Path, models: Path, device: str, begin: Begin) -> None:
    """A clip's pictures through the processor, then ViT; the class tokens."""
    import torch
    from transformers import ViTImageProcessor, ViTModel

    processor = ViTImageProcessor.from_pretrained(models / "vit")
    network = ViTModel.from_pretrained(models / "vit").to(device).eval()
    begin()
    with torch.inference_mode():
        for clip in clips:
            tokens = []
            for part in parts(pictures_of(clip), PICTURES_AT_ONCE):
                pictures = [Image.open(path) for path in part]
                inputs = processor(images=pictures, return_tensors="pt").to(device)
                tokens.append(network(**inputs).last_hidden_state[:, 0])
            save(torch.cat(tokens), output / f"{clip.name}.pt")


def audio(clips: Sequence[Path], output: Path, models: Path, device: str, begin: Begin) -> None:
    """A clip's half-overlapping windows through WavLM together."""
    import torch
    from transformers import Wav2Vec2FeatureExtractor, WavLMForXVector

    extractor = Wav2Vec2FeatureExtractor.from_pretrained(models / "wavlm")
    network = WavLMForXVector.from_pretrained(models / "wavlm").to(device).eval()
    begin()
    with torch.inference_mode():
        for clip in clips:
            samples = sound_of(clip)
            length = int(2 * len(samples) / (N_WINDOWS + 1))
            starts = np.rint(np.arange(N_WINDOWS) * len(samples) / (N_WINDOWS + 1)).astype(int)
            windows = [samples[start : start + length] for start in starts]
            windows = [np.resize(window, SHORTEST) if len(window) < SHORTEST else window for window in windows]
            tokens = []
            for part in parts(windows, WINDOWS_AT_ONCE):
                inputs = extractor(part, return_tensors="pt", sampling_rate=RATE, padding=True).input_values
                tokens.append(network(inputs.to(device)).embeddings)
            save(torch.cat(tokens), output / f"{clip.stem}.pt")


def textual(clips: Sequence[Path], output: Path, models: Path, device: str, begin: Begin) -> None:
    """CLIP scores a clip's frames against the prompts; RoBERTa reads the best one of each."""
    import open_clip
    import torch
    from transformers import RobertaModel, RobertaTokenizer

    clip_model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{models / 'clip'}")
    clip_model = clip_model.to(device).eval()
    sentences = json.loads((models / PROMPTS_FILE).read_text())
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer(f"local-dir:{models / 'clip'}")(sentences).to(device)
        directions = clip_model.encode_text(tokens, normalize=True)
    tokenizer = RobertaTokenizer.from_pretrained(models / "roberta")
    roberta = RobertaModel.from_pretrained(models / "roberta").to(device).eval()
    begin()
    with torch.inference_mode():
        for clip in clips:
            embeddings = []
            for part in parts(pictures_of(clip), SENTENCES_AT_ONCE):
                pictures = torch.stack([preprocess(Image.open(path).convert("RGB")) for path in part]).to(device)
                similarity = clip_model.encode_image(pictures, normalize=True) @ directions.T
                best = [sentences[index] for index in similarity.argmax(dim=1).tolist()]
                inputs = tokenizer(best, return_tensors="pt", padding=True, pad_to_multiple_of=WORDS)
                embeddings.append(roberta(**inputs.to(device)).last_hidden_state[:, 0])
            save(torch.cat(embeddings), output / f"{clip.name}.pt")


def fau(clips: Sequence[Path], output: Path, models: Path, device: str, begin: Begin) -> None:
    """A clip's crops through py-feat's multitask network."""
    import torch

    from viper.encoders.multitask import import_py_feat

    network = import_py_feat()(device=device, weights_path=str(models / "multitask.safetensors"), amp=False)
    begin()
    for clip in clips:
        pictures = [cv2.resize(cv2.imread(str(path)), (256, 256), interpolation=cv2.INTER_CUBIC)[..., ::-1]
                    for path in pictures_of(clip)]  # fmt: skip
        chips = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
        answer = network(chips)
        save(torch.from_numpy(np.concatenate([answer.au, answer.emotion], axis=1)), output / f"{clip.name}.pt")


def parts(items: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    """The items, so many at a time."""
    for start in range(0, len(items), most):
        yield items[start : start + most]


def sound_of(clip: Path) -> np.ndarray:
    """The mean of a file's channels, (N,) float32 at 16 kHz. (The scripts read files of sound.)"""
    import av

    with av.open(str(clip)) as container:
        resampler = av.AudioResampler(format="fltp", rate=RATE)
        decoded = [*container.decode(audio=0), None]
        made = [part.to_ndarray() for frame in decoded for part in resampler.resample(frame)]
    return np.concatenate(made, axis=1).mean(axis=0, dtype=np.float32)


def pictures_of(clip: Path) -> list[Path]:
    """A clip's pictures in the order of their frame numbers."""
    return sorted(clip.glob("*.jpg"), key=lambda path: int(path.stem.split("_")[1]))


def save(tokens: Any, path: Path) -> None:
    """As the published scripts do."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tokens.cpu().clone(), path)  # a view would be saved with all that it is a view of


STAGES = {"frames": frames, "faces": faces, "visual": visual, "audio": audio, "textual": textual, "fau": fau}


def main(stage: str, source: str, output: str, models: str, device: str = "cpu", n_workers: str = "1") -> None:
    """One stage over a folder."""
    run = partial(frames, n_workers=int(n_workers)) if stage == "frames" else STAGES[stage]
    run(sorted(Path(source).iterdir()), Path(output), Path(models), device, lambda: None)


if __name__ == "__main__":
    main(*sys.argv[1:])
