# One connection over an event loop's own transports: asyncio, uvloop, or whatever offers asyncio's protocols. The table of
# them all, the timer and the rounds of the loop stand in transports.pxi.
#
# For hosts that accept connections themselves (uvicorn, a server of the user's), and where there is no epoll. What bytes
# mean, who is kept and who goes is decided by ka_talk and ka_conn as in the engine, in the same turns (ka_turn.h), TLS by
# the same filter (tls.pxi); here they only move.
from libc.stdlib cimport free, realloc

from struct import pack

cdef bytes RESET_AT_ONCE = pack("ii", 1, 0)
cdef frozenset PLAIN_TRANSPORTS = frozenset({
    ("asyncio.selector_events", "_SelectorSocketTransport"), ("uvloop.loop", "TCPTransport"),
    ("uvloop.loop", "UnixTransport"),
})

cdef extern from "<time.h>" nogil:
    int64_t unix_time "time"(void *to)

cdef extern from "<sys/socket.h>" nogil:
    Py_ssize_t recv(int fd, void *to, size_t room, int flags)

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)
    unsigned long FIONREAD
    unsigned long TIOCOUTQ   # of a socket, Linux calls it SIOCOUTQ; where it means nothing, ioctl fails

cdef enum:
    WRITE_AT_ONCE = 256 * 1024
    UNPLACED_ROOM = 4096      # read at most of one that has no place yet: loops may read once before they are paused
    PROBE_SECONDS = 5


