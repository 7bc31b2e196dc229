/* ka_h2_frame.h: frames of HTTP/2 from bytes and back (RFC 9113 sections 4 to 6), for the server's side, without I/O.
 *
 * A frame is read in two steps: what it begins with (the nine bytes, and what its type fixes behind them) is judged
 * as a whole; its content comes in any pieces, as it does, and is the caller's to take. Nothing is copied or kept but
 * whose field block is not whole. What a frame means for a stream or a window is not known here. */
#ifndef KA_H2_FRAME_H
#define KA_H2_FRAME_H

#include "ka_base.h"

/* RFC 9113 section 7 */
enum {
    KA_H2_NO_ERROR,
    KA_H2_PROTOCOL_ERROR,
    KA_H2_INTERNAL_ERROR,
    KA_H2_FLOW_CONTROL_ERROR,
    KA_H2_SETTINGS_TIMEOUT,
    KA_H2_STREAM_CLOSED,
    KA_H2_FRAME_SIZE_ERROR,
    KA_H2_REFUSED_STREAM,
    KA_H2_CANCEL,
    KA_H2_COMPRESSION_ERROR,
    KA_H2_CONNECT_ERROR,
    KA_H2_ENHANCE_YOUR_CALM,
    KA_H2_INADEQUATE_SECURITY,
    KA_H2_HTTP_1_1_REQUIRED
};

/* RFC 9113 section 6; PRIORITY_UPDATE is RFC 9218 7.1. */
enum {
    KA_H2_DATA,
    KA_H2_HEADERS,
    KA_H2_PRIORITY,
    KA_H2_RST_STREAM,
    KA_H2_SETTINGS,
    KA_H2_PUSH_PROMISE,
    KA_H2_PING,
    KA_H2_GOAWAY,
    KA_H2_WINDOW_UPDATE,
    KA_H2_CONTINUATION,
    KA_H2_PRIORITY_UPDATE = 0x10
};

enum {
    KA_H2_END_STREAM = 0x01, /* DATA, HEADERS */
    KA_H2_ACK = 0x01,        /* SETTINGS, PING */
    KA_H2_END_HEADERS = 0x04,
    KA_H2_PADDED = 0x08,
    KA_H2_HAS_PRIORITY = 0x20
};

/* RFC 9113 6.5.2; RFC 8441 3; RFC 9218 2.1 */
enum {
    KA_H2_HEADER_TABLE_SIZE = 1,
    KA_H2_ENABLE_PUSH,
    KA_H2_MAX_CONCURRENT_STREAMS,
    KA_H2_INITIAL_WINDOW_SIZE,
    KA_H2_MAX_FRAME_SIZE,
    KA_H2_MAX_HEADER_LIST_SIZE,
    KA_H2_ENABLE_CONNECT_PROTOCOL = 8,
    KA_H2_NO_RFC7540_PRIORITIES = 9
};

enum {
    KA_H2_FRAME_HEAD = 9,
    KA_H2_MIN_MAX_FRAME = 1 << 14, /* RFC 9113 4.2: every peer takes so much; a SETTINGS may allow more */
    KA_H2_MAX_MAX_FRAME = (1 << 24) - 1,
    KA_H2_MAX_WINDOW = 0x7fffffff,
    KA_H2_DEFAULT_WINDOW = 65535,
    KA_H2_PREFACE_LEN = 24,
    KA_H2_SETTING_LEN = 6
};

/* What the peer did wrong: X(name, error code, does only its stream end?, sentence that names the rule). Those of requests
 * are found by ka_h2_head.c. */
