# Request heads and bodies for Python: Limits, Head, parse_head, RequestParser and its events.
#
# Thin: every rule lives in ka_head.c and ka_body.c. What crosses to Python owns its bytes: a Head holds the places of its
# fields, and a copy of the head or a reference to the bytes that it was read from, and makes each attribute when it is
# asked for. How, and the common ways through parse_head and parse_parts: objects.c.
import os

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.string cimport memcmp, memcpy, memmove

cdef extern from "objects.h":
    int ka_objects_init(object methods, object methods_as_bytes, object versions, object names) except -1
    ctypedef struct ka_message:
        PyObject *type
        PyObject *status
        PyObject *headers
        PyObject *body
        PyObject *more_body
    bint ka_message_read(object message, ka_message *said) noexcept
    ctypedef struct text "ka_text":
        const char *at
        size_t n
    bint text_at "ka_text_at"(PyObject *item, text *to) noexcept
    bint pair_at "ka_pair_at"(PyObject *item, text *name, text *value) noexcept
    Py_ssize_t bytes_in "ka_bytes_in"(object pairs, bint must_be_tuples) noexcept
    int ka_exchange_pairs(ka_exchange *core, char **at, object pairs) noexcept
    bytes bytes_at "ka_bytes_at"(const char *buf, ka_span where)
    object method_str "ka_method_str"(const char *buf, ka_span where)
    object method_bytes "ka_method_bytes"(const char *buf, ka_span where)
    object name_bytes "ka_name_bytes"(const char *buf, ka_span where)
    list headers_list "ka_headers_list"(const char *buf, const ka_field *fields, uint32_t n)
    object ka_parts(const char *buf, const ka_head *head, const ka_field *fields, size_t end)
    int ka_head_type_init(type of_heads) except -1
    object ka_head_new(PyObject *data, const char *buf, const ka_head *head, const ka_field *fields)
    const ka_field *ka_head_fields(object self) noexcept
    const char *ka_head_bytes(object self) noexcept
    object ka_parse_head_function(object any_way)
    object ka_parse_parts_function(object any_way)

cdef tuple VERSIONS = kept(tuple([f"1.{minor}" for minor in range(10)] + ["2"]))
cdef tuple METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE")
cdef tuple METHODS_AS_BYTES = kept(tuple([method.encode("ascii") for method in METHODS]))
if ka_names_init() != KA_OK:
    raise ImportError("no perfect hash for the common field names")
cdef tuple NAMES = kept(tuple([ka_name_at(i)[:ka_name_len(i)] for i in range(ka_name_count())]))
ka_objects_init(METHODS, METHODS_AS_BYTES, VERSIONS, NAMES)


def simd_variants() -> list[str]:
    """The ways of scanning that this machine has, plainest first: "scalar", "sse4.2", "neon"."""
    cdef list names = []
    while ka_simd_at(<unsigned>len(names)) != NULL:
        names.append((<bytes>ka_simd_at(<unsigned>len(names))).decode("ascii"))
    return names


def simd_variant() -> str:
    """The SIMD variant in use: the best that the machine has, or what the environment variable KACORE_SIMD names."""
    return (<bytes>ka_simd_name()).decode("ascii")


def set_simd_variant(name, /) -> None:
    """Use another SIMD variant in the whole process; None chooses the best. For tests and measurements.

    Raises LocalError for a name that is not in simd_variants().
    """
    cdef const char *asked = NULL
    if name is not None:
        as_bytes = name.encode()
        asked = as_bytes
    if ka_simd_select(asked) != KA_OK:
        raise LocalError(f"simd_variant={name!r}: this machine has {', '.join(simd_variants())}")


set_simd_variant(os.environ.get("KACORE_SIMD") or None)


cdef inline bint is_get(const char *buf, ka_span where) noexcept:
    return where.len == 3 and memcmp(buf + where.off, "GET", 3) == 0


