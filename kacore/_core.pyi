"""The compiled core. Every public name of kacore._core is declared here, and `make types` compares."""
from asyncio import AbstractEventLoop, Task
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextvars import Context
from logging import Logger
from socket import socket
from typing import Any, Literal, Self, TypeVar, Unpack, final, overload

from typing_extensions import Buffer

from kacore.policy import Policy, PolicySet
from kacore.policy.keywords import PolicyFields

__all__ = [
    "COUNTERS_BYTES",
    "HTTP2",
    "MAX_WAITING",
    "AccessEntry",
    "AsgiApplication",
    "ClientGone",
    "ClientPools",
    "ConnectionTable",
    "EndOfMessage",
    "Engine",
    "FrameReader",
    "HandlerApplication",
    "Head",
    "HostedAsgiApplication",
    "HostedWsgiApplication",
    "KacoreError",
    "Limits",
    "LocalError",
    "PeerError",
    "ProtocolApplication",
    "Replay",
    "Request",
    "RequestParser",
    "Response",
    "Runner",
    "Stream",
    "TransportProtocol",
    "Transports",
    "Tunnel",
    "Upgrade",
    "Verdict",
    "WebSocketCore",
    "WsgiApplication",
    "has_epoll",
    "make_policies_by",
    "parse_head",
    "parse_parts",
    "read_gauges",
    "refuse_new_connections",
    "return_large_blocks",
    "set_simd_variant",
    "settle_counters",
    "simd_variant",
    "simd_variants",
    "sum_counters",
]

_T = TypeVar("_T")

# errors.pxi

class KacoreError(Exception):
    """Base of every exception that kacore raises on purpose."""
class LocalError(KacoreError):
    """The caller broke a rule of the API: a stale handle, an impossible transition, a response out of order."""

class PeerError(KacoreError):
    """The peer broke a rule of the protocol, or passed a limit.

    status: int, the response status to send: 400, 413, 414, 431, 501 or 505.
    code:   str, which rule; stable and machine-readable, as in docs/strictness.md: "bare_lf".
    offset: int, where in the message: bytes from its first byte to the one that broke the rule.
    The sentence names the rule with its section and, where there is one, the limit and its value.
    """
    status: int
    code: str
    offset: int
    def __init__(self, status: int, code: str, offset: int, message: str) -> None: ...

# head.pxi

class Limits:
    """How large a request may be. Immutable; every number is in bytes except `max_headers`.

    max_head_bytes:       the whole head with its final empty line (431 above it); 32,768; 64 to 2**24
    max_target_bytes:     the request target (414); 8,192
    max_headers:          number of field lines in a head or a trailer section (431); 100; at most 1,024
    max_header_bytes:     one field line without CRLF (431); 16,384
    max_body_bytes:       the content of one request (413); 2**30
    max_chunk_line_bytes: size and extensions of one chunk (400); 256
    max_trailer_bytes:    the field lines of a trailer section (431); 4,096
    Raises ValueError for a number out of range.
    """
    def __init__(
        self,
        *,
        max_head_bytes: int | None = None,
        max_target_bytes: int | None = None,
        max_headers: int | None = None,
        max_header_bytes: int | None = None,
        max_body_bytes: int | None = None,
        max_chunk_line_bytes: int | None = None,
        max_trailer_bytes: int | None = None,
    ) -> None: ...
    @property
    def max_head_bytes(self) -> int: ...
    @property
    def max_target_bytes(self) -> int: ...
    @property
    def max_headers(self) -> int: ...
    @property
    def max_header_bytes(self) -> int: ...
    @property
    def max_body_bytes(self) -> int: ...
    @property
    def max_chunk_line_bytes(self) -> int: ...
    @property
    def max_trailer_bytes(self) -> int: ...

@final
class Head:
    """The head of one request. Made by parse_head and RequestParser only; most attributes are created when they are
    asked for.

    Cost: the places of its fields, and a copy of the head, or of a short `data` of bytes a reference to it; `headers` and
    `get` cost O(fields) each time.
    """
    @property
    def method(self) -> str:
        """str, as sent: "GET"."""
    @property
    def target(self) -> bytes:
        """bytes, the request target as sent."""
    @property
    def version(self) -> str:
        """str, as sent: "1.1", "1.0"; "2" of HTTP/2. A higher minor version is treated as 1.1 (RFC 9110 2.5)."""
    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """A new list of (lower-cased name, value), bytes both, in the order sent."""
    @property
    def keep_alive(self) -> bool:
        """bool: the client can reuse the connection after this request (RFC 9112 9.3)."""
    @property
    def content_length(self) -> int | None:
        """int, or None when there is no Content-Length."""
    @property
    def chunked(self) -> bool:
        """bool: the content is in chunks."""
    @property
    def expects_continue(self) -> bool:
        """bool: the client waits for 100 (Continue) before it sends the content (RFC 9110 10.1.1)."""
    @property
    def upgrade(self) -> bytes | None:
        """bytes: the protocols that the client offers to upgrade to; None without a valid offer (RFC 9110 7.8)."""
    @property
    def host(self) -> bytes | None:
        """bytes: the value of Host, or of an absolute target's authority; None in HTTP/1.0 without either."""
    @property
    def nbytes(self) -> int:
        """int: bytes of input that the head took, with a leading and the final empty line."""
    @property
    def hop_by_hop(self) -> list[bytes]:
        """A list of the lower-cased names (bytes) of the fields that end at this hop (RFC 9110 7.6.1)."""
    @overload
    def get(self, name: bytes | str) -> bytes | None:
        """The value (bytes) of the field `name` (bytes or str, any case), or `default`.

        Several lines are joined by b", " (RFC 9110 5.3), Cookie's by b"; " (RFC 9113 8.2.3).
        """
    @overload
    def get(self, name: bytes | str, default: _T) -> bytes | _T: ...

@final
class EndOfMessage:
    """The event that ends a message. `trailers`: tuple of (lower-cased name, value) pairs of bytes, mostly empty."""
    @property
    def trailers(self) -> tuple[tuple[bytes, bytes], ...]: ...

def parse_head(data: Buffer, offset: int = 0, /, limits: Limits | None = None) -> Head | None:
    """Parse the request head at `offset` of `data`.

    data:   bytes, bytearray or any contiguous buffer; bytes after the head are ignored.
    offset: int, where the head begins; with `nbytes` of the result, pipelined heads are read one by one.
    limits: Limits, default Limits().
    Return: a Head, whose `nbytes` says how much was consumed; None while the head is incomplete.
    Raises: PeerError for bytes that break a rule; its offset counts from `offset`. LocalError when `offset` is
            beyond the data.
    Cost:   O(bytes of the head). For a head that arrives in pieces use RequestParser, which reads each byte once.
    """

