# Plain handlers: a Request in, bytes, str or a Response out; sync or async. For those who embed the server.

from cpython.unicode cimport PyUnicode_AsUTF8String

cdef extern from "Python.h":
    bint PyCoro_CheckExact(object) noexcept


cdef class Request:
    """One request with its whole content. Every attribute is decoded when it is asked for.

    The content is complete before the handler is called; `max_body_bytes` of the policy bounds it.
    """
    cdef Head _head
    cdef Collector _collector
    cdef tuple _client, _server
    cdef str _scheme
    cdef bytes _body
    cdef RequestIds _ids      # None: it has no id
    cdef bytes _id

    @property
    def head(self):
        """The Head, with everything as it was sent."""
        return self._head

    @property
    def method(self):
        """str: "GET"."""
        return self._head.method

    @property
    def target(self):
        """str, the request target as sent: "/a%20b?c=d"."""
        return (<bytes>self._head.target).decode("ascii")

    @property
    def path(self):
        """str, decoded, without the query: "/a b"."""
        return path_of(head_bytes(self._head), &self._head.c, False)

    @property
    def query(self):
        """str, what follows "?", not decoded; "" when there is none."""
        return bytes_at(head_bytes(self._head), self._head.c.query).decode("ascii")

    @property
    def version(self):
        """str: "1.1" or "1.0"."""
        return self._head.version

    @property
    def headers(self):
        """A new list of (lower-cased name, value), bytes both, in the order sent."""
        return self._head.headers if self._ids is None else self._ids.put(<list>self._head.headers, self._id)

    @property
    def body(self):
        """bytes: the content, b"" when there is none."""
        if self._body is None:
            self._body = b"" if self._collector is None else self._collector.as_bytes()
        return self._body

    @property
    def client(self):
        """(host, port) of the client, or None on a unix socket."""
        return self._client

    @property
    def server(self):
        """(host, port) of the listener, or (path, None)."""
        return self._server

    @property
    def scheme(self):
        """"http" or "https", as the client used it: of a trusted proxy, what it says."""
        return self._scheme

    def get(self, name, default=None):
        """The value (str, Latin-1) of a field by its name in any case, or `default`."""
        if self._ids is not None and name.lower().encode("latin-1", "replace") == self._ids.field:
            return self._id.decode("ascii")
        value = self._head.get(name)
        return default if value is None else (<bytes>value).decode("latin-1")

    def __repr__(self):
        return f"<Request {self.method} {self.target}>"


cdef class Response:
    """Response(body=b"", status=200, headers=())\n--\n\n\
    body: bytes, str (sent as UTF-8) or an iterable of bytes; status: int; headers: pairs of str or bytes, or a dict.

    Content-Length, the framing and persistence are the server's; `Connection: close` among the headers closes.
    """
    cdef public object body
    cdef public unsigned status
    cdef public object headers

    def __init__(self, body=b"", status=200, headers=()):
        self.body = body
        self.status = status
        self.headers = headers.items() if isinstance(headers, dict) else headers

    def __repr__(self):
        return f"<Response {self.status}>"


