/* ka_table.h: where connections are remembered: slots, handles, queues, per-client lists, counters.
 *
 * Holds the mechanism only: what a phase means, which moves are legal and what a timeout is, ka_conn knows.
 * Knows no socket, no clock, no Python object, no random source: `now` and the hash seed are arguments.
 *
 * Invariants, walked by ka_table_check():
 *  - a slot is on the free list, or in exactly one queue: that of its (class, phase);
 *  - a queue is ordered by since_ns: members enter at the tail and `now` never decreases;
 *  - an idle connection of a known client is on that client's idle list, in the same order;
 *  - the counts equal what the lists hold;
 *  - slot 0 is never handed out, so handle 0 and link 0 mean "none".
 * A table belongs to one thread. */
#ifndef KA_TABLE_H
#define KA_TABLE_H

#include "ka_base.h"

typedef uint64_t ka_handle;  /* generation << 32 | slot; stale after close; 0 is never a handle */

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
#define KA_CAUSES(X)                                                                                      \
    X(CLIENT, "client")                   /* the client closed, or asked for close */                     \
    X(APPLICATION, "application")         /* the application asked for close, or broke its own framing */ \
    X(POLICY, "policy")                   /* keep_alive off for it */                                     \
    X(IDLE_TIMEOUT, "idle_timeout")                                                                       \
    X(FIRST_BYTE_TIMEOUT, "first_byte_timeout")                                                           \
    X(HEADER_TIMEOUT, "header_timeout")                                                                   \
    X(BODY_TIMEOUT, "body_timeout")                                                                       \
    X(BODY_RATE, "body_rate")                                                                             \
    X(SEND_TIMEOUT, "send_timeout")                                                                       \
    X(SEND_RATE, "send_rate")                                                                             \
    X(HANDLER_TIMEOUT, "handler_timeout")                                                                 \
    X(HANDSHAKE_TIMEOUT, "handshake_timeout")                                                             \
    X(MAX_AGE, "max_age")                                                                                 \
    X(MAX_REQUESTS, "max_requests")                                                                       \
    X(EVICTED, "evicted")                 /* its place was needed */                                      \
    X(CLIENT_LIMIT, "client_limit")       /* max_connections_per_client */                                \
    X(REJECTED, "rejected")               /* when_full = reject */                                        \
    X(BUFFER_LIMIT, "buffer_limit")       /* max_buffer_bytes, or out of memory */                        \
    X(DRAIN, "drain")                                                                                     \
    X(BAD_REQUEST, "bad_request")                                                                         \
    X(ERROR, "error")                     /* reset, failed send, TLS error, our own fault */              \
    X(UPGRADED, "upgraded")               /* a tunnel ended, or its socket was given away */

typedef enum {
#define X(name, text) KA_CAUSE_##name,
    KA_CAUSES(X)
#undef X
    KA_N_CAUSES
} ka_cause;

const char *ka_phase_name(unsigned phase);  /* "idle"; static storage */
const char *ka_cause_name(unsigned cause);  /* "idle_timeout"; static storage */

enum { KA_N_CLASSES = 64, KA_CHUNK = 4096, KA_N_BUCKETS = 64 };

/* Only ever added to; may live in shared memory, so that a restart of the owner never makes one fall. */
typedef struct {
    uint64_t accepted, requests, reused;     /* reused: requests that were not the first on their connection */
    uint64_t closed[KA_N_CAUSES];
    uint64_t idle_gap[KA_N_BUCKETS];         /* idle time before a reuse; bucket rule at ka_table_bucket */
    uint64_t requests_per_connection[KA_N_BUCKETS];
    uint64_t races;                          /* a request crossed our idle close */
} ka_counters;

typedef struct ka_table ka_table;

#endif
