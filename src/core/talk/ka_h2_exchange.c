/* ka_h2_exchange.c: an exchange of HTTP/2 from the application's side: the verbs, and what it is told. */
#include "talk/ka_h2_parts.h"

#include <stdlib.h>

enum {
    STAGED_MIN = 4096,
    STAGED_KEEP = 64 * 1024
};

static ka_h2 *h2_of(const ka_exchange *x) { return x->talk->h2; }

/* Something changed: look at it in a turn, perhaps in one that is on. */
static void attend(ka_exchange *x)
{
    ka_h2_touch(h2_of(x), ka_h2_stream_of(x));
    h2_of(x)->live->is_untimed |= (uint8_t)ka_exchange_is_untimed(x);
    ka_talk_attend(x->talk);
}

ka_cause ka_h2_cause(const ka_exchange *x)
{
    const ka_h2_stream *s = ka_h2_stream_of(x);
    return (ka_cause)(s->cause ? s->cause : x->talk->cause);
}

size_t ka_h2_unsent(const ka_exchange *x) { return ka_h2_stream_of(x)->queued + x->talk->unsent; }

const char *ka_h2_head_bytes(const ka_exchange *x) { return ka_h2_service_of(h2_of(x))->bytes; }

const char *ka_exchange_protocol(const ka_exchange *x, size_t *len)
{
    if (!x->is_h2)
        return NULL;
    const ka_h2_service *service = ka_h2_service_of(h2_of(x));
    *len = service->request.protocol.len;
    return *len ? service->bytes + service->request.protocol.off : NULL;
}

/* --- the content of the request --- */

int ka_h2_is_eof(const ka_exchange *x) { return ka_h2_stream_of(x)->is_received || ka_talk_is_eof(x->talk); }

int ka_h2_body_is_over(const ka_exchange *x)
{
    const ka_h2_stream *s = ka_h2_stream_of(x);
    return s->n_in == 0 && (s->is_received || (ka_exchange_is_tunnel(x) && ka_talk_is_eof(x->talk)));
}

size_t ka_h2_readable(const ka_exchange *x) { return ka_h2_stream_of(x)->n_in; }

const char *ka_h2_peek(const ka_exchange *x, size_t *len)
{
    const ka_buf *buf = ka_h2_stream_of(x)->in;
    *len = buf ? ka_buf_len(buf) : 0;
    return buf ? buf->ptr + buf->start : NULL;
}

/* None is here: more may come. */
static ptrdiff_t want_more(ka_exchange *x)
{
    x->wants_body = 1;
    attend(x);
    return KA_PARTIAL;
}

ptrdiff_t ka_h2_read(ka_exchange *x, char *to, size_t cap, int64_t now)
{
    ka_h2_stream *s = ka_h2_stream_of(x);
    size_t n = 0;
    (void)now;
    x->wants_body = 0;
    if (ka_unlikely(!ka_exchange_is_open(x)))
        return KA_ESTALE;
    while (n < cap && s->in) {
        ka_buf *buf = s->in;
        size_t len = ka_buf_len(buf) < cap - n ? ka_buf_len(buf) : cap - n;
        memcpy(to + n, buf->data + buf->start, len);
        buf->start += len;
        n += len;
        if (ka_buf_len(buf) == 0) {
            s->in = buf->next;
            if (s->in == NULL)
                s->in_last = NULL;
            ka_h2_give_in(h2_of(x), buf);
        }
    }
    if (n) {
        s->n_in -= n;
        h2_of(x)->n_in -= (uint32_t)n;
        ka_h2_put_credit(h2_of(x), s); /* windows follow what the application takes */
        return (ptrdiff_t)n;
    }
    if (s->is_received)
        return 0;
    if (ka_talk_is_eof(x->talk))
        return ka_exchange_is_tunnel(x) ? 0 : KA_ESTALE;
    if (x->reading == KA_READING_EXPECTED && x->writing == KA_WRITING_NOTHING) {
        x->reading = KA_READING_CONTENT;
        if (ka_h2_interim(x, 100, NULL, 0) < 0)
            return KA_ENOMEM;
    }
    return want_more(x);
}

/* --- the response --- */

static int refuse_head(ka_exchange *x, const char *why)
{
    x->reply.why = why;
    return KA_EINVAL;
}

