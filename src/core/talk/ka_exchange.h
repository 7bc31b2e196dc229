/* ka_exchange.h: one request and its response.
 *
 * What would be there once for each of many requests that share a connection. HTTP/1 has one at a time, so it is part of
 * its ka_talk, from the head of a request to the last byte of its response, and is used again for the next; a stream of
 * HTTP/2 will have one of its own. Nothing here presupposes that it is alone on its connection. */
#ifndef KA_EXCHANGE_H
#define KA_EXCHANGE_H

#include "http/ka_body.h"
#include "http/ka_reply.h"

typedef struct ka_talk ka_talk;

typedef struct {
    ka_talk *talk; /* the connection it is on, and by it the service; not owned */
    void *owner;   /* the application's side of the request, one hold on it; NULL once the application let go */
    ka_body body;
    ka_reply reply;
    ka_fault fault;      /* also of a head that could not be read: what answers it is an exchange */
    int64_t max_body;    /* content of the request, by its class */
    uint32_t head_bytes; /* of the request */
    uint16_t head_flags; /* KA_HEAD_* of it */
    /* The facts. */
    uint8_t has_request;   /* it is with the application */
    uint8_t has_response;  /* its response is complete (all in `out` or beyond) */
    uint8_t wants_body;    /* the application waits for content */
    uint8_t owes_continue; /* Expect: 100-continue, not answered yet */
    uint8_t is_failed;     /* the peer broke a rule in the body: `fault` says which */
    uint8_t is_tunnel; /* 101 or 2xx to CONNECT is sent: both directions are the application's bytes, until it ends */
    uint8_t is_held;   /* the application is held back until little is unsent */
    uint8_t awaits_empty; /* a held application may go on when nothing is unsent, and not before */
} ka_exchange;

/* The application has a request: it reads content, and responds. */
static inline int ka_exchange_is_open(const ka_exchange *x) { return x->has_request; }

/* Its response is complete, or will never be: the turn is to end it. */
static inline int ka_exchange_is_over(const ka_exchange *x) { return x->has_response; }

/* The application has a request, and has not said all of its response. */
static inline int ka_exchange_is_answering(const ka_exchange *x)
{
    return ka_exchange_is_open(x) && !ka_exchange_is_over(x);
}

static inline int ka_exchange_is_tunnel(const ka_exchange *x) { return x->is_tunnel; }

#endif
