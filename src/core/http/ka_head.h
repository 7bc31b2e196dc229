/* ka_head.h: a request head (request-line and field section) from bytes to offsets.
 *
 * Stateless: the answer depends on the bytes, the limits and nothing else, so the same bytes give the same
 * answer however they arrived. To that end a rule about one byte or line is judged as soon as that byte is here,
 * and a rule about a field's meaning or about the head as a whole when the empty line is here: the first kind wins. The caller owns the buffer and the array of fields; a result holds offsets
 * into the buffer, counted from its first byte, and owns nothing. Never reads past `len`.
 *
 * Rules: RFC 9112 sections 2 to 6 and 9, RFC 9110 sections 5 to 7 and 10; where they leave room, the choice is
 * in docs/strictness.md. Every rule that can fail has its own fault, listed in KA_FAULTS. */
#ifndef KA_HEAD_H
#define KA_HEAD_H

#include "ka_base.h"

/* What the peer did wrong: X(name, status to answer, sentence that names the rule).
 * The lower-cased name without its prefix is PeerError.code: stable, machine-readable. */
#define KA_FAULTS(X)                                                                                         \
    X(EMPTY_LINES, 400, "more than one empty line before the request (RFC 9112 2.2)")                        \
    X(BAD_METHOD, 400, "the method is not a token (RFC 9110 9.1)")                                           \
    X(METHOD_TOO_LONG, 501, "the method is longer than any method known (RFC 9112 3)")                       \
    X(UNKNOWN_METHOD, 501, "the method has characters other than A-Z, \"-\" and \"_\" (RFC 9110 9.1)")       \
    X(BAD_REQUEST_LINE, 400, "the request line is not three words with one space between them (RFC 9112 3)") \
    X(BAD_TARGET, 400, "the request target is malformed (RFC 9112 3.2)")                                     \
    X(BAD_ESCAPE, 400, "a percent escape in the path is malformed or is %00 (RFC 3986 2.1)")                 \
    X(TARGET_TOO_LONG, 414, "the request target is over max_target_bytes (RFC 9110 15.5.15)")                \
    X(MISSING_VERSION, 400, "the request line has no HTTP version; HTTP/0.9 is not served (RFC 9112 3)")     \
    X(BAD_VERSION, 400, "the HTTP version is malformed (RFC 9112 2.3)")                                      \
    X(UNSUPPORTED_VERSION, 505, "the major HTTP version is not 1 (RFC 9110 15.6.6)")                         \
    X(HTTP2_PREFACE, 505, "this is an HTTP/2 connection preface on an HTTP/1.1 port (RFC 9113 3.4)")         \
    X(BARE_CR, 400, "a carriage return without a line feed after it (RFC 9112 2.2)")                         \
    X(BARE_LF, 400, "a line feed without a carriage return before it (RFC 9112 2.2)")                        \
    X(SPACE_BEFORE_FIELD, 400, "white space before the first field line (RFC 9112 2.2)")                     \
    X(OBS_FOLD, 400, "a field value is folded over several lines (RFC 9112 5.2)")                            \
    X(EMPTY_NAME, 400, "a field line has an empty name (RFC 9112 5)")                                        \
    X(SPACE_BEFORE_COLON, 400, "white space between field name and colon (RFC 9112 5.1)")                    \
    X(BAD_NAME, 400, "a field name is not a token (RFC 9110 5.1)")                                           \
    X(MISSING_COLON, 400, "a field line has no colon (RFC 9112 5)")                                          \
    X(BAD_VALUE, 400, "a field value has a control character (RFC 9110 5.5)")                                \
    X(HEADER_TOO_LARGE, 431, "a field line is over max_header_bytes (RFC 6585 5)")                           \
    X(TOO_MANY_HEADERS, 431, "there are more field lines than max_headers (RFC 6585 5)")                     \
    X(HEAD_TOO_LARGE, 431, "the head is over max_head_bytes (RFC 6585 5)")                                   \
    X(MISSING_HOST, 400, "an HTTP/1.1 request without Host (RFC 9112 3.2)")                                  \
    X(REPEATED_HOST, 400, "more than one Host (RFC 9112 3.2)")                                               \
    X(BAD_HOST, 400, "the value of Host is not a host with an optional port (RFC 9112 3.2)")                 \
    X(HOST_MISMATCH, 400, "Host differs from the host in the request target (RFC 9112 3.2.2)")               \
    X(BAD_CONTENT_LENGTH, 400, "Content-Length is not a plain decimal number (RFC 9112 6.3)")                \
    X(REPEATED_CONTENT_LENGTH, 400, "more than one Content-Length (RFC 9112 6.3)")                           \
    X(BODY_TOO_LARGE, 413, "the content is over max_body_bytes (RFC 9110 15.5.14)")                          \
    X(BAD_TRANSFER_ENCODING, 400, "Transfer-Encoding is malformed (RFC 9112 6.1)")                           \
    X(CHUNKED_NOT_LAST, 400, "the last transfer coding is not chunked (RFC 9112 6.3)")                       \
    X(REPEATED_CHUNKED, 400, "chunked is applied more than once (RFC 9112 6.1)")                             \
    X(UNKNOWN_TRANSFER_CODING, 501, "a transfer coding other than chunked (RFC 9112 6.1)")                   \
    X(OLD_TRANSFER_ENCODING, 400, "Transfer-Encoding in an HTTP/1.0 request (RFC 9112 6.1)")                 \
    X(AMBIGUOUS_LENGTH, 400, "both Content-Length and Transfer-Encoding (RFC 9112 6.3)")                     \
    X(CONNECT_WITH_CONTENT, 400, "a CONNECT request with content (RFC 9110 9.3.6)")                          \
    X(BAD_CHUNK_SIZE, 400, "a chunk size is not a plain hexadecimal number (RFC 9112 7.1)")                  \
    X(BAD_CHUNK_EXTENSION, 400, "a chunk extension is malformed (RFC 9112 7.1.1)")                           \
    X(CHUNK_LINE_TOO_LONG, 400, "a chunk line is over max_chunk_line_bytes (RFC 9112 7.1.1)")                \
    X(BAD_CHUNK_END, 400, "chunk data is not followed by CRLF (RFC 9112 7.1)")                               \
    X(FORBIDDEN_TRAILER, 400, "a field that is not allowed in a trailer section (RFC 9110 6.5.1)")           \
    X(TRAILERS_TOO_LARGE, 431, "the trailer section is over max_trailer_bytes (RFC 6585 5)")                 \
    X(INCOMPLETE, 400, "the connection ended inside a message (RFC 9112 8)")

