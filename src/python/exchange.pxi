# One request as the application's side sees it: an Exchange over a ka_exchange, and the BaseDriver that moves its bytes.
# Knows neither engine nor event loop, and no application interface; those stand above and beside it.
#
# Life: the driver hands over a ka_exchange (`attach` takes one hold on the Exchange for it). The Exchange lets go when it
# has written the last byte (`detach`), or the core drops it when the client is gone (`lost`). After either, `core`
# is NULL and every call says so.
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_CheckExact, PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.sequence cimport PySequence_Fast, PySequence_Fast_GET_SIZE
from cpython.tuple cimport PyTuple_CheckExact

from time import monotonic as monotonic_seconds

cdef extern from "Python.h":
    PyObject *PySequence_Fast_GET_ITEM(object sequence, Py_ssize_t i) noexcept   # borrowed
    int _PyBytes_Resize(PyObject **bytes, Py_ssize_t size) except -1
    bint PyUnicode_CheckExact(object) noexcept
    bint PyUnicode_IS_COMPACT(object) noexcept
    int PyUnicode_KIND(object) noexcept
    void *PyUnicode_DATA(object) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(object) noexcept


class ClientGone(KacoreError, OSError):
    """The client is gone: what is sent now reaches nobody. An OSError, as ASGI asks of send()."""


cdef class Application


cdef class BaseDriver:
    """Whoever moves the bytes of an Exchange, and hands requests to an application."""
    cdef Application application
    cdef ka_pool *budget         # of the worker's memory; NULL once the driver is closed
    cdef ka_mutex gate           # for what other threads ask of a driver that may be closed meanwhile: its budget, wake()
    cdef object pending          # an exception that means to end the process, for whoever drives it
    cdef object access_log       # called with an AccessEntry for each request, or None
    cdef AccessEntry entry       # of the request that is being handed over; `attach` takes it
    cdef RequestIds ids          # None: no request has an id
    cdef bytes request_id        # of the request that is being handed over; None: it has none
    cdef bint has_proxies        # some peers may name the client: ask origin_of
    cdef bint has_tls            # some connections are over TLS: ask tls_of

    cdef int failed(self, object error) except -1:
        """An exception out of the application's side. Only what means to end the process goes on from here."""
        if not isinstance(error, (SystemExit, KeyboardInterrupt)):
            return self.application.say("an error in handling a request", error)
        if self.pending is None:
            self.pending = error
        return 0

    cdef int raise_pending(self) except -1:
        if self.pending is not None:
            error = self.pending
            self.pending = None
            raise error
        return 0

    cdef int attend(self, bint soon) except -1:
        """Give the talks that were noted a turn: now, or at the end of this round of the host's loop."""
        raise NotImplementedError

    cdef int push(self, ka_exchange *core) except -1:
        """Send what is pending of this one now, whatever else goes on. Nothing ends, and no news is given."""
        raise NotImplementedError

    cdef int64_t now(self) noexcept:
        return 0

    cdef int64_t now_exactly(self) noexcept:
        """Not the time that a whole step goes by, in which an application may have run."""
        return self.now()

    cdef object client_of(self, ka_exchange *core):
        """(host, port) of the client, or None."""
        return None

    cdef tuple origin_of(self, ka_exchange *core, const ka_head *head, const ka_field *fields):
        """What a trusted proxy said of this request: ((host, port) of the client, "http", "https" or None). None from
        everybody else. Ask only if `has_proxies`."""
        return None

    cdef int note_end(self, AccessEntry entry, ka_exchange *core) except -1:
        """A request is over: have it logged."""
        cdef unsigned status = ka_exchange_status(core)
        entry.status = <uint16_t>(status if status else 499)
        entry.n_bytes = ka_exchange_n_content(core)
        entry.is_kept = core.talk.persistence == KA_PERSISTS
        entry.took_ns = self.now_exactly() - entry.begun_ns
        if self.access_log is not None:
            try:
                self.access_log(entry)
            except BaseException as error:  # a log of the user's: the response goes on
                self.failed(error)
        return 0

    cdef object give_away(self, Exchange exchange):
        """The socket of a tunnel whose output is sent, the caller's from here on; the exchange is over."""
        raise LocalError("the socket belongs to the event loop: read and write the stream instead")

    cdef dict tls_of(self, ka_exchange *core):
        """What ASGI's extension "tls" says of the connection, or None. Ask only if `has_tls`."""
        return None

    cdef object server_of(self, ka_exchange *core):
        """(host, port) or (path, None) of the listener."""
        return None


