/* ka_sock.c: see ka_sock.h. In order: socks, receiving, sending, the ends of a connection, its turns, what happens to it. */
#include "ka_sock.h"

#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum {
    SHAKES = 8 /* handshake steps a step: each can take a millisecond */
};

static const ka_moves moves;

static ka_engine *engine_of(ka_driver *d) { return (ka_engine *)(void *)d; }

/* --- socks --- */

ka_sock *ka_sock_of(ka_engine *e, ka_handle h)
{
    return ka_conn_phase(e->d.service.table, h) < 0 || ka_slot_of(h) / KA_CHUNK >= e->n_chunks
             ? NULL
             : ka_sock_at(e, ka_slot_of(h));
}

ka_session *ka_session_of(const ka_engine *e, ka_handle h)
{
    return ka_likely(e->sessions == NULL) ? NULL : e->sessions[ka_slot_of(h)];
}

/* Room for the sessions of one chunk more than there are, so that there is room as soon as there is an array. */
int ka_sessions_grow(ka_engine *e, uint32_t from_chunk)
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
        if (e->sessions && ka_sessions_grow(e, e->n_chunks) < 0)
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
    return socks_grow(e, ka_slot_of(h)) < 0 ? NULL : ka_sock_at(e, ka_slot_of(h));
}

/* --- receiving --- */

/* Whoever is to begin with a PROXY header. It is looked at, not taken: an incomplete one stays with the kernel and costs no
 * buffer, and what comes behind it (a TLS handshake, a request) is read as if nothing had been there.
 * Return: KA_OK: it is there; KA_PARTIAL: not yet; KA_ESTALE: the connection has ended. */
static int introduce(ka_engine *e, ka_handle h, ka_sock *s)
{
    ka_peer who = {.port = s->port, .is_trusted = s->is_trusted};
    ssize_t n;
    do
        n = recv(s->fd, e->scratch, KA_PROXY_MAX, MSG_PEEK);
    while (n < 0 && errno == EINTR);
    e->counters.receives++;
    if (n < 0 && errno == EAGAIN) {
        s->can_read = 0;
        return KA_PARTIAL;
    }
    memcpy(who.addr, s->addr, sizeof who.addr);
    int got = n > 0 ? ka_driver_introduce(&e->d, h, e->scratch, (size_t)n, &who) : n == 0 ? KA_ESTALE : KA_EPEER;
    if (got == KA_PARTIAL && !s->saw_fin) {
        s->can_read = 0;
        return KA_PARTIAL;
    }
    /* What is unread would turn the close into a reset. */
    if (n > 0 && recv(s->fd, e->scratch, got > 0 ? (size_t)got : KA_SCRATCH, 0) != got && got > 0)
        got = KA_EPEER;
    if (got < 0) {
        ka_driver_turn_away(&e->d, h, s, got);
        return KA_ESTALE;
    }
    s->awaits_proxy = 0;
    memcpy(s->addr, who.addr, sizeof s->addr);
    s->port = who.port;
    s->is_trusted = who.is_trusted != 0;
    return KA_OK;
}

static ptrdiff_t receive(ka_driver *d, void *peer, ka_talk *talk)
{
    ka_engine *e = engine_of(d);
    ka_sock *s = peer;
    size_t room = KA_SCRATCH;
    int got;
    if (ka_unlikely(s->awaits_proxy) && (got = introduce(e, talk->conn, s)) != KA_OK)
        return got;
    char *to = ka_turn_room(d, talk, e->scratch, &room);
    if (ka_unlikely(to == NULL))
        return KA_ENOMEM;
    ka_session *session = ka_session_of(e, talk->conn);
    ssize_t n = ka_wire_receive(s, session, e->scratch, to, room, &e->counters.receives);
    if (session) { /* what came off the socket counts, whatever it held */
        talk->is_filtered = 1;
        d->turn_bytes += KA_READ_COST + session->n_raw;
        session->n_raw = 0;
    } else if (n > 0) {
        d->turn_bytes += (size_t)n;
    }
    if (n > 0)
        ka_turn_took(talk, e->scratch, to, (size_t)n);
    else if (n == KA_ESTALE)
        n = ka_turn_is_cut_short(talk) ? KA_EPEER : 0;
    if (n == 0)
        s->can_read = 0;
    return n == KA_EPEER && session && session->is_abusive ? KA_EINVAL : n;
}

