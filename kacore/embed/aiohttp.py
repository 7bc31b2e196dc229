"""kacore's connections inside aiohttp.web: `kacore.embed.aiohttp.run_app(app, policy=Policy(...))`.

aiohttp stays the server: it accepts, parses, calls the application, writes responses, websockets and logs. Around it
each connection stands in kacore's table: every phase has a deadline, a full server closes its least useful idle
connection, a drain answers what is under way, and one timer serves all connections. docs/embedding-aiohttp.md says
what changes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web
from aiohttp.log import access_logger

from kacore.embed._aiohttp_package import PACKAGE

PACKAGE.at_import(aiohttp.__version__)  # before what is not public is asked for

from kacore.embed._aiohttp_connection import RequestHandler  # noqa: E402
from kacore.embed._aiohttp_server import Server  # noqa: E402
from kacore.policy import Policy  # noqa: E402

if TYPE_CHECKING:
    from ssl import SSLContext

    from aiohttp.web_server import Server as HostServer

    from kacore._core import ConnectionTable

__all__ = ["AppRunner", "RequestHandler", "Server", "SockSite", "TCPSite", "UnixSite", "run_app"]

NEVER = 1e6  # seconds, for a loop that takes no 0


class AppRunner(web.AppRunner):
    """aiohttp.web.AppRunner whose server holds its connections in kacore's table.

    policy: kacore.Policy; default Policy(). The arguments keepalive_timeout and shutdown_timeout, where they are given,
    count instead of its keep_alive_timeout and drain_timeout. Other arguments, sites and errors as aiohttp's.
    """

    __slots__ = ("_policy",)

    def __init__(self, app: web.Application, *, policy: Policy | None = None, **kwargs: Any) -> None:
        timeout = kwargs.pop("shutdown_timeout", None)
        if timeout is not None:
            policy = (policy or Policy()).replace(drain_timeout=float(timeout))
        kwargs["shutdown_timeout"] = (policy or Policy()).drain_timeout
        super().__init__(app, **kwargs)
        self._policy = policy

    @property
    def table(self) -> ConnectionTable:
        """The table of its server. RuntimeError before setup() and after cleanup()."""
        if not isinstance(self._server, Server):
            raise RuntimeError("Call runner.setup() before asking for its table")
        return self._server.table

    def stats(self) -> dict[str, Any]:
        """As ConnectionTable.stats(). RuntimeError before setup() and after cleanup()."""
        return self.table.stats()

    async def _make_server(self) -> HostServer:
        made = await super()._make_server()
        server = Server(
            made.request_handler,
            policy=self._policy,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,
            **made._kwargs,
        )
        server._connections = made._connections
        return server

    async def cleanup(self) -> None:
        """As aiohttp's. First whoever waits in the backlog is accepted: it would be reset with the listeners."""
        await asyncio.sleep(self._server.policy.drain_lame_duck if isinstance(self._server, Server) else 0)
        await super().cleanup()


async def start_site(site: Any, create: Any, *where: Any, **options: Any) -> None:
    """What start() of aiohttp's sites does, with the policy's time for TLS handshakes, which the loop has to keep."""
    await web.BaseSite.start(site)
    server: Server = site._runner.server
    if site._ssl_context is not None:
        options["ssl_handshake_timeout"] = server.policy.handshake_timeout or NEVER
    site._server = await create(server, *where, ssl=site._ssl_context, backlog=site._backlog, **options)


class TCPSite(web.TCPSite):
    """aiohttp.web.TCPSite for an AppRunner of this module, whose policy has a handshake_timeout."""

    __slots__ = ()

    async def start(self) -> None:
        """As aiohttp's."""
        create = asyncio.get_running_loop().create_server
        reuse = {"reuse_address": self._reuse_address, "reuse_port": self._reuse_port}
        await start_site(self, create, self._host, self._port, **reuse)
        sockets = getattr(self._server, "sockets", ())
        bound = sockets[0].getsockname()[1] if sockets else self._port
        setattr(self, "_bound_port" if hasattr(self, "_bound_port") else "_port", bound)  # what its name says


