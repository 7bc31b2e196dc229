/* ka_h2_in.c: frames of the client, and what they mean for its streams, the windows and the connection. In order: faults,
 * content, requests, priorities, frames of the connection, the loop. */
#include "talk/ka_h2_parts.h"

/* What the connection ends by, or goes on after. */
static void fault_of_connection(ka_h2 *h2, const ka_h2_fault *fault)
{
    ka_h2_fail(h2, fault->error, KA_CAUSE_BAD_REQUEST);
}

/* RFC 9113 5.1: no frame but HEADERS and PRIORITY for a stream that is idle. One of an even number is for ever: we push
 * nothing. */
static int is_idle_stream(const ka_h2 *h2, uint32_t id)
{
    return id % 2 == 0 || (id > h2->last_stream && h2->leaving != KA_H2_LEAVES);
}

/* What crossed our RST_STREAM or our last GOAWAY is nobody's fault, and is ignored (RFC 9113 5.4.2, 6.8). */
static int is_ignored(const ka_h2 *h2, uint32_t id) { return id > h2->last_stream || ka_h2_was_reset(h2, id); }

/* RFC 9113 5.4.2. An error of a stream that there is not is told all the same, if it was not told already. */
static void fault_of_stream(ka_h2 *h2, uint32_t id, unsigned error, int64_t now)
{
    ka_h2_stream *s = ka_h2_find(h2, id);
    if (s) {
        /* Half of what the application wrote has left perhaps, and it is to know that its client is gone. */
        ka_h2_reset(h2, s, error, KA_CAUSE_BAD_REQUEST);
    } else if (!is_ignored(h2, id)) {
        ka_h2_put_rst(h2, id, error);
    }
    ka_h2_charge(h2, KA_H2_COST_FAULT, now);
}

static void fault(ka_h2 *h2, const ka_h2_fault *fault, int64_t now)
{
    if (fault->of_stream && !is_idle_stream(h2, fault->stream)) /* which may not be reset, RFC 9113 6.4 */
        fault_of_stream(h2, fault->stream, fault->error, now);
    else
        fault_of_connection(h2, fault);
}

/* --- content --- */

enum {
    LITTLE = 1024 /* content that is thrown away, and a frame's work as well */
};

static void end_of_request(ka_h2 *h2, ka_h2_stream *s, int64_t now)
{
    /* RFC 9113 8.1.1: content-length is what all DATA frames have. */
    if (s->declared >= 0 && s->received != s->declared) {
        fault_of_stream(h2, s->id, KA_H2_PROTOCOL_ERROR, now);
        return;
    }
    s->is_received = 1;
    s->has_body_news = 1;
    ka_h2_touch(h2, s);
}

/* A DATA frame begins: windows, then whose it is. */
static void begin_data(ka_h2 *h2, const ka_h2_frame *frame, int64_t now)
{
    ka_h2_stream *s = ka_h2_find(h2, frame->stream);
    h2->left = frame->content;
    h2->left_padding = frame->padding;
    h2->left_stream = 0;
    h2->left_ends = (frame->flags & KA_H2_END_STREAM) != 0;
    if (is_idle_stream(h2, frame->stream)) {
        ka_h2_fail(h2, KA_H2_PROTOCOL_ERROR, KA_CAUSE_BAD_REQUEST);
        return;
    }
    /* RFC 9113 6.9.1: whatever becomes of the stream, it counts. */
    if ((int64_t)frame->length > h2->recv_window) {
        ka_h2_fail(h2, KA_H2_FLOW_CONTROL_ERROR, KA_CAUSE_BAD_REQUEST);
        return;
    }
    h2->recv_window -= (int32_t)frame->length;
    if (ka_unlikely(h2->recv_window == 0))
        ka_h2_look_at_readers(h2);
    h2->sampled += frame->length;
    if (frame->content == 0 && !h2->left_ends)
        ka_h2_charge(h2, KA_H2_COST_EMPTY, now);
    if (s == NULL || s->is_received) {
        /* RFC 9113 5.1: half closed (remote), or closed. */
        if (s || !is_ignored(h2, frame->stream))
            fault_of_stream(h2, frame->stream, KA_H2_STREAM_CLOSED, now);
        else if (frame->content < LITTLE)
            ka_h2_charge(h2, KA_H2_COST_FRAME, now);
        return;
    }
    if ((int64_t)frame->length > s->recv_window) {
        fault_of_stream(h2, s->id, KA_H2_FLOW_CONTROL_ERROR, now);
        return;
    }
    s->recv_window -= (int32_t)frame->length;
    s->received += frame->content;
    if (s->declared >= 0 && s->received > s->declared) {
        fault_of_stream(h2, s->id, KA_H2_PROTOCOL_ERROR, now);
        return;
    }
    h2->left_stream = frame->stream;
    if (frame->content == 0 && h2->left_ends)
        end_of_request(h2, s, now);
}