/* Whether the client is there at all the kernel finds out: see ka_wire_probe. */
static int saw_fin(ka_driver *d, void *peer, ka_talk *talk)
{
    const ka_sock *s = peer;
    (void)d;
    if (ka_unlikely(s->saw_fin) && !ka_talk_sees_fin(talk))
        ka_wire_probe(s->fd);
    return s->saw_fin;
}

static int can_read(ka_driver *d, void *peer)
{
    (void)d;
    return ((const ka_sock *)peer)->can_read;
}

/* With a filter always: the client's own last word is on its way. */
static int has_unread(ka_driver *d, void *peer, ka_talk *talk)
{
    return can_read(d, peer) || ka_session_of(engine_of(d), talk->conn);
}

/* --- sending --- */

/* Send what is pending until it is gone or the kernel is full. */
static ka_cause flush(ka_driver *d, void *peer, ka_talk *talk)
{
    ka_engine *e = engine_of(d);
    ka_sock *s = peer;
    ka_session *session = ka_session_of(e, talk->conn);
    size_t total = 0, n_done;
    while (s->can_write && ka_wire_is_pending(session, talk)) {
        if (ka_unlikely(total >= KA_TURN_OUTPUT)) { /* a client that takes as fast as we give is not alone */
            ka_driver_again(d, talk->conn, s, talk);
            break;
        }
        ssize_t n = ka_wire_send(s, session, talk, KA_TURN_OUTPUT - total, &n_done);
        e->counters.sends++;
        if (n < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM)
                return KA_CAUSE_ERROR;
            s->can_write = 0;
            if (errno != EAGAIN && e->resend_ns == INT64_MAX) /* no event will tell when there is memory again */
                e->resend_ns = d->now + KA_RETRY_NS;
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
    return ka_turn_left(d, talk, total);
}

static int can_send(ka_driver *d, void *peer)
{
    (void)d;
    return ((const ka_sock *)peer)->can_write;
}

static int queued(ka_driver *d, void *peer)
{
    int n;
    (void)d;
    return ioctl(((const ka_sock *)peer)->fd, SIOCOUTQ, &n) == 0 ? n : -1;
}

/* --- the ends of a connection --- */

static int send_fin(ka_driver *d, ka_handle h, void *peer)
{
    ka_sock *s = peer;
    (void)d;
    (void)h;
    if (s->sent_fin)
        return 0;
    s->sent_fin = 1;
    return shutdown(s->fd, SHUT_WR);
}

/* The filter's last word, and FIN where it was waited for; not behind a response that was cut off, which would pass for whole then. */
static void shut(ka_driver *d, ka_handle h, void *peer)
{
    ka_engine *e = engine_of(d);
    ka_sock *s = peer;
    ka_session *session = ka_session_of(e, h);
    int is_whole = !(s->talk && (ka_talk_is_cut(s->talk) || s->talk->unsent));
    if (session) {
        if (is_whole)
            ka_wire_shut(s, session);
        e->sessions[ka_slot_of(h)] = NULL;
        session->filter->close(session);
    }
    /* Now, and not with close(): the application hears of the end before it, and may take its time. And if bytes have come
     * meanwhile, close() is a reset, which drops what is held back. */
    if (s->is_corked && is_whole)
        (void)send_fin(d, h, peer);
}

static void close_sock(ka_driver *d, ka_handle h, void *peer, ka_cause cause, ka_how how)
{
    /* RST drops what the kernel has not sent yet. */
    const struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    ka_sock *s = peer;
    (void)d;
    (void)h;
    (void)cause;
    if (ka_unlikely(how == KA_CLOSE_RESET))
        (void)setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(s->fd);
    s->fd = -1;
}

/* Throw away what a lingering client still sends; no more of it in one go than of anybody's. */
static void discard(ka_engine *e, ka_handle h, ka_sock *s)
{
    size_t total = 0;
    /* The answer to a close_notify is no request that crossed our close: at most an alert, RFC 8446 6.1. */
    size_t least = e->listeners[s->listener].filter ? KA_TLS_ALERT_MAX : 0;
    while (s->can_read) {
        if (total >= KA_TURN_BYTES) {
            ka_driver_again(&e->d, h, s, NULL);
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
        if (!ka_driver_discarded(&e->d, h, s, n > 0 ? (size_t)n : 0, least))
            return;
        total += (size_t)n;
    }
}

static void linger(ka_driver *d, ka_handle h, void *peer)
{
    ((ka_sock *)peer)->can_read = 1;
    discard(engine_of(d), h, peer);
}

void ka_say_no(ka_engine *e, int fd, unsigned listener)
{
    char text[KA_NO_MAX], unread[16 * 1024]; /* not the scratch, where somebody's turn may have its window */
    size_t n = ka_driver_no(&e->d, text);
    if (e->listeners[listener].filter == NULL) {
        (void)!send(fd, text, n, MSG_NOSIGNAL | MSG_MORE); /* it leaves with FIN */
        ka_count_response(e->d.service.counters, 503);
    }
    (void)shutdown(fd, SHUT_WR);
    /* What is unread at close() turns the FIN into an RST, which could eat the answer. */
    (void)!recv(fd, unread, sizeof unread, MSG_DONTWAIT);
}

static void say_no(ka_driver *d, void *peer)
{
    const ka_sock *s = peer;
    ka_say_no(engine_of(d), s->fd, s->listener);
}

/* --- turns --- */

/* In a handshake, or lingering: have it reported again. A socket that can be written to is ready at once. */
static void again(ka_driver *d, ka_handle h, void *peer)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u64 = h};
    (void)epoll_ctl(engine_of(d)->epoll_fd, EPOLL_CTL_MOD, ((const ka_sock *)peer)->fd, &event);
}

