/* h2_test.c: conversations in HTTP/2 in virtual time: whole turns by moves of its own, with a client that holds every byte of
 * the server against the RFC (h2_driver.h, h2_client.h). Negotiation, verbs, windows, whose turn it is.
 *
 * link: http h2 table talk
 * wrap: recv send sendmsg sendfile accept4 epoll_ctl open malloc calloc realloc */
#define _GNU_SOURCE
#include "h2_application.h"

/* --- negotiation --- */

static void the_preface_decides_at_every_split(void)
{
    for (size_t split = 0; split <= KA_H2_PREFACE_LEN; split++) {
        static const char text[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        handler = says_ok;
        start_with(64 << 20);
        client_raw(k, text, split);
        run();
        client_raw(k, text + split, KA_H2_PREFACE_LEN - split);
        client_settings(k, -1, -1);
        client_get(k, 1);
        run();
        EXPECT(got(1)->got_end && got(1)->status == 200);
        EXPECT(ka_conn_phase(w.table, c->h) == KA_IDLE);
        stop();
    }
}

static void what_is_not_settings_behind_the_preface_ends_it(void)
{
    start_with(64 << 20);
    client_preface(k);
    client_ping(k, "01234567", 0);
    run();
    EXPECT(k->goaway_error == KA_H2_PROTOCOL_ERROR && n_requests == 0);
    EXPECT(ka_conn_phase(w.table, c->h) == KA_LINGER);
    stop();
}

/* The same bytes in any pieces: the same requests and the same answers. */
static void pieces_of_any_size_mean_the_same(void)
{
    static const size_t pieces[] = {SCRATCH, 1, 2, 3, 7, 9, 10, 16, 100, 1000, 4096, 16384};
    uint64_t first = 0;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        for (int pushes = 0; pushes < 2; pushes++) {
            handler = on_read = echoes;
            start_with(64 << 20);
            w.pushes = (uint8_t)pushes;
            c->piece = pieces[i];
            client_preface(k);
            client_settings(k, -1, 0);
            client_get(k, 1);
            client_post(k, 3);
            client_data(k, 3, 10000, 20, 0);
            client_ping(k, "01234567", 0);
            client_post(k, 5);
            client_data(k, 5, 100, -1, 1);
            client_data(k, 3, 3, 0, 1);
            client_window(k, 0, 100000);
            field_get(7, "x-a", "b");
            run();
            EXPECT(n_requests == 4 && at(3)->n_read == 10003 && k->n_pongs == 1);
            for (uint32_t id = 1; id <= 7; id += 2)
                EXPECT(got(id)->got_end && got(id)->status == 200);
            /* Which of two answers comes first may depend on when their requests were whole: each has its own sum. */
            uint64_t sum = (uint64_t)(got(3)->n_content * 1000 + got(5)->n_content);
            first = first ? first : sum;
            EXPECT(sum == first);
            stop();
            w.pushes = 0;
        }
}

/* --- verbs --- */

static void says_all(request *r)
{
    char *p;
    EXPECT(ka_exchange_interim(r->x, 103, "Link: </a>\r\n", 12) == KA_OK);
    EXPECT(ka_exchange_interim(r->x, 101, "", 0) == KA_EINVAL);
    EXPECT(ka_exchange_head_begin(r->x, 200, 100, &p) == KA_OK);
    EXPECT(ka_exchange_field(r->x, &p, "X-Y", 3, "z", 1) == KA_OK);
    EXPECT(ka_exchange_head_end(r->x, p, KA_WHOLE_UNKNOWN, w.d.now) == KA_OK);
    EXPECT(ka_exchange_interim(r->x, 103, "", 0) == KA_EINVAL);
    EXPECT(content(r, 5, 1) == KA_OK);
    got(r->id)->is_complete = 1;
    EXPECT(ka_exchange_trailers(r->x, "X-T: 1\r\n", 8) == KA_OK);
}

static void hints_and_trailers_go_with_a_response(void)
{
    handler = says_all;
    start();
    get(1);
    EXPECT(got(1)->n_interim == 1 && got(1)->got_end && got(1)->got_trailers && got(1)->n_content == 5);
    EXPECT(at(1)->n_lost == 1 && at(1)->cause == KA_CAUSE_NONE);
    stop();
}

static void head_has_no_content(void)
{
    handler = says_much;
    start();
    client_headers(k, 1, CLIENT_HEAD, sizeof CLIENT_HEAD - 1, 1);
    run();
    EXPECT(got(1)->got_end && got(1)->n_content == 0 && got(1)->length == 200000);
    stop();
}

static void sends_a_file(request *r)
{
    EXPECT(head(r, 200, 50000) == KA_OK);
    got(r->id)->written = 50000;
    got(r->id)->is_complete = 1;
    EXPECT(ka_exchange_file(r->x, file_fd, r->id * 7, 50000, 0, &n_released) == KA_OK);
}
static void a_file_goes_in_frames(void)
{
    handler = sends_a_file;
    start();
    get(1);
    EXPECT(got(1)->got_end && got(1)->n_content == 50000 && n_released == 1);
    EXPECT(ftruncate(file_fd, 1000) == 0);
    get(3);
    EXPECT(got(3)->got_reset && got(3)->error == KA_H2_INTERNAL_ERROR && n_released == 2);
    EXPECT(c->h && k->n_goaways == 0);
    EXPECT(write(file_fd, pattern, sizeof pattern) == sizeof pattern);
    stop();
}

static void expects_100_is_asked_when_it_is_read(void)
{
    char block[100];
    handler = NULL;
    start();
    memcpy(block, CLIENT_POST, sizeof CLIENT_POST - 1);
    char *end = client_field(block + sizeof CLIENT_POST - 1, "expect", "100-continue");
    client_headers(k, 1, block, (size_t)(end - block), 0);
    run();
    EXPECT(got(1)->n_interim == 0);
    on_read = echoes;
    echoes(at(1));
    run();
    EXPECT(got(1)->n_interim == 1);
    client_data(k, 1, 7, -1, 1);
    run();
    EXPECT(got(1)->got_end && got(1)->n_content == 7);
    stop();
}

static void begins_a_tunnel(request *r) { EXPECT(head(r, 101, KA_WHOLE_TUNNEL) == KA_OK); }

static void a_tunnel_is_200_and_bytes_both_ways(void)
{
    char block[200], *end = client_field(block, ":method", "CONNECT"), to[10];
    handler = begins_a_tunnel;
    start();
    end = client_field(end, ":protocol", "websocket");
    end = client_field(end, ":scheme", "http");
    end = client_field(end, ":path", "/");
    end = client_field(end, ":authority", "a");
    client_headers(k, 1, block, (size_t)(end - block), 0);
    client_data(k, 1, 5, -1, 0);
    run();
    EXPECT(got(1)->status == 200 && ka_exchange_is_tunnel(at(1)->x));
    EXPECT(ka_exchange_read(at(1)->x, to, 10, w.d.now) == 5);
    EXPECT(content(at(1), 9, 1) == KA_OK);
    run();
    EXPECT(got(1)->n_content == 9);
    ka_driver_drain(&w.d, 10 * S, S, 60 * S);
    run();
    EXPECT(at(1)->n_news[KA_NEWS_DRAIN] == 1);
    ka_driver_drain(&w.d, 10 * S, S, 60 * S); /* again, on a connection that leaves already */
    run();
    EXPECT(at(1)->n_news[KA_NEWS_DRAIN] == 2);
    got(1)->is_complete = 1;
    ka_exchange_done(at(1)->x, KA_CAUSE_APPLICATION);
    run();
    EXPECT(got(1)->got_end && at(1)->n_lost == 1);
    stop();
}

static void gives_up_behind_an_empty_head(request *r)
{
    got(r->id)->is_complete = 1;
    EXPECT(head(r, 200, 0) == KA_OK);
    ka_exchange_done(r->x, KA_CAUSE_APPLICATION);
}
static void a_head_that_was_all_is_over_when_the_application_is(void)
{
    handler = gives_up_behind_an_empty_head;
    start();
    get(1);
    EXPECT(got(1)->got_end && !got(1)->got_reset && at(1)->n_lost == 1);
    EXPECT(ka_conn_phase(w.table, c->h) == KA_IDLE);
    stop();
}

static void a_response_that_is_given_up_is_a_reset(void)
{
    start();
    get(1);
    EXPECT(head(at(1), 200, 10) == KA_OK);
    EXPECT(content(at(1), 3, 1) == KA_OK);
    ka_exchange_done(at(1)->x, KA_CAUSE_APPLICATION);
    run();
    EXPECT(got(1)->got_reset && got(1)->error == KA_H2_INTERNAL_ERROR && at(1)->cause == KA_CAUSE_APPLICATION);
    get(3);
    EXPECT(ka_exchange_refuse(at(3)->x, 500, "it failed", KA_CAUSE_APPLICATION, w.d.now) == KA_OK);
    run();
    EXPECT(got(3)->status == 500 && got(3)->got_end && c->h);
    stop();
}

static void an_answer_without_the_content_ends_the_request(void)
{
    handler = says_ok;
    start();
    client_post(k, 1);
    run();
    EXPECT(got(1)->got_end && got(1)->got_reset && got(1)->error == KA_H2_NO_ERROR);
    client_data(k, 1, 1000, -1, 1); /* crossed it */
    get(3);
    EXPECT(got(3)->got_end && k->n_goaways == 0);
    stop();
}

/* --- flow control --- */

static void content_waits_for_both_windows(void)
{
    handler = says_much;
    start();
    get(1);
    EXPECT(got(1)->n_content == 65535 && k->window == 0);
    client_window(k, 0, 10);
    run();
    EXPECT(got(1)->n_content == 65535);
    client_window(k, 1, 4);
    run();
    EXPECT(got(1)->n_content == 65539);
    client_window(k, 1, 1 << 20);
    client_window(k, 0, 1 << 20);
    run();
    EXPECT(got(1)->got_end && got(1)->n_content == 200000);
    stop();
}

static void a_window_may_become_negative(void)
{
    handler = says_much;
    start();
    client_window(k, 0, 1 << 20);
    get(1);
    client_settings(k, 100, -1);
    run();
    EXPECT(got(1)->window + k->initial == 100 - 65535);
    client_window(k, 1, 65535 - 100);
    run();
    EXPECT(got(1)->n_content == 65535);
    client_window(k, 1, 1);
    run();
    EXPECT(got(1)->n_content == 65536);
    client_settings(k, KA_H2_MAX_WINDOW, -1);
    run();
    EXPECT(got(1)->got_end && c->h);
    stop();
}

static void a_window_that_settings_close_has_a_deadline(void)
{
    handler = says_much;
    start();
    get(1);                    /* both windows are at 0 */
    client_settings(k, 0, -1); /* and its own is negative */
    client_window(k, 0, 1 << 20);
    run();
    h2_wait(&w, 61 * S);
    EXPECT(got(1)->got_reset);
    stop();
}

static void a_window_over_its_bound_is_an_error(void)
{
    start();
    get(1);
    k->is_wild = 1;
    client_window(k, 1, KA_H2_MAX_WINDOW);
    run();
    EXPECT(got(1)->got_reset && got(1)->error == KA_H2_FLOW_CONTROL_ERROR && k->n_goaways == 0);
    client_window(k, 0, KA_H2_MAX_WINDOW);
    run();
    EXPECT(k->goaway_error == KA_H2_FLOW_CONTROL_ERROR);
    stop();
}

static void windows_follow_what_the_application_takes(void)
{
    start();
    client_post(k, 1);
    client_data(k, 1, 16384, -1, 0);
    client_data(k, 1, 16384, -1, 0);
    client_data(k, 1, 16384, -1, 0);
    run();
    EXPECT(got(1)->may_send + KA_H2_DEFAULT_WINDOW == 65535 - 3 * 16384);
    on_read = echoes;
    echoes(at(1));
    run();
    EXPECT(at(1)->n_read == 3 * 16384 && got(1)->may_send + KA_H2_DEFAULT_WINDOW >= 32768);
    client_data(k, 1, 16384, -1, 0);
    k->is_wild = 1;
    on_read = NULL;
    for (int i = 0; i < 4; i++)
        client_data(k, 1, 16384, -1, 0);
    run();
    EXPECT(got(1)->got_reset && got(1)->error == KA_H2_FLOW_CONTROL_ERROR);
    stop();
}

static void padding_counts_and_comes_back(void)
{
    handler = on_read = echoes;
    start();
    client_post(k, 1);
    for (int i = 0; i < 1000; i++)
        client_data(k, 1, 1, 255, 0);
    run();
    EXPECT(at(1)->n_read == 1000);
    EXPECT(got(1)->may_send + KA_H2_DEFAULT_WINDOW >= 65535 / 2 && k->may_send > 65535);
    stop();
}

static void what_is_thrown_away_comes_back_to_the_connection(void)
{
    handler = says_ok;
    start();
    client_post(k, 1);
    run();
    for (int i = 0; i < 100; i++) {
        client_data(k, 1, 16000, -1, 0);
        run();
        EXPECT(k->may_send >= 0);
    }
    EXPECT(c->h && k->n_goaways == 0);
    stop();
}

/* --- whose turn it is --- */

static void equals_take_turns_and_the_urgent_go_first(void)
{
    start();
    client_settings(k, 1 << 20, -1);
    for (uint32_t id = 1; id <= 5; id += 2)
        field_get(id, "priority", id == 5 ? "u=0" : "u=5, i");
    run();
    c->room = 1; /* nothing leaves meanwhile */
    for (uint32_t id = 1; id <= 5; id += 2)
        answer(at(id), 200000);
    run();
    c->room = 1 << 30;
    c->is_ready = 1;
    run();
    EXPECT(got(5)->n_content > 60000); /* all of the connection's window but what stood in the output before */
    client_window(k, 0, 170000);
    run();
    EXPECT(got(5)->got_end);
    int64_t difference = got(1)->n_content - got(3)->n_content;
    EXPECT(got(1)->n_content && difference >= -16384 && difference <= 16384);
    stop();
}

static void a_priority_may_come_before_and_after_its_stream(void)
{
    static const char *const odd[] = {"i=?", "ix", "u", "u=", "i", "u=9", "", "i=?1", " , ,"};
    start();
    client_settings(k, 1 << 20, -1);
    client_frame(k, KA_H2_PRIORITY_UPDATE, 0, 0, "\0\0\0\3u=0", 7);
    client_get(k, 1);
    client_get(k, 3);
    run();
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        char text[20] = "\0\0\0\1";
        memcpy(text + 4, odd[i], strlen(odd[i]));
        client_frame(k, KA_H2_PRIORITY_UPDATE, 0, 0, text, 4 + strlen(odd[i]));
        run(); /* each at the end of its block: nothing behind it is read */
    }
    c->room = 1;
    answer(at(1), 100000);
    answer(at(3), 100000);
    run();
    c->room = 1 << 30;
    c->is_ready = 1;
    run();
    EXPECT(got(3)->n_content > got(1)->n_content);
    stop();
}

