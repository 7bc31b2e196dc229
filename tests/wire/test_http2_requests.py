"""Requests and responses of HTTP/2 (RFC 9113 section 8): what is malformed, and what applications see of the rest."""

import json
import random
import ssl
import struct

import pytest

from kacore import Policy
from kacore.server import TLS
from tests.wire.conftest import ECHOES
from tests.wire.http2_client import (
    CONTINUATION,
    DATA,
    ENABLE_CONNECT_PROTOCOL,
    END_STREAM,
    HEADER_TABLE_SIZE,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    STREAM_CLOSED,
    request,
)
from tests.wire.http2_expect import RESETS, is_alive
from tests.wire.http2_house import PEER, needs_app, needs_http2, only_kacore

pytestmark = needs_http2

METHOD, SCHEME, PATH, AUTHORITY = GET = request("/")
POST = request("/read", "POST")


def without(name, fields=GET):
    return [field for field in fields if field[0] != name]


def given(name, value, fields=GET):
    return [(key, value if key == name else old) for key, old in fields]


MALFORMED = {
    # 8.2, 8.2.1
    "a capital in a name": [*GET, ("X-Upper", "a")],
    "a name of capitals": [*GET, ("ACCEPT", "a")],
    "an empty name": [*GET, ("", "a")],
    "a space in a name": [*GET, ("a b", "a")],
    "a control in a name": [*GET, ("a\x01", "a")],
    "a colon in a name": [*GET, ("a:b", "a")],
    "DEL in a name": [*GET, ("a\x7f", "a")],
    "a byte over 0x7f in a name": [*GET, ("\xe4", "a")],
    "CR in a name": [*GET, ("a\r", "a")],
    "NUL in a value": [*GET, ("a", "b\0c")],
    "CR in a value": [*GET, ("a", "b\rc")],
    "LF in a value": [*GET, ("a", "b\nc")],
    "CRLF and a field in a value": [*GET, ("a", "b\r\nx: y")],
    "a space before a value": [*GET, ("a", " b")],
    "a space behind a value": [*GET, ("a", "b ")],
    "a tab before a value": [*GET, ("a", "\tb")],
    "a tab behind a value": [*GET, ("a", "b\t")],
    # 8.2.2
    "connection": [*GET, ("connection", "keep-alive")],
    "keep-alive": [*GET, ("keep-alive", "timeout=5")],
    "proxy-connection": [*GET, ("proxy-connection", "keep-alive")],
    "transfer-encoding": [*GET, ("transfer-encoding", "chunked")],
    "upgrade": [*GET, ("upgrade", "websocket")],
    "te that is not trailers": [*GET, ("te", "gzip")],
    "te with more than trailers": [*GET, ("te", "trailers, deflate;q=0.5")],
    # 8.3
    "a pseudo-header field behind another": [METHOD, SCHEME, PATH, ("a", "b"), AUTHORITY],
    "all pseudo-header fields behind another": [("a", "b"), *GET],
    "an unknown pseudo-header field": [*GET, (":unknown", "a")],
    "a pseudo-header field of responses": [*GET, (":status", "200")],
    "an empty pseudo-header field's name": [*GET, (":", "a")],
    "a pseudo-header field in capitals": [*without(":path"), (":Path", "/")],
    ":method twice": [METHOD, *GET],
    ":scheme twice": [SCHEME, *GET],
    ":path twice": [PATH, *GET],
    ":authority twice": [AUTHORITY, *GET],
    # 8.3.1
    "no :method": without(":method"),
    "no :scheme": without(":scheme"),
    "no :path": without(":path"),
    "no field at all": [],
    "an empty :path": given(":path", ""),
    "a :path without /": given(":path", "a"),
    "a :path that is a URI": given(":path", "http://test/"),
    "* without OPTIONS": given(":path", "*"),
    "a fragment in :path": given(":path", "/a#b"),
    "a space in :path": given(":path", "/a b"),
    "a control in :path": given(":path", "/a\x01"),
    "CRLF in :path": given(":path", "/ HTTP/1.1\r\nx: y"),
    "an empty :method": given(":method", ""),
    "a space in :method": given(":method", "GET /x HTTP/1.1"),
    "an empty :scheme": given(":scheme", ""),
    "user information in :authority": given(":authority", "user@test"),
    "a space in :authority": given(":authority", "a b"),
    "a path in :authority": given(":authority", "test/x"),
    "a port that is no number in :authority": given(":authority", "test:a"),
    "an empty :authority": given(":authority", ""),
    "neither :authority nor host": without(":authority"),
    "a host that differs from :authority": [*GET, ("host", "other")],
    "a host that differs by its port": [*GET, ("host", "test:81")],
    "two hosts": [*without(":authority"), ("host", "test"), ("host", "test")],
    "two hosts beside :authority": [*GET, ("host", "test"), ("host", "other")],
    # 8.1.1
    "content-length that is no number": [*GET, ("content-length", "a")],
    "content-length with a sign": [*GET, ("content-length", "+0")],
    "an empty content-length": [*GET, ("content-length", "")],
    "content-length twice": [*GET, ("content-length", "0"), ("content-length", "0")],
    "content-length as a list": [*GET, ("content-length", "0, 0")],
    "content-length without content": [*GET, ("content-length", "5")],
    # 8.5, RFC 8441 4
    "CONNECT with :path": [(":method", "CONNECT"), PATH, (":authority", "test:80")],
    "CONNECT with :scheme": [(":method", "CONNECT"), SCHEME, (":authority", "test:80")],
    "CONNECT without :authority": [(":method", "CONNECT")],
    "CONNECT without a port": [(":method", "CONNECT"), (":authority", "test")],
    ":protocol without CONNECT": [*GET, (":protocol", "websocket")],
    ":protocol without :path": [(":method", "CONNECT"), SCHEME, (":protocol", "websocket"), AUTHORITY],
    ":protocol without :scheme": [(":method", "CONNECT"), PATH, (":protocol", "websocket"), AUTHORITY],
    ":protocol without :authority": [(":method", "CONNECT"), SCHEME, PATH, (":protocol", "websocket")],
    "an empty :protocol": [(":method", "CONNECT"), SCHEME, PATH, (":protocol", ""), AUTHORITY],
}

