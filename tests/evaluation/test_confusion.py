from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from matplotlib.image import imread
from skimage.color import rgb2lab

from viper.errors import UserError
from viper.evaluation import drawing
from viper.evaluation.confusion import (
    argmax_matrix,
    bin_edges,
    bin_index,
    binned_matrix,
    normalise_rows,
)
from viper.evaluation.measures import pearson
from viper.evaluation.split_report import build_report
from viper.task import Task, load_task

UNIT = (0.0, 1.0)
SMALL = Task(name="small", kind="regression", targets=("Fear", "Awe (or Wonder)", "argmax"), range=UNIT)


def sample(task: Task, n: int, seed: int = 0) -> tuple[list[str], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.beta(0.7, 1.5, (n, len(task.targets))).astype(np.float32)
    predicted = (0.2 + 0.5 * true + 0.1 * rng.standard_normal(true.shape)).astype(np.float32)
    return [f"clip_{row}" for row in range(n)], predicted, true


def read_png(path: Path) -> np.ndarray:
    image = imread(path)[..., :3]
    assert image.dtype == np.float32
    return np.asarray(image)


def assert_good_pictures(folder: Path) -> None:
    pictures = sorted(folder.glob("*.png"))
    assert [path.stem for path in pictures] == [
        "confusion_Awe_or_Wonder", "confusion_Fear", "confusion_argmax", "confusion_argmax_2", "confusion_overview",
    ]  # fmt: skip
    for path in pictures:
        image = read_png(path)
        assert min(image.shape[:2]) >= 500
        assert max(image.shape[:2]) <= 4000
        colours = np.unique((image * 255).astype(int) @ (65536, 256, 1))
        assert len(colours) > 50
        assert 0.2 < (image.min(axis=2) > 0.99).mean() < 0.9


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_edge_belongs_to_the_bin_above_it_and_the_top_to_the_last(dtype: type) -> None:
    edges: np.ndarray = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], dtype)
    assert bin_index(edges, UNIT).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    assert bin_index(edges - dtype(1e-5), UNIT).tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert bin_index(edges + dtype(1e-5), UNIT).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]


@pytest.mark.parametrize("limits", [(-1.0, 1.0), (1.0, 7.0), (0.0, 100.0), (-0.3, 0.7)])
def test_edges_of_other_ranges_too(limits: tuple[float, float]) -> None:
    edges = bin_edges(limits).astype(np.float32)
    assert bin_index(edges, limits).tolist() == [*range(10), 9]


def test_arithmetic_that_falls_just_short_of_an_edge() -> None:
    assert bin_index(np.array([0.1 + 0.2, 1 - 0.7, 0.1 * 3]), UNIT).tolist() == [3, 3, 3]
    assert bin_index(np.array([0.49, 0.51]), UNIT, n_bins=2).tolist() == [0, 1]


def test_values_outside_are_clipped_and_nan_is_refused() -> None:
    assert bin_index(np.array([-5.0, 1.2, np.inf, -np.inf]), UNIT).tolist() == [0, 9, 9, 0]
    with pytest.raises(ValueError, match="NaN"):
        bin_index(np.array([0.1, np.nan]), UNIT)


def test_binned_matrix_by_hand_has_all_ten_bins() -> None:
    true = np.array([0.05, 0.05, 0.35, 1.0, np.nan])
    predicted = np.array([0.05, 0.31, 0.3, 0.0, 0.5])
    counts = binned_matrix(predicted, true, UNIT)
    expected = np.zeros((10, 10), int)
    expected[0, 0] = expected[0, 3] = expected[3, 3] = expected[9, 0] = 1
    assert counts.dtype.kind == "i"
    assert (counts == expected).all()


def test_rows_add_up_to_one_and_a_row_without_clips_is_nan() -> None:
    counts = np.array([[1, 3], [0, 0]])
    with np.errstate(all="raise"):
        shares = normalise_rows(counts)
    assert shares[0].tolist() == [0.25, 0.75]
    assert np.isnan(shares[1]).all()
    with np.errstate(all="raise"):
        assert np.isnan(normalise_rows(np.zeros((10, 10), int))).all()


