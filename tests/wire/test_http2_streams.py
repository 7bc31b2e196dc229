"""Many streams on one connection: flow control both ways, limits, turns, deadlines of each, and how a connection ends."""

import struct

import pytest

import kacore
from tests.wire.conftest import wait_until
from tests.wire.http2_client import (
    DATA,
    FLOW_CONTROL_ERROR,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    LAST_STREAM,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    NO_ERROR,
    PING,
    PRIORITY_UPDATE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    SETTINGS,
    literals,
    request,
    settings,
)
from tests.wire.http2_expect import is_alive
from tests.wire.http2_house import limits, needs_app, needs_http2, only_kacore

pytestmark = needs_http2


def got(c, stream):
    """How much content has come, when the server has read all that was said, and has said all it can."""
    c.settle().settle()
    return len(c.streams[stream].data)


def head_of(c, *streams):
    for stream in streams:
        c.until(lambda stream=stream: c.streams[stream].status, f"the head of {stream}")


# -- what the server may send ---------------------------------------------------------------------------------------


def test_with_a_window_of_zero_the_head_comes_and_then_what_each_update_allows(house):
    c = house.connect(values={INITIAL_WINDOW_SIZE: 0}, takes=False)
    stream = c.get("/bytes/1000")
    head_of(c, stream)
    assert got(c, stream) == 0
    for n, expected in ((1, 1), (99, 100), (1000, 1000)):
        c.update(stream, n)
        c.until(lambda expected=expected: len(c.streams[stream].data) == expected)
    assert c.answer(stream).data == b"y" * 1000


def test_a_response_without_content_needs_no_window(house):
    c = house.connect(values={INITIAL_WINDOW_SIZE: 0}, takes=False)
    assert c.ask("/bytes/0").status == 200
    assert c.ask("/bytes/1000", method="HEAD").status == 200


def test_the_connections_window_bounds_all_streams_together(house):
    c = house.connect(values={INITIAL_WINDOW_SIZE: 2**20}, takes=False)
    first, second = c.get("/bytes/70000"), c.get("/bytes/70000")
    head_of(c, first, second)
    c.until(lambda: c.window == 0)
    assert got(c, first) + got(c, second) == 65535
    assert c.ask("/bytes/0").status == 200, "heads need no window"
    c.update(0, 200_000)
    assert len(c.answer(first).data) == len(c.answer(second).data) == 70_000


def test_a_stream_without_window_holds_nobody_else(house):
    c = house.connect(values={INITIAL_WINDOW_SIZE: 100}, takes=False)
    held = [c.get("/bytes/1000") for _ in range(5)]
    head_of(c, *held)
    stream = c.get("/bytes/70000")
    c.update(stream, 100_000).update(0, 100_000)
    assert len(c.answer(stream).data) == 70_000
    assert [got(c, stream) for stream in held] == [100] * 5


def test_6_9_2_settings_change_the_windows_of_open_streams_and_a_window_may_be_negative(house):
    c = house.connect(values={INITIAL_WINDOW_SIZE: 400}, takes=False)
    stream = c.get("/bytes/1000")
    c.until(lambda: len(c.streams[stream].data) == 400)
    c.settings({INITIAL_WINDOW_SIZE: 100}).settle()  # it is -300 now
    c.update(stream, 300)
    assert got(c, stream) == 400
    c.update(stream, 1)
    c.until(lambda: len(c.streams[stream].data) == 401)
    c.settings({INITIAL_WINDOW_SIZE: 400})
    c.until(lambda: len(c.streams[stream].data) == 701)
    c.settings({INITIAL_WINDOW_SIZE: 4000})
    assert len(c.answer(stream).data) == 1000


def test_frames_are_no_larger_than_we_allow_and_may_be_when_we_do(house):
    for size in (16384, 40_000):
        c = house.connect(values={INITIAL_WINDOW_SIZE: 2**20, MAX_FRAME_SIZE: size})
        c.update(0, 2**20)
        one = c.ask("/bytes/200000")
        assert len(one.data) == 200_000 and max(one.frames) <= size  # the client judges it as well


def test_incremental_responses_share_the_connection(house):
    """RFC 9218 4.2: neither is whole long before the other has begun."""
    c = house.connect(values={INITIAL_WINDOW_SIZE: 2**20})
    first, second = (c.get("/bytes/200000", ("priority", "i")) for _ in range(2))
    c.until(lambda: c.streams[first].is_over or c.streams[second].is_over)
    least = min(len(c.streams[stream].data) for stream in (first, second))
    assert least > 100_000, f"one has {least} bytes when the other has all"


