/* ka_conn.c: the life of a connection. The transition table stands here, and nobody else changes a phase. */
#include "table/ka_conn.h"

#include <string.h>

#include "table/ka_table_parts.h"

#define ALONE static __attribute__((noinline)) /* kept out of its caller, whose usual path then saves no registers */

/* ---- the transition table ---- */

/* clang-format off */
#define ROW(event, from, to) [KA_EV_##event][KA_##from] = KA_##to
static const uint8_t next_phase[KA_N_EVENTS][KA_N_PHASES] = {
    /*  event           from       to: anything not listed is KA_EINVAL and changes nothing */
    ROW(HANDSHAKE_DONE, HANDSHAKE, NEW),
    ROW(RECEIVED,       NEW,       HEAD),
    ROW(RECEIVED,       IDLE,      HEAD),
    ROW(HEAD_DONE,      NEW,       BUSY),
    ROW(HEAD_DONE,      HEAD,      BUSY),
    ROW(HEAD_DONE,      IDLE,      BUSY),
    ROW(BODY_WANTED,    BUSY,      BODY),
    ROW(BODY_ARRIVED,   BODY,      BUSY),
    ROW(BLOCKED,        HEAD,      WRITE),
    ROW(BLOCKED,        BUSY,      WRITE),
    ROW(BLOCKED,        BODY,      WRITE),
    ROW(BLOCKED,        TUNNEL,    WRITE),
    ROW(UNBLOCKED,      WRITE,     BUSY),
    ROW(RESPONDED,      BUSY,      IDLE),
    ROW(RESPONDED,      BODY,      IDLE),
    ROW(RESPONDED,      WRITE,     IDLE),
    ROW(LINGERING,      HANDSHAKE, LINGER),
    ROW(LINGERING,      NEW,       LINGER),
    ROW(LINGERING,      HEAD,      LINGER),
    ROW(LINGERING,      BODY,      LINGER),
    ROW(LINGERING,      BUSY,      LINGER),
    ROW(LINGERING,      WRITE,     LINGER),
    ROW(LINGERING,      IDLE,      LINGER),
    ROW(LINGERING,      TUNNEL,    LINGER),
    ROW(TUNNELLED,      BUSY,      TUNNEL),
    ROW(TUNNELLED,      BODY,      TUNNEL),
    ROW(TUNNELLED,      WRITE,     TUNNEL),
    ROW(STREAM_OPENED,  NEW,       BUSY),
    ROW(STREAM_OPENED,  HEAD,      BUSY),
    ROW(STREAM_OPENED,  IDLE,      BUSY),
    ROW(STREAM_OPENED,  BUSY,      BUSY),
    ROW(STREAM_CLOSED,  BUSY,      IDLE),
};
/* clang-format on */

/* ---- moving between phases ---- */

/* Out of its queue, and out of its client's ring. `phase` is the slot's own, which the caller may know beforehand. */
static inline void leave(ka_table *t, ka_slot *slot, uint32_t i, unsigned phase)
{
    ka_queue_remove(&t->store, i);
    t->store.n_in[phase]--;
    if (phase == KA_IDLE && ka_slot_client(slot))
        ka_store_ring_remove(&t->store, ka_slot_client(slot), i);
}

static inline void enter(ka_table *t, ka_slot *slot, uint32_t i, unsigned phase, int64_t now)
{
    unsigned lane = phase == KA_IDLE ? idle_lane(t, slot) : phase;
    ka_slot_set(slot, now, phase);
    t->store.n_in[phase]++;
    if (ka_queue_push(&t->store, slot, i, lane))
        note_head(t, ka_slot_class(slot), lane, now);
    if (phase == KA_IDLE && ka_slot_client(slot))
        ka_store_ring_add(&t->store, ka_slot_client(slot), i);
}

static inline void set_class(ka_slot *slot, unsigned policy_class)
{
    slot->client_class = (slot->client_class & ~(uint32_t)(KA_N_CLASSES - 1)) | policy_class;
}

