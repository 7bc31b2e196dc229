"""Populations of proxies and clients in virtual time, in front of the real ConnectionTable.

Each front has its own idle timeout, pool and habits; requests, responses and FINs take time to travel, so that a request
can cross the server's close. When a front asks does not depend on the server, so that two policies see the same load.

`python tests/unit/fronts.py [DAYS]` prints what docs/timeouts.md says of it.
"""

import heapq
import math
import random
import sys
from dataclasses import dataclass, field
from itertools import count

from kacore import ConnectionTable, Policy

TRAVEL = 0.05  # seconds one way: a long line, so that races are many enough to be counted
SERVICE = 0.02
HAPROXY_PURGES = 19.0  # it purges its pool at any age up to that, as measured


@dataclass
class Front:
    """keeps: its idle timeout, inf = none; pool: idle connections it holds at most. takes_hint: Keep-Alive: timeout= counts
    instead, up to `keeps`. burst: requests at once, at most."""

    name: str
    address: str
    keeps: float
    pool: int = 64
    burst: int = 4
    is_proxy: bool = True
    takes_hint: bool = False
    purges: float = 0.0
    n: int = 1  # such fronts, each with an address of its own


FRONTS = (
    Front("nginx 60 s", "10.0.0.{}", 60.0),
    Front("nginx 60 s, pool of 6", "10.0.1.{}", 60.0, pool=6, burst=12),
    Front("HAProxy", "10.0.2.{}", math.inf, purges=HAPROXY_PURGES),
    Front("ALB 60 s", "10.0.3.{}", 60.0),
    Front("Go 90 s", "10.0.4.{}", 90.0),
    Front("GCP 600 s", "10.0.5.{}", 600.0),
    Front("Envoy 3600 s", "10.0.6.{}", 3600.0),
    Front("Chrome 300 s", "192.0.2.{}", 300.0, pool=6, is_proxy=False, n=20),
    Front("Firefox 115 s", "198.51.100.{}", 115.0, pool=6, is_proxy=False, n=20),
    Front("node, no hint", "203.0.113.{}", math.inf, is_proxy=False, n=2),
    Front("node, hint", "203.0.114.{}", math.inf, is_proxy=False, takes_hint=True, n=2),
    Front("urllib3", "203.0.115.{}", math.inf, burst=1, is_proxy=False, n=3),
    Front("httpx 5 s", "203.0.116.{}", 5.0, burst=2, is_proxy=False, n=2),
    Front("aiohttp 15 s", "203.0.117.{}", 15.0, burst=2, is_proxy=False, n=2),
    Front("Java 30 s", "203.0.118.{}", 30.0, burst=2, is_proxy=False, n=2),
)


@dataclass(eq=False)
class Conn:
    owner: "Source"
    handle: int
    since: float = 0.0  # idle at the client since
    turn: int = 0  # of its being idle: timers of earlier ones do not count
    is_gone: bool = False  # at the client
    is_closed: bool = False  # by the server


@dataclass
class Source:
    """One front at one address, and what became of its requests."""

    front: Front
    address: str
    draw: random.Random
    idle: list = field(default_factory=list)
    requests: int = 0
    reused: int = 0
    races: list = field(default_factory=list)


