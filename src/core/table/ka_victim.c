/* ka_victim.c: who goes first when room is needed. The order stands in docs/table.md.
 *
 * Nothing is kept for it but what the phases, the queues and the rate windows know anyhow: a victim is found at the heads
 * of queues. Only who is slow must be looked for, among a bounded number. */
#include "table/ka_table_parts.h"

enum {
    LOOKS = 16
}; /* at connections in BODY, and in WRITE: from the front, and as many further on */

/* Who came, or began a head, within this time goes last: its bytes are on their way. Else those who fill a server and
 * come back whenever they are closed would each time push out whoever has only just got in. */
#define JUST_COME SECOND

static void oldest_in_lane(const ka_table *t, unsigned lane, uint32_t *best)
{
    const ka_store *s = &t->store;
    for (uint64_t classes = s->classes_in[lane]; classes; classes &= classes - 1) {
        uint32_t i = ka_queue_head(s, lane, (unsigned)__builtin_ctzll(classes));
        if (*best == 0 || ka_slot_since(ka_store_slot(s, i)) < ka_slot_since(ka_store_slot(s, *best)))
            *best = i;
    }
}

/* The longest in a phase: the smallest start among the heads of its queues. A network for which idle connections are kept
 * for longer has no privilege. */
static uint32_t oldest_in(const ka_table *t, unsigned phase)
{
    uint32_t best = 0, rungs = phase == KA_IDLE ? t->store.lanes >> KA_N_PHASES : 0;
    oldest_in_lane(t, phase, &best);
    for (; rungs; rungs &= rungs - 1)
        oldest_in_lane(t, (unsigned)KA_N_PHASES + (unsigned)__builtin_ctz(rungs), &best);
    return best;
}

ka_handle ka_table_oldest(const ka_table *t, ka_phase phase)
{
    if ((unsigned)phase >= KA_N_PHASES || phase == KA_FREE)
        return 0;
    return ka_store_handle(&t->store, oldest_in(t, phase));
}

static uint32_t older_of(const ka_store *s, uint32_t a, uint32_t b)
{
    if (a == 0 || b == 0)
        return a ? a : b;
    return ka_slot_since(ka_store_slot(s, b)) < ka_slot_since(ka_store_slot(s, a)) ? b : a;
}

/* The one after `i` in the queues of BODY or of WRITE, class by class; 0 = the end. i = 0: the first. */
static uint32_t next_in(const ka_store *s, unsigned phase, uint32_t i)
{
    uint64_t classes = s->classes_in[phase];
    if (i) {
        uint32_t next = ka_store_link(s, i)->next;
        if (next >= KA_N_ANCHORS)
            return next;
        unsigned policy_class = ka_slot_class(ka_store_slot(s, i));
        classes &= policy_class + 1 < KA_N_CLASSES ? UINT64_MAX << (policy_class + 1) : 0;
    }
    return classes ? ka_queue_head(s, phase, (unsigned)__builtin_ctzll(classes)) : 0;
}

/* Does it move fewer bytes than min_rate_when_full? A whole window without a byte says so. Else the window it is in, if
 * that has lasted long enough for a verdict; until then it and the one before, both. */
static int is_slow(const ka_table *t, uint32_t i, int64_t now)
{
    const ka_slot *slot = ka_store_slot(&t->store, i);
    const ka_extra *extra = ka_store_extra(&t->store, i);
    unsigned ending = ka_store_mark(&t->store, i)->ending;
    int64_t window = t->policy[ka_slot_class(slot)].rate_window_ns, waited = now - ka_slot_since(slot);
    uint64_t spent = (uint64_t)waited;
    uint32_t nbytes = 0;
    /* Until bytes move, its window may still be that of the other direction. */
    int is_its_own = ((ending & KA_RATE_IS_SENDING) != 0) == (ka_slot_phase(slot) == KA_WRITE);
    if (waited >= window)
        return 1;
    if (is_its_own) {
        spent += (uint64_t)extra->rate.spent * 1000;
        nbytes = extra->rate.nbytes;
    }
    if (spent < (uint64_t)window && !(is_its_own && ending & KA_WAS_SLOW))
        return 0;
    return nbytes == 0 || is_below(nbytes, t->capacity.min_rate_when_full, spent);
}

/* Among LOOKS from `i` on the first slow one; before it one whose client has more than its share. 0: none of them, and
 * *at is where they end. */
static uint32_t slow_among(const ka_table *t, unsigned phase, uint32_t i, int64_t now, uint32_t *at)
{
    const ka_store *s = &t->store;
    uint32_t found = 0;
    for (int n = 0; i && n < LOOKS; n++, i = next_in(s, phase, i)) {
        if (!is_slow(t, i, now))
            continue;
        uint32_t client = ka_slot_client(ka_store_slot(s, i));
        const ka_client_record *record = ka_store_client(s, client);
        if (client && record->n_open > s->share && !(record->learned.marks & KA_LEARNED_IS_PROXY))
            return i;
        if (found == 0)
            found = i;
    }
    *at = i;
    return found;
}

/* A slow one in BODY or WRITE: from the front, where those stand that have waited longest for a byte; and from where the
 * last look ended without finding any, or good clients at the front would hide those who trickle behind them. */
static uint32_t slow_in(ka_table *t, unsigned phase, int64_t now)
{
    const ka_store *s = &t->store;
    uint32_t *looked_at = &t->looked_at[phase == KA_WRITE], at, none;
    uint32_t found = slow_among(t, phase, next_in(s, phase, 0), now, &at);
    if (found)
        return found;
    if (*looked_at == 0 || ka_slot_phase(ka_store_slot(s, *looked_at)) != phase)
        *looked_at = at;
    found = slow_among(t, phase, *looked_at, now, &none);
    if (found == 0)
        *looked_at = none; /* else it stays, so that the same one is named until it is closed or moves */
    return found;
}

/* `i`, if it has been in its phase for at least so long; else 0. */
static uint32_t if_since(const ka_store *s, uint32_t i, int64_t now, int64_t at_least)
{
    return i && now - ka_slot_since(ka_store_slot(s, i)) >= at_least ? i : 0;
}

static uint32_t victim_among(ka_table *t, int64_t now)
{
    const ka_store *s = &t->store;
    uint32_t i = oldest_in(t, KA_LINGER), idle, young, head;
    if (i)
        return i;
    if (s->over.head)
        return ka_store_extra(s, ka_store_client(s, s->over.head)->idle_tail)->ring.next;
    idle = oldest_in(t, KA_IDLE);
    young = older_of(s, oldest_in(t, KA_NEW), oldest_in(t, KA_HANDSHAKE));
    if ((i = if_since(s, idle, now, t->capacity.min_idle_before_evict_ns)))
        return i;
    if ((i = if_since(s, young, now, JUST_COME)))
        return i;
    if (idle)
        return idle; /* the minimum is a preference, not a veto */
    head = oldest_in(t, KA_HEAD);
    if ((i = if_since(s, head, now, JUST_COME)))
        return i;
    if (t->capacity.min_rate_when_full) {
        if ((i = slow_in(t, KA_BODY, now)))
            return i;
        if ((i = slow_in(t, KA_WRITE, now)))
            return i; /* it has cost more than a request that is not whole */
    }
    return young ? young : head;
}

ka_handle ka_table_victim(ka_table *t, int64_t now)
{
    now = clock_of(t, now);
    return ka_store_handle(&t->store, victim_among(t, now));
}
