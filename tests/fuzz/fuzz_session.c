/* fuzz_session.c: whole sessions of HTTP/2: a few connections, one table and one small pool, in virtual time.
 *
 * libFuzzer target for ka_h2*.c, ka_h2_turn.h and ka_driver.c. The input is a play: frames that clients send, right and wrong
 * ones, what they take and how, what the application does with each request, also from inside of release and lost, how
 * far the clock goes, which allocations fail. The connections, clients and moves are those of the C tests.
 *
 * Checked as it goes: by h2_client.h every byte that is sent (frames, states, windows, HPACK, content); the sessions by their
 * own check after every turn; the pool's cap; that nothing that could go on stands still. At the end the application
 * answers what it has, and the clock goes on from deadline to deadline: then all must be closed and given back. */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

__attribute__((noreturn)) static void die(const char *sentence);
#define MUST(condition, sentence) \
    if (!(condition))             \
    die(sentence)
#define H2_CLIENT_STREAMS 128
static unsigned fails_in, fails_for; /* allocations from now; so many of them in a row */
#define CLIENT_ALLOCATES(statement)       \
    do {                                  \
        unsigned failing_for = fails_for; \
        fails_for = 0;                    \
        statement;                        \
        fails_for = failing_for;          \
    } while (0)

#include "../c/h2_driver.h"
#include "kept.h"

enum {
    SCENES = 40,
    APPS = 24, /* requests that the application has at once, of a connection; it refuses others */
    PATTERN = 128 * 1024,
    ROUNDS = 3000
};

static int tells;
#define TELL(...) (tells ? (void)fprintf(stderr, __VA_ARGS__) : (void)0)

static void die(const char *sentence)
{
    fprintf(stderr, "broken: %s\n", sentence);
    abort();
}

/* --- memory that fails --- */

static int fails(void)
{
    if (fails_for == 0)
        return 0;
    if (fails_in > 0) {
        fails_in--;
        return 0;
    }
    fails_for--;
    return 1;
}

void *failing_malloc(size_t n);
void *failing_calloc(size_t n, size_t size);
void *failing_realloc(void *old, size_t n);
void *failing_malloc(size_t n) { return fails() ? NULL : malloc(n); }
void *failing_calloc(size_t n, size_t size) { return fails() ? NULL : calloc(n, size); }
void *failing_realloc(void *old, size_t n) { return fails() ? NULL : realloc(old, n); }

/* --- the play --- */

typedef struct {
    conn *c; /* NULL: free */
    ka_exchange *x;
    uint32_t id;
    int64_t declared;
    uint8_t is_begun;
} app;

static world w;
static const uint8_t *play, *play_end;
static app apps[CONNS][APPS];
static int n_holds, n_apps;
static uint8_t reenters, is_inside, is_ending;
static char pattern[PATTERN];
static int file_fd;
static uint32_t next_stream[CONNS];

static unsigned next_byte(void) { return play < play_end ? *play++ : 0; }

#define CHOOSE(list) ((list)[next_byte() % (sizeof(list) / sizeof *(list))])

static int index_of(const conn *c) { return (int)(c - w.conns); }

static const char *pattern_of(uint32_t id, int64_t at) { return pattern + (at + id * 7) % PERIOD; }

/* --- the application --- */

static void let_go(app *a)
{
    a->c = NULL;
    n_apps--;
}

static void detach(app *a)
{
    a->x->owner = NULL;
    let_go(a);
}

static client_stream *whose(const app *a)
{
    static client_stream nobody;
    client_stream *s = client_stream_of(&a->c->client, a->id);
    return s ? s : &nobody;
}

static void act(app *a);

static void act_inside(void)
{
    if (!reenters || is_inside || is_ending)
        return;
    unsigned what = next_byte();
    app *a = &apps[what % CONNS][what / CONNS % APPS];
    is_inside = 1;
    if (a->c)
        act(a);
    is_inside = 0;
}

static void release(void *owner)
{
    n_holds--;
    if (owner != pattern)
        free(owner);
    act_inside();
}

static void on_lost(void *owner)
{
    app *a = owner;
    TELL("  stream %u is lost: %s\n", a->id, ka_cause_name(ka_exchange_cause(a->x)));
    MUST(a->c != NULL, "an exchange is lost twice, or after it was let go");
    let_go(a);
    act_inside();
}

static void give_up(app *a, ka_cause cause)
{
    ka_exchange *x = a->x;
    detach(a);
    ka_exchange_done(x, cause);
}

