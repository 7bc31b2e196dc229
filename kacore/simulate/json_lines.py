"""Lines that are JSON objects: kacore's own access log, and those that nginx and others are made to write. The names of
their fields are known from what they are usually called."""

from __future__ import annotations

import json
from typing import Any

from kacore.errors import UsageError
from kacore.simulate.layout import Record, Wrong, first_forwarded
from kacore.simulate.times import Stamps, duration, read_any

CLIENTS = ("client", "remote_addr", "client_ip", "clientip", "remote_ip", "ip", "ClientHost")
FORWARDED = ("http_x_forwarded_for", "x_forwarded_for", "forwarded_for", "xff")
# Whether it is the time of the end of a request.
TIMES = {
    "time": False,
    "StartUTC": False,
    "start_time": False,
    "msec": True,
    "time_iso8601": True,
    "time_local": True,
    "@timestamp": True,
    "timestamp": True,
    "ts": True,
}
# Each with its unit in seconds.
DURATIONS = {
    "seconds": 1.0,
    "request_time": 1.0,
    "duration_s": 1.0,
    "duration_ms": 1e-3,
    "duration_us": 1e-6,
    "Duration": 1e-9,
}


class JsonLines:
    """As Layout, for logs whose lines are objects with the fields of this one."""

    name = "JSON objects"

    def __init__(self, sample: dict[str, Any], *, wants_forwarded: bool = False) -> None:
        self._client = named(sample, CLIENTS, "the client")
        self._time = named(sample, TIMES, "the time")
        self._forwarded = named(sample, FORWARDED, "X-Forwarded-For") if wants_forwarded else None
        self._duration = next((name for name in DURATIONS if name in sample), None)
        self._unit = DURATIONS.get(self._duration or "", 1.0)
        self._stamps = Stamps(read_any)
        self.has_durations = self._duration is not None
        self.is_end = TIMES[self._time]

    def read(self, block: bytes, wrong: Wrong) -> list[Record]:
        """The requests of whole lines. Those that cannot be read are told to `wrong`."""
        records = []
        for line in block.splitlines():
            try:
                records.append(self._record(json.loads(line)))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                if line.strip():
                    wrong(line, why(error))
        return records

    def _record(self, found: dict[str, Any]) -> Record:
        client = text(found[self._client])
        if self._forwarded is not None:
            client = first_forwarded(text(found.get(self._forwarded))) or client
        took = duration(text(found.get(self._duration)), self._unit) if self._duration is not None else 0.0
        return self._stamps[text(found[self._time])], took, client

    def matches(self, line: bytes) -> bool:
        """Whether it is one of these."""
        wrong: list[str] = []
        return bool(self.read(line, lambda _, why: wrong.append(why)))


def named(sample: dict[str, Any], names: Any, what: str) -> str:
    for name in names:
        if name in sample:
            return str(name)
    raise UsageError(f"the JSON lines have {what} under none of {', '.join(names)}; what they have is {', '.join(sample)}")


def text(value: Any) -> bytes:
    return b"-" if value is None else str(value).encode()


def why(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"has no field {error.args[0]!r}"
    if isinstance(error, json.JSONDecodeError | RecursionError | TypeError):
        return "is not a JSON object"
    return str(error)
