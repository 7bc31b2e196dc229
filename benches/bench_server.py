"""How does a whole server do beside others in the same run: CPU time per response, memory, latency, system calls?

Every server has one process (or one worker) pinned to one core; the client, wrk, has another core. The figure of
capacity is the server's CPU time, read from /proc/PID/stat for the process and its children, divided by the responses
that wrk counted: user time and system time, what the kernel does for its sockets included. Wall time says less on a
machine that others use, and where the client is the limit it says nothing about the server. A ratio is taken within a
round, the peer's time over kacore's: 0.9 nginx is nine tenths of the capacity of nginx.

    make bench-server                                        # everything, about 20 minutes
    make bench-server ARGS=--quick                           # a first look in a minute or two; nothing is kept
    make bench-server ARGS='hello post --rounds 5'           # some scenarios; `--list` names them
    make bench-server ARGS='hello --server kacore-asgi --server uvicorn'
    make bench-server ARGS=--report                          # the table and the charts of what is kept

The last figures of every scenario that was measured with all its servers are kept in benches/results/server.json, the
charts beside it.
"""

import argparse
import contextlib
import fcntl
import importlib.metadata
import os
import platform
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from servers import chart, report
from servers.peers import PEERS, build_of, flags
from servers.process import NotMeasured, Place
from servers.scenarios import SCENARIOS, Plan, Ring, run, versions

HERE = Path(__file__).resolve().parent
KEPT = HERE / "results" / "server.json"
PAGE = HERE.parent / "docs" / "performance.md"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenario", nargs="*", metavar="SCENARIO", help="default: all; see --list")
    parser.add_argument("--server", action="append", choices=list(PEERS), default=[], help="nginx is always among them")
    parser.add_argument("--quick", action="store_true", help="two rounds, few scenarios, few servers; nothing is kept")
    parser.add_argument("--rounds", type=int, default=0, help="default: 5")
    parser.add_argument("--seconds", type=int, default=0, help="of each measurement; default: 1")
    parser.add_argument("--lock", metavar="FILE", help="hold this lock during each scenario, for machines that are shared")
    parser.add_argument("--list", action="store_true", help="name the scenarios and the servers")
    parser.add_argument("--report", action="store_true", help="measure nothing: the table and charts of what is kept")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/performance.md, too")
    chosen = parser.parse_args()
    for name in chosen.scenario:
        if name not in SCENARIOS:
            parser.error(f"no scenario {name!r}; there are {', '.join(SCENARIOS)}")
    if not chosen.scenario:
        chosen.scenario = [name for name, one in SCENARIOS.items() if one.in_quick or not chosen.quick]
    chosen.rounds = chosen.rounds or (2 if chosen.quick else 5)
    chosen.seconds = chosen.seconds or 1
    return chosen


def machine() -> dict[str, str]:
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": model[1] if model else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "Linux": platform.release(),
        "TCP": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "CPython": platform.python_version(),
        "uvloop": importlib.metadata.version("uvloop"),
        "kacore": build_of(),
        "on": time.strftime("%Y-%m-%d"),
    }


@contextlib.contextmanager
def locked(path: str | None) -> Iterator[None]:
    if path is None:
        yield
        return
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def list_all() -> None:
    for name, scenario in SCENARIOS.items():
        print(f"{name:<12}{scenario.what}: {', '.join(scenario.servers)}")
    print()
    for name in PEERS:
        print(f"{name:<22}{flags(name)}")


def measure_all(chosen: argparse.Namespace, place: Place) -> report.Results:
    """Run the scenarios; each is kept as soon as it is known, so that a run that ends early has not been for nothing."""
    plan = Plan(place, chosen.rounds, chosen.seconds, chosen.quick, chosen.server)
    fresh: report.Results = {}
    with contextlib.closing(Ring(place)) as ring:
        for name in chosen.scenario:
            with locked(chosen.lock):
                try:
                    records = run(name, plan, ring)
                except (NotMeasured, OSError) as reason:
                    print(f"  {name}: not measured: {reason}", file=sys.stderr)
                    continue
                finally:
                    if chosen.lock:
                        ring.close()
            found = versions({server for one in records.values() for server in one.figures})
            for key, record in records.items():
                fresh[key] = report.kept(record, SCENARIOS[name].what, machine(), found)
            if not chosen.server and not chosen.quick:
                report.save(KEPT, in_order({**report.load(KEPT), **fresh}))
    return fresh


def in_order(results: report.Results) -> report.Results:
    """As the scenarios are listed, whatever was measured last."""
    order = list(SCENARIOS)
    return dict(sorted(results.items(), key=lambda item: order.index(item[0].split(" ")[0])))


def main() -> None:
    chosen = arguments()
    if chosen.list:
        list_all()
        return
    if not chosen.report:
        for program in ("wrk", "taskset", "nginx", "openssl", "curl"):
            if shutil.which(program) is None:
                sys.exit(f"bench_server: {program} is not installed")
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        cores = sorted(os.sched_getaffinity(0))
        print(f"server on core {cores[0]}, client on core {cores[-1]}, {chosen.rounds} rounds of {chosen.seconds} s")
        with tempfile.TemporaryDirectory() as directory:
            os.chmod(directory, 0o755)  # nginx, started by root, reads the files as another user
            place = Place(Path(directory), str(cores[0]), str(cores[-1]))
            place.furnish()
            results = measure_all(chosen, place)
    else:
        results = report.load(KEPT)
    print(f"\n{report.conditions(results)}\n\n{report.text_table(results)}")
    for name, drawing in chart.charts(report.load(KEPT)).items():
        (KEPT.parent / name).write_text(drawing)
    if chosen.docs:
        report.put_into(PAGE, report.load(KEPT))


if __name__ == "__main__":
    main()
