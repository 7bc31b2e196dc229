/* engine_driver.h: an engine, an application and clients of every kind in one thread, in virtual time.
 *
 * The sockets are unix sockets, where what one side wrote the other side can read at once: with a seed a run repeats.
 * A request's target says what the application is to do with it and which content it gives, so each client knows
 * every byte that may be sent to it: the model is in `content_of`, `ends_with` and the parser of a client. */
#ifndef ENGINE_DRIVER_H
#define ENGINE_DRIVER_H

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "check.h"
#include "faults.h"
#include "ka_engine.h"

#define MS ((int64_t)1000000)
#define S (1000 * MS)

enum {
    N_CLIENTS = 48,
    N_ASKED = 6,
    PATTERN = 1 << 19,
    ECHO_MAX = 16000,
    N_EXCHANGES = 256
};

static int64_t virtual_now = 1000 * S;
extern int __wrap_clock_gettime(clockid_t clock, struct timespec *to);
int __wrap_clock_gettime(clockid_t clock, struct timespec *to)
{
    (void)clock;
    *to = (struct timespec){.tv_sec = virtual_now / S, .tv_nsec = virtual_now % S};
    return 0;
}

/* Content of number `id` is the alphabet over and over, from a letter that depends on the id. */
static char pattern[PATTERN];
static const char *content_at(unsigned id) { return pattern + id * 7 % 26; }

/* --- the application --- */

/* NULL, or what the application does wherever it is called, besides: `where` names the call. */
static void (*inside)(void *ctx, const char *where, ka_handle conn);
static void look_inside(void *ctx, const char *where, ka_handle conn)
{
    if (inside)
        inside(ctx, where, conn);
}

typedef struct exchange exchange;
typedef struct server server;
struct server {
    ka_engine *engine;
    ka_table *table;
    ka_counters counters;
    int fd, file_fd, holds, n_notices, n_fins, keeps_all;
    struct sockaddr_un address;
    socklen_t address_len;
    uint64_t random;
    exchange *free;
    unsigned n_exchanges;
    void (*acts)(exchange *x); /* the application of a test that brings its own: kind z */
    void (*hears_of_the_end)(void);
};

/* What the application does: the letter in a target.
 *   a  small content     b  large, referred to        c  in pieces at once        d  in pieces, as the client takes them
 *   e  its own content   f  from a file               g  some rounds later        h  the same, the request's unread
 *   i  204               u  until the connection closes (HTTP/1.0)               p  in answer to HEAD
 *   j  says close        k  fewer bytes than said     l  more bytes than said     m  nothing, ever
 *   n  gives up          o  refuses with 500
 * After one of the last six the connection is over. */
static const char GOES_ON[] = "aaabcdefghip", ENDS[] = "jklmnou";

struct exchange {
    server *server;
    ka_talk *talk; /* NULL: free */
    exchange *next;
    char kind;
    unsigned id, wait, n_pieces;
    size_t got;
    char echo[ECHO_MAX];
};
static exchange exchanges[N_EXCHANGES];

static size_t content_of(char kind, unsigned id)
{
    switch (kind) {
    case 'b': return 70000 + id * 31 % 200000;
    case 'c': return 3 * (1 + id % 3000);
    case 'd': return 6 * 20000;
    case 'e': return id % ECHO_MAX;
    case 'f': return 30000 + id % 60000;
    case 'i':
    case 'p': return 0;
    case 'u': return 5000;
    default:  return id % 50;
    }
}

static void act(exchange *x);

static int begin(exchange *x, unsigned status, const char *name, const char *value, int64_t whole)
{
    char *at;
    int got = ka_exchange_head_begin(&x->talk->exchange, status, 64, &at);
    if (got == KA_OK && name)
        got = ka_exchange_field(&x->talk->exchange, &at, name, strlen(name), value, strlen(value));
    return got == KA_OK ? ka_exchange_head_end(&x->talk->exchange, at, whole, ka_engine_now(x->server->engine)) : got;
}

/* An error of ours, as the adapters treat it: 500 while that can still be said. */
static void give_up(exchange *x)
{
    if (ka_exchange_refuse(&x->talk->exchange, 500, "no", KA_CAUSE_APPLICATION, ka_engine_now(x->server->engine)) < 0)
        ka_exchange_done(&x->talk->exchange, KA_CAUSE_APPLICATION);
}