void ka_sock_turn(ka_driver *d, ka_handle h, void *peer) { ka_turn_begin(&moves, d, h, peer); }

static void attend(ka_driver *d, ka_handle h, void *peer)
{
    (void)h;
    d->turn_bytes = 0;
    ka_turn_attend(&moves, d, peer, ((const ka_sock *)peer)->talk);
}

void ka_sock_push(ka_engine *e, ka_sock *s) { ka_turn_push(&moves, &e->d, s, s->talk); }

/* Until the handshake is done, all that goes on is between the filter and the socket. */
static void shake(ka_engine *e, ka_handle h, ka_sock *s)
{
    ka_session *session = ka_session_of(e, h);
    const ka_listener *listener = &e->listeners[s->listener];
    if (ka_unlikely(s->awaits_proxy) && introduce(e, h, s) != KA_OK)
        return;
    if (e->n_shakes++ >= SHAKES) {
        again(&e->d, h, s);
        return;
    }
    if (session == NULL && (session = listener->filter->open(listener->filter_ctx)) == NULL) {
        ka_driver_end(&e->d, h, s, KA_CAUSE_ERROR);
        return;
    }
    e->sessions[ka_slot_of(h)] = session;
    ssize_t fed = session->has_more ? 1 : ka_wire_feed(s, session, e->scratch, &e->counters.receives);
    int got = fed == KA_PARTIAL ? KA_PARTIAL : fed < 0 ? KA_EPEER : session->filter->shake(session);
    while (session->out_len && s->can_write) {
        e->counters.sends++;
        if (ka_wire_send_session(s, session, 0) < 0) {
            if (errno == EAGAIN)
                s->can_write = 0;
            else if (errno != EINTR)
                break; /* its next event says so */
        }
    }
    if (got == KA_OK) {
        (void)ka_conn_event(e->d.service.table, h, KA_EV_HANDSHAKE_DONE, e->d.now);
        if (ka_unlikely(session->is_h2) && !ka_turn_agreed_h2(&moves, &e->d, h, s))
            return;
        if (session->has_more)
            again(&e->d, h, s); /* that was enough for one step */
        else
            ka_sock_turn(&e->d, h, s); /* the first request may have come with the last of the handshake */
    } else if (fed == 0) {
        ka_driver_end(&e->d, h, s, KA_CAUSE_CLIENT);
    } else if (got != KA_PARTIAL) {
        ka_driver_half_close(&e->d, h, s, KA_CAUSE_ERROR); /* so that the alert, which says why, is not eaten by RST */
    } else if (!session->is_drained || session->has_more) {
        again(&e->d, h, s);
    }
}

