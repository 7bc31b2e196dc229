/* ka_head.h: a request head (request-line and field section) from bytes to offsets.
 *
 * Stateless: the answer depends on the bytes, the limits and nothing else, so the same bytes give the same
 * answer however they arrived. The caller owns the buffer and the array of fields; a result holds offsets
 * into the buffer, counted from its first byte, and owns nothing. Never reads past `len`.
 *
 * Rules: RFC 9112 sections 2 to 6 and 9, RFC 9110 sections 5 to 7 and 10; where they leave room, the choice is
 * in docs/strictness.md. Every rule that can fail has its own fault, listed in KA_FAULTS. */
#ifndef KA_HEAD_H
#define KA_HEAD_H

#include "ka_base.h"

/* What the peer did wrong: X(name, status to answer, sentence that names the rule).
 * The lower-cased name without its prefix is PeerError.code: stable, machine-readable. */
#define KA_FAULTS(X)                                                                                     \
    X(BAD_METHOD, 400, "the method is not a token (RFC 9110 9.1)")                                       \
    X(BAD_TARGET, 400, "the request target is malformed (RFC 9112 3.2)")                                 \
    X(BAD_VERSION, 400, "the HTTP version is malformed (RFC 9112 2.3)")

typedef enum {
    KA_FAULT_NONE = 0,
#define X(name, status, text) KA_FAULT_##name,
    KA_FAULTS(X)
#undef X
    KA_N_FAULTS
} ka_fault_code;

typedef struct {
    uint16_t code;    /* ka_fault_code */
    uint16_t status;  /* the response status to send */
    uint32_t offset;  /* where, from the message's first byte */
    uint64_t limit;   /* the limit that was passed, for faults that have one; else 0 */
} ka_fault;

const char *ka_fault_name(unsigned code);   /* "bad_method"; static storage */
const char *ka_fault_text(unsigned code);   /* the sentence; static storage */

typedef struct {
    uint32_t max_head_bytes;       /* request-line and fields, with the empty line that ends them */
    uint32_t max_target_bytes;     /* 414 above it */
    uint32_t max_headers;          /* number of field lines; at most KA_MAX_FIELDS */
    uint32_t max_header_bytes;     /* one field line, without CRLF */
    uint32_t max_chunk_line_bytes; /* size and extensions of one chunk, without CRLF */
    uint32_t max_trailer_bytes;    /* the whole trailer section */
    int64_t  max_body_bytes;       /* content of one request; 413 above it */
} ka_limits;

extern const ka_limits ka_limits_default;
#define KA_MAX_FIELDS 1024

typedef struct {
    ka_span name, value;  /* as sent; value without surrounding white space */
} ka_field;

/* Facts about the message that framing and persistence need, collected while the fields are read. */
enum {
    KA_HEAD_KEEP_ALIVE = 1 << 0,      /* the client's side of RFC 9112 9.3: it can reuse the connection */
    KA_HEAD_CHUNKED = 1 << 1,         /* Transfer-Encoding: chunked */
    KA_HEAD_HAS_LENGTH = 1 << 2,      /* Content-Length was sent (may be 0) */
    KA_HEAD_EXPECTS_CONTINUE = 1 << 3, /* Expect: 100-continue on HTTP/1.1 */
    KA_HEAD_UPGRADE = 1 << 4,         /* Upgrade field, and "upgrade" among the Connection options */
    KA_HEAD_IS_HEAD = 1 << 5,         /* the method is HEAD */
    KA_HEAD_IS_CONNECT = 1 << 6       /* the method is CONNECT */
};

typedef enum { KA_TARGET_ORIGIN, KA_TARGET_ABSOLUTE, KA_TARGET_AUTHORITY, KA_TARGET_ASTERISK } ka_target_form;

typedef struct {
    uint32_t nbytes;          /* consumed, with a tolerated leading empty line and the final empty line */
    uint32_t n_fields;
    ka_span  method, target;
    ka_span  host;            /* value of Host, or len 0; `KA_HEAD_*` never needs it */
    ka_span  path, query;     /* of the target, in origin and absolute form; query without "?" */
    int64_t  content_length;  /* -1 when absent */
    uint16_t flags;           /* KA_HEAD_* */
    uint8_t  minor;           /* HTTP/1.minor as sent: 0, 1, or higher (treated as 1, RFC 9110 6.2) */
    uint8_t  target_form;     /* ka_target_form */
} ka_head;

/* Parse one head from `buf`.
 * checked: in and out, 0 at first: how far an earlier call got, so that a head that arrives in many pieces costs
 *          O(bytes) in all. Only valid for the same message with more bytes behind it. NULL = from the start.
 * fields:  the caller's array of at least limits->max_headers.
 * Return:  KA_OK with *head filled, KA_PARTIAL, or KA_EPEER with *fault filled. */
int ka_head_parse(const char *buf, size_t len, uint32_t *checked, const ka_limits *limits,
                  ka_head *head, ka_field *fields, ka_fault *fault);

#endif
