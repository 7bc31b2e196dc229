"""Lines that are JSON objects: kacore's own access log, and those that nginx and others are made to write. The names of
their fields are known from what they are usually called."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
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
        wanted = {self._client, self._time, self._forwarded, self._duration}
        self._names = [name for name in sample if name in wanted]  # in the order of what is captured
        self._quick = quick_pattern(sample, wanted)
        self.has_durations = self._duration is not None
        self.is_end = TIMES[self._time]

    def read(self, block: bytes, wrong: Wrong) -> list[Record]:
        """The requests of whole lines. Those that cannot be read are told to `wrong`."""
        found = self._quick.findall(block) if self._quick is not None else []
        if found and len(found) == block.count(b"\n") + (not block.endswith(b"\n")):
            try:
                return self._records(found)
            except ValueError:
                pass
        records = []
        for line in block.splitlines():
            try:
                records.append(self._record(json.loads(line)))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                if line.strip():
                    wrong(line, why(error))
        return records

    def _records(self, found: list[tuple[bytes, ...]]) -> list[Record]:
        """Of what the quick pattern has captured: values as they are written."""
        columns = {name: [plain(row[k]) for row in found] for k, name in enumerate(self._names)}
        clients, stamps, unit = columns[self._client], self._stamps, self._unit
        if self._forwarded is not None:
            forwarded = map(first_forwarded, columns[self._forwarded])
            clients = [first or client for first, client in zip(forwarded, clients, strict=True)]
        begun = [stamps[stamp] for stamp in columns[self._time]]
        took = [duration(text, unit) for text in columns[self._duration]] if self._duration else [0.0] * len(found)
        return list(zip(begun, took, clients, strict=True))

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


def quick_pattern(sample: dict[str, Any], wanted: Collection[str | None]) -> re.Pattern[bytes] | None:
    """For lines with the same fields in the same order as this one: half of the time. None: some have fields of their own.
    What does not match, or takes more than a line, shows in the number of matches."""
    if any(isinstance(value, dict | list) for value in sample.values()) or not all(map(is_plain, sample)):
        return None
    fields = [rf'"{re.escape(name)}": ?{VALUE if name in wanted else VALUE.replace("(", "(?:", 1)}' for name in sample]
    return re.compile((r"^\{" + ", ?".join(fields) + r"\}$").encode(), re.MULTILINE)


VALUE = r'("[^"]*+(?:(?<=\\)"[^"]*+)*+"|[^",}\n]*+)'


def is_plain(name: str) -> bool:
    return re.fullmatch(r"[\w@.-]+", name, re.ASCII) is not None


def plain(value: bytes) -> bytes:
    """ValueError for one with an escape in it, which is for a parser of JSON."""
    if b"\\" in value:
        raise ValueError
    return b"-" if value == b"null" else value.strip(b'"')


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
