/* ka_driver.c: see ka_driver.h. In order: making, turns, ends, expiry, room, who is it, all of them. */
#include "talk/ka_driver.h"
#include "talk/ka_h2.h"

#include <stdio.h>

int ka_driver_init(ka_driver *d, ka_table *table, const ka_limits *limits, size_t max_buffer_bytes,
                   const ka_application *app, const ka_moves *moves)
{
    d->moves = moves;
    d->armed_ns = INT64_MAX;
    return ka_service_init(&d->service, table, limits, max_buffer_bytes, app);
}

void ka_driver_free(ka_driver *d)
{
    ka_trust_free(&d->trust);
    ka_service_free(&d->service);
}

static int is_open(const ka_driver *d, ka_handle conn) { return ka_conn_phase(d->service.table, conn) >= 0; }

/* --- turns --- */

void ka_driver_attend(ka_driver *d)
{
    ka_talk *talk;
    while ((talk = d->service.lists[KA_NOTED].first) != NULL) {
        ka_talk_take(talk, KA_NOTED);
        d->moves->attend(d, talk->conn, d->moves->peer_of(d, talk->conn));
    }
}

void ka_driver_again(ka_driver *d, ka_handle conn, void *peer, ka_talk *talk)
{
    if (talk == NULL) {
        d->moves->again(d, conn, peer);
        return;
    }
    ka_talk_put(talk, KA_LATER);
    if (d->service.lists[KA_LATER].n == 1)
        d->moves->wake(d);
}

void ka_driver_take_turns(ka_driver *d, uint32_t n)
{
    ka_talk *talk;
    while (n-- && (talk = d->service.lists[KA_LATER].first) != NULL) {
        ka_talk_take(talk, KA_LATER);
        d->moves->turn(d, talk->conn, d->moves->peer_of(d, talk->conn));
    }
}

/* --- ends --- */

/* Its talk, which nobody can have attended to, or given away, any more: the caller's to free. */
static ka_talk *part(ka_driver *d, void *peer)
{
    ka_talk **at = d->moves->talk_of(peer), *talk = *at;
    *at = NULL;
    return talk;
}

void ka_driver_end(ka_driver *d, ka_handle conn, void *peer, ka_cause cause)
{
    const ka_application *app = &d->service.app;
    if (d->moves->shut)
        d->moves->shut(d, conn, peer);
    ka_talk *talk = part(d, peer);
    ka_handle outer = d->ending;
    d->ending = conn;
    if (app->on_closed)
        app->on_closed(app->ctx, conn, cause);
    d->ending = outer;
    (void)ka_conn_close(d->service.table, conn, cause, d->now);
    ka_known network;
    int has_settled = ka_known_settled(d->service.table, &network);
    d->moves->close(d, conn, peer, cause,
                    talk && ka_unlikely(ka_talk_needs_reset(talk)) ? KA_CLOSE_RESET
                    : talk && talk->unsent                         ? KA_CLOSE_CUT
                                                                   : KA_CLOSE);
    d->has_place = 1;
    if (talk)
        ka_talk_free(talk); /* last of it: it tells the application */
    if (ka_unlikely(has_settled) && app->on_settled)
        app->on_settled(app->ctx, &network);
}

/* Of one that lingers, what it lingers for. */
static ka_cause cause_of(const ka_driver *d, ka_handle conn, ka_cause otherwise)
{
    return ka_conn_phase(d->service.table, conn) == KA_LINGER ? ka_conn_ending(d->service.table, conn) : otherwise;
}

/* HTTP/2 says which requests it has looked at, as far as that goes at once: all others may safely be repeated. */
static void say_goodbye(ka_driver *d, void *peer, ka_cause cause)
{
    ka_talk *talk = *d->moves->talk_of(peer);
    if (ka_likely(talk == NULL || talk->h2 == NULL || talk->is_driven))
        return;
    ka_h2_goodbye(talk->h2, cause);
    (void)d->moves->flush(d, peer, talk);
}

void ka_driver_close(ka_driver *d, ka_handle conn, ka_cause cause)
{
    if (!is_open(d, conn))
        return;
    void *peer = d->moves->peer_of(d, conn);
    say_goodbye(d, peer, cause);
    ka_driver_end(d, conn, peer, cause_of(d, conn, cause));
}

