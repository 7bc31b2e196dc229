"""How many bytes of a server's own memory does an idle connection cost, and how much CPU time do thousands of them?

Each connection has made one request and is kept alive. Memory is the growth of the proportional set size (PSS) of the
server's processes from just before the first connection, so it leaves the kernel's socket buffers out. Then, for kacore
alone: with --max-connections filled by idle connections, how long does one more client wait for its answer?

    make bench-idle
    make bench-idle ARGS='--connections 18000 --server kacore-asgi'
"""

import argparse
import contextlib
import json
import os
import resource
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench_server import KINDS, NotMeasured, Running, cpu_seconds, kacore, machine, process_tree

HERE = Path(__file__).resolve().parent
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
DEFAULT = ["kacore-asgi", "nginx", "uvicorn", "granian-asgi"]
# Time limits that would close idle connections while they are counted, out of the way.
PATIENT = {
    "kacore-asgi": ["--keep-alive-timeout", "600", "--max-connections", "19500", "--log-level", "error"],
    "kacore-wsgi": ["--keep-alive-timeout", "600", "--max-connections", "19500", "--log-level", "error"],
    "kacore-handler": ["--keep-alive-timeout", "600", "--max-connections", "19500", "--log-level", "error"],
    "uvicorn": ["--timeout-keep-alive", "600"],
    "granian-asgi": ["--backpressure", "20000"],
}


def memory(pid: int) -> int:
    """PSS of a process and its descendants in bytes."""
    total = 0
    for one in process_tree(pid):
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def connect(port: int, source: int) -> socket.socket:
    """A connection that has made one request. Many source addresses of the loopback net: ports run out on one."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(f"127.0.0.{2 + source}", 0))
    sock.sendall(REQUEST)
    if not sock.recv(4096).startswith(b"HTTP/1.1 200"):
        raise NotMeasured("a request on a new connection was not answered with 200")
    return sock


def measure(server: Running, n: int, seconds: float) -> dict[str, float]:
    port = int(server.url.rsplit(":", 1)[1].strip("/"))
    with contextlib.ExitStack() as held:
        for i in range(200):  # pools and caches
            connect(port, i % 100).close()
        time.sleep(0.5)
        before = memory(server.process.pid)
        for i in range(n):
            held.enter_context(connect(port, i % 100))
        time.sleep(0.5)
        grown = memory(server.process.pid) - before
        spent = cpu_seconds(server.process.pid)
        time.sleep(seconds)
        return {
            "connections": n,
            "bytes_each": grown / n,
            "idle_cpu_percent": (cpu_seconds(server.process.pid) - spent) / seconds * 100,
        }


def newcomer_waits_ms(n: int, scratch: Path) -> dict[str, float]:
    """Fill a server of at most n connections with idle ones; then time clients that come on top."""
    KINDS["kacore-full"] = kacore("asgi")
    KINDS["kacore-full"].command += ["--max-connections", str(n), "--pressure-start", "1", "--pressure-full", "1"]
    server = Running("kacore-full", sorted(os.sched_getaffinity(0))[0], scratch)
    port = int(server.url.rsplit(":", 1)[1].strip("/"))
    try:
        with contextlib.ExitStack() as held:
            for i in range(n):
                held.enter_context(connect(port, i % 100))
            waits = []
            for i in range(50):
                began = time.perf_counter()
                held.enter_context(connect(port, i))
                waits.append((time.perf_counter() - began) * 1e3)
    finally:
        server.stop()
    return {"connections": n, "median_ms": statistics.median(waits), "worst_ms": max(waits)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", action="append", choices=list(KINDS))
    parser.add_argument("--connections", action="append", type=int)
    parser.add_argument("--seconds", type=float, default=5.0, help="of idling")
    chosen = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    core = sorted(os.sched_getaffinity(0))[0]
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"{'server':<18}{'version':<10}{'idle':>8}{'bytes each':>12}{'CPU %':>8}")
    figures = []
    with tempfile.TemporaryDirectory() as directory:
        for n in chosen.connections or [10_000]:
            for name in chosen.server or DEFAULT:
                scratch = Path(directory, str(n))
                scratch.mkdir(exist_ok=True)
                KINDS[name].command += PATIENT.pop(name, [])
                try:
                    server = Running(name, core, scratch)
                    try:
                        one = measure(server, n, chosen.seconds)
                    finally:
                        server.stop()
                except (NotMeasured, OSError) as reason:
                    print(f"{name:<18}not measured: {reason}")
                    continue
                figures.append({"server": name, "version": server.version, **one})
                print(f"{name:<18}{server.version:<10}{n:>8,}{one['bytes_each']:>12,.0f}{one['idle_cpu_percent']:>8.2f}")
        full = newcomer_waits_ms(1000, Path(directory))
    print(f"kacore-asgi, full with {full['connections']} idle: one more client is answered after "
          f"{full['median_ms']:.2f} ms (median of 50), {full['worst_ms']:.2f} ms (worst)")  # fmt: skip
    path = HERE / "results" / time.strftime("idle-%Y%m%d-%H%M%S.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "idle": figures, "full": full}, indent=1) + "\n")
    print(f"raw figures: {path.relative_to(HERE.parent)}")


if __name__ == "__main__":
    sys.exit(main())
