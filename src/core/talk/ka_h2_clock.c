/* ka_h2_clock.c: see ka_h2_clock.h. */
#include "talk/ka_h2_clock.h"

#define SECOND 1000000000

static void take_out(ka_h2_clock *clock, ka_h2_wait *wait)
{
    unsigned k = wait->phase - (unsigned)KA_HEAD, c = wait->policy_class;
    *(wait->prev ? &wait->prev->next : &clock->first[k][c]) = wait->next;
    *(wait->next ? &wait->next->prev : &clock->last[k][c]) = wait->prev;
    if (clock->first[k][c] == NULL)
        clock->classes[k] &= ~((uint64_t)1 << c);
    clock->n--;
}

static void put_last(ka_h2_clock *clock, ka_h2_wait *wait, int64_t now)
{
    unsigned k = wait->phase - (unsigned)KA_HEAD, c = wait->policy_class;
    wait->since = now;
    wait->next = NULL;
    wait->prev = clock->last[k][c];
    *(wait->prev ? &wait->prev->next : &clock->first[k][c]) = wait;
    clock->last[k][c] = wait;
    clock->classes[k] |= (uint64_t)1 << c;
    clock->n++;
}

void ka_h2_wait_in(ka_h2_clock *clock, ka_h2_wait *wait, ka_phase phase, int64_t now)
{
    if (wait->phase == (uint8_t)phase)
        return;
    if (wait->phase != KA_FREE)
        take_out(clock, wait);
    wait->phase = (uint8_t)phase;
    if (phase != KA_FREE)
        put_last(clock, wait, now);
}

int ka_h2_wait_progress(ka_h2_clock *clock, ka_h2_wait *wait, const ka_policy *policy, size_t nbytes, int64_t now)
{
    int is_sending = wait->phase == KA_WRITE;
    uint32_t rate = is_sending ? policy->min_send_rate : policy->min_body_rate;
    if (wait->is_sending != is_sending) {
        wait->is_sending = (uint8_t)is_sending;
        wait->nbytes = wait->spent_us = 0;
    }
    uint64_t spent = wait->spent_us + (uint64_t)(now - wait->since) / 1000, moved = wait->nbytes + (uint64_t)nbytes;
    wait->spent_us = spent < UINT32_MAX ? (uint32_t)spent : UINT32_MAX;
    wait->nbytes = moved < UINT32_MAX ? (uint32_t)moved : UINT32_MAX;
    take_out(clock, wait);
    put_last(clock, wait, now);
    if (spent * 1000 < (uint64_t)policy->rate_window_ns)
        return KA_OK;
    /* The bytes that end the wait count, and so does the whole wait: it is the mean rate that must be kept. */
    int is_slow = (unsigned __int128)moved * SECOND < (unsigned __int128)rate * spent * 1000;
    wait->nbytes = wait->spent_us = 0;
    return is_slow ? KA_ESLOW : KA_OK;
}

ka_h2_wait *ka_h2_clock_next(const ka_h2_clock *clock, const ka_table *table, int64_t *due)
{
    ka_h2_wait *found = NULL;
    *due = INT64_MAX;
    for (unsigned k = 0; k < KA_H2_WAITS; k++) {
        for (uint64_t classes = clock->classes[k]; classes; classes &= classes - 1) {
            unsigned c = (unsigned)__builtin_ctzll(classes);
            ka_h2_wait *head = clock->first[k][c];
            int64_t limit = ka_table_policy(table, c)->timeout_ns[k + (unsigned)KA_HEAD];
            if (limit && head->since < INT64_MAX - limit && head->since + limit < *due) {
                *due = head->since + limit;
                found = head;
            }
        }
    }
    return found;
}