static int whole(exchange *x, unsigned status, const char *name, const char *value, size_t len)
{
    int got = begin(x, status, name, value, (int64_t)len);
    return got == KA_OK ? ka_exchange_content(&x->talk->exchange, content_at(x->id), len, 0, NULL) : got;
}

static int in_pieces(exchange *x, unsigned n, size_t each)
{
    while (x->n_pieces < n) {
        if (x->talk->unsent > KA_OUT_HIGH && x->kind == 'd') {
            x->talk->exchange.hold = KA_HOLD_LOW;
            return KA_OK;
        }
        size_t from = x->n_pieces++ * each;
        int more = x->n_pieces < n,
            got = ka_exchange_content(&x->talk->exchange, content_at(x->id) + from, each, more, NULL);
        if (got < 0)
            return got;
        if (more && x->id % 2)
            ka_engine_push(x->server->engine, x->talk);
    }
    return KA_OK;
}

static int echo(exchange *x)
{
    while (!ka_exchange_body_is_over(&x->talk->exchange)) {
        ptrdiff_t n = ka_exchange_read(&x->talk->exchange, x->echo + x->got, ECHO_MAX - x->got,
                                       ka_engine_now(x->server->engine));
        if (n == KA_PARTIAL)
            return KA_OK;
        if (n < 0 || (n == 0 && !ka_exchange_body_is_over(&x->talk->exchange)))
            return n < 0 ? (int)n : KA_EINVAL;
        x->got += (size_t)n;
    }
    int got = begin(x, 200, NULL, NULL, (int64_t)x->got);
    return got == KA_OK ? ka_exchange_content(&x->talk->exchange, x->echo, x->got, 0, NULL) : got;
}

static int refer(exchange *x, size_t len)
{
    int got = begin(x, 200, NULL, NULL, (int64_t)len);
    if (got < 0)
        return got;
    x->server->holds++;
    return x->kind == 'f'
             ? ka_exchange_file(&x->talk->exchange, x->server->file_fd, x->id * 7 % 26, len, 0, &x->server->holds)
             : ka_exchange_content(&x->talk->exchange, content_at(x->id), len, 0, &x->server->holds);
}

/* The next thing that the application does with a request. Called in a step, or between two. */
static void act(exchange *x)
{
    ka_talk *talk = x->talk;
    size_t len = content_of(x->kind, x->id);
    int got = KA_OK;
    switch (x->kind) {
    case 'b':
    case 'f': got = refer(x, len); break;
    case 'c':
    case 'd':
        got = talk->exchange.reply.is_started ? KA_OK : begin(x, 200, NULL, NULL, KA_WHOLE_UNKNOWN);
        if (got == KA_OK)
            got = in_pieces(x, x->kind == 'c' ? 3 : 6, len / (x->kind == 'c' ? 3 : 6));
        break;
    case 'u':
        got = begin(x, 200, NULL, NULL, KA_WHOLE_UNKNOWN);
        if (got == KA_OK)
            got = ka_exchange_content(&talk->exchange, content_at(x->id), len, 0, NULL);
        break;
    case 'e': got = echo(x); break;
    case 'i': got = whole(x, 204, NULL, NULL, 0); break;
    case 'j': got = whole(x, 200, "connection", "close", len); break;
    case 'k':
    case 'l':
        got = begin(x, 200, "content-length", "100", KA_WHOLE_UNKNOWN);
        if (got == KA_OK && x->kind == 'k') {
            got = ka_exchange_content(&talk->exchange, content_at(x->id), 40, 1, NULL);
            if (got == KA_OK)
                ka_exchange_done(&talk->exchange, KA_CAUSE_APPLICATION);
        } else if (got == KA_OK) {
            CHECK(ka_exchange_content(&talk->exchange, content_at(x->id), 101, 0, NULL) == KA_EINVAL,
                  "it took more than was said");
        }
        break;
    case 'm': break;
    case 'n': ka_exchange_done(&talk->exchange, KA_CAUSE_APPLICATION); break;
    case 'z': x->server->acts(x); break;
    case 'o': give_up(x); break;
    default:  got = whole(x, 200, NULL, NULL, len);
    }
    if (got < 0 && got != KA_ESTALE)
        give_up(x);
    else if (got < 0)
        ka_exchange_done(&talk->exchange, KA_CAUSE_APPLICATION);
}

