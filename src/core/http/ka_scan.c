/* ka_scan.c: the tables of ka_scan.h: what a byte may be, and the field names that are worth knowing. */
#include "http/ka_scan.h"

#include <string.h>

#include "http/ka_block.h"

const uint8_t ka_class[256] = {
    0,  0,  0,  0,  0,  0,  0,  0,  0,  4,  0,  0,  0,  0,  0,  0,  /* 00 */
    0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  /* 10 */
    4,  15, 4,  5,  15, 7,  15, 15, 14, 14, 15, 15, 14, 47, 15, 6,  /* 20 */
    31, 31, 31, 31, 31, 31, 31, 31, 31, 31, 6,  14, 4,  14, 4,  6,  /* 30 */
    6,  63, 63, 63, 63, 63, 63, 47, 47, 47, 47, 47, 47, 47, 47, 47, /* 40 */
    47, 47, 47, 47, 47, 47, 47, 47, 47, 47, 47, 6,  6,  6,  7,  47, /* 50 */
    7,  31, 31, 31, 31, 31, 31, 15, 15, 15, 15, 15, 15, 15, 15, 15, /* 60 */
    15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 6,  7,  6,  15, 0,  /* 70 */
    4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  /* 80 */
    4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  /* 90 */
    4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  /* a0 */
    4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  /* b0 */
    4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  /* c0 */
    4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  /* d0 */
    4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  /* e0 */
    4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  4,  /* f0 */
};

/* ---- what ka_block.h loads ---- */

#define X8(c) c, c, c, c, c, c, c, c
#define ALL(c) {X8(c), X8(c)}

KA_ALIGNED const uint8_t ka_token_rows[16] = {58, 63, 62, 63, 63, 63, 63, 63, 62, 62, 61, 21, 52, 21, 61, 28};
KA_ALIGNED const uint8_t ka_target_rows[16] = {62, 63, 62, 62, 63, 63, 63, 63, 63, 63, 63, 63, 61, 63, 61, 31};
KA_ALIGNED const uint8_t ka_path_rows[16] = {62, 63, 62, 62, 63, 62, 63, 63, 63, 63, 63, 63, 61, 63, 61, 29};
KA_ALIGNED const uint8_t ka_digit_rows[16] = {2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0};
KA_ALIGNED const uint8_t ka_host_rows[16] = {42, 63, 62, 62, 63, 62, 63, 63, 63, 63, 61, 23, 21, 23, 53, 28};
KA_ALIGNED const uint8_t ka_row_bits[16] = {0, 0, 1, 2, 4, 8, 16, 32, 0, 0, 0, 0, 0, 0, 0, 0};
KA_ALIGNED const uint8_t ka_ones[16] = ALL(1), ka_low_halves[16] = ALL(0x0f), ka_bound[16] = ALL(0x21);
KA_ALIGNED const uint8_t ka_dots[16] = ALL('.');

/* ---- names ---- */

/* Field names that clients and proxies send; letters, digits and "-" only. */
static const struct {
    const char *name;
    uint32_t len;
} names[] = {
    {"accept", 6},
    {"accept-charset", 14},
    {"accept-datetime", 15},
    {"accept-encoding", 15},
    {"accept-language", 15},
    {"access-control-request-headers", 30},
    {"access-control-request-method", 29},
    {"age", 3},
    {"alt-used", 8},
    {"authorization", 13},
    {"cache-control", 13},
    {"cdn-loop", 8},
    {"cf-connecting-ip", 16},
    {"cf-ipcountry", 12},
    {"cf-ray", 6},
    {"cf-visitor", 10},
    {"connection", 10},
    {"content-disposition", 19},
    {"content-encoding", 16},
    {"content-language", 16},
    {"content-length", 14},
    {"content-location", 16},
    {"content-md5", 11},
    {"content-range", 13},
    {"content-type", 12},
    {"cookie", 6},
    {"date", 4},
    {"device-memory", 13},
    {"dnt", 3},
    {"downlink", 8},
    {"dpr", 3},
    {"early-data", 10},
    {"ect", 3},
    {"etag", 4},
    {"expect", 6},
    {"expires", 7},
    {"forwarded", 9},
    {"from", 4},
    {"front-end-https", 15},
    {"host", 4},
    {"http2-settings", 14},
    {"idempotency-key", 15},
    {"if-match", 8},
    {"if-modified-since", 17},
    {"if-none-match", 13},
    {"if-range", 8},
    {"if-unmodified-since", 19},
    {"keep-alive", 10},
    {"last-modified", 13},
    {"link", 4},
    {"max-forwards", 12},
    {"origin", 6},
    {"pragma", 6},
    {"prefer", 6},
    {"priority", 8},
    {"proxy-authorization", 19},
    {"proxy-connection", 16},
    {"purpose", 7},
    {"range", 5},
    {"referer", 7},
    {"rtt", 3},
    {"save-data", 9},
    {"sec-ch-prefers-color-scheme", 27},
    {"sec-ch-ua", 9},
    {"sec-ch-ua-arch", 14},
    {"sec-ch-ua-full-version-list", 27},
    {"sec-ch-ua-mobile", 16},
    {"sec-ch-ua-model", 15},
    {"sec-ch-ua-platform", 18},
    {"sec-ch-ua-platform-version", 26},
    {"sec-fetch-dest", 14},
    {"sec-fetch-mode", 14},
    {"sec-fetch-site", 14},
    {"sec-fetch-user", 14},
    {"sec-gpc", 7},
    {"sec-purpose", 11},
    {"sec-websocket-extensions", 24},
    {"sec-websocket-key", 17},
    {"sec-websocket-protocol", 22},
    {"sec-websocket-version", 21},
    {"server", 6},
    {"te", 2},
    {"traceparent", 11},
    {"tracestate", 10},
    {"trailer", 7},
    {"transfer-encoding", 17},
    {"true-client-ip", 14},
    {"upgrade", 7},
    {"upgrade-insecure-requests", 25},
    {"user-agent", 10},
    {"via", 3},
    {"viewport-width", 14},
    {"warning", 7},
    {"www-authenticate", 16},
    {"x-amzn-trace-id", 15},
    {"x-api-key", 9},
    {"x-b3-sampled", 12},
    {"x-b3-spanid", 11},
    {"x-b3-traceid", 12},
    {"x-cloud-trace-context", 21},
    {"x-correlation-id", 16},
    {"x-csrf-token", 12},
    {"x-csrftoken", 11},
    {"x-forwarded-for", 15},
    {"x-forwarded-host", 16},
    {"x-forwarded-port", 16},
    {"x-forwarded-prefix", 18},
    {"x-forwarded-proto", 17},
    {"x-forwarded-scheme", 18},
    {"x-forwarded-server", 18},
    {"x-forwarded-ssl", 15},
    {"x-http-method-override", 22},
    {"x-original-uri", 14},
    {"x-real-ip", 9},
    {"x-request-id", 12},
    {"x-request-start", 15},
    {"x-requested-with", 16},
    {"x-scheme", 8},
};
enum {
    N_NAMES = sizeof names / sizeof *names,
    N_SLOTS = 1024
};
_Static_assert(N_NAMES < 255, "a slot is a byte");

