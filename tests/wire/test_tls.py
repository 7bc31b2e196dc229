"""TLS: what is said over it is what is said without, and every end is a clear one."""

import asyncio
import shutil
import signal
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import pytest

import kacore
from kacore.server import TLS, UsageError
from tests.wire.conftest import Certificates

BIG = bytes(range(256)) * 40_000  # 10 MB


def wait_until(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.002)


def handler(request: kacore.Request) -> Any:
    if request.path == "/big":
        return BIG
    return f"{request.method} {len(request.body)}".encode()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_requests_on_one_connection_are_answered_over_either_version(start, over_tls, localhost, version):
    server = start(handler, tls=TLS(localhost))
    one = over_tls(server, maximum_version=version)
    assert one.sock.version() == version.name.replace("v1_", "v1.")
    assert one.get("/").body == b"GET 0"
    assert one.get("/big").body == BIG
    for size in (1, 16384, 16385, 3_000_000):
        one.send(f"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\n\r\n".encode() + b"x" * size)
        assert one.response().body == b"POST %d" % size
    wait_until(lambda: server.phase_count("idle") == 1, "all is answered")


def test_a_thousand_pipelined_requests_are_answered_in_order(start, over_tls, localhost):
    server = start(lambda request: request.path.encode(), tls=TLS(localhost))
    one = over_tls(server)
    one.send("".join(f"GET /{i} HTTP/1.1\r\nHost: test\r\n\r\n" for i in range(1000)))
    assert [one.response().body for _ in range(1000)] == [b"/%d" % i for i in range(1000)]


@pytest.mark.parametrize(
    ("http2", "offered", "agreed"),
    [
        ("auto", ["h2", "http/1.1"], "h2"),
        ("auto", ["http/1.1", "h2"], "h2"),
        ("auto", ["http/1.1"], "http/1.1"),
        ("on", ["h2"], "h2"),
        ("off", ["h2", "http/1.1"], "http/1.1"),
        ("off", ["h2"], None),
    ],
)
def test_alpn_agrees_on_http_2_unless_it_is_off(start, over_tls, localhost, http2, offered, agreed):
    server = start(handler, tls=TLS(localhost), http2=http2)
    assert over_tls(server, alpn=offered).sock.selected_alpn_protocol() == agreed


def test_a_slow_reader_of_a_large_response_gets_it_whole_and_memory_is_bounded(start, over_tls, localhost):
    async def pieces(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for i in range(100):
            await send({"type": "http.response.body", "body": BIG[:100_000], "more_body": i < 99})

    server = start(pieces, tls=TLS(localhost))
    one = over_tls(server)
    one.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 131072)
    one.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    wait_until(lambda: server.phase_count("write") == 1, "the client is waited for")
    assert server.stats()["engine"]["buffer_bytes"] < 1 << 20
    assert one.response().body == BIG[:100_000] * 100


def test_a_slow_reader_of_a_wsgi_response_holds_no_thread_and_gets_it_whole(start, over_tls, localhost):
    pieces = [bytes([65 + n % 26]) * (99_000 + n) for n in range(120)]

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return [b"small"] if environ["PATH_INFO"] == "/small" else iter(pieces)

    server = start(app, tls=TLS(localhost), interface="wsgi", threads=1)
    slow = over_tls(server)
    slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 131072)
    slow.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    wait_until(lambda: server.phase_count("write") == 1, "the client is waited for")
    assert over_tls(server).get("/small").body == b"small"
    assert slow.response().body == b"".join(pieces)


@pytest.mark.parametrize("interface", ["asgi", "wsgi", "handler"])
def test_applications_see_https(start, over_tls, localhost, interface):
    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["scheme"].encode()})

    def wsgi(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["wsgi.url_scheme"].encode()]

    def plain(request: Any) -> str:
        return str(request.scheme)

    server = start({"asgi": asgi, "wsgi": wsgi, "handler": plain}[interface], tls=TLS(localhost))
    assert server.server.addresses == [f"https://127.0.0.1:{server.port}"]
    assert over_tls(server).get("/").body == b"https"


def test_a_ready_context_is_used_as_it_is(start, over_tls, localhost):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(localhost)
    assert over_tls(start(handler, tls=context)).get("/").status == 200


def test_the_name_that_the_client_asks_for_chooses_the_certificate(start, over_tls, certificates, localhost):
    names = {"a.test": (certificates.issue("a.test"), None), "*.b.test": (certificates.issue("*.b.test"), None)}
    server = start(handler, tls=TLS(localhost, names=names))
    for name in ("a.test", "A.test", "x.b.test", "localhost"):
        assert over_tls(server, name).get("/").status == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        over_tls(server, "other.test")


