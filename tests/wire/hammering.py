"""Clients that go on asking while a server ends or is replaced, and remember every request that got no answer.

Lost is a request that was written on a connection which the client had not been told to close, neither by
`Connection: close` nor by an end of file that it could have seen, and that got no whole answer.
"""

import select
import socket
import threading
import time

# Answers with its process id. /wait says "waits" and answers when there is a file "go"; /die ends the process. With
# STUBBORN=1 its shutdown takes a minute.
APPLICATION = """
import asyncio, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            if event == "lifespan.shutdown" and os.environ.get("STUBBORN"):
                await asyncio.sleep(60)
            await send({"type": event + ".complete"})
            if event == "lifespan.shutdown":
                return
    if scope["path"] == "/die":
        os._exit(9)
    if scope["path"] == "/wait":
        print("waits", flush=True)
        while not os.path.exists("go"):
            await asyncio.sleep(0.005)
    body = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""
REQUEST = b"GET /%d HTTP/1.1\r\nHost: test\r\n\r\n"


class Hammer:
    """`n` threads, each a client. A third keeps its connection and asks without a pause, a third pauses so that its
    connection is idle most of the time, a third opens a connection for each request."""

    def __init__(self, family, address, n=12):
        self.family, self.address = family, address
        self.n_answered = 0
        self.lost, self.refused = [], []
        self.bodies = set()
        self.is_over = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.client, args=[i], daemon=True) for i in range(n)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()

    def answered(self, n, timeout=30):
        """Wait for `n` more answers."""
        end, wanted = time.monotonic() + timeout, self.n_answered + n
        while self.n_answered < wanted:
            assert time.monotonic() < end, f"{self.n_answered} of {wanted} answers; {self.lost=} {self.refused=}"
            time.sleep(0.005)

    def seen(self):
        """Who has answered so far, as a set of its own."""
        with self.lock:
            return set(self.bodies)

    def client(self, number):
        sock, n = None, 0
        while not self.is_over.is_set():
            if sock is None:
                try:
                    sock = socket.socket(self.family, socket.SOCK_STREAM)
                    sock.settimeout(20)
                    sock.connect(self.address)
                except OSError as error:
                    self.refused.append(repr(error))
                    sock.close()
                    sock = None
                    self.is_over.wait(0.05)
                    continue
            n += 1
            if not self.ask(sock, number, n) or number % 3 == 2:
                sock.close()
                sock = None
            elif number % 3 == 1:
                self.is_over.wait(0.01 * number)
        if sock is not None:
            sock.close()

    def ask(self, sock, number, n):
        """Return whether the connection can be used again."""
        if select.select([sock], [], [], 0)[0]:
            return False  # told to close, by FIN
        data = b""
        try:
            sock.sendall(REQUEST % n)
            while b"\r\n\r\n" not in data:
                data += self.receive(sock)
            head, _, body = data.partition(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            while len(body) < int(fields[b"content-length"]):
                body += self.receive(sock)
            assert head.startswith(b"HTTP/1.1 200 "), head
        except (OSError, AssertionError) as error:
            self.lost.append((number, n, repr(error), data))
            return False
        with self.lock:
            self.n_answered += 1
            self.bodies.add(body.decode())
        return fields.get(b"connection") != b"close"

    @staticmethod
    def receive(sock):
        data = sock.recv(65536)
        if not data:
            raise OSError("closed without an answer")
        return data