static void on_request(void *ctx, ka_exchange *core, const ka_head *head, const ka_field *fields)
{
    server *s = ctx;
    const char *target = ka_exchange_head_bytes(core) + head->path.off;
    (void)fields;
    exchange *x = s->free;
    if (x == NULL)
        abort();
    s->free = x->next;
    s->n_exchanges++;
    *x = (exchange){.server = s, .talk = core->talk, .kind = 'a'};
    if (head->path.len > 2) {
        char digits[12] = {0};
        x->kind = target[1];
        memcpy(digits, target + 2, head->path.len - 2 < 11 ? head->path.len - 2 : 11);
        x->id = (unsigned)strtoul(digits, NULL, 10) % 100000;
    }
    core->owner = x;
    look_inside(s, "request", ka_exchange_conn(core));
    if (x->kind == 'g')
        x->wait = 1 + (unsigned)(faults_random(&s->random) % 5);
    else
        act(x);
}

static void on_news(void *ctx, ka_exchange *core, ka_news news)
{
    ((server *)ctx)->n_fins += news == KA_NEWS_EOF;
    exchange *x = core->owner;
    look_inside(ctx, "news", ka_exchange_conn(core));
    if (x && !ka_exchange_is_over(core) &&
        ((news == KA_NEWS_BODY && x->kind == 'e') || (news == KA_NEWS_LOW && (x->kind == 'd' || x->kind == 'z'))))
        act(x);
}

static void on_lost(void *owner)
{
    exchange *x = owner;
    look_inside(x->server, "lost", x->talk->conn);
    x->talk = NULL;
    x->next = x->server->free;
    x->server->free = x;
    x->server->n_exchanges--;
}
static void on_wake(void *ctx) { look_inside(ctx, "wake", 0); }
static void on_notice(void *ctx, ka_notice what)
{
    (void)what;
    ((server *)ctx)->n_notices++;
    look_inside(ctx, "notice", 0);
}
static void release(void *owner)
{
    --*(int *)owner;
    look_inside((char *)owner - offsetof(server, holds), "release", 0);
}
static void on_closed(void *ctx, ka_handle conn, ka_cause cause)
{
    (void)cause;
    look_inside(ctx, "closed", conn);
    if (((server *)ctx)->hears_of_the_end)
        ((server *)ctx)->hears_of_the_end();
}
static void on_race(void *ctx, ka_handle conn, ka_cause cause)
{
    (void)cause;
    look_inside(ctx, "race", conn);
}
static void on_settled(void *ctx, const ka_known *network)
{
    (void)network;
    look_inside(ctx, "settled", 0);
}
static void on_refused(void *ctx, ka_exchange *core) { look_inside(ctx, "refused", ka_exchange_conn(core)); }
static unsigned class_of_client(void *ctx, unsigned listener, const ka_client *client)
{
    (void)listener;
    (void)client;
    look_inside(ctx, "class of client", 0);
    return 0;
}
static unsigned class_of_request(void *ctx, ka_exchange *core, const ka_head *head, const ka_field *fields)
{
    (void)head;
    (void)fields;
    look_inside(ctx, "class of request", ka_exchange_conn(core));
    return 0;
}

/* What the application's tasks do between two steps. */
static void act_late(server *s)
{
    for (int i = 0; i < N_EXCHANGES; i++)
        if (exchanges[i].talk && exchanges[i].wait && --exchanges[i].wait == 0)
            act(&exchanges[i]);
    ka_engine_attend(s->engine);
}

static ka_capacity small_capacity(uint32_t n)
{
    ka_capacity capacity = ka_capacity_default;
    capacity.max_connections = n;
    return capacity;
}

