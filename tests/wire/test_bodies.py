"""Request contents: read or not, the connection stays in step or is closed, and says which."""

import asyncio
import time

import pytest

from kacore import Policy
from tests.wire.conftest import wait_until

BIG = 10 << 20


def sized(n, *fields, body=None):
    head = "\r\n".join(["POST / HTTP/1.1", "Host: a", f"Content-Length: {n}", *fields, "", ""]).encode()
    return head + (b"x" * n if body is None else body)


def chunked(body, size=1000):
    parts = [b"%x\r\n%b\r\n" % (len(body[i : i + size]), body[i : i + size]) for i in range(0, len(body), size)]
    return b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(parts) + b"0\r\n\r\n"


async def deaf(scope, receive, send):
    """Answers without reading."""
    if scope["type"] == "lifespan":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"deaf"})


async def stream_back(scope, receive, send):
    """Sends each piece back as it comes."""
    if scope["type"] == "lifespan":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message["more_body"]
        await send({"type": "http.response.body", "body": message["body"], "more_body": more})


def test_a_content_of_any_size_arrives_by_every_interface(echo, client):
    c = client(echo())
    for body in (b"", b"a", b"b" * 65535, b"c" * 65536, b"d" * 700_000):
        c.send(sized(len(body), body=body))
        assert c.response().body == b"POST / " + body
        c.send(chunked(body, 30_000))
        assert c.response().body == b"POST / " + body


def test_a_large_content_arrives(echo, client):
    c = client(echo())
    c.send(sized(BIG))
    assert c.response().body == b"POST / " + b"x" * BIG
    assert c.is_open()


def test_a_content_that_comes_byte_by_byte_arrives(echo, client):
    c = client(echo())
    for byte in chunked(b"abcdef", 2) + sized(3):
        c.send(bytes([byte]))
    assert c.response().body == b"POST / abcdef"
    assert c.response().body == b"POST / xxx"


def test_a_last_chunk_in_two_pieces_costs_no_time(echo, client):
    """What waits for its end must not be looked at again and again."""
    running = echo()
    c = client(running)
    whole = chunked(b"abc")
    c.send(whole[:-1])
    time.sleep(0.05)
    steps = running.n_rounds()
    time.sleep(0.1)
    assert running.n_rounds() - steps < 20
    wait_until(lambda: running.phase_count("body") == 1)
    c.send(whole[-1:])
    assert c.response().body == b"POST / abc"


@pytest.mark.parametrize("message", [sized(1024), chunked(b"x" * 1024), sized(60_000)])
def test_a_small_unread_content_is_thrown_away_and_the_connection_kept(start, client, message):
    c = client(start(deaf))
    for _ in range(3):
        c.send(message)
        response = c.response()
        assert (response.body, response.get("connection")) == (b"deaf", "keep-alive")


def test_a_large_unread_content_closes_and_the_answer_can_be_read(start, client):
    for message in (sized(BIG), chunked(b"x" * BIG, 100_000)):
        running = start(deaf)
        c = client(running)
        c.send(message[:1000])
        response = c.response()
        assert (response.body, response.get("connection")) == (b"deaf", "close")
        assert c.is_closed()


@pytest.mark.parametrize(("limit", "status"), [(BIG, 200), (1000, 413)], ids=["unread", "over the limit"])
def test_the_answer_can_be_read_by_a_client_that_sends_on(start, client, limit, status):
    """Such as a 4xx while the upload is under way: no RST may eat the answer."""
    c = client(start(deaf, policy=Policy(max_body_bytes=limit)))
    message = sized(BIG)
    sent = 0
    try:
        while sent < len(message):
            sent += c.sock.send(message[sent : sent + 65536])
    except (ConnectionResetError, BrokenPipeError):
        pass
    response = c.response()
    assert (response.status, response.get("connection")) == (status, "close")


@pytest.mark.parametrize("message", [sized, lambda n: chunked(b"x" * n, 100)], ids=["sized", "chunked"])
def test_the_limit_of_the_content_is_exact(echo, client, message):
    running = echo(policy=Policy(max_body_bytes=1000))
    assert client(running).send(message(1000)).response().status == 200
    assert client(running).send(message(1001)).response().status == 413


# --- Expect: 100-continue -----------------------------------------------------------------------------------


def test_continue_is_sent_when_the_content_is_wanted(echo, client):
    c = client(echo())
    c.send(sized(4, "Expect: 100-continue", body=b""))
    assert c.head()[0] == 100
    c.send(b"four")
    response = c.response()
    assert (response.status, response.body, response.interim) == (200, b"POST / four", [])
    assert c.is_open()


def test_continue_is_not_sent_when_the_content_is_there(echo, client):
    c = client(echo())
    c.send(sized(4, "Expect: 100-continue", body=b"four"))
    response = c.response()
    assert (response.body, response.interim) == (b"POST / four", [])