cdef class Limits:
    """Limits(*, max_head_bytes=None, max_target_bytes=None, max_headers=None, \
max_header_bytes=None, max_body_bytes=None, max_chunk_line_bytes=None, max_trailer_bytes=None)\n--\n\n\
    How large a request may be. Immutable; every number is in bytes except `max_headers`.

    max_head_bytes:       the whole head with its final empty line (431 above it); 32,768; 64 to 2**24
    max_target_bytes:     the request target (414); 8,192
    max_headers:          number of field lines in a head or a trailer section (431); 100; at most 1,024
    max_header_bytes:     one field line without CRLF (431); 16,384
    max_body_bytes:       the content of one request (413); 2**30
    max_chunk_line_bytes: size and extensions of one chunk (400); 256
    max_trailer_bytes:    the field lines of a trailer section (431); 4,096
    Raises ValueError for a number out of range.
    """

    cdef ka_limits c

    def __init__(self, *, max_head_bytes=None, max_target_bytes=None, max_headers=None, max_header_bytes=None,
                 max_body_bytes=None, max_chunk_line_bytes=None, max_trailer_bytes=None):
        cdef ka_limits c = ka_limits_default
        c.max_head_bytes = within("max_head_bytes", max_head_bytes, c.max_head_bytes, 64, 1 << 24)
        c.max_target_bytes = within("max_target_bytes", max_target_bytes, c.max_target_bytes, 1, 1 << 24)
        c.max_headers = within("max_headers", max_headers, c.max_headers, 1, KA_MAX_FIELDS)
        c.max_header_bytes = within("max_header_bytes", max_header_bytes, c.max_header_bytes, 1, 1 << 24)
        c.max_body_bytes = within("max_body_bytes", max_body_bytes, c.max_body_bytes, 0, (1 << 63) - 1)
        c.max_chunk_line_bytes = within("max_chunk_line_bytes", max_chunk_line_bytes, c.max_chunk_line_bytes,
                                        1, 1 << 24)
        c.max_trailer_bytes = within("max_trailer_bytes", max_trailer_bytes, c.max_trailer_bytes, 0, 1 << 24)
        self.c = c

    @property
    def max_head_bytes(self):
        return self.c.max_head_bytes

    @property
    def max_target_bytes(self):
        return self.c.max_target_bytes

    @property
    def max_headers(self):
        return self.c.max_headers

    @property
    def max_header_bytes(self):
        return self.c.max_header_bytes

    @property
    def max_body_bytes(self):
        return self.c.max_body_bytes

    @property
    def max_chunk_line_bytes(self):
        return self.c.max_chunk_line_bytes

    @property
    def max_trailer_bytes(self):
        return self.c.max_trailer_bytes

    def __repr__(self):
        return (f"Limits(max_head_bytes={self.max_head_bytes}, max_target_bytes={self.max_target_bytes}, "
                f"max_headers={self.max_headers}, max_header_bytes={self.max_header_bytes}, "
                f"max_body_bytes={self.max_body_bytes}, max_chunk_line_bytes={self.max_chunk_line_bytes}, "
                f"max_trailer_bytes={self.max_trailer_bytes})")

    def __eq__(self, other):
        return isinstance(other, Limits) and repr(self) == repr(other)

    def __hash__(self):
        return hash(repr(self))


cdef int64_t within(str name, value, int64_t default, int64_t low, int64_t high) except -1:
    if value is None:
        return default
    if type(value) is not int:
        raise TypeError(f"{name}={value!r}: must be an integer")
    if not low <= value <= high:
        raise ValueError(f"{name}={value}: must be between {low} and {high}")
    return value


# RFC 9110 7.6.1: these are hop-by-hop even when Connection does not name them.
cdef frozenset HOP_BY_HOP = frozenset([b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer",
                                       b"transfer-encoding", b"upgrade"])


