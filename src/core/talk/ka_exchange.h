/* ka_exchange.h: one request and its response, as the application's side knows it.
 *
 * What is there once for each of many requests that share a connection. HTTP/1 has one at a time, so it is part of its
 * ka_talk, from the head of a request to the last byte of its response, and is used again for the next; a stream of HTTP/2
 * has one of its own. Nothing here presupposes that it is alone on its connection.
 *
 * Whoever answers requests calls what stands here and nothing else: never a ka_talk. */
#ifndef KA_EXCHANGE_H
#define KA_EXCHANGE_H

#include "http/ka_body.h"
#include "http/ka_reply.h"
#include "table/ka_phase.h"

enum {
    KA_OUT_HIGH = 64 * 1024,  /* unsent bytes above which the application is held back */
    KA_OUT_LOW = 16 * 1024,   /* ... and below which it may go on */
    KA_COPY_MAX = 8 * 1024,   /* content up to this size is copied behind the head, so that both leave in one piece */
    KA_PUSH_MAX = 256 * 1024, /* pushed between two turns: who goes on and on lets others have one */
    KA_DRAIN_MAX = 64 * 1024  /* an unread body of this size at most is thrown away, to keep the connection */
};

typedef struct ka_talk ka_talk;

/* What comes next from the client. HTTP/1 uses its exchange again, and so has states between two requests; a stream
 * begins with its head, and is gone with its end. The order says to whom the bytes belong: see ka_exchange_is_open. */
typedef enum {
    KA_READING_HEAD,     /* the head of the next request */
    KA_READING_DISCARD,  /* the rest of content that the application left unread */
    KA_READING_CLOSED,   /* nothing: the last exchange is over */
    KA_READING_EXPECTED, /* content that the client holds back for a while: Expect: 100-continue, not answered yet */
    KA_READING_CONTENT,  /* content, if any of it is left */
    KA_READING_FAILED,   /* content that breaks a rule: `fault` says which */
    KA_READING_TUNNEL,   /* 101 or 2xx to CONNECT is sent: both directions are the application's bytes, until it ends */
    KA_N_READING
} ka_reading;

/* How far the response is. */
typedef enum {
    KA_WRITING_NOTHING, /* not begun */
    KA_WRITING_CONTENT, /* the head is written */
    KA_WRITING_DONE,    /* complete, or given up before it began; perhaps not sent yet */
    KA_WRITING_CUT,     /* broken off: its end must not look like one */
    KA_N_WRITING
} ka_writing;

/* What a writer that gives more than the client takes waits for; it is told by KA_NEWS_LOW. */
typedef enum {
    KA_HOLD_NOT,
    KA_HOLD_LOW,   /* until at most KA_OUT_LOW bytes are unsent */
    KA_HOLD_EMPTY, /* until nothing is unsent */
    KA_HOLD_TURN   /* until the others had their turns; then as KA_HOLD_LOW */
} ka_hold;

/* Which of these, and of ka_persistence, go together stands in one table, in ka_talk_check.c. */
typedef struct {
    ka_talk *talk; /* the connection it is on, and by it the service; not owned */
    void *owner;   /* the application's side of the request, one hold on it; NULL once the application let go */
    ka_body body;
    ka_reply reply;
    ka_fault fault;      /* also of a head that could not be read: what answers it is an exchange */
    int64_t max_body;    /* content of the request, by its class */
    uint32_t head_bytes; /* of the request */
    uint16_t head_flags; /* KA_HEAD_* of it */
    uint8_t reading;     /* ka_reading */
    uint8_t writing;     /* ka_writing */
    uint8_t hold;        /* ka_hold */
    uint8_t wants_body;  /* the application waits for content */
    uint8_t is_h2;       /* it is a stream of HTTP/2 */
    uint8_t timed_at;    /* the ka_writing from which on ka_exchange_time has something to count; KA_TIMED: none */
    int64_t since_ns;    /* when its head was here; while it is timed */
} ka_exchange;

enum {
    KA_TIMED = KA_N_WRITING /* of timed_at */
};

/* The head of a request is here: its time is taken from now on. */
static inline void ka_exchange_begins(ka_exchange *x, int64_t now)
{
    x->since_ns = now;
    x->timed_at = KA_WRITING_CONTENT;
}