/* --- what happens to one --- */

void ka_sock_event(ka_engine *e, ka_handle h, uint32_t events)
{
    int phase = ka_conn_phase(e->d.service.table, h);
    if (phase < 0)
        return;                                /* closed by an earlier event of this batch */
    ka_sock *s = ka_sock_at(e, ka_slot_of(h)); /* no event comes before it is made */
    if (events & (EPOLLERR | EPOLLHUP)) {
        if (phase == KA_LINGER)
            linger(&e->d, h, s); /* before the end there may be a request that crossed our close */
        else
            ka_driver_end(&e->d, h, s, ka_turn_broken(phase));
        return;
    }
    ka_session *session = ka_session_of(e, h);
    if (events & (EPOLLIN | EPOLLRDHUP)) {
        s->can_read = 1;
        if (session)
            session->is_drained = 0;
    }
    if (events & EPOLLRDHUP)
        s->saw_fin = 1;
    if (events & EPOLLOUT)
        s->can_write = 1;
    if (phase == KA_LINGER)
        discard(e, h, s);
    else if (phase == KA_HANDSHAKE && (s->can_read || session))
        shake(e, h, s);
    else if (phase != KA_HANDSHAKE && (s->talk || s->can_read || (session && session->out_len)))
        ka_sock_turn(&e->d, h, s);
}

static void look(ka_driver *d, ka_handle h, void *peer, int phase)
{
    ka_sock *s = peer;
    ka_session *session = ka_session_of(engine_of(d), h);
    if (phase == KA_WRITE) {
        s->can_write = 1;
    } else {
        s->can_read = 1;
        if (session)
            session->is_drained = 0;
    }
    ka_sock_turn(d, h, s);
}

static void *peer_of(ka_driver *d, ka_handle h) { return ka_sock_of(engine_of(d), h); }

static ka_talk **talk_of(void *peer) { return &((ka_sock *)peer)->talk; }

static int64_t clock_now(ka_driver *d)
{
    (void)d;
    return ka_clock();
}

static void wake(ka_driver *d)
{
    if (!engine_of(d)->is_stepping)
        ka_wake(engine_of(d));
}

static int set_timer(ka_driver *d, int64_t at)
{
    struct itimerspec spec = {
        .it_value = {.tv_sec = at > 0 ? at / 1000000000 : 0, .tv_nsec = at > 0 ? at % 1000000000 : 1}};
    return timerfd_settime(engine_of(d)->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

static const ka_moves moves = {
    .receive = receive,
    .flush = flush,
    .saw_fin = saw_fin,
    .can_read = can_read,
    .can_send = can_send,
    .has_unread = has_unread,
    .peer_of = peer_of,
    .talk_of = talk_of,
    .turn = ka_sock_turn,
    .attend = attend,
    .again = again,
    .look = look,
    .queued = queued,
    .shut = shut,
    .send_fin = send_fin,
    .linger = linger,
    .close = close_sock,
    .say_no = say_no,
    .clock = clock_now,
    .wake = wake,
    .set_timer = set_timer,
};
const ka_moves *const ka_sock_moves = &moves;

/* --- who is it --- */

int ka_engine_peer(ka_engine *e, ka_handle conn, uint8_t addr[16], uint16_t *port, unsigned *listener)
{
    ka_sock *s = ka_sock_of(e, conn);
    if (s == NULL)
        return KA_ESTALE;
    *port = s->port;
    *listener = s->listener;
    return (int)ka_addr_unpack(s->addr, addr);
}

int ka_engine_is_trusted(ka_engine *e, ka_handle conn)
{
    ka_sock *s = ka_sock_of(e, conn);
    return s ? s->is_trusted : 0;
}
