"""N engines in the threads of one process beside N worker processes, and granian with N threads if it is installed: answers
per second of CPU time, and MiB (PSS) of all.

For a Python without a GIL; best and median of alternating rounds, `wrk` on loopback with 64 connections.

    python3.14t benches/bench_engines.py [--n 2] [--rounds 5] [--seconds 2] [--threads N: WSGI instead of ASGI]
"""

import argparse
import http.client
import importlib.util
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
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
PATIENCE = 30.0  # seconds until a server answers


def ways(n, threads):
    """Command lines without an address, by name."""
    module = [sys.executable, "-m"]
    target = ["app:asgi"] if threads is None else ["app:wsgi", "--threads", str(threads)]
    kacore = [*module, "kacore", "serve", *target, "--loop", "asyncio"]
    found = {f"{n} {what}": [*kacore, f"--{what}", str(n)] for what in ("engines", "workers")}
    if importlib.util.find_spec("granian") is not None:
        kind = ["asgi", "app:asgi"] if threads is None else ["wsgi", "app:wsgi", "--blocking-threads", str(threads or 1)]
        found[f"granian {version('granian')}, {n} threads"] = [
            *module, "granian", "--no-ws", "--loop", "asyncio", "--workers", str(n), "--interface", *kind
        ]  # fmt: skip
    return found


def processes(pid):
    """It and its children."""
    try:
        children = [Path(task, "children").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
    except FileNotFoundError:  # a thread that is gone
        return processes(pid)
    return [pid, *(one for each in children for child in each for one in processes(int(child)))]


def cpu_seconds(pids):
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")


def pss(pids):
    found = [re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE) for pid in pids]
    return sum(int(one[1]) for one in found if one) / 1024


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(server, port):
    end = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < end:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise RuntimeError(f"{server.args} does not answer")


def measured(command, arguments, cwd):
    port = free_port()
    command = [*command, "--host", "127.0.0.1", "--port", str(port)]
    env = {**os.environ, "PYTHON_GIL": "0"}
    with subprocess.Popen(command, cwd=cwd, env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as server:
        try:
            wait_for(server, port)
            pids = processes(server.pid)
            url = f"http://127.0.0.1:{port}"
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
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--n", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    print(platform.python_version(), "without a GIL" if not sys._is_gil_enabled() else "with a GIL", time.strftime("%F"))
    commands = ways(arguments.n, arguments.threads)
    rates = {name: [] for name in commands}
    sizes = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as cwd:
        Path(cwd, "app.py").write_text(APPLICATION)
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                rate, size = measured(command, arguments, cwd)
                rates[name].append(rate)
                sizes[name].append(size)
    for name in commands:
        best, median = max(rates[name]), statistics.median(rates[name])
        print(f"{name}: {best:,.0f} answers per CPU second (median {median:,.0f}), {min(sizes[name]):.1f} MiB")


if __name__ == "__main__":
    main()
