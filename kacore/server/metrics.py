"""What a server counts, in the words of Prometheus: the metrics of /metrics.

`METRICS` says what there is; where the numbers come from is what a Subject tells. prometheus_client, which writes the
formats, is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kacore.server.subject import Subject

MAX_FRONTS = 64  # trusted proxies with a time series of their own


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
