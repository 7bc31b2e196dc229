"""The process beside the workers that serves the admin listener of a parent: `Reporter` in the parent, `report` in the
child.

A process of its own, since it has to answer when every worker is busy, costs the workers nothing however many look, and
keeps what it has seen while they are replaced. It never imports the application and does not have its listeners. The parent
opens the admin listener and keeps it, so that nobody is refused while the process is started anew.

The parent tells it over a socket pair: "worker SLOT PAGE" (with a descriptor: the socket that this process answers on, see
asked.py), "ending" (the workers are told to end), "reopen" (the log files). End of file means that the parent is gone, or
has no use for it any more.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import signal
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from kacore.config.options import RunOptions
from kacore.policy import Policy
from kacore.server import signals

if TYPE_CHECKING:
    from kacore.server.overview import Workers

IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
# Seconds between two starts, and until one that is of no use any more is killed.
RESTART_AFTER, KILL_AFTER = 1.0, 2.0


class Known(Protocol):
    """A worker process, as the parent has it. asks: our end of the socket that it answers on."""

    slot: int
    page: int
    asks: socket.socket | None


class Reporter:
    """In the parent. UsageError for an address that cannot be listened on."""

    def __init__(self, options: RunOptions, logger: logging.Logger) -> None:
        from kacore.server.admin import open_admin

        assert options.admin is not None
        self._options, self._logger = options, logger
        self._listeners = open_admin(options.admin, reuse_port=options.reuse_port)
        self.port = self._listeners[0].port
        self.pid = 0
        self.start_at = 0.0
        self._channel: socket.socket | None = None

    def start(self, processes: Iterable[Known], *, is_ending: bool) -> socket.socket | None:
        """Fork. Return: in the child its end of the channel, for work()."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.start_at = float("inf")
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            return theirs
        theirs.close()
        ours.setblocking(False)
        self._channel = ours
        for process in processes:
            self.tell(process)
        if is_ending:
            self.say("ending")
        return None

    def tell(self, process: Known) -> None:
        """Of a new worker."""
        self.say(f"worker {process.slot} {process.page}", process.asks)

    def say(self, word: str, sock: socket.socket | None = None) -> None:
        if self._channel is not None:
            with suppress(OSError):  # it is gone, and will be started anew
                socket.send_fds(self._channel, [word.encode()], [] if sock is None else [sock.fileno()])

    def reap(self) -> None:
        """Look whether it has ended."""
        if not self.pid:
            return
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self._forget()
            self.start_at = time.monotonic() + RESTART_AFTER
            code = os.waitstatus_to_exitcode(status)
            text = "the process of the admin listener (pid %d) exited with status %d; another one starts"
            self._logger.error(text, pid, code)

    def _forget(self) -> None:
        self.pid = 0
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def close_in_child(self) -> None:
        """In a worker: nothing of this is its own."""
        if self._channel is not None:
            self._channel.close()
        for listener in self._listeners:
            listener.sock.close()

    def close(self) -> None:
        """End it, and wait for that."""
        for listener in self._listeners:
            listener.refuse()
            listener.close()
        pid = self.pid
        self._forget()
        self.start_at = float("inf")
        deadline = time.monotonic() + KILL_AFTER
        while pid and not os.waitpid(pid, os.WNOHANG)[0]:
            if time.monotonic() >= deadline:
                os.kill(pid, signal.SIGKILL)
                deadline = float("inf")
            time.sleep(0.005)

    def work(
        self,
        channel: socket.socket,
        pages: list[list[mmap.mmap]],
        learned: Iterable[mmap.mmap],
        policy: Policy,
        *,
        has_tls: bool,
        since: float,
    ) -> int:
        """The child: all of its life. pages, learned, and the rest: as of Workers."""
        for number in IGNORED:  # of a terminal they come to all; the parent tells
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        from kacore.server.overview import Workers

        workers = Workers(pages, learned, policy, has_tls=has_tls, since=since)
        asyncio.run(self._report(channel, workers, pages))
        return 0

    async def _report(self, channel: socket.socket, workers: Workers, pages: list[list[mmap.mmap]]) -> None:
        from kacore.server.admin import AdminServer
        from kacore.server.server import Server

        hearing = Hearing(channel, workers, [page for own in pages for page in own], self._logger)
        where, hosts = self._options.admin, self._options.admin_hosts
        admin = AdminServer(workers, str(where), hosts, make_server=Server, io="auto")
        hearing.start(asyncio.get_running_loop())
        await admin.start(self._listeners)
        await hearing.has_ended.wait()
        await admin.stop()


class Hearing:
    """In the child: what the parent says."""

    def __init__(
        self, channel: socket.socket, workers: Workers, pages: list[mmap.mmap], logger: logging.Logger
    ) -> None:
        self.has_ended = asyncio.Event()
        self._channel, self._workers, self._pages, self._logger = channel, workers, pages, logger
        self._connecting: set[asyncio.Task[None]] = set()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._channel.setblocking(False)
        loop.add_reader(self._channel.fileno(), self._hear, loop)

    def _hear(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            said, fds, _, _ = socket.recv_fds(self._channel, 4096, 1)
        except BlockingIOError:
            return
        except OSError:
            said, fds = b"", []
        word, *numbers = said.decode().split() or [""]
        if word == "worker":
            self._connect(int(numbers[0]), int(numbers[1]), socket.socket(fileno=fds[0]))
        elif word == "ending":
            self._workers.is_ending = True
        elif word == "reopen":
            signals.reopen(self._logger)
        else:
            loop.remove_reader(self._channel.fileno())
            self.has_ended.set()

    def _connect(self, slot: int, page: int, sock: socket.socket) -> None:
        from kacore.server.overview import Peer

        async def connect() -> None:
            self._workers.add(await Peer.connected(slot, self._pages[page], sock))

        task = asyncio.create_task(connect())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
