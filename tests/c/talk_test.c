/* One conversation, driven by hand: what comes in as which request, what goes out in which order, when it is over.
 * link: http h2 table talk */
#include "talk/ka_turn.h"
#include "talk_driver.h"

#define GET "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

static void never(wire *w)
{
    (void)w;
    CHECK(0, "nobody asked for content");
}

static void never_asked(wire *w, const ka_head *head)
{
    (void)w;
    (void)head;
    CHECK(0, "nothing was asked");
}

static void keeps_it(wire *w, const ka_head *head)
{
    (void)w;
    (void)head;
}

static void set_policy(wire *w, void (*change)(ka_policy *))
{
    ka_policy policy = *ka_conn_policy(w->table, w->conn);
    change(&policy);
    EXPECT(ka_table_set_policy(w->table, 0, &policy) == KA_OK);
}

static void allows_five(ka_policy *policy) { policy->max_requests = 5; }
static void allows_ten_bytes(ka_policy *policy) { policy->max_body_bytes = 10; }

/* --- requests and their order --- */

static void an_idle_connection_has_no_talk_and_no_buffer(void)
{
    wire *w = wire_open(wire_says_ok, never);
    for (int i = 0; i < 3; i++) {
        wire_text(w, GET);
        EXPECT(w->talk == NULL && w->service.pool.lent_bytes == 0 && wire_phase(w) == KA_IDLE);
    }
    EXPECT(w->n_requests == 3 && wire_count(w, "200 OK") == 3 && w->end == 0);
    EXPECT(ka_conn_requests(w->table, w->conn) == 3);
    wire_close(w);
}

static void every_split_gives_the_same_conversation(void)
{
    static const char two[] = "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                              "5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nx-t: 1\r\n\r\n"
                              "\r\nPOST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nfour" GET;
    for (size_t piece = 1; piece < sizeof two; piece++) {
        wire *w = wire_open(wire_echo, wire_echo_more);
        w->piece = piece;
        wire_text(w, two);
        EXPECT(w->n_requests == 3 && wire_count(w, "200 OK") == 3 && w->end == 0);
        EXPECT(wire_count(w, "\r\n\r\nhello!HTTP") == 1 && wire_count(w, "\r\n\r\nfourHTTP") == 1);
        EXPECT(w->talk == NULL && wire_phase(w) == KA_IDLE);
        wire_close(w);
    }
}

/* The driver's turn ends between any two bytes, not only its reads. */
static void every_pause_gives_the_same_conversation(void)
{
    static const char one[] = "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                              "5\r\nhello\r\n1\r\n!\r\n0\r\nx-t: 1\r\n\r\n" GET;
    for (size_t at = 1; at < sizeof one - 1; at++) {
        wire *w = wire_open(wire_echo, wire_echo_more);
        wire_bytes(w, one, at);
        wire_bytes(w, one + at, sizeof one - 1 - at);
        EXPECT(w->n_requests == 2 && wire_count(w, "\r\n\r\nhello!HTTP") == 1 && w->talk == NULL);
        wire_close(w);
    }
    wire *w = wire_open(wire_echo, wire_echo_more);
    for (size_t at = 0; at < sizeof one - 1; at++)
        wire_bytes(w, one + at, 1);
    EXPECT(w->n_requests == 2 && wire_count(w, "\r\n\r\nhello!HTTP") == 1 && w->talk == NULL);
    wire_close(w);
}

