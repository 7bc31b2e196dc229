/* fuzz_talk.c: the whole conversation: a few connections, one table and one small pool, in virtual time.
 *
 * libFuzzer target for ka_driver, ka_turn.h, ka_talk, ka_buf, ka_reply, ka_conn and what they stand on. The input is a play:
 * what clients send, take and break off, what the application does with each request, how far the clock goes, when the driver
 * gets its step. The driver reads like the engine's, or its loop pushes bytes like transport_protocol.pxi's; reads are blocks
 * of their own, so that AddressSanitizer sees one that outlives its turn.
 *
 * Checked as it goes: the talks and the table by their own checks, the pool's cap, that a phase says what is in hand, that
 * nothing that could go on stands still, and by answers.h every byte that is sent. At the end the application answers
 * what it has and the clock jumps from deadline to deadline: then all must be closed and given back. */
#include "kept.h"
#include "play.h"

/* --- the driver --- */

static const ka_moves moves;

static world *world_of(ka_driver *d) { return (world *)(void *)d; }

static void *peer_of(ka_driver *d, ka_handle h) { return conn_of(world_of(d), h); }

static ka_talk **talk_of(void *peer) { return &((conn *)peer)->talk; }

/* Nothing more is sent: is what the client has whole? */
static void judge(conn *c, ka_cause cause)
{
    int is_forced = (cause == KA_CAUSE_EVICTED && (c->phase == KA_WRITE || c->phase == KA_BODY)) || /* by a slow one */
                    cause == KA_CAUSE_SEND_TIMEOUT || cause == KA_CAUSE_SEND_RATE || cause == KA_CAUSE_BUFFER_LIMIT ||
                    cause == KA_CAUSE_ERROR || cause == KA_CAUSE_DRAIN || cause == KA_CAUSE_HANDLER_TIMEOUT ||
                    cause == KA_CAUSE_BODY_TIMEOUT || cause == KA_CAUSE_BODY_RATE || cause == KA_CAUSE_BAD_REQUEST;
    answers_end(&c->got, c->lies, is_forced);
}

static void shut(ka_driver *d, ka_handle h, void *peer)
{
    conn *c = peer;
    c->phase = (uint8_t)ka_conn_phase(d->service.table, h);
    c->lies = c->is_reset || (c->talk && ka_talk_needs_reset(c->talk));
}

static void close_conn(ka_driver *d, ka_handle h, void *peer, ka_cause cause, ka_how how)
{
    conn *c = peer;
    TELL("  %d ends: %s\n", (int)(c - world_of(d)->conns), ka_cause_name(cause));
    MUST(c->h == h && c->talk == NULL, "another connection is closed, or one with a talk");
    MUST(how != KA_CLOSE || c->sent_fin || !c->lies || c->is_reset, "a response that is cut off looks whole");
    if (!c->sent_fin)
        judge(c, cause);
    c->h = 0;
    free(c->block);
    c->block = NULL;
}

static void discard(world *w, conn *c)
{
    char to[512];
    size_t n;
    while ((n = take(c, to, sizeof to)) > 0)
        if (!ka_driver_discarded(&w->d, c->h, c, n, 0))
            return;
    if (c->has_fin)
        (void)ka_driver_discarded(&w->d, c->h, c, 0, 0);
}

static int send_fin(ka_driver *d, ka_handle h, void *peer)
{
    const conn *c = peer;
    (void)d;
    (void)h;
    MUST(c->talk == NULL || c->talk->unsent == 0, "FIN before what is to be sent");
    return 0;
}

static void linger(ka_driver *d, ka_handle h, void *peer)
{
    conn *c = peer;
    c->sent_fin = 1;
    c->lies = 0;
    judge(c, ka_conn_ending(d->service.table, h));
    discard(world_of(d), c);
}