/* What a request's beginning means beside the move: the gap it ends, the class it starts under, its count. */
static inline void begin_request(ka_table *t, ka_chunk *chunk, uint32_t at, unsigned from, ka_event event, int64_t now)
{
    ka_slot *slot = &chunk->slot[at];
    if (from == KA_IDLE) {
        uint64_t gap_ms = (uint64_t)(now - ka_slot_since(slot)) / 1000000;
        t->counters->idle_gap[ka_bucket(gap_ms)]++;
        set_class(slot, chunk->mark[at].home);
    }
    chunk->mark[at].ending &= KA_IS_MULTIPLEXED | KA_RATE_IS_SENDING;
    if (event == KA_EV_RECEIVED)
        return;
    t->counters->requests++;
    uint32_t n = chunk->rest[at].requests;
    t->counters->reused += n != 0;
    chunk->rest[at].requests = n + (n != UINT32_MAX);
}

static inline void begin_linger(ka_chunk *chunk, uint32_t at, unsigned from, int64_t now)
{
    ka_extra *extra = &chunk->rest[at].extra;
    ka_mark *mark = &chunk->mark[at];
    extra->rate.spent = (uint32_t)((now + (1 << 20) - 1) >> 20);
    extra->rate.nbytes = 0;
    mark->ending = (uint8_t)((mark->ending & ~(unsigned)KA_WAS_IDLE) | (from == KA_IDLE ? KA_WAS_IDLE : 0));
}

/* The events of a connection that carries many requests at once, or is about to. */
ALONE int event_of_many(ka_table *t, ka_handle h, ka_event event, int64_t now)
{
    uint32_t i = (uint32_t)h, at = i & (KA_CHUNK - 1);
    ka_chunk *chunk = ka_store_chunk(&t->store, i);
    ka_slot *slot = &chunk->slot[at];
    ka_extra *extra = &chunk->rest[at].extra;
    unsigned from = ka_slot_phase(slot), to = next_phase[event][from];
    int streams = event == KA_EV_STREAM_OPENED || event == KA_EV_STREAM_CLOSED;
    int was_multiplexed = chunk->mark[at].ending & KA_IS_MULTIPLEXED;
    if (!streams && event != KA_EV_LINGERING)
        return KA_EINVAL;
    if (streams && !was_multiplexed && (event == KA_EV_STREAM_CLOSED || chunk->rest[at].requests))
        return KA_EINVAL;
    if (streams && from == KA_BUSY && extra->rate.nbytes == UINT32_MAX)
        return KA_EINVAL;
    now = clock_of(t, now);
    if (event == KA_EV_LINGERING && from == KA_IDLE)
        ka_table_idle_ended(t, slot, (ka_cause)(chunk->mark[at].ending & KA_ENDING_MASK));
    uint32_t n_streams = from == KA_BUSY && was_multiplexed ? extra->rate.nbytes : 0;
    leave(t, slot, i, from);
    if (event == KA_EV_STREAM_OPENED) {
        begin_request(t, chunk, at, from, event, now);
        chunk->mark[at].ending |= KA_IS_MULTIPLEXED;
        extra->rate.nbytes = n_streams + 1;
    } else if (event == KA_EV_STREAM_CLOSED) {
        extra->rate.nbytes = n_streams - 1;
        if (n_streams > 1)
            to = KA_BUSY;
    } else {
        begin_linger(chunk, at, KA_BUSY, now); /* a request that crosses our close is known by its stream */
    }
    enter(t, slot, i, to, now);
    return (int)to;
}

/* What the other events do, by the clock of the table. Inlined, so that what is known beforehand costs nothing. */
static inline __attribute__((always_inline)) int move(ka_table *t, uint32_t i, ka_event event, unsigned from)
{
    uint32_t at = i & (KA_CHUNK - 1);
    unsigned to = next_phase[event][from];
    ka_chunk *chunk = ka_store_chunk(&t->store, i);
    ka_slot *slot = &chunk->slot[at];
    int64_t now = t->store.now;
    if (event == KA_EV_LINGERING && from == KA_IDLE)
        ka_table_idle_ended(t, slot, (ka_cause)(chunk->mark[at].ending & KA_ENDING_MASK));
    leave(t, slot, i, from);
    if (event == KA_EV_RECEIVED || event == KA_EV_HEAD_DONE) {
        begin_request(t, chunk, at, from, event, now);
        chunk->rest[at].extra.rate.spent = chunk->rest[at].extra.rate.nbytes = 0;
    } else if (event == KA_EV_RESPONDED) {
        set_ending(&chunk->mark[at], KA_CAUSE_NONE);
    } else if (event == KA_EV_LINGERING) {
        begin_linger(chunk, at, from, now);
    }
    enter(t, slot, i, to, now);
    return (int)to;
}

