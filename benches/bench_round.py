"""How long can one peer hold the loop? Milliseconds of the thread's CPU time in one round, worst and 99th percentile.

A server runs in a thread; a hostile client in another process does one thing for a second, beside a good client that asks
for a page again and again. The control is the good client alone. CPU time of the thread, so that other processes and the
interpreter's lock do not count.

Each scene runs twice, and what happens the first time only is not shown. A handshake of TLS is the longest step there
is: scenes that lose their connection, and begin again, show it.

    make bench-round ARGS='--io epoll --seconds 3 pings deflate-bombs'
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kacore
from kacore.server import TLS

CLEAN = "GET /ws HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
SHAKE = CLEAN + "Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n"
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=12\r\n"
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


# -- the server ---------------------------------------------------------------------------------------------


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            if scope["path"] == "/echo":
                await send({**message, "type": "websocket.send"})
    elif scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})


class TimedLoop(asyncio.SelectorEventLoop):
    """Notes what each round of the loop took of the thread's CPU time."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds: list[int] = []

    def _run_once(self) -> None:
        begun = time.thread_time_ns()
        super()._run_once()  # type: ignore[misc]
        self.rounds.append(time.thread_time_ns() - begun)


class Served:
    def __init__(self, io: str, certfile: str | None) -> None:
        self.server = kacore.Server(app, port=0, io=io, tls=TLS(certfile) if certfile else None)  # type: ignore[arg-type]
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._is_ready.wait()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=TimedLoop) as runner:
            self.loop = runner.get_loop()
            runner.run(self._serve())

    async def _serve(self) -> None:
        serving = asyncio.create_task(self.server.serve(handle_signals=False))
        await self.server.started()
        self._is_ready.set()
        await serving

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(lambda: self.server.shutdown(now=True))
        self._thread.join()


# -- the clients, in a process of their own ------------------------------------------------------------------


def frame(opcode: int, data: bytes, fin: bool = True, compressed: bool = False) -> bytes:
    first = (0x80 if fin else 0) | opcode | (0x40 if compressed else 0)
    size = len(data)
    head = bytes((first, 0x80 | size)) if size < 126 else struct.pack("!BBH", first, 0x80 | 126, size)
    return head + bytes(4) + data


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port))


def websocket(port: int, fields: str = "") -> socket.socket:
    sock = connected(port)
    sock.sendall((SHAKE + fields + "\r\n").encode())
    while b"\r\n\r\n" not in sock.recv(4096, socket.MSG_PEEK):
        pass
    return sock


def floods(sock: Any, piece: bytes, seconds: float, first: bytes = b"") -> None:
    end = time.monotonic() + seconds
    sock.sendall(first)
    sock.settimeout(0.2)
    at = 0
    while time.monotonic() < end:
        with contextlib.suppress(TimeoutError):
            at = (at + sock.send(memoryview(piece)[at:])) % len(piece)


def drained(sock: Any) -> None:
    with contextlib.suppress(OSError):
        while sock.recv(1 << 20):
            pass


def bombs() -> bytes:
    deflater, made = zlib.compressobj(wbits=-12), b""
    for _ in range(4):
        made += frame(2, deflater.compress(bytes(16 << 20)) + deflater.flush(zlib.Z_SYNC_FLUSH)[:-4], compressed=True)
    return made


def over_tls(port: int, directory: str) -> Any:
    from tests.wire.hostile_tls import HostileClient

    keylog = Path(directory) / f"keys-{os.getpid()}-{time.monotonic_ns()}.log"
    return HostileClient(connected(port), f"{directory}/roots.pem", keylog)


