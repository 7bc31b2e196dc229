/* Requests of HTTP/2: each rule of RFC 9113 section 8 with what is taken and what is refused, and what a head says then.
 * link: h2 http */
#include "check.h"

#include "h2/ka_h2_head.h"

enum {
    ROOM = 8192,
    MAX_FIELDS = 64
};

static ka_field fields[MAX_FIELDS];
static ka_limits limits;

/* A section as HPACK leaves it: "name|value" in lines, in a buffer that ends at the edge of a page. */
static ka_hpack_section section_of(const char *lines)
{
    static char bytes[ROOM];
    ka_hpack_section s = {.fields = fields, .size = ROOM, .max_fields = MAX_FIELDS, .max_list = ROOM / 2};
    memset(bytes, '#', sizeof bytes);
    for (const char *end; *lines; lines = end + 1) {
        const char *bar = strchr(lines, '|');
        end = strchr(bar, '\n');
        ka_field *f = &fields[s.n_fields++];
        f->name = (ka_span){s.used, (uint32_t)(bar - lines)};
        f->value = (ka_span){s.used + f->name.len, (uint32_t)(end - bar - 1)};
        memcpy(bytes + f->name.off, lines, f->name.len);
        memcpy(bytes + f->value.off, bar + 1, f->value.len);
        s.used += f->name.len + f->value.len;
    }
    s.buf = at_the_edge(bytes, ROOM);
    return s;
}

static char *tell_span(char *to, const char *buf, ka_span span, const char *then)
{
    return to + sprintf(to, "%.*s%s", (int)span.len, buf + span.off, then);
}

/* "method target path query host scheme protocol length\n", then the fields as they were written. */
static void tell(char *to, const ka_hpack_section *s, const ka_h2_request *r)
{
    const ka_span parts[] = {r->head.method, r->head.target, r->head.path, r->head.query,
                             r->head.host,   r->scheme,      r->protocol};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        to = tell_span(to, s->buf, parts[i], " ");
    to += sprintf(to, "%lld\n", (long long)r->head.content_length);
    for (uint32_t i = 0; i < r->head.n_fields; i++) {
        to = tell_span(to, s->buf, fields[i].name, "|");
        to = tell_span(to, s->buf, fields[i].value, "\n");
    }
    *to = 0;
}

enum {
    GOES_ON = 0,
    ENDS = 1,    /* the stream, with this section */
    EXTENDED = 2 /* SETTINGS_ENABLE_CONNECT_PROTOCOL was sent */
};

static int read_request(const char *lines, int how, ka_h2_request *request, ka_h2_fault *fault, ka_fault *refusal,
                        char *told)
{
    ka_hpack_section s = section_of(lines);
    int rc = ka_h2_request_read(&s, 5, (how & ENDS) != 0, (how & EXTENDED) != 0, &limits, request, fault, refusal);
    if (rc == KA_OK)
        tell(told, &s, request);
    return rc;
}

static void good(const char *lines, const char *wanted, int how, unsigned flags, const char *why)
{
    ka_h2_request request;
    ka_h2_fault fault = {0};
    ka_fault refusal = {0};
    char told[ROOM] = "";
    int rc = read_request(lines, how, &request, &fault, &refusal, told);
    CHECK(rc == KA_OK && !strcmp(told, wanted), "%s: %d %s%s\n%s", why, rc, ka_h2_fault_text(fault.code),
          ka_fault_text(refusal.code), told);
    CHECK(rc != KA_OK || request.head.flags == (flags | KA_HEAD_KEEP_ALIVE | KA_HEAD_IS_H2), "%s: flags %x", why,
          request.head.flags);
}

static void bad(const char *lines, unsigned code, int how, const char *why)
{
    ka_h2_request request;
    ka_h2_fault fault = {0};
    ka_fault refusal = {0};
    char told[ROOM];
    int rc = read_request(lines, how, &request, &fault, &refusal, told);
    CHECK(rc == KA_EPEER && fault.code == code, "%s: %d %s", why, rc, ka_h2_fault_text(fault.code));
    CHECK(fault.of_stream && fault.stream == 5 && fault.error == KA_H2_PROTOCOL_ERROR, "%s", why);
}