@cython.no_gc_clear
cdef class Holding:
    """Bytes of a worker's budget (`max_buffer_bytes`) that are held for one peer; given back when this object goes.
    For any thread."""
    cdef BaseDriver driver
    cdef size_t nbytes

    cdef bint hold(self, ka_use use, size_t nbytes) noexcept:
        """Count `nbytes` more. False: there is no room for them, and nothing is counted."""
        cdef bint is_held
        ka_lock(&self.driver.gate)
        is_held = self.driver.budget != NULL and ka_pool_hold(self.driver.budget, use, nbytes) == KA_OK
        if is_held:
            self.nbytes += nbytes
        ka_unlock(&self.driver.gate)
        return is_held

    cdef void let_go(self, size_t nbytes) noexcept:
        """`nbytes` of those are held no longer, or all that is."""
        ka_lock(&self.driver.gate)
        if nbytes > self.nbytes:
            nbytes = self.nbytes
        self.nbytes -= nbytes
        if self.driver.budget != NULL:
            ka_pool_let_go(self.driver.budget, nbytes)
        ka_unlock(&self.driver.gate)

    cdef void let_all_go(self) noexcept:
        self.let_go(<size_t>-1)

    cdef size_t n_held(self) noexcept:
        cdef size_t n
        ka_lock(&self.driver.gate)
        n = self.nbytes
        ka_unlock(&self.driver.gate)
        return n

    cdef bint is_tight(self) noexcept:
        """Half of the budget is used: what can be moved to a file is to be moved."""
        cdef bint is_tight
        ka_lock(&self.driver.gate)
        is_tight = self.driver.budget == NULL or ka_pool_is_tight(self.driver.budget)
        ka_unlock(&self.driver.gate)
        return is_tight

    def __dealloc__(self):
        if self.driver is not None:
            self.let_all_go()


cdef Holding holding_of(BaseDriver driver):
    cdef Holding holding = Holding.__new__(Holding)
    holding.driver = driver
    return holding


cdef extern from *:
    """
    /* An object that serves the next request must have nothing of the last one: in a build with assertions it is compared,
     * byte for byte, with a new one. */
    #ifdef KA_DEBUG
    #define KA_COMPARES_REUSED 1
    #else
    #define KA_COMPARES_REUSED 0
    #endif
    #define ka_assert_as_new(used, made) \\
        ka_assert(memcmp((char *)(used) + sizeof(PyObject), (char *)(made) + sizeof(PyObject), \\
                         (size_t)Py_TYPE(used)->tp_basicsize - sizeof(PyObject)) == 0)
    """
    bint KA_COMPARES_REUSED
    void ka_assert_as_new(object used, object made) noexcept


