/* ka_base.h: the few words every file of the core uses: return codes, a span of bytes, what is
 * decided about a connection, assertions.
 *
 * Return codes: 0 or a count is success, a negative KA_E* is a refusal that changed nothing.
 * "Not enough bytes yet" is KA_PARTIAL, never an error. */
#ifndef KA_BASE_H
#define KA_BASE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus /* who includes the headers there, inside extern "C", has the assertion by another name */
#define _Static_assert static_assert
#endif

enum {
    KA_OK = 0,
    KA_PARTIAL = -1, /* more bytes are needed; nothing was consumed beyond what was said */
    KA_ENOMEM = -2,  /* allocation failed, or a configured cap is reached; the object stays usable */
    KA_EINVAL = -3,  /* the caller's mistake: impossible transition, argument out of range */
    KA_ESTALE = -4,  /* the handle's generation is over: the connection it named is gone */
    KA_EFULL = -5,   /* max_connections are open */
    KA_ECLIENT = -6, /* this client holds max_connections_per_client already */
    KA_ESLOW = -7,   /* the peer is under the policy's byte rate */
    KA_EPEER = -8    /* the peer broke a rule of the protocol; details in a ka_fault */
};

/* A view of bytes inside somebody else's buffer. Offsets, not pointers: the buffer may move. */
typedef struct {
    uint32_t off, len;
} ka_span;

/* Is the connection kept after this response, and what does the response say about it? ka_conn_decide knows, and
 * ka_reply_finish_head writes it. */
typedef struct {
    uint8_t keeps;
    uint8_t sends_close;      /* Connection: close */
    uint8_t sends_keep_alive; /* Connection: keep-alive (HTTP/1.0, and whenever Keep-Alive is sent) */
    uint8_t cause;            /* ka_cause it will end by; KA_CAUSE_NONE when kept */
    uint32_t timeout_s;       /* Keep-Alive: timeout=; 0 = no such parameter */
    uint32_t max;             /* Keep-Alive: max=; 0 = no such parameter */
} ka_verdict;

#ifdef KA_DEBUG
#include <assert.h>
#define ka_assert(condition) assert(condition)
#else
#define ka_assert(condition) ((void)0)
#endif

/* With the address sanitizer what is given back is freed, and nothing kept for the next: so a use after that is seen. */
#if defined(__SANITIZE_ADDRESS__)
#define KA_KEEPS_FREED 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KA_KEEPS_FREED 0
#endif
#endif
#ifndef KA_KEEPS_FREED
#define KA_KEEPS_FREED 1
#endif

/* Have make() called once, whichever thread is the first; the others wait for it. state: 0 at first; 1 while it is made; 2.
 * For what takes microseconds. */
static inline void ka_once(int *state, void (*make)(void))
{
    int before = 0;
    if (__atomic_load_n(state, __ATOMIC_ACQUIRE) == 2)
        return;
    if (__atomic_compare_exchange_n(state, &before, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE)) {
        make();
        __atomic_store_n(state, 2, __ATOMIC_RELEASE);
    }
    while (__atomic_load_n(state, __ATOMIC_ACQUIRE) != 2)
        ;
}

#define ka_likely(x) __builtin_expect(!!(x), 1)
#define ka_unlikely(x) __builtin_expect(!!(x), 0)

#endif
