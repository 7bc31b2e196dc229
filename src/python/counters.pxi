# What is counted, as dicts, and the page of memory that a worker process shares: what its table counts, what its engine
# counts, and how things stand in it (`shared_gauges`), which it copies there when a step is over.
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer

from time import monotonic


cdef tuple PHASES = tuple([ka_phase_name(phase).decode() for phase in range(KA_N_PHASES)])
cdef tuple CAUSES = tuple([ka_cause_name(cause).decode() for cause in range(KA_N_CAUSES)])
cdef dict CAUSE_NUMBERS = {name: number for number, name in enumerate(CAUSES) if number != KA_CAUSE_NONE}
cdef tuple BUCKET_EDGES = tuple([ka_bucket_edge(bucket) for bucket in range(KA_N_BUCKETS)])
cdef tuple GAP_EDGES = tuple([edge / 1000 for edge in BUCKET_EDGES])
cdef tuple TIME_EDGES = tuple([edge / 1000000 for edge in BUCKET_EDGES])


cdef dict histogram_dict(tuple edges, const uint64_t *counts):
    cdef int k
    return {"edges": edges, "counts": [counts[k] for k in range(KA_N_BUCKETS)]}


cdef dict counters_dict(const ka_counters *counters):
    """The counters as ConnectionTable.stats() shows them, without the phases."""
    cdef int k
    return {
        "accepted": counters.accepted,
        "requests": counters.requests,
        "reused": counters.reused,
        "reuse_rate": <double>counters.reused / <double>counters.requests if counters.requests else 0.0,
        "races": counters.races,
        "closed": {cause: counters.closed[<int>number] for cause, number in CAUSE_NUMBERS.items()},
        "idle_gap": histogram_dict(GAP_EDGES, counters.idle_gap),
        "idle_left": histogram_dict(GAP_EDGES, counters.idle_left),
        "requests_per_connection": histogram_dict(BUCKET_EDGES, counters.requests_per_connection),
        "responses": {f"{k + 1}xx": counters.responses[k] for k in range(KA_N_STATUS_CLASSES)},
        "bytes_in": counters.received,
        "bytes_out": counters.sent,
        "first_byte": histogram_dict(TIME_EDGES, counters.first_byte) | {"sum": counters.first_byte_sum / 1e6},
        "duration": histogram_dict(TIME_EDGES, counters.duration) | {"sum": counters.duration_sum / 1e6},
        "tls": {
            "handshakes": counters.tls_handshakes, "resumed": counters.tls_resumed, "failed": counters.tls_failed,
        },
    }


cdef ka_cause cause_number(object cause) except KA_CAUSE_NONE:
    cdef object number = CAUSE_NUMBERS.get(cause)
    if number is None:
        raise ValueError(f"cause={cause!r}: must be one of {', '.join(CAUSE_NUMBERS)}")
    return number


cdef enum:
    ENGINE_NUMBERS = 7

cdef tuple ENGINE_NAMES = ("steps", "events", "receives", "sends", "accepts", "accept_errors", "out_of_descriptors")

# What processes share of one table and its engine. Engine.step() copies what the engine counts.
cdef struct shared_counters:
    ka_counters table                  # first
    uint64_t engine[ENGINE_NUMBERS]

# How things stand in the process that counts here; all 0 when there is none. Each number is written whole, so that whoever
# reads meanwhile sees some of them a step older than others.
cdef struct shared_gauges:
    int64_t heard_ns                   # CLOCK_MONOTONIC, when its loop was last seen to turn
    uint64_t pid
    uint64_t state                     # of STATES
    uint64_t max_connections
    uint64_t phases[KA_N_PHASES]
    uint64_t buffer_bytes, max_buffer_bytes
    uint64_t n_http2, n_streams

cdef struct shared_page:
    shared_counters counters           # first
    shared_gauges gauges

cdef tuple STATES = ("starting", "serving", "leaving")
COUNTERS_BYTES = sizeof(shared_page)


cdef inline shared_gauges *gauges_of(ka_counters *counters) noexcept:
    """Of counters that are in a shared page."""
    return &(<shared_page *>counters).gauges


cdef ka_counters *hold_counters(object buffer, Py_buffer *view) except NULL:
    """The counters in a buffer that is held until PyBuffer_Release."""
    PyObject_GetBuffer(buffer, view, PyBUF_WRITABLE)
    if view.len < <Py_ssize_t>sizeof(shared_page) or <size_t>view.buf % sizeof(uint64_t):
        PyBuffer_Release(view)
        raise ValueError(f"counters: {view.len} bytes, must be at least {COUNTERS_BYTES}, on a boundary of 8")
    return <ka_counters *>view.buf


cdef uint64_t still_open(const ka_counters *counters):
    cdef uint64_t n = counters.accepted
    for k in range(<int>KA_N_CAUSES):
        n -= counters.closed[k]
    return n


def sum_counters(buffers):
    """The counters of several tables, each in a buffer of COUNTERS_BYTES, added up: a dict as ConnectionTable.stats()
    has them, with `open` connections in place of the phases, and under "engine" what their engines count. They may be
    counting meanwhile. Cost: about 10 us."""
    cdef shared_counters total
    cdef Py_buffer view
    cdef uint64_t *to = <uint64_t *>&total
    cdef const uint64_t *add
    cdef size_t k
    memset(&total, 0, sizeof(total))
    for buffer in buffers:
        add = <const uint64_t *>hold_counters(buffer, &view)
        for k in range(sizeof(total) // sizeof(uint64_t)):
            to[k] += add[k]
        PyBuffer_Release(&view)
    engine = {ENGINE_NAMES[k]: total.engine[k] for k in range(<size_t>ENGINE_NUMBERS)}
    return {"open": still_open(&total.table), **counters_dict(&total.table), "engine": engine}


def settle_counters(buffer, str cause="error"):
    """The process that counted in this buffer has exited: count what it had open as closed by `cause`. Return: how many."""
    cdef Py_buffer view
    cdef ka_cause number = cause_number(cause)
    cdef ka_counters *counters = hold_counters(buffer, &view)
    cdef uint64_t n = still_open(counters)
    counters.closed[<int>number] += n
    memset(gauges_of(counters), 0, sizeof(shared_gauges))
    PyBuffer_Release(&view)
    return n


def read_gauges(buffer):
    """How things stand in the process that counts in this buffer of COUNTERS_BYTES: a dict of its pid, its state (starting,
    serving, leaving), heard (seconds since its loop last turned), phases, max (connections), buffer_bytes, max_buffer_bytes
    and http2 (open connections and streams). None: there is no process."""
    cdef Py_buffer view
    cdef shared_gauges gauges = gauges_of(hold_counters(buffer, &view))[0]
    PyBuffer_Release(&view)
    cdef int k
    if gauges.pid == 0:
        return None
    return {
        "pid": gauges.pid,
        "state": STATES[<int>gauges.state],
        "heard": max(0.0, monotonic() - <double>gauges.heard_ns / 1e9),
        "max": gauges.max_connections,
        "phases": {PHASES[k]: gauges.phases[k] for k in range(1, <int>KA_N_PHASES)},
        "buffer_bytes": gauges.buffer_bytes,
        "max_buffer_bytes": gauges.max_buffer_bytes,
        "http2": {"connections": gauges.n_http2, "streams": gauges.n_streams},
    }


cdef dict phases_dict(const ka_table *table):
    cdef int phase
    return {PHASES[phase]: ka_table_phase_count(table, <ka_phase>phase) for phase in range(1, <int>KA_N_PHASES)}