WELL_FORMED = {
    "pseudo-header fields in any order": [AUTHORITY, PATH, SCHEME, METHOD],
    "host in place of :authority": [*without(":authority"), ("host", "test")],
    "host that equals :authority": [*GET, ("host", "test")],
    "te with trailers": [*GET, ("te", "trailers")],
    "a query": given(":path", "/?a=b&c=%zz"),
    "a name of all token characters": [*GET, ("!#$%&'*+-.^_`|~09az", "x")],
    "a value of any visible bytes": [*GET, ("a", "!\x22\xe4\xff ~\tb")],
    "an empty value": [*GET, ("a", "")],
    "content-length 0 without content": [*GET, ("content-length", "0")],
    "an IPv6 address with a port": given(":authority", "[::1]:8080"),
    "the other scheme": given(":scheme", "https"),
    "expect without content": [*GET, ("expect", "100-continue")],
    "priority": [*GET, ("priority", "u=1, i")],
    "an unknown priority": [*GET, ("priority", "u=99; ,,\x7e")],
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_request_is_an_error_of_its_stream_and_never_reaches_the_application(house, what):
    before = house.counts_or_none()
    c = house.connect()
    one = c.streams[c.raw(MALFORMED[what])]
    c.until(lambda: one.is_over, "the end of the stream")
    # RFC 9113 8.1.1: a response may come first.
    assert one.reset == PROTOCOL_ERROR or (one.status == 400 and one.reset in (None, NO_ERROR)), one
    assert house.counts_or_none() == before
    assert is_alive(c), c.goaways


@pytest.mark.parametrize("what", WELL_FORMED)
def test_a_well_formed_request_is_answered(house, what):
    c = house.connect()
    assert c.answer(c.raw(WELL_FORMED[what])).status == 200


@needs_app
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (given(":method", "get"), 501),
        (given(":method", "M" * 40), 501),
        (given(":path", "/%00"), 400),
        (given(":path", "/%zz"), 400),
        (given(":path", "/" + "a" * 9000), 414),
        ([*GET, ("a", "b" * 20_000)], 431),
        ([*GET, *[("a", "b")] * 150], 431),
        ([*GET, *[("a" * 1000, "b" * 1000)] * 40], 431),
    ],
)
def test_what_is_refused_has_the_status_of_http_1_and_the_connection_goes_on(house, fields, status):
    before = house.counts()
    c = house.connect()
    one = c.answer(c.headers(fields))
    assert one.status == status and one.reset in (None, NO_ERROR)
    assert house.counts() == before
    assert c.ask("/").status == 200
    assert not c.goaways


