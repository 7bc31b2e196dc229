"""Ends of connections: by the client, by the server, by rubbish; and who can still read what."""

import asyncio
import logging
import random
import time

import pytest

from kacore import Policy, Response
from tests.wire.conftest import wait_until

BIG = b"x" * 5_000_000

MALFORMED = [
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\n\r\n", 400),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    ("GET / HTTP/1.1\nHost: a\n\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
    ("GET /" + "a" * 9000 + " HTTP/1.1\r\n", 414),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: " + "a" * 17000 + "\r\n", 431),
    ("GET / HTTP/1.1\r\nHost: a\r\n" + "X: y\r\n" * 200 + "\r\n", 431),
    ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("\0\0\0\0\r\n\r\n", 400),
]


def never(request):
    raise AssertionError("the application was called")


@pytest.mark.parametrize(("text", "status"), MALFORMED)
def test_a_malformed_request_is_refused_and_never_reaches_the_application(start, client, caplog, text, status):
    running = start(never, http2="off")
    c = client(running)
    c.send(text)
    response = c.response()
    assert (response.status, response.get("connection"), response.get("keep-alive")) == (status, "close", None)
    assert response.body.endswith(b"\n")
    assert c.is_closed()
    c.close()
    wait_until(lambda: running.closed("bad_request") == 1)
    assert not caplog.records or all(record.levelno <= logging.INFO for record in caplog.records)


def test_a_malformed_chunk_is_refused_and_the_application_is_not_called(start, client):
    running = start(never)
    c = client(running)
    c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX")
    assert c.response().status == 400
    assert c.is_closed()


def test_the_answer_to_a_malformed_request_can_be_read_by_a_client_that_keeps_sending(start, client):
    c = client(start(never))
    try:
        c.send(b"BAD REQUEST\r\n\r\n" + BIG * 2)
    except (ConnectionResetError, BrokenPipeError):
        pass
    assert c.response().status == 400


# --- half-closed clients ------------------------------------------------------------------------------------


def test_a_half_closed_client_gets_its_answers(echo, client):
    running = echo()
    c = client(running)
    c.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" + "GET /b HTTP/1.1\r\nHost: a\r\n\r\n").fin()
    assert c.response().body == b"GET /slow "
    assert c.response().body == b"GET /b "
    assert c.is_closed()


def test_a_client_that_half_closes_while_it_waits_gets_its_answer(echo, client):
    c = client(echo())
    c.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
    time.sleep(0.01)
    c.fin()
    response = c.response()
    assert response.body == b"GET /slow "
    assert c.is_closed()


def test_the_application_hears_of_fin_behind_pipelined_requests_which_are_answered(start, client):
    heard = []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise RuntimeError
        if scope["path"] == "/waits":
            await receive()
            heard.append((await receive())["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    running = start(app)
    c = client(running).send("GET /waits HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: running.phase_count("busy") == 1)
    c.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n")
    running.stats()
    assert not heard
    c.fin()
    answers = [c.response() for _ in range(3)]
    assert heard == ["http.disconnect"]
    assert [answer.body for answer in answers] == [b"/waits", b"/2", b"/3"]
    assert [answer.get("connection") for answer in answers] == ["keep-alive", "keep-alive", "close"]
    assert c.is_closed()


def test_a_large_response_reaches_a_half_closed_client(start, client):
    for app in (lambda request: BIG, lambda request: Response(iter([BIG[:100_000]] * 20))):
        c = client(start(app), receive_buffer=4096)
        c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").fin()
        assert len(c.response().body) in (len(BIG), 2_000_000)
        assert c.is_closed()


def test_fin_inside_a_content_is_answered_by_400_where_the_application_waits_for_all(echo, client):
    running = echo()
    c = client(running)
    c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfour").fin()
    rest = c.rest()
    if rest:  # an ASGI application is told, and says nothing
        assert rest.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 500 "))
    c.close()
    running.check_empty()


def test_fin_inside_a_head_or_before_one_closes_quietly(start, client, caplog):
    running = start(never)
    for text in ("", "GET / HT", "\r\n"):
        assert client(running).send(text).fin().is_closed()
    wait_until(lambda: running.closed("client") == 3)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


# --- clients that vanish ------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["idle", "head", "body", "busy", "response", "pipeline"])
@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_client_that_vanishes_costs_no_traceback(echo, client, caplog, at, how):
    running = echo()
    for _ in range(5):
        c = client(running)
        if at == "idle":
            c.get("/")
        elif at == "head":
            c.send("GET / HTTP/1.1\r\nHo")
        elif at == "body":
            c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + "x" * 70000)
        elif at == "busy":
            c.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        elif at == "response":
            c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n").send(BIG)
        elif at == "pipeline":
            c.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        time.sleep(0.005)
        getattr(c, how)()
    running.check_empty()
    wait_until(lambda: running.ask(lambda: len(asyncio.all_tasks(running.loop))) <= 8)
    bad = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    assert all(one.startswith("the application returned without completing its response on ") for one in bad)


def test_sending_to_a_client_that_is_gone_is_silent_and_lets_others_go_on(start, client):
    is_over, n_unheard = [], []

    async def endless(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/":
            while not is_over:
                await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
                n_unheard.append(1)
        await send({"type": "http.response.body", "body": b"ok"})

    running = start(endless)
    c = client(running)
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    c.take(1000)
    c.reset()
    wait_until(lambda: running.ask(lambda: len(running.table)) == 0)
    before = len(n_unheard)
    wait_until(lambda: len(n_unheard) > before + 10)
    assert client(running).get("/other").body == b"ok"
    is_over.append(True)
    assert not running.errors


def test_a_generator_is_closed_when_its_client_is_gone(start, client):
    closed = []

    def endless():
        try:
            while True:
                yield b"x" * 100_000
        finally:
            closed.append(True)

    def wsgi(environ, start_response):
        start_response("200 OK", [])
        return endless()

    for app, options in (
        (lambda request: Response(endless()), {}),
        (wsgi, {"threads": 0}),
        (wsgi, {"threads": 2}),
    ):
        closed.clear()
        running = start(app, **options)
        c = client(running)
        c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        c.take(1000)
        c.reset()
        wait_until(lambda: closed)
        running.check_empty()


def test_random_ends_leave_nothing_behind(echo, client):
    running = echo(policy=Policy(max_connections=50))
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    texts = [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n01234567890123456789",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "rubbish\r\n\r\n",
    ]
    for _ in range(60):
        c = client(running)
        text = "".join(rng.choice(texts) for _ in range(rng.randrange(1, 5)))
        text = text[: rng.randrange(1, len(text) + 1)]
        try:
            for part in (text[: len(text) // 2], text[len(text) // 2 :]):
                c.send(part)
            if rng.random() < 0.3:
                c.fin()
            if rng.random() < 0.5:
                c.sock.settimeout(0.002)
                c.sock.recv(1000)
        except OSError:
            pass
        (c.reset if rng.random() < 0.5 else c.close)()
    try:
        running.check_empty()
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
