"""The admin listener: health, readiness, metrics and connections of a server, on a table of its own."""

import contextlib
import gzip
import json
import socket
import sys
import threading

import pytest

from kacore import Policy
from kacore.server import UsageError
from kacore.server.admin import parse_admin
from tests.wire.conftest import wait_until


def ok(request):
    return b"ok"


def ask(port, target, host="127.0.0.1", method="GET"):
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while data := sock.recv(65536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
    return int(head[9:12]), fields, body


@pytest.fixture
def served(start):
    return lambda app=ok, **options: start(app, admin="0", **options)


def test_healthz_and_readyz_answer_while_serving(served):
    port = served().server.admin_port
    assert ask(port, "/healthz")[::2] == (200, b"ok\n")
    assert ask(port, "/readyz")[::2] == (200, b"ready\n")


def test_readyz_is_503_as_soon_as_a_drain_begins_and_healthz_stays(served, client):
    entered, leave = threading.Event(), threading.Event()

    def slow(environ, start_response):
        entered.set()
        leave.wait(20)
        start_response("200 OK", [])
        return [b"done"]

    running = served(slow, policy=Policy(drain_timeout=20.0))
    c = client(running).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert entered.wait(20)
    running.ask(running.server.shutdown)
    port = running.server.admin_port
    assert ask(port, "/readyz")[::2] == (503, b"not ready\n")
    assert ask(port, "/healthz")[0] == 200
    leave.set()
    assert c.response().body == b"done"


def test_metrics_are_what_prometheus_reads(need, served, client):
    parser = need("module:prometheus_client.parser")
    running = served()
    c = client(running)
    for _ in range(3):
        c.get()
    client(running).get("/", "Connection: close")
    running.check()
    status, fields, text = ask(running.server.admin_port, "/metrics")
    assert status == 200
    assert fields["content-type"].startswith("text/plain; version=")
    found = {}
    for family in parser.text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found[sample.name, *sample.labels.values()] = sample.value
    assert found["kacore_accepted_total",] == 2
    assert found["kacore_requests_total",] == 4
    assert found["kacore_reused_total",] == 2
    assert found["kacore_connections_closed_total", "client"] == 1
    assert found["kacore_connections_open",] == found["kacore_connections", "idle"] == 1
    assert found["kacore_ready",] == 1
    assert found["kacore_connections_max",] == running.server.policy.max_connections
    assert found["kacore_requests_per_connection_bucket", "0.0"] == 0
    assert found["kacore_requests_per_connection_bucket", "1.0"] == 1
    assert found["kacore_requests_per_connection_bucket", "+Inf"] == 1
    assert found["kacore_idle_gap_seconds_bucket", "+Inf"] == 2


def test_metrics_without_prometheus_client_say_what_to_install(served, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    status, _, text = ask(served().server.admin_port, "/metrics")
    assert (status, text) == (501, b"metrics need prometheus_client: pip install kacore[metrics]\n")


def test_connections_lists_them_and_says_when_it_is_cut(served, client, monkeypatch):
    running = served()
    clients = [client(running) for _ in range(3)]
    for c in clients:
        c.get()
    clients[0].get()
    port = running.server.admin_port
    listed = json.loads(ask(port, "/connections")[2])
    assert (listed["open"], listed["is_cut"], listed["phases"]["idle"]) == (3, False, 3)
    by_port = {one["client"][1]: one for one in listed["connections"]}
    first = by_port[clients[0].sock.getsockname()[1]]
    assert (first["phase"], first["class"], first["requests"], first["client"][0]) == ("idle", 0, 2, "127.0.0.1")
    monkeypatch.setattr("kacore.server.admin.MAX_LISTED", 2)
    cut = json.loads(ask(port, "/connections")[2])
    assert (cut["open"], cut["is_cut"], len(cut["connections"])) == (3, True, 2)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:9000", "localhost", "LocalHost:1", "[::1]:80", "10.1.2.3"])
def test_addresses_and_localhost_are_good_hosts(served, host):
    assert ask(served().server.admin_port, "/healthz", host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9000", "localhost.evil.example", "127.0.0.1.evil"])
def test_other_hosts_are_refused_so_that_no_page_can_be_rebound_to_us(served, host):
    assert ask(served().server.admin_port, "/connections", host)[0] == 421


def test_names_that_were_given_are_good_hosts_too(served):
    port = served(admin_hosts=["kacore.internal"]).server.admin_port
    assert ask(port, "/healthz", "Kacore.Internal:9000")[0] == 200


def test_other_paths_and_methods_are_refused(served):
    port = served().server.admin_port
    assert ask(port, "/favicon.ico")[0] == 404
    assert ask(port, "/healthz", method="POST")[0] == 405
    assert ask(port, "/healthz", method="HEAD")[::2] == (200, b"")


def test_it_answers_while_the_server_is_full(served, client):
    running = served(policy=Policy(max_connections=1))
    c = client(running).send("G")  # a head that does not end
    running.ask(lambda: None)
    assert ask(running.server.admin_port, "/readyz")[0] == 200
    c.send("ET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert c.response().status == 200


def test_every_address_of_a_name_is_served(start, monkeypatch):
    here = ("127.0.0.1", "127.0.0.2")
    monkeypatch.setattr("kacore.server.listening.resolve", lambda _, port: [(socket.AF_INET, (ip, port)) for ip in here])
    port = start(ok, admin="localhost:0").server.admin_port
    for address in here:
        with socket.create_connection((address, port), 10) as sock:
            sock.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")


def test_requests_to_it_are_not_counted_as_the_servers(served):
    running = served()
    ask(running.server.admin_port, "/healthz")
    assert running.stats()["requests"] == 0


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9000", ("127.0.0.1", 9000)),
        (":9000", ("127.0.0.1", 9000)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:2", ("::1", 2)),
    ],
)
def test_address_is_loopback_unless_said_otherwise(text, address):
    assert parse_admin(text) == address


@pytest.mark.parametrize("text", ["", "x", "127.0.0.1", "127.0.0.1:99999", "unix:/run/x", "::1:9000"])
def test_what_is_no_address_is_a_usage_error(text):
    with pytest.raises(UsageError):
        parse_admin(text)


def test_serve_names_the_admin_port_and_ends_with_it(serve, tmp_path):
    (tmp_path / "app.py").write_text("def handler(request): return b'hi'\n")
    server = serve("app:handler", "--admin", "0")
    port = int(server.wait_for(r"admin on port (\d+)")[1])
    assert ask(port, "/readyz")[0] == 200
    assert server.stop() == 0
    with pytest.raises(ConnectionRefusedError):
        ask(port, "/readyz")


# --- who asks without a Host ---------------------------------------------------------------------------------------------


def say(port, text):
    """Status, fields and content of the answer to these very bytes."""
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(text.encode())
        answer = b""
        while data := sock.recv(65536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head[9:12]), head.lower(), body


@pytest.mark.parametrize(
    "head",
    [
        "OPTIONS / HTTP/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.0\r\n\r\n",
        "OPTIONS /readyz HTTP/1.0\r\n\r\n",
        "HEAD /readyz HTTP/1.0\r\n\r\n",
        "GET /readyz HTTP/1.0\r\n\r\n",
        "GET /healthz HTTP/1.0\r\n\r\n",
        "OPTIONS /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
)
def test_health_checks_that_name_no_host_are_answered(served, head):
    assert say(served().server.admin_port, head)[0] == 200


HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend in
  bind 127.0.0.1:{front}
  default_backend kacore
backend kacore
  {check}
  server one 127.0.0.1:{port} check port {admin} inter 50ms fall 1 rise 1
"""


@pytest.mark.needs("haproxy")
@pytest.mark.parametrize("check", ["option httpchk", "option httpchk /readyz", "option httpchk GET /readyz"])
def test_haproxy_keeps_a_server_that_is_ready_in_its_backend(served, launch, free_port, tmp_path, check):
    running = served()
    front = free_port()
    text = HAPROXY.format(front=front, port=running.port, admin=running.server.admin_port, check=check)
    (tmp_path / "haproxy.cfg").write_text(text)
    launch("haproxy", "-db", "-f", "haproxy.cfg", python=False)
    wait_until(lambda: running.ask(lambda: running.server._admin._server.table.stats()["requests"]) >= 3, "it was checked")
    with socket.create_connection(("127.0.0.1", front), 10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 200")


# --- formats of /metrics ---------------------------------------------------------------------------------------------------


def test_metrics_are_in_the_format_that_the_client_accepts(need, served):
    parser = need("module:prometheus_client.openmetrics.parser")
    port = served().server.admin_port
    head = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    _, fields, text = say(port, head + "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n\r\n")
    assert b"content-type: application/openmetrics-text; version=1.0.0" in fields
    assert {family.name for family in parser.text_string_to_metric_families(text.decode())} >= {"kacore_accepted"}
    for accept in ("text/plain", "*/*", "text/plain;version=x"):
        _, fields, text = say(port, f"{head}Accept: {accept}\r\n\r\n")
        assert b"content-type: text/plain; version=" in fields
        assert b"# EOF" not in text


@pytest.mark.needs("module:prometheus_client")
@pytest.mark.parametrize(
    ("encoding", "is_gzip"),
    [("gzip", True), ("br, GZIP;q=0.5", True), ("gzip;q=0", False), ("gzip; q=0.00", False), ("deflate", False), ("", False)],
)
def test_metrics_are_compressed_for_who_takes_it(served, encoding, is_gzip):
    head = f"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept-Encoding: {encoding}\r\n\r\n"
    status, fields, text = say(served().server.admin_port, head)
    assert (status, b"content-encoding: gzip" in fields) == (200, is_gzip)
    assert b"vary: accept, accept-encoding" in fields
    assert b"kacore_accepted_total" in (gzip.decompress(text) if is_gzip else text)


# --- hostile clients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n", 405),
        ("POST /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", 405),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n", 405),
        ("POST /healthz HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 100\r\n\r\n", 421),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n", 413),
        ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
        ("OPTIONS / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n", 413),
    ],
)
def test_what_is_refused_is_refused_by_its_head_and_closes(served, head, status):
    """No content comes, and the answer does, with its end."""
    said, fields, _ = say(served().server.admin_port, head)
    assert (said, b"connection: close" in fields) == (status, True)


LOCAL = "Host: localhost\r\n"
CROWDS = {
    "slow heads": f"GET /healthz HTTP/1.1\r\n{LOCAL}X: ",
    "silent": "",
    "idle": f"GET /healthz HTTP/1.1\r\n{LOCAL}\r\n",
    "slow content": f"POST /healthz HTTP/1.1\r\n{LOCAL}Content-Length: 100\r\n\r\n",
    "slow chunks": f"GET /healthz HTTP/1.1\r\n{LOCAL}Transfer-Encoding: chunked\r\n\r\n",
    "who reads no metrics": f"GET /metrics HTTP/1.1\r\n{LOCAL}\r\n" * 200,
    "who reads no connections": f"GET /connections HTTP/1.1\r\n{LOCAL}\r\n" * 200,
    "who watches and reads nothing": f"GET /events?page HTTP/1.1\r\n{LOCAL}\r\n",
    "who reads no page": f"GET / HTTP/1.1\r\n{LOCAL}\r\n" * 200,
    "who reads no health": f"GET /healthz HTTP/1.1\r\n{LOCAL}\r\n" * 1000,
}


def crowd(stack, port, text, n):
    for _ in range(n):
        sock = stack.enter_context(contextlib.closing(socket.socket()))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(20)
        sock.connect(("127.0.0.1", port))
        with contextlib.suppress(OSError):  # some are closed before they have said all
            sock.setblocking(False)
            sock.send(text.encode())


@pytest.mark.parametrize("who", CROWDS)
def test_a_probe_is_answered_beside_more_hostile_clients_than_there_are_places(served, client, who):
    running = served()
    with contextlib.ExitStack() as stack:
        for c in [client(running) for _ in range(50)] if who == "who reads no connections" else ():
            c.get()
        for _ in range(3):
            crowd(stack, running.server.admin_port, CROWDS[who], 50)
            assert ask(running.server.admin_port, "/healthz")[0] == 200


@pytest.mark.skipif(not hasattr(socket, "TCP_DEFER_ACCEPT"), reason="this system cannot leave the silent to the kernel")
def test_a_probe_is_not_closed_between_its_handshake_and_its_request(served):
    port = served().server.admin_port
    with contextlib.ExitStack() as stack:
        crowd(stack, port, CROWDS["slow heads"], 70)
        assert ask(port, "/healthz")[0] == 200  # they are all there
        probe = stack.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", port), 20)))
        crowd(stack, port, CROWDS["slow heads"], 5)
        assert ask(port, "/healthz")[0] == 200
        probe.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert probe.recv(4096).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("who", ["slow content", "who reads no metrics"])
def test_a_probe_is_answered_with_workers_too(serve, tmp_path, free_port, who):
    (tmp_path / "app.py").write_text("def app(request): return b''\n")
    port = free_port()
    serve("app:app", "--workers", "2", "--admin", str(port), ready="serves")
    with contextlib.ExitStack() as stack:
        crowd(stack, port, CROWDS[who], 200)
        for _ in range(4):
            assert ask(port, "/readyz")[0] == 200


def test_long_answers_are_made_anew_a_few_times_a_second_only(served, monkeypatch):
    running = served()
    made = []
    monkeypatch.setattr(running.server, "connections", lambda limit: made.append(limit) or [])
    monkeypatch.setattr("kacore.server.admin.FRESH_PER_SECOND", 0.0)
    answers = {ask(running.server.admin_port, "/connections")[0] for _ in range(30)}
    assert (answers, len(made)) == ({200}, 20)
    assert ask(running.server.admin_port, "/metrics")[0] in (501, 503)  # there is no last one
    assert ask(running.server.admin_port, "/healthz")[0] == 200
