"""What one websocket client can make a worker hold and do is bounded: pings without end, fragments, small messages,
compressed bombs, and clients that read nothing. On the engine and over transports, plain and over TLS."""

import asyncio
import contextlib
import random
import socket
import ssl
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.client import ClientProtocol
from websockets.sync.client import connect
from websockets.uri import parse_uri

from kacore import Policy
from kacore.server import TLS
from tests.wire.conftest import wait_until
from tests.wire.test_websocket import HANDSHAKE, KEY, frame, read_frame

KIB = 1024
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=12\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory, need: Any) -> tuple[Any, str]:
    path = tmp_path_factory.mktemp("certificates") / "localhost.pem"
    root = need("module:trustme").CA()
    root.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(path))
    return root, str(path)


@pytest.fixture(params=["plain", "tls"])
def serve(request: pytest.FixtureRequest, start: Any, client: Any, authority: Any) -> Any:
    """serve(app, ...) -> (server, opener); opener(fields) is a client whose handshake is done."""
    root, certfile = authority
    is_tls = request.param == "tls"

    def run(app: Any, **options: Any) -> Any:
        server = start(app, **options, **({"tls": TLS(certfile)} if is_tls else {}))

        def opened(fields: str = "", **how: Any) -> Any:
            one = client(server, **how)
            if is_tls:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                root.configure_trust(context)
                one.sock = context.wrap_socket(one.sock, server_hostname="localhost")
            one.send(HANDSHAKE.format(key=KEY, version="13").replace("\r\n\r\n", "\r\n" + fields + "\r\n"))
            assert one.response().status == 101
            return one

        return server, opened

    return run


class Slow:
    """Accepts, and receives nothing before `go`. Counts what it got."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.n_messages = self.n_bytes = 0
        self.end: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await self.go.wait()
        while (message := await receive())["type"] == "websocket.receive":
            self.n_messages += 1
            self.n_bytes += len(message.get("text") or message["bytes"])
        self.end = message


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


def held(server: Any) -> int:
    return int(server.stats()["engine"]["buffer_bytes"])


@contextlib.contextmanager
def no_more_objects_than(server: Any, n: int) -> Iterator[None]:
    """Blocks of memory of the whole process, which the server's thread tells."""
    before = server.ask(sys.getallocatedblocks)
    yield
    assert server.ask(sys.getallocatedblocks) - before < n


def settled(server: Any) -> None:
    """Wait until nothing more happens by itself."""
    seen = -1
    end = time.monotonic() + 10
    while (now := server.n_rounds()) > seen + 2 and time.monotonic() < end:  # asking costs a round or two
        seen = now
        time.sleep(0.02)


def test_pings_of_a_client_that_reads_nothing_take_no_memory_and_are_answered_by_the_last(serve):
    server, opened = serve(echo)
    one = opened(receive_buffer=4096)
    for _ in range(16):
        one.send(frame(9, b"x" * 125) * 500)
    one.send(frame(9, b"the last") + frame(1, b"and a message"))
    assert held(server) < 256 * KIB
    opcode, n_pongs, said = 10, -1, b""
    while opcode == 10:
        last = said
        opcode, said = read_frame(one)
        n_pongs += 1
    assert (opcode, said, last) == (1, b"and a message", b"the last")
    assert 1 <= n_pongs < 1000


