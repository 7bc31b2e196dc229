/* ka_h2.c: see ka_h2.h. In order: the service, streams, the life of a connection, deadlines, what is reported. */
#include "talk/ka_h2_parts.h"

#include <stdlib.h>

enum {
    STREAMS_KEEP = 256,
    MAX_STREAMS = 65535,
    LOOKS = 16,     /* at those who may go when room is needed */
    NO_REQUEST = 18 /* "PRI * HTTP/2.0" and the empty line */
};

#define JUST_COME ((int64_t)1000000000) /* as for the heads of HTTP/1: what is on its way is waited for */

const ka_h2_options ka_h2_options_default = {.max_streams = 128, .window = KA_H2_DEFAULT_WINDOW, .max_window = 1 << 20};

/* --- the service --- */

int ka_h2_enable(ka_service *service, const ka_h2_options *options)
{
    const ka_limits *limits = &service->limits;
    if (options->max_streams == 0 || options->max_streams > MAX_STREAMS || options->window < KA_H2_DEFAULT_WINDOW ||
        options->max_window < options->window || options->max_window > KA_H2_MAX_WINDOW / 8)
        return KA_EINVAL;
    ka_h2_service *made = calloc(1, sizeof *made);
    if (made == NULL)
        return KA_ENOMEM;
    ka_hpack_init();
    made->options = *options;
    /* Room for joined cookies behind what is decoded, and for one table's size of what is not kept. */
    made->section.size = 2 * limits->max_head_bytes + KA_HPACK_DEFAULT_TABLE;
    made->section.max_list = limits->max_head_bytes;
    /* All that max_list leaves room for: pieces of cookies are one field in the end, and pseudo-header fields are none. */
    made->section.max_fields = limits->max_head_bytes / 32 + 1;
    made->section.buf = malloc(made->section.size);
    made->section.fields = malloc(made->section.max_fields * sizeof *made->section.fields);
    service->h2 = made;
    if (made->section.buf && made->section.fields)
        return KA_OK;
    ka_h2_disable(service);
    return KA_ENOMEM;
}

void ka_h2_disable(ka_service *service)
{
    ka_h2_service *h2 = service->h2;
    service->h2 = NULL;
    if (h2 == NULL)
        return;
    while (h2->free_streams) {
        ka_h2_stream *s = h2->free_streams;
        h2->free_streams = s->chain;
        free(s);
    }
    if (h2->head)
        ka_buf_give(&service->pool, h2->head);
    free(h2->section.buf);
    free(h2->section.fields);
    free(h2->staged);
    free(h2);
}

/* --- streams --- */

static ka_h2_stream **bucket_of(ka_h2_live *live, uint32_t id) { return &live->bucket[id / 2 % KA_H2_BUCKETS]; }

ka_h2_stream *ka_h2_find(const ka_h2 *h2, uint32_t id)
{
    ka_h2_stream *s = h2->live ? *bucket_of(h2->live, id) : NULL;
    while (s && s->id != id)
        s = s->chain;
    return s;
}

static ka_h2_stream *take_stream(ka_h2_service *service)
{
    ka_h2_stream *s = service->free_streams;
    if (s) {
        service->free_streams = s->chain;
        service->n_free_streams--;
        return s;
    }
    return malloc(sizeof *s);
}

static void give_stream(ka_h2_service *service, ka_h2_stream *s)
{
    if (KA_KEEPS_FREED && service->n_free_streams < STREAMS_KEEP) {
        s->chain = service->free_streams;
        service->free_streams = s;
        service->n_free_streams++;
    } else {
        free(s);
    }
}

