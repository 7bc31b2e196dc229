/* ka_accept.c: see ka_accept.h. */
#define _GNU_SOURCE /* accept4 */
#include "ka_accept.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    ACCEPTS = 64,     /* a listener and step */
    LAST_ROUNDS = 256 /* of them, to empty a queue for good: no backlog is longer */
};

static const int64_t NOTICE_NS = (int64_t)10 * 1000000000;

static int watch_listener(ka_engine *e, uint32_t i, int op)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = KA_TAG(KA_TAG_LISTENER + i)};
    return epoll_ctl(e->epoll_fd, op, e->listeners[i].fd, &event);
}

static void listener_pause(ka_engine *e, uint32_t i)
{
    if (!e->listeners[i].is_paused && watch_listener(e, i, EPOLL_CTL_DEL) == 0) {
        e->listeners[i].is_paused = 1;
        e->has_paused = 1;
    }
    if (e->has_paused && e->retry_ns == INT64_MAX)
        e->retry_ns = e->d.now + KA_RETRY_NS;
}

void ka_listeners_resume(ka_engine *e)
{
    e->has_paused = 0;
    e->retry_ns = INT64_MAX;
    for (uint32_t i = 0; i < e->n_listeners; i++) {
        if (!e->listeners[i].is_paused || e->listeners[i].is_off)
            continue;
        if (watch_listener(e, i, EPOLL_CTL_ADD) == 0) {
            e->listeners[i].is_paused = 0;
        } else {
            e->has_paused = 1;
            e->retry_ns = e->d.now + KA_RETRY_NS;
        }
    }
}

/* --- making room, turning away --- */

static void turn_away(ka_engine *e, int fd, unsigned listener, ka_cause cause)
{
    ka_say_no(e, fd, listener);
    close(fd);
    ka_table_refused(e->d.service.table, cause);
}

static int rejects_when_full(const ka_engine *e) { return ka_table_capacity(e->d.service.table)->rejects_when_full; }

static void notice_shortage(ka_engine *e)
{
    const ka_application *app = &e->d.service.app;
    e->counters.out_of_descriptors++;
    if (app->on_notice && e->d.now >= e->notice_ns) {
        e->notice_ns = e->d.now + NOTICE_NS;
        app->on_notice(app->ctx, KA_NOTICE_DESCRIPTORS);
    }
}

/* At EMFILE a spinning listener would burn the processor and answer nobody: free a descriptor by closing an idle
 * connection. If nobody can be closed the newcomers wait, or are answered one by one through the spare descriptor.
 * Return whether to try again. */
static int out_of_descriptors(ka_engine *e, uint32_t i)
{
    notice_shortage(e);
    if (ka_driver_make_room(&e->d, 1))
        return 1;
    if (rejects_when_full(e) && e->spare_fd >= 0) {
        close(e->spare_fd);
        int fd = accept4(e->listeners[i].fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
            turn_away(e, fd, i, KA_CAUSE_REJECTED);
        e->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (fd >= 0)
            return 1;
    }
    listener_pause(e, i);
    return 0;
}

/* --- accepting --- */

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

/* Have the connection's events reported. The kernel limits how many descriptors a user may watch (ENOSPC:
 * /proc/sys/fs/epoll/max_user_watches): then an idle connection goes, as for any other shortage. */
static void watch_sock(ka_engine *e, ka_handle h, ka_sock *s)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u64 = h};
    if (ka_likely(epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, s->fd, &event) == 0))
        return;
    notice_shortage(e);
    for (int i = 0; i < KA_VICTIMS && ka_table_victim(e->d.service.table, e->d.now) != h &&
                    ka_driver_make_room(&e->d, 1) && ka_sock_of(e, h);
         i++)
        if (epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, s->fd, &event) == 0)
            return;
    if (ka_sock_of(e, h)) {
        if (ka_conn_requests(e->d.service.table, h) == 0)
            ka_say_no(e, s->fd, s->listener); /* as a victim looked at, it could have been answered already */
        ka_driver_end(&e->d, h, s, KA_CAUSE_REJECTED);
    }
}

/* Return it, or NULL when it was not let in. */
static ka_sock *take_in(ka_engine *e, uint32_t i, int fd, const ka_client *client, uint16_t port)
{
    ka_listener *listener = &e->listeners[i];
    const ka_service *service = &e->d.service;
    int is_trusted = ka_trusts(&e->d.trust, client->family, client->addr),
        awaits_proxy = is_trusted && e->d.trust.expects_proxy;
    unsigned policy_class = service->asks_clients ? service->app.class_of_client(service->app.ctx, i, client)
                                                  : listener->policy_class;
    ka_client known = {0}; /* whoever a PROXY header will name is not known yet */
    if (listener->knows_clients && !awaits_proxy)
        known = *client;
    known.is_proxy = is_trusted != 0;
    ka_handle h;
    int got = ka_driver_open(&e->d, policy_class, &known, listener->filter != NULL, &h);
    if (got < 0) {
        if (got == KA_EFULL || got == KA_ECLIENT) {
            turn_away(e, fd, i, got == KA_EFULL ? KA_CAUSE_REJECTED : KA_CAUSE_CLIENT_LIMIT);
            return NULL;
        }
        close(fd);
        ka_table_refused(e->d.service.table, KA_CAUSE_BUFFER_LIMIT);
        return NULL;
    }
    ka_sock *s = ka_sock_make(e, h);
    if (s == NULL) {
        close(fd);
        (void)ka_conn_close(e->d.service.table, h, KA_CAUSE_BUFFER_LIMIT, e->d.now);
        return NULL;
    }
    *s = (ka_sock){.fd = fd, .can_write = 1, .listener = i & 63, .port = port};
    s->is_trusted = is_trusted != 0;
    s->awaits_proxy = awaits_proxy != 0;
    ka_addr_pack(s->addr, client->family, client->addr);
    watch_sock(e, h, s);
    return ka_sock_of(e, h);
}

