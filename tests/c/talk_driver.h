/* talk_driver.h: one conversation driven by hand, in virtual time and without a socket.
 *
 * A `wire` is a client, a kernel and an application in one: what the client sent waits in `kernel` and is handed over
 * in reads of `piece` bytes; what the server sent gathers in `sent`. The application is two functions. */
#ifndef TALK_DRIVER_H
#define TALK_DRIVER_H

#include "check.h"
#include "talk/ka_driver.h"

#define S ((int64_t)1000000000)

enum {
    WIRE_BYTES = 1 << 20,
    WIRE_STEPS = 100000,
    WIRE_SCRATCH = 8192
};

typedef struct wire wire;
struct wire {
    union {
        ka_driver d; /* for tests that take whole turns */
        ka_service service;
    };
    ka_counters counters;
    ka_table *table;
    ka_talk *talk; /* NULL while nothing is pending */
    ka_handle conn;
    int64_t now;
    void (*on_request)(wire *w, const ka_head *head);
    void (*on_body)(wire *w);
    const char *kernel; /* what the client sent and nobody read yet */
    size_t n_kernel, piece;
    int has_fin, is_blocked; /* the client sent FIN; the client takes nothing */
    ka_talk_step end;        /* KA_TALK_LINGER or KA_TALK_CLOSE once it came to that */
    int n_requests, n_body, n_lost, n_released, is_over;
    size_t n_sent, n_content;
    char scratch[WIRE_SCRATCH], sent[WIRE_BYTES], content[WIRE_BYTES];
};

static inline void wire_lost(void *exchange) { ((wire *)exchange)->n_lost++; }
static inline void wire_release(void *owner) { ++*(int *)owner; }

/* Answer a request whole, in one piece. */
static inline int wire_answer(wire *w, unsigned status, const char *fields, const char *body, int64_t whole)
{
    char *at;
    int error = ka_exchange_head_begin(&w->talk->exchange, status, strlen(fields), &at);
    while (error == KA_OK && *fields) { /* "name: value\n" */
        size_t name = strcspn(fields, ":"), line = strcspn(fields, "\n");
        error = ka_exchange_field(&w->talk->exchange, &at, fields, name, fields + name + 2, line - name - 2);
        fields += line + 1;
    }
    if (error == KA_OK)
        error = ka_exchange_head_end(&w->talk->exchange, at, whole, w->now);
    if (error == KA_OK)
        error = ka_exchange_content(&w->talk->exchange, body, strlen(body), 0, NULL);
    return error;
}

static inline void wire_says_ok(wire *w, const ka_head *head)
{
    (void)head;
    EXPECT(wire_answer(w, 200, "", "ok", 2) == KA_OK);
}

static inline wire *wire_open(void (*on_request)(wire *, const ka_head *), void (*on_body)(wire *))
{
    wire *w = calloc(1, sizeof *w);
    if (w == NULL || ka_table_new(&w->table, &ka_capacity_default, 1, &w->counters) != KA_OK)
        abort();
    const ka_application app = {.ctx = w, .on_lost = wire_lost, .release = wire_release};
    if (ka_service_init(&w->service, w->table, &ka_limits_default, 1 << 20, &app) != KA_OK)
        abort();
    w->on_request = on_request;
    w->on_body = on_body;
    w->now = 100 * S;
    w->piece = WIRE_SCRATCH;
    if (ka_conn_open(w->table, w->now, 0, NULL, 0, &w->conn) != KA_OK)
        abort();
    return w;
}

/* Everything is given back: buffers, talks, holds, the slot. */
static inline void wire_close(wire *w)
{
    if (w->talk)
        ka_talk_free(w->talk);
    EXPECT(w->service.pool.lent_bytes == 0);
    EXPECT(w->service.n_talks == 0);
    EXPECT(ka_conn_close(w->table, w->conn, KA_CAUSE_CLIENT, w->now) == KA_OK);
    EXPECT(ka_table_check(w->table) == NULL);
    ka_service_free(&w->service);
    ka_table_free(w->table);
    free(w);
}

static inline void wire_send(wire *w)
{
    ka_talk *talk = w->talk;
    size_t n = 0;
    if (w->is_blocked)
        return;
    for (ka_buf *buf = talk->out; buf; buf = buf->next) {
        if (w->n_sent + n + ka_buf_len(buf) > WIRE_BYTES)
            abort();
        memcpy(w->sent + w->n_sent + n, buf->ptr + buf->start, ka_buf_len(buf));
        n += ka_buf_len(buf);
    }
    EXPECT(n == talk->unsent);
    w->n_sent += n;
    ka_talk_sent(talk, n);
}

