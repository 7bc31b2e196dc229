"""kacore.toml, the environment, flags, their order, and `kacore policy`."""

import json
import os

import pytest

from kacore import cli
from kacore.cli.config import InForce
from kacore.cli.configuration import Configuration
from kacore.cli.parser import make_parser
from kacore.config.sources import tell_unknown
from kacore.policy import Policy, PolicyError, PolicySet, Rule
from kacore.policy.readers import toml


def policy_from(*argv, environ=None, files=()):
    """What is printed by `kacore policy`, without a kacore.toml of the current directory."""
    named = [word for file in files or ["/dev/null"] for word in ("--config", file)]
    found = Configuration(make_parser().parse_args(["policy", *named, *argv]), environ or {})
    tell_unknown(found.strange)
    return InForce(found, has_serve=False)


# -- TOML ---------------------------------------------------------------------------------------------------


def test_toml_sets_fields_and_rules_in_the_order_of_the_file():
    text = """
[policy]
keep_alive_timeout = 30
max_buffer_bytes = "32MiB"
when_full = "reject"

[policy.client."10.0.0.0/8"]
send_timeout = 5

[policy.site."a.example"]
keep_alive = false

[[policy.rule]]
host = ["b.example", "*.b.example"]
user_agent = "Old"
keep_alive_timeout = 2.5

[policy.site."c.example"]
max_body_bytes = "1KiB"

[policy.listener.":9000"]
first_byte_timeout = 3
[policy.user_agent."MSIE"]
keep_alive = false
"""
    values, rules = toml.read(text)
    assert values == {"keep_alive_timeout": 30.0, "max_buffer_bytes": 32 << 20, "when_full": "reject"}
    assert rules == [
        Rule(client="10.0.0.0/8", send_timeout=5),
        Rule(host="a.example", keep_alive=False),
        Rule(host="c.example", max_body_bytes=1024),
        Rule(host=["b.example", "*.b.example"], user_agent="Old", keep_alive_timeout=2.5),
        Rule(listener=":9000", first_byte_timeout=3),
        Rule(user_agent="MSIE", keep_alive=False),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[policy]\nkeepalive = true",
            "kacore.toml [policy]: unknown name 'keepalive'; did you mean 'keep_alive'?",
        ),
        ("[police]", "kacore.toml: unknown name 'police'; did you mean 'policy'?"),
        ("keep_alive = true", "kacore.toml: unknown name 'keep_alive'"),
        ("[policy]\nkeep_alive_timeout = 0", "kacore.toml [policy]: keep_alive_timeout=0: must be"),
        ("[policy]\nkeep_alive_timeout = '5'", "keep_alive_timeout='5': must be"),
        ("[policy]\nkeep_alive = 1", "keep_alive=1: must be True or False"),
        ("[policy", "kacore.toml: "),
        ("policy = 5", "kacore.toml [policy]: must be a table, not 5"),
        ("[policy]\nsite = 5", "kacore.toml [policy.site]: must be a table"),
        ("[policy.site]\n'a.example' = 5", """[policy.site."a.example"]: must be a table"""),
        ("[policy.site.'a b']", "host='a b': must be a name"),
        ("[policy.site.'a.example']\nsend_timeout = 5", "a client must not choose it"),
        ("[policy.site.'a.example']\nhost = 'b'", "unknown name 'host'"),
        ("[policy.client.'10.0.0.0/8']\nmax_connections = 5", "one number for a whole worker"),
        ("[policy.rule]\nhost = 'a'", "a rule is a table of its own"),
        ("[[policy.rule]]\nkeep_alive = false", "kacore.toml [[policy.rule]] 1: a rule needs a key"),
        ("[[policy.rule]]\nhost = 5", "[[policy.rule]] 1: "),
        ("[[policy.rule]]\nhost = [5]", "non-empty str"),
        ("[[policy.rule]]\nname = 'x'", "unknown name 'name'"),
    ],
)
def test_what_is_wrong_in_toml_names_the_place(text, message):
    with pytest.raises(PolicyError) as raised:
        toml.read(text)
    assert message in str(raised.value)


def test_tables_of_others_are_left_alone_when_they_are_known():
    values, rules = toml.read("[server]\nport = 80\n[policy]\nkeep_alive = false", tables=("server",))
    assert (values, rules) == ({"keep_alive": False}, [])


# -- order --------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    (tmp_path / "apache.conf").write_text("KeepAliveTimeout 10\nMaxKeepAliveRequests 10\nTimeOut 10\nKeepAlive On\n")
    (tmp_path / "kacore.toml").write_text("[policy]\nmax_keep_alive_requests = 20\nsend_timeout = 20\n")
    return tmp_path


