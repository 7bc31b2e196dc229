/* ka_table.c: see ka_table.h. In order: time and pressure, policy, capacity and counts, whose time is up, the drain, the check.
 *
 * Times inside are table time: nanoseconds since the table's first `now` (ka_store_clock). A slot stores when it
 * entered its phase, never when that ends, so a limit can change for a million connections by changing one number.
 * `due` is a lower bound of the earliest deadline: before it nothing else is looked at. It stays a bound because a
 * queue's members only come after its head; what can move a deadline earlier (a new head, a policy, pressure, drain)
 * lowers or resets it. */
#include "table/ka_table_parts.h"

#include <stdlib.h>

const ka_policy ka_policy_default = {
    .timeout_ns = {[KA_HANDSHAKE] = 20 * SECOND,
                   [KA_NEW] = 30 * SECOND,
                   [KA_HEAD] = 20 * SECOND,
                   [KA_BODY] = 30 * SECOND,
                   [KA_WRITE] = 60 * SECOND,
                   [KA_IDLE] = KA_AUTO,
                   [KA_LINGER] = 2 * SECOND},
    .rate_window_ns = 5 * SECOND,
    .min_body_rate = 240,
    .min_send_rate = 240,
    .max_age_ns = 3600 * SECOND,
    .age_jitter_permille = 100,
    .linger_time_ns = 30 * SECOND,
    .advertise_margin_ns = SECOND,
    .max_body_bytes = INT64_MAX,
    .keep_alive = 1,
    .advertise = 1,
};

const ka_capacity ka_capacity_default = {
    .max_connections = 10000,
    .prefix_v4 = 32,
    .prefix_v6 = 64,
    .keep_alive_min_ns = 75 * SECOND,
    .keep_alive_max_ns = 3900 * SECOND,
    .pressure_start = 0.85,
    .pressure_full = 0.95,
    .min_rate_when_full = 4096,
};

/* ---- time and pressure ---- */

int64_t ka_table_clock(ka_table *t, int64_t now)
{
    now = ka_store_clock(&t->store, now);
    if (t->is_draining && t->ramp_from == 0 && now >= t->grace_end) {
        uint32_t n_idle = t->store.n_in[KA_IDLE];
        t->ramp_from = n_idle ? n_idle : 1;
        t->store.clock_end = (uint64_t)1 << KA_CLOCK_BITS;
    }
    return now;
}

/* What a network has shown is what it is given in any case; while there is room, up to the maximum. */
int64_t ka_table_idle_limit(const ka_table *t, unsigned policy_class, unsigned rung)
{
    int64_t limit = t->policy[policy_class].timeout_ns[KA_IDLE];
    if (limit != KA_AUTO)
        return limit;
    limit = t->ladder.ns[rung];
    return limit + (int64_t)((double)(t->capacity.keep_alive_max_ns - limit) * t->relief);
}

void ka_table_update_pressure(ka_table *t)
{
    double n = t->store.n_open, relief = 1.0;
    if (n > t->start_n)
        relief = n < t->full_n ? (t->full_n - n) / (t->full_n - t->start_n) : 0.0;
    if (relief < t->relief)
        t->due = UNKNOWN;
    if (relief > t->relief)
        t->store.head_left = 1; /* the bound is still one, but no longer the truth */
    t->relief = relief;
}

/* ---- policy, capacity, counts ---- */

static int capacity_is_valid(const ka_capacity *c)
{
    return c->max_connections >= 1 && c->max_connections <= KA_MAX_CONNECTIONS && c->prefix_v4 <= 32 &&
           c->prefix_v6 <= 128 && c->keep_alive_min_ns > 0 && c->keep_alive_min_ns <= c->keep_alive_max_ns &&
           c->keep_alive_max_ns <= LONGEST && c->min_idle_before_evict_ns >= 0 && c->pressure_start >= 0 &&
           c->pressure_start <= c->pressure_full && c->pressure_full <= 1e9;
}

const ka_policy *ka_table_policy(const ka_table *t, unsigned policy_class) { return &t->policy[policy_class]; }