def exhausted(c):
    """A connection without window, and its default urgency."""
    stream = c.get("/bytes/70000", ("priority", "u=4"))
    c.until(lambda: c.window == 0)
    return stream


@needs_app
@pytest.mark.parametrize("how", ["field", "frame", "early frame"])
def test_the_more_urgent_response_comes_first(house, how):
    c = house.connect(values={INITIAL_WINDOW_SIZE: 2**20}, takes=False)
    exhausted(c)
    c.settle()
    if how == "early frame":
        c.frame(PRIORITY_UPDATE, 0, 0, struct.pack("!I", 5) + b"u=1")
    low = c.get("/bytes/200000")
    high = c.get("/bytes/200000", *([("priority", "u=1")] if how == "field" else []))
    head_of(c, low, high)
    if how == "frame":
        c.frame(PRIORITY_UPDATE, 0, 0, struct.pack("!I", high) + b"u=1")
    c.update(0, 30_000)
    c.until(lambda: c.window == 0)
    assert (got(c, high), got(c, low)) == (30_000, 0)
    c.update(0, 300_000)
    c.until(lambda: c.window == 0)
    assert (got(c, high), got(c, low)) == (200_000, 130_000)


@needs_app
def test_a_response_that_nobody_takes_is_not_made(house):
    """What the application writes ahead of the windows is bounded."""
    c = house.connect(values={INITIAL_WINDOW_SIZE: 1000}, takes=False)
    before = house.counts().get("sent", 0)
    stream = c.get("/stream/50000000")
    c.until(lambda: len(c.streams[stream].data) == 1000)
    c.settle()
    assert house.counts()["sent"] - before < 2_000_000
    c.reset(stream).settle()


# -- what we may send -----------------------------------------------------------------------------------------------


@needs_app
def test_content_that_the_application_does_not_take_stops_at_the_window_and_stops_no_other_stream(house):
    c = house.connect()
    held = c.get("/then", method="POST", end=False)
    house.wait_for("held")
    c.settle()
    size = c.streams[held].send_window
    assert 0 < size <= 2**20, "more than an application that reads nothing needs to hold"
    sent = 0
    while c.streams[held].send_window > 0 and c.send_window > 0:
        n = min(c.streams[held].send_window, c.send_window, 16384)
        c.data(held, b"x" * n)
        sent += n
        if c.streams[held].send_window <= 0 or c.send_window <= 0:
            c.settle()
        assert sent <= 2 * size, "windows are given back for what nobody took"
    assert c.post("/echo", b"y" * 300_000).data == b"y" * 300_000
    house.release()
    c.data(held, b"", end=True)
    assert c.answer(held).data == b"%d" % sent


def use_up(c, stream):
    """All of a stream's window, as far as the connection's goes; False where the server gives it back unread."""
    one, sent = c.streams[stream], 0
    while min(one.send_window, c.send_window) > 0 and not one.is_over:
        n = min(16384, one.send_window, c.send_window)
        c.data(stream, b"x" * n)
        sent += n
        if min(one.send_window, c.send_window) <= 0:
            c.settle()
        if sent > 2**22:
            return False
    return True


@needs_app
def test_more_than_the_window_of_a_stream_is_an_error(house):
    c = house.connect()
    held = c.get("/then", method="POST", end=False)
    house.wait_for("held")
    assert use_up(c.settle(), held), "windows are given back for what nobody took"
    c.data(held, b"x")
    c.until(lambda: c.streams[held].is_over or c.goaways)
    assert c.streams[held].reset == FLOW_CONTROL_ERROR or c.goaways[-1][1] == FLOW_CONTROL_ERROR
    assert c.goaways or is_alive(c)


@needs_app
def test_more_than_the_window_of_the_connection_is_an_error_of_the_connection(house):
    c = house.connect()
    held = 0
    while c.settle().send_window > 0:
        held = c.get("/hold", method="POST", end=False)
        assert use_up(c.settle(), held), "windows are given back for what nobody took"
        if c.streams[held].reset == REFUSED_STREAM:
            return  # as many streams as there may be have less together
    c.data(held, b"x")
    if c.streams[held].send_window < 0:  # it is more than that of the stream, too
        c.until(lambda: c.streams[held].is_over or c.goaways)
        return
    c.rest()
    assert c.goaways[-1][1] == FLOW_CONTROL_ERROR


def test_the_windows_grow_with_what_is_taken(house):
    c = house.connect()
    data = b"x" * 3_000_000
    stream = c.get("/echo", method="POST", end=False)
    assert c.upload(stream, data).answer(stream).data == data
    c.settle()
    assert c.send_window >= 32768, "the window of the connection is not given back"


