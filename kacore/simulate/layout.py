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
class Words(NamedTuple):
    """Regular expressions of what a variable can be: in quotes, before a character, before " [", at the end."""

    quoted: str
    until: str  # {} is that character
    user: str  # with the blank
    rest: str


# For a single line.
EXACT = Words(r'[^"\\\n]*+(?:\\.[^"\\\n]*+)*+', r"[^{}\n]*+", r"[^\n]*? ", r"[^\n]*+")
# For a block of lines that are all as they should be: a third of the time. What is not, takes more than a line and so shows
# in the number of matches.
QUICK = Words(r'[^"]*+(?:(?<=\\)"[^"]*+)*+', r"[^{}]*+", r"[^[]*+(?<= )", r".*+")


class Layout:
    """Reads lines of one format. UsageError when it does not say what must be known.

    wants_forwarded: the client is the first one that X-Forwarded-For names, where the field was sent.
    """

    def __init__(self, text: str, name: str = "", *, wants_forwarded: bool = False) -> None:
        self.name = name or "as --format says"
        self._parts = parts_of(text, wants_forwarded)
        self._exact = re.compile(expression(text, self._parts, EXACT))
        self._quick = re.compile(expression(text, self._parts, QUICK), re.MULTILINE)
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

    def read(self, block: bytes, wrong: Wrong) -> list[Record]:
        """The requests of whole lines. Those that cannot be read are told to `wrong`."""
        found = self._quick.findall(block)
        if len(found) == block.count(b"\n") + (not block.endswith(b"\n")):
            try:
                return self._records(found)
            except ValueError:
                pass
        records: list[Record] = []
        for line in block.splitlines():
            match = self._exact.match(line)
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
        took = self._durations([row[self._duration] for row in found])
        return [(stamps[row[at]], took, client) for row, took, client in zip(found, took, clients, strict=True)]

    def _durations(self, column: list[bytes]) -> list[float]:
        unit = self._unit
        try:
            took = [float(text) * unit for text in column]
            if not took or (min(took) >= 0 and max(took) < 9e9 and sum(took) < 9e18):
                return took
        except ValueError:
            pass
        return [duration(text, unit) for text in column]

    def matches(self, line: bytes) -> bool:
        """Whether it is one of these."""
        match = self._exact.match(line)
        try:
            return match is not None and bool(self._records([match.groups()]))
        except ValueError:
            return False


MISSING = {
    "client": "who the client is: $remote_addr, %h or %a",
    "time": "when it was: $time_local, $time_iso8601, $msec or %t",
    "forwarded": "what X-Forwarded-For was: $http_x_forwarded_for or %{X-Forwarded-For}i",
}


def parts_of(text: str, wants_forwarded: bool) -> list[Part]:
    """What is captured, in order; of several that tell the same the first one."""
    wanted = ["client", "time", "duration", *(["forwarded"] if wants_forwarded else [])]
    parts: list[Part] = []
    for match in VARIABLE.finditer(text):
        part = part_of(match)
        if part is not None and part.what in wanted:
            wanted.remove(part.what)
            parts.append(part)
    return parts


def part_of(match: re.Match[str]) -> Part | None:
    if match[1]:
        return NGINX.get(match[1])
    name = match[2] or ""
    return Part("forwarded") if name.lower() == "{x-forwarded-for}i" else APACHE.get(name)


def expression(text: str, captured: list[Part], words: Words) -> bytes:
    """A line as a regular expression. A variable ends where what follows it begins; behind the last one may be anything."""
    found, waiting = list(VARIABLE.finditer(text)), list(captured)
    pieces, at = ["^"], 0
    for k, match in enumerate(found):
        pieces.append(re.escape(text[at : match.start()]))
        at = match.end()
        if match[0] == "%%":
            pieces.append("%")
            continue
        follows = text[at : found[k + 1].start() if k + 1 < len(found) else len(text)]
        is_captured = bool(waiting) and part_of(match) == waiting[0]
        group = "({})" if is_captured else "(?:{})"
        if is_captured:
            waiting.pop(0)
        if match[2] == "t":
            pieces.append(r"\[" + group.format(words.until.format(r"\[\]")) + r"\]")
        elif (match[1] or match[2]) in USERS and (follows.startswith(" [") or text.startswith(" %t", at)):
            pieces.append(words.user)
            at += 1
        else:
            pieces.append(group.format(value_before(follows, words, is_last=k + 1 == len(found))))
    return "".join([*pieces, re.escape(text[at:])]).encode()


def value_before(follows: str, words: Words, *, is_last: bool) -> str:
    if not follows:
        return words.rest if is_last else r"\S*+"
    if follows[0] == '"':
        return words.quoted
    return words.until.format(r"\[\]" if follows[0] == "]" else re.escape(follows[0]))


def first_forwarded(value: bytes) -> bytes:
    """The client that stands first in X-Forwarded-For; b"" when none does."""
    first = value.partition(b",")[0].strip(b' "')
    return b"" if first == b"-" else first

