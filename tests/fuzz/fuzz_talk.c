/* fuzz_talk.c: the whole conversation: a few connections, one table and one small pool, in virtual time.
 *
 * libFuzzer target for ka_turn.h, ka_talk, ka_buf, ka_reply, ka_conn and what they stand on. The input is a play: what
 * clients send, take and break off, what the application does with each request, how far the clock goes, when the driver
 * gets its step. The driver is a toy after ka_engine.c, or after transport_protocol.pxi, whose loop pushes bytes; reads are blocks
 * of their own, so that AddressSanitizer sees one that outlives its turn.
 *
 * Checked as it goes: the talks and the table by their own checks, the pool's cap, that a phase says what is in hand, that
 * nothing that could go on stands still, and by answers.h every byte that is sent. At the end the application answers
 * what it has and the clock jumps from deadline to deadline: then all must be closed and given back. */
#include "play.h"

/* --- the driver --- */

/* Nothing more is sent: is what the client has whole? */
static void judge(world *w, conn *c, ka_cause cause, int is_reset)
{
    int phase = ka_conn_phase(w->table, c->h); /* who is served too slowly may be a victim, too */
    int is_forced = (cause == KA_CAUSE_EVICTED && (phase == KA_WRITE || phase == KA_BODY)) ||
                    cause == KA_CAUSE_SEND_TIMEOUT || cause == KA_CAUSE_SEND_RATE || cause == KA_CAUSE_BUFFER_LIMIT ||
                    cause == KA_CAUSE_ERROR || cause == KA_CAUSE_DRAIN || cause == KA_CAUSE_HANDLER_TIMEOUT ||
                    cause == KA_CAUSE_BODY_TIMEOUT || cause == KA_CAUSE_BODY_RATE || cause == KA_CAUSE_BAD_REQUEST;
    answers_end(&c->got, is_reset, is_forced);
}