/* Whether its response has begun, or ended, since ka_exchange_time was last called. */
static inline int ka_exchange_is_untimed(const ka_exchange *x) { return x->writing >= x->timed_at; }

/* Count how long that took. now: read as late as that is to be exact; where the application answers within its call, the
 * time of the pass says nothing. */
void ka_exchange_time(ka_exchange *x, int64_t now);

/* The application has a request: it reads content, and responds. */
static inline int ka_exchange_is_open(const ka_exchange *x) { return x->reading >= KA_READING_EXPECTED; }

/* Its response is complete, or will never be: the turn is to end it. */
static inline int ka_exchange_is_over(const ka_exchange *x)
{
    return ka_exchange_is_open(x) && x->writing >= KA_WRITING_DONE;
}

/* The application has a request, and has not said all of its response. */
static inline int ka_exchange_is_answering(const ka_exchange *x)
{
    return ka_exchange_is_open(x) && x->writing < KA_WRITING_DONE;
}

static inline int ka_exchange_is_tunnel(const ka_exchange *x) { return x->reading == KA_READING_TUNNEL; }

/* A part of the final response has been written. */
static inline int ka_exchange_is_started(const ka_exchange *x) { return x->writing != KA_WRITING_NOTHING; }

/* The client knows no chunks, interim responses and trailers. */
static inline int ka_exchange_is_http_1_0(const ka_exchange *x) { return x->reply.minor == 0; }

/* The status of the response, if one has begun; else 0. */
static inline unsigned ka_exchange_status(const ka_exchange *x)
{
    return x->reply.is_started || x->reply.is_over ? x->reply.status : 0;
}

/* Bytes of content that the response has so far. */
static inline int64_t ka_exchange_n_content(const ka_exchange *x) { return x->reply.is_head ? 0 : x->reply.n_content; }

/* After KA_EINVAL: which rule was broken; NULL: none that has a name. Static storage. */
static inline const char *ka_exchange_why(const ka_exchange *x) { return x->reply.why; }

/* --- about its connection --- */

ka_handle ka_exchange_conn(const ka_exchange *x);
int ka_exchange_sees_fin(const ka_exchange *x);    /* the client sent FIN, perhaps behind bytes that are not taken in */
int ka_exchange_is_draining(const ka_exchange *x); /* the server is about to stop */

/* Of an extended CONNECT (RFC 8441), in `on_request`: the protocol that is asked for; NULL: it is none. */
const char *ka_exchange_protocol(const ka_exchange *x, size_t *len);

/* --- the verbs ---
 *
 * The one place where the conversations part: HTTP/1's are ka_h1_*, in ka_exchange.c, HTTP/2's ka_h2_*, in
 * ka_h2_exchange.c. */
#define KA_VERB(verb, ...) (ka_likely(!x->is_h2) ? ka_h1_##verb(__VA_ARGS__) : ka_h2_##verb(__VA_ARGS__))

ka_cause ka_h1_cause(const ka_exchange *x);
size_t ka_h1_unsent(const ka_exchange *x);
const char *ka_h1_head_bytes(const ka_exchange *x);
ptrdiff_t ka_h1_read(ka_exchange *x, char *to, size_t cap, int64_t now);
size_t ka_h1_readable(const ka_exchange *x);
int ka_h1_body_is_over(const ka_exchange *x);
int ka_h1_is_eof(const ka_exchange *x);
const char *ka_h1_peek(const ka_exchange *x, size_t *len);
int ka_h1_head_begin(ka_exchange *x, unsigned status, size_t field_bytes, char **at);
static inline int ka_h1_reword(ka_exchange *x, char **at, const char *reason, size_t len)
{
    return ka_reply_reword(&x->reply, at, reason, len);
}
static inline int ka_h1_field(ka_exchange *x, char **at, const char *name, size_t name_len, const char *value,
                              size_t value_len)
{
    return ka_reply_field(&x->reply, at, name, name_len, value, value_len);
}
int ka_h1_head_end(ka_exchange *x, char *at, int64_t whole, int64_t now);
int ka_h1_content(ka_exchange *x, const char *bytes, size_t len, int more, void *owner);
int ka_h1_file(ka_exchange *x, int fd, int64_t off, size_t len, int more, void *owner);
int ka_h1_trailers(ka_exchange *x, const char *lines, size_t len);
int ka_h1_interim(ka_exchange *x, unsigned status, const char *lines, size_t len);
int ka_h1_holds(ka_exchange *x);
int ka_h1_awaits_low(ka_exchange *x);
int ka_h1_awaits_empty(ka_exchange *x);
void ka_h1_rest(ka_exchange *x);
void ka_h1_done(ka_exchange *x, ka_cause cause);
int ka_h1_refuse(ka_exchange *x, unsigned status, const char *text, ka_cause cause, int64_t now);