def test_a_client_certificate_is_asked_for_and_checked(start, over_tls, certificates, localhost, tmp_path):
    server = start(handler, tls=TLS(localhost, ca_certs=certificates.roots))
    assert over_tls(server, certificate=certificates.issue("me@example.org")).get("/").status == 200
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate required"):
        over_tls(server).get("/")
    stranger = Certificates(tmp_path).issue("you@example.org")
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown ca"):
        over_tls(server, certificate=stranger).get("/")
    optional = start(handler, tls=TLS(localhost, ca_certs=certificates.roots, client_certs="optional"))
    assert over_tls(optional).get("/").status == 200


def test_reloaded_certificates_are_for_new_connections_and_close_no_old_one(start, over_tls, certificates, tmp_path):
    path = tmp_path / "cert.pem"
    shutil.copy(certificates.issue("localhost"), path)
    server = start(handler, tls=TLS(str(path)))
    old = over_tls(server)
    first = old.sock.getpeercert()["serialNumber"]
    shutil.copy(certificates.issue("localhost"), path)
    server.ask(server.server.reload_certificates)
    assert over_tls(server).sock.getpeercert()["serialNumber"] != first
    assert old.get("/").status == 200


def test_certificates_that_cannot_be_used_are_logged_and_the_old_ones_stay(
    start, over_tls, certificates, tmp_path, caplog
):
    path = tmp_path / "cert.pem"
    shutil.copy(certificates.issue("localhost"), path)
    server = start(handler, tls=TLS(str(path)))
    path.write_text("half a file")
    server.ask(server.server.reload_certificates)
    assert "keeping the old certificates" in caplog.text
    assert over_tls(server).get("/").status == 200


def test_sighup_reloads_the_certificates_of_the_command(launch, over_tls, certificates, tmp_path):
    path = tmp_path / "cert.pem"
    shutil.copy(certificates.issue("localhost"), path)
    (tmp_path / "app.py").write_text("def app(request):\n    return b'hello'\n")
    server = launch("-m", "kacore", "serve", "app:app", "--port", "0", "--ssl-certfile", str(path))
    server.url = server.wait_for(r"https://[^\s/]+:[1-9][0-9]*")[0]
    old = over_tls(server)
    first = old.sock.getpeercert()["serialNumber"]
    shutil.copy(certificates.issue("localhost"), path)
    server.send_signal(signal.SIGHUP)
    server.wait_for("certificates reloaded")
    new = over_tls(server)
    assert new.sock.getpeercert()["serialNumber"] != first
    assert old.get("/").body == b"hello"
    for one in (old, new):
        one.close()
    assert server.stop() == 0, server.text


@pytest.mark.parametrize("what", ["missing", "no certificate", "locked key", "ca without file"])
def test_settings_that_cannot_work_are_said_in_one_line(certificates, tmp_path, what):
    path = tmp_path / "x.pem"
    if what == "missing":
        with pytest.raises(UsageError, match="No such file"):
            TLS(path)
    elif what == "no certificate":
        path.write_text("nothing of the kind")
        with pytest.raises(UsageError, match=r"x\.pem"):
            TLS(path)
    elif what == "locked key":
        from cryptography.hazmat.primitives import serialization as s

        pair = certificates.root.issue_cert("localhost")
        key = s.load_pem_private_key(pair.private_key_pem.bytes(), None)
        locked = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"open sesame"))
        path.write_bytes(locked + pair.cert_chain_pems[0].bytes())
        with pytest.raises(UsageError):
            TLS(path)
        assert TLS(path, password="open sesame").context is not None
    else:
        with pytest.raises(UsageError, match="ca_certs"):
            TLS(certificates.issue("localhost"), client_certs="required")


def test_plain_http_on_a_tls_port_is_told_so_in_plain_http(start, client, localhost):
    server = start(handler, tls=TLS(localhost))
    one = client(server)
    answer = one.get("/")
    assert answer.status == 400
    assert b"TLS" in answer.body
    assert one.is_closed()
    one.close()
    server.check_empty()


def test_tls_on_a_plain_port_ends_at_once(start, over_tls):
    begun = time.monotonic()
    with pytest.raises(ssl.SSLError):
        over_tls(start(handler))
    assert time.monotonic() - begun < 9


def test_rubbish_in_place_of_a_handshake_gets_an_alert(start, client, localhost):
    one = client(start(handler, tls=TLS(localhost))).send(b"\x16\x03\x01\x00\x05rubbish" * 10)
    assert one.rest()[:1] == b"\x15"


