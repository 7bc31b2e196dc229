/* ka_body.h: where the content of a request ends: content-length and chunked framing, trailers.
 *
 * A small state, fed with whatever bytes are there; knows no buffer. The pieces it names are views of the
 * caller's buffer. Split-invariant: the same bytes give the same content, end, and fault, however they arrive. */
#ifndef KA_BODY_H
#define KA_BODY_H

#include "ka_head.h"

typedef struct {
    int64_t  left;          /* bytes of content still to come in this chunk or body */
    int64_t  n_content;     /* content bytes seen so far */
    uint32_t n_framing;     /* bytes of the current chunk line or trailer section seen so far */
    uint32_t consumed;      /* offset of the next byte from the end of the head, modulo 2^32: for fault offsets */
    uint8_t  state;         /* private */
    uint8_t  spare[3];
} ka_body;

typedef enum {
    KA_BODY_NEEDS = 0,  /* all bytes looked at; more are needed */
    KA_BODY_DATA,       /* `piece` is content */
    KA_BODY_END         /* the message is over; `piece` is the trailer section's bytes, 0 when none */
} ka_body_event;

/* Set up for the message whose head was just parsed. A message without content gives KA_BODY_END at once. */
void ka_body_init(ka_body *body, const ka_head *head);

/* Next event from buf[0..len). *nbytes says how many bytes are done with (the piece included).
 * KA_BODY_NEEDS may leave bytes undone (a trailer section is judged whole): present them again with more behind.
 * Return: a ka_body_event, or KA_EPEER with *fault filled. `piece` counts from buf. */
int ka_body_next(ka_body *body, const char *buf, size_t len, const ka_limits *limits,
                 size_t *nbytes, ka_span *piece, ka_fault *fault);

/* Field lines of a trailer section that KA_BODY_END named: offsets into buf. Return: their number. */
int ka_body_trailers(const char *buf, size_t len, const ka_limits *limits, ka_field *fields);

static inline int ka_body_is_over(const ka_body *body) { return body->state == 0; }

#endif
