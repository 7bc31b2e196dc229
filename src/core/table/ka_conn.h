/* ka_conn.h: the life of a connection: transitions, the keep-alive decision, deadlines, eviction, pressure, drain.
 *
 * All transitions stand in one table in ka_conn.c. A decision is made once, here: whether a connection is kept,
 * which fields say so, when it dies and who goes first. Callers (ka_talk, ka_engine, adapters) report what
 * happened and carry out what they are told. No function here does I/O or reads a clock; all are O(1) unless
 * said otherwise. `now` is nanoseconds on the caller's monotonic clock; a clock that runs backward is clamped. */
#ifndef KA_CONN_H
#define KA_CONN_H

#include "table/ka_store.h"

/* What one class of connections is allowed. 0 ns = no limit. kacore.Policy documents every number. */
typedef struct {
    int64_t
        timeout_ns[KA_N_PHASES]; /* HANDSHAKE, NEW, HEAD, BODY (gap), BUSY (handler), WRITE (gap), IDLE, LINGER (gap) */
    int64_t rate_window_ns;      /* a rate is judged when bytes move after waiting for this long in all */
    uint32_t min_body_rate, min_send_rate; /* bytes per second; 0 = no limit */
    int64_t max_age_ns;                    /* Connection: close on the first response after it */
    uint32_t age_jitter_permille;          /* +- of max_age_ns, fixed for a connection by its handle */
    uint32_t max_requests;                 /* responses per connection; 0 = no limit */
    uint32_t linger_bytes;                 /* 0 = no limit */
    int64_t linger_time_ns;                /* of LINGER in all, judged when bytes come; 0 = no limit */
    int64_t advertise_margin_ns;           /* the advertised timeout is this much shorter than the real one */
    int64_t max_body_bytes;                /* content of one request */
    uint8_t keep_alive;                    /* 0: every response closes */
    uint8_t advertise;                     /* send the Keep-Alive field */
    uint8_t spare[6];
} ka_policy;

extern const ka_policy ka_policy_default; /* what kacore.Policy() means; every class starts with it */

/* What the whole table is allowed. */
typedef struct {
    uint32_t max_connections;
    uint32_t max_per_client;      /* 0 = no limit */
    uint32_t client_share;        /* idle connections above which a client's own go first when room is needed;
                                         0 = a quarter of max_connections */
    uint8_t prefix_v4, prefix_v6; /* leading bits of an address that make one client: 32, 64 */
    uint8_t rejects_when_full;    /* 0: leave them in the backlog; 1: 503 with Retry-After */
    uint8_t spare;
    int64_t min_idle_before_evict_ns;
    double pressure_start, pressure_full; /* fractions of max_connections */
    int64_t pressure_min_timeout_ns;
    uint32_t retry_after_s;      /* of the 503 for one that is turned away; 0 = 1 */
    uint32_t min_rate_when_full; /* bytes per second over a rate window: whoever moves less in BODY or WRITE goes
                                         when nobody else can; 0 = nobody does */
} ka_capacity;

extern const ka_capacity ka_capacity_default;

/* Who is at the other end. family 0: unknown, a unix socket or a trusted proxy, which is no client and is never
 * limited. IPv4 addresses stand in the first four bytes; ::ffff:a.b.c.d counts as IPv4. */
typedef struct {
    uint8_t family; /* 0, 4 or 6 */
    uint8_t addr[16];
} ka_client;

/* hash_seed keys the client hash and the age jitter. counters: the caller's, outlives the table.
 * Return 0, KA_ENOMEM, or KA_EINVAL for a capacity that ka_table_set_capacity would refuse. */
int ka_table_new(ka_table **out, const ka_capacity *capacity, uint64_t hash_seed, ka_counters *counters);
void ka_table_free(ka_table *t);

/* Take effect on all open connections at once. KA_EINVAL, and nothing changed, for a class >= KA_N_CLASSES, a negative
 * time, a fraction or prefix out of range, no room at all. O(1), but for a changed client_share: O(clients). */
int ka_table_set_policy(ka_table *t, unsigned policy_class, const ka_policy *policy);
int ka_table_set_capacity(ka_table *t, const ka_capacity *capacity);
const ka_capacity *ka_table_capacity(const ka_table *t);
const ka_policy *ka_table_policy(const ka_table *t, ka_handle h); /* of the class it is in now; NULL if stale */

