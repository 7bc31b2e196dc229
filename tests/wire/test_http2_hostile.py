"""Clients of HTTP/2 that mean harm lose their connection, and cost others nothing: the attacks that have names, and others.

An attack is a wave that is sent again and again. It must end with ENHANCE_YOUR_CALM within a number of waves, another client
is answered between any two of them, and what is held for the attacker stays small.
"""

import contextlib
import socket
import struct

import pytest

import kacore
from tests.wire.conftest import wait_until
from tests.wire.http2_client import (
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    ENHANCE_YOUR_CALM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_WINDOW,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_UPDATE,
    PROTOCOL_ERROR,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    integer,
    literals,
    request,
    settings,
)
from tests.wire.http2_house import needs_http2, only_kacore

pytestmark = needs_http2

U32 = struct.Struct("!I")
CANCEL = U32.pack(8)
GET = literals(request())
WAIT = literals(request("/wait"))
UPLOAD = literals(request("/read", "POST"))
BUFFERED = 4 * 2**20  # bytes that the server may hold for a few attackers


def siege(house, c, wave, waves, codes=(ENHANCE_YOUR_CALM,)):
    """Send waves until the server has had enough, and look after somebody else meanwhile."""
    other = house.connect()
    for n in range(waves):
        c.send(wave(n))
        assert other.ask("/").data == b"hello\n"
        c.drink()
        if c.goaways or c.is_closed:
            break
    else:
        pytest.fail(f"nothing came of {waves} waves")
    c.rest()
    assert c.goaways, "no GOAWAY"
    assert c.goaways[-1][1] in codes, c.goaways
    assert other.ask("/").data == b"hello\n" and not other.goaways


def stream_of(c):
    return c.open(c.number()).number


def once_each(c, *parts, n=50):
    """A wave of n streams, each with these frames (type, flags, payload)."""

    def wave(_):
        out = []
        for _ in range(n):
            stream = stream_of(c)
            out += [frame(kind, flags, stream, payload) for kind, flags, payload in parts]
        return b"".join(out)

    return wave


# -- streams that come to nothing ---------------------------------------------------------------------------------

RESETS = {
    "CVE-2023-44487 rapid reset": [(HEADERS, 5, GET), (RST_STREAM, 0, CANCEL)],
    "rapid reset of slow requests": [(HEADERS, 5, WAIT), (RST_STREAM, 0, CANCEL)],
    "rapid reset of uploads": [(HEADERS, 4, UPLOAD), (DATA, 0, b"x"), (RST_STREAM, 0, CANCEL)],
    # CVE-2025-8671, MadeYouReset: the server is made to reset them itself
    "a window of 0 more": [(HEADERS, 5, WAIT), (WINDOW_UPDATE, 0, U32.pack(0))],
    "a window over 2^31-1": [(HEADERS, 5, WAIT), (WINDOW_UPDATE, 0, U32.pack(MAX_WINDOW))],
    "DATA after the end": [(HEADERS, 5, WAIT), (DATA, 1, b"x")],
    "HEADERS after the end": [(HEADERS, 5, WAIT), (HEADERS, 5, WAIT)],
    "PRIORITY of a wrong size": [(HEADERS, 5, WAIT), (PRIORITY, 0, b"\0\0\0\0")],
    "content over its length": [(HEADERS, 4, UPLOAD + literals([("content-length", "1")])), (DATA, 1, b"xx")],
    "trailers with a pseudo-header field": [(HEADERS, 4, UPLOAD), (HEADERS, 5, literals([(":path", "/")]))],
    "malformed requests": [(HEADERS, 5, GET + literals([("Bad", "")]))],
    "CVE-2019-9516 fields without a name": [(HEADERS, 5, GET + literals([("", "")] * 20))],
}


@pytest.mark.parametrize("attack", RESETS)
def test_streams_that_come_to_nothing_end_the_connection(house, attack):
    c = house.connect()
    siege(house, c, once_each(c, *RESETS[attack]), waves=24)
    counts = house.counts_or_none()
    if counts is not None:
        house.wait_until_quiet()


@only_kacore
def test_what_the_server_is_made_to_reset_does_not_go_on_in_the_application(house):
    """MadeYouReset: a stream that was reset counts as one until its application has ended."""
    c = house.connect()
    wave = once_each(c, (HEADERS, 5, literals(request("/hold"))), (WINDOW_UPDATE, 0, U32.pack(0)), n=20)
    for n in range(100):
        c.send(wave(n))
        assert house.counts()["active"] <= 300
        c.drink()
        if c.goaways or c.is_closed:
            break
    c.rest()
    assert c.goaways[-1][1] == ENHANCE_YOUR_CALM


