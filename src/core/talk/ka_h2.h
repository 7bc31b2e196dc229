/* ka_h2.h: one connection's conversation in HTTP/2 (RFC 9113), without I/O, beside that of HTTP/1 in ka_talk.h.
 *
 * A talk that speaks HTTP/2 has a ka_h2, from the client's preface to the end of the connection, and keeps it while it is
 * idle: what HPACK remembers of both sides, and a few numbers. All that open streams need is in its ka_h2_live, which is
 * there while there are any. A stream is an exchange: the application's side knows it by its verbs (ka_h2_* of
 * ka_exchange.h) and by nothing else.
 *
 *     ka_h2_in.c        frames in: what they mean for streams, windows and the connection
 *     ka_h2_exchange.c  the verbs: content that was read, responses
 *     ka_h2_out.c       frames out: heads in the order they are given, content by turns, as windows allow
 *     ka_h2.c           its life: begin, goodbye, faults, deadlines, the account of work done for nothing
 *     ka_h2_turn.h      the driver's turn
 *
 * What was given to HPACK to encode is in the output at once, so that both ends stay in step. Content waits with its stream
 * until the windows, and the others' turns, let it into the output. */
#ifndef KA_H2_H
#define KA_H2_H

#include "h2/ka_h2_frame.h"
#include "h2/ka_h2_head.h"
#include "h2/ka_hpack.h"
#include "talk/ka_h2_clock.h"
#include "talk/ka_talk.h"

typedef struct ka_h2_stream ka_h2_stream;
typedef struct ka_h2_live ka_h2_live;

/* What a server allows its clients. */
typedef struct {
    uint32_t max_streams; /* open at once on a connection, SETTINGS_MAX_CONCURRENT_STREAMS; 1 to 65,535 */
    uint32_t window;      /* bytes of content that a stream may send ahead at first; 65,535 or more */
    uint32_t max_window;  /* what that grows to, for a client that sends so much in a round trip */
} ka_h2_options;

extern const ka_h2_options ka_h2_options_default; /* 128; 65,535; 1 MiB */

enum {
    KA_H2_STREAMS_AHEAD =
        4,                  /* the window of a connection is that of so many streams: some may wait for their readers */
    KA_H2_EARLY = 4,        /* priorities that are remembered for streams to come */
    KA_H2_URGENCIES = 8,    /* RFC 9218 4.1 */
    KA_H2_BUCKETS = 32,     /* of streams, by their number */
    KA_H2_REMEMBERED = 128, /* streams of which it is known how they ended */
    KA_H2_TURN_REQUESTS = 64,   /* handed over in one turn */
    KA_H2_REQUEST_BYTES = 2048, /* what an open request takes besides its head: the stream, the application's objects */
    KA_H2_FIELD_BYTES = 160,    /* a field's two objects, besides their bytes; as in worst_case_bytes() */
    KA_H2_OUT_MOST = KA_OUT_HIGH * 2 /* unsent bytes above which nothing more is read */
};

struct ka_h2_stream {
    ka_exchange x;   /* first: an exchange of HTTP/2 is found so */
    ka_h2_wait wait; /* whom we wait for; by its class */
    uint32_t id;
    int32_t send_window, recv_window;
    int64_t declared;          /* content-length of the request, -1 = none */
    int64_t received;          /* content */
    ka_buf *in, *in_last;      /* owned: content that was not read */
    ka_buf *out, *out_last;    /* owned: content that is not in the connection's output */
    ka_buf *head;              /* owned: the request, until the application has it; see ka_h2_hold */
    ka_buf *trailers;          /* owned: field lines to end with */
    size_t n_in, queued;       /* bytes of both */
    size_t counted;            /* of the budget, for what the application has of the request; see is_room_for */
    ka_h2_stream *chain;       /* in its bucket */
    ka_h2_stream *next, *prev; /* of all */
    ka_h2_stream *held_next, *held_prev;
    ka_h2_stream *ready_next, *ready_prev;     /* ring of those of one urgency with content that may be sent */
    ka_h2_stream *touched_next, *touched_prev; /* list of those that something happened to */
    uint8_t urgency;
    uint8_t is_incremental; /* takes turns with others of its urgency */
    uint8_t is_ready, is_touched;
    uint8_t is_received; /* END_STREAM has come */
    uint8_t is_sent;     /* END_STREAM is in the output */
    uint8_t ends;        /* all of the content is here */
    uint8_t is_tunnel;   /* it was asked for by CONNECT: RFC 9113 8.5, RFC 8441 */
    uint8_t has_body_news, has_eof_news, has_drain_news;
    uint8_t is_slow; /* it takes too slowly: to be reset */
    uint8_t error;   /* KA_H2_*_ERROR to reset it with, when it is cut off */
    uint8_t cause;   /* ka_cause, for the application */
};

