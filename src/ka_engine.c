/* ka_engine.c: see ka_engine.h. In order: socks, sending and receiving, one connection's turn, the ends of a
 * connection, expiry, accepting, the step. */
#define _GNU_SOURCE /* accept4 */
#include "ka_engine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    EVENTS = 128,            /* a step */
    ACCEPTS = 64,            /* a listener and step */
    EXPIRIES = 64,           /* a step */
    VICTIMS = 8,             /* asked, before a newcomer is turned away */
    TURN_BYTES = 64 * 1024,  /* of input, a connection and step */
    SCRATCH = 64 * 1024,
    READ_BEHIND = 4096,      /* room for a read behind bytes that wait */
    IOVECS = 16
};

/* What an open connection owns while idle, beside its slot. */
typedef struct {
    int32_t fd;             /* owned; -1 = none */
    uint8_t can_read : 1;   /* readiness was announced and not used up: edge-triggered events come once */
    uint8_t can_write : 1;
    uint8_t saw_fin : 1;    /* RDHUP: FIN is in the kernel, perhaps behind unread bytes */
    uint8_t cause : 5;      /* ka_cause of a connection in LINGER */
    uint8_t listener;
    uint16_t port;          /* of the client, host order */
    ka_talk *talk;          /* owned; NULL when nothing is pending */
    uint8_t addr[16];       /* of the client; IPv4: the first 4 */
} ka_sock;
_Static_assert(sizeof(ka_sock) == 32, "an idle connection's memory is a promise");
_Static_assert(KA_N_CAUSES <= 32, "a cause fits its five bits");

typedef struct {
    int32_t fd;         /* not owned; -1 = free */
    uint8_t klass;
    uint8_t family;     /* 0: unix */
    uint8_t knows_clients;
    uint8_t is_paused;  /* taken out of epoll while the table is full: level-triggered, it would spin */
} ka_listener;

struct ka_engine {
    ka_service service;      /* first, so that the port's `attend` finds the engine */
    ka_table *table;         /* not owned */
    ka_calls calls;
    int epoll_fd, timer_fd, event_fd, spare_fd;
    int64_t now, armed_ns;   /* armed_ns: what the timer is set to, INT64_MAX = off */
    int64_t date_s;
    size_t turn_bytes;       /* of input, in the turn that is being taken */
    ka_sock **chunks;        /* by slot index; owned */
    uint32_t n_chunks;
    uint8_t is_stepping, has_paused;
    uint32_t n_listeners;
    ka_listener listeners[KA_MAX_LISTENERS];
    ka_handle *noted;        /* talks to attend to after the application's calls; owned */
    uint32_t n_noted, noted_cap;
    ka_engine_counters counters;
    char scratch[SCRATCH];
};

/* epoll_data of what is no connection: slot 0, which no handle has. */
enum { TAG_TIMER = 1, TAG_EVENT = 2, TAG_LISTENER = 16 };
#define TAG(n) ((uint64_t)(n) << 32)

static void turn(ka_engine *e, ka_handle h, ka_sock *s);
static void end(ka_engine *e, ka_handle h, ka_sock *s, ka_cause cause);
static void arm(ka_engine *e);
static const ka_moves moves;

static int os_error(void) { return -errno - 1000; }

static int64_t clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* --- socks --- */

static uint32_t slot_of(ka_handle h) { return (uint32_t)h; }

static ka_sock *sock_at(ka_engine *e, uint32_t slot) { return &e->chunks[slot / KA_CHUNK][slot % KA_CHUNK]; }

/* NULL for a stale handle. */
static ka_sock *sock_of(ka_engine *e, ka_handle h)
{
    return ka_conn_phase(e->table, h) < 0 || slot_of(h) / KA_CHUNK >= e->n_chunks ? NULL : sock_at(e, slot_of(h));
}

