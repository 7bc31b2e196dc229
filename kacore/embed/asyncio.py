"""A base for HTTP/1.1 servers on asyncio's transports: write `handle(head, body)`, and everything else about the
connection (framing, deadlines, keep-alive, eviction, draining) is done by the policy.

    class Hello(KeepAliveProtocol):
        def handle(self, head, body):
            return b"hello\\n"

    connections = Connections(Policy(keep_alive_timeout=30))
    server = await loop.create_server(lambda: Hello(connections), "127.0.0.1", 8000)

Works on any loop that has asyncio's transports, TLS included. docs/embedding.md has a whole server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from kacore import _core
from kacore._core import ConnectionTable, Head, Response
from kacore.policy import Policy
from kacore.server.listening import raise_descriptor_limit
from kacore.server.logs import closed_log
from kacore.server.races import RaceLog

if TYPE_CHECKING:
    from kacore.policy import PolicySet

__all__ = ["Connections", "KeepAliveProtocol"]

Answer = bytes | str | Response


class Connections(_core.Transports):
    """The connections of one server, of one event loop: their table, their one timer, their policy.

    policy:      Policy or PolicySet, whose rules are asked; default Policy().
    loop:        the loop they run on; default the running one.
    server_name: value of the Server field; "" = none.
    application: what answers; default the handle() of each connection's protocol.
    Raises RuntimeError without a loop, ValueError for a policy out of range. Source: docs/embedding.md.
    """

    policy: Policy  # of the server as a whole

    def __new__(
        cls,
        policy: Policy | PolicySet | None = None,
        *,
        loop: Any = None,
        server_name: str = "kacore",
        application: Any = None,
    ) -> Connections:
        """Of the compiled class, which takes its table and application when it is made."""
        loop = loop or asyncio.get_running_loop()
        if application is None:
            application = _core.ProtocolApplication(loop, logging.getLogger("kacore.error"))
        policy = policy or Policy()
        default = policy if isinstance(policy, Policy) else policy.default
        logger = logging.getLogger("kacore.error")
        raise_descriptor_limit(default.max_connections, logger)
        self = super().__new__(
            cls,
            ConnectionTable(policy),
            application,
            loop,
            limits=policy.limits(),
            max_buffer_bytes=default.max_buffer_bytes,
            server_name=server_name,
            on_closed=closed_log(logger),
            on_race=RaceLog(default, logger),
        )
        self.set_classes(policy)
        self.policy = default
        return self

    async def drain_and_close(self, *servers: asyncio.AbstractServer) -> None:
        """Answer what can be answered, as the policy's drain_* fields say, then close what is left.

        servers: who accepts; they go on for drain_lame_duck seconds and are closed then. With none of them given, stop
        accepting first.
        """
        policy = self.policy
        if servers:
            await asyncio.sleep(policy.drain_lame_duck)
        for server in servers:
            server.close()
        self.drain(grace=policy.drain_grace, spread=policy.drain_spread, timeout=policy.drain_timeout)
        deadline = self.loop.time() + policy.drain_timeout
        while len(self.table) > self.table.stats()["phases"]["linger"] and self.loop.time() < deadline:
            await asyncio.sleep(DRAIN_POLL)
        self.close()


class KeepAliveProtocol(_core.TransportProtocol, asyncio.BufferedProtocol):
    """An asyncio.BufferedProtocol for one connection. Subclasses write `handle`."""

    def handle(self, head: Head, body: bytes) -> Answer | Awaitable[Answer]:
        """Answer one request, whose content is complete: bytes, str (as UTF-8) or a Response; may be async.

        One request of a connection at a time. An exception is logged and answered 500.
        """
        raise NotImplementedError("a KeepAliveProtocol answers in handle(head, body)")


# How often a drain looks whether the last connection is gone, in seconds.
DRAIN_POLL = 0.01
