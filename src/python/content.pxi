# What the application interfaces share of reading a request: paths, versions, addresses, collected content.
from cpython.tuple cimport PyTuple_New
from cpython.unicode cimport PyUnicode_DecodeASCII, PyUnicode_DecodeLatin1, PyUnicode_DecodeUTF8
from libc.string cimport memchr, memcpy


cdef inline int hex_value(char c) noexcept:
    if 48 <= c <= 57:
        return c - 48
    c |= 32
    return c - 87 if 97 <= c <= 102 else -1


cdef Py_ssize_t unquote_into(char *to, const char *path, Py_ssize_t n) noexcept:
    """Decode percent escapes; the parser has refused malformed ones. Return: bytes written, at most n."""
    cdef Py_ssize_t i = 0, out = 0
    cdef int high, low
    while i < n:
        to[out] = path[i]
        if path[i] == 37 and i + 2 < n:
            high = hex_value(path[i + 1])
            low = hex_value(path[i + 2])
            if high >= 0 and low >= 0:
                to[out] = <char>(high << 4 | low)
                i += 2
        out += 1
        i += 1
    return out


cdef str unquoted(const char *buf, ka_span where, bint as_latin1):
    """A path with its percent escapes decoded: as UTF-8, wrong sequences replaced by U+FFFD, or a code point a byte
    (as PEP 3333 wants it)."""
    cdef const char *path = buf + where.off
    cdef Py_ssize_t n = where.len
    if memchr(path, 37, <size_t>n) == NULL:
        return PyUnicode_DecodeASCII(path, n, NULL)
    decoded = PyBytes_FromStringAndSize(NULL, n)
    n = unquote_into(PyBytes_AS_STRING(decoded), path, n)
    if as_latin1:
        return PyUnicode_DecodeLatin1(PyBytes_AS_STRING(decoded), n, NULL)
    return PyUnicode_DecodeUTF8(PyBytes_AS_STRING(decoded), n, b"replace")


cdef bytes path_instead(const char *buf, const ka_head *head):
    """Of a target that has no path: the authority of CONNECT, "*" of OPTIONS. An absolute form without one means "/",
    with OPTIONS "*" (RFC 9112 3.2.1, 3.2.4)."""
    if head.target_form != KA_TARGET_ABSOLUTE:
        return bytes_at(buf, head.target)
    if head.query.len == 0 and head.method.len == 7 and memcmp(buf + head.method.off, b"OPTIONS", 7) == 0:
        return b"*"
    return b"/"


cdef str path_of(const char *buf, const ka_head *head, bint as_latin1):
    return unquoted(buf, head.path, as_latin1) if head.path.len else path_instead(buf, head).decode("ascii")


cdef class CollectedExchange(Exchange):
    """An exchange whose application is called when the content is complete, so that a head without its content never
    holds a thread or the loop."""
    cdef Collector collector

    cdef int collect(self) except -1:
        """Read on; call `complete` at the end of the content."""
        if self.is_read():
            return self.complete()
        if self.collector is None:
            self.collector = collector_of(self.driver)
        try:
            if not self.gather():
                return 0
        except ClientGone:
            return self.refuse(400, b"the connection ended before the content was complete")
        except OSError as error:
            self.collector = None
            self.driver.application.say_of_files(error)
            return self.refuse(503, b"the server has no memory for the content at the moment")
        return self.complete()

    cdef bint gather(self) except -1:
        """Whether all of it is here."""
        while True:
            piece = self.read()
            if piece is None:
                return False
            if piece:
                self.collector.add(<bytes>piece)
            if self.is_read():
                self.collector.seal()
                return True

    cdef int let_go(self) except -1:
        """The application is through, or its client is gone: the content counts no longer, whoever still has it. (A task that
        was cancelled can leave it to the garbage collector.)"""
        if self.collector is not None:
            self.collector.holding.let_all_go()
        return 0

    cdef int complete(self) except -1:
        raise NotImplementedError

    cdef int news(self, ka_news news) except -1:
        return self.collect() if news == KA_NEWS_BODY else 0