int ka_table_set_capacity(ka_table *t, const ka_capacity *capacity)
{
    if (!capacity_is_valid(capacity))
        return KA_EINVAL;
    int is_other_ladder = capacity->keep_alive_min_ns != t->capacity.keep_alive_min_ns ||
                          capacity->keep_alive_max_ns != t->capacity.keep_alive_max_ns;
    t->capacity = *capacity;
    if (is_other_ladder) {
        ka_ladder_set(&t->ladder, capacity->keep_alive_min_ns, capacity->keep_alive_max_ns);
        ka_table_climb(t);
    }
    ka_store_set_remembered(&t->store, capacity->max_connections);
    uint32_t quarter = capacity->max_connections / 4;
    uint32_t share = capacity->client_share ? capacity->client_share : quarter ? quarter : 1;
    ka_store_set_share(&t->store, share < KA_MAX_CONNECTIONS ? share : KA_MAX_CONNECTIONS);
    t->start_n = capacity->pressure_start * capacity->max_connections;
    t->full_n = capacity->pressure_full * capacity->max_connections;
    ka_table_update_pressure(t);
    t->due = UNKNOWN;
    return KA_OK;
}

const ka_capacity *ka_table_capacity(const ka_table *t) { return &t->capacity; }

int ka_table_set_policy(ka_table *t, unsigned policy_class, const ka_policy *policy)
{
    if (policy_class >= KA_N_CLASSES || policy->max_age_ns < 0 || policy->rate_window_ns < 0 ||
        policy->advertise_margin_ns < 0 || policy->linger_time_ns < 0 || policy->age_jitter_permille > 1000)
        return KA_EINVAL;
    for (unsigned phase = 0; phase < KA_N_PHASES; phase++)
        if (policy->timeout_ns[phase] < 0 && !(phase == KA_IDLE && policy->timeout_ns[phase] == KA_AUTO))
            return KA_EINVAL;
    ka_policy *own = &t->policy[policy_class];
    *own = *policy;
    for (unsigned phase = 0; phase < KA_N_PHASES; phase++)
        if (own->timeout_ns[phase] > LONGEST)
            own->timeout_ns[phase] = LONGEST;
    own->timeout_ns[KA_FREE] = own->timeout_ns[KA_TUNNEL] = 0; /* a tunnel's time is its owner's */
    if (own->linger_time_ns && own->linger_time_ns < own->timeout_ns[KA_LINGER])
        own->timeout_ns[KA_LINGER] = own->linger_time_ns;
    if (own->max_age_ns > LONGEST)
        own->max_age_ns = LONGEST;
    t->age_span[policy_class] = (int64_t)((__int128)own->max_age_ns * own->age_jitter_permille / 1000);
    t->surely_young[policy_class] = own->max_age_ns ? own->max_age_ns - t->age_span[policy_class] : NEVER;
    t->due = UNKNOWN;
    return KA_OK;
}

int ka_table_new(ka_table **out, const ka_capacity *capacity, uint64_t hash_seed, ka_counters *counters)
{
    if (!capacity_is_valid(capacity))
        return KA_EINVAL;
    ka_table *t = calloc(1, sizeof *t);
    if (t == NULL)
        return KA_ENOMEM;
    if (ka_store_init(&t->store, hash_seed) != KA_OK) {
        ka_table_free(t);
        return KA_ENOMEM;
    }
    t->counters = counters;
    t->jitter_seed = ka_store_mix(hash_seed + 1);
    t->relief = 1.0;
    for (unsigned policy_class = 0; policy_class < KA_N_CLASSES; policy_class++)
        ka_table_set_policy(t, policy_class, &ka_policy_default);
    ka_table_set_capacity(t, capacity);
    *out = t;
    return KA_OK;
}

void ka_table_free(ka_table *t)
{
    if (t == NULL)
        return;
    ka_store_free(&t->store);
    free(t);
}

ka_counters *ka_table_counters(const ka_table *t) { return t->counters; }

ka_handle ka_table_handle(const ka_table *t, uint32_t slot)
{
    const ka_store *s = &t->store;
    if (slot < KA_N_ANCHORS || slot >= s->n_used || ka_slot_phase(ka_store_slot(s, slot)) == KA_FREE)
        return 0;
    return ka_store_handle(s, slot);
}

uint32_t ka_table_slots(const ka_table *t) { return t->store.n_used; }

uint32_t ka_table_open_count(const ka_table *t) { return t->store.n_open; }
int ka_table_is_drained(const ka_table *t) { return t->store.n_open == t->store.n_in[KA_LINGER]; }
int ka_table_is_full(const ka_table *t) { return t->store.n_open >= t->capacity.max_connections; }
size_t ka_table_bytes(const ka_table *t) { return sizeof *t + ka_store_bytes(&t->store); }

