/* ka_turn.h: one connection's turn, the same for every driver.
 *
 * Asks ka_talk what comes next, has it done by whoever moves the bytes, and reports the outcome to ka_conn. Holds no
 * state and knows no socket: the engine and the path over an event loop's transports each bring the moves below. All
 * is inline, so that a driver's constant table of moves costs no indirect call. */
#ifndef KA_TURN_H
#define KA_TURN_H

#include "talk/ka_talk.h"

#include <stdio.h>

enum {
    KA_TURN_REQUESTS = 32
}; /* handed over in one turn; then others come first */

/* What happened to a request that the application has. */
typedef enum {
    KA_NEWS_BODY,  /* content (or its end, or its failure) can be read */
    KA_NEWS_LOW,   /* unsent output is low again: a held application may go on */
    KA_NEWS_DRAIN, /* the server is about to stop: a tunnel has until the drain's deadline to end well */
    KA_NEWS_EOF    /* the client sent FIN: no further request, and no more content */
} ka_news;

typedef enum {
    KA_TURN_ON,    /* something changed: ask the talk again */
    KA_TURN_PAUSE, /* nothing more can be done now */
    KA_TURN_ENDED  /* the connection is gone, and its talk */
} ka_turned;

/* The moves of a driver. port: all of it; peer: its side of this connection, which owns the talk. */
typedef struct {
    void (*on_request)(void *port, ka_talk *talk, const ka_head *head);
    void (*on_news)(void *port, ka_talk *talk, ka_news news);
    ka_turned (*read)(void *port, void *peer, ka_talk *talk); /* more bytes, reported by ka_turn_arrived, or FIN */
    ka_cause (*flush)(void *port, void *peer, ka_talk *talk); /* send what can be sent; KA_CAUSE_NONE or why to end */
    void (*look_for_fin)(void *port, void *peer, ka_talk *talk); /* the application is busy: has the client gone? */
    int (*can_read)(void *port, void *peer);                     /* may input be at hand that a turn would read? */
    int (*has_unread)(void *port, void *peer, ka_talk *talk); /* would close() make a RST of what the client sends? */
    int (*can_send)(void *port, void *peer);                  /* would the way out take more now? */
    void (*settled)(void *port, void *peer, ka_talk *talk);   /* idle: forget the talk, it is freed next */
    void (*half_close)(void *port, void *peer, ka_talk *talk, ka_cause cause); /* FIN and LINGER, or end at once */
    void (*end)(void *port, void *peer, ka_talk *talk, ka_cause cause);        /* close, and free the talk */
    void (*end_of)(void *port, ka_handle conn, ka_cause cause); /* the same for another, but nothing in its turn */
    void (*again)(void *port, void *peer, ka_talk *talk);       /* another turn soon, after the others' */
} ka_moves;

/* Bytes came (and are in the talk's window). KA_TURN_ENDED when they come too slowly to go on. Only where they are waited
 * for: a client that sends and takes nothing makes no progress in WRITE. */
static inline ka_turned ka_turn_arrived(const ka_moves *moves, void *port, void *peer, ka_talk *talk, size_t nbytes,
                                        int64_t now)
{
    ka_cause cause;
    ka_table *table = talk->service->table;
    if (ka_conn_phase(table, talk->conn) == KA_BODY &&
        ka_conn_progress(table, talk->conn, nbytes, now, &cause) == KA_ESLOW &&
        ka_talk_refuse(talk, 408, "the content is arriving too slowly", cause, now) < 0) {
        moves->end(port, peer, talk, cause);
        return KA_TURN_ENDED;
    }
    return KA_TURN_ON;
}

/* FIN without the filter's word that all has come (TLS): between requests many clients leave so. Inside content it is a
 * truncation, RFC 8446 6.1. */
static inline int ka_turn_is_cut_short(const ka_talk *talk)
{
    return ka_exchange_is_open(&talk->exchange) && !ka_talk_body_is_over(talk);
}

/* The client sent FIN, behind bytes that are left where they are: whoever waits for its end is told all the same. */
static inline void ka_turn_fin(const ka_moves *moves, void *port, ka_talk *talk)
{
    int is_news = !talk->sees_fin;
    talk->sees_fin = 1;
    if (is_news && ka_exchange_is_open(&talk->exchange))
        moves->on_news(port, talk, KA_NEWS_EOF);
}

