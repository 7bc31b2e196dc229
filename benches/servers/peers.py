"""Who is compared: how each server is started, with one process on one core and what its own documentation calls fast.

Access logs are off everywhere. kacore runs as it is by default, apart from limits that would end a connection amid a
measurement. nginx answers with the very fields that kacore sends.
"""

import importlib.metadata
import re
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FRAMEWORKS = ("starlette", "fastapi", "flask", "django")

# `keepalive_timeout 75s 74s` makes nginx send Keep-Alive: timeout=74, as kacore does. worker_connections counts
# from the start, a megabyte for each few thousand, so it is no larger than the largest bench needs.
NGINX_CONF = """
worker_processes 1;
worker_rlimit_nofile 19990;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 19000; }}
http {{
    access_log off;
    sendfile {sendfile};
    output_buffers 2 512k;
    tcp_nopush on;
    open_file_cache max=16;
    keepalive_requests 1000000000;
    http2_max_concurrent_streams 128;
    keepalive_timeout 75s 74s;
    client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
    uwsgi_temp_path {directory}; scgi_temp_path {directory};
    server {{
        listen 127.0.0.1:{port} backlog=4096{ssl}{http2};
        {ssl_files}
        default_type text/plain;
        location / {{ return 200 "Hello, world!"; }}
        location /mebibyte {{ root {files}; }}
        location /file {{ root {files}; }}
        location /hundred {{ root {files}; }}
    }}
}}
"""
NGINX_TLS = "ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;"


@dataclass(frozen=True)
class Peer:
    """`command` has {app}, {port}, {directory} and {python} in it; `tls` is added to it, and has {certificate} and {key}."""

    command: list[str]
    package: str = ""  # whose version to print; empty: ask the program
    interface: str = ""  # which application of apps.py it serves; empty: none, it answers by itself
    tls: list[str] | None = None  # None: it has none
    patience: list[str] = field(default_factory=list)  # added where thousands of connections stay idle for minutes
    sendfile: bool = True  # nginx only
    is_http2: bool = False  # asked by HTTP/2: prior knowledge, or ALPN
    is_restless: bool = False  # uses its core while nobody asks, so it is stopped while others are measured


def kacore(interface: str, *arguments: str) -> Peer:
    return Peer(
        ["{python}", "-m", "kacore", "serve", "{app}", "--interface", interface, "--port", "{port}", *arguments],
        package="kacore", interface=interface, tls=["--ssl-certfile", "{certificate}", "--ssl-keyfile", "{key}"],
        patience=["--max-connections", "19500", "--keep-alive-timeout", "900"],
    )  # fmt: skip


def granian(interface: str, version: str = "1", websockets: str = "--no-ws") -> Peer:
    return Peer(
        ["{python}", "-m", "granian", "--interface", interface, "--port", "{port}", "--loop", "uvloop", "--http", version,
         websockets, "--log-level", "error", "--backlog", "4096", "{app}"],
        package="granian", interface=interface, is_http2=version == "2",
        tls=["--ssl-certificate", "{certificate}", "--ssl-keyfile", "{key}"], patience=["--backpressure", "20000"],
    )  # fmt: skip


def uvicorn(http: str, *patience: str) -> Peer:
    return Peer(
        ["{python}", "-m", "uvicorn", "{app}", "--port", "{port}", "--backlog", "4096", "--no-access-log",
         "--log-level", "warning", "--loop", "uvloop", "--http", http],
        package="uvicorn", interface="asgi", tls=["--ssl-certfile", "{certificate}", "--ssl-keyfile", "{key}"],
        patience=["--timeout-keep-alive", "900", *patience],
    )  # fmt: skip


def gunicorn(worker: str, interface: str, *arguments: str) -> Peer:
    return Peer(
        ["{python}", "-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--worker-class", worker, "--keep-alive", "75",
         "--worker-connections", "4096", "--log-level", "error", "--no-control-socket", *arguments, "{app}"],
        package="gunicorn", interface=interface,
        patience=["--worker-connections", "19500", "--keep-alive", "900"],
    )  # fmt: skip


def launched(package: str, interface: str, is_restless: bool = False) -> Peer:
    command = ["{python}", str(HERE / "launch.py"), package, "{app}", "{port}"]
    return Peer(command, package=package, interface=interface, is_restless=is_restless)


