"""Shapes as SVG: areas, lines and bars without a letter, stretched to whatever place they get; the letters beside them are
the page's. Colours are classes, since the page allows no style in an element. Knows numbers alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 600, 100  # units; the picture has no ratio of its own

Values = Sequence[float | None]


def svg(name: str, shapes: Sequence[str], width: float = WIDTH, height: float = HEIGHT) -> str:
    box = f'viewBox="0 0 {place(width)} {place(height)}" preserveAspectRatio="none"'
    return f'<svg {box} role="img" aria-label="{escape(name)}">{"".join(shapes)}</svg>'


def place(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def nice(peak: float) -> float:
    """The top of an axis: 1, 2, 4, 5 or 8 times a power of ten, so that its half is as round."""
    if peak <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(peak))
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if peak <= step * power * 1.0001)


def grid() -> str:
    """At the top and at half of it."""
    return "".join(f'<line class="grid" x2="{WIDTH}" y1="{y}" y2="{y}"/>' for y in (0, HEIGHT // 2))


def across(k: int, n: int, of: int) -> float:
    """The newest at the right edge, wherever the first one is."""
    return WIDTH * (of - n + k) / max(1, of - 1)


def stack(layers: Sequence[tuple[str, Values]], top: float, of: int) -> list[str]:
    """Areas upon each other, the first at the bottom. layers: class and values, all equally many."""
    n = len(layers[0][1]) if layers else 0
    if n < 2:
        return []
    below = [0.0] * n
    shapes = []
    for name, values in layers:
        above = [low + (value or 0.0) for low, value in zip(below, values, strict=True)]
        if above != below:
            edge = path(above, top, of)
            back = path(below, top, of, is_back=True)
            shapes.append(f'<path class="{name}" d="M{edge}L{back}Z"/>')
        below = above
    return shapes


def line(name: str, values: Values, top: float, of: int) -> str:
    """Broken where nothing is known."""
    parts = []
    start, n = 0, len(values)
    for k in range(n + 1):
        if k < n and values[k] is not None:
            continue
        if k - start >= 1:
            known = [value or 0.0 for value in values[start:k]]
            parts.append("M" + path(known if len(known) > 1 else known * 2, top, of, start=start, n=n))
        start = k + 1
    return f'<path class="line {name}" d="{"".join(parts)}"/>' if parts else ""


def path(
    values: Sequence[float], top: float, of: int, *, is_back: bool = False, start: int = 0, n: int | None = None
) -> str:
    n = len(values) if n is None else n
    points = [
        f"{place(across(start + k, n, of))} {place(HEIGHT - HEIGHT * min(value, top * 1.02) / top)}"
        for k, value in enumerate(values)
        # In the middle of a level stretch no point is needed.
        if k in (0, len(values) - 1) or not values[k - 1] == value == values[k + 1]
    ]
    return "L".join(reversed(points) if is_back else points)


def bars(values: Sequence[tuple[float, str]], name: str) -> str:
    """Of a histogram. values: height and what it says when it is pointed at."""
    peak = max((value for value, _ in values), default=0) or 1
    width = WIDTH / max(1, len(values))
    shapes = [
        f'<rect class="c1" x="{place(k * width + width * 0.06)}" width="{place(width * 0.88)}" y="{place(HEIGHT - high)}"'
        f' height="{place(high)}"><title>{escape(said)}</title></rect>'
        for k, (value, said) in enumerate(values)
        if (high := max(HEIGHT * value / peak, 1.0 if value else 0.0))
    ]
    return svg(name, shapes)


def bar(share: float, name: str = "c1") -> str:
    """One, from the left, in a table."""
    wide = place(100 * min(1.0, max(0.0, share)))
    return (
        '<svg class="bar" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="rail" width="100" height="1"/><rect class="{name}" width="{wide}" height="1"/></svg>'
    )


def meter(share: float, band: tuple[float, float] | None, said: str) -> str:
    """How full something is; band: from where to where it matters."""
    shapes = ['<rect class="rail" width="100" height="10"/>']
    if band is not None:
        start, full = 100 * band[0], 100 * band[1]
        shapes.append(f'<rect class="band" x="{place(start)}" width="{place(full - start)}" height="10"/>')
        shapes.append(f'<rect class="band full" x="{place(full)}" width="{place(100 - full)}" height="10"/>')
    level = "hot" if band is not None and share >= band[0] else "c1"
    shapes.append(f'<rect class="{level}" width="{place(100 * min(1.0, share))}" y="2" height="6"/>')
    if band is not None:
        shapes += [f'<line class="mark" x1="{place(100 * at)}" x2="{place(100 * at)}" y2="10"/>' for at in band]
    return f'<div class="meter">{svg(said, shapes, 100, 10)}</div>'
