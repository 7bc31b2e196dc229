"""Every phase has its deadline: never early, and 408 only where the client can take it for its answer."""

import asyncio
import contextlib
import time

import pytest

from kacore import Policy, Response
from tests.wire.conftest import PATIENCE, echo_asgi, wait_until


def ok(request):
    return b"ok"


def silence(c):
    """Whether the server closes without a word. A client that is late with its own meets a reset."""
    try:
        return c.rest() == b""
    except ConnectionResetError:
        return True


def test_an_idle_connection_is_closed_without_a_word(start, client):
    running = start(ok, policy=Policy(keep_alive_timeout=0.3))
    c = client(running)
    began = time.monotonic()
    c.get()
    assert c.is_closed()
    assert time.monotonic() - began >= 0.3
    c.close()
    wait_until(lambda: running.closed("idle_timeout") == 1)


def test_each_response_begins_the_idle_time_anew(start, client):
    c = client(start(ok, policy=Policy(keep_alive_timeout=1)))
    c.get()
    time.sleep(0.2)
    began = time.monotonic()
    c.get()
    assert c.is_closed()
    assert time.monotonic() - began >= 1


def test_the_idle_time_does_not_begin_while_the_application_works(start, client):
    async def slow(request):
        await asyncio.sleep(0.3)
        return b"slow"

    c = client(start(slow, policy=Policy(keep_alive_timeout=0.1, request_header_timeout=0.1, request_body_timeout=0.1)))
    assert c.get().body == b"slow"


def test_a_silent_newcomer_is_closed_without_a_word(start, client):
    running = start(ok, policy=Policy(first_byte_timeout=0.2))
    began = time.monotonic()
    assert silence(client(running))
    assert time.monotonic() - began >= 0.2
    assert silence(client(running).send("\r\n"))
    wait_until(lambda: running.closed("first_byte_timeout") == 2)


def test_a_head_has_a_total_time_that_bytes_do_not_prolong(start, client):
    running = start(ok, policy=Policy(request_header_timeout=0.3, keep_alive_timeout=0.1))
    c = client(running)
    c.sock.settimeout(0.03)
    began = time.monotonic()
    for byte in "GET / HTTP/1.1\r\nHost: " + "a" * 200:
        c.send(byte)
        try:
            c._more()
            break
        except TimeoutError:
            pass
    assert time.monotonic() - began >= 0.3
    c.sock.settimeout(PATIENCE)
    response = c.response()
    assert (response.status, response.get("connection")) == (408, "close")
    assert c.is_closed()


def test_a_slow_second_head_is_answered_by_408_too(start, client):
    c = client(start(ok, policy=Policy(request_header_timeout=0.2)))
    c.get()
    c.send("GET / HTTP/1.1\r\n")
    assert c.response().status == 408


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_a_content_that_stops_is_answered_by_408(echo, client, framing):
    running = echo(policy=Policy(request_body_timeout=0.1))
    c = client(running)
    c.send(f"POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n4\r\n")
    time.sleep(0.05)
    c.send("some")
    response = c.response()
    assert (response.status, response.get("connection")) == (408, "close")
    c.close()
    wait_until(lambda: running.closed("body_timeout") == 1)


def test_a_content_that_goes_on_is_not_cut_off(start, client):
    c = client(start(echo_asgi, policy=Policy(request_body_timeout=1)))
    c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n")
    for byte in "cats":
        time.sleep(0.3)
        c.send(byte)
    assert c.response().body == b"POST / cats"


def test_a_content_that_trickles_is_under_the_rate(echo, client):
    running = echo(policy=Policy(min_request_body_rate=1000, rate_window=0.2, request_body_timeout=5))
    c = client(running)
    c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n")
    c.sock.settimeout(0.03)
    for _ in range(100):
        c.send("x")
        try:
            c._more()
            break
        except TimeoutError:
            pass
    c.sock.settimeout(PATIENCE)
    assert c.response().status == 408


