"""How many milliseconds after their time are hundreds of idle connections closed, and how long do a burst of newcomers and
one client more than a full server holds wait for their answer?

    make bench-deadlines
    make bench-deadlines ARGS='--connections 2000 --timeout 5'

A connection's time begins when the server has handed its response to the kernel; what is known here is when it was received,
a little later. So an error may be below zero by that little. The requests are made one after the other, a millisecond apart.
"""

import argparse
import contextlib
import os
import resource
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
APPLICATION = """
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""


@contextlib.contextmanager
def serving(*options):
    """The port of `kacore serve` on another core, with these options."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "app.py").write_text(APPLICATION)
        argv = [sys.executable, "-m", "kacore", "serve", "app:app", "--port", "0", "--lifespan", "off", *options]
        process = subprocess.Popen(argv, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            for line in process.stdout:
                if "http://" in line:
                    yield int(line.partition("http://")[2].split()[0].rpartition(":")[2].strip("/,"))
                    break
        finally:
            process.terminate()
            process.wait(20)


def connect(n, port):
    socks = []
    for i in range(n):
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((f"127.0.0.{2 + i % 100}", 0))
        sock.connect_ex(("127.0.0.1", port))
        socks.append(sock)
    return socks


def ask_in_turn(n, port):
    """n idle connections; when the response of each was received, by descriptor."""
    socks, answered = [], {}
    for i in range(n):
        sock = socket.create_connection(("127.0.0.1", port), 10, source_address=(f"127.0.0.{2 + i % 100}", 0))
        sock.sendall(REQUEST)
        sock.recv(4096)
        answered[sock.fileno()] = time.perf_counter()
        socks.append(sock)
        time.sleep(0.001)
    return socks, answered


def ends(socks, timeout):
    poll, closed = select.epoll(), {}
    for sock in socks:
        poll.register(sock.fileno(), select.EPOLLIN | select.EPOLLONESHOT)
    end = time.perf_counter() + timeout
    while len(closed) < len(socks) and time.perf_counter() < end:
        for fd, _ in poll.poll(0.1, 64):
            closed[fd] = time.perf_counter()
    poll.close()
    return closed


def ask_at_once(socks, timeout):
    """Ask on each as soon as it is connected; when each was answered."""
    poll, answered = select.epoll(), []
    by_fd = {sock.fileno(): sock for sock in socks}
    for fd in by_fd:
        poll.register(fd, select.EPOLLOUT)
    end = time.perf_counter() + timeout
    while len(answered) < len(socks) and time.perf_counter() < end:
        for fd, events in poll.poll(0.01, 4096):
            if events & select.EPOLLOUT:
                by_fd[fd].send(REQUEST)
                poll.modify(fd, select.EPOLLIN)
            elif by_fd[fd].recv(4096):
                answered.append(time.perf_counter())
                poll.unregister(fd)
    poll.close()
    return answered


def tell(what, values):
    values = sorted(values)
    middle = statistics.median(values)
    print(f"{what}:\n    first {values[0]:+.2f} ms, median {middle:+.2f} ms, last {values[-1]:+.2f} ms of {len(values)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--timeout", type=float, default=2.0)
    parser.add_argument("--burst", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
    for _ in range(chosen.rounds):
        with serving("--keep-alive-timeout", str(chosen.timeout), "--max-connections", "20000") as port:
            socks, answered = ask_in_turn(chosen.connections, port)
            closed = ends(socks, chosen.timeout + 5)
            late = [(closed[fd] - answered[fd] - chosen.timeout) * 1e3 for fd in closed]
            tell(f"idle for {chosen.timeout} s, closed by", late)
    for _ in range(chosen.rounds):
        with serving("--max-connections", "20000") as port:
            began = time.perf_counter()
            socks = connect(chosen.burst, port)
            took = time.perf_counter() - began
            answered = [(at - began) * 1e3 for at in ask_at_once(socks, 10)]
            tell(f"connected in one burst of {took * 1e3:.0f} ms, answered after", answered)
    full = ["--max-connections", "1000", "--pressure-start", "1", "--pressure-full", "1"]
    with serving(*full) as port:
        held = connect(1000, port)
        ask_at_once(held, 10)
        waits = []
        for _ in range(50):
            began = time.perf_counter()
            sock = socket.create_connection(("127.0.0.1", port), 10)
            sock.sendall(REQUEST)
            sock.recv(4096)
            waits.append((time.perf_counter() - began) * 1e3)
            held.append(sock)
        tell("full with 1,000 idle, one more answered after", waits)


if __name__ == "__main__":
    main()
