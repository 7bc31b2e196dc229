"""Frames and field blocks: one test for each MUST of RFC 9113 sections 3 to 6 and of RFC 7541, seen from outside.

A row is what is sent, and what comes of it: a connection error, a stream error, an answer, or nothing.
"""

import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.wire import http2_client as h2
from tests.wire.http2_client import (
    ACK,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    HAS_PRIORITY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_UPDATE,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    Client,
    frame,
    integer,
    literal,
    literals,
    request,
    settings,
)
from tests.wire.http2_expect import ANSWERS, CLOSES, GOAWAY, IGNORES, RESETS, answers
from tests.wire.http2_house import needs_http2

pytestmark = needs_http2

GET = literals(request())
POST = literals(request("/echo", "POST"))
GET_STATIC = b"\x82\x86\x84" + literal(":authority", "test")  # GET, http, /: names of the static table
U32 = struct.Struct("!I")


# -- states of a stream, by what any server does -----------------------------------------------------------------


def opened(c: Client) -> int:
    """Open on both sides: its content has not ended."""
    stream = c.get("/echo", method="POST", end=False)
    c.settle()
    return stream


def half_closed(c: Client) -> int:
    """Our side has ended; the server's cannot, since it has no window."""
    c.settings({INITIAL_WINDOW_SIZE: 0})
    stream = c.get("/bytes/1000")
    c.until(lambda: c.streams[stream].status, "the head of the response")
    return stream


def closed(c: Client) -> int:
    stream = c.get("/")
    c.answer(stream)
    return stream


def reset_by_us(c: Client) -> int:
    stream = opened(c)
    c.reset(stream).settle()
    return stream


def reset_by_server(c: Client) -> int:
    """A malformed request is a stream error; its content may be on the way."""
    stream = c.raw([*request("/echo", "POST"), ("Bad", "name")], end=False)
    c.until(lambda: c.streams[stream].is_over, "the reset")
    return stream


def promised(n: int) -> bytes:
    return U32.pack(n) + GET


# -- rows: name, what is sent (returns the stream that it is about), what comes of it -------------------------------

Row = tuple[str, Callable[[Client], Any], Any]
GO = (WINDOW_UPDATE, 0, U32.pack(1000))  # lets a half-closed stream have what it waits for


def sends(*frames: tuple[Any, ...]) -> Callable[[Client], None]:
    """Frames of no stream that was opened."""
    return lambda c: [c.frame(*one) for one in frames] and None


def on(state: Callable[[Client], int], *frames: tuple[Any, ...]) -> Callable[[Client], int]:
    """Frames (type, flags, payload) on a stream in that state."""

    def act(c: Client) -> int:
        stream = state(c)
        for kind, flags, payload in frames:
            c.frame(kind, flags, stream, payload)
            if kind == WINDOW_UPDATE and len(payload) == 4:
                c.streams[stream].window += U32.unpack(payload)[0]
        return stream

    return act


def new(*frames: tuple[Any, ...]) -> Callable[[Client], int]:
    """Frames (type, flags, payload) of a stream that they open."""
    return on(lambda c: c.open(c.number()).number, *frames)


def then(*acts: Callable[[Client], Any]) -> Callable[[Client], Any]:
    """One after the other; it is about the last one's stream."""
    return lambda c: [act(c) for act in acts][-1]


def asks(c: Client) -> int:
    return c.get("/")


def update_of(stream: int, value: bytes) -> tuple[int, int, int, bytes]:
    return (PRIORITY_UPDATE, 0, 0, U32.pack(stream) + value)


