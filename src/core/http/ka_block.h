/* ka_block.h: 32 or 16 bytes at a time. For each instruction set: load a block, and say which of its bytes are outside
 * an alphabet, no printable ASCII ("unusual"), controls, or equal to one byte, a bit for each, the first byte's the lowest.
 *
 * An alphabet of ASCII characters is 16 numbers: bit h-2 of number l says that character 0xhl belongs (RFC alphabets
 * have nothing below 0x20). One table lookup by the low half of a byte, one by the high half, and an AND tell for
 * every byte at once; a byte over 0x7f finds 0 in the first lookup, so it is outside of all.
 * The tables repeat what ka_class says: tests/c/scan_test.c compares them byte by byte.
 *
 * The functions are compiled for their instruction set one by one, so that the rest of the build stays for the
 * plainest machine; ka_simd_select in ka_head.c chooses at run time. There is none of 256 bits: docs/performance.md. */
#ifndef KA_BLOCK_H
#define KA_BLOCK_H

#include "ka_base.h"

/* In memory and not known to the compiler: it would build every one of them in registers anew for each line, with two or
 * three instructions instead of one load. */
#define KA_ALIGNED __attribute__((aligned(16)))
extern const uint8_t ka_token_rows[16] KA_ALIGNED, ka_target_rows[16] KA_ALIGNED, ka_path_rows[16] KA_ALIGNED;
extern const uint8_t ka_host_rows[16] KA_ALIGNED, ka_digit_rows[16] KA_ALIGNED, ka_row_bits[16] KA_ALIGNED;
extern const uint8_t ka_ones[16] KA_ALIGNED, ka_low_halves[16] KA_ALIGNED, ka_bound[16] KA_ALIGNED,
    ka_dots[16] KA_ALIGNED;

#if defined(__x86_64__)
#include <immintrin.h>
#define KA_HAS_X86 1

/* ---- SSE4.2 (of it, SSSE3's byte shuffle) ---- */
#define KA_SSE42 __attribute__((target("sse4.2")))
#define KA_SSE42_INLINE static inline __attribute__((always_inline, target("sse4.2")))

typedef struct {
    __m128i a, b;
} ka_block_sse42;

KA_SSE42_INLINE ka_block_sse42 ka_load_sse42(const char *p)
{
    return (ka_block_sse42){_mm_loadu_si128((const __m128i *)(const void *)p),
                            _mm_loadu_si128((const __m128i *)(const void *)(p + 16))};
}

KA_SSE42_INLINE uint32_t ka_mask_sse42(__m128i a, __m128i b)
{
    return (uint32_t)_mm_movemask_epi8(a) | (uint32_t)_mm_movemask_epi8(b) << 16;
}

KA_SSE42_INLINE __m128i ka_constant_sse42(const uint8_t bytes[16])
{
    return _mm_load_si128((const __m128i *)(const void *)bytes);
}

KA_SSE42_INLINE uint32_t ka_equal_sse42(ka_block_sse42 b, const uint8_t c[16])
{
    return ka_mask_sse42(_mm_cmpeq_epi8(b.a, ka_constant_sse42(c)), _mm_cmpeq_epi8(b.b, ka_constant_sse42(c)));
}

KA_SSE42_INLINE __m128i ka_half_outside_sse42(__m128i b, const uint8_t rows[16])
{
    __m128i upper = _mm_and_si128(_mm_srli_epi16(b, 4), ka_constant_sse42(ka_low_halves));
    __m128i both = _mm_and_si128(_mm_shuffle_epi8(ka_constant_sse42(rows), b),
                                 _mm_shuffle_epi8(ka_constant_sse42(ka_row_bits), upper));
    return _mm_cmpeq_epi8(both, _mm_setzero_si128());
}

KA_SSE42_INLINE uint32_t ka_outside_sse42(ka_block_sse42 b, const uint8_t rows[16])
{
    return ka_mask_sse42(ka_half_outside_sse42(b.a, rows), ka_half_outside_sse42(b.b, rows));
}

KA_SSE42_INLINE __m128i ka_half_controls_sse42(__m128i b)
{
    __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(b, _mm_set1_epi8(0x1f)), b);
    __m128i tab = _mm_cmpeq_epi8(b, _mm_set1_epi8('\t'));
    return _mm_or_si128(_mm_andnot_si128(tab, low), _mm_cmpeq_epi8(b, _mm_set1_epi8(0x7f)));
}

KA_SSE42_INLINE uint32_t ka_controls_sse42(ka_block_sse42 b)
{
    return ka_mask_sse42(ka_half_controls_sse42(b.a), ka_half_controls_sse42(b.b));
}

KA_SSE42_INLINE __m128i ka_half_unusual_sse42(__m128i b)
{
    return _mm_cmpgt_epi8(ka_constant_sse42(ka_bound), _mm_add_epi8(b, ka_constant_sse42(ka_ones)));
}

KA_SSE42_INLINE uint32_t ka_unusual_sse42(ka_block_sse42 b)
{
    return ka_mask_sse42(ka_half_unusual_sse42(b.a), ka_half_unusual_sse42(b.b));
}

/* The same with 16 bytes, for inputs of less than 32. */
typedef __m128i ka_block_sse42_half;

KA_SSE42_INLINE ka_block_sse42_half ka_load_sse42_half(const char *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

KA_SSE42_INLINE uint32_t ka_equal_sse42_half(ka_block_sse42_half b, const uint8_t c[16])
{
    return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(b, ka_constant_sse42(c)));
}