/* One read of the kernel. Return: whether there was anything to read, FIN included. */
static inline int wire_receive(wire *w)
{
    ka_talk *talk = w->talk;
    size_t n = w->n_kernel < w->piece ? w->n_kernel : w->piece, room;
    if (n == 0) {
        if (!w->has_fin || ka_talk_is_eof(talk))
            return 0;
        ka_talk_eof(talk);
        return 1;
    }
    if (talk->window_len == 0) {
        (void)ka_talk_park(talk);
        memcpy(w->scratch, w->kernel, n);
        ka_talk_arrived(talk, w->scratch, n);
    } else {
        char *to = ka_talk_room(talk, n, &room);
        if (to == NULL)
            return 0;
        memcpy(to, w->kernel, n);
        ka_talk_filled(talk, n);
    }
    w->kernel += n;
    w->n_kernel -= n;
    return 1;
}

/* What the engine does with a connection in one go. */
static inline void wire_turn(wire *w)
{
    ka_head head;
    int steps = 0, goes_on = 1;
    if (w->talk == NULL && (w->talk = ka_talk_new(&w->service, w->conn)) == NULL)
        abort();
    w->talk->is_driven = 1;
    while (goes_on && steps++ < WIRE_STEPS) {
        ka_talk_step step = ka_talk_next(w->talk, w->now, &head);
        switch (step) {
        case KA_TALK_REQUEST:
            w->n_requests++;
            w->talk->exchange.owner = w;
            w->on_request(w, &head);
            break;
        case KA_TALK_BODY:
            w->n_body++;
            w->talk->exchange.wants_body = 0;
            w->on_body(w);
            break;
        case KA_TALK_READ: goes_on = wire_receive(w); break;
        case KA_TALK_WAIT:
            goes_on = w->talk->unsent > KA_OUT_HIGH && !w->is_blocked;
            wire_send(w);
            break;
        default: w->end = step; goes_on = 0;
        }
    }
    CHECK(steps < WIRE_STEPS, "the turn never ends");
    wire_send(w);
    w->talk->is_driven = 0;
    (void)ka_talk_settle(w->talk, w->now);
    if (ka_talk_is_idle(w->talk)) {
        ka_talk_free(w->talk);
        w->talk = NULL;
    } else {
        EXPECT(ka_talk_park(w->talk) == KA_OK);
        const char *broken = ka_talk_check(w->talk);
        CHECK(broken == NULL, "%s", broken);
    }
    memset(w->scratch, '#', sizeof w->scratch); /* nothing may still point into it */
    EXPECT(ka_table_check(w->table) == NULL);
}

static inline void wire_bytes(wire *w, const char *bytes, size_t n)
{
    EXPECT(w->n_kernel == 0 || w->end || w->talk);
    w->kernel = bytes;
    w->n_kernel = n;
    wire_turn(w);
}

static inline void wire_text(wire *w, const char *text) { wire_bytes(w, text, strlen(text)); }

static inline int wire_phase(wire *w) { return ka_conn_phase(w->table, w->conn); }

/* How often `what` is in what the server sent. */
static inline int wire_count(wire *w, const char *what)
{
    int n = 0;
    size_t len = strlen(what);
    for (size_t i = 0; i + len <= w->n_sent; i++)
        n += memcmp(w->sent + i, what, len) == 0;
    return n;
}

/* Read all content that is here into w->content, then answer with it. */
static inline void wire_echo_more(wire *w)
{
    while (!ka_exchange_body_is_over(&w->talk->exchange)) {
        ptrdiff_t n = ka_exchange_read(&w->talk->exchange, w->content + w->n_content, WIRE_BYTES - w->n_content,
                                       w->now);
        if (n < 0) {
            if (n != KA_PARTIAL)
                w->is_over = (int)n;
            return;
        }
        w->n_content += (size_t)n;
    }
    w->content[w->n_content] = 0;
    EXPECT(wire_answer(w, 200, "", w->content, (int64_t)w->n_content) == KA_OK);
    w->n_content = 0;
}
static inline void wire_echo(wire *w, const ka_head *head)
{
    (void)head;
    wire_echo_more(w);
}

#endif
