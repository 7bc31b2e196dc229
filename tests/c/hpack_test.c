/* HPACK: each rule of RFC 7541 with what is taken and what is refused, whole and at every split; its appendix C; what our
 * encoder says, read by our decoder, with tables that change.
 * link: h2 http
 * wrap: recv send sendmsg sendfile accept4 epoll_ctl open malloc calloc realloc clock_gettime */
#include "check.h"
#include "faults.h"

#include "h2/ka_hpack.h"
#include "h2/ka_huffman.h"

enum {
    ROOM = 1 << 16,
    MAX_FIELDS = 200
};

static char buf[ROOM];
static ka_field fields[MAX_FIELDS];
static uint8_t secret[MAX_FIELDS];

/* Bytes of a string of hex digits, in which spaces mean nothing. */
static size_t unhex(uint8_t *to, const char *hex)
{
    size_t n = 0;
    for (unsigned byte; *hex; hex += 2) {
        while (*hex == ' ')
            hex++;
        if (*hex == 0 || sscanf(hex, "%2x", &byte) != 1)
            break;
        to[n++] = (uint8_t)byte;
    }
    return n;
}

static ka_hpack_section section(uint32_t max_list)
{
    return (ka_hpack_section){.buf = buf,
                              .fields = fields,
                              .is_secret = secret,
                              .size = ROOM,
                              .max_fields = MAX_FIELDS,
                              .max_list = max_list};
}

/* What was decoded as lines "name: value"; a field that is never indexed has "!" before it. */
static void tell(char *to, const ka_hpack_section *s)
{
    for (uint32_t i = 0; i < s->n_fields; i++)
        to += sprintf(to, "%s%.*s: %.*s\n", secret[i] ? "!" : "", (int)fields[i].name.len, buf + fields[i].name.off,
                      (int)fields[i].value.len, buf + fields[i].value.off);
    *to = 0;
}

/* Pieces that end at `first`, then every `step` bytes. */
static int decode_pieces(ka_hpack_decoder *d, ka_hpack_section *s, const uint8_t *in, size_t len, size_t first,
                         size_t step)
{
    size_t at = 0, needed = 0;
    for (size_t have = first < len ? first : len;; have = have + step < len ? have + step : len) {
        size_t consumed = 0, needs = 0;
        int rc = ka_hpack_decode(d, s, (const uint8_t *)at_the_edge((const char *)in + at, have - at), have - at,
                                 have == len, &consumed, &needs);
        CHECK(consumed <= have - at, "%zu of %zu", consumed, have - at);
        if (have - at < needed && have < len)
            CHECK(rc == KA_PARTIAL && consumed == 0, "less than was needed did: %d", rc);
        at += consumed;
        EXPECT(ka_hpack_table_check(&d->table));
        if (rc == KA_PARTIAL)
            CHECK(needs > have - at, "%zu", needs);
        if (have == len || (rc != KA_OK && rc != KA_PARTIAL))
            return rc;
        needed = rc == KA_PARTIAL ? needs : 0;
    }
}

static int same_tables(const ka_hpack_table *a, const ka_hpack_table *b)
{
    int same = a->n == b->n && a->size == b->size && a->max == b->max;
    for (uint32_t i = 0; same && i < a->n; i++) {
        ka_hpack_entry x = ka_hpack_table_at(a, i), y = ka_hpack_table_at(b, i);
        same = x.name_len == y.name_len && x.value_len == y.value_len && !memcmp(x.name, y.name, x.name_len) &&
               !memcmp(x.value, y.value, x.value_len);
    }
    return same;
}

/* A decoder that has read `blocks` - all but the last must be good - and the last in pieces. */
static int decode_after(ka_hpack_decoder *d, const char *const *blocks, uint32_t max, size_t first, size_t step,
                        char *told)
{
    uint8_t in[2048];
    int rc = KA_OK;
    ka_hpack_decoder_init(d);
    ka_hpack_table_resize(&d->table, max);
    d->limit = (uint16_t)max;
    for (; *blocks; blocks++) {
        size_t n = unhex(in, *blocks);
        ka_hpack_section s = section(ROOM);
        rc = blocks[1] ? decode_pieces(d, &s, in, n, n, 1) : decode_pieces(d, &s, in, n, first, step);
        if (rc == KA_OK || blocks[1])
            EXPECT(rc == KA_OK);
        tell(told, &s);
    }
    return rc;
}