cdef class TransportProtocol:
    """One connection: an asyncio.Protocol. Made by the host for each, with the Transports it belongs to.

    It is an asyncio.BufferedProtocol as well: a loop that calls get_buffer() reads no more than is wanted, into memory that
    all connections share. (asyncio asks a protocol by its class: derive from both.)

    policy_class: its class in the table, unless rules are asked. listener: what Transports.add_listener() gave; -1: the
    host's own, whose TLS is the loop's.
    """
    cdef readonly Transports transports
    cdef readonly object transport     # the loop's; None before and after
    cdef readonly ka_handle conn       # in transports.table; 0: not there
    cdef ka_talk *talk                 # owned; NULL while nothing is pending
    cdef ka_session *session           # owned; what the bytes pass through. NULL: straight, or no byte has come yet
    cdef size_t handed                 # bytes that the transport has and could not send yet; counted in talk.unsent
    cdef object client, server         # (host, port), None until asked for; False = there is none
    cdef dict described                # its TLS, when that is the loop's; None until asked for
    cdef object taker                  # who takes the connection over when this turn ends: see hand_over
    cdef bytes early                   # what came before it had a place, or of a PROXY header that is not whole
    cdef ka_peer who
    cdef int listener
    cdef uint8_t policy_class
    cdef bint is_write_paused, is_read_paused, is_lingering
    cdef bint is_unwatched             # among Transports.unwatched
    cdef bint saw_fin                  # the filter was told of FIN
    cdef bint has_more                 # the filter may have more to give without being fed
    cdef bint is_plain                 # the loop's own, straight from its socket to data_received()
    cdef bint is_tls                   # by the loop
    cdef bint has_filter               # TLS by the listener's filter
    cdef bint is_waiting               # for a place in the table
    cdef bint has_early_fin            # FIN came meanwhile
    cdef bint awaits_proxy             # its first bytes are to be a PROXY header
    cdef bint is_resuming              # inside resume_writing(), where asyncio's transports cannot bear to be closed

    def __cinit__(self, *args, **kwargs):
        pass

    def __init__(self, Transports transports not None, unsigned policy_class=0, int listener=-1):
        self.transports = transports
        self.policy_class = <uint8_t>policy_class
        self.listener = listener
        self.has_filter = listener >= 0 and transports.filter_of(listener) is not None

    # -- what the loop calls -----------------------------------------------------------------------------

    def connection_made(self, transport):
        """asyncio.Protocol."""
        self.transport = transport
        self.is_tls = transport.get_extra_info("sslcontext") is not None
        if self.is_tls:
            self.transports.has_tls = True
        self.is_plain = is_plain_transport(type(transport))
        limits = getattr(transport, "set_write_buffer_limits", None)
        # Not for TLS: there it counts plaintext on its way through the loop's own filter, and never ends.
        if limits is not None and not self.is_tls:
            limits(0)  # told at once when the kernel takes no more: that is when WRITE begins
        # asyncio's, of one read: what a connection holds, and a turn takes, is bounded by it.
        if getattr(transport, "max_size", 0) > KA_READ_MAX:
            transport.max_size = KA_READ_MAX
        self.transports.admit(self)

    def data_received(self, data):
        """asyncio.Protocol."""
        data = bytes(data)
        self.arrived(PyBytes_AS_STRING(data), <size_t>len(data))

    def get_buffer(self, sizehint):
        """asyncio.BufferedProtocol: where the loop is to put what it reads, and how much at most."""
        return self.transports.scratch_for(self.appetite())

    def buffer_updated(self, nbytes):
        """asyncio.BufferedProtocol: it has read so many bytes."""
        self.arrived(self.transports.scratch, nbytes)

    cdef int arrived(self, const char *raw, size_t n) except -1:
        if self.conn:
            self.transports.enter()
            try:
                self.receive(raw, n)
            finally:
                self.transports.leave()
        elif self.is_waiting:
            data = PyBytes_FromStringAndSize(raw, <Py_ssize_t>n)
            self.early = data if self.early is None else self.early + data
            self.transport.resume_reading()  # a pause before the loop begins to read is forgotten by some
            self.transport.pause_reading()
        return 0

    cdef size_t appetite(self) noexcept:
        """How much may be read now."""
        if self.conn == 0:
            return UNPLACED_ROOM
        if self.is_lingering:
            return KA_READ_MAX
        if self.has_filter:
            return KA_WIRE_RECORD  # a record at a time, as the engine: a filter's buffers stay as large as what was put in
        return <size_t>KA_READ_AHEAD if self.talk == NULL else max(<size_t>1, ka_talk_appetite(self.talk))

    def eof_received(self):
        """asyncio.Protocol. True: the connection is ours to close, and answers still go out."""
        if self.conn == 0:
            self.has_early_fin = self.is_waiting
            return self.is_waiting and not self.is_tls
        self.transports.enter()
        try:
            if self.awaits_proxy:
                self.end(KA_CAUSE_CLIENT if self.early is None else KA_CAUSE_BAD_REQUEST)
            elif self.has_filter and not self.is_lingering:
                self.feed(NULL, 0)
            elif self.is_lingering:
                ka_driver_discarded(self.transports.d, self.conn, <void *>self, 0, 0)
            else:
                self.fin()
        finally:
            self.transports.leave()
        return None if self.is_tls else True

    def connection_lost(self, error):
        """asyncio.Protocol."""
        if self.conn:
            self.transports.enter()
            try:
                self.broke()
            finally:
                self.transports.leave()
        self.is_waiting = False
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

    cdef int read_ahead(self) except -1:
        """What the kernel has for us, taken as the loop would in its next round: who has asked is not idle. Only where
        nothing but the loop stands between the socket and us."""
        cdef Py_ssize_t n
        if not self.is_plain or self.is_read_paused or self.transport.is_closing():
            return 0
        if asked_of_socket(self.transport, FIONREAD) == 0:
            return 0
        n = recv(self.transport.get_extra_info("socket").fileno(), self.transports.scratch, self.appetite(), 0)
        if n > 0:
            self.receive(self.transports.scratch, <size_t>n)
        return 0

    cdef int receive(self, const char *raw, size_t n) except -1:
        cdef bytes behind
        if self.is_lingering:
            return self.discard(n)
        if self.awaits_proxy:
            behind = self.introduce(PyBytes_FromStringAndSize(raw, <Py_ssize_t>n))
            raw = PyBytes_AS_STRING(behind)
            n = <size_t>len(behind)
        if n == 0:
            return 0
        return self.feed(raw, n) if self.has_filter else self.take(raw, n)

    cdef bint has_talk(self) noexcept:
        """Its talk is there, or has just been made. False: there was no memory for one, and it has ended."""
        return ka_turn_has_talk(&transport_moves, self.transports.d, self.conn, <void *>self)

    cdef int take(self, const char *bytes_in, size_t n) except -1:
        """Bytes of the conversation, which stay where they are until this returns."""
        cdef size_t room
        cdef char *to
        if not self.has_talk():
            return 0
        if self.talk.window_len == 0:
            ka_talk_park(self.talk)  # gives back a buffer that is used up
            ka_talk_arrived(self.talk, bytes_in, n)
        else:
            to = ka_driver_room_behind(self.transports.d, self.talk, n, &room)
            if to == NULL:
                self.end(KA_CAUSE_BUFFER_LIMIT)
                return 0
            memcpy(to, bytes_in, n)
            ka_talk_filled(self.talk, n)
        if ka_turn_arrived(self.transports.d, <void *>self, self.talk, n) == KA_TURN_ON:
            self.turn()  # what is left of the bytes has been copied when it is over
        return 0

    cdef int fin(self) except -1:
        """The client will send nothing more."""
        if self.talk == NULL:
            return self.end(KA_CAUSE_CLIENT)
        ka_turn_eof(self.transports.d, self.talk)
        self.turn()
        return self.watch_for_end()

    cdef int watch_for_end(self) except -1:
        """Its FIN has come, and the application is busy with its request: it may wait for the answer, or be gone. See
        ka_wire_probe; and the loop does not watch a transport that it does not read."""
        if (self.conn and self.talk != NULL and not self.is_unwatched
                and (self.talk.h2 != NULL or ka_exchange_is_open(&self.talk.exchange))):
            probe(self.transport)
            self.transports.unwatched.add(self)
            self.is_unwatched = True
        return 0

    cdef int discard(self, size_t n) except -1:
        """What a lingering client still sends. The answer to a close_notify is no request that crossed our close: at most
        an alert, RFC 8446 6.1."""
        cdef size_t least = <size_t>KA_TLS_ALERT_MAX if self.has_filter else 0
        if not ka_driver_discarded(self.transports.d, self.conn, <void *>self, n, least):
            return 0
        if n >= KA_READ_AHEAD and not self.is_read_paused:  # a loop may go on reading while there is something
            self.is_read_paused = True
            self.transport.pause_reading()
            self.again()
        return 0

    cdef bytes introduce(self, bytes data):
        """Take a PROXY header. Return what came behind it; b"" also when it is not whole, or was none."""
        cdef ka_driver *d = self.transports.d
        cdef int got
        if self.early is not None:
            data = self.early + data
            self.early = None
        got = ka_driver_introduce(d, self.conn, PyBytes_AS_STRING(data), <size_t>len(data), &self.who)
        if got == KA_PARTIAL:
            self.early = data
            return b""
        if got < 0:
            ka_driver_turn_away(d, self.conn, <void *>self, got)
            return b""
        self.awaits_proxy = False
        self.client = None
        return data[got:]

    cdef int say_no(self) except -1:
        """503, where that can be said: not before a handshake."""
        cdef char text[KA_NO_MAX]
        cdef size_t n = ka_driver_no(self.transports.d, text)
        if not self.has_filter:
            self.transport.write(PyBytes_FromStringAndSize(text, <Py_ssize_t>n))
            ka_count_response(self.transports.own.service.counters, 503)
        return 0

    # -- through TLS -------------------------------------------------------------------------------------

    cdef int feed(self, const char *raw, size_t n) except -1:
        """Bytes of the peer, for the filter; n 0 = FIN."""
        cdef ka_session *session = self.session
        cdef TlsListener listener
        cdef int got
        if session == NULL:
            if n == 0:
                return self.end(KA_CAUSE_CLIENT)
            listener = self.transports.filter_of(self.listener)
            session = tls_open(<void *>listener)
            if session == NULL:
                return self.end(KA_CAUSE_ERROR)
            self.session = session
        got = session.filter.feed(session, raw, n)
        if got < 0:
            return self.end(KA_CAUSE_ERROR)
        self.saw_fin = self.saw_fin or n == 0
        self.has_more = True
        return self.go_on()

    cdef int go_on(self) except -1:
        """A turn that was asked for, or that bytes which were fed give reason for."""
        if self.session == NULL:
            return self.turn()
        if ka_conn_phase(self.transports.table.table, self.conn) == KA_HANDSHAKE and not self.shake():
            return 0
        if not self.has_talk():
            return 0
        self.turn()
        return self.watch_for_end() if self.saw_fin else 0

    cdef bint shake(self) except -1:
        """Go on with the handshake. Return whether it is done, and that was not enough for one turn."""
        cdef ka_session *session = self.session
        cdef int got = session.filter.shake(session)
        self.say_of_session()
        self.has_more = session.has_more
        if self.saw_fin:
            self.end(KA_CAUSE_CLIENT)
        elif got != KA_OK and got != KA_PARTIAL:
            # So that the alert, which says why, is not eaten by RST.
            ka_driver_half_close(self.transports.d, self.conn, <void *>self, KA_CAUSE_ERROR)
        else:
            if got == KA_OK:
                ka_conn_event(self.transports.table.table, self.conn, KA_EV_HANDSHAKE_DONE, self.transports.own.now)
                if session.is_h2 and not ka_turn_agreed_h2(&transport_moves, self.transports.d, self.conn, <void *>self):
                    return False
                if not self.has_more:
                    self.has_more = True  # the first request may have come with the last of the handshake
                    return True
            if self.has_more:
                self.again()
            self.steer_reading()
        return False

    cdef ptrdiff_t take_through(self) except? -1:
        """The next that the filter has, up to what is wanted, into the window. Return: as ka_moves.receive."""
        cdef ka_driver *d = self.transports.d
        cdef char *scratch = self.transports.scratch
        cdef size_t room = KA_READ_MAX
        cdef char *to = ka_turn_room(d, self.talk, scratch, &room)
        cdef ptrdiff_t n
        if to == NULL:
            return KA_ENOMEM
        self.talk.is_filtered = True
        n = self.session.filter.read(self.session, to, room)
        # Behind the last bytes FIN is still to be asked for.
        self.has_more = self.session.has_more or (n > 0 and (self.saw_fin or not self.session.is_empty))
        d.turn_bytes += KA_READ_COST
        self.say_of_session()
        if n > 0:
            d.turn_bytes += <size_t>n
            ka_turn_took(self.talk, scratch, to, <size_t>n)
        elif n == KA_ESTALE:
            return KA_EPEER if ka_turn_is_cut_short(self.talk) else 0
        elif n == KA_EPEER and self.session.is_abusive:
            return KA_EINVAL
        return n

    cdef int say_of_session(self) except -1:
        """What the filter itself has to say: handshake, tickets, alerts."""
        if self.session != NULL and self.session.out_len and not self.transport.is_closing():
            self.transport.write(out_of(self.session))
        return 0

    cdef int shut_session(self) except -1:
        """The filter's last word; not behind a response that was cut off, which would pass for whole then."""
        cdef ka_session *session = self.session
        if session == NULL:
            return 0
        if self.transport is not None and (self.talk == NULL or not (ka_talk_is_cut(self.talk) or self.talk.unsent)):
            session.filter.shut(session)
            self.say_of_session()
        self.session = NULL
        self.has_more = False  # or a lingering one would never be read again
        session.filter.close(session)
        return 0

    # -- turns -------------------------------------------------------------------------------------------

    cdef int again(self) except -1:
        """To have another turn soon, after the others'."""
        ka_driver_again(self.transports.d, self.conn, <void *>self, self.talk)
        return 0

    cdef int turn(self) except -1:
        """Everything that can be done now. The connection may be gone afterwards."""
        if self.conn and self.is_lingering:
            return self.steer_reading()
        if self.conn == 0 or self.talk == NULL:
            return 0
        self.transports.own.turn_bytes = 0
        ka_turn(&transport_moves, self.transports.d, <void *>self, self.talk)
        if self.taker is not None:
            self.hand_over()
        elif self.conn:
            self.steer_reading()
        return 0

    cdef int steer_reading(self) except -1:
        """What is sent ahead of its turn is bounded: the rest stays in the kernel. The loop does not see the end of a
        transport that is not read; see Transports.look_at_unwatched."""
        cdef size_t appetite = KA_READ_AHEAD if self.talk == NULL else ka_talk_appetite(self.talk)
        if self.has_more:
            appetite = 0  # what the filter was fed first
        if not self.is_read_paused:
            if appetite == 0:
                self.is_read_paused = True
                self.transport.pause_reading()
                self.transports.unwatched.add(self)
                self.is_unwatched = True
        elif appetite >= KA_READ_BEHIND:
            self.is_read_paused = False
            self.transport.resume_reading()
            self.watch_no_longer()
        return 0

    cdef int looked_at(self, bint is_broken) except -1:
        """What the kernel says of one that the loop does not read: FIN has come, or it is over."""
        if is_broken:
            return self.broke()
        if self.talk != NULL and not ka_talk_sees_fin(self.talk):
            ka_turn_fin(self.transports.d, self.talk)
            probe(self.transport)
        return 0

    cdef int watch_no_longer(self) except -1:
        if self.is_unwatched:
            self.is_unwatched = False
            self.transports.unwatched.discard(self)
        return 0

    cdef int send_some(self) except -1:
        """Hand output to the transport until it keeps some of it back. Return: a ka_cause, as ka_moves.flush."""
        cdef ka_talk *talk = self.talk
        cdef ka_cause cause
        cdef size_t n, left, total = 0
        while talk.unsent > self.handed and not self.is_write_paused:
            if total >= KA_TURN_OUTPUT:  # a client that takes as fast as we give is not alone
                self.again()
                break
            if self.transport.is_closing():
                return <int>KA_CAUSE_ERROR  # the loop met an error, and tells of it later
            if self.session == NULL:
                piece = next_piece_of(talk.out)
                n = <size_t>len(piece)
            else:
                if ka_filter_encrypt(self.session, talk) < 0:
                    return <int>KA_CAUSE_ERROR
                n = self.session.n_covered
                self.session.n_covered = 0
                piece = out_of(self.session)
            if n == 0:
                return <int>KA_CAUSE_APPLICATION  # a file that became shorter than promised
            self.transport.write(piece)
            total += n
            if self.is_write_paused:
                left = self.transport.get_write_buffer_size()  # of ciphertext: never less than of what it stands for
                self.handed = min(left, n)
                n -= self.handed
                talk.outq = queue_of(self.transport)
            if n:
                ka_talk_sent(talk, n)
                cause = ka_turn_left(self.transports.d, talk, n)
                if cause != KA_CAUSE_NONE:
                    return <int>cause
        return <int>KA_CAUSE_NONE

    cdef bint account(self, size_t left) except -1:
        """The transport keeps `left` bytes of what it was handed. Return whether the connection still stands."""
        cdef ka_cause cause
        cdef size_t n
        if self.talk == NULL or self.handed <= left:
            return True
        n = self.handed - left
        self.handed = left
        ka_talk_sent(self.talk, n)
        cause = ka_turn_left(self.transports.d, self.talk, n)
        if cause == KA_CAUSE_NONE:
            return True
        self.end(cause)
        return False

    # -- ends --------------------------------------------------------------------------------------------

    cdef int end(self, ka_cause cause) except -1:
        """Out of the table, and the transport's end. Right in every phase, and twice."""
        if self.conn:
            ka_driver_close(self.transports.d, self.conn, cause)
        return 0

    cdef int broke(self) except -1:
        """The connection is gone altogether."""
        return self.end(ka_turn_broken(ka_conn_phase(self.transports.table.table, self.conn)))

    cdef int close(self, ka_cause cause, ka_how how) except -1:
        """The table knows it no longer."""
        self.transports.by_slot[<uint32_t>self.conn] = NULL
        self.conn = 0
        self.watch_no_longer()
        self.closed(CAUSES[<int>cause])
        if self.transport is None:
            return 0
        if how == KA_CLOSE_RESET:
            make_reset(self.transport)
        leave = getattr(self.transport, "abort", None) if how != KA_CLOSE else None
        if leave is None and not self.transport.is_closing():
            leave = self.transport.close
        if leave is not None and self.is_resuming:
            self.transports.call_soon(leave)
        elif leave is not None:
            leave()
        return 0

    cpdef int closed(self, str cause) except -1:
        """It has left the table: for hosts that keep count. cause: a key of ConnectionTable.stats()["closed"]."""
        return 0

    cdef int send_fin(self) except -2:
        """-1: it cannot be, or not any more."""
        can_write_eof = getattr(self.transport, "can_write_eof", None)
        if can_write_eof is None or self.transport.is_closing() or not can_write_eof():
            return -1
        try:
            if self.is_resuming:
                self.transports.call_soon(self._end_writing)
            else:
                self.transport.write_eof()
        except OSError:  # the client is gone already, and the loop has not told yet
            return -1
        return 0

    def _end_writing(self):
        if self.transport is not None and not self.transport.is_closing():
            try:
                self.transport.write_eof()
            except OSError:
                pass  # the loop is about to tell that the client is gone

    cdef int hand_over(self) except -1:
        """Somebody else's from now on, with what has come behind the request's head. Nobody is told of a FIN twice: who has
        said everything already has no use for an upgrade."""
        cdef ka_talk *talk = self.talk
        taker, self.taker = self.taker, None
        if talk == NULL or self.conn == 0:
            return 0
        if ka_talk_is_eof(talk):
            return self.end(KA_CAUSE_CLIENT)
        rest = PyBytes_FromStringAndSize(talk.window, <Py_ssize_t>talk.window_len)
        ka_talk_sent(talk, self.handed)
        while talk.unsent:
            piece = next_piece_of(talk.out)
            self.transport.write(piece)
            ka_talk_sent(talk, <size_t>len(piece))
        transport, self.transport = self.transport, None
        self.end(KA_CAUSE_UPGRADED)
        self.transport = transport  # hosts may look at it still; until here it was hidden from what ends a connection
        if self.is_read_paused:
            self.is_read_paused = False
            transport.resume_reading()
        taker(transport, rest)
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


