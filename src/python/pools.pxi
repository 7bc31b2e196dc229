# ClientPools: what connections the clients of an access log would hold if nobody ever closed one. The first half of a
# simulation; the second, replay.pxi, plays what it tells through a ConnectionTable.
#
# A log knows requests and no connections. A client takes the connection that it used last, as the pools of browsers and
# proxies do, and opens another only when all it has are in use. Then what a timeout leaves of a client's idle connections
# is always the top of that stack, and so is what eviction of the longest idle leaves: whether a request finds its
# connection open depends on its idle gap alone. So one pass gives the reuse for every timeout at once, exactly, and a
# replay need not know what a client is.
from libc.math cimport floor
from libc.stdlib cimport calloc, free, realloc

cdef enum:
    VISIT_BEGINS = 1
    VISIT_ENDS = 2
    FORGET_FROM = 100_000   # clients that are remembered in any case


cdef struct pool_visit:     # what happens to a connection of a pool
    int64_t at
    uint32_t conn
    uint32_t client
    int what                # VISIT_BEGINS, VISIT_ENDS; both: a request that takes no time


cdef struct pool_conn:
    int64_t since           # it is idle, or in use where requests share it
    uint32_t client
    uint32_t below          # in the stack of its client's idle ones, or of those that are free; 0: none
    uint32_t older, newer   # in the list of all idle ones, by `since`; 0: the anchor


cdef struct pool_client:
    ka_client address
    uint32_t top            # of the stack of idle connections; 0: none
    uint32_t n_busy         # requests
    uint32_t shared         # the connection of those, where they share one
    uint32_t first_waiting  # requests that wait for a connection, since the client has per_client; 0: none
    uint32_t last_waiting


cdef struct pool_waiting:
    int64_t duration_ns
    uint32_t next


cdef struct pool_end:       # a request that will be over
    int64_t at
    uint64_t serial         # of two at the same time the first one begun is the first to end
    uint32_t conn


cdef struct pool_watch:     # how many connections are open at one timeout
    int64_t timeout_ns
    uint32_t first          # the oldest idle one that is; those after it are, too. 0: none
    uint32_t n_open
    uint32_t peak


cdef struct pool_array:
    void *items
    size_t room             # in items
    size_t n


cdef void *array_add(pool_array *array, size_t item_bytes) except NULL:
    """A place for one more at the end. The others may move."""
    cdef size_t room
    cdef void *items
    if array.n == array.room:
        room = array.room * 2 if array.room else 1024
        items = realloc(array.items, room * item_bytes)
        if items == NULL:
            raise MemoryError
        array.items = items
        array.room = room
    array.n += 1
    return <char *>array.items + (array.n - 1) * item_bytes


cdef inline bint ends_before(const pool_end *a, const pool_end *b) noexcept:
    return a.at < b.at or (a.at == b.at and a.serial < b.serial)


