"""The examples of docs/examples that need no host of their own: each serves, keeps, is strict and ends gracefully."""

import http.client
import select
import socket
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
both = pytest.mark.parametrize("name", ["threads", "trio"])


@pytest.fixture
def start(launch, need):
    def run(name, n_places=50):
        if name == "trio":
            need("module:trio")
        server = launch(str(EXAMPLES / f"hello_{name}.py"), "0", *([str(n_places)] if name == "threads" else []))
        server.url = server.wait_for(r"http://127\.0\.0\.1:\d+")[0]
        return server

    return run


def connect(server):
    return closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10))


def ask(connection, target="/", method="GET", body=None):
    connection.request(method, target, body)
    response = connection.getresponse()
    return response.status, response.read(), response.getheader("Connection")


@both
def test_example_keeps_connections_and_ends_gracefully(start, name):
    server = start(name)
    with connect(server) as connection:
        assert ask(connection) == (200, b"hello\n", "keep-alive")
        first = connection.sock
        assert ask(connection, body=b"x" * 300_000, method="POST") == (200, b"x" * 300_000, "keep-alive")
        assert ask(connection, "/other")[0] == 404
        assert ask(connection, method="HEAD")[:2] == (200, b"")
        assert connection.sock is first
        server.send_signal(15)
        while (answer := ask(connection))[2] != "close":
            assert answer[0] == 200
    assert server.wait() == 0, server.text
    assert "Traceback" not in server.text


@both
def test_example_answers_pipelined_requests_in_order_and_refuses_a_bad_one(start, name):
    server = start(name)
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=10)) as sock:
        for byte in b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /no HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n":
            sock.send(bytes([byte]))
        with sock.makefile("rb") as stream:
            said = stream.read()
    assert [line[9:12] for line in said.splitlines() if line.startswith(b"HTTP/1.1 ")] == [b"200", b"404", b"400"]


def test_full_server_of_threads_closes_an_idle_connection_for_the_next_client(start):
    server = start("threads", 3)
    with ExitStack() as stack:
        first = [stack.enter_context(connect(server)) for _ in range(3)]
        for connection in first:
            assert ask(connection)[0] == 200
        # A thread may have sent its answer and not yet said so; then nobody is idle and the next one gets a 503.
        while ask(stack.enter_context(connect(server)))[0] != 200:
            pass
        closed = select.select([connection.sock for connection in first], [], [], 10)[0]
        assert [sock.recv(1) for sock in closed] == [b""]
        assert [ask(connection)[0] for connection in first if connection.sock not in closed] == [200, 200]