static void refuse(app *a)
{
    ka_exchange *x = a->x;
    detach(a);
    if (ka_exchange_refuse(x, 500, "the application failed", KA_CAUSE_APPLICATION, w.d.now) < 0)
        ka_exchange_done(x, KA_CAUSE_APPLICATION);
}

static int begin(app *a, unsigned status, int64_t whole, unsigned flags)
{
    char *at;
    static char value[9000];
    size_t n = flags & 8 ? 20 + (flags & 16 ? 3000 : 0) : 0;
    memset(value, 'v', n);
    int error = ka_exchange_head_begin(a->x, status, n + 300, &at);
    if (error == KA_OK && n)
        error = ka_exchange_field(a->x, &at, "X-Name", 6, value, n);
    if (error == KA_OK && flags & 1)
        error = ka_exchange_field(a->x, &at, "connection", 10, "close", 5);
    if (error == KA_OK && whole >= 0 && flags & 2) { /* promised by a field */
        char digits[24];
        error = ka_exchange_field(a->x, &at, "content-length", 14, digits,
                                  (size_t)snprintf(digits, sizeof digits, "%lld", (long long)whole));
        a->declared = whole;
        whole = KA_WHOLE_UNKNOWN;
    }
    if (whole == 0 && status == 200) { /* END_STREAM goes with the head */
        whose(a)->is_complete = 1;
        whose(a)->written = 0;
    }
    if (error == KA_OK)
        error = ka_exchange_head_end(a->x, at, whole, w.d.now);
    TELL("  stream %u begins %u, whole %lld: %d\n", a->id, status, (long long)whole, error);
    if (error == KA_OK) {
        a->is_begun = 1;
        if (whole >= 0)
            a->declared = whole;
    } else if (error != KA_EINVAL) {
        give_up(a, KA_CAUSE_APPLICATION);
    }
    return error;
}

static void write_piece(app *a, size_t len, int more, unsigned how)
{
    ka_exchange *x = a->x;
    conn *c = a->c;
    client_stream *s = whose(a);
    const char *from = pattern_of(a->id, s->written);
    int error, is_all = a->declared >= 0 && s->written + (int64_t)len == a->declared;
    if (!x->reply.is_started)
        return;
    s->written += s->is_complete ? 0 : (int64_t)len; /* what is too much is never sent */
    s->is_complete |= (uint8_t)(!more || is_all);
    TELL("  stream %u writes %zu more %d how %u\n", a->id, len, more, how);
    if (!more && how & 8)
        detach(a);
    if (how % 4 == 3 && len) {
        int is_short = how & 16 && len > 2; /* than it was */
        n_holds++;
        error = ka_exchange_file(x, file_fd, is_short ? PATTERN + PERIOD - 1 : from - pattern, len, more, pattern);
    } else if (how % 4 == 2 && len) {
        char *own = malloc(len);
        memcpy(own, from, len);
        n_holds++;
        error = ka_exchange_content(x, own, len, more, own);
    } else if (how % 4 == 1) {
        n_holds++;
        error = ka_exchange_content(x, from, len, more, pattern);
    } else {
        error = ka_exchange_content(x, from, len, more, NULL);
    }
    if (error == KA_OK && a->c == c && more) {
        if (how & 4)
            h2_push_now(&w, c);
        if (a->c == c)
            (void)ka_exchange_holds(x);
    }
}

static const size_t lengths[] = {0, 1, 10, 300, 3000, 9000, 20000, 70000};

static void finish(app *a)
{
    if (!a->is_begun) {
        if (begin(a, 200, 2, 0) == KA_OK)
            write_piece(a, 2, 0, 0);
        else if (a->c)
            refuse(a);
    } else if (a->declared > whose(a)->written) {
        write_piece(a, (size_t)(a->declared - whose(a)->written), 0, 0);
    } else {
        write_piece(a, 0, 0, 0);
    }
}

