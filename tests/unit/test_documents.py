"""Every block of code in every document is run, or read by who would read it; `<!-- not run: why -->` on the line before a
block excuses it. So is each command and option that a sentence names.

Python runs, one namespace for a document. Of a shell's lines each command is given to its own parser: kacore's with all of
its checks, make's targets, pip's extras, and those of uvicorn and gunicorn.
"""

import ast
import asyncio
import importlib
import inspect
import re
import shlex
import sys
import types
from pathlib import Path
from unittest.mock import create_autospec

import pytest

import kacore
from kacore.cli import elsewhere
from kacore.cli.configuration import Configuration
from kacore.cli.parser import COMMANDS, make_parser, with_command
from tests.conftest import module

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), ROOT / "benches" / "README.md", *(ROOT / "docs").glob("*.md")]
DOCUMENTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted(PAGES)}
FILES = [path for path in sorted((ROOT / "deploy").iterdir()) if path.is_file()]
DEPLOY = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}
FENCED = re.compile(r"^(?:<!-- not run: (?P<why>.+) -->\n)?```(?P<language>.*)\n(?P<code>(?:.*\n)*?)```$", re.MULTILINE)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
IN_A_LIST = re.compile(r"^(?:[-*]|\d+\.) (?:.+\n|\n(?= ))*", re.MULTILINE)


def blocks(*languages):
    """(document, code) of each block in one of these languages that is to be run."""
    return [
        (name, found["code"])
        for name, text in DOCUMENTS.items()
        for found in FENCED.finditer(text)
        if found["language"] in languages and not found["why"]
    ]


def in_pages(*languages):
    """The same, those of a document together."""
    found = blocks(*languages)
    return {name: [code for of, code in found if of == name] for name, _ in found}


def test_each_block_is_fenced_and_has_a_language_that_is_checked_here_or_a_reason():
    for name, text in DOCUMENTS.items():
        assert text.count("\n```") % 2 == 0, name
        bare = IN_A_LIST.sub("", FENCED.sub("", text))
        assert re.findall(r"\n\n(    .+)", bare) == [], f"{name}: an indented block"
        for found in FENCED.finditer(text):
            assert found["why"] or found["language"] in ("python", "sh", "toml", "ini"), (name, found[0])


# -- Python -------------------------------------------------------------------------------------------------------------


async def hello(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})


# What a document takes for granted.
GIVEN = {
    "README.md": {"data": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "text": "KeepAlive On"},
    "docs/django.md": {"INSTALLED_APPS": [], "MIDDLEWARE": ["SecurityMiddleware"], "BASE_DIR": Path()},
}


@pytest.fixture
def shop(monkeypatch, tmp_path):
    """A module of this name; whatever would serve until a signal comes ends at once. Everything given to it is checked."""
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("shop")
    module.app = hello
    monkeypatch.setitem(sys.modules, "shop", module)

    real = kacore.Server.serve

    async def serve(server, **how):
        if how:  # kacore.serving
            await real(server, **how)

    monkeypatch.setattr(kacore.Server, "run", lambda server: None)
    monkeypatch.setattr(kacore.Server, "serve", serve)
    monkeypatch.setattr("kacore.server.running.serve", lambda options, make, **how: make() and 0)
    monkeypatch.setattr("kacore.server.logs.set_up", lambda *how: None)


@pytest.mark.parametrize("name", in_pages("python"))
def test_python_runs(name, shop, need, monkeypatch):
    if name == "docs/embedding-aiohttp.md":
        need("module:aiohttp")
        from kacore.embed import aiohttp

        monkeypatch.setattr(aiohttp, "run_app", create_autospec(aiohttp.run_app))
    need("module:httpx")
    import httpx

    names = {"app": hello, "kacore": kacore, "httpx": httpx, **GIVEN.get(name, {})}
    for code in in_pages("python")[name]:
        compiled = compile(code, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(compiled, names)
        if inspect.isawaitable(result):
            asyncio.run(result)
    for test in [names[one] for one in names if one.startswith("test_")]:
        with kacore.serving(names["app"]) as server:
            test(server)


# -- the shell ----------------------------------------------------------------------------------------------------------


def commands(code):
    """The words of each command: comments, redirections and variables before it are not its."""
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words = [*lexer, ";"]
        while words:
            end = next(k for k, word in enumerate(words) if set(word) <= set("|&;"))
            command, words = words[:end], words[end + 1 :]
            if any(word in ("<", ">", ">>") for word in command):
                command = command[: next(k for k, word in enumerate(command) if word in ("<", ">", ">>"))]
            while command and re.match(r"[A-Z_]+=", command[0]):
                command = command[1:]
            if command:
                yield command


def check_kacore(words):
    words = [word for word in words if word not in ("--help", "--help-all")]
    args = make_parser().parse_args(with_command(words))
    if args.command in ("serve", "config", "policy"):
        assert [error for error in Configuration(args, {}).mistakes() if not isinstance(error, OSError)] == []
    elif args.command == "simulate":
        importlib.import_module("kacore.cli.simulate").study_options(args)
    elif args.command == "docs" and args.page:
        assert (ROOT / "docs" / f"{args.page}.md").is_file()


def check_make(words):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        variable = word.partition("=")[0] if "=" in word else None
        assert re.search(rf"\b{variable}\b" if variable else rf"^{word}:", makefile, re.MULTILINE), word


def check_pip(words):
    assert words[0] == "install"
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = re.findall(r"\bkacore\[([\w,]+)\]", " ".join(words))
    assert {extra for names in named for extra in names.split(",")} <= set(extras)


def check_uvicorn(words):
    command = module("uvicorn.main").main
    assert command.make_context("uvicorn", list(words)).params["app"]


def check_gunicorn(words):
    module("gunicorn.config").Config().parser().parse_args(words)


def check_python(words):
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1])
    elif words[0].endswith(".py") and words[0] != "manage.py":
        assert (ROOT / words[0]).is_file()