/* A hash table without collisions: slot -> index + 1, which is the place of its key. An empty slot leads to keys[0],
 * which equals none. `multiplier` was searched for by ka_names_init. */
static uint8_t slots[N_SLOTS];
static struct name_key {
    uint64_t head, tail, len;
} keys[N_NAMES + 1];
static uint64_t multiplier;

uint32_t ka_name_count(void) { return N_NAMES; }
const char *ka_name_at(uint32_t i) { return names[i].name; }
uint32_t ka_name_len(uint32_t i) { return names[i].len; }

#define EVERY(byte) (0x0101010101010101u * (byte))

static inline uint64_t load8(const char *p)
{
    uint64_t w;
    memcpy(&w, p, 8);
    return w;
}

static inline uint64_t load4(const char *p)
{
    uint32_t w;
    memcpy(&w, p, 4);
    return w;
}

/* The first and the last bytes, overlapping where the name is short. Setting bit 0x20 folds letters, and is no
 * fold for what else is in our names: among tchars only "-" becomes "-" and only a digit a digit. */
static inline struct name_key key_of(const char *p, uint32_t n)
{
    struct name_key k;
    if (n >= 8)
        k = (struct name_key){load8(p), load8(p + n - 8), n};
    else if (n >= 4)
        k = (struct name_key){load4(p), load4(p + n - 4), n};
    else
        k = (struct name_key){(uint8_t)p[0] | (uint64_t)(uint8_t)p[n / 2] << 8, (uint8_t)p[n - 1], n};
    k.head |= EVERY(0x20);
    k.tail |= EVERY(0x20);
    return k;
}

static inline uint32_t slot_of(struct name_key k, uint64_t m)
{
    uint64_t h = (k.head ^ (k.tail << 23 | k.tail >> 41) ^ k.len) * m;
    return (uint32_t)((h ^ h >> 32) * m >> 54);
}

static int fits(uint64_t m)
{
    memset(slots, 0, sizeof slots);
    for (uint32_t i = 0; i < N_NAMES; i++) {
        uint8_t *slot = &slots[slot_of(keys[i + 1], m)];
        if (*slot != 0)
            return 0;
        *slot = (uint8_t)(i + 1);
    }
    return 1;
}

int ka_names_init(void)
{
    if (multiplier != 0)
        return KA_OK;
    for (uint32_t i = 0; i < N_NAMES; i++)
        keys[i + 1] = key_of(names[i].name, names[i].len);
    uint64_t m = 0x1350c31867671dcbu /* fits the list above; after a change of it the search goes on from here */;
    for (int tries = 0; tries < 1 << 20; tries++, m = m * 6364136223846793005u + 2)
        if (fits(m | 1)) {
            multiplier = m | 1;
            return KA_OK;
        }
    return KA_EINVAL;
}

int ka_name_find(const char *p, uint32_t n)
{
    struct name_key k = key_of(p, n);
    int i = slots[slot_of(k, multiplier)];
    if (((keys[i].head ^ k.head) | (keys[i].tail ^ k.tail) | (keys[i].len ^ k.len)) != 0)
        return -1;
    for (uint32_t at = 8; ka_unlikely(at + 8 < n); at += 8)
        if ((load8(p + at) | EVERY(0x20)) != load8(names[i - 1].name + at))
            return -1;
    return i - 1;
}
