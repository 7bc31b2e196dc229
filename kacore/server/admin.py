"""The admin listener: /healthz, /readyz, /metrics and /connections about one Server.

A second Server in the same loop, with a handler, a policy and a table of its own, so that it answers while the
application's table is full. It changes nothing; it only tells.

Whoever reaches a loopback address from a browser could be sent there by any page (DNS rebinding), so the Host field
must name what is listened on.
"""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING, Any

from kacore._core import Request, Response
from kacore.policy import Policy
from kacore.server.listening import parse_address
from kacore.server.loading import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kacore.server.server import Server

MAX_LISTED = 1000
# Few connections, and short lives: whoever asks here asks seldom.
POLICY = Policy(max_connections=64, keep_alive_timeout=15.0, request_header_timeout=5.0, max_body_bytes=1024)
JSON = (("content-type", "application/json"), ("cache-control", "no-store"))
TEXT = (("content-type", "text/plain; charset=utf-8"), ("cache-control", "no-store"))


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


class Admin:
    """Answers about `server`. host: the address listened on. hosts: names that the Host field may have besides it."""

    def __init__(self, server: Server, host: str, hosts: Iterable[str] = ()) -> None:
        self.server = server
        self.hosts = {host.lower(), *(name.lower() for name in hosts)}
        if is_loopback(host):
            self.hosts |= {"localhost", "127.0.0.1", "::1"}
        self._metrics: Callable[[], tuple[str, bytes]] | None = None

    def __call__(self, request: Request) -> Response:
        if self.names_another_host(request.get("host")):
            return Response("the Host field names another server\n", 421, TEXT)
        answer = {
            "/healthz": self.healthz,
            "/readyz": self.readyz,
            "/metrics": self.metrics,
            "/connections": self.connections,
        }.get(request.path)
        if answer is None:
            return Response("/healthz /readyz /metrics /connections\n", 404, TEXT)
        if request.method not in ("GET", "HEAD"):
            return Response("GET only\n", 405, (*TEXT, ("allow", "GET, HEAD")))
        return answer(request)

    def names_another_host(self, host: str | None) -> bool:
        """A page that was rebound to us says its own name. So any IP address may stand there, as monitors say it."""
        name, colon, port = (host or "").rpartition(":")
        name = name if colon and port.isdigit() else host or ""
        name = name.removeprefix("[").removesuffix("]").lower()
        return name not in self.hosts and not is_address(name)

    def healthz(self, request: Request) -> Response:
        """The loop runs: else nobody would answer."""
        return Response("ok\n", 200, TEXT)

    def readyz(self, request: Request) -> Response:
        """Whether new connections are wanted: not before the start-up is over, and not once a drain has begun."""
        if self.server.is_ready:
            return Response("ready\n", 200, TEXT)
        return Response("not ready\n", 503, TEXT)

    def metrics(self, request: Request) -> Response:
        if self._metrics is None:
            try:
                self._metrics = exposition(self.server)
            except ImportError:
                return Response("metrics need prometheus_client: pip install kacore[metrics]\n", 501, TEXT)
        kind, text = self._metrics()
        return Response(text, 200, (("content-type", kind), ("cache-control", "no-store")))

    def connections(self, request: Request) -> Response:
        """The counters, and at most MAX_LISTED of the open connections."""
        stats = self.server.stats()
        listed = self.server.connections(MAX_LISTED)
        n_open = sum(stats["phases"].values())
        body = {"open": n_open, "phases": stats["phases"], "is_cut": n_open > len(listed), "connections": listed}
        return Response(json.dumps(body), 200, JSON)


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


# -- Prometheus ---------------------------------------------------------------------------------------------------

COUNTERS = (
    ("accepted", "Connections accepted, with those that were turned away."),
    ("requests", "Request heads read."),
    ("reused", "Requests that were not the first of their connection."),
    ("races", "Requests that crossed our close of an idle connection."),
)


def exposition(server: Server) -> Callable[[], tuple[str, bytes]]:
    """A function that gives content type and text. ImportError without prometheus_client."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_LATEST

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(server))
    return lambda: (CONTENT_TYPE_LATEST, generate_latest(registry))


class Collector:
    """What a registry asks for at each scrape: Server.stats() in the words of Prometheus.

    Of several workers any one answers, so what it tells are the counters of all; only for these there are sums.
    """

    def __init__(self, server: Server) -> None:
        self.server = server

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        stats = self.server.stats()
        whole = stats["workers"]["total"] if "workers" in stats else stats
        n_open = whole["open"] if "workers" in stats else sum(stats["phases"].values())
        yield GaugeMetricFamily("kacore_connections_open", "Open connections.", n_open)
        for name, text in COUNTERS:
            yield CounterMetricFamily(f"kacore_{name}", text, whole[name])
        closed = CounterMetricFamily("kacore_connections_closed", "Connections ended, by cause.", labels=["cause"])
        for cause, n in whole["closed"].items():
            closed.add_metric([cause], n)
        yield closed
        yield histogram("kacore_idle_gap_seconds", "Idle time before a connection's reuse.", whole["idle_gap"], 0.001)
        ended = whole["requests_per_connection"]
        yield histogram("kacore_requests_per_connection", "Requests of a connection that ended.", ended, 1)
        if "out_of_descriptors" in whole.get("engine", ()):  # an event loop's transports count none
            lacking = whole["engine"]["out_of_descriptors"]
            yield CounterMetricFamily("kacore_out_of_descriptors", "Times accept() had no descriptor left.", lacking)
            errors = whole["engine"]["accept_errors"]
            yield CounterMetricFamily("kacore_accept_errors", "Times accept() gave no connection but an error.", errors)
        if "workers" not in stats:
            yield from self.of_one(stats)

    def of_one(self, stats: dict[str, Any]) -> Iterator[Any]:
        """What only a server of one process can say."""
        from prometheus_client.core import GaugeMetricFamily

        gauge = GaugeMetricFamily("kacore_connections", "Open connections by phase.", labels=["phase"])
        for phase, n in stats["phases"].items():
            gauge.add_metric([phase], n)
        yield gauge
        most = self.server.policy.max_connections
        yield GaugeMetricFamily("kacore_connections_max", "Most connections open at once.", most)
        yield GaugeMetricFamily("kacore_ready", "Whether new connections are wanted.", float(self.server.is_ready))
        if "engine" in stats:
            lent = stats["engine"]["buffer_bytes"]
            yield GaugeMetricFamily("kacore_buffer_bytes", "Bytes that wait to be parsed or sent.", lent)


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
