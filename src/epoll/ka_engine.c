/* ka_engine.c: see ka_engine.h. In order: socks, sending and receiving, one connection's turn, the ends of a
 * connection, handshakes, expiry, the step. Accepting stands in ka_accept.c, closing in ka_closing.c. */
#include "ka_engine_parts.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum {
    EVENTS = 128, /* a step, at most: see pace */
    MIN_EVENTS = 8,
    STEP_NS = 600 * 1000,   /* a step is to take no longer, for the sake of the loop's other work */
    EXPIRIES = 64,          /* a step */
    TURN_BYTES = 64 * 1024, /* of input, a connection and step */
    TURN_OUTPUT = 1 << 20,  /* the same: the kernel copies it, which takes a third of a millisecond */
    SHAKES = 8,             /* handshake steps a step: each can take a millisecond */
    READ_COST = 1024        /* of a read through a filter, in bytes of TURN_BYTES: a record may hold a single one */
};

static void turn(ka_engine *e, ka_handle h, ka_sock *s);
static void again(ka_engine *e, ka_handle h, ka_sock *s);
static const ka_moves moves;

/* --- socks --- */

static ka_sock *sock_at(ka_engine *e, uint32_t slot) { return &e->chunks[slot / KA_CHUNK][slot % KA_CHUNK]; }

ka_sock *ka_sock_of(ka_engine *e, ka_handle h)
{
    return ka_conn_phase(e->table, h) < 0 || ka_slot_of(h) / KA_CHUNK >= e->n_chunks ? NULL : sock_at(e, ka_slot_of(h));
}

static ka_session *session_of(const ka_engine *e, ka_handle h)
{
    return ka_likely(e->sessions == NULL) ? NULL : e->sessions[ka_slot_of(h)];
}

static void session_end(ka_engine *e, ka_handle h)
{
    ka_session *session = session_of(e, h);
    if (session == NULL)
        return;
    e->sessions[ka_slot_of(h)] = NULL;
    session->filter->close(session);
}

/* Room for the sessions of one chunk more than there are, so that there is room as soon as there is an array. */
static int sessions_grow(ka_engine *e, uint32_t from_chunk)
{
    size_t from = (size_t)from_chunk * KA_CHUNK, to = ((size_t)e->n_chunks + 1) * KA_CHUNK;
    ka_session **sessions = realloc(e->sessions, to * sizeof *sessions);
    if (sessions == NULL)
        return KA_ENOMEM;
    e->sessions = sessions;
    memset(sessions + from, 0, (to - from) * sizeof *sessions);
    return KA_OK;
}

static int socks_grow(ka_engine *e, uint32_t slot)
{
    while (slot / KA_CHUNK >= e->n_chunks) {
        ka_sock **chunks = realloc(e->chunks, (e->n_chunks + 1) * sizeof *chunks);
        if (chunks == NULL)
            return KA_ENOMEM;
        e->chunks = chunks;
        if (e->sessions && sessions_grow(e, e->n_chunks) < 0)
            return KA_ENOMEM;
        ka_sock *chunk = malloc(KA_CHUNK * sizeof *chunk);
        if (chunk == NULL)
            return KA_ENOMEM;
        for (unsigned i = 0; i < KA_CHUNK; i++)
            chunk[i] = (ka_sock){.fd = -1};
        e->chunks[e->n_chunks++] = chunk;
    }
    return KA_OK;
}

ka_sock *ka_sock_make(ka_engine *e, ka_handle h)
{
    return socks_grow(e, ka_slot_of(h)) < 0 ? NULL : sock_at(e, ka_slot_of(h));
}

/* --- receiving --- */

/* Room behind bytes that wait, where others may have to go for it; NULL: there is none. */
static char *room_behind(ka_engine *e, ka_talk *talk, size_t appetite, size_t *room)
{
    size_t want = appetite < KA_READ_BEHIND ? appetite : KA_READ_BEHIND;
    char *to = ka_talk_room(talk, want, room);
    if (ka_unlikely(to == NULL)) {
        ka_turn_shed(&moves, e, &e->service, talk->conn, talk->window_len + want, KA_SHEDS);
        to = ka_talk_room(talk, want, room);
    }
    return to;
}

/* Read and parse in the shared scratch; only when bytes wait already, behind them.
 * Return: as ka_wire_receive, and KA_ENOMEM. */
