"""What does it cost to keep a connection's timeout? ns per call, and bytes per connection; peers in the same run.

make bench-table, or: python benches/bench_table.py [--quick]

touch: something happened on a connection, its idle timeout starts again. All are called from Python on connections in
the same shuffled order, interleaved round by round, and shown as best / median of the rounds, the loop included:
  uvloop, asyncio  the handle is cancelled and call_later arms another (both run their loop once a round)
  heapq            a heap of deadlines with a dict of the latest ones; outdated entries are dropped from the top
  lazy             what aiohttp does: note the new deadline, let the one armed timer find out
"""

import argparse
import asyncio
import gc
import heapq
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from array import array
from pathlib import Path

import kacore
from kacore import ConnectionTable, Policy

try:
    import uvloop
except ImportError:
    uvloop = None

TIMEOUT = 75.0
ROOT = Path(__file__).parent.parent


def nothing(_conn):
    pass


def shuffled(numbers):
    """In an order of no pattern, each number a fresh object, as an event loop makes it from what the kernel says."""
    order = array("Q", numbers)
    random.Random(len(order)).shuffle(order)
    return list(order)


class Kacore:
    name = "kacore"

    def __init__(self, n):
        self.table = ConnectionTable(Policy(max_connections=n, pressure_start=1.0, pressure_full=1.0), seed=1)
        self.conns = [self.table.open(0.0) for _ in range(n)]
        for conn in self.conns:
            self.table.head_done(conn, 0.0)
            self.table.responded(conn, 0.0)
        self.conns = shuffled(self.conns)

    async def round(self, now):
        touch = self.table.touch
        start = time.perf_counter_ns()
        for conn in self.conns:
            touch(conn, now)
        return time.perf_counter_ns() - start


class KacoreRequest(Kacore):
    name = "kacore, whole request"

    async def round(self, now):
        received, head_done = self.table.received, self.table.head_done
        decide, responded = self.table.decide, self.table.responded
        start = time.perf_counter_ns()
        for conn in self.conns:
            received(conn, now)
            head_done(conn, now)
            decide(conn, now)
            responded(conn, now)
        return time.perf_counter_ns() - start


class CallLater:
    def __init__(self, n):
        self.conns = list(range(n))
        self.handles = [asyncio.get_running_loop().call_later(TIMEOUT, nothing, conn) for conn in self.conns]
        self.conns = shuffled(self.conns)

    async def round(self, now):
        handles, call_later = self.handles, asyncio.get_running_loop().call_later
        start = time.perf_counter_ns()
        for conn in self.conns:
            handles[conn].cancel()
            handles[conn] = call_later(TIMEOUT, nothing, conn)
        await asyncio.sleep(0)
        return time.perf_counter_ns() - start

    def __del__(self):
        for handle in self.handles:
            handle.cancel()


class Uvloop(CallLater):
    name = "uvloop"


class Asyncio(CallLater):
    name = "asyncio"


class Heapq:
    name = "heapq"

    def __init__(self, n):
        self.conns = list(range(n))
        self.deadlines = dict.fromkeys(self.conns, TIMEOUT)
        self.heap = [(TIMEOUT, conn) for conn in self.conns]
        self.conns = shuffled(self.conns)

    async def round(self, now):
        heap, deadlines, push, pop = self.heap, self.deadlines, heapq.heappush, heapq.heappop
        start = time.perf_counter_ns()
        for conn in self.conns:
            deadline = now + TIMEOUT
            deadlines[conn] = deadline
            push(heap, (deadline, conn))
            while heap[0][0] != deadlines[heap[0][1]]:
                pop(heap)
        return time.perf_counter_ns() - start


class LazyConn:
    __slots__ = ("deadline", "handle")

    def __init__(self):
        self.deadline = TIMEOUT
        self.handle = asyncio.get_running_loop().call_later(TIMEOUT, nothing, self)

    def touch(self, now):
        self.deadline = now + TIMEOUT
        if self.handle is None:
            self.handle = asyncio.get_running_loop().call_later(TIMEOUT, nothing, self)


class Lazy:
    name = "lazy"

    def __init__(self, n):
        self.conns = [LazyConn() for _ in range(n)]
        random.Random(n).shuffle(self.conns)

    async def round(self, now):
        start = time.perf_counter_ns()
        for conn in self.conns:
            conn.touch(now)
        return time.perf_counter_ns() - start

    def __del__(self):
        for conn in self.conns:
            conn.handle.cancel()