@needs_app
def test_a_head_over_the_limit_is_refused_and_hpack_stays_in_step(house):
    c = house.connect()
    for _ in range(3):
        assert c.ask("/", *[(f"x-{i}", "v" * 4000) for i in range(20)]).status == 431
        assert c.ask("/", ("x-1", "small"), ("x-2", "small")).status == 200


# -- content -------------------------------------------------------------------------------------------------------


def post(c, *frames, length=None, path="/read"):
    """A request with these frames of content, (data, ends)."""
    fields = request(path, "POST", *([("content-length", str(length))] if length is not None else []))
    stream = c.headers(fields, end=False)
    for data, ends in frames:
        c.data(stream, data, ends)
    return stream


@pytest.mark.parametrize(
    "frames",
    [
        [(b"abc", True)],
        [(b"abc", False), (b"", True)],
        [(b"a", False), (b"", False), (b"bc", True)],
    ],
)
def test_content_of_the_promised_length_is_read(house, frames):
    c = house.connect()
    one = c.answer(post(c, *frames, length=3, path="/echo"))
    assert (one.status, one.data) == (200, b"abc")


@pytest.mark.parametrize(
    ("length", "frames"),
    [
        (5, [(b"abc", True)]),
        (5, [(b"abc", False), (b"", True)]),
        (2, [(b"abc", True)]),
        (2, [(b"ab", False), (b"c", False)]),
        (0, [(b"a", True)]),
        (0, [(b"a", False)]),
    ],
)
def test_8_1_1_content_of_another_length_is_malformed_and_no_application_takes_it_for_whole(house, length, frames):
    before = (house.counts_or_none() or {}).get("read")
    c = house.connect()
    stream = post(c, *frames, length=length)
    RESETS(PROTOCOL_ERROR).check(c, stream)
    assert c.streams[stream].status in (0, 400)
    assert (house.counts_or_none() or {}).get("read") == before


def test_8_1_1_trailers_before_the_promised_length_are_malformed(house):
    c = house.connect()
    stream = post(c, (b"abc", False), length=5)
    c.headers([("a", "b")], stream)
    RESETS(PROTOCOL_ERROR).check(c, stream)


def test_content_length_does_not_count_padding(house):
    c = house.connect()
    stream = post(c, length=3, path="/echo")
    c.frame(DATA, 8 | END_STREAM, stream, b"\x07abc" + bytes(7))
    assert c.answer(stream).data == b"abc"


@needs_app
def test_content_that_promises_too_much_is_refused_at_its_head(house):
    c = house.connect()
    one = c.answer(post(c, length=2**40))
    assert one.status == 413
    assert is_alive(c)


def test_8_1_trailers_end_a_request(house):
    c = house.connect()
    stream = post(c, (b"abc", False), path="/echo")
    c.headers([("x-sum", "1"), ("a", "")], stream)
    one = c.answer(stream)
    assert (one.status, one.data) == (200, b"abc")


@pytest.mark.parametrize(
    ("trailers", "ends"),
    [
        ([("a", "b")], False),
        ([(":path", "/")], True),
        ([(":status", "200")], True),
        ([("a", "b"), (":method", "GET")], True),
        ([("Upper", "b")], True),
        ([("connection", "close")], True),
        ([("a", "b\0")], True),
    ],
)
def test_8_1_malformed_trailers_are_an_error_of_the_stream(house, trailers, ends):
    before = (house.counts_or_none() or {}).get("read")
    c = house.connect()
    stream = post(c, (b"abc", False))
    c.raw(trailers, stream, end=ends)
    RESETS(PROTOCOL_ERROR).check(c, stream)
    assert (house.counts_or_none() or {}).get("read") == before


