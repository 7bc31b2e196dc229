/* ka_phase.h: the words of the table: handles, phases, causes, and what it counts. */
#ifndef KA_PHASE_H
#define KA_PHASE_H

#include "ka_base.h"

typedef uint64_t ka_handle; /* generation << 32 | slot; stale after close; 0 is never a handle */

/* The phase names whom we wait for. KA_FREE is no phase but an empty slot. */
typedef enum {
    KA_FREE,
    KA_HANDSHAKE, /* TLS listener: handshake not done */
    KA_NEW,       /* no byte of a request yet */
    KA_HEAD,      /* part of a request head is here */
    KA_BODY,      /* the application wants body bytes and none are here */
    KA_BUSY,      /* the application has the request */
    KA_WRITE,     /* the client must take bytes before anything goes on */
    KA_IDLE,      /* response handed to the kernel, connection kept */
    KA_LINGER,    /* we sent FIN, the client may still be sending */
    KA_TUNNEL,    /* 101 or CONNECT accepted; no longer HTTP */
    KA_N_PHASES
} ka_phase;

/* Why a connection ended. Every connection is counted under exactly one. */
#define KA_CAUSES(X)                                                                              \
    X(CLIENT, "client")           /* the client closed, or asked for close */                     \
    X(APPLICATION, "application") /* the application asked for close, or broke its own framing */ \
    X(POLICY, "policy")           /* keep_alive off for it */                                     \
    X(IDLE_TIMEOUT, "idle_timeout")                                                               \
    X(FIRST_BYTE_TIMEOUT, "first_byte_timeout")                                                   \
    X(HEADER_TIMEOUT, "header_timeout")                                                           \
    X(BODY_TIMEOUT, "body_timeout")                                                               \
    X(BODY_RATE, "body_rate")                                                                     \
    X(SEND_TIMEOUT, "send_timeout")                                                               \
    X(SEND_RATE, "send_rate")                                                                     \
    X(HANDLER_TIMEOUT, "handler_timeout")                                                         \
    X(HANDSHAKE_TIMEOUT, "handshake_timeout")                                                     \
    X(MAX_AGE, "max_age")                                                                         \
    X(MAX_REQUESTS, "max_requests")                                                               \
    X(EVICTED, "evicted")           /* its place was needed */                                    \
    X(CLIENT_LIMIT, "client_limit") /* max_connections_per_client */                              \
    X(REJECTED, "rejected")         /* when_full = reject */                                      \
    X(BUFFER_LIMIT, "buffer_limit") /* max_buffer_bytes, or out of memory */                      \
    X(DRAIN, "drain")                                                                             \
    X(BAD_REQUEST, "bad_request")                                                                 \
    X(EXCESSIVE_LOAD, "excessive_load") /* HTTP/2: work done for nothing, RFC 9113 10.5 */        \
    X(ERROR, "error")                   /* reset, failed send, TLS error, our own fault */        \
    X(UPGRADED, "upgraded")             /* a tunnel ended, or its socket was given away */

typedef enum {
    KA_CAUSE_NONE, /* it does not end, or not yet */
#define X(name, text) KA_CAUSE_##name,
    KA_CAUSES(X)
#undef X
    KA_N_CAUSES /* with KA_CAUSE_NONE: the length of an array by cause */
} ka_cause;

const char *ka_phase_name(unsigned phase); /* "idle"; static storage */
const char *ka_cause_name(unsigned cause); /* "idle_timeout", "none"; static storage */
static inline int ka_is_cause(unsigned cause) { return cause != KA_CAUSE_NONE && cause < KA_N_CAUSES; }

enum {
    KA_N_CLASSES = 64, /* of connections, each with a policy of its own */
    KA_CHUNK = 4096,   /* slots the table grows by */
    KA_N_BUCKETS = 64  /* of a histogram */
};

enum {
    KA_N_STATUS_CLASSES = 5 /* 1xx to 5xx */
};

/* Only ever added to; may live in shared memory, so that a restart of the owner never makes one fall. What follows `races`
 * is counted by conversations, and what is said of TLS by whoever has it: a table by itself sees none of it. */
typedef struct {
    uint64_t accepted, requests, reused; /* reused: requests that were not the first on their connection */
    uint64_t closed[KA_N_CAUSES];        /* by ka_cause; none ends by KA_CAUSE_NONE */
    uint64_t idle_gap[KA_N_BUCKETS];     /* milliseconds idle before a reuse; bucket rule at ka_bucket */
    uint64_t idle_left[KA_N_BUCKETS];    /* milliseconds idle before the client closed */
    uint64_t requests_per_connection[KA_N_BUCKETS];
    uint64_t races;                          /* a request crossed our idle close */
    uint64_t responses[KA_N_STATUS_CLASSES]; /* heads written, interim ones too, by the first digit of the status */
    uint64_t received, sent;                 /* bytes of HTTP; under TLS what was encrypted */
    /* Microseconds from the head of a request until its response began, and until the application had given all of it. */
    uint64_t first_byte[KA_N_BUCKETS];
    uint64_t duration[KA_N_BUCKETS];
    uint64_t first_byte_sum, duration_sum;            /* of those times */
    uint64_t tls_handshakes, tls_resumed, tls_failed; /* resumed ones are handshakes as well */
} ka_counters;

/* Which histogram bucket a value falls into: 0 and 1 have their own, then every power of two is cut into halves,
 * so an edge is at most 1.5 times the one below, and the middle of a bucket is within 20 % of any value in it.
 * Idle gaps are counted in whole milliseconds, times of responses in whole microseconds. Values from 2^32 fall into the last
 * bucket. */
static inline unsigned ka_bucket(uint64_t value)
{
    if (value < 2)
        return (unsigned)value;
    if (value >> 32)
        return KA_N_BUCKETS - 1;
    unsigned octave = 63u - (unsigned)__builtin_clzll(value);
    return 2 * octave + ((value >> (octave - 1)) & 1);
}

/* A head with this status was written. What is above 5xx counts as a client takes it, RFC 9110 15. */
static inline void ka_count_response(ka_counters *counters, unsigned status)
{
    unsigned k = status / 100 - 1;
    counters->responses[k < KA_N_STATUS_CLASSES ? k : KA_N_STATUS_CLASSES - 1]++;
}

uint64_t ka_bucket_edge(unsigned bucket); /* the smallest value that falls into it */

#endif