static ssize_t receive(ka_engine *e, ka_handle h, ka_sock *s, ka_talk *talk)
{
    char *to = e->scratch;
    size_t room = KA_SCRATCH, appetite = ka_talk_appetite(talk);
    if (talk->window_len == 0)
        (void)ka_talk_park(talk); /* gives back a buffer that is used up */
    else if ((to = room_behind(e, talk, appetite, &room)) == NULL)
        return KA_ENOMEM;
    if (room > appetite)
        room = appetite;
    ka_session *session = session_of(e, h);
    ssize_t n = ka_wire_receive(s, session, e->scratch, to, room, &e->counters.receives);
    if (session) { /* what came off the socket counts, whatever it held */
        e->turn_bytes += READ_COST + session->n_raw;
        session->n_raw = 0;
    } else if (n > 0) {
        e->turn_bytes += (size_t)n;
    }
    if (n == KA_ESTALE)
        n = ka_turn_is_cut_short(talk) ? KA_EPEER : 0;
    if (n > 0) {
        if (to == e->scratch)
            ka_talk_arrived(talk, to, (size_t)n);
        else
            ka_talk_filled(talk, (size_t)n);
    }
    return n;
}

/* --- sending --- */

/* Send what is pending until it is gone or the kernel is full. Return KA_CAUSE_NONE, or the cause to close for. */
static ka_cause flush(void *port, void *peer, ka_talk *talk)
{
    ka_engine *e = port;
    ka_sock *s = peer;
    ka_session *session = session_of(e, talk->conn);
    size_t total = 0, n_done;
    while (s->can_write && ka_wire_is_pending(session, talk)) {
        if (ka_unlikely(total >= TURN_OUTPUT)) { /* a client that takes as fast as we give is not alone */
            again(e, talk->conn, s);
            break;
        }
        ssize_t n = ka_wire_send(s, session, talk, TURN_OUTPUT - total, &n_done);
        e->counters.sends++;
        if (n < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM)
                return KA_CAUSE_ERROR;
            s->can_write = 0;
            if (errno != EAGAIN && e->resend_ns == INT64_MAX) /* no event will tell when there is memory again */
                e->resend_ns = e->now + KA_RETRY_NS;
            break;
        }
        if (n == 0)
            return KA_CAUSE_APPLICATION; /* a file that became shorter than promised */
        total += (size_t)n;
        ka_talk_sent(talk, n_done);
    }
    if (total == 0)
        return KA_CAUSE_NONE;
    if (talk->unsent && ioctl(s->fd, SIOCOUTQ, &talk->outq) < 0)
        talk->outq = 0;
    return ka_turn_left(&moves, e, talk, total, e->now);
}

/* --- the ends of a connection --- */

/* The filter's last word; not behind a response that was cut off, which would pass for whole then. */
static void shut_session(ka_engine *e, ka_handle h, ka_sock *s)
{
    ka_session *session = session_of(e, h);
    if (session && !(s->talk && (s->talk->is_cut || s->talk->unsent)))
        ka_wire_shut(s, session);
}

/* Have close() send RST, which drops what the kernel has not sent yet. */
static void make_reset(int fd)
{
    const struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

/* The one way out: descriptor, talk, slot, in every phase. */
void ka_sock_end(ka_engine *e, ka_handle h, ka_sock *s, ka_cause cause)
{
    ka_talk *talk = s->talk;
    int fd = s->fd;
    shut_session(e, h, s);
    s->talk = NULL; /* nobody can have it attended to, or given away, any more */
    if (e->calls.on_closed)
        e->calls.on_closed(e->calls.ctx, h, cause);
    s->fd = -1;
    (void)ka_conn_close(e->table, h, cause);
    if (talk && ka_unlikely(ka_talk_needs_reset(talk)))
        make_reset(fd);
    close(fd);
    session_end(e, h);
    if (talk)
        ka_talk_free(talk); /* last: it tells the application */
    if (ka_unlikely(e->has_paused))
        ka_listeners_resume(e);
}

/* Throw away what a lingering client still sends; no more of it in one go than of anybody's. */
static void discard(ka_engine *e, ka_handle h, ka_sock *s)
{
    ka_cause ignored;
    size_t total = 0;
    /* The answer to a close_notify is no request that crossed our close: at most an alert, RFC 8446 6.1. */
    ssize_t least = e->listeners[s->listener].filter ? KA_TLS_ALERT_MAX : 0;
    while (s->can_read) {
        if (total >= TURN_BYTES) {
            again(e, h, s);
            return;
        }
        ssize_t n = recv(s->fd, e->scratch, KA_SCRATCH, MSG_TRUNC); /* TCP drops it without a copy */
        e->counters.receives++;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            s->can_read = 0;
            return;
        }
        if (n > least && ka_conn_crossed(e->table, h) && e->calls.on_race)
            e->calls.on_race(e->calls.ctx, h, (ka_cause)s->cause);
        if (n <= 0 || ka_conn_progress(e->table, h, (size_t)n, e->now, &ignored) == KA_ESLOW) {
            ka_sock_end(e, h, s, (ka_cause)s->cause);
            return;
        }
        total += (size_t)n;
    }
}

