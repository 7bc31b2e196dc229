"""The admin listener: a live page, /healthz, /readyz, /metrics, /connections, /status and /events about one Server.

A second Server in the same loop, with a policy and a table of its own, so that it answers while the application's table
is full. It changes nothing; it only tells.

Nobody can fill it, since every connection that it has can be closed for the next one. That takes some care: no content is
ever waited for; what answers one connection can get always fits into the kernel's send buffer; what takes time to say is
said anew only a few times a second; and where the system can do that, a connection is not accepted before it has sent
something, or a probe could be the victim of the next client between its handshake and its request. Who watches /events stays,
and so at most half of the places are for them.

Whoever reaches a loopback address from a browser could be sent there by any page (DNS rebinding), so a Host field must
name what is listened on. A browser always sends one; the health checks of a load balancer often do not.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from kacore.errors import UsageError
from kacore.policy import Policy
from kacore.server.listening import open_listeners, parse_address
from kacore.server.status import Status, dumped
from kacore.server.status.viewers import FIELDS, MAX_VIEWERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Fields = tuple[tuple[bytes, bytes], ...]
    Answer = tuple[int, Fields, bytes]  # status, fields, content

MAX_LISTED = 1000
MAX_NETWORKS = 256
MAX_FRONTS = 64  # trusted proxies with a time series of their own
# Few connections, and short lives: whoever asks here asks seldom. With so few requests, short answers and one long one a
# connection, all that a client can leave unread is in the kernel and holds no place.
POLICY = Policy(
    max_connections=64,
    keep_alive_timeout=15.0,
    max_keep_alive_requests=100,
    request_header_timeout=5.0,
    send_timeout=3.0,
    rate_window=1.0,
    min_send_rate=65_536,
)
SEND_BUFFER = 262_144  # bytes; above the longest answer, which /connections gives
# Long answers: how many may be made anew at once and in a second. Beyond that the last one is given again.
FRESH_AT_ONCE, FRESH_PER_SECOND = 20.0, 5.0
MAX_KEPT = 8  # a client chooses among the formats of /metrics by words of its own
NO_STORE = (b"cache-control", b"no-store")
JSON = ((b"content-type", b"application/json"), NO_STORE)
TEXT = ((b"content-type", b"text/plain; charset=utf-8"), NO_STORE)
CLOSE = (b"connection", b"close")
WATCH = b"events"  # as content: a stream of them begins


def parse_admin(text: str) -> tuple[str, int]:
    """(host, port) of "127.0.0.1:9000", "[::1]:9000", or of ":9000" and "9000", which mean loopback. UsageError."""
    if not text.strip("0123456789"):
        text = f":{text}"
    address = parse_address(text)
    if isinstance(address, str):
        raise UsageError(f"admin {text!r}: must be HOST:PORT")
    return address[0] or "127.0.0.1", address[1]


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Subject(Protocol):
    """The server that is reported on."""

    @property
    def is_ready(self) -> bool: ...
    @property
    def policy(self) -> Policy: ...
    def stats(self) -> dict[str, Any]: ...
    def connections(self, limit: int = 1000) -> list[dict[str, Any]]: ...
    def learned(self, limit: int = 1000) -> list[dict[str, Any]]: ...


class AdminServer:
    """The admin listener of a server: another server in the same loop, for as long as the first one serves.

    make_server: makes a Server. io: what moves its bytes, as of Server.
    """

    def __init__(
        self, subject: Subject, where: str, hosts: Iterable[str], *, make_server: Callable[..., Any], io: str
    ) -> None:
        self.host, self.port = parse_admin(where)
        self._handler = Admin(subject, self.host, hosts)
        self._make_server, self._io = make_server, io
        self._server: Any = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self, *, is_shared: bool) -> None:
        """Listen and serve. is_shared: other processes do, too. UsageError."""
        listeners = open_listeners([f"[{self.host}]:{self.port}"], reuse_port=is_shared)
        self.port = listeners[0].port
        sockets = [listener.sock for listener in listeners]
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # of its connections
            if hasattr(socket, "TCP_DEFER_ACCEPT"):  # seconds; who has not said anything yet takes no place, and loses none
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
        options: dict[str, Any] = {"policy": POLICY, "sockets": sockets, "server_name": "", "io": self._io}
        self._server = self._make_server(self._handler, interface="asgi", lifespan="off", **options)
        self._server.is_quiet = True
        self._serving = asyncio.create_task(self._server.serve(handle_signals=False), name="kacore-admin")
        self._handler.status.start(asyncio.get_running_loop())
        await self._server.started()

    async def stop(self) -> None:
        """At once: no drain is needed here. May be called more than once."""
        if self._server is not None and self._serving is not None:
            self._handler.status.stop()
            self._server.shutdown(now=True, hurry=True)
            await self._serving
            self._server = self._serving = None


class Admin:
    """An ASGI application that answers about `server`. host: the address listened on. hosts: names that the Host field
    may have besides it."""

    def __init__(self, server: Subject, host: str, hosts: Iterable[str] = ()) -> None:
        self.server = server
        self.hosts = {host.lower(), *(name.lower() for name in hosts)}
        if is_loopback(host):
            self.hosts |= {"localhost", "127.0.0.1", "::1"}
        self._probes = {"/healthz": self.healthz, "/readyz": self.readyz}
        self._pages = {
            "/": self.page,
            "/metrics": self.metrics,
            "/connections": self.connections,
            "/status": self.told,
            "/events": self.events,
        }
        self.status = Status(server)
        self._exposition: Exposition | None = None
        self._kept = Kept()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        status, fields, content = self.answer(scope["method"], scope["path"], dict(scope["headers"]))
        if content is WATCH:
            await self.status.watch(receive, send, is_page=scope["query_string"] == b"page")
            return
        length = (b"content-length", str(len(content)).encode())
        await send({"type": "http.response.start", "status": status, "headers": [*fields, length]})
        await send({"type": "http.response.body", "body": content})

    def answer(self, method: str, path: str, fields: dict[bytes, bytes]) -> Answer:
        """What can be refused is refused by the head alone, and then the connection closes: content is not waited for."""
        host = fields.get(b"host")
        if host is not None and self.names_another_host(host.decode("latin-1")):
            return 421, (*TEXT, CLOSE), b"the Host field names another server\n"
        # HAProxy's check asks OPTIONS / unless it is told otherwise, and OPTIONS for a path that it is told.
        probe = self.readyz if method == "OPTIONS" and path in ("/", "*") else self._probes.get(path)
        page = self._pages.get(path)
        if probe is None and page is None:
            return 404, (*TEXT, CLOSE), b"/ /healthz /readyz /metrics /connections /status /events\n"
        allowed = ("GET", "HEAD", "OPTIONS") if probe else ("GET", "HEAD")
        if method not in allowed:
            return 405, (*TEXT, (b"allow", ", ".join(allowed).encode()), CLOSE), f"{' or '.join(allowed)} only\n".encode()
        if fields.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in fields:
            return 413, (*TEXT, CLOSE), b"no content, please\n"
        if probe is not None:
            return probe()
        assert page is not None
        if path == "/events" and method == "HEAD":
            return 405, (*TEXT, (b"allow", b"GET"), CLOSE), b""
        if path == "/events" and fields.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            return 403, (*TEXT, CLOSE), b"not for pages of other origins\n"
        accept, encoding = (fields.get(name, b"").decode("latin-1") for name in (b"accept", b"accept-encoding"))
        status, said, content = page(accept, encoding)
        return status, (*said, CLOSE), content

    def names_another_host(self, host: str) -> bool:
        """A page that was rebound to us says its own name. So any IP address may stand there, as monitors say it, and
        nothing at all."""
        name, colon, port = host.rpartition(":")
        name = name if colon and port.isdigit() else host
        name = name.removeprefix("[").removesuffix("]").lower()
        return bool(name) and name not in self.hosts and not is_address(name)

    def healthz(self) -> Answer:
        """The loop is running, or there would be no answer."""
        return 200, TEXT, b"ok\n"

    def readyz(self) -> Answer:
        """Whether new connections are wanted: not before the start-up is over, and not once a drain has begun."""
        return (200, TEXT, b"ready\n") if self.server.is_ready else (503, TEXT, b"not ready\n")

    def page(self, accept: str, encoding: str) -> Answer:
        return self._kept.answer("page", self._page)

    def _page(self) -> Answer:
        page = self.status.page
        return 200, page.fields, page.whole(self.status.document()).encode()

    def told(self, accept: str, encoding: str) -> Answer:
        return self._kept.answer("status", lambda: (200, JSON, dumped(self.status.document()).encode()))

    def events(self, accept: str, encoding: str) -> Answer:
        """Of a stream only what can be refused is an answer."""
        if self.status.is_full:
            text = f"{MAX_VIEWERS} viewers are watching, which are all that there may be\n"
            return 503, (*TEXT, (b"retry-after", b"5")), text.encode()
        return 200, tuple(FIELDS), WATCH

    def metrics(self, accept: str, encoding: str) -> Answer:
        if self._exposition is None:
            try:
                self._exposition = Exposition(self.server)
            except ImportError:
                return 501, TEXT, b"metrics need prometheus_client: pip install kacore[metrics]\n"
        encode, kind = self._exposition.choose(accept)
        is_gzip = accepts_gzip(encoding)
        return self._kept.answer((kind, is_gzip), lambda: metrics_answer(encode(), kind, is_gzip))

    def connections(self, accept: str, encoding: str) -> Answer:
        """The counters, and at most MAX_LISTED of the open connections."""
        return self._kept.answer("connections", self._connections)

    def _connections(self) -> Answer:
        stats = self.server.stats()
        listed = self.server.connections(MAX_LISTED)
        n_open = sum(stats["phases"].values())
        body = {"open": n_open, "phases": stats["phases"], "is_cut": n_open > len(listed), "connections": listed}
        body["learned"] = self.server.learned(MAX_NETWORKS)
        return 200, JSON, json.dumps(body).encode()


class Kept:
    """The last answers, for when so many are asked for that making each anew would take the loop's time."""

    def __init__(self) -> None:
        self._answers: dict[object, Answer] = {}
        self._left, self._since = FRESH_AT_ONCE, time.monotonic()

    def answer(self, key: object, make: Callable[[], Answer]) -> Answer:
        now = time.monotonic()
        self._left = min(FRESH_AT_ONCE, self._left + (now - self._since) * FRESH_PER_SECOND)
        self._since = now
        if self._left < 1:
            return self._answers.get(key, (503, (*TEXT, (b"retry-after", b"1")), b"asked too often\n"))
        self._left -= 1
        if len(self._answers) >= MAX_KEPT and key not in self._answers:
            self._answers.clear()
        self._answers[key] = answer = make()
        return answer


