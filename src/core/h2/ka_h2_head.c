/* ka_h2_head.c: the rules of a request's fields in HTTP/2, each beside its section.
 *
 * Fields are judged in their order: the first that makes the request malformed ends it. What is only too much for us is
 * noted, and told when nothing was malformed. */
#include "h2/ka_h2_head.h"

#include <string.h>

#include "http/ka_body.h"
#include "http/ka_scan.h"

enum {
    MAX_METHOD_BYTES = 32 /* as in HTTP/1.1 */
};

/* One request while it is read. */
typedef struct {
    ka_hpack_section *s;
    const ka_limits *limits;
    ka_h2_request *request;
    ka_h2_fault *fault;
    ka_fault *refusal;
    ka_span method, path, authority, host; /* off 0 and len 0: not there, since names stand before values */
    uint32_t stream;
    uint32_t cookie, n_cookies; /* the first one's place among the fields kept */
    uint32_t cookie_bytes;      /* of all of them, joined */
    uint8_t is_refused;
} reading;

static int fail(const reading *r, ka_h2_fault_code code) { return ka_h2_fault_set(r->fault, code, r->stream); }

static void refuse(reading *r, ka_fault_code code, uint32_t offset, uint64_t limit)
{
    if (!r->is_refused)
        (void)ka_fault_set(r->refusal, code, offset, limit);
    r->is_refused = 1;
}

static inline const char *at(const reading *r, ka_span span) { return r->s->buf + span.off; }

static inline int is(const char *p, uint32_t len, const char *word, size_t n)
{
    return len == n && !memcmp(p, word, n);
}
#define IS(p, len, word) is(p, len, word, sizeof(word) - 1)

/* ---- names and values ---- */

#define EVERY(byte) (0x0101010101010101u * (byte))

static inline uint64_t word_at(const char *p)
{
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}

/* Are all 8 bytes "a" to "z", digits or "-", as those of nearly all names are? May say no where they are. */
static inline int is_plain_word(uint64_t word)
{
    /* Below 0x80 the highest bit of a sum says whether the byte is at least so much. */
    uint64_t letter = (word + EVERY(0x80 - 'a')) & ~(word + EVERY(0x7f - 'z'));
    uint64_t digit = (word + EVERY(0x80 - '0')) & ~(word + EVERY(0x7f - '9'));
    uint64_t dash = ~((word ^ EVERY('-')) + EVERY(0x7f));
    return (((letter | digit | dash) & ~word) & EVERY(0x80)) == EVERY(0x80);
}

/* RFC 9113 8.2, 8.2.1: a token (RFC 9110 5.1) without capitals. */
static inline int is_name(const char *p, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 8 <= n && is_plain_word(word_at(p + i)); i += 8)
        ;
    if (n >= 8 && i + 8 > n && is_plain_word(word_at(p + n - 8)))
        return 1;
    unsigned bad = n == 0;
    for (; i < n; i++)
        bad |= !ka_is(p[i], KA_IS_TOKEN) | ((uint8_t)(p[i] - 'A') < 26);
    return !bad;
}

/* Is there a control among 8 bytes? Exact but for HTAB, which is taken for one. */
static inline uint64_t has_control(uint64_t word)
{
    uint64_t del = word ^ EVERY(0x7f);
    return (((word - EVERY(0x20)) & ~word) | ((del - EVERY(1)) & ~del)) & EVERY(0x80);
}

/* RFC 9113 8.2.1: no NUL, CR or LF, and no white space at either end; RFC 9110 5.5: no other control either, but HTAB. */
static inline int is_value(const char *p, uint32_t n)
{
    uint32_t i = 0;
    if (n == 0)
        return 1;
    if (*p == ' ' || *p == '\t' || p[n - 1] == ' ' || p[n - 1] == '\t')
        return 0;
    for (; i + 8 <= n && !has_control(word_at(p + i)); i += 8)
        ;
    if (n >= 8 && i + 8 > n && !has_control(word_at(p + n - 8)))
        return 1;
    return ka_scan_class(p + i, p + n, KA_IS_VALUE) == p + n;
}

