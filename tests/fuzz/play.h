/* play.h: who plays in fuzz_talk.c: clients that send and take, and an application that answers.
 *
 * Whatever they do next is a byte of the input. The application notes in `asked` what its answer is to look like, and
 * answers.h holds what is sent against that. */
#ifndef PLAY_H
#define PLAY_H

#include "answers.h"
#include "talk/ka_turn.h"

#define S ((int64_t)1000000000)

enum {
    CONNS = 4,
    SCENES = 32,    /* of a play */
    TEXTS = 48,     /* that all clients send together */
    TURNS = 20,     /* after which reads and writes are no longer cut small: a play is to be short */
    SENDINGS = 64,  /* of a client, that wait in the kernel */
    REQUESTS = 40,  /* that the application answers in kind; after these it refuses */
    FILE_FD = 1000, /* of the one file there is: the pattern */
    SCRATCH = 64 * 1024,
    ROUNDS = 2000 /* of the end of a play: more, and something goes round in circles */
};

typedef struct world world;
typedef struct conn conn;

/* With TELL=1 in the environment, to see what a finding is about. */
static int tells;
#define TELL(...) (tells ? (void)fprintf(stderr, __VA_ARGS__) : (void)0)

/* The application's side of one request. */
typedef struct {
    world *w;
    conn *c;
    ka_talk *talk;
    uint32_t n;         /* which request of its connection */
    size_t declared;    /* content promised, SIZE_MAX = not */
    size_t n_collected; /* content that it holds, counted against the budget */
    uint8_t is_begun, is_gone;
} app;

struct conn {
    ka_handle h; /* 0: none */
    ka_talk *talk;
    app *app;
    char *block;         /* bytes of the last read, owned */
    size_t queued, room; /* the kernel's send queue, and how long it may be */
    size_t piece;        /* bytes that one read gives at most */
    uint32_t first, n_sendings;
    struct {
        const char *bytes;
        size_t len, at;
        unsigned times;
    } sendings[SENDINGS]; /* what the client sent and nobody read, a ring */
    uint8_t can_read, can_write, saw_fin, has_fin, is_reset, sent_fin, is_ready, is_read_paused, told_fin;
    uint8_t phase, lies; /* as it ends: where it was, and whether what was sent would pass for all */
    answers got;
};

struct world {
    ka_driver d;
    ka_counters counters;
    ka_table *table;
    const uint8_t *play, *end;
    uint32_t n_requests, n_turns, n_texts;
    int n_holds, n_apps;
    uint8_t pushes;    /* the loop reads, as over transports */
    uint8_t is_ending; /* the play is over: answer everything */
    uint8_t reenters;  /* the application acts in release and lost, too */
    uint8_t is_inside;
    conn conns[CONNS];
};

static unsigned next_byte(world *w) { return w->play < w->end ? *w->play++ : 0; }

static size_t choose(world *w, const size_t *sizes, size_t n) { return sizes[next_byte(w) % n]; }

/* --- what clients send --- */

static char block_of_x[1000];

