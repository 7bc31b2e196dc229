# What each message of a websocket goes through, between its Tunnel and receive() and send() of ASGI. All that happens once
# for a connection (the handshake, pings, the ends) is in kacore/server/websocket.py, whose WebSocket inherits from this.
#
# A message that somebody waits for takes its task one step on where it arrives, inside the engine's step, as requests do:
# most applications answer in that step, and what they send leaves with the turn. Nothing waits for a round of the loop.

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef enum:
    # Bytes of messages that wait for the application, with their objects, from which on the connection is not read; and
    # below which it is again.
    QUEUE_HIGH = 32 * 1024
    QUEUE_LOW = 16 * 1024


@cython.final
cdef class Arrival:
    """What a task waits on for the next message: a future, as far as asyncio's Task asks."""
    cdef public bint _asyncio_future_blocking
    cdef WebSocketCore owner
    cdef object callback, context   # while it is waited for
    cdef object cancelled           # the exception

    def get_loop(self):
        return self.owner.loop

    def add_done_callback(self, callback, *, context):
        self.callback = callback
        self.context = context
        self.owner.readers.append(self)

    def cancel(self, msg=None):
        if self.callback is None:
            return False
        self.cancelled = CancelledError() if msg is None else CancelledError(msg)
        self.owner.readers.remove(self)
        self.wake(False)
        return True

    def result(self):
        if self.cancelled is not None:
            raise self.cancelled

    cdef int wake(self, bint at_once) except -1:
        callback, context = self.callback, self.context
        self.callback = self.context = None
        if not at_once:
            self.owner.loop.call_soon(callback, self, context=context)
            return 0
        PyContext_Enter(context)
        try:
            callback(self)
        finally:
            PyContext_Exit(context)
        return 0


@cython.final
cdef class Receiving:
    """receive(), while no message is here. As Ready, it counts as a coroutine."""
    cdef WebSocketCore owner

    cdef object step(self, bint *is_over):
        cdef Arrival arrival
        message = self.owner.next_message()
        is_over[0] = message is not None
        if message is not None:
            return message
        arrival = Arrival.__new__(Arrival)
        arrival.owner = self.owner
        arrival._asyncio_future_blocking = True
        return arrival

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        cdef bint is_over
        found = self.step(&is_over)
        if is_over:
            raise StopIteration(found)
        return found

    def throw(self, kind, value=None, traceback=None):
        raise kind if value is None else value

    def close(self):
        pass


cdef PySendResult receiving_send(PyObject *self, PyObject *_, PyObject **result) except PYGEN_ERROR:
    cdef bint is_over
    found = (<Receiving>self).step(&is_over)
    Py_INCREF(found)
    result[0] = <PyObject *>found
    return PYGEN_RETURN if is_over else PYGEN_NEXT


(<PyTypeObject *>Receiving).tp_as_async.am_send = <sendfunc>receiving_send