static void refused(const char *lines, unsigned code, int how, const char *why)
{
    ka_h2_request request;
    ka_h2_fault fault = {0};
    ka_fault refusal = {0};
    char told[ROOM];
    int rc = read_request(lines, how, &request, &fault, &refusal, told);
    CHECK(rc == KA_H2_REFUSED && refusal.code == code && refusal.status >= 400, "%s: %d %s", why, rc,
          ka_fault_text(refusal.code));
}

#define GET ":method|GET\n:scheme|https\n:path|/\n:authority|a.example\n"
#define GOT "GET / /  a.example https  -1\nhost|a.example\n"
#define F(name) KA_H2_FAULT_##name

static void test_pseudo_fields(void)
{
    good(GET, GOT, ENDS, 0, "8.3.1: the four of them");
    good(":authority|a.example\n:path|/\n:scheme|https\n:method|GET\nx|y\n", GOT "x|y\n", ENDS, 0, "8.3: in any order");
    good(":method|HEAD\n:scheme|http\n:path|/a%20b?c=%&d\n:authority|[::1]:80\n",
         "HEAD /a%20b?c=%&d /a%20b c=%&d [::1]:80 http  -1\nhost|[::1]:80\n", ENDS, KA_HEAD_IS_HEAD, "path and query");
    good(":method|OPTIONS\n:scheme|http\n:path|*\n:authority|a\n", "OPTIONS *   a http  -1\nhost|a\n", ENDS, 0,
         "8.3.1: * with OPTIONS");
    good(":method|GET\n:scheme|https\n:path|/\naccept|*/*\nhost|a.example\n",
         "GET / /  a.example https  -1\naccept|*/*\nhost|a.example\n", ENDS, 0, "8.3.1: host in place of :authority");
    good(GET "host|A.example\n", GOT, ENDS, 0, "8.3.1: host beside an equal :authority");
    good(":method|GET\n:scheme|web+x.1-a\n:path|/\n:authority|a\n", "GET / /  a web+x.1-a  -1\nhost|a\n", ENDS, 0,
         "8.3.1: another scheme");
    bad("", F(MISSING_PSEUDO_FIELD), ENDS, "8.3.1: none");
    bad(":scheme|http\n:path|/\n:authority|a\n", F(MISSING_PSEUDO_FIELD), ENDS, "8.3.1: no :method");
    bad(":method|GET\n:path|/\n:authority|a\n", F(MISSING_PSEUDO_FIELD), ENDS, "8.3.1: no :scheme");
    bad(":method|GET\n:scheme|http\n:authority|a\n", F(MISSING_PSEUDO_FIELD), ENDS, "8.3.1: no :path");
    bad(":method|GET\n:scheme|http\n:path|/\n", F(MISSING_AUTHORITY), ENDS, "8.3.1: no :authority and no host");
    bad(GET ":method|GET\n", F(REPEATED_PSEUDO_FIELD), ENDS, "8.3: :method again");
    bad(GET ":path|/\n", F(REPEATED_PSEUDO_FIELD), ENDS, "8.3: :path again");
    bad(GET ":authority|a.example\n", F(REPEATED_PSEUDO_FIELD), ENDS, "8.3: :authority again");
    bad(GET "x|y\n:scheme|https\n", F(LATE_PSEUDO_FIELD), ENDS, "8.3: behind another field");
    bad(":method|GET\n:scheme|http\nx|y\n:path|/\n:authority|a\n", F(LATE_PSEUDO_FIELD), ENDS,
        "8.3: one of the needed");
    bad(GET ":status|200\n", F(UNKNOWN_PSEUDO_FIELD), ENDS, "8.3: one of responses");
    bad(GET ":|\n", F(UNKNOWN_PSEUDO_FIELD), ENDS, "8.3: no name");
    bad(GET ":Path|/\n", F(UNKNOWN_PSEUDO_FIELD), ENDS, "8.2: a capital");
    bad(GET ":protocol|websocket\n", F(UNKNOWN_PSEUDO_FIELD), ENDS, "RFC 8441 3: not where it was not allowed");
    bad(":method|\n:scheme|http\n:path|/\n:authority|a\n", F(BAD_H2_METHOD), ENDS, "9110 9.1: no method");
    bad(":method|G T\n:scheme|http\n:path|/\n:authority|a\n", F(BAD_H2_METHOD), ENDS, "9110 9.1: no token");
    bad(":method|GET\n:scheme|\n:path|/\n:authority|a\n", F(BAD_SCHEME), ENDS, "8.3.1: an empty scheme");
    bad(":method|GET\n:scheme|1http\n:path|/\n:authority|a\n", F(BAD_SCHEME), ENDS, "3986 3.1: a digit first");
    bad(":method|GET\n:scheme|http://\n:path|/\n:authority|a\n", F(BAD_SCHEME), ENDS, "3986 3.1: a colon");
    bad(":method|GET\n:scheme|http\n:path|\n:authority|a\n", F(BAD_PATH), ENDS, "8.3.1: an empty path");
    bad(":method|GET\n:scheme|http\n:path|a\n:authority|a\n", F(BAD_PATH), ENDS, "8.3.1: no absolute path");
    bad(":method|GET\n:scheme|http\n:path|*\n:authority|a\n", F(BAD_PATH), ENDS, "8.3.1: * without OPTIONS");
    bad(":method|GET\n:scheme|http\n:path|http://a/\n:authority|a\n", F(BAD_PATH), ENDS, "8.3.1: a whole URI");
    bad(":method|GET\n:scheme|http\n:path|/ HTTP/1.1\n:authority|a\n", F(BAD_PATH), ENDS, "8.3.1: a space");
    bad(":method|GET\n:scheme|http\n:path|/a\r\n:authority|a\n", F(BAD_PATH), ENDS, "8.2.1: a carriage return");
    bad(":method|GET\n:scheme|http\n:path|/a#b\n:authority|a\n", F(BAD_PATH), ENDS, "8.3.1: a fragment");
    bad(":method|GET\n:scheme|http\n:path|/\xc3\xa4\n:authority|a\n", F(BAD_PATH), ENDS, "3986 3.3: not ASCII");
    bad(":method|GET\n:scheme|http\n:path|/\n:authority|\n", F(BAD_AUTHORITY), ENDS, "8.3.1: an empty :authority");
    bad(":method|GET\n:scheme|http\n:path|/\n:authority|u@a\n", F(BAD_AUTHORITY), ENDS, "8.3.1: userinfo");
    bad(":method|GET\n:scheme|http\n:path|/\n:authority|a/b\n", F(BAD_AUTHORITY), ENDS, "8.3.1: a path in it");
    bad(GET "host|b.example\n", F(HOST_DIFFERS), ENDS, "8.3.1: host that differs");
    bad(GET "host|a.example:443\n", F(HOST_DIFFERS), ENDS, "8.3.1: host with a port");
    bad(GET "host|a.example\nhost|a.example\n", F(HOST_DIFFERS), ENDS, "9112 3.2: host twice");
    bad(":method|GET\n:scheme|http\n:path|/\nhost|a b\n", F(HOST_DIFFERS), ENDS, "9112 3.2: host that is none");
}