/* FIN, then wait for the client's, so that no RST eats what we sent last. */
static void half_close(ka_engine *e, ka_handle h, ka_sock *s, ka_cause cause)
{
    shut_session(e, h, s);
    session_end(e, h); /* what lingers is thrown away as it comes */
    if (shutdown(s->fd, SHUT_WR) < 0 || ka_conn_event(e->table, h, KA_EV_LINGERING, e->now) < 0) {
        ka_sock_end(e, h, s, cause);
        return;
    }
    s->cause = cause & 31;
    if (s->talk) {
        ka_talk *talk = s->talk;
        s->talk = NULL;
        ka_talk_free(talk);
    }
    s->can_read = 1;
    discard(e, h, s);
}

/* --- one connection's turn --- */

/* Room for one more in a list of handles. */
static int list_grow(ka_handle **list, uint32_t *cap)
{
    uint32_t more = *cap ? 2 * *cap : 64;
    ka_handle *grown = realloc(*list, more * sizeof *grown);
    if (grown == NULL)
        return KA_ENOMEM;
    *list = grown;
    *cap = more;
    return KA_OK;
}

/* Another turn, in a step to come, after the others'. Its descriptor would not always tell: one whose kernel buffers are
 * full is not reported, though its application has more to do. */
static void again(ka_engine *e, ka_handle h, ka_sock *s)
{
    if (s->talk && s->talk->is_later)
        return;
    if (s->talk == NULL || (e->n_later == e->later_cap && list_grow(&e->later, &e->later_cap) < 0)) {
        /* In a handshake, or without memory: have it reported again. A socket that can be written to is ready at once. */
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u64 = h};
        (void)epoll_ctl(e->epoll_fd, EPOLL_CTL_MOD, s->fd, &event);
        return;
    }
    s->talk->is_later = 1;
    if (e->n_later == 0 && !e->is_stepping)
        ka_engine_wake(e);
    e->later[e->n_later++] = h;
}

/* `n` turns that were put off, no more than a step takes events. Who asks for another meanwhile waits for the next step. */
static void take_turns(ka_engine *e, uint32_t n)
{
    n = n < e->batch ? n : e->batch;
    for (uint32_t i = 0; i < n && !e->closes_all; i++) {
        ka_handle h = e->later[i];
        ka_sock *s = ka_sock_of(e, h);
        if (s == NULL || s->talk == NULL || !s->talk->is_later)
            continue;
        s->talk->is_later = 0;
        turn(e, h, s);
    }
    e->n_later -= n;
    if (e->n_later)
        memmove(e->later, e->later + n, e->n_later * sizeof *e->later);
}

/* FIN was announced while the application is busy. It means "no further request", nothing more; and it may be behind bytes
 * of pipelined requests: a head's worth of them is taken in, and where more lie before it the application is told
 * without. Whether the client is there at all the kernel finds out: see ka_wire_probe. */
static void look_for_fin(void *port, void *peer, ka_talk *talk)
{
    ka_engine *e = port;
    ka_sock *s = peer;
    if (ka_likely(!s->saw_fin))
        return;
    if (!talk->sees_fin)
        ka_wire_probe(s->fd);
    if (!ka_talk_body_is_over(talk))
        return;
    ssize_t n = 1;
    while (n > 0 && s->can_read && ka_talk_appetite(talk) && e->turn_bytes < TURN_BYTES)
        n = receive(e, talk->conn, s, talk);
    if (n == 0) {
        s->can_read = 0;
        ka_turn_eof(&moves, e, talk);
    } else {
        if (s->can_read && ka_talk_appetite(talk) && (n > 0 || n == KA_PARTIAL))
            again(e, talk->conn, s); /* a turn's worth of small records */
        ka_turn_fin(&moves, e, talk);
    }
}

