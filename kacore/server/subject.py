"""Who the admin listener reports on: one server in its own process, or all workers of a parent.

Everything is in shared memory or near at hand, but for the list of connections, which workers may have to be asked for.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from kacore.policy import Policy


class Subject(Protocol):
    """What can be asked. stats(), learned(), busiest(): see Server; None: not known. trouble: why it is not well, "" if it
    is. since: when it was started, seconds since 1970."""

    @property
    def is_ready(self) -> bool: ...
    @property
    def trouble(self) -> str: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def since(self) -> float: ...
    def stats(self) -> dict[str, Any]: ...
    async def connections(self, limit: int) -> list[dict[str, Any]]: ...
    def learned(self, limit: int) -> list[dict[str, Any]]: ...
    def busiest(self) -> list[dict[str, Any]] | None: ...


class Served(Protocol):
    """What is needed of a Server."""

    @property
    def is_ready(self) -> bool: ...
    @property
    def policy(self) -> Policy: ...
    def stats(self) -> dict[str, Any]: ...
    def connections(self, limit: int = 1000) -> list[dict[str, Any]]: ...
    def learned(self, limit: int = 1000) -> list[dict[str, Any]]: ...
    def busiest(self) -> list[dict[str, Any]]: ...


class OneServer:
    """The server in whose loop the admin listener is."""

    trouble = ""  # its loop runs, or nobody would ask

    def __init__(self, server: Served) -> None:
        self.server = server
        self.since = time.time()

    @property
    def is_ready(self) -> bool:
        return self.server.is_ready

    @property
    def policy(self) -> Policy:
        return self.server.policy

    def stats(self) -> dict[str, Any]:
        return self.server.stats()

    async def connections(self, limit: int) -> list[dict[str, Any]]:
        return self.server.connections(limit)

    def learned(self, limit: int) -> list[dict[str, Any]]:
        return self.server.learned(limit)

    def busiest(self) -> list[dict[str, Any]] | None:
        return self.server.busiest()
