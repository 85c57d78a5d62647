"""The page: its looks, its layout, and what its parts do."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes.utils.colors import Color
from gradio.themes.utils.fonts import Font
from markupsafe import Markup

from viper.errors import ClipError, UserError, WorkerError, one_line
from viper.inference.predictor import ClipPredictor
from viper.logs import log
from viper.media.subtitles import SUBTITLE_SUFFIXES
from viper.web import charts, texts
from viper.web.reading import GoneError, LateError, Readers, Sent, ToBeMade
from viper.web.session import Answers, Session, answer
from viper.web.uploads import Uploads
from viper.web.visitors import Visitors

# Seconds after which a clip that nobody looked at again is forgotten, and how many visitors' clips are kept at once.
FORGET_AFTER = 1800
MAX_SESSIONS = 24
MAX_WAITING = 16  # clips in the queue
MAX_SWITCHING = 4  # visitors whose modalities are switched at once

# Gradio's plain theme in the colours of the report, with fonts of the system.
_BLUE = Color("#eef5fc", "#d3e7f8", "#aed2f3", "#88bbea", "#61a1dd", "#3c83c7", "#1a5795", "#124784", "#112f60",
              "#0d2549", "#0a1c38")  # fmt: skip
_GREY = Color("#f9fafb", "#f6f7f9", "#e7ebf1", "#d5dae2", "#a4abb6", "#6b717c", "#4f555f", "#303640", "#232830",
              "#1b1f26", "#14171c")  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """What the handlers fill."""

    session: gr.State
    clip: gr.Video
    words: gr.File | None
    message: gr.HTML
    modalities: gr.CheckboxGroup
    bars: gr.HTML
    faces: gr.HTML
    timeline: gr.HTML


class Page:
    """A checkpoint's page.

    Parameters
    ----------
    predictor : what predicts from readings; its encoders are not used.
    record : the checkpoint's config.json.
    uploads : the files that browsers sent.
    readers : what reads clips.

    Attributes
    ----------
    visitors : whose opened page is whose.
    """

    def __init__(self, predictor: ClipPredictor, record: dict[str, Any], uploads: Uploads, readers: Readers) -> None:
        self.uploads, self.visitors = uploads, Visitors()
        self._predictor, self._record, self._readers = predictor, record, readers
        self._available = [name for name in predictor.modalities if name not in predictor.unavailable]
        self._of_words = {name for name, spec in record["modalities"].items() if _source(spec) == "subtitles"}
        self._numbers = itertools.count()

    def build(self) -> gr.Blocks:
        """Return the page, ready to be served."""
        with gr.Blocks(title="viper: try a checkpoint", analytics_enabled=False) as blocks:
            blocks.state_session_capacity = MAX_SESSIONS
            _html(texts.header(self._predictor, self._record))
            with gr.Row(equal_height=False):
                with gr.Column(scale=5, min_width=280):
                    clip, words, sample, forget = self._inputs()
                with gr.Column(scale=7, min_width=280):
                    message = _html(texts.WELCOME, "message")
                    modalities = self._switches()
                    bars = _html("", "bars")
            faces, timeline = _html("", "faces"), _html("", "timeline")
            _html(texts.limits())
            session = gr.State(None, time_to_live=FORGET_AFTER)
            self._connect(Parts(session, clip, words, message, modalities, bars, faces, timeline), sample, forget)
        return blocks.queue(max_size=MAX_WAITING, api_open=False)

    def _inputs(self) -> tuple[gr.Video, gr.File | None, gr.Button, gr.Button]:
        limits = f"Up to {self.uploads.max_seconds:g} seconds and {self.uploads.max_mb:g} MB"
        clip = gr.Video(
            label="A clip of a face: drop it here, or record one", sources=["upload", "webcam"], include_audio=True,
            height=260, buttons=[], elem_id="clip",
        )  # fmt: skip
        _html(texts.hint(f"{limits}. It is read at once and then deleted; nothing leaves this machine."))
        with gr.Row():
            sample = gr.Button("Try a made-up clip", variant="primary", elem_id="sample", min_width=120)
            forget = gr.Button("Forget the clip", elem_id="forget", min_width=120)
        # Gradio's own would open the file.
        clip.preprocess = _path_of
        words = None
        if self._of_words:
            words = gr.File(
                label="Subtitles (optional; upload before the video)", file_types=[*SUBTITLE_SUFFIXES],
                height=150, elem_id="subtitles",
            )  # fmt: skip
            # Gradio's own makes an empty temporary file beside each that is sent, which nobody deletes.
            words.preprocess = _path_of  # type: ignore[method-assign, assignment]
        return clip, words, sample, forget

    def _switches(self) -> gr.CheckboxGroup:
        modalities = gr.CheckboxGroup(
            self._available, value=self._available, label="What the model may use", elem_id="modalities",
            info="Switch one off to see the answer change. The clip is not read again.",
        )  # fmt: skip
        if self._predictor.unavailable:
            _html(texts.unavailable(self._predictor.unavailable), "unavailable")
        return modalities

    def _connect(self, parts: Parts, sample: gr.Button, forget: gr.Button) -> None:
        shown = [parts.message, parts.bars, parts.faces, parts.timeline]
        inputs = [parts.clip, *([parts.words] if parts.words is not None else [])]
        outputs = [parts.session, *inputs, parts.modalities, *shown]
        private: dict[str, Any] = {"api_visibility": "private", "show_progress_on": [parts.bars]}
        reads = {"concurrency_id": "reads", "concurrency_limit": self._readers.n_workers, **private}
        gr.on([parts.clip.upload, parts.clip.stop_recording], self._of_upload, inputs, outputs, **reads)
        sample.click(self._of_sample, None, outputs, **reads)
        forget.click(self._forget, None, outputs, concurrency_limit=MAX_SWITCHING, **private)
        # Not behind the clips: an answer takes milliseconds, and must not wait for somebody's clip to be read.
        parts.modalities.input(
            self._switch, [parts.session, parts.modalities], shown, show_progress="hidden", trigger_mode="always_last",
            concurrency_limit=MAX_SWITCHING, api_visibility="private",
        )  # fmt: skip

    def _of_upload(self, request: gr.Request, clip: str | None, words: str | None = None) -> Iterator[list[Any]]:
        """Read what the browser sent."""
        if clip is None:
            return
        visitor = self.visitors.owner(request.session_hash) or ""
        yield from self._read(request, visitor, self._sent(visitor, clip, words))

    def _of_sample(self, request: gr.Request) -> Iterator[list[Any]]:
        """Make a clip and read it."""
        yield from self._read(request, self.visitors.owner(request.session_hash) or "", self._to_be_made())

    @contextlib.contextmanager
    def _sent(self, visitor: str, clip: str, words: str | None) -> Iterator[Sent]:
        with self.uploads.taken(visitor, clip, words) as (path, subtitles):
            yield Sent(path, subtitles, self.uploads.max_seconds)

    @contextlib.contextmanager
    def _to_be_made(self) -> Iterator[ToBeMade]:
        with self.uploads.private_folder() as folder:
            yield ToBeMade(folder, next(self._numbers))

    def _read(
        self, request: gr.Request, visitor: str, take: AbstractContextManager[Sent | ToBeMade]
    ) -> Iterator[list[Any]]:
        cleared = [None] * (2 if self._of_words else 1)
        session: Session | None = None
        try:
            with take as asked:
                for session in self._readers.read(visitor, request.session_hash or "", asked):
                    if not session.windows:
                        yield [session, *cleared, gr.update(value=self._available), *self._show(session)]
                    else:
                        yield [session, *[gr.skip()] * (len(cleared) + 4), self._timeline(session)]
        except GoneError:
            return  # to nobody, or to one who wants something else by now
        except LateError as error:
            if session is None:
                yield self._failed(texts.error(one_line(str(error))))
            else:
                timeline = self._timeline(session) + texts.error(one_line(f"Not read to its end: {error}"))
                yield [session, *[gr.skip()] * (len(cleared) + 4), timeline]
        except (ClipError, UserError) as error:
            yield self._failed(texts.error(one_line(str(error))))
        except WorkerError:  # whatever a library raises of a file; the process that read it has logged it
            yield self._failed(texts.error(texts.UNEXPECTED))
        except Exception:
            log.exception("demo_page: a clip could not be read")
            yield self._failed(texts.error(texts.UNEXPECTED))

    def _failed(self, message: str) -> list[Any]:
        """Return what is shown of a clip that cannot be read."""
        return [None, *[None] * (2 if self._of_words else 1), gr.update(), *_only(message)]

    def _forget(self, request: gr.Request) -> list[Any]:
        """Drop what is known of the clip."""
        self._readers.give_up(page=request.session_hash)
        cleared = [None] * (2 if self._of_words else 1)
        return [None, *cleared, gr.update(value=self._available), *_only(texts.WELCOME)]

    def _switch(self, session: Session | None, chosen: Sequence[str]) -> list[Any]:
        """Show another subset of modalities for the clip that was read."""
        if session is None:
            return [gr.skip()] * 4
        session.hidden.clear()
        session.hidden.update(name for name in self._available if name not in chosen)
        return self._show(session)

    def _show(self, session: Session) -> list[Any]:
        """Return the contents of message, bars, faces and timeline."""
        absent = dict(session.reading.absent)
        if not session.has_words:
            absent |= dict.fromkeys(absent.keys() & self._of_words, "no subtitles were given")
        now, full = self._answers(session)
        chart = charts.bars(self._predictor.task, now.clip, None if full is None else full.clip, session.shown)
        if not session.reading.features.keys() - session.hidden:
            chart = texts.NOTHING_LEFT + chart
        return [
            texts.of_clip(session, charts.sources(self._predictor.modalities, absent, session.hidden)),
            texts.section(texts.TITLES[self._predictor.task.kind], chart),
            texts.section("The face track", charts.track(session.reading.faces)),
            self._timeline(session),
        ]

    def _timeline(self, session: Session) -> Markup:
        now, full = self._answers(session)
        if session.step is not None and len(session.windows) < 2:
            return texts.section("Over time", texts.TIMELINE_FOLLOWS)
        return texts.section(
            "Over time",
            charts.timeline(
                self._predictor.task, session.seconds, session.middles, now.timeline,
                None if full is None else full.timeline,
            ),
        )  # fmt: skip

    def _answers(self, session: Session) -> tuple[Answers, Answers | None]:
        """Return the answers with what may be used now, and with everything where that is more."""
        now = answer(self._predictor, session, session.hidden)
        is_all = session.hidden.isdisjoint(session.reading.features)
        return now, None if is_all else answer(self._predictor, session, ())


def _html(content: str, name: str | None = None) -> gr.HTML:
    """Return a part of the page with its own markup; no script."""
    return gr.HTML(content, elem_id=name, elem_classes="v-html", js_on_load=None, apply_default_css=False)


def _path_of(sent: Any) -> str | None:
    return None if sent is None else str(sent.path)


def _only(message: str) -> list[str]:
    """Return the contents of message, bars, faces and timeline when there is only a message."""
    return [message, "", "", ""]


def _source(spec: dict[str, Any]) -> str:
    return str((spec.get("encoder") or {}).get("source", ""))


def theme() -> gr.themes.Base:
    """Return the theme; its text has a contrast of 4.5 or more, in light and in dark."""
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
    """Return the style around Gradio's parts, where `css` does not reach."""
    return "@media (max-width: 40rem) { .gradio-container .main.fillable { padding-inline: .25rem !important; } }"


def css() -> str:
    """Return the style of the page's own parts."""
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")
