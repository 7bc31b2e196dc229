"""The simulation itself. Requests go through it once, whatever their number; what it holds grows with the clients and
connections of an hour, not with the log.

Reuse and open connections follow from the gaps between requests, exactly and for every timeout at once. What depends on more
than gaps is played through a ConnectionTable: limited room, and "auto".
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from kacore._core import ClientPools, ConnectionTable, Replay
from kacore.policy import Policy
from kacore.simulate.fronts import Front
from kacore.simulate.layout import Record

TIMEOUTS = (1.0, 2.0, 5.0, 15.0, 30.0, 75.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
ROOMS = (16, 128, 1024, 8192)
ROOM_TIMEOUTS = (5.0, 75.0, 600.0)  # and auto
AUTO_MAX: float = Policy().keep_alive_max
UNLIMITED = 1 << 24

# Bytes of an idle connection, as docs/capacity.md measures them.
OUR_BYTES = 80
KERNEL_BYTES = 3_850 + 192 + 8

# Between a server's FIN and the moment when a proxy in the same network has seen it. Until then a connection that was closed
# takes its place: where that is short, timeouts under pressure close more than they would without.
WINDOW = 0.001


class Row(NamedTuple):
    """What one timeout does."""

    timeout: float | None  # None: auto
    reused: int  # requests that found their connection open
    mean: float  # connections open on average
    peak: int
    races: dict[str, float]  # by front: requests lost of a million

    def memory(self) -> tuple[int, int]:
        """Bytes at the peak: ours, the kernel's."""
        return self.peak * OUR_BYTES, self.peak * KERNEL_BYTES


class Point(NamedTuple):
    """The same of any timeout, for a curve."""

    timeout: float
    reused: int
    mean: float


class Room(NamedTuple):
    """What a timeout does when there is room for so many."""

    max_connections: int
    timeout: float | None
    reused: int
    mean: float
    evicted: int
    refused: int


class Result(NamedTuple):
    n_requests: int
    n_clients: int
    n_connections: int  # at least, if none were ever closed
    begun: float
    ended: float
    busy: float  # connections that are in use, on average
    has_durations: bool
    per_client: int  # 0: as many as overlap
    shares: bool  # requests that overlap share one
    rows: list[Row]
    auto: Row
    curve: list[Point]
    rooms: list[Room]
    fronts: list[Front]
    window: float

    @property
    def span(self) -> float:
        return self.ended - self.begun

    def share(self, reused: int) -> float:
        return reused / self.n_requests if self.n_requests else 0.0

    def at(self, timeout: float) -> Point:
        """The point of the curve that is next to it."""
        return min(self.curve, key=lambda point: abs(math.log(point.timeout / timeout)))


def base_policy() -> Policy:
    """What is the same in all that is compared: a connection ends for its idle time alone, and for room."""
    return Policy(max_connection_age=0, max_keep_alive_requests=0, max_connections=UNLIMITED)


