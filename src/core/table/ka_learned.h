/* ka_learned.h: what a client network has shown about its idle connections, and how long they are kept for it.
 *
 * Arithmetic on a few numbers: knows no connection, no queue, no clock. The rule: whoever has closed first is given more
 * than it took; whoever never did, at an age at which we closed, is given more than that, up to the maximum. The largest
 * age is what counts: proxies close idle connections early for many reasons, and late for their timeout only. */
#ifndef KA_LEARNED_H
#define KA_LEARNED_H

#include "ka_base.h"

enum {
    KA_N_RUNGS = 20,                    /* a learned timeout is one of so many: each has queues of its own */
    KA_LEARNED_PERIOD_S = 12 * 60 * 60, /* what was seen counts in its period and in the next */
    KA_SETTLED_AFTER = 3                /* closes at about the same age */
};

/* The timeouts there are, each at least 1.25 times the one below, the last the maximum. */
typedef struct {
    int64_t ns[KA_N_RUNGS]; /* from `n` on all are the maximum */
    unsigned n;
} ka_ladder;

void ka_ladder_set(ka_ladder *ladder, int64_t min_ns, int64_t max_ns); /* 0 < min; a max below it counts as min */
unsigned ka_ladder_rung(const ka_ladder *ladder, int64_t ns);          /* the lowest that is as long, else the top */

/* Of one network. Zeros: nothing. Two of a kind: of this period, and of the one before. */
typedef struct {
    uint32_t theirs_ms[2];              /* the largest idle age at which they closed first */
    uint32_t ours_ms[2];                /* the largest at which we did, and they had not */
    uint32_t began_s;                   /* when this period began */
    uint32_t since_s;                   /* when the rung last changed, or the network settled */
    uint16_t n_theirs, n_ours, n_races; /* how often, saturating */
    uint8_t rung;                       /* of the ladder: how long idle connections are kept for it */
    uint8_t marks;
} ka_learned;
_Static_assert(sizeof(ka_learned) == 32, "with its address 48 bytes a network");

enum {
    KA_LEARNED_AGREED = 0x03, /* closes within a twentieth (and 0.1 s) of the largest age, up to KA_SETTLED_AFTER */
    KA_LEARNED_RACED = 0x04,  /* in this period */
    KA_LEARNED_RACED_BEFORE = 0x08, /* in the one before */
    KA_LEARNED_IS_PROXY = 0x80      /* the owner's: a trusted proxy, not a client */
};

/* An idle connection of theirs ended at this age: they closed it, or our timeout did. they_closed: return whether the
 * network has settled by it, for the first time at about this age. now_s: seconds on the owner's clock. */
int ka_learned_they_closed(ka_learned *of, const ka_ladder *ladder, int64_t age_ns, uint32_t now_s);
void ka_learned_we_closed(ka_learned *of, const ka_ladder *ladder, int64_t age_ns, uint32_t now_s);

/* A request of theirs crossed our close: it is kept as long as there is until they have shown how long they keep it. */
void ka_learned_raced(ka_learned *of, const ka_ladder *ladder, uint32_t now_s);

/* What another table has learned of the same network, by the same clock. */
void ka_learned_merge(ka_learned *of, const ka_ladder *ladder, const ka_learned *other, uint32_t now_s);

void ka_learned_climb(ka_learned *of, const ka_ladder *ladder, uint32_t now_s); /* the ladder has changed */

static inline uint32_t ka_learned_theirs_ms(const ka_learned *of)
{
    return of->theirs_ms[0] > of->theirs_ms[1] ? of->theirs_ms[0] : of->theirs_ms[1];
}

static inline uint32_t ka_learned_ours_ms(const ka_learned *of)
{
    return of->ours_ms[0] > of->ours_ms[1] ? of->ours_ms[0] : of->ours_ms[1];
}

static inline int ka_learned_is_settled(const ka_learned *of)
{
    return (of->marks & KA_LEARNED_AGREED) >= KA_SETTLED_AFTER;
}

#endif
