"""Which event loop: asyncio's, or uvloop if it is installed; and one wait in place of two for the loop and an engine.

A loop that watches the engine's descriptor waits in its own epoll set first, and then the engine asks its own what is
ready. Where the loop is ours and asyncio's, it waits in the engine's set, in which its own is one descriptor of many:
`EngineSelector`. uvloop has no such seam: libuv waits by itself and tells nobody until when.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Callable
from functools import partial

from kacore import _core
from kacore.errors import UsageError


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """For asyncio.Runner. name: asyncio, uvloop or auto. UsageError when uvloop is asked for and not installed."""
    if name != "asyncio":
        try:
            import uvloop
        except ImportError:
            if name == "uvloop":
                raise UsageError("loop=uvloop: uvloop is not installed (pip install kacore[uvloop])") from None
        else:
            factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
            return factory
    return asyncio_loop if _core.has_epoll else asyncio.new_event_loop


def asyncio_loop() -> asyncio.AbstractEventLoop:
    """asyncio.new_event_loop(), whose selector can wait in an engine, unless the application has set a policy that makes
    loops with another. Nothing else of the loop is changed, which such a policy may have set up."""
    loop = asyncio.new_event_loop()
    selector = getattr(loop, "_selector", None)
    if type(loop) is asyncio.SelectorEventLoop and type(selector) is EngineSelector.__base__:
        selector.__class__ = EngineSelector
    return loop


class EngineSelector(getattr(selectors, "EpollSelector", selectors.SelectSelector)):  # type: ignore[misc]
    """epoll's, until an engine lends its set. One engine at a time: others in the same loop are watched by it."""

    is_lent = False

    def wait_in(self, engine: _core.Engine, loop: asyncio.AbstractEventLoop, step: Callable[[], object] | None) -> bool:
        """Wait in the engine's set from now on, and step it, see Engine.wait_for_loop. Return: whether that can be: not
        in debug mode, in which the loop times whatever it calls."""
        if self.is_lent or loop.get_debug() or not shows_its_work(loop):
            return False
        engine.watch_host(self.fileno())
        self.select = partial(engine.wait_for_loop, loop, super().select, step)
        self.is_lent = True
        return True

    def wait_alone(self) -> None:
        """The engine is about to be closed."""
        if self.is_lent:
            del self.select, self.is_lent


def shows_its_work(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether one can see what it has to do, as in every CPython from 3.4 on: callbacks, timers, and that it was stopped."""
    found = (getattr(loop, name, None) for name in ("_ready", "_scheduled", "_stopping"))
    return [type(one) for one in found] == [deque, list, bool]


def repeat(loop: asyncio.AbstractEventLoop, seconds: float, call: Callable[[], object]) -> None:
    """Call it now and every so many seconds, for as long as the loop runs."""
    call()
    loop.call_later(seconds, repeat, loop, seconds, call)
