"""A real browser for tests of pages: headless Chromium, driven by Playwright. Skips, with the reason, without them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync")  # fmt: skip
DESKTOP, PHONE = (1280, 900), (390, 844)
LOCAL = ("file:", "data:", "blob:", "about:")

# All that shows a picture and does not say what is on it, and is not marked as an ornament either.
_WITHOUT_ALTERNATIVE = """() => [...document.querySelectorAll("img, svg, canvas, video")].filter(each =>
  !each.closest("[aria-hidden=true]") && !(each.getAttribute("alt") || each.getAttribute("aria-label") || "").trim()
).map(each => each.outerHTML.slice(0, 200))"""
# What sticks out of the page, but not what scrolls in a box of its own.
_WIDTH = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
_AXE = """() => axe.run(document, {resultTypes: ["violations"]}).then(found => found.violations.flatMap(rule =>
  rule.nodes.map(node => `${rule.id}: ${node.target.join(" ")} (${node.failureSummary})`)))"""


@dataclass
class Visit:
    """An opened page, and what went wrong on it since.

    Attributes
    ----------
    page : Playwright's.
    errors : messages of its console that are errors or warnings, and uncaught exceptions.
    blocked : addresses outside the machine it asked for; none of them was let through.
    """

    page: Any
    errors: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)

    def without_alternative(self) -> list[str]:
        """Pictures that say nothing to who does not see them."""
        return list(self.page.evaluate(_WITHOUT_ALTERNATIVE))

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return int(self.page.evaluate(_WIDTH))

    def axe(self) -> list[str]:
        """What axe-core finds wrong, contrast among it."""
        source = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate(Path(source.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
        return list(self.page.evaluate(_AXE))


class Browser:
    """Opens pages, each in a context (storage, size, colours) of its own."""

    def __init__(self, chromium: Any) -> None:
        self._chromium = chromium
        self._contexts: list[Any] = []

    def open(
        self, address: str | Path, size: tuple[int, int] = DESKTOP, dark: bool = False, allowed: tuple[str, ...] = (),
        **options: Any,
    ) -> Visit:  # fmt: skip
        """Opens a file, or an address that begins with one of `allowed`. `options`: of Playwright's new_context."""
        context = self._chromium.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light", **options
        )
        self._contexts.append(context)
        visit = Visit(context.new_page())

        def decide(route: Any) -> None:
            if route.request.url.startswith((*LOCAL, *allowed)):
                route.continue_()
            else:
                visit.blocked.append(route.request.url)
                route.abort()

        context.route("**/*", decide)
        visit.page.on("console", lambda said: said.type in ("error", "warning") and visit.errors.append(said.text))
        visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
        visit.page.goto(address.resolve().as_uri() if isinstance(address, Path) else address)
        return visit

    def close(self) -> None:
        """Closes all that was opened."""
        while self._contexts:
            self._contexts.pop().close()


# Of a module and not of the session: while Playwright runs, nothing else in this process can run an event loop.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Headless Chromium, as Playwright has it."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield chromium
        chromium.close()


@pytest.fixture
def browser(chromium: Any) -> Iterator[Browser]:
    """The browser, without any page that another test has opened."""
    browser = Browser(chromium)
    yield browser
    browser.close()