def test_8_1_nothing_follows_trailers(house):
    c = house.connect()
    stream = c.get("/hold", method="POST", end=False)
    c.headers([("a", "b")], stream)
    c.data(stream, b"x")
    RESETS(STREAM_CLOSED).check(c, stream)


def test_large_content_comes_whole_in_the_windows_that_are_given(house):
    c = house.connect()
    data = bytes(range(256)) * 4000
    one = c.post("/echo", data)
    assert one.data == data
    c.settle()


@needs_app
def test_an_answer_before_the_end_of_content_does_not_end_the_connection(house):
    """RFC 9113 8.1: the stream may be reset without error then, and what is on its way is thrown away."""
    c = house.connect()
    for _ in range(20):
        stream = c.get("/refuse", method="POST", end=False)
        c.data(stream, b"x" * 10_000)
        one = c.answer(stream)
        assert one.status == 403 and one.data == b"no, thanks"
        c.until(lambda one=one: one.reset is not None, "content is not waited for")
        assert one.reset == NO_ERROR
    assert is_alive(c)


# -- 100-continue, 103, trailers ------------------------------------------------------------------------------------


@needs_app
def test_100_is_sent_when_the_application_asks_for_content(house):
    c = house.connect()
    stream = c.get("/read", ("expect", "100-continue"), method="POST", end=False)
    one = c.streams[stream]
    c.until(lambda: one.interim == [100])
    c.data(stream, b"abc", end=True)
    assert c.answer(stream).data == b"3"
    assert one.interim == [100]


@needs_app
def test_no_100_where_the_application_does_not_ask_or_content_has_come(house):
    c = house.connect()
    one = c.answer(c.get("/refuse", ("expect", "100-continue"), method="POST", end=False))
    assert (one.interim, one.status) == ([], 403)
    stream = c.get("/then", ("expect", "100-continue"), method="POST", end=False)
    c.data(stream, b"abc", end=True).settle()
    house.release()
    assert c.answer(stream).data == b"3"
    assert c.streams[stream].interim == []


@needs_app
def test_early_hints_come_before_the_response(house):
    c = house.connect()
    one = c.ask("/hints")
    assert one.interim == [103, 103] and one.data == b"hinted"
    assert [dict(head).get("link") for head in one.heads[:2]] == ["</a.css>; rel=preload", "</b.js>; rel=preload"]


@needs_app
def test_trailers_come_to_a_client_that_takes_them(house):
    c = house.connect()
    one = c.ask("/trailers", ("te", "trailers"))
    assert (one.data, one.trailers) == (b"content", [("x-sum", "42"), ("x-more", "1")])
    one = c.ask("/trailers")
    assert one.data == b"content" and one.trailers in (None, [("x-sum", "42"), ("x-more", "1")])


# -- responses -------------------------------------------------------------------------------------------------------


@needs_app
@pytest.mark.parametrize("path", ["/", "/stream/1000", "/trailers", "/hints", "/echo", "/scope"])
def test_the_response_to_head_has_no_content_whatever_the_application_sends(house, path):
    one = house.connect().ask(path, ("te", "trailers"), method="HEAD")
    assert (one.status, one.data, one.trailers) == (200, b"", None)


def test_the_response_to_head_of_a_file_or_bytes_has_no_content(house):
    c = house.connect()
    one = c.ask("/bytes/1000", method="HEAD")
    assert (one.status, one.data, one.get("content-length")) == (200, b"", "1000")


@needs_app
@pytest.mark.parametrize("status", [204, 304, 205])
def test_some_responses_have_no_content(house, status):
    one = house.connect().ask(f"/status/{status}")
    assert (one.status, one.data) == (status, b"")
    assert status == 205 or one.get("content-length") is None


@needs_app
def test_fields_of_http_1_are_left_out_of_responses(house):
    one = house.connect().ask("/fields")  # the client judges the rest
    assert one.get("x-upper-case") == "Yes"
    assert [value for name, value in one.final if name == "set-cookie"] == ["a=1", "b=2"]
    assert one.data == b"fields"


