/* ka_h2_out.c: frames to the client. Heads, and what belongs to the connection, go into its output in the order in which
 * they are given; content waits with its stream, and goes by turns as the windows let it. */
#include "talk/ka_h2_parts.h"

enum {
    PIECE = 16 * 1024, /* content in a frame at most: what every client takes, and a turn of each */
    SMALL_PIECE = KA_BUF_MIN - KA_H2_FRAME_HEAD,
    WORTH = 256, /* content in a frame that pays for the frames of the client that asked for it */
    LENGTH_DIGITS = 20
};

char *ka_h2_room(ka_h2 *h2, size_t n)
{
    if (h2->leaving == KA_H2_FAILED)
        return NULL;
    char *at = ka_talk_reserve(h2->talk, n);
    if (at == NULL) { /* not even a word about it */
        h2->leaving = KA_H2_FAILED;
        ka_talk_end_with(h2->talk, KA_CAUSE_BUFFER_LIMIT);
        h2->talk->cause = KA_CAUSE_BUFFER_LIMIT;
        ka_talk_attend(h2->talk);
    }
    return at;
}

/* --- windows of ours --- */

static const uint8_t sample[8] = {'k', 'a', 'c', 'o', 'r', 'e', 'R', 'T'};

/* What of `window` bytes the client may not use yet, though nobody has them. */
static uint32_t credit_of(uint32_t window, int32_t open, size_t unread)
{
    int64_t credit = (int64_t)window - open - (int64_t)unread;
    return credit > 0 && credit >= window / 2 ? (uint32_t)credit : 0;
}

void ka_h2_look_at_readers(ka_h2 *h2)
{
    for (ka_h2_stream *s = h2->live ? h2->live->first : NULL; s; s = s->next)
        if (s->x.wants_body)
            ka_h2_touch(h2, s);
}

void ka_h2_put_credit(ka_h2 *h2, ka_h2_stream *s)
{
    ka_talk *talk = h2->talk;
    uint32_t of_stream = 0, of_all = credit_of(KA_H2_STREAMS_AHEAD * h2->window, h2->recv_window, h2->n_in);
    if (s && !s->is_received && s->x.reading != KA_READING_CLOSED)
        of_stream = credit_of(h2->window, s->recv_window, s->n_in);
    if (of_all == 0 && of_stream == 0)
        return;
    char *at = ka_h2_room(h2, 2 * (KA_H2_FRAME_HEAD + 4) + KA_H2_FRAME_HEAD + 8);
    if (at == NULL)
        return;
    if (of_all) {
        if (ka_unlikely(h2->recv_window <= 0))
            ka_h2_look_at_readers(h2);
        at = ka_h2_put_window_update(at, 0, of_all);
        h2->recv_window += (int32_t)of_all;
        if (h2->has_preface && !h2->is_sampling && h2->window < ka_h2_service_of(h2)->options.max_window) {
            at = ka_h2_put_ping(at, sample, 0);
            h2->is_sampling = 1;
            h2->sampled = 0;
        }
    }
    if (of_stream) {
        at = ka_h2_put_window_update(at, s->id, of_stream);
        s->recv_window += (int32_t)of_stream;
    }
    ka_talk_wrote_until(talk, at);
    ka_talk_attend(talk);
}

/* --- heads --- */

static inline int is_word(const char *p, size_t n, const char *word, size_t len)
{
    return n == len && !memcmp(p, word, n);
}

/* RFC 9113 8.2.2: fields that speak of a connection of HTTP/1. */
static int is_of_connection(const char *name, size_t n)
{
    switch (n) {
    case 7:  return is_word(name, n, "upgrade", 7);
    case 10: return is_word(name, n, "connection", 10) || is_word(name, n, "keep-alive", 10);
    case 16: return is_word(name, n, "proxy-connection", 16);
    case 17: return is_word(name, n, "transfer-encoding", 17);
    default: return 0;
    }
}

static size_t count_lines(const char *lines, size_t len)
{
    size_t n = 0;
    if (len == 0)
        return 0; /* and perhaps no lines: NULL + 0 is undefined in C */
    for (const char *end = lines + len; lines < end && (lines = memchr(lines, '\n', (size_t)(end - lines))) != NULL;
         lines++)
        n++;
    return n;
}