CHECKS = {
    "kacore": check_kacore,
    "make": check_make,
    "pip": check_pip,
    "uvicorn": check_uvicorn,
    "gunicorn": check_gunicorn,
    "python": check_python,
}
OTHERS = {"curl", "h2load", "jq", "zcat"}


@pytest.mark.parametrize("name", in_pages("sh"))
def test_commands_of_the_shell_are_commands(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gunicorn.conf.py").write_text("workers = 2\n")
    (tmp_path / ".env").touch()
    for code in in_pages("sh")[name]:
        found = list(commands(code))
        assert found, code
        for program, *words in found:
            if program in CHECKS:
                CHECKS[program](words)
            elif not (ROOT / program).is_file():
                assert program in OTHERS, f"{program}: what reads it?"


# -- configuration --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "code"), blocks("toml"))
def test_toml_is_a_configuration(name, code, tmp_path):
    (tmp_path / "kacore.toml").write_text(code)
    args = make_parser().parse_args(["config", "--config", str(tmp_path / "kacore.toml")])
    found = Configuration(args, {})
    assert found.mistakes() == []
    assert (found.policies.rules or not re.search(r"^\[+policy\.", code, re.MULTILINE)) and found.options


@pytest.mark.parametrize(("name", "code"), blocks("ini"))
def test_settings_of_the_system_are_those_that_there_are(name, code):
    for key, value in re.findall(r"^([^#\s=]+) *= *(\S+)$", code, re.MULTILINE):
        assert value.isdigit()
        if "." in key:
            assert Path("/proc/sys", key.replace(".", "/")).exists(), key
        else:
            assert f"{key}=" in DEPLOY["deploy/shop.service"], key


# -- sentences ------------------------------------------------------------------------------------------------------------


def spans(texts):
    return {(name, span) for name, text in texts.items() for span in SPAN.findall(FENCED.sub("", text))}


def test_commands_that_a_sentence_names_are_commands():
    named = sorted((name, span) for name, span in spans({**DOCUMENTS, **DEPLOY}) if span.startswith("kacore "))
    assert len(named) > 20
    for name, span in named:
        _, *words = shlex.split(span)
        assert words[0] in COMMANDS or re.search(r"[:.]|^--", words[0]), (name, span)
        is_pattern = re.search(r"\b[A-Z]+\b|\.\.\.|\|", span)
        if not is_pattern and (len(words) > 1 or ":" in words[0]):
            check_kacore(words)


def flags_of_ours():
    (subcommands,) = [action for action in make_parser()._actions if action.choices and "serve" in action.choices]
    return {"--version", *(flag for parser in subcommands.choices.values() for flag in parser.flags())}


def test_options_that_a_sentence_names_are_options():
    """Ours, or those that kacore explains to whoever types them out of habit. With a program before it an option is its."""
    known = {*flags_of_ours(), *elsewhere.SAME, *elsewhere.OPTIONS, *elsewhere.ALIASES}
    others = {"--requests", "--rounds"}  # of programs in tests/
    named = {
        (name, flag)
        for name, span in spans(DOCUMENTS)
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]+", span)
        if span.startswith(("--", "kacore ")) and not re.search(r"from-\w+corn|embedding-\w+corn", name)
    }
    assert len(named) > 100
    assert {(name, flag) for name, flag in named if flag not in known | others} == set()


def test_every_page_is_in_the_navigation_of_the_site_and_named_by_the_readme():
    sections = [path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "site").glob("*.md")]
    for name in DOCUMENTS:
        if name.startswith("docs/"):
            assert sum(f"\n{name.removesuffix('.md')}\n" in section for section in sections) == 1, name
    named = DOCUMENTS["README.md"] + DOCUMENTS["docs/embedding.md"]
    assert [name for name in DOCUMENTS if name.startswith("docs/") and Path(name).name not in named] == []


# -- links ----------------------------------------------------------------------------------------------------------------


def anchors(text):
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files_and_headings_that_there_are(name):
    text = SPAN.sub("", FENCED.sub("", DOCUMENTS[name]))
    for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        target, _, anchor = next(filter(None, link)).partition("#")
        if re.match("[a-z]+:", target):
            continue  # elsewhere: the suite asks nobody
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), link
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), link
