/* ka_reply.c: see ka_reply.h. */
#include "http/ka_reply.h"

#include <string.h>

static const char *const reasons[600] = {
    [100] = "Continue",
    [101] = "Switching Protocols",
    [102] = "Processing",
    [103] = "Early Hints",
    [200] = "OK",
    [201] = "Created",
    [202] = "Accepted",
    [203] = "Non-Authoritative Information",
    [204] = "No Content",
    [205] = "Reset Content",
    [206] = "Partial Content",
    [207] = "Multi-Status",
    [208] = "Already Reported",
    [226] = "IM Used",
    [300] = "Multiple Choices",
    [301] = "Moved Permanently",
    [302] = "Found",
    [303] = "See Other",
    [304] = "Not Modified",
    [305] = "Use Proxy",
    [307] = "Temporary Redirect",
    [308] = "Permanent Redirect",
    [400] = "Bad Request",
    [401] = "Unauthorized",
    [402] = "Payment Required",
    [403] = "Forbidden",
    [404] = "Not Found",
    [405] = "Method Not Allowed",
    [406] = "Not Acceptable",
    [407] = "Proxy Authentication Required",
    [408] = "Request Timeout",
    [409] = "Conflict",
    [410] = "Gone",
    [411] = "Length Required",
    [412] = "Precondition Failed",
    [413] = "Content Too Large",
    [414] = "URI Too Long",
    [415] = "Unsupported Media Type",
    [416] = "Range Not Satisfiable",
    [417] = "Expectation Failed",
    [418] = "I'm a Teapot",
    [421] = "Misdirected Request",
    [422] = "Unprocessable Content",
    [423] = "Locked",
    [424] = "Failed Dependency",
    [425] = "Too Early",
    [426] = "Upgrade Required",
    [428] = "Precondition Required",
    [429] = "Too Many Requests",
    [431] = "Request Header Fields Too Large",
    [451] = "Unavailable For Legal Reasons",
    [500] = "Internal Server Error",
    [501] = "Not Implemented",
    [502] = "Bad Gateway",
    [503] = "Service Unavailable",
    [504] = "Gateway Timeout",
    [505] = "HTTP Version Not Supported",
    [506] = "Variant Also Negotiates",
    [507] = "Insufficient Storage",
    [508] = "Loop Detected",
    [510] = "Not Extended",
    [511] = "Network Authentication Required",
};

/* RFC 9110 5.6.2: tchar. */
static const uint8_t is_token[256] = {
    ['!'] = 1, ['#'] = 1, ['$'] = 1, ['%'] = 1,         ['&'] = 1,         ['\''] = 1,
    ['*'] = 1, ['+'] = 1, ['-'] = 1, ['.'] = 1,         ['^'] = 1,         ['_'] = 1,
    ['`'] = 1, ['|'] = 1, ['~'] = 1, ['0' ... '9'] = 1, ['A' ... 'Z'] = 1, ['a' ... 'z'] = 1,
};

const char *ka_reply_reason(unsigned status) { return status < 600 && reasons[status] ? reasons[status] : ""; }

static inline void put(char **at, const char *bytes, size_t len)
{
    memcpy(*at, bytes, len);
    *at += len;
}

#define PUT_LITERAL(at, text) put((at), (text), sizeof(text) - 1)

static void put_number(char **at, uint64_t n)
{
    size_t len = 1;
    for (uint64_t left = n; left >= 10; left /= 10)
        len++;
    *at += len;
    for (char *to = *at; len; len--, n /= 10)
        *--to = (char)('0' + n % 10);
}

static void put_two(char *at, int n)
{
    at[0] = (char)('0' + n / 10 % 10);
    at[1] = (char)('0' + n % 10);
}

/* RFC 9110 5.6.7: IMF-fixdate. By arithmetic on days (years start in March), since gmtime_r takes the libc's locks. */
void ka_reply_common_set_date(ka_reply_common *common, int64_t unix_seconds)
{
    static const char days[] = "ThuFriSatSunMonTueWed";
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    if (unix_seconds < 0)
        unix_seconds = 0;
    int64_t day = unix_seconds / 86400;
    int second = (int)(unix_seconds % 86400);
    int64_t z = day + 719468, era = z / 146097, doe = z % 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    int mday = (int)(doy - (153 * mp + 2) / 5 + 1);
    int month = (int)(mp < 10 ? mp + 2 : mp - 10); /* 0 = January */
    int year = (int)(yoe + era * 400 + (month <= 1));
    char *at = common->date;
    PUT_LITERAL(&at, "date: ");
    put(&at, days + 3 * (day % 7), 3);
    PUT_LITERAL(&at, ", 00 ");
    put_two(at - 3, mday);
    put(&at, months + 3 * month, 3);
    PUT_LITERAL(&at, " 0000 00:00:00 GMT\r\n");
    put_two(at - 19, year / 100);
    put_two(at - 17, year);
    put_two(at - 14, second / 3600);
    put_two(at - 11, second / 60 % 60);
    put_two(at - 8, second % 60);
    ka_assert(at - common->date == KA_DATE_BYTES);
    common->date_len = common->hides_date ? 0 : KA_DATE_BYTES;
}