static int socks_grow(ka_engine *e, uint32_t slot)
{
    while (slot / KA_CHUNK >= e->n_chunks) {
        ka_sock **chunks = realloc(e->chunks, (e->n_chunks + 1) * sizeof *chunks);
        if (chunks == NULL)
            return KA_ENOMEM;
        e->chunks = chunks;
        ka_sock *chunk = malloc(KA_CHUNK * sizeof *chunk);
        if (chunk == NULL)
            return KA_ENOMEM;
        for (unsigned i = 0; i < KA_CHUNK; i++)
            chunk[i] = (ka_sock){.fd = -1};
        e->chunks[e->n_chunks++] = chunk;
    }
    return KA_OK;
}

/* --- receiving --- */

/* Read and parse in the shared scratch; only when bytes wait already, behind them. Edge-triggered: a short read means
 * the kernel is empty, unless FIN was announced, which can come with data.
 * Return: n > 0, 0 at FIN, KA_PARTIAL when nothing is there, KA_ENOMEM, KA_EPEER when the connection is broken. */
static ssize_t receive(ka_engine *e, ka_sock *s, ka_talk *talk)
{
    char *to = e->scratch;
    size_t room = SCRATCH;
    if (talk->window_len == 0)
        (void)ka_talk_park(talk); /* gives back a buffer that is used up */
    else if ((to = ka_talk_room(talk, READ_BEHIND, &room)) == NULL)
        return KA_ENOMEM;
    ssize_t n;
    do
        n = recv(s->fd, to, room, 0);
    while (n < 0 && errno == EINTR);
    e->counters.receives++;
    if (n < 0) {
        s->can_read = 0;
        return errno == EAGAIN ? KA_PARTIAL : KA_EPEER;
    }
    if ((size_t)n < room && !s->saw_fin)
        s->can_read = 0;
    if (n > 0) {
        if (to == e->scratch)
            ka_talk_arrived(talk, to, (size_t)n);
        else
            ka_talk_filled(talk, (size_t)n);
    }
    return n;
}

/* --- sending --- */

static ssize_t send_some(ka_engine *e, ka_sock *s, ka_talk *talk, size_t *asked)
{
    struct iovec iov[IOVECS];
    struct msghdr message = {.msg_iov = iov};
    size_t total = 0;
    int n_iov = 0;
    if (talk->out->fd >= 0) {
        ka_buf *buf = talk->out;
        off_t at = buf->file_off + (off_t)buf->start;
        *asked = ka_buf_len(buf);
        e->counters.sends++;
        return sendfile(s->fd, buf->fd, &at, *asked);
    }
    for (ka_buf *buf = talk->out; buf && n_iov < IOVECS && buf->fd < 0; buf = buf->next, n_iov++) {
        iov[n_iov].iov_base = (void *)(uintptr_t)(buf->ptr + buf->start);
        iov[n_iov].iov_len = ka_buf_len(buf);
        total += ka_buf_len(buf);
    }
    *asked = total;
    e->counters.sends++;
    if (n_iov == 1)
        return send(s->fd, iov[0].iov_base, iov[0].iov_len, MSG_NOSIGNAL);
    message.msg_iovlen = (size_t)n_iov;
    return sendmsg(s->fd, &message, MSG_NOSIGNAL);
}

/* Send what is pending until it is gone or the kernel is full. Return KA_N_CAUSES, or the cause to close for. */
static ka_cause flush(void *port, void *peer, ka_talk *talk)
{
    ka_engine *e = port;
    ka_sock *s = peer;
    size_t total = 0;
    while (talk->unsent && s->can_write) {
        size_t asked;
        ssize_t n = send_some(e, s, talk, &asked);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM)
                return KA_CAUSE_ERROR;
            s->can_write = 0;
            break;
        }
        if (n == 0)
            return KA_CAUSE_APPLICATION; /* a file that became shorter than promised */
        total += (size_t)n;
        ka_talk_sent(talk, (size_t)n);
        if ((size_t)n < asked)
            s->can_write = 0;
    }
    return total ? ka_turn_left(&moves, e, talk, total, e->now) : KA_N_CAUSES;
}

/* --- the ends of a connection --- */

static void listeners_resume(ka_engine *e);

