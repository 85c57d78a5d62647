"""What stands on the report's page: figures as SVG, numbers as text, lengths of bars, sections."""

from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import jinja2
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from report_contents import HOSTILE, bare, make_content

from viper.evaluation.bootstrap import Interval
from viper.evaluation.confusion import normalise_rows
from viper.evaluation.drawing import COLOUR_MAP, INK, Curve, Matrix, matrix_figure
from viper.report import figures, words
from viper.report.cards import attention_density, cards
from viper.report.charts import Scale, bars, curve
from viper.report.content import Comparison, ModalityAttention
from viper.report.html import figure_svg, level, picture_uri, render
from viper.report.page import report_page, verdict, write_report
from viper.report.words import run_names

UNIT = Interval(0.5, 0.4, 0.6, 10, 10)


def matrix(name: str = "Fear") -> Matrix:
    counts = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    return Matrix(counts, normalise_rows(counts), [name, "b", "c"], name, "r = 1")


def texts(svg: str) -> list[str]:
    return ["".join(each.itertext()) for each in ElementTree.fromstring(svg).iter() if each.tag.endswith("text")]


def test_a_figure_takes_the_pages_colours_and_keeps_its_text() -> None:
    svg = figure_svg(matrix_figure(matrix()), "what it shows")
    assert {"Fear", "75%", "predicted"} <= set(texts(svg))
    assert {f"var(--m{level(share)})" for share in (0, 0.25, 0.75, 1)} <= set(re.findall(r"var\(--m\d+\)", svg))
    assert re.findall(r"(?::|fill=.) *#[0-9a-f]{6}", svg) == []
    assert {"var(--ink)", "var(--faint)", "var(--paper)", "var(--hatch)"} <= set(re.findall(r"var\(--[a-z]+\)", svg))
    assert "DejaVu" not in svg
    assert "<style" not in svg  # it would hold for the whole page


def test_the_same_figure_is_the_same_text_and_ids_of_others_are_different() -> None:
    first, again, other = (figure_svg(matrix_figure(matrix()), each) for each in ("one", "one", "two"))
    assert first == again
    own = set(re.findall(r' id="([^"]*)"', first))
    assert own
    assert not own & set(re.findall(r' id="([^"]*)"', other))
    used = set(re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', first))
    assert {one or two for one, two in used} <= own


def test_names_in_a_figure_are_text() -> None:
    name = f"{HOSTILE} d=\"1.23456\" #1c1c1e font: 9px 'x'"
    figure = Figure()
    figure.text(0, 0, name, parse_math=False)
    svg = figure_svg(figure, name)
    assert name in texts(svg)
    assert ElementTree.fromstring(svg).get("aria-label") == name


def test_a_picture_is_a_small_jpeg() -> None:
    uri = picture_uri(np.full((200, 100, 3), (250, 10, 10), np.uint8), 50)
    with Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (25, 50))
        assert np.abs(np.asarray(picture).mean(axis=(0, 1)) - (250, 10, 10)).max() < 5
    assert len(picture_uri(np.zeros((4, 4, 3), np.uint8), 50)) < 1000  # and is not enlarged


def test_what_a_template_lacks_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        render("prediction.html")


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (words.number(0.8424), "0.842"), (words.number(-1.5), "−1.500"), (words.number(0.00012), "0.00012"),
        (words.number(math.nan), "–"), (words.number(0.0), "0.000"), (words.fixed(0.004), "0.00"),
        (words.signed(0.2), "+0.200"), (words.signed(-0.2), "−0.200"),
        (words.bounds(UNIT), "0.400 to 0.600"), (words.bounds(replace(UNIT, low=math.nan)), ""),
        (words.percent(0.456), "46%"), (words.percent(0.001), "<1%"), (words.percent(0.0), "0%"),
        (words.seconds(3.24), "3.2 s"), (words.seconds(75), "1:15"), (words.seconds(3725), "1:02:05"),
        (words.option(None), "–"), (words.option([1, "a"]), "1, a"), (words.option({"side": 64}), "side 64"),
        (words.option(False), "no"), (words.heading("binary accuracy"), "Binary accuracy"),
        (words.heading("mAP"), "mAP"),
    ],
)  # fmt: skip
def test_numbers_as_text(said: str, text: str) -> None:
    assert said == text


def test_runs_go_by_the_end_of_their_path_where_that_tells_them_apart() -> None:
    names = run_names(["/data/runs/all", "/data/runs/audio", "/old/runs/audio", "one"])
    assert list(names.values()) == ["runs/all", "/data/runs/audio", "/old/runs/audio", "one"]


def test_bars_begin_at_zero_and_share_a_scale() -> None:
    whisker = Interval(-0.5, -0.75, -0.25, 9, 9)
    low, high, none = bars(
        [("a", "", whisker, False), ("b", "", UNIT, True), ("c", "", Interval(*[math.nan] * 3, 0, 0), False)], 1.0
    )
    scale = Scale(-0.75, 1.0)
    assert low.zero == high.zero == scale.at(0.0)
    assert low.fill == pytest.approx((100 / 7, 200 / 7), abs=0.02)
    assert high.fill == pytest.approx((300 / 7, 200 / 7), abs=0.02)
    assert low.whisker == pytest.approx((0, 200 / 7), abs=0.02)
    assert (none.fill[1], none.whisker) == (0.0, None)
    assert Scale.over([]).span(0.0) == (0.0, 0.0)