def test_the_later_source_wins_field_by_field_and_is_remembered(files):
    found = policy_from(
        "--from-apache",
        f"{files}/apache.conf",
        "--no-advertise",
        "--request-body-timeout",
        "40",
        environ={"KACORE_SEND_TIMEOUT": "30", "KACORE_REQUEST_BODY_TIMEOUT": "30", "HOME": "/"},
        files=[f"{files}/kacore.toml"],
    )
    changed = {name: (value, found.origins[name]) for name, value in found.policy.changes().items()}
    assert changed == {
        "keep_alive_timeout": (10.0, f"{files}/apache.conf:1 KeepAliveTimeout 10"),
        "max_keep_alive_requests": (20, f"{files}/kacore.toml [policy]"),
        "send_timeout": (30.0, "KACORE_SEND_TIMEOUT"),
        "request_body_timeout": (40.0, "--request-body-timeout"),
        "advertise": (False, "--no-advertise"),
    }
    assert found.origins["keep_alive"] == f"{files}/apache.conf:4 KeepAlive On"
    assert found.origins["drain_timeout"] == "default"


def test_rules_of_the_file_come_before_those_of_another_server(files):
    (files / "apache.conf").write_text("<VirtualHost *>\nServerName a.example\nKeepAlive Off\n</VirtualHost>")
    (files / "kacore.toml").write_text("[policy.site.'a.example']\nkeep_alive_timeout = 3\n")
    found = policy_from("--from-apache", f"{files}/apache.conf", files=[f"{files}/kacore.toml"])
    assert found.policies.rules == (
        Rule(host="a.example", keep_alive_timeout=3),
        Rule(host="a.example", keep_alive=False),
    )
    assert found.rule_origins == [f"{files}/kacore.toml", f"{files}/apache.conf"]


@pytest.mark.parametrize("name", Policy.__fields__)
def test_every_field_has_a_flag_and_a_variable(name):
    what = Policy.__fields__[name]
    flag = "--" + name.replace("_", "-")
    if what.kind is bool:
        expected, text, argv = False, "off", [flag.replace("--", "--no-", 1)]
    else:
        expected = what.choices[1] if what.choices else what.kind(what.high / 2)
        text, argv = str(expected), [flag, str(expected)]
    wide = {"max-connections": 1 << 24, "max-buffer-bytes": 1 << 40, "pressure-start": 0, "pressure-full": 1,
            "keep-alive-max": 31536000}
    others = [f"--{key}={value}" for key, value in wide.items() if flag != "--" + key]
    assert getattr(policy_from(*others, *argv).policy, name) == expected
    assert getattr(policy_from(*others, environ={f"KACORE_{name.upper()}": text}).policy, name) == expected


def test_flags_that_are_not_given_change_nothing():
    assert policy_from().policies == PolicySet()


def test_switches_of_the_build_are_no_policy():
    environ = {"KACORE_DEBUG": "1", "KACORE_SANITIZE": "1", "KACORE_COVERAGE": "1", "KACORE_SIMD": "scalar"}
    assert policy_from(environ=environ).policy == Policy()


FROM_ELSEWHERE = {
    "KACORE_SERVICE_HOST": "10.0.0.1",
    "KACORE_SERVICE_PORT": "8000",
    "KACORE_SERVICE_PORT_HTTP": "8000",
    "KACORE_PORT": "tcp://10.0.0.1:8000",
    "KACORE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "KACORE_PORT_8000_TCP_PROTO": "tcp",
    "KACORE_PORT_8000_TCP_PORT": "8000",
    "KACORE_PORT_8000_TCP_ADDR": "10.0.0.1",
    "KACORE_API_2_SERVICE_HOST": "10.0.0.2",
    "KACORE_API_2_SERVICE_PORT_KEEP_ALIVE": "80",
    "KACORE_API_2_PORT": "udp://10.0.0.2:53",
    "KACORE_API_2_PORT_53_UDP_ADDR": "10.0.0.2",
    "KACORE_MAX_CONNECTIONS_SERVICE_HOST": "10.0.0.3",
    "KACORE_NAME": "/web/kacore",
    "KACORE_ENV_PATH": "/usr/bin",
    "KACORE_WEB_1_ENV_lang": "C",
    "KACORE_PORT_8000_TCP_START": "tcp://172.17.0.2:8000",
    "KACORE_PORT_8000_TCP_PORT_END": "8009",
}


