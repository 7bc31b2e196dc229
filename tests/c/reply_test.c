/* Response heads and the framing of content: what an application says cannot come out as anything else.
 * link: http */
#include "check.h"
#include "http/ka_reply.h"

static const ka_verdict kept = {.keeps = 1};
static const ka_reply_common silent;

/* The head of a response, NUL at its end; "" when a field was refused. `fields`: "name: value\n"*. */
static const char *head_of(ka_reply *reply, unsigned status, const char *fields, int64_t whole,
                           const ka_verdict *verdict, const ka_reply_common *common)
{
    static char buf[4096];
    char *at = buf;
    if (ka_reply_start(reply, &at, status) < 0)
        return "";
    for (; *fields; fields += strcspn(fields, "\n") + 1) {
        size_t name = strcspn(fields, ":"), line = strcspn(fields, "\n");
        if (ka_reply_field(reply, &at, fields, name, fields + name + 2, line - name - 2) < 0)
            return "";
    }
    if (ka_reply_choose_frame(reply, whole) < 0)
        return "";
    ka_reply_finish_head(reply, &at, verdict, common);
    *at = 0;
    return buf;
}

static ka_reply asked(unsigned minor) { return (ka_reply){.minor = (uint8_t)minor}; }

static int says(const char *head, const char *expected)
{
    if (strcmp(head, expected) == 0)
        return 1;
    fprintf(stderr, "got:\n%s\nexpected:\n%s\n", head, expected);
    return 0;
}

static void the_framing_follows_from_what_is_known(void)
{
    ka_reply reply = asked(1);
    EXPECT(says(head_of(&reply, 200, "", 5, &kept, &silent), "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"));
    EXPECT(reply.frame == KA_FRAME_LENGTH);
    reply = asked(1);
    EXPECT(says(head_of(&reply, 404, "", -1, &kept, &silent),
                "HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n"));
    reply = asked(0);
    EXPECT(says(head_of(&reply, 200, "", -1, &kept, &silent), "HTTP/1.1 200 OK\r\n\r\n"));
    EXPECT(reply.frame == KA_FRAME_CLOSE);
    reply = asked(0);
    EXPECT(says(head_of(&reply, 200, "Content-Length: 007\n", -1, &kept, &silent),
                "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n"));
    reply = asked(1);
    EXPECT(says(head_of(&reply, 799, "", 0, &kept, &silent), "HTTP/1.1 799 \r\ncontent-length: 0\r\n\r\n"));
}

static void the_fields_of_framing_and_persistence_are_ours(void)
{
    ka_reply reply = asked(1);
    EXPECT(says(head_of(&reply, 200,
                        "Transfer-Encoding: gzip\nKEEP-ALIVE: max=7\nConnection: upgrade, keep-alive\nx-a: b\n", 1,
                        &kept, &silent),
                "HTTP/1.1 200 OK\r\nx-a: b\r\ncontent-length: 1\r\n\r\n"));
    EXPECT(!reply.wants_close);
    reply = asked(1);
    (void)head_of(&reply, 200, "connection: x,\tClose ,y\n", 1, &kept, &silent);
    EXPECT(reply.wants_close);
    reply = asked(1);
    (void)head_of(&reply, 200, "connection: not-close, closed\n", 1, &kept, &silent);
    EXPECT(!reply.wants_close);
}

static void a_content_length_that_cannot_be_true_is_refused(void)
{
    static const char *const wrong[] = {"Content-Length: \n",
                                        "Content-Length: -1\n",
                                        "Content-Length: +1\n",
                                        "Content-Length: 1 1\n",
                                        "Content-Length: 0x1\n",
                                        "Content-Length: 9223372036854775808\n",
                                        "Content-Length: 99999999999999999999\n",
                                        "Content-Length: 4\nContent-Length: 5\n",
                                        "Content-Length: 4, 4\n"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ka_reply reply = asked(1);
        EXPECT(says(head_of(&reply, 200, wrong[i], -1, &kept, &silent), ""));
        EXPECT(reply.why != NULL);
    }
    ka_reply reply = asked(1);
    EXPECT(says(head_of(&reply, 200, "Content-Length: 4\n", 5, &kept, &silent), ""));
}

