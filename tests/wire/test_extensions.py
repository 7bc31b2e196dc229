"""The extensions of ASGI that are offered, to whom, and what they put on the wire."""

import ssl

import pytest

from kacore._tls_extension import attribute, distinguished_name
from kacore.server import TLS
from kacore.server.tls import first_certificate
from tests.wire.conftest import certificates, localhost, over_tls  # noqa: F401
from tests.wire.test_asgi import answer, http_only
from tests.wire.test_responses import errors, head, piece

PROMISE = {"type": "http.response.start", "status": 200, "headers": [], "trailers": True}


def trailers(*fields, more=False):
    return {"type": "http.response.trailers", "headers": list(fields), "more_trailers": more}


def sends(*messages):
    @http_only
    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    return app


def ask(c, *fields, method="GET", version="1.1"):
    """The head's fields, and what follows it up to an answer on the same connection or the end."""
    lines = [f"{method} / HTTP/{version}", "Host: test", *fields]
    c.send("\r\n".join(lines) + "\r\n\r\n")
    _, found = c.head()
    return dict(found)


# --- what is offered ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pathsend", [False, True])
@pytest.mark.parametrize(
    ("version", "fields", "offered"),
    [
        ("1.1", [], {"early_hint"}),
        ("1.0", ["TE: trailers"], set()),
        ("1.1", ["TE: gzip;q=0.5, Trailers"], {"early_hint", "trailers"}),
        ("1.1", ["TE: gzip", "TE: trailers"], {"early_hint", "trailers"}),
        ("1.1", ["TE: trailers-not"], {"early_hint"}),
    ],
)
def test_extensions_are_offered_to_clients_that_can_take_them(start, client, version, fields, offered, pathsend):
    seen = []

    @http_only
    async def app(scope, receive, send):
        assert "added" not in scope["extensions"]
        scope["extensions"]["added"] = {}  # by some middleware: the next request knows nothing of it
        seen.append(scope["extensions"])
        await answer(send)

    c = client(start(app, pathsend=pathsend))
    for _ in range(2):
        assert c.get("/", *fields, "Connection: keep-alive", version=version).status == 200
    expected = {"added", *(f"http.response.{name}" for name in [*offered, *["pathsend"] * pathsend])}
    assert [set(extensions) for extensions in seen] == [expected, expected]


