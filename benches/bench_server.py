"""How many microseconds of CPU time does a whole server spend on one request, beside others in the same run?

wrk asks each server in turn, round after round, so that a noisy minute meets all of them. Every server has
one process (or one worker) pinned to one core; wrk has another core. The answer is the server's CPU time, read
from /proc for the process and its children, divided by the requests that wrk counted. Wall time says less on a
machine that others use. A ratio is taken within a round, nginx's time over the server's: 0.5 is half of the
capacity of nginx.

    make bench-server
    make bench-server ARGS='--workload pipelined --server kacore-asgi --server uvicorn --rounds 5'
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
BASE = "nginx"

NGINX_CONF = """
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
    uwsgi_temp_path {directory}; scgi_temp_path {directory};
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        default_type text/plain;
        location / {{ return 200 "Hello, world!"; }}
    }}
}}
"""

BROWSER_FIELDS = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language": "en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding": "gzip, deflate, br",
    "DNT": "1",
    "Cookie": "session=4f1c2b7a9d8e4f60b3a2; theme=dark; seen=1718000000",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "none",
    "Sec-Fetch-User": "?1",
    "Cache-Control": "max-age=0",
}
PIPELINE = """
init = function(args)
    local all = {}
    for i = 1, 16 do all[i] = wrk.format(nil, "/") end
    sixteen = table.concat(all)
