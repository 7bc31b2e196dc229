"""A client of HTTP/2 that says any frames, legal or not, and holds the server to RFC 9113 in all it reads.

It knows frames and flow control, and no policy: what is sent is what a test asks for. Every frame of the server is
judged as it comes (`_judge`), so each test is also a test of what a server may send. Field blocks are by `hpack`.
"""

import contextlib
import itertools
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from tests.conftest import module

hpack = module("hpack")

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATIENCE = 20.0  # seconds; it only delays a test that fails anyway

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
PRIORITY_UPDATE = 0x10
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, HAS_PRIORITY = 0x4, 0x8, 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED = range(6)
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = range(6, 12)
INADEQUATE_SECURITY, HTTP_1_1_REQUIRED = 12, 13

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = range(1, 6)
MAX_HEADER_LIST_SIZE, ENABLE_CONNECT_PROTOCOL, NO_RFC7540_PRIORITIES = 6, 8, 9

MAX_WINDOW = 2**31 - 1
LAST_STREAM = 2**31 - 1  # in a GOAWAY: "whatever you have sent" (RFC 9113 6.8)
CONNECTION_FIELDS = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
FIXED_LENGTHS = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}

Fields = list[tuple[str, str]]


class Silence(AssertionError):
    """Nothing came for as long as the client waits."""


class Frame(NamedTuple):
    type: int
    flags: int
    stream: int
    payload: bytes


class Stream:
    """What came on one stream. heads: its field sections, interim responses and trailers too."""

    def __init__(self, number: int, window: int, send_window: int) -> None:
        self.number = number
        self.window = window  # what the server may send
        self.send_window = send_window  # what we may send
        self.heads: list[Fields] = []
        self.data = bytearray()
        self.frames: list[int] = []  # lengths of the DATA frames
        self.is_ended = False
        self.reset: int | None = None  # the code of RST_STREAM

    @property
    def is_over(self) -> bool:
        return self.is_ended or self.reset is not None

    def _status(self, head: Fields) -> int:
        return int(dict(head).get(":status", 0))

    @property
    def interim(self) -> list[int]:
        return [self._status(head) for head in self.heads if 100 <= self._status(head) < 200]

    @property
    def final(self) -> Fields | None:
        return next((head for head in self.heads if self._status(head) >= 200), None)

    @property
    def status(self) -> int:
        """The final status, 0 while there is none."""
        return self._status(self.final) if self.final else 0

    @property
    def trailers(self) -> Fields | None:
        last = self.heads[-1] if self.heads else []
        return last if last and ":status" not in dict(last) else None

    def get(self, name: str) -> str | None:
        values = [value for key, value in self.final or [] if key == name]
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else None

    def __repr__(self) -> str:
        return f"<stream {self.number}: {self.heads} {len(self.data)} bytes ended={self.is_ended} reset={self.reset}>"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of a frame. stream: with the reserved bit, if it has one; length: another than the payload's."""
    length = len(payload) if length is None else length
    return struct.pack("!IBI", length << 8 | kind, flags, stream) + payload