cdef class Exchange:
    """One request and its response. Subclasses are what an application interface makes of them."""
    cdef ka_exchange *core      # borrowed; NULL once the response is over or the client is gone
    cdef BaseDriver driver
    cdef AccessEntry entry  # None unless there is an access log
    cdef bytes request_id   # for the response; None: nothing

    cdef int attach(self, BaseDriver driver, ka_exchange *core) except -1:
        self.driver = driver
        if driver.entry is not None:
            self.entry = driver.entry
            driver.entry = None
        self.request_id = driver.request_id
        self.core = core
        core.owner = <void *>self
        Py_INCREF(self)
        return 0

    cdef int detach(self) except -1:
        if self.core != NULL:
            self.core.owner = NULL
            self.core = NULL
            Py_DECREF(self)
        return 0

    cdef int news(self, ka_news news) except -1:
        """The driver has something to tell."""
        return 0

    cdef int client_lost(self) except -1:
        """The client is gone, or the server answered in the application's place."""
        return 0

    cdef int cancel(self) except -1:
        """handler_timeout: the answer was given in the application's place; stop its work where that can be done."""
        return 0

    cdef inline int ended(self, ka_exchange *core) except -1:
        """The response is complete, or as complete as it will be."""
        if self.entry is not None:
            entry = self.entry
            self.entry = None
            self.driver.note_end(entry, core)
        return 0

    # -- request content ------------------------------------------------------------------------------

    cdef object read(self):
        """Content that is here, as bytes; b"" at its end; None when none is here (news will come).
        ClientGone when no more will come."""
        cdef Py_ssize_t size
        cdef ptrdiff_t n
        cdef PyObject *piece
        if self.core == NULL:
            raise ClientGone("the client has disconnected")
        if ka_exchange_body_is_over(self.core):
            return b""
        size = <Py_ssize_t>ka_exchange_readable(self.core)
        if size == 0:
            size = 1  # what is here is framing at most, perhaps the end
        content = PyBytes_FromStringAndSize(NULL, size)
        n = ka_exchange_read(self.core, PyBytes_AS_STRING(content), <size_t>size, self.driver.now())
        if n == KA_PARTIAL:
            self.driver.attend(True)
            return None
        if n < 0:
            raise ClientGone("the connection ended before the request's content was complete")
        if n < size:
            piece = <PyObject *>content
            Py_INCREF(content)
            content = None
            _PyBytes_Resize(&piece, n)
            content = <object>piece
            Py_DECREF(content)
        return content

    cdef bint is_read(self) noexcept:
        """Nothing of the request's content is left to read."""
        return self.core == NULL or ka_exchange_body_is_over(self.core)

    # -- response ---------------------------------------------------------------------------------------

    cdef int write_head(self, unsigned status, object headers, int64_t whole, bytes reason=None,
                        Py_ssize_t size=-1) except -1:
        """Status and fields, pairs of bytes. whole: length of the content if it is complete and known, else -1.
        reason: None = the usual one. size: what bytes_in gives for headers, if that is known.
        LocalError when the application broke a rule; nothing is sent then."""
        cdef char *at
        cdef Py_ssize_t n
        cdef RequestIds ids
        cdef ka_exchange *core
        # Code of the application's may run up to here, and the connection end in it: `core` is looked at afterwards.
        if KA_HAS_GIL or not PyList_CheckExact(headers):
            fast = PySequence_Fast(headers, "headers are pairs of bytes")
        else:
            fast = tuple(headers)  # which nobody changes meanwhile
        if size < 0:
            size = bytes_in(fast, False)
        if size < 0:
            fast = plain_headers(fast)
            size = bytes_in(fast, False)
        core = self.core
        if core == NULL:
            raise ClientGone("the client has disconnected")
        if self.entry is not None:
            self.entry.fields = headers
        ids = None if self.request_id is None or self.driver.ids.are_said(fast) else self.driver.ids
        if ids is not None:
            size += PyBytes_GET_SIZE(ids.field) + PyBytes_GET_SIZE(self.request_id) + 4
        n = PySequence_Fast_GET_SIZE(fast)
        if reason is not None:
            size += PyBytes_GET_SIZE(reason)
        self.check(ka_exchange_head_begin(core, status, <size_t>(size + 4 * n), &at))
        if reason is not None:
            self.check(ka_exchange_reword(core, &at, PyBytes_AS_STRING(reason), <size_t>PyBytes_GET_SIZE(reason)))
        self.check(ka_exchange_pairs(core, &at, fast))
        if ids is not None:
            self.check(ka_exchange_field(core, &at, PyBytes_AS_STRING(ids.field), <size_t>PyBytes_GET_SIZE(ids.field),
                                         PyBytes_AS_STRING(self.request_id), <size_t>PyBytes_GET_SIZE(self.request_id)))
        self.check(ka_exchange_head_end(core, at, whole, self.driver.now()))
        return 0

    cdef int write(self, bytes content, bint more) except -1:
        """One piece of content: bytes. The last one (`more` false) ends the exchange."""
        cdef int got
        cdef ka_exchange *core = self.core
        if core == NULL:
            raise ClientGone("the client has disconnected")
        if not more:
            self.detach()  # before the content: its turn may end the connection
        if PyBytes_GET_SIZE(content) > KA_COPY_MAX:
            Py_INCREF(content)
            got = ka_exchange_content(core, PyBytes_AS_STRING(content), <size_t>PyBytes_GET_SIZE(content), more,
                                      <void *>content)
        else:
            got = ka_exchange_content(core, PyBytes_AS_STRING(content), <size_t>PyBytes_GET_SIZE(content), more, NULL)
        return self.written(core, got, more)

    cdef int write_file(self, OpenFile content) except -1:
        """The same for a file, as the last piece: sent by the kernel."""
        return self.write_part(content, content.offset, content.n, False)

    cdef int write_part(self, OpenFile content, int64_t offset, int64_t n, bint more) except -1:
        """The same for `n` bytes of a file from `offset` on."""
        cdef ka_exchange *core = self.core
        if core == NULL:
            raise ClientGone("the client has disconnected")
        if not more:
            self.detach()
        Py_INCREF(content)
        return self.written(core, ka_exchange_file(core, content.fd, offset, <size_t>n, more, <void *>content), more)

    cdef int write_trailers(self, object headers) except -1:
        """End the response with trailer fields. Where they cannot be sent it ends without; LocalError for a field that
        may be none, and then nothing is sent."""
        lines = self.lines_of(plain_headers(headers), True)
        cdef ka_exchange *core = self.core
        self.detach()
        cdef size_t n = <size_t>PyBytes_GET_SIZE(lines)
        return self.written(core, ka_exchange_trailers(core, PyBytes_AS_STRING(lines), n), False)

    cdef int write_interim(self, unsigned status, object headers) except -1:
        """A response before the response, as 103 (Early Hints)."""
        lines = self.lines_of(plain_headers(headers), False)
        self.check(ka_exchange_interim(self.core, status, PyBytes_AS_STRING(lines), <size_t>PyBytes_GET_SIZE(lines)))
        self.driver.attend(True)
        return 0

    cdef bytes lines_of(self, list plain, bint are_trailers):
        """plain: what plain_headers gave. ClientGone, LocalError."""
        cdef char *at
        if self.core == NULL:
            raise ClientGone("the client has disconnected")
        room = PyBytes_FromStringAndSize(NULL, sum([len(name) + len(value) + 4 for name, value in plain]))
        at = PyBytes_AS_STRING(room)
        for name, value in plain:
            if are_trailers and ka_trailer_is_forbidden(name, <size_t>len(name)):
                raise LocalError(f"{name.decode('latin-1')} cannot be a trailer (RFC 9110 6.5.1)")
            self.check(ka_exchange_line(self.core, &at, name, <size_t>len(name), value, <size_t>len(value)))
        return room

    cdef int written(self, ka_exchange *core, int got, bint more) except -1:
        if got < 0:
            why = self.reason(core, got)
            self.detach()
            self.ended(core)
            self.driver.attend(False)
            raise why
        if not more:
            self.ended(core)
        self.driver.attend(more)
        return 0

    cdef int push(self) except -1:
        """Offer what was written to the kernel now, before control goes back to the application's code: it may take its
        time over the next piece. Before is_held(), if that is asked."""
        if self.core != NULL:
            self.driver.push(self.core)
        return 0

    cdef bint is_held(self) noexcept:
        """The client takes more slowly than the application writes, or the others are to have their turn: wait for
        KA_NEWS_LOW."""
        return self.core != NULL and ka_exchange_holds(self.core)

    cdef int yield_turn(self) except -1:
        """There is more to write: let the others have their turn, and wait for KA_NEWS_LOW."""
        if self.core != NULL:
            ka_exchange_rest(self.core)
            self.driver.attend(True)
        return 0

    cdef int break_off(self) except -1:
        """Break off: what the client has looks incomplete."""
        cdef ka_exchange *core = self.core
        if core != NULL:
            self.detach()
            ka_exchange_done(core, KA_CAUSE_APPLICATION)
            self.ended(core)
            self.driver.attend(False)
        return 0

    cdef int refuse(self, unsigned status, const char *text) except -1:
        """Answer in the application's place and close; or cut off a response that has begun."""
        cdef ka_exchange *core = self.core
        if core == NULL:
            return 0
        self.detach()
        if ka_exchange_refuse(core, status, text, KA_CAUSE_APPLICATION, self.driver.now()) < 0:
            ka_exchange_done(core, KA_CAUSE_APPLICATION)
        self.ended(core)
        self.driver.attend(False)
        return 0

    cdef int abandon(self) except -1:
        """The client is gone as far as the application is concerned: end without an answer, or in the middle of it."""
        cdef ka_exchange *core = self.core
        if core == NULL:
            return 0
        self.detach()
        ka_exchange_done(core, KA_CAUSE_CLIENT)
        self.ended(core)
        self.driver.attend(False)
        return 0

    cdef object reason(self, ka_exchange *core, int code):
        if code == KA_ENOMEM:
            return MemoryError("no buffer for the response: max_buffer_bytes is reached")
        if code == KA_EINVAL and ka_exchange_why(core) != NULL:
            return LocalError((<bytes>ka_exchange_why(core)).decode())
        return ClientGone("the client has disconnected")

    cdef int check(self, int code) except -1:
        if code < 0:
            raise self.reason(self.core, code)
        return 0


