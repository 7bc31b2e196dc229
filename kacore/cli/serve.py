"""`kacore serve`: from the configuration to a server, or to a parent of workers; or only a look at the configuration."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kacore.cli.configuration import Configuration
from kacore.config.options import ServeOptions
from kacore.errors import ConfigError, UsageError, told

if TYPE_CHECKING:
    from kacore.server import Server
    from kacore.server.broken import Failure
    from kacore.server.engines import Sibling
    from kacore.server.place import Worker

NO_APPLICATION = "the application is missing: kacore serve MODULE:NAME"


def run(args: argparse.Namespace) -> int:
    environ = dict(os.environ)
    configuration = Configuration(args, environ)
    if args.check_config:
        configuration.tell()
        return check(configuration)
    from kacore.server import logs, signals
    from kacore.server.assembly import check_platform
    from kacore.server.listening import check_inherited
    from kacore.server.running import serve
    from kacore.server.systemd import passed_fds

    check_platform()
    options = configuration.options
    policies = configuration.policies
    if options.app is None:
        raise UsageError(NO_APPLICATION)
    fds = [*options.fds, *passed_fds()]
    check_inherited(fds)  # before a file that is opened here can get such a number
    signals.survive()
    if not options.has_parent:
        signals.serve_below_init()  # a parent of workers has the time for it
    if options.log_config is not None:
        logs.configure(options.log_config)
    if options.log_config is None or configuration.serve.origin("log_level") != "default":
        logs.set_up(options.log_level or "info", options.access_log_file)
    configuration.tell()

    def make(worker: Worker | Sibling | None = None, shows: Failure | None = None) -> Server:
        if shows is not None:
            return page_server(configuration, shows, fds=fds, worker=worker)
        return make_server(args, environ, None if worker else configuration, fds=fds, worker=worker)

    return serve(
        options.replace(fds=fds),
        make,
        scheme="http" if options.ssl_certfile is None else "https",
        policy=policies.default,
    )


def make_server(
    args: argparse.Namespace, environ: Mapping[str, str], configuration: Configuration | None, **given: Any
) -> Server:
    """In a worker too, which reads configuration and application anew."""
    from kacore.server import Server, load, logs
    from kacore.server.tls import from_options

    if configuration is None:
        configuration = Configuration(args, environ)
        configuration.tell()
    options = configuration.options
    tls = from_options(options)
    policies = configuration.policies
    if options.app is None:
        raise UsageError(NO_APPLICATION)
    configuration.complete_environment(environ)
    app = load(options.app, app_dir=options.app_dir, factory=options.factory)
    return Server(app, policy=policies, tls=tls, **{**logs.with_access_log(options), **given})


def page_server(configuration: Configuration, shows: Failure, **given: Any) -> Server:
    """For the page about a failure: as the parent was configured, since what is in the files now may be what failed."""
    from kacore.server import Server, logs
    from kacore.server.broken import application_of
    from kacore.server.tls import from_options

    options = configuration.options
    own = {**logs.with_access_log(options), **given, "interface": "handler"}
    return Server(application_of(shows), policy=configuration.policies, tls=from_options(options), **own)


# -- only a look -----------------------------------------------------------------------------------------------


def check(configuration: Configuration) -> int:
    """Tell all that is wrong. Return: 0, or 2 when something is."""
    wrong = [told(error) for error in mistakes(configuration)]
    for text in dict.fromkeys(wrong):
        print(f"kacore: {text}", file=sys.stderr)
    if not wrong:
        print("kacore: the configuration has no mistakes")
    return 2 if wrong else 0


def mistakes(configuration: Configuration) -> Iterator[BaseException]:
    """Those that show without serving: the certificates are loaded, addresses are read and not bound, and of the application
    the module's file is looked for; importing it would run it."""
    yield from configuration.mistakes()
    options: ServeOptions = configuration.serve.provisional()
    for look in LOOKS:
        try:
            look(options)
        except (ConfigError, OSError, ImportError) as error:
            yield error


def look_for_application(options: ServeOptions) -> None:
    from kacore.server.loading import find_file

    if options.app is None:
        raise UsageError(NO_APPLICATION)
    find_file(options.app, options.app_dir)


def look_at_addresses(options: ServeOptions) -> None:
    from kacore.server.listening import check_inherited, parse_address

    for address in options.addresses():
        parse_address(address)
    check_inherited(options.fds)


def look_at_admin(options: ServeOptions) -> None:
    from kacore.server.admin import parse_admin

    if options.admin is not None:
        parse_admin(options.admin)


def look_at_certificates(options: ServeOptions) -> None:
    from kacore.server.tls import from_options

    from_options(options)


def look_at_fields(options: ServeOptions) -> None:
    from kacore.server.assembly import field_lines_of

    field_lines_of(options)


def look_at_loop(options: ServeOptions) -> None:
    from kacore.server.assembly import chosen_io
    from kacore.server.loops import loop_factory

    loop_factory(options.loop)
    chosen_io(options.io)


def look_at_files(options: ServeOptions) -> None:
    if options.log_config is not None:
        with open(options.log_config, "rb"):
            pass
    for name in ("app_dir", "reload_dirs"):
        value = getattr(options, name)
        for path in [value] if isinstance(value, str) else value:
            if not os.path.isdir(path):
                raise UsageError(f"{name}={path!r}: is not a directory")


LOOKS = (
    look_for_application,
    look_at_addresses,
    look_at_admin,
    look_at_certificates,
    look_at_fields,
    look_at_loop,
    look_at_files,
)