/* Events, named after what happened. Anything without a row in the transition table is KA_EINVAL and changes nothing. */
typedef enum {
    KA_EV_HANDSHAKE_DONE, /* HANDSHAKE -> NEW */
    KA_EV_RECEIVED,       /* first byte of a request that is not an empty line: NEW, IDLE -> HEAD */
    KA_EV_HEAD_DONE,      /* a whole head is here: NEW, HEAD, IDLE -> BUSY; counts the request */
    KA_EV_BODY_WANTED,    /* BUSY -> BODY */
    KA_EV_BODY_ARRIVED,   /* BODY -> BUSY */
    KA_EV_BLOCKED,        /* HEAD, BUSY, BODY, TUNNEL -> WRITE */
    KA_EV_UNBLOCKED,      /* WRITE -> BUSY */
    KA_EV_RESPONDED,      /* whole response with the kernel and the connection kept: BUSY, BODY, WRITE -> IDLE */
    KA_EV_LINGERING,      /* we sent FIN: any but LINGER -> LINGER */
    KA_EV_TUNNELLED,      /* BUSY, BODY, WRITE -> TUNNEL */
    /* A connection that carries many requests at once (HTTP/2): IDLE = no open stream. After the first of these it
     * takes no other event but KA_EV_LINGERING. Its BUSY clock restarts whenever a stream opens or ends. */
    KA_EV_STREAM_OPENED, /* NEW, HEAD, IDLE, BUSY -> BUSY; counts the request */
    KA_EV_STREAM_CLOSED, /* BUSY -> BUSY, or IDLE when it was the last */
    KA_N_EVENTS
} ka_event;

/* Open a connection: HANDSHAKE when is_tls, else NEW. `policy_class` is its home: NEW and HEAD always run under it.
 * Return: 0 with *out, KA_EFULL (close ka_conn_victim and come again), KA_ECLIENT, KA_ENOMEM, KA_EINVAL (class). */
int ka_conn_open(ka_table *t, int64_t now, unsigned policy_class, const ka_client *client, int is_tls, ka_handle *out);

/* Say who is at the other end of a connection that was opened as nobody's: a proxy has named its client. Not in IDLE.
 * KA_OK, KA_ECLIENT (that client has all it may have: turn it away), KA_ENOMEM, KA_EINVAL, KA_ESTALE. */
int ka_conn_set_client(ka_table *t, ka_handle h, const ka_client *client);

/* Report an event. Return: the new phase, KA_EINVAL or KA_ESTALE. */
int ka_conn_event(ka_table *t, ka_handle h, ka_event event, int64_t now);

/* One that was accepted and turned away before it could be opened: counts it and its cause. */
void ka_conn_refused(ka_table *t, ka_cause cause);

/* Bytes moved in BODY, WRITE (restart the gap, feed the rate) or LINGER (restart the gap, count against linger_bytes
 * and linger_time_ns); in any other phase nothing: report the bytes first, then KA_EV_BODY_ARRIVED or KA_EV_UNBLOCKED. A window is the time waited in
 * BODY, or in WRITE, summed over as many waits as it takes; turning from one to the other begins a new one.
 * Return: 0, KA_ESLOW when the rate or the linger limit says close (cause in *cause), or KA_ESTALE. */
int ka_conn_progress(ka_table *t, ka_handle h, size_t nbytes, int64_t now, ka_cause *cause);

/* Bytes came from a connection in LINGER. Return 1, and count a race, when they are the first on one that was closed
 * while idle: the client cannot have seen our FIN before it wrote, and its request is lost. Else 0. */
int ka_conn_crossed(ka_table *t, ka_handle h);

/* "Something happened": restart the clock of the phase it is in, for hosts that know no more. 0 or KA_ESTALE. */
int ka_conn_touch(ka_table *t, ka_handle h, int64_t now);

/* Move to another class (rules that look at the request), until the next request; the clock of the phase is kept.
 * O(connections that entered the phase in that class later): none right after an event. KA_EINVAL, KA_ESTALE. */
int ka_conn_set_class(ka_table *t, ka_handle h, unsigned policy_class);

