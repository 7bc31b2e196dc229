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
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from http import HTTPStatus
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
from kacore.embed._hosts import Tried
from kacore.policy import Policy, PolicyError, PolicySet
from kacore.policy.sources import Sources
from kacore.server import logs
from kacore.server.lifespan import Lifespan, LifespanError
from kacore.server.listening import raise_descriptor_limit, set_inherited_options
from kacore.server.loading import Interface, UsageError, detect_interface
from kacore.server.races import RaceLog
from kacore.server.server import DRAIN_POLL, LAST_CALL, SHUTDOWN_AT_ONCE, loop_factory
from kacore.server.tls import FixedTLS

__all__ = ["ASGIWorker", "Worker"]

OF_BASE = ("PIPE", "init_process", "load_wsgi", "max_requests", "notify", "ppid", "reloader", "sockets", "timeout")
TRIED = Tried(
    "gunicorn",
    oldest="22",
    newest="27",
    needed=(
        "gunicorn.arbiter:Arbiter.WORKER_BOOT_ERROR",
        "gunicorn.config:Config.is_ssl",
        "gunicorn.config:Config.settings",
        *(f"gunicorn.workers.base:Worker.{name}" for name in OF_BASE),
    ),
)
# gunicorn's setting, and the field of the policy that it means.
FIELDS = {
    "keepalive": "keep_alive_timeout",
    "worker_connections": "max_connections",
    "graceful_timeout": "drain_timeout",
    "limit_request_line": "max_target_bytes",
    "limit_request_fields": "max_headers",
    "limit_request_field_size": "max_header_bytes",
}
# Settings for which only this value can be served, and those that are not heard: the parser knows no such leniency.
ONLY = {"protocol": "http", "http2_cleartext": "off"}
UNHEARD = (
    "asgi_disconnect_grace_period",
    "casefold_http_method",
    "header_map",
    "http_parser",
    "permit_obsolete_folding",
    "permit_unconventional_http_method",
    "permit_unconventional_http_version",
    "secure_scheme_headers",
    "sendfile",
    "strip_header_spaces",
)
SCRIPT_NAME = "SCRIPT_NAME"  # in the environment, or a field of a trusted proxy: below which path the application stands
# The most seconds between two signs of life, and of graceful_timeout the part that is left to the application's end.
BEAT = 1.0
FOR_THE_END = 0.1
# Where the environ or scope of a request holds the Request that pre_request was given.
KEY = "kacore.request"

# -- the policy ------------------------------------------------------------------------------------------------


def is_set(cfg: Any, name: str) -> bool:
    """Whether it differs from gunicorn's default: a default that the user wrote looks the same."""
    setting = cfg.settings.get(name)
    return setting is not None and bool(setting.get() != type(setting)().get())


def setting_of(cfg: Any, name: str, default: Any) -> Any:
    """Its value; `default` in a gunicorn that does not have it yet."""
    return getattr(cfg, name) if name in cfg.settings else default


def speaks_proxy(cfg: Any) -> bool:
    """Whether connections begin with a PROXY header: until 24.1 that was a yes or no."""
    return cfg.proxy_protocol not in (False, "off")


def given_policy(cfg: Any) -> PolicySet | None:
    """What the configuration file calls `kacore_policy`: a Policy, a PolicySet, or a dict of fields."""
    location = cfg.config or ""
    module = sys.modules.get(location.removeprefix("python:") if location.startswith("python:") else "__config__")
    given = getattr(module, "kacore_policy", None)
    if isinstance(given, Mapping):
        try:
            given = Policy(**given)
        except TypeError as error:
            raise PolicyError(f"kacore_policy: {error}") from None
    if given is None or isinstance(given, PolicySet):
        return given
    if not isinstance(given, Policy):
        raise PolicyError(f"kacore_policy={given!r}: must be a Policy, a PolicySet or a dict of fields")
    return PolicySet(given)