ka_cause ka_h2_cause(const ka_exchange *x);
size_t ka_h2_unsent(const ka_exchange *x);
const char *ka_h2_head_bytes(const ka_exchange *x);
ptrdiff_t ka_h2_read(ka_exchange *x, char *to, size_t cap, int64_t now);
size_t ka_h2_readable(const ka_exchange *x);
int ka_h2_body_is_over(const ka_exchange *x);
int ka_h2_is_eof(const ka_exchange *x);
const char *ka_h2_peek(const ka_exchange *x, size_t *len);
int ka_h2_head_begin(ka_exchange *x, unsigned status, size_t field_bytes, char **at);
/* There are no reason phrases (RFC 9113 8.3.2). */
static inline int ka_h2_reword(const ka_exchange *x, char *const *at, const char *reason, size_t len)
{
    (void)x, (void)at, (void)reason, (void)len;
    return KA_OK;
}
int ka_h2_field(ka_exchange *x, char **at, const char *name, size_t name_len, const char *value, size_t value_len);
int ka_h2_head_end(ka_exchange *x, char *at, int64_t whole, int64_t now);
int ka_h2_content(ka_exchange *x, const char *bytes, size_t len, int more, void *owner);
int ka_h2_file(ka_exchange *x, int fd, int64_t off, size_t len, int more, void *owner);
int ka_h2_trailers(ka_exchange *x, const char *lines, size_t len);
int ka_h2_interim(ka_exchange *x, unsigned status, const char *lines, size_t len);
int ka_h2_holds(ka_exchange *x);
int ka_h2_awaits_low(ka_exchange *x);
int ka_h2_awaits_empty(ka_exchange *x);
void ka_h2_rest(ka_exchange *x);
void ka_h2_done(ka_exchange *x, ka_cause cause);
int ka_h2_refuse(ka_exchange *x, unsigned status, const char *text, ka_cause cause, int64_t now);

/* In `lost`: what it ends by, or its connection does; KA_CAUSE_NONE: that goes on. */
static inline ka_cause ka_exchange_cause(const ka_exchange *x) { return KA_VERB(cause, x); }

/* Bytes that wait for the client: of its connection, and of this response. */
static inline size_t ka_exchange_unsent(const ka_exchange *x) { return KA_VERB(unsent, x); }

/* What the head's offsets count from, in `on_request`. */
static inline const char *ka_exchange_head_bytes(const ka_exchange *x) { return KA_VERB(head_bytes, x); }

/* Read up to `cap` bytes of content. n > 0; 0 at the end; KA_PARTIAL: none here, wants_body is set and the driver told;
 * KA_EPEER: x->fault; KA_ESTALE: the client is gone. */
static inline ptrdiff_t ka_exchange_read(ka_exchange *x, char *to, size_t cap, int64_t now)
{
    return KA_VERB(read, x, to, cap, now);
}

/* Upper bound of what ka_exchange_read would give now. */
static inline size_t ka_exchange_readable(const ka_exchange *x) { return KA_VERB(readable, x); }

/* Nothing is left to read. Of a tunnel: the client will send nothing more. */
static inline int ka_exchange_body_is_over(const ka_exchange *x) { return KA_VERB(body_is_over, x); }

/* The client will send nothing more than what is here. */
static inline int ka_exchange_is_eof(const ka_exchange *x) { return KA_VERB(is_eof, x); }

/* Of a tunnel: the bytes that are here, until something is read. NULL when there are none. */
static inline const char *ka_exchange_peek(const ka_exchange *x, size_t *len) { return KA_VERB(peek, x, len); }

/* A response: head_begin, (reword)?, field*, head_end, content*.
 * head_begin: reserves `field_bytes` for the fields, name_len + value_len + 4 for each. KA_ENOMEM, KA_EINVAL. The head
 * can be given up before head_end by beginning anew. */
