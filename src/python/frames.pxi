# Messages of a websocket as a server reads them: bytes of a Tunnel in, one message or control frame at a time out. Frames:
# ka_ws.h; inflating, RFC 7692: zlib of the standard library.
#
# What a client can make it hold is one message, `max_size` bytes at most, counted in the worker's budget as it grows:
# frames leave nothing behind, so it does not matter in how many of them a message comes. Inflating stops at the limit.
# What a client can make it do in one step is bounded, too: every byte, frame, inflated byte and event has its cost, and
# when they are used up the rest waits for the next round of the loop, unread.

cdef extern from "http/ka_ws.h" nogil:
    enum:
        KA_WS_CONT
        KA_WS_TEXT
        KA_WS_BINARY
        KA_WS_CONTROL_MAX
    ctypedef struct ka_ws_frame:
        uint64_t left
        uint8_t opcode, is_fin, is_rsv1, is_open
    ctypedef struct ka_ws_text:
        uint8_t left
    int ka_ws_read_head(ka_ws_frame *frame, const char *at, size_t n, size_t *used, const char **why)
    void ka_ws_unmask(ka_ws_frame *frame, char *at, size_t n)
    size_t ka_ws_write_head(char *to, unsigned first, size_t n)
    bint ka_ws_text_goes_on(ka_ws_text *state, const char *text, size_t n)

cdef enum:
    # About nanoseconds: half a millisecond is the share of one client in a round.
    FRAME_STEP = 500 * 1000
    COST_BYTE = 2
    COST_INFLATED = 5
    COST_FRAME = 100
    COST_INFLATE = 2000
    COST_EVENT = 4000           # it becomes objects, and a step of the application
    FRAME_PIECE = 64 * 1024     # of payload, at once
    INFLATE_PIECE = 4 * 1024
    INFLATED_PIECE = 32 * 1024
    MESSAGE_OBJECTS = 512       # what a message costs besides its bytes, while it waits
    MESSAGE_ROOM = 4096         # the least that a message grows by
    MESSAGE_LARGE = 256 * 1024  # one that is larger moves no more: it gets room for what it may become, which costs
    MESSAGE_RESERVE = 64 << 20  # no memory before it is written to; up to here
    HELD_STEP = 64 * 1024       # of what is written it is counted by so much

cdef enum:
    FRAMES_WAIT = 0   # for bytes: readable() will be called
    FRAMES_SPENT = 1  # more is here, and this step's share is used up: ask again in the next round of the loop
    FRAMES_END = 2    # the client will send nothing more
    FRAMES_FAILED = 3  # `code` and `why` say which rule was broken: nothing more will be read

cdef bytes DEFLATE_END = b"\x00\x00\xff\xff"  # RFC 7692 7.2.2
cdef object zlib


