"""How responses are framed; and an application's mistakes: a logged error, never a connection out of step."""

import asyncio
import logging

import pytest

from kacore import Response
from tests.wire.conftest import wait_until


def asgi_app(*messages, after=None):
    """An ASGI application that sends these messages."""

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        for message in messages:
            await send(message)
        if after is not None:
            raise after

    return app


def head(status=200, *headers):
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def piece(body, more=False):
    return {"type": "http.response.body", "body": body, "more_body": more}


def test_headers_of_a_response_are_pairs_or_a_dict(start, client):
    for headers in ([("x-one", "1"), (b"x-two", b"2")], {"x-one": "1", "x-two": "2"}):
        got = client(start(lambda request, headers=headers: Response(b"", headers=headers))).get()
        assert (got.get("x-one"), got.get("x-two")) == ("1", "2")


@pytest.mark.parametrize("waits", [False, True])
def test_the_log_says_which_request_an_application_failed_on(start, client, caplog, waits):
    async def app(scope, receive, send):
        if waits:
            await asyncio.sleep(0)
        scope.update(path="/changed")
        raise ValueError("on purpose")

    assert client(start(app, lifespan="off")).get("/a%2F?b").status == 500
    assert "the application failed on GET /a%2F" in caplog.text


def wsgi_app(status, headers, pieces):
    def app(environ, start_response):
        start_response(status, headers)
        return iter(pieces)

    return app


def errors(caplog):
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


# --- framing ------------------------------------------------------------------------------------------------


def test_a_known_length_is_told_and_an_unknown_one_is_chunked(start, client):
    c = client(start(lambda request: Response(iter([b"ab", b"", b"c"])) if request.path == "/parts" else b"abc"))
    whole = c.get("/")
    assert (whole.body, whole.get("content-length"), whole.get("transfer-encoding")) == (b"abc", "3", None)
    parts = c.get("/parts")
    assert (parts.body, parts.get("content-length"), parts.get("transfer-encoding")) == (b"abc", None, "chunked")
    assert c.is_open()


def test_an_unknown_length_to_http_1_0_ends_with_the_connection(start, client):
    c = client(start(lambda request: Response(iter([b"ab", b"c"]))))
    response = c.get("/", "Connection: keep-alive", version="1.0")
    assert (response.body, response.get("transfer-encoding"), response.get("connection")) == (b"abc", None, "close")


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_content_have_none_whatever_is_sent(start, client, status):
    c = client(start(lambda request: Response(b"smuggled", status=status)))
    for _ in range(2):
        response = c.get()
        assert response.status == status
        assert response.get("transfer-encoding") is None
    assert c.buf == b""


def test_reset_content_says_that_there_is_none(start, client):
    for version in ("1.1", "1.0"):
        c = client(start(lambda request: Response(iter([b"smug", b"gled"]), status=205, headers=[("Content-Length", "8")])))
        for _ in range(2):
            response = c.get("/", "Connection: keep-alive", version=version)
            assert (response.status, response.get("content-length"), response.body) == (205, "0", b"")
        assert c.buf == b""


def test_head_has_the_fields_of_get_and_no_content(echo, client):
    c = client(echo())
    response = c.get("/x", method="HEAD")
    assert response.get("content-length") == str(len("HEAD /x "))
    assert c.get("/y").body == b"GET /y "


def test_head_of_a_streamed_response_has_no_content(start, client):
    for app in (
        asgi_app(head(), piece(b"a" * 100, True), piece(b"b" * 100)),
        wsgi_app("200 OK", [], [b"a", b"b"]),
        lambda request: Response(iter([b"a", b"b"])),
    ):
        c = client(start(app))
        for _ in range(2):
            assert c.get(method="HEAD").get("transfer-encoding") is None
        assert c.buf == b""


