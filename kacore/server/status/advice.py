"""What the numbers say, in sentences: what to change, what to know, and what needs nothing.

Each sentence names what was seen, what is set, and what to set. Knows a status document without its advice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kacore.server.status.words import count, duration, percent

# Worst first. "act": something is lost or refused that need not be. "know": it may become so. "fine": nothing to do.
LEVELS = ("act", "know", "fine")
MIN_REQUESTS = 200  # below that a rate says little
MAX_TOLD = 12

Advice = tuple[str, str]  # level, sentence


def advise(document: dict[str, Any]) -> list[dict[str, str]]:
    """The worst first."""
    found = [
        *of_the_server(document),
        *of_room(document),
        *of_races(document),
        *of_reuse(document),
        *(one for network in document["learned"] for one in of_network(network, document["policy"])),
    ]
    found.sort(key=lambda one: LEVELS.index(one[0]))
    return [{"level": level, "text": text} for level, text in found[:MAX_TOLD]]


def of_the_server(document: dict[str, Any]) -> Iterator[Advice]:
    for line in document["trouble"].splitlines():
        yield "act", f"{line}."
    if not document["trouble"] and not document["ready"]:
        yield "know", "New connections are not wanted: the server starts, or it is draining."
    if lost := document["engine"].get("out_of_descriptors"):
        yield "act", (
            f"accept() had no file descriptor left {times(lost)}: raise the limit (ulimit -n, LimitNOFILE) above"
            " max_connections plus what the application opens."
        )


def of_room(document: dict[str, Any]) -> Iterator[Advice]:
    policy, lately, n_open, most = (document[name] for name in ("policy", "lately", "open", "max"))
    closed, minutes = lately["closed"], duration(lately["seconds"])
    share = n_open / most if most else 0.0
    if turned_away := closed.get("rejected", 0):
        yield "act", f"{count(turned_away)} connections were turned away in {minutes}: raise max_connections ({count(most)})."
    if evicted := closed.get("evicted", 0):
        yield "know", (
            f"{count(evicted)} connections were evicted to make room in {minutes}: raise max_connections ({count(most)}) to"
            " keep them."
        )
    if limited := closed.get("client_limit", 0):
        yield "know", (
            f"{count(limited)} connections were over max_connections_per_client in {minutes}; if they came through a proxy,"
            " name it in forwarded_allow_ips."
        )
    if share >= policy["pressure_start"] and not evicted:
        yield "know", (
            f"{percent(share)} of max_connections ({count(most)}) are open: from {percent(policy['pressure_start'])} on idle"
            " connections are kept for less time."
        )
    if refused := closed.get("buffer_limit", 0):
        yield "act", (
            f"{count(refused)} connections were closed for memory in {minutes}: raise max_buffer_bytes"
            f" ({count(policy['max_buffer_bytes'])})."
        )


def of_races(document: dict[str, Any]) -> Iterator[Advice]:
    lately, timeout = document["lately"], document["policy"]["keep_alive_timeout"]
    races = lately["races"]
    if not races:
        return
    minutes = duration(lately["seconds"])
    seen = f"{count(races)} requests crossed the close of their idle connection in {minutes} and were lost"
    if timeout == "auto":
        yield "know", f"{seen}: their networks were learned from it, and are kept for longer now."
    else:
        yield "act", (
            f"{seen}: set keep_alive_timeout ({duration(timeout)}) above the idle timeout of what is in front, or to auto."
        )


def of_reuse(document: dict[str, Any]) -> Iterator[Advice]:
    lately, policy = document["lately"], document["policy"]
    if lately["requests"] < MIN_REQUESTS or lately["reuse_rate"] is None or lately["reuse_rate"] >= 0.2:
        return
    seen = f"Only {percent(lately['reuse_rate'])} of requests found their connection open"
    closed = lately["closed"]
    cause = max(closed, key=closed.__getitem__, default="")
    if not policy["keep_alive"]:
        yield "know", f"{seen}: keep_alive is off."
    elif cause == "client":
        yield "know", (
            f"{seen}, since clients close them: a proxy in front may need to be told to keep connections (nginx: keepalive in"
            " upstream; HAProxy: http-reuse)."
        )
    elif cause == "idle_timeout" and policy["keep_alive_timeout"] != "auto":
        yield "know", f"{seen}: keep_alive_timeout ({duration(policy['keep_alive_timeout'])}) ends them; auto would not."
    elif cause in ("application", "max_requests"):
        what = "the application asks for close" if cause == "application" else "max_keep_alive_requests ends them"
        yield "know", f"{seen}: {what}."


def of_network(network: dict[str, Any], policy: dict[str, Any]) -> Iterator[Advice]:
    """About those that stand for many clients, and those that lost a request."""
    if not (network["proxy"] or network["network"] == "unix" or network["races"]):
        return
    name = "The proxy on unix sockets" if network["network"] == "unix" else network["network"]
    after, kept, timeout = network["closes_after"], network["kept_for"], policy["keep_alive_timeout"]
    if timeout != "auto":
        if after is not None and after >= timeout:
            yield "act", (
                f"{name} keeps idle connections for {duration(after)}, but keep_alive_timeout is {duration(timeout)}: set it"
                f" above {duration(after)}, or to auto."
            )
        elif after is not None:
            yield "fine", f"{name} closes after {duration(after)}; kacore keeps {duration(timeout)}: nothing to do."
    elif kept >= policy["keep_alive_max"] and network["closed_by_us"]:
        yield "act", (
            f"{name} keeps idle connections for longer than keep_alive_max ({duration(policy['keep_alive_max'])}): set that"
            " above its timeout."
        )
    elif after is None:
        yield "fine", f"{name} has not closed an idle connection yet; kacore keeps {duration(kept)}."
    elif network["settled"]:
        yield "fine", f"{name} closes after {duration(after)}; kacore keeps {duration(kept)}: nothing to do."
    else:
        yield "fine", f"{name} has closed after {duration(after)}; kacore keeps {duration(kept)}, and watches on."


def times(n: int) -> str:
    return "once" if n == 1 else f"{count(n)} times"
