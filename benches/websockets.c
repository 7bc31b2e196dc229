/* websockets.c: how many messages a second does a websocket server echo? One process, epoll, and nothing that could make it
 * slower than the server: a message is masked once, and answers are counted by their length.
 *
 *     websockets PORT CONNECTIONS BYTES SECONDS [MESSAGES]
 *
 * Every connection sends a binary message and, when its echo is here, the next one. MESSAGES: end after so many. Says how many
 * came back, in how many seconds, and the 99th percentile of their times in microseconds. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    BUCKETS = 100 * 1000, /* of ten microseconds */
    READ = 256 * 1024
};

typedef struct {
    int fd;
    size_t left; /* of the answer that is to come */
    double sent;
} client;

static uint8_t message[(1 << 20) + 14], expected[10];
static size_t message_size, answer_size, expected_size;
static uint32_t times[BUCKETS];

static void fail(const char *why)
{
    fprintf(stderr, "websockets: %s\n", why);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* RFC 6455 5.2: the head of a binary message. */
static size_t head(uint8_t *to, size_t size, int is_masked)
{
    uint8_t mask = is_masked ? 0x80 : 0;
    size_t n = 2, more = size < 126 ? 0 : size < 65536 ? 2 : 8;
    to[0] = 0x82;
    to[1] = (uint8_t)(mask | (more == 0 ? size : more == 2 ? 126 : 127));
    for (size_t i = 0; i < more; i++)
        to[n++] = (uint8_t)(size >> 8 * (more - 1 - i));
    return n;
}

static void make_message(size_t size)
{
    static const uint8_t mask[4] = {0x12, 0x34, 0x56, 0x78};
    message_size = head(message, size, 1);
    memcpy(message + message_size, mask, 4);
    message_size += 4;
    for (size_t i = 0; i < size; i++)
        message[message_size++] = (uint8_t)('a' ^ mask[i % 4]);
    expected_size = head(expected, size, 0);
    answer_size = expected_size + size;
}

static void say(client *one)
{
    one->left = answer_size;
    one->sent = now();
    for (size_t at = 0; at < message_size;) { /* the other side takes it in while it has no answer to give */
        ssize_t n = send(one->fd, message + at, message_size - at, MSG_NOSIGNAL);
        if (n < 0)
            fail("a message could not be sent");
        at += (size_t)n;
    }
}

static void shake(client *one, uint16_t port)
{
    static const char ask[] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                              "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n\r\n";
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    char said[4096];
    size_t n = 0;
    int yes = 1;
    one->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (one->fd < 0 || connect(one->fd, (struct sockaddr *)&to, sizeof to) < 0)
        fail("no connection");
    setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (send(one->fd, ask, sizeof ask - 1, MSG_NOSIGNAL) < 0)
        fail("the request could not be sent");
    while (n < 4 || memcmp(said + n - 4, "\r\n\r\n", 4) != 0) {
        ssize_t got = n < sizeof said ? recv(one->fd, said + n, sizeof said - n, 0) : 0;
        if (got <= 0)
            fail("no answer to the handshake");
        n += (size_t)got;
    }
    if (memcmp(said, "HTTP/1.1 101", 12) != 0)
        fail("the handshake was not answered by 101");
}

/* Whether the answer is whole. */
static int hear(client *one)
{
    static uint8_t got[READ];
    ssize_t n = recv(one->fd, got, sizeof got, 0);
    if (n <= 0 || (size_t)n > one->left)
        fail("an answer is not what was expected");
    size_t at = answer_size - one->left;
    if (at < expected_size &&
        memcmp(got, expected + at, (size_t)n < expected_size - at ? (size_t)n : expected_size - at))
        fail("an answer is no echo");
    one->left -= (size_t)n;
    return one->left == 0;
}

static unsigned p99(uint64_t n)
{
    uint64_t seen = 0;
    for (unsigned i = 0; i < BUCKETS; i++)
        if ((seen += times[i]) * 100 >= n * 99)
            return (i + 1) * 10;
    return BUCKETS * 10;
}

int main(int argc, char **argv)
{
    static client clients[1024];
    struct epoll_event events[256];
    if (argc < 5)
        fail("PORT CONNECTIONS BYTES SECONDS [MESSAGES]");
    int n_clients = atoi(argv[2]), set = epoll_create1(0);
    size_t size = strtoul(argv[3], NULL, 10);
    uint64_t limit = argc > 5 ? strtoull(argv[5], NULL, 10) : UINT64_MAX, n = 0, n_sent = 0;
    if (n_clients < 1 || n_clients > 1024 || size > 1 << 20)
        fail("1 to 1024 connections, at most 1 MiB");
    make_message(size);
    for (int i = 0; i < n_clients; i++) {
        shake(&clients[i], (uint16_t)atoi(argv[1]));
        struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = &clients[i]}};
        epoll_ctl(set, EPOLL_CTL_ADD, clients[i].fd, &event);
    }
    double began = now(), end = began + atof(argv[4]), at = began;
    for (int i = 0; i < n_clients && n_sent < limit; i++, n_sent++)
        say(&clients[i]);
    while (n < limit && at < end) {
        int n_events = epoll_wait(set, events, 256, 1000);
        at = now();
        for (int i = 0; i < n_events; i++) {
            client *one = events[i].data.ptr;
            if (!hear(one))
                continue;
            double took = (at - one->sent) * 1e5;
            times[took < BUCKETS ? (unsigned)took : BUCKETS - 1]++;
            n++;
            if (n_sent < limit) {
                n_sent++;
                say(one);
            }
        }
    }
    printf("%llu messages in %.4f s, 99 %% in %u us\n", (unsigned long long)n, now() - began, p99(n));
    return n == 0;
}