def parse_parts(
    data: Buffer, offset: int = 0, limits: Limits | None = None, /
) -> tuple[str, bytes, str, list[tuple[bytes, bytes]], bool, int] | None:
    """Parse the request head at `offset` of `data` into plain objects, for callers that want all of it at once.

    data:   bytes, bytearray or any contiguous buffer.
    offset: int, where the head begins; with the last item of the result, pipelined heads are read one by one.
    limits: Limits, default Limits().
    Return: (method, target, version, headers, keep_alive, end), as the attributes of a Head; `end` is the offset of
            the first byte after the head. None while the head is incomplete.
    Raises: PeerError for bytes that break a rule; its offset counts from `offset`. LocalError when `offset` is
            beyond the data.
    Cost:   O(bytes of the head); no Head is made.
    """
@final
class RequestParser:
    """Reads the requests of one connection, however their bytes arrive. One per connection.

    limits: Limits, default Limits().
    Holds no buffer while nothing is pending: an idle one is 40 bytes.
    """
    def __init__(self, limits: Limits | None = None) -> None: ...
    @property
    def is_over(self) -> bool:
        """bool: an error or a message that ends the connection was seen; nothing more is accepted."""
    def feed(self, data: Buffer, /) -> list[Head | bytes | EndOfMessage | PeerError]:
        """Take bytes from the peer.

        data:   bytes, bytearray or any contiguous buffer.
        Return: the list of events, in order: a Head, body pieces (bytes), an EndOfMessage, the next Head... The last
                one is a PeerError if the peer broke a rule. Empty while nothing is whole, and always when `is_over`.
        Never raises for the peer's bytes. Cost: O(bytes).
        """
    def feed_eof(self) -> list[Head | bytes | EndOfMessage | PeerError]:
        """The peer will send nothing more. Return: [], or [PeerError] with code "incomplete" inside a message.

        A single empty line after the last message is ignored. Nothing more is accepted afterwards.
        """

def simd_variants() -> list[str]:
    """The ways of scanning that this machine has, plainest first: "scalar", "sse4.2", "neon"."""
def simd_variant() -> str:
    """The SIMD variant in use: the best that the machine has, or what the environment variable KACORE_SIMD names."""
def set_simd_variant(name: str | None, /) -> None:
    """Use another SIMD variant in the whole process; None chooses the best. For tests and measurements.

    Raises LocalError for a name that is not in simd_variants().
    """

# exchange.pxi

class ClientGone(KacoreError, OSError):
    """The client is gone: what is sent now reaches nobody. An OSError, as ASGI asks of send()."""

class Application:
    """What is done with a request. One for each application interface."""
    @property
    def logger(self) -> Logger: ...

# carrier.pxi

class Runner:
    """Runs coroutines for one loop: by carriers, or each in a Task.

    uses_carriers: False = a Task each. Switched on by probe().
    """
    uses_carriers: bool
    @property
    def loop(self) -> AbstractEventLoop | None: ...
    @property
    def n_eager(self) -> int: ...
    @property
    def n_adopted(self) -> int: ...
    @property
    def n_retired(self) -> int: ...
    @property
    def n_tasks(self) -> int: ...
    def __init__(self, loop: AbstractEventLoop | None) -> None: ...
    def add_carrier(self) -> None:
        """Make a carrier; its task parks itself at its first step."""
    def close(self) -> None:
        """End the parked carriers. No request is run by one any more."""
    def stats(self) -> dict[str, int]:
        """dict: eager (finished without a Task), adopted, retired, tasks (a Task each)."""
    async def probe(self) -> str | None:
        """Switch to carriers if this interpreter and loop keep what they rely on. Return: None, or why not (str)."""
    async def try_out(self) -> str | None:
        """None"""

# handler.pxi

class Request:
    """One request with its whole content. Every attribute is decoded when it is asked for.

    The content is complete before the handler is called; `max_body_bytes` of the policy bounds it.
    """
    @property
    def head(self) -> Head:
        """The Head, with everything as it was sent."""
    @property
    def method(self) -> str:
        """str: "GET"."""
    @property
    def target(self) -> str:
        """str, the request target as sent: "/a%20b?c=d"."""
    @property
    def path(self) -> str:
        """str, decoded, without the query: "/a b"."""
    @property
    def query(self) -> str:
        """str, what follows "?", not decoded; "" when there is none."""
    @property
    def version(self) -> str:
        """str: "1.1" or "1.0"."""
    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """A new list of (lower-cased name, value), bytes both, in the order sent."""
    @property
    def body(self) -> bytes:
        """bytes: the content, b"" when there is none."""
    @property
    def client(self) -> tuple[str, int] | None:
        """(host, port) of the client, or None on a unix socket."""
    @property
    def server(self) -> tuple[str, int | None] | None:
        """(host, port) of the listener, or (path, None)."""
    @property
    def scheme(self) -> str:
        """"http" or "https", as the client used it: of a trusted proxy, what it says."""
    @overload
    def get(self, name: bytes | str) -> str | None:
        """The value (str, Latin-1) of a field by its name in any case, or `default`."""
    @overload
    def get(self, name: bytes | str, default: _T) -> str | _T: ...

class Response:
    """body: bytes, str (sent as UTF-8) or an iterable of bytes; status: int; headers: pairs of str or bytes, or a dict.

    Content-Length, the framing and persistence are the server's; `Connection: close` among the headers closes.
    """
    body: Any
    status: int
    headers: Any
    def __init__(
        self,
        body: bytes | bytearray | memoryview | str | Iterable[bytes] = b"",
        status: int = 200,
        headers: Iterable[tuple[str | bytes, str | bytes]] | dict[str, str] | dict[bytes, bytes] = (),
    ) -> None: ...

class HandlerApplication(Application):
    """handler(Request) -> bytes | str | Response, or an awaitable of one. loop: for awaitables."""
    @property
    def handler(self) -> Any: ...
    @property
    def runner(self) -> Runner: ...
    def __init__(
        self, handler: Any, loop: AbstractEventLoop | None, logger: Logger, *, scheme: str = "http"
    ) -> None: ...

# tunnel.pxi

