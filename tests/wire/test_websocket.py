"""The websocket scope of ASGI: by the client of the `websockets` library, and by bare bytes where that is too polite."""

import asyncio
import base64
import contextlib
import contextvars
import hashlib
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from kacore import Policy

HANDSHAKE = (
    "GET /chat?a=b HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    "Sec-WebSocket-Version: {version}\r\nSec-WebSocket-Key: {key}\r\n\r\n"
)
KEY = base64.b64encode(bytes(range(16))).decode()


class Failure(Exception):
    """What an application raises on purpose."""


def wait_until(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.002)


class Echo:
    """Accepts, sends back what comes, and notes how it ended."""

    def __init__(self, **accept: Any) -> None:
        self.accept = accept
        self.scopes: list[dict[str, Any]] = []
        self.ends: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"http"})
            return
        assert scope["type"] == "websocket"
        self.scopes.append(scope)
        assert (await receive()) == {"type": "websocket.connect"}
        await send({"type": "websocket.accept", **self.accept})
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self.ends.append(message)
                return
            await send({**message, "type": "websocket.send"})


def once(*messages: dict[str, Any], fails: bool = False) -> Any:
    """An application that sends these messages and returns."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        await receive()
        for message in messages:
            await send(message)
        if fails:
            raise Failure("on purpose")

    return app


def url(server: Any, path: str = "/") -> str:
    return f"ws://127.0.0.1:{server.port}{path}"


def frame(opcode: int, data: bytes, fin: bool = True) -> bytes:
    """A masked frame, RFC 6455 5.2; the mask is zero."""
    head = bytes([(0x80 if fin else 0) | opcode])
    size = len(data)
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += bytes([0x80 | 126]) + struct.pack("!H", size)
    else:
        head += bytes([0x80 | 127]) + struct.pack("!Q", size)
    return head + bytes(4) + data


def read_frame(one: Any) -> tuple[int, bytes]:
    first, second = one.take(2)
    size = second & 127
    if size == 126:
        (size,) = struct.unpack("!H", one.take(2))
    elif size == 127:
        (size,) = struct.unpack("!Q", one.take(8))
    return first & 15, one.take(size)


def shake(one: Any, key: str = KEY, version: str = "13") -> Any:
    one.send(HANDSHAKE.format(key=key, version=version))
    return one.response()


def test_messages_of_every_size_and_kind_come_back(start):
    app = Echo()
    server = start(app)
    with connect(url(server, "/chat?room=1")) as ws:
        for message in ("", "grüße", b"", b"\x00\xff", "x" * 125, "x" * 126, b"y" * 65536, b"z" * 1_000_000):
            ws.send(message)
            assert ws.recv() == message
    wait_until(lambda: app.ends, "the application heard of the end")
    assert app.ends[0]["code"] == 1000
    scope = app.scopes[0]
    assert (scope["scheme"], scope["path"], scope["query_string"]) == ("ws", "/chat", b"room=1")
    assert scope["http_version"] == "1.1"
    assert "method" not in scope
    assert "websocket.http.response" in scope["extensions"]
    assert scope["client"][0] == "127.0.0.1"


def test_handshake_is_that_of_rfc_6455(start, client):
    one = client(start(Echo()))
    answer = shake(one)
    accept = base64.b64encode(hashlib.sha1((KEY + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
    assert answer.status == 101
    assert answer.get("sec-websocket-accept") == accept
    assert (answer.get("upgrade"), answer.get("connection")) == ("websocket", "Upgrade")
    assert answer.get("sec-websocket-extensions") is None
    assert answer.get("sec-websocket-protocol") is None
    assert len(answer.all("date")) == 1


def test_frames_that_come_with_the_handshake_are_not_lost(start, client):
    one = client(start(Echo()))
    one.send(HANDSHAKE.format(key=KEY, version="13").encode() + frame(1, b"early") + frame(2, b"bird"))
    assert one.response().status == 101
    assert read_frame(one) == (1, b"early")
    assert read_frame(one) == (2, b"bird")


def test_receive_can_be_awaited_in_every_way_and_loses_nothing(start, client):
    """A message that is waited for takes its task on where it arrives; nobody can tell."""
    said: list[Any] = []
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="of the loop")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            return
        await receive()
        await send({"type": "websocket.accept"})
        me = asyncio.current_task()
        variable.set("of the application")

        async def step() -> None:
            """The client sends once more."""
            await send({"type": "websocket.send", "text": "next"})

        await step()
        said.append((await receive())["text"])
        said.append((asyncio.current_task() is me, variable.get()))
        for _ in range(3):  # nothing comes
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(receive(), 0.001)
                said.append("no message can be here")
        first, second = asyncio.create_task(receive()), asyncio.create_task(receive())
        third = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        first.cancel()
        for _ in range(2):
            await step()
        said.extend(sorted([(await second)["text"], (await third)["text"]]))
        said.append(first.cancelled())
        await step()
        async with asyncio.timeout(5):
            said.append((await receive())["text"])
        asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
        try:
            await receive()
        except asyncio.CancelledError:
            me.uncancel()
            said.append("cancelled")
        await step()
        said.append((await receive())["text"])
        await send({"type": "websocket.close"})
        said.append([(await receive())["type"] for _ in range(2)])

    one = client(start(app))
    assert shake(one).status == 101
    for number in range(5):
        assert read_frame(one) == (1, b"next")
        one.send(frame(1, f"message {number}".encode()))
    assert read_frame(one) == (8, struct.pack("!H", 1000))
    wait_until(lambda: isinstance(said[-1], list), "the application came to its end")
    assert said == [
        "message 0", (True, "of the application"), "message 1", "message 2", True, "message 3", "cancelled", "message 4",
        ["websocket.disconnect"] * 2,
    ]  # fmt: skip


def test_permessage_deflate_is_used_when_the_client_offers_it(start):
    with connect(url(start(Echo()))) as ws:
        assert ws.response.headers["sec-websocket-extensions"].startswith("permessage-deflate")
        ws.send("a" * 100_000)
        assert ws.recv() == "a" * 100_000


def test_the_subprotocol_and_fields_of_the_application_are_in_the_handshake(start):
    app = Echo(subprotocol="chat.v2", headers=[(b"x-room", b"42")])
    with connect(url(start(app)), subprotocols=["chat.v1", "chat.v2"]) as ws:
        assert ws.subprotocol == "chat.v2"
        assert ws.response.headers["x-room"] == "42"
    assert app.scopes[0]["subprotocols"] == ["chat.v1", "chat.v2"]


def test_a_subprotocol_that_the_client_did_not_offer_is_an_error_of_the_application(start, client, caplog):
    server = start(Echo(subprotocol="other"))
    assert shake(client(server)).status == 500
    assert "one that the client offers: []" in caplog.text


def test_a_ping_is_answered_though_the_application_does_not_receive(start, client):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            await asyncio.sleep(60)

    one = client(start(app))
    assert shake(one).status == 101
    one.send(frame(1, b"keeps the application busy") + frame(9, b"are you there?"))
    assert read_frame(one) == (10, b"are you there?")
    one.send(frame(8, struct.pack("!H", 1000)))
    assert read_frame(one) == (8, struct.pack("!H", 1000))
    assert one.is_closed()


def test_a_message_in_fragments_with_a_ping_between_is_one_message(start, client):
    one = client(start(Echo()))
    shake(one)
    one.send(frame(1, "grü".encode()[:-1], fin=False) + frame(9, b"!") + frame(0, "ü".encode()[1:] + b"n"))
    assert read_frame(one) == (10, b"!")
    assert read_frame(one) == (1, "grün".encode())


def test_codes_and_reasons_of_the_client_reach_the_application(start):
    app = Echo()
    with connect(url(start(app))) as ws:
        ws.close(4321, "enough")
    wait_until(lambda: app.ends, "the application heard of the end")
    assert app.ends == [{"type": "websocket.disconnect", "code": 4321, "reason": "enough"}]


def test_codes_and_reasons_of_the_application_reach_the_client(start):
    server = start(once({"type": "websocket.accept"}, {"type": "websocket.close", "code": 4000, "reason": "later"}))
    with connect(url(server)) as ws, pytest.raises(ConnectionClosed) as closed:
        ws.recv()
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "later")


def test_an_application_that_returns_closes_with_1000_and_one_that_fails_with_1011(start, caplog):
    for fails, code in ((False, 1000), (True, 1011)):
        server = start(once({"type": "websocket.accept"}, fails=fails))
        with connect(url(server)) as ws, pytest.raises(ConnectionClosed) as closed:
            ws.recv()
        assert closed.value.rcvd.code == code
    wait_until(lambda: "on purpose" in caplog.text, "the failure is told")


def test_a_client_that_vanishes_is_1006_and_sending_to_it_raises_oserror(start, client):
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        seen.append(await receive())
        try:
            await send({"type": "websocket.send", "text": "too late"})
        except OSError:
            seen.append("OSError")

    one = client(start(app))
    shake(one)
    one.reset()
    wait_until(lambda: len(seen) == 2, "the application heard of it")
    assert seen == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}, "OSError"]


def test_a_rejected_client_gets_403(start, client):
    server = start(once({"type": "websocket.close"}))
    with pytest.raises(InvalidStatus) as refused:
        connect(url(server))
    assert refused.value.response.status_code == 403
    one = client(server)
    assert shake(one).status == 403
    assert one.is_closed()  # frames may have been sent behind the request, which are none


def test_a_denial_response_is_sent_as_the_application_gives_it(start, client):
    server = start(
        once(
            {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-why", b"no ticket")]},
            {"type": "websocket.http.response.body", "body": b"no ", "more_body": True},
            {"type": "websocket.http.response.body", "body": b"ticket"},
        )
    )
    answer = shake(client(server))
    assert (answer.status, answer.get("x-why"), answer.body) == (401, "no ticket", b"no ticket")


@pytest.mark.parametrize(
    ("messages", "status"), [((), 403), (({"type": "websocket.http.response.start", "status": 401},), 500)]
)
def test_an_application_that_gives_no_answer_rejects_and_one_that_gives_half_of_it_is_500(
    start, client, caplog, messages, status
):
    assert shake(client(start(once(*messages)))).status == status
    assert "returned without an answer to a websocket" in caplog.text


def test_a_message_has_the_one_key_that_is_set(start, client):
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            seen.append(message)

    one = client(start(app))
    shake(one)
    one.send(frame(1, b"text") + frame(2, b"bytes") + frame(1, b"") + frame(2, b"") + frame(8, b""))
    assert read_frame(one) == (8, b"")
    wait_until(lambda: len(seen) == 4, "all have come")
    assert seen == [
        {"type": "websocket.receive", "text": "text"},
        {"type": "websocket.receive", "bytes": b"bytes"},
        {"type": "websocket.receive", "text": ""},
        {"type": "websocket.receive", "bytes": b""},
    ]


def test_a_handshake_of_another_version_is_426_and_one_without_a_key_400(start, client):
    server = start(Echo())
    answer = shake(client(server), version="8")
    assert (answer.status, answer.get("sec-websocket-version")) == (426, "13")
    assert shake(client(server), key="short").status == 400


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x01a", 1002),  # RFC 6455 5.1: not masked
        (frame(3, b""), 1002),
        (frame(0, b"continues nothing"), 1002),
        (frame(1, b"\xff\xfe"), 1007),
        (frame(9, b"x" * 126), 1002),
        (frame(2, bytes(17 << 20)), 1009),
    ],
)
def test_broken_frames_close_with_the_code_that_names_the_rule(start, client, data, code):
    app = Echo()
    server = start(app)
    one = client(server)
    shake(one)
    try:
        one.send(data)
    except OSError:
        pass  # it was closed while we were sending
    opcode, content = read_frame(one)
    assert (opcode, content[:2]) == (8, struct.pack("!H", code))
    wait_until(lambda: app.ends, "the application heard of it")
    assert app.ends[0]["code"] == code


def test_a_client_that_sends_faster_than_the_application_receives_is_held_back(start, client):
    go = asyncio.Event()
    received = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal received
        await receive()
        await send({"type": "websocket.accept"})
        await go.wait()
        while (message := await receive())["type"] == "websocket.receive":
            received += len(message["bytes"])

    server = start(app)
    one = client(server)
    shake(one)
    one.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    one.sock.settimeout(0.3)
    piece, sent = frame(2, os.urandom(8192)), 0
    try:
        while sent < 100 << 20:
            sent += one.sock.send(piece[sent % len(piece) :])
        pytest.fail("100 MB were taken in")
    except TimeoutError:
        pass
    assert server.stats()["engine"]["buffer_bytes"] < 1 << 20
    server.ask(go.set)
    one.sock.settimeout(5)
    one.send(piece[sent % len(piece) :] + frame(8, b""))
    assert read_frame(one) == (8, b"")
    wait_until(lambda: received == (sent // len(piece) + 1) * 8192, "every message arrived")


def test_a_draining_server_closes_websockets_with_1012_and_waits_for_the_answer(start):
    app = Echo()
    server = start(app, policy=Policy(drain_grace=0, drain_spread=0, drain_timeout=5))
    with connect(url(server)) as ws:
        ws.send("x")
        assert ws.recv() == "x"
        server.loop.call_soon_threadsafe(server.server.shutdown)
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv()
        assert closed.value.rcvd.code == 1012
    wait_until(lambda: app.ends, "the application heard of it")
    assert app.ends[0]["code"] == 1012
    server.stop()


def test_who_answers_no_ping_is_closed_with_1011(start, client):
    one = client(start(Echo(), ws_ping_interval=0.05, ws_ping_timeout=0.8))
    shake(one)
    for _ in range(3):  # each answer begins the time anew
        opcode, said = read_frame(one)
        assert (opcode, len(said)) == (9, 4)
        time.sleep(0.3)
        one.send(frame(10, said))
    assert read_frame(one)[0] == 9
    opcode, content = read_frame(one)
    assert (opcode, content[:2]) == (8, struct.pack("!H", 1011))


@pytest.mark.parametrize("options", [{"ws_ping_interval": 0}, {"ws_ping_interval": 0.05, "ws_ping_timeout": 0}])
def test_pings_and_the_wait_for_their_answer_can_be_turned_off(start, client, options):
    one = client(start(Echo(), **options))
    shake(one)
    if options["ws_ping_interval"]:
        assert read_frame(one)[0] == 9
    time.sleep(0.2)
    one.send(frame(1, b"here"))
    while (got := read_frame(one))[0] == 9 and options["ws_ping_interval"]:
        pass
    assert got == (1, b"here")


def test_the_limit_of_a_message_counts_what_was_compressed(start):
    server = start(Echo(), ws_max_size=1000)
    for compression in ("deflate", None):
        with connect(url(server), compression=compression) as ws:
            ws.send("x" * 1000)
            assert ws.recv() == "x" * 1000
            ws.send("x" * 1001)
            with pytest.raises(ConnectionClosed) as closed:
                ws.recv()
            assert closed.value.rcvd.code == 1009


def test_compression_can_be_turned_off(start):
    with connect(url(start(Echo(), ws_per_message_deflate=False))) as ws:
        assert ws.protocol.extensions == []
        ws.send("plain")
        assert ws.recv() == "plain"


def test_without_the_library_the_request_is_http_and_the_log_says_so_once(start, client, monkeypatch, caplog):
    import sys

    monkeypatch.setitem(sys.modules, "kacore.server.websocket", None)
    server = start(Echo())
    for _ in range(2):
        answer = shake(client(server))
        assert (answer.status, answer.body) == (200, b"http")
    assert caplog.text.count("install kacore[websockets]") == 1