int ka_h2_head_begin(ka_exchange *x, unsigned status, size_t field_bytes, char **at)
{
    ka_h2_service *service = ka_h2_service_of(h2_of(x));
    uint8_t is_head = x->reply.is_head, is_connect = x->reply.is_connect;
    if (!ka_exchange_is_open(x) || x->writing != KA_WRITING_NOTHING)
        return refuse_head(x, "the response has already begun");
    if (status == 101 && ka_h2_stream_of(x)->is_tunnel)
        status = 200; /* RFC 8441 5: what is 101 there is 200 here */
    if (status >= 100 && status < 200)
        return refuse_head(x, status == 101 ? "101 has no place in HTTP/2 (RFC 9113 8.6)"
                                            : "an interim status cannot be the final one (RFC 9110 15.2)");
    if (status < 100 || status > 999)
        return refuse_head(x, "a status must be a number from 100 to 999 (RFC 9110 15)");
    if (service->staged_room < field_bytes || service->staged_room > STAGED_KEEP) {
        size_t room = field_bytes < STAGED_MIN ? STAGED_MIN : field_bytes;
        char *bigger = realloc(service->staged, room);
        if (bigger == NULL)
            return KA_ENOMEM;
        service->staged = bigger;
        service->staged_room = room;
    }
    service->staged_for = x;
    x->reply = (ka_reply){
        .minor = 1, .is_head = is_head, .is_connect = is_connect, .declared = -1, .status = (uint16_t)status};
    *at = service->staged;
    return KA_OK;
}

int ka_h2_field(ka_exchange *x, char **at, const char *name, size_t name_len, const char *value, size_t value_len)
{
    return ka_reply_field(&x->reply, at, name, name_len, value, value_len);
}

/* RFC 9113 8.5, RFC 8441: 2xx, and both directions are the application's bytes. */
static int begin_tunnel(ka_exchange *x, const char *lines, size_t len)
{
    ka_h2_stream *s = ka_h2_stream_of(x);
    if (!s->is_tunnel || x->reply.status / 100 != 2)
        return refuse_head(x, "a tunnel must begin with 2xx to CONNECT (RFC 9113 8.5)");
    int got = ka_h2_put_lines(h2_of(x), s, x->reply.status, lines, len, -1, 1, 0);
    if (got < 0)
        return got;
    x->reply.frame = KA_FRAME_CLOSE;
    x->reply.is_started = 1;
    x->reading = KA_READING_TUNNEL;
    x->writing = KA_WRITING_CONTENT;
    attend(x);
    return KA_OK;
}

int ka_h2_head_end(ka_exchange *x, char *at, int64_t whole, int64_t now)
{
    ka_h2 *h2 = h2_of(x);
    ka_h2_stream *s = ka_h2_stream_of(x);
    ka_talk *talk = x->talk;
    ka_h2_service *service = ka_h2_service_of(h2);
    ka_verdict verdict;
    if (service->staged_for != x)
        return refuse_head(x, "another response's head was begun before this one was ended");
    service->staged_for = NULL;
    const char *lines = service->staged;
    size_t len = (size_t)(at - lines);
    if (whole == KA_WHOLE_TUNNEL)
        return begin_tunnel(x, lines, len);
    int frame = ka_reply_choose_frame(&x->reply, whole);
    if (frame < 0)
        return frame;
    if (frame == KA_FRAME_CHUNKED)
        x->reply.frame = KA_FRAME_CLOSE; /* the stream ends, and that is all */
    int got = ka_conn_decide(talk->service->table, talk->conn, 1, 1,
                             x->reply.wants_close ? KA_CAUSE_APPLICATION : KA_CAUSE_NONE, now, &verdict);
    if (got < 0)
        return got;
    /* Nothing follows: the head is the end, unless the application still has trailers. */
    int ends = x->reply.frame == KA_FRAME_NONE || whole == 0;
    got = ka_h2_put_lines(h2, s, x->reply.status, lines, len, x->reply.declared, 1, ends);
    if (got < 0)
        return got;
    x->reply.is_started = 1;
    x->writing = KA_WRITING_CONTENT;
    attend(x);
    if (!verdict.keeps)
        ka_h2_leave(h2, (ka_cause)verdict.cause);
    return KA_OK;
}

static int append(ka_exchange *x, ka_buf *buf, size_t len)
{
    ka_h2_stream *s = ka_h2_stream_of(x);
    if (buf == NULL)
        return KA_ENOMEM;
    *(s->out_last ? &s->out_last->next : &s->out) = buf;
    s->out_last = buf;
    s->queued += len;
    return KA_OK;
}