/* A bit for each of the streams of late, the last one's first. */
typedef struct {
    uint64_t near, far;
} ka_h2_past;

struct ka_h2_live {
    ka_h2_stream *bucket[KA_H2_BUCKETS];
    ka_h2_stream *first, *last;
    ka_h2_stream *ready[KA_H2_URGENCIES]; /* the first of each ring */
    ka_h2_stream *touched, *touched_last;
    ka_h2_stream *held, *held_last; /* whom the application is to have when all is read that is here */
    uint32_t n_streams;
    uint32_t in_bytes;  /* room of the buffers whose content was not read */
    uint32_t n_filled;  /* content that went into the output in this turn */
    uint8_t urgencies;  /* bit u: ready[u] is not empty */
    uint8_t is_untimed; /* of a stream that was touched there may be a time to count */
};

typedef enum {
    KA_H2_STAYS,
    KA_H2_WARNED, /* GOAWAY was sent that refuses nothing: what crosses it is served (RFC 9113 6.8) */
    KA_H2_LEAVES, /* GOAWAY with the last stream that is answered */
    KA_H2_FAILED  /* nothing goes on */
} ka_h2_leaving;

struct ka_h2 {
    ka_talk *talk;    /* not owned */
    ka_h2_live *live; /* owned; NULL without a stream */
    ka_buf *block;    /* owned: a field block that is not whole */
    ka_h2_wait wait;  /* a head that is not whole; output that the client does not take */
    ka_hpack_decoder decoder;
    ka_hpack_encoder encoder;
    ka_h2_reader reader;
    /* Bit n is of stream last_stream - 2 n: it was opened, and not skipped; we reset it, and what comes for it crossed that. */
    ka_h2_past opened, were_reset;
    uint32_t last_stream; /* the highest that the client opened */
    uint32_t n_told;      /* streams that the table counts */
    int32_t send_window;  /* of the connection */
    int32_t recv_window;
    int32_t peer_window;     /* SETTINGS_INITIAL_WINDOW_SIZE of the client */
    uint32_t peer_max_frame; /* SETTINGS_MAX_FRAME_SIZE of it */
    uint32_t window;         /* bytes that it may send ahead on a stream; it grows */
    uint32_t n_in;           /* content that is here and was not read, of all streams */
    uint32_t left;           /* bytes of the frame that is read now: content */
    uint32_t left_padding;
    uint32_t left_stream;  /* whose they are; 0: thrown away */
    uint32_t sampled;      /* bytes that came since the PING that measures */
    uint32_t debt;         /* see ka_h2_charge */
    uint32_t paid;         /* when something was last taken off it: 2^30 ns */
    uint32_t block_stream; /* whose field block is not whole */
    uint32_t held;         /* bytes of the tables that the budget counts */
    uint8_t leaving;       /* ka_h2_leaving */
    uint8_t leaves_for;    /* ka_cause */
    uint8_t left_ends;     /* END_STREAM comes with the last of those bytes */
    uint8_t block_ends;    /* END_STREAM came with that block */
    uint8_t has_preface;
    uint8_t is_sampling;
    uint8_t peer_leaves; /* the client sent GOAWAY */
    uint8_t knows_fin;
    uint8_t n_early; /* of these: PRIORITY_UPDATE that came before its stream, RFC 9218 7.1 */
    uint8_t early_priority[KA_H2_EARLY];
    uint32_t early[KA_H2_EARLY];
    uint8_t rests;        /* one that lets the others have their turns has more */
    uint8_t had_frame;    /* in this turn */
    uint8_t needs_window; /* in WRITE: nothing is unsent */
};