static void nothing_can_be_injected(void)
{
    static const char bad[] = {'\r', '\n', '\0'};
    char room[256], value[40];
    for (size_t i = 0; i < sizeof bad; i++) {
        for (size_t at = 0; at < sizeof value; at++) { /* wherever it stands, in a word of copying or behind one */
            ka_reply reply = asked(1);
            char *to = room;
            memset(value, 'v', sizeof value);
            value[at] = bad[i];
            EXPECT(ka_reply_start(&reply, &to, 200) == KA_OK);
            char *before = to;
            EXPECT(ka_reply_field(&reply, &to, "x", 1, at_the_edge(value, sizeof value), sizeof value) == KA_EINVAL);
            EXPECT(to == before && reply.why != NULL);
        }
    }
    for (int c = 0; c < 256; c++) {
        ka_reply reply = asked(1);
        char *to = room, name[2] = {'x', (char)c};
        int is_token = strchr("!#$%&'*+-.^_`|~", c) != NULL || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
                       (c >= 'a' && c <= 'z');
        EXPECT((ka_reply_field(&reply, &to, name, 2, "v", 1) == KA_OK) == (c != 0 && is_token));
    }
    ka_reply reply = asked(1);
    char *to = room;
    EXPECT(ka_reply_field(&reply, &to, "", 0, "v", 1) == KA_EINVAL);
    EXPECT(ka_reply_start(&reply, &to, 99) == KA_EINVAL && ka_reply_start(&reply, &to, 1000) == KA_EINVAL);
}

static void an_empty_value_and_an_obsolete_byte_go_out_as_they_are(void)
{
    ka_reply reply = asked(1);
    char room[64], *to = room;
    EXPECT(ka_reply_field(&reply, &to, "a", 1, "", 0) == KA_OK && to - room == 5 && memcmp(room, "a: \r\n", 5) == 0);
    to = room;
    EXPECT(ka_reply_field(&reply, &to, "a", 1, "\xe9\t", 2) == KA_OK && memcmp(room, "a: \xe9\t\r\n", 7) == 0);
}

static void responses_without_content_have_none(void)
{
    char before[KA_CHUNK_FRAME], after[KA_CHUNK_FRAME];
    size_t n_before, n_after;
    int sends;
    ka_reply reply = asked(1);
    EXPECT(says(head_of(&reply, 204, "Content-Length: 5\n", 5, &kept, &silent), "HTTP/1.1 204 No Content\r\n\r\n"));
    EXPECT(reply.frame == KA_FRAME_NONE);
    reply = asked(1);
    EXPECT(says(head_of(&reply, 304, "Content-Length: 5\n", 0, &kept, &silent),
                "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"));
    reply = (ka_reply){.minor = 1, .is_head = 1};
    EXPECT(says(head_of(&reply, 200, "", 12, &kept, &silent), "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n"));
    reply = (ka_reply){.minor = 1, .is_head = 1};
    EXPECT(says(head_of(&reply, 200, "", -1, &kept, &silent), "HTTP/1.1 200 OK\r\n\r\n"));
    reply = (ka_reply){.minor = 1, .is_connect = 1};
    EXPECT(says(head_of(&reply, 200, "Content-Length: 5\n", 5, &kept, &silent), "HTTP/1.1 200 OK\r\n\r\n"));
    reply = (ka_reply){.minor = 1, .is_connect = 1};
    EXPECT(says(head_of(&reply, 403, "", 5, &kept, &silent), "HTTP/1.1 403 Forbidden\r\ncontent-length: 5\r\n\r\n"));
    reply = (ka_reply){.minor = 1, .is_head = 1};
    (void)head_of(&reply, 200, "Content-Length: 3\n", -1, &kept, &silent);
    EXPECT(ka_reply_piece(&reply, 100, 1, before, &n_before, after, &n_after, &sends) == KA_OK && !sends);
    EXPECT(ka_reply_piece(&reply, 0, 0, before, &n_before, after, &n_after, &sends) == KA_OK && !sends);
    EXPECT(n_before == 0 && n_after == 0);
}