def many_records(port: int, directory: str, seconds: float, what: Callable[[Any], bytes]) -> None:
    """As many as fit, on a new connection whenever the old one is closed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            one = over_tls(port, directory)
            # Small pieces would be mercy: they are made first, and then sent at once.
            for _ in range(4):
                one.send(b"".join(what(one) for _ in range(2000)))
            drained(one.sock)


def body_of_small_records(port: int, directory: str, seconds: float) -> None:
    one = over_tls(port, directory)
    one.send(one.record(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 99999999\r\n\r\n"))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        one.send(b"".join(one.record(b"x") for _ in range(3000)))


SCENES: dict[str, tuple[bool, Callable[[int, str, float], None]]] = {
    "control": (False, lambda port, directory, seconds: time.sleep(seconds)),
    "control-tls": (True, lambda port, directory, seconds: time.sleep(seconds)),
    "empty-frames": (
        False,
        lambda port, _, s: floods(websocket(port), frame(0, b"", fin=False) * 9999, s, frame(1, b"", fin=False)),
    ),
    "pings": (False, lambda port, _, s: floods(websocket(port), frame(9, b"x" * 125) * 1000, s)),
    "small-messages": (False, lambda port, _, s: floods(websocket(port), frame(1, b"x") * 9000, s)),
    "deflate-bombs": (False, lambda port, _, s: floods(websocket(port, DEFLATE), bombs(), s)),
    "large-messages": (False, lambda port, _, s: floods(websocket(port), frame(1, b"x" * 65000) * 50, s)),
    "key-updates": (True, lambda port, d, s: many_records(port, d, s, lambda one: one.key_update())),
    "empty-records": (True, lambda port, d, s: many_records(port, d, s, lambda one: one.record(b""))),
    "small-records": (True, lambda port, d, s: body_of_small_records(port, d, s)),
}


def good_client(port: int, directory: str, is_tls: bool, stop: threading.Event) -> None:
    import ssl

    sock: Any = connected(port)
    if is_tls:
        context = ssl.create_default_context(cafile=f"{directory}/roots.pem")
        sock = context.wrap_socket(sock, server_hostname="localhost")
    while not stop.is_set():
        sock.sendall(GET)
        if not sock.recv(65536):
            raise SystemExit("the good client was closed")
        time.sleep(0.001)
    sock.close()


def attack(scene: str, port: int, directory: str, seconds: float) -> None:
    is_tls, act = SCENES[scene]
    stop = threading.Event()
    good = threading.Thread(target=good_client, args=(port, directory, is_tls, stop))
    good.start()
    with contextlib.suppress(ConnectionError):
        act(port, directory, seconds)
    stop.set()
    good.join()


# -- the figures -----------------------------------------------------------------------------------------------


def measured(scene: str, io: str, directory: str, seconds: float) -> list[int]:
    served = Served(io, f"{directory}/cert.pem" if SCENES[scene][0] else None)
    try:
        command = [sys.executable, "-m", "benches.bench_round", "--attack", scene, str(served.server.port), directory]
        for lasts in (0.2, seconds):  # once for what happens the first time only
            served.loop.call_soon_threadsafe(served.loop.rounds.clear)
            with subprocess.Popen([*command, "--seconds", str(lasts)]) as child:
                child.wait()
        return [took for took in served.loop.rounds if took > 20_000]
    finally:
        served.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scenes", nargs="*", metavar="scene", help=", ".join(SCENES))
    parser.add_argument("--io", choices=("epoll", "transports"), action="append")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--attack", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        scene, port, directory = options.attack
        attack(scene, int(port), directory, options.seconds)
        return
    import trustme

    print(f"Python {platform.python_version()}, {platform.machine()}, kacore {kacore.__version__} at {kacore.__file__}")
    print(f"{'scene':16} {'io':10} {'rounds':>7} {'median':>8} {'99 %':>8} {'worst':>8}  ms of CPU time a round")
    with tempfile.TemporaryDirectory() as directory:
        root = trustme.CA()
        root.cert_pem.write_to_path(f"{directory}/roots.pem")
        root.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(f"{directory}/cert.pem")
        for scene in options.scenes or SCENES:
            for io in options.io or ("epoll", "transports"):
                rounds = sorted(measured(scene, io, directory, options.seconds))
                p99 = rounds[int(0.99 * (len(rounds) - 1))]
                print(
                    f"{scene:16} {io:10} {len(rounds):7} {statistics.median(rounds) / 1e6:8.3f} {p99 / 1e6:8.3f}"
                    f" {rounds[-1] / 1e6:8.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
