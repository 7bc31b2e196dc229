# The same conversation over an event loop's own transports: asyncio, uvloop, or whatever offers asyncio's protocols.
#
# For hosts that accept connections themselves (uvicorn, a server of the user's), for TLS as the loop does it, and where
# there is no epoll. What bytes mean, who is kept and who goes is decided by ka_talk and ka_conn as in the engine, in
# the same turns (ka_turn.h); here they only move. Of the loop it takes `call_later`, and `call_soon` where there is one:
# one timer for all connections, never one each.
#
# What differs from the engine, because the host accepts and reads: a newcomer to a full table from which nobody can go
# is answered 503 instead of waiting in the backlog; and instead of reading once more before a verdict, the verdict waits
# until the loop has polled once more.
from libc.stdlib cimport free, realloc

from struct import pack
from time import monotonic as monotonic_seconds

cdef bytes RESET_AT_ONCE = pack("ii", 1, 0)

cdef extern from "<time.h>" nogil:
    int64_t unix_time "time"(void *to)

cdef enum:
    READ_HIGH = 64 * 1024     # bytes that wait behind a request, above which the transport is not read
    READ_LOW = 16 * 1024
    WRITE_AT_ONCE = 256 * 1024
    TRANSPORT_EXPIRIES = 64   # a round of the loop

cdef bytes BUSY_ANSWER = (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: %d\r\n"
                          b"connection: close\r\n\r\n")


