"""Several processes that serve one application: `Supervisor` in the parent, a Server with a `Worker` (place.py) in each
child.

The parent opens the listening sockets and keeps them, forks the workers and never imports the application, so that a
new worker always runs the current source. A TCP address has one SO_REUSEPORT socket per worker slot. Every worker
inherits all of them and accepts from its own slot's; while a slot has no worker, the parent has a neighbour accept from
it as well. So no client waits in a queue that nobody serves, and no queue is lost with a worker. Unix and inherited
sockets cannot be had once per slot: all workers accept from them, and a new connection wakes every idle one.

After a change of the source (--reload) it is the other way round: the old workers read nothing more, give up the
connections on which nothing is going on, and finish what they have begun; clients wait for the new ones. If those cannot
load the application, they serve a page that says why.

Parent and worker talk over a socket pair, a word or two per message. To the worker: "watch I" and "unwatch I" (a
listener), "leave" (a successor is serving: drain), "outdated" (there will be one), "take ADDRESS" (with a descriptor: a
predecessor's connection; the answer is "took"), "stop" (there is no successor), "interrupt" (the same, with 0.2 s of
grace), "now", "reopen" (the log files). To the parent: "serving", "retire" (start my successor), "closed" (my
listeners), "changed" (I have found that the source has), "take ADDRESS", "failed REASON", "beat". End of file means
that the other side is gone.
"""

from __future__ import annotations

import logging
import mmap
import os
import random
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from select import POLLIN, poll
from typing import Any, Protocol

from kacore import _core
from kacore.config.options import RunOptions
from kacore.policy import Policy
from kacore.server import signals, telling
from kacore.server.broken import Failure
from kacore.server.learned import PAGE_BYTES as LEARNED_BYTES
from kacore.server.listening import Listener, addresses, open_listeners_of, raise_descriptor_limit
from kacore.server.place import Worker
from kacore.server.reload import LOOK_EVERY_IF_TOLD, Freshness, Watcher, keep_no_bytecode_of_fresh_sources, made_observer
from kacore.server.reporter import Reporter
from kacore.server.systemd import Notifier

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD, signal.SIGUSR1, *signals.IGNORED)
# Exit statuses of workers, and of a parent whose first workers failed: for a mistake of the user, and for a crash.
MISTAKE, CRASH = 2, 3
# Seconds. A worker that exits sooner counts as a failure; after several in a row the next one starts with a delay.
SETTLED_AFTER = 10.0
MIN_BACKOFF, MAX_BACKOFF = 0.25, 30.0
# Seconds past the drain's own timeout until a worker is killed: time for the application's shutdown.
KILL_AFTER_DRAIN, KILL_AFTER_NOW = 10.0, 1.0
# The same for a worker that is stopped while it starts: it has no connections, and may be stuck in the application.
KILL_STARTING = 2.0
# Seconds until a page of counters that is still in use is tried again.
PAGE_RETRY = 0.1
# Pages of shared memory, for the counters of one process each: one may be draining while its successor serves.
PAGES_PER_SLOT = 2
MAX_MESSAGE = 65536  # on the channel


class Runs(Protocol):
    """A server that serves until it is stopped."""

    def run(self) -> None: ...


class Process:
    """In the parent: one worker process. state: "starting", "serving", "leaving"; "outdated" when it was starting from
    files that have changed since. shows: what it is to serve in place of the application. failure: why it ended, if it
    said so."""

    def __init__(self, slot: int, page: int, shows: Failure | None) -> None:
        self.slot, self.page, self.shows = slot, page, shows
        self.failure: Failure | None = None
        self.passed: deque[tuple[str, int]] = deque()  # connections that it was given, and has not said to have taken
        self.pid = 0
        self.state = "starting"
        self.since = self.heard = time.monotonic()
        self.kill_at = float("inf")
        self.has_closed = self.has_hung_up = False
        self.channel, self.child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.setblocking(False)
        self.child_end.setblocking(False)
        # For whoever reports on all workers: both ends, and the worker's, which the parent gives up.
        self.asks: socket.socket | None = None
        self.answers: socket.socket | None = None

    def close(self) -> None:
        self.channel.close()
        if self.asks is not None:
            self.asks.close()

    def say(self, message: str, fd: int | None = None) -> None:
        try:
            socket.send_fds(self.channel, [message.encode()], [] if fd is None else [fd])
        except OSError:
            pass  # it is gone, or so stuck that it will be killed anyway


