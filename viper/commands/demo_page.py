"""demo_page: a page in the browser on which a checkpoint can be tried."""

from __future__ import annotations

import contextlib
import importlib.util
from dataclasses import dataclass

from viper.commands.predict import PredictorOptions
from viper.errors import UserError
from viper.logs import log


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


def run(options: DemoPageOptions) -> int:
    """Serve until Ctrl-C and return the exit code."""
    for name in ("max_upload_mb", "max_seconds"):
        if not getattr(options, name) > 0:
            raise UserError(f"--{name} {getattr(options, name):g}: must be more than 0")
    if importlib.util.find_spec("gradio") is None:
        raise UserError("demo_page needs Gradio: pip install 'viper[page]'")
    # Not above: importing torch and Gradio takes seconds, and --help should not.
    from viper.web.server import bind, is_local, make_app, serve, upload_folder

    with bind(options.host, options.port) as opened, upload_folder() as folder:
        if not is_local(options.host):
            log.warning("--host %s: other machines can reach the page, which asks for no password", options.host)
        from viper.files import read_json
        from viper.fusion.checkpoint import resolve_checkpoint

        predictor = options.predictor()
        record = read_json(resolve_checkpoint(options.model_path) / "config.json")
        from viper.web.app import Page
        from viper.web.session import Uploads

        uploads = Uploads(folder, options.max_upload_mb, options.max_seconds)
        app = make_app(Page(predictor, record, uploads).build(), uploads.max_bytes, options.host)
        host, port = opened.getsockname()[:2]
        log.info("demo_page: http://%s:%d (Ctrl-C ends it)", f"[{host}]" if ":" in host else host, port)
        with contextlib.suppress(KeyboardInterrupt):
            serve(app, opened)
        log.info("demo_page: ended; what was uploaded is deleted")
    return 0
