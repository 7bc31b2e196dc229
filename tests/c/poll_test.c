/* poll_test.c: a driver of nothing but poll() and ka_driver, before the crowds that the engine stands.
 *
 * link: http h2 table talk
 * wrap: recv send sendmsg sendfile accept4 epoll_ctl open malloc calloc realloc clock_gettime
 *
 * What it shares with the engine is ka_driver and ka_turn.h alone: no edge-triggered events, no timer, no filter, nothing
 * that is remembered between two steps but what the kernel says. It has the names of ka_engine.h, so that the application
 * and the clients of engine_driver.h take it for one. */
#define _GNU_SOURCE
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>

#include "crowd.h"
#include "talk/ka_turn.h"

enum {
    PEERS = 1024,
    SCRATCH = 64 * 1024,
    ACCEPTS = 64
};

typedef struct {
    int fd;
    ka_handle conn; /* 0: free */
    ka_talk *talk;
    uint8_t can_read, can_write, saw_fin;
} peer;

struct ka_engine {
    ka_driver d; /* first: the moves find the rest by it */
    int listener;
    peer peers[PEERS];
    char scratch[SCRATCH];
};

static const ka_moves moves;

static ka_engine *engine_of(ka_driver *d) { return (ka_engine *)(void *)d; }

static ptrdiff_t receive(ka_driver *d, void *at, ka_talk *talk)
{
    peer *p = at;
    char *scratch = engine_of(d)->scratch;
    size_t room = SCRATCH;
    char *to = ka_turn_room(d, talk, scratch, &room);
    if (to == NULL)
        return KA_ENOMEM;
    ssize_t n;
    do
        n = recv(p->fd, to, room, 0);
    while (n < 0 && errno == EINTR); /* it may be the last look */
    p->can_read = n > 0;
    if (n < 0)
        return errno == EAGAIN ? KA_PARTIAL : KA_EPEER;
    d->turn_bytes += (size_t)n;
    if (n > 0)
        ka_turn_took(talk, scratch, to, (size_t)n);
    return n;
}

static ssize_t send_first(const peer *p, const ka_buf *buf)
{
    off_t off = (off_t)(buf->file_off + (int64_t)buf->start);
    return buf->fd >= 0 ? sendfile(p->fd, buf->fd, &off, ka_buf_len(buf))
                        : send(p->fd, buf->ptr + buf->start, ka_buf_len(buf), MSG_NOSIGNAL);
}

static ka_cause flush(ka_driver *d, void *at, ka_talk *talk)
{
    peer *p = at;
    size_t total = 0;
    while (talk->unsent && p->can_write && total < KA_TURN_OUTPUT) {
        ssize_t n = send_first(p, talk->out);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM)
            return KA_CAUSE_ERROR;
        if (n == 0)
            return KA_CAUSE_APPLICATION;
        p->can_write = n > 0;
        if (n > 0)
            ka_talk_sent(talk, (size_t)n);
        total += n > 0 ? (size_t)n : 0;
    }
    if (talk->unsent && ioctl(p->fd, TIOCOUTQ, &talk->outq) < 0)
        talk->outq = 0;
    return total ? ka_turn_left(d, talk, total) : KA_CAUSE_NONE;
}

static int saw_fin(ka_driver *d, void *at, ka_talk *talk)
{
    (void)d;
    (void)talk;
    return ((const peer *)at)->saw_fin;
}
static int can_read(ka_driver *d, void *at)
{
    (void)d;
    return ((const peer *)at)->can_read;
}
static int can_send(ka_driver *d, void *at)
{
    (void)d;
    return ((const peer *)at)->can_write;
}
static int has_unread(ka_driver *d, void *at, ka_talk *talk)
{
    int n = 0;
    (void)d;
    (void)talk;
    return ioctl(((const peer *)at)->fd, FIONREAD, &n) < 0 || n > 0;
}
static int queued(ka_driver *d, void *at)
{
    int n;
    (void)d;
    return ioctl(((const peer *)at)->fd, TIOCOUTQ, &n) == 0 ? n : -1;
}

static void *peer_of(ka_driver *d, ka_handle conn)
{
    peer *p = engine_of(d)->peers;
    while (p->conn != conn)
        p++;
    return p;
}
static ka_talk **talk_of(void *at) { return &((peer *)at)->talk; }

static void turn(ka_driver *d, ka_handle conn, void *at) { ka_turn_begin(&moves, d, conn, at); }
static void attend(ka_driver *d, ka_handle conn, void *at)
{
    (void)conn;
    d->turn_bytes = 0;
    ka_turn_attend(&moves, d, at, ((const peer *)at)->talk);
}
static void again(ka_driver *d, ka_handle conn, void *at)
{
    (void)d;
    (void)conn;
    (void)at; /* poll() tells of it again */
}
static void look(ka_driver *d, ka_handle conn, void *at, int phase)
{
    peer *p = at;
    *(phase == KA_WRITE ? &p->can_write : &p->can_read) = 1;
    turn(d, conn, p);
}

