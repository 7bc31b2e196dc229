"""kacore's engine under gunicorn: `gunicorn -k kacore.embed.gunicorn.Worker app:app`, for ASGI `.ASGIWorker`.

gunicorn stays the process manager: its arbiter, listening sockets, signals, hooks, logs and statsd. Inside a worker the
engine holds the connections, and kacore's policy decides about them. `Worker` steps the engine in a plain loop, so no
event loop runs around a WSGI application; `ASGIWorker` has asyncio or uvloop watch it.

The policy: `kacore_policy` in gunicorn's configuration file, over it KACORE_* variables, over them those settings of
gunicorn that say the same and differ from gunicorn's defaults. docs/embedding-gunicorn.md lists what is heard.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import gunicorn
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.http.wsgi import WSGIErrorsWrapper
from gunicorn.sock import ssl_context
from gunicorn.workers import base

from kacore import _core
from kacore._core import AccessEntry, ConnectionTable, LocalError
from kacore.config.options import ServerOptions
from kacore.embed._gunicorn_records import KEY, Reply, Request, environ_of, has_access_log, request_of
from kacore.embed._gunicorn_settings import (
    SCRIPT_NAME,
    check_settings,
    is_set,
    policy_for,
    setting_of,
    speaks_proxy,
    time_to_leave,
)
from kacore.errors import UsageError
from kacore.policy import PolicyError
from kacore.server.assembly import driver_options, made_application, probe, table_for
from kacore.server.departure import Departure, Terms
from kacore.server.drivers import LoopEngine
from kacore.server.lifespan import Lifespan, LifespanError
from kacore.server.listening import Listener, set_inherited_options
from kacore.server.loading import Interface, detect_interface
from kacore.server.logs import notice_log
from kacore.server.loops import loop_factory, repeat
from kacore.server.races import RaceLog
from kacore.server.tls import FixedTLS

__all__ = ["ASGIWorker", "Worker"]

# The most seconds between two signs of life.
BEAT = 1.0


class Worker(base.Worker):
    """Serves a WSGI application. threads=1: in the loop's own thread; more: that many requests at once in threads."""

    interface: Interface = "wsgi"
    alive: bool
    engine: LoopEngine
    table: ConnectionTable

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Called by the arbiter when it starts."""
        check_settings(cfg, log)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.inherited = self.sockets  # those of the arbiter, and of all its workers

    def init_process(self) -> None:
        """Called by the arbiter in the child: all of its life."""
        self.next_beat = 0.0
        self.beat_every = min(BEAT, self.timeout / 2) if self.timeout else BEAT
        try:
            super().init_process()
        except (UsageError, PolicyError, LocalError, LifespanError) as error:
            self.log.error("%s", error)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def run(self) -> None:
        """Serve until SIGTERM, then leave."""
        cfg = self.cfg
        self.check_interface()
        told_by = {name.upper() for name in setting_of(cfg, "forwarder_headers", ())}
        application = _core.HostedWsgiApplication(
            self.hooked(self.wsgi),
            self.log,
            lambda: self.engine.wake(),
            threads=cfg.threads if cfg.threads > 1 else 0,
            multiprocess=cfg.workers > 1,
            scheme="https" if cfg.is_ssl else "http",
            script_name=os.fsencode(os.environ.get(SCRIPT_NAME, "")).decode("latin-1").rstrip("/"),
            is_told=not told_by.isdisjoint((SCRIPT_NAME, "*")),
            environ={"wsgi.errors": WSGIErrorsWrapper(cfg), "SERVER_SOFTWARE": gunicorn.SERVER_SOFTWARE},
        )
        self.open_engine(application)
        application.max_response_buffer = self.policies.default.max_response_buffer
        waiting = select.poll()
        waiting.register(self.engine.fileno(), select.POLLIN)
        waiting.register(self.PIPE[0], select.POLLIN)
        try:
            while self.alive:
                self.turn(waiting, self.beat_every)
            for left in self.departure().walk():
                self.turn(waiting, min(left, self.beat_every))
        finally:
            self.engine.close()
            application.stop()

    def turn(self, waiting: select.poll, seconds: float) -> None:
        """Do what there is to do, or wait for it that long at most."""
        for fd, _ in waiting.poll(math.ceil(seconds * 1000)):
            if fd == self.PIPE[0]:
                os.read(fd, 4096)
            else:
                self.engine.step()
        self.count()
        if time.monotonic() >= self.next_beat:
            self.beat()

    # -- what both workers do ----------------------------------------------------------------------------------

    def check_interface(self) -> None:
        try:
            found = detect_interface(self.wsgi)
        except UsageError:
            return  # it may still be one
        if found != self.interface and found != "handler":
            right = {"wsgi": "Worker", "asgi": "ASGIWorker"}[found]
            raise UsageError(f"the application is {found.upper()}: use -k kacore.embed.gunicorn.{right}")

    def open_engine(self, application: _core.Application, call_soon: Any = None) -> None:
        """The engine, with the policy in force, on the sockets that the arbiter made."""
        cfg, log = self.cfg, self.log
        self.policies = policy_for(cfg)
        self.table = table_for(self.policies, log)
        self.engine = LoopEngine(
            self.table,
            application,
            call_soon=call_soon,
            access_log=self.access_log(),
            on_notice=notice_log(log),
            **driver_options(self.policies, logging.getLogger("gunicorn.error"), on_race=RaceLog(self.policies.default, log)),
        )
        # Peers without an address are trusted, as by gunicorn's own workers.
        self.engine.trust([*cfg.forwarded_allow_ips, "unix"], proxy_protocol=speaks_proxy(cfg))
        self.engine.set_classes(self.policies)
        tls = FixedTLS(ssl_context(cfg)) if cfg.is_ssl else None
        # Of their own, by reuse_port, workers have queues that nobody serves after them.
        has_own = self.sockets is not self.inherited
        self.listeners = []
        for one in self.sockets:
            is_unix = one.sock.family == socket.AF_UNIX
            if not is_unix:
                set_inherited_options(one.sock)
            self.listeners.append(Listener(one.sock, is_own=has_own and not is_unix))
            self.engine.listen(one.sock, tls=tls)

    def count(self) -> None:
        """Leave after max_requests."""
        self.nr = self.table.n_requests
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after %d requests.", self.nr)
            self.alive = False

    def beat(self) -> None:
        """Report to the arbiter, and check that it still exists."""
        self.next_beat = time.monotonic() + self.beat_every
        self.notify()
        if os.getppid() != self.ppid and self.alive:
            self.log.info("Parent changed, shutting down: %s", self)
            self.alive = False

    def departure(self) -> Departure:
        """For drain_lame_duck nothing changes: that is for whoever watches the arbiter and sends clients elsewhere. While
        idle connections have their grace, newcomers are still let in: in a worker that is alone nobody else would, until
        the arbiter has started the next.
        """
        terms = Terms.of(self.policies.default)
        if self.cfg.reload:
            terms = terms.at_once()
        terms = terms.within(time_to_leave(self.cfg))
        admits_for = min(terms.grace + terms.spread, terms.timeout)
        return Departure(self.engine, self.table, terms, self.listeners, admits_for=admits_for)

    # -- hooks and the access log --------------------------------------------------------------------------------

    def hooked(self, app: Callable[..., Any]) -> Callable[..., Any]:
        """With pre_request before each request, if the user has one."""
        if not is_set(self.cfg, "pre_request"):
            return app
        pre_request = self.cfg.pre_request

        def hooked_app(environ: dict[str, Any], start_response: Any) -> Any:
            environ[KEY] = Request(environ)
            pre_request(self, environ[KEY])
            return app(environ, start_response)

        return hooked_app

    def access_log(self) -> Callable[[AccessEntry], None] | None:
        """What the engine calls after each request; None if nothing needs it."""
        post_request = self.cfg.post_request if is_set(self.cfg, "post_request") else None
        # Loggers of another class may count where this one has nothing to write: statsd does.
        is_logged = type(self.log).access is not Logger.access or has_access_log(self.log, self.cfg)
        if not is_logged and post_request is None:
            return None

        def note(entry: AccessEntry) -> None:
            if entry.method is None:
                return  # no request could be read
            try:
                request, reply = request_of(entry), Reply(entry)
                if is_logged:
                    self.log.access(reply, request, request.environ, timedelta(seconds=entry.duration))
                if post_request is not None:
                    post_request(self, request, request.environ, reply)
            except Exception:
                self.log.exception("Exception in post_request hook or access log")

        return note


class ASGIWorker(Worker):
    """Serves an ASGI 3 application, with its lifespan, on asyncio or uvloop as asgi_loop says."""

    interface: Interface = "asgi"

    def load_wsgi(self) -> None:
        """As gunicorn's, whose stand-in for a module with a syntax error is a WSGI application."""
        try:
            self.wsgi = self.app.wsgi()
        except SyntaxError as error:
            if not self.cfg.reload:
                raise
            self.log.exception(error)
            if self.reloader is not None and error.filename is not None:
                self.reloader.add_extra_file(error.filename)
            self.wsgi = failing(traceback.format_exc())

    def run(self) -> None:
        """Serve until SIGTERM, then leave."""
        self.check_interface()
        with asyncio.Runner(loop_factory=loop_factory(setting_of(self.cfg, "asgi_loop", "auto"))) as runner:
            runner.run(self.serve())

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        self.is_told, self.must_end = asyncio.Event(), asyncio.Event()
        self.handle_signals(loop)
        repeat(loop, self.beat_every, self.beat)
        lifespan = Lifespan(self.wsgi, setting_of(self.cfg, "asgi_lifespan", "auto"), self.log)
        if not await lifespan.start(self.is_told):
            return
        application = made_application(
            self.interface,
            self.hooked(self.wsgi),
            loop,
            self.log,
            state=lifespan.state,
            root_path=setting_of(self.cfg, "root_path", ""),
            scheme="https" if self.cfg.is_ssl else "http",
            websockets=self.websocket_options(),
        )
        await probe(application, self.log)
        self.open_engine(application, loop.call_soon)
        self.engine.start(loop, self.step if self.max_requests < sys.maxsize else None)
        try:
            await self.is_told.wait()
            await self.departure().leave(self.must_end)
        finally:
            self.engine.close()
            application.runner.close()
        await lifespan.end(self.must_end)

    def step(self) -> None:
        self.engine.step()
        self.count()
        if not self.alive:
            self.is_told.set()

    def beat(self) -> None:
        super().beat()
        if not self.alive:
            self.is_told.set()

    # -- signals ---------------------------------------------------------------------------------------------------

    def handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """SIGABRT keeps gunicorn's handler, which interrupts an application that blocks the loop."""
        for number in (signal.SIGQUIT, signal.SIGINT):
            loop.add_signal_handler(number, self.leave_at_once)
        loop.add_signal_handler(signal.SIGTERM, self.leave)
        loop.add_signal_handler(signal.SIGUSR1, self.log.reopen_files)
        loop.add_reader(self.PIPE[0], self.woken)

    def leave(self) -> None:
        self.alive = False
        self.is_told.set()

    def leave_at_once(self) -> None:
        if not self.must_end.is_set():
            self.must_end.set()
            self.cfg.worker_int(self)
        self.leave()

    def woken(self) -> None:
        """By the reloader, from its thread."""
        os.read(self.PIPE[0], 4096)
        if not self.alive:
            self.leave()

    # -- what goes around the application ----------------------------------------------------------------------------

    def hooked(self, app: Callable[..., Any]) -> Callable[..., Any]:
        """With pre_request before each request, if the user has one."""
        if not is_set(self.cfg, "pre_request"):
            return app
        pre_request = self.cfg.pre_request

        def hooked_app(scope: dict[str, Any], receive: Any, send: Any) -> Any:
            if scope["type"] == "http":
                scope[KEY] = Request(environ_of(scope))
                pre_request(self, scope[KEY])
            return app(scope, receive, send)

        return hooked_app

    def websocket_options(self) -> ServerOptions:
        most = setting_of(self.cfg, "websocket_max_message_size", None)
        return ServerOptions() if most is None else ServerOptions(ws_max_size=most)


def failing(text: str) -> Callable[..., Any]:
    """An ASGI application that shows why there is none."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError("the application could not be loaded")
        await send({"type": "http.response.start", "status": 500, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": text.encode()})

    return app
