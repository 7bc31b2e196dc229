"""The options of serving, each declared once; see `fields.py` for what follows from a declaration.

`ServerOptions` are those of one server, and keywords of `Server`. `RunOptions` adds processes, logs and where the
application is, and its fields are keywords of `kacore.run`. `ServeOptions` adds what only the `kacore` command takes: files
with certificates, and where values come from. What connections may take is not here: that is `Policy`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

from kacore.config.access_format import access_format
from kacore.config.fields import FLAG, VARIABLE, Record, field
from kacore.errors import ConfigError, UsageError

APPLICATION = "Application"
LISTENING = "Where to listen"
PROCESSES = "Processes"
PROXY = "Behind a proxy"
TLS = "TLS"
LOGS = "Logs and health"
RESPONSES = "Every response"
WEBSOCKETS = "Websockets"
HTTP2 = "HTTP/2"
CONFIGURATION = "Configuration"
# In the order of help and documentation, with what is to be known of all that is in one.
GROUPS = {
    APPLICATION: "",
    LISTENING: "Sockets passed by systemd (LISTEN_FDS) are served, too.",
    PROCESSES: "",
    TLS: "SIGHUP reads the files again; open connections stay. In Python it is tls=kacore.TLS(...).",
    PROXY: "",
    LOGS: "",
    RESPONSES: "",
    HTTP2: "docs/http2.md says what it does and what bounds a client.",
    WEBSOCKETS: "They need kacore[websockets].",
    CONFIGURATION: "The first of these that names a value wins: flag, environment, --env-file, kacore.toml, default.",
}

HOST, PORT = "127.0.0.1", 8000
BACKLOG = 4096  # the kernel cuts it to net.core.somaxconn
MAX_PERMISSIONS = 0o777
MAX_WORKERS = 512
LEVELS = ("trace", "debug", "info", "warning", "error", "critical")
EVERY_LINE = "\n"  # between values that may hold commas

# -- values of a form of their own -----------------------------------------------------------------------------


def count_of_workers(given: object) -> int:
    """A number, or "auto": one for each core that this process may use."""
    if isinstance(given, str):
        if given == "auto":
            from kacore.config.cores import usable_cores

            return usable_cores()
        given = int(given) if given.isascii() and given.isdigit() else None
    if type(given) is not int or not 1 <= given <= MAX_WORKERS:
        raise TypeError
    return given


def level(given: object) -> str:
    """In small letters, as "warn" and "fatal" are called."""
    if not isinstance(given, str):
        raise TypeError
    word = {"warn": "warning", "fatal": "critical"}.get(given.lower(), given.lower())
    if word not in LEVELS:
        raise TypeError
    return word


def permissions(given: object) -> int:
    """660 as text, 0o660 as a number."""
    value = int(given, 8) if isinstance(given, str) and given and not given.strip("01234567") else given
    if type(value) is not int or not 0 <= value <= MAX_PERMISSIONS:
        raise TypeError
    return value


def header(given: object) -> tuple[str, str]:
    """ "NAME:VALUE", or the pair. What may be a field of a response is the core's to say."""
    from kacore._core import field_lines

    if isinstance(given, str):
        name, colon, value = given.partition(":")
        if not colon or not name:
            raise TypeError
        given = (name.strip(), value.strip())
    pair = pair_of(given)
    field_lines([pair])
    return pair


def name_of_field(given: object) -> str:
    from kacore._core import field_lines

    if not isinstance(given, str) or "_" in given:  # which no application of WSGI would see
        raise TypeError
    field_lines([(given, "x")])
    return given


def pair_of(given: object) -> tuple[str, str]:
    pair = tuple(given) if isinstance(given, Iterable) else ()
    if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
        raise TypeError
    return pair


def network(given: object) -> str:
    if not isinstance(given, str):
        raise TypeError
    word = given.strip()
    if word not in ("*", "unix"):
        from ipaddress import ip_network  # 2 ms, and only who is behind a proxy needs it

        ip_network(word)
    return word


def site_file(given: object) -> tuple[str, str]:
    if not isinstance(given, str):
        return pair_of(given)
    site, _, path = given.partition("=")
    if not (site and path):
        raise TypeError
    return site, path


