# ASGI 3, http scope: https://asgi.readthedocs.io/en/latest/specs/www.html (spec_version 2.3).
# Knows an exchange and its driver, never an engine or a socket.
#
# When is a client gone? A reset, or output that cannot be sent, says so: receive() gives http.disconnect, and what is sent
# from then on goes nowhere, in silence. FIN alone says only that no further request comes: who closes the whole socket
# sends the same FIN as who waits for the answer with his own side closed (`nc -N`). So a client that sent FIN counts as
# there for as long as it is given something, and as gone when it has been given nothing for FIN_QUIET_NS.


@cython.final
@cython.no_gc  # only the frame that awaits it holds one, and what it holds knows nothing of it
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
    ctypedef object (*vectorcallfunc)(object, PyObject **, size_t, PyObject *)
    ctypedef struct PyTypeObject:
        PyAsyncMethods *tp_as_async
        iternextfunc tp_iternext
        Py_ssize_t tp_vectorcall_offset
        unsigned long tp_flags
    unsigned long Py_TPFLAGS_HAVE_VECTORCALL
    Py_ssize_t PyVectorcall_NARGS(size_t n) noexcept
    Py_ssize_t Py_REFCNT(PyObject *) noexcept
    PyObject *PyTuple_GET_ITEM(object, Py_ssize_t) noexcept                             # borrowed
    Py_ssize_t PyTuple_GET_SIZE(object) noexcept
    PyObject *ka_item "PyDict_GetItemWithError"(dict, PyObject *) noexcept              # borrowed
    Py_ssize_t PyDict_GET_SIZE(dict) noexcept
    void PyErr_SetObject(object kind, object value)
    ctypedef object (*PyCFunction)(object, object)
    ctypedef struct PyMethodDef:
        const char *ml_name
        PyCFunction ml_meth
        int ml_flags
        const char *ml_doc
    int METH_O, METH_NOARGS
    object PyCFunction_New(PyMethodDef *method, object self)
    bint PyDict_CheckExact(object)


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


cdef class Pause:
    """An awaitable that lets the others in the loop have their turn."""

    def __await__(self):
        yield


async def pause():
    await Pause()


cdef inline Ready ready(object value):
    cdef Ready done = Ready.__new__(Ready)
    done.value = value
    return done


cdef Ready SENT = kept(ready(None))
cdef int64_t FIN_QUIET_NS = 500 * 1000000
cdef str TYPE = "type"   # the object that every literal of this word is
# To a websocket that is closed send() raises OSError, which 2.4 asks for; to an HTTP client that is gone it does not, and
# says 2.3, below which frameworks listen for http.disconnect while they send.
cdef dict WEBSOCKET_VERSION = {"version": "3.0", "spec_version": "2.4"}


