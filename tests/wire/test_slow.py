"""A server that is full of slow clients: they make room, for whoever is not slow."""

import asyncio
import socket

import pytest

from kacore import Policy
from kacore.embed.asyncio import Connections, KeepAliveProtocol
from kacore.server import TLS, drivers
from tests.wire.conftest import Running, wait_until

POST = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
BIG = bytes(16 << 20)  # more than the kernel takes ahead


def ok(request):
    return BIG if request.path == "/big" else b"ok"


def fill(running, phase, clients, text):
    """Each in turn, so that the first is the longest in its phase."""
    for n, c in enumerate(clients, 1):
        c.send(text)
        wait_until(lambda n=n: running.phase_count(phase) == n, f"{n} connections in {phase}")


async def read_and_echo(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    if scope["path"] == "/early":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"early"[:1], "more_body": True})
    while (message := await receive()).get("more_body"):
        pass
    if message["type"] == "http.disconnect":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def read_wsgi(environ, start_response):
    environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [b"ok"]


@pytest.mark.parametrize(
    ("app", "options"),
    [(ok, {}), (read_and_echo, {}), (read_and_echo, {"loop": "uvloop"}), (read_wsgi, {"threads": 4})],
    ids=["handler", "asgi", "asgi-uvloop", "wsgi"],
)
def test_a_server_full_of_slow_bodies_answers_the_next_client(start, client, app, options):
    running = start(app, policy=Policy(max_connections=3, rate_window=0.1), **options)
    slow = [client(running) for _ in range(3)]
    fill(running, "body", slow, POST)
    assert client(running).get().status == 200
    response = slow[0].response()
    assert (response.status, response.get("connection")) == (408, "close")
    assert slow[0].is_closed()
    assert running.closed("evicted") == 1
    assert slow[1].send("x" * 1000).response().status == 200
    running.check()


def test_where_a_response_has_begun_the_connection_is_closed_without_another(start, client):
    running = start(read_and_echo, policy=Policy(max_connections=1, rate_window=0.1))
    slow = client(running)
    fill(running, "body", [slow], POST.replace("/ ", "/early "))
    assert client(running).get().status == 200
    assert slow.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    assert slow.rest() == b"e"
    assert running.closed("evicted") == 1


def test_a_server_full_of_clients_that_take_nothing_of_a_response_answers_the_next(start, client):
    running = start(ok, policy=Policy(max_connections=2, rate_window=0.1))
    silent = [client(running) for _ in range(2)]
    fill(running, "write", silent, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client(running).get().status == 200
    wait_until(lambda: running.closed("evicted") == 1)
    assert len(silent[1].response().body) == len(BIG)  # only the place that was needed was taken


def test_a_client_that_takes_its_response_is_no_victim_though_the_kernel_took_all_ahead(start, client):
    """Nothing moves between us and the kernel, which has megabytes to send: what leaves its queue is what counts."""
    running = start(ok, policy=Policy(max_connections=1, rate_window=0.1))
    reader = client(running)
    fill(running, "write", [reader], "GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
    newcomer = client(running).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    head = reader.until(b"\r\n\r\n")
    assert b"content-length: %d" % len(BIG) in head
    got = 0
    while got < len(BIG):
        got += len(reader.buf)
        reader.buf.clear()
        if got < len(BIG):
            assert reader._more(), f"closed after {got} bytes"
    assert newcomer.response().status == 200


@pytest.mark.usefixtures("certificates")
def test_the_same_holds_over_tls(start, over_tls, localhost):
    running = start(ok, policy=Policy(max_connections=2, rate_window=0.1), tls=TLS(localhost))
    slow, silent = over_tls(running), over_tls(running)
    fill(running, "body", [slow], POST)
    fill(running, "write", [silent], "GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
    held = over_tls(running)
    assert slow.response().status == 408
    held.send(POST)
    assert over_tls(running).get().status == 200
    wait_until(lambda: running.closed("evicted") == 2)


def test_without_such_a_rate_newcomers_wait_for_the_slow(start, client):
    running = start(ok, policy=Policy(max_connections=1, rate_window=0.05, min_rate_when_full=0))
    slow = client(running)
    fill(running, "body", [slow], POST)
    newcomer = client(running).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    newcomer.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        newcomer.response()
    newcomer.sock.settimeout(20)
    assert slow.send("x" * 1000).response().status == 200
    assert newcomer.response().status == 200


# -- the last look -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_over_transports_a_request_that_came_after_the_loop_looked_saves_the_victim(client, monkeypatch, loop):
    """It is in the kernel when a newcomer needs the place; the loop would read it in its next round."""
    late = []

    class Meddling(drivers.Connection):
        def connection_made(self, transport):
            if late:
                late.pop().send("GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
            super().connection_made(transport)

    monkeypatch.setattr(drivers, "Connection", Meddling)
    running = Running(lambda request: request.path.encode(), policy=Policy(max_connections=2), io="transports", loop=loop)
    try:
        first, second = client(running), client(running)
        assert first.get().status == second.get().status == 200
        late.append(first)
        assert client(running).get("/new").body == b"/new"
        assert first.response().body == b"/late"
        assert second.is_closed()
        assert (running.closed("evicted"), running.stats()["races"]) == (1, 0)
        running.check()
    finally:
        running.stop(now=True)
    assert running.failure is None and not running.errors


def test_over_transports_that_are_somebody_elses_nothing_is_read_past_them():
    """What wraps a socket may have bytes of its own before those of the kernel."""
    class Wrapped(asyncio.Transport):
        def __init__(self, sock):
            super().__init__({"socket": sock, "peername": ("192.0.2.1", 1)})
            self.is_closed = False

        def is_closing(self):
            return self.is_closed

        def close(self):
            self.is_closed = True

        def write(self, data):
            pass

        def pause_reading(self):
            pass

        def set_write_buffer_limits(self, high):
            pass

        resume_reading = pause_reading

    async def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            connections = Connections(Policy(max_connections=1))
            one = KeepAliveProtocol(connections)
            one.connection_made(Wrapped(ours))
            theirs.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            KeepAliveProtocol(connections).connection_made(Wrapped(ours))
            assert one.conn == 0
            assert ours.recv(100).startswith(b"GET / ")
            connections.close()

    asyncio.run(main())
