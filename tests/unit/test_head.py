"""Head, Limits, PeerError and parse_head: what each attribute gives, and what any bytes give."""

import itertools
import pickle
import subprocess
import sys

import pytest
from events import every_way_of_scanning, feed  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kacore import Head, KacoreError, Limits, LocalError, PeerError, RequestParser, parse_head, parse_parts
from kacore._core import set_simd_variant, simd_variant, simd_variants

BROWSER = (
    b"GET /a/b?c=d HTTP/1.1\r\nHost: Example.org:80\r\nUser-Agent: x\r\nX-Own-Name:  v \r\n"
    b"Cookie: a=1\r\nAccept: */*\r\ncookie: b=2\r\nAccept: text/html\r\n"
    b"Connection: x-own-name, keep-alive\r\n\r\n"
)


def test_attributes_of_a_head():
    head = parse_head(b"\r\n" + BROWSER + b"behind it")
    assert (head.method, head.target, head.version) == ("GET", b"/a/b?c=d", "1.1")
    assert head.headers == [
        (b"host", b"Example.org:80"),
        (b"user-agent", b"x"),
        (b"x-own-name", b"v"),
        (b"cookie", b"a=1"),
        (b"accept", b"*/*"),
        (b"cookie", b"b=2"),
        (b"accept", b"text/html"),
        (b"connection", b"x-own-name, keep-alive"),
    ]
    assert head.nbytes == 2 + len(BROWSER)
    assert head.host == b"Example.org:80"
    assert (head.keep_alive, head.content_length, head.chunked) == (True, None, False)
    assert (head.expects_continue, head.upgrade) == (False, None)


def test_get_takes_any_case_and_joins_lines():
    head = parse_head(BROWSER)
    assert head.get("HOST") == head.get(b"host") == b"Example.org:80"
    assert head.get("accept") == b"*/*, text/html"
    assert head.get("cookie") == b"a=1; b=2"
    assert head.get("hos") is None
    assert head.get("nothing", b"-") == b"-"
    assert head.get("h\xf6st") is None


def test_hop_by_hop_fields_are_those_named_by_connection_and_the_fixed_ones():
    head = parse_head(
        b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nX-A: 1\r\nX-B: 2\r\nKeep-Alive: timeout=5\r\n"
        b"Connection: X-A, te\r\nUpgrade: h2c\r\n\r\n"
    )
    assert head.hop_by_hop == [b"te", b"x-a", b"keep-alive", b"connection", b"upgrade"]
    assert head.upgrade is None  # Connection does not say upgrade


def test_upgrade_and_expect_are_ignored_in_http_1_0():
    lines = b"Upgrade: websocket\r\nConnection: Upgrade\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n"
    new = parse_head(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines)
    old = parse_head(b"GET / HTTP/1.0\r\nHost: a\r\n" + lines)
    assert (new.upgrade, new.expects_continue, new.content_length) == (b"websocket", True, 0)
    assert (old.upgrade, old.expects_continue, old.content_length) == (None, False, 0)


def test_the_host_of_an_absolute_target_is_there_without_a_host_field():
    assert parse_head(b"GET http://A:8/x HTTP/1.0\r\n\r\n").host == b"A:8"
    assert parse_head(b"GET / HTTP/1.0\r\n\r\n").host is None


def test_common_names_and_methods_are_shared_objects():
    first, second = parse_head(BROWSER), parse_head(BROWSER.replace(b"User-Agent", b"USER-AGENT"))
    assert first.headers[1][0] is second.headers[1][0]
    assert first.headers[2][0] == second.headers[2][0]
    assert first.method is second.method


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "SEARCH"]
)
def test_a_method_is_told_as_sent(method):
    assert parse_head(f"{method} / HTTP/1.0\r\n\r\n".encode()).method == method


def test_parts_are_what_the_attributes_of_a_head_are():
    data = BROWSER + b"\r\n" + BROWSER.replace(b"GET", b"POST") + BROWSER[:-1]
    offset, n = 0, 0
    while parts := parse_parts(data, offset):
        head = parse_head(data, offset)
        assert parts[:5] == (head.method, head.target, head.version, head.headers, head.keep_alive)
        assert parts[5] == offset + head.nbytes
        offset, n = parts[5], n + 1
    assert n == 2
    assert parse_parts(memoryview(BROWSER))[5] == len(BROWSER)


