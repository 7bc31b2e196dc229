"""How a server is and was, for people: a page, a JSON document and a stream of events, all of the same numbers.

`Status` looks once a second, which is all that it costs while nobody watches: about 30 us. What takes time in proportion
to the number of clients is looked at only while somebody watches, and less often the longer it takes.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from kacore.server.seldom import Seldom
from kacore.server.status import document
from kacore.server.status.history import PER_POINT, History
from kacore.server.status.reading import Reading
from kacore.server.status.viewers import MAX_VIEWERS, Stream, Viewer

if TYPE_CHECKING:
    from collections.abc import Callable

    from kacore.server.status.page import Page
    from kacore.server.status.viewers import Receive, Send
    from kacore.server.subject import Subject

EVERY = 1.0  # seconds
MAX_NETWORKS = 32


class Status:
    """Of a subject, for as long as its admin listener is there."""

    def __init__(self, subject: Subject, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.subject = subject
        self.history = History()
        self._n_points = 0
        self._pictures: dict[str, Any] = {}
        self._clock = clock
        self._learned = Seldom(lambda: subject.learned(MAX_NETWORKS))
        self._busiest = Seldom(subject.busiest)
        self._viewers: set[Viewer] = set()
        self.documents = Stream(lambda is_whole: dumped(self.document(has_history=is_whole)), self._viewers)
        self.pages = Stream(self._changed, self._viewers)
        self._page: Page | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_full(self) -> bool:
        """Whether nobody else may watch."""
        return len(self._viewers) >= MAX_VIEWERS

    @property
    def page(self) -> Page:
        if self._page is None:
            from kacore.server.status.page import Page  # with its files, for whoever opens it

            self._page = Page()
        return self._page

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look once a second from now on."""
        self._tick(loop, loop.time())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        due = max(due + EVERY, loop.time())  # after a pause of the whole process not many at once
        self._timer = loop.call_at(due, self._tick, loop, due)
        self.look()

    def look(self) -> None:
        """Take a sample, and tell who watches."""
        self._sample()
        self.documents.publish()
        self.pages.publish()

    def _sample(self) -> None:
        self.history.add(self._clock(), Reading(self.subject.stats()).sample())

    def document(self, *, has_history: bool = True) -> dict[str, Any]:
        """The counters as of now, and what they were as of the last look."""
        if not self.history.n:
            self._sample()
        made = document.make(
            Reading(self.subject.stats()),
            self.history,
            self.subject.policy,
            since=self.subject.since,
            now=time.time(),
            is_ready=self.subject.is_ready,
            trouble=self.subject.trouble,
            learned=self._learned(),
            busiest=self._busiest(),
        )
        if has_history:
            made["history"] = self._drawn()
        return made

    def _drawn(self) -> dict[str, Any]:
        """Anew only when there is another point."""
        n_points = (self.history.n + PER_POINT - 1) // PER_POINT
        if n_points != self._n_points:
            self._n_points, self._pictures = n_points, document.pictures(self.history)
        return self._pictures

    def _changed(self, is_whole: bool) -> str:
        return json.dumps(self.page.changed(None if is_whole else self.document()))

    async def watch(self, receive: Receive, send: Send, *, is_page: bool) -> None:
        """Serve a viewer: documents, or what is new on the page."""
        await (self.pages if is_page else self.documents).serve(receive, send)


def dumped(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))
