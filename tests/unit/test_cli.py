"""The `kacore` command: help, words of other servers, `kacore config`, `--check-config`."""

import argparse
import json
import re
import subprocess
from pathlib import Path

import pytest

from kacore import cli
from kacore.cli import elsewhere, gunicorn_file
from kacore.cli.parser import make_parser, with_command
from kacore.config.options import ServeOptions
from kacore.policy import Policy


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs `kacore` in an empty directory. Return: exit status, stdout, stderr."""
    import os

    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("KACORE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*argv):
        try:
            status = cli.main(argv)
        except SystemExit as end:
            status = end.code
        return (status, *capsys.readouterr())

    return call


def parser_of(command):
    (commands,) = [action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return commands.choices[command]


# -- help -----------------------------------------------------------------------------------------------------


def test_help_of_serve_is_one_screen(run):
    status, out, _ = run("serve", "--help")
    lines = out.splitlines()
    assert status == 0
    assert len(lines) <= 51
    assert max(map(len, lines)) <= 100
    assert "--port PORT                   port to listen on; 0 = a free one (default: 8000)" in out
    assert "--keep-alive-timeout SECONDS  how long a kept connection may stay idle (default: auto)" in out


@pytest.mark.parametrize("command", ["serve", "config"])
def test_help_all_has_every_option_and_says_what_0_means(run, command):
    status, out, _ = run(command, "--help-all")
    assert status == 0
    words = " ".join(out.split())
    for what in [*ServeOptions.__fields__.values(), *Policy.__fields__.values()]:
        shown = f"--[no-]{what.flag[2:]}" if what.kind is bool else f"{what.flag} "
        assert shown in words
        assert not what.zero or f"0 = {what.zero}" in words or f"0, {what.zero}" in words


def test_every_option_has_the_flag_that_is_declared():
    known = set(parser_of("serve").flags())
    for what in [*ServeOptions.__fields__.values(), *Policy.__fields__.values()]:
        if what.name != "app":
            assert {what.flag, *what.aliases} <= known


@pytest.mark.parametrize("command", ["policy", "demo"])
def test_other_commands_have_help_too(run, command):
    assert run(command, "--help")[0] == 0


# -- words of other servers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [*elsewhere.OPTIONS, *elsewhere.ALIASES])
def test_suggestions_name_options_that_exist_and_only_for_words_that_are_none(option):
    known = parser_of("serve").flags()
    assert option not in known
    sentence = elsewhere.OPTIONS[elsewhere.ALIASES.get(option, option)]
    named = elsewhere.flags_in(sentence)
    assert set(named) <= set(known)
    assert " " in sentence or sentence in known
    assert sentence in elsewhere.explain([option], known)


def test_no_suggestion_is_made_twice():
    sentences = [sentence for sentence in elsewhere.OPTIONS.values() if " " in sentence]
    assert len(sentences) == len(set(sentences))
    assert not set(elsewhere.OPTIONS) & set(elsewhere.ALIASES)
    assert set(elsewhere.ALIASES.values()) <= set(elsewhere.OPTIONS)


def test_a_command_that_has_no_such_option_suggests_none():
    assert "--worker-timeout" in elsewhere.explain(["--timeout"], parser_of("serve").flags())
    assert "--worker-timeout" not in elsewhere.explain(["--timeout"], parser_of("demo").flags())


@pytest.mark.parametrize("theirs", elsewhere.SAME)
def test_options_of_other_servers_that_mean_the_same_are_none_of_ours_and_are_taken(theirs):
    known = parser_of("serve").flags()
    assert theirs not in known and elsewhere.SAME[theirs] in known
    ours = elsewhere.SAME[theirs]
    assert elsewhere.translate([theirs, "x", f"{theirs}=y"], known) == [ours, "x", f"{ours}=y"]
    assert elsewhere.translate([theirs], parser_of("demo").flags()) == [theirs]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--keep-alive 5", "--keep-alive-timeout 5"),
        ("--keep-alive=5.5", "--keep-alive-timeout=5.5"),
        ("--keep-alive app:app", "--keep-alive app:app"),
        ("--no-keep-alive", "--no-keep-alive"),
        ("--access-log", "--access-log=short"),
        ("--access-log --port 1", "--access-log=short --port 1"),
        ("--access-log json", "--access-log json"),
        ("--no-access-log", "--access-log=off"),
        ("--proxy-headers --forwarded-allow-ips *", "--forwarded-allow-ips *"),
        ("--proxy-headers", "--proxy-headers"),
    ],
)
def test_what_is_typed_out_of_habit(typed, meant):
    assert elsewhere.translate(typed.split(), parser_of("serve").flags()) == meant.split()


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["app:app", "--port", "1"], ["serve", "app:app", "--port", "1"]),
        (["--port", "1", "app:app"], ["serve", "--port", "1", "app:app"]),
        (["shop.wsgi"], ["serve", "shop.wsgi"]),
        (["demo:app"], ["serve", "demo:app"]),
        (["config"], ["config"]),
        (["--version"], ["--version"]),
        (["help"], ["--help"]),
        ([], []),
    ],
)
def test_without_a_command_it_is_serve(words, meant):
    assert with_command(words) == meant


def test_a_command_that_is_misspelt_is_no_application(run):
    assert run("sevre", "app:app") == (2, "", "kacore: there is no command 'sevre'; did you mean serve?\n")


# -- docs -----------------------------------------------------------------------------------------------------


def test_docs_says_where_the_pages_are_and_prints_one(run):
    status, out, _ = run("docs")
    where, *pages = out.splitlines()
    names = [line.split()[0] for line in pages if line]
    assert status == 0 and {"options", "policy", "deploy", "developing"} <= set(names)
    assert sorted(names) == sorted(path.stem for path in Path(where).glob("*.md"))
    assert run("docs", "options")[1] == (Path(where) / "options.md").read_text(encoding="utf-8")
    assert run("docs", "option") == (2, "", "kacore: docs: unknown name 'option'; did you mean 'options'?\n")


# -- completion -----------------------------------------------------------------------------------------------


@pytest.mark.needs("module:shtab", "bash")
def test_a_shell_completes_commands_options_and_their_values(run, tmp_path):
    status, script, _ = run("completion", "bash")
    assert status == 0
    (tmp_path / "kacore").write_text(script)

    def completed(*words):
        line = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; source ./kacore; _shtab_kacore; "
        shown = subprocess.run(["bash", "-c", line + 'printf "%s\\n" "${COMPREPLY[@]}"'], cwd=tmp_path, capture_output=True)
        return shown.stdout.decode().split()

    assert sorted(completed("kacore", "co")) == ["completion", "config"]
    assert "--keep-alive-timeout" in completed("kacore", "serve", "--keep-a")
    assert completed("kacore", "serve", "--when-full", "re") == ["reject"]


# -- gunicorn.conf.py -----------------------------------------------------------------------------------------

GUNICORN = """
import multiprocessing
bind = ["0.0.0.0:9000", "unix:/run/a.sock"]
workers = 1 + 2
keepalive = 5
timeout = 30
limit_request_fields = 50
worker_class = "uvicorn.workers.UvicornWorker"
preload_app = True
accesslog = "-"
loglevel = "INFO"
wsgi_app = "shop:app"

