/* ka_talk_parts.h: what the two files of HTTP/1's conversation have of each other: ka_talk.c, the driver's side, and
 * ka_exchange.c, the application's. Private to them. */
#ifndef KA_TALK_PARTS_H
#define KA_TALK_PARTS_H

#include "talk/ka_talk.h"

/* Something changed: it is to have a turn, but after this call, which may come from deep inside the application. In its
 * turn it will come to that by itself. */
static inline void ka_talk_attend(ka_talk *talk)
{
    if (!talk->is_driven)
        ka_talk_put(talk, KA_NOTED);
}

/* `nbytes` of the window are done with. */
static inline void ka_talk_consume(ka_talk *talk, size_t nbytes)
{
    if (nbytes == 0)
        return; /* and perhaps no window: NULL + 0 is undefined in C */
    talk->window += nbytes;
    talk->window_len -= nbytes;
    if (talk->in)
        talk->in->start += nbytes;
}

/* The next content from the window, at most `most` bytes: *piece, or *len = 0 at the end of the body.
 * KA_PARTIAL when the window gave nothing; KA_EPEER: x->fault, for the caller to answer. */
int ka_h1_next_piece(ka_exchange *x, size_t most, const char **piece, size_t *len);

/* Of one that is not over: can the rest of the body be thrown away within a bound, so that the connection is kept? For a chunked body only if
 * its end is here already: looked for on a copy of the state. */
int ka_h1_is_drainable(const ka_exchange *x);

/* Answer what breaks a rule of the protocol, if the client can still take it for the answer; else break off. */
void ka_h1_reject(ka_exchange *x, unsigned status, const char *text, int64_t now);

#endif
