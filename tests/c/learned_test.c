/* What a network's idle connections show, and how long they are kept for it: the rule alone, then in the table.
 * link: table */
#include "check.h"
#include "table/ka_known.h"

#define S ((int64_t)1000000000)
#define HOUR 3600u

static ka_ladder ladder_of(int64_t min_s, int64_t max_s)
{
    ka_ladder ladder;
    ka_ladder_set(&ladder, min_s * S, max_s * S);
    return ladder;
}

static void a_ladder_begins_at_the_minimum_and_ends_at_the_maximum(void)
{
    static const int64_t bounds[][2] = {{75, 3900}, {1, 3900}, {1, 1}, {75, 76}, {3900, 3900}, {1, 31536000}};
    for (unsigned b = 0; b < sizeof bounds / sizeof *bounds; b++) {
        ka_ladder l = ladder_of(bounds[b][0], bounds[b][1]);
        EXPECT(l.ns[0] == bounds[b][0] * S && l.ns[l.n - 1] == bounds[b][1] * S);
        EXPECT(l.n >= 1 && l.n <= KA_N_RUNGS && ka_ladder_rung(&l, INT64_MAX) == l.n - 1);
        EXPECT(ka_ladder_rung(&l, 0) == 0 && ka_ladder_rung(&l, l.ns[0]) == 0);
        for (unsigned k = 1; k < l.n; k++) {
            EXPECT(l.ns[k] > l.ns[k - 1]);
            EXPECT(k == l.n - 1 || l.ns[k] >= l.ns[k - 1] + l.ns[k - 1] / 5);
            EXPECT(ka_ladder_rung(&l, l.ns[k]) == k && ka_ladder_rung(&l, l.ns[k - 1] + 1) == k);
        }
    }
    ka_ladder usual = ladder_of(75, 3900);
    EXPECT(usual.n == 19 && usual.ns[1] == 93750000000);
}

static void whoever_closes_first_is_given_a_quarter_more_than_it_took_and_five_seconds(void)
{
    ka_ladder l = ladder_of(1, 3900);
    for (int64_t age_ms = 1; age_ms < 3000000; age_ms = age_ms * 3 / 2 + 1) {
        ka_learned of = {0};
        (void)ka_learned_they_closed(&of, &l, age_ms * 1000000, 100);
        int64_t wanted = age_ms * 1250000 + 5 * S;
        EXPECT(l.ns[of.rung] >= wanted - 1000000 && (of.rung == 0 || l.ns[of.rung - 1] < wanted));
        EXPECT(ka_learned_theirs_ms(&of) == (uint32_t)age_ms && of.n_theirs == 1);
        (void)ka_learned_they_closed(&of, &l, age_ms * 100, 101);
        EXPECT(ka_learned_theirs_ms(&of) == (uint32_t)age_ms); /* the largest */
    }
}

static void who_never_closes_first_is_given_twice_what_we_gave_up_to_the_maximum(void)
{
    ka_ladder l = ladder_of(75, 3900);
    ka_learned of = {0};
    int64_t kept = l.ns[0];
    for (int n = 0; n < 9; n++) {
        ka_learned_we_closed(&of, &l, kept, 100);
        EXPECT(l.ns[of.rung] >= (kept > 1950 * S ? 3900 * S : 2 * kept));
        kept = l.ns[of.rung];
    }
    EXPECT(kept == 3900 * S);
    /* It closes at last: that is its timeout, since it is longer than what we have ever given without a word. */
    ka_learned chrome = {0};
    ka_learned_we_closed(&chrome, &l, 75 * S, 1);
    ka_learned_we_closed(&chrome, &l, 183 * S, 2);
    (void)ka_learned_they_closed(&chrome, &l, 300 * S, 3);
    EXPECT(l.ns[chrome.rung] >= 380 * S && l.ns[chrome.rung - 1] < 380 * S);
}