/* RFC 9113 8.2.2: what belongs to a connection of HTTP/1.1. */
static inline int is_of_connection(const char *p, uint32_t n)
{
    switch (n) {
    case 7:  return !memcmp(p, "upgrade", 7);
    case 10: return !memcmp(p, "connection", 10) || !memcmp(p, "keep-alive", 10);
    case 16: return !memcmp(p, "proxy-connection", 16);
    case 17: return !memcmp(p, "transfer-encoding", 17);
    default: return 0;
    }
}

/* What every field must be that is no pseudo-header field; 0 or a fault. */
static ka_h2_fault_code judge_field(const char *buf, const ka_field *f)
{
    const char *name = buf + f->name.off, *value = buf + f->value.off;
    if (!is_name(name, f->name.len))
        return KA_H2_FAULT_BAD_FIELD_NAME;
    if (!is_value(value, f->value.len))
        return KA_H2_FAULT_BAD_FIELD_VALUE;
    if (is_of_connection(name, f->name.len))
        return KA_H2_FAULT_CONNECTION_FIELD;
    /* RFC 9113 8.2.2: te may be there, and may say no more than this. */
    if (IS(name, f->name.len, "te") && (f->value.len != 8 || !ka_equals_lower(value, "trailers", 8)))
        return KA_H2_FAULT_BAD_TE;
    return KA_H2_FAULT_NONE;
}

/* ---- what fields mean ---- */

/* RFC 9113 8.1.1, RFC 9110 8.6: a number, once. A length larger than we take is no fault of the message. */
static int mean_content_length(reading *r, const ka_field *f)
{
    const char *p = at(r, f->value);
    ka_head *head = &r->request->head;
    int64_t n = 0;
    if ((head->flags & KA_HEAD_HAS_LENGTH) || f->value.len == 0)
        return fail(r, KA_H2_FAULT_BAD_LENGTH);
    for (uint32_t i = 0; i < f->value.len; i++) {
        unsigned digit = (unsigned)(uint8_t)p[i] - '0';
        if (digit > 9)
            return fail(r, KA_H2_FAULT_BAD_LENGTH);
        n = n > (INT64_MAX - 9) / 10 ? INT64_MAX : n * 10 + digit;
    }
    if (n > r->limits->max_body_bytes)
        refuse(r, KA_FAULT_BODY_TOO_LARGE, f->value.off, (uint64_t)r->limits->max_body_bytes);
    head->flags |= KA_HEAD_HAS_LENGTH;
    head->content_length = n;
    return KA_OK;
}

/* RFC 9113 8.3.1: host may stand beside :authority and must name the same; then it need not be told twice.
 * Return 1 when the field is done with. */
static int mean_host(reading *r, const ka_field *f)
{
    int has_port;
    const char *p = at(r, f->value), *a = at(r, r->authority);
    if (r->host.off != 0 || !ka_authority_is_good(p, p + f->value.len, &has_port))
        return fail(r, KA_H2_FAULT_HOST_DIFFERS);
    r->host = f->value;
    if (r->authority.off == 0)
        return 0;
    int same = r->authority.len == f->value.len;
    for (uint32_t i = 0; same && i < f->value.len; i++)
        same = ka_lower(a[i]) == ka_lower(p[i]);
    return same ? 1 : fail(r, KA_H2_FAULT_HOST_DIFFERS);
}

/* A field that is none of the pseudo-header fields, which goes to the place `kept` unless it is done with. Return 1 if it
 * is, 0 if it stays, or KA_EPEER. */
static int mean(reading *r, const ka_field *f, uint32_t kept)
{
    const char *name = at(r, f->name);
    ka_h2_fault_code code = judge_field(r->s->buf, f);
    if (ka_unlikely(code != KA_H2_FAULT_NONE))
        return fail(r, code);
    if (ka_unlikely((uint64_t)f->name.len + f->value.len + 2 > r->limits->max_header_bytes))
        refuse(r, KA_FAULT_HEADER_TOO_LARGE, f->name.off, r->limits->max_header_bytes);
    switch (f->name.len) {
    case 4: return !memcmp(name, "host", 4) ? mean_host(r, f) : 0;
    case 6:
        if (!memcmp(name, "cookie", 6)) {
            r->cookie_bytes += f->value.len + (r->n_cookies ? 2 : 0);
            if (r->n_cookies++ == 0)
                r->cookie = kept;
            return 0;
        }
        if (!memcmp(name, "expect", 6) && f->value.len == 12 && ka_equals_lower(at(r, f->value), "100-continue", 12))
            r->request->head.flags |= KA_HEAD_EXPECTS_CONTINUE; /* RFC 9110 10.1.1 */
        return 0;
    case 14: return !memcmp(name, "content-length", 14) ? mean_content_length(r, f) : 0;
    default: return 0;
    }
}