KA_SSE42_INLINE uint32_t ka_outside_sse42_half(ka_block_sse42_half b, const uint8_t rows[16])
{
    return (uint32_t)_mm_movemask_epi8(ka_half_outside_sse42(b, rows));
}

KA_SSE42_INLINE uint32_t ka_controls_sse42_half(ka_block_sse42_half b)
{
    return (uint32_t)_mm_movemask_epi8(ka_half_controls_sse42(b));
}

KA_SSE42_INLINE uint32_t ka_unusual_sse42_half(ka_block_sse42_half b)
{
    return (uint32_t)_mm_movemask_epi8(ka_half_unusual_sse42(b));
}
#endif

#if defined(__aarch64__)
#include <arm_neon.h>
#define KA_HAS_NEON 1

/* ---- NEON: part of every 64-bit ARM ---- */
#define KA_NEON_INLINE static inline __attribute__((always_inline))

typedef struct {
    uint8x16_t a, b;
} ka_block_neon;

KA_NEON_INLINE ka_block_neon ka_load_neon(const char *p)
{
    return (ka_block_neon){vld1q_u8((const uint8_t *)p), vld1q_u8((const uint8_t *)p + 16)};
}

/* One bit of each byte, added up in pairs three times: 32 bytes of 0 or 0xff become 32 bits. */
KA_NEON_INLINE uint32_t ka_mask_neon(uint8x16_t a, uint8x16_t b)
{
    static const uint8_t weights[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t w = vld1q_u8(weights);
    uint8x16_t sum = vpaddq_u8(vandq_u8(a, w), vandq_u8(b, w));
    sum = vpaddq_u8(sum, sum);
    sum = vpaddq_u8(sum, sum);
    return vgetq_lane_u32(vreinterpretq_u32_u8(sum), 0);
}

KA_NEON_INLINE uint32_t ka_equal_neon(ka_block_neon b, const uint8_t c[16])
{
    uint8x16_t v = vld1q_u8(c);
    return ka_mask_neon(vceqq_u8(b.a, v), vceqq_u8(b.b, v));
}

KA_NEON_INLINE uint8x16_t ka_half_outside_neon(uint8x16_t b, const uint8_t rows[16])
{
    /* This lookup takes all of a byte as its index and gives 0 over 15: clear bits 4 to 6, keep bit 7. */
    uint8x16_t low = vqtbl1q_u8(vld1q_u8(rows), vandq_u8(b, vdupq_n_u8(0x8f)));
    uint8x16_t high = vqtbl1q_u8(vld1q_u8(ka_row_bits), vshrq_n_u8(b, 4));
    return vceqq_u8(vandq_u8(low, high), vdupq_n_u8(0));
}

KA_NEON_INLINE uint32_t ka_outside_neon(ka_block_neon b, const uint8_t rows[16])
{
    return ka_mask_neon(ka_half_outside_neon(b.a, rows), ka_half_outside_neon(b.b, rows));
}

KA_NEON_INLINE uint8x16_t ka_half_controls_neon(uint8x16_t b)
{
    uint8x16_t low = vcltq_u8(b, vdupq_n_u8(0x20)), tab = vceqq_u8(b, vdupq_n_u8('\t'));
    return vorrq_u8(vbicq_u8(low, tab), vceqq_u8(b, vdupq_n_u8(0x7f)));
}

KA_NEON_INLINE uint32_t ka_controls_neon(ka_block_neon b)
{
    return ka_mask_neon(ka_half_controls_neon(b.a), ka_half_controls_neon(b.b));
}

KA_NEON_INLINE uint8x16_t ka_half_unusual_neon(uint8x16_t b)
{
    return vcgtq_s8(vdupq_n_s8(0x21), vreinterpretq_s8_u8(vaddq_u8(b, vdupq_n_u8(1))));
}

KA_NEON_INLINE uint32_t ka_unusual_neon(ka_block_neon b)
{
    return ka_mask_neon(ka_half_unusual_neon(b.a), ka_half_unusual_neon(b.b));
}

/* The same with 16 bytes, for inputs of less than 32. */
typedef uint8x16_t ka_block_neon_half;

KA_NEON_INLINE uint32_t ka_half_mask_neon(uint8x16_t a) { return ka_mask_neon(a, vdupq_n_u8(0)); }

KA_NEON_INLINE ka_block_neon_half ka_load_neon_half(const char *p) { return vld1q_u8((const uint8_t *)p); }

KA_NEON_INLINE uint32_t ka_equal_neon_half(ka_block_neon_half b, const uint8_t c[16])
{
    return ka_half_mask_neon(vceqq_u8(b, vld1q_u8(c)));
}

KA_NEON_INLINE uint32_t ka_outside_neon_half(ka_block_neon_half b, const uint8_t rows[16])
{
    return ka_half_mask_neon(ka_half_outside_neon(b, rows));
}

KA_NEON_INLINE uint32_t ka_controls_neon_half(ka_block_neon_half b)
{
    return ka_half_mask_neon(ka_half_controls_neon(b));
}

KA_NEON_INLINE uint32_t ka_unusual_neon_half(ka_block_neon_half b)
{
    return ka_half_mask_neon(ka_half_unusual_neon(b));
}
#endif

#endif
