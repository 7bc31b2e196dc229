/* A whole HTTP/1.1 server on poll() and kacore's core, without Python: greets, and keeps connections by the table.
 *
 *     INCLUDE=$(python -c 'import kacore; print(kacore.get_include())')
 *     cc -O2 -I$INCLUDE poll_server.c $INCLUDE/ka_*.c -o poll_server && ./poll_server 8000
 *
 * The core does no I/O and reads no clock: this file accepts, receives, sends and tells the time. Which bytes are a
 * request, whether its connection is kept, who is late and who goes when there is no room, the core decides. */
#define _POSIX_C_SOURCE 200809L /* for -std=c99, which hides clock_gettime() and sigaction() */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "talk/ka_talk.h"

enum {
    PLACES = 1000,
    TURN_BYTES = 65536
};
#define SECOND ((int64_t)1000000000)

typedef struct {
    int fd;
    ka_handle conn;
    ka_talk *talk;  /* only while something is pending */
    ka_cause cause; /* of the end, once it lingers */
} peer;

static peer peers[PLACES];
static int n_peers;
static ka_table *table;
static ka_counters counters;
static ka_service service;
static int64_t now;
static char scratch[TURN_BYTES]; /* all input is parsed here; what is left of it, ka_talk_park keeps */
static volatile sig_atomic_t is_told_to_stop;

static void stop(int number) { (void)number, is_told_to_stop = 1; }

static void look_at_clocks(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    now = t.tv_sec * SECOND + t.tv_nsec;
    ka_reply_common_set_date(&service.common, time(NULL));
}

/* --- the application --- */

static void answer(ka_exchange *x, const ka_head *head)
{
    const char *target = ka_exchange_head_bytes(x) + head->target.off;
    int is_known = head->target.len == 1 && *target == '/';
    const char *text = is_known ? "hello\n" : "no such page\n";
    char *at;
    if (ka_exchange_head_begin(x, is_known ? 200 : 404, 64, &at) < 0 ||
        ka_exchange_field(x, &at, "content-type", 12, "text/plain", 10) < 0 ||
        ka_exchange_head_end(x, at, (int64_t)strlen(text), now) < 0 ||
        ka_exchange_content(x, text, strlen(text), 0, NULL) < 0)
        ka_exchange_refuse(x, 500, "no answer could be made", KA_CAUSE_APPLICATION, now);
}

/* --- one connection --- */

static void end(peer *p, ka_cause cause)
{
    if (p->talk)
        ka_talk_free(p->talk);
    close(p->fd);
    ka_conn_close(table, p->conn, cause, now);
    *p = peers[--n_peers];
}

/* FIN, and then wait for the client's: a close() over unread bytes would reset what we sent last. */
static void half_close(peer *p, ka_cause cause)
{
    if (p->talk)
        ka_talk_free(p->talk);
    p->talk = NULL;
    p->cause = cause;
    if (shutdown(p->fd, SHUT_WR) < 0 || ka_conn_event(table, p->conn, KA_EV_LINGERING, now) < 0)
        end(p, cause);
}

/* Bytes for the talk, or FIN. 1: there was something; 0: there is nothing; -1: the connection broke. */
static int receive(peer *p)
{
    ka_talk *talk = p->talk;
    ka_cause cause;
    size_t room = sizeof scratch, appetite = ka_talk_appetite(talk);
    char *to = scratch;
    if (talk->window_len)
        to = ka_talk_room(talk, 1, &room);
    else if (ka_talk_park(talk) < 0)
        return -1;
    if (to == NULL)
        return -1;
    ssize_t n = recv(p->fd, to, room < appetite ? room : appetite, 0); /* the rest waits in the kernel */
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    if (n == 0)
        ka_talk_eof(talk);
    else if (to == scratch)
        ka_talk_arrived(talk, to, (size_t)n);
    else
        ka_talk_filled(talk, (size_t)n);
    if (ka_conn_progress(table, p->conn, (size_t)n, now, &cause) == KA_ESLOW)
        return ka_exchange_refuse(&talk->exchange, 408, "the content is arriving too slowly", cause, now) < 0 ? -1 : 1;
    return 1;
}