ka_h2_stream *ka_h2_open(ka_h2 *h2, uint32_t id)
{
    ka_h2_service *service = ka_h2_service_of(h2);
    if (h2->live == NULL && (h2->live = calloc(1, sizeof *h2->live)) == NULL)
        return NULL;
    ka_h2_stream *s = take_stream(service);
    if (s == NULL)
        return NULL;
    *s = (ka_h2_stream){
        .x = {.talk = h2->talk,
              .is_h2 = 1,
              .reading = KA_READING_CONTENT,
              .max_body = INT64_MAX,
              .timed_at = KA_TIMED,
              .reply = {.minor = 1}},
        .id = id,
        .send_window = h2->peer_window,
        .recv_window = (int32_t)service->options.window,
        .declared = -1,
        .urgency = 3, /* RFC 9218 4.1; and turns for who says nothing: nobody there has a reason to wait */
        .is_incremental = 1,
    };
    ka_h2_live *live = h2->live;
    ka_h2_stream **bucket = bucket_of(live, id);
    s->chain = *bucket;
    *bucket = s;
    s->prev = live->last;
    *(live->last ? &live->last->next : &live->first) = s;
    live->last = s;
    live->n_streams++;
    service->n_open++;
    return s;
}

void ka_h2_touch(ka_h2 *h2, ka_h2_stream *s)
{
    ka_h2_live *live = h2->live;
    if (s->is_touched)
        return;
    s->is_touched = 1;
    s->touched_next = NULL;
    s->touched_prev = live->touched_last;
    *(live->touched_last ? &live->touched_last->touched_next : &live->touched) = s;
    live->touched_last = s;
}

void ka_h2_untouch(ka_h2 *h2, ka_h2_stream *s)
{
    ka_h2_live *live = h2->live;
    if (!s->is_touched)
        return;
    s->is_touched = 0;
    *(s->touched_prev ? &s->touched_prev->touched_next : &live->touched) = s->touched_next;
    *(s->touched_next ? &s->touched_next->touched_prev : &live->touched_last) = s->touched_prev;
}

void ka_h2_lose(ka_h2 *h2, ka_h2_stream *s)
{
    void *owner = s->x.owner;
    s->x.owner = NULL;
    s->x.reading = KA_READING_CLOSED;
    s->x.wants_body = s->x.hold = 0;
    s->has_body_news = s->has_eof_news = s->has_drain_news = 0;
    if (owner)
        h2->talk->service->app.on_lost(owner);
}

void ka_h2_close(ka_h2 *h2, ka_h2_stream *s)
{
    ka_service *service = h2->talk->service;
    ka_h2_live *live = h2->live;
    ka_h2_lose(h2, s); /* first: what is released below may run code that would still write to it */
    ka_h2_stream **at = bucket_of(live, s->id);
    while (*at != s)
        at = &(*at)->chain;
    *at = s->chain;
    *(s->prev ? &s->prev->next : &live->first) = s->next;
    *(s->next ? &s->next->prev : &live->last) = s->prev;
    live->n_streams--;
    service->h2->n_open--;
    ka_h2_untouch(h2, s);
    ka_h2_unready(h2, s);
    ka_h2_unhold(h2, s);
    ka_h2_wait_in(&service->h2->clock, &s->wait, KA_FREE, 0);
    h2->n_in -= (uint32_t)s->n_in; /* given back to the window of the connection with what is read next */
    for (ka_buf *next, *buf = s->in; buf; buf = next) {
        next = buf->next;
        ka_h2_give_in(h2, buf);
    }
    if (service->h2->staged_for == &s->x)
        service->h2->staged_for = NULL;
    ka_h2_drop_out(h2, s);
    ka_pool_let_go(&service->pool, s->counted);
    give_stream(service->h2, s);
    ka_h2_put_credit(h2, NULL);
}

void ka_h2_put_rst(ka_h2 *h2, uint32_t id, unsigned error)
{
    char *at = ka_h2_room(h2, KA_H2_FRAME_HEAD + 4);
    if (at == NULL)
        return;
    ka_talk_wrote_until(h2->talk, ka_h2_put_reset(at, id, error));
    if (id <= h2->last_stream)
        ka_h2_past_add(&h2->were_reset, ka_h2_distance(h2, id));
}

int ka_h2_was_reset(const ka_h2 *h2, uint32_t id)
{
    return id <= h2->last_stream && ka_h2_past_has(&h2->were_reset, ka_h2_distance(h2, id));
}

void ka_h2_reset(ka_h2 *h2, ka_h2_stream *s, unsigned error, ka_cause cause)
{
    s->cause = (uint8_t)cause;
    ka_h2_put_rst(h2, s->id, error);
    ka_h2_close(h2, s);
}