/* Content behind what waits to be read. 0, or KA_ENOMEM. */
static int keep_content(ka_h2 *h2, ka_h2_stream *s, const char *bytes, size_t len)
{
    ka_buf *last = s->in_last;
    if (last == NULL || ka_buf_room(last) < len) {
        if ((last = ka_buf_take(&h2->talk->service->pool, KA_USE_INPUT, len)) == NULL)
            return KA_ENOMEM;
        *(s->in_last ? &s->in_last->next : &s->in) = last;
        s->in_last = last;
        h2->live->in_bytes += last->cap;
        ka_h2_waits(h2);
    }
    memcpy(last->data + last->end, bytes, len);
    last->end += len;
    s->n_in += len;
    h2->n_in += (uint32_t)len;
    return KA_OK;
}

void ka_h2_give_in(ka_h2 *h2, ka_buf *buf)
{
    h2->live->in_bytes -= buf->cap;
    ka_buf_give(&h2->talk->service->pool, buf);
    ka_h2_waits(h2);
}

static void take_content(ka_h2 *h2, ka_h2_stream *s, const char *bytes, size_t len, int64_t now)
{
    const ka_policy *policy;
    ka_exchange *x = &s->x;
    if (!ka_exchange_is_open(x) || x->writing >= KA_WRITING_DONE)
        return; /* nobody reads it */
    if (s->received > x->max_body) {
        if (ka_h2_refuse(x, 413, "the content is longer than max_body_bytes", KA_CAUSE_BAD_REQUEST, now) < 0)
            ka_h2_reset(h2, s, KA_H2_CANCEL, KA_CAUSE_BAD_REQUEST);
        return;
    }
    if (keep_content(h2, s, bytes, len) < 0) {
        ka_h2_reset(h2, s, KA_H2_ENHANCE_YOUR_CALM, KA_CAUSE_BUFFER_LIMIT);
        return;
    }
    if (x->reading == KA_READING_EXPECTED)
        x->reading = KA_READING_CONTENT; /* RFC 9110 10.1.1: content has come without 100 */
    s->has_body_news = 1;
    ka_h2_touch(h2, s);
    if (s->wait.phase != KA_BODY)
        return;
    policy = ka_table_policy(h2->talk->service->table, s->wait.policy_class);
    if (ka_h2_wait_progress(&ka_h2_service_of(h2)->clock, &s->wait, policy, len, now) == KA_ESLOW &&
        ka_h2_refuse(x, 408, "the content is arriving too slowly", KA_CAUSE_BODY_RATE, now) < 0)
        ka_h2_reset(h2, s, KA_H2_CANCEL, KA_CAUSE_BODY_RATE);
}

/* What is here of the frame that is read now, and of its padding. */
static void take_payload(ka_h2 *h2, int64_t now)
{
    ka_talk *talk = h2->talk;
    size_t n = talk->window_len < h2->left ? talk->window_len : h2->left;
    ka_h2_stream *s = h2->left_stream ? ka_h2_find(h2, h2->left_stream) : NULL;
    if (n) {
        h2->left -= (uint32_t)n;
        if (s)
            take_content(h2, s, talk->window, n, now);
        ka_talk_consume(talk, n);
        s = h2->left_stream ? ka_h2_find(h2, h2->left_stream) : NULL;
        if (h2->left == 0 && h2->left_ends && s)
            end_of_request(h2, s, now);
    }
    if (h2->left)
        return;
    n = talk->window_len < h2->left_padding ? talk->window_len : h2->left_padding;
    h2->left_padding -= (uint32_t)n;
    ka_talk_consume(talk, n);
    if (h2->left_padding)
        return;
    s = h2->left_stream ? ka_h2_find(h2, h2->left_stream) : NULL;
    h2->left_stream = 0;
    ka_h2_put_credit(h2, s && !s->is_received ? s : NULL); /* padding is read, and what is thrown away */
}

/* --- priorities --- */

void ka_h2_waits(ka_h2 *h2)
{
    const ka_talk *talk = h2->talk;
    ka_talk_waits(h2->talk, (talk->in ? talk->in->cap : 0) + (h2->block ? h2->block->cap : 0) +
                                (h2->live ? h2->live->in_bytes : 0));
}

enum {
    INCREMENTAL = 8 /* in a priority, beside its urgency */
};

/* RFC 9218 4, 5: a dictionary of u=0 to 7 and i; what cannot be understood says nothing. */
static unsigned priority_of(const char *p, size_t len)
{
    const char *end = p + len;
    unsigned urgency = 3;
    int is_incremental = 0;
    while (p < end) {
        while (p < end && (*p == ' ' || *p == '\t' || *p == ','))
            p++;
        const char *from = p;
        while (p < end && *p != ',')
            p++;
        size_t n = (size_t)(p - from);
        if (n >= 3 && from[0] == 'u' && from[1] == '=' && from[2] >= '0' && from[2] <= '7' &&
            (n == 3 || from[3] == ';' || from[3] == ' '))
            urgency = (unsigned)(from[2] - '0');
        else if (n >= 1 && from[0] == 'i' && (n == 1 || from[1] == ';' || from[1] == ' '))
            is_incremental = 1;
        else if (n >= 4 && from[0] == 'i' && from[1] == '=' && from[2] == '?')
            is_incremental = from[3] == '1';
    }
    return urgency | (is_incremental ? INCREMENTAL : 0);
}

