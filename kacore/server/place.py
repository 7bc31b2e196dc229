"""The place of a serving process among others: on its own (`Alone`), or one of several workers (`Worker`).

The place knows who has to be told that the server is up, which listeners are its own, who may stop it, and whose counters
it shows.
"""

from __future__ import annotations

import asyncio
import json
import logging
import mmap
import os
import signal
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from kacore import _core
from kacore.policy import Policy
from kacore.server import signals
from kacore.server.asked import Asked
from kacore.server.listening import Listener, raise_descriptor_limit
from kacore.server.loops import repeat
from kacore.server.overview import told
from kacore.server.systemd import Notifier

if TYPE_CHECKING:
    from kacore.server.reload import Freshness

# How often a worker looks whether it has served its number of requests, in seconds.
COUNT_EVERY = 0.1
# How often it is seen to turn where nothing happens, in seconds.
SHARE_EVERY = 1.0


class Served(Protocol):
    """What a place needs of the server."""

    logger: logging.Logger
    table: _core.ConnectionTable
    tls: Any
    has_successor: bool
    is_outdated: bool

    @property
    def is_ending(self) -> bool: ...
    def introduction(self) -> str: ...
    def share(self) -> None: ...
    def connections(self, limit: int = 1000) -> list[dict[str, Any]]: ...
    def busiest(self) -> list[dict[str, Any]]: ...
    def listen(self, listener: Listener) -> None: ...
    def unlisten(self, listener: Listener) -> None: ...
    def give_away_quiet(self) -> list[tuple[int, Any]]: ...
    def become_outdated(self) -> None: ...
    def adopt(self, fd: int, where: Any) -> None: ...
    def reload_certificates(self) -> None: ...
    def shutdown(self, *, now: bool = False, hurry: bool = False) -> None: ...


class Alone:
    """The only process: signals stop it, its service manager is told, and nobody accepts from its listeners after it."""

    is_one_of_several = False
    counters: mmap.mmap | None = None
    learned: mmap.mmap | None = None
    all_learned: tuple[mmap.mmap, ...] = ()

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self._notifier: Notifier | None = None

    def wsgi(self) -> dict[str, Any]:
        """What a WSGI application is told of it: keywords of WsgiApplication."""
        return {}

    def take_process(self) -> None:
        """Serving is all that this process does, so tell its service manager about it."""
        self._notifier = Notifier()

    def prepare(self, policy: Policy, logger: logging.Logger) -> None:
        """Before connections are accepted."""
        raise_descriptor_limit(policy.max_connections, logger)

    def warns(self) -> bool:
        """Whether this process is the one to warn about the policy, which all have in common."""
        return True

    def watches(self, _: Listener) -> bool:
        """Whether this process accepts from the listener from the start."""
        return True

    def step_of(self, _server: Served, _step: Callable[[], object]) -> Callable[[], object] | None:
        """What the loop calls in place of the engine's step; None: nothing else."""
        return None

    def stats(self) -> dict[str, Any]:
        """What Server.stats() adds about other processes."""
        return {}

    def handle_signals(self, server: Served, loop: asyncio.AbstractEventLoop) -> list[signal.Signals]:
        """Handle those that stop a server, and SIGHUP. Return: which ones."""
        handled = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
        if not signals.is_caught(signal.SIGQUIT):
            loop.add_signal_handler(signal.SIGQUIT, lambda: server.shutdown(now=True))
            handled.append(signal.SIGQUIT)
        loop.add_signal_handler(signal.SIGTERM, server.shutdown)
        loop.add_signal_handler(signal.SIGINT, lambda: server.shutdown(hurry=True))
        # Without certificates there is nothing to reload, and a terminal that hangs up must not cost a request.
        loop.add_signal_handler(signal.SIGHUP, server.shutdown if server.tls is None else server.reload_certificates)
        return handled

    def serving(self, server: Served, loop: asyncio.AbstractEventLoop) -> None:
        """Connections are accepted from now on."""
        if self._notifier is not None:
            self._notifier.ready()
            if self._notifier.watchdog is not None:
                repeat(loop, self._notifier.watchdog / 2, self._notifier.alive)
        server.logger.info("%s", server.introduction())

    def ending(self) -> None:
        """The departure begins."""
        if self._notifier is not None:
            self._notifier.stopping()

    def closed(self) -> None:
        """The listeners are closed; connections may still be open."""

    def give_up(self, listeners: Iterable[Listener]) -> None:
        """Close them; those made here refuse new clients first."""
        for listener in listeners:
            listener.refuse()
            listener.close()


