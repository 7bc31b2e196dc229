"""kacore.embed.asyncio over loopback: the documented example, and the deadlines of a protocol of one's own."""

import asyncio
import socket
import urllib.request
from pathlib import Path

import pytest

from kacore import Policy
from kacore.embed.asyncio import Connections, KeepAliveProtocol

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
        assert connections.stats() == {"buffer_bytes": 0, "buffers_refused": 0, "talks": 0}

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

    run(scenario, Policy(max_connections=1), Waits)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHo"])
def test_client_that_says_too_little_is_closed_by_the_one_timer(sent):
    async def scenario(connections, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 408 ") if sent else answer == b""
        writer.close()

    run(scenario, Policy(**{"request_header_timeout" if sent else "first_byte_timeout": 0.1}))