def test_a_client_that_takes_nothing_is_closed_at_send_timeout_whatever_it_sends(serve):
    async def streams(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        with contextlib.suppress(OSError):
            while True:
                await send({"type": "websocket.send", "bytes": bytes(65536)})

    server, opened = serve(streams, policy=Policy(send_timeout=0.4))
    one = opened("", receive_buffer=4096)
    one.sock.settimeout(0.05)
    wait_until(lambda: server.phase_count("write") == 1, "the client is waited for")
    assert held(server) < 256 * KIB
    end = time.monotonic() + 10
    while not server.closed("send_timeout"):
        assert time.monotonic() < end, "it is still there"
        with contextlib.suppress(OSError):
            one.sock.send(frame(9, b"I am here"))
        time.sleep(0.02)


def test_empty_fragments_leave_nothing_behind(serve):
    server, opened = serve(echo)
    one = opened()
    one.send(frame(1, b"a", fin=False))
    with no_more_objects_than(server, 10_000):
        for _ in range(20):
            one.send(frame(0, b"", fin=False) * 5_000)
        one.send(frame(9, b"done"))
        assert read_frame(one) == (10, b"done")
        assert held(server) < 256 * KIB
    one.send(frame(0, b"b"))
    assert read_frame(one) == (1, b"ab")


def test_small_messages_are_counted_with_their_objects_and_none_is_lost(serve):
    app = Slow()
    server, opened = serve(app)
    one = opened()
    one.sock.settimeout(5)
    n = 30_000
    with no_more_objects_than(server, 10_000):
        one.send(frame(1, b"x") * n)
        settled(server)
        assert held(server) < 256 * KIB
    server.ask(app.go.set)
    wait_until(lambda: app.n_messages == n, "all of them arrived")
    one.send(frame(8, b""))
    assert read_frame(one) == (8, b"")


def test_a_second_message_is_not_inflated_while_one_waits(serve):
    app = Slow()
    size = 1 << 20
    server, opened = serve(app, ws_max_size=size)
    one = opened(DEFLATE)
    deflater = zlib.compressobj(wbits=-12)
    bombs = b""
    for _ in range(40):
        bombs += frame(2, deflater.compress(bytes(size)) + deflater.flush(zlib.Z_SYNC_FLUSH)[:-4])
    bombs = b"".join(bytes([one_bomb[0] | 0x40]) + one_bomb[1:] for one_bomb in split(bombs))
    assert len(bombs) < 64 * KIB
    one.send(bombs)
    wait_until(lambda: held(server) >= size, "one waits")
    settled(server)
    assert held(server) <= size + 256 * KIB
    server.ask(app.go.set)
    wait_until(lambda: app.n_messages == 40, "all of them arrived")
    assert app.n_bytes == 40 * size


def split(frames: bytes) -> Iterator[bytes]:
    """Frames of less than 64 KiB, one by one."""
    while frames:
        size, head = frames[1] & 127, 6
        if size == 126:
            (size,), head = struct.unpack("!H", frames[2:4]), 8
        yield frames[: head + size]
        frames = frames[head + size :]


def test_inflation_stops_at_the_limit_of_a_message(serve):
    _server, opened = serve(Slow(), ws_max_size=100_000)
    one = opened(DEFLATE)
    deflater = zlib.compressobj(wbits=-12)
    bomb = bytearray(frame(2, deflater.compress(bytes(50 << 20)) + deflater.flush(zlib.Z_SYNC_FLUSH)[:-4]))
    bomb[0] |= 0x40
    with contextlib.suppress(OSError):
        one.send(bytes(bomb))
    assert read_frame(one)[1][:2] == struct.pack("!H", 1009)


def test_a_message_for_which_the_worker_has_no_room_is_refused_with_1013(serve):
    _server, opened = serve(echo, policy=Policy(max_buffer_bytes=2 << 20))
    one, other = opened(), opened()
    with contextlib.suppress(OSError):
        one.send(frame(2, bytes(4 << 20)))
    assert read_frame(one)[1][:2] == struct.pack("!H", 1013)
    other.send(frame(2, bytes(100_000)))
    assert read_frame(other) == (2, bytes(100_000))


def test_the_application_closes_though_messages_wait_that_it_does_not_take(serve):
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await go.wait()

    server, opened = serve(app)
    one = opened()
    one.send(frame(2, bytes(1000)) * 500 + frame(8, b""))
    wait_until(lambda: held(server) > 16 * KIB, "some of them wait")
    server.ask(go.set)
    assert read_frame(one) == (8, struct.pack("!H", 1000))
    assert one.is_closed()


@pytest.mark.parametrize("answers", [b"", None])
def test_frames_that_are_no_answer_to_a_ping_keep_a_client_for_a_while_and_not_for_ever(start, client, answers):
    server = start(echo, ws_ping_interval=0.05, ws_ping_timeout=0.1)
    one = client(server)
    begun = time.monotonic()
    one.send(HANDSHAKE.format(key=KEY, version="13"))
    assert one.response().status == 101
    pong = frame(10, b"") if answers is not None else frame(1, b"")  # it has not read what our ping said
    while server.phase_count("tunnel"):
        assert time.monotonic() < begun + 10, "it is still there"
        with contextlib.suppress(OSError):
            one.send(pong)
        time.sleep(0.02)
    assert time.monotonic() > begun + 0.3


def test_a_client_is_not_judged_by_pings_while_the_application_holds_it_back(start, client):
    app = Slow()
    server = start(app, ws_ping_interval=0.02, ws_ping_timeout=0.2)
    one = client(server)
    one.send(HANDSHAKE.format(key=KEY, version="13"))
    assert one.response().status == 101
    one.send(frame(2, bytes(1000)) * 1000)
    time.sleep(0.5)
    assert server.phase_count("tunnel") == 1
    server.ask(app.go.set)
    wait_until(lambda: app.n_messages == 1000, "nothing was lost")


def test_random_messages_arrive_however_they_are_fragmented_compressed_and_cut(start):
    """Beside the library's own client, which checks what comes back."""
    server = start(echo)
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    letters = "aé€😀\n"
    for compression in ("deflate", None):
        with connect(f"ws://127.0.0.1:{server.port}/", compression=compression) as ws:
            for _ in range(60):
                size = chance.choice((0, 1, 125, 126, 3000, 70_000))
                if chance.random() < 0.5:
                    whole: Any = "".join(chance.choices(letters, k=size))
                else:
                    whole = chance.randbytes(size)
                n = chance.randrange(1, 5)
                cuts = sorted(chance.randrange(len(whole) + 1) for _ in range(n - 1))
                ws.send([whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)])
                if chance.random() < 0.3:
                    ws.ping()
                assert ws.recv() == whole, f"seed {seed}"


