# What every driver of connections does besides moving their bytes: asks the rules, believes trusted proxies, tells the
# logs, and lists who is there. The engine and the path over an event loop's transports fill in what they know of a
# connection (`peer`, `is_trusted`); nothing here knows a socket.
from libc.stdlib cimport free, malloc


cdef class Driver(BaseDriver):
    cdef readonly ConnectionTable table
    cdef ka_driver *d            # the engine's, or ours: what all drivers do alike
    cdef object policies         # the PolicySet whose rules are asked
    cdef tuple logged_fields     # names of fields that the access log wants, as its attribute `fields` says
    cdef object on_race, on_closed, on_notice
    cdef object on_drained       # called once, see when_drained(); None = nobody waits
    cdef object context          # the one it was made in, untouched by any request
    cdef list servers            # (host, port) or (path, None) of each listener
    cdef list tls                # TlsListener of listeners with TLS: the driver points to them

    def __cinit__(self, *args, **kwargs):
        self.servers = []
        self.tls = []
        self.context = PyContext_CopyCurrent()

    cdef object enter_context(self):
        """Go on in a copy of `context`, whoever called; to be left by PyContext_Exit."""
        entered = PyContext_Copy(self.context)
        PyContext_Enter(entered)
        return entered

    # -- what a driver knows --------------------------------------------------------------------------------

    cdef int check_open(self) except -1:
        """Raise LocalError when it can be used no more, or not here."""
        return 0

    cdef int peer(self, ka_handle conn, uint8_t *addr, uint16_t *port) except -1:
        """Who is at the other end, as a PROXY header said or whoever accepted: 4, 6, or 0 on a unix socket."""
        return 0

    cdef bint is_trusted(self, ka_handle conn) noexcept:
        """Whether it is a trusted proxy."""
        return False

    cdef void tell(self, ka_application *app, object access_log, object on_closed, object on_race) noexcept:
        """What the C core is to call: what is common to all drivers. None: not wanted."""
        memset(app, 0, sizeof(app[0]))
        app.ctx = <void *>self
        app.on_request = driver_on_request
        app.on_news = driver_on_news
        app.on_lost = driver_on_lost
        app.release = release_object
        app.class_of_request = driver_class_of_request
        app.on_settled = driver_on_settled
        self.access_log = access_log
        self.logged_fields = tuple(getattr(access_log, "fields", ()))
        self.on_closed = on_closed
        self.on_race = on_race
        if access_log is not None:
            app.on_refused = driver_on_refused
        if on_closed is not None:
            app.on_closed = driver_on_closed
        if on_race is not None:
            app.on_race = driver_on_race

    def serve_http2(self, *, max_streams=128, window=65_535, max_window=1 << 20):
        """Serve HTTP/2 (RFC 9113) to clients whose first bytes are its preface, and to those of a TLS listener whose context
        offers "h2" (ALPN). Once, before the first connection.

        max_streams: int, requests open at once on a connection, 1 to 65,535.
        window:      int, bytes of content that a request may send ahead at first, 65,535 or more; a connection four times as
                     much.
        max_window:  int, what it grows to for a client that sends so much in a round trip.
        Raises ValueError for numbers out of range, LocalError the second time, MemoryError. docs/http2.md"""
        cdef ka_h2_options options
        self.check_open()
        if self.d.service.h2 != NULL:
            raise LocalError("HTTP/2 is served already")
        if not (1 <= max_streams <= 65_535 and 65_535 <= window <= max_window <= 1 << 27):
            raise ValueError(f"max_streams={max_streams!r}, window={window!r}, max_window={max_window!r}: must be "
                             "1 to 65,535, 65,535 or more, and from there up to 128 MiB")
        options.max_streams = max_streams
        options.window = window
        options.max_window = max_window
        if ka_h2_enable(&self.d.service, &options) < 0:
            raise MemoryError("no memory for HTTP/2")

    def http2_open(self):
        """dict: open connections that speak HTTP/2, and open requests on them (streams). None: it is not served."""
        cdef ka_h2_service *h2 = self.d.service.h2
        return None if h2 == NULL else {"connections": h2.n_connections, "streams": h2.n_open}

    def share(self):
        """Once in a while, from the loop: whoever shares the table's counters sees that it turns, and how things stand."""
        self.check_open()
        self.share_gauges(<int64_t>(<double>monotonic() * 1e9))

    cdef void share_gauges(self, int64_t now) noexcept:
        """Where the table's counters are shared. now: CLOCK_MONOTONIC, or 0."""
        cdef shared_gauges *gauges
        cdef const ka_table *table = self.table.table
        cdef int phase
        if not self.table.has_shared:
            return
        gauges = gauges_of(self.table.counters)
        for phase in range(1, <int>KA_N_PHASES):
            gauges.phases[phase] = ka_table_phase_count(table, <ka_phase>phase)
        gauges.max_connections = ka_table_capacity(table).max_connections
        gauges.buffer_bytes = ka_pool_used(&self.d.service.pool)
        gauges.max_buffer_bytes = self.d.service.pool.max_bytes
        if self.d.service.h2 != NULL:
            gauges.n_http2 = self.d.service.h2.n_connections
            gauges.n_streams = self.d.service.h2.n_open
        if now:
            gauges.heard_ns = now

    # -- rules ------------------------------------------------------------------------------------------

    def set_classes(self, policies):
        """Ask the rules of a PolicySet which class a connection, and a request, belongs to. What no rule looks at is
        not asked. None, or a Policy: everything is class 0."""
        self.check_open()
        self.policies = policies
        self.d.service.asks_clients = bool(getattr(policies, "has_accept_rules", False))
        self.d.service.asks_requests = bool(getattr(policies, "has_request_rules", False))

    cdef unsigned class_of_client(self, object listener, const ka_client *client) noexcept:
        """listener: (host, port) or (path, None)."""
        try:
            address = None
            if client.family:
                address = PyBytes_FromStringAndSize(<const char *>client.addr, 4 if client.family == 4 else 16)
            return self.policies.class_for_client(listener_name(listener), address)
        except BaseException as error:
            self.failed(error)
            return 0

    cdef unsigned class_of_request(self, ka_exchange *core, const ka_head *head, const ka_field *fields) noexcept:
        cdef const char *buf = ka_exchange_head_bytes(core)
        cdef int now = ka_conn_class(self.table.table, ka_exchange_conn(core))
        cdef uint32_t i
        cdef bytes agent = None
        try:
            for i in range(head.n_fields):
                if fields[i].name.len == 10 and ka_equals_lower(buf + fields[i].name.off, b"user-agent", 10):
                    agent = bytes_at(buf, fields[i].value)
                    break
            return self.policies.class_for_request(now, bytes_at(buf, head.host), agent)
        except BaseException as error:
            self.failed(error)
            return <unsigned>now if now >= 0 else 0

    # -- who is it --------------------------------------------------------------------------------------

    def trust(self, networks, *, proxy_protocol=False, fields=True):
        """Proxies whose word about the client is taken, in place of those of before. They are no clients themselves.

        networks: iterable of "10.0.0.0/8", "2001:db8::1", "unix" (every unix socket), "*" (everybody).
        proxy_protocol: their connections begin with a PROXY header (version 1 or 2), or are closed.
        fields: X-Forwarded-For and X-Forwarded-Proto of theirs count; False: somebody else reads them.
        Raises ValueError for what is no network, MemoryError. Source: docs/operations.md.
        """
        cdef ka_network *c
        cdef uint32_t n = 0
        cdef bytes packed
        cdef int got
        self.check_open()
        found = [one for given in networks for one in network_of(given)]
        c = <ka_network *>malloc((len(found) + 1) * sizeof(ka_network))
        if c == NULL:
            raise MemoryError("no memory for networks")
        memset(c, 0, (len(found) + 1) * sizeof(ka_network))
        for family, bits, address in found:
            packed = address
            c[n].family = family
            c[n].bits = bits
            memcpy(c[n].addr, PyBytes_AS_STRING(packed), <size_t>PyBytes_GET_SIZE(packed))
            n += 1
        got = ka_trust_set(&self.d.trust, c, n, proxy_protocol)
        free(c)
        if got == KA_ENOMEM:
            raise MemoryError("no memory for networks")
        if got < 0:
            raise ValueError("a network prefix is longer than its address")
        self.has_proxies = n > 0 and fields

    cdef tuple origin_of(self, ka_exchange *core, const ka_head *head, const ka_field *fields):
        cdef const char *buf = ka_exchange_head_bytes(core)
        cdef uint8_t addr[16]
        cdef unsigned family
        if not self.is_trusted(ka_exchange_conn(core)):
            return None
        client = self.client_of(core)
        chain = forwarded_value(buf, head, fields, b"x-forwarded-for", 15)
        if chain is not None:
            # Each proxy appends whom it saw: from the right, the first one that is no proxy of ours is the client.
            for node in reversed(chain.split(",")):
                host, port = split_node(node.strip(" \t"))
                family = read_address(host, addr)
                if family == 0:
                    break
                client = (host, port)
                if not ka_trusts(&self.d.trust, family, addr):
                    break
        scheme = forwarded_value(buf, head, fields, b"x-forwarded-proto", 17)
        if scheme is not None:
            scheme = scheme.rpartition(",")[2].strip(" \t").lower()
            scheme = {"https": "https", "wss": "https", "http": "http", "ws": "http"}.get(scheme)
        return client, scheme

    def make_request_ids(self, str field not None):
        """Have each request carry an id in this field, and its response as well, unless the application sets it: that of a
        trusted proxy, or one that is made here. Once, before the first connection. ValueError for what is no name of a
        field."""
        self.check_open()
        field_lines([(field, "x")])
        self.ids = RequestIds(field)

    cdef bytes id_of(self, ka_exchange *core, const ka_head *head, const ka_field *fields):
        cdef bytes given = None
        if self.is_trusted(ka_exchange_conn(core)):
            given = self.ids.given(ka_exchange_head_bytes(core), head, fields)
        return given if given is not None else self.ids.make()

    cdef object address_of(self, ka_handle conn):
        """(host, port), or None for a unix socket."""
        cdef uint8_t addr[16]
        cdef uint16_t port
        cdef int family = self.peer(conn, addr, &port)
        return None if family <= 0 else (address_text(family, addr), port)

    def connections(self, limit=1000):
        """list of dict, one for each of at most `limit` open connections: conn, client, phase, class, requests, kept_for:
        seconds that it is kept when idle, until its place is needed. Cost: O(places in use), about 1 us each."""
        cdef uint32_t slot = 1, n = 0
        cdef ka_handle conn
        cdef ka_table *table = self.table.table
        cdef ka_known known
        cdef int64_t limit_ns
        self.check_open()
        found = []
        while len(found) < limit and n < ka_table_open_count(table):
            conn = ka_table_handle(table, slot)
            slot += 1
            if conn == 0:
                continue
            n += 1
            limit_ns = ka_conn_policy(table, conn).timeout_ns[<int>KA_IDLE]
            if limit_ns == KA_AUTO and ka_known_of(table, conn, &known) == KA_OK:
                limit_ns = known.kept_ns
            found.append({
                "conn": conn,
                "client": self.address_of(conn),
                "phase": PHASES[ka_conn_phase(table, conn)],
                "class": ka_conn_class(table, conn),
                "requests": ka_conn_requests(table, conn),
                "kept_for": limit_ns / 1e9,
            })
        return found

    cdef TlsListener tls_listener(self, object source):
        """For connections over TLS; source: as `tls` of Engine.listen()."""
        cdef TlsListener listener = TlsListener.__new__(TlsListener)
        import_ssl()
        listener.source = source
        listener.outgoing = ssl.MemoryBIO()
        listener.logger = self.application.logger
        listener.counters = self.table.counters
        self.tls.append(listener)
        self.has_tls = True
        return listener

    # -- telling ----------------------------------------------------------------------------------------

    def when_drained(self, call not None):
        """Have `call()` called once, in place of an earlier one: when nothing is open but connections that linger, which
        delay no end. At once if that is so."""
        self.on_drained = call
        self.tell_drained()

    cdef int tell_drained(self) except -1:
        """At the end of whatever may have been the end of the last one."""
        if self.on_drained is None or not ka_table_is_drained(self.table.table):
            return 0
        call, self.on_drained = self.on_drained, None
        call()
        return 0

    cdef AccessEntry entry_of(self, ka_exchange *core, const ka_head *head, const ka_field *fields):
        cdef const char *buf = ka_exchange_head_bytes(core)
        cdef AccessEntry entry
        client = self.client_of(core)
        if head != NULL and self.has_proxies:
            origin = self.origin_of(core, head, fields)
            if origin is not None:
                client = origin[0]
        entry = access_entry(client, buf, head, fields, self.now(), self.logged_fields)
        entry.connection = ka_exchange_conn(core)
        entry.number = ka_conn_requests(self.table.table, entry.connection)
        entry.server = self.server_of(core)
        if head != NULL and self.ids is not None:
            entry.request_id = self.request_id
            if self.ids.field in self.logged_fields:
                entry.headers[self.ids.field] = self.request_id
        entry.is_tls = self.has_tls and self.tls_of(core) is not None
        return entry

    cdef int set_common(self, bytes lines, bint date) except -1:
        if ka_service_set_fields(&self.d.service, lines, <uint32_t>len(lines), date) < 0:
            raise MemoryError("no memory for fields")
        return 0

    cdef int set_server(self, str server_name) except -1:
        cdef bytes name = server_name.encode("latin-1")
        if ka_reply_common_set_server(&self.d.service.common, name, len(name)) < 0:
            raise ValueError(f"server_name={server_name!r}: at most 117 bytes without CR, LF, NUL")
        return 0


