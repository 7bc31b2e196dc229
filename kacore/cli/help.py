"""The help of commands that take options: a screen of what is commonly used, or all of it."""

from __future__ import annotations

import re
import shutil
from textwrap import wrap
from typing import TYPE_CHECKING

from kacore.config.fields import Field, show
from kacore.config.options import GROUPS

if TYPE_CHECKING:
    from kacore.cli.parser import Parser

COLUMN = 32  # where the sentences begin
POLICY = "Policy"
NOTES = {**GROUPS, POLICY: "What connections may take, ask and keep. docs/policy.md gives the reasons."}


def screen(parser: Parser, *, is_all: bool) -> str:
    width = max(60, shutil.get_terminal_size().columns - 1)
    operand = f" {parser.operand}" if parser.operand else ""
    lines = [f"usage: {parser.prog} [OPTIONS]{operand}", "", parser.description or ""]
    for group, note in NOTES.items():
        fields = [what for what in parser.shown if what.group == group and (is_all or what.is_common)]
        if fields:
            lines += ["", group]
            lines += wrap(note, width) if note and is_all else []
        for what in sorted(fields, key=lambda what: what.flag.startswith("-")):  # what it is about first
            lines += row(left_of(what, is_all), text_of(what, is_all), width)
    lines.append("")
    for flag, text in [*parser.own, ("-h, --help", "what is commonly used" if not is_all else "a screen of it")]:
        lines += row(flag, text, width)
    return "\n".join(lines) + "\n"


def row(left: str, text: str, width: int) -> list[str]:
    parts = wrap(text, max(20, width - COLUMN)) or [""]
    first = f"  {left:<{COLUMN - 4}}  {parts[0]}".rstrip()
    lines = [first] if len(left) <= COLUMN - 4 else [f"  {left}", f"{'':{COLUMN}}{parts[0]}"]
    return lines + [f"{'':{COLUMN}}{part}" for part in parts[1:]]


def left_of(what: Field, is_all: bool) -> str:
    if what.kind is bool:
        return f"--[no-]{what.flag[2:]}" if is_all or what.default else what.flag
    if what.flag == what.metavar:
        return what.flag
    flags = [*(alias for alias in what.aliases if len(alias) == 2), what.flag]
    return f"{', '.join(flags)} {what.metavar}"


def text_of(what: Field, is_all: bool) -> str:
    """The sentence as a clause, what 0 means, and the default."""
    text = what.doc.rstrip(".") if is_all else re.split(r"\. (?=[A-Z])", what.doc, maxsplit=1)[0].rstrip(".")
    if text[1:2].islower() or text[1:2] == " ":
        text = text[0].lower() + text[1:]
    default = what.make_default()
    if what.choices and what.given_metavar:
        text += f": {', '.join(what.choices)}"
    if what.is_repeated:
        text += "; may be repeated"
    if is_all and what.off_flag:
        text += f"; {what.off_flag} is the same as {what.flag} \"\""
    if is_all and (longer := [alias for alias in what.aliases if len(alias) > 2]):
        text += f"; also {', '.join(longer)}"
    if what.zero and default != 0:
        text += f"; 0 = {what.zero}"
    shown = what.default_text or default_of(what)
    return f"{text} (default: {shown})" if shown else text


def default_of(what: Field) -> str:
    """"" where nothing need be said."""
    value = what.make_default()
    if value is None or value == () or value == "" or value is False:
        return ""
    if value == 0 and what.zero:
        return f"0, {what.zero}"
    if what.unit == "bytes":
        for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value and value % factor == 0:
                return f"{value // factor} {unit}"
    unit = what.unit_of(value)
    return f"{show(value)} {unit}".rstrip() if unit in ("s", "bytes", "B/s") else show(value)
