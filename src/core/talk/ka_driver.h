/* ka_driver.h: what everybody who moves bytes for conversations does alike, over the moves that each brings.
 *
 * A driver is whoever has the connections of one table: the engine, the path over an event loop's transports, an embedder.
 * Deadlines, the last look before one takes effect, making room, turns that are put off, ends, the drain: here, without a
 * socket and without a clock. What happens in every turn is inline, in ka_turn.h; nothing here is on the way of a request.
 *
 * A pass: set `now`; give turns to whom something happened, ka_driver_take_turns, ka_driver_expire, ka_driver_relieve;
 * whoever wants in, ka_driver_open; ka_driver_attend; ka_driver_arm. */
#ifndef KA_DRIVER_H
#define KA_DRIVER_H

#include "table/ka_trust.h"
#include "talk/ka_talk.h"

typedef struct ka_driver ka_driver;

/* How a connection is to be closed. */
typedef enum {
    KA_CLOSE,      /* all that there was is sent, or the peer knows that it is not */
    KA_CLOSE_CUT,  /* unsent bytes are given up */
    KA_CLOSE_RESET /* the same, and the peer would take what it has for all: RST, RFC 9112 8 */
} ka_how;

/* The moves of a driver. peer: its side of one connection, which has a place for the talk. */
typedef struct {
    /* In turns. */
    ptrdiff_t (*receive)(ka_driver *d, void *peer, ka_talk *talk); /* n > 0 bytes are in the window; 0: FIN; KA_PARTIAL;
                                                                      KA_ENOMEM; KA_EPEER: broken; KA_EINVAL: abusive;
                                                                      KA_ESTALE: it has ended */
    ka_cause (*flush)(ka_driver *d, void *peer, ka_talk *talk); /* send what can be sent; KA_CAUSE_NONE or why to end */
    int (*saw_fin)(ka_driver *d, void *peer,
                   ka_talk *talk);             /* FIN was announced, perhaps behind bytes: is anybody there? */
    int (*can_read)(ka_driver *d, void *peer); /* may `receive` have something? */
    int (*can_send)(ka_driver *d, void *peer); /* would the way out take more now? */
    int (*has_unread)(ka_driver *d, void *peer, ka_talk *talk); /* would close() make a RST of what the client sends? */
    /* One connection. */
    void *(*peer_of)(ka_driver *d, ka_handle conn);         /* NULL: gone */
    ka_talk **(*talk_of)(void *peer);                       /* where its talk is kept; NULL while nothing is pending */
    void (*turn)(ka_driver *d, ka_handle conn, void *peer); /* ka_turn_begin, and what it always does then */
    void (*attend)(ka_driver *d, ka_handle conn, void *peer); /* the same with ka_turn_attend */
    void (*again)(ka_driver *d, ka_handle conn, void *peer);  /* one without a talk is to have another turn soon */
    void (*look)(ka_driver *d, ka_handle conn, void *peer, int phase); /* once more: WRITE: send, else: read */
    int (*queued)(ka_driver *d, void *peer);                /* bytes in the kernel's send queue; -1: nobody knows */
    void (*shut)(ka_driver *d, ka_handle conn, void *peer); /* the filter's last word, and its end; NULL: no filter */
    int (*send_fin)(ka_driver *d, ka_handle conn, void *peer); /* < 0: it cannot be */
    void (*linger)(ka_driver *d, ka_handle conn, void *peer);  /* throw away what still comes */
    /* The table knows it no longer, and nobody asks for it again. */
    void (*close)(ka_driver *d, ka_handle conn, void *peer, ka_cause cause, ka_how how);
    void (*say_no)(ka_driver *d, void *peer); /* ka_driver_no, and FIN */
    /* All of them. */
    int64_t (*clock)(ka_driver *d);             /* the time now, not that of the pass; NULL: there is no other */
    void (*wake)(ka_driver *d);                 /* a pass soon */
    int (*set_timer)(ka_driver *d, int64_t at); /* a pass then; < 0: it failed */
} ka_moves;

enum {
    KA_SHEDS = 64,             /* at once, in a pass */
    KA_EXPIRIES = 64,          /* a pass */
    KA_VICTIMS = 8,            /* asked, before a newcomer is turned away or waits */
    KA_TURN_BYTES = 64 * 1024, /* of input, a connection and turn */
    KA_TURN_OUTPUT = 1 << 20,  /* the same: the kernel copies it, which takes a third of a millisecond */
    KA_READ_COST = 1024, /* of a read through a filter, in bytes of KA_TURN_BYTES: a record may hold a single one */
    KA_NO_MAX = 160
};