@only_kacore
def test_requests_over_the_limit_of_streams_have_an_end(house):
    c = house.connect()
    held = [c.get("/hold") for _ in range(c.settle().theirs[3])]
    house.wait_for("held", len(held))
    siege(house, c, once_each(c, (HEADERS, 5, GET)), waves=200)
    assert house.counts()["held"] == len(held)


# -- frames that do nothing ---------------------------------------------------------------------------------------


def repeated(data, n=250):
    return lambda c: lambda _: data * n


def on_a_stream(kind, flags, payload, n=250):
    def attack(c):
        stream = c.get("/read", method="POST", end=False)
        return lambda _: frame(kind, flags, stream, payload) * n

    return attack


def on_idle_streams(c):
    """Promises about streams that never come (RFC 9218 7.1: may be remembered)."""
    return lambda n: b"".join(frame(PRIORITY_UPDATE, 0, 0, U32.pack(2 * (250 * n + i) + 1001) + b"u=1") for i in range(250))


def windows_of_many(c):
    """Each SETTINGS changes the windows of a hundred streams."""
    c.settings({INITIAL_WINDOW_SIZE: 0})
    for _ in range(90):
        c.get("/bytes/1000")
    c.settle()

    def wave(_):
        c._waiting.extend([{}] * 250)
        return b"".join(frame(SETTINGS, 0, 0, settings({4: i % 2 * 100_000})) for i in range(250))

    c.takes = False
    c.ours[INITIAL_WINDOW_SIZE] = 100_000
    for one in c.streams.values():
        one.window = 10**9
    return wave


def settings_flood(values):
    def attack(c):
        def wave(n):
            c._waiting.extend([{}] * 250)
            return frame(SETTINGS, 0, 0, settings(values)) * 250

        return wave

    return attack


FLOODS = {
    "CVE-2019-9512 PING": repeated(frame(PING, 0, 0, b"12345678")),
    "answers to no PING": repeated(frame(PING, 1, 0, b"12345678")),
    "CVE-2019-9515 SETTINGS": settings_flood({}),
    "SETTINGS with much in them": settings_flood([(0x77, i) for i in range(200)]),
    "SETTINGS of the table of fields": settings_flood([(1, 0), (1, 4096)]),
    "SETTINGS that change many windows": windows_of_many,
    "CVE-2019-9518 empty DATA": on_a_stream(DATA, 0, b""),
    "DATA of nothing but padding": on_a_stream(DATA, 8, b"\x03\0\0\0"),
    "CVE-2019-9513 PRIORITY": on_a_stream(PRIORITY, 0, b"\0\0\0\0\1"),
    "PRIORITY of idle streams": repeated(frame(PRIORITY, 0, 1001, b"\0\0\0\0\1")),
    "PRIORITY_UPDATE": on_idle_streams,
    "WINDOW_UPDATE of the connection": repeated(frame(WINDOW_UPDATE, 0, 0, U32.pack(1))),
    "WINDOW_UPDATE of a stream": on_a_stream(WINDOW_UPDATE, 0, U32.pack(1)),
    "frames of unknown types": repeated(frame(0x42, 0, 0, b"")),
    "frames on a closed stream": lambda c: repeated(frame(WINDOW_UPDATE, 0, c.ask("/").number, U32.pack(1)))(c),
}


@pytest.mark.parametrize("attack", FLOODS)
def test_frames_that_do_nothing_end_the_connection(house, attack):
    c = house.connect()
    wave = FLOODS[attack](c)
    siege(house, c, wave, waves=100)


@only_kacore
@pytest.mark.parametrize("data", [frame(PING, 0, 0, b"12345678"), frame(SETTINGS, 0, 0)], ids=["PING", "SETTINGS"])
def test_answers_that_nobody_reads_are_not_piled_up(build, data):
    """CVE-2019-9512, 9515, 9517: the attacker does not read."""
    house = build()
    c = house.connect(receive_buffer=4096)
    other = house.connect()
    c.sock.settimeout(0.05)
    with contextlib.suppress(OSError):
        for _ in range(200):
            c.sock.sendall(data * 1000)
            assert other.ask("/").data == b"hello\n"
            assert house.running.stats()["engine"]["buffer_bytes"] < 2**20
    assert house.running.stats()["engine"]["buffer_bytes"] < 2**20
    c.close()
    assert other.ask("/").data == b"hello\n"


