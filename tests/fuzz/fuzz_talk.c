/* fuzz_talk.c: the whole conversation: a few connections, one table and one small pool, in virtual time.
 *
 * libFuzzer target for ka_turn.h, ka_talk, ka_buf, ka_reply, ka_conn and what they stand on. The input is a play: what
 * clients send, take and break off, what the application does with each request, how far the clock goes, when the driver
 * gets its step. The driver is a toy after ka_engine.c, or after transport.pxi, whose loop pushes bytes; reads are blocks
 * of their own, so that AddressSanitizer sees one that outlives its turn.
 *
 * Checked as it goes: the talks and the table by their own checks, the pool's cap, that a phase says what is in hand, that
 * nothing that could go on stands still, and by answers.h every byte that is sent. At the end the application answers
 * what it has and the clock jumps from deadline to deadline: then all must be closed and given back. */
#include "answers.h"
#include "ka_turn.h"

#define S ((int64_t)1000000000)

enum {
    CONNS = 4,
    SCENES = 32,         /* of a play */
    TEXTS = 48,          /* that all clients send together */
    TURNS = 20,          /* after which reads and writes are no longer cut small: a play is to be short */
    SENDINGS = 64,       /* of a client, that wait in the kernel */
    REQUESTS = 40,       /* that the application answers in kind; after these it refuses */
    FILE_FD = 1000,      /* of the one file there is: the pattern */
    SCRATCH = 64 * 1024,
    TURN_BYTES = 64 * 1024,
    READ_HIGH = 64 * 1024, READ_LOW = 16 * 1024, /* of transport.pxi */
    EXPIRIES = 64,
    ROUNDS = 2000        /* of the end of a play: more, and something goes round in circles */
};

typedef struct world world;
typedef struct conn conn;

/* With TELL=1 in the environment, to see what a finding is about. */
static int tells;
#define TELL(...) (tells ? (void)fprintf(stderr, __VA_ARGS__) : (void)0)

/* The application's side of one request. */
typedef struct {
    world   *w;
    conn    *c;
    ka_talk *talk;
    uint32_t n;           /* which request of its connection */
    size_t   declared;    /* content promised, SIZE_MAX = not */
    size_t   n_collected; /* content that it holds, counted against the budget */
    uint8_t  is_begun, is_gone;
} app;

struct conn {
    ka_handle h;          /* 0: none */
    ka_talk  *talk;
    app      *app;
    char     *block;      /* bytes of the last read, owned */
    size_t    queued, room; /* the kernel's send queue, and how long it may be */
    size_t    piece;      /* bytes that one read gives at most */
    uint32_t  first, n_sendings;
    struct {
        const char *bytes;
        size_t len, at;
        unsigned times;
    } sendings[SENDINGS]; /* what the client sent and nobody read, a ring */
    uint8_t   can_read, can_write, saw_fin, has_fin, is_reset, sent_fin, is_ready, comes_again, is_read_paused, told_fin;
    uint8_t   cause;      /* of one that lingers */
    answers   got;
};

struct world {
    ka_service  service;
    ka_counters counters;
    ka_table   *table;
    int64_t     now;
    const uint8_t *play, *end;
    size_t      turn_bytes;
    uint32_t    n_requests, n_noted, n_turns, n_texts;
    int         n_holds, n_apps;
    uint8_t     pushes;    /* the loop reads, as over transports */
    uint8_t     is_ending; /* the play is over: answer everything */
    uint8_t     reenters;  /* the application acts in release and lost, too */
    uint8_t     is_inside;
    ka_handle   noted[256];
    conn        conns[CONNS];
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

enum { N_TEXTS = sizeof texts / sizeof texts[0] };

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
    ka_pool_let_go(&w->service.pool, a->n_collected);
    w->n_apps--;
    free(a);
}

static void detach(app *a)
{
    a->talk->exchange = NULL;
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
    ptrdiff_t n = ka_talk_read(a->talk, to, choose(a->w, sizes, 4), a->w->now);
    if (n > 0 && ka_pool_hold(&a->w->service.pool, KA_USE_INPUT, (size_t)n) == KA_OK)
        a->n_collected += (size_t)n;
}

static void give_up(app *a)
{
    ka_talk *talk = a->talk;
    asked_at(&a->c->got, a->n)->is_given_up = 1;
    detach(a);
    ka_talk_done(talk);
}