@pytest.mark.parametrize(
    ("version", "expectation", "length", "interim"),
    [
        ("1.1", "100-continue", 4, [100]),
        ("1.1", "100-Continue", 4, [100]),
        ("1.1", "100-continue", 0, []),  # there is nothing to wait for
        ("1.0", "100-continue", 4, []),  # RFC 9110 10.1.1: an HTTP/1.0 client cannot take it
        ("1.1", "200-ok", 4, []),  # docs/strictness.md: ignored
        ("1.1", "", 4, []),
    ],
)
def test_continue_is_for_who_can_expect_it(start, client, version, expectation, length, interim):
    c = client(start(stream_back))
    c.send(f"POST / HTTP/{version}\r\nHost: a\r\nExpect: {expectation}\r\nContent-Length: {length}\r\n\r\n")
    if interim:  # nothing else comes before the content
        assert c.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
    c.send("four"[:length])
    response = c.response()
    assert (response.status, response.body, response.interim) == (200, b"four"[:length], [])


def test_an_expectation_that_was_never_met_closes(start, client):
    c = client(start(deaf))
    c.send(sized(4, "Expect: 100-continue", body=b""))
    response = c.response()
    assert (response.body, response.interim, response.get("connection")) == (b"deaf", [], "close")
    assert c.is_closed()


def test_an_expectation_over_the_limit_is_refused_at_once(echo, client):
    c = client(echo(policy=Policy(max_body_bytes=3)))
    c.send(sized(4, "Expect: 100-continue", body=b""))
    response = c.response()
    assert (response.status, response.interim) == (413, [])


def test_reading_after_the_response_has_begun_sends_no_continue(start, client):
    async def answers_first(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        message = await receive()
        await send({"type": "http.response.body", "body": message["body"]})

    c = client(start(answers_first))
    c.send(sized(4, "Expect: 100-continue", body=b""))
    assert c.head()[0] == 200
    c.send(b"four")
    assert c.rest() == b"5\r\nfirst\r\n4\r\nfour\r\n0\r\n\r\n"


# --- backpressure -------------------------------------------------------------------------------------------


def test_a_stream_goes_both_ways_with_little_memory(start, client):
    import threading

    running = start(stream_back)
    c = client(running)
    message = sized(BIG)
    sender = threading.Thread(target=c.sock.sendall, args=(message,))
    sender.start()
    try:
        response = c.response()
        assert response.body == b"x" * BIG
    finally:
        sender.join(10)
    assert running.stats()["engine"]["buffer_bytes"] < 1 << 20


def test_an_application_that_does_not_read_makes_the_client_wait(start, client):
    go_on = asyncio.Event()

    async def slow(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        await go_on.wait()
        n, more = 0, True
        while more:
            message = await receive()
            n += len(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(n).encode()})

    running = start(slow)
    c = client(running)
    c.sock.settimeout(0.3)
    size = 30_000_000
    message = memoryview(sized(size))
    with pytest.raises(TimeoutError):
        c.sock.sendall(message)
    wait_until(lambda: running.phase_count("busy") == 1)
    assert running.stats()["engine"]["buffer_bytes"] < 1 << 20
    c.reset()
    running.loop.call_soon_threadsafe(go_on.set)


def test_a_client_that_does_not_read_makes_the_application_wait(start, client):
    sent = 0

    async def endless(scope, receive, send):
        nonlocal sent
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            sent += 65536

    running = start(endless)
    c = client(running, receive_buffer=4096)
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    c.head()
    before = -1
    while before != sent:
        before = sent
        time.sleep(0.1)
    assert sent < 20_000_000
    assert running.stats()["engine"]["buffer_bytes"] < 1 << 20
    c.take(1000)
    c.reset()


# -- content that is collected: for WSGI and for handlers ---------------------------------------------------------


def length_handler(request):
    return str(len(request.body)).encode()


def length_wsgi(environ, start_response):
    start_response("200 OK", [])
    return [str(len(environ["wsgi.input"].read())).encode()]


@pytest.fixture(params=[length_handler, length_wsgi])
def collecting(request, start):
    return lambda **options: start(request.param, **options)


def test_content_under_collection_counts_in_the_budget_and_goes_to_files_in_time(collecting, client):
    running = collecting(policy=Policy(max_buffer_bytes=2 << 20))
    clients = [client(running).send(sized(400_000)[:-10]) for _ in range(20)]
    wait_until(lambda: running.phase_count("body") == 20)
    # A megabyte of content, and what a turn keeps of unread bytes for some of them.
    wait_until(lambda: 600_000 < running.stats()["engine"]["buffer_bytes"] < (3 << 20) // 2)
    assert client(running).send(sized(5)).response().body == b"5"
    for c in clients:
        assert c.send(b"x" * 10).response().body == b"400000"


def test_content_that_has_room_nowhere_is_answered_503_and_told_once(collecting, client, monkeypatch, caplog):
    running = collecting(policy=Policy(max_buffer_bytes=65536, max_head_bytes=8192))
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    for _ in range(3):
        assert client(running).send(sized(100_000)).response().status == 503
    assert client(running).send(sized(1000)).response().body == b"1000"
    assert caplog.text.count("a temporary file could not be written") == 1


def test_content_stays_in_memory_where_no_file_can_be_had_and_there_is_room(collecting, client, monkeypatch, caplog):
    running = collecting(policy=Policy(max_buffer_bytes=1 << 20))
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    waiting = [client(running).send(sized(200_000)[:-10]) for _ in range(3)]  # over half of it
    wait_until(lambda: "could not be written" in caplog.text)
    for c in waiting:
        assert c.send(b"x" * 10).response().body == b"200000"
