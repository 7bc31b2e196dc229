# The engine for Python: listeners in, steps of a loop, requests out to an Application. Thin over ka_engine.
import os
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport INT64_MAX

cdef extern from "sys/socket.h" nogil:
    enum:
        AF_UNIX


has_epoll = True   # there is an Engine in this build


cdef void engine_on_notice(void *ctx, ka_notice what) noexcept:
    cdef Engine engine = <Engine>ctx
    try:
        engine.on_notice("descriptors")
    except BaseException as error:
        engine.failed(error)


cdef unsigned engine_class_of_client(void *ctx, unsigned listener, const ka_client *client) noexcept:
    return (<Engine>ctx).class_of_client((<Engine>ctx).servers[listener], client)


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


@cython.no_gc_clear  # its end closes connections in the table, and tells of them, also as part of a cycle
cdef class Engine(Driver):
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
    cdef object call_soon, attend_later
    cdef bint is_attending       # attend_later is on its way
    cdef bint is_closing         # close() was called; carried out when nothing of the engine's is going on
    cdef uint64_t process        # that it was made in
    cdef list sockets            # kept alive for as long as they are listened on
    cdef peer_entry *peers
    cdef shared_counters *shared  # where other processes see what is counted, or NULL
    cdef uint64_t shared_before[ENGINE_NUMBERS]  # by the engine that was there before

    def __cinit__(self, ConnectionTable table not None, Application application not None, *, Limits limits=None,
                  size_t max_buffer_bytes=64 << 20, call_soon=None, server_name="kacore", access_log=None,
                  on_closed=None, on_notice=None, on_race=None):
        cdef ka_application app
        cdef const ka_limits *c = &ka_limits_default if limits is None else &limits.c
        cdef int got
        self.tell(&app, access_log, on_closed, on_race)
        app.on_wake = engine_on_wake
        app.class_of_client = engine_class_of_client
        if on_notice is not None:
            app.on_notice = engine_on_notice
        self.on_notice = on_notice
        self.table = table
        self.application = application
        self.call_soon = call_soon
        self.attend_later = self.attend_now
        self.process = ka_process()
        self.sockets = []
        self.peers = <peer_entry *>malloc(PEERS * sizeof(peer_entry))
        if self.peers == NULL:
            raise MemoryError("no memory for the engine")
        memset(self.peers, 0, PEERS * sizeof(peer_entry))
        if table.has_shared:
            self.shared = <shared_counters *>table.counters
            self.shared_before = self.shared.engine
        got = ka_engine_new(&self.engine, table.table, c, max_buffer_bytes, &app)
        if got < 0:
            raise os_error(got)
        self.d = ka_engine_driver(self.engine)
        self.budget = &self.d.service.pool
        self.set_server(server_name)

    def __dealloc__(self):
        cdef int i
        if self.engine != NULL and self.process == ka_process():
            ka_engine_free(self.engine)
        if self.peers != NULL:
            for i in range(PEERS):
                if self.peers[i].client != NULL:
                    Py_DECREF(<object>self.peers[i].client)
            free(self.peers)

    cdef int check_open(self) except -1:
        """After a fork both processes would share one epoll set and break each other."""
        if self.engine == NULL or self.is_closing:
            raise LocalError("the engine is closed")
        if self.process != ka_process():
            raise LocalError("the engine was created before a fork, in another process: create one here")
        return 0

    def set_fields(self, bytes lines not None, *, date=True):
        """Fields of every response besides the application's, in place of those of before.

        lines: what field_lines() made. date: whether responses have Date. MemoryError."""
        self.check_open()
        self.set_common(lines, date)

    cdef int peer(self, ka_handle conn, uint8_t *addr, uint16_t *port) except -1:
        cdef unsigned listener
        return max(0, ka_engine_peer(self.engine, conn, addr, port, &listener))

    cdef bint is_trusted(self, ka_handle conn) noexcept:
        return ka_engine_is_trusted(self.engine, conn)

    def fileno(self):
        """The descriptor to watch for reading."""
        self.check_open()
        return ka_engine_fileno(self.engine)

    def listen(self, sock, *, policy_class=0, knows_clients=None, tls=None):
        """Serve a listening, non-blocking socket; kept until stop_listening(). policy_class: class of its connections in the
        table. knows_clients: whether its addresses name clients; default: not for unix sockets. tls: an object whose
        `context` is the ssl.SSLContext for connections from now on, with `describe` as kacore.TLS has it. OSError."""
        cdef TlsListener listener
        self.check_open()
        is_unix = sock.family == AF_UNIX
        name = sock.getsockname()
        if knows_clients is None:
            knows_clients = not is_unix
        if sock in self.sockets:
            return
        got = ka_engine_listen(self.engine, sock.fileno(), policy_class, knows_clients)
        if got == KA_EFULL:
            raise LocalError("an engine has at most 64 listeners")
        if got < 0:
            raise os_error(got)
        if tls is not None:
            listener = self.tls_listener(tls)
            if ka_engine_set_filter(self.engine, got, &tls_filter, <void *>listener) < 0:
                raise MemoryError("no memory for TLS sessions")
        self.sockets.append(sock)
        if got == len(self.servers):
            self.servers.append((name if isinstance(name, str) else os.fsdecode(name), None) if is_unix else name[:2])

    def unlisten(self, sock, *, is_last=True):
        """Listen on this socket no longer. It stays open, and may be listened on again.

        is_last: nobody else accepts from it, so that whoever waits in its queue is taken in first."""
        self.check_open()
        ka_engine_unlisten(self.engine, sock.fileno(), is_last)
        if sock in self.sockets:
            self.sockets.remove(sock)
        self.close_at_last()

    def give_away_quiet(self):
        """Give away the sockets of connections on which nothing is going on: for another process, see `adopt`. Those over
        TLS stay, since a socket carries no session.

        Return: list of (descriptor, (host, port) or (path, None) of the listener); the descriptors are the caller's."""
        cdef ka_table *table = self.table.table
        cdef uint32_t slot = 0, last = ka_table_open_count(table), n = 0
        cdef ka_handle conn
        cdef uint8_t addr[16]
        cdef uint16_t port
        cdef unsigned listener
        cdef int fd
        self.check_open()
        found = []
        while n < last:
            slot += 1
            conn = ka_table_handle(table, slot)
            if conn == 0:
                continue
            n += 1
            if ka_conn_phase(table, conn) not in (KA_IDLE, KA_NEW):
                continue
            if ka_engine_peer(self.engine, conn, addr, &port, &listener) < 0:
                continue
            fd = ka_engine_give_away(self.engine, conn)
            if fd >= 0:
                found.append((fd, self.servers[listener]))
        return found

    def adopt(self, int fd, where):
        """Serve a connection that another process gave away, as if it had come through the listener at `where`, of those
        that are listened on; the descriptor is the engine's from now on. Raises OSError when the client is gone, LocalError
        when there is no such listener or it speaks TLS; then the descriptor is still the caller's."""
        self.check_open()
        got = ka_engine_adopt(self.engine, self.servers.index(where), fd) if where in self.servers else KA_EINVAL
        if got == KA_EINVAL:
            raise LocalError(f"a connection of {where!r} cannot be adopted: nothing listens there without TLS")
        if got < 0:
            raise os_error(got)

    def stop_listening(self):
        """Accept what waits in the queues, then no more. The sockets stay open; they are the caller's."""
        self.check_open()
        ka_engine_stop_listening(self.engine)
        self.sockets.clear()
        self.close_at_last()

    def step(self):
        """One bounded pass: what arrived, then what expired, then who wants in. Never blocks.

        Return: int, number of events; 0 = nothing is ready. Raises OSError, and what the application raised to end
        the process (SystemExit, KeyboardInterrupt). LocalError from within a step.
        """
        return self.take_step()

    cdef int take_step(self) except -1:
        cdef int got
        self.close_at_last()
        self.check_open()
        got = ka_engine_step(self.engine)
        if got == KA_EINVAL:
            raise LocalError("step() cannot be called from within a step")
        self.share_counters()
        try:
            self.application.leave()
            self.tell_drained()
            self.raise_pending()
        finally:
            self.close_at_last()
        if got < 0:
            raise os_error(got)
        return got

    def watch_host(self, int fd):
        """Have wait_for_loop() wait for this descriptor, too, until it is closed. OSError."""
        self.check_open()
        got = ka_engine_watch_host(self.engine, fd)
        if got < 0:
            raise os_error(got)

    def wait_for_loop(self, loop, select, step, timeout=None):
        """In place of the select() of an asyncio loop's selector, whose own descriptor watch_host() knows: wait for both,
        step when there is something to do, and again, until the loop has something to do: a callback, a new timer, a
        descriptor that is ready, a signal; or `timeout` is over. What is answered at once costs nothing of the loop's.

        select: of the loop's own descriptors. step: called in place of step(), unless None.
        Return: what select() does, or an empty list. Raises OSError, and what the application raised to end the process;
        anything else that a step raises goes to the loop's exception handler.
        """
        cdef int64_t until = INT64_MAX
        cdef Py_ssize_t n_timers = len(loop._scheduled)
        cdef ka_engine *engine = self.engine
        cdef int found
        cdef bint is_well
        if engine == NULL or self.is_closing or ka_engine_is_inside(engine):
            return select(timeout)  # inside: the application runs the loop
        if timeout is not None:
            until = ka_engine_read_clock() + <int64_t>(<double>timeout * 1e9) if timeout > 0 else 0
        while True:
            self.check_open()
            with nogil:
                found = ka_engine_wait(engine, until)
            if found < 0:
                raise os_error(found)
            is_well = not found & KA_WAITED_STEP or self.step_for(loop, step)
            if found & KA_WAITED_HOST:
                return select(0)
            PyErr_CheckSignals()  # whose handlers may have something for the loop
            if (not found or not is_well or loop._ready or loop._stopping or len(loop._scheduled) != n_timers
                    or self.engine == NULL or self.is_closing
                    or until != INT64_MAX and until <= ka_engine_read_clock()):
                return []

    cdef bint step_for(self, object loop, object step) except -1:
        """As the loop would call it back. Return: whether all went well."""
        context = self.enter_context()
        try:
            if step is None:
                self.take_step()
            else:
                step()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            loop.call_exception_handler({"message": "Exception in a step of the engine", "exception": error})
            return False
        finally:
            PyContext_Exit(context)
        return True

    cdef void share_counters(self) noexcept:
        cdef const uint64_t *counted
        cdef int k
        if self.shared == NULL:
            return
        self.share_gauges(self.d.now)
        counted = <const uint64_t *>ka_engine_stats(self.engine)
        for k in range(ENGINE_NUMBERS):
            self.shared.engine[k] = self.shared_before[k] + counted[k]

    def wake(self):
        """Have a step taken soon. May be called from any thread."""
        ka_lock(&self.gate)
        if self.engine != NULL:
            ka_engine_wake(self.engine)
        ka_unlock(&self.gate)

    cdef int attend(self, bint soon) except -1:
        if self.engine == NULL or ka_engine_is_stepping(self.engine):
            return 0  # closed by the application; or the end of the step does it
        if soon and self.call_soon is not None:
            if not self.is_attending:
                self.is_attending = True
                self.call_soon(self.attend_later)
            return 0
        return self.attend_noted()

    cdef int push(self, ka_exchange *core) except -1:
        if self.engine == NULL:
            return 0
        ka_engine_push(self.engine, core.talk)
        return 0

    def attend_now(self):
        """Send what responses in progress have produced."""
        self.is_attending = False
        if self.engine != NULL:
            self.attend_noted()

    cdef int attend_noted(self) except -1:
        # Called from the task of one request, or soon after: what others get to do now is not to see its variables.
        context = self.enter_context()
        try:
            ka_engine_attend(self.engine)
            self.share_gauges(self.d.now)
            self.application.leave()
            self.tell_drained()
        finally:
            PyContext_Exit(context)
        return self.close_at_last()

    cdef int64_t now(self) noexcept:
        return ka_engine_now(self.engine) if self.engine != NULL else 0

    cdef int64_t now_exactly(self) noexcept:
        return ka_engine_read_clock()

    cdef object client_of(self, ka_exchange *core):
        cdef ka_handle conn = ka_exchange_conn(core)
        cdef peer_entry *entry = &self.peers[<uint32_t>conn & (PEERS - 1)]
        if entry.conn != conn:
            client = self.address_of(conn)
            Py_INCREF(client)
            if entry.client != NULL:
                Py_DECREF(<object>entry.client)
            entry.client = <PyObject *>client
            entry.conn = conn
        return <object>entry.client

    cdef object give_away(self, Exchange exchange):
        import socket
        cdef ka_exchange *core = exchange.core
        cdef ka_handle conn = ka_exchange_conn(core)
        cdef int got
        if ka_engine_session(self.engine, conn) != NULL:
            raise LocalError("over TLS the socket carries ciphertext: read and write the stream instead")
        exchange.ended(core)
        exchange.detach()
        got = ka_engine_give_away(self.engine, conn)
        if got < 0:
            ka_exchange_done(core, KA_CAUSE_APPLICATION)
            self.attend(False)
            raise os_error(got) if got <= -1000 else LocalError("the socket cannot be detached now")
        given = socket.socket(fileno=got)
        self.tell_drained()
        return given

    cdef dict tls_of(self, ka_exchange *core):
        cdef ka_session *session = ka_engine_session(self.engine, ka_exchange_conn(core))
        return tls_description(session).copy() if session != NULL else None

    cdef object server_of(self, ka_exchange *core):
        cdef uint8_t addr[16]
        cdef uint16_t port
        cdef unsigned listener
        if len(self.servers) == 1:
            return self.servers[0]
        if ka_engine_peer(self.engine, ka_exchange_conn(core), addr, &port, &listener) < 0:
            return None
        return self.servers[listener]

    def drain(self, *, grace=2.0, spread=1.0, timeout=30.0):
        """Start to end gracefully: every response says `Connection: close`; idle connections stay answerable for
        `grace` seconds and are closed spread over `spread`; what is left at `timeout` is closed."""
        self.check_open()
        ka_engine_drain(self.engine, <int64_t>(grace * 1e9), <int64_t>(spread * 1e9), <int64_t>(timeout * 1e9))
        self.close_at_last()

    def close(self):
        """Close every connection and the engine's descriptors. Idempotent. From within whatever the engine calls: at the end
        of the step, behind what responses have produced; other calls say that it is closed from now on."""
        if self.engine == NULL or self.process != ka_process():
            return
        self.is_closing = True
        ka_engine_close_all(self.engine, KA_CAUSE_DRAIN)
        if ka_engine_is_inside(self.engine):
            ka_engine_wake(self.engine)  # for a step, if none is going on
        else:
            self.close_at_last()

    cdef int close_at_last(self) except -1:
        cdef ka_engine *engine = self.engine
        if self.is_closing and engine != NULL and not ka_engine_is_inside(engine):
            ka_lock(&self.gate)
            self.engine = NULL
            self.budget = NULL
            ka_unlock(&self.gate)
            ka_engine_free(engine)
        return 0

    def stats(self):
        """dict of what the engine itself counts: steps, events, system calls, buffers."""
        cdef const ka_engine_counters *c
        cdef ka_service *service
        self.check_open()
        c = ka_engine_stats(self.engine)
        service = &self.d.service
        return {
            **{ENGINE_NAMES[k]: (<const uint64_t *>c)[k] for k in range(ENGINE_NUMBERS)},
            "buffer_bytes": ka_pool_used(&service.pool), "max_buffer_bytes": service.pool.max_bytes,
            "buffers_refused": service.pool.refused,
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
