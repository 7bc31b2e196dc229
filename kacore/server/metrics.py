"""What a server counts, in the words of Prometheus: the metrics of /metrics.

`METRICS` says what there is; where the numbers come from is what a Subject tells. prometheus_client, which writes the
formats, is imported when it is first asked for.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any, NamedTuple

from kacore._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kacore.server.subject import Subject

MAX_FRONTS = 64  # trusted proxies with a time series of their own


class Metric(NamedTuple):
    """One line of what is exposed.

    kind: "counter", "gauge" or "histogram". name: without `kacore_`. where: its keys in what figures() gives.
    label: of one with a value for each key. unit: of a histogram, whose values are whole multiples of it. between: its
    smallest and largest bucket; None: all of them.
    """

    kind: str
    name: str
    text: str
    where: str
    label: str = ""
    unit: float = 1
    between: tuple[float, float] | None = None


TIMES = (0.0001, 70.0)  # seconds: 128 us to 67 s in powers of two

METRICS = (
    Metric("counter", "accepted", "Connections accepted, with those that were turned away.", "accepted"),
    Metric("counter", "requests", "Request heads read.", "requests"),
    Metric("counter", "reused", "Requests that were not the first of their connection.", "reused"),
    Metric("counter", "races", "Requests that crossed our close of an idle connection.", "races"),
    Metric("counter", "connections_closed", "Connections ended, by cause.", "closed", label="cause"),
    Metric("gauge", "proxy_kept_seconds", "How long a proxy's idle connections are kept at least.", "kept_for", "proxy"),
    Metric("gauge", "proxy_closes_after_seconds", "Idle time after which a proxy closes.", "closes_after", "proxy"),
    Metric("histogram", "idle_gap_seconds", "Idle time before a connection's reuse.", "idle_gap", unit=0.001),
    Metric("histogram", "idle_left_seconds", "Idle time before a client closed a connection.", "idle_left", unit=0.001),
    Metric("histogram", "requests_per_connection", "Requests of a connection that ended.", "requests_per_connection"),
    Metric("counter", "responses", "Response heads written, by class of status.", "responses", label="class"),
    Metric("counter", "received_bytes", "Bytes of HTTP received, decrypted.", "bytes_in"),
    Metric("counter", "sent_bytes", "Bytes of HTTP sent, before encryption.", "bytes_out"),
    Metric(
        "histogram",
        "time_to_first_byte_seconds",
        "Time from a request's head until its response began.",
        "first_byte",
        between=TIMES,
    ),
    Metric(
        "histogram",
        "request_duration_seconds",
        "Time from a request's head until the application had given its whole response.",
        "duration",
        between=TIMES,
    ),
    Metric("counter", "tls_handshakes", "TLS handshakes completed.", "tls handshakes"),
    Metric("counter", "tls_resumptions", "TLS handshakes that resumed a session.", "tls resumed"),
    Metric("counter", "tls_failures", "TLS handshakes that failed.", "tls failed"),
    Metric("gauge", "http2_connections", "Open connections that speak HTTP/2.", "http2 connections"),
    Metric("gauge", "http2_streams", "Open requests on HTTP/2 connections.", "http2 streams"),
    Metric("gauge", "start_time_seconds", "When it was started, in seconds since 1970.", "since"),
    # An event loop's transports do not count these.
    Metric("counter", "out_of_descriptors", "Times accept() had no descriptor left.", "engine out_of_descriptors"),
    Metric("counter", "accept_errors", "Times accept() gave no connection but an error.", "engine accept_errors"),
)
# What a worker process has of its own: with several of them there is a time series for each, with the label `worker`.
METRICS_OF_PROCESS = (
    Metric("gauge", "connections_open", "Open connections.", "open"),
    Metric("gauge", "connections", "Open connections by phase.", "phases", label="phase"),
    Metric("gauge", "connections_max", "Most connections open at once.", "max"),
    Metric("gauge", "ready", "Whether new connections are wanted.", "ready"),
    Metric("gauge", "buffer_bytes", "Bytes that wait to be parsed or sent.", "buffer_bytes"),
    Metric("gauge", "buffer_bytes_max", "Most bytes that may wait to be parsed or sent.", "max_buffer_bytes"),
    Metric("gauge", "worker_heard_seconds", "Time since the worker's event loop last turned.", "heard"),
)


def figures(subject: Subject) -> dict[str, Any]:
    """stats() with what is told of networks: what was learned of trusted proxies and unix sockets, which are few; and of
    each process under its name what METRICS_OF_PROCESS want: the slot of a worker, "" where there are none."""
    stats = subject.stats()
    fronts = [one for one in subject.learned(MAX_FRONTS) if one["proxy"] or one["network"] == "unix"]
    stats["kept_for"] = {one["network"]: one["kept_for"] for one in fronts} or None
    stats["closes_after"] = {one["network"]: one["closes_after"] for one in fronts if one["settled"]} or None
    stats["since"] = subject.since
    if "workers" in stats:
        slots = stats["workers"]["slots"]
        stats["processes"] = {str(slot): one | {"ready": float(one["ready"])} for slot, one in enumerate(slots)}
        return stats
    engine = stats.get("engine") or {}
    stats["processes"] = {
        "": {
            "phases": stats["phases"],
            "open": sum(stats["phases"].values()),
            "max": subject.policy.max_connections,
            "ready": float(subject.is_ready),
            **{name: engine.get(name) for name in ("buffer_bytes", "max_buffer_bytes")},
        }
    }
    return stats


class Exposition:
    """The formats of /metrics. ImportError without prometheus_client."""

    def __init__(self, subject: Subject) -> None:
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder

        self._choose_encoder = choose_encoder
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(Collector(subject))

    def choose(self, accept: str) -> tuple[Callable[[], bytes], str]:
        """What makes the text, and its content type."""
        try:
            encode, kind = self._choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, kind = self._choose_encoder("")
        return lambda: encode(self._registry), kind


class Collector:
    """What a registry asks for at each scrape: Server.stats() in the words of Prometheus."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def collect(self) -> Iterator[Any]:
        found = figures(self.subject)
        yield build_info()
        for metric in METRICS:
            if (value := at(found, metric.where)) is not None:
                yield histogram(metric, value) if metric.kind == "histogram" else family(metric, {"": value})
        for metric in METRICS_OF_PROCESS:
            values = {name: at(one, metric.where) for name, one in found["processes"].items()}
            if values := {name: value for name, value in values.items() if value is not None}:
                yield family(metric, values)


