/* ka_exchange.c: an exchange of HTTP/1, from the application's side: the content of its request, which is read out of
 * the connection's window, and its response, which is written to the end of the connection's output. */
#include "talk/ka_talk_parts.h"

#include <stdio.h>
#include <string.h>

/* --- what breaks a rule --- */

/* Nothing more can be sent in step. */
static void break_off(ka_exchange *x, ka_cause cause)
{
    ka_talk_end_with(x->talk, cause);
    if (x->writing < KA_WRITING_DONE)
        x->writing = KA_WRITING_CUT;
    ka_talk_attend(x->talk); /* the application may have come to it by reading, outside of a turn */
}

void ka_h1_reject(ka_exchange *x, unsigned status, const char *text, int64_t now)
{
    if (ka_h1_refuse(x, status, text, KA_CAUSE_BAD_REQUEST, now) < 0)
        break_off(x, KA_CAUSE_BAD_REQUEST);
}

/* --- the content of the request --- */

int ka_h1_is_eof(const ka_exchange *x) { return ka_talk_is_eof(x->talk); }

int ka_h1_body_is_over(const ka_exchange *x)
{
    return ka_exchange_is_tunnel(x) ? ka_talk_is_eof(x->talk) && x->talk->window_len == 0 : ka_body_is_over(&x->body);
}

size_t ka_h1_readable(const ka_exchange *x)
{
    size_t here = x->talk->window_len;
    if (ka_exchange_is_tunnel(x))
        return here;
    if (ka_body_is_over(&x->body))
        return 0;
    if (here <= x->talk->checked)
        return 0; /* framing that is not whole yet: nothing to do until more comes behind it */
    if ((x->head_flags & KA_HEAD_CHUNKED) == 0 && (uint64_t)x->body.left < here)
        here = (size_t)x->body.left;
    return here;
}

const char *ka_h1_peek(const ka_exchange *x, size_t *len)
{
    *len = x->talk->window_len;
    return x->talk->window;
}

int ka_h1_next_piece(ka_exchange *x, size_t most, const char **piece, size_t *len)
{
    ka_talk *talk = x->talk;
    ka_limits limits = talk->service->limits;
    if (x->max_body < limits.max_body_bytes)
        limits.max_body_bytes = x->max_body;
    while (!ka_body_is_over(&x->body)) {
        size_t nbytes;
        ka_span span;
        ka_body before = x->body;
        int event = ka_body_next(&x->body, talk->window, talk->window_len, &limits, &nbytes, &span, &x->fault);
        if (event == KA_BODY_DATA && span.len > most) { /* more than was asked for: take a part of it */
            x->body = before;
            event = ka_body_next(&x->body, talk->window, span.off + most, &limits, &nbytes, &span, &x->fault);
        }
        if (event == KA_EPEER)
            return KA_EPEER;
        ka_talk_consume(talk, nbytes);
        talk->checked = event == KA_BODY_NEEDS ? (uint32_t)talk->window_len : 0;
        if (event == KA_BODY_NEEDS)
            return KA_PARTIAL;
        if (event == KA_BODY_DATA) {
            *piece = talk->window - nbytes + span.off;
            *len = span.len;
            return KA_OK;
        }
    }
    *len = 0;
    return KA_OK;
}

int ka_h1_is_drainable(const ka_exchange *x)
{
    if ((x->head_flags & KA_HEAD_CHUNKED) == 0)
        return x->body.left <= KA_DRAIN_MAX;
    ka_body ahead = x->body;
    const char *at = x->talk->window;
    size_t left = x->talk->window_len;
    ka_span piece;
    ka_fault fault;
    while (left) {
        size_t nbytes = 0;
        int event = ka_body_next(&ahead, at, left, &x->talk->service->limits, &nbytes, &piece, &fault);
        if (event == KA_BODY_END)
            return 1;
        if (event != KA_BODY_DATA)
            return 0;
        at += nbytes;
        left -= nbytes;
    }
    return 0;
}

/* None is here: the driver is told that some is wanted. */
static ptrdiff_t want_more(ka_exchange *x)
{
    x->wants_body = 1;
    ka_talk_attend(x->talk);
    return KA_PARTIAL;
}

