"""A result as one page: no script, nothing that is loaded, light and dark, from a telephone to a wall."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from importlib import resources

from kacore.simulate import plots, text, words
from kacore.simulate.chart import STYLE, THEME
from kacore.simulate.cost import Cost
from kacore.simulate.study import Result, Row

WIDE, NARROW = (620, 330), (340, 280)


def page(result: Result, about: str, toml: str, chosen: Row, notes: Sequence[str], costs: Sequence[Cost] = ()) -> str:
    """about: which log. toml: the recommendation; chosen: its row. notes: what else is to be known, sentences."""
    five = next((row for row in result.rows if row.timeout == 5), result.rows[0])
    css = resources.files("kacore.simulate").joinpath("page.css").read_text(encoding="utf-8")
    figures = [
        picture(title, draw, result)
        for title, draw in (
            (plots.REUSE, plots.reuse),
            (plots.OPEN, plots.open_connections),
            (plots.ROOMS, plots.rooms),
            (plots.RACES, plots.races),
        )
    ]
    title = (
        f"{words.percent(result.share(chosen.reused))} of requests find their connection open with"
        f" {words.duration(chosen.timeout)}, {words.percent(result.share(five.reused))} with {words.duration(five.timeout)}"
    )
    numbers = [
        (f"{result.n_requests:,}", "requests"),
        (f"{result.n_clients:,}", "clients"),
        (words.duration(result.span), "from the first to the last"),
        (f"{chosen.reused - five.reused:,}", f"handshakes less than at {words.duration(five.timeout)}"),
        (f"{chosen.peak:,}", "connections open at most"),
        (words.size(sum(chosen.memory())), "of memory for them"),
    ]
    tiles = "".join(f"<div><dt>{escape(what)}</dt><dd>{escape(number)}</dd></div>" for number, what in numbers)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{THEME}
{STYLE}
{css}</style>
<main class="sheet">
<p class="brand">kacore simulate: {escape(about)}</p>
<h1>{escape(title)}</h1>
<p class="lead">{escape(text.how(result))}</p>
<dl class="numbers">{tiles}</dl>
<section class="card"><h2>Recommendation: kacore.toml</h2><pre>{escape(toml)}</pre></section>
<div class="cards">
{"".join(figures)}</div>
<section class="card"><h2>All timeouts</h2><div class="scroll">{timeouts(result, chosen)}</div></section>
{lists(result, costs)}
{"".join(f'<p class="small">{escape(note)}</p>' for note in notes)}
</main>
</html>
"""


def picture(title: str, draw: Callable[[Result, int, int], str], result: Result) -> str:
    """Twice, for wide and narrow screens: letters that shrink with the picture would be too small to read on one of them."""
    wide, narrow = draw(result, *WIDE), draw(result, *NARROW)
    if not wide:
        return ""
    return (
        f'<figure class="card"><figcaption>{escape(title)}</figcaption><div class="wide">{wide}</div>'
        f'<div class="narrow">{narrow}</div></figure>\n'
    )


def timeouts(result: Result, chosen: Row) -> str:
    names = [front.name for front in result.fronts]
    lost = [f"lost: {name}" for name in names]
    head = ["timeout", "reuse", "", "handshakes saved", "open on average", "at most", "memory", *lost, ""]
    rows = []
    for row in [*result.rows, result.auto]:
        share = result.share(row.reused)
        cells = [
            f"<td>{escape(words.duration(row.timeout))}",
            f"<td>{words.percent(share)}",
            f'<td><span class="meter"><i style="width: {share * 100:.1f}%"></i></span>',
            f"<td>{row.reused:,}",
            f"<td>{words.mean(row.mean)}",
            f"<td>{row.peak:,}",
            f"<td>{words.size(sum(row.memory()))}",
            *(f"<td>{escape(words.rate(row.races[name]))}" for name in names),
            f'<td class="words">{escape(words.servers(row.timeout))}',
        ]
        rows.append(f'<tr{" class=chosen" if row is chosen else ""}>{"".join(cells)}')
    return f"<table><tr>{''.join(f'<th>{escape(name)}' for name in head)}\n" + "\n".join(rows) + "</table>"


def lists(result: Result, costs: Sequence[Cost]) -> str:
    if not costs:
        return ""
    rows = "".join(
        f"<tr><td>{escape(one.name)}<td>{one.open_seconds / 3600:,.1f} h<td>{one.handshakes:,}<td>{one.cost:.2f} s"
        for one in costs
    )
    return (
        '<section class="card"><h2>Cost: idle connections against handshakes</h2><div class="scroll"><table><tr><th>policy'
        f"<th>idle connections<th>handshakes<th>cost a request{rows}</table></div></section>"
    )