class Simulation:
    def __init__(self, policy, *, seed=1, fronts=FRONTS):
        self.table = ConnectionTable(policy, seed=seed)
        self.events, self.order, self.now = [], count(), 0.0
        self.by_handle = {}
        self.peak = self.evicted = 0
        self.sources = [
            Source(front, front.address.format(k + 1), random.Random(f"{seed} {front.name} {k}"))
            for front in fronts
            for k in range(front.n)
        ]

    def at(self, when, what, *arguments):
        heapq.heappush(self.events, (when, next(self.order), what, arguments))

    def run(self, seconds):
        for source in self.sources:
            self.at(source.draw.uniform(0, 10), self.ask, source)
        while self.events and self.events[0][0] < seconds:
            when = self.events[0][0]
            due = self.table.next_due()
            if due is not None and due <= when:
                self.now = due
                self.expire()
                continue
            self.now, _, what, arguments = heapq.heappop(self.events)
            what(*arguments)
        return self

    # -- the client's side --

    def ask(self, source):
        """A burst, and then a pause: most are short, and some are longer than any timeout."""
        for _ in range(source.draw.randint(1, source.front.burst)):
            self.send(source)
        pause = min(0.5 * source.draw.paretovariate(0.45), 8000.0)
        self.at(self.now + pause, self.ask, source)

    def send(self, source):
        source.requests += 1
        conn = source.idle.pop() if source.idle else None
        if conn is not None:
            conn.turn += 1
        self.at(self.now + TRAVEL, self.arrive, source, conn)

    def answered(self, conn, hint):
        if conn.is_closed:
            return
        source, front = conn.owner, conn.owner.front
        conn.since, conn.turn = self.now, conn.turn + 1
        source.idle.append(conn)
        if len(source.idle) > front.pool:
            self.give_up(source.idle[0], source.idle[0].turn)
        keeps = min(front.keeps, hint) if front.takes_hint and hint is not None else front.keeps
        if front.purges:
            keeps = source.draw.uniform(0, front.purges)
        if keeps < math.inf:
            self.at(self.now + keeps, self.give_up, conn, conn.turn)

    def give_up(self, conn, turn):
        """Close an idle connection."""
        if conn.turn != turn or conn not in conn.owner.idle:
            return
        conn.owner.idle.remove(conn)
        self.at(self.now + TRAVEL, self.fin, conn)

    def hear_fin(self, conn):
        if conn in conn.owner.idle:
            conn.owner.idle.remove(conn)

    # -- the server's side --

    def arrive(self, source, conn):
        if conn is not None and conn.is_closed:
            source.races.append(self.now)
            if conn.handle in self.table:
                self.table.linger_progress(conn.handle, 100, self.now)
            conn = None  # lost; it is sent again, on a connection of its own
        if conn is None:
            handle = self.table.open(self.now, source.address, proxy=source.front.is_proxy)
            while not handle:
                self.close(self.table.victim(self.now), "evicted")
                self.evicted += 1
                handle = self.table.open(self.now, source.address, proxy=source.front.is_proxy)
            conn = self.by_handle[handle] = Conn(source, handle)
            self.peak = max(self.peak, len(self.table))
        else:
            source.reused += 1
        self.table.head_done(conn.handle, self.now)
        hint = self.table.decide(conn.handle, self.now).timeout
        self.at(self.now + SERVICE, self.respond, conn, hint)

    def respond(self, conn, hint):
        self.table.responded(conn.handle, self.now)
        self.at(self.now + TRAVEL, self.answered, conn, hint)

    def fin(self, conn):
        if conn.handle in self.table:
            self.close(conn.handle, "client")

    def close(self, handle, cause):
        conn = self.by_handle.pop(handle)
        conn.is_closed = True
        self.table.close(handle, cause, self.now)
        if cause != "client":
            self.at(self.now + TRAVEL, self.hear_fin, conn)

    def expire(self):
        handle, action, cause = self.table.due(self.now)
        if action == "half_close":
            conn = self.by_handle[handle]
            conn.is_closed = True
            self.table.lingering(handle, self.now)
            self.at(self.now + TRAVEL, self.hear_fin, conn)
        else:
            self.close(handle, cause)

    # -- what came of it --

    @property
    def reuse(self):
        return sum(source.reused for source in self.sources) / self.requests

    @property
    def requests(self):
        return sum(source.requests for source in self.sources)

    @property
    def n_races(self):
        return sum(len(source.races) for source in self.sources)

    def avoidable_after_the_first(self, most):
        """Races of networks that do close idle connections, before `most` seconds, but for each network's first."""
        return sum(max(0, len(source.races) - 1) for source in self.sources
                   if (HAPROXY_PURGES if source.front.purges else source.front.keeps) * 1.25 + 5 < most)


POLICIES = {
    "5": {"keep_alive_timeout": 5.0},
    "75": {"keep_alive_timeout": 75.0},
    "600": {"keep_alive_timeout": 600.0},
    "auto": {},
    "auto, no spare room": {"pressure_start": 0.0, "pressure_full": 1e-9},
    "never, the longest idle goes": {"keep_alive_timeout": 1e7},
}


def compare(seconds, room, seed=1, **fields):
    found = {}
    for name, own in POLICIES.items():
        policy = Policy(max_connections=room, max_connection_age=0, **own, **fields)
        found[name] = Simulation(policy, seed=seed).run(seconds)
    return found


if __name__ == "__main__":
    days = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    for room in (100, 1000):
        print(f"room for {room}, {days:g} days")
        for name, one in compare(days * 86400, room).items():
            print(f"  {name:30} {one.requests:8,} requests  {1e6 * one.n_races / one.requests:7.0f} races per million "
                  f"({one.avoidable_after_the_first(3900)} avoidable after a network's first)  reuse {one.reuse:.4f}  "
                  f"peak {one.peak}  evicted {one.evicted}")