def test_a_reader_that_stops_is_closed(start, client):
    size = 20_000_000

    def parts(request):
        return Response(b"x" * 100_000 for _ in range(size // 100_000))

    for app in (lambda request: b"x" * size, parts):
        running = start(app, policy=Policy(send_timeout=0.3))
        c = client(running, receive_buffer=4096)
        c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda running=running: running.closed("send_timeout") == 1)


@pytest.mark.parametrize("cause", ["send_timeout", "handler_timeout", "drain"])
def test_a_response_to_http_1_0_that_a_deadline_cuts_off_ends_with_a_reset(start, client, cause):
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000 if cause == "send_timeout" else 1):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        await asyncio.sleep(60)

    limits = {"drain_timeout": 0.1} if cause == "drain" else {cause: 0.1}
    running = start(app, policy=Policy(**limits))
    c = client(running, receive_buffer=4096)
    c.send("GET / HTTP/1.0\r\n\r\n")
    if cause == "drain":
        c.head()
        c.take(100_000)
        running.stop(hurry=True)
    else:
        wait_until(lambda: running.closed(cause) == 1, "closed")
    with pytest.raises(ConnectionResetError):
        c.rest()


def test_a_reader_that_is_slow_but_steady_is_served(start, client):
    """The kernel takes megabytes ahead: what leaves its queue counts, not what send() takes."""
    size = 6_000_000
    running = start(lambda request: b"x" * size, policy=Policy(send_timeout=1))
    c = client(running, receive_buffer=65536)
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    c.head()
    got = len(c.buf)
    while got < size:
        time.sleep(0.02)
        got += len(c.sock.recv(min(50_000, size - got)))
    assert running.closed("send_timeout") == 0


def test_a_held_reader_between_the_marks_is_closed_too(start, client):
    """A client that takes so much that the application may not yet go on, and then nothing more."""

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 66_000, "more_body": True})

    running = start(app, policy=Policy(send_timeout=0.3))
    for n in (0, 10_000, 30_000, 50_000):
        c = client(running, receive_buffer=4096)
        c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.05)
        with contextlib.suppress(ConnectionError):  # where this client was late itself
            c.take(n)
    wait_until(lambda: running.closed("send_timeout") == 4)


def test_an_application_that_takes_too_long_in_its_response_is_cancelled_and_cut_off(start, client):
    cancelled = []

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    running = start(app, policy=Policy(handler_timeout=0.2))
    c = client(running)
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    c.head()
    try:
        assert c.rest() == b"4\r\nsome\r\n"  # and no last chunk
    except ConnectionResetError:
        pass
    wait_until(lambda: cancelled)
    wait_until(lambda: running.closed("handler_timeout") == 1)


def test_a_drained_content_that_never_ends_closes_without_a_second_answer(start, client):
    async def deaf(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"deaf"})

    c = client(start(deaf, policy=Policy(request_body_timeout=0.2)))
    c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nsome")
    assert c.response().body == b"deaf"
    assert c.is_closed()


def test_slow_heads_from_many_do_not_slow_down_others(start, client):
    running = start(ok, policy=Policy(request_header_timeout=0.5, linger_time=0.5))  # they send on, answered or not
    slow = [client(running).send("GET / HTTP/1.1\r\n") for _ in range(200)]
    good = client(running)
    n = 0
    while n < 50 or n % 20 or running.closed("header_timeout") < 200:
        assert good.get().status == 200
        n += 1
        slow[n % 200].sock.setblocking(False)
        try:
            slow[n % 200].sock.send(b"x")
        except OSError:
            pass
    for c in slow:
        c.close()


def test_a_lingering_connection_ends_in_its_time(start, client):
    running = start(ok, policy=Policy(linger_timeout=0.2))
    c = client(running)
    c.send("rubbish\r\n\r\n")
    assert c.response().status == 400
    assert c.is_closed()
    wait_until(lambda: running.closed("bad_request") == 1)  # although the client closed nothing


def test_a_request_that_reached_the_kernel_before_the_idle_close_is_served(start, client):
    """A stalled loop, and both the request and the deadline behind it."""
    running = start(ok, policy=Policy(keep_alive_timeout=0.8, first_byte_timeout=0.8))
    clients = [client(running) for _ in range(100)]
    for c in clients[:70]:
        c.get()
    with running.held():
        for c in clients:
            c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.9)
    for c in clients:
        assert c.response().status == 200
    assert running.stats()["races"] == 0