/* The client sent FIN, and everything before it is here. */
static inline void ka_turn_eof(const ka_moves *moves, void *port, ka_talk *talk)
{
    ka_talk_eof(talk);
    if (ka_exchange_is_open(&talk->exchange))
        moves->on_news(port, talk, KA_NEWS_EOF);
}

/* The connection broke, or the client is gone altogether, in this phase: why it ended. One that lingers knows itself. */
static inline ka_cause ka_turn_broken(int phase)
{
    return phase == KA_IDLE || phase == KA_NEW ? KA_CAUSE_CLIENT
         : phase == KA_TUNNEL                  ? KA_CAUSE_UPGRADED
                                               : KA_CAUSE_ERROR;
}

/* Bytes left, and ka_talk_sent knows. Return KA_CAUSE_NONE, or the cause to end for. */
static inline ka_cause ka_turn_left(const ka_moves *moves, void *port, ka_talk *talk, size_t nbytes, int64_t now)
{
    ka_cause cause;
    ka_table *table = talk->service->table;
    if (ka_conn_phase(table, talk->conn) == KA_WRITE &&
        ka_conn_progress(table, talk->conn, nbytes, now, &cause) == KA_ESLOW)
        return cause;
    if (talk->exchange.is_held && ka_talk_is_low(talk)) {
        talk->exchange.is_held = 0;
        if (ka_exchange_is_open(&talk->exchange))
            moves->on_news(port, talk, KA_NEWS_LOW);
    }
    return KA_CAUSE_NONE;
}

/* Send what is pending, from inside the application's code, while it makes more: no client waits for what the application
 * has given. A turn of this talk may be on the stack, so nothing ends here and no news is given: what is found is left to
 * the turn that is on, or for which the talk is noted. A held application is told first that it may go on. */
static inline void ka_turn_push(const ka_moves *moves, void *port, void *peer, ka_talk *talk)
{
    size_t before = talk->unsent;
    if (before == 0 || talk->exchange.is_held || talk->broken)
        return;
    ka_cause cause = moves->flush(port, peer, talk);
    size_t n = talk->n_pushed + (before - talk->unsent);
    if (cause != KA_CAUSE_NONE) {
        talk->broken = (uint8_t)cause;
        talk->exchange.is_held = 1;
        n = KA_PUSH_MAX;
    }
    talk->n_pushed = n < KA_PUSH_MAX ? (uint32_t)n : (uint32_t)KA_PUSH_MAX;
}

/* A new turn. An application that waits since it pushed so much may go on: the others have had theirs. */
static inline void ka_turn_pushed(const ka_moves *moves, void *port, ka_talk *talk)
{
    int waits = talk->exchange.is_held && talk->n_pushed >= KA_PUSH_MAX && !talk->broken;
    talk->n_pushed = 0;
    if (waits && ka_talk_is_low(talk)) {
        talk->exchange.is_held = 0;
        if (ka_exchange_is_open(&talk->exchange))
            moves->on_news(port, talk, KA_NEWS_LOW);
    }
}

/* Send what is pending. Return whether the connection still stands. */
static inline int ka_turn_flush(const ka_moves *moves, void *port, void *peer, ka_talk *talk)
{
    ka_cause cause = ka_unlikely(talk->broken) ? (ka_cause)talk->broken : moves->flush(port, peer, talk);
    if (ka_likely(cause == KA_CAUSE_NONE))
        return 1;
    moves->end(port, peer, talk, cause);
    return 0;
}

static inline ka_turned ka_turn_finish(const ka_moves *moves, void *port, void *peer, ka_talk *talk, int lingers)
{
    if (!ka_turn_flush(moves, port, peer, talk))
        return KA_TURN_ENDED;
    if (talk->unsent)
        return KA_TURN_PAUSE;
    /* Unread bytes at close() make the kernel send RST, which can overtake the answer. */
    if (!ka_talk_needs_reset(talk) && (lingers || (!talk->is_eof && moves->has_unread(port, peer, talk))))
        moves->half_close(port, peer, talk, (ka_cause)talk->cause);
    else
        moves->end(port, peer, talk, (ka_cause)talk->cause);
    return KA_TURN_ENDED;
}