static void a_stream_with_a_small_window_holds_nobody_up(void)
{
    start();
    client_window(k, 0, 1 << 20);
    client_settings(k, 1, -1);
    client_get(k, 1);
    client_get(k, 3);
    client_window(k, 3, 1 << 20);
    run();
    answer(at(1), 100000);
    answer(at(3), 100000);
    run();
    EXPECT(got(3)->got_end && got(1)->n_content == 1);
    stop();
}

static void responses_and_open_streams_are_counted(void)
{
    const ka_counters *n = &w.counters;
    start();
    client_get(k, 1);
    client_get(k, 3);
    run();
    EXPECT(w.d.service.h2->n_connections == 1 && w.d.service.h2->n_open == 2 && n->received > 0 && n->sent > 0);
    h2_wait(&w, 3 * S);
    EXPECT(head(at(1), 404, -1) == KA_OK && content(at(1), 5, 1) == KA_OK);
    answer(at(3), 2);
    run();
    unsigned three = ka_bucket(3 * 1000000), five = ka_bucket(5 * 1000000);
    EXPECT(n->responses[3] == 1 && n->responses[1] == 1 && n->first_byte[three] == 2 && n->duration[three] == 1);
    h2_wait(&w, 2 * S);
    EXPECT(content(at(1), 5, 0) == KA_OK);
    run();
    EXPECT(n->first_byte[five] == 0 && n->duration[five] == 1 && w.d.service.h2->n_open == 0);
    ka_driver_close(&w.d, c->h, KA_CAUSE_CLIENT);
    EXPECT(w.d.service.h2->n_connections == 0);
    stop();
}