cdef class HandlerExchange(CollectedExchange):
    cdef HandlerApplication app
    cdef Request request
    cdef object task
    cdef object rest       # iterator over what is still to be sent
    cdef object context    # of a handler that is no coroutine function, and has none by its task

    cdef int complete(self) except -1:
        self.request._collector = self.collector
        try:
            result = self.in_context() if self.app.needs_context else self.called()
            if self.task is None:
                self.answer(result)
        except BaseException as error:
            self.failed(error)
        return 0

    cdef object called(self):
        """What the handler returns. None while `task` runs it."""
        result = self.app.handle(self)
        if not hasattr(result, "__await__"):
            return result
        self.task = self.app.runner.start(result if iscoroutine(result) else as_coroutine(result))
        if self.task is not None:
            self.task.add_done_callback(self.finished)
            return None
        return self.app.runner.take_value()

    cdef object in_context(self):
        self.context = PyContext_CopyCurrent()
        PyContext_Enter(self.context)
        try:
            return self.called()
        finally:
            PyContext_Exit(self.context)

    def finished(self, task):
        """The task of an async handler is done."""
        self.task = None
        self.let_go()
        if task.cancelled():
            self.refuse(500, b"the handler was cancelled")
            return
        error = task.exception()
        try:
            if error is not None:
                raise error
            self.answer(task.result())
        except BaseException as error:
            self.failed(error)

    cdef int failed(self, object error) except -1:
        """The request is answered, or broken off, whatever was raised."""
        self.rest = None
        if isinstance(error, ClientGone) and self.core == NULL:
            return 0
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            self.driver.failed(error)
        else:
            self.app.say(f"the handler failed on {self.request.method} {self.request.target}", error)
        return self.refuse(500, b"Internal Server Error")

    cdef int answer(self, object result) except -1:
        cdef unsigned status = 200
        cdef object headers = ()
        cdef object body = result
        if isinstance(result, Upgrade):
            return (<Upgrade>result).begin(self, self.app.runner.loop, self.app.logger)
        if isinstance(result, Response):
            status = (<Response>result).status
            headers = (<Response>result).headers
            body = (<Response>result).body
        elif isinstance(result, str):
            headers = TEXT_HEADERS
        if isinstance(body, str):
            body = PyUnicode_AsUTF8String(body)
        if isinstance(body, (bytes, bytearray, memoryview)):
            body = content_of(body)
            self.write_head(status, headers, len(body))
            return self.write(body, False)
        if body is None or not hasattr(body, "__iter__"):
            raise LocalError(f"a handler must return bytes, str or a Response, not {type(result).__name__}")
        rest = iter(body)
        self.write_head(status, headers, -1)
        self.rest = rest
        return self.advance()

    cdef int advance(self) except -1:
        """Send what the iterable gives, while the client takes it."""
        if self.context is None:
            self.context = PyContext_CopyCurrent()
        PyContext_Enter(self.context)
        try:
            return self.send_some()
        finally:
            PyContext_Exit(self.context)

    cdef int send_some(self) except -1:
        cdef unsigned n = 0
        while self.rest is not None and not self.is_held():  # it is None when the client has gone
            if n == PIECES_A_TURN:
                return self.yield_turn()
            piece = next(self.rest, END)
            if piece is END:
                self.rest = None
                return self.write(b"", False)
            if piece:
                self.write(content_of(piece), True)
                self.push()
            n += 1
        return 0

    cdef int news(self, ka_news news) except -1:
        if news == KA_NEWS_LOW and self.rest is not None:
            try:
                self.advance()
            except BaseException as error:
                self.failed(error)
            return 0
        return CollectedExchange.news(self, news)

    cdef int cancel(self) except -1:
        self.app.logger.warning("%s %s took longer than handler_timeout and was cancelled", self.request.method,
                                self.request.target)
        return 0

    cdef int client_lost(self) except -1:
        self.rest = None
        self.let_go()
        if self.task is not None:
            self.task.cancel()
        return 0


cdef tuple TEXT_HEADERS = ((b"content-type", b"text/plain; charset=utf-8"),)


cdef bint iscoroutine(object awaitable):
    """A coroutine of `async def`, without the search through abstract base classes."""
    return PyCoro_CheckExact(awaitable)


async def as_coroutine(awaitable):
    return await awaitable


cdef class HandlerApplication(Application):
    """handler(Request) -> bytes | str | Response, or an awaitable of one. loop: for awaitables."""
    cdef readonly object handler
    cdef readonly Runner runner
    cdef str scheme
    cdef bint needs_context

    def __init__(self, handler, loop, logger, *, scheme="http"):
        self.handler = handler
        self.needs_context = not is_coroutine_function(handler)
        self.scheme = scheme
        self.logger = logger
        self.runner = Runner(loop)

    cdef int leave(self) except -1:
        return self.runner.leave()

    cdef object handle(self, HandlerExchange exchange):
        return self.handler(exchange.request)

    cdef int request(self, BaseDriver driver, ka_exchange *core, const ka_head *head, const ka_field *fields) except -1:
        cdef HandlerExchange exchange = HandlerExchange.__new__(HandlerExchange)
        cdef Request request = Request.__new__(Request)
        request._head = make_head(ka_exchange_head_bytes(core), head, fields)
        request._client = driver.client_of(core)
        request._scheme = self.scheme
        if driver.has_proxies:
            origin = driver.origin_of(core, head, fields)
            if origin is not None:
                request._client = origin[0]
                request._scheme = origin[1] or self.scheme
        request._server = driver.server_of(core)
        if driver.request_id is not None:
            request._ids = driver.ids
            request._id = driver.request_id
        exchange.app = self
        exchange.request = request
        exchange.attach(driver, core)
        return exchange.collect()
