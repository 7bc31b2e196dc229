# TLS: the filter of ka_wire.h by the standard library's ssl.SSLObject over two MemoryBIO.
#
# A TlsSession holds one connection's SSLObject and what it wants sent. Knows no socket and no engine. After every call
# of the SSLObject, also one that raised, the outgoing BIO is emptied into `out`: alerts, tickets and answers to a key
# update come without being asked for.
from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.memoryview cimport PyMemoryView_FromMemory

cdef object ssl   # the module, from the first TLS listener on: who embeds parser or table need not load it


cdef int import_ssl() except -1:
    global ssl
    import ssl as module
    ka_lock(&IMPORTS)
    if ssl is None:
        ssl = module
    ka_unlock(&IMPORTS)
    return 0

# nginx has a status of its own for this, 497, which no RFC knows.
cdef bytes PLAIN_ON_TLS_TEXT = b"plain HTTP on a port that speaks TLS: use https\n"
cdef bytes PLAIN_ON_TLS = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
    b"connection: close\r\n\r\n%s" % (len(PLAIN_ON_TLS_TEXT), PLAIN_ON_TLS_TEXT)
)


cdef enum:
    SMALL = 4096      # up to this size a copy costs less than a memoryview
    RECORD_HEAD = 5   # bytes in front of a record's content
    # A record may hold no content: to answer a key update (RFC 8446 4.6.3) costs as much as several requests. OpenSSL goes
    # on from one to the next inside one call, so it gets a few at a time, and so many in all.
    RECORDS_AT_ONCE = 4
    MUTE_MAX = 24     # records without content, less those with some. OpenSSL itself takes 32 empty ones in a row


cdef inline object view_of(const char *at, size_t size):
    """Bytes that the ssl module is to take now."""
    if size <= SMALL:
        return PyBytes_FromStringAndSize(at, <Py_ssize_t>size)
    return PyMemoryView_FromMemory(<char *>at, <Py_ssize_t>size, PyBUF_READ)


