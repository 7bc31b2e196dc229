"""What editors and help() know: signatures of compiled classes, their texts in the stub, a policy's fields with types.

`python tests/unit/test_editors.py` writes kacore/policy/keywords.py, and the texts of the compiled module into its stub.
"""

import ast
import inspect
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import kacore
from kacore import _core
from kacore.config.options import RunOptions, ServerOptions

ROOT = Path(__file__).parents[2]
STUB = ROOT / "kacore" / "_core.pyi"
KEYWORDS = ROOT / "kacore" / "policy" / "keywords.py"

HEAD = '''"""The fields of a policy as keywords, for type checkers and editors. Made by tests/unit/test_editors.py."""

from __future__ import annotations

from typing import Literal, TypedDict


class PolicyFields(TypedDict, total=False):
    """What Policy() takes, and whatever changes one."""

'''


def keywords():
    """keywords.py."""
    fields = kacore.Policy.__fields__.items()
    lines = []
    for name, what in fields:
        kind = f"Literal[{', '.join(f'{one!r}'.replace(chr(39), chr(34)) for one in what.choices)}]" if what.choices else ""
        lines.append(f"    {name}: {kind or what.annotation}")
    text = HEAD + "\n".join(lines) + "\n"
    return text if "Literal[" in text.replace(HEAD, "") else text.replace("import Literal, TypedDict", "import TypedDict")


def texts(tree):
    """(node of the stub, text of the compiled thing) for each that has one."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and (text := text_of(getattr(_core, node.name))):
            yield node, text
        elif isinstance(node, ast.ClassDef) and hasattr(_core, node.name):
            cls = getattr(_core, node.name)
            if text := text_of(cls):
                yield node, text
            seen = set()
            for inner in node.body:
                if not isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) or inner.name.startswith("__"):
                    continue
                if inner.name not in seen and (text := text_of(cls.__dict__.get(inner.name))):
                    yield inner, text
                seen.add(inner.name)  # an overload has it once


def text_of(thing):
    text = thing.__doc__ if thing is not None else None
    return inspect.cleandoc(text) if text and text.strip() else ""


def with_texts(stub):
    """The stub with the texts of the module in place of whatever it has."""
    lines = stub.splitlines()
    for node, _ in from_the_end(lines):
        if ast.get_docstring(node) is not None:
            first, last = node.body[0].lineno, node.body[0].end_lineno
            if len(node.body) == 1:
                lines[first - 2] += " ..."
            lines[first - 1 : last] = []
    for node, text in from_the_end(lines):
        indent = " " * (node.col_offset + 4)
        written = text.replace("\\", "\\\\").split("\n")
        written = [f'"""{written[0]}"""'] if len(written) == 1 else [f'"""{written[0]}', *written[1:], '"""']
        is_empty = isinstance(node.body[0], ast.Expr)  # the three dots
        at = node.body[0].lineno - 1 if is_empty else node.lineno - 1
        lines[at] = lines[at].removesuffix(" ...")
        lines[at + 1 : at + 1] = [f"{indent}{line}".rstrip() for line in written]
    return "\n".join(lines) + "\n"


def from_the_end(lines):
    return sorted(texts(ast.parse("\n".join(lines))), key=lambda pair: -pair[0].lineno)


CONSTRUCTED = ["ConnectionTable", "Limits", "RequestParser", "Response", "Upgrade"]


def parameters_in_stub(name):
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    (cls,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    (init,) = [node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    found = [one.arg for one in [*init.args.posonlyargs, *init.args.args, *init.args.kwonlyargs]][1:]
    return found + ([init.args.kwarg.arg] if init.args.kwarg else [])


@pytest.mark.parametrize("name", CONSTRUCTED)
def test_compiled_classes_have_the_signature_that_the_stub_declares(name):
    assert list(inspect.signature(getattr(kacore, name)).parameters) == parameters_in_stub(name)
    assert not text_of(getattr(kacore, name)).startswith(name)


def test_methods_of_compiled_classes_have_signatures():
    for name in kacore.__all__:
        cls = getattr(kacore, name)
        if isinstance(cls, type) and cls.__module__ == "kacore._core":
            for method, what in vars(cls).items():
                if callable(what) and not method.startswith("__"):
                    assert inspect.signature(what), (name, method)


@pytest.mark.parametrize("record", [kacore.Policy, ServerOptions, RunOptions])
def test_help_has_every_field_with_meaning_unit_and_default(record):
    text = inspect.getdoc(record)
    for name, what in record.__fields__.items():
        assert f"    {name}: {what.doc} Must be {what.rule()}. Default: {what.shown_default()}." in text
    assert text.startswith(textwrap.dedent(record.__doc__).split("\n")[0])


def test_the_typed_keywords_are_the_fields():
    assert KEYWORDS.read_text(encoding="utf-8") == keywords()


@pytest.mark.skipif(not _core.has_epoll, reason="without the engine its class and functions say that it is not there")
def test_the_stub_says_what_the_module_says():
    stub = STUB.read_text(encoding="utf-8")
    assert with_texts(stub) == stub, "python tests/unit/test_editors.py writes it"


@pytest.mark.needs("module:mypy")
def test_a_type_checker_knows_the_keywords_of_a_policy(tmp_path):
    (tmp_path / "a.py").write_text(
        "import kacore\n"
        "kacore.ConnectionTable(keep_alive_timeout='soon')\n"
        "kacore.Rule(host='a', keep_alive_time=5)\n"
        "kacore.Policy().replace(keep_alive=5)\n"
        "kacore.ConnectionTable(keep_alive_timeout=5, when_full='wait')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-incremental", "--cache-dir", str(tmp_path / "c"), "a.py"],
        cwd=tmp_path, capture_output=True, text=True, env={"MYPYPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip
    wrong = [line.split(":")[1] for line in done.stdout.splitlines() if line.startswith("a.py") and " error: " in line]
    assert wrong == ["2", "3", "4"]


if __name__ == "__main__":
    KEYWORDS.write_text(keywords(), encoding="utf-8")
    STUB.write_text(with_texts(STUB.read_text(encoding="utf-8")), encoding="utf-8")