static void act(app *a)
{
    static char to[9000];
    static const unsigned statuses[] = {200, 200, 404, 204, 304};
    static const size_t caps[] = {1, 100, 9000};
    unsigned what = next_byte(), flags = next_byte();
    ka_exchange *x = a->x;
    TELL("  stream %u of %d acts: %u flags %u\n", a->id, index_of(a->c), what % 16, flags);
    if (x->hold != KA_HOLD_NOT || ka_exchange_is_over(x))
        return;
    switch (what % 16) {
    case 0:
    case 1:
    case 2: { /* a whole response, or another piece */
        size_t len = CHOOSE(lengths);
        if (!a->is_begun) {
            unsigned status = CHOOSE(statuses);
            if (begin(a, status, (int64_t)len, flags) == KA_OK)
                write_piece(a, len, 0, flags / 8);
        } else {
            if (a->declared >= 0 && whose(a)->written + (int64_t)len > a->declared && what & 64)
                len = (size_t)(a->declared - whose(a)->written);
            write_piece(a, len, (flags & 1) == 0, flags / 8);
        }
        break;
    }
    case 3:
    case 4: a->is_begun ? write_piece(a, CHOOSE(lengths), 1, flags / 8) : (void)begin(a, 200, -1, flags); break;
    case 5: a->is_begun ? write_piece(a, 0, 0, flags / 8) : (void)begin(a, 200, (int64_t)CHOOSE(lengths), flags); break;
    case 6:
    case 7: (void)ka_exchange_read(x, to, CHOOSE(caps), w.d.now); break;
    case 8: (void)ka_exchange_interim(x, flags & 1 ? 103 : 102, "link: </a>\r\n", flags & 2 ? 12 : 0); break;
    case 9:
        if (a->is_begun) {
            if (a->declared < 0 || a->declared == whose(a)->written)
                whose(a)->is_complete = 1;
            detach(a);
            (void)ka_exchange_trailers(x, "X-T: 1\r\n", 8);
        }
        break;
    case 10: /* a tunnel, if it was asked for; the bytes that come are read as others are */
        if (!a->is_begun)
            (void)begin(a, flags & 1 ? 101 : 200, KA_WHOLE_TUNNEL, 0);
        break;
    case 11: give_up(a, flags & 1 ? KA_CAUSE_CLIENT : KA_CAUSE_APPLICATION); break;
    case 12: refuse(a); break;
    case 13: (void)ka_exchange_awaits_empty(x); break;
    case 14: flags & 1 ? ka_exchange_rest(x) : (void)ka_exchange_awaits_low(x); break;
    default: finish(a); break;
    }
}

static void on_request(void *ctx, ka_exchange *x, const ka_head *head, const ka_field *fields)
{
    conn *c = h2_peer_of(&w.d, ka_exchange_conn(x));
    uint32_t id = ((const ka_h2_stream *)(const void *)x)->id;
    size_t n;
    (void)ctx;
    MUST(ka_exchange_head_bytes(x)[head->method.off] != 0 && head->target.len, "a request without a method");
    (void)ka_exchange_protocol(x, &n);
    (void)fields;
    TELL("  stream %u: a request\n", id);
    for (int i = 0; i < APPS; i++) {
        app *a = &apps[index_of(c)][i];
        if (a->c)
            continue;
        *a = (app){.c = c, .x = x, .id = id, .declared = -1};
        x->owner = a;
        n_apps++;
        if (is_ending)
            finish(a);
        else if (next_byte() % 4)
            act(a);
        return;
    }
    if (ka_exchange_refuse(x, 503, "too many", KA_CAUSE_APPLICATION, w.d.now) < 0)
        ka_exchange_done(x, KA_CAUSE_APPLICATION);
}

static void on_news(void *ctx, ka_exchange *x, ka_news news)
{
    app *a = x->owner;
    (void)ctx;
    TELL("  news %d\n", (int)news);
    MUST(news != KA_NEWS_LOW || x->hold == KA_HOLD_NOT, "it may go on, and is held");
    if (a == NULL)
        return;
    MUST(a->x == x, "news of another's");
    if (is_ending && news != KA_NEWS_EOF)
        finish(a);
    else if (!is_ending)
        act(a);
}

/* --- the clients --- */

static uint32_t some_stream(conn *c)
{
    unsigned which = next_byte();
    uint32_t next = next_stream[index_of(c)];
    return which < 200 ? (which % 16 < next / 2 ? next - 2 - 2 * (which % 16) : 1) : which < 240 ? next : 0;
}

static uint32_t some_real_stream(conn *c)
{
    uint32_t id = some_stream(c);
    return id ? id : 1;
}

