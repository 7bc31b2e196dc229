/* ka_body.c: the framing of content (RFC 9112 section 7), one byte at a time where it is framing, in one piece where
 * it is content. The state machine is in `chunk_line`: each state names what the next byte may be. */
#include "http/ka_body.h"

#include <string.h>

#include "http/ka_scan.h"

enum {
    OVER = 0,
    LENGTH,     /* content of a known length */
    SIZE_START, /* first digit of a chunk size */
    SIZE,       /* more digits, ";", white space or CR */
    BEFORE_EXT, /* white space after a size or an extension: only ";" may follow (or "=" after a name) */
    EXT_START,  /* after ";": white space or a name */
    EXT_NAME,
    AFTER_NAME,  /* white space after a name: "=" or ";" */
    VALUE_START, /* after "=": white space, a token or a quoted string */
    EXT_TOKEN,
    EXT_QUOTED,
    EXT_ESCAPE, /* after a backslash in a quoted string */
    AFTER_QUOTED,
    LINE_LF, /* the LF of a chunk line */
    CHUNK,   /* chunk data */
    CHUNK_CR,
    CHUNK_LF,
    TRAILERS
};

void ka_body_init(ka_body *body, const ka_head *head)
{
    memset(body, 0, sizeof *body);
    body->consumed = head->nbytes;
    if (head->flags & KA_HEAD_CHUNKED) {
        body->state = SIZE_START;
    } else if (head->content_length > 0) {
        body->state = LENGTH;
        body->left = head->content_length;
    }
}

/* RFC 9112 7.1: 1*HEXDIG, however many zeros in front. Refused at the digit that passes the limit, so nothing wraps. */
static int add_digit(ka_body *body, char c, const ka_limits *limits)
{
    int digit = c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
    int64_t room = limits->max_body_bytes - body->n_content;
    if (body->left > (INT64_MAX >> 4) || body->left * 16 + digit > room)
        return KA_FAULT_BODY_TOO_LARGE;
    body->left = body->left * 16 + digit;
    return KA_FAULT_NONE;
}

/* What every byte that ends a name, a value or the white space after one leads to. */
static int after_extension(char c)
{
    switch (c) {
    case ';':  return EXT_START;
    case '\r': return LINE_LF;
    case ' ':
    case '\t': return BEFORE_EXT;
    default:   return -1;
    }
}

/* The state after `c` in a chunk extension, -1 when it may not be there.
 * RFC 9112 7.1.1: *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] ). */
static int extension(int state, char c)
{
    int is_blank = c == ' ' || c == '\t';
    switch (state) {
    case BEFORE_EXT: return c == ';' ? EXT_START : is_blank ? BEFORE_EXT : -1;
    case EXT_START:  return is_blank ? EXT_START : ka_is(c, KA_IS_TOKEN) ? EXT_NAME : -1;
    case EXT_NAME:
        if (ka_is(c, KA_IS_TOKEN))
            return EXT_NAME;
        return c == '=' ? VALUE_START : is_blank ? AFTER_NAME : after_extension(c);
    case AFTER_NAME:  return c == '=' ? VALUE_START : c == ';' ? EXT_START : is_blank ? AFTER_NAME : -1;
    case VALUE_START: return c == '"' ? EXT_QUOTED : is_blank ? VALUE_START : ka_is(c, KA_IS_TOKEN) ? EXT_TOKEN : -1;
    case EXT_TOKEN:   return ka_is(c, KA_IS_TOKEN) ? EXT_TOKEN : after_extension(c);
    case EXT_QUOTED:  return c == '"' ? AFTER_QUOTED : c == '\\' ? EXT_ESCAPE : ka_is(c, KA_IS_VALUE) ? EXT_QUOTED : -1;
    case EXT_ESCAPE:  return ka_is(c, KA_IS_VALUE) ? EXT_QUOTED : -1;
    default:          return after_extension(c); /* AFTER_QUOTED */
    }
}

/* One byte of framing. Return: KA_FAULT_NONE with the new state, or what is wrong with it. */
static int framing_byte(ka_body *body, char c, const ka_limits *limits)
{
    int state = body->state, next;
    if (state == CHUNK_CR || state == CHUNK_LF) {
        if (c != (state == CHUNK_CR ? '\r' : '\n'))
            return KA_FAULT_BAD_CHUNK_END;
        body->state = state == CHUNK_CR ? CHUNK_LF : SIZE_START;
        return KA_FAULT_NONE;
    }
    if (state == LINE_LF) {
        if (c != '\n')
            return KA_FAULT_BARE_CR;
        body->n_framing = 0;
        body->state = body->left > 0 ? CHUNK : TRAILERS;
        return KA_FAULT_NONE;
    }
    if (c != '\r' && body->n_framing++ >= limits->max_chunk_line_bytes)
        return KA_FAULT_CHUNK_LINE_TOO_LONG;
    if (c == '\n')
        return KA_FAULT_BARE_LF;
    if (state == SIZE_START || state == SIZE) {
        if (ka_is(c, KA_IS_HEX)) {
            body->state = SIZE;
            return add_digit(body, c, limits);
        }
        next = state == SIZE ? after_extension(c) : -1;
        if (next < 0)
            return KA_FAULT_BAD_CHUNK_SIZE;
    } else {
        next = extension(state, c);
        if (next < 0)
            return KA_FAULT_BAD_CHUNK_EXTENSION;
    }
    body->state = (uint8_t)next;
    return KA_FAULT_NONE;
}

static int fail(const ka_body *body, int code, size_t offset, uint64_t limit, ka_fault *fault)
{
    return ka_fault_set(fault, (ka_fault_code)code, body->consumed + offset, limit);
}

