/* ka_talk_check.c: the invariants of a conversation, for assertions, tests and fuzzers. */
#include "talk/ka_h2.h"

/* Which states go together: for each of what is read and what is written, the ka_persistence that there may be. */
enum {
    PERSISTS = 1 << KA_PERSISTS,
    CLOSES = 1 << KA_CLOSES,
    ENDS = CLOSES | 1 << KA_LINGERS,
    ANY = PERSISTS | ENDS
};

static const uint8_t states[KA_N_READING][KA_N_WRITING] = {
    /*                        NOTHING   CONTENT  DONE               CUT */
    [KA_READING_HEAD] = {PERSISTS, 0, 0, 0},
    [KA_READING_DISCARD] = {0, 0, PERSISTS | CLOSES, 0}, /* CLOSES: the server began to stop meanwhile */
    [KA_READING_CLOSED] = {ENDS, 0, ENDS, ENDS},
    [KA_READING_EXPECTED] = {ANY, ENDS, ENDS, ENDS}, /* a response without 100 leaves it open what the client does */
    [KA_READING_CONTENT] = {ANY, ANY, ANY, ENDS},
    [KA_READING_FAILED] = {0, 0, ENDS, ENDS},
    [KA_READING_TUNNEL] = {0, ANY, ANY, 0}, /* its end is the end of its bytes: none is cut */
};

#define WITH(reading, writing)                                                         \
    {reading ", " writing ", and it persists", reading ", " writing ", and it closes", \
     reading ", " writing ", and it lingers"}
#define NAMES(reading)                                                                                        \
    {WITH(reading, "no response begun"), WITH(reading, "a response begun"), WITH(reading, "a response done"), \
     WITH(reading, "a response cut off")}

static const char *const names[KA_N_READING][KA_N_WRITING][KA_N_PERSISTENCE] = {
    [KA_READING_HEAD] = NAMES("a head is read"),     [KA_READING_DISCARD] = NAMES("content is thrown away"),
    [KA_READING_CLOSED] = NAMES("nothing is read"),  [KA_READING_EXPECTED] = NAMES("content is held back"),
    [KA_READING_CONTENT] = NAMES("content is read"), [KA_READING_FAILED] = NAMES("content broke a rule"),
    [KA_READING_TUNNEL] = NAMES("a tunnel is read"),
};

const char *ka_talk_check_states(unsigned reading, unsigned writing, unsigned persistence)
{
    if (reading >= KA_N_READING || writing >= KA_N_WRITING || persistence >= KA_N_PERSISTENCE)
        return "a state that there is not";
    return states[reading][writing] >> persistence & 1 ? NULL : names[reading][writing][persistence];
}

#define MUST(condition, sentence) \
    if (!(condition))             \
    return sentence

static const char *check_exchange(const ka_talk *talk)
{
    const ka_exchange *x = &talk->exchange;
    const char *wrong = ka_talk_check_states(x->reading, x->writing, talk->persistence);
    int is_open = ka_exchange_is_open(x);
    MUST(wrong == NULL, wrong);
    MUST(x->talk == talk, "an exchange is on another connection");
    MUST(x->owner == NULL || is_open, "an exchange is held after its end");
    MUST(!x->wants_body || is_open, "content is wanted without a request");
    MUST(x->hold == KA_HOLD_NOT || is_open, "an application is held back without a request");
    MUST(x->reading != KA_READING_DISCARD || !ka_body_is_over(&x->body), "nothing is left to throw away");
    MUST(x->reading != KA_READING_EXPECTED || !ka_body_is_over(&x->body), "nothing is left to hold back");
    MUST(!ka_exchange_is_answering(x) || !x->reply.is_over, "a response is over, and nobody was told");
    MUST(!ka_exchange_is_answering(x) || ka_exchange_is_started(x) == x->reply.is_started,
         "a response has begun, and nobody was told");
    MUST((talk->persistence == KA_PERSISTS) == (talk->cause == KA_CAUSE_NONE),
         "the connection ends without a cause, or does not, with one");
    MUST(talk->cause == KA_CAUSE_NONE || ka_is_cause(talk->cause), "the connection ends by a cause that there is not");
    return NULL;
}

const char *ka_talk_check(const ka_talk *talk)
{
    const ka_buf *in = talk->in, *last = NULL;
    size_t unsent = 0;
    MUST(in == NULL || (in->owner == NULL && in->start <= in->end && in->end <= in->cap),
         "the input buffer is not one of input");
    MUST(in == NULL || (talk->window == in->data + in->start && talk->window_len == ka_buf_len(in)),
         "the window is not what waits in the input buffer");
    MUST(in || talk->window_len == 0 || (talk->is_driven && talk->window), "a window outlived its turn");
    MUST(talk->checked <= talk->window_len, "more bytes were looked at than there are");
    for (const ka_buf *buf = talk->out; buf; buf = buf->next) {
        MUST(buf->start <= buf->end && (buf->cap == 0 || buf->end <= buf->cap),
             "an output buffer ends outside of itself");
        unsent += ka_buf_len(buf);
        last = buf;
    }
    MUST(last == talk->out_last, "the last output buffer is another");
    MUST(unsent == talk->unsent, "the unsent bytes are miscounted");
    if (talk->h2) {
        const char *wrong = ka_h2_check(talk->h2);
        MUST(wrong == NULL, wrong);
    }
    return check_exchange(talk);
}