@needs_app
def test_a_failing_application_costs_its_stream_alone(house):
    c = house.connect()
    held = c.get("/hold")
    house.wait_for("held")
    assert c.ask("/fail").status == 500
    one = c.answer(c.get("/break"))
    assert one.status == 200 and one.reset == INTERNAL_ERROR and not one.is_ended
    house.release()
    assert c.answer(held).data == b"released"
    assert is_alive(c)


@only_kacore
def test_a_file_goes_out_under_flow_control(build):
    house = build(pathsend=True)
    c = house.connect(values={4: 1000}, takes=False)
    stream = c.get("/file")
    one = c.streams[stream]
    c.until(lambda: len(one.data) == 1000)
    c.settle()
    assert len(one.data) == 1000
    c.update(stream, 10_000_000)
    c.answer(stream)
    assert one.data.startswith(b'"""The application') and one.data.endswith(b"app = App()\n")


@needs_app
def test_a_head_larger_than_a_frame_goes_on_in_continuation(house):
    c = house.connect()
    one = c.ask("/large/60000")
    assert one.data == b"large" and len(one.final) >= 100
    assert CONTINUATION in {frame.type for frame in c.log}
    assert c.ask("/").data == b"hello\n"


@needs_app
def test_a_response_shorter_than_it_promised_is_cut_off(house):
    c = house.connect()
    one = c.answer(c.get("/short"))
    assert one.reset == INTERNAL_ERROR and not one.is_ended
    assert is_alive(c)


@only_kacore
def test_content_over_the_limit_is_refused_when_it_is_there(build):
    c = build(policy=Policy(max_body_bytes=1000)).connect()
    stream = c.get("/read", method="POST", end=False)
    c.data(stream, b"x" * 600).data(stream, b"x" * 600)
    one = c.answer(stream)
    assert one.status == 413, one
    assert c.post("/read", b"x" * 1000).data == b"1000"


@needs_app
def test_many_pieces_of_a_cookie_are_one_field(house):
    """RFC 9113 8.2.3: a browser sends each of its cookies as a field of its own, for the sake of compression."""
    pairs = [f"name{i}=value{i}" for i in range(150)]
    c = house.connect()
    scope = scope_of(c, request("/scope", "GET", *[("cookie", pair) for pair in pairs]))
    assert scope["headers"][-1] == ["cookie", "; ".join(pairs)]


@needs_app
@pytest.mark.parametrize("size", [0, 64, 4096, 65536])
def test_fields_come_back_as_they_were_whatever_the_tables_hold(house, size):
    """Both tables are filled, emptied, and changed in size, over hundreds of requests."""
    seed = random.Random(size)
    c = house.connect(values={HEADER_TABLE_SIZE: size})
    values = ["", "a", "yes", "x" * 100, "1234567890" * 30, "!#$%&'()*+,-./:;<=>?@[]^_`{|}~", "\xe4\xf6\xfc", "v" * 3000]
    for i in range(150):
        fields = [(f"x-{seed.randrange(30)}", seed.choice(values)) for _ in range(seed.randrange(6))]
        one = c.ask("/mirror", *fields)
        assert [field for field in one.final if field[0].startswith("x-")] == fields
        if i % 40 == 39:
            c.settings({HEADER_TABLE_SIZE: seed.choice([0, 100, size, 4096])})


# -- the scope of ASGI -----------------------------------------------------------------------------------------------


def scope_of(c, fields, end=True):
    one = c.answer(c.headers(fields, end=end))
    assert one.status == 200, one
    return json.loads(one.data)


knows_scopes = pytest.mark.skipif(PEER not in ("", "hypercorn"), reason="only who runs the application has a scope")


@knows_scopes
def test_the_scope_is_as_with_http_1_but_for_the_version(house):
    c = house.connect()
    scope = scope_of(c, request("/scope/a%20b%2f?x=1&y", "GET", ("accept", "*/*"), authority="Test.Example:81"))
    assert (scope["type"], scope["http_version"], scope["method"], scope["scheme"]) == ("http", "2", "GET", "http")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/scope/a b/", "/scope/a%20b%2f", "x=1&y")
    assert scope["headers"] == [["host", "Test.Example:81"], ["accept", "*/*"]]
    assert scope["client"] == list(c.sock.getsockname())