@cython.final
cdef class AsgiExchange(Exchange):
    """One request, and what its application is given as `send`: to be called, which costs less than to make a function."""
    cdef vectorcallfunc call  # asgi_send
    cdef AsgiApplication app
    cdef object task
    cdef list readers         # futures of the receive() that wait, one each: who cancels one leaves the others alone
    cdef list writers         # the same of send()
    cdef object status, headers   # of http.response.start, until its first body: then the length may be known
    cdef dict scope           # until the application is done
    cdef bint is_asked        # receive() has given the end of the content
    cdef bint is_begun        # http.response.start was seen
    cdef bint owes_head       # and its head waits for the first of the content
    cdef bint is_done         # the response is complete
    cdef bint is_gone         # the client is gone, or the server answered in the application's place
    cdef bint is_told         # receive() said http.disconnect, of a response that is not complete
    cdef int64_t quiet_ns     # since when a client that sent FIN has been given nothing; 0: nobody has asked
    cdef uint32_t n_unheard   # messages since it is gone
    cdef object timer         # to look whether that is long enough
    cdef bint takes_trailers  # the extension was offered
    cdef bint owes_trailers   # http.response.start promised trailers: they end the response
    cdef bint is_trailing     # ... and are all that is missing
    cdef list trailers        # gathered while more_trailers

    # -- receive ----------------------------------------------------------------------------------------

    cdef object receive(self):
        """ASGI receive(): an awaitable of the next event."""
        message = self.next_message()
        return ready(message) if message is not None else self.receive_later()

    cdef object next_message(self):
        """An event dict, or None when one must be waited for."""
        if self.core == NULL or self.is_done:
            return self.app.disconnect.copy()
        if self.is_asked:
            return self.disconnect() if ka_exchange_sees_fin(self.core) and self.is_quiet() else None
        if ka_exchange_body_is_over(self.core):
            self.is_asked = True
            return self.app.no_content.copy()
        try:
            content = self.read()
        except ClientGone:
            return self.disconnect()
        if content is None:
            return None
        self.is_asked = self.is_read()
        return {"type": "http.request", "body": content, "more_body": not self.is_asked}

    cdef object disconnect(self):
        self.is_told = True
        return self.app.disconnect.copy()

    cdef bint is_quiet(self) noexcept:
        """Whether a client that sent FIN has been given nothing for so long that it counts as gone."""
        cdef int64_t now = self.driver.now()
        if self.quiet_ns == 0 or ka_exchange_unsent(self.core):
            self.quiet_ns = now
        return now - self.quiet_ns >= FIN_QUIET_NS

    async def receive_later(self):
        while True:
            waiter = self.app.loop.create_future()
            self.readers = waiting(self.readers, waiter)
            if self.quiet_ns and self.timer is None:
                left = max(0.001, <double>(self.quiet_ns + FIN_QUIET_NS - self.driver.now()) / 1e9)
                self.timer = self.app.loop.call_later(left, self.look_again)
            await waiter
            message = self.next_message()
            if message is not None:
                return message

    def look_again(self):
        """The timer has come."""
        self.timer = None
        wake(self.readers)

    # -- send -------------------------------------------------------------------------------------------

    def __call__(self, message):
        """ASGI send(message): what the message says is done at once; the awaitable waits while the client is slow."""
        if self.app is None:
            raise TypeError("not the send() of a request")
        return self.send(message)

    cdef object send(self, object message):
        """ASGI send(): what the message says is done at once; the awaitable waits while the client is slow."""
        cdef ka_message said
        cdef bint is_plain = ka_message_read(message, &said)
        cdef object kind = <object>said.type if is_plain else type_of(message)
        if self.is_gone:
            # Who sends in a loop is not to keep others from it. But seldom: one that is cancelled inside send() leaves its
            # generator to the garbage collector.
            self.n_unheard += 1
            return pause() if self.n_unheard % 64 == 0 else SENT
        if kind is self.app.start_word or (kind is not self.app.body_word and is_word(kind, b"http.response.start", 19)):
            if self.is_begun:
                raise LocalError("http.response.start has already been sent")
            self.app.start_word = kind
            if is_plain and said.status != NULL:
                self.status = <object>said.status
                self.headers = <object>said.headers if said.headers != NULL else ()
            else:
                self.status = message["status"]
                self.headers = item_of(message, "headers", ())
            self.is_begun = self.owes_head = True
            if self.takes_trailers:
                self.owes_trailers = item_of(message, "trailers", False)
        elif kind is self.app.body_word or is_word(kind, b"http.response.body", 18):
            self.app.body_word = kind
            if is_plain:
                self.send_body(<object>said.body if said.body != NULL else b"",
                               said.more_body != NULL and <object>said.more_body)
            else:
                self.send_body(item_of(message, "body", b""), item_of(message, "more_body", False))
        elif is_word(kind, b"http.response.pathsend", 22):
            self.send_body(open_file(message["path"]), False)
        elif is_word(kind, b"http.response.trailers", 22):
            self.send_trailers(message.get("headers", ()), message.get("more_trailers", False))
        elif is_word(kind, b"http.response.early_hint", 24):
            self.send_hints(message["links"])
        else:
            raise LocalError(f"expected http.response.start or http.response.body, not {kind!r}")
        return self.send_later() if not self.is_done and self.is_held() else SENT

    cdef int send_body(self, object body, bint more) except -1:
        if self.core == NULL:
            raise LocalError("the response is already complete")
        if not self.is_begun:
            raise LocalError("http.response.body was sent before http.response.start")
        if not isinstance(body, OpenFile):
            body = content_of(body)
        if self.owes_trailers:
            more = self.trailers_follow(body, more)
        if self.owes_head:
            self.write_head(self.status, self.headers, -1 if more else len(body))
            self.owes_head = False
            self.status = self.headers = None
        if not more:
            self.is_done = True
        if isinstance(body, OpenFile):
            self.write_file(body)
        else:
            self.write(body, more)
        if self.is_done:
            return wake(self.readers)
        if self.quiet_ns and len(body):
            self.quiet_ns = self.driver.now()
        return self.push()

    cdef bint trailers_follow(self, object body, bint more) except *:
        """Whether something still comes behind this content: more of it, or the trailers."""
        if self.is_trailing:
            raise LocalError("the content is complete: http.response.trailers must come next")
        if isinstance(body, OpenFile):  # its length is told in the head, and so its end: there is no place for trailers
            self.owes_trailers = False
            return False
        self.is_trailing = not more
        return True

    cdef int send_trailers(self, object headers, bint more) except -1:
        if self.is_done and self.takes_trailers and not self.owes_trailers:
            return 0  # behind a file
        if not self.is_trailing:
            raise LocalError('http.response.trailers is only for a response that started with "trailers": True, after its'
                             ' content; the extension is offered to clients that send "TE: trailers"')
        if self.trailers is None:
            self.trailers = []
        self.trailers.extend(headers)
        if more:
            return 0
        self.write_trailers(self.trailers)
        self.is_done = True
        return wake(self.readers)

    cdef int send_hints(self, object links) except -1:
        if self.is_begun:
            raise LocalError("http.response.early_hint must come before http.response.start")
        if self.core != NULL and ka_exchange_is_http_1_0(self.core):
            return 0  # RFC 9110 15.2: nothing interim to HTTP/1.0; the extension was not offered
        self.write_interim(103, [(b"link", link) for link in links])
        return self.push()

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
            self.app.logger.warning("%s took longer than handler_timeout and was cancelled", self.named())
            self.task.cancel()
        return 0

    cdef int client_lost(self) except -1:
        self.is_gone = not self.is_done
        self.is_done = True
        wake(self.writers)  # first: who is cancelled by a reader is better not found inside send()
        return wake(self.readers)

    def finished(self, task):
        """The application's task is done, one way or another."""
        cdef object error
        self.task = None
        self.completed(CancelledError() if task.cancelled() else task.exception())

    cdef int completed(self, object error) except -1:
        cdef bint is_cancelled = error is not None and isinstance(error, CancelledError)
        if error is not None and not is_cancelled:
            if not isinstance(error, ClientGone):
                self.give_up("failed", error)
        elif self.is_told:  # it did as it was told
            self.abandon()
        elif is_cancelled:
            if self.core != NULL:  # else the server itself cancelled it, and said why
                self.give_up("was cancelled", None)
        elif not self.is_done and self.core != NULL:
            self.give_up("returned without completing its response", None)
        self.scope = None
        return 0

    cdef bint is_new_again(self) noexcept:
        """Nobody else has it, and nothing is left of its request. False: let it go."""
        if (self.core != NULL or self.is_gone or self.entry is not None or self.owes_head
                or self.readers is not None or self.writers is not None or self.timer is not None
                or self.trailers is not None):
            return False
        self.call = NULL
        self.app = self.driver = self.request_id = self.status = self.headers = None
        self.is_asked = self.is_begun = self.is_done = self.is_told = False
        self.takes_trailers = self.owes_trailers = self.is_trailing = False
        self.quiet_ns = 0
        if KA_COMPARES_REUSED:
            ka_assert_as_new(self, AsgiExchange.__new__(AsgiExchange))
        return True

    cdef str named(self):
        """Method and path, for logs; an application may have changed its scope."""
        path = self.scope.get("raw_path")
        return f"{self.scope.get('method')} {path.decode('ascii', 'backslashreplace') if isinstance(path, bytes) else path}"

    cdef int give_up(self, str what, object error) except -1:
        if error is not None or self.core != NULL:
            self.app.logger.error("the application %s on %s", what, self.named(), exc_info=error)
        self.is_done = True
        return self.refuse(500, b"Internal Server Error")


