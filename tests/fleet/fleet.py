"""Servers are replaced again and again while clients POST: what is lost, and what does an application see twice?

    make fleet                                      # 20 rolls of each scheme, beside uvicorn, gunicorn and granian
    make fleet-short                                # kacore alone, twice each: what CI runs
    make fleet FLEET=--docs                         # and write the table into docs/deploy.md

Each pair of scheme and server runs in a process of its own, with a few of them side by side. The status is 1 if kacore
lost anything, or carried out anything twice.
"""

import argparse
import collections
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clients import Clients

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATIENCE_S = 60
REQUESTS_BETWEEN = 150

SCHEMES = {
    "hup": "SIGHUP to 2 workers",
    "max-requests": "2 workers, each replaced after 300 requests",
    "haproxy": "two servers behind HAProxy, one restarted at a time",
    "nginx": "the same behind nginx",
    "fd": "`--fd`: the successor inherits the socket",
    "listen-fds": "the same with `LISTEN_FDS`, as systemd passes it",
    "reuse-port": "`--reuse-port`: the successor starts on the same port",
    "reload": "`--reload`: a file is saved",
}
# What has no such scheme, and why.
LACKING = {
    ("uvicorn", "listen-fds"): "no LISTEN_FDS",
    ("uvicorn", "reuse-port"): "no such option",
    ("granian", "fd"): "no such option",
    ("granian", "listen-fds"): "no LISTEN_FDS",
    ("granian", "max-requests"): "by time alone",
}
SERVERS = ("kacore", "uvicorn", "gunicorn", "granian")
LAME_DUCK = ("--drain-lame-duck", "2")  # HAProxy asks every 500 ms