@cython.binding(False)
cdef class ClientPools:
    """The connections of a log's clients, none of them ever closed, and the gaps between requests on each.

    edges:      timeouts in seconds, rising, for which gaps() answers.
    per_client: at most so many connections for a client; its further requests wait. 0: as many as overlap.
    shares:     requests that overlap share one connection, as over HTTP/2.
    watched:    timeouts in seconds for which peaks() answers.
    is_one:     all requests are those of one client, a trusted proxy in front.
    whole:      times are rounded down to whole seconds, for logs that know no better; with per_client above 1 a client's
                requests within one second then count as simultaneous.
    Raises ValueError, MemoryError. Cost: about 0.2 us a request, and 60 bytes for each client and for each connection.
    Clients that have been away for longer than the largest edge are forgotten once 100,000 are known.
    """
    cdef pool_array visits, conns, clients, waiting, ends   # the last four begin with an item that stands for none
    cdef uint32_t free_conn, free_client, free_waiting
    cdef dict ids
    cdef size_t forget_at
    cdef pool_watch *watches
    cdef size_t n_watches
    cdef int64_t *edges_ns
    cdef uint64_t *reused       # by gap, between two edges
    cdef uint64_t *idled        # the same, with those that were never used again
    cdef double *idle_s         # seconds that these were idle
    cdef size_t n_edges
    cdef uint32_t per_client
    cdef bint is_one, shares, is_whole, is_simultaneous, has_begun
    cdef int64_t begun_ns, now_ns
    cdef uint64_t serial
    cdef readonly uint64_t n_requests, n_connections, n_clients
    cdef readonly double busy   # seconds that connections were in use, together

    def __cinit__(self, edges, *, unsigned per_client=0, bint shares=False, bint is_one=False, bint whole=False,
                  watched=()):
        cdef size_t k
        self.n_edges = len(edges)
        if self.n_edges == 0 or list(edges) != sorted(set(edges)) or not 0 < min(edges) <= max(edges) <= 1e9:
            raise ValueError(f"edges={edges!r}: must be seconds above 0 that rise")
        self.edges_ns = <int64_t *>calloc(self.n_edges, sizeof(int64_t))
        self.reused = <uint64_t *>calloc(self.n_edges + 1, sizeof(uint64_t))
        self.idled = <uint64_t *>calloc(self.n_edges + 1, sizeof(uint64_t))
        self.idle_s = <double *>calloc(self.n_edges + 1, sizeof(double))
        if self.edges_ns == NULL or self.reused == NULL or self.idled == NULL or self.idle_s == NULL:
            raise MemoryError
        for k in range(self.n_edges):
            self.edges_ns[k] = <int64_t>ceil(<double>edges[k] * 1e9)
        self.n_watches = len(watched)
        self.watches = <pool_watch *>calloc(self.n_watches or 1, sizeof(pool_watch))
        if self.watches == NULL:
            raise MemoryError
        for k in range(self.n_watches):
            if not 0 < watched[k] <= 1e9:
                raise ValueError(f"watched={watched!r}: must be seconds above 0")
            self.watches[k].timeout_ns = <int64_t>ceil(<double>watched[k] * 1e9)
        self.per_client, self.shares, self.is_one, self.is_whole = per_client, shares, is_one, whole
        self.is_simultaneous = whole and per_client > 1
        self.ids = {}
        self.forget_at = FORGET_FROM
        memset(array_add(&self.conns, sizeof(pool_conn)), 0, sizeof(pool_conn))
        array_add(&self.clients, sizeof(pool_client))
        array_add(&self.waiting, sizeof(pool_waiting))
        array_add(&self.ends, sizeof(pool_end))

    def __dealloc__(self):
        free(self.watches)
        free(self.edges_ns)
        free(self.reused)
        free(self.idled)
        free(self.idle_s)
        free(self.visits.items)
        free(self.conns.items)
        free(self.clients.items)
        free(self.waiting.items)
        free(self.ends.items)

    # ---- requests come in ----

    def feed(self, list records, /):
        """Requests in the order of their times: tuples (start, duration, client), seconds and bytes; a time earlier than
        the last counts as the last. client: an IP address as text, or a name.

        What happens because of them can be played by Replay until the next call."""
        cdef double start, duration
        cdef int64_t at
        self.visits.n = 0
        if len(self.ids) > <Py_ssize_t>self.forget_at:
            self.forget()
        for start, duration, key in records:
            at = start_ns(floor(start) if self.is_whole else start)
            if at > self.now_ns or not self.has_begun:
                self.reach(at)
            if not self.has_begun:
                self.has_begun = True
                self.begun_ns = at
            self.n_requests += 1
            self.arrive(self.client_of(key), <int64_t>(duration * 1e9) if duration > 0 else 0)

    def finish(self):
        """The log ends: requests that are under way come to their end, and what is idle was idle until then."""
        cdef size_t k
        cdef pool_conn *conn
        self.visits.n = 0
        while self.ends.n > 1:
            self.now_ns = max(self.now_ns, (<pool_end *>self.ends.items)[1].at)
            self.end()
        for k in range(1, self.conns.n):
            conn = <pool_conn *>self.conns.items + k
            if conn.client:
                self.count_idle(self.now_ns - conn.since, False)

    cdef int reach(self, int64_t at) except -1:
        """Time goes on: requests that are over by then end, each at its own time. A simultaneous one ends when its second is
        over, and was idle since it began."""
        cdef int64_t end
        while self.ends.n > 1:
            end = (<pool_end *>self.ends.items)[1].at
            if end > at or (self.is_simultaneous and end == at):
                break
            self.now_ns = max(self.now_ns, end)
            self.end()
        self.now_ns = at
        return 0

    cdef int arrive(self, uint32_t number, int64_t duration_ns) except -1:
        cdef pool_client *client = <pool_client *>self.clients.items + number
        cdef pool_waiting *waiting
        cdef uint32_t conn = client.top, place
        cdef bint takes_time = duration_ns > 0 or self.is_simultaneous
        if conn:
            client.top = (<pool_conn *>self.conns.items)[conn].below
            self.use(conn)
            return self.begin(conn, duration_ns, takes_time)
        if self.shares and client.n_busy:
            self.count_idle(0, True)
            return self.begin(client.shared, duration_ns, True)
        if self.per_client == 0 or client.n_busy < self.per_client:
            return self.begin(self.new_conn(number), duration_ns, takes_time)
        place = self.free_waiting
        if place:
            self.free_waiting = (<pool_waiting *>self.waiting.items)[place].next
        else:
            array_add(&self.waiting, sizeof(pool_waiting))
            place = <uint32_t>(self.waiting.n - 1)
        waiting = <pool_waiting *>self.waiting.items
        waiting[place].duration_ns = duration_ns
        waiting[place].next = 0
        if client.first_waiting:
            waiting[client.last_waiting].next = place
        else:
            client.first_waiting = place
        client.last_waiting = place
        return 0

    cdef int begin(self, uint32_t number, int64_t duration_ns, bint takes_time) except -1:
        """A request on a connection that is in no stack any more, and not busy unless it is shared."""
        cdef pool_conn *conn = <pool_conn *>self.conns.items + number
        cdef pool_client *client = <pool_client *>self.clients.items + conn.client
        self.tell(number, conn.client, VISIT_BEGINS if takes_time else VISIT_BEGINS | VISIT_ENDS)
        if not takes_time:
            self.rest(conn, number)
            return 0
        if not self.shares:
            self.busy += duration_ns / 1e9
        elif client.n_busy == 0:
            conn.since = self.now_ns
            client.shared = number
        client.n_busy += 1
        return self.push_end(self.now_ns + duration_ns, number)

    cdef int end(self) except -1:
        """The request that ends first of all does so now, and one that waits for its connection begins."""
        cdef uint32_t number = self.pop_end(), place
        cdef pool_conn *conn = <pool_conn *>self.conns.items + number
        cdef pool_client *client = <pool_client *>self.clients.items + conn.client
        cdef pool_waiting *waiting
        client.n_busy -= 1
        self.tell(number, conn.client, VISIT_ENDS)
        if self.shares and client.n_busy:
            return 0
        if self.shares:
            self.busy += (self.now_ns - conn.since) / 1e9
        place = client.first_waiting
        if place == 0:
            self.rest(conn, number)
            return 0
        waiting = <pool_waiting *>self.waiting.items + place
        client.first_waiting = waiting.next
        waiting.next = self.free_waiting
        self.free_waiting = place
        self.count_idle(0, True)
        return self.begin(number, waiting.duration_ns, True)  # it has an end of its own, so that nothing runs in a circle

    cdef void rest(self, pool_conn *conn, uint32_t number) noexcept:
        """It becomes idle: the one that its client will use first, and the newest of all."""
        cdef pool_conn *conns = <pool_conn *>self.conns.items
        cdef pool_client *client = <pool_client *>self.clients.items + conn.client
        cdef size_t k
        conn.since = self.now_ns
        conn.below = client.top
        client.top = number
        conn.older, conn.newer = conns[0].older, 0
        conns[conn.older].newer = number
        conns[0].older = number
        for k in range(self.n_watches):
            if self.watches[k].first == 0:
                self.watches[k].first = number

    cdef void use(self, uint32_t number) noexcept:
        """It is idle no longer. Where the timeout has closed it, it is opened again."""
        cdef pool_conn *conns = <pool_conn *>self.conns.items
        cdef pool_watch *watch
        cdef size_t k
        self.count_idle(self.now_ns - conns[number].since, True)
        self.expire()
        for k in range(self.n_watches):
            watch = &self.watches[k]
            if conns[number].since + watch.timeout_ns <= self.now_ns:
                watch.n_open += 1
                watch.peak = max(watch.peak, watch.n_open)
            elif watch.first == number:
                watch.first = conns[number].newer
        self.unlink(number)

    cdef void unlink(self, uint32_t number) noexcept:
        cdef pool_conn *conns = <pool_conn *>self.conns.items
        conns[conns[number].older].newer = conns[number].newer
        conns[conns[number].newer].older = conns[number].older

    cdef void expire(self) noexcept:
        """What every timeout has closed by now."""
        cdef pool_conn *conns = <pool_conn *>self.conns.items
        cdef pool_watch *watch
        cdef size_t k
        for k in range(self.n_watches):
            watch = &self.watches[k]
            while watch.first and conns[watch.first].since + watch.timeout_ns <= self.now_ns:
                watch.first = conns[watch.first].newer
                watch.n_open -= 1

    cdef int tell(self, uint32_t conn, uint32_t client, int what) except -1:
        cdef pool_visit *visit = <pool_visit *>array_add(&self.visits, sizeof(pool_visit))
        visit.at, visit.conn, visit.client, visit.what = self.now_ns, conn, client, what
        return 0

    cdef void count_idle(self, int64_t gap_ns, bint was_reused) noexcept:
        """A connection was idle so long. A timeout of just that would have closed it."""
        cdef size_t low = 0, high = self.n_edges, middle
        while low < high:
            middle = (low + high) // 2
            if self.edges_ns[middle] <= gap_ns:
                low = middle + 1
            else:
                high = middle
        self.reused[low] += was_reused
        self.idled[low] += 1
        self.idle_s[low] += gap_ns / 1e9

    # ---- ends, a heap ----

    cdef int push_end(self, int64_t at, uint32_t conn) except -1:
        cdef pool_end end
        cdef pool_end *heap
        cdef size_t k
        self.serial += 1
        end.at, end.serial, end.conn = at, self.serial, conn
        array_add(&self.ends, sizeof(pool_end))
        heap = <pool_end *>self.ends.items
        k = self.ends.n - 1
        while k > 1 and ends_before(&end, &heap[k // 2]):
            heap[k] = heap[k // 2]
            k //= 2
        heap[k] = end
        return 0

    cdef uint32_t pop_end(self) noexcept:
        cdef pool_end *heap = <pool_end *>self.ends.items
        cdef uint32_t first = heap[1].conn
        cdef size_t k = 1, child, n = self.ends.n - 1
        cdef pool_end last = heap[n]
        self.ends.n = n
        while 2 * k < n:
            child = 2 * k
            if child + 1 < n and ends_before(&heap[child + 1], &heap[child]):
                child += 1
            if not ends_before(&heap[child], &last):
                break
            heap[k] = heap[child]
            k = child
        heap[k] = last
        return first

    # ---- clients and connections ----

    cdef uint32_t client_of(self, object key) except 0:
        cdef object found = self.ids.get(None if self.is_one else key)
        cdef pool_client *client
        cdef uint32_t number
        if found is not None:
            return found
        number = self.free_client
        if number:
            self.free_client = (<pool_client *>self.clients.items)[number].top
        else:
            array_add(&self.clients, sizeof(pool_client))
            number = <uint32_t>(self.clients.n - 1)
        client = <pool_client *>self.clients.items + number
        memset(client, 0, sizeof(pool_client))
        read_log_client(key, &client.address)
        client.address.is_proxy = self.is_one
        self.ids[None if self.is_one else key] = number
        self.n_clients += 1
        return number

    cdef uint32_t new_conn(self, uint32_t client) except 0:
        cdef uint32_t number = self.free_conn
        cdef pool_conn *conn
        cdef size_t k
        if number:
            self.free_conn = (<pool_conn *>self.conns.items)[number].below
        else:
            array_add(&self.conns, sizeof(pool_conn))
            number = <uint32_t>(self.conns.n - 1)
        conn = <pool_conn *>self.conns.items + number
        conn.client, conn.below = client, 0
        self.n_connections += 1
        self.expire()
        for k in range(self.n_watches):
            self.watches[k].n_open += 1
            self.watches[k].peak = max(self.watches[k].peak, self.watches[k].n_open)
        return number

    cdef int forget(self) except -1:
        """Whoever has been away for so long that no timeout has kept it a connection is a new client when it comes back."""
        cdef int64_t before = self.now_ns - self.edges_ns[self.n_edges - 1]
        cdef pool_client *client
        cdef pool_conn *conns = <pool_conn *>self.conns.items
        cdef uint32_t number, conn, below
        self.expire()
        for key, number in list(self.ids.items()):
            client = <pool_client *>self.clients.items + number
            if client.n_busy or client.top == 0 or conns[client.top].since > before:
                continue
            conn = client.top
            while conn:
                below = conns[conn].below
                self.count_idle(self.now_ns - conns[conn].since, False)
                self.unlink(conn)
                conns[conn].client = 0
                conns[conn].below = self.free_conn
                self.free_conn = conn
                conn = below
            client.top = self.free_client
            self.free_client = number
            del self.ids[key]
        self.forget_at = max(FORGET_FROM, 2 * len(self.ids))
        return 0

    # ---- what came of it ----

    @property
    def begun(self):
        """float: the time of the first request."""
        return self.begun_ns / 1e9

    @property
    def ended(self):
        """float: how far the log has been played."""
        return self.now_ns / 1e9

    def peaks(self):
        """list: the most connections that were open at a time, at each of the watched timeouts."""
        return [self.watches[k].peak for k in range(self.n_watches)]

    def gaps(self):
        """Idle gaps by size, between the edges: below the first, from there to the second, ..., from the last one on.

        Return: three lists: requests that came after such a gap; the same with connections that were never used again;
        seconds that all these were idle."""
        cdef size_t k
        return ([self.reused[k] for k in range(self.n_edges + 1)], [self.idled[k] for k in range(self.n_edges + 1)],
                [self.idle_s[k] for k in range(self.n_edges + 1)])


cdef int read_log_client(object key, ka_client *out) except -1:
    """What a log calls a client, as an address. A name is given one of fc00::/7 that only it has."""
    cdef uint64_t mixed = <uint64_t>0xcbf29ce484222325, prime = 0x100000001b3
    cdef unsigned char byte
    try:
        return read_client(key.decode("ascii"), out)
    except (UnicodeDecodeError, ValueError):
        pass
    for byte in <bytes>key:  # FNV-1a: the same in every run, and nobody gains by a collision
        mixed = (mixed ^ byte) * prime
    memset(out, 0, sizeof(ka_client))
    out.family = 6
    memcpy(out.addr, &mixed, sizeof(mixed))
    out.addr[0] = 0xfd
    return 0