/* Blocks in a row, of which the last means `wanted`, or is refused when that is NULL; the size of the table then. */
static void check(const char *const *blocks, uint32_t max, const char *wanted, uint32_t table_size, const char *why)
{
    ka_hpack_decoder whole, pieces;
    char told[4096], again[4096];
    uint8_t in[2048];
    size_t n = 0;
    for (const char *const *b = blocks; *b; b++)
        n = unhex(in, *b);
    int rc = decode_after(&whole, blocks, max, n, 1, told);
    CHECK(rc == (wanted ? KA_OK : KA_EPEER), "%s: %d", why, rc);
    if (wanted)
        CHECK(!strcmp(told, wanted) && whole.table.size == table_size, "%s:\n%s table of %u", why, told,
              whole.table.size);
    for (size_t first = 0; first <= n; first++)
        for (int then_bytes = 0; then_bytes < 2; then_bytes++) {
            CHECK(decode_after(&pieces, blocks, max, first, then_bytes ? 1 : n + 1, again) == rc, "%s: at %zu", why,
                  first);
            CHECK(rc != KA_OK || !strcmp(again, told), "%s: at %zu:\n%s", why, first, again);
            CHECK(same_tables(&whole.table, &pieces.table), "%s: at %zu", why, first);
            ka_hpack_decoder_free(&pieces);
        }
    ka_hpack_decoder_free(&whole);
}

#define ONE(block) ((const char *const[]){block, NULL})
#define ROW(...) ((const char *const[]){__VA_ARGS__, NULL})

static void good(const char *block, const char *wanted, uint32_t table_size, const char *why)
{
    check(ONE(block), 4096, wanted, table_size, why);
}

static void bad(const char *block, const char *why) { check(ONE(block), 4096, NULL, 0, why); }

#define GET ":method: GET\n"

/* RFC 7541 5.1 */
static void test_integers(void)
{
    good("0f02 0162", "accept-language: b\n", 0, "15 + 2 in a prefix of 4 bits");
    good("0f8200 0162", "accept-language: b\n", 0, "needless zero octets");
    good("0f82808000 0162", "accept-language: b\n", 0, "of them, four octets");
    good("0f8280808000 0162", "accept-language: b\n", 0, "five octets behind the prefix are as many as are taken");
    bad("0f828080808000 0162", "six octets behind the prefix");
    bad("ffffffffffffffffff7f", "an index of 64 bits");
    bad("ff80808080808080808080808080808001", "an index that overflows 64 bits");
    bad("7fffffffff0f 0161 0162", "an index of 32 bits and more");
    bad("ff80", "ends inside an integer");
    bad("7f", "ends behind a prefix");
    bad("3f", "ends behind the prefix of a size update");
    bad("0f", "ends behind the prefix of a name");
    good("3fe11f 82", GET, 0, "31 + 97 + 31 * 128 is 4096");
}

/* RFC 7541 5.2 */
static void test_strings(void)
{
    good("000161 0162", "a: b\n", 0, "plain");
    good("000161 00", "a: \n", 0, "an empty value");
    good("000161 80", "a: \n", 0, "an empty value in Huffman's code");
    good("0000 0162", ": b\n", 0, "an empty name, which is for HTTP to refuse");
    good("00811f 0162", "a: b\n", 0, "three bits of padding");
    bad("0001618571 8d377d", "a string longer than the block, in Huffman's code");
    bad("000a6162", "a string longer than the block");
    bad("000161", "no value");
    bad("00", "no name");
    bad("007fffffffff0f61", "a length that nobody has sent");
    bad("00821fff 0161", "padding of more than 7 bits");
    bad("008118 0161", "padding that is zeros");
    bad("00811e 0161", "padding that ends in a zero");
    bad("0081ff 0161", "8 bits of padding and nothing else");
    bad("0084ffffffff 0161", "EOS in a name");
    bad("000161 84ffffffff", "EOS in a value");
    bad("000161 8b1c6490b2cd39ba75a29a8fffffffff", "EOS behind letters, where there is room for whole words");
    bad("00016182 fffe", "a code that is not whole");
    good("000161 81f8", "a: &\n", 0, "a code of 8 bits fills the byte");
    good("000161 84fffffff3", "a: \n\n", 0, "30 bits of a line feed and 2 of padding");
}

