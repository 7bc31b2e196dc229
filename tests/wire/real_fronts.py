"""Real proxies in front of a server: their configuration, and gaps at their idle timeout.

`python tests/wire/real_fronts.py [GAPS] [FRONT...]` is the long form of test_real_fronts.py: at least so many gaps for each
front, `kacore serve` behind it with keep_alive_min of a second, and no more room than that what is learned counts.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import which
from typing import NamedTuple

AT_ONCE = 25  # requests, so that as many connections are idle together
SPREAD = 0.05  # seconds about the timeout
SERVICE = 0.2  # so long that no two of a round share a connection
CONTENT = b"x" * 64

NGINX = """daemon off; master_process off; pid {dir}/pid; error_log {dir}/nginx.log; worker_rlimit_nofile 1024;
events {{ }}
http {{
    access_log off; client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;
    uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
    upstream app {{ server 127.0.0.1:{app}; keepalive 64; keepalive_timeout {timeout}s; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_next_upstream off;
        }}
    }}
}}
"""
HAPROXY = """defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    retries 0
    option http-keep-alive
    http-reuse always
frontend in
    bind 127.0.0.1:{port}
    default_backend app
backend app
    server app 127.0.0.1:{app} pool-max-conn 64 pool-purge-delay {timeout}s
"""
CADDY = """{{
    admin off
    auto_https off
    storage file_system {dir}
}}
http://127.0.0.1:{port} {{
    reverse_proxy 127.0.0.1:{app} {{
        transport http {{
            keepalive {timeout}s
            keepalive_idle_conns 64
            keepalive_idle_conns_per_host 64
        }}
    }}
}}
"""
APACHE = """ServerRoot {dir}
PidFile {dir}/pid
ErrorLog {dir}/error.log
ServerName localhost
Listen 127.0.0.1:{port}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_http_module {modules}/mod_proxy_http.so
StartServers 1
ServerLimit 1
ThreadsPerChild 64
MaxRequestWorkers 64
ProxyPass / http://127.0.0.1:{app}/ keepalive=On ttl={timeout} max=64 smax=0
"""
MODULES = "/usr/lib/apache2/modules"


class Front(NamedTuple):
    """arguments: after the program, of the file with its configuration."""

    program: str
    configuration: str
    arguments: tuple[str, ...]
    timeout: int


FRONTS = {
    "nginx": Front("nginx", NGINX, ("-p", "{dir}", "-c", "{file}"), 3),
    "nginx-8": Front("nginx", NGINX, ("-p", "{dir}", "-c", "{file}"), 8),
    "haproxy": Front("haproxy", HAPROXY, ("-f", "{file}", "-db"), 3),
    "caddy": Front("caddy", CADDY, ("run", "--adapter", "caddyfile", "--config", "{file}"), 3),
    "apache": Front("apache2", APACHE, ("-X", "-f", "{file}"), 3),
}


def command(front: Front, directory: Path, *, port: int, app: int) -> list[str]:
    file = directory / "front.conf"
    names = {"dir": str(directory), "file": str(file), "port": port, "app": app, "timeout": front.timeout, "modules": MODULES}
    file.write_text(front.configuration.format(**names))
    return [which(front.program) or front.program, *(word.format(**names) for word in front.arguments)]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def posted(port: int) -> int:
    """One POST, on a connection of its own to the front: the status, 0 for none."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        client.request("POST", "/", CONTENT)
        response = client.getresponse()
        response.read()
        return response.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        client.close()


def rounds(port: int, timeout: float, n_rounds: int, *, at_once: int = AT_ONCE, seed: int = 1) -> list[list[int]]:
    """Each round is so many POSTs at once, after a gap of about the front's timeout: their statuses."""
    draw = random.Random(seed)

    def ask(wait: float) -> int:
        time.sleep(max(0.0, timeout + wait))
        return posted(port)

    with ThreadPoolExecutor(at_once) as pool:
        return [list(pool.map(ask, [draw.uniform(-SPREAD, SPREAD) for _ in range(at_once)])) for _ in range(n_rounds)]


# -- the long form ---------------------------------------------------------------------------------------------

APP = f"""
import asyncio
async def app(request):
    await asyncio.sleep({SERVICE})
    return b"ok"
"""
SERVE = ("--keep-alive-min", "1", "--pressure-start", "0", "--pressure-full", "0.001", "--forwarded-allow-ips", "127.0.0.1")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(name: str, n_gaps: int, gap: float, *policy: str) -> str:
    front = FRONTS[name]
    with tempfile.TemporaryDirectory() as directory:
        path, port, app, admin = Path(directory), free_port(), free_port(), free_port()
        (path / "front_app.py").write_text(APP)
        serve = [sys.executable, "-m", "kacore", "serve", "--port", str(app), "--interface", "handler"]
        serve += ["--admin", str(admin), *policy]
        with open(path / "log", "w+") as log:
            commands = ([*serve, "front_app:app"], command(front, path, port=port, app=app))
            children = [subprocess.Popen(words, cwd=directory, stdout=log, stderr=log) for words in commands]
            try:
                while not (answers(port) and answers(app) and answers(admin)):
                    time.sleep(0.05)
                learning = rounds(port, gap, 4)
                learned = rounds(port, gap, -(-n_gaps // AT_ONCE), seed=2)
                with urllib.request.urlopen(f"http://127.0.0.1:{admin}/connections", timeout=20) as page:
                    told = [one for one in json.load(page)["learned"] if one["proxy"]]
            finally:
                for child in children:
                    child.terminate()
                    child.wait(20)
    bad = [sum(status != 200 for one in part for status in one) for part in (learning, learned)]
    n = sum(map(len, learned))
    said = "; closes after {closes_after} s, kept for {kept_for:.1f} s, {races} races".format(**told[0]) if told else ""
    return f"{name:8} lost at first {bad[0]:3} of {4 * AT_ONCE}, then {bad[1]:3} of {n}{said}"


if __name__ == "__main__":
    n_gaps = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    for name in sys.argv[2:] or FRONTS:
        if which(FRONTS[name].program) is None:
            print(f"{name}: {FRONTS[name].program} is not installed")
            continue
        timeout = FRONTS[name].timeout
        print(f"auto, gaps of {timeout} s:", measure(name, n_gaps, timeout, *SERVE), flush=True)
        print(f"{timeout - 1} s, gaps of that:", measure(name, n_gaps, timeout - 1, "--keep-alive-timeout", str(timeout - 1)),
              flush=True)  # fmt: skip
