# All connections of one event loop's transports: their table, their one timer, the rounds of the loop; who gets in and who
# waits. Of the loop it takes `call_later`, and `call_soon` where there is one: one timer for all, never one each.
#
# What differs from the engine, because the host accepts and reads: newcomers to a full table are accepted and wait here,
# unread, a bounded number of them; and an expiry waits until the loop has polled once more, since not every transport
# can be looked through once more before a verdict, as the loop's own plain ones can.
from cpython.bytearray cimport PyByteArray_AS_STRING

from collections import deque

MAX_WAITING = 256   # newcomers to a full table; each has a descriptor. More are answered 503

cdef int64_t WAITING_RETRY_NS = 100 * 1000000   # places come free without us, too: min_idle_before_evict
cdef int64_t LOOK_NS = 1000000000               # how often transports that are not read are looked at

cdef extern from *:
    """
    #include <poll.h>
    #ifndef POLLRDHUP
    #define POLLRDHUP 0
    #endif
    """
    struct pollfd:
        int fd
        short events, revents
    int POLLERR, POLLHUP, POLLRDHUP
    int poll(pollfd *fds, unsigned long n, int timeout) nogil


cdef object clock_of(object loop):
    """The loop's clock; but where that is the monotonic one it is read afresh: uvloop's stands still during a round, so a
    phase would seem to begin before it does, and end early."""
    time = getattr(loop, "time", None)
    return monotonic_seconds if time is None or abs(time() - monotonic_seconds()) < 1.0 else time


