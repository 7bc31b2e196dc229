# ASGI 3, http scope: https://asgi.readthedocs.io/en/latest/specs/www.html (spec_version 2.4).
# Knows a talk and its port, never an engine or a socket.


cdef class Ready:
    """An awaitable that is done when it is made. Counts as a coroutine, so that create_task() takes it.

    Its slots are written by hand below: awaiting it costs no exception where the interpreter offers a way around.
    """
    cdef object value

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration(self.value)

    def send(self, value):
        raise StopIteration(self.value)

    def throw(self, kind, value=None, traceback=None):
        raise kind if value is None else value

    def close(self):
        pass


cdef extern from "Python.h":
    ctypedef PySendResult (*sendfunc)(PyObject *, PyObject *, PyObject **) noexcept
    ctypedef PyObject *(*iternextfunc)(PyObject *) noexcept
    ctypedef struct PyAsyncMethods:
        sendfunc am_send
    ctypedef struct PyTypeObject:
        PyAsyncMethods *tp_as_async
        iternextfunc tp_iternext
    void PyErr_SetObject(object kind, object value)


cdef PySendResult ready_send(PyObject *self, PyObject *_, PyObject **result) noexcept:
    value = (<Ready>self).value
    Py_INCREF(value)
    result[0] = <PyObject *>value
    return PYGEN_RETURN


cdef PyObject *ready_next(PyObject *self) noexcept:
    value = (<Ready>self).value
    if value is not None:  # NULL without an exception is the end with None
        PyErr_SetObject(StopIteration, value)
    return NULL


(<PyTypeObject *>Ready).tp_as_async.am_send = ready_send
(<PyTypeObject *>Ready).tp_iternext = ready_next


cdef inline Ready ready(object value):
    cdef Ready done = Ready.__new__(Ready)
    done.value = value
    return done


cdef Ready SENT = ready(None)
cdef dict DISCONNECT = {"type": "http.disconnect"}


cdef class AsgiExchange(Exchange):
    cdef AsgiApplication app
    cdef object task
    cdef list readers         # futures of the receive() that wait, one each: who cancels one leaves the others alone
    cdef list writers         # the same of send()
    cdef object start         # the http.response.start message, until its first body
    cdef bint is_asked        # receive() has given the end of the content
    cdef bint is_begun        # http.response.start was seen
    cdef bint is_done         # the response is complete
    cdef bint is_gone         # the client is gone

    # -- receive ----------------------------------------------------------------------------------------

    def receive(self):
        """ASGI receive(): an awaitable of the next event."""
        message = self.next_message()
        return ready(message) if message is not None else self.receive_later()

    cdef object next_message(self):
        """An event dict, or None when one must be waited for."""
        if self.talk == NULL or self.is_done:
            return DISCONNECT.copy()
        if self.is_asked:
            return DISCONNECT.copy() if self.talk.is_eof else None
        try:
            content = self.read()
        except ClientGone:
            return DISCONNECT.copy()
        if content is None:
            return None
        self.is_asked = self.is_read()
        return {"type": "http.request", "body": content, "more_body": not self.is_asked}

    async def receive_later(self):
        while True:
            waiter = self.app.loop.create_future()
            self.readers = waiting(self.readers, waiter)
            await waiter
            message = self.next_message()
            if message is not None:
                return message

    # -- send -------------------------------------------------------------------------------------------

    def send(self, message):
        """ASGI send(): what the message says is done at once; the awaitable waits while the client is slow."""
        cdef object kind = message["type"]
        if kind == "http.response.start":
            if self.is_begun:
                raise LocalError("http.response.start was sent already")
            self.is_begun = True
            self.start = message
        elif kind == "http.response.body":
            self.send_body(message.get("body", b""), message.get("more_body", False))
        elif kind == "http.response.pathsend":
            self.send_body(open_file(message["path"]), False)
        else:
            raise LocalError(f"an http response is made of http.response.start and .body messages, not {kind!r}")
        return self.send_later() if not self.is_done and self.is_held() else SENT

    cdef int send_body(self, object body, bint more) except -1:
        if self.is_done and self.talk == NULL:
            if self.is_gone:
                raise ClientGone("the client is gone")
            raise LocalError("the response is complete already")
        if not self.is_begun:
            raise LocalError("http.response.body before http.response.start")
        if self.talk == NULL:
            raise ClientGone("the client is gone")
        if not isinstance(body, OpenFile):
            body = content_of(body)
        if self.start is not None:
            start = self.start
            self.write_head(start["status"], start.get("headers", ()), -1 if more else len(body))
            self.start = None
        if not more:
            self.is_done = True
        if isinstance(body, OpenFile):
            self.write_file(body)
        else:
            self.write(body, more)
        if self.is_done:
            wake(self.readers)
        return 0

    async def send_later(self):
        while self.is_held():
            waiter = self.app.loop.create_future()
            self.writers = waiting(self.writers, waiter)
            await waiter

    # -- what happens to it -----------------------------------------------------------------------------

    cdef int news(self, ka_news news) except -1:
        return wake(self.writers) if news == KA_NEWS_LOW else wake(self.readers)

    cdef int cancel(self) except -1:
        if self.task is not None:
            self.app.logger.warning("a request took longer than handler_timeout and was cancelled")
            self.task.cancel()
        return 0

    cdef int lost(self) except -1:
        self.is_gone = not self.is_done
        self.is_done = True
        wake(self.readers)
        return wake(self.writers)

    def finished(self, task):
        """The application's task is done, one way or another."""
        cdef object error
        self.task = None
        self.completed(CancelledError() if task.cancelled() else task.exception())

    cdef int completed(self, object error) except -1:
        if error is not None:
            if isinstance(error, CancelledError):
                if self.talk != NULL:  # else the server itself cancelled it, and said why
                    self.give_up("was cancelled", None)
            elif not isinstance(error, ClientGone):
                self.give_up("failed", error)
        elif not self.is_done and self.talk != NULL:
            self.give_up("returned without completing its response", None)
        return 0

    cdef int give_up(self, str what, object error) except -1:
        if error is not None or self.talk != NULL:
            self.app.logger.error("the application %s", what, exc_info=error)
        self.is_done = True
        return self.refuse(500, b"Internal Server Error")