static ptrdiff_t read_tunnel(ka_exchange *x, char *to, size_t cap)
{
    ka_talk *talk = x->talk;
    size_t n = talk->window_len < cap ? talk->window_len : cap;
    if (n == 0 && !ka_talk_is_eof(talk))
        return want_more(x);
    if (n)
        memcpy(to, talk->window, n);
    ka_talk_consume(talk, n);
    return (ptrdiff_t)n;
}

ptrdiff_t ka_h1_read(ka_exchange *x, char *to, size_t cap, int64_t now)
{
    size_t n = 0;
    x->wants_body = 0;
    if (ka_unlikely(x->reading == KA_READING_TUNNEL))
        return read_tunnel(x, to, cap);
    if (ka_unlikely(x->reading == KA_READING_FAILED))
        return KA_EPEER; /* the state of the framing says nothing any more */
    if (ka_unlikely(!ka_exchange_is_open(x)))
        return KA_ESTALE;
    while (n < cap) {
        const char *piece;
        size_t len;
        int got = ka_h1_next_piece(x, cap - n, &piece, &len);
        if (got == KA_EPEER) {
            x->reading = KA_READING_FAILED;
            ka_h1_reject(x, x->fault.status, ka_fault_text(x->fault.code), now);
            return n ? (ptrdiff_t)n : KA_EPEER; /* the fault is seen by the next call */
        }
        if (got == KA_PARTIAL)
            break;
        if (len == 0)
            return (ptrdiff_t)n;
        memcpy(to + n, piece, len);
        n += len;
        x->reading = KA_READING_CONTENT; /* RFC 9110 10.1.1: content has come without 100 */
    }
    if (n)
        return (ptrdiff_t)n;
    if (ka_talk_is_eof(x->talk))
        return KA_ESTALE;
    if (x->reading == KA_READING_EXPECTED && x->writing == KA_WRITING_NOTHING) {
        x->reading = KA_READING_CONTENT;
        if (ka_h1_interim(x, 100, NULL, 0) < 0)
            return KA_ENOMEM;
    }
    return want_more(x);
}

/* --- the response --- */

static int put_copy(ka_talk *talk, const char *bytes, size_t n)
{
    if (n == 0)
        return KA_OK;
    char *at = ka_talk_reserve(talk, n);
    if (at == NULL)
        return KA_ENOMEM;
    memcpy(at, bytes, n);
    ka_talk_wrote(talk, n);
    return KA_OK;
}

int ka_h1_head_begin(ka_exchange *x, unsigned status, size_t field_bytes, char **at)
{
    ka_talk *talk = x->talk;
    uint8_t minor = x->reply.minor, is_head = x->reply.is_head, is_connect = x->reply.is_connect;
    if (!ka_exchange_is_open(x) || x->writing != KA_WRITING_NOTHING) {
        x->reply.why = "the response has already begun";
        return KA_EINVAL;
    }
    if (status >= 100 && status < 200 && status != 101) {
        x->reply.why = "an interim status cannot be the final one (RFC 9110 15.2)";
        return KA_EINVAL;
    }
    *at = ka_talk_reserve(talk, field_bytes + KA_REPLY_FIXED + talk->service->common.extra_len);
    if (*at == NULL)
        return KA_ENOMEM;
    x->reply = (ka_reply){.minor = minor, .is_head = is_head, .is_connect = is_connect};
    return ka_reply_start(&x->reply, at, status);
}

/* A reason of our own for closing after this response, or KA_CAUSE_NONE. */
static ka_cause reason_to_close(const ka_exchange *x)
{
    const ka_talk *talk = x->talk;
    if (talk->persistence != KA_PERSISTS)
        return (ka_cause)talk->cause;
    if (x->reply.frame == KA_FRAME_CLOSE || x->reply.wants_close)
        return KA_CAUSE_APPLICATION;
    if (ka_talk_is_eof(talk) && talk->window_len == 0)
        return KA_CAUSE_CLIENT;
    /* RFC 9110 10.1.1: the client may or may not send the content now; no way to stay in step. */
    if (x->reading == KA_READING_EXPECTED || (!ka_body_is_over(&x->body) && !ka_h1_is_drainable(x)))
        return KA_CAUSE_APPLICATION;
    /* Not accepted, or by a 2xx to CONNECT that the application does not mean: what follows must not be read as HTTP. */
    if (talk->may_switch)
        return KA_CAUSE_APPLICATION;
    return KA_CAUSE_NONE;
}