cdef int probe(object transport) except -1:
    """As ka_wire_probe, where there are such options."""
    import socket
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return 0
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name in ("TCP_KEEPIDLE", "TCP_KEEPALIVE", "TCP_KEEPINTVL"):  # the second is macOS's word for the first
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), PROBE_SECONDS)
    except OSError:
        pass
    return 0


cdef bytes out_of(ka_session *session):
    """All that the filter wants sent."""
    cdef bytes out = (<TlsSession>session.owner).out
    if <size_t>len(out) != session.out_len:
        out = PyBytes_FromStringAndSize(session.out, <Py_ssize_t>session.out_len)
    session.filter.sent(session, session.out_len)
    return out


cdef int queue_of(object transport) except -1:
    """Bytes in the kernel's send queue; 0 where that cannot be known."""
    return asked_of_socket(transport, TIOCOUTQ)


cdef int asked_of_socket(object transport, unsigned long what) except -1:
    cdef int n = 0
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0 and ioctl(sock.fileno(), what, &n) == 0:
        return max(0, n)
    return 0


cdef bint is_plain_transport(type kind) except -1:
    """Whether a loop's transport gives on what its socket has, as it is and at once. Nobody else's is taken for one:
    bytes that were read past it would be lost to it."""
    return (kind.__module__, kind.__name__) in PLAIN_TRANSPORTS