static void test_connect(void)
{
    good(":method|CONNECT\n:authority|a.example:443\n",
         "CONNECT a.example:443   a.example:443   -1\nhost|a.example:443\n", GOES_ON, KA_HEAD_IS_CONNECT, "8.5");
    bad(":method|CONNECT\n:authority|a.example\n", F(BAD_AUTHORITY), GOES_ON, "9110 9.3.6: no port");
    bad(":method|CONNECT\nhost|a.example:443\n", F(BAD_CONNECT), GOES_ON, "8.5: no :authority");
    bad(":method|CONNECT\n:scheme|https\n:authority|a:1\n", F(BAD_CONNECT), GOES_ON, "8.5: with :scheme");
    bad(":method|CONNECT\n:path|/\n:authority|a:1\n", F(BAD_CONNECT), GOES_ON, "8.5: with :path");
    refused(":method|CONNECT\n:authority|a:1\ncontent-length|3\n", KA_FAULT_CONNECT_WITH_CONTENT, GOES_ON,
            "9110 9.3.6");
#define SOCKET ":protocol|websocket\n:scheme|https\n:path|/chat?x\n:authority|a\n"
    good(":method|CONNECT\n" SOCKET, "CONNECT /chat?x /chat x a https websocket -1\nhost|a\n", EXTENDED,
         KA_HEAD_IS_CONNECT, "RFC 8441 4");
    bad(":method|GET\n" SOCKET, F(BAD_PROTOCOL), EXTENDED, "RFC 8441 4: with another method");
    bad(":method|CONNECT\n" SOCKET, F(UNKNOWN_PSEUDO_FIELD), GOES_ON, "RFC 8441 3: where it was not allowed");
    bad(":method|CONNECT\n:protocol|\n:scheme|https\n:path|/\n:authority|a\n", F(BAD_PROTOCOL), EXTENDED,
        "no protocol");
    bad(":method|CONNECT\n:protocol|x\n:scheme|https\n:authority|a\n", F(MISSING_PSEUDO_FIELD), EXTENDED, "no :path");
    bad(":method|CONNECT\n:protocol|x\n:scheme|https\n:path|/\nhost|a\n", F(MISSING_AUTHORITY), EXTENDED, "host alone");
}