class Run:
    """One scheme with one server, in a directory of its own. `one_roll()` of each scheme returns when the successor serves
    and its predecessor is gone."""

    def __init__(self, server, scheme, peers, directory):
        self.server, self.scheme, self.peers, self.directory = server, scheme, peers, Path(directory)
        self.ids = self.directory / "ids"
        self.served = self.directory / "served"  # by itself, for those that watch their directory
        self.served.mkdir()
        self.version = 0
        self.children = []
        self.log = (self.directory / "log").open("ab")
        self.save(0)

    def save(self, version):
        """The application with another number, as editors save: whole or not at all."""
        self.version = version
        text = (HERE / "application.py").read_text(encoding="utf-8")
        (self.directory / "app.new").write_text(text.replace("VERSION = 0", f"VERSION = {version}"), encoding="utf-8")
        (self.directory / "app.new").rename(self.served / "app.py")

    # -- processes --------------------------------------------------------------------------------------------------

    def command(self, *, port=None, fd=None, admin=None, more=()):
        if self.server == "kacore":
            where = ["--fd", str(fd)] if fd is not None else ["--port", str(port)] if port else []
            where += ["--admin", str(admin)] if admin else []
            return [sys.executable, "-m", "kacore", "serve", "app:app", *where, *more]
        program = str(Path(self.peers, self.server))
        if self.server == "uvicorn":
            where = ["--fd", str(fd)] if fd is not None else ["--port", str(port)]
            return [program, "app:app", "--no-access-log", *where, *more]
        if self.server == "gunicorn":
            where = ["--bind", f"fd://{fd}" if fd is not None else f"127.0.0.1:{port}"] if port or fd is not None else []
            return [program, "app:app", "--worker-class", "asgi", *where, *more]
        return [program, "--interface", "asgi", "app:app", "--port", str(port), *more]

    def start(self, argv, cwd=None, **options):
        env = {**os.environ, "FLEET_IDS": str(self.ids), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        child = subprocess.Popen(
            argv, cwd=cwd or self.served, env=env, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, **options
        )
        self.children.append(child)
        return child

    def stop(self, child):
        child.terminate()
        try:
            child.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise Stuck(f"{self.server} did not end within {PATIENCE_S} s of SIGTERM") from None

    def end(self):
        for child in reversed(self.children):
            if child.poll() is None:
                child.terminate()
        for child in self.children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.log.close()

    def option(self, **by_server):
        return by_server[self.server].split()

    # -- schemes: each a generator whose first step serves, and every other one is a roll ---------------------------------

    def rolls(self):
        return getattr(self, "roll_" + self.scheme.replace("-", "_"))()

    def roll_hup(self):
        port = free_port()
        parent = self.start(self.command(port=port, more=["--workers", "2"]))
        clients = yield port
        while True:
            old = {pid for pid, _ in clients.since(time.monotonic() - 1)}
            parent.send_signal(signal.SIGHUP)
            until(lambda old=old: not any(map(is_alive, old)), "the old workers are gone")
            answered_by_others(clients, old)
            yield

    def roll_max_requests(self):
        port = free_port()
        option = self.option(
            kacore="--max-requests-per-worker 300", uvicorn="--limit-max-requests 300", gunicorn="--max-requests 300"
        )
        self.start(self.command(port=port, more=["--workers", "2", *option]))
        clients = yield port
        while True:
            answered_by_others(clients, {pid for pid, _ in clients.since(0)})
            yield

    def roll_reload(self):
        port = free_port()
        self.start(self.command(port=port, more=["--reload"]))
        clients = yield port
        while True:
            self.save(self.version + 1)
            until(lambda: self.version in {version for _, version in clients.since(0)}, "the new code answers")
            yield

    def roll_haproxy(self):
        ports = [free_port() for _ in range(5)]
        front, backends, checked = ports[0], ports[1:3], ports[3:] if self.server == "kacore" else ports[1:3]
        text = (ROOT / "deploy" / "haproxy.cfg").read_text(encoding="utf-8").replace("bind :80", f"bind 127.0.0.1:{front}")
        for k in (0, 1):
            text = text.replace(f"127.0.0.1:800{k} check port 900{k}", f"127.0.0.1:{backends[k]} check port {checked[k]}")
        (self.directory / "haproxy.cfg").write_text(text, encoding="utf-8")
        more = LAME_DUCK if self.server == "kacore" else ()
        commands = [self.command(port=backends[k], admin=checked[k], more=more) for k in (0, 1)]
        yield from self.behind(front, backends, commands, ["haproxy", "-db", "-f", "haproxy.cfg"])

    def roll_nginx(self):
        front, *backends = (free_port() for _ in range(3))
        site = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8").replace("listen 80", f"listen 127.0.0.1:{front}")
        servers = "".join(f"    server 127.0.0.1:{port} max_fails=0;\n" for port in backends)
        (self.directory / "shop.conf").write_text(site.replace("    server 127.0.0.1:8000;\n", servers), encoding="utf-8")
        temporary = "".join(f"{name}_temp_path {name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (self.directory / "nginx.conf").write_text(
            f"daemon off; worker_processes 1; pid pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; {temporary} include shop.conf; }}\n",
            encoding="utf-8",
        )
        commands = [self.command(port=port) for port in backends]
        yield from self.behind(front, backends, commands, ["nginx", "-p", str(self.directory), "-c", "nginx.conf"])

    def behind(self, front, backends, commands, proxy):
        running = [self.start(command) for command in commands]
        until(lambda: all(map(answers, backends)), "both serve")
        self.start(proxy, cwd=self.directory)
        clients = yield front
        until(lambda: len(clients.since(0)) == 2, "the proxy asks both")
        for turn in range(sys.maxsize):
            k = turn % 2
            known = {pid for pid, _ in clients.since(0)}
            self.stop(running[k])
            running[k] = self.start(commands[k])
            answered_by_others(clients, known)
            yield

    def roll_fd(self):
        with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
            fd = listener.fileno()
            yield from self.overlapping(listener.getsockname()[1], lambda: self.start(self.command(fd=fd), pass_fds=[fd]))

    def roll_listen_fds(self):
        with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
            fd = listener.fileno()
            shell = f'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&{fd}'
            yield from self.overlapping(
                listener.getsockname()[1],
                lambda: self.start(["sh", "-c", shell, "sh", *self.command()], pass_fds=[fd]),
            )

    def roll_reuse_port(self):
        port = free_port()
        more = self.option(kacore="--reuse-port", gunicorn="--reuse-port", granian="")
        yield from self.overlapping(port, lambda: self.start(self.command(port=port, more=more)))

    def overlapping(self, port, start):
        running = start()
        clients = yield port
        while True:
            known = {pid for pid, _ in clients.since(0)}
            successor = start()
            answered_by_others(clients, known, successor)
            self.stop(running)
            running = successor
            yield


class Stuck(Exception):
    """A roll that does not come to an end."""


def until(is_so, what, child=None):
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        if child is not None and child.poll() is not None:
            raise Stuck(f"the successor ended with status {child.returncode}")
        if time.monotonic() > end:
            raise Stuck(f"waited {PATIENCE_S} s until {what}")
        time.sleep(0.02)


def answered_by_others(clients, known, child=None):
    until(lambda: {pid for pid, _ in clients.since(0)} - known, "a new process answers", child)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")
            return sock.recv(16).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def run_one(server, scheme, n_rolls, peers):
    """What happened, as a dictionary."""
    with tempfile.TemporaryDirectory(prefix="fleet-") as directory:
        run = Run(server, scheme, peers, directory)
        found = {"server": server, "scheme": scheme, "rolls": 0, "stuck": ""}
        clients = None
        try:
            rolls = run.rolls()
            port = next(rolls)
            until(lambda: answers(port), "it serves")
            with Clients(port) as clients:
                until(lambda: clients.since(0), "it answers")
                rolls.send(clients)
                found["rolls"] = 1
                while found["rolls"] < n_rolls:
                    some = clients.n_sent + REQUESTS_BETWEEN
                    until(lambda some=some: clients.n_sent >= some, "more is asked")
                    next(rolls)
                    found["rolls"] += 1
        except Stuck as stuck:
            found["stuck"] = str(stuck)
        finally:
            run.end()
        if clients is None or found["stuck"]:
            print((run.directory / "log").read_text(encoding="utf-8", errors="replace")[-3000:], file=sys.stderr)
        if clients is None:
            return found
        seen = collections.Counter(run.ids.read_text().split())
        found["requests"] = clients.n_sent
        found["lost"] = len(clients.lost)
        found["though_carried_out"] = sum(name in seen for _, name, _ in clients.lost if name)
        found["twice"] = sum(n > 1 for n in seen.values())
        found["examples"] = clients.lost[:5]
        return found


# -- the table ----------------------------------------------------------------------------------------------------------

MADE = re.compile(r"(<!-- made by make fleet -->\n).*?(<!-- end -->)", re.DOTALL)


def cell(found, server, scheme):
    if (server, scheme) in LACKING:
        return LACKING[server, scheme]
    one = found.get((server, scheme))
    if one is None or "lost" not in one:
        return "not measured" if one is None else one["stuck"]
    twice = f", {one['twice']:,} twice" if one["twice"] else ""
    stuck = f"; stopped at roll {one['rolls'] + 1}" if one["stuck"] else ""
    return f"{one['lost']:,} of {one['requests']:,}{twice}{stuck}"


def table(found, servers, schemes):
    lines = [f"| | {' | '.join(servers)} |", "|---" * (len(servers) + 1) + "|"]
    for scheme in schemes:
        lines.append(f"| {SCHEMES[scheme]} | " + " | ".join(cell(found, server, scheme) for server in servers) + " |")
    return "\n".join(lines)


def version_of(argv):
    with contextlib.suppress(OSError, IndexError):
        said = subprocess.run(argv, capture_output=True, text=True)
        return re.findall(r"\d+(?:\.\d+)+", said.stdout + said.stderr)[0]
    return "?"


def versions(servers, peers):
    programs = {name: [str(Path(peers, name)), "--version"] for name in servers if name != "kacore"}
    programs = {"kacore": [sys.executable, "-m", "kacore", "--version"], **programs, "HAProxy": ["haproxy", "-v"]}
    programs["nginx"] = ["nginx", "-v"]
    return ", ".join(f"{name} {version_of(argv)}" for name, argv in programs.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=SERVERS)
    parser.add_argument("--schemes", nargs="+", choices=list(SCHEMES), default=list(SCHEMES))
    parser.add_argument("--rolls", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=4, help="pairs of scheme and server that run side by side")
    parser.add_argument("--peers", default=str(ROOT / ".venv-bench" / "bin"), help="where the other servers are installed")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/deploy.md")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run_one(*args.one, args.rolls, args.peers)))
        return 0

    pairs = [(server, scheme) for scheme in args.schemes for server in args.servers if (server, scheme) not in LACKING]

    def measure(pair):
        argv = [sys.executable, __file__, "--one", *pair, "--rolls", str(args.rolls), "--peers", args.peers]
        said = subprocess.run(argv, stdout=subprocess.PIPE, text=True)
        one = json.loads(said.stdout) if said.returncode == 0 else {"stuck": f"status {said.returncode}"}
        print(f"{pair[0]:9} {pair[1]:13} {cell({pair: one}, *pair)}", *one.get("examples", ()), sep="\n    ", flush=True)
        return pair, one

    with ThreadPoolExecutor(args.at_once) as pool:
        found = dict(pool.map(measure, pairs))
    text = table(found, args.servers, args.schemes)
    text += f"\n\n{args.rolls} rolls of each; {versions(args.servers, args.peers)}."
    print(text)
    if args.docs:
        page = ROOT / "docs" / "deploy.md"
        before = page.read_text(encoding="utf-8")
        page.write_text(MADE.sub(lambda made: f"{made[1]}{text}\n{made[2]}", before), encoding="utf-8")
    ours = [one for (server, _), one in found.items() if server == "kacore"]
    return int(any(one["stuck"] or one["lost"] or one["twice"] for one in ours))


if __name__ == "__main__":
    sys.exit(main())
