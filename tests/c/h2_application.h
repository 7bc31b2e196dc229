/* h2_application.h: an application of HTTP/2 for tests, and one connection to it, over h2_driver.h. */
#ifndef H2_APPLICATION_H
#define H2_APPLICATION_H

#include <sys/mman.h>

#include "check.h"
#include "faults.h"

#define MUST(condition, sentence) CHECK(condition, "%s", sentence)
/* The compiler knows malloc, and that it looks at no variable of ours. */
#define CLIENT_ALLOCATES(statement)                           \
    do {                                                      \
        volatile int *is_on = &faults.is_on, was_on = *is_on; \
        *is_on = 0;                                           \
        statement;                                            \
        *is_on = was_on;                                      \
    } while (0)
#include "h2_driver.h"

typedef struct {
    ka_exchange *x; /* NULL: it is not the application's */
    uint32_t id;
    int n_news[4], n_lost;
    ka_cause cause;
    size_t n_read;
} request;

static world w;
static conn *c;
static client *k;
static request requests[CLIENT_STREAMS];
static uint32_t order[CLIENT_STREAMS]; /* in which they were handed over */
static int n_requests, n_released, n_refused;
static void (*handler)(request *r), (*on_read)(request *r), (*on_release)(void);
static char pattern[1 << 20];
static int file_fd; /* of the same bytes */
static ka_policy policy;
static ka_h2_options options;

static inline request *at(uint32_t id) { return &requests[id / 2]; }

static inline void on_request(void *ctx, ka_exchange *x, const ka_head *head, const ka_field *fields)
{
    uint32_t id = ((const ka_h2_stream *)(const void *)x)->id;
    request *r = at(id);
    (void)ctx, (void)fields;
    EXPECT(r->x == NULL && head->method.len && head->host.len);
    *r = (request){.x = x, .id = id};
    order[n_requests++ % CLIENT_STREAMS] = id;
    x->owner = r;
    if (handler)
        handler(r);
}
static inline void on_news(void *ctx, ka_exchange *x, ka_news news)
{
    request *r = x->owner;
    (void)ctx;
    if (r == NULL)
        return;
    r->n_news[news]++;
    if (news == KA_NEWS_BODY && on_read)
        on_read(r);
}
static inline void on_lost(void *owner)
{
    request *r = owner;
    EXPECT(r->x != NULL);
    r->cause = ka_exchange_cause(r->x);
    r->n_lost++;
    r->x = NULL;
}
static inline void release(void *owner)
{
    ++*(int *)owner;
    if (on_release)
        on_release();
}
static inline void on_refused(void *ctx, ka_exchange *x)
{
    (void)ctx;
    EXPECT(ka_exchange_status(x) >= 400);
    n_refused++;
}

static inline void start_with(size_t max_buffer_bytes)
{
    const ka_application app = {
        .on_request = on_request, .on_news = on_news, .on_lost = on_lost, .release = release, .on_refused = on_refused};
    memset(&w, 0, offsetof(world, conns));
    memset(requests, 0, sizeof requests);
    n_requests = n_released = n_refused = 0;
    if (h2_init(&w, &policy, &options, max_buffer_bytes, &app) != KA_OK)
        abort();
    c = h2_open(&w, 0);
    k = &c->client;
}

/* A connection whose preface and SETTINGS are through. */
static inline void start(void)
{
    start_with(64 << 20);
    client_preface(k);
    client_settings(k, -1, -1);
    (void)h2_run(&w);
    EXPECT(k->got_settings && k->n_acks == 1);
}

static inline void stop(void)
{
    if (c->h)
        ka_driver_close(&w.d, c->h, KA_CAUSE_CLIENT);
    for (int i = 0; i < CLIENT_STREAMS; i++)
        EXPECT(requests[i].x == NULL);
    client_end(k);
    h2_free_world(&w);
    handler = on_read = NULL;
    on_release = NULL;
    policy = ka_policy_default;
    options = ka_h2_options_default;
}

static inline int head(request *r, unsigned status, int64_t whole)
{
    char *p;
    int error = ka_exchange_head_begin(r->x, status, 0, &p);
    return error == KA_OK ? ka_exchange_head_end(r->x, p, whole, w.d.now) : error;
}

/* How the content goes: copied, or referred to. */
static int *held_by;
static inline int content(request *r, size_t len, int more)
{
    client_stream *s = client_stream_of(k, r->id);
    const char *bytes = pattern + (s->written + r->id * 7) % PERIOD;
    s->written += (int64_t)len;
    s->is_complete |= !more;
    return ka_exchange_content(r->x, bytes, len, more, held_by);
}

static inline void answer(request *r, size_t len)
{
    EXPECT(head(r, 200, (int64_t)len) == KA_OK);
    EXPECT(content(r, len, 0) == KA_OK);
}
static inline void says_ok(request *r) { answer(r, 2); }
static inline void says_much(request *r) { answer(r, 200000); }

/* All content that comes, and then so much of an answer. */
static inline void echoes(request *r)
{
    char to[5000];
    ptrdiff_t n;
    while ((n = ka_exchange_read(r->x, to, sizeof to, w.d.now)) > 0)
        r->n_read += (size_t)n;
    if (n == 0)
        answer(r, r->n_read);
}

static inline void run(void) { (void)h2_run(&w); }
static inline client_stream *got(uint32_t id) { return client_stream_of(k, id); }
static inline void get(uint32_t id)
{
    client_get(k, id);
    run();
}
static inline void field_get(uint32_t id, const char *name, const char *value)
{
    char block[300];
    memcpy(block, CLIENT_GET, sizeof CLIENT_GET - 1);
    char *end = client_field(block + sizeof CLIENT_GET - 1, name, value);
    client_headers(k, id, block, (size_t)(end - block), 1);
}

/* First of all. */
static inline void set_up(void)
{
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (char)(i % PERIOD);
    file_fd = memfd_create("pattern", 0);
    if (write(file_fd, pattern, sizeof pattern) != sizeof pattern)
        abort();
    policy = ka_policy_default;
    options = ka_h2_options_default;
}

#endif
