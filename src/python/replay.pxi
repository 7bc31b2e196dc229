# Replay: what ClientPools tells, played through a ConnectionTable in virtual time. A driver whose clients, sockets and
# clock are those of a log: all that is decided is decided by the table, as in a server.

cdef struct replay_due:     # what a client will do, unless it uses the connection before
    int64_t at
    ka_handle handle
    uint32_t conn           # of the pools


cdef struct replay_queue:   # in order of time: each is as long after its cause as the one before
    replay_due *items
    size_t room, first, n   # room: a power of 2


cdef inline int64_t queue_at(const replay_queue *queue) noexcept nogil:
    return queue.items[queue.first].at if queue.n else INT64_MAX


cdef replay_due queue_take(replay_queue *queue) noexcept nogil:
    cdef replay_due first = queue.items[queue.first]
    queue.first = (queue.first + 1) & (queue.room - 1)
    queue.n -= 1
    return first


cdef int queue_add(replay_queue *queue, int64_t at, ka_handle handle, uint32_t conn) noexcept nogil:
    cdef size_t room = queue.room * 2 if queue.room else 1024, k
    cdef replay_due *items
    if queue.n == queue.room:
        items = <replay_due *>realloc(queue.items, room * sizeof(replay_due))
        if items == NULL:
            return KA_ENOMEM
        for k in range(queue.first):  # what had wrapped around goes on behind
            items[queue.room + k] = items[k]
        queue.items, queue.room = items, room
    items = queue.items + ((queue.first + queue.n) & (queue.room - 1))
    items.at, items.handle, items.conn = at, handle, conn
    queue.n += 1
    return 0


