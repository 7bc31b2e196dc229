"""Options into what serves: the application as the core calls it, and the driver that moves its bytes.

For `Server`, and for adapters to other servers. Nothing is started here.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any

from kacore import _core
from kacore._core import ConnectionTable
from kacore.config.options import ServerOptions
from kacore.errors import UsageError
from kacore.policy import Policy, PolicySet
from kacore.server.drivers import LoopEngine, LoopTransports
from kacore.server.learned import SettledLog
from kacore.server.listening import raise_descriptor_limit
from kacore.server.loading import Interface
from kacore.server.logs import closed_log, notice_log
from kacore.server.races import HeaderlessLog, RaceLog, both


def policy_set(given: Policy | PolicySet | None) -> PolicySet:
    """A PolicySet from whatever users may give as a policy. None: the defaults."""
    return given if isinstance(given, PolicySet) else PolicySet(given)


def table_for(policies: PolicySet, logger: logging.Logger) -> ConnectionTable:
    """A table for this policy, with the limit on descriptors raised to what that takes."""
    raise_descriptor_limit(policies.default.max_connections, logger)
    table = ConnectionTable(policies)
    table.on_settled = SettledLog(logger)
    return table


# -- the driver -----------------------------------------------------------------------------------------------------


def check_platform() -> None:
    """UsageError where nothing can be served."""
    if sys.platform == "win32":
        raise UsageError("kacore serves on Linux, macOS and BSD; on Windows use WSL or a container")


def chosen_io(io: str) -> str:
    """ "epoll" or "transports". UsageError."""
    if io == "epoll" and not _core.has_epoll:
        raise UsageError(f"io=epoll: this build of kacore for {sys.platform} has no epoll")
    return "epoll" if io != "transports" and _core.has_epoll else "transports"


def driver_options(
    policies: PolicySet, logger: logging.Logger, *, proxy_protocol: bool = False, **options: Any
) -> dict[str, Any]:
    """What every driver is made with: its limits and its logs. options: added to these, or in their place."""
    policy = policies.default
    headerless = HeaderlessLog(policy, logger) if proxy_protocol else None
    return {
        "limits": policies.limits(),
        "max_buffer_bytes": policy.max_buffer_bytes,
        "on_closed": both(closed_log(logger), headerless),
        "on_race": RaceLog(policy, logger),
        **options,
    }


def made_driver(
    io: str,
    table: ConnectionTable,
    application: _core.Application,
    policies: PolicySet,
    loop: asyncio.AbstractEventLoop,
    logger: logging.Logger,
    **options: Any,
) -> LoopEngine | LoopTransports:
    """io: "epoll" or "transports". options: as of driver_options."""
    options = driver_options(policies, logger, **options)
    driver: LoopEngine | LoopTransports
    if io == "transports":
        driver = LoopTransports(table, application, loop, **options)
    else:
        driver = LoopEngine(table, application, call_soon=loop.call_soon, on_notice=notice_log(logger), **options)
    driver.set_classes(policies)
    return driver


def field_lines_of(options: ServerOptions) -> bytes:
    """The fields of every response. UsageError."""
    try:
        return _core.field_lines(options.headers)
    except ValueError as error:
        raise UsageError(f"headers: {error}") from None


# -- the application ------------------------------------------------------------------------------------------------


def made_application(
    interface: Interface,
    app: Callable[..., Any],
    loop: asyncio.AbstractEventLoop,
    logger: logging.Logger,
    *,
    state: dict[str, Any],
    root_path: str,
    scheme: str,
    websockets: ServerOptions,
    pathsend: bool = False,
    **of_wsgi: Any,
) -> Any:
    """The application as the core calls it. state: the lifespan's. of_wsgi: for WsgiApplication, `waker` among them."""
    if interface == "asgi":
        return _core.AsgiApplication(
            app,
            loop,
            logger,
            state=state,
            root_path=root_path,
            scheme=scheme,
            websocket=websockets_on_demand(loop, logger, websockets),
            pathsend=pathsend,
        )
    if interface == "handler":
        return _core.HandlerApplication(app, loop, logger, scheme=scheme)
    return _core.WsgiApplication(app, logger, scheme=scheme, script_name=root_path, **of_wsgi)


def websockets_on_demand(
    loop: asyncio.AbstractEventLoop, logger: logging.Logger, options: ServerOptions
) -> Callable[..., bool]:
    """What takes a request for a websocket. The library is imported with the first one, since that would be a quarter of
    the time it takes to start. If it is missing, that is logged once and such requests are served as plain HTTP."""
    takes: Callable[..., bool] | None = None

    def take(*request: Any) -> bool:
        nonlocal takes
        if takes is None:
            takes = made_websockets(loop, logger, options)
        return takes(*request)

    return take


def made_websockets(
    loop: asyncio.AbstractEventLoop, logger: logging.Logger, options: ServerOptions
) -> Callable[..., bool]:
    try:
        from kacore.server.websocket import WebSockets
    except ImportError:
        logger.warning("a client asked for a websocket, but the websockets package is missing: install kacore[websockets]")
        return lambda *_: False
    return WebSockets(loop, logger, options)


async def probe(application: Any, logger: logging.Logger) -> None:
    """Let requests run without a Task of their own, if this interpreter and loop allow it. Not for WSGI."""
    why_not = await application.runner.probe()
    if why_not is not None:
        logger.info("every request gets its own Task: %s", why_not)