FRAMES: list[Row] = [
    # 4.1
    ("4.1 an unknown type is ignored", sends((0x42, 0xFF, 0, b"anything")), IGNORES),
    ("4.1 an unknown type on a stream is ignored", on(opened, (0x42, 0xFF, b"x" * 16384)), IGNORES),
    ("4.1 an unknown type on an idle stream is ignored", sends((0xFE, 0, 1001, b"x")), IGNORES),
    ("4.1 an empty unknown frame is ignored", sends((0x42, 0, 0, b"")), IGNORES),
    ("4.1 flags that a type has not mean nothing", new((HEADERS, END_HEADERS | END_STREAM | 0xD2 & ~0x28, GET)), ANSWERS),
    ("4.1 flags of PING", sends((PING, 0xFE, 0, b"12345678")), IGNORES),
    ("4.1 flags of WINDOW_UPDATE", sends((WINDOW_UPDATE, 0xFF, 0, U32.pack(1))), IGNORES),
    ("4.1 the reserved bit of the stream", sends((PING, 0, 0x80000000, b"12345678")), IGNORES),
    (
        "4.1 the reserved bit of a request",
        lambda c: c.frame(HEADERS, END_HEADERS | END_STREAM, 0x80000000 | c.open(c.number()).number, GET) and 1,
        ANSWERS,
    ),
    # 4.2
    ("4.2 a frame of 16384 bytes is taken", then(on(opened, (DATA, END_STREAM, b"x" * 16384))), answers(200, b"x" * 16384)),
    (
        "4.2 PING over the limit",
        sends((PING, 0, 0, b"x" * 16385)),
        GOAWAY(FRAME_SIZE_ERROR),
    ),
    ("4.2 SETTINGS over the limit", sends((SETTINGS, 0, 0, settings({0x77: 1}) * 2731)), GOAWAY(FRAME_SIZE_ERROR)),
    ("4.2 HEADERS over the limit", new((HEADERS, END_HEADERS | END_STREAM, GET + b"x" * 16384)), GOAWAY(FRAME_SIZE_ERROR)),
    ("4.2 DATA over the limit", on(opened, (DATA, 0, b"x" * 16385)), RESETS(FRAME_SIZE_ERROR)),
    ("4.2 CONTINUATION over the limit", new((HEADERS, 0, GET), (CONTINUATION, 4, b"x" * 16385)), GOAWAY(FRAME_SIZE_ERROR)),
    # 4.3
    ("4.3 a field block that does not decode", new((HEADERS, END_HEADERS | END_STREAM, b"\x80")), GOAWAY(COMPRESSION_ERROR)),
    (
        "4.3 PING inside a field block",
        new((HEADERS, END_STREAM, GET), (PING, 0, b"12345678")),
        GOAWAY(PROTOCOL_ERROR),
    ),
    ("4.3 DATA inside a field block", new((HEADERS, 0, GET), (DATA, END_STREAM, b"x")), GOAWAY(PROTOCOL_ERROR)),
    ("4.3 PRIORITY inside a field block", new((HEADERS, 0, GET), (PRIORITY, 0, b"\0\0\0\0\1")), GOAWAY(PROTOCOL_ERROR)),
    ("4.3 an unknown type inside a field block", new((HEADERS, 0, GET), (0x42, 0, b"")), GOAWAY(PROTOCOL_ERROR)),
    ("4.3 HEADERS inside a field block", new((HEADERS, 0, GET), (HEADERS, 4, GET)), GOAWAY(PROTOCOL_ERROR)),
    (
        "4.3 HEADERS of another stream inside a field block",
        lambda c: c.send(frame(HEADERS, 1, c.open(1).number, GET) + frame(HEADERS, 5, c.open(3).number, GET)) and None,
        GOAWAY(PROTOCOL_ERROR),
    ),
    # 5.1
    ("5.1 DATA on an idle stream", sends((DATA, 0, 1, b"x")), GOAWAY(PROTOCOL_ERROR)),
    ("5.1 RST_STREAM on an idle stream", sends((RST_STREAM, 0, 1, U32.pack(8))), GOAWAY(PROTOCOL_ERROR)),
    ("5.1 WINDOW_UPDATE on an idle stream", sends((WINDOW_UPDATE, 0, 1, U32.pack(8))), GOAWAY(PROTOCOL_ERROR)),
    ("5.1 WINDOW_UPDATE on a stream of the server's", sends((WINDOW_UPDATE, 0, 2, U32.pack(8))), GOAWAY(PROTOCOL_ERROR)),
    ("5.1 WINDOW_UPDATE by 0 on an idle stream", sends((WINDOW_UPDATE, 0, 1, bytes(4))), GOAWAY(PROTOCOL_ERROR)),
    (
        "5.1 DATA over the limit on an idle stream",
        sends((DATA, 0, 1, b"x" * 16385)),
        GOAWAY(PROTOCOL_ERROR, FRAME_SIZE_ERROR),
    ),
    (
        "5.1 DATA of a wrong size on an idle stream",
        sends((DATA, PADDED, 1, b"")),
        GOAWAY(PROTOCOL_ERROR, FRAME_SIZE_ERROR),
    ),
    # RST_STREAM must not be sent for an idle stream (6.4), so this is no error of the stream there.
    ("6.3 PRIORITY of 4 bytes on an idle stream", sends((PRIORITY, 0, 1, bytes(4))), GOAWAY(FRAME_SIZE_ERROR)),
    ("5.1 PRIORITY on an idle stream", sends((PRIORITY, 0, 1, b"\0\0\0\0\1")), IGNORES),
    ("5.1 DATA after END_STREAM", on(half_closed, (DATA, 0, b"x")), RESETS(STREAM_CLOSED)),
    ("5.1 HEADERS after END_STREAM", on(half_closed, (HEADERS, 5, GET)), RESETS(STREAM_CLOSED)),
    ("5.1 PRIORITY after END_STREAM", on(half_closed, (PRIORITY, 0, b"\0\0\0\0\1"), GO), answers(200, b"y" * 1000)),
    ("5.1 WINDOW_UPDATE after END_STREAM", on(half_closed, GO), answers(200, b"y" * 1000)),
    ("5.1 WINDOW_UPDATE on a closed stream", on(closed, (WINDOW_UPDATE, 0, U32.pack(1))), IGNORES),
    ("5.1 RST_STREAM on a closed stream", on(closed, (RST_STREAM, 0, U32.pack(8))), IGNORES),
    ("5.1 PRIORITY on a closed stream", on(closed, (PRIORITY, 0, b"\0\0\0\0\1")), IGNORES),
    ("5.1 WINDOW_UPDATE on a stream we reset", on(reset_by_us, (WINDOW_UPDATE, 0, U32.pack(1))), IGNORES),
    ("5.1 PRIORITY on a stream we reset", on(reset_by_us, (PRIORITY, 0, b"\0\0\0\0\1")), IGNORES),
    ("5.1 DATA on a stream that the server reset", on(reset_by_server, (DATA, 1, b"x" * 1000)), IGNORES),
    ("5.1 WINDOW_UPDATE on a stream that the server reset", on(reset_by_server, (WINDOW_UPDATE, 0, U32.pack(9))), IGNORES),
    ("5.1 RST_STREAM on a stream that the server reset", on(reset_by_server, (RST_STREAM, 0, U32.pack(8))), IGNORES),
    # 5.1.1
    ("5.1.1 an even number", sends((HEADERS, 5, 2, GET)), GOAWAY(PROTOCOL_ERROR)),
    ("5.1.1 numbers may be left out", then(lambda c: c.skip(5), asks), ANSWERS),
    (
        "5.1.1 a lower number that was left out",
        then(lambda c: c.skip(2), closed, sends((HEADERS, 5, 3, GET))),
        GOAWAY(PROTOCOL_ERROR, STREAM_CLOSED),
    ),
    # 6.1
    ("6.1 DATA on stream 0", sends((DATA, 0, 0, b"x")), GOAWAY(PROTOCOL_ERROR)),
    ("6.1 padding is taken away", on(opened, (DATA, 9, b"\x05hello" + bytes(5))), answers(200, b"hello")),
    ("6.1 nothing but padding", on(opened, (DATA, 9, b"\xff" + bytes(255))), answers(200, b"")),
    ("6.1 padding as long as the frame", on(opened, (DATA, PADDED, b"\x06hello")), GOAWAY(PROTOCOL_ERROR)),
    ("6.1 padding longer than the frame", on(opened, (DATA, PADDED, b"\xff")), GOAWAY(PROTOCOL_ERROR)),
    ("6.1 no room for the length of padding", on(opened, (DATA, PADDED, b"")), RESETS(FRAME_SIZE_ERROR)),
    ("6.1 an empty frame with END_STREAM", on(opened, (DATA, 0, b"abc"), (DATA, 1, b"")), answers(200, b"abc")),
    # 6.2
    ("6.2 HEADERS on stream 0", sends((HEADERS, 5, 0, GET)), GOAWAY(PROTOCOL_ERROR)),
    ("6.2 padding", new((HEADERS, 5 | PADDED, b"\x10" + GET + bytes(16))), ANSWERS),
    ("6.2 padding and priority", new((HEADERS, 0x2D, b"\x03" + b"\0\0\0\0\x10" + GET + bytes(3))), ANSWERS),
    ("6.2 padding as long as the frame", new((HEADERS, 5 | PADDED, bytes([len(GET) + 1]) + GET)), GOAWAY(PROTOCOL_ERROR)),
    ("6.2 padding over priority", new((HEADERS, 0x2D, b"\x01" + b"\0\0\0\0\1")), GOAWAY(PROTOCOL_ERROR)),
    ("6.2 no room for the length of padding", new((HEADERS, 5 | PADDED, b"")), GOAWAY(FRAME_SIZE_ERROR)),
    ("6.2 no room for the priority", new((HEADERS, 5 | HAS_PRIORITY, b"\0\0\0\0")), GOAWAY(FRAME_SIZE_ERROR)),
    ("6.2 an exclusive priority of a stream that is not there", new((HEADERS, 0x25, b"\x80\0\0\x63\xff" + GET)), ANSWERS),
    # 6.3: priorities are not used, so what they say is not judged, and their size is
    ("6.3 PRIORITY on stream 0", sends((PRIORITY, 0, 0, b"\0\0\0\0\1")), GOAWAY(PROTOCOL_ERROR)),
    ("6.3 PRIORITY of 4 bytes", on(opened, (PRIORITY, 0, b"\0\0\0\0")), RESETS(FRAME_SIZE_ERROR)),
    ("6.3 PRIORITY of 6 bytes", on(opened, (PRIORITY, 0, b"\0\0\0\0\0\0")), RESETS(FRAME_SIZE_ERROR)),
    # 6.4
    ("6.4 RST_STREAM on stream 0", sends((RST_STREAM, 0, 0, U32.pack(8))), GOAWAY(PROTOCOL_ERROR)),
    ("6.4 RST_STREAM of 3 bytes", on(opened, (RST_STREAM, 0, b"\0\0\0")), GOAWAY(FRAME_SIZE_ERROR)),
    ("6.4 RST_STREAM of 5 bytes", on(opened, (RST_STREAM, 0, b"\0\0\0\0\0")), GOAWAY(FRAME_SIZE_ERROR)),
    ("6.4 RST_STREAM is not answered", on(opened, (RST_STREAM, 0, U32.pack(8))), IGNORES),
    ("7 an unknown error code means no more than others", on(opened, (RST_STREAM, 0, U32.pack(0xDEADBEEF))), IGNORES),
    # 6.5
    ("6.5 SETTINGS on a stream", sends((SETTINGS, 0, 1, b"")), GOAWAY(PROTOCOL_ERROR)),
    ("6.5 an acknowledgement with content", sends((SETTINGS, ACK, 0, settings({1: 1}))), GOAWAY(FRAME_SIZE_ERROR)),
    ("6.5 a length that is no multiple of 6", sends((SETTINGS, 0, 0, b"12345")), GOAWAY(FRAME_SIZE_ERROR)),
    ("6.5 empty SETTINGS", lambda c: c.settings({}) and None, IGNORES),
    ("6.5.2 ENABLE_PUSH 0 and 1", lambda c: c.settings({2: 0}).settings({2: 1}) and None, IGNORES),
    ("6.5.2 ENABLE_PUSH 2", sends((SETTINGS, 0, 0, settings({2: 2}))), GOAWAY(PROTOCOL_ERROR)),
    ("6.5.2 INITIAL_WINDOW_SIZE 2^31-1", lambda c: c.settings({4: 2**31 - 1}) and None, IGNORES),
    ("6.5.2 INITIAL_WINDOW_SIZE 2^31", sends((SETTINGS, 0, 0, settings({4: 2**31}))), GOAWAY(FLOW_CONTROL_ERROR)),
    ("6.5.2 MAX_FRAME_SIZE 16383", sends((SETTINGS, 0, 0, settings({5: 16383}))), GOAWAY(PROTOCOL_ERROR)),
    ("6.5.2 MAX_FRAME_SIZE 2^24", sends((SETTINGS, 0, 0, settings({5: 2**24}))), GOAWAY(PROTOCOL_ERROR)),
    ("6.5.2 MAX_FRAME_SIZE 2^24-1", lambda c: c.settings({5: 2**24 - 1}) and None, IGNORES),
    ("6.5.2 MAX_CONCURRENT_STREAMS 0", lambda c: c.settings({3: 0}) and None, IGNORES),
    ("6.5.2 HEADER_TABLE_SIZE of any value", lambda c: c.settings({1: 2**32 - 1}) and None, IGNORES),
    ("6.5.2 MAX_HEADER_LIST_SIZE is advice", lambda c: c.settings({6: 65536}) and None, IGNORES),
    ("6.5.2 an unknown setting", lambda c: c.settings({0xABCD: 7, 0: 1}) and None, IGNORES),
    ("RFC 8441 3 ENABLE_CONNECT_PROTOCOL 2", sends((SETTINGS, 0, 0, settings({8: 2}))), GOAWAY(PROTOCOL_ERROR)),
    ("RFC 9218 2.1 NO_RFC7540_PRIORITIES 2", sends((SETTINGS, 0, 0, settings({9: 2}))), GOAWAY(PROTOCOL_ERROR)),
    # 6.6, 8.4
    ("8.4 PUSH_PROMISE of a client", on(opened, (PUSH_PROMISE, 4, promised(2))), GOAWAY(PROTOCOL_ERROR)),
    ("8.4 PUSH_PROMISE on stream 0", sends((PUSH_PROMISE, 4, 0, promised(2))), GOAWAY(PROTOCOL_ERROR)),
    # 6.7
    ("6.7 PING on a stream", sends((PING, 0, 1, b"12345678")), GOAWAY(PROTOCOL_ERROR)),
    ("6.7 PING of 7 bytes", sends((PING, 0, 0, b"1234567")), GOAWAY(FRAME_SIZE_ERROR)),
    ("6.7 PING of 9 bytes", sends((PING, 0, 0, b"123456789")), GOAWAY(FRAME_SIZE_ERROR)),
    ("6.7 an acknowledgement that nobody waits for", sends((PING, ACK, 0, b"12345678")), IGNORES),
    # 6.8
    ("6.8 GOAWAY on a stream", sends((h2.GOAWAY, 0, 1, bytes(8))), GOAWAY(PROTOCOL_ERROR)),
    ("6.8 GOAWAY of 7 bytes", sends((h2.GOAWAY, 0, 0, bytes(7))), GOAWAY(FRAME_SIZE_ERROR)),
    # 6.9
    ("6.9 WINDOW_UPDATE of a stream by 0", on(opened, (WINDOW_UPDATE, 0, bytes(4))), RESETS(PROTOCOL_ERROR)),
    ("6.9 WINDOW_UPDATE of the connection by 0", sends((WINDOW_UPDATE, 0, 0, bytes(4))), GOAWAY(PROTOCOL_ERROR)),
    ("6.9 the reserved bit of the increment", sends((WINDOW_UPDATE, 0, 0, U32.pack(0x80000001))), IGNORES),
    ("6.9 WINDOW_UPDATE of 3 bytes", sends((WINDOW_UPDATE, 0, 0, bytes(3))), GOAWAY(FRAME_SIZE_ERROR)),
    ("6.9 WINDOW_UPDATE of 5 bytes", on(opened, (WINDOW_UPDATE, 0, bytes(5))), GOAWAY(FRAME_SIZE_ERROR)),
    (
        "6.9.1 the window of a stream over 2^31-1",
        on(opened, (WINDOW_UPDATE, 0, U32.pack(2**31 - 1))),
        RESETS(FLOW_CONTROL_ERROR),
    ),
    (
        "6.9.1 the window of the connection over 2^31-1",
        sends((WINDOW_UPDATE, 0, 0, U32.pack(2**31 - 1))),
        GOAWAY(FLOW_CONTROL_ERROR),
    ),
    ("6.9.1 the window of the connection of 2^31-1", lambda c: c.update(0, 2**31 - 65536) and None, IGNORES),
    (
        "6.9.2 a stream's window over 2^31-1 by SETTINGS",
        lambda c: c.update(opened(c), 1).frame(SETTINGS, 0, 0, settings({4: 2**31 - 1})) and None,
        GOAWAY(FLOW_CONTROL_ERROR),
    ),
    # 6.10
    ("6.10 CONTINUATION of nothing", sends((CONTINUATION, 4, 1, GET)), GOAWAY(PROTOCOL_ERROR)),
    ("6.10 CONTINUATION on stream 0", sends((CONTINUATION, 4, 0, GET)), GOAWAY(PROTOCOL_ERROR)),
    ("6.10 CONTINUATION after END_HEADERS", on(opened, (CONTINUATION, 4, GET)), GOAWAY(PROTOCOL_ERROR)),
    (
        "6.10 CONTINUATION of another stream",
        lambda c: c.send(frame(HEADERS, 1, c.open(1).number, GET) + frame(CONTINUATION, 4, 3, b"")) and None,
        GOAWAY(PROTOCOL_ERROR),
    ),
    (
        "6.10 a field block in three frames",
        new((HEADERS, 1, GET[:5]), (CONTINUATION, 0, GET[5:9]), (CONTINUATION, 4, GET[9:])),
        ANSWERS,
    ),
    ("6.10 an empty HEADERS before the block", new((HEADERS, 1, b""), (CONTINUATION, 4, GET)), ANSWERS),
    ("6.10 an empty CONTINUATION behind the block", new((HEADERS, 1, GET), (CONTINUATION, 4, b"")), ANSWERS),
    # RFC 9218
    ("RFC 9218 7.1 PRIORITY_UPDATE of an open stream", lambda c: c.frame(*update_of(opened(c), b"u=1, i")) and None, IGNORES),
    ("RFC 9218 7.1 PRIORITY_UPDATE of an idle stream", sends(update_of(11, b"u=7")), IGNORES),
    ("RFC 9218 7.1 PRIORITY_UPDATE that does not parse", sends(update_of(1, b"u=\xff;;;")), IGNORES),
    ("RFC 9218 7.1 PRIORITY_UPDATE on a stream", sends((PRIORITY_UPDATE, 0, 1, bytes(4))), GOAWAY(PROTOCOL_ERROR)),
    ("RFC 9218 7.1 PRIORITY_UPDATE of stream 0", sends(update_of(0, b"u=1")), GOAWAY(PROTOCOL_ERROR)),
    ("RFC 9218 7.1 PRIORITY_UPDATE of 3 bytes", sends((PRIORITY_UPDATE, 0, 0, bytes(3))), GOAWAY(FRAME_SIZE_ERROR)),
]


