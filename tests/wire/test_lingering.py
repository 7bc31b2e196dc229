"""A client that is refused while it sends can go on sending, and read why."""

import time

import pytest

import kacore
from kacore import Policy
from kacore.server import TLS
from tests.wire.conftest import wait_until

MORE = bytes(3 << 20)
UPLOAD = f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {len(MORE)}\r\n\r\n"


def never(request):
    raise AssertionError("the application was called")


async def asks_who_it_is(scope, receive, send):
    if scope["type"] != "lifespan":
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"who are you?"})


REFUSED = {
    413: (never, {"policy": Policy(max_body_bytes=1000)}, UPLOAD),
    400: (never, {}, "NONSENSE\r\n\r\n"),
    431: (never, {}, "GET / HTTP/1.1\r\nHost: a\r\nX: " + "y" * 40_000 + "\r\n"),
    401: (asks_who_it_is, {}, UPLOAD),
}


@pytest.mark.parametrize("status", REFUSED)
def test_a_client_that_goes_on_sending_megabytes_reads_the_answer(start, client, status):
    app, options, text = REFUSED[status]
    running = start(app, **options)
    c = client(running).send(text).send(MORE)
    assert c.response().status == status
    assert c.is_closed()
    c.close()
    wait_until(lambda: sum(running.stats()["closed"].values()) == 1)
    assert running.stats()["races"] == 0


@pytest.mark.usefixtures("certificates")
def test_the_same_holds_over_tls(start, over_tls, localhost):
    running = start(never, policy=Policy(max_body_bytes=1000), tls=TLS(localhost))
    c = over_tls(running).send(UPLOAD)
    for at in range(0, len(MORE), 65536):
        c.send(MORE[at : at + 65536])
    assert c.response().status == 413
    c.close()
    wait_until(lambda: running.closed("bad_request") == 1)


def test_a_request_that_comes_just_before_the_close_does_not_destroy_the_last_answer(start, client):
    """The close finds it unread, and becomes a reset, which must come behind the answer."""

    def handler(request):
        c.send("GET /another HTTP/1.1\r\nHost: a\r\n\r\n")
        return kacore.Response(b"goodbye", headers={"Connection": "close"})

    running = start(handler)
    c = client(running)
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    response = c.response()
    assert (response.get("connection"), response.body) == ("close", b"goodbye")
    wait_until(lambda: running.closed("application") == 1)


def sends_until_it_fails(c, piece, pause=0.0):
    """How long it could go on."""
    began = time.monotonic()
    try:
        while time.monotonic() < began + 20:
            c.send(piece)
            time.sleep(pause)
    except OSError:
        return time.monotonic() - began
    return pytest.fail("it could go on for ever")


def sends_what_the_kernel_takes(sock):
    sent = 0
    sock.setblocking(False)
    try:
        while True:
            sent += sock.send(MORE)
    except BlockingIOError:
        sock.settimeout(20)
        return sent


def test_bytes_prolong_a_linger_up_to_its_whole_time(start, client):
    running = start(never, policy=Policy(linger_timeout=0.2, linger_time=0.5))
    c = client(running).send("NONSENSE\r\n\r\n")
    assert c.response().status == 400
    assert sends_until_it_fails(c, b"x", 0.05) > 0.45
    assert running.closed("bad_request") == 1


def test_linger_bytes_limits_what_is_read(start, client):
    running = start(never, policy=Policy(linger_bytes=100_000))
    c = client(running).send("NONSENSE\r\n\r\n")
    assert c.response().status == 400
    sends_until_it_fails(c, MORE)
    assert running.closed("bad_request") == 1


def test_a_lingering_connection_makes_room_before_an_idle_one(start, client):
    running = start(lambda request: b"ok", policy=Policy(max_connections=2))
    idle, lingering = client(running), client(running)
    assert idle.get().status == 200
    assert lingering.send("NONSENSE\r\n\r\n").response().status == 400
    wait_until(lambda: running.phase_count("linger") == 1)
    assert client(running).get().status == 200
    assert running.closed("evicted") == 1
    assert idle.get().status == 200


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_lingering_connection_holds_no_memory_and_is_read_a_bounded_amount_a_round(start, client, io, loop):
    running = start(never, loop=loop)
    c = client(running).send("NONSENSE\r\n\r\n")
    assert c.response().status == 400
    wait_until(lambda: running.phase_count("linger") == 1)
    engine = running.stats()["engine"]
    assert (engine["talks"], engine["buffer_bytes"]) == (0, 0)
    rounds = []

    def next_round():
        if len(running.table):
            rounds.append(1)
            running.loop.call_soon(next_round)

    with running.held():
        sent = sends_what_the_kernel_takes(c.sock)
        running.loop.call_soon_threadsafe(next_round)
    c.fin()
    wait_until(lambda: running.closed("bad_request") == 1)
    if io == "epoll":
        assert running.stats()["engine"]["steps"] - engine["steps"] >= sent // (64 * 1024)
    else:
        assert len(rounds) >= sent // (256 * 1024)  # what these loops read at once


LARGE = bytes(2 << 20)


@pytest.mark.parametrize("why", ["max_requests", "application"])
def test_what_is_sent_behind_a_close_that_was_not_the_clients_idea_does_not_cut_the_last_answer(start, client, why):
    """It cannot know of the close yet. The server's kernel has the rest of the answer, which a reset would drop."""
    headers = {"Connection": "close"} if why == "application" else {}
    running = start(
        lambda request: kacore.Response(LARGE, headers=headers),
        policy=Policy(max_keep_alive_requests=1 if why == "max_requests" else 0),
    )
    c = client(running, receive_buffer=4096)
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert dict(c.head()[1]).get("connection") == "close"
    c.take(len(LARGE) - 100_000)
    wait_until(lambda: running.phase_count("linger") + running.closed(why) == 1)
    c.send("GET /another HTTP/1.1\r\nHost: a\r\n\r\n")
    c.take(100_000)
    assert c.is_closed()
    c.close()
    wait_until(lambda: running.closed(why) == 1)
    assert running.stats()["races"] == 0