@cython.final
@cython.no_gc   # what it holds is bytes, str and bool
cdef class Head:
    """The head of one request. Made by parse_head and RequestParser only; most attributes are created when they are
    asked for.

    Cost: the places of its fields, and a copy of the head, or of a short `data` of bytes a reference to it; `headers` and
    `get` cost O(fields) each time.
    """

    # As objects.c has them, which makes every Head, and the attributes `method`, `version` and `keep_alive` of three.
    cdef ka_head c
    cdef bytes data
    cdef object of_method, of_version, of_keep_alive
    cdef const char *bytes
    cdef unsigned is_small

    def __init__(self):
        raise TypeError("a Head comes from parse_head() or RequestParser.feed()")

    @property
    def target(self):
        """bytes, the request target as sent."""
        return bytes_at(head_bytes(self), self.c.target)

    @property
    def headers(self):
        """A new list of (lower-cased name, value), bytes both, in the order sent."""
        return headers_list(head_bytes(self), head_fields(self), self.c.n_fields)

    @property
    def content_length(self):
        """int, or None when there is no Content-Length."""
        return self.c.content_length if self.c.content_length >= 0 else None

    @property
    def chunked(self):
        """bool: the content is in chunks."""
        return (self.c.flags & KA_HEAD_CHUNKED) != 0

    @property
    def expects_continue(self):
        """bool: the client waits for 100 (Continue) before it sends the content (RFC 9110 10.1.1)."""
        return (self.c.flags & KA_HEAD_EXPECTS_CONTINUE) != 0

    @property
    def upgrade(self):
        """bytes: the protocols that the client offers to upgrade to; None without a valid offer (RFC 9110 7.8)."""
        return self.get(b"upgrade") if self.c.flags & KA_HEAD_UPGRADE else None

    @property
    def host(self):
        """bytes: the value of Host, or of an absolute target's authority; None in HTTP/1.0 without either."""
        return bytes_at(head_bytes(self), self.c.host) if self.c.host.len else None

    @property
    def nbytes(self):
        """int: bytes of input that the head took, with a leading and the final empty line."""
        return self.c.nbytes

    @property
    def hop_by_hop(self):
        """A list of the lower-cased names (bytes) of the fields that end at this hop (RFC 9110 7.6.1)."""
        named = {option.strip(b" \t").lower() for option in (self.get(b"connection") or b"").split(b",")}
        names = dict(self.headers)
        return [name for name in names if name in HOP_BY_HOP or name in named]

    def get(self, name, default=None):
        """The value (bytes) of the field `name` (bytes or str, any case), or `default`.

        Several lines are joined by b", " (RFC 9110 5.3), Cookie's by b"; " (RFC 9113 8.2.3).
        """
        cdef const char *buf = head_bytes(self)
        cdef const ka_field *fields = head_fields(self)
        cdef bytes wanted = (name.encode("ascii", "replace") if isinstance(name, str) else bytes(name)).lower()
        cdef uint32_t i, n = <uint32_t>len(wanted)
        cdef bytes found = None
        for i in range(self.c.n_fields):
            if fields[i].name.len == n and ka_equals_lower(buf + fields[i].name.off, wanted, n):
                value = bytes_at(buf, fields[i].value)
                found = value if found is None else found + (b"; " if wanted == b"cookie" else b", ") + value
        return default if found is None else found

    def __repr__(self):
        return f"<Head {self.of_method} {self.target!r} HTTP/{self.of_version}, {self.c.n_fields} fields>"


ka_head_type_init(Head)


cdef inline const ka_field *head_fields(Head self) noexcept:
    return ka_head_fields(self)


cdef inline const char *head_bytes(Head self) noexcept:
    return self.bytes


cdef inline Head make_head(const char *buf, const ka_head *c, const ka_field *fields):
    """A Head that owns a copy of everything."""
    return ka_head_new(NULL, buf, c, fields)


cdef object parse_head_at(PyObject *data, const char *buf, size_t n, size_t offset, const ka_limits *limits):
    cdef ka_field fields[KA_MAX_FIELDS]
    cdef ka_head c
    cdef ka_fault fault
    cdef int rc
    if offset > n:
        raise LocalError(f"offset={offset}: must be at most {n}, the length of data")
    rc = ka_head_parse(buf + offset, n - offset, NULL, limits, &c, fields, &fault)
    if rc == KA_OK:
        return ka_head_new(data, buf + offset, &c, fields)
    if rc == KA_PARTIAL:
        return None
    raise peer_error(&fault)


def parse_head(data, size_t offset=0, /, Limits limits=None):
    """Parse the request head at `offset` of `data`.

    data:   bytes, bytearray or any contiguous buffer; bytes after the head are ignored.
    offset: int, where the head begins; with `nbytes` of the result, pipelined heads are read one by one.
    limits: Limits, default Limits().
    Return: a Head, whose `nbytes` says how much was consumed; None while the head is incomplete.
    Raises: PeerError for bytes that break a rule; its offset counts from `offset`. LocalError when `offset` is
            beyond the data.
    Cost:   O(bytes of the head). For a head that arrives in pieces use RequestParser, which reads each byte once.
    """
    cdef const ka_limits *c = &ka_limits_default if limits is None else &limits.c
    cdef Py_buffer view
    if PyBytes_CheckExact(data):
        return parse_head_at(<PyObject *>data, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), offset, c)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        return parse_head_at(NULL, <const char *>view.buf, view.len, offset, c)
    finally:
        PyBuffer_Release(&view)


parse_head = ka_parse_head_function(parse_head)


cdef object parts_at(const char *buf, size_t n, size_t offset, const ka_limits *limits):
    cdef ka_field fields[KA_MAX_FIELDS]
    cdef ka_head c
    cdef ka_fault fault
    cdef int rc
    if offset > n:
        raise LocalError(f"offset={offset}: must be at most {n}, the length of data")
    buf += offset
    rc = ka_head_parse(buf, n - offset, NULL, limits, &c, fields, &fault)
    if rc == KA_OK:
        return ka_parts(buf, &c, fields, offset + c.nbytes)
    if rc == KA_PARTIAL:
        return None
    raise peer_error(&fault)


