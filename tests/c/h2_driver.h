/* h2_driver.h: connections of HTTP/2 driven by hand, in virtual time and without a socket: whole turns by moves of its own,
 * for tests and for the fuzzer.
 *
 * A `conn` is a client (h2_client.h), both directions of a kernel, and what the application has of it. What the client
 * writes waits in `in` and is handed over in reads of `piece` bytes, each a block of its own, so that AddressSanitizer sees
 * one that outlives its turn; the client takes what the server sends as far as `room` goes. The driver reads like the
 * engine's, or its loop pushes bytes like that over transports. The application is the includer's. */
#ifndef H2_DRIVER_H
#define H2_DRIVER_H

#include "h2_client.h"
#include "talk/ka_turn.h"

#define S ((int64_t)1000000000)

enum {
    CONNS = 3,
    IN_BYTES = 1 << 20,
    SCRATCH = 64 * 1024,
    STEPS = 4000 /* more without the clock, and something goes round in circles */
};

typedef struct world world;
typedef struct {
    ka_handle h; /* 0: none */
    ka_talk *talk;
    char *block;         /* bytes of the last read, owned */
    size_t at_in, n_in;  /* of `in`: read, written */
    size_t piece;        /* bytes that one read gives at most */
    size_t queued, room; /* the kernel's send queue, and how long it may be */
    size_t n_taken;      /* bytes that the server has sent */
    uint8_t can_read, can_write, has_fin, told_fin, sent_fin, is_ready, is_read_paused, is_closed;
    uint8_t keeps_queue; /* what is sent stays in the kernel's queue until the client takes it */
    ka_cause cause;
    ka_how how;
    client client;
    char in[IN_BYTES];
} conn;

struct world {
    ka_driver d;
    ka_counters counters;
    ka_table *table;
    int64_t timer;
    uint8_t pushes; /* the loop reads, as over transports */
    conn conns[CONNS];
};

static const ka_moves h2_moves;

static inline world *world_of(ka_driver *d) { return (world *)(void *)d; }
static inline ka_h2 *h2_of_conn(const conn *c) { return c->talk ? c->talk->h2 : NULL; }

static inline void client_out(void *ctx, const char *bytes, size_t n)
{
    conn *c = ctx;
    if (c->n_in + n > IN_BYTES) {
        memmove(c->in, c->in + c->at_in, c->n_in - c->at_in);
        c->n_in -= c->at_in;
        c->at_in = 0;
    }
    if (c->n_in + n > IN_BYTES || c->has_fin)
        return;
    memcpy(c->in + c->n_in, bytes, n);
    c->n_in += n;
    c->is_ready = 1;
}

static void *h2_peer_of(ka_driver *d, ka_handle h)
{
    for (int i = 0; i < CONNS; i++)
        if (world_of(d)->conns[i].h == h)
            return &world_of(d)->conns[i];
    return NULL;
}
static ka_talk **h2_talk_of(void *peer) { return &((conn *)peer)->talk; }

static void h2_close_conn(ka_driver *d, ka_handle h, void *peer, ka_cause cause, ka_how how)
{
    conn *c = peer;
    (void)d;
    MUST(c->h == h && c->talk == NULL, "another connection is closed, or one with a talk");
    c->cause = cause;
    c->how = how;
    c->h = 0;
    c->is_closed = 1;
    free(c->block);
    c->block = NULL;
}

static size_t h2_take(conn *c, char *to, size_t most)
{
    size_t n = c->n_in - c->at_in < most ? c->n_in - c->at_in : most;
    memcpy(to, c->in + c->at_in, n);
    c->at_in += n;
    if (c->at_in == c->n_in)
        c->at_in = c->n_in = 0;
    return n;
}

static void h2_discard(world *w, conn *c)
{
    char to[512];
    size_t n;
    while ((n = h2_take(c, to, sizeof to)) > 0)
        if (!ka_driver_discarded(&w->d, c->h, c, n, 0))
            return;
    if (c->has_fin)
        (void)ka_driver_discarded(&w->d, c->h, c, 0, 0);
}

static int h2_send_fin(ka_driver *d, ka_handle h, void *peer)
{
    (void)d;
    (void)h;
    (void)peer;
    return 0;
}

static void h2_linger(ka_driver *d, ka_handle h, void *peer)
{
    (void)h;
    ((conn *)peer)->sent_fin = 1;
    h2_discard(world_of(d), peer);
}