/* --- copying with a check, eight bytes at a time: a field is short, and libc's memcpy is a call --- */

#define EACH(byte) (UINT64_C(0x0101010101010101) * (uint64_t)(byte))

static inline uint64_t copy_eight(char *to, const char *from)
{
    uint64_t word;
    memcpy(&word, from, sizeof word);
    memcpy(to, &word, sizeof word);
    return word;
}

/* Nonzero when a byte of the word is zero; exact as such, though not about which byte. */
static inline uint64_t has_zero(uint64_t word) { return (word - EACH(1)) & ~word & EACH(0x80); }

/* A field value goes out as it is but for what would end the line: refused, RFC 9110 5.5. */
static inline int copy_value(char *to, const char *from, size_t len)
{
    uint64_t bad = 0;
    if (len >= 8) {
        for (size_t i = 0; i < len; i += 8) {
            size_t at = i + 8 <= len ? i : len - 8; /* the last eight may overlap those before */
            uint64_t word = copy_eight(to + at, from + at);
            bad |= has_zero(word) | has_zero(word ^ EACH('\r')) | has_zero(word ^ EACH('\n'));
        }
        return bad ? KA_EINVAL : KA_OK;
    }
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)from[i];
        bad |= (c == '\r') | (c == '\n') | (c == 0);
        to[i] = (char)c;
    }
    return bad ? KA_EINVAL : KA_OK;
}

/* Are all eight letters or "-"? Bytes with the high bit set are none; without it no sum below carries. */
static inline int is_plain_name(uint64_t word)
{
    uint64_t lower = word | EACH(0x20);
    uint64_t letters = (lower + EACH(0x80 - 'a')) & ~(lower + EACH(0x80 - 'z' - 1));
    uint64_t dashes = ~((word ^ EACH('-')) + EACH(0x7f));
    return (word & EACH(0x80)) == 0 && ((letters | dashes) & EACH(0x80)) == EACH(0x80);
}

static inline int copy_name(char *to, const char *from, size_t len)
{
    unsigned good = len > 0;
    for (size_t i = 0; i < len;) {
        size_t at = i + 8 <= len ? i : len - 8;
        if (len >= 8 && is_plain_name(copy_eight(to + at, from + at))) {
            i += 8;
            continue;
        }
        good &= is_token[(unsigned char)from[i]];
        to[i] = from[i];
        i++;
    }
    return good ? KA_OK : KA_EINVAL;
}

int ka_reply_common_set_server(ka_reply_common *common, const char *value, size_t len)
{
    char *at = common->server;
    common->server_len = 0;
    if (len == 0)
        return KA_OK;
    if (len > sizeof common->server - 10)
        return KA_EINVAL;
    PUT_LITERAL(&at, "server: ");
    if (copy_value(at, value, len) < 0)
        return KA_EINVAL;
    at += len;
    PUT_LITERAL(&at, "\r\n");
    common->server_len = (uint8_t)(at - common->server);
    return KA_OK;
}

int ka_reply_start(ka_reply *reply, char **at, unsigned status)
{
    if (status < 100 || status > 999) {
        reply->why = "a status must be a number from 100 to 999 (RFC 9110 15)";
        return KA_EINVAL;
    }
    reply->status = (uint16_t)status;
    reply->declared = -1;
    if (ka_likely(status == 200)) {
        PUT_LITERAL(at, "HTTP/1.1 200 OK\r\n");
        return KA_OK;
    }
    const char *reason = ka_reply_reason(status);
    PUT_LITERAL(at, "HTTP/1.1 ");
    put_number(at, status);
    PUT_LITERAL(at, " ");
    put(at, reason, strlen(reason));
    PUT_LITERAL(at, "\r\n");
    return KA_OK;
}