# -- RFC 7541 -------------------------------------------------------------------------------------------------------

INDEXED, INCREMENTAL, SIZE = 0x80, 0x40, 0x20
VALUE = b"\x00\x01a"  # a literal's name; its value follows


def block(*parts: bytes) -> Callable[[Client], int]:
    return lambda c: c.block(b"".join(parts))


BAD_BLOCKS: list[tuple[str, bytes]] = [
    ("2.3.3 index 0", GET + integer(0, 7, INDEXED)),
    ("2.3.3 an index behind the tables", GET + integer(62, 7, INDEXED)),
    ("2.3.3 a name's index behind the tables", GET + integer(62, 6, INCREMENTAL) + b"\x01b"),
    ("2.3.3 a huge index", GET + integer(2**31, 7, INDEXED)),
    ("5.1 an integer over 2^64", GET + b"\xff" + b"\xff" * 9 + b"\x7f"),
    ("5.1 an integer that never ends", GET + b"\xff" + b"\x80" * 30),
    ("5.1 an integer that is not whole", GET + b"\xff\x80"),
    ("5.2 a length behind the block", GET + b"\x00\x01a\x05abcd"),
    ("5.2 a name's length behind the block", GET + b"\x00\x7f" + integer(1000, 7)[1:] + b"a"),
    ("5.2 a literal without its value", GET + b"\x00\x01a"),
    ("5.2 a literal without its name", GET + b"\x40"),
    ("5.2 Huffman padding of 8 bits", GET + VALUE + b"\x82\x1f\xff"),
    ("5.2 Huffman padding of zeros", GET + VALUE + b"\x81\x18"),
    ("5.2 EOS in a string", GET + VALUE + b"\x84\xff\xff\xff\xff"),
    ("4.2 a size update behind a field", GET + integer(0, 5, SIZE)),
    ("6.3 a size update over the limit", integer(2**20, 5, SIZE) + GET),
    ("6.3 a size update over the limit, behind one below", integer(0, 5, SIZE) + integer(2**20, 5, SIZE) + GET),
]