# Both callables by the vectorcall protocol: no tuple of arguments is made.
@cython.final
cdef class AsgiReceive:
    """`receive`, as the application gets it."""
    cdef vectorcallfunc call  # asgi_receive
    cdef AsgiExchange exchange

    def __call__(self):
        """ASGI receive(): an awaitable of the next event."""
        if self.exchange is None:
            raise TypeError("not the receive() of a request")
        return self.exchange.receive()


cdef object asgi_receive(object receive, PyObject **arguments, size_t n, PyObject *names):
    if PyVectorcall_NARGS(n) != 0 or names != NULL:
        raise TypeError("receive() takes no arguments")
    return (<AsgiReceive>receive).exchange.receive()


cdef object asgi_send(object exchange, PyObject **arguments, size_t n, PyObject *names):
    if PyVectorcall_NARGS(n) != 1 or names != NULL:
        raise TypeError("send() takes exactly one argument, by its position: the message")
    return (<AsgiExchange>exchange).send(<object>arguments[0])


cdef AsgiReceive no_receive = AsgiReceive.__new__(AsgiReceive)
(<PyTypeObject *>AsgiReceive).tp_vectorcall_offset = <char *>&no_receive.call - <char *><void *>no_receive
(<PyTypeObject *>AsgiReceive).tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL
cdef AsgiExchange no_send = AsgiExchange.__new__(AsgiExchange)
(<PyTypeObject *>AsgiExchange).tp_vectorcall_offset = <char *>&no_send.call - <char *><void *>no_send
(<PyTypeObject *>AsgiExchange).tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL
no_receive = no_send = None


