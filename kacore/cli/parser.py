"""The command line, made from the declared options: a flag for each, its value kept as text, since an option's own message
about a wrong value is better than argparse's."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from kacore._version import __version__
from kacore.cli.elsewhere import translate
from kacore.config.fields import FLAG, Field, Record
from kacore.config.options import CONFIGURATION, ServeOptions
from kacore.errors import UsageError
from kacore.policy import Policy

SHELLS = ("bash", "zsh", "tcsh")


class Parser(argparse.ArgumentParser):
    """A mistake is one line, like all others. Names in full only: an abbreviation would end with the next new option.

    With options its help is ours: one screen of what is commonly used, and with --help-all every option.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=formatter, **options)
        self.fill: Callable[[Parser], None] | None = None  # adds the arguments, once they are asked for
        self.shown: list[Field] = []
        self.own: list[tuple[str, str]] = []  # options of the command itself, with their help
        self.operand = ""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"kacore: {message} (see {self.prog} --help)\n")

    def parse_known_args(self, args: Any = None, *arguments: Any, **more: Any) -> Any:
        """As of ArgumentParser. Options of other servers that mean the same are taken for ours."""
        self.make_full()
        if self.shown and args is not None:
            args = translate(args, self.flags())
        return super().parse_known_args(args, *arguments, **more)

    def make_full(self) -> None:
        """The arguments of commands that are not called are not made: half of what the parser costs at a start."""
        if self.fill is not None:
            fill, self.fill = self.fill, None
            fill(self)

    def flags(self) -> list[str]:
        """All that it knows."""
        self.make_full()
        return [flag for action in self._actions for flag in action.option_strings]

    def add_own(self, flag: str, *, text: str, **how: Any) -> None:
        shown = f"{flag} {'|'.join(how['choices'])}" if "choices" in how else flag
        self.own.append((shown, text))
        self.add_argument(flag, **how)

    def add_options(self, fields: Iterable[Field]) -> None:
        """A flag for each: --keep-alive-timeout 5, --no-advertise. Not given is None."""
        for what in fields:
            self.shown.append(what)
            if what.name == "app":
                self.operand = what.metavar
                self.add_argument("app", nargs="?")
            elif what.kind is bool:
                self.add_argument(what.flag, dest=what.name, action=argparse.BooleanOptionalAction, default=None)
            else:
                action = "append" if what.is_repeated else "store"
                self.add_argument(what.flag, *what.aliases, dest=what.name, action=action, metavar=what.metavar)
            if what.off_flag:
                self.add_argument(what.off_flag, dest=what.name, action="store_const", const="")

    def format_help(self, *, is_all: bool = False) -> str:
        """As of ArgumentParser."""
        self.make_full()
        if not self.shown:
            return super().format_help()
        from kacore.cli.help import screen

        return screen(self, is_all=is_all)


def formatter(prog: str) -> argparse.HelpFormatter:
    """Of a fixed width: to look for the terminal's takes longer than all the rest, and argparse does it for each argument."""
    return argparse.HelpFormatter(prog, width=100)


class HelpAll(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        assert isinstance(parser, Parser)
        print(parser.format_help(is_all=True), end="")
        parser.exit()


def make_parser() -> Parser:
    """What is parsed has `command`, and `flags`: those that the command knows."""
    parser = Parser(prog="kacore", description="Serves ASGI and WSGI applications over kept-alive connections.")
    parser.add_argument("--version", action="version", version=f"kacore {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (text, fill) in COMMANDS.items():
        command: Parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.set_defaults(command=name, flags=command.flags)
        command.fill = fill
    return parser


def fill_serve(parser: Parser) -> None:
    parser.add_options(options_of(ServeOptions))
    parser.add_options(options_of(Policy))
    parser.add_own(
        "--check-config",
        text="tell all mistakes in the configuration, and end: status 0 or 2",
        action="store_true",
    )
    add_help_all(parser)


def fill_config(parser: Parser) -> None:
    """What `kacore serve` takes."""
    add_printing(parser)
    parser.add_options(options_of(ServeOptions))
    parser.add_options(options_of(Policy))


def fill_policy(parser: Parser) -> None:
    """Only what concerns the policy."""
    add_printing(parser)
    parser.add_options(what for what in options_of(ServeOptions) if what.group == CONFIGURATION)
    parser.add_options(options_of(Policy))


def add_printing(parser: Parser) -> None:
    parser.add_own("--format", text="how to print it (default: table)", choices=("table", "toml", "json"), default="table")
    parser.add_own(
        "--verbose", text="what became of every line of an Apache or nginx configuration", action="store_true"
    )
    add_help_all(parser)


def fill_demo(parser: Parser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 = a free one (default: 8000)")


def fill_docs(parser: Parser) -> None:
    parser.add_argument("page", nargs="?", metavar="PAGE", help="a page, as options or policy; none: a list of them")


def fill_completion(parser: Parser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell")


def fill_simulate(parser: Parser) -> None:
    from kacore.cli.simulate import ARGUMENTS

    for name, how in ARGUMENTS.items():
        parser.add_argument(name, **how)


def fill_top(parser: Parser) -> None:
    from kacore.cli.top import ARGUMENTS

    for name, how in ARGUMENTS.items():
        parser.add_argument(name, **how)


def add_help_all(parser: Parser) -> None:
    parser.add_own("--help-all", text="all options, each in full", action=HelpAll, nargs=0)


def options_of(record: type[Record]) -> list[Field]:
    return [what for what in record.__fields__.values() if FLAG in what.sources]


def with_command(words: Sequence[str]) -> list[str]:
    """`kacore app:app` is `kacore serve app:app`. UsageError for what can only be a command that is misspelt."""
    if not words or words[0] in COMMANDS or words[0] in ("-h", "--help", "--version"):
        return list(words)
    if words[0] == "help":
        return ["--help"]
    near = get_close_matches(words[0], COMMANDS, n=1, cutoff=0.7)
    if near and ":" not in words[0]:
        raise UsageError(f"there is no command {words[0]!r}; did you mean {near[0]}?")
    return ["serve", *words]


COMMANDS: dict[str, tuple[str, Callable[[Parser], None]]] = {
    "serve": ("serve an ASGI or WSGI application, or a plain handler", fill_serve),
    "config": ("print the configuration in force, and where each value comes from", fill_config),
    "policy": ("print the policy in force, or read it from Apache or nginx", fill_policy),
    "simulate": ("play access logs against keep-alive timeouts, and recommend one", fill_simulate),
    "top": ("show what a running server does, in a terminal", fill_top),
    "completion": ("print what makes a shell complete commands and options", fill_completion),
    "docs": ("say where the documentation is, or print a page of it", fill_docs),
    "demo": ("serve a page that shows what keep-alive saves", fill_demo),
}