def policy_for(cfg: Any) -> PolicySet:
    """What is in force for workers of this configuration. PolicyError says what is wrong, and who said it."""
    sources = Sources()
    given = given_policy(cfg)
    if given is not None:
        sources.add(given.default.changes(), "kacore_policy")
        sources.add_rules(list(given.rules), "kacore_policy")
    sources.add_environment(os.environ)
    named = {name: getattr(cfg, name) for name in FIELDS if is_set(cfg, name)}
    fields: dict[str, Any] = {FIELDS[name]: value for name, value in named.items()}
    if named.get("keepalive") == 0:
        del fields["keep_alive_timeout"]
        fields["keep_alive"] = False
    most = Policy.__fields__["max_head_bytes"]
    head = sources.values.get("max_head_bytes", most.make_default())
    for field in ("max_target_bytes", "max_header_bytes"):
        if field in fields:
            fields[field] = fields[field] or head  # 0 is no limit of its own
    if "max_headers" in fields:
        high = int(Policy.__fields__["max_headers"].high)
        fields["max_headers"] = min(fields["max_headers"] or high, high)
    # What the user allows must fit into a head.
    fields["max_head_bytes"] = max(head, fields.get("max_target_bytes", 0) + fields.get("max_header_bytes", 0))
    for field in ("keep_alive_timeout", "drain_timeout"):
        if field in fields:
            fields[field] = float(fields[field])
    sources.add(fields, "gunicorn's settings")
    return sources.policy_set()


def check_settings(cfg: Any, log: Any) -> None:
    """RuntimeError, of which gunicorn prints the sentence, for what cannot be served."""
    if refusal := TRIED.refusal(gunicorn.__version__):
        raise RuntimeError(refusal)
    if warning := TRIED.warning(gunicorn.__version__):
        log.warning("%s", warning)
    for name, value in ONLY.items():
        if (given := setting_of(cfg, name, value)) != value:
            raise RuntimeError(f"{name}={given!r}: kacore's workers serve {name}={value!r} only")
    if "h2" in setting_of(cfg, "http_protocols", ()):
        raise RuntimeError("http_protocols: kacore's workers speak HTTP/1.1 only")
    if speaks_proxy(cfg) and set(cfg.proxy_allow_ips) != set(cfg.forwarded_allow_ips):
        raise RuntimeError("proxy_protocol: kacore's workers need the same proxy_allow_ips and forwarded_allow_ips")
    for name in UNHEARD:
        if is_set(cfg, name):
            log.warning("%s is not heard by kacore's workers", name)
    if set(setting_of(cfg, "forwarder_headers", ())) - {SCRIPT_NAME, "PATH_INFO"}:
        log.warning("forwarder_headers: kacore's workers hear %s only", SCRIPT_NAME)
    try:
        policy = policy_for(cfg).default
    except PolicyError as error:
        raise RuntimeError(str(error)) from None
    if policy.drain_lame_duck >= (most := time_to_leave(cfg)):
        raise RuntimeError(
            f"drain_lame_duck={policy.drain_lame_duck:g}: must be less than {most:g}, nine tenths of graceful_timeout"
        )


def time_to_leave(cfg: Any) -> float:
    """Of graceful_timeout, in seconds; the rest is for the application's end."""
    return float(cfg.graceful_timeout) * (1 - FOR_THE_END)


# -- what hooks and the access log are told --------------------------------------------------------------------


class Request:
    """One request as gunicorn's hooks and loggers know it; hooks may hang attributes of their own on it."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self.environ = environ
        self.method = environ["REQUEST_METHOD"]
        self.uri = environ["RAW_URI"]
        self.path, _, self.query = self.uri.partition("?")
        self.version = (1, 0 if environ["SERVER_PROTOCOL"] == "HTTP/1.0" else 1)
        self.scheme = environ.get("wsgi.url_scheme", "http")
        self.remote_addr = (environ.get("REMOTE_ADDR", ""), environ.get("REMOTE_PORT", ""))
        self.headers = [
            (name.removeprefix("HTTP_").replace("_", "-"), value)
            for name, value in environ.items()
            if name.startswith("HTTP_") or name in ("CONTENT_TYPE", "CONTENT_LENGTH")
        ]


class Reply:
    """What became of it, the same way."""

    def __init__(self, entry: AccessEntry) -> None:
        self.status_code = entry.status
        try:
            self.status = f"{entry.status} {HTTPStatus(entry.status).phrase}"
        except ValueError:
            self.status = str(entry.status)
        self.sent = self.response_length = entry.n_bytes
        self.headers = [(to_text(name), to_text(value)) for name, value in entry.fields or ()]


def to_text(value: Any) -> str:
    return value if isinstance(value, str) else bytes(value).decode("latin-1")


def environ_of(scope: dict[str, Any]) -> dict[str, Any]:
    """Of an ASGI scope what gunicorn's loggers look for in a WSGI environ."""
    query = scope["query_string"].decode("latin-1")
    path = scope["raw_path"].decode("latin-1")
    environ = {
        "REQUEST_METHOD": scope.get("method", "GET"),
        "RAW_URI": f"{path}?{query}" if query else path,
        "PATH_INFO": scope["path"],
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "wsgi.url_scheme": scope["scheme"],
    }
    if scope["client"] is not None:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = scope["client"][0], str(scope["client"][1])
    for name, value in scope["headers"]:
        key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
        text = value.decode("latin-1")
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    return environ