cdef list plain_headers(object headers):
    """Headers of any shape that ASGI, or a convenient caller, may give, as a list of tuples of bytes."""
    cdef list plain = []
    for header in headers:
        try:
            name, value = header
        except (TypeError, ValueError):
            raise LocalError(f"a header must be a (name, value) pair, not {header!r}") from None
        plain.append((bytes(as_bytes(name)), bytes(as_bytes(value))))
    return plain


cdef object as_bytes(object value):
    """Names and values as bytes; str is for convenience and goes out as Latin-1 (RFC 9110 5.5)."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return (<str>value).encode("latin-1")
        except UnicodeEncodeError:
            raise LocalError(f"a header must be encodable as Latin-1, not {value!r}") from None
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise LocalError(f"a header must be bytes or str, not {type(value).__name__}")


cdef inline object content_of(object content):
    """A piece of content as bytes, exactly, or OpenFile, before anything of it is promised. LocalError for what is
    neither. Code of the application's may run in here."""
    if PyBytes_CheckExact(content) or isinstance(content, OpenFile):
        return content
    if PyBytes_Check(content):  # of a class of its own, with a length and a text that may be its own as well
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(content), PyBytes_GET_SIZE(content))
    try:
        return bytes(memoryview(content))
    except TypeError:
        raise LocalError(f"content must be bytes, not {type(content).__name__}") from None


