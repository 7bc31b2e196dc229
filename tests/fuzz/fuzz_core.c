/* fuzz_core.c: any bytes, fed whole by one way of scanning and in two pieces by another, tell the same.
 *
 * libFuzzer target for ka_head and ka_body. The first input byte chooses both ways of scanning, the second where the rest
 * is split. Every call gets a copy that is exactly as long as the bytes it may read, so that AddressSanitizer sees
 * one byte too many. What is told is folded into a hash, adjacent content joined. */
#include <stdlib.h>
#include <string.h>

#include "http/ka_body.h"

typedef struct {
    uint64_t hash;
    int in_content;
} story;

static void tell(story *s, const void *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        s->hash = (s->hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3u;
}

static void tell_number(story *s, uint64_t n) { tell(s, &n, sizeof n); }

static void tell_event(story *s, char kind)
{
    if (kind == 'C' && s->in_content)
        return;
    s->in_content = kind == 'C';
    tell(s, &kind, 1);
}

static void tell_span(story *s, const char *buf, ka_span span, size_t len)
{
    if (span.off + (size_t)span.len > len)
        abort();
    tell_number(s, span.len);
    tell(s, buf + span.off, span.len);
}

static void tell_fault(story *s, const ka_fault *fault)
{
    tell_event(s, 'F');
    tell_number(s, fault->code);
    tell_number(s, fault->status);
    tell_number(s, fault->offset);
    tell_number(s, fault->limit);
}

static void tell_fields(story *s, const char *buf, size_t len, const ka_field *fields, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        tell_span(s, buf, fields[i].name, len);
        tell_span(s, buf, fields[i].value, len);
    }
}

static void tell_head(story *s, const char *buf, size_t len, const ka_head *head, const ka_field *fields)
{
    if (head->nbytes > len)
        abort();
    tell_event(s, 'H');
    tell_span(s, buf, head->method, len);
    tell_span(s, buf, head->target, len);
    tell_span(s, buf, head->host, len);
    tell_span(s, buf, head->path, len);
    tell_span(s, buf, head->query, len);
    tell_number(s, (uint64_t)head->content_length);
    tell_number(s, (uint64_t)head->flags << 16 | (uint64_t)head->minor << 8 | head->target_form);
    tell_fields(s, buf, len, fields, head->n_fields);
}

static const ka_limits limits = {
    .max_head_bytes = 2048,
    .max_target_bytes = 200,
    .max_headers = 10,
    .max_header_bytes = 300,
    .max_chunk_line_bytes = 40,
    .max_trailer_bytes = 100,
    .max_body_bytes = 5000,
};

typedef struct {
    story told;
    ka_body body;
    uint32_t checked;
    int at_body, closes, is_over;
} conversation;

/* One call into the parser at exactly the bytes there are. Return: bytes done with; 0 and no event: more needed. */
static size_t step(conversation *c, const uint8_t *data, size_t len, int *needs)
{
    static ka_field fields[KA_MAX_FIELDS];
    char *buf = malloc(len ? len : 1);
    ka_fault fault;
    size_t done = 0;
    memcpy(buf, data, len);
    *needs = 0;
    if (!c->at_body) {
        ka_head head;
        int rc = ka_head_parse(buf, len, &c->checked, &limits, &head, fields, &fault);
        *needs = rc == KA_PARTIAL;
        if (rc == KA_EPEER)
            tell_fault(&c->told, &fault);
        c->is_over = rc == KA_EPEER;
        if (rc == KA_OK) {
            tell_head(&c->told, buf, len, &head, fields);
            ka_body_init(&c->body, &head);
            c->at_body = 1;
            c->checked = 0;
            c->closes = !(head.flags & KA_HEAD_KEEP_ALIVE);
            done = head.nbytes;
        }
    } else {
        ka_span piece;
        int rc = ka_body_next(&c->body, buf, len, &limits, &done, &piece, &fault);
        if (rc == KA_EPEER)
            tell_fault(&c->told, &fault);
        if (rc != KA_EPEER && (done > len || piece.off + (size_t)piece.len > len))
            abort();
        c->is_over = rc == KA_EPEER || (rc == KA_BODY_END && c->closes);
        *needs = rc == KA_BODY_NEEDS;
        if (rc == KA_BODY_DATA) {
            tell_event(&c->told, 'C');
            tell(&c->told, buf + piece.off, piece.len);
        }
        if (rc == KA_BODY_END) {
            tell_event(&c->told, 'E');
            /* The trailers alone, too, must be read within their bytes. */
            char *section = malloc(piece.len ? piece.len : 1);
            memcpy(section, buf + piece.off, piece.len);
            int n = ka_body_trailers(section, piece.len, &limits, fields);
            tell_fields(&c->told, section, piece.len, fields, (uint32_t)n);
            free(section);
            c->at_body = 0;
        }
    }
    free(buf);
    return done;
}

/* The bytes arrive in two pieces; each way of scanning reads one. */
static uint64_t converse(const uint8_t *data, size_t len, size_t first, unsigned way, unsigned then)
{
    conversation c = {.told = {.hash = 0xcbf29ce484222325u}};
    size_t at = 0;
    for (int piece = 0; piece < 2; piece++) {
        size_t have = piece == 0 ? first : len;
        if (ka_simd_select(ka_simd_at(piece == 0 ? way : then)) != KA_OK)
            abort();
        for (int needs = 0; !needs && !c.is_over;) {
            if (!c.at_body && at == have)
                break;
            at += step(&c, data + at, have - at, &needs);
        }
    }
    return c.told.hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned n_ways = 0;
    if (size < 2)
        return 0;
    while (ka_simd_at(n_ways) != NULL)
        n_ways++;
    unsigned ways = data[0], place = data[1];
    data += 2;
    size -= 2;
    size_t split = place * (size + 1) / 256;
    uint64_t whole = converse(data, size, size, ways % n_ways, ways % n_ways);
    uint64_t pieces = converse(data, size, split, ways / 16 % n_ways, ways / 4 % n_ways);
    if (whole != pieces)
        abort();
    return 0;
}