def test_parts_that_are_kept_stay_as_they_are_while_more_is_parsed():
    class Nested:
        def __del__(self):
            inner.append(parse_parts(b"PUT /inner HTTP/1.0\r\n\r\n"))

    inner, kept = [], []
    for i in range(6):
        parts = parse_parts(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % i)
        if i % 3:
            kept.append(parts)
        elif i == 3:
            parts[3].append(Nested())  # freed while the next head is made into a tuple
            del parts
    expected = ("GET", "1.1", [(b"host", b"a")], True, 28)
    assert [(p[0], *p[2:]) for p in kept] == [expected] * 4
    assert [p[1] for p in kept] == [b"/1", b"/2", b"/4", b"/5"]
    assert inner == [("PUT", b"/inner", "1.0", [], False, 23)]


@pytest.mark.parametrize("parse", [parse_head, parse_parts])
def test_an_offset_within_the_data_is_where_the_head_begins(parse):
    for data in (b"GET", bytearray(b"GET")):
        assert parse(data, 0) is parse(data, 3) is None
        with pytest.raises(LocalError, match="offset=4: must be at most 3"):
            parse(data, 4)
        for wrong, error in ((-1, OverflowError), (1 << 64, OverflowError), ("1", TypeError), (None, TypeError)):
            with pytest.raises(error):
                parse(data, wrong)
        with pytest.raises(TypeError, match="limits"):
            parse(data, 0, "limits")
    with pytest.raises(TypeError):
        parse()
    with pytest.raises(PeerError, match="at byte 3"):
        parse(b"12GET\r", 2)
    with pytest.raises(PeerError, match="the limit is 3"):
        parse(b"GET /abcdef", 0, Limits(max_target_bytes=3))


def test_a_head_owns_its_bytes():
    data = bytearray(BROWSER)
    head = parse_head(data)
    data[:] = b"x" * len(data)
    assert head.target == b"/a/b?c=d"
    data.clear()  # and no buffer is held


def test_a_head_keeps_short_data_and_copies_itself_out_of_long_data():
    for make in (parse_head, lambda data: RequestParser().feed(data)[0]):
        for data, keeps in ((BROWSER + b"x" * 1024, True), (BROWSER + b"x" * 1025, False)):
            before = sys.getrefcount(data)
            head = make(data)
            assert sys.getrefcount(data) == before + keeps
            assert (head.target, head.headers) == (b"/a/b?c=d", parse_parts(BROWSER)[3])
            del head
            assert sys.getrefcount(data) == before


def test_heads_that_are_alive_at_once_share_nothing():
    # More than are kept for the next, of each size, in memory that was another's before.
    sent = [
        (b"GET /%d HTTP/1.1\r\nHost: a\r\n" % i + b"X-%d: v\r\n" % i * (i % 20) + b"\r\n", i) for i in range(90)
    ]
    for kind in (bytes, bytearray) * 2:
        for head, (data, i) in [(parse_head(kind(data)), (data, i)) for data, i in sent]:
            assert (head.target, head.nbytes, head.keep_alive) == (b"/%d" % i, len(data), True)
            assert head.headers == [(b"host", b"a"), *[(b"x-%d" % i, b"v")] * (i % 20)]


def test_a_head_without_a_request_is_empty_and_does_no_harm():
    head = Head.__new__(Head)
    assert (head.method, head.target, head.headers, head.host, head.get("host")) == (None, b"", [], None, None)
    with pytest.raises(AttributeError):
        head.keep_alive = True


def test_incomplete_is_none_and_a_fault_is_raised():
    assert all(parse_head(BROWSER[:n]) is None for n in range(len(BROWSER)))
    with pytest.raises(PeerError) as told:
        parse_head(b"GET / HTTP/1.1\r\nHost : a\r\n")
    error = told.value
    assert isinstance(error, KacoreError)
    assert (error.status, error.code, error.offset) == (400, "space_before_colon", 20)
    assert str(error) == "white space between field name and colon (RFC 9112 5.1), at byte 20"
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.status, copy.code, copy.offset) == (str(error), 400, "space_before_colon", 20)


def test_an_error_about_a_limit_names_the_limit_and_its_value():
    with pytest.raises(PeerError, match=r"over max_target_bytes .*the limit is 3, at byte 7$"):
        parse_head(b"GET /abcdef", limits=Limits(max_target_bytes=3))


