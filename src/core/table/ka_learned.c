/* ka_learned.c: see ka_learned.h. */
#include "table/ka_learned.h"

#define MS ((int64_t)1000000)
#define SPARE_MS 5000 /* above a quarter more than they took */
#define LATE_MS 100

/* ---- the ladder ---- */

void ka_ladder_set(ka_ladder *ladder, int64_t min_ns, int64_t max_ns)
{
    double step = 1.25, reach;
    if (max_ns < min_ns)
        max_ns = min_ns;
    for (;; step *= 1.01) { /* as many rungs as there are must reach the maximum */
        reach = (double)min_ns;
        for (unsigned k = 1; k < KA_N_RUNGS; k++)
            reach *= step;
        if (reach >= (double)max_ns)
            break;
    }
    double ns = (double)min_ns;
    ladder->n = 0;
    for (unsigned k = 0; k < KA_N_RUNGS; k++, ns *= step) {
        int is_below = ns < (double)max_ns;
        ladder->ns[k] = k == 0 ? min_ns : is_below ? (int64_t)ns : max_ns;
        if (ladder->n == 0 && !is_below)
            ladder->n = k + 1;
    }
    if (ladder->n == 0) { /* rounding */
        ladder->ns[KA_N_RUNGS - 1] = max_ns;
        ladder->n = KA_N_RUNGS;
    }
}

unsigned ka_ladder_rung(const ka_ladder *ladder, int64_t ns)
{
    unsigned rung = 0;
    while (rung + 1 < ladder->n && ladder->ns[rung] < ns)
        rung++;
    return rung;
}

/* ---- one network ---- */

static uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }
static uint16_t one_more(uint16_t n) { return (uint16_t)(n + (n != UINT16_MAX)); }

static uint32_t ms_of(int64_t age_ns)
{
    int64_t ms = age_ns > 0 ? age_ns / MS : 0;
    return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
}

/* Within a twentieth, and what a busy machine is late. */
static int is_about(uint32_t age_ms, uint32_t other_ms)
{
    uint32_t apart = age_ms > other_ms ? age_ms - other_ms : other_ms - age_ms;
    return apart <= other_ms / 20 + LATE_MS;
}

/* Only what is seen lets a period end: a network that is silent for days is not forgotten for that. */
static void turn_period(ka_learned *of, uint32_t now_s)
{
    if (now_s - of->began_s < KA_LEARNED_PERIOD_S)
        return;
    unsigned raced = of->marks & KA_LEARNED_RACED ? KA_LEARNED_RACED_BEFORE : 0;
    of->theirs_ms[1] = of->theirs_ms[0];
    of->ours_ms[1] = of->ours_ms[0];
    of->theirs_ms[0] = of->ours_ms[0] = 0;
    of->marks = (uint8_t)((of->marks & ~(unsigned)(KA_LEARNED_RACED | KA_LEARNED_RACED_BEFORE)) | raced);
    of->began_s = now_s;
}

static int64_t wanted_ns(const ka_learned *of)
{
    int64_t theirs = ka_learned_theirs_ms(of), ours = ka_learned_ours_ms(of), wanted_ms = 0;
    if (of->n_theirs)
        wanted_ms = theirs + theirs / 4 + SPARE_MS;
    if (ours && ours >= theirs) { /* they keep them for longer than we have, who knows how long */
        if (of->marks & (KA_LEARNED_RACED | KA_LEARNED_RACED_BEFORE))
            return INT64_MAX;
        if (2 * ours > wanted_ms)
            wanted_ms = 2 * ours;
    }
    return wanted_ms * MS;
}

void ka_learned_climb(ka_learned *of, const ka_ladder *ladder, uint32_t now_s)
{
    unsigned rung = ka_ladder_rung(ladder, wanted_ns(of));
    if (rung != of->rung)
        of->since_s = now_s;
    of->rung = (uint8_t)rung;
}

int ka_learned_they_closed(ka_learned *of, const ka_ladder *ladder, int64_t age_ns, uint32_t now_s)
{
    uint32_t age = ms_of(age_ns), before = ka_learned_theirs_ms(of), largest;
    unsigned agreed = of->marks & KA_LEARNED_AGREED, was = agreed;
    if (of->n_theirs + of->n_ours == 0)
        of->began_s = now_s;
    turn_period(of, now_s);
    of->n_theirs = one_more(of->n_theirs);
    of->theirs_ms[0] = larger(of->theirs_ms[0], age);
    largest = ka_learned_theirs_ms(of);
    if (!is_about(largest, before))
        agreed = 0;
    if (is_about(age, largest) && agreed < KA_SETTLED_AFTER)
        agreed++;
    of->marks = (uint8_t)((of->marks & ~(unsigned)KA_LEARNED_AGREED) | agreed);
    ka_learned_climb(of, ladder, now_s);
    if (agreed < KA_SETTLED_AFTER || was == KA_SETTLED_AFTER)
        return 0;
    of->since_s = now_s;
    return 1;
}

void ka_learned_we_closed(ka_learned *of, const ka_ladder *ladder, int64_t age_ns, uint32_t now_s)
{
    if (of->n_theirs + of->n_ours == 0)
        of->began_s = now_s;
    turn_period(of, now_s);
    of->n_ours = one_more(of->n_ours);
    of->ours_ms[0] = larger(of->ours_ms[0], ms_of(age_ns));
    ka_learned_climb(of, ladder, now_s);
}

void ka_learned_raced(ka_learned *of, const ka_ladder *ladder, uint32_t now_s)
{
    of->n_races = one_more(of->n_races);
    of->marks |= KA_LEARNED_RACED;
    ka_learned_climb(of, ladder, now_s);
}

void ka_learned_merge(ka_learned *of, const ka_ladder *ladder, const ka_learned *other, uint32_t now_s)
{
    int is_new = of->n_theirs + of->n_ours == 0;
    for (unsigned k = 0; k < 2; k++) {
        of->theirs_ms[k] = larger(of->theirs_ms[k], other->theirs_ms[k]);
        of->ours_ms[k] = larger(of->ours_ms[k], other->ours_ms[k]);
    }
    of->n_theirs = of->n_theirs > other->n_theirs ? of->n_theirs : other->n_theirs;
    of->n_ours = of->n_ours > other->n_ours ? of->n_ours : other->n_ours;
    of->n_races = of->n_races > other->n_races ? of->n_races : other->n_races;
    of->marks |= other->marks & (KA_LEARNED_RACED | KA_LEARNED_RACED_BEFORE);
    if (is_new) {
        of->began_s = other->began_s;
        of->marks |= other->marks & KA_LEARNED_AGREED;
    }
    ka_learned_climb(of, ladder, now_s);
    if (is_new)
        of->since_s = other->since_s;
}
