"""From other threads into the one that serves. Signal handlers count as other threads: they run between any two steps of the
program, perhaps while the loop sleeps."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from kacore.config.cores import has_gil

T = TypeVar("T")


class Calls:
    """Calls that belong into one loop's thread. While no loop runs they are made where they come from."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may find its own thread inside
        self._waiting: deque[Callable[[], object]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """From the loop's thread: it takes calls from now on."""
        with self._lock:
            self._loop, self._thread = loop, threading.get_ident()

    def end(self) -> None:
        """It takes no more. Those that wait are made now."""
        with self._lock:
            self._loop = None
            self._make()

    def soon(self, call: Callable[[], object]) -> None:
        """Schedule it, and wake the loop."""
        with self._lock:
            self._waiting.append(call)
            if self._loop is None:
                self._make()
            else:
                self._loop.call_soon_threadsafe(self._make)

    def ask(self, call: Callable[[], T]) -> T:
        """What it returns, or raises. In the loop's thread it is called at once; from others, it is waited for."""
        with self._lock:
            if self._loop is None or self._thread == threading.get_ident():
                return call()
            answer: Future[T] = Future()
            self.soon(lambda: settle(answer, call))
        return answer.result()

    def look(self, call: Callable[[], T]) -> T:
        """The same for what only reads what the loop's thread changes: where there is a GIL, that is guarded by it."""
        return call() if has_gil() else self.ask(call)

    def _make(self) -> None:
        while self._waiting:
            self._waiting.popleft()()


def settle(answer: Future[T], call: Callable[[], T]) -> None:
    try:
        answer.set_result(call())
    except BaseException as error:
        answer.set_exception(error)