/* RFC 9113 8.3: each of them once. */
static int pseudo_field(reading *r, const ka_field *f, int takes_protocol)
{
    const char *name = at(r, f->name);
    ka_span *to = NULL;
    switch (f->name.len) {
    case 5: to = !memcmp(name, ":path", 5) ? &r->path : NULL; break;
    case 7:
        to = !memcmp(name, ":method", 7) ? &r->method : !memcmp(name, ":scheme", 7) ? &r->request->scheme : NULL;
        break;
    case 9: /* RFC 8441 4: only where we have said that we know it */
        to = takes_protocol && !memcmp(name, ":protocol", 9) ? &r->request->protocol : NULL;
        break;
    case 10: to = !memcmp(name, ":authority", 10) ? &r->authority : NULL; break;
    default: break;
    }
    if (to == NULL)
        return fail(r, KA_H2_FAULT_UNKNOWN_PSEUDO_FIELD);
    if (to->off != 0)
        return fail(r, KA_H2_FAULT_REPEATED_PSEUDO_FIELD);
    *to = f->value;
    return KA_OK;
}

/* RFC 9110 9.1. A method that nobody has is refused as in HTTP/1.1. */
static int judge_method(reading *r)
{
    const char *p = at(r, r->method), *end = p + r->method.len;
    ka_head *head = &r->request->head;
    if (r->method.len == 0 || ka_scan_class(p, end, KA_IS_TOKEN) != end)
        return fail(r, KA_H2_FAULT_BAD_H2_METHOD);
    if (r->method.len > MAX_METHOD_BYTES)
        refuse(r, KA_FAULT_METHOD_TOO_LONG, r->method.off, MAX_METHOD_BYTES);
    else if (ka_scan_class(p, end, KA_IS_METHOD) != end)
        refuse(r, KA_FAULT_UNKNOWN_METHOD, r->method.off, 0);
    if (IS(p, r->method.len, "HEAD"))
        head->flags |= KA_HEAD_IS_HEAD;
    if (IS(p, r->method.len, "CONNECT"))
        head->flags |= KA_HEAD_IS_CONNECT;
    head->method = r->method;
    return KA_OK;
}

/* RFC 3986 3.1 */
static int is_scheme(const char *p, uint32_t n)
{
    if (n == 0 || (uint8_t)(ka_lower(*p) - 'a') >= 26)
        return 0;
    for (uint32_t i = 1; i < n; i++)
        if ((uint8_t)(ka_lower(p[i]) - 'a') >= 26 && (uint8_t)(p[i] - '0') >= 10 && !memchr("+-.", p[i], 3))
            return 0;
    return 1;
}

/* RFC 9113 8.3.1: an absolute path with a query, or "*" with OPTIONS; which bytes it may have as in HTTP/1.1. */
static int judge_path(reading *r)
{
    ka_head *head = &r->request->head;
    const char *p = at(r, r->path), *end = p + r->path.len;
    head->target = r->path;
    if (IS(p, r->path.len, "*") && IS(at(r, r->method), r->method.len, "OPTIONS")) {
        head->target_form = KA_TARGET_ASTERISK;
        return KA_OK;
    }
    if (r->path.len == 0 || *p != '/' || ka_scan_class(p, end, KA_IS_TARGET) != end)
        return fail(r, KA_H2_FAULT_BAD_PATH);
    if (r->path.len > r->limits->max_target_bytes)
        refuse(r, KA_FAULT_TARGET_TOO_LONG, r->path.off, r->limits->max_target_bytes);
    const char *query = memchr(p, '?', r->path.len);
    uint32_t n = query ? (uint32_t)(query - p) : r->path.len;
    head->target_form = KA_TARGET_ORIGIN;
    head->path = (ka_span){r->path.off, n};
    if (query)
        head->query = (ka_span){r->path.off + n + 1, r->path.len - n - 1};
    const char *bad = ka_path_bad_escape(p, p + n);
    if (bad)
        refuse(r, KA_FAULT_BAD_ESCAPE, r->path.off + (uint32_t)(bad - p), 0);
    return KA_OK;
}

