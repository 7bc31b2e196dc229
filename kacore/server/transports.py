"""What serves in the engine's place where there is no epoll, or with `--io transports`: the loop's own transports.

The same table, the same policy, the same decisions (src/transport.pxi); the loop accepts, reads and writes, with an
object for each connection. What is missing is the engine's memory and speed, and its backlog: a newcomer to a full
server from which nobody can go is answered 503.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from kacore import _core
from kacore._core import ConnectionTable, Limits


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
        backlog: int,
    ) -> None:
        self.loop, self.backlog = loop, backlog
        self.transports = _core.Transports(
            table, application, loop, limits=limits, max_buffer_bytes=max_buffer_bytes, server_name=server_name
        )
        self.servers: list[asyncio.AbstractServer] = []

    async def listen(self, sock: socket.socket, *, klass: int = 0) -> None:
        """Serve a listening socket. It is duplicated, since the loop closes what it is given."""

        def make() -> asyncio.Protocol:
            return _core.TransportProtocol(self.transports, klass)

        self.servers.append(await self.loop.create_server(make, sock=sock.dup(), backlog=self.backlog))

    def stop_listening(self) -> None:
        for server in self.servers:
            server.close()
        self.servers.clear()

    def drain(self, *, grace: float, spread: float, timeout: float) -> None:
        self.transports.drain(grace=grace, spread=spread, timeout=timeout)

    def wake(self) -> None:
        self.transports.wake()

    def stats(self) -> dict[str, int]:
        return self.transports.stats()

    def close(self) -> None:
        self.stop_listening()
        self.transports.close()