def test_limits_are_checked_compared_and_shown():
    assert Limits() == Limits(max_headers=100) != Limits(max_headers=99)
    assert len({Limits(), Limits(max_headers=100)}) == 1
    assert eval(repr(Limits(max_headers=7))) == Limits(max_headers=7)
    for wrong in (
        {"max_headers": 1025},
        {"max_head_bytes": 0},
        {"max_body_bytes": -1},
        {"max_body_bytes": 2**63},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Limits(**wrong)
    for wrong in ("many", 1.5, True):
        with pytest.raises(TypeError, match="max_headers="):
            Limits(max_headers=wrong)


def test_the_way_of_scanning_can_be_asked_and_set():
    assert simd_variants()[0] == "scalar"
    for name in simd_variants():
        set_simd_variant(name)
        assert simd_variant() == name
    set_simd_variant(None)
    assert simd_variant() == simd_variants()[-1]
    with pytest.raises(LocalError, match="avx9"):
        set_simd_variant("avx9")


def test_the_environment_chooses_the_way_of_scanning(python_environment):
    code = "from kacore._core import simd_variant; print(simd_variant())"
    asked = {**python_environment, "KACORE_SIMD": "scalar"}
    told = subprocess.run([sys.executable, "-c", code], env=asked, capture_output=True, text=True, check=True)
    assert told.stdout == "scalar\n"


def test_a_head_is_not_made_by_hand():
    with pytest.raises(TypeError):
        Head()
    with pytest.raises(TypeError):
        parse_head("text")


SNIPPETS = [
    *(
        b"GET",
        b"POST",
        b" ",
        b"/",
        b"*",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"\r\n",
        b"\r",
        b"\n",
        b":",
        b"Host: a\r\n",
        b",",
    ),
    *(
        b"Content-Length: ",
        b"Transfer-Encoding: chunked\r\n",
        b"5",
        b"0",
        b"a",
        b";",
        b'"',
        b"\t",
        b"\x00",
        b"\xff",
    ),
    *(
        b"Connection: close\r\n",
        b"0\r\n\r\n",
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"%",
        b"?",
        b"[::1]",
    ),
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
]
REPEATABLE = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the way of scanning is not an example's
)
wild = st.lists(st.sampled_from(SNIPPETS) | st.binary(max_size=4), max_size=20).map(b"".join)


@given(wild, st.lists(st.integers(0, 200), max_size=8))
@REPEATABLE
def test_any_bytes_give_the_same_events_however_they_are_split(data, places):
    cuts = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    pieces = [data[i:j] for i, j in itertools.pairwise(cuts)]
    whole = feed([data])
    assert feed(pieces) == whole
    assert feed([data[i : i + 1] for i in range(len(data))]) == whole


@given(wild)
@REPEATABLE
def test_parse_head_agrees_with_the_first_event_of_a_parser(data):
    first = next(iter(RequestParser().feed(data)), None)
    if isinstance(first, PeerError):
        with pytest.raises(PeerError) as told:
            parse_head(data)
        assert (told.value.code, told.value.offset) == (first.code, first.offset)
    else:
        head = parse_head(data)
        assert (head is None) == (first is None)
        assert head is None or head.headers == first.headers


token = st.text("!#$%&'*+-.^_`|~0123456789abcXYZ", min_size=1, max_size=40).map(str.encode)
value = st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=60).map(
    lambda text: text.encode("latin-1").strip(b" \t")
)
MEANT = {b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"}


@given(st.lists(st.tuples(token, value), max_size=20), st.sampled_from([b"", b" ", b"\t  "]))
@REPEATABLE
def test_what_a_client_writes_is_what_is_read(lines, blank):
    lines = [(name, text) for name, text in lines if name.lower() not in MEANT]
    fields = b"".join(name + b":" + blank + text + blank + b"\r\n" for name, text in lines)
    head = parse_head(b"PATCH /x HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
    assert head.headers == [(b"host", b"a"), *((name.lower(), text) for name, text in lines)]


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.booleans())
@REPEATABLE
def test_chunks_give_their_content_back(chunks, has_trailers):
    framed = b"".join(b"%X\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    trailers = b"A: b\r\n" if has_trailers else b""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    events = feed([head + framed + b"0\r\n" + trailers + b"\r\n"])
    assert b"".join(event[1] for event in events if event[0] == "body") == b"".join(chunks)
    assert events[-1] == ("end", ((b"a", b"b"),) if has_trailers else ())