static void prioritize(ka_h2 *h2, ka_h2_stream *s, unsigned priority)
{
    int was_ready = s->is_ready;
    ka_h2_unready(h2, s);
    s->urgency = (uint8_t)(priority % KA_H2_URGENCIES);
    s->is_incremental = (priority & INCREMENTAL) != 0;
    if (was_ready)
        ka_h2_ready(h2, s);
}

/* PRIORITY_UPDATE may come before its stream; it is remembered for a few (RFC 9218 7.1). */
static void priority_update(ka_h2 *h2, const ka_h2_frame *frame, const char *bytes)
{
    ka_h2_stream *s = ka_h2_find(h2, frame->other_stream);
    unsigned priority = priority_of(bytes, frame->content);
    if (s) {
        prioritize(h2, s, priority);
    } else if (frame->other_stream > h2->last_stream) {
        unsigned i = h2->n_early++ % KA_H2_EARLY;
        h2->early[i] = frame->other_stream;
        h2->early_priority[i] = (uint8_t)priority;
    }
}

static void prioritize_first(ka_h2 *h2, ka_h2_stream *s, const ka_hpack_section *section, const ka_head *head)
{
    for (uint32_t i = 0; i < head->n_fields; i++) {
        const ka_field *f = &section->fields[i];
        if (f->name.len == 8 && memcmp(section->buf + f->name.off, "priority", 8) == 0)
            prioritize(h2, s, priority_of(section->buf + f->value.off, f->value.len));
    }
    for (unsigned i = 0; h2->n_early && i < KA_H2_EARLY; i++)
        if (h2->early[i] == s->id)
            prioritize(h2, s, h2->early_priority[i]); /* it is the later word */
}

/* --- requests --- */

static void note_opened(ka_h2 *h2, uint32_t id)
{
    uint32_t n = h2->last_stream ? (id - h2->last_stream) / 2 : KA_H2_REMEMBERED;
    ka_h2_past_shift(&h2->opened, n);
    ka_h2_past_shift(&h2->were_reset, n);
    ka_h2_past_add(&h2->opened, 0);
    h2->last_stream = id;
}

/* As far as it is known; else it was. */
static int was_opened(const ka_h2 *h2, uint32_t id)
{
    uint32_t n = ka_h2_distance(h2, id);
    return n >= KA_H2_REMEMBERED || ka_h2_past_has(&h2->opened, n);
}

/* A field section behind the content of a request (RFC 9113 8.1). */
static void trailers(ka_h2 *h2, ka_h2_stream *s, int ends, int64_t now)
{
    ka_h2_fault found;
    ka_fault refusal;
    const ka_service *service = h2->talk->service;
    if (s->is_received) {
        fault_of_stream(h2, s->id, KA_H2_STREAM_CLOSED, now);
    } else if (!ends) {
        fault_of_stream(h2, s->id, KA_H2_PROTOCOL_ERROR, now);
    } else {
        int got = ka_h2_trailers_read(&service->h2->section, s->id, &service->limits, &found, &refusal);
        if (got == KA_EPEER)
            fault(h2, &found, now);
        else if (got == KA_H2_REFUSED && ka_exchange_is_answering(&s->x) &&
                 ka_h2_refuse(&s->x, refusal.status, ka_fault_text(refusal.code), KA_CAUSE_BAD_REQUEST, now) == KA_OK)
            s->is_received = 1;
        else
            end_of_request(h2, s, now);
    }
}

/* Is another stream taken? If not, it is refused, and may safely be repeated (RFC 9113 5.1.2, 8.7). */
static int is_taken(ka_h2 *h2, uint32_t id, int64_t now)
{
    if (h2->leaving == KA_H2_LEAVES) { /* above the last one that GOAWAY named: ignored, RFC 9113 6.8 */
        ka_h2_charge(h2, KA_H2_COST_CANCEL, now);
        return 0;
    }
    if (h2->live && h2->live->n_streams >= ka_h2_service_of(h2)->options.max_streams) {
        note_opened(h2, id);
        ka_h2_put_rst(h2, id, KA_H2_REFUSED_STREAM);
        ka_h2_charge(h2, KA_H2_COST_CANCEL, now);
        return 0;
    }
    return 1;
}

