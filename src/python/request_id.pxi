# An id for each request: a field that the application finds in the request, the access log shows, and the response carries.
# What a trusted proxy says is kept; what anybody else says could be another request's, and is replaced.
cdef enum:
    ID_BYTES = 16            # random ones, written as twice as many hexadecimal digits
    ID_STOCK = 256           # made at once
    MAX_REQUEST_ID = 128     # of one that a proxy made

cdef frozenset ID_BYTES_ALLOWED = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._:@/+=~")


cdef object http_key_of(bytes name):
    """None for a name with "_", which could pass for another field ("X_Real_IP"), and for what PEP 3333 hides: the
    content is complete when the application sees it."""
    text = name.decode("ascii").upper().replace("-", "_")
    if b"_" in name or text == "TRANSFER_ENCODING":
        return None
    return text if text in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + text


cdef bint is_request_id(bytes given):
    """Of a bounded length, and of characters that mean nothing in a log, a header or a query."""
    return 0 < len(given) <= MAX_REQUEST_ID and ID_BYTES_ALLOWED.issuperset(given)


cdef class RequestIds:
    """field: its name in small letters. key: that of WSGI."""
    cdef readonly bytes field
    cdef readonly str key
    cdef bytes stock
    cdef Py_ssize_t used

    def __init__(self, str field):
        self.field = field.lower().encode("ascii")
        self.key = http_key_of(self.field)
        self.used = ID_BYTES * ID_STOCK

    cdef bytes make(self):
        if self.used == ID_BYTES * ID_STOCK:
            self.stock = urandom(ID_BYTES * ID_STOCK)
            self.used = 0
        self.used += ID_BYTES
        return self.stock[self.used - ID_BYTES:self.used].hex().encode("ascii")

    cdef bint is_named(self, const char *at, size_t n) noexcept:
        return n == <size_t>PyBytes_GET_SIZE(self.field) and ka_equals_lower(at, PyBytes_AS_STRING(self.field), n)

    cdef bytes given(self, const char *buf, const ka_head *head, const ka_field *fields):
        """What the request says, if that can be one; else None."""
        cdef bytes found = None
        cdef uint32_t i
        for i in range(head.n_fields):
            if self.is_named(buf + fields[i].name.off, fields[i].name.len):
                if found is not None:
                    return None
                found = bytes_at(buf, fields[i].value)
        return found if found is not None and is_request_id(found) else None

    cdef list put(self, list headers, bytes request_id):
        """Pairs of the request, with this one in place of what it says."""
        return [*(pair for pair in headers if pair[0] != self.field), (self.field, request_id)]

    cdef bint are_said(self, object fast) noexcept:
        """Among pairs of a response, of which bytes_in knows that they are pairs."""
        cdef text name = text(NULL, 0), value = text(NULL, 0)
        cdef Py_ssize_t i
        for i in range(PySequence_Fast_GET_SIZE(fast)):
            if pair_at(PySequence_Fast_GET_ITEM(fast, i), &name, &value) and self.is_named(name.at, name.n):
                return True
        return False
