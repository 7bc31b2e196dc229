"""What does each way of sending 1 MiB from memory cost the server, in microseconds of CPU a response?

A server of a few lines for each way, its client wrk on another core; nothing of kacore is in it. It tells what the
kernel charges, and so how near to nginx's `sendfile` a response from memory can come. docs/performance.md has what
follows from it.

    make bench-send                                   # three minutes; needs wrk and taskset, Linux
    make bench-send ARGS='--rounds 5 --connections 64'

send:      one send(), which copies.
zerocopy:  send() with MSG_ZEROCOPY; on loopback the kernel copies all the same when it delivers, and says so.
vmsplice:  pages of the process are lent to the socket through a pipe. Nothing tells when they are free again.
sendfile:  of a file in the page cache, as nginx does it.
... pieces, small buffer, little unsent: no more than 128 KiB at a time, by the call, by SO_SNDBUF, by TCP_NOTSENT_LOWAT.
... made:  the content is written anew for each response; with vmsplice its pages are given away afterwards
           (MADV_DONTNEED), the only way to use the memory again without a client seeing it.
"""

import argparse
import ctypes
import mmap
import os
import re
import resource
import select
import signal
import socket
import statistics
import subprocess
import sys
import time

SIZE = 1 << 20
SO_ZEROCOPY, MSG_ZEROCOPY, MSG_ERRQUEUE = 60, 0x4000000, 0x2000
TCP_NOTSENT_LOWAT = 25
SPLICE_F_NONBLOCK, F_SETPIPE_SZ = 2, 1031
HEAD = f"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {SIZE}\r\n\r\n".encode()
PIECE = 128 * 1024
OPTIONS = {
    "small buffer": (socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE),
    "little unsent": (socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, PIECE),
}
WAYS = ("send", "send, pieces", *(f"send, {option}" for option in OPTIONS), "zerocopy", "vmsplice", "sendfile", "send, made",
        "vmsplice, made")  # fmt: skip


class IOVector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class Content:
    """SIZE bytes in pages of their own."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.view = memoryview(self.memory)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.make()

    def make(self) -> None:
        self.memory[:] = PATTERN


PATTERN = b"x" * SIZE


class Way:
    """How one response's content is sent. put: from a place on, as send(); BlockingIOError when the kernel is full."""

    def __init__(self, name: str) -> None:
        self.name, _, how = name.partition(", ")
        self.is_made = how == "made"
        self.most = PIECE if how == "pieces" else SIZE
        self.options = [(socket.SOL_SOCKET, SO_ZEROCOPY, 1)] if name == "zerocopy" else []
        self.options += [OPTIONS[how]] if how in OPTIONS else []
        self.shared = Content()
        self.free: list[Content] = []
        self.of: dict[int, Content] = {}
        self.n_copied = 0
        self.file = os.memfd_create("content")
        os.write(self.file, PATTERN)
        self.pipe = os.pipe2(os.O_NONBLOCK)
        self.nowhere = os.open(os.devnull, os.O_WRONLY)
        if self.name == "vmsplice":
            import fcntl

            fcntl.fcntl(self.pipe[0], F_SETPIPE_SZ, SIZE)
        self.put = getattr(self, self.name)
        self.vmsplice_of_libc = ctypes.CDLL(None, use_errno=True).vmsplice

    def begin(self, sock: socket.socket) -> None:
        """As an application does that allocates the content: mostly the memory of the one before."""
        if self.is_made:
            content = self.of[sock.fileno()] = self.free.pop() if self.free else Content()
            content.make()

    def end(self, sock: socket.socket) -> None:
        if self.is_made:
            content = self.of.pop(sock.fileno())
            self.free.append(content)
            if self.name == "vmsplice":
                content.memory.madvise(mmap.MADV_DONTNEED)

    def content(self, sock: socket.socket) -> Content:
        return self.of[sock.fileno()] if self.is_made else self.shared

    def send(self, sock: socket.socket, at: int) -> int:
        return sock.send(self.content(sock).view[at : at + self.most])

    def zerocopy(self, sock: socket.socket, at: int) -> int:
        return sock.send(self.content(sock).view[at:], MSG_ZEROCOPY)

    def sendfile(self, sock: socket.socket, at: int) -> int:
        return os.sendfile(sock.fileno(), self.file, at, SIZE - at)

    def vmsplice(self, sock: socket.socket, at: int) -> int:
        """The pipe is empty between two calls: what the socket did not take is thrown away and lent again."""
        piece = IOVector(self.content(sock).address + at, SIZE - at)
        lent = self.vmsplice_of_libc(self.pipe[1], ctypes.byref(piece), ctypes.c_ulong(1), SPLICE_F_NONBLOCK)
        if lent < 0:
            raise OSError(ctypes.get_errno(), "vmsplice")
        taken = 0
        try:
            taken = os.splice(self.pipe[0], sock.fileno(), lent, flags=SPLICE_F_NONBLOCK)
        finally:
            while lent > taken:
                lent -= os.splice(self.pipe[0], self.nowhere, lent - taken)
        return taken

    def notices(self, sock: socket.socket) -> None:
        """MSG_ZEROCOPY's, from the error queue. Byte 6 of a sock_extended_err, ee_code, is 1 when it was copied."""
        while True:
            try:
                _, notes, *_ = sock.recvmsg(0, 128, MSG_ERRQUEUE)
            except BlockingIOError:
                return
            self.n_copied += sum(note[2][6] for note in notes)


