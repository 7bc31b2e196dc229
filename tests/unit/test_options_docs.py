"""docs/options.md says of every option what its declaration says.

`python tests/unit/test_options_docs.py` writes the tables into the page again.
"""

import re
from pathlib import Path

import pytest

from kacore.config.fields import FLAG, KEY, VARIABLE
from kacore.config.options import GROUPS, RunOptions, ServeOptions, ServerOptions
from kacore.config.sources import variable

PAGE = Path(__file__).parents[2] / "docs" / "options.md"
MADE = re.compile(r"(<!-- made by .* -->\n)(.*)(<!-- end -->)", re.DOTALL)


def section(group):
    """The table of one group."""
    fields = [what for what in ServeOptions.__fields__.values() if what.group == group]
    lines = [f"## {group}", "", *([GROUPS[group], ""] if GROUPS[group] else [])]
    lines += ["| option | flag | default | allowed | what it is |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *map(row, fields)])


def row(what):
    unit = f" {what.unit}" if what.unit and what.make_default() is not None else ""
    flags = [*what.aliases, what.flag, what.off_flag]
    if what.kind is bool:
        flags = [what.flag, f"--no-{what.flag[2:]}"]
    allowed = what.allowed() + (f"; 0: {what.zero}" if what.zero else "") + ("; several" if what.is_many else "")
    where = keyword_of(what) + ("" if KEY in what.sources else " Flag and variable only.")
    cells = [
        f"`{what.name}`",
        ", ".join(f"`{flag}`" for flag in flags if flag),
        (what.default_text or what.shown_default() + unit) or '""',
        allowed,
        what.doc + where,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("*", "\\*") for cell in cells) + " |"


def keyword_of(what):
    if what.name in ServerOptions.__fields__:
        return ""
    return " Not of `Server`." if what.name in RunOptions.__fields__ else " Of the command alone."


def tables():
    return "\n" + "\n\n".join(map(section, GROUPS)) + "\n\n"


@pytest.fixture(scope="module")
def page():
    return PAGE.read_text(encoding="utf-8")


def test_the_tables_say_what_the_declarations_say(page):
    assert MADE.search(page)[2] == tables()


def test_every_option_is_in_one_group():
    assert {what.group for what in ServeOptions.__fields__.values()} == set(GROUPS)


def test_names_of_flags_and_variables_are_those_of_the_page(page):
    assert "`--access-log json`" in page and "`KACORE_ACCESS_LOG=json`" in page
    what = ServeOptions.__fields__["access_log"]
    assert (what.flag, variable("access_log")) == ("--access-log", "KACORE_ACCESS_LOG")
    assert {FLAG, VARIABLE, KEY} == set(what.sources)


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(MADE.sub(lambda found: found[1] + tables() + found[3], text), encoding="utf-8")