/* What the sessions of one service share. */
struct ka_h2_service {
    ka_h2_options options;
    ka_h2_clock clock;
    ka_hpack_section section; /* of the block that was read last; its room is owned */
    /* The request that is handed over, in `section`, or in a buffer of its own. */
    ka_h2_request request;
    const ka_field *fields;
    const char *bytes;
    ka_buf *head; /* owned */
    char *staged; /* owned: field lines of the head that is being made */
    size_t staged_room;
    const ka_exchange *staged_for;
    uint32_t n_connections, n_open; /* that speak HTTP/2, and requests that are open on them */
    ka_h2_stream *free_streams;     /* owned */
    uint32_t n_free_streams;
};

/* Serve HTTP/2 to clients whose first bytes are its preface. NULL: not. Once, before the first connection.
 * 0, KA_EINVAL, KA_ENOMEM. */
int ka_h2_enable(ka_service *service, const ka_h2_options *options);
void ka_h2_disable(ka_service *service); /* with no connection left */

/* The bytes in the talk's window are the preface, or a part of it: KA_OK, KA_PARTIAL; KA_EPEER: they are not. Only a
 * connection's first bytes can be. */
int ka_h2_is_preface(const ka_talk *talk);

/* From here on the talk speaks HTTP/2. 0 or KA_ENOMEM. */
int ka_h2_begin(ka_talk *talk, int64_t now);
void ka_h2_free(ka_h2 *h2); /* tells the application of what is lost */

/* --- the driver's turn: see ka_h2_turn.h --- */
void ka_h2_turn_begins(ka_h2 *h2);
/* What comes next of the client's bytes; KA_TALK_REQUEST: *stream, and in the service's ka_h2_service the request, until the
 * next call of this. */
ka_talk_step ka_h2_next(ka_h2 *h2, int64_t now, ka_h2_stream **stream);
/* Nothing more will come of it; *lingers: the client may still be sending. */
int ka_h2_is_over(ka_h2 *h2, int *lingers);
/* The next one to be told something, and what; NULL: none. */
ka_h2_stream *ka_h2_news(ka_h2 *h2, int64_t now, ka_news *news);
void ka_h2_fill(ka_h2 *h2, int64_t now); /* content into the output, as far as the windows and its bound allow */
int ka_h2_has_content(const ka_h2 *h2);  /* ka_h2_fill would find some */
ka_cause ka_h2_sent(ka_h2 *h2, size_t nbytes, int64_t now); /* KA_CAUSE_NONE, or what to end for */
int ka_h2_settle(ka_h2 *h2, int64_t now); /* report to the table. KA_ENOMEM: no room for what it remembers */
void ka_h2_waits(ka_h2 *h2);              /* what waits here of its bytes has changed */
size_t ka_h2_appetite(const ka_h2 *h2);
const char *ka_h2_check(const ka_h2 *h2);

/* --- deadlines, ends --- */
/* Its time is up: what is to be said is in the output. KA_CAUSE_NONE, or what the connection ends by, at once. */
ka_cause ka_h2_late(ka_h2 *h2, ka_h2_wait *wait, int64_t now);
ka_talk *ka_h2_talk_of(ka_h2_wait *wait);
/* When the table names nobody who could go for a newcomer: one that has us wait for it in all it has asked for, and has moved no
 * byte for a whole rate window, or has not ended a head for a second. NULL: nobody. Looks at a bounded number. */
ka_talk *ka_h2_victim(const ka_service *service, int64_t now);
/* Tell the client that the connection is about to end, and let what it has sent be served. */
void ka_h2_leave(ka_h2 *h2, ka_cause cause);
void ka_h2_drain(ka_h2 *h2); /* the same, since the server stops; tunnels are told */
/* The same, and nothing more is taken: before a close. */
void ka_h2_goodbye(ka_h2 *h2, ka_cause cause);
/* A connection error. */
void ka_h2_fail(ka_h2 *h2, unsigned error, ka_cause cause);

#endif