/* Take a PROXY header. Return whether it is there; without one, whether the connection still stands is to be asked. */
static int introduce(ka_engine *e, ka_handle h, ka_sock *s)
{
    int got = ka_sock_introduce(e, h, s);
    if (got == KA_ECLIENT)
        ka_say_no(e, s->fd, s->listener);
    if (got < 0 && got != KA_PARTIAL)
        ka_sock_end(e, h, s, ka_trust_cause(got));
    return got == KA_OK;
}

static ka_turned read_more(void *port, void *peer, ka_talk *talk)
{
    ka_engine *e = port;
    ka_sock *s = peer;
    ka_handle h = talk->conn;
    if (!s->can_read)
        return KA_TURN_PAUSE;
    if (ka_unlikely(s->awaits_proxy) && !introduce(e, h, s))
        return ka_sock_of(e, h) ? KA_TURN_PAUSE : KA_TURN_ENDED;
    if (e->turn_bytes >= TURN_BYTES) {
        again(e, h, s);
        return KA_TURN_PAUSE;
    }
    ssize_t n = receive(e, h, s, talk);
    if (n == KA_PARTIAL) {
        if (ka_unlikely(s->can_read))
            again(e, h, s); /* what came held no content so far, and there is more of it */
        return KA_TURN_PAUSE;
    }
    if (n < 0) {
        const ka_session *session = session_of(e, h);
        ka_sock_end(e, talk->conn, s,
                    n == KA_ENOMEM                   ? KA_CAUSE_BUFFER_LIMIT
                    : session && session->is_abusive ? KA_CAUSE_BAD_REQUEST
                                                     : KA_CAUSE_ERROR);
        return KA_TURN_ENDED;
    }
    if (n == 0) {
        s->can_read = 0;
        ka_turn_eof(&moves, e, talk);
        return KA_TURN_ON;
    }
    return ka_turn_arrived(&moves, e, s, talk, (size_t)n, e->now);
}

static int can_read(void *port, void *peer)
{
    (void)port;
    return ((const ka_sock *)peer)->can_read;
}

/* With a filter always: the client's own last word is on its way. */
static int has_unread(void *port, void *peer, ka_talk *talk)
{
    return can_read(port, peer) || session_of(port, talk->conn);
}

static int can_send(void *port, void *peer)
{
    (void)port;
    return ((const ka_sock *)peer)->can_write;
}

static void on_request(void *port, ka_talk *talk, const ka_head *head)
{
    const ka_engine *e = port;
    e->calls.on_request(e->calls.ctx, talk, head, e->service.fields);
}

static void on_news(void *port, ka_talk *talk, ka_news news)
{
    const ka_engine *e = port;
    e->calls.on_news(e->calls.ctx, talk, news);
}

static void move_end(void *port, void *peer, ka_talk *talk, ka_cause cause)
{
    ka_sock_end(port, talk->conn, peer, cause);
}

static void move_end_of(void *port, ka_handle conn, ka_cause cause)
{
    ka_sock *s = ka_sock_of(port, conn);
    if (s && !(s->talk && s->talk->is_driven))
        ka_sock_end(port, conn, s, cause);
}

static void move_half_close(void *port, void *peer, ka_talk *talk, ka_cause cause)
{
    half_close(port, talk->conn, peer, cause);
}

static void settled(void *port, void *peer, ka_talk *talk)
{
    ka_engine *e = port;
    (void)talk;
    ((ka_sock *)peer)->talk = NULL;
    if (ka_unlikely(e->has_paused))
        ka_listeners_resume(e); /* it can be closed now for somebody who waits */
}

static void move_again(void *port, void *peer, ka_talk *talk) { again(port, talk->conn, peer); }

static const ka_moves moves = {
    .on_request = on_request,
    .on_news = on_news,
    .read = read_more,
    .flush = flush,
    .can_read = can_read,
    .has_unread = has_unread,
    .look_for_fin = look_for_fin,
    .can_send = can_send,
    .settled = settled,
    .end = move_end,
    .half_close = move_half_close,
    .again = move_again,
    .end_of = move_end_of,
};

static void turn(ka_engine *e, ka_handle h, ka_sock *s)
{
    if (s->talk == NULL && (s->talk = ka_talk_new(&e->service, h)) == NULL) {
        ka_sock_end(e, h, s, KA_CAUSE_BUFFER_LIMIT);
        return;
    }
    e->turn_bytes = 0;
    ka_turn(&moves, e, s, s->talk, e->now);
}

/* --- handshakes --- */