def certificate_of_host(given: object) -> tuple[str, tuple[str, str | None]]:
    if isinstance(given, tuple):  # as it is stored
        return given
    host, files = site_file(given)
    certfile, _, keyfile = files.partition(",")
    if not certfile:
        raise TypeError
    return host, (certfile, keyfile or None)


def as_certificate_of_host(pair: tuple[str, tuple[str, str | None]]) -> str:
    return f"{pair[0]}={','.join(filter(None, pair[1]))}"


def is_server_name(text: str) -> bool:
    return text.isascii() and text.isprintable() and len(text) <= 117


def is_prefix(text: str) -> bool:
    return not text or (text.startswith("/") and not text.endswith("/"))


# -- the options -----------------------------------------------------------------------------------------------


# fmt: off
class ServerOptions(Record):
    """What one server does: keywords of `Server`."""

    __error__: ClassVar[type[ConfigError]] = UsageError

    interface: Literal["auto", "asgi", "wsgi", "handler"] = field(
        str, default="auto", choices=("auto", "asgi", "wsgi", "handler"), group=APPLICATION, is_common=True,
        metavar="KIND",
        doc="What the application is. With auto the arguments that it takes tell.",
    )
    threads: int = field(
        int, default=4, high=1024, zero="in the loop's thread", group=APPLICATION, is_common=True,
        doc="WSGI: requests at once.",
    )
    lifespan: Literal["auto", "on", "off"] = field(
        str, default="auto", choices=("auto", "on", "off"), group=APPLICATION,
        doc="Whether the application gets ASGI's lifespan events; auto asks it.",
    )
    loop: Literal["auto", "asyncio", "uvloop"] = field(
        str, default="auto", choices=("auto", "asyncio", "uvloop"), group=APPLICATION,
        doc="The event loop; auto takes uvloop when it is installed.",
    )
    io: Literal["auto", "epoll", "transports"] = field(
        str, default="auto", choices=("auto", "epoll", "transports"), group=APPLICATION,
        doc="What moves the bytes: kacore's engine (epoll, on Linux) or the event loop's transports; auto takes the first"
        " that there is.",
    )
    pathsend: bool = field(
        bool, default=False, group=APPLICATION,
        doc="ASGI applications may have files sent by the kernel (http.response.pathsend). Middleware that does not know it"
        " breaks responses that use it.",
    )

    host: str | None = field(
        str, default=None, default_text=HOST, group=LISTENING, is_common=True, metavar="HOST",
        doc='Address to listen on, "" = all.',
    )
    port: int | None = field(
        int, default=None, default_text=str(PORT), high=65535, zero="a free one", group=LISTENING, is_common=True,
        metavar="PORT",
        doc="Port to listen on.",
    )
    bind: Iterable[str] = field(
        str, default=(), is_repeated=True, separator=",", aliases=("-b",), group=LISTENING, is_common=True,
        metavar="ADDRESS",
        doc="HOST:PORT, [IPV6]:PORT, :PORT or unix:PATH.",
    )
    uds: str | None = field(
        str, default=None, group=LISTENING, metavar="PATH",
        doc="Unix socket to listen on.",
    )
    uds_mode: int | None = field(
        int, default=None, convert=permissions, to_text="{:o}".format,
        must="an octal number between 0 and 777, as 660 is", default_text="by the umask", group=LISTENING,
        metavar="OCTAL",
        doc="Permissions of unix sockets.",
    )
    fds: Iterable[int] = field(
        int, default=(), is_repeated=True, separator=",", flag="--fd", group=LISTENING,
        doc="An inherited descriptor that listens already.",
    )
    reuse_port: bool = field(
        bool, default=False, group=LISTENING,
        doc="Another server of this user that says so, too, may listen on the same port (SO_REUSEPORT): the next one, before"
        " this one ends.",
    )
    backlog: int = field(
        int, "connections", default=BACKLOG, low=1, high=1 << 20, group=LISTENING,
        doc="Connections that may wait to be accepted, as far as the kernel allows (net.core.somaxconn).",
    )

    forwarded_allow_ips: str | Iterable[str] = field(
        str, default=(), separator=",", convert=network, must='a network as 10.0.0.0/8, an address, "unix" or "*"',
        default_text="nobody", group=PROXY, is_common=True, metavar="NETS",
        doc="Proxies whose X-Forwarded-For and -Proto count. Networks and addresses; unix = unix sockets, * = everybody.",
    )
    proxy_protocol: bool = field(
        bool, default=False, group=PROXY,
        doc="Connections of these proxies begin with a PROXY header, version 1 or 2.",
    )
    root_path: str = field(
        str, default="", verify=is_prefix, must="empty, or begin with / and not end with one", group=PROXY,
        metavar="PATH",
        doc="What the proxy strips from paths.",
    )
    learned: str | None = field(
        str, default=None, group=PROXY, metavar="FILE",
        doc="Where to keep what is learned of idle timeouts (keep_alive_timeout = auto) from one start to the next.",
    )

    request_id: str | None = field(
        str, default=None, convert=name_of_field, must="the name of a field, as X-Request-ID", default_text="none",
        group=LOGS, metavar="FIELD",
        doc="Give each request an id in this field, and its response, too. That of a proxy in forwarded_allow_ips is kept,"
        " any other replaced.",
    )

    access_log: str | None = field(
        str, default=None, convert=access_format, must="off, short, common, combined, json, or a format as '%h \"%r\" %s %D'",
        default_text="short on a terminal and with reload", group=LOGS, is_common=True, metavar="FORMAT",
        doc="Requests, to stdout. Off, short, common, combined, json, or a format of Apache's words.",
    )

    admin: str | None = field(
        str, default=None, group=LOGS, is_common=True, metavar="[HOST:]PORT",
        doc="Port of a live page, /healthz, /readyz, /metrics and more. On loopback unless HOST is given.",
    )
    admin_hosts: Iterable[str] = field(
        str, default=(), is_repeated=True, separator=",", flag="--admin-host", group=LOGS, metavar="NAME",
        doc="A name that requests to --admin may have in Host, besides addresses and what is listened on.",
    )

    server_name: str = field(
        str, default="kacore", verify=is_server_name, must="at most 117 printable ASCII characters",
        off_flag="--no-server-header", group=RESPONSES, metavar="TEXT",
        doc='Value of the Server field; "" leaves it out.',
    )
    date_header: bool = field(bool, default=True, group=RESPONSES, doc="Whether responses have Date.")
    headers: Iterable[tuple[str, str]] = field(
        str, default=(), is_repeated=True, separator=EVERY_LINE, convert=header, to_text=": ".join,
        must="of the form NAME:VALUE", flag="--header", group=RESPONSES, metavar="NAME:VALUE",
        doc="A field of every response, besides those of the application.",
    )

    http2: Literal["auto", "on", "off"] = field(
        str, default="auto", choices=("auto", "on", "off"), group=HTTP2, is_common=True,
        doc="Serve HTTP/2. Over TLS to who agrees by ALPN, on plain ports to who begins with its preface; on: also with an"
        " SSLContext of your own, which is told to offer it.",
    )
    http2_max_streams: int = field(
        int, default=128, low=1, high=65_535, group=HTTP2, metavar="N",
        doc="Requests open at once on a connection.",
    )
    http2_max_window: int = field(
        int, "bytes", default=1 << 20, low=65_535, high=1 << 27, group=HTTP2,
        doc="Content that a client may send ahead of what the application reads, for each request: what its window, 65,535"
        " at first, grows to for a client that fills it in a round trip. A connection may send four times as much.",
    )

    ws_max_size: int = field(
        int, "bytes", default=16 << 20, low=1, high=(1 << 63) - 1, group=WEBSOCKETS,
        doc="Size of a message, uncompressed; a longer one closes with 1009.",
    )
    ws_ping_interval: float = field(
        float, "s", default=20.0, high=86_400, zero="no pings", group=WEBSOCKETS,
        doc="Time between pings. Without them a client that vanished is noticed when something is sent to it.",
    )
    ws_ping_timeout: float = field(
        float, "s", default=20.0, high=86_400, zero="never", group=WEBSOCKETS,
        doc="Close with 1011 if no pong arrives within this time.",
    )
    ws_per_message_deflate: bool = field(
        bool, default=True, group=WEBSOCKETS,
        doc="Compress messages when the client offers it (RFC 7692).",
    )

    def clashes(self) -> Iterator[ConfigError]:
        """As of Record."""
        if self.proxy_protocol and not self.forwarded_allow_ips:
            yield UsageError(
                "proxy_protocol needs forwarded_allow_ips: who may say where a connection comes from", "proxy_protocol"
            )

    def addresses(self, *, has_others: bool = False) -> list[str]:
        """What bind, uds, host and port name together, in the form of bind; the default address when nothing is named at
        all. has_others: there are sockets besides these."""
        found = [*self.bind] + ([f"unix:{self.uds}"] if self.uds is not None else [])
        if self.host is not None or self.port is not None or not (found or self.fds or has_others):
            host = HOST if self.host is None else self.host
            port = PORT if self.port is None else self.port
            found.insert(0, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        return found


class RunOptions(ServerOptions):
    """What a program or the command runs: besides a server's options the processes, the logs and the application."""

    app_dir: str = field(
        str, default=".", group=APPLICATION, is_common=True, metavar="DIR",
        doc="Put first on the import path.",
    )
    factory: bool = field(
        bool, default=False, group=APPLICATION, is_common=True,
        doc="MODULE:NAME makes the application when called.",
    )

    workers: int | Literal["auto"] | None = field(
        int, default=None, convert=count_of_workers, must=f"an integer between 1 and {MAX_WORKERS}, or auto",
        default_text="one process", aliases=("-w",), group=PROCESSES, is_common=True, metavar="N|auto",
        doc="Worker processes under a parent. Auto: one for each core that is ours by affinity and control group.",
    )
    engines: int | Literal["auto"] | None = field(
        int, default=None, convert=count_of_workers, must=f"an integer between 1 and {MAX_WORKERS}, or auto",
        default_text="one", group=PROCESSES, metavar="N|auto",
        doc="Engines in one process, each in a thread of its own, for a Python without a global interpreter lock. Auto: as"
        " for workers.",
    )
    max_requests_per_worker: int = field(
        int, default=0, zero="never", group=PROCESSES,
        doc="Replace a worker after so many requests.",
    )
    worker_timeout: float = field(
        float, "s", default=0.0, high=86_400, zero="never", group=PROCESSES,
        doc="Kill and replace a worker whose event loop has not run for so long. It says nothing of how long a response may"
        " take.",
    )
    reload: bool = field(
        bool, default=False, group=PROCESSES, is_common=True,
        doc="Replace the workers when a source file changes.",
    )
    reload_dirs: Iterable[str] = field(
        str, default=(), is_repeated=True, separator=",", default_text="app_dir", flag="--reload-dir",
        group=PROCESSES, metavar="DIR",
        doc="Where to look for changes.",
    )
    reload_include: Iterable[str] = field(
        str, default=(), is_repeated=True, separator=",", group=PROCESSES, metavar="PATTERN",
        doc='Names of files that count besides *.py, as "*.html".',
    )
    reload_exclude: Iterable[str] = field(
        str, default=(), is_repeated=True, separator=",", group=PROCESSES, metavar="PATTERN",
        doc='Names of files and directories that do not, or paths below the directory, as "tests" or "*/generated/*".',
    )
    pid: str | None = field(
        str, default=None, group=PROCESSES, metavar="FILE",
        doc="Write the process id there while it runs.",
    )

    log_level: Literal["trace", "debug", "info", "warning", "error", "critical"] | None = field(
        str, is_optional=True, default="info", choices=LEVELS, convert=level, group=LOGS, is_common=True,
        metavar="LEVEL",
        doc="What goes to stderr.",
    )
    access_log_file: str | None = field(
        str, default=None, default_text="stdout", group=LOGS, metavar="FILE",
        doc="Where the access log goes, - for stdout; SIGUSR1 opens it again. Its format is combined then, unless said.",
    )
    log_config: str | None = field(
        str, default=None, group=LOGS, metavar="FILE",
        doc="For the logging module, in place of log_level: a dictConfig in .json or .toml, else a fileConfig.",
    )

    @property
    def has_parent(self) -> bool:
        """Whether workers serve, below a parent."""
        return self.workers is not None or self.reload or bool(self.max_requests_per_worker or self.worker_timeout)

    @property
    def n_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else 1

    @property
    def n_engines(self) -> int:
        return self.engines if isinstance(self.engines, int) else 1

    def clashes(self) -> Iterator[ConfigError]:
        """As of Record."""
        yield from super().clashes()
        if self.engines is None:
            return
        if self.has_parent:
            yield UsageError(
                "engines: cannot be combined with workers, reload, max_requests_per_worker or worker_timeout, which are of"
                " processes", "engines"
            )
        from kacore.config.cores import has_gil

        if has_gil():
            yield UsageError(
                f"engines={self.engines}: the threads of this Python take turns, since it has a global interpreter lock: use"
                f" --workers {self.engines}, or a free-threaded Python", "engines"
            )

    def chosen_access_log(self, *, is_terminal: bool) -> str:
        """The format, or "off"."""
        if self.access_log is not None or self.log_config is not None:
            return self.access_log or "off"
        if self.access_log_file not in (None, "-"):
            return "combined"
        return "short" if self.reload or is_terminal else "off"

    @property
    def watched_dirs(self) -> list[str]:
        """Where reload looks."""
        return list(self.reload_dirs) or [self.app_dir]

    def server_options(self) -> dict[str, object]:
        """The part that is a server's, as keywords."""
        return {name: value for name, value in self.as_dict().items() if name in ServerOptions.__fields__}


class ServeOptions(RunOptions):
    """The options of `kacore serve`."""

    app: str | None = field(
        str, default=None, group=APPLICATION, flag="MODULE:NAME", is_common=True, metavar="MODULE:NAME",
        doc="The application.",
    )

    ssl_certfile: str | None = field(
        str, default=None, group=TLS, is_common=True, metavar="FILE",
        doc="Certificate chain, PEM.",
    )
    ssl_keyfile: str | None = field(
        str, default=None, default_text="in ssl_certfile", group=TLS, is_common=True, metavar="FILE",
        doc="Its private key.",
    )
    ssl_keyfile_password: str | None = field(
        str, default=None, is_secret=True, group=TLS, metavar="TEXT",
        doc="Passphrase of the private key.",
    )
    ssl_ca_certs: str | None = field(
        str, default=None, group=TLS, metavar="FILE",
        doc="Roots that client certificates are checked against.",
    )
    ssl_client_certs: Literal["none", "optional", "required"] | None = field(
        str, default=None, choices=("none", "optional", "required"),
        default_text="required with ssl_ca_certs, else none", group=TLS,
        doc="Whether clients are asked for certificates.",
    )
    ssl_ciphers: str | None = field(
        str, default=None, default_text="OpenSSL's own", group=TLS, metavar="LIST",
        doc="Cipher suites of TLS 1.2, as OpenSSL writes them.",
    )
    ssl_sni: Iterable[tuple[str, tuple[str, str | None]]] = field(
        str, default=(), is_repeated=True, separator=EVERY_LINE, convert=certificate_of_host,
        to_text=as_certificate_of_host, must="HOST=CERTFILE or HOST=CERTFILE,KEYFILE", group=TLS,
        metavar="HOST=CERTFILE[,KEYFILE]",
        doc="Another certificate for clients that name HOST.",
    )

    config: str | None = field(
        str, default=None, default_text="kacore.toml if there", sources=(FLAG, VARIABLE), group=CONFIGURATION,
        is_common=True, metavar="FILE",
        doc="File with [serve] and [policy].",
    )
    env_file: str | None = field(
        str, default=None, sources=(FLAG, VARIABLE), group=CONFIGURATION, is_common=True, metavar="FILE",
        doc="KEY=VALUE lines for the environment; variables that are set stay.",
    )
    from_apache: str | None = field(
        str, default=None, group=CONFIGURATION, metavar="FILE",
        doc="Start from the policy that this Apache configuration asks for.",
    )
    htaccess: Iterable[tuple[str, str]] = field(
        str, default=(), is_repeated=True, separator=EVERY_LINE, convert=site_file, to_text="=".join,
        must="SITE=FILE", group=CONFIGURATION, metavar="SITE=FILE",
        doc="With from_apache: a site's .htaccess.",
    )
    from_nginx: str | None = field(
        str, default=None, group=CONFIGURATION, metavar="FILE",
        doc="Start from the policy that this nginx configuration asks for.",
    )

    def clashes(self) -> Iterator[ConfigError]:
        """As of Record."""
        yield from super().clashes()
        if self.ssl_certfile is None and (self.ssl_keyfile or self.ssl_ca_certs or self.ssl_sni):
            yield UsageError("--ssl-certfile is missing", "ssl_certfile")
