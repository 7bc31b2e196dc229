"""What the tests of the server share: a server in a thread of this process, and a client that says any bytes.

Fixtures: `start`, `client`. After each test the books of every server are looked at: nothing open, nothing lent,
nothing counted twice, no error that nobody asked for.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

import kacore
from kacore.server.loops import loop_factory
from tests.conftest import find
from tests.wire.http2_house import build, house, shared_house  # noqa: F401  fixtures

PATIENCE = 20.0  # seconds; it only delays a test that fails anyway


def wait_until(condition: Callable[[], Any], what: str = "the condition", timeout: float = PATIENCE) -> None:
    """Look every few milliseconds; fail the test when it does not come true."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"{what}: not so after {timeout} s")
        time.sleep(0.002)


class Running:
    """A Server in a thread of its own, with everything that is known about it."""

    def __init__(self, app: Any, **options: Any) -> None:
        self._factory = loop_factory(options.pop("loop", "asyncio"))
        self.server = kacore.Server(app, port=0, **options)
        self.table = self.server.table
        self.errors: list[dict[str, Any]] = []  # what reached the loop's exception handler
        self.failure: BaseException | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._factory) as runner:
                runner.run(self._serve())
        except BaseException as error:
            self.failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        serving = asyncio.create_task(self.server.serve(handle_signals=False))
        await self.server.started()
        self._ready.set()
        await serving

    @property
    def port(self) -> int:
        return self.server.port

    def ask(self, question: Callable[[], Any]) -> Any:
        """The answer of a function that is called in the server's thread."""

        async def answer() -> Any:
            return question()

        asked = answer()
        try:
            return asyncio.run_coroutine_threadsafe(asked, self.loop).result(PATIENCE)
        except RuntimeError:
            asked.close()  # the loop is closed: nobody else will
            raise

    def stats(self) -> dict[str, Any]:
        return self.ask(self.server.stats)  # type: ignore[no-any-return]

    def n_rounds(self) -> int:
        """How often the server has looked at anything at all."""
        engine = self.stats()["engine"]
        return int(engine["steps"] if "steps" in engine else engine["passes"])

    def closed(self, cause: str) -> int:
        return int(self.stats()["closed"][cause])

    def phase_count(self, phase: str) -> int:
        return int(self.stats()["phases"][phase])

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, the loop's thread stands still."""
        stands, go_on = threading.Event(), threading.Event()

        def stand() -> None:
            stands.set()
            go_on.wait(PATIENCE)

        self.loop.call_soon_threadsafe(stand)
        assert stands.wait(PATIENCE)
        try:
            yield
        finally:
            go_on.set()

    def check(self) -> None:
        """The table's invariants, and the balance of what came and went."""
        self.ask(self.table.check)
        stats = self.stats()
        n_open = sum(stats["phases"].values())
        assert stats["accepted"] == n_open + sum(stats["closed"].values())

    def check_empty(self) -> None:
        """Nobody is there, and nothing is left of those who were."""
        wait_until(lambda: self.ask(lambda: len(self.table)) == 0, "all connections are gone")
        self.check()

        def left() -> dict[str, int]:
            engine = self.stats()["engine"]
            return {name: engine[name] for name in ("talks", "buffer_bytes")}

        wait_until(lambda: not any(left().values()), "what the application still held is given back")

    def has_ended(self) -> bool:
        """Whether its loop is closed; one that is about to be is waited for."""
        if self.server.is_ending and len(self.table) == 0:
            self._thread.join(2.0)
        return not self._thread.is_alive()

    def stop(self, **how: bool) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(lambda: self.server.shutdown(**how))
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


@pytest.fixture(params=["epoll", "transports"])
def io(request: pytest.FixtureRequest) -> str:
    """Who moves the bytes: every test of the server runs over the engine and over the loop's transports."""
    if request.param == "epoll" and not kacore._core.has_epoll:
        pytest.skip("this build has no epoll")
    return str(request.param)


