"""What logs write for a time, as seconds since 1970."""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable
from datetime import datetime

MONTHS = {name: n for n, name in enumerate(b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)}
REMEMBERED = 4096


class Stamps(dict[bytes, float]):
    """Times by how they are written, each read once: many lines in a row have the same. ValueError for one that is none."""

    def __init__(self, read: Callable[[bytes], float]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, stamp: bytes) -> float:
        if len(self) >= REMEMBERED:
            self.clear()
        self[stamp] = seconds = self._read(stamp)
        return seconds


def read_common(stamp: bytes) -> float:
    """01/Aug/1995:06:00:00 +0000, as in the common log format."""
    second = stamp[18:20]
    if len(stamp) != 26 or not second.isdigit() or second > b"60":
        raise ValueError(f"{shown(stamp)} is not a time such as 01/Aug/1995:06:00:00 +0000")
    return MINUTES[stamp[:18] + stamp[20:]] + int(second)


def read_minute(stamp: bytes) -> float:
    """01/Aug/1995:06:00: +0000"""
    match = MINUTE.match(stamp)
    if match is None or match[2] not in MONTHS:
        raise ValueError(f"{shown(stamp)} is not a minute such as 01/Aug/1995:06:00: +0000")
    day, year, hour, minute, zone_hours, zone_minutes = map(int, match.group(1, 3, 4, 5, 7, 8))
    if not (1 <= day <= 31 and hour < 24 and minute < 60):
        raise ValueError(f"{shown(stamp)} is not a minute that there is")
    offset = (zone_hours * 60 + zone_minutes) * 60
    return calendar.timegm((year, MONTHS[match[2]], day, hour, minute, 0)) - (offset if match[6] == b"+" else -offset)


MINUTE = re.compile(rb"(\d\d)/(\w{3})/(\d{4}):(\d\d):(\d\d): ([+-])(\d\d)(\d\d)", re.ASCII)
MINUTES = Stamps(read_minute)


def read_iso(stamp: bytes) -> float:
    """2015-05-17T10:05:00+00:00, with or without a fraction; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(stamp.decode("ascii"))
    except ValueError:
        raise ValueError(f"{shown(stamp)} is not a time such as 2015-05-17T10:05:00+00:00") from None
    if moment.tzinfo is None:
        return calendar.timegm(moment.timetuple()) + moment.microsecond / 1e6
    return moment.timestamp()


def read_seconds(stamp: bytes) -> float:
    """1431857100.123"""
    return number(stamp, 1.0)


def read_any(stamp: bytes) -> float:
    """Whichever of these it is."""
    if stamp[2:3] == b"/":
        return read_common(stamp)
    if stamp[4:5] == b"-":
        return read_iso(stamp)
    return read_seconds(stamp)


def number(text: bytes, unit: float) -> float:
    """A number of seconds, or of parts of one. ValueError."""
    try:
        seconds = float(text) * unit
    except ValueError:
        raise ValueError(f"{shown(text)} is not a number") from None
    if not 0 <= seconds < 9e9:
        raise ValueError(f"{shown(text)} is not a number of seconds between 0 and 9e9")
    return seconds


def duration(text: bytes, unit: float) -> float:
    """The same, and 0 where the log does not know it."""
    return 0.0 if text in (b"-", b"") else number(text, unit)


def shown(text: bytes) -> str:
    """What stands in a log, so that it cannot steer a terminal."""
    return ascii(text.decode("latin-1"))
