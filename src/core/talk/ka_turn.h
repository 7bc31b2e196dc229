/* ka_turn.h: one connection's turn, the same for every driver.
 *
 * Asks ka_talk what comes next, has it done by the moves of a driver, and reports the outcome to ka_conn. Holds no state
 * and knows no socket. All is inline, so that a driver's constant table of moves costs no indirect call. */
#ifndef KA_TURN_H
#define KA_TURN_H

#include "talk/ka_h2_turn.h"

enum {
    KA_TURN_REQUESTS = 32
}; /* handed over in one turn; then others come first */

static inline ka_turned ka_turn_wait(const ka_moves *moves, ka_driver *d, void *peer, ka_talk *talk)
{
    if (talk->unsent > KA_OUT_HIGH) {
        if (!ka_turn_flush(moves, d, peer, talk))
            return KA_TURN_ENDED;
        if (talk->unsent <= KA_OUT_HIGH)
            return KA_TURN_ON;
    }
    if (ka_exchange_is_open(&talk->exchange) && !ka_talk_is_eof(talk))
        ka_turn_look_for_fin(moves, d, peer, talk);
    return KA_TURN_PAUSE;
}

/* Everything one connection can do d->now, within bounds. The talk may be gone afterwards. */
static inline void ka_turn(const ka_moves *moves, ka_driver *d, void *peer, ka_talk *talk)
{
    ka_head head;
    unsigned n_requests = 0;
    ka_turned turned;
    int asked_before;
    if (ka_unlikely(talk->h2 != NULL)) {
        ka_h2_turn(moves, d, peer, talk, 1);
        return;
    }
    do {
        turned = KA_TURN_ON;
        talk->is_driven = 1;
        if (ka_unlikely(talk->n_pushed || talk->exchange.hold == KA_HOLD_TURN))
            ka_turn_pushed(d, talk);
        while (turned == KA_TURN_ON) {
            ka_turn_time(moves, d, &talk->exchange);
            switch (ka_talk_next(talk, d->now, &head)) {
            case KA_TALK_REQUEST:
                d->service.app.on_request(d->service.app.ctx, &talk->exchange, &head, d->service.fields);
                if (++n_requests == KA_TURN_REQUESTS) {
                    ka_driver_again(d, talk->conn, peer, talk);
                    turned = KA_TURN_PAUSE;
                }
                break;
            case KA_TALK_BODY:
                talk->exchange.wants_body = 0;
                ka_driver_news(d, talk, KA_NEWS_BODY);
                break;
            case KA_TALK_READ: turned = ka_turn_read(moves, d, peer, talk); break;
            case KA_TALK_HTTP2:
                if (ka_h2_begin(talk, d->now) == KA_OK)
                    ka_h2_turn(moves, d, peer, talk, 1);
                else
                    ka_driver_end(d, talk->conn, peer, KA_CAUSE_BUFFER_LIMIT);
                return;
            case KA_TALK_WAIT:   turned = ka_turn_wait(moves, d, peer, talk); break;
            case KA_TALK_LINGER: turned = ka_turn_finish(moves, d, peer, talk, 1); break;
            case KA_TALK_CLOSE:  turned = ka_turn_finish(moves, d, peer, talk, 0); break;
            }
        }
        if (turned == KA_TURN_ENDED)
            return;
        asked_before = talk->exchange.wants_body;
        if (!ka_turn_flush(moves, d, peer, talk))
            return;
        talk->is_driven = 0;
        /* Written when the application was told to go on, or it waits for nothing but a turn: no event will tell. */
        if ((talk->unsent && moves->can_send(d, peer)) || ka_unlikely(talk->exchange.hold == KA_HOLD_TURN))
            ka_driver_again(d, talk->conn, peer, talk);
        /* Once more when the application, told that it may go on, completed its response (the next request may wait) or
         * asked for content (which no event may announce again), and when all that is left to do is to close. */
    } while ((talk->exchange.wants_body && !asked_before) ||
             (ka_exchange_is_over(&talk->exchange) && talk->unsent <= KA_OUT_HIGH && n_requests < KA_TURN_REQUESTS) ||
             (talk->unsent == 0 && talk->exchange.reading == KA_READING_CLOSED));
    (void)ka_talk_settle(talk, d->now);
    if (ka_talk_is_idle(talk)) {
        *moves->talk_of(peer) = NULL;
        d->has_place = 1; /* it can be closed now for somebody who waits */
        ka_talk_free(talk);
        return;
    }
    if (ka_talk_park(talk) < 0) {
        ka_driver_shed(d, talk->conn, talk->window_len);
        if (ka_talk_park(talk) < 0) {
            ka_driver_end(d, talk->conn, peer, KA_CAUSE_BUFFER_LIMIT);
            return;
        }
    }
    ka_turn_check(talk);
}

/* A turn outside the driver's own: output goes out and the end of an exchange is carried out; but no request is handed
 * over from here, where the caller may be the task of another request: waiting input is left to a turn to come. */
static inline void ka_turn_attend(const ka_moves *moves, ka_driver *d, void *peer, ka_talk *talk)
{
    int is_answering = ka_exchange_is_answering(&talk->exchange);
    ka_talk_take(talk, KA_NOTED);
    if (ka_unlikely(talk->h2 != NULL)) {
        ka_h2_turn(moves, d, peer, talk, 0);
        return;
    }
    ka_turn_time(moves, d, &talk->exchange);
    if (is_answering ||
        (talk->window_len == 0 && !(ka_exchange_is_over(&talk->exchange) && moves->can_read(d, peer)))) {
        ka_turn(moves, d, peer, talk);
        return;
    }
    talk->is_driven = 1;
    if (!ka_turn_flush(moves, d, peer, talk))
        return;
    talk->is_driven = 0;
    (void)ka_talk_settle(talk, d->now);
    ka_turn_check(talk);
    ka_driver_again(d, talk->conn, peer, talk);
}

/* A turn, with a talk made for it where there is none. */
static inline void ka_turn_begin(const ka_moves *moves, ka_driver *d, ka_handle conn, void *peer)
{
    ka_talk **talk = moves->talk_of(peer);
    if (ka_likely(ka_turn_has_talk(moves, d, conn, peer))) {
        d->turn_bytes = 0;
        ka_turn(moves, d, peer, *talk);
    }
}

#endif