def on_starting(server):
    raise RuntimeError
"""


def test_settings_of_gunicorn_that_have_a_counterpart_are_read_and_the_others_are_told(run, tmp_path, caplog):
    (tmp_path / "gunicorn.conf.py").write_text(GUNICORN)
    status, out, err = run("config", "-c", "gunicorn.conf.py", "--format", "json", "--port", "1")
    assert status == 0, err
    found = json.loads(out)
    said = {name: value["value"] for table in ("serve", "policy") for name, value in found[table].items()}
    assert said["bind"] == ["0.0.0.0:9000", "unix:/run/a.sock"]
    assert (said["workers"], said["app"], said["port"]) == (3, "shop:app", 1)
    assert (said["keep_alive_timeout"], said["worker_timeout"], said["max_headers"]) == (5, 30, 50)
    assert (said["access_log"], said["log_level"]) == ("combined", "info")
    assert found["policy"]["keep_alive_timeout"]["from"] == "gunicorn.conf.py [policy]"
    for name in ("worker_class", "preload_app", "on_starting"):
        assert f"gunicorn.conf.py: {name} is not taken: " in caplog.text


def test_what_is_wrong_in_it_is_one_line_with_its_place(run, tmp_path):
    (tmp_path / "gunicorn.conf.py").write_text("import os\nworkers = os.nothing\n")
    status, _, err = run("config", "-c", "gunicorn.conf.py")
    assert (status, err) == (2, "kacore: gunicorn.conf.py:2: AttributeError: module 'os' has no attribute 'nothing'\n")
    (tmp_path / "gunicorn.conf.py").write_text("workers = 'two'\n")
    assert "gunicorn.conf.py [serve]: workers='two'" in run("config", "-c", "gunicorn.conf.py")[2]


@pytest.mark.parametrize("setting", [*gunicorn_file.SAME, *gunicorn_file.WITHOUT])
def test_the_settings_are_gunicorns_and_their_counterparts_ours(setting, need):
    known = need("module:gunicorn.config").KNOWN_SETTINGS
    assert setting in {one.name for one in known}
    assert gunicorn_file.SAME.get(setting, "app") in {**ServeOptions.__fields__, **Policy.__fields__}


# -- kacore config --------------------------------------------------------------------------------------------


def test_config_has_every_value_with_its_source(run, tmp_path, monkeypatch):
    (tmp_path / "kacore.toml").write_text("[serve]\nworkers = 2\nuds_mode = '660'\n[policy]\nretry_after = 9\n")
    monkeypatch.setenv("KACORE_LOG_LEVEL", "debug")
    status, out, _ = run("config", "--port", "80", "--header", "X-A: b", "shop:app")
    assert status == 0
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if "  " in line}
    assert {*ServeOptions.__fields__, *Policy.__fields__} <= set(rows)
    assert rows["port"] == ["80", "--port"]
    assert rows["workers"] == ["2", "kacore.toml", "[serve]"]
    assert rows["uds_mode"] == ["660", "kacore.toml", "[serve]"]
    assert rows["log_level"] == ["debug", "KACORE_LOG_LEVEL"]
    assert rows["headers"] == ["X-A:", "b", "--header"]
    assert rows["retry_after"] == ["9", "s", "kacore.toml", "[policy]"]
    assert "Listens on 127.0.0.1:80.\n" in out


def test_what_config_prints_as_toml_makes_the_same_configuration(run, tmp_path):
    given = ["--header", "X-A: b", "--uds-mode", "600", "--fd", "7", "--no-date-header", "--ssl-certfile", "c",
             "--ssl-sni", "a=b,c", "--retry-after", "3", "--forwarded-allow-ips", "10.0.0.1,unix", "shop:app"]  # fmt: skip
    _, out, _ = run("config", *given, "--format", "toml")
    (tmp_path / "kacore.toml").write_text(out)
    _, expected, _ = run("config", *given, "--config", "/dev/null", "--format", "json")
    _, found, _ = run("config", "--format", "json")
    expected, found = json.loads(expected), json.loads(found)
    for table in ("serve", "policy"):
        values = [{name: said["value"] for name, said in one[table].items() if name != "config"} for one in (expected, found)]
        assert values[0] == values[1]
    assert found["serve"]["app"] == {"value": "shop:app", "unit": "", "from": "kacore.toml [serve]"}


@pytest.mark.parametrize("form", ["table", "toml", "json"])
def test_a_passphrase_is_printed_nowhere(run, form):
    status, out, err = run("config", "--ssl-certfile", "c", "--ssl-keyfile-password", "sesame", "--format", form)
    assert status == 0
    assert "sesame" not in out + err


def test_policy_is_the_part_that_is_the_policy(run, monkeypatch):
    monkeypatch.setenv("KACORE_PORT", "nonsense")  # not its affair
    status, out, _ = run("policy", "--format", "json")
    assert status == 0
    assert "serve" not in json.loads(out)
    assert run("config")[0] == 2


# -- kacore serve --check-config -----------------------------------------------------------------------------


def test_check_config_tells_all_that_is_wrong(run, tmp_path, monkeypatch):
    (tmp_path / "kacore.toml").write_text("[serve]\nprot = 1\nthreads = -1\n[policy]\nmax_headers = 0\nkeepalive = 1\n")
    monkeypatch.setenv("KACORE_BACKLOG", "many")
    status, out, err = run(
        "serve", "nowhere_at_all:app", "--port", "70000", "--bind", "x", "--ssl-certfile", "missing.pem",
        "--admin", "y", "--pressure-start", "0.9", "--pressure-full", "0.8",
    )  # fmt: skip
    assert (status, out, err.count("\n")) == (2, "", 1)
    status, out, err = run(
        "serve", "--check-config", "nowhere_at_all:app", "--port", "70000", "--bind", "x", "--ssl-certfile", "missing.pem",
        "--admin", "y", "--pressure-start", "0.9", "--pressure-full", "0.8",
    )  # fmt: skip
    assert (status, out) == (2, "")
    expected = [
        "[serve]: unknown name 'prot'",
        "[serve]: threads=-1",
        "KACORE_BACKLOG: backlog='many'",
        "--port: port=70000",
        "[policy]: max_headers=0",
        "[policy]: unknown name 'keepalive'",
        "pressure_start=0.9 does not go with pressure_full=0.8",
        "no module 'nowhere_at_all'",
        "bind 'x'",
        "admin|bind 'y'",
        "missing.pem: No such file",
    ]
    lines = err.splitlines()
    for words in expected:
        assert any(re.search(words.replace("[", r"\[").replace("'admin|", "'"), line) for line in lines), (words, err)
    assert all(line.startswith("kacore: ") for line in lines)
    assert len(lines) == len(expected)


def test_check_config_of_what_is_well_runs_nothing_of_the_application(run, tmp_path):
    (tmp_path / "shop.py").write_text("raise SystemExit('it was run')\n")
    status, out, err = run("serve", "--check-config", "shop:app", "--port", "0", "--workers", "2", "--admin", "9000")
    assert (status, out, err) == (0, "kacore: the configuration has no mistakes\n", "")


def test_an_application_may_be_named_in_the_file_and_must_be_named_somewhere(run, tmp_path):
    (tmp_path / "shop.py").write_text("")
    assert run("serve", "--check-config")[2] == "kacore: the application is missing: kacore serve MODULE:NAME\n"
    assert run("serve")[0] == 2
    (tmp_path / "kacore.toml").write_text("[serve]\napp = 'shop:app'\n")
    assert run("serve", "--check-config")[0] == 0
