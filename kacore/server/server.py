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
import sys
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

from kacore import _core
from kacore._core import ConnectionTable
from kacore._limits import limits_of
from kacore._version import __version__
from kacore.policy import Policy
from kacore.server.lifespan import Lifespan, LifespanError, Mode
from kacore.server.loading import INTERFACES, Interface, UsageError, detect_interface
from kacore.server.transports import TransportsServer

if TYPE_CHECKING:
    from kacore.policy import PolicySet

BACKLOG = 4096  # the kernel cuts it to net.core.somaxconn
LOOPS = ("auto", "asyncio", "uvloop")
# How often a drain looks whether the last connection is gone, in seconds.
DRAIN_POLL = 0.01


class Server:
    """Serves one application until it is told to stop.

    app:       ASGI 3 or WSGI application, or a handler: `def handler(request) -> bytes | str | Response`, also async.
    policy:    Policy or PolicySet; what connections may take. Default: Policy().
    host:      address to listen on; "" = all of IPv4 and IPv6. port: 0 = a free one, see `port` once started.
    uds:       path of a unix socket, in place of host and port. sockets: listening sockets, in place of both.
    interface: "asgi", "wsgi", "handler", or "auto": told apart by the arguments that app takes.
    loop:      "asyncio", "uvloop" or "auto" (uvloop when it is installed); only for run().
    threads:   WSGI only: at most so many requests in the application at once; 0 = in the loop's own thread.
    lifespan:  ASGI only: "auto", "on" or "off".
    root_path: what a proxy in front strips from paths: ASGI root_path, WSGI SCRIPT_NAME.
    server_name: value of the Server field; "" = none.
    io:        "epoll" (the engine, on Linux), "transports" (the loop's own), or "auto": the first that there is.
    Raises UsageError (a ValueError) for arguments that cannot be served.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        *,
        policy: Policy | PolicySet | None = None,
        host: str = "127.0.0.1",
        port: int = 8000,
        uds: str | None = None,
        sockets: Iterable[socket.socket] | None = None,
        interface: Interface | Literal["auto"] = "auto",
        loop: str = "auto",
        threads: int = 4,
        lifespan: Mode = "auto",
        root_path: str = "",
        server_name: str = "kacore",
        io: str = "auto",
    ) -> None:
        if interface != "auto" and interface not in INTERFACES:
            raise UsageError(f"interface={interface!r}: must be auto, asgi, wsgi or handler")
        if loop not in LOOPS:
            raise UsageError(f"loop={loop!r}: must be auto, asyncio or uvloop")
        if not 0 <= port <= 65535:
            raise UsageError(f"port={port}: must be between 0 and 65535")
        if not 0 <= threads <= 1024:
            raise UsageError(f"threads={threads}: must be between 0 and 1024")
        if lifespan not in ("auto", "on", "off"):
            raise UsageError(f"lifespan={lifespan!r}: must be auto, on or off")
        if io not in ("auto", "epoll", "transports"):
            raise UsageError(f"io={io!r}: must be auto, epoll or transports")
        if io == "epoll" and not _core.has_epoll:
            raise UsageError(f"io=epoll: this build of kacore for {sys.platform} has no epoll")
        self.io = io if io != "auto" else "epoll" if _core.has_epoll else "transports"
        self.app = app
        self.interface: Interface = detect_interface(app) if interface == "auto" else interface
        self.host, self._port, self.uds = host, port, uds
        self.loop, self.threads, self.root_path, self.server_name = loop, threads, root_path, server_name
        self.logger = logging.getLogger("kacore.error")
        self.table = ConnectionTable(policy)
        self._policy: Policy | PolicySet = policy or Policy()
        self._lifespan = lifespan
        self._given = list(sockets) if sockets is not None else None
        self._sockets: list[socket.socket] = []
        self._engine: Any = None
        self._runner: Any = None  # of coroutines; None for WSGI
        self._started = asyncio.Event()
        self._stop = asyncio.Event()
        self._is_hurried = False  # no grace for idle connections
        self._must_end_now = False

    # -- asking ------------------------------------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        """The Policy of the server as a whole: of a PolicySet its default."""
        return self._policy if isinstance(self._policy, Policy) else self._policy.default

    @property
    def port(self) -> int:
        """The port that is listened on; with port=0 known once the sockets are bound."""
        for sock in self._sockets:
            if sock.family != socket.AF_UNIX:
                return int(sock.getsockname()[1])
        return self._port

    @property
    def addresses(self) -> list[str]:
        """What is listened on: "http://127.0.0.1:8000", "unix:/run/app.sock"."""
        return [address_of(sock) for sock in self._sockets]

    def stats(self) -> dict[str, Any]:
        """The counters of the table; while serving, under "engine" those of the engine, and under "tasks" how many requests
        finished at once, were adopted by a waiting task, or got a Task of their own. Cost: about 10 us."""
        stats: dict[str, Any] = self.table.stats()
        if self._engine is not None:
            stats["engine"] = self._engine.stats()
            if self._runner is not None:
                stats["tasks"] = self._runner.stats()
        return stats

    async def started(self) -> None:
        """Wait until connections are accepted, or until it is clear that they will not be."""
        await self._started.wait()

    # -- steering ----------------------------------------------------------------------------------------

    def set_policy(self, policy: Policy | PolicySet) -> None:
        """Another policy from now on, for open connections too. The parser's limits and max_buffer_bytes stay."""
        self.table.set_policy(policy)
        self._policy = policy

    def shutdown(self, *, now: bool = False, hurry: bool = False) -> None:
        """Stop serving: `serve()` drains and returns. From the loop's thread; a second call ends at once.

        hurry: no grace for idle connections. now: cut off what is in progress, too.
        """
        self._must_end_now |= now or self._stop.is_set()
        self._is_hurried |= hurry
        self._stop.set()

    # -- serving -----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve in a new event loop until SIGTERM or SIGINT. Raises UsageError, e.g. for a port in use."""
        self.bind()
        with asyncio.Runner(loop_factory=loop_factory(self.loop)) as runner:
            runner.run(self.serve())

    def bind(self) -> None:
        """Make the listening sockets, if that was not done yet. UsageError when an address cannot be had."""
        if not self._sockets:
            given = self._given
            self._sockets = given if given is not None else listening_sockets(self.host, self._port, self.uds)
            for sock in self._sockets:
                sock.setblocking(False)

    async def serve(self, *, handle_signals: bool = True) -> None:
        """Serve in the running loop until shutdown(), or SIGTERM or SIGINT.

        handle_signals: take those two over while serving; only ever in the main thread.
        """
        loop = asyncio.get_running_loop()
        lifespan = Lifespan(self.app, self._lifespan if self.interface == "asgi" else "off", self.logger)
        signals = self._handle_signals(loop) if handle_signals else []
        application = None
        try:
            await lifespan.startup()
            self.bind()
            application = self._application(loop, lifespan)
            if self.interface != "wsgi":
                self._runner = await self._probed(application.runner)
            await self._listen(loop, application)
            self._announce(loop)
            self._started.set()
            await self._stop.wait()
            await self._drain(loop)
        except LifespanError as error:
            raise UsageError(str(error)) from None
        finally:
            self._started.set()
            self._end(loop, application)
            await lifespan.shutdown()
            for number in signals:
                loop.remove_signal_handler(number)

    async def _listen(self, loop: asyncio.AbstractEventLoop, application: Any) -> None:
        """Have the sockets served: by the engine, or by the loop's transports."""
        options: dict[str, Any] = {
            "limits": limits_of(self.policy),
            "max_buffer_bytes": self.policy.max_buffer_bytes,
            "server_name": self.server_name,
        }
        if self.io == "transports":
            self._engine = TransportsServer(self.table, application, loop, backlog=BACKLOG, **options)
            for sock in self._sockets:
                await self._engine.listen(sock)
            return
        engine = self._engine = _core.Engine(self.table, application, call_soon=loop.call_soon, **options)
        for sock in self._sockets:
            engine.listen(sock)
        loop.add_reader(engine.fileno(), engine.step)

    def _application(self, loop: asyncio.AbstractEventLoop, lifespan: Lifespan) -> Any:
        if self.interface == "asgi":
            return _core.AsgiApplication(
                self.app, loop, self.logger, state=lifespan.state or None, root_path=self.root_path
            )
        if self.interface == "handler":
            return _core.HandlerApplication(self.app, loop, self.logger)
        return _core.WsgiApplication(
            self.app, self.logger, self._wake, threads=self.threads, script_name=self.root_path
        )

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
        loop.add_signal_handler(signal.SIGTERM, self.shutdown)
        loop.add_signal_handler(signal.SIGINT, lambda: self.shutdown(hurry=True))
        return [signal.SIGTERM, signal.SIGINT]

    def _announce(self, loop: asyncio.AbstractEventLoop) -> None:
        self.logger.info(
            "kacore %s serves %s on %s (%s%s, pid %d, at most %d connections)",
            __version__,
            self.interface.upper() if self.interface != "handler" else "a handler",
            ", ".join(self.addresses),
            type(loop).__module__.partition(".")[0],
            "" if self.io == "epoll" else "'s transports, without the memory and speed of the engine",
            os.getpid(),
            self.policy.max_connections,
        )

    async def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """Refuse nobody who got in, answer what can be answered, then be gone."""
        policy, engine = self.policy, self._engine
        if not self._is_hurried:
            await self._pause(loop, policy.drain_lame_duck)
        grace, spread = (0.0, 0.0) if self._is_hurried else (policy.drain_grace, policy.drain_spread)
        engine.stop_listening()
        engine.drain(grace=grace, spread=spread, timeout=policy.drain_timeout)
        deadline = loop.time() + policy.drain_timeout
        while len(self.table) and loop.time() < deadline and not self._must_end_now:
            await asyncio.sleep(DRAIN_POLL)

    async def _pause(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        deadline = loop.time() + seconds
        while loop.time() < deadline and not self._must_end_now:
            await asyncio.sleep(DRAIN_POLL)

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
        for sock in self._sockets:
            sock.close()
        if self.uds is not None and os.path.exists(self.uds):
            os.unlink(self.uds)


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


def address_of(sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name if isinstance(name, str) else os.fsdecode(name)}"
    host = f"[{name[0]}]" if sock.family == socket.AF_INET6 else name[0]
    return f"http://{host}:{name[1]}"


def listening_sockets(host: str, port: int, uds: str | None) -> list[socket.socket]:
    """Sockets that listen on every address of `host`, or on the path `uds`. UsageError when one cannot be had."""
    if uds is not None:
        return [unix_socket(uds)]
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
    except socket.gaierror as error:
        raise UsageError(f"host {host!r}: {error.strerror}") from None
    sockets: list[socket.socket] = []
    for family, _, _, _, address in dict.fromkeys(found):
        if port == 0 and sockets:  # one port on all addresses
            address = (address[0], sockets[0].getsockname()[1], *address[2:])
        try:
            sockets.append(tcp_socket(family, address))
        except OSError as error:
            for sock in sockets:
                sock.close()
            reason = os.strerror(error.errno or 0)
            raise UsageError(f"cannot listen on {address[0]} port {port}: {reason}") from None
    return sockets


def tcp_socket(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Set once here and inherited by every connection: no system call for each.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def unix_socket(path: str) -> socket.socket:
    """A socket file that nobody listens on any more is replaced; one in use, or another kind of file, is not."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.exists(path) and sock.connect_ex(path) != 0:
            import stat

            if not stat.S_ISSOCK(os.stat(path).st_mode):
                raise UsageError(f"uds {path!r}: is there already and is no socket")
            os.unlink(path)
        sock.close()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise UsageError(f"cannot listen on unix socket {path!r}: {os.strerror(error.errno or 0)}") from None
    return sock


def quiet_stderr_logging(level: int) -> None:
    """Messages of kacore on stderr, for a program that has not set up logging itself."""
    logger = logging.getLogger("kacore")
    logger.setLevel(level)
    if not logger.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