cdef object next_piece_of(ka_buf *buf):
    """The next bytes of a list of buffers; what the application gave as bytes is given on as it is."""
    cdef Py_ssize_t n = <Py_ssize_t>(buf.end - buf.start)
    if buf.fd >= 0:
        return os.pread(buf.fd, min(n, WRITE_AT_ONCE), buf.file_off + <int64_t>buf.start)
    if (buf.owner != NULL and buf.start == 0 and n <= WRITE_AT_ONCE and PyBytes_CheckExact(<object>buf.owner)
            and PyBytes_GET_SIZE(<object>buf.owner) == n and PyBytes_AS_STRING(<object>buf.owner) == buf.ptr):
        return <object>buf.owner
    return PyBytes_FromStringAndSize(buf.ptr + buf.start, min(n, WRITE_AT_ONCE))


# -- the moves of ka_driver.h ----------------------------------------------------------------------------

cdef ptrdiff_t transport_receive(ka_driver *d, void *peer, ka_talk *talk) noexcept:
    try:
        return (<TransportProtocol>peer).take_through()
    except BaseException as error:
        (<Transports>d.owner).failed(error)
        return KA_EPEER


cdef ka_cause transport_flush(ka_driver *d, void *peer, ka_talk *talk) noexcept:
    if talk.unsent == 0:
        return KA_CAUSE_NONE
    try:
        return <ka_cause>(<TransportProtocol>peer).send_some()
    except BaseException as error:
        (<Transports>d.owner).failed(error)
        return KA_CAUSE_ERROR