static void tell_streams(const conn *c)
{
    const ka_h2 *h2 = h2_of_conn(c);
    if (h2 == NULL)
        return;
    TELL("  leaving %u, window %d, debt %u, window_len %zu\n", h2->leaving, h2->send_window, h2->debt,
         c->talk->window_len);
    for (const ka_h2_stream *s = h2->live ? h2->live->first : NULL; s; s = s->next)
        TELL(
            "  stream %u: reading %u writing %u hold %u wants %u queued %zu n_in %zu window %d waits %u received %u sent "
            "%u touched %u ready %u owner %d\n",
            s->id, s->x.reading, s->x.writing, s->x.hold, s->x.wants_body, s->queued, s->n_in, s->send_window,
            s->wait.phase, s->is_received, s->is_sent, s->is_touched, s->is_ready, s->x.owner != NULL);
}

static void client_asks(conn *c, unsigned how)
{
    static const char *const priorities[] = {"u=0", "u=7, i", "u=1,i=?0", "i", "u=x;i=?1", "ix"};
    char block[400], *at = block;
    int ends = 1, has_length = 0;
    uint32_t id = next_stream[index_of(c)];
    unsigned more = next_byte();
    client *k = &c->client;
    next_stream[index_of(c)] += 2 + (more & 128 ? 4 : 0);
    switch (how) {
    case 0: memcpy(at, CLIENT_GET, sizeof CLIENT_GET - 1), at += sizeof CLIENT_GET - 1; break;
    case 1:
        memcpy(at, CLIENT_POST, sizeof CLIENT_POST - 1), at += sizeof CLIENT_POST - 1, ends = more & 1,
                                                                                       has_length = more & 2;
        break;
    case 2: memcpy(at, CLIENT_HEAD, sizeof CLIENT_HEAD - 1), at += sizeof CLIENT_HEAD - 1; break;
    default:
        at = client_field(at, ":method", "CONNECT");
        at = client_field(at, ":authority", "a:1");
        if (more & 1) {
            at = client_field(at, ":protocol", "websocket");
            at = client_field(at, ":scheme", "http");
            at = client_field(at, ":path", "/");
        }
        ends = more & 2;
    }
    if (more & 4)
        at = client_field(at, "priority", CHOOSE(priorities));
    if (more & 8)
        at = client_field(at, "expect", "100-continue");
    if (has_length)
        at = client_field(at, "content-length", more & 64 ? "1" : "5000");
    if (more & 16)
        at = client_field(at, "Bad", "x");
    size_t n = (size_t)(at - block);
    if (more & 32) {
        size_t first = n * (next_byte() % 8) / 8;
        client_opens(k, id, block, n, ends);
        client_frame(k, KA_H2_HEADERS, ends ? KA_H2_END_STREAM : 0, id, block, first);
        client_frame(k, KA_H2_CONTINUATION, KA_H2_END_HEADERS, id, block + first, n - first);
    } else {
        client_headers(k, id, block, n, ends);
    }
}

