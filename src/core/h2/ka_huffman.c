/* ka_huffman.c: encode by a table of codes, decode up to two symbols with each look into a table of 4,096.
 *
 * The code of RFC 7541 appendix B is canonical: codes of one length follow each other in the order of their symbols, and
 * those of the next length come behind them. So the lengths are all there is to write down, and the tables are made
 * from them at the start: 20 KB that all connections share. */
#include "h2/ka_huffman.h"

#include <string.h>

enum {
    N_SYMBOLS = 257, /* the bytes, and EOS */
    EOS = 256,
    SHORTEST = 5,
    MAX_BITS = 30,
    LOOK_BITS =
        12 /* two letters of the 68 whose codes have 5 or 6 bits fit always; the table takes half of an L1 cache */
};

/* RFC 7541 appendix B: the bits of the code of each byte; EOS is one of the three of 30 bits. */
static const uint8_t code_bits[N_SYMBOLS] = {
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, /* 00 */
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, /* 10 */
    6,  10, 10, 12, 13, 6,  8,  11, 10, 10, 8,  11, 8,  6,  6,  6,  /* 20 */
    5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8,  15, 6,  12, 10, /* 30 */
    13, 6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  /* 40 */
    7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8,  13, 19, 13, 14, 6,  /* 50 */
    15, 5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,  /* 60 */
    6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7,  15, 11, 14, 13, 28, /* 70 */
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, /* 80 */
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, /* 90 */
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, /* a0 */
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, /* b0 */
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, /* c0 */
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, /* d0 */
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, /* e0 */
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, /* f0 */
    30,                                                             /* EOS */
};

static uint32_t codes[N_SYMBOLS]; /* right-aligned */

/* What the next LOOK_BITS bits begin with: one symbol or two. Zero: a code that is longer. */
typedef uint32_t look;
enum {
    LOOK_ALL = 63,    /* bits of all its symbols; lowest, so that a shift by the entry needs no mask */
    LOOK_COUNT = 6,   /* shift: one symbol or two */
    LOOK_SYMBOLS = 16 /* shift: the bytes, as two that are stored at once */
};
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define PAIR(first, second) ((first) | (second) << 8)
#else
#define PAIR(first, second) ((first) << 8 | (second))
#endif
static look looks[1 << LOOK_BITS];

/* The codes of each length as numbers aligned to 32 bits from the left: those of `bits` bits are below ends[bits], and
 * the first of them is symbol by_code[first[bits]]. */
static uint64_t ends[MAX_BITS + 1];
static uint32_t begins[MAX_BITS + 1];
static uint16_t first[MAX_BITS + 1], by_code[N_SYMBOLS];

static void make_codes(void)
{
    uint32_t code = 0;
    uint16_t n = 0;
    for (unsigned bits = 1; bits <= MAX_BITS; bits++) {
        code <<= 1;
        first[bits] = n;
        begins[bits] = code << (32 - bits);
        for (unsigned symbol = 0; symbol < N_SYMBOLS; symbol++)
            if (code_bits[symbol] == bits) {
                by_code[n++] = (uint16_t)symbol;
                codes[symbol] = code++;
            }
        ends[bits] = (uint64_t)code << (32 - bits);
    }
    ka_assert(n == N_SYMBOLS && ends[MAX_BITS] == (uint64_t)1 << 32); /* every string of bits begins with a code */
}

/* The symbol that the bits, aligned to 32 from the left, begin with. */
static unsigned symbol_at(uint32_t bits, unsigned *n_bits)
{
    unsigned n = SHORTEST;
    while (bits >= ends[n])
        n++;
    *n_bits = n;
    return by_code[first[n] + ((bits - begins[n]) >> (32 - n))];
}

