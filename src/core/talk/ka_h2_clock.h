/* ka_h2_clock.h: whose time is up among the requests of HTTP/2: their deadlines, without a timer for each.
 *
 * The table has one place a connection, and one clock for it: IDLE, NEW, the drain. What runs for each request (the gap
 * and the rate of its content, the application's time, a response that the client does not take) is here, by the same
 * idea: a queue for each class and phase, in which everybody has the same limit, so that the head is due first. */
#ifndef KA_H2_CLOCK_H
#define KA_H2_CLOCK_H

#include "table/ka_table.h"

/* One who may be waited for: a stream, or a connection (a head that is not whole; output that it does not take). */
typedef struct ka_h2_wait {
    struct ka_h2_wait *next, *prev;
    int64_t since;
    uint32_t nbytes, spent_us; /* of its rate window */
    uint8_t phase;             /* KA_HEAD, KA_BODY, KA_BUSY, KA_WRITE; KA_FREE: nobody waits */
    uint8_t policy_class;
    uint8_t is_connection;
    uint8_t is_sending; /* the rate window is of WRITE */
} ka_h2_wait;

enum {
    KA_H2_WAITS = KA_WRITE - KA_HEAD + 1
};

/* Zeros at first. */
typedef struct {
    ka_h2_wait *first[KA_H2_WAITS][KA_N_CLASSES], *last[KA_H2_WAITS][KA_N_CLASSES];
    uint64_t classes[KA_H2_WAITS]; /* bit c: the queue of class c is not empty */
    uint32_t n;
} ka_h2_clock;

/* From now on it is waited for in this phase, KA_FREE: no longer. Nothing happens when it is in it already. O(1). */
void ka_h2_wait_in(ka_h2_clock *clock, ka_h2_wait *wait, ka_phase phase, int64_t now);

/* Bytes moved while it was waited for in BODY or WRITE: the gap begins anew, the rate is fed. KA_OK, or KA_ESLOW. */
int ka_h2_wait_progress(ka_h2_clock *clock, ka_h2_wait *wait, const ka_policy *policy, size_t nbytes, int64_t now);

/* The one that is due first, and when; NULL: nobody will be. O(queues that are not empty). */
ka_h2_wait *ka_h2_clock_next(const ka_h2_clock *clock, const ka_table *table, int64_t *due);

#endif