GOOD_BLOCKS: list[tuple[str, bytes]] = [
    ("6.1 indexed fields of the static table", GET_STATIC),
    ("6.2.1 literals with indexing", GET + b"\x40\x01a\x01b" + integer(62, 7, INDEXED)),
    ("6.2.3 literals that are never indexed", GET + b"\x10\x01a\x01b"),
    ("4.2 size updates at the beginning", integer(0, 5, SIZE) + integer(100, 5, SIZE) + GET),
    ("4.4 a field larger than the table empties it", integer(64, 5, SIZE) + GET + b"\x40\x01a\x40" + b"b" * 64),
    ("5.2 Huffman", GET_STATIC[:3] + b"\x41\x83" + b"\x49\x50\x9f"),  # "test"
    ("5.2 an empty value", GET + VALUE + b"\x00"),
    ("5.2 an empty value in Huffman", GET + VALUE + b"\x80"),
    ("5.1 an integer with zeros at its end", GET + b"\x00\x01a\x7f\x81\x80\x00" + b"b" * 128),
]


# -- the beginning of a connection ------------------------------------------------------------------------------------

OPENINGS: list[tuple[str, bytes, Any]] = [
    ("PING before SETTINGS", PREFACE + frame(PING, 0, 0, bytes(8)), GOAWAY(PROTOCOL_ERROR)),
    ("HEADERS before SETTINGS", PREFACE + frame(HEADERS, 5, 1, GET), GOAWAY(PROTOCOL_ERROR)),
    ("an acknowledgement before SETTINGS", PREFACE + frame(SETTINGS, ACK, 0), GOAWAY(PROTOCOL_ERROR)),
    ("the end of the preface is wrong", PREFACE[:-1] + b"X" + frame(SETTINGS, 0, 0), CLOSES(PROTOCOL_ERROR)),
    ("the second half of the preface is wrong", PREFACE[:18] + b"XX\r\n\r\n", CLOSES(PROTOCOL_ERROR)),
    ("SETTINGS with a bad value", PREFACE + frame(SETTINGS, 0, 0, settings({2: 7})), GOAWAY(PROTOCOL_ERROR)),
]