typedef enum {
    KA_FAULT_NONE = 0,
#define X(name, status, text) KA_FAULT_##name,
    KA_FAULTS(X)
#undef X
    KA_N_FAULTS
} ka_fault_code;

typedef struct {
    uint16_t code;   /* ka_fault_code */
    uint16_t status; /* the response status to send */
    uint64_t offset; /* where, from the message's first byte */
    uint64_t limit;  /* the limit that was passed, for faults that have one; else 0 */
} ka_fault;

const char *ka_fault_name(unsigned code); /* "bad_method"; static storage */
const char *ka_fault_text(unsigned code); /* the sentence; static storage */

typedef struct {
    uint32_t max_head_bytes;       /* request-line and fields, with the empty line that ends them */
    uint32_t max_target_bytes;     /* 414 above it */
    uint32_t max_headers;          /* number of field lines; at most KA_MAX_FIELDS */
    uint32_t max_header_bytes;     /* one field line, without CRLF */
    uint32_t max_chunk_line_bytes; /* size and extensions of one chunk, without CRLF */
    uint32_t max_trailer_bytes;    /* the whole trailer section */
    int64_t max_body_bytes;        /* content of one request; 413 above it */
} ka_limits;

extern const ka_limits ka_limits_default;
#define KA_MAX_FIELDS 1024

typedef struct {
    ka_span name, value; /* as sent; value without surrounding white space */
} ka_field;

