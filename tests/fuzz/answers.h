/* answers.h: an independent reader of responses, for fuzz_talk.c: what one client makes of the bytes it is sent.
 *
 * Knows nothing of the core: status line, field lines, content by Content-Length, by chunks or until the close, interim
 * responses, tunnels. Whoever drives it notes each request in `asked`, and what the application wrote for it. The content
 * of response n is a stretch of one pattern from a place that n gives, so that a byte lost, doubled or taken from another
 * response shows. Everything is told to `die`, which does not return. */
#ifndef ANSWERS_H
#define ANSWERS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PERIOD = 251,
    PATTERN_BYTES = 256 * 1024,
    ASKED = 1024,
    ANSWER_HEAD = 2048
};

/* A request, and what is to be sent for it. */
typedef struct {
    size_t n_written; /* content that the application gave */
    uint8_t is_head, is_connect, expects, minor;
    uint8_t is_handed;   /* to the application */
    uint8_t is_complete; /* it gave all */
    uint8_t is_given_up; /* it will not: the response is cut off, or none comes */
    uint8_t is_tunnel;
    uint8_t has_hints; /* 103s that it sent and that are not seen yet */
} asked;

typedef enum {
    AT_HEAD,
    AT_LENGTH,
    AT_SIZE,
    AT_CHUNK,
    AT_CHUNK_END,
    AT_TRAILER,
    AT_CLOSE,
    AT_TUNNEL,
    AT_NOTHING
} answer_place;

typedef struct {
    answer_place at;
    uint8_t is_last;  /* Connection: close was seen */
    uint8_t is_ours;  /* the content is the server's own text */
    size_t left;      /* of the content or the chunk */
    size_t n_content; /* seen of this response */
    uint32_t n_asked, n_answered;
    size_t n_head;
    char head[ANSWER_HEAD]; /* of the line, or the head, that is not whole */
    asked requests[ASKED];  /* a ring */
} answers;

static char pattern[PATTERN_BYTES + PERIOD];

_Noreturn static void die(const char *sentence)
{
    fprintf(stderr, "broken: %s\n", sentence);
    abort();
}

/* What is not under test is not to cost time. */
#ifdef __clang__
#define PLAIN __attribute__((no_sanitize("address", "undefined", "coverage")))
#else
#define PLAIN
#endif

#define MUST(condition, sentence) ((condition) ? (void)0 : die(sentence))

static const char *pattern_of(uint32_t request, size_t at) { return pattern + ((size_t)request * 7 + at) % PERIOD; }

static asked *asked_at(answers *a, uint32_t n) { return &a->requests[n % ASKED]; }

static void answers_begin(answers *a) { memset(a, 0, offsetof(answers, head)); }

/* What a response head says. */
typedef struct {
    unsigned status;
    size_t id, length; /* values; SIZE_MAX: no such field */
    uint8_t has_coding, is_chunked, is_close;
} answer_head;

PLAIN static int same(const char *a, const char *b, size_t n)
{
    size_t i = 0;
    while (i < n && a[i] == b[i])
        i++;
    return i == n;
}

PLAIN static size_t number(const char *at, const char *end, unsigned base)
{
    size_t n = 0;
    MUST(at < end && end - at < 12, "no number");
    for (; at < end; at++) {
        unsigned digit = *at >= '0' && *at <= '9' ? (unsigned)(*at - '0')
                       : *at >= 'a' && *at <= 'f' ? (unsigned)(*at - 'a') + 10
                                                  : 99;
        MUST(digit < base, "no number");
        n = n * base + digit;
    }
    return n;
}

/* One line of name, ": " and value. */
PLAIN static void read_field(answer_head *head, const char *line, size_t len)
{
    size_t n = 0;
    while (n < len && line[n] != ':')
        n++;
    MUST(n > 0 && n + 2 <= len && line[n + 1] == ' ', "a line of a response head is no field");
    const char *value = line + n + 2, *end = line + len;
    if (n == 4 && same(line, "x-id", 4)) {
        MUST(head->id == SIZE_MAX, "a field stands twice");
        head->id = number(value, end, 10);
    } else if (n == 14 && same(line, "content-length", 14)) {
        MUST(head->length == SIZE_MAX, "two lengths");
        head->length = number(value, end, 10);
    } else if (n == 17 && same(line, "transfer-encoding", 17)) {
        MUST(!head->has_coding, "two codings");
        head->has_coding = 1;
        head->is_chunked = end - value == 7 && same(value, "chunked", 7);
    } else if (n == 10 && same(line, "connection", 10)) {
        head->is_close |= end - value == 5 && same(value, "close", 5);
    }
}

