"""The `kacore` command: serve, demo, policy. Every mistake of a user is one line on stderr and exit status 2."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from kacore._version import __version__
from kacore.elsewhere import explain
from kacore.policy import command as policy_command

if TYPE_CHECKING:
    from kacore.policy import PolicySet
    from kacore.server import Server

LEVELS = ("debug", "info", "warning", "error")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Return: the exit status."""
    from kacore._core import LocalError
    from kacore.policy import PolicyError
    from kacore.server import UsageError

    open_standard_streams()
    args, unknown = make_parser().parse_known_args(argv)
    try:
        if unknown:
            raise UsageError(explain(unknown, [f"--{name.replace('_', '-')}" for name in vars(args)]))
        return int(args.run(args))
    except (UsageError, PolicyError, LocalError, ImportError) as error:
        if isinstance(error, ImportError) and args.run is not policy_command.run and not is_ours(error):
            raise
        print(f"kacore: {error}", file=sys.stderr)
    except OSError as error:
        if is_of_the_application(error):
            raise
        print(f"kacore: {policy_command.told(error)}", file=sys.stderr)
    return 2


def open_standard_streams() -> None:
    """Whoever starts us with one of them closed gets a connection there instead, and its log lines in it."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "r" if fd == 0 else "w", errors="backslashreplace", closefd=False))  # noqa: SIM115


def is_of_the_application(error: OSError) -> bool:
    """Raised while it was loaded: its author wants to see where."""
    from kacore.server import load

    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is load.__code__:
            return True
        trace = trace.tb_next
    return False


def is_ours(error: ImportError) -> bool:
    """A missing extra, which the message names; not an import that failed in the user's application."""
    return "kacore[" in str(error)


class Parser(argparse.ArgumentParser):
    """A mistake is one line, like all others. Names in full only: an abbreviation would end with the next new option."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"kacore: {message} (see {self.prog} --help)\n")


def make_parser() -> Parser:
    parser = Parser(prog="kacore", description="Serves ASGI and WSGI applications over kept-alive connections.")
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
    add_listening_arguments(parser)
    add_process_arguments(parser)
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
    parser.add_argument(
        "--pathsend",
        action="store_true",
        help="ASGI: let applications have files sent by the kernel; not with middleware that compresses",
    )
    add_response_arguments(parser)
    add_log_arguments(parser)
    parser.add_argument(
        "--forwarded-allow-ips",
        default="",
        metavar="NETWORKS",
        help='proxies whose X-Forwarded-For and -Proto count, with commas; "unix" = unix sockets, "*" = all'
        " (default: none)",
    )
    parser.add_argument(
        "--proxy-protocol", action="store_true", help="connections of these proxies begin with a PROXY header"
    )
    parser.add_argument(
        "--admin",
        metavar="[HOST:]PORT",
        help="/healthz, /readyz, /metrics, /connections; on loopback unless HOST is given",
    )
    parser.add_argument(
        "--admin-host",
        metavar="NAME",
        action="append",
        default=[],
        help="a name that requests to --admin may have in Host; may be repeated",
    )
    parser.add_argument("--app-dir", default=".", help="put first on the import path (default: .)")
    parser.add_argument("--factory", action="store_true", help="MODULE:NAME makes the application when called")
    add_websocket_arguments(parser)
    add_tls_arguments(parser)
    policy_command.add_source_flags(parser)
    policy_command.add_policy_flags(parser)


def add_response_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("every response")
    group.add_argument("--server-name", default="kacore", help='value of the Server field; "" = none')
    group.add_argument(
        "--no-server-header", dest="server_name", action="store_const", const="", help='the same as --server-name ""'
    )
    group.add_argument("--no-date-header", dest="date_header", action="store_false", help="leave out Date")
    group.add_argument(
        "--header",
        metavar="NAME:VALUE",
        dest="headers",
        type=field,
        action="append",
        default=[],
        help="a field besides those of the application; may be repeated",
    )


def add_log_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("logs")
    group.add_argument("--log-level", choices=LEVELS, help="(default: info)")
    group.add_argument(
        "--log-config", metavar="FILE", help="for the logging module: a dictConfig in .json or .toml, else a fileConfig"
    )
    group.add_argument(
        "--access-log", choices=("off", "common", "combined", "json"), default="off", help="to stdout (default: off)"
    )


def add_websocket_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("websockets", "They need kacore[websockets].")
    group.add_argument(
        "--ws-max-size", type=int, default=16 * 1024 * 1024, metavar="BYTES", help="of a message (default: 16 MiB)"
    )
    group.add_argument(
        "--ws-ping-interval", type=float, default=20.0, metavar="SECONDS", help="0 = no pings (default: 20)"
    )
    group.add_argument(
        "--ws-ping-timeout",
        type=float,
        default=20.0,
        metavar="SECONDS",
        help="who has not answered a ping by then is gone; 0 = never (default: 20)",
    )
    group.add_argument(
        "--no-ws-per-message-deflate", dest="ws_per_message_deflate", action="store_false", help="compress nothing"
    )


def field(text: str) -> tuple[str, str]:
    """NAME:VALUE. What may be a field is the server's to say."""
    name, colon, value = text.partition(":")
    if not colon or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME:VALUE")
    return name.strip(), value.strip()