def test_argmax_matrix_by_hand() -> None:
    true = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.1], [0.0, 0.4, 0.4], [0.5, np.nan, 0.1]])
    predicted = np.array([[0.5, 0.4, 0.1], [0.6, 0.3, 0.2], [0.1, 0.2, 0.9], [1.0, 0.0, 0.0]])
    # first clip right; second 1 taken for 0; third: 1 and 2 tie, the first counts, predicted 2; fourth lacks a label
    assert argmax_matrix(predicted, true).tolist() == [[1, 0, 0], [1, 0, 1], [0, 0, 0]]


def test_accuracy_and_uar_agree_with_scikit_learn() -> None:
    task = load_task("hume_reaction")
    clips, predicted, true = sample(task, 200)
    true[:, 3] = 0.0  # a class that is never the true one
    report = build_report(task, clips, predicted, true)
    classes = true.argmax(axis=1), predicted.argmax(axis=1)
    assert report.accuracy.value == pytest.approx(sklearn.metrics.accuracy_score(*classes))
    recall = sklearn.metrics.recall_score(*classes, average="macro", labels=np.unique(classes[0]))
    assert report.uar.value == pytest.approx(recall)
    assert report.accuracy.n == report.uar.n == 200
    assert (report.argmax_counts == sklearn.metrics.confusion_matrix(*classes, labels=range(7))).all()


def test_the_report_counts_each_target_over_its_own_labels() -> None:
    clips, predicted, true = sample(SMALL, 60)
    true[:7, 0] = np.nan
    true[8] = 0.5
    report = build_report(SMALL, clips, predicted, true)
    assert report.counts["Fear"].sum() == 53
    assert report.counts["argmax"].sum() == 60
    assert report.scores.targets["pearson"]["Fear"] == pearson(predicted[:, 0], true[:, 0])
    assert report.argmax_counts.sum() == 53
    assert report.n_tied == 1


def test_the_written_report_has_its_numbers_and_pictures(tmp_path: Path) -> None:
    clips, predicted, true = sample(SMALL, 80)
    true[:, 0] = np.where(true[:, 0] > 0.7, 0.69, true[:, 0])  # Fear has no clips above 0.7
    report = build_report(SMALL, clips, predicted, true)
    written = report.write(tmp_path / "report")
    assert sorted(written) == sorted((tmp_path / "report").iterdir())  # nothing temporary is left either
    names = {"Fear": "Fear", "Awe (or Wonder)": "Awe_or_Wonder", "argmax": "argmax_2"}
    numbers = json.loads((tmp_path / "report" / "confusion.json").read_text(encoding="utf-8"))
    assert numbers["n_clips"] == 80
    assert numbers["bin_edges"] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    for target, name in names.items():
        counts = pd.read_csv(tmp_path / "report" / f"confusion_{name}.csv", index_col=0)
        shares = pd.read_csv(tmp_path / "report" / f"confusion_{name}_normalised.csv", index_col=0)
        assert list(counts.columns) == list(counts.index) == list(shares.index) == list(shares.columns)
        assert [counts.index[0], counts.index[-1]] == ["[0.0, 0.1)", "[0.9, 1.0]"]
        assert (counts.to_numpy() == report.counts[target]).all()
        np.testing.assert_array_equal(shares.to_numpy(float), report.normalised[target])
        assert numbers["targets"][target]["counts"] == report.counts[target].tolist()
        assert numbers["targets"][target]["pearson"] == {
            "value": report.scores.targets["pearson"][target].value, "n": 80,
        }  # fmt: skip
    assert numbers["targets"]["Fear"]["normalised"][7:] == [[None] * 10] * 3
    strongest = pd.read_csv(tmp_path / "report" / "confusion_argmax.csv", index_col=0)
    assert list(strongest.columns) == list(strongest.index) == list(SMALL.targets)
    assert strongest.to_numpy().tolist() == report.argmax_counts.tolist() == numbers["argmax"]["counts"]
    assert numbers["argmax"]["uar"] == {"value": report.uar.value, "n": 80}
    assert_good_pictures(tmp_path / "report")