def test_a_version_that_is_too_old_is_refused(start, over_tls, localhost):
    server = start(handler, tls=TLS(localhost))
    with pytest.warns(DeprecationWarning, match="TLSVersion"), pytest.raises(ssl.SSLError):
        over_tls(server, minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_a_handshake_that_is_not_finished_ends_at_its_deadline(start, client, localhost, said):
    server = start(handler, tls=TLS(localhost), policy=kacore.Policy(handshake_timeout=0.2))
    begun = time.monotonic()
    one = client(server).send(said)
    try:
        one.rest()
    except ConnectionResetError:
        pass
    assert time.monotonic() - begun >= 0.2
    assert server.closed("handshake_timeout") == 1


def test_a_handshake_byte_by_byte_succeeds(start, client, certificates, localhost):
    server = start(handler, tls=TLS(localhost))
    one = client(server)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context(cafile=certificates.roots).wrap_bio(incoming, outgoing, server_hostname="localhost")

    def go_on(step: Callable[[], Any]) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                for byte in outgoing.read():
                    one.send(bytes([byte]))
                incoming.write(one.sock.recv(1))

    go_on(tls.do_handshake)
    tls.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    for byte in outgoing.read():
        one.send(bytes([byte]))
    assert go_on(lambda: tls.read(15)) == b"HTTP/1.1 200 OK"


def test_requests_arrive_however_their_records_are_cut_into_packets(start, client, certificates, localhost):
    server = start(handler, tls=TLS(localhost))
    one = client(server)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context(cafile=certificates.roots).wrap_bio(incoming, outgoing, server_hostname="localhost")

    def go_on(step: Callable[[], Any]) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                if outgoing.pending:
                    one.send(outgoing.read())
                incoming.write(one.sock.recv(65536))

    def records(*pieces: bytes) -> list[bytes]:
        return [outgoing.read() for piece in pieces if tls.write(piece)]

    def answer() -> bytes:
        said = b""
        while not said.endswith(b"GET 0"):
            said += go_on(lambda: tls.read(65536))
        return said

    go_on(tls.do_handshake)
    one.send(outgoing.read())
    for _ in range(2):  # after each way of cutting, a record in a packet of its own again
        (whole,) = records(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        one.send(whole)
        assert answer()
        first, second = records(b"GET / HTTP/1.1\r\nHost: ", b"test\r\n\r\n")
        one.send(first + second)
        assert answer()
        first, second = records(b"GET / HTTP/1.1\r\nHost: ", b"test\r\n\r\n")
        one.send(first + second[:7])
        wait_until(lambda: server.table.stats()["phases"]["head"], "the head's first half has not arrived")
        one.send(second[7:])
        assert answer()
        (whole,) = records(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        one.send(whole[:3])
        one.send(whole[3:])
        assert answer()


def test_closing_says_close_notify(start, over_tls, localhost):
    one = over_tls(start(handler, tls=TLS(localhost)))
    one.sock.suppress_ragged_eofs = False
    assert one.get("/", "Connection: close").status == 200
    assert one.is_closed()


def test_an_idle_connection_is_closed_with_close_notify(start, over_tls, localhost):
    server = start(handler, tls=TLS(localhost), policy=kacore.Policy(keep_alive_timeout=0.1))
    one = over_tls(server)
    one.sock.suppress_ragged_eofs = False
    assert one.get("/").status == 200
    assert one.is_closed()
    one.close()
    server.check_empty()
    assert server.closed("idle_timeout") == 1
    assert server.stats()["races"] == 0


def test_a_response_that_breaks_off_has_no_close_notify(start, over_tls, localhost, caplog):
    async def breaks(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("on purpose")

    one = over_tls(start(breaks, tls=TLS(localhost)))
    one.sock.suppress_ragged_eofs = False
    one.send("GET / HTTP/1.0\r\nHost: test\r\n\r\n")  # the end of the content is the end of the connection
    one.until(b"half")
    with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
        one.rest()
    wait_until(lambda: "on purpose" in caplog.text, "the failure is told")


def test_fin_without_close_notify_between_requests_is_a_client_that_left(start, over_tls, localhost):
    server = start(handler, tls=TLS(localhost))
    one = over_tls(server)
    assert one.get("/").status == 200
    one.sock.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: server.closed("client") == 1, "it counts as the client's close")


def test_fin_without_close_notify_inside_content_is_a_truncation(start, over_tls, localhost):
    seen = []

    async def reads(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            seen.append(message["body"])
        seen.append(message["type"])

    server = start(reads, tls=TLS(localhost))
    one = over_tls(server)
    one.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n12345")
    wait_until(lambda: b"12345" in seen, "the first half is there")
    one.sock.shutdown(socket.SHUT_WR)
    wait_until(lambda: seen[-1] == "http.disconnect", "the application heard of it")
    wait_until(lambda: server.closed("error") == 1, "it counts as an error")


def test_who_closes_his_side_without_close_notify_is_answered_all_the_same(start, over_tls, localhost):
    server = start(handler, tls=TLS(localhost))
    one = over_tls(server)
    with server.held():
        one.send("GET /a HTTP/1.1\r\nHost: test\r\n\r\nGET /b HTTP/1.1\r\nHost: test\r\n\r\n")
        socket.socket.shutdown(one.sock, socket.SHUT_WR)  # past the ssl module, which would say it
    assert [one.response().body for _ in range(2)] == [b"GET 0", b"GET 0"]


def test_an_application_that_waits_hears_that_its_client_left(start, over_tls, localhost):
    seen = []

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        await receive()
        seen.append("waits")
        seen.append((await receive())["type"])

    server = start(waits, tls=TLS(localhost))
    one = over_tls(server)
    one.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    wait_until(lambda: seen == ["waits"], "the application has it")
    one.close()
    wait_until(lambda: seen == ["waits", "http.disconnect"], "it was told")


def test_an_upgraded_connection_is_a_byte_stream_over_tls(start, over_tls, localhost):
    async def echo_back(stream: kacore.Stream) -> None:
        while data := await stream.read():
            stream.write(data)
            await stream.drain()

    server = start(lambda request: kacore.Upgrade(echo_back, [("upgrade", "echo")]), tls=TLS(localhost))
    one = over_tls(server)
    one.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nearly")
    assert one.response().status == 101
    assert one.take(5) == b"early"
    for size in (1, 16384, 500_000):
        one.send(b"x" * size)
        assert one.take(size) == b"x" * size


def test_the_socket_of_a_stream_over_tls_stays_with_the_server(start, over_tls, localhost):
    async def take(stream):
        try:
            await stream.detach()
        except kacore.LocalError as error:
            stream.write(str(error).encode())

    server = start(lambda request: kacore.Upgrade(take, [("upgrade", "echo")]), tls=TLS(localhost))
    one = over_tls(server)
    assert one.get("/", "Connection: upgrade", "Upgrade: echo").status == 101
    assert b"read and write the stream" in one.rest()


def test_websockets_work_over_tls(start, certificates, localhost):
    from websockets.asyncio.client import connect

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": scope["scheme"] + message["text"]})

    server = start(app, tls=TLS(localhost))
    context = ssl.create_default_context(cafile=certificates.roots)

    async def ask() -> str:  # the client with threads reads and writes one SSLSocket in two at a time
        async with connect(f"wss://localhost:{server.port}/", ssl=context) as ws:
            await ws.send("x" * 100_000)
            return str(await ws.recv())

    assert asyncio.run(ask()) == "wss" + "x" * 100_000


def test_many_clients_at_once_all_finish_their_handshakes(start, certificates, localhost):
    server = start(handler, tls=TLS(localhost))

    async def ask() -> bytes:
        context = ssl.create_default_context(cafile=certificates.roots)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context, server_hostname="localhost")
        writer.write(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer

    async def all_of_them() -> list[bytes]:
        return await asyncio.gather(*(ask() for _ in range(60)))

    assert all(answer.startswith(b"HTTP/1.1 200") for answer in asyncio.run(all_of_them()))


def test_handshakes_are_counted_and_which_of_them_resumed_a_session_or_failed(start, client, localhost, certificates):
    running = start(lambda request: b"ok", tls=TLS(localhost))
    context = ssl.create_default_context(cafile=certificates.roots)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # whose session is known when the handshake is over
    session = None
    for _ in range(2):
        c = client(running)
        c.sock = context.wrap_socket(c.sock, server_hostname="localhost", session=session)
        session = c.sock.session
        assert c.get().body == b"ok"
    assert client(running).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response().status == 400
    broken = client(running).send(b"\x16\x03\x01\x00\x05hello")
    broken.rest()
    running.check()
    stats = running.server.stats()
    assert stats["tls"] == {"handshakes": 2, "resumed": 1, "failed": 2}
    assert stats["responses"] == {"1xx": 0, "2xx": 2, "3xx": 0, "4xx": 1, "5xx": 0}
    assert sum(stats["first_byte"]["counts"]) == sum(stats["duration"]["counts"]) == 2
