"""`kacore serve`: mistakes of the user, real clients, signals."""

import asyncio
import contextlib
import http.client
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest

from kacore import cli
from kacore.server import logs
from tests.wire.conftest import wait_until

APP = """
import asyncio, os, time

def app(request):
    return b"hello " + request.path.encode()

async def slow(request):
    print("waits", flush=True)
    while not os.path.exists("go"):
        await asyncio.sleep(0.005)
    return b"slow"

async def soon(request):
    await asyncio.sleep(0.1)
    return b"soon"

def make():
    return app

def create_app(settings):
    return app

not_callable = 5
"""


@pytest.fixture
def app(tmp_path):
    (tmp_path / "app.py").write_text(APP)


# --- what can hardly be meant --------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_the_log_says_which_limits_and_rules_can_have_no_effect(app, serve, tmp_path, workers):
    (tmp_path / "kacore.toml").write_text('[policy.listener.":1"]\nkeep_alive = false\n[policy]\nmax_header_bytes = 65536\n')
    child = serve("app:app", *workers)
    child.wait_for("max_header_bytes=65536 is never reached: a whole head has max_head_bytes=32768, raise it too")
    child.wait_for(r"rule .kacore.toml .policy.listener.\W:1\W.. holds for nobody: nothing listens there")
    assert child.stop() == 0
    assert child.text.count("holds for nobody") == 1


# --- mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere:app"], ["no module 'nowhere'"]),
        (["app:nothing"], ["'app' has no 'nothing'"]),
        (["app:"], ["'app:'"]),
        ([":app"], ["':app'"]),
        (["app:not_callable"], ["not callable"]),
        (["app:app", "--keep-alive-timeout", "-1"], ["keep.alive.timeout", "-1"]),
        (["app:app", "--keep-alive-timeout", "soon"], ["keep.alive.timeout", "soon"]),
        (["app:app", "--max-connections", "0"], ["max.connections", "0"]),
        (["app:app", "--port", "99999"], ["99999"]),
        (["app:app", "--port", "http"], ["port", "http"]),
        (["app:app", "--host", "no.such.host.invalid"], ["no.such.host.invalid"]),
        (["app:app", "--host", "192.0.2.1"], ["192.0.2.1"]),
        (["app:app", "--uds", "/no/such/directory/socket"], ["/no/such/directory/socket"]),
        (["app:app", "--config", "missing.toml"], ["missing.toml"]),
        (["app:app", "--interface", "cgi"], ["cgi"]),
        (["app:app", "--app-dir", "/nowhere"], ["app_dir='/nowhere'", "is not a directory"]),
        (["app:app", "--reload", "--reload-dir", "/nowhere"], ["reload_dir='/nowhere'", "is not a directory"]),
        (["app:app", "--keepalive-timeout", "5"], ["no option --keepalive-timeout", "did you mean --keep-alive-timeout"]),
        (["app:app", "--server-name", "a\r\nb"], ["server.name"]),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_status_2(launch, app, arguments, words):
    import re

    where = [] if "--port" in arguments else ["--port", "0"]
    child = launch("-m", "kacore", "serve", *arguments, *where)
    assert child.wait() == 2, child.text
    line = child.text.rstrip("\n").rsplit("\n", 1)[-1]
    assert "Traceback" not in child.text
    for word in words:
        assert re.search(word, line), child.text
    assert child.text.count("\n") == 1, child.text


