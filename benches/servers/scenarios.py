"""What is asked. A scenario gives records, and a record has the figures of every server that was asked.

Those in CAPACITY are one load on one application; wrk asks the servers in turn, round after round, so that a noisy
minute meets all of them. The others need a measurement of their own: see special.py.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from servers import special
from servers.load import BROWSER_FIELDS, PIPELINE, POST, UPLOAD, Load, measure
from servers.peers import PEERS, version_of
from servers.process import NotMeasured, Place, Running

HELLO_PEERS = (
    "nginx", "kacore-handler", "kacore-wsgi", "kacore-wsgi-1", "kacore-asgi", "mrhttp", "bjoern", "fastpysgi-wsgi",
    "fastpysgi-asgi", "granian-asgi", "uvicorn",
)  # fmt: skip
QUICK = ("nginx", "kacore-handler", "kacore-wsgi", "kacore-asgi", "uvicorn")
OTHERS = ("granian-wsgi", "socketify", "aiohttp", "gunicorn-gthread", "hypercorn")


@dataclass
class Record:
    """figures: server -> metric -> one value a round; lost: server -> why it has none; first: the metric compared."""

    first: str = "cpu_us"
    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    def add(self, server: str, values: dict[str, float]) -> None:
        for metric, value in values.items():
            self.figures.setdefault(server, {}).setdefault(metric, []).append(value)


@dataclass
class Plan:
    """How much: rounds, seconds of each measurement, whether little time is to be spent; which servers, if not all."""

    place: Place
    rounds: int
    seconds: int
    quick: bool
    only: list[str]

    def servers(self, names: tuple[str, ...]) -> list[str]:
        wanted = self.only or (QUICK if self.quick else names)
        return [name for name in names if name in wanted or name.startswith("nginx")]


@dataclass(frozen=True)
class Scenario:
    """One question. `app` is what the servers serve; `run` is for what one load does not answer."""

    what: str
    servers: tuple[str, ...]
    app: str = "hello"
    load: Load = field(default_factory=Load)
    tls: bool = False
    path: str = "/"
    run: Callable[["Scenario", Plan], dict[str, Record]] | None = None
    in_quick: bool = False


H2 = ("nginx-h2", "nghttpd", "kacore-h2", "granian-h2", "hypercorn-h2")
BOTH = ("nginx", "kacore-asgi")
IDLERS = ("kacore-asgi", "bjoern", "nginx", "uvicorn", "granian-asgi")
HOSTED = ("gunicorn-gthread", "gunicorn-kacore-wsgi-4", "gunicorn-kacore-wsgi", "gunicorn-asgi", "gunicorn-kacore-asgi",
          "uvicorn", "uvicorn-kacore")

SCENARIOS = {
    "hello": Scenario("64 connections, a small head", (*HELLO_PEERS, *OTHERS), in_quick=True),
    "browser": Scenario("a browser's head, 13 fields", HELLO_PEERS, load=Load(fields=BROWSER_FIELDS)),
    "pipelined": Scenario(
        "16 requests in one packet", ("nginx", "kacore-handler", "kacore-wsgi", "kacore-asgi", "mrhttp",
                                      "fastpysgi-wsgi", "granian-asgi", "uvicorn"),
        load=Load(script=PIPELINE), in_quick=True,
    ),
    "few": Scenario(
        "8 connections", ("nginx", "kacore-handler", "kacore-wsgi", "kacore-asgi", "kacore-asgi-asyncio"), load=Load(8)
    ),
    "many": Scenario(
        "1,024 connections", ("nginx", "kacore-handler", "kacore-wsgi", "kacore-asgi", "bjoern", "uvicorn"),
        load=Load(1024),
    ),
    "close": Scenario(
        "a connection for each request", ("nginx", "kacore-handler", "kacore-wsgi", "kacore-asgi", "bjoern", "uvicorn"),
        load=Load(fields={"Connection": "close"}, closes=True),
    ),
    "post": Scenario(
        "POST of 1 KiB, content read", ("kacore-asgi", "granian-asgi", "uvicorn"), app="post", load=Load(script=POST),
        in_quick=True,
    ),
    "upload": Scenario(
        "POST of 1 MiB, 16 connections, content read", ("kacore-asgi", "granian-asgi", "uvicorn"), app="upload",
        load=Load(16, script=UPLOAD),
    ),
    "ws-125": Scenario(
        "websocket: messages of 125 bytes come back", ("kacore-asgi", "granian-ws", "uvicorn"), app="echo",
        load=Load(message=125),
    ),
    "ws-16k": Scenario(
        "websocket: messages of 16 KiB come back", ("kacore-asgi", "granian-ws", "uvicorn"), app="echo",
        load=Load(message=16 * 1024),
    ),
    "stream": Scenario("16 chunks of 1 KiB", ("kacore-asgi", "granian-asgi", "uvicorn"), app="stream"),
    "mebibyte": Scenario(
        "1 MiB from memory (nginx: a cached file)", ("nginx", "nginx-copying", "kacore-asgi", "uvicorn"), app="mebibyte",
        path="/mebibyte",
    ),
    "mebibyte-few": Scenario(
        "the same for 4 connections", ("nginx", "nginx-copying", "kacore-asgi", "uvicorn"), app="mebibyte",
        path="/mebibyte", load=Load(4),
    ),
    "file": Scenario("10 MiB file", ("nginx", "kacore-asgi", "granian-asgi"), app="file", path="/file", load=Load(16)),
    "starlette": Scenario("Starlette hello", ("kacore-asgi", "granian-asgi", "uvicorn"), app="starlette"),
    "fastapi": Scenario("FastAPI hello", ("kacore-asgi", "granian-asgi", "uvicorn"), app="fastapi"),
    "flask": Scenario(
        "Flask hello", ("kacore-wsgi", "kacore-wsgi-4", "granian-wsgi", "bjoern", "gunicorn-gthread"), app="flask"
    ),
    "django": Scenario("Django hello, an async view", ("kacore-asgi", "granian-asgi", "uvicorn"), app="django"),
    "django-wsgi": Scenario(
        "Django hello by WSGI", ("kacore-wsgi", "kacore-wsgi-4", "granian-wsgi", "bjoern", "gunicorn-gthread"), app="django"
    ),
    "sleep": Scenario("asyncio.sleep(0.001) in each", ("kacore-asgi", "granian-asgi", "uvicorn"), app="sleep"),
    "timeout": Scenario("asyncio.timeout in each", ("kacore-asgi", "granian-asgi", "uvicorn"), app="timeout"),
    "tls": Scenario("TLS 1.3", ("nginx", "kacore-asgi", "granian-asgi", "uvicorn"), tls=True, in_quick=True),
    "handshake": Scenario(
        "TLS 1.3, a connection for each request", ("nginx", "kacore-asgi", "uvicorn"), tls=True,
        load=Load(fields={"Connection": "close"}, closes=True),
    ),
    "resumed": Scenario(
        "the same, one after the other, a session resumed", ("nginx", "kacore-asgi", "uvicorn"), tls=True,
        load=Load(1, resumes=True),
    ),
    "h2-one": Scenario("HTTP/2: 1 connection, 100 streams", H2, load=Load(1, streams=100)),
    "h2-ten": Scenario("HTTP/2: 64 connections, 10 streams each", H2, load=Load(64, streams=10)),
    "h2-single": Scenario(
        "HTTP/2: 64 connections, a stream at a time", (*H2, "kacore-asgi"), load=Load(64, streams=1)
    ),
    "h2-post": Scenario(
        "HTTP/2: POST of 1 KiB, 64 x 10", ("kacore-h2", "granian-h2", "hypercorn-h2"), app="post",
        load=Load(64, streams=10, content="kibibyte"),
    ),
    "h2-hundred": Scenario(
        "HTTP/2: 100 kB, 8 x 10 (nginx, nghttpd: a file)", H2, app="hundred", path="/hundred", load=Load(8, streams=10)
    ),
    "h2-tls": Scenario(
        "HTTP/2 over TLS 1.3, 64 x 10", ("nginx-h2", "kacore-h2", "granian-h2", "hypercorn-h2"), tls=True,
        load=Load(64, streams=10),
    ),
    "h2-idle": Scenario("HTTP/2: an idle connection's memory after one request of a browser", H2, run=special.idle_h2),
    "h2-idle-tls": Scenario(
        "HTTP/2: the same over TLS", ("nginx-h2", "kacore-h2", "granian-h2"), tls=True, run=special.idle_h2_tls
    ),
    "beside": Scenario("hello beside idle connections", BOTH, run=special.beside),
    "lag": Scenario(
        "lag of a 2 ms timer, 64 connections", ("kacore-asgi", "kacore-asgi-asyncio", "uvicorn"), app="lag",
        run=special.lag,
    ),
    "syscalls": Scenario(
        "system calls a response", ("nginx", "kacore-handler", "kacore-wsgi", "kacore-asgi", "uvicorn"),
        run=special.syscalls,
    ),
    "idle": Scenario("an idle connection's memory", IDLERS, run=special.idle),
    "idle-tls": Scenario("an idle TLS connection's memory", (*BOTH, "uvicorn"), run=special.idle_tls),
    "kernel": Scenario(
        "the kernel's memory for an idle connection", ("kacore-asgi",), run=special.kernel
    ),
    "full": Scenario("one more client of a full server", ("kacore-asgi",), run=special.full),
    "big": Scenario(
        "memory after 1,000 responses of 20 MB", ("kacore-asgi", "kacore-wsgi", "uvicorn"), app="big",
        run=special.big,
    ),
    "start": Scenario(
        "start to first response",
        ("nginx", "kacore-asgi", "kacore-wsgi", "bjoern", "gunicorn-gthread", "uvicorn", "granian-asgi"),
        run=special.start,
    ),
    "hosted": Scenario("gunicorn and uvicorn as they are and with kacore", ("nginx", *HOSTED)),
    "hosted-idle": Scenario("the same, an idle connection's memory", ("nginx", *HOSTED), run=special.idle),
    "workers": Scenario("1 and 2 workers on two cores", ("kacore-asgi",), run=special.workers),
}  # fmt: skip


class Ring:
    """The servers of one application, started once and kept for the next scenario of the same application."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.kept: tuple[str, bool, str] | None = None
        self.running: dict[str, Running] = {}
        self.absent: dict[str, str] = {}

    def get(self, scenario: Scenario, names: list[str]) -> tuple[list[Running], dict[str, str]]:
        kind = (scenario.app, scenario.tls, scenario.path)
        if kind != self.kept:
            self.close()
            self.kept = kind
        for name in names:
            if name not in self.running and name not in self.absent:
                try:
                    self.running[name] = Running(name, scenario.app, self.place, tls=scenario.tls, path=scenario.path)
                    self.running[name].rest()
                except NotMeasured as reason:
                    self.absent[name] = str(reason)
        found = [self.running[name] for name in names if name in self.running]
        return found, {name: self.absent[name] for name in names if name in self.absent}

    def close(self) -> None:
        for server in self.running.values():
            server.stop()
        self.running.clear()
        self.absent.clear()
        self.kept = None


