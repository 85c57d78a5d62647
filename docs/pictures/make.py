"""The pictures of README.md, made out of a finished demo:  python docs/pictures/make.py DEMO_FOLDER

pipeline.png shows one clip's way through the demo's own files; report.png and report_clips.png are what headless
Chromium shows of the page that `viper report` writes.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from viper import FeatureStore, Manifest
from viper.evaluation.drawing import COLOUR_MAP, FAINT_INK, INK, hide_frame, new_figure, save_png
from viper.evaluation.submission import read_submission
from viper.media.pictures import FrameClip, read_image
from viper.store import MODALITIES
from viper.task import load_task

HERE = Path(__file__).parent
N_PICTURES = 3
N_CHANNELS = 48  # of a feature, that are drawn
STEPS = {
    "frames": "get_frame",
    "one person's face": "crop_images",
    "features": "extract_..._features",
    "intensities": "train_perceiver, submission_creation",
}


def pipeline_picture(demo: Path, clip: str) -> Figure:
    """One clip of the test split, from its frames to its submitted row."""
    figure = new_figure(12.5, 4.4)
    panels = figure.subfigures(1, len(STEPS), width_ratios=[0.95, 0.72, 1.6, 1.6])
    for panel, (title, command) in zip(panels, STEPS.items(), strict=True):
        panel.suptitle(title, fontsize=12, fontweight="bold", color=INK)
        panel.supxlabel(command, fontsize=9, color=FAINT_INK, family="monospace")
    _pictures(panels[0], FrameClip(clip, demo / "frames" / clip))
    _pictures(panels[1], FrameClip(clip, demo / "faces" / clip))
    _features(panels[2], demo / "features_weight_free", clip)
    _bars(panels[3].subplots(), demo, clip)
    return figure


def _pictures(panel: Any, clip: FrameClip) -> None:
    paths, frames = clip.paths(), clip.record["frames"]
    chosen = np.linspace(0, len(paths) - 1, N_PICTURES).round().astype(int)
    for axes, number in zip(panel.subplots(N_PICTURES, 1), chosen, strict=True):
        axes.imshow(read_image(paths[number]))
        axes.set_axis_off()
        axes.annotate(
            f"{frames[number]['time']:.1f} s", (0, 1), (3, -3), xycoords="axes fraction", textcoords="offset points",
            va="top", fontsize=8, color="white", bbox={"facecolor": "black", "alpha": 0.6, "pad": 1.5, "lw": 0},
        )  # fmt: skip


def _features(panel: Any, folder: Path, clip: str) -> None:
    for axes, name in zip(panel.subplots(len(MODALITIES), 1), MODALITIES, strict=True):
        store = FeatureStore.open(folder / name)
        tokens = store.read(clip).tokens
        lively = np.sort(np.argsort(-tokens.std(axis=0), kind="stable")[:N_CHANNELS])
        values, spread = tokens[:, lively], np.ptp(tokens[:, lively], axis=0)
        axes.imshow((values - values.min(axis=0)) / np.where(spread > 0, spread, 1), aspect="auto", cmap=COLOUR_MAP)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_ylabel(name, fontsize=9, color=INK, rotation=0, ha="right", va="center")
        n, width = tokens.shape
        axes.set_title(f"{store.info.encoder}: {n} tokens, {width} channels", fontsize=8, color=FAINT_INK)


def _bars(axes: Any, demo: Path, clip: str) -> None:
    task = load_task("hume_reaction")
    predicted = read_submission(demo / "submission.csv", task).loc[clip, list(task.targets)].astype(float)
    true = Manifest.load(demo / "test_labels.csv", task).table.loc[clip, list(task.targets)].astype(float)
    rows = np.arange(len(task.targets))
    axes.barh(rows, predicted, color=COLOUR_MAP(0.7), height=0.6, label="submitted")
    axes.scatter(true, rows, marker="|", s=260, linewidths=2.2, color=INK, label="label kept by the demo", zorder=3)
    axes.set_yticks(rows, task.targets, fontsize=9, color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.tick_params(axis="x", labelsize=8, color=FAINT_INK, labelcolor=INK)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8, frameon=False)
    hide_frame(axes, "top", "right", "left")


def report_pictures(page: Path) -> None:
    """What a window shows of a report when it is opened, and when one goes on to its worst clips."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": 1180, "height": 1160})
        window.goto(page.resolve().as_uri())
        for name, place in (("report.png", "body"), ("report_clips.png", "#worst")):
            window.locator(place).evaluate("place => place.scrollIntoView({behavior: 'instant'})")
            window.wait_for_timeout(500)
            window.screenshot(path=str(HERE / name))
        browser.close()


def main() -> None:
    """Writes both pictures beside this file."""
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/pictures/make.py DEMO_FOLDER")
    demo = Path(sys.argv[1])
    clip = sorted(path.name for path in (demo / "frames").iterdir() if path.is_dir())[-1]
    save_png(pipeline_picture(demo, clip), HERE / "pipeline.png")
    report_pictures(demo / "report" / "report.html")


if __name__ == "__main__":
    main()