def request_of(entry: AccessEntry) -> Request:
    """The Request of pre_request if there was one, else one of what is known."""
    source = entry.request
    if source is None:  # the application never got it
        path, _, query = (entry.target or b"").decode("latin-1").partition("?")
        client, port = entry.client or ("", 0)
        source = {
            "REQUEST_METHOD": entry.method,
            "RAW_URI": f"{path}?{query}" if query else path,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_PROTOCOL": f"HTTP/{entry.version}",
            "REMOTE_ADDR": client,
            "REMOTE_PORT": str(port),
        }
    made = source.get(KEY)
    if isinstance(made, Request):
        return made
    return Request(source if "REQUEST_METHOD" in source else environ_of(source))


# -- the workers -------------------------------------------------------------------------------------------------


class Worker(base.Worker):
    """Serves a WSGI application. threads=1: in the loop's own thread; more: that many requests at once in threads."""

    interface: Interface = "wsgi"
    alive: bool
    engine: _core.Engine
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
        self.is_hurried = False
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
            for _ in self.departure():
                self.turn(waiting, DRAIN_POLL)
        finally:
            self.engine.close()
            application.stop()

    def turn(self, waiting: select.poll, seconds: float) -> None:
        """Do what there is to do, or wait for it that long at most."""
        for fd, _ in waiting.poll(seconds * 1000):
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
        policy = self.policies.default
        raise_descriptor_limit(policy.max_connections, log)
        self.table = ConnectionTable(self.policies)
        self.engine = _core.Engine(
            self.table,
            application,
            limits=self.policies.limits(),
            max_buffer_bytes=policy.max_buffer_bytes,
            call_soon=call_soon,
            on_race=RaceLog(policy, log),
            access_log=self.access_log(),
            on_closed=logs.closed_log(logging.getLogger("gunicorn.error")),
            on_notice=logs.notice_log(log),
        )
        # Peers without an address are trusted, as by gunicorn's own workers.
        self.engine.trust([*cfg.forwarded_allow_ips, "unix"], proxy_protocol=speaks_proxy(cfg))
        self.engine.set_classes(self.policies)
        tls = FixedTLS(ssl_context(cfg)) if cfg.is_ssl else None
        for listener in self.sockets:
            if listener.sock.family != socket.AF_UNIX:
                set_inherited_options(listener.sock)
            self.engine.listen(listener.sock, tls=tls)

    def count(self) -> None:
        """Leave after max_requests."""
        self.nr = self.table.n_requests
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after %d requests.", self.nr)
            self.alive = False

    def beat(self) -> None:
        """A sign of life to the arbiter, and a look whether there is one."""
        self.next_beat = time.monotonic() + self.beat_every
        self.notify()
        if os.getppid() != self.ppid and self.alive:
            self.log.info("Parent changed, shutting down: %s", self)
            self.alive = False

    def departure(self) -> Iterator[None]:
        """Refuse nobody who got in, answer what can be answered. Yields for as long as there is something to wait for.

        For drain_lame_duck nothing changes: that is for whoever watches the arbiter and sends clients elsewhere. While idle
        connections have their grace, newcomers are still let in: in a worker that is alone nobody else would, until the
        arbiter has started the next.
        """
        policy, hurries = self.policies.default, self.cfg.reload
        lame_duck = 0.0 if hurries else policy.drain_lame_duck
        timeout = min(policy.drain_timeout, time_to_leave(self.cfg) - lame_duck)
        grace, spread = (0.0, 0.0) if hurries else (policy.drain_grace, policy.drain_spread)
        yield from self.waiting_until(time.monotonic() + lame_duck, for_the_last=False)
        began = time.monotonic()
        self.engine.drain(grace=grace, spread=spread, timeout=timeout)
        yield from self.waiting_until(began + min(grace + spread, timeout))
        if self.sockets is not self.inherited:  # by reuse_port: a queue of our own, which nobody serves after us
            for listener in self.sockets:
                refuse(listener.sock)
            yield from self.waiting_until(time.monotonic() + LAST_CALL, for_the_last=False)
        for listener in self.sockets:
            self.engine.unlisten(listener.sock)
            listener.close()
        yield from self.waiting_until(began + timeout)

    def waiting_until(self, deadline: float, for_the_last: bool = True) -> Iterator[None]:
        while time.monotonic() < deadline and not self.is_hurried:
            if for_the_last and len(self.table) == self.table.stats()["phases"]["linger"]:
                return
            yield

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
        """What the engine calls after each request; None when nobody wants to know."""
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