static inline ka_turned ka_turn_wait(const ka_moves *moves, void *port, void *peer, ka_talk *talk)
{
    if (talk->unsent > KA_OUT_HIGH) {
        if (!ka_turn_flush(moves, port, peer, talk))
            return KA_TURN_ENDED;
        if (talk->unsent <= KA_OUT_HIGH)
            return KA_TURN_ON;
    }
    if (ka_exchange_is_open(&talk->exchange) && !talk->is_eof)
        moves->look_for_fin(port, peer, talk);
    return KA_TURN_PAUSE;
}

/* Where `nbytes` more of input would not fit: make room, in the order of docs/policy.md. Whoever has sent most ahead of its
 * turn goes first, among equals the one who did so first: what it sent ahead is given up and its connection closed behind
 * the response in progress; an unfinished head, or content that nobody asks for, ends at once. When nobody has bytes
 * waiting it is output that fills the budget: then whoever has taken none for longest. At most `most` go, and never
 * `asking`, for whom the room is. */
static inline void ka_turn_shed(const ka_moves *moves, void *port, ka_service *service, ka_handle asking, size_t nbytes,
                                unsigned most)
{
    while (most-- && ka_unlikely(!ka_pool_has_room(&service->pool, KA_USE_INPUT, nbytes))) {
        ka_talk *talk = ka_service_fattest(service);
        if (talk == NULL) {
            ka_handle slow = ka_table_oldest(service->table, KA_WRITE);
            if (slow == 0 || slow == asking ||
                ka_pool_has_room(&service->pool, KA_USE_OUTPUT, ka_pool_reserve(&service->pool) / 2))
                return;
            moves->end_of(port, slow, KA_CAUSE_BUFFER_LIMIT);
        } else if (talk->conn == asking) {
            return;
        } else if (!ka_talk_drop_ahead(talk)) {
            moves->end_of(port, talk->conn, KA_CAUSE_BUFFER_LIMIT);
        }
    }
}

enum {
    KA_SHEDS = 64
}; /* at once, in a pass */