static ka_turned end(world *w, conn *c, ka_cause cause)
{
    ka_talk *talk = c->talk;
    TELL("  %d ends: %s\n", (int)(c - w->conns), ka_cause_name(cause));
    if (!c->sent_fin)
        judge(w, c, cause, c->is_reset || (talk && ka_talk_needs_reset(talk)));
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
    judge(w, c, cause, 0);
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

static void move_end_of(void *port, ka_handle h, ka_cause cause)
{
    conn *c = conn_of(port, h);
    if (!(c->talk && c->talk->is_driven))
        end(port, c, cause);
}

static char *room_behind(world *w, ka_talk *talk, size_t want, size_t *room)
{
    char *to = ka_talk_room(talk, want, room);
    if (to == NULL) {
        ka_turn_shed(&moves, w, &w->service, talk->conn, talk->window_len + want, KA_SHEDS);
        to = ka_talk_room(talk, want, room);
    }
    return to;
}

/* As `receive` of the engine. Return n > 0; 0 at FIN; KA_PARTIAL; KA_ENOMEM. */
static ptrdiff_t receive(world *w, conn *c)
{
    ka_talk *talk = c->talk;
    size_t room = SCRATCH, appetite = ka_talk_appetite(talk);
    char *to = NULL;
    MUST(appetite, "bytes are asked for, and none may be taken");
    if (talk->window_len == 0)
        (void)ka_talk_park(talk);
    else if ((to = room_behind(w, talk, appetite < KA_READ_BEHIND ? appetite : KA_READ_BEHIND, &room)) == NULL)
        return KA_ENOMEM;
    if (room > appetite)
        room = appetite;
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
    while (n > 0 && c->can_read && ka_talk_appetite(talk))
        n = receive(w, c);
    if (n == 0) {
        c->told_fin = 1;
        ka_turn_eof(&moves, w, talk);
    } else {
        ka_turn_fin(&moves, w, talk);
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
        return KA_CAUSE_NONE;
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
    MUST(talk->unsent == 0 && talk->window_len == 0 && talk->exchange.owner == NULL,
         "a talk with something pending is given up");
    ((conn *)peer)->talk = NULL;
}

static void move_again(void *port, void *peer, ka_talk *talk)
{
    (void)port;
    (void)talk;
    ((conn *)peer)->comes_again = 1;
}

static const ka_moves moves = {
    .on_request = on_request,
    .on_news = on_news,
    .read = move_read,
    .flush = move_flush,
    .can_read = move_can_read,
    .has_unread = move_has_unread,
    .look_for_fin = move_look_for_fin,
    .can_send = move_can_send,
    .settled = move_settled,
    .end = move_end,
    .half_close = move_half_close,
    .again = move_again,
    .end_of = move_end_of,
};

/* As ka_engine_push. */
static void push_now(world *w, conn *c, ka_talk *talk)
{
    if (c->talk == talk)
        ka_turn_push(&moves, w, c, talk);
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
    MUST(ka_pool_used(&w->service.pool) <= w->service.pool.max_bytes, "the pool is over its cap");
    int is_idle = phase == KA_NEW || phase == KA_IDLE;
    int is_stray = talk->window_len <= 2 && same(talk->window, "\r\n", talk->window_len);
    if (is_idle && !talk->is_last) {
        MUST(!ka_exchange_is_open(&talk->exchange) || ka_exchange_is_over(&talk->exchange), "idle with a request");
        MUST(talk->window_len == 0 || is_stray, "idle with a part of a request in hand");
        MUST(talk->unsent == 0, "idle with something to send");
    }
    MUST(phase != KA_BODY || talk->exchange.wants_body || talk->is_draining || ka_exchange_is_over(&talk->exchange),
         "a wait for content that nobody wants");
    MUST(phase != KA_TUNNEL || ka_exchange_is_tunnel(&talk->exchange), "a tunnel that is none");
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

/* As TransportProtocol.take, fin and steer_reading. */
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
            char *to = room_behind(w, c->talk, n, &room);
            if (to == NULL) {
                end(w, c, KA_CAUSE_BUFFER_LIMIT);
                return;
            }
            memcpy(to, from, n);
            ka_talk_filled(c->talk, n);
        }
        if (ka_turn_arrived(&moves, w, c, c->talk, n, w->now) == KA_TURN_ON)
            turn(w, c);
        steer_reading(w, c);
    }
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
            if (cause != KA_CAUSE_NONE)
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
        ka_action action = ka_table_due(w->table, w->now, &h, &cause);
        if (action == KA_DO_NOTHING)
            return;
        conn *c = conn_of(w, h);
        look(w, c);
        action = ka_table_due(w->table, w->now, &still, &cause);
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
            MUST(!ka_exchange_is_over(&c->talk->exchange) || c->queued >= c->room,
                 "an exchange is over, and nobody ends it");
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
    ka_turn_relieve(&moves, w, &w->service);
    attend(w);
    check_quiet(w);
}

/* --- memory of the table --- */

/* The table is built with these in place of aligned_alloc and free: its parts are so large that AddressSanitizer would
 * map and unmap them with each play, which costs more than the play. They are kept for the next one. */
void *kept_alloc(size_t alignment, size_t nbytes);
void kept_free(void *block);

static struct {
    void *block;
    size_t nbytes;
    int is_taken;
} kept[8];

enum {
    N_KEPT = sizeof kept / sizeof kept[0]
};

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
        ka_handle h = ka_table_victim(w->table, w->now);
        if (h == 0)
            return;
        conn *victim = conn_of(w, h);
        look(w, victim);
        if (ka_table_victim(w->table, w->now) == h)
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
    ka_table_drain(w->table, w->now, S, S, 30 * S);
    for (int i = 0; i < CONNS; i++) {
        ka_talk *talk = w->conns[i].h ? w->conns[i].talk : NULL;
        if (talk && ka_exchange_is_tunnel(&talk->exchange) && ka_exchange_is_open(&talk->exchange))
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
            if (c->app && !c->talk->exchange.is_held && !ka_exchange_is_over(&c->talk->exchange))
                finish(c->app);
        }
        step(w);
        for (int i = 0; i < CONNS; i++)
            is_quiet &= w->conns[i].h == 0 || !(w->conns[i].is_ready || w->conns[i].comes_again || w->conns[i].app);
        int64_t due = ka_table_next_due(w->table);
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
