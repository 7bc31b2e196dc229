/* ka_head.c: the rules of a request head, each beside the section it comes from.
 *
 * Two kinds of rule (see ka_head.h): what a byte or a line may be is judged as the bytes come, in request_line and
 * field_line; what a field means is noted in a `facts` while lines are read, and judged by judge_head at the empty
 * line. Knows nothing of where bytes come from, and allocates nothing. */
#include "http/ka_head.h"

#include <string.h>

#include "http/ka_block.h"
#include "http/ka_scan.h"

#ifdef KA_HAS_X86
#include <cpuid.h>
#endif

const ka_limits ka_limits_default = {
    .max_head_bytes = 32768,   /* nginx: four buffers of 8k */
    .max_target_bytes = 8192,  /* RFC 9112 3: at least 8000 octets of request line */
    .max_headers = 100,        /* Apache: LimitRequestFields */
    .max_header_bytes = 16384, /* twice what nginx and Apache allow: large cookies are common */
    .max_chunk_line_bytes = 256,
    .max_trailer_bytes = 4096,
    .max_body_bytes = (int64_t)1 << 30, /* Apache: LimitRequestBody */
};

static const struct {
    uint16_t status;
    const char *name, *text;
} faults[KA_N_FAULTS] = {{0, "none", "no fault"},
#define X(name, status, text) {status, #name, text},
                         KA_FAULTS(X)
#undef X
};

static char fault_names[KA_N_FAULTS][32];

/* The list above is in capitals, for the enum. */
static void make_fault_names(void)
{
    for (unsigned code = 0; code < KA_N_FAULTS; code++)
        for (size_t i = 0; faults[code].name[i] != '\0' && i < sizeof fault_names[0] - 1; i++)
            fault_names[code][i] = ka_lower(faults[code].name[i]);
}

const char *ka_fault_name(unsigned code)
{
    static int state;
    ka_once(&state, make_fault_names);
    return fault_names[code < KA_N_FAULTS ? code : 0];
}

const char *ka_fault_text(unsigned code) { return faults[code < KA_N_FAULTS ? code : 0].text; }

int ka_fault_set(ka_fault *fault, ka_fault_code code, uint64_t offset, uint64_t limit)
{
    *fault = (ka_fault){.code = (uint16_t)code, .status = faults[code].status, .offset = offset, .limit = limit};
    return KA_EPEER;
}

enum {
    KA_MAX_METHOD_BYTES = 32
}; /* the longest registered method has 17 */

/* One parse: what stays the same while it runs, and what it has learnt. */
typedef struct {
    const char *buf, *end;
    const ka_limits *limits;
    const char *first_line; /* of the field section */
    ka_fault *fault;
    ka_fault meaning; /* the first fault of a field's meaning; told at the end of the head */
    struct {
        uint32_t te_offset, cl_offset;
        uint16_t n_host, n_codings, n_chunked;
        uint8_t last_is_chunked, says_close, says_keep_alive, says_upgrade, has_upgrade;
        uint8_t more_than_host; /* any field with a meaning but Host, or a fault of meaning */
    } seen;
} parse;

static uint32_t at(const parse *s, const char *p) { return (uint32_t)(p - s->buf); }

static ka_span span(const parse *s, const char *from, const char *to)
{
    return (ka_span){at(s, from), (uint32_t)(to - from)};
}

static int fail(parse *s, ka_fault_code code, const char *where)
{
    return ka_fault_set(s->fault, code, at(s, where), 0);
}

static void note(parse *s, ka_fault_code code, uint32_t offset, uint64_t limit)
{
    s->seen.more_than_host = 1;
    if (s->meaning.code == KA_FAULT_NONE)
        (void)ka_fault_set(&s->meaning, code, offset, limit);
}

/* ---- the request line ---- */

/* RFC 9112 2.2: at least one empty line before the request is ignored; here exactly one. */
static int skip_empty_line(parse *s, const char **p)
{
    const char *q = *p;
    if (q == s->end)
        return KA_PARTIAL;
    if (*q == '\n')
        return fail(s, KA_FAULT_BARE_LF, q);
    if (*q != '\r')
        return KA_OK;
    if (q + 1 == s->end)
        return KA_PARTIAL;
    if (q[1] != '\n')
        return fail(s, KA_FAULT_BARE_CR, q);
    q += 2;
    if (q == s->end)
        return KA_PARTIAL;
    if (*q == '\r')
        return fail(s, KA_FAULT_EMPTY_LINES, q);
    if (*q == '\n')
        return fail(s, KA_FAULT_BARE_LF, q);
    *p = q;
    return KA_OK;
}

