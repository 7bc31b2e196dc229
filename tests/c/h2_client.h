/* h2_client.h: a client of HTTP/2 for tests of the session. It writes frames, right ones and wrong ones, and holds every byte
 * that the server sends against what it may send: frames, states of streams, windows, HPACK, lengths, where content is
 * from. Knows no driver.
 *
 * Whoever includes it has MUST(condition, sentence), and CLIENT_ALLOCATES(statement) where allocations may fail: none of its
 * own does. */
#ifndef H2_CLIENT_H
#define H2_CLIENT_H

#include <stdlib.h>
#include <string.h>

#include "h2/ka_h2_head.h"

#ifndef CLIENT_ALLOCATES
#define CLIENT_ALLOCATES(statement) statement
#endif
#ifndef H2_CLIENT_STREAMS
#define H2_CLIENT_STREAMS 1024
#endif

enum {
    CLIENT_STREAMS = H2_CLIENT_STREAMS, /* that are followed */
    CLIENT_SETTINGS = 256,
    CLIENT_FRAME = 9 + 16384, /* the largest that the server may send: nothing larger is allowed it */
    CLIENT_BLOCK = 64 * 1024,
    PERIOD = 251 /* of content */
};

/* Content is this, from byte to byte and stream to stream: byte n of a stream is byte n + 7 * its number here. At most a
 * frame's worth. */
static inline const char *client_content(uint64_t at)
{
    static char bytes[CLIENT_FRAME + PERIOD];
    for (size_t i = 0; bytes[1] == 0 && i < sizeof bytes; i++)
        bytes[sizeof bytes - 1 - i] = (char)((sizeof bytes - 1 - i) % PERIOD);
    return bytes + at % PERIOD;
}

typedef struct {
    uint8_t is_open;   /* HEADERS were sent */
    uint8_t has_ended; /* END_STREAM was sent, or RST_STREAM */
    uint8_t was_reset; /* by us */
    uint8_t got_head, got_end, got_reset, got_trailers, is_head, is_tunnel;
    uint8_t error;
    uint16_t status;
    uint32_t n_interim;
    int64_t window;   /* what the server may send, besides the initial window */
    int64_t may_send; /* what we may, besides ours */
    int64_t n_content, length;
    int64_t written; /* what the application has given, of a 200 */
    uint8_t is_complete;
} client_stream;

typedef struct {
    client_stream streams[CLIENT_STREAMS];
    int64_t window, may_send;
    int64_t initial; /* our INITIAL_WINDOW_SIZE, as acknowledged */
    struct {
        int64_t initial, table; /* -1: not said */
    } settings[CLIENT_SETTINGS];
    uint32_t n_settings, n_acks, n_pings, n_pongs, n_window_updates;
    uint32_t max_streams, highest; /* the server's limit; our last one */
    uint32_t n_goaways, last_stream, goaway_error;
    uint8_t got_settings, pings_back;
    uint8_t is_wild; /* it has sent what nobody keeps account of */
    uint8_t ping[8]; /* the last that the server sent */
    uint32_t block_stream, n_block, n_frame;
    uint8_t block_ends;
    ka_hpack_decoder decoder;
    uint64_t hash; /* of all heads and content, but not of frames of the connection */
    void (*out)(void *ctx, const char *bytes, size_t n); /* what it writes goes there */
    void *ctx;
    uint8_t frame[CLIENT_FRAME];
    uint8_t block[CLIENT_BLOCK];
} client;

static ka_field client_fields[128];
static char client_room[256 * 1024];

static inline client_stream *client_stream_of(client *c, uint32_t id)
{
    return id % 2 && id / 2 < CLIENT_STREAMS ? &c->streams[id / 2] : NULL;
}

static inline void client_begin(client *c, void (*out)(void *, const char *, size_t), void *ctx)
{
    memset(c, 0, offsetof(client, frame));
    c->out = out;
    c->ctx = ctx;
    c->window = c->may_send = c->initial = KA_H2_DEFAULT_WINDOW;
    c->max_streams = UINT32_MAX;
    c->last_stream = KA_H2_MAX_WINDOW;
    ka_hpack_decoder_init(&c->decoder);
}