def names(rows: Any) -> list[str]:
    assert len({row[0] for row in rows}) == len(rows)
    return [row[0] for row in rows]


@pytest.mark.parametrize(("_", "act", "expected"), FRAMES, ids=names(FRAMES))
def test_frame(house, _, act, expected):
    c = house.connect()
    expected.check(c, act(c))


@pytest.mark.parametrize(("_", "act", "expected"), FRAMES, ids=names(FRAMES))
def test_frame_in_pieces(house, _, act, expected):
    c = house.connect(piece=7)
    expected.check(c, act(c))


@pytest.mark.parametrize(("_", "bad"), BAD_BLOCKS, ids=names(BAD_BLOCKS))
def test_a_block_that_is_not_hpack_ends_the_connection(house, _, bad):
    before = house.counts_or_none()
    c = house.connect()
    c.block(bad)
    GOAWAY(COMPRESSION_ERROR).check(c, None)
    assert house.counts_or_none() == before


@pytest.mark.parametrize(("_", "good"), GOOD_BLOCKS, ids=names(GOOD_BLOCKS))
def test_a_block_that_is_hpack_is_read(house, _, good):
    c = house.connect()
    ANSWERS.check(c, c.block(good))


@pytest.mark.parametrize(("_", "data", "expected"), OPENINGS, ids=names(OPENINGS))
def test_opening(house, _, data, expected):
    c = house.connect(begins=False)
    c.open(1)
    c.send(data)
    expected.check(c, None)