cdef bint transport_saw_fin(ka_driver *d, void *peer, ka_talk *talk) noexcept:
    return (<TransportProtocol>peer).session != NULL and (<TransportProtocol>peer).saw_fin  # else the loop tells


cdef bint transport_can_read(ka_driver *d, void *peer) noexcept:
    return (<TransportProtocol>peer).has_more  # what comes straight from the loop comes when it comes


cdef bint transport_can_send(ka_driver *d, void *peer) noexcept:
    return not (<TransportProtocol>peer).is_write_paused


cdef bint transport_has_unread(ka_driver *d, void *peer, ka_talk *talk) noexcept:
    # With a filter always: the client's own last word is on its way.
    return (<TransportProtocol>peer).is_read_paused or (<TransportProtocol>peer).session != NULL


cdef void *transport_peer_of(ka_driver *d, ka_handle conn) noexcept:
    return (<Transports>d.owner).by_slot[<uint32_t>conn]


cdef ka_talk **transport_talk_of(void *peer) noexcept:
    return &(<TransportProtocol>peer).talk


cdef void transport_turn(ka_driver *d, ka_handle conn, void *peer) noexcept:
    cdef TransportProtocol one = <TransportProtocol>peer
    try:
        one.go_on()
    except BaseException as error:
        (<Transports>d.owner).failed(error)


