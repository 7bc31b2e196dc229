/* ka_talk_parts.h: what the files of a conversation have of each other: ka_talk.c, the driver's side of HTTP/1, and
 * ka_exchange.c, the application's; and of the end of the output HTTP/2's as well. Private to them. */
#ifndef KA_TALK_PARTS_H
#define KA_TALK_PARTS_H

#include <string.h>

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

/* So many bytes of the client wait here: whoever has most goes first when there is no room for others'. */
void ka_talk_waits(ka_talk *talk, size_t nbytes);

/* --- the end of the output --- */

static inline void ka_talk_append(ka_talk *talk, ka_buf *buf)
{
    if (talk->out_last)
        talk->out_last->next = buf;
    else
        talk->out = buf;
    talk->out_last = buf;
}

/* `n` bytes of room there, or NULL. Written bytes count once ka_talk_wrote says so. */
static inline char *ka_talk_reserve(ka_talk *talk, size_t n)
{
    ka_buf *last = talk->out_last;
    if (last == NULL || ka_buf_room(last) < n) {
        last = ka_buf_take(&talk->service->pool, KA_USE_OUTPUT, n);
        if (last == NULL)
            return NULL;
        ka_talk_append(talk, last);
    }
    return last->data + last->end;
}

static inline void ka_talk_wrote(ka_talk *talk, size_t n)
{
    talk->out_last->end += n;
    talk->unsent += n;
}

/* The same for what ends at `at`. */
static inline void ka_talk_wrote_until(ka_talk *talk, const char *at)
{
    ka_talk_wrote(talk, (size_t)(at - (talk->out_last->data + talk->out_last->end)));
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