@pytest.mark.parametrize("name", FROM_ELSEWHERE)
def test_what_kubernetes_and_docker_say_of_a_service_called_kacore_is_passed_over(caplog, name):
    environ = {name: FROM_ELSEWHERE[name], "KACORE_KEEP_ALIVE_TIMEOUT": "7"}
    assert policy_from(environ=environ).policy == Policy(keep_alive_timeout=7)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("KACORE_KEEPALIVE", "1", "unknown name 'KACORE_KEEPALIVE'; did you mean 'KACORE_KEEP_ALIVE'?; it is ignored"),
        ("KACORE_keep_alive", "1", "unknown name 'KACORE_keep_alive'"),
        ("KACORE_", "1", "unknown name 'KACORE_'"),
        ("KACORE_NAME", "x", "unknown name 'KACORE_NAME'"),
    ],
)
def test_an_unknown_variable_is_told_once_with_the_nearest_name(monkeypatch, caplog, name, text, message):
    monkeypatch.setattr("kacore.config.sources._told", set())
    for _ in range(2):
        assert policy_from(environ={name: text}).policy == Policy()
    assert caplog.text.count(f"environment: {message}") == 1


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_variable_is_as_good_as_none(caplog, text):
    environ = {"KACORE_KEEP_ALIVE": text, "KACORE_MAX_CONNECTIONS": text, "KACORE_NONSENSE": text}
    assert policy_from(environ=environ).policy == Policy()
    assert caplog.text == ""


def test_a_wrong_value_in_the_environment_names_the_variable():
    with pytest.raises(PolicyError) as raised:
        policy_from(environ={"KACORE_KEEP_ALIVE_TIMEOUT": "soon"})
    message = "environment variable KACORE_KEEP_ALIVE_TIMEOUT: keep_alive_timeout='soon': must be"
    assert message in str(raised.value)


def test_a_clash_says_where_both_values_came_from():
    with pytest.raises(PolicyError) as raised:
        policy_from("--pressure-start", "0.9", environ={"KACORE_PRESSURE_FULL": "0.8"})
    message = "(pressure_full from KACORE_PRESSURE_FULL, pressure_start from --pressure-start)"
    assert str(raised.value).endswith(message)


# -- the command --------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs `kacore policy` in an empty directory. Return: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("KACORE_")]:
        monkeypatch.delenv(name)

    def call(*argv):
        status = cli.main(["policy", *argv])
        return (status, *capsys.readouterr())

    return call


def test_the_table_has_every_field_with_value_unit_and_origin(run, tmp_path):
    (tmp_path / "kacore.toml").write_text(
        "[policy]\nkeep_alive_timeout = 9\n[policy.site.'a.example']\nadvertise = false"
    )
    status, out, err = run("--max-headers", "50")
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in out.partition("\n\n")[0].splitlines()}
    assert list(rows)[1:] == list(Policy.__fields__)
    assert rows["keep_alive_timeout"] == ["9", "s", "kacore.toml", "[policy]"]
    assert rows["max_headers"] == ["50", "fields", "--max-headers"]
    assert rows["when_full"] == ["wait", "default"]
    assert "rule 1: host a.example (kacore.toml)\n  advertise = off" in out


def test_toml_output_makes_the_same_policy_again(run, tmp_path):
    (tmp_path / "nginx.conf").write_text(
        'events { worker_connections 99; }\nhttp { keepalive_disable safari; log_format x "a\tb\\"\x7f";'
        " server { server_name a.example; client_max_body_size 1k; } }"
    )
    status, out, _err = run("--from-nginx", "nginx.conf", "--format", "toml", "--client-share", "1e-3")
    assert status == 0
    expected = policy_from("--from-nginx", "nginx.conf", "--client-share", "0.001").policies
    values, rules = toml.read(out)
    assert PolicySet(Policy(**values), rules) == expected
    assert len(rules) == 3
    assert "# nginx.conf:1: worker_connections 99: taken: max_connections=99" in out


def test_json_output_has_policy_rules_and_report(run, tmp_path):
    (tmp_path / "apache.conf").write_text("KeepAliveTimeout 5\nListen 80\nBrowserMatch Old nokeepalive")
    _status, out, _err = run("--from-apache", "apache.conf", "--format", "json")
    found = json.loads(out)
    assert found["policy"]["keep_alive_timeout"] == {
        "value": 5.0,
        "unit": "s",
        "from": "apache.conf:1 KeepAliveTimeout 5",
    }
    assert found["rules"] == [{"user_agent": ["Old"], "set": {"keep_alive": False}, "from": "apache.conf"}]
    assert [line["taken"] for line in found["report"]] == [True, False, True]
    assert found["report"][1]["why"] == "listeners are arguments of kacore serve"