static void a_race_raises_to_the_maximum_at_once_until_they_have_shown_theirs(void)
{
    ka_ladder l = ladder_of(75, 3900);
    ka_learned of = {0};
    ka_learned_we_closed(&of, &l, 75 * S, 1);
    ka_learned_raced(&of, &l, 1);
    EXPECT(l.ns[of.rung] == 3900 * S && of.n_races == 1);
    (void)ka_learned_they_closed(&of, &l, 4 * S, 2); /* its pool was too full: not its timeout */
    EXPECT(l.ns[of.rung] == 3900 * S);
    (void)ka_learned_they_closed(&of, &l, 600 * S, 3);
    EXPECT(l.ns[of.rung] >= 755 * S && l.ns[of.rung - 1] < 755 * S);
}

static void a_changed_timeout_is_relearned_within_a_day(void)
{
    ka_ladder l = ladder_of(75, 3900);
    ka_learned of = {0};
    (void)ka_learned_they_closed(&of, &l, 600 * S, 0);
    EXPECT(l.ns[of.rung] >= 755 * S);
    for (uint32_t hour = 1; hour <= 11; hour++)
        (void)ka_learned_they_closed(&of, &l, 100 * S, hour * HOUR);
    EXPECT(l.ns[of.rung] >= 755 * S);
    for (uint32_t hour = 12; hour <= 24; hour++)
        (void)ka_learned_they_closed(&of, &l, 100 * S, hour * HOUR);
    EXPECT(ka_learned_theirs_ms(&of) == 100000 && l.ns[of.rung] >= 130 * S && l.ns[of.rung] < 163 * S);
    /* Silence is no evidence. */
    (void)ka_learned_they_closed(&of, &l, 3 * S, 1000 * HOUR);
    EXPECT(ka_learned_theirs_ms(&of) == 100000);
}

static void a_network_settles_when_it_has_closed_three_times_at_about_the_same_age(void)
{
    ka_ladder l = ladder_of(75, 3900);
    ka_learned of = {0};
    EXPECT(!ka_learned_they_closed(&of, &l, 4 * S, 1) && !ka_learned_they_closed(&of, &l, 60 * S, 2));
    EXPECT(!ka_learned_they_closed(&of, &l, 1 * S, 3) && !ka_learned_they_closed(&of, &l, 59 * S, 4));
    EXPECT(!ka_learned_is_settled(&of));
    EXPECT(ka_learned_they_closed(&of, &l, 60 * S, 5) && ka_learned_is_settled(&of) && of.since_s == 5);
    EXPECT(!ka_learned_they_closed(&of, &l, 60 * S, 6) && ka_learned_is_settled(&of)); /* told once */
    EXPECT(!ka_learned_they_closed(&of, &l, 90 * S, 7) && !ka_learned_is_settled(&of));
    EXPECT(!ka_learned_they_closed(&of, &l, 90 * S, 8) && ka_learned_they_closed(&of, &l, 90 * S, 9));
}

static void what_another_has_learned_is_taken_over_and_nothing_is_lost_by_it(void)
{
    ka_ladder l = ladder_of(75, 3900);
    ka_learned mine = {0}, other = {0}, none = {0};
    for (uint32_t n = 0; n < 3; n++)
        (void)ka_learned_they_closed(&other, &l, 600 * S, n);
    (void)ka_learned_they_closed(&mine, &l, 60 * S, 1);
    ka_learned_merge(&mine, &l, &other, 9);
    EXPECT(ka_learned_theirs_ms(&mine) == 600000 && mine.rung == other.rung && mine.n_theirs == 3);
    ka_learned_merge(&none, &l, &other, 9);
    EXPECT(none.rung == other.rung && ka_learned_is_settled(&none) && none.since_s == other.since_s);
    ka_learned_merge(&other, &l, &(ka_learned){0}, 9);
    EXPECT(ka_learned_theirs_ms(&other) == 600000 && other.n_theirs == 3);
}

/* ---- in the table ---- */

static ka_table *table_of(uint32_t max_connections, ka_counters *counters)
{
    ka_capacity capacity = ka_capacity_default;
    capacity.max_connections = max_connections;
    capacity.pressure_start = capacity.pressure_full = 0; /* what was learned is what holds */
    memset(counters, 0, sizeof *counters);
    ka_table *t = NULL;
    if (ka_table_new(&t, &capacity, 42, counters) != KA_OK)
        abort();
    return t;
}

