"""Two charts of the kept figures as SVG, written by hand so that no library is needed: bars of capacity, and memory
against idle connections. Both have a transparent ground and colours that are read on light and on dark pages.
"""

import statistics
from html import escape
from math import log10

STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #3b4252; }
.title { font-size: 15px; font-weight: 600; }
.small { font-size: 11px; }
.end { text-anchor: end; }
.middle { text-anchor: middle; }
.rule { stroke: #9aa3b2; stroke-opacity: .35; }
path { fill: none; stroke-width: 2.5; }
rect.ours { fill: #d9480f; } rect.peer { fill: #8a94a6; } rect.base { fill: #5c7cfa; }
path.ours { stroke: #d9480f; } path.peer { stroke: #8a94a6; } path.base { stroke: #5c7cfa; }
@media (prefers-color-scheme: dark) {
  text { fill: #d8dee9; }
  rect.ours { fill: #ff8a4c; } rect.peer { fill: #79839a; } rect.base { fill: #8da2fb; }
  path.ours { stroke: #ff8a4c; } path.peer { stroke: #79839a; } path.base { stroke: #8da2fb; }
}
</style>"""
WIDTH = 480
# The bars of the chart; the table has some more.
SHOWN = (
    "kacore-handler", "kacore-wsgi", "kacore-asgi", "nginx", "mrhttp", "bjoern", "fastpysgi-wsgi", "fastpysgi-asgi",
    "granian-asgi", "uvicorn", "gunicorn-gthread", "hypercorn",
)  # fmt: skip


def svg(height: int, title: str, body: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">'
    )
    return "\n".join([head, STYLE, *body, "</svg>", ""])


def text(x: float, y: float, words: str, kind: str = "") -> str:
    classes = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.0f}" y="{y:.0f}"{classes}>{escape(words)}</text>'


def kind_of(server: str) -> str:
    return "ours" if server.startswith("kacore") else "base" if server == "nginx" else "peer"


def bars(title: str, note: str, values: dict[str, float]) -> str:
    """One bar for each, the longest first; values are responses a second of CPU time."""
    top, step, left, right = 56, 22, 128, WIDTH - 50
    most = max(values.values())
    body = [text(12, 22, title, "title"), text(12, 41, note, "small")]
    ranked = sorted(values.items(), key=lambda item: -item[1])
    for i, (server, value) in enumerate(ranked):
        y, kind = top + i * step, kind_of(server)
        length = (right - left) * value / most
        body.append(text(left - 8, y + 13, server, "end"))
        body.append(f'<rect class="{kind}" x="{left}" y="{y}" width="{length:.1f}" height="16" rx="2"/>')
        body.append(text(left + length + 6, y + 13, f"{value / 1000:,.0f}k"))
    return svg(top + step * len(values) + 8, title, body)


def curve(title: str, note: str, points: dict[str, dict[int, float]]) -> str:
    """Lines of megabytes against connections, the megabytes on a logarithmic scale; points: server -> n -> bytes each."""
    top, bottom, left, right = 60, 280, 58, WIDTH - 148
    widest = max(n for line in points.values() for n in line)
    totals = [n * each / 1e6 for line in points.values() for n, each in line.items() if each > 0]
    low, high = int(log10(min(totals)) // 1), -int(-log10(max(totals)) // 1)

    def x_of(n: float) -> float:
        return left + (right - left) * n / widest

    def y_of(megabytes: float) -> float:
        return bottom - (bottom - top) * (log10(megabytes) - low) / (high - low)

    body = [text(12, 22, title, "title"), text(12, 41, note, "small")]
    for power in range(low, high + 1):
        y = y_of(10**power)
        body.append(f'<line class="rule" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        body.append(text(left - 6, y + 4, f"{10**power:g} MB", "end small"))
    for n in range(0, widest + 1, 6_000):
        body.append(text(x_of(n), bottom + 18, f"{n:,}", "middle small"))
    body.append(text((left + right) / 2, bottom + 36, "idle connections", "middle small"))
    taken: list[float] = []
    for server, line in sorted(points.items(), key=lambda item: -max(item[1].values())):
        line = {n: each for n, each in line.items() if each > 0}
        path = " L".join(f"{x_of(n):.1f} {y_of(n * each / 1e6):.1f}" for n, each in sorted(line.items()))
        last = max(line)
        y = y_of(last * line[last] / 1e6) + 4
        while any(abs(y - other) < 15 for other in taken):
            y += 1
        taken.append(y)
        body.append(f'<path class="{kind_of(server)}" d="M{path}"/>')
        body.append(text(right + 8, y, f"{server}, {line[last]:,.0f} B"))
    return svg(bottom + 48, title, body)


def charts(results: dict) -> dict[str, str]:
    """File name -> SVG, of the records that are there."""
    found = {}
    if "hello" in results:
        figures = results["hello"]["figures"]
        costs = {server: statistics.median(metrics["cpu_us"]) for server, metrics in figures.items()}
        values = {server: 1e6 / cost for server, cost in costs.items() if server in SHOWN}
        note = "responses for each second of the server's CPU time; 64 connections, 13 bytes"
        found["capacity.svg"] = bars("What one core can serve", note, values)
    points: dict[str, dict[int, float]] = {}
    for name, record in results.items():
        word, _, count = name.partition(" ")
        if word == "idle" and count.replace(",", "").isdigit():
            for server, metrics in record["figures"].items():
                points.setdefault(server, {})[int(count.replace(",", ""))] = statistics.median(metrics["bytes_each"])
    if points:
        note = "the server's own memory for kept-alive connections, and bytes for each"
        found["idle.svg"] = curve("Memory of idle connections", note, points)
    return found