def test_a_curve_has_gaps_holds_to_the_ends_and_shows_a_window_on_its_own() -> None:
    drawn = curve(10, [1, 3, 5, 7, 9], [0.5, math.nan, 1.0, math.nan, 0.0], Scale(0, 1), HOSTILE, [0.0] * 5)
    lines = re.findall(r'<polyline class="now" points="([^"]*)"', drawn)
    assert lines == ["0.00,15.00 10.00,15.00", "50.00,1.00 50.00,1.00", "90.00,29.00 100.00,29.00"]
    assert drawn.count('class="area"') == 3
    assert drawn.count('class="before"') == 1
    assert "<script" not in drawn


@pytest.mark.parametrize("n", [1, 2, 7, 500])
def test_attention_is_drawn_by_the_second(n: int) -> None:
    rng = np.random.default_rng(n)
    times = rng.permutation(np.arange(n) + 0.5)
    even = ModalityAttention(times, np.full((3, n), 0.6 / n))
    edges, density = attention_density(even, float(n))
    assert (edges[0], edges[-1]) == (0.0, n)
    assert density == pytest.approx(0.6 / n)
    assert len(density) == min(n, 64)
    assert np.all(np.diff(edges) > 0)
    weights = rng.random((2, n))
    edges, density = attention_density(ModalityAttention(times, weights), float(n))
    assert density @ np.diff(edges) == pytest.approx(weights.mean(axis=0).sum())


def test_tokens_of_one_second_are_added_up_and_one_without_a_time_is_at_the_start() -> None:
    edges, density = attention_density(
        ModalityAttention(np.array([2.0, 2.0, math.nan]), np.array([[0.1, 0.2, 0.3]])), 4.0
    )
    assert edges == pytest.approx([0, 1, 3])
    assert density == pytest.approx([0.15, 0.15])


def test_a_card_shows_the_strongest_targets_and_folds_the_others() -> None:
    content = make_content("regression", tuple(f"target {i}" for i in range(27)), n=20, n_cases=1)
    (card,) = cards(content, content.worst)
    assert (len(card.pairs), len(card.more)) == (8, 19)
    strength = {pair.name: max(pair.true, pair.predicted) for pair in card.pairs + card.more}
    assert min(strength[pair.name] for pair in card.pairs) >= max(strength[pair.name] for pair in card.more)
    (case,) = content.worst
    largest = {
        modality: max(values, key=lambda name: abs(values[name] - case.predicted[name]))
        for modality, values in case.hidden.items()
    }
    assert {change.modality: change.target for change in card.changes} == largest


@pytest.mark.parametrize(
    ("value", "low", "high", "direction", "words"),
    [
        (0.1, 0.05, 0.2, "maximise", "better than this run"), (0.1, 0.05, 0.2, "minimise", "worse than this run"),
        (-0.1, -0.2, -0.05, "minimise", "better than this run"), (0.1, -0.01, 0.2, "maximise", "no clear difference"),
        (0.1, math.nan, math.nan, "maximise", "not known"),
    ],
)  # fmt: skip
def test_a_difference_is_clear_when_its_interval_leaves_no_doubt(
    value: float, low: float, high: float, direction: str, words: str
) -> None:
    assert verdict(Comparison("b", UNIT, Interval(value, low, high, 9, 9), {}), direction).words == words


def test_sections_without_content_are_left_out() -> None:
    full = make_content("regression", ("Fear", "Joy"), n=30, n_cases=1)
    sections = re.compile(r'<section id="(\w+)"')
    assert sections.findall(report_page(bare(full))) == ["summary", "scatter", "provenance"]
    assert sections.findall(report_page(full)) == [
        "summary", "targets", "training", "confusion", "scatter", "modalities", "calibration", "worst", "best",
        "groups", "comparisons", "provenance",
    ]  # fmt: skip


def test_the_page_says_the_numbers_of_the_content(tmp_path: Path) -> None:
    content = make_content("single_label", ("joy", "fear", "awe"), n=40, n_cases=1)
    (path,) = write_report(content, tmp_path / "new")
    assert path == tmp_path / "new" / "report.html"
    page = path.read_text(encoding="utf-8")
    assert page == report_page(content)
    headline = content.headline
    assert f">{headline.value:.3f}</div>" in page
    assert f"95% interval {headline.low:.3f} to {headline.high:.3f}" in page
    assert "1,000 resamples of 10 subjects (column Subject)" in page
    assert all(f"{row.metrics['uar'].value:.3f}" in page for row in content.targets)
    assert content.notes[0] in page
    assert "http" not in re.sub(r'"data:[^"]*"', "", page).replace("http-equiv", "")


def test_many_clips_are_counted_in_hexagons_and_curves_lose_no_corner() -> None:
    few, many = (figures.scatter_panels(make_content("regression", ("Fear",), n=n))[0].svg for n in (400, 401))
    shades = [len(set(re.findall(r"var\(--m\d+\)", svg))) for svg in (few, many)]
    assert shades[0] == 1 < 4 < shades[1]
    recall = np.linspace(1, 0, 5001)
    curve = Curve(np.where(recall > 0.5, 0.2, 0.9), recall, 0.1, "", "")
    thinned = figures._thinned(curve)
    assert len(thinned.recall) < 500
    assert (thinned.recall[0], thinned.recall[-1]) == (1, 0)
    assert np.abs(np.interp(0.25, thinned.recall[::-1], thinned.precision[::-1]) - 0.9) < 1e-9


def test_colours_that_are_not_the_pages_stay() -> None:
    figure = Figure(figsize=(1, 1))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for colour in ("#12ab34", INK, COLOUR_MAP(1.0)):
        axes.plot([0, 1], [0, 1], color=colour)
    assert re.findall(r"stroke: ([^;]*)", figure_svg(figure, "lines")) == ["#12ab34", "var(--ink)", "var(--m32)"]
