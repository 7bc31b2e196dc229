"""What the last ten minutes were like: one sample a second, of a bounded number of numbers, and nothing else.

A counter's rate is a difference of samples, so a reading that comes late is a slower second and not a gap. What a server
does not count is absent from every sample, and the history says None for it. Knows no server: samples are dicts.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping

SECONDS = 600
PER_POINT = 3  # samples in one point of a picture, so that 200 points are all of it


class History:
    """The newest SECONDS samples. Memory: 8 bytes a sample for each name; 45 names are 216 kB."""

    def __init__(self) -> None:
        self.n = 0  # samples ever taken
        self._times = array("d", bytes(8 * SECONDS))
        self._columns: dict[str, array[float]] = {}

    def add(self, now: float, sample: Mapping[str, float]) -> None:
        """now: seconds on any clock that does not go back."""
        at = self.n % SECONDS
        self._times[at] = now
        for name in sample.keys() - self._columns.keys():
            self._columns[name] = array("d", [math.nan]) * SECONDS
        for name, column in self._columns.items():
            column[at] = sample.get(name, math.nan)
        self.n += 1

    def names(self) -> list[str]:
        return sorted(self._columns)

    def latest(self, name: str) -> float | None:
        return self._at(name, self.n - 1)

    def span(self, seconds: int = SECONDS) -> float:
        """Seconds between the last sample and the one `seconds` before it, or the first that there is."""
        first = self._first(seconds)
        return self._times[(self.n - 1) % SECONDS] - self._times[first % SECONDS] if self.n else 0.0

    def growth(self, name: str, seconds: int = SECONDS) -> float | None:
        """By how much a counter has grown in that time. None: not known. One that fell began anew."""
        last, first = self.latest(name), self._at(name, self._first(seconds))
        if last is None:
            return None
        return last - first if first is not None and first <= last else last

    def rate(self, name: str, seconds: int = SECONDS) -> float | None:
        """Its growth a second; None: not known yet."""
        span = self.span(seconds)
        growth = self.growth(name, seconds)
        return None if growth is None or span <= 0 else growth / span

    # -- pictures ---------------------------------------------------------------------------------------------

    def ends(self) -> list[int]:
        """The last sample of each point, the oldest first. They stay where they are as time goes on."""
        newest = self.n - 1 - (self.n - 1) % PER_POINT
        oldest = max(0, self.n - SECONDS + PER_POINT)
        return [end for end in range(newest - SECONDS + PER_POINT, newest + 1, PER_POINT) if end >= oldest]

    def levels(self, name: str) -> list[float | None]:
        """Of a gauge: the mean of each point's samples, so that a stack of them is as high as their sum."""
        values, oldest = self._in_order(self._columns.get(name))
        parts = (values[max(0, end - oldest - PER_POINT + 1) : end - oldest + 1] for end in self.ends())
        return [known(sum(part) / len(part)) for part in parts]

    def rates(self, name: str) -> list[float | None]:
        """Of a counter: its growth a second within each point."""
        values, oldest = self._in_order(self._columns.get(name))
        times, _ = self._in_order(self._times)
        found: list[float | None] = []
        for end in self.ends():
            last, first = end - oldest, max(0, end - oldest - PER_POINT)
            seconds = times[last] - times[first]
            found.append(known(max(values[last] - values[first], 0.0) / seconds) if seconds > 0 else None)
        return found

    def _in_order(self, column: array[float] | None) -> tuple[list[float], int]:
        """Its samples, the oldest first, and the number of that one."""
        n, at = min(self.n, SECONDS), self.n % SECONDS
        if column is None:
            return [math.nan] * n, self.n - n
        return (column[at:] + column[:at] if self.n >= SECONDS else column[:n]).tolist(), self.n - n

    def _first(self, seconds: int) -> int:
        return max(0, self.n - SECONDS, self.n - 1 - seconds)

    def _at(self, name: str, number: int) -> float | None:
        column = self._columns.get(name)
        if column is None or not max(0, self.n - SECONDS) <= number < self.n:
            return None
        value = column[number % SECONDS]
        return None if math.isnan(value) else value


def known(value: float) -> float | None:
    return None if math.isnan(value) else value


def rounded(values: Iterable[float | None]) -> list[float | None]:
    """Three digits that count, for a document: what is drawn has no more."""
    return [None if value is None else short(value) for value in values]


def short(value: float) -> float:
    if value == int(value) or value >= 1000:
        return round(value)
    return float(f"{value:.3g}")