class OneOfSeveral:
    """What every place that has others beside it has in common. slot: its number."""

    is_one_of_several = True
    slot: int

    def warns(self) -> bool:
        """As of Alone."""
        return self.slot == 0

    def watches(self, listener: Listener) -> bool:
        """As of Alone."""
        return listener.slot is None or listener.slot == self.slot


class Worker(OneOfSeveral):
    """A child of a supervisor: its slot, what it inherited, and the channel to the parent, which decides when it ends.

    slot:         its number. listeners: the parent's, of all slots. counters: this process's page of shared memory.
    pages:        those of every slot, including processes that are gone.
    learned:      a page of shared memory for each slot, for what its workers learn of idle timeouts (learned.py).
    channel:      the socket to the parent; supervisor.py says what is sent on it.
    answers:      the socket on which whoever reports on all workers asks; None: nobody does.
    beat:         the parent wants a sign of life every so many seconds; 0 = never.
    max_requests: ask for a successor after this many; 0 = never.
    freshness:    whether the source has changed; None: no matter.
    """

    def __init__(
        self,
        slot: int,
        listeners: list[Listener],
        counters: mmap.mmap,
        pages: list[list[mmap.mmap]],
        learned: tuple[mmap.mmap, ...],
        channel: socket.socket,
        *,
        answers: socket.socket | None = None,
        beat: float = 0.0,
        max_requests: int = 0,
        freshness: Freshness | None = None,
    ) -> None:
        self.slot, self.listeners, self.counters = slot, listeners, counters
        self.learned, self.all_learned = learned[slot], learned
        self._pages, self._channel, self._beat, self._max_requests = pages, channel, beat, max_requests
        self._is_serving = False
        self._freshness = freshness
        self._asked = Asked(answers) if answers is not None else None
        self._table: _core.ConnectionTable | None = None
        self._has_tls = False

    def wsgi(self) -> dict[str, Any]:
        """As of Alone."""
        return {"multiprocess": True}

    def take_process(self) -> None:
        """The parent tells the service manager."""

    def prepare(self, policy: Policy, logger: logging.Logger) -> None:
        """The parent has done it."""

    def step_of(self, server: Served, step: Callable[[], object]) -> Callable[[], object] | None:
        """As of Alone: before anything is read, whether that is still ours to answer."""
        if self._freshness is None:
            return None
        is_stale = self._freshness.is_stale

        def guarded() -> object:
            if server.is_outdated:
                self._hand_over(server)  # those that have become quiet: their next request is not ours
            elif not server.is_ending and is_stale():
                self._say("changed")
                self._give_up_serving(server)
            return step()

        return guarded

    def stats(self) -> dict[str, Any]:
        """`workers`: all worker processes, see overview.told()."""
        return {"workers": told(self._pages, has_tls=self._has_tls)}

    def handle_signals(self, server: Served, loop: asyncio.AbstractEventLoop) -> list[signal.Signals]:
        """Handle SIGTERM, and listen to the parent, even while the application starts."""
        self._has_tls = server.tls is not None
        self._table = server.table
        self._table.tell_state("starting")
        loop.add_reader(self._channel.fileno(), self._hear, server, loop)
        loop.add_signal_handler(signal.SIGTERM, self._on_sigterm, server)
        return [signal.SIGTERM]

    def serving(self, server: Served, loop: asyncio.AbstractEventLoop) -> None:
        """As of Alone."""
        self._is_serving = True
        server.table.tell_state("serving")
        repeat(loop, SHARE_EVERY, server.share)
        if self._asked is not None:
            self._asked.start(server, loop)
        self._say("serving")
        if self._max_requests:
            self._count(server, loop, server.table.n_requests + self._max_requests)
        if self._beat:
            repeat(loop, self._beat / 2, lambda: self._say("beat"))

    def ending(self) -> None:
        """The parent knows; and who looks on is told."""
        if self._table is not None:
            self._table.tell_state("leaving")

    def closed(self) -> None:
        """As of Alone."""
        self._say("closed")

    def give_up(self, listeners: Iterable[Listener]) -> None:
        """Others go on accepting from them."""
        for listener in listeners:
            listener.close()

    def _on_sigterm(self, server: Served) -> None:
        """Sent to one worker by hand, it means "be replaced"; the parent sends it to workers that are still starting."""
        if self._is_serving:
            self._say("retire")
        elif self._freshness is not None and not server.is_ending:
            self._give_up_serving(server)  # it may have connections already, and the sockets are the next one's
        else:
            server.shutdown(now=True)

    def _give_up_serving(self, server: Served) -> None:
        """What we have loaded is not what the files say: finish what is in progress, and leave everything else to a
        successor who does not serve yet."""
        for listener in self.listeners:
            server.unlisten(listener)
        self._hand_over(server)
        server.become_outdated()
        server.shutdown(hurry=True)

    def _hand_over(self, server: Served) -> None:
        for fd, where in server.give_away_quiet():
            self._say(f"take {json.dumps(where)}", fd)
            os.close(fd)

    def _take(self, server: Served, where: str, fd: int) -> None:
        """A connection of our predecessor's, and the next one's when we are to end ourselves."""
        if server.is_ending:
            self._say(f"take {where}", fd)
            os.close(fd)
        else:
            try:
                server.adopt(fd, tuple(json.loads(where)))
            except (OSError, _core.LocalError):
                os.close(fd)  # the client is gone, or nothing listens there any more
        self._say("took")

    def _say(self, word: str, fd: int | None = None) -> None:
        try:
            socket.send_fds(self._channel, [word.encode()], [] if fd is None else [fd])
        except OSError:
            pass  # the parent is gone; the end of file will tell

    def _hear(self, server: Served, loop: asyncio.AbstractEventLoop) -> None:
        fds: list[int] = []
        try:
            received, fds, _, _ = socket.recv_fds(self._channel, 4096, 1)
            message = received.decode()
        except BlockingIOError:
            return
        except OSError:
            message = ""
        word, _, rest = message.partition(" ")
        if not message:
            loop.remove_reader(self._channel.fileno())
            server.logger.error("the parent process has exited: worker %d is draining and will exit", os.getpid())
            if not server.is_ending:
                server.shutdown()
        elif word == "watch":
            server.listen(self.listeners[int(rest)])
        elif word == "unwatch":
            server.unlisten(self.listeners[int(rest)])
        elif word == "take":
            self._take(server, rest, fds[0])
        elif word == "reopen":
            signals.reopen(server.logger)
        elif word == "now":
            server.shutdown(now=True)
        elif server.is_ending:
            pass  # a second shutdown() would mean "now"
        elif word == "outdated":
            self._give_up_serving(server)
        else:  # leave, stop, interrupt
            server.has_successor = word == "leave"
            server.shutdown(hurry=word == "interrupt")

    def _count(self, server: Served, loop: asyncio.AbstractEventLoop, last: int) -> None:
        if server.table.n_requests >= last:
            self._say("retire")
        else:
            loop.call_later(COUNT_EVERY, self._count, server, loop, last)


class Place(Protocol):
    """What a server needs of its place: see Alone."""

    is_one_of_several: bool
    listeners: list[Listener]

    @property
    def counters(self) -> mmap.mmap | None: ...
    @property
    def learned(self) -> mmap.mmap | None: ...
    @property
    def all_learned(self) -> tuple[mmap.mmap, ...]: ...
    def wsgi(self) -> dict[str, Any]: ...
    def take_process(self) -> None: ...
    def prepare(self, policy: Policy, logger: logging.Logger) -> None: ...
    def warns(self) -> bool: ...
    def watches(self, listener: Listener, /) -> bool: ...
    def step_of(self, server: Served, step: Callable[[], object], /) -> Callable[[], object] | None: ...
    def stats(self) -> dict[str, Any]: ...
    def handle_signals(self, server: Served, loop: asyncio.AbstractEventLoop) -> list[signal.Signals]: ...
    def serving(self, server: Served, loop: asyncio.AbstractEventLoop) -> None: ...
    def ending(self) -> None: ...
    def closed(self) -> None: ...
    def give_up(self, listeners: Iterable[Listener]) -> None: ...
