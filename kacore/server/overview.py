"""All workers of a parent, as one: what is counted and how things stand, out of the pages of memory that they share.

Who looks costs them nothing. Only connections and clients have to be asked for, over a socket to each (`Peer`), and who does
not answer soon is left out.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Protocol

from kacore import _core
from kacore.policy import Policy
from kacore.server.learned import unpacked

# Seconds without a turn of its loop, after which a worker counts as stuck. They turn once a second at least; a request that
# an application answers in the loop's thread may take long, and this is what gunicorn's workers are given.
SILENT_AFTER = 30.0
ANSWER_WITHIN = 0.5  # seconds that a worker has to list its connections
MAX_ANSWER = 16 << 20  # bytes
MAX_BUSIEST = 32  # networks
SUMS = ("max", "buffer_bytes", "max_buffer_bytes")
PHASES = tuple(_core.ConnectionTable(max_connections=1).stats()["phases"])


def told(pages: list[list[mmap.mmap]], *, has_tls: bool) -> dict[str, Any]:
    """Of all worker processes, also of those that are gone: `total`, and `slots`, one each. Dicts as ConnectionTable.stats()
    has them, with `open`; and of the processes that are there phases, http2, buffer_bytes, max_buffer_bytes, and max, of
    connections. Of a slot moreover pid, ready, heard (seconds since its loop last turned): those of the process that serves,
    while one that is being replaced counts in all the rest; and `leaving`, how many such there are.

    pages: of each slot, as a supervisor has them."""
    slots = [slot_of(_core.sum_counters(own), [_core.read_gauges(page) for page in own]) for own in pages]
    total = _core.sum_counters([page for own in pages for page in own]) | stands(slots)
    for one in (total, *slots):
        one["tls"] = one["tls"] if has_tls else None
    return {"total": total, "slots": slots}


def slot_of(counted: dict[str, Any], found: list[dict[str, Any] | None]) -> dict[str, Any]:
    there = [one for one in found if one is not None]
    by_state = {one["state"]: one for one in there}
    current = by_state.get("serving") or by_state.get("starting") or by_state.get("leaving") or {}
    return {
        **counted,
        **stands(there),
        "pid": current.get("pid"),
        "ready": current.get("state") == "serving",
        "heard": current.get("heard"),
        "max": current.get("max", 0),
        "leaving": sum(one["state"] == "leaving" for one in there),
    }


def stands(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The sums of what is not counted but stands."""
    return {
        "phases": {name: sum(one["phases"][name] for one in parts) for name in PHASES},
        "http2": {name: sum(one["http2"][name] for one in parts) for name in ("connections", "streams")},
        **{name: sum(one[name] for one in parts) for name in SUMS},
    }


def open_in(page: mmap.mmap) -> int:
    """How many connections its worker has open."""
    gauges = _core.read_gauges(page)
    return sum(gauges["phases"].values()) if gauges is not None else 0


class Asked(Protocol):
    """One of those that are asked for their connections and clients: see Peer."""

    @property
    def n_open(self) -> int: ...
    @property
    def is_gone(self) -> bool: ...
    def close(self) -> None: ...
    async def connections(self, limit: int) -> list[dict[str, Any]]: ...
    async def busiest(self) -> list[dict[str, Any]]: ...


