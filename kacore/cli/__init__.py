"""The `kacore` command: serve, config, policy, simulate, top, demo; `kacore app:app` is `kacore serve app:app`.

Every mistake of a user is one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from kacore.cli.elsewhere import explain
from kacore.cli.parser import make_parser, with_command
from kacore.errors import ConfigError, UsageError, told


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Return: the exit status."""
    from kacore._core import LocalError

    open_standard_streams()
    try:
        args, unknown = make_parser().parse_known_args(with_command(sys.argv[1:] if argv is None else argv))
        if unknown:
            raise UsageError(explain(unknown, args.flags()))
        return run(args)
    except (ConfigError, LocalError, ImportError) as error:
        if isinstance(error, ImportError) and not is_ours(error):
            raise
        print(f"kacore: {error}", file=sys.stderr)
    except OSError as error:
        if is_of_the_application(error):
            raise
        print(f"kacore: {told(error)}", file=sys.stderr)
    return 2


def run(args: argparse.Namespace) -> int:
    if args.command == "demo":
        return run_demo(args)
    if args.command == "simulate":
        from kacore.cli import simulate

        return simulate.run(args)
    if args.command == "serve":
        from kacore.cli import serve

        return serve.run(args)
    if args.command == "top":
        from kacore.cli import top

        return top.run(args)
    if args.command == "docs":
        from kacore.cli import docs

        return docs.run(args)
    if args.command == "completion":
        from kacore.cli import completion

        return completion.run(args)
    from kacore.cli import config

    return config.run(args)


def run_demo(args: argparse.Namespace) -> int:
    import logging

    from kacore import demo
    from kacore.server import logs

    logs.set_up(logging.WARNING)
    demo.run(host=args.host, port=args.port)
    return 0


def open_standard_streams() -> None:
    """Whoever starts us with one of them closed gets a connection there instead, and its log lines in it."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "r" if fd == 0 else "w", errors="backslashreplace", closefd=False))  # noqa: SIM115


def is_of_the_application(error: OSError) -> bool:
    """Raised while it was loaded: its author wants to see where."""
    loading = sys.modules.get("kacore.server.loading")
    trace = error.__traceback__
    while trace is not None and loading is not None:
        if trace.tb_frame.f_code is loading.load.__code__:
            return True
        trace = trace.tb_next
    return False


def is_ours(error: ImportError) -> bool:
    """A missing extra, which the message names; not an import that failed in the user's application."""
    return "kacore[" in str(error)