static inline int ka_exchange_head_begin(ka_exchange *x, unsigned status, size_t field_bytes, char **at)
{
    return KA_VERB(head_begin, x, status, field_bytes, at);
}

/* Right after it: another reason phrase; `len` more of field_bytes. Not sent where the protocol has none. */
static inline int ka_exchange_reword(ka_exchange *x, char **at, const char *reason, size_t len)
{
    return KA_VERB(reword, x, at, reason, len);
}

static inline int ka_exchange_field(ka_exchange *x, char **at, const char *name, size_t name_len, const char *value,
                                    size_t value_len)
{
    return KA_VERB(field, x, at, name, name_len, value, value_len);
}

/* For head_end: how long is the content? */
enum {
    KA_WHOLE_UNKNOWN = -1,
    KA_WHOLE_TUNNEL = -2 /* no content: the exchange is a byte stream from here on */
};

/* whole: content length if it is complete and known, else KA_WHOLE_*. Decides about the connection. KA_WHOLE_TUNNEL with
 * 101 to a request with Upgrade, or 2xx to CONNECT: read and content then move bare bytes, and the end of the content
 * closes the connection. The request's own content must have been read (RFC 9110 7.8). */
static inline int ka_exchange_head_end(ka_exchange *x, char *at, int64_t whole, int64_t now)
{
    return KA_VERB(head_end, x, at, whole, now);
}

/* One piece of content. owner: NULL = copy; else the bytes are referred to and `owner` released when they are sent
 * (the hold passes over in every case). Ends the exchange's response when !more. */
static inline int ka_exchange_content(ka_exchange *x, const char *bytes, size_t len, int more, void *owner)
{
    return KA_VERB(content, x, bytes, len, more, owner);
}

/* The same for `len` bytes of an open file from `off` on, sent by the kernel from there: `owner` keeps it open. A file
 * that turns out shorter ends the connection, since the promise cannot be kept. */
static inline int ka_exchange_file(ka_exchange *x, int fd, int64_t off, size_t len, int more, void *owner)
{
    return KA_VERB(file, x, fd, off, len, more, owner);
}

/* A field line for trailers and interim responses, into room of the caller's; name_len + value_len + 4. */
static inline int ka_exchange_line(ka_exchange *x, char **at, const char *name, size_t name_len, const char *value,
                                   size_t value_len)
{
    return ka_reply_line(&x->reply, at, name, name_len, value, value_len);
}

/* End a response with trailer fields, as lines that ka_exchange_line wrote; without them where the framing has no place
 * for any (RFC 9112 7.1.2). */
static inline int ka_exchange_trailers(ka_exchange *x, const char *lines, size_t len)
{
    return KA_VERB(trailers, x, lines, len);
}

/* An interim response (100, 103), with fields as lines that ka_exchange_line wrote. */
static inline int ka_exchange_interim(ka_exchange *x, unsigned status, const char *lines, size_t len)
{
    return KA_VERB(interim, x, status, lines, len);
}

/* Must the application wait before it gives more? It is told by KA_NEWS_LOW then, unless the connection ends. The other
 * two: is more unsent than KA_OUT_LOW, is anything? */
static inline int ka_exchange_holds(ka_exchange *x) { return KA_VERB(holds, x); }
static inline int ka_exchange_awaits_low(ka_exchange *x) { return KA_VERB(awaits_low, x); }
static inline int ka_exchange_awaits_empty(ka_exchange *x) { return KA_VERB(awaits_empty, x); }

/* The application has more to give, and lets the others have their turns first: it is told by KA_NEWS_LOW. */
static inline void ka_exchange_rest(ka_exchange *x) { KA_VERB(rest, x); }

/* The application is through with the request: nothing more will be read or written for it. An unfinished response
 * cuts the connection off, for this cause. */
static inline void ka_exchange_done(ka_exchange *x, ka_cause cause) { KA_VERB(done, x, cause); }

/* Answer for the application: a short text, Connection: close, and the connection is over.
 * Return KA_EINVAL when part of a response has left already: then it can only be given up. */
static inline int ka_exchange_refuse(ka_exchange *x, unsigned status, const char *text, ka_cause cause, int64_t now)
{
    return KA_VERB(refuse, x, status, text, cause, now);
}

#undef KA_VERB

#endif