def test_padding_is_counted_and_given_back(house):
    c = house.connect()
    stream = c.get("/echo", method="POST", end=False)
    c.settle()
    payload = b"\xff" + b"a" + bytes(255)
    for _ in range(2000):
        while min(c.send_window, c.streams[stream].send_window) < len(payload):
            c.read()
        c.send_window -= len(payload)
        c.streams[stream].send_window -= len(payload)
        c.frame(DATA, 8, stream, payload)
    c.data(stream, b"", end=True)
    assert c.answer(stream).data == b"a" * 2000


@needs_app
def test_what_is_not_read_of_refused_content_costs_no_window(house):
    c = house.connect()
    c.settle()
    for _ in range(30):
        stream = c.get("/refuse", method="POST", end=False)
        c.upload(stream, b"x" * 40_000, end=False)
        c.until(lambda stream=stream: c.streams[stream].is_over)
    assert c.post("/echo", b"y" * 100_000).data == b"y" * 100_000


# -- how many -------------------------------------------------------------------------------------------------------


@needs_app
def test_a_hundred_streams_are_served_at_once_and_in_any_order(house):
    before = house.counts().get("held", 0)
    c = house.connect()
    held = [c.get("/hold") for _ in range(99)]
    house.wait_for("held", before + 99)
    assert c.ask("/").data == b"hello\n", "a fast one overtakes them"
    house.release()
    assert all(c.answer(stream).data == b"released" for stream in held)


@only_kacore
def test_5_1_2_streams_over_the_limit_are_refused_and_hpack_stays_in_step(build):
    house = build(**limits(http2_max_streams=5))
    c = house.connect()
    c.settle()
    assert c.theirs[MAX_CONCURRENT_STREAMS] == 5
    held = [c.get("/hold", ("x-new", f"value {i}")) for i in range(5)]
    house.wait_for("held", 5)
    for i in range(20):
        over = c.answer(c.get("/hold", ("x-over", f"value {i}")))
        assert over.reset == REFUSED_STREAM and not over.heads
    assert house.counts()["requests"] == 5
    house.release()
    assert [c.answer(stream).data for stream in held] == [b"released"] * 5
    again = [c.get("/", ("x-over", f"value {i}")) for i in range(5)]
    assert [c.answer(stream).data for stream in again] == [b"hello\n"] * 5
    assert not c.goaways


@only_kacore
def test_a_stream_that_we_reset_makes_room(build):
    house = build(**limits(http2_max_streams=3))
    c = house.connect()
    for _ in range(10):
        streams = [c.get("/wait") for _ in range(3)]
        c.settle()
        for stream in streams:
            c.reset(stream)
    assert is_alive(c)
    assert all(one.reset is None for one in c.streams.values())


@needs_app
def test_a_reset_stream_is_a_disconnect_for_its_application_alone(house):
    before = house.counts().get("disconnects", 0)
    c = house.connect()
    streams = [c.get("/wait") for _ in range(3)]
    held = c.get("/hold")
    house.wait_for("held")
    c.reset(streams[1]).settle()
    house.wait_for("disconnects", before + 1)
    assert is_alive(c)
    assert house.counts()["disconnects"] == before + 1
    house.release()
    assert c.answer(held).data == b"released"
    c.close()
    house.wait_for("disconnects", before + 3)


@needs_app
def test_content_that_is_cut_off_is_a_disconnect(house):
    before = house.counts().get("disconnects", 0)
    c = house.connect()
    stream = c.get("/read", method="POST", end=False)
    c.data(stream, b"x" * 1000).settle()
    c.reset(stream).settle()
    house.wait_for("disconnects", before + 1)


# -- how it ends ----------------------------------------------------------------------------------------------------


def test_a_connection_error_names_the_last_stream_that_was_looked_at(house):
    c = house.connect()
    for _ in range(3):
        c.ask("/")
    c.frame(PING, 0, 1, bytes(8)).rest()
    assert c.goaways == [(5, PROTOCOL_ERROR)]


def test_open_streams_survive_the_clients_goaway(house):
    c = house.connect(values={INITIAL_WINDOW_SIZE: 0}, takes=False)
    streams = [c.get("/bytes/1000") for _ in range(3)]
    head_of(c, *streams)
    c.goaway(0, NO_ERROR, b"done here")
    for stream in streams:
        c.update(stream, 1000)
    assert [bytes(c.answer(stream).data) for stream in streams] == [b"y" * 1000] * 3


