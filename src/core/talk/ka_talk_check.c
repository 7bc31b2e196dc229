/* ka_talk_check.c: the invariants of a conversation, for assertions, tests and fuzzers. */
#include "talk/ka_talk.h"

#define MUST(condition, sentence) \
    if (!(condition))             \
    return sentence

static const char *check_facts(const ka_talk *talk)
{
    MUST(talk->exchange.owner == NULL || ka_exchange_is_open(&talk->exchange), "an exchange is held after its end");
    MUST(!talk->exchange.wants_body || ka_exchange_is_open(&talk->exchange), "content is wanted without a request");
    MUST(!talk->exchange.is_held || ka_exchange_is_open(&talk->exchange),
         "an application is held back without a request");
    MUST(!talk->is_draining || (!ka_exchange_is_open(&talk->exchange) && !ka_body_is_over(&talk->exchange.body)),
         "nothing is left to throw away");
    MUST(!ka_exchange_is_tunnel(&talk->exchange) || ka_exchange_is_open(&talk->exchange) || talk->is_last,
         "a tunnel is over, and requests may follow");
    MUST(!talk->exchange.is_failed || talk->is_last, "the peer broke a rule, and requests may follow");
    MUST(!talk->is_cut || talk->is_last, "a response was cut off, and requests may follow");
    MUST(!talk->is_last || ka_is_cause(talk->cause), "the connection ends without a cause");
    MUST(!ka_exchange_is_open(&talk->exchange) || ka_exchange_is_over(&talk->exchange) || !talk->exchange.reply.is_over,
         "a response is over, and nobody was told");
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
    return check_facts(talk);
}
