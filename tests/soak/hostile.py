"""Crowds that mean harm, each beside good clients: every good request is answered, and then the books are looked at.

    make soak
    .venv/bin/python tests/soak/hostile.py --scene hoarders --scene pings

Each scene is a server of its own and one way to make it hold or do too much. While it lasts, good clients ask on new
connections, one after the other. The server's memory must stay within what its policy says (`worst_case_bytes`), its
descriptors must come back, and nobody may be left. Loopback only; ends by itself. Exit status 1: something was wrong.
"""

import argparse
import os
import random
import resource
import select
import socket
import struct
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "wire"))
from hostile_tls import HostileClient  # noqa: E402
from soak import REPORT, SCENES, Server, settled  # noqa: E402
from soak_app import content  # noqa: E402

from kacore import Policy  # noqa: E402

PATIENCE = 5.0  # seconds for a good request; "at once" is a matter of the bench
GET = b"GET /a1 HTTP/1.1\r\nHost: a\r\n\r\n"
AHEAD = GET * (70_000 // len(GET))
SLACK = 24 << 20  # what malloc and the interpreter keep for themselves after a crowd


class Crowd:
    """Non-blocking sockets that send what they are given, as the server takes it."""

    def __init__(self, server):
        self.server = server
        self.socks = {}  # descriptor: (socket, iterator of what is still to be sent)
        self.rests = {}
        self.poll = select.epoll()
        self.rng = random.Random(7)

    def join(self, pieces, receive_buffer=None):
        """One more. pieces: iterator over bytes; it stays when they end."""
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.bind((f"127.0.0.{self.rng.randrange(2, 200)}", 0))
        sock.connect_ex(("127.0.0.1", self.server.port))
        self.socks[sock.fileno()] = sock, pieces
        self.rests[sock.fileno()] = b""
        self.poll.register(sock.fileno(), select.EPOLLOUT | select.EPOLLET)

    def act(self, seconds):
        """For so long send what can be sent."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for fd, _ in self.poll.poll(min(left, 0.05), 256):
                if fd in self.socks and not self.send(fd):
                    self.leave(fd)

    def send(self, fd):
        sock, pieces = self.socks[fd]
        try:
            for _ in range(64):
                piece = self.rests[fd] or next(pieces, b"")
                if not piece:
                    return True
                self.rests[fd] = piece
                self.rests[fd] = piece[sock.send(piece) :]
            self.poll.modify(fd, select.EPOLLOUT | select.EPOLLET)  # the others, too
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True

    def nudge(self):
        """Have those whose pieces come by the clock looked at."""
        for fd in list(self.socks):
            if not self.send(fd):
                self.leave(fd)

    def leave(self, fd, resets=False):
        sock, _ = self.socks.pop(fd)
        if resets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    def leave_all(self, resets=False):
        for fd in list(self.socks):
            self.leave(fd, resets)


class GoodClient(threading.Thread):
    """Asks for something small on a connection of its own, and again, until it is told to stop."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.is_over = server, threading.Event()
        self.waits, self.failures = [], []

    def run(self):
        number = 0
        while not self.is_over.wait(0.02):
            number += 1
            began = time.monotonic()
            try:
                if self.ask(number) != content("a", number):
                    raise OSError("wrong bytes")
                self.waits.append(time.monotonic() - began)
            except OSError as error:
                self.failures.append(f"after {time.monotonic() - began:.1f} s: {error!r}")

    def ask(self, number):
        with socket.create_connection(("127.0.0.1", self.server.port), PATIENCE) as sock:
            if self.server.tls:
                sock = self.server.tls.wrap_socket(sock, server_hostname="localhost")
            sock.sendall(b"GET /a%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % number)
            said = b""
            while data := sock.recv(65536):
                said += data
            head, _, body = said.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise OSError(f"answered {said[:60]!r}")
            return body


# -- websockets, by hand ------------------------------------------------------------------------------------------

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)


def frame(opcode, payload=b"", fin=True, is_deflated=False):
    """One frame of a client; the mask is zero, so that the payload stands as it is (RFC 6455 5.2)."""
    first = opcode | 0x80 * fin | 0x40 * is_deflated
    n = len(payload)
    if n < 126:
        return struct.pack("!BB", first, 0x80 | n) + bytes(4) + payload
    return struct.pack("!BBH" if n < 65536 else "!BBQ", first, 0x80 | (126 if n < 65536 else 127), n) + bytes(4) + payload


def forever(piece):
    while True:
        yield piece


def behind(first, rest):
    yield first
    yield from rest


def bomb():
    deflate = zlib.compressobj(9, wbits=-15)
    packed = deflate.compress(bytes(16 << 20)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return frame(2, packed[:-4], is_deflated=True)


# -- the scenes ---------------------------------------------------------------------------------------------------


def hoarders(crowd, seconds, target=b"/h1", buffer=None, n=340):
    for _ in range(n):
        crowd.join(iter([b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % target, AHEAD]), buffer)
    crowd.act(seconds)


def vanished(crowd, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        hoarders(crowd, 1.0)
        crowd.leave_all()


def deaf(crowd, seconds):
    hoarders(crowd, seconds, b"/l1", 4096)


def floods(frames, n=4):
    def scene(crowd, seconds):
        for _ in range(n):
            crowd.join(behind(UPGRADE, forever(frames)), 4096)
        crowd.act(seconds)

    return scene


def slow_bodies(crowd, seconds, n=300):
    def pieces():
        yield b"POST /e1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
        while True:
            yield b"x" * 30
            yield b""

    for _ in range(n):
        crowd.join(pieces())
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        crowd.act(0.1)  # 30 bytes each: 300 a second
        crowd.nudge()


def slow_readers(crowd, seconds):
    for _ in range(16):
        crowd.join(iter([b"GET /l1 HTTP/1.1\r\nHost: a\r\n\r\n"]), 4096)
    crowd.act(seconds)


def bodies(crowd, seconds):
    for _ in range(400):
        crowd.join(iter([b"POST /e1 HTTP/1.1\r\nHost: a\r\nContent-Length: 600000\r\n\r\n", b"x" * 500_000]))
    crowd.act(seconds)


def key_updates(crowd, seconds):
    threads = [threading.Thread(target=flood, args=(crowd.server, i, time.monotonic() + seconds)) for i in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


def flood(server, i, end):
    keys = Path(server.roots).with_name(f"keys-{i}")
    while time.monotonic() < end:
        keys.unlink(missing_ok=True)
        try:
            client = HostileClient(socket.create_connection(("127.0.0.1", server.port)), server.roots, keys)
            while time.monotonic() < end:
                client.send(b"".join(client.key_update() for _ in range(64)))
        except OSError:
            pass  # it has had enough of us: once more


# Name: (interface, options of the server, TLS, the crowd)
HOSTILE = {
    "hoarders": ("asgi", [], False, hoarders),
    "vanished": ("asgi", [], False, vanished),
    "deaf": ("asgi", [], False, deaf),
    "pings": ("asgi", [], False, floods(frame(9, b"x" * 100) * 100)),
    "fragments": ("asgi", [], False, floods(frame(2, b"", fin=False) + frame(0, b"", fin=False) * 4000)),
    "small-messages": ("asgi", [], False, floods(frame(2, b"x") * 4000)),
    "bombs": ("asgi", [], False, floods(bomb())),
    "key-updates": ("asgi", [], True, key_updates),
    "slow-bodies": ("asgi", ["--max-connections", "300", "--rate-window", "1"], False, slow_bodies),
    "bodies": ("wsgi", ["--threads", "4", "--max-connections", "500"], False, bodies),
    "slow-readers": ("wsgi", ["--threads", "4"], False, slow_readers),
}


def worst_case(options, tls):
    """Bytes that clients can make the server hold, by its policy."""
    most = int(options[options.index("--max-connections") + 1])
    return Policy(max_connections=most).worst_case_bytes(tls=tls)


def run(scene, seconds, io, directory):
    """Run one scene. Return its problems."""
    interface, options, tls, attack = HOSTILE[scene]
    if "--max-connections" not in options:
        options = [*options, "--max-connections", "2000"]
    SCENES[scene] = (interface, [*options, "--io", io], "", tls, 1.0)
    server = Server(scene, directory, 1)
    good = [GoodClient(server) for _ in range(2)]
    crowd = Crowd(server)
    highest = 0
    try:
        before, _ = settled(server)
        watcher = threading.Thread(target=attack, args=(crowd, seconds), daemon=True)
        watcher.start()
        for one in good:
            one.start()
        while watcher.is_alive():
            highest = max(highest, resident(server.process.pid))
            watcher.join(0.05)
        for one in good:
            one.is_over.set()
        for one in good:
            one.join(2 * PATIENCE)
        crowd.leave_all()
        after, n_open = settled(server, 90)
    finally:
        status = server.stop()
    log = server.log.read_text("utf-8", "replace")
    allowed = before["resident"] + worst_case(options, tls) + SLACK
    answered, failures = sum(len(one.waits) for one in good), [failure for one in good for failure in one.failures]
    closed = after["stats"]["closed"]
    checks = {
        f"exit status {status}": status == 0,
        f"{len(failures)} good requests failed: {failures[:3]}": not failures,
        f"only {answered} good requests were answered": answered >= 2 * seconds,
        f"{n_open} are still open": n_open <= 1,
        f"check(): {after['check']}": after["check"] is None,
        f"{after['stats']['engine']['buffer_bytes']} bytes lent": after["stats"]["engine"]["buffer_bytes"] <= 32768,
        f"descriptors {before['descriptors']} -> {after['descriptors']}": after["descriptors"] <= before["descriptors"] + 4,
        f"resident up to {highest >> 20} MiB, {allowed >> 20} allowed": highest <= allowed,
    }  # fmt: skip
    problems = [what for what, holds in checks.items() if not holds] + REPORT.findall(log)
    waits = sorted(wait for one in good for wait in one.waits)
    print(f"\n{scene} over {io}: {seconds:.0f} s, {'FAILED' if problems else 'passed'}")
    if waits:
        middle = waits[len(waits) // 2]
        print(f"  good: {answered} answered, {len(failures)} failed; "
              f"waited {1e3 * middle:.1f} ms, {1e3 * waits[-1]:.0f} at worst")  # fmt: skip
    print(f"  resident MiB: {before['resident'] / 2**20:.0f} before, {highest / 2**20:.0f} at most, "
          f"{after['resident'] / 2**20:.0f} after")  # fmt: skip
    print("  closed: " + ", ".join(f"{n:,} {cause}" for cause, n in closed.items() if n))
    for problem in problems:
        print(f"  PROBLEM: {problem}")
    return problems


def resident(pid):
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scene", action="append", choices=list(HOSTILE), help="all unless said")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each scene")
    parser.add_argument("--io", choices=("epoll", "transports"), default="epoll")
    chosen = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    scenes = chosen.scene or list(HOSTILE)
    with tempfile.TemporaryDirectory() as directory:
        failed = [scene for scene in scenes if run(scene, chosen.seconds, chosen.io, directory)]
    print(f"\n{len(scenes) - len(failed)} of {len(scenes)} scenes passed", *failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
