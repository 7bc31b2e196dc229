/* Heads and bodies at the C level, at every split point and right before an unreadable page.
 * link: http */
#include "check.h"

#include "http/ka_body.h"
#include "upper_halves.h"

typedef struct {
    int rc;
    ka_head head;
    ka_fault fault;
} outcome;

static ka_field fields[KA_MAX_FIELDS];

static int parse_clean(const char *bytes, size_t len, uint32_t *checked, outcome *o)
{
    const char *edge = at_the_edge(bytes, len);
    LEAVES_THEM_CLEAN(o->rc = ka_head_parse(edge, len, checked, &ka_limits_default, &o->head, fields, &o->fault),
                      "%s, %zu bytes of %s", ka_simd_name(), len, bytes);
    return o->rc;
}

/* The bytes in two pieces, the second call with what the first one remembered. */
static outcome parse_split(const char *bytes, size_t len, size_t first)
{
    outcome o = {0};
    uint32_t checked = 0;
    if (parse_clean(bytes, first, &checked, &o) == KA_PARTIAL)
        parse_clean(bytes, len, &checked, &o);
    return o;
}

/* Byte by byte, `checked` kept all the time. */
static outcome parse_bytewise(const char *bytes, size_t len)
{
    outcome o = {.rc = KA_PARTIAL};
    uint32_t checked = 0;
    for (size_t n = 0; n <= len && o.rc == KA_PARTIAL; n++)
        parse_clean(bytes, n, &checked, &o);
    return o;
}

static int same(const outcome *a, const outcome *b)
{
    if (a->rc != b->rc)
        return 0;
    if (a->rc == KA_OK)
        return memcmp(&a->head, &b->head, sizeof a->head) == 0;
    if (a->rc == KA_EPEER)
        return a->fault.code == b->fault.code && a->fault.offset == b->fault.offset;
    return 1;
}

static outcome parse_every_way(const char *bytes)
{
    size_t len = strlen(bytes);
    outcome whole = parse_split(bytes, len, len), each = parse_bytewise(bytes, len);
    CHECK(same(&whole, &each), "byte by byte: %s", bytes);
    for (size_t i = 0; i < len; i++) {
        outcome split = parse_split(bytes, len, i);
        CHECK(same(&whole, &split), "split at %zu: %s", i, bytes);
    }
    return whole;
}

static void accepts(const char *bytes, uint32_t n_fields, uint16_t flags)
{
    outcome o = parse_every_way(bytes);
    CHECK(o.rc == KA_OK, "%s -> %d %s", bytes, o.rc, ka_fault_name(o.fault.code));
    if (o.rc != KA_OK)
        return;
    CHECK(o.head.nbytes == strlen(bytes), "%s", bytes);
    CHECK(o.head.n_fields == n_fields, "%s: %u fields", bytes, o.head.n_fields);
    CHECK(o.head.flags == flags, "%s: flags %#x", bytes, o.head.flags);
}

static void refuses(const char *bytes, const char *code, uint64_t offset)
{
    outcome o = parse_every_way(bytes);
    const char *got = o.rc == KA_EPEER ? ka_fault_name(o.fault.code) : o.rc == KA_OK ? "accepted" : "partial";
    CHECK(!strcmp(got, code), "%s -> %s", bytes, got);
    CHECK(o.rc != KA_EPEER || o.fault.offset == offset, "%s: offset %lu", bytes, (unsigned long)o.fault.offset);
}

/* ---- bodies ---- */

/* Feed in pieces of `step` bytes; write content and outcome as one line. */
static void run_body(const char *bytes, size_t len, size_t step, int64_t length, char *out, size_t room)
{
    ka_head head = {.content_length = length, .flags = length < 0 ? KA_HEAD_CHUNKED : KA_HEAD_HAS_LENGTH};
    ka_body body;
    size_t done = 0, have = 0, w = 0;
    out[0] = '\0';
    ka_body_init(&body, &head);
    for (;;) {
        size_t n;
        ka_span piece;
        ka_fault fault;
        int rc;
        const char *edge = at_the_edge(bytes + done, have - done);
        LEAVES_THEM_CLEAN(rc = ka_body_next(&body, edge, have - done, &ka_limits_default, &n, &piece, &fault),
                          "%s, content at %zu of %s", ka_simd_name(), done, bytes);
        if (rc == KA_EPEER) {
            snprintf(out + w, room - w, "!%s@%lu", ka_fault_name(fault.code), (unsigned long)fault.offset);
            return;
        }
        if (rc == KA_BODY_DATA || rc == KA_BODY_END) {
            if (rc == KA_BODY_END)
                w += (size_t)snprintf(out + w, room - w, "|");
            w += (size_t)snprintf(out + w, room - w, "%.*s", (int)piece.len, bytes + done + piece.off);
        }
        done += n;
        if (rc == KA_BODY_END)
            return;
        if (rc == KA_BODY_NEEDS) {
            if (have == len)
                return;
            have = have + step < len ? have + step : len;
        }
    }
}

