/* Blocks of 32 bytes say of every byte at every place what the plain table says.
 * link: http */
#include "check.h"

#include "http/ka_block.h"
#include "http/ka_scan.h"

enum {
    BLOCK = 32,
    PRINTABLE = 1 << 10,
    PATH = 1 << 11,
    DIGIT = 1 << 12
};

static int is_in(char b, unsigned classes)
{
    switch (classes) {
    case PRINTABLE: return b >= ' ' && b <= '~';
    case PATH:      return ka_is(b, KA_IS_TARGET) && b != '?' && b != '%';
    case DIGIT:     return b >= '0' && b <= '9';
    default:        return (int)ka_is(b, classes);
    }
}

/* Where there are no vectors nobody asks. */
#define MAYBE_UNUSED __attribute__((unused))

MAYBE_UNUSED static uint32_t expected(const char *block, int n, unsigned classes, int c)
{
    uint32_t mask = 0;
    for (int i = 0; i < n; i++)
        if (classes ? !is_in(block[i], classes) : block[i] == c)
            mask |= (uint32_t)1 << i;
    return mask;
}

MAYBE_UNUSED static const uint8_t *all(int c)
{
    static _Alignas(16) uint8_t bytes[16];
    return memset(bytes, c, sizeof bytes);
}

#define WAY(suffix, n, target)                                                                                      \
    target static void blocks_of_##suffix(const char *at, int c)                                                    \
    {                                                                                                               \
        ka_block_##suffix b = ka_load_##suffix(at);                                                                 \
        CHECK(ka_outside_##suffix(b, ka_token_rows) == expected(at, n, KA_IS_TOKEN, 0), #suffix " token %d", c);    \
        CHECK(ka_outside_##suffix(b, ka_target_rows) == expected(at, n, KA_IS_TARGET, 0), #suffix " target %d", c); \
        CHECK(ka_outside_##suffix(b, ka_path_rows) == expected(at, n, PATH, 0), #suffix " path %d", c);             \
        CHECK(ka_outside_##suffix(b, ka_digit_rows) == expected(at, n, DIGIT, 0), #suffix " digit %d", c);          \
        CHECK(ka_outside_##suffix(b, ka_host_rows) == expected(at, n, KA_IS_HOST, 0), #suffix " host %d", c);       \
        CHECK(ka_controls_##suffix(b) == expected(at, n, KA_IS_VALUE, 0), #suffix " value %d", c);                  \
        CHECK(ka_unusual_##suffix(b) == expected(at, n, PRINTABLE, 0), #suffix " unusual %d", c);                   \
        CHECK(ka_equal_##suffix(b, all(c)) == expected(at, n, 0, (char)c), #suffix " equal %d", c);                 \
    }
#ifdef KA_HAS_X86
WAY(sse42, 32, KA_SSE42)
WAY(sse42_half, 16, KA_SSE42)
#endif
#ifdef KA_HAS_NEON
WAY(neon, 32, )
WAY(neon_half, 16, )
#endif

static void all_ways(MAYBE_UNUSED const char *block, MAYBE_UNUSED int c)
{
#ifdef KA_HAS_X86
    if (__builtin_cpu_supports("sse4.2")) {
        blocks_of_sse42(block, c);
        blocks_of_sse42_half(block, c);
        blocks_of_sse42_half(block + 16, c);
    }
#endif
#ifdef KA_HAS_NEON
    blocks_of_neon(block, c);
    blocks_of_neon_half(block, c);
    blocks_of_neon_half(block + 16, c);
#endif
}

static void names(void)
{
    char name[64];
    CHECK(ka_names_init() == KA_OK, "no perfect hash");
    for (uint32_t i = 0; i < ka_name_count(); i++) {
        uint32_t n = ka_name_len(i);
        memcpy(name, ka_name_at(i), n);
        CHECK(strlen(ka_name_at(i)) == n, "%s", ka_name_at(i));
        CHECK(ka_name_find(at_the_edge(name, n), n) == (int)i, "%s", ka_name_at(i));
        for (uint32_t k = 0; k < n; k++) {
            char was = name[k];
            name[k] = was >= 'a' ? (char)(was - 0x20) : was;
            CHECK(ka_name_find(at_the_edge(name, n), n) == (int)i, "%.*s", (int)n, name);
            name[k] = '~';
            CHECK(ka_name_find(at_the_edge(name, n), n) == -1, "%.*s", (int)n, name);
            name[k] = was;
        }
    }
    for (uint32_t n = 1; n < 40; n++)
        CHECK(ka_name_find(memset(name, 'x', n), n) == -1, "%u", n);
}

int main(void)
{
    char block[BLOCK];
    for (int c = 0; c < 256; c++) {
        for (int i = 0; i < BLOCK; i++)
            block[i] = (char)(c + i);
        all_ways(at_the_edge(block, sizeof block), c);
        memset(block, 'a', sizeof block);
        block[c % BLOCK] = (char)c;
        all_ways(at_the_edge(block, sizeof block), c);
    }
    names();
    return CHECKS_DONE;
}
