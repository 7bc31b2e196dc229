"""What serves in the engine's place where there is no epoll, or with `--io transports`: the loop's own transports.

The same table, the same policy, the same decisions, TLS by the same filter (transport_protocol.pxi); the loop accepts, reads
and writes, with an object for each connection. What is missing is the engine's memory and speed, and its backlog:
newcomers to a full server are accepted and wait there, at most 256, and more are answered 503.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kacore import _core
from kacore._core import ConnectionTable, Limits
from kacore.config.options import BACKLOG

if TYPE_CHECKING:
    from kacore.policy import Policy, PolicySet


class Connection(_core.TransportProtocol, asyncio.BufferedProtocol):
    """A TransportProtocol that asyncio reads for no more than is wanted."""

    __slots__ = ()


class TransportsServer:
    """The face of kacore._core.Engine that Server needs."""

    def __init__(
        self,
        table: ConnectionTable,
        application: Any,
        loop: asyncio.AbstractEventLoop,
        *,
        limits: Limits,
        max_buffer_bytes: int,
        server_name: str,
        access_log: Any,
        on_closed: Any,
        on_race: Any,
    ) -> None:
        self.loop = loop
        self.transports = _core.Transports(
            table,
            application,
            loop,
            limits=limits,
            max_buffer_bytes=max_buffer_bytes,
            server_name=server_name,
            access_log=access_log,
            on_closed=on_closed,
            on_race=on_race,
        )
        self._numbers: dict[socket.socket, int] = {}
        self._servers: dict[socket.socket, asyncio.Task[asyncio.AbstractServer]] = {}

    def listen(self, sock: socket.socket, *, tls: Any = None) -> None:
        """Serve a listening socket, soon. It is duplicated, since the loop closes what it is given."""
        if sock in self._servers:
            return
        is_unix = sock.family == getattr(socket, "AF_UNIX", None)
        if sock not in self._numbers:
            name = sock.getsockname()
            self._numbers[sock] = self.transports.add_listener((name, None) if is_unix else name[:2], tls)
        number = self._numbers[sock]

        def make() -> Any:
            return Connection(self.transports, 0, number)

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

    def set_fields(self, lines: bytes, *, date: bool) -> None:
        """As of Engine."""
        self.transports.set_fields(lines, date=date)

    def set_classes(self, policies: Policy | PolicySet) -> None:
        """As of Engine."""
        self.transports.set_classes(policies)

    def trust(self, networks: Iterable[str], *, proxy_protocol: bool) -> None:
        """As of Engine."""
        self.transports.trust(networks, proxy_protocol=proxy_protocol)

    def connections(self, limit: int = 1000) -> list[dict[str, Any]]:
        """As of Engine."""
        return self.transports.connections(limit)

    def drain(self, *, grace: float, spread: float, timeout: float) -> None:
        self.transports.drain(grace=grace, spread=spread, timeout=timeout)

    def wake(self) -> None:
        self.transports.wake()

    def stats(self) -> dict[str, int]:
        return self.transports.stats()

    def close(self) -> None:
        for sock in list(self._servers):
            self.unlisten(sock, is_last=True)
        self.transports.close()
