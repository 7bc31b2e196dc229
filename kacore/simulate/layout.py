"""Lines that a format string describes: nginx's log_format, or Apache's LogFormat. It becomes one regular expression, and a
block of lines is read by one call.

Only three things of a line are looked at: who asked, when, and how long it took. When there is a duration it also matters
what the time is: nginx writes that of the end of a request, Apache that of its beginning.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from kacore.errors import UsageError
from kacore.simulate.times import Stamps, duration, read_any

Record = tuple[float, float, bytes]  # when it began, how long it took, who asked
Wrong = Callable[[bytes, str], None]  # is told a line that cannot be read, and why


class Part(NamedTuple):
    """What a variable of a format tells."""

    what: str  # "client", "forwarded", "time", "duration"
    unit: float = 1.0  # of a duration, in seconds
    is_end: bool = False  # of a time: the request's end


NGINX = {
    "remote_addr": Part("client"),
    "realip_remote_addr": Part("client"),
    "http_x_forwarded_for": Part("forwarded"),
    "time_local": Part("time", is_end=True),
    "time_iso8601": Part("time", is_end=True),
    "msec": Part("time", is_end=True),
    "request_time": Part("duration"),
}
APACHE = {
    "h": Part("client"),
    "a": Part("client"),
    "{c}a": Part("client"),
    "t": Part("time"),
    "{sec}t": Part("time"),
    "{begin:sec}t": Part("time"),
    "{end:sec}t": Part("time", is_end=True),
    "D": Part("duration", 1e-6),
    "T": Part("duration"),
    "{s}T": Part("duration"),
    "{ms}T": Part("duration", 1e-3),
    "{us}T": Part("duration", 1e-6),
}
USERS = ("remote_user", "u")
VARIABLE = re.compile(r"\$\{?(\w+)\}?|%[<>!\d,]*(\{[^}]*\}\^?[a-zA-Z]{1,2}|[a-zA-Z])|%%")
NAMED = {
    "common": '%h %l %u %t "%r" %>s %b',
    "combined": '%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-agent}i"',
    "nginx": '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer"'
    ' "$http_user_agent" "$http_x_forwarded_for"',
}
QUOTED = r'[^"\\\n]*+(?:\\.[^"\\\n]*+)*+'


class Layout:
    """Reads lines of one format. UsageError when it does not say what must be known.

    wants_forwarded: the client is the first one that X-Forwarded-For names, where the field was sent.
    """

    def __init__(self, text: str, name: str = "", *, wants_forwarded: bool = False) -> None:
        self.name = name or "as --format says"
        self._parts: list[Part] = []
        self._pattern = re.compile(self._expression(text, wants_forwarded), re.MULTILINE)
        whats = [part.what for part in self._parts]
        for what in ("client", "time", *(["forwarded"] if wants_forwarded else [])):
            if what not in whats:
                raise UsageError(f"format={text!r}: says nowhere {MISSING[what]}")
        self.has_durations = "duration" in whats
        self._time, self._client = whats.index("time"), whats.index("forwarded" if wants_forwarded else "client")
        self._duration = whats.index("duration") if self.has_durations else -1
        self._peer = whats.index("client")
        self._unit = self._parts[self._duration].unit
        self.is_end = self._parts[self._time].is_end  # whether times are those when requests ended
        self._stamps = Stamps(read_any)

    def _expression(self, text: str, wants_forwarded: bool) -> bytes:
        """Each variable ends where the next literal begins; what follows the last one may be anything."""
        wanted = {"client", "time", "duration", *(["forwarded"] if wants_forwarded else [])}
        found = list(VARIABLE.finditer(text))
        parts, at = ["^"], 0
        for k, match in enumerate(found):
            parts.append(re.escape(text[at : match.start()]))
            at = match.end()
            if match[0] == "%%":
                parts.append("%")
                continue
            part = part_of(match)
            ends = found[k + 1].start() if k + 1 < len(found) else len(text)
            value = value_before(text[match.end() : ends], match[1] or match[2], is_last=k + 1 == len(found))
            is_known = part is not None and part.what in wanted and part.what not in [known.what for known in self._parts]
            if part is not None and is_known:
                self._parts.append(part)
            if part is not None and part.what == "time" and match[2] == "t":
                parts.append(r"\[" + (r"([^\[\]\n]*+)" if is_known else r"[^\[\]\n]*+") + r"\]")
            else:
                parts.append(f"({value})" if is_known else f"(?:{value})")
        return "".join([*parts, re.escape(text[at:])]).encode()

    def read(self, block: bytes, wrong: Wrong) -> list[Record]:
        """The requests of whole lines. Those that cannot be read are told to `wrong`."""
        found = self._pattern.findall(block)
        if len(found) == block.count(b"\n") + (not block.endswith(b"\n")):
            try:
                return self._records(found)
            except ValueError:
                pass
        records: list[Record] = []
        for line in block.splitlines():
            match = self._pattern.match(line)
            if match is None:
                if line.strip():
                    wrong(line, f"is not a line {self.name}")
                continue
            try:
                records += self._records([match.groups()])
            except ValueError as error:
                wrong(line, str(error))
        return records

    def _records(self, found: list[tuple[bytes, ...]]) -> list[Record]:
        stamps, at = self._stamps, self._time
        if self._client != self._peer:
            clients = [first_forwarded(row[self._client]) or row[self._peer] for row in found]
        else:
            clients = [row[self._peer] for row in found]
        if not self.has_durations:
            return [(stamps[row[at]], 0.0, client) for row, client in zip(found, clients, strict=True)]
        unit = self._unit
        took = [duration(row[self._duration], unit) for row in found]
        return [(stamps[row[at]], took, client) for row, took, client in zip(found, took, clients, strict=True)]

    def matches(self, line: bytes) -> bool:
        """Whether it is one of these."""
        match = self._pattern.match(line)
        try:
            return match is not None and bool(self._records([match.groups()]))
        except ValueError:
            return False


MISSING = {
    "client": "who the client is: $remote_addr, %h or %a",
    "time": "when it was: $time_local, $time_iso8601, $msec or %t",
    "forwarded": "what X-Forwarded-For was: $http_x_forwarded_for or %{X-Forwarded-For}i",
}


def part_of(match: re.Match[str]) -> Part | None:
    if match[1]:
        return NGINX.get(match[1])
    name = match[2]
    return Part("forwarded") if name.lower() == "{x-forwarded-for}i" else APACHE.get(name)


def value_before(literal: str, name: str, *, is_last: bool) -> str:
    """What a variable can be that stands before this. A user's name may have blanks."""
    if literal.startswith('"'):
        return QUOTED
    if name in USERS and literal:
        return r"[^\n]*?"
    if literal.startswith("]"):
        return r"[^\[\]\n]*+"
    if literal:
        return rf"[^{re.escape(literal[0])}\n]*+"
    return r"[^\n]*+" if is_last else r"\S*+"


def first_forwarded(value: bytes) -> bytes:
    """The client that stands first in X-Forwarded-For; b"" when none does."""
    first = value.partition(b",")[0].strip(b' "')
    return b"" if first == b"-" else first

