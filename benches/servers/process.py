"""A server that runs, pinned to its cores, and what /proc tells about it. Ended by its process id."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from servers.peers import HERE, PEERS, ROOT, app_of, nginx_conf, python

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class NotMeasured(Exception):
    """Why a server has no figure."""


@dataclass
class Place:
    """Where everything runs: a scratch directory with the files and the certificate, and the cores."""

    scratch: Path
    server_cores: str
    client_cores: str

    @property
    def files(self) -> Path:
        return self.scratch / "files"

    @property
    def certificate(self) -> Path:
        return self.scratch / "certificate.pem"

    @property
    def key(self) -> Path:
        return self.scratch / "key.pem"

    def furnish(self) -> None:
        self.files.mkdir()
        (self.files / "mebibyte").write_bytes(b"x" * (1 << 20))
        (self.files / "hundred").write_bytes(b"x" * 100_000)
        (self.files / "index.html").write_bytes(b"Hello, world!")
        (self.files / "kibibyte").write_bytes(b"x" * 1024)
        (self.files / "file").write_bytes(b"x" * (10 << 20))
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        subprocess.run([*command.split(), "-keyout", self.key, "-out", self.certificate], check=True, capture_output=True)


def process_tree(pid: int) -> list[int]:
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += process_tree(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, of its living descendants, and of those it has waited for."""
    ticks = 0
    for one in process_tree(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += sum(int(fields[i]) for i in (11, 12, 13, 14))  # utime, stime, cutime, cstime: see proc(5)
    return ticks / TICKS_A_SECOND


def memory_bytes(pid: int) -> int:
    """Memory of a process and its descendants that is no file: what they share is counted once (PSS).

    Files are left out because their share falls whenever any other process maps the same library.
    """
    total = 0
    for one in process_tree(pid):
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                total += int(line.split()[1]) * 1024
    return total


class Running:
    """A server that was started and gave the right answer once."""

    def __init__(
        self, name: str, app: str, place: Place, *, tls: bool = False, patient: bool = False, label: str = "",
        arguments: tuple[str, ...] = (), cores: str = "", wait: bool = True, path: str = "/",
    ) -> None:  # fmt: skip
        self.name = label or name
        self.peer = PEERS[name]
        self.path = path
        if tls and self.peer.tls is None:
            raise NotMeasured("no TLS of its own")
        self.directory = place.scratch / f"{name}-{app}-{time.monotonic_ns()}"
        self.directory.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.tls = tls
        extra = [*((self.peer.tls or []) if tls else []), *(self.peer.patience if patient else [])]
        command = self.command(app, place, extra)
        if shutil.which(command[0]) is None:
            raise NotMeasured(f"{command[0]} is not installed")
        self.log = (self.directory / "log").open("w+")
        # kacore is used as it was built in place; for the others the path holds the application only.
        path_list = [str(HERE)] + ([str(ROOT)] if "kacore" in name else [])
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(path_list), "BENCH_APP": app,
            "BENCH_INTERFACE": self.peer.interface,
            "BENCH_FILE": str(place.files / "file"),
            # As an installed package has it: a server in the clone would be compiled at each start.
            "PYTHONDONTWRITEBYTECODE": "",
        }  # fmt: skip
        self.process = subprocess.Popen(
            ["taskset", "-c", cores or place.server_cores, *command, *arguments], cwd=self.directory, env=environment,
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if wait:
            self.wait_until_it_answers()

    def command(self, app: str, place: Place, extra: list[str]) -> list[str]:
        if not self.peer.package:
            files = (place.certificate, place.key) if self.tls else (None, None)
            (self.directory / "nginx.conf").write_text(nginx_conf(self.peer, self.directory, self.port, place.files, *files))
        words = {
            "app": app_of(self.peer, app), "port": self.port, "directory": self.directory, "python": python(),
            "certificate": place.certificate, "key": place.key, "files": place.files,
        }  # fmt: skip
        return [part.format(**words) for part in [*self.peer.command, *extra]]

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}{self.path}"

    def ask(self, path: str = "/", timeout: float = 10.0) -> bytes:
        if self.peer.is_http2:
            return self.ask_by_curl(timeout)
        if self.tls:
            context = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise NotMeasured(f"answered {response.status}")
            return body

    def ask_by_curl(self, timeout: float) -> bytes:
        command = ["curl", "-sSfk", "--http2" if self.tls else "--http2-prior-knowledge", "-m", str(timeout), self.url]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            raise NotMeasured(done.stderr.decode().strip())
        return done.stdout

    def wait_until_it_answers(self, patience_s: float = 15.0, every_s: float = 0.05) -> None:
        deadline = time.monotonic() + patience_s
        while True:
            why = "no answer"
            try:
                if self.ask(self.path):
                    return
            except (OSError, http.client.HTTPException, NotMeasured) as error:
                why = str(error) or type(error).__name__
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                said = Path(self.log.name).read_text().strip().splitlines() or [why]
                raise NotMeasured(f"did not start: {said[-1][:200]}")
            time.sleep(every_s)

    def cpu(self) -> float:
        return cpu_seconds(self.process.pid)

    def memory(self) -> int:
        return memory_bytes(self.process.pid)

    def rest(self) -> None:
        """Until go_on() it does nothing, if it is one that else takes the core of the others."""
        self._signal_if_restless(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal_if_restless(signal.SIGCONT)

    def _signal_if_restless(self, number: signal.Signals) -> None:
        if self.peer.is_restless and self.process.poll() is None:
            for pid in process_tree(self.process.pid):
                os.kill(pid, number)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.go_on()
            tree = process_tree(self.process.pid)
            self.process.terminate()
            try:
                self.process.wait(1.5)
            except subprocess.TimeoutExpired:
                for pid in tree:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, 9)
                self.process.wait()
        self.log.close()
