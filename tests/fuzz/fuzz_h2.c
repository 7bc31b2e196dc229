/* fuzz_h2.c: any bytes, as frames of HTTP/2 and as blocks of HPACK, tell the same whole and in pieces; and what was decoded
 * is encoded, decoded again and the same.
 *
 * The first input byte chooses between frames and blocks, the second where the rest is split. Every call gets a copy
 * that is exactly as long as the bytes it may read, so that AddressSanitizer sees one byte too many. What is told is
 * folded into a hash. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "h2/ka_h2_head.h"

enum {
    ROOM = 8192, /* of a section: the table's limit, and joined cookies */
    MAX_FIELDS = 40,
    MAX_LIST = 1500,
    MAX_FRAME = 16384
};

#define HOLDS(condition)                                                       \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "broken: %s, at line %d\n", #condition, __LINE__); \
            abort();                                                           \
        }                                                                      \
    } while (0)

typedef struct {
    uint64_t hash;
} story;

static void tell(story *s, const void *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        s->hash = (s->hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3u;
}

static void tell_number(story *s, uint64_t n) { tell(s, &n, sizeof n); }

static void tell_span(story *s, const ka_hpack_section *section, ka_span span)
{
    HOLDS((size_t)span.off + span.len <= section->size);
    tell_number(s, span.len);
    tell(s, section->buf + span.off, span.len);
}

static void tell_fields(story *s, const ka_hpack_section *section, uint32_t n)
{
    tell_number(s, n);
    for (uint32_t i = 0; i < n; i++) {
        tell_span(s, section, section->fields[i].name);
        tell_span(s, section, section->fields[i].value);
    }
}

static void tell_table(story *s, const ka_hpack_table *t)
{
    HOLDS(ka_hpack_table_check(t));
    tell_number(s, t->n);
    tell_number(s, (uint64_t)t->size << 16 | t->max);
    for (uint32_t i = 0; i < t->n; i++) {
        ka_hpack_entry e = ka_hpack_table_at(t, i);
        tell(s, e.name, e.name_len);
        tell(s, e.value, e.value_len);
    }
}

static void *copy_of(const void *bytes, size_t n)
{
    void *copy = malloc(n ? n : 1);
    if (copy == NULL)
        abort();
    if (n > 0)
        memcpy(copy, bytes, n);
    return copy;
}

/* ---- blocks ---- */

typedef struct {
    ka_field fields[MAX_FIELDS];
    uint8_t is_secret[MAX_FIELDS];
    ka_hpack_section section; /* its buffer is an allocation, so that a byte behind it is seen */
    uint8_t block[ROOM];
    uint32_t n_block, n_decoded;
} field_block;

static void begin(field_block *b)
{
    free(b->section.buf);
    b->section = (ka_hpack_section){.buf = malloc(ROOM),
                                    .fields = b->fields,
                                    .is_secret = b->is_secret,
                                    .size = ROOM,
                                    .max_fields = MAX_FIELDS,
                                    .max_list = MAX_LIST};
    b->n_block = b->n_decoded = 0;
    if (b->section.buf == NULL)
        abort();
}

/* What there is of it. */
static int decode(ka_hpack_decoder *d, field_block *b, int is_last)
{
    size_t consumed, needs, n = b->n_block - b->n_decoded;
    uint8_t *in = copy_of(b->block + b->n_decoded, n);
    int rc = ka_hpack_decode(d, &b->section, in, n, is_last, &consumed, &needs);
    free(in);
    HOLDS(consumed <= n && needs >= 1);
    HOLDS(rc == KA_OK || rc == KA_EPEER || (rc == KA_PARTIAL && !is_last && consumed + needs > n));
    HOLDS(rc != KA_OK || consumed == n);
    b->n_decoded += (uint32_t)consumed;
    return rc;
}

/* All that was decoded, by our encoder to another decoder. */
static void send_on(ka_hpack_encoder *e, ka_hpack_decoder *to, const ka_hpack_section *section)
{
    static field_block again;
    static char out[4 * ROOM];
    char *at = out;
    ka_hpack_encode_begin(e, &at);
    for (uint32_t i = 0; i < section->n_fields; i++) {
        const ka_field *f = &section->fields[i];
        ka_hpack_encode_field(e, &at, section->buf + f->name.off, f->name.len, section->buf + f->value.off,
                              f->value.len, section->is_secret[i]);
    }
    size_t n = (size_t)(at - out), consumed, needs;
    story here = {0}, there = {0};
    begin(&again);
    uint8_t *in = copy_of(out, n);
    HOLDS(ka_hpack_decode(to, &again.section, in, n, 1, &consumed, &needs) == KA_OK);
    free(in);
    HOLDS(!again.section.is_too_large && again.section.list_size == section->list_size);
    tell_fields(&here, section, section->n_fields);
    tell_fields(&there, &again.section, again.section.n_fields);
    tell_table(&here, &e->table);
    tell_table(&there, &to->table);
    HOLDS(here.hash == there.hash);
}

/* Blocks, each behind a byte that says how long it is and, where its highest bit is set, one that says another limit of the
 * table; `step` bytes arrive at a time. */
static uint64_t read_blocks(const uint8_t *data, size_t len, size_t step, int sends_on)
{
    static field_block b;
    story told = {0xcbf29ce484222325u};
    ka_hpack_decoder d, far;
    ka_hpack_encoder e;
    ka_hpack_decoder_init(&d);
    ka_hpack_decoder_init(&far);
    ka_hpack_encoder_init(&e, 700);
    for (size_t at = 0; at < len;) {
        size_t n = data[at] & 0x7f;
        if ((data[at++] & 0x80) && at < len) {
            uint32_t limit = data[at++] * 20u;
            ka_hpack_decoder_limit(&d, limit);
            ka_hpack_encoder_limit(&e, limit);
            ka_hpack_decoder_limit(&far, limit);
        }
        n = n < len - at ? n : len - at;
        begin(&b);
        int rc = KA_PARTIAL;
        for (size_t have = 0; have < n || n == 0;) {
            size_t more = step < n - have ? step : n - have;
            memcpy(b.block + have, data + at + have, more);
            have += more;
            b.n_block = (uint32_t)have;
            rc = decode(&d, &b, have == n);
            if (have == n || rc == KA_EPEER)
                break;
        }
        tell_number(&told, (uint64_t)-rc);
        tell_table(&told, &d.table);
        if (rc != KA_OK)
            break;
        tell_number(&told, b.section.list_size);
        tell_number(&told, b.section.is_too_large);
        if (!b.section.is_too_large) {
            tell_fields(&told, &b.section, b.section.n_fields);
            if (sends_on)
                send_on(&e, &far, &b.section);
        }
        at += n;
        if (n % 7 == 6) {
            ka_hpack_decoder_rest(&d);
            ka_hpack_encoder_rest(&e);
        }
        if (n % 7 == 5)
            ka_hpack_encoder_forget(&e);
    }
    ka_hpack_decoder_free(&d);
    ka_hpack_decoder_free(&far);
    ka_hpack_encoder_free(&e);
    return told.hash;
}

/* ---- frames ---- */

static const ka_limits limits = {
    .max_head_bytes = 2048,
    .max_target_bytes = 60,
    .max_headers = 10,
    .max_header_bytes = 100,
    .max_trailer_bytes = 50,
    .max_body_bytes = 5000,
};

typedef struct {
    story told;
    ka_h2_reader reader;
    ka_hpack_decoder decoder;
    ka_h2_frame frame;
    uint32_t content, padding; /* that are still to come */
    uint8_t setting[KA_H2_SETTING_LEN];
    uint32_t n_setting;
    uint8_t ends_stream, is_over, is_no_hpack;
} session;

static void tell_fault(session *c, const ka_h2_fault *fault)
{
    HOLDS(fault->code > 0 && fault->code < KA_H2_N_FAULTS && fault->error > 0);
    HOLDS(!fault->of_stream || fault->stream != 0);
    tell_number(&c->told, (uint64_t)fault->code << 40 | (uint64_t)fault->of_stream << 32 | fault->stream);
    c->is_over |= !fault->of_stream;
}

static void tell_section(session *c, field_block *b)
{
    ka_h2_request request;
    ka_h2_fault fault;
    ka_fault refusal = {0};
    ka_hpack_section *s = &b->section;
    tell_table(&c->told, &c->decoder.table);
    /* Odd streams in turn have requests and trailers, so that the bytes need not know what came before. */
    if (c->frame.stream % 4 == 3) {
        int rc = ka_h2_trailers_read(s, c->frame.stream, &limits, &fault, &refusal);
        tell_number(&c->told, (uint64_t)(rc + 100));
        if (rc == KA_OK)
            tell_fields(&c->told, s, s->n_fields);
        return;
    }
    int rc = ka_h2_request_read(s, c->frame.stream, c->ends_stream, c->frame.stream % 8 == 5, &limits, &request, &fault,
                                &refusal);
    tell_number(&c->told, (uint64_t)(rc + 100));
    tell_number(&c->told, refusal.code);
    if (rc == KA_EPEER)
        tell_fault(c, &fault);
    if (rc != KA_OK)
        return;
    HOLDS(request.head.n_fields <= limits.max_headers && request.head.method.len > 0 && request.head.target.len > 0);
    HOLDS(request.head.host.len > 0);
    const ka_span spans[] = {request.head.method, request.head.target, request.head.host, request.head.path,
                             request.head.query,  request.scheme,      request.protocol};
    for (size_t i = 0; i < sizeof spans / sizeof *spans; i++)
        tell_span(&c->told, s, spans[i]);
    tell_number(&c->told, request.head.flags);
    tell_number(&c->told, (uint64_t)request.head.content_length);
    tell_fields(&c->told, s, request.head.n_fields);
}

/* Bytes of a frame's content. */
static void take(session *c, field_block *b, const uint8_t *bytes, uint32_t n, int decodes_at_once)
{
    ka_h2_fault fault;
    switch (c->frame.type) {
    case KA_H2_HEADERS:
    case KA_H2_CONTINUATION:
        if (b->n_block + n > sizeof b->block) {
            c->is_over = 1; /* as a session would end it; both ways of reading come here */
            return;
        }
        memcpy(b->block + b->n_block, bytes, n);
        b->n_block += n;
        int is_last = c->content == n && (c->frame.flags & KA_H2_END_HEADERS);
        if (!decodes_at_once && !is_last)
            return;
        int rc = decode(&c->decoder, b, is_last);
        if (rc == KA_EPEER) {
            c->is_no_hpack = 1;
            (void)ka_h2_fault_set(&fault, KA_H2_FAULT_COMPRESSION, c->frame.stream);
            tell_fault(c, &fault);
        } else if (is_last) {
            tell_section(c, b);
        }
        return;
    case KA_H2_SETTINGS:
        for (uint32_t i = 0; i < n && !c->is_over; i++) {
            ka_h2_setting setting;
            c->setting[c->n_setting++] = bytes[i];
            if (c->n_setting < KA_H2_SETTING_LEN)
                continue;
            c->n_setting = 0;
            if (ka_h2_setting_read(c->setting, &setting, &fault) == KA_EPEER)
                tell_fault(c, &fault);
            tell_number(&c->told, (uint64_t)setting.id << 32 | setting.value);
        }
        return;
    default: tell(&c->told, bytes, n); return;
    }
}

static void tell_frame(session *c, field_block *b)
{
    const ka_h2_frame *f = &c->frame;
    HOLDS(f->n_head + f->content + f->padding == KA_H2_FRAME_HEAD + f->length);
    tell_number(&c->told, (uint64_t)f->type << 48 | (uint64_t)f->flags << 40 | f->stream);
    tell_number(&c->told, (uint64_t)f->value << 32 | f->other_stream);
    tell_number(&c->told, (uint64_t)f->content << 32 | f->padding);
    tell(&c->told, f->opaque, sizeof f->opaque);
    c->content = f->content;
    c->padding = f->padding;
    if (f->type == KA_H2_HEADERS) {
        begin(b);
        c->ends_stream = (f->flags & KA_H2_END_STREAM) != 0;
    }
    if (f->content == 0 && (f->type == KA_H2_HEADERS || f->type == KA_H2_CONTINUATION))
        take(c, b, (const uint8_t *)"", 0, 1);
}

/* `first` bytes arrive, then the rest. *is_no_hpack: a block was none, which is found earlier where it is decoded as it
 * comes. */
static uint64_t read_frames(const uint8_t *data, size_t len, size_t first, int decodes_at_once, int *is_no_hpack)
{
    static field_block b;
    session c = {.told = {0xcbf29ce484222325u}, .reader = {.max_frame = MAX_FRAME}};
    ka_hpack_decoder_init(&c.decoder);
    size_t at = 0;
    for (int piece = 0; piece < 2; piece++) {
        size_t have = piece == 0 ? first : len;
        while (!c.is_over && at < have) {
            ka_h2_fault fault;
            uint32_t n = (uint32_t)(have - at);
            if (c.content > 0) {
                n = n < c.content ? n : c.content;
                take(&c, &b, data + at, n, decodes_at_once);
                c.content -= n;
            } else if (c.padding > 0) {
                n = n < c.padding ? n : c.padding;
                c.padding -= n;
            } else {
                uint8_t *in = copy_of(data + at, n);
                int rc = ka_h2_frame_read(&c.reader, in, n, &c.frame, &fault);
                free(in);
                if (rc == KA_PARTIAL)
                    break;
                if (rc == KA_EPEER)
                    tell_fault(&c, &fault);
                if (c.is_over)
                    break;
                n = c.frame.n_head;
                if (rc == KA_EPEER) {
                    /* Of a stream: skip it, as what nobody knows. */
                    c.content = c.frame.content;
                    c.frame.type = 0xff;
                } else {
                    tell_frame(&c, &b);
                }
            }
            at += n;
        }
    }
    ka_hpack_decoder_free(&c.decoder);
    *is_no_hpack = c.is_no_hpack;
    return c.told.hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    ka_hpack_init();
    unsigned how = data[0], place = data[1];
    data += 2;
    size -= 2;
    if (how % 2) {
        uint64_t whole = read_blocks(data, size, size + 1, 1);
        HOLDS(read_blocks(data, size, 1 + place % 16, 0) == whole);
    } else {
        size_t first = place * (size + 1) / 256;
        int is_no_hpack;
        uint64_t whole = read_frames(data, size, size, 0, &is_no_hpack);
        HOLDS(read_frames(data, size, first, 0, &is_no_hpack) == whole);
        uint64_t at_once = read_frames(data, size, size, 1, &is_no_hpack);
        HOLDS(is_no_hpack || at_once == whole);
        HOLDS(read_frames(data, size, first, 1, &is_no_hpack) == at_once);
    }
    return 0;
}