static ptrdiff_t receive(ka_driver *d, void *peer, ka_talk *talk)
{
    static char from[SCRATCH];
    conn *c = peer;
    size_t room = SCRATCH;
    MUST(!world_of(d)->pushes, "a loop's transport is read");
    MUST(ka_talk_appetite(talk), "bytes are asked for, and none may be taken");
    char *to = ka_turn_room(d, talk, from, &room);
    if (to == NULL)
        return KA_ENOMEM;
    if (c->n_sendings == 0) {
        c->can_read = 0;
        c->told_fin = c->has_fin;
        return c->has_fin ? 0 : KA_PARTIAL;
    }
    size_t n = take(c, to, room < c->piece ? room : c->piece);
    if (to == from) {
        free(c->block);
        c->block = memcpy(malloc(n), from, n);
        ka_turn_took(talk, c->block, c->block, n);
    } else {
        ka_turn_took(talk, from, to, n);
    }
    d->turn_bytes += n;
    return (ptrdiff_t)n;
}

static int saw_fin(ka_driver *d, void *peer, ka_talk *talk)
{
    (void)talk;
    return !world_of(d)->pushes && ((const conn *)peer)->saw_fin;
}

static ka_cause flush(ka_driver *d, void *peer, ka_talk *talk)
{
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
        TELL("  %d is sent %zu of %zu\n", (int)(c - world_of(d)->conns), n, talk->unsent);
        ka_talk_sent(talk, n);
    }
    if (total == 0)
        return KA_CAUSE_NONE;
    talk->outq = (int32_t)c->queued;
    return ka_turn_left(d, talk, total);
}

static int can_read(ka_driver *d, void *peer) { return !world_of(d)->pushes && ((const conn *)peer)->can_read; }

static int has_unread(ka_driver *d, void *peer, ka_talk *talk)
{
    (void)talk;
    return world_of(d)->pushes ? ((const conn *)peer)->is_read_paused : can_read(d, peer);
}

static int can_send(ka_driver *d, void *peer)
{
    (void)d;
    return ((const conn *)peer)->can_write;
}

static int queued(ka_driver *d, void *peer)
{
    (void)d;
    return (int)((const conn *)peer)->queued;
}

static void again(ka_driver *d, ka_handle h, void *peer)
{
    (void)d;
    (void)h;
    ((conn *)peer)->is_ready = 1;
}

static void wake(ka_driver *d) { (void)d; } /* a step comes anyhow */

static void push_now(world *w, conn *c, ka_talk *talk)
{
    if (c->talk == talk)
        ka_turn_push(&moves, &w->d, c, talk);
}

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
    MUST(ka_pool_used(&w->d.service.pool) <= w->d.service.pool.max_bytes, "the pool is over its cap");
    int is_idle = phase == KA_NEW || phase == KA_IDLE;
    int is_stray = talk->window_len <= 2 && same(talk->window, "\r\n", talk->window_len);
    if (is_idle && talk->persistence == KA_PERSISTS) {
        MUST(!ka_exchange_is_open(&talk->exchange) || ka_exchange_is_over(&talk->exchange), "idle with a request");
        MUST(talk->window_len == 0 || is_stray, "idle with a part of a request in hand");
        MUST(talk->unsent == 0, "idle with something to send");
    }
    MUST(phase != KA_BODY || talk->exchange.wants_body || talk->exchange.reading == KA_READING_DISCARD ||
             ka_exchange_is_over(&talk->exchange),
         "a wait for content that nobody wants");
    MUST(phase != KA_TUNNEL || ka_exchange_is_tunnel(&talk->exchange), "a tunnel that is none");
}

static void steer_reading(world *w, conn *c)
{
    if (!w->pushes || c->h == 0)
        return;
    size_t appetite = c->talk ? ka_talk_appetite(c->talk) : KA_READ_AHEAD;
    if (appetite == 0)
        c->is_read_paused = 1;
    else if (c->is_read_paused && appetite >= KA_READ_BEHIND)
        c->is_read_paused = 0, c->is_ready = 1;
}

static void after_turn(world *w, conn *c)
{
    free(c->block);
    c->block = NULL;
    check_one(w, c);
    steer_reading(w, c);
}

static void turn(ka_driver *d, ka_handle h, void *peer)
{
    world *w = world_of(d);
    conn *c = peer;
    if (w->pushes && c->talk == NULL)
        return;
    if (w->n_turns++ >= TURNS)
        c->piece = SCRATCH;
    ka_turn_begin(&moves, d, h, c);
    after_turn(w, c);
}

