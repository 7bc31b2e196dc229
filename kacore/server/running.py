"""A server in one call: `run`, for the end of a script, and `serving`, for tests and notebooks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from kacore.policy import Policy, PolicyError, PolicySet
from kacore.server import logs
from kacore.server.loading import UsageError, load
from kacore.server.loops import loop_factory
from kacore.server.server import Server

# Of Server, what the parent of workers needs itself.
LISTENING = ("host", "port", "uds", "bind", "fds", "backlog", "uds_mode", "reuse_port")
LEVELS = ("debug", "info", "warning", "error")


def run(
    app: str | Callable[..., Any],
    *,
    workers: int | None = None,
    reload: bool = False,
    reload_dirs: Iterable[str] = (),
    reload_include: Iterable[str] = (),
    max_requests_per_worker: int = 0,
    app_dir: str = ".",
    factory: bool = False,
    log_level: str | None = "info",
    log_config: str | None = None,
    **options: Any,
) -> None:
    """Serve until SIGTERM or SIGINT, as `kacore serve` does.

    app:        the application, or where it is, "module:name", looked for in app_dir first. factory: it is to be called
                without arguments, and makes the application.
    workers:    so many processes, under a parent that replaces them; they import the application themselves, so that it
                must be named. max_requests_per_worker: one is replaced after so many.
    reload:     replace the workers when a source below one of reload_dirs (app_dir unless told) changes, or a file like
                one of reload_include.
    log_level:  what goes to stderr; None: the program has set up logging. log_config: a file for the logging module.
    options:    of Server.
    Raises UsageError for what cannot be served, SystemExit when workers ended for a reason other than being told to.
    """
    if log_level is not None and log_level not in LEVELS:
        raise UsageError(f"log_level={log_level!r}: must be one of {', '.join(LEVELS)}")
    has_parent = workers is not None or reload or bool(max_requests_per_worker)
    if has_parent and not isinstance(app, str):
        raise UsageError(f'workers and reload need the application as "module:name", not {app!r}: each worker imports it')
    if log_config is not None:
        logs.configure(log_config)
    elif log_level is not None:
        logs.set_up(getattr(logging, log_level.upper()))

    def make(**more: Any) -> Server:
        found = load(app, app_dir=app_dir, factory=factory) if isinstance(app, str) else app() if factory else app
        return Server(found, **options, **more)

    if not has_parent:
        make().run()
        return
    where = {name: options.pop(name) for name in LISTENING if name in options}
    status = supervise(
        make,
        where,
        options,
        n_workers=1 if workers is None else workers,
        max_requests=max_requests_per_worker,
        reload_dirs=(list(reload_dirs) or [app_dir]) if reload else [],
        reload_include=reload_include,
    )
    if status:
        sys.exit(status)


def supervise(make: Callable[..., Server], where: dict[str, Any], options: dict[str, Any], **how: Any) -> int:
    """The exit status of the parent. A worker, who comes out of the same call, ends here."""
    from kacore.server.supervisor import Supervisor

    if options.get("sockets") is not None:
        raise UsageError("sockets: workers share addresses (bind, host, port, uds) or descriptors (fds)")
    host, port, uds = where.pop("host", "127.0.0.1"), where.pop("port", 8000), where.pop("uds", None)
    bind = list(where.pop("bind", ()))
    if uds is not None:
        bind.append(f"unix:{uds}")
    elif not bind and not where.get("fds"):
        bind.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    policy = options.get("policy") or Policy()
    parent = os.getpid()
    status = 1
    try:
        status = Supervisor(
            lambda worker: make(worker=worker),
            bind=bind,
            scheme="http" if options.get("tls") is None else "https",
            policy=policy.default if isinstance(policy, PolicySet) else policy,
            **where,
            **how,
        ).run()
    except (UsageError, PolicyError) as error:
        if os.getpid() == parent:
            raise
        print(f"kacore: {error}", file=sys.stderr)
        status = 2
    except BaseException as error:
        if os.getpid() == parent:
            raise
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else 1
        else:
            logging.getLogger("kacore.error").error("a worker failed", exc_info=error)
    finally:
        if os.getpid() != parent:
            logging.shutdown()
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            os._exit(status)
    return status


@contextlib.contextmanager
def serving(app: str | Callable[..., Any], *, port: int = 0, **options: Any) -> Iterator[Server]:
    """A server in a thread of its own, for tests and notebooks:

        with kacore.serving(app) as server:
            httpx.get(server.url)

    It accepts connections when the block begins, and has drained when it is left. port: 0 = a free one, see Server.port.
    options: of Server. Raises what kept it from serving: UsageError, or what the application raised.
    """
    server = Server(app, port=port, **options)
    thread = ServingThread(server)
    thread.start()
    thread.ready.wait()
    try:
        if thread.failure is None:
            yield server
    finally:
        server.shutdown(hurry=True)
        thread.join()
    if thread.failure is not None:
        raise thread.failure


class ServingThread(threading.Thread):
    """ready: it serves, or has failed to. failure: what ended it."""

    def __init__(self, server: Server) -> None:
        super().__init__(name="kacore-serving", daemon=True)
        self.server = server
        self.ready = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        """As of Thread."""
        try:
            with asyncio.Runner(loop_factory=loop_factory(self.server.loop)) as runner:
                runner.run(self._serve())
        except BaseException as error:
            self.failure = error
        finally:
            self.ready.set()

    async def _serve(self) -> None:
        self.server.bind()
        serving = asyncio.create_task(self.server.serve(handle_signals=False))
        await self.server.started()
        if self.server.is_ready:
            self.ready.set()
        await serving