def measure(n, rounds):
    """{name: [ns per call of each round]}. Each kind sits in an event loop of its own; they take turns."""
    kinds = [Kacore, KacoreRequest, Asyncio, Heapq, Lazy, *([Uvloop] if uvloop else [])]
    random.Random(n).shuffle(kinds)
    turns = max(3, 50_000 // n)
    stands, seen = [], {kind.name: [] for kind in kinds}

    async def make(kind):
        return kind(n)

    for kind in kinds:
        loop = uvloop.new_event_loop() if kind is Uvloop else asyncio.new_event_loop()
        stands.append((kind.name, loop, loop.run_until_complete(make(kind))))
    gc.collect()
    gc.freeze()
    now = 1.0
    for k in range(rounds + 1):
        for name, loop, stand in stands:
            spent = 0
            for _ in range(turns):
                now += 0.001
                spent += loop.run_until_complete(stand.round(now))
            if k:  # the first round warms up
                seen[name].append(spent / turns / n)
    gc.unfreeze()
    while stands:
        name, loop, stand = stands.pop()
        del stand
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    return seen


def touches(rounds):
    for n in (1_000, 10_000, 100_000):
        seen = measure(n, rounds)
        ours = seen["kacore"]
        print(f"touch, {n:,} connections, from Python: best / median of {rounds} rounds")
        for name, samples in seen.items():
            best, median = min(samples), statistics.median(samples)
            times = statistics.median(other / own for other, own in zip(samples, ours, strict=True))
            print(f"  {name:<22}{best:10.1f} /{median:8.1f} ns   {times:6.1f} x kacore's touch")


def inside_c(compiler):
    with tempfile.TemporaryDirectory() as build:
        binary = Path(build) / "table_bench"
        sources = [ROOT / "benches/table_bench.c", *(ROOT / "src/core/table").glob("*.c")]
        flags = ["-std=gnu11", "-O3", f"-I{ROOT / 'src/core'}"]
        subprocess.run([compiler, *flags, *map(str, sources), "-o", str(binary)], check=True)
        seen = json.loads(subprocess.run([str(binary)], check=True, capture_output=True, text=True, timeout=120).stdout)
    print(f"inside C ({compiler} -O3): best / median of 7 rounds, ns")
    for name, sizes in seen.items():
        shown = [f"{int(n):,}: {min(ns):.1f} / {statistics.median(ns):.1f}" for n, ns in sizes.items()]
        print(f"  {name:<22}{'   '.join(shown)}")


def calls(repeats):
    """Single calls from Python on a table of a million idle connections."""
    n = 1_000_000
    policies = [Policy(max_connections=n, keep_alive_timeout=timeout, client_share=1.0) for timeout in (75.0, 74.0)]
    table = ConnectionTable(policies[0], seed=1)
    worst_open = 0
    for i in range(n):
        start = time.perf_counter_ns()
        conn = table.open(0.0, (i % 100_000).to_bytes(4, "big"))
        worst_open = max(worst_open, time.perf_counter_ns() - start)
        table.head_done(conn, 0.0)
        table.responded(conn, 0.0)
    print("a million connections of 100,000 clients, all idle:")
    print(f"  {'bytes a connection':<22}{table.nbytes / n:10.1f}")
    print(f"  {'worst single open':<22}{worst_open / 1000:10.1f} us, whatever else the machine did included")
    for name, call in (
        ("tick, nothing due", lambda _: (table.expire(1.0), table.next_due())),
        ("another idle timeout", lambda k: table.set_policy(policies[k & 1])),
    ):
        samples = []
        for k in range(repeats):
            start = time.perf_counter_ns()
            call(k)
            samples.append(time.perf_counter_ns() - start)
        print(f"  {name:<22}{min(samples):10.0f} /{statistics.median(samples):8.0f} ns")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--cc", default=os.environ.get("CC", "cc"), help="compiler for what runs inside C")
    options = parser.parse_args()
    print(f"kacore {kacore.__version__}, Python {platform.python_version()},", end=" ")
    print(f"uvloop {uvloop.__version__}," if uvloop else "no uvloop,", platform.machine(), f"{os.cpu_count()} cores")
    print("built with", sysconfig.get_config_var("CFLAGS") or "?")
    touches(3 if options.quick else 7)
    inside_c(options.cc)
    calls(200 if options.quick else 2000)


if __name__ == "__main__":
    sys.exit(main())
