"""A server in one call: `run`, for the end of a script, and `serving`, for tests and notebooks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from kacore.config.fields import keywords_of
from kacore.config.options import RunOptions
from kacore.errors import ConfigError, UsageError
from kacore.policy import Policy, PolicySet
from kacore.server import logs
from kacore.server.broken import Failure, application_of
from kacore.server.loading import load
from kacore.server.loops import loop_factory
from kacore.server.options import RunKeywords, ServerKeywords
from kacore.server.pidfile import pid_file
from kacore.server.server import Server


@keywords_of(RunKeywords)
def run(app: str | Callable[..., Any], options: RunKeywords) -> None:
    """Serve until SIGTERM or SIGINT, as `kacore serve` does.

    app: the application, or where it is, "module:name", looked for in app_dir first. Workers import it themselves, so that
    it must be named for them. log_level: None when the program has set up logging.

    Raises UsageError for what cannot be served, SystemExit when workers ended for a reason other than being told to.
    """
    if options.has_parent and not isinstance(app, str):
        raise UsageError(f'workers and reload need the application as "module:name", not {app!r}: each worker imports it')
    if options.has_parent and options.sockets is not None:
        raise UsageError("sockets: workers share addresses (bind, host, port, uds) or descriptors (fds)")
    if options.engines is not None and options.sockets is not None:
        raise UsageError("sockets: engines share addresses (bind, host, port, uds) or descriptors (fds)")
    if options.log_config is not None:
        logs.configure(options.log_config)
    elif options.log_level is not None:
        logs.set_up(options.log_level, options.access_log_file)
    policy = options.policy or Policy()

    def make(shows: Failure | None = None, **given: Any) -> Server:
        found: Any
        if shows is not None:
            found, given["interface"] = application_of(shows), "handler"
        elif isinstance(app, str):
            found = load(app, app_dir=options.app_dir, factory=options.factory)
        else:
            found = app() if options.factory else app
        keywords = {**logs.with_access_log(options), "tls": options.tls, "sockets": options.sockets}
        return Server(found, policy=policy, **{**keywords, **given})

    how: dict[str, Any] = {
        "scheme": "http" if options.tls is None else "https",
        "policy": policy.default if isinstance(policy, PolicySet) else policy,
    }
    if not options.has_parent:
        serve(options, make, **how)
    elif status := without_return(lambda: serve(options, make, **how)):
        sys.exit(status)


def serve(options: RunOptions, make: Callable[..., Server], *, scheme: str, policy: Policy) -> int:
    """One process, or a parent with workers. make: called with `worker` in each worker and for each engine, and with `shows`
    for a server of the page about that failure. policy: the default. Return: the exit status, in the parent as in each
    worker."""
    if options.engines is not None:
        from kacore.server.engines import Engines

        engines = Engines(make, options, scheme=scheme, policy=policy)
        with contextlib.closing(engines), pid_file(options.pid):
            engines.run()
        return 0
    if not options.has_parent:
        server = make()
        server.bind()
        with contextlib.closing(server), pid_file(options.pid):
            server.run()
        return 0
    from kacore.server.supervisor import Supervisor

    supervisor = Supervisor(lambda worker, shows: make(worker=worker, shows=shows), options, scheme=scheme, policy=policy)
    with contextlib.closing(supervisor), pid_file(options.pid):
        return supervisor.run()


def without_return(call: Callable[[], int]) -> int:
    """The exit status of the parent. A worker, who comes out of the same call, ends here: what follows in the program is
    the parent's."""
    parent = os.getpid()
    status = 1
    try:
        status = call()
    except ConfigError as error:
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
@keywords_of(ServerKeywords)
def serving(app: str | Callable[..., Any], options: ServerKeywords) -> Iterator[Server]:
    """A server in a thread of its own, for tests and notebooks:

        with kacore.serving(app) as server:
            httpx.get(server.url)

    It accepts connections when the block begins, and has drained when it is left. Where nothing says where to listen it is
    a free port, see Server.port. Raises what kept it from serving: UsageError, or what the application raised.
    """
    given = options.as_dict()
    is_elsewhere = options.bind or options.uds is not None or options.fds or options.sockets is not None
    if options.port is None and not is_elsewhere:
        given["port"] = 0
    server = Server(app, **given)
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
            with asyncio.Runner(loop_factory=loop_factory(self.server.options.loop)) as runner:
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