/* RFC 9110 9.1: a token; that token is written in capitals is nginx's rule, the stricter one. */
static int read_method(parse *s, const char **p, ka_head *head)
{
    const char *from = *p, *q = ka_scan_class(from, s->end, KA_IS_TOKEN);
    if (q - from > KA_MAX_METHOD_BYTES)
        return ka_fault_set(s->fault, KA_FAULT_METHOD_TOO_LONG, at(s, from) + KA_MAX_METHOD_BYTES, KA_MAX_METHOD_BYTES);
    if (q == s->end)
        return KA_PARTIAL;
    if (*q == '\n')
        return fail(s, KA_FAULT_BARE_LF, q);
    if (*q == '\r' || *q == '\t')
        return fail(s, KA_FAULT_BAD_REQUEST_LINE, q);
    if (*q != ' ' || q == from)
        return fail(s, KA_FAULT_BAD_METHOD, q);
    const char *bad = ka_scan_class(from, q, KA_IS_METHOD);
    if (bad != q)
        return fail(s, KA_FAULT_UNKNOWN_METHOD, bad);
    head->method = span(s, from, q);
    if (q - from == 4 && !memcmp(from, "HEAD", 4))
        head->flags |= KA_HEAD_IS_HEAD;
    if (q - from == 7 && !memcmp(from, "CONNECT", 7))
        head->flags |= KA_HEAD_IS_CONNECT;
    *p = q + 1;
    return KA_OK;
}

/* Which bytes a target may have. Its form is judged by judge_target, when the whole line is here. */
static int read_target(parse *s, const char **p, ka_head *head)
{
    const char *from = *p, *q = ka_scan_class(from, s->end, KA_IS_TARGET);
    if ((size_t)(q - from) > s->limits->max_target_bytes)
        return ka_fault_set(s->fault, KA_FAULT_TARGET_TOO_LONG, (uint64_t)at(s, from) + s->limits->max_target_bytes,
                            s->limits->max_target_bytes);
    if (q == s->end)
        return KA_PARTIAL;
    if (*q == '\n')
        return fail(s, KA_FAULT_BARE_LF, q);
    if (q == from)
        return fail(s, KA_FAULT_BAD_REQUEST_LINE, q);
    /* "GET /" and nothing more is a request of HTTP/0.9. */
    if (*q == '\r')
        return fail(s, KA_FAULT_MISSING_VERSION, q);
    if (*q != ' ')
        return fail(s, KA_FAULT_BAD_TARGET, q);
    head->target = span(s, from, q);
    *p = q + 1;
    return KA_OK;
}

/* RFC 9112 2.3: "HTTP/" DIGIT "." DIGIT, case-sensitive; then CRLF. */
static int read_version(parse *s, const char **p, ka_head *head)
{
    static const char shape[8] = {'H', 'T', 'T', 'P', '/', '0', '.', '0'};
    const char *v = *p;
    for (int i = 0; i < 8; i++) {
        if (v + i == s->end)
            return KA_PARTIAL;
        int fits = shape[i] == '0' ? v[i] >= '0' && v[i] <= '9' : v[i] == shape[i];
        if (!fits)
            return fail(s, v[i] == '\n' ? KA_FAULT_BARE_LF : KA_FAULT_BAD_VERSION, v + i);
    }
    if (v[5] != '1') {
        int preface = v[5] == '2' && head->method.len == 3 && head->target.len == 1 &&
                      !memcmp(s->buf + head->method.off, "PRI *", 5);
        return fail(s, preface ? KA_FAULT_HTTP2_PREFACE : KA_FAULT_UNSUPPORTED_VERSION, v + 5);
    }
    head->minor = (uint8_t)(v[7] - '0');
    v += 8;
    if (v == s->end)
        return KA_PARTIAL;
    if (*v == '\n')
        return fail(s, KA_FAULT_BARE_LF, v);
    if (*v != '\r')
        return fail(s, KA_FAULT_BAD_VERSION, v);
    if (v + 1 == s->end)
        return KA_PARTIAL;
    if (v[1] != '\n')
        return fail(s, KA_FAULT_BARE_CR, v);
    *p = v + 2;
    return KA_OK;
}