static void refuse(app *a)
{
    ka_talk *talk = a->talk;
    asked *q = asked_at(&a->c->got, a->n);
    int64_t now = a->w->now;
    q->is_given_up = 1;
    detach(a);
    if (ka_talk_refuse(talk, 500, "the application failed", KA_CAUSE_APPLICATION, now) < 0)
        ka_talk_done(talk);
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
    int error = ka_talk_head_begin(talk, status, 200, &at);
    if (error == KA_OK && flags & 4)
        error = ka_talk_head_begin(talk, status, 300, &at); /* thought better of it */
    if (error == KA_OK && flags & 8)
        error = ka_reply_reword(&talk->reply, &at, "So be it", 8);
    if (error == KA_OK)
        error = ka_reply_field(&talk->reply, &at, "x-id", 4, digits, put_number(digits, a->n));
    if (error == KA_OK && flags & 1)
        error = ka_reply_field(&talk->reply, &at, "connection", 10, "close", 5);
    if (error == KA_OK && declares != SIZE_MAX)
        error = ka_reply_field(&talk->reply, &at, "content-length", 14, digits, put_number(digits, declares));
    if (error == KA_OK)
        error = ka_talk_head_end(talk, at, whole, a->w->now);
    if (error == KA_OK) {
        a->is_begun = 1;
        a->declared = whole >= 0 ? (size_t)whole : declares;
        asked_at(&a->c->got, a->n)->is_tunnel = whole == KA_WHOLE_TUNNEL;
    } else if (error != KA_EINVAL) {
        give_up(a);
    }
    return error;
}

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
        error = ka_talk_file(talk, FILE_FD, from - pattern, len, more, pattern);
    } else if (how % 4 == 2 && len) {
        char *own = malloc(len);
        memcpy(own, from, len);
        w->n_holds++;
        error = ka_talk_content(talk, own, len, more, own);
    } else if (how % 4 == 1) {
        w->n_holds++;
        error = ka_talk_content(talk, from, len, more, pattern);
    } else {
        error = ka_talk_content(talk, from, len, more, NULL);
    }
    if (error < 0)
        q->is_given_up = 1;
    else if (c->app && c->app->n == n && more && talk->unsent > KA_OUT_HIGH)
        talk->is_held = 1; /* and writes nothing until it is told to go on */
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
    if (ka_talk_trailers(talk, "x-t: 1\r\n", 8) < 0)
        q->is_given_up = 1;
}

static void send_hints(app *a)
{
    static const char hints[] = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    asked *q = asked_at(&a->c->got, a->n);
    if (q->minor > 0 && ka_talk_interim(a->talk, hints, sizeof hints - 1) == KA_OK)
        q->has_hints++;
}