/* The one way out: descriptor, talk, slot, in every phase. */
static void end(ka_engine *e, ka_handle h, ka_sock *s, ka_cause cause)
{
    ka_talk *talk = s->talk;
    int fd = s->fd;
    s->talk = NULL;
    s->fd = -1;
    (void)ka_conn_close(e->table, h, cause);
    close(fd);
    if (e->calls.on_closed)
        e->calls.on_closed(e->calls.ctx, h, cause);
    if (talk)
        ka_talk_free(talk); /* last: it tells the application */
    if (ka_unlikely(e->has_paused))
        listeners_resume(e);
}

/* Throw away what a lingering client still sends. */
static void discard(ka_engine *e, ka_handle h, ka_sock *s)
{
    ka_cause ignored;
    while (s->can_read) {
        ssize_t n = recv(s->fd, e->scratch, SCRATCH, 0);
        e->counters.receives++;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            s->can_read = 0;
            return;
        }
        if (n <= 0 || ka_conn_progress(e->table, h, (size_t)n, e->now, &ignored) == KA_ESLOW) {
            end(e, h, s, (ka_cause)s->cause);
            return;
        }
    }
}

/* FIN, then wait for the client's, so that no RST eats what we sent last. */
static void half_close(ka_engine *e, ka_handle h, ka_sock *s, ka_cause cause)
{
    if (shutdown(s->fd, SHUT_WR) < 0 || ka_conn_event(e->table, h, KA_EV_LINGERING, e->now) < 0) {
        end(e, h, s, cause);
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

/* Have it reported ready again: a socket that can be written to is ready at once. */
static void again(void *port, void *peer, ka_talk *talk)
{
    const ka_sock *s = peer;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u64 = talk->conn};
    (void)epoll_ctl(((ka_engine *)port)->epoll_fd, EPOLL_CTL_MOD, s->fd, &event);
}

/* FIN was announced while the application is busy with a request whose content is complete: is it FIN, or are there
 * bytes before it? FIN means "no further request", nothing more. */
static void look_for_fin(void *port, void *peer, ka_talk *talk)
{
    const ka_sock *s = peer;
    char byte;
    if (ka_likely(!s->saw_fin) || !ka_talk_body_is_over(talk) || talk->window_len)
        return;
    if (recv(s->fd, &byte, 1, MSG_PEEK) == 0)
        ka_turn_eof(&moves, port, talk);
}

static ka_turned read_more(void *port, void *peer, ka_talk *talk)
{
    ka_engine *e = port;
    ka_sock *s = peer;
    if (!s->can_read)
        return KA_TURN_PAUSE;
    if (e->turn_bytes >= TURN_BYTES) {
        again(e, s, talk);
        return KA_TURN_PAUSE;
    }
    ssize_t n = receive(e, s, talk);
    if (n == KA_PARTIAL)
        return KA_TURN_PAUSE;
    if (n < 0) {
        end(e, talk->conn, s, n == KA_ENOMEM ? KA_CAUSE_BUFFER_LIMIT : KA_CAUSE_ERROR);
        return KA_TURN_ENDED;
    }
    if (n == 0) {
        s->can_read = 0;
        ka_turn_eof(&moves, e, talk);
        return KA_TURN_ON;
    }
    e->turn_bytes += (size_t)n;
    return ka_turn_arrived(&moves, e, s, talk, (size_t)n, e->now);
}

static int has_unread(void *port, void *peer)
{
    (void)port;
    return ((const ka_sock *)peer)->can_read;
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

static void move_end(void *port, void *peer, ka_talk *talk, ka_cause cause) { end(port, talk->conn, peer, cause); }

static void move_half_close(void *port, void *peer, ka_talk *talk, ka_cause cause)
{
    half_close(port, talk->conn, peer, cause);
}

static void settled(void *port, void *peer, ka_talk *talk)
{
    (void)port, (void)talk;
    ((ka_sock *)peer)->talk = NULL;
}

static const ka_moves moves = {on_request, on_news,         read_more, flush, look_for_fin,
                               has_unread, move_half_close, move_end,  again, settled};

static void turn(ka_engine *e, ka_handle h, ka_sock *s)
{
    if (s->talk == NULL && (s->talk = ka_talk_new(&e->service, h)) == NULL) {
        end(e, h, s, KA_CAUSE_BUFFER_LIMIT);
        return;
    }
    e->turn_bytes = 0;
    ka_turn(&moves, e, s, s->talk, e->now);
}

/* --- turns outside a step --- */

static void note(void *port, ka_talk *talk)
{
    ka_engine *e = port;
    if (talk->is_noted)
        return;
    if (e->n_noted == e->noted_cap) {
        uint32_t cap = e->noted_cap ? 2 * e->noted_cap : 64;
        ka_handle *noted = realloc(e->noted, cap * sizeof *noted);
        if (noted == NULL)
            return; /* the connection's deadline will end it */
        e->noted = noted;
        e->noted_cap = cap;
    }
    talk->is_noted = 1;
    e->noted[e->n_noted++] = talk->conn;
}

void ka_engine_attend(ka_engine *e)
{
    for (uint32_t i = 0; i < e->n_noted; i++) { /* the list may grow meanwhile */
        ka_handle h = e->noted[i];
        ka_sock *s = sock_of(e, h);
        e->turn_bytes = 0;
        if (s && s->talk && s->talk->is_noted)
            ka_turn_attend(&moves, e, s, s->talk, e->now);
    }
    e->n_noted = 0;
    if (!e->is_stepping)
        arm(e);
}

/* --- expiry --- */

/* Set the timer only when something is due earlier than it will fire: a timer that fires too early finds nothing due
 * and is set again, which costs less than a system call a request. */
static void arm(ka_engine *e)
{
    int64_t due = ka_conn_next_due(e->table);
    if (due >= e->armed_ns)
        return;
    struct itimerspec at = {.it_value = {.tv_sec = due > 0 ? due / 1000000000 : 0, .tv_nsec = due > 0 ? due % 1000000000 : 1}};
    if (timerfd_settime(e->timer_fd, TFD_TIMER_ABSTIME, &at, NULL) == 0)
        e->armed_ns = due;
}

/* "No event seen" is no evidence: look at the kernel once more before a verdict. Bytes found count as in time. */
static void look_once_more(ka_engine *e, ka_handle h, ka_sock *s)
{
    int phase = ka_conn_phase(e->table, h);
    if (phase == KA_NEW || phase == KA_IDLE || phase == KA_HEAD || phase == KA_BODY) {
        s->can_read = 1;
        turn(e, h, s);
    } else if (phase == KA_WRITE && s->talk) {
        int queued;
        ka_cause cause;
        s->can_write = 1;
        turn(e, h, s);
        /* The kernel takes megabytes ahead: a client that reads steadily shows in its send queue first. */
        if (sock_of(e, h) && s->talk && ioctl(s->fd, SIOCOUTQ, &queued) == 0) {
            if (s->talk->outq && queued < s->talk->outq)
                (void)ka_conn_progress(e->table, h, (size_t)(s->talk->outq - queued), e->now, &cause);
            s->talk->outq = queued;
        }
    }
}

static void carry_out(ka_engine *e, ka_handle h, ka_sock *s, ka_action action, ka_cause cause)
{
    if (ka_turn_answers_late(s->talk, action, cause, e->now))
        return; /* its turn comes at the end of the step */
    if (action == KA_DO_HALF_CLOSE)
        half_close(e, h, s, cause);
    else
        end(e, h, s, ka_conn_phase(e->table, h) == KA_LINGER ? (ka_cause)s->cause : cause);
}

static void expire(ka_engine *e)
{
    for (int i = 0; i < EXPIRIES; i++) {
        ka_handle h, still;
        ka_cause cause;
        ka_action action = ka_conn_due(e->table, e->now, &h, &cause);
        if (action == KA_DO_NOTHING)
            return;
        ka_sock *s = sock_of(e, h);
        look_once_more(e, h, s);
        action = ka_conn_due(e->table, e->now, &still, &cause);
        if (action != KA_DO_NOTHING && still == h)
            carry_out(e, h, s, action, cause);
    }
}

/* --- accepting --- */

static int watch_listener(ka_engine *e, uint32_t i, int op)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = TAG(TAG_LISTENER + i)};
    return epoll_ctl(e->epoll_fd, op, e->listeners[i].fd, &event);
}