class Tunnel:
    """A request that may become a byte stream, and that stream.

    owner: told what happens, from inside the engine, by calls without arguments: readable() when `receive` has
    something, writable() when a held-back writer may go on, draining() when the server is about to stop, lost() when
    the client is gone. None of them may raise.
    """
    owner: Any
    def open(self, status: int, headers: Iterable[tuple[str | bytes, str | bytes]]) -> None:
        """Answer 101 or 2xx: the connection is a byte stream from here on. LocalError when the request does not allow
        that, ClientGone.
        """
    def begin(self, status: int, headers: Iterable[tuple[str | bytes, str | bytes]], length: int = -1) -> None:
        """Answer as HTTP after all; `send` gives the content, `length` bytes or -1 = not known yet."""
    def send(self, data: bytes | bytearray | memoryview, more: bool = True) -> None:
        """Send bytes; the last (`more` false) end the stream or the response. ClientGone."""
    def receive(self) -> bytes | None:
        """bytes that are here; b"" when the client will send nothing more; None = later, readable() will be called."""
    def close(self) -> None:
        """Send what is pending, then end the connection. Idempotent."""
    def abort(self) -> None:
        """Break off a response in the middle, so that it looks so."""
    @property
    def is_full(self) -> bool:
        """Whether the client takes more slowly than we write; if so, writable() will be called."""
    @property
    def is_low(self) -> bool:
        """Whether little of what was written waits for the client; if not, writable() will be called."""
    @property
    def is_gone(self) -> bool:
        """Whether nothing can be sent any more."""
    @property
    def has_fin(self) -> bool:
        """Whether the client will send nothing more than what is here."""
    @property
    def is_draining(self) -> bool:
        """Whether the server is about to stop."""

class Stream(Tunnel):
    """The bytes of a connection after an Upgrade, for one coroutine that reads and one that writes.

    It is closed when the coroutine that got it ends, and at the latest at `drain_timeout` when the server stops.
    """
    async def read(self) -> bytes:
        """bytes, as they come; b"" when the client will send nothing more."""
    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes. ClientGone (an OSError) when the client is gone."""
    async def drain(self) -> None:
        """Wait while the client takes more slowly than was written."""
    async def detach(self) -> tuple[socket, bytes]:
        """Take the connection out of the server: (socket.socket, bytes that were read of it already), the caller's.

        Waits until what was written is sent. The server forgets the connection: it counts as closed (`upgraded`), has no
        place in the table and no part in a drain. LocalError over TLS; ClientGone.
        """
    async def wait_for_shutdown(self) -> None:
        """Wait until the server is about to stop, or the client is gone."""
    def readable(self) -> None:
        """None"""
    def writable(self) -> None:
        """None"""
    def draining(self) -> None:
        """None"""
    def lost(self) -> None:
        """None"""
    def finished(self, task: Task[None]) -> None:
        """The coroutine that had the stream is done."""

class Upgrade:
    """What a handler returns to go on with bare bytes: `await serve(stream)` is run with the connection's Stream.

    headers: pairs of str or bytes; `Connection: upgrade` is added to 101. status: 101, but 200 for CONNECT.
    The request must have asked for it: Upgrade (Request.head.upgrade) or CONNECT.
    """
    @property
    def serve(self) -> Callable[[Stream], Coroutine[Any, Any, None]]: ...
    @property
    def headers(self) -> Iterable[tuple[str | bytes, str | bytes]]: ...
    @property
    def status(self) -> int | None: ...
    def __init__(
        self,
        serve: Callable[[Stream], Coroutine[Any, Any, None]],
        headers: Iterable[tuple[str | bytes, str | bytes]] = (),
        status: int | None = None,
    ) -> None: ...

# frames.pxi

class FrameReader:
    """The messages of one Tunnel that has become a websocket.

    max_size: bytes of one message, uncompressed. window_bits: of the client's permessage-deflate; 0 = not agreed upon.
    keeps_context: it is inflated from message to message.
    """
    @property
    def n_bytes(self) -> int: ...
    def __init__(self, tunnel: Tunnel, max_size: int, *, window_bits: int = 0, keeps_context: bool = True) -> None: ...

# asgi.pxi

class AsgiApplication(Application):
    """app: an ASGI 3 application; state: the lifespan's state dict, copied for each request; websocket: called with
    (app, scope, Tunnel) for an upgrade to websocket; false = answer it as HTTP; pathsend: offer the extension
    http.response.pathsend.
    """
    @property
    def app(self) -> Any: ...
    @property
    def loop(self) -> AbstractEventLoop: ...
    @property
    def state(self) -> dict[str, Any] | None: ...
    @property
    def root_path(self) -> str: ...
    @property
    def runner(self) -> Runner: ...
    def __init__(
        self,
        app: Any,
        loop: AbstractEventLoop,
        logger: Logger,
        *,
        state: dict[str, Any] | None = None,
        root_path: str = "",
        scheme: str = "http",
        websocket: Callable[[Any, dict[str, Any], Tunnel], bool] | None = None,
        pathsend: bool = False,
    ) -> None: ...

# websocket.pxi

class WebSocketCore:
    """tunnel: of the request; loop: an asyncio event loop. What a subclass brings: `say`, `drained`, `control`, `ended`,
    `fail`, `end`, `answer_ping`, `read_later`, `news_before_frames`.
    """
    frames: FrameReader | None
    deflate: Callable[[bytes], bytes] | None
    pong: bytes | None
    is_over: bool
    has_said_close: bool
    is_behind: bool
    @property
    def tunnel(self) -> Tunnel: ...
    @property
    def loop(self) -> AbstractEventLoop: ...
    @property
    def is_held(self) -> bool: ...
    def __init__(self, tunnel: Tunnel, loop: AbstractEventLoop) -> None: ...
    def functions(self) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
        """(receive, send) for the application."""
    def put(self, message: dict[str, Any]) -> None:
        """A message that the client did not send."""
    def put_last(self, message: dict[str, Any]) -> None:
        """Nothing comes behind it. Only the first counts."""
    def forget(self) -> None:
        """Nobody will take the messages that wait."""
    def readable(self) -> None:
        """The Tunnel has something."""
    def send_control(self, opcode: int, payload: bytes) -> None:
        """A control frame. ClientGone, MemoryError."""

# wsgi.pxi

class WsgiApplication(Application):
    """app: a WSGI application; threads: at most so many at once, 0 = the engine's own; waker: called from threads;
    environ: what every environ begins with besides, such as wsgi.errors; max_response_buffer: of the policy.
    """
    @property
    def app(self) -> Any: ...
    @property
    def threads(self) -> int: ...
    max_response_buffer: int
    def __init__(
        self,
        app: Any,
        logger: Logger,
        waker: Callable[[], None] | None = None,
        *,
        threads: int = 4,
        multiprocess: bool = False,
        scheme: str = "http",
        script_name: str = "",
        environ: dict[str, Any] | None = None,
        max_response_buffer: int = 16777216,
    ) -> None: ...
    def serve(self) -> None:
        """What a thread of the pool does until `stop`."""
    def stop(self) -> None:
        """End the pool's threads when they have finished what they do."""