static void the_verdict_is_said_in_its_fields(void)
{
    static const struct {
        ka_verdict verdict;
        const char *fields;
    } cases[] = {
        {{.sends_close = 1}, "connection: close\r\n"},
        {{.keeps = 1}, ""},
        {{.keeps = 1, .sends_keep_alive = 1}, "connection: keep-alive\r\n"},
        {{.keeps = 1, .sends_keep_alive = 1, .timeout_s = 74}, "connection: keep-alive\r\nkeep-alive: timeout=74\r\n"},
        {{.keeps = 1, .sends_keep_alive = 1, .max = 4}, "connection: keep-alive\r\nkeep-alive: max=4\r\n"},
        {{.keeps = 1, .sends_keep_alive = 1, .timeout_s = UINT32_MAX, .max = UINT32_MAX},
         "connection: keep-alive\r\nkeep-alive: timeout=4294967295, max=4294967295\r\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char expected[256];
        ka_reply reply = asked(1);
        snprintf(expected, sizeof expected, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n%s\r\n", cases[i].fields);
        EXPECT(says(head_of(&reply, 200, "", 0, &cases[i].verdict, &silent), expected));
    }
}

static void the_fixed_room_is_enough_for_the_longest_of_everything(void)
{
    ka_reply_common common = {0};
    char longest[118] = {0};
    ka_verdict verdict = {.keeps = 1, .sends_keep_alive = 1, .timeout_s = UINT32_MAX, .max = UINT32_MAX};
    memset(longest, 's', sizeof longest - 1);
    ka_reply_common_set_date(&common, 0);
    EXPECT(ka_reply_common_set_server(&common, longest, sizeof longest - 1) == KA_OK);
    for (unsigned status = 100; status < 1000; status++) {
        ka_reply reply = asked(1);
        EXPECT(strlen(head_of(&reply, status, "", INT64_MAX, &verdict, &common)) <= KA_REPLY_FIXED);
    }
}

static void date_and_server_are_there_once(void)
{
    ka_reply_common common = {0};
    ka_reply reply = asked(1);
    ka_reply_common_set_date(&common, 784111777);
    EXPECT(ka_reply_common_set_server(&common, "kacore", 6) == KA_OK);
    EXPECT(
        says(head_of(&reply, 200, "", 0, &kept, &common),
             "HTTP/1.1 200 OK\r\ncontent-length: 0\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\nserver: kacore\r\n\r\n"));
    reply = asked(1);
    EXPECT(says(head_of(&reply, 200, "Date: x\nSERVER: y\n", 0, &kept, &common),
                "HTTP/1.1 200 OK\r\nDate: x\r\nSERVER: y\r\ncontent-length: 0\r\n\r\n"));
    EXPECT(ka_reply_common_set_server(&common, "a\r\nb", 4) == KA_EINVAL && common.server_len == 0);
    EXPECT(ka_reply_common_set_server(&common, "", 0) == KA_OK && common.server_len == 0);
}

static void dates_agree_with_the_calendar(void)
{
    static const struct {
        int64_t seconds;
        const char *text;
    } dates[] = {
        {-5, "date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"},
        {951782399, "date: Mon, 28 Feb 2000 23:59:59 GMT\r\n"},
        {951782400, "date: Tue, 29 Feb 2000 00:00:00 GMT\r\n"},
        {951868800, "date: Wed, 01 Mar 2000 00:00:00 GMT\r\n"},
        {1735689599, "date: Tue, 31 Dec 2024 23:59:59 GMT\r\n"},
        {4107542400, "date: Mon, 01 Mar 2100 00:00:00 GMT\r\n"},
        {253402300799, "date: Fri, 31 Dec 9999 23:59:59 GMT\r\n"},
    };
    for (size_t i = 0; i < sizeof dates / sizeof *dates; i++) {
        ka_reply_common common = {0};
        ka_reply_common_set_date(&common, dates[i].seconds);
        CHECK(common.date_len == strlen(dates[i].text) && memcmp(common.date, dates[i].text, common.date_len) == 0,
              "%.*s", common.date_len, common.date);
    }
}

static void chunks_carry_their_size_and_end_once(void)
{
    char before[KA_CHUNK_FRAME], after[KA_CHUNK_FRAME];
    size_t n_before, n_after;
    int sends;
    static const struct {
        size_t len;
        const char *line;
    } sizes[] = {
        {1, "1\r\n"}, {15, "f\r\n"}, {16, "10\r\n"}, {0xabcdef, "abcdef\r\n"}, {SIZE_MAX >> 1, "7fffffffffffffff\r\n"}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        ka_reply reply = asked(1);
        (void)head_of(&reply, 200, "", -1, &kept, &silent);
        EXPECT(ka_reply_piece(&reply, sizes[i].len, 1, before, &n_before, after, &n_after, &sends) == KA_OK && sends);
        EXPECT(n_before == strlen(sizes[i].line) && memcmp(before, sizes[i].line, n_before) == 0);
        EXPECT(n_after == 2 && memcmp(after, "\r\n", 2) == 0);
    }
    ka_reply reply = asked(1);
    (void)head_of(&reply, 200, "", -1, &kept, &silent);
    EXPECT(ka_reply_piece(&reply, 0, 1, before, &n_before, after, &n_after, &sends) == KA_OK);
    EXPECT(n_before == 0 && n_after == 0 && !sends); /* an empty piece in the middle is not the end */
    EXPECT(ka_reply_piece(&reply, 3, 0, before, &n_before, after, &n_after, &sends) == KA_OK);
    EXPECT(n_before == 3 && n_after == 7 && memcmp(after, "\r\n0\r\n\r\n", 7) == 0 && reply.is_over);
    EXPECT(ka_reply_piece(&reply, 1, 0, before, &n_before, after, &n_after, &sends) == KA_EINVAL);
}

static void the_promised_length_is_kept_to_the_byte(void)
{
    char before[KA_CHUNK_FRAME], after[KA_CHUNK_FRAME];
    size_t n_before, n_after;
    int sends;
    ka_reply reply = asked(1);
    (void)head_of(&reply, 200, "Content-Length: 4\n", -1, &kept, &silent);
    EXPECT(ka_reply_piece(&reply, 4, 1, before, &n_before, after, &n_after, &sends) == KA_OK &&
           n_before + n_after == 0);
    EXPECT(ka_reply_piece(&reply, 1, 1, before, &n_before, after, &n_after, &sends) == KA_EINVAL && reply.why != NULL);
    reply = asked(1);
    (void)head_of(&reply, 200, "Content-Length: 4\n", -1, &kept, &silent);
    EXPECT(ka_reply_piece(&reply, 3, 0, before, &n_before, after, &n_after, &sends) == KA_EINVAL && reply.why != NULL);
}

static void a_reason_that_is_refused_leaves_the_line_whole(void)
{
    static const struct {
        const char *text;
        size_t len;
    } bad[] = {{"No\r\nx: y", 8}, {"a longer reason than the usual one\n", 35}, {"N\0", 2}};
    for (int i = 0; i < 3; i++) {
        char buf[100] = "";
        char *at = buf;
        ka_reply reply = asked(1);
        EXPECT(ka_reply_start(&reply, &at, 404) == KA_OK);
        char *end = at;
        EXPECT(ka_reply_reword(&reply, &at, bad[i].text, bad[i].len) == KA_EINVAL && reply.why != NULL);
        EXPECT(at == end && strcmp(buf, "HTTP/1.1 404 Not Found\r\n") == 0);
        EXPECT(ka_reply_reword(&reply, &at, "Gone fishing", 12) == KA_OK);
        EXPECT((size_t)(at - buf) == 27 && memcmp(buf, "HTTP/1.1 404 Gone fishing\r\n", 27) == 0);
    }
}

int main(void)
{
    a_reason_that_is_refused_leaves_the_line_whole();
    the_framing_follows_from_what_is_known();
    the_fields_of_framing_and_persistence_are_ours();
    a_content_length_that_cannot_be_true_is_refused();
    nothing_can_be_injected();
    an_empty_value_and_an_obsolete_byte_go_out_as_they_are();
    responses_without_content_have_none();
    the_verdict_is_said_in_its_fields();
    the_fixed_room_is_enough_for_the_longest_of_everything();
    date_and_server_are_there_once();
    dates_agree_with_the_calendar();
    chunks_carry_their_size_and_end_once();
    the_promised_length_is_kept_to_the_byte();
    return CHECKS_DONE;
}