/* ---- hosts ---- */

/* RFC 3986 3.2.2 IPv6address without the brackets. */
static int is_ipv6(const char *p, const char *end)
{
    int groups = 0, elided = 0;
    if (end - p < 2)
        return 0;
    if (*p == ':') {
        if (p[1] != ':')
            return 0;
        elided = 1;
        p += 2;
    }
    while (p < end) {
        const char *from = p;
        while (p < end && ka_is(*p, KA_IS_HEX))
            p++;
        if (p == from || p - from > 4)
            return 0;
        groups++;
        if (p < end && *p == '.') { /* the last 32 bits in dotted form */
            int dots = 0;
            for (p = from; dots < 4; dots++) {
                const char *digits = p;
                unsigned octet = 0;
                while (p < end && p - digits < 3 && *p >= '0' && *p <= '9')
                    octet = octet * 10 + (unsigned)(*p++ - '0');
                if (p == digits || octet > 255 || (p - digits > 1 && *digits == '0'))
                    return 0;
                if (dots < 3 && (p == end || *p++ != '.'))
                    return 0;
            }
            return p == end && (elided ? groups + 1 <= 7 : groups + 1 == 8);
        }
        if (p == end)
            break;
        if (*p++ != ':')
            return 0;
        if (p == end)
            return 0;
        if (*p == ':') {
            if (elided++)
                return 0;
            p++;
        }
    }
    return elided ? groups <= 7 : groups == 8;
}

static int is_escape(const char *p, const char *end)
{
    return end - p >= 3 && *p == '%' && ka_is(p[1], KA_IS_HEX) && ka_is(p[2], KA_IS_HEX);
}

/* RFC 3986 3.2: uri-host [":" port], not empty; no empty label except the last, which is nginx's rule.
 * Return: 1 if so; *has_port tells whether there are digits of a port. */
static int is_authority(const char *p, const char *end, int *has_port)
{
    const char *from = p;
    *has_port = 0;
    if (p == end)
        return 0;
    if (*p == '[') {
        const char *close = memchr(p, ']', (size_t)(end - p));
        if (close == NULL || !is_ipv6(p + 1, close))
            return 0;
        p = close + 1;
    } else {
        for (; p < end && (ka_is(*p, KA_IS_HOST) || is_escape(p, end)); p += *p == '%' ? 3 : 1)
            if (*p == '.' && (p == from || p[-1] == '.'))
                return 0;
        if (p == from)
            return 0;
    }
    if (p == end)
        return 1;
    if (*p++ != ':')
        return 0;
    uint32_t port = 0;
    for (; p < end; p++) {
        if (*p < '0' || *p > '9')
            return 0;
        *has_port = 1;
        port = port * 10 + (uint32_t)(*p - '0');
        if (port > 65535)
            return 0;
    }
    return 1;
}

/* ---- the four forms of a target (RFC 9112 3.2) ---- */

static const char *skip_scheme(const char *p, const char *end)
{
    if (end - p >= 7 && ka_equals_lower(p, "http://", 7))
        return p + 7;
    if (end - p >= 8 && ka_equals_lower(p, "https://", 8))
        return p + 8;
    return NULL;
}

static const char *path_end(const char *p, const char *end)
{
    const char *query = memchr(p, '?', (size_t)(end - p));
    return query ? query : end;
}

/* The first escape of a path that is not "%" and two hex digits, or is %00 (as nginx judges), or NULL. */
static const char *bad_escape(const char *p, const char *end)
{
    while ((p = memchr(p, '%', (size_t)(end - p))) != NULL) {
        if (!is_escape(p, end) || (p[1] == '0' && p[2] == '0'))
            return p;
        p += 3;
    }
    return NULL;
}

/* Split path and query, and judge the path's escapes. The query is the application's: browsers send it with stray
 * "%" signs. */
