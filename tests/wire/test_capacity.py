"""A server that is full: who makes room, who waits, who is turned away; no descriptors; handlers over their time."""

import asyncio
import re
import socket
import threading
import time

import pytest

from kacore import Policy
from tests.wire.conftest import wait_until

# A server in a process of its own, with few descriptors, whose application can take them all and give them back.
HOARDER = """
import os

held = []

def app(request):
    if request.path == "/hoard":
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            return str(len(held))
    if request.path == "/free":
        while held:
            os.close(held.pop())
    if request.path == "/cpu":
        times = os.times()
        return str(times.user + times.system)
    return "ok"
"""


def ok(request):
    return b"ok"


# -- places --------------------------------------------------------------------------------------------------


def test_newcomers_wait_in_the_backlog_while_nobody_can_be_closed(start, client):
    entered, leave = threading.Semaphore(0), threading.Event()

    def slow(environ, start_response):
        entered.release()
        leave.wait(20)
        start_response("200 OK", [])
        return [b"done"]

    running = start(slow, policy=Policy(max_connections=2))
    busy = [client(running).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(2)]
    for _ in busy:
        assert entered.acquire(timeout=20)
    waiting = client(running).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    before = running.n_rounds()
    time.sleep(0.25)
    assert running.stats()["accepted"] == 2
    assert running.n_rounds() - before < 20  # nothing spins
    leave.set()
    for c in (*busy, waiting):
        assert c.response().body == b"done"
    assert running.closed("evicted") == 1


def test_a_place_that_becomes_idle_is_given_to_who_waits_at_once(start, client):
    gate = asyncio.Event()

    async def handler(request):
        if request.path == "/wait":
            await gate.wait()
        return b"ok"

    running = start(handler, policy=Policy(max_connections=1))
    first = client(running).send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: running.phase_count("busy") == 1, "the handler runs")
    second = client(running).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    running.ask(lambda: None)
    running.ask(gate.set)
    assert first.response().status == 200
    assert second.response().status == 200


def test_when_full_reject_answers_503_with_retry_after(start, client):
    gate = asyncio.Event()

    async def handler(request):
        await gate.wait()
        return b"ok"

    running = start(handler, policy=Policy(max_connections=1, when_full="reject", retry_after=7))
    busy = client(running).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: running.phase_count("busy") == 1, "the handler runs")
    for _ in range(3):
        turned_away = client(running)
        response = turned_away.response()
        assert response.status == 503
        assert response.get("retry-after") == "7"
        assert response.get("connection") == "close"
        assert turned_away.is_closed()
    running.ask(gate.set)
    assert busy.response().status == 200
    assert running.closed("rejected") == 3
    running.check()
    assert client(running).get().status == 200  # an idle one made room


def test_a_client_cannot_hold_more_than_its_limit(start, client):
    running = start(ok, policy=Policy(max_connections_per_client=2, retry_after=3))
    held = [client(running) for _ in range(2)]
    for c in held:
        assert c.get().status == 200
    over = client(running).response()
    assert (over.status, over.get("retry-after")) == (503, "3")
    assert all(c.is_open() for c in held)
    assert running.closed("client_limit") == 1
    held[0].close()
    wait_until(lambda: running.phase_count("idle") == 1, "the client has let one go")
    assert client(running).get().status == 200


# -- descriptors ---------------------------------------------------------------------------------------------