def capacity(scenario: Scenario, plan: Plan, ring: Ring) -> dict[str, Record]:
    """Every server in every round, after one that is not counted: caches, pools and the first use of everything."""
    servers, absent = ring.get(scenario, plan.servers(scenario.servers))
    record = Record(lost=absent)
    for number in range(plan.rounds + 1):
        for server in servers:
            if server.name not in record.lost:
                server.go_on()
                try:
                    figures = measure(server, scenario.load, plan.place, plan.seconds if number else 1)
                except NotMeasured as reason:
                    record.lost[server.name] = str(reason)
                    record.figures.pop(server.name, None)
                    continue
                finally:
                    server.rest()
                if number:
                    record.add(server.name, figures)
    return {"": record}


def run(name: str, plan: Plan, ring: Ring) -> dict[str, Record]:
    """The records of one scenario; their keys are its name, and after a space what tells them apart."""
    scenario = SCENARIOS[name]
    began = time.monotonic()
    if scenario.run:
        ring.close()
        records = scenario.run(scenario, plan)
    else:
        records = capacity(scenario, plan, ring)
    print(f"  {name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return {f"{name} {part}".strip(): record for part, record in records.items()}


def versions(names: set[str]) -> dict[str, str]:
    found = {}
    for name in sorted(names):
        with contextlib.suppress(Exception):
            found[name] = version_of(PEERS[name])
    return found
