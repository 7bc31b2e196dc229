"""Requests sent without waiting are answered in their order, whatever the application is."""

import pytest

GET = "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("n", [2, 10, 1000])
def test_pipelined_requests_are_answered_in_order(echo, client, n):
    running = echo()
    c = client(running)
    c.send("".join(GET.format(i) for i in range(n)))
    for i in range(n):
        response = c.response()
        assert (response.status, response.body) == (200, f"GET /{i} ".encode())
    assert running.stats()["requests"] == n
    assert c.is_open()


def test_pipelined_requests_with_content_stay_in_step(echo, client):
    c = client(echo())
    sized = "POST /{0} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nbody{0}"
    chunked = "POST /{0} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n3\r\ndy{0}\r\n0\r\n\r\n"
    c.send("".join((sized if i % 2 else chunked).format(i) for i in range(10)))
    for i in range(10):
        assert c.response().body == f"POST /{i} body{i}".encode()


def test_a_slow_request_is_not_overtaken(echo, client):
    c = client(echo())
    c.send(GET.format("slow") + GET.format("fast") + GET.format("slow") + GET.format("fast"))
    assert [c.response().body for _ in range(4)] == [b"GET /slow ", b"GET /fast "] * 2


def test_requests_in_many_small_pieces_are_the_same_requests(echo, client):
    c = client(echo())
    both = "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + GET.format("b")
    for i in range(len(both)):
        c.send(both[i])
    assert c.response().body == b"POST /a abc"
    assert c.response().body == b"GET /b "


def test_what_is_pipelined_behind_a_close_is_ignored(echo, client):
    running = echo()
    c = client(running)
    c.send(GET.format("a") + "GET /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET.format("c") + "rubbish")
    assert c.response().body == b"GET /a "
    response = c.response()
    assert (response.body, response.get("connection")) == (b"GET /b ", "close")
    assert c.is_closed()
    assert running.stats()["requests"] == 2


def test_a_malformed_request_behind_good_ones_is_answered_in_its_turn(echo, client):
    c = client(echo())
    c.send(GET.format("a") + GET.format("slow") + "GET /c HTTP/1.1\r\nHost : a\r\n\r\n" + GET.format("d"))
    assert [c.response().body for _ in range(2)] == [b"GET /a ", b"GET /slow "]
    response = c.response()
    assert (response.status, response.get("connection")) == (400, "close")
    assert c.is_closed()


def test_a_pipeline_far_behind_is_not_read_on(start, client):
    """While a request is with the application, what comes behind it stays with the kernel."""
    import asyncio

    async def waits(request):
        await asyncio.sleep(0.3 if request.path == "/first" else 0)
        return b"ok"

    running = start(waits)
    c = client(running)
    pad = "x" * 8000
    c.send(GET.format("first"))
    c.send(f"GET / HTTP/1.1\r\nHost: a\r\nX-Pad: {pad}\r\n\r\n" * 30)
    assert running.stats()["engine"]["buffer_bytes"] <= 256 * 1024
    for _ in range(31):
        assert c.response().body == b"ok"