uint32_t ka_table_phase_count(const ka_table *t, ka_phase phase)
{
    return (unsigned)phase < KA_N_PHASES && phase != KA_FREE ? t->store.n_in[phase] : 0;
}

void ka_table_refused(ka_table *t, ka_cause cause)
{
    if (!ka_is_cause(cause))
        return;
    t->counters->accepted++;
    t->counters->closed[cause]++;
    t->counters->requests_per_connection[0]++;
}

/* ---- whose time is up ---- */

/* What happens in a phase when its limit is over. */
static const struct {
    uint8_t action, cause;
} at_limit[KA_N_PHASES] = {
    [KA_HANDSHAKE] = {KA_DO_CLOSE, KA_CAUSE_HANDSHAKE_TIMEOUT},
    [KA_NEW] = {KA_DO_CLOSE, KA_CAUSE_FIRST_BYTE_TIMEOUT},
    [KA_HEAD] = {KA_DO_ANSWER_408, KA_CAUSE_HEADER_TIMEOUT},
    [KA_BODY] = {KA_DO_ANSWER_408, KA_CAUSE_BODY_TIMEOUT},
    [KA_BUSY] = {KA_DO_ANSWER_503, KA_CAUSE_HANDLER_TIMEOUT},
    [KA_WRITE] = {KA_DO_CLOSE, KA_CAUSE_SEND_TIMEOUT},
    [KA_IDLE] = {KA_DO_HALF_CLOSE, KA_CAUSE_IDLE_TIMEOUT},
    [KA_LINGER] = {KA_DO_CLOSE, KA_CAUSE_ERROR}, /* unless it is known what it lingers for */
    [KA_TUNNEL] = {KA_DO_CLOSE, KA_CAUSE_UPGRADED},
};

/* When the drain ends a phase. Of n idle ones left the next goes when as many of the spread's share are gone. Who is
 * let in so late that it has no more time to ask than that has a grace of its own. */
static int64_t drain_due(const ka_table *t, unsigned phase, int64_t since)
{
    int64_t due = t->deadline;
    if (phase == KA_IDLE) {
        int64_t ramp = t->grace_end;
        uint32_t n = t->store.n_in[KA_IDLE];
        if (n < t->ramp_from)
            ramp += (int64_t)((__int128)t->spread * (t->ramp_from - n) / t->ramp_from);
        if (ramp < due)
            due = ramp;
    } else if (phase == KA_NEW) {
        int64_t end = t->grace_end + t->spread, own_end = since + t->grace;
        if (own_end > end)
            end = own_end;
        if (end < due)
            due = end;
    }
    return due;
}

static int64_t head_due(const ka_table *t, unsigned policy_class, unsigned lane, int64_t since)
{
    int64_t limit = limit_of(t, policy_class, lane);
    int64_t due = limit ? since + limit : NEVER;
    if (t->is_draining) {
        int64_t drained = drain_due(t, ka_lane_phase(lane), since);
        if (drained < due)
            due = drained;
    }
    return due;
}

/* The earliest deadline of all, and whose it is: among equals the longest in its phase. O(queues in use). */
static int64_t earliest(ka_table *t, uint32_t *which)
{
    const ka_store *s = &t->store;
    int64_t best = NEVER, best_since = NEVER;
    *which = 0;
    for (uint32_t lanes = s->lanes; lanes; lanes &= lanes - 1) {
        unsigned lane = (unsigned)__builtin_ctz(lanes);
        for (uint64_t classes = s->classes_in[lane]; classes; classes &= classes - 1) {
            unsigned policy_class = (unsigned)__builtin_ctzll(classes);
            uint32_t i = ka_queue_head(s, lane, policy_class);
            int64_t since = ka_slot_since(ka_store_slot(s, i));
            int64_t due = head_due(t, policy_class, lane, since);
            if (due < best || (due == best && due != NEVER && since < best_since)) {
                best = due;
                best_since = since;
                *which = i;
            }
        }
    }
    return best;
}

/* Find it again. In a drain every close moves it, so there it is not kept. */
static int64_t find_due(ka_table *t, uint32_t *which)
{
    int64_t due = earliest(t, which);
    t->due = t->is_draining ? UNKNOWN : due;
    t->store.head_left = 0;
    return due;
}