@pytest.mark.parametrize(("arguments", "words"), [
    (["app.py:app"], ["no module 'app.py'", "app:app"]),
    (["./app:app"], ["no module", "app:app"]),
    (["app:make"], ["--factory"]),
    (["app:app", "--factory"], ["app"]),
    (["app:app", "--timeout-keep-alive", "-5"], ["--keep-alive-timeout"]),
    (["--max-requests=many", "app:app"], ["--max-requests-per-worker", "many"]),
    (["app:app", "-k", "sync"], ["-k", "--interface"]),
    (["app:app", "--timeout", "30"], ["--worker-timeout", "--handler-timeout"]),
    (["app:app", "--workers", "many"], ["workers='many'", "between 1 and 512, or auto"]),
    (["app:app", "--log-level", "loud"], ["log_level='loud'", "trace, debug, info, warning, error, critical"]),
    (["app:create_app"], ["factory", "settings"]),
    (["app:app", "--keep-alive-time", "5"], ["--keep-alive-time"]),
    (["app:app", "--nonsense"], ["--nonsense"]),
    (["app:app", "--header", "X-A"], ["X-A", "NAME:VALUE"]),
    (["app:app", "--header", "Connection: close"], ["Connection: close", "set by the server itself"]),
    (["app:app", "--header", "X A: b"], ["X A: b", "token"]),
    (["app:app", "--header", "X-A: " + "b" * 9000], ["8192"]),
    (["app:app", "--backlog", "0"], ["backlog=0"]),
    (["app:app", "--uds", "s", "--uds-mode", "rw"], ["rw", "octal"]),
    (["app:app", "--uds", "s", "--uds-mode", "7777"], ["7777"]),
    (["app:app", "--root-path", "api"], ["root_path", "api"]),
    (["app:app", "--root-path", "/api/"], ["root_path", "/api/"]),
    (["app:app", "--ws-max-size", "0"], ["ws_max_size=0"]),
    (["app:app", "--ws-ping-timeout", "-1"], ["ws_ping_timeout=-1"]),
    (["app:app", "--log-config", "missing.toml"], ["missing.toml"]),
    (["app:app", "--log-config", "app.py"], ["app.py"]),
    (["app:app", "--log-config", "log.yaml"], ["log.yaml", "YAML"]),
    (["app:app", "--pid", "/no/such/directory/pid"], ["/no/such/directory/pid"]),
    (["app:app", "--ssl-certfile", "app.py", "--ssl-ciphers", "NONSENSE"], ["NONSENSE"]),
])  # fmt: skip
def test_a_mistake_names_the_value_and_the_rule(app, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(logs, "set_up", lambda *_: None)
    monkeypatch.delitem(sys.modules, "app", raising=False)
    with contextlib.suppress(SystemExit):
        assert cli.main(["serve", *arguments, "--port", "0"]) == 2
    monkeypatch.delitem(sys.modules, "app", raising=False)
    line = capsys.readouterr().err
    assert line.startswith("kacore: ") and line.count("\n") == 1
    for word in words:
        assert word in line


def test_a_port_in_use_is_one_clear_line(launch, app):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        child = launch("-m", "kacore", "serve", "app:app", "--port", str(port))
        assert child.wait() == 2
    assert child.text == f"kacore: cannot listen on 127.0.0.1 port {port}: Address already in use\n"


# --- real clients -------------------------------------------------------------------------------------------


def test_curl_asks_twice_over_one_connection(serve, app, need):
    server = serve("app:app")
    done = subprocess.run(
        [need("curl"), "-sv", f"{server.url}/one", f"{server.url}/two"], capture_output=True, text=True, timeout=20
    )
    assert done.stdout == "hello /onehello /two"
    assert done.stderr.count("Re-using existing connection") == 1
    assert done.stderr.count("Connected to ") == 1


def test_http_client_reuses_its_connection(serve, app):
    server = serve("app:app", "--max-keep-alive-requests", "3")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    said = []
    for _ in range(3):
        connection.request("GET", "/x")
        response = connection.getresponse()
        assert response.read() == b"hello /x"
        said.append((response.getheader("Connection"), response.getheader("Keep-Alive"), response.will_close))
    connection.close()
    assert said == [
        ("keep-alive", "timeout=74, max=2", False),
        ("keep-alive", "timeout=74, max=1", False),
        ("close", None, True),
    ]


@pytest.mark.needs("module:httpx")
def test_httpx_reuses_its_connection(serve, app):
    import httpx

    server = serve("app:app")
    with httpx.Client(base_url=server.url) as client:
        streams = set()
        for _ in range(3):
            response = client.get("/x")
            assert response.text == "hello /x"
            streams.add(response.extensions["network_stream"].get_extra_info("client_addr"))
        assert len(streams) == 1
        assert client.post("/y", content=iter([b"a", b"b"])).text == "hello /y"


@pytest.mark.needs("module:aiohttp")
def test_aiohttp_reuses_its_connections(serve, app):
    import aiohttp

    server = serve("app:soon")

    async def ask():
        made = 0

        async def count(*_):
            nonlocal made
            made += 1

        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(count)
        connector = aiohttp.TCPConnector(limit=4)
        async with aiohttp.ClientSession(server.url, connector=connector, trace_configs=[trace]) as session:

            async def one(path):
                async with session.get(path) as response:
                    return await response.text()

            texts = await asyncio.gather(*(one(f"/{i}") for i in range(8)))
        return texts, made

    texts, made = asyncio.run(ask())
    assert texts == ["soon"] * 8
    assert made == 4


def test_a_server_starts_without_what_only_some_clients_ask_for(serve, tmp_path, client):
    (tmp_path / "which.py").write_text(
        "import sys\n"
        "async def app(scope, receive, send):\n"
        "    there = {'websockets', 'kacore.server.websocket', 'kacore.server.admin'} & set(sys.modules)\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': repr(sorted(there)).encode()})\n"
    )
    assert client(serve("which:app", "--lifespan", "off")).get().body == b"[]"


def test_a_unix_socket_serves_and_is_removed(launch, app, tmp_path):
    path = tmp_path / "s"
    child = launch("-m", "kacore", "serve", "app:app", "--uds", str(path), "--uds-mode", "640", ready="unix:")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.settimeout(10)
        sock.sendall(b"GET /u HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        text = b""
        while data := sock.recv(4096):
            text += data
    assert text.endswith(b"hello /u")
    assert child.stop() == 0
    assert not path.exists()


# --- what is said with every response, and where it is written --------------------------------------------------


def test_fields_of_every_response_are_those_of_the_command_line(serve, app, client):
    says = ("--header", "X-One: 1", "--header", "x-two:", "--no-server-header", "--no-date-header")
    server = serve("app:make", "--factory", *says)
    c = client(server)
    for send, status in (("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200), ("nonsense\r\n\r\n", 400)):
        response = c.send(send).response()
        assert response.status == status
        fields = [name for name, _ in response.fields]
        assert (response.get("x-one"), response.get("x-two")) == ("1", "")
        assert not {"date", "server"} & set(fields)


def test_a_process_id_is_written_while_the_server_runs(serve, app, tmp_path):
    for processes in ((), ("--workers", "2")):
        server = serve("app:app", "--pid", "pid", *processes)
        assert (tmp_path / "pid").read_text() == f"{server.pid}\n"
        assert server.stop() == 0
        assert not (tmp_path / "pid").exists()


LOG_CONFIGS = {
    "log.json": '{"version": 1, "handlers": {"out": {"class": "logging.FileHandler", "filename": "log"}},'
    ' "root": {"handlers": ["out"], "level": "INFO"}}',
    "log.toml": 'version = 1\nroot = {handlers = ["out"], level = "INFO"}\n'
    '[handlers.out]\nclass = "logging.FileHandler"\nfilename = "log"\n',
    "log.ini": "[loggers]\nkeys=root\n[handlers]\nkeys=out\n[formatters]\nkeys=\n[logger_root]\nhandlers=out\nlevel=INFO\n"
    "[handler_out]\nclass=FileHandler\nargs=('log',)\n",
}


@pytest.mark.parametrize("name", LOG_CONFIGS)
def test_logs_go_where_the_configuration_says(launch, app, tmp_path, name):
    (tmp_path / name).write_text(LOG_CONFIGS[name])
    child = launch("-m", "kacore", "serve", "app:app", "--port", "0", "--log-config", name, "--access-log", "common")
    wait_until(lambda: (tmp_path / "log").exists() and "serves" in (tmp_path / "log").read_text(), "it serves")
    port = (tmp_path / "log").read_text().partition("http://127.0.0.1:")[2].partition(" ")[0]
    with socket.create_connection(("127.0.0.1", int(port)), timeout=5) as sock:
        sock.sendall(b"GET /logged HTTP/1.0\r\n\r\n")
        assert sock.recv(4096)
    assert child.stop() == 0
    assert "GET /logged" in (tmp_path / "log").read_text()
    assert child.text == ""


# --- signals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_an_idle_server_with_status_0(serve, app, number):
    server = serve("app:app")
    assert server.stop(number) == 0, server.text
    assert "Traceback" not in server.text


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_drain_answers_idle_connections_within_the_grace_and_says_close(serve, app, client, loop):
    server = serve("app:app", "--drain-grace", "20", "--loop", loop)
    c = client(server)
    c.get()
    other = client(server)
    other.get()
    server.send_signal(signal.SIGTERM)
    for one in (c, other):
        while (response := one.get("/late")).get("connection") != "close":
            pass  # it has not seen the signal yet
        assert (response.body, response.get("keep-alive")) == (b"hello /late", None)
        assert one.is_closed()
    assert server.wait() == 0


def is_refused(server):
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=20).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_drain_finishes_what_is_in_progress(serve, app, client, tmp_path):
    server = serve("app:slow", "--drain-grace", "0")
    c = client(server).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
    server.wait_for("waits")
    server.send_signal(signal.SIGTERM)
    wait_until(lambda: is_refused(server), "the drain has begun")
    (tmp_path / "go").touch()
    response = c.response()
    assert (response.body, response.get("connection")) == (b"slow", "close")
    assert c.is_closed()
    assert server.wait() == 0


def test_a_drain_refuses_newcomers_and_closes_the_idle_after_the_grace(serve, app, client):
    server = serve("app:app", "--drain-grace", "0.2", "--drain-spread", "0.1")
    c = client(server)
    c.get()
    began = time.monotonic()
    server.send_signal(signal.SIGTERM)
    assert c.is_closed()
    assert time.monotonic() - began >= 0.2
    assert server.wait() == 0
    with pytest.raises(ConnectionRefusedError):
        client(server)


def test_a_drain_does_not_wait_for_who_lingers(serve, app, client):
    server = serve("app:app", "--drain-grace", "0", "--drain-spread", "0", "--linger-timeout", "30")
    c = client(server).send("rubbish\r\n\r\n")
    assert c.response().status == 400
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 20


def test_a_second_signal_ends_at_once(serve, app, client):
    server = serve("app:app", "--drain-grace", "60", "--drain-timeout", "60")
    c = client(server)
    c.get()
    server.send_signal(signal.SIGTERM)
    wait_until(lambda: is_refused(server), "the first signal was heard")
    assert server.process.poll() is None
    assert server.stop() == 0


def test_a_drain_ends_at_its_deadline(serve, app, client):
    server = serve("app:slow", "--drain-timeout", "0.1")
    c = client(server).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    server.wait_for("waits")
    assert server.stop() == 0
    assert b"200 OK" not in c.rest()


# --- where values come from ---------------------------------------------------------------------------------------


GREETS = """
import os
GREETING = os.environ["GREETING"]

def app(request):
    return GREETING.encode()
"""


def test_an_env_file_has_options_and_what_the_application_looks_for_when_it_is_imported(serve, tmp_path, client):
    (tmp_path / "greets.py").write_text(GREETS)
    (tmp_path / "env").write_text("GREETING=hello\nKACORE_SERVER_NAME=named\n")
    (tmp_path / "kacore.toml").write_text("[serve]\napp = 'greets:app'\nserver_name = 'other'\nheaders = ['X-A: b']\n")
    response = client(serve("--env-file", "env")).get()
    assert (response.body, response.get("server"), response.get("x-a")) == (b"hello", "named", "b")


def test_a_new_worker_reads_all_files_anew(serve, tmp_path, client):
    (tmp_path / "greets.py").write_text(GREETS)
    (tmp_path / "env").write_text("GREETING=old\n")
    (tmp_path / "kacore.toml").write_text("[serve]\nserver_name = 'old'\n")
    server = serve("greets:app", "--workers", "1", "--env-file", "env")

    def says():
        response = client(server).get()
        return response.body, response.get("server")

    assert says() == (b"old", "old")
    (tmp_path / "env").write_text("GREETING=new\n")
    (tmp_path / "kacore.toml").write_text("[serve]\nserver_name = 'new'\n")
    server.send_signal(signal.SIGHUP)
    wait_until(lambda: says() == (b"new", "new"), "the new worker serves")
    assert server.stop() == 0