static ptrdiff_t h2_receive(ka_driver *d, void *peer, ka_talk *talk)
{
    static char from[SCRATCH];
    conn *c = peer;
    size_t room = SCRATCH;
    MUST(!world_of(d)->pushes, "a loop's transport is read");
    char *to = ka_turn_room(d, talk, from, &room);
    if (to == NULL)
        return KA_ENOMEM;
    MUST(room > 0, "bytes are asked for, and none may be taken");
    if (c->at_in == c->n_in) {
        c->can_read = 0;
        c->told_fin = c->has_fin;
        return c->has_fin ? 0 : KA_PARTIAL;
    }
    size_t n = h2_take(c, to, room < c->piece ? room : c->piece);
    if (to == from) {
        free(c->block);
        CLIENT_ALLOCATES(c->block = malloc(n));
        memcpy(c->block, from, n);
        ka_turn_took(talk, c->block, c->block, n);
    } else {
        ka_turn_took(talk, from, to, n);
    }
    d->turn_bytes += n;
    return (ptrdiff_t)n;
}

static ka_cause h2_flush(ka_driver *d, void *peer, ka_talk *talk)
{
    conn *c = peer;
    size_t total = 0;
    while (talk->unsent && c->can_write && total < KA_TURN_OUTPUT) {
        size_t n = 0;
        MUST(!c->sent_fin, "bytes behind our FIN");
        if (c->queued >= c->room) {
            c->can_write = 0;
            break;
        }
        const ka_buf *buf = talk->out;
        MUST(ka_buf_len(buf), "the first buffer of the output is empty");
        for (; buf && c->queued < c->room; buf = buf->next) {
            size_t len = ka_buf_len(buf);
            MUST(buf->fd < 0, "a file among frames");
            if (len > c->room - c->queued)
                len = c->room - c->queued;
            client_reads(&c->client, buf->ptr + buf->start, len);
            c->queued += len;
            n += len;
        }
        total += n;
        c->n_taken += n;
        if (!c->keeps_queue && c->room > 1 << 20)
            c->queued = 0;
        ka_talk_sent(talk, n);
    }
    if (total == 0)
        return KA_CAUSE_NONE;
    talk->outq = (int32_t)c->queued;
    return ka_turn_left(d, talk, total);
}

static int h2_saw_fin(ka_driver *d, void *peer, ka_talk *talk)
{
    (void)talk;
    return !world_of(d)->pushes && ((const conn *)peer)->has_fin;
}
static int h2_can_read(ka_driver *d, void *peer) { return !world_of(d)->pushes && ((const conn *)peer)->can_read; }
static int h2_has_unread(ka_driver *d, void *peer, ka_talk *talk)
{
    (void)talk;
    return world_of(d)->pushes ? ((const conn *)peer)->is_read_paused : h2_can_read(d, peer);
}
static int h2_can_send(ka_driver *d, void *peer)
{
    (void)d;
    return ((const conn *)peer)->can_write;
}
static int h2_queued(ka_driver *d, void *peer)
{
    (void)d;
    return (int)((const conn *)peer)->queued;
}
static void h2_again(ka_driver *d, ka_handle h, void *peer)
{
    (void)d;
    (void)h;
    ((conn *)peer)->is_ready = 1;
}
static void h2_wake(ka_driver *d) { (void)d; } /* a step comes anyhow */
static int h2_set_timer(ka_driver *d, int64_t at)
{
    world_of(d)->timer = at;
    return 0;
}

static inline void h2_push_now(world *w, conn *c) { ka_turn_push(&h2_moves, &w->d, c, c->talk); }

/* After a turn: what was read is unreadable, and the loop reads on or does not. */
static void h2_after_turn(world *w, conn *c)
{
    free(c->block);
    c->block = NULL;
    if (c->h == 0)
        return;
    MUST(ka_pool_used(&w->d.service.pool) <= w->d.service.pool.max_bytes, "the pool is over its cap");
    if (c->talk) {
        const char *wrong = ka_talk_check(c->talk);
        MUST(wrong == NULL, wrong);
    }
    if (!w->pushes)
        return;
    size_t appetite = c->talk ? ka_talk_appetite(c->talk) : KA_READ_AHEAD;
    if (appetite == 0)
        c->is_read_paused = 1;
    else if (c->is_read_paused && appetite >= KA_READ_BEHIND)
        c->is_read_paused = 0, c->is_ready = 1;
}

static void h2_turn(ka_driver *d, ka_handle h, void *peer)
{
    world *w = world_of(d);
    if (w->pushes && ((conn *)peer)->talk == NULL)
        return;
    ka_turn_begin(&h2_moves, d, h, peer);
    h2_after_turn(w, peer);
}