static void server_open(server *s, const ka_capacity *capacity, const ka_policy *policy, size_t max_buffer_bytes)
{
    static int n_servers;
    ka_application app = {.ctx = s,
                          .on_request = on_request,
                          .on_news = on_news,
                          .on_lost = on_lost,
                          .on_wake = on_wake,
                          .on_notice = on_notice,
                          .on_closed = on_closed,
                          .on_race = on_race,
                          .on_settled = on_settled,
                          .on_refused = on_refused,
                          .class_of_client = class_of_client,
                          .class_of_request = class_of_request,
                          .release = release};
    char name[] = "/tmp/kacore-engine-XXXXXX";
    *s = (server){.random = faults.state};
    for (int i = 0; i < N_EXCHANGES; i++)
        exchanges[i] = (exchange){.next = i ? &exchanges[i - 1] : NULL};
    s->free = &exchanges[N_EXCHANGES - 1];
    for (int i = 0; i < PATTERN; i++)
        pattern[i] = (char)('a' + i % 26);
    if ((s->file_fd = mkstemp(name)) < 0 || unlink(name) < 0 || write(s->file_fd, pattern, 100000) != 100000)
        abort();
    s->address.sun_family = AF_UNIX;
    int n = snprintf(s->address.sun_path + 1, sizeof s->address.sun_path - 1, "kacore-engine-%d-%d", getpid(),
                     n_servers++);
    s->address_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
    s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0 || bind(s->fd, (struct sockaddr *)&s->address, s->address_len) < 0 || listen(s->fd, 1024) < 0)
        abort();
    if (ka_table_new(&s->table, capacity, 7, &s->counters) < 0)
        abort();
    if (policy && ka_table_set_policy(s->table, 0, policy) < 0)
        abort();
    if (ka_engine_new(&s->engine, s->table, &ka_limits_default, max_buffer_bytes, &app) < 0)
        abort();
    if (ka_engine_listen(s->engine, s->fd, 0, 0) < 0)
        abort();
}

/* The books: nobody is there, and nothing of those who were. */
static void server_close(server *s)
{
    const ka_service *service = &ka_engine_driver(s->engine)->service;
    uint64_t n_closed = 0;
    for (int i = 0; i < KA_N_CAUSES; i++)
        n_closed += s->counters.closed[i];
    CHECK(ka_table_open_count(s->table) == 0, "%u are open", ka_table_open_count(s->table));
    CHECK(s->counters.accepted == n_closed, "%d accepted", (int)s->counters.accepted);
    CHECK(service->pool.lent_bytes == 0, "%zu bytes are lent", service->pool.lent_bytes);
    CHECK(service->n_talks == 0, "%u talks", service->n_talks);
    CHECK(s->holds == 0, "%d holds", s->holds);
    CHECK(s->n_exchanges == 0, "%u exchanges", s->n_exchanges);
    CHECK(ka_table_check(s->table) == NULL, "%s", ka_table_check(s->table));
    ka_engine_free(s->engine);
    ka_table_free(s->table);
    close(s->fd);
    close(s->file_fd);
}

/* --- a client --- */

typedef enum {
    GOOD,
    VANISHES,
    RUBBISH,
    SILENT,
    N_MANNERS
} manner;
typedef enum {
    IN_HEAD,
    IN_LENGTH,
    IN_SIZE,
    IN_CHUNK,
    IN_CHUNK_END,
    IN_LAST,
    IN_REST
} parse_state;

typedef struct {
    int fd; /* -1: none */
    manner manner;
    char *text;
    size_t n_text, n_sent, ends[N_ASKED];
    char kinds[N_ASKED];
    unsigned ids[N_ASKED], n_asked, n_answered, stays, piece;
    int is_slow, half_closes, has_fin;
    /* the response that is being read */
    parse_state state;
    char head[2048];
    size_t n_head, left, n_content;
    unsigned status;
    int said_close, is_over;
} client;

typedef struct {
    unsigned n_good, n_whole, n_lost, n_turned_away, n_evicted, n_wrong;
} score;

static inline int ends_with(char kind) { return strchr(ENDS, kind) != NULL; }

static inline void put(client *c, const char *bytes, size_t n)
{
    c->text = realloc(c->text, c->n_text + n + 1);
    if (c->text == NULL)
        abort();
    memcpy(c->text + c->n_text, bytes, n);
    c->text[c->n_text += n] = 0;
}