static int split_path(parse *s, const char *p, const char *end, ka_head *head)
{
    const char *query = path_end(p, end), *bad = bad_escape(p, query);
    head->path = span(s, p, query);
    if (query < end)
        head->query = span(s, query + 1, end);
    return bad ? fail(s, KA_FAULT_BAD_ESCAPE, bad) : KA_OK;
}

static int judge_target(parse *s, ka_head *head)
{
    const char *t = s->buf + head->target.off, *end = t + head->target.len;
    int has_port;
    if (head->flags & KA_HEAD_IS_CONNECT) {
        /* RFC 9112 3.2.3: authority-form with CONNECT only; RFC 9110 9.3.6: the port must be there. */
        head->target_form = KA_TARGET_AUTHORITY;
        if (!is_authority(t, end, &has_port) || !has_port)
            return fail(s, KA_FAULT_BAD_TARGET, t);
        return KA_OK;
    }
    if (*t == '/') {
        head->target_form = KA_TARGET_ORIGIN;
        return split_path(s, t, end, head);
    }
    if (*t == '*' && head->target.len == 1) {
        /* RFC 9112 3.2.4: with OPTIONS only. */
        head->target_form = KA_TARGET_ASTERISK;
        if (head->method.len == 7 && !memcmp(s->buf + head->method.off, "OPTIONS", 7))
            return KA_OK;
        return fail(s, KA_FAULT_BAD_TARGET, t);
    }
    const char *authority = skip_scheme(t, end);
    if (authority == NULL)
        return fail(s, KA_FAULT_BAD_TARGET, t);
    head->target_form = KA_TARGET_ABSOLUTE;
    const char *path = authority;
    while (path < end && *path != '/' && *path != '?')
        path++;
    /* No userinfo (RFC 9110 4.2.4), no empty host (RFC 9110 4.2.1). */
    if (!is_authority(authority, path, &has_port))
        return fail(s, KA_FAULT_BAD_TARGET, authority);
    head->host = span(s, authority, path);
    return split_path(s, path, end, head);
}

static int request_line(parse *s, const char **p, ka_head *head)
{
    int rc;
    if ((rc = skip_empty_line(s, p)) != KA_OK)
        return rc;
    if ((rc = read_method(s, p, head)) != KA_OK)
        return rc;
    if ((rc = read_target(s, p, head)) != KA_OK)
        return rc;
    if ((rc = read_version(s, p, head)) != KA_OK)
        return rc;
    return judge_target(s, head);
}

/* ---- field lines ---- */

static int bad_name(parse *s, const char *line, const char *q)
{
    switch (*q) {
    case '\n': return fail(s, KA_FAULT_BARE_LF, q);
    case '\r': return fail(s, KA_FAULT_MISSING_COLON, q);
    case ' ':
    case '\t': break;
    default:   return fail(s, KA_FAULT_BAD_NAME, q);
    }
    if (q != line)
        return fail(s, KA_FAULT_SPACE_BEFORE_COLON, q);
    return fail(s, line == s->first_line ? KA_FAULT_SPACE_BEFORE_FIELD : KA_FAULT_OBS_FOLD, q);
}

static int line_too_long(parse *s, const char *line)
{
    uint32_t limit = s->limits->max_header_bytes;
    return ka_fault_set(s->fault, KA_FAULT_HEADER_TOO_LARGE, (uint64_t)at(s, line) + limit, limit);
}

/* What a line at `line` < end is that is not a whole and well-formed one, looked at byte by byte: KA_PARTIAL or
 * KA_EPEER. */
static __attribute__((noinline)) int odd_line(parse *s, const char *line)
{
    const char *end = s->end, *colon = ka_scan_class(line, end, KA_IS_TOKEN);
    if ((size_t)(colon - line) > s->limits->max_header_bytes)
        return line_too_long(s, line);
    if (colon == end)
        return KA_PARTIAL;
    if (*colon != ':') {
        if (*colon != '\r' || colon != line)
            return bad_name(s, line, colon);
        return line + 1 == end ? KA_PARTIAL : fail(s, KA_FAULT_BARE_CR, line);
    }
    if (colon == line)
        return fail(s, KA_FAULT_EMPTY_NAME, line);
    const char *e = ka_scan_class(colon + 1, end, KA_IS_VALUE);
    if ((size_t)(e - line) > s->limits->max_header_bytes)
        return line_too_long(s, line);
    if (e == end)
        return KA_PARTIAL;
    if (*e != '\r')
        return fail(s, *e == '\n' ? KA_FAULT_BARE_LF : KA_FAULT_BAD_VALUE, e);
    return e + 1 == end ? KA_PARTIAL : fail(s, KA_FAULT_BARE_CR, e);
}