def test_a_rule_that_sets_nothing_is_a_rule_in_toml_too(run, tmp_path):
    (tmp_path / "nginx.conf").write_text(
        "server { listen 80; server_name a.example; } server { listen 80 default_server; client_max_body_size 1k; }"
    )
    _status, out, _err = run("--from-nginx", "nginx.conf", "--format", "toml")
    values, rules = toml.read(out)
    assert PolicySet(Policy(**values), rules).rules == (
        Rule(host="a.example"), Rule(listener=":80", max_body_bytes=1024),
    )  # fmt: skip


@pytest.mark.parametrize("form", ["table", "toml"])
def test_the_lines_that_say_nothing_are_counted_unless_all_are_asked_for(run, tmp_path, form):
    (tmp_path / "apache.conf").write_text("DocumentRoot /\nKeepAliveTimeout 5\nListen 80\nTimeOut 1min\n")
    _status, out, _err = run("--from-apache", "apache.conf", "--format", form)
    told = [line.removeprefix("# ") for line in out.splitlines()[-4:]]
    assert told == [
        "apache.conf:2: KeepAliveTimeout 5: taken: keep_alive_timeout=5",
        "apache.conf:3: Listen 80: not taken: listeners are arguments of kacore serve",
        "apache.conf:4: TimeOut 1min: not taken: '1min' has a unit, and Apache reads the number alone, as seconds:"
        " which is meant?",
        "other lines: 1 (1 no directive that kacore reads); --verbose lists them",
    ]
    _status, out, _err = run("--from-apache", "apache.conf", "--format", form, "--verbose")
    assert "apache.conf:1: DocumentRoot /: not taken: no directive that kacore reads" in out
    assert "other lines" not in out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--max-header-bytes", "65536"], "max_header_bytes=65536 is never reached: a whole head has max_head_bytes=32768"),
        (["--max-target-bytes", "40000"], "max_target_bytes=40000 is never reached: a whole head has max_head_bytes=32768"),
        (["--drain-spread", "9", "--drain-timeout", "4"], "drain_spread=9 is cut short by drain_timeout=4"),
        (["--keep-alive-timeout", "9", "--keep-alive-min", "4"], "keep_alive_min says nothing: keep_alive_timeout is a"),
    ],
)
def test_a_limit_that_another_one_makes_void_is_said(run, argv, said):
    for form in ("table", "toml", "json"):
        status, out, _err = run(*argv, "--format", form)
        assert status == 0
        assert said in out


def test_a_limit_that_nobody_set_is_not_complained_of(run):
    _status, out, _err = run("--max-head-bytes", "4096", "--drain-timeout", "1")
    assert "never reached" not in out
    assert "cut short" not in out


def test_htaccess_files_are_read_for_their_sites(run, tmp_path):
    (tmp_path / "apache.conf").write_text("")
    (tmp_path / "ht").write_text("Header set Connection close")
    status, out, _err = run("--from-apache", "apache.conf", "--htaccess", "a.example=ht")
    assert status == 0
    assert "rule 1: host a.example (apache.conf)\n  keep_alive = off" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--keep-alive-timeout", "x"],
            "--keep-alive-timeout: keep_alive_timeout='x': must be a number of seconds",
        ),
        (["--config", "missing.toml"], "missing.toml: No such file or directory"),
        (["--from-apache", "missing.conf"], "missing.conf: No such file or directory"),
        (["--htaccess", "a=b"], "--htaccess: needs --from-apache"),
        (["--from-apache", "/dev/null", "--htaccess", "a"], "htaccess='a': must be SITE=FILE"),
        (["--max-connections", "5", "--max-connections-per-client", "6"], "could never be reached"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(run, argv, message):
    status, out, err = run(*argv)
    assert (status, out) == (2, "")
    assert err.startswith("kacore: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_file_that_is_no_text_is_refused_by_name(run, tmp_path):
    (tmp_path / "kacore.toml").write_bytes(b"\xff\xfe")
    status, _out, err = run()
    assert status == 2
    assert "kacore.toml: must be UTF-8" in err


def test_importing_kacore_imports_no_reader_and_nothing_heavy(launch):
    code = (
        "import sys; before = set(sys.modules); import kacore; new = set(sys.modules) - before;"
        "print(sorted(new & {'dataclasses', 'inspect', 'argparse', 'tomllib', 'ipaddress', 'socket', 'json',"
        " 'crossplane', 'asyncio', 'kacore.policy.readers.reading', 'kacore.policy.readers.apache',"
        " 'kacore.policy.readers.nginx', 'kacore.policy.readers.toml'}))"
    )
    launch("-c", code).wait_for(r"^\[\]\n")
