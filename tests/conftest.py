"""What every test may use: optional programs, children of this process, and what sanitizers ask of both.

Fixtures: `need`, `lacks`, `launch`, `serve`, `free_port`, `sanitized`. Marker: `needs`. A test of a server
starts a child with `serve` and talks to it over loopback. What a test started is ended by its process id.
"""

import contextlib
import importlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

# `make asan` preloads the sanitizers' runtime into this process. It leaves the environment here, before any
# child is made: curl, wrk or a browser must not run with it. Children that run kacore get it back.
SANITIZER_RUNTIME = ""
if "libasan" in os.environ.get("LD_PRELOAD", ""):
    SANITIZER_RUNTIME = os.environ.pop("LD_PRELOAD")
SANITIZER_REPORT = re.compile(r"ERROR: (?:Address|Leak)Sanitizer|runtime error: ")

# How long a child may take for what should be at once. Generous: it only delays a test that fails anyway.
PATIENCE_S = 120.0 if SANITIZER_RUNTIME else 45.0
IN_CI = os.environ.get("CI", "") not in ("", "0", "false")

# `make portable` tests the build without epoll: there is no server in it, and it has a few tests of its own. To
# kacore itself a KACORE_NAME in the environment is a field of the policy, so no child may see this one.
IS_PORTABLE = os.environ.pop("KACORE_PORTABLE", "") not in ("", "0")
collect_ignore = ["demo", "embed", "leaks", "soak", "wire"] if IS_PORTABLE else ["portable"]

# The memory of a process says nothing under the sanitizers, which keep freed blocks to catch their use.
if SANITIZER_RUNTIME:
    collect_ignore.append("leaks")


def pytest_configure(config: pytest.Config) -> None:
    """The process that only hands out tests to others (--numprocesses) has no other children, and they begin as it did."""
    if config.getoption("numprocesses", 0) and not hasattr(config, "workerinput"):
        os.environ.update({"LD_PRELOAD": SANITIZER_RUNTIME} if SANITIZER_RUNTIME else {})
        os.environ.update({"KACORE_PORTABLE": "1"} if IS_PORTABLE else {})


def pytest_report_header() -> str:
    build = "with address and undefined sanitizers" if SANITIZER_RUNTIME else "plain"
    return f"kacore build: {build}; a missing optional program {'fails' if IN_CI else 'skips'} its tests"


def say_lacking(what: str) -> NoReturn:
    """End the test for the lack of something optional: a skip with that reason, but in CI a failure."""
    if IN_CI:
        pytest.fail(f"{what}, and CI skips nothing", pytrace=False)
    pytest.skip(what)


def find(name: str) -> Any:
    """The path of a program, or the module of "module:NAME"."""
    kind, _, rest = name.partition(":")
    try:
        found = importlib.import_module(rest) if kind == "module" else shutil.which(name)
    except ImportError:
        found = None
    if found is None:
        say_lacking(f"{name} is not installed")
    return found


def module(name: str) -> Any:
    """For the top of a test file: the module, or its tests are skipped; in CI they fail, as with `need`."""
    if IN_CI:
        return importlib.import_module(name)
    return pytest.importorskip(name)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            find(name)
    if "uvloop" in item.name.partition("[")[2]:
        find("module:uvloop")


@pytest.fixture(scope="session")
def need() -> Callable[[str], Any]:
    """need("wrk") is its path, need("module:ssl") the module; a missing one skips the test, except in CI."""
    return find


@pytest.fixture(scope="session")
def lacks() -> Callable[[str], NoReturn]:
    """lacks("no IPv6 here") ends the test as `need` does, for what is neither a program nor a module."""
    return say_lacking


@pytest.fixture(scope="session")
def python_environment() -> dict[str, str]:
    """The environment for a child that runs kacore and that `launch` cannot start."""
    return {**os.environ, **({"LD_PRELOAD": SANITIZER_RUNTIME} if SANITIZER_RUNTIME else {})}