/* The stream is open: the table, the class and the exchange know. */
static void begin_exchange(ka_h2 *h2, ka_h2_stream *s, const ka_h2_request *request, int ends, int64_t now)
{
    ka_talk *talk = h2->talk;
    ka_service *service = talk->service;
    ka_exchange *x = &s->x;
    const ka_head *head = &request->head;
    (void)ka_conn_event(service->table, talk->conn, KA_EV_STREAM_OPENED, now);
    h2->n_told++;
    s->is_received = (uint8_t)ends;
    s->declared = head->content_length;
    s->is_tunnel = (head->flags & KA_HEAD_IS_CONNECT) != 0;
    x->head_bytes = head->nbytes;
    x->head_flags = head->flags;
    ka_exchange_begins(x, now);
    x->reply.is_head = (head->flags & KA_HEAD_IS_HEAD) != 0;
    x->reply.is_connect = s->is_tunnel;
    if ((head->flags & KA_HEAD_EXPECTS_CONTINUE) && !ends)
        x->reading = KA_READING_EXPECTED;
    if (ka_unlikely(service->asks_requests)) {
        const ka_application *app = &service->app;
        unsigned policy_class = app->class_of_request(app->ctx, x, head, service->h2->section.fields);
        (void)ka_conn_set_class(service->table, talk->conn, policy_class);
    }
    int policy_class = ka_conn_class(service->table, talk->conn);
    s->wait.policy_class = policy_class > 0 ? (uint8_t)policy_class : 0;
    const ka_policy *policy = ka_table_policy(service->table, s->wait.policy_class);
    if (policy->max_body_bytes)
        x->max_body = policy->max_body_bytes;
    if (service->limits.max_body_bytes < x->max_body)
        x->max_body = service->limits.max_body_bytes;
    prioritize_first(h2, s, &service->h2->section, head);
    if (policy->max_requests && ka_conn_requests(service->table, talk->conn) >= policy->max_requests)
        ka_h2_goodbye(h2, KA_CAUSE_MAX_REQUESTS); /* exactly so many: what the client sends behind it may be repeated */
    else if (!policy->keep_alive)
        ka_h2_goodbye(h2, KA_CAUSE_POLICY);
}

/* An open request is held by the application, as in HTTP/1, where a connection has one and worst_case_bytes() a place for
 * it. Those beside the first are counted, or one connection could hold as much as a hundred; and none of them is begun
 * when half of the budget is used, so that heads and content of others always find room. */
static int is_room_for(ka_h2 *h2, const ka_head *head, size_t *counted)
{
    ka_pool *pool = &h2->talk->service->pool;
    *counted = 0;
    if (h2->live == NULL || h2->live->n_streams == 0)
        return 1;
    size_t nbytes = KA_H2_REQUEST_BYTES + head->nbytes + head->n_fields * (size_t)KA_H2_FIELD_BYTES;
    if (ka_pool_is_tight(pool) || ka_pool_hold(pool, KA_USE_INPUT, nbytes) < 0)
        return 0;
    *counted = nbytes;
    return 1;
}

/* A new stream. Return it, if the application is to have it. */
static ka_h2_stream *request(ka_h2 *h2, uint32_t id, int ends, int64_t now)
{
    ka_h2_fault found;
    ka_fault refusal;
    ka_h2_service *service = ka_h2_service_of(h2);
    if (!is_taken(h2, id, now))
        return NULL;
    note_opened(h2, id);
    service->bytes = service->section.buf;
    int got = ka_h2_request_read(&service->section, id, ends, 1, &h2->talk->service->limits, &service->request, &found,
                                 &refusal);
    if (got == KA_EPEER) {
        fault(h2, &found, now);
        return NULL;
    }
    size_t counted;
    if (!is_room_for(h2, &service->request.head, &counted)) {
        ka_h2_put_rst(h2, id, KA_H2_REFUSED_STREAM);
        ka_h2_charge(h2, KA_H2_COST_CANCEL, now);
        return NULL;
    }
    ka_h2_stream *s = ka_h2_open(h2, id);
    if (s == NULL) {
        ka_pool_let_go(&h2->talk->service->pool, counted);
        ka_h2_put_rst(h2, id, KA_H2_REFUSED_STREAM);
        return NULL;
    }
    s->counted = counted;
    if (got == KA_H2_REFUSED)
        service->request.head.n_fields = 0; /* not all of them are there */
    if (service->section.is_too_large)
        ka_h2_charge(h2, KA_H2_COST_FAULT, now);
    begin_exchange(h2, s, &service->request, ends, now);
    ka_h2_touch(h2, s);
    if (got == KA_H2_REFUSED)
        s->x.fault = refusal;
    else if (service->request.head.content_length > s->x.max_body)
        (void)ka_fault_set(&s->x.fault, KA_FAULT_BODY_TOO_LARGE, 0, (uint64_t)s->x.max_body);
    else
        return s;
    if (ka_h2_refuse(&s->x, s->x.fault.status, ka_fault_text(s->x.fault.code), KA_CAUSE_BAD_REQUEST, now) < 0)
        ka_h2_reset(h2, s, KA_H2_INTERNAL_ERROR, KA_CAUSE_BAD_REQUEST);
    return NULL;
}