@knows_scopes
def test_8_2_3_cookies_are_joined_where_the_first_one_was(house):
    fields = [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c=3"), ("z", "w")]
    scope = scope_of(house.connect(), request("/scope", "GET", *fields))
    assert scope["headers"] == [["host", "test"], ["cookie", "a=1; b=2; c=3"], ["x", "y"], ["z", "w"]]


@knows_scopes
def test_host_beside_an_equal_authority_is_told_once(house):
    scope = scope_of(house.connect(), request("/scope", "GET", ("a", "b"), ("host", "test")))
    assert scope["headers"] == [["host", "test"], ["a", "b"]]


@knows_scopes
def test_host_stands_in_for_authority(house):
    fields = [*without(":authority", request("/scope")), ("a", "b"), ("host", "test")]
    assert ["host", "test"] in scope_of(house.connect(), fields)["headers"]


@knows_scopes
def test_repeated_fields_stay_in_their_order(house):
    fields = [("a", "1"), ("b", "2"), ("a", "3"), ("te", "trailers"), ("c", "")]
    scope = scope_of(house.connect(), request("/scope", "GET", *fields))
    assert scope["headers"] == [["host", "test"], *[list(field) for field in fields]]


@only_kacore
def test_extensions_are_offered_as_with_http_1(build):
    c = build(pathsend=True).connect()
    scope = scope_of(c, request("/scope", "GET", ("te", "trailers")))
    wanted = {"http.response.early_hint", "http.response.trailers", "http.response.pathsend"}
    assert wanted <= set(scope["extensions"])


@only_kacore
def test_over_tls_the_scheme_is_https_and_alpn_is_h2(build, localhost, certificates):
    house = build(tls=TLS(localhost))
    c = house.connect(tls=ssl.create_default_context(cafile=certificates.roots))
    scope = scope_of(c, given(":scheme", "https", request("/scope")))
    assert (scope["http_version"], scope["scheme"]) == ("2", "https")
    assert "tls" in scope["extensions"]
    data = bytes(range(256)) * 1000
    assert c.post("/echo", data).data == data


@only_kacore
@pytest.mark.parametrize(("alpn", "chosen"), [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), (None, None)])
def test_alpn_chooses_and_nothing_else(build, localhost, certificates, client, alpn, chosen):
    house = build(tls=TLS(localhost))
    context = ssl.create_default_context(cafile=certificates.roots)
    if alpn:
        context.set_alpn_protocols(alpn)
    one = client(house)
    one.sock = context.wrap_socket(one.sock, server_hostname="localhost")
    assert one.sock.selected_alpn_protocol() == chosen
    if chosen != "h2":
        assert one.get("/").body == b"hello\n"


@only_kacore
def test_http2_off_offers_no_h2_and_takes_no_preface(build, localhost, certificates, client):
    context = ssl.create_default_context(cafile=certificates.roots)
    context.set_alpn_protocols(["h2", "http/1.1"])
    one = client(build(tls=TLS(localhost), http2="off"))
    one.sock = context.wrap_socket(one.sock, server_hostname="localhost")
    assert one.sock.selected_alpn_protocol() == "http/1.1"
    one = client(build(http2="off"))
    one.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert one.response().status == 505


@needs_app
def test_http_1_is_spoken_beside_it_and_an_offer_of_h2c_is_not_taken(house, client):
    one = client(house)
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
    assert one.get("/", *upgrade).body == b"hello\n"
    assert one.get("/").body == b"hello\n"
    assert house.connect().ask("/").data == b"hello\n"


@only_kacore
@pytest.mark.parametrize("name", ECHOES)
def test_every_interface_serves_it(build, name):
    app, options = ECHOES[name]
    c = build(app=app, **options).connect()
    assert c.ask("/a").data == b"GET /a "
    assert c.post("/slow", b"content").data == b"POST /slow content"
    data = b"z" * 200_000
    assert c.post("/b", data).data == b"POST /b " + data
    streams = [c.get(f"/{i}") for i in range(20)]
    assert [bytes(c.answer(stream).data) for stream in streams] == [b"GET /%d " % i for i in range(20)]
    assert c.ask("/fail").status == 500
    assert is_alive(c)