def has_access_log(log: Any, cfg: Any) -> bool:
    """Whether gunicorn's own logger writes one."""
    try:
        return bool(log.access_log_enabled)
    except AttributeError:  # before 26: where access() returns, having nothing to do
        is_syslog = cfg.syslog and not cfg.disable_redirect_access_to_syslog
        return bool(cfg.accesslog or cfg.logconfig or cfg.logconfig_dict or cfg.logconfig_json or is_syslog)


def refuse(sock: Any) -> None:
    try:
        _core.refuse_new_connections(sock.fileno())
    except OSError:
        pass  # a unix socket, or no right to: then a client may come between the last accept and the close


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
        self.is_told = asyncio.Event()
        self.handle_signals(loop)
        self.keep_beating(loop)
        lifespan = Lifespan(self.wsgi, setting_of(self.cfg, "asgi_lifespan", "auto"), self.log)
        await lifespan.startup()
        application = _core.AsgiApplication(
            self.hooked(self.wsgi),
            loop,
            self.log,
            state=lifespan.state,
            root_path=setting_of(self.cfg, "root_path", ""),
            scheme="https" if self.cfg.is_ssl else "http",
            websocket=self.websockets(loop),
        )
        why_not = await application.runner.probe()
        if why_not is not None:
            self.log.info("every request gets a Task of its own: %s", why_not)
        self.open_engine(application, loop.call_soon)
        loop.add_reader(self.engine.fileno(), self.step if self.max_requests < sys.maxsize else self.engine.step)
        try:
            await self.is_told.wait()
            for _ in self.departure():
                await asyncio.sleep(DRAIN_POLL)
        finally:
            loop.remove_reader(self.engine.fileno())
            self.engine.close()
            application.runner.close()
        shutdown = asyncio.ensure_future(lifespan.shutdown())
        while not shutdown.done() and not self.is_hurried:
            await asyncio.wait([shutdown], timeout=self.beat_every)
        await asyncio.wait([shutdown], timeout=SHUTDOWN_AT_ONCE)

    def step(self) -> None:
        self.engine.step()
        self.count()
        if not self.alive:
            self.is_told.set()

    def keep_beating(self, loop: asyncio.AbstractEventLoop) -> None:
        self.beat()
        if not self.alive:
            self.is_told.set()
        loop.call_later(self.beat_every, self.keep_beating, loop)

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
        if not self.is_hurried:
            self.is_hurried = True
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

    def websockets(self, loop: asyncio.AbstractEventLoop) -> Callable[..., bool] | None:
        """What takes a request for a websocket; without the library it is answered as plain HTTP."""
        try:
            from kacore.server.websocket import WebSockets
        except ImportError:
            self.log.info("websockets are not served: install kacore[websockets] for them")
            return None
        most = setting_of(self.cfg, "websocket_max_message_size", None)
        return WebSockets(loop, self.log, ServerOptions() if most is None else ServerOptions(ws_max_size=most))


def failing(text: str) -> Callable[..., Any]:
    """An ASGI application that shows why there is none."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError("the application could not be loaded")
        await send({"type": "http.response.start", "status": 500, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": text.encode()})

    return app
