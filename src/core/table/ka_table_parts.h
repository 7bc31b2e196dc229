/* ka_table_parts.h: what the files of the table share: its struct, its time, its limits. Private to this room. */
#ifndef KA_TABLE_PARTS_H
#define KA_TABLE_PARTS_H

#include "table/ka_known.h"
#include "table/ka_store.h"
#include "table/ka_table.h"

#define NEVER INT64_MAX
#define UNKNOWN INT64_MIN          /* of ka_table.due */
#define LONGEST ((int64_t)1 << 60) /* limits are cut to it, so that since + limit cannot overflow */
#define SECOND ((int64_t)1000000000)

struct ka_table {
    ka_store store;
    ka_counters *counters;  /* the caller's */
    int64_t due;            /* nothing is due before; UNKNOWN when it must be found again, and all through a drain */
    double relief;          /* 1: there is room, 0: KA_AUTO is what was learned */
    double start_n, full_n; /* connections between which relief falls from 1 to 0 */
    uint64_t jitter_seed;
    int64_t grace, grace_end, spread, deadline; /* of the drain */
    uint32_t ramp_from;                         /* idle connections when the grace ended; 0 = it has not */
    uint8_t is_draining;
    uint32_t looked_at[2]; /* BODY, WRITE: where to go on looking for a victim that is slow; 0 = at the front */
    uint8_t has_settled;
    ka_known settled; /* the network that did, while has_settled */
    ka_ladder ladder; /* of the timeouts that KA_AUTO stands for */
    ka_capacity capacity;
    ka_policy policy[KA_N_CLASSES];
    int64_t age_span[KA_N_CLASSES];     /* what age_jitter_permille makes of max_age_ns */
    int64_t surely_young[KA_N_CLASSES]; /* below it no connection is over its age, whatever its draw */
};

/* ---- time ---- */

int64_t ka_table_clock(ka_table *t, int64_t now); /* for any `now`; what else becomes due by it */

static inline int64_t clock_of(ka_table *t, int64_t now)
{
    return ka_likely(ka_store_clock_goes_on(&t->store, now)) ? t->store.now : ka_table_clock(t, now);
}

/* An idle timeout: of a rung, where the class has KA_AUTO, and of the room. */
int64_t ka_table_idle_limit(const ka_table *t, unsigned policy_class, unsigned rung);

/* The limit of a lane, 0 = none. */
static inline int64_t limit_of(const ka_table *t, unsigned policy_class, unsigned lane)
{
    if (lane == KA_IDLE || lane >= KA_N_PHASES)
        return ka_table_idle_limit(t, policy_class, ka_lane_rung(lane));
    return t->policy[policy_class].timeout_ns[lane];
}

/* Where a slot of this class and network goes when it becomes idle. */
static inline unsigned idle_lane(const ka_table *t, const ka_slot *slot)
{
    if (t->policy[ka_slot_class(slot)].timeout_ns[KA_IDLE] != KA_AUTO)
        return KA_IDLE;
    return ka_lane_of_rung(ka_store_client(&t->store, ka_slot_client(slot))->learned.rung);
}

/* A slot has just come into a queue as its head: only that can bring the earliest deadline. */
static inline void note_head(ka_table *t, unsigned policy_class, unsigned lane, int64_t since)
{
    int64_t limit = limit_of(t, policy_class, lane), due = since + limit;
    if (limit && due < t->due)
        t->due = due;
}

void ka_table_update_pressure(ka_table *t); /* the count of open connections has changed */

/* ---- networks: ka_known.c ---- */

uint64_t ka_table_network(const ka_table *t, const ka_client *client,
                          uint8_t masked[16]);                              /* its id; not for family 0 */
void ka_table_idle_ended(ka_table *t, const ka_slot *slot, ka_cause cause); /* a slot in IDLE ends, now, by it */
void ka_table_raced(ka_table *t, const ka_slot *slot);
void ka_table_climb(ka_table *t); /* the ladder has changed. O(networks) */

/* ---- marks and rates ---- */

static inline void set_ending(ka_mark *mark, unsigned cause)
{
    mark->ending = (uint8_t)((mark->ending & ~(unsigned)KA_ENDING_MASK) | cause);
}

/* Why one in LINGER ends: what it was closed for, where that is known. */
static inline ka_cause linger_cause(unsigned ending)
{
    return ending & KA_ENDING_MASK ? (ka_cause)(ending & KA_ENDING_MASK) : KA_CAUSE_ERROR;
}

/* Fewer bytes in that time than the rate, in bytes per second, asks for. */
static inline int is_below(uint32_t nbytes, uint32_t rate, uint64_t spent_ns)
{
    return nbytes != UINT32_MAX && (uint64_t)nbytes * SECOND < (unsigned __int128)rate * spent_ns;
}

#endif
