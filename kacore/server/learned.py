"""What the table learns of idle timeouts (`keep_alive_timeout = "auto"`), told to the operator, and kept for whoever serves
next: in a page of memory that all workers share, and in a file.

Both hold the same: JSON behind its length and checksum. A page is written while others may read it, so that a reader
takes what is whole and leaves the rest. Knows the table, and no connection.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from kacore._core import ConnectionTable

PAGE_BYTES = 1 << 16
MAX_NETWORKS = 256  # kept for whoever serves next: trusted proxies and unix sockets first
SAVE_EVERY = 10.0  # seconds
# Networks that are no trusted proxies may be many: seconds between two lines about them, and how many are remembered.
LINE_EVERY = 10.0
MAX_TOLD = 1024
# What ConnectionTable.learn() wants of an entry.
NEEDED = ("network", "proxy", "theirs", "ours", "marks", "period", "since", "closed_by_them", "closed_by_us", "races")
HEAD = struct.Struct("<II")  # length, CRC-32


class SettledLog:
    """Callable as ConnectionTable.on_settled: one line when a network's timeout has settled."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger, self._clock = logger, clock
        self._told: dict[str, float] = {}
        self._next = 0.0

    def __call__(self, learned: dict[str, Any]) -> None:
        network, after = learned["network"], learned["closes_after"]
        name = "the proxy on unix sockets" if network == "unix" else network
        if not learned["proxy"] and network != "unix":
            before, now = self._told.get(network), self._clock()
            if now < self._next or (before is not None and abs(after - before) <= before / 10):
                return
            self._next = now + LINE_EVERY
            while len(self._told) >= MAX_TOLD:
                del self._told[next(iter(self._told))]
            self._told[network] = after
        self._logger.info("%s closes idle connections after %.1f s: kept for %.0f s", name, after, learned["kept_for"])


def packed(entries: Iterable[dict[str, Any]], room: int) -> bytes:
    """As much of them as has room."""
    import json  # 3 ms, and most servers have nothing to keep for long

    kept = [{name: one[name] for name in NEEDED} for one in entries]
    while True:
        text = json.dumps({"at": time.time(), "networks": kept}).encode()
        if HEAD.size + len(text) <= room or not kept:
            return HEAD.pack(len(text), zlib.crc32(text)) + text
        del kept[len(kept) * 9 // 10 :]


def unpacked(data: bytes) -> list[dict[str, Any]]:
    """[] for an empty page. ValueError for what is none, or is being written."""
    import json

    length, checksum = HEAD.unpack_from(data.ljust(HEAD.size, b"\0"))
    text = data[HEAD.size : HEAD.size + length]
    if not length:
        return []
    if len(text) != length or zlib.crc32(text) != checksum:
        raise ValueError("checksum does not match")
    said = json.loads(text)
    if not isinstance(said, dict) or not isinstance(said.get("networks"), list):
        raise ValueError("must have a list of networks")
    entries: list[Any] = said["networks"]
    age = max(0.0, time.time() - float(said.get("at", 0)))
    for one in entries:
        if isinstance(one, dict):
            one |= {name: float(one.get(name, 0)) + age for name in ("since", "period")}
    return entries


class Learned:
    """Brings what was learned before into a table, and saves what it learns.

    file: path, or None. page: of this worker, or None; pages: of all workers. writes_file: whether this process is the one
    that does.
    """

    def __init__(
        self,
        table: ConnectionTable,
        logger: logging.Logger,
        *,
        file: str | None,
        page: mmap.mmap | None,
        pages: Iterable[mmap.mmap],
        writes_file: bool,
    ) -> None:
        self._table, self._logger, self._file, self._page = table, logger, file, page
        self._pages, self._writes_file = list(pages), writes_file
        self._saved: list[tuple[Any, ...]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._has_failed = False
        self._log = SettledLog(logger)
        table.on_settled = self._settled

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Before the first connection."""
        now = time.monotonic()
        for page in self._pages:
            with suppress(ValueError):  # half written by one that is gone: the others have it
                self._table.learn(now, unpacked(page[:]))
        if self._file is not None:
            self._load(self._file, now)
        if self._file is not None or self._page is not None:
            self._timer = loop.call_later(SAVE_EVERY, self._tick, loop)

    def stop(self) -> None:
        """At the end, whether it was started or not."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.save()

    def save(self) -> None:
        """Unless nothing was learned since."""
        entries = self._table.learned(time.monotonic(), MAX_NETWORKS)
        seen = [(one["network"], one["closed_by_them"], one["closed_by_us"], one["races"]) for one in entries]
        if seen == self._saved:
            return
        self._saved = seen
        if self._page is not None:
            data = packed(entries, PAGE_BYTES)
            self._page[: len(data)] = data
        if self._file is not None and self._writes_file:
            self._write(self._file, packed(entries, 1 << 30))

    def _settled(self, learned: dict[str, Any]) -> None:
        self._log(learned)
        if self._timer is not None:
            self.save()  # a successor may start before the next time

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self.save()
        self._timer = loop.call_later(SAVE_EVERY, self._tick, loop)

    def _load(self, path: str, now: float) -> None:
        try:
            with open(path, "rb") as file:
                self._table.learn(now, unpacked(file.read()))
        except FileNotFoundError:
            pass  # the first start
        except (OSError, ValueError) as error:
            self._logger.warning("learned=%s: cannot be used, and will be written anew: %s", path, error)

    def _write(self, path: str, data: bytes) -> None:
        """In place of the old one, at once. What cannot be written is told once: serving goes on without."""
        # Of this thread's own: an engine that drains writes the file as well as its successor does.
        beside = f"{path}.{os.getpid()}.{threading.get_native_id()}"
        try:
            with open(beside, "wb") as file:
                file.write(data)
            os.replace(beside, path)
        except OSError as error:
            with suppress(OSError):
                os.unlink(beside)
            if not self._has_failed:
                self._logger.warning("learned=%s: cannot be written: %s", path, error)
            self._has_failed = True
