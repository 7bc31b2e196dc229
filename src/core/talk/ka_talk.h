/* ka_talk.h: one connection's conversation, without I/O.
 *
 * Bytes go in, requests come out one at a time; replies go in, bytes come out in the order of the requests. What a
 * byte of the conversation means is decided here and nowhere else: pipelining, 100-continue, unread bodies, when the
 * connection is over. Whether it is kept, and every deadline, ka_conn decides. The engine, the path over an event
 * loop's transports and TLS only move bytes.
 *
 * One exchange at a time: while the application has a request, the next one is not parsed and, once a head's worth of
 * it has come, not read (ka_talk_appetite): the rest stays in the kernel, whose buffers bound it for every connection.
 * A talk exists only while something is pending; an idle connection has none.
 *
 * The driver's turn, for bytes that arrived:
 *     ka_talk_arrived(talk, bytes, n)            the window: borrowed until ka_talk_park
 *     loop  ka_talk_next(talk, now, ...)
 *       KA_TALK_REQUEST  hand it to the application, which may answer at once or later
 *       KA_TALK_BODY     the application waits for content, and there is some (or its end, or its failure)
 *       KA_TALK_WAIT     the application has a request and does not want bytes: read nothing
 *       KA_TALK_READ     more bytes are needed
 *       KA_TALK_HTTP2    its first bytes are the preface of HTTP/2: go on with ka_h2_begin, and never ask here again
 *       KA_TALK_LINGER   send what is pending, then FIN, then read and discard
 *       KA_TALK_CLOSE    send what is pending, then close
 *     send ka_talk->out, reporting ka_talk_sent
 *     ka_talk_settle(talk, now)                  the phase follows from the facts
 *     ka_talk_park(talk)                         what is left of the window is copied; the window is the driver's again */
#ifndef KA_TALK_H
#define KA_TALK_H

#include "table/ka_known.h"
#include "talk/ka_buf.h"
#include "talk/ka_exchange.h"

enum {
    KA_READ_AHEAD = 16 * 1024, /* taken in ahead of its turn: a large head's worth, most pipelines whole */
    KA_READ_MAX = 64 * 1024,   /* taken in at once */
    KA_READ_BEHIND = 4096      /* room that is made behind bytes that wait */
};

/* Is another request taken on the connection? */
typedef enum {
    KA_PERSISTS,
    KA_CLOSES,  /* `cause` says why */
    KA_LINGERS, /* the same, and input is unread or expected when we close */
    KA_N_PERSISTENCE
} ka_persistence;

/* Will the client send more? */
typedef enum {
    KA_FIN_NONE,
    KA_FIN_BEHIND, /* its FIN is behind bytes that are not taken in */
    KA_FIN_HERE    /* everything before its FIN is here: no byte will come */
} ka_fin;

/* What happened to a request that the application has. */
typedef enum {
    KA_NEWS_BODY,  /* content (or its end, or its failure) can be read */
    KA_NEWS_LOW,   /* unsent output is low again: a held application may go on */
    KA_NEWS_DRAIN, /* the server is about to stop: a tunnel has until the drain's deadline to end well */
    KA_NEWS_EOF    /* the client sent FIN: no further request, and no more content */
} ka_news;

/* What an operator should know; at most once in ten seconds each. */
typedef enum {
    KA_NOTICE_DESCRIPTORS /* no descriptor was left for a new connection */
} ka_notice;

/* What whoever moves the bytes calls the application for, all in its thread. docs/embedding-c.md has a table of what may be
 * called from within each; no talk is freed, and no connection ends, from within any. NULL where that is said: not wanted. */
typedef struct {
    void *ctx;
    void (*on_request)(void *ctx, ka_exchange *x, const ka_head *head, const ka_field *fields);
    void (*on_news)(void *ctx, ka_exchange *x, ka_news news);
    void (*on_lost)(void *owner); /* its exchange ended and not by the application's doing: drop the hold on it */
    void (*release)(void *owner); /* see ka_pool */
    /* NULL. Answered here, and no application has seen it: ka_exchange_status. */
    void (*on_refused)(void *ctx, ka_exchange *x);
    /* NULL. The connection can still be asked about (phase, requests, peer). */
    void (*on_closed)(void *ctx, ka_handle conn, ka_cause cause);
    void (*on_race)(void *ctx, ka_handle conn, ka_cause cause); /* NULL; a request crossed our close of it */
    void (*on_settled)(void *ctx, const ka_known *network);     /* NULL; see ka_known_settled */
    /* Which class is it of? Asked only while the service says so. */
    unsigned (*class_of_client)(void *ctx, unsigned listener, const ka_client *client);
    unsigned (*class_of_request)(void *ctx, ka_exchange *x, const ka_head *head, const ka_field *fields);
    /* Of the engine alone. */
    void (*on_wake)(void *ctx);                   /* ka_engine_wake was called */
    void (*on_notice)(void *ctx, ka_notice what); /* NULL */
} ka_application;

