"""The measurements that one load does not answer: idle connections, lag, system calls, memory, starts, workers.

Each takes the scenario and the plan of scenarios.py, and returns records by the part of the name that follows the
scenario's.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from servers.idle import Idle
from servers.load import Load, measure, read_wrk, wrk_command
from servers.process import NotMeasured, Running, process_tree

if TYPE_CHECKING:
    from servers.scenarios import Plan, Record, Scenario

CURVE = (2_000, 6_000, 10_000, 14_000, 18_000)
N_BIG = 1000


def record(first: str) -> Record:
    from servers.scenarios import Record

    return Record(first)


@contextlib.contextmanager
def started(plan: Plan, name: str, app: str, **options) -> Iterator[Running]:
    server = Running(name, app, plan.place, **options)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def holder(plan: Plan, server: Running) -> Iterator[Idle]:
    idle = Idle(server.port, plan.place.client_cores, server.tls, server.peer.is_http2)
    try:
        yield idle
    finally:
        idle.stop()


# --- idle connections ---------------------------------------------------------------------------------------


def warm(idle: Idle) -> None:
    """Pools and caches: 200 connections that come and go."""
    idle.hold(200)
    idle.hold(0)
    time.sleep(0.5)


def idle(scenario: Scenario, plan: Plan) -> dict[str, Record]:
    """Growth of the server's memory from just before the first connection, and its CPU time while all are idle."""
    records = {f"{n:,}": record("bytes_each") for n in CURVE} | {"CPU": record("percent")}
    seconds = 3 if plan.quick else 10
    for name in plan.servers(scenario.servers):
        try:
            with started(plan, name, "hello", patient=True) as server, holder(plan, server) as held:
                warm(held)
                before = server.memory()
                for n in CURVE:
                    held.hold(n)
                    records[f"{n:,}"].add(name, {"bytes_each": (server.memory() - before) / n})
                time.sleep(1)
                spent = server.cpu()
                time.sleep(seconds)
                records["CPU"].add(name, {"percent": (server.cpu() - spent) / seconds * 100})
        except (NotMeasured, OSError) as reason:
            for one in records.values():
                if name not in one.figures:
                    one.lost[name] = str(reason)
    return records


# What the kernel keeps for a connection. An end has one of each of the first three; both ends are on this machine.
# Its name (a dentry of 192 bytes on 64-bit Linux) is left out, for other programs make and drop those all the time.
OF_AN_END = ("TCP", "sock_inode_cache", "filp")
OF_EPOLL = ("eventpoll_epi", "ep_head")


def slab_bytes() -> dict[str, float]:
    """Bytes of each of the kernel's slabs that hold objects in use, with what their pages lose."""
    found = {}
    for line in Path("/proc/slabinfo").read_text().splitlines()[2:]:
        name, in_use, _, _, per_slab, pages = line.split()[:6]
        found[name] = int(in_use) / int(per_slab) * int(pages) * resource.getpagesize()
    return found


def kernel(scenario: Scenario, plan: Plan, n: int = 18_000) -> dict[str, Record]:
    """The kernel's memory for the server's end of an idle connection. Needs root, to read /proc/slabinfo."""
    one = record("bytes_each")
    with started(plan, "kacore-asgi", "hello", patient=True) as server, holder(plan, server) as held:
        warm(held)
        before = slab_bytes()
        held.hold(n)
        after = slab_bytes()
    grown = {name: (after.get(name, 0) - before.get(name, 0)) / n for name in (*OF_AN_END, *OF_EPOLL)}
    ends = sum(grown[name] / 2 for name in OF_AN_END)
    one.add("kacore-asgi", {"bytes_each": ends + sum(grown[name] for name in OF_EPOLL)})
    return {f"{n:,}": one}


def idle_h2(scenario: Scenario, plan: Plan) -> dict[str, Record]:
    """One request of a browser on each connection, then nothing: what HPACK remembers of it is there."""
    return {f"{n:,}": idle_at(scenario, plan, n, tls=False) for n in (2_000, 10_000)}


def idle_h2_tls(scenario: Scenario, plan: Plan, n: int = 3000) -> dict[str, Record]:
    return {f"{n:,}": idle_at(scenario, plan, n, tls=True)}