/* ---- what fields mean ---- */

static void mean_host(parse *s, const ka_field *f, ka_head *head)
{
    const char *v = s->buf + f->value.off;
    int has_port;
    if (s->seen.n_host++)
        return note(s, KA_FAULT_REPEATED_HOST, f->name.off, 0);
    if (!is_authority(v, v + f->value.len, &has_port))
        return note(s, KA_FAULT_BAD_HOST, f->value.off, 0);
    /* RFC 9112 3.2: the client must send the same; docs/strictness.md says why a difference is refused. */
    if (head->target_form == KA_TARGET_ABSOLUTE) {
        const char *a = s->buf + head->host.off;
        int same = head->host.len == f->value.len;
        for (uint32_t i = 0; same && i < f->value.len; i++)
            same = ka_lower(a[i]) == ka_lower(v[i]);
        if (!same)
            return note(s, KA_FAULT_HOST_MISMATCH, f->value.off, 0);
    }
    head->host = f->value;
}

/* RFC 9112 6.3: 1*DIGIT, once. Lists and repetitions are refused even when equal, as nginx does. */
static void mean_content_length(parse *s, const ka_field *f, ka_head *head)
{
    const char *v = s->buf + f->value.off;
    int64_t n = 0, limit = s->limits->max_body_bytes;
    int too_large = 0;
    if (head->flags & KA_HEAD_HAS_LENGTH)
        return note(s, KA_FAULT_REPEATED_CONTENT_LENGTH, f->name.off, 0);
    if (f->value.len == 0)
        return note(s, KA_FAULT_BAD_CONTENT_LENGTH, f->value.off, 0);
    for (uint32_t i = 0; i < f->value.len; i++) {
        unsigned digit = (unsigned)(uint8_t)v[i] - '0';
        if (digit > 9)
            return note(s, KA_FAULT_BAD_CONTENT_LENGTH, f->value.off + i, 0);
        if (n > (INT64_MAX - 9) / 10)
            too_large = 1;
        else
            n = n * 10 + digit;
    }
    if (too_large || n > limit)
        return note(s, KA_FAULT_BODY_TOO_LARGE, f->value.off, (uint64_t)limit);
    head->flags |= KA_HEAD_HAS_LENGTH;
    head->content_length = n;
    s->seen.cl_offset = f->name.off;
}

/* The next element of a comma list: [*from, *to) without white space around it. Return 0 when there is none. */
static int next_element(const char **p, const char *end, const char **from, const char **to)
{
    const char *q = *p;
    if (q == NULL)
        return 0;
    const char *comma = memchr(q, ',', (size_t)(end - q));
    const char *e = comma ? comma : end;
    *p = comma ? comma + 1 : NULL;
    while (q < e && (*q == ' ' || *q == '\t'))
        q++;
    while (q < e && (e[-1] == ' ' || e[-1] == '\t'))
        e--;
    *from = q;
    *to = e;
    return 1;
}

/* RFC 9112 6.1, 6.3 and 7.1: codings as one list over all lines; only "chunked", once, without parameters. */
static void mean_transfer_encoding(parse *s, const ka_field *f, ka_head *head)
{
    const char *p = s->buf + f->value.off, *end = p + f->value.len, *from, *to;
    s->seen.te_offset = f->name.off;
    head->flags |= KA_HEAD_CHUNKED;
    while (next_element(&p, end, &from, &to)) {
        const char *q = ka_scan_class(from, to, KA_IS_TOKEN);
        int is_chunked = q - from == 7 && ka_equals_lower(from, "chunked", 7);
        if (q == from || (q != to && is_chunked))
            return note(s, KA_FAULT_BAD_TRANSFER_ENCODING, at(s, q), 0);
        s->seen.n_codings++;
        s->seen.n_chunked = (uint16_t)(s->seen.n_chunked + is_chunked);
        s->seen.last_is_chunked = (uint8_t)is_chunked;
    }
}

