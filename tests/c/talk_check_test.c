/* What ka_talk_check says: which states go together, and what else must hold.
 * link: http h2 table talk */
#include "talk_driver.h"

#define GET "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

static void never(wire *w)
{
    (void)w;
    CHECK(0, "nobody asked for content");
}

static void keeps_it(wire *w, const ka_head *head)
{
    (void)w;
    (void)head;
}

static void the_check_names_what_is_broken(void)
{
    wire *w = wire_open(keeps_it, never);
    wire_text(w, GET "GET");
    EXPECT(wire_answer(w, 200, "", "ok", 2) == KA_OK && ka_talk_check(w->talk) == NULL);
    const ka_talk sound = *w->talk;
#define BREAKS(change)                          \
    do {                                        \
        w->talk->change;                        \
        EXPECT(ka_talk_check(w->talk) != NULL); \
        *w->talk = sound;                       \
    } while (0)
    BREAKS(unsent += 1);
    BREAKS(out_last = NULL);
    BREAKS(window += 1);
    BREAKS(window_len -= 1);
    BREAKS(in = NULL);
    BREAKS(checked = 100);
    BREAKS(exchange.talk = NULL);
    BREAKS(exchange.reading = KA_READING_HEAD);
    BREAKS(exchange.reading = KA_READING_DISCARD);
    BREAKS(exchange.reading = KA_READING_EXPECTED);
    BREAKS(exchange.reading = KA_READING_FAILED);
    BREAKS(exchange.reading = KA_N_READING);
    BREAKS(exchange.writing = KA_WRITING_CUT);
    BREAKS(exchange.writing = KA_WRITING_NOTHING);
    BREAKS(exchange.writing = KA_N_WRITING);
    BREAKS(persistence = KA_CLOSES);
    BREAKS(persistence = KA_N_PERSISTENCE);
    BREAKS(cause = KA_CAUSE_CLIENT);
    EXPECT(ka_talk_check(w->talk) == NULL);
    wire_close(w);
}

/* The rules of ka_talk_check.c's table, said once more in another way. */
static int go_together(unsigned reading, unsigned writing, unsigned persistence)
{
    int persists = persistence == KA_PERSISTS;
    if (writing == KA_WRITING_CUT && persists)
        return 0;
    switch (reading) {
    case KA_READING_HEAD:     return writing == KA_WRITING_NOTHING && persists;
    case KA_READING_DISCARD:  return writing == KA_WRITING_DONE && persistence != KA_LINGERS;
    case KA_READING_CLOSED:   return writing != KA_WRITING_CONTENT && !persists;
    case KA_READING_EXPECTED: return writing == KA_WRITING_NOTHING || !persists;
    case KA_READING_CONTENT:  return 1;
    case KA_READING_FAILED:   return writing >= KA_WRITING_DONE && !persists;
    default:                  return writing == KA_WRITING_CONTENT || writing == KA_WRITING_DONE;
    }
}

static void states_that_do_not_go_together_are_named(void)
{
    const char *named[KA_N_READING * KA_N_WRITING * KA_N_PERSISTENCE];
    size_t n = 0;
    for (unsigned reading = 0; reading < KA_N_READING; reading++)
        for (unsigned writing = 0; writing < KA_N_WRITING; writing++)
            for (unsigned persistence = 0; persistence < KA_N_PERSISTENCE; persistence++) {
                const char *wrong = ka_talk_check_states(reading, writing, persistence);
                CHECK((wrong == NULL) == go_together(reading, writing, persistence), "%u, %u, %u: %s", reading, writing,
                      persistence, wrong ? wrong : "they go together");
                for (size_t i = 0; wrong && i < n; i++)
                    CHECK(strcmp(wrong, named[i]) != 0, "%s: named twice", wrong);
                if (wrong)
                    named[n++] = wrong;
            }
    EXPECT(n == 45);
    EXPECT(strcmp(ka_talk_check_states(KA_READING_HEAD, KA_WRITING_CUT, KA_CLOSES),
                  "a head is read, a response cut off, and it closes") == 0);
    EXPECT(ka_talk_check_states(KA_N_READING, 0, 0) && ka_talk_check_states(0, KA_N_WRITING, 0));
}

int main(void)
{
    the_check_names_what_is_broken();
    states_that_do_not_go_together_are_named();
    return CHECKS_DONE;
}