static const struct {
    const char *bytes;
    size_t len;
} texts[] = {
#define TEXT(literal) {literal, sizeof(literal) - 1}
    TEXT("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    TEXT("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"),
    TEXT("GET / HTTP/1.0\r\n\r\n"),
    TEXT("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
    TEXT("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"),
    TEXT("0123456789"),
    TEXT("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
    TEXT("5\r\nhello\r\n"),
    TEXT("0\r\n\r\n"),
    TEXT("0\r\nx-t: 1\r\n\r\n"),
    TEXT("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n"),
    TEXT("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"),
    TEXT("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"),
    TEXT("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
    TEXT("\r\n"),
    TEXT("GET / HT"),
    TEXT("TP/1.1\r\nHost: a\r\n\r\n"),
    TEXT("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"),
    TEXT("HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n"),
    TEXT("GET  / HTTP/1.1\r\n\r\n"),
    TEXT("3e8\r\n"),
    {block_of_x, sizeof block_of_x},
};

enum {
    N_TEXTS = sizeof texts / sizeof texts[0]
};

static void send_to(conn *c, const char *bytes, size_t len, unsigned times)
{
    if (c->n_sendings == SENDINGS || c->has_fin || len == 0)
        return;
    uint32_t i = (c->first + c->n_sendings++) % SENDINGS;
    c->sendings[i].bytes = bytes;
    c->sendings[i].len = len;
    c->sendings[i].at = 0;
    c->sendings[i].times = times;
    c->is_ready = 1;
}

static void client_sends(world *w, conn *c)
{
    static const size_t times[] = {1, 1, 1, 1, 1, 2, 3, 36};
    unsigned what = next_byte(w);
    if (w->n_texts >= TEXTS)
        return;
    if (what % 32 < N_TEXTS) {
        size_t n = what % 32 == N_TEXTS - 1 ? (what / 32) * 20 + 1 : times[what / 32];
        send_to(c, texts[what % 32].bytes, texts[what % 32].len, (unsigned)n);
        w->n_texts += what % 32 == N_TEXTS - 1 ? 1 : (unsigned)n;
    } else { /* bytes of the play as they are */
        size_t n = what / 32 * 4 + 1;
        if (n > (size_t)(w->end - w->play))
            n = (size_t)(w->end - w->play);
        send_to(c, (const char *)w->play, n, 1);
        w->play += n;
    }
}

/* Take up to `most` bytes out of the kernel. */
static size_t take(conn *c, char *to, size_t most)
{
    size_t n = 0;
    while (n < most && c->n_sendings) {
        uint32_t i = c->first;
        size_t len = c->sendings[i].len - c->sendings[i].at;
        if (len > most - n)
            len = most - n;
        memcpy(to + n, c->sendings[i].bytes + c->sendings[i].at, len);
        n += len;
        c->sendings[i].at += len;
        if (c->sendings[i].at == c->sendings[i].len) {
            c->sendings[i].at = 0;
            if (--c->sendings[i].times == 0) {
                c->first = (c->first + 1) % SENDINGS;
                c->n_sendings--;
            }
        }
    }
    return n;
}

/* --- the application --- */

static void let_go(app *a)
{
    world *w = a->w;
    a->c->app = NULL;
    ka_pool_let_go(&w->d.service.pool, a->n_collected);
    w->n_apps--;
    free(a);
}

static void detach(app *a)
{
    a->talk->exchange.owner = NULL;
    let_go(a);
}

static void act(app *a);

/* The application's code that runs where a hold is dropped, or an exchange is lost: it acts on whatever it has. */
static void act_inside(world *w)
{
    if (!w->reenters || w->is_inside || w->is_ending)
        return;
    app *a = w->conns[next_byte(w) % CONNS].app;
    w->is_inside = 1;
    if (a)
        act(a);
    w->is_inside = 0;
}

static world *the_world; /* release has no argument for it */

static void release(void *owner)
{
    the_world->n_holds--;
    if (owner != pattern)
        free(owner);
    act_inside(the_world);
}

static void lost(void *exchange)
{
    app *a = exchange;
    world *w = a->w;
    MUST(a->c->app == a, "an exchange is lost twice, or after it was let go");
    asked *q = asked_at(&a->c->got, a->n);
    if (!q->is_complete)
        q->is_given_up = 1;
    let_go(a);
    act_inside(w);
}

static void collect(app *a)
{
    static const size_t sizes[] = {1, 7, 100, 9000};
    static char to[9000];
    ptrdiff_t n = ka_exchange_read(&a->talk->exchange, to, choose(a->w, sizes, 4), a->w->d.now);
    if (n > 0 && ka_pool_hold(&a->w->d.service.pool, KA_USE_INPUT, (size_t)n) == KA_OK)
        a->n_collected += (size_t)n;
}

static void give_up(app *a)
{
    ka_talk *talk = a->talk;
    asked_at(&a->c->got, a->n)->is_given_up = 1;
    detach(a);
    ka_exchange_done(&talk->exchange, KA_CAUSE_APPLICATION);
}

static void refuse(app *a)
{
    ka_talk *talk = a->talk;
    asked *q = asked_at(&a->c->got, a->n);
    int64_t now = a->w->d.now;
    q->is_given_up = 1;
    detach(a);
    if (ka_exchange_refuse(&talk->exchange, 500, "the application failed", KA_CAUSE_APPLICATION, now) < 0)
        ka_exchange_done(&talk->exchange, KA_CAUSE_APPLICATION);
}

static size_t put_number(char *at, size_t n)
{
    size_t len = n >= 10 ? put_number(at, n / 10) : 0;
    at[len] = (char)('0' + n % 10);
    return len + 1;
}

/* A response head. whole: as ka_talk_head_end; declares: by a field of the application's. */
static int begin(app *a, unsigned status, int64_t whole, size_t declares, unsigned flags)
{
    char *at, digits[12];
    ka_talk *talk = a->talk;
    int error = ka_exchange_head_begin(&talk->exchange, status, 200, &at);
    if (error == KA_OK && flags & 4)
        error = ka_exchange_head_begin(&talk->exchange, status, 300, &at); /* thought better of it */
    if (error == KA_OK && flags & 8)
        error = ka_exchange_reword(&talk->exchange, &at, "So be it", 8);
    if (error == KA_OK)
        error = ka_exchange_field(&talk->exchange, &at, "x-id", 4, digits, put_number(digits, a->n));
    if (error == KA_OK && flags & 1)
        error = ka_exchange_field(&talk->exchange, &at, "connection", 10, "close", 5);
    if (error == KA_OK && declares != SIZE_MAX)
        error = ka_exchange_field(&talk->exchange, &at, "content-length", 14, digits, put_number(digits, declares));
    if (error == KA_OK)
        error = ka_exchange_head_end(&talk->exchange, at, whole, a->w->d.now);
    if (error == KA_OK) {
        a->is_begun = 1;
        a->declared = whole >= 0 ? (size_t)whole : declares;
        asked_at(&a->c->got, a->n)->is_tunnel = whole == KA_WHOLE_TUNNEL;
    } else if (error != KA_EINVAL) {
        give_up(a);
    }
    return error;
}

static void push_now(world *w, conn *c, ka_talk *talk);

/* A piece of content: copied, referred to, or of the file. */
static void write_piece(app *a, size_t len, int more, unsigned how)
{
    world *w = a->w;
    ka_talk *talk = a->talk;
    conn *c = a->c;
    uint32_t n = a->n;
    asked *q = asked_at(&c->got, n);
    const char *from = pattern_of(n, q->n_written);
    int is_all = a->declared != SIZE_MAX && q->n_written + len == a->declared, error;
    q->n_written += len;
    q->is_complete = !more || is_all;
    if (!more && how & 8)
        detach(a); /* before the content, as the Python side does */
    if (how % 4 == 3 && len) {
        w->n_holds++;
        error = ka_exchange_file(&talk->exchange, FILE_FD, from - pattern, len, more, pattern);
    } else if (how % 4 == 2 && len) {
        char *own = malloc(len);
        memcpy(own, from, len);
        w->n_holds++;
        error = ka_exchange_content(&talk->exchange, own, len, more, own);
    } else if (how % 4 == 1) {
        w->n_holds++;
        error = ka_exchange_content(&talk->exchange, from, len, more, pattern);
    } else {
        error = ka_exchange_content(&talk->exchange, from, len, more, NULL);
    }
    if (error < 0)
        q->is_given_up = 1;
    else if (c->app && c->app->n == n && more) {
        if (how & 4)
            push_now(w, c, talk);
        (void)ka_exchange_holds(&talk->exchange); /* and writes nothing until it is told to go on */
    }
}

static const size_t sizes_of_content[] = {0, 1, 10, 300, 5000, 9000, 20000, 70000};

static void respond(app *a, unsigned flags)
{
    static const unsigned statuses[] = {200, 200, 404, 204, 304, 205, 500, 299};
    unsigned status = statuses[next_byte(a->w) % 8];
    size_t len = status == 205 ? 0 : choose(a->w, sizes_of_content, 8);
    if (begin(a, status, (int64_t)len, SIZE_MAX, flags) == KA_OK)
        write_piece(a, len, 0, flags / 16);
}

/* Complete what was begun, or answer what was not. */
static void finish(app *a)
{
    const conn *c = a->c;
    if (!a->is_begun) {
        if (begin(a, 200, 2, SIZE_MAX, 0) == KA_OK)
            write_piece(a, 2, 0, 0);
        else if (c->app == a)
            refuse(a);
    } else if (a->declared != SIZE_MAX) {
        write_piece(a, a->declared - asked_at(&a->c->got, a->n)->n_written, 0, 0);
    } else {
        write_piece(a, 0, 0, 0);
    }
}

static void write_more(app *a, unsigned flags)
{
    size_t len = choose(a->w, sizes_of_content, 8), left = a->declared - asked_at(&a->c->got, a->n)->n_written;
    if (a->declared != SIZE_MAX && len > left && !(flags & 4))
        len = left;
    write_piece(a, len, flags & 1 && (a->declared == SIZE_MAX || len == left) ? 0 : 1, flags / 16);
}

static void end_with_trailers(app *a)
{
    ka_talk *talk = a->talk;
    asked *q = asked_at(&a->c->got, a->n);
    if (a->declared != SIZE_MAX && q->n_written != a->declared)
        return;
    q->is_complete = 1;
    detach(a);
    if (ka_exchange_trailers(&talk->exchange, "x-t: 1\r\n", 8) < 0)
        q->is_given_up = 1;
}

static void send_hints(app *a)
{
    static const char hints[] = "link: </a>\r\n";
    asked *q = asked_at(&a->c->got, a->n);
    if (q->minor > 0 && ka_exchange_interim(&a->talk->exchange, 103, hints, sizeof hints - 1) == KA_OK)
        q->has_hints++;
}

/* The next thing that the application does with a request it has. */
static void act(app *a)
{
    unsigned what = next_byte(a->w), flags = next_byte(a->w);
    size_t declares = choose(a->w, sizes_of_content, 8);
    TELL("  request %u of %d acts: %u flags %u\n", a->n, (int)(a->c - a->w->conns), what % 12, flags);
    if (ka_exchange_is_over(&a->talk->exchange))
        MUST(ka_exchange_content(&a->talk->exchange, pattern, declares, flags & 1, NULL) == KA_EINVAL,
             "content behind the end is taken");
    if (a->talk->exchange.hold != KA_HOLD_NOT || ka_exchange_is_over(&a->talk->exchange))
        return;
    switch (what % 12) {
    case 0:
    case 1: a->is_begun ? write_more(a, flags) : respond(a, flags); break;
    case 2: a->is_begun ? write_more(a, flags) : (void)begin(a, 200, KA_WHOLE_UNKNOWN, SIZE_MAX, flags); break;
    case 3: a->is_begun ? write_more(a, flags) : (void)begin(a, 200, KA_WHOLE_UNKNOWN, declares, flags); break;
    case 4:
    case 5: collect(a); break;
    case 6: send_hints(a); break;
    case 7: a->is_begun ? end_with_trailers(a) : (void)begin(a, 101, KA_WHOLE_TUNNEL, SIZE_MAX, 0); break;
    case 8: a->is_begun ? finish(a) : (void)begin(a, 200, KA_WHOLE_TUNNEL, SIZE_MAX, 0); break;
    case 9: flags % 4 == 0 ? give_up(a) : flags % 4 == 1 ? refuse(a) : finish(a); break;
    case 10:
        if (ka_exchange_awaits_empty(&a->talk->exchange)) /* as for a socket that is to be given away */
            ka_talk_put(a->talk, KA_NOTED);
        break;
    default: break; /* later */
    }
}

static conn *conn_of(world *w, ka_handle h)
{
    for (int i = 0; i < CONNS; i++)
        if (w->conns[i].h == h)
            return &w->conns[i];
    die("a handle names no connection");
}

static unsigned class_of_request(void *ctx, ka_exchange *x, const ka_head *head, const ka_field *fields)
{
    conn *c = conn_of(ctx, ka_exchange_conn(x));
    (void)fields;
    MUST(c->got.n_asked - c->got.n_answered < ASKED - 1, "too many requests are unanswered");
    *asked_at(&c->got, c->got.n_asked++) = (asked){
        .is_head = (head->flags & KA_HEAD_IS_HEAD) != 0,
        .is_connect = (head->flags & KA_HEAD_IS_CONNECT) != 0,
        .expects = (head->flags & KA_HEAD_EXPECTS_CONTINUE) != 0,
        .minor = head->minor,
    };
    return 0;
}

static void on_request(void *ctx, ka_exchange *x, const ka_head *head, const ka_field *fields)
{
    world *w = ctx;
    (void)fields;
    conn *c = conn_of(w, ka_exchange_conn(x));
    const char *bytes = ka_exchange_head_bytes(x);
    MUST(c->app == NULL && x->owner == NULL, "a request while another is with the application");
    MUST(bytes[head->nbytes - 1] == '\n', "the head is not where it was said to be");
    MUST(c->got.n_asked > 0 && !asked_at(&c->got, c->got.n_asked - 1)->is_handed, "a request is handed over twice");
    app *a = malloc(sizeof *a);
    *a = (app){.w = w, .c = c, .talk = x->talk, .n = c->got.n_asked - 1, .declared = SIZE_MAX};
    TELL("  request %u of %d\n", a->n, (int)(c - w->conns));
    asked_at(&c->got, a->n)->is_handed = 1;
    w->n_apps++;
    c->app = a;
    x->owner = a;
    if (w->is_ending)
        finish(a);
    else if (++w->n_requests > REQUESTS)
        refuse(a);
    else
        for (unsigned n = next_byte(w) % 4; n && c->app == a; n--)
            act(a);
}

static void on_news(void *ctx, ka_exchange *x, ka_news news)
{
    world *w = ctx;
    conn *c = conn_of(w, ka_exchange_conn(x));
    MUST(ka_exchange_is_open(x), "news of nothing");
    if (c->app == NULL)
        return;
    app *a = c->app;
    if (news == KA_NEWS_BODY)
        collect(a);
    if (c->app == a && x->hold == KA_HOLD_NOT && !ka_exchange_is_over(x))
        w->is_ending ? finish(a) : act(a);
}

#endif