def octal(text: str) -> int:
    if not text or text.strip("01234567"):
        raise argparse.ArgumentTypeError(f"{text!r} is no octal number, as 660 is")
    return int(text, 8)


def add_tls_arguments(parser: argparse.ArgumentParser) -> None:
    tls = parser.add_argument_group("TLS", "SIGHUP reads the files again; open connections stay.")
    tls.add_argument("--ssl-certfile", metavar="FILE", help="certificate chain, PEM")
    tls.add_argument("--ssl-keyfile", metavar="FILE", help="its private key (default: in --ssl-certfile)")
    tls.add_argument("--ssl-keyfile-password", metavar="TEXT", help="what the key is locked with")
    tls.add_argument("--ssl-ca-certs", metavar="FILE", help="roots that client certificates are checked against")
    tls.add_argument(
        "--ssl-client-certs",
        choices=("none", "optional", "required"),
        help="ask clients for certificates (default: required with --ssl-ca-certs, else none)",
    )
    tls.add_argument("--ssl-ciphers", metavar="LIST", help="suites of TLS 1.2, as OpenSSL writes them")
    tls.add_argument(
        "--ssl-sni",
        action="append",
        default=[],
        metavar="HOST=CERTFILE[,KEYFILE]",
        help="another certificate for clients that name HOST; may be repeated",
    )


def add_listening_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where to listen", "sockets passed by systemd (LISTEN_FDS) are served, too")
    group.add_argument("--host", help='address to listen on, "" = all (default: 127.0.0.1)')
    group.add_argument("--port", type=int, help="port to listen on; 0 = a free one (default: 8000)")
    group.add_argument("--uds", metavar="PATH", help="listen on a unix socket")
    group.add_argument("--uds-mode", metavar="OCTAL", type=octal, help="permissions of unix sockets (default: by the umask)")
    group.add_argument(
        "-b",
        "--bind",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="HOST:PORT, [IPV6]:PORT, :PORT or unix:PATH; may be repeated",
    )
    group.add_argument(
        "--fd", metavar="N", type=int, action="append", default=[], help="an inherited descriptor that listens"
    )
    group.add_argument(
        "--reuse-port",
        action="store_true",
        help="let another server that says so, too, listen on the same port: the next one, before this one ends",
    )
    group.add_argument(
        "--backlog", metavar="N", type=int, default=4096, help="connections that may wait to be accepted (default: 4096)"
    )


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("processes")
    group.add_argument(
        "-w",
        "--workers",
        type=int,
        metavar="N",
        help="so many processes, under a parent that replaces them when they end, and all of them on SIGHUP",
    )
    group.add_argument(
        "--max-requests-per-worker",
        type=int,
        default=0,
        metavar="N",
        help="replace a worker after so many requests, give or take a tenth (default: 0, never)",
    )
    group.add_argument("--reload", action="store_true", help="replace the workers when a source file changes")
    group.add_argument(
        "--reload-dir",
        metavar="DIR",
        action="append",
        default=[],
        help="where to look for changes; may be repeated (default: --app-dir)",
    )
    group.add_argument(
        "--reload-include",
        metavar="PATTERN",
        action="append",
        default=[],
        help='names of files that count besides *.py, as "*.html"; may be repeated',
    )
    group.add_argument("--pid", metavar="FILE", help="write the process id there while it runs")
    group.add_argument("--lame-duck", dest="drain_lame_duck", metavar="SECONDS", help="the same as --drain-lame-duck")