def test_accepting_connect_ends_http_on_the_connection(start, client):
    c = client(start(lambda request: b"content"))
    c.send("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
    status, fields = c.head()
    assert (status, dict(fields)["connection"]) == (200, "close")
    assert c.is_closed()


def test_an_upgrade_that_is_offered_is_named_in_connection(start, client):
    upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade, keep-alive")]
    c = client(start(lambda request: Response(b"", status=426, headers=upgrade)))
    response = c.get()
    assert (response.get("upgrade"), response.all("connection")) == ("websocket", ["upgrade", "keep-alive"])
    assert c.get("/", "Connection: close").all("connection") == ["upgrade", "close"]


def test_fields_that_are_ours_cannot_be_set_by_the_application(start, client):
    wrong = [
        (b"Transfer-Encoding", b"chunked"),
        (b"Keep-Alive", b"timeout=999"),
        (b"Connection", b"keep-alive, upgrade"),
        (b"Connection", b"x"),
    ]
    for app in (
        asgi_app(head(200, *wrong), piece(b"abc")),
        lambda request: Response(b"abc", headers=wrong),
    ):
        c = client(start(app))
        response = c.get()
        assert (response.body, response.get("transfer-encoding"), response.get("content-length")) == (b"abc", None, "3")
        assert (response.get("connection"), response.get("keep-alive")) == ("keep-alive", "timeout=74")


def test_date_and_server_are_sent_once_and_can_be_the_applications_own(start, client):
    c = client(start(lambda request: b""))
    response = c.get()
    assert response.get("server") == "kacore"
    assert response.get("date").endswith(" GMT")
    c = client(start(lambda request: Response(b"", headers=[("Date", "then"), ("Server", "mine")]), server_name="x"))
    response = c.get()
    assert (response.get("date"), response.get("server")) == ("then", "mine")
    assert client(start(lambda request: b"", server_name="")).get().get("server") is None


@pytest.mark.parametrize("size", [8 * 1024, 8 * 1024 + 1, 64 * 1024, 1 << 20, 8_000_000])
def test_contents_of_every_size_arrive_whole(start, client, size):
    whole = bytes(range(256)) * (size // 256) + b"x" * (size % 256)

    async def asgi(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        await send(head())
        for at in range(0, len(whole), 100_000):
            await send(piece(whole[at : at + 100_000], True))
        await send(piece(b""))

    def parts(request):
        return Response(whole[at : at + 100_000] for at in range(0, len(whole), 100_000))

    def wsgi(environ, start_response):
        start_response("200 OK", [])
        return (whole[at : at + 100_000] for at in range(0, len(whole), 100_000))

    for app, options in ((lambda request: whole, {}), (parts, {}), (asgi, {}), (wsgi, {"threads": 0}), (wsgi, {})):
        c = client(start(app, **options))
        c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
        assert c.response().body == whole
        assert c.response().body == whole


def test_bytearray_and_memoryview_are_bytes_too(start, client):
    answers = {"/a": bytearray(b"abc"), "/m": memoryview(b"abcdef")[::2], "/i": memoryview(b"abcd").cast("H")}
    c = client(start(lambda request: bytes(answers["/a"]) if request.path == "/a" else bytearray(b"xyz")))
    assert (c.get("/a").body, c.get("/b").body) == (b"abc", b"xyz")
    c = client(start(lambda request: answers["/i"]))
    assert c.get().body == b"abcd"


# --- mistakes of the application ----------------------------------------------------------------------------


def test_an_exception_is_a_500_with_a_logged_traceback(echo, client, caplog):
    running = echo()
    c = client(running)
    assert c.get("/good").status == 200
    response = c.get("/fail")
    assert (response.status, response.get("connection")) == (500, "close")
    assert b"on purpose" not in response.body
    assert c.is_closed()
    [record] = errors(caplog)
    assert record.exc_info is not None
    assert "on purpose" in str(record.exc_info[1])
    assert client(running).get("/good").status == 200


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\rb", "a\0b", "\r\n", "x" * 50 + "\n"])
@pytest.mark.parametrize("what", ["handler", "asgi", "wsgi"])
def test_a_field_that_breaks_the_line_is_refused(start, client, caplog, what, value):
    app = {
        "handler": lambda request: Response(b"x", headers=[("X-A", value)]),
        "asgi": asgi_app(head(200, (b"x-a", value.encode())), piece(b"x")),
        "wsgi": wsgi_app("200 OK", [("X-A", value)], [b"x"]),
    }[what]
    c = client(start(app))
    response = c.get()
    assert response.status == 500
    assert response.all("set-cookie") == []
    assert c.is_closed()
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\n", "a\0", "é"])
def test_a_field_name_that_is_no_token_is_refused(start, client, caplog, name):
    c = client(start(lambda request: Response(b"x", headers=[(name, "v")])))
    assert c.get().status == 500
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("status", [0, 99, 100, 103, 199, 1000])
def test_a_status_that_is_no_final_one_is_refused(start, client, caplog, status):
    for app in (lambda request: Response(b"x", status=status), asgi_app(head(status), piece(b"x"))):
        assert client(start(app)).get().status == 500
    assert len(errors(caplog)) == 2


@pytest.mark.parametrize(("length", "status"), [("3", 500), ("5", 500), ("4x", 500), ("-4", 500), ("4", 200)])
def test_a_wrong_length_of_a_whole_content_is_a_500(start, client, caplog, length, status):
    for app in (
        lambda request: Response(b"abcd", headers=[("Content-Length", length)]),
        asgi_app(head(200, (b"content-length", length.encode())), piece(b"abcd")),
    ):
        assert client(start(app)).get().status == status
    assert len(errors(caplog)) == (2 if status == 500 else 0)


@pytest.mark.parametrize("length", ["3", "50"])
@pytest.mark.parametrize("what", ["handler", "asgi", "wsgi-0", "wsgi-4"])
def test_a_wrong_length_of_a_streamed_content_closes_and_is_logged(start, client, caplog, what, length):
    pieces = [b"ab", b"cd"]
    app, options = {
        "handler": (lambda request: Response(iter(pieces), headers=[("Content-Length", length)]), {}),
        "asgi": (asgi_app(head(200, (b"content-length", length.encode())), piece(b"ab", True), piece(b"cd")), {}),
        "wsgi-0": (wsgi_app("200 OK", [("Content-Length", length)], pieces), {"threads": 0}),
        "wsgi-4": (wsgi_app("200 OK", [("Content-Length", length)], pieces), {"threads": 4}),
    }[what]
    running = start(app, **options)
    c = client(running)
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
    c.head()
    rest = c.rest()
    assert rest in (b"ab", b"abcd")
    assert len(rest) != int(length)
    c.close()
    wait_until(lambda: running.closed("application") == len(errors(caplog)) == 1, "counted and told")


def test_an_exception_in_the_middle_cuts_the_response_off(start, client, caplog):
    def breaks():
        yield b"some"
        raise OSError("in the middle")

    for app in (
        lambda request: Response(breaks()),
        asgi_app(head(), piece(b"some", True), after=OSError("in the middle")),
        lambda environ, start_response: (start_response("200 OK", []), breaks())[1],
    ):
        caplog.clear()
        c = client(start(app))
        c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
        c.head()
        assert c.rest() == b"4\r\nsome\r\n"
        assert len(errors(caplog)) == 1


def breaks_off():
    yield b"some"
    raise OSError("in the middle")


CUT_OFF = {
    "handler": (lambda request: Response(breaks_off()), {}),
    "asgi": (asgi_app(head(), piece(b"some", True), after=OSError("in the middle")), {}),
    "wsgi-0": (lambda environ, start_response: (start_response("200 OK", []), breaks_off())[1], {"threads": 0}),
    "wsgi-4": (lambda environ, start_response: (start_response("200 OK", []), breaks_off())[1], {"threads": 4}),
}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("what", CUT_OFF)
def test_a_response_to_http_1_0_that_is_cut_off_ends_with_a_reset(start, client, what, loop):
    """Its end is told by FIN alone: half of it must not look whole."""
    app, options = CUT_OFF[what]
    c = client(start(app, **options, loop=loop))
    c.send("GET / HTTP/1.0\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        c.rest()


def test_a_whole_response_to_http_1_0_never_ends_with_a_reset(start, client):
    app = asgi_app(head(), *[piece(b"x" * 1_000_000, True)] * 8, piece(b""))
    running = start(app)
    for _ in range(5):
        c = client(running, receive_buffer=4096)
        c.send("POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc")
        c.head()
        assert len(c.rest()) == 8_000_000


@pytest.mark.parametrize("result", [None, 5, {"a": 1}, ["text"], [1], object()])
def test_what_is_no_content_is_a_500(start, client, caplog, result):
    c = client(start(lambda request: Response(result) if isinstance(result, list) else result))
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    rest = c.rest()
    assert rest.startswith((b"HTTP/1.1 500 ", b"HTTP/1.1 200 "))
    assert not rest.endswith(b"0\r\n\r\n")
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("messages", [
    [],
    [head()],
    [piece(b"x")],
    [{"type": "http.nonsense"}],
    [{"type": "http.response.start", "headers": []}],
    [head(200, (b"a", 5)), piece(b"x")],
    [head(200, b"ab"), piece(b"x")],
    [head(None), piece(b"x")],
    [{"type": "http.response.start", "status": 200, "headers": None}, piece(b"x")],
    [head(), piece("text")],
    [head(), piece(5)],
    [head(), piece(None)],
])  # fmt: skip
def test_asgi_messages_that_make_no_response_are_a_500(start, client, caplog, messages):
    c = client(start(asgi_app(*messages)))
    response = c.get()
    assert (response.status, response.get("connection")) == (500, "close")
    assert c.is_closed()
    assert len(errors(caplog)) == 1


def test_an_unfinished_asgi_response_is_cut_off(start, client, caplog):
    c = client(start(asgi_app(head(), piece(b"some", True))))
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    c.head()
    assert c.rest() == b"4\r\nsome\r\n"
    assert len(errors(caplog)) == 1


def test_what_follows_a_complete_response_is_an_error_that_harms_nobody(start, client, caplog):
    c = client(start(asgi_app(head(), piece(b"done"), piece(b"more"))))
    assert c.get().body == b"done"
    assert c.get().body == b"done"
    wait_until(lambda: len(errors(caplog)) == 2, "logged")


def test_a_coroutine_that_never_was_awaited_is_awaited(start, client):
    async def later():
        await asyncio.sleep(0)
        return "text"

    c = client(start(lambda request: later()))
    assert (c.get().body, c.get().get("content-type")) == (b"text", "text/plain; charset=utf-8")
