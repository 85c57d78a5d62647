"""The words on the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from viper.evaluation.metrics import METRICS
from viper.inference.predictor import ClipPredictor
from viper.web.session import Session

WELCOME = Markup(
    '<p class="nothing" role="status">Drop or record a clip, or try a made-up one: what the model makes of it appears '
    "here.</p>"
)
TIMELINE_FOLLOWS = Markup('<p class="nothing">Reading the clip window by window ...</p>')
NOTHING_LEFT = Markup(
    '<p class="nothing">Nothing of the clip is left to look at: this is what the model says without any.</p>'
)
UNEXPECTED = "Something went wrong while this clip was read. What it was is in the terminal that serves the page."
TITLES = {
    "regression": "Intensities",
    "single_label": "Probabilities of the classes",
    "multi_label": "Probabilities of the labels",
    "preference": "Utility",
}


def header(predictor: ClipPredictor, record: Mapping[str, Any]) -> Markup:
    """Return what the checkpoint is, how good it was, and what its answers are not."""
    task = predictor.task
    scored = ""
    if evaluation := record.get("evaluation"):
        metric = next((name for name in task.metrics if name in evaluation["mean"] and name in METRICS), None)
        if metric is not None and evaluation["mean"][metric]["value"] is not None:
            value = evaluation["mean"][metric]["value"]
            scored = f" On its validation split: {METRICS[metric].title} {value:.2f} ({evaluation['n_clips']:,} clips)."
    grouped = ""
    if predictor.group_column is not None:
        grouped = (
            f" It was trained on features standardised within each {predictor.group_column}; here each clip is a group "
            "of its own, so expect less."
        )
    return Markup(
        '<header><div class="brand">viper</div><h1>What does the model see in a clip?</h1>'
        '<p class="lead">This checkpoint predicts {}, from up to {} modalities: {}.{}{}</p>'
        '<p class="caution"><strong>An expression is not a feeling.</strong> Inferring emotion from faces and voices '
        "is error-prone, and worse for people unlike those in the training data. Take no decision about anybody from "
        "these numbers, and film only people who agreed to it.</p></header>"
    ).format(
        task.description or f"{len(task.targets)} targets", len(predictor.modalities), ", ".join(predictor.modalities),
        scored, grouped,
    )  # fmt: skip


def limits() -> Markup:
    """Return the foot of the page."""
    return Markup(
        '<section class="limits"><h2>What these numbers are not</h2><ul>'
        "<li>Not what somebody feels: the model repeats what the labels of its training data say of clips like this "
        "one. People, situations and cultures differ in how feelings show, and the same face can mean different "
        "things.</li>"
        "<li>Not certain: no interval is shown, and a clip without a face or a voice gets numbers that look like any "
        "others.</li>"
        "<li>Not for work, school, police, insurance or diagnosis. In the European Union, Regulation (EU) 2024/1689 "
        "(the AI Act) prohibits inferring emotions at the workplace and in education, except for medical or safety "
        "reasons (Article 5(1)(f)), and puts other emotion recognition systems under the rules for high-risk systems, "
        "with a duty to inform people (Annex III, Article 50(3)). This is no legal advice.</li>"
        "<li>Not kept: a clip is deleted as soon as it is read; what was read of it stays in memory until you press "
        "“Forget the clip”, close the page, or half an hour has passed.</li></ul></section>"
    )


def hint(text: str) -> Markup:
    """Return a line in small print."""
    return Markup('<p class="hint">{}</p>').format(text)


def unavailable(reasons: Mapping[str, str]) -> Markup:
    """Return the modalities whose encoders cannot run on this machine."""
    items = Markup("").join(
        Markup('<li class="absent"><b>{}</b> {}</li>').format(name, reason) for name, reason in reasons.items()
    )
    return Markup('<p class="hint">Not available on this machine:</p><ul class="sources">{}</ul>').format(items)


def of_clip(session: Session, sources: Markup) -> Markup:
    """Return what was read."""
    return Markup('<div role="status"><p class="clip">{} · {:.1f} seconds</p>{}</div>').format(
        session.name, session.seconds, sources
    )


def error(message: str) -> Markup:
    """Return what went wrong, in one line."""
    return Markup('<p class="message" role="alert">{}</p>').format(message)


def section(title: str, content: Markup) -> Markup:
    """Return a part of the answer under its heading."""
    return Markup("<section><h2>{}</h2>{}</section>").format(title, content)
