"""The server that the tests of HTTP/2 judge: kacore, or the one that KACORE_H2_PEER names.

KACORE_H2_PEER=nghttpd|nginx|hypercorn runs the same tests against another server, to see whether what they expect is
right; http2_deviations.py says where that one is not as the RFC has it. Tests of what only kacore has are skipped then.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kacore
from tests.wire import http2_client
from tests.wire.http2_app import App
from tests.wire.http2_client import Client
from tests.wire.http2_deviations import DEVIATIONS

PEER = os.environ.pop("KACORE_H2_PEER", "")  # a KACORE_NAME is a field of the policy to any child
HAS_HTTP2 = hasattr(kacore._core, "HTTP2")
needs_http2 = pytest.mark.skipif(not (HAS_HTTP2 or PEER), reason="this build has no HTTP/2 yet")
only_kacore = pytest.mark.skipif(bool(PEER), reason="about what only kacore has")
needs_app = pytest.mark.skipif(PEER not in ("", "hypercorn"), reason="the peer does not run the application")
PATIENCE = 20.0
if PEER:
    http2_client.PATIENCE = 3.0  # some say nothing where they ought to

# Sizes that tests ask for by /bytes/N; servers of files need them.
SIZES = (0, 1, 10, 1000, 70_000, 200_000, 1_000_000)


class House:
    """A server, the clients that were made of it, and what its application saw."""

    is_ours = False

    def __init__(self, port: int) -> None:
        self.port = port
        self._stack = contextlib.ExitStack()

    def connect(self, **options: Any) -> Client:
        made = Client(self.port, **options)
        self._stack.callback(made.close)
        return made

    def leave(self) -> None:
        """All clients go."""
        self._stack.close()

    def counts(self) -> dict[str, int]:
        pytest.skip(f"{PEER} does not run the application")

    def counts_or_none(self) -> dict[str, int] | None:
        return None

    def release(self) -> None:
        pytest.skip(f"{PEER} does not run the application")

    def forget(self) -> None:
        """Between tests: nobody is asked any more, and nothing was counted."""

    def look(self) -> None:
        """The server has looked at what was sent so far, if it can be asked."""

    def wait_for(self, name: str, n: int = 1) -> None:
        """Until the application has counted so many."""
        end = time.monotonic() + PATIENCE
        while self.counts().get(name, 0) < n:
            assert time.monotonic() < end, f"{name}: {self.counts()}, not {n} in {PATIENCE} s"
            time.sleep(0.002)

    def wait_until_quiet(self) -> None:
        end = time.monotonic() + PATIENCE
        while self.counts()["active"]:
            assert time.monotonic() < end, "a request goes on when its client is gone"
            time.sleep(0.002)

    def end(self) -> None:
        self.leave()


class Ours(House):
    """kacore in a thread of this process."""

    is_ours = True

    def __init__(self, running: Any, app: Any) -> None:
        super().__init__(running.port)
        self.running, self.app = running, app
        self.is_ending = False

    def counts(self) -> dict[str, int]:
        return dict(self.running.ask(lambda: {**self.app.counts, "active": self.app.n_active}))

    counts_or_none = counts

    def forget(self) -> None:
        self.release()
        self.wait_until_quiet()
        self.running.ask(self.app.forget)

    def release(self) -> None:
        self.running.ask(self.app.release)

    def look(self) -> None:
        self.running.ask(lambda: None)

    def shutdown(self) -> None:
        """Have the server drain and end."""
        self.is_ending = True
        self.running.server.shutdown()

    def has_closed(self, *causes: str, leaves: bool = True) -> None:
        """All clients go, unless it is not for them to end it, and one of them was closed for one of these."""
        if leaves:
            self.leave()

        def closed() -> int:
            return sum(self.running.closed(cause) for cause in causes)

        end = time.monotonic() + PATIENCE
        while closed() != 1:
            told = {cause: n for cause, n in self.running.stats()["closed"].items() if n}
            assert time.monotonic() < end, f"closed: {told}, not {causes}"
            time.sleep(0.002)

    def end(self) -> None:
        super().end()
        try:
            if self.is_ending:
                self.running._thread.join(PATIENCE)
            else:
                if isinstance(self.app, App):
                    self.release()
                self.running.check_empty()
        finally:
            self.running.stop(now=True)
        assert self.running.failure is None, self.running.failure
        assert not self.running.errors, self.running.errors


class Peer(House):
    """Another server, in a process of its own."""

    def __init__(self, name: str) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.silent: socket.socket | None = None
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        super().__init__(port)
        place = Path(self.directory.name)
        argv = getattr(self, name)(place, port)
        with open(place / "log", "wb") as log:
            self.process = subprocess.Popen(argv, cwd=place, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return
            assert self.process.poll() is None and time.monotonic() < end, f"{argv} does not listen"
            time.sleep(0.01)

    def files(self, directory: Path) -> None:
        (directory / "bytes").mkdir()
        (directory / "index.html").write_text("hello\n")
        for size in SIZES:
            (directory / "bytes" / str(size)).write_bytes(b"y" * size)

    def nghttpd(self, directory: Path, port: int) -> list[str]:
        self.files(directory)
        return [program("nghttpd"), "--no-tls", "-a", "127.0.0.1", "-d", str(directory), "--echo-upload", str(port)]

    def nginx(self, directory: Path, port: int) -> list[str]:
        self.files(directory)
        os.chmod(directory, 0o755)
        self.silent = socket.create_server(("127.0.0.1", 0))  # never accepts: whoever is passed on waits
        silent = self.silent.getsockname()[1]
        (directory / "nginx.conf").write_text(
            f"""
            daemon off; worker_processes 1; pid {directory}/pid; error_log stderr;
            events {{ worker_connections 1000; }}
            http {{
              access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
              fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
              server {{
                listen 127.0.0.1:{port} http2; root {directory};
                location ~ ^/(echo|read|hold|wait|then) {{ proxy_pass http://127.0.0.1:{silent}; }}
                location = /refuse {{ return 403; }}
              }}
            }}
            """
        )
        return [program("nginx"), "-e", "stderr", "-c", str(directory / "nginx.conf")]

    def hypercorn(self, directory: Path, port: int) -> list[str]:
        shutil.copy(Path(__file__).with_name("http2_app.py"), directory)
        # Its worker is a process of its own, that ends with it.
        return [program("hypercorn"), "-b", f"127.0.0.1:{port}", "http2_app:app"]

    def counts_or_none(self) -> dict[str, int] | None:
        return self.counts() if PEER == "hypercorn" else None

    def counts(self) -> dict[str, int]:
        if PEER != "hypercorn":
            return super().counts()
        return dict(json.loads(self.ask("/count")))

    def release(self) -> None:
        if PEER != "hypercorn":
            super().release()
        self.ask("/release")

    def forget(self) -> None:
        if PEER == "hypercorn":
            self.release()  # some of its requests go on when their client is gone
            self.ask("/forget")

    def ask(self, path: str) -> bytes:
        one = Client(self.port)
        try:
            return bytes(one.ask(path).data)
        finally:
            one.close()

    def end(self) -> None:
        super().end()
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.silent:
            self.silent.close()
        self.directory.cleanup()


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def make(io: str, app: Any = None, **options: Any) -> House:
    """kacore with these options, or the other server."""
    if PEER:
        if io != "epoll":
            pytest.skip(f"{PEER} is asked once")
        return Peer(PEER)
    from tests.wire.conftest import Running

    app = app or App()
    options.setdefault("policy", kacore.Policy())
    running = Running(app, io=io, **options)
    if running.failure is not None:
        raise running.failure
    return Ours(running, app)


def limits(**fields: Any) -> dict[str, Any]:
    """Options of kacore.Server that set these, wherever they are declared."""
    known = {name: value for name, value in fields.items() if name in kacore.Policy.__fields__}
    options = {name: value for name, value in fields.items() if name not in known}
    return {"policy": kacore.Policy(**known), **options}


def io_of(request: pytest.FixtureRequest) -> str:
    if request.param == "epoll" and not kacore._core.has_epoll:
        pytest.skip("this build has no epoll")
    return str(request.param)


@pytest.fixture(scope="module", params=["epoll", "transports"])
def shared_house(request: pytest.FixtureRequest) -> Iterator[House]:
    """One server for all tests of a file that need no options."""
    made = make(io_of(request))
    yield made
    made.end()


@pytest.fixture
def house(shared_house: House, request: pytest.FixtureRequest) -> Iterator[House]:
    """The file's server, for one test; its clients go with it."""
    note_deviation(request)
    yield shared_house
    shared_house.leave()
    shared_house.forget()


@pytest.fixture
def build(io: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., House]]:
    """build(policy=..., app=..., ...) is a server of its own, with options of kacore.Server."""
    note_deviation(request)
    with contextlib.ExitStack() as stack:

        def build(**options: Any) -> House:
            made = make(io, **options)
            stack.callback(made.end)
            return made

        yield build


def note_deviation(request: pytest.FixtureRequest) -> None:
    for part, why in DEVIATIONS.get(PEER, []):
        if part in request.node.name:
            request.applymarker(pytest.mark.xfail(reason=why, strict=False))


__all__ = ["PEER", "House", "build", "house", "limits", "needs_app", "needs_http2", "only_kacore", "shared_house"]
