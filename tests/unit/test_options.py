"""The options of serving: one declaration each, and what follows from it."""

import inspect
import typing
from typing import Literal

import pytest

import kacore
from kacore.cli.configuration import Configuration
from kacore.cli.parser import make_parser
from kacore.config.fields import FLAG, KEY, VARIABLE, Record
from kacore.config.options import RunOptions, ServeOptions, ServerOptions
from kacore.config.sources import variable
from kacore.errors import UsageError
from kacore.server.options import RunKeywords, ServerKeywords

# A value that is no default, as it is written in a text and as it is stored.
SOME = {
    "app": ("a:b", "a:b"),
    "root_path": ("/api", "/api"),
    "uds_mode": ("660", 0o660),
    "headers": ("X-A: b, c", (("X-A", "b, c"),)),
    "forwarded_allow_ips": ("10.0.0.0/8, unix", ("10.0.0.0/8", "unix")),
    "ssl_sni": ("a.example=cert,key", (("a.example", ("cert", "key")),)),
    "htaccess": ("a.example=file", (("a.example", "file"),)),
    "fds": ("7", (7,)),
    "access_log": ("%h %s", "%h %s"),
    "request_id": ("X-Request-ID", "X-Request-ID"),
}


def some(what):
    if what.name in SOME:
        return SOME[what.name]
    if what.kind is bool:
        value = not what.default
        return ("on" if value else "off"), value
    if what.choices:
        chosen = next(choice for choice in what.choices if choice != what.default)
        return chosen, chosen
    if what.kind is str:
        return "some text", ("some text",) if what.is_many else "some text"
    value = max(what.kind(min(what.high, 60) // 2), what.low or 0)
    return str(value), value


def flags(what, text):
    if what.name == "app":
        return [text]
    if what.kind is bool:
        return [what.flag] if text == "on" else [f"--no-{what.flag[2:]}"]
    return [f"{what.flag}={text}"]


def configuration(*argv, environ=None):
    """Without a kacore.toml of the current directory, unless one is named."""
    named = [] if "KACORE_CONFIG" in (environ or {}) else ["--config", "/dev/null"]
    return Configuration(make_parser().parse_args(["serve", *named, *argv]), environ or {})


@pytest.fixture
def no_files(monkeypatch):
    """Files that options name are not read: only who said what counts here."""
    for name in ("_read_other_servers", "_tables"):
        monkeypatch.setattr(Configuration, name, lambda *_: {})
    monkeypatch.setattr("kacore.config.envfile.read", lambda path: {})


@pytest.mark.parametrize("name", ServeOptions.__fields__)
def test_every_option_has_a_flag_a_variable_and_a_key(no_files, name):
    what = ServeOptions.__fields__[name]
    text, value = some(what)
    assert FLAG in what.sources
    given = configuration(*flags(what, text)).serve
    assert (given.values[name], given.errors) == (value, [])
    if VARIABLE in what.sources:
        given = configuration(environ={variable(name): text}).serve
        assert (given.values[name], given.origins[name]) == (value, variable(name))
    if KEY in what.sources and not what.is_secret:
        key = what.to_key(value)
        assert what.read(list(key) if isinstance(key, tuple) else key) == value
        assert what.read(text if what.kind is str or what.convert else value) == value


FUNCTIONS = [(ServerKeywords, kacore.Server), (RunKeywords, kacore.run), (ServerKeywords, kacore.serving)]


@pytest.mark.parametrize(("record", "function"), FUNCTIONS)
def test_options_are_keywords_with_their_defaults(record, function):
    parameters = dict(inspect.signature(function).parameters)
    assert parameters.pop("app").kind is inspect.Parameter.POSITIONAL_ONLY
    assert list(parameters) == list(record.__fields__)
    for name, what in record.__fields__.items():
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default == what.make_default()


def test_help_has_the_sentence_of_every_keyword():
    text = inspect.getdoc(kacore.Server.__init__)
    for name, what in ServerKeywords.__fields__.items():
        assert f"{name}: {what.doc}" in text


@pytest.mark.parametrize("record", [ServerOptions, RunOptions, ServeOptions, kacore.Policy])
def test_what_type_checkers_are_told_is_what_is_declared(record):
    hints = typing.get_type_hints(record)
    for name, what in record.__fields__.items():
        hint = hints[name]
        if what.choices and what.is_optional and what.default is None:
            assert typing.get_args(typing.get_args(hint)[0]) == what.choices
        elif what.choices and hint is not str:
            said = [choice for part in (hint, *typing.get_args(hint)) for choice in typing.get_args(part)]
            assert set(said) - {type(None)} >= set(what.choices)
        elif what.words:
            assert hint == what.kind | typing.Literal[what.words]
        elif what.is_many:
            assert "Iterable" in str(hint)
        elif name == "workers":
            assert hint == int | Literal["auto"] | None
        else:
            assert hint == (what.kind | None if what.is_optional else what.kind)


def test_an_unknown_keyword_is_told_with_the_nearest_one():
    with pytest.raises(TypeError, match="unknown name 'prot'; did you mean 'port'"):
        kacore.Server(lambda request: b"", prot=80)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"port": 65536}, "port=65536: must be an integer between 0 and 65535 (0 = a free one)"),
        ({"port": "80"}, "port='80': must be an integer between 0 and 65535 (0 = a free one)"),
        ({"port": True}, "port=True: must be an integer"),
        ({"threads": 1.5}, "threads=1.5: must be an integer between 0 and 1024"),
        ({"interface": "cgi"}, "interface='cgi': must be one of auto, asgi, wsgi, handler"),
        ({"date_header": 1}, "date_header=1: must be True or False"),
        ({"ws_ping_timeout": -1}, "ws_ping_timeout=-1: must be a number of seconds between 0 and 86400 (0 = never)"),
        ({"ws_ping_timeout": float("nan")}, "ws_ping_timeout=nan: must be a number"),
        ({"uds_mode": ""}, "uds_mode='': must be an octal number"),
        ({"uds_mode": 0o1000}, "uds_mode=512: must be an octal number between 0 and 777"),
        ({"headers": [("a", "b", "c")]}, "headers=('a', 'b', 'c'): must be of the form NAME:VALUE"),
        ({"headers": ["a"]}, "headers='a': must be of the form NAME:VALUE"),
        ({"headers": 5}, "headers=5: must be of the form NAME:VALUE"),
        ({"forwarded_allow_ips": "10.0.0.1/8"}, "forwarded_allow_ips='10.0.0.1/8': 10.0.0.1/8 has host bits set"),
        ({"bind": [80]}, "bind=80: must be text"),
        ({"host": None, "server_name": None}, "server_name=None: must be at most 117 printable ASCII characters"),
        ({"policy": 5}, "policy=5: must be a kacore.Policy or kacore.PolicySet"),
        ({"tls": "cert.pem"}, "tls='cert.pem': must be a kacore.TLS or an ssl.SSLContext"),
        ({"sockets": 5}, "sockets=5: must be sockets that listen"),
    ],
)
def test_a_wrong_keyword_is_an_error_that_names_value_and_rule(given, message):
    with pytest.raises(UsageError) as raised:
        kacore.Server(lambda request: b"", **given)
    assert str(raised.value).startswith(message)


