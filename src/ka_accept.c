/* ka_accept.c: who gets in: accepting, making room, turning away. The other half of ka_engine.c. */
#define _GNU_SOURCE /* accept4 */
#include "ka_engine_parts.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    ACCEPTS = 64,  /* a listener and step */
    LAST_ROUNDS = 256, /* of them, to empty a queue for good: no backlog is longer */
    VICTIMS = 8    /* asked, before a newcomer is turned away */
};

static int watch_listener(ka_engine *e, uint32_t i, int op)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = KA_TAG(KA_TAG_LISTENER + i)};
    return epoll_ctl(e->epoll_fd, op, e->listeners[i].fd, &event);
}

static void listener_pause(ka_engine *e, uint32_t i)
{
    if (!e->listeners[i].is_paused && watch_listener(e, i, EPOLL_CTL_DEL) == 0)
        e->listeners[i].is_paused = e->has_paused = 1;
}

void ka_listeners_resume(ka_engine *e)
{
    for (uint32_t i = 0; i < e->n_listeners; i++) {
        if (e->listeners[i].is_paused && !e->listeners[i].is_off && watch_listener(e, i, EPOLL_CTL_ADD) == 0)
            e->listeners[i].is_paused = 0;
    }
    e->has_paused = 0;
}

/* Close the least useful connection. Return whether there is room now. */
static int make_room(ka_engine *e)
{
    for (int i = 0; i < VICTIMS; i++) {
        ka_handle h = ka_conn_victim(e->table, e->now);
        ka_sock *s = h ? ka_sock_of(e, h) : NULL;
        if (s == NULL)
            return 0;
        ka_sock_look(e, h, s);
        if (ka_conn_victim(e->table, e->now) == h) {
            ka_sock_end(e, h, s, KA_CAUSE_EVICTED);
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
    ka_sock *s = got == KA_OK ? ka_sock_make(e, h) : NULL;
    if (got == KA_OK && s == NULL) {
        (void)ka_conn_close(e->table, h, KA_CAUSE_BUFFER_LIMIT);
        got = KA_ENOMEM;
    }
    if (got < 0) {
        close(fd);
        return got;
    }
    *s = (ka_sock){.fd = fd, .can_write = 1, .listener = (uint8_t)i, .port = port};
    memcpy(s->addr, client->addr, sizeof s->addr);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u64 = h};
    if (epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        ka_sock_end(e, h, s, KA_CAUSE_ERROR);
        return KA_ENOMEM;
    }
    return KA_OK;
}

int ka_accept_some(ka_engine *e, uint32_t i)
{
    if (e->listeners[i].is_off)
        return 0;
    for (int n = 0; n < ACCEPTS; n++) {
        struct sockaddr_storage from;
        ka_client client;
        uint16_t port;
        socklen_t len = sizeof from;
        from.ss_family = AF_UNSPEC;
        if (ka_table_is_full(e->table) && ka_conn_victim(e->table, e->now) == 0) {
            listener_pause(e, i); /* they wait in the backlog until somebody leaves */
            return 0;
        }
        int fd = accept4(e->listeners[i].fd, (struct sockaddr *)&from, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EAGAIN)
                return 0;
            e->counters.accept_errors++;
            if ((errno == EMFILE || errno == ENFILE) && !out_of_descriptors(e, i))
                return 0;
            continue; /* ECONNABORTED, EINTR and what the network had to say about one connection */
        }
        e->counters.accepts++;
        client_from(&from, &client, &port);
        if (ka_table_is_full(e->table) && !make_room(e)) {
            close(fd);
            listener_pause(e, i);
            return 0;
        }
        (void)take_in(e, i, fd, &client, port);
    }
    return 1;
}

/* --- listeners --- */

int ka_engine_listen(ka_engine *e, int fd, unsigned klass, int knows_clients)
{
    struct sockaddr_storage name;
    socklen_t len = sizeof name;
    uint32_t i = 0;
    while (i < e->n_listeners && e->listeners[i].fd != fd)
        i++;
    if (i < e->n_listeners && !e->listeners[i].is_off)
        return (int)i;
    if (i == KA_MAX_LISTENERS)
        return KA_EFULL;
    if (getsockname(fd, (struct sockaddr *)&name, &len) < 0)
        return ka_os_error();
    e->listeners[i] = (ka_listener){
        .fd = fd,
        .klass = (uint8_t)klass,
        .family = name.ss_family == AF_INET ? 4 : name.ss_family == AF_INET6 ? 6 : 0,
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

static void stop_one(ka_engine *e, uint32_t i, int is_last)
{
    ka_listener *listener = &e->listeners[i];
    if (listener->is_off)
        return;
    if (is_last) {
        e->now = ka_clock();
        for (int n = 0; n < LAST_ROUNDS && ka_accept_some(e, i); n++)
            ;
    }
    /* Explicitly: the socket may be open in other processes, and then its end here does not take it out of the set. */
    if (!listener->is_paused)
        (void)watch_listener(e, i, EPOLL_CTL_DEL);
    listener->is_paused = 0;
    listener->is_off = 1;
}

void ka_engine_unlisten(ka_engine *e, int fd, int is_last)
{
    for (uint32_t i = 0; i < e->n_listeners; i++)
        if (e->listeners[i].fd == fd)
            stop_one(e, i, is_last);
}

void ka_engine_stop_listening(ka_engine *e)
{
    for (uint32_t i = 0; i < e->n_listeners; i++)
        stop_one(e, i, 1);
}

int ka_listener_refuse(int fd)
{
    /* The filter sees the TCP header: at 13 the flags. SYN without ACK is the beginning of a handshake. */
    static struct sock_filter drop_syn[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x12),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x02, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
    };
    const struct sock_fprog program = {.len = sizeof drop_syn / sizeof drop_syn[0], .filter = drop_syn};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0 ? ka_os_error() : 0;
}