/* A request whose content is behind it in what is here waits until that is read: an application that asks for content finds
 * it, and need not wait for it. Its head is copied, since the section is the next block's. KA_OK or KA_ENOMEM. */
static int hold(ka_h2 *h2, ka_h2_stream *s)
{
    const ka_h2_service *service = ka_h2_service_of(h2);
    const ka_hpack_section *section = &service->section;
    size_t n_fields = service->request.head.n_fields * sizeof(ka_field);
    ka_buf *buf = ka_buf_take(&h2->talk->service->pool, KA_USE_INPUT,
                              sizeof service->request + n_fields + section->used);
    if (buf == NULL)
        return KA_ENOMEM;
    memcpy(buf->data, &service->request, sizeof service->request);
    memcpy(buf->data + sizeof service->request, section->fields, n_fields);
    memcpy(buf->data + sizeof service->request + n_fields, section->buf, section->used);
    s->head = buf;
    s->held_next = NULL;
    s->held_prev = h2->live->held_last;
    *(s->held_prev ? &s->held_prev->held_next : &h2->live->held) = s;
    h2->live->held_last = s;
    return KA_OK;
}

static ka_buf *take_held(ka_h2 *h2, ka_h2_stream *s)
{
    ka_buf *buf = s->head;
    s->head = NULL;
    *(s->held_prev ? &s->held_prev->held_next : &h2->live->held) = s->held_next;
    *(s->held_next ? &s->held_next->held_prev : &h2->live->held_last) = s->held_prev;
    return buf;
}

void ka_h2_unhold(ka_h2 *h2, ka_h2_stream *s)
{
    if (s->head)
        ka_buf_give(&h2->talk->service->pool, take_held(h2, s));
}

/* The one that has waited longest, and has not been refused meanwhile. */
static ka_h2_stream *next_held(ka_h2 *h2)
{
    while (h2->live && h2->live->held && !ka_exchange_is_answering(&h2->live->held->x))
        ka_h2_unhold(h2, h2->live->held);
    return h2->live ? h2->live->held : NULL;
}

/* Hand one over: what was read last, or one that was held. */
static ka_talk_step hand_over(ka_h2 *h2, ka_h2_stream *s)
{
    ka_h2_service *service = ka_h2_service_of(h2);
    service->fields = service->section.fields;
    service->bytes = service->section.buf;
    if (s->head) {
        ka_buf *buf = service->head = take_held(h2, s);
        memcpy(&service->request, buf->data, sizeof service->request);
        service->fields = (const ka_field *)(const void *)(buf->data + sizeof service->request);
        service->bytes = (const char *)(service->fields + service->request.head.n_fields);
    }
    return KA_TALK_REQUEST;
}

/* A whole field block. It is decoded whatever becomes of it: the tables at both ends stay in step by nothing else. */
static ka_h2_stream *fields(ka_h2 *h2, uint32_t id, const char *bytes, size_t len, int ends, int64_t now)
{
    ka_hpack_section *section = &ka_h2_service_of(h2)->section;
    size_t consumed, needs;
    section->used = section->n_fields = 0;
    section->list_size = 0;
    section->has_begun = section->is_too_large = 0;
    int got = ka_hpack_decode(&h2->decoder, section, (const uint8_t *)bytes, len, 1, &consumed, &needs);
    if (got != KA_OK) {
        if (got == KA_ENOMEM)
            ka_h2_fail(h2, KA_H2_INTERNAL_ERROR, KA_CAUSE_BUFFER_LIMIT);
        else
            ka_h2_fail(h2, KA_H2_COMPRESSION_ERROR, KA_CAUSE_BAD_REQUEST);
        return NULL;
    }
    ka_h2_stream *s = ka_h2_find(h2, id);
    if (s) {
        trailers(h2, s, ends, now);
    } else if (id > h2->last_stream) {
        return request(h2, id, ends, now);
    } else if (ka_h2_was_reset(h2, id)) {
        ka_h2_charge(h2, KA_H2_COST_CANCEL, now);
    } else {
        /* RFC 9113 5.1, 5.1.1: it is closed, or was skipped and is closed for that. */
        ka_h2_fail(h2, was_opened(h2, id) ? KA_H2_STREAM_CLOSED : KA_H2_PROTOCOL_ERROR, KA_CAUSE_BAD_REQUEST);
    }
    return NULL;
}

/* A part of a field block, kept until the rest is here. */
static int keep_block(ka_h2 *h2, const char *bytes, size_t len)
{
    ka_pool *pool = &h2->talk->service->pool;
    size_t had = h2->block ? ka_buf_len(h2->block) : 0;
    if (h2->block && ka_buf_room(h2->block) >= len) {
        memcpy(h2->block->data + h2->block->end, bytes, len);
        h2->block->end += len;
        return KA_OK;
    }
    ka_buf *bigger = ka_buf_take(pool, KA_USE_INPUT, had + len);
    if (bigger == NULL)
        return KA_ENOMEM;
    if (had)
        memcpy(bigger->data, h2->block->data, had);
    if (len)
        memcpy(bigger->data + had, bytes, len);
    bigger->end = had + len;
    if (h2->block)
        ka_buf_give(pool, h2->block);
    h2->block = bigger;
    ka_h2_waits(h2);
    return KA_OK;
}

