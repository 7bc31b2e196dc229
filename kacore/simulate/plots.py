"""The charts of a result."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kacore.simulate import words
from kacore.simulate.chart import Axis, Mark, Series, draw
from kacore.simulate.study import AUTO_MAX, Result
from kacore.simulate.text import rooms_that_matter

TIMES = Axis(0.5, AUTO_MAX, (1, 5, 15, 60, 300, 1800, 3600), words.duration)
SHARES = Axis(0.0, 1.0, (0, 0.25, 0.5, 0.75, 1), lambda share: f"{share * 100:.0f} %", is_log=False)


REUSE, OPEN, ROOMS, RACES = (
    "Requests that find their connection open, by timeout",
    "Open connections, by timeout",
    "Reuse with limited room, by max_connections",
    "Requests lost of a million, by timeout",
)
NARROW = 500  # where there is no room for names


def reuse(result: Result, width: int, height: int, title: str = "") -> str:
    """With a title it is in the picture."""
    points = [(point.timeout, result.share(point.reused)) for point in result.curve if point.timeout <= AUTO_MAX]
    marks = []
    for row in result.rows:
        if row.timeout is not None and words.servers(row.timeout):
            name = words.duration(row.timeout) if width < NARROW else words.servers(row.timeout)
            share = result.share(row.reused)
            marks.append(Mark(row.timeout, share, f"{name}: {words.percent(share)}"))
    auto = result.share(result.auto.reused)
    marks.append(Mark(AUTO_MAX, auto, f"auto: {words.percent(auto)}"))
    series = [Series("reuse", points, marks)]
    return draw(title or REUSE, TIMES, SHARES, series, width=width, height=height, is_titled=bool(title))


def open_connections(result: Result, width: int, height: int) -> str:
    means = [(point.timeout, point.mean) for point in result.curve if point.timeout <= AUTO_MAX]
    peaks = [(row.timeout, float(row.peak)) for row in result.rows if row.timeout is not None]
    peaks.append((AUTO_MAX, float(result.auto.peak)))
    numbers = decades(min(mean for _, mean in means), max(peak for _, peak in peaks))
    series = [Series("at most", peaks), Series("on average", means)]
    return draw(OPEN, TIMES, numbers, series, width=width, height=height)


def rooms(result: Result, width: int, height: int) -> str:
    """"" when there is but one room to show."""
    shown = rooms_that_matter(result)
    sizes = list(dict.fromkeys(room.max_connections for room in shown))
    if len(sizes) < 2:
        return ""
    series = [
        Series(
            words.duration(timeout),
            [(room.max_connections, result.share(room.reused)) for room in shown if room.timeout == timeout],
        )
        for timeout in dict.fromkeys(room.timeout for room in shown)
    ]
    axis = Axis(sizes[0], sizes[-1], sizes, lambda size: f"{size:,.0f}")
    return draw(ROOMS, axis, SHARES, series, width=width, height=height)


def races(result: Result, width: int, height: int) -> str:
    """"" without fronts, or when none loses anything."""
    by_timeout: dict[float, list[str]] = {}
    for front in result.fronts:
        by_timeout.setdefault(front.timeout, []).append(front.name)
    series = []
    for timeout, names in by_timeout.items():
        points = [
            (row.timeout, row.races[names[0]])
            for row in result.rows
            if row.timeout is not None and row.races[names[0]] >= 0.1
        ]
        if points:
            series.append(Series(f"{', '.join(names)} ({words.duration(timeout)})", points))
    most = max((lost for one in series for _, lost in one.points), default=0.0)
    if most < 0.1:
        return ""
    lost = decades(0.1, most)
    return draw(RACES, TIMES, lost, series, width=width, height=height)


def decades(low: float, high: float) -> Axis:
    """From the power of ten below to the one above."""
    first, last = math.floor(math.log10(max(low, 1e-3))), math.ceil(math.log10(max(high, 1.1e-3)))
    last = max(last, first + 1)
    ticks: Sequence[float] = [10.0**k for k in range(first, last + 1)]
    return Axis(ticks[0], ticks[-1], ticks, words.rounded)