static uint64_t limit_of(int code, const ka_limits *limits)
{
    if (code == KA_FAULT_BODY_TOO_LARGE)
        return (uint64_t)limits->max_body_bytes;
    return code == KA_FAULT_CHUNK_LINE_TOO_LONG ? limits->max_chunk_line_bytes : 0;
}

static int content(ka_body *body, size_t i, size_t len, int next, size_t *nbytes, ka_span *piece)
{
    size_t n = len - i;
    if (n > (size_t)1 << 30)
        n = (size_t)1 << 30; /* a span's length has 32 bits */
    if ((int64_t)n >= body->left) {
        n = (size_t)body->left;
        body->state = (uint8_t)next;
    }
    body->left -= (int64_t)n;
    body->n_content += (int64_t)n;
    body->consumed += i + n;
    *piece = (ka_span){(uint32_t)i, (uint32_t)n};
    *nbytes = i + n;
    return KA_BODY_DATA;
}

/* RFC 9110 6.5.1: no field may come after the content that frames it, says how to read it, or by which the request
 * was routed, admitted or authenticated before. */
int ka_trailer_is_forbidden(const char *name, size_t len)
{
    static const char *const names[] = {"authorization",
                                        "connection",
                                        "content-encoding",
                                        "content-length",
                                        "content-range",
                                        "cookie",
                                        "expect",
                                        "host",
                                        "keep-alive",
                                        "max-forwards",
                                        "proxy-authorization",
                                        "proxy-connection",
                                        "range",
                                        "te",
                                        "trailer",
                                        "transfer-encoding",
                                        "upgrade"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == len && ka_equals_lower(name, names[i], (uint32_t)len))
            return 1;
    return 0;
}

/* The fields of buf[from..to), judged as trailers one by one, so that it needs no room for them. */
static int forbidden_field(const char *buf, uint32_t from, uint32_t to)
{
    for (uint32_t line = from; line < to;) {
        const char *colon = memchr(buf + line, ':', to - line);
        if (ka_trailer_is_forbidden(buf + line, (size_t)(colon - buf) - line))
            return (int)line;
        line = (uint32_t)((const char *)memchr(colon, '\n', (size_t)(buf + to - colon)) - buf) + 1;
    }
    return -1;
}

/* The section is judged when it is whole, as a head is; until then its bytes stay with the caller, and n_framing
 * tells where the first line that was not whole begins. */
static int trailers(ka_body *body, const char *buf, size_t len, const ka_limits *limits, size_t *nbytes, ka_span *piece,
                    ka_fault *fault)
{
    size_t max = (size_t)limits->max_trailer_bytes + 2; /* the empty line is not counted */
    uint32_t n_fields, end;
    ka_limits one = *limits;
    ka_field spare;
    one.max_headers = 1;
    int rc = ka_fields_parse(buf, len < max ? len : max, body->n_framing, &one, &spare, &n_fields, &end, fault);
    if (rc == KA_EPEER) {
        fault->offset += body->consumed;
        return rc;
    }
    if (rc == KA_PARTIAL) {
        body->n_framing = end;
        *nbytes = 0;
        if (len >= max)
            return fail(body, KA_FAULT_TRAILERS_TOO_LARGE, max - 2, limits->max_trailer_bytes, fault);
        return KA_BODY_NEEDS;
    }
    int bad = forbidden_field(buf, 0, end - 2);
    if (bad >= 0)
        return fail(body, KA_FAULT_FORBIDDEN_TRAILER, (size_t)bad, 0, fault);
    for (uint32_t i = 0, n = 0; i < end - 2; i++)
        if (buf[i] == '\n' && ++n > limits->max_headers)
            return fail(body, KA_FAULT_TOO_MANY_HEADERS, i, limits->max_headers, fault);
    *piece = (ka_span){0, end - 2};
    *nbytes = end;
    body->consumed += end;
    body->state = OVER;
    return KA_BODY_END;
}

static __attribute__((noinline)) int next_of_chunks(ka_body *body, const char *buf, size_t len, const ka_limits *limits,
                                                    size_t *nbytes, ka_span *piece, ka_fault *fault)
{
    size_t i = 0;
    for (; i < len && body->state != TRAILERS; i++) {
        if (body->state == CHUNK)
            return content(body, i, len, CHUNK_CR, nbytes, piece);
        int code = framing_byte(body, buf[i], limits);
        if (ka_unlikely(code != KA_FAULT_NONE))
            return fail(body, code, i, limit_of(code, limits), fault);
    }
    body->consumed += i;
    *nbytes = i;
    if (body->state != TRAILERS || i == len)
        return KA_BODY_NEEDS;
    int rc = trailers(body, buf + i, len - i, limits, nbytes, piece, fault);
    *nbytes += i;
    piece->off += (uint32_t)i;
    return rc;
}

int ka_body_next(ka_body *body, const char *buf, size_t len, const ka_limits *limits, size_t *nbytes, ka_span *piece,
                 ka_fault *fault)
{
    *nbytes = 0;
    *piece = (ka_span){0, 0};
    if (body->state == OVER)
        return KA_BODY_END;
    if (body->state == LENGTH)
        return len > 0 ? content(body, 0, len, OVER, nbytes, piece) : KA_BODY_NEEDS;
    return next_of_chunks(body, buf, len, limits, nbytes, piece, fault);
}

int ka_body_trailers(const char *buf, size_t len, const ka_limits *limits, ka_field *fields)
{
    uint32_t n_fields = 0, end;
    ka_fault fault;
    /* The section was judged before; without its empty line it counts as unfinished. */
    (void)ka_fields_parse(buf, len, 0, limits, fields, &n_fields, &end, &fault);
    return (int)(n_fields < limits->max_headers ? n_fields : limits->max_headers);
}
