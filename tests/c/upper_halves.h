/* upper_halves.h: whether code leaves the upper halves of the vector registers dirty.
 *
 * An instruction of 256 bits that is not followed by vzeroupper makes all SSE code behind it slow on some processors, ours
 * and that of every other library in the process, until somebody clears them. Answers do not show it, and some processors
 * do not feel it; XGETBV with ECX=1 tells it on both (bit 2: AVX state in use), where CPUID says that it is there. */
#ifndef UPPER_HALVES_H
#define UPPER_HALVES_H

#include "check.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <stdint.h>

static inline uint32_t state_of(uint32_t which)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(which));
    return low;
}

static inline void clear_upper_halves(void)
{
    __asm__ volatile("vzeroupper" ::
                         : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                           "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

static inline int upper_halves_in_use(void) { return (int)(state_of(1) >> 2 & 1); }

/* Whether the processor tells, tried once: after vzeroupper it must say no, and after an instruction of 256 bits yes. */
static inline int can_tell(void)
{
    enum {
        OSXSAVE_AND_AVX = 3 << 27,
        XGETBV_1 = 1 << 2
    };
    static int known = -1;
    uint32_t a, b, c, d;
    if (known >= 0)
        return known;
    known = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & OSXSAVE_AND_AVX) != OSXSAVE_AND_AVX || (state_of(0) >> 2 & 1) == 0 ||
        !__get_cpuid_count(13, 1, &a, &b, &c, &d) || !(a & XGETBV_1)) {
        printf("upper halves: this processor has no XGETBV with ECX=1, so nobody asked\n");
        return known;
    }
    clear_upper_halves();
    int clean = !upper_halves_in_use();
    __asm__ volatile("vcmptrueps %%ymm0, %%ymm0, %%ymm0" ::: "xmm0");
    known = clean && upper_halves_in_use();
    clear_upper_halves();
    if (!known)
        printf("upper halves: this processor does not keep track of them, so nobody asked\n");
    return known;
}
#else
static inline int can_tell(void) { return 0; }
static inline void clear_upper_halves(void) {}
static inline int upper_halves_in_use(void) { return 0; }
#endif

/* Do `call` and nothing else between clearing and asking: what the C library does is not to show. */
#define LEAVES_THEM_CLEAN(call, ...)       \
    do {                                   \
        int tells = can_tell(), dirty = 0; \
        if (tells)                         \
            clear_upper_halves();          \
        call;                              \
        if (tells)                         \
            dirty = upper_halves_in_use(); \
        if (tells)                         \
            clear_upper_halves();          \
        CHECK(!dirty, __VA_ARGS__);        \
    } while (0)

#endif