# -- websockets over HTTP/2 (RFC 8441) -------------------------------------------------------------------------------


def websocket(c, path="/ws", *fields, version="13"):
    c.settle()
    assert c.theirs.get(ENABLE_CONNECT_PROTOCOL) == 1
    head = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", path)]
    more = [(":authority", "test"), ("sec-websocket-version", version), *fields]
    stream = c.headers(head + more, end=False)
    c.until(lambda: c.streams[stream].status or c.streams[stream].is_over)
    return stream


def message(payload, opcode=1):
    mask = b"\x01\x02\x03\x04"
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    assert len(payload) < 126
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + masked


@needs_app
def test_a_websocket_speaks_on_its_stream(house):
    c = house.connect()
    stream = websocket(c, "/ws?a=b", ("sec-websocket-protocol", "chat, other"), ("origin", "http://test"))
    one = c.streams[stream]
    assert one.status == 200 and not one.is_ended and one.get("sec-websocket-protocol") == "chat"
    assert one.get("sec-websocket-accept") is None
    c.data(stream, message(b"hello"))
    c.until(lambda: one.data == b"\x81\x05hello")
    c.data(stream, message(b"he", 2)[:3]).data(stream, message(b"he", 2)[3:])
    c.until(lambda: one.data == b"\x81\x05hello\x82\x02he")
    assert c.ask("/").data == b"hello\n"
    c.data(stream, message(struct.pack("!H", 1001), 8))
    c.until(lambda: one.data.endswith(b"\x88\x02" + struct.pack("!H", 1001)))
    c.data(stream, b"", end=True)
    c.until(lambda: one.is_over)
    house.wait_for("websocket ended 1001")
    assert is_alive(c)


@only_kacore
def test_a_websockets_scope_is_as_with_http_1_but_for_the_version(build):
    house = build()
    c = house.connect()
    stream = websocket(c, "/ws?a=b", ("x", "y"))
    (scope,) = house.app.scopes
    assert (scope["type"], scope["http_version"], scope["scheme"], scope["path"]) == ("websocket", "2", "ws", "/ws")
    assert scope["query_string"] == b"a=b" and (b"host", b"test") in scope["headers"] and (b"x", b"y") in scope["headers"]
    c.reset(stream).settle()
    house.wait_for("websocket ended 1006")


@needs_app
def test_a_refused_websocket_is_answered_403_and_one_of_another_version_400(house):
    c = house.connect()
    assert c.answer(websocket(c, "/refused")).status == 403
    assert c.streams[websocket(c, version="12")].status in (400, 426)
    assert is_alive(c)


@needs_app
def test_two_websockets_and_requests_share_a_connection(house):
    c = house.connect()
    first, second = websocket(c), websocket(c)
    for i in range(10):
        c.data(first, message(b"a%d" % i)).data(second, message(b"b%d" % i))
        assert c.ask("/").status == 200
    c.until(lambda: c.streams[first].data.endswith(b"a9") and c.streams[second].data.endswith(b"b9"))
    c.reset(first).data(second, message(b"still"))
    c.until(lambda: c.streams[second].data.endswith(b"still"))
    house.wait_for("websocket ended 1006")


@needs_app
def test_an_unmasked_frame_of_a_websocket_ends_its_stream_alone(house):
    c = house.connect()
    stream = websocket(c)
    c.data(stream, b"\x81\x01a")
    c.until(lambda: b"\x88\x02\x03\xea" in c.streams[stream].data or c.streams[stream].is_over)
    assert is_alive(c)


@needs_app
def test_an_unknown_protocol_of_connect_is_refused(house):
    c = house.connect()
    head = [(":method", "CONNECT"), (":protocol", "unknown"), (":scheme", "http"), (":path", "/"), (":authority", "test")]
    one = c.answer(c.headers(head, end=False))
    assert one.status in (400, 404, 405, 501) or one.reset == PROTOCOL_ERROR
    assert is_alive(c)