/* --- the life of a connection --- */

int ka_h2_is_preface(const ka_talk *talk)
{
    ka_h2_fault fault;
    if (talk->service->h2 == NULL || talk->is_filtered || ka_conn_requests(talk->service->table, talk->conn))
        return KA_EPEER;
    /* Its request line and the empty one behind it are enough: no request of HTTP/1 begins so, and the rest is judged as
     * HTTP/2 judges it. */
    size_t n = talk->window_len < NO_REQUEST ? talk->window_len : NO_REQUEST;
    int got = ka_h2_preface_read((const uint8_t *)talk->window, n, &fault);
    return got == KA_PARTIAL && n == NO_REQUEST ? KA_OK : got;
}

int ka_h2_begin(ka_talk *talk, int64_t now)
{
    ka_service *service = talk->service;
    const ka_h2_options *options = &service->h2->options;
    const ka_h2_setting settings[] = {
        {KA_H2_MAX_CONCURRENT_STREAMS, options->max_streams},
        {KA_H2_MAX_HEADER_LIST_SIZE, service->limits.max_head_bytes},
        {KA_H2_ENABLE_CONNECT_PROTOCOL, 1},
        {KA_H2_NO_RFC7540_PRIORITIES, 1},
        {KA_H2_INITIAL_WINDOW_SIZE, options->window}, /* where it is not the usual one */
    };
    uint32_t n = sizeof settings / sizeof *settings - (options->window == KA_H2_DEFAULT_WINDOW ? 1 : 0);
    ka_h2 *h2 = calloc(1, sizeof *h2);
    if (h2 == NULL)
        return KA_ENOMEM;
    h2->talk = talk;
    h2->wait.is_connection = 1;
    h2->reader.max_frame = KA_H2_MIN_MAX_FRAME;
    h2->send_window = h2->recv_window = h2->peer_window = KA_H2_DEFAULT_WINDOW;
    h2->peer_max_frame = KA_H2_MIN_MAX_FRAME;
    h2->window = options->window;
    h2->paid = (uint32_t)(now >> 30);
    ka_hpack_decoder_init(&h2->decoder);
    ka_hpack_encoder_init(&h2->encoder, KA_HPACK_OWN_TABLE);
    talk->h2 = h2;
    service->h2->n_connections++;
    int policy_class = ka_conn_class(service->table, talk->conn);
    h2->wait.policy_class = policy_class > 0 ? (uint8_t)policy_class : 0;
    char *at = ka_h2_room(h2, KA_H2_FRAME_HEAD + sizeof settings);
    if (at == NULL)
        return KA_ENOMEM;
    ka_talk_wrote_until(talk, ka_h2_put_settings(at, settings, n));
    ka_h2_put_credit(h2, NULL);
    return KA_OK;
}

static void close_streams(ka_h2 *h2, ka_cause cause)
{
    while (h2->live && h2->live->first) {
        h2->live->first->cause = (uint8_t)cause;
        ka_h2_close(h2, h2->live->first);
    }
}

static void let_go_of(ka_h2 *h2)
{
    ka_pool_let_go(&h2->talk->service->pool, h2->held);
    h2->held = 0;
}

void ka_h2_free(ka_h2 *h2)
{
    ka_service *service = h2->talk->service;
    if (h2->leaving != KA_H2_FAILED)
        h2->leaving = KA_H2_FAILED; /* no more is put into the output */
    close_streams(h2, (ka_cause)h2->talk->cause);
    ka_h2_wait_in(&service->h2->clock, &h2->wait, KA_FREE, 0);
    if (h2->block)
        ka_buf_give(&service->pool, h2->block);
    ka_hpack_decoder_free(&h2->decoder);
    ka_hpack_encoder_free(&h2->encoder);
    let_go_of(h2);
    service->h2->n_connections--;
    free(h2->live);
    free(h2);
}