end
request = function() return sixteen end
"""
POST = 'wrk.method = "POST"; wrk.body = string.rep("x", 1024)'


@dataclass
class Workload:
    connections: int = 64
    fields: dict[str, str] = field(default_factory=dict)
    script: str = ""


WORKLOADS = {
    "keep-alive": Workload(),
    "browser": Workload(fields=BROWSER_FIELDS),
    "pipelined": Workload(script=PIPELINE),
    "post": Workload(script=POST),
    "many": Workload(connections=1024),
    "no-keep-alive": Workload(fields={"Connection": "close"}),
}


@dataclass
class Kind:
    """How to start a server. `command` has {port} and {directory} (an empty one of its own) in it."""

    command: list[str]
    package: str = ""  # whose version to print; empty: ask the program
    files: dict[str, str] = field(default_factory=dict)


def module(name: str, *arguments: str) -> Kind:
    return Kind([sys.executable, "-m", name, *arguments], name)


def kacore(interface: str) -> Kind:
    return module("kacore", "serve", f"hello:{interface}", "--interface", interface, "--port", "{port}")


LISTEN = ("--port", "{port}", "--backlog", "4096")
KINDS = {
    "nginx": Kind(
        ["nginx", "-c", "{directory}/nginx.conf", "-g", "daemon off;"],
        files={"nginx.conf": NGINX_CONF},
    ),
    "kacore-handler": kacore("handler"),
    "kacore-wsgi": kacore("wsgi"),
    "kacore-asgi": kacore("asgi"),
    "uvicorn": module(
        "uvicorn", "hello:asgi", *LISTEN, "--no-access-log", "--log-level", "warning",
        "--loop", "uvloop", "--http", "httptools",
    ),
    "granian-asgi": module("granian", "--interface", "asgi", *LISTEN, "hello:asgi"),
    "granian-wsgi": module("granian", "--interface", "wsgi", *LISTEN, "hello:wsgi"),
    "hypercorn": module("hypercorn", "--bind", "127.0.0.1:{port}", "--backlog", "4096", "hello:asgi"),
    "gunicorn-gthread": module(
        "gunicorn", "--bind", "127.0.0.1:{port}", "--worker-class", "gthread", "--threads", "4",
        "--keep-alive", "75", "--worker-connections", "4096", "--log-level", "warning", "hello:wsgi",
    ),
}  # fmt: skip
DEFAULT = ["nginx", "kacore-handler", "kacore-wsgi", "kacore-asgi", "uvicorn", "granian-asgi"]


class NotMeasured(Exception):
    """Why a server has no figure."""


def process_tree(pid: int) -> list[int]:
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += process_tree(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, of its living descendants, and of those it has waited for."""
    ticks = 0
    for one in process_tree(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += sum(int(fields[i]) for i in (11, 12, 13, 14))  # utime, stime, cutime, cstime: see proc(5)
    return ticks / TICKS_A_SECOND


class Running:
    """A server that was started and gave the right answer once. Ended by its process id."""

    def __init__(self, name: str, core: int, scratch: Path) -> None:
        kind = KINDS[name]
        self.name = name
        self.directory = scratch / name
        self.directory.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"
        for file, text in kind.files.items():
            (self.directory / file).write_text(text.format(port=port, directory=self.directory))
        command = [part.format(port=port, directory=self.directory) for part in kind.command]
        if shutil.which(command[0]) is None:
            raise NotMeasured(f"{command[0]} is not installed")
        self.version = version_of(kind)
        self.log = (self.directory / "log").open("w+")
        # kacore is used as it was built in place; for the others this directory holds the application only.
        env = {**os.environ, "PYTHONPATH": f"{ROOT}:{HERE}" if kind.package == "kacore" else str(HERE)}
        self.process = subprocess.Popen(
            ["taskset", "-c", str(core), *command], cwd=self.directory, env=env, stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.wait_until_it_answers()

    def wait_until_it_answers(self, patience_s: float = 15.0) -> None:
        deadline = time.monotonic() + patience_s
        answer = b""
        while answer != b"Hello, world!":
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                said = Path(self.log.name).read_text().strip().splitlines() or [f"answered {answer!r}"]
                raise NotMeasured(f"did not start: {said[-1]}")
            time.sleep(0.05)
            with contextlib.suppress(OSError), urllib.request.urlopen(self.url, timeout=2) as response:
                answer = response.read()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                for pid in process_tree(self.process.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, 9)
                self.process.wait()
        self.log.close()


def version_of(kind: Kind) -> str:
    if kind.package == "kacore":
        return (ROOT / "kacore" / "_version.py").read_text().split('"')[1]
    if kind.package:
        return importlib.metadata.version(kind.package)
    said = subprocess.run([kind.command[0], "-v"], capture_output=True, text=True)
    return (said.stderr or said.stdout).strip().rpartition("/")[2]


def to_microseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 1, "ms": 1e3, "s": 1e6, "m": 6e7}[unit]


def measure(server: Running, workload: Workload, core: int, seconds: int, scratch: Path) -> dict[str, float]:
    """One round. Raises NotMeasured when an answer was wrong, since a figure would then mean nothing."""
    command = f"taskset -c {core} wrk -t1 -c{workload.connections} -d{seconds}s --latency".split()
    for name, value in workload.fields.items():
        command += ["-H", f"{name}: {value}"]
    if workload.script:
        (scratch / "wrk.lua").write_text(workload.script)
        command += ["-s", str(scratch / "wrk.lua")]
    before = cpu_seconds(server.process.pid)
    done = subprocess.run([*command, server.url], capture_output=True, text=True, timeout=seconds + 20)
    spent = cpu_seconds(server.process.pid) - before
    counted = re.search(r"(\d+) requests in", done.stdout)
    wrong = re.search(r"Non-2xx.*|Socket errors.*", done.stdout)
    if done.returncode != 0 or not counted or int(counted[1]) == 0:
        raise NotMeasured(f"wrk: {(done.stderr or done.stdout).strip()[-200:]}")
    if wrong and not (workload.fields.get("Connection") == "close" and "Non-2xx" not in wrong[0]):
        raise NotMeasured(wrong[0].strip())
    n_requests = int(counted[1])
    return {
        "requests": n_requests,
        "cpu_s": spent,
        "cpu_us_per_request": spent / n_requests * 1e6,
        "requests_per_s": float(re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)[1]),
        "p99_us": to_microseconds(re.search(r"^ +99%\s+(\S+)", done.stdout, re.M)[1]),
    }