static void framing_that_waits_for_its_end_is_not_content(void)
{
    wire *w = wire_open(wire_echo, wire_echo_more);
    wire_text(w, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx-trailer: ");
    EXPECT(wire_phase(w) == KA_BODY && ka_exchange_readable(&w->talk->exchange) == 0);
    EXPECT(w->n_body <= 1);
    wire_text(w, "1\r\n\r");
    EXPECT(wire_phase(w) == KA_BODY);
    wire_text(w, "\n");
    EXPECT(wire_count(w, "200 OK") == 1 && w->talk == NULL);
    wire_close(w);
}

static void pipelined_requests_count_as_requests(void)
{
    wire *w = wire_open(wire_says_ok, never);
    set_policy(w, allows_five);
    wire_text(w, GET GET GET GET GET GET GET);
    EXPECT(w->n_requests == 5 && wire_count(w, "200 OK") == 5 && w->counters.requests == 5);
    for (char max = '1'; max <= '4'; max++) {
        char text[] = "max=0\r\n";
        text[4] = max;
        EXPECT(wire_count(w, text) == 1);
    }
    EXPECT(wire_count(w, "connection: close") == 1 && wire_count(w, "keep-alive: ") == 4);
    EXPECT(w->end == KA_TALK_LINGER); /* bytes behind the last request are unread */
    wire_close(w);
}

static void a_thousand_pipelined_requests_are_answered_in_order(void)
{
    static char many[1000 * (sizeof GET - 1)];
    for (size_t i = 0; i < 1000; i++)
        memcpy(many + i * (sizeof GET - 1), GET, sizeof GET - 1);
    wire *w = wire_open(wire_says_ok, never);
    wire_bytes(w, many, sizeof many);
    EXPECT(w->n_requests == 1000 && wire_count(w, "200 OK") == 1000);
    EXPECT(ka_conn_requests(w->table, w->conn) == 1000 && w->talk == NULL);
    wire_close(w);
}

static void a_slow_request_is_not_overtaken(void)
{
    wire *w = wire_open(keeps_it, never);
    wire_text(w, GET GET);
    EXPECT(w->n_requests == 1 && w->n_sent == 0 && wire_phase(w) == KA_BUSY);
    w->now += 1000 * S;
    EXPECT(wire_answer(w, 200, "", "first", 5) == KA_OK && w->talk->is_noted);
    wire_turn(w);
    EXPECT(w->n_requests == 2 && wire_count(w, "first") == 1);
    EXPECT(wire_answer(w, 200, "", "second", 6) == KA_OK);
    wire_turn(w);
    EXPECT(wire_count(w, "second") == 1 && w->talk == NULL);
    wire_close(w);
}

static void stray_empty_lines_leave_idle_alone(void)
{
    wire *w = wire_open(wire_says_ok, never);
    wire_text(w, "\r");
    EXPECT(wire_phase(w) == KA_NEW);
    wire_text(w, "\n");
    EXPECT(wire_phase(w) == KA_NEW);
    wire_text(w, GET);
    EXPECT(w->n_requests == 1 && wire_phase(w) == KA_IDLE);
    wire_text(w, "\r\n");
    EXPECT(wire_phase(w) == KA_IDLE);
    wire_text(w, "G");
    EXPECT(wire_phase(w) == KA_HEAD);
    wire_text(w, &(GET)[1]);
    EXPECT(w->n_requests == 2 && w->talk == NULL);
    wire_close(w);
}

/* --- what ends it --- */

static void bytes_behind_a_close_are_ignored(void)
{
    wire *w = wire_open(wire_says_ok, never);
    wire_text(w, GET "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" GET "garbage");
    EXPECT(w->n_requests == 2 && wire_count(w, "200 OK") == 2 && wire_count(w, "connection: close") == 1);
    EXPECT(w->end == KA_TALK_LINGER && w->talk->cause == KA_CAUSE_CLIENT);
    wire_close(w);
}

static void a_close_with_nothing_behind_is_plain(void)
{
    wire *w = wire_open(wire_says_ok, never);
    wire_text(w, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    EXPECT(w->end == KA_TALK_CLOSE && wire_count(w, "connection: close") == 1);
    wire_close(w);
}

static void a_fault_is_answered_after_the_answers_before_it(void)
{
    wire *w = wire_open(wire_says_ok, never);
    wire_text(w, GET "GET  / HTTP/1.1\r\nHost: a\r\n\r\n" GET);
    EXPECT(w->n_requests == 1 && wire_count(w, "200 OK") == 1 && wire_count(w, "400 Bad Request") == 1);
    EXPECT(w->end == KA_TALK_LINGER && w->talk->cause == KA_CAUSE_BAD_REQUEST);
    wire_close(w);
}

static void a_half_closed_client_gets_all_its_answers_and_the_last_says_close(void)
{
    wire *w = wire_open(wire_says_ok, never);
    w->has_fin = 1;
    wire_text(w, GET GET);
    EXPECT(wire_count(w, "200 OK") == 2 && w->end == KA_TALK_CLOSE);
    wire_close(w);
    w = wire_open(keeps_it, never);
    wire_text(w, GET);
    ka_talk_eof(w->talk);
    EXPECT(wire_answer(w, 200, "", "ok", 2) == KA_OK);
    wire_turn(w);
    EXPECT(wire_count(w, "200 OK") == 1 && wire_count(w, "connection: close") == 1 && w->end == KA_TALK_CLOSE);
    wire_close(w);
}

static void a_fin_inside_a_head_ends_without_an_answer(void)
{
    wire *w = wire_open(wire_says_ok, never);
    w->has_fin = 1;
    wire_text(w, "GET / HT");
    EXPECT(w->n_sent == 0 && w->end == KA_TALK_CLOSE);
    wire_close(w);
}

static void a_fin_inside_a_body_is_told_to_whoever_reads(void)
{
    wire *w = wire_open(wire_echo, wire_echo_more);
    w->has_fin = 1;
    wire_text(w, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nfour");
    EXPECT(w->is_over == KA_ESTALE && ka_exchange_is_open(&w->talk->exchange));
    EXPECT(ka_exchange_refuse(&w->talk->exchange, 400, "broke off", KA_CAUSE_CLIENT, w->now) == KA_OK);
    wire_turn(w);
    EXPECT(wire_count(w, "400 Bad Request") == 1 && w->end);
    wire_close(w);
    w = wire_open(wire_echo, wire_echo_more);
    w->has_fin = 1;
    wire_text(w, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx-");
    EXPECT(w->is_over == KA_ESTALE);
    wire_close(w);
}

/* --- bodies --- */

static void a_fault_in_a_body_is_answered_and_the_application_loses_it(void)
{
    wire *w = wire_open(wire_echo, wire_echo_more);
    wire_text(w, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX" GET);
    EXPECT(w->n_requests == 1 && wire_count(w, "400 Bad Request") == 1 && w->n_lost == 1);
    EXPECT(w->end == KA_TALK_LINGER && wire_count(w, "connection: close") == 1);
    wire_close(w);
}

static void a_fault_stays_a_fault_however_often_one_reads(void)
{
    wire *w = wire_open(keeps_it, never);
    char to[64];
    wire_text(w, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;;\r\n");
    EXPECT(ka_exchange_read(&w->talk->exchange, to, sizeof to, w->now) == 5);
    EXPECT(ka_exchange_read(&w->talk->exchange, to, sizeof to, w->now) == KA_EPEER);
    EXPECT(ka_exchange_read(&w->talk->exchange, to, sizeof to, w->now) == KA_EPEER);
    wire_turn(w);
    EXPECT(w->n_lost == 1 && wire_count(w, "400 Bad Request") == 1 && wire_count(w, "HTTP/1.1") == 1);
    wire_close(w);
}

static void a_fault_after_the_response_began_cuts_it_off(void)
{
    wire *w = wire_open(keeps_it, never);
    char *at, to[64];
    wire_text(w, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
    EXPECT(ka_exchange_head_begin(&w->talk->exchange, 200, 0, &at) == KA_OK &&
           ka_exchange_head_end(&w->talk->exchange, at, -1, w->now) == KA_OK);
    EXPECT(ka_exchange_content(&w->talk->exchange, "some", 4, 1, NULL) == KA_OK);
    EXPECT(ka_exchange_read(&w->talk->exchange, to, sizeof to, w->now) == KA_EPEER);
    wire_turn(w);
    EXPECT(w->end == KA_TALK_LINGER && w->n_lost == 1 && wire_count(w, "400") == 0 && wire_count(w, "0\r\n\r\n") == 0);
    wire_close(w);
}

static void a_small_unread_body_is_drained_and_the_connection_kept(void)
{
    wire *w = wire_open(wire_says_ok, never);
    static char big[1024];
    wire_text(w, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1024\r\n\r\n");
    EXPECT(wire_count(w, "200 OK") == 1 && wire_count(w, "close") == 0 && wire_phase(w) == KA_BODY);
    wire_bytes(w, big, 1000);
    wire_bytes(w, big, 24);
    EXPECT(wire_phase(w) == KA_IDLE && w->talk == NULL);
    wire_text(w, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" GET);
    EXPECT(wire_count(w, "200 OK") == 3 && w->talk == NULL);
    wire_close(w);
}

static void a_large_unread_body_says_close_and_lingers(void)
{
    wire *w = wire_open(wire_says_ok, never);
    wire_text(w, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\nsome");
    EXPECT(wire_count(w, "connection: close") == 1 && w->end == KA_TALK_LINGER);
    wire_close(w);
    w = wire_open(wire_says_ok, never);
    wire_text(w, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel");
    EXPECT(wire_count(w, "connection: close") == 1 && w->end == KA_TALK_LINGER);
    wire_close(w);
}

static void no_second_answer_goes_out_while_a_body_is_drained(void)
{
    wire *w = wire_open(wire_says_ok, never);
    wire_text(w, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n");
    EXPECT(wire_phase(w) == KA_BODY);
    EXPECT(ka_exchange_refuse(&w->talk->exchange, 408, "too late", KA_CAUSE_BODY_TIMEOUT, w->now) == KA_EINVAL);
    EXPECT(wire_count(w, "HTTP/1.1") == 1);
    wire_close(w);
}

static void a_body_over_the_limit_is_refused_before_the_application(void)
{
    wire *w = wire_open(wire_says_ok, never);
    set_policy(w, allows_ten_bytes);
    wire_text(w, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n");
    EXPECT(w->n_requests == 0 && wire_count(w, "413 Content Too Large") == 1 && wire_count(w, "100 Continue") == 0);
    EXPECT(w->end == KA_TALK_LINGER);
    wire_close(w);
}

/* --- Expect: 100-continue --- */

#define EXPECTS "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"

static void continue_is_said_when_the_application_reads(void)
{
    wire *w = wire_open(wire_echo, wire_echo_more);
    wire_text(w, EXPECTS);
    EXPECT(wire_count(w, "HTTP/1.1 100 Continue\r\n\r\n") == 1 && wire_phase(w) == KA_BODY);
    wire_text(w, "four");
    EXPECT(wire_count(w, "200 OK") == 1 && wire_count(w, "close") == 0 && w->talk == NULL);
    wire_text(w, EXPECTS "four");
    EXPECT(wire_count(w, "100 Continue") == 1); /* needless: the content is there */
    wire_close(w);
}

static void continue_that_was_never_said_closes(void)
{
    wire *w = wire_open(wire_says_ok, never);
    wire_text(w, EXPECTS);
    EXPECT(wire_count(w, "100") == 0 && wire_count(w, "connection: close") == 1 && w->end == KA_TALK_LINGER);
    wire_close(w);
}

static void continue_is_not_said_inside_a_response(void)
{
    wire *w = wire_open(keeps_it, wire_echo_more);
    char *at, to[64];
    wire_text(w, EXPECTS);
    EXPECT(ka_exchange_head_begin(&w->talk->exchange, 200, 0, &at) == KA_OK &&
           ka_exchange_head_end(&w->talk->exchange, at, -1, w->now) == KA_OK);
    EXPECT(ka_exchange_content(&w->talk->exchange, "a", 1, 1, NULL) == KA_OK);
    EXPECT(ka_exchange_read(&w->talk->exchange, to, sizeof to, w->now) ==
           KA_PARTIAL); /* a client may send it all the same */
    wire_turn(w);
    EXPECT(wire_count(w, "100 Continue") == 0 && wire_phase(w) == KA_BODY);
    wire_close(w);
}

/* --- responses --- */

static void replies_without_content(wire *w, const ka_head *head)
{
    unsigned status = w->n_requests == 1 ? 204 : w->n_requests == 2 ? 304 : 200;
    (void)head;
    EXPECT(wire_answer(w, status, "", "never seen", 10) == KA_OK);
}

static void nothing_follows_a_head_without_content(void)
{
    wire *w = wire_open(replies_without_content, never);
    wire_text(w, GET GET "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    EXPECT(wire_count(w, "never seen") == 0 && wire_count(w, "content-length: 10\r\n") >= 1 && w->talk == NULL);
    EXPECT(wire_count(w, "\r\n\r\nHTTP/1.1") == 2);
    wire_close(w);
}

static void tunnels(wire *w, const ka_head *head)
{
    (void)head;
    EXPECT(wire_answer(w, 200, "", "", 0) == KA_OK);
}

static void an_accepted_connect_is_the_end_of_http(void)
{
    wire *w = wire_open(tunnels, never);
    wire_text(w, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n" GET);
    EXPECT(w->n_requests == 1 && wire_count(w, "connection: close") == 1 && w->end);
    wire_close(w);
}

static void says_no(wire *w, const ka_head *head)
{
    (void)head;
    EXPECT(wire_answer(w, 403, "", "no", 2) == KA_OK);
}

#define ASKS(offers) "GET / HTTP/1.1\r\nHost: a\r\nConnection: x, upgrade\r\n" offers "\r\n"

static void what_a_client_sent_ahead_of_a_yes_is_not_read_as_a_request(void)
{
    static const char *const asked[] = {
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        ASKS("Upgrade: websocket\r\n"),
        ASKS("Upgrade: h2c, connect-udp\r\n"),
        ASKS("Upgrade: h2c\r\nUpgrade: x\r\n"),
        ASKS("Upgrade: tls/\r\n"),
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 4\r\n\r\nfour",
    };
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        wire *w = wire_open(says_no, never);
        char both[300];
        snprintf(both, sizeof both, "%s%s", asked[i], GET);
        wire_text(w, both);
        EXPECT(w->n_requests == 1 && wire_count(w, "connection: close") == 1 && w->end == KA_TALK_LINGER);
        wire_close(w);
        w = wire_open(says_no, never);
        wire_text(w, asked[i]); /* it may be on its way: a plain close would make a reset of it */
        EXPECT(wire_count(w, "connection: close") == 1 && w->end == KA_TALK_LINGER);
        wire_close(w);
    }
}

static void an_offer_that_begins_with_no_request_keeps_the_connection(void)
{
    static const char *const asked[] = {
        ASKS("HTTP2-Settings: AAMAAABk\r\nUpgrade: h2c\r\n"),
        ASKS("UPGRADE: TLS/1.2,\t tls/1.1 , H2C\r\n"),
        ASKS("Upgrade: h2c,\r\nUpgrade: TLS/1.0\r\n"),
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", /* Connection does not name it */
    };
    wire *w = wire_open(says_no, never);
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        wire_text(w, asked[i]);
        EXPECT(w->talk == NULL && wire_phase(w) == KA_IDLE && wire_count(w, "403 Forbidden") == (int)i + 1);
    }
    wire_close(w);
}

static void an_interim_status_is_no_answer(void)
{
    wire *w = wire_open(keeps_it, never);
    char *at;
    wire_text(w, GET);
    EXPECT(ka_exchange_head_begin(&w->talk->exchange, 100, 0, &at) == KA_EINVAL && w->talk->exchange.reply.why != NULL);
    EXPECT(ka_exchange_head_begin(&w->talk->exchange, 103, 0, &at) == KA_EINVAL);
    EXPECT(ka_exchange_head_begin(&w->talk->exchange, 99, 0, &at) == KA_EINVAL);
    EXPECT(wire_answer(w, 200, "", "ok", 2) == KA_OK);
    wire_turn(w);
    EXPECT(w->talk == NULL && wire_count(w, "HTTP/1.1") == 1);
    wire_close(w);
}

static void promises_ten(wire *w, const char *first, const char *second)
{
    char *at;
    EXPECT(ka_exchange_head_begin(&w->talk->exchange, 200, 64, &at) == KA_OK);
    EXPECT(ka_exchange_field(&w->talk->exchange, &at, "Content-Length", 14, "10", 2) == KA_OK);
    EXPECT(ka_exchange_head_end(&w->talk->exchange, at, -1, w->now) == KA_OK);
    EXPECT(ka_exchange_content(&w->talk->exchange, first, strlen(first), 1, NULL) == KA_OK);
    EXPECT(ka_exchange_content(&w->talk->exchange, second, strlen(second), 0, NULL) == KA_EINVAL);
}

static void a_broken_promise_of_length_closes(void)
{
    static const char *const seconds[] = {"much too much", "short"};
    for (int i = 0; i < 2; i++) {
        wire *w = wire_open(keeps_it, never);
        wire_text(w, GET GET);
        promises_ten(w, "1234", seconds[i]);
        wire_turn(w);
        EXPECT(w->n_requests == 1 && w->end && w->talk->cause == KA_CAUSE_APPLICATION);
        EXPECT(wire_count(w, seconds[i]) == 0);
        wire_close(w);
    }
}

static void an_application_that_gives_up_cuts_its_response_off(void)
{
    wire *w = wire_open(keeps_it, never);
    char *at;
    wire_text(w, GET GET);
    EXPECT(ka_exchange_head_begin(&w->talk->exchange, 200, 0, &at) == KA_OK &&
           ka_exchange_head_end(&w->talk->exchange, at, -1, w->now) == KA_OK);
    EXPECT(ka_exchange_content(&w->talk->exchange, "some", 4, 1, NULL) == KA_OK);
    ka_exchange_done(&w->talk->exchange, KA_CAUSE_APPLICATION);
    wire_turn(w);
    EXPECT(w->n_requests == 1 && w->end && wire_count(w, "0\r\n\r\n") == 0);
    wire_close(w);
}

static void refers_to_its_content(wire *w, const ka_head *head)
{
    static char big[KA_COPY_MAX + 1000];
    char *at;
    (void)head;
    memset(big, 'b', sizeof big);
    EXPECT(ka_exchange_head_begin(&w->talk->exchange, 200, 0, &at) == KA_OK &&
           ka_exchange_head_end(&w->talk->exchange, at, -1, w->now) == KA_OK);
    for (int i = 0; i < 3; i++)
        EXPECT(ka_exchange_content(&w->talk->exchange, big, sizeof big, 1, &w->n_released) == KA_OK);
    EXPECT(ka_exchange_content(&w->talk->exchange, "end", 3, 0, NULL) == KA_OK);
}

static void large_pieces_are_referred_to_and_released_once(void)
{
    wire *w = wire_open(refers_to_its_content, never);
    wire_text(w, GET GET);
    EXPECT(w->n_released == 6 && wire_count(w, "\r\n23e8\r\nbbb") == 6 &&
           wire_count(w, "bbb\r\n3\r\nend\r\n0\r\n\r\n") == 2);
    EXPECT(w->talk == NULL && w->n_sent < 2 * (3 * (KA_COPY_MAX + 1020) + 300));
    wire_close(w);
    w = wire_open(refers_to_its_content, never);
    w->is_blocked = 1;
    wire_text(w, GET);
    EXPECT(w->n_released == 0 && wire_phase(w) == KA_WRITE);
    wire_close(w); /* gives them back unsent */
}

static void a_held_application_is_waiting_for_the_client(void)
{
    static char big[3 * KA_OUT_LOW];
    wire *w = wire_open(keeps_it, never);
    char *at;
    wire_text(w, GET);
    w->is_blocked = 1;
    EXPECT(ka_exchange_head_begin(&w->talk->exchange, 200, 0, &at) == KA_OK &&
           ka_exchange_head_end(&w->talk->exchange, at, -1, w->now) == KA_OK);
    EXPECT(ka_exchange_content(&w->talk->exchange, big, sizeof big, 1, NULL) == KA_OK);
    EXPECT(ka_exchange_content(&w->talk->exchange, big, sizeof big, 1, NULL) == KA_OK);
    w->talk->exchange.hold = KA_HOLD_LOW;
    wire_turn(w);
    EXPECT(wire_phase(w) == KA_WRITE);
    ka_talk_sent(w->talk, sizeof big); /* below the high mark, above the low one */
    wire_turn(w);
    EXPECT(wire_phase(w) == KA_WRITE);
    wire_close(w);
}

static void at_the_cap_of_buffers_only_this_connection_suffers(void)
{
    wire *w = wire_open(keeps_it, never);
    char *at;
    wire_text(w, GET);
    w->service.pool.max_bytes = 0;
    EXPECT(ka_exchange_head_begin(&w->talk->exchange, 200, 0, &at) == KA_ENOMEM);
    EXPECT(ka_exchange_refuse(&w->talk->exchange, 500, "no", KA_CAUSE_APPLICATION, w->now) == KA_ENOMEM);
    ka_exchange_done(&w->talk->exchange, KA_CAUSE_APPLICATION);
    wire_turn(w);
    EXPECT(w->end && w->n_sent == 0);
    wire_close(w);
}

static void http_1_0_is_told_when_it_is_kept(void)
{
    wire *w = wire_open(wire_says_ok, never);
    wire_text(w, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    EXPECT(wire_count(w, "connection: keep-alive") == 1 && w->end == 0);
    wire_text(w, "GET / HTTP/1.0\r\n\r\n");
    EXPECT(wire_count(w, "connection: close") == 1 && w->end == KA_TALK_CLOSE);
    wire_close(w);
}

/* --- what waits for another turn, and who acts between turns --- */

static void requests_in_hand_are_not_idle(void)
{
    wire *w = wire_open(keeps_it, never);
    wire_text(w, GET GET);
    EXPECT(wire_answer(w, 200, "", "ok", 2) == KA_OK);
    wire_send(w); /* as a turn that ends for the sake of others, or is none of the driver's own */
    EXPECT(ka_exchange_is_over(&w->talk->exchange) && ka_talk_settle(w->talk, w->now) == KA_HEAD);
    wire_turn(w);
    EXPECT(w->n_requests == 2 && wire_phase(w) == KA_BUSY);
    EXPECT(wire_answer(w, 200, "", "ok", 2) == KA_OK);
    wire_turn(w);
    EXPECT(w->talk == NULL && wire_phase(w) == KA_IDLE);
    wire_text(w, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n123");
    EXPECT(wire_answer(w, 200, "", "ok", 2) == KA_OK);
    wire_send(w);
    EXPECT(ka_talk_settle(w->talk, w->now) == KA_BODY); /* which is to be thrown away */
    wire_text(w, "4567890");
    EXPECT(w->talk == NULL && wire_phase(w) == KA_IDLE);
    wire_close(w);
}

static void nothing_is_refused_behind_the_last_response(void)
{
    wire *w = wire_open(never_asked, never);
    w->is_blocked = 1;
    wire_text(w, "nonsense\r\n\r\n");
    EXPECT(wire_phase(w) == KA_WRITE && w->talk->persistence == KA_LINGERS);
    size_t unsent = w->talk->unsent;
    EXPECT(ka_exchange_refuse(&w->talk->exchange, 408, "too slow", KA_CAUSE_BODY_RATE, w->now) == KA_EINVAL);
    EXPECT(w->talk->unsent == unsent && w->talk->cause == KA_CAUSE_BAD_REQUEST);
    wire_close(w);
}

static void bytes_that_arrive_are_no_progress_in_sending(void)
{
    wire *w = wire_open(wire_says_ok, never);
    w->is_blocked = 1;
    wire_text(w, GET "GET");
    EXPECT(wire_phase(w) == KA_WRITE);
    int64_t due = ka_table_next_due(w->table);
    w->d.now = w->now += 10 * S;
    EXPECT(ka_turn_arrived(&w->d, w, w->talk, 1) == KA_TURN_ON && ka_table_next_due(w->table) == due);
    EXPECT(ka_turn_left(&w->d, w->talk, 10000) == KA_CAUSE_NONE && ka_table_next_due(w->table) == due + 10 * S);
    wire_close(w);
}

static void reads_when_it_may_go_on(void *ctx, ka_exchange *x, ka_news news)
{
    wire *w = ctx;
    char to[10];
    if (news == KA_NEWS_LOW)
        EXPECT(ka_exchange_read(x, to, sizeof to, w->now) == KA_PARTIAL);
    else
        w->n_body += (int)ka_exchange_read(x, to, sizeof to, w->now);
}
static ptrdiff_t reads_all(ka_driver *d, void *peer, ka_talk *talk)
{
    (void)d;
    return wire_receive(peer) ? (ptrdiff_t)talk->window_len : KA_PARTIAL;
}
static ka_cause sends_all(ka_driver *d, void *peer, ka_talk *talk)
{
    size_t n = talk->unsent;
    (void)peer;
    ka_talk_sent(talk, n);
    return ka_turn_left(d, talk, n);
}
static int sees_no_fin(ka_driver *d, void *peer, ka_talk *talk)
{
    (void)d;
    (void)peer;
    (void)talk;
    return 0;
}
static int while_there_is_something(ka_driver *d, void *peer)
{
    (void)d;
    return ((wire *)peer)->n_kernel != 0;
}
static int never_more(ka_driver *d, void *peer)
{
    (void)d;
    (void)peer;
    return 0;
}

static void content_that_is_asked_for_while_sending_is_read_in_the_same_turn(void)
{
    static const ka_moves moves = {
        .receive = reads_all,
        .flush = sends_all,
        .saw_fin = sees_no_fin,
        .can_read = while_there_is_something,
        .can_send = never_more,
    };
    wire *w = wire_open(keeps_it, never);
    char *at;
    w->service.app.on_news = reads_when_it_may_go_on;
    wire_text(w, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n");
    EXPECT(ka_exchange_head_begin(&w->talk->exchange, 200, 0, &at) == KA_OK &&
           ka_exchange_head_end(&w->talk->exchange, at, -1, w->now) == KA_OK);
    EXPECT(ka_exchange_content(&w->talk->exchange, "some", 4, 1, NULL) == KA_OK);
    w->talk->exchange.hold = KA_HOLD_LOW;
    w->kernel = "four"; /* its event came while nobody wanted it */
    w->n_kernel = 4;
    w->d.now = w->now;
    ka_turn(&moves, &w->d, w, w->talk);
    EXPECT(w->n_body == 4 && w->n_kernel == 0 && wire_phase(w) == KA_BUSY);
    wire_close(w);
}

static ka_talk **talk_of_wire(void *peer) { return &((wire *)peer)->talk; }
static int64_t two_seconds_on(ka_driver *d) { return d->now + 2 * S; }
static void is_answered(void *ctx, ka_exchange *x, const ka_head *head, const ka_field *fields)
{
    (void)x;
    (void)fields;
    if (head->method.len == 3)
        wire_says_ok(ctx, head);
}

static void responses_are_counted_with_the_time_they_took(void)
{
    static const ka_moves moves = {
        .receive = reads_all,
        .flush = sends_all,
        .saw_fin = sees_no_fin,
        .can_read = while_there_is_something,
        .can_send = never_more,
        .talk_of = talk_of_wire,
        .clock = two_seconds_on,
    };
    static const char requests[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\n\r\n";
    wire *w = wire_open(keeps_it, never);
    const ka_counters *n = &w->counters;
    char *at = NULL;
    w->service.app.on_request = is_answered;
    w->talk = ka_talk_new(&w->service, w->conn);
    w->kernel = requests;
    w->n_kernel = sizeof requests - 1;
    w->d.now = w->now;
    ka_turn(&moves, &w->d, w, w->talk);
    unsigned two = ka_bucket(2 * 1000000), ten = ka_bucket(10 * 1000000), fifty = ka_bucket(50 * 1000000);
    EXPECT(n->requests == 2 && n->received == sizeof requests - 1 && n->sent > 0);
    EXPECT(n->responses[1] == 1 && n->first_byte[two] == 1 && n->duration[two] == 1);
    w->d.now = w->now += 8 * S; /* the other one is answered later, piece by piece */
    ka_exchange *x = &w->talk->exchange;
    EXPECT(ka_exchange_interim(x, 103, NULL, 0) == KA_OK && ka_exchange_head_begin(x, 404, 0, &at) == KA_OK);
    EXPECT(ka_exchange_head_end(x, at, -1, w->now) == KA_OK && ka_exchange_content(x, "some", 4, 1, NULL) == KA_OK);
    ka_turn_attend(&moves, &w->d, w, w->talk);
    EXPECT(n->responses[0] == 1 && n->responses[3] == 1 && n->first_byte[ten] == 1 && n->duration[ten] == 0);
    w->d.now = w->now += 40 * S;
    EXPECT(ka_exchange_content(x, "more", 4, 0, NULL) == KA_OK);
    ka_turn_attend(&moves, &w->d, w, w->talk);
    EXPECT(n->first_byte[fifty] == 0 && n->duration[fifty] == 1 && w->talk == NULL);
    /* What could not be read is a response, and took no time that could be told. */
    static const char bad[] = "?\r\n\r\n";
    w->talk = ka_talk_new(&w->service, w->conn);
    ka_talk_arrived(w->talk, bad, sizeof bad - 1);
    ka_head head;
    (void)ka_talk_next(w->talk, w->now, &head);
    EXPECT(n->responses[3] == 2 && !ka_exchange_is_untimed(&w->talk->exchange));
    wire_close(w);
}

static void talks_are_listed_once_in_their_order_and_leave_a_list_as_they_end(void)
{
    wire *w = wire_open(wire_says_ok, never);
    ka_talk *talks[4];
    for (int i = 0; i < 4; i++) {
        talks[i] = ka_talk_new(&w->service, w->conn);
        ka_talk_put(talks[i], KA_NOTED);
        ka_talk_put(talks[i], KA_LATER);
        ka_talk_put(talks[i], KA_NOTED);
    }
    ka_talk_take(talks[0], KA_NOTED);
    ka_talk_put(talks[0], KA_NOTED);
    ka_talk_free(talks[2]);
    ka_talk *in_order[] = {talks[1], talks[3], talks[0]};
    EXPECT(w->service.lists[KA_NOTED].n == 3 && w->service.lists[KA_LATER].n == 3);
    for (int i = 0; i < 3; i++) {
        EXPECT(w->service.lists[KA_NOTED].first == in_order[i]);
        ka_talk_free(in_order[i]);
    }
    for (int k = 0; k < KA_N_LISTS; k++)
        EXPECT(w->service.lists[k].n == 0 && w->service.lists[k].first == NULL && w->service.lists[k].last == NULL);
    wire_close(w);
}

static void a_fault_that_is_read_between_turns_ends_a_response_that_has_begun(void)
{
    wire *w = wire_open(keeps_it, never);
    char *at, to[10];
    wire_text(w, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n");
    EXPECT(ka_exchange_head_begin(&w->talk->exchange, 200, 0, &at) == KA_OK &&
           ka_exchange_head_end(&w->talk->exchange, at, -1, w->now) == KA_OK);
    EXPECT(ka_exchange_content(&w->talk->exchange, "some", 4, 1, NULL) == KA_OK);
    wire_turn(w);
    ka_talk_take(w->talk, KA_NOTED);
    EXPECT(ka_exchange_read(&w->talk->exchange, to, sizeof to, w->now) == KA_EPEER && w->talk->is_noted);
    wire_turn(w);
    EXPECT(w->end && w->n_lost == 1);
    wire_close(w);
}

static void the_end_of_a_tunnel_can_be_read_twice(void)
{
    wire *w = wire_open(keeps_it, never);
    char *at, to[10];
    wire_text(w, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n");
    EXPECT(ka_exchange_head_begin(&w->talk->exchange, 200, 0, &at) == KA_OK);
    EXPECT(ka_exchange_head_end(&w->talk->exchange, at, KA_WHOLE_TUNNEL, w->now) == KA_OK);
    ka_talk_eof(w->talk);
    wire_turn(w);
    for (int i = 0; i < 2; i++)
        EXPECT(ka_exchange_read(&w->talk->exchange, to, sizeof to, w->now) == 0 && w->talk->window == NULL);
    wire_close(w);
}

static wire *the_writer;

/* As an application whose object writes once more when it is let go of. */
static void writes_again(void *owner)
{
    (void)owner;
    the_writer->n_released++;
    if (the_writer->n_released <= 3)
        EXPECT(ka_exchange_content(&the_writer->talk->exchange, "again", 5, the_writer->n_released < 3, NULL) == KA_OK);
}

static void an_owner_that_is_released_may_write_again(void)
{
    static char big[KA_COPY_MAX + 1000];
    char *at;
    wire *w = the_writer = wire_open(keeps_it, never);
    w->service.pool.release = writes_again;
    memset(big, 'b', sizeof big);
    wire_text(w, GET);
    EXPECT(ka_exchange_head_begin(&w->talk->exchange, 200, 0, &at) == KA_OK &&
           ka_exchange_head_end(&w->talk->exchange, at, -1, w->now) == KA_OK);
    for (int i = 0; i < 3; i++)
        EXPECT(ka_exchange_content(&w->talk->exchange, big, sizeof big, 1, w) == KA_OK);
    for (int i = 0; i < 2; i++) {
        wire_send(w);
        EXPECT(ka_talk_check(w->talk) == NULL);
    }
    EXPECT(w->n_released == 3 && wire_count(w, "5\r\nagain\r\n5\r\nagain\r\n5\r\nagain\r\n0\r\n\r\n") == 1);
    wire_turn(w);
    EXPECT(w->talk == NULL);
    wire_close(w);
}

static void interim_responses_come_before_the_final_one(void)
{
    wire *w = wire_open(keeps_it, never);
    wire_text(w, GET);
    ka_exchange *x = &w->talk->exchange;
    EXPECT(ka_exchange_interim(x, 200, NULL, 0) == KA_EINVAL && ka_exchange_interim(x, 101, NULL, 0) == KA_EINVAL);
    EXPECT(ka_exchange_interim(x, 103, "link: a\r\n", 9) == KA_OK);
    EXPECT(wire_answer(w, 200, "", "ok", 2) == KA_OK && ka_exchange_interim(x, 103, NULL, 0) == KA_EINVAL);
    wire_turn(w);
    EXPECT(wire_count(w, "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\n") == 1);
    wire_close(w);
}

int main(void)
{
    interim_responses_come_before_the_final_one();
    requests_in_hand_are_not_idle();
    nothing_is_refused_behind_the_last_response();
    bytes_that_arrive_are_no_progress_in_sending();
    content_that_is_asked_for_while_sending_is_read_in_the_same_turn();
    responses_are_counted_with_the_time_they_took();
    talks_are_listed_once_in_their_order_and_leave_a_list_as_they_end();
    a_fault_that_is_read_between_turns_ends_a_response_that_has_begun();
    the_end_of_a_tunnel_can_be_read_twice();
    an_owner_that_is_released_may_write_again();
    an_idle_connection_has_no_talk_and_no_buffer();
    every_split_gives_the_same_conversation();
    every_pause_gives_the_same_conversation();
    framing_that_waits_for_its_end_is_not_content();
    pipelined_requests_count_as_requests();
    a_thousand_pipelined_requests_are_answered_in_order();
    a_slow_request_is_not_overtaken();
    stray_empty_lines_leave_idle_alone();
    bytes_behind_a_close_are_ignored();
    a_close_with_nothing_behind_is_plain();
    a_fault_is_answered_after_the_answers_before_it();
    a_half_closed_client_gets_all_its_answers_and_the_last_says_close();
    a_fin_inside_a_head_ends_without_an_answer();
    a_fin_inside_a_body_is_told_to_whoever_reads();
    a_fault_in_a_body_is_answered_and_the_application_loses_it();
    a_fault_stays_a_fault_however_often_one_reads();
    a_fault_after_the_response_began_cuts_it_off();
    a_small_unread_body_is_drained_and_the_connection_kept();
    a_large_unread_body_says_close_and_lingers();
    no_second_answer_goes_out_while_a_body_is_drained();
    a_body_over_the_limit_is_refused_before_the_application();
    continue_is_said_when_the_application_reads();
    continue_that_was_never_said_closes();
    continue_is_not_said_inside_a_response();
    nothing_follows_a_head_without_content();
    an_accepted_connect_is_the_end_of_http();
    what_a_client_sent_ahead_of_a_yes_is_not_read_as_a_request();
    an_offer_that_begins_with_no_request_keeps_the_connection();
    an_interim_status_is_no_answer();
    a_broken_promise_of_length_closes();
    an_application_that_gives_up_cuts_its_response_off();
    large_pieces_are_referred_to_and_released_once();
    a_held_application_is_waiting_for_the_client();
    at_the_cap_of_buffers_only_this_connection_suffers();
    http_1_0_is_told_when_it_is_kept();
    return CHECKS_DONE;
}