# table.pxi

_Phase = Literal["handshake", "new", "head", "body", "busy", "write", "idle", "linger", "tunnel"]
_Action = Literal["close", "answer_408", "answer_503", "half_close", "goaway"]
_Version = Literal["1.0", "1.1", "2", "2.0", "3", "3.0"]

class Verdict:
    """Whether a connection is kept after a response, and what the response says about it. Immutable, shared.

    keeps:   bool.
    cause:   str, what it will end by when it is not kept, else None; a key of stats()["closed"].
    fields:  tuple of (name, value) bytes pairs to send, names in lower case: none, connection, or connection and
             keep-alive. Never any on HTTP/2 (RFC 9113 8.2.2).
    timeout: int seconds as advertised, or None. max: int requests left as advertised, or None.
    """
    keeps: bool
    cause: str | None
    fields: tuple[tuple[bytes, bytes], ...]
    timeout: int | None
    max: int | None
    def __init__(
        self,
        keeps: bool,
        cause: str | None,
        fields: tuple[tuple[bytes, bytes], ...],
        timeout: int | None,
        most: int | None,
    ) -> None: ...
    def __setattr__(self, name: str, _value: object) -> None: ...

class ConnectionTable:
    """Connections, their phases and deadlines, for a server that has its own sockets. A connection is an integer.

    policy: kacore.Policy, kacore.PolicySet (one class per rule), or None for the defaults.
    seed:   int, keys the hash of client addresses and the age jitter; None: random.
    counters: writable buffer of COUNTERS_BYTES to count in, such as a shared mmap; kept open. None: private memory.
    fields: of Policy, to override: ConnectionTable(max_connections=4, keep_alive_timeout=5.0).
    on_settled: attribute; called with an entry of learned() when a network has closed idle connections three times at
            about the same age, or None.
    Raises ValueError for a policy with values out of range, MemoryError.

    A connection is an int, `conn`, stale after its close. `now` is seconds on any clock, but always the same
    one; it is rounded so that nothing ends early, a `now` earlier than the last counts as the last, and NaN and
    infinity are a ValueError. A stale `conn`, or an event that the phase does not allow, raises LocalError and
    changes nothing. Not thread-safe. Every call is O(1) unless it says otherwise; about 51 bytes per
    connection. Source: docs/table.md.
    """
    on_settled: Callable[[dict[str, Any]], object] | None
    def tell_state(self, state: str) -> None:
        """Whoever shares the buffer of counters is told that this process is "starting", "serving" or "leaving"; see
        read_gauges. Nothing where it is not shared.
        """
    @property
    def policy(self) -> Policy | PolicySet | None: ...
    @property
    def is_draining(self) -> bool: ...
    @property
    def is_drained(self) -> bool:
        """Nothing is open but what lingers, so a server that drains can stop. O(1)."""
    @property
    def is_full(self) -> bool: ...
    @property
    def nbytes(self) -> int:
        """Memory of the table in bytes, all included but malloc's own. Never falls: slots are used again."""
    @property
    def n_requests(self) -> int:
        """int: request heads counted so far, as in stats(), but cheap."""
    def __init__(
        self,
        policy: Policy | PolicySet | None = None,
        *,
        seed: int | None = None,
        counters: Buffer | None = None,
        **fields: Unpack[PolicyFields],
    ) -> None: ...
    def __len__(self) -> int: ...
    def __contains__(self, conn: object, /) -> bool: ...
    def open(
        self,
        now: float,
        client: str | bytes | tuple[Any, ...] | None = None,
        policy_class: int = 0,
        tls: bool = False,
        proxy: bool = False,
    ) -> int:
        """A connection was accepted. Phase: new, with `tls` handshake.

        client: None for a unix socket, which is never limited; else an IP address as text or packed bytes, or the tuple
                of getpeername(). ::ffff:a.b.c.d counts as IPv4.
        proxy:  it is a trusted proxy, which is never limited either.
        policy_class:  class of the policy set that NEW and HEAD will always run under.
        Return: conn, an int > 0; or 0 if it was not opened: is_full (call evict(), close that one, and try again), or
                else the client has max_connections_per_client, which is counted as closed by client_limit.
        Raises ValueError for an invalid client or class, MemoryError. Cost: O(1); every 4,096th connection that
        is open at once allocates.
        """
    def refused(self, cause: str = "rejected") -> None:
        """Count a connection that was accepted and turned away without being opened, under a cause of stats()["closed"]."""
    def close(self, conn: int, cause: str = "client", now: float | None = None) -> None:
        """The connection was closed, in whatever phase; `conn` is stale from now on.

        cause: a key of stats()["closed"].
        now:   None counts as the latest one. When a client closes an idle connection (client; error: it was reset), this
               is how its network's timeout is learned, where keep_alive_timeout is "auto".
        """
    def handshake_done(self, conn: int, now: float, /) -> None:
        """handshake -> new."""
    def received(self, conn: int, now: float, /) -> None:
        """First byte of a request that is not an empty line: new, idle -> head."""
    def head_done(self, conn: int, now: float, /) -> None:
        """A whole head is here: new, head, idle -> busy. Counts the request."""
    def body_wanted(self, conn: int, now: float, /) -> None:
        """The application waits for body bytes and none are here: busy -> body."""
    def body_arrived(self, conn: int, now: float, /) -> None:
        """The body bytes it waited for arrived: body -> busy. Report them to body_progress first."""
    def blocked(self, conn: int, now: float, /) -> None:
        """The client must read before anything can go on: head, busy, body, tunnel -> write."""
    def unblocked(self, conn: int, now: float, /) -> None:
        """The client has read: write -> busy. Report the bytes to write_progress first."""
    def responded(self, conn: int, now: float, /) -> None:
        """The whole response was handed to the kernel and the connection is kept: busy, body, write -> idle."""
    def lingering(self, conn: int, now: float, /) -> None:
        """FIN was sent, and whatever still arrives is discarded: any phase but linger -> linger."""
    def tunnelled(self, conn: int, now: float, /) -> None:
        """101 or CONNECT accepted: busy, body, write -> tunnel, which has no time limit."""
    def stream_opened(self, conn: int, now: float, /) -> None:
        """HTTP/2: a request began: new, head, idle, busy -> busy. Counts the request.

        From the first one on the connection takes no other event but stream_closed and lingering.
        """
    def stream_closed(self, conn: int, now: float, /) -> None:
        """HTTP/2: a stream ended; after the last one, busy -> idle."""
    def body_progress(self, conn: int, nbytes: int, now: float, /) -> str | None:
        """Body bytes arrived: in body they restart the gap and feed the rate; busy and write allow and ignore it.

        Return: None, or "body_rate" when the connection should be closed for it.
        """
    def write_progress(self, conn: int, nbytes: int, now: float, /) -> str | None:
        """The client read bytes: in write they restart the gap and feed the rate; busy and body allow and ignore it.

        Return: None, or "send_rate" when the connection should be closed for it.
        """
    def linger_progress(self, conn: int, nbytes: int, now: float, /) -> str | None:
        """Bytes were discarded in linger. Return: None, or, over linger_bytes or linger_time, the cause to close with.

        The first ones on a connection that was closed while idle count as a race: a request that crossed the close.
        """
    def touch(self, conn: int, now: float, /) -> None:
        """Restart the clock of its phase, for hosts that only know that something happened."""
    def set_class(self, conn: int, policy_class: int) -> None:
        """Move it to another class of the policy set until its next request; the clock of the phase is kept."""
    def decide(
        self,
        conn: int,
        now: float,
        /,
        http_version: _Version = "1.1",
        client_persists: bool = True,
        must_close: str | None = None,
    ) -> Verdict:
        """Whether it is kept after this response, and what the response says. Call once, before the head is written.

        http_version:    of the request.
        client_persists: whether the request allows it (RFC 9112 9.3).
        must_close:      a cause of stats()["closed"] when something else forbids it.
        Return: Verdict. LocalError outside a request; ValueError for another version or cause.
        """
    def due(self, now: float) -> tuple[int, _Action, str] | None:
        """One connection whose time is up, the longest due first. It stays open until it is closed or moved on.

        Return: None, or (conn, action, cause): action is close, answer_408, answer_503, half_close or goaway.
        For hosts that look for bytes once more before they close; expire() is simpler.
        """
    def expire(self, now: float, limit: int = 64) -> list[int]:
        """Close out at most `limit` connections whose time is up, the longest due first.

        Return: list of their handles, now stale; fewer than `limit` means that no more are due.
        ValueError if limit < 1. Cost: O(returned), times the classes in use.
        """
    def next_due(self) -> float | None:
        """Seconds on the caller's clock when something is due at the earliest, None for never.

        Under pressure and in a drain any event can bring it earlier: ask again after each batch of events.
        """
    def victim(self, now: float) -> int:
        """Which connection would be closed if room were needed, or 0: docs/table.md has the order."""
    def evict(self, now: float) -> int:
        """Close the connection that makes room. Return: its handle, now stale, or 0 if there is none."""
    def learned(self, now: float, limit: int = 1000) -> list[dict[str, Any]]:
        """What was learned of client networks, where keep_alive_timeout is "auto": at most `limit`, first trusted proxies
        and unix sockets. O(networks).

        Return: list of dict: network, an address or "2001:db8::" of a prefix, or "unix"; proxy (a trusted one);
        connections, open now; kept_for, seconds that idle ones are kept at least, until their place is needed;
        closes_after, the largest idle age at which it closed first, None: never; settled (three times at about that
        age), since, seconds since that or since kept_for changed; closed_by_them, closed_by_us, races; and for learn():
        theirs, ours, marks, period.
        """
    def busiest(self) -> list[dict[str, Any]]:
        """The networks with most open connections, at most 32, the busiest first. O(networks).

        Return: list of dict: network and proxy as in learned(), connections.
        """
    def learn(self, now: float, entries: Iterable[dict[str, Any]]) -> None:
        """Take over entries of another table's learned(). ValueError for what is none; those before it are taken."""
    def set_policy(self, policy: Policy | PolicySet) -> None:
        """Change the policy, for all connections at once. O(1) in connections.

        policy: kacore.Policy or kacore.PolicySet. Connections of classes that no longer exist get the default.
        ValueError for values out of range; the old policy stays. O(clients) when client_share changes.
        """
    def drain(
        self, now: float, grace: float | None = None, spread: float | None = None, timeout: float | None = None
    ) -> None:
        """Begin to drain: seconds, by default those of the policy's drain_grace, drain_spread and drain_timeout.

        Idle connections stay answerable for `grace`, then become due spread over `spread`; from now on every
        response says close; after `timeout` whatever is left is due. If called again, the earlier times hold.
        """
    def phase(self, conn: int, /) -> _Phase:
        """The name of its phase."""
    def policy_class(self, conn: int, /) -> int:
        """The class of the policy set it is in now."""
    def requests(self, conn: int, /) -> int:
        """Request heads seen on it."""
    def stats(self) -> dict[str, Any]:
        """Counters and phases as a dict of its own.

        phases: name to connections. accepted, requests, reused (requests that were not the first of theirs),
        reuse_rate, races. closed: cause to connections; they and the phases add up to accepted.
        idle_gap (seconds before a reuse, counted when its first byte comes), idle_left (seconds until the client closed
        an idle connection) and requests_per_connection (when it closes): edges, the smallest value of each bucket, and
        counts. The middle of a bucket is within 20 % of what is in it.
        0 unless kacore has the conversations as well: responses ("1xx" to "5xx"), bytes_in, bytes_out, first_byte and
        duration (seconds from a head until its response began, and was given; with their sum), tls (handshakes, resumed,
        failed).
        """
    def check(self) -> None:
        """Walk every invariant; AssertionError names the first that is broken. O(connections), for tests."""