class OldMiddleware:
    """As written before there were extensions: what it does not know it does not pass on."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def known(message):
            assert message["type"] in ("http.response.start", "http.response.body")
            await send(message)

        await self.app(scope, receive, known if scope["type"] == "http" else send)


@pytest.mark.needs("module:starlette", "module:brotli_asgi")
def test_what_is_offered_breaks_no_middleware(start, client, tmp_path):
    from brotli_asgi import BrotliMiddleware
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.middleware.cors import CORSMiddleware
    from starlette.middleware.gzip import GZipMiddleware
    from starlette.responses import FileResponse, StreamingResponse
    from starlette.routing import Route

    async def passes(request, call_next):
        return await call_next(request)

    (tmp_path / "file").write_bytes(b"content " * 1000)
    layers = [
        Middleware(OldMiddleware),
        Middleware(BaseHTTPMiddleware, passes),
        Middleware(GZipMiddleware),
        Middleware(BrotliMiddleware, gzip_fallback=False),
        Middleware(CORSMiddleware, allow_origins=["*"]),
    ]
    routes = [
        Route("/file", lambda request: FileResponse(tmp_path / "file")),
        Route("/stream", lambda request: StreamingResponse(["content " * 100] * 10)),
    ]
    for middleware in ([layer] for layer in layers), [layers]:
        for some in middleware:
            c = client(start(Starlette(routes=routes, middleware=some)))
            for path in ("/file", "/stream"):
                answer = c.get(path, "TE: trailers", "Origin: http://a")
                assert (answer.status, len(answer.body)) == (200, 8000)
                for coding, layer in (("gzip", GZipMiddleware), ("br", BrotliMiddleware)):
                    if any(one.cls is layer for one in some):
                        assert c.get(path, f"Accept-Encoding: {coding}").get("content-encoding") == coding


# --- trailers -----------------------------------------------------------------------------------------------


def test_trailers_follow_the_last_chunk(start, client):
    messages = (PROMISE, piece(b"ab", True), piece(b"c"), trailers((b"x-sum", b"1"), more=True), trailers((b"X-End", b"2")))
    c = client(start(sends(*messages)))
    for _ in range(2):
        assert ask(c, "TE: trailers")["transfer-encoding"] == "chunked"
        assert c.until(b"\r\n\r\n") == b"2\r\nab\r\n1\r\nc\r\n0\r\nx-sum: 1\r\nX-End: 2"


def test_trailers_of_a_response_without_a_place_for_them_are_left_out(start, client, tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    last = trailers((b"x-sum", b"1"))
    length = {**PROMISE, "headers": [(b"content-length", b"3")]}
    for messages, method, expected in (
        ((length, piece(b"abc"), last), "GET", b"abc"),
        ((PROMISE, piece(b"abc"), last), "HEAD", b""),
        ((PROMISE, piece(b"abc"), trailers()), "GET", b"3\r\nabc\r\n0\r\n\r\n"),
        ((PROMISE, {"type": "http.response.pathsend", "path": str(tmp_path / "file")}, last), "GET", b"content"),
    ):
        c = client(start(sends(*messages)))
        ask(c, "TE: trailers", "Connection: close", method=method)
        assert c.rest() == expected


@pytest.mark.parametrize(
    "last",
    [
        trailers((b"content-length", b"3")),
        trailers((b"Transfer-Encoding", b"chunked")),
        trailers((b"x-sum", b"1\r\nx: y")),
        trailers((b"x sum", b"1")),
        piece(b"more"),
    ],
)
def test_what_may_be_no_trailer_cuts_the_response_off(start, client, caplog, last):
    c = client(start(sends(PROMISE, piece(b"abc"), last)))
    ask(c, "TE: trailers")
    assert c.rest() == b"3\r\nabc\r\n"
    assert len(errors(caplog)) == 1


def test_an_application_that_keeps_its_trailers_to_itself_has_not_answered(start, client, caplog):
    c = client(start(sends(PROMISE, piece(b"abc"))))
    ask(c, "TE: trailers")
    assert c.rest() == b"3\r\nabc\r\n"
    assert "without completing" in errors(caplog)[0].getMessage()


def test_trailers_that_were_not_promised_or_not_offered_are_an_error(start, client, caplog):
    for fields, first in ((["TE: trailers"], head()), ([], PROMISE)):
        caplog.clear()
        c = client(start(sends(first, piece(b"abc", True), trailers((b"x", b"y")))))
        ask(c, *fields)
        assert c.rest() == b"3\r\nabc\r\n"
        assert "TE: trailers" in str(errors(caplog)[0].exc_info[1])


# --- early hints --------------------------------------------------------------------------------------------


HINTS = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b.js>; rel=preload"]}


def test_early_hints_are_sent_before_the_response(start, client):
    c = client(start(sends(HINTS, HINTS, head(), piece(b"ok"))))
    for _ in range(2):
        c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        for _ in range(2):
            assert c.head() == (103, [("link", "</a.css>; rel=preload"), ("link", "</b.js>; rel=preload")])
        assert c.response().body == b"ok"


def test_early_hints_never_reach_an_http_1_0_client(start, client):
    c = client(start(sends(HINTS, head(), piece(b"ok"))))
    response = c.get(version="1.0")
    assert (response.interim, response.body) == ([], b"ok")


@pytest.mark.parametrize("messages", [[head(), HINTS], [{**HINTS, "links": [b"a\r\nx: y"]}]])
def test_early_hints_that_are_late_or_break_the_line_are_an_error(start, client, caplog, messages):
    c = client(start(sends(*messages)))
    assert c.get().status == 500
    assert len(errors(caplog)) == 1


# --- tls ----------------------------------------------------------------------------------------------------


def test_tls_tells_the_certificates_the_version_and_the_cipher(start, over_tls, certificates, localhost):  # noqa: F811
    seen = []

    @http_only
    async def app(scope, receive, send):
        seen.append(scope["extensions"]["tls"])
        await answer(send)

    mine = certificates.issue("me@example.org")
    running = start(app, tls=TLS(localhost, ca_certs=certificates.roots, client_certs="optional"))
    with_one = over_tls(running, certificate=mine)
    assert [with_one.get().status for _ in range(2)] == [200, 200]
    assert over_tls(running, maximum_version=ssl.TLSVersion.TLSv1_2).get().status == 200
    first, again, anonymous = seen
    assert first == again
    assert first is not again
    assert first["client_cert_chain"][0] == first_certificate(mine)
    assert first["server_cert"] == first_certificate(localhost)
    assert ssl.PEM_cert_to_DER_cert(first["server_cert"]) == with_one.sock.getpeercert(binary_form=True)
    assert "O=trustme" in first["client_cert_name"]
    assert (first["client_cert_error"], first["tls_version"]) == (None, 0x0304)
    assert first["cipher_suite"] == {"TLS_AES_256_GCM_SHA384": 0x1302, "TLS_AES_128_GCM_SHA256": 0x1301,
                                     "TLS_CHACHA20_POLY1305_SHA256": 0x1303}[with_one.sock.cipher()[0]]  # fmt: skip
    assert (anonymous["client_cert_chain"], anonymous["client_cert_name"], anonymous["tls_version"]) == ([], None, 0x0303)
    assert anonymous["cipher_suite"] >> 8 in (0xC0, 0xCC)


def test_plain_connections_have_no_tls_extension(start, client):
    @http_only
    async def app(scope, receive, send):
        await answer(send, repr("tls" in scope["extensions"]).encode())

    assert client(start(app)).get().body == b"False"


def test_a_distinguished_name_is_written_as_rfc_4514_says():
    subject = (
        (("countryName", "UK"),),
        (("organizationName", "Sue, Grabbit and Runn"),),
        (("organizationalUnitName", "Sales"), ("commonName", "J.  Smith")),
        (("1.3.6.1.4.1.1466.0", "x"),),
    )
    assert distinguished_name({"subject": subject}) == (
        "1.3.6.1.4.1.1466.0=x,OU=Sales+CN=J.  Smith,O=Sue\\, Grabbit and Runn,C=UK"
    )
    assert distinguished_name({}) == ""
    assert attribute("commonName", ' a"b ') == 'CN=\\ a\\"b\\ '
    assert attribute("commonName", "#a\\b\0") == "CN=\\#a\\\\b\\00"
