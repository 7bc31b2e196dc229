/* The connection table from C, in virtual time: what a caller in C sees and Python does not.
 * link: table */
#include "check.h"
#include "table/ka_conn.h"

#define S ((int64_t)1000000000)

static ka_table *table_of(uint32_t max_connections, ka_counters *counters)
{
    ka_capacity capacity = ka_capacity_default;
    capacity.max_connections = max_connections;
    capacity.pressure_start = capacity.pressure_full = 0; /* no more than keep_alive_min_ns */
    memset(counters, 0, sizeof *counters);
    ka_table *t = NULL;
    if (ka_table_new(&t, &capacity, 42, counters) != KA_OK)
        abort();
    return t;
}

static void a_request_goes_round_and_the_connection_expires(void)
{
    ka_counters counters;
    ka_table *t = table_of(4, &counters);
    ka_handle h = 0, due = 0;
    ka_cause cause = KA_CAUSE_NONE;
    ka_verdict verdict;
    EXPECT(ka_conn_open(t, 100 * S, 0, NULL, 0, &h) == KA_OK);
    EXPECT(ka_conn_event(t, h, KA_EV_RECEIVED, 101 * S) == KA_HEAD);
    EXPECT(ka_conn_event(t, h, KA_EV_HEAD_DONE, 102 * S) == KA_BUSY);
    EXPECT(ka_conn_decide(t, h, 1, 1, KA_CAUSE_NONE, 102 * S, &verdict) == KA_OK);
    EXPECT(verdict.keeps && verdict.sends_keep_alive && verdict.timeout_s == 74 && verdict.max == 0);
    EXPECT(ka_conn_event(t, h, KA_EV_RESPONDED, 103 * S) == KA_IDLE);
    EXPECT(ka_table_next_due(t) == 178 * S);
    EXPECT(ka_table_due(t, 178 * S - 1, &due, &cause) == KA_DO_NOTHING);
    EXPECT(ka_table_due(t, 178 * S, &due, &cause) == KA_DO_HALF_CLOSE);
    EXPECT(due == h && cause == KA_CAUSE_IDLE_TIMEOUT);
    EXPECT(ka_conn_event(t, h, KA_EV_LINGERING, 178 * S) == KA_LINGER);
    EXPECT(ka_table_due(t, 180 * S, &due, &cause) == KA_DO_CLOSE);
    EXPECT(due == h && cause == KA_CAUSE_IDLE_TIMEOUT);
    EXPECT(ka_table_handle(t, (uint32_t)h) == h && ka_table_handle(t, 2) == 0 && ka_table_handle(t, 0) == 0);
    EXPECT(ka_table_check(t) == NULL);
    EXPECT(ka_conn_close(t, h, cause, 180 * S) == KA_OK);
    EXPECT(ka_table_handle(t, (uint32_t)h) == 0);
    EXPECT(ka_conn_close(t, h, cause, 180 * S) == KA_ESTALE);
    EXPECT(ka_conn_event(t, h, KA_EV_RECEIVED, 181 * S) == KA_ESTALE);
    EXPECT(ka_table_next_due(t) == INT64_MAX);
    EXPECT(counters.accepted == 1 && counters.closed[KA_CAUSE_IDLE_TIMEOUT] == 1 && counters.requests == 1);
    EXPECT(ka_table_check(t) == NULL);
    ka_table_free(t);
}

static void what_the_caller_may_not_say_changes_nothing(void)
{
    ka_counters counters;
    ka_table *t = table_of(1, &counters);
    ka_handle h = 0, other = 0;
    ka_client strange = {.family = 7};
    ka_policy policy = ka_policy_default;
    ka_capacity capacity = ka_capacity_default;
    EXPECT(ka_conn_open(t, 0, KA_N_CLASSES, NULL, 0, &h) == KA_EINVAL);
    EXPECT(ka_conn_open(t, 0, 0, &strange, 0, &h) == KA_EINVAL);
    EXPECT(ka_conn_open(t, 0, 0, NULL, 1, &h) == KA_OK);
    EXPECT(ka_conn_open(t, 0, 0, NULL, 0, &other) == KA_EFULL);
    EXPECT(ka_conn_event(t, h, KA_EV_HEAD_DONE, 0) == KA_EINVAL);
    EXPECT(ka_conn_event(t, h, KA_N_EVENTS, 0) == KA_EINVAL);
    EXPECT(ka_conn_event(t, h + ((uint64_t)1 << 32), KA_EV_HANDSHAKE_DONE, 0) == KA_ESTALE);
    EXPECT(ka_conn_event(t, 0, KA_EV_HANDSHAKE_DONE, 0) == KA_ESTALE);
    EXPECT(ka_conn_phase(t, h) == KA_HANDSHAKE);
    EXPECT(ka_conn_close(t, h, KA_CAUSE_NONE, 0) == KA_EINVAL);
    EXPECT(ka_conn_set_class(t, h, KA_N_CLASSES) == KA_EINVAL);
    policy.timeout_ns[KA_NEW] = -1;
    EXPECT(ka_table_set_policy(t, 0, &policy) == KA_EINVAL);
    capacity.pressure_start = 1.5;
    EXPECT(ka_table_set_capacity(t, &capacity) == KA_EINVAL);
    EXPECT(ka_table_capacity(t)->max_connections == 1);
    EXPECT(ka_table_check(t) == NULL);
    ka_table_free(t);
}

