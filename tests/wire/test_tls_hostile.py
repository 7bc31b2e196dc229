"""TLS clients that say much and mean nothing: records without content have a budget, and no turn is as long as they like."""

import contextlib
import socket
import ssl
from typing import Any

import pytest

import kacore
from kacore.server import TLS
from tests.conftest import module
from tests.wire.conftest import wait_until

module("cryptography.hazmat.primitives.ciphers.aead")

from tests.wire.hostile_tls import HostileClient  # noqa: E402

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


def handler(request: kacore.Request) -> bytes:
    return f"{request.method} {len(request.body)}".encode()


@pytest.fixture
def hostile(client, certificates, tmp_path):
    def connect(server: Any) -> HostileClient:
        one = client(server)
        made = HostileClient(one.sock, certificates.roots, tmp_path / "keys.log")
        one.sock = made.sock
        made.one = one  # type: ignore[attr-defined]
        return made

    return connect


def empty(one: HostileClient) -> bytes:
    return one.record(b"")


def padded(one: HostileClient) -> bytes:
    return one.record(b"", padding=4000)


@pytest.mark.parametrize("what", [HostileClient.key_update, empty, padded])
@pytest.mark.parametrize("at_once", [True, False])
def test_records_without_content_end_the_connection_beyond_their_budget(start, hostile, localhost, what, at_once):
    server = start(handler, tls=TLS(localhost))
    one = hostile(server)
    records = [what(one) for _ in range(400)]
    with contextlib.suppress(OSError):
        for piece in [b"".join(records)] if at_once else records:
            one.send(piece)
    wait_until(lambda: server.closed("bad_request") == 1, "it was closed")
    assert server.closed("error") == 0


def test_key_updates_of_a_client_that_asks_for_something_are_answered(start, hostile, localhost):
    server = start(handler, tls=TLS(localhost))
    one = hostile(server)
    for _ in range(60):
        one.send(one.key_update() + one.record(GET))
        assert one.one.response().body == b"GET 0"
    said = b"".join(one.key_update() + one.record(GET) for _ in range(60))
    one.send(said)
    for _ in range(60):
        assert one.one.response().body == b"GET 0"


def test_content_in_records_of_one_byte_arrives_whole(start, hostile, localhost):
    server = start(handler, tls=TLS(localhost))
    one = hostile(server)
    head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3000\r\n\r\n"
    said = b"".join(one.record(bytes([byte])) for byte in head) + b"".join(one.record(b"x") for _ in range(3000))
    one.send(said + one.record(GET))
    assert one.one.response().body == b"POST 3000"
    assert one.one.response().body == b"GET 0"


def test_fin_behind_many_small_records_is_seen(start, hostile, localhost):
    server = start(handler, tls=TLS(localhost))
    one = hostile(server)
    one.send(b"".join(one.record(bytes([byte])) for byte in GET * 20))
    socket.socket.shutdown(one.sock, socket.SHUT_WR)  # past the ssl module, which would say close_notify
    for _ in range(20):
        assert one.one.response().body == b"GET 0"
    wait_until(lambda: server.closed("client") == 1, "it counts as the client's close")


def test_a_handshake_in_records_of_one_byte_succeeds(start, client, certificates, localhost):
    server = start(handler, tls=TLS(localhost))
    one = client(server)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context(cafile=certificates.roots).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    one.send(b"".join(hello[:3] + b"\x00\x01" + bytes([byte]) for byte in hello[5:]))
    while True:
        incoming.write(one.sock.recv(65536))
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
            break
    tls.write(GET)
    one.send(outgoing.read())
    said = b""
    while b"GET 0" not in said:
        with contextlib.suppress(ssl.SSLWantReadError):
            said += tls.read(65536)
            continue
        incoming.write(one.sock.recv(65536))


def test_a_truncation_is_told_apart_with_a_context_that_would_hide_it(start, client, certificates, localhost):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(localhost)
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    context.options &= ~ssl.OP_NO_RENEGOTIATION
    server = start(handler, tls=context)
    assert not context.options & ssl.OP_IGNORE_UNEXPECTED_EOF
    assert context.options & ssl.OP_NO_RENEGOTIATION
    one = client(server)
    one.sock = ssl.create_default_context(cafile=certificates.roots).wrap_socket(one.sock, server_hostname="localhost")
    one.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n12345")
    wait_until(lambda: server.phase_count("body") == 1, "the first half is there")
    one.sock.shutdown(socket.SHUT_WR)
    wait_until(lambda: server.closed("error") == 1, "it counts as an error")