class Slot:
    """In the parent: a place for one serving worker. n_failures: workers in a row that exited too soon. shows: what the next
    one is to serve in place of the application. waiting: connections for it, with what is said to it of each."""

    def __init__(self) -> None:
        self.serving: Process | None = None
        self.starting: Process | None = None
        self.n_failures = 0
        self.shows: Failure | None = None
        self.waiting: list[tuple[str, int]] = []
        self.is_retiring = False  # its worker asked for a successor
        self.start_at = float("inf")  # when to start a worker; inf: no need to


class Born(BaseException):
    """Raised in a child right after the fork, to unwind whatever the parent was doing. work: the child's."""

    def __init__(self, work: Callable[[], int]) -> None:
        self.work = work


class Supervisor:
    """The parent of `n_workers` workers, until SIGTERM or SIGINT. SIGHUP replaces them one after the other.

    make_server:  called in each worker with its Worker; loads the application and makes the Server with `worker`. With a
                  Failure as well, the server is to show that instead.
    options:      where to listen, how many workers, when to replace them: after max_requests_per_worker, give or take a
                  tenth so that not all go at once; or whenever a source file changes.
    scheme:       "https" when the workers speak TLS. policy: for the drain's timeout and the line at the start.
    Raises UsageError for addresses that cannot be listened on.
    """

    def __init__(
        self,
        make_server: Callable[[Worker, Failure | None], Runs],
        options: RunOptions,
        *,
        scheme: str = "http",
        policy: Policy,
    ) -> None:
        self._pid = os.getpid()
        self.make_server, self.n_workers, self.policy = make_server, options.n_workers, policy
        self.max_requests = options.max_requests_per_worker
        self.scheme = scheme
        self._share_tickets()
        self.logger = logging.getLogger("kacore.error")
        self._watcher = self._observer = None
        if options.reload:
            self._watcher = Watcher(options.watched_dirs, options.reload_include, options.reload_exclude)
            self._observer = made_observer(self._watcher)
        self._reporter: Reporter | None = None
        self.listeners: list[Listener] = []
        try:
            self.listeners = open_listeners_of(options, n_slots=self.n_workers)
            if options.admin is not None:
                self._reporter = Reporter(options, self.logger)
        except BaseException:
            self._end_observer()
            for listener in self.listeners:
                listener.refuse()
                listener.close()
            raise
        self.notifier = Notifier()
        watchdogs = [seconds for seconds in (self.notifier.watchdog, options.worker_timeout) if seconds]
        self.beat = min(watchdogs, default=0.0) / 2
        raise_descriptor_limit(policy.max_connections, self.logger)
        self._pages = [mmap.mmap(-1, _core.COUNTERS_BYTES) for _ in range(PAGES_PER_SLOT * self.n_workers)]
        self._learned = tuple(mmap.mmap(-1, LEARNED_BYTES) for _ in range(self.n_workers))
        self._slots = [Slot() for _ in range(self.n_workers)]
        self._processes: list[Process] = []
        self._rolling: list[int] = []  # slots whose workers are still to be replaced
        self._helpers: dict[int, Process] = {}  # listener's index -> the neighbour that watches it
        self._was_ready = False
        self._began, self._since = 0.0, time.time()
        self._stopping = ""  # the word the workers were told
        self._status = 0
        self._next_look = self._next_ping = 0.0
        self._told_failures: set[str] = set()  # since the last change: several workers fail alike
        self._told: set[int] = set()  # signals that are ignored, and that was said

    def page(self, number: int) -> mmap.mmap:
        return self._pages[number]

    def pages(self, slot: int) -> list[mmap.mmap]:
        return self._pages[slot * PAGES_PER_SLOT : (slot + 1) * PAGES_PER_SLOT]

    def draw_max_requests(self) -> int:
        spread = self.max_requests // 10
        return self.max_requests + random.SystemRandom().randint(-spread, spread) if self.max_requests else 0

    # -- the loop --------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Return: the exit status, in the parent as in each worker."""
        wakeup, wakeup_end = socket.socketpair()
        for end in (wakeup, wakeup_end):
            end.setblocking(False)
        signal.set_wakeup_fd(wakeup_end.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        try:
            for slot in self._slots:
                slot.start_at = 0.0
            while not self._is_over():
                self._pass(wakeup)
        except Born as born:
            wakeup.close()
            wakeup_end.close()
            work = born.work
        else:
            self._end_observer()
            self.close()
            if self._reporter is not None:
                self._reporter.close()
            if self._was_ready:
                seen = self._counted()
                self.logger.info("%s", telling.stopped(seen["requests"], seen["accepted"], time.monotonic() - self._began))
            return self._status
        return work()

    def _is_over(self) -> bool:
        return bool(self._stopping) and not self._processes

    def _pass(self, wakeup: socket.socket) -> None:
        now = time.monotonic()
        self._start_due(now)
        if self._reporter is not None:
            self._look_after_reporter(self._reporter)
        self._balance()
        waiting = poll()
        waiting.register(wakeup, POLLIN)
        by_fd = {process.channel.fileno(): process for process in self._processes if not process.has_hung_up}
        for fd in [*by_fd, *([self._observer.fileno()] if self._observer is not None else [])]:
            waiting.register(fd, POLLIN)
        ready = [fd for fd, _ in waiting.poll(self._milliseconds_to_wait(now))]
        signals = wakeup.recv(4096) if wakeup.fileno() in ready else b""
        for number in signals:
            self._on_signal(number)
        for fd in ready:
            if fd in by_fd:
                self._hear(by_fd[fd])
            elif self._observer is not None and fd == self._observer.fileno():
                self._hear_observer()
        self._reap()
        self._kill_overdue(time.monotonic())
        self._look_after(time.monotonic())
        if self._stopping and all(process.has_closed for process in self._processes if process.state != "starting"):
            self.close()  # newcomers are refused at once now, instead of asking again

    def _milliseconds_to_wait(self, now: float) -> int:
        times = [slot.start_at for slot in self._slots] + [process.kill_at for process in self._processes]
        if self._watcher is not None:
            times.append(self._next_look)
        if self.beat:
            times.append(self._next_ping)
        # Once a second at least, and so that a worker whose page is still in use is tried again.
        return int(1000 * min(1.0, max(0.0, min(times) - now))) + 1

    # -- starting ----------------------------------------------------------------------------------------------

    def _start_due(self, now: float) -> None:
        if self._rolling and not any(slot.starting for slot in self._slots):
            self._slots[self._rolling.pop(0)].start_at = now
        for number, slot in enumerate(self._slots):
            if slot.start_at <= now and slot.starting is None and not self._stopping:
                self._start(number, slot)

    def _start(self, number: int, slot: Slot) -> None:
        used = {process.page for process in self._processes}
        free = [page for page in range(number * PAGES_PER_SLOT, (number + 1) * PAGES_PER_SLOT) if page not in used]
        if not free:
            slot.start_at = time.monotonic() + PAGE_RETRY  # one that drains has to end first
            if self._watcher is not None:
                self._hurry(number)
            return
        slot.start_at = float("inf")
        process = Process(number, free[0], slot.shows)
        slot.shows = None
        if self._reporter is not None:
            process.asks, process.answers = socket.socketpair()
        # A signal in the child before it has its own handlers would be told to the parent's loop.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        process.pid = os.fork()
        if process.pid == 0:
            raise Born(lambda: self._work(process))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        process.child_end.close()
        self._processes.append(process)
        slot.starting = process
        if process.answers is not None and self._reporter is not None:
            process.answers.close()
            self._reporter.tell(process)

    def _passed(self) -> list[tuple[str, int]]:
        return [pair for process in self._processes for pair in process.passed]

    def _hurry(self, number: int) -> None:
        """Somebody waits for the result of an edit, and what is still in progress goes back to the edit before the last."""
        oldest = min((one for one in self._processes if one.slot == number), key=lambda one: one.since)
        if oldest.state == "leaving":
            oldest.kill_at = min(oldest.kill_at, time.monotonic() + KILL_AFTER_NOW)
            oldest.say("now")

    def _leave_parent(self) -> None:
        """In a child: what is between the parent and others."""
        for other in self._processes:
            other.close()
        for _, fd in [*(pair for slot in self._slots for pair in slot.waiting), *self._passed()]:
            os.close(fd)
        if self._observer is not None:
            self._observer.close(in_child=True)

    def _look_after_reporter(self, reporter: Reporter) -> None:
        reporter.reap()
        if time.monotonic() < reporter.start_at:
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        channel = reporter.start(self._processes, is_ending=bool(self._stopping))
        if channel is not None:
            raise Born(lambda: self._report(reporter, channel))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _report(self, reporter: Reporter, channel: socket.socket) -> int:
        """The child that reports: all of its life."""
        signal.set_wakeup_fd(-1)
        self._leave_parent()
        for listener in self.listeners:
            listener.close()
        pages = [self.pages(slot) for slot in range(self.n_workers)]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return reporter.work(channel, pages, self._learned, self.policy, has_tls=self.scheme == "https", since=self._since)

    def _work(self, process: Process) -> int:
        """A worker: all of its life. The parent's ends are closed, or nobody would notice the parent's death."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD, *signals.IGNORED, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):  # of a terminal they come to all; we are told
            signal.signal(number, signal.SIG_IGN)
        signals.survive()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        process.close()
        self._leave_parent()
        if self._reporter is not None:
            self._reporter.close_in_child()
        is_broken = process.shows is not None
        worker = Worker(
            process.slot,
            self.listeners,
            self.page(process.page),
            [self.pages(slot) for slot in range(self.n_workers)],
            self._learned,
            process.child_end,
            answers=process.answers,
            beat=self.beat,
            max_requests=self.draw_max_requests(),
            freshness=Freshness(self._watcher, shows_failure=is_broken) if self._watcher is not None else None,
        )
        if self._watcher is not None:
            keep_no_bytecode_of_fresh_sources()
        try:
            self.make_server(worker, process.shows).run()
        except SystemExit:
            raise
        except BaseException as error:
            failure = Failure.of(error)
            process.child_end.send(b"failed " + failure.to_bytes())
            return MISTAKE if failure.is_mistake else CRASH
        return 0

    # -- hearing -----------------------------------------------------------------------------------------------

    def _hear(self, process: Process) -> None:
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(process.channel, MAX_MESSAGE, 1)
            except OSError:
                return
            if not message:
                process.has_hung_up = True
                return
            process.heard = time.monotonic()
            word = message.partition(b" ")[0].decode()
            if word == "failed":
                process.failure = Failure.from_bytes(message.partition(b" ")[2])
            elif word == "take":
                self._pass_on(self._slots[process.slot], message.decode(), fds[0])
            elif word == "took" and process.passed:
                os.close(process.passed.popleft()[1])
            elif word == "changed" and process.state == "serving" and self._watcher is not None:
                self._reload(self._watcher.changed())
            elif word == "serving":
                self._on_serving(process)
            elif word == "closed":
                process.has_closed = True
            elif word == "retire" and process.state == "serving" and not self._slots[process.slot].starting:
                self._slots[process.slot].start_at = 0.0
                self._slots[process.slot].is_retiring = True

    def _pass_on(self, slot: Slot, message: str, fd: int) -> None:
        """A connection that a worker has given up, to the next one."""
        if slot.serving is not None:
            slot.serving.say(message, fd)
            slot.serving.passed.append((message, fd))
        elif not self._stopping:
            slot.waiting.append((message, fd))
        else:
            os.close(fd)

    def _on_serving(self, process: Process) -> None:
        if process.state == "outdated":  # it had begun to serve when it was told to end
            process.kill_at = self._end_of_drain()
            process.say("outdated")
            return
        slot = self._slots[process.slot]
        predecessor, slot.serving, slot.starting = slot.serving, process, None
        process.state = "serving"
        slot.is_retiring = False
        if self._stopping:
            process.kill_at = self._end_of_drain() if self._stopping != "now" else process.kill_at
            process.say(self._stopping)
            return
        if predecessor is not None:
            self._dismiss(predecessor, "leave")
        waiting, slot.waiting = slot.waiting, []
        for message, fd in waiting:
            self._pass_on(slot, message, fd)
        self.logger.log(
            logging.INFO if self._was_ready else logging.DEBUG, "worker %d (pid %d) serves", process.slot, process.pid
        )
        if not self._was_ready and all(slot.serving for slot in self._slots):
            self._was_ready = True
            self._began = time.monotonic()
            self._announce()
        if self._was_ready and not self._rolling and not any(slot.starting for slot in self._slots):
            self.notifier.ready()

    def _announce(self) -> None:
        where, admin = addresses(self.listeners, self.scheme), self._reporter.port if self._reporter is not None else None
        tls = self.scheme == "https"
        self.logger.info("%s", telling.several(self.n_workers, "worker", self.policy, where, tls=tls, admin=admin))

    def _dismiss(self, process: Process, word: str) -> None:
        process.state = "leaving"
        process.kill_at = time.monotonic() + self.policy.drain_timeout + KILL_AFTER_DRAIN
        process.say(word)

    # -- the ends of workers -------------------------------------------------------------------------------------

    def _reap(self) -> None:
        for process in list(self._processes):
            pid, status = os.waitpid(process.pid, os.WNOHANG)
            if pid:
                self._hear(process)  # its last words
                self._processes.remove(process)
                process.close()
                while process.passed:  # it ended before it heard of them
                    self._pass_on(self._slots[process.slot], *process.passed.popleft())
                _core.settle_counters(self.page(process.page), "error")
                self._on_end(process, os.waitstatus_to_exitcode(status))
        if os.getpid() == 1:
            self._bury_orphans()

    def _bury_orphans(self) -> None:
        """The first process of a container inherits those whose parents are gone, and nobody else can wait for them."""
        ours = {process.pid for process in self._processes}
        if self._reporter is not None:
            ours.add(self._reporter.pid)
        try:
            while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and found.si_pid not in ours:
                os.waitpid(found.si_pid, 0)
        except ChildProcessError:
            pass  # nobody is left

    def _on_end(self, process: Process, status: int) -> None:
        slot, now = self._slots[process.slot], time.monotonic()
        self._helpers = {i: helper for i, helper in self._helpers.items() if helper is not process}
        was_starting, was_serving = slot.starting is process, slot.serving is process
        if was_starting:
            slot.starting = None
        if was_serving:
            slot.serving = None
        if process.state == "outdated":
            slot.start_at = now
            return
        if self._stopping or not (was_starting or was_serving):
            self.logger.debug("worker %d (pid %d) exited with status %d", process.slot, process.pid, status)
        elif was_starting and self._watcher is not None and slot.serving is None:
            self._on_broken(process, slot, status)
        elif was_starting and not self._was_ready:
            self._tell_failure(process)
            self.logger.error("worker %d (pid %d) did not start: status %d", process.slot, process.pid, status)
            self._status = MISTAKE if status == MISTAKE else CRASH
            self._stop("now")
        elif was_starting and not slot.is_retiring and slot.serving is not None:
            # What was to be replaced goes on; another attempt is worth while when something has changed.
            self._tell_failure(process)
            self.logger.error(
                "the new worker %d (pid %d) did not start: status %d; the old one keeps serving",
                process.slot,
                process.pid,
                status,
            )
            self._rolling.clear()
            self.notifier.ready()
        else:
            self._tell_failure(process)
            slot.n_failures = 0 if was_serving and now - process.since > SETTLED_AFTER else slot.n_failures + 1
            wait = min(MAX_BACKOFF, MIN_BACKOFF * 2.0 ** (slot.n_failures - 2)) if slot.n_failures > 1 else 0.0
            self.logger.error(
                "worker %d (pid %d) exited with status %d; the next one starts %s",
                process.slot,
                process.pid,
                status,
                f"in {wait:g} s" if wait else "at once",
            )
            slot.start_at = now + wait

    def _tell_failure(self, process: Process) -> None:
        """Once, when all workers fail alike."""
        failure = process.failure
        if failure is None or failure.text + failure.title in self._told_failures:
            return
        self._told_failures.add(failure.text + failure.title)
        if failure.is_mistake:
            self.logger.error("%s", failure.title)
        else:
            self.logger.error("worker %d failed\n%s", process.pid, failure.text.rstrip())

    def _on_broken(self, process: Process, slot: Slot, status: int) -> None:
        """Under reload: nobody serves, and clients may wait. Have them told why, unless there is other code already."""
        assert self._watcher is not None
        if changed := self._watcher.changed():
            self._reload(changed)
            return
        self._tell_failure(process)
        if process.shows is not None:
            self.logger.error("not even the page about it could be served; waiting for a change")
            return
        self.logger.error("the application did not start: clients are told why, until a file changes")
        slot.shows = process.failure or Failure(f"the worker exited with status {status} before it served")
        slot.start_at = time.monotonic()

    def _kill_overdue(self, now: float) -> None:
        for process in self._processes:
            is_silent = self.beat and process.state == "serving" and now - process.heard > 2 * self.beat
            if now < process.kill_at and not is_silent:
                continue
            why = "its event loop does not respond" if is_silent else "it did not exit in time"
            self.logger.error("killing worker %d (pid %d): %s", process.slot, process.pid, why)
            process.kill_at = process.heard = now + KILL_AFTER_NOW
            os.kill(process.pid, signal.SIGKILL)

    def _balance(self) -> None:
        """Have every listener watched: by its slot's worker, else by the next slot that has one."""
        for i, listener in enumerate(self.listeners):
            if listener.slot is None or self._stopping:
                continue
            around = [self._slots[(listener.slot + k) % self.n_workers].serving for k in range(self.n_workers)]
            helper = next((process for process in around if process is not None), None)
            if helper is around[0]:
                helper = None  # its own, which needs no telling
            before = self._helpers.get(i)
            if before is helper:
                continue
            if helper is not None:
                helper.say(f"watch {i}")
                self._helpers[i] = helper
            else:
                self._helpers.pop(i)
            if before is not None:
                before.say(f"unwatch {i}")

    # -- signals and time ----------------------------------------------------------------------------------------

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            is_first = not self._stopping
            if is_first and self._was_ready:
                self._tell_stopping(by_keyboard=number == signal.SIGINT)
            self._stop(("stop" if number == signal.SIGTERM else "interrupt") if is_first else "now")
        elif number == signal.SIGQUIT:
            self._stop("now")
        elif number == signal.SIGUSR1:
            signals.reopen(self.logger)
            for process in self._processes:
                process.say("reopen")
            if self._reporter is not None:
                self._reporter.say("reopen")
        elif number in signals.IGNORED:
            signals.ignore(number, self._told, self.logger)
        elif number == signal.SIGHUP and not self._stopping:
            self.logger.info("SIGHUP: replacing the workers one by one")
            self._share_tickets()
            self._roll()

    def _share_tickets(self) -> None:
        if self.scheme == "https":
            from kacore.server.tls import share_tickets

            share_tickets()

    def _counted(self) -> dict[str, Any]:
        found: dict[str, Any] = _core.sum_counters(self._pages)
        return found

    def _tell_stopping(self, *, by_keyboard: bool) -> None:
        n_open = self._counted()["open"]
        self.logger.info("%s", telling.stopping_workers(n_open, self.policy.drain_timeout, by_keyboard=by_keyboard))

    def _roll(self) -> None:
        self.notifier.reloading()
        self._told_failures.clear()
        self._rolling = list(range(self.n_workers))

    def _stop(self, word: str) -> None:
        self.notifier.stopping()
        self._stopping = word
        if self._reporter is not None:
            self._reporter.say("ending")
        self._rolling.clear()
        for process in self._processes:
            process.kill_at = time.monotonic() + KILL_AFTER_NOW if word == "now" else self._end_of_drain()
            process.say(word)
            if process.state in ("starting", "outdated"):
                self._end_starting(process)

    def _end_of_drain(self) -> float:
        """When a worker that is told to end now must be gone."""
        return time.monotonic() + self.policy.drain_lame_duck + self.policy.drain_timeout + KILL_AFTER_DRAIN

    def _end_starting(self, process: Process) -> None:
        """It has no connection yet, and perhaps no ear for us."""
        process.kill_at = min(process.kill_at, time.monotonic() + KILL_STARTING)
        os.kill(process.pid, signal.SIGTERM)

    def _look_after(self, now: float) -> None:
        if self.beat and now >= self._next_ping:
            self._next_ping = now + self.beat
            self.notifier.alive()
        if self._watcher is not None and now >= self._next_look and not self._stopping:
            changed = self._watcher.changed()
            is_told = self._observer is not None
            self._next_look = time.monotonic() + max(self._watcher.look_every, LOOK_EVERY_IF_TOLD if is_told else 0.0)
            if changed:
                self._reload(changed)

    # -- changes of the source ----------------------------------------------------------------------------------

    def _hear_observer(self) -> None:
        assert self._observer is not None
        has_news = self._observer.has_news()
        if has_news is None:
            self._end_observer()
        if has_news is not False:
            self._next_look = 0.0

    def _reload(self, changed: list[str]) -> None:
        """Have every worker replaced, and none answer any more with what it has loaded before."""
        names = ", ".join(map(os.path.relpath, changed[:3])) or "the source"
        self.logger.info("%s changed: reloading", names)
        self.notifier.reloading()
        self._rolling.clear()
        self._told_failures.clear()
        for process in self._processes:
            if process.state == "starting":  # it may have read the file before
                process.state = "outdated"
                self._end_starting(process)
            elif process.state == "serving":
                self._dismiss(process, "outdated")
        for slot in self._slots:
            slot.serving, slot.shows, slot.n_failures = None, None, 0
            slot.start_at = time.monotonic() if slot.starting is None else slot.start_at

    def _end_observer(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.close()

    def close(self) -> None:
        """Give up the listening sockets, which the end of run() does, too; not in a worker, who has them from us."""
        if os.getpid() != self._pid:
            return
        for listener in self.listeners:
            listener.refuse()
            listener.close()
        for slot in self._slots:
            while slot.waiting:
                os.close(slot.waiting.pop()[1])