cdef class TlsSession:
    cdef ka_session c
    cdef TlsListener listener
    cdef object tls, incoming
    cdef object outgoing     # the listener's; empty between two calls of the filter, whatever happens in one
    cdef object moves        # what reads and writes: the SSLObject, or the object in C that it stands before
    cdef bytes out           # what c.out points into
    cdef bint is_fed         # a byte has come
    cdef bint is_over        # it failed, or said its last word
    cdef bint saw_fin
    cdef bint is_ready       # the handshake is done
    cdef bint is_split       # when last asked, it had a part of a record
    cdef bint is_one_record  # what was fed since nothing was inside is a record, whole and by itself
    cdef bytes held          # fed and not given to the SSLObject yet, from held_at on; None = nothing
    cdef size_t held_at
    cdef size_t record_left  # of the record that was begun to be given: bytes of its content to come
    cdef uint8_t record_head[5]
    cdef uint8_t n_record_head
    cdef int n_mute          # see MUTE_MAX
    cdef dict described      # what the listener's source says of it, once asked

    cdef int collect(self) except -1:
        """Take over what the SSLObject wants sent."""
        if self.outgoing.pending:
            self.append(self.outgoing.read())
        return 0

    cdef int append(self, bytes more) except -1:
        if self.c.out_len:
            more = PyBytes_FromStringAndSize(self.c.out, self.c.out_len) + more
        self.out = more
        self.c.out = PyBytes_AS_STRING(more)
        self.c.out_len = PyBytes_GET_SIZE(more)
        return 0

    cdef int feed(self, const char *bytes, size_t size) except? -99:
        cdef size_t given
        if size == 0:
            # The SSLObject is not told: it would say a fatal alert in front of the answers that are still to come, or, with
            # OP_IGNORE_UNEXPECTED_EOF, take it for a clean end.
            self.saw_fin = True
            return KA_OK
        if not self.is_fed:
            self.is_fed = True
            if b"A"[0] <= bytes[0] <= b"Z"[0]:  # no TLS record begins so, and every request of HTTP does
                self.listener.note("plain HTTP on a TLS port", None)
                self.append(PLAIN_ON_TLS)
                self.listener.counters.tls_failed += 1
                ka_count_response(self.listener.counters, 400)
                self.is_over = True
                return KA_OK
        if self.held is not None:
            self.held = self.held[self.held_at:] + PyBytes_FromStringAndSize(bytes, <Py_ssize_t>size)
            self.held_at = 0
            return KA_OK
        # RFC 8446 5.1: a record's length stands behind its type and version.
        self.is_one_record = (self.c.is_empty and not self.is_split and size > RECORD_HEAD
                              and size == RECORD_HEAD + (<size_t><uint8_t>bytes[3] << 8) + <uint8_t>bytes[4])
        given = size
        if self.is_one_record:
            self.n_mute += 1
        else:
            given = self.records_of(bytes, size)
        if given < size:
            self.held = PyBytes_FromStringAndSize(bytes + given, <Py_ssize_t>(size - given))
            self.held_at = 0
        self.c.is_empty = False
        self.incoming.write(view_of(bytes, given))
        return KA_OK

    cdef size_t records_of(self, const char *bytes, size_t size) noexcept:
        """How many of these bytes, which are given next, are RECORDS_AT_ONCE records at most. Counts whole ones as mute,
        until they are read."""
        cdef size_t at = 0, n
        cdef int whole = 0
        while at < size and whole < RECORDS_AT_ONCE:
            if self.n_record_head < RECORD_HEAD:
                self.record_head[self.n_record_head] = <uint8_t>bytes[at]
                self.n_record_head += 1
                at += 1
                if self.n_record_head < RECORD_HEAD:
                    continue
                self.record_left = (<size_t>self.record_head[3] << 8) + self.record_head[4]
            n = min(self.record_left, size - at)
            at += n
            self.record_left -= n
            if self.record_left == 0:
                self.n_record_head = 0
                whole += 1
        self.n_mute += whole
        return at

    cdef int give_more(self) except -1:
        """Of what is held, to the SSLObject."""
        cdef const char *at = PyBytes_AS_STRING(self.held) + self.held_at
        cdef size_t left = <size_t>PyBytes_GET_SIZE(self.held) - self.held_at
        cdef size_t given = self.records_of(at, left)
        self.is_one_record = False
        self.incoming.write(view_of(at, given))
        self.held_at += given
        if given == left:
            self.held = None
        return 0

    cdef bint wants_more(self) except *:
        """The SSLObject used up what it got: whether it has more now."""
        self.c.has_more = False
        if self.held is None:
            return False
        self.give_more()
        return True

    cdef int shake(self) except? -99:
        if self.is_over:
            return KA_EPEER
        try:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                if not self.wants_more():
                    raise
                self.tls.do_handshake()
            self.is_ready = True
            self.listener.counters.tls_handshakes += 1
            if self.tls.session_reused:
                self.listener.counters.tls_resumed += 1
            self.c.is_h2 = self.tls.selected_alpn_protocol() == "h2"
            self.n_mute = 0
            self.c.has_more = self.held is not None
            self.c.is_empty = self.held is None and self.incoming.pending == 0
            return KA_OK
        except ssl.SSLWantReadError:
            self.c.has_more = self.held is not None
            return KA_PARTIAL
        except ssl.SSLError as error:
            self.is_over = True
            if not self.saw_fin:
                self.listener.counters.tls_failed += 1
                self.listener.note("a TLS handshake failed", error)
            return KA_EPEER
        finally:
            self.collect()

    cdef ptrdiff_t read(self, char *to, size_t room) except? -99:
        cdef Py_ssize_t n
        if self.is_over:
            return KA_EPEER
        if self.c.is_empty and not self.saw_fin:
            return KA_PARTIAL
        self.c.has_more = False
        try:
            try:
                n = self.moves.read(<Py_ssize_t>room, self.listener.room_at(to, room))
            except ssl.SSLWantReadError:
                if not self.wants_more():
                    raise
                n = self.moves.read(<Py_ssize_t>room, self.listener.room_at(to, room))
        except ssl.SSLWantReadError:
            n = self.ran_dry()
        except ssl.SSLZeroReturnError:
            n = 0
        except ssl.SSLError as error:
            self.is_over = True
            self.listener.note("a TLS connection broke", error)
            n = KA_EPEER
        if n > 0:
            # A read gives a record at most, and what is left of it is known by the room it filled.
            self.c.is_empty = (self.held is None and <size_t>n < room
                               and (self.is_one_record or self.incoming.pending == 0))
            self.is_split = False
            self.n_mute -= 1
            if self.is_one_record and self.c.is_empty:
                return n  # that record was content, which asks for no answer
            self.is_one_record = False
        self.collect()
        return n

    cdef int ran_dry(self) except? -99:
        """All that was given is used up. Return: KA_PARTIAL, or KA_EPEER when too much of it was nothing."""
        self.n_mute = max(self.n_mute, 0)
        if self.n_mute > MUTE_MAX:
            self.is_over = self.c.is_abusive = True
            self.listener.note("a TLS client sends records without content, or key updates, and little else", None)
            return KA_EPEER
        self.c.has_more = self.held is not None
        self.c.is_empty = self.is_split = self.held is None
        return KA_ESTALE if self.saw_fin and self.held is None else KA_PARTIAL

    cdef int write(self, const iovec *iov, int n) except? -99:
        cdef int i
        cdef list pieces = []
        if self.is_over:
            return KA_EPEER
        try:
            for i in range(n):
                # A MemoryBIO takes everything: a write is whole, or it raises.
                self.moves.write(view_of(<char *>iov[i].iov_base, iov[i].iov_len))
                if n == 1:
                    self.append(self.outgoing.read())
                    return KA_OK
                pieces.append(self.outgoing.read())  # each by itself: the BIO stays as large as one record
        except ssl.SSLError as error:
            self.outgoing.read()
            self.is_over = True
            self.listener.note("a TLS connection broke", error)
            return KA_EPEER
        self.append(b"".join(pieces))
        return KA_OK

    cdef int shut(self) except? -99:
        if self.is_over or not self.is_ready:
            return KA_OK
        self.is_over = True
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass  # it waits for the peer's word, which we do not
        finally:
            self.collect()
        return KA_OK