/* The way of most requests, each step compiled for itself. */
ALONE int idle_received(ka_table *t, uint32_t i) { return move(t, i, KA_EV_RECEIVED, KA_IDLE); }
ALONE int idle_head_done(ka_table *t, uint32_t i) { return move(t, i, KA_EV_HEAD_DONE, KA_IDLE); }
ALONE int head_done(ka_table *t, uint32_t i) { return move(t, i, KA_EV_HEAD_DONE, KA_HEAD); }
ALONE int busy_responded(ka_table *t, uint32_t i) { return move(t, i, KA_EV_RESPONDED, KA_BUSY); }

ALONE int any_event(ka_table *t, uint32_t i, ka_event event, int64_t now)
{
    (void)clock_of(t, now);
    return move(t, i, event, ka_slot_phase(ka_store_slot(&t->store, i)));
}

/* Every call ends this one, so that the usual path saves no registers. */
int ka_conn_event(ka_table *t, ka_handle h, ka_event event, int64_t now)
{
    if (ka_unlikely(!ka_store_knows(&t->store, h)))
        return KA_ESTALE;
    if (ka_unlikely((unsigned)event >= KA_N_EVENTS))
        return KA_EINVAL;
    uint32_t i = (uint32_t)h, at = i & (KA_CHUNK - 1);
    const ka_chunk *chunk = ka_store_chunk(&t->store, i);
    unsigned from = ka_slot_phase(&chunk->slot[at]);
    if (ka_unlikely(next_phase[event][from] == KA_FREE))
        return KA_EINVAL;
    if (ka_unlikely(event >= KA_EV_STREAM_OPENED || chunk->mark[at].ending & KA_IS_MULTIPLEXED))
        return event_of_many(t, h, event, now);
    if (ka_likely(ka_store_clock_goes_on(&t->store, now))) {
        if (event == KA_EV_RECEIVED && from == KA_IDLE)
            return idle_received(t, i);
        if (event == KA_EV_HEAD_DONE && from == KA_IDLE)
            return idle_head_done(t, i);
        if (event == KA_EV_HEAD_DONE && from == KA_HEAD)
            return head_done(t, i);
        if (event == KA_EV_RESPONDED && from == KA_BUSY)
            return busy_responded(t, i);
    }
    return any_event(t, i, event, now);
}

/* ---- coming and going ---- */

/* The record of a network that wants one connection more: *record, 0 for nobody. KA_ECLIENT when it has enough. It is made
 * when there is none: KA_ENOMEM. */
static int client_of(ka_table *t, const ka_client *client, uint32_t *record)
{
    uint8_t masked[16];
    *record = 0;
    if (client == NULL || client->family == 0)
        return KA_OK;
    uint64_t id = ka_table_network(t, client, masked);
    *record = ka_store_client_find(&t->store, id);
    if (*record == 0) {
        if ((*record = ka_store_client_make(&t->store, id, masked, client->is_proxy)) == 0)
            return KA_ENOMEM;
    } else if (t->capacity.max_per_client && !client->is_proxy &&
               ka_store_client(&t->store, *record)->n_open >= t->capacity.max_per_client) {
        return KA_ECLIENT;
    }
    return KA_OK;
}

int ka_conn_set_client(ka_table *t, ka_handle h, const ka_client *client)
{
    ka_store *s = &t->store;
    uint32_t i = ka_store_find(s, h), c;
    if (i == 0)
        return KA_ESTALE;
    ka_slot *slot = ka_store_slot(s, i);
    if (ka_slot_client(slot) || ka_slot_phase(slot) == KA_IDLE || (client->family != 4 && client->family != 6))
        return KA_EINVAL;
    int got = client_of(t, client, &c);
    if (got < 0)
        return got;
    slot->client_class |= c << KA_CLASS_BITS;
    ka_store_client_leave(s, 0, 0);
    ka_store_client_join(s, c);
    return KA_OK;
}

