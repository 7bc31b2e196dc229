# ConnectionTable: ka_conn for Python, for hosts that keep their own sockets. Connections are integers here too.
# Each method checks its arguments, calls C once and turns a refusal into an exception out of line.
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from libc.math cimport nextafter
from libc.stdint cimport INT64_MIN
from libc.string cimport memcmp, memcpy, strlen

from os import getpid, urandom

cdef extern from "arpa/inet.h" nogil:
    enum:
        AF_INET
        AF_INET6
    int inet_pton(int family, const char *text, void *addr)
    const char *inet_ntop(int family, const void *address, char *to, uint32_t size)


cdef tuple ACTIONS = ("", "close", "answer_408", "answer_503", "half_close", "goaway")


# ---- seconds ----

cdef int64_t refuse_time(double now) except? -1:
    raise ValueError(f"now={now!r}: must be a finite number of seconds, at most 9e9")


cdef inline int64_t start_ns(double now) except? -1:
    """When something began: rounded up, so that it never ends early."""
    cdef double ns = now * 1e9
    if not -9e18 <= ns <= 9e18:
        return refuse_time(now)
    cdef int64_t whole = <int64_t>ns
    return whole + (whole < ns)


cdef inline int64_t until_ns(double now) except? -1:
    """What time it is, for judging what is over: rounded down."""
    cdef double ns = now * 1e9
    if not -9e18 <= ns <= 9e18:
        return refuse_time(now)
    cdef int64_t whole = <int64_t>ns
    return whole - (whole > ns)


cdef double seconds_from(int64_t ns):
    """The first float that until_ns turns into this time or a later one."""
    cdef double now = ns / 1e9
    while until_ns(now) < ns:
        now = nextafter(now, 1e300)
    return now


# ---- arguments ----

cdef int read_client(object client, ka_client *out) except -1:
    """Who is at the other end: None or "", packed or written address, or the tuple getpeername() gives."""
    cdef bytes text
    memset(out, 0, sizeof(ka_client))
    if isinstance(client, tuple):
        client = client[0] if client else None
    if client is None or client == "" or client == b"":
        return 0
    if isinstance(client, bytes):
        if len(client) == 4 or len(client) == 16:
            out.family = 4 if len(client) == 4 else 6
            memcpy(out.addr, PyBytes_AS_STRING(client), len(client))
            return 0
    elif isinstance(client, str):
        text = client.partition("%")[0].encode()  # the zone of a link-local address is not the client's
        if inet_pton(AF_INET, text, out.addr) == 1:
            out.family = 4
            return 0
        if inet_pton(AF_INET6, text, out.addr) == 1:
            out.family = 6
            return 0
    raise ValueError(f"client={client!r}: must be an IP address as text or 4 or 16 bytes, or None")


class Verdict:
    """Whether a connection is kept after a response, and what the response says about it. Immutable, shared.

    keeps:   bool.
    cause:   str, what it will end by when it is not kept, else None; a key of stats()["closed"].
    fields:  tuple of (name, value) bytes pairs to send, names in lower case: none, connection, or connection and
             keep-alive. Never any on HTTP/2 (RFC 9113 8.2.2).
    timeout: int seconds as advertised, or None. max: int requests left as advertised, or None.
    """

    __slots__ = ("cause", "fields", "keeps", "max", "timeout")

    def __init__(self, keeps, cause, fields, timeout, most):
        put = object.__setattr__
        put(self, "keeps", keeps)
        put(self, "cause", cause)
        put(self, "fields", fields)
        put(self, "timeout", timeout)
        put(self, "max", most)

    def __setattr__(self, name, _value):
        raise AttributeError(f"a Verdict is immutable: {name}")

    def __repr__(self):
        return f"Verdict(keeps={self.keeps}, cause={self.cause!r}, fields={self.fields!r})"