/* HEADERS or CONTINUATION, all of it here; content is at `bytes`. */
static ka_h2_stream *part_of_block(ka_h2 *h2, const ka_h2_frame *frame, const char *bytes, int64_t now)
{
    const ka_service *service = h2->talk->service;
    int is_last = (frame->flags & KA_H2_END_HEADERS) != 0;
    if (frame->type == KA_H2_HEADERS) {
        h2->block_ends = (frame->flags & KA_H2_END_STREAM) != 0;
        if (is_last)
            return fields(h2, frame->stream, bytes, frame->content, h2->block_ends, now);
        h2->block_stream = frame->stream;
    } else {
        /* A block has so many frames, and so many bytes: nobody needs more of them (CVE-2024-27316 and its like). */
        ka_h2_charge(h2, KA_H2_COST_FAULT, now);
        if (h2->leaving == KA_H2_FAILED)
            return NULL;
    }
    size_t had = h2->block ? ka_buf_len(h2->block) : 0;
    if (had + frame->content > 4 * (size_t)service->limits.max_head_bytes) {
        ka_h2_fail(h2, KA_H2_ENHANCE_YOUR_CALM, KA_CAUSE_EXCESSIVE_LOAD);
        return NULL;
    }
    if (keep_block(h2, bytes, frame->content) < 0) {
        ka_h2_fail(h2, KA_H2_ENHANCE_YOUR_CALM, KA_CAUSE_BUFFER_LIMIT);
        return NULL;
    }
    if (!is_last)
        return NULL;
    ka_buf *block = h2->block;
    h2->block = NULL;
    h2->block_stream = 0;
    ka_h2_waits(h2);
    ka_h2_stream *s = fields(h2, frame->stream, block->data, ka_buf_len(block), h2->block_ends, now);
    ka_buf_give(&h2->talk->service->pool, block);
    return s;
}

/* --- frames of the connection, and the small ones of streams --- */

/* RFC 9113 6.9.2: the windows of all streams change by the difference. */
static int new_window(ka_h2 *h2, uint32_t value)
{
    int64_t difference = (int64_t)value - h2->peer_window;
    h2->peer_window = (int32_t)value;
    for (ka_h2_stream *s = h2->live ? h2->live->first : NULL; s; s = s->next) {
        int64_t window = s->send_window + difference;
        if (window > KA_H2_MAX_WINDOW)
            return KA_EPEER;
        s->send_window = (int32_t)window;
        ka_h2_unready(h2, s);
        ka_h2_ready(h2, s);
        if (s->queued)
            ka_h2_touch(h2, s); /* the client may be waited for now, or no longer */
    }
    return KA_OK;
}

static void settings(ka_h2 *h2, const ka_h2_frame *frame, const char *bytes, int64_t now)
{
    ka_h2_fault found;
    if (frame->flags & KA_H2_ACK)
        return;
    /* Each of thousands in a frame may change the windows of all streams. */
    ka_h2_charge(h2, KA_H2_COST_CANCEL + frame->content / (8 * KA_H2_SETTING_LEN), now);
    for (uint32_t at = 0; at < frame->content; at += KA_H2_SETTING_LEN) {
        ka_h2_setting setting;
        if (ka_h2_setting_read((const uint8_t *)bytes + at, &setting, &found) == KA_EPEER) {
            fault(h2, &found, now);
            return;
        }
        switch (setting.id) {
        case KA_H2_HEADER_TABLE_SIZE: ka_hpack_encoder_limit(&h2->encoder, setting.value); break;
        case KA_H2_MAX_FRAME_SIZE:    h2->peer_max_frame = setting.value; break;
        case KA_H2_INITIAL_WINDOW_SIZE:
            if (new_window(h2, setting.value) < 0) {
                ka_h2_fail(h2, KA_H2_FLOW_CONTROL_ERROR, KA_CAUSE_BAD_REQUEST);
                return;
            }
            break;
        default: break; /* RFC 9113 6.5.2: what nobody knows is ignored */
        }
    }
    char *at = ka_h2_room(h2, KA_H2_FRAME_HEAD);
    if (at)
        ka_talk_wrote_until(h2->talk, ka_h2_put_settings_ack(at));
}