def report(name: str, results: dict, lost: dict[str, str], versions: dict[str, str]) -> None:
    workload = WORKLOADS[name]
    print(f"\n{name}: {workload.connections} connections, {len(workload.fields)} extra fields")
    print(f"{'server':<18}{'version':<10}{'us/request':>22}{'to nginx':>10}{'requests/s':>12}{'p99 us':>9}")
    for server, rounds in results.items():
        if server in lost:
            continue
        costs = [one["cpu_us_per_request"] for one in rounds]
        base = [one["cpu_us_per_request"] for one in results[BASE]]
        ratio = statistics.median(b / c for b, c in zip(base, costs, strict=True))
        cost = f"{statistics.median(costs):.2f} (best {min(costs):.2f})"
        rate, p99 = (statistics.median(one[key] for one in rounds) for key in ("requests_per_s", "p99_us"))
        print(f"{server:<18}{versions[server]:<10}{cost:>22}{ratio:>10.2f}{rate:>12,.0f}{p99:>9,.0f}")
    for server, reason in lost.items():
        print(f"{server:<18}not measured: {reason}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", action="append", choices=list(KINDS), help="nginx is always among them")
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    chosen = parser.parse_args()
    chosen.server = list(dict.fromkeys([BASE, *(chosen.server or DEFAULT)]))
    chosen.workload = chosen.workload or ["keep-alive"]
    return chosen


def run_workload(
    workload: Workload, servers: list[Running], chosen: argparse.Namespace, core: int, scratch: Path
) -> tuple[dict, dict]:
    """Every server in every round; the figures of each, and why some have none."""
    results, lost = {server.name: [] for server in servers}, {}
    # Round 0 is not counted: caches, pools and the first use of everything.
    for number in range(chosen.rounds + 1):
        for server in servers:
            if server.name not in lost:
                try:
                    figures = measure(server, workload, core, chosen.seconds if number else 1, scratch)
                except NotMeasured as reason:
                    lost[server.name] = str(reason)
                else:
                    results[server.name] += [figures] if number else []
    if BASE in lost:
        sys.exit(f"bench_server: {BASE} gave no figure to compare with: {lost[BASE]}")
    return results, lost


def machine() -> dict[str, str]:
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": model[1] if model else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "uvloop": importlib.metadata.version("uvloop"),
        "httptools": importlib.metadata.version("httptools"),
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def keep(figures: dict) -> Path:
    path = HERE / "results" / time.strftime("server-%Y%m%d-%H%M%S.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n")
    return path


def main() -> None:
    chosen = arguments()
    for program in ("wrk", "taskset", "nginx"):
        if shutil.which(program) is None:
            sys.exit(f"bench_server: {program} is not installed")
    cores = sorted(os.sched_getaffinity(0))
    expected_s = len(chosen.server) * len(chosen.workload) * (1 + chosen.rounds * chosen.seconds)
    print(f"server on core {cores[0]}, wrk on core {cores[-1]}, {chosen.rounds} rounds: about {expected_s} s")
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as running:
        scratch = Path(directory)
        servers, absent = [], {}
        for name in chosen.server:
            try:
                servers.append(Running(name, cores[0], scratch))
                running.callback(servers[-1].stop)
            except NotMeasured as reason:
                absent[name] = str(reason)
        if BASE in absent:
            sys.exit(f"bench_server: {BASE} {absent[BASE]}")
        versions = {server.name: server.version for server in servers}
        raw = {}
        for workload in chosen.workload:
            results, lost = run_workload(WORKLOADS[workload], servers, chosen, cores[-1], scratch)
            raw[workload] = {"rounds": results, "not_measured": lost}
            report(workload, results, {**lost, **absent}, versions)
        figures = {"machine": machine(), "versions": versions, "arguments": vars(chosen), "workloads": raw}
        print(f"\nraw figures: {keep(figures).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
