/* ka_body.h: where the content of a request ends: content-length and chunked framing, trailers.
 *
 * A small state, fed with whatever bytes are there; knows no buffer. The pieces it names are views of the
 * caller's buffer. Split-invariant: the same bytes give the same content, end, and fault, however they arrive. */
#ifndef KA_BODY_H
#define KA_BODY_H

#include "http/ka_head.h"

typedef struct {
    int64_t left;       /* bytes of content still to come in this chunk or body */
    int64_t n_content;  /* content bytes seen so far */
    uint64_t consumed;  /* offset of the next byte from the first byte of the message: for fault offsets */
    uint32_t n_framing; /* bytes of the current chunk line or trailer section seen so far */
    uint8_t state;      /* private; 0 = over */
    uint8_t spare[3];
} ka_body;
_Static_assert(sizeof(ka_body) == 32, "every connection with a body holds one");

typedef enum {
    KA_BODY_NEEDS = 0, /* all bytes looked at; more are needed */
    KA_BODY_DATA,      /* `piece` is content */
    KA_BODY_END        /* the message is over; `piece` is the field lines of the trailer section, len 0 when none */
} ka_body_event;

/* Set up for the message whose head was just parsed. A message without content gives KA_BODY_END at once, without
 * a byte; so does any call after the end. */
void ka_body_init(ka_body *body, const ka_head *head);

/* Next event from buf[0..len). *nbytes says how many bytes are done with (the piece included).
 * KA_BODY_NEEDS may leave bytes undone (a trailer section is judged whole): present them again with more behind.
 * Return: a ka_body_event, or KA_EPEER with *fault filled. `piece` counts from buf. */
int ka_body_next(ka_body *body, const char *buf, size_t len, const ka_limits *limits, size_t *nbytes, ka_span *piece,
                 ka_fault *fault);

/* Field lines of the trailer section that KA_BODY_END named (buf, len: the piece): offsets into buf.
 * fields: the caller's array of at least limits->max_headers. Return: their number. */
int ka_body_trailers(const char *buf, size_t len, const ka_limits *limits, ka_field *fields);

/* Whether a field of this name must not come as a trailer, RFC 9110 6.5.1: of requests as of responses. */
int ka_trailer_is_forbidden(const char *name, size_t len);

/* No further byte belongs to the message. True from the last content byte of a Content-Length body on: the
 * KA_BODY_END that is still to be fetched needs no bytes. */
static inline int ka_body_is_over(const ka_body *body) { return body->state == 0; }

#endif