void ka_driver_half_close(ka_driver *d, ka_handle conn, void *peer, ka_cause cause)
{
    if (d->moves->shut)
        d->moves->shut(d, conn, peer); /* what lingers is thrown away as it comes */
    if (d->moves->send_fin(d, conn, peer) < 0 || ka_conn_event(d->service.table, conn, KA_EV_LINGERING, d->now) < 0) {
        ka_driver_end(d, conn, peer, cause);
        return;
    }
    (void)ka_conn_will_end(d->service.table, conn, cause);
    ka_talk *talk = part(d, peer);
    d->moves->linger(d, conn, peer);
    if (talk)
        ka_talk_free(talk); /* last, as above */
}

int ka_driver_discarded(ka_driver *d, ka_handle conn, void *peer, size_t nbytes, size_t least)
{
    const ka_application *app = &d->service.app;
    ka_cause ignored, cause = ka_conn_ending(d->service.table, conn);
    if (nbytes > least && ka_conn_crossed(d->service.table, conn) && app->on_race)
        app->on_race(app->ctx, conn, cause);
    if (nbytes && ka_conn_progress(d->service.table, conn, nbytes, d->now, &ignored) != KA_ESLOW)
        return 1;
    ka_driver_end(d, conn, peer, cause);
    return 0;
}

/* --- expiry --- */

void ka_driver_arm(ka_driver *d, int64_t at)
{
    int64_t due = ka_table_next_due(d->service.table), of_requests;
    if (ka_unlikely(d->service.h2 != NULL) && d->service.h2->clock.n &&
        ka_h2_clock_next(&d->service.h2->clock, d->service.table, &of_requests) && of_requests < due)
        due = of_requests;
    if (at < due)
        due = at;
    if (due < d->armed_ns && d->moves->set_timer(d, due) == 0)
        d->armed_ns = due;
}

/* Time is up: answer, where ka_table_due says so. Return whether that is under way (the talk is noted); else close. */
static int answers_late(ka_driver *d, ka_talk *talk, ka_action action, ka_cause cause)
{
    if (talk == NULL || talk->h2 || (action != KA_DO_ANSWER_408 && action != KA_DO_ANSWER_503))
        return 0;
    const char *why = action == KA_DO_ANSWER_408 ? "the request took too long to arrive"
                    : cause == KA_CAUSE_DRAIN    ? "the server is shutting down"
                                                 : "the application took too long to answer";
    return ka_exchange_refuse(&talk->exchange, action == KA_DO_ANSWER_408 ? 408 : 503, why, cause, d->now) == KA_OK;
}

/* The kernel takes megabytes ahead: a client that reads steadily shows in its send queue first, which has `queued` bytes
 * now. Return KA_CAUSE_NONE, or the cause to end for. */
static ka_cause progress_of(ka_driver *d, ka_talk *talk, int queued)
{
    ka_cause cause;
    int taken = talk->outq - queued;
    talk->outq = queued;
    if (taken > 0 && ka_conn_progress(d->service.table, talk->conn, (size_t)taken, d->now, &cause) == KA_ESLOW)
        return cause;
    return KA_CAUSE_NONE;
}

/* Once more at the kernel, before a verdict. Bytes found count as in time. Afterwards it may be gone. */
static void look(ka_driver *d, ka_handle conn, void *peer)
{
    const ka_moves *moves = d->moves;
    ka_talk **talk = moves->talk_of(peer);
    int phase = ka_conn_phase(d->service.table, conn);
    if (phase == KA_NEW || phase == KA_IDLE || phase == KA_HEAD || phase == KA_BODY) {
        moves->look(d, conn, peer, phase);
    } else if (phase == KA_WRITE && *talk) {
        moves->look(d, conn, peer, phase);
        int queued = is_open(d, conn) && *talk ? moves->queued(d, peer) : -1;
        ka_cause cause = queued >= 0 ? progress_of(d, *talk, queued) : KA_CAUSE_NONE;
        if (cause != KA_CAUSE_NONE)
            ka_driver_end(d, conn, peer, cause);
    } else if (*talk && (*talk)->is_noted) {
        moves->attend(d, conn, peer); /* the application had answered before we came to look at the time */
    }
}

static void carry_out(ka_driver *d, ka_handle conn, void *peer, ka_action action, ka_cause cause)
{
    ka_talk *talk = *d->moves->talk_of(peer);
    if (action == KA_DO_GOAWAY && cause == KA_CAUSE_HANDLER_TIMEOUT) { /* each request has its own, below */
        (void)ka_conn_touch(d->service.table, conn, d->now);
        return;
    }
    say_goodbye(d, peer, cause);
    if (answers_late(d, talk, action, cause)) {
        d->moves->turn(d, conn,
                       peer); /* at once: until it has left the phase it stays due, and would be cut off next */
    } else if (action == KA_DO_HALF_CLOSE || (action == KA_DO_GOAWAY && cause != KA_CAUSE_DRAIN)) {
        ka_driver_half_close(d, conn, peer, cause);
    } else {
        if (talk)
            talk->cause = (uint8_t)cause; /* by it the application is told why */
        ka_driver_end(d, conn, peer, cause_of(d, conn, cause));
    }
}