static inline void client_end(client *c) { ka_hpack_decoder_free(&c->decoder); }

/* --- what it writes --- */

static inline void client_raw(client *c, const char *bytes, size_t n) { c->out(c->ctx, bytes, n); }

static inline void client_preface(client *c) { client_raw(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", KA_H2_PREFACE_LEN); }

/* Any frame; no account is kept of it. */
static inline void client_frame(client *c, unsigned type, unsigned flags, uint32_t stream, const void *bytes, size_t n)
{
    char head[KA_H2_FRAME_HEAD];
    ka_h2_put_head(head, (uint32_t)n, type, flags, stream);
    client_raw(c, head, sizeof head);
    if (n)
        client_raw(c, bytes, n);
}

static inline void client_put32(char *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (char)(value >> (24 - 8 * i));
}

/* initial, table: -1: not said. others: whole settings behind these. */
static inline void client_settings(client *c, int64_t initial, int64_t table)
{
    char bytes[12], *at = bytes;
    if (initial >= 0) {
        at[0] = 0, at[1] = KA_H2_INITIAL_WINDOW_SIZE;
        client_put32(at + 2, (uint32_t)initial);
        at += 6;
    }
    if (table >= 0) {
        at[0] = 0, at[1] = KA_H2_HEADER_TABLE_SIZE;
        client_put32(at + 2, (uint32_t)table);
        at += 6;
    }
    c->settings[c->n_settings % CLIENT_SETTINGS].initial = initial;
    c->settings[c->n_settings++ % CLIENT_SETTINGS].table = table;
    client_frame(c, KA_H2_SETTINGS, 0, 0, bytes, (size_t)(at - bytes));
}

static inline void client_window(client *c, uint32_t stream, uint32_t increment)
{
    char bytes[4];
    client_stream *s = client_stream_of(c, stream);
    client_put32(bytes, increment);
    if (stream == 0)
        c->window += increment;
    else if (s)
        s->window += increment;
    client_frame(c, KA_H2_WINDOW_UPDATE, 0, stream, bytes, 4);
}

static inline void client_reset(client *c, uint32_t stream, uint32_t error)
{
    char bytes[4];
    client_stream *s = client_stream_of(c, stream);
    client_put32(bytes, error);
    if (s)
        s->has_ended = s->was_reset = 1;
    client_frame(c, KA_H2_RST_STREAM, 0, stream, bytes, 4);
}

static inline void client_ping(client *c, const char opaque[8], int is_ack)
{
    c->n_pings += !is_ack;
    client_frame(c, KA_H2_PING, is_ack ? KA_H2_ACK : 0, 0, opaque, 8);
}

static inline void client_goaway(client *c) { client_frame(c, KA_H2_GOAWAY, 0, 0, "\0\0\0\0\0\0\0", 8); }

/* DATA of n bytes of this stream's content, and padding where it is >= 0. */
static inline void client_data(client *c, uint32_t stream, size_t n, int padding, int ends)
{
    static char bytes[1 << 16];
    char *at = bytes;
    client_stream *s = client_stream_of(c, stream);
    size_t whole = n + (padding >= 0 ? 1 + (size_t)padding : 0);
    if (padding >= 0)
        *at++ = (char)padding;
    for (size_t i = 0; i < n; i++)
        at[i] = 'u';
    if (padding > 0)
        memset(at + n, 0, (size_t)padding);
    c->may_send -= (int64_t)whole;
    if (s) {
        s->may_send -= (int64_t)whole;
        s->has_ended |= (uint8_t)ends;
    }
    client_frame(c, KA_H2_DATA, (padding >= 0 ? KA_H2_PADDED : 0u) | (ends ? KA_H2_END_STREAM : 0u), stream, bytes,
                 whole);
}

static inline void client_opens(client *c, uint32_t stream, const char *block, size_t n, int ends)
{
    client_stream *s = client_stream_of(c, stream);
    if (stream > c->highest)
        c->highest = stream;
    if (s) {
        s->is_head = memmem(block, n, "\x42\x04HEAD", 6) != NULL;
        s->is_tunnel = memmem(block, n, "CONNECT", 7) != NULL;
        s->is_open = 1;
        s->has_ended |= (uint8_t)ends;
        s->length = -1;
    }
}

/* HEADERS whose block has all. */
static inline void client_headers(client *c, uint32_t stream, const char *block, size_t n, int ends)
{
    client_opens(c, stream, block, n, ends);
    client_frame(c, KA_H2_HEADERS, KA_H2_END_HEADERS | (ends ? KA_H2_END_STREAM : 0u), stream, block, n);
}

/* A literal that goes into no table: name and value shorter than 127. */
static inline char *client_field(char *at, const char *name, const char *value)
{
    size_t n = strlen(name), v = strlen(value);
    *at++ = 0;
    *at++ = (char)n;
    memcpy(at, name, n);
    at += n;
    *at++ = (char)v;
    memcpy(at, value, v);
    return at + v;
}

#define CLIENT_GET         \
    "\x82\x86\x84\x41\x01" \
    "a"
#define CLIENT_POST        \
    "\x83\x86\x84\x41\x01" \
    "a"
#define CLIENT_HEAD                \
    "\x42\x04HEAD\x86\x84\x41\x01" \
    "a"

static inline void client_get(client *c, uint32_t stream)
{
    client_headers(c, stream, CLIENT_GET, sizeof CLIENT_GET - 1, 1);
}
static inline void client_post(client *c, uint32_t stream)
{
    client_headers(c, stream, CLIENT_POST, sizeof CLIENT_POST - 1, 0);
}

/* --- what it reads --- */

static inline uint32_t client_get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline void client_hash(client *c, const void *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        c->hash = (c->hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3u;
}

static inline void client_reads_fields(const ka_hpack_section *section, client_stream *s)
{
    unsigned status = 0;
    for (uint32_t i = 0; i < section->n_fields; i++) {
        const ka_field *f = &section->fields[i];
        const char *name = section->buf + f->name.off, *value = section->buf + f->value.off;
        MUST(f->name.len > 0, "a field without a name");
        for (uint32_t at = 0; at < f->name.len; at++)
            MUST(!(name[at] >= 'A' && name[at] <= 'Z'), "a field name with capitals (RFC 9113 8.2)");
        MUST((name[0] == ':') == (i == 0 && s->got_trailers == 0), "pseudo-header fields out of place (RFC 9113 8.3)");
        if (f->name.len == 7 && !memcmp(name, ":status", 7)) {
            MUST(f->value.len == 3, "a status of other than three digits");
            status = (unsigned)atoi((char[4]){value[0], value[1], value[2], 0});
        }
        if (f->name.len == 14 && !memcmp(name, "content-length", 14)) {
            s->length = 0;
            for (uint32_t at = 0; at < f->value.len; at++)
                s->length = s->length * 10 + (value[at] - '0');
        }
    }
    if (s->got_trailers)
        return;
    MUST(status >= 100, "a response without a status (RFC 9113 8.3.2)");
    if (status < 200) {
        MUST(status != 101, "101 in HTTP/2 (RFC 9113 8.6)");
        s->n_interim++;
    } else {
        s->status = (uint16_t)status;
        s->got_head = 1;
    }
}

static inline void client_ends(client_stream *s)
{
    MUST(s->got_head, "a stream ends before its head");
    int is_without = s->is_head || s->status == 204 || s->status == 304;
    MUST(s->length < 0 || is_without || s->length == s->n_content, "content-length is not what all DATA have");
    MUST(s->status != 200 || s->is_head || s->is_tunnel || (s->is_complete && s->n_content == s->written),
         "a response ends before, or after, its content");
    s->got_end = 1;
}

static inline void client_reads_block(client *c)
{
    client_stream *s = client_stream_of(c, c->block_stream);
    ka_hpack_section section = {.buf = client_room,
                                .size = sizeof client_room,
                                .fields = client_fields,
                                .max_fields = 128,
                                .max_list = 200 * 1024};
    size_t consumed, needs;
    int got;
    CLIENT_ALLOCATES(got = ka_hpack_decode(&c->decoder, &section, c->block, c->n_block, 1, &consumed, &needs));
    MUST(got == KA_OK && !section.is_too_large, "a field block that is none");
    c->n_block = 0;
    if (s == NULL)
        return;
    MUST(!s->got_trailers, "fields behind the trailers");
    if (s->got_head) {
        s->got_trailers = 1;
        MUST(c->block_ends, "trailers without END_STREAM (RFC 9113 8.1)");
    }
    client_hash(c, &c->block_stream, 4);
    client_reads_fields(&section, s);
    for (uint32_t i = 0; i < section.n_fields; i++) {
        client_hash(c, section.buf + section.fields[i].name.off, section.fields[i].name.len);
        client_hash(c, section.buf + section.fields[i].value.off, section.fields[i].value.len);
    }
    if (c->block_ends)
        client_ends(s);
}

static inline void client_reads_data(client *c, client_stream *s, uint32_t id, const uint8_t *p, uint32_t n, int ends)
{
    c->window -= n;
    MUST(c->is_wild || c->window >= 0, "more than the connection's window (RFC 9113 6.9.1)");
    if (s == NULL)
        return;
    s->window -= n;
    MUST(c->is_wild || n == 0 || s->window + c->initial >= 0, "more than the stream's window (RFC 9113 6.9.1)");
    MUST(s->got_head, "content before the head");
    MUST(n == 0 || !(s->is_head || s->status == 204 || s->status == 304),
         "content where there is none (RFC 9110 6.4.1)");
    if (s->status == 200) /* else it is the server's own text */
        MUST(memcmp(p, client_content((uint64_t)s->n_content + id * 7), n) == 0, "content of another place");
    s->n_content += n;
    if (ends)
        client_ends(s);
}

static inline void client_reads_settings(client *c, const uint8_t *p, uint32_t n, unsigned flags)
{
    if (flags & KA_H2_ACK) {
        MUST(n == 0, "an acknowledgement with content");
        MUST(c->is_wild || c->n_acks < c->n_settings, "an acknowledgement of no SETTINGS (RFC 9113 6.5.3)");
        if (c->n_acks < c->n_settings) {
            uint32_t i = c->n_acks % CLIENT_SETTINGS;
            if (c->settings[i].initial >= 0)
                c->initial = c->settings[i].initial;
            if (c->settings[i].table >= 0)
                ka_hpack_decoder_limit(
                    &c->decoder,
                    (uint32_t)(c->settings[i].table < KA_HPACK_MAX_TABLE ? c->settings[i].table : KA_HPACK_MAX_TABLE));
        }
        c->n_acks++;
        return;
    }
    MUST(n % 6 == 0, "SETTINGS that are not whole");
    c->got_settings = 1;
    for (; n; n -= 6, p += 6) {
        if (p[1] == KA_H2_MAX_CONCURRENT_STREAMS)
            c->max_streams = client_get32(p + 2);
        if (p[1] == KA_H2_INITIAL_WINDOW_SIZE)
            for (int i = 0; i < CLIENT_STREAMS; i++)
                c->streams[i].may_send += (int64_t)client_get32(p + 2) - KA_H2_DEFAULT_WINDOW;
    }
}

/* A frame of a stream: what may come on it? */
static inline void client_reads_of_stream(client *c, unsigned type, unsigned flags, uint32_t id, const uint8_t *p,
                                          uint32_t n)
{
    client_stream *s = client_stream_of(c, id);
    MUST(id % 2, "a frame of a stream that is none of ours");
    MUST(c->is_wild || id <= c->highest, "a frame of a stream that is idle (RFC 9113 5.1)");
    if (s && type != KA_H2_RST_STREAM) {
        MUST(!s->got_reset, "a frame behind RST_STREAM (RFC 9113 5.1)");
        MUST(!s->got_end || type == KA_H2_WINDOW_UPDATE, "a frame behind END_STREAM (RFC 9113 5.1)");
    }
    switch (type) {
    case KA_H2_DATA: client_reads_data(c, s, id, p, n, (flags & KA_H2_END_STREAM) != 0); break;
    case KA_H2_HEADERS:
        c->block_stream = id;
        c->block_ends = (flags & KA_H2_END_STREAM) != 0;
        /* fall through */
    case KA_H2_CONTINUATION:
        MUST(c->n_block + n <= CLIENT_BLOCK, "a field block without an end");
        memcpy(c->block + c->n_block, p, n);
        c->n_block += n;
        if (flags & KA_H2_END_HEADERS)
            client_reads_block(c);
        else
            return;
        c->block_stream = 0;
        break;
    case KA_H2_RST_STREAM:
        MUST(n == 4, "RST_STREAM of another length");
        if (s) {
            MUST(c->is_wild || !s->got_reset || c->highest - id >= 2 * 128, "a stream is reset twice");
            s->got_reset = 1;
            s->error = (uint8_t)client_get32(p);
        }
        break;
    case KA_H2_WINDOW_UPDATE:
        MUST(n == 4 && client_get32(p), "WINDOW_UPDATE by nothing");
        if (s)
            s->may_send += client_get32(p);
        break;
    default: MUST(0, "a frame that no server sends");
    }
}

static inline void client_reads_frame(client *c, const uint8_t *head, const uint8_t *p, uint32_t n)
{
    unsigned type = head[3], flags = head[4];
    uint32_t id = client_get32(head + 5);
    MUST(c->got_settings || (type == KA_H2_SETTINGS && !(flags & KA_H2_ACK)), "the first frame is not SETTINGS");
    MUST(c->block_stream == 0 || (type == KA_H2_CONTINUATION && id == c->block_stream),
         "another frame between those of a field block");
    MUST(c->n_goaways == 0 || c->goaway_error == 0, "a frame behind the last GOAWAY");
    if (id) {
        client_reads_of_stream(c, type, flags, id, p, n);
        return;
    }
    switch (type) {
    case KA_H2_SETTINGS: client_reads_settings(c, p, n, flags); break;
    case KA_H2_PING:
        MUST(n == 8, "a PING of another length");
        if (flags & KA_H2_ACK) {
            c->n_pongs++;
            MUST(c->is_wild || c->n_pongs <= c->n_pings, "an answer to no PING");
        } else {
            memcpy(c->ping, p, 8);
            if (c->pings_back)
                client_ping(c, (const char *)p, 1);
        }
        break;
    case KA_H2_GOAWAY:
        MUST(n >= 8, "a GOAWAY that is too short");
        MUST(client_get32(p) <= c->last_stream, "GOAWAY names a later stream than before (RFC 9113 6.8)");
        c->last_stream = client_get32(p);
        c->goaway_error = client_get32(p + 4);
        c->n_goaways++;
        break;
    case KA_H2_WINDOW_UPDATE:
        MUST(n == 4 && client_get32(p), "WINDOW_UPDATE by nothing");
        c->may_send += client_get32(p);
        MUST(c->may_send <= KA_H2_MAX_WINDOW, "the window of a connection over 2^31-1 (RFC 9113 6.9.1)");
        c->n_window_updates++;
        break;
    default: MUST(0, "a frame of the connection that no server sends");
    }
}

static inline void client_reads(client *c, const char *bytes, size_t n)
{
    while (n) {
        uint32_t whole = c->n_frame < 9 ? 9 : 9 + (client_get32(c->frame) >> 8);
        MUST(whole <= CLIENT_FRAME, "a frame over SETTINGS_MAX_FRAME_SIZE (RFC 9113 4.2)");
        if (whole > CLIENT_FRAME)
            abort();
        size_t take = whole - c->n_frame < n ? whole - c->n_frame : n;
        memcpy(c->frame + c->n_frame, bytes, take);
        c->n_frame += (uint32_t)take;
        bytes += take;
        n -= take;
        if (c->n_frame >= 9 && c->n_frame == 9 + (client_get32(c->frame) >> 8)) {
            c->n_frame = 0;
            client_reads_frame(c, c->frame, c->frame + 9, client_get32(c->frame) >> 8);
        }
    }
}

#endif
