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
from kacore.server.listening import BACKLOG


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
        handshake_timeout: float,
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
        )
        self.handshake_timeout = handshake_timeout or None
        self._tls: dict[socket.socket, Any] = {}
        self._servers: dict[socket.socket, asyncio.Task[asyncio.AbstractServer]] = {}

    def listen(self, sock: socket.socket, *, tls: Any = None) -> None:
        """Serve a listening socket, soon. It is duplicated, since the loop closes what it is given."""

        def make() -> Any:
            return _core.TransportProtocol(self.transports)

        serving = (
            self.loop.create_unix_server if sock.family == getattr(socket, "AF_UNIX", None) else self.loop.create_server
        )
        self._tls[sock] = tls
        self._servers[sock] = self.loop.create_task(
            serving(
                make,
                sock=sock.dup(),
                backlog=BACKLOG,
                ssl=tls.context if tls is not None else None,
                ssl_handshake_timeout=self.handshake_timeout if tls is not None else None,
            )
        )

    def renew(self) -> None:
        """Have connections made from now on use the certificates as they are now."""
        for sock, tls in list(self._tls.items()):
            if tls is not None:
                self.unlisten(sock, is_last=False)
                self.listen(sock, tls=tls)

    async def started(self) -> None:
        """Wait until every socket is served. OSError."""
        await asyncio.gather(*self._servers.values())

    def unlisten(self, sock: socket.socket, *, is_last: bool) -> None:
        """Accept no more from it."""
        task = self._servers.pop(sock, None)
        self._tls.pop(sock, None)
        if task is None:
            return
        if task.done() and not task.cancelled() and task.exception() is None:
            task.result().close()
        else:
            task.cancel()

    def set_fields(self, lines: bytes, *, date: bool) -> None:
        """As of Engine."""
        self.transports.set_fields(lines, date=date)

    def set_classes(self, policies: object) -> None:
        """There is one policy for all here."""

    def connections(self, limit: int = 1000) -> list[dict[str, Any]]:
        """Not known here."""
        return []

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