static void test_fields(void)
{
    good(GET "x-!#$%&'*+-.^_`|~1|y\n", GOT "x-!#$%&'*+-.^_`|~1|y\n", ENDS, 0, "8.2.1: a name of all that a token has");
    good(GET "x|\n", GOT "x|\n", ENDS, 0, "an empty value");
    good(GET "x|a\tb \xff 23456789\x80\n", GOT "x|a\tb \xff 23456789\x80\n", ENDS, 0, "9110 5.5: HTAB and obs-text");
    bad(GET "X|y\n", F(BAD_FIELD_NAME), ENDS, "8.2: a capital");
    bad(GET "xY|y\n", F(BAD_FIELD_NAME), ENDS, "8.2: a capital inside");
    bad(GET "|y\n", F(BAD_FIELD_NAME), ENDS, "8.2.1: an empty name");
    bad(GET "x y|y\n", F(BAD_FIELD_NAME), ENDS, "8.2.1: a space in a name");
    bad(GET "x:|y\n", F(BAD_FIELD_NAME), ENDS, "8.2.1: a colon in a name");
    bad(GET "x\x7f|y\n", F(BAD_FIELD_NAME), ENDS, "8.2.1: a control in a name");
    bad(GET "\xc3\xa4|y\n", F(BAD_FIELD_NAME), ENDS, "8.2.1: not ASCII");
    bad(GET "x| y\n", F(BAD_FIELD_VALUE), ENDS, "8.2.1: a space before a value");
    bad(GET "x|y\t\n", F(BAD_FIELD_VALUE), ENDS, "8.2.1: white space behind it");
    bad(GET "x| \n", F(BAD_FIELD_VALUE), ENDS, "8.2.1: nothing else");
    bad(GET "x|a\rb\n", F(BAD_FIELD_VALUE), ENDS, "8.2.1: a carriage return");
    bad(GET "connection|close\n", F(CONNECTION_FIELD), ENDS, "8.2.2");
    bad(GET "keep-alive|max=1\n", F(CONNECTION_FIELD), ENDS, "8.2.2");
    bad(GET "proxy-connection|close\n", F(CONNECTION_FIELD), ENDS, "8.2.2");
    bad(GET "transfer-encoding|chunked\n", F(CONNECTION_FIELD), ENDS, "8.2.2");
    bad(GET "upgrade|h2c\n", F(CONNECTION_FIELD), ENDS, "8.2.2");
    good(GET "te|trailers\n", GOT "te|trailers\n", ENDS, 0, "8.2.2: te");
    bad(GET "te|gzip\n", F(BAD_TE), ENDS, "8.2.2: te that says something else");
    bad(GET "te|trailers, gzip\n", F(BAD_TE), ENDS, "8.2.2: and more");
    bad(GET "te|\n", F(BAD_TE), ENDS, "8.2.2: nothing");
    good(GET "expect|100-Continue\n", GOT "expect|100-Continue\n", GOES_ON, KA_HEAD_EXPECTS_CONTINUE, "9110 10.1.1");
    /* Every byte at every place of a name that is longer than a word. */
    for (unsigned c = 1; c < 256; c++)
        for (int place = 0; place < 19; place++) {
            char lines[200], told[200], name[] = "abcdefghijklmno-0z9";
            if (c == '\n' || c == '|' || (c == ':' && place == 0))
                continue;
            name[place] = (char)c;
            sprintf(lines, GET "%s|y\n", name);
            sprintf(told, GOT "%s|y\n", name);
            if (strchr("!#$%&'*+-.^_`~0123456789abcdefghijklmnopqrstuvwxyz", (int)c))
                good(lines, told, ENDS, 0, "8.2.1: a byte of names");
            else
                bad(lines, F(BAD_FIELD_NAME), ENDS, "8.2.1: no byte of names");
        }
    /* Every control but HTAB, at every place of a value that is longer than a word. */
    for (unsigned c = 0; c < 256; c++)
        for (int place = 1; place < 19; place++) {
            char lines[200], value[] = "0123456789abcdefghij";
            value[place] = c == '\n' || c == 0 ? 1 : (char)c;
            sprintf(lines, GET "x|%s\n", value);
            if ((c < 0x20 && c != '\t') || c == 0x7f)
                bad(lines, F(BAD_FIELD_VALUE), ENDS, "9110 5.5: a control");
            else {
                char told[200];
                sprintf(told, GOT "x|%s\n", value);
                good(lines, told, ENDS, 0, "9110 5.5: no control");
            }
        }
}