def test_a_record_is_immutable_comparable_and_can_be_pickled():
    import pickle

    options = ServerOptions(port=80, bind=["a:1"])
    assert pickle.loads(pickle.dumps(options)) == options == ServerOptions(bind=("a:1",), port=80)
    assert repr(options) == "ServerOptions(port=80, bind=('a:1',))"
    with pytest.raises(AttributeError, match="immutable"):
        options.port = 81
    assert issubclass(ServerOptions, Record) and hash(options) == hash(ServerOptions(port=80, bind="a:1"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["127.0.0.1:8000"]),
        ({"port": 0}, ["127.0.0.1:0"]),
        ({"host": "::1"}, ["[::1]:8000"]),
        ({"host": ""}, [":8000"]),
        ({"uds": "s"}, ["unix:s"]),
        ({"bind": ["a:1", "b:2"], "uds": "s"}, ["a:1", "b:2", "unix:s"]),
        ({"bind": ["a:1"], "port": 80}, ["127.0.0.1:80", "a:1"]),
        ({"fds": [3]}, []),
    ],
)
def test_addresses_are_those_that_are_named_or_the_default(given, expected):
    assert ServerOptions(**given).addresses() == expected


# -- sources ------------------------------------------------------------------------------------------------


def test_flag_variable_env_file_and_file_come_in_this_order(tmp_path):
    (tmp_path / "kacore.toml").write_text(
        "[serve]\nthreads = 1\nbacklog = 1\nserver_name = 'toml'\nroot_path = '/toml'\nbind = ['a:1']\n"
        "[policy]\nretry_after = 1\nmax_headers = 1\n"
    )
    (tmp_path / "env").write_text(
        "# a comment\n\nKACORE_THREADS=2\nKACORE_BACKLOG = 2\nKACORE_SERVER_NAME='env file'\n KACORE_MAX_HEADERS=2\n"
        'OTHER="x=y"\n'
    )
    args = ["serve", "--config", f"{tmp_path}/kacore.toml", "--env-file", f"{tmp_path}/env", "--threads", "4", "a:b"]
    found = Configuration(make_parser().parse_args(args), {"KACORE_THREADS": "3", "KACORE_BACKLOG": "3", "OTHER": "set"})
    options, origins = found.options, found.serve.origins
    names = ("threads", "backlog", "server_name", "root_path", "bind")
    said = {name: (getattr(options, name), origins[name]) for name in names}
    assert said == {
        "threads": (4, "--threads"),
        "backlog": (3, "KACORE_BACKLOG"),
        "server_name": ("env file", f"{tmp_path}/env: KACORE_SERVER_NAME"),
        "root_path": ("/toml", f"{tmp_path}/kacore.toml [serve]"),
        "bind": (("a:1",), f"{tmp_path}/kacore.toml [serve]"),
    }
    assert (found.policies.default.retry_after, found.policies.default.max_headers) == (1, 2)
    assert found.variables["OTHER"] == "x=y"