# pools.pxi and replay.pxi

class ClientPools:
    """The connections of a log's clients, none of them ever closed, and the gaps between requests on each.

    edges:      timeouts in seconds, rising, for which gaps() answers.
    per_client: at most so many connections for a client; its further requests wait. 0: as many as overlap.
    shares:     requests that overlap share one connection, as over HTTP/2.
    watched:    timeouts in seconds for which peaks() answers.
    is_one:     all requests are those of one client, a trusted proxy in front.
    whole:      times are rounded down to whole seconds, for logs that know no better; with per_client above 1 a client's
                requests within one second then count as simultaneous.
    Raises ValueError, MemoryError. Cost: about 0.2 us a request, and 60 bytes for each client and for each connection.
    Clients that have been away for longer than the largest edge are forgotten once 100,000 are known.
    """
    @property
    def n_requests(self) -> int: ...
    @property
    def n_connections(self) -> int: ...
    @property
    def n_clients(self) -> int: ...
    @property
    def busy(self) -> float: ...
    @property
    def begun(self) -> float:
        """float: the time of the first request."""
    @property
    def ended(self) -> float:
        """float: how far the log has been played."""
    def __init__(
        self,
        edges: Sequence[float],
        *,
        per_client: int = 0,
        shares: bool = False,
        is_one: bool = False,
        whole: bool = False,
        watched: Sequence[float] = (),
    ) -> None: ...
    def feed(self, records: list[tuple[float, float, bytes]], /) -> None:
        """Requests in the order of their times: tuples (start, duration, client), seconds and bytes; a time earlier than
        the last counts as the last. client: an IP address as text, or a name.

        What happens because of them can be played by Replay until the next call.
        """
    def finish(self) -> None:
        """The log ends: requests that are under way come to their end, and what is idle was idle until then."""
    def peaks(self) -> list[int]:
        """list: the most connections that were open at a time, at each of the watched timeouts."""
    def gaps(self) -> tuple[list[int], list[int], list[float]]:
        """Idle gaps by size, between the edges: below the first, from there to the second, ..., from the last one on.

        Return: three lists: requests that came after such a gap; the same with connections that were never used again;
        seconds that all these were idle.
        """