@cython.no_gc_clear
cdef class FrameReader:
    """The messages of one Tunnel that has become a websocket.

    max_size: bytes of one message, uncompressed. window_bits: of the client's permessage-deflate; 0 = not agreed upon.
    keeps_context: it is inflated from message to message.
    """
    cdef Tunnel tunnel
    cdef Holding holding
    cdef ka_ws_frame frame
    cdef ka_ws_text utf8
    cdef PyObject *message           # bytes with room for `room`, owned; NULL = none yet
    cdef size_t n, room, max_size    # n: bytes of the message so far
    cdef size_t held                 # what is counted for it
    cdef object inflater
    cdef bytes tail                  # what the inflater has not taken yet; b"" = it may have more to give; None = it has not
    cdef int window_bits
    cdef int64_t moment, spent       # `spent` in the step whose time is `moment`
    cdef char control[125]
    cdef uint8_t n_control, kind
    cdef bint is_open, is_deflated, is_ending, keeps_context
    cdef int opcode                  # of what next_event() gave last
    cdef int state, code
    cdef str why
    cdef readonly uint64_t n_bytes   # taken so far

    def __cinit__(self, Tunnel tunnel not None, size_t max_size, *, int window_bits=0, bint keeps_context=True):
        global zlib
        self.tunnel = tunnel
        self.holding = holding_of(tunnel.driver)
        self.max_size = max_size
        self.window_bits = window_bits
        self.keeps_context = keeps_context
        self.moment = -1
        if window_bits:
            import zlib as module
            ka_lock(&IMPORTS)
            if zlib is None:
                zlib = module
            ka_unlock(&IMPORTS)

    def __dealloc__(self):
        if self.holding is not None:
            self.drop()

    cdef void drop(self) noexcept:
        """Forget the message."""
        cdef PyObject *message = self.message
        self.message = NULL
        self.holding.let_go(self.held)
        self.n = self.room = self.held = 0
        if message != NULL:
            Py_DECREF(<object>message)

    cdef void let_go(self, size_t nbytes) noexcept:
        """A message of `nbytes` that next_event() gave waits no longer."""
        self.holding.let_go(nbytes + MESSAGE_OBJECTS)

    cdef object next_event(self):
        """bytes: a message, or the payload of a control frame; `opcode` says which. None: `state` says why."""
        cdef ka_exchange *core
        cdef const char *at = NULL
        cdef size_t n = 0  # bytes that are here
        cdef int64_t now = self.tunnel.driver.now()
        cdef int got
        if self.code:
            return None
        if now != self.moment:  # all that comes in one step of the engine shares its time
            self.moment = now
            self.spent = 0
        while True:
            core = self.tunnel.core
            if core != NULL:
                at = ka_exchange_peek(core, &n)
            if self.spent >= FRAME_STEP:
                self.state = FRAMES_SPENT
                return None
            if self.tail is not None:
                got = self.inflate(self.tail)
            elif self.frame.is_open and self.frame.left == 0:
                got = self.end_frame()
                if got == KA_OK:
                    return self.event()
            elif core == NULL or (n == 0 and ka_exchange_is_eof(core)):
                self.state = FRAMES_END
                return None
            elif n == 0:
                ka_exchange_read(core, self.control, 0, now)
                self.tunnel.driver.attend(True)
                self.state = FRAMES_WAIT
                return None
            elif self.frame.is_open:
                got = self.read_payload(core, n, now)
            else:
                got = self.begin_frame(core, at, n, now)
            if got == KA_EPEER:
                self.drop()
                self.state = FRAMES_FAILED
                return None

    cdef int fail(self, int code, str why) noexcept:
        self.code = code
        self.why = why
        return KA_EPEER

    # -- frames ------------------------------------------------------------------------------------------

    cdef int begin_frame(self, ka_exchange *core, const char *at, size_t n, int64_t now) except -99:
        cdef char head[16]
        cdef size_t used = 0
        cdef const char *why = NULL
        cdef int got = ka_ws_read_head(&self.frame, at, n, &used, &why)
        if used:
            ka_exchange_read(core, head, used, now)
            self.n_bytes += used
        if got == KA_EPEER:
            return self.fail(1002, (<bytes>why).decode())
        if got == KA_PARTIAL:
            return got
        self.spent += COST_FRAME
        if self.frame.opcode > KA_WS_BINARY:
            self.n_control = 0
            return self.fail(1002, "a control frame is compressed") if self.frame.is_rsv1 else KA_PARTIAL
        if self.frame.opcode == KA_WS_CONT:
            if not self.is_open or self.frame.is_rsv1:
                return self.fail(1002, "a continuation frame without a message to continue, or compressed on its own")
        elif self.is_open:
            return self.fail(1002, "a message begins before the last one has ended")
        else:
            self.begin_message()
            if self.is_deflated and not self.window_bits:
                return self.fail(1002, "a reserved bit is set")
        if self.frame.left > self.max_size - self.n:
            return self.fail(1009, "a message is longer than ws_max_size")
        return KA_PARTIAL

    cdef int begin_message(self) except -99:
        self.is_open = True
        self.kind = self.frame.opcode
        self.is_deflated = self.frame.is_rsv1
        self.utf8.left = 0
        if self.is_deflated and self.window_bits and (self.inflater is None or not self.keeps_context):
            self.inflater = zlib.decompressobj(wbits=-self.window_bits)
        return KA_OK

    cdef int read_payload(self, ka_exchange *core, size_t n, int64_t now) except -99:
        cdef char *to
        n = min(self.frame.left, n)
        if self.frame.opcode > KA_WS_BINARY:
            to = self.control + self.n_control
            self.n_control += <uint8_t>n
        elif self.is_deflated:
            n = min(n, <size_t>INFLATE_PIECE)
            self.tail = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>n)
            to = PyBytes_AS_STRING(self.tail)
        else:
            n = min(n, <size_t>FRAME_PIECE)
            if self.grow(n, self.frame.is_fin and n == self.frame.left) < 0:
                return KA_EPEER
            to = PyBytes_AS_STRING(<object>self.message) + self.n
        ka_exchange_read(core, to, n, now)
        ka_ws_unmask(&self.frame, to, n)
        self.n_bytes += n
        self.spent += <int64_t>n * COST_BYTE
        return KA_PARTIAL if self.frame.opcode > KA_WS_BINARY or self.is_deflated else self.added(n)

    cdef int end_frame(self) except -99:
        """KA_OK: an event is complete."""
        if self.frame.opcode > KA_WS_BINARY:
            self.frame.is_open = False
            return KA_OK
        if not self.frame.is_fin:
            self.frame.is_open = False
            return KA_PARTIAL
        if self.is_deflated and not self.is_ending:
            self.is_ending = True
            self.tail = DEFLATE_END
            return KA_PARTIAL
        self.frame.is_open = self.is_open = self.is_ending = False
        if self.kind == KA_WS_TEXT and self.utf8.left:
            return self.fail(1007, "a text message that is not valid UTF-8")
        return KA_OK

    cdef object event(self):
        self.spent += COST_EVENT
        if self.frame.opcode > KA_WS_BINARY:
            self.opcode = self.frame.opcode
            return PyBytes_FromStringAndSize(self.control, self.n_control)
        return self.whole()

    # -- the message ---------------------------------------------------------------------------------------

    cdef int grow(self, size_t n, bint is_last) except -99:
        """Room for n bytes more. is_last: nothing comes behind them."""
        cdef size_t room = self.n + n, more
        if room > self.held:
            more = room - self.held if is_last else min(self.max_size - self.held, max(room - self.held, <size_t>HELD_STEP))
            if room <= MESSAGE_ROOM:
                more = room - self.held
            if not self.holding.hold(KA_USE_INPUT, more):
                return self.fail(1013, "the server has no memory for this message at the moment")
            self.held += more
        if room <= self.room:
            return KA_OK
        if not is_last:
            room = max(room + room // 4, room + <size_t>MESSAGE_ROOM)
            if room > MESSAGE_LARGE:
                room = max(2 * room, <size_t>MESSAGE_RESERVE)
            room = min(self.max_size, room)
        self.room = room
        if self.message == NULL:
            fresh = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>room)
            Py_INCREF(fresh)
            self.message = <PyObject *>fresh
        else:
            _PyBytes_Resize(&self.message, <Py_ssize_t>room)
        return KA_OK

    cdef int added(self, size_t n) except -99:
        """These bytes were written behind the message."""
        cdef const char *at = PyBytes_AS_STRING(<object>self.message) + self.n
        self.n += n
        if self.kind == KA_WS_TEXT and not ka_ws_text_goes_on(&self.utf8, at, n):
            return self.fail(1007, "a text message that is not valid UTF-8")
        return KA_PARTIAL

    cdef int inflate(self, bytes piece) except -99:
        cdef size_t room = self.max_size - self.n + 1  # one byte more shows that there is more
        cdef size_t limit = min(room, <size_t>INFLATED_PIECE), n
        cdef object out
        try:
            out = self.inflater.decompress(piece, <Py_ssize_t>limit)
        except zlib.error:
            return self.fail(1002, "the compressed data is invalid")
        n = <size_t>PyBytes_GET_SIZE(out)
        self.spent += COST_INFLATE + <int64_t>n * COST_INFLATED
        self.tail = self.inflater.unconsumed_tail
        if self.inflater.eof:  # RFC 7692 7.2.3.5: a last block may come before the end, and something behind it
            self.tail = self.inflater.unused_data or None
            self.inflater = zlib.decompressobj(wbits=-self.window_bits)
            self.spent += 4 * COST_INFLATE
        elif not self.tail and n < limit:
            self.tail = None
        if n == 0:
            return KA_PARTIAL
        if n == room:
            return self.fail(1009, "a message is longer than ws_max_size")
        if self.grow(n, False) < 0:
            return KA_EPEER
        memcpy(PyBytes_AS_STRING(<object>self.message) + self.n, PyBytes_AS_STRING(out), n)
        return self.added(n)

    cdef object whole(self):
        """The message, the caller's from here on; what it holds is counted until let_go()."""
        cdef PyObject *message = self.message
        cdef Py_ssize_t n = <Py_ssize_t>self.n
        self.opcode = self.kind
        if message != NULL and self.n < self.room:
            _PyBytes_Resize(&self.message, n)
            message = self.message
        self.message = NULL
        self.holding.let_go(self.held)
        self.n = self.room = self.held = 0
        if message == NULL:
            found = b""
        else:
            found = <object>message
            Py_DECREF(found)
        if not self.holding.hold(KA_USE_INPUT, <size_t>n + MESSAGE_OBJECTS):
            self.fail(1013, "the server has no memory for this message at the moment")
            self.state = FRAMES_FAILED
            return None
        return found