def test_the_application_gets_the_variables_of_the_env_file_that_are_not_set(tmp_path, monkeypatch):
    import os

    monkeypatch.setattr("os.environ", {"SET": "before"})
    (tmp_path / "env").write_text("SET=after\nNEW=one\n")
    configuration("--env-file", f"{tmp_path}/env").complete_environment({"SET": "before"})
    assert os.environ == {"SET": "before", "NEW": "one"}


@pytest.mark.parametrize("text", ["novalue", "=x", "a b=c", "1A=b"])
def test_a_line_of_an_env_file_that_is_none_names_its_place(tmp_path, text):
    (tmp_path / "env").write_text(f"A=b\n{text}\n")
    with pytest.raises(UsageError, match=r"env:2: must be a line of the form KEY=VALUE"):
        _ = configuration("--env-file", f"{tmp_path}/env").options


@pytest.mark.parametrize(
    ("argv", "environ", "message"),
    [
        (["--port", "http"], {}, "--port: port='http': must be an integer between 0 and 65535"),
        ([], {"KACORE_PORT": "http"}, "environment variable KACORE_PORT: port='http': must be an integer"),
        (["--workers", "0"], {}, "--workers: workers='0': must be an integer between 1 and 512, or auto"),
        ([], {"KACORE_RELOAD": "perhaps"}, "KACORE_RELOAD: reload='perhaps': must be True or False"),
        (["--proxy-protocol"], {}, "proxy_protocol needs forwarded_allow_ips"),
        (["--ssl-keyfile", "k"], {}, "--ssl-certfile is missing"),
        (["--ssl-sni", "host"], {}, "ssl_sni='host': must be HOST=CERTFILE or HOST=CERTFILE,KEYFILE"),
    ],
)
def test_a_wrong_value_names_who_said_it(argv, environ, message):
    with pytest.raises(UsageError) as raised:
        _ = configuration(*argv, environ=environ).options
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[serve]\nprot = 80", "[serve]: unknown name 'prot'; did you mean 'port'?"),
        ("[serve]\nport = '80'", "[serve]: port='80': must be an integer"),
        ("[serve]\nconfig = 'x'", "[serve]: unknown name 'config'"),
        ("serve = 5", "[serve]: must be a table, not 5"),
        ("[server]", "unknown name 'server'; did you mean 'serve'?"),
    ],
)
def test_what_is_wrong_in_the_table_names_the_place(tmp_path, text, message):
    (tmp_path / "kacore.toml").write_text(text)
    with pytest.raises(ValueError) as raised:
        _ = configuration("--config", f"{tmp_path}/kacore.toml").options
    assert message in str(raised.value)