class Replay:
    """A ConnectionTable that serves the clients of a log.

    table:   a new one; its policy is what is tried. Nobody else may use it.
    closes:  seconds after which clients close a connection that is idle; 0: they never do.
    window:  seconds until a client sees that its connection was closed; a request that it sends before is lost, counted as a
             race, and repeated on a new connection. Until then the connection takes its place, which counts when room is
             short. 0: it sees it at once.
    Raises ValueError, MemoryError. Not thread-safe, but play() lets go of the GIL. Cost: about 0.1 us a request.
    """
    @property
    def table(self) -> ConnectionTable: ...
    @property
    def n_requests(self) -> int: ...
    @property
    def n_reused(self) -> int: ...
    @property
    def n_opened(self) -> int: ...
    @property
    def n_evicted(self) -> int: ...
    @property
    def n_refused(self) -> int: ...
    @property
    def n_races(self) -> int: ...
    @property
    def peak(self) -> int: ...
    @property
    def mean(self) -> float:
        """float: connections open on average since the first request; 0 when no time has passed."""
    def __init__(self, table: ConnectionTable, *, closes: float = 0.0, window: float = 0.0) -> None: ...
    def play(self, pools: ClientPools, /) -> None:
        """What the last feed() or finish() of these pools told. MemoryError leaves the replay unusable."""

# engine.pxi

class AccessEntry:
    """One request and its outcome, for an access log. What the client sent is given as it was sent."""
    @property
    def client(self) -> tuple[str, int] | None: ...
    @property
    def method(self) -> str | None: ...
    @property
    def target(self) -> bytes | None: ...
    @property
    def version(self) -> str | None: ...
    @property
    def referer(self) -> bytes | None: ...
    @property
    def user_agent(self) -> bytes | None: ...
    @property
    def request(self) -> dict[str, Any] | None: ...
    @property
    def fields(self) -> Any: ...
    @property
    def status(self) -> int: ...
    @property
    def n_bytes(self) -> int: ...
    @property
    def unix_time(self) -> int: ...
    @property
    def connection(self) -> int: ...
    @property
    def number(self) -> int: ...
    @property
    def host(self) -> bytes | None: ...
    @property
    def is_tls(self) -> bool: ...
    @property
    def request_id(self) -> bytes | None: ...
    @property
    def is_kept(self) -> bool: ...
    @property
    def server(self) -> tuple[str, int | None] | None: ...
    @property
    def headers(self) -> dict[bytes, bytes] | None: ...
    @property
    def duration(self) -> float:
        """float: seconds from the head's arrival until the response was complete."""

