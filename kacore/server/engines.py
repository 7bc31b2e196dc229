"""Several engines in one process: `Engines` in the main thread, a Server with a `Sibling` as its place in a thread for each.

For a Python without a global interpreter lock, where it does what workers do with one copy of the application in memory.
Each engine has its own loop, table, listener, application (of a factory; else all share the module's) and lifespan. The main
thread has the signals, the admin listener and the counters of all, and no connection of a client.

An engine is replaced (SIGHUP) by one that serves before it drains, as workers are; both accept from the same listener
meanwhile. Nobody outlives a thread that fails in the same process, so an engine that ends on its own ends them all.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import signal
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from kacore import _core
from kacore.config.options import RunOptions
from kacore.policy import Policy
from kacore.server import signals, telling
from kacore.server.assembly import chosen_io
from kacore.server.learned import PAGE_BYTES as LEARNED_BYTES
from kacore.server.listening import Listener, addresses, open_listeners_of, raise_descriptor_limit
from kacore.server.loops import loop_factory, repeat
from kacore.server.overview import ANSWER_WITHIN, Workers, open_in, told
from kacore.server.place import SHARE_EVERY, OneOfSeveral
from kacore.server.server import Server
from kacore.server.systemd import Notifier

if TYPE_CHECKING:
    from kacore.server.admin import AdminServer
    from kacore.server.place import Served

PAGES_PER_SLOT = 2  # of counters: one engine may be draining while its successor serves
PAGE_RETRY = 0.1  # seconds until a page that is still in use is tried again
# Seconds past the drain's own timeout until the process ends without an engine that does not: time for the application's
# shutdown.
END_AFTER_DRAIN, END_AFTER_NOW = 10.0, 2.0


class Sibling(OneOfSeveral):
    """The place of an engine among others in its process: as `Worker` is, but that the parent is a call away.

    listeners: its own copies of all slots' sockets. tell: called from its thread when connections are accepted.
    """

    def __init__(
        self,
        slot: int,
        listeners: list[Listener],
        counters: mmap.mmap,
        pages: list[list[mmap.mmap]],
        learned: tuple[mmap.mmap, ...],
        tell: Callable[[], object],
    ) -> None:
        self.slot, self.listeners, self.counters = slot, listeners, counters
        self.learned, self.all_learned = learned[slot], learned
        self._pages, self._tell = pages, tell
        self._table: _core.ConnectionTable | None = None
        self._has_tls = False

    def wsgi(self) -> dict[str, Any]:
        """As of Alone: there are several threads, whatever its own pool is."""
        return {"environ": {"wsgi.multithread": True}}

    def take_process(self) -> None:
        """It is not its own."""

    def prepare(self, policy: Policy, logger: logging.Logger) -> None:
        """The main thread has done it."""

    def step_of(self, server: Served, step: Callable[[], object]) -> Callable[[], object] | None:
        """As of Alone."""
        return None

    def stats(self) -> dict[str, Any]:
        """`workers`: all engines, as of Worker."""
        return {"workers": told(self._pages, has_tls=self._has_tls)}

    def handle_signals(self, server: Served, loop: asyncio.AbstractEventLoop) -> list[signal.Signals]:
        """They come to the main thread."""
        return []

    def serving(self, server: Served, loop: asyncio.AbstractEventLoop) -> None:
        """As of Alone."""
        self._has_tls = server.tls is not None
        self._table = server.table
        self._table.tell_state("serving")
        repeat(loop, SHARE_EVERY, server.share)
        self._tell()

    def ending(self) -> None:
        """As of Worker."""
        if self._table is not None:
            self._table.tell_state("leaving")

    def closed(self) -> None:
        """As of Alone."""

    def give_up(self, listeners: Iterable[Listener]) -> None:
        """The originals stay the main thread's."""
        for listener in listeners:
            listener.close()