class Study:
    """Takes batches of requests in order, and gives a Result.

    timeouts, rooms, room_timeouts: what is compared with room for all, with room for so many, and there; always with "auto".
    also: further timeouts of the curve.
    per_client: the most connections of a client; 0: as many as its requests overlap, which a log without durations cannot
    tell: one. shares: they share one, as over HTTP/2.
    """

    def __init__(
        self,
        *,
        has_durations: bool,
        fronts: Sequence[Front] = (),
        per_client: int = 0,
        shares: bool = False,
        timeouts: Sequence[float] = TIMEOUTS,
        rooms: Sequence[int] = ROOMS,
        room_timeouts: Sequence[float] = ROOM_TIMEOUTS,
        window: float = WINDOW,
        also: Sequence[float] = (),
    ) -> None:
        self.fronts, self.timeouts, self.window = list(fronts), sorted(timeouts), window
        self.has_durations, self.per_client, self.shares = has_durations, per_client, shares
        self.curve_timeouts = curve_timeouts([*self.timeouts, *also])
        self.edges = sorted({*self.curve_timeouts, *(edge for timeout in self.timeouts for edge in around(timeout))})
        whole = not has_durations
        self.clients = ClientPools(
            self.edges, per_client=per_client or int(whole), shares=shares, whole=whole, watched=self.timeouts
        )
        self.front = ClientPools(self.edges, is_one=True)
        base = base_policy()

        def policy_of(timeout: float | None) -> Policy:
            return base.replace(keep_alive_timeout="auto" if timeout is None else timeout)

        some: list[float | None] = [*room_timeouts, None]
        self.unlimited = replay_of(policy_of(None), window)
        self.limited = {
            (room, timeout): replay_of(policy_of(timeout).replace(max_connections=room), window)
            for room in rooms
            for timeout in some
        }
        self.behind = {closes: replay_of(policy_of(None), window, closes) for _, closes in self.fronts}
        self._pool = ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1))
        self._playing: list[Future[None]] = []

    def feed(self, records: list[Record]) -> None:
        """The next requests, in order. They are still being played when this returns, and more can be read meanwhile."""
        self._wait()
        self.clients.feed(records)
        self.front.feed(records)
        self._play()

    def _play(self) -> None:
        plays = [(replay, self.clients) for replay in [self.unlimited, *self.limited.values()]]
        plays += [(replay, self.front) for replay in self.behind.values()]
        self._playing = [self._pool.submit(replay.play, pools) for replay, pools in plays]

    def _wait(self) -> None:
        for future in self._playing:
            future.result()
        self._playing = []

    def finish(self) -> Result:
        """The log is at its end."""
        self._wait()
        self.clients.finish()
        self.front.finish()
        self._play()
        self._wait()
        self._pool.shutdown()
        gaps, front_gaps = Gaps(self.edges, self.clients), Gaps(self.edges, self.front)
        rows = [
            Row(
                timeout,
                gaps.reused(timeout),
                gaps.mean(timeout),
                peak,
                {front.name: front_gaps.races(timeout, front, self.window) for front in self.fronts},
            )
            for timeout, peak in zip(self.timeouts, self.clients.peaks(), strict=True)
        ]
        free = self.unlimited
        n = self.clients.n_requests
        races = {name: self.behind[closes].n_races * 1e6 / n if n else 0.0 for name, closes in self.fronts}
        return Result(
            n_requests=n,
            n_clients=self.clients.n_clients,
            n_connections=self.clients.n_connections,
            begun=self.clients.begun,
            ended=self.clients.ended,
            busy=self.clients.busy / gaps.span if gaps.span else 0.0,
            has_durations=self.has_durations,
            per_client=self.per_client,
            shares=self.shares,
            rows=rows,
            auto=Row(None, free.n_reused, free.mean, free.peak, races),
            curve=[Point(timeout, gaps.reused(timeout), gaps.mean(timeout)) for timeout in self.curve_timeouts],
            rooms=[
                Room(room, timeout, replay.n_reused, replay.mean, replay.n_evicted, replay.n_refused)
                for (room, timeout), replay in self.limited.items()
            ],
            fronts=self.fronts,
            window=self.window,
        )


class Gaps:
    """What the gaps between requests say about timeouts. All of them must be edges."""

    def __init__(self, edges: list[float], pools: ClientPools) -> None:
        self._edges = edges
        self._reused, self._idled, self._idle = pools.gaps()
        self._busy, self.span = pools.busy, pools.ended - pools.begun
        self._n = pools.n_requests

    def reused(self, timeout: float) -> int:
        """Requests whose connection a timeout has left open: the gap was shorter."""
        return sum(self._reused[: self._at(timeout) + 1])

    def mean(self, timeout: float) -> float:
        """Connections open on average: in use, idle until they are used again, and idle until the timeout."""
        at = self._at(timeout) + 1
        idle = sum(self._idle[:at]) + timeout * sum(self._idled[at:])
        return (self._busy + idle) / self.span if self.span else 0.0

    def races(self, timeout: float, front: Front, window: float) -> float:
        """Of a million requests behind this front, how many it sends within the window after the timeout has closed their
        connection: the density of gaps there, measured over a quarter of the timeout to both sides. None when the front
        closes first."""
        if timeout > front.timeout or not self._n:
            return 0.0
        low, high = around(timeout)
        among = sum(self._reused[self._at(low) + 1 : self._at(high) + 1])
        return among / (high - low) * window / self._n * 1e6

    def _at(self, timeout: float) -> int:
        at = bisect_left(self._edges, timeout)
        assert self._edges[at] == timeout
        return at


def around(timeout: float) -> tuple[float, float]:
    return timeout / 1.25, timeout * 1.25


def curve_timeouts(rows: Sequence[float]) -> list[float]:
    """From half a second to an hour and five minutes, ten in each factor of ten, and those that are asked for."""
    steps = [round(0.5 * (AUTO_MAX / 0.5) ** (k / 48), 3) for k in range(49)]
    return sorted({*steps, *rows})


def replay_of(policy: Policy, window: float, closes: float = 0.0) -> Replay:
    return Replay(ConnectionTable(policy, seed=1), closes=closes, window=window)