def idle_tls(scenario: Scenario, plan: Plan, n: int = 3000) -> dict[str, Record]:
    return {f"{n:,}": idle_at(scenario, plan, n, tls=True)}


def idle_at(scenario: Scenario, plan: Plan, n: int, *, tls: bool) -> Record:
    """Growth of the server's memory by so many idle connections."""
    one = record("bytes_each")
    for name in plan.servers(scenario.servers):
        try:
            with started(plan, name, "hello", patient=True, tls=tls) as server, holder(plan, server) as held:
                warm(held)
                before = server.memory()
                held.hold(n)
                one.add(name, {"bytes_each": (server.memory() - before) / n})
        except (NotMeasured, OSError) as reason:
            one.lost[name] = str(reason)
    return one


def beside(scenario: Scenario, plan: Plan) -> dict[str, Record]:
    """Two of each server, one without idle connections: what the idle ones cost, and what they do to p99."""
    counts = (18_000,) if plan.quick else (1_000, 5_000, 18_000)
    loads = {"": Load(64), ", 32 active": Load(32)}
    records = {}
    with contextlib.ExitStack() as stack:
        alone, crowded, holders = [], [], []
        for name in plan.servers(scenario.servers):
            label = f"{name} alone"
            alone.append(stack.enter_context(started(plan, name, "hello", patient=True, label=label)))
            crowded.append(stack.enter_context(started(plan, name, "hello", patient=True)))
            holders.append(stack.enter_context(holder(plan, crowded[-1])))
        for n in counts:
            for held in holders:
                held.hold(n)
            for suffix, load in loads.items():
                if suffix and n != counts[-1]:
                    continue
                one = record("cpu_us")
                for number in range(plan.rounds + 1):
                    for server in [*crowded, *alone]:
                        figures = measure(server, load, plan.place, plan.seconds if number else 1)
                        if number:
                            one.add(server.name, figures)
                records[f"{n:,}{suffix}"] = one
    return records


def full(scenario: Scenario, plan: Plan, n: int = 1000) -> dict[str, Record]:
    """--max-connections filled with idle ones: how long do clients wait that come on top?"""
    one = record("wait_ms")
    limits = ("--max-connections", str(n), "--pressure-start", "1", "--pressure-full", "1")
    with started(plan, "kacore-asgi", "hello", arguments=limits) as server, holder(plan, server) as held:
        held.hold(n)
        for i in range(50):
            began = time.perf_counter()
            server.ask()
            one.add(server.name, {"wait_ms": (time.perf_counter() - began) * 1e3})
            held.hold(n + i + 1)  # in place of the client that was closed for this one
    return {f"with {n:,}": one}


# --- under load ---------------------------------------------------------------------------------------------


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def lag(scenario: Scenario, plan: Plan) -> dict[str, Record]:
    """A task of the application sleeps 2 ms again and again while wrk keeps the loop busy: how late does it wake?"""
    one = record("p99_ms")
    with contextlib.ExitStack() as stack:
        servers = []
        for name in plan.servers(scenario.servers):
            if name != "nginx":
                servers.append(stack.enter_context(started(plan, name, scenario.app)))
        for number in range(plan.rounds + 1):
            for server in servers:
                server.ask("/start")
                measure(server, Load(64), plan.place, plan.seconds if number else 1)
                lags = [value * 1e3 for value in json.loads(server.ask("/lag"))]
                if number:
                    one.add(
                        server.name,
                        {"p99_ms": percentile(lags, 0.99), "median_ms": statistics.median(lags), "worst_ms": max(lags)},
                    )
    return {"": one}


def count_with_perf(server: Running, command: list[str]) -> float:
    pids = ",".join(map(str, process_tree(server.process.pid)))
    perf = ["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", pids, "--", *command]
    done = subprocess.run(perf, capture_output=True, text=True, timeout=60)
    counted = re.search(r"^(\d+),,raw_syscalls:sys_enter", done.stderr, re.M)
    if not counted:
        raise NotMeasured(f"perf: {done.stderr.strip()[-150:]}")
    return int(counted[1]) / read_wrk(done)["n"]