class Engine:
    """One pollable descriptor that serves an application: watch `fileno()` for reading, call `step()` when it is ready.

    table:       ConnectionTable that holds the connections; one engine each.
    application: AsgiApplication, WsgiApplication or HandlerApplication.
    limits:      Limits of requests.
    on_race:     called as on_race(address, cause) when a request crossed our close of an idle connection and was lost:
                 the client's packed address (None on a unix socket), and why it was closed. None: not wanted.
    access_log:  called with an AccessEntry for each request that is over. None: costs nothing.
    on_closed:   called as on_closed(address, cause, phase, requests) for each connection that ends. None: the same.
    on_notice:   called as on_notice("descriptors") when no descriptor was left for a new connection; at most once in
                 ten seconds.
    call_soon:   loop.call_soon of the host's loop: output of a response in progress is gathered until the end of a
                 round of the loop. None: it is sent at once.
    Belongs to one thread and one process; `wake()` alone may be called from other threads. Linux only.
    """
    @property
    def table(self) -> ConnectionTable: ...
    def __init__(
        self,
        table: ConnectionTable,
        application: Application,
        *,
        limits: Limits | None = None,
        max_buffer_bytes: int = 67108864,
        call_soon: Callable[[Callable[[], object]], object] | None = None,
        server_name: str = "kacore",
        on_race: Callable[[bytes | None, str], object] | None = None,
        access_log: Callable[[AccessEntry], object] | None = None,
        on_closed: Callable[[tuple[str, int] | None, str, str, int], object] | None = None,
        on_notice: Callable[[str], object] | None = None,
    ) -> None: ...
    def make_request_ids(self, field: str) -> None:
        """Have each request carry an id in this field, and its response as well, unless the application sets it: that of a
        trusted proxy, or one that is made here. Once, before the first connection. ValueError for what is no name of a field.
        """
    def set_fields(self, lines: bytes, *, date: bool = True) -> None:
        """Fields of every response besides the application's, in place of those of before.

        lines: what field_lines() made. date: whether responses have Date. MemoryError.
        """
    def serve_http2(self, *, max_streams: int = 128, window: int = 65_535, max_window: int = 1 << 20) -> None: ...
    def http2_open(self) -> dict[str, int] | None:
        """dict: open connections that speak HTTP/2, and open requests on them (streams). None: it is not served."""
    def share(self) -> None:
        """Once in a while, from the loop: whoever shares the table's counters sees that it turns, and how things stand."""
    def set_classes(self, policies: Policy | PolicySet | None) -> None: ...
    def trust(self, networks: Iterable[str], *, proxy_protocol: bool = False, fields: bool = True) -> None: ...
    def connections(self, limit: int = 1000) -> list[dict[str, Any]]: ...
    def fileno(self) -> int:
        """The descriptor to watch for reading."""
    def listen(
        self, sock: socket, *, policy_class: int = 0, knows_clients: bool | None = None, tls: Any = None
    ) -> None:
        """Serve a listening, non-blocking socket; kept until stop_listening(). policy_class: class of its connections in the
        table. knows_clients: whether its addresses name clients; default: not for unix sockets. tls: an object whose
        `context` is the ssl.SSLContext for connections from now on, with `describe` as kacore.TLS has it. OSError.
        """
    def unlisten(self, sock: socket, *, is_last: bool = True) -> None:
        """Listen on this socket no longer. It stays open, and may be listened on again.

        is_last: nobody else accepts from it, so that whoever waits in its queue is taken in first.
        """
    def give_away_quiet(self) -> list[tuple[int, tuple[str, int | None]]]:
        """Give away the sockets of connections on which nothing is going on: for another process, see `adopt`. Those over
        TLS stay, since a socket carries no session.

        Return: list of (descriptor, (host, port) or (path, None) of the listener); the descriptors are the caller's.
        """
    def adopt(self, fd: int, where: tuple[str, int | None]) -> None:
        """Serve a connection that another process gave away, as if it had come through the listener at `where`, of those
        that are listened on; the descriptor is the engine's from now on. Raises OSError when the client is gone, LocalError
        when there is no such listener or it speaks TLS; then the descriptor is still the caller's.
        """
    def stop_listening(self) -> None:
        """Accept what waits in the queues, then no more. The sockets stay open; they are the caller's."""
    def step(self) -> int:
        """One bounded pass: what arrived, then what expired, then who wants in. Never blocks.

        Return: int, number of events; 0 = nothing is ready. Raises OSError, and what the application raised to end
        the process (SystemExit, KeyboardInterrupt). LocalError from within a step.
        """
    def watch_host(self, fd: int) -> None:
        """Have wait_for_loop() wait for this descriptor, too, until it is closed. OSError."""
    def wait_for_loop(
        self,
        loop: AbstractEventLoop,
        select: Callable[[float | None], list[Any]],
        step: Callable[[], object] | None,
        timeout: float | None = None,
    ) -> list[Any]:
        """In place of the select() of an asyncio loop's selector, whose own descriptor watch_host() knows: wait for both,
        step when there is something to do, and again, until the loop has something to do: a callback, a new timer, a
        descriptor that is ready, a signal; or `timeout` is over. What is answered at once costs nothing of the loop's.

        select: of the loop's own descriptors. step: called in place of step(), unless None.
        Return: what select() does, or an empty list. Raises OSError, and what the application raised to end the process;
        anything else that a step raises goes to the loop's exception handler.
        """
    def attend_now(self) -> None:
        """Send what responses in progress have produced."""
    def wake(self) -> None:
        """Have a step taken soon. May be called from any thread."""
    def when_drained(self, call: Callable[[], object]) -> None: ...
    def drain(self, *, grace: float = 2.0, spread: float = 1.0, timeout: float = 30.0) -> None:
        """Start to end gracefully: every response says `Connection: close`; idle connections stay answerable for
        `grace` seconds and are closed spread over `spread`; what is left at `timeout` is closed.
        """
    def close(self) -> None:
        """Close every connection and the engine's descriptors. Idempotent. From within whatever the engine calls: at the end
        of the step, behind what responses have produced; other calls say that it is closed from now on.
        """
    def stats(self) -> dict[str, int]:
        """dict of what the engine itself counts: steps, events, system calls, buffers."""

# transport_protocol.pxi and hosted.pxi

has_epoll: bool
HTTP2: bool
MAX_WAITING: int

class TransportProtocol:
    """One connection: an asyncio.Protocol. Made by the host for each, with the Transports it belongs to.

    It is an asyncio.BufferedProtocol as well: a loop that calls get_buffer() reads no more than is wanted, into memory that
    all connections share. (asyncio asks a protocol by its class: derive from both.)

    policy_class: its class in the table, unless rules are asked. listener: what Transports.add_listener() gave; -1: the
    host's own, whose TLS is the loop's.
    """
    @property
    def transports(self) -> Transports: ...
    @property
    def transport(self) -> Any: ...
    @property
    def conn(self) -> int: ...
    def __init__(self, transports: Transports, policy_class: int = 0, listener: int = -1) -> None: ...
    def connection_made(self, transport: Any) -> None:
        """asyncio.Protocol."""
    def data_received(self, data: Buffer) -> None:
        """asyncio.Protocol."""
    def get_buffer(self, sizehint: int) -> memoryview:
        """asyncio.BufferedProtocol: where the loop is to put what it reads, and how much at most."""
    def buffer_updated(self, nbytes: int) -> None:
        """asyncio.BufferedProtocol: it has read so many bytes."""
    def eof_received(self) -> bool | None:
        """asyncio.Protocol. True: the connection is ours to close, and answers still go out."""
    def connection_lost(self, error: BaseException | None) -> None:
        """asyncio.Protocol."""
    def pause_writing(self) -> None:
        """asyncio.Protocol."""
    def resume_writing(self) -> None:
        """asyncio.Protocol."""
    def closed(self, cause: str) -> int:
        """It has left the table: for hosts that keep count. cause: a key of ConnectionTable.stats()["closed"]."""