def serve(way: Way, listener: socket.socket) -> int:
    """Answer every request until SIGTERM. Return: the number of responses."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    socks: dict[int, socket.socket] = {}
    left: dict[int, int] = {}
    n = 0
    while not ended:
        for fd, events in poll.poll(0.1):
            if fd == listener.fileno():
                sock, _ = listener.accept()
                sock.setblocking(False)
                for option in way.options:
                    sock.setsockopt(*option)
                socks[sock.fileno()] = sock
                mask = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
                poll.register(sock, mask)
                continue
            sock = socks[fd]
            if events & select.EPOLLERR:
                way.notices(sock)
            try:
                if events & select.EPOLLIN and fd not in left:
                    if not sock.recv(65536):
                        raise ConnectionResetError
                    way.begin(sock)
                    sock.send(HEAD, socket.MSG_MORE)
                    left[fd] = SIZE
                while left.get(fd):
                    left[fd] -= way.put(sock, SIZE - left[fd])
                if left.pop(fd, None) == 0:
                    way.end(sock)
                    n += 1
            except BlockingIOError:
                continue
            except OSError:
                del socks[fd]
                left.pop(fd, None)
                sock.close()
    return n


def measure(name: str, n_connections: int, seconds: int) -> tuple[float, int]:
    """CPU microseconds of a response, and how many notices said that the kernel had copied."""
    cores = sorted(os.sched_getaffinity(0))
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        port = listener.getsockname()[1]
        answer, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.sched_setaffinity(0, cores[:1])
            way = Way(name)
            before = resource.getrusage(resource.RUSAGE_SELF)
            n = serve(way, listener)
            after = resource.getrusage(resource.RUSAGE_SELF)
            spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            os.write(told, f"{spent / n * 1e6} {way.n_copied}".encode())
            os._exit(0)
    command = f"taskset -c {cores[-1]} wrk -t1 -c{n_connections} -d{seconds}s http://127.0.0.1:{port}/"
    try:
        done = subprocess.run(command.split(), capture_output=True, text=True, timeout=seconds + 20, check=True)
        if re.search("Non-2xx|Socket errors", done.stdout):
            raise SystemExit(f"{name}: {done.stdout}")
    finally:
        os.kill(pid, signal.SIGTERM)
        os.close(told)
        figures = os.read(answer, 100).split()
        os.close(answer)
        os.waitpid(pid, 0)
    return float(figures[0]), int(figures[1])


def copy_speed(n_mebibytes: int) -> float:
    """Microseconds to copy 1 MiB, going round in memory of so many."""
    ring = memoryview(bytearray(n_mebibytes * SIZE))
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for i in range(256):
            at = i % n_mebibytes * SIZE
            ring[at : at + SIZE] = PATTERN
        best = min(best, (time.process_time() - began) / 256)
    return best * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=1)
    parser.add_argument("--connections", type=int, nargs="*", default=[4, 64])
    chosen = parser.parse_args()
    print("copying 1 MiB into memory of so many MiB, us: ", end="")
    print(", ".join(f"{n}: {copy_speed(n):.0f}" for n in (1, 8, 64)))
    for n_connections in chosen.connections:
        found: dict[str, list[float]] = {name: [] for name in WAYS}
        copied = dict.fromkeys(WAYS, 0)
        for _ in range(chosen.rounds):
            for name in WAYS:
                spent, n_copied = measure(name, n_connections, chosen.seconds)
                found[name].append(spent)
                copied[name] += n_copied
        print(f"\n{n_connections} connections: us of CPU a response, median (best); median ratio to sendfile in a round")
        for name in WAYS:
            ratio = statistics.median(a / b for a, b in zip(found[name], found["sendfile"], strict=True))
            note = f", {copied[name]} times told that it was copied" if copied[name] else ""
            print(f"  {name:<20}{statistics.median(found[name]):6.0f} ({min(found[name]):.0f}), {ratio:.2f}{note}")


if __name__ == "__main__":
    if not sys.platform.startswith("linux"):
        sys.exit("bench_send: these ways are Linux's")
    main()
