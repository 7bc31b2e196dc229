"""`Policy`: every number that says how long a connection may take, how much it may ask, and when it must go.

Immutable and checked when made, so that nobody downstream checks again. Knows no file, no environment and no
other server's configuration; those make a Policy and stand beside this file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from kacore.config.fields import Field, Record, field, show
from kacore.errors import ConfigError, PolicyError
from kacore.policy.fields import REQUEST, WORKER, PolicyField
from kacore.policy.headers import persistence_fields

if TYPE_CHECKING:
    from typing import Self, Unpack

    from kacore._core import Limits
    from kacore.policy.keywords import PolicyFields

# What a worker needs descriptors for besides its connections: listeners, the epoll set, timers, logs, files
# and the application's own connections.
SPARE_DESCRIPTORS = 64


def default_max_connections() -> int:
    """min(10000, hard limit of descriptors - 64), at least 1: a server raises its soft limit to what it needs."""
    try:
        import resource
    except ImportError:  # no such limit on this platform
        return 10_000
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return 10_000
    return max(1, min(10_000, hard - SPARE_DESCRIPTORS))


class Policy(Record):
    """What a connection is allowed. Immutable; compares and hashes by value; costs about 10 us to make.

    Every field is a keyword argument with a default; docs/policy.md says for each its unit, its default and
    the reason for it. Times are seconds, sizes bytes. A wrong value or an impossible combination raises
    PolicyError, a ValueError that names the field, the value and the rule; an unknown field is a TypeError.
    `replace(...)` makes a changed one, `as_dict()` gives all values, `changes()` those that are not defaults.
    """

    __field__: ClassVar[type[Field]] = PolicyField
    __error__: ClassVar[type[ConfigError]] = PolicyError
    __fields__: ClassVar[Mapping[str, PolicyField]]

    if TYPE_CHECKING:

        def replace(self, **changes: Unpack[PolicyFields]) -> Self:  # type: ignore[override]
            """As of Record."""

    # -- keeping -----------------------------------------------------------------------------------------

    keep_alive: bool = field(
        bool,
        default=True,
        scope=REQUEST,
        doc="Whether a connection is kept after a response at all.",
        reason="An idle connection costs about a hundred bytes here; a new one costs the client a round trip or three.",
        apache="KeepAlive",
        nginx="keepalive_timeout 0 (off)",
        haproxy="option http-keep-alive / httpclose",
    )
    keep_alive_timeout: float | Literal["auto"] = field(
        float,
        "s",
        default="auto",
        is_open=True,
        words=("auto",),
        scope=REQUEST,
        is_common=True,
        doc="How long a kept connection may stay idle. Counted from the moment the response is with the kernel; then it is"
        " closed. `auto`: longer than the client's network has shown to keep it, from keep_alive_min to keep_alive_max.",
        reason="Nobody knows all timeouts in front of a service, and an idle connection costs next to nothing: when the"
        " worker is full the least useful one makes room at once. See docs/timeouts.md.",
        hint="to close after every response set keep_alive to false",
        apache="KeepAliveTimeout",
        nginx="keepalive_timeout",
        haproxy="timeout http-keep-alive",
    )
    keep_alive_min: float = field(
        float,
        "s",
        default=75.0,
        is_open=True,
        scope=WORKER,
        doc="What keep_alive_timeout = auto begins with, and never goes below while there is room.",
        reason="Longer than the 60 s that common load balancers keep idle connections, so that they close first and no"
        " request crosses our close.",
    )
    keep_alive_max: float = field(
        float,
        "s",
        default=3900.0,
        is_open=True,
        scope=WORKER,
        doc="What keep_alive_timeout = auto never goes above.",
        reason="Longer than the hour of Envoy, the longest of the known ones.",
    )
    max_keep_alive_requests: int = field(
        int,
        "responses",
        default=0,
        zero="no limit",
        scope=REQUEST,
        doc="How many responses one connection gets; the last one says Connection: close.",
        reason="A count closes the busiest connections, which are the useful ones; age is bounded by"
        " max_connection_age.",
        apache="MaxKeepAliveRequests (100 gives 101 responses there)",
        nginx="keepalive_requests",
    )
    advertise: bool = field(
        bool,
        default=True,
        scope=REQUEST,
        doc="Whether responses of HTTP/1 carry Keep-Alive: timeout=, max= (with Connection: keep-alive).",
        reason="A client that knows when we close does not send its next request into our close.",
        apache="sent to clients that ask for keep-alive",
        nginx="keepalive_timeout, second parameter",
    )
    advertise_margin: float = field(
        float,
        "s",
        default=1.0,
        doc="The advertised timeout is this much shorter than the current one, rounded down to whole"
        " seconds; below 1 s no Keep-Alive field is sent.",
        reason="A request takes time to travel: a client that obeys stops using the connection before we close it.",
    )
    max_connection_age: float = field(
        float,
        "s",
        default=3600.0,
        zero="no limit",
        doc="Age from which on the next response says Connection: close. Never a silent close.",
        reason="Lets load spread over new workers and new addresses after a deployment.",
        nginx="keepalive_time",
    )
    age_jitter: float = field(
        float,
        "fraction",
        default=0.1,
        high=0.9,
        doc="The age limit of a connection is drawn evenly from max_connection_age +- this fraction of it,"
        " fixed for a connection.",
        reason="Clients that came together (after a restart) do not all come back together an hour later.",
    )

    # -- deadlines ---------------------------------------------------------------------------------------

    handshake_timeout: float = field(
        float,
        "s",
        default=10.0,
        zero="no limit",
        doc="Total time for the TLS handshake.",
        reason="Two round trips and one signature; ten seconds are plenty on the worst of lines.",
        apache="RequestReadTimeout handshake=",
        nginx="client_header_timeout",
        haproxy="timeout client",
    )
    first_byte_timeout: float = field(
        float,
        "s",
        default=30.0,
        zero="no limit",
        doc="Time from accept (or from the end of the handshake) to the first byte of the first request."
        " Closed without an answer.",
        reason="Browsers open connections ahead of need and use them within seconds.",
        apache="RequestReadTimeout header=",
        nginx="client_header_timeout",
        haproxy="timeout http-request",
    )
    request_header_timeout: float = field(
        float,
        "s",
        default=20.0,
        zero="no limit",
        doc="Total time for a request head, from its first byte; bytes do not restart it. Then 408.",
        reason="A head fits into a few packets; whoever needs longer than 20 s is broken or hostile. Apache's figure.",
        apache="RequestReadTimeout header=",
        nginx="client_header_timeout",
        haproxy="timeout http-request",
    )
    request_body_timeout: float = field(
        float,
        "s",
        default=30.0,
        zero="no limit",
        scope=REQUEST,
        doc="Longest gap between two pieces of a request body while the application waits for it. Then 408.",
        reason="Covers a phone that changes cells; a silent upload holds the application no longer than that.",
        apache="TimeOut",
        nginx="client_body_timeout",
        haproxy="timeout client",
    )
    min_request_body_rate: int = field(
        int,
        "B/s",
        default=240,
        zero="no limit",
        scope=REQUEST,
        doc="Lowest average rate of a request body over a rate_window while the application waits for it. Then 408.",
        reason="A gap alone lets one byte every 29 s hold a place for ever. 240 B/s is below a bad mobile line.",
        apache="RequestReadTimeout body=...,MinRate=",
    )
    send_timeout: float = field(
        float,
        "s",
        default=60.0,
        zero="no limit",
        doc="Longest gap without progress while the client must take bytes of a response, or of an upgraded"
        " connection. Progress is bytes leaving the kernel's send queue.",
        reason="A reader that pauses a video for a moment is served; one that vanished is not waited for.",
        apache="TimeOut",
        nginx="send_timeout",
        haproxy="timeout client",
    )
    min_send_rate: int = field(
        int,
        "B/s",
        default=240,
        zero="no limit",
        doc="Lowest average rate over a rate_window at which the client must take a response it holds up.",
        reason="The same trickle in the other direction.",
    )
    rate_window: float = field(
        float,
        "s",
        default=5.0,
        is_open=True,
        doc="Length of the windows over which rates are judged; also the grace before the first verdict.",
        reason="Long enough for a lost packet to be sent again, short enough to notice a trickle soon.",
        apache="RequestReadTimeout (the lower of its two times)",
    )
    handler_timeout: float = field(
        float,
        "s",
        default=0.0,
        zero="no limit",
        scope=REQUEST,
        is_common=True,
        doc="Time for the application's whole response. Then it is cancelled, and 503 is answered if no byte of a response"
        " has left.",
        reason="Off: only the application's author knows how long is too long.",
        apache="ProxyTimeout",
        nginx="proxy_read_timeout",
        haproxy="timeout server",
    )
    linger_timeout: float = field(
        float,
        "s",
        default=2.0,
        is_open=True,
        high=60.0,
        doc="After our FIN, what the client still sends is read and thrown away until its own FIN, or until"
        " nothing has come for this long.",
        reason="A plain close() with unread input resets the connection, and the reset can destroy the"
        " answer on its way. Apache's figure.",
        apache="2 s, fixed",
        nginx="lingering_timeout",
        haproxy="timeout client-fin",
    )
    linger_time: float = field(
        float,
        "s",
        default=30.0,
        is_open=True,
        high=3600.0,
        doc="How long that goes on in all, however much still comes; judged when bytes come.",
        reason="An upload that is refused at its beginning goes on for a while before the client reads why; a"
        " lingering connection holds no memory, and goes first when room is needed. Apache's and nginx's figure.",
        apache="30 s, fixed",
        nginx="lingering_time",
    )
    linger_bytes: int = field(
        int,
        "bytes",
        default=0,
        zero="no limit",
        doc="How many bytes are thrown away after our FIN at most.",
        reason="Off: a client cut off while it sends cannot read the answer, so the time is what is limited.",
    )

    # -- capacity ----------------------------------------------------------------------------------------

    max_connections: int = field(
        int,
        "connections",
        default_factory=default_max_connections,
        default_text="min(10000, hard descriptor limit - 64)",
        low=1,
        high=16_777_216,
        scope=WORKER,
        is_common=True,
        doc="Connections open at once in a worker. When all are taken, room is made: see the order of eviction below.",
        reason="The descriptor limit is the wall, and a server raises the soft one as far as it needs; 64 stay free for"
        " files, logs and the application. Fixed when the policy is made.",
        apache="MaxRequestWorkers, ThreadsPerChild, AsyncRequestWorkerFactor",
        nginx="worker_connections",
        haproxy="maxconn",
    )
    max_connections_per_client: int = field(
        int,
        "connections",
        default=0,
        high=16_777_216,
        zero="no limit",
        scope=WORKER,
        doc="Connections one client may hold. Unix sockets and trusted proxies are no clients.",
        reason="Off: many people can stand behind one address; client_share already sees to it that such a"
        " client pays with its own connections when room is needed.",
        apache="QS_SrvMaxConnPerIP (mod_qos)",
        nginx="limit_conn",
        haproxy="stick-table conn_cur",
    )
    client_prefix_v4: int = field(
        int,
        "bits",
        default=32,
        high=32,
        scope=WORKER,
        low=1,
        doc="Leading bits of an IPv4 address that make one client.",
        reason="An address is a client, or a household.",
        nginx="limit_conn_zone (by its key)",
        haproxy="stick on src,ipmask()",
    )
    client_prefix_v6: int = field(
        int,
        "bits",
        default=64,
        high=128,
        low=1,
        scope=WORKER,
        doc="Leading bits of an IPv6 address that make one client.",
        reason="A subscriber gets a /64 at least, and may use all 2^64 addresses of it.",
        nginx="limit_conn_zone (by its key)",
        haproxy="stick on src,ipmask()",
    )
    client_share: float = field(
        float,
        "fraction",
        default=0.25,
        high=1.0,
        is_open=True,
        scope=WORKER,
        doc="Share of max_connections that one client's idle connections may take before its own go first"
        " when room is needed.",
        reason="Whoever fills the house makes room, not the others.",
    )
    min_idle_before_evict: float = field(
        float,
        "s",
        default=0.0,
        scope=WORKER,
        doc="When room is needed, connections that have been idle this long are preferred. No veto: if there"
        " are none, younger ones go.",
        reason="The longest idle one goes first anyhow.",
        nginx="keepalive_min_timeout",
    )
    min_rate_when_full: int = field(
        int,
        "B/s",
        default=4096,
        zero="such connections are never closed for room",
        scope=WORKER,
        doc="When room is needed and nobody else can go, a connection whose request body or response moved less than"
        " this over a rate_window makes it.",
        reason="Rates are low limits, for bad lines; but as many clients at such a rate as there are places would keep"
        " everybody out. A good mobile line moves ten times as much.",
    )
    max_buffer_bytes: int = field(
        int,
        "bytes",
        default=64 << 20,
        low=65_536,
        high=1 << 50,
        scope=WORKER,
        doc="Memory of a worker for what clients send and what they have not taken: unfinished heads, requests sent ahead,"
        " content that is collected, responses that wait. What they send may take three quarters of it. Near the limit"
        " whoever has sent most ahead goes first.",
        reason="A thousand clients with the largest head each; an idle connection holds none of it.",
    )
    max_response_buffer: int = field(
        int,
        "bytes",
        default=16 << 20,
        high=1 << 50,
        zero="nothing",
        scope=WORKER,
        doc="WSGI in threads: how far the application may be ahead of its client in one response, in memory at first and"
        " then in a temporary file. Beyond it the thread waits.",
        reason="A thread is free when its application is done, not when its client is. nginx buffers responses the same"
        " way; most of them are far below this.",
        nginx="proxy_buffers, proxy_max_temp_file_size",
    )
    pressure_start: float = field(
        float,
        "fraction",
        default=0.85,
        high=1.0,
        scope=WORKER,
        doc="Share of max_connections above which idle connections under keep_alive_timeout = auto are no longer all kept for"
        " keep_alive_max.",
        reason="Below it there is room for everybody, and whoever comes back finds the connection open. Envoy's figure.",
    )
    pressure_full: float = field(
        float,
        "fraction",
        default=0.95,
        high=1.0,
        is_open=True,
        scope=WORKER,
        doc="Share of max_connections at which they are kept for what their network has shown, in a straight line."
        " Timeouts never fall below that: beyond it the longest idle goes.",
        reason="Leaves the last twentieth for bursts. Envoy's figure.",
    )
    when_full: str = field(
        str,
        default="wait",
        choices=("wait", "reject"),
        scope=WORKER,
        doc="When every place is taken and nobody can be closed: `wait` leaves new connections in the"
        " kernel's backlog, `reject` answers 503 with Retry-After.",
        reason="A place is usually free within milliseconds; behind a load balancer that retries elsewhere, reject.",
        apache="wait (ListenBackLog)",
        nginx="wait",
        haproxy="wait",
    )
    retry_after: int = field(
        int,
        "s",
        default=1,
        low=1,
        high=86_400,
        scope=WORKER,
        doc="Retry-After of the 503 that when_full=reject answers.",
        reason="The smallest wait that the field can name.",
    )

    # -- limits of a request -----------------------------------------------------------------------------

    max_head_bytes: int = field(
        int,
        "bytes",
        default=32_768,
        low=64,
        high=16_777_216,
        doc="Request line and fields together. Then 431.",
        reason="Room for large cookies, and for what proxies add. As much as nginx takes.",
        nginx="large_client_header_buffers",
        haproxy="tune.bufsize",
    )
    max_target_bytes: int = field(
        int,
        "bytes",
        default=8192,
        low=1,
        high=16_777_216,
        doc="The request target. Then 414.",
        reason="RFC 9112 section 3 asks for 8000 at least.",
        apache="LimitRequestLine",
        nginx="large_client_header_buffers (one of them)",
    )
    max_headers: int = field(
        int,
        "fields",
        default=100,
        low=1,
        high=1024,
        doc="Field lines of a head. Then 431.",
        reason="Browsers send about 15, chains of proxies 40. Apache's figure.",
        apache="LimitRequestFields",
        nginx="max_headers",
        haproxy="tune.http.maxhdr",
    )
    max_header_bytes: int = field(
        int,
        "bytes",
        default=16384,
        low=16,
        high=16_777_216,
        doc="One field line. Then 431.",
        reason="A large cookie or token fits; Apache and nginx stop at half of it.",
        apache="LimitRequestFieldSize",
        nginx="large_client_header_buffers (one of them)",
    )
    max_chunk_line_bytes: int = field(
        int,
        "bytes",
        default=256,
        low=16,
        high=65_536,
        doc="Size and extensions of one chunk. Then 400.",
        reason="Nobody sends extensions; unlimited ones are a way to send without sending (RFC 9112 section 7.1.1).",
    )
    max_trailer_bytes: int = field(
        int,
        "bytes",
        default=4096,
        high=16_777_216,
        doc="The whole trailer section. Then 431.",
        reason="Trailers carry a checksum or a status.",
        apache="LimitRequestFieldSize",
    )
    max_body_bytes: int = field(
        int,
        "bytes",
        default=1 << 30,
        high=(1 << 63) - 1,
        zero="no limit",
        scope=REQUEST,
        is_common=True,
        doc="Content of one request. Then 413.",
        reason="Bodies are streamed, so size alone harms nobody; a limit still ends what has no end. Apache's figure.",
        apache="LimitRequestBody",
        nginx="client_max_body_size",
    )

    # -- going away --------------------------------------------------------------------------------------

    drain_lame_duck: float = field(
        float,
        "s",
        default=0.0,
        scope=WORKER,
        aliases=("--lame-duck",),
        doc="After SIGTERM, how long the worker says it is not ready while it still accepts.",
        reason="For load balancers that ask; without one it is time lost.",
        haproxy="grace",
    )
    drain_grace: float = field(
        float,
        "s",
        default=2.0,
        scope=WORKER,
        doc="After SIGTERM, how long idle connections stay answerable; their next response says Connection:"
        " close. SIGINT: 0.2 s at most.",
        reason="A request that is already under way on an idle connection is answered instead of lost.",
        nginx="keepalive_min_timeout",
    )
    drain_spread: float = field(
        float,
        "s",
        default=1.0,
        scope=WORKER,
        doc="Idle connections are closed spread over this long after the grace. SIGINT: none.",
        reason="The clients do not all reconnect in the same instant.",
        haproxy="close-spread-time",
    )
    drain_timeout: float = field(
        float,
        "s",
        default=25.0,
        scope=WORKER,
        zero="it ends at once",
        is_common=True,
        doc="How long a drain may take. Then it ends, whatever is still open; this also cuts grace and spread short.",
        reason="Process managers kill after 30 s (Kubernetes) or later; the application's shutdown comes after the drain.",
        apache="GracefulShutdownTimeout",
        nginx="worker_shutdown_timeout",
        haproxy="hard-stop-after",
    )

    # -- combinations ---------------------------------------------------------------------------------------

    def clashes(self) -> Iterator[ConfigError]:
        """As of Record."""
        if self.keep_alive_min > self.keep_alive_max:
            yield clash(self, "keep_alive_min", "keep_alive_max", "must not be above it")
        if self.pressure_start > self.pressure_full:
            yield clash(self, "pressure_start", "pressure_full", "must not be above it")
        if self.max_connections_per_client > self.max_connections:
            yield clash(self, "max_connections_per_client", "max_connections", "could never be reached")
        if self.max_head_bytes > self.max_buffer_bytes // 2:
            yield clash(self, "max_head_bytes", "max_buffer_bytes", "a head may take half of it at most")
        if self.min_request_body_rate and not self.request_body_timeout:
            yield clash(self, "min_request_body_rate", "request_body_timeout", RATE_NEEDS_GAP)
        if self.min_send_rate and not self.send_timeout:
            yield clash(self, "min_send_rate", "send_timeout", RATE_NEEDS_GAP)

    # -- what it says, and where it comes from --------------------------------------------------------------

    def response_fields(
        self, *, http_version: str = "1.1", responses: int = 1, timeout: float | None = None
    ) -> list[tuple[bytes, bytes]]:
        """What a response says about persistence: (lower-case name, value) pairs for a host without a table.

        http_version: of the request, "1.0", "1.1", "2" or "3". From HTTP/2 on there are none: persistence is
                      the default there and such fields make a message malformed (RFC 9113 section 8.2.2).
        responses:    how many responses the connection has had, this one included; the one that reaches
                      max_keep_alive_requests says close.
        timeout:      the current keep-alive timeout in seconds, where it is not least_keep_alive.
        ValueError for another version or responses < 1. About 1 us.
        """
        limit = self.max_keep_alive_requests if self.keep_alive else 1
        current = self.least_keep_alive if timeout is None else timeout
        return persistence_fields(http_version, responses, limit, current - self.advertise_margin if self.advertise else 0)

    @property
    def least_keep_alive(self) -> float:
        """Seconds that a kept connection may stay idle at least, while there is room: keep_alive_timeout, or keep_alive_min
        where that is "auto"."""
        return self.keep_alive_min if isinstance(self.keep_alive_timeout, str) else self.keep_alive_timeout

    def worst_case_bytes(self, *, tls: bool = False) -> int:
        """int, bytes: what clients can make one worker hold in memory, all of them together, at the very worst.

        That is max_buffer_bytes, and for each of max_connections its place and a request in progress whose head is as
        large as it may be; with `tls` a session each. What the application itself holds of a request or a response is
        not in it, nor are temporary files and the kernel's buffers. Source: docs/capacity.md.
        """
        request = PLACE_BYTES + self.max_head_bytes + self.max_headers * FIELD_BYTES
        return self.max_buffer_bytes + self.max_connections * (request + (TLS_BYTES if tls else 0))

    def limits(self) -> Limits:
        """The limits of a request, for `parse_head` and `RequestParser`."""
        from kacore._core import Limits

        no_limit = int(self.__fields__["max_body_bytes"].high)
        return Limits(
            max_head_bytes=self.max_head_bytes,
            max_target_bytes=self.max_target_bytes,
            max_headers=self.max_headers,
            max_header_bytes=self.max_header_bytes,
            max_chunk_line_bytes=self.max_chunk_line_bytes,
            max_trailer_bytes=self.max_trailer_bytes,
            max_body_bytes=self.max_body_bytes or no_limit,
        )


# Of worst_case_bytes. A slot, a socket, a client's record, a conversation, the objects of a request without its head; the
# two objects of a field besides their bytes; a session with buffers of a record each way.
PLACE_BYTES = 4096
FIELD_BYTES = 160
TLS_BYTES = 49_152

# A rate is judged when bytes move; without a gap nothing would ever happen to who sends none.
RATE_NEEDS_GAP = "only the gap catches who is silent; set both to 0 for no limit"


def clash(policy: Policy, name: str, other: str, rule: str) -> PolicyError:
    value, limit = show(getattr(policy, name)), show(getattr(policy, other))
    return PolicyError(f"{name}={value} does not go with {other}={limit}: {rule}", name)
