/* ka_h2_turn.h: the turn of a connection that speaks HTTP/2: frames in, requests and news to the application, frames out. */
#ifndef KA_H2_TURN_H
#define KA_H2_TURN_H

#include "talk/ka_turn_parts.h"

enum {
    KA_H2_ROUNDS = 16 /* of output that makes room for more, in one turn */
};

/* Tell the application what there is to tell. */
static inline void ka_h2_turn_news(const ka_moves *moves, ka_driver *d, ka_h2 *h2)
{
    ka_news news;
    ka_h2_stream *s;
    ka_h2_turn_time(moves, d, h2);
    while ((s = ka_h2_news(h2, d->now, &news)) != NULL) {
        d->service.app.on_news(d->service.app.ctx, &s->x, news);
        ka_h2_turn_time(moves, d, h2);
    }
}

/* What came, as far as a turn goes. KA_TURN_ON: the connection is over, and lingers or not. */
static inline ka_turned ka_h2_turn_in(const ka_moves *moves, ka_driver *d, void *peer, ka_talk *talk, int *lingers)
{
    ka_h2 *h2 = talk->h2;
    ka_h2_stream *s;
    const ka_h2_service *service = d->service.h2;
    for (unsigned n_requests = 0;;) {
        ka_turned turned = KA_TURN_ON;
        switch (ka_h2_next(h2, d->now, &s)) {
        case KA_TALK_REQUEST:
            d->service.app.on_request(d->service.app.ctx, &s->x, &service->request.head, service->fields);
            ka_turn_time(moves, d, &s->x);
            if (++n_requests == KA_H2_TURN_REQUESTS) {
                ka_driver_again(d, talk->conn, peer, talk);
                return KA_TURN_PAUSE;
            }
            break;
        case KA_TALK_READ:
            ka_h2_turn_news(moves, d, h2);
            turned = ka_turn_read(moves, d, peer, talk);
            break;
        case KA_TALK_WAIT:
            /* For output to leave; if it does no event will tell of what is here. */
            if (talk->unsent <= KA_H2_OUT_MOST)
                return KA_TURN_PAUSE;
            if (!ka_turn_flush(moves, d, peer, talk))
                return KA_TURN_ENDED;
            if (talk->unsent > KA_H2_OUT_MOST)
                return KA_TURN_PAUSE;
            break;
        case KA_TALK_CLOSE:  *lingers = 0; return KA_TURN_ON;
        case KA_TALK_LINGER: *lingers = 1; return KA_TURN_ON;
        default:             return KA_TURN_PAUSE;
        }
        if (turned != KA_TURN_ON)
            return turned;
    }
}

/* What there is to send, by turns of the streams; the application may make more when some of it has left. Return whether
 * the connection still stands. */
static inline int ka_h2_turn_out(const ka_moves *moves, ka_driver *d, void *peer, ka_talk *talk)
{
    ka_h2 *h2 = talk->h2;
    for (int i = 0; i < KA_H2_ROUNDS; i++) {
        ka_h2_turn_news(moves, d, h2);
        ka_h2_fill(h2, d->now);
        if (!ka_turn_flush(moves, d, peer, talk))
            return 0;
        ka_h2_turn_news(moves, d, h2);
        if (talk->unsent || !ka_h2_has_content(h2))
            break;
    }
    if (h2->rests || (moves->can_send(d, peer) && (talk->unsent || ka_h2_has_content(h2))))
        ka_driver_again(d, talk->conn, peer, talk);
    return 1;
}

/* takes_requests: not where the caller may be the task of another request; what came is left to a turn to come. */
static inline void ka_h2_turn(const ka_moves *moves, ka_driver *d, void *peer, ka_talk *talk, int takes_requests)
{
    ka_h2 *h2 = talk->h2;
    ka_turned turned = KA_TURN_PAUSE;
    int lingers = 0;
    talk->is_driven = 1;
    ka_h2_turn_begins(h2);
    if (takes_requests)
        turned = ka_h2_turn_in(moves, d, peer, talk, &lingers);
    if (turned == KA_TURN_ENDED || !ka_h2_turn_out(moves, d, peer, talk))
        return;
    /* The last stream may have ended by what was sent. */
    if (turned == KA_TURN_PAUSE && takes_requests && ka_h2_is_over(h2, &lingers))
        turned = KA_TURN_ON;
    if (!takes_requests && (talk->window_len || moves->can_read(d, peer) || (ka_talk_is_eof(talk) && !h2->knows_fin) ||
                            ka_h2_is_over(h2, &lingers)))
        ka_driver_again(d, talk->conn, peer, talk);
    if (turned == KA_TURN_ON && ka_turn_finish(moves, d, peer, talk, lingers) == KA_TURN_ENDED)
        return;
    talk->is_driven = 0;
    if (ka_h2_settle(h2, d->now) < 0 || ka_talk_park(talk) < 0) {
        ka_driver_shed(d, talk->conn, talk->window_len);
        if (ka_h2_settle(h2, d->now) < 0 || ka_talk_park(talk) < 0) {
            ka_driver_end(d, talk->conn, peer, KA_CAUSE_BUFFER_LIMIT);
            return;
        }
    }
    d->has_place |= h2->n_told == 0;
    ka_turn_check(talk);
}

#endif