/* "Name: value\r\n"*, as ka_reply_line writes them: no value has CR or LF. Names become small. */
static void encode_lines(ka_h2 *h2, char **at, const char *lines, size_t len)
{
    char small[256];
    if (len == 0)
        return; /* as above */
    const char *end = lines + len;
    while (lines < end) {
        const char *colon = memchr(lines, ':', (size_t)(end - lines));
        const char *value = colon + 2, *cr = memchr(value, '\r', (size_t)(end - value));
        size_t n = (size_t)(colon - lines);
        const char *name = lines;
        lines = cr + 2;
        for (size_t i = 0; i < n && n <= sizeof small; i++) {
            char c = name[i];
            small[i] = (char)(c >= 'A' && c <= 'Z' ? c | 0x20 : c);
        }
        if (n > sizeof small)
            continue; /* nobody has such a name */
        /* RFC 9113 8.2.1: no white space around a value. */
        while (value < cr && (*value == ' ' || *value == '\t'))
            value++;
        const char *last = cr;
        while (last > value && (last[-1] == ' ' || last[-1] == '\t'))
            last--;
        if (!is_of_connection(small, n))
            ka_hpack_encode_field(&h2->encoder, at, small, (uint32_t)n, value, (uint32_t)(last - value), 0);
    }
}

static void encode_length(ka_h2 *h2, char **at, int64_t length)
{
    char digits[LENGTH_DIGITS], *from = digits + sizeof digits;
    do
        *--from = (char)('0' + length % 10);
    while ((length /= 10) > 0);
    ka_hpack_encode_field(&h2->encoder, at, "content-length", 14, from, (uint32_t)(digits + sizeof digits - from), 0);
}

/* The server's own fields: Date, Server, and the operator's. */
static void encode_common(ka_h2 *h2, char **at, const ka_reply *reply)
{
    const ka_reply_common *common = &h2->talk->service->common;
    if (!reply->has_date && common->date_len)
        encode_lines(h2, at, common->date, KA_DATE_BYTES);
    if (!reply->has_server)
        encode_lines(h2, at, common->server, common->server_len);
    if (ka_unlikely(common->extra_len))
        encode_lines(h2, at, common->extra, common->extra_len);
}

int ka_h2_put_lines(ka_h2 *h2, ka_h2_stream *s, unsigned status, const char *lines, size_t len, int64_t length,
                    int is_head, int ends)
{
    const ka_reply_common *common = &h2->talk->service->common;
    size_t n_fields = count_lines(lines, len) + (is_head ? 4 + count_lines(common->extra, common->extra_len) : 1);
    size_t most = len + KA_HPACK_BEGIN_BYTES + KA_HPACK_FIELD_BYTES * n_fields +
                  (is_head ? KA_REPLY_FIXED + common->extra_len : 0);
    char *start = ka_h2_room(h2, ka_h2_fields_room(most, h2->peer_max_frame));
    if (start == NULL)
        return KA_ENOMEM;
    char *at = start + KA_H2_FRAME_HEAD;
    ka_hpack_encode_begin(&h2->encoder, &at);
    if (status) {
        ka_hpack_encode_status(&h2->encoder, &at, status);
        ka_count_response(h2->talk->service->counters, status);
    }
    encode_lines(h2, &at, lines, len);
    if (length >= 0)
        encode_length(h2, &at, length);
    if (is_head)
        encode_common(h2, &at, &s->x.reply);
    ka_assert((size_t)(at - start) <= most + KA_H2_FRAME_HEAD);
    ka_talk_wrote_until(h2->talk, ka_h2_put_fields(start, (size_t)(at - start) - KA_H2_FRAME_HEAD, h2->peer_max_frame,
                                                   s->id, ends ? KA_H2_END_STREAM : 0));
    if (ends)
        s->is_sent = 1;
    return KA_OK;
}

/* --- content --- */

int ka_h2_put_end(ka_h2 *h2, ka_h2_stream *s)
{
    if (s->is_sent)
        return KA_OK;
    if (s->trailers) {
        int got = ka_h2_put_lines(h2, s, 0, s->trailers->data, s->trailers->end, -1, 0, 1);
        ka_buf_give(&h2->talk->service->pool, s->trailers);
        s->trailers = NULL;
        return got;
    }
    char *at = ka_h2_room(h2, KA_H2_FRAME_HEAD);
    if (at == NULL)
        return KA_ENOMEM;
    ka_talk_wrote_until(h2->talk, ka_h2_put_head(at, 0, KA_H2_DATA, KA_H2_END_STREAM, s->id));
    s->is_sent = 1;
    return KA_OK;
}

