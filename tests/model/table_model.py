"""The connection table in plain Python: no queues, no links, no bounds; every answer is found by looking at everything.

It states what docs/table.md promises, and the compiled table must answer the same to every call. It shares no idea
with it but the arithmetic that is part of the promise: rounding of seconds, the age jitter, buckets of histograms.
"""

import math
from collections import Counter

PHASES = ("free", "handshake", "new", "head", "body", "busy", "write", "idle", "linger", "tunnel")
LIMITS = {
    "handshake": ("handshake_timeout", "close", "handshake_timeout"),
    "new": ("first_byte_timeout", "close", "first_byte_timeout"),
    "head": ("request_header_timeout", "answer_408", "header_timeout"),
    "body": ("request_body_timeout", "answer_408", "body_timeout"),
    "busy": ("handler_timeout", "answer_503", "handler_timeout"),
    "write": ("send_timeout", "close", "send_timeout"),
    "idle": ("keep_alive_timeout", "half_close", "idle_timeout"),
    "linger": ("linger_timeout", "close", "error"),
    "tunnel": (None, "close", "upgraded"),
}
MOVES = {
    "handshake_done": {"handshake": "new"},
    "received": {"new": "head", "idle": "head"},
    "head_done": {"new": "busy", "head": "busy", "idle": "busy"},
    "body_wanted": {"busy": "body"},
    "body_arrived": {"body": "busy"},
    "blocked": {"head": "write", "busy": "write", "body": "write", "tunnel": "write"},
    "unblocked": {"write": "busy"},
    "responded": {"busy": "idle", "body": "idle", "write": "idle"},
    "lingering": dict.fromkeys(("handshake", "new", "head", "body", "busy", "write", "idle", "tunnel"), "linger"),
    "tunnelled": dict.fromkeys(("busy", "body", "write"), "tunnel"),
    "stream_opened": dict.fromkeys(("new", "head", "idle", "busy"), "busy"),
    "stream_closed": {"busy": "idle"},
}
STREAM_EVENTS = ("stream_opened", "stream_closed")
WORD = (1 << 64) - 1


def is_proxy(client):
    """A client is its address; of a trusted proxy the address and True."""
    return isinstance(client, tuple)


def is_client(client):
    return client is not None and not is_proxy(client)


class Refused(Exception):
    """What LocalError is to the table."""


def mix(x):
    x = (x + 0x9E3779B97F4A7C15) & WORD
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & WORD
    return x ^ x >> 31


def bucket(value):
    """The bucket of a value, by walking the edges 0, 1, 2, 3, 4, 6, 8, 12, ..."""
    if value < 2:
        return value
    edge, step, k = 2, 1, 2
    while value >= edge + step and k < 63:
        edge += step
        k += 1
        if edge & (edge - 1) == 0:
            step = edge // 2
    return k


def seconds(ns):
    now = ns / 1e9
    while math.floor(now * 1e9) < ns:
        now = math.nextafter(now, math.inf)
    return now


def ns_of(seconds):
    return math.ceil(seconds * 1e9)


RUNGS = 20


def ladder_of(least, most):
    """The timeouts that "auto" stands for, in ns."""
    step = 1.25
    while True:
        reach = float(least)
        for _ in range(RUNGS - 1):
            reach *= step
        if reach >= most:
            break
        step *= 1.01
    rungs, ns = [least], float(least)
    while len(rungs) < RUNGS - 1 and rungs[-1] < most:
        ns *= step
        rungs.append(min(int(ns), most))
    return rungs if rungs[-1] == most else [*rungs, most]