cdef void transport_attend(ka_driver *d, ka_handle conn, void *peer) noexcept:
    cdef TransportProtocol one = <TransportProtocol>peer
    d.turn_bytes = 0
    ka_turn_attend(&transport_moves, d, peer, one.talk)
    try:
        if one.conn and one.transport is not None:
            one.steer_reading()
    except BaseException as error:
        (<Transports>d.owner).failed(error)


cdef void transport_again(ka_driver *d, ka_handle conn, void *peer) noexcept:
    (<Transports>d.owner).stalled.append(<TransportProtocol>peer)
    transport_wake(d)


cdef void transport_look(ka_driver *d, ka_handle conn, void *peer, int phase) noexcept:
    cdef TransportProtocol one = <TransportProtocol>peer
    try:
        if phase != KA_WRITE:
            one.read_ahead()
        elif one.handed:
            one.account(one.transport.get_write_buffer_size())
    except BaseException as error:
        (<Transports>d.owner).failed(error)


cdef int transport_queued(ka_driver *d, void *peer) noexcept:
    try:
        return queue_of((<TransportProtocol>peer).transport)
    except BaseException as error:
        (<Transports>d.owner).failed(error)
        return -1


cdef void transport_shut(ka_driver *d, ka_handle conn, void *peer) noexcept:
    try:
        (<TransportProtocol>peer).shut_session()
    except BaseException as error:
        (<Transports>d.owner).failed(error)


