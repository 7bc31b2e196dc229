"""Several logs as one sequence of requests in the order of time.

Logs are not quite in order: a request is written down when it is over, and stamped when it began, or the other way round.
So what has been read waits until nothing earlier can be expected. Rotated logs follow one another; those of several machines
are merged. Only those that overlap are open at the same time.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import itemgetter

from kacore.errors import UsageError
from kacore.simulate.layout import Record
from kacore.simulate.opening import Source
from kacore.simulate.recognise import SAMPLE, Format, recognise
from kacore.simulate.times import shown

SLACK = 60.0  # seconds that a line may be too late
MAX_HELD = 200_000  # requests that wait for it
AT_ONCE = 20_000  # requests in a batch, at least, but for the last

HTTP2 = re.compile(rb'HTTP/2(\.0)?"|"(version|server_protocol|protocol)": ?"(HTTP/)?2(\.0)?"')

began = itemgetter(0)


class Log:
    """One log that is being read. `wrong` lines could not be read; `first_wrong` says which was the first, and why.
    `speaks_http2`: most of its first lines do."""

    def __init__(self, path: str, *, given: str | None = None, wants_forwarded: bool = False) -> None:
        self.source = Source(path)
        self.wrong = 0
        self.first_wrong = ""
        self._blocks = self.source.blocks()
        first = next(self._blocks, b"")
        lines = [line for line in first.splitlines()[:SAMPLE] if line.strip()]
        self.format: Format = recognise(lines, self.source.name, given=given, wants_forwarded=wants_forwarded)
        self.speaks_http2 = 2 * sum(HTTP2.search(line) is not None for line in lines) > len(lines)
        self._waiting = [first]
        self._line = 0
        started = self.format.read(b"\n".join(lines), lambda *_: None)
        if not started:
            self.format.read(b"\n".join(lines), self._count_wrong)
            raise UsageError(self.first_wrong or f"{self.source.name}: is empty")
        self.starts = min(started)[0]
        if not self.source.is_once:  # it is opened again when its time has come
            self._blocks.close()  # type: ignore[attr-defined]
            self._blocks, self._waiting = self.source.blocks(), []

    def records(self) -> Iterator[list[Record]]:
        """Requests as they stand there, a block at a time. Of those in the same second each has its part of it."""
        rest: list[Record] = []
        for block in self._all_blocks():
            self._block, self._found_at = block, 0
            records = rest + self.format.read(block, self._count_wrong)
            self._line += block.count(b"\n")
            last = records[-1][0] if records else 0.0
            cut = len(records)
            while cut and records[cut - 1][0] == last:  # its second may go on in the next block
                cut -= 1
            rest = records[cut:]
            yield self._begun(spread(records[:cut]))
        yield self._begun(spread(rest))

    def _all_blocks(self) -> Iterator[bytes]:
        yield from self._waiting
        self._waiting = []
        yield from self._blocks

    def _begun(self, records: list[Record]) -> list[Record]:
        """With the times when they began."""
        if not (self.format.is_end and self.format.has_durations):
            return records
        return [(end - took, took, client) for end, took, client in records]

    def _count_wrong(self, line: bytes, why: str) -> None:
        self.wrong += 1
        if self.wrong == 1:
            block = getattr(self, "_block", b"")
            number = self._line + block[: max(0, block.find(line))].count(b"\n") + 1
            self.first_wrong = f"{self.source.name}:{number}: {why}: {shown(line[:200])}"


def spread(records: list[Record]) -> list[Record]:
    """Requests of one whole second, evenly over it, in the order in which they stand."""
    spread_out: list[Record] = []
    for second, group in groupby(records, began):
        together = list(group)
        if len(together) == 1 or second % 1:
            spread_out += together
        else:
            part = 1 / len(together)
            spread_out += [(second + k * part, took, who) for k, (_, took, who) in enumerate(together)]
    return spread_out


def in_order(logs: Iterable[Log], tell: Callable[[int], None]) -> Iterator[list[Record]]:
    """All requests of all logs, batch by batch, in order. tell: is called with the requests read so far, once a block.
    Of those that come too late for their place the time is earlier than the last, which counts as the last."""
    waiting = sorted(logs, key=lambda log: log.starts)
    reading: dict[Iterator[list[Record]], float] = {}  # each with how far it has come
    held: list[Record] = []
    n_read = n_new = 0
    while waiting or reading:
        while waiting and (not reading or waiting[0].starts <= min(reading.values())):
            log = waiting.pop(0)
            reading[log.records()] = log.starts
        behind = min(reading, key=lambda records: reading[records])
        block = next(behind, None)
        if block is None:
            del reading[behind]
        else:
            n_read += len(block)
            tell(n_read)
            if block:
                reading[behind] = max(reading[behind], max(map(began, block)))
                held += block
                n_new += len(block)
        if n_new < AT_ONCE and (waiting or reading):
            continue
        n_new = 0
        held.sort(key=began)
        until = min([*reading.values(), *(log.starts for log in waiting[:1])], default=float("inf")) - SLACK
        cut = bisect_left(held, until, key=began)
        if len(held) - cut > MAX_HELD and len(reading) == 1:
            cut = len(held) - MAX_HELD // 2
        if cut:
            yield held[:cut]
            del held[:cut]
    if held:
        yield held
