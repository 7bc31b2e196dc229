"""The status document as a page: one file without scripts or styles of others, readable without JavaScript.

The server draws everything, and the browser puts the parts that changed into the page that it has: so what is shown is
worded and escaped in one place. Knows documents; every word of them may come from the network.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

from kacore.server.status.drawing import HEIGHT, WIDTH, bar, bars, grid, line, meter, nice, place, stack, svg
from kacore.server.status.words import UNKNOWN, count, duration, number, percent, plain, size

# From the bottom of the stack; who is idle is most of it.
PHASES = ("idle", "busy", "write", "body", "head", "new", "handshake", "linger", "tunnel")
MEANING = {
    "idle": "kept, between requests",
    "busy": "the application works",
    "write": "the client must read",
    "body": "content is awaited",
    "head": "part of a head is here",
    "new": "no byte yet",
    "handshake": "TLS",
    "linger": "closed by us, FIN awaited",
    "tunnel": "websocket, upgrade",
}
LEVELS = {"act": "To do", "know": "To know", "fine": "Fine"}
MAX_ROWS = 10
MAX_WORKERS = 128

Document = dict[str, Any]


def safe(text: object) -> str:
    return escape(plain(text))


class Page:
    """Remembers the parts as they were last, to know which are new."""

    def __init__(self) -> None:
        files = resources.files("kacore.server.status")
        html, css, js = (files.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
        self._template = Template(html.replace("$css", css).replace("$js", js))
        self._parts: dict[str, str] = {}
        policy = [
            "default-src 'none'",
            f"style-src '{source(css)}'",
            f"script-src '{source(js)}'",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
        self.fields = (
            (b"content-type", b"text/html; charset=utf-8"),
            (b"content-security-policy", "; ".join(policy).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cache-control", b"no-store"),
        )

    def whole(self, document: Document) -> str:
        return self._template.substitute(parts(document))

    def changed(self, document: Document | None) -> dict[str, str]:
        """The parts that are new since the last call; None: all of then."""
        if document is None:
            return self._parts
        before, self._parts = self._parts, parts(document)
        return {name: text for name, text in self._parts.items() if before.get(name) != text}


def source(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def parts(document: Document) -> dict[str, str]:
    """By the id of the element that they are in; "" for what there is nothing to say about."""
    return {name: draw(document) for name, draw in PARTS.items()}


# -- numbers ----------------------------------------------------------------------------------------------------------


def top(document: Document) -> str:
    word, look = ("ready", "") if document["ready"] else ("not ready", " off")
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(document["since"]))
    return (
        f'<h1>kacore <small>{safe(document["kacore"])}</small></h1><span class="pill{look}">{word}</span>'
        f"<p>since {since} UTC</p>"
    )


def tiles(document: Document) -> str:
    rates, total, lately, policy = (document[name] for name in ("rates", "total", "lately", "policy"))
    n_open, most, buffers = document["open"], document["max"], document["buffers"]
    share = n_open / most
    band = (policy["pressure_start"], policy["pressure_full"])
    evicted = total["closed"].get("evicted", 0)
    found = [
        tile(
            "Open connections",
            f"{count(n_open)} <small>of {count(most)}</small>",
            f"{percent(share)}; pressure from {percent(band[0])} to {percent(band[1])}",
            meter(share, band, f"{percent(share)} of max_connections"),
            look="lead hot" if share >= band[0] else "lead",
        ),
        tile("Requests/s", number(rates["requests"]), f"{count(total['requests'])} in all"),
        tile("Reuse, 10 min", percent(lately["reuse_rate"]), f"{percent(total['reuse_rate'])} in all"),
        tile("Accepted/s", number(rates["accepted"]), f"{count(total['accepted'])} in all"),
        tile("Races, 10 min", count(lately["races"]), f"{count(total['races'])} in all", look="hot" * bool(lately["races"])),
        tile("Evicted, 10 min", count(lately["closed"].get("evicted", 0)), f"{count(evicted)} in all"),
    ]
    if buffers["bytes"] is not None:
        full = buffers["bytes"] / buffers["max"] if buffers["max"] else 0.0
        picture = meter(full, None, f"{percent(full)} of max_buffer_bytes")
        found.append(tile("Buffers", size(buffers["bytes"]), f"of {size(buffers['max'])}", picture))
    return "".join(found)


def tile(name: str, shown: str, under: str, picture: str = "", *, look: str = "") -> str:
    return f'<div class="{look}"><p>{name}</p><b>{shown}</b>{picture}<p>{under}</p></div>'


def advice(document: Document) -> str:
    if not document["advice"]:
        return ""
    rows = "".join(
        f'<li class="{safe(one["level"])}"><b>{LEVELS[one["level"]]}</b><span>{safe(one["text"])}</span></li>'
        for one in document["advice"]
    )
    return f"<h2>Advice</h2><ul>{rows}</ul>"


# -- the last ten minutes -----------------------------------------------------------------------------------------------


def plot(top: float, shapes: Sequence[str], said: str, show: Callable[[float], str] = number) -> str:
    """With its axes: the left one, and ten minutes."""
    axis = "".join(f"<span>{show(value)}</span>" for value in (top, top / 2, 0))
    picture = svg(said, [grid(), *shapes])
    ago = "<span>10 min ago</span><span>5 min</span><span>now</span>"
    return f'<div class="plot"><div class="y">{axis}</div>{picture}</div><div class="x">{ago}</div>'


def phases(document: Document) -> str:
    history, most, policy = document["history"], document["max"], document["policy"]
    series, of = history["series"], history["of"]
    layers = [(f"p {name}", series[f"phase {name}"]) for name in PHASES if f"phase {name}" in series]
    if document["phases"] is None or not layers:
        layers = [("p open", series["open"])]
    peak = peak_of(document)
    high, shapes = nice(peak), []
    if is_limit_in_sight(document):
        high = most
        start, full = (HEIGHT * (1 - policy[name]) for name in ("pressure_start", "pressure_full"))
        shapes = [
            f'<rect class="band" width="{WIDTH}" y="{place(full)}" height="{place(start - full)}"/>',
            f'<rect class="band full" width="{WIDTH}" height="{place(full)}"/>',
        ]
    shapes += stack(layers, high, of)
    if is_limit_in_sight(document):
        shapes += [f'<line class="mark" x2="{WIDTH}" y1="{place(at)}" y2="{place(at)}"/>' for at in (start, full)]
    said = f"Open connections in the last ten minutes: {count(document['open'])} now, at most {count(peak)}"
    return f"<h2>Open connections by phase</h2>{plot(high, shapes, said)}"


def phase_names(document: Document) -> str:
    now = document["phases"]
    if now is None:
        return f'<li><i class="open"></i>open <b>{count(document["open"])}</b></li>'
    policy = document["policy"]
    start, full = (percent(policy[name]) for name in ("pressure_start", "pressure_full"))
    names = "".join(
        f'<li title="{MEANING[name]}"><i class="{name}"></i>{name} <b>{count(now[name])}</b></li>'
        for name in PHASES
        if name in now
    )
    if not is_limit_in_sight(document):
        return names
    return (
        f'{names}<li><i class="band"></i>pressure, from {start}: idle ones are kept for less time</li>'
        f'<li><i class="full"></i>from {full}: for what their network needs</li>'
    )


def is_limit_in_sight(document: Document) -> bool:
    return bool(peak_of(document) >= document["max"] / 2)


def peak_of(document: Document) -> float:
    return max((value for value in document["history"]["series"]["open"] if value is not None), default=0)


def traffic(document: Document) -> str:
    series, of = document["history"]["series"], document["history"]["of"]
    peaks = [value for name in ("requests", "accepted") for value in series[name] if value is not None]
    high = nice(max(peaks, default=0))
    shapes = [line("c1", series["requests"], high, of), line("c2", series["accepted"], high, of)]
    rates = document["rates"]
    said = f"{number(rates['requests'])} requests and {number(rates['accepted'])} new connections a second"
    names = (
        f'<ul class="legend"><li><i class="l1"></i>requests <b>{number(rates["requests"])}</b></li>'
        f'<li><i class="l2"></i>new connections <b>{number(rates["accepted"])}</b></li></ul>'
    )
    return f"<h2>Traffic per second</h2>{plot(high, shapes, said)}{names}"


def reuse(document: Document) -> str:
    series, of = document["history"]["series"]["reuse_rate"], document["history"]["of"]
    lately = document["lately"]
    said = f"{percent(lately['reuse_rate'])} of requests came on a kept connection"
    note = f'<p class="note">{count(lately["reused"])} of {count(lately["requests"])} requests did not need a handshake.</p>'
    return f"<h2>Reuse</h2>{plot(1.0, [line('c1', series, 1.0, of)], said, percent)}{note}"


# -- histograms ---------------------------------------------------------------------------------------------------------


def histogram(found: dict[str, Any] | None, name: str, show: Callable[[float], str], note: str) -> str:
    """note: with a place for the middle and for what 90 % are below."""
    if found is None:
        return f'<h2>{name}</h2><p class="note">None yet.</p>'
    edges, counts = found["edges"], found["counts"]
    ends = [*edges[1:], found["above"]]
    total = sum(counts)
    rows = [
        (n, f"{show(low)} to {show(high) if high is not None else 'more'}: {count(n)}, {percent(n / total)}")
        for low, high, n in zip(edges, ends, counts, strict=True)
    ]
    middle, most = (show(quantile(edges, ends, counts, share)) for share in (0.5, 0.9))
    labels = "".join(f"<span>{show(edges[k])}</span>" for k in sorted({0, len(edges) // 3, 2 * len(edges) // 3}))
    last = show(ends[-1]) if ends[-1] is not None else ""
    return (
        f'<h2>{name}</h2><div class="bars"><div class="plot">{bars(rows, name)}</div>'
        f'<div class="x">{labels}<span>{last}</span></div></div>'
        f'<p class="note">{note.format(middle, most)}</p>'
    )


def quantile(edges: Sequence[float], ends: Sequence[float | None], counts: Sequence[int], share: float) -> float:
    """The end of the bucket that it is in: what is said to be below is."""
    left = share * sum(counts)
    for low, high, n in zip(edges, ends, counts, strict=True):
        left -= n
        if left <= 0:
            return high if high is not None else low
    return edges[-1]


def gaps(document: Document) -> str:
    note = "Half were used again within {}, 90 % within {}."
    return histogram(document["idle_gap"], "Idle time before reuse", duration, note)


def left(document: Document) -> str:
    note = "Half of the clients that closed an idle connection did so within {}, 90 % within {}."
    return histogram(document["idle_left"], "Idle time before a client closed", duration, note)


def requests(document: Document) -> str:
    note = "Half of the connections that ended had fewer than {} requests, 90 % fewer than {}."
    return histogram(document["requests_per_connection"], "Requests per connection", count, note)


# -- tables ---------------------------------------------------------------------------------------------------------------


def table(name: str, head: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> str:
    """Cells are HTML already. A cell that is a picture gets the width that is left."""
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(
        f"<tr>{''.join(f'<td class=b>{cell}</td>' if cell.startswith('<svg') else f'<td>{cell}</td>' for cell in row)}</tr>"
        for row in rows
    )
    text = f'<p class="note">{note}</p>' if note else ""
    return f'<h2>{name}</h2><div class="scroll" tabindex="0"><table><tr>{heads}</tr>{body}</table></div>{text}'


def closes(document: Document) -> str:
    lately, total = document["lately"]["closed"], document["total"]["closed"]
    causes = sorted((cause for cause, n in total.items() if n), key=lambda cause: (-lately.get(cause, 0), -total[cause]))
    peak = max(lately.values(), default=1)
    rows = [
        (
            safe(cause.replace("_", " ")),
            bar(lately.get(cause, 0) / peak, "hot" if cause == "evicted" else "c1"),
            count(lately.get(cause, 0)),
            count(total[cause]),
        )
        for cause in causes
    ]
    if not rows:
        return '<h2>Closes by cause</h2><p class="note">None yet.</p>'
    return table("Closes by cause", ("cause", "", "10 min", "in all"), rows)


def clients(document: Document) -> str:
    found = document["clients"]
    if not found:
        return ""
    peak = max(one["connections"] for one in found)
    rows = [
        (name_of(one), bar(one["connections"] / peak), count(one["connections"])) for one in found[:MAX_ROWS]
    ]
    return table("Top clients", ("network", "", "open"), rows)


def name_of(network: dict[str, Any]) -> str:
    name = "unix sockets" if network["network"] == "unix" else safe(network["network"])
    return f"{name} (proxy)" if network["proxy"] else name


def networks(document: Document) -> str:
    found = document["learned"]
    if not found:
        return ""
    rows = [
        (
            name_of(one),
            duration(one["closes_after"]) + ("" if one["settled"] or one["closes_after"] is None else " ?"),
            duration(one["kept_for"]),
            f"{count(one['closed_by_them'])} / {count(one['closed_by_us'])}",
            count(one["races"]),
        )
        for one in found[:MAX_ROWS]
    ]
    head = ("network", "closes after", "kept for", "closed by them / us", "lost")
    note = "Idle age at which a network has closed its connections, at most; with ? until it has done so three times alike."
    return table("Idle timeouts learned", head, rows, note)


def workers(document: Document) -> str:
    found = document["workers"]
    if not found:
        return ""
    rows = []
    for one in found[:MAX_WORKERS]:
        state = UNKNOWN if one["ready"] is None else "ready" if one["ready"] else "not ready"
        most = one["max"] or document["policy"]["max_connections"]
        rows.append(
            (
                str(one["slot"]),
                count(one["pid"]).replace(",", ""),
                state,
                bar((one["open"] or 0) / most),
                f"{count(one['open'])} of {count(most)}",
                count(one["requests"]),
                percent(one["reuse_rate"]),
                count(one["races"]),
                f"{size(one['buffer_bytes'])} of {size(one['max_buffer_bytes'])}" if one["max_buffer_bytes"] else UNKNOWN,
            )
        )
    head = ("worker", "process", "", "", "open", "requests", "reused", "lost", "buffers")
    return table("Workers", head, rows)


def responses(document: Document) -> str:
    found = document["responses"]
    if not found or not any(found.values()):
        return ""
    total = sum(found.values())
    rows = [
        (safe(name), bar(n / total, "hot" if name == "5xx" else "c1"), count(n), percent(n / total))
        for name, n in found.items()
        if n
    ]
    text = table("Responses", ("status", "", "in all", "of all"), rows)
    for name, title in (("first_byte", "To the first byte"), ("duration", "To the end")):
        one = document[name]
        if one is not None:
            ends = [*one["edges"][1:], one["above"]]
            half, most = (duration(quantile(one["edges"], ends, one["counts"], share)) for share in (0.5, 0.99))
            text += f'<p class="note">{title}: half within {half}, 99 % within {most}.</p>'
    return text


def more(document: Document) -> str:
    rows = []
    for name, title in (("bytes_in", "Bytes received"), ("bytes_out", "Bytes sent")):
        if document[name] is not None:
            a_second = document["rates"][name]
            rows.append((title, size(document[name]), f"{size(a_second)}/s" if a_second is not None else UNKNOWN))
    for name, title in (("tls", "TLS"), ("http2", "HTTP/2")):
        for key, value in (document[name] or {}).items():
            if isinstance(value, int) and value:
                rows.append((f"{title}: {safe(key.replace('_', ' '))}", count(value), ""))
    for key, value in document["engine"].items():
        if value:
            rows.append((safe(key.replace("_", " ")), count(value), ""))
    return table("Bytes, TLS, HTTP/2", ("", "in all", "now"), rows) if rows else ""


PARTS: dict[str, Callable[[Document], str]] = {
    draw.__name__: draw
    for draw in (
        top, tiles, advice, phases, phase_names, traffic, reuse, gaps, left, requests, workers, closes, clients, networks,
        responses, more,
    )
}
