/* ka_filter.h: the seam for TLS: what bytes pass through between a socket, or a transport, and a talk.
 *
 * The filter touches no socket and no driver touches a key. What a talk has to send counts as sent when its ciphertext is
 * with the kernel, so that everything built on "sent" (phases, idle timers, closing) means the same with and without. */
#ifndef KA_FILTER_H
#define KA_FILTER_H

#include <sys/uio.h>

#include "talk/ka_talk.h"

enum {
    KA_WIRE_RECORD = 16 * 1024,         /* plaintext of one TLS record, RFC 8446 5.1 */
    KA_WIRE_AHEAD = 4 * KA_WIRE_RECORD, /* plaintext whose ciphertext waits for the kernel, at most */
    KA_TLS_ALERT_MAX = 32               /* bytes of a record with an alert; one with a request has more */
};

typedef struct ka_session ka_session;

/* What a call may cost is bounded, whatever the peer sends: see has_more.
 *
 * Codes: KA_OK; KA_PARTIAL: bytes of the peer are needed first; KA_EPEER: over, by an error; KA_ENOMEM. After each
 * call, also one that failed, session->out is what must be sent. None of them may call back into the engine. */
typedef struct {
    ka_session *(*open)(void *ctx);                                    /* NULL: out of memory, no context */
    int (*feed)(ka_session *session, const char *bytes, size_t len);   /* from the socket; len 0 = FIN */
    int (*shake)(ka_session *session);                                 /* go on with the handshake; KA_OK = done */
    ptrdiff_t (*read)(ka_session *session, char *to, size_t room);     /* n > 0; 0 = the peer said that it is done;
                                                                           KA_ESTALE = FIN without a word */
    int (*write)(ka_session *session, const struct iovec *iov, int n); /* each at most KA_WIRE_RECORD */
    void (*sent)(ka_session *session, size_t nbytes);                  /* of out */
    void (*shut)(ka_session *session);                                 /* tell the peer that no more will come */
    void (*close)(ka_session *session);                                /* free it */
} ka_filter;

struct ka_session {
    const ka_filter *filter; /* not owned */
    void *owner;             /* the filter's */
    const char *out;         /* bytes for the socket; the filter's */
    size_t out_len;
    size_t n_covered;   /* bytes of the talk's output that `out` stands for */
    uint8_t is_drained; /* the socket is used up, though plaintext may wait inside */
    uint8_t is_empty;   /* after a read that gave something: nothing more is inside; the filter's */
    uint8_t
        has_more; /* after KA_PARTIAL, or a handshake: more is inside than a call may look at: read later, after others */
    uint8_t is_abusive; /* after KA_EPEER: the peer broke a rule that is none of the filter's protocol */
    uint8_t is_h2;      /* after the handshake: the client and we have agreed on HTTP/2 (ALPN, RFC 9113 3.2) */
    uint32_t n_raw;     /* bytes fed, for whoever keeps a step bounded */
};

/* Encrypt the next of the talk's output into session->out, which is empty: session->n_covered bytes of it. 0, or -1 with
 * errno; a file that became shorter covers nothing. */
int ka_filter_encrypt(ka_session *session, const ka_talk *talk);

#endif
