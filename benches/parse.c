/* parse.c: the C side of bench_parse.py: reads one input many times with one parser and says how long it took.
 *
 * Peers: Debian's picohttpparser in libh2o.so (by dlopen), the same code built here with SSE4.2 (-DPICO_PREFIX), and
 * llhttp. All give the offsets of method, target and every field; kacore's time includes all its rules. */
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include "http/ka_head.h"
#ifdef WITH_PEERS
#include "llhttp.h"
#include "picohttpparser.h"
#endif

enum {
    MAX_FIELDS = 100
};

static uint64_t sink; /* keeps the compiler from dropping the work */

typedef size_t (*reader)(const char *buf, size_t len); /* returns heads read */

static size_t read_kacore(const char *buf, size_t len)
{
    static ka_field fields[MAX_FIELDS];
    ka_head head;
    ka_fault fault;
    size_t n = 0;
    for (size_t i = 0; i < len; i += head.nbytes, n++) {
        if (ka_head_parse(buf + i, len - i, NULL, &ka_limits_default, &head, fields, &fault) != KA_OK)
            return 0;
        sink += head.n_fields + fields[0].value.off;
    }
    return n;
}

#ifdef WITH_PEERS
typedef int (*phr)(const char *, size_t, const char **, size_t *, const char **, size_t *, int *, struct phr_header *,
                   size_t *, size_t);

static inline size_t read_pico(phr parse, const char *buf, size_t len)
{
    static struct phr_header fields[MAX_FIELDS];
    const char *method, *path;
    size_t method_len, path_len, n = 0;
    int minor, used;
    for (size_t i = 0; i < len; i += (size_t)used, n++) {
        size_t n_fields = MAX_FIELDS;
        used = parse(buf + i, len - i, &method, &method_len, &path, &path_len, &minor, fields, &n_fields, 0);
        if (used <= 0)
            return 0;
        sink += n_fields + fields[0].value_len;
    }
    return n;
}

static phr debian;
static size_t read_pico_debian(const char *buf, size_t len) { return read_pico(debian, buf, len); }
static size_t read_pico_sse42(const char *buf, size_t len) { return read_pico(phr_parse_request, buf, len); }

static struct {
    const char *at;
    size_t len;
} spans[3 * MAX_FIELDS];
static size_t n_spans, n_messages;

static int on_span(llhttp_t *p, const char *at, size_t len)
{
    (void)p;
    spans[n_spans].at = at;
    spans[n_spans++].len = len;
    return 0;
}

static int on_complete(llhttp_t *p)
{
    sink += n_spans + (uint64_t)llhttp_should_keep_alive(p);
    n_spans = 0;
    n_messages++;
    return 0;
}

static size_t read_llhttp(const char *buf, size_t len)
{
    static llhttp_settings_t settings;
    static llhttp_t parser;
    if (settings.on_url == NULL) {
        llhttp_settings_init(&settings);
        settings.on_method = settings.on_url = settings.on_header_field = settings.on_header_value = on_span;
        settings.on_message_complete = on_complete;
        llhttp_init(&parser, HTTP_REQUEST, &settings);
    }
    n_messages = 0;
    return llhttp_execute(&parser, buf, len) == HPE_OK ? n_messages : 0;
}
#endif

static reader find(const char *parser)
{
    if (!strncmp(parser, "kacore", 6))
        return ka_simd_select(parser[6] ? parser + 7 : NULL) == KA_OK ? read_kacore : NULL;
#ifdef WITH_PEERS
    if (!strcmp(parser, "llhttp"))
        return read_llhttp;
    if (!strcmp(parser, "pico sse4.2"))
        return read_pico_sse42;
    if (!strcmp(parser, "pico debian")) {
        void *h2o = dlopen("libh2o.so.0.13", RTLD_NOW);
        /* ISO C has no cast from an object pointer to a function pointer. */
        void *symbol = h2o ? dlsym(h2o, "phr_parse_request") : NULL;
        memcpy(&debian, &symbol, sizeof debian);
        return debian ? read_pico_debian : NULL;
    }
#endif
    return NULL;
}

/* Nanoseconds for `rounds` times all `n` pieces, -1 when the parser is not there, -2 when it read other than `heads`. */
double bench_run(const char *parser, const char *const *pieces, const size_t *lens, size_t n, size_t heads, long rounds)
{
    reader read = find(parser);
    struct timespec from, to;
    if (read == NULL)
        return -1;
    size_t got = 0;
    for (size_t i = 0; i < n; i++)
        got += read(pieces[i], lens[i]);
    if (got != heads)
        return -2;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (long r = 0; r < rounds; r++)
        for (size_t i = 0; i < n; i++)
            read(pieces[i], lens[i]);
    clock_gettime(CLOCK_MONOTONIC, &to);
    return (double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec);
}
