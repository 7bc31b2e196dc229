/* ka_h2_parts.h: what the files of the conversation in HTTP/2 have of each other. Private to them. */
#ifndef KA_H2_PARTS_H
#define KA_H2_PARTS_H

#include "talk/ka_h2.h"
#include "talk/ka_talk_parts.h"

/* Work done for nothing, see ka_h2_charge. */
enum {
    KA_H2_COST_FRAME = 1,     /* PING, PRIORITY, WINDOW_UPDATE, unknown ones */
    KA_H2_COST_EMPTY = 2,     /* DATA without content, END_STREAM or anything else to say */
    KA_H2_COST_CANCEL = 10,   /* a request that is given up; SETTINGS */
    KA_H2_COST_FAULT = 20,    /* a stream error, CONTINUATION */
    KA_H2_CREDIT_SENT = 2,    /* a frame of content that was sent */
    KA_H2_CREDIT_DONE = 20,   /* a request that was answered */
    KA_H2_CREDIT_SECOND = 50, /* and by time */
    KA_H2_MAX_DEBT = 5000
};

static inline ka_h2_stream *ka_h2_stream_of(const ka_exchange *x) { return (ka_h2_stream *)(uintptr_t)x; }
static inline ka_h2_service *ka_h2_service_of(const ka_h2 *h2) { return h2->talk->service->h2; }

/* --- what is known of the streams of late --- */

static inline uint32_t ka_h2_distance(const ka_h2 *h2, uint32_t id) { return (h2->last_stream - id) / 2; }

static inline int ka_h2_past_has(const ka_h2_past *past, uint32_t n)
{
    return n < KA_H2_REMEMBERED && ((n < 64 ? past->near : past->far) >> n % 64 & 1) != 0;
}

static inline void ka_h2_past_add(ka_h2_past *past, uint32_t n)
{
    if (n < KA_H2_REMEMBERED)
        *(n < 64 ? &past->near : &past->far) |= (uint64_t)1 << n % 64;
}

/* `n` streams came. */
static inline void ka_h2_past_shift(ka_h2_past *past, uint32_t n)
{
    if (n >= 64) {
        past->far = n < KA_H2_REMEMBERED ? past->near << (n - 64) : 0;
        past->near = 0;
    } else if (n) {
        past->far = past->far << n | past->near >> (64 - n);
        past->near <<= n;
    }
}

/* --- ka_h2.c --- */
ka_h2_stream *ka_h2_find(const ka_h2 *h2, uint32_t id);
ka_h2_stream *ka_h2_open(ka_h2 *h2, uint32_t id); /* NULL: no memory */
void ka_h2_close(ka_h2 *h2, ka_h2_stream *s);     /* it is gone, and whoever has it is told */
void ka_h2_unhold(ka_h2 *h2, ka_h2_stream *s);    /* the application is not to have it, or not later */
void ka_h2_lose(ka_h2 *h2, ka_h2_stream *s);      /* the application has it no longer */
void ka_h2_touch(ka_h2 *h2, ka_h2_stream *s);     /* look at it in the turn */
void ka_h2_untouch(ka_h2 *h2, ka_h2_stream *s);
/* RST_STREAM, and it is gone. */
void ka_h2_reset(ka_h2 *h2, ka_h2_stream *s, unsigned error, ka_cause cause);
void ka_h2_put_rst(ka_h2 *h2, uint32_t id, unsigned error);
int ka_h2_was_reset(const ka_h2 *h2, uint32_t id);

/* One account a connection of what a client has us do for nothing: what is worth something pays it off, and so does time.
 * Over its bound the connection ends (RFC 9113 10.5). */
void ka_h2_charge(ka_h2 *h2, unsigned cost, int64_t now);
static inline void ka_h2_credit(ka_h2 *h2, unsigned worth) { h2->debt = h2->debt > worth ? h2->debt - worth : 0; }

/* --- ka_h2_out.c --- */
void ka_h2_ready(ka_h2 *h2, ka_h2_stream *s); /* it may have content that may be sent */
void ka_h2_unready(ka_h2 *h2, ka_h2_stream *s);
void ka_h2_drop_out(ka_h2 *h2, ka_h2_stream *s); /* what is not in the output */
/* Fields as lines, and perhaps a status before them, as HEADERS. 0 or KA_ENOMEM. */
int ka_h2_put_lines(ka_h2 *h2, ka_h2_stream *s, unsigned status, const char *lines, size_t len, int64_t length,
                    int is_head, int ends);
int ka_h2_put_end(ka_h2 *h2, ka_h2_stream *s); /* END_STREAM, or the trailers, behind what was sent */
/* Content into the output at once, if nothing stands before it. 1: done; 0: it must wait; KA_ENOMEM. */
int ka_h2_put_now(ka_h2 *h2, ka_h2_stream *s, const char *bytes, size_t len, int ends);
void ka_h2_look_at_readers(ka_h2 *h2);      /* whether they are waited for has changed */
void ka_h2_give_in(ka_h2 *h2, ka_buf *buf); /* one whose content was read, or is not wanted */
char *ka_h2_room(ka_h2 *h2, size_t n);      /* for a frame of the connection; NULL: none, and the connection fails */
void ka_h2_put_credit(ka_h2 *h2, ka_h2_stream *s); /* WINDOW_UPDATE, where it is time for one; s: NULL, or alive */

#endif