static const ka_client front = {.family = 4, .addr = {10, 0, 3, 7}, .is_proxy = 1},
                       browser = {.family = 4, .addr = {192, 0, 2, 1}};

static ka_handle idle_at(ka_table *t, int64_t now, const ka_client *client, uint32_t *advertised)
{
    ka_handle h = 0;
    ka_verdict verdict;
    EXPECT(ka_conn_open(t, now, 0, client, 0, &h) == KA_OK);
    EXPECT(ka_conn_event(t, h, KA_EV_HEAD_DONE, now) == KA_BUSY);
    EXPECT(ka_conn_decide(t, h, 1, 1, KA_CAUSE_NONE, now, &verdict) == KA_OK);
    EXPECT(ka_conn_event(t, h, KA_EV_RESPONDED, now) == KA_IDLE);
    if (advertised)
        *advertised = verdict.timeout_s;
    return h;
}

static ka_known known_of(ka_table *t, const ka_client *client)
{
    ka_known known;
    for (uint32_t at = 0; ka_known_next(t, 0, &at, &known);)
        if (known.client.family == client->family && known.client.is_proxy == client->is_proxy &&
            memcmp(known.client.addr, client->addr, 4) == 0)
            return known;
    return (ka_known){0};
}

static void a_proxy_that_closes_first_is_kept_longer_and_told_so_and_others_are_not(void)
{
    ka_counters counters;
    ka_table *t = table_of(9, &counters);
    ka_known settled, known;
    uint32_t advertised;
    int64_t now = 0;
    for (int n = 0; n < 3; n++, now += 600 * S) {
        EXPECT(ka_known_settled(t, &settled) == 0);
        ka_handle h = idle_at(t, now, &front, NULL);
        EXPECT(ka_conn_close(t, h, KA_CAUSE_CLIENT, now + 70 * S) == KA_OK);
    }
    EXPECT(ka_known_settled(t, &settled) == 1 && ka_known_settled(t, &settled) == 0);
    EXPECT(ka_learned_theirs_ms(&settled.learned) == 70000 && settled.kept_ns == 93750000000);
    EXPECT(settled.client.family == 4 && settled.client.is_proxy && settled.client.addr[3] == 7);
    ka_handle h = idle_at(t, now, &front, &advertised), due = 0;
    EXPECT(advertised == 92 && ka_table_next_due(t) == now + 93750000000);
    ka_handle other = idle_at(t, now + 10 * S, &browser, &advertised);
    ka_cause cause;
    EXPECT(advertised == 74 && ka_table_next_due(t) == now + 85 * S);
    EXPECT(ka_table_due(t, now + 85 * S, &due, &cause) == KA_DO_HALF_CLOSE && due == other);
    EXPECT(ka_table_check(t) == NULL);
    EXPECT(ka_table_victim(t, now + 85 * S) == h); /* no privilege when room is short */
    known = known_of(t, &front);
    EXPECT(known.n_open == 1 && known.learned.n_theirs == 3 && known.learned.n_ours == 0);
    ka_table_free(t);
}

static void our_timeout_counts_as_ours_and_a_request_that_crosses_it_as_a_race(void)
{
    ka_counters counters;
    ka_table *t = table_of(9, &counters);
    ka_handle h = idle_at(t, 0, &front, NULL), due = 0;
    ka_cause cause;
    EXPECT(ka_table_due(t, 75 * S, &due, &cause) == KA_DO_HALF_CLOSE && due == h);
    EXPECT(ka_conn_event(t, h, KA_EV_LINGERING, 75 * S) == KA_LINGER);
    EXPECT(known_of(t, &front).learned.n_ours == 1 && known_of(t, &front).kept_ns >= 150 * S);
    EXPECT(ka_conn_crossed(t, h) && known_of(t, &front).kept_ns == 3900 * S);
    EXPECT(ka_conn_close(t, h, cause, 76 * S) == KA_OK);
    /* Remembered without a connection. */
    EXPECT(known_of(t, &front).n_open == 0 && known_of(t, &front).learned.n_races == 1);
    h = idle_at(t, 100 * S, &front, NULL);
    EXPECT(ka_table_next_due(t) == 4000 * S);
    EXPECT(ka_table_check(t) == NULL);
    ka_table_free(t);
}

