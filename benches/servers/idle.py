"""Clients that hold kept-alive connections open, in a process of their own: each process has its own descriptors.

    idle.py PORT [tls] [h2]    then one number a line on stdin: hold so many connections; answers "ok" or why not

Every connection has made one request. Many source addresses of the loopback net are used: ports run out on one.
"""

import resource
import socket
import ssl
import struct
import subprocess
import sys
import time
from pathlib import Path

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
N_SOURCES = 100
BROWSER = {
    "sec-ch-ua": '"Chromium";v="130", "Not?A_Brand";v="99"',
    "sec-ch-ua-mobile": "?0",
    "sec-ch-ua-platform": '"Linux"',
    "upgrade-insecure-requests": "1",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36",
    "accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
    "sec-fetch-site": "none",
    "sec-fetch-mode": "navigate",
    "sec-fetch-user": "?1",
    "sec-fetch-dest": "document",
    "accept-encoding": "gzip, deflate, br, zstd",
    "accept-language": "en-GB,en;q=0.9",
    "cookie": "session=4f1c2b7a9d8e4f60b3a2; theme=dark",
}


class Idle:
    """The process, as the bench sees it."""

    def __init__(self, port: int, cores: str, tls: bool = False, h2: bool = False) -> None:
        command = ["taskset", "-c", cores, sys.executable, str(Path(__file__).resolve()), str(port)]
        command += [word for word, is_asked in (("tls", tls), ("h2", h2)) if is_asked]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def hold(self, n: int) -> None:
        self.process.stdin.write(f"{n}\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline().strip()
        if said != "ok":
            raise OSError(said or "the holder of idle connections ended")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def string(text: str) -> bytes:
    """RFC 7541 5.2, without Huffman; none here is longer than two such prefixes say."""
    n = len(text)
    return (bytes([n]) if n < 127 else bytes([127, n - 127])) + text.encode()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack("!IBI", len(payload) << 8 | kind, flags, stream) + payload


def ask_by_http2(sock: socket.socket) -> None:
    """One request, every field for the table of the other side; until the whole answer is here, then nothing."""
    block = b"\x82\x86\x84\x41" + string("127.0.0.1")  # GET http / by their numbers, and :authority
    block += b"".join(b"\x40" + string(name) + string(value) for name, value in BROWSER.items())
    sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 5, 1, block))
    got, is_over = b"", False
    while not is_over:
        got += (piece := sock.recv(65536))
        if not piece:
            raise OSError("the connection ended before its answer")
        while len(got) >= 9 and len(got) >= 9 + int.from_bytes(got[:3], "big"):
            kind, flags, size = got[3], got[4], int.from_bytes(got[:3], "big")
            is_over |= kind == 0 and flags & 1 == 1
            if kind == 4 and not flags & 1:
                sock.sendall(frame(4, 1, 0, b""))
            elif kind in (3, 7):
                raise OSError("a request on a new connection was not answered")
            got = got[9 + size :]


def connect(port: int, number: int, context: ssl.SSLContext | None, h2: bool) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(f"127.0.0.{2 + number % N_SOURCES}", 0))
    if context:
        sock = context.wrap_socket(sock)
    if h2:
        ask_by_http2(sock)
        return sock
    sock.sendall(REQUEST)
    if not sock.recv(4096).startswith(b"HTTP/1.1 200"):
        raise OSError("a request on a new connection was not answered with 200")
    return sock


def main() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    port = int(sys.argv[1])
    h2 = "h2" in sys.argv[2:]
    context = ssl._create_unverified_context() if "tls" in sys.argv[2:] else None
    if context and h2:
        context.set_alpn_protocols(["h2"])
    held: list[socket.socket] = []
    for line in sys.stdin:
        said = "ok"
        try:
            while len(held) < int(line):
                held.append(connect(port, len(held), context, h2))
            while len(held) > int(line):
                held.pop().close()
        except OSError as error:
            said = f"at {len(held)} connections: {error}"
        time.sleep(0.2)
        print(said, flush=True)


if __name__ == "__main__":
    main()