int ka_h2_put_now(ka_h2 *h2, ka_h2_stream *s, const char *bytes, size_t len, int ends)
{
    ka_talk *talk = h2->talk;
    if (s->queued || len > KA_COPY_MAX || (int64_t)len > s->send_window || (int64_t)len > h2->send_window ||
        talk->unsent > KA_OUT_HIGH)
        return 0;
    char *at = ka_h2_room(h2, KA_H2_FRAME_HEAD + len);
    if (at == NULL)
        return KA_ENOMEM;
    at = ka_h2_put_head(at, (uint32_t)len, KA_H2_DATA, ends ? KA_H2_END_STREAM : 0, s->id);
    memcpy(at, bytes, len);
    ka_talk_wrote_until(talk, at + len);
    s->send_window -= (int32_t)len;
    h2->send_window -= (int32_t)len;
    if (ends)
        s->is_sent = 1;
    return 1;
}

/* A stream ends that has referred bytes, of which a part may be in the output: whoever owns them is let go of behind it. */
static void give_behind(ka_talk *talk, ka_buf *buf)
{
    if (talk->unsent == 0 || buf->cap || buf->fd >= 0 || buf->start == 0) {
        ka_buf_give(&talk->service->pool, buf);
        return;
    }
    buf->start = buf->end;
    ka_talk_append(talk, buf);
}

void ka_h2_drop_out(ka_h2 *h2, ka_h2_stream *s)
{
    ka_buf *buf = s->out;
    s->out = s->out_last = NULL;
    s->queued = 0;
    while (buf) {
        ka_buf *next = buf->next;
        buf->next = NULL;
        give_behind(h2->talk, buf);
        buf = next;
    }
    if (s->trailers)
        ka_buf_give(&h2->talk->service->pool, s->trailers);
    s->trailers = NULL;
}

void ka_h2_ready(ka_h2 *h2, ka_h2_stream *s)
{
    ka_h2_stream **first = &h2->live->ready[s->urgency];
    if (s->is_ready || s->queued == 0 || s->send_window <= 0)
        return;
    s->is_ready = 1;
    h2->live->urgencies |= (uint8_t)(1u << s->urgency);
    if (*first == NULL) {
        *first = s->ready_next = s->ready_prev = s;
        return;
    }
    s->ready_next = *first;
    s->ready_prev = (*first)->ready_prev;
    s->ready_prev->ready_next = (*first)->ready_prev = s;
}

void ka_h2_unready(ka_h2 *h2, ka_h2_stream *s)
{
    ka_h2_stream **first = h2->live ? &h2->live->ready[s->urgency] : NULL;
    if (!s->is_ready)
        return;
    s->is_ready = 0;
    if (s->ready_next == s) {
        *first = NULL;
        h2->live->urgencies &= (uint8_t)~(1u << s->urgency);
        return;
    }
    s->ready_next->ready_prev = s->ready_prev;
    s->ready_prev->ready_next = s->ready_next;
    if (*first == s)
        *first = s->ready_next;
}

/* Room for a frame was reserved that is not written after all: no empty buffer stays in the output, where a driver would take
 * "none of it was sent" for an end. */
static void give_back_room(ka_talk *talk)
{
    ka_buf **at = &talk->out, *before = NULL;
    if (talk->out_last->cap == 0 || ka_buf_len(talk->out_last))
        return;
    for (; *at != talk->out_last; at = &before->next)
        before = *at;
    ka_buf_give(&talk->service->pool, *at);
    *at = NULL;
    talk->out_last = before;
}

/* The first `n` bytes of the stream's first buffer, behind a frame's head. KA_OK, and *done is a buffer that is used up, for the
 * caller to let go of; KA_ENOMEM; KA_EPEER: a file is shorter than it was. */