/* RFC 9113 8.5, RFC 9110 9.3.6 */
static int judge_connect(reading *r)
{
    ka_head *head = &r->request->head;
    const char *p = at(r, r->authority);
    int has_port;
    if (r->request->scheme.off != 0 || r->path.off != 0 || r->authority.off == 0)
        return fail(r, KA_H2_FAULT_BAD_CONNECT);
    if (!ka_authority_is_good(p, p + r->authority.len, &has_port) || !has_port)
        return fail(r, KA_H2_FAULT_BAD_AUTHORITY);
    head->target_form = KA_TARGET_AUTHORITY;
    head->target = r->authority;
    if (head->content_length > 0)
        refuse(r, KA_FAULT_CONNECT_WITH_CONTENT, r->authority.off, 0);
    return KA_OK;
}

/* All pseudo-header fields are here: are they those of a request? */
static int judge_request(reading *r)
{
    const char *authority = at(r, r->authority), *protocol = at(r, r->request->protocol);
    const ka_span *scheme = &r->request->scheme;
    int has_port, has_protocol = r->request->protocol.off != 0;
    if (r->method.off == 0)
        return fail(r, KA_H2_FAULT_MISSING_PSEUDO_FIELD);
    if (judge_method(r) != KA_OK)
        return KA_EPEER;
    int is_connect = r->request->head.flags & KA_HEAD_IS_CONNECT;
    if (has_protocol && (!is_connect || !is_name(protocol, r->request->protocol.len)))
        return fail(r, KA_H2_FAULT_BAD_PROTOCOL);
    if (is_connect && !has_protocol)
        return judge_connect(r);
    if (scheme->off == 0 || r->path.off == 0)
        return fail(r, KA_H2_FAULT_MISSING_PSEUDO_FIELD);
    if (!is_scheme(at(r, *scheme), scheme->len))
        return fail(r, KA_H2_FAULT_BAD_SCHEME);
    /* RFC 9113 8.3.1: no userinfo, not empty; RFC 8441 5: and there in an extended CONNECT. */
    if (r->authority.off != 0 && !ka_authority_is_good(authority, authority + r->authority.len, &has_port))
        return fail(r, KA_H2_FAULT_BAD_AUTHORITY);
    if (r->authority.off == 0 && (is_connect || r->host.off == 0))
        return fail(r, KA_H2_FAULT_MISSING_AUTHORITY);
    return judge_path(r);
}

/* ---- one field of many cookies ---- */

/* RFC 9113 8.2.3: joined with "; ", before anybody else sees them; where the first one was. */
static void join_cookies(reading *r)
{
    ka_hpack_section *s = r->s;
    ka_head *head = &r->request->head;
    uint32_t kept = r->cookie, from = s->used, len = 0;
    if (r->cookie_bytes + 8u > r->limits->max_header_bytes || r->cookie_bytes > s->size - s->used) {
        refuse(r, KA_FAULT_HEADER_TOO_LARGE, s->fields[kept].name.off, r->limits->max_header_bytes);
        return;
    }
    for (uint32_t i = r->cookie; i < head->n_fields; i++) {
        const ka_field *f = &s->fields[i];
        if (!IS(at(r, f->name), f->name.len, "cookie")) {
            s->fields[kept++] = *f;
            continue;
        }
        if (i == r->cookie)
            kept++;
        else {
            memcpy(s->buf + from + len, "; ", 2);
            len += 2;
        }
        memcpy(s->buf + from + len, at(r, f->value), f->value.len);
        len += f->value.len;
    }
    s->fields[r->cookie].value = (ka_span){from, len};
    s->used += len;
    head->n_fields = kept;
}

/* ---- entry ---- */