/* RFC 9110 7.6.1: a list over any number of lines, in any case. */
static void mean_connection(parse *s, const ka_field *f)
{
    const char *p = s->buf + f->value.off, *end = p + f->value.len, *from, *to;
    if (ka_likely(f->value.len == 10 && !memcmp(p, "keep-alive", 10))) {
        s->seen.says_keep_alive = 1;
        return;
    }
    while (next_element(&p, end, &from, &to)) {
        if (to - from == 5 && ka_equals_lower(from, "close", 5))
            s->seen.says_close = 1;
        else if (to - from == 10 && ka_equals_lower(from, "keep-alive", 10))
            s->seen.says_keep_alive = 1;
        else if (to - from == 7 && ka_equals_lower(from, "upgrade", 7))
            s->seen.says_upgrade = 1;
    }
}

static void mean_expect(parse *s, const ka_field *f, ka_head *head)
{
    /* RFC 9110 10.1.1: ignored in HTTP/1.0; other expectations are ignored. */
    if (head->minor > 0 && f->value.len == 12 && ka_equals_lower(s->buf + f->value.off, "100-continue", 12))
        head->flags |= KA_HEAD_EXPECTS_CONTINUE;
}

/* Can it be a name that `mean` knows? By its length and first letter. */
static inline int may_mean(const char *name, uint32_t len)
{
    static const char first[32] = {[4] = 'h', [6] = 'e', [7] = 'u', [10] = 'c', [14] = 'c', [17] = 't'};
    return (*name | 0x20) == first[len % sizeof first];
}

static __attribute__((noinline)) void mean(parse *s, const ka_field *f, ka_head *head)
{
    const char *name = s->buf + f->name.off;
    s->seen.more_than_host = 1;
    switch (f->name.len) {
    case 4:
        if (ka_equals_lower(name, "host", 4))
            mean_host(s, f, head);
        break;
    case 6:
        if (ka_equals_lower(name, "expect", 6))
            mean_expect(s, f, head);
        break;
    case 7:
        if (ka_equals_lower(name, "upgrade", 7))
            s->seen.has_upgrade = 1;
        break;
    case 10:
        if (ka_is_name(name, "connection", 10))
            mean_connection(s, f);
        break;
    case 14:
        if (ka_is_name(name, "content-length", 14))
            mean_content_length(s, f, head);
        break;
    case 17:
        if (ka_equals_lower(name, "transfer-encoding", 17))
            mean_transfer_encoding(s, f, head);
        break;
    default: break;
    }
}

static void judge_transfer_encoding(parse *s, const ka_head *head)
{
    if (head->minor == 0)
        note(s, KA_FAULT_OLD_TRANSFER_ENCODING, s->seen.te_offset, 0);
    if (s->seen.n_chunked > 1)
        note(s, KA_FAULT_REPEATED_CHUNKED, s->seen.te_offset, 0);
    if (!s->seen.last_is_chunked)
        note(s, KA_FAULT_CHUNKED_NOT_LAST, s->seen.te_offset, 0);
    if (s->seen.n_codings > 1)
        note(s, KA_FAULT_UNKNOWN_TRANSFER_CODING, s->seen.te_offset, 0);
    if (head->flags & KA_HEAD_HAS_LENGTH)
        note(s, KA_FAULT_AMBIGUOUS_LENGTH,
             s->seen.te_offset > s->seen.cl_offset ? s->seen.te_offset : s->seen.cl_offset, 0);
}

/* The empty line is here: what can only be said of the head as a whole. */
static __attribute__((noinline)) void judge_odd_head(parse *s, const ka_head *head)
{
    if (head->minor > 0 && s->seen.n_host == 0)
        note(s, KA_FAULT_MISSING_HOST, head->nbytes - 2, 0);
    if (head->flags & KA_HEAD_CHUNKED)
        judge_transfer_encoding(s, head);
    if ((head->flags & KA_HEAD_IS_CONNECT) && ((head->flags & KA_HEAD_CHUNKED) || head->content_length > 0))
        note(s, KA_FAULT_CONNECT_WITH_CONTENT,
             s->seen.te_offset > s->seen.cl_offset ? s->seen.te_offset : s->seen.cl_offset, 0);
}

