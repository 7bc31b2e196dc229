"""`kacore top`: what a running server does, in a terminal.

    kacore top http://127.0.0.1:9000/
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from typing import Any

from kacore.errors import UsageError

ARGUMENTS: dict[str, dict[str, Any]] = {
    "url": {
        "nargs": "?",
        "metavar": "URL",
        "help": "admin listener of the server, also HOST:PORT or PORT (default: http://127.0.0.1:9000/)",
    },
    "--once": {"action": "store_true", "help": "print one plain table"},
    "--json": {"action": "store_true", "help": "print the status document, see docs/looking.md"},
}


def run(args: argparse.Namespace) -> int:
    """Return: 0. UsageError: it cannot be reached, is something else, or the extra is missing."""
    from kacore.top import source

    found = source.Source(source.Place.of(args.url or source.DEFAULT))
    if args.json or args.once:
        return print_once(found, is_json=args.json)
    try:
        from kacore.top.screen import Screen
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] not in ("textual", "rich"):
            raise
        raise UsageError("top needs textual (pip install kacore[top]); --once and --json do without") from None
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("top needs a terminal; --once and --json do without")
    first = asyncio.run(found.document())  # what is wrong is said here, and not on a screen of its own
    Screen(found, first).run()
    return 0


def print_once(found: Any, *, is_json: bool) -> int:
    from kacore.top import text

    document = asyncio.run(found.document())
    try:
        said = json.dumps(document, indent=1) if is_json else text.once(document)
    except text.WRONG:
        raise UsageError(f"top: {found.place.url} says what this version does not understand") from None
    try:
        encoding = sys.stdout.encoding or "ascii"
        print(said.encode(encoding, "replace").decode(encoding), flush=True)
    except BrokenPipeError:  # `kacore top --once | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
