"""Which event loop: asyncio's, or uvloop if it is installed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

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
    return asyncio.new_event_loop


def repeat(loop: asyncio.AbstractEventLoop, seconds: float, call: Callable[[], object]) -> None:
    """Call it now and every so many seconds, for as long as the loop runs."""
    call()
    loop.call_later(seconds, repeat, loop, seconds, call)
