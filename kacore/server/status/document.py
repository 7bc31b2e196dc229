"""The status document: everything that is known of a server now and of its last ten minutes, as one JSON-able dict.

The page draws it, /status and /events give it, `kacore top` shows it; docs/looking.md says what each key is.
"""

from __future__ import annotations

from typing import Any

from kacore._version import __version__
from kacore.policy import Policy
from kacore.server.status.advice import advise
from kacore.server.status.history import PER_POINT, SECONDS, History, rounded, short
from kacore.server.status.reading import Reading

RATE_SECONDS = 5  # "now" is so many seconds: shorter jumps, longer lags
RATES = ("requests", "reused", "accepted", "closed", "races", "bytes_in", "bytes_out")
OF_THE_POLICY = (
    "keep_alive",
    "keep_alive_timeout",
    "keep_alive_min",
    "keep_alive_max",
    "pressure_start",
    "pressure_full",
    "max_connections",
    "max_connections_per_client",
    "max_buffer_bytes",
)
OF_A_NETWORK = (
    "network",
    "proxy",
    "connections",
    "closes_after",
    "settled",
    "kept_for",
    "closed_by_them",
    "closed_by_us",
    "races",
)
# What may be there or not, as the server counts it.
EXTRAS = ("responses", "bytes_in", "bytes_out", "tls", "http2")
HISTOGRAMS = ("idle_gap", "idle_left", "requests_per_connection", "first_byte", "duration")
ENGINE = ("out_of_descriptors", "accept_errors", "buffers_refused")


def make(
    reading: Reading,
    history: History,
    policy: Policy,
    *,
    since: float,
    now: float,
    is_ready: bool,
    trouble: str,
    learned: list[dict[str, Any]],
    busiest: list[dict[str, Any]] | None,
) -> dict[str, Any]:
    """Without the pictures' `history`. since, now: seconds since 1970."""
    total, engine = reading.total, reading.engine
    most = reading.summed("max") or policy.max_connections * max(1, len(reading.workers))
    most_bytes = reading.summed("max_buffer_bytes") or policy.max_buffer_bytes * max(1, len(reading.workers))
    document: dict[str, Any] = {
        "kacore": __version__,
        "since": round(since, 3),
        "at": round(now, 3),
        "ready": is_ready,
        "trouble": trouble,
        "policy": {name: getattr(policy, name) for name in OF_THE_POLICY},
        "open": reading.n_open,
        "max": most,
        "phases": reading.phases,
        "rates": {name: _short(history.rate(name, RATE_SECONDS)) for name in RATES},
        "total": {name: total[name] for name in ("accepted", "requests", "reused", "races", "closed")}
        | {"reuse_rate": share(total["reused"], total["requests"])},
        "lately": lately(reading, history),
        "buffers": {"bytes": reading.buffer_bytes, "max": most_bytes},
        "engine": {name: engine[name] for name in ENGINE if name in engine},
        **{name: total.get(name) for name in EXTRAS},
        **{name: used(total.get(name)) for name in HISTOGRAMS},
        "clients": busiest,
        "learned": [{name: one[name] for name in OF_A_NETWORK} for one in learned],
        "workers": [worker(slot, one) for slot, one in enumerate(reading.workers)],
    }
    document["advice"] = advise(document)
    return document


def lately(reading: Reading, history: History) -> dict[str, Any]:
    """What was added in the last ten minutes, or since the start."""
    requests, reused = history.growth("requests"), history.growth("reused")
    closed = {cause: int(history.growth(f"closed {cause}") or 0) for cause in reading.total["closed"]}
    return {
        "seconds": round(history.span()),
        "accepted": int(history.growth("accepted") or 0),
        "requests": int(requests or 0),
        "reused": int(reused or 0),
        "reuse_rate": share(reused or 0, requests or 0),
        "races": int(history.growth("races") or 0),
        "closed": {cause: n for cause, n in closed.items() if n},
    }


def worker(slot: int, one: dict[str, Any]) -> dict[str, Any]:
    """As far as it is known. open: by its phases, which only live processes have."""
    phases = one.get("phases")
    return {
        "slot": slot,
        **{name: one.get(name) for name in ("pid", "ready", "heard", "max", "phases", "buffer_bytes", "max_buffer_bytes")},
        "open": sum(phases.values()) if phases else one.get("open"),
        **{name: one.get(name) for name in ("accepted", "requests", "reused", "races")},
        "reuse_rate": share(one.get("reused") or 0, one.get("requests") or 0),
    }


def pictures(history: History) -> dict[str, Any]:
    """What is drawn: 200 points at most, of `every` seconds each, the newest last."""
    ends = history.ends()
    series: dict[str, list[float | None]] = {"open": rounded(history.levels("open"))}
    for name in history.names():
        if name.startswith("phase "):
            series[name] = rounded(history.levels(name))
        elif name in ("accepted", "requests", "closed", "closed evicted") or name.startswith("responses "):
            series[name] = rounded(history.rates(name))
    series["reuse_rate"] = [
        None if not requests or reused is None else round(min(1.0, reused / requests), 3)
        for reused, requests in zip(history.rates("reused"), history.rates("requests"), strict=True)
    ]
    return {"every": PER_POINT, "points": len(ends), "of": SECONDS // PER_POINT, "series": series}


def used(histogram: dict[str, Any] | None) -> dict[str, Any] | None:
    """Without the empty buckets at both ends; `above` is the edge after the last. None for an empty one."""
    if histogram is None or not any(histogram["counts"]):
        return None
    edges, counts = histogram["edges"], histogram["counts"]
    filled = [k for k, n in enumerate(counts) if n]
    first, last = filled[0], filled[-1]
    above = edges[last + 1] if last + 1 < len(edges) else None
    return {"edges": edges[first : last + 1], "counts": counts[first : last + 1], "above": above}


def share(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None


def _short(value: float | None) -> float | None:
    return None if value is None else short(value)