int ka_conn_open(ka_table *t, int64_t now, unsigned policy_class, const ka_client *client, int is_tls, ka_handle *out)
{
    ka_store *s = &t->store;
    int is_known = client != NULL && client->family != 0;
    if (policy_class >= KA_N_CLASSES || (is_known && client->family != 4 && client->family != 6))
        return KA_EINVAL;
    if (ka_table_is_full(t))
        return KA_EFULL;
    uint32_t c, i = ka_store_take(s);
    if (i == 0)
        return KA_ENOMEM;
    int got = client_of(t, client, &c);
    if (got < 0) {
        ka_store_give(s, i);
        return got;
    }
    now = clock_of(t, now);
    ka_slot *slot = ka_store_slot(s, i);
    ka_chunk *chunk = ka_store_chunk(s, i);
    uint32_t at = i & (KA_CHUNK - 1);
    slot->client_class = c << KA_CLASS_BITS | policy_class;
    chunk->rest[at].requests = 0;
    chunk->rest[at].opened = (uint32_t)((now + (1 << 24) - 1) >> 24);
    chunk->mark[at].home = (uint8_t)policy_class;
    chunk->mark[at].ending = 0;
    chunk->rest[at].extra.rate.spent = chunk->rest[at].extra.rate.nbytes = 0;
    ka_store_client_join(s, c);
    s->n_open++;
    t->counters->accepted++;
    if (s->n_open > t->start_n)
        ka_table_update_pressure(t);
    enter(t, slot, i, is_tls ? KA_HANDSHAKE : KA_NEW, now);
    *out = ka_store_handle(s, i);
    return KA_OK;
}

/* Whether a network without connections is worth its record: something is done differently for it, or people ask. */
static int is_worth_remembering(const ka_learned *learned)
{
    return learned->rung || (learned->marks & KA_LEARNED_IS_PROXY && (learned->n_theirs || learned->n_ours));
}

int ka_conn_close(ka_table *t, ka_handle h, ka_cause cause, int64_t now)
{
    ka_store *s = &t->store;
    uint32_t i = ka_store_find(s, h);
    if (i == 0)
        return KA_ESTALE;
    if (!ka_is_cause(cause))
        return KA_EINVAL;
    ka_slot *slot = ka_store_slot(s, i);
    uint32_t client = ka_slot_client(slot);
    (void)clock_of(t, now);
    if (ka_slot_phase(slot) == KA_IDLE)
        ka_table_idle_ended(t, slot, cause);
    leave(t, slot, i, ka_slot_phase(slot));
    ka_store_client_leave(s, client, is_worth_remembering(&ka_store_client(s, client)->learned));
    t->counters->closed[cause]++;
    t->counters->requests_per_connection[ka_bucket(*ka_store_requests(s, i))]++;
    ka_store_give(s, i);
    s->n_open--;
    if (t->relief < 1.0)
        ka_table_update_pressure(t);
    return KA_OK;
}

int ka_conn_will_end(ka_table *t, ka_handle h, ka_cause cause)
{
    uint32_t i = ka_store_find(&t->store, h);
    if (i == 0)
        return KA_ESTALE;
    if (!ka_is_cause(cause))
        return KA_EINVAL;
    set_ending(ka_store_mark(&t->store, i), cause);
    return KA_OK;
}

ka_cause ka_conn_ending(const ka_table *t, ka_handle h)
{
    uint32_t i = ka_store_find(&t->store, h);
    return i ? (ka_cause)(ka_store_mark(&t->store, i)->ending & KA_ENDING_MASK) : KA_CAUSE_NONE;
}

/* ---- while it lasts ---- */

/* Idle: its network may have another timeout by now, and the lane it is in is nowhere written. */
ALONE int restart_idle(ka_table *t, uint32_t i)
{
    ka_slot *slot = ka_store_slot(&t->store, i);
    unsigned lane = idle_lane(t, slot);
    ka_queue_remove(&t->store, i);
    if (ka_queue_push(&t->store, slot, i, lane))
        note_head(t, ka_slot_class(slot), lane, t->store.now);
    return ka_slot_client(slot) ? ka_store_ring_renew(&t->store, ka_slot_client(slot), i) : KA_OK;
}