cdef class Application:
    """What is done with a request. One for each application interface."""
    cdef readonly object logger
    cdef ka_mutex mutex      # for what its threads share with the driver's
    cdef double says_again   # of files that could not be written: not before, by the monotonic clock

    cdef int say_of_files(self, object error) except -1:
        """A temporary file could not be had or written: told once in ten seconds."""
        cdef double now = monotonic_seconds()
        cdef bint is_due
        ka_lock(&self.mutex)
        is_due = now >= self.says_again
        if is_due:
            self.says_again = now + 10
        ka_unlock(&self.mutex)
        if is_due:
            self.say(f"a temporary file could not be written: {error}", None)
        return 0

    cdef int say(self, str text, object error) except -1:
        """An error, in the log. Whatever its log makes of it, the caller goes on: somebody waits for it."""
        try:
            self.logger.error("%s", text, exc_info=error)
        except BaseException:
            pass
        return 0

    cdef int request(self, BaseDriver driver, ka_exchange *core, const ka_head *head, const ka_field *fields) except -1:
        raise NotImplementedError

    cdef int leave(self) except -1:
        """The engine's step ends: nothing of an application's may seem to be running."""
        return 0

    cdef int wake(self) except -1:
        """The driver's wake() was called from another thread."""
        return 0


cdef bint refuse_protocol(BaseDriver driver, ka_exchange *core) except -1:
    """Answer an extended CONNECT for a protocol that nobody here speaks, RFC 8441 3. Return: True."""
    ka_exchange_refuse(core, 501, b"no such protocol over CONNECT here", KA_CAUSE_BAD_REQUEST, driver.now())
    driver.attend(True)
    return True