def count_with_strace(server: Running, command: list[str]) -> float:
    log = server.directory / "strace"
    strace = subprocess.Popen(
        ["strace", "-f", "-c", "-o", str(log), *(f"-p{pid}" for pid in process_tree(server.process.pid))],
        stderr=subprocess.DEVNULL,
    )
    time.sleep(0.5)
    try:
        n = read_wrk(subprocess.run(command, capture_output=True, text=True, timeout=60))["n"]
    finally:
        strace.terminate()
        strace.wait()
    total = re.search(r"^100\.00\s+\S+\s+(?:\S+\s+)?(\d+)\s.*total$", log.read_text(), re.M)
    if not total:
        raise NotMeasured("strace gave no total")
    return int(total[1]) / n


def syscalls(scenario: Scenario, plan: Plan) -> dict[str, Record]:
    """Counted by the kernel's tracepoint where perf may read it, else by strace, which slows the server down."""
    one = record("calls")
    for name in plan.servers(scenario.servers):
        with started(plan, name, "hello") as server:
            command = wrk_command(server, Load(64), plan.place.client_cores, plan.seconds, plan.place.scratch)
            try:
                try:
                    calls = count_with_perf(server, command)
                except (NotMeasured, OSError):
                    calls = count_with_strace(server, command)
            except (NotMeasured, OSError) as reason:
                one.lost[name] = str(reason)
            else:
                one.add(name, {"calls": calls})
    return {"": one}


def big(scenario: Scenario, plan: Plan) -> dict[str, Record]:
    """Megabytes that the server has more than before, a second after 1,000 responses of 20 MB in turn."""
    one = record("kept_mb")
    n = N_BIG // 10 if plan.quick else N_BIG
    for name in plan.servers(scenario.servers):
        if name == "nginx":
            continue
        with started(plan, name, scenario.app) as server:
            for _ in range(200):
                server.ask()
            before = server.memory()
            took_most = before
            command = ["taskset", "-c", plan.place.client_cores, "curl", "--silent", "--show-error", "--fail"]
            url = f"{server.url}big?[1-{n}]"
            client = subprocess.Popen([*command, url], stdout=subprocess.DEVNULL)
            while client.poll() is None:
                took_most = max(took_most, server.memory())
                time.sleep(0.1)
            if client.returncode:
                one.lost[name] = f"curl ended with {client.returncode}"
                continue
            time.sleep(1)
            one.add(name, {"kept_mb": (server.memory() - before) / 1e6, "peak_mb": (took_most - before) / 1e6})
    return {"": one}


# --- processes ----------------------------------------------------------------------------------------------


def start(scenario: Scenario, plan: Plan) -> dict[str, Record]:
    """From the start of the process to the first answer; the client tries every two milliseconds."""
    one = record("ms")
    for _ in range(3 if plan.quick else 10):
        for name in plan.servers(scenario.servers):
            if name in one.lost:
                continue
            began = time.perf_counter()
            try:
                server = Running(name, "hello", plan.place, wait=False)
                server.wait_until_it_answers(every_s=0.002)
            except NotMeasured as reason:
                one.lost[name] = str(reason)
                continue
            one.add(name, {"ms": (time.perf_counter() - began) * 1e3})
            server.stop()
    return {"": one}


def workers(scenario: Scenario, plan: Plan) -> dict[str, Record]:
    """The client shares the two cores, so twice the throughput cannot show; the cost of a response can."""
    one = record("cpu_us")
    cores = f"{plan.place.server_cores},{plan.place.client_cores}"
    with contextlib.ExitStack() as stack:
        servers = []
        for n in (1, 2):
            arguments = ("--workers", str(n))
            label = f"kacore-asgi, {n} workers" if n > 1 else "kacore-asgi, 1 worker"
            servers.append(
                stack.enter_context(started(plan, "kacore-asgi", "hello", arguments=arguments, label=label, cores=cores))
            )
        for number in range(plan.rounds + 1):
            for server in servers:
                figures = measure(server, Load(64), plan.place, plan.seconds if number else 1)
                if number:
                    one.add(server.name, figures)
    return {"": one}