cdef class WebSocketCore:
    """tunnel: of the request; loop: an asyncio event loop. What a subclass brings: `say`, `drained`, `control`, `ended`,
    `fail`, `end`, `answer_ping`, `read_later`, `news_before_frames`."""
    cdef readonly Tunnel tunnel
    cdef readonly object loop
    cdef public FrameReader frames    # once it is accepted
    cdef public object deflate        # compresses what we send
    cdef public object pong           # to be sent
    cdef public bint is_over          # the application was told that it ended, or ended it
    cdef public bint has_said_close
    cdef public bint is_behind        # read_later() was called, and will go on
    cdef readonly bint is_held        # nothing is read, since the application does not take what there is
    cdef list messages                # those that wait: bytes, a tuple of bytes that are text, a dict as it will be given
    cdef object last                  # the message after them, for whoever asks, again and again
    cdef size_t n_waiting             # bytes of `messages`, with their objects
    cdef list readers                 # Arrival of each task that waits

    def __init__(self, Tunnel tunnel not None, loop):
        self.tunnel = tunnel
        self.loop = loop
        self.messages = []
        self.readers = []

    def functions(self):
        """(receive, send) for the application."""
        return PyCFunction_New(&WEBSOCKET_RECEIVE, self), PyCFunction_New(&WEBSOCKET_SEND, self)

    # -- messages of the client --------------------------------------------------------------------------

    cdef object receive(self):
        cdef Receiving waits
        message = self.next_message()
        if message is not None:
            return ready(message)
        waits = Receiving.__new__(Receiving)
        waits.owner = self
        return waits

    cdef object next_message(self):
        """None when it must be waited for."""
        cdef size_t size
        cdef bint is_text
        cdef bytes payload
        if not self.messages:
            return self.last
        message = self.messages.pop(0)
        is_text = PyTuple_CheckExact(message)
        if not is_text and not PyBytes_CheckExact(message):
            return message
        payload = <bytes>(<tuple>message)[0] if is_text else <bytes>message
        size = <size_t>PyBytes_GET_SIZE(payload)
        self.n_waiting -= size + MESSAGE_OBJECTS
        self.frames.let_go(size)
        if self.is_held and self.n_waiting <= QUEUE_LOW:
            self.is_held = False
            self.read_later()
        if is_text:
            return {"type": "websocket.receive", "text": payload.decode()}
        return {"type": "websocket.receive", "bytes": payload}

    def put(self, message):
        """A message that the client did not send."""
        self.messages.append(message)
        self.wake(False)

    def put_last(self, message):
        """Nothing comes behind it. Only the first counts."""
        if self.last is None:
            self.last = message
            self.wake(False)

    def forget(self):
        """Nobody will take the messages that wait."""
        if self.frames is not None:
            self.frames.holding.let_go(self.n_waiting)
        self.messages.clear()
        self.n_waiting = 0

    cdef int take(self, bytes payload) except -1:
        """A message of the client's."""
        # Text waits as it came: as a str it may be four times as long.
        self.messages.append((payload,) if self.frames.opcode == KA_WS_TEXT else payload)
        self.n_waiting += <size_t>PyBytes_GET_SIZE(payload) + MESSAGE_OBJECTS
        if self.readers:
            self.tunnel.driver.application.leave()  # the task of a request before this one
            self.wake(current_task(self.loop) is None)
        return 0

    cdef int wake(self, bint at_once) except -1:
        cdef Arrival one
        readers, self.readers = self.readers, []
        for one in readers:
            one.wake(at_once)
        return 0

    def readable(self):
        """The Tunnel has something."""
        if self.frames is None:
            self.news_before_frames()
        elif not self.is_behind:
            try:
                self.read_on()
            except MemoryError:
                self.fail(1013, "the server has no memory for this message now")

    cdef int read_on(self) except -1:
        """Take what is here, as far as somebody takes it off us."""
        cdef FrameReader frames = self.frames
        while not self.tunnel.is_held():
            if self.n_waiting >= QUEUE_HIGH and not self.is_over:
                self.is_held = True
                break
            payload = frames.next_event()
            if payload is None:
                if frames.state == FRAMES_SPENT:
                    self.read_later()
                elif frames.state == FRAMES_END:
                    self.end()
                    return 0
                elif frames.state == FRAMES_FAILED:
                    self.fail(frames.code, frames.why)
                    return 0
                break
            elif frames.opcode > KA_WS_BINARY:
                if not self.control(frames.opcode, payload):
                    return 0
            elif self.is_over:
                frames.let_go(<size_t>PyBytes_GET_SIZE(payload))
            else:
                if self.pong is not None:  # before what the application answers to what came behind the ping
                    self.answer_ping()
                self.take(payload)
            if self.tunnel.owner is not self:  # the application has closed it
                return 0
        if self.pong is not None:
            self.answer_ping()
        return 0

    # -- messages of the application -----------------------------------------------------------------------

    cdef object send(self, object message):
        cdef object kind = type_of(message)
        if self.frames is None or self.is_over or self.has_said_close or not is_word(kind, b"websocket.send", 14):
            self.say(kind, message)
        else:
            self.send_message(item_of(message, "text", None), item_of(message, "bytes", None))
        return self.drained() if self.tunnel.is_held() else SENT

    cdef int send_message(self, object text, object data) except -1:
        cdef unsigned first = 0x80 | KA_WS_TEXT
        cdef Py_ssize_t n
        cdef const char *at
        if text is None:
            first = 0x80 | KA_WS_BINARY
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise ValueError("websocket.send has neither text nor bytes")
            if not PyBytes_CheckExact(data):
                data = bytes(data)
            at = PyBytes_AS_STRING(data)
            n = PyBytes_GET_SIZE(data)
        elif isinstance(text, str):
            at = PyUnicode_AsUTF8AndSize(text, &n)
            data = text
        else:
            raise ValueError("websocket.send: text must be a str")
        if self.deflate is not None:
            data = self.deflate(PyBytes_FromStringAndSize(at, n))
            at = PyBytes_AS_STRING(data)
            n = PyBytes_GET_SIZE(data)
            first |= 0x40  # RFC 7692 7.2.1
        try:
            return self.send_frame(first, at, <size_t>n, data)
        except MemoryError:  # half a promise cannot be mended: the connection is over
            self.ended(1006, "")
            raise

    cdef int send_frame(self, unsigned first, const char *at, size_t n, object owner) except -1:
        """owner: of at[0..n). ClientGone, MemoryError."""
        cdef char head[10]
        cdef ka_exchange *core = self.tunnel.core
        cdef int got
        if core == NULL:
            raise ClientGone("the client has disconnected")
        got = ka_exchange_content(core, head, ka_ws_write_head(head, first, n), True, NULL)
        if got >= 0 and n > KA_COPY_MAX:
            Py_INCREF(owner)
            got = ka_exchange_content(core, at, n, True, <void *>owner)
        elif got >= 0 and n:
            got = ka_exchange_content(core, at, n, True, NULL)
        return self.tunnel.written(core, got, True)

    def send_control(self, unsigned opcode, bytes payload not None):
        """A control frame. ClientGone, MemoryError."""
        self.send_frame(0x80 | opcode, PyBytes_AS_STRING(payload), <size_t>PyBytes_GET_SIZE(payload), payload)


cdef object websocket_receive(object websocket, object _):
    return (<WebSocketCore>websocket).receive()


cdef object websocket_send(object websocket, object message):
    return (<WebSocketCore>websocket).send(message)


cdef PyMethodDef WEBSOCKET_RECEIVE
cdef PyMethodDef WEBSOCKET_SEND
WEBSOCKET_RECEIVE.ml_name = b"receive"
WEBSOCKET_RECEIVE.ml_meth = websocket_receive
WEBSOCKET_RECEIVE.ml_flags = METH_NOARGS
WEBSOCKET_RECEIVE.ml_doc = b"ASGI receive(): an awaitable of the next event."
WEBSOCKET_SEND.ml_name = b"send"
WEBSOCKET_SEND.ml_meth = websocket_send
WEBSOCKET_SEND.ml_flags = METH_O
WEBSOCKET_SEND.ml_doc = b"ASGI send(message): what it says is done at once; the awaitable waits while the client is slow."