cdef object listener_name(object where):
    """As rules write it: "127.0.0.1:80", "[::1]:80", "unix:/run/app.sock"."""
    host, port = where
    if port is None:
        return f"unix:{host}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# What the C core calls of a Driver, besides driver_on_news and driver_on_lost.

cdef void driver_on_request(void *ctx, ka_exchange *core, const ka_head *head, const ka_field *fields) noexcept:
    cdef Driver driver = <Driver>ctx
    cdef Exchange exchange = None
    cdef ka_handle conn = ka_exchange_conn(core)
    cdef int phase
    try:
        if driver.ids is not None:
            driver.request_id = driver.id_of(core, head, fields)
        if driver.access_log is not None:
            driver.entry = driver.entry_of(core, head, fields)
        driver.application.request(driver, core, head, fields)
    except BaseException as error:
        driver.failed(error)
        phase = ka_conn_phase(driver.table.table, conn)
        if phase < 0 or phase == KA_LINGER:
            return  # the application has ended the connection, and the talk is gone
        if core.owner != NULL:
            exchange = <Exchange>core.owner
            exchange.detach()
        ka_exchange_refuse(core, 500, b"Internal Server Error", KA_CAUSE_APPLICATION, driver.now())
        if exchange is not None:
            try:
                exchange.ended(core)
            except BaseException as error:
                driver.failed(error)


