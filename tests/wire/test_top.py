"""`kacore top` against servers: a real one through a restart, in a terminal; and slow ones, broken ones, other ones."""

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest

from kacore.cli import main
from kacore.errors import UsageError
from kacore.top.source import Place, Source
from tests.wire.conftest import Client, Running


def ok(request):
    return b"ok"


@pytest.fixture(scope="module")
def served():
    running = Running(ok, admin="0")
    busy = Client(running.port)
    busy.get()
    yield running
    busy.close()
    running.stop(now=True)


def test_once_and_json_print_what_the_server_counts(served, capsys):
    assert main(["top", str(served.server.admin_port), "--once"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"open +1 of 10,000", shown) and re.search(r"127\.0\.0\.1 +1 ", shown)
    assert main(["top", f"http://localhost:{served.server.admin_port}/", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["phases"]["idle"] == 1


def test_documents_follow_one_another_and_connections_are_listed(served):
    async def ask():
        source = Source(Place.of(str(served.server.admin_port)))
        seen = []
        async with contextlib.aclosing(source.follow()) as news:
            async for document in news:
                seen.append(document["open"])
                if len(seen) == 2:
                    break
        return seen, await source.connections()

    seen, listed = asyncio.run(ask())
    assert seen == [1, 1]
    assert listed["connections"][0]["client"][0] == "127.0.0.1"


# --- servers that are no admin listener, or not a good one ------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"
ANSWERS = {
    "another server": ([b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"], "it answers /status with 404"),
    "no HTTP": ([b"SSH-2.0-OpenSSH\r\n\r\n"], "does not speak HTTP"),
    "no end of the head": ([b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000], "does not speak HTTP"),
    "no JSON": ([HEAD % 5 + b"hello"], "is not what an admin listener of kacore answers"),
    "another JSON": ([HEAD % 2 + b"{}"], "is not an admin listener of kacore"),
    "deep JSON": ([HEAD % 200_000 + b"[" * 200_000], "is not what an admin listener of kacore answers"),
    "cut off": ([HEAD % 500 + b"{"], "has closed the connection"),
    "wrong chunks": ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"], "does not speak HTTP"),
    "too much": ([b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (9 << 20)], "gives more than"),
    "silence": ([], "has said nothing for 0.2 s"),
    "too many viewers": ([b"HTTP/1.1 503 Full\r\ncontent-length: 0\r\n\r\n"], "has too many viewers"),
}


async def answering(pieces, ask):
    """ask(port) of a server that says these pieces, one a turn of the loop, and then closes unless it said nothing."""

    writers = []

    async def answer(reader, writer):
        writers.append(writer)
        with contextlib.suppress(OSError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if not pieces:
                await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        try:
            return await ask(server.sockets[0].getsockname()[1])
        finally:
            for writer in writers:
                writer.transport.abort()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("what", ANSWERS)
def test_what_is_wrong_with_a_server_is_said_in_one_line(what):
    pieces, words = ANSWERS[what]

    async def ask(port):
        with pytest.raises(UsageError) as caught:
            await Source(Place.of(str(port)), patience=0.2 if not pieces else 10).document()
        return str(caught.value)

    said = asyncio.run(answering(pieces, ask))
    assert words in said and "\n" not in said


def test_events_that_come_in_pieces_of_one_byte_are_whole():
    document = {"kacore": "1", "rates": {}, "n": "ä\x1b"}
    text = f"retry: 1000\n\ndata: {json.dumps(document)}\n\n".encode()
    chunks = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]
    chunks += [b"1\r\n" + text[k : k + 1] + b"\r\n" for k in range(len(text))] + [b"0\r\n\r\n"]

    async def ask(port):
        news = Source(Place.of(str(port)), retry=0.01).follow()
        async with contextlib.aclosing(news):
            return [await anext(news) for _ in range(3)]

    first, closed, second = asyncio.run(answering(chunks, ask))
    assert first == second == document
    assert closed == "the server has closed the stream"


# --- in a terminal -------------------------------------------------------------------------------------------------------


class Terminal:
    """A program in a pseudo terminal; everything that it wrote."""

    def __init__(self, *arguments):
        self.main, side = pty.openpty()
        self.resize(30, 100)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kacore", *arguments],
            stdin=side,
            stdout=side,
            stderr=side,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color"},
        )
        os.close(side)
        self.text = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        with contextlib.suppress(OSError):
            while select.select([self.main], [], [], 30)[0] and (data := os.read(self.main, 65536)):
                self.text += data.decode("utf-8", "replace")

    def wait_for(self, words, after=0):
        """Where they are found in what it wrote, without what moves the cursor and sets colours."""
        end = time.monotonic() + 40
        while time.monotonic() < end:
            shown = re.sub(r"\x1b\[[0-9;:?<>=]*[A-Za-z]", "", self.text)
            at = shown.find(words, after)
            if at >= 0:
                return at
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        pytest.fail(f"no {words!r} on the screen, but\n{shown[-3000:]}")

    def resize(self, rows, columns):
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys):
        os.write(self.main, keys.encode())

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)
        os.close(self.main)
        self._reader.join(40)


@pytest.mark.needs("module:textual")
def test_in_a_terminal_it_follows_resizes_and_a_restart_of_the_server(free_port):
    port = free_port()
    running = Running(ok, admin=str(port))
    terminal = Terminal("top", str(port))
    try:
        terminal.wait_for("0 of 10,000")
        terminal.resize(50, 160)
        terminal.process.send_signal(signal.SIGWINCH)
        terminal.resize(8, 30)
        terminal.process.send_signal(signal.SIGWINCH)
        terminal.resize(30, 100)
        terminal.process.send_signal(signal.SIGWINCH)
        running.stop(now=True)
        after = terminal.wait_for("reconnecting")
        running = Running(ok, admin=str(port), policy=running.server.policy.replace(max_connections=77))
        terminal.wait_for("of 77", after)
        terminal.type("3")
        terminal.wait_for("cause", after)
        terminal.type("q")
        assert terminal.process.wait(20) == 0
    finally:
        terminal.close()
        running.stop(now=True)
