"""A result as text for a terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence

from kacore.simulate import words
from kacore.simulate.cost import Cost
from kacore.simulate.reading import Log
from kacore.simulate.study import Result, Room, Row

BAR = 20  # letters
EIGHTHS = " ▏▎▍▌▋▊▉"


def table(rows: list[list[str]], *, left: Sequence[int] = (0,)) -> list[str]:
    """Columns as wide as they must be; those that are `left` begin together, the others end so."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: list[str]) -> str:
        cells = enumerate(zip(row, widths, strict=True))
        return "  ".join(cell.ljust(width) if k in left else cell.rjust(width) for k, (cell, width) in cells).rstrip()

    return [line(row) for row in rows]


def bar(share: float) -> str:
    eighths = round(share * BAR * 8)
    return "█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")


def about(logs: Sequence[Log], result: Result) -> str:
    """Which logs, in one line."""
    formats = list(dict.fromkeys(log.format.name for log in logs))
    names = [os.path.basename(log.source.name) for log in logs]
    shown = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    return (
        f"{shown}, {', '.join(formats)}: {result.n_requests:,} requests of {result.n_clients:,} clients"
        f" in {words.duration(result.span)}."
    )


def wrong_lines(logs: Sequence[Log]) -> list[str]:
    """How many lines could not be read, and the first of them."""
    return [
        f"{log.source.name}: {log.wrong:,} line{'s' if log.wrong > 1 else ''} could not be read; the first: {log.first_wrong}"
        for log in logs
        if log.wrong
    ]


def how(result: Result) -> str:
    """How requests become connections: what a log cannot say."""
    if result.shares:
        return "Connections: one for each client, which its requests share, as over HTTP/2."
    if result.has_durations:
        limit = f", at most {result.per_client}" if result.per_client else ""
        return f"Connections: requests of a client that overlap have one each{limit}; the last one used is used first."
    if result.per_client > 1:
        return f"Connections: at most {result.per_client} for a client, for its requests within one second."
    return "Connections: one for each client. The log has no durations, so nothing in it overlaps."


def timeouts(result: Result) -> list[str]:
    """What each does when there is room for all."""
    head = ["timeout", "", "reuse", "saved", "mean", "peak", "memory", ""]

    def line(row: Row) -> list[str]:
        share = result.share(row.reused)
        return [
            words.duration(row.timeout),
            bar(share).ljust(BAR),
            words.percent(share),
            f"{row.reused:,}",
            words.mean(row.mean),
            f"{row.peak:,}",
            words.size(sum(row.memory())),
            words.servers(row.timeout),
        ]

    lines = table([head, *map(line, [*result.rows, result.auto])], left=(0, 1, 7))
    return ["Requests that find their connection open, handshakes saved, connections open:", *lines]


def races(result: Result) -> list[str]:
    """Requests that meet our close, by what stands in front."""
    if not result.fronts:
        return []
    head = ["timeout", *(f"{front.name} {words.duration(front.timeout)}" for front in result.fronts)]
    rows = [
        [words.duration(row.timeout), *(words.rate(row.races[front.name]) for front in result.fronts)]
        for row in [*result.rows, result.auto]
    ]
    seen = f"{result.window * 1000:g} ms"
    return [
        f"Requests lost of a million, if all came through one of these (it sees a close after {seen}):",
        *table([head, *rows]),
    ]


def rooms(result: Result) -> list[str]:
    """Reuse when there is room for so many; none that are never full."""
    shown = rooms_that_matter(result)
    if not shown:
        return []
    by = {(room.max_connections, room.timeout): room for room in shown}
    timeouts_ = list(dict.fromkeys(room.timeout for room in shown))
    head = ["room for", *(words.duration(timeout) for timeout in timeouts_)]
    rows = [
        [f"{size:,}", *(words.percent(result.share(by[size, timeout].reused)) for timeout in timeouts_)]
        for size in dict.fromkeys(room.max_connections for room in shown)
    ]
    return ["Reuse with limited room, through the connection table:", *table([head, *rows])]


def rooms_that_matter(result: Result) -> list[Room]:
    """Up to the first that is never full."""
    enough = next((room.max_connections for room in result.rooms if room.max_connections > result.auto.peak), None)
    return [room for room in result.rooms if enough is None or room.max_connections <= enough]


def cost(rows: list[Cost], handshake: float) -> list[str]:
    head = ["policy", "idle, hours", "handshakes", "cost a request"]
    cells = [[one.name, f"{one.open_seconds / 3600:,.1f}", f"{one.handshakes:,}", f"{one.cost:.2f} s"] for one in rows]
    return [f"Cost, when a handshake is worth {words.duration(handshake)} of an idle connection:", *table([head, *cells])]
