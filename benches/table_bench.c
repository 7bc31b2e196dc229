/* What does the connection table cost inside C, in ns per call? Built and run by benches/bench_table.py.
 * Prints one line of JSON: {"touch, in order": {"<n>": [ns per round...]}, ...}. Shuffled, every call pays for the
 * caches it misses on the way to the slot and its neighbours, and for the handle it reads from the bench's own array. */
#include "table/ka_conn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    ROUNDS = 7
};

static uint64_t state = 88172645463325252u;

static uint64_t draw(void) /* xorshift64 (Marsaglia 2003) */
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static double ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static ka_table *table_of(uint32_t n, ka_handle *conns, ka_counters *counters)
{
    ka_capacity capacity = ka_capacity_default;
    ka_table *t = NULL;
    capacity.max_connections = n;
    capacity.pressure_start = capacity.pressure_full = 1.0; /* full from the start: pressure would cloud the question */
    if (ka_table_new(&t, &capacity, 1, counters) != KA_OK)
        exit(1);
    for (uint32_t i = 0; i < n; i++)
        if (ka_conn_open(t, 0, 0, NULL, 0, &conns[i]) != KA_OK || ka_conn_event(t, conns[i], KA_EV_HEAD_DONE, 0) < 0 ||
            ka_conn_event(t, conns[i], KA_EV_RESPONDED, 0) < 0)
            exit(1);
    return t;
}

static void touches(ka_table *t, const ka_handle *conns, const uint32_t *order, uint32_t calls, int64_t *now)
{
    for (uint32_t k = 0; k < calls; k++)
        if (ka_conn_touch(t, conns[order[k]], ++*now) != KA_OK)
            exit(1);
}

static void requests(ka_table *t, const ka_handle *conns, const uint32_t *order, uint32_t calls, int64_t *now)
{
    ka_verdict verdict;
    for (uint32_t k = 0; k < calls; k++) {
        ka_handle h = conns[order[k]];
        if (ka_conn_event(t, h, KA_EV_RECEIVED, ++*now) < 0 || ka_conn_event(t, h, KA_EV_HEAD_DONE, *now) < 0 ||
            ka_conn_decide(t, h, 1, 1, KA_CAUSE_NONE, *now, &verdict) < 0 ||
            ka_conn_event(t, h, KA_EV_RESPONDED, *now) < 0)
            exit(1);
    }
}

static void ticks(ka_table *t, const ka_handle *conns, const uint32_t *order, uint32_t calls, int64_t *now)
{
    ka_handle h;
    ka_cause cause;
    /* The head of the queue leaves before each tick, so that the bound of what is due has to be found again. */
    for (uint32_t k = 0; k < calls; k++) {
        if (ka_conn_touch(t, conns[order[k]], ++*now) != KA_OK)
            exit(1);
        if (ka_table_due(t, *now, &h, &cause) != KA_DO_NOTHING || ka_table_next_due(t) < *now)
            exit(1);
    }
}

static void measure(const char *name, void (*run)(ka_table *, const ka_handle *, const uint32_t *, uint32_t, int64_t *),
                    const uint32_t *sizes, int n_sizes, int is_in_order)
{
    printf("\"%s\": {", name);
    for (int k = 0; k < n_sizes; k++) {
        static ka_counters counters;
        uint32_t n = sizes[k], calls = n < 1000000 ? 1000000 : n;
        ka_handle *conns = calloc(n, sizeof *conns);
        uint32_t *order = calloc(calls, sizeof *order);
        ka_table *t = table_of(n, conns, &counters);
        int64_t now = 1;
        for (uint32_t i = 0; i < calls; i++)
            order[i] = is_in_order ? i % n : (uint32_t)(draw() % n);
        run(t, conns, order, calls, &now);
        printf("%s\"%u\": [", k ? ", " : "", n);
        for (int round = 0; round < ROUNDS; round++) {
            double start = ns();
            run(t, conns, order, calls, &now);
            printf("%s%.3f", round ? ", " : "", (ns() - start) / calls);
        }
        printf("]");
        if (ka_table_check(t))
            exit(1);
        ka_table_free(t);
        free(conns);
        free(order);
    }
    printf("}");
}

int main(void)
{
    static const uint32_t sizes[] = {1000, 10000, 100000, 1000000};
    printf("{");
    measure("touch, in order", touches, sizes, 4, 1);
    printf(", ");
    measure("touch, shuffled", touches, sizes, 4, 0);
    printf(", ");
    measure("request, shuffled", requests, sizes, 4, 0);
    printf(", ");
    measure("tick", ticks, sizes, 4, 1);
    printf("}\n");
    return 0;
}