def test_the_preface_may_come_in_any_pieces(house):
    for cut in (1, 3, 14, 16, 18, 23, 24, 25, 30, 33, 40):
        c = house.connect(begins=False)
        whole = PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 5, 1, GET)
        c._waiting.append({})
        one = c.open(1)
        c.send(whole[:cut])
        house.look()
        c.send(whole[cut:])
        c.answer(1)
        assert one.data == b"hello\n", cut


def test_frames_may_come_byte_by_byte(house):
    c = house.connect()
    stream = c.open(c.number()).number
    for byte in frame(HEADERS, END_HEADERS | PADDED, stream, b"\x02" + POST + bytes(2)) + frame(DATA, 9, stream, b"\2hi\0\0"):
        c.send(bytes([byte]))
    answers(200, b"hi").check(c, stream)


def test_requests_need_not_wait_for_the_servers_settings(house):
    c = house.connect(begins=False)
    c._waiting.append({})
    c.open(1)
    c.send(PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 5, 1, GET) + frame(PING, 0, 0, b"12345678"))
    assert c.answer(1).data == b"hello\n"
    c.until(lambda: c.n_acks == 1 and c.pongs == [b"12345678"])


def test_3_4_the_servers_first_frame_is_settings_and_ours_are_acknowledged_in_order(house):
    c = house.connect()
    for _ in range(3):
        c.settings({INITIAL_WINDOW_SIZE: 70_000})
    c.settle()
    assert c.log[0].type == SETTINGS and not c.log[0].flags & ACK
    assert c.n_acks == 4