@needs_app
def test_an_upload_survives_the_clients_goaway(house):
    c = house.connect()
    stream = c.get("/echo", method="POST", end=False)
    c.goaway()
    assert c.upload(stream, b"z" * 200_000).answer(stream).data == b"z" * 200_000


@only_kacore
def test_the_drain_says_goaway_twice_and_serves_what_crosses_the_first(build):
    """RFC 9113 6.8: "no new ones, please", and then the last stream that was looked at."""
    house = build(policy=kacore.Policy(drain_grace=0.3, drain_spread=0.0, drain_timeout=10.0))
    c = house.connect()
    held = c.get("/hold")
    house.wait_for("held")
    house.shutdown()
    c.until(lambda: c.goaways)
    assert c.goaways == [(LAST_STREAM, NO_ERROR)]
    crossing = c.get("/")
    assert c.answer(crossing).data == b"hello\n"
    house.release()
    assert c.answer(held).data == b"released"
    c.rest()
    assert c.goaways[-1] == (crossing, NO_ERROR) and len(c.goaways) == 2


@only_kacore
def test_an_idle_connection_is_told_of_the_drain_and_closed(build):
    house = build(policy=kacore.Policy(drain_grace=0.05, drain_spread=0.0, drain_timeout=10.0))
    c = house.connect()
    c.ask("/")
    house.shutdown()
    c.rest()
    assert c.goaways[-1] == (1, NO_ERROR) and not c.was_reset


@only_kacore
def test_what_is_asked_after_the_last_goaway_is_not_served(build):
    house = build(policy=kacore.Policy(max_keep_alive_requests=2))
    c = house.connect()
    held = [c.get("/hold") for _ in range(2)]
    house.wait_for("held", 2)
    late = [c.get("/") for _ in range(3)]
    c.settle()
    house.release()
    assert [c.answer(stream).data for stream in held] == [b"released"] * 2
    c.rest()
    last, code = c.goaways[-1]
    assert code == NO_ERROR
    for stream in late:
        one = c.streams[stream]
        assert one.data == b"hello\n" or ((one.reset == REFUSED_STREAM or stream > last) and not one.heads), (one, c.goaways)
    answered = sum(one.data == b"hello\n" for one in c.streams.values())
    assert house.counts()["requests"] == 2 + answered
    house.has_closed("max_requests")


@only_kacore
def test_after_a_burst_over_the_limit_of_requests_every_stream_is_answered_or_may_be_repeated(build):
    house = build(policy=kacore.Policy(max_keep_alive_requests=10))
    c = house.connect()
    block = literals(request())
    c.send(b"".join(frame_of(c, block) for _ in range(50)))
    c.rest()
    last, code = c.goaways[-1]
    assert code == NO_ERROR and not c.was_reset
    for number, one in c.streams.items():
        assert one.data == b"hello\n" if number <= last and one.reset is None else not one.heads, (one, last)
    answered = sum(one.is_ended for one in c.streams.values())
    assert house.counts()["requests"] == answered >= 10


def frame_of(c, block):
    return struct.pack("!IBI", len(block) << 8 | HEADERS, 5, c.open(c.number()).number) + block


@only_kacore
@pytest.mark.parametrize(
    ("policy", "cause"),
    [
        ({"keep_alive": False}, "policy"),
        ({"max_keep_alive_requests": 1}, "max_requests"),
        ({"max_connection_age": 0.001, "age_jitter": 0.0}, "max_age"),
    ],
)
def test_a_connection_that_is_not_kept_ends_with_goaway_behind_its_response(build, policy, cause):
    house = build(policy=kacore.Policy(**policy))
    c = house.connect()
    for _ in range(50):  # an age of a millisecond takes some
        one = c.ask("/")
        assert one.data == b"hello\n"
        if c.settle_or_end().goaways:
            break
    c.rest()
    assert c.goaways[-1] == (one.number, NO_ERROR) and not c.was_reset
    house.has_closed(cause)


@only_kacore
def test_an_idle_connection_ends_at_its_time_and_ping_is_no_activity(build):
    house = build(policy=kacore.Policy(keep_alive_timeout=0.3))
    c = house.connect()
    c.ask("/")
    n = 0
    while not c.is_closed:
        c.frame(PING, 0, 0, b"activity").listen(0.03)
        n += 1
        assert n < 300, "PING keeps an idle connection"
    assert c.goaways[-1] == (1, NO_ERROR)
    house.has_closed("idle_timeout")


