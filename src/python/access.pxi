# What an access log can know about one request. Made only while somebody logs: see Engine.access.
cdef extern from "time.h" nogil:
    ctypedef long time_t
    time_t time(time_t *at)


cdef class AccessEntry:
    """One request and its outcome, for an access log. What the client sent is given as it was sent."""
    cdef readonly object client        # (host, port); None on a unix socket
    cdef readonly str method           # None: the head could not be read
    cdef readonly bytes target
    cdef readonly str version
    cdef readonly bytes referer, user_agent  # None: not sent
    cdef readonly object request       # what the application was called with: environ of WSGI, scope of ASGI; None: nothing
    cdef readonly object fields        # of the response, as the application gave them; None: it gave none
    cdef readonly unsigned status      # 499: the client disconnected before a response began
    cdef readonly int64_t n_bytes      # content of the response
    cdef readonly int64_t unix_time    # when the head had arrived, seconds
    cdef readonly uint64_t connection  # its handle in the table; 0: a host's that has none
    cdef readonly unsigned number      # of the request on its connection, from 1
    cdef readonly bytes host           # None: not sent
    cdef readonly bint is_tls
    cdef readonly bint is_kept         # whether another request is taken on the connection
    cdef readonly bytes request_id     # None: requests have none
    cdef readonly object server        # (host, port) or (path, None) of the listener
    cdef readonly dict headers         # those of the head that were wanted, by name in small letters; the last one counts
    cdef int64_t begun_ns
    cdef int64_t took_ns

    @property
    def duration(self):
        """float: seconds from the head's arrival until the response was complete."""
        return self.took_ns / 1e9


cdef AccessEntry access_entry(object client, const char *buf, const ka_head *head, const ka_field *fields, int64_t now,
                              tuple wanted):
    """wanted: names of fields, in small letters."""
    cdef AccessEntry entry = AccessEntry.__new__(AccessEntry)
    cdef uint32_t i
    cdef ka_span name
    cdef bytes one
    entry.client = client
    entry.unix_time = time(NULL)
    entry.begun_ns = now
    if head == NULL:
        return entry
    entry.method = method_str(buf, head.method)
    entry.target = bytes_at(buf, head.target)
    entry.version = "2" if head.flags & KA_HEAD_IS_H2 else "1.1" if head.minor else "1.0"
    if head.host.len:
        entry.host = bytes_at(buf, head.host)
    if wanted:
        entry.headers = {}
    for i in range(head.n_fields):
        name = fields[i].name
        for one in wanted:
            if name.len == <uint32_t>len(one) and ka_equals_lower(buf + name.off, one, name.len):
                entry.headers[one] = bytes_at(buf, fields[i].value)
        if name.len == 7 and ka_equals_lower(buf + name.off, b"referer", 7):
            entry.referer = bytes_at(buf, fields[i].value)
        elif name.len == 10 and ka_equals_lower(buf + name.off, b"user-agent", 10):
            entry.user_agent = bytes_at(buf, fields[i].value)
    return entry