def test_6_5_3_settings_are_applied_in_order_and_the_last_of_a_kind_counts(house):
    c = house.connect()
    c.frame(SETTINGS, 0, 0, settings([(4, 0), (4, 70_000), (4, 10)]))
    c._waiting[-1] = {INITIAL_WINDOW_SIZE: 10}
    c.takes = False
    stream = c.get("/bytes/1000")
    c.until(lambda: len(c.streams[stream].data) == 10)
    c.settle()
    assert len(c.streams[stream].data) == 10


def test_6_7_ping_is_answered_with_its_eight_bytes(house):
    c = house.connect()
    for mark in (b"\0" * 8, b"\xff" * 8, b"12345678"):
        c.frame(PING, 0, 0, mark)
        c.until(lambda mark=mark: c.pongs[-1:] == [mark])


def test_the_largest_stream_number_is_the_last_one(house):
    c = house.connect()
    stream = c.block(GET, 2**31 - 1)
    assert c.answer(stream).data == b"hello\n"
    c.settle()


def test_5_1_a_closed_stream_gives_no_second_response(house):
    """HEADERS there may be an error of the connection or of the stream, or be passed over."""
    c = house.connect()
    stream = closed(c)
    before = house.counts_or_none()
    c.frame(HEADERS, 5, stream, GET + b"\x40\x01a\x01b")
    c.streams[stream].is_ended = False
    stale = c.streams[stream]
    while not c.goaways and stale.reset is None and not c.pongs:
        c.frame(PING, 0, 0, b"12345678")
        if c.read() is None:
            break
    assert len(stale.heads) == 1
    assert all(code in (STREAM_CLOSED, PROTOCOL_ERROR) for _, code in c.goaways)
    assert stale.reset in (None, STREAM_CLOSED)
    assert house.counts_or_none() == before


