"""A result for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kacore.simulate.advice import Advice
from kacore.simulate.cost import Cost
from kacore.simulate.reading import Log
from kacore.simulate.study import Result, Row


def row_of(row: Row, result: Result) -> dict[str, Any]:
    ours, kernel = row.memory()
    return {
        "timeout": "auto" if row.timeout is None else row.timeout,
        "reuse": result.share(row.reused),
        "handshakes_saved": row.reused,
        "mean_open": row.mean,
        "peak_open": row.peak,
        "bytes": {"kacore": ours, "kernel": kernel},
        "lost_per_million": row.races,
    }


def as_json(result: Result, logs: Sequence[Log], advice: Advice, costs: Sequence[Cost]) -> str:
    """All of it."""
    content = {
        "logs": [
            {"log": log.source.name, "format": log.format.name, "wrong": log.wrong, "first_wrong": log.first_wrong or None}
            for log in logs
        ],
        "requests": result.n_requests,
        "clients": result.n_clients,
        "begun": result.begun,
        "ended": result.ended,
        "has_durations": result.has_durations,
        "per_client": "http2" if result.shares else result.per_client or "auto",
        "window": result.window,
        "fronts": {front.name: front.timeout for front in result.fronts},
        "timeouts": [row_of(row, result) for row in [*result.rows, result.auto]],
        "curve": [
            {"timeout": point.timeout, "reuse": result.share(point.reused), "mean_open": point.mean} for point in result.curve
        ],
        "rooms": [
            {
                "max_connections": room.max_connections,
                "timeout": "auto" if room.timeout is None else room.timeout,
                "reuse": result.share(room.reused),
                "mean_open": room.mean,
                "evicted": room.evicted,
                "refused": room.refused,
            }
            for room in result.rooms
        ],
        "costs": [one._asdict() for one in costs],
        "recommendation": {"policy": advice.policy, "reasons": advice.reasons},
    }
    return json.dumps(content, indent=2)
