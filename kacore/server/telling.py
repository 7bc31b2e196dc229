"""What a server says of its end: who is waited for, how to end at once, and what there was."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kacore._version import __version__
from kacore.policy import Policy

MAX_NAMED = 3
IN_PROGRESS = ("head", "body", "busy", "write")


def how_to_stop() -> str:
    """For the end of the line at the start: for somebody who looks at it."""
    return "; Ctrl-C stops" if sys.stderr is not None and sys.stderr.isatty() else ""


def several(n: int, what: str, policy: Policy, where: Iterable[str], *, tls: bool, admin: int | None) -> str:
    """The line at the start of `n` workers or engines: what: which of them. admin: the port, if there is one."""
    n_most, n_bytes = n * policy.max_connections, n * -(-policy.worst_case_bytes(tls=tls) // (1 << 20))
    return (
        f"kacore {__version__} serves on {', '.join(where)} (pid {os.getpid()}, {counted(n, what)} of at most "
        f"{policy.max_connections} connections: {n_most}, and {n_bytes} MiB for them"
        f"{'' if admin is None else f', admin on port {admin}'}){how_to_stop()}"
    )


def stopping(connections: Sequence[Mapping[str, Any]], seconds: float, *, by_keyboard: bool) -> str:
    """connections: dicts as of Server.connections(). seconds: that they have at most."""
    requests = [one for one in connections if one["phase"] in IN_PROGRESS]
    tunnels = [one for one in connections if one["phase"] == "tunnel"]
    kinds = ((requests, "request"), (tunnels, "tunnel"))
    parts = [counted(len(found), name) + named(found) for found, name in kinds if found]
    if not parts:
        return "stopping"
    return f"stopping: waiting at most {seconds:g} s for {' and '.join(parts)}{again(by_keyboard=by_keyboard)}"


def stopping_workers(n_open: int, seconds: float, *, by_keyboard: bool) -> str:
    """The same of a parent, who knows only how many connections its workers have."""
    if not n_open:
        return "stopping"
    what = counted(n_open, "connection")
    return f"stopping: {what} open, waiting at most {seconds:g} s for what is in progress{again(by_keyboard=by_keyboard)}"


def again(*, by_keyboard: bool) -> str:
    return f"; {'Ctrl-C again' if by_keyboard else 'a second signal'} ends at once"


def stopped(n_requests: int, n_connections: int, seconds: float) -> str:
    return f"stopped: {counted(n_requests, 'request')} on {counted(n_connections, 'connection')} in {duration(seconds)}"


def counted(n: int, name: str) -> str:
    return f"{n:,} {name}{'' if n == 1 else 's'}"


def named(connections: Sequence[Mapping[str, Any]]) -> str:
    """As in " (127.0.0.1:4711, 127.0.0.1:4712, ...)"."""
    from kacore.server.logs import address_text

    names = [address_text(one["client"]) for one in connections[:MAX_NAMED]]
    return f" ({', '.join([*names, *(['...'] if len(connections) > MAX_NAMED else [])])})"


def duration(seconds: float) -> str:
    """As in "3 min 20 s": two units."""
    whole = int(seconds)
    for size, unit, smaller, lesser in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {lesser}"
    return f"{seconds:.1f} s"