def parse_parts(data, size_t offset=0, Limits limits=None, /):
    """Parse the request head at `offset` of `data` into plain objects, for callers that want all of it at once.

    data:   bytes, bytearray or any contiguous buffer.
    offset: int, where the head begins; with the last item of the result, pipelined heads are read one by one.
    limits: Limits, default Limits().
    Return: (method, target, version, headers, keep_alive, end), as the attributes of a Head; `end` is the offset of
            the first byte after the head. None while the head is incomplete.
    Raises: PeerError for bytes that break a rule; its offset counts from `offset`. LocalError when `offset` is
            beyond the data.
    Cost:   O(bytes of the head); no Head is made.
    """
    cdef const ka_limits *c = &ka_limits_default if limits is None else &limits.c
    cdef Py_buffer view
    if PyBytes_CheckExact(data):
        return parts_at(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), offset, c)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        return parts_at(<const char *>view.buf, view.len, offset, c)
    finally:
        PyBuffer_Release(&view)


parse_parts = ka_parse_parts_function(parse_parts)


@cython.final
cdef class EndOfMessage:
    """The event that ends a message. `trailers`: tuple of (lower-cased name, value) pairs of bytes, mostly empty."""

    cdef readonly tuple trailers

    def __init__(self):
        raise TypeError("an EndOfMessage comes from RequestParser.feed()")

    def __repr__(self):
        return f"<EndOfMessage {self.trailers!r}>"

    def __eq__(self, other):
        return isinstance(other, EndOfMessage) and self.trailers == (<EndOfMessage>other).trailers

    def __hash__(self):
        return hash(self.trailers)


cdef EndOfMessage end_of_message(tuple trailers):
    cdef EndOfMessage end = EndOfMessage.__new__(EndOfMessage)
    end.trailers = trailers
    return end


# Most messages end without trailers: they share this one.
cdef EndOfMessage PLAIN_END = end_of_message(())


# What a RequestParser keeps between two calls, only while it has to: the state of a body, and bytes that are not
# yet a whole head or trailer section.
cdef struct rest:
    ka_body body
    size_t n, room
    uint32_t checked   # of ka_head_parse

# Phases of a RequestParser.
cdef enum:
    AT_HEAD
    AT_BODY
    AT_CLOSE   # closed: accepts nothing more