static void answer_done(answers *a)
{
    a->n_answered++;
    a->at = a->is_last ? AT_NOTHING : AT_HEAD;
    a->n_content = 0;
}

PLAIN static void parse_head(const answers *a, answer_head *head)
{
    const char *at = a->head, *end = a->head + a->n_head - 2; /* without the empty line */
    *head = (answer_head){.id = SIZE_MAX, .length = SIZE_MAX};
    for (int is_first = 1; at < end; is_first = 0) {
        const char *line = at;
        while (*at != '\r' && *at != '\n' && *at)
            at++;
        MUST(at[0] == '\r' && at[1] == '\n', "a line of a response head does not end in CRLF");
        if (is_first) {
            MUST(at - line > 12 && same(line, "HTTP/1.1 ", 9) && line[12] == ' ', "no status line");
            head->status = (unsigned)number(line + 9, line + 12, 10);
            MUST(head->status >= 100, "no status");
        } else {
            read_field(head, line, (size_t)(at - line));
        }
        at += 2;
    }
}

static void read_interim(answers *a, unsigned status)
{
    MUST(a->n_answered < a->n_asked, "an interim response to nothing");
    asked *q = asked_at(a, a->n_answered);
    MUST(q->minor > 0, "an interim response to HTTP/1.0");
    if (status == 100) {
        MUST(q->expects, "100 Continue that nobody waits for, or twice");
        q->expects = 0;
    } else {
        MUST(status == 103 && q->has_hints, "an interim response that nobody sent");
        q->has_hints--;
    }
}

/* A whole head stands in a->head. */
static void read_head(answers *a)
{
    answer_head head;
    parse_head(a, &head);
    unsigned status = head.status;
    int has_length = head.length != SIZE_MAX;
    MUST(!has_length || !head.has_coding, "a response with both a length and a coding");
    if (status < 200 && status != 101) {
        MUST(!has_length && !head.has_coding, "an interim response with framing");
        read_interim(a, status);
        return;
    }
    asked *q = a->n_answered < a->n_asked ? asked_at(a, a->n_answered) : NULL;
    int is_close = head.is_close;
    a->is_ours = head.id == SIZE_MAX;
    a->is_last = head.is_close;
    a->n_content = 0;
    if (!a->is_ours) {
        MUST(q && q->is_handed && head.id == a->n_answered, "a response out of order");
        MUST(!(q->is_connect && status / 100 == 2) || is_close || q->is_tunnel,
             "2xx to CONNECT, and the connection is kept");
    } else {
        MUST(is_close, "the server's own response does not close");
        MUST(status >= 400, "the server's own response is no error");
    }
    if (q && q->is_tunnel) {
        MUST(status == 101 || (q->is_connect && status / 100 == 2), "a tunnel without a word");
        MUST(!has_length && !head.has_coding, "a tunnel with framing");
        a->at = AT_TUNNEL;
        return;
    }
    MUST(status != 101, "101 without a tunnel");
    int is_without = (q && q->is_head) || status == 204 || status == 304 || (q && q->is_connect && status / 100 == 2);
    if (status == 204 || (q && q->is_connect && status / 100 == 2))
        MUST(!has_length && !head.has_coding, "framing where none may be (RFC 9110 8.6)");
    a->left = has_length ? head.length : 0;
    if (is_without || (has_length && a->left == 0)) {
        answer_done(a);
    } else if (has_length) {
        a->at = AT_LENGTH;
    } else if (head.has_coding) {
        MUST(head.is_chunked, "an unknown coding");
        MUST(q && q->minor > 0, "a chunked response to HTTP/1.0");
        a->at = AT_SIZE;
    } else {
        MUST(is_close, "nothing says where the content ends");
        a->at = AT_CLOSE;
    }
}

/* Gather bytes into a->head up to and with an empty line, or the end of one line. Return: bytes taken; *is_whole when it
 * is there. */