/* The requests of HTTP/2, and what their connections have begun: the same, by their own clock. */
static void expire_requests(ka_driver *d)
{
    for (int i = 0; i < KA_EXPIRIES; i++) {
        int64_t due;
        ka_h2_clock *clock = &d->service.h2->clock;
        ka_h2_wait *wait = ka_h2_clock_next(clock, d->service.table, &due);
        if (wait == NULL || due > d->now)
            return;
        int64_t since = wait->since;
        ka_talk *talk = ka_h2_talk_of(wait);
        ka_handle conn = talk->conn;
        void *peer = d->moves->peer_of(d, conn);
        d->moves->look(d, conn, peer, wait->phase == KA_BUSY ? KA_BODY : wait->phase);
        if (ka_h2_clock_next(clock, d->service.table, &due) != wait || due > d->now || wait->since != since)
            continue;
        if (wait->phase == KA_WRITE && wait->is_connection) {
            int queued = d->moves->queued(d, peer), taken = queued >= 0 ? talk->outq - queued : 0;
            talk->outq = queued >= 0 ? queued : talk->outq;
            ka_cause slow = taken > 0 ? ka_h2_sent(talk->h2, (size_t)taken, d->now) : KA_CAUSE_NONE;
            if (slow != KA_CAUSE_NONE) {
                ka_driver_end(d, conn, peer, slow);
                continue;
            }
            if (wait->since != since)
                continue;
        }
        ka_cause cause = ka_h2_late(talk->h2, wait, d->now);
        if (cause != KA_CAUSE_NONE)
            ka_driver_end(d, conn, peer, cause);
        else
            d->moves->turn(d, conn, peer);
    }
}

void ka_driver_expire(ka_driver *d)
{
    if (ka_unlikely(d->service.h2 != NULL) && d->service.h2->clock.n)
        expire_requests(d);
    for (int i = 0; i < KA_EXPIRIES; i++) {
        ka_handle conn, still;
        ka_cause cause;
        if (ka_table_due(d->service.table, d->now, &conn, &cause) == KA_DO_NOTHING)
            return;
        void *peer = d->moves->peer_of(d, conn);
        look(d, conn, peer);
        ka_action action = ka_table_due(d->service.table, d->now, &still, &cause);
        if (action != KA_DO_NOTHING && still == conn)
            carry_out(d, conn, peer, action, cause);
    }
}

/* --- room --- */

/* Its place is needed. Whoever sends a body too slowly for a full server is answered, as far as that goes at once. */
static void evict(ka_driver *d, ka_handle conn, void *peer)
{
    ka_talk *talk = *d->moves->talk_of(peer);
    say_goodbye(d, peer, KA_CAUSE_EVICTED);
    int is_in_body = ka_conn_phase(d->service.table, conn) == KA_BODY;
    if (talk && is_in_body &&
        ka_exchange_refuse(&talk->exchange, 408, "the content is arriving too slowly while the server is full",
                           KA_CAUSE_EVICTED, d->now) == KA_OK)
        d->moves->turn(d, conn, peer);
    else if (talk)
        talk->cause = KA_CAUSE_EVICTED; /* by it the application is told why */
    if (is_open(d, conn))
        ka_driver_end(d, conn, peer, KA_CAUSE_EVICTED);
}

/* Among those whose requests wait for their client. Return whether one has gone. */
static int make_room_among_requests(ka_driver *d)
{
    ka_talk *talk = d->service.h2 ? ka_h2_victim(&d->service, d->now) : NULL;
    if (ka_likely(talk == NULL))
        return 0;
    ka_handle conn = talk->conn;
    void *peer = d->moves->peer_of(d, conn);
    d->moves->look(d, conn, peer, KA_BODY);
    if (!is_open(d, conn))
        return 1;
    if (ka_h2_victim(&d->service, d->now) != talk)
        return 0;
    evict(d, conn, peer);
    return 1;
}

int ka_driver_make_room(ka_driver *d, int for_descriptor)
{
    ka_table *table = d->service.table;
    for (int i = 0; i < KA_VICTIMS && !d->keeps_all; i++) {
        ka_handle conn = ka_table_victim(table, d->now);
        void *peer = conn ? d->moves->peer_of(d, conn) : NULL;
        if (peer == NULL)
            return make_room_among_requests(d) && (for_descriptor || !ka_table_is_full(table));
        uint32_t n_asked = ka_conn_requests(table, conn);
        look(d, conn, peer);
        if (ka_table_victim(table, d->now) == conn && ka_conn_requests(table, conn) == n_asked) {
            evict(d, conn, peer);
            return for_descriptor || !ka_table_is_full(table);
        }
        if (!for_descriptor && !ka_table_is_full(table))
            return 1;
    }
    return 0;
}

