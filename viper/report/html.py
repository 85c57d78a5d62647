"""One self-contained HTML page out of a template: styles, script, figures and pictures all stand inside it."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.colors import LinearSegmentedColormap, to_hex
from PIL import Image

from viper.evaluation.drawing import COLOUR_MAP
from viper.report.numbers import FILTERS
from viper.report.svg import N_LEVELS, figure_svg, level

__all__ = ["figure_svg", "picture_uri", "render"]

TEMPLATES = Path(__file__).with_name("templates")

# The colour map of dark pages: equal steps of lightness from 13 to 72. Black and white text on it change places where
# they do on the light one, at 62 % of the way, so that a number in a cell is readable in both.
_DARK_MAP = LinearSegmentedColormap.from_list(
    "viper_dark",
    ["#1e2227", "#233342", "#234460", "#22577d", "#21699a", "#2e7cb3", "#488fc7", "#69a2d5", "#8bb5df"],
)
_JPEG_QUALITY = 82


def render(template: str, **values: Any) -> str:
    """A page: `templates/TEMPLATE` with these values. All text is escaped unless it is Markup.

    What is not given is an error (jinja2.UndefinedError), not an empty place.
    """
    return _environment().get_template(template).render(values)


def picture_uri(image: np.ndarray, height: int) -> str:
    """A picture as the data URI of a JPEG.

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
    """style.css with the steps of the two colour maps in it."""
    text = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    for mark, colour_map in (("/* light map */", COLOUR_MAP), ("/* dark map */", _DARK_MAP)):
        shares = np.linspace(0, 1, N_LEVELS)
        text = text.replace(mark, " ".join(f"--m{k}: {to_hex(colour_map(share))};" for k, share in enumerate(shares)))
    return text


def _policy(scripts: list[str]) -> str:
    """What a browser lets the page do: no connection at all, and no script but the page's own."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"