static void listener_pause(ka_engine *e, uint32_t i)
{
    if (!e->listeners[i].is_paused && watch_listener(e, i, EPOLL_CTL_DEL) == 0)
        e->listeners[i].is_paused = e->has_paused = 1;
}

static void listeners_resume(ka_engine *e)
{
    for (uint32_t i = 0; i < e->n_listeners; i++) {
        if (e->listeners[i].is_paused && watch_listener(e, i, EPOLL_CTL_ADD) == 0)
            e->listeners[i].is_paused = 0;
    }
    e->has_paused = 0;
}

/* Close the least useful connection. Return whether there is room now. */
static int make_room(ka_engine *e)
{
    for (int i = 0; i < VICTIMS; i++) {
        ka_handle h = ka_conn_victim(e->table, e->now);
        ka_sock *s = h ? sock_of(e, h) : NULL;
        if (s == NULL)
            return 0;
        look_once_more(e, h, s);
        if (ka_conn_victim(e->table, e->now) == h) {
            end(e, h, s, KA_CAUSE_EVICTED);
            return 1;
        }
        if (!ka_table_is_full(e->table))
            return 1;
    }
    return 0;
}

/* At EMFILE a spinning listener would burn the processor and answer nobody: free a descriptor by closing an idle
 * connection, or give the spare one for a polite end. Return whether to try again. */