static void put_goaway(ka_h2 *h2, uint32_t last, unsigned error)
{
    char *at = ka_h2_room(h2, KA_H2_FRAME_HEAD + 8);
    if (at)
        ka_talk_wrote_until(h2->talk, ka_h2_put_goaway(at, last, error));
}

void ka_h2_fail(ka_h2 *h2, unsigned error, ka_cause cause)
{
    if (h2->leaving == KA_H2_FAILED)
        return;
    put_goaway(h2, h2->last_stream, error);
    h2->leaving = KA_H2_FAILED;
    ka_talk_end_with(h2->talk, cause);
    h2->talk->persistence = KA_LINGERS;
    h2->talk->cause = (uint8_t)cause;
    ka_talk_attend(h2->talk);
}

static const uint8_t warning[8] = {'k', 'a', 'c', 'o', 'r', 'e', 'G', 'A'};

void ka_h2_leave(ka_h2 *h2, ka_cause cause)
{
    if (h2->leaving != KA_H2_STAYS)
        return;
    h2->leaving = KA_H2_WARNED;
    h2->leaves_for = (uint8_t)cause;
    put_goaway(h2, KA_H2_MAX_WINDOW, KA_H2_NO_ERROR);
    char *at = ka_h2_room(h2, KA_H2_FRAME_HEAD + 8);
    if (at)
        ka_talk_wrote_until(h2->talk, ka_h2_put_ping(at, warning, 0)); /* its answer says that the client knows */
    ka_talk_attend(h2->talk);
}

void ka_h2_drain(ka_h2 *h2)
{
    for (ka_h2_stream *s = h2->live ? h2->live->first : NULL; s; s = s->next) {
        if (!ka_exchange_is_tunnel(&s->x))
            continue;
        s->has_drain_news = 1;
        ka_h2_touch(h2, s);
        ka_talk_attend(h2->talk);
    }
    ka_h2_leave(h2, KA_CAUSE_DRAIN);
}

void ka_h2_goodbye(ka_h2 *h2, ka_cause cause)
{
    if (h2->leaving >= KA_H2_LEAVES)
        return;
    if (h2->leaving == KA_H2_STAYS)
        h2->leaves_for = (uint8_t)cause;
    h2->leaving = KA_H2_LEAVES;
    put_goaway(h2, h2->last_stream, KA_H2_NO_ERROR);
    ka_talk_attend(h2->talk);
}

void ka_h2_charge(ka_h2 *h2, unsigned cost, int64_t now)
{
    uint32_t ticks = (uint32_t)(now >> 30), waited = ticks - h2->paid;
    h2->paid = ticks;
    if (waited)
        ka_h2_credit(h2, waited < 1000 ? waited * KA_H2_CREDIT_SECOND : UINT32_MAX);
    h2->debt += cost;
    if (ka_unlikely(h2->debt > KA_H2_MAX_DEBT))
        ka_h2_fail(h2, KA_H2_ENHANCE_YOUR_CALM, KA_CAUSE_EXCESSIVE_LOAD);
}

/* --- deadlines --- */

ka_talk *ka_h2_talk_of(ka_h2_wait *wait)
{
    if (wait->is_connection)
        return ((ka_h2 *)(void *)((char *)wait - offsetof(ka_h2, wait)))->talk;
    return ((ka_h2_stream *)(void *)((char *)wait - offsetof(ka_h2_stream, wait)))->x.talk;
}

/* A stream's time is up: it is answered where that can be, and the connection goes on. */
static void late_stream(ka_h2 *h2, ka_h2_stream *s, int64_t now)
{
    unsigned phase = s->wait.phase;
    ka_cause cause = phase == KA_BODY ? KA_CAUSE_BODY_TIMEOUT
                   : phase == KA_BUSY ? KA_CAUSE_HANDLER_TIMEOUT
                                      : KA_CAUSE_SEND_TIMEOUT;
    int answered = phase == KA_BODY ? ka_h2_refuse(&s->x, 408, "the request took too long to arrive", cause, now)
                 : phase == KA_BUSY ? ka_h2_refuse(&s->x, 503, "the application took too long to answer", cause, now)
                                    : KA_EINVAL;
    ka_h2_wait_in(&ka_h2_service_of(h2)->clock, &s->wait, KA_FREE, now); /* its turn says what is waited for now */
    if (answered < 0)
        ka_h2_reset(h2, s, phase == KA_BUSY ? KA_H2_INTERNAL_ERROR : KA_H2_CANCEL, cause);
}

