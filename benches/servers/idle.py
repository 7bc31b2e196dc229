"""Clients that hold kept-alive connections open, in a process of their own: each process has its own descriptors.

    idle.py PORT [tls]    then one number a line on stdin: hold so many connections; answers "ok" or why not

Every connection has made one request. Many source addresses of the loopback net are used: ports run out on one.
"""

import resource
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
N_SOURCES = 100


class Idle:
    """The process, as the bench sees it."""

    def __init__(self, port: int, cores: str, tls: bool = False) -> None:
        command = ["taskset", "-c", cores, sys.executable, str(Path(__file__).resolve()), str(port)]
        self.process = subprocess.Popen(
            [*command, *(["tls"] if tls else [])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

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


def connect(port: int, number: int, context: ssl.SSLContext | None) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(f"127.0.0.{2 + number % N_SOURCES}", 0))
    if context:
        sock = context.wrap_socket(sock)
    sock.sendall(REQUEST)
    if not sock.recv(4096).startswith(b"HTTP/1.1 200"):
        raise OSError("a request on a new connection was not answered with 200")
    return sock


def main() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    port = int(sys.argv[1])
    context = ssl._create_unverified_context() if sys.argv[2:] == ["tls"] else None
    held: list[socket.socket] = []
    for line in sys.stdin:
        said = "ok"
        try:
            while len(held) < int(line):
                held.append(connect(port, len(held), context))
            while len(held) > int(line):
                held.pop().close()
        except OSError as error:
            said = f"at {len(held)} connections: {error}"
        time.sleep(0.2)
        print(said, flush=True)


if __name__ == "__main__":
    main()