cdef frozenset OWN_FIELDS = frozenset((b"connection", b"content-length", b"date", b"keep-alive", b"server", b"trailer",
                                       b"transfer-encoding", b"upgrade"))


def field_lines(headers, *, bint has_server=False):
    """bytes: field lines for set_fields of Engine and Transports, of pairs (name, value) of str or bytes; 8 KiB at most.

    has_server: Server may be among them, also twice; for a driver whose server_name is "".
    Raises ValueError for a field that may not be one, or that is the server's own to write."""
    cdef ka_reply reply
    cdef char *at
    plain = plain_headers(headers)
    lines = PyBytes_FromStringAndSize(NULL, sum([len(name) + len(value) + 4 for name, value in plain]))
    at = PyBytes_AS_STRING(lines)
    for name, value in plain:
        text = f"{name.decode('latin-1')}: {value.decode('latin-1')}"
        if name.lower() in OWN_FIELDS and not (has_server and name.lower() == b"server"):
            raise ValueError(f"{text!r}: this field is set by the server itself")
        if ka_reply_line(&reply, &at, name, <size_t>len(name), value, <size_t>len(value)) < 0:
            raise ValueError(f"{text!r}: {(<bytes>reply.why).decode()}")
    if len(lines) > 8192:
        raise ValueError(f"the fields added to every response are {len(lines)} bytes together: must be at most 8192")
    return lines


# What the C core calls; ctx is the BaseDriver.

cdef void driver_on_news(void *ctx, ka_exchange *core, ka_news news) noexcept:
    cdef Exchange exchange
    if core.owner == NULL:
        return
    exchange = <Exchange>core.owner
    try:
        exchange.news(news)
    except BaseException as error:
        (<BaseDriver>ctx).failed(error)
        try:
            exchange.refuse(500, b"Internal Server Error")
        except BaseException as broken:
            (<BaseDriver>ctx).failed(broken)


cdef void driver_on_lost(void *owner) noexcept:
    cdef Exchange exchange = <Exchange>owner
    cdef BaseDriver driver = exchange.driver
    cdef ka_exchange *core = exchange.core
    cdef bint is_late = ka_exchange_cause(core) == KA_CAUSE_HANDLER_TIMEOUT
    exchange.core = NULL
    # Each for itself: whoever waits for `lost` would wait for ever.
    try:
        exchange.ended(core)
    except BaseException as error:
        driver.failed(error)
    if is_late:
        try:
            exchange.cancel()
        except BaseException as error:
            driver.failed(error)
    try:
        exchange.client_lost()
    except BaseException as error:
        driver.failed(error)
    Py_DECREF(exchange)


cdef void release_object(void *owner) noexcept:
    Py_DECREF(<object>owner)