cdef list waiting(list others, object waiter):
    """Those who still wait, and one more."""
    if others is None:
        return [waiter]
    others = [other for other in others if not other.done()]
    others.append(waiter)
    return others


cdef inline int wake(list waiters) except -1:
    if waiters is not None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
    return 0


cdef class AsgiApplication(Application):
    """app: an ASGI 3 application; state: the lifespan's state dict, copied for each request; websocket: called with
    (app, scope, Tunnel) for an upgrade to websocket; false = answer it as HTTP."""
    cdef readonly object app, loop, state
    cdef object websocket
    cdef readonly Runner runner
    cdef readonly str root_path
    cdef bytes raw_root      # in front of raw_path, for a host that does so
    cdef dict template

    def __init__(self, app, loop, logger, *, state=None, root_path="", scheme="http", websocket=None):
        self.app = app
        self.loop = loop
        self.logger = logger
        self.state = state
        self.runner = Runner(loop)
        self.websocket = websocket
        self.root_path = root_path
        self.template = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": scheme,
            "root_path": root_path,
            "extensions": {"http.response.pathsend": {}},
        }

    cdef int request(self, Port port, ka_talk *talk, const ka_head *head, const ka_field *fields) except -1:
        cdef AsgiExchange exchange = AsgiExchange.__new__(AsgiExchange)
        cdef const char *buf = ka_talk_head_bytes(talk)
        cdef dict scope = self.template.copy()
        cdef str path = unquoted(buf, head.path, False)
        if head.minor == 0:
            scope["http_version"] = "1.0"
        scope["method"] = method_str(buf, head.method)
        if head.path.len:
            scope["path"] = self.root_path + path if self.root_path else path
            scope["raw_path"] = self.raw_root + bytes_at(buf, head.path) if self.raw_root else bytes_at(buf, head.path)
        else:  # authority-form of CONNECT, "*" of OPTIONS
            scope["path"] = PyUnicode_DecodeASCII(buf + head.target.off, head.target.len, NULL)
            scope["raw_path"] = bytes_at(buf, head.target)
        scope["query_string"] = bytes_at(buf, head.query)
        scope["headers"] = headers_list(buf, fields, head.n_fields)
        scope["client"] = port.client_of(talk)
        if port.has_proxies:
            origin = port.origin_of(talk, head, fields)
            if origin is not None:
                scope["client"] = origin[0]
                scope["scheme"] = origin[1] or scope["scheme"]
        scope["server"] = port.server_of(talk)
        if self.state is not None:
            scope["state"] = self.state.copy()
        if head.flags & KA_HEAD_UPGRADE and self.open_websocket(port, talk, head, fields, scope):
            return 0
        exchange.app = self
        exchange.attach(port, talk)
        try:
            exchange.task = self.runner.start(self.app(scope, exchange.receive, exchange.send))
        except (Exception, CancelledError) as error:
            exchange.completed(error)
            return 0
        if exchange.task is None:
            self.runner.value = None
            return exchange.completed(None)
        exchange.task.add_done_callback(exchange.finished)
        return 0

    cdef bint open_websocket(self, Port port, ka_talk *talk, const ka_head *head, const ka_field *fields,
                             dict scope) except -1:
        """Hand the request to `websocket`, if it is one for it. Else it is answered as HTTP, RFC 9110 7.8."""
        cdef Tunnel tunnel
        if self.websocket is None or not ka_talk_body_is_over(talk) or scope["method"] != "GET":
            return False
        offer = forwarded_value(ka_talk_head_bytes(talk), head, fields, b"upgrade", 7)
        if offer is None or offer.lower() != "websocket":
            return False
        tunnel = Tunnel.__new__(Tunnel)
        tunnel.attach(port, talk)
        asked = scope.copy()
        del asked["method"]
        asked["type"] = "websocket"
        asked["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
        if self.websocket(self.app, asked, tunnel):
            return True
        port.entry = tunnel.entry
        tunnel.detach()
        return False

    cdef int leave(self) except -1:
        return self.runner.leave()