static void while_there_is_room_all_are_kept_for_the_maximum_and_promised_what_was_learned(void)
{
    ka_counters counters;
    ka_table *t = table_of(10, &counters);
    ka_capacity capacity = *ka_table_capacity(t);
    uint32_t advertised;
    capacity.pressure_start = 0.5;
    capacity.pressure_full = 0.9;
    EXPECT(ka_table_set_capacity(t, &capacity) == KA_OK);
    for (int n = 1; n <= 10; n++) {
        (void)idle_at(t, 0, &front, &advertised);
        EXPECT(advertised == 74);
        if (n <= 5)
            EXPECT(ka_table_next_due(t) == 3900 * S);
        else if (n < 9)
            EXPECT(ka_table_next_due(t) > 75 * S && ka_table_next_due(t) < 3900 * S);
        else
            EXPECT(ka_table_next_due(t) == 75 * S);
    }
    EXPECT(ka_table_check(t) == NULL);
    ka_table_free(t);
}

static void what_ends_in_a_drain_or_for_room_teaches_nothing(void)
{
    ka_counters counters;
    ka_table *t = table_of(10, &counters);
    ka_handle h[3], due = 0;
    ka_cause cause;
    for (int n = 0; n < 3; n++)
        h[n] = idle_at(t, 0, &front, NULL);
    EXPECT(ka_conn_close(t, h[0], KA_CAUSE_EVICTED, 2 * S) == KA_OK);
    ka_table_drain(t, 3 * S, 0, 0, 60 * S);
    EXPECT(ka_table_due(t, 3 * S, &due, &cause) == KA_DO_HALF_CLOSE && cause == KA_CAUSE_DRAIN);
    EXPECT(ka_conn_event(t, due, KA_EV_LINGERING, 3 * S) == KA_LINGER);
    EXPECT(known_of(t, &front).learned.n_ours == 0 && known_of(t, &front).learned.n_theirs == 0);
    EXPECT(ka_table_check(t) == NULL);
    ka_table_free(t);
}

static void a_number_means_that_number_and_nothing_is_learned(void)
{
    ka_counters counters;
    ka_table *t = table_of(9, &counters);
    ka_policy fixed = ka_policy_default;
    ka_handle due = 0;
    ka_cause cause;
    fixed.timeout_ns[KA_IDLE] = 5 * S;
    EXPECT(ka_known_take(t, 0, &(ka_known){.client = front, .learned = {.theirs_ms = {600000}, .n_theirs = 1}}) ==
           KA_OK);
    ka_handle h = idle_at(t, 0, &front, NULL); /* in the queue of a rung */
    EXPECT(ka_table_next_due(t) > 700 * S);
    EXPECT(ka_table_set_policy(t, 0, &fixed) == KA_OK && ka_table_next_due(t) == 5 * S); /* at once */
    EXPECT(ka_table_due(t, 5 * S, &due, &cause) == KA_DO_HALF_CLOSE && due == h);
    EXPECT(ka_conn_event(t, h, KA_EV_LINGERING, 5 * S) == KA_LINGER && ka_conn_crossed(t, h));
    EXPECT(known_of(t, &front).learned.n_ours == 0 && known_of(t, &front).learned.n_races == 0);
    EXPECT(ka_table_check(t) == NULL);
    ka_table_free(t);
}

