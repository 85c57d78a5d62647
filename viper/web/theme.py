"""The page's looks: Gradio's plain theme in the colours of the report, with fonts of the system."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.themes.utils.colors import Color
from gradio.themes.utils.fonts import Font

_BLUE = Color("#eef5fc", "#d3e7f8", "#aed2f3", "#88bbea", "#61a1dd", "#3c83c7", "#1a5795", "#124784", "#112f60",
              "#0d2549", "#0a1c38")  # fmt: skip
_GREY = Color("#f9fafb", "#f6f7f9", "#e7ebf1", "#d5dae2", "#a4abb6", "#6b717c", "#4f555f", "#303640", "#232830",
              "#1b1f26", "#14171c")  # fmt: skip


def theme() -> gr.themes.Base:
    """Colours are such that text has a contrast of 4.5 or more, in light and in dark."""
    fonts = [Font(name) for name in ("system-ui", "Segoe UI", "Roboto", "Liberation Sans", "sans-serif")]
    mono = [Font(name) for name in ("ui-monospace", "Liberation Mono", "monospace")]
    return gr.themes.Base(primary_hue=_BLUE, secondary_hue=_BLUE, neutral_hue=_GREY, font=fonts, font_mono=mono).set(
        body_background_fill="#ffffff",
        body_text_color="#1c1c1e",
        body_text_color_dark="#e8eaed",
        body_text_color_subdued="#5c6069",
        body_text_color_subdued_dark="#a4abb6",
        block_label_text_color="#4f555f",
        block_label_text_color_dark="#d5dae2",
        block_title_text_color="#1c1c1e",
        block_title_text_color_dark="#e8eaed",
        block_info_text_color="#5c6069",
        block_info_text_color_dark="#a4abb6",
        block_radius="10px",
        button_primary_background_fill="#1a5795",
        button_primary_background_fill_hover="#124784",
        button_primary_background_fill_dark="#8cbdf0",
        button_primary_background_fill_hover_dark="#aed2f3",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#14171c",
    )


def frame_css() -> str:
    """Of what is around Gradio's parts, where `css` does not reach."""
    return "@media (max-width: 40rem) { .gradio-container .main.fillable { padding-inline: .25rem !important; } }"


def css() -> str:
    """Of the page's own parts."""
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")
