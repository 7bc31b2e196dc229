# Connections that stop speaking HTTP: 101 to an Upgrade, 2xx to CONNECT. The engine goes on moving the bytes, through
# TLS as without, and the table goes on counting the connection; what the bytes mean is the owner's.
#
# Tunnel calls its owner, for protocols without I/O such as websockets. Stream is what coroutines read and write.


cdef inline int wake_one(object future) except -1:
    if future is not None and not future.done():
        future.set_result(None)
    return 0


cdef class Tunnel(Exchange):
    """A request that may become a byte stream, and that stream.

    owner: told what happens, from inside the engine, by calls without arguments: readable() when `receive` has
    something, writable() when a held-back writer may go on, draining() when the server is about to stop, lost() when
    the client is gone. None of them may raise.
    """
    cdef public object owner

    def open(self, status, headers):
        """Answer 101 or 2xx: the connection is a byte stream from here on. LocalError when the request does not allow
        that, ClientGone."""
        self.write_head(status, headers, KA_WHOLE_TUNNEL)
        self.driver.attend(True)

    def begin(self, status, headers, length=-1):
        """Answer as HTTP after all; `send` gives the content, `length` bytes or -1 = not known yet."""
        self.write_head(status, headers, length)

    def send(self, data, more=True):
        """Send bytes; the last (`more` false) end the stream or the response. ClientGone."""
        self.write(content_of(data), more)

    def receive(self):
        """bytes that are here; b"" when the client will send nothing more; None = later, readable() will be called."""
        try:
            return self.read()
        except ClientGone:
            return b""

    def close(self):
        """Send what is pending, then end the connection. Idempotent."""
        if self.core != NULL:
            self.write(b"", False)

    def abort(self):
        """Break off a response in the middle, so that it looks so."""
        self.refuse(500, b"Internal Server Error")

    @property
    def is_full(self):
        """Whether the client takes more slowly than we write; if so, writable() will be called."""
        return self.is_held()

    @property
    def is_low(self):
        """Whether little of what was written waits for the client; if not, writable() will be called."""
        return self.core == NULL or not ka_exchange_awaits_low(self.core)

    @property
    def is_gone(self):
        """Whether nothing can be sent any more."""
        return self.core == NULL

    @property
    def has_fin(self):
        """Whether the client will send nothing more than what is here."""
        return self.core == NULL or ka_exchange_is_eof(self.core)

    @property
    def is_draining(self):
        """Whether the server is about to stop."""
        return self.core != NULL and ka_exchange_is_draining(self.core)

    cdef int news(self, ka_news news) except -1:
        if self.owner is None:
            return 0
        if news == KA_NEWS_LOW:
            self.owner.writable()
        elif news == KA_NEWS_DRAIN:
            self.owner.draining()
        else:
            self.owner.readable()
        return 0

    cdef int client_lost(self) except -1:
        owner = self.owner
        self.owner = None
        if owner is not None:
            owner.lost()
        return 0


cdef class Stream(Tunnel):
    """The bytes of a connection after an Upgrade, for one coroutine that reads and one that writes.

    It is closed when the coroutine that got it ends, and at the latest at `drain_timeout` when the server stops.
    """
    cdef object loop, logger, reader, writer, _drains

    async def read(self):
        """bytes, as they come; b"" when the client will send nothing more."""
        while True:
            data = self.receive()
            if data is not None:
                return data
            self.reader = self.loop.create_future()
            await self.reader

    def write(self, data):
        """Send bytes. ClientGone (an OSError) when the client is gone."""
        self.send(data)

    async def drain(self):
        """Wait while the client takes more slowly than was written."""
        while self.is_held():
            self.writer = self.loop.create_future()
            await self.writer

    async def detach(self):
        """Take the connection out of the server: (socket.socket, bytes that were read of it already), the caller's.

        Waits until what was written is sent. The server forgets the connection: it counts as closed (`upgraded`), has no
        place in the table and no part in a drain. LocalError over TLS; ClientGone."""
        cdef const char *at
        cdef size_t n
        while self.core != NULL and ka_exchange_awaits_empty(self.core):
            self.writer = self.loop.create_future()
            await self.writer
        if self.core == NULL:
            raise ClientGone("the client has disconnected")
        at = ka_exchange_peek(self.core, &n)
        rest = PyBytes_FromStringAndSize(at, <Py_ssize_t>n)
        return self.driver.give_away(self), rest

    async def wait_for_shutdown(self):
        """Wait until the server is about to stop, or the client is gone."""
        if self.core != NULL and not self.is_draining:
            if self._drains is None:
                self._drains = self.loop.create_future()
            await self._drains

    def readable(self):
        wake_one(self.reader)

    def writable(self):
        wake_one(self.writer)

    def draining(self):
        wake_one(self._drains)

    def lost(self):
        wake_one(self.reader)
        wake_one(self.writer)
        wake_one(self._drains)

    def finished(self, task):
        """The coroutine that had the stream is done."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ClientGone):
            self.logger.error("the handler of an upgraded connection failed", exc_info=error)
        self.close()


cdef set SERVING = set()   # tasks of upgraded connections


cdef class Upgrade:
    """Upgrade(serve, headers=(), status=None)\n--\n\n\
    What a handler returns to go on with bare bytes: `await serve(stream)` is run with the connection's Stream.

    headers: pairs of str or bytes; `Connection: upgrade` is added to 101. status: 101, but 200 for CONNECT.
    The request must have asked for it: Upgrade (Request.head.upgrade) or CONNECT.
    """
    cdef readonly object serve, headers, status

    def __init__(self, serve, headers=(), status=None):
        self.serve = serve
        self.headers = headers
        self.status = status

    cdef int begin(self, Exchange exchange, object loop, object logger) except -1:
        cdef Stream stream = Stream.__new__(Stream)
        cdef ka_exchange *core
        headers = list(self.headers)  # before `core` is looked at: it may be code of the application's
        if exchange.core == NULL:
            raise ClientGone("the client has disconnected")
        status = self.status or (200 if exchange.core.head_flags & KA_HEAD_IS_CONNECT else 101)
        if status == 101:
            headers.append((b"connection", b"upgrade"))
        exchange.write_head(status, headers, KA_WHOLE_TUNNEL)
        core = exchange.core
        exchange.detach()
        stream.entry = exchange.entry
        exchange.entry = None
        stream.loop = loop
        stream.logger = logger
        stream.owner = stream
        stream.attach(exchange.driver, core)
        stream.driver.attend(True)
        task = loop.create_task(self.serve(stream))
        SERVING.add(task)  # a loop keeps none: one that waits for what nobody else has would be collected
        task.add_done_callback(SERVING.discard)
        task.add_done_callback(stream.finished)
        return 0