static inline void ask(client *c, char kind, unsigned id, uint64_t *random)
{
    char line[256];
    size_t body = kind == 'e' ? content_of(kind, id) : kind == 'h' ? id * 13 % 150000 : 0;
    int n = snprintf(line, sizeof line, "%s /%c%u HTTP/1.%d\r\nHost: a\r\n",
                     body          ? "POST"
                     : kind == 'p' ? "HEAD"
                                   : "GET",
                     kind, id, kind != 'u'),
        is_chunked = body && faults_random(random) % 2;
    put(c, line, (size_t)n);
    if (is_chunked)
        n = snprintf(line, sizeof line, "Transfer-Encoding: chunked\r\n\r\n");
    else
        n = snprintf(line, sizeof line, body ? "Content-Length: %zu\r\n\r\n" : "\r\n", body);
    put(c, line, (size_t)n);
    for (size_t at = 0; at < body;) {
        size_t piece = is_chunked ? 1 + faults_random(random) % 9000 : body;
        if (piece > body - at)
            piece = body - at;
        n = snprintf(line, sizeof line, "%zx\r\n", piece);
        if (is_chunked)
            put(c, line, (size_t)n);
        put(c, content_at(id) + at, piece);
        if (is_chunked)
            put(c, "\r\n", 2);
        at += piece;
    }
    if (is_chunked)
        put(c, "0\r\n\r\n", 5);
    c->kinds[c->n_asked] = kind;
    c->ids[c->n_asked] = id;
    c->ends[c->n_asked++] = c->n_text;
}

static int client_connect(client *c, const server *s)
{
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        abort();
    if (connect(c->fd, (const struct sockaddr *)&s->address, s->address_len) == 0)
        return 1;
    close(c->fd);
    c->fd = -1;
    return 0;
}

static void client_leave(client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    free(c->text);
    *c = (client){.fd = -1};
}

/* One response is read. Return 1. */
static inline int answered(client *c)
{
    c->n_answered++;
    c->state = IN_HEAD;
    c->n_head = 0;
    return 1;
}

static inline int is_whole(const client *c)
{
    return c->status != 200 || c->manner == RUBBISH ||
           c->n_content == content_of(c->kinds[c->n_answered], c->ids[c->n_answered]);
}

static inline void head_is_read(client *c)
{
    char *length, kind = c->n_answered < c->n_asked ? c->kinds[c->n_answered] : '?';
    c->head[c->n_head] = 0;
    c->status = (unsigned)strtoul(c->head + 9, NULL, 10);
    c->said_close = strstr(c->head, "connection: close") != NULL;
    c->n_content = c->left = 0;
    if (c->status == 204 || (kind == 'p' && c->status == 200)) {
        (void)answered(c);
    } else if (strstr(c->head, "transfer-encoding: chunked")) {
        c->state = IN_SIZE;
    } else if ((length = strstr(c->head, "content-length: ")) != NULL) {
        c->left = strtoul(length + 16, NULL, 10);
        c->state = IN_LENGTH;
        if (c->left == 0)
            (void)answered(c);
    } else {
        c->state = IN_REST;
    }
}

/* One byte of what the server sent. Return whether it is as it must be. */
static inline int hear(client *c, char byte)
{
    int is_ours = c->status == 200 && c->manner != RUBBISH, is_right = 1;
    switch (c->state) {
    case IN_HEAD:
        if (c->n_answered >= c->n_asked && c->manner != RUBBISH)
            return 0;
        if (c->n_head + 1 >= sizeof c->head)
            return 0;
        c->head[c->n_head++] = byte;
        if (c->n_head >= 4 && memcmp(c->head + c->n_head - 4, "\r\n\r\n", 4) == 0)
            head_is_read(c);
        return c->n_head > 9 || memcmp("HTTP/1.1 ", c->head, c->n_head) == 0;
    case IN_LENGTH:
    case IN_CHUNK:
    case IN_REST:
        if (is_ours)
            is_right = c->n_answered < c->n_asked && byte == content_at(c->ids[c->n_answered])[c->n_content];
        c->n_content++;
        if (c->state == IN_REST || --c->left)
            return is_right;
        if (c->state == IN_LENGTH)
            return is_right && is_whole(c) && answered(c);
        c->state = IN_CHUNK_END;
        c->left = 2;
        return is_right;
    case IN_SIZE:
        if (byte == '\r')
            return 1;
        if (byte == '\n') {
            c->state = c->left ? IN_CHUNK : IN_LAST;
            if (c->left == 0)
                c->left = 2;
        } else {
            c->left = c->left * 16 + (size_t)(byte <= '9' ? byte - '0' : byte - 'a' + 10);
        }
        return c->left < PATTERN;
    case IN_CHUNK_END:
    case IN_LAST:
        is_right = byte == (c->left == 2 ? '\r' : '\n');
        if (--c->left)
            return is_right;
        if (c->state == IN_LAST)
            return is_right && is_whole(c) && answered(c);
        c->state = IN_SIZE;
        return is_right;
    }
    return 0;
}