class EngineThread(threading.Thread):
    """One engine's. make: makes the Server in this thread, unless `server` is set before. ended: called when it is over.
    failure: by what, if not by shutdown()."""

    def __init__(
        self, slot: int, page: int, make: Callable[[EngineThread], Server], loop: str, ended: Callable[[EngineThread], object]
    ) -> None:
        super().__init__(name=f"kacore-engine-{slot}", daemon=True)
        self.slot, self.page = slot, page
        self.server: Server | None = None
        self.failure: BaseException | None = None
        self._make, self._loop, self._ended = make, loop, ended
        self._lock = threading.Lock()
        self._must_end: dict[str, bool] | None = None

    def run(self) -> None:
        """As of Thread."""
        try:
            server = self.server or self._make(self)
            with self._lock:
                self.server = server
                must_end = self._must_end
            if must_end is not None:
                server.shutdown(**must_end)
            with asyncio.Runner(loop_factory=loop_factory(self._loop)) as runner:
                runner.run(server.serve(handle_signals=False))
        except BaseException as error:
            self.failure = error
        finally:
            self._ended(self)

    def shutdown(self, **how: bool) -> None:
        """As of Server, from the main thread, and also before there is one."""
        with self._lock:
            self._must_end = how
        if self.server is not None:
            self.server.shutdown(**how)