@pytest.fixture(scope="session")
def sanitized() -> bool:
    """Is this the run under the sanitizers (`make asan`)? Everything takes some times longer then."""
    return bool(SANITIZER_RUNTIME)


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A free TCP port of 127.0.0.1, for programs that cannot pick one themselves. Neither the kernel nor another process
    of this run gives it to anybody meanwhile: it is below the ephemeral ports, and each process has a thousand."""

    def pick() -> int:
        while True:
            port = FIRST_PORT + next(ports) % 1000
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port

    return pick


PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
FIRST_PORT = 20_000 + PROCESS % 12 * 1000
ports = itertools.count(os.getpid())  # two runs at a time are unlikely to walk together


class Child:
    """A process that a test started. Its output is read all the time, so that no pipe fills up: `text` holds
    what came so far, standard error and output together."""

    def __init__(self, argv: list[str], env: dict[str, str], cwd: Path) -> None:
        self.argv = argv
        self.text = ""
        self.url = ""
        self._news = threading.Condition()
        self._ended = False
        self.process = subprocess.Popen(
            argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as pipe:
            while chunk := os.read(pipe.fileno(), 65536):
                with self._news:
                    self.text += chunk.decode("utf-8", "backslashreplace")
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_for(self, pattern: str, timeout: float = PATIENCE_S) -> re.Match[str]:
        """The first match of `pattern` in what the child printed. Fails the test when there is none after
        `timeout` seconds, or when the child closes its output without one."""
        with self._news:
            self._news.wait_for(lambda: self._ended or re.search(pattern, self.text), timeout)
            match = re.search(pattern, self.text)
        if match is None:
            pytest.fail(f"{self.argv} printed no {pattern!r}, but:\n{self.text}", pytrace=False)
        return match

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = PATIENCE_S) -> int:
        """Its exit status, negative for a signal. Fails the test if it still runs after `timeout` seconds."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.argv} still runs after {timeout} s; it printed:\n{self.text}", pytrace=False)
        self._reader.join(timeout)
        return status

    def stop(self, number: int = signal.SIGTERM, timeout: float = PATIENCE_S) -> int:
        """Send a signal and wait for the end; its exit status."""
        self.send_signal(number)
        return self.wait(timeout)

    def end(self) -> None:
        """For the end of a test: no child outlives it, and none may have broken memory unnoticed."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(PATIENCE_S)
        if SANITIZER_REPORT.search(self.text):
            pytest.fail(f"{self.argv} was reported by a sanitizer:\n{self.text}", pytrace=False)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """launch("-m", "kacore", ..., ready=r"pattern") starts a child; python=False for one that is not Python.

    arguments: of this Python interpreter; with python=False the whole command, its program first.
    ready:     wait until it has printed this (a regular expression).
    cwd:       its directory, the test's own `tmp_path` unless told.
    NAME=...:  variables of its environment, besides those of this process.
    """
    children: list[Child] = []

    def start(
        *arguments: str, ready: str | None = None, cwd: Path = tmp_path, python: bool = True, **env: str
    ) -> Child:
        variables = {**os.environ, **env}
        if python:
            arguments = (sys.executable, "-X", "faulthandler", *arguments)
            variables["PYTHONUNBUFFERED"] = "1"
            if SANITIZER_RUNTIME:
                variables["LD_PRELOAD"] = SANITIZER_RUNTIME
        child = Child(list(arguments), variables, cwd)
        children.append(child)
        if ready is not None:
            child.wait_for(ready)
        return child

    yield start
    for child in reversed(children):
        child.end()


@pytest.fixture
def serve(launch: Callable[..., Child]) -> Callable[..., Child]:
    """serve("module:app", "--keep-alive-timeout", "5", ...) runs `kacore serve` on a free port of 127.0.0.1.

    Returns when it listens. `.url` is "http://127.0.0.1:PORT" or https, without a slash at its end; `.text` its log.
    Options as for `launch`: cwd, where "module" is looked for, and variables of the environment.
    """

    def start(*arguments: str, **options: Any) -> Child:
        where = () if "--port" in arguments else ("--port", "0")
        child = launch("-m", "kacore", "serve", *arguments, *where, **options)
        child.url = child.wait_for(r"https?://[^\s/]+:[1-9][0-9]*")[0]
        return child

    return start