static void client_acts(conn *c)
{
    static const size_t pieces[] = {0, 1, 100, 5000, 16384, 16383};
    static const uint32_t increments[] = {1, 100, 5000, 70000, 1 << 20, 0x7fffffff};
    static const int64_t windows[] = {0, 1, 100, 65535, 1 << 20, 0x7fffffff, -1}, tables[] = {-1, 0, 100, 4096, 65536};
    unsigned what = next_byte() % 20;
    client *k = &c->client;
    TELL("client %d: %u\n", index_of(c), what);
    switch (what) {
    case 0:
    case 1:
    case 2:
    case 3: client_asks(c, what); break;
    case 4:
    case 5: client_asks(c, 1); break;
    case 6:
    case 7: {
        uint32_t id = some_real_stream(c);
        unsigned how = next_byte();
        client_data(k, id, CHOOSE(pieces), how & 4 ? (int)(how / 8) : -1, how & 1);
        break;
    }
    case 8:
    case 9: {
        uint32_t id = some_stream(c), by = CHOOSE(increments);
        client_window(k, id, by);
        break;
    }
    case 10: {
        int64_t window = CHOOSE(windows);
        client_settings(k, window, CHOOSE(tables));
        break;
    }
    case 11: {
        client_reset(k, some_real_stream(c), KA_H2_CANCEL);
        break;
    }
    case 12: next_byte() & 1 ? client_ping(k, "01234567", 0) : client_ping(k, (const char *)k->ping, 1); break;
    case 13: { /* PRIORITY_UPDATE */
        static const char *const priorities[] = {"u=0", "u=7,i", "i", "", "u=3, i=?0", "ix", "i=?"};
        char bytes[32];
        const char *text = CHOOSE(priorities);
        client_put32(bytes, some_stream(c));
        memcpy(bytes + 4, text, strlen(text));
        client_frame(k, KA_H2_PRIORITY_UPDATE, 0, 0, bytes, 4 + strlen(text));
        break;
    }
    case 14: { /* trailers, or fields in the wrong place */
        char block[64], *at = client_field(block, next_byte() & 3 ? "x-t" : ":path", "1");
        uint32_t id = some_real_stream(c);
        client_stream *s = client_stream_of(k, id);
        if (s == NULL || !s->is_open)
            client_opens(k, id, block, (size_t)(at - block), 1);
        client_frame(k, KA_H2_HEADERS, KA_H2_END_HEADERS | (next_byte() & 7 ? KA_H2_END_STREAM : 0u), id, block,
                     (size_t)(at - block));
        break;
    }
    case 15: client_goaway(k); break;
    case 16: { /* any frame */
        unsigned type = next_byte() % 20, flags = next_byte(), n = next_byte() % 24;
        uint32_t id = some_stream(c);
        k->is_wild = 1;
        if (n > (size_t)(play_end - play))
            n = (unsigned)(play_end - play);
        client_frame(k, type, flags, id, play, n);
        play += n;
        break;
    }
    case 17: { /* many of the same */
        static const unsigned times[] = {10, 50, 250};
        unsigned n = CHOOSE(times), which = next_byte() % 6;
        uint32_t id = some_stream(c);
        for (unsigned i = 0; i < n; i++) {
            if (which == 0)
                client_ping(k, "01234567", 0);
            else if (which == 1)
                client_window(k, id, 1);
            else if (which == 2)
                client_data(k, id ? id : 1, 1, -1, 0);
            else if (which == 3 && i < 40)
                client_get(k, next_stream[index_of(c)]), next_stream[index_of(c)] += 2;
            else if (which == 4 && i < 40)
                client_settings(k, i % 2 ? 70000 : 10, -1);
            else if (which == 5)
                client_frame(k, KA_H2_PRIORITY, 0, 1, "\0\0\0\0\0", 5);
        }
        break;
    }
    case 18: k->pings_back = 1; break;
    default: { /* bytes as they are */
        size_t n = next_byte() % 12;
        k->is_wild = 1;
        if (n > (size_t)(play_end - play))
            n = (size_t)(play_end - play);
        client_raw(k, (const char *)play, n);
        play += n;
    }
    }
}

static void client_takes(conn *c, size_t n)
{
    c->queued -= n < c->queued ? n : c->queued;
    c->is_ready = 1;
}

static void open_one(int i)
{
    static const size_t rooms[] = {1 << 30, 1 << 30, 1 << 30, 1, 100, 3000, 65536},
                        pieces[] = {SCRATCH, SCRATCH, SCRATCH, 1, 50, 1500};
    if (w.conns[i].is_closed)
        return;
    conn *c = h2_open(&w, i);
    if (c == NULL)
        return;
    unsigned how = next_byte();
    c->room = rooms[how % 7];
    c->piece = pieces[how / 7 % 6];
    next_stream[i] = 1;
    client_preface(&c->client);
    client_settings(&c->client, how & 128 ? 1 << 20 : -1, -1);
    if (how & 64)
        client_window(&c->client, 0, 1 << 20);
}

static void scene(void)
{
    static const int64_t waits[] = {1000000, S, 6 * S, 40 * S};
    static const size_t takings[] = {1, 100, 5000, SIZE_MAX};
    unsigned what = next_byte();
    int i = (int)(what / 16 % CONNS);
    conn *c = &w.conns[i];
    TELL("scene %u with %d\n", what % 16, i);
    if (c->h == 0) {
        open_one(i);
        return;
    }
    switch (what % 16) {
    case 0:
    case 1:
    case 2:
    case 3: client_acts(c); break;
    case 4:
        client_acts(c);
        h2_step(&w);
        break;
    case 5: h2_step(&w); break;
    case 6: (void)h2_run(&w); break;
    case 7: client_takes(c, CHOOSE(takings)); break;
    case 8:
        if (what >= 0xc0)
            c->has_fin = c->is_ready = 1;
        break;
    case 9: w.d.now += CHOOSE(waits); break;
    case 10:
        if (what >= 0xe0)
            ka_driver_drain(&w.d, S, S, 30 * S);
        else if (what >= 0xc0)
            ka_driver_close(&w.d, c->h, KA_CAUSE_DRAIN);
        break;
    case 11:
        fails_in = next_byte() % 16;
        fails_for = 1 + what / 64;
        break;
    case 12: ka_driver_attend(&w.d); break;
    default: {
        unsigned which = next_byte();
        app *a = &apps[i][which % 8];
        if (a->c)
            act(a);
        if (which & 128)
            ka_driver_attend(&w.d);
    }
    }
}

