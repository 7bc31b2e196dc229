"""The two drivers of connections in an event loop, with one interface: the engine, and the loop's own transports.

The interface is that of kacore._core.Engine (`listen`, `unlisten`, `drain`, `when_drained`, `connections`, ...), with
`start()` and `started()`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from kacore import _core
from kacore.config.options import BACKLOG
from kacore.server.loops import EngineSelector


class LoopEngine(_core.Engine):
    """The engine, stepped whenever the loop finds it readable; or the loop waits in it, see loops.py."""

    _loop: asyncio.AbstractEventLoop | None = None
    _selector: EngineSelector | None = None

    def start(
        self, loop: asyncio.AbstractEventLoop, step: Callable[[], object] | None = None, *, is_guest: bool = False
    ) -> None:
        """Have the loop step it. step: called in place of its own. is_guest: the loop is there for another engine."""
        selector = None if is_guest else getattr(loop, "_selector", None)
        if isinstance(selector, EngineSelector) and selector.wait_in(self, loop, step):
            self._selector = selector
            return
        loop.add_reader(self.fileno(), step or self.step)
        self._loop = loop

    async def started(self) -> None:
        """Nothing to wait for: it serves from listen() on."""

    def close(self) -> None:
        """As of Engine."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.remove_reader(self.fileno())
        selector, self._selector = self._selector, None
        if selector is not None:
            selector.wait_alone()
        super().close()


class Connection(_core.TransportProtocol, asyncio.BufferedProtocol):
    """A TransportProtocol that asyncio reads for no more than is wanted."""

    __slots__ = ()


class LoopTransports(_core.Transports):
    """The loop's own transports, for where there is no epoll, or for `--io transports`.

    The same table, policy and decisions, and the same filter for TLS (transport_protocol.pxi); the loop accepts, reads and
    writes, with an object per connection. What is missing is the engine's memory and speed, and its backlog: when the
    server is full, new connections are accepted and wait here, at most 256 of them, and more are answered 503.
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        self._numbers: dict[socket.socket, int] = {}
        self._servers: dict[socket.socket, asyncio.Task[asyncio.AbstractServer]] = {}

    def start(
        self, loop: asyncio.AbstractEventLoop, step: Callable[[], object] | None = None, *, is_guest: bool = False
    ) -> None:
        """Nothing to do: its loop runs it already."""

    def listen(self, sock: socket.socket, *, tls: Any = None) -> None:
        """Serve a listening socket, soon. It is duplicated, because the loop closes what it is given."""
        if sock in self._servers:
            return
        is_unix = sock.family == getattr(socket, "AF_UNIX", None)
        if sock not in self._numbers:
            name = sock.getsockname()
            self._numbers[sock] = self.add_listener((name, None) if is_unix else name[:2], tls)
        number = self._numbers[sock]

        def make() -> Any:
            return Connection(self, 0, number)

        serving = self.loop.create_unix_server if is_unix else self.loop.create_server
        self._servers[sock] = self.loop.create_task(serving(make, sock=sock.dup(), backlog=BACKLOG))

    async def started(self) -> None:
        """Wait until every socket is served. OSError."""
        await asyncio.gather(*self._servers.values())

    def unlisten(self, sock: socket.socket, *, is_last: bool) -> None:
        """Accept no more from it."""
        task = self._servers.pop(sock, None)
        if task is None:
            return
        if task.done() and not task.cancelled() and task.exception() is None:
            task.result().close()
        else:
            task.cancel()

    def close(self) -> None:
        """As of Engine."""
        for sock in list(self._servers):
            self.unlisten(sock, is_last=True)
        super().close()