/* Until the handshake is done, all that goes on is between the filter and the socket. */
static void shake(ka_engine *e, ka_handle h, ka_sock *s)
{
    ka_session *session = session_of(e, h);
    const ka_listener *listener = &e->listeners[s->listener];
    if (ka_unlikely(s->awaits_proxy) && !introduce(e, h, s))
        return;
    if (e->n_shakes++ >= SHAKES) {
        again(e, h, s);
        return;
    }
    if (session == NULL && (session = listener->filter->open(listener->filter_ctx)) == NULL) {
        ka_sock_end(e, h, s, KA_CAUSE_ERROR);
        return;
    }
    e->sessions[ka_slot_of(h)] = session;
    ssize_t fed = session->has_more ? 1 : ka_wire_feed(s, session, e->scratch, &e->counters.receives);
    int got = fed == KA_PARTIAL ? KA_PARTIAL : fed < 0 ? KA_EPEER : session->filter->shake(session);
    while (session->out_len && s->can_write) {
        e->counters.sends++;
        if (ka_wire_send_session(s, session) < 0) {
            if (errno == EAGAIN)
                s->can_write = 0;
            else if (errno != EINTR)
                break; /* its next event says so */
        }
    }
    if (got == KA_OK) {
        (void)ka_conn_event(e->table, h, KA_EV_HANDSHAKE_DONE, e->now);
        if (session->has_more)
            again(e, h, s); /* that was enough for one step */
        else
            turn(e, h, s); /* the first request may have come with the last of the handshake */
    } else if (fed == 0) {
        ka_sock_end(e, h, s, KA_CAUSE_CLIENT);
    } else if (got != KA_PARTIAL) {
        half_close(e, h, s, KA_CAUSE_ERROR); /* so that the alert, which says why, is not eaten by RST */
    } else if (!session->is_drained || session->has_more) {
        again(e, h, s);
    }
}

/* --- turns outside a step --- */

static void note(void *port, ka_talk *talk)
{
    ka_engine *e = port;
    if (talk->is_noted)
        return;
    if (e->n_noted == e->noted_cap && list_grow(&e->noted, &e->noted_cap) < 0) {
        talk->is_noted = e->has_unlisted = 1; /* then all are looked at */
        return;
    }
    talk->is_noted = 1;
    e->noted[e->n_noted++] = talk->conn;
}

static void attend_one(ka_engine *e, ka_sock *s)
{
    e->turn_bytes = 0;
    ka_turn_attend(&moves, e, s, s->talk, e->now);
}

/* There was no memory to list them. O(slots). */
static void attend_unlisted(ka_engine *e)
{
    e->has_unlisted = 0;
    for (uint32_t slot = 1; slot < e->n_chunks * KA_CHUNK; slot++) {
        ka_sock *s = sock_at(e, slot);
        if (s->talk && s->talk->is_noted)
            attend_one(e, s);
    }
}

void ka_noted_attend(ka_engine *e)
{
    for (uint32_t i = 0; i < e->n_noted; i++) { /* the list may grow meanwhile */
        ka_handle h = e->noted[i];
        ka_sock *s = ka_sock_of(e, h);
        if (s && s->talk && s->talk->is_noted)
            attend_one(e, s);
    }
    e->n_noted = 0;
    if (ka_unlikely(e->has_unlisted))
        attend_unlisted(e);
}

void ka_engine_push(ka_engine *e, ka_talk *talk)
{
    ka_sock *s = ka_sock_of(e, talk->conn);
    (void)ka_engine_now(e);
    ka_engine_enter(e);
    if (s && s->talk == talk)
        ka_turn_push(&moves, e, s, talk);
    e->n_inside--; /* not left: what waits for that is not to happen inside the application's code */
    if (ka_unlikely(e->n_inside == 0 && (e->n_doomed || e->closes_all)))
        ka_engine_wake(e);
}

/* --- expiry --- */

/* Set the timer only when something is due earlier than it will fire: a timer that fires too early finds nothing due
 * and is set again, which costs less than a system call a request. */
void ka_timer_arm(ka_engine *e)
{
    int64_t due = ka_table_next_due(e->table);
    if (ka_unlikely(e->retry_ns < due))
        due = e->retry_ns;
    if (ka_unlikely(e->resend_ns < due))
        due = e->resend_ns;
    if (due >= e->armed_ns)
        return;
    struct itimerspec at = {
        .it_value = {.tv_sec = due > 0 ? due / 1000000000 : 0, .tv_nsec = due > 0 ? due % 1000000000 : 1}};
    if (timerfd_settime(e->timer_fd, TFD_TIMER_ABSTIME, &at, NULL) == 0)
        e->armed_ns = due;
}