# -- field blocks --------------------------------------------------------------------------------------------------


def continuations(payload, n, first=GET):
    def attack(c):
        stream = stream_of(c)
        return lambda i: (b"" if i else frame(HEADERS, 1, stream, first)) + frame(CONTINUATION, 0, stream, payload) * n

    return attack


BLOCKS = {
    "CONTINUATION without content": continuations(b"", 250),
    "CONTINUATION of one byte each": continuations(b"\0", 250, GET + b"\0\x7f\xff\xff\x03"),
    "CONTINUATION of fields": continuations(literals([("a", "b" * 100)]) * 10, 25),
    "CONTINUATION of full frames": continuations(literals([("a", "b" * 100)]) * 155, 5),
}


@pytest.mark.parametrize("attack", BLOCKS)
def test_a_field_block_without_end_ends_the_connection(house, attack):
    c = house.connect()
    siege(house, c, BLOCKS[attack](c), 100, (ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR))
    if house.is_ours:
        assert house.running.stats()["engine"]["buffer_bytes"] < BUFFERED


def test_a_block_that_unpacks_to_much_is_refused_and_costs_little(house):
    """An HPACK bomb: one large field in the table, and then its index again and again."""
    c = house.connect()
    stream = c.block(GET + b"\x40\x01a" + integer(3900, 7) + b"b" * 3900)
    assert c.answer(stream).status == 200
    for _ in range(5):
        stream = c.block(GET + integer(62, 7, 0x80) * 16_000)
        one = c.streams[stream]
        c.until(lambda one=one: one.is_over or c.goaways)
        if c.goaways:
            assert c.goaways[-1][1] in (ENHANCE_YOUR_CALM, COMPRESSION_ERROR)
            break
        assert one.status in (431, 400) or one.reset is not None
    assert house.connect().ask("/").status == 200


def test_blocks_that_unpack_to_much_have_an_end(house):
    c = house.connect()
    c.answer(c.block(GET + b"\x40\x01a" + integer(3900, 7) + b"b" * 3900))
    bomb = GET + integer(62, 7, 0x80) * 16_000
    siege(house, c, once_each(c, (HEADERS, 5, bomb), n=5), 200, (ENHANCE_YOUR_CALM, COMPRESSION_ERROR))


@only_kacore
def test_size_updates_and_table_churn_cost_no_more_than_their_bytes(house):
    """Each block empties the table and fills it again; that is allowed, and is answered."""
    c = house.connect()
    for i in range(50):
        field = b"\x40\x03x-a" + integer(1000, 7) + b"%04d" % i + b"v" * 996
        stream = c.block(integer(0, 5, 0x20) + integer(4096, 5, 0x20) + GET + field * 3)
        assert c.answer(stream).status == 200


# -- windows -------------------------------------------------------------------------------------------------------


@only_kacore
def test_responses_that_wait_for_a_window_hold_little(build):
    house = build(policy=kacore.Policy(send_timeout=1.0))
    c = house.connect(values={INITIAL_WINDOW_SIZE: 0}, takes=False)
    streams = [c.get("/stream/1000000") for _ in range(100)]
    for stream in streams:
        c.until(lambda stream=stream: c.streams[stream].status == 200)
    c.settle()
    assert house.running.stats()["engine"]["buffer_bytes"] < 8 * 2**20
    assert house.counts().get("sent", 0) < 20_000_000
    other = house.connect()
    assert other.ask("/").data == b"hello\n"
    c.until(lambda: c.goaways or all(c.streams[stream].is_over for stream in streams))
    house.wait_until_quiet()
    assert house.running.stats()["engine"]["buffer_bytes"] < 2**17


@only_kacore
def test_responses_that_nobody_reads_from_the_socket_hold_little(build):
    """CVE-2019-9517: all windows are open, and the bytes are not taken."""
    house = build(policy=kacore.Policy(send_timeout=0.5))
    c = house.connect(values={INITIAL_WINDOW_SIZE: MAX_WINDOW}, receive_buffer=4096)
    c.update(0, MAX_WINDOW - 65535)
    for _ in range(60):
        c.get("/stream/10000000")
    other = house.connect()
    for _ in range(20):
        assert other.ask("/").data == b"hello\n"
    assert house.running.stats()["engine"]["buffer_bytes"] < 8 * 2**20
    assert house.counts().get("sent", 0) < 60_000_000
    house.has_closed("send_timeout", "send_rate", leaves=False)
    house.wait_until_quiet()


