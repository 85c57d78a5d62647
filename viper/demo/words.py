"""Subtitles whose choice of words carries two of the emotions, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from viper.demo.reaction import check_intensities
from viper.files import atomic_path
from viper.media.subtitles import Cue

# Words by rising intensity: each row is one step, its words are interchangeable.
GRADES: dict[str, tuple[tuple[str, ...], ...]] = {
    "Adoration": (
        ("plain", "ordinary", "usual", "average"),
        ("nice", "pleasant", "decent", "fine"),
        ("sweet", "pretty", "lovely", "likeable"),
        ("adorable", "charming", "precious", "delightful"),
        ("heavenly", "irresistible", "divine", "beloved"),
    ),
    "Empathic-Pain": (
        ("relaxed", "comfortable", "healthy", "content"),
        ("tired", "uneasy", "stiff", "restless"),
        ("sore", "limping", "bruised", "unwell"),
        ("hurt", "aching", "injured", "wounded"),
        ("suffering", "agonised", "crushed", "tormented"),
    ),
}
_NOUNS = ("puppy", "kitten", "child", "pony", "lamb", "boy", "girl", "bird", "neighbour", "friend")
_SENTENCES = (
    "this {adoration} {noun} looks {pain}",
    "the {adoration} {noun} seems {pain} now",
    "{pain} today, that {adoration} {noun}",
    "look, a {pain} and {adoration} {noun}",
    "my {adoration} {noun} was {pain} here",
    "so {adoration}, and yet so {pain}",
)
_SECONDS_PER_CUE = 0.65


def make_cues(intensities: Mapping[str, float], seconds: float, rng: np.random.Generator) -> list[Cue]:
    """Return subtitles for a clip of `seconds`, at least one.

    Only Adoration and Empathic-Pain of `intensities` matter.
    """
    values = check_intensities(intensities)
    edges = np.linspace(0, seconds, max(1, round(seconds / _SECONDS_PER_CUE)) + 1)
    cues = []
    for start, end in itertools.pairwise(edges.tolist()):
        sentence = _SENTENCES[int(rng.integers(len(_SENTENCES)))]
        text = sentence.format(
            adoration=_graded_word("Adoration", values, rng),
            pain=_graded_word("Empathic-Pain", values, rng),
            noun=_NOUNS[int(rng.integers(len(_NOUNS)))],
        )
        cues.append(Cue(start, end, text))
    return cues


def write_srt(path: str | Path, cues: Iterable[Cue]) -> None:
    """Write cues as SubRip (UTF-8), atomically."""
    blocks = [
        f"{number}\n{_clock(cue.start)} --> {_clock(cue.end)}\n{cue.text}\n" for number, cue in enumerate(cues, start=1)
    ]
    with atomic_path(Path(path)) as temporary:
        temporary.write_text("\n".join(blocks), encoding="utf-8", newline="\n")


def _graded_word(emotion: str, values: Mapping[str, float], rng: np.random.Generator) -> str:
    """Return a word of the step below or above the intensity, in proportion.

    Over several words the mean is the intensity.
    """
    grades = GRADES[emotion]
    step = int(values[emotion] * (len(grades) - 1) + rng.uniform())
    words = grades[min(step, len(grades) - 1)]
    return words[int(rng.integers(len(words)))]


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d},{milliseconds % 1000:03d}"
