"""The model card: README.md of a checkpoint, from what its config.json says and nothing else.

Its front matter is the hub's, see https://huggingface.co/docs/hub/model-cards. No torch here: a card can be written for
any config.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml

from viper.errors import one_line
from viper.evaluation.metrics import METRICS
from viper.logs import shell_line

CARD_FILE = "README.md"
MAX_OPTION = 80  # characters of an encoder's option that are shown
UNBOUNDED = ("channels", "linear")  # fusions whose regressions may leave the task's range
# What the hub calls a metric, where it has it.
_HUB_METRICS = {"pearson": "pearsonr", "macro_f1": "f1"}
# Of models that name classes. The hub has no tag for a regression or a preference from video.
_HUB_PIPELINES = (("visual", "video-classification"), ("FAU", "video-classification"),
                  ("audio", "audio-classification"), ("textual", "text-classification"))  # fmt: skip
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~$&#!])")

_ANSWERS = {
    "regression": "a number per target",
    "single_label": "a probability per class; they add up to 1",
    "multi_label": "a probability per label, each on its own",
    "preference": "one number per clip, its utility: of two clips the one with the higher number is preferred. Only "
    "differences mean something",
}
_LABELS = {
    "regression": "a number per clip and target",
    "single_label": "one class per clip",
    "multi_label": "per clip and label, whether it is there",
    "preference": "pairs and lists of clips, put in order by preference; single clips have no label",
}
_USES = {"Train": "trained on", "Val": "chose the epoch", "Test": "not looked at"}

_LIMITS = """\
## Limits

Inferring emotion from faces, voices and words is error-prone, and no score above changes that.

- **An expression is not a feeling.** People show the same feeling in different ways, and the same face or voice goes
  with different feelings; the situation, the person and the culture decide which (reviewed by Barrett et al. 2019,
  *Psychological Science in the Public Interest* 20, 1-68). The model answers what the labels of clips like this one
  say, not what anybody feels.
- **Groups of people.** Data sets of emotion over-represent some ages, genders, skin tones, languages and cultures,
  and their labels carry the prejudice of whoever gave them. Expect larger errors for people who are rare in the
  training data, and measure them before anybody depends on an answer: the scores above are means over all clips and
  hide such differences.
- **Other recordings.** Another camera, light, microphone, length or frame rate, more than one person in the picture,
  a covered face, speech in another language: the model was not tried on them.
- **No answer is withheld.** A clip without a face, sound or words gets numbers too, and they look like any others.
  They are estimates without an interval.

### The law

In the European Union, Regulation (EU) 2024/1689 (the AI Act) prohibits AI systems that infer the emotions of people
at the workplace and in educational institutions, except for medical or safety reasons (Article 5(1)(f)). Other
systems that infer emotions from biometric data, such as faces and voices, are high-risk (Annex III, point 1(c)), and
the people exposed to them have to be informed (Article 50(3)). Its recital 44 names the reasons: limited reliability,
lack of specificity, limited generalisability, and the discrimination that may follow. Recordings of people are
personal data besides, and other countries have laws of their own. This is a pointer and no legal advice.
"""

_INTENDED_USE = """\
## Intended use

Research on affective computing: taking part in a challenge, comparing methods, studying what a modality contributes,
on recordings of people who agreed to it.