static int out_of_descriptors(ka_engine *e, uint32_t i)
{
    e->counters.out_of_descriptors++;
    if (make_room(e))
        return 1;
    if (e->spare_fd >= 0) {
        close(e->spare_fd);
        int fd = accept4(e->listeners[i].fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            static const char busy[] = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\n"
                                       "connection: close\r\n\r\n";
            (void)!send(fd, busy, sizeof busy - 1, MSG_NOSIGNAL);
            close(fd);
        }
        e->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    }
    listener_pause(e, i);
    return 0;
}

static void client_from(const struct sockaddr_storage *from, ka_client *client, uint16_t *port)
{
    *client = (ka_client){0};
    *port = 0;
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)from;
        client->family = 4;
        memcpy(client->addr, &in->sin_addr, 4);
        *port = ntohs(in->sin_port);
    } else if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)from;
        client->family = 6;
        memcpy(client->addr, &in6->sin6_addr, 16);
        *port = ntohs(in6->sin6_port);
    }
}

/* Return 0, or a negative code when the connection was not taken in (and its descriptor is closed). */
static int take_in(ka_engine *e, uint32_t i, int fd, const ka_client *client, uint16_t port)
{
    static const ka_client nobody;
    ka_listener *listener = &e->listeners[i];
    ka_handle h;
    int got = ka_conn_open(e->table, e->now, listener->klass, listener->knows_clients ? client : &nobody, 0, &h);
    if (got == KA_OK && socks_grow(e, slot_of(h)) < 0) {
        (void)ka_conn_close(e->table, h, KA_CAUSE_BUFFER_LIMIT);
        got = KA_ENOMEM;
    }
    if (got < 0) {
        close(fd);
        return got;
    }
    ka_sock *s = sock_at(e, slot_of(h));
    *s = (ka_sock){.fd = fd, .can_write = 1, .listener = (uint8_t)i, .port = port};
    memcpy(s->addr, client->addr, sizeof s->addr);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u64 = h};
    if (epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        end(e, h, s, KA_CAUSE_ERROR);
        return KA_ENOMEM;
    }
    return KA_OK;
}