ka_cause ka_h2_late(ka_h2 *h2, ka_h2_wait *wait, int64_t now)
{
    if (!wait->is_connection) {
        late_stream(h2, (ka_h2_stream *)(void *)((char *)wait - offsetof(ka_h2_stream, wait)), now);
        return KA_CAUSE_NONE;
    }
    if (wait->phase == KA_WRITE)
        return KA_CAUSE_SEND_TIMEOUT;
    ka_h2_wait_in(&ka_h2_service_of(h2)->clock, wait, KA_FREE, now);
    ka_h2_fail(h2, KA_H2_ENHANCE_YOUR_CALM, KA_CAUSE_HEADER_TIMEOUT);
    return KA_CAUSE_NONE;
}

/* Is the application at work for it? Then it stays. */
static int is_served(const ka_h2 *h2)
{
    for (const ka_h2_stream *s = h2->live ? h2->live->first : NULL; s; s = s->next)
        if (s->wait.phase == KA_BUSY || ka_exchange_is_tunnel(&s->x))
            return 1;
    return 0;
}

ka_talk *ka_h2_victim(const ka_service *service, int64_t now)
{
    static const uint8_t phases[] = {KA_HEAD, KA_BODY, KA_WRITE};
    const ka_h2_clock *clock = &service->h2->clock;
    unsigned n = 0;
    for (unsigned i = 0; i < sizeof phases; i++) {
        unsigned k = phases[i] - (unsigned)KA_HEAD;
        for (uint64_t classes = clock->classes[k]; classes; classes &= classes - 1) {
            unsigned c = (unsigned)__builtin_ctzll(classes);
            int64_t least = phases[i] == KA_HEAD ? JUST_COME : ka_table_policy(service->table, c)->rate_window_ns;
            for (ka_h2_wait *wait = clock->first[k][c]; wait && now - wait->since >= least; wait = wait->next) {
                ka_talk *talk = ka_h2_talk_of(wait);
                if (!talk->is_driven && !is_served(talk->h2))
                    return talk;
                if (++n == LOOKS)
                    return NULL;
            }
        }
    }
    return NULL;
}

/* --- what is reported --- */

/* The client is to take bytes before anything goes on; or it has begun something that is not whole. */
static ka_phase phase_of(const ka_h2 *h2)
{
    const ka_talk *talk = h2->talk;
    if (talk->unsent || (h2->live && h2->live->urgencies && h2->send_window <= 0))
        return KA_WRITE;
    return h2->block_stream || (talk->window_len && h2->left == 0 && h2->left_padding == 0) ? KA_HEAD : KA_FREE;
}

/* What the tables of HPACK hold counts, as all that a stranger can have us hold. */
static int hold_tables(ka_h2 *h2)
{
    ka_pool *pool = &h2->talk->service->pool;
    uint32_t holds = (uint32_t)h2->decoder.table.room + h2->encoder.table.room;
    if (holds > h2->held && ka_pool_hold(pool, KA_USE_INPUT, holds - h2->held) < 0)
        return KA_ENOMEM;
    if (holds < h2->held)
        ka_pool_let_go(pool, h2->held - holds);
    h2->held = holds;
    return KA_OK;
}

