"""kacore's connections inside uvicorn: `uvicorn app:app --http kacore.embed.uvicorn:Protocol`.

uvicorn stays the server: its listeners, workers, lifespan, logs, TLS, websockets and signals. Each connection is held
by kacore's table: every phase has a deadline, a full server closes its least useful idle connection instead of
answering 503, and one timer serves all. docs/embedding-uvicorn.md says what changes.

The policy comes from configure(), or else from KACORE_* variables. uvicorn's own flags win where they differ from
uvicorn's defaults: a 5 that the user wrote and the default 5 look alike.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import uvicorn
import uvicorn.logging
from uvicorn.protocols import utils

from kacore import _core
from kacore._core import Head
from kacore.config.options import network
from kacore.embed._hosts import HostPackage
from kacore.policy import Policy, PolicySet
from kacore.policy.sources import Sources
from kacore.server.assembly import driver_options, policy_set, table_for
from kacore.server.departure import LAST_CALL, Terms

if TYPE_CHECKING:
    from uvicorn.config import Config

__all__ = ["Protocol", "configure"]

OF_CONFIG = "asgi_version date_header encoded_headers forwarded_allow_ips is_ssl load loaded loaded_app proxy_headers"
PACKAGE = HostPackage(
    "uvicorn",
    oldest="0.30",
    newest="0.54",
    needed=(
        *(f"uvicorn.config:Config.{name}" for name in (*OF_CONFIG.split(), "root_path", "ws_protocol_class")),
        *(f"uvicorn.server:ServerState.{name}" for name in ("connections", "tasks", "total_requests")),
        *(f"uvicorn.protocols.utils:get_{name}" for name in ("client_addr", "path_with_query_string", "remote_addr")),
        "uvicorn.logging:TRACE_LOG_LEVEL",
    ),
    ineffective={
        "handshake_timeout": "the TLS handshake is done before kacore hears of the connection",
        "drain_lame_duck": "uvicorn stops accepting as soon as it is told to end",
        "max_response_buffer": "applications are not WSGI",
    },
)
PACKAGE.at_import(uvicorn.__version__)

# uvicorn's flag: its default there, and the field of the policy that it means.
FLAGS = {
    "timeout_keep_alive": (5, "keep_alive_timeout"),
    "limit_concurrency": (None, "max_connections"),
    "timeout_graceful_shutdown": (None, "drain_timeout"),
    "h11_max_incomplete_event_size": (None, "max_head_bytes"),
}
WORDS = {
    "failed": "Exception in ASGI application\n",
    "was cancelled": "Exception in ASGI application\n",
    "returned without completing its response": "ASGI callable returned without completing response.",
}

SERVER_NAME_MAX = 117  # bytes; see Transports

logger = logging.getLogger("uvicorn.error")
access_logger = logging.getLogger("uvicorn.access")
configured: Policy | PolicySet | None = None


def configure(policy: Policy | PolicySet | None) -> None:
    """The policy of servers that are started from now on in this process; None: KACORE_* variables again.

    Call it in the module of the application: workers of uvicorn import that, too. PolicyError for a field that is set
    and would have no effect: handshake_timeout, drain_lame_duck and max_response_buffer.
    """
    global configured
    if policy is not None:
        PACKAGE.check_policy(policy)
    configured = policy


def from_environment() -> PolicySet:
    """PolicyError names a variable that is wrong."""
    sources = Sources()
    sources.add_environment(os.environ)
    policies = sources.policy_set()
    PACKAGE.check_policy(policies)
    return policies


from_environment()  # at import: what is wrong is told when uvicorn starts, not when somebody connects


def policy_for(config: Config) -> PolicySet:
    """What is in force for a server of this configuration. PolicyError as above."""
    policies = from_environment() if configured is None else policy_set(configured)
    fields: dict[str, Any] = {}
    for flag, (default, field) in FLAGS.items():
        value = getattr(config, flag, default)
        if value != default and value is not None:
            fields[field] = Policy.__fields__[field].kind(value)
    if "max_connections" in fields:
        fields["when_full"] = "reject"  # as uvicorn's flag promises: 503 for those beyond
    return policies.replace_default(**fields) if fields else policies


class Words:
    """kacore's messages about an application, in uvicorn's words and its log."""

    def error(self, message: str, *arguments: Any, exc_info: Any = None) -> None:
        """As of logging.Logger."""
        known = WORDS.get(arguments[0]) if arguments else None
        if known is not None:
            message, arguments = known, ()
        logger.error(message, *arguments, exc_info=exc_info)


class Host(_core.Transports):
    """All connections of one uvicorn server: their table, their one timer."""

    config: Config
    server_state: Any
    app_state: dict[str, Any]
    policy: Policy
    given_loop: Any
    is_traced: bool
    probing: asyncio.Task[Any] | None

    def __new__(
        cls, config: Config, server_state: Any, app_state: dict[str, Any], loop: Any, make_task: Any = None
    ) -> Host:
        """Of the compiled class, which takes its table and application when it is made. make_task: as of HostRunner."""
        policies = policy_for(config)
        name = server_name_of(config)
        application = _core.HostedAsgiApplication(
            logged(config.loaded_app),
            loop,
            Words(),
            state=app_state,
            root_path=config.root_path,
            scheme="https" if config.is_ssl else "http",
            tasks=server_state.tasks,
            make_task=make_task,
            upgrade=upgrade,
            scope={"asgi": {"version": config.asgi_version, "spec_version": "2.3"}},
        )
        self = super().__new__(
            cls,
            table_for(policies, logger),
            application,
            loop,
            # With --reset-contextvars not even what was set around the server is seen by a request.
            context=contextvars.Context() if getattr(config, "reset_contextvars", False) else None,
            **driver_options(policies, logger, server_name=name.decode("latin-1")),
        )
        self.set_classes(policies)
        if config.proxy_headers:
            self.trust(proxies_of(config), fields=False)  # uvicorn's own middleware reads what they say
        self.set_fields(lines_of(config, has_name=bool(name)), date=config.date_header)
        self.config, self.server_state, self.app_state = config, server_state, app_state
        self.policy, self.given_loop = policies.default, loop
        self.is_traced = logger.isEnabledFor(uvicorn.logging.TRACE_LOG_LEVEL)
        self.probing = None
        if make_task is None:
            self.probing = loop.create_task(application.runner.probe())
        return self

    def __init__(self, *_: Any) -> None:
        pass

    def passed(self) -> int:
        """uvicorn's --limit-max-requests looks at this."""
        self.server_state.total_requests = self.n_requests
        return 0

    def leave_soon(self) -> None:
        """uvicorn shuts down: idle connections stay answerable for a moment, and every response says close."""
        if not self.table.is_draining:
            Terms.of(self.policy).begin(self)
            self.when_drained(self.last_gone)

    def last_gone(self) -> None:
        """In a server that ends, those that only wait for their clients' own ends go with the last: uvicorn waits for all,
        and since Python 3.12 asyncio's servers do, too. But first they have a moment to read their answers."""
        self.given_loop.call_later(LAST_CALL, self.part)

    def part(self) -> None:
        """From clients that have had their answers."""
        if self.table.is_drained:  # else somebody has come meanwhile
            for protocol in list(self.server_state.connections):
                if isinstance(protocol, Protocol) and protocol.transport is not None:
                    getattr(protocol.transport, "abort", protocol.transport.close)()

    def trace(self, transport: Any, what: str) -> None:
        """In uvicorn's words, for --log-level trace."""
        client = utils.get_remote_addr(transport)
        prefix = f"{client[0]}:{client[1]} - " if client else ""
        logger.log(uvicorn.logging.TRACE_LOG_LEVEL, "%s%s", prefix, what)