static int tunnel_begin(ka_exchange *x, char *at, int64_t now)
{
    static const ka_verdict says_nothing;
    ka_talk *talk = x->talk;
    ka_reply *reply = &x->reply;
    int is_agreed = reply->status == 101 ? (x->head_flags & KA_HEAD_UPGRADE) != 0
                                         : reply->is_connect && reply->status / 100 == 2;
    if (!is_agreed)
        reply->why = "a tunnel must begin with 101 to a request with Upgrade, or 2xx to CONNECT (RFC 9110 7.8, 9.3.6)";
    else if (!ka_body_is_over(&x->body))
        reply->why = "the request's content must be read before switching protocols (RFC 9110 7.8)";
    if (!is_agreed || !ka_body_is_over(&x->body))
        return KA_EINVAL;
    int got = ka_conn_event(talk->service->table, talk->conn, KA_EV_TUNNELLED, now);
    if (got < 0)
        return got;
    (void)ka_reply_choose_frame(reply, KA_WHOLE_UNKNOWN);
    ka_reply_finish_head(reply, &at, &says_nothing, &talk->service->common);
    ka_count_response(talk->service->counters, reply->status);
    ka_talk_wrote_until(talk, at);
    x->reading = KA_READING_TUNNEL;
    x->writing = KA_WRITING_CONTENT;
    ka_talk_attend(talk);
    return KA_OK;
}

int ka_h1_head_end(ka_exchange *x, char *at, int64_t whole, int64_t now)
{
    ka_talk *talk = x->talk;
    ka_verdict verdict;
    if (whole == KA_WHOLE_TUNNEL)
        return tunnel_begin(x, at, now);
    if (x->reply.status == 101) {
        x->reply.why = "101 is only for a response that begins a tunnel (RFC 9110 15.2.2)";
        return KA_EINVAL;
    }
    int frame = ka_reply_choose_frame(&x->reply, whole);
    if (frame < 0)
        return frame;
    int got = ka_conn_decide(talk->service->table, talk->conn, x->reply.minor,
                             (x->head_flags & KA_HEAD_KEEP_ALIVE) != 0, reason_to_close(x), now, &verdict);
    if (got < 0)
        return got;
    if (!verdict.keeps) {
        ka_talk_end_with(talk, verdict.cause);
        /* One that wanted to go on may have sent more before it reads that it cannot. */
        if ((x->head_flags & KA_HEAD_KEEP_ALIVE) != 0 || talk->may_switch || !ka_body_is_over(&x->body))
            talk->persistence = KA_LINGERS;
    }
    ka_reply_finish_head(&x->reply, &at, &verdict, &talk->service->common);
    ka_count_response(talk->service->counters, x->reply.status);
    ka_talk_wrote_until(talk, at);
    x->writing = KA_WRITING_CONTENT;
    return KA_OK;
}

/* One piece of content: own or referred bytes, or with fd >= 0 those of a file. */
static int put_content(ka_exchange *x, const char *bytes, int fd, int64_t off, size_t len, int more, void *owner)
{
    char before[KA_CHUNK_FRAME], after[KA_CHUNK_FRAME];
    size_t before_len, after_len;
    int sends, error;
    ka_talk *talk = x->talk;
    ka_pool *pool = &talk->service->pool;
    if (!ka_exchange_is_answering(x)) {
        x->reply.why = "the response is already complete";
        error = KA_EINVAL;
    } else if (ka_exchange_is_tunnel(x)) {
        before_len = after_len = 0;
        sends = len > 0;
        error = KA_OK;
    } else {
        error = ka_reply_piece(&x->reply, len, more, before, &before_len, after, &after_len, &sends);
    }
    if (error == KA_OK)
        error = put_copy(talk, before, before_len);
    if (error == KA_OK && sends && len) {
        if (bytes && (owner == NULL || len <= KA_COPY_MAX)) {
            error = put_copy(talk, bytes, len);
        } else {
            ka_buf *buf = bytes ? ka_buf_refer(pool, bytes, len, owner) : ka_buf_refer_file(pool, fd, off, len, owner);
            error = buf ? KA_OK : KA_ENOMEM;
            if (buf) {
                ka_talk_append(talk, buf);
                talk->unsent += len;
                owner = NULL; /* the buffer's */
            }
        }
    }
    if (error == KA_OK)
        error = put_copy(talk, after, after_len);
    if (error == KA_OK && !more)
        x->writing = KA_WRITING_DONE;
    if (error < 0)
        ka_h1_done(x, KA_CAUSE_APPLICATION); /* half a promise cannot be mended */
    else
        ka_talk_attend(talk);
    if (owner)
        pool->release(owner); /* last: it may run arbitrary code */
    return error;
}