static int append_copy(ka_exchange *x, const char *bytes, size_t len)
{
    ka_h2_stream *s = ka_h2_stream_of(x);
    ka_buf *last = s->out_last;
    if (last == NULL || ka_buf_room(last) < len) {
        int got = append(x, ka_buf_take(&x->talk->service->pool, KA_USE_OUTPUT, len), 0);
        if (got < 0)
            return got;
        last = s->out_last;
    }
    memcpy(last->data + last->end, bytes, len);
    last->end += len;
    s->queued += len;
    return KA_OK;
}

/* One piece of content, own or referred bytes, or with fd >= 0 those of a file: into the output, or behind what waits. */
static int put_piece(ka_exchange *x, const char *bytes, int fd, int64_t off, size_t len, int more, void **owner)
{
    ka_h2_stream *s = ka_h2_stream_of(x);
    ka_pool *pool = &x->talk->service->pool;
    if (fd < 0) {
        int got = ka_h2_put_now(h2_of(x), s, bytes, len, !more);
        if (got != 0)
            return got < 0 ? got : KA_OK;
    }
    int got = KA_OK;
    if (bytes && (*owner == NULL || len <= KA_COPY_MAX)) {
        got = append_copy(x, bytes, len);
    } else {
        got = append(x, bytes ? ka_buf_refer(pool, bytes, len, *owner) : ka_buf_refer_file(pool, fd, off, len, *owner),
                     len);
        if (got == KA_OK)
            *owner = NULL; /* the buffer's */
    }
    if (got == KA_OK)
        ka_h2_ready(h2_of(x), s);
    return got;
}

static int put_content(ka_exchange *x, const char *bytes, int fd, int64_t off, size_t len, int more, void *owner)
{
    char before[KA_CHUNK_FRAME], after[KA_CHUNK_FRAME];
    size_t before_len, after_len;
    ka_h2_stream *s = ka_h2_stream_of(x);
    int sends = len > 0, error = KA_OK;
    if (!ka_exchange_is_answering(x)) {
        x->reply.why = "the response is already complete";
        error = KA_EINVAL;
    } else if (!ka_exchange_is_tunnel(x)) {
        error = ka_reply_piece(&x->reply, len, more, before, &before_len, after, &after_len, &sends);
    }
    if (h2_of(x)->leaving == KA_H2_FAILED && error == KA_OK)
        error = KA_ESTALE;
    if (error == KA_OK && sends && len)
        error = put_piece(x, bytes, fd, off, len, more, &owner);
    if (error == KA_OK && !more) {
        s->ends = 1;
        x->writing = KA_WRITING_DONE;
        if (s->queued == 0)
            error = ka_h2_put_end(h2_of(x), s);
    }
    if (error < 0)
        ka_h2_done(x, KA_CAUSE_APPLICATION); /* half a promise cannot be mended */
    else
        attend(x);
    if (owner)
        x->talk->service->pool.release(owner); /* last: it may run arbitrary code */
    return error;
}

int ka_h2_content(ka_exchange *x, const char *bytes, size_t len, int more, void *owner)
{
    return put_content(x, bytes, -1, 0, len, more, owner);
}

int ka_h2_file(ka_exchange *x, int fd, int64_t off, size_t len, int more, void *owner)
{
    return put_content(x, NULL, fd, off, len, more, owner);
}

int ka_h2_trailers(ka_exchange *x, const char *lines, size_t len)
{
    ka_h2_stream *s = ka_h2_stream_of(x);
    if (ka_exchange_is_answering(x) && len && !s->is_sent && !ka_exchange_is_tunnel(x) &&
        x->reply.frame != KA_FRAME_NONE) {
        s->trailers = ka_buf_take(&x->talk->service->pool, KA_USE_OUTPUT, len);
        if (s->trailers == NULL) {
            ka_h2_done(x, KA_CAUSE_APPLICATION);
            return KA_ENOMEM;
        }
        memcpy(s->trailers->data, lines, len);
        s->trailers->end = len;
    }
    return put_content(x, NULL, -1, 0, 0, 0, NULL);
}

int ka_h2_interim(ka_exchange *x, unsigned status, const char *lines, size_t len)
{
    if (status / 100 != 1 || status == 101)
        return refuse_head(x, "an interim status is 100 to 199, and not 101 (RFC 9110 15.2)");
    if (x->writing != KA_WRITING_NOTHING)
        return refuse_head(x, "an interim response must come before the final one (RFC 9110 15.2)");
    int got = ka_h2_put_lines(h2_of(x), ka_h2_stream_of(x), status, lines, len, -1, 0, 0);
    attend(x);
    return got;
}