def addresses(args: argparse.Namespace, has_fds: bool) -> list[str]:
    """What --bind, --uds, --host and --port name together; the default address when nothing was named at all."""
    found = [*args.bind] + ([f"unix:{args.uds}"] if args.uds is not None else [])
    if args.host is not None or args.port is not None or not (found or has_fds):
        host = "127.0.0.1" if args.host is None else args.host
        port = 8000 if args.port is None else args.port
        found.insert(0, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    return found


def run_serve(args: argparse.Namespace) -> int:
    from kacore.server import logs, signals
    from kacore.server.listening import check_inherited
    from kacore.server.systemd import passed_fds

    fds = [*args.fd, *passed_fds()]
    check_inherited(fds)  # before a file that is opened here can get such a number
    signals.survive()
    if is_alone(args):
        signals.serve_below_init()  # a parent of workers has the time for it
    if args.log_config is not None:
        logs.configure(args.log_config)
    if args.log_config is None or args.log_level is not None:
        logs.set_up(getattr(logging, (args.log_level or "info").upper()))
    return serve(args, fds)


def is_alone(args: argparse.Namespace) -> bool:
    """One process, without a parent of ours."""
    return args.workers is None and not args.max_requests_per_worker and not args.reload


def serve(args: argparse.Namespace, fds: list[int]) -> int:
    from kacore.server.pidfile import pid_file

    bind = addresses(args, bool(fds))
    listening = {"bind": bind, "fds": fds, "backlog": args.backlog, "uds_mode": args.uds_mode, "reuse_port": args.reuse_port}
    if is_alone(args):
        server = make_server(args, **listening)
        server.bind()
        with contextlib.closing(server), pid_file(args.pid):
            server.run()
        return 0
    from kacore.server.supervisor import Supervisor

    supervisor = Supervisor(
        lambda worker: make_server(args, worker=worker),
        n_workers=1 if args.workers is None else args.workers,
        scheme="http" if args.ssl_certfile is None else "https",
        policy=find_policy(args).default,
        max_requests=args.max_requests_per_worker,
        reload_dirs=(args.reload_dir or [args.app_dir]) if args.reload else [],
        reload_include=args.reload_include,
        **listening,
    )
    with contextlib.closing(supervisor), pid_file(args.pid):
        return supervisor.run()


def find_policy(args: argparse.Namespace) -> PolicySet:
    return policy_command.policy_from(args, os.environ, policy_command.config_files(args)).policies


def make_server(args: argparse.Namespace, **where: Any) -> Server:
    """In a worker too, which reads policy and application anew."""
    from kacore.server import Server, load
    from kacore.server.tls import from_options as tls_from_options

    policies = find_policy(args)
    tls = tls_from_options(
        args.ssl_certfile,
        args.ssl_keyfile,
        args.ssl_keyfile_password,
        args.ssl_ca_certs,
        args.ssl_client_certs,
        args.ssl_ciphers,
        args.ssl_sni,
    )
    return Server(
        load(args.app, app_dir=args.app_dir, factory=args.factory),
        policy=policies,
        interface=args.interface,
        loop=args.loop,
        threads=args.threads,
        lifespan=args.lifespan,
        root_path=args.root_path,
        pathsend=args.pathsend,
        server_name=args.server_name,
        io=args.io,
        date_header=args.date_header,
        headers=args.headers,
        ws_max_size=args.ws_max_size,
        ws_ping_interval=args.ws_ping_interval,
        ws_ping_timeout=args.ws_ping_timeout,
        ws_per_message_deflate=args.ws_per_message_deflate,
        tls=tls,
        access_log=args.access_log,
        forwarded_allow_ips=args.forwarded_allow_ips,
        proxy_protocol=args.proxy_protocol,
        admin=args.admin,
        admin_hosts=args.admin_host,
        **where,
    )


def run_demo(args: argparse.Namespace) -> int:
    from kacore import demo
    from kacore.server import logs

    logs.set_up(logging.WARNING)
    demo.run(host=args.host, port=args.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
