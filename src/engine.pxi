# The engine for Python: listeners in, steps of a loop, requests out to an Application. Thin over ka_engine.
from libc.stdlib cimport malloc
import os

cdef extern from "arpa/inet.h" nogil:
    const char *inet_ntop(int family, const void *address, char *to, uint32_t size)

cdef extern from "sys/socket.h" nogil:
    enum:
        AF_UNIX

has_epoll = True   # there is an Engine in this build


cdef void engine_on_wake(void *ctx) noexcept:
    cdef Engine engine = <Engine>ctx
    try:
        engine.application.wake()
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
    call_soon:   loop.call_soon of the host's loop: output of a response in progress is gathered until the end of a
                 round of the loop. None: it is sent at once.
    Belongs to one thread and one process; `wake()` alone may be called from other threads. Linux only.
    """
    cdef ka_engine *engine
    cdef readonly ConnectionTable table
    cdef object call_soon, attend_later
    cdef bint is_attending       # attend_later is on its way
    cdef int pid
    cdef list servers            # (host, port) or (path, None) of each listener
    cdef list sockets            # kept alive for as long as they are listened on
    cdef peer_entry *peers

    def __cinit__(self, ConnectionTable table not None, Application application not None, *, Limits limits=None,
                  size_t max_buffer_bytes=64 << 20, call_soon=None, server_name="kacore"):
        cdef ka_calls calls
        cdef const ka_limits *c = &ka_limits_default if limits is None else &limits.c
        cdef int got
        cdef bytes name = server_name.encode("latin-1")
        calls.ctx = <void *>self
        calls.on_request = port_on_request
        calls.on_news = port_on_news
        calls.on_lost = port_on_lost
        calls.on_wake = engine_on_wake
        calls.on_closed = NULL
        calls.release = release_object
        self.table = table
        self.application = application
        self.call_soon = call_soon
        self.attend_later = self.attend_now
        self.pid = os.getpid()
        self.servers = []
        self.sockets = []
        self.peers = <peer_entry *>malloc(PEERS * sizeof(peer_entry))
        if self.peers == NULL:
            raise MemoryError("no memory for the engine")
        memset(self.peers, 0, PEERS * sizeof(peer_entry))
        got = ka_engine_new(&self.engine, table.table, c, max_buffer_bytes, &calls)
        if got < 0:
            raise os_error(got)
        if ka_reply_common_set_server(&ka_engine_service(self.engine).common, name, len(name)) < 0:
            raise ValueError(f"server_name={server_name!r}: at most 117 bytes without CR, LF, NUL")

    def __dealloc__(self):
        cdef int i
        if self.engine != NULL and self.pid == os.getpid():
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
        return 0

    def fileno(self):
        """The descriptor to watch for reading."""
        self.check_process()
        return ka_engine_fileno(self.engine)

    def listen(self, sock, *, klass=0, knows_clients=None):
        """Serve a listening, non-blocking socket; kept until stop_listening(). klass: class of its connections in the
        table. knows_clients: whether its addresses name clients; default: not for unix sockets. OSError."""
        self.check_process()
        is_unix = sock.family == AF_UNIX
        name = sock.getsockname()
        if knows_clients is None:
            knows_clients = not is_unix
        got = ka_engine_listen(self.engine, sock.fileno(), klass, knows_clients)
        if got == KA_EFULL:
            raise LocalError("an engine has at most 64 listeners")
        if got < 0:
            raise os_error(got)
        self.sockets.append(sock)
        self.servers.append((name if isinstance(name, str) else os.fsdecode(name), None) if is_unix else name[:2])

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
        self.application.leave()
        self.raise_pending()
        if got < 0:
            raise os_error(got)
        return got

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
        return 0

    def attend_now(self):
        """Send what responses in progress have produced."""
        self.is_attending = False
        if self.engine != NULL:
            ka_engine_attend(self.engine)

    cdef int64_t now(self) noexcept:
        return ka_engine_now(self.engine)

    cdef object client_of(self, ka_talk *talk):
        cdef peer_entry *entry = &self.peers[<uint32_t>talk.conn & (PEERS - 1)]
        cdef uint8_t addr[16]
        cdef uint16_t port
        cdef unsigned listener
        cdef char host[64]
        cdef int family
        if entry.conn != talk.conn:
            family = ka_engine_peer(self.engine, talk.conn, addr, &port, &listener)
            if family > 0:
                inet_ntop(AF_INET if family == 4 else AF_INET6, addr, host, sizeof(host))
                client = ((<bytes>host).decode("ascii"), port)
            else:
                client = None
            Py_INCREF(client)
            if entry.client != NULL:
                Py_DECREF(<object>entry.client)
            entry.client = <PyObject *>client
            entry.conn = talk.conn
        return <object>entry.client

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
        if engine != NULL and self.pid == os.getpid():
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
            "steps": c.steps, "events": c.events, "receives": c.receives, "sends": c.sends, "accepts": c.accepts,
            "accept_errors": c.accept_errors, "out_of_descriptors": c.out_of_descriptors,
            "buffer_bytes": service.pool.lent_bytes, "buffers_refused": service.pool.refused,
            "talks": service.n_talks,
        }
