"""Clients that POST all the time, each request with an id of its own, and count what got no answer.

Lost is a request that got no whole answer or one of 5xx, and an attempt to connect that was refused. A connection that the
server had closed before a request was sent on it costs nothing: a client sees that, and opens another.
"""

import select
import socket
import threading
import time

REQUEST = b"POST /%s HTTP/1.1\r\nHost: shop.example\r\nContent-Length: %d\r\n\r\n%s"
N_CLIENTS = 9
# A third keep their connection and ask on, a third pause so that their connections are idle for most of the time, and a
# third open a connection for each request.
PAUSES_S = (0.003, 0.05, 0.005)


class Clients:
    """`seen` maps what has answered, (process id, version of the application), to when it did so last."""

    def __init__(self, port):
        self.port = port
        self.n_sent = 0
        self.lost = []  # (seconds since the start, id or None, why)
        self.seen = {}
        self.began = time.monotonic()
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=[i], daemon=True) for i in range(N_CLIENTS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for thread in self._threads:
            thread.join(60)

    def since(self, moment):
        """Who has answered since then."""
        with self._lock:
            return {who for who, when in self.seen.items() if when >= moment}

    def _lose(self, name, why):
        with self._lock:
            self.lost.append((round(time.monotonic() - self.began, 3), name, why))
        self._is_over.wait(0.05)

    def _run(self, number):
        kind, sock, n = number % 3, None, 0
        while not self._is_over.is_set():
            if sock is None:
                try:
                    sock = socket.create_connection(("127.0.0.1", self.port), timeout=30)
                except OSError as error:
                    self._lose(None, repr(error))
                    continue
            if select.select([sock], [], [], 0)[0]:  # closed while it was idle
                sock.close()
                sock = None
                continue
            n += 1
            if not self._ask(sock, f"{number}-{n}") or kind == 2:
                sock.close()
                sock = None
            self._is_over.wait(PAUSES_S[kind])
        if sock is not None:
            sock.close()

    def _ask(self, sock, name):
        """Return whether the connection can be used again."""
        with self._lock:
            self.n_sent += 1
        answer = b""
        try:
            sock.sendall(REQUEST % (name.encode(), len(name), name.encode()))
            while b"\r\n\r\n" not in answer:
                answer += self._receive(sock)
            head, _, body = answer.partition(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            while len(body) < int(fields[b"content-length"]):
                body += self._receive(sock)
        except OSError as error:
            self._lose(name, f"{error!r} after {answer!r}")
            return False
        if not head.startswith(b"HTTP/1.1 200 "):
            self._lose(name, head.decode("latin-1"))
            return False
        said, pid, version = body.decode().split()
        assert said == name, f"{name} got the answer to {said}"
        with self._lock:
            self.seen[int(pid), int(version)] = time.monotonic()
        return fields.get(b"connection") != b"close"

    @staticmethod
    def _receive(sock):
        received = sock.recv(65536)
        if not received:
            raise ConnectionError("closed")
        return received