/* The lists a talk may be on, each for whoever gives it turns. */
typedef enum {
    KA_NOTED, /* something changed between its turns: output is pending, content is wanted, the exchange is over */
    KA_LATER, /* it had its turn and has more to do: after the others' */
    KA_N_LISTS
} ka_list;

typedef struct {
    ka_talk *first, *last;
    uint32_t n;
} ka_talk_list;

/* The conversation in HTTP/2, and what all of those share: ka_h2.h. */
typedef struct ka_h2 ka_h2;
typedef struct ka_h2_service ka_h2_service;

/* What all conversations of one server share. */
typedef struct {
    ka_table *table;
    ka_counters *counters; /* the table's */
    ka_application app;
    ka_pool pool;
    ka_reply_common common;
    ka_limits limits;
    ka_field *fields;    /* room for limits.max_headers, owned; valid between ka_talk_next and the next call of it */
    ka_talk *free_talks; /* owned; at most KA_TALKS_KEEP */
    ka_talk *parked[KA_BUF_SIZES + 1]; /* with bytes of the client that wait, by their class: rings, oldest first */
    ka_talk_list lists[KA_N_LISTS];    /* in the order they came */
    ka_h2_service *h2;                 /* owned; NULL: HTTP/2 is not served */
    uint32_t n_free_talks, n_talks;
    uint8_t asks_clients, asks_requests; /* whether the application is asked for the class of each */
} ka_service;

struct ka_talk {
    ka_service *service; /* not owned */
    ka_handle conn;
    ka_h2 *h2;                          /* owned; NULL: it speaks HTTP/1 */
    ka_buf *in;                         /* owned: bytes that waited, or NULL */
    ka_talk *parked_next, *parked_prev; /* in the service's ring, while bytes of the client wait */
    const char *window;                 /* bytes to be parsed next: inside `in` or the driver's */
    size_t window_len;
    ka_buf *out, *out_last; /* owned: bytes to be sent */
    size_t unsent;          /* bytes in `out` */
    struct {
        ka_talk *next, *prev;
    } listed[KA_N_LISTS];
    ka_exchange exchange; /* the one whose turn it is; none before its head is here, see ka_exchange_is_open */
    int32_t outq;         /* the kernel's send queue when last asked, for progress in WRITE */
    uint32_t n_pushed;    /* bytes that left by ka_turn_push since the last turn began */
    uint32_t checked;     /* of a head: see ka_head_parse; of a body: bytes at the window's start that are looked at */
    uint8_t persistence;  /* ka_persistence */
    uint8_t cause;        /* ka_cause the connection ends by, once it does not persist */
    uint8_t fin;          /* ka_fin */
    uint8_t may_switch;   /* behind the request the client may have sent what is no HTTP: CONNECT, most of Upgrade */
    uint8_t is_driven;    /* the driver is inside its turn for this talk */
    uint8_t is_noted;     /* on the list KA_NOTED */
    uint8_t is_later;     /* on the list KA_LATER */
    uint8_t is_filtered;  /* its bytes come through a filter, which would have said that they are HTTP/2 (ALPN) */
    uint8_t rank;         /* in which of the service's rings, counted from 1; 0: none */
    uint8_t is_last;      /* FIN is sent as soon as what is pending has left: the two may share a packet */
    uint8_t broken;       /* the ka_cause to end for, which a push has found: the turn does it */
};

typedef enum {
    KA_TALK_REQUEST,
    KA_TALK_BODY,
    KA_TALK_WAIT,
    KA_TALK_READ,
    KA_TALK_HTTP2,
    KA_TALK_LINGER,
    KA_TALK_CLOSE
} ka_talk_step;

/* limits, app: copied. 0 or KA_ENOMEM. */
int ka_service_init(ka_service *service, ka_table *table, const ka_limits *limits, size_t max_buffer_bytes,
                    const ka_application *app);