static void attend(ka_driver *d, ka_handle h, void *peer)
{
    conn *c = peer;
    (void)h;
    d->turn_bytes = 0;
    ka_turn_attend(&moves, d, c, c->talk);
    after_turn(world_of(d), c);
}

/* As TransportProtocol.take and fin: the loop reads. */
static void push(world *w, conn *c)
{
    static char from[SCRATCH];
    while (c->h && !c->is_read_paused && !c->sent_fin && (c->n_sendings || (c->has_fin && !c->told_fin))) {
        size_t appetite = c->talk ? ka_talk_appetite(c->talk) : KA_READ_AHEAD, room;
        appetite = appetite == 0 ? 1 : appetite < c->piece ? appetite : c->piece;
        size_t n = take(c, from, appetite);
        if (n == 0) {
            c->told_fin = 1;
            if (c->talk == NULL) {
                ka_driver_end(&w->d, c->h, c, KA_CAUSE_CLIENT);
                return;
            }
            ka_turn_eof(&w->d, c->talk);
            turn(&w->d, c->h, c);
            return;
        }
        if (!ka_turn_has_talk(&moves, &w->d, c->h, c))
            return;
        if (c->talk->window_len == 0) {
            (void)ka_talk_park(c->talk);
            c->block = memcpy(malloc(n), from, n);
            ka_talk_arrived(c->talk, c->block, n);
        } else {
            char *to = ka_driver_room_behind(&w->d, c->talk, n, &room);
            if (to == NULL) {
                ka_driver_end(&w->d, c->h, c, KA_CAUSE_BUFFER_LIMIT);
                return;
            }
            memcpy(to, from, n);
            ka_talk_filled(c->talk, n);
        }
        if (ka_turn_arrived(&w->d, c, c->talk, n) == KA_TURN_ON)
            turn(&w->d, c->h, c);
    }
}

static void on_event(world *w, conn *c)
{
    int phase = ka_conn_phase(w->table, c->h), has_input = c->n_sendings || c->has_fin;
    c->is_ready = 0;
    if (c->is_reset) {
        if (phase == KA_LINGER)
            (void)ka_driver_discarded(&w->d, c->h, c, 0, 0);
        else
            ka_driver_end(&w->d, c->h, c, ka_turn_broken(phase));
        return;
    }
    c->can_read = c->can_read || has_input;
    c->saw_fin |= c->has_fin;
    c->can_write |= c->queued < c->room;
    if (phase == KA_LINGER) {
        discard(w, c);
    } else if (w->pushes) {
        if (c->talk && c->can_write)
            turn(&w->d, c->h, c);
        push(w, c);
    } else if (c->talk || c->can_read) {
        turn(&w->d, c->h, c);
    }
    steer_reading(w, c);
}

static void look(ka_driver *d, ka_handle h, void *peer, int phase)
{
    world *w = world_of(d);
    conn *c = peer;
    if (c->is_reset)
        return;
    if (phase == KA_WRITE)
        c->can_write = 1;
    else
        c->can_read = 1;
    if (w->pushes && phase != KA_WRITE)
        push(w, c);
    else
        turn(d, h, c);
}

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
    .shut = shut,
    .send_fin = send_fin,
    .linger = linger,
    .close = close_conn,
    .wake = wake,
};

static int comes_again(const conn *c) { return c->talk && c->talk->is_later; }

/* Nothing is ready: then nothing that could go on may stand still, whatever the clock does. */
static void check_quiet(world *w)
{
    for (int i = 0; i < CONNS; i++) {
        conn *c = &w->conns[i];
        if (c->is_ready || comes_again(c) || c->h == 0)
            continue;
        int phase = ka_conn_phase(w->table, c->h), has_input = c->n_sendings || (c->has_fin && !c->told_fin);
        if (phase == KA_NEW || phase == KA_IDLE || phase == KA_HEAD || phase == KA_BODY)
            MUST(!has_input, "input waits, and nobody reads it");
        if (c->talk && phase != KA_LINGER) {
            /* A head waits for the first of its content. */
            int is_head_alone = c->app && c->app->is_begun && asked_at(&c->got, c->app->n)->n_written == 0;
            MUST(c->talk->unsent == 0 || c->queued >= c->room || is_head_alone, "output waits, and nobody sends it");
            MUST(!c->talk->is_noted, "a talk is noted, and nobody attends to it");
            MUST(!ka_exchange_is_over(&c->talk->exchange) || c->queued >= c->room,
                 "an exchange is over, and nobody ends it");
        }
    }
}

