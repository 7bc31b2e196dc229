"""kacore.embed.asyncio over loopback: the documented example, and the deadlines of a protocol of one's own."""

import asyncio
import logging
import socket
import ssl
import urllib.request
from pathlib import Path

import pytest

from kacore import Policy, PolicySet, Rule
from kacore.embed.asyncio import Connections, KeepAliveProtocol
from kacore.server import TLS
from tests.wire.conftest import certificates  # noqa: F401

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "hello_asyncio.py"


def test_the_example_serves_and_ends_gracefully(launch):
    child = launch(str(EXAMPLE), "0", ready=r"http://\S+")
    url = child.wait_for(r"http://\S+")[0]
    with urllib.request.urlopen(url, timeout=10) as response:
        assert response.read() == b"hello\n"
    with urllib.request.urlopen(url, data=b"x" * 300_000, timeout=10) as response:
        assert response.read() == b"x" * 300_000
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=10):
        assert child.stop() == 0, child.text


class Big(KeepAliveProtocol):
    def handle(self, head, body):
        return b"y" * 5_000_000


class Named(KeepAliveProtocol):
    def handle(self, head, body):
        return "named"


def run(scenario, policy, protocol=Big):
    """scenario(connections, port), with a server of the protocol around it; afterwards nothing may be left."""

    async def main():
        connections = Connections(policy)
        server = await asyncio.get_running_loop().create_server(lambda: protocol(connections), "127.0.0.1", 0)
        await scenario(connections, server.sockets[0].getsockname()[1])
        server.close()
        connections.close()
        connections.table.check()
        assert len(connections.table) == 0
        stats = connections.stats()
        assert (stats["buffer_bytes"], stats["buffers_refused"], stats["talks"], stats["waiting"]) == (0, 0, 0, 0)

    asyncio.run(asyncio.wait_for(main(), 20))


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


def test_client_that_takes_nothing_is_in_write_and_closed_by_its_deadline():
    async def scenario(connections, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: connections.table.stats()["phases"]["write"] == 1)
        await until(lambda: connections.table.stats()["closed"]["send_timeout"] == 1)
        writer.close()

    run(scenario, Policy(send_timeout=0.2))


@pytest.mark.parametrize("breaks", [True, False])
def test_the_end_in_the_moment_when_the_loop_has_written_everything_is_one_end(breaks):
    """asyncio's transports call resume_writing() before they look whether they were closed in it."""
    told = []

    class Breaks(KeepAliveProtocol):
        def connection_made(self, transport):
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
            super().connection_made(transport)

        def handle(self, head, body):
            yield from (b"y" * 5_000_000, b"z" * 5_000_000)
            if breaks:
                raise ValueError("on purpose")

    async def scenario(connections, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        try:
            content = (await reader.read()).partition(b"\r\n\r\n")[2]
        except ConnectionResetError:
            content = None
        assert (content is None or len(content) < 10_000_000) == breaks
        writer.close()
        await until(lambda: len(connections.table) == 0)
        await asyncio.sleep(0)

    run(scenario, Policy(), Breaks)
    assert told == []


class Broken:
    """A transport whose write() fails, in front of the loop's."""

    def __init__(self, transport):
        self.transport = transport

    def __getattr__(self, name):
        return getattr(self.transport, name)

    def write(self, data):
        raise ZeroDivisionError("on purpose")


def test_a_transport_that_fails_to_write_ends_its_connection_and_is_told_once(caplog):
    class OverBroken(Named):
        def connection_made(self, transport):
            super().connection_made(Broken(transport))

    async def scenario(connections, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await reader.read() == b""
        assert connections.table.stats()["closed"]["error"] == 1
        writer.close()

    run(scenario, Policy(), OverBroken)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]


def test_newcomer_is_answered_503_when_nobody_can_go():
    class Waits(KeepAliveProtocol):
        async def handle(self, head, body):
            await asyncio.sleep(10)

    async def scenario(connections, port):
        _, busy = await asyncio.open_connection("127.0.0.1", port)
        busy.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: connections.table.stats()["phases"]["busy"] == 1)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        assert connections.table.stats()["closed"]["rejected"] == 1
        writer.close()
        busy.close()

    run(scenario, Policy(max_connections=1, when_full="reject"), Waits)


def test_newcomer_waits_for_a_place_unless_the_policy_rejects():
    gate = asyncio.Event()

    class Waits(KeepAliveProtocol):
        async def handle(self, head, body):
            await gate.wait()
            return b"served"

    async def scenario(connections, port):
        clients = []
        for n in range(3):
            clients.append(await asyncio.open_connection("127.0.0.1", port))
            clients[-1][1].write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await until(lambda: connections.table.stats()["phases"]["busy"] == 1)
            await until(lambda n=n: connections.stats()["waiting"] == n)
        clients[1][1].transport.abort()  # nobody looks at it until its turn comes
        clients[2][1].write_eof()
        gate.set()
        for reader, _ in (clients[0], clients[2]):
            assert (await reader.readuntil(b"served")).startswith(b"HTTP/1.1 200 ")
        assert connections.table.stats()["closed"]["rejected"] == 0
        for _, writer in clients:
            writer.close()

    run(scenario, Policy(max_connections=1), Waits)