class Transports:
    """Serves an application over the transports of one event loop.

    table:       ConnectionTable that holds the connections; one Transports each.
    application: AsgiApplication, WsgiApplication or HandlerApplication.
    loop:        what has call_later(); call_soon(), time() and call_soon_threadsafe() are used if it has them.
                 Without time() the monotonic clock is read, and a timer that fires is taken to fire in time.
    limits, max_buffer_bytes, server_name, access_log, on_closed, on_race: as for Engine.
    context:     contextvars.Context of which each request gets a copy. None: that of whoever makes this object.
    Give each connection a TransportProtocol(transports). Belongs to the loop's thread; wake() may be called from others.
    """
    @property
    def table(self) -> ConnectionTable: ...
    @property
    def loop(self) -> Any: ...
    @property
    def n_requests(self) -> int:
        """int: request heads seen on all connections so far."""
    def __new__(
        cls,
        table: ConnectionTable,
        application: Application,
        loop: Any,
        *,
        limits: Limits | None = None,
        max_buffer_bytes: int = 67108864,
        server_name: str = "kacore",
        access_log: Callable[[AccessEntry], object] | None = None,
        on_closed: Callable[[tuple[str, int] | None, str, str, int], object] | None = None,
        on_race: Callable[[bytes | None, str], object] | None = None,
        context: Context | None = None,
    ) -> Self: ...
    def add_listener(self, name: tuple[str, int | None], tls: Any = None) -> int:
        """int: what connections of one listener are made with, TransportProtocol(listener=). name: (host, port), or
        (path, None). tls: as for Engine.listen(); the loop's own TLS then has no part in it. MemoryError.
        """
    def make_request_ids(self, field: str) -> None:
        """Have each request carry an id in this field, and its response as well, unless the application sets it: that of a
        trusted proxy, or one that is made here. Once, before the first connection. ValueError for what is no name of a field.
        """
    def set_fields(self, lines: bytes, *, date: bool = True) -> None:
        """As Engine.set_fields()."""
    def serve_http2(self, *, max_streams: int = 128, window: int = 65_535, max_window: int = 1 << 20) -> None: ...
    def http2_open(self) -> dict[str, int] | None:
        """dict: open connections that speak HTTP/2, and open requests on them (streams). None: it is not served."""
    def share(self) -> None:
        """Once in a while, from the loop: whoever shares the table's counters sees that it turns, and how things stand."""
    def set_classes(self, policies: Policy | PolicySet | None) -> None: ...
    def trust(self, networks: Iterable[str], *, proxy_protocol: bool = False, fields: bool = True) -> None: ...
    def connections(self, limit: int = 1000) -> list[dict[str, Any]]: ...
    def passed(self) -> int:
        """A pass is over: for hosts that keep count."""
    def wake(self) -> None:
        """Have the application's threads heard soon. May be called from any thread."""
    def when_drained(self, call: Callable[[], object]) -> None: ...
    def drain(self, *, grace: float = 2.0, spread: float = 1.0, timeout: float = 30.0) -> None:
        """As Engine.drain()."""
    def close(self) -> None:
        """Close every connection, and the timer. Idempotent. From within whatever this calls: when that is over."""
    def stats(self) -> dict[str, int]:
        """dict: passes made; newcomers that wait for a place; bytes of buffers in use, how often one was refused, and
        conversations with something pending.
        """

class ProtocolApplication(HandlerApplication):
    """Asks the connection's protocol: its handle(head, body) is the handler."""
    def __init__(self, loop: Any, logger: Any) -> None: ...

class HostedAsgiApplication(AsgiApplication):
    """AsgiApplication for a host that has tasks and upgrades of its own.

    tasks, make_task: see HostRunner. scope: what every scope says besides, or instead.
    root_path: in front of path and of raw_path, too.
    upgrade: called with (protocol, Head) for a request that asks for an upgrade. Return: None to serve it as any other,
             or callable(transport, bytes), which gets the connection and the bytes that came behind that head.
    """
    def __init__(
        self,
        app: Any,
        loop: Any,
        logger: Any,
        *,
        tasks: set[Any] | None = None,
        make_task: Callable[[Coroutine[Any, Any, None]], Any] | None = None,
        upgrade: Callable[[Any, Head], Callable[[Any, bytes], None] | None] | None = None,
        scope: dict[str, Any] | None = None,
        **options: Any,
    ) -> None: ...

class HostedWsgiApplication(WsgiApplication):
    """WsgiApplication for a host that says below which path it stands: that is SCRIPT_NAME, and no part of PATH_INFO.

    script_name: that path, without "/" at its end. is_told: clients that are trusted may name another in a field that is
    called SCRIPT_NAME. A request for any other path is logged and answered 500.
    """
    def __init__(
        self,
        app: Any,
        logger: Any,
        waker: Callable[[], None] | None = None,
        *,
        is_told: bool = False,
        **options: Any,
    ) -> None: ...

# Counters in memory that several processes share, and the end of a listener.

COUNTERS_BYTES: int

def sum_counters(buffers: Iterable[Buffer]) -> dict[str, Any]:
    """The counters of several tables, each in a buffer of COUNTERS_BYTES, added up: a dict as ConnectionTable.stats()
    has them, with `open` connections in place of the phases, and under "engine" what their engines count. They may be
    counting meanwhile. Cost: about 10 us.
    """
def read_gauges(buffer: Buffer) -> dict[str, Any] | None:
    """How things stand in the process that counts in this buffer of COUNTERS_BYTES: a dict of its pid, its state (starting,
    serving, leaving), heard (seconds since its loop last turned), phases, max (connections), buffer_bytes, max_buffer_bytes
    and http2 (open connections and streams). None: there is no process.
    """
def settle_counters(buffer: Buffer, cause: str = "error") -> int:
    """The process that counted in this buffer has exited: count what it had open as closed by `cause`. Return: how many."""
def field_lines(headers: Iterable[tuple[str | bytes, str | bytes]], *, has_server: bool = False) -> bytes:
    """bytes: field lines for set_fields of Engine and Transports, of pairs (name, value) of str or bytes; 8 KiB at most.

    has_server: Server may be among them, also twice; for a driver whose server_name is "".
    Raises ValueError for a field that may not be one, or that is the server's own to write.
    """
def make_policies_by(make: Callable[..., Policy]) -> None:
    """kacore.Policy, or what is to take its place in ConnectionTable(keep_alive_timeout=5)."""
def refuse_new_connections(fd: int) -> None:
    """Let no new client begin a handshake with this listening TCP socket; those in the middle of one get through.

    For the end of a server: accept what waits, then close. What comes later is refused, not reset. OSError.
    """
def return_large_blocks() -> None:
    """Have the C library give blocks of 4 MiB and more back to the system when they are freed, for the whole process.

    glibc raises its own threshold to the largest block that was ever freed, up to 32 MiB, and keeps twice as much at the
    end of its heap: after one response of 20 MB these 20 MB stay. What the environment says of it (MALLOC_*_,
    GLIBC_TUNABLES) comes first. Nothing where there is no glibc.
    """
