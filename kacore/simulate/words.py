"""Numbers as people read them."""

from __future__ import annotations

from kacore.simulate.fronts import SERVERS


def duration(seconds: float | None) -> str:
    """ "5 s", "2 min", "1 h"; None is auto."""
    if seconds is None:
        return "auto"
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit or seconds == unit < 86400:
            return f"{rounded(seconds / unit)} {name}"
    return f"{rounded(seconds)} s"


def rounded(number: float) -> str:
    """Three digits that count, as in 1,235 and 4.51."""
    if number >= 100:
        return f"{number:,.0f}"
    text = f"{number:.1f}" if number >= 10 else f"{number:.2f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def mean(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 1 else f"{number:.2f}"


def percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def size(n_bytes: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= unit:
            return f"{rounded(n_bytes / unit)} {name}"
    return f"{n_bytes:.0f} B"


def rate(per_million: float) -> str:
    """Of a million; what is not quite nothing does not look as if it were."""
    if per_million == 0:
        return "0"
    return f"{per_million:,.0f}" if per_million >= 10 else f"{per_million:.1f}" if per_million >= 0.1 else "< 0.1"


def servers(timeout: float | None) -> str:
    """Those whose default it is."""
    return ", ".join(SERVERS.get(timeout or 0.0, ()))