PLAIN static size_t gather(answers *a, const char *bytes, size_t n, int is_line, int *is_whole)
{
    for (size_t i = 0; i < n; i++) {
        char *end = a->head + a->n_head++;
        MUST(a->n_head < ANSWER_HEAD, "a response head without an end");
        *end = bytes[i];
        if (bytes[i] != '\n' || a->n_head < 2 || end[-1] != '\r')
            continue;
        if (is_line || (a->n_head >= 4 && end[-2] == '\n' && end[-3] == '\r')) {
            end[1] = 0;
            *is_whole = 1;
            return i + 1;
        }
    }
    return n;
}

static void read_line(answers *a)
{
    int is_empty = a->n_head == 2;
    if (a->at == AT_HEAD) {
        read_head(a);
    } else if (a->at == AT_SIZE) {
        a->left = number(a->head, a->head + a->n_head - 2, 16);
        a->at = a->left ? AT_CHUNK : AT_TRAILER;
    } else if (a->at == AT_CHUNK_END) {
        MUST(is_empty, "a chunk is longer than its size");
        a->at = AT_SIZE;
    } else if (is_empty) {
        const asked *q = asked_at(a, a->n_answered);
        MUST(q->is_complete && q->n_written == a->n_content, "a chunked response ends before, or after, its content");
        answer_done(a);
    } else {
        MUST(a->n_head == 8 && same(a->head, "x-t: 1", 6), "a trailer that nobody sent");
    }
    a->n_head = 0;
}

/* Is this the content of response n from byte `at` on? */
PLAIN static int is_content(const char *bytes, size_t n, uint32_t response, size_t at)
{
    for (size_t len; n; n -= len, bytes += len, at += len) {
        len = n < PATTERN_BYTES ? n : PATTERN_BYTES;
        if (__builtin_memcmp(bytes, pattern_of(response, at), len) != 0)
            return 0;
    }
    return 1;
}

static size_t read_content(answers *a, const char *bytes, size_t n)
{
    if (a->at != AT_CLOSE && a->at != AT_TUNNEL && n > a->left)
        n = a->left;
    MUST(a->is_ours || is_content(bytes, n, a->n_answered, a->n_content), "content of another place");
    a->n_content += n;
    a->left -= a->at == AT_CLOSE || a->at == AT_TUNNEL ? 0 : n;
    if (a->left == 0 && a->at == AT_CHUNK)
        a->at = AT_CHUNK_END;
    else if (a->left == 0 && a->at == AT_LENGTH)
        answer_done(a);
    return n;
}

static void answers_read(answers *a, const char *bytes, size_t n)
{
    while (n) {
        int is_whole = 0;
        size_t took;
        MUST(a->at != AT_NOTHING, "bytes behind the last response");
        if (a->at == AT_LENGTH || a->at == AT_CHUNK || a->at == AT_CLOSE || a->at == AT_TUNNEL)
            took = read_content(a, bytes, n);
        else
            took = gather(a, bytes, n, a->at != AT_HEAD, &is_whole);
        if (is_whole)
            read_line(a);
        bytes += took;
        n -= took;
    }
}

/* The connection ended. was_reset: by RST, which tells the client that something is missing. is_forced: for a cause that
 * may cut a response off, or leave requests unanswered. */
static void answers_end(answers *a, int was_reset, int is_forced)
{
    asked *q = a->n_answered < a->n_asked ? asked_at(a, a->n_answered) : NULL;
    if (was_reset)
        return;
    if (a->at == AT_CLOSE) {
        MUST(a->is_ours || (q->is_complete && q->n_written == a->n_content),
             "to the client a part looks like the whole");
        a->n_answered++;
    } else if (a->at == AT_TUNNEL) {
        MUST(is_forced || q->is_given_up || q->n_written == a->n_content, "a tunnel ends before its bytes are sent");
        a->n_answered++;
    } else if (a->at != AT_HEAD && a->at != AT_NOTHING) {
        MUST(is_forced || (q && q->is_given_up), "a response is cut off for nothing");
        return;
    } else {
        MUST(is_forced || a->n_head == 0 || (q && q->is_given_up), "a response head is cut off for nothing");
    }
    if (is_forced || a->n_answered >= a->n_asked)
        return;
    MUST(a->n_asked - a->n_answered == 1 && asked_at(a, a->n_answered)->is_given_up, "a request is not answered");
}

#endif