static void step(world *w)
{
    uint32_t n_later = w->d.service.lists[KA_LATER].n;
    for (int i = 0; i < CONNS; i++) {
        conn *c = &w->conns[i];
        if (c->h && c->is_ready)
            on_event(w, c);
    }
    ka_driver_take_turns(&w->d, n_later);
    ka_driver_expire(&w->d);
    ka_driver_relieve(&w->d);
    ka_driver_attend(&w->d);
    check_quiet(w);
}

/* --- a play --- */

static void open_one(world *w, conn *c)
{
    static const size_t rooms[] = {1 << 20, 1 << 20, 1, 100, 3000, 65536}, pieces[] = {SCRATCH, SCRATCH, 1, 50, 1500};
    ka_client client = {.family = 4, .addr = {10, 0, 0, (uint8_t)(next_byte(w) % 2)}};
    int got = ka_driver_open(&w->d, 0, &client, 0, &c->h);
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
    case 9: w->d.now += (int64_t)choose(w, waits, 4); break;
    case 10:
        if (what >= 0xf0)
            ka_driver_drain(&w->d, S, S, 30 * S);
        break;
    case 11:
        if (what >= 0xe0)
            ka_driver_close(&w->d, c->h, KA_CAUSE_DRAIN);
        break;
    case 12: ka_driver_attend(&w->d); break;
    default:
        if (c->app)
            act(c->app);
        if (what & 128)
            ka_driver_attend(&w->d);
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
            if (c->app && c->talk->exchange.hold == KA_HOLD_NOT && !ka_exchange_is_over(&c->talk->exchange))
                finish(c->app);
        }
        step(w);
        for (int i = 0; i < CONNS; i++)
            is_quiet &= w->conns[i].h == 0 || !(w->conns[i].is_ready || comes_again(&w->conns[i]) || w->conns[i].app);
        int64_t due = ka_table_next_due(w->table);
        if (is_quiet && due != INT64_MAX)
            w->d.now = due > w->d.now ? due : w->d.now;
        else if (round % 16 == 15)
            w->d.now += S;
    }
    MUST(w->n_apps == 0, "the application has a request of a connection that is gone");
    MUST(w->n_holds == 0, "content is not released");
    MUST(w->d.service.n_talks == 0, "a talk outlives its connection");
    MUST(w->d.service.pool.lent_bytes == 0 && w->d.service.pool.held_bytes == 0, "the pool is owed something");
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
    const ka_application app = {
        .ctx = w,
        .on_request = on_request,
        .on_news = on_news,
        .on_lost = lost,
        .class_of_request = class_of_request,
        .release = release,
    };
    unsigned how = next_byte(w), more = next_byte(w);
    capacity.max_connections = 2 + how % 3;
    policy.max_body_bytes = 1000000;
    policy.timeout_ns[KA_BUSY] = how & 8 ? 10 * S : 0;
    policy.max_requests = how & 16 ? 3 : 0;
    policy.keep_alive = (how & 0xe0) != 0xe0;
    w->pushes = more & 1;
    w->reenters = (more & 2) != 0;
    w->d.now = 100 * S;
    if (ka_table_new(&w->table, &capacity, 1, &w->counters) != KA_OK ||
        ka_table_set_policy(w->table, 0, &policy) != KA_OK ||
        ka_driver_init(&w->d, w->table, &ka_limits_default, caps[more / 8 % 5], &app, &moves) != KA_OK)
        die("no memory");
    w->d.service.asks_requests = 1;
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
    memset(&w, 0, offsetof(world, conns));
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
    ka_driver_free(&w.d);
    ka_table_free(w.table);
    return 0;
}