cdef unsigned driver_class_of_request(void *ctx, ka_exchange *core, const ka_head *head, const ka_field *fields) noexcept:
    return (<Driver>ctx).class_of_request(core, head, fields)


cdef void driver_on_refused(void *ctx, ka_exchange *core) noexcept:
    cdef Driver driver = <Driver>ctx
    try:
        if driver.access_log is not None:
            driver.note_end(driver.entry_of(core, NULL, NULL), core)
    except BaseException as error:
        driver.failed(error)


cdef void driver_on_closed(void *ctx, ka_handle conn, ka_cause cause) noexcept:
    cdef Driver driver = <Driver>ctx
    cdef ka_table *table = driver.table.table
    try:
        driver.on_closed(driver.address_of(conn), CAUSES[<int>cause], PHASES[ka_conn_phase(table, conn)],
                         ka_conn_requests(table, conn))
    except BaseException as error:
        driver.failed(error)


cdef void driver_on_race(void *ctx, ka_handle conn, ka_cause cause) noexcept:
    cdef Driver driver = <Driver>ctx
    cdef uint8_t addr[16]
    cdef uint16_t port
    cdef int family
    try:
        family = driver.peer(conn, addr, &port)
        driver.on_race(addr[:4 if family == 4 else 16] if family > 0 else None, CAUSES[<int>cause])
    except BaseException as error:
        driver.failed(error)


cdef void driver_on_settled(void *ctx, const ka_known *network) noexcept:
    cdef Driver driver = <Driver>ctx
    try:
        driver.table.tell_settled(network)
    except BaseException as error:
        driver.failed(error)