/* RFC 7541 2.3, 6.1, 6.2 */
static void test_representations(void)
{
    good("82", GET, 0, "6.1: a field of the static table");
    good("bd", "www-authenticate: \n", 0, "6.1: its last one");
    bad("80", "6.1: index 0");
    bad("be", "2.3.3: index 62 with an empty table");
    bad("7f80 0161", "2.3.3: name 63 with an empty table");
    bad("7e 0161", "2.3.3: name 62 with an empty table");
    bad("0f2f 0161", "2.3.3: name 62 without indexing");
    bad("1f2f 0161", "2.3.3: name 62, never to be indexed");
    good("4001610162 be", "a: b\na: b\n", 34, "6.2.1: enters the table");
    good("0001610162", "a: b\n", 0, "6.2.2: does not");
    good("1001610162", "!a: b\n", 0, "6.2.3: and never may");
    bad("1001610162 be", "6.2.3: so it is not there");
    good("4001610162 be be", "a: b\na: b\na: b\n", 34, "2.3.1: duplicates, in order");
    good("4001610162 4001630164 be bf", "a: b\nc: d\nc: d\na: b\n", 68, "2.3.3: the newest is first");
    good("5f 0178 7e 0179 bf", "content-type: x\ncontent-type: y\ncontent-type: x\n", 90,
         "6.2.1: a name of the dynamic table that the static one has");
    good("4001610162 7e0163 bf be", "a: b\na: c\na: b\na: c\n", 68, "6.2.1: a name of the dynamic table");
    good("4001610162 1f2f0163", "a: b\n!a: c\n", 34, "6.2.3: the same");
    good("", "", 0, "an empty block");
}

/* RFC 7541 4.2, 4.3, 4.4, 6.3 */
static void test_sizes(void)
{
    bad("3fe21f 82", "6.3: 4097 of 4096");
    good("20 82", GET, 0, "6.3: 0");
    good("20 3fe11f 82", GET, 0, "4.2: the smallest and the last");
    bad("82 20", "4.2: behind a field");
    bad("4001610162 20", "4.2: behind a literal");
    check(ROW("4001610162", "20 82"), 4096, GET, 0, "4.3: 0 empties the table");
    check(ROW("4001610162", "20 3fe11f be"), 4096, NULL, 0, "4.3: and what was in it does not come back");
    check(ROW("4001610162 4001630164", "3f03 be"), 4096, "c: d\n", 34, "4.3: the oldest goes");
    check(ROW("4001610162 4001630164", "3f03 bf"), 4096, NULL, 0, "4.3: and is gone");
    check(ONE("4001610162 4001630164 be"), 34, "a: b\nc: d\nc: d\n", 34, "4.4: makes room for itself");
    check(ONE("4001610162 4001630164 bf"), 34, NULL, 0, "4.4: by eviction");
    check(ONE("4001610162 4001630264 64"), 34, "a: b\nc: dd\n", 0, "4.4: larger than the table, which is empty then");
    check(ONE("4001610162 7e0163 be"), 34, "a: b\na: c\na: c\n", 34, "4.4: named by the entry that goes for it");
    check(ONE("4001610162 7e026363"), 34, "a: b\na: cc\n", 0, "4.4: the same, and has no room");
    check(ONE("4001610162"), 0, "a: b\n", 0, "4.2: a table of nothing");
    check(ONE("4001610162 be"), 0, NULL, 0, "4.2: which holds nothing");
}