/* Send what is pending. -1: the connection broke, or the client takes too slowly. */
static int flush(peer *p)
{
    ka_cause cause;
    while (p->talk->unsent) {
        const ka_buf *buf = p->talk->out;
        ssize_t n = send(p->fd, buf->ptr + buf->start, ka_buf_len(buf), MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN || errno == EINTR ? 0 : -1;
        ka_talk_sent(p->talk, (size_t)n);
        if (ka_conn_progress(table, p->conn, (size_t)n, now, &cause) == KA_ESLOW)
            return -1;
    }
    return 0;
}

/* Everything that it can do now, within bounds: poll() tells again of what is left. */
static void turn(peer *p)
{
    ka_head head;
    int got = 1;
    if (p->talk == NULL && (p->talk = ka_talk_new(&service, p->conn)) == NULL) {
        end(p, KA_CAUSE_BUFFER_LIMIT);
        return;
    }
    ka_talk *talk = p->talk;
    for (int n_reads = 0; got > 0;) {
        ka_talk_step step = ka_talk_next(talk, now, &head);
        if (step == KA_TALK_REQUEST) {
            answer(&talk->exchange, &head);
        } else if (step == KA_TALK_READ) {
            got = n_reads++ < 4 && !ka_talk_is_eof(talk) ? receive(p) : 0;
        } else if (step == KA_TALK_LINGER || step == KA_TALK_CLOSE) {
            if (flush(p) == 0 && talk->unsent)
                break; /* the rest when it can be written */
            if (talk->unsent || (step == KA_TALK_CLOSE && ka_talk_is_eof(talk)))
                end(p, (ka_cause)talk->cause);
            else
                half_close(p, (ka_cause)talk->cause);
            return;
        } else {
            break; /* KA_TALK_WAIT: the client has to take what is there first */
        }
    }
    if (got < 0 || flush(p) < 0) {
        end(p, KA_CAUSE_ERROR);
        return;
    }
    (void)ka_talk_settle(talk, now);
    if (ka_talk_is_idle(talk)) {
        ka_talk_free(talk);
        p->talk = NULL;
    } else if (ka_talk_park(talk) < 0) {
        end(p, KA_CAUSE_BUFFER_LIMIT);
    }
}

/* What a client that we have closed still sends is thrown away, up to a limit. */
static void discard(peer *p)
{
    ka_cause cause;
    ssize_t n = recv(p->fd, scratch, sizeof scratch, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0 || ka_conn_progress(table, p->conn, (size_t)n, now, &cause) == KA_ESLOW)
        end(p, p->cause);
}

/* --- all of them --- */

static peer *find(ka_handle conn)
{
    peer *p = peers;
    while (p->conn != conn)
        p++;
    return p;
}

static void let_in(int listener)
{
    struct sockaddr_in from;
    socklen_t len = sizeof from;
    ka_client client = {.family = 4};
    int fd = accept(listener, (struct sockaddr *)&from, &len), full;
    if (fd < 0)
        return;
    peer p = {.fd = fd};
    fcntl(fd, F_SETFL, O_NONBLOCK);
    memcpy(client.addr, &from.sin_addr, 4);
    if ((full = ka_conn_open(table, now, 0, &client, 0, &p.conn)) == KA_EFULL) {
        ka_handle victim = ka_table_victim(table, now); /* the longest idle one makes room */
        if (victim)
            end(find(victim), KA_CAUSE_EVICTED);
        full = ka_conn_open(table, now, 0, &client, 0, &p.conn);
    }
    if (full) {
        ka_table_refused(table, full == KA_ECLIENT ? KA_CAUSE_CLIENT_LIMIT : KA_CAUSE_REJECTED);
        close(fd);
    } else {
        peers[n_peers++] = p;
    }
}

/* Carry out what is due. */
static void expire(void)
{
    ka_handle conn;
    ka_cause cause;
    for (ka_action todo; (todo = ka_table_due(table, now, &conn, &cause)) != KA_DO_NOTHING;) {
        peer *p = find(conn);
        if (todo == KA_DO_HALF_CLOSE)
            half_close(p, cause);
        else if (todo == KA_DO_ANSWER_408 && p->talk &&
                 !ka_exchange_refuse(&p->talk->exchange, 408, "too late", cause, now))
            turn(p);
        else
            end(p, cause);
    }
}

static void serve(int listener)
{
    static struct pollfd fds[PLACES + 1];
    while (!is_told_to_stop || ka_table_open_count(table)) {
        if (is_told_to_stop && !ka_table_is_draining(table)) {
            ka_table_drain(table, now, 1 * SECOND, 0, 10 * SECOND);
            listener = -1; /* poll() passes over it; the kernel closes it with us */
        }
        int64_t due = ka_table_next_due(table) - now;
        int n_polled = n_peers, ms = due <= 0 ? 0 : due > 1000 * SECOND ? 1000000 : (int)(due / 1000000) + 1;
        for (int i = 0; i < n_polled; i++) {
            short events = peers[i].talk && peers[i].talk->unsent ? POLLOUT : POLLIN;
            fds[i] = (struct pollfd){.fd = peers[i].fd, .events = events};
        }
        fds[n_polled] = (struct pollfd){.fd = listener, .events = POLLIN};
        int n_ready = poll(fds, (nfds_t)n_polled + 1, ms);
        look_at_clocks();
        /* Backwards: who ends leaves its place to the last one, which had its turn. First what arrived, then who is
         * late, then who wants in. */
        for (int i = n_polled; n_ready > 0 && i-- > 0;) {
            if (fds[i].revents && ka_conn_phase(table, peers[i].conn) == KA_LINGER)
                discard(&peers[i]);
            else if (fds[i].revents)
                turn(&peers[i]);
        }
        expire();
        if (n_ready > 0 && fds[n_polled].revents)
            let_in(listener);
    }
}

static void nothing(void *owner) { (void)owner; }

int main(int argc, char **argv)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    ka_capacity capacity = ka_capacity_default;
    ka_policy policy = ka_policy_default;
    const ka_application app = {.on_lost = nothing, .release = nothing};
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    at.sin_port = htons((uint16_t)atoi(argc > 1 ? argv[1] : "8000"));
    capacity.max_connections = argc > 2 ? (uint32_t)atoi(argv[2]) : PLACES;
    policy.timeout_ns[KA_IDLE] = 30 * SECOND;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (listener < 0 || bind(listener, (struct sockaddr *)&at, sizeof at) < 0 || listen(listener, 128) < 0 ||
        fcntl(listener, F_SETFL, O_NONBLOCK) < 0 || getsockname(listener, (struct sockaddr *)&at, &len) < 0) {
        perror("poll_server");
        return 1;
    }
    /* A server on the open net takes the seed, which keys the hash of client addresses, from getentropy(). */
    if (capacity.max_connections > PLACES || ka_table_new(&table, &capacity, (uint64_t)time(NULL), &counters) < 0 ||
        ka_table_set_policy(table, 0, &policy) < 0 ||
        ka_service_init(&service, table, &ka_limits_default, 1 << 20, &app) < 0)
        return 1;
    look_at_clocks();
    signal(SIGTERM, stop);
    printf("http://127.0.0.1:%d\n", ntohs(at.sin_port));
    fflush(stdout);
    serve(listener);
    printf("%llu requests\n", (unsigned long long)counters.requests);
    return 0;
}
