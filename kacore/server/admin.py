"""The admin listener: a live page, /healthz, /readyz, /metrics, /connections, /status and /events about a Subject: a
server, or all workers.

A second Server in the same loop, with a policy and a table of its own, so that it answers while the application's table
is full. It changes nothing; it only tells.

Nobody can fill it, since every connection that it has can be closed for the next one. That takes some care: no content is
ever waited for; what answers one connection can get always fits into the kernel's send buffer; what takes time to say is
said anew only a few times a second; and where the system can do that, a connection is not accepted before it has sent
something, or a probe could be the victim of the next client between its handshake and its request. Who watches /events stays,
and so at most half of the places are for them.

Whoever reaches a loopback address from a browser could be sent there by any page (DNS rebinding), so a Host field must
name what is listened on. A browser always sends one; the health checks of a load balancer often do not.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import time
from typing import TYPE_CHECKING, Any

from kacore.errors import UsageError
from kacore.policy import Policy
from kacore.server.listening import Listener, open_listeners, parse_address
from kacore.server.metrics import Exposition
from kacore.server.status import Status, dumped
from kacore.server.status.viewers import FIELDS, MAX_VIEWERS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from kacore.server.subject import Subject

    Fields = tuple[tuple[bytes, bytes], ...]
    Answer = tuple[int, Fields, bytes]  # status, fields, content

MAX_LISTED = 1000
MAX_NETWORKS = 256
# Few connections, and short lives: whoever asks here asks seldom. With so few requests, short answers and one long one a
# connection, all that a client can leave unread is in the kernel and holds no place.
POLICY = Policy(
    max_connections=64,
    keep_alive_timeout=15.0,
    max_keep_alive_requests=100,
    request_header_timeout=5.0,
    send_timeout=3.0,
    rate_window=1.0,
    min_send_rate=65_536,
)
SEND_BUFFER = 262_144  # bytes; above the longest answer, which /connections gives
# Long answers: how many may be made anew at once and in a second. Beyond that the last one is given again.
FRESH_AT_ONCE, FRESH_PER_SECOND = 20.0, 5.0
MAX_KEPT = 8  # a client chooses among the formats of /metrics by words of its own
NO_STORE = (b"cache-control", b"no-store")
JSON = ((b"content-type", b"application/json"), NO_STORE)
TEXT = ((b"content-type", b"text/plain; charset=utf-8"), NO_STORE)
CLOSE = (b"connection", b"close")
WATCH = b"events"  # as content: a stream of them begins


def parse_admin(text: str) -> tuple[str, int]:
    """(host, port) of "127.0.0.1:9000", "[::1]:9000", or of ":9000" and "9000", which mean loopback. UsageError."""
    if not text.strip("0123456789"):
        text = f":{text}"
    address = parse_address(text)
    if isinstance(address, str):
        raise UsageError(f"admin {text!r}: must be HOST:PORT")
    return address[0] or "127.0.0.1", address[1]


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_admin(where: str, *, reuse_port: bool) -> list[Listener]:
    """Listen there. reuse_port: other processes do, too. UsageError."""
    host, port = parse_admin(where)
    listeners = open_listeners([f"[{host}]:{port}"], reuse_port=reuse_port)
    for listener in listeners:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # of its connections
        if hasattr(socket, "TCP_DEFER_ACCEPT"):  # seconds; who has not said anything yet takes no place, and loses none
            listener.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
    return listeners


class AdminServer:
    """The admin listener: another server in the loop of what it reports on, or of a process that has nothing else.

    make_server: makes a Server. io: what moves its bytes, as of Server.
    """

    def __init__(
        self, subject: Subject, where: str, hosts: Iterable[str], *, make_server: Callable[..., Any], io: str
    ) -> None:
        self.host, self.port = parse_admin(where)
        self._handler = Admin(subject, self.host, hosts)
        self._make_server, self._io = make_server, io
        self._server: Any = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self, listeners: Iterable[Listener]) -> None:
        """Serve those, as open_admin() makes them."""
        sockets = [listener.sock for listener in listeners]
        self.port = sockets[0].getsockname()[1]
        options: dict[str, Any] = {"policy": POLICY, "sockets": sockets, "server_name": "", "io": self._io}
        self._server = self._make_server(self._handler, interface="asgi", lifespan="off", **options)
        self._server.is_quiet = True
        self._serving = asyncio.create_task(self._server.serve(handle_signals=False), name="kacore-admin")
        self._handler.status.start(asyncio.get_running_loop())
        await self._server.started()

    async def stop(self) -> None:
        """At once: no drain is needed here. May be called more than once."""
        if self._server is not None and self._serving is not None:
            self._handler.status.stop()
            self._server.shutdown(now=True, hurry=True)
            await self._serving
            self._server = self._serving = None


class Admin:
    """An ASGI application that answers about `subject`. host: the address listened on. hosts: names that the Host field
    may have besides it."""

    def __init__(self, subject: Subject, host: str, hosts: Iterable[str] = ()) -> None:
        self.subject = subject
        self.hosts = {host.lower(), *(name.lower() for name in hosts)}
        if is_loopback(host):
            self.hosts |= {"localhost", "127.0.0.1", "::1"}
        self._probes = {"/healthz": self.healthz, "/readyz": self.readyz}
        self._pages = {
            "/": self.page,
            "/metrics": self.metrics,
            "/connections": self.connections,
            "/status": self.told,
            "/events": self.events,
        }
        self.status = Status(subject)
        self._exposition: Exposition | None = None
        self._kept = Kept()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        status, fields, content = await self.answer(scope["method"], scope["path"], dict(scope["headers"]))
        if content is WATCH:
            await self.status.watch(receive, send, is_page=scope["query_string"] == b"page")
            return
        length = (b"content-length", str(len(content)).encode())
        await send({"type": "http.response.start", "status": status, "headers": [*fields, length]})
        await send({"type": "http.response.body", "body": content})

    async def answer(self, method: str, path: str, fields: dict[bytes, bytes]) -> Answer:
        """What can be refused is refused by the head alone, and then the connection closes: content is not waited for."""
        host = fields.get(b"host")
        if host is not None and self.names_another_host(host.decode("latin-1")):
            return 421, (*TEXT, CLOSE), b"the Host field names another server\n"
        # HAProxy's check asks OPTIONS / unless it is told otherwise, and OPTIONS for a path that it is told.
        probe = self.readyz if method == "OPTIONS" and path in ("/", "*") else self._probes.get(path)
        page = self._pages.get(path)
        if probe is None and page is None:
            return 404, (*TEXT, CLOSE), b"/ /healthz /readyz /metrics /connections /status /events\n"
        allowed = ("GET", "HEAD", "OPTIONS") if probe else ("GET", "HEAD")
        if method not in allowed:
            return 405, (*TEXT, (b"allow", ", ".join(allowed).encode()), CLOSE), f"{' or '.join(allowed)} only\n".encode()
        if fields.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in fields:
            return 413, (*TEXT, CLOSE), b"no content, please\n"
        if probe is not None:
            return probe()
        assert page is not None
        if path == "/events" and method == "HEAD":
            return 405, (*TEXT, (b"allow", b"GET"), CLOSE), b""
        if path == "/events" and fields.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            return 403, (*TEXT, CLOSE), b"not for pages of other origins\n"
        accept, encoding = (fields.get(name, b"").decode("latin-1") for name in (b"accept", b"accept-encoding"))
        status, said, content = await page(accept, encoding)
        return status, (*said, CLOSE), content

    def names_another_host(self, host: str) -> bool:
        """A page that was rebound to us says its own name. So any IP address may stand there, as monitors say it, and
        nothing at all."""
        name, colon, port = host.rpartition(":")
        name = name if colon and port.isdigit() else host
        name = name.removeprefix("[").removesuffix("]").lower()
        return bool(name) and name not in self.hosts and not is_address(name)

    def healthz(self) -> Answer:
        """The loop is running, or there would be no answer; and so do those of workers."""
        trouble = self.subject.trouble
        return (503, TEXT, f"{trouble}\n".encode()) if trouble else (200, TEXT, b"ok\n")

    def readyz(self) -> Answer:
        """Whether new connections are wanted: not before the start-up is over, and not once a drain has begun."""
        return (200, TEXT, b"ready\n") if self.subject.is_ready else (503, TEXT, b"not ready\n")

    async def page(self, accept: str, encoding: str) -> Answer:
        return await self._kept.answer("page", self._page)

    async def _page(self) -> Answer:
        page = self.status.page
        return 200, page.fields, page.whole(self.status.document()).encode()

    async def told(self, accept: str, encoding: str) -> Answer:
        return await self._kept.answer("status", self._told)

    async def _told(self) -> Answer:
        return 200, JSON, dumped(self.status.document()).encode()

    async def events(self, accept: str, encoding: str) -> Answer:
        """Of a stream only what can be refused is an answer."""
        if self.status.is_full:
            text = f"{MAX_VIEWERS} viewers are watching, which are all that there may be\n"
            return 503, (*TEXT, (b"retry-after", b"5")), text.encode()
        return 200, tuple(FIELDS), WATCH

    async def metrics(self, accept: str, encoding: str) -> Answer:
        if self._exposition is None:
            try:
                self._exposition = Exposition(self.subject)
            except ImportError:
                return 501, TEXT, b"metrics need prometheus_client: pip install kacore[metrics]\n"
        encode, kind = self._exposition.choose(accept)
        is_gzip = accepts_gzip(encoding)

        async def made() -> Answer:
            return metrics_answer(encode(), kind, is_gzip)

        return await self._kept.answer((kind, is_gzip), made)

    async def connections(self, accept: str, encoding: str) -> Answer:
        """The counters, and at most MAX_LISTED of the open connections."""
        return await self._kept.answer("connections", self._connections)

    async def _connections(self) -> Answer:
        stats = self.subject.stats()
        listed = await self.subject.connections(MAX_LISTED)
        n_open = sum(stats["phases"].values())
        body = {"open": n_open, "phases": stats["phases"], "is_cut": n_open > len(listed), "connections": listed}
        body["learned"] = self.subject.learned(MAX_NETWORKS)
        return 200, JSON, json.dumps(body).encode()


class Kept:
    """The last answers, for when so many are asked for that making each anew would take the loop's time."""

    def __init__(self) -> None:
        self._answers: dict[object, Answer] = {}
        self._left, self._since = FRESH_AT_ONCE, time.monotonic()

    async def answer(self, key: object, make: Callable[[], Awaitable[Answer]]) -> Answer:
        now = time.monotonic()
        self._left = min(FRESH_AT_ONCE, self._left + (now - self._since) * FRESH_PER_SECOND)
        self._since = now
        if self._left < 1:
            return self._answers.get(key, (503, (*TEXT, (b"retry-after", b"1")), b"asked too often\n"))
        self._left -= 1
        if len(self._answers) >= MAX_KEPT and key not in self._answers:
            self._answers.clear()
        self._answers[key] = answer = await make()
        return answer


def metrics_answer(text: bytes, kind: str, is_gzip: bool) -> Answer:
    import gzip

    fields = ((b"content-type", kind.encode("latin-1")), (b"vary", b"Accept, Accept-Encoding"), NO_STORE)
    if is_gzip:
        return 200, (*fields, (b"content-encoding", b"gzip")), gzip.compress(text, compresslevel=1)
    return 200, fields, text


def accepts_gzip(encoding: str) -> bool:
    """By the words of Accept-Encoding (RFC 9110 12.5.3)."""
    for part in encoding.lower().split(","):
        coding, _, weight = part.partition(";")
        if coding.strip() == "gzip":
            return weight.replace(" ", "").rstrip("0.") != "q="
    return False


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
