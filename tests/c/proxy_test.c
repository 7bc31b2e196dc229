/* PROXY headers: every cut of a good one is incomplete, every change of one is read within its bytes.
 * link: http */
#include "check.h"

#include "http/ka_proxy.h"

static const char v1[] = "PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n";
static const char v1_6[] = "PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n";
static const char v2[] =
    "\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0f\xc0\x00\x02\x01\xc6\x33\x64\x01\x12\x67\x01\xbb\x04\x00\x00";
static const char v2_6[] =
    "\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x20\x01\x0d\xb8"
    "\0\0\0\0\0\0\0\0\0\0\0\x02\x12\x67\x01\xbb";

static void good(const char *bytes, size_t n, unsigned family)
{
    ka_proxy_source said;
    for (size_t len = 0; len < n; len++)
        CHECK(ka_proxy_parse(at_the_edge(bytes, len), len, &said) == KA_PARTIAL, "%zu of %zu bytes", len, n);
    CHECK(ka_proxy_parse(at_the_edge(bytes, n), n, &said) == (int)n, "whole, %zu bytes", n);
    CHECK(said.family == family && said.port == 4711, "family %u port %u", said.family, said.port);
    char behind[256];
    memcpy(behind, bytes, n);
    memset(behind + n, 'x', 10);
    CHECK(ka_proxy_parse(at_the_edge(behind, n + 10), n + 10, &said) == (int)n, "%zu bytes with more behind", n);
}

static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* Whatever comes: a length within the bytes, incomplete, or an error; and what is incomplete is bounded. */
static void changed(const char *bytes, size_t n, uint32_t seed)
{
    char copy[256];
    uint32_t state = seed;
    for (int round = 0; round < 100000; round++) {
        ka_proxy_source said;
        memcpy(copy, bytes, n);
        for (uint32_t k = next_random(&state) % 4 + 1; k; k--)
            copy[next_random(&state) % n] = (char)next_random(&state);
        size_t len = n - next_random(&state) % 8 % n;
        int got = ka_proxy_parse(at_the_edge(copy, len), len, &said);
        CHECK(got == KA_PARTIAL || got == KA_EPEER || (got > 0 && (size_t)got <= len), "seed %u round %d: %d", seed,
              round, got);
        CHECK(said.family == 0 || said.family == 4 || said.family == 6, "seed %u round %d", seed, round);
    }
}

static void bounded(void)
{
    static char most[KA_PROXY_MAX];
    ka_proxy_source said;
    memcpy(most, v2, 16);
    for (unsigned rest = 0; rest < 65536; rest += rest < 3000 ? 1 : 97) {
        most[14] = (char)(rest >> 8);
        most[15] = (char)rest;
        CHECK(ka_proxy_parse(at_the_edge(most, KA_PROXY_MAX), KA_PROXY_MAX, &said) != KA_PARTIAL, "length %u", rest);
    }
    memset(most, 'A', sizeof most);
    memcpy(most, "PROXY ", 6);
    CHECK(ka_proxy_parse(at_the_edge(most, 106), 106, &said) == KA_PARTIAL, "a line may have 107 bytes");
    CHECK(ka_proxy_parse(at_the_edge(most, 107), 107, &said) == KA_EPEER, "and no more");
}

int main(void)
{
    good(v1, sizeof v1 - 1, 4);
    good(v1_6, sizeof v1_6 - 1, 6);
    good(v2, sizeof v2 - 1, 4);
    good(v2_6, sizeof v2_6 - 1, 6);
    changed(v1, sizeof v1 - 1, 1);
    changed(v1_6, sizeof v1_6 - 1, 2);
    changed(v2, sizeof v2 - 1, 3);
    changed(v2_6, sizeof v2_6 - 1, 4);
    bounded();
    return CHECKS_DONE;
}