def test_a_conversation_byte_by_byte_is_the_same(start, client):
    one = client(start(echo))
    protocol = ClientProtocol(parse_uri("ws://test/"), max_size=None)
    one.send(HANDSHAKE.format(key=KEY, version="13"))
    assert one.response().status == 101
    protocol.state = type(protocol.state).OPEN
    one.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    protocol.send_text("grü".encode()[:-1], fin=False)
    protocol.send_ping(b"?")
    protocol.send_continuation("ü".encode()[1:] + b"n", fin=True)
    protocol.send_binary(bytes(range(200)))
    for byte in b"".join(protocol.data_to_send()):
        one.send(bytes([byte]))
    assert read_frame(one) == (10, b"?")
    assert read_frame(one) == (1, "grün".encode())
    assert read_frame(one) == (2, bytes(range(200)))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(9, b"x", fin=False), 1002),
        (frame(1, b"a", fin=False) + frame(1, b"b"), 1002),
        (bytes([0xC1]) + frame(1, b"a")[1:], 1002),  # compressed, which was not agreed upon
        (bytes([0x91]) + frame(1, b"a")[1:], 1002),
        (b"\x82\xff" + b"\xff" * 8 + bytes(4), 1002),  # longer than 2^63
        (frame(11, b""), 1002),
        (frame(1, b"\xf0\x9f", fin=False) + frame(0, b""), 1007),  # half a character at the end
        (frame(1, b"\xed\xa0\x80"), 1007),  # half a surrogate pair
        (frame(1, b"\xc0\x80"), 1007),  # overlong
        (frame(1, b"\xf4\x90\x80\x80"), 1007),  # beyond U+10FFFF
        (frame(8, b"x"), 1002),
        (frame(8, struct.pack("!H", 1005)), 1002),
        (frame(8, struct.pack("!H", 1000) + b"\xff"), 1007),
    ],
)
def test_every_rule_about_frames_closes_with_its_code(start, client, data, code):
    one = client(start(echo))
    one.send(HANDSHAKE.format(key=KEY, version="13"))
    assert one.response().status == 101
    one.send(data)
    opcode, content = read_frame(one)
    assert (opcode, content[:2]) == (8, struct.pack("!H", code))
