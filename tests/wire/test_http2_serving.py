"""HTTP/2 wherever kacore serves: the command, workers, unix sockets, PROXY headers, WSGI, logs, a full table, a drain."""

import contextlib
import json
import logging
import signal
import socket
import ssl
import struct
import threading
from pathlib import Path

import pytest

import kacore
from kacore.server import TLS
from tests.wire.conftest import wait_until
from tests.wire.http2_client import (
    ENHANCE_YOUR_CALM,
    HEADERS,
    NO_ERROR,
    PING,
    PREFACE,
    REFUSED_STREAM,
    SETTINGS,
    Client,
    frame,
    literals,
    request,
)
from tests.wire.http2_house import needs_http2, only_kacore

pytestmark = [needs_http2, only_kacore]

HERE = Path(__file__).parent
GET = literals(request())


@contextlib.contextmanager
def connected(port, **options):
    c = Client(port, **options)
    try:
        yield c
    finally:
        c.close()


def over_socket(sock):
    """A client of a socket that is connected, whose preface is still to be sent."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        c = Client(listener.getsockname()[1], begins=False)
    c.sock.close()
    c.sock = sock
    sock.settimeout(20)
    return c


# -- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(serve):
    return lambda *arguments, **options: serve("http2_app:app", *arguments, cwd=HERE, **options)


def test_the_command_serves_it_beside_http_1(run, client):
    server = run("--drain-grace", "0.1", "--drain-spread", "0")
    with connected(server.port) as c:
        assert c.ask("/").data == b"hello\n"
        assert client(server).get("/").body == b"hello\n"
        server.send_signal(signal.SIGTERM)
        c.rest()
        assert c.goaways[-1] == (1, NO_ERROR)
    assert server.wait() == 0, server.text


@pytest.mark.parametrize("io", ["epoll", "transports"])
def test_workers_serve_it_and_a_reload_drops_nothing(run, io):
    """Every request is answered, or may be repeated by what the GOAWAY says."""
    server = run("--workers", "2", "--io", io, "--drain-grace", "0.3", "--drain-spread", "0")
    told = threading.Event()
    counts = {"answered": 0, "repeated": 0, "connections": 0}
    lock = threading.Lock()

    def hammer():
        while not told.is_set():
            with connected(server.port) as c:
                answered, repeated = burst(c, told)
            with lock:
                counts["answered"] += answered
                counts["repeated"] += repeated
                counts["connections"] += 1

    failures = []

    def guarded():
        try:
            hammer()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: failures or counts["connections"] >= 3, "the reload ends connections")
    finally:
        told.set()
        for thread in threads:
            thread.join(30)
    assert not failures, failures
    assert counts["answered"] > 100
    assert server.stop() == 0, server.text


def burst(c, told):
    """Ask until the server says GOAWAY, ten at a time; (requests answered, those that may be repeated)."""
    streams = []
    while not c.goaways and not told.is_set() and len(streams) < 20_000:
        more = [c.open(c.number()).number for _ in range(10)]
        streams += more
        c.send(b"".join(frame(HEADERS, 5, stream, GET) for stream in more))
        while not c.goaways and not all(c.streams[stream].is_over for stream in more):
            if c.read() is None:
                break
    if c.goaways:
        c.rest()
    assert not c.was_reset or c.goaways
    last = c.goaways[-1][0] if c.goaways else 2**31 - 1
    answered = sum(c.streams[stream].data == b"hello\n" for stream in streams)
    for stream in streams:
        one = c.streams[stream]
        if stream <= last and one.reset != REFUSED_STREAM:
            assert one.data == b"hello\n" or not c.goaways, (stream, last, one)
        else:
            assert not one.heads, (stream, last, one)
    return answered, len(streams) - answered


# -- where the bytes come from ------------------------------------------------------------------------------------------


def test_a_unix_socket_serves_it(build, tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        build(sockets=[listener])
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        c = over_socket(sock)
        c.begin({})
        assert c.ask("/").data == b"hello\n"
        assert json.loads(c.ask("/scope").data)["http_version"] == "2"
        c.close()


@pytest.mark.parametrize(
    "head",
    [
        b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([192, 0, 2, 1, 198, 51, 100, 1]) + struct.pack("!HH", 4711, 443),
    ],
)
def test_a_proxy_header_stands_before_the_preface(build, head):
    house = build(forwarded_allow_ips="127.0.0.1", proxy_protocol=True)
    c = house.connect(begins=False)
    c.send(head)
    c.begin({})
    for _ in range(2):
        assert json.loads(c.ask("/scope").data)["client"] == ["192.0.2.1", 4711]


def test_the_field_of_a_trusted_proxy_counts_for_its_request_alone(build):
    c = build(forwarded_allow_ips="127.0.0.1").connect()
    told = json.loads(c.ask("/scope", ("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "https")).data)
    assert (told["client"][0], told["scheme"]) == ("192.0.2.7", "https")
    told = json.loads(c.ask("/scope").data)
    assert (told["client"][0], told["scheme"]) == ("127.0.0.1", "http")


def test_over_tls_frames_may_be_cut_anywhere(build, localhost, certificates):
    """Records of TLS have nothing to do with frames."""
    house = build(tls=TLS(localhost))
    c = house.connect(tls=ssl.create_default_context(cafile=certificates.roots))
    for size in (1, 5, 9, 10, 100):
        stream = c.open(c.number()).number
        data = frame(HEADERS, 4, stream, literals(request("/echo", "POST"))) + frame(0, 1, stream, b"content")
        for at in range(0, len(data), size):
            c.send(data[at : at + size])
        assert c.answer(stream).data == b"content"


def test_http_1_over_tls_that_agreed_on_h2_is_refused(build, localhost, certificates):
    house = build(tls=TLS(localhost))
    c = house.connect(tls=ssl.create_default_context(cafile=certificates.roots), begins=False)
    c.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    with contextlib.suppress(AssertionError, OSError):
        c.rest()
    assert house.counts().get("requests", 0) == 0


def test_a_preface_over_tls_that_agreed_on_http_1_is_not_the_beginning_of_http_2(build, localhost, certificates, client):
    house = build(tls=TLS(localhost))
    one = client(house)
    context = ssl.create_default_context(cafile=certificates.roots)
    context.set_alpn_protocols(["http/1.1"])
    one.sock = context.wrap_socket(one.sock, server_hostname="localhost")
    one.send(PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 5, 1, GET))
    with contextlib.suppress(ssl.SSLError, ConnectionResetError):
        assert b"hello" not in one.rest()
    assert house.counts().get("requests", 0) == 0


# -- WSGI, logs, books ------------------------------------------------------------------------------------------------


def told_wsgi(environ, start_response):
    names = ("SERVER_PROTOCOL", "REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "HTTP_HOST", "HTTP_COOKIE", "wsgi.url_scheme")
    body = json.dumps([environ.get(name) for name in names]).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Connection", "close")])
    return [body]


def test_a_wsgi_environ_says_http_2(build):
    c = build(app=told_wsgi).connect()
    one = c.ask("/a?b=c", ("cookie", "a=1"), ("cookie", "b=2"))
    assert json.loads(one.data) == ["HTTP/2", "GET", "/a", "b=c", "test", "a=1; b=2", "http"]


def test_a_handler_sees_the_version_and_its_host(build):
    def handler(request):
        return json.dumps([request.head.version, request.method, request.path]).encode()

    assert json.loads(build(app=handler).connect().ask("/x").data) == ["2", "GET", "/x"]


def test_the_access_log_has_a_line_for_each_stream(build, caplog):
    caplog.set_level(logging.INFO, "kacore.access")
    house = build(access_log="common")
    c = house.connect()
    c.ask("/")
    c.ask("/bytes/10", method="HEAD")
    c.raw([*request("/"), ("Bad", "x")])
    c.settle()
    held = c.get("/wait")
    house.wait_for("held")
    c.reset(held).settle()

    def lines():
        return [one.getMessage() for one in caplog.records if one.name == "kacore.access"]

    wait_until(lambda: len(lines()) >= 2)
    assert '"GET / HTTP/2" 200 6' in lines()[0].replace("HTTP/2.0", "HTTP/2")
    assert '"HEAD /bytes/10 HTTP/2" 200' in lines()[1].replace("HTTP/2.0", "HTTP/2")


def test_the_list_of_connections_has_it_once_whatever_is_open(build):
    house = build()
    c = house.connect()
    for _ in range(5):
        c.get("/hold")
    house.wait_for("held", 5)
    assert len(house.running.ask(house.running.server.connections)) == 1
    house.release()


# -- a full table -----------------------------------------------------------------------------------------------------


def test_an_idle_connection_makes_room_and_is_told(build):
    house = build(policy=kacore.Policy(max_connections=2))
    first, second = house.connect(), house.connect()
    assert first.ask("/").data == second.ask("/").data == b"hello\n"
    second.ask("/")
    third = house.connect()
    assert third.ask("/").data == b"hello\n"
    first.rest()
    assert first.goaways[-1] == (1, NO_ERROR)
    assert second.ask("/").data == b"hello\n"
    house.has_closed("evicted")


def test_a_connection_with_open_streams_does_not_make_room(build):
    house = build(policy=kacore.Policy(max_connections=1))
    c = house.connect()
    held = c.get("/hold")
    house.wait_for("held")
    over = house.connect()
    late = over.get("/")
    over.sock.settimeout(0.1)
    with contextlib.suppress(AssertionError, OSError):
        over.answer(late)
    assert not over.streams[late].heads
    house.release()
    assert c.answer(held).data == b"released"


# -- the end ----------------------------------------------------------------------------------------------------------


def test_a_drain_waits_for_uploads_and_websockets_have_their_end(build):
    house = build(policy=kacore.Policy(drain_grace=0.1, drain_spread=0.0, drain_timeout=10.0))
    c = house.connect()
    upload = c.get("/echo", method="POST", end=False)
    c.data(upload, b"first").settle()
    head = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/ws"), (":authority", "test")]
    websocket = c.headers([*head, ("sec-websocket-version", "13")], end=False)
    c.until(lambda: c.streams[websocket].status == 200)
    house.shutdown()
    c.until(lambda: c.goaways)
    c.until(lambda: b"\x88\x02\x03\xf4" in c.streams[websocket].data)  # 1012, service restart
    c.data(upload, b" last", end=True)
    assert c.answer(upload).data == b"first last"
    if not c.streams[websocket].is_over:
        c.data(websocket, b"\x88\x82\0\0\0\0\x03\xf4", end=True)
    c.rest()
    assert c.goaways[-1][1] == NO_ERROR and not c.was_reset


def test_a_drain_that_takes_too_long_cuts_streams_off(build):
    house = build(policy=kacore.Policy(drain_grace=0.05, drain_spread=0.0, drain_timeout=0.3))
    c = house.connect()
    c.get("/wait")
    house.wait_for("held")
    house.shutdown()
    c.rest()
    wait_until(lambda: not house.running._thread.is_alive(), "the server ends")


def test_a_client_that_goes_on_after_goaway_is_not_served_for_ever(build):
    house = build(policy=kacore.Policy(drain_grace=0.2, drain_spread=0.0, drain_timeout=5.0))
    c = house.connect()
    held = c.get("/hold")
    house.wait_for("held")
    house.shutdown()
    c.until(lambda: c.goaways)
    for _ in range(2000):
        stream = c.get("/")
        c.until(lambda stream=stream: c.streams[stream].is_over or len(c.goaways) > 1)
        if len(c.goaways) > 1:
            break
    assert len(c.goaways) == 2, "new streams put off the last GOAWAY"
    late = [c.get("/") for _ in range(3)]
    house.release()
    assert c.answer(held).data == b"released"
    c.rest()
    assert all(not c.streams[stream].heads for stream in late)
    assert not any(code == ENHANCE_YOUR_CALM for _, code in c.goaways)


def test_ping_of_the_server_is_not_needed_to_be_answered(build):
    """The drain asks by PING whether its GOAWAY was seen; who does not answer has the grace."""
    house = build(policy=kacore.Policy(drain_grace=0.1, drain_spread=0.0, drain_timeout=0.5))
    c = house.connect(answers=False)
    c.ask("/")
    house.shutdown()
    c.rest()
    assert c.goaways[-1] == (1, NO_ERROR)
    assert sum(one.type == PING and not one.flags for one in c.log) <= 2