class Protocol(_core.TransportProtocol, asyncio.BufferedProtocol):
    """One connection, in place of uvicorn's HttpToolsProtocol or H11Protocol."""

    __slots__ = ("ws_protocol_class",)
    transports: Host
    ws_protocol_class: Any

    def __init__(self, config: Config, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        host = getattr(server_state, "kacore_host", None)
        if host is None:
            if not config.loaded:
                config.load()
            host = Host(config, server_state, app_state, _loop or asyncio.get_running_loop())
            server_state.kacore_host = host
        super().__init__(host)
        self.ws_protocol_class = config.ws_protocol_class

    @property
    def loop(self) -> Any:
        """The loop that uvicorn gave, or the running one."""
        return self.transports.given_loop

    def connection_made(self, transport: Any) -> None:
        """As of asyncio.Protocol."""
        super().connection_made(transport)
        host = self.transports
        host.server_state.connections.add(self)
        if host.table.is_draining:
            host.when_drained(host.last_gone)
        if host.is_traced:
            host.trace(transport, "HTTP connection made")

    def connection_lost(self, error: BaseException | None) -> None:
        """As of asyncio.Protocol."""
        host = self.transports
        if host.is_traced:
            host.trace(self.transport, "HTTP connection lost")
        super().connection_lost(error)
        host.server_state.connections.discard(self)

    def closed(self, cause: str) -> int:
        """It has left the table."""
        host = self.transports
        if cause == "bad_request":
            logger.warning("Invalid HTTP request received.")
        elif cause == "upgraded":
            host.server_state.connections.discard(self)
        return 0

    def shutdown(self) -> None:
        """Called by uvicorn for each connection when the server ends."""
        self.transports.leave_soon()


def upgrade(protocol: Protocol, head: Head) -> Callable[[Any, bytes], None] | None:
    """Websockets are uvicorn's own."""
    config = protocol.transports.config
    wanted = head.get("upgrade")
    if wanted is None or wanted.lower() != b"websocket" or protocol.ws_protocol_class is None:
        logger.warning("Unsupported upgrade request.")
        if protocol.ws_protocol_class is None:
            logger.warning(
                "No supported WebSocket library detected. Please use \"pip install 'uvicorn[standard]'\","
                " or install 'websockets' or 'wsproto' manually."
            )
        return None

    def take(transport: Any, rest: bytes) -> None:
        host = protocol.transports
        if host.is_traced:
            host.trace(transport, "Upgrading to WebSocket")
        if hasattr(transport, "set_write_buffer_limits"):
            transport.set_write_buffer_limits()
        taker = protocol.ws_protocol_class(config=config, server_state=host.server_state, app_state=host.app_state)
        taker.connection_made(transport)
        transport.set_protocol(taker)
        taker.data_received(handshake_of(head) + rest)

    return take


def handshake_of(head: Head) -> bytes:
    """A handshake as uvicorn's own classes write it for its websockets, which look for names in lower case."""
    lines = [f"{head.method} ".encode(), head.target, b" HTTP/1.1\r\n"]
    for name, value in head.headers:
        lines += (name, b": ", value, b"\r\n")
    return b"".join([*lines, b"\r\n"])


def proxies_of(config: Config) -> list[str]:
    """The networks of --forwarded-allow-ips. What uvicorn compares as a name only is left out."""
    given = config.forwarded_allow_ips or ()
    words = [word.strip() for word in (given.split(",") if isinstance(given, str) else given)]
    networks = []
    for word in words:
        try:
            networks.append(network(word))
        except ValueError:
            pass
    return networks


def server_name_of(config: Config) -> bytes:
    """What is told in Server unless the application says something else; b"" if that takes lines_of()."""
    names = [value for name, value in config.encoded_headers if name == b"server"]
    return names[0] if len(names) == 1 and len(names[0]) <= SERVER_NAME_MAX else b""


def lines_of(config: Config, has_name: bool) -> bytes:
    """What --header adds to every response. Fields that the framing needs are kacore's to write."""
    lines = b""
    for name, value in config.encoded_headers:
        if name == b"server" and has_name:
            continue
        try:
            lines += _core.field_lines([(name, value)], has_server=True)
        except ValueError as error:
            logger.warning("left out of responses: %s", error)
    return lines


def logged(app: Any) -> Any:
    """The application with uvicorn's access log, or unchanged if that is off."""
    if not (access_logger.hasHandlers() and access_logger.isEnabledFor(logging.INFO)):
        return app

    async def logged_app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def send_logged(message: dict[str, Any]) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                access_logger.info(
                    '%s - "%s %s HTTP/%s" %d',
                    utils.get_client_addr(scope),  # type: ignore[arg-type]
                    scope["method"],
                    utils.get_path_with_query_string(scope),  # type: ignore[arg-type]
                    scope["http_version"],
                    message["status"],
                )

        await app(scope, receive, send_logged)

    return logged_app