static int put_bytes(ka_h2 *h2, ka_h2_stream *s, uint32_t n, int ends, ka_buf **done)
{
    ka_talk *talk = h2->talk;
    ka_pool *pool = &talk->service->pool;
    ka_buf *buf = s->out;
    int is_referred = buf->cap == 0 && buf->fd < 0 && n > KA_COPY_MAX / 4;
    int is_whole = ka_buf_len(buf) == n;
    char *start = ka_talk_reserve(talk, KA_H2_FRAME_HEAD + (is_referred ? 0 : (size_t)n));
    if (start == NULL)
        return KA_ENOMEM;
    char *at = ka_h2_put_head(start, n, KA_H2_DATA, ends ? KA_H2_END_STREAM : 0, s->id);
    ka_buf *piece = NULL;
    if (is_referred && !is_whole && (piece = ka_buf_refer(pool, buf->ptr + buf->start, n, NULL)) == NULL) {
        give_back_room(talk);
        return KA_ENOMEM;
    }
    if (buf->fd >= 0) {
        if (ka_buf_read_file(buf, at, n) != (ptrdiff_t)n) {
            give_back_room(talk);
            return KA_EPEER;
        }
        at += n;
    } else if (!is_referred) {
        memcpy(at, buf->ptr + buf->start, n);
        at += n;
    }
    ka_talk_wrote_until(talk, at);
    if (is_whole) {
        s->out = buf->next;
        if (s->out == NULL)
            s->out_last = NULL;
        buf->next = NULL;
    }
    if (is_referred) { /* the last part of it takes the hold along */
        ka_talk_append(talk, piece ? piece : buf);
        talk->unsent += n;
    }
    if (!is_whole)
        buf->start += n;
    else if (!is_referred)
        *done = buf;
    return KA_OK;
}

/* What a stream may send in its turn; then the next one's is. Return KA_OK, or KA_ENOMEM: when some has left. */
static int take_turn(ka_h2 *h2, ka_h2_stream *s, int64_t now)
{
    ka_buf *done = NULL;
    size_t n = ka_buf_len(s->out);
    if (n > PIECE)
        n = PIECE;
    if ((int64_t)n > s->send_window)
        n = (size_t)s->send_window;
    if ((int64_t)n > h2->send_window)
        n = (size_t)h2->send_window;
    int ends = s->ends && n == s->queued && s->trailers == NULL;
    int got = put_bytes(h2, s, (uint32_t)n, ends, &done);
    if (ka_unlikely(got == KA_ENOMEM) && n > SMALL_PIECE) {
        n = SMALL_PIECE; /* the smallest buffer is enough for it */
        ends = 0;
        got = put_bytes(h2, s, SMALL_PIECE, 0, &done);
    }
    if (got == KA_ENOMEM && h2->talk->unsent)
        return KA_ENOMEM;
    ka_h2_touch(h2, s);
    if (got < 0) { /* what was promised cannot be kept; or there is no memory, and what it has is some of it */
        s->error = KA_H2_INTERNAL_ERROR;
        s->cause = got == KA_ENOMEM ? KA_CAUSE_BUFFER_LIMIT : KA_CAUSE_APPLICATION;
        s->is_slow = 1;
        ka_h2_unready(h2, s);
        return KA_OK;
    }
    s->queued -= n;
    s->send_window -= (int32_t)n;
    h2->send_window -= (int32_t)n;
    h2->live->n_filled += (uint32_t)n;
    if (n >= WORTH || s->queued == 0) /* else the client asks for it octet by octet */
        ka_h2_credit(h2, KA_H2_CREDIT_SENT);
    if (ends)
        s->is_sent = 1;
    else if (s->ends && s->queued == 0)
        (void)ka_h2_put_end(h2, s);
    if (s->wait.phase == KA_WRITE) {
        const ka_policy *policy = ka_table_policy(h2->talk->service->table, s->wait.policy_class);
        if (ka_h2_wait_progress(&ka_h2_service_of(h2)->clock, &s->wait, policy, n, now) == KA_ESLOW && !s->is_sent)
            s->is_slow = 1;
    }
    if (s->queued == 0 || s->send_window <= 0)
        ka_h2_unready(h2, s);
    else if (s->is_incremental)
        h2->live->ready[s->urgency] = s->ready_next;
    if (done)
        give_behind(h2->talk, done); /* last: releasing an owner may run arbitrary code, and fill again */
    return KA_OK;
}

int ka_h2_has_content(const ka_h2 *h2) { return h2->live && h2->live->urgencies && h2->send_window > 0; }

void ka_h2_fill(ka_h2 *h2, int64_t now)
{
    while (h2->leaving != KA_H2_FAILED && h2->talk->unsent < KA_OUT_HIGH && ka_h2_has_content(h2)) {
        unsigned urgency = (unsigned)__builtin_ctz(h2->live->urgencies);
        if (take_turn(h2, h2->live->ready[urgency], now) < 0)
            return;
    }
    if (ka_unlikely(h2->knows_fin) && h2->live && h2->live->urgencies && h2->send_window <= 0)
        for (ka_h2_stream *s = h2->live->first; s; s = s->next)
            ka_h2_touch(h2, s); /* what waits for that window waits in vain */
}
