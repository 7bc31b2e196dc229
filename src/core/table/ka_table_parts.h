/* ka_table_parts.h: what the files of the table share: its struct, its time, its limits. Private to this room. */
#ifndef KA_TABLE_PARTS_H
#define KA_TABLE_PARTS_H

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
    double relief;          /* 1: no pressure, 0: timeouts at their minimum */
    double start_n, full_n; /* connections between which relief falls from 1 to 0 */
    uint64_t jitter_seed;
    int64_t grace, grace_end, spread, deadline; /* of the drain */
    uint32_t ramp_from;                         /* idle connections when the grace ended; 0 = it has not */
    uint8_t is_draining;
    uint32_t looked_at[2]; /* BODY, WRITE: where to go on looking for a victim that is slow; 0 = at the front */
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

int64_t ka_table_relieved(const ka_table *t, int64_t limit); /* an idle timeout under pressure */

/* The limit of a phase, 0 = none. */
static inline int64_t limit_of(const ka_table *t, unsigned policy_class, unsigned phase)
{
    int64_t limit = t->policy[policy_class].timeout_ns[phase];
    return ka_unlikely(phase == KA_IDLE && t->relief < 1.0) ? ka_table_relieved(t, limit) : limit;
}

/* A slot has just come into a queue as its head: only that can bring the earliest deadline. */
static inline void note_head(ka_table *t, unsigned policy_class, unsigned phase, int64_t since)
{
    int64_t limit = limit_of(t, policy_class, phase), due = since + limit;
    if (limit && due < t->due)
        t->due = due;
}

void ka_table_update_pressure(ka_table *t); /* the count of open connections has changed */

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
