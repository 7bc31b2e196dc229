"""Upgrade and CONNECT: an accepted one becomes a byte stream, an ignored one stays HTTP and loses nothing."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

import kacore

ASKS = "GET /echo HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"


class Failure(Exception):
    """What an application raises on purpose."""


def wait_until(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.002)


async def echo_back(stream: kacore.Stream) -> None:
    while data := await stream.read():
        stream.write(data)
        await stream.drain()


def upgrading(request: kacore.Request) -> Any:
    if request.method == "CONNECT" or request.head.upgrade == b"echo":
        headers = [] if request.method == "CONNECT" else [("upgrade", "echo")]
        return kacore.Upgrade(echo_back, headers)
    return f"{request.method} {request.path} ".encode() + request.body


def test_an_accepted_upgrade_is_a_byte_stream_until_the_client_ends_it(start, client):
    server = start(upgrading)
    one = client(server).send(ASKS)
    answer = one.response()
    assert answer.status == 101
    assert answer.get("upgrade") == "echo"
    assert answer.get("connection") == "upgrade"
    assert answer.get("content-length") is None
    for size in (1, 1000, 300_000):
        one.send(b"x" * size)
        assert one.take(size) == b"x" * size
    assert server.phase_count("tunnel") == 1
    one.fin()
    assert one.is_closed()
    server.check_empty()
    assert server.closed("upgraded") == 1


def test_bytes_that_came_with_the_request_are_the_first_of_the_stream(start, client):
    server = start(upgrading)
    one = client(server).send(ASKS + "GET / HTTP/1.1\r\n\r\nnot a request")
    assert one.response().status == 101
    assert one.take(31) == b"GET / HTTP/1.1\r\n\r\nnot a request"


def test_connect_becomes_a_byte_stream(start, client):
    server = start(upgrading)
    one = client(server).send("CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\nhello")
    answer = one.response("HEAD")
    assert (answer.status, answer.get("content-length"), answer.get("connection")) == (200, None, None)
    assert one.take(5) == b"hello"


def test_connect_that_an_application_answers_as_if_it_were_get_carries_no_content_and_closes(start, client):
    server = start(lambda request: b"no tunnel here")
    one = client(server).send("CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
    answer = one.response("HEAD")
    assert (answer.status, answer.get("connection")) == (200, "close")
    assert one.is_closed()


def test_an_ignored_upgrade_is_answered_as_http_with_its_content_whole(echo, client):
    server = echo()
    one = client(server)
    for _ in range(2):
        one.send("POST /a HTTP/1.1\r\nHost: test\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\n")
        one.send("HTTP2-Settings: AAMAAABk\r\nContent-Length: 5\r\n\r\nhello")
        assert one.response().body == b"POST /a hello"
    assert one.is_open()


@pytest.mark.parametrize(
    "asks",
    [
        "GET /a HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "CONNECT test:1 HTTP/1.1\r\nHost: test:1\r\n\r\n",
    ],
    ids=["upgrade", "connect"],
)
def test_what_a_client_sent_ahead_of_an_answer_that_says_no_is_not_read_as_a_request(start, client, asks):
    server = start(lambda request: kacore.Response(b"no", 403))
    one = client(server).send(asks + "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n")
    answer = one.response()
    assert (answer.status, answer.get("connection")) == (403, "close")
    one.fin()
    assert one.is_closed()
    assert server.stats()["requests"] == 1


def test_an_upgrade_with_content_is_read_before_the_protocol_is_switched(start, client):
    server = start(upgrading)
    one = client(server).send(
        "POST / HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: echo\r\nContent-Length: 5\r\n\r\n"
    )
    one.send("12345stream")
    assert one.response().status == 101
    assert one.take(6) == b"stream"


def test_101_to_a_request_without_upgrade_is_an_error_of_the_application(start, client, caplog):
    server = start(lambda request: kacore.Upgrade(echo_back, [("upgrade", "echo")]))
    assert client(server).get("/").status == 500
    assert "a tunnel must begin with 101" in caplog.text


def test_101_as_a_plain_response_is_refused(start, client, caplog):
    server = start(lambda request: kacore.Response(b"", 101))
    assert client(server).get("/").status == 500
    assert "101 is only for" in caplog.text


def test_a_stream_whose_client_vanishes_is_told_so(start, client):
    ends = []

    async def serve(stream: kacore.Stream) -> None:
        try:
            while True:
                stream.write(b"x" * 65536)
                await stream.drain()
        except kacore.ClientGone:
            ends.append("gone")

    server = start(lambda request: kacore.Upgrade(serve, [("upgrade", "echo")]))
    one = client(server).send(ASKS)
    assert one.response().status == 101
    one.reset()
    wait_until(lambda: ends == ["gone"], "the stream's coroutine heard of it")


def test_a_writer_waits_for_a_client_that_does_not_read_and_loses_nothing(start, client):
    async def serve(stream: kacore.Stream) -> None:
        for i in range(400):
            stream.write(i.to_bytes(2, "big") * 16384)
            await stream.drain()

    server = start(lambda request: kacore.Upgrade(serve, [("upgrade", "echo")]))
    one = client(server, receive_buffer=4096).send(ASKS)
    assert one.response().status == 101
    wait_until(lambda: server.stats()["engine"]["buffer_bytes"] < 1 << 20, "output is bounded")
    assert one.rest() == b"".join(i.to_bytes(2, "big") * 16384 for i in range(400))


def test_a_detached_socket_goes_on_without_the_server(start, client):
    given = []

    async def take(stream):
        stream.write(b"y" * 1_000_000)
        given.append(await stream.detach())
        with pytest.raises(kacore.ClientGone):
            stream.write(b"x")

    server = start(lambda request: kacore.Upgrade(take, [("upgrade", "echo")]))
    one = client(server, receive_buffer=4096).send(ASKS + "unread")
    assert one.response().status == 101
    assert one.take(1_000_000) == b"y" * 1_000_000
    wait_until(lambda: given, "it was given away")
    sock, rest = given[0]
    server.check_empty()
    assert server.closed("upgraded") == 1
    steps = server.n_rounds()
    with sock:
        assert rest == b"unread"
        one.send(b"more")
        sock.setblocking(True)
        assert sock.recv(100) == b"more"
        sock.sendall(b"back")
        assert one.take(4) == b"back"
        assert server.n_rounds() == steps  # no event of it reaches the engine any more
    assert one.is_closed()


def test_a_socket_whose_client_is_gone_is_not_given_away(start, client):
    seen = []

    async def take(stream):
        stream.write(b"y" * 30_000_000)
        try:
            await stream.detach()
        except kacore.ClientGone as error:
            seen.append(error)

    server = start(lambda request: kacore.Upgrade(take, [("upgrade", "echo")]))
    one = client(server, receive_buffer=4096).send(ASKS)
    one.head()
    one.reset()
    wait_until(lambda: seen, "it was told")


def test_an_error_in_the_coroutine_of_a_stream_is_logged_and_closes(start, client, caplog):
    async def serve(stream: kacore.Stream) -> None:
        raise Failure("on purpose")

    server = start(lambda request: kacore.Upgrade(serve, [("upgrade", "echo")]))
    one = client(server).send(ASKS)
    assert one.response().status == 101
    assert one.is_closed()
    assert "the handler of an upgraded connection failed" in caplog.text


def test_a_stream_learns_that_the_server_stops_and_may_say_good_bye(start, client):
    async def serve(stream: kacore.Stream) -> None:
        await stream.wait_for_shutdown()
        stream.write(b"bye")

    server = start(lambda request: kacore.Upgrade(serve, [("upgrade", "echo")]))
    one = client(server).send(ASKS)
    assert one.response().status == 101
    server.stop()
    assert one.rest() == b"bye"


def test_a_stream_that_goes_on_is_closed_at_the_drain_timeout(start, client):
    async def serve(stream: kacore.Stream) -> None:
        await asyncio.Event().wait()

    server = start(
        lambda request: kacore.Upgrade(serve, [("upgrade", "echo")]),
        policy=kacore.Policy(drain_timeout=0.2, drain_grace=0, drain_spread=0),
    )
    one = client(server).send(ASKS)
    assert one.response().status == 101
    server.stop()
    assert one.is_closed()


@pytest.mark.parametrize("size", [0, 100_000])
def test_what_was_written_before_the_end_arrives_though_the_client_still_sends(start, client, size):
    async def serve(stream: kacore.Stream) -> None:
        stream.write(b"y" * size + b"end")

    server = start(lambda request: kacore.Upgrade(serve, [("upgrade", "echo")]))
    one = client(server).send(ASKS + "x" * 100_000)
    assert one.response().status == 101
    assert one.rest() == b"y" * size + b"end"


def test_a_stream_that_is_written_to_without_drain_has_the_same_deadline(start, client):
    async def floods(stream: kacore.Stream) -> None:
        stream.write(bytes(16 << 20))
        await stream.wait_for_shutdown()  # or the client's end

    policy = kacore.Policy(send_timeout=0.3)
    server = start(lambda request: kacore.Upgrade(floods, [("upgrade", "flood")]), policy=policy)
    one = client(server, receive_buffer=4096)
    one.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: flood\r\n\r\n")
    wait_until(lambda: server.closed("send_timeout") == 1, "it is closed")


def test_a_stream_that_nobody_reads_holds_back_its_client(start, client):
    go = asyncio.Event()

    async def waits(stream: kacore.Stream) -> None:
        await go.wait()

    server = start(lambda request: kacore.Upgrade(waits, [("upgrade", "x")]))
    one = client(server)
    one.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
    assert one.response().status == 101
    one.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        one.send(bytes(32 << 20))
    assert server.stats()["engine"]["buffer_bytes"] < 640 * 1024
    server.ask(go.set)