/* The next thing that the application does with a request it has. */
static void act(app *a)
{
    unsigned what = next_byte(a->w), flags = next_byte(a->w);
    size_t declares = choose(a->w, sizes_of_content, 8);
    TELL("  request %u of %d acts: %u flags %u\n", a->n, (int)(a->c - a->w->conns), what % 12, flags);
    if (a->talk->has_response)
        MUST(ka_talk_content(a->talk, pattern, declares, flags & 1, NULL) == KA_EINVAL, "content behind the end is taken");
    if (a->talk->is_held || a->talk->has_response)
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
        if (a->talk->unsent) { /* until all is sent, as for a socket that is to be given away */
            a->talk->is_held = a->talk->awaits_empty = 1;
            a->w->service.attend(a->w, a->talk);
        }
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

static void classify(void *port, ka_talk *talk, const ka_head *head)
{
    conn *c = conn_of(port, talk->conn);
    MUST(c->got.n_asked - c->got.n_answered < ASKED - 1, "too many requests are unanswered");
    *asked_at(&c->got, c->got.n_asked++) = (asked){
        .is_head = (head->flags & KA_HEAD_IS_HEAD) != 0,
        .is_connect = (head->flags & KA_HEAD_IS_CONNECT) != 0,
        .expects = (head->flags & KA_HEAD_EXPECTS_CONTINUE) != 0,
        .minor = head->minor,
    };
}

static void on_request(void *port, ka_talk *talk, const ka_head *head)
{
    world *w = port;
    conn *c = conn_of(w, talk->conn);
    const char *bytes = ka_talk_head_bytes(talk);
    MUST(c->app == NULL && talk->exchange == NULL, "a request while another is with the application");
    MUST(bytes[head->nbytes - 1] == '\n', "the head is not where it was said to be");
    MUST(c->got.n_asked > 0 && !asked_at(&c->got, c->got.n_asked - 1)->is_handed, "a request is handed over twice");
    app *a = malloc(sizeof *a);
    *a = (app){.w = w, .c = c, .talk = talk, .n = c->got.n_asked - 1, .declared = SIZE_MAX};
    TELL("  request %u of %d\n", a->n, (int)(c - w->conns));
    asked_at(&c->got, a->n)->is_handed = 1;
    w->n_apps++;
    c->app = a;
    talk->exchange = a;
    if (w->is_ending)
        finish(a);
    else if (++w->n_requests > REQUESTS)
        refuse(a);
    else
        for (unsigned n = next_byte(w) % 4; n && c->app == a; n--)
            act(a);
}

static void on_news(void *port, ka_talk *talk, ka_news news)
{
    world *w = port;
    conn *c = conn_of(w, talk->conn);
    MUST(talk->has_exchange, "news of nothing");
    if (c->app == NULL)
        return;
    app *a = c->app;
    if (news == KA_NEWS_BODY)
        collect(a);
    if (c->app == a && !talk->is_held && !talk->has_response)
        w->is_ending ? finish(a) : act(a);
}

/* --- the driver --- */

/* Nothing more is sent: is what the client has whole? */
static void judge(conn *c, ka_cause cause, int is_reset)
{
    int is_forced = cause == KA_CAUSE_SEND_TIMEOUT || cause == KA_CAUSE_SEND_RATE || cause == KA_CAUSE_BUFFER_LIMIT ||
                    cause == KA_CAUSE_ERROR || cause == KA_CAUSE_DRAIN || cause == KA_CAUSE_HANDLER_TIMEOUT ||
                    cause == KA_CAUSE_BODY_TIMEOUT || cause == KA_CAUSE_BODY_RATE || cause == KA_CAUSE_BAD_REQUEST;
    answers_end(&c->got, is_reset, is_forced);
}

static ka_turned end(world *w, conn *c, ka_cause cause)
{
    ka_talk *talk = c->talk;
    TELL("  %d ends: %s\n", (int)(c - w->conns), ka_cause_name(cause));
    if (!c->sent_fin)
        judge(c, cause, c->is_reset || (talk && ka_talk_end_would_lie(talk)));
    MUST(ka_conn_close(w->table, c->h, cause) == KA_OK, "a connection is not in the table");
    c->h = 0;
    c->talk = NULL;
    free(c->block);
    c->block = NULL;
    if (talk)
        ka_talk_free(talk);
    return KA_TURN_ENDED;
}

static void move_end(void *port, void *peer, ka_talk *talk, ka_cause cause)
{
    conn *c = peer;
    MUST(c->talk == talk, "another connection's talk is ended");
    end(port, c, cause);
}

static void discard(world *w, conn *c)
{
    char to[512];
    ka_cause ignored;
    size_t n;
    while ((n = take(c, to, sizeof to)) > 0) {
        (void)ka_conn_crossed(w->table, c->h);
        if (ka_conn_progress(w->table, c->h, n, w->now, &ignored) == KA_ESLOW) {
            end(w, c, (ka_cause)c->cause);
            return;
        }
    }
    if (c->has_fin)
        end(w, c, (ka_cause)c->cause);
}

static void half_close(world *w, conn *c, ka_cause cause)
{
    ka_talk *talk = c->talk;
    if (ka_conn_event(w->table, c->h, KA_EV_LINGERING, w->now) < 0) {
        end(w, c, cause);
        return;
    }
    c->sent_fin = 1;
    judge(c, cause, 0);
    c->cause = (uint8_t)cause;
    c->talk = NULL;
    if (talk)
        ka_talk_free(talk);
    discard(w, c);
}

static void move_half_close(void *port, void *peer, ka_talk *talk, ka_cause cause)
{
    MUST(talk->unsent == 0, "FIN before what is to be sent");
    half_close(port, peer, cause);
}

static const ka_moves moves;

/* As `receive` of the engine. Return n > 0; 0 at FIN; KA_PARTIAL; KA_ENOMEM. */
static ptrdiff_t receive(world *w, conn *c)
{
    ka_talk *talk = c->talk;
    size_t room = SCRATCH;
    char *to = NULL;
    (void)w;
    if (talk->window_len == 0)
        (void)ka_talk_park(talk);
    else if ((to = ka_talk_room(talk, 4096, &room)) == NULL)
        return KA_ENOMEM;
    if (room > c->piece)
        room = c->piece;
    if (c->n_sendings == 0) {
        c->can_read = 0;
        return c->has_fin ? 0 : KA_PARTIAL;
    }
    if (to) {
        size_t n = take(c, to, room);
        ka_talk_filled(talk, n);
        return (ptrdiff_t)n;
    }
    static char from[SCRATCH];
    size_t n = take(c, from, room);
    free(c->block);
    c->block = malloc(n);
    memcpy(c->block, from, n);
    ka_talk_arrived(talk, c->block, n);
    return (ptrdiff_t)n;
}

static ka_turned move_read(void *port, void *peer, ka_talk *talk)
{
    world *w = port;
    conn *c = peer;
    if (w->pushes || !c->can_read)
        return KA_TURN_PAUSE; /* it comes when it comes */
    if (w->turn_bytes >= TURN_BYTES) {
        c->comes_again = 1;
        return KA_TURN_PAUSE;
    }
    ptrdiff_t n = receive(w, c);
    if (n == KA_PARTIAL)
        return KA_TURN_PAUSE;
    if (n < 0)
        return end(w, c, KA_CAUSE_BUFFER_LIMIT);
    if (n == 0) {
        c->told_fin = 1;
        ka_turn_eof(&moves, w, talk);
        return KA_TURN_ON;
    }
    w->turn_bytes += (size_t)n;
    return ka_turn_arrived(&moves, w, c, talk, (size_t)n, w->now);
}

static void move_look_for_fin(void *port, void *peer, ka_talk *talk)
{
    world *w = port;
    conn *c = peer;
    ptrdiff_t n = 1;
    if (w->pushes || !c->saw_fin || !ka_talk_body_is_over(talk))
        return;
    while (n > 0 && c->can_read && talk->window_len < SCRATCH)
        n = receive(w, c);
    if (n == 0) {
        c->told_fin = 1;
        ka_turn_eof(&moves, w, talk);
    }
}

static ka_cause move_flush(void *port, void *peer, ka_talk *talk)
{
    world *w = port;
    conn *c = peer;
    size_t total = 0;
    while (talk->unsent && c->can_write) {
        size_t n = 0;
        MUST(!c->sent_fin, "bytes behind our FIN");
        if (c->queued >= c->room) {
            c->can_write = 0;
            break;
        }
        const ka_buf *buf = talk->out;
        for (; buf && c->queued < c->room && n < 2000; buf = buf->next) {
            const char *from = buf->fd >= 0 ? pattern + buf->file_off + (int64_t)buf->start : buf->ptr + buf->start;
            size_t len = ka_buf_len(buf);
            MUST(buf->fd < 0 || buf->fd == FILE_FD, "another file");
            if (len > c->room - c->queued)
                len = c->room - c->queued;
            answers_read(&c->got, from, len);
            c->queued += len;
            n += len;
        }
        total += n;
        TELL("  %d is sent %zu of %zu\n", (int)(c - w->conns), n, talk->unsent);
        ka_talk_sent(talk, n);
    }
    if (total == 0)
        return KA_N_CAUSES;
    talk->outq = (int32_t)c->queued;
    return ka_turn_left(&moves, w, talk, total, w->now);
}

static int move_can_read(void *port, void *peer)
{
    const conn *c = peer;
    return ((world *)port)->pushes ? c->is_read_paused : c->can_read;
}

static int move_has_unread(void *port, void *peer, ka_talk *talk)
{
    (void)talk;
    return move_can_read(port, peer);
}

static int move_can_send(void *port, void *peer)
{
    (void)port;
    return ((const conn *)peer)->can_write;
}

static void move_settled(void *port, void *peer, ka_talk *talk)
{
    (void)port;
    MUST(talk->unsent == 0 && talk->window_len == 0 && talk->exchange == NULL, "a talk with something pending is given up");
    ((conn *)peer)->talk = NULL;
}

static void move_again(void *port, void *peer, ka_talk *talk)
{
    (void)port;
    (void)talk;
    ((conn *)peer)->comes_again = 1;
}

static const ka_moves moves = {
    .on_request = on_request,       .on_news = on_news,         .read = move_read,
    .flush = move_flush,            .can_read = move_can_read,  .has_unread = move_has_unread,
    .look_for_fin = move_look_for_fin, .can_send = move_can_send, .settled = move_settled,
    .end = move_end,                .half_close = move_half_close, .again = move_again,
};

/* After every turn: what the phase says, and what the talk has. */
static void check_one(world *w, conn *c)
{
    if (c->h == 0)
        return;
    const ka_talk *talk = c->talk;
    int phase = ka_conn_phase(w->table, c->h);
    TELL("  %d: %s, window %zu, unsent %zu\n", (int)(c - w->conns), ka_phase_name((unsigned)phase),
         talk ? talk->window_len : 0, talk ? talk->unsent : 0);
    MUST(phase >= 0, "a connection is gone from the table");
    if (talk == NULL) {
        MUST(phase == KA_NEW || phase == KA_IDLE || phase == KA_LINGER, "a phase without a talk");
        return;
    }
    MUST(ka_pool_used(&w->service.pool) <= w->service.pool.max_bytes, "the pool is over its cap");
    int is_idle = phase == KA_NEW || phase == KA_IDLE;
    int is_stray = talk->window_len <= 2 && same(talk->window, "\r\n", talk->window_len);
    if (is_idle && !talk->is_last) {
        MUST(!talk->has_exchange || talk->has_response, "idle with a request");
        MUST(talk->window_len == 0 || is_stray, "idle with a part of a request in hand");
        MUST(talk->unsent == 0, "idle with something to send");
    }
    MUST(phase != KA_BODY || talk->wants_body || talk->is_draining || talk->has_response, "a wait for content that nobody wants");
    MUST(phase != KA_TUNNEL || talk->is_tunnel, "a tunnel that is none");
}

static void turn(world *w, conn *c)
{
    if (c->h == 0)
        return;
    if (c->talk == NULL && (c->talk = ka_talk_new(&w->service, c->h)) == NULL) {
        end(w, c, KA_CAUSE_BUFFER_LIMIT);
        return;
    }
    w->turn_bytes = 0;
    if (w->n_turns++ >= TURNS)
        c->piece = SCRATCH;
    ka_turn(&moves, w, c, c->talk, w->now);
    free(c->block);
    c->block = NULL;
    check_one(w, c);
}

/* As TransportProtocol.take, fin and steer_reading. */
static void push(world *w, conn *c)
{
    static char from[SCRATCH];
    while (c->h && !c->is_read_paused && !c->sent_fin && (c->n_sendings || (c->has_fin && !c->told_fin))) {
        size_t n = take(c, from, c->piece), room;
        if (n == 0) {
            c->told_fin = 1;
            if (c->talk == NULL) {
                end(w, c, KA_CAUSE_CLIENT);
                return;
            }
            ka_turn_eof(&moves, w, c->talk);
            turn(w, c);
            return;
        }
        if (c->talk == NULL && (c->talk = ka_talk_new(&w->service, c->h)) == NULL) {
            end(w, c, KA_CAUSE_BUFFER_LIMIT);
            return;
        }
        if (c->talk->window_len == 0) {
            (void)ka_talk_park(c->talk);
            c->block = malloc(n);
            memcpy(c->block, from, n);
            ka_talk_arrived(c->talk, c->block, n);
        } else {
            char *to = ka_talk_room(c->talk, n, &room);
            if (to == NULL) {
                end(w, c, KA_CAUSE_BUFFER_LIMIT);
                return;
            }
            memcpy(to, from, n);
            ka_talk_filled(c->talk, n);
        }
        if (ka_turn_arrived(&moves, w, c, c->talk, n, w->now) == KA_TURN_ON)
            turn(w, c);
    }
}

static void steer_reading(world *w, conn *c)
{
    size_t waiting = c->talk ? c->talk->window_len : 0;
    if (!w->pushes || c->h == 0)
        return;
    if (waiting > READ_HIGH)
        c->is_read_paused = 1;
    else if (c->is_read_paused && waiting <= READ_LOW)
        c->is_read_paused = 0, c->is_ready = 1;
}

static void on_event(world *w, conn *c)
{
    int phase = ka_conn_phase(w->table, c->h), has_input = c->n_sendings || c->has_fin, comes_again = c->comes_again;
    c->is_ready = c->comes_again = 0;
    if (c->is_reset) {
        end(w, c, phase == KA_LINGER ? (ka_cause)c->cause : ka_turn_broken(phase));
        return;
    }
    c->can_read |= has_input;
    c->saw_fin |= c->has_fin;
    c->can_write |= c->queued < c->room;
    if (phase == KA_LINGER) {
        discard(w, c);
    } else if (w->pushes) {
        if (c->talk && (c->can_write || comes_again))
            turn(w, c);
        push(w, c);
    } else if (c->talk || c->can_read) {
        turn(w, c);
    }
    steer_reading(w, c);
}

static void note(void *port, ka_talk *talk)
{
    world *w = port;
    if (talk->is_noted || w->n_noted == sizeof w->noted / sizeof w->noted[0])
        return;
    talk->is_noted = 1;
    w->noted[w->n_noted++] = talk->conn;
}

static void attend(world *w)
{
    for (uint32_t i = 0; i < w->n_noted; i++) {
        if (ka_conn_phase(w->table, w->noted[i]) < 0)
            continue;
        conn *c = conn_of(w, w->noted[i]);
        if (c->talk == NULL || !c->talk->is_noted)
            continue;
        w->turn_bytes = 0;
        ka_turn_attend(&moves, w, c, c->talk, w->now);
        free(c->block);
        c->block = NULL;
        check_one(w, c);
        steer_reading(w, c);
    }
    w->n_noted = 0;
}

/* As ka_sock_look. */
static void look(world *w, conn *c)
{
    int phase = ka_conn_phase(w->table, c->h);
    if (c->is_reset || w->pushes)
        return;
    if (phase == KA_NEW || phase == KA_IDLE || phase == KA_HEAD || phase == KA_BODY) {
        c->can_read = 1;
        turn(w, c);
    } else if (phase == KA_WRITE && c->talk) {
        c->can_write = 1;
        turn(w, c);
        if (c->h && c->talk) {
            ka_cause cause = ka_turn_queued(c->talk, (int)c->queued, w->now);
            if (cause != KA_N_CAUSES)
                end(w, c, cause);
        }
    } else if (c->talk && c->talk->is_noted) {
        attend(w);
    }
}

static void expire(world *w)
{
    for (int i = 0; i < EXPIRIES; i++) {
        ka_handle h, still;
        ka_cause cause;
        ka_action action = ka_conn_due(w->table, w->now, &h, &cause);
        if (action == KA_DO_NOTHING)
            return;
        conn *c = conn_of(w, h);
        look(w, c);
        action = ka_conn_due(w->table, w->now, &still, &cause);
        if (action == KA_DO_NOTHING || still != h)
            continue;
        if (ka_turn_answers_late(c->talk, action, cause, w->now)) {
            turn(w, c);
            continue;
        }
        if (c->talk && action != KA_DO_HALF_CLOSE)
            c->talk->cause = (uint8_t)cause;
        if (action == KA_DO_HALF_CLOSE)
            half_close(w, c, cause);
        else
            end(w, c, ka_conn_phase(w->table, h) == KA_LINGER ? (ka_cause)c->cause : cause);
    }
}

/* Nothing is ready: then nothing that could go on may stand still, whatever the clock does. */
static void check_quiet(world *w)
{
    for (int i = 0; i < CONNS; i++) {
        conn *c = &w->conns[i];
        if (c->is_ready || c->comes_again || c->h == 0)
            continue;
        int phase = ka_conn_phase(w->table, c->h), has_input = c->n_sendings || (c->has_fin && !c->told_fin);
        if (phase == KA_NEW || phase == KA_IDLE || phase == KA_HEAD || phase == KA_BODY)
            MUST(!has_input, "input waits, and nobody reads it");
        if (c->talk && phase != KA_LINGER) {
            /* A head waits for the first of its content. */
            int is_head_alone = c->app && c->app->is_begun && asked_at(&c->got, c->app->n)->n_written == 0;
            MUST(c->talk->unsent == 0 || c->queued >= c->room || is_head_alone, "output waits, and nobody sends it");
            MUST(!c->talk->is_noted, "a talk is noted, and nobody attends to it");
            MUST(!c->talk->has_response || c->queued >= c->room, "an exchange is over, and nobody ends it");
        }
    }
}

static void step(world *w)
{
    for (int i = 0; i < CONNS; i++) {
        conn *c = &w->conns[i];
        if (c->h && (c->is_ready || c->comes_again))
            on_event(w, c);
    }
    expire(w);
    for (int i = 0; i < EXPIRIES; i++) {
        ka_handle h = ka_turn_sheds(&w->service);
        if (h == 0)
            break;
        end(w, conn_of(w, h), KA_CAUSE_BUFFER_LIMIT);
    }
    attend(w);
    check_quiet(w);
}

/* --- memory of the table --- */

/* ka_table.c is built with these in place of aligned_alloc and free: its parts are so large that AddressSanitizer would
 * map and unmap them with each play, which costs more than the play. They are kept for the next one. */
void *kept_alloc(size_t alignment, size_t nbytes);
void  kept_free(void *block);

static struct {
    void  *block;
    size_t nbytes;
    int    is_taken;
} kept[8];

enum { N_KEPT = sizeof kept / sizeof kept[0] };

void *kept_alloc(size_t alignment, size_t nbytes)
{
    for (int i = 0; i < N_KEPT; i++) {
        if (kept[i].is_taken || (kept[i].block && kept[i].nbytes != nbytes))
            continue;
        if (kept[i].block == NULL)
            kept[i].block = aligned_alloc(alignment, kept[i].nbytes = nbytes);
        kept[i].is_taken = 1;
        return kept[i].block;
    }
    return NULL;
}

void kept_free(void *block)
{
    for (int i = 0; i < N_KEPT; i++)
        if (block && kept[i].block == block) {
            kept[i].is_taken = 0;
            return;
        }
    free(block);
}

/* --- a play --- */

static void open_one(world *w, conn *c)
{
    static const size_t rooms[] = {1 << 20, 1 << 20, 1, 100, 3000, 65536}, pieces[] = {SCRATCH, SCRATCH, 1, 50, 1500};
    ka_client client = {.family = 4, .addr = {10, 0, 0, (uint8_t)(next_byte(w) % 2)}};
    int got = ka_conn_open(w->table, w->now, 0, &client, 0, &c->h);
    if (got == KA_EFULL) {
        ka_handle h = ka_conn_victim(w->table, w->now);
        if (h == 0)
            return;
        conn *victim = conn_of(w, h);
        look(w, victim);
        if (ka_conn_victim(w->table, w->now) == h)
            end(w, victim, KA_CAUSE_EVICTED);
        got = ka_conn_open(w->table, w->now, 0, &client, 0, &c->h);
    }
    if (got != KA_OK) {
        c->h = 0;
        return;
    }
    ka_handle h = c->h;
    memset(c, 0, offsetof(conn, got));
    c->h = h;
    c->room = choose(w, rooms, sizeof rooms / sizeof rooms[0]);
    c->piece = choose(w, pieces, sizeof pieces / sizeof pieces[0]);
    c->can_write = 1;
    answers_begin(&c->got);
}

static void client_takes(conn *c, size_t n)
{
    c->queued -= n < c->queued ? n : c->queued;
    c->is_ready = 1;
}

static void drain(world *w)
{
    ka_conn_drain(w->table, w->now, S, S, 30 * S);
    for (int i = 0; i < CONNS; i++) {
        ka_talk *talk = w->conns[i].h ? w->conns[i].talk : NULL;
        if (talk && talk->is_tunnel && talk->has_exchange)
            on_news(w, talk, KA_NEWS_DRAIN);
    }
}

static void scene(world *w)
{
    static const size_t takings[] = {1, 100, 5000, 1 << 20}, waits[] = {1000000, 1000000000, 6000000000, 40000000000};
    unsigned what = next_byte(w);
    conn *c = &w->conns[what / 16 % CONNS];
    TELL("scene %u (%u) with %d\n", what % 16, what, (int)(c - w->conns));
    if (c->h == 0) {
        open_one(w, c);
        return;
    }
    switch (what % 16) {
    case 0:
    case 1:
    case 2: client_sends(w, c); break;
    case 3:
        client_sends(w, c);
        step(w);
        break;
    case 4:
    case 5: step(w); break;
    case 6: client_takes(c, choose(w, takings, 4)); break;
    case 7:
        if (what & 64)
            c->has_fin = c->is_ready = 1;
        break;
    case 8:
        if (what & 64)
            c->is_reset = c->is_ready = 1;
        break;
    case 9: w->now += (int64_t)choose(w, waits, 4); break;
    case 10:
        if (what >= 0xf0)
            drain(w);
        break;
    case 11:
        if (what >= 0xe0)
            end(w, c, KA_CAUSE_DRAIN); /* as ka_engine_close_all */
        break;
    case 12: attend(w); break;
    default:
        if (c->app)
            act(c->app);
        if (what & 128)
            attend(w);
    }
}

/* The application answers what it has; the client takes everything, or nothing more. All ends. */
static void last_scene(world *w, unsigned how)
{
    w->is_ending = 1;
    TELL("the end, %u\n", how);
    for (int round = 0; ka_table_open_count(w->table); round++) {
        for (int i = 0; round == ROUNDS && i < CONNS; i++)
            if (w->conns[i].h)
                TELL("  %d is %s\n", i, ka_phase_name((unsigned)ka_conn_phase(w->table, w->conns[i].h)));
        MUST(round < ROUNDS, "a connection never ends");
        int is_quiet = 1;
        for (int i = 0; i < CONNS; i++) {
            conn *c = &w->conns[i];
            if (c->h == 0)
                continue;
            /* A tunnel's time is its owner's, who may be held back. */
            if (c->queued && (how & 1 || ka_conn_phase(w->table, c->h) == KA_TUNNEL)) {
                client_takes(c, SIZE_MAX);
                c->room = 1 << 30;
            }
            if (how & 2 && !c->has_fin)
                c->has_fin = c->is_ready = 1;
            if (c->app && !c->talk->is_held && !c->talk->has_response)
                finish(c->app);
        }
        step(w);
        for (int i = 0; i < CONNS; i++)
            is_quiet &= w->conns[i].h == 0 || !(w->conns[i].is_ready || w->conns[i].comes_again || w->conns[i].app);
        int64_t due = ka_conn_next_due(w->table);
        if (is_quiet && due != INT64_MAX)
            w->now = due > w->now ? due : w->now;
        else if (round % 16 == 15)
            w->now += S;
    }
    MUST(w->n_apps == 0, "the application has a request of a connection that is gone");
    MUST(w->n_holds == 0, "content is not released");
    MUST(w->service.n_talks == 0, "a talk outlives its connection");
    MUST(w->service.pool.lent_bytes == 0 && w->service.pool.held_bytes == 0, "the pool is owed something");
    uint64_t n_closed = 0;
    for (int i = 0; i < KA_N_CAUSES; i++)
        n_closed += w->counters.closed[i];
    MUST(n_closed == w->counters.accepted, "a connection ended without a cause");
}

static void set_up(world *w)
{
    static const size_t caps[] = {1 << 20, 4096, 16384, 65536, 300000};
    ka_capacity capacity = ka_capacity_default;
    ka_policy policy = ka_policy_default;
    unsigned how = next_byte(w), more = next_byte(w);
    capacity.max_connections = 2 + how % 3;
    policy.max_body_bytes = 1000000;
    policy.timeout_ns[KA_BUSY] = how & 8 ? 10 * S : 0;
    policy.max_requests = how & 16 ? 3 : 0;
    policy.keep_alive = (how & 0xe0) != 0xe0;
    w->pushes = more & 1;
    w->reenters = (more & 2) != 0;
    w->now = 100 * S;
    if (ka_table_new(&w->table, &capacity, 1, &w->counters) != KA_OK ||
        ka_table_set_policy(w->table, 0, &policy) != KA_OK ||
        ka_service_init(&w->service, w->table, &ka_limits_default, caps[more / 8 % 5], release) != KA_OK)
        die("no memory");
    w->service.port = w;
    w->service.attend = note;
    w->service.lost = lost;
    w->service.classify = classify;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static world w;
    const char *broken;
    if (pattern[1] == 0) {
        for (size_t i = 0; i < sizeof pattern; i++)
            pattern[i] = (char)(i % PERIOD);
        memset(block_of_x, 'x', sizeof block_of_x);
        tells = getenv("TELL") != NULL;
    }
    if (size < 3)
        return 0;
    memset(&w, 0, offsetof(world, noted));
    for (int i = 0; i < CONNS; i++)
        w.conns[i].h = 0;
    the_world = &w;
    w.play = data;
    w.end = data + size;
    set_up(&w);
    unsigned how = next_byte(&w);
    for (int i = 0; i < SCENES && w.play < w.end; i++)
        scene(&w);
    if (how & 4 && (broken = ka_table_check(w.table)) != NULL)
        die(broken);
    last_scene(&w, how);
    if (how & 4 && (broken = ka_table_check(w.table)) != NULL)
        die(broken);
    ka_service_free(&w.service);
    ka_table_free(w.table);
    return 0;
}