def connect(port):
    sock = socket.create_connection(("127.0.0.1", port), 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def get(sock, path="/"):
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = sock.recv(65536)
        assert data, "closed without an answer"
        answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    length = next(int(line[16:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: "))
    while len(body) < length:
        body += sock.recv(65536)
    return int(head[9:12]), body.decode()


@pytest.fixture
def hoarder(launch, tmp_path):
    """A server that may have 256 descriptors: `kacore serve`, with options."""

    def run(*options):
        (tmp_path / "hoarder.py").write_text(HOARDER)
        code = (
            "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256));"
            "from kacore.cli import main; sys.exit(main(sys.argv[1:]))"
        )
        where = ("--interface", "handler", "--port", "0", "--max-connections", "5000")
        child = launch("-c", code, "serve", "hoarder:app", *where, *options)
        child.url = child.wait_for(r"http://[^\s/]+:[1-9][0-9]*")[0]
        return child

    return run


def test_without_descriptors_new_clients_are_served_in_place_of_idle_ones(hoarder):
    child = hoarder()
    socks = []
    try:
        for _ in range(400):
            socks.append(connect(child.port))
            assert get(socks[-1]) == (200, "ok")
    finally:
        for sock in socks:
            sock.close()
    assert child.text.count("out of file descriptors") == 1
    with connect(child.port) as last:
        assert get(last)[0] == 200
    assert child.stop() == 0


def test_over_transports_there_are_fewer_places_than_descriptors(hoarder):
    child = hoarder("--io", "transports")
    socks = []
    try:
        for _ in range(300):
            socks.append(connect(child.port))
            assert get(socks[-1]) == (200, "ok")
    finally:
        for sock in socks:
            sock.close()
    assert re.search("at most 160 connections", child.text)
    assert child.stop() == 0
    assert "Traceback" not in child.text


def test_an_idle_client_makes_room_when_the_application_holds_all_other_descriptors(hoarder):
    child = hoarder()
    with connect(child.port) as idle, connect(child.port) as hoarding:
        assert get(idle)[0] == 200
        assert int(get(hoarding, "/hoard")[1]) > 100
        with connect(child.port) as newcomer:
            assert get(newcomer)[0] == 200
        assert idle.recv(1) == b""
    assert child.stop() == 0


@pytest.mark.parametrize("when_full", ["wait", "reject"])
def test_descriptors_that_the_application_gives_back_are_used_without_delay(hoarder, when_full):
    child = hoarder("--when-full", when_full, "--min-idle-before-evict", "0")
    with connect(child.port) as keeper:
        assert int(get(keeper, "/hoard")[1]) > 100
        before = float(get(keeper, "/cpu")[1])
        keeper.sendall(b"POST /free HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n")  # not idle: nobody can go
        time.sleep(0.1)
        newcomer = connect(child.port)
        newcomer.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.6)
        began = time.monotonic()
        keeper.sendall(b"x")
        assert keeper.recv(65536).startswith(b"HTTP/1.1 200")
        if when_full == "reject":
            assert newcomer.recv(65536).startswith(b"HTTP/1.1 503")
            newcomer.close()
            newcomer = connect(child.port)
            newcomer.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert newcomer.recv(65536).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began < 20
        newcomer.close()
        assert float(get(keeper, "/cpu")[1]) - before < 0.3
    assert child.text.count("out of file descriptors") == 1
    assert child.stop() == 0


def test_without_descriptors_slow_bodies_make_room(hoarder):
    child = hoarder("--rate-window", "0.2")
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
    with connect(child.port) as first:
        first.sendall(post)
        with connect(child.port) as hoarding:
            hoarding.sendall(b"GET /hoard HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            while hoarding.recv(65536):
                pass
        with connect(child.port) as second, connect(child.port) as newcomer:
            second.sendall(post)  # with the descriptor that the hoarding client left
            assert get(newcomer)[0] == 200
        assert first.recv(65536).startswith(b"HTTP/1.1 408")
    assert child.stop() == 0


# -- handlers ------------------------------------------------------------------------------------------------


async def late_asgi(scope, receive, send):
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        CANCELLED.append(scope["path"])
        raise


async def late_handler(request):
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        CANCELLED.append(request.path)
        raise


CANCELLED = []


@pytest.mark.parametrize("app", [late_asgi, late_handler])
def test_a_handler_over_its_timeout_is_cancelled_answered_503_and_closed(start, client, app, caplog):
    CANCELLED.clear()
    options = {"lifespan": "off"} if app is late_asgi else {}
    running = start(app, policy=Policy(handler_timeout=0.1), **options)
    c = client(running)
    began = time.monotonic()
    response = c.get("/late")
    assert time.monotonic() - began >= 0.1
    assert response.status == 503
    assert response.get("connection") == "close"
    assert c.is_closed()
    c.close()
    wait_until(lambda: running.closed("handler_timeout") == 1, "the end is counted")
    wait_until(lambda: CANCELLED == ["/late"], "the handler saw it")
    said = [record.levelname for record in caplog.records if "handler_timeout" in record.getMessage()]
    assert said == ["WARNING"]
    assert "ERROR" not in [record.levelname for record in caplog.records]


def test_an_answer_that_was_there_before_a_late_server_looks_at_the_time_is_sent(start, client):
    entered, leave = threading.Event(), threading.Event()

    def app(environ, start_response):
        entered.set()
        leave.wait(20)
        start_response("200 OK", [])
        return [b"in time"]

    running = start(app, policy=Policy(handler_timeout=0.8), threads=1)
    c = client(running).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert entered.wait(20)
    with running.held():
        leave.set()
        time.sleep(0.9)
    assert c.response().body == b"in time"


def test_what_a_thread_still_gives_after_the_timeout_is_dropped(start, client):
    leave = threading.Event()
    given = threading.Event()

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/late":
            leave.wait(20)
            given.set()
        start_response("200 OK", [])
        return [environ["PATH_INFO"].encode()]

    running = start(app, policy=Policy(handler_timeout=0.1), threads=1)
    c = client(running)
    assert c.get("/late").status == 503
    assert c.is_closed()
    leave.set()
    assert given.wait(20)
    # The thread may still be on its way back, and who waits for it is answered 503 in time.
    bodies = []
    wait_until(lambda: bodies.append(client(running).get("/next").body) or bodies[-1] == b"/next")
    assert b"/late" not in bodies
