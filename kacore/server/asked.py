"""In a worker: answers for whoever reports on all workers (`reporter.py`), from the loop and without ever waiting.

A question is a line of JSON, {"id": N, "connections": LIMIT} or {"id": N, "busiest": 0}, and so is its answer. Who does not
take the last answer gets no other.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any, Protocol


class Knows(Protocol):
    """What is needed of a Server."""

    def connections(self, limit: int = 1000) -> list[dict[str, Any]]: ...
    def busiest(self) -> list[dict[str, Any]]: ...


class Asked:
    """sock: to whoever asks, a stream. Answers from start() on."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setblocking(False)
        self._out = b""

    def start(self, server: Knows, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_reader(self._sock.fileno(), self._hear, server, loop)

    def _hear(self, server: Knows, loop: asyncio.AbstractEventLoop) -> None:
        try:
            said = self._sock.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            loop.remove_reader(self._sock.fileno())
            return
        if self._out:
            return
        question = json.loads(said.splitlines()[-1])
        found = server.connections(question["connections"]) if "connections" in question else server.busiest()
        self._out = json.dumps({"id": question["id"], "found": found}, separators=(",", ":")).encode() + b"\n"
        self._send(loop)

    def _send(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            n = self._sock.send(self._out)
        except BlockingIOError:
            n = 0
        except OSError:
            n = len(self._out)  # nobody is there
        is_waiting = n < len(self._out)
        self._out = self._out[n:]
        if is_waiting:
            loop.add_writer(self._sock.fileno(), self._send, loop)
        else:
            loop.remove_writer(self._sock.fileno())