class Network:
    """Everything that was seen of a network, in order: (what, milliseconds idle, second)."""

    def __init__(self):
        self.seen = []

    def learned(self):
        """The largest ages at which they, and we, closed first, each of this half day and of the one before; whether there
        was a race, in the same way."""
        theirs, ours, raced, began = [0, 0], [0, 0], [False, False], None
        for what, age, second in self.seen:
            if what == "raced":
                raced[0] = True
                continue
            if began is None:
                began = second
            if second - began >= 12 * 3600:
                began = second
                for pair, nothing in ((theirs, 0), (ours, 0), (raced, False)):
                    pair[:] = nothing, pair[0]
            of = theirs if what == "theirs" else ours
            of[0] = max(of[0], age)
        return theirs, ours, raced

    def rung(self, ladder):
        theirs, ours, raced = self.learned()
        wanted = (max(theirs) + max(theirs) // 4 + 5000) * 10**6 if self.count("theirs") else 0
        if max(ours) and max(ours) >= max(theirs):
            wanted = math.inf if any(raced) else max(wanted, 2 * max(ours) * 10**6)
        return next((k for k, ns in enumerate(ladder) if ns >= wanted), len(ladder) - 1)

    def count(self, what):
        return min(65535, sum(one[0] == what for one in self.seen))


class Conn:
    def __init__(self, phase, policy_class, client, now, order):
        self.rung = 0  # of the queue that it is in, when idle
        self.was_idle = False  # when we closed it
        self.phase, self.policy_class, self.home, self.client = phase, policy_class, policy_class, client
        self.since, self.order, self.ring_order = now, order, order
        self.opened = -(-now // (1 << 24)) << 24
        self.requests = self.spent = self.moved = self.streams = 0
        self.is_sending = self.is_multiplexed = self.was_slow = False
        self.ending = None


class Model:
    def __init__(self, policies, seed):
        self.conns = {}
        self.base = self.now = None
        self.order = 0
        self.jitter_seed = mix((seed + 1) & WORD)
        self.records, self.free_records, self.n_records = {}, [], 1  # a client's place decides order in one case
        self.remembered = []  # networks without a connection, the longest so first
        self.networks = {None: Network()}
        self.over = []
        self.share = None
        self.drained = None  # [grace_end, spread, deadline, idle connections when the grace ended or 0, grace]
        self.accepted = self.n_requests = self.reused = 0
        self.closed, self.gaps, self.ages_left, self.counts = Counter(), Counter(), Counter(), Counter()
        self.set_policy(policies)

    # -- rules --

    def set_policy(self, policies):
        self.policies = policies
        self.capacity = policies[0]
        self.ladder = ladder_of(ns_of(self.capacity.keep_alive_min), ns_of(self.capacity.keep_alive_max))
        self.forget_over_limit()
        share = max(1, int(self.capacity.client_share * self.capacity.max_connections))
        if share != self.share:
            self.share = share
            idle = Counter(conn.client for conn in self.conns.values() if conn.phase == "idle")
            clients = sorted(self.records, key=self.records.get)
            self.over = [client for client in clients if idle[client] > share and not is_proxy(client)]

    def policy(self, policy_class):
        return self.policies[policy_class if policy_class < len(self.policies) else 0]

    def is_auto(self, policy_class):
        return self.policy(policy_class).keep_alive_timeout == "auto"

    def rung_of(self, conn):
        return self.networks[conn.client].rung(self.ladder) if self.is_auto(conn.policy_class) else 0

    def limit(self, policy_class, phase, rung=0):
        name = LIMITS[phase][0]
        if phase == "idle" and self.is_auto(policy_class):
            limit = self.ladder[min(rung, len(self.ladder) - 1)]
            limit += int(float(ns_of(self.capacity.keep_alive_max) - limit) * self.relief())
        else:
            limit = ns_of(getattr(self.policy(policy_class), name)) if name else 0
        if phase == "linger":
            limit = min(limit, ns_of(self.policy(policy_class).linger_time))
        return limit

    def relief(self):
        n, most = len(self.conns), self.capacity.max_connections
        start, full = self.capacity.pressure_start * most, self.capacity.pressure_full * most
        if n <= start:
            return 1.0
        return (full - n) / (full - start) if n < full else 0.0

    # -- time --

    def clock(self, ns):
        if self.base is None:
            self.base, self.now = ns, 0
        self.now = max(self.now, ns - self.base)
        if self.drained and not self.drained[3] and self.now >= self.drained[0]:
            self.drained[3] = max(1, self.count("idle"))
        return self.now

    def start(self, now):
        return self.clock(math.ceil(now * 1e9))

    def until(self, now):
        return self.clock(math.floor(now * 1e9))

    # -- looking --

    def find(self, conn):
        if conn not in self.conns:
            raise Refused
        return self.conns[conn]

    def count(self, phase):
        return sum(conn.phase == phase for conn in self.conns.values())

    def heads(self, *phases):
        """The first of each (phase, class), in that order; of idle ones that of each rung, the higher ones at the end."""
        first = {}
        for handle, conn in self.conns.items():
            if not phases or conn.phase in phases:
                rung = conn.rung if conn.phase == "idle" else 0
                key = (len(PHASES) + rung if rung else PHASES.index(conn.phase), conn.policy_class)
                if key not in first or (conn.since, conn.order) < first[key][:2]:
                    first[key] = (conn.since, conn.order, handle)
        return [(key, first[key][2]) for key in sorted(first)]

    def due_of(self, conn):
        limit = self.limit(conn.policy_class, conn.phase, conn.rung)
        due = conn.since + limit if limit else math.inf
        if self.drained:
            grace_end, spread, deadline, ramp_from, grace = self.drained
            due = min(due, deadline)
            if conn.phase == "new":
                due = min(due, max(grace_end + spread, conn.since + grace))
            elif conn.phase == "idle":
                gone = max(0, ramp_from - self.count("idle"))
                due = min(due, grace_end + (spread * gone // ramp_from if ramp_from else 0))
        return due

    def earliest(self):
        """(due, since, phase, class, handle) of who is due first, or None."""
        dues = []
        for (phase, policy_class), handle in self.heads():
            due = self.due_of(self.conns[handle])
            if due != math.inf:
                dues.append((due, self.conns[handle].since, phase, policy_class, handle))
        return min(dues, default=None)

    def next_due(self):
        first = self.earliest()
        return None if first is None else seconds(self.base + first[0])

    def due(self, now):
        now = self.until(now)
        first = self.earliest()
        if first is None or first[0] > now:
            return None
        conn = self.conns[first[4]]
        _, action, cause = LIMITS[conn.phase]
        limit = self.limit(conn.policy_class, conn.phase, conn.rung)
        is_over = limit and conn.since + limit <= now
        if conn.phase == "linger" and conn.ending:
            cause = conn.ending
        elif self.drained and (not is_over or now >= self.drained[2]):
            cause = "drain"
            if now >= self.drained[2]:
                action = "answer_503" if conn.phase in ("body", "busy") else "close"
        if conn.is_multiplexed and conn.phase in ("idle", "busy"):
            action = "goaway"
        if action != "close":
            conn.ending = cause
        return first[4], action, cause

    def victim(self, now):
        now = self.until(now)

        def oldest(*phases):
            # Among equals the one whose class, and before that whose phase, comes first in the order given.
            found = [(self.conns[handle].since, phases.index(self.conns[handle].phase), lane, policy_class, handle)
                     for (lane, policy_class), handle in self.heads(*phases)]
            return min(found, default=(0,))[-1]

        victim = oldest("linger")
        if not victim and self.over:
            mine = [(conn.ring_order, handle) for handle, conn in self.conns.items()
                    if conn.phase == "idle" and conn.client == self.over[0]]
            victim = min(mine)[1]
        if victim:
            return victim
        idle, young, head = oldest("idle"), oldest("new", "handshake"), oldest("head")

        def waits(handle, at_least):
            return handle and now - self.conns[handle].since >= at_least

        order = (
            (idle, waits(idle, ns_of(self.capacity.min_idle_before_evict))),
            (young, waits(young, 10**9)),
            (idle, True),
            (head, waits(head, 10**9)),
            (self.slow_victim(now), True),
            (young, True),
            (head, True),
        )
        return next((handle for handle, goes in order if handle and goes), 0)

    def slow_victim(self, now):
        """Of all who are slow: body before write, within it one whose client has more than its share, the lowest class,
        the longest without a byte."""
        rate = self.capacity.min_rate_when_full
        n_open = Counter(conn.client for conn in self.conns.values())
        slow = [
            (conn.phase == "write", not is_client(conn.client) or n_open[conn.client] <= self.share, conn.policy_class,
             conn.since, conn.order, handle)
            for handle, conn in self.conns.items()
            if rate and conn.phase in ("body", "write") and self.is_slow(conn, now, rate)
        ]
        return min(slow)[-1] if slow else 0

    def is_slow(self, conn, now, rate):
        window, waited = ns_of(self.policy(conn.policy_class).rate_window), now - conn.since
        if waited >= window:
            return True
        spent = moved = 0
        was_slow = False
        if conn.is_sending == (conn.phase == "write"):
            spent, moved, was_slow = conn.spent * 1000, conn.moved, conn.was_slow
        if spent + waited < window and not was_slow:
            return False
        return moved == 0 or moved * 10**9 < rate * (spent + waited)

    # -- moving --

    def tell_over(self, client, step):
        """An idle connection of this client came (+1) or left (-1), and is counted already."""
        if is_proxy(client):
            return
        n = sum(conn.phase == "idle" and conn.client == client for conn in self.conns.values())
        if step > 0 and n == self.share + 1:
            self.over.append(client)
        elif step < 0 and n == self.share:
            self.over.remove(client)

    def enter(self, conn, phase, now):
        was = conn.phase
        self.order += 1
        conn.phase, conn.since, conn.order, conn.ring_order = phase, now, self.order, self.order
        if phase == "idle":
            conn.rung = self.rung_of(conn)
        if conn.client is not None and was != phase:
            if was == "idle":
                self.tell_over(conn.client, -1)
            elif phase == "idle":
                self.tell_over(conn.client, +1)

    def open(self, now, client, policy_class, tls, handle):
        """handle: what the table answered, 0 when it refused. Return: whether that was right."""
        if len(self.conns) >= self.capacity.max_connections:
            return handle == 0
        most = self.capacity.max_connections_per_client
        if is_client(client) and most and sum(conn.client == client for conn in self.conns.values()) >= most:
            self.accepted += 1
            self.closed["client_limit"] += 1
            self.counts[0] += 1
            return handle == 0
        now = self.start(now)
        self.order += 1
        self.conns[handle] = Conn("handshake" if tls else "new", policy_class, client, now, self.order)
        if client in self.remembered:
            self.remembered.remove(client)
        if client is not None and client not in self.records:
            self.networks[client] = Network()
            if self.free_records:
                self.records[client] = self.free_records.pop()
            else:
                self.records[client] = self.n_records
                self.n_records += 1
        self.accepted += 1
        return handle > 0

    # -- networks --

    def idle_ended(self, conn, cause):
        """An idle connection ends by this cause, now."""
        who = "theirs" if cause in ("client", "error") else "ours" if cause == "idle_timeout" else None
        age = (self.now - conn.since) // 10**6
        if who == "theirs":
            self.ages_left[bucket(age)] += 1
        if who and self.is_auto(conn.policy_class):
            self.networks[conn.client].seen.append((who, age, self.now // 10**9))

    def forget(self, client):
        self.remembered.remove(client)
        self.free_records.append(self.records.pop(client))
        del self.networks[client]

    def forget_over_limit(self):
        for proxies in (False, True):
            kind = [client for client in self.remembered if is_proxy(client) == proxies]
            for client in kind[: max(0, len(kind) - self.capacity.max_connections)]:
                self.forget(client)

    def left(self, client):
        """A connection of this network has gone."""
        if client is None or any(other.client == client for other in self.conns.values()):
            return
        self.remembered.append(client)
        network = self.networks[client]
        if not (network.rung(self.ladder) or (is_proxy(client) and network.count("theirs") + network.count("ours"))):
            self.forget(client)
        else:
            self.forget_over_limit()

    def learned(self, now):
        self.until(now)
        found = {}
        for client, network in self.networks.items():
            if network.seen:
                theirs, ours, _raced = network.learned()
                found[client] = {
                    "kept_for": self.ladder[network.rung(self.ladder)] / 1e9,
                    "connections": sum(conn.client == client for conn in self.conns.values()),
                    "theirs": [age / 1e3 for age in theirs],
                    "ours": [age / 1e3 for age in ours],
                    "closed_by_them": network.count("theirs"),
                    "closed_by_us": network.count("ours"),
                    "races": network.count("raced"),
                }
        return found

    def event(self, name, handle, now):
        conn = self.find(handle)
        to = MOVES[name].get(conn.phase)
        is_stream = name in STREAM_EVENTS
        if (
            to is None
            or (conn.is_multiplexed and not is_stream and name != "lingering")
            or (is_stream and not conn.is_multiplexed and (name == "stream_closed" or conn.requests))
        ):
            raise Refused
        now = self.start(now)
        if name in ("received", "head_done", "stream_opened"):
            if conn.phase == "idle":
                self.gaps[bucket((now - conn.since) // 1_000_000)] += 1
                conn.policy_class = conn.home
            conn.ending = None
            conn.spent = conn.moved = 0
            conn.was_slow = False
            if name != "received":
                self.n_requests += 1
                self.reused += conn.requests > 0
                conn.requests += 1
        if name == "responded":
            conn.ending = None
        if name == "lingering":
            if conn.phase == "idle":
                self.idle_ended(conn, conn.ending)
            conn.was_idle = conn.phase == "idle" and not conn.is_multiplexed
            conn.moved = 0
            conn.lingers_from = -(-now // (1 << 20))
        if name == "stream_opened":
            conn.is_multiplexed = True
            conn.streams = conn.streams + 1 if conn.phase == "busy" else 1
        if name == "stream_closed":
            conn.streams -= 1
            if conn.streams:
                to = "busy"
        self.enter(conn, to, now)

    def progress(self, handle, nbytes, now, phases):
        conn = self.find(handle)
        if conn.phase not in phases:
            raise Refused
        now = self.start(now)
        policy = self.policy(conn.policy_class)
        if conn.phase == "linger":
            if conn.was_idle and self.is_auto(conn.policy_class):
                self.networks[conn.client].seen.append(("raced", 0, self.now // 10**9))
            conn.was_idle = False
            conn.moved += nbytes
            lasted = max(0, (now >> 20) - conn.lingers_from) << 20
            self.enter(conn, "linger", now)
            is_over = (policy.linger_bytes and conn.moved > policy.linger_bytes) or lasted >= ns_of(policy.linger_time)
            return (conn.ending or "error") if is_over else None
        if conn.phase not in ("body", "write"):
            return None
        if conn.is_sending != (conn.phase == "write"):
            conn.is_sending = not conn.is_sending
            conn.spent = conn.moved = 0
            conn.was_slow = False
        conn.moved += nbytes
        conn.spent += (now - conn.since) // 1000
        rate = policy.min_request_body_rate if conn.phase == "body" else policy.min_send_rate
        waited = conn.spent * 1000
        is_slow = False
        if waited >= ns_of(policy.rate_window):
            is_slow = conn.moved * 10**9 < rate * waited
            conn.was_slow = conn.moved * 10**9 < self.capacity.min_rate_when_full * waited
            if not is_slow:
                conn.spent = conn.moved = 0
        self.enter(conn, conn.phase, now)
        if is_slow:
            conn.ending = "body_rate" if conn.phase == "body" else "send_rate"
            return conn.ending
        return None

    def touch(self, handle, now):
        conn = self.find(handle)
        self.enter(conn, conn.phase, self.start(now))

    def set_class(self, handle, policy_class):
        conn = self.find(handle)
        if conn.policy_class != policy_class:
            conn.policy_class = policy_class
            conn.rung = self.rung_of(conn) if conn.phase == "idle" else 0
            self.order += 1
            conn.order = self.order

    def close(self, handle, cause, now):
        conn = self.find(handle)
        self.until(now)
        if conn.phase == "idle":
            self.idle_ended(conn, cause)
        del self.conns[handle]
        self.closed[cause] += 1
        self.counts[bucket(conn.requests)] += 1
        if conn.client is not None and conn.phase == "idle":
            self.tell_over(conn.client, -1)
        self.left(conn.client)

    def decide(self, handle, now, http_version, client_persists, must_close):
        """(keeps, cause, fields)."""
        conn = self.find(handle)
        if conn.phase not in ("head", "body", "busy", "write"):
            raise Refused
        now = self.start(now)
        policy = self.policy(conn.policy_class)
        most = policy.max_keep_alive_requests
        max_age = ns_of(policy.max_connection_age)
        span = max_age * int(policy.age_jitter * 1000 + 0.5) // 1000
        age = max_age - span + (span * (mix(handle ^ self.jitter_seed) >> 33) >> 30)
        reasons = (
            (must_close is not None, must_close),
            (not client_persists, "client"),
            (not policy.keep_alive, "policy"),
            (self.drained, "drain"),
            (most and conn.requests >= most, "max_requests"),
            (max_age and max(0, now - conn.opened) >= age, "max_age"),
        )
        conn.ending = next((cause for holds, cause in reasons if holds), None)
        if conn.is_multiplexed or http_version == "2":
            return conn.ending is None, conn.ending, ()
        if conn.ending:
            return False, conn.ending, ((b"connection", b"close"),)
        words = []
        is_auto = self.is_auto(conn.policy_class)
        timeout = self.ladder[self.rung_of(conn)] if is_auto else self.limit(conn.policy_class, "idle")
        promise = (timeout - ns_of(policy.advertise_margin)) // 10**9
        if policy.advertise and promise >= 1:
            words = [b"timeout=%d" % promise] + ([b"max=%d" % (most - conn.requests)] if most else [])
        fields = [(b"connection", b"keep-alive")] if words or http_version == "1.0" else []
        return True, None, (*fields, *([(b"keep-alive", b", ".join(words))] if words else []))

    def drain(self, now, grace, spread, timeout):
        now = self.start(now)
        grace = ns_of(grace)
        grace_end = now + grace
        spread_end, deadline = grace_end + ns_of(spread), now + ns_of(timeout)
        if self.drained:
            spread_end = min(spread_end, self.drained[0] + self.drained[1])
            deadline, grace_end = min(deadline, self.drained[2]), min(grace_end, self.drained[0])
            grace = min(grace, self.drained[4])
        self.drained = [grace_end, spread_end - grace_end, deadline, 0, grace]

    def stats(self):
        return {
            "phases": {phase: self.count(phase) for phase in PHASES[1:]},
            "accepted": self.accepted,
            "requests": self.n_requests,
            "reused": self.reused,
            "closed": +self.closed,
            "idle_gap": [self.gaps[k] for k in range(64)],
            "idle_left": [self.ages_left[k] for k in range(64)],
            "requests_per_connection": [self.counts[k] for k in range(64)],
        }
