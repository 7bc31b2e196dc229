"""--request-id: an id for each request, in what the application sees, the access log and the response; traceparent is left
alone."""

import json
import re

import pytest

import kacore
from kacore.server import UsageError
from tests.wire.http2_client import Client as Http2Client
from tests.wire.http2_house import needs_http2

MADE = re.compile("[0-9a-f]{32}")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def pairs(request):
    return json.dumps([[name.decode(), value.decode()] for name, value in request.headers])


def handler(request):
    assert request.get("X-Request-ID") == dict(request.headers).get(b"x-request-id", b"").decode() or None
    if request.path == "/own":
        return kacore.Response(pairs(request), headers={"X-Request-Id": "the-application's"})
    return pairs(request)


def wsgi(environ, start_response):
    own = [("x-request-id", "the-application's")] if environ["PATH_INFO"] == "/own" else []
    start_response("200 OK", own)
    found = [[key[5:].replace("_", "-").lower(), value] for key, value in environ.items() if key.startswith("HTTP_")]
    return [json.dumps(found).encode()]


async def asgi(scope, receive, send):
    own = [(b"x-request-id", b"the-application's")] if scope["path"] == "/own" else []
    found = json.dumps([[name.decode(), value.decode()] for name, value in scope["headers"]])
    await send({"type": "http.response.start", "status": 200, "headers": own})
    await send({"type": "http.response.body", "body": found.encode()})


@pytest.fixture(params=[handler, wsgi, asgi], ids=["handler", "wsgi", "asgi"])
def served(request, start):
    return lambda **options: start(request.param, **options)


def sent(body):
    """What the application saw: the ids, and the trace."""
    found = json.loads(body)
    return [value for name, value in found if name == "x-request-id"], dict(found).get("traceparent")


def test_each_request_gets_an_id_and_whoever_is_not_trusted_cannot_choose_it(served, client):
    c = client(served(request_id="X-Request-ID"))
    seen = set()
    for fields in ((), ("X-Request-ID: mine",), ("x-request-id: a", "X-Request-ID: b", f"traceparent: {TRACE}")):
        response = c.get("/", *fields)
        (request_id,), trace = sent(response.body)
        assert MADE.fullmatch(request_id)
        assert response.get("x-request-id") == request_id
        assert trace == (TRACE if len(fields) > 2 else None)
        seen.add(request_id)
    assert len(seen) == 3
    assert c.get("/own").get("x-request-id") == "the-application's"


def test_that_of_a_trusted_proxy_is_kept_if_it_can_be_one(served, client):
    c = client(served(request_id="X-Request-ID", forwarded_allow_ips="127.0.0.1"))
    good = "Root=1-67891233-abcdef012345678912345678"
    response = c.get("/", f"X-Request-ID: {good}", f"traceparent: {TRACE}")
    assert sent(response.body) == ([good], TRACE)
    assert response.get("x-request-id") == good
    for bad in ("a b", "x" * 129, '"', "a;b", ""):
        (request_id,), _ = sent(c.get("/", f"X-Request-ID: {bad}").body)
        assert MADE.fullmatch(request_id)
    assert sent(c.get("/", f"X-Request-ID: {'x' * 128}").body)[0] == ["x" * 128]


def test_without_the_option_nothing_is_changed(served, client):
    response = client(served()).get("/", "X-Request-ID: mine", f"traceparent: {TRACE}")
    assert sent(response.body) == (["mine"], TRACE)
    assert response.get("x-request-id") is None


@needs_http2
def test_requests_of_http_2_have_one_as_well(served):
    running = served(request_id="X-Request-ID")
    c = Http2Client(running.port)
    try:
        streams = [c.ask("/", ("x-request-id", "mine"), ("traceparent", TRACE)) for _ in range(2)]
        for stream in streams:
            (request_id,), trace = sent(stream.data)
            assert MADE.fullmatch(request_id) and stream.get("x-request-id") == request_id
            assert trace == TRACE
        assert streams[0].get("x-request-id") != streams[1].get("x-request-id")
    finally:
        c.close()


def test_the_access_log_shows_it(start, client, caplog):
    caplog.set_level("INFO", "kacore.access")
    running = start(handler, request_id="X-Request-ID", access_log="%{X-Request-ID}i %{request-id}x %{X-Request-ID}o")
    response = client(running).get()
    running.check()
    (line,) = [record.getMessage() for record in caplog.records if record.name == "kacore.access"]
    assert line.split()[:2] == [response.get("x-request-id")] * 2


@pytest.mark.parametrize("name", ["X Request", "x_request_id", "Content-Length", ""])
def test_a_field_that_cannot_carry_it_is_refused(name):
    with pytest.raises(UsageError, match="request_id"):
        kacore.Server(handler, request_id=name)