static void test_content_length(void)
{
    good(GET "content-length|7\n", "GET / /  a.example https  7\nhost|a.example\ncontent-length|7\n", GOES_ON,
         KA_HEAD_HAS_LENGTH, "8.1.1");
    good(GET "content-length|0\n", "GET / /  a.example https  0\nhost|a.example\ncontent-length|0\n", ENDS,
         KA_HEAD_HAS_LENGTH, "8.1.1: no content, and none is promised");
    bad(GET "content-length|1\n", F(LENGTH_WITHOUT_CONTENT), ENDS, "8.1.1: content is promised, and none comes");
    bad(GET "content-length|\n", F(BAD_LENGTH), GOES_ON, "9110 8.6: empty");
    bad(GET "content-length|+1\n", F(BAD_LENGTH), GOES_ON, "9110 8.6: a sign");
    bad(GET "content-length|1,1\n", F(BAD_LENGTH), GOES_ON, "9110 8.6: a list");
    bad(GET "content-length|1\ncontent-length|1\n", F(BAD_LENGTH), GOES_ON, "9110 8.6: twice");
    refused(GET "content-length|99999999999999999999999999\n", KA_FAULT_BODY_TOO_LARGE, GOES_ON, "over 64 bits");
    refused(GET "content-length|1073741825\n", KA_FAULT_BODY_TOO_LARGE, GOES_ON, "over max_body_bytes");
    bad(GET "content-length|1073741825\nx|\x01\n", F(BAD_FIELD_VALUE), GOES_ON, "malformed wins");
}

/* RFC 9113 8.2.3 */
static void test_cookies(void)
{
    good(GET "cookie|a=1\n", GOT "cookie|a=1\n", ENDS, 0, "one");
    good(GET "cookie|a=1\ncookie|b=2\ncookie|c=3\n", GOT "cookie|a=1; b=2; c=3\n", ENDS, 0, "three");
    good(GET "x|1\ncookie|a=1\ny|2\ncookie|b=2\nz|3\n", GOT "x|1\ncookie|a=1; b=2\ny|2\nz|3\n", ENDS, 0, "with others");
    good(GET "cookie|\ncookie|\n", GOT "cookie|; \n", ENDS, 0, "empty ones");
    /* As many as there are bytes for, and one more. */
    limits.max_header_bytes = 8 + 10;
    good(GET "cookie|0123\ncookie|4567\n", GOT "cookie|0123; 4567\n", ENDS, 0, "as long as allowed");
    refused(GET "cookie|0123\ncookie|45678\n", KA_FAULT_HEADER_TOO_LARGE, ENDS, "too long together");
    limits = ka_limits_default;
    /* No room to join them in. */
    ka_hpack_section s = section_of(GET "cookie|0123\ncookie|4567\n");
    ka_h2_request request;
    ka_h2_fault fault;
    ka_fault refusal;
    s.size = s.used + 9;
    EXPECT(ka_h2_request_read(&s, 1, 1, 0, &limits, &request, &fault, &refusal) == KA_H2_REFUSED);
    EXPECT(refusal.code == KA_FAULT_HEADER_TOO_LARGE && s.buf[s.size] == '#');
    s = section_of(GET "cookie|0123\ncookie|4567\n");
    s.size = s.used + 10;
    EXPECT(ka_h2_request_read(&s, 1, 1, 0, &limits, &request, &fault, &refusal) == KA_OK);
    EXPECT(s.used == s.size && request.head.nbytes == s.size - 10);
}