def test_what_kubernetes_says_of_a_service_is_no_port_and_a_server_name_may_look_like_a_path():
    environ = {"KACORE_PORT": "tcp://10.0.0.1:8000", "KACORE_SERVER_NAME": "shop/1.0", "KACORE_HOST": "::1"}
    options = configuration(environ=environ).options
    assert (options.port, options.server_name, options.host) == (None, "shop/1.0", "::1")


def test_an_option_of_the_command_is_told_where_the_command_does_not_run(monkeypatch, caplog):
    from kacore.policy.sources import Sources

    monkeypatch.setattr("kacore.config.sources._told", set())
    Sources().add_environment({"KACORE_WORKERS": "4"})
    assert "KACORE_WORKERS is an option of kacore serve alone; it is ignored" in caplog.text


# -- variables that are not ours alone ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "argv", "addresses"),
    [
        ({"PORT": "9000"}, (), [":9000"]),  # of a platform, which means from outside
        ({"PORT": "9000", "HOST": "10.0.0.1"}, (), ["10.0.0.1:9000"]),
        ({"PORT": "9000", "HOST": "::"}, (), ["[::]:9000"]),
        ({"PORT": "9000", "HOST": "x86_64-conda-linux-gnu"}, (), [":9000"]),
        ({"HOST": "x86_64-conda-linux-gnu"}, (), ["127.0.0.1:8000"]),
        ({"HOST": "localhost"}, (), ["localhost:8000"]),
        ({"PORT": "9000"}, ("--host", "::1"), ["[::1]:9000"]),
        ({"PORT": "9000"}, ("--port", "1"), ["127.0.0.1:1"]),
        ({"PORT": "9000"}, ("--bind", "unix:a"), ["unix:a"]),
        ({"PORT": "9000", "KACORE_PORT": "9001"}, (), ["127.0.0.1:9001"]),
        ({"PORT": "9000", "HOST": "0.0.0.0"}, ("--uds", "a"), ["unix:a"]),
        ({"PORT": ""}, (), ["127.0.0.1:8000"]),
    ],
)
def test_port_and_host_of_a_platform_count_where_nothing_says_where_to_listen(environ, argv, addresses):
    assert configuration(*argv, environ=environ).options.addresses() == addresses


def test_other_variables_of_a_platform_are_heard_unless_something_else_says_it():
    environ = {"WEB_CONCURRENCY": "3", "FORWARDED_ALLOW_IPS": "10.0.0.1,unix"}
    found = configuration(environ=environ)
    assert (found.options.workers, found.options.forwarded_allow_ips) == (3, ("10.0.0.1", "unix"))
    assert found.serve.origin("workers") == "WEB_CONCURRENCY"
    assert configuration("--workers", "2", environ=environ).options.workers == 2
    assert configuration("--reload", environ=environ).options.workers is None
    with pytest.raises(UsageError, match="environment variable PORT: port='http': must be an integer"):
        _ = configuration(environ={"PORT": "http"}).options


def test_workers_auto_is_what_affinity_and_control_groups_allow(tmp_path, monkeypatch):
    from kacore.config import cores

    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    assert cores.usable_cores(str(tmp_path)) == 8
    write("proc/self/cgroup", "0::/system.slice/shop.service\n")
    write("sys/fs/cgroup/system.slice/shop.service/cpu.max", "max 100000\n")
    assert cores.usable_cores(str(tmp_path)) == 8
    write("sys/fs/cgroup/system.slice/cpu.max", "250000 100000\n")
    assert cores.usable_cores(str(tmp_path)) == 3
    write("sys/fs/cgroup/cpu.max", "20000 100000\n")  # of a container
    assert cores.usable_cores(str(tmp_path)) == 1
    write("proc/self/cgroup", "4:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n")  # version 1
    write("sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us", "-1\n")
    write("sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us", "100000\n")
    assert cores.usable_cores(str(tmp_path)) == 8
    write("sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us", "400000\n")
    assert cores.usable_cores(str(tmp_path)) == 4
    assert configuration("--workers", "auto").options.workers == cores.usable_cores()
    assert RunOptions(workers="auto").n_workers >= 1


LEVELS = [("WARNING", "warning"), ("warn", "warning"), ("Trace", "trace"), ("fatal", "critical")]


@pytest.mark.parametrize(("given", "level"), LEVELS)
def test_log_levels_are_written_in_any_case(given, level):
    assert configuration("--log-level", given).options.log_level == level
