"""Thousands of clients, good, slow, broken and vanishing, at `kacore serve` for minutes; then the books are looked at.

    make soak MINUTES=10
    .venv/bin/python tests/soak/soak.py --seconds 20 --scene asgi --scene asgi-faults

Each scene is a server of its own. A good client knows every byte that it may be sent. At the end, when all clients have
left, the server must say of itself: nobody is open, accepted = closed by cause, no buffer lent, no descriptor or task
more than at the start, check() holds; and no good client may have lost a request. With faults, tests/c/faults.c stands
before the system calls of the extension. Loopback only; ends by itself. Exit status 1: something was wrong.
"""

import argparse
import collections
import heapq
import itertools
import json
import os
import random
import re
import resource
import select
import shlex
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # another build of kacore is chosen with PYTHONSAFEPATH
from http2_crowd import Http2Crowd  # noqa: E402
from soak_app import content  # noqa: E402

FAULTS_C = HERE.parent / "c" / "faults.c"
# `make soak ASAN=1` preloads the sanitizers' runtime: it is for the servers, not for this process's other children.
SANITIZER_RUNTIME = os.environ.pop("LD_PRELOAD", "") if "libasan" in os.environ.get("LD_PRELOAD", "") else ""
REPORT = re.compile(r"(?:ERROR: (?:Address|Leak)Sanitizer|runtime error: ).*")

# Name: (interface, options of the server, faults, TLS, share of --connections)
POLICY = ["--keep-alive-timeout", "60", "--handler-timeout", "3", "--linger-timeout", "1", "--request-header-timeout", "30",
          "--first-byte-timeout", "4", "--send-timeout", "5", "--request-body-timeout", "20"]  # fmt: skip
SYSTEM = "recv=20 send=20 accept=20 watch=3 open=50"
SCENES = {
    "asgi": ("asgi", [], "", False, 1.0),
    "wsgi": ("wsgi", [], "", False, 1.0),
    "handler": ("handler", ["--loop", "asyncio"], "", False, 1.0),
    "tls": ("asgi", [], "", True, 0.2),
    "asgi-faults": ("asgi", [], SYSTEM, False, 0.5),
    "wsgi-faults": ("wsgi", [], SYSTEM, False, 0.5),
    "tls-faults": ("asgi", [], SYSTEM, True, 0.1),
    "memory": ("asgi", [], SYSTEM + " memory=3", False, 0.5),
    "full": ("asgi", ["--max-connections", "200"], "", False, 0.25),
    "http2": ("asgi", [], "", False, 0.3),
    "http2-wsgi": ("wsgi", [], "", False, 0.3),
    "http2-tls": ("asgi", [], "", True, 0.1),
}
FAIR = ("good", "keeper", "slow")
GOES_ON, ENDS = "aaaabcefg", "xywh"


class Asked:
    """One request: its bytes, and what must come back."""

    def __init__(self, rng, letters):
        self.letter, self.number = rng.choice(letters), rng.randrange(1_000_000)
        body = content("e", self.number) if self.letter == "e" else b""
        if not body:
            self.text = b"GET /%c%d HTTP/1.1\r\nHost: a\r\n\r\n" % (ord(self.letter), self.number)
        elif rng.random() < 0.5:
            half = len(body) // 2 + 1
            parts = [b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part]
            head = b"POST /e%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" % self.number
            self.text = head + b"".join(parts) + b"0\r\n\r\n"
        else:
            self.text = b"POST /e%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (self.number, len(body)) + body


class Reader:
    """Responses out of bytes."""

    def __init__(self):
        self.buf = b""
        self.head = None
        self.body = b""

    def take(self):
        """(status, body, whether the connection is to close), or None while it is not whole. ValueError: rubbish."""
        if self.head is None:
            head, end, rest = self.buf.partition(b"\r\n\r\n")
            if not end:
                return None
            if not head.startswith(b"HTTP/1.1 "):
                raise ValueError(f"no response: {head[:80]!r}")
            self.buf = rest
            self.head = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            self.status = int(head[9:12])
            self.body = b""
        if b"transfer-encoding" in self.head:
            while True:
                size, end, rest = self.buf.partition(b"\r\n")
                n = int(size, 16) if end else 0
                if not end or len(rest) < n + 2:
                    return None
                self.body += rest[:n]
                self.buf = rest[n + 2 :]
                if n == 0:
                    break
        else:
            n = int(self.head.get(b"content-length", b"0"))
            if len(self.buf) < n:
                return None
            self.body, self.buf = self.buf[:n], self.buf[n:]
        closes = self.head.get(b"connection") == b"close"
        self.head = None
        return self.status, self.body, closes


