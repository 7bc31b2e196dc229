"""What strangers make a server hold: each has its bound, and nobody else goes without for it."""

import asyncio
import socket
from typing import Any

import kacore
from kacore import Policy
from tests.wire.conftest import Running, wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
AHEAD = GET * (70_000 // len(GET))
BUDGET = 1 << 20
BIG = bytes(8 << 20)
MEDIUM = bytes(200_000)


class Waiting:
    """/slow is answered when the test says so, /big and /medium are large, all else at once."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def __call__(self, request: kacore.Request) -> Any:
        if request.path == "/slow":
            await self.gate.wait()
        return {"/big": BIG, "/medium": MEDIUM}.get(request.path, b"ok")

    def release(self, running: Running) -> None:
        running.loop.call_soon_threadsafe(self.gate.set)


def used(running: Running) -> int:
    return int(running.stats()["engine"]["buffer_bytes"])


def hoard(connect: Any, n: int, target: str) -> list[Any]:
    """Clients that ask for something, and send as much behind it as the kernel takes."""
    hoarders = [connect() for _ in range(n)]
    for one in hoarders:
        one.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
    for one in hoarders:
        one.send(AHEAD)
    return hoarders


def test_requests_sent_ahead_leave_room_for_others_also_when_their_senders_are_gone(over):
    app = Waiting()
    running, connect = over(app, policy=Policy(max_buffer_bytes=BUDGET, max_connections=200))
    hoarders = hoard(connect, 60, "/slow")
    wait_until(lambda: running.phase_count("busy") == 60)
    for _ in range(5):
        assert connect().get("/medium").body == MEDIUM
    assert used(running) <= BUDGET
    for one in hoarders:
        one.close()
    for _ in range(5):
        assert connect().get("/medium").body == MEDIUM
    app.release(running)


def test_what_is_sent_ahead_of_its_turn_is_a_heads_worth_each(over):
    app = Waiting()
    running, connect = over(app)
    hoarders = hoard(connect, 20, "/slow")
    wait_until(lambda: running.phase_count("busy") == 20)
    running.n_rounds()
    assert used(running) <= 20 * 16384
    app.release(running)
    for one in hoarders:  # and nothing of it is lost
        for _ in range(1 + len(AHEAD) // len(GET)):
            assert one.response().body == b"ok"


def test_clients_that_read_nothing_and_send_more_leave_room_for_others(over):
    running, connect = over(Waiting(), policy=Policy(max_buffer_bytes=BUDGET, max_connections=200))
    hoard(connect, 40, "/big")
    wait_until(lambda: running.phase_count("write") >= 40 - running.closed("buffer_limit"))
    for _ in range(5):
        assert connect().get("/medium").body == MEDIUM
    assert used(running) <= BUDGET


def test_one_that_sent_ahead_too_much_for_the_budget_gets_its_answer_and_is_closed(start, client):
    app = Waiting()
    running = start(app, policy=Policy(max_buffer_bytes=65536 * 2, max_connections=200))
    slow = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
    hoarders = [client(running).send(slow + AHEAD) for _ in range(12)]  # at once, so that it is read at once
    wait_until(lambda: running.phase_count("busy") == 12)
    app.release(running)
    n_closed = 0
    for one in hoarders:
        answer = one.response()
        assert answer.body == b"ok"
        n_closed += answer.get("connection") == "close"
    assert n_closed > 0
    assert client(running).get().status == 200
    for one in hoarders:
        one.reset()


def test_the_application_hears_of_a_fin_behind_more_than_is_read(over):
    heard, go_on = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        assert (await receive())["more_body"] is False
        assert (await receive())["type"] == "http.disconnect"
        heard.set()
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    running, connect = over(app, interface="asgi")
    (one,) = hoard(connect, 1, "/")
    wait_until(lambda: running.phase_count("busy") == 1)
    assert not heard.is_set()
    socket.socket.shutdown(one.sock, socket.SHUT_WR)
    wait_until(heard.is_set)
    running.loop.call_soon_threadsafe(go_on.set)
    assert one.response().body == b"ok"  # FIN is no end of what it asked for
    one.reset()


def test_a_client_that_is_gone_altogether_is_found_though_the_application_never_answers(over):
    app = Waiting()
    running, connect = over(app)
    (one,) = hoard(connect, 1, "/slow")
    wait_until(lambda: running.phase_count("busy") == 1)
    # Its kernel remembers a closed socket for a minute (FIN-WAIT-2), and this one for a second.
    one.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)
    if hasattr(one.sock, "unwrap"):
        socket.socket.close(one.sock)
    one.close()
    wait_until(lambda: running.ask(lambda: len(running.table)) == 0)
    assert running.closed("error") == 1
    app.release(running)
