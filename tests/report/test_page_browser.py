"""The report's page and the prediction's in a real browser: what one sees there, on every screen and on paper."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from browser import DESKTOP, PHONE, Browser, Visit
from many import IS_LONG
from PIL import Image
from report_contents import HOSTILE, bare, make_content, picture

from viper.report.content import Thumbnail
from viper.report.page import write_report
from viper.report.prediction import PredictionPage, VideoPrediction, write_prediction

PageOf = Callable[[str], Path]
FEW = ("Fear", "Awe (or Wonder)", "Empathic-Pain")
CONTENTS = {
    "regression": lambda: make_content("regression", FEW, n=700, n_cases=1),
    "one target": lambda: make_content("regression", ("Sentiment",), n=60, n_cases=1),
    "single_label": lambda: make_content("single_label", FEW, n=60, n_cases=1),
    "multi_label": lambda: make_content("multi_label", FEW, n=60, n_cases=1),
    "preference": lambda: make_content("preference", ("valence",), n=60, n_cases=1),
    "hostile": lambda: make_content("regression", (HOSTILE, "W" * 90), n=60, n_cases=1, name=HOSTILE),
    "bare": lambda: bare(make_content("regression", FEW, n=60, n_cases=0)),
}
if IS_LONG:
    many_names = tuple(f"Aesthetic Appreciation {i}" for i in range(27))
    CONTENTS["27 targets"] = lambda: make_content("regression", many_names, n=5000, n_cases=10)
    CONTENTS["27 classes"] = lambda: make_content("single_label", many_names, n=5000, n_cases=10)
    CONTENTS["27 labels"] = lambda: make_content("multi_label", many_names, n=5000, n_cases=10)


@pytest.fixture(scope="module")
def page_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The page of one of `CONTENTS`, made once."""

    @functools.cache
    def make(name: str) -> Path:
        (path,) = write_report(CONTENTS[name](), tmp_path_factory.mktemp("report"))
        return path

    return make


def brightness(visit: Visit, selector: str = "") -> float:
    target = visit.page.locator(selector).first if selector else visit.page
    with Image.open(io.BytesIO(target.screenshot())) as shot:
        return float(np.asarray(shot.convert("L")).mean())


@pytest.mark.parametrize("name", CONTENTS if IS_LONG else ["regression"])
def test_a_report_of_every_kind_is_sound_on_every_screen(name: str, page_of: PageOf, browser: Browser) -> None:
    visit = browser.open(page_of(name), dark=name != "regression")
    assert visit.without_alternative() == []
    if name == "regression":  # all sections, folded parts too, in light; axe-core takes seconds a page
        visit.page.evaluate("() => document.querySelectorAll('details').forEach(each => { each.open = true; })")
        assert visit.axe() == []
        visit.page.emulate_media(color_scheme="dark")
    assert visit.overflow() == 0
    visit.page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    assert visit.overflow() == 0
    assert visit.axe() == []
    assert (visit.errors, visit.blocked) == ([], [])


def test_names_are_text_and_never_markup(page_of: PageOf, browser: Browser) -> None:
    visit = browser.open(page_of("hostile"))
    assert visit.page.locator("script").count() == 2
    assert visit.page.locator("#targets tbody th").first.inner_text() == HOSTILE
    assert visit.page.locator(".case h3").first.inner_text() == HOSTILE
    assert HOSTILE in visit.page.locator("#worst svg, #confusion svg").first.get_attribute("aria-label")
    assert f"{HOSTILE[:23]}…" in visit.page.locator(".scroll svg text").all_text_contents()
    assert HOSTILE in visit.page.title()
    assert HOSTILE in visit.page.locator("pre.command").first.inner_text()


def test_figures_and_page_turn_dark_by_the_button_and_stay_so(page_of: PageOf, browser: Browser) -> None:
    path = page_of("regression")
    visit = browser.open(path)
    button = visit.page.get_by_role("button", name="Dark page")
    figures = ("#training svg.figure", "#confusion svg.figure", "#scatter svg.figure")
    assert all(brightness(visit, each) > 190 for each in figures)
    button.click()
    assert brightness(visit) < 70
    assert all(brightness(visit, each) < 90 for each in figures)
    visit.page.goto(path.as_uri())
    assert brightness(visit) < 70
    visit.page.get_by_role("button", name="Light page").click()
    visit.page.emulate_media(color_scheme="dark")
    assert brightness(visit) > 190  # the choice counts for more than the system's


