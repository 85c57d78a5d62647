"""demo_page: a page in the browser on which a checkpoint can be tried."""

from __future__ import annotations

import contextlib
import importlib.util
from dataclasses import dataclass

from viper.commands.common import log
from viper.commands.predictor_options import PredictorOptions
from viper.errors import UserError


@dataclass(kw_only=True)
class DemoPageOptions(PredictorOptions):
    """Serve a page on this machine: drop or record a clip, see what a checkpoint makes of it, switch modalities off."""

    host: str = "127.0.0.1"
    """Which address to serve on. Any other than this lets other machines in."""
    port: int = 7860
    """Which port; 0: any that is free."""
    max_upload_mb: float = 100.0
    """Larger files are not taken; in units of 2^20 bytes."""
    max_seconds: float = 60.0
    """Longer clips are not taken."""


def run(config: DemoPageOptions) -> int:
    """Serves until Ctrl-C; answers the exit code."""
    for name in ("max_upload_mb", "max_seconds"):
        if not getattr(config, name) > 0:
            raise UserError(f"--{name} {getattr(config, name):g}: must be more than 0")
    if importlib.util.find_spec("gradio") is None:
        raise UserError("demo_page needs Gradio: pip install 'viper[page]'")
    # Not above: importing torch and Gradio takes seconds, and --help should not.
    from viper.web.server import bind, is_local, make_app, serve, upload_folder

    with bind(config.host, config.port) as opened, upload_folder() as folder:
        if not is_local(config.host):
            log.warning("--host %s: other machines can reach the page, which asks for no password", config.host)
        from viper.files import read_json
        from viper.fusion.checkpoint import resolve_checkpoint

        predictor = config.predictor()
        record = read_json(resolve_checkpoint(config.model_path) / "config.json")
        from viper.web.app import Page
        from viper.web.session import Uploads

        uploads = Uploads(folder, config.max_upload_mb, config.max_seconds)
        app = make_app(Page(predictor, record, uploads).build(), uploads.max_bytes, config.host)
        host, port = opened.getsockname()[:2]
        log.info("demo_page: http://%s:%d (Ctrl-C ends it)", f"[{host}]" if ":" in host else host, port)
        with contextlib.suppress(KeyboardInterrupt):
            serve(app, opened)
        log.info("demo_page: ended; what was uploaded is deleted")
    return 0