/* The fields one after the other; those that stay are moved together, behind the place of host. */
static int read_fields(reading *r, int takes_protocol)
{
    ka_hpack_section *s = r->s;
    uint32_t kept = 0, i = 0;
    for (; i < s->n_fields; i++) {
        const ka_field *f = &s->fields[i];
        if (f->name.len == 0 || *at(r, f->name) != ':')
            break;
        if (pseudo_field(r, f, takes_protocol) != KA_OK)
            return KA_EPEER;
        if (r->authority.off == f->value.off && r->authority.off != 0) {
            /* It is named as HTTP/1.1 names it, over the bytes of its name. */
            memcpy(s->buf + f->name.off, "host", 4);
            s->fields[0] = (ka_field){{f->name.off, 4}, f->value};
            kept = 1;
        }
    }
    for (; i < s->n_fields; i++) {
        const ka_field f = s->fields[i];
        /* RFC 9113 8.3: pseudo-header fields come first. */
        if (ka_unlikely(f.name.len > 0 && *at(r, f.name) == ':'))
            return fail(r, KA_H2_FAULT_LATE_PSEUDO_FIELD);
        int done = mean(r, &f, kept);
        if (ka_unlikely(done < 0))
            return done;
        if (!done)
            s->fields[kept++] = f;
    }
    r->request->head.n_fields = kept;
    return KA_OK;
}

int ka_h2_request_read(ka_hpack_section *section, uint32_t stream, int ends_stream, int takes_protocol,
                       const ka_limits *limits, ka_h2_request *request, ka_h2_fault *fault, ka_fault *refusal)
{
    reading r = {
        .s = section, .limits = limits, .request = request, .fault = fault, .refusal = refusal, .stream = stream};
    ka_head *head = &request->head;
    *request = (ka_h2_request){
        .head = {
            .content_length = -1, .minor = 1, .flags = KA_HEAD_KEEP_ALIVE | KA_HEAD_IS_H2, .nbytes = section->used}};
    /* What is kept of it means nothing. */
    if (ka_unlikely(section->is_too_large)) {
        refuse(&r, KA_FAULT_HEAD_TOO_LARGE, section->max_list, section->max_list);
        return KA_H2_REFUSED;
    }
    if (read_fields(&r, takes_protocol) != KA_OK || judge_request(&r) != KA_OK)
        return KA_EPEER;
    /* RFC 9113 8.1.1: content-length is what all DATA frames have, here none. */
    if (ends_stream && head->content_length > 0)
        return fail(&r, KA_H2_FAULT_LENGTH_WITHOUT_CONTENT);
    head->host = r.authority.off ? r.authority : r.host;
    if (r.n_cookies > 1)
        join_cookies(&r);
    if (head->n_fields > limits->max_headers)
        refuse(&r, KA_FAULT_TOO_MANY_HEADERS, 0, limits->max_headers);
    return r.is_refused ? KA_H2_REFUSED : KA_OK;
}

int ka_h2_trailers_read(const ka_hpack_section *section, uint32_t stream, const ka_limits *limits, ka_h2_fault *fault,
                        ka_fault *refusal)
{
    const char *buf = section->buf;
    int is_refused = 0;
    if (section->is_too_large || section->used > limits->max_trailer_bytes) {
        (void)ka_fault_set(refusal, KA_FAULT_TRAILERS_TOO_LARGE, limits->max_trailer_bytes, limits->max_trailer_bytes);
        return KA_H2_REFUSED;
    }
    for (uint32_t i = 0; i < section->n_fields; i++) {
        const ka_field *f = &section->fields[i];
        const char *name = buf + f->name.off;
        /* RFC 9113 8.1: none of them in a trailer section. */
        if (f->name.len > 0 && *name == ':')
            return ka_h2_fault_set(fault, KA_H2_FAULT_PSEUDO_TRAILER, stream);
        ka_h2_fault_code code = judge_field(buf, f);
        if (code != KA_H2_FAULT_NONE)
            return ka_h2_fault_set(fault, code, stream);
        if (!is_refused && ka_trailer_is_forbidden(name, f->name.len)) {
            (void)ka_fault_set(refusal, KA_FAULT_FORBIDDEN_TRAILER, f->name.off, 0);
            is_refused = 1;
        }
    }
    return is_refused ? KA_H2_REFUSED : KA_OK;
}