static void h2_attend(ka_driver *d, ka_handle h, void *peer)
{
    (void)h;
    d->turn_bytes = 0;
    ka_turn_attend(&h2_moves, d, peer, ((conn *)peer)->talk);
    h2_after_turn(world_of(d), peer);
}

/* As TransportProtocol.take and fin: the loop reads. */
static void h2_push(world *w, conn *c)
{
    static char from[SCRATCH];
    while (c->h && !c->is_read_paused && !c->sent_fin && (c->at_in < c->n_in || (c->has_fin && !c->told_fin))) {
        size_t appetite = c->talk ? ka_talk_appetite(c->talk) : KA_READ_AHEAD, room;
        appetite = appetite == 0 ? 1 : appetite < c->piece ? appetite : c->piece;
        size_t n = h2_take(c, from, appetite);
        if (n == 0) {
            c->told_fin = 1;
            if (c->talk == NULL) {
                ka_driver_end(&w->d, c->h, c, KA_CAUSE_CLIENT);
                return;
            }
            ka_turn_eof(&w->d, c->talk);
            h2_turn(&w->d, c->h, c);
            return;
        }
        if (!ka_turn_has_talk(&h2_moves, &w->d, c->h, c))
            return;
        if (c->talk->window_len == 0) {
            (void)ka_talk_park(c->talk);
            CLIENT_ALLOCATES(c->block = malloc(n));
            memcpy(c->block, from, n);
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
            h2_turn(&w->d, c->h, c);
    }
}

static void h2_look(ka_driver *d, ka_handle h, void *peer, int phase)
{
    world *w = world_of(d);
    conn *c = peer;
    if (phase == KA_WRITE)
        c->can_write = c->queued < c->room;
    else
        c->can_read = 1;
    if (w->pushes && phase != KA_WRITE)
        h2_push(w, c);
    else
        h2_turn(d, h, c);
}

static const ka_moves h2_moves = {
    .receive = h2_receive,
    .flush = h2_flush,
    .saw_fin = h2_saw_fin,
    .can_read = h2_can_read,
    .can_send = h2_can_send,
    .has_unread = h2_has_unread,
    .peer_of = h2_peer_of,
    .talk_of = h2_talk_of,
    .turn = h2_turn,
    .attend = h2_attend,
    .again = h2_again,
    .look = h2_look,
    .queued = h2_queued,
    .send_fin = h2_send_fin,
    .linger = h2_linger,
    .close = h2_close_conn,
    .wake = h2_wake,
    .set_timer = h2_set_timer,
};

static inline void h2_event(world *w, conn *c)
{
    int has_input = c->at_in < c->n_in || (c->has_fin && !c->told_fin);
    c->is_ready = 0;
    c->can_read = c->can_read || has_input;
    c->can_write |= c->queued < c->room;
    if (ka_conn_phase(w->table, c->h) == KA_LINGER) {
        h2_discard(w, c);
    } else if (w->pushes) {
        if (c->talk && c->can_write)
            h2_turn(&w->d, c->h, c);
        h2_push(w, c);
    } else if (c->talk || c->can_read) {
        h2_turn(&w->d, c->h, c);
    }
    if (c->h)
        h2_after_turn(w, c);
}

static inline int h2_is_quiet(const conn *c)
{
    return c->h == 0 || !(c->is_ready || (c->talk && (c->talk->is_later || c->talk->is_noted)));
}

/* One pass of the driver. */
static inline void h2_step(world *w)
{
    uint32_t n_later = w->d.service.lists[KA_LATER].n;
    for (int i = 0; i < CONNS; i++)
        if (w->conns[i].h && w->conns[i].is_ready)
            h2_event(w, &w->conns[i]);
    ka_driver_take_turns(&w->d, n_later);
    ka_driver_expire(&w->d);
    ka_driver_relieve(&w->d);
    ka_driver_attend(&w->d);
    w->d.armed_ns = w->timer = INT64_MAX;
    ka_driver_arm(&w->d, INT64_MAX);
}

/* Nothing is ready: then nothing that could go on may stand still, whatever the clock does. */
static inline void h2_check_quiet(const conn *c)
{
    const ka_talk *talk = c->talk;
    ka_h2 *h2 = h2_of_conn(c);
    ka_h2_frame frame;
    ka_h2_fault fault;
    if (c->h == 0 || c->sent_fin || h2 == NULL || !h2_is_quiet(c))
        return;
    int can_send = c->queued < c->room, lingers, has_head_alone = 0;
    for (const ka_h2_stream *s = h2->live ? h2->live->first : NULL; s; s = s->next)
        has_head_alone |= s->x.writing == KA_WRITING_CONTENT && s->x.reply.n_content == 0; /* it waits for content */
    MUST(talk->unsent == 0 || !can_send || has_head_alone, "output waits, and nobody sends it");
    if (can_send) {
        MUST(c->at_in == c->n_in, "input waits, and nobody reads it");
        MUST(!ka_h2_has_content(h2) || h2->leaving == KA_H2_FAILED, "content waits, and nobody sends it");
        MUST(!ka_h2_is_over(h2, &lingers), "a connection is over, and nobody ends it");
        if (talk->window_len) {
            ka_h2_reader reader = h2->reader;
            MUST(h2->left == 0 && h2->left_padding == 0, "content waits, and nobody takes it");
            int got = h2->has_preface
                        ? ka_h2_frame_read(&reader, (const uint8_t *)talk->window, talk->window_len, &frame, &fault)
                        : KA_PARTIAL;
            MUST(got == KA_PARTIAL || (got == KA_OK && talk->window_len < (size_t)frame.length + KA_H2_FRAME_HEAD),
                 "a frame waits, and nobody takes it");
        }
    }
    for (const ka_h2_stream *s = h2->live ? h2->live->first : NULL; s; s = s->next) {
        MUST(s->x.hold != KA_HOLD_TURN, "a stream waits for a turn that does not come");
        MUST(s->is_touched == 0 || s->x.hold != KA_HOLD_NOT, "something happened to a stream, and nobody looks at it");
        MUST(!can_send || s->x.writing < KA_WRITING_DONE || s->queued, "a stream is over, and nobody ends it");
        MUST(!s->has_body_news || !s->x.wants_body, "content waits, and the application is not told");
    }
}

/* Until nothing is ready. Return how many passes it took. */
static inline int h2_run(world *w)
{
    for (int n = 0; n < STEPS; n++) {
        int is_quiet = 1;
        for (int i = 0; i < CONNS; i++)
            is_quiet &= h2_is_quiet(&w->conns[i]);
        if (is_quiet) {
            for (int i = 0; i < CONNS; i++)
                h2_check_quiet(&w->conns[i]);
            return n;
        }
        h2_step(w);
    }
    MUST(0, "it goes round in circles");
    return STEPS;
}

/* The clock goes on. */
static inline void h2_wait(world *w, int64_t ns)
{
    w->d.now += ns;
    h2_step(w);
    h2_run(w);
}

static inline int h2_init(world *w, const ka_policy *policy, const ka_h2_options *options, size_t max_buffer_bytes,
                          const ka_application *app)
{
    w->d.now = 100 * S;
    for (int i = 0; i < CONNS; i++) {
        w->conns[i].h = 0;
        w->conns[i].talk = NULL;
        w->conns[i].is_closed = 0;
        w->conns[i].is_ready = 0;
    }
    ka_capacity capacity = ka_capacity_default;
    capacity.max_connections = CONNS;
    int got = ka_table_new(&w->table, &capacity, 1, &w->counters);
    if (got == KA_OK)
        got = ka_table_set_policy(w->table, 0, policy);
    if (got == KA_OK)
        got = ka_driver_init(&w->d, w->table, &ka_limits_default, max_buffer_bytes, app, &h2_moves);
    return got == KA_OK ? ka_h2_enable(&w->d.service, options) : got;
}

static inline conn *h2_open(world *w, int i)
{
    conn *c = &w->conns[i];
    ka_handle h;
    if (ka_driver_open(&w->d, 0, &(ka_client){0}, 0, &h) != KA_OK)
        return NULL;
    memset(c, 0, offsetof(conn, client));
    c->h = h;
    c->room = 1 << 30;
    c->piece = SCRATCH;
    c->can_write = 1;
    client_begin(&c->client, client_out, c);
    return c;
}

/* With nobody left: everything is given back. */
static inline void h2_free_world(world *w)
{
    MUST(ka_table_open_count(w->table) == 0, "a connection is left");
    MUST(ka_table_check(w->table) == NULL, "the table's invariants do not hold");
    MUST(w->d.service.n_talks == 0, "a talk outlives its connection");
    MUST(w->d.service.pool.lent_bytes == 0, "the pool lent something that is not given back");
    MUST(w->d.service.pool.held_bytes == 0, "something is counted that nobody holds");
    MUST(w->d.service.h2->clock.n == 0, "somebody is waited for who is gone");
    ka_driver_free(&w->d);
    ka_table_free(w->table);
}

#endif