/* Facts about the message that framing and persistence need, collected while the fields are read. */
enum {
    KA_HEAD_KEEP_ALIVE = 1 << 0,       /* the client's side of RFC 9112 9.3: it can reuse the connection */
    KA_HEAD_CHUNKED = 1 << 1,          /* Transfer-Encoding: chunked */
    KA_HEAD_HAS_LENGTH = 1 << 2,       /* Content-Length was sent (may be 0) */
    KA_HEAD_EXPECTS_CONTINUE = 1 << 3, /* Expect: 100-continue on HTTP/1.1 */
    KA_HEAD_UPGRADE = 1 << 4,          /* Upgrade field, and "upgrade" among the Connection options */
    KA_HEAD_IS_HEAD = 1 << 5,          /* the method is HEAD */
    KA_HEAD_IS_CONNECT = 1 << 6,       /* the method is CONNECT */
    KA_HEAD_IS_H2 = 1 << 7             /* a request of HTTP/2 */
};

typedef enum {
    KA_TARGET_ORIGIN,
    KA_TARGET_ABSOLUTE,
    KA_TARGET_AUTHORITY,
    KA_TARGET_ASTERISK
} ka_target_form;

typedef struct {
    uint32_t nbytes; /* consumed, with a tolerated leading empty line and the final empty line */
    uint32_t n_fields;
    ka_span method, target;
    ka_span host;           /* value of Host; without one the authority of an absolute target; else len 0 */
    ka_span path, query;    /* of the target, in origin and absolute form; query without "?" */
    int64_t content_length; /* -1 when absent */
    uint16_t flags;         /* KA_HEAD_* */
    uint8_t minor;          /* HTTP/1.minor as sent: 0, 1, or higher (treated as 1, RFC 9110 6.2) */
    uint8_t target_form;    /* ka_target_form */
} ka_head;

/* Parse one head from `buf`.
 * checked: in and out, 0 at first: where the first line that was not whole begins, so that a head that arrives in
 *          many pieces is not read again from its start with each: a piece costs O(piece + the line it ends in).
 *          Only valid for the same message with more bytes behind it. NULL = from the start.
 * fields:  the caller's array of at least limits->max_headers.
 * Return:  KA_OK with *head filled, KA_PARTIAL, or KA_EPEER with *fault filled. */
int ka_head_parse(const char *buf, size_t len, uint32_t *checked, const ka_limits *limits, ka_head *head,
                  ka_field *fields, ka_fault *fault);

/* The field lines of a section, from the line that begins at `start` to the empty line that ends the section.
 * Every line is judged by itself; what fields mean is not. Shared by heads and trailer sections.
 * Return:  KA_OK with *nbytes (counted from buf) and *n_fields (which may be more than limits->max_headers; only
 *          that many are stored), KA_PARTIAL with *nbytes where the first line that is not whole begins, or KA_EPEER. */
int ka_fields_parse(const char *buf, size_t len, size_t start, const ka_limits *limits, ka_field *fields,
                    uint32_t *n_fields, uint32_t *nbytes, ka_fault *fault);

/* The way of scanning: "scalar" until one is chosen, the best this machine has when `name` is NULL. For the whole
 * process; all ways give the same answers. KA_EINVAL for a name that is not known here. */
int ka_simd_select(const char *name);
const char *ka_simd_name(void);
const char *ka_simd_at(unsigned i); /* names of the ways this machine has, plainest first; NULL behind the last */

/* Parts of the grammar, for heads that come otherwise. RFC 3986 3.2: is it a host with an optional port? *has_port: whether
 * there are digits of one. */
int ka_authority_is_good(const char *p, const char *end, int *has_port);
/* The first escape of a path that is malformed, or is %00; NULL when there is none. */
const char *ka_path_bad_escape(const char *p, const char *end);

/* Fill *fault; always returns KA_EPEER. */
int ka_fault_set(ka_fault *fault, ka_fault_code code, uint64_t offset, uint64_t limit);

#endif