def test_the_picture_changes_where_the_numbers_do(tmp_path: Path) -> None:
    ticks = [f"{edge:.1f}" for edge in bin_edges(UNIT)]
    images = []
    for row in (2, 7):
        counts = np.eye(10, dtype=int)
        counts[row] = 0
        drawing.save_png(
            drawing.matrix_figure(drawing.Matrix(counts, normalise_rows(counts), ticks, "Fear", "")),
            tmp_path / f"{row}.png",
        )
        images.append(read_png(tmp_path / f"{row}.png"))
    rows = np.flatnonzero((images[0] != images[1]).any(axis=(1, 2))) / len(images[0])
    assert 0.2 < rows.min() < 0.4
    assert 0.6 < rows.max() < 0.85


def test_every_bin_empty_but_one_and_a_constant_prediction_still_make_a_report(tmp_path: Path) -> None:
    task = Task(name="v", kind="regression", targets=("$valence$",), range=(-1.0, 1.0))
    report = build_report(task, ["a", "b", "c"], np.full((3, 1), 0.5), np.full((3, 1), 0.1))
    assert np.isnan(report.normalised["$valence$"]).all(axis=1).sum() == 9
    report.write(tmp_path)
    numbers = json.loads((tmp_path / "confusion.json").read_text())
    assert numbers["targets"]["$valence$"]["pearson"] == {"value": None, "n": 3}
    assert numbers["bin_edges"][::5] == [-1.0, 0.0, 1.0]
    # One target alone is no choice: its arg-max would be right for every clip.
    assert numbers["argmax"] is None
    assert {path.name for path in tmp_path.iterdir()} == {
        "confusion.json", "confusion_overview.png", "confusion_valence.png",
        "confusion_valence.csv", "confusion_valence_normalised.csv",
    }  # fmt: skip


def test_names_that_differ_only_in_case_or_punctuation_get_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viper.evaluation.confusion.save_png", lambda figure, path: path.touch())
    task = Task(name="names", kind="regression", targets=("joy!", "Joy", "overview"), range=UNIT)
    report = build_report(task, *sample(task, 10))
    names = [path.name for path in report.write(tmp_path)]
    assert len({name.lower() for name in names}) == len(names) == 3 * 4 + 2
    assert "confusion_overview_2.csv" in names


def test_what_no_report_can_be_made_of() -> None:
    clips, predicted, true = sample(SMALL, 5)
    broken = predicted.copy()
    broken[3, 1] = np.nan
    with pytest.raises(UserError, match=r"'clip_3': the prediction of Awe \(or Wonder\) is nan"):
        build_report(SMALL, clips, broken, true)
    with pytest.raises(UserError, match="none of the 5 clips has a label"):
        build_report(SMALL, clips, predicted, np.full_like(true, np.nan))
    with pytest.raises(UserError, match="need a range"):
        build_report(Task(name="free", kind="regression", targets=SMALL.targets), clips, predicted, true)
    with pytest.raises(ValueError, match="4 clips for 5 rows"):
        build_report(SMALL, clips[:4], predicted, true)


def test_the_colour_map_is_perceptually_uniform_and_keeps_its_order_in_grey() -> None:
    colours = rgb2lab(drawing.COLOUR_MAP(np.linspace(0, 1, 17))[None, :, :3])[0]
    steps = np.linalg.norm(np.diff(colours, axis=0), axis=1)
    assert steps.max() / steps.min() < 1.15
    assert (np.diff(colours[:, 0]) < -3).all()


def test_text_is_readable_on_every_colour() -> None:
    for share in np.linspace(0, 1, 41):
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
                            for c in drawing.COLOUR_MAP(share)[:3])  # fmt: skip
        luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        ink = 1.0 if drawing.text_colour(drawing.COLOUR_MAP(share)) == "white" else 0.0
        assert (max(luminance, ink) + 0.05) / (min(luminance, ink) + 0.05) >= 4.5
    assert drawing.text_colour((1, 1, 1)) == "black"
    assert drawing.text_colour((0, 0, 0)) == "white"


def test_drawing_needs_neither_pyplot_nor_torch() -> None:
    code = (
        "import sys, viper.evaluation.split_report; print('matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]