@only_kacore
def test_a_connection_with_an_open_stream_is_not_idle(build):
    house = build(policy=kacore.Policy(keep_alive_timeout=0.05))
    c = house.connect()
    held = c.get("/hold")
    house.wait_for("held")
    c.listen(0.2)
    assert not c.goaways and not c.is_closed
    house.release()
    assert c.answer(held).data == b"released"
    c.rest()
    house.has_closed("idle_timeout")


# -- deadlines ------------------------------------------------------------------------------------------------------


@only_kacore
@pytest.mark.parametrize("data", [b"", b"PRI * HTTP/2.0\r\n"])
def test_who_does_not_begin_has_the_time_of_the_first_byte_or_of_a_head(build, data):
    house = build(policy=kacore.Policy(first_byte_timeout=0.1, request_header_timeout=0.1))
    c = house.connect(begins=False)
    c.send(data)
    while c.sock.recv(1000):
        pass
    house.has_closed("first_byte_timeout", "header_timeout")


@only_kacore
def test_a_head_that_does_not_end_has_its_time_whatever_else_is_open(build):
    house = build(policy=kacore.Policy(request_header_timeout=0.2))
    c = house.connect()
    c.ask("/")
    c.frame(HEADERS, 1, c.open(c.number()).number, literals(request())[:10])
    c.rest()
    assert c.goaways[-1][0] <= 3
    house.has_closed("header_timeout")


@only_kacore
def test_content_that_does_not_come_ends_its_stream_alone(build):
    house = build(policy=kacore.Policy(request_body_timeout=0.2, min_request_body_rate=0))
    c = house.connect()
    held = c.get("/hold")
    silent = c.get("/read", method="POST", end=False)
    c.data(silent, b"x")
    one = c.answer(silent)
    assert one.status == 408 or one.reset is not None
    house.release()
    assert c.answer(held).data == b"released"
    assert is_alive(c)


@only_kacore
def test_content_of_one_stream_is_no_progress_of_another(build):
    house = build(policy=kacore.Policy(request_body_timeout=0.3, min_request_body_rate=0))
    c = house.connect()
    silent = c.get("/read", method="POST", end=False)
    busy = c.get("/read", method="POST", end=False)
    n = 0
    while not c.streams[silent].is_over:
        c.data(busy, b"x").listen(0.02)
        n += 1
        assert n < 500, "a busy stream hides the silent one"
    c.data(busy, b"", end=True)
    assert c.answer(busy).data == b"%d" % n


@only_kacore
def test_a_response_that_is_not_taken_ends_its_stream_alone(build):
    house = build(policy=kacore.Policy(send_timeout=0.2))
    c = house.connect(values={INITIAL_WINDOW_SIZE: 0}, takes=False)
    stalled = c.get("/bytes/1000")
    head_of(c, stalled)
    c.until(lambda: c.streams[stalled].reset is not None or c.goaways)
    assert c.streams[stalled].reset is not None and not c.goaways
    assert is_alive(c)


@only_kacore
def test_a_handler_that_takes_too_long_costs_its_stream_alone(build):
    house = build(policy=kacore.Policy(handler_timeout=0.2))
    c = house.connect()
    one = c.answer(c.get("/hold"))
    assert one.status == 503
    assert is_alive(c)


@needs_app
def test_settings_that_are_not_acknowledged_do_not_hold_requests_back(house):
    c = house.connect(answers=False)
    for _ in range(5):
        assert c.ask("/").data == b"hello\n"
    c.frame(SETTINGS, 0, 0, settings({})).settle()


@only_kacore
def test_the_connection_and_its_streams_are_counted(build):
    house = build()
    c = house.connect()
    for _ in range(3):
        c.ask("/")
    held = c.get("/hold")
    house.wait_for("held")
    stats = house.running.stats()
    assert stats["accepted"] == 1 and sum(stats["phases"].values()) == 1
    assert stats["phases"]["idle"] == 0
    house.release()
    c.answer(held)
    wait_until(lambda: house.running.phase_count("idle") == 1)
    c.close()
    wait_until(lambda: house.running.closed("client") == 1)


@only_kacore
def test_a_client_that_goes_ends_all_its_streams(build):
    house = build()
    c = house.connect()
    for _ in range(10):
        c.get("/wait")
    house.wait_for("held", 10)
    c.close()
    house.wait_for("disconnects", 10)


def test_a_client_with_small_windows_is_no_burden(house):
    """Each of its WINDOW_UPDATE asks for a kibibyte: many frames, and none for nothing."""
    c = house.connect(values={INITIAL_WINDOW_SIZE: 1023})
    assert len(c.ask("/bytes/4000000").data) == 4_000_000
    assert not c.goaways
