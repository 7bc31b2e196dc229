"""The admin listener: health, readiness, metrics and connections of a server, on a table of its own."""

import json
import socket
import sys
import threading

import pytest

from kacore import Policy
from kacore.server import UsageError
from kacore.server.admin import parse_admin


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
    assert ask(port, "/")[0] == 404
    assert ask(port, "/healthz", method="POST")[0] == 405
    assert ask(port, "/healthz", method="HEAD")[::2] == (200, b"")


def test_it_answers_while_the_server_is_full(served, client):
    running = served(policy=Policy(max_connections=1))
    c = client(running).send("G")  # a head that does not end
    running.ask(lambda: None)
    assert ask(running.server.admin_port, "/readyz")[0] == 200
    c.send("ET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert c.response().status == 200


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