int ka_reply_reword(ka_reply *reply, char **at, const char *reason, size_t len)
{
    for (size_t i = 0; i < len; i++) { /* before a byte is written: the line that stands there must stay whole */
        if (reason[i] == '\r' || reason[i] == '\n' || reason[i] == 0) {
            reply->why = "a reason phrase must not contain CR, LF or NUL (RFC 9112 4)";
            return KA_EINVAL;
        }
    }
    *at -= strlen(ka_reply_reason(reply->status)) + 2;
    put(at, reason, len);
    PUT_LITERAL(at, "\r\n");
    return KA_OK;
}

static inline int same(const char *name, const char *lower, size_t len)
{
    unsigned differs = 0;
    if (ka_likely(memcmp(name, lower, len) == 0)) /* inlined: len is a number here */
        return 1;
    for (size_t i = 0; i < len; i++) /* letters differ in one bit, and "-" has it set */
        differs |= ((unsigned char)name[i] | 0x20u) ^ (unsigned char)lower[i];
    return differs == 0;
}

/* RFC 9110 7.6.1: is `close` among the options of this Connection field? */
static int list_has_close(const char *value, size_t len)
{
    size_t i = 0;
    while (i < len) {
        while (i < len && (value[i] == ',' || value[i] == ' ' || value[i] == '\t'))
            i++;
        size_t from = i;
        while (i < len && value[i] != ',' && value[i] != ' ' && value[i] != '\t')
            i++;
        if (i - from == 5 && same(value + from, "close", 5))
            return 1;
    }
    return 0;
}

static int declare_length(ka_reply *reply, const char *value, size_t len)
{
    int64_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (value[i] < '0' || value[i] > '9' || n > (INT64_MAX - 9) / 10)
            len = 0;
        else
            n = n * 10 + (value[i] - '0');
    }
    if (len == 0 || (reply->declared >= 0 && reply->declared != n)) {
        reply->why = "Content-Length must be a single number (RFC 9110 8.6)";
        return KA_EINVAL;
    }
    reply->declared = n;
    return KA_OK;
}

/* Fields that are ours to write. Return 1 when the field is dealt with and must not be copied. */
static int take_own_field(ka_reply *reply, const char *name, size_t name_len, const char *value, size_t value_len)
{
    switch (name_len) {
    case 4:
        if (same(name, "date", 4))
            reply->has_date = 1;
        break;
    case 6:
        if (same(name, "server", 6))
            reply->has_server = 1;
        break;
    case 7:
        if (same(name, "upgrade", 7))
            reply->offers_upgrade = reply->status != 101;
        break;
    case 10:
        if (same(name, "connection", 10)) {
            reply->wants_close |= (uint8_t)list_has_close(value, value_len);
            return reply->status != 101; /* the application's own words are needed to switch protocols */
        }
        return same(name, "keep-alive", 10);
    case 14:
        if (same(name, "content-length", 14)) {
            int error = declare_length(reply, value, value_len);
            return error < 0 ? error : 1; /* written by finish_head, where the framing is known */
        }
        break;
    case 17: return same(name, "transfer-encoding", 17);
    default: break;
    }
    return 0;
}

int ka_reply_line(ka_reply *reply, char **at, const char *name, size_t name_len, const char *value, size_t value_len)
{
    char *to = *at;
    if (copy_name(to, name, name_len) < 0) {
        reply->why = "a field name must be a token (RFC 9110 5.1)";
        return KA_EINVAL;
    }
    to += name_len;
    *to++ = ':';
    *to++ = ' ';
    if (copy_value(to, value, value_len) < 0) {
        reply->why = "CR, LF and NUL are not allowed in a field value (RFC 9110 5.5)";
        return KA_EINVAL;
    }
    to += value_len;
    *to++ = '\r';
    *to++ = '\n';
    *at = to;
    return KA_OK;
}

int ka_reply_field(ka_reply *reply, char **at, const char *name, size_t name_len, const char *value, size_t value_len)
{
    char *to = *at;
    int error = ka_reply_line(reply, &to, name, name_len, value, value_len);
    if (error < 0)
        return error;
    int own = take_own_field(reply, name, name_len, value, value_len);
    if (own)
        return own < 0 ? own : KA_OK;
    *at = to;
    return KA_OK;
}

/* RFC 9110 6.4.1, 9.3.2, 9.3.6, 15.3.6, 15.4.5: responses that have no content whatever the application sends. */
static int is_without_content(const ka_reply *reply)
{
    return reply->is_head || reply->status < 200 || reply->status == 204 || reply->status == 205 ||
           reply->status == 304 || (reply->is_connect && reply->status < 300);
}