/* How many bytes of a content are as they must be, at a look; 0 if hear() has to say. The last of it is hear()'s, too. */
static inline size_t hear_content(client *c, const char *data, size_t n)
{
    if (c->state != IN_REST && c->state != IN_LENGTH && c->state != IN_CHUNK)
        return 0;
    size_t run = c->state == IN_REST || n < c->left ? n : c->left - 1;
    if (c->status == 200 && c->manner != RUBBISH)
        if (c->n_answered >= c->n_asked || c->n_content + run > PATTERN / 2 ||
            memcmp(data, content_at(c->ids[c->n_answered]) + c->n_content, run) != 0)
            return 0;
    c->n_content += run;
    if (c->state != IN_REST)
        c->left -= run;
    return run;
}

/* What its manner makes of a round: say a little, hear a little. Return whether it stays. */
static inline int client_act(client *c, uint64_t *random)
{
    static char heard[1 << 16];
    if (c->n_sent < c->n_text && !c->is_over) {
        size_t n = c->n_text - c->n_sent < c->piece ? c->n_text - c->n_sent : c->piece;
        ssize_t sent = send(c->fd, c->text + c->n_sent, n, MSG_NOSIGNAL);
        if (sent > 0)
            c->n_sent += (size_t)sent;
        else if (errno != EAGAIN)
            c->is_over = 1; /* but there may be answers to read */
    } else if (c->half_closes && !c->has_fin) {
        c->has_fin = shutdown(c->fd, SHUT_WR) == 0;
    }
    size_t room = c->is_slow ? 1 + faults_random(random) % 2000 : sizeof heard;
    ssize_t n = recv(c->fd, heard, room, 0);
    for (ssize_t i = 0; i < n; i++) {
        i += (ssize_t)hear_content(c, heard + i, (size_t)(n - i));
        if (i < n && !hear(c, heard[i])) {
            c->is_over = 1;
            c->manner = c->manner == RUBBISH ? RUBBISH : N_MANNERS; /* wrong */
            return 0;
        }
    }
    if (n == 0 || (n < 0 && errno != EAGAIN)) {
        c->is_over = 1;
        return 0;
    }
    if (c->manner == VANISHES)
        return faults_random(random) % 20 != 0;
    return c->manner != GOOD || c->n_answered < c->n_asked || c->stays-- > 0;
}

/* How many of its requests can be answered. */
static inline unsigned expected(const client *c)
{
    for (unsigned i = 0; i < c->n_asked; i++)
        if (ends_with(c->kinds[i]))
            return i;
    return c->n_asked;
}

/* A client that did nothing wrong is through. What has become of its requests? */
static inline void judge(const client *c, score *score)
{
    size_t answered_to = c->n_answered ? c->ends[c->n_answered - 1] : 0;
    int is_between = c->state == IN_HEAD && c->n_head == 0;
    const char *head = c->text + answered_to, *end = strstr(head, "\r\n\r\n");
    int has_asked = end && c->n_sent >= (size_t)(end + 4 - c->text);
    score->n_wrong += c->manner == N_MANNERS;
    if (c->manner != GOOD)
        return;
    score->n_good++;
    if (c->n_answered >= expected(c) || (c->said_close && is_between))
        score->n_whole++; /* what follows is not owed */
    else if (c->n_answered == 1 && c->status == 503)
        score->n_turned_away++;
    else if (is_between && !has_asked)
        score->n_evicted++; /* who has not asked may have to make room */
    else
        score->n_lost++;
}

#endif
