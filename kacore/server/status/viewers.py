"""Who watches: at most MAX_VIEWERS streams of server-sent events, each of which gets the same text once a second.

A text is made once, however many watch, and not at all while nobody does. Nothing is kept for a viewer but the number of
the last text that it got: who takes the last one too slowly misses those that come meanwhile and goes on with a whole one,
and who takes nothing is ended by the listener's own send_timeout.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]

# Half of the listener's places: the others can be closed for whoever comes next, so that a probe always finds one.
MAX_VIEWERS = 32
FIELDS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would wait for more
]
FRESH = 0.5  # seconds; who comes and goes all the time makes nothing anew all the time
RETRY = b"retry: 1000\n\n"  # ms: a restart is over soon


class Viewer:
    def __init__(self) -> None:
        self.news = asyncio.Event()
        self.got = 0  # number of the last text; 0: none
        self.is_gone = False

    async def watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        self.news.set()


class Stream:
    """One kind of text, for all who watch it. make(is_whole): what is new since it was last called for that; or all that
    there was then."""

    def __init__(self, make: Callable[[bool], str], viewers: set[Viewer]) -> None:
        self._make, self._all = make, viewers
        self._viewers: set[Viewer] = set()
        self._number = 0
        self._made_at = float("-inf")
        self._new = self._whole = b""

    def publish(self) -> None:
        """A second is over."""
        if self._viewers:
            self._renew()
            for viewer in self._viewers:
                viewer.news.set()

    def _renew(self) -> None:
        self._number += 1
        self._made_at = time.monotonic()
        self._new, self._whole = event(self._make(False)), b""

    async def serve(self, receive: Receive, send: Send) -> None:
        """Until the client has gone."""
        if not self._viewers and time.monotonic() - self._made_at >= FRESH:
            self._renew()
        viewer = Viewer()
        self._all.add(viewer)
        self._viewers.add(viewer)
        watching = asyncio.ensure_future(viewer.watch(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": FIELDS})
            await send({"type": "http.response.body", "body": RETRY + self._text_for(viewer), "more_body": True})
            while True:
                await viewer.news.wait()
                if viewer.is_gone:
                    break
                viewer.news.clear()
                await send({"type": "http.response.body", "body": self._text_for(viewer), "more_body": True})
        finally:
            watching.cancel()
            self._viewers.discard(viewer)
            self._all.discard(viewer)

    def _text_for(self, viewer: Viewer) -> bytes:
        has_all_before = 0 < viewer.got == self._number - 1
        viewer.got = self._number
        if has_all_before:
            return self._new
        if not self._whole:
            self._whole = event(self._make(True))
        return self._whole


def event(text: str) -> bytes:
    """One event; JSON has no line ends."""
    return b"data: " + text.encode() + b"\n\n"