/* Start the clock of its phase again: the table's time now. What is written first frees registers for the rest. */
static inline int restart(ka_table *t, ka_slot *slot, uint32_t i)
{
    unsigned phase = ka_slot_phase(slot);
    uint32_t anchor = ka_queue_anchor(phase, ka_slot_class(slot));
    ka_slot_set(slot, t->store.now, phase);
    if (phase == KA_IDLE)
        return restart_idle(t, i);
    ka_queue_renew(&t->store, anchor, i);
    return KA_OK;
}

ALONE int touch_slowly(ka_table *t, uint32_t i, int64_t now)
{
    (void)clock_of(t, now);
    return restart(t, ka_store_slot(&t->store, i), i);
}

/* Every call ends this one, so that the usual path saves no registers. */
int ka_conn_touch(ka_table *t, ka_handle h, int64_t now)
{
    uint32_t i = (uint32_t)h;
    if (ka_unlikely(!ka_store_knows(&t->store, h)))
        return KA_ESTALE;
    if (ka_unlikely(!ka_store_clock_goes_on(&t->store, now)))
        return touch_slowly(t, i, now);
    return restart(t, ka_store_slot(&t->store, i), i);
}

static inline uint32_t add_saturating(uint32_t a, uint64_t b)
{
    return b > UINT32_MAX - a ? UINT32_MAX : a + (uint32_t)b;
}

/* Feed the rate window with what moved and the time it took. slow_rate: below it the window is remembered as a slow one.
 * Return: whether the rate is kept. */
static int feed_rate(const ka_policy *policy, ka_extra *extra, ka_mark *mark, uint32_t rate, uint32_t slow_rate,
                     size_t nbytes, int64_t waited)
{
    extra->rate.nbytes = add_saturating(extra->rate.nbytes, nbytes);
    extra->rate.spent = add_saturating(extra->rate.spent, (uint64_t)waited / 1000);
    uint64_t spent = (uint64_t)extra->rate.spent * 1000;
    if (spent < (uint64_t)policy->rate_window_ns)
        return 1;
    /* The bytes that end the wait count, and so does the whole wait: it is the mean rate that must be kept. */
    mark->ending &= (uint8_t)~KA_WAS_SLOW;
    if (is_below(extra->rate.nbytes, slow_rate, spent))
        mark->ending |= KA_WAS_SLOW;
    if (is_below(extra->rate.nbytes, rate, spent))
        return 0;
    extra->rate.nbytes = extra->rate.spent = 0;
    return 1;
}

/* More has been thrown away than that, or for longer: bytes restart the gap, so that alone would never end. */
static int lingers_too_long(const ka_policy *policy, ka_extra *extra, size_t nbytes, int64_t now)
{
    /* Modulo 2^32 of 2^20 ns: 52 days. The start was rounded up, so it can lie just after `now`. */
    uint32_t ticks = (uint32_t)(now >> 20) - extra->rate.spent;
    int64_t lasted = ticks == UINT32_MAX ? 0 : (int64_t)ticks << 20;
    extra->rate.nbytes = add_saturating(extra->rate.nbytes, nbytes);
    return (policy->linger_bytes && extra->rate.nbytes > policy->linger_bytes) ||
           (policy->linger_time_ns && lasted >= policy->linger_time_ns);
}

