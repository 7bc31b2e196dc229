/* ka_turn_parts.h: what the turns of both conversations are made of, ka_turn.h and ka_h2_turn.h: what comes, what leaves,
 * what was pushed between two. Nobody else includes this. */
#ifndef KA_TURN_PARTS_H
#define KA_TURN_PARTS_H

#include "talk/ka_driver.h"
#include "talk/ka_h2.h"

#include <stdio.h>

typedef enum {
    KA_TURN_ON,    /* something changed: ask the talk again */
    KA_TURN_PAUSE, /* nothing more can be done now */
    KA_TURN_ENDED  /* the connection is gone, and its talk */
} ka_turned;

/* Where a response has begun, or ended, since the last look: count how long that took. That is one look at the clock for a
 * request that is answered at once, two for one whose response is made piece by piece. */
static inline void ka_turn_time(const ka_moves *moves, ka_driver *d, ka_exchange *x)
{
    if (ka_exchange_is_untimed(x))
        ka_exchange_time(x, moves->clock ? moves->clock(d) : d->now);
}

/* As ka_turn_time, of all streams that something happened to. */
static inline void ka_h2_turn_time(const ka_moves *moves, ka_driver *d, ka_h2 *h2)
{
    if (h2->live == NULL || !h2->live->is_untimed)
        return;
    h2->live->is_untimed = 0;
    int64_t now = moves->clock ? moves->clock(d) : d->now;
    for (ka_h2_stream *s = h2->live->touched; s; s = s->touched_next)
        if (ka_exchange_is_untimed(&s->x))
            ka_exchange_time(&s->x, now);
}

/* Bytes came (and are in the talk's window). KA_TURN_ENDED when they come too slowly to go on. Only where they are waited
 * for: a client that sends and takes nothing makes no progress in WRITE. */
static inline ka_turned ka_turn_arrived(ka_driver *d, void *peer, ka_talk *talk, size_t nbytes)
{
    ka_cause cause;
    ka_table *table = d->service.table;
    d->service.counters->received += nbytes;
    if (talk->exchange.reading != KA_READING_HEAD && ka_conn_phase(table, talk->conn) == KA_BODY &&
        ka_conn_progress(table, talk->conn, nbytes, d->now, &cause) == KA_ESLOW &&
        ka_exchange_refuse(&talk->exchange, 408, "the content is arriving too slowly", cause, d->now) < 0) {
        ka_driver_end(d, talk->conn, peer, cause);
        return KA_TURN_ENDED;
    }
    return KA_TURN_ON;
}

/* FIN without the filter's word that all has come (TLS): between requests many clients leave so. Inside content it is a
 * truncation, RFC 8446 6.1. */
static inline int ka_turn_is_cut_short(const ka_talk *talk)
{
    return ka_exchange_is_open(&talk->exchange) && !ka_exchange_body_is_over(&talk->exchange);
}

/* The client sent FIN, behind bytes that are left where they are: whoever waits for its end is told all the same. */
static inline void ka_turn_fin(ka_driver *d, ka_talk *talk)
{
    if (ka_talk_sees_fin(talk))
        return;
    talk->fin = KA_FIN_BEHIND;
    if (ka_exchange_is_open(&talk->exchange))
        ka_driver_news(d, talk, KA_NEWS_EOF);
}

/* The client sent FIN, and everything before it is here. */
static inline void ka_turn_eof(ka_driver *d, ka_talk *talk)
{
    ka_talk_eof(talk);
    if (ka_exchange_is_open(&talk->exchange))
        ka_driver_news(d, talk, KA_NEWS_EOF);
}

/* The connection broke, or the client is gone altogether, in this phase: why it ended. One that lingers knows itself. */
static inline ka_cause ka_turn_broken(int phase)
{
    return phase == KA_IDLE || phase == KA_NEW ? KA_CAUSE_CLIENT
         : phase == KA_TUNNEL                  ? KA_CAUSE_UPGRADED
                                               : KA_CAUSE_ERROR;
}

/* A held application is told once it may go on. */
static inline void ka_turn_go_on(ka_driver *d, ka_talk *talk)
{
    if (ka_likely(talk->exchange.hold == KA_HOLD_NOT) || !ka_talk_is_low(talk))
        return;
    talk->exchange.hold = KA_HOLD_NOT;
    if (ka_exchange_is_open(&talk->exchange))
        ka_driver_news(d, talk, KA_NEWS_LOW);
}

