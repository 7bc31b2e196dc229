/* ka_scan.h: finding the first byte that does not belong, over the few alphabets of a request head.
 *
 * The plain way, one byte at a time; ka_block.h has the fast one. The alphabets are the grammar's, in one table.
 * Also the common field names, so that callers can share one object for each. */
#ifndef KA_SCAN_H
#define KA_SCAN_H

#include <string.h>

#include "ka_base.h"

enum {
    KA_IS_TOKEN = 1,  /* RFC 9110 5.6.2 tchar */
    KA_IS_TARGET = 2, /* printable ASCII without space and "#<> : docs/strictness.md, request target */
    KA_IS_VALUE = 4,  /* RFC 9110 5.5: VCHAR, obs-text, SP, HTAB */
    KA_IS_HOST = 8,   /* RFC 3986 3.2.2 reg-name without "%": unreserved, sub-delims */
    KA_IS_HEX = 16,
    KA_IS_METHOD = 32 /* A-Z, "-", "_" */
};

extern const uint8_t ka_class[256];

static inline unsigned ka_is(char c, unsigned classes) { return ka_class[(uint8_t)c] & classes; }

/* The first position in [p, end) whose byte is outside, or `end`. */
static inline const char *ka_scan_class(const char *p, const char *end, unsigned classes)
{
    while (p < end && ka_is(*p, classes))
        p++;
    return p;
}

static inline char ka_lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c; }

/* Equality, apart from ASCII case, with a lower-case literal of n bytes. */
static inline int ka_equals_lower(const char *p, const char *lower, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (ka_lower(p[i]) != lower[i])
            return 0;
    return 1;
}

static inline int ka_is_crlf(const char *p) { return memcmp(p, "\r\n", 2) == 0; }

/* The same for four letters. */
static inline int ka_is_word4(const char *p, const char *lower)
{
    uint32_t a, b;
    memcpy(&a, p, 4);
    memcpy(&b, lower, 4);
    return (a | 0x20202020u) == b;
}

/* And for a token of 8 to 16 bytes and a literal of letters and "-": no byte of a token but a letter's capital becomes one
 * of those by setting bit 0x20. */
static inline int ka_is_name(const char *p, const char *lower, size_t n)
{
    const uint64_t fold = 0x2020202020202020u;
    uint64_t a, b, c, d;
    memcpy(&a, p, 8);
    memcpy(&b, lower, 8);
    memcpy(&c, p + n - 8, 8);
    memcpy(&d, lower + n - 8, 8);
    return (((a | fold) ^ b) | ((c | fold) ^ d)) == 0;
}

static inline void ka_lower_copy(char *to, const char *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = ka_lower(from[i]);
}

/* Common field names, so that callers can share one object for each. Names are told apart from case.
 * ka_names_init must have been called once; KA_EINVAL when no hash without collisions is found (a test would fail). */
int ka_names_init(void);
uint32_t ka_name_count(void);
const char *ka_name_at(uint32_t i);
uint32_t ka_name_len(uint32_t i);
int ka_name_find(const char *name, uint32_t n); /* index, or -1; n >= 1 bytes that are a token */

#endif