int ka_conn_progress(ka_table *t, ka_handle h, size_t nbytes, int64_t now, ka_cause *cause)
{
    uint32_t i = ka_store_find(&t->store, h);
    if (i == 0)
        return KA_ESTALE;
    now = clock_of(t, now);
    ka_slot *slot = ka_store_slot(&t->store, i);
    ka_extra *extra = ka_store_extra(&t->store, i);
    const ka_policy *policy = &t->policy[ka_slot_class(slot)];
    unsigned phase = ka_slot_phase(slot);
    int is_kept = 1;
    if (phase == KA_BODY || phase == KA_WRITE) {
        ka_mark *mark = ka_store_mark(&t->store, i);
        int was_sending = (mark->ending & KA_RATE_IS_SENDING) != 0;
        if (was_sending != (phase == KA_WRITE)) {
            extra->rate.spent = extra->rate.nbytes = 0;
            mark->ending = (uint8_t)((mark->ending ^ KA_RATE_IS_SENDING) & ~KA_WAS_SLOW);
        }
        *cause = phase == KA_BODY ? KA_CAUSE_BODY_RATE : KA_CAUSE_SEND_RATE;
        is_kept = feed_rate(policy, extra, mark, phase == KA_BODY ? policy->min_body_rate : policy->min_send_rate,
                            t->capacity.min_rate_when_full, nbytes, now - ka_slot_since(slot));
        (void)restart(t, slot, i);
    } else if (phase == KA_LINGER) {
        is_kept = !lingers_too_long(policy, extra, nbytes, now);
        (void)restart(t, slot, i);
        *cause = linger_cause(ka_store_mark(&t->store, i)->ending);
    }
    if (is_kept)
        return KA_OK;
    if (phase != KA_LINGER)
        set_ending(ka_store_mark(&t->store, i), *cause);
    return KA_ESLOW;
}

int ka_conn_crossed(ka_table *t, ka_handle h)
{
    uint32_t i = ka_store_find(&t->store, h);
    uint8_t *ending = i ? &ka_store_mark(&t->store, i)->ending : NULL;
    if (i == 0 || ka_slot_phase(ka_store_slot(&t->store, i)) != KA_LINGER || !(*ending & KA_WAS_IDLE))
        return 0;
    *ending &= (uint8_t)~KA_WAS_IDLE; /* once a connection */
    t->counters->races++;
    ka_table_raced(t, ka_store_slot(&t->store, i));
    return 1;
}

int ka_conn_set_class(ka_table *t, ka_handle h, unsigned policy_class)
{
    ka_store *s = &t->store;
    uint32_t i = ka_store_find(s, h);
    if (i == 0)
        return KA_ESTALE;
    if (policy_class >= KA_N_CLASSES)
        return KA_EINVAL;
    ka_slot *slot = ka_store_slot(s, i);
    if (ka_slot_class(slot) == policy_class)
        return KA_OK;
    unsigned phase = ka_slot_phase(slot);
    ka_queue_remove(s, i);
    set_class(slot, policy_class);
    unsigned lane = phase == KA_IDLE ? idle_lane(t, slot) : phase;
    uint32_t after = ka_queue_anchor(lane, policy_class), before = ka_store_link(s, after)->prev;
    while (before >= KA_N_ANCHORS && ka_slot_since(ka_store_slot(s, before)) > ka_slot_since(slot)) {
        after = before;
        before = ka_store_link(s, before)->prev;
    }
    ka_link_between(s, i, before, after);
    ka_queue_note(s, lane, policy_class);
    if (before < KA_N_ANCHORS)
        note_head(t, policy_class, lane, ka_slot_since(slot));
    return KA_OK;
}

int ka_conn_phase(const ka_table *t, ka_handle h)
{
    uint32_t i = ka_store_find(&t->store, h);
    return i ? (int)ka_slot_phase(ka_store_slot(&t->store, i)) : KA_ESTALE;
}
const ka_policy *ka_conn_policy(const ka_table *t, ka_handle h)
{
    uint32_t i = ka_store_find(&t->store, h);
    return i ? &t->policy[ka_slot_class(ka_store_slot(&t->store, i))] : NULL;
}

int ka_conn_class(const ka_table *t, ka_handle h)
{
    uint32_t i = ka_store_find(&t->store, h);
    return i ? (int)ka_slot_class(ka_store_slot(&t->store, i)) : KA_ESTALE;
}

uint32_t ka_conn_requests(const ka_table *t, ka_handle h)
{
    uint32_t i = ka_store_find(&t->store, h);
    return i ? *ka_store_requests(&t->store, i) : 0;
}

/* ---- kept or not ---- */

/* Its age limit: max_age_ns plus or minus the jitter, the same whenever it is asked. */
ALONE int64_t age_limit(const ka_table *t, unsigned policy_class, ka_handle h)
{
    uint64_t draw = ka_store_mix(h ^ t->jitter_seed) >> 33; /* 31 bits */
    int64_t span = t->age_span[policy_class];
    return t->policy[policy_class].max_age_ns - span + (int64_t)((__int128)span * (int64_t)draw >> 30);
}