static void accept_some(ka_engine *e, uint32_t i)
{
    for (int n = 0; n < ACCEPTS; n++) {
        struct sockaddr_storage from;
        ka_client client;
        uint16_t port;
        socklen_t len = sizeof from;
        from.ss_family = AF_UNSPEC;
        if (ka_table_is_full(e->table) && ka_conn_victim(e->table, e->now) == 0) {
            listener_pause(e, i); /* they wait in the backlog until somebody leaves */
            return;
        }
        int fd = accept4(e->listeners[i].fd, (struct sockaddr *)&from, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EAGAIN)
                return;
            e->counters.accept_errors++;
            if ((errno == EMFILE || errno == ENFILE) && !out_of_descriptors(e, i))
                return;
            continue; /* ECONNABORTED, EINTR and what the network had to say about one connection */
        }
        e->counters.accepts++;
        client_from(&from, &client, &port);
        if (ka_table_is_full(e->table) && !make_room(e)) {
            close(fd);
            listener_pause(e, i);
            return;
        }
        (void)take_in(e, i, fd, &client, port);
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
    ka_sock *s = sock_of(e, h);
    if (s == NULL)
        return; /* closed by an earlier event of this batch */
    if (events & (EPOLLERR | EPOLLHUP)) {
        int phase = ka_conn_phase(e->table, h);
        end(e, h, s,
            phase == KA_LINGER                     ? (ka_cause)s->cause
            : phase == KA_IDLE || phase == KA_NEW ? KA_CAUSE_CLIENT
                                                   : KA_CAUSE_ERROR);
        return;
    }
    if (events & (EPOLLIN | EPOLLRDHUP))
        s->can_read = 1;
    if (events & EPOLLRDHUP)
        s->saw_fin = 1;
    if (events & EPOLLOUT)
        s->can_write = 1;
    if (ka_conn_phase(e->table, h) == KA_LINGER)
        discard(e, h, s);
    else if (s->talk || s->can_read)
        turn(e, h, s);
}

static void drain_counter(int fd)
{
    uint64_t n;
    (void)!read(fd, &n, sizeof n);
}

int ka_engine_step(ka_engine *e)
{
    struct epoll_event events[EVENTS];
    uint32_t ready[KA_MAX_LISTENERS], n_ready = 0;
    int n = epoll_wait(e->epoll_fd, events, EVENTS, 0);
    if (n < 0)
        return errno == EINTR ? 0 : os_error();
    e->is_stepping = 1;
    e->now = clock_now();
    e->counters.steps++;
    e->counters.events += (uint64_t)n;
    refresh_date(e);
    for (int i = 0; i < n; i++) {
        uint64_t tag = events[i].data.u64;
        if (slot_of(tag) != 0) {
            on_conn_event(e, tag, events[i].events);
        } else if (tag == TAG(TAG_TIMER)) {
            drain_counter(e->timer_fd);
            e->armed_ns = INT64_MAX;
        } else if (tag == TAG(TAG_EVENT)) {
            drain_counter(e->event_fd);
            e->calls.on_wake(e->calls.ctx);
        } else {
            ready[n_ready++] = (uint32_t)(tag >> 32) - TAG_LISTENER;
        }
    }
    expire(e);
    for (uint32_t i = 0; i < n_ready; i++)
        if (ready[i] < e->n_listeners)
            accept_some(e, ready[i]);
    ka_engine_attend(e);
    arm(e);
    e->is_stepping = 0;
    return n;
}

/* --- making, unmaking and asking --- */

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
    e->armed_ns = INT64_MAX;
    e->now = clock_now();
    e->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    e->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    e->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    e->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int got = ka_service_init(&e->service, table, limits, max_buffer_bytes, calls->release);
    e->service.port = e;
    e->service.attend = note;
    e->service.lost = calls->on_lost;
    if (got == KA_OK && (e->epoll_fd < 0 || e->timer_fd < 0 || e->event_fd < 0 ||
                         watch(e, e->timer_fd, TAG(TAG_TIMER)) < 0 || watch(e, e->event_fd, TAG(TAG_EVENT)) < 0))
        got = os_error();
    if (got < 0) {
        ka_engine_free(e);
        return got;
    }
    refresh_date(e);
    *out = e;
    return KA_OK;
}