def at(found: Any, where: str) -> Any:
    for key in where.split():
        found = found.get(key) if found is not None else None
    return found


def build_info() -> Any:
    from prometheus_client.core import GaugeMetricFamily

    labels = {"version": __version__, "python": platform.python_version()}
    made = GaugeMetricFamily("kacore_build_info", "What serves.", labels=list(labels))
    made.add_metric(list(labels.values()), 1)
    return made


def family(metric: Metric, values: dict[str, Any]) -> Any:
    """values: by worker, or for "" alone, which is no label."""
    from prometheus_client import core

    make = core.CounterMetricFamily if metric.kind == "counter" else core.GaugeMetricFamily
    has_workers = "" not in values
    labels = [*([metric.label] if metric.label else []), *(["worker"] if has_workers else [])]
    made = make(f"kacore_{metric.name}", metric.text, labels=labels)
    for worker, value in values.items():
        name = [worker] if has_workers else []
        for key, n in value.items() if metric.label else [("", value)]:
            made.add_metric([*([key] if metric.label else []), *name], n)
    return made


def histogram(metric: Metric, counted: dict[str, Any]) -> Any:
    """counted: `edges`, the smallest value of each bucket, and `counts`. Prometheus wants the largest value of each,
    and running sums. Without `between` empty buckets at the end are left out; with it there are as many at any time, a
    power of two apart."""
    from prometheus_client.core import HistogramMetricFamily

    edges, counts = counted["edges"], counted["counts"]
    total, buckets = sum(counts), []
    running = 0
    for k, (above, n) in enumerate(zip(edges[1:], counts, strict=False)):
        if metric.between is None and running == total and running > 0:
            break
        running += n
        if metric.between is None:
            buckets.append((repr(round(float(above - metric.unit), 3)), running))
        elif metric.between[0] <= above <= metric.between[1] and k % 2:  # every other edge is a power of two
            buckets.append((repr(float(above)), running))
    made = HistogramMetricFamily(f"kacore_{metric.name}", metric.text)
    made.add_metric([], [*buckets, ("+Inf", total)], sum_value=counted.get("sum"))
    return made
