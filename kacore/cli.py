"""The `kacore` command: serve, demo, policy. Every mistake of a user is one line on stderr and exit status 2."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from kacore._version import __version__
from kacore.policy import command as policy_command

LEVELS = ("debug", "info", "warning", "error")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Return: the exit status."""
    from kacore._core import LocalError
    from kacore.policy import PolicyError
    from kacore.server import UsageError

    args = make_parser().parse_args(argv)
    try:
        return int(args.run(args))
    except (UsageError, PolicyError, LocalError, ImportError) as error:
        if isinstance(error, ImportError) and args.run is not policy_command.run and not is_ours(error):
            raise
        print(f"kacore: {error}", file=sys.stderr)
    except OSError as error:
        print(f"kacore: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
    return 2


def is_ours(error: ImportError) -> bool:
    """A missing extra, which the message names; not an import that failed in the user's application."""
    return "kacore[" in str(error)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kacore", description="Serves ASGI and WSGI applications over kept-alive connections."
    )
    parser.add_argument("--version", action="version", version=f"kacore {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve an application", description="Serve module:name.")
    serve.set_defaults(run=run_serve)
    add_serve_arguments(serve)
    demo = commands.add_parser("demo", help="serve a page that shows what keep-alive saves")
    demo.set_defaults(run=run_demo)
    demo.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    demo.add_argument("--port", type=int, default=8000, help="port to listen on; 0 = a free one (default: 8000)")
    policy = commands.add_parser("policy", help="print the policy in force, or read it from Apache or nginx")
    policy.set_defaults(run=policy_command.run)
    policy_command.add_arguments(policy)
    return parser


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("app", metavar="MODULE:NAME", help="the application to serve")
    parser.add_argument("--host", default="127.0.0.1", help='address to listen on, "" = all (default: 127.0.0.1)')
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 = a free one (default: 8000)")
    parser.add_argument("--uds", metavar="PATH", help="listen on a unix socket instead")
    parser.add_argument(
        "--interface",
        choices=("auto", "asgi", "wsgi", "handler"),
        default="auto",
        help="what the application is (default: auto, by the arguments it takes)",
    )
    parser.add_argument("--loop", choices=("auto", "asyncio", "uvloop"), default="auto", help="event loop")
    parser.add_argument(
        "--io",
        choices=("auto", "epoll", "transports"),
        default="auto",
        help="who moves the bytes: kacore's engine, or the event loop's transports (default: auto)",
    )
    parser.add_argument("--threads", type=int, default=4, help="WSGI: requests at once; 0 = no threads (default: 4)")
    parser.add_argument("--lifespan", choices=("auto", "on", "off"), default="auto", help="ASGI lifespan")
    parser.add_argument("--root-path", default="", help="what a proxy in front strips from paths")
    parser.add_argument("--server-name", default="kacore", help='value of the Server field; "" = none')
    parser.add_argument("--app-dir", default=".", help="put first on the import path (default: .)")
    parser.add_argument("--factory", action="store_true", help="MODULE:NAME makes the application when called")
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="(default: info)")
    policy_command.add_source_flags(parser)
    policy_command.add_policy_flags(parser)


def run_serve(args: argparse.Namespace) -> int:
    from kacore.server import Server, load
    from kacore.server.server import quiet_stderr_logging

    found = policy_command.policy_from(args, os.environ, policy_command.config_files(args))
    quiet_stderr_logging(getattr(logging, args.log_level.upper()))
    app = load(args.app, app_dir=args.app_dir, factory=args.factory)
    Server(
        app,
        policy=found.policies,
        host=args.host,
        port=args.port,
        uds=args.uds,
        interface=args.interface,
        loop=args.loop,
        threads=args.threads,
        lifespan=args.lifespan,
        root_path=args.root_path,
        server_name=args.server_name,
        io=args.io,
    ).run()
    return 0


def run_demo(args: argparse.Namespace) -> int:
    from kacore import demo
    from kacore.server.server import quiet_stderr_logging

    quiet_stderr_logging(logging.WARNING)
    demo.run(host=args.host, port=args.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