int ka_h1_content(ka_exchange *x, const char *bytes, size_t len, int more, void *owner)
{
    return put_content(x, bytes, -1, 0, len, more, owner);
}

int ka_h1_file(ka_exchange *x, int fd, int64_t off, size_t len, int more, void *owner)
{
    return put_content(x, NULL, fd, off, len, more, owner);
}

int ka_h1_trailers(ka_exchange *x, const char *lines, size_t len)
{
    static const char last_chunk[] = "0\r\n";
    if (!ka_exchange_is_answering(x) || len == 0 || x->reply.frame != KA_FRAME_CHUNKED)
        return put_content(x, NULL, -1, 0, 0, 0, NULL);
    int error = put_copy(x->talk, last_chunk, sizeof last_chunk - 1);
    if (error == KA_OK)
        error = put_copy(x->talk, lines, len);
    if (error == KA_OK)
        error = put_copy(x->talk, "\r\n", 2);
    if (error < 0) {
        ka_h1_done(x, KA_CAUSE_APPLICATION);
        return error;
    }
    x->reply.is_over = 1;
    x->writing = KA_WRITING_DONE;
    ka_talk_attend(x->talk);
    return KA_OK;
}

void ka_h1_done(ka_exchange *x, ka_cause cause)
{
    if (!ka_exchange_is_answering(x))
        return;
    if (ka_exchange_is_tunnel(x)) {
        x->writing = KA_WRITING_DONE;
        ka_talk_end_with(x->talk, cause == KA_CAUSE_APPLICATION ? KA_CAUSE_UPGRADED : cause);
    } else {
        /* What the client has of a response must look incomplete. */
        x->writing = x->writing == KA_WRITING_NOTHING ? KA_WRITING_DONE : KA_WRITING_CUT;
        ka_talk_end_with(x->talk, cause);
    }
    ka_talk_attend(x->talk);
}

/* --- waiting for the client --- */

int ka_h1_holds(ka_exchange *x)
{
    const ka_talk *talk = x->talk;
    if (x->hold == KA_HOLD_TURN)
        return 1;
    if (ka_likely(talk->unsent <= KA_OUT_HIGH && talk->n_pushed < KA_PUSH_MAX))
        return 0;
    x->hold = talk->n_pushed < KA_PUSH_MAX ? KA_HOLD_LOW : KA_HOLD_TURN;
    return 1;
}

int ka_h1_awaits_low(ka_exchange *x)
{
    if (x->talk->unsent <= KA_OUT_LOW)
        return 0;
    x->hold = KA_HOLD_LOW;
    return 1;
}

int ka_h1_awaits_empty(ka_exchange *x)
{
    if (x->talk->unsent == 0)
        return 0;
    x->hold = KA_HOLD_EMPTY;
    return 1;
}

void ka_h1_rest(ka_exchange *x)
{
    x->hold = KA_HOLD_TURN;
    ka_talk_attend(x->talk);
}

/* --- answers of another kind --- */