/* "No event seen" is no evidence: look at the kernel once more before a verdict. Bytes found count as in time. */
void ka_sock_look(ka_engine *e, ka_handle h, ka_sock *s)
{
    int phase = ka_conn_phase(e->table, h);
    if (phase == KA_NEW || phase == KA_IDLE || phase == KA_HEAD || phase == KA_BODY) {
        s->can_read = 1;
        if (session_of(e, h))
            session_of(e, h)->is_drained = 0;
        turn(e, h, s);
    } else if (phase == KA_WRITE && s->talk) {
        int queued;
        s->can_write = 1;
        turn(e, h, s);
        if (ka_sock_of(e, h) && s->talk && ioctl(s->fd, SIOCOUTQ, &queued) == 0) {
            ka_cause cause = ka_turn_queued(s->talk, queued, e->now);
            if (cause != KA_CAUSE_NONE)
                ka_sock_end(e, h, s, cause);
        }
    } else if (s->talk && s->talk->is_noted) {
        attend_one(e, s); /* the application had answered before we came to look at the time */
    }
}

void ka_sock_evict(ka_engine *e, ka_handle h, ka_sock *s)
{
    if (ka_turn_evicts(s->talk, ka_conn_phase(e->table, h), e->now))
        turn(e, h, s);
    if (ka_sock_of(e, h))
        ka_sock_end(e, h, s, KA_CAUSE_EVICTED);
}

static void carry_out(ka_engine *e, ka_handle h, ka_sock *s, ka_action action, ka_cause cause)
{
    if (ka_turn_answers_late(s->talk, action, cause, e->now)) {
        turn(e, h, s); /* at once: until it has left the phase it stays due, and would be cut off next */
        return;
    }
    if (s->talk && action != KA_DO_HALF_CLOSE)
        s->talk->cause = (uint8_t)cause;
    if (action == KA_DO_HALF_CLOSE)
        half_close(e, h, s, cause);
    else
        ka_sock_end(e, h, s, ka_conn_phase(e->table, h) == KA_LINGER ? (ka_cause)s->cause : cause);
}

static void expire(ka_engine *e)
{
    for (int i = 0; i < EXPIRIES; i++) {
        ka_handle h, still;
        ka_cause cause;
        ka_action action = ka_table_due(e->table, e->now, &h, &cause);
        if (action == KA_DO_NOTHING)
            return;
        ka_sock *s = ka_sock_of(e, h);
        ka_sock_look(e, h, s);
        action = ka_table_due(e->table, e->now, &still, &cause);
        if (action != KA_DO_NOTHING && still == h)
            carry_out(e, h, s, action, cause);
    }
}

/* --- the step --- */

static void refresh_date(ka_engine *e)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME_COARSE, &t);
    if (t.tv_sec != e->date_s) {
        e->date_s = t.tv_sec;
        ka_reply_common_set_date(&e->service.common, t.tv_sec);
    }
}

static void on_conn_event(ka_engine *e, ka_handle h, uint32_t events)
{
    ka_sock *s = ka_sock_of(e, h);
    if (s == NULL)
        return; /* closed by an earlier event of this batch */
    if (events & (EPOLLERR | EPOLLHUP)) {
        int phase = ka_conn_phase(e->table, h);
        if (phase == KA_LINGER) {
            s->can_read = 1;
            discard(e, h, s); /* before the end there may be a request that crossed our close */
            return;
        }
        ka_sock_end(e, h, s, ka_turn_broken(phase));
        return;
    }
    ka_session *session = session_of(e, h);
    if (events & (EPOLLIN | EPOLLRDHUP)) {
        s->can_read = 1;
        if (session)
            session->is_drained = 0;
    }
    if (events & EPOLLRDHUP)
        s->saw_fin = 1;
    if (events & EPOLLOUT)
        s->can_write = 1;
    int phase = ka_conn_phase(e->table, h);
    if (phase == KA_LINGER)
        discard(e, h, s);
    else if (phase == KA_HANDSHAKE && (s->can_read || session))
        shake(e, h, s);
    else if (phase != KA_HANDSHAKE && (s->talk || s->can_read || (session && session->out_len)))
        turn(e, h, s);
}