def accepts_gzip(encoding: str) -> bool:
    """By the words of Accept-Encoding (RFC 9110 12.5.3)."""
    for part in encoding.lower().split(","):
        coding, _, weight = part.partition(";")
        if coding.strip() == "gzip":
            return weight.replace(" ", "").rstrip("0.") != "q="
    return False


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


# -- Prometheus ---------------------------------------------------------------------------------------------------


class Metric(NamedTuple):
    """One line of what is exposed.

    kind: "counter", "gauge" or "histogram". name: without `kacore_`. where: its keys in what figures() gives.
    label: of one with a value for each key. unit: of a histogram, whose values are whole multiples of it.
    """

    kind: str
    name: str
    text: str
    where: str
    label: str = ""
    unit: float = 1


METRICS = (
    Metric("gauge", "connections_open", "Open connections.", "open"),
    Metric("counter", "accepted", "Connections accepted, with those that were turned away.", "accepted"),
    Metric("counter", "requests", "Request heads read.", "requests"),
    Metric("counter", "reused", "Requests that were not the first of their connection.", "reused"),
    Metric("counter", "races", "Requests that crossed our close of an idle connection.", "races"),
    Metric("counter", "connections_closed", "Connections ended, by cause.", "closed", label="cause"),
    Metric("gauge", "proxy_kept_seconds", "How long a proxy's idle connections are kept at least.", "kept_for", "proxy"),
    Metric("gauge", "proxy_closes_after_seconds", "Idle time after which a proxy closes.", "closes_after", "proxy"),
    Metric("histogram", "idle_gap_seconds", "Idle time before a connection's reuse.", "idle_gap", unit=0.001),
    Metric("histogram", "requests_per_connection", "Requests of a connection that ended.", "requests_per_connection"),
    # An event loop's transports do not count these.
    Metric("counter", "out_of_descriptors", "Times accept() had no descriptor left.", "engine out_of_descriptors"),
    Metric("counter", "accept_errors", "Times accept() gave no connection but an error.", "engine accept_errors"),
)
# What only a server of one process can say.
METRICS_OF_ONE = (
    Metric("gauge", "connections", "Open connections by phase.", "phases", label="phase"),
    Metric("gauge", "connections_max", "Most connections open at once.", "max"),
    Metric("gauge", "ready", "Whether new connections are wanted.", "ready"),
    Metric("gauge", "buffer_bytes", "Bytes that wait to be parsed or sent.", "engine buffer_bytes"),
)