int ka_driver_open(ka_driver *d, unsigned policy_class, const ka_client *client, int is_tls, ka_handle *conn)
{
    int got = ka_conn_open(d->service.table, d->now, policy_class, client, is_tls, conn);
    if (got == KA_EFULL && ka_driver_make_room(d, 0))
        got = ka_conn_open(d->service.table, d->now, policy_class, client, is_tls, conn);
    return got;
}

static void end_for_room(ka_driver *d, ka_handle conn)
{
    void *peer = d->moves->peer_of(d, conn);
    const ka_talk *talk = *d->moves->talk_of(peer);
    if (talk == NULL || !talk->is_driven) /* nothing in the middle of its turn */
        ka_driver_end(d, conn, peer, KA_CAUSE_BUFFER_LIMIT);
}

void ka_driver_shed(ka_driver *d, ka_handle asking, size_t nbytes)
{
    const ka_pool *pool = &d->service.pool;
    for (int i = 0; i < KA_SHEDS && ka_unlikely(!ka_pool_has_room(pool, KA_USE_INPUT, nbytes)); i++) {
        ka_talk *talk = ka_service_fattest(&d->service);
        if (talk == NULL) {
            ka_handle slow = ka_table_oldest(d->service.table, KA_WRITE);
            if (slow == 0 || slow == asking || ka_pool_has_room(pool, KA_USE_OUTPUT, ka_pool_reserve(pool) / 2))
                return;
            end_for_room(d, slow);
        } else if (talk->conn == asking) {
            return;
        } else if (!ka_talk_drop_ahead(talk)) {
            end_for_room(d, talk->conn);
        }
    }
}

char *ka_driver_room_behind(ka_driver *d, ka_talk *talk, size_t want, size_t *room)
{
    char *to = ka_talk_room(talk, want, room);
    if (ka_unlikely(to == NULL)) {
        ka_driver_shed(d, talk->conn, talk->window_len + want);
        to = ka_talk_room(talk, want, room);
    }
    return to;
}

size_t ka_driver_no(const ka_driver *d, char text[KA_NO_MAX])
{
    unsigned seconds = ka_table_capacity(d->service.table)->retry_after_s;
    int n = snprintf(text, KA_NO_MAX,
                     "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: %u\r\n"
                     "connection: close\r\n\r\n",
                     seconds ? seconds : 1);
    return n > 0 ? (size_t)n : 0;
}

/* --- who is it --- */

int ka_driver_introduce(ka_driver *d, ka_handle conn, const char *bytes, size_t len, ka_peer *who)
{
    ka_proxy_source said;
    int nbytes = ka_proxy_parse(bytes, len, &said);
    int got = nbytes < 0 ? nbytes : ka_trust_named(&d->trust, d->service.table, conn, &said, who);
    return got < 0 ? got : nbytes;
}

void ka_driver_turn_away(ka_driver *d, ka_handle conn, void *peer, int got)
{
    if (got == KA_ECLIENT)
        d->moves->say_no(d, peer);
    ka_driver_end(d, conn, peer, ka_trust_cause(got));
}

/* --- all of them --- */

void ka_driver_close_all(ka_driver *d, ka_cause cause)
{
    for (uint32_t slot = 1; slot < ka_table_slots(d->service.table); slot++) {
        ka_handle conn = ka_table_handle(d->service.table, slot);
        ka_driver_close(d, conn, cause);
    }
}

void ka_driver_drain(ka_driver *d, int64_t grace_ns, int64_t spread_ns, int64_t deadline_ns)
{
    ka_table_drain(d->service.table, d->now, grace_ns, spread_ns, deadline_ns);
    for (uint32_t slot = 1; slot < ka_table_slots(d->service.table); slot++) {
        ka_handle conn = ka_table_handle(d->service.table, slot);
        ka_talk *talk = conn ? *d->moves->talk_of(d->moves->peer_of(d, conn)) : NULL;
        if (talk && talk->h2)
            ka_h2_drain(talk->h2);
        else if (talk && ka_exchange_is_tunnel(&talk->exchange) && ka_exchange_is_open(&talk->exchange))
            ka_driver_news(d, talk, KA_NEWS_DRAIN);
    }
}
