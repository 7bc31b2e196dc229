/* ka_table.h: the table of connections as a whole: what they are allowed, whose time is up, who goes first when room is
 * needed, the drain.
 *
 * What happens to one connection is in ka_conn.h. Who calls (a driver, an adapter) is told what to do, and does it: no
 * function here does I/O or reads a clock; all are O(1) unless said otherwise. `now` is nanoseconds on the caller's
 * monotonic clock; a clock that runs backward is clamped. A table belongs to one thread. */
#ifndef KA_TABLE_H
#define KA_TABLE_H

#include "table/ka_phase.h"

/* Rates and ages are multiplied in 128 bits, and counts of bytes are sizes. */
_Static_assert(sizeof(void *) == 8, "kacore needs a 64-bit system");

typedef struct ka_table ka_table;

#define KA_AUTO ((int64_t)-1) /* timeout_ns[KA_IDLE]: what the client's network has shown (ka_learned.h) */

/* What one class of connections is allowed. 0 ns = no limit. kacore.Policy documents every number. */
typedef struct {
    /* HANDSHAKE, NEW, HEAD, BODY (gap), BUSY (handler), WRITE (gap), IDLE (or KA_AUTO), LINGER (gap) */
    int64_t timeout_ns[KA_N_PHASES];
    int64_t rate_window_ns;                /* a rate is judged when bytes move after waiting for this long in all */
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
    int64_t keep_alive_min_ns, keep_alive_max_ns; /* what KA_AUTO lies between */
    int64_t min_idle_before_evict_ns;
    /* Fractions of max_connections between which KA_AUTO falls from keep_alive_max_ns to what a network has shown. */
    double pressure_start, pressure_full;
    uint32_t retry_after_s;      /* of the 503 for one that is turned away; 0 = 1 */
    uint32_t min_rate_when_full; /* bytes per second over a rate window: whoever moves less in BODY or WRITE goes
                                         when nobody else can; 0 = nobody does */
} ka_capacity;

extern const ka_capacity ka_capacity_default;

/* hash_seed keys the client hash and the age jitter. counters: the caller's, outlives the table.
 * Return 0, KA_ENOMEM, or KA_EINVAL for a capacity that ka_table_set_capacity would refuse. */
int ka_table_new(ka_table **out, const ka_capacity *capacity, uint64_t hash_seed, ka_counters *counters);
void ka_table_free(ka_table *t);

ka_counters *ka_table_counters(const ka_table *t); /* what ka_table_new was given */

/* Take effect on all open connections at once. KA_EINVAL, and nothing changed, for a class >= KA_N_CLASSES, a negative
 * time, a fraction or prefix out of range, no room at all. O(1), but for a changed client_share or keep_alive_*: O(clients). */
int ka_table_set_policy(ka_table *t, unsigned policy_class, const ka_policy *policy);
const ka_policy *ka_table_policy(const ka_table *t, unsigned policy_class);
int ka_table_set_capacity(ka_table *t, const ka_capacity *capacity);
const ka_capacity *ka_table_capacity(const ka_table *t);

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
ka_action ka_table_due(ka_table *t, int64_t now, ka_handle *h, ka_cause *cause);

/* When ka_table_due would next name one, INT64_MAX for never. Never later than the truth; under pressure and while
 * draining it can move earlier by any event, so ask again after each batch. */
int64_t ka_table_next_due(ka_table *t);

/* Who goes when room is needed: docs/table.md has the order. 0 = nobody. The caller looks for bytes in the kernel once
 * more, as for ka_table_due, asks again, and closes when the same one is named; from BODY it may answer 408 before. O(1):
 * where all that is left are connections in BODY and WRITE it looks at a bounded number of them, and at others when it is
 * asked again after it found nobody. */
ka_handle ka_table_victim(ka_table *t, int64_t now);

/* The longest in a phase, 0 = nobody is. O(classes). */
ka_handle ka_table_oldest(const ka_table *t, ka_phase phase);

/* Start draining (rolling restart): idle connections stay answerable for `grace`, then are closed spread over
 * `spread`; every response says close; whoever is let in meanwhile has `grace` for its first byte; `deadline` after now
 * what is left is due whatever its phase. Again: whatever comes earlier of the two. */
void ka_table_drain(ka_table *t, int64_t now, int64_t grace_ns, int64_t spread_ns, int64_t deadline_ns);
int ka_table_is_draining(const ka_table *t);

/* One that was accepted and turned away before it could be opened: counts it and its cause. */
void ka_table_refused(ka_table *t, ka_cause cause);

ka_handle ka_table_handle(const ka_table *t, uint32_t slot); /* of the connection in this slot, 0 if none */
uint32_t ka_table_slots(const ka_table *t);                  /* above all slots that were ever used */
uint32_t ka_table_open_count(const ka_table *t);
uint32_t ka_table_phase_count(const ka_table *t, ka_phase phase);
int ka_table_is_full(const ka_table *t);
int ka_table_is_drained(const ka_table *t); /* nothing is open but what lingers: a server that drains can stop */
size_t ka_table_bytes(const ka_table *t);   /* memory of the table, all included but malloc's own */

/* Walk every invariant. Return NULL, or a static sentence naming the first broken one. O(slots). */
const char *ka_table_check(const ka_table *t);

#endif