def figures(server: Subject) -> dict[str, Any]:
    """Of several workers any one answers, so what it tells are the counters of all; only for these there are sums, and
    what it has learned itself of trusted proxies and unix sockets: networks that are few."""
    stats = server.stats()
    fronts = [one for one in server.learned(MAX_FRONTS) if one["proxy"] or one["network"] == "unix"]
    stats["kept_for"] = {one["network"]: one["kept_for"] for one in fronts} or None
    stats["closes_after"] = {one["network"]: one["closes_after"] for one in fronts if one["settled"]} or None
    if "workers" in stats:
        total: dict[str, Any] = stats["workers"]["total"]
        return total | {name: stats[name] for name in ("kept_for", "closes_after")}
    n_open = sum(stats["phases"].values())
    return stats | {"open": n_open, "max": server.policy.max_connections, "ready": float(server.is_ready)}


class Exposition:
    """The formats of /metrics. ImportError without prometheus_client."""

    def __init__(self, server: Subject) -> None:
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder

        self._choose_encoder = choose_encoder
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(Collector(server))

    def choose(self, accept: str) -> tuple[Callable[[], bytes], str]:
        """What makes the text, and its content type."""
        try:
            encode, kind = self._choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, kind = self._choose_encoder("")
        return lambda: encode(self._registry), kind


