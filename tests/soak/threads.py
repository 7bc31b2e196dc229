"""Servers whose threads work at the same time, asked by many clients while other threads ask the servers how they are: a pool
of WSGI threads, and engines in threads that are replaced meanwhile. Made for Pythons without a GIL; it says whether there
was one.

    python tests/soak/threads.py [--requests 300] [--clients 8]
"""

import argparse
import asyncio
import http.client
import os
import signal
import sys
import threading

import kacore

BIG = 300_000


def wsgi(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/big":
        return (b"x" * 5000 for _ in range(BIG // 5000))
    return [environ["wsgi.input"].read()]


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            if event == "lifespan.startup":
                scope["state"]["thread"] = threading.get_ident()
            await send({"type": event + ".complete"})
            if event == "lifespan.shutdown":
                return
    assert scope["state"]["thread"] == threading.get_ident()
    if scope["path"] == "/big":
        await asyncio.sleep(0)
        body = b"x" * BIG
    else:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
    await send({"type": "http.response.start", "status": 200, "headers": [[b"content-length", str(len(body)).encode()]]})
    await send({"type": "http.response.body", "body": body})


async def handler(request):
    await asyncio.sleep(0)
    return b"x" * BIG if request.path == "/big" else request.body


class Clients:
    """n threads that ask `requests` times each. failures: what went wrong, as text."""

    def __init__(self, port, n, requests):
        self.port, self.requests, self.failures = port, requests, []
        self.n_answered = 0
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.client, args=[k]) for k in range(n)]
        for thread in self.threads:
            thread.start()

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def client(self, k):
        try:
            connection = self.connect()
            for i in range(k, k + self.requests):
                if i % 40 == 39:  # one more client comes, and walks away in the middle of its answer
                    with_half = self.connect()
                    with_half.request("GET", "/big")
                    with_half.sock.recv(10)
                    with_half.close()
                if i % 3 == 0:
                    connection.request("GET", "/big")
                    wanted = b"x" * BIG
                else:
                    wanted = b"y" * (i * 997 % 30_000)
                    connection.request("POST", "/", body=wanted)
                response = connection.getresponse()
                got = response.read()
                if got != wanted:
                    raise AssertionError(f"{len(got)} bytes instead of {len(wanted)}")
                with self.lock:
                    self.n_answered += 1
                if i % 50 == 0 or response.getheader("connection") == "close":
                    connection.close()  # it is opened again by itself
        except Exception as error:
            self.failures.append(f"client {k}, request {i}: {error!r}")

    def join(self):
        for thread in self.threads:
            thread.join()


def look_at(server, is_over):
    while not is_over.wait(0.002):
        server.stats()
        server.connections()
        server.learned()


def with_pool(app, arguments, **options):
    with kacore.serving(app, loop="asyncio", **options) as server:
        is_over = threading.Event()
        lookers = [threading.Thread(target=look_at, args=[server, is_over]) for _ in range(3)]
        for thread in lookers:
            thread.start()
        clients = Clients(server.port, arguments.clients, arguments.requests)
        clients.join()
        is_over.set()
        for thread in lookers:
            thread.join()
        return clients


def with_engines(arguments):
    """In the main thread, which is the engines'; the clients replace them twice and then end them."""
    from kacore.config.options import RunOptions
    from kacore.server.engines import Engines

    policy = kacore.Policy(drain_grace=2.0, drain_spread=0.5)
    found = []
    engines = Engines(
        lambda worker: kacore.Server(asgi, policy=policy, loop="asyncio", worker=worker),
        RunOptions(port=0, loop="asyncio"),
        n=2,
        policy=policy,
        when_ready=lambda: player.start(),
    )

    def play():
        try:
            clients = Clients(engines.listeners[0].port, arguments.clients, arguments.requests)
            for part in (1, 2):
                while clients.n_answered < part * arguments.clients * arguments.requests // 3 and not clients.failures:
                    clients.threads[0].join(0.05)
                os.kill(os.getpid(), signal.SIGHUP)
            clients.join()
            found.append(clients)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    player = threading.Thread(target=play)
    engines.run()
    player.join()
    return found[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--clients", type=int, default=8)
    arguments = parser.parse_args()
    scenes = {
        "WSGI in 8 threads": lambda: with_pool(wsgi, arguments, threads=8),
        "handler": lambda: with_pool(handler, arguments),
        "2 engines": lambda: with_engines(arguments),
    }
    status = 0
    for name, play in scenes.items():
        clients = play()
        print(f"{name}: {clients.n_answered} answers, {len(clients.failures)} failures", *clients.failures[:5], sep="\n  ")
        status |= bool(clients.failures)
    print("with a GIL" if getattr(sys, "_is_gil_enabled", lambda: True)() else "without a GIL")
    return status


if __name__ == "__main__":
    sys.exit(main())