int ka_conn_phase(const ka_table *t, ka_handle h);         /* ka_phase or KA_ESTALE */
int ka_conn_class(const ka_table *t, ka_handle h);         /* the class it is in now, or KA_ESTALE */
uint32_t ka_conn_requests(const ka_table *t, ka_handle h); /* heads seen on it; 0 if stale */

/* Called once, when the response head is about to be written.
 * minor: the request's HTTP/1.minor. client_persists: KA_HEAD_KEEP_ALIVE. must_close: KA_CAUSE_NONE when nothing
 * forbids keeping it, else the ka_cause for which it will be closed. 0, KA_ESTALE, or KA_EINVAL outside a request and for no such cause. */
int ka_conn_decide(ka_table *t, ka_handle h, unsigned minor, int client_persists, ka_cause must_close, int64_t now,
                   ka_verdict *out);

/* The one way out of the table, right for every phase. Counts the cause, bumps the generation. KA_ESTALE if gone. */
int ka_conn_close(ka_table *t, ka_handle h, ka_cause cause);

/* Remember why it will end, for when its LINGER is over. ka_conn_decide and ka_conn_due do so themselves. 0, KA_ESTALE. */
int ka_conn_will_end(ka_table *t, ka_handle h, ka_cause cause);

/* What to do about a connection whose time is up. */
typedef enum {
    KA_DO_NOTHING,
    KA_DO_CLOSE,
    KA_DO_ANSWER_408, /* answer 408 if no response byte has left, then close (with LINGER) */
    KA_DO_ANSWER_503, /* handler_timeout: cancel, answer 503 if no response byte has left, then close */
    KA_DO_HALF_CLOSE, /* FIN, then KA_EV_LINGERING */
    KA_DO_GOAWAY      /* multiplexed: tell the peer, then close */
} ka_action;

/* One connection whose time is up, the longest due first, or KA_DO_NOTHING. It stays where it is: the caller looks
 * for bytes in the kernel once more (before it closes NEW, IDLE, HEAD, BODY; SIOCOUTQ for WRITE) and reports either
 * what it found or the close. The same one is named until then. O(classes * phases) at worst; O(1) when nothing is due
 * and no drain is on. */
ka_action ka_conn_due(ka_table *t, int64_t now, ka_handle *h, ka_cause *cause);

/* When ka_conn_due would next name one, INT64_MAX for never. Never later than the truth; under pressure and while
 * draining it can move earlier by any event, so ask again after each batch. */
int64_t ka_conn_next_due(ka_table *t);

/* Who goes when room is needed: docs/table.md has the order. 0 = nobody. The caller looks for bytes in the kernel once
 * more, as for ka_conn_due, asks again, and closes when the same one is named; from BODY it may answer 408 before. O(1):
 * where all that is left are connections in BODY and WRITE it looks at a bounded number of them, and at others when it is
 * asked again after it found nobody. */
ka_handle ka_conn_victim(ka_table *t, int64_t now);

/* The longest in a phase, 0 = nobody is. O(classes). */
ka_handle ka_conn_oldest(const ka_table *t, ka_phase phase);

/* Start draining (rolling restart): idle connections stay answerable for `grace`, then are closed spread over
 * `spread`; every response says close; whoever is let in meanwhile has `grace` for its first byte; `deadline` after now
 * what is left is due whatever its phase. Again: whatever comes earlier of the two. */
void ka_conn_drain(ka_table *t, int64_t now, int64_t grace_ns, int64_t spread_ns, int64_t deadline_ns);
int ka_conn_is_draining(const ka_table *t);

ka_handle ka_table_handle(const ka_table *t, uint32_t slot); /* of the connection in this slot, 0 if none */
uint32_t ka_table_open_count(const ka_table *t);
uint32_t ka_table_phase_count(const ka_table *t, ka_phase phase);
int ka_table_is_full(const ka_table *t);
int ka_table_is_drained(const ka_table *t); /* nothing is open but what lingers: a server that drains can stop */
size_t ka_table_bytes(const ka_table *t);   /* memory of the table, all included but malloc's own */

/* Walk every invariant. Return NULL, or a static sentence naming the first broken one. O(slots). */
const char *ka_table_check(const ka_table *t);

#endif