#define KA_H2_FAULTS(X)                                                                                                \
    X(BAD_PREFACE, PROTOCOL, 0, "the connection does not begin with the preface (RFC 9113 3.4)")                       \
    X(NO_SETTINGS, PROTOCOL, 0, "the first frame is not SETTINGS (RFC 9113 3.4)")                                      \
    X(FRAME_TOO_LARGE, FRAME_SIZE, 0, "a frame is over SETTINGS_MAX_FRAME_SIZE (RFC 9113 4.2)")                        \
    X(DATA_TOO_LARGE, FRAME_SIZE, 1, "a DATA frame is over SETTINGS_MAX_FRAME_SIZE (RFC 9113 4.2)")                    \
    X(BAD_FRAME_SIZE, FRAME_SIZE, 0, "the length of a frame is not one that its type has (RFC 9113 4.2)")              \
    X(BAD_DATA_SIZE, FRAME_SIZE, 1, "a DATA frame has no room for its padding's length (RFC 9113 4.2)")                \
    X(BAD_PRIORITY_SIZE, FRAME_SIZE, 1, "the length of a PRIORITY frame is not 5 (RFC 9113 6.3)")                      \
    X(BAD_ACK_SIZE, FRAME_SIZE, 0, "an acknowledgement of SETTINGS is not empty (RFC 9113 6.5)")                       \
    X(NO_STREAM, PROTOCOL, 0, "a frame of a stream is on stream 0 (RFC 9113 6)")                                       \
    X(ON_STREAM, PROTOCOL, 0, "a frame of the connection is on a stream (RFC 9113 6)")                                 \
    X(BAD_STREAM, PROTOCOL, 0, "a stream of a client has an even number (RFC 9113 5.1.1)")                             \
    X(BAD_PADDING, PROTOCOL, 0, "the padding is longer than the frame (RFC 9113 6.1, 6.2)")                            \
    X(NOT_CONTINUED, PROTOCOL, 0, "another frame between those of a field block (RFC 9113 6.10)")                      \
    X(NOTHING_TO_CONTINUE, PROTOCOL, 0, "CONTINUATION without a field block before it (RFC 9113 6.10)")                \
    X(PUSH, PROTOCOL, 0, "PUSH_PROMISE of a client (RFC 9113 8.4)")                                                    \
    X(BAD_SETTING, PROTOCOL, 0, "a value of SETTINGS that is not allowed (RFC 9113 6.5.2)")                            \
    X(BAD_INITIAL_WINDOW, FLOW_CONTROL, 0, "SETTINGS_INITIAL_WINDOW_SIZE over 2^31-1 (RFC 9113 6.5.2)")                \
    X(NO_INCREMENT, PROTOCOL, 1, "WINDOW_UPDATE of a stream by 0 (RFC 9113 6.9)")                                      \
    X(NO_CONNECTION_INCREMENT, PROTOCOL, 0, "WINDOW_UPDATE of the connection by 0 (RFC 9113 6.9)")                     \
    X(PRIORITY_OF_NOTHING, PROTOCOL, 0, "PRIORITY_UPDATE of stream 0 (RFC 9218 7.1)")                                  \
    X(COMPRESSION, COMPRESSION, 0, "a field block is not HPACK (RFC 9113 4.3, RFC 7541)")                              \
    X(BAD_FIELD_NAME, PROTOCOL, 1, "a field name is not a token in lower case (RFC 9113 8.2)")                         \
    X(BAD_FIELD_VALUE, PROTOCOL, 1, "a field value has a control character or white space around it (RFC 9113 8.2.1)") \
    X(CONNECTION_FIELD, PROTOCOL, 1, "a field of the connection, as HTTP/1.1 has them (RFC 9113 8.2.2)")               \
    X(BAD_TE, PROTOCOL, 1, "te is not \"trailers\" (RFC 9113 8.2.2)")                                                  \
    X(LATE_PSEUDO_FIELD, PROTOCOL, 1, "a pseudo-header field behind another field (RFC 9113 8.3)")                     \
    X(UNKNOWN_PSEUDO_FIELD, PROTOCOL, 1, "a pseudo-header field that no request has (RFC 9113 8.3)")                   \
    X(REPEATED_PSEUDO_FIELD, PROTOCOL, 1, "a pseudo-header field more than once (RFC 9113 8.3)")                       \
    X(MISSING_PSEUDO_FIELD, PROTOCOL, 1, "no :method, :scheme or :path (RFC 9113 8.3.1)")                              \
    X(BAD_CONNECT, PROTOCOL, 1, "CONNECT with :scheme or :path, or without :authority (RFC 9113 8.5)")                 \
    X(BAD_PROTOCOL, PROTOCOL, 1, ":protocol is malformed, or without CONNECT (RFC 8441 4)")                            \
    X(BAD_H2_METHOD, PROTOCOL, 1, ":method is not a token (RFC 9110 9.1)")                                             \
    X(BAD_SCHEME, PROTOCOL, 1, ":scheme is not a scheme (RFC 9113 8.3.1)")                                             \
    X(BAD_PATH, PROTOCOL, 1, ":path is not an absolute path, nor \"*\" with OPTIONS (RFC 9113 8.3.1)")                 \
    X(BAD_AUTHORITY, PROTOCOL, 1, ":authority is not a host with an optional port (RFC 9113 8.3.1)")                   \
    X(MISSING_AUTHORITY, PROTOCOL, 1, "neither :authority nor host (RFC 9113 8.3.1)")                                  \
    X(HOST_DIFFERS, PROTOCOL, 1, "host is malformed, repeated, or differs from :authority (RFC 9113 8.3.1)")           \
    X(BAD_LENGTH, PROTOCOL, 1, "content-length is malformed or repeated (RFC 9113 8.1.1)")                             \
    X(LENGTH_WITHOUT_CONTENT, PROTOCOL, 1, "content-length promises more than the stream has (RFC 9113 8.1.1)")        \
    X(PSEUDO_TRAILER, PROTOCOL, 1, "a pseudo-header field in a trailer section (RFC 9113 8.1)")