/* i: the head of its queue. */
static ka_action what_to_do(ka_table *t, uint32_t i, ka_cause *cause)
{
    const ka_slot *slot = ka_store_slot(&t->store, i);
    unsigned phase = ka_slot_phase(slot), ending = ka_store_mark(&t->store, i)->ending;
    unsigned lane = ka_anchor_lane(ka_store_link(&t->store, i)->prev);
    int64_t now = t->store.now, limit = limit_of(t, ka_slot_class(slot), lane);
    int is_over = limit && ka_slot_since(slot) + limit <= now;
    ka_action action = (ka_action)at_limit[phase].action;
    *cause = (ka_cause)at_limit[phase].cause;
    if (phase == KA_LINGER && ending & KA_ENDING_MASK) {
        *cause = linger_cause(ending);
    } else if (t->is_draining && (!is_over || now >= t->deadline)) {
        *cause = KA_CAUSE_DRAIN;
        /* At the deadline what can still be answered is answered; the rest ends at once. */
        if (now >= t->deadline)
            action = phase == KA_BODY || phase == KA_BUSY ? KA_DO_ANSWER_503 : KA_DO_CLOSE;
    }
    if (ending & KA_IS_MULTIPLEXED && (phase == KA_IDLE || phase == KA_BUSY))
        action = KA_DO_GOAWAY;
    if (action != KA_DO_CLOSE)
        set_ending(ka_store_mark(&t->store, i), *cause);
    return action;
}

ka_action ka_table_due(ka_table *t, int64_t now, ka_handle *h, ka_cause *cause)
{
    now = clock_of(t, now);
    if (ka_likely(now < t->due))
        return KA_DO_NOTHING;
    uint32_t i;
    if (now < find_due(t, &i) || i == 0)
        return KA_DO_NOTHING;
    *h = ka_store_handle(&t->store, i);
    return what_to_do(t, i, cause);
}

int64_t ka_table_next_due(ka_table *t)
{
    uint32_t i;
    int64_t due = t->due == UNKNOWN || t->store.head_left ? find_due(t, &i) : t->due;
    if (due == NEVER || due > INT64_MAX - (t->store.base > 0 ? t->store.base : 0))
        return INT64_MAX;
    return t->store.base + due;
}

/* ---- drain ---- */

static int64_t clipped(int64_t ns) { return ns < 0 ? 0 : ns < LONGEST ? ns : LONGEST; }
static int64_t earlier(int is_again, int64_t old, int64_t new) { return is_again && old < new ? old : new; }

void ka_table_drain(ka_table *t, int64_t now, int64_t grace_ns, int64_t spread_ns, int64_t deadline_ns)
{
    int is_again = t->is_draining;
    now = clock_of(t, now);
    int64_t grace_end = now + clipped(grace_ns);
    t->grace = earlier(is_again, t->grace, clipped(grace_ns));
    int64_t spread_end = earlier(is_again, t->grace_end + t->spread, grace_end + clipped(spread_ns));
    t->deadline = earlier(is_again, t->deadline, now + clipped(deadline_ns));
    t->grace_end = earlier(is_again, t->grace_end, grace_end);
    t->spread = spread_end - t->grace_end;
    t->ramp_from = 0;
    t->is_draining = 1;
    t->store.clock_end = (uint64_t)t->grace_end;
    t->due = UNKNOWN;
}

int ka_table_is_draining(const ka_table *t) { return t->is_draining; }

/* ---- check ---- */

const char *ka_table_check(const ka_table *t)
{
    const char *broken = ka_store_check(&t->store);
    if (broken)
        return broken;
    const ka_store *s = &t->store;
    for (unsigned lane = KA_HANDSHAKE; lane < KA_N_LANES; lane++)
        for (unsigned policy_class = 0; policy_class < KA_N_CLASSES; policy_class++) {
            uint32_t i = ka_queue_head(s, lane, policy_class);
            if (i && head_due(t, policy_class, lane, ka_slot_since(ka_store_slot(s, i))) < t->due)
                return "something is due before the bound of what is due";
        }
    for (uint32_t i = KA_N_ANCHORS; i < s->n_used; i++) {
        int is_busy = ka_slot_phase(ka_store_slot(s, i)) == KA_BUSY;
        if (is_busy && ka_store_mark(s, i)->ending & KA_IS_MULTIPLEXED && ka_store_extra(s, i)->rate.nbytes == 0)
            return "a multiplexed connection is busy without a stream";
    }
    return NULL;
}