static void ping(ka_h2 *h2, const ka_h2_frame *frame, int64_t now)
{
    if ((frame->flags & KA_H2_ACK) == 0) {
        ka_h2_charge(h2, KA_H2_COST_FRAME, now);
        char *at = ka_h2_room(h2, KA_H2_FRAME_HEAD + 8);
        if (at)
            ka_talk_wrote_until(h2->talk, ka_h2_put_ping(at, frame->opaque, 1));
        return;
    }
    if (memcmp(frame->opaque, "kacoreGA", 8) == 0 && h2->leaving == KA_H2_WARNED) {
        ka_h2_goodbye(h2, (ka_cause)h2->leaves_for); /* what crossed the warning is here now */
    } else if (memcmp(frame->opaque, "kacoreRT", 8) == 0 && h2->is_sampling) {
        /* So many bytes come in a round trip: two thirds of the window or more, and it holds the client up. */
        uint32_t most = ka_h2_service_of(h2)->options.max_window;
        h2->is_sampling = 0;
        if (h2->sampled >= h2->window / 3 * 2 && h2->window < most) {
            h2->window = h2->window < most / 2 ? 2 * h2->window : most;
            ka_h2_put_credit(h2, NULL);
        }
    } else {
        ka_h2_charge(h2, KA_H2_COST_FRAME, now);
    }
}

static void window_update(ka_h2 *h2, const ka_h2_frame *frame, int64_t now)
{
    ka_h2_charge(h2, KA_H2_COST_FRAME, now);
    if (frame->stream == 0) {
        if ((int64_t)h2->send_window + frame->value > KA_H2_MAX_WINDOW)
            ka_h2_fail(h2, KA_H2_FLOW_CONTROL_ERROR, KA_CAUSE_BAD_REQUEST); /* RFC 9113 6.9.1 */
        else
            h2->send_window += (int32_t)frame->value;
        return;
    }
    ka_h2_stream *s = ka_h2_find(h2, frame->stream);
    if (s == NULL && is_idle_stream(h2, frame->stream)) {
        ka_h2_fail(h2, KA_H2_PROTOCOL_ERROR, KA_CAUSE_BAD_REQUEST);
    } else if (s && (int64_t)s->send_window + frame->value > KA_H2_MAX_WINDOW) {
        fault_of_stream(h2, s->id, KA_H2_FLOW_CONTROL_ERROR, now);
    } else if (s) {
        s->send_window += (int32_t)frame->value;
        ka_h2_ready(h2, s);
    }
}

static void reset_stream(ka_h2 *h2, const ka_h2_frame *frame, int64_t now)
{
    ka_h2_stream *s = ka_h2_find(h2, frame->stream);
    if (s) {
        s->cause = KA_CAUSE_CLIENT;
        ka_h2_close(h2, s);
        ka_h2_charge(h2, KA_H2_COST_CANCEL, now);
    } else if (is_idle_stream(h2, frame->stream)) {
        ka_h2_fail(h2, KA_H2_PROTOCOL_ERROR, KA_CAUSE_BAD_REQUEST);
    } else {
        ka_h2_charge(h2, KA_H2_COST_FRAME, now);
    }
}

/* One frame, all of it here. Return: a stream that the application is to have, or NULL. */
static ka_h2_stream *whole_frame(ka_h2 *h2, const ka_h2_frame *frame, const char *bytes, int64_t now)
{
    switch (frame->type) {
    case KA_H2_HEADERS:
    case KA_H2_CONTINUATION:  return part_of_block(h2, frame, bytes, now);
    case KA_H2_RST_STREAM:    reset_stream(h2, frame, now); break;
    case KA_H2_SETTINGS:      settings(h2, frame, bytes, now); break;
    case KA_H2_PING:          ping(h2, frame, now); break;
    case KA_H2_WINDOW_UPDATE: window_update(h2, frame, now); break;
    case KA_H2_GOAWAY:
        ka_h2_charge(h2, KA_H2_COST_FRAME, now);
        h2->peer_leaves = 1; /* RFC 9113 6.8: open streams go on */
        break;
    case KA_H2_PRIORITY_UPDATE:
        ka_h2_charge(h2, KA_H2_COST_FRAME, now);
        priority_update(h2, frame, bytes);
        break;
    default: ka_h2_charge(h2, KA_H2_COST_FRAME, now); break; /* PRIORITY, RFC 9113 5.3.2 */
    }
    return NULL;
}

/* --- the loop --- */

size_t ka_h2_appetite(const ka_h2 *h2)
{
    size_t here = h2->talk->window_len;
    return here < KA_READ_MAX ? KA_READ_MAX - here : 0;
}

static void skip(ka_h2 *h2, const ka_h2_frame *frame)
{
    h2->left = frame->length - (frame->n_head - KA_H2_FRAME_HEAD);
    h2->left_padding = h2->left_stream = h2->left_ends = 0;
}

/* Does its content matter as a whole? Else it is taken as it comes. */
static int is_taken_whole(const ka_h2_frame *frame)
{
    return frame->type == KA_H2_HEADERS || frame->type == KA_H2_CONTINUATION || frame->type == KA_H2_SETTINGS ||
           frame->type == KA_H2_PRIORITY_UPDATE;
}

