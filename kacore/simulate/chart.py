"""Line charts as SVG. Knows numbers and their names, and nothing of timeouts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

STYLE = """
.chart { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; fill: var(--quiet); }
.chart .grid { stroke: var(--line); }
.chart .axis { stroke: var(--quiet); stroke-opacity: .5; }
.chart .line { fill: none; stroke-width: 2.5; stroke-linejoin: round; stroke-linecap: round; }
.chart .title { fill: var(--ink); font-weight: 600; }
.chart .dot { stroke: var(--card); stroke-width: 2; }
.chart .value { fill: var(--ink); font-weight: 600; }
.c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); } .c3 { stroke: var(--c3); } .c4 { stroke: var(--c4); }
.c5 { stroke: var(--c5); }
.dot.c1, .key.c1 { fill: var(--c1); } .dot.c2, .key.c2 { fill: var(--c2); } .dot.c3, .key.c3 { fill: var(--c3); }
.dot.c4, .key.c4 { fill: var(--c4); } .dot.c5, .key.c5 { fill: var(--c5); }
.key { stroke: none; }
""".strip()
LIGHT = (
    "--paper: #f4f5f2; --card: #ffffff; --ink: #17211f; --quiet: #5a6663; --line: #e1e5e1;"
    " --c1: #12978a; --c2: #e8862a; --c3: #3b6fd4; --c4: #a14bb0; --c5: #7c8a3a;"
)
DARK = (
    "--paper: #0e1413; --card: #161e1d; --ink: #e9efed; --quiet: #9daba7; --line: #27312f;"
    " --c1: #2bb8a8; --c2: #f29a3f; --c3: #7aa5f5; --c4: #d48be0; --c5: #b3c264;"
)
THEME = f":root {{ color-scheme: light dark; {LIGHT} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {DARK} }} }}"

LETTER = 7.4  # width of one, on average, at most


class Mark(NamedTuple):
    """A point with words beside it."""

    x: float
    y: float
    text: str


class Series(NamedTuple):
    name: str
    points: Sequence[tuple[float, float]]
    marks: Sequence[Mark] = ()


class Axis(NamedTuple):
    """From `low` to `high`; `ticks` are where the lines of the grid are."""

    low: float
    high: float
    ticks: Sequence[float]
    show: Callable[[float], str]
    is_log: bool = True

    def place(self, value: float) -> float:
        """0 to 1."""
        value = min(max(value, self.low), self.high)
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def draw(title: str, x: Axis, y: Axis, series: Sequence[Series], *, width: int, height: int, is_titled: bool = False) -> str:
    """An <svg> without its own style. Widths and heights are units that grow with the picture. The title is for those who
    cannot see it, or stands in it with `is_titled`."""
    legend = layout_legend(series, width) if len(series) > 1 else []
    left, right, bottom = 52, width - 14, height - 28
    above = 26 if is_titled else 0
    top = above + 14 + 20 * len({row for row, *_ in legend})

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return left + x.place(point[0]) * (right - left), bottom - y.place(point[1]) * (bottom - top)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width} {height}" role="img"'
        f' aria-label="{escape(title)}">',
    ]
    if is_titled:
        parts.append(f'<text class="title" x="2" y="17">{escape(title)}</text>')
    for row, place, number, name in legend:
        level = above + 12 + 20 * row
        parts.append(f'<rect class="key c{number}" x="{place}" y="{level - 9}" width="14" height="9" rx="2"/>')
        parts.append(f'<text x="{place + 20}" y="{level}">{escape(name)}</text>')
    for tick in y.ticks:
        _, py = at((x.low, tick))
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{py:.1f}" y2="{py:.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{py + 4.5:.1f}" text-anchor="end">{escape(y.show(tick))}</text>')
    last = -math.inf
    for tick in x.ticks:
        place_x, _ = at((tick, y.low))
        shown = x.show(tick)
        half = len(shown) * LETTER / 2
        parts.append(f'<line class="axis" x1="{place_x:.1f}" x2="{place_x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        middle = min(place_x, width - half)
        if middle - half > last + 6:
            parts.append(f'<text x="{middle:.1f}" y="{height - 8}" text-anchor="middle">{escape(shown)}</text>')
            last = middle + half
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    for number, one in enumerate(series, 1):
        path = " ".join(f"{'L' if k else 'M'}{px:.1f} {py:.1f}" for k, (px, py) in enumerate(map(at, one.points)))
        parts.append(f'<path class="line c{number}" d="{path}"><title>{escape(one.name)}</title></path>')
    for number, one in enumerate(series, 1):
        parts += marks_of(one, number, at, width)
    return "\n".join([*parts, "</svg>"])


def layout_legend(series: Sequence[Series], width: int) -> list[tuple[int, int, int, str]]:
    """(row, x, number, name), in as many rows as it takes."""
    found, row, place = [], 0, 2
    for number, one in enumerate(series, 1):
        wide = 34 + round(len(one.name) * LETTER)
        if place > 2 and place + wide > width:
            row, place = row + 1, 2
        found.append((row, place, number, one.name))
        place += wide
    return found


def marks_of(one: Series, number: int, at: Callable[[tuple[float, float]], tuple[float, float]], width: int) -> list[str]:
    """Dots, and their words below to the right; to the left where they would leave the picture."""
    parts = []
    for mark in one.marks:
        px, py = at((mark.x, mark.y))
        parts.append(f'<circle class="dot c{number}" cx="{px:.1f}" cy="{py:.1f}" r="5"/>')
        is_left = px + 10 + len(mark.text) * LETTER > width
        place, anchor = (px - 6, "end") if is_left else (px + 8, "start")
        level = py - 9 if is_left else py + 16
        parts.append(f'<text class="value" x="{place:.1f}" y="{level:.1f}" text-anchor="{anchor}">{escape(mark.text)}</text>')
    return parts


def standalone(svg: str) -> str:
    """A picture with its own style, light or dark as its reader has it."""
    head, _, rest = svg.partition(">\n")
    style = f"<style>\n{THEME}\n{STYLE}\nsvg {{ background: var(--card); }}\n</style>"
    return f"{head}>\n{style}\n{rest}\n"