void ka_engine_close_all(ka_engine *e, ka_cause cause)
{
    for (uint32_t slot = 1; slot < e->n_chunks * KA_CHUNK; slot++) {
        ka_sock *s = sock_at(e, slot);
        ka_handle h = s->fd >= 0 ? ka_table_handle(e->table, slot) : 0;
        if (h)
            end(e, h, s, ka_conn_phase(e->table, h) == KA_LINGER ? (ka_cause)s->cause : cause);
    }
}

void ka_engine_free(ka_engine *e)
{
    int fds[] = {e->epoll_fd, e->timer_fd, e->event_fd, e->spare_fd};
    e->n_listeners = 0;
    ka_engine_close_all(e, KA_CAUSE_DRAIN);
    for (uint32_t i = 0; i < e->n_chunks; i++)
        free(e->chunks[i]);
    free(e->chunks);
    free(e->noted);
    ka_service_free(&e->service);
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(e);
}

int ka_engine_listen(ka_engine *e, int fd, unsigned klass, int knows_clients)
{
    struct sockaddr_storage name;
    socklen_t len = sizeof name;
    uint32_t i = e->n_listeners;
    if (i == KA_MAX_LISTENERS)
        return KA_EFULL;
    if (getsockname(fd, (struct sockaddr *)&name, &len) < 0)
        return os_error();
    e->listeners[i] = (ka_listener){
        .fd = fd,
        .klass = (uint8_t)klass,
        .family = name.ss_family == AF_INET ? 4 : name.ss_family == AF_INET6 ? 6 : 0,
        .knows_clients = (uint8_t)knows_clients,
    };
    if (watch_listener(e, i, EPOLL_CTL_ADD) < 0)
        return os_error();
    e->n_listeners++;
    return (int)i;
}

void ka_engine_stop_listening(ka_engine *e)
{
    for (uint32_t i = 0; i < e->n_listeners; i++) {
        e->now = clock_now();
        accept_some(e, i); /* whoever got through the handshake is served */
        if (!e->listeners[i].is_paused)
            (void)watch_listener(e, i, EPOLL_CTL_DEL);
    }
    e->n_listeners = 0;
    e->has_paused = 0;
}

int ka_engine_fileno(const ka_engine *e) { return e->epoll_fd; }
ka_service *ka_engine_service(ka_engine *e) { return &e->service; }
int ka_engine_is_stepping(const ka_engine *e) { return e->is_stepping; }
const ka_engine_counters *ka_engine_stats(const ka_engine *e) { return &e->counters; }

int64_t ka_engine_now(ka_engine *e)
{
    if (!e->is_stepping)
        e->now = clock_now();
    return e->now;
}

void ka_engine_wake(ka_engine *e)
{
    uint64_t one = 1;
    (void)!write(e->event_fd, &one, sizeof one);
}

void ka_engine_close(ka_engine *e, ka_handle conn, ka_cause cause)
{
    ka_sock *s = sock_of(e, conn);
    if (s)
        end(e, conn, s, cause);
}

void ka_engine_drain(ka_engine *e, int64_t grace_ns, int64_t spread_ns, int64_t deadline_ns)
{
    ka_conn_drain(e->table, ka_engine_now(e), grace_ns, spread_ns, deadline_ns);
    arm(e);
}

int ka_engine_peer(ka_engine *e, ka_handle conn, uint8_t addr[16], uint16_t *port, unsigned *listener)
{
    ka_sock *s = sock_of(e, conn);
    if (s == NULL)
        return KA_ESTALE;
    memcpy(addr, s->addr, sizeof s->addr);
    *port = s->port;
    *listener = s->listener;
    return e->listeners[s->listener].family;
}

int ka_engine_fd(ka_engine *e, ka_handle conn)
{
    ka_sock *s = sock_of(e, conn);
    return s ? s->fd : -1;
}