class Peer:
    """One worker process, to be asked. Make it by `connected`."""

    def __init__(self, slot: int, page: mmap.mmap, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.slot, self._page = slot, page
        self._reader, self._writer = reader, writer
        self._lock = asyncio.Lock()

    @classmethod
    async def connected(cls, slot: int, page: mmap.mmap, sock: socket.socket) -> Peer:
        sock.setblocking(False)
        return cls(slot, page, *await asyncio.open_connection(sock=sock, limit=MAX_ANSWER))

    @property
    def n_open(self) -> int:
        return open_in(self._page)

    @property
    def is_gone(self) -> bool:
        return self._reader.at_eof()

    def close(self) -> None:
        self._writer.close()

    async def connections(self, limit: int) -> list[dict[str, Any]]:
        """At most `limit` of them."""
        return [{"worker": self.slot, **one} for one in await self._asked("connections", limit)] if limit > 0 else []

    async def busiest(self) -> list[dict[str, Any]]:
        """As ConnectionTable.busiest()."""
        return await self._asked("busiest", 0)

    async def _asked(self, what: str, limit: int) -> list[dict[str, Any]]:
        """Nothing when it does not answer in time, or is gone."""
        question = time.monotonic_ns()
        try:
            async with asyncio.timeout(ANSWER_WITHIN), self._lock:
                self._writer.write(json.dumps({"id": question, what: limit}).encode() + b"\n")
                while line := await self._reader.readline():
                    with suppress(ValueError):  # the rest of an answer to somebody before us
                        answer = json.loads(line)
                        if answer["id"] == question:
                            found: list[dict[str, Any]] = answer["found"]
                            return found
        except (TimeoutError, OSError, ValueError):
            pass
        return []


class Workers:
    """As Subject. pages: of counters, of each slot; learned: see place.Worker. since: when the parent was started."""

    def __init__(
        self, pages: list[list[mmap.mmap]], learned: Iterable[mmap.mmap], policy: Policy, *, has_tls: bool, since: float
    ) -> None:
        self.policy, self.since = policy, since
        self._pages, self._learned, self._has_tls = pages, list(learned), has_tls
        self._peers: list[Asked] = []
        self.is_ending = False  # they were told to
        self._busiest: list[dict[str, Any]] | None = None
        self._asking: asyncio.Task[None] | None = None

    def add(self, peer: Asked) -> None:
        for one in self._peers:
            if one.is_gone:
                one.close()
        self._peers = [one for one in self._peers if not one.is_gone]
        self._peers.append(peer)

    def _serving(self) -> dict[int, dict[str, Any]]:
        found = {}
        for slot, pages in enumerate(self._pages):
            for page in pages:
                gauges = _core.read_gauges(page)
                if gauges is not None and gauges["state"] == "serving":
                    found[slot] = gauges
        return found

    @property
    def is_ready(self) -> bool:
        """At least one serves, and they are not told to end."""
        return not self.is_ending and bool(self._serving())

    @property
    def trouble(self) -> str:
        """That none of those who serve has turned for long."""
        heard = {slot: one["heard"] for slot, one in self._serving().items()}
        if not heard or min(heard.values()) < SILENT_AFTER:
            return ""
        return "\n".join(f"worker {slot}: its event loop has not turned for {s:.0f} s" for slot, s in heard.items())

    def stats(self) -> dict[str, Any]:
        workers = told(self._pages, has_tls=self._has_tls)
        total: dict[str, Any] = workers["total"]
        return total | {"workers": workers}

    async def connections(self, limit: int) -> list[dict[str, Any]]:
        """Of each worker in proportion to how many it has."""
        n_open = [peer.n_open for peer in self._peers]
        total = sum(n_open)
        shares = [n if total <= limit else n * limit // total for n in n_open]
        lists = await asyncio.gather(*(peer.connections(n) for peer, n in zip(self._peers, shares, strict=True)))
        return [one for found in lists for one in found]

    def learned(self, limit: int) -> list[dict[str, Any]]:
        """What the workers have shared, every ten seconds and when a timeout has settled; how many connections a network has
        is not among it."""
        now = time.monotonic()
        table = _core.ConnectionTable(self.policy)
        for page in self._learned:
            with suppress(ValueError):  # being written
                table.learn(now, unpacked(page[:]))
        return [{**one, "connections": None} for one in table.learned(now, limit)]

    def busiest(self) -> list[dict[str, Any]] | None:
        """As of the last time that somebody asked for it: each time the workers are asked anew. None: not known yet."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask_for_busiest())
        return self._busiest

    async def _ask_for_busiest(self) -> None:
        counts: dict[tuple[str, bool], int] = {}
        for found in await asyncio.gather(*(peer.busiest() for peer in self._peers)):
            for one in found:
                key = one["network"], one["proxy"]
                counts[key] = counts.get(key, 0) + one["connections"]
        ordered = sorted(counts.items(), key=lambda item: item[1], reverse=True)[:MAX_BUSIEST]
        self._busiest = [{"network": name, "proxy": is_proxy, "connections": n} for (name, is_proxy), n in ordered]