int ka_reply_choose_frame(ka_reply *reply, int64_t whole)
{
    if (is_without_content(reply)) {
        /* To HEAD the length is what GET would give; an empty content from an application that does not bother says
         * nothing about that. 1xx, 204 and 2xx to CONNECT must not carry the field (RFC 9110 8.6). */
        if (reply->is_head && reply->declared < 0 && whole > 0)
            reply->declared = whole;
        if (reply->status < 200 || reply->status == 204 || (reply->is_connect && reply->status < 300))
            reply->declared = -1;
        else if (reply->status == 205)
            reply->declared = 0; /* its framing is that of any 200: without a length it would go on to the close */
        reply->frame = KA_FRAME_NONE;
    } else if (reply->declared >= 0) {
        if (whole >= 0 && whole != reply->declared) {
            reply->why = "the content is not as long as Content-Length says";
            return KA_EINVAL;
        }
        reply->frame = KA_FRAME_LENGTH;
    } else if (whole >= 0) {
        reply->declared = whole;
        reply->frame = KA_FRAME_LENGTH;
    } else {
        reply->frame = reply->minor >= 1 ? KA_FRAME_CHUNKED : KA_FRAME_CLOSE;
    }
    return reply->frame;
}

void ka_reply_finish_head(ka_reply *reply, char **at, const ka_verdict *verdict, const ka_reply_common *common)
{
    if (reply->declared >= 0) {
        PUT_LITERAL(at, "content-length: ");
        put_number(at, (uint64_t)reply->declared);
        PUT_LITERAL(at, "\r\n");
    } else if (reply->frame == KA_FRAME_CHUNKED) {
        PUT_LITERAL(at, "transfer-encoding: chunked\r\n");
    }
    if (!reply->has_date && common->date_len)
        put(at, common->date, KA_DATE_BYTES);
    if (!reply->has_server)
        put(at, common->server, common->server_len);
    if (ka_unlikely(common->extra_len))
        put(at, common->extra, common->extra_len);
    if (ka_unlikely(reply->offers_upgrade))
        PUT_LITERAL(at, "connection: upgrade\r\n");
    if (verdict->sends_close) {
        PUT_LITERAL(at, "connection: close\r\n");
    } else if (verdict->sends_keep_alive) {
        PUT_LITERAL(at, "connection: keep-alive\r\n");
        if (verdict->timeout_s || verdict->max) {
            PUT_LITERAL(at, "keep-alive: ");
            if (verdict->timeout_s) {
                PUT_LITERAL(at, "timeout=");
                put_number(at, verdict->timeout_s);
            }
            if (verdict->max) {
                if (verdict->timeout_s)
                    PUT_LITERAL(at, ", ");
                PUT_LITERAL(at, "max=");
                put_number(at, verdict->max);
            }
            PUT_LITERAL(at, "\r\n");
        }
    }
    PUT_LITERAL(at, "\r\n");
    reply->is_started = 1;
}

static size_t put_chunk_size(char *at, size_t len)
{
    static const char hex[] = "0123456789abcdef";
    char *start = at;
    int shift = 60;
    while (shift > 0 && (len >> shift) == 0)
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        *at++ = hex[(len >> shift) & 15];
    PUT_LITERAL(&at, "\r\n");
    return (size_t)(at - start);
}

int ka_reply_piece(ka_reply *reply, size_t len, int more, char *before, size_t *before_len, char *after,
                   size_t *after_len, int *sends)
{
    *before_len = *after_len = 0;
    *sends = reply->frame != KA_FRAME_NONE && len > 0;
    if (reply->is_over) {
        reply->why = "the response is already complete";
        return KA_EINVAL;
    }
    reply->n_content += (int64_t)len;
    if (reply->frame == KA_FRAME_LENGTH &&
        (reply->n_content > reply->declared || (!more && reply->n_content < reply->declared))) {
        reply->why = reply->n_content > reply->declared ? "more content than Content-Length says"
                                                        : "less content than Content-Length says";
        return KA_EINVAL;
    }
    if (reply->frame == KA_FRAME_CHUNKED) {
        char *at = after;
        if (len) { /* an empty chunk would end the response */
            *before_len = put_chunk_size(before, len);
            PUT_LITERAL(&at, "\r\n");
        }
        if (!more)
            PUT_LITERAL(&at, "0\r\n\r\n");
        *after_len = (size_t)(at - after);
    }
    reply->is_over = !more;
    return KA_OK;
}
