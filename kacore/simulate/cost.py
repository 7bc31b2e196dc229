"""What a policy costs when handshakes and open connections are weighed against each other, as Cohen, Kaplan and Oldham do in
"Managing TCP connections under persistent HTTP" (1999): a handshake costs as much as so many seconds of an idle connection.
"""

from __future__ import annotations

from typing import NamedTuple

from kacore.simulate import words
from kacore.simulate.study import AUTO_MAX, Result


class Cost(NamedTuple):
    name: str
    open_seconds: float  # of all connections, idle
    handshakes: int
    cost: float  # seconds a request


def costs(result: Result, handshake: float) -> list[Cost]:
    """Of every timeout of the table and of the best fixed one; of limited room when the longest idle goes only for the next
    (LRU: a timeout that is as good as none), and of auto there; of auto with room for all; and of whoever knows the future:
    nobody does better than to close at once before a gap that is longer than a handshake is worth."""

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
    kinds = {AUTO_MAX: "LRU", None: "auto"}
    rooms = [
        cost(f"{kinds[room.timeout]}, room for {room.max_connections:,}", idle(room.mean), room.reused)
        for room in result.rooms
        if room.timeout in kinds and room.max_connections < result.auto.peak
    ]
    point = result.at(handshake)
    known = point.mean - result.busy
    left_alone = result.n_requests - point.reused  # each was kept so long for nothing
    future = cost("knows the future", max(0.0, known * result.span - left_alone * point.timeout), point.reused)
    return [*found, best, *rooms, cost("auto", idle(result.auto.mean), result.auto.reused), future]
