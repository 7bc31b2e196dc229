"""docs/from-uvicorn.md and docs/from-gunicorn.md: every option of theirs has a row, what stands beside it is ours."""

import importlib
import re
from pathlib import Path

import pytest

from kacore.cli import elsewhere
from kacore.cli.parser import make_parser

DOCS = Path(__file__).parents[2] / "docs"


def page(name):
    return (DOCS / f"from-{name}.md").read_text(encoding="utf-8")


def rows(name):
    """(theirs, ours or None: the same, the sentence) of each row."""
    for line in re.findall(r"^\| `-.*\|$", page(name), re.MULTILINE):
        theirs, ours, text = line.strip("|").split("|")
        flags = re.findall(r"`(-[\w-]+)`", theirs)
        yield flags, None if ours.strip() == "the same" else re.findall(r"`(--[\w-]+)`", ours), text


def options_of(name):
    if name == "uvicorn":
        command = importlib.import_module("uvicorn.main").main
        return {flag for one in command.params for flag in [*one.opts, *one.secondary_opts] if flag.startswith("-")}
    settings = importlib.import_module("gunicorn.config").KNOWN_SETTINGS
    return {flag for one in settings for flag in one.cli or ()}


def ours():
    (commands,) = [action for action in make_parser()._actions if action.choices and "serve" in action.choices]
    return {*commands.choices["serve"].flags(), "--version"}


@pytest.mark.parametrize("name", ["uvicorn", "gunicorn"])
def test_every_option_of_theirs_has_one_row_and_none_is_made_up(name, need):
    need(f"module:{name}")
    flags = [flag for theirs, _, _ in rows(name) for flag in theirs]
    assert sorted(flags) == sorted(options_of(name))


@pytest.mark.parametrize("name", ["uvicorn", "gunicorn"])
def test_what_stands_beside_it_is_ours_and_what_is_taken_can_be_typed(name):
    known = ours()
    for theirs, here, text in rows(name):
        for flag in theirs if here is None else here:
            assert flag in known, flag
        if text.strip().startswith("taken") and "with" not in text:
            for flag in theirs:
                (word, *_) = elsewhere.translate([flag, "x"], known)
                assert word.partition("=")[0] in known, flag


@pytest.mark.parametrize("name", ["uvicorn", "gunicorn"])
def test_whoever_types_an_option_of_theirs_that_is_not_taken_is_told_what_to_do(name):
    known = ours()
    for theirs, here, text in rows(name):
        for flag in theirs:
            is_taken = elsewhere.translate([flag, "1"], known)[0].partition("=")[0] in known
            said = elsewhere.explain([flag], known)
            if not is_taken and (here or text.strip()):
                assert flag in {*elsewhere.OPTIONS, *elsewhere.ALIASES}, (flag, said)