void ka_h2_done(ka_exchange *x, ka_cause cause)
{
    ka_h2_stream *s = ka_h2_stream_of(x);
    if (!ka_exchange_is_open(x) || x->writing == KA_WRITING_CUT || (s->is_sent && x->writing == KA_WRITING_DONE))
        return;
    if (s->is_sent) {
        x->writing = KA_WRITING_DONE; /* the head was all, whether or not somebody says so */
    } else if (ka_exchange_is_tunnel(x)) {
        if (x->writing < KA_WRITING_DONE) {
            x->writing = KA_WRITING_DONE;
            s->ends = 1;
            if (s->queued == 0)
                (void)ka_h2_put_end(h2_of(x), s);
        }
    } else {
        x->writing = KA_WRITING_CUT;
        s->error = cause == KA_CAUSE_CLIENT ? KA_H2_CANCEL : KA_H2_INTERNAL_ERROR;
    }
    if (s->cause == KA_CAUSE_NONE)
        s->cause = (uint8_t)cause;
    attend(x);
}

int ka_h2_refuse(ka_exchange *x, unsigned status, const char *text, ka_cause cause, int64_t now)
{
    static const char type[] = "content-type: text/plain; charset=utf-8\r\n";
    ka_h2_stream *s = ka_h2_stream_of(x);
    ka_talk *talk = x->talk;
    const ka_application *app = &talk->service->app;
    size_t len = strlen(text);
    (void)now;
    if (x->writing != KA_WRITING_NOTHING || !ka_exchange_is_open(x))
        return KA_EINVAL;
    x->reply = (ka_reply){
        .minor = 1, .is_head = x->reply.is_head, .status = (uint16_t)status, .declared = (int64_t)len + 1};
    int got = ka_h2_put_lines(h2_of(x), s, status, type, sizeof type - 1, (int64_t)len + 1, 1, x->reply.is_head);
    if (got < 0)
        return got;
    x->reply.is_started = x->reply.is_over = 1;
    x->reply.n_content = (int64_t)len + 1;
    x->writing = KA_WRITING_DONE;
    s->cause = (uint8_t)cause;
    s->ends = 1;
    if (!s->is_sent) {
        char line[128];
        size_t n = len < sizeof line - 1 ? len : sizeof line - 1;
        memcpy(line, text, n);
        line[n] = '\n';
        got = ka_h2_put_now(h2_of(x), s, line, n + 1, 1);
        if (got == 0 && (got = append_copy(x, line, n + 1)) == KA_OK)
            ka_h2_ready(h2_of(x), s);
        if (got < 0) {
            s->x.writing = KA_WRITING_CUT;
            s->error = KA_H2_INTERNAL_ERROR;
        }
    }
    if (app->on_refused && x->owner == NULL && cause != KA_CAUSE_APPLICATION)
        app->on_refused(app->ctx, x);
    attend(x);
    return KA_OK;
}

/* --- waiting for the client --- */

int ka_h2_holds(ka_exchange *x)
{
    const ka_talk *talk = x->talk;
    const ka_h2_stream *s = ka_h2_stream_of(x);
    if (x->hold == KA_HOLD_TURN)
        return 1;
    if (ka_likely(s->queued <= KA_OUT_HIGH && talk->unsent <= KA_H2_OUT_MOST && talk->n_pushed < KA_PUSH_MAX))
        return 0;
    if (talk->n_pushed >= KA_PUSH_MAX) {
        ka_h2_rest(x);
        return 1;
    }
    x->hold = KA_HOLD_LOW;
    attend(x);
    return 1;
}

int ka_h2_awaits_low(ka_exchange *x)
{
    if (ka_h2_stream_of(x)->queued <= KA_OUT_LOW && x->talk->unsent <= KA_OUT_LOW)
        return 0;
    x->hold = KA_HOLD_LOW;
    attend(x);
    return 1;
}

int ka_h2_awaits_empty(ka_exchange *x)
{
    if (ka_h2_stream_of(x)->queued == 0 && x->talk->unsent == 0)
        return 0;
    x->hold = KA_HOLD_EMPTY;
    attend(x);
    return 1;
}

void ka_h2_rest(ka_exchange *x)
{
    x->hold = KA_HOLD_TURN;
    h2_of(x)->rests = 1;
    attend(x);
}

/* --- what it is told --- */

/* May it go on? */
static int is_low(const ka_h2 *h2, const ka_h2_stream *s)
{
    switch (s->x.hold) {
    case KA_HOLD_LOW:   return s->queued <= KA_OUT_LOW && h2->talk->unsent <= KA_OUT_HIGH;
    case KA_HOLD_EMPTY: return s->queued == 0 && h2->talk->unsent == 0;
    default:            return 0;
    }
}