def test_5_1_data_on_a_closed_stream_costs_no_other_stream_its_window(house):
    """RFC 9113 5.1, 6.9: what comes for a stream that the server has reset counts, and is given back."""
    c = house.connect()
    window = c.settle().send_window
    for _ in range(6):
        stream = reset_by_server(c)
        c.data(stream, b"x" * 16384)
    c.settle()
    stream = c.get("/echo", method="POST", end=False)
    c.upload(stream, b"y" * 100)
    assert c.answer(stream).data == b"y" * 100
    c.until(lambda: c.send_window > window // 2, "the window of the connection is given back")


def test_4_3_1_the_servers_encoder_takes_to_a_smaller_table(house):
    c = house.connect(values={h2.HEADER_TABLE_SIZE: 0})
    c.decoder.header_table_size = 4096
    for _ in range(3):
        assert c.ask("/").status == 200
    assert c.decoder.header_table_size == 0, "no size update came (RFC 7541 4.2)"


def test_4_3_1_the_servers_encoder_takes_to_a_table_that_shrinks_and_grows_again(house):
    c = house.connect()
    assert c.ask("/").status == 200
    c.settings({h2.HEADER_TABLE_SIZE: 0}).settings({h2.HEADER_TABLE_SIZE: 4096}).settle()
    for _ in range(3):
        assert c.ask("/").status == 200


def test_4_3_1_a_block_without_the_size_update_that_the_servers_settings_ask_for_is_an_error(house):
    """Only where the server has made its table smaller than the 4,096 bytes that fields were put into."""
    c = house.connect(answers=False)
    c.settle()
    smaller = c.theirs.get(h2.HEADER_TABLE_SIZE, 4096)
    if smaller >= 4096:
        pytest.skip("this server's table has 4,096 bytes or more")
    # In the table while it may still be as large as it begins.
    stream = c.block(GET + b"".join(b"\x40\x08x-%06d\x64" % i + b"v" * 100 for i in range(28)))
    assert c.answer(stream).status == 200
    c.frame(SETTINGS, ACK, 0).settle()
    c.block(GET)
    GOAWAY(COMPRESSION_ERROR).check(c, None)


def test_fields_of_a_stream_that_was_refused_stay_in_the_table(house):
    """RFC 9113 4.3: every field block is decoded, also that of a malformed request."""
    c = house.connect()
    bad = c.block(GET + literal("Bad", "x") + b"\x40\x05x-key\x05value", end=True)
    RESETS(PROTOCOL_ERROR).check(c, bad)
    stream = c.block(GET + integer(62, 7, INDEXED))
    assert c.answer(stream).status == 200