static void test_limits(void)
{
    limits.max_headers = 3;
    good(GET "a|1\nb|2\n", GOT "a|1\nb|2\n", ENDS, 0, "three fields with host");
    refused(GET "a|1\nb|2\nc|3\n", KA_FAULT_TOO_MANY_HEADERS, ENDS, "four");
    good(GET "cookie|1\ncookie|2\nb|2\n", GOT "cookie|1; 2\nb|2\n", ENDS, 0, "cookies count as one");
    limits = ka_limits_default;
    limits.max_header_bytes = 10;
    limits.max_target_bytes = 4;
    good(GET "abcd|1234\n", GOT "abcd|1234\n", ENDS, 0, "10 bytes as a line");
    refused(GET "abcd|12345\n", KA_FAULT_HEADER_TOO_LARGE, ENDS, "11 bytes as a line");
    good(":method|GET\n:scheme|http\n:path|/abc\n:authority|a\n", "GET /abc /abc  a http  -1\nhost|a\n", ENDS, 0,
         "a target");
    refused(":method|GET\n:scheme|http\n:path|/abcd\n:authority|a\n", KA_FAULT_TARGET_TOO_LONG, ENDS, "a longer one");
    limits = ka_limits_default;
    refused(":method|get\n:scheme|http\n:path|/\n:authority|a\n", KA_FAULT_UNKNOWN_METHOD, ENDS, "as in HTTP/1.1");
    refused(":method|ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG\n:scheme|http\n:path|/\n:authority|a\n",
            KA_FAULT_METHOD_TOO_LONG, ENDS, "33 letters");
    refused(":method|GET\n:scheme|http\n:path|/%0\n:authority|a\n", KA_FAULT_BAD_ESCAPE, ENDS, "as in HTTP/1.1");
    refused(":method|GET\n:scheme|http\n:path|/%00\n:authority|a\n", KA_FAULT_BAD_ESCAPE, ENDS, "as in HTTP/1.1");
    ka_hpack_section s = section_of(GET);
    ka_h2_request request;
    ka_h2_fault fault;
    ka_fault refusal;
    s.is_too_large = 1;
    EXPECT(ka_h2_request_read(&s, 1, 1, 0, &limits, &request, &fault, &refusal) == KA_H2_REFUSED);
    EXPECT(refusal.code == KA_FAULT_HEAD_TOO_LARGE && refusal.status == 431);
}

