/* ka_conn.h: the life of one connection: its transitions, and the decision whether it is kept.
 *
 * All transitions stand in one table in ka_conn.c. A decision is made once, here: whether a connection is kept, and
 * which fields say so. Callers (ka_talk, drivers, adapters) report what happened and carry out what they are told. */
#ifndef KA_CONN_H
#define KA_CONN_H

#include "table/ka_table.h"

/* Who is at the other end. family 0: unknown, or a unix socket, which is no client and is never limited. IPv4 addresses
 * stand in the first four bytes; ::ffff:a.b.c.d counts as IPv4. */
typedef struct {
    uint8_t family; /* 0, 4 or 6 */
    uint8_t addr[16];
    uint8_t is_proxy; /* a trusted proxy: no client either, but what its idle connections show is learned */
} ka_client;

/* Events, named after what happened. Anything without a row in the transition table is KA_EINVAL and changes nothing. */
typedef enum {
    KA_EV_HANDSHAKE_DONE, /* HANDSHAKE -> NEW */
    KA_EV_RECEIVED,       /* first byte of a request that is not an empty line: NEW, IDLE -> HEAD */
    KA_EV_HEAD_DONE,      /* a whole head is here: NEW, HEAD, IDLE -> BUSY; counts the request */
    KA_EV_BODY_WANTED,    /* BUSY -> BODY */
    KA_EV_BODY_ARRIVED,   /* BODY -> BUSY */
    KA_EV_BLOCKED,        /* HEAD, BUSY, BODY, TUNNEL -> WRITE */
    KA_EV_UNBLOCKED,      /* WRITE -> BUSY */
    KA_EV_RESPONDED,      /* whole response with the kernel and the connection kept: BUSY, BODY, WRITE -> IDLE */
    KA_EV_LINGERING,      /* we sent FIN: any but LINGER -> LINGER */
    KA_EV_TUNNELLED,      /* BUSY, BODY, WRITE -> TUNNEL */
    /* A connection that carries many requests at once (HTTP/2): IDLE = no open stream. After the first of these it
     * takes no other event but KA_EV_LINGERING. Its BUSY clock restarts whenever a stream opens or ends. */
    KA_EV_STREAM_OPENED, /* NEW, HEAD, IDLE, BUSY -> BUSY; counts the request */
    KA_EV_STREAM_CLOSED, /* BUSY -> BUSY, or IDLE when it was the last */
    KA_N_EVENTS
} ka_event;

/* Open a connection: HANDSHAKE when is_tls, else NEW. `policy_class` is its home: NEW and HEAD always run under it.
 * Return: 0 with *out, KA_EFULL (close ka_table_victim and come again), KA_ECLIENT, KA_ENOMEM, KA_EINVAL (class). */
int ka_conn_open(ka_table *t, int64_t now, unsigned policy_class, const ka_client *client, int is_tls, ka_handle *out);

/* Say who is at the other end of a connection that was opened as nobody's: a proxy has named its client. Not in IDLE.
 * KA_OK, KA_ECLIENT (that client has all it may have: turn it away), KA_ENOMEM, KA_EINVAL, KA_ESTALE. */
int ka_conn_set_client(ka_table *t, ka_handle h, const ka_client *client);

/* Report an event. Return: the new phase, KA_EINVAL or KA_ESTALE. */
int ka_conn_event(ka_table *t, ka_handle h, ka_event event, int64_t now);

/* Bytes moved in BODY, WRITE (restart the gap, feed the rate) or LINGER (restart the gap, count against linger_bytes
 * and linger_time_ns); in any other phase nothing: report the bytes first, then KA_EV_BODY_ARRIVED or KA_EV_UNBLOCKED.
 * A window is the time waited in BODY, or in WRITE, summed over as many waits as it takes; turning from one to the other
 * begins a new one. Return: 0, KA_ESLOW when the rate or the linger limit says close (cause in *cause), or KA_ESTALE. */
int ka_conn_progress(ka_table *t, ka_handle h, size_t nbytes, int64_t now, ka_cause *cause);

/* Bytes came from a connection in LINGER. Return 1, and count a race, when they are the first on one that was closed
 * while idle: the client cannot have seen our FIN before it wrote, and its request is lost. Else 0. */
int ka_conn_crossed(ka_table *t, ka_handle h);

/* "Something happened": restart the clock of the phase it is in, for hosts that know no more. 0 or KA_ESTALE. */
int ka_conn_touch(ka_table *t, ka_handle h, int64_t now);

/* Move to another class (rules that look at the request), until the next request; the clock of the phase is kept.
 * O(connections that entered the phase in that class later): none right after an event. KA_EINVAL, KA_ESTALE. */
int ka_conn_set_class(ka_table *t, ka_handle h, unsigned policy_class);

int ka_conn_phase(const ka_table *t, ka_handle h);               /* ka_phase or KA_ESTALE */
int ka_conn_class(const ka_table *t, ka_handle h);               /* the class it is in now, or KA_ESTALE */
const ka_policy *ka_conn_policy(const ka_table *t, ka_handle h); /* of that class; NULL if stale */
uint32_t ka_conn_requests(const ka_table *t, ka_handle h);       /* heads seen on it; 0 if stale */

/* Called once, when the response head is about to be written.
 * minor: the request's HTTP/1.minor. client_persists: KA_HEAD_KEEP_ALIVE. must_close: KA_CAUSE_NONE when nothing
 * forbids keeping it, else the cause for which it will be closed. 0, KA_ESTALE, or KA_EINVAL outside a request. */
int ka_conn_decide(ka_table *t, ka_handle h, unsigned minor, int client_persists, ka_cause must_close, int64_t now,
                   ka_verdict *out);

/* The one way out of the table, right for every phase. Counts the cause, bumps the generation. KA_ESTALE if gone. One in
 * IDLE by KA_CAUSE_CLIENT, or a reset (KA_CAUSE_ERROR): they closed first, which says how long they keep idle connections. */
int ka_conn_close(ka_table *t, ka_handle h, ka_cause cause, int64_t now);

/* Remember why it will end, for when its LINGER is over. ka_conn_decide and ka_table_due do so themselves. 0, KA_ESTALE. */
int ka_conn_will_end(ka_table *t, ka_handle h, ka_cause cause);
ka_cause ka_conn_ending(const ka_table *t, ka_handle h); /* what was remembered; KA_CAUSE_NONE: nothing */

#endif
