"""Does a real server reuse connections as the simulation says? Percent of requests, both, and the difference in points.

A log is replayed on loopback at many times its speed, with timeouts that are as much shorter: each client from an address
of its own, over one connection, which it never closes. The simulation gets the same requests at the same times.

    make bench-replay ARGS='access.log --timeout 75 --minutes 60 --speed 100'
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections import deque
from typing import Any

from kacore import ConnectionTable
from kacore._core import ClientPools, Replay
from kacore.policy import Policy
from kacore.simulate.reading import Log, in_order
from kacore.simulate.study import base_policy

REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
BODY = b"ok"

Record = tuple[float, float, bytes]


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": BODY})


def policy_for(timeout: float | str, room: int, speed: float = 1.0) -> Policy:
    """Of a server whose clock is so much faster. Only idle time and room end a connection."""
    policy = base_policy().replace(keep_alive_timeout=timeout, max_connections=room)
    names = ["keep_alive_min", "keep_alive_max"] if timeout == "auto" else ["keep_alive_timeout"]
    return policy.replace(**{name: getattr(policy, name) / speed for name in ["min_idle_before_evict", *names]})


# -- the simulation -----------------------------------------------------------------------------------------------


def simulated(records: list[Record], policy: Policy) -> float:
    """The share of requests that find their connection open."""
    pools, replay = ClientPools([1e6], per_client=1), Replay(ConnectionTable(policy, seed=1), window=0.01)
    pools.feed(records)
    replay.play(pools)
    return replay.n_reused / len(records)


# -- the replay ---------------------------------------------------------------------------------------------------


class Client(asyncio.Protocol):
    """One client of the log. A request whose connection is closed under it is repeated on another."""

    def __init__(self, replayed: Replayed, number: int) -> None:
        self._replayed, self._number = replayed, number
        self._transport: asyncio.Transport | None = None
        self._waiting = 0
        self._is_busy = False
        self._answer = b""

    def request(self) -> None:
        self._waiting += 1
        if not self._is_busy:
            self._next()

    def _next(self) -> None:
        self._is_busy = self._waiting > 0
        if not self._is_busy:
            return
        self._answer = b""
        if self._transport is not None and not self._transport.is_closing():
            self._replayed.n_reused += 1
            self._transport.write(REQUEST)
        else:
            self._replayed.connect(self, self._number)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if self._answer.endswith(b"\r\n\r\n" + BODY):
            self._waiting -= 1
            self._replayed.done()
            self._next()

    def eof_received(self) -> bool:
        return False

    def leave(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._is_busy:
            self._replayed.n_lost += 1
            self._next()


class Replayed:
    """A log, asked of a server on loopback."""

    def __init__(self, records: list[Record], port: int, speed: float) -> None:
        self._records, self._port, self._speed = deque(records), port, speed
        self.n_reused = self.n_opened = self.n_lost = 0
        self.sent: list[Record] = []  # as the machine came to it, in the log's time
        self._left = len(records)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._clients: dict[bytes, Client] = {}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        began, first = loop.time(), self._records[0][0]
        while self._records:
            at, _, key = self._records.popleft()
            wait = began + (at - first) / self._speed - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            client = self._clients.get(key)
            if client is None:
                client = self._clients[key] = Client(self, len(self._clients))
            self.sent.append((first + (loop.time() - began) * self._speed, 0.0, key))
            client.request()
        await self._over.wait()
        for client in self._clients.values():
            client.leave()

    def connect(self, client: Client, number: int) -> None:
        self.n_opened += 1
        address = f"127.{1 + number // 62500}.{number // 250 % 250}.{1 + number % 250}"
        connecting = asyncio.get_running_loop().create_connection
        task = asyncio.ensure_future(connecting(lambda: client, "127.0.0.1", self._port, local_addr=(address, 0)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def done(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._over.set()


# -- the command --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(policy: Policy) -> Any:
    """`kacore serve` in a process of its own. The port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in policy.changes().items()]
    command = [sys.executable, "-m", "kacore", "serve", "bench_replay:app", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen([*command, "--app-dir", sys.path[0], *flags])
    try:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log")
    parser.add_argument("--timeout", action="append", metavar="SECONDS|auto", help="may be repeated (default: 75)")
    parser.add_argument("--room", type=int, default=1000, metavar="N", help="max_connections (default: 1000)")
    parser.add_argument("--minutes", type=float, default=60, help="of the log (default: 60)")
    parser.add_argument("--speed", type=float, default=100, help="times that of the log (default: 100)")
    args = parser.parse_args()
    records = [record for batch in in_order([Log(args.log)], lambda n: None) for record in batch]
    records = [record for record in records if record[0] < records[0][0] + args.minutes * 60]
    n_clients, took = len({key for _, _, key in records}), (records[-1][0] - records[0][0]) / args.speed
    print(f"{len(records):,} requests, {n_clients:,} clients, {took:.0f} s for each timeout", flush=True)
    for word in args.timeout or ["75"]:
        timeout = word if word == "auto" else float(word)
        with serving(policy_for(timeout, args.room, args.speed)) as port:
            replayed = Replayed(records, port, args.speed)
            asyncio.run(replayed.run())
        said = simulated(replayed.sent, policy_for(timeout, args.room))
        found = replayed.n_reused / len(records)
        print(
            f"timeout {word:>5}: simulated {said * 100:5.1f} %, replayed {found * 100:5.1f} %, {(found - said) * 100:+.1f}"
            f" points; {replayed.n_opened:,} opened, {replayed.n_lost:,} lost and repeated",
            flush=True,
        )


if __name__ == "__main__":
    main()