/* Bytes left, and ka_talk_sent knows. Return KA_CAUSE_NONE, or the cause to end for. */
static inline ka_cause ka_turn_left(ka_driver *d, ka_talk *talk, size_t nbytes)
{
    ka_cause cause;
    ka_table *table = d->service.table;
    if (ka_unlikely(talk->h2 != NULL))
        return ka_h2_sent(talk->h2, nbytes, d->now);
    if (ka_conn_phase(table, talk->conn) == KA_WRITE &&
        ka_conn_progress(table, talk->conn, nbytes, d->now, &cause) == KA_ESLOW)
        return cause;
    ka_turn_go_on(d, talk);
    return KA_CAUSE_NONE;
}

/* Send what is pending, from inside the application's code, while it makes more: no client waits for what the application
 * has given. A turn of this talk may be on the stack, so nothing ends here and no news is given: what is found is left to
 * the turn that is on, or for which the talk is noted. A held application is told first that it may go on. */
static inline void ka_turn_push(const ka_moves *moves, ka_driver *d, void *peer, ka_talk *talk)
{
    if (ka_unlikely(talk->h2 != NULL)) {
        ka_h2_turn_time(moves, d, talk->h2);
        ka_h2_fill(talk->h2, d->now);
    } else {
        ka_turn_time(moves, d, &talk->exchange);
    }
    size_t before = talk->unsent;
    if (before == 0 || talk->exchange.hold != KA_HOLD_NOT || talk->broken)
        return;
    ka_cause cause = moves->flush(d, peer, talk);
    size_t n = talk->n_pushed + (before - talk->unsent);
    if (cause != KA_CAUSE_NONE) {
        talk->broken = (uint8_t)cause;
        talk->exchange.hold = KA_HOLD_TURN;
        n = KA_PUSH_MAX;
    }
    talk->n_pushed = n < KA_PUSH_MAX ? (uint32_t)n : (uint32_t)KA_PUSH_MAX;
}

/* A new turn. An application that waits since it pushed so much may go on: the others have had theirs. */
static inline void ka_turn_pushed(ka_driver *d, ka_talk *talk)
{
    talk->n_pushed = 0;
    if (talk->exchange.hold != KA_HOLD_TURN || talk->broken)
        return;
    talk->exchange.hold = KA_HOLD_LOW;
    ka_turn_go_on(d, talk);
}

/* Send what is pending. Return whether the connection still stands. */
static inline int ka_turn_flush(const ka_moves *moves, ka_driver *d, void *peer, ka_talk *talk)
{
    ka_cause cause = ka_unlikely(talk->broken) ? (ka_cause)talk->broken : moves->flush(d, peer, talk);
    if (ka_likely(cause == KA_CAUSE_NONE))
        return 1;
    ka_driver_end(d, talk->conn, peer, cause);
    return 0;
}

static inline ka_turned ka_turn_finish(const ka_moves *moves, ka_driver *d, void *peer, ka_talk *talk, int lingers)
{
    talk->is_last = !ka_talk_is_cut(talk);
    if (!ka_turn_flush(moves, d, peer, talk))
        return KA_TURN_ENDED;
    talk->is_last = 0;
    if (talk->unsent)
        return KA_TURN_PAUSE;
    /* Unread bytes at close() make the kernel send RST, which can overtake the answer. */
    if (!ka_talk_needs_reset(talk) && (lingers || (!ka_talk_is_eof(talk) && moves->has_unread(d, peer, talk))))
        ka_driver_half_close(d, talk->conn, peer, (ka_cause)talk->cause);
    else
        ka_driver_end(d, talk->conn, peer, (ka_cause)talk->cause);
    return KA_TURN_ENDED;
}

/* --- receiving --- */

/* Its talk is there, or has just been made. 0: there was no memory for one, and the connection has ended. */
static inline int ka_turn_has_talk(const ka_moves *moves, ka_driver *d, ka_handle conn, void *peer)
{
    ka_talk **talk = moves->talk_of(peer);
    if (*talk || (*talk = ka_talk_new(&d->service, conn)) != NULL)
        return 1;
    ka_driver_end(d, conn, peer, KA_CAUSE_BUFFER_LIMIT);
    return 0;
}

