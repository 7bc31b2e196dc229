/* hpack.c: what bench_hpack.py measures: HPACK by kacore and by libnghttp2, on the same blocks. */
#include <stdlib.h>
#include <time.h>

#include "h2/ka_hpack.h"
#ifdef WITH_NGHTTP2
#include <nghttp2/nghttp2.h>
#endif

enum {
    ROOM = 65536,
    MAX_FIELDS = 100
};

typedef struct {
    const char *name, *value;
    uint32_t name_len, value_len;
} field;
#define F(name, value) {name, value, sizeof(name) - 1, sizeof(value) - 1}

/* What a browser sends: a navigation, 13 fields. */
static const field browser[] = {
    F(":method", "GET"),
    F(":authority", "www.example.com"),
    F(":scheme", "https"),
    F(":path", "/articles/2026/11/how-to-keep-a-connection"),
    F("user-agent",
      "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"),
    F("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
    F("sec-ch-ua", "\"Chromium\";v=\"126\", \"Not.A/Brand\";v=\"24\""),
    F("sec-ch-ua-mobile", "?0"),
    F("sec-ch-ua-platform", "\"Linux\""),
    F("sec-fetch-site", "same-origin"),
    F("sec-fetch-mode", "navigate"),
    F("accept-encoding", "gzip, deflate, br, zstd"),
    F("accept-language", "en-GB,en;q=0.9,de;q=0.8"),
};

static const field response[] = {
    F(":status", "200"),       F("content-type", "text/plain; charset=utf-8"),
    F("content-length", "13"), F("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
    F("server", "kacore"),
};

enum {
    N_BROWSER = sizeof browser / sizeof *browser,
    N_RESPONSE = sizeof response / sizeof *response
};

/* The first head of a connection, and each that follows, as the encoder that is asked first says them. */
static uint8_t blocks[2][4096];
static size_t block_len[2];

static char *encode(ka_hpack_encoder *e, char *at, const field *head, size_t n)
{
    ka_hpack_encode_begin(e, &at);
    for (size_t i = 0; i < n; i++)
        ka_hpack_encode_field(e, &at, head[i].name, head[i].name_len, head[i].value, head[i].value_len, 0);
    return at;
}

static int decode(ka_hpack_decoder *d, int which)
{
    static char buf[ROOM];
    static ka_field fields[MAX_FIELDS];
    ka_hpack_section s = {.buf = buf, .fields = fields, .size = ROOM, .max_fields = MAX_FIELDS, .max_list = ROOM};
    size_t consumed, needs;
    return ka_hpack_decode(d, &s, blocks[which], block_len[which], 1, &consumed, &needs) == KA_OK &&
           s.n_fields == N_BROWSER;
}

static int run_kacore(int what, long rounds)
{
    char out[2048];
    int good = 1;
    ka_hpack_decoder d;
    ka_hpack_encoder e;
    ka_hpack_decoder_init(&d);
    ka_hpack_encoder_init(&e, KA_HPACK_OWN_TABLE);
    if (what == 1)
        good = decode(&d, 0);
    for (long i = 0; i < rounds; i++)
        switch (what) {
        case 0: /* with making and freeing the decoder, since that is what a connection's first head costs */
            good &= decode(&d, 0);
            ka_hpack_decoder_free(&d);
            ka_hpack_decoder_init(&d);
            break;
        case 1:  good &= decode(&d, 1); break;
        default: good &= encode(&e, out, response, N_RESPONSE) > out; break;
        }
    ka_hpack_decoder_free(&d);
    ka_hpack_encoder_free(&e);
    return good;
}

#ifdef WITH_NGHTTP2
static nghttp2_nv pairs[2][N_BROWSER];

static void make_pairs(nghttp2_nv *to, const field *head, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = (nghttp2_nv){(uint8_t *)(uintptr_t)head[i].name, (uint8_t *)(uintptr_t)head[i].value, head[i].name_len,
                             head[i].value_len, NGHTTP2_NV_FLAG_NONE};
}

static int inflate(nghttp2_hd_inflater *inflater, int which)
{
    const uint8_t *in = blocks[which];
    size_t left = block_len[which], n_fields = 0;
    for (;;) {
        nghttp2_nv pair;
        int flags = 0;
        ssize_t n = nghttp2_hd_inflate_hd2(inflater, &pair, &flags, in, left, 1);
        if (n < 0)
            return 0;
        in += n;
        left -= (size_t)n;
        n_fields += (flags & NGHTTP2_HD_INFLATE_EMIT) != 0;
        if (flags & NGHTTP2_HD_INFLATE_FINAL)
            break;
    }
    nghttp2_hd_inflate_end_headers(inflater);
    return n_fields == N_BROWSER;
}

static int run_nghttp2(int what, long rounds)
{
    nghttp2_hd_inflater *inflater;
    nghttp2_hd_deflater *deflater;
    uint8_t out[2048];
    int good = nghttp2_hd_inflate_new(&inflater) == 0 && nghttp2_hd_deflate_new(&deflater, 4096) == 0;
    if (what == 1)
        good &= inflate(inflater, 0);
    for (long i = 0; i < rounds; i++)
        switch (what) {
        case 0:
            good &= inflate(inflater, 0);
            nghttp2_hd_inflate_del(inflater);
            good &= nghttp2_hd_inflate_new(&inflater) == 0;
            break;
        case 1:  good &= inflate(inflater, 1); break;
        default: good &= nghttp2_hd_deflate_hd(deflater, out, sizeof out, pairs[1], N_RESPONSE) > 0; break;
        }
    nghttp2_hd_inflate_del(inflater);
    nghttp2_hd_deflate_del(deflater);
    return good;
}
#endif

/* Make the blocks, by libnghttp2's deflater where it is there. Return whether it is. */
int bench_begin(void);
int bench_begin(void)
{
    ka_hpack_init();
#ifdef WITH_NGHTTP2
    nghttp2_hd_deflater *deflater;
    make_pairs(pairs[0], browser, N_BROWSER);
    make_pairs(pairs[1], response, N_RESPONSE);
    if (nghttp2_hd_deflate_new(&deflater, 4096) != 0)
        return 0;
    for (int i = 0; i < 2; i++)
        block_len[i] = (size_t)nghttp2_hd_deflate_hd(deflater, blocks[i], sizeof blocks[i], pairs[0], N_BROWSER);
    nghttp2_hd_deflate_del(deflater);
    return 1;
#else
    ka_hpack_encoder e;
    ka_hpack_encoder_init(&e, 4096);
    for (int i = 0; i < 2; i++)
        block_len[i] = (size_t)(encode(&e, (char *)blocks[i], browser, N_BROWSER) - (char *)blocks[i]);
    ka_hpack_encoder_free(&e);
    return 0;
#endif
}

/* what: 0 the first head of a connection is decoded, 1 one that follows, 2 a repeated response's head is encoded.
 * Nanoseconds of CPU time for `rounds` of it; -1 when that reader is not there, -2 when it read something else. */
double bench_run(int is_peer, int what, long rounds);
double bench_run(int is_peer, int what, long rounds)
{
    struct timespec from, to;
    int good;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
#ifdef WITH_NGHTTP2
    good = is_peer ? run_nghttp2(what, rounds) : run_kacore(what, rounds);
#else
    if (is_peer)
        return -1;
    good = run_kacore(what, rounds);
#endif
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
    return good ? (double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec) : -2;
}

/* Figures without a clock: bytes on the wire of the browser's first head and of the next, of the response's first head, its
 * second and its third; bytes that decoder and encoder hold after these, idle: their structs, and their memory. */
void bench_bytes(uint32_t figures[9]);
void bench_bytes(uint32_t figures[9])
{
    char out[2048];
    ka_hpack_decoder d;
    ka_hpack_encoder e;
    ka_hpack_decoder_init(&d);
    ka_hpack_encoder_init(&e, KA_HPACK_OWN_TABLE);
    figures[0] = (uint32_t)block_len[0];
    figures[1] = (uint32_t)block_len[1];
    decode(&d, 0);
    for (int i = 2; i < 5; i++)
        figures[i] = (uint32_t)(encode(&e, out, response, N_RESPONSE) - out);
    ka_hpack_decoder_rest(&d);
    ka_hpack_encoder_rest(&e);
    figures[5] = sizeof d;
    figures[6] = d.table.room;
    figures[7] = sizeof e;
    figures[8] = e.table.room;
    ka_hpack_decoder_free(&d);
    ka_hpack_encoder_free(&e);
}
