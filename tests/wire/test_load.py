"""Many clients at once: bursts, deadlines of hundreds, slow heads, contents and readers, a full server's next client.

Times are asserted only as "never early" and "not absurdly late"; benches/bench_deadlines.py prints how late.
"""

import contextlib
import os
import resource
import select
import socket
import time

import pytest

from kacore import Policy
from tests.wire.conftest import wait_until

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LATE = 15.0  # seconds that a busy machine may add


def ok(request):
    return b"ok"


@pytest.fixture
def many():
    """many(n, port) connects n sockets from several loopback addresses, without waiting for one before the next."""
    wanted = 12_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(wanted, hard)), hard))
    with contextlib.ExitStack() as stack:

        def connect(n, port):
            socks = []
            for i in range(n):
                sock = stack.enter_context(contextlib.closing(socket.socket()))
                sock.setblocking(False)
                sock.bind((f"127.0.0.{2 + i % 50}", 0))
                sock.connect_ex(("127.0.0.1", port))
                socks.append(sock)
            return socks

        yield connect
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def ends(socks, timeout):
    """When each of them saw the end of its connection: {sock: monotonic seconds}; what came before is thrown away."""
    poll, seen = select.epoll(), {}
    by_fd = {sock.fileno(): sock for sock in socks}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    until = time.monotonic() + timeout
    while len(seen) < len(socks) and time.monotonic() < until:
        for fd, _ in poll.poll(0.05, 1024):
            with contextlib.suppress(BlockingIOError):
                try:
                    data = by_fd[fd].recv(1 << 16)
                except ConnectionError:
                    data = b""
                if not data:
                    seen[by_fd[fd]] = time.monotonic()
                    poll.unregister(fd)
    poll.close()
    return seen


def answered(socks, timeout):
    """Send a request on each as soon as it is connected; return those that got an answer, with the time it took."""
    poll, began, seen = select.epoll(), time.monotonic(), {}
    by_fd = {sock.fileno(): sock for sock in socks}
    for fd in by_fd:
        poll.register(fd, select.EPOLLOUT)
    while len(seen) < len(socks) and time.monotonic() < began + timeout:
        for fd, events in poll.poll(0.05, 1024):
            sock = by_fd[fd]
            if events & select.EPOLLOUT:
                sock.send(REQUEST)
                poll.modify(fd, select.EPOLLIN)
            elif sock.recv(4096).startswith(b"HTTP/1.1 200"):
                seen[sock] = time.monotonic() - began
                poll.unregister(fd)
    poll.close()
    return seen


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_500_idle_connections_are_closed_never_early_and_soon_after_their_time(start, many, loop):
    running = start(ok, policy=Policy(keep_alive_timeout=0.5), loop=loop)
    socks = many(500, running.port)
    wait_until(lambda: running.ask(lambda: len(running.table)) == 500)
    asked = {}
    for sock in socks:
        asked[sock] = time.monotonic()  # the response cannot have been handed to the kernel before it was asked for
        sock.send(REQUEST)
    seen = ends(socks, 0.5 + LATE)
    assert len(seen) == 500
    early = [seen[sock] - asked[sock] for sock in socks if seen[sock] - asked[sock] < 0.5]
    assert early == []
    assert max(seen[sock] - asked[sock] for sock in socks) < 0.5 + LATE


def test_5000_connects_in_one_burst_are_all_answered(start, many):
    running = start(ok, policy=Policy(max_connections=6000))
    socks = many(5000, running.port)
    took = answered(socks, 20)
    assert len(took) == 5000
    assert running.closed("rejected") == running.closed("evicted") == 0
    running.check()
    for sock in socks:
        sock.close()
    wait_until(lambda: running.ask(lambda: len(running.table)) == 0, "all have left", timeout=20)


def test_heads_contents_and_readers_that_dawdle_by_hundreds_do_not_hold_up_others(start, client, many):
    """200 send a head and 200 a content a byte at a time, 100 do not read a large response. Each goes at its limit; the
    server keeps little for them; another client is answered all the while."""
    big = b"x" * 50_000_000
    policy = Policy(request_header_timeout=0.6, request_body_timeout=5, min_request_body_rate=1000, rate_window=0.5,
                    send_timeout=0.6, max_connections=2000)  # fmt: skip
    running = start(lambda request: big if request.path == "/big" else b"ok", policy=policy)
    heads, contents = many(200, running.port), many(200, running.port)
    readers = [client(running, receive_buffer=4096) for _ in range(100)]
    good = client(running)
    assert good.get().status == 200
    before = resident()
    for reader in readers:
        reader.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
    for sock in contents:
        sock.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
    head, slowest, most = b"GET / HTTP/1.1\r\nX-Slow: " + b"a" * 1000, 0.0, 0
    for i in range(60):
        for sock in heads:
            with contextlib.suppress(OSError):
                sock.send(head[i : i + 1])
        for sock in contents:
            with contextlib.suppress(OSError):
                sock.send(b"x")
        began = time.monotonic()
        assert good.get().status == 200
        slowest = max(slowest, time.monotonic() - began)
        most = max(most, running.stats()["engine"]["buffer_bytes"])
        time.sleep(0.02)
    wait_until(lambda: running.closed("header_timeout") == 200)
    wait_until(lambda: running.closed("body_rate") + running.closed("body_timeout") == 200)
    wait_until(lambda: running.closed("send_timeout") == 100)
    assert slowest < LATE
    assert most < 2 << 20  # half heads; contents wait in the collector, and responses with the application
    assert resident() - before < 64 << 20  # one large response, referred to by all


def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_half_heads_by_thousands_stay_within_max_buffer_bytes(start, client, many):
    most = 16 << 20
    running = start(ok, policy=Policy(max_buffer_bytes=most, max_head_bytes=65536, max_connections=4000))
    half = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: %s\r\n" % (i, b"y" * 7000) for i in range(8)) + b"Z"
    seen = 0
    for _ in range(10):
        for sock in many(300, running.port):
            with contextlib.suppress(OSError):
                sock.send(half)
        stats = running.stats()
        seen = max(seen, stats["engine"]["buffer_bytes"])
        assert client(running).get().status == 200
    assert most // 2 < seen <= most
    assert running.closed("buffer_limit") > 0


def test_a_full_server_of_many_answers_the_next_client_at_once(start, client, many):
    running = start(ok, policy=Policy(max_connections=2000, pressure_start=1, pressure_full=1))
    assert len(answered(many(2000, running.port), 20)) == 2000
    for i in range(1, 21):
        began = time.monotonic()
        assert client(running).get().status == 200
        assert time.monotonic() - began < LATE
        assert running.closed("evicted") == i