cdef dict tls_description(ka_session *c):
    """The same dict for all requests of a connection, which costs it once."""
    cdef TlsSession session = <TlsSession>c.owner
    if session.described is None:
        session.described = session.listener.source.describe(session.tls)
    return session.described


cdef int tls_code(ka_session *c, object error) noexcept:
    """For what no TLS session should raise: out of memory, or a callback of the context that failed."""
    cdef TlsSession session = <TlsSession>c.owner
    try:
        session.is_over = True
        session.outgoing.read()
    except Exception as again:
        # What is left in it would go to another client, who could make nothing of it.
        session.listener.note("a TLS session could not be given up", again)
    return KA_ENOMEM if isinstance(error, MemoryError) else KA_EPEER


cdef ka_session *tls_open(void *ctx) noexcept:
    cdef TlsListener listener = <TlsListener>ctx
    cdef TlsSession session
    try:
        session = TlsSession.__new__(TlsSession)
        session.listener = listener
        session.incoming = ssl.MemoryBIO()
        session.outgoing = listener.outgoing
        session.tls = listener.source.context.wrap_bio(session.incoming, session.outgoing, server_side=True)
        # SSLObject.read and write do nothing but to call it, through a frame of Python each.
        session.moves = getattr(session.tls, "_sslobj", session.tls)
        session.c.filter = &tls_filter
        session.c.owner = <void *>session
        Py_INCREF(session)
        return &session.c
    except Exception as error:
        listener.note("no TLS session could be made", error)
        return NULL


cdef int tls_feed(ka_session *c, const char *bytes, size_t size) noexcept:
    try:
        return (<TlsSession>c.owner).feed(bytes, size)
    except Exception as error:
        return tls_code(c, error)


cdef int tls_shake(ka_session *c) noexcept:
    try:
        return (<TlsSession>c.owner).shake()
    except Exception as error:
        return tls_code(c, error)


cdef ptrdiff_t tls_read(ka_session *c, char *to, size_t room) noexcept:
    try:
        return (<TlsSession>c.owner).read(to, room)
    except Exception as error:
        return tls_code(c, error)


cdef int tls_write(ka_session *c, const iovec *iov, int n) noexcept:
    try:
        return (<TlsSession>c.owner).write(iov, n)
    except Exception as error:
        return tls_code(c, error)


cdef void tls_sent(ka_session *c, size_t size) noexcept:
    c.out += size
    c.out_len -= size
    if c.out_len == 0:
        (<TlsSession>c.owner).out = None


cdef void tls_shut(ka_session *c) noexcept:
    try:
        (<TlsSession>c.owner).shut()
    except Exception as error:
        tls_code(c, error)


cdef void tls_close(ka_session *c) noexcept:
    Py_DECREF(<TlsSession>c.owner)


cdef ka_filter tls_filter
tls_filter.open = tls_open
tls_filter.feed = tls_feed
tls_filter.shake = tls_shake
tls_filter.read = tls_read
tls_filter.write = tls_write
tls_filter.sent = tls_sent
tls_filter.shut = tls_shut
tls_filter.close = tls_close


cdef class TlsListener:
    """What the TLS sessions of one listener share. source.context: the ssl.SSLContext of connections from now on;
    source.describe(SSLObject): a dict, the "tls" extension of ASGI."""
    cdef object source, logger, outgoing
    cdef ka_counters *counters   # the table's, which the driver holds
    cdef char *room          # where the last read went, nearly always the engine's scratch, and a view of it
    cdef size_t room_size
    cdef object room_view

    cdef object room_at(self, char *to, size_t size):
        """A view for a read into to[0..size). Only the ssl module gets it, and only for the length of the call."""
        if to != self.room or size != self.room_size:
            self.room_view = PyMemoryView_FromMemory(to, <Py_ssize_t>size, PyBUF_WRITE)
            self.room = to
            self.room_size = size
        return self.room_view

    cdef int note(self, str what, object error) except -1:
        self.logger.debug("%s%s", what, f": {error}" if error is not None else "")
        return 0
