"""`kacore completion bash`: what makes a shell complete commands and options. Needs shtab, the extra `completion`.

    kacore completion bash > ~/.local/share/bash-completion/completions/kacore
"""

from __future__ import annotations

import argparse

from kacore.cli.parser import Parser, make_parser
from kacore.errors import UsageError


def run(args: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError:
        raise UsageError("completion needs shtab (pip install kacore[completion])") from None
    parser = make_parser()
    for command in commands_of(parser):
        command.make_full()
        fields = {what.name: what for what in command.shown}
        for action in command._actions:
            what = fields.get(action.dest)
            if what is None:
                continue
            action.help = what.doc.partition(". ")[0].replace("%", "%%")
            if what.metavar in ("FILE", "PATH"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif what.metavar == "DIR":
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif what.choices and action.nargs != 0:
                action.choices = what.choices
    print(shtab.complete(parser, args.shell))
    return 0


def commands_of(parser: Parser) -> list[Parser]:
    (commands,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return list(commands.choices.values())