/* It was agreed that the connection speaks HTTP/2: it begins, before a byte has come. 0: it has ended. */
static inline int ka_turn_agreed_h2(const ka_moves *moves, ka_driver *d, ka_handle conn, void *peer)
{
    if (d->service.h2 == NULL)
        return 1;
    if (!ka_turn_has_talk(moves, d, conn, peer))
        return 0;
    if (ka_h2_begin(*moves->talk_of(peer), d->now) == KA_OK)
        return 1;
    ka_driver_end(d, conn, peer, KA_CAUSE_BUFFER_LIMIT);
    return 0;
}

/* Where what comes next goes, and how much of it: into the driver's scratch; only when bytes wait already, behind them.
 * NULL: there is no room. *room: of the scratch. */
static inline char *ka_turn_room(ka_driver *d, ka_talk *talk, char *scratch, size_t *room)
{
    size_t appetite = ka_talk_appetite(talk);
    char *to = scratch;
    if (talk->window_len == 0)
        (void)ka_talk_park(talk); /* gives back a buffer that is used up */
    else
        to = ka_driver_room_behind(d, talk, appetite < KA_READ_BEHIND ? appetite : (size_t)KA_READ_BEHIND, room);
    if (*room > appetite)
        *room = appetite;
    return to;
}

static inline void ka_turn_took(ka_talk *talk, const char *scratch, const char *to, size_t nbytes)
{
    if (to == scratch)
        ka_talk_arrived(talk, to, nbytes);
    else
        ka_talk_filled(talk, nbytes);
}

static inline ka_turned ka_turn_read(const ka_moves *moves, ka_driver *d, void *peer, ka_talk *talk)
{
    if (!moves->can_read(d, peer))
        return KA_TURN_PAUSE; /* it comes when it comes */
    if (d->turn_bytes >= KA_TURN_BYTES) {
        ka_driver_again(d, talk->conn, peer, talk);
        return KA_TURN_PAUSE;
    }
    ptrdiff_t n = moves->receive(d, peer, talk);
    if (ka_likely(n > 0))
        return ka_turn_arrived(d, peer, talk, (size_t)n);
    if (n == 0) {
        if (ka_unlikely(talk->h2 != NULL))
            (void)moves->saw_fin(d, peer, talk); /* requests are open perhaps: is anybody there? */
        ka_turn_eof(d, talk);
        return KA_TURN_ON;
    }
    if (n == KA_PARTIAL) {
        if (ka_unlikely(moves->can_read(d, peer)))
            ka_driver_again(d, talk->conn, peer, talk); /* what came held no content so far, and there is more of it */
        return KA_TURN_PAUSE;
    }
    if (n != KA_ESTALE) /* else it is gone already */
        ka_driver_end(d, talk->conn, peer,
                      n == KA_ENOMEM   ? KA_CAUSE_BUFFER_LIMIT
                      : n == KA_EINVAL ? KA_CAUSE_BAD_REQUEST
                                       : KA_CAUSE_ERROR);
    return KA_TURN_ENDED;
}

/* FIN was announced while the application is busy. It means "no further request", nothing more; and it may be behind bytes
 * of pipelined requests: a head's worth of them is taken in, and where more lie before it the application is told
 * without. */
static inline void ka_turn_look_for_fin(const ka_moves *moves, ka_driver *d, void *peer, ka_talk *talk)
{
    ptrdiff_t n = 1;
    if (ka_likely(!moves->saw_fin(d, peer, talk)) || !ka_exchange_body_is_over(&talk->exchange))
        return;
    while (n > 0 && moves->can_read(d, peer) && ka_talk_appetite(talk) && d->turn_bytes < KA_TURN_BYTES)
        if ((n = moves->receive(d, peer, talk)) > 0)
            d->service.counters->received += (size_t)n;
    if (n == 0) {
        ka_turn_eof(d, talk);
        return;
    }
    if (moves->can_read(d, peer) && ka_talk_appetite(talk) && (n > 0 || n == KA_PARTIAL))
        ka_driver_again(d, talk->conn, peer, talk); /* a turn's worth of small records */
    ka_turn_fin(d, talk);
}

/* With assertions: a talk is sound after its turn. */
static inline void ka_turn_check(const ka_talk *talk)
{
#ifdef KA_DEBUG
    const char *broken = ka_talk_check(talk);
    if (broken)
        fprintf(stderr, "the invariants of a talk do not hold: %s\n", broken);
    ka_assert(broken == NULL);
#else
    (void)talk;
#endif
}

#endif