@cython.binding(False)
cdef class Replay:
    """A ConnectionTable that serves the clients of a log.

    table:   a new one; its policy is what is tried. Nobody else may use it.
    closes:  seconds after which clients close a connection that is idle; 0: they never do.
    window:  seconds until a client sees that its connection was closed; a request that it sends before is lost, counted as a
             race, and repeated on a new connection. Until then the connection takes its place, which counts when room is
             short. 0: it sees it at once.
    Raises ValueError, MemoryError. Not thread-safe, but play() lets go of the GIL. Cost: about 0.1 us a request.
    """
    cdef readonly ConnectionTable table
    cdef ka_handle *handles     # of the pools' connections in this table; stale when they are not open
    cdef int64_t *idle_since    # of the same; NULL when clients never close
    cdef size_t n_conns
    cdef bint shares
    cdef replay_queue leaving, seeing  # by `closes`, by `window`
    cdef int64_t closes_ns, window_ns, begun_ns, now_ns
    cdef bint has_begun
    cdef bint has_expired
    cdef int64_t expired_ns     # the last time that the table closed one
    cdef double open_ns         # connections times nanoseconds
    cdef readonly uint64_t n_requests, n_reused, n_opened, n_evicted, n_refused, n_races
    cdef readonly uint32_t peak

    def __cinit__(self, ConnectionTable table not None, *, double closes=0.0, double window=0.0):
        if not 0 <= closes <= 1e9 or not 0 <= window <= 1e9:
            raise ValueError(f"closes={closes!r}, window={window!r}: must be between 0 and 1e9 seconds")
        if len(table):
            raise ValueError(f"table: has {len(table)} connections, must have none")
        self.table = table
        self.closes_ns, self.window_ns = <int64_t>ceil(closes * 1e9), <int64_t>ceil(window * 1e9)

    def __dealloc__(self):
        free(self.handles)
        free(self.idle_since)
        free(self.leaving.items)
        free(self.seeing.items)

    def play(self, ClientPools pools not None, /):
        """What the last feed() or finish() of these pools told. MemoryError leaves the replay unusable."""
        cdef pool_visit *visits = <pool_visit *>pools.visits.items
        cdef pool_client *clients = <pool_client *>pools.clients.items
        cdef size_t k
        cdef int got = 0
        self.shares = pools.shares
        self.grow(pools.conns.n)
        with nogil:
            for k in range(pools.visits.n):
                if not self.has_begun:
                    self.has_begun = True
                    self.begun_ns = self.now_ns = visits[k].at
                got = self.advance(visits[k].at)
                if got == 0 and visits[k].what & VISIT_BEGINS:
                    got = self.begin(visits[k].conn, &clients[visits[k].client].address)
                if got == 0 and visits[k].what & VISIT_ENDS:
                    got = self.stream_end(visits[k].conn) if self.shares else self.end(visits[k].conn)
                if got < 0:
                    break
        if got < 0:
            raise MemoryError

    cdef int grow(self, size_t n) except -1:
        cdef size_t room
        cdef void *items
        if n <= self.n_conns:
            return 0
        room = max(n, self.n_conns + self.n_conns // 2)
        items = realloc(self.handles, room * sizeof(ka_handle))
        if items == NULL:
            raise MemoryError
        self.handles = <ka_handle *>items
        if self.closes_ns:
            items = realloc(self.idle_since, room * sizeof(int64_t))
            if items == NULL:
                raise MemoryError
            self.idle_since = <int64_t *>items
        memset(self.handles + self.n_conns, 0, (room - self.n_conns) * sizeof(ka_handle))
        self.n_conns = room
        return 0

    # ---- time ----

    cdef int advance(self, int64_t to) noexcept nogil:
        """Whatever is due by then happens, each at its own time."""
        cdef int64_t due, leaves, sees, at
        while True:
            due = ka_table_next_due(self.table.table)
            leaves = queue_at(&self.leaving)
            sees = queue_at(&self.seeing)
            at = min(due, min(leaves, sees))
            if at > to:
                break
            self.pass_time(at)
            if sees == at:
                self.see()
            elif leaves == at:
                self.leave()
            elif self.expire() < 0:
                return KA_ENOMEM
            elif ka_table_next_due(self.table.table) == due == at and not self.has_expired:
                break  # it is due a little later than it was said to be
        self.pass_time(to)
        return 0

    cdef void pass_time(self, int64_t to) noexcept nogil:
        if to > self.now_ns:
            self.open_ns += <double>(to - self.now_ns) * ka_table_open_count(self.table.table)
            self.now_ns = to

    cdef int expire(self) noexcept nogil:
        """The table closes the one that is due. Who cannot see that yet may still send."""
        cdef ka_handle handle = 0
        cdef ka_cause cause = KA_CAUSE_ERROR
        cdef ka_action action = ka_table_due(self.table.table, self.now_ns, &handle, &cause)
        self.has_expired = action != KA_DO_NOTHING
        self.expired_ns = self.now_ns
        if action == KA_DO_HALF_CLOSE and self.window_ns:
            ka_conn_event(self.table.table, handle, KA_EV_LINGERING, self.now_ns)
            return queue_add(&self.seeing, self.now_ns + self.window_ns, handle, 0)
        if self.has_expired:
            ka_conn_close(self.table.table, handle, cause, self.now_ns)
        return 0

    cdef void see(self) noexcept nogil:
        """A client sees that its connection was closed, and closes its side."""
        cdef replay_due due = queue_take(&self.seeing)
        if ka_conn_phase(self.table.table, due.handle) == <int>KA_LINGER:
            ka_conn_close(self.table.table, due.handle, ka_conn_ending(self.table.table, due.handle), self.now_ns)

    cdef void leave(self) noexcept nogil:
        """A client closes a connection that it has not used for so long."""
        cdef replay_due due = queue_take(&self.leaving)
        if (self.handles[due.conn] == due.handle and self.idle_since[due.conn] + self.closes_ns == due.at
                and ka_conn_phase(self.table.table, due.handle) == <int>KA_IDLE):
            ka_conn_close(self.table.table, due.handle, KA_CAUSE_CLIENT, self.now_ns)

    # ---- requests ----

    cdef int begin(self, uint32_t number, const ka_client *client) noexcept nogil:
        cdef ka_table *table = self.table.table
        cdef ka_handle handle = self.handles[number]
        cdef int phase = ka_conn_phase(table, handle)
        self.n_requests += 1
        if phase == <int>KA_IDLE or (phase == <int>KA_BUSY and self.shares):
            self.n_reused += 1
            ka_conn_event(table, handle, KA_EV_STREAM_OPENED if self.shares else KA_EV_HEAD_DONE, self.now_ns)
            return 0
        if phase == <int>KA_LINGER:
            if self.expired_ns != self.now_ns:  # logs with whole seconds have many that come in the very moment of the close
                self.n_races += ka_conn_crossed(table, handle)
            ka_conn_close(table, handle, ka_conn_ending(table, handle), self.now_ns)
        return self.open(&self.handles[number], client)

    cdef int open(self, ka_handle *handle, const ka_client *client) noexcept nogil:
        """A client connects. It is turned away when nobody can make room for it, or as the policy says."""
        cdef ka_table *table = self.table.table
        cdef ka_handle victim
        cdef int got
        handle[0] = 0
        while True:
            got = ka_conn_open(table, self.now_ns, 0, client, 0, handle)
            if got != KA_EFULL:
                break
            victim = ka_table_victim(table, self.now_ns)
            if victim == 0:
                break
            ka_conn_close(table, victim, KA_CAUSE_EVICTED, self.now_ns)
            self.n_evicted += 1
        if got == KA_ENOMEM:
            return got
        if got != KA_OK:
            self.n_refused += 1
            ka_table_refused(table, KA_CAUSE_CLIENT_LIMIT if got == KA_ECLIENT else KA_CAUSE_REJECTED)
            return 0
        self.n_opened += 1
        self.peak = max(self.peak, ka_table_open_count(table))
        ka_conn_event(table, handle[0], KA_EV_STREAM_OPENED if self.shares else KA_EV_HEAD_DONE, self.now_ns)
        return 0

    cdef int end(self, uint32_t number) noexcept nogil:
        cdef ka_table *table = self.table.table
        cdef ka_handle handle = self.handles[number]
        cdef ka_verdict verdict
        if ka_conn_decide(table, handle, 1, 1, KA_CAUSE_NONE, self.now_ns, &verdict) < 0:
            return 0  # it was turned away
        if not verdict.keeps:
            ka_conn_close(table, handle, <ka_cause>verdict.cause, self.now_ns)
            return 0
        ka_conn_event(table, handle, KA_EV_RESPONDED, self.now_ns)
        return self.idle(number)

    cdef int stream_end(self, uint32_t number) noexcept nogil:
        """The same where requests share a connection: it is idle after the last."""
        if ka_conn_event(self.table.table, self.handles[number], KA_EV_STREAM_CLOSED, self.now_ns) == <int>KA_IDLE:
            return self.idle(number)
        return 0

    cdef int idle(self, uint32_t number) noexcept nogil:
        if self.closes_ns == 0:
            return 0
        self.idle_since[number] = self.now_ns
        return queue_add(&self.leaving, self.now_ns + self.closes_ns, self.handles[number], number)

    # ---- what came of it ----

    @property
    def mean(self):
        """float: connections open on average since the first request; 0 when no time has passed."""
        return self.open_ns / (self.now_ns - self.begun_ns) if self.now_ns > self.begun_ns else 0.0
