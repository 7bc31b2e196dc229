"""The files in deploy/: each is used as it stands, with addresses and paths of the test in place of the example's."""

import contextlib
import http.client
import json
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from kacore.cli.parser import make_parser
from kacore.server.metrics import METRICS
from tests.wire.conftest import wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"
APP = """
def app(request):
    return f"{request.client[0] if request.client else None} {request.scheme} {request.get('host')} {len(request.body)}"
"""


def text_of(name, changes=()):
    """The file with each key of `changes` replaced; keys must be in it."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    for old, new in dict(changes).items():
        assert old in text, (name, old)
        text = text.replace(old, new)
    return text


# -- proxies in front -------------------------------------------------------------------------------------------------


def nginx(tmp_path, port, backend):
    changes = {"127.0.0.1:8000": f"127.0.0.1:{backend.port}", "listen 80": f"listen 127.0.0.1:{port}"}
    site = text_of("nginx.conf", changes)
    (tmp_path / "shop.conf").write_text(site)
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy;\n"
        f"fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;\n"
        f"include {tmp_path}/shop.conf; }}\n"
    )
    return ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]


def haproxy(tmp_path, port, backend):
    admin = int(re.search(r"admin on port (\d+)", backend.text)[1])
    server = f"127.0.0.1:{backend.port} check port {admin}"
    names = ("127.0.0.1:8000 check port 9000", "127.0.0.1:8001 check port 9001")
    changes = {"bind :80": f"bind 127.0.0.1:{port}", **dict.fromkeys(names, server)}
    (tmp_path / "haproxy.cfg").write_text(text_of("haproxy.cfg", changes))
    return ["haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg")]


def apache(tmp_path, port, backend):
    site = text_of("apache.conf", {"127.0.0.1:8000": f"127.0.0.1:{backend.port}", "*:80": f"127.0.0.1:{port}"})
    modules = Path("/usr/lib/apache2/modules")
    needed = ["mpm_event", "authz_core", "proxy", "proxy_http", "headers"]
    load = "".join(f"LoadModule {name}_module {modules}/mod_{name}.so\n" for name in needed)
    (tmp_path / "apache.conf").write_text(
        f"{load}ServerName test\nDefaultRuntimeDir {tmp_path}\nPidFile {tmp_path}/pid\nErrorLog {tmp_path}/error.log\n"
        f"User nobody\nGroup nogroup\nListen 127.0.0.1:{port}\n{site}"
    )
    return ["apache2", "-DFOREGROUND", "-f", str(tmp_path / "apache.conf")]


def caddy(tmp_path, port, backend):
    changes = {"127.0.0.1:8000": f"127.0.0.1:{backend.port}", "shop.example {": f"http://127.0.0.1:{port} {{"}
    site = text_of("Caddyfile", changes)
    (tmp_path / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https off\n}\n" + site)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(tmp_path / "Caddyfile")]


@pytest.mark.parametrize("proxy", [nginx, haproxy, apache, caddy], ids=lambda proxy: proxy.__name__)
def test_behind_each_proxy_the_client_is_known_and_connections_are_reused(serve, launch, need, tmp_path, free_port, proxy):
    need({"apache": "apache2"}.get(proxy.__name__, proxy.__name__))
    (tmp_path / "app.py").write_text(APP)
    options = ("--forwarded-allow-ips", "127.0.0.1", "--admin", "0", "--access-log", "line %{number}x %a")
    backend = serve("app:app", *options)
    port = free_port()
    launch(*proxy(tmp_path, port, backend), python=False, XDG_DATA_HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path))

    def ask(connection, body=None):
        fields = {"Host": f"127.0.0.1:{port}", "X-Forwarded-Proto": "https"}
        connection.request("POST" if body else "GET", "/", body, fields)
        response = connection.getresponse()
        return response.status, response.read().decode()

    def is_up():
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            try:
                return ask(connection)[0] == 200
            except OSError:
                return False

    wait_until(is_up, "the proxy serves")
    before = backend.text.count("line ")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for n in range(5):
        status, said = ask(connection, b"x" * n or None)
        client, scheme, host, n_bytes = said.split()
        assert (status, client, int(n_bytes)) == (200, "127.0.0.1", n)
        assert scheme == "http"  # the proxy's word; what the client sent itself counts for nothing
        assert host in (f"127.0.0.1:{port}", "127.0.0.1")
    connection.close()
    wait_until(lambda: backend.text.count("line ") >= before + 5, "all are logged")
    numbers = [int(number) for number in re.findall(r"line (\d+) 127", backend.text)][before:]
    assert max(numbers) >= 3, backend.text  # on one connection to the server


# -- systemd ----------------------------------------------------------------------------------------------------------


def unit_values(name):
    lines = [line for line in text_of(name).splitlines() if "=" in line and not line.startswith("#")]
    return [tuple(line.split("=", 1)) for line in lines]


@pytest.mark.needs("systemd-analyze")
def test_the_units_are_valid_and_the_service_is_confined(tmp_path):
    here = {"/srv/shop/.venv/bin/kacore": "/bin/true", "User=shop": "User=daemon", "Group=shop": "Group=daemon"}
    (tmp_path / "shop.service").write_text(text_of("shop.service", here))
    (tmp_path / "shop.socket").write_text(text_of("shop.socket"))
    units = [str(tmp_path / "shop.service"), str(tmp_path / "shop.socket")]
    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    ours = [line for line in verified.stderr.splitlines() if "shop." in line]
    assert ours == [], verified.stderr
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", units[0]], capture_output=True, text=True
    )
    level = float(re.search(r"Overall exposure level for shop.service: ([\d.]+)", rated.stdout)[1])
    assert level <= 1.5, rated.stdout


def test_the_command_of_the_service_is_one_and_its_times_go_together():
    values = dict(unit_values("shop.service"))
    words = shlex.split(values["ExecStart"])
    args = make_parser().parse_args(words[1:])
    assert (args.app, args.workers) == ("shop:app", "auto")
    from kacore import Policy
    from kacore.server.supervisor import KILL_AFTER_DRAIN

    policy = Policy()
    assert int(values["TimeoutStopSec"]) >= policy.drain_lame_duck + policy.drain_timeout + KILL_AFTER_DRAIN
    assert int(values["LimitNOFILE"]) >= policy.max_connections + 64
    assert values["KillMode"] == "mixed" and values["Type"] == "notify"
    assert dict(unit_values("shop.socket"))["Backlog"] == "4096"


# -- containers -------------------------------------------------------------------------------------------------------


def instruction(name):
    (found,) = re.findall(rf"^{name} (.*)$", text_of("Dockerfile"), re.MULTILINE)
    return found


def test_the_image_runs_as_nobody_special_and_its_health_check_asks_a_server_that_answers(serve, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    command = json.loads(instruction("CMD"))
    args = make_parser().parse_args(command[1:])
    assert (args.app, args.host, args.port, args.admin) == ("shop:app", "0.0.0.0", "8000", "9000")
    assert instruction("USER").isdigit() and int(instruction("USER")) > 0
    backend = serve("app:app", "--admin", "0")
    admin = re.search(r"admin on port (\d+)", backend.text)[1]
    check = json.loads(instruction("HEALTHCHECK").partition("CMD ")[2])
    code = check[2].replace("9000", admin)
    assert check[:2] == ["python", "-c"]
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    backend.stop()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode != 0


@pytest.mark.needs("module:kubernetes_validate", "module:yaml")
def test_the_manifests_are_valid_and_their_parts_go_together(need):
    yaml, validate = need("module:yaml"), need("module:kubernetes_validate")
    documents = {one["kind"]: one for one in yaml.safe_load_all(text_of("kubernetes.yaml"))}
    for one in documents.values():
        validate.validate(one, validate.latest_version(), strict=True)
    pod = documents["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    args = make_parser().parse_args(container["args"][1:])
    assert (args.app, args.port) == ("shop:app", "8000")
    env = {one["name"]: one["value"] for one in container["env"]}
    from kacore.cli.configuration import Configuration

    found = Configuration(make_parser().parse_args(["serve", "--config", "/dev/null"]), env)
    policy = found.policies.default
    assert found.options.admin == "0.0.0.0:9000" and found.strange == {}
    assert pod["spec"]["terminationGracePeriodSeconds"] >= policy.drain_lame_duck + policy.drain_timeout + 10
    ready = container["readinessProbe"]
    assert policy.drain_lame_duck > ready["periodSeconds"] * ready["failureThreshold"]
    assert policy.worst_case_bytes() < 1536 << 20
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert ports == {"http": 8000, "admin": 9000}
    labels = pod["metadata"]["labels"]
    assert documents["Service"]["spec"]["selector"] == labels
    assert documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert documents["Service"]["metadata"]["name"] != "kacore"


# -- watching ---------------------------------------------------------------------------------------------------------


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("command", ["check config prometheus.yml", "check rules alerts.yml", "test rules alerts_test.yml"])
def test_prometheus_accepts_the_files_and_the_alerts_fire_when_they_should(command):
    done = subprocess.run(["promtool", *command.split()], cwd=DEPLOY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs("module:prometheus_client")
def test_alerts_and_the_dashboard_name_metrics_and_causes_that_there_are(serve, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    backend = serve("app:app", "--admin", "0", "--workers", "1")
    admin = re.search(r"admin on port (\d+)", backend.text)[1]
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=20) as response:
        metrics = response.read().decode()
    known = set(re.findall(r"^(kacore_\w+?)(?:\{| )", metrics, re.MULTILINE))
    known |= {f"kacore_{metric.name}_total" for metric in METRICS if metric.name.startswith("tls_")}  # only there with TLS
    causes = set(re.findall(r'cause="(\w+)"', metrics))
    dashboard = json.loads(text_of("grafana/kacore.json"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions += re.findall(r"^ +expr: (.*(?:\n {10}.*)*)", text_of("alerts.yml"), re.MULTILINE)
    named = set(re.findall(r"kacore_\w+", " ".join(expressions)))
    assert len(named) > 8
    assert named <= known
    said = {cause for words in re.findall(r'cause=~?"([\w|]+)"', " ".join(expressions)) for cause in words.split("|")}
    assert said and said <= causes
    assert len({panel["title"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