/* The next frame from the window. KA_OK, with *stream where a request has begun; KA_PARTIAL: it is not whole. */
static int next_frame(ka_h2 *h2, int64_t now, ka_h2_stream **stream)
{
    ka_talk *talk = h2->talk;
    ka_h2_reader before = h2->reader;
    ka_h2_frame frame;
    ka_h2_fault found;
    *stream = NULL;
    int got = ka_h2_frame_read(&h2->reader, (const uint8_t *)talk->window, talk->window_len, &frame, &found);
    if (got == KA_PARTIAL)
        return KA_PARTIAL;
    if (got == KA_EPEER) {
        fault(h2, &found, now);
        if (h2->leaving == KA_H2_FAILED)
            return KA_OK;
        h2->left = frame.length; /* an error of its stream: the rest of it is thrown away */
        h2->left_padding = h2->left_stream = h2->left_ends = 0;
        if (frame.type == KA_H2_DATA)
            h2->recv_window -= (int32_t)(frame.length < KA_H2_DEFAULT_WINDOW ? frame.length : KA_H2_DEFAULT_WINDOW);
        ka_talk_consume(talk, KA_H2_FRAME_HEAD);
        return KA_OK;
    }
    if (is_taken_whole(&frame) && talk->window_len - frame.n_head < (size_t)frame.content + frame.padding) {
        h2->reader = before;
        return KA_PARTIAL;
    }
    h2->had_frame = 1;
    const char *bytes = talk->window + frame.n_head;
    if (frame.type == KA_H2_DATA) {
        ka_talk_consume(talk, frame.n_head);
        begin_data(h2, &frame, now);
        if (frame.length == 0 || (h2->left == 0 && h2->left_padding == 0))
            take_payload(h2, now);
        return KA_OK;
    }
    if (is_taken_whole(&frame)) {
        ka_talk_consume(talk, (size_t)frame.n_head + frame.content + frame.padding);
    } else {
        ka_talk_consume(talk, frame.n_head);
        skip(h2, &frame);
    }
    *stream = whole_frame(h2, &frame, bytes, now);
    return KA_OK;
}

int ka_h2_is_over(ka_h2 *h2, int *lingers)
{
    *lingers = !ka_talk_is_eof(h2->talk);
    if (h2->leaving == KA_H2_FAILED)
        return 1;
    if (h2->live && h2->live->n_streams)
        return 0;
    if (h2->leaving == KA_H2_LEAVES)
        ka_talk_end_with(h2->talk, (ka_cause)h2->leaves_for);
    else if (h2->peer_leaves || ka_talk_is_eof(h2->talk))
        ka_talk_end_with(h2->talk, KA_CAUSE_CLIENT);
    return h2->talk->persistence != KA_PERSISTS;
}

/* FIN: what was not whole will not come; the rest is answered as far as the windows go. */
static void learn_fin(ka_h2 *h2)
{
    ka_h2_stream *next;
    h2->knows_fin = 1;
    for (ka_h2_stream *s = h2->live ? h2->live->first : NULL; s; s = next) {
        next = s->next;
        s->has_eof_news = 1;
        ka_h2_touch(h2, s);
    }
}

ka_talk_step ka_h2_next(ka_h2 *h2, int64_t now, ka_h2_stream **stream)
{
    ka_talk *talk = h2->talk;
    ka_h2_service *service = ka_h2_service_of(h2);
    int lingers;
    if (service->head) {
        ka_buf_give(&talk->service->pool, service->head);
        service->head = NULL;
    }
    if (!h2->has_preface) {
        ka_h2_fault found;
        int got = ka_h2_preface_read((const uint8_t *)talk->window, talk->window_len, &found);
        if (got == KA_OK) {
            ka_talk_consume(talk, KA_H2_PREFACE_LEN);
            h2->has_preface = 1;
        } else if (got == KA_EPEER) {
            fault(h2, &found, now);
        }
    }
    while (h2->leaving != KA_H2_FAILED) {
        size_t before = talk->window_len;
        int waits = talk->unsent > KA_H2_OUT_MOST; /* it is to take what it has asked for */
        if (h2->has_preface && before && !waits) {
            if (h2->left || h2->left_padding) {
                take_payload(h2, now);
                continue;
            }
            if (next_frame(h2, now, stream) == KA_OK) {
                if (*stream && ((*stream)->is_received || talk->window_len == 0 || hold(h2, *stream) < 0))
                    return hand_over(h2, *stream);
                continue;
            }
        }
        if ((*stream = next_held(h2)) != NULL)
            return hand_over(h2, *stream);
        if (waits)
            return KA_TALK_WAIT;
        if (ka_talk_is_eof(talk) && !h2->knows_fin)
            learn_fin(h2);
        if (ka_h2_is_over(h2, &lingers))
            break;
        return ka_talk_is_eof(talk) ? KA_TALK_WAIT : KA_TALK_READ;
    }
    (void)ka_h2_is_over(h2, &lingers);
    return lingers ? KA_TALK_LINGER : KA_TALK_CLOSE;
}