Not for decisions about people: hiring, work, school, credit, insurance, police, borders, diagnosis or lie detection;
not for watching people who do not know of it or did not agree.
"""


def model_card(config: Mapping[str, Any], tags: Iterable[str] = ()) -> str:
    """The card's text: YAML front matter, then Markdown.

    Parameters
    ----------
    config : the content of a checkpoint's config.json (`PerceiverFusionConfig.to_dict()`). An older one, without
        `evaluation` and `training_data`, gives a card that says so.
    tags : more of them for the hub.
    """
    front = yaml.safe_dump(_front_matter(config, tags), sort_keys=False, allow_unicode=True, width=1 << 20)
    name = _escaped(_task(config)["name"])
    sections = [
        f"---\n{front}---\n",
        f"# A model of viper for {name}\n",
        _what_it_is(config),
        _metrics(config),
        _data(config),
        _modalities(config),
        _how_to_use(config),
        _INTENDED_USE,
        _LIMITS,
        "## Licence\n\nNot recorded. What may be done with the weights also depends on the terms of the data they were "
        "trained on and of the encoders' weights.\n",
    ]
    return "\n".join(sections)


def _front_matter(config: Mapping[str, Any], tags: Iterable[str]) -> dict[str, Any]:
    task = _task(config)
    own = ["viper", "perceiver", "multimodal", "affective-computing", "emotion-recognition", task["kind"]]
    front: dict[str, Any] = {"library_name": "viper", "tags": list(dict.fromkeys([*own, *map(one_line, tags)]))}
    if task["kind"] in ("single_label", "multi_label"):
        fitting = [tag for name, tag in _HUB_PIPELINES if name in config["modalities"]]
        front |= {"pipeline_tag": fitting[0]} if fitting else {}
    evaluation = _evaluation(config)
    values = _defined(evaluation["mean"])
    if values:
        front["metrics"] = [_HUB_METRICS.get(metric, metric) for metric in values]
        result = {
            "task": {"type": front.get("pipeline_tag", task["kind"]), "name": one_line(task["description"])},
            "dataset": {"type": one_line(task["name"]), "name": one_line(task["name"]), "split": evaluation["split"]},
            "metrics": [*_index(values, ""), *_index_of_targets(evaluation)],
        }
        front["model-index"] = [{"name": f"viper-{one_line(task['name'])}", "results": [result]}]
    return front


def _index(values: Mapping[str, float], target: str) -> list[dict[str, Any]]:
    of_target = f", {one_line(target)}" if target else ""
    return [
        {"type": _HUB_METRICS.get(metric, metric), "value": value, "name": f"{METRICS[metric].title}{of_target}"}
        for metric, value in values.items()
    ]


def _index_of_targets(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [entry for name, scores in evaluation["targets"].items() for entry in _index(_defined(scores), name)]


def _defined(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Metric -> value, without those that have none."""
    return {metric: score["value"] for metric, score in scores.items() if score["value"] is not None}