struct ka_driver {
    ka_service service;
    ka_trust trust;
    const ka_moves *moves;
    void *owner;       /* the driver's */
    int64_t now;       /* of this pass */
    ka_handle ending;  /* whose end the application is being told of, 0 = nobody's */
    int64_t armed_ns;  /* what the timer is set to, INT64_MAX = off */
    size_t turn_bytes; /* of input, in the turn that is being taken */
    uint8_t keeps_all; /* nobody is closed to make room: who looks like a victim may be in its turn */
    uint8_t has_place; /* a connection ended, or can be closed now; whoever lets wait takes it back */
};

/* app, limits: copied. moves: kept. 0 or KA_ENOMEM. */
int ka_driver_init(ka_driver *d, ka_table *table, const ka_limits *limits, size_t max_buffer_bytes,
                   const ka_application *app, const ka_moves *moves);
void ka_driver_free(ka_driver *d); /* with no connection left */

/* --- time --- */

/* Set the timer for what is due next, or for `at` if that is earlier; only when that is before it will fire: one that fires
 * too early finds nothing due and is set again, which costs less than a system call a request. */
void ka_driver_arm(ka_driver *d, int64_t at);

/* Close out whose time is up, a bounded number, each after a last look: "no event seen" is no evidence. */
void ka_driver_expire(ka_driver *d);

/* --- turns --- */

static inline void ka_driver_news(ka_driver *d, ka_talk *talk, ka_news news)
{
    d->service.app.on_news(d->service.app.ctx, &talk->exchange, news);
}

/* One for each talk that was noted between its turns. */
void ka_driver_attend(ka_driver *d);

/* Another turn for this one, after the others': ka_driver_take_turns. talk: NULL, or its own. */
void ka_driver_again(ka_driver *d, ka_handle conn, void *peer, ka_talk *talk);
/* `n` at most of those that were put off. Who asks for another meanwhile waits for the next pass. */
void ka_driver_take_turns(ka_driver *d, uint32_t n);

/* --- room --- */

/* A place in the table, for which another may have to go: as ka_conn_open. */
int ka_driver_open(ka_driver *d, unsigned policy_class, const ka_client *client, int is_tls, ka_handle *conn);

/* Close the least useful connection, after a last look at it. Return whether there is a place now. for_descriptor: it is
 * not the table that is full. */
int ka_driver_make_room(ka_driver *d, int for_descriptor);

/* Where `nbytes` more of input would not fit: make room, in the order of docs/policy.md. Whoever has sent most ahead of its
 * turn goes first, among equals the one who did so first: what it sent ahead is given up and its connection closed behind
 * the response in progress; an unfinished head, or content that nobody asks for, ends at once. When nobody has bytes
 * waiting it is output that fills the budget: then whoever has taken none for longest. Never `asking`, for whom the room
 * is. */
void ka_driver_shed(ka_driver *d, ka_handle asking, size_t nbytes);

/* Once a pass: keep some of the budget free, so that who comes next finds it. */
static inline void ka_driver_relieve(ka_driver *d)
{
    if (ka_unlikely(!ka_pool_has_room(&d->service.pool, KA_USE_INPUT, d->service.pool.max_bytes / 8)))
        ka_driver_shed(d, 0, d->service.pool.max_bytes / 8);
}

/* Room for up to `want` bytes behind those that wait, where others may have to go for it; NULL: there is none. */
char *ka_driver_room_behind(ka_driver *d, ka_talk *talk, size_t want, size_t *room);

/* The answer to one that is turned away, as there is no place to hear it in. Return: its length. */
size_t ka_driver_no(const ka_driver *d, char text[KA_NO_MAX]);

/* --- who is it --- */

/* Bytes of one that is to begin with a PROXY header. Return: the header's length; KA_PARTIAL: it is not whole; another error,
 * for which it is to be turned away. *who: what is known of it, changed if the header says more. */
int ka_driver_introduce(ka_driver *d, ka_handle conn, const char *bytes, size_t len, ka_peer *who);
/* got: of ka_driver_introduce, or KA_ESTALE for one that left before. */
void ka_driver_turn_away(ka_driver *d, ka_handle conn, void *peer, int got);

/* --- ends --- */

/* The one way out, in every phase. */
void ka_driver_end(ka_driver *d, ka_handle conn, void *peer, ka_cause cause);
/* The same; one that lingers ends by the cause that it lingers for. A stale handle: nothing. */
void ka_driver_close(ka_driver *d, ka_handle conn, ka_cause cause);
void ka_driver_close_all(ka_driver *d, ka_cause cause);

/* FIN, then wait for the client's, so that no RST eats what was sent last. */
void ka_driver_half_close(ka_driver *d, ka_handle conn, void *peer, ka_cause cause);

/* `nbytes` of one that lingers are thrown away; 0: it sent FIN, or broke. least: so many are no request. Return whether it
 * still stands. */
int ka_driver_discarded(ka_driver *d, ka_handle conn, void *peer, size_t nbytes, size_t least);

/* Start draining: see ka_table_drain. Tunnels are told. */
void ka_driver_drain(ka_driver *d, int64_t grace_ns, int64_t spread_ns, int64_t deadline_ns);

#endif