cdef class TransportProtocol:
    """One connection: an asyncio.Protocol. Made by the host for each, with the Transports it belongs to."""
    cdef readonly Transports transports
    cdef readonly object transport     # the loop's; None before and after
    cdef readonly ka_handle conn       # in transports.table; 0: not there
    cdef ka_talk *talk                 # owned; NULL while nothing is pending
    cdef size_t handed                 # bytes that the transport has and could not send yet; counted in talk.unsent
    cdef object client, server         # (host, port), None until asked for; False = there is none
    cdef tuple taker                   # who takes the connection over when this turn ends, and the head: see hand_over
    cdef uint8_t klass
    cdef ka_cause cause                # of one that lingers
    cdef bint is_write_paused, is_read_paused, is_lingering, is_tls
    cdef bint is_resuming              # inside resume_writing(), where asyncio's transports cannot bear to be closed

    def __cinit__(self, *args, **kwargs):
        pass

    def __init__(self, Transports transports not None, unsigned klass=0):
        self.transports = transports
        self.klass = <uint8_t>klass

    # -- what the loop calls -----------------------------------------------------------------------------

    def connection_made(self, transport):
        """asyncio.Protocol."""
        self.transport = transport
        self.is_tls = transport.get_extra_info("sslcontext") is not None
        limits = getattr(transport, "set_write_buffer_limits", None)
        # Not for TLS: there it counts plaintext on its way through the loop's own filter, and never ends.
        if limits is not None and not self.is_tls:
            limits(0)  # told at once when the kernel takes no more: that is when WRITE begins
        self.transports.admit(self)

    def data_received(self, data):
        """asyncio.Protocol."""
        if self.conn:
            self.transports.enter()
            try:
                self.take(data)
            finally:
                self.transports.leave()

    def eof_received(self):
        """asyncio.Protocol. True: the connection is ours to close, and answers still go out."""
        if self.conn == 0:
            return None
        self.transports.enter()
        try:
            if self.is_lingering or self.talk == NULL:
                self.end(KA_CAUSE_CLIENT)
            else:
                ka_turn_eof(&transport_moves, <void *>self.transports, self.talk)
                self.turn()
        finally:
            self.transports.leave()
        return None if self.is_tls else True

    def connection_lost(self, error):
        """asyncio.Protocol."""
        cdef int phase
        if self.conn:
            self.transports.enter()
            try:
                phase = ka_conn_phase(self.transports.table.table, self.conn)
                self.end(KA_CAUSE_CLIENT if phase in (<int>KA_IDLE, <int>KA_NEW, <int>KA_LINGER) else KA_CAUSE_ERROR)
            finally:
                self.transports.leave()
        self.transport = None

    def pause_writing(self):
        """asyncio.Protocol."""
        self.is_write_paused = True

    def resume_writing(self):
        """asyncio.Protocol."""
        self.is_write_paused = False
        if self.conn and self.talk != NULL:
            self.is_resuming = self.transports.call_soon is not None
            self.transports.enter()
            try:
                if self.account(0):
                    self.turn()
            finally:
                self.transports.leave()
                self.is_resuming = False

    # -- moving bytes ------------------------------------------------------------------------------------

    cdef int take(self, object data) except -1:
        cdef ka_cause cause
        cdef const char *bytes_in
        cdef size_t n, room
        cdef char *to
        if not isinstance(data, bytes):
            data = bytes(data)
        bytes_in = PyBytes_AS_STRING(data)
        n = <size_t>len(data)
        if n == 0:
            return 0
        if self.is_lingering:
            ka_conn_crossed(self.transports.table.table, self.conn)
            if ka_conn_progress(self.transports.table.table, self.conn, n, self.transports.moment, &cause) == KA_ESLOW:
                self.end(cause)
            return 0
        if self.talk == NULL:
            self.talk = ka_talk_new(&self.transports.service, self.conn)
            if self.talk == NULL:
                self.end(KA_CAUSE_BUFFER_LIMIT)
                return 0
        if self.talk.window_len == 0:
            ka_talk_park(self.talk)  # gives back a buffer that is used up
            ka_talk_arrived(self.talk, bytes_in, n)
        else:
            to = ka_talk_room(self.talk, n, &room)
            if to == NULL:
                self.end(KA_CAUSE_BUFFER_LIMIT)
                return 0
            memcpy(to, bytes_in, n)
            ka_talk_filled(self.talk, n)
        if ka_turn_arrived(&transport_moves, <void *>self.transports, <void *>self, self.talk, n,
                           self.transports.moment) == KA_TURN_ON:
            self.turn()  # `data` lives until it is over, and what is left of it has been copied then
        return 0

    cdef int turn(self) except -1:
        """Everything that can be done now. The connection may be gone afterwards."""
        if self.conn == 0 or self.talk == NULL:
            return 0
        ka_turn(&transport_moves, <void *>self.transports, <void *>self, self.talk, self.transports.moment)
        if self.taker is not None:
            self.hand_over()
        elif self.conn:
            self.steer_reading()
        return 0

    cdef int steer_reading(self) except -1:
        """What waits behind a request is bounded: backpressure by not reading."""
        cdef size_t waiting = 0 if self.talk == NULL else self.talk.window_len
        if not self.is_read_paused:
            if waiting > READ_HIGH:
                self.is_read_paused = True
                self.transport.pause_reading()
        elif waiting <= READ_LOW:
            self.is_read_paused = False
            self.transport.resume_reading()
        return 0

    cdef int send_some(self) except -1:
        """Hand output to the transport until it keeps some of it back. Return: a ka_cause, as ka_moves.flush."""
        cdef ka_talk *talk = self.talk
        cdef ka_cause cause
        cdef size_t n, left
        while talk.unsent > self.handed and not self.is_write_paused:
            if self.transport.is_closing():
                return <int>KA_CAUSE_ERROR  # the loop met an error, and tells of it later
            piece = next_piece_of(talk.out)
            n = <size_t>len(piece)
            if n == 0:
                return <int>KA_CAUSE_APPLICATION  # a file that became shorter than promised
            self.transport.write(piece)
            if self.is_write_paused:
                left = self.transport.get_write_buffer_size()
                self.handed = min(left, n)
                n -= self.handed
            if n:
                ka_talk_sent(talk, n)
                cause = ka_turn_left(&transport_moves, <void *>self.transports, talk, n, self.transports.moment)
                if cause != KA_N_CAUSES:
                    return <int>cause
        return <int>KA_N_CAUSES

    cdef bint account(self, size_t left) except -1:
        """The transport keeps `left` bytes of what it was handed. Return whether the connection still stands."""
        cdef ka_cause cause
        cdef size_t n
        if self.talk == NULL or self.handed <= left:
            return True
        n = self.handed - left
        self.handed = left
        ka_talk_sent(self.talk, n)
        cause = ka_turn_left(&transport_moves, <void *>self.transports, self.talk, n, self.transports.moment)
        if cause == KA_N_CAUSES:
            return True
        self.end(cause)
        return False

    # -- ends --------------------------------------------------------------------------------------------

    cdef int end(self, ka_cause cause) except -1:
        """The one way out of the table, and the transport's end. Right in every phase, and twice."""
        cdef ka_talk *talk = self.talk
        cdef bint is_unsent = talk != NULL and talk.unsent > 0
        cdef bint lies = talk != NULL and ka_talk_end_would_lie(talk)
        if not self.forget(cause):
            return 0
        if self.transport is not None:
            if lies:
                make_reset(self.transport)
            abort = getattr(self.transport, "abort", None) if is_unsent or lies else None
            if abort is not None:
                abort()
            elif self.is_resuming:
                self.transports.call_soon(self.transport.close)
            elif not self.transport.is_closing():
                self.transport.close()
        if talk != NULL:
            ka_talk_free(talk)  # last: it tells the application
        return 0

    cdef bint forget(self, ka_cause cause) except -1:
        """Leave the table. The talk is the caller's to free then. False: it had left already."""
        cdef ka_handle conn = self.conn
        if conn == 0:
            return False
        if self.is_lingering:
            cause = self.cause
        self.conn = 0
        self.talk = NULL
        ka_conn_close(self.transports.table.table, conn, cause)
        self.transports.by_slot[<uint32_t>conn] = NULL
        self.closed(CAUSES[<int>cause])
        Py_DECREF(self)  # the hold of by_slot; the caller has its own
        return True

    cpdef int closed(self, str cause) except -1:
        """It has left the table: for hosts that keep count. cause: a key of ConnectionTable.stats()["closed"]."""
        return 0

    cdef int half_close(self, ka_cause cause) except -1:
        can_write_eof = getattr(self.transport, "can_write_eof", None)
        cdef ka_talk *talk = self.talk
        if can_write_eof is None or self.transport.is_closing() or not can_write_eof():
            return self.end(cause)
        try:
            if self.is_resuming:
                self.transports.call_soon(self._end_writing)
            else:
                self.transport.write_eof()
        except OSError:  # the client is gone already, and the loop has not told yet
            return self.end(cause)
        if ka_conn_event(self.transports.table.table, self.conn, KA_EV_LINGERING, self.transports.moment) < 0:
            return self.end(cause)
        ka_conn_will_end(self.transports.table.table, self.conn, cause)
        self.is_lingering = True
        self.cause = cause
        self.talk = NULL
        self.steer_reading()
        if talk != NULL:
            ka_talk_free(talk)
        return 0

    def _end_writing(self):
        if self.transport is not None and not self.transport.is_closing():
            try:
                self.transport.write_eof()
            except OSError:
                pass  # the loop is about to tell that the client is gone

    cdef int hand_over(self) except -1:
        """Somebody else's from now on: what has come of the connection, from the request's head on, goes with it."""
        cdef ka_talk *talk = self.talk
        taker, head = self.taker
        self.taker = None
        if talk == NULL or self.conn == 0:
            return 0
        head += PyBytes_FromStringAndSize(talk.window, <Py_ssize_t>talk.window_len)
        ka_talk_sent(talk, self.handed)
        while talk.unsent:
            piece = next_piece_of(talk.out)
            self.transport.write(piece)
            ka_talk_sent(talk, <size_t>len(piece))
        self.forget(KA_CAUSE_UPGRADED)
        ka_talk_free(talk)
        taker(self.transport, head)
        return 0


