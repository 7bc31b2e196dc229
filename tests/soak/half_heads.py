"""18,000 clients that each send 60 KiB of a request head and no more, at `kacore serve`, and one good client beside them.

    .venv/bin/python tests/soak/half_heads.py
    .venv/bin/python tests/soak/half_heads.py --clients 4000 --megabytes 16

A process has some 20,000 descriptors at most in many places, so the clients are spread over processes, and over source
addresses for their ports. Nobody closes before all have sent. Printed: the most bytes of buffers lent at any look, the
resident memory of the server before and at most, how the connections ended, and how long the good client waited at most.
Exit status 1: more was lent than max_buffer_bytes, or the good client was not answered.
"""

import argparse
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import soak

HALF = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: %s\r\n" % (i, b"y" * 7600) for i in range(8)) + b"Z" * 559
PER_PROCESS, PER_ADDRESS = 3000, 1500


def be_clients(port, n, first):
    """In a process of its own: connect n sockets and send HALF on each; wait for the end of standard input."""
    raise_limit()
    socks, n_sent = [], 0
    for i in range(n):
        sock = socket.socket()
        sock.bind((f"127.1.{first}.{1 + i // PER_ADDRESS}", 0))
        sock.settimeout(30)
        try:
            sock.connect(("127.0.0.1", port))
            sock.sendall(HALF)
            n_sent += 1
        except OSError:
            pass  # closed for those who came later, while it was still sending
        socks.append(sock)
    print(n_sent, flush=True)
    sys.stdin.read()


def raise_limit():
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=18_000)
    parser.add_argument("--megabytes", type=int, default=64, help="max_buffer_bytes of the server")
    parser.add_argument("--be-clients", type=int, nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.be_clients:
        return be_clients(*chosen.be_clients)
    most = chosen.megabytes << 20
    options = ["--max-connections", str(chosen.clients + 1000), "--max-head-bytes", "65536", "--max-buffer-bytes", str(most)]
    soak.SCENES["half-heads"] = ("asgi", options, "", False, 1.0)
    raise_limit()
    with tempfile.TemporaryDirectory() as directory:
        server = soak.Server("half-heads", directory, 1)
        crowds = []
        try:
            before = server.books()["resident"]
            shares = [min(PER_PROCESS, chosen.clients - at) for at in range(0, chosen.clients, PER_PROCESS)]
            for number, n in enumerate(shares):
                argv = [sys.executable, __file__, "--be-clients", str(server.port), str(n), str(number)]
                crowds.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            watched = Watch(server, before)
            while any(crowd.poll() is None and not watched.has_said(crowd) for crowd in crowds):
                watched.look()
            watched.look()
            n_sent = sum(watched.said.values())
        finally:
            for crowd in crowds:
                crowd.kill()
                crowd.communicate()
            server.stop()
    closed = {cause: n for cause, n in watched.books["stats"]["closed"].items() if n}
    print(f"{chosen.clients:,} clients, {n_sent:,} sent all of {len(HALF):,} bytes of a head; {most >> 20} MiB may be lent")
    print(f"  most lent {watched.lent / (1 << 20):.1f} MiB, most open {watched.n_open:,}, closed {closed}")
    print(f"  resident {before / (1 << 20):.1f} -> {watched.resident / (1 << 20):.1f} MiB")
    print(f"  the good client was answered {watched.n_asked} times, after {watched.slowest * 1e3:.0f} ms at most")
    return 0 if watched.lent <= most and n_sent > 0 else 1


class Watch:
    """The good client: it asks the server about itself, which is its request."""

    def __init__(self, server, resident):
        self.server, self.resident, self.said = server, resident, {}
        self.lent = self.n_open = self.n_asked = 0
        self.slowest = 0.0

    def look(self):
        began = time.monotonic()
        self.books = self.server.books()
        self.slowest, self.n_asked = max(self.slowest, time.monotonic() - began), self.n_asked + 1
        self.lent = max(self.lent, self.books["stats"]["engine"]["buffer_bytes"])
        self.resident = max(self.resident, self.books["resident"])
        self.n_open = max(self.n_open, sum(self.books["stats"]["phases"].values()) - 1)

    def has_said(self, crowd):
        if crowd not in self.said and select.select([crowd.stdout], [], [], 0)[0]:
            self.said[crowd] = int(crowd.stdout.readline() or 0)
        return crowd in self.said


if __name__ == "__main__":
    sys.exit(main())
