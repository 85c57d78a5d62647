"""One self-contained HTML page out of a template: styles, script, figures and pictures are all inside it."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from PIL import Image

from viper.evaluation.drawing import COLOUR_MAP, EMPTY_FACE, EMPTY_HATCH, FAINT_INK, INK
from viper.report.words import FILTERS

TEMPLATES = Path(__file__).with_name("templates")

# The colour map of dark pages: equal steps of lightness from 13 to 72. Black and white text on it change places where
# they do on the light one, at 62 % of the way, so that a number in a cell is readable in both.
_DARK_MAP = LinearSegmentedColormap.from_list(
    "viper_dark",
    ["#1e2227", "#233342", "#234460", "#22577d", "#21699a", "#2e7cb3", "#488fc7", "#69a2d5", "#8bb5df"],
)
_JPEG_QUALITY = 82


def render(template: str, **values: Any) -> str:
    """Render a page: `templates/TEMPLATE` with these values. All text is escaped unless it is Markup.

    What is not given is an error (jinja2.UndefinedError), not an empty place.
    """
    return _environment().get_template(template).render(values)


def picture_uri(image: np.ndarray, height: int) -> str:
    """Return a picture as the data URI of a JPEG.

    Parameters
    ----------
    image : (H, W, 3) uint8, RGB.
    height : of the JPEG, in pixels; a smaller picture is not enlarged.
    """
    picture = Image.fromarray(image)
    if picture.height > height:
        width = max(1, round(picture.width * height / picture.height))
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(FILTERS)
    environment.tests["finite"] = math.isfinite
    scripts = {name: (TEMPLATES / name).read_text(encoding="utf-8").strip() for name in ("theme.js", "script.js")}
    environment.globals.update(
        style=Markup(_style()),
        theme_script=Markup(scripts["theme.js"]),
        page_script=Markup(scripts["script.js"]),
        policy=_policy(list(scripts.values())),
        level=level,
    )
    return environment


def _style() -> str:
    """Return style.css with the steps of the two colour maps in it."""
    text = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    for mark, colour_map in (("/* light map */", COLOUR_MAP), ("/* dark map */", _DARK_MAP)):
        shares = np.linspace(0, 1, N_LEVELS)
        text = text.replace(mark, " ".join(f"--m{k}: {to_hex(colour_map(share))};" for k, share in enumerate(shares)))
    return text


def _policy(scripts: list[str]) -> str:
    """Return the page's content security policy: no connection at all, and no script but the page's own."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"


N_LEVELS = 33  # steps of the colour map on the page; neighbours can hardly be told apart

# What drawings are made with -> what it is called on the page.
_NAMED_COLOURS = {
    INK: "ink",
    FAINT_INK: "faint",
    EMPTY_FACE: "empty",
    EMPTY_HATCH: "hatch",
    "#ffffff": "paper",
    "#000000": "on-light",
}
# Names of groups, which nothing refers to.
_GROUP_ID = re.compile(r' id="(?:[a-z0-9]+|matplotlib\.axis|[A-Za-z]+Collection|QuadMesh)_\d+"')
_NAMESPACES = re.compile(r' xmlns(?::xlink)?="[^"]*"| version="1\.1"')


def figure_svg(figure: Figure, description: str, natural_size: bool = False) -> Markup:
    """Return a figure as inline SVG in the page's colours (dark or light) and fonts; equal figures give equal text.

    Parameters
    ----------
    figure : drawn with the colours of `viper.evaluation.drawing`: they become the page's. Others stay what they are.
    description : what it shows, for those who do not see it. Figures of one page have different ones: ids are made of
        it and of the drawing.
    natural_size : keeps the figure's size, for a box that scrolls; otherwise it shrinks with its place.
    """
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "viper"}), warnings.catch_warnings():
        # Text stays text, and the browser has fonts for it; matplotlib's own, with which it measures, need not.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(buffer, format="svg", facecolor="none", edgecolor="none", metadata={"Date": None})
    drawing = buffer.getvalue()
    body = drawing[drawing.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    prefix = "f" + hashlib.blake2b((description + body).encode(), digest_size=5).hexdigest()
    body = re.sub(r"<[^>]+>", functools.partial(_page_tag, prefix), body)
    body = re.sub(r"\s*\n\s*", "\n", body).replace("<defs>\n</defs>\n", "")
    width, height = figure.get_size_inches() * 72
    pixels = round(width * 4 / 3)
    size = f"width:{pixels}px" if natural_size else f"max-width:{pixels}px"
    head = (
        f'<svg class="figure" role="img" aria-label="{escape(description)}" viewBox="0 0 {width:g} {height:g}" '
        f'style="{size}">'
    )
    return Markup(head + body.partition(">")[2].strip())


def level(share: float) -> int:
    """Return the step of the page's colour map, whose colour is var(--m<step>), of a number in [0, 1]."""
    return round(min(max(share, 0.0), 1.0) * (N_LEVELS - 1))


def _page_tag(prefix: str, match: re.Match[str]) -> str:
    """Return a matplotlib tag with its own ids, the page's colours and fonts, and two decimals at most."""
    tag = match[0]
    data = ""
    if tag.startswith("<image"):  # what is in it is not to be searched
        data = re.search(r'"data:[^"]*"', tag)[0]  # type: ignore[index]
        tag = tag.replace(data, '"data:"')
    tag = _NAMESPACES.sub("", _GROUP_ID.sub("", tag))
    tag = re.sub(r'(?:xlink:)?href="#', f'href="#{prefix}', tag).replace("xlink:href", "href")
    tag = tag.replace(' id="', f' id="{prefix}').replace("url(#", f"url(#{prefix}")
    tag = re.sub(r'(?:(?<=: )|(?<=fill="))#[0-9a-f]{6}\b', _page_colour, tag)
    tag = re.sub(r"(?<![\w#.])-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag)
    tag = re.sub(r"font: (?:(bold|\d+) )?([\d.]+px) [^;\"]*", _page_font, tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    return tag.replace('"data:"', data) if data else tag


def _page_colour(match: re.Match[str]) -> str:
    colour = match[0]
    if colour in _NAMED_COLOURS:
        return f"var(--{_NAMED_COLOURS[colour]})"
    return _mapped_colours().get(colour, colour)


def _page_font(match: re.Match[str]) -> str:
    weight = f"font-weight: {match[1]}; " if match[1] else ""
    return f"{weight}font-size: {match[2]}"


@functools.cache
def _mapped_colours() -> dict[str, str]:
    """Return every colour of the colour map -> the page's name of its step."""
    return {to_hex(COLOUR_MAP(share)): f"var(--m{level(share)})" for share in np.linspace(0, 1, COLOUR_MAP.N)}