/* The kernel had no memory for what some were to send. Which ones is not kept: it is rare. O(slots). */
static void send_again(ka_engine *e)
{
    e->resend_ns = INT64_MAX;
    for (uint32_t slot = 1; slot < e->n_chunks * KA_CHUNK; slot++) {
        ka_sock *s = sock_at(e, slot);
        if (s->talk == NULL || s->talk->unsent == 0 || s->can_write)
            continue;
        s->can_write = 1;
        turn(e, s->talk->conn, s);
    }
}

static void drain_counter(int fd)
{
    uint64_t n;
    (void)!read(fd, &n, sizeof n);
}

/* What an event costs is the application's business, so a step is bounded by what the last one took: the events it does
 * not take wait in the kernel, behind those that came before them. */
static void pace(ka_engine *e, uint32_t n, int64_t began_ns)
{
    if (n < MIN_EVENTS)
        return;
    int64_t took = ka_clock() - began_ns;
    if (took > STEP_NS && n >= e->batch / 2)
        e->batch = e->batch / 2 > MIN_EVENTS ? e->batch / 2 : MIN_EVENTS;
    else if (took < STEP_NS / 2 && n == e->batch && e->batch < EVENTS)
        e->batch *= 2;
}

int ka_engine_step(ka_engine *e)
{
    struct epoll_event events[EVENTS];
    uint32_t ready[KA_MAX_LISTENERS], n_ready = 0;
    if (e->n_inside)
        return KA_EINVAL;
    int n = epoll_wait(e->epoll_fd, events, (int)e->batch, 0);
    if (n < 0)
        return errno == EINTR ? 0 : ka_os_error();
    ka_engine_enter(e);
    e->is_stepping = 1;
    int64_t began_ns = e->now = ka_clock();
    e->counters.steps++;
    e->n_shakes = 0;
    e->counters.events += (uint64_t)n;
    refresh_date(e);
    const uint32_t n_later = e->n_later;
    for (int i = 0; i < n && !e->closes_all; i++) {
        uint64_t tag = events[i].data.u64;
        if (ka_slot_of(tag) != 0) {
            on_conn_event(e, tag, events[i].events);
        } else if (tag == KA_TAG(KA_TAG_TIMER)) {
            drain_counter(e->timer_fd);
            e->armed_ns = INT64_MAX;
        } else if (tag == KA_TAG(KA_TAG_EVENT)) {
            drain_counter(e->event_fd);
            e->calls.on_wake(e->calls.ctx);
        } else {
            ready[n_ready++] = (uint32_t)(tag >> 32) - KA_TAG_LISTENER;
        }
    }
    if (ka_unlikely(n_later))
        take_turns(e, n_later);
    expire(e);
    ka_turn_relieve(&moves, e, &e->service);
    if (ka_unlikely(e->now >= e->retry_ns))
        ka_listeners_resume(e);
    if (ka_unlikely(e->now >= e->resend_ns))
        send_again(e);
    for (uint32_t i = 0; i < n_ready; i++)
        if (ready[i] < e->n_listeners && !e->closes_all)
            (void)ka_accept_some(e, ready[i]);
    ka_noted_attend(e);
    if (e->n_later)
        ka_engine_wake(e); /* here and not before: this step may have used up an earlier one */
    pace(e, (uint32_t)n, began_ns);
    e->is_stepping = 0;
    ka_engine_leave(e);
    return n;
}

/* --- making, unmaking and asking --- */

static void refused(void *port, ka_talk *talk)
{
    ka_engine *e = port;
    e->calls.on_refused(e->calls.ctx, talk);
}

static void class_of_request(void *port, ka_talk *talk, const ka_head *head)
{
    ka_engine *e = port;
    unsigned policy_class = e->calls.class_of_request(e->calls.ctx, talk, head, e->service.fields);
    (void)ka_conn_set_class(e->table, talk->conn, policy_class);
}

void ka_engine_ask_classes(ka_engine *e, int of_clients, int of_requests)
{
    e->asks_class = of_clients != 0;
    e->service.classify = of_requests ? class_of_request : NULL;
}

static int watch(ka_engine *e, int fd, uint64_t tag)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = tag};
    return epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