static __attribute__((noinline)) int judge_any_head(parse *s, ka_head *head)
{
    unsigned is_new = head->minor > 0;
    if (ka_unlikely(s->seen.n_host < is_new || (head->flags & (KA_HEAD_CHUNKED | KA_HEAD_IS_CONNECT))))
        judge_odd_head(s, head);
    if (ka_unlikely(s->meaning.code != KA_FAULT_NONE)) {
        *s->fault = s->meaning;
        return KA_EPEER;
    }
    /* RFC 9112 9.3: close wins; HTTP/1.1 persists; HTTP/1.0 only when it says so. Nothing after a CONNECT can be
     * told from the bytes of its tunnel (RFC 9110 9.3.6). */
    unsigned persists = (is_new | s->seen.says_keep_alive) & !s->seen.says_close & !(head->flags & KA_HEAD_IS_CONNECT);
    /* RFC 9110 7.8: Upgrade is ignored in HTTP/1.0. */
    unsigned upgrades = s->seen.has_upgrade & s->seen.says_upgrade & is_new;
    head->flags = (uint16_t)(head->flags | persists * KA_HEAD_KEEP_ALIVE | upgrades * KA_HEAD_UPGRADE);
    return KA_OK;
}

static inline int judge_head(parse *s, ka_head *head)
{
    if (ka_unlikely(s->seen.more_than_host || s->seen.n_host == 0 || head->minor == 0))
        return judge_any_head(s, head);
    /* A Host in HTTP/1.1 and nothing else that means anything; a CONNECT's Host is not a plain one. */
    head->flags |= KA_HEAD_KEEP_ALIVE;
    return KA_OK;
}

static inline void begin(parse *s, const char *buf, size_t len, const ka_limits *limits, ka_fault *fault)
{
    s->buf = buf;
    s->end = buf + len;
    s->limits = limits;
    s->fault = fault;
    s->first_line = NULL;
    s->meaning.code = KA_FAULT_NONE;
    memset(&s->seen, 0, sizeof s->seen);
}

/* Any request line. What the plain way set before it gave up is not of use. */
static __attribute__((noinline)) int odd_request_line(parse *s, ka_head *head)
{
    const char *p = s->buf;
    *head = (ka_head){.content_length = -1};
    int rc = request_line(s, &p, head);
    if (rc == KA_OK)
        s->first_line = p;
    return rc;
}

/* Where the name of a field line and its value end. */
typedef struct {
    const char *name, *value;
} ends;

/* The head is not whole, or faulty. Return: rc, or KA_EPEER because no byte is to follow.
 * *checked is set to p, where the first line begins that is not whole. */
static __attribute__((noinline)) int unfinished(parse *s, int rc, const char *p, uint32_t *checked)
{
    uint32_t max = s->limits->max_head_bytes;
    if (rc == KA_EPEER)
        return rc;
    if ((size_t)(s->end - s->buf) >= max)
        return ka_fault_set(s->fault, KA_FAULT_HEAD_TOO_LARGE, max, max);
    /* The first field line is judged as such, so an unfinished one is read again with the request line. */
    if (checked != NULL && s->first_line != NULL && p != s->first_line)
        *checked = at(s, p);
    return rc;
}

/* ---- the ways of scanning ---- */

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
enum {
    KA_LAST_BYTE = 56
}; /* shift of the last of eight bytes */
#else
enum {
    KA_LAST_BYTE = 0
};
#endif

#define V(name) name##_scalar
#define V_TARGET
#define V_BLOCK 0
#include "http/ka_head_lines.h"
#undef V
#undef V_TARGET
#undef V_BLOCK

#ifdef KA_HAS_X86
#define V(name) name##_sse42
#define V_TARGET KA_SSE42
#define V_BLOCK 32
#include "http/ka_head_lines.h"
#undef V
#undef V_BLOCK
#define V(name) name##_sse42_half
#define V_BLOCK 16
#include "http/ka_head_lines.h"
#undef V
#undef V_TARGET
#undef V_BLOCK
#endif
#ifdef KA_HAS_NEON
#define V(name) name##_neon
#define V_TARGET
#define V_BLOCK 32
#include "http/ka_head_lines.h"
#undef V
#undef V_BLOCK
#define V(name) name##_neon_half
#define V_BLOCK 16
#include "http/ka_head_lines.h"
#undef V
#undef V_TARGET
#undef V_BLOCK
#endif