/* RFC 7541 4.2: after our limit was lowered below what was in use. */
static void test_reduction(void)
{
    static const struct {
        uint32_t limits[3]; /* that are acknowledged one after the other; 9999 is none */
        const char *block;
        int rc;
        const char *why;
    } cases[] = {
        {{100, 9999, 9999}, "3f45 82", KA_OK, "the limit itself"},
        {{100, 9999, 9999}, "20 82", KA_OK, "less"},
        {{100, 9999, 9999}, "82", KA_EPEER, "no update"},
        {{100, 9999, 9999}, "0001610162", KA_EPEER, "no update before a literal"},
        {{100, 9999, 9999}, "3f46 82", KA_EPEER, "one over it"},
        {{100, 4096, 9999}, "82", KA_EPEER, "up again: the smallest must be said all the same"},
        {{100, 4096, 9999}, "3f45 82", KA_OK, "the smallest alone"},
        {{100, 4096, 9999}, "3f45 3fe11f 82", KA_OK, "the smallest and the last"},
        {{100, 4096, 9999}, "3fe11f 82", KA_EPEER, "the last alone"},
        {{200, 100, 300}, "3fa901 82", KA_EPEER, "200, which is not the smallest of three"},
        {{200, 100, 300}, "3f45 3f8d02 82", KA_OK, "100 and 300"},
        {{200, 100, 300}, "3f45 3f8e02 82", KA_EPEER, "100, and 301 that nobody allowed"},
        {{4096, 9999, 9999}, "82", KA_OK, "the same as before"},
        {{8192, 9999, 9999}, "82", KA_OK, "more, which need not be used"},
        {{8192, 9999, 9999}, "3fe13f 82", KA_OK, "more, which may be"},
        {{8192, 9999, 9999}, "3fe23f 82", KA_EPEER, "and not more than that"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t first = 0; first < 6; first++) {
            ka_hpack_decoder d;
            uint8_t in[64];
            size_t n = unhex(in, cases[i].block);
            ka_hpack_section s = section(ROOM);
            ka_hpack_decoder_init(&d);
            for (int k = 0; k < 3 && cases[i].limits[k] != 9999; k++)
                ka_hpack_decoder_limit(&d, cases[i].limits[k]);
            int rc = decode_pieces(&d, &s, in, n, first, 1);
            CHECK(rc == cases[i].rc, "%s: %d", cases[i].why, rc);
            /* Once said, it is done. */
            s = section(ROOM);
            EXPECT(rc != KA_OK || decode_pieces(&d, &s, (const uint8_t *)"\x82", 1, 1, 1) == KA_OK);
            ka_hpack_decoder_free(&d);
        }
}

#define SITE ":authority: www.example.com\n"
#define HELLO ":method: GET\n:scheme: http\n:path: /\n" SITE
#define CUSTOM ":method: GET\n:scheme: https\n:path: /index.html\n" SITE "custom-key: custom-value\n"
#define PRIVATE "cache-control: private\ndate: Mon, 21 Oct 2013 20:13:"
#define WHERE "location: https://www.example.com\n"
#define COOKIE "content-encoding: gzip\nset-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1\n"

/* RFC 7541 appendix C */
static void test_appendix_c(void)
{
    good("400a637573746f6d2d6b65790d637573746f6d2d686561646572", "custom-key: custom-header\n", 55, "C.2.1");
    good("040c2f73616d706c652f70617468", ":path: /sample/path\n", 0, "C.2.2");
    good("100870617373776f726406736563726574", "!password: secret\n", 0, "C.2.3");
    good("82", GET, 0, "C.2.4");
    const char *const plain[] = {"828684410f7777772e6578616d706c652e636f6d", "828684be58086e6f2d6361636865",
                                 "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565", NULL};
    const char *const huffman[] = {"828684418cf1e3c2e5f23a6ba0ab90f4ff", "828684be5886a8eb10649cbf",
                                   "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", NULL};
    for (int i = 0; i < 2; i++) {
        const char *const *b = i ? huffman : plain;
        check(ONE(b[0]), 4096, HELLO, 57, "C.3.1, C.4.1");
        check(ROW(b[0], b[1]), 4096, HELLO "cache-control: no-cache\n", 110, "C.3.2, C.4.2");
        check(b, 4096, CUSTOM, 164, "C.3.3, C.4.3");
    }
    const char *const replies[2][4] = {
        {"4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f"
         "2f7777772e6578616d706c652e636f6d",
         "4803333037c1c0bf",
         "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b"
         "425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31"},
        {"488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
         "4883640effc1c0bf",
         "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af2708"
         "7f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"}};
    for (int i = 0; i < 2; i++) {
        const char *const *b = replies[i];
        check(ONE(b[0]), 256, ":status: 302\n" PRIVATE "21 GMT\n" WHERE, 222, "C.5.1, C.6.1");
        check(ROW(b[0], b[1]), 256, ":status: 307\n" PRIVATE "21 GMT\n" WHERE, 222, "C.5.2, C.6.2");
        check(b, 256, ":status: 200\n" PRIVATE "22 GMT\n" WHERE COOKIE, 215, "C.5.3, C.6.3");
    }
}

/* ---- too large a section: refused, with the table in step ---- */

static void test_limits(void)
{
    /* An entry of 1,000 bytes, told 200 times in as many bytes; then what is behind must be right. */
    uint8_t in[2048], *p = in;
    ka_hpack_decoder d;
    size_t consumed, needs;
    p += unhex(p, "40 01 61 7fe906"); /* 127 + 873 */
    memset(p, 'x', 1000);
    p += 1000;
    memset(p, 0xbe, 200);
    p += 200;
    p += unhex(p, "4001620163");
    for (uint32_t max_list = 0; max_list <= 250000; max_list = max_list * 3 + 1000) {
        ka_hpack_section s = section(max_list);
        ka_hpack_decoder_init(&d);
        EXPECT(ka_hpack_decode(&d, &s, in, (size_t)(p - in), 1, &consumed, &needs) == KA_OK);
        CHECK(s.list_size == 201 * 1033 + 34, "%llu", (unsigned long long)s.list_size);
        EXPECT(s.is_too_large == (s.list_size > max_list || s.list_size - 202 * 32 > ROOM));
        CHECK(d.table.n == 2 && d.table.size == 1033 + 34, "%u", d.table.size);
        s = section(ROOM);
        EXPECT(ka_hpack_decode(&d, &s, (const uint8_t *)"\xbe\xbf", 2, 1, &consumed, &needs) == KA_OK);
        EXPECT(s.n_fields == 2 && s.used == 2 + 1001 && !s.is_too_large && !memcmp(buf, "bca", 3));
        ka_hpack_decoder_free(&d);
    }
    /* The same by the number of fields, and by room: the smallest buffer that is allowed. */
    for (uint32_t fault = 0; fault < 2; fault++) {
        ka_hpack_section s = section(UINT32_MAX);
        s.max_fields = fault ? MAX_FIELDS : 3;
        s.size = fault ? 4096 : ROOM;
        ka_hpack_decoder_init(&d);
        EXPECT(ka_hpack_decode(&d, &s, in, (size_t)(p - in), 1, &consumed, &needs) == KA_OK);
        EXPECT(s.is_too_large && s.n_fields == (fault ? 4 : 3) && d.table.n == 2);
        ka_hpack_decoder_free(&d);
    }
    /* RFC 7541 4.4 and more than there is room for: neither kept nor entered, and judged to its last bit. */
    for (int faulty = 0; faulty < 2; faulty++) {
        ka_hpack_section s = section(UINT32_MAX);
        s.size = 4096;
        p = in + unhex(in, "4001620163 400161ffe106"); /* 127 + 865 bytes of codes of 5 bits: 1,587 digits, and a bit */
        memset(p, 0, 992);
        p += 991;
        *p++ = !faulty;
        ka_hpack_decoder_init(&d);
        ka_hpack_table_resize(&d.table, 1000);
        int rc = ka_hpack_decode(&d, &s, in, (size_t)(p - in), 1, &consumed, &needs);
        EXPECT(rc == (faulty ? KA_EPEER : KA_OK));
        EXPECT(faulty || (d.table.n == 0 && s.n_fields == 2 && !s.is_too_large));
        s = section(100);
        rc = ka_hpack_decode(&d, &s, in, (size_t)(p - in), 1, &consumed, &needs);
        EXPECT(rc == (faulty ? KA_EPEER : KA_OK) && (faulty || s.is_too_large));
        ka_hpack_decoder_free(&d);
    }
}

/* ---- Huffman's code ---- */

static void test_huffman(void)
{
    static char text[700], code[3000], back[700];
    uint32_t seed = 1;
    for (int round = 0; round < 6000; round++) {
        size_t n = (size_t)round % 600;
        for (size_t i = 0; i < n; i++) {
            seed = seed * 1664525 + 1013904223;
            /* Letters mostly, in the first half of the rounds none else. */
            text[i] = (char)(round < 3000 || seed >> 28 ? 'a' + (seed >> 24) % 26 : seed >> 20);
        }
        size_t len = ka_huffman_len(text, n);
        if (len > sizeof code)
            continue;
        EXPECT(ka_huffman_encode(code, len, text, n) == code + len);
        const char *edge = at_the_edge(code, len);
        memset(back, 0x55, sizeof back);
        EXPECT(ka_huffman_decode(back, n, (const uint8_t *)edge, len) == (int64_t)n && !memcmp(text, back, n));
        EXPECT(n == sizeof back || back[n] == 0x55);
        /* With less room it says how much is needed. */
        EXPECT(ka_huffman_decode(back, n / 2, (const uint8_t *)edge, len) == (int64_t)n && !memcmp(text, back, n / 2));
        EXPECT(ka_huffman_decode(back, 0, (const uint8_t *)edge, len) == (int64_t)n);
    }
    for (unsigned c = 0; c < 256; c++) {
        text[0] = (char)c;
        size_t len = ka_huffman_len(text, 1);
        ka_huffman_encode(code, len, text, 1);
        EXPECT(ka_huffman_decode(back, 1, (const uint8_t *)code, len) == 1 && back[0] == text[0]);
    }
}

/* ---- the tables ---- */

static void test_static_names(void)
{
    for (unsigned i = 1; i <= KA_HPACK_STATIC; i++) {
        const ka_hpack_static_entry *e = &ka_hpack_static[i];
        unsigned found = ka_hpack_static_find(e->text, e->name_len);
        CHECK(found > 0 && found <= i && !memcmp(ka_hpack_static[found].text, e->text, e->name_len), "%s", e->text);
        CHECK(found == i || e->value_len > 0, "%s", e->text);
    }
    EXPECT(ka_hpack_static_find("", 0) == 0 && ka_hpack_static_find("x", 1) == 0);
    EXPECT(ka_hpack_static_find("servex", 6) == 0);
}

/* Random entries, beside a plain list of them. */
static void test_table_beside_a_list(void)
{
    static struct {
        uint32_t static_name, name_len, value_len;
        char fill;
    } list[100000];
    static char bytes[2000];
    uint32_t first = 0, end = 0, size = 0, max = 4096, seed = 7;
    ka_hpack_table t = {.max = 4096};
    for (int step = 0; step < 60000; step++) {
        seed = seed * 1664525 + 1013904223;
        uint32_t r = seed >> 8;
        if (r % 50 == 0) {
            max = r % 3 ? r % 4097 : 32768;
            ka_hpack_table_resize(&t, max);
        } else if (r % 50 == 1) {
            ka_hpack_table_trim(&t);
            EXPECT(t.n == 0 ? t.room == 0 : t.room <= t.to - t.from + 2 * t.n + 65);
        } else {
            uint32_t n = step / 1000 % 2 ? 40 : 1500;
            list[end].static_name = r % 4 ? 0 : 1 + r / 8 % 61;
            list[end].name_len = list[end].static_name ? ka_hpack_static[list[end].static_name].name_len : r / 16 % n;
            list[end].value_len = r / 1024 % n;
            list[end].fill = (char)r;
            memset(bytes, list[end].fill, sizeof bytes);
            EXPECT(ka_hpack_table_add(&t, list[end].static_name, bytes, list[end].name_len, bytes,
                                      list[end].value_len) == KA_OK);
            size += 32 + list[end].name_len + list[end].value_len;
            end++;
        }
        for (; size > max; first++)
            size -= 32 + list[first].name_len + list[first].value_len;
        CHECK(ka_hpack_table_check(&t) && t.n == end - first && t.size == size, "after %d steps", step);
        CHECK(t.room <= max || t.n == 0 || t.room <= size, "%u of %u", t.room, max);
        for (uint32_t i = 0; i < t.n; i += 1 + t.n / 8) {
            ka_hpack_entry e = ka_hpack_table_at(&t, i);
            uint32_t k = end - 1 - i;
            EXPECT(e.static_name == list[k].static_name && e.name_len == list[k].name_len &&
                   e.value_len == list[k].value_len);
            EXPECT(e.value_len == 0 || (e.value[0] == list[k].fill && e.value[e.value_len - 1] == list[k].fill));
            EXPECT(e.static_name || e.name_len == 0 || e.name[e.name_len - 1] == list[k].fill);
        }
    }
    ka_hpack_table_clear(&t);
    EXPECT(t.mem == NULL && t.n == 0);
}

/* ---- encoding ---- */

typedef struct {
    const char *name, *value;
} said;

static size_t encode(ka_hpack_encoder *e, char *to, const said *head, size_t n)
{
    char *at = to;
    ka_hpack_encode_begin(e, &at);
    for (size_t i = 0; i < n; i++)
        ka_hpack_encode_field(e, &at, head[i].name, (uint32_t)strlen(head[i].name), head[i].value,
                              (uint32_t)strlen(head[i].value), 0);
    return (size_t)(at - to);
}

/* Both tables are the same after it, and so are the fields. */
static size_t round_trip(ka_hpack_encoder *e, ka_hpack_decoder *d, const said *head, size_t n)
{
    char out[8192];
    size_t len = encode(e, out, head, n);
    ka_hpack_section s = section(ROOM);
    int rc = decode_pieces(d, &s, (const uint8_t *)out, len, len / 2, 3);
    CHECK(rc == KA_OK && s.n_fields == n, "%d: %u fields", rc, s.n_fields);
    for (size_t i = 0; i < n && i < s.n_fields; i++)
        CHECK(fields[i].name.len == strlen(head[i].name) && fields[i].value.len == strlen(head[i].value) &&
                  !memcmp(buf + fields[i].name.off, head[i].name, fields[i].name.len) &&
                  !memcmp(buf + fields[i].value.off, head[i].value, fields[i].value.len),
              "%s", head[i].name);
    EXPECT(same_tables(&e->table, &d->table));
    return len;
}

static void test_repeated_responses(void)
{
    said head[] = {{":status", "200"},
                   {"content-type", "text/plain; charset=utf-8"},
                   {"content-length", "13"},
                   {"date", "Sun, 06 Nov 1994 08:49:37 GMT"},
                   {"server", "kacore"}};
    const size_t n = sizeof head / sizeof *head;
    char date[48];
    ka_hpack_encoder e;
    ka_hpack_decoder d;
    ka_hpack_encoder_init(&e, KA_HPACK_OWN_TABLE);
    ka_hpack_decoder_init(&d);
    EXPECT(round_trip(&e, &d, head, n) > 40);
    for (int i = 0; i < 5; i++)
        CHECK(round_trip(&e, &d, head, n) == 5, "a repeated head has a byte for each field");
    /* A new second: the date is sent as it is, enters at its second response, and then is a byte again. */
    head[3].value = "Sun, 06 Nov 1994 08:49:38 GMT";
    EXPECT(round_trip(&e, &d, head, n) > 20 && e.table.n == 4);
    EXPECT(round_trip(&e, &d, head, n) > 20 && e.table.n == 5);
    EXPECT(round_trip(&e, &d, head, n) == 5);
    /* A date in each response, as on a connection that has one in a second: the table does not fill with them. */
    for (int i = 0; i < 50; i++) {
        sprintf(date, "Sun, 06 Nov 1994 08:%02d:39 GMT", i);
        head[3].value = date;
        round_trip(&e, &d, head, n);
    }
    EXPECT(e.table.n == 5);
    /* What changes all the time does not enter, and what belongs to one resource not at first. */
    for (int i = 0; i < 50; i++) {
        char id[32];
        sprintf(id, "%d-%d", i, i * i);
        said other[] = {{":status", "304"}, {"etag", id}, {"x-request-id", id}};
        round_trip(&e, &d, other, 3);
    }
    CHECK(e.table.n == 6, "one of them, the first: %u", e.table.n);
    ka_hpack_encoder_rest(&e);
    CHECK(e.table.room <= 300, "%u", e.table.room);
    /* A table that holds much may be given back. */
    ka_hpack_encoder_forget(&e);
    EXPECT(e.table.mem == NULL && e.table.n == 0);
    EXPECT(round_trip(&e, &d, head, n) > 40 && round_trip(&e, &d, head, n) == 5);
    ka_hpack_encoder_free(&e);
    ka_hpack_decoder_free(&d);
}

/* RFC 7541 7.1.3 */
static void test_secrets(void)
{
    const said head[] = {{"set-cookie", "id=4711"}, {"authorization", "x"}, {"proxy-authorization", "y"}, {"a", "b"}};
    char out[200], *at = out;
    ka_hpack_encoder e;
    ka_hpack_decoder d;
    size_t consumed, needs;
    ka_hpack_encoder_init(&e, 4096);
    ka_hpack_decoder_init(&d);
    EXPECT(encode(&e, out, head, 4) > 10 && e.table.n == 1);
    at = out + encode(&e, out, head, 3);
    ka_hpack_encode_field(&e, &at, "x-token", 7, "z", 1, 1);
    ka_hpack_section s = section(ROOM);
    EXPECT(ka_hpack_decode(&d, &s, (uint8_t *)out, (size_t)(at - out), 1, &consumed, &needs) == KA_OK);
    EXPECT(s.n_fields == 4 && secret[0] && secret[1] && secret[2] && secret[3]);
    ka_hpack_encoder_free(&e);
    ka_hpack_decoder_free(&d);
}

/* RFC 7541 4.2, from the other side: the peer's limit changes at random. */
static void test_peers_limit(void)
{
    static char names[40][24], values[40][40];
    ka_hpack_encoder e;
    ka_hpack_decoder d;
    uint32_t seed = 3;
    for (int i = 0; i < 40; i++) {
        sprintf(names[i], "x-name-%d", i % 9);
        sprintf(values[i], "value %0*d", i % 30 + 1, i);
    }
    ka_hpack_encoder_init(&e, 2000);
    ka_hpack_decoder_init(&d);
    for (int i = 0; i < 4000; i++) {
        said head[6];
        for (int k = 0; k < 6; k++) {
            seed = seed * 1664525 + 1013904223;
            head[k] = (said){names[seed >> 20 & 7], values[(seed >> 24) % 40]};
        }
        for (uint32_t k = seed >> 16 & 7; k > 4; k--) {
            uint32_t limit = (seed >> k) % 3 ? (seed >> k) % 5000 : (seed >> k) % 2 * 4096;
            ka_hpack_encoder_limit(&e, limit);
            ka_hpack_decoder_limit(&d, limit);
        }
        if (i % 37 == 0)
            ka_hpack_encoder_forget(&e);
        round_trip(&e, &d, head, 6);
    }
    ka_hpack_encoder_limit(&e, UINT32_MAX);
    EXPECT(e.table.max == 2000);
    ka_hpack_encoder_free(&e);
    ka_hpack_decoder_free(&d);
}

/* Without memory an encoder enters nothing, and what it says is right all the same; a decoder says that it is lost. */
static void test_without_memory(void)
{
    static char names[12][24], values[12][300], out[8192];
    uint64_t random = 11;
    int n_lost = 0;
    for (int i = 0; i < 12; i++) {
        sprintf(names[i], "x-name-%d", i % 7);
        memset(values[i], 'a' + i, (size_t)i * 24 + 1);
    }
    faults.permille[FAULT_MEMORY] = 300;
    for (int run = 0; run < 60; run++) {
        ka_hpack_encoder e;
        ka_hpack_decoder d, lost;
        int is_lost = 0;
        ka_hpack_encoder_init(&e, 1500);
        ka_hpack_decoder_init(&d);
        ka_hpack_decoder_init(&lost);
        for (int i = 0; i < 40; i++) {
            said head[5];
            for (int k = 0; k < 5; k++)
                head[k] = (said){names[faults_random(&random) % 12], values[faults_random(&random) % 12]};
            faults.is_on = 1;
            size_t len = encode(&e, out, head, 5), consumed, needs;
            if (i % 5 == 0)
                ka_hpack_encoder_rest(&e);
            faults.is_on = 0;
            EXPECT(ka_hpack_table_check(&e.table));
            ka_hpack_section s = section(ROOM);
            EXPECT(ka_hpack_decode(&d, &s, (const uint8_t *)out, len, 1, &consumed, &needs) == KA_OK &&
                   s.n_fields == 5);
            for (uint32_t k = 0; k < s.n_fields; k++)
                EXPECT(fields[k].value.len == strlen(head[k].value) &&
                       !memcmp(buf + fields[k].value.off, head[k].value, fields[k].value.len));
            if (is_lost)
                continue;
            s = section(ROOM);
            faults.is_on = 1;
            int rc = ka_hpack_decode(&lost, &s, (const uint8_t *)out, len, 1, &consumed, &needs);
            faults.is_on = 0;
            EXPECT((rc == KA_OK || rc == KA_ENOMEM) && ka_hpack_table_check(&lost.table));
            is_lost = rc == KA_ENOMEM;
            n_lost += rc == KA_ENOMEM;
        }
        ka_hpack_encoder_free(&e);
        ka_hpack_decoder_free(&d);
        ka_hpack_decoder_free(&lost);
    }
    EXPECT(n_lost > 10 && faults.n_made[FAULT_MEMORY] > 100);
}

static void test_idle_costs(void)
{
    static const said browser[] = {
        {":method", "GET"},
        {":authority", "www.example.com"},
        {":scheme", "https"},
        {":path", "/"},
        {"user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"},
        {"accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"},
        {"accept-language", "en-GB,en;q=0.5"},
        {"accept-encoding", "gzip, deflate, br, zstd"},
        {"upgrade-insecure-requests", "1"},
        {"sec-fetch-dest", "document"},
        {"sec-fetch-mode", "navigate"},
        {"sec-fetch-site", "none"},
        {"sec-fetch-user", "?1"},
    };
    ka_hpack_encoder e;
    ka_hpack_decoder d;
    ka_hpack_encoder_init(&e, 4096);
    ka_hpack_decoder_init(&d);
    EXPECT(d.table.mem == NULL && e.table.mem == NULL);
    round_trip(&e, &d, browser, sizeof browser / sizeof *browser);
    ka_hpack_decoder_rest(&d);
    CHECK(d.table.room < 420 + 64, "%u", d.table.room);
    EXPECT(sizeof d <= 32 && sizeof e <= 48);
    ka_hpack_encoder_free(&e);
    ka_hpack_decoder_free(&d);
}

int main(void)
{
    ka_hpack_init();
    ka_hpack_init();
    test_static_names();
    test_huffman();
    test_integers();
    test_strings();
    test_representations();
    test_sizes();
    test_reduction();
    test_appendix_c();
    test_limits();
    test_table_beside_a_list();
    test_repeated_responses();
    test_secrets();
    test_peers_limit();
    test_without_memory();
    test_idle_costs();
    return CHECKS_DONE;
}