static int is_over_age(const ka_table *t, unsigned policy_class, ka_handle h, uint32_t opened, int64_t now)
{
    /* Modulo 2^32 of 2^24 ns: 2.3 years. The start was rounded up, so it can lie just after `now`. */
    uint32_t ticks = (uint32_t)(now >> 24) - opened;
    int64_t age = ticks == UINT32_MAX ? 0 : ((int64_t)ticks << 24) + (now & ((1 << 24) - 1));
    if (ka_likely(age < t->surely_young[policy_class]))
        return 0;
    return age >= age_limit(t, policy_class, h);
}

static ka_cause why_not_kept(const ka_table *t, unsigned policy_class, ka_handle h, const ka_rest *rest,
                             int client_persists)
{
    const ka_policy *policy = &t->policy[policy_class];
    if (!client_persists)
        return KA_CAUSE_CLIENT;
    if (!policy->keep_alive)
        return KA_CAUSE_POLICY;
    if (t->is_draining)
        return KA_CAUSE_DRAIN;
    if (policy->max_requests && rest->requests >= policy->max_requests)
        return KA_CAUSE_MAX_REQUESTS;
    return is_over_age(t, policy_class, h, rest->opened, t->store.now) ? KA_CAUSE_MAX_AGE : KA_CAUSE_NONE;
}

/* The Keep-Alive field, for a connection that is kept. The promise is shorter than the truth by the margin, so that a
 * client that obeys never meets our close; a promise under a second is not worth making. */
static inline void advertise(const ka_table *t, const ka_slot *slot, uint32_t requests, ka_verdict *out)
{
    const ka_policy *policy = &t->policy[ka_slot_class(slot)];
    int64_t limit = policy->timeout_ns[KA_IDLE];
    if (limit == KA_AUTO) /* what will hold, also when there is less room than now */
        limit = t->ladder.ns[ka_lane_rung(idle_lane(t, slot))];
    int64_t promise = (limit - policy->advertise_margin_ns) / SECOND;
    if (limit && promise <= 0)
        return;
    if (limit)
        out->timeout_s = promise < UINT32_MAX ? (uint32_t)promise : UINT32_MAX;
    if (policy->max_requests)
        out->max = policy->max_requests - requests;
    if (out->timeout_s || out->max)
        out->sends_keep_alive = 1;
}

int ka_conn_decide(ka_table *t, ka_handle h, unsigned minor, int client_persists, ka_cause must_close, int64_t now,
                   ka_verdict *out)
{
    const unsigned in_request = 1u << KA_HEAD | 1u << KA_BODY | 1u << KA_BUSY | 1u << KA_WRITE;
    if (ka_unlikely(!ka_store_knows(&t->store, h)))
        return KA_ESTALE;
    uint32_t at = (uint32_t)h & (KA_CHUNK - 1);
    ka_chunk *chunk = ka_store_chunk(&t->store, (uint32_t)h);
    const ka_slot *slot = &chunk->slot[at];
    unsigned policy_class = ka_slot_class(slot);
    if (!(in_request >> ka_slot_phase(slot) & 1) || ka_unlikely((unsigned)must_close >= KA_N_CAUSES))
        return KA_EINVAL;
    (void)clock_of(t, now);
    const ka_rest *rest = &chunk->rest[at];
    ka_cause cause = must_close;
    if (cause == KA_CAUSE_NONE)
        cause = why_not_kept(t, policy_class, h, rest, client_persists);
    *out = (ka_verdict){.keeps = cause == KA_CAUSE_NONE, .cause = (uint8_t)cause};
    set_ending(&chunk->mark[at], cause);
    if (chunk->mark[at].ending & KA_IS_MULTIPLEXED)
        return KA_OK; /* RFC 9113 8.2.2: such fields are malformed there */
    if (cause != KA_CAUSE_NONE) {
        out->sends_close = 1;
        return KA_OK;
    }
    if (minor == 0)
        out->sends_keep_alive = 1; /* RFC 9112 9.3: 1.0 persists only when told so */
    if (t->policy[policy_class].advertise)
        advertise(t, slot, rest->requests, out);
    return KA_OK;
}