PEERS = {
    "nginx": Peer(["nginx", "-c", "{directory}/nginx.conf", "-g", "daemon off;"], tls=[]),
    "nginx-copying": Peer(["nginx", "-c", "{directory}/nginx.conf", "-g", "daemon off;"], tls=[], sendfile=False),
    "nginx-h2": Peer(["nginx", "-c", "{directory}/nginx.conf", "-g", "daemon off;"], tls=[], is_http2=True),
    "nghttpd": Peer(
        ["nghttpd", "-n1", "-d", "{files}", "-a", "127.0.0.1", "--no-tls", "{port}"], is_http2=True,
    ),
    "kacore-h2": replace(kacore("asgi"), is_http2=True),
    "granian-h2": granian("asgi", "2"),
    "kacore-asgi": kacore("asgi", "--pathsend"),
    "kacore-asgi-asyncio": kacore("asgi", "--pathsend", "--loop", "asyncio"),
    "kacore-wsgi": kacore("wsgi", "--threads", "0"),
    "kacore-wsgi-1": kacore("wsgi", "--threads", "1"),
    "kacore-wsgi-4": kacore("wsgi", "--threads", "4"),
    "kacore-handler": kacore("handler"),
    "uvicorn": uvicorn("httptools"),
    "uvicorn-kacore": uvicorn("kacore.embed.uvicorn:Protocol", "--limit-concurrency", "19500"),
    "granian-asgi": granian("asgi"),
    "granian-ws": granian("asgi", websockets="--ws"),
    "granian-wsgi": granian("wsgi"),
    "fastpysgi-asgi": launched("fastpysgi", "asgi", is_restless=True),
    "fastpysgi-wsgi": launched("fastpysgi", "wsgi"),
    "bjoern": launched("bjoern", "wsgi"),
    "mrhttp": launched("mrhttp", "handler"),
    "socketify": Peer(
        ["{python}", "-m", "socketify", "{app}", "--port", "{port}", "--disable-listen-log", "True"],
        package="socketify", interface="asgi",
    ),
    "aiohttp": launched("aiohttp", "handler"),
    "gunicorn-gthread": gunicorn("gthread", "wsgi", "--threads", "4"),
    "gunicorn-asgi": gunicorn("asgi", "asgi"),
    "gunicorn-kacore-wsgi": gunicorn("kacore.embed.gunicorn.Worker", "wsgi"),
    "gunicorn-kacore-wsgi-4": gunicorn("kacore.embed.gunicorn.Worker", "wsgi", "--threads", "4"),
    "gunicorn-kacore-asgi": gunicorn("kacore.embed.gunicorn.ASGIWorker", "asgi"),
    "hypercorn": Peer(
        ["{python}", "-m", "hypercorn", "--bind", "127.0.0.1:{port}", "--backlog", "4096", "--worker-class", "uvloop",
         "--keep-alive", "900", "{app}"],
        package="hypercorn", interface="asgi",
    ),
    "hypercorn-h2": Peer(
        ["{python}", "-m", "hypercorn", "--bind", "127.0.0.1:{port}", "--backlog", "4096", "--worker-class", "uvloop",
         "--keep-alive", "900", "{app}"],
        package="hypercorn", interface="asgi", is_http2=True,
        tls=["--certfile", "{certificate}", "--keyfile", "{key}"],
    ),
}  # fmt: skip


def app_of(peer: Peer, app: str) -> str:
    return f"{'frameworks' if app in FRAMEWORKS else 'apps'}:{peer.interface}_{app}"


def nginx_conf(peer: Peer, directory: Path, port: int, files: Path, certificate: Path | None, key: Path | None) -> str:
    ssl_files = NGINX_TLS.format(certificate=certificate, key=key) if certificate else ""
    return NGINX_CONF.format(
        directory=directory,
        port=port,
        files=files,
        ssl=" ssl" if certificate else "",
        http2=" http2" if peer.is_http2 else "",
        ssl_files=ssl_files,
        sendfile="on" if peer.sendfile else "off",
    )


def version_of(peer: Peer) -> str:
    if peer.package == "kacore":
        return (ROOT / "kacore" / "_version.py").read_text().split('"')[1]
    if peer.package:
        return importlib.metadata.version(peer.package)
    flag = "-v" if peer.command[0] == "nginx" else "--version"
    said = subprocess.run([peer.command[0], flag], capture_output=True, text=True)
    return (said.stderr or said.stdout).strip().rpartition("/")[2]


def build_of(program: str = "git") -> str:
    """The commit that kacore was built from, with a plus when files differ from it; empty outside a clone."""
    try:
        command = [program, "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def flags(name: str) -> str:
    """The command as a reader would type it."""
    words = ["python" if word == "{python}" else word for word in PEERS[name].command]
    return re.sub(r"\S*/launch\.py", "benches/servers/launch.py", " ".join(words))


def python() -> str:
    return sys.executable