class Client:
    """A connection with a plan. manner: good, keeper (good, and idle most of the time), slow (good, a few bytes at a
    time), vanishing, rubbish, silent (part of a head), deaf (reads nothing of a large content)."""

    MANNERS = ("good",) * 4 + ("keeper",) * 8 + ("slow", "vanishing", "rubbish", "silent", "deaf")

    def __init__(self, soak, rng):
        self.soak, self.rng = soak, rng
        self.manner = rng.choice(self.MANNERS)
        self.sock = socket.socket()
        self.sock.setblocking(False)
        if self.manner in ("slow", "deaf"):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.bind((f"127.0.0.{rng.randrange(2, 200)}", 0))  # ports run out on one address
        self.sock.connect_ex(("127.0.0.1", soak.port))
        self.fd = self.sock.fileno()
        self.plan = collections.deque(self.rounds())
        self.waiting = collections.deque()  # asked, not answered
        self.out = b""
        self.reader = Reader()
        self.n_answered = 0
        self.is_told = self.is_leaving = self.is_reset = False
        self.error = "end of file"
        self.has_asked = 0  # bytes of the current round that are with the kernel
        self.shaking = soak.tls is not None
        self.born = time.monotonic()

    def rounds(self):
        rng, goes_on = self.rng, "aacg" if self.manner == "slow" else GOES_ON
        if self.manner == "deaf":
            return [[Asked(rng, "b") for _ in range(8)]]
        n = rng.randrange(2, 6) if self.manner == "keeper" else rng.randrange(1, 4)
        rounds = [[Asked(rng, goes_on) for _ in range(rng.choice((1, 1, 1, 2, 8)))] for _ in range(n)]
        if rng.random() < 0.3:
            rounds.append([Asked(rng, self.soak.ends)])
        return rounds

    # -- saying -----------------------------------------------------------------------------------------

    def next_round(self):
        if not self.plan:
            return False
        asked = self.plan.popleft()
        text = b"".join(one.text for one in asked)
        if self.manner == "silent":
            text = text[: self.rng.randrange(1, 20)]
        elif self.manner == "rubbish":
            text = bytearray(text)
            for _ in range(3):
                text[self.rng.randrange(min(len(text), 300))] = self.rng.randrange(256)
        else:
            self.waiting.extend(asked)
        self.out = bytes(text)
        self.has_asked = 0
        return True

    def say(self):
        """Return whether it stays."""
        if self.shaking:
            if not isinstance(self.sock, ssl.SSLSocket):
                self.sock = self.soak.tls.wrap_socket(self.sock, server_hostname="localhost", do_handshake_on_connect=False)
            try:
                self.sock.do_handshake()
            except ssl.SSLWantReadError:
                self.soak.watch(self, False)
                return True
            self.shaking = False
            self.soak.watch(self, True)
        if self.out or (not self.waiting and self.n_answered == 0 and self.next_round()):
            piece = self.rng.randrange(1, 40) if self.manner == "slow" else 1 << 20
            try:
                sent = self.sock.send(self.out[:piece])
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return True
            self.has_asked += sent
            self.out = self.out[sent:]
            if self.out and self.manner == "slow":
                self.soak.watch(self, False)
                self.soak.later(self, 0.02, "resume")
                return True
        if not self.out:
            self.soak.watch(self, False)
            if self.manner == "vanishing":
                self.soak.later(self, self.rng.random() * 0.05, "vanish")
        return True

    # -- hearing ----------------------------------------------------------------------------------------

    def hear(self):
        if self.shaking:
            return self.say()
        if self.manner == "deaf":
            self.soak.unwatch(self)
            return True
        while True:
            try:
                data = self.sock.recv(2000 if self.manner == "slow" else 1 << 18)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return True
            if not data:
                return False
            self.reader.buf += data
            if self.manner in ("rubbish", "vanishing", "silent"):
                self.reader.buf = b""
                continue
            while (response := self.reader.take()) is not None:
                if not self.judge(*response):
                    return False
            if self.manner == "slow":
                self.soak.unwatch(self)
                self.soak.later(self, 0.01, "resume")
                return True

    def judge(self, status, body, closes):
        """One response. Return whether more are expected."""
        if not self.waiting:
            raise ValueError(f"{status} to no request")
        asked = self.waiting.popleft()
        self.n_answered += 1
        self.is_told = closes
        self.soak.count["answers"] += 1
        expected = {"x": (500,), "w": (200, 500), "y": (200, 500), "h": (503,)}.get(asked.letter, (200,))
        if status == 503 and self.n_answered == 1 and closes and not body:
            self.soak.count["turned away"] += 1
            self.waiting.clear()
            return False
        if status == 500 and self.soak.may_fail:
            self.soak.count["500 for want of memory"] += 1
        elif status not in expected:
            raise ValueError(f"{status} to {asked.letter}")
        if status == 200 and asked.letter not in "hw" and body != content(asked.letter, asked.number):
            raise ValueError(f"{len(body)} wrong bytes to {asked.letter}{asked.number}")
        if closes:
            self.waiting.clear()
            return False
        if not self.waiting:
            if not self.plan:
                return False
            self.soak.later(self, self.rng.uniform(0.5, 8) if self.manner == "keeper" else 0.01, "ask")
        return True

    # -- leaving ----------------------------------------------------------------------------------------

    def lost(self):
        """Whether a request that it was right to expect an answer to has none."""
        if self.manner not in FAIR or not self.waiting:
            return False
        first = self.waiting[0]
        return first.letter not in ENDS and not (self.n_answered and self.is_told) and self.has_asked > 0

    def act(self, what):
        if what == "ask":
            self.next_round()
        if what == "vanish":
            self.is_reset = self.rng.random() < 0.5
            return False
        self.soak.watch(self, bool(self.out))
        return what != "resume" or self.hear()  # what waits inside TLS shows in no event

    def close(self):
        if self.is_reset or self.rng.random() < 0.1:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Soak:
    """Clients of one server, in one thread."""

    def __init__(self, server, seed):
        self.may_fail = False
        self.port, self.tls, self.ends = server.port, server.tls, server.ends
        self.rng = random.Random(seed)
        self.count = collections.Counter()
        self.problems, self.samples = [], []
        self.clients = {}
        self.poll = select.epoll()
        self.heap, self.tick = [], itertools.count()

    def watch(self, client, writes):
        try:
            self.poll.modify(client.fd, select.EPOLLIN | (select.EPOLLOUT if writes else 0))
        except OSError:
            self.poll.register(client.fd, select.EPOLLIN | (select.EPOLLOUT if writes else 0))

    def unwatch(self, client):
        self.poll.modify(client.fd, 0)

    def later(self, client, seconds, what):
        heapq.heappush(self.heap, (time.monotonic() + seconds, next(self.tick), client, what))

    def step(self, client, act):
        try:
            stays = act()
        except ValueError as error:
            stays = client.manner == "rubbish" and self.leave(client)
            if client.manner != "rubbish":
                self.problems.append(f"{client.manner}: {error}")
        except OSError as error:
            client.error, stays = repr(error), False
        if not stays:
            self.leave(client)

    def leave(self, client):
        if self.clients.pop(client.fd, None) is not client:
            return False
        if client.lost():
            self.count["lost"] += 1
            first = client.waiting[0].letter
            self.samples.append(f"{client.manner} {first} after {client.n_answered}, {client.has_asked} sent: {client.error}")
        self.count["good connections" if client.manner in FAIR else "other connections"] += 1
        client.close()
        return False

    def run(self, seconds, n):
        """At most n at once, for so long; then until those who came have gone, but no longer than that takes."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end + 20 and (now < end or self.clients):
            for _ in range(min(50, n - len(self.clients)) if now < end else 0):
                client = Client(self, self.rng)
                self.clients[client.fd] = client
                self.poll.register(client.fd, select.EPOLLIN | select.EPOLLOUT)
            self.count["most at once"] = max(self.count["most at once"], len(self.clients))
            for fd, events in self.poll.poll(0.01, 512):
                client = self.clients.get(fd)
                if client is None:
                    continue
                if events & select.EPOLLOUT and not events & (select.EPOLLERR | select.EPOLLHUP):
                    self.step(client, client.say)
                if events & ~select.EPOLLOUT and self.clients.get(fd) is client:
                    self.step(client, client.hear)
            while self.heap and self.heap[0][0] <= time.monotonic():
                _, _, client, what = heapq.heappop(self.heap)
                if self.clients.get(client.fd) is client:
                    self.step(client, lambda client=client, what=what: client.act(what))
            if now > end:
                for client in list(self.clients.values()):
                    if client.manner not in FAIR or (client.manner == "keeper" and not client.waiting):
                        self.leave(client)
        for client in list(self.clients.values()):
            if client.manner in FAIR and client.waiting:
                self.problems.append(f"{client.manner}: waits for {client.waiting[0].letter} since ever")
            self.leave(client)


def faults_library(directory):
    path = Path(directory, "faults.so")
    if not path.exists():
        flags = ["-shared", "-fPIC", "-O2", "-std=gnu11", "-DFAULTS_PRELOAD"]
        flags += ["-DFAULTS_SPARE_MEMORY"] * bool(SANITIZER_RUNTIME)
        subprocess.run([*shlex.split(os.environ.get("CC", "cc")), *flags, str(FAULTS_C), "-o", str(path), "-ldl"], check=True)
    return str(path)


class Server:
    """`kacore serve` in a process of its own, with its log in a file."""

    def __init__(self, scene, directory, seed):
        interface, options, faults, tls, _ = SCENES[scene]
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        preload = [faults_library(directory)] * bool(faults) + [SANITIZER_RUNTIME] * bool(SANITIZER_RUNTIME)
        if preload:
            env["LD_PRELOAD"] = ":".join(preload)
            env["ASAN_OPTIONS"] = env.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
        if faults:
            env["FAULTS"] = f"seed={seed} {faults}"
        self.tls = None
        self.ends = ENDS.replace("h", "") if interface == "wsgi" else ENDS  # four that hang would hold all its threads
        if tls:
            import trustme

            ca = trustme.CA()
            pem = Path(directory, "localhost.pem")
            ca.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
            options = [*options, "--ssl-certfile", str(pem)]
            self.roots = str(Path(directory, f"{scene}-roots.pem"))
            ca.cert_pem.write_to_path(self.roots)
            self.tls = ssl.create_default_context()
            ca.configure_trust(self.tls)
        if "--max-connections" not in options:
            options = [*options, "--max-connections", "10000"]
        self.log = Path(directory, f"{scene}.log")
        argv = [sys.executable, "-X", "faulthandler", "-m", "kacore", "serve", f"soak_app:{interface}"]
        argv += ["--app-dir", str(HERE), "--interface", interface, "--port", "0", *POLICY, *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(argv, env=env, stdout=log, stderr=log, cwd=directory)
        end = time.monotonic() + 60
        while not (match := re.search(r"https?://[^\s/]+:([1-9][0-9]*)", self.log.read_text("utf-8", "replace"))):
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{scene} did not start:\n{self.log.read_text()}")
            time.sleep(0.05)
        self.port = int(match[1])

    def books(self):
        """What it says of itself; with faults a request can be turned away, so it is asked again."""
        for attempt in range(20):
            try:
                url = f"http{'s' if self.tls else ''}://{'localhost' if self.tls else '127.0.0.1'}:{self.port}/books"
                request = urllib.request.Request(url, headers={"Connection": "close"})
                with urllib.request.urlopen(request, timeout=10, context=self.tls) as response:
                    return json.loads(response.read())
            except (OSError, ValueError):
                time.sleep(0.1 * attempt)
        raise SystemExit(f"the server does not answer any more:\n{self.log.read_text('utf-8', 'replace')[-3000:]}")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def settled(server, seconds=40):
    """The books when all who were there have gone: their time limits end the last of them."""
    end = time.monotonic() + seconds
    while True:
        books = server.books()
        n_open = sum(books["stats"]["phases"].values())
        if n_open <= 1 or time.monotonic() > end:
            return books, n_open
        time.sleep(0.2)


def soak(scene, seconds, connections, seed, directory, rounds=1):
    """Run one scene. Return its problems."""
    _, _, faults, _, share = SCENES[scene]
    lacks_memory = "memory=" in faults
    crowd_of = Http2Crowd if scene.startswith("http2") else Soak
    server = Server(scene, directory, seed)
    problems = []
    try:
        warm = crowd_of(server, seed + 1)
        warm.may_fail = lacks_memory
        warm.run(min(3, seconds / 4), max(20, int(connections * share / 4)))
        before, n_open = settled(server)
        crowd = crowd_of(server, seed)
        crowd.may_fail = warm.may_fail
        resident = [before["resident"]]
        for _ in range(rounds):
            crowd.run(seconds / rounds, max(20, int(connections * share)))
            after, n_open = settled(server)
            resident.append(after["resident"])
    finally:
        status = server.stop()
    log = server.log.read_text("utf-8", "replace")
    stats, closed = after["stats"], after["stats"]["closed"]
    n_closed = sum(closed.values())
    # Whose place was needed, or who could not be let in, may have asked at that very moment.
    n_may_lose = closed["evicted"] + closed["rejected"] if faults or scene == "full" else 0
    if lacks_memory:
        n_may_lose += crowd.count["answers"] // 50
    problems += crowd.problems[:5] + warm.problems[:5] + REPORT.findall(log)
    checks = {
        f"exit status {status}": status == 0,
        f"{n_open} are still open": n_open <= 1,
        f"accepted {stats['accepted']}, closed {n_closed}, open {n_open}": stats["accepted"] == n_closed + n_open,
        f"check(): {after['check']}": after["check"] is None,
        f"{stats['engine']['buffer_bytes']} bytes of buffers lent": stats["engine"]["buffer_bytes"] <= 32768,
        f"{stats['engine']['talks']} talks": stats["engine"]["talks"] <= 1,
        f"descriptors {before['descriptors']} -> {after['descriptors']}": after["descriptors"] <= before["descriptors"] + 4,
        f"tasks {before['tasks']} -> {after['tasks']}": after["tasks"] <= before["tasks"] + 64,
        f"{crowd.count['lost']} requests lost": crowd.count["lost"] <= n_may_lose,
        f"only {crowd.count['answers']} answers": crowd.count["answers"] > 20,
        f"memory grows with every crowd: {resident}": rounds < 4 or resident[-1] < 1.1 * resident[-3],
    }  # fmt: skip
    problems += [what for what, holds in checks.items() if not holds]
    print(f"\n{scene}: {seconds:.0f} s, seed {seed}, {'FAILED' if problems else 'passed'}")
    print("  clients: " + ", ".join(f"{n:,} {what}" for what, n in sorted(crowd.count.items())))
    print(f"  server: accepted {stats['accepted']:,}, requests {stats['requests']:,}, races {stats['races']}, "
          f"CPU {after['cpu'] - before['cpu']:.1f} s")  # fmt: skip
    print("    resident MiB: " + " -> ".join(f"{n / (1 << 20):.1f}" for n in resident))
    for name in ("descriptors", "tasks"):
        print(f"    {name}: {before[name]} -> {after[name]}")
    print("  closed: " + ", ".join(f"{n:,} {cause}" for cause, n in closed.items() if n))
    for line in re.findall(r"faults made: .*", log):
        print(f"  {line}")
    for sample in crowd.samples[:5]:
        print(f"  lost by {sample}")
    for problem in problems:
        print(f"  PROBLEM: {problem}")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scene", action="append", choices=list(SCENES), help="all unless said")
    parser.add_argument("--minutes", type=float, help="of clients coming, all scenes together")
    parser.add_argument("--seconds", type=float, default=10.0, help="the same for each scene")
    parser.add_argument("--connections", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=1, help="crowds that come and leave in that time; memory after each")
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1 << 30))
    chosen = parser.parse_args()
    scenes = chosen.scene or list(SCENES)
    seconds = chosen.minutes * 60 / len(scenes) if chosen.minutes else chosen.seconds
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as directory:
        how = (seconds, chosen.connections, chosen.seed, directory, chosen.rounds)
        failed = [scene for scene in scenes if soak(scene, *how)]
    print(f"\n{len(scenes) - len(failed)} of {len(scenes)} scenes passed", *failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