cdef int make_reset(object transport) except -1:
    """Have the close send RST, so that what was cut off does not look whole."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        from socket import SO_LINGER, SOL_SOCKET  # there already
        try:
            sock.setsockopt(SOL_SOCKET, SO_LINGER, RESET_AT_ONCE)
        except OSError:
            pass
    return 0


cdef object next_piece_of(ka_buf *buf):
    """The next bytes of a list of buffers; what the application gave as bytes is given on as it is."""
    cdef Py_ssize_t n = <Py_ssize_t>(buf.end - buf.start)
    if buf.fd >= 0:
        return os.pread(buf.fd, min(n, WRITE_AT_ONCE), buf.file_off + <int64_t>buf.start)
    if (buf.owner != NULL and buf.start == 0 and n <= WRITE_AT_ONCE and PyBytes_CheckExact(<object>buf.owner)
            and PyBytes_GET_SIZE(<object>buf.owner) == n and PyBytes_AS_STRING(<object>buf.owner) == buf.ptr):
        return <object>buf.owner
    return PyBytes_FromStringAndSize(buf.ptr + buf.start, min(n, WRITE_AT_ONCE))


# -- the moves of ka_turn.h ------------------------------------------------------------------------------

cdef void move_on_request(void *port, ka_talk *talk, const ka_head *head) noexcept:
    driver_on_request(port, talk, head, talk.service.fields)


cdef ka_turned move_read(void *port, void *peer, ka_talk *talk) noexcept:
    return KA_TURN_PAUSE  # it comes when it comes


cdef ka_cause move_flush(void *port, void *peer, ka_talk *talk) noexcept:
    if talk.unsent == 0:
        return KA_N_CAUSES
    try:
        return <ka_cause>(<TransportProtocol>peer).send_some()
    except Exception:
        return KA_CAUSE_ERROR


cdef void move_look_for_fin(void *port, void *peer, ka_talk *talk) noexcept:
    pass  # the loop tells


cdef bint move_can_read(void *port, void *peer) noexcept:
    return (<TransportProtocol>peer).is_read_paused


cdef bint move_has_unread(void *port, void *peer, ka_talk *talk) noexcept:
    return (<TransportProtocol>peer).is_read_paused


cdef bint move_can_send(void *port, void *peer) noexcept:
    return not (<TransportProtocol>peer).is_write_paused


cdef void move_half_close(void *port, void *peer, ka_talk *talk, ka_cause cause) noexcept:
    try:
        (<TransportProtocol>peer).half_close(cause)
    except BaseException as error:
        (<Transports>port).failed(error)


cdef void move_end(void *port, void *peer, ka_talk *talk, ka_cause cause) noexcept:
    try:
        (<TransportProtocol>peer).end(cause)
    except BaseException as error:
        (<Transports>port).failed(error)


cdef void move_again(void *port, void *peer, ka_talk *talk) noexcept:
    (<Transports>port).again.append(<TransportProtocol>peer)


cdef void move_settled(void *port, void *peer, ka_talk *talk) noexcept:
    (<TransportProtocol>peer).talk = NULL


cdef void move_note(void *port, ka_talk *talk) noexcept:
    cdef Transports transports = <Transports>port
    if not talk.is_noted:
        talk.is_noted = True
        transports.noted.append(<TransportProtocol>transports.by_slot[<uint32_t>talk.conn])


cdef ka_moves transport_moves
transport_moves.on_request = move_on_request
transport_moves.on_news = port_on_news
transport_moves.read = move_read
transport_moves.flush = move_flush
transport_moves.look_for_fin = move_look_for_fin
transport_moves.can_read = move_can_read
transport_moves.has_unread = move_has_unread
transport_moves.can_send = move_can_send
transport_moves.half_close = move_half_close
transport_moves.end = move_end
transport_moves.again = move_again
transport_moves.settled = move_settled


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
    limits, max_buffer_bytes, server_name, access_log: as for Engine.
    Give each connection a TransportProtocol(transports). Belongs to the loop's thread; wake() may be called from others.
    """
    cdef ka_service service
    cdef ka_trust proxies
    cdef readonly object loop
    cdef object clock, call_soon, timer
    cdef object on_timer, on_round
    cdef PyObject **by_slot          # TransportProtocol by slot, a hold on each; NULL = none
    cdef uint32_t n_slots
    cdef list noted                  # whose talks want attention after the application's call
    cdef list again                  # who has more to do than one turn allows
    cdef int64_t moment, armed_ns    # ns; armed_ns: what the timer is set to, INT64_MAX = off
    cdef int64_t date_s
    cdef int n_entered
    cdef bint is_round_coming, trusts_timer, is_expiring

    def __cinit__(self, ConnectionTable table not None, Application application not None, loop, *, Limits limits=None,
                  size_t max_buffer_bytes=64 << 20, server_name="kacore", access_log=None):
        cdef const ka_limits *c = &ka_limits_default if limits is None else &limits.c
        self.serves = &self.service
        self.trusted = &self.proxies
        self.table = table
        self.application = application
        self.loop = loop
        self.trusts_timer = not hasattr(loop, "time")
        self.clock = clock_of(loop)
        self.call_soon = getattr(loop, "call_soon", None)
        self.on_timer = self._timer_fired
        self.on_round = self._next_round
        self.noted = []
        self.again = []
        self.armed_ns = INT64_MAX
        if ka_service_init(&self.service, table.table, c, max_buffer_bytes, release_object) < 0:
            raise MemoryError("no memory for the transports")
        self.service.port = <void *>self
        self.service.attend = move_note
        self.service.lost = port_on_lost
        self.service.refused = driver_on_refused
        self.access_log = access_log
        self.set_server(server_name)
        self.look_at_clock()

    def __dealloc__(self):
        # Every connection holds this object, so none is left.
        free(self.by_slot)
        ka_trust_free(&self.proxies)
        if self.service.fields != NULL:
            ka_service_free(&self.service)

    # -- time --------------------------------------------------------------------------------------------

    cdef int look_at_clock(self) except -1:
        cdef double seconds = self.clock()
        cdef int64_t s
        self.moment = max(self.moment, <int64_t>(seconds * 1e9))
        s = unix_time(NULL)
        if s != self.date_s:
            self.date_s = s
            ka_reply_common_set_date(&self.service.common, s)
        return 0

    cdef int64_t now(self) noexcept:
        if self.n_entered == 0:
            try:
                self.look_at_clock()
            except Exception:
                pass  # a clock that fails stands still
        return self.moment

    cdef int arm(self) except -1:
        """Set the timer only when something is due earlier than it will fire."""
        cdef int64_t due = ka_conn_next_due(self.table.table)
        if due >= self.armed_ns:
            return 0
        if self.timer is not None:
            self.timer.cancel()
        self.armed_ns = due
        self.timer = self.loop.call_later(max(0.0, <double>(due - self.moment) / 1e9), self.on_timer)
        return 0

    def _timer_fired(self):
        """The one timer. "Nothing has come" is no evidence before the loop has polled once more: let it."""
        cdef int64_t due = self.armed_ns
        self.timer = None
        self.armed_ns = INT64_MAX
        if self.call_soon is not None:
            self.is_expiring = True
            self.call_soon(self.call_soon, self._expire)
        else:
            if self.trusts_timer:
                self.moment = max(self.moment, due)
            self._expire()

    def _expire(self):
        """Carry out what is due, a bounded number; the rest in the next round of the loop."""
        cdef TransportProtocol one
        cdef ka_handle conn
        cdef ka_cause cause
        cdef ka_action action
        cdef int n = 0
        self.enter()
        self.is_expiring = False
        while n < TRANSPORT_EXPIRIES:
            action = ka_conn_due(self.table.table, self.moment, &conn, &cause)
            if action == KA_DO_NOTHING:
                break
            n += 1
            one = <TransportProtocol>self.by_slot[<uint32_t>conn]
            if one.handed and not one.account(one.transport.get_write_buffer_size()):
                continue
            action = ka_conn_due(self.table.table, self.moment, &conn, &cause)
            if action == KA_DO_NOTHING or one.conn != conn:
                continue
            if ka_turn_answers_late(one.talk, action, cause, self.moment):
                self.attend_noted()
            elif action == KA_DO_HALF_CLOSE:
                one.half_close(cause)
            else:
                if one.talk != NULL:
                    one.talk.cause = <uint8_t>cause  # by it the application is told why
                one.end(cause)
        self.leave()

    # -- passes ------------------------------------------------------------------------------------------

    cdef int enter(self) except -1:
        """Something happened; everything in this pass shares its moment."""
        if self.n_entered == 0:
            self.look_at_clock()
        self.n_entered += 1
        return 0

    cdef int leave(self) except -1:
        """The pass ends: what the application has made of it goes out."""
        if self.n_entered == 1:
            try:
                self.finish()
            finally:
                self.n_entered = 0
        else:
            self.n_entered -= 1
        return self.raise_pending()

    cdef int finish(self) except -1:
        if self.noted:
            self.attend_noted()
        self.application.leave()
        if self.again:
            if self.call_soon is not None:
                self.come_again()
            else:
                self.take_turns()
        if not self.is_expiring:
            self.arm()
        return self.passed()

    cpdef int passed(self) except -1:
        """A pass is over: for hosts that keep count."""
        return 0

    cdef int attend_noted(self) except -1:
        cdef TransportProtocol one
        cdef Py_ssize_t i = 0
        while i < len(self.noted):  # it may grow meanwhile
            one = self.noted[i]
            i += 1
            if one.conn and one.talk != NULL and one.talk.is_noted:
                ka_turn_attend(&transport_moves, <void *>self, <void *>one, one.talk, self.moment)
                if one.conn and one.transport is not None:
                    one.steer_reading()
        self.noted.clear()
        return 0

    cdef int take_turns(self) except -1:
        cdef list ready = self.again
        cdef TransportProtocol one
        self.again = []
        for item in ready:
            one = item
            one.turn()
        if self.noted:
            self.attend_noted()
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
        self.take_turns()
        self.leave()

    cdef int attend(self, bint soon) except -1:
        if self.n_entered:
            return 0  # the end of the pass does it
        if soon and self.call_soon is not None:
            return self.come_again()
        self.enter()
        return self.leave()

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

    cdef int admit(self, TransportProtocol one) except -1:
        """A connection was made: into the table, for which another may have to go."""
        cdef ka_client who
        cdef ka_handle conn = 0
        cdef int got
        memset(&who, 0, sizeof(who))
        self.enter()
        try:
            read_client(one.transport.get_extra_info("peername") or None, &who)
        except (TypeError, ValueError):
            memset(&who, 0, sizeof(who))  # a path, or what a proxy of the user's made of it
        got = self.open(one.klass, &who, &conn)
        if got == KA_OK:
            Py_INCREF(one)
            self.by_slot[<uint32_t>conn] = <PyObject *>one
            one.conn = conn
        else:
            ka_conn_refused(self.table.table, KA_CAUSE_CLIENT_LIMIT if got == KA_ECLIENT else KA_CAUSE_REJECTED)
            one.transport.write(BUSY_ANSWER % max(1, ka_table_capacity(self.table.table).retry_after_s))
            one.transport.close()
        return self.leave()

    cdef int open(self, unsigned klass, const ka_client *who, ka_handle *conn) except? 1:
        cdef ka_handle victim
        cdef int got = ka_conn_open(self.table.table, self.moment, klass, who, 0, conn)
        if got == KA_EFULL:
            victim = ka_conn_victim(self.table.table, self.moment)
            if victim:
                (<TransportProtocol>self.by_slot[<uint32_t>victim]).end(KA_CAUSE_EVICTED)
                got = ka_conn_open(self.table.table, self.moment, klass, who, 0, conn)
        if got == KA_OK and not self.has_room(<uint32_t>conn[0]):
            ka_conn_close(self.table.table, conn[0], KA_CAUSE_BUFFER_LIMIT)
            raise MemoryError("no memory for another connection")
        return got

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

    cdef TransportProtocol protocol_of(self, ka_talk *talk):
        return <TransportProtocol>self.by_slot[<uint32_t>talk.conn]

    cdef object client_of(self, ka_talk *talk):
        cdef TransportProtocol one = self.protocol_of(talk)
        if one.client is None:
            name = one.transport.get_extra_info("peername")
            one.client = (name[0], name[1]) if isinstance(name, (tuple, list)) and len(name) >= 2 else False
        return one.client or None

    cdef object server_of(self, ka_talk *talk):
        cdef TransportProtocol one = self.protocol_of(talk)
        if one.server is None:
            name = one.transport.get_extra_info("sockname")
            if isinstance(name, (tuple, list)) and len(name) >= 2:
                one.server = (name[0], name[1])
            else:
                one.server = (os.fsdecode(name), None) if isinstance(name, (str, bytes)) and name else False
        return one.server or None

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
        cdef TransportProtocol one
        cdef uint32_t slot
        self.enter()
        ka_conn_drain(self.table.table, self.moment, <int64_t>(grace * 1e9), <int64_t>(spread * 1e9),
                      <int64_t>(timeout * 1e9))
        for slot in range(self.n_slots):
            if self.by_slot[slot] != NULL:
                one = <TransportProtocol>self.by_slot[slot]
                if one.talk != NULL and one.talk.is_tunnel and one.talk.exchange != NULL:
                    port_on_news(<void *>self, one.talk, KA_NEWS_DRAIN)
        self.leave()

    def close(self):
        """Close every connection, and the timer. Idempotent."""
        cdef uint32_t slot
        self.enter()
        for slot in range(self.n_slots):
            if self.by_slot[slot] != NULL:
                (<TransportProtocol>self.by_slot[slot]).end(KA_CAUSE_DRAIN)
        self.leave()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
            self.armed_ns = INT64_MAX

    def stats(self):
        """dict: bytes of buffers in use, how often one was refused, and conversations with something pending."""
        return {"buffer_bytes": self.service.pool.lent_bytes, "buffers_refused": self.service.pool.refused,
                "talks": self.service.n_talks}