def metrics_answer(text: bytes, kind: str, is_gzip: bool) -> Answer:
    import gzip

    fields = ((b"content-type", kind.encode("latin-1")), (b"vary", b"Accept, Accept-Encoding"), NO_STORE)
    if is_gzip:
        return 200, (*fields, (b"content-encoding", b"gzip")), gzip.compress(text, compresslevel=1)
    return 200, fields, text


class Collector:
    """What a registry asks for at each scrape: Server.stats() in the words of Prometheus."""

    def __init__(self, server: Subject) -> None:
        self.server = server

    def collect(self) -> Iterator[Any]:
        found = figures(self.server)
        for metric in METRICS if "phases" not in found else METRICS + METRICS_OF_ONE:
            value: Any = found
            for key in metric.where.split():
                value = value.get(key) if value is not None else None
            if value is not None:
                yield family(metric, value)


def family(metric: Metric, value: Any) -> Any:
    from prometheus_client import core

    name = f"kacore_{metric.name}"
    if metric.kind == "histogram":
        return histogram(name, metric.text, value, metric.unit)
    make = core.CounterMetricFamily if metric.kind == "counter" else core.GaugeMetricFamily
    if not metric.label:
        return make(name, metric.text, value)
    made = make(name, metric.text, labels=[metric.label])
    for key, n in value.items():
        made.add_metric([key], n)
    return made


def histogram(name: str, text: str, counted: dict[str, Any], unit: float) -> Any:
    """counted: `edges`, the smallest value of each bucket, and `counts`. Prometheus wants the largest value of each,
    and running sums. Values are whole multiples of `unit`. Empty buckets at the end are left out."""
    from prometheus_client.core import HistogramMetricFamily

    edges, counts = counted["edges"], counted["counts"]
    total, buckets = sum(counts), []
    running = 0
    for above, n in zip(edges[1:], counts, strict=False):
        if running == total and running > 0:
            break
        running += n
        buckets.append((repr(round(float(above - unit), 3)), running))
    family = HistogramMetricFamily(name, text)
    family.add_metric([], [*buckets, ("+Inf", total)], sum_value=None)
    return family