def settings(values: dict[int, int] | Iterable[tuple[int, int]]) -> bytes:
    """The payload of SETTINGS."""
    pairs = values.items() if isinstance(values, dict) else values
    return b"".join(struct.pack("!HI", key, value) for key, value in pairs)


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """An integer of HPACK with a prefix of so many bits (RFC 7541 5.1), below what the first byte has."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    out, value = [first | most], value - most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def literal(name: bytes | str, value: bytes | str) -> bytes:
    """A field as a literal without indexing and without Huffman: any bytes, and no state (RFC 7541 6.2.2)."""
    name, value = (text.encode("latin-1") if isinstance(text, str) else text for text in (name, value))
    return b"\0" + integer(len(name), 7) + name + integer(len(value), 7) + value


def literals(fields: Iterable[tuple[bytes | str, bytes | str]]) -> bytes:
    return b"".join(literal(name, value) for name, value in fields)


def request(path: str = "/", method: str = "GET", *fields: tuple[str, str], authority: str = "test") -> Fields:
    return [(":method", method), (":scheme", "http"), (":path", path), (":authority", authority), *fields]


class Client:
    """One connection.

    values:    our SETTINGS. begins: send preface and SETTINGS at once.
    tls:       an SSLContext; ALPN h2 is offered, and must be chosen.
    takes:     give windows back as DATA comes. answers: acknowledge SETTINGS and PING.
    piece:     how many bytes are handed to the kernel at a time; 0 is all of them.
    """

    def __init__(
        self,
        port: int,
        host: str = "127.0.0.1",
        values: dict[int, int] | None = None,
        tls: ssl.SSLContext | None = None,
        begins: bool = True,
        takes: bool = True,
        answers: bool = True,
        receive_buffer: int | None = None,
        piece: int = 0,
    ) -> None:
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(PATIENCE)
        try:
            self.sock.connect((host, port))
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                tls.set_alpn_protocols(["h2"])
                self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
                assert self.sock.selected_alpn_protocol() == "h2"
        except BaseException:
            self.sock.close()
            raise
        self.takes, self.answers, self.piece = takes, answers, piece
        self.is_closed, self.was_reset = False, False
        self.streams: dict[int, Stream] = {}
        self.log: list[Frame] = []  # all frames of the server, without their payload where it is long
        self.goaways: list[tuple[int, int]] = []  # (last stream, code)
        self.pongs: list[bytes] = []
        self.n_acks = 0  # of our SETTINGS
        self.theirs: dict[int, int] = {}  # the server's SETTINGS
        self.ours = {INITIAL_WINDOW_SIZE: 65535, MAX_FRAME_SIZE: 16384, HEADER_TABLE_SIZE: 4096}
        self.window = self.send_window = 65535  # of the connection
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder(max_header_list_size=1 << 24)
        self._numbers = itertools.count(1, 2)
        self._pings = itertools.count(1)
        self._buf = bytearray()
        self._block: tuple[int, int, bytearray] | None = None  # a field section whose end has not come
        self._waiting: list[dict[int, int]] = []  # SETTINGS that were not acknowledged
        if begins:
            self.begin(values or {})

    # -- saying ---------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> "Client":
        """Any bytes. That the server has closed meanwhile is no error: what it said is still there to be read."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
            for at in range(0, len(data), self.piece or len(data) or 1):
                self.sock.sendall(data[at : at + self.piece] if self.piece else data)
        return self

    def frame(self, kind: int, flags: int, stream: int, payload: bytes = b"", length: int | None = None) -> "Client":
        if kind == SETTINGS and not flags & ACK:
            self._waiting.append({})
        return self.send(frame(kind, flags, stream, payload, length))

    def begin(self, values: dict[int, int]) -> None:
        self._apply(values)
        self.send(PREFACE).frame(SETTINGS, 0, 0, settings(values))

    def settings(self, values: dict[int, int]) -> "Client":
        """More of them; a smaller window counts when they are acknowledged, a larger one at once."""
        size = values.get(INITIAL_WINDOW_SIZE, 0)
        grows = size >= self.ours[INITIAL_WINDOW_SIZE]
        if grows:
            self._apply(values)
        self.frame(SETTINGS, 0, 0, settings(values))
        if not grows:
            self._waiting[-1] = values
        return self

    def _apply(self, values: dict[int, int]) -> None:
        for one in self.streams.values():
            one.window += values.get(INITIAL_WINDOW_SIZE, self.ours[INITIAL_WINDOW_SIZE]) - self.ours[INITIAL_WINDOW_SIZE]
        self.ours.update(values)
        if HEADER_TABLE_SIZE in values:
            self.decoder.max_allowed_table_size = values[HEADER_TABLE_SIZE]

    def number(self) -> int:
        """The next stream."""
        return next(self._numbers)

    def skip(self, n: int) -> int:
        """Pass over so many streams; the one after them."""
        return [self.number() for _ in range(n + 1)][-1]

    def open(self, stream: int) -> Stream:
        """The book of a stream that a test begins with frames of its own."""
        size = self.theirs.get(INITIAL_WINDOW_SIZE, 65535)
        return self.streams.setdefault(stream, Stream(stream, self.ours[INITIAL_WINDOW_SIZE], size))

    def block(self, block: bytes, stream: int | None = None, end: bool = True, flags: int = 0) -> int:
        """A request whose field block is these bytes; its stream."""
        stream = self.number() if stream is None else stream
        self.open(stream)
        flags |= END_HEADERS | (END_STREAM if end else 0)
        self.frame(HEADERS, flags, stream, block)
        return stream

    def raw(self, fields: Iterable[tuple[bytes | str, bytes | str]], stream: int | None = None, end: bool = True) -> int:
        """A request or trailers of any fields, as literals."""
        return self.block(literals(fields), stream, end)

    def headers(self, fields: Fields, stream: int | None = None, end: bool = True) -> int:
        """The same with hpack's compression, in as many frames as it takes."""
        stream = self.number() if stream is None else stream
        self.open(stream)
        block = self.encoder.encode([(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields])
        pieces = [block[at : at + 16384] for at in range(0, len(block), 16384)] or [b""]
        out = b""
        for i, piece in enumerate(pieces):
            kind = CONTINUATION if i else HEADERS
            flags = (END_STREAM if end and not i else 0) | (END_HEADERS if i == len(pieces) - 1 else 0)
            out += frame(kind, flags, stream, piece)
        self.send(out)
        return stream

    def get(self, path: str = "/", *fields: tuple[str, str], method: str = "GET", end: bool = True) -> int:
        """Ask without content, and do not wait."""
        return self.headers(request(path, method, *fields), end=end)

    def data(self, stream: int, data: bytes = b"", end: bool = False) -> "Client":
        """One DATA frame, whatever the windows say."""
        self.send_window -= len(data)
        if stream in self.streams:
            self.streams[stream].send_window -= len(data)
        return self.frame(DATA, END_STREAM if end else 0, stream, data)

    def upload(self, stream: int, data: bytes, end: bool = True) -> "Client":
        """As much DATA as it takes, in the windows that the server gives."""
        one, at = self.open(stream), 0
        while at < len(data) and not one.reset and not self.is_closed:
            n = min(len(data) - at, self.send_window, one.send_window, self.theirs.get(MAX_FRAME_SIZE, 16384))
            if n <= 0:
                assert self.read() is not None, "closed while content was sent"
                continue
            self.data(stream, data[at : at + n], end and at + n == len(data))
            at += n
        return self.data(stream, b"", end) if end and not data else self

    def reset(self, stream: int, code: int = CANCEL) -> "Client":
        return self.frame(RST_STREAM, 0, stream, struct.pack("!I", code))

    def update(self, stream: int, increment: int) -> "Client":
        """WINDOW_UPDATE; stream 0 is the connection."""
        if stream == 0:
            self.window += increment
        elif stream in self.streams:
            self.streams[stream].window += increment
        return self.frame(WINDOW_UPDATE, 0, stream, struct.pack("!I", increment))

    def goaway(self, last: int = 0, code: int = NO_ERROR, text: bytes = b"") -> "Client":
        return self.frame(GOAWAY, 0, 0, struct.pack("!II", last, code) + text)

    def fin(self) -> "Client":
        self.sock.shutdown(socket.SHUT_WR)
        return self

    def close(self) -> None:
        self.sock.close()

    # -- reading --------------------------------------------------------------------------------------------

    def read(self) -> Frame | None:
        """The next frame, its meaning noted; None at the end of the connection."""
        while (found := self._cut()) is None:
            try:
                data = self.sock.recv(262144)
            except (ConnectionResetError, ssl.SSLEOFError):
                self.was_reset, data = True, b""
            except TimeoutError:
                raise Silence(f"nothing came for {self.sock.gettimeout()} s, after {self.log[-10:]}") from None
            if not data:
                assert not self._buf or self.was_reset, f"the connection ends inside a frame: {bytes(self._buf)!r}"
                self.is_closed = True
                return None
            self._buf += data
        self._judge(found)
        self.log.append(found if len(found.payload) < 100 else found._replace(payload=b"..."))
        self._note(found)
        return found

    def _cut(self) -> Frame | None:
        buf = self._buf
        if len(buf) < 9:
            return None
        length = int.from_bytes(buf[:3], "big")
        assert length <= self.ours[MAX_FRAME_SIZE], f"a frame of {length} bytes: {bytes(buf[:9])!r}"
        if len(buf) < 9 + length:
            return None
        found = Frame(buf[3], buf[4], int.from_bytes(buf[5:9], "big"), bytes(buf[9 : 9 + length]))
        del buf[: 9 + length]
        return found

    def _judge(self, f: Frame) -> None:
        """What RFC 9113 asks of the frames of a server."""
        assert self.log or (f.type == SETTINGS and not f.flags & ACK), f"3.4: the first frame is {f}"
        assert f.type <= CONTINUATION and f.type != PUSH_PROMISE, f"8.4: {f}"
        assert (f.stream == 0) == (f.type in (SETTINGS, PING, GOAWAY)) or f.type == WINDOW_UPDATE, f"6: {f}"
        assert f.type not in FIXED_LENGTHS or len(f.payload) == FIXED_LENGTHS[f.type], f"4.2: {f}"
        goes_on = f.type == CONTINUATION
        assert goes_on == (self._block is not None), f"6.10: {f}, in a block: {self._block}"
        assert not self._block or f.stream == self._block[0], f"6.10: {f}"
        if not f.stream:
            return
        if f.type == RST_STREAM and f.stream < max(self.streams, default=0):
            self.open(f.stream)  # a number that was left out is that of a closed stream (5.1.1)
        one = self.streams.get(f.stream)
        assert one is not None, f"5.1: a frame of a stream that was never opened: {f}"
        if f.type in (DATA, HEADERS):
            assert not one.is_ended, f"5.1: {f} after END_STREAM"
            assert one.reset is None, f"5.1: {f} after RST_STREAM"
        if f.type == RST_STREAM:
            assert one.reset is None, f"5.4.2: RST_STREAM again: {f}"
        if f.type == DATA:
            assert one.status >= 200, f"8.1: DATA before the head of the response: {f}"
            n = len(f.payload)
            assert n <= self.window, f"6.9.1: {n} bytes in a window of the connection of {self.window}"
            assert n <= max(one.window, 0), f"6.9.1: {n} bytes in a window of stream {f.stream} of {one.window}"

    def _note(self, f: Frame) -> None:
        if f.type == SETTINGS:
            self._note_settings(f)
        elif f.type == PING and f.flags & ACK:
            self.pongs.append(f.payload)
        elif f.type == PING and self.answers:
            self.frame(PING, ACK, 0, f.payload)
        elif f.type == GOAWAY:
            last, code = struct.unpack("!II", f.payload[:8])
            assert not self.goaways or last <= self.goaways[-1][0], f"6.8: the last stream grows: {self.goaways}, {last}"
            self.goaways.append((last, code))
        elif f.type == WINDOW_UPDATE:
            self._note_window(f)
        elif f.type == RST_STREAM:
            self.streams[f.stream].reset = int.from_bytes(f.payload, "big")
        elif f.type == DATA:
            self._note_data(f)
        elif f.type in (HEADERS, CONTINUATION):
            self._note_fields(f)

    def _note_settings(self, f: Frame) -> None:
        if f.flags & ACK:
            assert not f.payload
            assert self._waiting, "6.5.3: an acknowledgement of SETTINGS that were never sent"
            self.n_acks += 1
            self._apply(self._waiting.pop(0))
            return
        assert len(f.payload) % 6 == 0
        old = self.theirs.get(INITIAL_WINDOW_SIZE, 65535)
        for at in range(0, len(f.payload), 6):
            key, value = struct.unpack_from("!HI", f.payload, at)
            self.theirs[key] = value
        for one in self.streams.values():
            one.send_window += self.theirs.get(INITIAL_WINDOW_SIZE, 65535) - old
        assert self.theirs.get(ENABLE_PUSH, 0) == 0, "6.5.2: a server sends ENABLE_PUSH"
        assert self.theirs.get(INITIAL_WINDOW_SIZE, 0) <= MAX_WINDOW
        assert 16384 <= self.theirs.get(MAX_FRAME_SIZE, 16384) < 2**24
        if self.answers:
            self.frame(SETTINGS, ACK, 0)
            self.encoder.header_table_size = min(4096, self.theirs.get(HEADER_TABLE_SIZE, 4096))

    def _note_window(self, f: Frame) -> None:
        increment = int.from_bytes(f.payload, "big")
        assert 0 < increment <= MAX_WINDOW, f"6.9: {f}"
        if f.stream == 0:
            self.send_window += increment
            assert self.send_window <= MAX_WINDOW, f"6.9.1: {f}"
        else:
            self.streams[f.stream].send_window += increment
            assert self.streams[f.stream].send_window <= MAX_WINDOW, f"6.9.1: {f}"

    def _note_data(self, f: Frame) -> None:
        one, n = self.streams[f.stream], len(f.payload)
        self.window -= n
        one.window -= n
        padding = f.payload[0] + 1 if f.flags & PADDED else 0
        one.data += f.payload[1 if padding else 0 : n - max(padding - 1, 0)]
        one.frames.append(n)
        one.is_ended |= bool(f.flags & END_STREAM)
        if self.takes and n:
            self.update(0, n)
            if not one.is_ended:
                self.update(f.stream, n)

    def _note_fields(self, f: Frame) -> None:
        payload = f.payload
        if f.type == HEADERS:
            padding = payload[0] if f.flags & PADDED else 0
            at = (1 if f.flags & PADDED else 0) + (5 if f.flags & HAS_PRIORITY else 0)
            self._block = (f.stream, f.flags & END_STREAM, bytearray(payload[at : len(payload) - padding]))
        else:
            assert self._block is not None
            self._block[2].extend(payload)
        if not f.flags & END_HEADERS:
            return
        _, ends, block = self._block
        self._block = None
        one = self.streams[f.stream]
        fields = [(text(name), text(value)) for name, value in self.decoder.decode(bytes(block), raw=True)]
        judge_response_fields(fields, one, bool(ends))
        one.heads.append(fields)
        one.is_ended = bool(ends)

    # -- waiting --------------------------------------------------------------------------------------------

    def until(self, condition: Any, what: str = "what was waited for") -> None:
        """Read until it holds; fails at the end of the connection, or after PATIENCE."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"{what}: not in {PATIENCE} s; {self.log[-10:]}"
            assert self.read() is not None, f"{what}: the connection ended; {self.goaways} {self.streams} {self.log[-10:]}"

    def answer(self, stream: int) -> Stream:
        """Wait until the stream is over."""
        one = self.open(stream)
        self.until(lambda: one.is_over, f"the end of stream {stream}")
        return one

    def ask(self, path: str = "/", *fields: tuple[str, str], method: str = "GET") -> Stream:
        return self.answer(self.get(path, *fields, method=method))

    def post(self, path: str, data: bytes, *fields: tuple[str, str], method: str = "POST") -> Stream:
        stream = self.get(path, *fields, method=method, end=False)
        return self.upload(stream, data).answer(stream)

    def drink(self) -> "Client":
        """What has come so far."""
        while not self.is_closed and (len(self._buf) > 8 or select.select([self.sock], [], [], 0)[0]):
            self.read()
        return self

    def listen(self, seconds: float) -> "Client":
        """What comes until nothing has for so long, or the end."""
        self.sock.settimeout(seconds)
        with contextlib.suppress(Silence):
            self.rest()
        self.sock.settimeout(PATIENCE)
        return self

    def settle(self) -> "Client":
        """PING and its answer: the server has read all that was sent before (RFC 9113 6.7)."""
        mark = struct.pack("!Q", 0x6B61636F72650000 | next(self._pings))
        self.frame(PING, 0, 0, mark)
        self.until(lambda: mark in self.pongs, "the answer to PING")
        return self

    def settle_or_end(self) -> "Client":
        """The same, or the end of the connection, or that a GOAWAY has announced it."""
        mark = struct.pack("!Q", 0x6B61636F72660000 | next(self._pings))
        self.frame(PING, 0, 0, mark)
        while mark not in self.pongs and not self.goaways and self.read() is not None:
            pass
        return self

    def rest(self) -> "Client":
        """Everything until the server closes."""
        while self.read() is not None:
            pass
        return self


def text(raw: Any) -> str:
    return raw.decode("latin-1") if isinstance(raw, bytes) else str(raw)


def judge_response_fields(fields: Fields, one: Stream, ends: bool) -> None:
    """RFC 9113 8.2, 8.3.2, 8.1, as far as any response must be so."""
    names = [name for name, _ in fields]
    if one.status >= 200:
        assert ends, f"8.1: trailers without END_STREAM: {fields}"
        assert not any(name.startswith(":") for name in names), f"8.1: {fields}"
    else:
        assert names and names[0] == ":status" and names.count(":status") == 1, f"8.3.2: {fields}"
        assert not any(name.startswith(":") for name in names[1:]), f"8.3: {fields}"
        status = int(fields[0][1])
        assert 100 <= status < 600 and status != 101, f"8.6: {fields}"
        assert status >= 200 or not ends, f"8.1: an interim response with END_STREAM: {fields}"
    for name, value in fields:
        assert name and name == name.lower(), f"8.2.1: {fields}"
        assert name not in CONNECTION_FIELDS, f"8.2.2: {fields}"
        assert value == value.strip(" \t") and not set(value) & set("\0\r\n"), f"8.2.1: {fields}"