/* Once a pass: keep some of the budget free, so that who comes next finds it. */
static inline void ka_turn_relieve(const ka_moves *moves, void *port, ka_service *service)
{
    ka_turn_shed(moves, port, service, 0, service->pool.max_bytes / 8, KA_SHEDS);
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

/* Everything one connection can do now, within bounds. The talk may be gone afterwards. */
static inline void ka_turn(const ka_moves *moves, void *port, void *peer, ka_talk *talk, int64_t now)
{
    ka_head head;
    unsigned n_requests = 0;
    ka_turned turned;
    int asked_before;
    do {
        turned = KA_TURN_ON;
        talk->is_driven = 1;
        if (ka_unlikely(talk->n_pushed))
            ka_turn_pushed(moves, port, talk);
        while (turned == KA_TURN_ON) {
            switch (ka_talk_next(talk, now, &head)) {
            case KA_TALK_REQUEST:
                moves->on_request(port, talk, &head);
                if (++n_requests == KA_TURN_REQUESTS) {
                    moves->again(port, peer, talk);
                    turned = KA_TURN_PAUSE;
                }
                break;
            case KA_TALK_BODY:
                talk->exchange.wants_body = 0;
                moves->on_news(port, talk, KA_NEWS_BODY);
                break;
            case KA_TALK_READ:   turned = moves->read(port, peer, talk); break;
            case KA_TALK_WAIT:   turned = ka_turn_wait(moves, port, peer, talk); break;
            case KA_TALK_LINGER: turned = ka_turn_finish(moves, port, peer, talk, 1); break;
            case KA_TALK_CLOSE:  turned = ka_turn_finish(moves, port, peer, talk, 0); break;
            }
        }
        if (turned == KA_TURN_ENDED)
            return;
        asked_before = talk->exchange.wants_body;
        if (!ka_turn_flush(moves, port, peer, talk))
            return;
        talk->is_driven = 0;
        /* Written when the application was told to go on, or it waits for nothing but a turn: no event will tell. */
        if ((talk->unsent && moves->can_send(port, peer)) ||
            ka_unlikely(talk->exchange.is_held && talk->n_pushed >= KA_PUSH_MAX))
            moves->again(port, peer, talk);
        /* Once more when the application, told that it may go on, completed its response (the next request may wait) or
         * asked for content (which no event may announce again), and when all that is left to do is to close. */
    } while ((talk->exchange.wants_body && !asked_before) ||
             (ka_exchange_is_over(&talk->exchange) && talk->unsent <= KA_OUT_HIGH && n_requests < KA_TURN_REQUESTS) ||
             (talk->unsent == 0 && talk->is_last && !ka_exchange_is_open(&talk->exchange) && !talk->is_draining));
    (void)ka_talk_settle(talk, now);
    if (ka_talk_is_idle(talk)) {
        moves->settled(port, peer, talk);
        ka_talk_free(talk);
        return;
    }
    if (ka_talk_park(talk) < 0) {
        ka_turn_shed(moves, port, talk->service, talk->conn, talk->window_len, KA_SHEDS);
        if (ka_talk_park(talk) < 0) {
            moves->end(port, peer, talk, KA_CAUSE_BUFFER_LIMIT);
            return;
        }
    }
    ka_turn_check(talk);
}

/* A turn outside the driver's own: output goes out and the end of an exchange is carried out; but no request is handed
 * over from here, where the caller may be the task of another request: waiting input is left to a turn to come. */
static inline void ka_turn_attend(const ka_moves *moves, void *port, void *peer, ka_talk *talk, int64_t now)
{
    int is_answering = ka_exchange_is_answering(&talk->exchange);
    talk->is_noted = 0;
    if (is_answering ||
        (talk->window_len == 0 && !(ka_exchange_is_over(&talk->exchange) && moves->can_read(port, peer)))) {
        ka_turn(moves, port, peer, talk, now);
        return;
    }
    talk->is_driven = 1;
    if (!ka_turn_flush(moves, port, peer, talk))
        return;
    talk->is_driven = 0;
    (void)ka_talk_settle(talk, now);
    ka_turn_check(talk);
    moves->again(port, peer, talk);
}

/* Time is up: answer, where ka_table_due says so. Return whether that is under way (the talk is noted); else close. */
static inline int ka_turn_answers_late(ka_talk *talk, ka_action action, ka_cause cause, int64_t now)
{
    if (talk == NULL || (action != KA_DO_ANSWER_408 && action != KA_DO_ANSWER_503))
        return 0;
    const char *why = action == KA_DO_ANSWER_408 ? "the request took too long to arrive"
                    : cause == KA_CAUSE_DRAIN    ? "the server is shutting down"
                                                 : "the application took too long to answer";
    return ka_talk_refuse(talk, action == KA_DO_ANSWER_408 ? 408 : 503, why, cause, now) == KA_OK;
}

/* Its place is needed. Return whether to take one more turn before it ends at once: an answer is on its way then, for
 * whoever sends a body too slowly for a full server. */
static inline int ka_turn_evicts(ka_talk *talk, int phase, int64_t now)
{
    if (talk == NULL)
        return 0;
    if (phase == KA_BODY && ka_talk_refuse(talk, 408, "the content is arriving too slowly while the server is full",
                                           KA_CAUSE_EVICTED, now) == KA_OK)
        return 1;
    talk->cause = KA_CAUSE_EVICTED; /* by it the application is told why */
    return 0;
}

/* The kernel takes megabytes ahead: a client that reads steadily shows in its send queue first, which has `queued` bytes
 * now. Return KA_CAUSE_NONE, or the cause to end for. */
static inline ka_cause ka_turn_queued(ka_talk *talk, int queued, int64_t now)
{
    ka_cause cause;
    int taken = talk->outq - queued;
    talk->outq = queued;
    if (taken > 0 && ka_conn_progress(talk->service->table, talk->conn, (size_t)taken, now, &cause) == KA_ESLOW)
        return cause;
    return KA_CAUSE_NONE;
}

enum {
    KA_NO_MAX = 160
};

/* The answer to one that is turned away, as there is no place to hear it in. Return: its length. */
static inline size_t ka_turn_no(const ka_table *table, char text[KA_NO_MAX])
{
    unsigned seconds = ka_table_capacity(table)->retry_after_s;
    int n = snprintf(text, KA_NO_MAX,
                     "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: %u\r\n"
                     "connection: close\r\n\r\n",
                     seconds ? seconds : 1);
    return n > 0 ? (size_t)n : 0;
}

#endif