cdef class Transports(Driver):
    """Serves an application over the transports of one event loop.

    table:       ConnectionTable that holds the connections; one Transports each.
    application: AsgiApplication, WsgiApplication or HandlerApplication.
    loop:        what has call_later(); call_soon(), time() and call_soon_threadsafe() are used if it has them.
                 Without time() the monotonic clock is read, and a timer that fires is taken to fire in time.
    limits, max_buffer_bytes, server_name, access_log, on_closed, on_race: as for Engine.
    context:     contextvars.Context of which each request gets a copy. None: that of whoever makes this object.
    Give each connection a TransportProtocol(transports). Belongs to the loop's thread; wake() may be called from others.
    """
    cdef ka_driver own               # d points to it
    cdef char *scratch               # KA_READ_MAX bytes, for what comes
    cdef object scratch_view, ahead_view  # all of it; as much of it as is read of one that has nothing pending
    cdef set unwatched               # of TransportProtocol: who is not read, or has sent FIN: the loop sees no end of theirs
    cdef int64_t look_ns             # when to look at them
    cdef readonly object loop
    cdef object clock, call_soon, timer
    cdef object entered              # the context of this pass
    cdef object on_timer, on_round
    cdef PyObject **by_slot          # TransportProtocol by slot, a hold on each; NULL = none
    cdef uint32_t n_slots
    cdef list stalled                # who has more to do, and no talk to be listed by
    cdef object waiting              # deque of who has no place yet
    cdef int64_t date_s
    cdef int n_entered
    cdef uint64_t n_passes
    cdef bint is_round_coming, trusts_timer, is_expiring, is_closing

    def __cinit__(self, ConnectionTable table not None, Application application not None, loop, *, Limits limits=None,
                  size_t max_buffer_bytes=64 << 20, server_name="kacore", access_log=None, on_closed=None, on_race=None,
                  context=None):
        cdef ka_application app
        cdef const ka_limits *c = &ka_limits_default if limits is None else &limits.c
        if context is not None:
            self.context = context
        self.d = &self.own
        self.own.owner = <void *>self
        self.table = table
        self.application = application
        self.loop = loop
        self.trusts_timer = not hasattr(loop, "time")
        self.clock = clock_of(loop)
        self.call_soon = getattr(loop, "call_soon", None)
        self.on_timer = self._timer_fired
        self.on_round = self._next_round
        self.stalled = []
        self.unwatched = set()
        scratch = bytearray(KA_READ_MAX)
        self.scratch = PyByteArray_AS_STRING(scratch)  # the views keep it
        self.scratch_view = memoryview(scratch)
        self.ahead_view = self.scratch_view[:KA_READ_AHEAD]
        self.waiting = deque()
        self.tell(&app, access_log, on_closed, on_race)
        if ka_driver_init(self.d, table.table, c, max_buffer_bytes, &app, &transport_moves) < 0:
            raise MemoryError("no memory for the transports")
        self.budget = &self.own.service.pool
        self.set_server(server_name)
        self.look_at_clock()

    def __dealloc__(self):
        # Every connection holds this object, so none is left.
        free(self.by_slot)
        if self.own.service.fields != NULL:
            ka_driver_free(&self.own)

    # -- time --------------------------------------------------------------------------------------------

    cdef int look_at_clock(self) except -1:
        cdef double seconds = self.clock()
        cdef int64_t s
        self.own.now = max(self.own.now, <int64_t>(seconds * 1e9))
        s = unix_time(NULL)
        if s != self.date_s:
            self.date_s = s
            ka_reply_common_set_date(&self.own.service.common, s)
        return 0

    cdef int64_t now(self) noexcept:
        if self.n_entered == 0:
            try:
                self.look_at_clock()
            except Exception:
                pass  # a clock that fails stands still
        return self.own.now

    cdef int64_t now_exactly(self) noexcept:
        try:
            return max(self.own.now, <int64_t>(<double>self.clock() * 1e9))
        except Exception:
            return self.own.now

    cdef int arm(self) except -1:
        """Set the timer for what is due next, where that is earlier than it will fire."""
        cdef int64_t due = INT64_MAX
        if self.waiting:
            due = self.own.now + WAITING_RETRY_NS
        if self.unwatched:
            due = min(due, max(self.look_ns, self.own.now))
        ka_driver_arm(self.d, due)
        return 0

    cdef int set_timer(self, int64_t at) except -1:
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.loop.call_later(max(0.0, <double>(at - self.own.now) / 1e9), self.on_timer)
        return 0

    def _timer_fired(self):
        """The one timer. "Nothing has come" is no evidence before the loop has polled once more: let it."""
        cdef int64_t due = self.own.armed_ns
        self.timer = None
        self.own.armed_ns = INT64_MAX
        if self.call_soon is not None:
            self.is_expiring = True
            self.call_soon(self.call_soon, self._expire)
        else:
            if self.trusts_timer:
                self.own.now = max(self.own.now, due)
            self._expire()

    def _expire(self):
        """Carry out what is due, a bounded number; the rest in the next round of the loop."""
        self.enter()
        try:
            self.is_expiring = False
            self.expire()
        finally:
            self.leave()

    cdef int expire(self) except -1:
        ka_driver_expire(self.d)
        if self.unwatched and self.own.now >= self.look_ns:
            self.look_at_unwatched()
        return 0

    cdef int look_at_unwatched(self) except -1:
        """A transport that the loop does not read tells of nothing, neither of FIN nor of a reset. One system call for all,
        once a second."""
        cdef TransportProtocol one
        cdef pollfd *fds
        cdef unsigned long i = 0
        self.look_ns = self.own.now + LOOK_NS
        found = [(one, sock.fileno()) for one in self.unwatched
                 if (sock := one.transport.get_extra_info("socket")) is not None and sock.fileno() >= 0]
        fds = <pollfd *>malloc((len(found) + 1) * sizeof(pollfd))
        if fds == NULL:
            return 0  # in a second, then
        try:
            for item in found:
                fds[i].fd = item[1]
                fds[i].events = <short>POLLRDHUP
                i += 1
            if poll(fds, i, 0) <= 0:
                return 0
            for i in range(<unsigned long>len(found)):
                one = found[i][0]
                if fds[i].revents and one.conn:
                    one.looked_at(fds[i].revents & (POLLERR | POLLHUP) != 0)
        finally:
            free(fds)
        return 0

    # -- passes ------------------------------------------------------------------------------------------

    cdef int enter(self) except -1:
        """Something happened; everything in this pass shares its moment, and a context that no request has: what the loop
        is told to call later keeps the context in which it is told so."""
        if self.n_entered == 0:
            self.look_at_clock()
            self.entered = self.enter_context()
        self.n_entered += 1
        return 0

    cdef int leave(self) except -1:
        """The pass ends: what the application has made of it goes out."""
        if self.n_entered == 1:
            try:
                self.finish()
            finally:
                self.n_entered = 0
                context, self.entered = self.entered, None
                PyContext_Exit(context)
                if self.is_closing:
                    self.is_closing = False
                    self.close()
        else:
            self.n_entered -= 1
        return self.raise_pending()

    cdef int finish(self) except -1:
        ka_driver_attend(self.d)
        ka_driver_relieve(self.d)
        if self.waiting:
            self.admit_waiting()
            ka_driver_attend(self.d)
        self.application.leave()
        self.n_passes += 1
        if self.stalled or self.own.service.lists[KA_LATER].n:
            if self.call_soon is not None:
                self.come_again()
            else:
                self.take_turns()
        if not self.is_expiring:
            self.arm()
        self.share_gauges(0)
        self.tell_drained()
        return self.passed()

    cpdef int passed(self) except -1:
        """A pass is over: for hosts that keep count."""
        return 0

    cdef int take_turns(self) except -1:
        cdef list ready = self.stalled
        cdef TransportProtocol one
        cdef uint32_t n = self.own.service.lists[KA_LATER].n
        self.stalled = []
        for item in ready:
            one = item
            one.go_on()
        ka_driver_take_turns(self.d, n)
        ka_driver_attend(self.d)
        return 0

    cdef int come_again(self) except -1:
        if not self.is_round_coming:
            self.is_round_coming = True
            self.call_soon(self.on_round)
        return 0

    def _next_round(self):
        """In the loop's next round: whoever had more to do than a turn allows, and responses in progress."""
        self.is_round_coming = False
        self.enter()
        try:
            self.take_turns()
        finally:
            self.leave()

    cdef int attend(self, bint soon) except -1:
        if self.n_entered:
            return 0  # the end of the pass does it
        if soon and self.call_soon is not None:
            return self.come_again()
        self.enter()
        return self.leave()

    cdef int push(self, ka_exchange *core) except -1:
        cdef TransportProtocol one = self.protocol_of(ka_exchange_conn(core))
        context = self.enter_context()  # in which the loop calls when the kernel takes more
        try:
            ka_turn_push(&transport_moves, self.d, <void *>one, core.talk)
        finally:
            PyContext_Exit(context)
        return 0

    def wake(self):
        """Have the application's threads heard soon. May be called from any thread."""
        self.loop.call_soon_threadsafe(self._woken)

    def _woken(self):
        """In the loop's thread, after wake()."""
        self.enter()
        try:
            self.application.wake()
        finally:
            self.leave()

    # -- coming, and who they are ------------------------------------------------------------------------

    def add_listener(self, name, tls=None):
        """int: what connections of one listener are made with, TransportProtocol(listener=). name: (host, port), or
        (path, None). tls: as for Engine.listen(); the loop's own TLS then has no part in it. MemoryError."""
        cdef TlsListener made = self.tls_listener(tls) if tls is not None else None
        if made is None:
            self.tls.append(None)
        self.servers.append(name)
        return len(self.servers) - 1

    cdef object scratch_for(self, size_t room):
        """A writable view of `room` bytes, KA_READ_MAX at most."""
        return self.ahead_view if room == KA_READ_AHEAD else self.scratch_view[:room]

    cdef TlsListener filter_of(self, int listener):
        return self.tls[listener]

    cdef object listener_of(self, TransportProtocol one):
        """(host, port) or (path, None); None when nobody knows."""
        if one.listener >= 0:
            return self.servers[one.listener]
        if one.server is None:
            name = one.transport.get_extra_info("sockname")
            if isinstance(name, (tuple, list)) and len(name) >= 2:
                one.server = (name[0], name[1])
            else:
                one.server = (os.fsdecode(name), None) if isinstance(name, (str, bytes)) and name else False
        return one.server or None

    cdef int admit(self, TransportProtocol one) except -1:
        """A connection was made: into the table, for which another may have to go, or it waits."""
        self.enter()
        self.own.keeps_all = self.n_entered > 1  # who looks like a victim may be in its turn
        try:
            self.look_who(one)
            if self.waiting or not self.place(one):
                if len(self.waiting) < MAX_WAITING and not ka_table_capacity(self.table.table).rejects_when_full:
                    one.is_waiting = True
                    one.transport.pause_reading()
                    self.waiting.append(one)
                else:
                    self.turn_away(one, KA_CAUSE_REJECTED)
        finally:
            self.leave()
        return 0

    cdef int admit_waiting(self) except -1:
        """In the order they came, while there are places."""
        cdef TransportProtocol one
        while self.waiting:
            one = self.waiting[0]
            if one.is_waiting and not self.place(one):
                return 0
            self.waiting.popleft()
            if not one.is_waiting:
                continue  # it is gone
            one.is_waiting = False
            one.transport.resume_reading()
            early, one.early = one.early, None
            if early is not None and one.conn:
                one.receive(PyBytes_AS_STRING(early), <size_t>len(early))
            if one.has_early_fin and one.conn:
                one.eof_received()
        return 0

    cdef int look_who(self, TransportProtocol one) except -1:
        """Who is at the other end, and is it to be believed?"""
        cdef ka_client client
        name = one.transport.get_extra_info("peername")
        try:
            read_client(name or None, &client)
        except (TypeError, ValueError):
            memset(&client, 0, sizeof(client))  # what a proxy of the user's made of it
        ka_addr_pack(one.who.addr, client.family, client.addr)
        if client.family:
            one.who.port = name[1] if isinstance(name, tuple) and len(name) > 1 else 0
        elif not isinstance(one.transport.get_extra_info("sockname"), (str, bytes)):
            return 0  # no unix socket, but somebody who is gone already
        one.who.is_trusted = ka_trusts(&self.own.trust, client.family, client.addr)
        one.awaits_proxy = one.who.is_trusted and self.own.trust.expects_proxy
        return 0

    cdef bint place(self, TransportProtocol one) except -1:
        """A place in the table, or an end. False: there is no place now."""
        cdef ka_client client
        cdef ka_handle conn = 0
        cdef unsigned policy_class = one.policy_class
        cdef int got
        client.family = <uint8_t>ka_addr_unpack(one.who.addr, client.addr)
        if self.own.service.asks_clients:
            policy_class = self.class_of_client(self.listener_of(one), &client)
        client.is_proxy = one.who.is_trusted
        if one.awaits_proxy:
            client.family = 0  # whoever its header will name is not known yet
        got = ka_driver_open(self.d, policy_class, &client, one.has_filter, &conn)
        if got == KA_OK and not self.has_room(<uint32_t>conn):
            ka_conn_close(self.table.table, conn, KA_CAUSE_BUFFER_LIMIT, self.d.now)
            got = KA_ENOMEM
        if got == KA_EFULL:
            return False
        if got == KA_OK:
            Py_INCREF(one)
            self.by_slot[<uint32_t>conn] = <PyObject *>one
            one.conn = conn
        else:
            self.turn_away(one, KA_CAUSE_CLIENT_LIMIT if got == KA_ECLIENT else KA_CAUSE_BUFFER_LIMIT)
        return True

    cdef int turn_away(self, TransportProtocol one, ka_cause cause) except -1:
        ka_table_refused(self.table.table, cause)
        one.is_waiting = False
        one.say_no()
        if self.call_soon is None:
            one.transport.close()
        else:
            # When the loop has polled once more, and read what came: unread, it would make a reset of the close.
            self.call_soon(self.call_soon, one.transport.close)
        return 0

    cdef bint has_room(self, uint32_t slot) noexcept:
        cdef uint32_t n = self.n_slots, more
        cdef PyObject **grown
        if slot < n:
            return True
        more = max(slot + 1, 2 * n)
        grown = <PyObject **>realloc(self.by_slot, more * sizeof(PyObject *))
        if grown == NULL:
            return False
        memset(&grown[n], 0, (more - n) * sizeof(PyObject *))
        self.by_slot = grown
        self.n_slots = more
        return True

    cdef TransportProtocol protocol_of(self, ka_handle conn):
        return <TransportProtocol>self.by_slot[<uint32_t>conn]

    cdef object client_of(self, ka_exchange *core):
        cdef TransportProtocol one = self.protocol_of(ka_exchange_conn(core))
        if one.client is None:
            one.client = self.address_of(one.conn)
        if one.client is None:
            name = one.transport.get_extra_info("peername")
            one.client = (name[0], name[1]) if isinstance(name, (tuple, list)) and len(name) >= 2 else False
        return one.client or None

    cdef object server_of(self, ka_exchange *core):
        return self.listener_of(self.protocol_of(ka_exchange_conn(core)))

    cdef int peer(self, ka_handle conn, uint8_t *addr, uint16_t *port) except -1:
        cdef TransportProtocol one = <TransportProtocol>self.by_slot[<uint32_t>conn]
        port[0] = one.who.port
        return <int>ka_addr_unpack(one.who.addr, addr)

    cdef bint is_trusted(self, ka_handle conn) noexcept:
        return (<TransportProtocol>self.by_slot[<uint32_t>conn]).who.is_trusted

    cdef dict tls_of(self, ka_exchange *core):
        cdef TransportProtocol one = self.protocol_of(ka_exchange_conn(core))
        if one.session != NULL:
            return tls_description(one.session).copy()
        if one.is_tls and one.described is None:
            from kacore._tls_extension import describe
            tls = one.transport.get_extra_info("ssl_object")
            one.described = describe(tls) if tls is not None else {}
        return one.described.copy() if one.described else None

    cdef object give_away(self, Exchange exchange):
        import socket
        cdef ka_exchange *core = exchange.core
        cdef TransportProtocol one = self.protocol_of(ka_exchange_conn(core))
        sock = one.transport.get_extra_info("socket")
        if one.session != NULL or one.is_tls:
            raise LocalError("over TLS the socket carries ciphertext: read and write the stream instead")
        if sock is None or core.is_h2 or core.talk.is_driven or core.talk.unsent:
            raise LocalError("the socket cannot be detached now")
        given = socket.socket(fileno=os.dup(sock.fileno()))  # the transport closes its own, which says nothing to the peer
        exchange.ended(core)
        exchange.detach()
        self.enter()
        try:
            one.end(KA_CAUSE_UPGRADED)
        finally:
            self.leave()
        return given

    def set_fields(self, bytes lines not None, *, date=True):
        """As Engine.set_fields()."""
        self.set_common(lines, date)
        self.date_s = 0
        self.look_at_clock()

    # -- steering ----------------------------------------------------------------------------------------

    @property
    def n_requests(self):
        """int: request heads seen on all connections so far."""
        return self.table.counters.requests

    def drain(self, *, grace=2.0, spread=1.0, timeout=30.0):
        """As Engine.drain()."""
        self.enter()
        ka_driver_drain(self.d, <int64_t>(grace * 1e9), <int64_t>(spread * 1e9), <int64_t>(timeout * 1e9))
        self.leave()

    def close(self):
        """Close every connection, and the timer. Idempotent. From within whatever this calls: when that is over."""
        cdef TransportProtocol one
        if self.n_entered:
            self.is_closing = True
            return
        self.enter()
        while self.waiting:
            one = self.waiting.popleft()
            if one.is_waiting:
                one.is_waiting = False
                one.transport.close()
        ka_driver_close_all(self.d, KA_CAUSE_DRAIN)
        self.leave()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
            self.own.armed_ns = INT64_MAX

    def stats(self):
        """dict: passes made; newcomers that wait for a place; bytes of buffers in use, how often one was refused, and
        conversations with something pending."""
        return {
            "passes": self.n_passes, "waiting": len(self.waiting), "buffer_bytes": ka_pool_used(&self.own.service.pool),
            "max_buffer_bytes": self.own.service.pool.max_bytes,
            "buffers_refused": self.own.service.pool.refused, "talks": self.own.service.n_talks,
        }