static ka_phase phase_of(const ka_h2_stream *s)
{
    const ka_exchange *x = &s->x;
    if (s->queued && s->send_window <= 0 && (x->hold != KA_HOLD_NOT || !ka_exchange_is_answering(x)))
        return KA_WRITE;
    if (!ka_exchange_is_answering(x))
        return s->queued || s->is_sent ? KA_FREE : KA_BODY;
    if (x->hold == KA_HOLD_LOW || x->hold == KA_HOLD_EMPTY)
        return KA_FREE; /* for the connection, whose WRITE has the deadline: the application is not late */
    if (ka_exchange_is_tunnel(x))
        return KA_FREE; /* no longer HTTP */
    if (!x->wants_body || s->n_in || s->is_received)
        return KA_BUSY;
    /* Without a window of the connection, which others' content has used up, the client cannot send any. */
    return h2_of(x)->recv_window > 0 ? KA_BODY : KA_FREE;
}

/* It has been answered, or given up: what remains is to say so. Return whether it is gone. */
static int ends(ka_h2 *h2, ka_h2_stream *s)
{
    if (s->is_slow) {
        ka_h2_reset(h2, s, s->error ? s->error : KA_H2_CANCEL, s->error ? (ka_cause)s->cause : KA_CAUSE_SEND_RATE);
        return 1;
    }
    if (h2->knows_fin && s->queued && (s->send_window <= 0 || h2->send_window <= 0)) {
        s->cause = KA_CAUSE_CLIENT; /* no window will be opened any more */
        ka_h2_close(h2, s);
        return 1;
    }
    if (s->x.writing < KA_WRITING_DONE)
        return 0;
    if (s->x.writing == KA_WRITING_CUT) {
        ka_h2_reset(h2, s, s->error, (ka_cause)s->cause);
        return 1;
    }
    ka_h2_lose(h2, s);
    if (!s->is_sent)
        return 0;
    if (s->is_received) {
        if (s->cause == KA_CAUSE_NONE) /* by the application */
            ka_h2_credit(h2, KA_H2_CREDIT_DONE);
        ka_h2_close(h2, s);
    } else { /* RFC 9113 8.1: the answer is whole; nobody reads the rest of the request */
        ka_h2_reset(h2, s, KA_H2_NO_ERROR, (ka_cause)s->cause);
    }
    return 1;
}

/* What the application is to be told first of all that happened to it. */
static int next_news(ka_h2 *h2, ka_h2_stream *s, ka_news *news)
{
    if (!ka_exchange_is_open(&s->x))
        return 0;
    if (s->has_eof_news) {
        s->has_eof_news = 0;
        *news = KA_NEWS_EOF;
    } else if (s->has_drain_news) {
        s->has_drain_news = 0;
        *news = KA_NEWS_DRAIN;
    } else if (s->has_body_news && s->x.wants_body) {
        s->has_body_news = s->x.wants_body = 0;
        *news = KA_NEWS_BODY;
    } else if (s->x.hold != KA_HOLD_NOT && is_low(h2, s)) {
        s->x.hold = KA_HOLD_NOT;
        *news = KA_NEWS_LOW;
    } else {
        return 0;
    }
    return 1;
}

void ka_h2_turn_begins(ka_h2 *h2)
{
    h2->talk->n_pushed = 0;
    h2->rests = 0;
    for (ka_h2_stream *s = h2->live ? h2->live->touched : NULL; s; s = s->touched_next)
        if (s->x.hold == KA_HOLD_TURN)
            s->x.hold = KA_HOLD_LOW;
}

ka_h2_stream *ka_h2_news(ka_h2 *h2, int64_t now, ka_news *news)
{
    ka_h2_stream *s, *next;
    for (s = h2->live ? h2->live->touched : NULL; s; s = next) {
        ka_h2_stream *prev = s->touched_prev;
        if (ends(h2, s)) { /* whoever is told of it may have done something to another one meanwhile */
            next = prev ? prev->touched_next : h2->live->touched;
            continue;
        }
        if (next_news(h2, s, news))
            return s; /* and it stays on the list: there may be more */
        ka_h2_wait_in(&ka_h2_service_of(h2)->clock, &s->wait, phase_of(s), now);
        next = s->touched_next;
        if (s->x.hold == KA_HOLD_NOT) /* else it is looked at in every turn, until it is low */
            ka_h2_untouch(h2, s);
    }
    return NULL;
}