static void a_mapped_ipv4_client_is_the_ipv4_client(void)
{
    ka_counters counters;
    ka_table *t = table_of(100, &counters);
    ka_capacity capacity = *ka_table_capacity(t);
    ka_client plain = {.family = 4, .addr = {192, 0, 2, 1}};
    ka_client mapped = {.family = 6, .addr = {[10] = 0xff, 0xff, 192, 0, 2, 1}};
    ka_client neighbour = {.family = 6, .addr = {[10] = 0xff, 0xff, 192, 0, 2, 2}};
    ka_handle h = 0;
    capacity.max_per_client = 1;
    EXPECT(ka_table_set_capacity(t, &capacity) == KA_OK);
    EXPECT(ka_conn_open(t, 0, 0, &plain, 0, &h) == KA_OK);
    EXPECT(ka_conn_open(t, 0, 0, &mapped, 0, &h) == KA_ECLIENT);
    EXPECT(ka_conn_open(t, 0, 0, &neighbour, 0, &h) == KA_OK);
    EXPECT(ka_table_check(t) == NULL);
    ka_table_free(t);
}

static void a_client_that_is_named_later_counts_from_then_on(void)
{
    ka_counters counters;
    ka_table *t = table_of(100, &counters);
    ka_capacity capacity = *ka_table_capacity(t);
    ka_client one = {.family = 4, .addr = {192, 0, 2, 1}}, nobody = {0};
    ka_handle first = 0, second = 0, third = 0;
    capacity.max_per_client = 1;
    EXPECT(ka_table_set_capacity(t, &capacity) == KA_OK);
    EXPECT(ka_conn_open(t, 0, 0, &nobody, 0, &first) == KA_OK && ka_conn_open(t, 0, 0, &nobody, 1, &second) == KA_OK);
    EXPECT(ka_conn_set_client(t, first, &nobody) == KA_EINVAL);
    EXPECT(ka_conn_set_client(t, first, &one) == KA_OK);
    EXPECT(ka_conn_set_client(t, first, &one) == KA_EINVAL);
    EXPECT(ka_conn_set_client(t, second, &one) == KA_ECLIENT);
    EXPECT(ka_conn_open(t, 0, 0, &one, 0, &third) == KA_ECLIENT);
    EXPECT(ka_conn_event(t, first, KA_EV_HEAD_DONE, 1) == KA_BUSY &&
           ka_conn_event(t, first, KA_EV_RESPONDED, 2) == KA_IDLE);
    EXPECT(ka_table_check(t) == NULL);
    EXPECT(ka_conn_close(t, first, KA_CAUSE_CLIENT, 3) == KA_OK);
    EXPECT(ka_conn_set_client(t, first, &one) == KA_ESTALE);
    EXPECT(ka_conn_set_client(t, second, &one) == KA_OK);
    EXPECT(ka_conn_open(t, 0, 0, &nobody, 0, &third) == KA_OK);
    EXPECT(ka_conn_event(t, third, KA_EV_HEAD_DONE, 1) == KA_BUSY &&
           ka_conn_event(t, third, KA_EV_RESPONDED, 2) == KA_IDLE);
    EXPECT(ka_conn_set_client(t, third, &one) == KA_EINVAL); /* in IDLE it would have to be on its client's list */
    EXPECT(ka_table_check(t) == NULL);
    ka_table_free(t);
}

static void times_at_the_ends_of_int64_do_no_harm(void)
{
    ka_counters counters;
    ka_table *t = table_of(10, &counters);
    ka_handle h = 0, due = 0;
    ka_cause cause;
    EXPECT(ka_conn_open(t, INT64_MIN, 0, NULL, 0, &h) == KA_OK);
    EXPECT(ka_table_due(t, INT64_MAX, &due, &cause) == KA_DO_CLOSE);
    EXPECT(ka_conn_open(t, INT64_MAX, 0, NULL, 0, &h) == KA_OK);
    EXPECT(ka_conn_open(t, INT64_MIN, 0, NULL, 0, &h) == KA_OK);
    ka_table_drain(t, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX);
    (void)ka_table_next_due(t);
    EXPECT(ka_table_check(t) == NULL);
    ka_table_free(t);
}

static void histogram_buckets_meet_at_their_edges(void)
{
    for (unsigned b = 0; b < KA_N_BUCKETS; b++) {
        EXPECT(ka_bucket(ka_bucket_edge(b)) == b);
        if (b)
            EXPECT(ka_bucket(ka_bucket_edge(b) - 1) == b - 1);
    }
    EXPECT(ka_bucket(UINT64_MAX) == KA_N_BUCKETS - 1);
}

int main(void)
{
    a_request_goes_round_and_the_connection_expires();
    what_the_caller_may_not_say_changes_nothing();
    a_mapped_ipv4_client_is_the_ipv4_client();
    a_client_that_is_named_later_counts_from_then_on();
    times_at_the_ends_of_int64_do_no_harm();
    histogram_buckets_meet_at_their_edges();
    return CHECKS_DONE;
}
