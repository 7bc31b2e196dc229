/* h2_clock_test.c: deadlines of the requests of HTTP/2: who is due first, and rates. Against a plain list of who waits.
 *
 * link: http h2 table talk */
#include "check.h"
#include "talk/ka_h2_clock.h"

#define S ((int64_t)1000000000)

enum {
    WAITS = 40,
    STEPS = 20000
};

static ka_counters counters;
static ka_table *table;
static ka_h2_clock watch;

static void open_table(void)
{
    if (ka_table_new(&table, &ka_capacity_default, 1, &counters) != KA_OK)
        abort();
    memset(&watch, 0, sizeof watch);
}

static void set(unsigned policy_class, ka_phase phase, int64_t ns)
{
    ka_policy policy = *ka_table_policy(table, policy_class);
    policy.timeout_ns[phase] = ns;
    EXPECT(ka_table_set_policy(table, policy_class, &policy) == KA_OK);
}

static void nobody_is_due_of_none(void)
{
    int64_t due;
    open_table();
    EXPECT(ka_h2_clock_next(&watch, table, &due) == NULL && due == INT64_MAX);
    ka_h2_wait wait = {0};
    ka_h2_wait_in(&watch, &wait, KA_FREE, S);
    EXPECT(watch.n == 0);
    ka_table_free(table);
}

static void the_same_phase_again_changes_nothing(void)
{
    int64_t due;
    open_table();
    ka_h2_wait wait = {0};
    ka_h2_wait_in(&watch, &wait, KA_BODY, S);
    ka_h2_wait_in(&watch, &wait, KA_BODY, 5 * S);
    EXPECT(ka_h2_clock_next(&watch, table, &due) == &wait && due == 31 * S && watch.n == 1);
    ka_h2_wait_in(&watch, &wait, KA_WRITE, 5 * S);
    EXPECT(ka_h2_clock_next(&watch, table, &due) == &wait && due == 65 * S && watch.n == 1);
    ka_h2_wait_in(&watch, &wait, KA_FREE, 6 * S);
    EXPECT(ka_h2_clock_next(&watch, table, &due) == NULL && watch.n == 0);
    ka_table_free(table);
}

static void a_phase_without_a_limit_is_never_due(void)
{
    int64_t due;
    open_table();
    ka_h2_wait busy = {0}, far = {0};
    set(0, KA_BUSY, 0);
    ka_h2_wait_in(&watch, &busy, KA_BUSY, S);
    EXPECT(ka_h2_clock_next(&watch, table, &due) == NULL && watch.n == 1);
    set(0, KA_BUSY, 7 * S); /* of all that wait already */
    EXPECT(ka_h2_clock_next(&watch, table, &due) == &busy && due == 8 * S);
    set(0, KA_WRITE, INT64_MAX);
    ka_h2_wait_in(&watch, &far, KA_WRITE, S);
    EXPECT(ka_h2_clock_next(&watch, table, &due) == &busy);
    ka_table_free(table);
}

static void a_rate_is_the_mean_of_its_window(void)
{
    ka_policy policy = ka_policy_default; /* 240 bytes a second, over 5 seconds */
    open_table();
    ka_h2_wait wait = {0};
    ka_h2_wait_in(&watch, &wait, KA_BODY, 0);
    EXPECT(ka_h2_wait_progress(&watch, &wait, &policy, 1, 4 * S) == KA_OK);
    EXPECT(wait.since == 4 * S); /* the gap begins anew */
    EXPECT(ka_h2_wait_progress(&watch, &wait, &policy, 1198, 5 * S) == KA_ESLOW);
    EXPECT(ka_h2_wait_progress(&watch, &wait, &policy, 1200, 10 * S) == KA_OK);
    EXPECT(ka_h2_wait_progress(&watch, &wait, &policy, 100, 13 * S) == KA_OK);
    ka_h2_wait_in(&watch, &wait, KA_BUSY, 13 * S); /* while nobody waits for content no time of it passes */
    ka_h2_wait_in(&watch, &wait, KA_BODY, 100 * S);
    EXPECT(ka_h2_wait_progress(&watch, &wait, &policy, 1099, 102 * S) == KA_ESLOW);
    ka_h2_wait_in(&watch, &wait, KA_WRITE, 102 * S); /* another window */
    EXPECT(ka_h2_wait_progress(&watch, &wait, &policy, 1, 106 * S) == KA_OK);
    policy.min_send_rate = 0;
    EXPECT(ka_h2_wait_progress(&watch, &wait, &policy, 0, 120 * S) == KA_OK);
    EXPECT(ka_h2_wait_progress(&watch, &wait, &policy, UINT32_MAX, 121 * S) == KA_OK);
    EXPECT(ka_h2_wait_progress(&watch, &wait, &policy, UINT32_MAX, 10000000 * S) == KA_OK);
    ka_table_free(table);
}

/* Who is due first, looked for among all. */
static int64_t first_due(const ka_h2_wait *waits)
{
    int64_t first = INT64_MAX;
    for (int i = 0; i < WAITS; i++) {
        int64_t limit = waits[i].phase ? ka_table_policy(table, waits[i].policy_class)->timeout_ns[waits[i].phase] : 0;
        if (limit && waits[i].since + limit < first)
            first = waits[i].since + limit;
    }
    return first;
}

static void whatever_happens_the_first_is_found(void)
{
    static const ka_phase phases[] = {KA_FREE, KA_HEAD, KA_BODY, KA_BUSY, KA_WRITE};
    static ka_h2_wait waits[WAITS];
    uint64_t random = 1;
    int64_t now = S, due;
    open_table();
    for (unsigned i = 0; i < KA_N_CLASSES; i++)
        set(i, phases[1 + i % 4], (int64_t)(i + 1) * S);
    for (int i = 0; i < WAITS; i++)
        waits[i].policy_class = (uint8_t)(i % 2 ? i : 63 - i);
    for (int step = 0; step < STEPS; step++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        ka_h2_wait *wait = &waits[(random >> 33) % WAITS];
        const ka_policy *policy = ka_table_policy(table, wait->policy_class);
        now += (int64_t)(random >> 50);
        if ((random >> 40) % 3 && (wait->phase == KA_BODY || wait->phase == KA_WRITE))
            (void)ka_h2_wait_progress(&watch, wait, policy, (random >> 20) % 1000, now);
        else
            ka_h2_wait_in(&watch, wait, phases[(random >> 45) % 5], now);
        uint32_t n = 0;
        for (int i = 0; i < WAITS; i++)
            n += waits[i].phase != KA_FREE;
        const ka_h2_wait *found = ka_h2_clock_next(&watch, table, &due);
        CHECK(due == first_due(waits) && watch.n == n, "step %d", step);
        EXPECT(found == NULL ? due == INT64_MAX : found->phase != KA_FREE);
    }
    for (int i = 0; i < WAITS; i++)
        ka_h2_wait_in(&watch, &waits[i], KA_FREE, now);
    EXPECT(watch.n == 0 && ka_h2_clock_next(&watch, table, &due) == NULL);
    ka_table_free(table);
}

int main(void)
{
    nobody_is_due_of_none();
    the_same_phase_again_changes_nothing();
    a_phase_without_a_limit_is_never_due();
    a_rate_is_the_mean_of_its_window();
    whatever_happens_the_first_is_found();
    return CHECKS_DONE;
}