cdef inline bint is_word(object said, const char *word, size_t n) noexcept:
    """said == word, for a str that is not this very object."""
    cdef text t
    return text_at(<PyObject *>said, &t) and t.n == n and memcmp(t.at, word, n) == 0


cdef inline object item_of(object message, str key, object default):
    """message.get(key, default), for a message that is nearly always a dict."""
    if not PyDict_CheckExact(message):
        return message.get(key, default)
    return ka_item_of(message, key, default)


cdef inline object type_of(object message):
    """message["type"], which nearly always comes first."""
    cdef PyObject *found = NULL
    if PyDict_CheckExact(message):
        found = ka_first_item(message, TYPE)
    if found == NULL:
        return message["type"]
    kind = <object>found
    Py_DECREF(kind)
    return kind


cdef bint takes_trailers_of(const char *buf, const ka_head *head, const ka_field *fields):
    """RFC 9110 6.5.1: trailers are for who says "TE: trailers", and RFC 9112 7.1.2 has a place for them in chunks only."""
    cdef uint32_t i
    for i in range(head.n_fields):
        if fields[i].name.len == 2:
            te = forwarded_value(buf, head, fields, b"te", 2) if head.minor else None
            return te is not None and "trailers" in [word.strip(" \t").lower() for word in te.split(",")]
    return False


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


cdef bint is_coroutine_function(app) except *:
    import inspect
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None))


async def call_in_task(app, scope, receive, send):
    """For an application that does part of its work when it is called, before there is anything to await: that, too, has
    the task and the context of its request."""
    await app(scope, receive, send)