static void discard(ka_driver *d, ka_handle conn, void *at)
{
    const peer *p = at;
    ssize_t n = recv(p->fd, engine_of(d)->scratch, SCRATCH, 0);
    if (n >= 0 || (errno != EAGAIN && errno != EINTR))
        (void)ka_driver_discarded(d, conn, at, n > 0 ? (size_t)n : 0, 0);
}
static int send_fin(ka_driver *d, ka_handle conn, void *at)
{
    (void)d;
    (void)conn;
    return shutdown(((const peer *)at)->fd, SHUT_WR);
}
static void close_peer(ka_driver *d, ka_handle conn, void *at, ka_cause cause, ka_how how)
{
    peer *p = at;
    (void)d;
    (void)conn;
    (void)cause;
    (void)how;
    close(p->fd);
    *p = (peer){.fd = -1};
}
static void wake(ka_driver *d) { (void)d; } /* a step comes anyhow */

static const ka_moves moves = {
    .receive = receive,
    .flush = flush,
    .saw_fin = saw_fin,
    .can_read = can_read,
    .can_send = can_send,
    .has_unread = has_unread,
    .peer_of = peer_of,
    .talk_of = talk_of,
    .turn = turn,
    .attend = attend,
    .again = again,
    .look = look,
    .queued = queued,
    .send_fin = send_fin,
    .linger = discard,
    .close = close_peer,
    .wake = wake,
};

/* --- what engine_driver.h asks of an engine --- */

int ka_engine_new(ka_engine **out, ka_table *table, const ka_limits *limits, size_t max_buffer_bytes,
                  const ka_application *app)
{
    static ka_engine engine; /* one at a time */
    memset(&engine, 0, offsetof(ka_engine, scratch));
    *out = &engine;
    return ka_driver_init(&engine.d, table, limits, max_buffer_bytes, app, &moves);
}

void ka_engine_free(ka_engine *e) { ka_driver_free(&e->d); }

int ka_engine_listen(ka_engine *e, int fd, unsigned policy_class, int knows_clients)
{
    (void)policy_class;
    (void)knows_clients;
    e->listener = fd;
    return 0;
}

ka_driver *ka_engine_driver(ka_engine *e) { return &e->d; }

int64_t ka_engine_now(ka_engine *e) { return e->d.now = virtual_now; }

void ka_engine_attend(ka_engine *e) { ka_driver_attend(&e->d); }

void ka_engine_push(ka_engine *e, ka_talk *talk) { ka_turn_push(&moves, &e->d, peer_of(&e->d, talk->conn), talk); }

static void accept_some(ka_engine *e)
{
    struct pollfd backlog = {.fd = e->listener, .events = POLLIN};
    for (int i = 0; i < ACCEPTS && poll(&backlog, 1, 0) > 0; i++) {
        if (ka_table_is_full(e->d.service.table) && !ka_driver_make_room(&e->d, 0))
            return; /* who wants in waits in the backlog */
        peer p = {.fd = accept4(e->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), .can_write = 1};
        if (p.fd < 0 && (errno == EMFILE || errno == ENFILE) && !ka_driver_make_room(&e->d, 1))
            return;
        if (p.fd < 0)
            continue;
        int got = ka_driver_open(&e->d, 0, &(ka_client){0}, 0, &p.conn);
        if (got < 0) {
            close(p.fd);
            ka_table_refused(e->d.service.table, got == KA_EFULL ? KA_CAUSE_REJECTED : KA_CAUSE_BUFFER_LIMIT);
        } else {
            *(peer *)peer_of(&e->d, 0) = p;
        }
    }
}

/* What poll() says of one. */
static void on_event(ka_engine *e, peer *p, short events)
{
    int phase = ka_conn_phase(e->d.service.table, p->conn);
    p->can_read |= (events & POLLIN) != 0;
    p->saw_fin |= (events & POLLRDHUP) != 0;
    p->can_write |= (events & POLLOUT) != 0;
    if (phase == KA_LINGER)
        discard(&e->d, p->conn, p);
    else if (events & (POLLERR | POLLHUP))
        ka_driver_end(&e->d, p->conn, p, ka_turn_broken(phase));
    else
        turn(&e->d, p->conn, p);
}

int ka_engine_step(ka_engine *e)
{
    struct pollfd fds[PEERS];
    peer *whose[PEERS];
    nfds_t n = 0;
    uint32_t n_later = e->d.service.lists[KA_LATER].n;
    e->d.now = virtual_now;
    for (int i = 0; i < PEERS; i++) {
        peer *p = &e->peers[i];
        if (p->conn == 0)
            continue;
        int takes = p->talk == NULL || ka_talk_appetite(p->talk), waits = p->talk && p->talk->unsent && !p->can_write;
        whose[n] = p;
        fds[n++] = (struct pollfd){
            .fd = p->fd,
            .events = (short)((takes ? POLLIN : 0) | (p->saw_fin ? 0 : POLLRDHUP) | (waits ? POLLOUT : 0)),
        };
    }
    int n_ready = poll(fds, n, 0);
    for (nfds_t i = 0; i < n && n_ready > 0; i++)
        if (fds[i].revents && whose[i]->conn && whose[i]->fd == fds[i].fd)
            on_event(e, whose[i], fds[i].revents);
    ka_driver_take_turns(&e->d, n_later);
    ka_driver_expire(&e->d);
    ka_driver_relieve(&e->d);
    accept_some(e);
    ka_driver_attend(&e->d);
    return n_ready;
}

int main(void)
{
    crowds();
    return CHECKS_DONE;
}
