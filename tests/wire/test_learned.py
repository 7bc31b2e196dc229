"""What a server learns of idle timeouts: told, shown, and kept for whoever serves next."""

import json
import logging
import signal
import socket
import urllib.request

import pytest
from hammering import APPLICATION

import kacore
from tests.wire.conftest import wait_until
from tests.wire.test_admin import ask

# Of one second and a thousand the rung above five seconds is one of six: a promise of five. No spare room.
QUICK = {"keep_alive_min": 1.0, "keep_alive_max": 1000.0, "pressure_start": 0.0, "pressure_full": 1e-9}


def ok(request):
    return b"ok"


def visits(client, running, n=3):
    """As many connections, each closed by the client when it is idle."""
    for _ in range(n):
        before = running.stats()["closed"]["client"]
        c = client(running)
        assert c.get().status == 200
        c.sock.close()
        wait_until(lambda before=before: running.stats()["closed"]["client"] == before + 1)


def test_who_closes_first_is_told_and_shown_and_promised_more(start, client, caplog, need):
    caplog.set_level(logging.INFO, "kacore.error")
    running = start(ok, policy=kacore.Policy(**QUICK), admin="0", forwarded_allow_ips="127.0.0.1")
    assert client(running).get().get("keep-alive") is None  # a second less a second is no promise
    visits(client, running)
    assert client(running).get().get("keep-alive") == "timeout=5"
    _, _, body = ask(running.server.admin_port, "/connections")
    shown = json.loads(body)
    (learned,) = shown["learned"]
    assert (learned["network"], learned["proxy"], learned["settled"]) == ("127.0.0.1", True, True)
    assert learned["closed_by_them"] == 3
    assert learned["kept_for"] >= 5.0  # and a quarter more than it took
    assert {one["kept_for"] for one in shown["connections"]} == {learned["kept_for"]}
    assert "127.0.0.1 closes idle connections after 0.0 s: kept for" in caplog.text
    need("module:prometheus_client")
    _, _, body = ask(running.server.admin_port, "/metrics")
    assert f'kacore_proxy_kept_seconds{{proxy="127.0.0.1"}} {learned["kept_for"]}' in body.decode()


def test_a_number_is_that_number_and_nothing_is_learned(start, client):
    running = start(ok, policy=kacore.Policy(**{**QUICK, "keep_alive_timeout": 31.0}), admin="0")
    visits(client, running)
    assert client(running).get().get("keep-alive") == "timeout=30"
    shown = json.loads(ask(running.server.admin_port, "/connections")[2])
    assert shown["learned"] == []
    assert [one["kept_for"] for one in shown["connections"]] == [31.0]


def test_idle_connections_stay_for_longer_than_the_least_while_there_is_room(start, client):
    running = start(ok, policy=kacore.Policy(keep_alive_min=0.01, max_connections=10))
    c = client(running)
    assert c.get().status == 200
    running.ask(lambda: None)
    due = running.ask(running.table.next_due)
    assert due - running.ask(running.loop.time) > 3000


def test_unix_sockets_are_one_network(start, tmp_path):
    path = tmp_path / "app.sock"
    running = start(ok, policy=kacore.Policy(**QUICK), uds=str(path))
    for n in range(3):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
        wait_until(lambda n=n: running.stats()["closed"]["client"] == n + 1)
    (learned,) = running.ask(running.server.learned)
    assert (learned["network"], learned["closed_by_them"]) == ("unix", 3)


# -- from one process to the next --


@pytest.fixture
def serves(serve, tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    said = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    return lambda *arguments: serve("app:app", *said, "--forwarded-allow-ips", "127.0.0.1", *arguments)


def body_of(server):
    with urllib.request.urlopen(server.url, timeout=15) as response:
        return response.read()


def closes_first(server, n=3):
    for _ in range(n):
        with socket.create_connection(("127.0.0.1", server.port), 15) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert sock.recv(65536)


def asks(server):
    """What a connection is promised that is kept."""
    with socket.create_connection(("127.0.0.1", server.port), 15) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        head = sock.recv(65536).partition(b"\r\n\r\n")[0].decode().lower()
    return next((line for line in head.split("\r\n") if line.startswith("keep-alive:")), None)


def test_a_file_keeps_it_from_one_start_to_the_next(serves, tmp_path):
    file = tmp_path / "learned"
    server = serves("--learned", str(file))
    closes_first(server)
    assert server.stop() == 0
    assert b"127.0.0.1" in file.read_bytes()
    server = serves("--learned", str(file))
    assert asks(server) == "keep-alive: timeout=5"
    assert server.stop() == 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("learned.")]


def test_a_file_that_cannot_be_used_is_told_and_written_anew(serves, tmp_path):
    file = tmp_path / "learned"
    file.write_bytes(b"rubbish, and more of it")
    server = serves("--learned", str(file))
    assert f"learned={file}: cannot be used, and will be written anew: checksum does not match" in server.text
    closes_first(server)
    assert server.stop() == 0
    assert b"127.0.0.1" in file.read_bytes()
    server = serves("--learned", str(tmp_path / "nowhere" / "learned"))
    closes_first(server)
    assert server.stop() == 0
    assert server.text.count("cannot be written") == 1


def test_a_worker_leaves_it_to_its_successor(serves):
    server = serves("--workers", "1")
    closes_first(server)
    assert asks(server) == "keep-alive: timeout=5"
    server.send_signal(signal.SIGHUP)
    successor = int(server.wait_for(r"worker 0 \(pid (\d+)\) serves")[1])
    wait_until(lambda: int(body_of(server)) == successor)
    assert asks(server) == "keep-alive: timeout=5"
    assert server.stop() == 0
