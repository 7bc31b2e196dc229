"""What a policy costs when handshakes and open connections are weighed against each other, as Cohen, Kaplan and Oldham do in
"Managing TCP connections under persistent HTTP" (1999): a handshake costs as much as so many seconds of an idle connection.
"""

from __future__ import annotations

from typing import NamedTuple

from kacore.simulate import words
from kacore.simulate.study import Result


class Cost(NamedTuple):
    name: str
    open_seconds: float  # of all connections, idle
    handshakes: int
    cost: float  # seconds a request


def costs(result: Result, handshake: float) -> list[Cost]:
    """Of every timeout of the table, of the best fixed one, of the longest idle going first with limited room (LRU), of
    auto, and of whoever would know the future: nobody can do better than close at once before a gap that is longer than a
    handshake is worth."""

    def cost(name: str, open_seconds: float, reused: int) -> Cost:
        handshakes = result.n_requests - reused
        total = open_seconds + handshake * handshakes
        return Cost(name, open_seconds, handshakes, total / result.n_requests)

    def idle(mean: float) -> float:
        return max(0.0, mean - result.busy) * result.span

    found = [cost(words.duration(row.timeout), idle(row.mean), row.reused) for row in result.rows]
    best = min(
        (cost(f"best fixed: {words.duration(point.timeout)}", idle(point.mean), point.reused) for point in result.curve),
        key=lambda one: one.cost,
    )
    rooms = [
        cost(f"LRU, room for {room.max_connections:,}", idle(room.mean), room.reused)
        for room in result.rooms
        if room.timeout is None and room.max_connections < result.auto.peak
    ]
    point = result.at(handshake)
    known = point.mean - result.busy
    left_alone = result.n_requests - point.reused  # each was kept so long for nothing
    future = cost("knows the future", max(0.0, known * result.span - left_alone * point.timeout), point.reused)
    return [*found, best, *rooms, cost("auto", idle(result.auto.mean), result.auto.reused), future]