class EnginePeer:
    """An engine that is asked for its connections, from the main thread."""

    def __init__(self, thread: EngineThread, page: mmap.mmap) -> None:
        self._thread, self._page = thread, page

    @property
    def n_open(self) -> int:
        """As of Peer."""
        return open_in(self._page)

    @property
    def is_gone(self) -> bool:
        """As of Peer."""
        return not self._thread.is_alive()

    def close(self) -> None:
        """As of Peer."""

    async def connections(self, limit: int) -> list[dict[str, Any]]:
        """As of Peer."""
        server = self._thread.server
        if limit <= 0 or server is None:
            return []
        return [{"worker": self._thread.slot, **one} for one in await self._told(server.connections, limit)]

    async def busiest(self) -> list[dict[str, Any]]:
        """As of Peer."""
        server = self._thread.server
        return await self._told(server.busiest) if server is not None else []

    async def _told(self, call: Callable[..., list[dict[str, Any]]], *arguments: object) -> list[dict[str, Any]]:
        """An engine that is busy is not waited for, but by a thread that is."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                return await asyncio.to_thread(call, *arguments)
        except TimeoutError:
            return []


class Slot:
    """A place for one serving engine."""

    def __init__(self) -> None:
        self.serving: EngineThread | None = None
        self.starting: EngineThread | None = None


class Engines:
    """`options.engines` engines in as many threads, until SIGTERM or SIGINT. SIGHUP replaces them one after the other.

    make_server: called with `worker`, a Sibling, for each engine: for the first ones in the main thread, so that what they
                 import is there before threads are; for their successors in their threads.
    n:           how many, in place of options.engines. when_ready: called when all of them serve for the first time.
    scheme:      "https" when TLS is spoken. policy: for limits of the whole, and for the line at the start.
    Raises UsageError for addresses that cannot be listened on.
    """

    def __init__(
        self,
        make_server: Callable[..., Server],
        options: RunOptions,
        *,
        n: int | None = None,
        scheme: str = "http",
        policy: Policy,
        when_ready: Callable[[], object] | None = None,
    ) -> None:
        self.make_server, self.options, self.policy, self.scheme = make_server, options, policy, scheme
        self.n_engines = n or options.n_engines
        self._when_ready = when_ready
        self.logger = logging.getLogger("kacore.error")
        self.listeners = self._admin_listeners = []
        try:
            self.listeners = open_listeners_of(options, n_slots=self.n_engines)
            if options.admin is not None:
                from kacore.server.admin import open_admin

                self._admin_listeners = open_admin(options.admin, reuse_port=options.reuse_port)
        except BaseException:
            self.close()
            raise
        raise_descriptor_limit(self.n_engines * policy.max_connections, self.logger)
        self._pages = [mmap.mmap(-1, _core.COUNTERS_BYTES) for _ in range(PAGES_PER_SLOT * self.n_engines)]
        self._learned = tuple(mmap.mmap(-1, LEARNED_BYTES) for _ in range(self.n_engines))
        self._slots = [Slot() for _ in range(self.n_engines)]
        self._threads: list[EngineThread] = []
        self._rolling: list[int] = []  # slots whose engines are still to be replaced
        self._was_ready = False
        self._is_stopping = False
        self._began = 0.0
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = asyncio.Event()
        self._notifier = Notifier()
        self._subject = Workers(
            [self.pages(slot) for slot in range(self.n_engines)],
            self._learned,
            policy,
            has_tls=scheme == "https",
            since=time.time(),
        )
        self._admin: AdminServer | None = None

    def pages(self, slot: int) -> list[mmap.mmap]:
        return self._pages[slot * PAGES_PER_SLOT : (slot + 1) * PAGES_PER_SLOT]

    # -- serving -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until told to stop. Raises what kept an engine from serving, or ended it."""
        _core.return_large_blocks()
        with asyncio.Runner() as runner:
            runner.run(self._serve())
        if self._failure is not None:
            raise self._failure

    async def _serve(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        handled = [*signals.handle(loop, self.logger), *self._handle_signals(loop)]
        try:
            first = [self._made_thread(slot) for slot in range(self.n_engines)]
            for thread in first:
                thread.server = self._made_server(thread)
            for thread in first:
                thread.start()
            if self.options.admin is not None:
                await self._start_admin(self.options.admin)
            await self._over.wait()
        finally:
            if self._admin is not None:
                await self._admin.stop()
            for number in handled:
                loop.remove_signal_handler(number)
            self.close()
        if self._was_ready and self._failure is None:
            seen = _core.sum_counters(self._pages)
            self.logger.info("%s", telling.stopped(seen["requests"], seen["accepted"], time.monotonic() - self._began))

    async def _start_admin(self, where: str) -> None:
        from kacore.server.admin import AdminServer

        io = chosen_io(self.options.io)
        self._admin = AdminServer(self._subject, where, self.options.admin_hosts, make_server=Server, io=io)
        await self._admin.start(self._admin_listeners)

    def close(self) -> None:
        """Give up the listening sockets, which the end of run() does, too."""
        for listener in [*self.listeners, *self._admin_listeners]:
            listener.refuse()
            listener.close()

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> list[signal.Signals]:
        calls: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGTERM: self.shutdown,
            signal.SIGINT: partial(self.shutdown, hurry=True),
            signal.SIGHUP: self.replace,
        }
        if not signals.is_caught(signal.SIGQUIT):
            calls[signal.SIGQUIT] = partial(self.shutdown, now=True)
        for number, call in calls.items():
            loop.add_signal_handler(number, call)
        return list(calls)

    # -- starting ------------------------------------------------------------------------------------------------

    def _made_server(self, thread: EngineThread) -> Server:
        """In whichever thread."""
        loop = self._loop
        assert loop is not None
        sibling = Sibling(
            thread.slot,
            [Listener(one.sock.dup(), is_own=one.is_own, slot=one.slot) for one in self.listeners],
            self._pages[thread.page],
            [self.pages(slot) for slot in range(self.n_engines)],
            self._learned,
            lambda: loop.call_soon_threadsafe(self._on_serving, thread),
        )
        return self.make_server(worker=sibling)

    def _made_thread(self, slot: int) -> EngineThread:
        loop = self._loop
        assert loop is not None
        used = {thread.page for thread in self._threads}
        page = next(page for page in range(slot * PAGES_PER_SLOT, (slot + 1) * PAGES_PER_SLOT) if page not in used)
        thread = EngineThread(
            slot, page, self._made_server, self.options.loop, lambda ended: loop.call_soon_threadsafe(self._on_end, ended)
        )
        self._threads.append(thread)
        self._slots[slot].starting = thread
        return thread

    def _on_serving(self, thread: EngineThread) -> None:
        slot = self._slots[thread.slot]
        self._subject.add(EnginePeer(thread, self._pages[thread.page]))
        predecessor, slot.serving, slot.starting = slot.serving, thread, None
        if self._is_stopping:
            return  # it was told
        if predecessor is not None and predecessor.server is not None:
            predecessor.server.has_successor = True
            predecessor.shutdown()
        self.logger.log(logging.INFO if self._was_ready else logging.DEBUG, "engine %d serves", thread.slot)
        if not self._was_ready and all(slot.serving for slot in self._slots):
            self._announce()
        self._replace_next()

    def _announce(self) -> None:
        self._was_ready, self._began = True, time.monotonic()
        self._notifier.ready()
        if self._when_ready is not None:
            self._when_ready()
        if self._notifier.watchdog is not None and self._loop is not None:
            repeat(self._loop, self._notifier.watchdog / 2, self._notifier.alive)
        where, admin = addresses(self.listeners, self.scheme), self._admin.port if self._admin is not None else None
        tls = self.scheme == "https"
        self.logger.info("%s", telling.several(self.n_engines, "engine", self.policy, where, tls=tls, admin=admin))

    # -- replacing -----------------------------------------------------------------------------------------------

    def replace(self) -> None:
        """SIGHUP."""
        if self._was_ready and not self._is_stopping:
            self.logger.info("SIGHUP: replacing the engines one by one")
            self._notifier.reloading()
            self._rolling = list(range(self.n_engines))
            self._replace_next()

    def _replace_next(self) -> None:
        if self._is_stopping or any(slot.starting for slot in self._slots):
            return
        if not self._rolling:
            self._notifier.ready()
            return
        slot = self._rolling[0]
        if sum(thread.slot == slot for thread in self._threads) >= PAGES_PER_SLOT:  # one that drains has to end first
            assert self._loop is not None
            self._loop.call_later(PAGE_RETRY, self._replace_next)
            return
        del self._rolling[0]
        self._made_thread(slot).start()

    # -- ending --------------------------------------------------------------------------------------------------

    def shutdown(self, *, now: bool = False, hurry: bool = False) -> None:
        """As of Server. In the main thread."""
        assert self._loop is not None
        if self._was_ready and not self._is_stopping:
            n_open = _core.sum_counters(self._pages)["open"]
            self.logger.info("%s", telling.stopping_workers(n_open, self.policy.drain_timeout, by_keyboard=hurry))
        now = now or self._is_stopping
        self._is_stopping = self._subject.is_ending = True
        self._notifier.stopping()
        self._rolling.clear()
        for thread in self._threads:
            thread.shutdown(now=now, hurry=hurry)
        drain = self.policy.drain_lame_duck + self.policy.drain_timeout + END_AFTER_DRAIN
        self._loop.call_later(END_AFTER_NOW if now else drain, self._give_up_waiting)

    def _give_up_waiting(self) -> None:
        for thread in self._threads:
            self.logger.error("engine %d did not end in time: the process ends without it", thread.slot)
            self._failure = self._failure or SystemExit(1)
        self._over.set()

    def _on_end(self, thread: EngineThread) -> None:
        thread.join()
        self._threads.remove(thread)
        _core.settle_counters(self._pages[thread.page], "error")
        slot = self._slots[thread.slot]
        was_starting, was_serving = slot.starting is thread, slot.serving is thread
        if was_starting:
            slot.starting = None
        if was_serving:
            slot.serving = None
        if was_starting and self._was_ready and not self._is_stopping:
            self.logger.error(
                "the new engine %d did not start; the old one keeps serving", thread.slot, exc_info=thread.failure
            )
            self._rolling.clear()
            self._replace_next()
        elif (was_starting or was_serving) and not self._is_stopping:
            self._failure = thread.failure or RuntimeError(f"engine {thread.slot} has ended")
            self.shutdown(now=was_starting, hurry=True)
        elif thread.failure is not None:
            self.logger.error("engine %d failed", thread.slot, exc_info=thread.failure)
        if self._is_stopping and not self._threads:
            self._over.set()