/* All places are taken, and newcomers wait in the backlog until there is one: it is made before the next is accepted,
 * since who looks like a victim may turn out to have asked something. Return whether there is one. */
static int has_place(ka_engine *e, uint32_t i)
{
    struct pollfd backlog = {.fd = e->listeners[i].fd, .events = POLLIN};
    if (poll(&backlog, 1, 0) <= 0)
        return 0; /* nobody has to go for nobody */
    if (ka_driver_make_room(&e->d, 0))
        return 1;
    listener_pause(e, i);
    return 0;
}

int ka_accept_some(ka_engine *e, uint32_t i)
{
    int n_failures = 0;
    for (int n = 0; n < ACCEPTS && !e->listeners[i].is_off; n++) { /* which the application may turn it meanwhile */
        struct sockaddr_storage from;
        ka_client client;
        uint16_t port;
        socklen_t len = sizeof from;
        from.ss_family = AF_UNSPEC;
        if (ka_unlikely(ka_table_is_full(e->d.service.table)) && !rejects_when_full(e) && !has_place(e, i))
            return 0;
        int fd = accept4(e->listeners[i].fd, (struct sockaddr *)&from, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EAGAIN)
                return 0;
            e->counters.accept_errors++;
            if (errno == EMFILE || errno == ENFILE) {
                /* A descriptor that was freed may be gone again to somebody else in this process. */
                if (++n_failures > KA_VICTIMS)
                    listener_pause(e, i);
                if (n_failures > KA_VICTIMS || !out_of_descriptors(e, i))
                    return 0;
            } else if (errno == ENOBUFS || errno == ENOMEM) { /* it would fail again, and at once */
                listener_pause(e, i);
                return 0;
            }
            continue; /* ECONNABORTED, EINTR and what the network had to say about one connection */
        }
        n_failures = 0;
        e->counters.accepts++;
        client_from(&from, &client, &port);
        take_in(e, i, fd, &client, port);
    }
    return !e->listeners[i].is_off;
}

int ka_accept_from_elsewhere(ka_engine *e, uint32_t i, int fd)
{
    struct sockaddr_storage from;
    socklen_t len = sizeof from;
    ka_client client;
    uint16_t port;
    from.ss_family = AF_UNSPEC;
    if (getpeername(fd, (struct sockaddr *)&from, &len) < 0)
        return ka_os_error();
    client_from(&from, &client, &port);
    ka_sock *s = take_in(e, i, fd, &client, port);
    if (s)
        s->awaits_proxy = 0; /* it was read where the connection was accepted */
    return KA_OK;
}

/* --- listeners --- */

int ka_engine_listen(ka_engine *e, int fd, unsigned policy_class, int knows_clients)
{
    uint32_t i = 0;
    while (i < e->n_listeners && e->listeners[i].fd != fd)
        i++;
    if (i < e->n_listeners && !e->listeners[i].is_off)
        return (int)i;
    if (i == KA_MAX_LISTENERS)
        return KA_EFULL;
    e->listeners[i] = (ka_listener){
        .fd = fd,
        .policy_class = (uint8_t)policy_class,
        .knows_clients = (uint8_t)knows_clients,
    };
    if (watch_listener(e, i, EPOLL_CTL_ADD) < 0) {
        e->listeners[i].is_off = 1;
        return ka_os_error();
    }
    if (i == e->n_listeners)
        e->n_listeners++;
    return (int)i;
}

void ka_listener_stop(ka_engine *e, uint32_t i, int is_last)
{
    ka_listener *listener = &e->listeners[i];
    if (listener->is_off)
        return;
    if (is_last) {
        uint8_t kept_all = e->d.keeps_all;
        e->d.keeps_all |= e->n_inside > 1; /* who looks like a victim may be in its turn */
        if (!e->d.keeps_all)
            e->d.now = ka_clock();
        for (int n = 0; n < LAST_ROUNDS && ka_accept_some(e, i); n++)
            ;
        e->d.keeps_all = kept_all;
    }
    /* Explicitly: the socket may be open in other processes, and then its end here does not take it out of the set. */
    if (!listener->is_paused)
        (void)watch_listener(e, i, EPOLL_CTL_DEL);
    listener->is_paused = 0;
    listener->is_off = 1;
    e->has_paused = 0;
    for (i = 0; i < e->n_listeners; i++)
        e->has_paused |= e->listeners[i].is_paused;
    if (!e->has_paused)
        e->retry_ns = INT64_MAX;
}

int ka_listener_refuse(int fd)
{
    /* The filter sees the TCP header: at 13 the flags. SYN without ACK is the beginning of a handshake. */
    struct sock_filter drop_syn[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),          BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x12),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x02, 0, 1), BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
    };
    const struct sock_fprog program = {.len = sizeof drop_syn / sizeof drop_syn[0], .filter = drop_syn};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0 ? ka_os_error() : 0;
}