typedef enum {
    KA_H2_FAULT_NONE = 0,
#define X(name, error, of_stream, text) KA_H2_FAULT_##name,
    KA_H2_FAULTS(X)
#undef X
    KA_H2_N_FAULTS
} ka_h2_fault_code;

typedef struct {
    uint32_t stream;   /* on which it was found; 0 = the connection */
    uint8_t code;      /* ka_h2_fault_code */
    uint8_t error;     /* KA_H2_*_ERROR to send */
    uint8_t of_stream; /* RST_STREAM is enough; else GOAWAY (RFC 9113 5.4) */
} ka_h2_fault;

const char *ka_h2_fault_text(unsigned code);                             /* the sentence; static storage */
int ka_h2_fault_set(ka_h2_fault *fault, unsigned code, uint32_t stream); /* fill it; always returns KA_EPEER */

/* ---- reading ---- */

/* The bytes that a client begins with (RFC 9113 3.4). KA_OK: KA_H2_PREFACE_LEN bytes are it; KA_PARTIAL; KA_EPEER. */
int ka_h2_preface_read(const uint8_t *in, size_t len, ka_h2_fault *fault);

/* Of one connection. Zeros and max_frame at first. */
typedef struct {
    uint32_t
        max_frame; /* our SETTINGS_MAX_FRAME_SIZE; a larger one may be used before it is acknowledged, by whoever likes */
    uint32_t continues;   /* the stream whose field block is not whole, 0 = none */
    uint8_t has_settings; /* the first frame was read, and was SETTINGS */
} ka_h2_reader;

typedef struct {
    uint32_t stream;
    uint32_t length;       /* of the payload: what flow control counts (RFC 9113 6.9.1) */
    uint32_t n_head;       /* bytes that it took: the nine and what is fixed behind them */
    uint32_t content;      /* bytes that follow: data, a part of a field block, settings, text; unknown frames' bytes */
    uint32_t padding;      /* bytes behind these */
    uint8_t type;          /* any */
    uint8_t flags;         /* those that the type has; others mean nothing (RFC 9113 4.1) */
    uint8_t is_unknown;    /* skip it (RFC 9113 5.5) */
    uint32_t value;        /* RST_STREAM, GOAWAY: error code; WINDOW_UPDATE: increment */
    uint32_t other_stream; /* GOAWAY: the last one; PRIORITY_UPDATE: whose it is */
    uint8_t opaque[8];     /* PING */
} ka_h2_frame;

/* What a frame begins with. KA_OK: frame->n_head bytes are done with, content and padding follow; KA_PARTIAL: nothing is,
 * since more is needed (at most KA_H2_FRAME_HEAD + 8); KA_EPEER. With fault->of_stream the frame is filled all the same,
 * so that its bytes can be skipped and counted. */
int ka_h2_frame_read(ka_h2_reader *r, const uint8_t *in, size_t len, ka_h2_frame *frame, ka_h2_fault *fault);

typedef struct {
    uint16_t id;
    uint32_t value;
} ka_h2_setting;

/* One setting of the content of SETTINGS, KA_H2_SETTING_LEN bytes. KA_OK also for one that nobody knows, which is to be
 * ignored (RFC 9113 6.5.2); KA_EPEER for a value that is not allowed. */
int ka_h2_setting_read(const uint8_t *in, ka_h2_setting *setting, ka_h2_fault *fault);

/* ---- writing: into room that the caller has; each returns where the next byte goes ---- */

char *ka_h2_put_head(char *at, uint32_t length, unsigned type, unsigned flags, uint32_t stream); /* 9 bytes */
char *ka_h2_put_settings(char *at, const ka_h2_setting *settings, uint32_t n);                   /* 9 + 6 n */
char *ka_h2_put_settings_ack(char *at);                                                          /* 9 */
char *ka_h2_put_ping(char *at, const uint8_t opaque[8], int is_ack);                             /* 17 */
char *ka_h2_put_reset(char *at, uint32_t stream, uint32_t error);                                /* 13 */
char *ka_h2_put_window_update(char *at, uint32_t stream, uint32_t increment);                    /* 13 */
char *ka_h2_put_goaway(char *at, uint32_t last_stream, uint32_t error);                          /* 17 */

/* How much room a field block of so many bytes takes in frames. */
static inline size_t ka_h2_fields_room(size_t len, uint32_t max_frame)
{
    return len + KA_H2_FRAME_HEAD * (len <= max_frame ? 1 : (len + max_frame - 1) / max_frame);
}

/* A field block of `len` bytes that was written to at + KA_H2_FRAME_HEAD becomes HEADERS, and CONTINUATION where it is
 * over max_frame (RFC 9113 4.3). flags: KA_H2_END_STREAM or 0. There are ka_h2_fields_room bytes at `at`. */
char *ka_h2_put_fields(char *at, size_t len, uint32_t max_frame, uint32_t stream, unsigned flags);

#endif
