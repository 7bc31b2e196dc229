"""N engines in the threads of one process beside N worker processes: answers per second of CPU time, and MiB (PSS) of all.

For a Python without a GIL; best and median of alternating rounds, `wrk` on loopback with 64 connections.

    python3.14t benches/bench_engines.py [--n 2] [--rounds 5] [--seconds 2] [--threads N: WSGI instead of ASGI]
"""

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

APPLICATION = """
HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"13")]

async def asgi(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"Hello, world!"})

def wsgi(environ, start_response):
    start_response("200 OK", [("content-type", "text/plain"), ("content-length", "13")])
    return [b"Hello, world!"]
"""


def processes(pid):
    """It and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in processes(int(child)))]


def cpu_seconds(pids):
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")


def pss(pids):
    found = [re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE) for pid in pids]
    return sum(int(one[1]) for one in found if one) / 1024


def measured(options, arguments, cwd):
    target = ["app:wsgi", "--threads", str(arguments.threads)] if arguments.threads is not None else ["app:asgi"]
    command = [sys.executable, "-m", "kacore", "serve", *target, "--port", "0", "--loop", "asyncio", *options]
    with subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as server:
        try:
            url = ""
            while "serves on" not in url:
                url = server.stderr.readline()
            url = re.search(r"http://\S+:\d+", url)[0]
            pids = processes(server.pid)
            wrk = ["wrk", "-t", "1", "-c", "64", "-d"]
            subprocess.run([*wrk, "1", url], check=True, capture_output=True)
            before = cpu_seconds(pids)
            said = subprocess.run([*wrk, str(arguments.seconds), url], check=True, capture_output=True, text=True).stdout
            n = int(re.search(r"(\d+) requests in", said)[1])
            assert "Non-2xx" not in said, said
            return n / (cpu_seconds(pids) - before), pss(pids)
        finally:
            server.terminate()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    print(platform.python_version(), "without a GIL" if not sys._is_gil_enabled() else "with a GIL", time.strftime("%F"))
    ways = {f"{arguments.n} {what}": [f"--{what}", str(arguments.n)] for what in ("engines", "workers")}
    rates = {name: [] for name in ways}
    sizes = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as cwd:
        Path(cwd, "app.py").write_text(APPLICATION)
        for _ in range(arguments.rounds):
            for name, options in ways.items():
                rate, size = measured(options, arguments, cwd)
                rates[name].append(rate)
                sizes[name].append(size)
    for name in ways:
        best, median = max(rates[name]), statistics.median(rates[name])
        print(f"{name}: {best:,.0f} answers per CPU second (median {median:,.0f}), {min(sizes[name]):.1f} MiB")


if __name__ == "__main__":
    main()