static void body_reads(const char *bytes, int64_t length, const char *expected)
{
    char out[512];
    size_t len = strlen(bytes);
    for (size_t step = 1; step <= len + 1; step++) {
        run_body(bytes, len, step, length, out, sizeof out);
        CHECK(!strcmp(out, expected), "%s in steps of %zu -> %s", bytes, step, out);
    }
}

static void every_case(void)
{
    accepts("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1, KA_HEAD_KEEP_ALIVE);
    accepts("\r\nHEAD /x?y HTTP/1.0\r\n\r\n", 0, KA_HEAD_IS_HEAD);
    accepts("POST / HTTP/1.1\r\nhost:a\r\nTransfer-Encoding:\t chunked \r\nConnection: x, Close\r\n\r\n", 3,
            KA_HEAD_CHUNKED);
    accepts("CONNECT [::1]:443 HTTP/1.1\r\nHost: a:1\r\n\r\n", 1, KA_HEAD_IS_CONNECT);
    /* Fields that mean something and other lines, in every order: the ways out of the loop over the lines. */
    accepts("GET /a/path/of/more/than/a/block/of/bytes?and=a%20query HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\n"
            "Connection: keep-alive\r\nCookie: tab\tinside; and a value that is longer than a block of bytes\r\n\r\n",
            4, KA_HEAD_KEEP_ALIVE);
    accepts("GET /%41 HTTP/1.1\r\nAccept: */*\r\nHost: a.example:8000\r\nConnection: keep-alive\r\nA: b\r\n\r\n", 4,
            KA_HEAD_KEEP_ALIVE);
    refuses("GET / HTTP/1.1\nHost: a\r\n\r\n", "bare_lf", 14);
    refuses("GET / HTTP/1.1\r\n Host: a\r\n\r\n", "space_before_field", 16);
    refuses("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", "obs_fold", 25);
    refuses("GET / HTTP/1.1\r\n\r\n", "missing_host", 16);
    refuses("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http2_preface", 11);
    refuses("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n", "body_too_large", 42);

    body_reads("hello", 5, "hello|");
    body_reads("hel", 5, "hel");
    body_reads("", 0, "|");
    body_reads("5;a=\"\\\"\" ; b\r\nhello\r\n0\r\n\r\n", -1, "hello|");
    body_reads("0\r\nA: b\r\n\r\n", -1, "|A: b\r\n");
    body_reads("0\r\nA-Name-Over-32-Bytes-Long-For-One-Block: and a value that is longer than that, too\r\n\r\n", -1,
               "|A-Name-Over-32-Bytes-Long-For-One-Block: and a value that is longer than that, too\r\n");
    body_reads("0\r\nHost: b\r\n\r\n", -1, "!forbidden_trailer@3");
    body_reads("5\nhello", -1, "!bare_lf@1");
    body_reads("1\r\nab", -1, "a!bad_chunk_end@4");
    body_reads("FFFFFFFFFFFFFFFFF\r\n", -1, "!body_too_large@7");
}

/* A long line of every kind at every distance from the unreadable page, so that each block is met at its edge. */
static void edges(void)
{
    char bytes[1024], p[130];
    memset(p, 'p', sizeof p);
    for (int n = 0; n < 130; n++) {
        snprintf(bytes, sizeof bytes, "GET /%.*s?q HTTP/1.1\r\nHost: %.*sa:80\r\nX%.*s: y%.*s \r\n\r\n", n, p, n, p, n,
                 p, n, p);
        outcome o = parse_every_way(bytes);
        CHECK(o.rc == KA_OK && o.head.path.len == (uint32_t)n + 1 && o.head.query.len == 1, "%d bytes", n);
        CHECK(fields[0].value.len == (uint32_t)n + 4 && fields[1].name.len == (uint32_t)n + 1, "%d bytes", n);
    }
}

int main(void)
{
    for (unsigned i = 0; ka_simd_at(i) != NULL; i++) {
        CHECK(ka_simd_select(ka_simd_at(i)) == KA_OK, "%s", ka_simd_at(i));
        every_case();
        edges();
    }
    CHECK(ka_simd_select("none such") == KA_EINVAL, "unknown way of scanning");
    return CHECKS_DONE;
}