cdef object make_verdict(const ka_verdict *verdict, bint has_fields):
    cdef list fields = [], words = []
    if has_fields and verdict.sends_close:
        fields.append((b"connection", b"close"))
    elif has_fields and verdict.sends_keep_alive:
        fields.append((b"connection", b"keep-alive"))
    if verdict.timeout_s:
        words.append(b"timeout=%d" % verdict.timeout_s)
    if verdict.max:
        words.append(b"max=%d" % verdict.max)
    if has_fields and words:
        fields.append((b"keep-alive", b", ".join(words)))
    return Verdict(bool(verdict.keeps), None if verdict.keeps else CAUSES[verdict.cause], tuple(fields),
                   verdict.timeout_s or None, verdict.max or None)


# ---- what was learned of networks ----

cdef str address_text(int family, const uint8_t *addr):
    """As inet_ntop writes it. family: 4 or 6."""
    cdef char text[64]
    cdef Py_ssize_t n = 0
    cdef unsigned byte, i
    if family != 4:
        inet_ntop(AF_INET6, addr, text, sizeof(text))
        return PyUnicode_DecodeASCII(text, <Py_ssize_t>strlen(text), NULL)
    for i in range(4):  # by hand: printf, which inet_ntop calls, takes as long as a request's head
        byte = addr[i]
        if byte >= 100:
            text[n] = <char>(48 + byte // 100)
            n += 1
        if byte >= 10:
            text[n] = <char>(48 + byte // 10 % 10)
            n += 1
        text[n] = <char>(48 + byte % 10)
        text[n + 1] = 46  # .
        n += 2
    return PyUnicode_DecodeASCII(text, n - 1, NULL)


cdef object network_name(const ka_known *known):
    """As the table groups clients: "192.0.2.7", "2001:db8::" for its /64, or "unix" for all who have no address."""
    return "unix" if known.client.family == 0 else address_text(known.client.family, known.client.addr)


cdef dict known_dict(const ka_known *known):
    cdef const ka_learned *learned = &known.learned
    return {
        "network": network_name(known),
        "proxy": bool(known.client.is_proxy),
        "connections": known.n_open,
        "kept_for": known.kept_ns / 1e9,
        "closes_after": ka_learned_theirs_ms(learned) / 1e3 if learned.n_theirs else None,
        "settled": (learned.marks & KA_LEARNED_AGREED) >= KA_SETTLED_AFTER,
        "since": learned.since_s,
        "closed_by_them": learned.n_theirs,
        "closed_by_us": learned.n_ours,
        "races": learned.n_races,
        "theirs": [learned.theirs_ms[0] / 1e3, learned.theirs_ms[1] / 1e3],
        "ours": [learned.ours_ms[0] / 1e3, learned.ours_ms[1] / 1e3],
        "marks": learned.marks & (KA_LEARNED_AGREED | KA_LEARNED_RACED | KA_LEARNED_RACED_BEFORE),
        "period": learned.began_s,
    }


cdef uint32_t whole_of(dict said, str name, double scale, double most) except? 0xffffffff:
    """A number from 0 to `most`, times `scale`; 0 where it is not there."""
    cdef object value = said.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise ValueError(f"{name}={value!r}: must be a number from 0 to {most:g}")
    return <uint32_t>(<double>value * scale + 0.5)


cdef int read_known(dict said, ka_known *out) except -1:
    """What known_dict says, as it may come from a file. ValueError."""
    cdef ka_learned *learned = &out.learned
    cdef int k
    memset(out, 0, sizeof(ka_known))
    name = said.get("network")
    if not isinstance(name, str):
        raise ValueError(f"network={name!r}: must be an IP address as text, or 'unix'")
    if name != "unix":
        read_client(name or "?", &out.client)
    out.client.is_proxy = bool(said.get("proxy"))
    for key, to in (("theirs", 0), ("ours", 1)):
        ages = said.get(key, [0, 0])
        if not isinstance(ages, list) or len(ages) != 2:
            raise ValueError(f"{key}={ages!r}: must be two numbers of seconds")
        for k in range(2):
            if to:
                learned.ours_ms[k] = whole_of({key: ages[k]}, key, 1000, 4e6)
            else:
                learned.theirs_ms[k] = whole_of({key: ages[k]}, key, 1000, 4e6)
    learned.n_theirs = <uint16_t>whole_of(said, "closed_by_them", 1, 65535)
    learned.n_ours = <uint16_t>whole_of(said, "closed_by_us", 1, 65535)
    learned.n_races = <uint16_t>whole_of(said, "races", 1, 65535)
    learned.marks = <uint8_t>(whole_of(said, "marks", 1, 255)
                              & (KA_LEARNED_AGREED | KA_LEARNED_RACED | KA_LEARNED_RACED_BEFORE))
    learned.began_s = whole_of(said, "period", 1, 4e9)
    learned.since_s = whole_of(said, "since", 1, 4e9)
    return 0


@cython.binding(False)
@cython.no_gc_clear  # the engine counts in `shared` until it is gone, also in a cycle
cdef class ConnectionTable:
    """ConnectionTable(policy=None, *, seed=None, counters=None, **fields)\n--\n\n\
    Connections, their phases and deadlines, for a server that has its own sockets. A connection is an integer.

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
    cdef ka_table *table
    cdef ka_counters *counters   # own_counters, or in shared
    cdef ka_counters own_counters
    cdef Py_buffer shared
    cdef bint has_shared
    cdef unsigned n_classes
    cdef ka_verdict last_verdict
    cdef object last_answer
    cdef bint last_has_fields
    cdef readonly object policy
    cdef public object on_settled

    def __cinit__(self, policy=None, *, seed=None, counters=None, **fields):
        cdef ka_capacity capacity
        self.counters = &self.own_counters
        if counters is not None:
            self.counters = hold_counters(counters, &self.shared)
            self.has_shared = True
        if seed is None:
            seed = int.from_bytes(urandom(8), "little")
        cdef uint64_t key = <uint64_t>(seed & 0xffffffffffffffff)
        if fields:
            policy = policy_with(policy, fields)
        fill_capacity(default_of(policy), &capacity)
        cdef int got = ka_table_new(&self.table, &capacity, key, self.counters)
        if got == KA_ENOMEM:
            raise MemoryError
        if got != KA_OK:
            raise ValueError(f"max_connections={capacity.max_connections} or a pressure limit is out of range")
        self.n_classes = <unsigned>set_policies(self.table, policy)
        self.policy = policy

    def __dealloc__(self):
        ka_table_free(self.table)
        if self.has_shared:
            PyBuffer_Release(&self.shared)

    def tell_state(self, str state):
        """Whoever shares the buffer of counters is told that this process is "starting", "serving" or "leaving"; see
        read_gauges. Nothing where it is not shared."""
        cdef shared_gauges *gauges
        if state not in STATES:
            raise ValueError(f"state={state!r}: must be one of {', '.join(STATES)}")
        if self.has_shared:
            gauges = gauges_of(self.counters)
            gauges.state = STATES.index(state)
            gauges.pid = getpid()
            gauges.heard_ns = <int64_t>(<double>monotonic() * 1e9)
            gauges.max_connections = ka_table_capacity(self.table).max_connections

    @property
    def n_requests(self):
        """int: request heads counted so far, as in stats(), but cheap."""
        return self.counters.requests

    def __len__(self):
        return ka_table_open_count(self.table)

    def __contains__(self, conn):
        return isinstance(conn, int) and 0 < conn <= 0xffffffffffffffff and ka_conn_phase(self.table, conn) >= 0

    # ---- refusals, out of line ----

    cdef int refuse(self, uint64_t conn, str what, int code) except -1:
        if code == KA_ESTALE:
            raise LocalError(f"{what}: connection {conn:#x} is stale or was never opened")
        raise LocalError(f"{what}: connection {conn:#x} is in phase {PHASES[ka_conn_phase(self.table, conn)]},"
                         " which does not allow it")

    cdef inline int report(self, uint64_t conn, ka_event event, double now, str what) except -1:
        cdef int got = ka_conn_event(self.table, conn, event, start_ns(now))
        if got < 0:
            return self.refuse(conn, what, got)
        return 0

    # ---- coming and going ----

    def open(self, double now, client=None, unsigned policy_class=0, bint tls=False, bint proxy=False):
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
        cdef ka_client who
        cdef ka_handle conn = 0
        if policy_class >= self.n_classes:
            raise ValueError(f"policy_class={policy_class}: the policy has {self.n_classes} classes")
        if client is not None:
            read_client(client, &who)
            who.is_proxy = proxy
        cdef int got = ka_conn_open(self.table, start_ns(now), policy_class, NULL if client is None else &who, tls, &conn)
        if got == KA_ECLIENT:
            ka_table_refused(self.table, KA_CAUSE_CLIENT_LIMIT)
        elif got == KA_ENOMEM:
            raise MemoryError
        return conn

    def refused(self, str cause="rejected"):
        """Count a connection that was accepted and turned away without being opened, under a cause of stats()["closed"]."""
        ka_table_refused(self.table, cause_number(cause))

    def close(self, uint64_t conn, str cause="client", now=None):
        """The connection was closed, in whatever phase; `conn` is stale from now on.

        cause: a key of stats()["closed"].
        now:   None counts as the latest one. When a client closes an idle connection (client; error: it was reset), this
               is how its network's timeout is learned, where keep_alive_timeout is "auto".
        """
        cdef int64_t at = INT64_MIN if now is None else until_ns(now)
        cdef int got = ka_conn_close(self.table, conn, cause_number(cause), at)
        cdef ka_known settled
        if got != KA_OK:
            self.refuse(conn, "close", got)
        if ka_known_settled(self.table, &settled):
            self.tell_settled(&settled)

    # ---- what happened to it ----

    def handshake_done(self, uint64_t conn, double now, /):
        """handshake -> new."""
        self.report(conn, KA_EV_HANDSHAKE_DONE, now, "handshake_done")

    def received(self, uint64_t conn, double now, /):
        """First byte of a request that is not an empty line: new, idle -> head."""
        self.report(conn, KA_EV_RECEIVED, now, "received")

    def head_done(self, uint64_t conn, double now, /):
        """A whole head is here: new, head, idle -> busy. Counts the request."""
        self.report(conn, KA_EV_HEAD_DONE, now, "head_done")

    def body_wanted(self, uint64_t conn, double now, /):
        """The application waits for body bytes and none are here: busy -> body."""
        self.report(conn, KA_EV_BODY_WANTED, now, "body_wanted")

    def body_arrived(self, uint64_t conn, double now, /):
        """The body bytes it waited for arrived: body -> busy. Report them to body_progress first."""
        self.report(conn, KA_EV_BODY_ARRIVED, now, "body_arrived")

    def blocked(self, uint64_t conn, double now, /):
        """The client must read before anything can go on: head, busy, body, tunnel -> write."""
        self.report(conn, KA_EV_BLOCKED, now, "blocked")

    def unblocked(self, uint64_t conn, double now, /):
        """The client has read: write -> busy. Report the bytes to write_progress first."""
        self.report(conn, KA_EV_UNBLOCKED, now, "unblocked")

    def responded(self, uint64_t conn, double now, /):
        """The whole response was handed to the kernel and the connection is kept: busy, body, write -> idle."""
        self.report(conn, KA_EV_RESPONDED, now, "responded")

    def lingering(self, uint64_t conn, double now, /):
        """FIN was sent, and whatever still arrives is discarded: any phase but linger -> linger."""
        self.report(conn, KA_EV_LINGERING, now, "lingering")

    def tunnelled(self, uint64_t conn, double now, /):
        """101 or CONNECT accepted: busy, body, write -> tunnel, which has no time limit."""
        self.report(conn, KA_EV_TUNNELLED, now, "tunnelled")

    def stream_opened(self, uint64_t conn, double now, /):
        """HTTP/2: a request began: new, head, idle, busy -> busy. Counts the request.

        From the first one on the connection takes no other event but stream_closed and lingering.
        """
        self.report(conn, KA_EV_STREAM_OPENED, now, "stream_opened")

    def stream_closed(self, uint64_t conn, double now, /):
        """HTTP/2: a stream ended; after the last one, busy -> idle."""
        self.report(conn, KA_EV_STREAM_CLOSED, now, "stream_closed")

    cdef object progress(self, uint64_t conn, size_t nbytes, double now, str what, unsigned phases):
        cdef int phase = ka_conn_phase(self.table, conn)
        cdef ka_cause cause = KA_CAUSE_ERROR
        if phase < 0 or not phases >> phase & 1:
            self.refuse(conn, what, KA_ESTALE if phase < 0 else KA_EINVAL)
        if ka_conn_progress(self.table, conn, nbytes, start_ns(now), &cause) == KA_ESLOW:
            return CAUSES[<int>cause]
        return None

    def body_progress(self, uint64_t conn, size_t nbytes, double now, /):
        """Body bytes arrived: in body they restart the gap and feed the rate; busy and write allow and ignore it.

        Return: None, or "body_rate" when the connection should be closed for it.
        """
        return self.progress(conn, nbytes, now, "body_progress", 1 << KA_BODY | 1 << KA_BUSY | 1 << KA_WRITE)

    def write_progress(self, uint64_t conn, size_t nbytes, double now, /):
        """The client read bytes: in write they restart the gap and feed the rate; busy and body allow and ignore it.

        Return: None, or "send_rate" when the connection should be closed for it.
        """
        return self.progress(conn, nbytes, now, "write_progress", 1 << KA_BODY | 1 << KA_BUSY | 1 << KA_WRITE)

    def linger_progress(self, uint64_t conn, size_t nbytes, double now, /):
        """Bytes were discarded in linger. Return: None, or, over linger_bytes or linger_time, the cause to close with.

        The first ones on a connection that was closed while idle count as a race: a request that crossed the close."""
        ka_conn_crossed(self.table, conn)
        return self.progress(conn, nbytes, now, "linger_progress", 1 << KA_LINGER)

    def touch(self, uint64_t conn, double now, /):
        """Restart the clock of its phase, for hosts that only know that something happened."""
        cdef int got = ka_conn_touch(self.table, conn, start_ns(now))
        if got < 0:
            self.refuse(conn, "touch", got)

    def set_class(self, uint64_t conn, unsigned policy_class):
        """Move it to another class of the policy set until its next request; the clock of the phase is kept."""
        if policy_class >= self.n_classes:
            raise ValueError(f"policy_class={policy_class}: the policy has {self.n_classes} classes")
        cdef int got = ka_conn_set_class(self.table, conn, policy_class)
        if got < 0:
            self.refuse(conn, "set_class", got)

    def decide(self, uint64_t conn, double now, /, str http_version="1.1", bint client_persists=True,
               str must_close=None):
        """Whether it is kept after this response, and what the response says. Call once, before the head is written.

        http_version:    of the request.
        client_persists: whether the request allows it (RFC 9112 9.3).
        must_close:      a cause of stats()["closed"] when something else forbids it.
        Return: Verdict. LocalError outside a request; ValueError for another version or cause.
        """
        cdef ka_verdict verdict
        cdef unsigned minor = 1
        cdef ka_cause cause = KA_CAUSE_NONE
        cdef bint has_fields = True
        if http_version != "1.1":
            if http_version not in ("1.0", "2", "2.0", "3", "3.0"):
                raise ValueError(f"http_version={http_version!r}: must be '1.0', '1.1', '2' or '3'")
            minor = http_version != "1.0"
            has_fields = http_version == "1.0"
        if must_close is not None:
            cause = cause_number(must_close)
        cdef int got = ka_conn_decide(self.table, conn, minor, client_persists, cause, start_ns(now), &verdict)
        if got < 0:
            self.refuse(conn, "decide", got)
        if (self.last_answer is None or has_fields != self.last_has_fields
                or memcmp(&verdict, &self.last_verdict, sizeof(verdict)) != 0):
            self.last_answer = make_verdict(&verdict, has_fields)
            self.last_verdict = verdict
            self.last_has_fields = has_fields
        return self.last_answer

    # ---- whose time is up, who goes first ----

    def due(self, double now):
        """One connection whose time is up, the longest due first. It stays open until it is closed or moved on.

        Return: None, or (conn, action, cause): action is close, answer_408, answer_503, half_close or goaway.
        For hosts that look for bytes once more before they close; expire() is simpler.
        """
        cdef ka_handle conn = 0
        cdef ka_cause cause = KA_CAUSE_ERROR
        cdef ka_action action = ka_table_due(self.table, until_ns(now), &conn, &cause)
        if action == KA_DO_NOTHING:
            return None
        return conn, ACTIONS[<int>action], CAUSES[<int>cause]

    def expire(self, double now, Py_ssize_t limit=64):
        """Close out at most `limit` connections whose time is up, the longest due first.

        Return: list of their handles, now stale; fewer than `limit` means that no more are due.
        ValueError if limit < 1. Cost: O(returned), times the classes in use.
        """
        cdef list closed = []
        cdef ka_handle conn = 0
        cdef ka_cause cause = KA_CAUSE_ERROR
        cdef int64_t until = until_ns(now)
        if limit < 1:
            raise ValueError(f"limit={limit}: must be at least 1")
        while len(closed) < limit and ka_table_due(self.table, until, &conn, &cause) != KA_DO_NOTHING:
            ka_conn_close(self.table, conn, cause, until)
            closed.append(conn)
        return closed

    def next_due(self):
        """Seconds on the caller's clock when something is due at the earliest, None for never.

        Under pressure and in a drain any event can bring it earlier: ask again after each batch of events.
        """
        cdef int64_t due = ka_table_next_due(self.table)
        return None if due == INT64_MAX else seconds_from(due)

    def victim(self, double now):
        """Which connection would be closed if room were needed, or 0: docs/table.md has the order."""
        return ka_table_victim(self.table, until_ns(now))

    def evict(self, double now):
        """Close the connection that makes room. Return: its handle, now stale, or 0 if there is none."""
        cdef int64_t until = until_ns(now)
        cdef ka_handle conn = ka_table_victim(self.table, until)
        if conn:
            ka_conn_close(self.table, conn, KA_CAUSE_EVICTED, until)
        return conn

    # ---- what networks have shown ----

    def learned(self, double now, Py_ssize_t limit=1000):
        """What was learned of client networks, where keep_alive_timeout is "auto": at most `limit`, first trusted proxies
        and unix sockets. O(networks).

        Return: list of dict: network, an address or "2001:db8::" of a prefix, or "unix"; proxy (a trusted one);
        connections, open now; kept_for, seconds that idle ones are kept at least, until their place is needed;
        closes_after, the largest idle age at which it closed first, None: never; settled (three times at about that
        age), since, seconds since that or since kept_for changed; closed_by_them, closed_by_us, races; and for learn():
        theirs, ours, marks, period.
        """
        cdef uint32_t at
        cdef ka_known known
        cdef int64_t until = until_ns(now)
        cdef bint is_front, wants_fronts
        found = []
        for wants_fronts in (True, False):
            at = 0
            while len(found) < limit and ka_known_next(self.table, until, &at, &known):
                is_front = known.client.is_proxy or known.client.family == 0
                if is_front == wants_fronts:
                    found.append(known_dict(&known))
        return found

    def busiest(self):
        """The networks with most open connections, at most 32, the busiest first. O(networks).

        Return: list of dict: network and proxy as in learned(), connections.
        """
        cdef ka_known known[32]
        cdef uint32_t k, n = ka_known_busiest(self.table, known, 32)
        return [{"network": network_name(&known[k]), "proxy": bool(known[k].client.is_proxy), "connections": known[k].n_open}
                for k in range(n)]

    def learn(self, double now, entries):
        """Take over entries of another table's learned(). ValueError for what is none; those before it are taken."""
        cdef ka_known known
        cdef int64_t at = start_ns(now)
        for said in entries:
            if not isinstance(said, dict):
                raise ValueError(f"{said!r}: must be an entry of learned()")
            read_known(said, &known)
            if ka_known_take(self.table, at, &known) == KA_ENOMEM:
                raise MemoryError

    cdef int tell_settled(self, const ka_known *known) except -1:
        if self.on_settled is not None:
            self.on_settled(known_dict(known))
        return 0

    # ---- the whole table ----

    def set_policy(self, policy):
        """Change the policy, for all connections at once. O(1) in connections.

        policy: kacore.Policy or kacore.PolicySet. Connections of classes that no longer exist get the default.
        ValueError for values out of range; the old policy stays. O(clients) when client_share changes.
        """
        self.n_classes = <unsigned>set_policies(self.table, policy)
        self.policy = policy

    def drain(self, double now, grace=None, spread=None, timeout=None):
        """Begin to drain: seconds, by default those of the policy's drain_grace, drain_spread and drain_timeout.

        Idle connections stay answerable for `grace`, then become due spread over `spread`; from now on every
        response says close; after `timeout` whatever is left is due. If called again, the earlier times hold.
        """
        policy = default_of(self.policy)
        cdef double[3] seconds
        cdef int k = 0
        for name, given, fallback in (("grace", grace, 2.0), ("spread", spread, 1.0), ("timeout", timeout, 30.0)):
            if given is None:
                given = fallback if policy is None else getattr(policy, "drain_" + name)
            seconds[k] = given
            if not 0 <= seconds[k] <= 1e9:
                raise ValueError(f"{name}={given!r}: must be between 0 and 1e9 seconds")
            k += 1
        ka_table_drain(self.table, start_ns(now), <int64_t>ceil(seconds[0] * 1e9), <int64_t>ceil(seconds[1] * 1e9),
                       <int64_t>ceil(seconds[2] * 1e9))

    @property
    def is_draining(self):
        return ka_table_is_draining(self.table)

    @property
    def is_drained(self):
        """Nothing is open but what lingers, so a server that drains can stop. O(1)."""
        return ka_table_is_drained(self.table)

    @property
    def is_full(self):
        return ka_table_is_full(self.table)

    @property
    def nbytes(self):
        """Memory of the table in bytes, all included but malloc's own. Never falls: slots are used again."""
        return ka_table_bytes(self.table)

    def phase(self, uint64_t conn, /):
        """The name of its phase."""
        cdef int phase = ka_conn_phase(self.table, conn)
        if phase < 0:
            self.refuse(conn, "phase", phase)
        return PHASES[phase]

    def policy_class(self, uint64_t conn, /):
        """The class of the policy set it is in now."""
        cdef int policy_class = ka_conn_class(self.table, conn)
        if policy_class < 0:
            self.refuse(conn, "policy_class", policy_class)
        return policy_class

    def requests(self, uint64_t conn, /):
        """Request heads seen on it."""
        if ka_conn_phase(self.table, conn) < 0:
            self.refuse(conn, "requests", KA_ESTALE)
        return ka_conn_requests(self.table, conn)

    def stats(self):
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
        return {"phases": phases_dict(self.table), **counters_dict(self.counters)}

    def check(self):
        """Walk every invariant; AssertionError names the first that is broken. O(connections), for tests."""
        cdef const char *broken = ka_table_check(self.table)
        if broken != NULL:
            raise AssertionError(broken.decode())
