"""Requests that meet the close of their idle connection: served when they were in time, else seen, counted and told."""

import asyncio
import contextlib
import logging
import re
import socket

import pytest

import kacore
from kacore.server.races import MAX_NETWORKS, RaceLog
from tests.wire.conftest import wait_until

REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


@contextlib.contextmanager
def clients(port, n):
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=20)))
            for _ in range(n)
        ]


def answer(sock):
    data = b""
    while not data.endswith(b"ok"):
        more = sock.recv(4096)
        assert more, f"closed after {data!r}"
        data += more
    return data


both = pytest.mark.parametrize("io", ["epoll", "transports"])


@both
def test_request_that_crosses_the_idle_close_is_counted_and_told_once_for_its_network(serve, tmp_path, io):
    (tmp_path / "app.py").write_text("""
def app(request):
    return str(server_stats()["races"]) + " ok"

def server_stats():
    import gc, kacore
    return next(x for x in gc.get_objects() if isinstance(x, kacore.Server)).stats()
""")
    server = serve("app:app", "--keep-alive-timeout", "0.2", "--io", io)
    with clients(server.port, 4) as (one, two, quiet, last):
        for sock in (one, two, quiet):
            sock.sendall(REQUEST)
            answer(sock)
        for sock in (one, two, quiet):
            assert sock.recv(1) == b""  # the server's FIN: for a client far away it would still be under way
        one.sendall(REQUEST)
        two.sendall(REQUEST)
        two.sendall(REQUEST)
        server.wait_for("crossed the server's close")
        last.sendall(REQUEST)
        while not answer(last).endswith(b"\r\n2 ok"):  # it may not have heard of the second yet
            last.sendall(REQUEST)
    told = re.findall(r"a request from (\S+) was lost: .*raise keep_alive_timeout \(0\.2 s\)", server.text)
    assert told == ["127.0.0.1"]


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.WARNING, "race-test")
    policy = kacore.Policy(client_prefix_v4=24, client_prefix_v6=64, drain_grace=3, keep_alive_timeout=75)
    return RaceLog(policy, logging.getLogger("race-test")), caplog


def test_network_is_told_once_and_the_memory_of_them_is_bounded(told):
    log, caplog = told
    for last in range(10):
        log(bytes([10, 0, 0, last]), "idle_timeout")
        log(b"\0" * 10 + b"\xff\xff" + bytes([10, 0, 0, last]), "idle_timeout")
    assert len(caplog.records) == 1
    assert "10.0.0.0/24" in caplog.text
    for k in range(2 * MAX_NETWORKS):
        log(bytes([11, k >> 8, k & 255, 1]), "idle_timeout")
    assert len(log._told) == MAX_NETWORKS


def test_advice_names_the_timeout_that_would_have_helped(told):
    log, caplog = told
    log(bytes.fromhex("20010db8000000000000000000000001"), "drain")
    log(None, "idle_timeout")
    assert "2001:db8::/64" in caplog.text
    assert "raise drain_grace (3 s)" in caplog.text
    assert "a unix socket" in caplog.text
    assert "raise keep_alive_timeout (75 s)" in caplog.text
    log.policy = kacore.Policy()
    assert log.advice("idle_timeout") == "from now on they are kept for up to keep_alive_max (3900 s)"


def test_what_follows_a_bad_request_on_an_idle_connection_crossed_nothing(start, client):
    running = start(lambda request: b"ok", policy=kacore.Policy())
    c = client(running)
    assert c.get().status == 200
    c.send("rubbish\r\n\r\n")
    assert c.response().status == 400
    assert c.is_closed()
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").fin()
    wait_until(lambda: running.closed("bad_request") == 1)
    assert running.stats()["races"] == 0


def test_what_follows_a_request_that_was_the_last_crossed_nothing(start, client):
    """The answer comes later than what the client goes on to send, outside the turn of the connection."""

    async def app(request):
        await may_answer.wait()
        return b"ok"

    may_answer = asyncio.Event()
    running = start(app)
    c = client(running).send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    wait_until(lambda: running.phase_count("busy") == 1)
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    running.stats()  # a round of the loop later it knows of them
    running.ask(may_answer.set)
    assert c.response().get("connection") == "close"
    assert c.is_closed()
    c.fin()
    wait_until(lambda: sum(running.stats()["closed"].values()) == 1)
    assert running.stats()["races"] == 0