int ka_h1_interim(ka_exchange *x, unsigned status, const char *lines, size_t len)
{
    char line[64];
    if (status / 100 != 1 || status == 101) {
        x->reply.why = "an interim status is 100 to 199, and not 101 (RFC 9110 15.2)";
        return KA_EINVAL;
    }
    if (x->writing != KA_WRITING_NOTHING) {
        x->reply.why = "an interim response must come before the final one (RFC 9110 15.2)";
        return KA_EINVAL;
    }
    size_t n = (size_t)snprintf(line, sizeof line, "HTTP/1.1 %u %s\r\n", status, ka_reply_reason(status));
    char *at = ka_talk_reserve(x->talk, n + len + 2);
    if (at == NULL)
        return KA_ENOMEM;
    memcpy(at, line, n);
    if (len)
        memcpy(at + n, lines, len);
    memcpy(at + n + len, "\r\n", 2);
    ka_talk_wrote(x->talk, n + len + 2);
    ka_count_response(x->talk->service->counters, status);
    ka_talk_attend(x->talk);
    return KA_OK;
}

int ka_h1_refuse(ka_exchange *x, unsigned status, const char *text, ka_cause cause, int64_t now)
{
    static const ka_verdict closes = {.sends_close = 1};
    static const char type[] = "text/plain; charset=utf-8";
    ka_talk *talk = x->talk;
    ka_reply *reply = &x->reply;
    size_t len = strlen(text);
    (void)now;
    if (x->writing != KA_WRITING_NOTHING || x->reading == KA_READING_CLOSED)
        return KA_EINVAL;        /* the last response is there, or a part of one */
    if (!ka_exchange_is_open(x)) /* a head that could not be read */
        *reply = (ka_reply){.minor = 1};
    char *at = ka_talk_reserve(talk, KA_REPLY_FIXED + talk->service->common.extra_len + len);
    if (at == NULL)
        return KA_ENOMEM;
    *reply = (ka_reply){.minor = reply->minor, .is_head = reply->is_head};
    (void)ka_reply_start(reply, &at, status);
    (void)ka_reply_field(reply, &at, "content-type", 12, type, sizeof type - 1);
    (void)ka_reply_choose_frame(reply, (int64_t)len + 1);
    ka_reply_finish_head(reply, &at, &closes, &talk->service->common);
    if (!reply->is_head) {
        memcpy(at, text, len);
        at[len] = '\n';
        at += len + 1;
    }
    reply->is_over = 1;
    reply->n_content = (int64_t)len + 1;
    ka_count_response(talk->service->counters, status);
    ka_talk_wrote_until(talk, at);
    ka_talk_end_with(talk, cause);
    talk->cause = (uint8_t)cause;
    talk->persistence = KA_LINGERS;
    x->writing = KA_WRITING_DONE;
    if (talk->service->app.on_refused && x->owner == NULL && cause != KA_CAUSE_APPLICATION)
        talk->service->app.on_refused(talk->service->app.ctx, x);
    ka_talk_attend(talk);
    return KA_OK;
}

/* --- how long it took --- */

void ka_exchange_time(ka_exchange *x, int64_t now)
{
    ka_counters *counters = x->talk->service->counters;
    uint64_t us = (uint64_t)(now > x->since_ns ? now - x->since_ns : 0) / 1000;
    unsigned bucket = ka_bucket(us);
    unsigned was_at = x->timed_at;
    int is_tunnel = x->reading == KA_READING_TUNNEL;
    x->timed_at = x->writing >= KA_WRITING_DONE || is_tunnel ? KA_TIMED : KA_WRITING_DONE;
    if (ka_exchange_status(x) == 0)
        return; /* given up before it began */
    if (was_at == KA_WRITING_CONTENT) {
        counters->first_byte[bucket]++;
        counters->first_byte_sum += us;
    }
    if (x->writing >= KA_WRITING_DONE && !is_tunnel) { /* that was no response's time, but a conversation's */
        counters->duration[bucket]++;
        counters->duration_sum += us;
    }
}

/* --- about its connection --- */

ka_handle ka_exchange_conn(const ka_exchange *x) { return x->talk->conn; }

ka_cause ka_h1_cause(const ka_exchange *x) { return (ka_cause)x->talk->cause; }

int ka_exchange_sees_fin(const ka_exchange *x) { return ka_talk_sees_fin(x->talk); }

int ka_exchange_is_draining(const ka_exchange *x) { return ka_table_is_draining(x->talk->service->table); }

size_t ka_h1_unsent(const ka_exchange *x) { return x->talk->unsent; }

const char *ka_h1_head_bytes(const ka_exchange *x) { return x->talk->window - x->head_bytes; }
