"""demo_page: a page in the browser on which a checkpoint can be tried."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from viper.commands.predict import PredictorOptions
from viper.errors import UserError
from viper.logs import log

if TYPE_CHECKING:
    import socket

    from viper.web.uploads import Uploads


@dataclass(kw_only=True)
class DemoPageOptions(PredictorOptions):
    """Serve a page on this machine: drop or record a clip, see what a checkpoint makes of it, switch modalities off."""

    host: str = "127.0.0.1"
    """Address to serve on. Other addresses expose the page to the network."""
    port: int = 7860
    """Port; 0: any free one."""
    max_upload_mb: float = 100.0
    """Largest upload in MiB."""
    max_seconds: float = 60.0
    """Longest clip in seconds."""
    max_read_seconds: float = 60.0
    """Seconds that reading a clip may take; after that its process is ended."""
    max_wait_seconds: float = 600.0
    """Seconds after which an uploaded file that was not read is deleted."""
    n_workers: int = 2
    """Clips that are read at once, each in a process with its own copy of the models."""


def run(options: DemoPageOptions) -> int:
    """Serve until Ctrl-C, SIGTERM or SIGHUP and return the exit code."""
    for name in ("max_upload_mb", "max_seconds", "max_read_seconds", "max_wait_seconds"):
        if not 0 < getattr(options, name) < math.inf:
            raise UserError(f"--{name} {getattr(options, name):g}: must be more than 0, and not infinite")
    if options.n_workers < 1:
        raise UserError(f"--n_workers {options.n_workers}: must be at least 1")
    if importlib.util.find_spec("gradio") is None:
        raise UserError("demo_page needs Gradio: pip install 'viper[page]'")
    # The end of a terminal is an end like the others, unless nohup has it ignored.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    # Not above: importing torch and Gradio takes seconds, and --help should not.
    from viper.web.server import bind
    from viper.web.uploads import Uploads, upload_folder

    with bind(options.host, options.port) as opened, upload_folder() as folder:
        uploads = Uploads(folder, options.max_upload_mb, options.max_seconds, options.max_wait_seconds)
        _serve(options, opened, uploads)
    log.info("demo_page: ended; what was uploaded is deleted")
    return 0


def _serve(options: DemoPageOptions, opened: socket.socket, uploads: Uploads) -> None:
    from viper.files import read_json
    from viper.fusion.checkpoint import resolve_checkpoint
    from viper.web.guard import is_local

    if not is_local(options.host):
        log.warning("--host %s: other machines can reach the page, which asks for no password", options.host)
    # Its encoders are loaded once more by each process that reads: here it is only learnt whether they can be.
    predictor = options.predictor().without_encoders()
    record = read_json(resolve_checkpoint(options.model_path) / "config.json")
    from viper.web.app import Page
    from viper.web.reading import ClipReads, Readers
    from viper.web.server import make_app, serve

    reads = ClipReads(options.model_path, options.models_by_name(), options.device, options.offline, options.n_workers)
    with uploads.swept(), Readers(reads, options.max_read_seconds) as readers:
        app = make_app(Page(predictor, record, uploads, readers), options.host, lambda page: readers.give_up(page=page))
        opened.listen()  # who comes between this line and the first answer waits
        host, port = opened.getsockname()[:2]
        log.info("demo_page: http://%s:%d (Ctrl-C ends it)", f"[{host}]" if ":" in host else host, port)
        with contextlib.suppress(KeyboardInterrupt):
            serve(app, opened)
