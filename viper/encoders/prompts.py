"""Prompt lists: the sentences an image-text model scores frames against, made from each emotion's words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from viper.errors import UserError


@dataclass(frozen=True)
class Prompts:
    """Sentences, and the emotion each stands for ("neutral" for none)."""

    sentences: tuple[str, ...]
    emotions: tuple[str, ...]


def load_prompts(path: Path) -> Prompts:
    """Reads a prompt list: every word of every emotion in every pattern, then the neutral sentences as they are.

    Raises UserError naming the file and the key that is wrong.
    """
    try:
        card = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as a prompt list ({' '.join(str(error).split())})") from error
    if not isinstance(card, dict) or set(card) != {"patterns", "emotions", "neutral"}:
        raise UserError(f"{path}: a prompt list has the keys patterns, emotions and neutral")
    patterns = _sentences(card["patterns"], path, "patterns")
    for pattern in patterns:
        if "{word}" not in pattern:
            raise UserError(f"{path}: the pattern {pattern!r} has no {{word}} in it")
    if not isinstance(card["emotions"], dict) or not card["emotions"]:
        raise UserError(f"{path}: emotions must name each emotion with a list of words")
    pairs = [
        (pattern.replace("{word}", word), str(emotion))
        for emotion, words in card["emotions"].items()
        for word in _sentences(words, path, f"emotions.{emotion}")
        for pattern in patterns
    ]
    pairs += [(sentence, "neutral") for sentence in _sentences(card["neutral"], path, "neutral")]
    return Prompts(tuple(sentence for sentence, _ in pairs), tuple(emotion for _, emotion in pairs))


def _sentences(value: Any, path: Path, key: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(entry, str) and entry.strip() for entry in value):
        raise UserError(f"{path}: {key} must be a list of sentences")
    return value