def test_the_system_decides_where_nothing_was_chosen_and_paper_is_always_light(
    page_of: PageOf, browser: Browser
) -> None:
    visit = browser.open(page_of("regression"), dark=True)
    assert brightness(visit) < 70
    visit.page.emulate_media(media="print", color_scheme="dark")
    assert brightness(visit) > 190
    assert not visit.page.get_by_role("button").or_(visit.page.get_by_role("navigation")).first.is_visible()
    # All of the wide matrix is on the paper, and what is folded on the screen too.
    visit.page.set_viewport_size({"width": 700, "height": 900})
    assert visit.page.evaluate(
        "() => [...document.querySelectorAll('.scroll')].every(e => e.scrollWidth <= e.clientWidth)"
    )
    visit.page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert visit.page.locator("details:not([open])").count() == 0
    visit.page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert visit.page.locator("details[open]").count() == 0


def test_without_scripts_everything_is_there_but_the_buttons(page_of: PageOf, browser: Browser) -> None:
    path = page_of("one target")
    visit = browser.open(path, PHONE, dark=True, java_script_enabled=False)
    assert brightness(visit) < 70
    assert not visit.page.get_by_role("button").first.is_visible()
    visit.page.locator("summary").first.click()
    assert visit.page.locator("details[open]").count() == 1
    assert visit.page.get_by_text("viper get_frame").is_visible()


def test_a_command_is_copied(page_of: PageOf, browser: Browser) -> None:
    visit = browser.open(page_of("one target"), permissions=["clipboard-read", "clipboard-write"])
    visit.page.get_by_role("button", name="Copy").first.click()
    visit.page.get_by_role("button", name="Copied").wait_for(timeout=5000)
    copied = "viper get_frame --input_folder 'runs/all' --output_folder frames"
    assert visit.page.evaluate("() => navigator.clipboard.readText()") == copied


def test_the_contents_lead_to_every_section(page_of: PageOf, browser: Browser) -> None:
    visit = browser.open(page_of("regression"))
    links = visit.page.locator("nav a").evaluate_all("all => all.map(each => each.getAttribute('href').slice(1))")
    assert links == visit.page.locator("main section").evaluate_all("all => all.map(each => each.id)")
    assert len(links) == 12


@pytest.mark.parametrize(("size", "dark"), [(PHONE, True), *([(DESKTOP, False)] if IS_LONG else [])])
def test_the_page_of_predictions(size: tuple[int, int], dark: bool, tmp_path: Path, browser: Browser) -> None:
    rng = np.random.default_rng(0)
    times = [0.5, 1.5, 2.5, 3.5]
    long = VideoPrediction(
        HOSTILE, 4.0, {"Fear": 0.4, "Joy": math.nan}, "mean of 4 pieces", ["visual"], {"audio": "it has no sound"},
        [Thumbnail(time, picture(rng)) for time in times], times,
        {"Fear": [0.1, math.nan, 0.9, 0.3], "Joy": [math.nan] * 4},
    )  # fmt: skip
    broken = VideoPrediction("broken.mp4", 0.0, {}, "the whole video", [], {}, error="it is no video")
    path = tmp_path / "page.html"
    write_prediction(
        PredictionPage("2 videos", {"Model": "best"}, ["Fear", "Joy"], (0, 1), [long, broken], "viper"), path
    )
    visit = browser.open(path, size, dark)
    assert visit.page.locator("h2").first.inner_text() == HOSTILE
    (timeline,) = visit.page.locator(".timeline svg").evaluate_all(
        "all => all.map(each => each.getAttribute('aria-label'))"
    )
    assert timeline == "Fear over time, from 0.10 to 0.90, highest around 2.5 s."
    assert visit.page.locator(".timeline polyline").count() == 2  # a gap between them
    assert visit.page.get_by_text("it has no sound").is_visible()
    assert visit.page.get_by_text("it is no video").is_visible()
    assert (visit.without_alternative(), visit.overflow(), visit.axe()) == ([], 0, [])
    assert (visit.errors, visit.blocked) == ([], [])


def test_the_helper_lets_nothing_out_and_sees_what_is_wrong(tmp_path: Path, browser: Browser) -> None:
    path = tmp_path / "page.html"
    path.write_text(
        "<script>nothing()</script><img src='http://192.0.2.1/a.png'>"
        "<p style='width:2000px;color:#bbb;background:#fff'>pale words</p>"
    )
    visit = browser.open(path, PHONE)
    assert visit.blocked == ["http://192.0.2.1/a.png"]
    assert any("nothing is not defined" in error for error in visit.errors)
    assert len(visit.without_alternative()) == 1
    assert visit.overflow() > 1000
    assert {"image-alt", "color-contrast"} <= {found.partition(":")[0] for found in visit.axe()}
