"""`Server`: an application, a policy and listening sockets, served in an event loop.

    kacore.Server(app, policy=kacore.Policy(keep_alive_timeout=30)).run()

or, inside a running asyncio or uvloop loop, `await server.serve()`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from kacore import _core
from kacore._core import ConnectionTable
from kacore._version import __version__
from kacore.config.fields import method_keywords_of
from kacore.errors import UsageError
from kacore.policy import Policy, PolicySet
from kacore.policy.remarks import unheard, voided
from kacore.server import logs, signals, telling
from kacore.server.access import access_log
from kacore.server.assembly import chosen_io, field_lines_of, made_application, made_driver, policy_set, probe
from kacore.server.calls import Calls
from kacore.server.departure import Departure, Terms
from kacore.server.learned import Learned
from kacore.server.lifespan import Lifespan, LifespanError
from kacore.server.listening import Listener, addresses, most_connections, open_listeners_of
from kacore.server.loading import Interface, detect_interface, load, of_version_2
from kacore.server.loops import loop_factory
from kacore.server.options import ServerKeywords
from kacore.server.place import Alone, Place
from kacore.server.tls import FixedTLS

if TYPE_CHECKING:
    from kacore.server.admin import AdminServer
    from kacore.server.drivers import LoopEngine, LoopTransports


class Server:
    """Serves one application until it is told to stop.

    app: ASGI 3 or WSGI application, or a handler: `def handler(request) -> bytes | str | Response`, also async; or where it
    is, "module:name". Keywords: the options of kacore/config/options.py, and policy, tls and sockets; `help(kacore.Server)`
    and docs/options.md say what each is.

    Raises UsageError (a ValueError) for arguments that cannot be served. shutdown(), set_policy() and
    reload_certificates() may be called from any thread, and from a signal handler, and stats(), connections() and learned()
    from any thread; the rest is for the loop's thread.
    """

    @method_keywords_of(ServerKeywords)
    def __init__(self, app: Callable[..., Any] | str, options: ServerKeywords) -> None:
        """See Server."""
        self.options = options
        tls, worker = options.tls, options.worker
        self._field_lines = field_lines_of(options)
        self.io = chosen_io(options.io)
        self._admin = None
        if options.admin is not None and worker is None:  # of workers a process of its own reports
            self._admin = self._made_admin(options.admin, options.admin_hosts)
        self.app: Callable[..., Any] = of_version_2(load(app) if isinstance(app, str) else app)
        self.interface: Interface = detect_interface(self.app) if options.interface == "auto" else options.interface
        self.tls = FixedTLS(tls) if isinstance(tls, ssl.SSLContext) else tls
        self.logger = logging.getLogger("kacore.error")
        self.place: Place = worker if worker is not None else Alone()
        self.table = ConnectionTable(options.policy, counters=self.place.counters)
        self._learned = Learned(
            self.table,
            self.logger,
            file=options.learned,
            page=self.place.learned,
            pages=self.place.all_learned,
            writes_file=self.place.warns(),
        )
        self._policies = policy_set(options.policy)
        self._listeners: list[Listener] = self.place.listeners
        self._driver: LoopEngine | LoopTransports | None = None
        self._application: Any = None
        self._started = asyncio.Event()
        self._stop = asyncio.Event()
        self._is_hurried = False  # short grace for idle connections
        self._must_end = asyncio.Event()
        self._calls = Calls()
        self._is_ending = self._ends_now = False  # what the two events say, at once for every thread
        self._access_log = options.access_log
        self.is_quiet = False  # no line at the start
        self.has_successor = False  # another process accepts from the same sockets
        self.is_outdated = False  # nothing more is to be answered than what has begun

    def _made_admin(self, where: str, hosts: Iterable[str]) -> AdminServer:
        from kacore.server.admin import AdminServer  # with what it needs: most servers have none
        from kacore.server.subject import OneServer

        return AdminServer(OneServer(self), where, hosts, make_server=Server, io=self.io)

    async def _start_admin(self, admin: AdminServer) -> None:
        from kacore.server.admin import open_admin

        await admin.start(open_admin(str(self.options.admin), reuse_port=self.options.reuse_port))

    # -- asking ------------------------------------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        """The Policy of the server as a whole: of a PolicySet its default."""
        return self._policies.default

    @property
    def port(self) -> int:
        """The port that is listened on; with port=0 known once the sockets are bound."""
        return next((listener.port for listener in self._listeners if listener.port), self.options.port or 0)

    @property
    def addresses(self) -> list[str]:
        """What is listened on: "http://127.0.0.1:8000", "unix:/run/app.sock"."""
        return addresses(self._listeners, self.scheme)

    @property
    def url(self) -> str:
        """Where a client on this machine finds it, without a slash at the end: "http://127.0.0.1:8000"."""
        found = next((address for address in self.addresses if not address.startswith("unix:")), None)
        if found is None:
            return self.addresses[0] if self.addresses else ""
        return found.replace("://0.0.0.0:", "://127.0.0.1:").replace("://[::]:", "://[::1]:")

    @property
    def scheme(self) -> str:
        """What URLs of this server begin with: "https" with TLS, else "http"."""
        return "http" if self.tls is None else "https"

    @property
    def is_ending(self) -> bool:
        """Whether shutdown() was called."""
        return self._is_ending

    @property
    def is_ready(self) -> bool:
        """Whether new clients are welcome: connections are accepted, and no end is in sight."""
        return self._driver is not None and not self._is_ending

    def stats(self) -> dict[str, Any]:
        """The counters of the table; while serving also those of the engine under "engine", and under "tasks" how many
        requests finished at once, were adopted by a waiting task, or got a Task of their own; of a worker, those of all
        worker processes under "workers", see Worker.stats. Cost: about 10 us, and as much for each worker.

        As connections() and learned() from any thread; without a GIL they are answered in the loop's."""
        return self._calls.look(self._stats)

    def _stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = self.table.stats()
        if self.tls is None:
            stats["tls"] = None
        if self._driver is not None:
            stats["engine"] = self._driver.stats()
            stats["http2"] = self._driver.http2_open()
            if self.interface != "wsgi":
                stats["tasks"] = self._application.runner.stats()
        return stats | self.place.stats()

    def connections(self, limit: int = 1000) -> list[dict[str, Any]]:
        """At most `limit` of the open connections of this process: client, phase, class, requests. Cost: about 1 us for
        each place in use."""
        return self._calls.look(lambda: self._driver.connections(limit) if self._driver is not None else [])

    def learned(self, limit: int = 1000) -> list[dict[str, Any]]:
        """What is known of the idle timeouts of at most `limit` client networks, as ConnectionTable.learned(): trusted
        proxies and unix sockets first. Of this process."""
        return self._calls.look(lambda: self.table.learned(time.monotonic(), limit))

    def busiest(self) -> list[dict[str, Any]]:
        """The client networks with most open connections, as ConnectionTable.busiest(). Of this process."""
        return self._calls.look(self.table.busiest)

    @property
    def admin_port(self) -> int | None:
        """The port of the admin listener, known once the sockets are bound; None without one."""
        return self._admin.port if self._admin is not None else None

    async def started(self) -> None:
        """Wait until connections are accepted, or until it is clear that they will not be."""
        await self._started.wait()

    # -- steering ----------------------------------------------------------------------------------------

    def set_policy(self, policy: Policy | PolicySet) -> None:
        """Another policy from now on, for open connections too. The parser's limits, max_buffer_bytes and
        max_response_buffer stay.

        From any thread; it is in force when this returns."""
        if not isinstance(policy, Policy | PolicySet):
            raise UsageError(f"policy={policy!r}: must be a kacore.Policy or kacore.PolicySet")
        self._calls.ask(lambda: self._set_policies(policy_set(policy)))

    def _set_policies(self, policies: PolicySet) -> None:
        self.table.set_policy(policies)
        self._policies = policies
        if self._driver is not None:
            self._driver.set_classes(policies)
            self._driver.wake()  # something may be due earlier now

    def reload_certificates(self) -> None:
        """Read the certificates again, for connections made from now on; open ones stay as they are. What cannot be
        used is logged, and the old ones stay in use. From any thread."""
        if self.tls is not None:
            try:
                self.tls.reload()
                self.logger.info("certificates reloaded")
            except UsageError as error:
                self.logger.error("keeping the old certificates: %s", error)

    def shutdown(self, *, now: bool = False, hurry: bool = False) -> None:
        """Stop serving: `serve()` drains and returns. From any thread, and not waited for; a second call ends at once.

        hurry: at most 0.2 s of grace for idle connections. now: cut off what is in progress, too.
        """
        self._ends_now |= now or self._is_ending
        self._is_hurried |= hurry
        self._is_ending = True
        self._calls.soon(self._say_end)

    def _say_end(self) -> None:
        if self._ends_now:
            self._must_end.set()
        self._stop.set()

    # -- serving -----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve in a new event loop until SIGTERM or SIGINT. Raises UsageError, e.g. for a port in use.

        Logging is set up as the command does, if neither kacore's logger nor the root logger has a handler."""
        if not logging.getLogger("kacore").hasHandlers():
            logs.set_up("info")
            self._access_log = self._access_log or logs.access_log_on_terminal()
        self.bind()
        _core.return_large_blocks()
        self.place.take_process()
        with asyncio.Runner(loop_factory=loop_factory(self.options.loop)) as runner:
            runner.run(self.serve())

    def bind(self) -> None:
        """Make the listening sockets, if that was not done yet. UsageError when an address cannot be had."""
        if self._listeners:
            return
        if self.options.sockets is not None:
            self._listeners = [Listener(sock, is_own=False) for sock in self.options.sockets]
        else:
            self._listeners = open_listeners_of(self.options)

    def close(self) -> None:
        """Give up the sockets of bind(), which the end of serving does, too. More than once: no harm."""
        self.place.give_up(self._listeners)

    def listen(self, listener: Listener) -> None:
        """Serve one of the listeners from now on."""
        if self._driver is not None:
            self._driver.listen(listener.sock, tls=self.tls)

    def unlisten(self, listener: Listener) -> None:
        """Leave it to another process, which serves it already."""
        if self._driver is not None and listener.sock.fileno() >= 0:
            self._driver.unlisten(listener.sock, is_last=False)

    def give_away_quiet(self) -> list[tuple[int, Any]]:
        """Sockets of connections on which nothing is going on, see Engine. Over a loop's transports, and where a PROXY
        header was read, they cannot go."""
        driver = self._driver
        return driver.give_away_quiet() if isinstance(driver, _core.Engine) and self._can_give_away else []

    @property
    def _can_give_away(self) -> bool:
        return isinstance(self._driver, _core.Engine) and self.tls is None and not self.options.proxy_protocol

    def share(self) -> None:
        """Whoever reports on all workers sees that the loop turns, and how things stand."""
        if self._driver is not None:
            self._driver.share()

    def become_outdated(self) -> None:
        """Nothing more is to be answered than what has begun, and every response says so from now on. shutdown() has to
        follow. Connections that were promised to persist are given away once they are quiet; where they cannot go, they are
        closed at once."""
        self.is_outdated = self.has_successor = True
        if self._driver is not None:
            self._outdated_terms().begin(self._driver)

    def _outdated_terms(self) -> Terms:
        terms = Terms.of(self.policy)
        return terms.hurried() if self._can_give_away else terms.at_once()

    def adopt(self, fd: int, where: Any) -> None:
        """Serve a connection that another process gave away, see Engine. LocalError, OSError."""
        if not isinstance(self._driver, _core.Engine):
            raise _core.LocalError("only the engine adopts connections")
        self._driver.adopt(fd, where)

    async def serve(self, *, handle_signals: bool = True) -> None:
        """Serve in the running loop until shutdown(), or SIGTERM or SIGINT.

        handle_signals: take those two over while serving, and those of docs/workers.md; only ever in the main thread.
        """
        self.place.prepare(self.policy, self.logger)
        if self.io == "transports" and (most := most_connections()) < self.policy.max_connections:
            self._set_policies(self._policies.replace_default(max_connections=most))
        loop = asyncio.get_running_loop()
        self._calls.begin(loop)
        lifespan = Lifespan(self.app, self.options.lifespan if self.interface == "asgi" else "off", self.logger)
        handled = self._handle_signals(loop) if handle_signals else []
        try:
            if self._admin is not None:
                await self._start_admin(self._admin)
            if not await lifespan.start(self._stop):
                return
            self.bind()
            await self._start(loop, lifespan)
            self._announce(loop)
            self._started.set()
            began = time.monotonic()
            await self._stop.wait()
            self.place.ending()
            is_told = bool(handled) and not self.place.is_one_of_several and not self.is_quiet
            if is_told:
                self.logger.info("%s", self._last_words())
            await self._leave()
            if is_told:
                seen = self.table.stats()
                self.logger.info("%s", telling.stopped(seen["requests"], seen["accepted"], time.monotonic() - began))
        except LifespanError as error:
            raise UsageError(str(error)) from None
        finally:
            self._started.set()
            self._end()
            await lifespan.end(self._must_end)
            if self._admin is not None:
                await self._admin.stop()
            for number in handled:
                loop.remove_signal_handler(number)
            self._calls.end()

    def _serve_http2(self, driver: LoopEngine | LoopTransports) -> None:
        if self.options.http2 == "off":
            return
        driver.serve_http2(max_streams=self.options.http2_max_streams, max_window=self.options.http2_max_window)
        if self.tls is not None:
            self.tls.offer_http2(is_asked=self.options.http2 == "on")

    async def _start(self, loop: asyncio.AbstractEventLoop, lifespan: Lifespan) -> None:
        """Make what serves, and accept connections."""
        self._application = made_application(
            self.interface,
            self.app,
            loop,
            self.logger,
            state=lifespan.state,
            root_path=self.options.root_path,
            scheme=self.scheme,
            websockets=self.options,
            pathsend=self.options.pathsend,
            waker=self._wake,
            threads=self.options.threads,
            max_response_buffer=self.policy.max_response_buffer,
            **self.place.wsgi(),
        )
        if self.interface != "wsgi":
            await probe(self._application, self.logger)
        driver = made_driver(
            self.io,
            self.table,
            self._application,
            self._policies,
            loop,
            self.logger,
            server_name=self.options.server_name,
            access_log=access_log(self._access_log),
            proxy_protocol=self.options.proxy_protocol,
        )
        self._driver = driver
        self._learned.start(loop)
        self._serve_http2(driver)
        driver.set_fields(self._field_lines, date=self.options.date_header)
        if self.options.request_id is not None:
            driver.make_request_ids(self.options.request_id)
        driver.trust(list(self.options.forwarded_allow_ips), proxy_protocol=self.options.proxy_protocol)
        for listener in self._listeners:
            if self.place.watches(listener):
                self.listen(listener)
        step = self.place.step_of(self, driver.step) if isinstance(driver, _core.Engine) else None
        driver.start(loop, step, is_guest=self.is_quiet)
        await driver.started()

    def _wake(self) -> None:
        driver = self._driver
        if driver is not None:
            driver.wake()

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> list[signal.Signals]:
        if threading.current_thread() is not threading.main_thread():
            return []
        return [*signals.handle(loop, self.logger), *self.place.handle_signals(self, loop)]

    def _announce(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.is_quiet:
            return
        if self.place.warns():
            where = [listener.address.removeprefix("http://") for listener in self._listeners]
            for text in [*voided(self._policies), *unheard(self._policies, where)]:
                self.logger.warning("%s", text)
        self.place.serving(self, loop)

    def introduction(self) -> str:
        """What the log says at the start."""
        loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        io = "" if self.io == "epoll" else "'s transports, without the memory and speed of the engine"
        what = self.interface.upper() if self.interface != "handler" else "a handler"
        mib = -(-self.policy.worst_case_bytes(tls=self.tls is not None) // (1 << 20))
        admin = f", admin on port {self.admin_port}" if self.admin_port is not None else ""
        return (
            f"kacore {__version__} serves {what} on {', '.join(self.addresses)} ({loop}{io}, pid {os.getpid()}, "
            f"at most {self.policy.max_connections} connections and {mib} MiB for them{admin}){telling.how_to_stop()}"
        )

    def _last_words(self) -> str:
        seconds = self.policy.drain_timeout if not self._ends_now else 0.0
        return telling.stopping(self.connections(), seconds, by_keyboard=self._is_hurried)

    async def _leave(self) -> None:
        terms = Terms.of(self.policy)
        if self.is_outdated:
            terms = self._outdated_terms()
        elif self._is_hurried:
            terms = terms.hurried()
        elif self.has_successor:
            terms = terms.without_lame_duck()
        departure = Departure(
            self._driver,
            self.table,
            terms,
            self._listeners,
            has_successor=self.has_successor,
            when_closed=self.place.closed,
        )
        await departure.leave(self._must_end)

    def _end(self) -> None:
        self._learned.stop()
        if self._driver is not None:
            self._driver.close()
            self._driver = None
        if self._application is not None:
            if self.interface == "wsgi":
                self._application.stop()
            else:
                self._application.runner.close()
            self._application = None
        self.close()