static void make_looks(void)
{
    for (uint32_t i = 0; i < 1u << LOOK_BITS; i++) {
        unsigned one, two, all;
        unsigned symbol = symbol_at(i << (32 - LOOK_BITS), &one);
        if (one > LOOK_BITS)
            continue;
        looks[i] = one | 1u << LOOK_COUNT | PAIR(symbol, 0u) << LOOK_SYMBOLS;
        if (one + SHORTEST > LOOK_BITS)
            continue;
        unsigned next = symbol_at(i << (32 - LOOK_BITS + one), &two);
        if ((all = one + two) <= LOOK_BITS)
            looks[i] = all | 2u << LOOK_COUNT | PAIR(symbol, next) << LOOK_SYMBOLS;
    }
}

void ka_huffman_init(void)
{
    if (looks[0] != 0)
        return;
    make_codes();
    make_looks();
}

/* ---- encoding ---- */

size_t ka_huffman_len(const char *text, size_t n)
{
    size_t bits = 0;
    for (size_t i = 0; i < n; i++)
        bits += code_bits[(uint8_t)text[i]];
    return (bits + 7) / 8;
}

static inline void store_be64(char *to, uint64_t word)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    memcpy(to, &word, 8);
}

static inline uint64_t load_be64(const uint8_t *from)
{
    uint64_t word;
    memcpy(&word, from, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

char *ka_huffman_encode(char *to, size_t code_len, const char *text, size_t n)
{
    char *end = to + code_len;
    uint64_t bits = 0; /* aligned to the left */
    unsigned have = 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = (uint8_t)text[i];
        unsigned more = code_bits[c];
        if (have + more > 64) {
            /* What is whole of it goes, 8 bytes at a time where there is room for them. */
            unsigned whole = have / 8;
            if (end - to >= 8)
                store_be64(to, bits);
            else
                for (unsigned k = 0; k < whole; k++)
                    to[k] = (char)(bits >> (56 - 8 * k));
            to += whole;
            bits = whole == 8 ? 0 : bits << (8 * whole);
            have -= 8 * whole;
        }
        bits |= (uint64_t)codes[c] << (64 - have - more);
        have += more;
    }
    /* RFC 7541 5.2: the padding is the beginning of EOS, which is ones. */
    if (have % 8)
        bits |= ~(uint64_t)0 >> have;
    for (; to < end; bits <<= 8)
        *to++ = (char)(bits >> 56);
    return end;
}

/* ---- decoding ---- */

/* Where the text goes; `len` counts on where there is no room left. */
typedef struct {
    char *to;
    size_t room, len;
} text_room;

/* The bits that are read and not decoded yet, from the left, and where the rest is. `have` of them count: what is behind
 * them is zero, or the same bits of the input that will be put there again. */
typedef struct {
    uint64_t bits;
    unsigned have;
    const uint8_t *from, *end;
} supply;

/* Where fewer than 8 bytes are left: what the supply has room for of them. */
static inline void fill(supply *in, const uint8_t *code)
{
    unsigned rest = (unsigned)(in->end - in->from), room = (64 - in->have) / 8;
    uint64_t word = 0;
    if (rest == 0)
        return;
    if (in->end - code >= 8)
        word = load_be64(in->end - 8) << (64 - 8 * rest);
    else
        for (unsigned i = 0; i < rest; i++)
            word |= (uint64_t)in->from[i] << (56 - 8 * i);
    rest = rest < room ? rest : room;
    in->bits |= word >> in->have;
    in->from += rest;
    in->have += 8 * rest;
}

/* Two bytes are written, of which one may be of no use. */
static inline char *put(char *to, look seen)
{
    uint16_t pair = (uint16_t)(seen >> LOOK_SYMBOLS);
    memcpy(to, &pair, sizeof pair);
    return to + (seen >> LOOK_COUNT & 3);
}

/* The last bits, which are all here and followed by ones. Return 0 when the string ends as it must, -1 when it does not.
 *
 * No code is ones and shorter than 10 bits, so padding and the ones behind it are never taken for one. A look that
 * takes more bits than there are saw a code that is not whole, or padding that is not ones. */
static inline int decode_last(uint64_t bits, unsigned have, text_room *out)
{
    while (~bits != 0) {
        look seen = looks[bits >> (64 - LOOK_BITS)];
        unsigned n_bits = seen & LOOK_ALL;
        if (ka_unlikely(seen == 0)) {
            unsigned symbol = symbol_at((uint32_t)(bits >> 32), &n_bits);
            if (symbol == EOS)
                return -1; /* RFC 7541 5.2: EOS in a string is an error */
            seen = 1u << LOOK_COUNT | PAIR(symbol, 0u) << LOOK_SYMBOLS;
        }
        if (n_bits > have)
            return -1;
        if (ka_likely(out->len + 2 <= out->room)) {
            put(out->to + out->len, seen);
        } else if (out->len < out->room) {
            char both[2];
            put(both, seen);
            out->to[out->len] = both[0];
        }
        out->len += seen >> LOOK_COUNT & 3;
        bits = bits << n_bits | ((1u << n_bits) - 1);
        have -= n_bits;
    }
    /* RFC 7541 5.2: padding is at most 7 bits, and those that EOS begins with. */
    return have > 7 ? -1 : 0;
}

/* Word by word: four looks for each time that the supply is filled, while there is room for 9 symbols. */
static inline int decode_most(supply *in, text_room *out, const uint8_t *code)
{
    uint64_t bits = in->bits;
    unsigned have = in->have;
    char *to = out->to, *last = out->to + out->room - 16;
    while (to <= last) {
        if (ka_likely(in->end - in->from >= 8)) {
            bits |= load_be64(in->from) >> have;
            in->from += (63 - have) >> 3;
            have |= 56;
        } else {
            in->bits = bits;
            in->have = have;
            fill(in, code);
            bits = in->bits;
            have = in->have;
            if (in->from == in->end)
                break;
        }
        look seen;
        for (int i = 0; i < 4; i++) {
            if (ka_unlikely((seen = looks[bits >> (64 - LOOK_BITS)]) == 0))
                break;
            to = put(to, seen);
            bits <<= seen & LOOK_ALL;
            have -= seen & LOOK_ALL;
        }
        if (ka_likely(seen != 0) || have < MAX_BITS)
            continue;
        unsigned n_bits, symbol = symbol_at((uint32_t)(bits >> 32), &n_bits);
        if (symbol == EOS)
            return -1; /* RFC 7541 5.2: EOS in a string is an error */
        *to++ = (char)symbol;
        bits <<= n_bits;
        have -= n_bits;
    }
    in->bits = bits;
    in->have = have;
    out->len = (size_t)(to - out->to);
    return 0;
}

/* The same with care, when there is little room or none. */
static int decode_carefully(supply *in, text_room *out)
{
    while (in->from < in->end) {
        while (in->have <= 56 && in->from < in->end) {
            in->bits |= (uint64_t)*in->from++ << (56 - in->have);
            in->have += 8;
        }
        if (in->from == in->end)
            break;
        unsigned n_bits, symbol = symbol_at((uint32_t)(in->bits >> 32), &n_bits);
        if (symbol == EOS)
            return -1;
        if (out->len < out->room)
            out->to[out->len] = (char)symbol;
        out->len++;
        in->bits <<= n_bits;
        in->have -= n_bits;
    }
    return 0;
}

int64_t ka_huffman_decode(char *to, size_t room, const uint8_t *code, size_t n)
{
    supply in = {0, 0, code, code + n};
    text_room out = {to, room, 0};
    if (ka_likely(room >= 16) && decode_most(&in, &out, code) < 0)
        return -1;
    if (ka_unlikely(in.from < in.end) && decode_carefully(&in, &out) < 0)
        return -1;
    uint64_t bits = in.have < 64 ? in.bits | ~(uint64_t)0 >> in.have : in.bits;
    if (decode_last(bits, in.have, &out) < 0)
        return -1;
    return (int64_t)out.len;
}
