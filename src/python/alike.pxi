# Values of fields that one client after the other sends alike, such as Host: the last one of each is kept as the object that
# applications get, which costs less to compare than to make again. Never those that are a client's own, as Cookie; and
# nothing long. Belongs to one application, and so to the thread of its loop.
from cpython.list cimport PyList_New, PyList_SET_ITEM

cdef enum:
    MAX_ALIKE = 256   # bytes of a value that is kept

cdef frozenset SAID_ALIKE = frozenset((
    b"accept", b"accept-charset", b"accept-encoding", b"accept-language", b"cache-control", b"connection", b"content-type",
    b"dnt", b"host", b"keep-alive", b"origin", b"pragma", b"priority", b"save-data", b"sec-ch-ua", b"sec-ch-ua-mobile",
    b"sec-ch-ua-platform", b"sec-fetch-dest", b"sec-fetch-mode", b"sec-fetch-site", b"sec-fetch-user", b"sec-gpc", b"te",
    b"upgrade-insecure-requests", b"user-agent", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto",
))
cdef bytes IS_ALIKE = kept(bytes([one in SAID_ALIKE for one in NAMES]))   # by the index of a name


cdef inline bint is_alike(int i, ka_span value) noexcept:
    """Whether the value of the field with this name is to be kept. i: of ka_name_find."""
    return i >= 0 and PyBytes_AS_STRING(IS_ALIKE)[i] and value.len <= MAX_ALIKE


cdef inline bint is_bytes_at(object kept, const char *at, size_t n) noexcept:
    """kept: exactly bytes."""
    return <size_t>PyBytes_GET_SIZE(kept) == n and memcmp(PyBytes_AS_STRING(kept), at, n) == 0


cdef inline bint is_text_at(object kept, const char *at, size_t n) noexcept:
    """The same, for a str that was decoded as Latin-1."""
    return <size_t>PyUnicode_GET_LENGTH(kept) == n and memcmp(PyUnicode_DATA(kept), at, n) == 0


cdef list headers_alike(list last, const char *buf, const ka_field *fields, uint32_t n):
    """What headers_list gives. last: an item for each of NAMES, the last pair or None."""
    cdef list headers = PyList_New(n)
    cdef uint32_t i
    cdef int known
    cdef bint is_kept
    cdef tuple pair
    for i in range(n):
        known = ka_name_find(buf + fields[i].name.off, fields[i].name.len)
        is_kept = is_alike(known, fields[i].value)
        pair = last[known] if is_kept else None
        if pair is None or not is_bytes_at(pair[1], buf + fields[i].value.off, fields[i].value.len):
            pair = pair_of(buf, &fields[i], known)
            if is_kept:
                last[known] = pair
        Py_INCREF(pair)
        PyList_SET_ITEM(headers, i, pair)
    return headers


cdef tuple pair_of(const char *buf, const ka_field *field, int known):
    name = NAMES[known] if known >= 0 else name_bytes(buf, field.name)
    return name, bytes_at(buf, field.value)


cdef str value_alike(list last, const char *buf, const ka_field *field, int known):
    """A value as Latin-1. last: an item for each of NAMES, the last value or None."""
    cdef bint is_kept = is_alike(known, field.value)
    cdef str value = last[known] if is_kept else None
    if value is None or not is_text_at(value, buf + field.value.off, field.value.len):
        value = PyUnicode_DecodeLatin1(buf + field.value.off, field.value.len, NULL)
        if is_kept:
            last[known] = value
    return value
