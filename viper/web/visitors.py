"""Which visitor opened which page, and how much of the server's time and memory a visitor may use at once."""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from viper.web.uploads import RefusedError

# Opened pages that are remembered: in all, and of a visitor. A page that is forgotten loses its clip.
MAX_PAGES, PAGES_OF_VISITOR = 10_000, 6
# Calls that are under way from an address, fewer than the queue takes; and of a visitor, until their page is told.
CALLS_OF_ADDRESS, CALLS_OF_VISITOR = 12, 8
UNHEARD = 30.0  # seconds after which what nobody listens to is dropped


@dataclass
class _Page:
    visitor: str
    address: str
    n_joining: int = 0
    n_listening: int = 0
    heard: float = field(default_factory=time.monotonic)


class Visitors:
    """Opened pages. A visitor is a browser, by its cookie; what is known of a page is told to no other.

    Attributes
    ----------
    queue : Gradio's, which keeps what each page was not told yet, however much that is.
    on_dropped : called with a page's name when nobody will hear what it has asked for.
    on_forgotten : called with a page's name when nothing of it need be kept.
    """

    def __init__(self) -> None:
        self.queue: Any = None
        self.on_dropped: Callable[[str], None] = lambda page: None
        self.on_forgotten: Callable[[str], None] = lambda page: None
        self._pages: OrderedDict[str, _Page] = OrderedDict()

    async def owns(self, visitor: str, page: str, address: str = "") -> bool:
        """Return whether a page is this visitor's; one that nobody has yet is from now on."""
        known = self._pages.get(page)
        if known is not None:
            self._pages.move_to_end(page)
            return known.visitor == visitor
        self._pages[page] = _Page(visitor, address)
        of_visitor = [name for name, each in self._pages.items() if each.visitor == visitor]
        unheard = [name for name, each in self._pages.items() if not each.n_listening]
        too_many = {*of_visitor[:-PAGES_OF_VISITOR], *unheard[:-MAX_PAGES]}
        for name, each in [(name, self._pages.pop(name)) for name in too_many]:
            await self._drop(name, each)
            self.on_forgotten(name)
        return True

    def has(self, visitor: str, page: str) -> bool:
        """Return whether a page is known to be this visitor's, and has asked for something."""
        return self.owner(page) == visitor and page in self.queue.pending_messages_per_session

    def owner(self, page: str | None) -> str | None:
        """Return whose a page is."""
        known = self._pages.get(page or "")
        return None if known is None else known.visitor

    @contextlib.asynccontextmanager
    async def calling(self, page: str) -> AsyncIterator[None]:
        """Count a call of a known page while it is put into the queue, which has it from then on.

        Raises
        ------
        RefusedError : its visitor, or others at their address, have too many under way.
        """
        for name in list(self.queue.pending_event_ids_session):
            each = self._pages.get(name)
            if each is None or (not each.n_listening and each.heard < time.monotonic() - UNHEARD):
                await self._drop(name, each)
        mine = self._pages.get(page)
        if mine is None:
            raise RefusedError(503, "this page was forgotten: too many are open")
        untold = waiting = 0
        for name, each in self._pages.items():
            if each.visitor == mine.visitor:
                untold += each.n_joining + len(self.queue.pending_event_ids_session.get(name, ()))
        for call in list(self.queue.event_ids_to_events.values()):
            asker = self._pages.get(call.session_hash)
            waiting += asker is not None and asker.address == mine.address
        if untold >= CALLS_OF_VISITOR or waiting >= CALLS_OF_ADDRESS:
            raise RefusedError(503, "too much is under way for you; try again in a minute")
        mine.n_joining += 1
        mine.heard = time.monotonic()
        try:
            yield
        finally:
            mine.n_joining -= 1

    @contextlib.contextmanager
    def listening(self, page: str) -> Iterator[None]:
        """Count who listens to what a page is told."""
        known = self._pages.get(page)
        if known is None:
            yield
            return
        known.n_listening += 1
        try:
            yield
        finally:
            known.n_listening -= 1
            known.heard = time.monotonic()
            if self._pages.get(page) is not known and not known.n_listening:
                self._clear(page)

    async def _drop(self, name: str, page: _Page | None) -> None:
        """Give up what a page has asked for, and what it was to be told."""
        await self.queue.clean_events(session_hash=name)
        if page is None or not page.n_listening:  # Gradio fails where somebody listens
            self._clear(name)
        self.on_dropped(name)

    def _clear(self, name: str) -> None:
        self.queue.pending_messages_per_session.pop(name, None)
        self.queue.pending_event_ids_session.pop(name, None)