typedef struct {
    int (*whole_head)(const char *buf, size_t len, uint32_t *checked, const ka_limits *limits, ka_head *head,
                      ka_field *fields, ka_fault *fault);
    int (*field_section)(parse *s, const char **p, ka_field *fields, uint32_t *n_fields);
} way;

/* Which functions to use for inputs of up to 15, up to 31, and more bytes. */
typedef struct {
    const char *name;
    way by_size[3];
} variant;

#define WAY(suffix) {whole_head_##suffix, field_section_##suffix}

/* Best last. */
static const variant variants[] = {
    {"scalar", {WAY(scalar), WAY(scalar), WAY(scalar)}},
#ifdef KA_HAS_X86
    {"sse4.2", {WAY(scalar), WAY(sse42_half), WAY(sse42)}},
#endif
#ifdef KA_HAS_NEON
    {"neon", {WAY(scalar), WAY(neon_half), WAY(neon)}},
#endif
};
enum {
    N_VARIANTS = sizeof variants / sizeof *variants
};

static const variant *chosen = &variants[0];

static inline const way *way_for(size_t len)
{
    const variant *v = chosen;
    if (ka_likely(len >= 32))
        return &v->by_size[2];
    return len >= 16 ? &v->by_size[1] : &v->by_size[0];
}

static int is_supported(unsigned i)
{
#ifdef KA_HAS_X86 /* __builtin_cpu_supports needs a library that not every compiler has */
    unsigned a, b, c = 0, d;
    if (i == 1)
        return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_2);
#endif
    return i < N_VARIANTS;
}

int ka_simd_select(const char *name)
{
    for (unsigned i = N_VARIANTS; i-- > 0;)
        if (is_supported(i) && (name == NULL || !strcmp(name, variants[i].name))) {
            chosen = &variants[i];
            return KA_OK;
        }
    return KA_EINVAL;
}

const char *ka_simd_name(void) { return chosen->name; }

const char *ka_simd_at(unsigned i)
{
    for (unsigned k = 0; k < N_VARIANTS; k++)
        if (is_supported(k) && i-- == 0)
            return variants[k].name;
    return NULL;
}

/* ---- entry ---- */

int ka_authority_is_good(const char *p, const char *end, int *has_port) { return is_authority(p, end, has_port); }

const char *ka_path_bad_escape(const char *p, const char *end) { return bad_escape(p, end); }

int ka_fields_parse(const char *buf, size_t len, size_t start, const ka_limits *limits, ka_field *fields,
                    uint32_t *n_fields, uint32_t *nbytes, ka_fault *fault)
{
    const char *p = buf + start;
    parse s;
    begin(&s, buf, len, limits, fault);
    int rc = way_for(len)->field_section(&s, &p, fields, n_fields);
    *nbytes = at(&s, p);
    return rc;
}

/* Lines that came in pieces are judged by themselves first, and the whole when the empty line is here. */
static __attribute__((noinline)) int read_on(const char *buf, size_t len, uint32_t *checked, const ka_limits *limits,
                                             ka_head *head, ka_field *fields, ka_fault *fault)
{
    uint32_t n_fields, line;
    int rc = ka_fields_parse(buf, len, *checked, limits, fields, &n_fields, &line, fault);
    if (rc == KA_OK)
        return way_for(len)->whole_head(buf, len, checked, limits, head, fields, fault);
    if (rc != KA_PARTIAL)
        return rc;
    *checked = line;
    if (len < limits->max_head_bytes)
        return rc;
    return ka_fault_set(fault, KA_FAULT_HEAD_TOO_LARGE, limits->max_head_bytes, limits->max_head_bytes);
}

int ka_head_parse(const char *buf, size_t len, uint32_t *checked, const ka_limits *limits, ka_head *head,
                  ka_field *fields, ka_fault *fault)
{
    if (ka_unlikely(len > limits->max_head_bytes))
        len = limits->max_head_bytes;
    if (ka_unlikely(checked != NULL && *checked > 0))
        return read_on(buf, len, checked, limits, head, fields, fault);
    return way_for(len)->whole_head(buf, len, checked, limits, head, fields, fault);
}