int ka_h2_settle(ka_h2 *h2, int64_t now)
{
    ka_talk *talk = h2->talk;
    ka_table *table = talk->service->table;
    ka_h2_live *live = h2->live;
    uint32_t n = live ? live->n_streams : 0;
    /* A connection is not idle before its output is with the kernel. */
    while (h2->n_told > n && (h2->n_told > 1 || talk->unsent == 0)) {
        (void)ka_conn_event(table, talk->conn, KA_EV_STREAM_CLOSED, now);
        h2->n_told--;
    }
    /* A part of a frame is waited for from when it is the first that is here; not so one of a field block's. */
    if (h2->had_frame && h2->wait.phase == KA_HEAD && h2->block_stream == 0)
        ka_h2_wait_in(&talk->service->h2->clock, &h2->wait, KA_FREE, now);
    h2->had_frame = 0;
    ka_h2_wait_in(&talk->service->h2->clock, &h2->wait, phase_of(h2), now);
    h2->needs_window = talk->unsent == 0;
    if (live)
        live->n_filled = 0;
    if (h2->n_told)
        return KA_OK;
    if (live) {
        h2->live = NULL;
        free(live);
    }
    ka_hpack_decoder_rest(&h2->decoder);
    ka_hpack_encoder_rest(&h2->encoder);
    if (ka_likely(hold_tables(h2) == KA_OK))
        return KA_OK;
    ka_hpack_encoder_forget(&h2->encoder);
    return hold_tables(h2);
}

ka_cause ka_h2_sent(ka_h2 *h2, size_t nbytes, int64_t now)
{
    const ka_service *service = h2->talk->service;
    if (h2->wait.phase != KA_WRITE)
        return KA_CAUSE_NONE;
    if (h2->needs_window) { /* answers to its PINGs are not what it is waited for */
        nbytes = h2->live ? h2->live->n_filled : 0;
        if (nbytes == 0)
            return KA_CAUSE_NONE;
        h2->live->n_filled = 0;
    }
    const ka_policy *policy = ka_table_policy(service->table, h2->wait.policy_class);
    return ka_h2_wait_progress(&service->h2->clock, &h2->wait, policy, nbytes, now) == KA_ESLOW ? KA_CAUSE_SEND_RATE
                                                                                                : KA_CAUSE_NONE;
}

/* --- check --- */

#define MUST(condition, sentence) \
    if (!(condition))             \
    return sentence

static const char *check_stream(const ka_h2 *h2, const ka_h2_stream *s)
{
    size_t n_in = 0, queued = 0;
    for (const ka_buf *buf = s->in; buf; buf = buf->next)
        n_in += ka_buf_len(buf);
    for (const ka_buf *buf = s->out; buf; buf = buf->next)
        queued += ka_buf_len(buf);
    MUST(s->x.talk == h2->talk && s->x.is_h2, "a stream is on another connection");
    MUST(ka_h2_find(h2, s->id) == s, "a stream is not found by its number");
    MUST(s->id <= h2->last_stream, "a stream is open above the last one");
    MUST(n_in == s->n_in, "the content that waits to be read is miscounted");
    MUST(queued == s->queued, "the content that waits to be sent is miscounted");
    MUST(!s->is_ready || (queued && s->send_window > 0), "a stream has its turn and nothing to send");
    MUST(s->is_ready || queued == 0 || s->send_window <= 0, "a stream waits for a turn that does not come");
    MUST(s->x.owner == NULL || ka_exchange_is_open(&s->x), "a stream is held after its end");
    MUST(!s->is_sent || queued == 0, "a stream has content behind its end");
    return NULL;
}

const char *ka_h2_check(const ka_h2 *h2)
{
    uint32_t n = 0;
    size_t n_in = 0, in_bytes = 0;
    for (const ka_h2_stream *s = h2->live ? h2->live->first : NULL; s; s = s->next) {
        const char *wrong = check_stream(h2, s);
        if (wrong)
            return wrong;
        n++;
        n_in += s->n_in;
        for (const ka_buf *buf = s->in; buf; buf = buf->next)
            in_bytes += buf->cap;
    }
    MUST(h2->live == NULL || n == h2->live->n_streams, "the streams are miscounted");
    MUST(n_in == h2->n_in, "the content of all streams is miscounted");
    MUST(in_bytes == (h2->live ? h2->live->in_bytes : 0), "the buffers of that content are miscounted");
    MUST(h2->recv_window + (int64_t)n_in <= KA_H2_STREAMS_AHEAD * (int64_t)h2->window + KA_H2_DEFAULT_WINDOW,
         "the client may send more than the window");
    MUST(h2->block == NULL || h2->block_stream, "a part of a field block is nobody's");
    return NULL;
}
