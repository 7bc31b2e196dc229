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
from kacore._core import Head, Response
from kacore.policy import Policy
from kacore.server.assembly import driver_options, policy_set, table_for
from kacore.server.departure import LAST_WORD, Terms, last_gone

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
        logger = logging.getLogger("kacore.error")
        if application is None:
            application = _core.ProtocolApplication(loop, logger)
        policies = policy_set(policy)
        self = super().__new__(
            cls,
            table_for(policies, logger),
            application,
            loop,
            **driver_options(policies, logger, server_name=server_name),
        )
        self.set_classes(policies)
        self.policy = policies.default
        return self

    async def drain_and_close(self, *servers: asyncio.AbstractServer) -> None:
        """Answer what can be answered, as the policy's drain_* fields say, then close what is left.

        servers: who accepts; they go on for drain_lame_duck seconds and are closed then. With none of them given, stop
        accepting first.
        """
        terms = Terms.of(self.policy)
        if servers:
            await asyncio.sleep(terms.lame_duck)
        for server in servers:
            server.close()
        terms.begin(self)
        await last_gone(self, terms.timeout + LAST_WORD)
        self.close()


class KeepAliveProtocol(_core.TransportProtocol, asyncio.BufferedProtocol):
    """An asyncio.BufferedProtocol for one connection. Subclasses write `handle`."""

    def handle(self, head: Head, body: bytes) -> Answer | Awaitable[Answer]:
        """Answer one request, whose content is complete: bytes, str (as UTF-8) or a Response; may be async.

        One request of a connection at a time. An exception is logged and answered 500.
        """
        raise NotImplementedError("override handle(head, body)")