class UnixSite(web.UnixSite):
    """aiohttp.web.UnixSite, the same way."""

    __slots__ = ()

    async def start(self) -> None:
        """As aiohttp's."""
        await start_site(self, asyncio.get_running_loop().create_unix_server, self._path)


class SockSite(web.SockSite):
    """aiohttp.web.SockSite, the same way."""

    __slots__ = ()

    async def start(self) -> None:
        """As aiohttp's."""
        await start_site(self, asyncio.get_running_loop().create_server, sock=self._sock)


def run_app(
    app: web.Application | Awaitable[web.Application],
    *,
    policy: Policy | None = None,
    host: str | Iterable[str] | None = None,
    port: int | None = None,
    path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
    sock: socket.socket | Iterable[socket.socket] | None = None,
    print: Any = print,
    handle_signals: bool = True,
    loop: asyncio.AbstractEventLoop | None = None,
    ssl_context: SSLContext | None = None,
    backlog: int = 128,
    reuse_address: bool | None = None,
    reuse_port: bool | None = None,
    **options: Any,
) -> None:
    """aiohttp.web.run_app() with a policy for its connections: serve until SIGINT or SIGTERM, drain, return.

    policy:  kacore.Policy; default Policy(). keepalive_timeout and shutdown_timeout, where given, count instead.
    others:  as of aiohttp.web.run_app().
    """
    loop = loop or asyncio.new_event_loop()
    if loop.get_debug():
        show_access_log(options.get("access_log", access_logger))
    every: dict[str, Any] = {"ssl_context": ssl_context, "backlog": backlog}
    ports: dict[str, Any] = {**every, "port": port, "reuse_address": reuse_address, "reuse_port": reuse_port}
    hosts: list[Any] = [] if host is None else several(host, str)
    if host is None and (port is not None or (path is None and sock is None)):
        hosts = [None]

    async def serve() -> None:
        made: Any = await app if asyncio.iscoroutine(app) else app
        runner = AppRunner(made, policy=policy, handle_signals=handle_signals, **options)
        await runner.setup()
        try:
            sites: list[web.BaseSite] = [TCPSite(runner, one, **ports) for one in hosts]
            sites += [UnixSite(runner, one, **every) for one in several(path, (str, os.PathLike))]
            sites += [SockSite(runner, one, **every) for one in several(sock)]
            for site in sites:
                await site.start()
            if print:
                names = ", ".join(sorted(site.name for site in runner.sites))
                print(f"======== Running on {names} ========\n(Press CTRL+C to quit)")
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    asyncio.set_event_loop(loop)
    run_to_end(loop, loop.create_task(serve()))


def show_access_log(logger: logging.Logger | None) -> None:
    """In debug mode aiohttp's own access log is seen without being configured."""
    if logger is not None and logger.name == access_logger.name:
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.DEBUG)
        if not logger.hasHandlers():
            logger.addHandler(logging.StreamHandler())


def several(what: Any, single: Any = ()) -> list[Any]:
    """One, several or none, as a list. single: what is one although it can be iterated over."""
    return [] if what is None else list(what) if isinstance(what, Iterable) and not isinstance(what, single) else [what]


def run_to_end(loop: asyncio.AbstractEventLoop, main: asyncio.Task[None]) -> None:
    """Until a signal ends it, then its cleanup, then what other tasks are left. Closes the loop."""
    with asyncio.Runner(loop_factory=lambda: loop):
        try:
            loop.run_until_complete(main)
        except (web.GracefulExit, KeyboardInterrupt):
            pass
        finally:
            if not main.done():  # the signal broke into the loop: what it was doing goes on here, with its cleanup
                main.cancel()
                with suppress(asyncio.CancelledError):
                    loop.run_until_complete(main)