cdef class AsgiApplication(Application):
    """app: an ASGI 3 application; state: the lifespan's state dict, copied for each request; websocket: called with
    (app, scope, Tunnel) for an upgrade to websocket; false = answer it as HTTP; pathsend: offer the extension
    http.response.pathsend."""
    cdef readonly object app, loop, state
    cdef object websocket
    cdef readonly Runner runner
    cdef readonly str root_path
    cdef bytes raw_root         # in front of raw_path, for a host that does so
    # Copied for each use, which costs less than to build them. Of this application, since a copy locks them.
    # What most requests have alike is in the template, as the last request had it: to replace a value costs as much in the
    # template as in its copy, and is not needed for the same value again.
    cdef dict template, extensions, extensions_tls, extensions_1_0
    cdef dict disconnect, no_content
    cdef object server, client  # that the template names
    cdef list alike             # see alike.pxi
    cdef bytes raw_path         # of the head whose path the template has; None: of none
    cdef AsgiReceive spare_receive    # of an earlier request, for the next one
    cdef AsgiExchange spare_exchange  # the same
    cdef tuple made             # what is in `extensions`
    cdef dict spare             # the extensions in the template, for the next request if nobody keeps or changes them
    cdef object start_word, body_word   # types of messages as last said: the same objects nearly always

    def __init__(self, app, loop, logger, *, state=None, root_path="", scheme="http", websocket=None,
                 pathsend=False):
        if not is_coroutine_function(app):
            from functools import partial
            app = partial(call_in_task, app)
        self.app = app
        self.loop = loop
        self.logger = logger
        self.state = state
        self.runner = Runner(loop)
        self.websocket = websocket
        self.root_path = root_path
        self.server = self.client = ...  # nobody's
        self.alike = [None] * len(NAMES)
        # Every key, in the order they are given: to fill in a copy costs less than to let a dict grow.
        self.template = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": scheme,
            "root_path": root_path,
            "extensions": None,
            "method": "GET",
            "path": None,
            "raw_path": None,
            "query_string": b"",
            "headers": None,
            "client": None,
            "server": None,
        }
        if state is not None:
            self.template["state"] = None
        self.disconnect = {"type": "http.disconnect"}
        self.no_content = {"type": "http.request", "body": b"", "more_body": False}
        self.extensions_1_0 = {"http.response.pathsend": {}} if pathsend else {}
        self.extensions = {**self.extensions_1_0, "http.response.early_hint": {}}
        self.made = tuple(self.extensions.items())
        self.extensions_tls = {**self.extensions, "tls": None}

    cdef int request(self, BaseDriver driver, ka_exchange *core, const ka_head *head, const ka_field *fields) except -1:
        cdef AsgiExchange exchange = self.spare_exchange
        if exchange is None:
            exchange = AsgiExchange.__new__(AsgiExchange)
        self.spare_exchange = None
        cdef dict scope = self.scope_of(exchange, driver, core, head, fields)
        if head.flags & (KA_HEAD_UPGRADE | KA_HEAD_IS_CONNECT) and self.open_websocket(driver, core, head, fields, scope):
            return 0
        cdef AsgiReceive receive = self.spare_receive
        if receive is None:
            receive = AsgiReceive.__new__(AsgiReceive)
            receive.call = <vectorcallfunc>asgi_receive
        self.spare_receive = None
        receive.exchange = exchange
        exchange.app = self
        exchange.call = <vectorcallfunc>asgi_send
        exchange.scope = scope
        exchange.attach(driver, core)
        if exchange.entry is not None:
            exchange.entry.request = scope
        try:
            exchange.task = self.runner.start(self.app(scope, receive, exchange))
        except (Exception, CancelledError) as error:
            exchange.completed(error)
            return 0
        if exchange.task is None:
            self.runner.value = None
            if KA_HAS_GIL and Py_REFCNT(<PyObject *>receive) == 1:  # the application has not kept it
                receive.exchange = None
                self.spare_receive = receive
            exchange.completed(None)
            if KA_HAS_GIL and Py_REFCNT(<PyObject *>exchange) == 1 and exchange.is_new_again():
                self.spare_exchange = exchange
            return 0
        exchange.task.add_done_callback(exchange.finished)
        return 0

    cdef dict scope_of(self, AsgiExchange exchange, BaseDriver driver, ka_exchange *core, const ka_head *head,
                       const ka_field *fields):
        cdef const char *buf = ka_exchange_head_bytes(core)
        cdef dict scope, extensions
        cdef object server = driver.server_of(core), client = driver.client_of(core)
        if server is not self.server:
            self.template["server"] = self.server = server
        if client is not self.client:
            self.template["client"] = self.client = client
        if self.raw_path is None or not is_bytes_at(self.raw_path, buf + head.path.off, head.path.len):
            self.name_path(buf, head)
        exchange.takes_trailers = takes_trailers_of(buf, head, fields)
        extensions = self.extensions_of(driver, core, exchange.takes_trailers)
        scope = self.template.copy()
        if extensions is not self.spare:
            scope["extensions"] = extensions
        if head.flags & KA_HEAD_IS_H2:
            scope["http_version"] = "2"
        elif head.minor == 0:
            scope["http_version"] = "1.0"
        if not is_get(buf, head.method):
            scope["method"] = method_str(buf, head.method)
        if head.query.len:
            scope["query_string"] = bytes_at(buf, head.query)
        scope["headers"] = headers_alike(self.alike, buf, fields, head.n_fields)
        if driver.request_id is not None:
            scope["headers"] = driver.ids.put(<list>scope["headers"], driver.request_id)
        if driver.has_proxies:
            origin = driver.origin_of(core, head, fields)
            if origin is not None:
                scope["client"] = origin[0]
                scope["scheme"] = origin[1] or scope["scheme"]
        if self.state is not None:
            scope["state"] = self.state.copy()
        return scope

    cdef int name_path(self, const char *buf, const ka_head *head) except -1:
        """Put the path of this head into the template."""
        cdef str path = path_of(buf, head, False)
        cdef bytes raw = bytes_at(buf, head.path) if head.path.len else path_instead(buf, head)
        self.raw_path = None
        self.template["path"] = self.root_path + path if self.root_path and path[0] == "/" else path
        self.template["raw_path"] = self.raw_root + raw if self.raw_root and head.path.len else raw
        if head.path.len:
            self.raw_path = raw
        return 0

    cdef dict extensions_of(self, BaseDriver driver, ka_exchange *core, bint takes_trailers):
        """A dict of the request's own: middleware adds to it."""
        cdef dict tls = driver.tls_of(core) if driver.has_tls else None
        cdef dict extensions
        if tls is None and not takes_trailers and not ka_exchange_is_http_1_0(core):
            if not self.is_spare():
                self.template["extensions"] = self.spare = self.extensions.copy()
            return self.spare
        if tls is not None and not ka_exchange_is_http_1_0(core):
            extensions = self.extensions_tls.copy()
        else:
            extensions = (self.extensions_1_0 if ka_exchange_is_http_1_0(core) else self.extensions).copy()
        if tls is not None:
            extensions["tls"] = tls
        if takes_trailers:
            extensions["http.response.trailers"] = {}
        return extensions

    cdef bint is_spare(self) noexcept:
        """Whether nobody but this object and its template has `spare`, and all who had it left it as it was made."""
        cdef PyObject *pair
        cdef Py_ssize_t i
        if not KA_HAS_GIL or self.spare is None or Py_REFCNT(<PyObject *>self.spare) != 2:
            return False
        if PyDict_GET_SIZE(self.spare) != PyTuple_GET_SIZE(self.made):
            return False
        for i in range(PyTuple_GET_SIZE(self.made)):
            pair = PyTuple_GET_ITEM(self.made, i)
            if ka_item(self.spare, PyTuple_GET_ITEM(<object>pair, 0)) != PyTuple_GET_ITEM(<object>pair, 1):
                return False
        return True

    cdef bint open_websocket(self, BaseDriver driver, ka_exchange *core, const ka_head *head, const ka_field *fields,
                             dict scope) except -1:
        """Hand the request to `websocket`, if it is one for it. Else it is answered as HTTP, RFC 9110 7.8."""
        cdef Tunnel tunnel
        cdef size_t n
        cdef const char *protocol = ka_exchange_protocol(core, &n)
        if protocol != NULL:  # RFC 8441
            if self.websocket is None or n != 9 or not ka_equals_lower(protocol, b"websocket", 9):
                return refuse_protocol(driver, core)
        else:
            if self.websocket is None or not ka_exchange_body_is_over(core) or scope["method"] != "GET":
                return False
            offer = forwarded_value(ka_exchange_head_bytes(core), head, fields, b"upgrade", 7)
            if offer is None or offer.lower() != "websocket":
                return False
        tunnel = Tunnel.__new__(Tunnel)
        tunnel.attach(driver, core)
        asked = scope.copy()
        del asked["method"]
        asked["type"] = "websocket"
        asked["asgi"] = WEBSOCKET_VERSION
        asked["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
        if self.websocket(self.app, asked, tunnel):
            return True
        driver.entry = tunnel.entry
        tunnel.detach()
        return False

    cdef int leave(self) except -1:
        return self.runner.leave()
