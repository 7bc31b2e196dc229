"""`kacore simulate`: what keep-alive timeouts would have done to the requests of access logs.

    kacore simulate access.log.2.gz access.log.1 access.log --html timeouts.html
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from kacore.errors import UsageError

if TYPE_CHECKING:
    from kacore.simulate.reading import Log
    from kacore.simulate.study import Result

SECOND = 1.0  # what takes no longer shows no progress


ARGUMENTS: dict[str, dict[str, Any]] = {
    "logs": {
        "nargs": "+",
        "metavar": "LOG",
        "help": "access log: common, combined, nginx's or JSON lines; plain, packed by gzip or zstd; - is stdin",
    },
    "--format": {
        "help": "what describes a line, when it is not found out: nginx's log_format, Apache's LogFormat, or one of common,"
        " combined, nginx, json",
    },
    "--client": {
        "choices": ("peer", "x-forwarded-for"),
        "default": "peer",
        "help": "who a client is: who connected (default), or the first in X-Forwarded-For, as if there were no proxy",
    },
    "--per-client": {
        "default": "auto",
        "metavar": "auto|N|http2",
        "help": "connections of a client: as many as its requests overlap, or one that they share when the log is of HTTP/2"
        " (default); at most N; or http2",
    },
    "--front": {
        "metavar": "LIST",
        "help": "what may stand in front, and how long it keeps an idle connection (default: nginx:60,alb:60,go:90,gcp:600,"
        'envoy:3600); "" for nothing',
    },
    "--timeouts": {"metavar": "LIST", "help": "seconds to compare (default: eleven from 1 to 3600)"},
    "--max-connections": {"metavar": "LIST", "help": "limits to compare (default: 16,128,1024,8192)"},
    "--window": {
        "default": "0.001",
        "metavar": "SECONDS",
        "help": "how long after our close a front may still send a request, which is lost (default: 0.001)",
    },
    "--cost": {"metavar": "SECONDS", "help": "weigh them: a handshake costs as many seconds of an idle connection"},
    "--json": {"action": "store_true", "help": "print all numbers as JSON"},
    "--html": {"metavar": "FILE", "help": "write one page with plots"},
    "--svg": {"metavar": "FILE", "help": "write the plot of reuse by timeout"},
    "--toml": {"metavar": "FILE", "help": "write the recommendation, for kacore serve"},
}


def run(args: argparse.Namespace) -> int:
    """Return: 0. Raises for what is wrong with the arguments or the logs."""
    from kacore.simulate.reading import Log, in_order
    from kacore.simulate.study import AUTO_MAX, ROOM_TIMEOUTS, Study

    worth = None if args.cost is None else seconds("cost", args.cost, 0.001)
    options = study_options(args)
    if len(set(args.logs)) < len(args.logs):
        raise UsageError(f"logs: {next(log for log in args.logs if args.logs.count(log) > 1)} is named twice")
    logs = [Log(path, given=args.format, wants_forwarded=args.client == "x-forwarded-for") for path in args.logs]
    has_durations = any(log.format.has_durations for log in logs)
    if args.per_client == "auto":
        options["shares"] = all(log.speaks_http2 for log in logs)
    if worth is not None:
        options |= {"also": [worth], "room_timeouts": (*ROOM_TIMEOUTS, AUTO_MAX)}  # with LRU
    study = Study(has_durations=has_durations, **options)
    progress = Progress(logs, sys.stderr)
    gc.disable()  # millions of tuples, none of them in a cycle
    try:
        for records in in_order(logs, progress):
            study.feed(records)
    finally:
        progress.clear()
        gc.enable()
    tell(args, logs, study.finish(), worth)
    return 0


def study_options(args: argparse.Namespace) -> dict[str, Any]:
    """What the arguments say of the simulation. UsageError."""
    from kacore.simulate.fronts import DEFAULT, read_fronts
    from kacore.simulate.study import ROOMS, TIMEOUTS

    timeouts = {seconds("timeouts", word, 0.001) for word in words_of(args.timeouts)}
    rooms = {whole("max_connections", word, 1 << 24) for word in words_of(args.max_connections)}
    return {
        "timeouts": sorted(timeouts) or TIMEOUTS,
        "rooms": sorted(rooms) or ROOMS,
        "per_client": 0 if args.per_client in ("auto", "http2") else whole("per_client", args.per_client, 1_000_000),
        "shares": args.per_client == "http2",
        "fronts": read_fronts(DEFAULT if args.front is None else args.front),
        "window": seconds("window", args.window, 0.0),
    }


def tell(args: argparse.Namespace, logs: Sequence[Log], result: Result, worth: float | None) -> None:
    """In all the ways that were asked for."""
    from kacore.simulate import advice, as_json, chart, cost, page, plots, text

    found = advice.advise(result)
    costs = [] if worth is None else cost.costs(result, worth)
    about = text.about(logs, result)
    toml = advice.as_toml(found, about)
    if args.html is not None:
        write(args.html, page.page(result, about, toml, found.row, text.wrong_lines(logs), costs))
    if args.svg is not None:
        names = ", ".join(os.path.basename(log.source.name) for log in logs)
        write(args.svg, chart.standalone(plots.reuse(result, 720, 400, f"{plots.REUSE}: {names}")))
    if args.toml is not None:
        write(args.toml, toml)
    if args.json:
        show(as_json.as_json(result, logs, found, costs))
        return
    blocks = [
        [about, text.how(result), *text.wrong_lines(logs)],
        text.timeouts(result),
        text.races(result),
        text.rooms(result),
        text.cost(costs, worth) if worth is not None else [],
        toml.splitlines(),
    ]
    show("\n\n".join("\n".join(block) for block in blocks if block))


def show(text: str) -> None:
    """For a reader that may stop early, and a terminal that may not know what bars are made of."""
    try:
        encoding = sys.stdout.encoding or "ascii"
        print(text.encode(encoding, "replace").decode(encoding), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


# -- arguments ----------------------------------------------------------------------------------------------------


def words_of(text: str | None) -> list[str]:
    """Of a list with commas; none when it is not given."""
    text = text or ""
    return [word.strip() for word in text.split(",") if word.strip()]


def seconds(name: str, text: str, low: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not low <= value <= 1e6:
        raise UsageError(f"{name}={text!r}: must be a number of seconds from {low:g} to 1000000")
    return value


def whole(name: str, text: str, high: int) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= high):
        raise UsageError(f"{name}={text!r}: must be an integer from 1 to {high}")
    return int(text)


class Progress:
    """One line on a terminal, after the first second: how much has been read, and how many requests."""

    def __init__(self, logs: Sequence[Log], stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._sources = [log.source for log in logs]
        self._stream, self._clock = stream, clock
        self._is_shown = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._total = sum(source.size for source in self._sources)
        self._next = clock() + SECOND
        self._was_shown = False

    def __call__(self, n_requests: int) -> None:
        if not self._is_shown or self._clock() < self._next:
            return
        self._next = self._clock() + 0.1
        self._was_shown = True
        share = min(1.0, sum(source.position for source in self._sources) / self._total) if self._total else 0.0
        done = int(share * 30)
        bar = f"[{'#' * done}{'.' * (30 - done)}] {share * 100:3.0f} %  " if self._total else ""
        self._stream.write(f"\r{bar}{n_requests:,} requests\x1b[K")
        self._stream.flush()

    def clear(self) -> None:
        if self._was_shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