cdef int transport_send_fin(ka_driver *d, ka_handle conn, void *peer) noexcept:
    try:
        return (<TransportProtocol>peer).send_fin()
    except BaseException as error:
        (<Transports>d.owner).failed(error)
        return -1


cdef void transport_linger(ka_driver *d, ka_handle conn, void *peer) noexcept:
    cdef TransportProtocol one = <TransportProtocol>peer
    one.is_lingering = True
    try:
        one.steer_reading()
    except BaseException as error:
        (<Transports>d.owner).failed(error)


cdef void transport_close(ka_driver *d, ka_handle conn, void *peer, ka_cause cause, ka_how how) noexcept:
    cdef TransportProtocol one = <TransportProtocol>peer
    try:
        one.close(cause, how)
    except BaseException as error:
        (<Transports>d.owner).failed(error)
    Py_DECREF(one)  # the hold of by_slot


cdef void transport_say_no(ka_driver *d, void *peer) noexcept:
    try:
        (<TransportProtocol>peer).say_no()
    except BaseException as error:
        (<Transports>d.owner).failed(error)


cdef int64_t transport_clock(ka_driver *d) noexcept:
    return (<Transports>d.owner).now_exactly()


cdef void transport_wake(ka_driver *d) noexcept:
    cdef Transports transports = <Transports>d.owner
    try:
        if transports.n_entered == 0 and transports.call_soon is not None:
            transports.come_again()
    except BaseException as error:
        transports.failed(error)


cdef int transport_set_timer(ka_driver *d, int64_t at) noexcept:
    try:
        return (<Transports>d.owner).set_timer(at)
    except BaseException as error:
        (<Transports>d.owner).failed(error)
        return -1


cdef ka_moves transport_moves
transport_moves.receive = transport_receive
transport_moves.flush = transport_flush
transport_moves.saw_fin = transport_saw_fin
transport_moves.can_read = transport_can_read
transport_moves.can_send = transport_can_send
transport_moves.has_unread = transport_has_unread
transport_moves.peer_of = transport_peer_of
transport_moves.talk_of = transport_talk_of
transport_moves.turn = transport_turn
transport_moves.attend = transport_attend
transport_moves.again = transport_again
transport_moves.look = transport_look
transport_moves.queued = transport_queued
transport_moves.shut = transport_shut
transport_moves.send_fin = transport_send_fin
transport_moves.linger = transport_linger
transport_moves.close = transport_close
transport_moves.say_no = transport_say_no
transport_moves.clock = transport_clock
transport_moves.wake = transport_wake
transport_moves.set_timer = transport_set_timer
