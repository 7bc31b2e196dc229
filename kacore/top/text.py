"""A status document in words: tables for `kacore top`, and the one plain text of --once. Knows no terminal and no network.

Every word from a document goes through `plain`: what is shown can neither move a cursor nor turn letters around.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from kacore.server.status.words import UNKNOWN, count, duration, number, percent, plain, size

Document = dict[str, Any]

BLOCKS = "▁▂▃▄▅▆▇█"
PHASES = ("idle", "busy", "write", "body", "head", "new", "handshake", "linger", "tunnel")
LEVELS = {"act": "to do", "know": "to know", "fine": "fine"}
# What a document that is none makes the words raise.
WRONG = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


class Cell(NamedTuple):
    """What is shown, and what is sorted by."""

    text: str
    key: float | str


class Table(NamedTuple):
    """head: names of columns, with ">" before those of numbers."""

    name: str
    head: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    note: str = ""


def word(text: object) -> Cell:
    shown = plain(text)
    return Cell(shown, shown)


def of(value: float | None, show: Callable[[float | None], str] = count) -> Cell:
    return Cell(show(value), -1.0 if value is None else float(value))


# -- tables -----------------------------------------------------------------------------------------------------------


def connections(found: dict[str, Any]) -> Table:
    """Of what /connections says."""
    rows = []
    for one in found["connections"]:
        client = one["client"]
        host = f"{client[0]}:{client[1]}" if client else "unix"
        rows.append((word(host), word(one["phase"]), of(one["requests"]), of(one["kept_for"], duration), of(one["class"])))
    note = f"{count(len(rows))} of {count(found['open'])}" if found["is_cut"] else ""
    return Table("Connections", ("client", "phase", ">requests", ">kept for", ">class"), rows, note)


def clients(document: Document) -> Table:
    learned = {(one["network"], one["proxy"]): one for one in document["learned"]}
    known = {(one["network"], one["proxy"]): one["connections"] for one in document["clients"] or ()}
    rows = []
    for network, is_proxy in [*known, *(key for key in learned if key not in known)]:
        one = learned.get((network, is_proxy), {})
        n_open = known.get((network, is_proxy), one.get("connections"))
        after = Cell(shown_age(one), float(one.get("closes_after") or -1))
        rows.append(
            (
                word(network),
                word("proxy" if is_proxy else ""),
                of(n_open),
                after,
                of(one.get("kept_for"), duration),
                of(one.get("races")),
            )
        )
    return Table("Clients", ("client", "", ">open", ">closes after", ">kept for", ">lost"), rows)


def shown_age(one: dict[str, Any]) -> str:
    after = one.get("closes_after")
    return duration(after) + ("" if after is None or one["settled"] else " ?")


def causes(document: Document) -> Table:
    lately = document["lately"]["closed"]
    rows = [(word(cause), of(lately.get(cause, 0)), of(n)) for cause, n in document["total"]["closed"].items() if n]
    return Table("Closes", ("cause", ">10 min", ">in all"), rows)


def workers(document: Document) -> Table:
    rows = [
        (
            of(one["slot"]),
            Cell(UNKNOWN if one["pid"] is None else str(int(one["pid"])), float(one["pid"] or 0)),
            word(UNKNOWN if one["ready"] is None else "ready" if one["ready"] else "not ready"),
            of(one["open"]),
            of(one["max"]),
            of(one["requests"]),
            of(one["reuse_rate"], percent),
            of(one["races"]),
            of(one["buffer_bytes"], size),
        )
        for one in document["workers"]
    ]
    head = (">worker", ">process", "state", ">open", ">max", ">requests", ">reuse", ">lost", ">buffers")
    return Table("Workers", head, rows)


def arranged(table: Table, *, by: int, is_up: bool, wanted: str) -> list[tuple[Cell, ...]]:
    """Its rows by a column, and only those that have `wanted` in a cell."""
    wanted = wanted.lower()
    rows = [row for row in table.rows if not wanted or any(wanted in cell.text.lower() for cell in row)]
    return sorted(rows, key=lambda row: (isinstance(row[by].key, str), row[by].key), reverse=not is_up)


# -- what stands above them --------------------------------------------------------------------------------------------


def figures(document: Document) -> list[tuple[str, str]]:
    """Names and numbers, the most important first."""
    rates, total, lately, buffers = (document[name] for name in ("rates", "total", "lately", "buffers"))
    found = [
        ("open", f"{count(document['open'])} of {count(document['max'])}"),
        ("requests/s", number(rates["requests"])),
        ("reuse", percent(lately["reuse_rate"])),
        ("accepted/s", number(rates["accepted"])),
        ("races", count(lately["races"])),
        ("evicted", count(lately["closed"].get("evicted", 0))),
        ("buffers", f"{size(buffers['bytes'])} of {size(buffers['max'])}"),
        ("requests", count(total["requests"])),
    ]
    if document["responses"]:
        found.append(("5xx", count(document["responses"].get("5xx", 0))))
    if document["bytes_out"] is not None:
        found.append(("sent", size(document["bytes_out"])))
    for name, title in (("tls", "TLS"), ("http2", "HTTP/2")):
        known = [(plain(key), value) for key, value in (document[name] or {}).items() if isinstance(value, int) and value]
        found += [(f"{title} {key.replace('_', ' ')}", count(value)) for key, value in known]
    return found


def phases(document: Document) -> list[tuple[str, int]]:
    """Those that are known here, in the order of the page."""
    found = document["phases"] or {}
    return [(name, int(found[name])) for name in PHASES if name in found]


def advice(document: Document) -> list[tuple[str, str]]:
    return [(LEVELS[one["level"]], plain(one["text"])) for one in document["advice"]]


def spark(values: Sequence[float | None], width: int) -> str:
    """The newest `width` of them, as blocks as high as they are."""
    shown = list(values)[-width:] if width > 0 else []
    peak = max((value for value in shown if value is not None), default=0) or 1
    letters = [" " if value is None else BLOCKS[min(7, int(8 * value / peak))] if value else BLOCKS[0] for value in shown]
    return "".join(letters).rjust(width)


def width_of(text: str) -> int:
    """Columns of a terminal."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text
    )