static void bounds_can_change_while_connections_are_idle(void)
{
    ka_counters counters;
    ka_table *t = table_of(9, &counters);
    ka_capacity capacity = *ka_table_capacity(t);
    EXPECT(ka_known_take(t, 0, &(ka_known){.client = front, .learned = {.theirs_ms = {600000}, .n_theirs = 1}}) ==
           KA_OK);
    (void)idle_at(t, 0, &front, NULL);
    capacity.keep_alive_max_ns = 100 * S;
    EXPECT(ka_table_set_capacity(t, &capacity) == KA_OK && ka_table_next_due(t) == 100 * S);
    EXPECT(known_of(t, &front).kept_ns == 100 * S && ka_table_check(t) == NULL);
    capacity.keep_alive_min_ns = 101 * S;
    EXPECT(ka_table_set_capacity(t, &capacity) == KA_EINVAL);
    capacity.keep_alive_min_ns = 0;
    EXPECT(ka_table_set_capacity(t, &capacity) == KA_EINVAL);
    ka_table_free(t);
}

static void no_more_networks_are_remembered_than_connections_are_allowed_and_clients_do_not_crowd_out_proxies(void)
{
    ka_counters counters;
    ka_table *t = table_of(4, &counters);
    ka_client many = front;
    for (int n = 0; n < 60; n++) {
        many.addr[2] = (uint8_t)n;
        many.is_proxy = n < 20;
        ka_handle h = idle_at(t, n * 1000 * S, &many, NULL);
        EXPECT(ka_conn_close(t, h, KA_CAUSE_CLIENT, n * 1000 * S + 70 * S) == KA_OK);
        EXPECT(ka_table_check(t) == NULL);
    }
    ka_known known;
    uint32_t n = 0;
    for (uint32_t at = 0; ka_known_next(t, 0, &at, &known); n++)
        EXPECT(known.client.is_proxy ? known.client.addr[2] >= 16 && known.client.addr[2] < 20
                                     : known.client.addr[2] >= 56);
    EXPECT(n == 8);
    ka_table_free(t);
}

static void a_proxy_is_no_client_and_unix_sockets_are_one_network(void)
{
    ka_counters counters;
    ka_table *t = table_of(9, &counters);
    ka_capacity capacity = *ka_table_capacity(t);
    ka_client same = front, nobody = {0};
    ka_handle h;
    capacity.max_per_client = 1;
    capacity.client_share = 1;
    same.is_proxy = 0;
    EXPECT(ka_table_set_capacity(t, &capacity) == KA_OK);
    ka_handle first = idle_at(t, 0, &same, NULL);
    (void)idle_at(t, S, &front, NULL);
    (void)idle_at(t, 2 * S, &front, NULL);
    EXPECT(ka_conn_open(t, 2 * S, 0, &same, 0, &h) == KA_ECLIENT);
    EXPECT(ka_table_victim(t, 3 * S) == first && ka_table_check(t) == NULL);
    h = idle_at(t, 4 * S, &nobody, NULL);
    EXPECT(ka_conn_close(t, h, KA_CAUSE_ERROR, 304 * S) == KA_OK); /* a reset says the same as FIN */
    EXPECT(known_of(t, &nobody).kept_ns >= 380 * S);
    ka_table_free(t);
}

int main(void)
{
    a_ladder_begins_at_the_minimum_and_ends_at_the_maximum();
    whoever_closes_first_is_given_a_quarter_more_than_it_took_and_five_seconds();
    who_never_closes_first_is_given_twice_what_we_gave_up_to_the_maximum();
    a_race_raises_to_the_maximum_at_once_until_they_have_shown_theirs();
    a_changed_timeout_is_relearned_within_a_day();
    a_network_settles_when_it_has_closed_three_times_at_about_the_same_age();
    what_another_has_learned_is_taken_over_and_nothing_is_lost_by_it();
    a_proxy_that_closes_first_is_kept_longer_and_told_so_and_others_are_not();
    our_timeout_counts_as_ours_and_a_request_that_crosses_it_as_a_race();
    while_there_is_room_all_are_kept_for_the_maximum_and_promised_what_was_learned();
    what_ends_in_a_drain_or_for_room_teaches_nothing();
    a_number_means_that_number_and_nothing_is_learned();
    bounds_can_change_while_connections_are_idle();
    no_more_networks_are_remembered_than_connections_are_allowed_and_clients_do_not_crowd_out_proxies();
    a_proxy_is_no_client_and_unix_sockets_are_one_network();
    return CHECKS_DONE;
}
