"""RequestParser: the same events at every split, errors as the last event, nothing held while idle."""

import sys

import pytest
from events import every_way_of_scanning, feed, split_everywhere, told  # noqa: F401

from kacore import EndOfMessage, Head, Limits, RequestParser

SIMPLE = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = (
    b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'5;x="y"\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n'
)
LENGTH = b"POST /l HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"


def test_pipelined_requests_give_their_events_in_order_at_every_split():
    data = SIMPLE + CHUNKED + b"\r\n" + LENGTH + SIMPLE
    whole = feed([data])
    kinds = [event[0] for event in whole]
    assert kinds == ["head", "end", "head", "body", "end", "head", "body", "end", "head", "end"]
    assert whole[3] == ("body", b"hello world")
    assert whole[4] == ("end", ((b"x-sum", b"1"),))
    for pieces in split_everywhere(data):
        assert feed(pieces) == whole


def test_good_requests_before_an_error_in_the_same_call_are_not_lost():
    events = told(RequestParser().feed(SIMPLE + b"GET / HTTP/1.1\nHost: a\r\n\r\n"))
    assert [event[0] for event in events] == ["head", "end", "error"]
    assert events[-1] == ("error", 400, "bare_lf", 14)


def test_nothing_is_accepted_after_an_error():
    parser = RequestParser()
    assert parser.feed(b"\x16\x03\x01")[0].code == "bad_method"
    assert parser.is_over
    assert parser.feed(SIMPLE) == []
    assert parser.feed_eof() == []


def test_nothing_is_accepted_after_a_message_that_ends_the_connection():
    parser = RequestParser()
    events = parser.feed(b"GET / HTTP/1.0\r\n\r\n" + SIMPLE)
    assert [type(event) for event in events] == [Head, EndOfMessage]
    assert parser.is_over
    assert parser.feed(SIMPLE) == []


def test_an_upgrade_request_keeps_its_body():
    head = b"POST / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\n"
    assert [event[0] for event in feed([head + b"hi" + SIMPLE])] == ["head", "body", "end", "head", "end"]


@pytest.mark.parametrize("cut", [1, 10, len(SIMPLE) - 1])
def test_end_of_input_inside_a_head_is_an_error_that_says_where(cut):
    assert feed([SIMPLE[:cut]]) == [("error", 400, "incomplete", cut)]


def test_end_of_input_inside_a_body_is_an_error_that_says_where():
    assert feed([LENGTH[:-1]])[-1] == ("error", 400, "incomplete", len(LENGTH) - 1)
    assert feed([CHUNKED[:-3]])[-1] == ("error", 400, "incomplete", len(CHUNKED) - 3)


def test_one_empty_line_between_or_after_messages_is_no_message():
    assert [event[0] for event in feed([SIMPLE + b"\r\n"])] == ["head", "end"]


def test_a_content_length_over_the_limit_is_413_before_any_content():
    limits = Limits(max_body_bytes=2)
    assert feed([LENGTH], limits) == [("error", 413, "body_too_large", LENGTH.index(b"3"))]
    assert feed([CHUNKED], limits)[-1][1:3] == (413, "body_too_large")


def test_an_idle_parser_is_at_most_64_bytes_and_holds_no_buffer():
    parser = RequestParser()
    parser.feed(SIMPLE)
    assert sys.getsizeof(parser) <= 64


def test_any_contiguous_buffer_is_taken():
    expected = feed([SIMPLE])
    for kind in (bytearray, memoryview):
        assert feed([kind(SIMPLE)]) == expected
    with pytest.raises(TypeError):
        RequestParser().feed("text")