async def ask(port, before=b"", host="a"):
    """The answer, and the connection it came by."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(before + f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    return (await reader.readuntil(b"named")).lower(), writer


def test_rules_of_a_policy_set_give_connections_and_requests_their_class():
    async def scenario(connections, port):
        for host, timeout in (("a", b"timeout=19"), ("www.example.com", b"timeout=9")):
            answer, writer = await ask(port, host=host)
            assert timeout in answer
            writer.close()

    rules = [
        Rule(listener=":1", keep_alive_timeout=5.0),  # which is not listened on
        Rule(host="*.example.com", keep_alive_timeout=10.0),
        Rule(client="127.0.0.0/8", keep_alive_timeout=20.0),
    ]
    run(scenario, PolicySet(Policy(), rules), Named)


def test_trusted_proxies_name_their_clients_who_are_listed_and_limited_by_that_name():
    async def scenario(connections, port):
        connections.trust(["127.0.0.1"], proxy_protocol=True)
        head = b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n"
        answer, writer = await ask(port, head)
        assert answer.startswith(b"http/1.1 200 ")
        (listed,) = connections.connections()
        assert (listed["client"], listed["phase"], listed["requests"]) == (("192.0.2.1", 4711), "idle", 1)
        reader, second = await asyncio.open_connection("127.0.0.1", port)
        second.write(head)
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        assert connections.table.stats()["closed"]["client_limit"] == 1
        writer.close()
        second.close()

    run(scenario, Policy(max_connections_per_client=1), Named)


def test_closed_connections_and_races_are_logged_as_the_server_does(caplog):
    caplog.set_level(logging.DEBUG, "kacore.error")

    async def scenario(connections, port):
        _, writer = await ask(port)
        await until(lambda: connections.table.stats()["phases"]["linger"] == 1)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")  # it crossed the close, and is lost
        await until(lambda: connections.table.stats()["races"] == 1)
        writer.close()
        await until(lambda: len(connections.table) == 0)

    run(scenario, Policy(keep_alive_timeout=0.05), Named)
    said = [record.getMessage() for record in caplog.records]
    assert any("a request from 127.0.0.1 was lost" in line for line in said)
    assert any("closed in linger after 1 requests: idle_timeout" in line for line in said)


def test_half_heads_are_shed_before_the_buffers_are_full():
    cap = 1 << 20

    async def scenario(connections, port):
        half = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 15000
        writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(100)]
        for writer in writers:
            writer.write(half)
        await until(lambda: connections.table.stats()["closed"]["buffer_limit"] > 0)
        assert connections.stats()["buffer_bytes"] <= cap
        assert connections.stats()["buffers_refused"] == 0
        for writer in writers:
            writer.transport.abort()
        await until(lambda: len(connections.table) == 0)

    run(scenario, Policy(max_buffer_bytes=cap), Named)


def test_drain_and_close_serves_newcomers_for_the_lame_duck_and_then_closes_the_servers():
    async def scenario(connections, port):
        server = await asyncio.get_running_loop().create_server(lambda: Named(connections), "127.0.0.1", 0)
        other = server.sockets[0].getsockname()[1]
        ending = asyncio.create_task(connections.drain_and_close(server))
        answer, writer = await ask(other)
        assert b"connection: close" not in answer
        await ending
        assert not server.is_serving()
        writer.close()

    run(scenario, Policy(drain_lame_duck=0.1, drain_grace=0.0, drain_spread=0.0), Named)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHo"])
def test_client_that_says_too_little_is_closed_by_the_one_timer(sent):
    async def scenario(connections, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 408 ") if sent else answer == b""
        writer.close()

    run(scenario, Policy(**{"request_header_timeout" if sent else "first_byte_timeout": 0.1}))


def test_tls_by_kacore_has_its_handshake_counted_and_limited(certificates):  # noqa: F811
    path = certificates.issue("localhost")

    async def scenario(connections, port):
        number = connections.add_listener(("127.0.0.1", 0), TLS(path))
        server = await asyncio.get_running_loop().create_server(lambda: Named(connections, 0, number), "127.0.0.1", 0)
        other = server.sockets[0].getsockname()[1]
        context = ssl.create_default_context(cafile=certificates.roots)
        reader, writer = await asyncio.open_connection("127.0.0.1", other, ssl=context, server_hostname="localhost")
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readuntil(b"named")).startswith(b"HTTP/1.1 200 ")
        reader, silent = await asyncio.open_connection("127.0.0.1", other)
        assert await reader.read() == b""
        assert connections.table.stats()["closed"]["handshake_timeout"] == 1
        for one in (writer, silent):
            one.transport.abort()
        server.close()

    run(scenario, Policy(handshake_timeout=0.2), Named)
