"""`Server`: an application, a policy and listening sockets, served in an event loop.

    kacore.Server(app, policy=kacore.Policy(keep_alive_timeout=30)).run()

or, inside a running asyncio or uvloop loop, `await server.serve()`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from kacore import _core
from kacore._core import ConnectionTable
from kacore._version import __version__
from kacore.config.fields import method_keywords_of
from kacore.config.options import ServerOptions
from kacore.errors import UsageError
from kacore.policy import Policy, PolicySet
from kacore.policy.remarks import unheard, voided
from kacore.server import logs, signals
from kacore.server.calls import Calls
from kacore.server.lifespan import Lifespan, LifespanError, Mode
from kacore.server.listening import Listener, addresses, most_connections, open_listeners, raise_descriptor_limit
from kacore.server.loading import Interface, detect_interface, load
from kacore.server.options import ServerKeywords
from kacore.server.races import HeaderlessLog, RaceLog, both
from kacore.server.systemd import Notifier
from kacore.server.tls import FixedTLS
from kacore.server.transports import TransportsServer

# How often a drain looks whether the last connection is gone, in seconds.
DRAIN_POLL = 0.01
# For handshakes that are under way when nobody new is let in, in seconds: a round trip over a long way.
LAST_CALL = 0.1
# At the deadline of a drain the engine says 503 to whom it may, in seconds: a step of it, and the wait for its turn.
LAST_WORD = 0.1
# In a hurry, what drain_grace is at most: for requests that are under way on idle connections.
HURRIED_GRACE = 0.2
# What the application's shutdown gets when we must end now.
SHUTDOWN_AT_ONCE = 0.1


class Server:
    """Serves one application until it is told to stop.

    app: ASGI 3 or WSGI application, or a handler: `def handler(request) -> bytes | str | Response`, also async; or where it
    is, "module:name". Keywords: the options of kacore/config/options.py, and policy, tls and sockets; `help(kacore.Server)`
    and docs/options.md say what each is.

    Raises UsageError (a ValueError) for arguments that cannot be served. shutdown(), set_policy() and
    reload_certificates() may be called from any thread, and from a signal handler; the rest is for the loop's thread.
    """

    @method_keywords_of(ServerKeywords)
    def __init__(self, app: Callable[..., Any] | str, options: ServerKeywords) -> None:
        """See Server."""
        self.options = options
        tls, policy, worker = options.tls, options.policy, options.worker
        self.websockets = options
        self.date_header = options.date_header
        self._field_lines = field_lines_of(options)
        self.access_log, self.proxy_protocol = options.access_log, options.proxy_protocol
        self.trusted = list(options.forwarded_allow_ips)
        self.io = chosen_io(options.io)
        self._admin = AdminServer(self, options.admin, options.admin_hosts) if options.admin is not None else None
        if worker is not None and self.admin_port == 0:
            raise UsageError(f"admin={options.admin!r}: several workers share one port, which must be named")
        self.app: Callable[..., Any] = load(app) if isinstance(app, str) else app
        self.interface: Interface = detect_interface(self.app) if options.interface == "auto" else options.interface
        self.loop, self.threads, self.root_path = options.loop, options.threads, options.root_path
        self.server_name, self.pathsend = options.server_name, options.pathsend
        self.tls = FixedTLS(tls) if isinstance(tls, ssl.SSLContext) else tls
        self.logger = logging.getLogger("kacore.error")
        self.worker = worker
        self.table = ConnectionTable(policy, counters=worker.counters if worker is not None else None)
        self._policy: Policy | PolicySet = policy or Policy()
        self._lifespan: Mode = options.lifespan
        self._listeners: list[Listener] = worker.listeners if worker is not None else []
        self._notifier: Notifier | None = None
        self._engine: Any = None
        self._runner: Any = None  # of coroutines; None for WSGI
        self._started = asyncio.Event()
        self._stop = asyncio.Event()
        self._is_hurried = False  # short grace for idle connections
        self._must_end = asyncio.Event()
        self._calls = Calls()
        self._is_ending = self._ends_now = False  # what the two events say, at once for every thread
        self.is_quiet = False  # no line at the start
        self.has_successor = False  # another process accepts from the same sockets

    # -- asking ------------------------------------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        """The Policy of the server as a whole: of a PolicySet its default."""
        return self._policy if isinstance(self._policy, Policy) else self._policy.default

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
        return self._engine is not None and not self._is_ending

    def stats(self) -> dict[str, Any]:
        """The counters of the table; while serving also those of the engine under "engine", and under "tasks" how many
        requests finished at once, were adopted by a waiting task, or got a Task of their own; of a worker, those of all
        worker processes under "workers", see Worker.stats. Cost: about 10 us, and as much for each worker."""
        stats: dict[str, Any] = self.table.stats()
        if self._engine is not None:
            stats["engine"] = self._engine.stats()
            if self._runner is not None:
                stats["tasks"] = self._runner.stats()
        if self.worker is not None:
            stats["workers"] = self.worker.stats()
        return stats

    def connections(self, limit: int = 1000) -> list[dict[str, Any]]:
        """At most `limit` of the open connections of this process: client, phase, class, requests. Cost: about 1 us for
        each place in use."""
        return self._engine.connections(limit) if self._engine is not None else []

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
        self._calls.ask(lambda: self._set_policy(policy))

    def _set_policy(self, policy: Policy | PolicySet) -> None:
        self.table.set_policy(policy)
        self._policy = policy
        if self._engine is not None:
            self._engine.set_classes(policy)
            self._engine.wake()  # something may be due earlier now

    def _policy_with(self, **fields: Any) -> Policy | PolicySet:
        if isinstance(self._policy, Policy):
            return self._policy.replace(**fields)
        return self._policy.replace_default(**fields)

    def reload_certificates(self) -> None:
        """Read the certificates again, for connections made from now on; open ones stay as they are. What cannot be
        used is logged, and the old ones stay in use. From any thread."""
        if self.tls is not None:
            try:
                self.tls.reload()
                self.logger.info("the certificates were read again")
            except UsageError as error:
                self.logger.error("the old certificates stay in use: %s", error)

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
        """Serve in a new event loop until SIGTERM or SIGINT. Raises UsageError, e.g. for a port in use."""
        self.bind()
        _core.return_large_blocks()
        if self.worker is None:
            self._notifier = Notifier()
        with asyncio.Runner(loop_factory=loop_factory(self.loop)) as runner:
            runner.run(self.serve())

    def bind(self) -> None:
        """Make the listening sockets, if that was not done yet. UsageError when an address cannot be had."""
        if self._listeners:
            return
        options = self.options
        if options.sockets is not None:
            self._listeners = [Listener(sock, is_own=False) for sock in options.sockets]
            return
        self._listeners = open_listeners(
            options.addresses(),
            options.fds,
            backlog=options.backlog,
            uds_mode=options.uds_mode,
            reuse_port=options.reuse_port,
        )

    def close(self) -> None:
        """Give up the sockets of bind(), which the end of serving does, too. More than once: no harm."""
        for listener in self._listeners:
            if self.worker is None:
                listener.refuse()
            listener.close()

    def listen(self, listener: Listener) -> None:
        """Serve one of the listeners from now on."""
        self._engine.listen(listener.sock, tls=self.tls)

    def unlisten(self, listener: Listener) -> None:
        """Leave it to another process, which serves it already."""
        if self._engine is not None and listener.sock.fileno() >= 0:
            self._engine.unlisten(listener.sock, is_last=False)

    async def serve(self, *, handle_signals: bool = True) -> None:
        """Serve in the running loop until shutdown(), or SIGTERM or SIGINT.

        handle_signals: take those two over while serving, and those of docs/workers.md; only ever in the main thread.
        """
        if self.worker is None:
            raise_descriptor_limit(self.policy.max_connections, self.logger)
        if self.io == "transports" and (most := most_connections()) < self.policy.max_connections:
            self.set_policy(self._policy_with(max_connections=most))
        loop = asyncio.get_running_loop()
        self._calls.begin(loop)
        lifespan = Lifespan(self.app, self._lifespan if self.interface == "asgi" else "off", self.logger)
        handled = self._handle_signals(loop) if handle_signals else []
        application = None
        try:
            if self._admin is not None:
                await self._admin.start(is_shared=self.worker is not None or self.options.reuse_port)
            if not await self._start_lifespan(lifespan):
                return
            self.bind()
            application = self._application(loop, lifespan)
            if self.interface != "wsgi":
                self._runner = await self._probed(application.runner)
            self._engine = self._made_engine(loop, application)
            for listener in self._listeners:
                if self.worker is None or self.worker.watches(listener):
                    self.listen(listener)
            if self.io == "transports":
                await self._engine.started()
            else:
                loop.add_reader(self._engine.fileno(), self._engine.step)
            self._announce(loop)
            self._started.set()
            await self._stop.wait()
            if self._notifier is not None:
                self._notifier.stopping()
            await self._drain(loop)
        except LifespanError as error:
            raise UsageError(str(error)) from None
        finally:
            self._started.set()
            self._end(loop, application)
            await self._end_lifespan(lifespan)
            if self._admin is not None:
                await self._admin.stop()
            for number in handled:
                loop.remove_signal_handler(number)
            self._calls.end()

    def _made_engine(self, loop: asyncio.AbstractEventLoop, application: Any) -> Any:
        """Who moves the bytes: the engine, or the loop's transports behind the same face."""
        options: dict[str, Any] = {
            "limits": self._policy.limits(),
            "max_buffer_bytes": self.policy.max_buffer_bytes,
            "server_name": self.server_name,
            "access_log": logs.access_log(self.access_log),
            "on_closed": both(
                logs.closed_log(self.logger), HeaderlessLog(self.policy, self.logger) if self.proxy_protocol else None
            ),
            "on_race": RaceLog(self.policy, self.logger),
        }
        if self.io == "transports":
            engine: Any = TransportsServer(self.table, application, loop, **options)
        else:
            engine = _core.Engine(
                self.table,
                application,
                call_soon=loop.call_soon,
                on_notice=logs.notice_log(self.logger),
                **options,
            )
        engine.set_fields(self._field_lines, date=self.date_header)
        engine.trust(self.trusted, proxy_protocol=self.proxy_protocol)
        engine.set_classes(self._policy)
        return engine

    def _application(self, loop: asyncio.AbstractEventLoop, lifespan: Lifespan) -> Any:
        if self.interface == "asgi":
            return _core.AsgiApplication(
                self.app,
                loop,
                self.logger,
                state=lifespan.state,
                root_path=self.root_path,
                scheme=self.scheme,
                websocket=self._websocket(loop),
                pathsend=self.pathsend,
            )
        if self.interface == "handler":
            return _core.HandlerApplication(self.app, loop, self.logger, scheme=self.scheme)
        return _core.WsgiApplication(
            self.app,
            self.logger,
            self._wake,
            threads=self.threads,
            scheme=self.scheme,
            multiprocess=self.worker is not None,
            script_name=self.root_path,
            max_response_buffer=self.policy.max_response_buffer,
        )

    def _websocket(self, loop: asyncio.AbstractEventLoop) -> Callable[..., bool]:
        """What takes a request for a websocket. The library is imported for the first one, since that takes a quarter
        of a server's start; where it is missing that is said once, and the request is plain HTTP."""
        takes: Callable[..., bool] | None = None

        def take(*request: Any) -> bool:
            nonlocal takes
            if takes is None:
                takes = self._made_websockets(loop)
            return takes(*request)

        return take

    def _made_websockets(self, loop: asyncio.AbstractEventLoop) -> Callable[..., bool]:
        try:
            from kacore.server.websocket import WebSockets
        except ImportError:
            self.logger.warning("a client asked for a websocket: install kacore[websockets] to serve them")
            return lambda *_: False
        return WebSockets(loop, self.logger, self.websockets)

    async def _probed(self, runner: Any) -> Any:
        """Requests run without a Task of their own where this interpreter and loop allow it."""
        why_not = await runner.probe()
        if why_not is not None:
            self.logger.info("every request gets a Task of its own: %s", why_not)
        return runner

    def _wake(self) -> None:
        engine = self._engine
        if engine is not None:
            engine.wake()

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> list[signal.Signals]:
        if threading.current_thread() is not threading.main_thread():
            return []
        others = signals.handle(loop, self.logger)
        if self.worker is not None:
            return [*self.worker.attach(self, loop), *others]
        if not signals.is_caught(signal.SIGQUIT):
            loop.add_signal_handler(signal.SIGQUIT, lambda: self.shutdown(now=True))
            others.append(signal.SIGQUIT)
        loop.add_signal_handler(signal.SIGTERM, self.shutdown)
        loop.add_signal_handler(signal.SIGINT, lambda: self.shutdown(hurry=True))
        # Without certificates there is nothing to read again, and a terminal that goes away must cost no request.
        loop.add_signal_handler(signal.SIGHUP, self.shutdown if self.tls is None else self.reload_certificates)
        return [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *others]

    def _announce(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.is_quiet:
            return
        if self.worker is None or self.worker.slot == 0:
            policies = self._policy if isinstance(self._policy, PolicySet) else PolicySet(self._policy)
            where = [listener.address.removeprefix("http://") for listener in self._listeners]
            for text in [*voided(policies), *unheard(policies, where)]:
                self.logger.warning("%s", text)
        if self.worker is not None:
            self.worker.serving(self, loop)
            return
        if self._notifier is not None:
            self._notifier.ready()
            if self._notifier.watchdog is not None:
                repeat(loop, self._notifier.watchdog / 2, self._notifier.alive)
        self.logger.info(
            "kacore %s serves %s on %s (%s%s, pid %d, at most %d connections and %d MiB for them%s)",
            __version__,
            self.interface.upper() if self.interface != "handler" else "a handler",
            ", ".join(self.addresses),
            type(loop).__module__.partition(".")[0],
            "" if self.io == "epoll" else "'s transports, without the memory and speed of the engine",
            os.getpid(),
            self.policy.max_connections,
            -(-self.policy.worst_case_bytes(tls=self.tls is not None) // (1 << 20)),
            f", admin on port {self.admin_port}" if self.admin_port is not None else "",
        )

    async def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """Refuse nobody who got in, answer what can be answered, then be gone.

        With a successor in place its listeners are simply left to it. Else newcomers are kept from beginning to
        connect, then those who had begun are let in, and only then the sockets are closed.
        """
        policy, engine = self.policy, self._engine
        if self._admin is not None and self.has_successor:
            await self._admin.stop()  # who asks is to hear of those who stay
        if not self._is_hurried and not self.has_successor:
            await self._wait_for_room(policy.drain_lame_duck, is_idle=False)
        grace, spread = policy.drain_grace, policy.drain_spread
        if self._is_hurried:
            grace, spread = min(grace, HURRIED_GRACE), 0.0
        engine.drain(grace=grace, spread=spread, timeout=policy.drain_timeout)
        deadline = loop.time() + policy.drain_timeout
        if not self.has_successor:
            for listener in self._listeners:
                listener.refuse()
            await self._wait_for_room(LAST_CALL, is_idle=False)
        for listener in self._listeners:
            engine.unlisten(listener.sock, is_last=not self.has_successor)
            listener.close()
        if self.worker is not None:
            self.worker.closed()
        await self._wait_for_room(deadline - loop.time() + LAST_WORD, is_idle=True)

    async def _wait_for_room(self, seconds: float, *, is_idle: bool) -> None:
        """Wait, but not when we must end now; is_idle: nor when no connection is left but those that linger."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while (left := deadline - loop.time()) > 0 and not self._must_end.is_set():
            if is_idle and len(self.table) == self.table.stats()["phases"]["linger"]:
                return
            await asyncio.sleep(min(left, DRAIN_POLL))

    def _end(self, loop: asyncio.AbstractEventLoop, application: Any) -> None:
        if self._engine is not None:
            if self.io == "epoll":
                loop.remove_reader(self._engine.fileno())
            self._engine.close()
            self._engine = None
        if self._runner is not None:
            self._runner.close()
            self._runner = None
        elif application is not None:
            application.stop()
        self.close()

    async def _start_lifespan(self, lifespan: Lifespan) -> bool:
        """Whether the application is up. Not when we are told to end before: a start-up is not waited for."""
        startup = asyncio.ensure_future(lifespan.startup())
        is_over = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait([startup, is_over], return_when=asyncio.FIRST_COMPLETED)
            if startup.done():
                startup.result()
                return True
            self.logger.info("told to end before the application had started")
            return False
        finally:
            is_over.cancel()
            if startup.cancel():
                await asyncio.wait([startup])

    async def _end_lifespan(self, lifespan: Lifespan) -> None:
        """The application may take its time to shut down, until we are told to end now."""
        shutdown = asyncio.ensure_future(lifespan.shutdown())
        is_hurried = asyncio.ensure_future(self._must_end.wait())
        await asyncio.wait([shutdown, is_hurried], return_when=asyncio.FIRST_COMPLETED)
        is_hurried.cancel()
        if not shutdown.done():
            await asyncio.wait([shutdown], timeout=SHUTDOWN_AT_ONCE)
            shutdown.cancel()


class AdminServer:
    """The admin listener of a server: another Server in the same loop, for as long as the first one serves."""

    def __init__(self, server: Server, where: str, hosts: Iterable[str]) -> None:
        from kacore.server import admin

        self.host, self.port = admin.parse_admin(where)
        self._handler = admin.Admin(server, self.host, hosts)
        self._policy, self._send_buffer = admin.POLICY, admin.SEND_BUFFER
        self._io = server.io
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self, *, is_shared: bool) -> None:
        """Listen and serve. is_shared: other processes do, too. UsageError."""
        listeners = open_listeners([f"[{self.host}]:{self.port}"], reuse_port=is_shared)
        self.port = listeners[0].port
        sockets = [listener.sock for listener in listeners]
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)  # of its connections
            if hasattr(socket, "TCP_DEFER_ACCEPT"):  # seconds; who has not said anything yet takes no place, and loses none
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
        options: dict[str, Any] = {"policy": self._policy, "sockets": sockets, "server_name": "", "io": self._io}
        self._server = Server(self._handler, interface="asgi", lifespan="off", **options)
        self._server.is_quiet = True
        self._serving = asyncio.create_task(self._server.serve(handle_signals=False), name="kacore-admin")
        await self._server.started()

    async def stop(self) -> None:
        """At once: nobody needs a drain here. More than once: no harm."""
        if self._server is not None and self._serving is not None:
            self._server.shutdown(now=True, hurry=True)
            await self._serving
            self._server = self._serving = None


def repeat(loop: asyncio.AbstractEventLoop, seconds: float, call: Callable[[], object]) -> None:
    """Call it now and every so many seconds, for as long as the loop runs."""
    call()
    loop.call_later(seconds, repeat, loop, seconds, call)


def field_lines_of(options: ServerOptions) -> bytes:
    """The fields of every response. UsageError."""
    try:
        return _core.field_lines(options.headers)
    except ValueError as error:
        raise UsageError(f"headers: {error}") from None


def chosen_io(io: str) -> str:
    """UsageError."""
    if io == "epoll" and not _core.has_epoll:
        raise UsageError(f"io=epoll: this build of kacore for {sys.platform} has no epoll")
    return "epoll" if io != "transports" and _core.has_epoll else "transports"


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """UsageError when uvloop is asked for and not installed."""
    if name != "asyncio":
        try:
            import uvloop
        except ImportError:
            if name == "uvloop":
                raise UsageError("loop=uvloop: uvloop is not installed (pip install kacore[uvloop])") from None
        else:
            factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
            return factory
    return asyncio.new_event_loop
