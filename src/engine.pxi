# The engine for Python: listeners in, steps of a loop, requests out to an Application. Thin over ka_engine.
from libc.stdlib cimport free, malloc
import os

include "tls.pxi"

cdef extern from "arpa/inet.h" nogil:
    const char *inet_ntop(int family, const void *address, char *to, uint32_t size)

cdef extern from "sys/socket.h" nogil:
    enum:
        AF_UNIX


has_epoll = True   # there is an Engine in this build


cdef void engine_on_request(void *ctx, ka_talk *talk, const ka_head *head, const ka_field *fields) noexcept:
    cdef Engine engine = <Engine>ctx
    cdef Exchange exchange = None
    try:
        if engine.access_log is not None:
            engine.entry = engine.entry_of(talk, head, fields)
        engine.application.request(engine, talk, head, fields)
    except BaseException as error:
        engine.failed(error)
        if talk.exchange != NULL:
            exchange = <Exchange>talk.exchange
        engine.answer_500(talk, exchange)


cdef void engine_on_refused(void *ctx, ka_talk *talk) noexcept:
    cdef Engine engine = <Engine>ctx
    try:
        if engine.access_log is not None:
            engine.note_end(engine.entry_of(talk, NULL, NULL), talk)
    except BaseException as error:
        engine.failed(error)


cdef void engine_on_closed(void *ctx, ka_handle conn, ka_cause cause) noexcept:
    cdef Engine engine = <Engine>ctx
    try:
        engine.on_closed(engine.address_of(conn), CAUSES[<int>cause], PHASES[ka_conn_phase(engine.table.table, conn)],
                         ka_conn_requests(engine.table.table, conn))
    except BaseException as error:
        engine.failed(error)


cdef void engine_on_notice(void *ctx, ka_notice what) noexcept:
    cdef Engine engine = <Engine>ctx
    try:
        engine.on_notice("descriptors")
    except BaseException as error:
        engine.failed(error)


cdef unsigned engine_class_of_client(void *ctx, unsigned listener, const ka_client *client) noexcept:
    cdef Engine engine = <Engine>ctx
    try:
        address = None
        if client.family:
            address = PyBytes_FromStringAndSize(<const char *>client.addr, 4 if client.family == 4 else 16)
        return engine.policies.class_for_client(engine.listener_name(listener), address)
    except BaseException as error:
        engine.failed(error)
        return 0


cdef unsigned engine_class_of_request(void *ctx, ka_talk *talk, const ka_head *head, const ka_field *fields) noexcept:
    cdef Engine engine = <Engine>ctx
    cdef const char *buf = ka_talk_head_bytes(talk)
    cdef int now = ka_conn_class(talk.service.table, talk.conn)
    cdef uint32_t i
    cdef bytes agent = None
    try:
        for i in range(head.n_fields):
            if fields[i].name.len == 10 and ka_equals_lower(buf + fields[i].name.off, b"user-agent", 10):
                agent = bytes_at(buf, fields[i].value)
                break
        return engine.policies.class_for_request(now, bytes_at(buf, head.host), agent)
    except BaseException as error:
        engine.failed(error)
        return <unsigned>now if now >= 0 else 0


cdef void engine_on_wake(void *ctx) noexcept:
    cdef Engine engine = <Engine>ctx
    try:
        engine.application.wake()
    except BaseException as error:
        engine.failed(error)


cdef void engine_on_race(void *ctx, ka_handle conn, ka_cause cause) noexcept:
    cdef Engine engine = <Engine>ctx
    cdef uint8_t addr[16]
    cdef uint16_t port
    cdef unsigned listener
    cdef int family = ka_engine_peer(engine.engine, conn, addr, &port, &listener)
    try:
        engine.on_race(addr[:4 if family == 4 else 16] if family > 0 else None, CAUSES[<int>cause])
    except BaseException as error:
        engine.failed(error)


cdef object os_error(int code):
    if code == KA_ENOMEM:
        return MemoryError("no memory for the engine")
    return OSError(-code - 1000, os.strerror(-code - 1000))


cdef enum:
    PEERS = 1024   # remembered (host, port) tuples; a power of two