@pytest.fixture
def start(io: str) -> Iterator[Callable[..., Running]]:
    """start(app, policy=..., ...) serves it on a free port of 127.0.0.1; options of kacore.Server."""
    servers: list[Running] = []

    def run(app: Any, **options: Any) -> Running:
        if "policy" not in options:
            options["policy"] = kacore.Policy()
        options.setdefault("io", io)
        running = Running(app, **options)
        if running.failure is not None:
            raise running.failure
        servers.append(running)
        return running

    yield run
    try:
        for running in servers:
            if running.failure is None and not running.has_ended():
                running.check_empty()
    finally:
        for running in servers:
            running.stop(now=True)
    for running in servers:
        assert running.failure is None, running.failure
        assert not running.errors, running.errors


class Response(NamedTuple):
    status: int
    fields: list[tuple[str, str]]
    body: bytes
    interim: list[int]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]

    def get(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else None


class Client:
    """A TCP connection that sends what it is told and reads responses by RFC 9112 section 6."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(PATIENCE)
        try:
            self.sock.connect(("127.0.0.1", port))
        except OSError:
            self.sock.close()
            raise
        self.buf = bytearray()

    def send(self, data: bytes | str) -> "Client":
        self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)
        return self

    def get(self, target: str = "/", *fields: str, method: str = "GET", version: str = "1.1") -> Response:
        """Ask without content, and read the answer."""
        lines = [f"{method} {target} HTTP/{version}", "Host: test", *fields]
        self.send("\r\n".join(lines) + "\r\n\r\n")
        return self.response(method)

    def fin(self) -> "Client":
        self.sock.shutdown(socket.SHUT_WR)
        return self

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    def _more(self) -> bool:
        data = self.sock.recv(65536)
        self.buf += data
        return bool(data)

    def take(self, n: int) -> bytes:
        taken = bytearray(n)
        view = memoryview(taken)
        have = min(n, len(self.buf))
        view[:have] = memoryview(self.buf)[:have]
        del self.buf[:have]
        while have < n:  # what is large is not moved again
            got = self.sock.recv_into(view[have:])
            assert got, f"closed {n - have} bytes early, after {taken[max(0, have - 200) : have]!r}"
            have += got
        return bytes(taken)

    def until(self, end: bytes) -> bytes:
        while end not in self.buf:
            assert self._more(), f"closed before {end!r}, after {self.buf[-200:]!r}"
        taken = self.take(self.buf.index(end))
        del self.buf[: len(end)]
        return taken

    def rest(self) -> bytes:
        """Everything until the server closes. An RST is an error."""
        parts = [self.take(len(self.buf))]
        while data := self.sock.recv(65536):
            parts.append(data)
        return b"".join(parts)

    def head(self) -> tuple[int, list[tuple[str, str]]]:
        first, *lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        assert first.startswith("HTTP/1.1 "), first
        fields = [line.partition(": ") for line in lines]
        return int(first[9:12]), [(name.lower(), value) for name, _, value in fields]

    def response(self, method: str = "GET") -> Response:
        interim = []
        status, fields = self.head()
        while status < 200 and status != 101:
            interim.append(status)
            status, fields = self.head()
        known = dict(fields)
        body = b""
        if method == "HEAD" or status in (101, 204, 304):
            pass
        elif "transfer-encoding" in known:
            assert known["transfer-encoding"] == "chunked"
            assert "content-length" not in known
            chunks = []
            while size := int(self.until(b"\r\n"), 16):
                chunks.append(self.take(size))
                assert self.take(2) == b"\r\n"
            assert self.until(b"\r\n") == b""
            body = b"".join(chunks)
        elif "content-length" in known:
            body = self.take(int(known["content-length"]))
        else:
            body = self.rest()
        return Response(status, fields, body, interim)

    def is_closed(self) -> bool:
        """Wait for the server's FIN, with nothing before it."""
        return self.rest() == b""

    def is_open(self) -> bool:
        """Ask once more."""
        return self.get("/still-there").status in (200, 404)


@pytest.fixture
def client() -> Iterator[Callable[..., Client]]:
    """client(running or child) connects to it; closed at the end of the test."""
    with contextlib.ExitStack() as stack:

        def connect(server: Any, **options: Any) -> Client:
            made = Client(server.port, **options)
            stack.callback(made.close)
            return made

        yield connect


# --- over TLS ------------------------------------------------------------------------------------------------


class Certificates:
    """A root, and what it signed, as files."""

    def __init__(self, directory: Any) -> None:
        self.directory = directory
        self.root = find("module:trustme").CA()
        self.roots = str(directory / "roots.pem")
        self.root.cert_pem.write_to_path(self.roots)

    def issue(self, *names: str) -> str:
        """A PEM file with key and certificate."""
        path = str(self.directory / f"{names[0].replace('*', 'any')}-{time.monotonic_ns()}.pem")
        self.root.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(path)
        return path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def localhost(certificates: Certificates) -> str:
    return certificates.issue("localhost")


@pytest.fixture
def over_tls(client, certificates):
    """over_tls(server): a Client that speaks TLS; options of an SSLContext by name, and server_name."""

    def connect(server: Any, server_name: str = "localhost", **settings: Any) -> Any:
        one = client(server)
        context = ssl.create_default_context(cafile=certificates.roots)
        certificate = settings.pop("certificate", None)
        protocols = settings.pop("alpn", None)
        if certificate:
            context.load_cert_chain(certificate)
        if protocols:
            context.set_alpn_protocols(protocols)
        for name, value in settings.items():
            setattr(context, name, value)
        one.sock = context.wrap_socket(one.sock, server_hostname=server_name)
        return one

    return connect


@pytest.fixture(params=["plain", "tls"])
def over(request: pytest.FixtureRequest, start: Any, client: Any, over_tls: Any, localhost: str) -> Callable[..., Any]:
    """over(app, **options): a server, and connect(), which makes clients of it: in the clear, and over TLS."""
    from kacore.server import TLS

    def run(app: Any, **options: Any) -> tuple[Running, Callable[[], Client]]:
        if request.param == "plain":
            running = start(app, **options)
            return running, lambda: client(running)
        running = start(app, tls=TLS(localhost), **options)
        return running, lambda: over_tls(running)

    return run


# --- the same small application by every interface ----------------------------------------------------------
# Answers "METHOD /path CONTENT". /slow waits a moment first; /fail raises.


SLOW = 0.02


class Failure(Exception):
    """What an application raises on purpose."""


def echo_handler(request: kacore.Request) -> bytes:
    if request.path == "/slow":
        time.sleep(SLOW)
    if request.path == "/fail":
        raise Failure("on purpose")
    return f"{request.method} {request.path} ".encode() + request.body


async def echo_async(request: kacore.Request) -> bytes:
    await asyncio.sleep(SLOW if request.path == "/slow" else 0)
    if request.path == "/fail":
        raise Failure("on purpose")
    return f"{request.method} {request.path} ".encode() + request.body


async def echo_asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise Failure("no lifespan here")
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    if scope["path"] == "/slow":
        await asyncio.sleep(SLOW)
    if scope["path"] == "/fail":
        raise Failure("on purpose")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{scope['method']} {scope['path']} ".encode() + body})


def echo_wsgi(environ: Any, start_response: Any) -> list[bytes]:
    body = environ["wsgi.input"].read()
    if environ["PATH_INFO"] == "/slow":
        time.sleep(SLOW)
    if environ["PATH_INFO"] == "/fail":
        raise Failure("on purpose")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} ".encode() + body]


ECHOES: dict[str, tuple[Any, dict[str, Any]]] = {
    "handler": (echo_handler, {}),
    "async": (echo_async, {}),
    "asgi": (echo_asgi, {}),
    "asgi-uvloop": (echo_asgi, {"loop": "uvloop"}),
    "wsgi-0": (echo_wsgi, {"threads": 0}),
    "wsgi-4": (echo_wsgi, {"threads": 4}),
}


@pytest.fixture(params=ECHOES)
def echo(request: pytest.FixtureRequest, start: Callable[..., Running]) -> Callable[..., Running]:
    """echo(policy=...) serves the application above, once by each interface."""
    app, options = ECHOES[request.param]

    def run(**more: Any) -> Running:
        return start(app, **options, **more)

    return run
