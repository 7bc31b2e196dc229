/* ka_reply.h: response heads and the framing of response content.
 *
 * Turns what an application says (status, fields, pieces of content) into bytes that cannot be misread: the framing
 * is chosen here and nowhere else, fields that would contradict it are dropped, CR, LF and NUL are refused, and the
 * content is counted against what was promised. Knows no connection: what it says about persistence is handed in as
 * a ka_verdict. Writes into room that the caller has reserved.
 *
 * Order of calls for one response: start, field*, framing, finish_head, then piece* with the last one `more` = 0. */
#ifndef KA_REPLY_H
#define KA_REPLY_H

#include "ka_base.h"

typedef enum {
    KA_FRAME_NONE,    /* no content by definition: HEAD, 1xx, 204, 205, 304, 2xx to CONNECT */
    KA_FRAME_LENGTH,  /* Content-Length */
    KA_FRAME_CHUNKED, /* Transfer-Encoding: chunked */
    KA_FRAME_CLOSE    /* until the connection closes (HTTP/1.0 without a length) */
} ka_frame;

typedef struct {
    int64_t declared;  /* promised content length, -1 unknown */
    int64_t n_content; /* content bytes written so far */
    const char *why;   /* after KA_EINVAL: which rule the application broke; static storage */
    uint16_t status;
    uint8_t frame;   /* ka_frame, once chosen */
    uint8_t minor;   /* of the request */
    uint8_t is_head; /* the request's method was HEAD */
    uint8_t is_connect;
    uint8_t wants_close; /* the application sent Connection: close */
    uint8_t has_date, has_server;
    uint8_t is_started;     /* the head is written */
    uint8_t is_over;        /* the last byte of content is written */
    uint8_t offers_upgrade; /* the application sent Upgrade, which Connection must name (RFC 9110 7.8) */
} ka_reply;

enum {
    KA_REPLY_FIXED = 512, /* room beside the fields: status line, the decided fields, Date, Server, CRLF */
    KA_DATE_BYTES = 37,   /* "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n" */
    KA_CHUNK_FRAME = 24   /* room for a chunk's size line; its CRLF and the last chunk fit too */
};

/* The fields every response of a server carries, made once a second or once. Empty = not sent. */
typedef struct {
    char date[48];    /* "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n" */
    char server[128]; /* "server: kacore\r\n" */
    uint8_t date_len, server_len, hides_date;
    uint32_t extra_len;
    char *extra; /* the operator's field lines, "a: b\r\n"*; owned by the ka_service */
} ka_reply_common;

void ka_reply_common_set_date(ka_reply_common *common, int64_t unix_seconds);
int ka_reply_common_set_server(ka_reply_common *common, const char *value,
                               size_t len); /* KA_EINVAL: control byte, too long */

/* Begin a response: writes the status line at *at. KA_EINVAL unless 100 <= status <= 999. */
int ka_reply_start(ka_reply *reply, char **at, unsigned status);
/* Right after it: another reason phrase than the usual one; needs `len` bytes of room. KA_EINVAL for CR, LF or NUL in it:
 * then the usual one stands. */
int ka_reply_reword(ka_reply *reply, char **at, const char *reason, size_t len);

/* One field of the application; needs name_len + value_len + 4 bytes of room. */
int ka_reply_field(ka_reply *reply, char **at, const char *name, size_t name_len, const char *value, size_t value_len);

/* A field line as it is, for trailers and interim responses; the same room. */
int ka_reply_line(ka_reply *reply, char **at, const char *name, size_t name_len, const char *value, size_t value_len);

/* Choose the framing. whole: length of the content when it is complete and known now, else -1.
 * Return the ka_frame; KA_FRAME_CLOSE means the connection cannot be kept. KA_EINVAL when `whole` breaks a promise. */
int ka_reply_choose_frame(ka_reply *reply, int64_t whole);

/* The fields that are ours, and the empty line. */
void ka_reply_finish_head(ka_reply *reply, char **at, const ka_verdict *verdict, const ka_reply_common *common);

/* Frame one piece of content: `before` (KA_CHUNK_FRAME bytes of room) goes in front, `after` behind.
 * *sends: whether the piece itself is sent (not in answer to HEAD). KA_EINVAL: more or fewer bytes than promised, or
 * content after the end; the response can then only be cut off by closing. */
int ka_reply_piece(ka_reply *reply, size_t len, int more, char *before, size_t *before_len, char *after,
                   size_t *after_len, int *sends);

const char *ka_reply_reason(unsigned status); /* "Not Found"; "" when unknown; static storage */

#endif