static void answers_much_head(request *r)
{
    static char value[6000];
    char *p;
    memset(value, 'v', sizeof value);
    EXPECT(ka_exchange_head_begin(r->x, 200, sizeof value + 100, &p) == KA_OK);
    EXPECT(ka_exchange_field(r->x, &p, "set-cookie", 10, value, sizeof value) == KA_OK);
    EXPECT(ka_exchange_head_end(r->x, p, 2, w.d.now) == KA_OK);
    EXPECT(content(r, 2, 0) == KA_OK);
}
static void requests_that_waited_for_output_to_leave_are_served(void)
{
    handler = answers_much_head;
    start();
    for (uint32_t id = 1; id < 120; id += 2)
        client_get(k, id);
    run(); /* all in one read, and their heads are far more than is kept unsent */
    EXPECT(n_requests == 60 && got(119)->got_end);
    stop();
}

int main(void)
{
    set_up();
    the_preface_decides_at_every_split();
    what_is_not_settings_behind_the_preface_ends_it();
    pieces_of_any_size_mean_the_same();
    hints_and_trailers_go_with_a_response();
    head_has_no_content();
    a_file_goes_in_frames();
    expects_100_is_asked_when_it_is_read();
    a_tunnel_is_200_and_bytes_both_ways();
    a_head_that_was_all_is_over_when_the_application_is();
    a_response_that_is_given_up_is_a_reset();
    an_answer_without_the_content_ends_the_request();
    content_waits_for_both_windows();
    a_window_may_become_negative();
    a_window_that_settings_close_has_a_deadline();
    a_window_over_its_bound_is_an_error();
    windows_follow_what_the_application_takes();
    padding_counts_and_comes_back();
    what_is_thrown_away_comes_back_to_the_connection();
    equals_take_turns_and_the_urgent_go_first();
    a_priority_may_come_before_and_after_its_stream();
    a_stream_with_a_small_window_holds_nobody_up();
    requests_that_waited_for_output_to_leave_are_served();
    responses_and_open_streams_are_counted();
    return CHECKS_DONE;
}