# -- --once ---------------------------------------------------------------------------------------------------------------


def once(document: Document) -> str:
    """All of it as plain text."""
    state = "ready" if document["ready"] else "not ready"
    lines = [f"kacore {plain(document['kacore'])}: {state}", ""]
    pairs = figures(document)
    wide = max(width_of(name) for name, _ in pairs)
    lines += [f"  {name:<{wide}}  {shown}" for name, shown in pairs]
    if document["phases"] is not None:
        lines += ["", "Phases", *(f"  {name:<{wide}}  {count(n)}" for name, n in phases(document))]
    for table in (causes(document), clients(document), workers(document)):
        if table.rows:
            lines += ["", table.name, *laid_out(table)]
    if document["advice"]:
        lines += ["", "Advice", *(f"  {level}: {text}" for level, text in advice(document))]
    return "\n".join(lines)


def laid_out(table: Table) -> list[str]:
    by = next((k for k, name in enumerate(table.head) if name.startswith(">")), 0)
    is_counted = table.head[0].startswith(">")
    shown = [tuple(cell.text for cell in row) for row in arranged(table, by=by, is_up=is_counted, wanted="")]
    rows = [tuple(name.removeprefix(">") for name in table.head), *shown]
    wide = [max(width_of(row[k]) for row in rows) for k in range(len(table.head))]
    return ["  " + "  ".join(map(padded, row, wide, table.head)).rstrip() for row in rows]


def padded(shown: str, wide: int, name: str) -> str:
    room = " " * (wide - width_of(shown))
    return room + shown if name.startswith(">") else shown + room