int ka_engine_new(ka_engine **out, ka_table *table, const ka_limits *limits, size_t max_buffer_bytes,
                  const ka_calls *calls)
{
    ka_engine *e = calloc(1, sizeof *e);
    if (e == NULL)
        return KA_ENOMEM;
    e->table = table;
    e->calls = *calls;
    e->batch = EVENTS;
    e->armed_ns = e->retry_ns = e->resend_ns = INT64_MAX;
    e->now = ka_clock();
    e->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    e->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    e->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    e->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int got = ka_service_init(&e->service, table, limits, max_buffer_bytes, calls->release);
    e->service.port = e;
    e->service.attend = note;
    e->service.lost = calls->on_lost;
    e->service.refused = calls->on_refused ? refused : NULL;
    if (got == KA_OK &&
        (e->epoll_fd < 0 || e->timer_fd < 0 || e->event_fd < 0 || watch(e, e->timer_fd, KA_TAG(KA_TAG_TIMER)) < 0 ||
         watch(e, e->event_fd, KA_TAG(KA_TAG_EVENT)) < 0))
        got = ka_os_error();
    if (got < 0) {
        ka_engine_free(e);
        return got;
    }
    refresh_date(e);
    *out = e;
    return KA_OK;
}

int ka_engine_set_filter(ka_engine *e, unsigned listener, const ka_filter *filter, void *ctx)
{
    if (listener >= e->n_listeners)
        return KA_EINVAL;
    if (e->sessions == NULL && sessions_grow(e, 0) < 0)
        return KA_ENOMEM;
    e->listeners[listener].filter = filter;
    e->listeners[listener].filter_ctx = ctx;
    return KA_OK;
}

uint64_t ka_process(void)
{
    static uint64_t *stamp; /* in a page that a fork empties in the child */
    if (ka_likely(stamp && *stamp))
        return *stamp;
    if (stamp == NULL) {
        void *page = mmap(NULL, sizeof *stamp, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (page != MAP_FAILED && madvise(page, sizeof *stamp, MADV_WIPEONFORK) < 0) {
            munmap(page, sizeof *stamp);
            page = MAP_FAILED;
        }
        if (page == MAP_FAILED)
            return (uint64_t)getpid();
        stamp = page;
    }
    return *stamp = (uint64_t)getpid();
}

int ka_engine_fileno(const ka_engine *e) { return e->epoll_fd; }
ka_service *ka_engine_service(ka_engine *e) { return &e->service; }
ka_trust *ka_engine_trust(ka_engine *e) { return &e->trust; }
int ka_engine_is_stepping(const ka_engine *e) { return e->is_stepping; }
int ka_engine_is_inside(const ka_engine *e) { return e->n_inside != 0; }
const ka_engine_counters *ka_engine_stats(const ka_engine *e) { return &e->counters; }

int64_t ka_engine_read_clock(void) { return ka_clock(); }

int64_t ka_engine_now(ka_engine *e)
{
    if (!e->is_stepping)
        e->now = ka_clock();
    return e->now;
}

void ka_engine_wake(ka_engine *e)
{
    uint64_t one = 1;
    (void)!write(e->event_fd, &one, sizeof one);
}

void ka_engine_drain(ka_engine *e, int64_t grace_ns, int64_t spread_ns, int64_t deadline_ns)
{
    ka_table_drain(e->table, ka_engine_now(e), grace_ns, spread_ns, deadline_ns);
    ka_engine_enter(e);
    for (uint32_t slot = 1; slot < e->n_chunks * KA_CHUNK; slot++) {
        ka_talk *talk = sock_at(e, slot)->talk;
        if (talk && ka_exchange_is_tunnel(&talk->exchange) && ka_exchange_is_open(&talk->exchange))
            e->calls.on_news(e->calls.ctx, talk, KA_NEWS_DRAIN);
    }
    ka_engine_leave(e);
}

ka_session *ka_engine_session(ka_engine *e, ka_handle conn) { return ka_sock_of(e, conn) ? session_of(e, conn) : NULL; }

int ka_engine_give_away(ka_engine *e, ka_handle conn)
{
    ka_sock *s = ka_sock_of(e, conn);
    if (s == NULL)
        return KA_ESTALE;
    if (session_of(e, conn) || s->talk == NULL || s->talk->is_driven || s->talk->unsent)
        return KA_EINVAL;
    int fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return ka_os_error();
    (void)epoll_ctl(e->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL); /* closing it would not, for the file stays open */
    ka_engine_enter(e);
    ka_sock_end(e, conn, s, KA_CAUSE_UPGRADED);
    ka_engine_leave(e);
    return fd;
}

int ka_engine_fd(ka_engine *e, ka_handle conn)
{
    ka_sock *s = ka_sock_of(e, conn);
    return s ? s->fd : -1;
}