void ka_service_free(ka_service *service);
/* Fields of every response besides the application's: whole lines, copied. sends_date: 0 = no Date. 0 or KA_ENOMEM. */
int ka_service_set_fields(ka_service *service, const char *lines, uint32_t len, int sends_date);

ka_talk *ka_talk_new(ka_service *service, ka_handle conn); /* NULL: out of memory */
void ka_talk_free(ka_talk *talk);                          /* gives everything back */

/* --- the driver's side --- */
void ka_talk_put(ka_talk *talk, ka_list list);                      /* at its end; if it is there, nothing */
void ka_talk_take(ka_talk *talk, ka_list list);                     /* off it; if it is not there, nothing */
void ka_talk_arrived(ka_talk *talk, const char *bytes, size_t len); /* the window was empty */
void ka_talk_eof(ka_talk *talk);
ka_talk_step ka_talk_next(ka_talk *talk, int64_t now, ka_head *head);
void ka_talk_sent(ka_talk *talk, size_t nbytes);
int ka_talk_settle(ka_talk *talk, int64_t now); /* report the phase to ka_conn; the phase */
int ka_talk_park(ka_talk *talk);                /* 0 or KA_ENOMEM: the window could not be kept, close */
int ka_talk_is_idle(const ka_talk *talk);       /* nothing pending, no turn put off: it can be freed */

/* How many bytes may be taken in now: what is asked for, and KA_READ_AHEAD beyond; 0 = the rest is to stay outside. At
 * most KA_READ_MAX. Never 0 after KA_TALK_READ. */
size_t ka_talk_appetite(const ka_talk *talk);

/* Of the talks with bytes that wait, whoever has the largest buffer, among equals the longest; NULL: nobody has, outside
 * of a turn of its own. */
ka_talk *ka_service_fattest(const ka_service *service);

/* Give up what the peer sent ahead of its turn: the response in progress will be the last. Return 0, and nothing is
 * given up, where more than that would be lost: end the connection. */
int ka_talk_drop_ahead(ka_talk *talk);

/* Room behind the bytes that wait, for a read that must not move them. NULL: out of memory or at the cap. */
char *ka_talk_room(ka_talk *talk, size_t want, size_t *room);
void ka_talk_filled(ka_talk *talk, size_t nbytes);

/* Walk every invariant: the window, the lists of buffers, which facts go together. Return NULL, or a static sentence naming
 * the first broken one. Right between calls of the others; with KA_DEBUG asserted after every turn. */
const char *ka_talk_check(const ka_talk *talk);
/* NULL: a ka_reading, ka_writing and ka_persistence that go together. Else which they are; static storage. */
const char *ka_talk_check_states(unsigned reading, unsigned writing, unsigned persistence);

/* No request is taken after the one in progress, if any, and this is why. What was decided before stands. */
static inline void ka_talk_end_with(ka_talk *talk, ka_cause cause)
{
    if (talk->persistence != KA_PERSISTS)
        return;
    talk->persistence = KA_CLOSES;
    talk->cause = (uint8_t)cause;
    if (talk->exchange.reading == KA_READING_HEAD)
        talk->exchange.reading = KA_READING_CLOSED;
}

/* The client sent FIN: everything before it is here; perhaps behind bytes that are not taken in. */
static inline int ka_talk_is_eof(const ka_talk *talk) { return talk->fin == KA_FIN_HERE; }
static inline int ka_talk_sees_fin(const ka_talk *talk) { return talk->fin != KA_FIN_NONE; }

/* A response was broken off: the end of the connection must not look like the response's. */
static inline int ka_talk_is_cut(const ka_talk *talk) { return talk->exchange.writing == KA_WRITING_CUT; }

/* Closed now, would the client take what it has for the whole response, since only the end of the connection tells where
 * that ends (HTTP/1.0)? Then it is to be a reset, RFC 9112 8. */
static inline int ka_talk_needs_reset(const ka_talk *talk)
{
    const ka_exchange *x = &talk->exchange;
    return x->writing != KA_WRITING_NOTHING && x->reply.frame == KA_FRAME_CLOSE &&
           (x->writing != KA_WRITING_DONE || talk->unsent);
}

/* May a held application go on? */
static inline int ka_talk_is_low(const ka_talk *talk)
{
    uint8_t hold = talk->exchange.hold;
    return hold != KA_HOLD_TURN && talk->unsent <= (hold == KA_HOLD_EMPTY ? 0 : (size_t)KA_OUT_LOW);
}

#endif