static void test_trailers(void)
{
    static const struct {
        const char *lines, *why;
        int rc;
        unsigned code;
    } rows[] = {
        {"x-checksum|1\ny|2\n", "8.1", KA_OK, 0},
        {"", "none", KA_OK, 0},
        {":path|/\n", "8.1: a pseudo-header field", KA_EPEER, F(PSEUDO_TRAILER)},
        {"x|1\n:method|GET\n", "8.1: behind another", KA_EPEER, F(PSEUDO_TRAILER)},
        {"X|1\n", "8.2: a capital", KA_EPEER, F(BAD_FIELD_NAME)},
        {"x|1 \n", "8.2.1: a space", KA_EPEER, F(BAD_FIELD_VALUE)},
        {"upgrade|x\n", "8.2.2", KA_EPEER, F(CONNECTION_FIELD)},
        {"host|a\n", "9110 6.5.1", KA_H2_REFUSED, KA_FAULT_FORBIDDEN_TRAILER},
        {"host|a\nX|1\n", "malformed wins", KA_EPEER, F(BAD_FIELD_NAME)},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ka_hpack_section s = section_of(rows[i].lines);
        ka_h2_fault fault = {0};
        ka_fault refusal = {0};
        int rc = ka_h2_trailers_read(&s, 7, &limits, &fault, &refusal);
        CHECK(rc == rows[i].rc, "%s: %d", rows[i].why, rc);
        CHECK((rc == KA_EPEER ? fault.code : refusal.code) == rows[i].code, "%s", rows[i].why);
    }
    ka_hpack_section s = section_of("abc|d\n");
    ka_h2_fault fault;
    ka_fault refusal;
    limits.max_trailer_bytes = 4;
    EXPECT(ka_h2_trailers_read(&s, 7, &limits, &fault, &refusal) == KA_OK);
    limits.max_trailer_bytes = 3;
    EXPECT(ka_h2_trailers_read(&s, 7, &limits, &fault, &refusal) == KA_H2_REFUSED);
    EXPECT(refusal.code == KA_FAULT_TRAILERS_TOO_LARGE);
    limits = ka_limits_default;
}

/* All the way: encoded, put into frames, read and decoded as it comes, and a head. */
static void test_from_frames_to_a_head(void)
{
    static char out[2048], buf[ROOM], told[ROOM];
    static const char *const said[][2] = {{":method", "GET"},  {":scheme", "https"}, {":path", "/a?b"},
                                          {":authority", "a"}, {"cookie", "c=1"},    {"cookie", "d=2"}};
    ka_hpack_encoder e;
    ka_hpack_decoder d;
    ka_hpack_init();
    ka_hpack_encoder_init(&e, 4096);
    ka_hpack_decoder_init(&d);
    for (int round = 0; round < 3; round++) {
        char *at = out + KA_H2_FRAME_HEAD, *end;
        ka_hpack_encode_begin(&e, &at);
        for (size_t i = 0; i < sizeof said / sizeof *said; i++)
            ka_hpack_encode_field(&e, &at, said[i][0], (uint32_t)strlen(said[i][0]), said[i][1],
                                  (uint32_t)strlen(said[i][1]), 0);
        end = ka_h2_put_fields(out, (size_t)(at - out) - KA_H2_FRAME_HEAD, 7, 1, KA_H2_END_STREAM);
        ka_h2_reader r = {.max_frame = KA_H2_MIN_MAX_FRAME, .has_settings = 1};
        ka_hpack_section s = {
            .buf = buf, .fields = fields, .size = ROOM, .max_fields = MAX_FIELDS, .max_list = ROOM / 2};
        uint8_t block[2048];
        size_t n = 0, read = 0;
        for (at = out; at < end;) {
            ka_h2_frame f;
            ka_h2_fault fault;
            size_t consumed, needs;
            EXPECT(ka_h2_frame_read(&r, (const uint8_t *)at, (size_t)(end - at), &f, &fault) == KA_OK);
            memcpy(block + n, at + f.n_head, f.content);
            n += f.content;
            at += f.n_head + f.content;
            int rc = ka_hpack_decode(&d, &s, block + read, n - read, r.continues == 0, &consumed, &needs);
            EXPECT(rc == (r.continues ? rc == KA_PARTIAL ? KA_PARTIAL : KA_OK : KA_OK));
            read += consumed;
        }
        ka_h2_request request;
        ka_h2_fault fault;
        ka_fault refusal;
        EXPECT(ka_h2_request_read(&s, 1, 1, 0, &limits, &request, &fault, &refusal) == KA_OK);
        tell(told, &s, &request);
        CHECK(!strcmp(told, "GET /a?b /a b a https  -1\nhost|a\ncookie|c=1; d=2\n"), "%s", told);
    }
    ka_hpack_encoder_free(&e);
    ka_hpack_decoder_free(&d);
}

int main(void)
{
    limits = ka_limits_default;
    test_pseudo_fields();
    test_connect();
    test_fields();
    test_content_length();
    test_cookies();
    test_limits();
    test_trailers();
    test_from_frames_to_a_head();
    return CHECKS_DONE;
}