/* The application answers what it has; the clients take everything, or nothing more. All ends. */
static void last_scene(unsigned how)
{
    is_ending = 1;
    fails_for = 0;
    TELL("the end, %u\n", how);
    for (int round = 0; ka_table_open_count(w.table); round++) {
        for (int i = 0; round == ROUNDS && i < CONNS; i++)
            if (w.conns[i].h)
                TELL("  %d is %s, unsent %zu, ready %d\n", i,
                     ka_phase_name((unsigned)ka_conn_phase(w.table, w.conns[i].h)),
                     w.conns[i].talk ? w.conns[i].talk->unsent : 0, w.conns[i].is_ready),
                    tell_streams(&w.conns[i]);
        MUST(round < ROUNDS, "a connection never ends");
        int is_quiet = 1;
        for (int i = 0; i < CONNS; i++) {
            conn *c = &w.conns[i];
            if (c->h == 0)
                continue;
            c->piece = SCRATCH; /* a play is to be short */
            if (how & 1 && c->queued) {
                client_takes(c, SIZE_MAX);
                c->room = 1 << 30;
            }
            if (how & 2 && !c->has_fin)
                c->has_fin = c->is_ready = 1;
            for (int k = 0; k < APPS; k++) {
                app *a = &apps[i][k];
                if (a->c && a->x->hold == KA_HOLD_NOT && !ka_exchange_is_over(a->x))
                    finish(a);
            }
        }
        h2_step(&w);
        for (int i = 0; i < CONNS; i++) {
            is_quiet &= h2_is_quiet(&w.conns[i]);
            if (is_quiet)
                h2_check_quiet(&w.conns[i]);
        }
        if (is_quiet)
            TELL("  quiet: now %lld, due %lld\n", (long long)w.d.now, (long long)w.timer);
        if (is_quiet)
            w.d.now = w.timer != INT64_MAX && w.timer > w.d.now ? w.timer : w.d.now + S;
    }
    MUST(n_apps == 0, "the application has a request of a connection that is gone");
    MUST(n_holds == 0, "content is not released");
    uint64_t n_closed = 0;
    for (int i = 0; i < KA_N_CAUSES; i++)
        n_closed += w.counters.closed[i];
    MUST(n_closed == w.counters.accepted, "a connection ended without a cause");
}

static void set_up(void)
{
    static const size_t caps[] = {4 << 20, 4 << 20, 16384, 65536, 300000};
    static const uint32_t streams[] = {100, 100, 3, 1};
    unsigned how = next_byte(), more = next_byte();
    ka_policy policy = ka_policy_default;
    ka_h2_options options = ka_h2_options_default;
    const ka_application application = {
        .on_request = on_request, .on_news = on_news, .on_lost = on_lost, .release = release};
    policy.max_body_bytes = 100000;
    policy.timeout_ns[KA_BUSY] = how & 8 ? 10 * S : 0;
    policy.max_requests = how & 16 ? 3 : 0;
    policy.keep_alive = (how & 0xe0) != 0xe0;
    w.pushes = more & 1;
    reenters = (more & 2) != 0;
    options.max_streams = streams[more / 4 % 4];
    memset(&w, 0, offsetof(world, pushes));
    if (h2_init(&w, &policy, &options, caps[more / 16 % 5], &application) != KA_OK)
        die("no memory");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (file_fd == 0) {
        for (size_t i = 0; i < sizeof pattern; i++)
            pattern[i] = (char)(i % PERIOD);
        file_fd = memfd_create("pattern", 0);
        if (write(file_fd, pattern, sizeof pattern) != (ssize_t)sizeof pattern)
            die("no file");
        tells = getenv("TELL") != NULL;
    }
    if (size < 3)
        return 0;
    play = data;
    play_end = data + size;
    memset(apps, 0, sizeof apps);
    n_holds = n_apps = 0;
    is_inside = is_ending = 0;
    fails_in = fails_for = 0;
    set_up();
    unsigned how = next_byte();
    for (int i = 0; i < SCENES && play < play_end; i++)
        scene();
    last_scene(how);
    for (int i = 0; i < CONNS; i++)
        if (w.conns[i].is_closed)
            client_end(&w.conns[i].client);
    h2_free_world(&w);
    return 0;
}