def _evaluation(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config's evaluation in the order of the task, which JSON has not kept, with the metrics that are known here.

    Nothing in it where the config has none.
    """
    task, evaluation = _task(config), config.get("evaluation") or {"mean": {}, "targets": {}}
    order = dict.fromkeys((*task.get("metrics", ()), *METRICS))

    def sort(scores: Mapping[str, Any]) -> dict[str, Any]:
        return {metric: scores[metric] for metric in order if metric in scores}

    targets = {name: sort(evaluation["targets"][name]) for name in task["targets"] if name in evaluation["targets"]}
    return {**evaluation, "mean": sort(evaluation["mean"]), "targets": targets}


def _task(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config's task with what a card needs of it: a config made by hand may lack all but the targets."""
    task = dict(config["task"])
    task["kind"] = task.get("kind") or "regression"
    task["name"] = task.get("name") or "an unnamed task"
    task["description"] = (
        task.get("description") or f"{task['kind'].replace('_', ' ')} of {len(task['targets'])} targets"
    )
    return task


def _what_it_is(config: Mapping[str, Any]) -> str:
    task = _task(config)
    answer = _ANSWERS[task["kind"]]
    if task["kind"] == "regression" and task.get("range"):
        low, high = task["range"]
        may_leave = ", which this fusion may leave" if config["fusion"] in UNBOUNDED else ""
        answer += f", on the labels' scale from {low:g} to {high:g}{may_leave}"
    targets = ", ".join(_escaped(target) for target in task["targets"])
    sizes = f"{config['fusion']} fusion, preset {config['preset']}"
    if config["fusion"] in ("tokens", "channels"):
        sizes += (
            f": {config['n_latents']} latents of {config['d_latents']} channels, {config['n_layers']} blocks of "
            f"self-attention with {config['n_heads']} heads"
        )
    lines = [
        "A small network that reads features of a short video clip, made by the encoders below, and predicts "
        f"{_escaped(task['description'])}.",
        "",
        f"- **Targets** ({len(task['targets'])}): {targets}",
        f"- **Answer**: {answer}.",
        f"- **Network**: {sizes}.",
    ]
    if config["fusion"] == "tokens":
        lines.append("- A clip may lack any of the modalities; the others answer then.")
    if share := config.get("linear_share"):
        lines.append(f"- {share:.0%} of the answer comes from a linear model of pooled features, fitted beforehand.")
    if column := config.get("group_column"):
        lines.append(
            f"- Features are standardised within each {_escaped(column)}: a prediction depends on the other clips of "
            "its group, and a clip on its own has none to compare with."
        )
    return "\n".join([*lines, ""])


def _metrics(config: Mapping[str, Any]) -> str:
    evaluation = _evaluation(config)
    if not evaluation["mean"]:
        return "## Metrics\n\nNot recorded in this checkpoint.\n"
    metrics = list(evaluation["mean"])
    per_target = [m for m in metrics if any(m in scores for scores in evaluation["targets"].values())]
    rows = [
        [f"{METRICS[m].title} ({'higher' if METRICS[m].direction == 'maximise' else 'lower'} is better)",
         _number(evaluation["mean"][m]["value"]), str(evaluation["mean"][m]["n"])]
        for m in metrics
    ]  # fmt: skip
    parts = [
        "## Metrics\n",
        f"On the split {evaluation['split']} ({evaluation['n_clips']:,} labelled clips), after epoch "
        f"{evaluation['epoch']}. The same split served to choose among epochs: expect less on new clips, and still "
        "less on new people, where this split has people who were trained on.\n",
        _table(["over all targets", "value", "n"], rows),
    ]
    if per_target:
        header = ["target", *(part for m in per_target for part in (METRICS[m].title, "n"))]
        rows = [
            [_escaped(name), *(part for m in per_target for part in _cells(scores.get(m)))]
            for name, scores in evaluation["targets"].items()
        ]
        parts.append(_table(header, rows))
    parts.append("n: what a value was computed on, clips or (preferences) pairs or lists.\n")
    return "\n".join(parts)


def _cells(score: Mapping[str, Any] | None) -> tuple[str, str]:
    return ("", "") if score is None else (_number(score["value"]), str(score["n"]))


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _data(config: Mapping[str, Any]) -> str:
    task, data = _task(config), config.get("training_data")
    parts = [
        "## Data\n",
        f"Task card {_escaped(task['name'])}: {_escaped(task['description'])}.\n",
        f"Labels: {_LABELS[task['kind']]}. Who gave them, and how (the people in the clips, those who watched, actors "
        "told what to play), is not recorded here. It decides what the numbers mean: ask the authors of the data.\n",
    ]
    if not data:
        return "\n".join([*parts, "How many clips there were is not recorded in this checkpoint.\n"])
    units = [key for key in ("clips", "labelled", "groups", "orders") if any(key in n for n in data["splits"].values())]
    titles = {"clips": "clips", "labelled": "with labels", "groups": _escaped(data.get("group_column") or "groups"),
              "orders": "pairs and lists"}  # fmt: skip
    rows = [
        [f"{split} ({_USES[split]})", *(f"{n[key]:,}" if key in n else "" for key in units)]
        for split, n in ((split, data["splits"][split]) for split in _USES if split in data["splits"])
    ]
    return "\n".join([*parts, _table(["split of the manifest", *(titles[key] for key in units)], rows)])


def _modalities(config: Mapping[str, Any]) -> str:
    rows = []
    for name in config["modality_order"]:
        spec = config["modalities"][name]
        info = spec.get("encoder") or {}
        model = info.get("model") or ""
        # Of a folder, its name: where it lay says something about a machine, and nothing about the weights.
        shown = PurePath(model).name if PurePath(model).is_absolute() else model
        options = "; ".join(f"{key} {_option(value)}" for key, value in sorted((info.get("options") or {}).items()))
        source = info.get("source") or "-"
        cells = (name, info.get("encoder") or "not recorded", shown or "-", options or "-", source, str(spec["width"]))
        rows.append([_escaped(cell) for cell in cells])
    header = ["modality", "encoder", "weights", "options", "made from", "channels"]
    return f"## Modalities\n\n{_table(header, rows)}"


def _option(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_OPTION else f"{text[:MAX_OPTION]} ..."


def _how_to_use(config: Mapping[str, Any]) -> str:
    widths = {name: config["modalities"][name]["width"] for name in config["modality_order"]}
    each = [("--features", f"{name}=features/{name}") for name in widths]
    if set(widths) <= {"visual", "audio", "textual", "FAU"}:
        each = [(f"--{name}_features_input_folder", f"features/{name}") for name in widths]
    options = shell_line(argument for pair in each for argument in pair)
    return f"""\
## How to use it

With viper installed, in this folder (`hf download` makes one of a model on the hub). New videos, straight to numbers:

```sh
viper predict video.mp4 --model_path .
```

A challenge's clips, whose features were made by viper's extract commands with the encoders above:

```sh
viper submission_creation --csv_path manifest.csv --model_path . {options}
```

In Python, with features of your own:

```python
import torch
from viper import PerceiverFusion

model = PerceiverFusion.from_pretrained(".").eval()
widths = {widths!r}
n_clips, n_tokens = 1, 5
tokens = {{name: torch.randn(n_clips, n_tokens, width) for name, width in widths.items()}}  # yours go here
mask = {{name: torch.ones(n_clips, n_tokens, dtype=torch.bool) for name in widths}}  # False: nothing there
time = {{name: torch.arange(n_tokens).expand(n_clips, -1).float() for name in widths}}  # seconds of the clip
with torch.inference_mode():
    answers = model(tokens, mask, time).logits  # (clips, targets)
print(dict(zip(model.config.task["targets"], answers[0].tolist())))
```
"""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is: one line, no markup, no HTML, no formula, no cell's end."""
    return _MARKDOWN.sub(r"\\\1", one_line(text))