@only_kacore
def test_a_window_of_one_byte_at_a_time_has_an_end(build):
    """CVE-2019-9511: a byte a frame."""
    house = build(policy=kacore.Policy(send_timeout=5.0, rate_window=0.3, min_send_rate=100_000))
    c = house.connect(values={INITIAL_WINDOW_SIZE: 1}, takes=False)
    stream = c.get("/bytes/1000000")
    one = c.streams[stream]
    other = house.connect()
    for n in range(20_000):
        if one.is_over or c.goaways or c.is_closed:
            break
        c.update(stream, 1)
        if n % 50 == 0:
            assert other.ask("/").data == b"hello\n"
        c.drink()
    assert one.reset is not None or c.goaways, "it goes on for ever"


@only_kacore
def test_content_that_trickles_on_many_streams_has_the_rate_of_each(build):
    house = build(policy=kacore.Policy(request_body_timeout=5.0, rate_window=0.3, min_request_body_rate=1000))
    c = house.connect()
    streams = [c.get("/read", method="POST", end=False) for _ in range(20)]
    for _ in range(200):
        for stream in streams:
            if not c.streams[stream].is_over:
                c.data(stream, b"x")
        c.listen(0.02)
        if c.goaways or all(c.streams[stream].is_over for stream in streams):
            break
    else:
        pytest.fail("it goes on for ever")
    for stream in streams:
        one = c.streams[stream]
        assert one.status == 408 or one.reset is not None or c.goaways, one


# -- many connections ----------------------------------------------------------------------------------------------


@only_kacore
@pytest.mark.parametrize("how", ["field block", "frame", "preface"])
def test_hundreds_of_half_sent_heads_cost_little_and_end_at_their_time(build, how):
    half = {
        "field block": PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 1, 1, GET),
        "frame": PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 5, 1, GET)[:-5],
        "preface": PREFACE[:20],
    }[how]
    house = build(policy=kacore.Policy(request_header_timeout=1.0, first_byte_timeout=1.0))
    other = house.connect()
    other.ask("/")
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            sock = stack.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", house.port))))
            sock.sendall(half)
        assert other.ask("/").data == b"hello\n"
        assert house.running.stats()["engine"]["buffer_bytes"] < 301 * 2048
        # their end, whatever the linger; others' idle time is longer
        wait_until(lambda: house.running.phase_count("idle") >= 1 and house.running.phase_count("head") == 0)
        assert other.ask("/").data == b"hello\n"


@only_kacore
def test_streams_do_not_get_around_the_limit_of_connections(build):
    house = build(policy=kacore.Policy(max_connections_per_client=2))
    first, second = house.connect(), house.connect()
    assert first.ask("/").data == second.ask("/").data == b"hello\n"
    # What it speaks is not known yet: the answer may be that of HTTP/1.
    with contextlib.closing(socket.create_connection(("127.0.0.1", house.port))) as over:
        over.settimeout(20)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            over.sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 5, 1, GET))
            while data := over.recv(65536):
                answer += data
    assert b"hello" not in answer
    assert house.running.closed("client_limit") == 1
    assert first.ask("/").data == b"hello\n"


# -- a full server -------------------------------------------------------------------------------------------------


@only_kacore
@pytest.mark.parametrize("kind", ["a window that stays shut", "content that does not come", "a head that does not end"])
def test_who_holds_a_full_server_by_waiting_goes_for_a_newcomer(build, kind):
    house = build(policy=kacore.Policy(max_connections=3, rate_window=0.05, send_timeout=60.0, request_body_timeout=60.0))
    holders = []
    for _ in range(3):
        c = house.connect(values={INITIAL_WINDOW_SIZE: 0}, takes=False)
        if kind == "a window that stays shut":
            stream = c.get("/bytes/100000")
            c.until(lambda c=c, stream=stream: c.streams[stream].status == 200)
        elif kind == "content that does not come":
            c.get("/read", method="POST", end=False)
            c.settle()
        else:
            c.settle()
            c.frame(HEADERS, 1, 1, GET)
            house.look()
        holders.append(c)
    newcomer = house.connect()
    assert newcomer.ask("/").data == b"hello\n"
    assert house.running.closed("evicted") == 1