cdef struct peer_entry:
    ka_handle conn
    PyObject *client   # owned


cdef class Engine(Port):
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
    cdef ka_engine *engine
    cdef readonly ConnectionTable table
    cdef object call_soon, attend_later, on_closed, on_notice
    cdef object policies         # the PolicySet whose rules are asked
    cdef bint is_attending       # attend_later is on its way
    cdef object on_race
    cdef uint64_t process        # that it was made in
    cdef list servers            # (host, port) or (path, None) of each listener
    cdef list tls                # TlsListener of listeners with TLS: the engine points to them
    cdef list sockets            # kept alive for as long as they are listened on
    cdef peer_entry *peers
    cdef shared_counters *shared  # where other processes see what is counted, or NULL
    cdef uint64_t shared_before[ENGINE_NUMBERS]  # by the engine that was there before

    def __cinit__(self, ConnectionTable table not None, Application application not None, *, Limits limits=None,
                  size_t max_buffer_bytes=64 << 20, call_soon=None, server_name="kacore", access_log=None,
                  on_closed=None, on_notice=None, on_race=None):
        cdef ka_calls calls
        cdef const ka_limits *c = &ka_limits_default if limits is None else &limits.c
        cdef int got
        cdef bytes name = server_name.encode("latin-1")
        calls.ctx = <void *>self
        calls.on_request = engine_on_request
        calls.on_news = port_on_news
        calls.on_lost = port_on_lost
        calls.on_wake = engine_on_wake
        calls.on_closed = NULL
        calls.on_race = NULL
        if on_race is not None:
            calls.on_race = engine_on_race
        calls.on_notice = NULL
        calls.on_refused = NULL
        if on_closed is not None:
            calls.on_closed = engine_on_closed
        if on_notice is not None:
            calls.on_notice = engine_on_notice
        if access_log is not None:
            calls.on_refused = engine_on_refused
        calls.release = release_object
        calls.class_of_client = engine_class_of_client
        calls.class_of_request = engine_class_of_request
        self.access_log = access_log
        self.on_closed = on_closed
        self.on_notice = on_notice
        self.table = table
        self.application = application
        self.call_soon = call_soon
        self.attend_later = self.attend_now
        self.process = ka_process()
        self.on_race = on_race
        self.servers = []
        self.sockets = []
        self.tls = []
        self.peers = <peer_entry *>malloc(PEERS * sizeof(peer_entry))
        if self.peers == NULL:
            raise MemoryError("no memory for the engine")
        memset(self.peers, 0, PEERS * sizeof(peer_entry))
        if table.has_shared:
            self.shared = <shared_counters *>table.counters
            self.shared_before = self.shared.engine
        got = ka_engine_new(&self.engine, table.table, c, max_buffer_bytes, &calls)
        if got < 0:
            raise os_error(got)
        if ka_reply_common_set_server(&ka_engine_service(self.engine).common, name, len(name)) < 0:
            raise ValueError(f"server_name={server_name!r}: at most 117 bytes without CR, LF, NUL")

    def __dealloc__(self):
        cdef int i
        if self.engine != NULL and self.process == ka_process():
            ka_engine_free(self.engine)
        if self.peers != NULL:
            for i in range(PEERS):
                if self.peers[i].client != NULL:
                    Py_DECREF(<object>self.peers[i].client)
            free(self.peers)

    cdef int check_process(self) except -1:
        """After a fork both processes would share one epoll set and break each other."""
        if self.engine == NULL:
            raise LocalError("the engine is closed")
        if self.process != ka_process():
            raise LocalError("the engine was made before a fork, in another process: make one here")
        return 0

    cdef int answer_500(self, ka_talk *talk, Exchange exchange) except -1:
        if exchange is not None:
            exchange.detach()
        ka_talk_refuse(talk, 500, b"Internal Server Error", KA_CAUSE_APPLICATION, ka_engine_now(self.engine))
        if exchange is not None:
            exchange.ended(talk)
        return 0

    cdef AccessEntry entry_of(self, ka_talk *talk, const ka_head *head, const ka_field *fields):
        cdef const char *buf = ka_talk_head_bytes(talk)
        client = self.client_of(talk)
        if head != NULL and self.has_proxies:
            origin = self.origin_of(talk, head, fields)
            if origin is not None:
                client = origin[0]
        return access_entry(client, buf, head, fields, self.now())

    def set_fields(self, bytes lines not None, *, date=True):
        """Fields of every response besides the application's, in place of those of before.

        lines: what field_lines() made. date: whether responses have Date. MemoryError."""
        self.check_process()
        if ka_service_set_fields(ka_engine_service(self.engine), lines, <uint32_t>len(lines), date) < 0:
            raise MemoryError("no memory for fields")

    # -- rules ------------------------------------------------------------------------------------------

    def set_classes(self, policies):
        """Ask the rules of a PolicySet which class a connection, and a request, belongs to. What no rule looks at is
        not asked. None, or a Policy: everything is class 0."""
        self.check_process()
        self.policies = policies
        ka_engine_ask_classes(self.engine, getattr(policies, "has_accept_rules", False),
                              getattr(policies, "has_request_rules", False))

    cdef object listener_name(self, unsigned listener):
        """As rules write it: "127.0.0.1:80", "[::1]:80", "unix:/run/app.sock"."""
        host, port = self.servers[listener]
        if port is None:
            return f"unix:{host}"
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def trust(self, networks, *, proxy_protocol=False):
        """Proxies whose word about the client is taken, in place of those of before.

        networks: iterable of "10.0.0.0/8", "2001:db8::1", "unix" (every unix socket), "*" (everybody).
        proxy_protocol: their connections begin with a PROXY header (version 1 or 2), or are closed.
        Raises ValueError for what is no network, MemoryError. Source: docs/operations.md.
        """
        cdef ka_network *c
        cdef uint32_t n = 0
        cdef bytes packed
        cdef int got
        self.check_process()
        found = [one for given in networks for one in network_of(given)]
        c = <ka_network *>malloc((len(found) + 1) * sizeof(ka_network))
        if c == NULL:
            raise MemoryError("no memory for networks")
        memset(c, 0, (len(found) + 1) * sizeof(ka_network))
        for family, bits, address in found:
            packed = address
            c[n].family = family
            c[n].bits = bits
            memcpy(c[n].addr, PyBytes_AS_STRING(packed), <size_t>PyBytes_GET_SIZE(packed))
            n += 1
        got = ka_engine_trust(self.engine, c, n, proxy_protocol)
        free(c)
        if got < 0:
            raise os_error(got) if got == KA_ENOMEM else ValueError("a prefix is too long for its address")
        self.has_proxies = n > 0

    cdef tuple origin_of(self, ka_talk *talk, const ka_head *head, const ka_field *fields):
        cdef const char *buf = ka_talk_head_bytes(talk)
        cdef uint8_t addr[16]
        cdef unsigned family
        if not ka_engine_is_trusted(self.engine, talk.conn):
            return None
        client = self.client_of(talk)
        chain = forwarded_value(buf, head, fields, b"x-forwarded-for", 15)
        if chain is not None:
            # Each proxy appends whom it saw: from the right, the first one that is no proxy of ours is the client.
            for node in reversed(chain.split(",")):
                host, port = split_node(node.strip(" \t"))
                family = read_address(host, addr)
                if family == 0:
                    break
                client = (host, port)
                if not ka_engine_trusts(self.engine, family, addr):
                    break
        scheme = forwarded_value(buf, head, fields, b"x-forwarded-proto", 17)
        if scheme is not None:
            scheme = scheme.rpartition(",")[2].strip(" \t").lower()
            scheme = {"https": "https", "wss": "https", "http": "http", "ws": "http"}.get(scheme)
        return client, scheme

    def connections(self, limit=1000):
        """list of dict, one for each of at most `limit` open connections: conn, client, phase, klass, requests.
        Cost: O(places in use), about 1 us each."""
        cdef uint32_t slot = 1, n = 0
        cdef ka_handle conn
        cdef ka_table *table = self.table.table
        self.check_process()
        found = []
        while len(found) < limit and n < ka_table_open_count(table):
            conn = ka_table_handle(table, slot)
            slot += 1
            if conn == 0:
                continue
            n += 1
            found.append({
                "conn": conn,
                "client": self.address_of(conn),
                "phase": PHASES[ka_conn_phase(table, conn)],
                "class": ka_conn_class(table, conn),
                "requests": ka_conn_requests(table, conn),
            })
        return found

    def fileno(self):
        """The descriptor to watch for reading."""
        self.check_process()
        return ka_engine_fileno(self.engine)

    def listen(self, sock, *, klass=0, knows_clients=None, tls=None):
        """Serve a listening, non-blocking socket; kept until stop_listening(). klass: class of its connections in the
        table. knows_clients: whether its addresses name clients; default: not for unix sockets. tls: an object whose
        `context` is the ssl.SSLContext for connections from now on, with `describe` as kacore.TLS has it. OSError."""
        cdef TlsListener listener
        self.check_process()
        is_unix = sock.family == AF_UNIX
        name = sock.getsockname()
        if knows_clients is None:
            knows_clients = not is_unix
        if sock in self.sockets:
            return
        got = ka_engine_listen(self.engine, sock.fileno(), klass, knows_clients)
        if got == KA_EFULL:
            raise LocalError("an engine has at most 64 listeners")
        if got < 0:
            raise os_error(got)
        if tls is not None:
            import_ssl()
            listener = TlsListener.__new__(TlsListener)
            listener.source = tls
            listener.logger = self.application.logger
            self.tls.append(listener)
            if ka_engine_set_filter(self.engine, got, &tls_filter, <void *>listener) < 0:
                raise MemoryError("no memory for TLS sessions")
            self.has_tls = True
        self.sockets.append(sock)
        if got == len(self.servers):
            self.servers.append((name if isinstance(name, str) else os.fsdecode(name), None) if is_unix else name[:2])

    def unlisten(self, sock, *, is_last=True):
        """Listen on this socket no longer. It stays open, and may be listened on again.

        is_last: nobody else accepts from it, so that whoever waits in its queue is taken in first."""
        self.check_process()
        ka_engine_unlisten(self.engine, sock.fileno(), is_last)
        if sock in self.sockets:
            self.sockets.remove(sock)

    def stop_listening(self):
        """Accept what waits in the queues, then no more. The sockets stay open; they are the caller's."""
        self.check_process()
        ka_engine_stop_listening(self.engine)
        self.sockets.clear()

    def step(self):
        """One bounded pass: what arrived, then what expired, then who wants in. Never blocks.

        Return: int, number of events; 0 = nothing is ready. Raises OSError, and what the application raised to end
        the process (SystemExit, KeyboardInterrupt).
        """
        cdef int got
        self.check_process()
        got = ka_engine_step(self.engine)
        if self.shared != NULL:
            self.share_counters()
        self.application.leave()
        self.raise_pending()
        if got < 0:
            raise os_error(got)
        return got

    cdef void share_counters(self) noexcept:
        cdef const uint64_t *counted = <const uint64_t *>ka_engine_stats(self.engine)
        cdef int k
        for k in range(ENGINE_NUMBERS):
            self.shared.engine[k] = self.shared_before[k] + counted[k]

    def wake(self):
        """Have a step taken soon. May be called from any thread."""
        if self.engine != NULL:
            ka_engine_wake(self.engine)

    cdef int attend(self, bint soon) except -1:
        if ka_engine_is_stepping(self.engine):
            return 0  # the end of the step does it
        if soon and self.call_soon is not None:
            if not self.is_attending:
                self.is_attending = True
                self.call_soon(self.attend_later)
            return 0
        ka_engine_attend(self.engine)
        return self.application.leave()

    def attend_now(self):
        """Send what responses in progress have produced."""
        self.is_attending = False
        if self.engine != NULL:
            ka_engine_attend(self.engine)
            self.application.leave()

    cdef int64_t now(self) noexcept:
        return ka_engine_now(self.engine)

    cdef object address_of(self, ka_handle conn):
        """(host, port), or None for a unix socket."""
        cdef uint8_t addr[16]
        cdef uint16_t port
        cdef unsigned listener
        cdef char host[64]
        cdef int family = ka_engine_peer(self.engine, conn, addr, &port, &listener)
        if family <= 0:
            return None
        inet_ntop(AF_INET if family == 4 else AF_INET6, addr, host, sizeof(host))
        return (<bytes>host).decode("ascii"), port

    cdef object client_of(self, ka_talk *talk):
        cdef peer_entry *entry = &self.peers[<uint32_t>talk.conn & (PEERS - 1)]
        if entry.conn != talk.conn:
            client = self.address_of(talk.conn)
            Py_INCREF(client)
            if entry.client != NULL:
                Py_DECREF(<object>entry.client)
            entry.client = <PyObject *>client
            entry.conn = talk.conn
        return <object>entry.client

    cdef object give_away(self, Exchange exchange):
        import socket
        cdef ka_talk *talk = exchange.talk
        cdef ka_handle conn = talk.conn
        cdef int got
        if ka_engine_session(self.engine, conn) != NULL:
            raise LocalError("over TLS the socket has other bytes than the stream: read and write the stream")
        exchange.ended(talk)
        exchange.detach()
        got = ka_engine_give_away(self.engine, conn)
        if got < 0:
            ka_talk_done(talk)
            self.attend(False)
            raise os_error(got) if got <= -1000 else LocalError("the socket cannot be given away now")
        return socket.socket(fileno=got)

    cdef dict tls_of(self, ka_talk *talk):
        cdef ka_session *session = ka_engine_session(self.engine, talk.conn)
        return tls_description(session).copy() if session != NULL else None

    cdef object server_of(self, ka_talk *talk):
        cdef uint8_t addr[16]
        cdef uint16_t port
        cdef unsigned listener
        if ka_engine_peer(self.engine, talk.conn, addr, &port, &listener) < 0:
            return None
        return self.servers[listener]

    def drain(self, *, grace=2.0, spread=1.0, timeout=30.0):
        """Start to end gracefully: every response says `Connection: close`; idle connections stay answerable for
        `grace` seconds and are closed spread over `spread`; what is left at `timeout` is closed."""
        self.check_process()
        ka_engine_drain(self.engine, <int64_t>(grace * 1e9), <int64_t>(spread * 1e9), <int64_t>(timeout * 1e9))

    def close(self):
        """Close every connection and the engine's descriptors. Idempotent."""
        cdef ka_engine *engine = self.engine
        if engine != NULL and self.process == ka_process():
            ka_engine_close_all(engine, KA_CAUSE_DRAIN)
            self.engine = NULL
            ka_engine_free(engine)

    def stats(self):
        """dict of what the engine itself counts: steps, events, system calls, buffers."""
        cdef const ka_engine_counters *c
        cdef ka_service *service
        self.check_process()
        c = ka_engine_stats(self.engine)
        service = ka_engine_service(self.engine)
        return {
            **{ENGINE_NAMES[k]: (<const uint64_t *>c)[k] for k in range(ENGINE_NUMBERS)},
            "buffer_bytes": service.pool.lent_bytes, "buffers_refused": service.pool.refused,
            "talks": service.n_talks,
        }


def refuse_new_connections(int fd):
    """Let no new client begin a handshake with this listening TCP socket; those in the middle of one get through.

    For the end of a server: accept what waits, then close. What comes later is refused, not reset. OSError."""
    cdef int got = ka_listener_refuse(fd)
    if got < 0:
        raise os_error(got)


cdef extern from *:
    """
    #if defined(__GLIBC__)
    #include <malloc.h>
    static void ka_return_large_blocks(int size)
    {
        mallopt(M_MMAP_THRESHOLD, size);
        mallopt(M_TRIM_THRESHOLD, size);
    }
    #else
    static void ka_return_large_blocks(int size) { (void)size; }
    #endif
    """
    void ka_return_large_blocks(int size) noexcept


def return_large_blocks():
    """Have the C library give blocks of 4 MiB and more back to the system when they are freed, for the whole process.

    glibc raises its own threshold to the largest block that was ever freed, up to 32 MiB, and keeps twice as much at the
    end of its heap: after one response of 20 MB these 20 MB stay. What the environment says of it (MALLOC_*_,
    GLIBC_TUNABLES) comes first. Nothing where there is no glibc."""
    if not any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ):
        ka_return_large_blocks(4 << 20)