@cython.final
@cython.no_gc
cdef class RequestParser:
    """RequestParser(limits=None)\n--\n\n\
    Reads the requests of one connection, however their bytes arrive. One per connection.

    limits: Limits, default Limits().
    Holds no buffer while nothing is pending: an idle one is 40 bytes.
    """

    cdef rest *pending     # owned; NULL while nothing is pending
    cdef Limits limits     # None = the defaults
    cdef uint8_t phase
    cdef bint closes       # the message being read is the connection's last

    def __init__(self, Limits limits=None):
        self.limits = limits

    def __dealloc__(self):
        PyMem_Free(self.pending)

    @property
    def is_over(self):
        """bool: an error or a message that ends the connection was seen; nothing more is accepted."""
        return self.phase == AT_CLOSE

    def feed(self, data, /):
        """Take bytes from the peer.

        data:   bytes, bytearray or any contiguous buffer.
        Return: the list of events, in order: a Head, body pieces (bytes), an EndOfMessage, the next Head... The last
                one is a PeerError if the peer broke a rule. Empty while nothing is whole, and always when `is_over`.
        Never raises for the peer's bytes. Cost: O(bytes).
        """
        cdef Py_buffer view
        if PyBytes_CheckExact(data):
            return feed_bytes(self, <PyObject *>data, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            return feed_bytes(self, NULL, <const char *>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    def feed_eof(self):
        """The peer will send nothing more. Return: [], or [PeerError] with code "incomplete" inside a message.

        A single empty line after the last message is ignored. Nothing more is accepted afterwards.
        """
        cdef list events = []
        cdef ka_fault fault
        cdef rest *r = self.pending
        if self.phase == AT_BODY:
            ka_fault_set(&fault, <ka_fault_code>KA_FAULT_INCOMPLETE, r.body.consumed + r.n, 0)
            events.append(peer_error(&fault))
        elif r != NULL and not (r.n == 2 and memcmp(rest_bytes(r), b"\r\n", 2) == 0):
            ka_fault_set(&fault, <ka_fault_code>KA_FAULT_INCOMPLETE, r.n, 0)
            events.append(peer_error(&fault))
        close_parser(self)
        return events


cdef inline char *rest_bytes(rest *r) noexcept:
    return <char *>(r + 1)


cdef void close_parser(RequestParser self) noexcept:
    PyMem_Free(self.pending)
    self.pending = NULL
    self.phase = AT_CLOSE


cdef rest *rest_with_room(RequestParser self, size_t n) except NULL:
    """The pending rest, with room for n bytes; grows by doubling, so that a byte at a time costs O(bytes)."""
    cdef rest *r = self.pending
    cdef size_t room
    if r != NULL and r.room >= n:
        return r
    room = n if r == NULL else max(n, 2 * r.room)
    r = <rest *>PyMem_Realloc(self.pending, sizeof(rest) + room)
    if r == NULL:
        raise MemoryError
    if self.pending == NULL:
        r.n = 0
        r.checked = 0
    r.room = room
    self.pending = r
    return r


cdef list feed_bytes(RequestParser self, PyObject *data, const char *buf, size_t n):
    """data: the bytes that `buf` is of, or NULL."""
    cdef list events = []
    cdef rest *r = self.pending
    cdef const char *from_ = buf
    cdef ka_body body
    cdef uint32_t checked = 0
    cdef size_t used
    if self.phase == AT_CLOSE:
        return events
    try:
        if r != NULL:
            checked = r.checked
            body = r.body
            if r.n > 0:
                r = rest_with_room(self, r.n + n)
                memcpy(rest_bytes(r) + r.n, buf, n)
                r.n += n
                from_ = rest_bytes(r)
                n = r.n
                data = NULL
        used = read_messages(self, data, from_, n, &body, &checked, events)
        if self.phase == AT_CLOSE or (self.phase == AT_HEAD and used == n):
            PyMem_Free(self.pending)
            self.pending = NULL
            return events
        keep_rest(self, from_ + used, n - used)
        self.pending.body = body
        self.pending.checked = checked
    except MemoryError:
        # What was read is lost to the caller with its events, so nothing behind it may be read as a message.
        close_parser(self)
        raise
    return events


cdef int keep_rest(RequestParser self, const char *tail, size_t n) except -1:
    """Keep the unread tail of the bytes, which may lie in the pending rest already."""
    cdef rest *r = self.pending
    cdef bint is_inside = r != NULL and rest_bytes(r) <= tail <= rest_bytes(r) + r.room
    if not is_inside:
        r = rest_with_room(self, n)
    memmove(rest_bytes(r), tail, n)
    r.n = n
    return 0


cdef size_t read_messages(RequestParser self, PyObject *data, const char *buf, size_t n, ka_body *body,
                          uint32_t *checked, list events) except? 0:
    """Append the events of buf[0..n). Return the number of bytes done with."""
    cdef const ka_limits *limits = &ka_limits_default if self.limits is None else &self.limits.c
    cdef ka_field fields[KA_MAX_FIELDS]
    cdef ka_head head
    cdef ka_fault fault
    cdef ka_span piece
    cdef size_t i = 0, taken
    cdef int rc
    while True:
        if self.phase == AT_HEAD:
            if i == n:
                return i
            rc = ka_head_parse(buf + i, n - i, checked, limits, &head, fields, &fault)
            if rc == KA_PARTIAL:
                return i
            if rc != KA_OK:
                break
            events.append(ka_head_new(data, buf + i, &head, fields))
            i += head.nbytes
            checked[0] = 0
            ka_body_init(body, &head)
            self.closes = not (head.flags & KA_HEAD_KEEP_ALIVE)
            self.phase = AT_BODY
        rc = ka_body_next(body, buf + i, n - i, limits, &taken, &piece, &fault)
        if rc == KA_EPEER:
            break
        if rc == KA_BODY_DATA:
            events.append(bytes_at(buf + i, piece))
        i += taken
        if rc == KA_BODY_NEEDS:
            return i
        if rc == KA_BODY_END:
            events.append(PLAIN_END if piece.len == 0 else
                          trailers_event(buf + i - taken + piece.off, piece.len, limits))
            self.phase = AT_CLOSE if self.closes else AT_HEAD
            if self.closes:
                return n
    events.append(peer_error(&fault))
    self.phase = AT_CLOSE
    return n


cdef EndOfMessage trailers_event(const char *buf, size_t n, const ka_limits *limits):
    cdef ka_field fields[KA_MAX_FIELDS]
    cdef int n_fields = ka_body_trailers(buf, n, limits, fields)
    return end_of_message(tuple(headers_list(buf, fields, n_fields)))
