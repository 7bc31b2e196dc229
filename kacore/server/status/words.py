"""Numbers as people read them, on the page and in a terminal. None is not known, and a dash."""

from __future__ import annotations

UNKNOWN = "–"


def count(n: float | None) -> str:
    return UNKNOWN if n is None else f"{n:,.0f}"


def number(value: float | None) -> str:
    """Three digits that count: 1,235, 12.3, 0.04."""
    if value is None:
        return UNKNOWN
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    if value < 0.01:
        return "0.01" if value >= 0.005 else "< 0.01"
    text = f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return text.rstrip("0").rstrip(".")


def percent(share: float | None) -> str:
    """What is nearly all is not all."""
    if share is None:
        return UNKNOWN
    if 0.9995 <= share < 1:
        return "99.9 %"
    return f"{100 * share:.1f} %".replace(".0 %", " %")


def duration(seconds: float | None) -> str:
    """ "12 ms", "60 s", "1.5 min", "65 min", "3 h"."""
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{number(seconds * 1000)} ms" if seconds else "0 s"
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{number(round(seconds / unit, 1))} {name}"
    return f"{number(seconds)} s"


def size(n_bytes: float | None) -> str:
    if n_bytes is None:
        return UNKNOWN
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if n_bytes >= unit:
            return f"{number(n_bytes / unit)} {name}"
    return f"{n_bytes:.0f} B"


def plain(text: object) -> str:
    """Of what may be hostile: nothing that moves a cursor, turns letters around, or takes no place."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(text))
