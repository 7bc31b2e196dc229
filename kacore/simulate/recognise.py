"""Which format a log has, seen in its first lines. A format string is made of what they are, so that lines are read in one
way only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from kacore.errors import UsageError
from kacore.simulate.json_lines import JsonLines
from kacore.simulate.layout import NAMED, Layout
from kacore.simulate.times import shown

SAMPLE = 50  # lines that are looked at

Format = Layout | JsonLines

COMMON = re.compile(
    rb"^(?P<before>[^\[\n]*) \[(?P<time>[^\]\n]+)\] "
    rb'"[^"\\]*(?:\\.[^"\\]*)*" (?:\d{3}|-) (?:\d+|-)(?P<rest>(?: .*)?)$'
)
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|\S+')
ADDRESSES = re.compile(rb'^"?(?:-|(?:[0-9a-fA-F.:]+(?:, ?|"?$))+)"?$')
NAMED_DURATION = re.compile(rb"^(rt|request_time|duration|time)([=:])\"?(\d+\.\d+|-)\"?$")
DURATION = re.compile(rb'^"?\d+\.\d{3,6}"?$')
MICROSECONDS = re.compile(rb"^\d+$")


def recognise(lines: list[bytes], name: str, *, given: str | None = None, wants_forwarded: bool = False) -> Format:
    """What reads a log that begins with these lines. given: what --format says. UsageError: nothing that is known."""
    if given is not None and given != "json":
        return Layout(NAMED.get(given, given), wants_forwarded=wants_forwarded)
    for line in lines:
        if line.lstrip().startswith(b"{"):
            try:
                return JsonLines(json.loads(line), wants_forwarded=wants_forwarded)
            except ValueError as error:
                if isinstance(error, UsageError):
                    raise
    common = [match for line in lines if (match := COMMON.match(line)) and given is None]
    if not common:
        began = f"; it begins with {shown(lines[0][:100])}" if lines else ", since it is empty"
        raise UsageError(f"{name}: its format is not known{began}; --format takes nginx's log_format or Apache's LogFormat")
    text, called = described(common)
    return Layout(text, called, wants_forwarded=wants_forwarded)


def described(lines: list[re.Match[bytes]]) -> tuple[str, str]:
    """A format string for lines in the common format, or in one that goes on behind it, and what it is called."""
    rows = [TOKEN.findall(line["rest"]) for line in lines]
    columns = [list(column) for column in zip(*rows, strict=False)]  # as many as all have
    is_combined = len(columns) >= 2 and all(is_quoted(column) for column in columns[:2])
    extras = columns[2:] if is_combined else columns
    duration = duration_in(extras)
    parts = ["[$time_local]" if duration is not None and duration[1].startswith("$") else "%t", '"%r" %>s %b']
    parts += ['"%{Referer}i"', '"%{User-agent}i"'] if is_combined else []
    is_forwarded = False
    for k, column in enumerate(extras):
        if duration is not None and k == duration[0]:
            parts.append(described_duration(column, duration[1]))
        elif not is_forwarded and all(ADDRESSES.match(value) for value in column) and is_quoted(column):
            is_forwarded = True
            parts.append('"$http_x_forwarded_for"')
        else:
            parts.append('"$unknown"' if is_quoted(column) else "$unknown")
    before = "%v %h %l %u" if all(has_host_in_front(line["before"]) for line in lines) else "%h %l %u"
    called = "combined log format" if is_combined else "common log format"
    if duration is not None:
        called += ", durations in " + ("seconds" if duration[1].startswith("$") else "microseconds")
    if is_forwarded:
        called += ", with X-Forwarded-For"
    return " ".join([before, *parts]), called


def duration_in(columns: list[list[bytes]]) -> tuple[int, str] | None:
    """Which of the further columns is the duration, and as which variable. Seconds with a fraction are nginx's, and by their
    name or the first; microseconds are Apache's, and must be the last."""
    tests: tuple[tuple[Callable[[bytes], object], str, bool], ...] = (
        (NAMED_DURATION.match, "$request_time", False),
        (DURATION.match, "$request_time", False),
        (MICROSECONDS.match, "%D", True),
    )
    for test, variable, must_be_last in tests:
        for k, column in enumerate(columns):
            if all(map(test, column)) and (not must_be_last or k == len(columns) - 1):
                return k, variable
    return None


def described_duration(column: list[bytes], variable: str) -> str:
    match = NAMED_DURATION.match(column[0])
    quote = '"' if b'"' in column[0] else ""
    prefix = (match[1] + match[2]).decode() if match is not None else ""
    return f"{prefix}{quote}{variable}{quote}"


def is_quoted(column: list[bytes]) -> bool:
    return all(value.startswith(b'"') for value in column)


def has_host_in_front(before: bytes) -> bool:
    """As in Apache's vhost_combined: the name of the host before the client."""
    words = before.split()
    return len(words) >= 4 and words[1] != b"-" and words[2] == b"-"
