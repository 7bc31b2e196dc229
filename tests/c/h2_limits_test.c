/* h2_limits_test.c: what bounds a conversation in HTTP/2, in virtual time: deadlines of each request, ends, faults of the client, work
 * done for nothing, memory.
 *
 * link: http h2 table talk
 * wrap: recv send sendmsg sendfile accept4 epoll_ctl open malloc calloc realloc */
#define _GNU_SOURCE
#include "h2_application.h"

/* --- deadlines --- */

static void a_head_that_is_not_whole_has_a_deadline(void)
{
    start();
    client_opens(k, 1, CLIENT_GET, 6, 1);
    client_frame(k, KA_H2_HEADERS, KA_H2_END_STREAM, 1, CLIENT_GET, 3);
    run();
    h2_wait(&w, 19 * S);
    EXPECT(k->n_goaways == 0);
    h2_wait(&w, S);
    EXPECT(k->goaway_error == KA_H2_ENHANCE_YOUR_CALM && n_requests == 0);
    stop();
}

static void frames_that_go_on_coming_are_no_head_that_does_not(void)
{
    char frame[17];
    handler = says_ok;
    start();
    get(1);
    ka_h2_put_ping(frame, (const uint8_t *)"01234567", 0);
    client_raw(k, frame, 8);
    for (int i = 0; i < 60; i++) { /* each read ends within a frame, but it is another one each time */
        k->n_pings++;
        client_raw(k, frame + 8, 9);
        client_raw(k, frame, 8);
        h2_wait(&w, S);
    }
    EXPECT(c->h && k->n_goaways == 0 && k->n_pongs == 60);
    stop();
}

static void content_that_does_not_come_has_a_deadline(void)
{
    handler = on_read = echoes;
    start();
    client_post(k, 1);
    run();
    h2_wait(&w, 20 * S);
    client_data(k, 1, 10000, -1, 0);
    client_post(k, 3);
    run();
    h2_wait(&w, 20 * S);
    EXPECT(!got(1)->got_head && !got(3)->got_head);
    h2_wait(&w, 10 * S);
    EXPECT(got(1)->status == 408 && got(1)->got_reset && got(3)->status == 408 && c->h);
    EXPECT(at(1)->cause == KA_CAUSE_BODY_TIMEOUT);
    stop();
}
static void content_that_comes_too_slowly_is_answered(void)
{
    handler = on_read = echoes;
    start();
    client_post(k, 1);
    for (int i = 0; i < 7; i++) {
        client_data(k, 1, 1, -1, 0);
        h2_wait(&w, S);
    }
    EXPECT(got(1)->status == 408 && at(1)->cause == KA_CAUSE_BODY_RATE && c->h);
    stop();
}

static void content_over_its_limit_is_answered_whole(void)
{
    policy.max_body_bytes = 1000;
    start();
    client_post(k, 1);
    for (int i = 0; i < 5; i++)
        client_data(k, 1, 500, -1, 0); /* all of them are here before the answer leaves */
    run();
    EXPECT(got(1)->status == 413 && got(1)->got_end && got(1)->got_reset && got(1)->error == KA_H2_NO_ERROR);
    EXPECT(n_requests == 0 ? n_refused == 1 : at(1)->n_lost == 1 && at(1)->cause == KA_CAUSE_BAD_REQUEST);
    stop();
}

static void an_application_that_does_not_answer_has_a_deadline(void)
{
    policy.timeout_ns[KA_BUSY] = 10 * S;
    start();
    get(1);
    h2_wait(&w, 5 * S);
    get(3);
    h2_wait(&w, 5 * S);
    EXPECT(got(1)->status == 503 && !got(3)->got_head && at(1)->cause == KA_CAUSE_HANDLER_TIMEOUT);
    EXPECT(head(at(3), 200, -1) == KA_OK && content(at(3), 5, 1) == KA_OK);
    h2_wait(&w, 5 * S);
    EXPECT(got(3)->got_reset && got(3)->error == KA_H2_INTERNAL_ERROR && c->h);
    stop();
}

static void gives_much(request *r)
{
    if (r->x->writing == KA_WRITING_NOTHING)
        EXPECT(head(r, 200, -1) == KA_OK);
    while (!ka_exchange_holds(r->x))
        EXPECT(content(r, 8000, 1) == KA_OK);
}
static void an_application_that_is_held_back_is_not_late(void)
{
    policy.timeout_ns[KA_BUSY] = 10 * S;
    handler = gives_much;
    start();
    client_settings(k, 1 << 20, -1);
    get(1); /* its own window is open: that of the connection is not */
    for (int i = 0; i < 10; i++) {
        client_window(k, 0, 4000);
        h2_wait(&w, 2 * S);
    }
    EXPECT(!got(1)->got_reset && c->h);
    stop();
}

static void a_client_that_opens_no_window_has_a_deadline(void)
{
    handler = says_much;
    start();
    client_window(k, 0, 1 << 20); /* the stream's own window */
    get(1);
    h2_wait(&w, 59 * S);
    EXPECT(!got(1)->got_reset);
    h2_wait(&w, S);
    EXPECT(got(1)->got_reset && got(1)->error == KA_H2_CANCEL && c->h && n_released == 0);
    stop();
}
static void pings_are_no_content_that_a_client_takes(void)
{
    handler = says_much;
    start();
    client_settings(k, 1 << 20, -1);
    get(1); /* the connection's window is used up */
    for (int i = 0; i < 70 && c->h; i++) {
        for (int j = 0; j < 20; j++)
            client_ping(k, "01234567", 0);
        h2_wait(&w, S);
    }
    EXPECT(c->h == 0 && c->cause == KA_CAUSE_SEND_TIMEOUT);
    stop();
}
static void one_octet_windows_are_too_slow(void)
{
    for (uint32_t of_stream = 0; of_stream < 2; of_stream++) {
        handler = says_much;
        start();
        if (of_stream)
            client_window(k, 0, 1 << 20);
        else
            client_settings(k, 1 << 20, -1);
        get(1);
        for (int i = 0; i < 10 && c->h && !got(1)->got_reset; i++) {
            client_window(k, of_stream, 1);
            h2_wait(&w, S);
        }
        EXPECT(of_stream ? got(1)->got_reset && c->h : c->h == 0 && c->cause == KA_CAUSE_SEND_RATE);
        stop();
    }
}
static void a_client_that_reads_nothing_has_a_deadline(void)
{
    handler = says_much;
    start();
    c->room = 1000;
    c->queued = 0;
    get(1);
    EXPECT(c->talk->unsent > 0);
    h2_wait(&w, 60 * S);
    EXPECT(c->h == 0 && c->cause == KA_CAUSE_SEND_TIMEOUT);
    stop();
}

static void content_that_the_connection_has_no_window_for_is_not_late(void)
{
    char to[65535];
    handler = NULL;
    start();
    for (uint32_t id = 1; id <= 9; id += 2)
        client_post(k, id);
    run();
    echoes(at(9)); /* asks for content, before the others' takes all of the window */
    for (uint32_t id = 1; id <= 7; id += 2)
        for (int i = 0; i < 4; i++)
            client_data(k, id, i < 3 ? 16384 : 65535 - 3 * 16384, -1, 0);
    run();
    EXPECT(k->may_send == 0);
    h2_wait(&w, 40 * S);
    EXPECT(!got(9)->got_head); /* it is not the client that it waits for */
    EXPECT(ka_exchange_read(at(1)->x, to, sizeof to, w.d.now) == 65535);
    EXPECT(ka_exchange_read(at(3)->x, to, sizeof to, w.d.now) == 65535);
    run();
    EXPECT(k->may_send > 0);
    h2_wait(&w, 29 * S);
    EXPECT(!got(9)->got_head);
    h2_wait(&w, S);
    EXPECT(got(9)->status == 408);
    stop();
}

/* --- ends --- */

static void max_requests_is_exact(void)
{
    policy.max_requests = 3;
    handler = says_ok;
    start();
    for (uint32_t id = 1; id < 100; id += 2)
        client_get(k, id);
    run();
    EXPECT(n_requests == 3 && k->last_stream == 5 && k->goaway_error == 0);
    EXPECT(got(5)->got_end && !got(7)->got_head && !got(7)->got_reset);
    EXPECT(ka_conn_phase(w.table, c->h) == KA_LINGER);
    stop();
}

static void what_crosses_the_first_goaway_is_served(void)
{
    handler = says_ok;
    start();
    get(1);
    ka_driver_drain(&w.d, 10 * S, S, 60 * S);
    run();
    EXPECT(k->n_goaways == 1 && k->last_stream == KA_H2_MAX_WINDOW);
    get(3);
    EXPECT(got(3)->got_end);
    client_ping(k, (const char *)k->ping, 1);
    get(5);
    EXPECT(k->n_goaways == 2 && k->last_stream == 3 && !got(5)->got_head);
    EXPECT(ka_conn_phase(w.table, c->h) == KA_LINGER);
    stop();
}

static void requests_behind_the_last_goaway_cost_something(void)
{
    policy.max_requests = 1;
    start();
    get(1); /* it stays open */
    for (uint32_t id = 3; id < 1900 && k->goaway_error == 0; id += 2)
        get(id);
    EXPECT(k->goaway_error == KA_H2_ENHANCE_YOUR_CALM);
    stop();
}

static void streams_go_on_behind_the_clients_goaway(void)
{
    start();
    get(1);
    client_goaway(k);
    run();
    answer(at(1), 10);
    run();
    EXPECT(got(1)->got_end && ka_conn_phase(w.table, c->h) == KA_LINGER);
    stop();
}

static void fin_lets_what_is_open_be_answered(void)
{
    start();
    client_get(k, 1);
    client_post(k, 3);
    client_get(k, 5);
    c->has_fin = 1;
    run();
    EXPECT(at(1)->n_news[KA_NEWS_EOF] == 1 && ka_exchange_is_eof(at(3)->x));
    answer(at(1), 10);
    char to[1];
    EXPECT(ka_exchange_read(at(3)->x, to, 1, w.d.now) == KA_ESTALE);
    ka_exchange_done(at(3)->x, KA_CAUSE_CLIENT);
    answer(at(5), 100000); /* more than the window, and no other will come */
    run();
    EXPECT(got(1)->got_end && got(3)->got_reset && at(5)->n_lost == 1);
    EXPECT(c->h == 0 && c->cause == KA_CAUSE_CLIENT && c->how == KA_CLOSE);
    stop();
}

static void an_idle_connection_ends_by_its_clock(void)
{
    policy.timeout_ns[KA_IDLE] = 75 * S;
    handler = says_ok;
    start();
    get(1);
    for (int i = 0; i < 74; i++) {
        client_ping(k, "01234567", 0); /* is no activity */
        h2_wait(&w, S);
    }
    EXPECT(ka_conn_phase(w.table, c->h) == KA_IDLE);
    h2_wait(&w, S);
    EXPECT(k->n_goaways == 1 && k->last_stream == 1 && ka_conn_phase(w.table, c->h) == KA_LINGER);
    stop();
}

/* --- faults of the client --- */

static void what_is_wrong_with_an_idle_stream_is_the_connections(void)
{
    static const struct {
        unsigned type;
        const char *bytes;
        size_t n;
        uint32_t id;
    } frames[] = {{KA_H2_WINDOW_UPDATE, "\0\0\0\0", 4, 5}, {KA_H2_WINDOW_UPDATE, "\0\0\0\1", 4, 5},
                  {KA_H2_PRIORITY, "\0\0\0\0", 4, 5},      {KA_H2_PRIORITY, "\0\0\0\0", 4, 2},
                  {KA_H2_DATA, pattern, 16385, 5},         {KA_H2_DATA, pattern, 1, 5},
                  {KA_H2_RST_STREAM, "\0\0\0\1", 4, 5}};
    for (size_t i = 0; i < sizeof frames / sizeof *frames; i++) {
        handler = says_ok;
        start();
        get(3);
        client_frame(k, frames[i].type, 0, frames[i].id, frames[i].bytes, frames[i].n);
        run();
        EXPECT(k->n_goaways == 1 && k->goaway_error != 0); /* and no RST_STREAM: the client looks at that */
        stop();
    }
}

static void streams_over_the_limit_are_refused_and_hpack_stays_in_step(void)
{
    options.max_streams = 2;
    start();
    EXPECT(k->max_streams == 2);
    for (uint32_t id = 1; id <= 5; id += 2)
        client_headers(k, id,
                       "\x82\x86\x84\x41\x01"
                       "a\x40\x01x\x01y",
                       11, 1);
    client_headers(k, 7, "\x82\x86\x84\xbf\xbe", 5, 1); /* the two fields of the refused one, from the table */
    run();
    EXPECT(n_requests == 2 && got(5)->error == KA_H2_REFUSED_STREAM && got(7)->error == KA_H2_REFUSED_STREAM);
    answer(at(1), 1);
    run();
    client_headers(k, 9, "\x82\x86\x84\xbf\xbe", 5, 1);
    run();
    EXPECT(n_requests == 3);
    stop();
}

static void open_requests_beside_the_first_count_against_the_budget(void)
{
    ka_pool *pool = &w.d.service.pool;
    start();
    get(1);
    size_t with_one = pool->held_bytes, budget = pool->max_bytes;
    get(3);
    EXPECT(pool->held_bytes > with_one + KA_H2_REQUEST_BYTES && n_requests == 2);
    pool->max_bytes = 2 * ka_pool_used(pool) - 1; /* more than half is used */
    get(5);
    EXPECT(n_requests == 2 && got(5)->error == KA_H2_REFUSED_STREAM);
    answer(at(3), 1);
    answer(at(1), 1);
    run();
    size_t with_none = pool->held_bytes; /* what HPACK remembers */
    EXPECT(with_none < with_one + KA_H2_REQUEST_BYTES);
    get(7); /* the first again, so whatever is used */
    EXPECT(n_requests == 3 && pool->held_bytes < with_none + KA_H2_REQUEST_BYTES);
    pool->max_bytes = budget;
    stop();
}

enum {
    RAPID_RESET,
    MADE_YOU_RESET,
    CONTINUATIONS,
    PINGS,
    SETTINGS,
    LONG_SETTINGS,
    EMPTY_DATA,
    GOAWAYS,
    PRIORITIES,
    UNKNOWN,
    ENDS_OF_A_RESET_STREAM,
    HEADS_OF_A_RESET_STREAM,
    ONE_OCTET_WINDOWS,
    N_FLOODS
};
static void flood(unsigned kind, unsigned i)
{
    uint32_t id = 2 * i + 101;
    switch (kind) {
    case RAPID_RESET:
        client_get(k, id);
        client_reset(k, id, KA_H2_CANCEL);
        break;
    case MADE_YOU_RESET:
        client_get(k, id);
        client_frame(k, KA_H2_WINDOW_UPDATE, 0, id, "\0\0\0\0", 4);
        break;
    case CONTINUATIONS: client_frame(k, KA_H2_CONTINUATION, 0, 9, "", 0); break;
    case PINGS:         client_ping(k, "01234567", 0); break;
    case SETTINGS:      client_settings(k, 65535, -1); break;
    case LONG_SETTINGS: {
        static char bytes[16380];
        for (unsigned at = 0; at < sizeof bytes; at += 6)
            memcpy(bytes + at, at % 12 ? "\0\4\0\0\0\0" : "\0\4\0\0\1\0", 6);
        client_frame(k, KA_H2_SETTINGS, 0, 0, bytes, sizeof bytes);
        break;
    }
    case EMPTY_DATA:             client_frame(k, KA_H2_DATA, 0, 3, "", 0); break;
    case GOAWAYS:                client_goaway(k); break;
    case PRIORITIES:             client_frame(k, KA_H2_PRIORITY_UPDATE, 0, 0, "\0\0\0\3u=1", 7); break;
    case UNKNOWN:                client_frame(k, 0x77, 0, 3, "", 0); break;
    case ENDS_OF_A_RESET_STREAM: client_frame(k, KA_H2_DATA, KA_H2_END_STREAM, 5, "", 0); break;
    case HEADS_OF_A_RESET_STREAM:
        client_frame(k, KA_H2_HEADERS, KA_H2_END_HEADERS | KA_H2_END_STREAM, 5, "\x82", 1);
        break;
    default: client_window(k, 7, 1);
    }
}
static void work_for_nothing_ends_the_connection(void)
{
    static const unsigned most[N_FLOODS] = {
        [RAPID_RESET] = 510,
        [MADE_YOU_RESET] = 260,
        [CONTINUATIONS] = 260,
        [PINGS] = 5010,
        [SETTINGS] = 510,
        [LONG_SETTINGS] = 30,
        [EMPTY_DATA] = 2510,
        [GOAWAYS] = 5010,
        [PRIORITIES] = 5010,
        [UNKNOWN] = 5010,
        [ENDS_OF_A_RESET_STREAM] = 5010,
        [HEADS_OF_A_RESET_STREAM] = 510,
        [ONE_OCTET_WINDOWS] = 5010,
    };
    for (unsigned kind = 0; kind < N_FLOODS; kind++) {
        unsigned i = 0;
        start();
        k->is_wild = 1;
        client_post(k, 3);
        client_post(k, 5);
        client_post(k, 7);
        client_window(k, 0, 1 << 20);
        run();
        EXPECT(ka_exchange_refuse(at(5)->x, 500, "no", KA_CAUSE_APPLICATION, w.d.now) == KA_OK);
        client_settings(k, kind == ONE_OCTET_WINDOWS ? 0 : 65535, -1);
        run();
        answer(at(7), 100000);
        run();
        EXPECT(got(5)->got_reset);
        if (kind == CONTINUATIONS)
            client_frame(k, KA_H2_HEADERS, KA_H2_END_STREAM, 9, "", 0);
        for (; i < 10000 && k->goaway_error == 0; i++) {
            flood(kind, i);
            if (i % 10 == 9)
                run();
        }
        CHECK(k->goaway_error == KA_H2_ENHANCE_YOUR_CALM && i <= most[kind], "flood %u: %u, error %u", kind, i,
              k->goaway_error);
        EXPECT(ka_conn_phase(w.table, c->h) == KA_LINGER);
        EXPECT(ka_conn_ending(w.table, c->h) == KA_CAUSE_EXCESSIVE_LOAD);
        stop();
    }
}

static void an_honest_client_is_never_charged(void)
{
    handler = says_ok;
    start();
    for (uint32_t i = 0; i < 900; i++) {
        client_get(k, 2 * i + 1);
        client_window(k, 0, 2);
        client_ping(k, "01234567", 0);
        run();
    }
    EXPECT(c->h && k->n_goaways == 0 && n_requests == 900);
    stop();
}

/* --- memory --- */

static void many_wait_with_little_and_count_with_what_they_hold(void)
{
    start();
    for (uint32_t id = 1; id < 200; id += 2) {
        client_post(k, id);
        client_data(k, id, 1, -1, 0);
    }
    run();
    EXPECT(w.d.service.pool.lent_bytes >= 100 * KA_BUF_MIN);
    EXPECT(c->talk->rank == ka_buf_class(100 * KA_BUF_MIN) + 1); /* as who holds so much it goes first */
    stop();
}

static void content_that_fills_the_budget_is_sent_all_the_same(void)
{
    handler = NULL;
    start_with(64 * 1024);
    client_preface(k);
    client_settings(k, 0, -1);
    for (uint32_t id = 1; id < 20; id += 2)
        client_get(k, id);
    run();
    for (uint32_t id = 1; id < 20; id += 2)
        if (at(id)->x && head(at(id), 200, 7000) == KA_OK)
            (void)content(at(id), 7000, 0);
    run();
    client_settings(k, 65535, -1);
    run(); /* ends: what cannot be sent is reset, and lets go of what it has */
    EXPECT(w.d.service.pool.lent_bytes < 8192 || c->h == 0 || c->sent_fin);
    stop();
}

static uint32_t writes_to;
static void writes_when_released(void)
{
    for (uint32_t id = 1; id < 8; id += 2)
        if (at(id)->x && at(id)->x->writing == KA_WRITING_CONTENT) {
            (void)ka_exchange_content(at(id)->x, pattern, 10, 1, NULL);
            h2_push_now(&w, c);
        }
    if (at(writes_to)->x)
        ka_exchange_done(at(writes_to)->x, KA_CAUSE_APPLICATION);
}
static void owners_may_write_when_they_are_let_go_of(void)
{
    for (int way = 0; way < 3; way++) {
        start();
        k->is_wild = 1;
        for (uint32_t id = 1; id < 8; id += 2)
            get(id);
        on_release = writes_when_released;
        writes_to = 7;
        held_by = &n_released;
        c->room = way == 1 ? 1000 : 1 << 30;
        for (uint32_t id = 1; id < 6; id += 2) {
            EXPECT(head(at(id), 404, -1) == KA_OK);
            (void)content(at(id), 60000, 1);
        }
        held_by = NULL;
        run();
        if (way == 0)
            client_reset(k, 3, KA_H2_CANCEL); /* its owner is let go of, while it is closed */
        client_window(k, 0, 10000);
        run();
        if (way == 2)
            ka_exchange_done(at(3)->x, KA_CAUSE_APPLICATION);
        run();
        on_release = way == 1 ? writes_when_released : NULL; /* and when all of it ends */
        if (c->h)
            ka_driver_close(&w.d, c->h, KA_CAUSE_DRAIN);
        EXPECT(n_released == 3);
        stop();
    }
}

static void cancels_the_next(request *r)
{
    answer(r, 2);
    if (r->id == 5)
        ka_exchange_done(at(1)->x, KA_CAUSE_APPLICATION);
}
static void what_one_request_does_to_another_is_seen(void)
{
    start();
    get(1);
    get(3);
    handler = cancels_the_next;
    get(5);
    EXPECT(got(1)->got_reset && got(5)->got_end && !got(3)->got_head);
    handler = NULL;
    ka_exchange_done(at(3)->x, KA_CAUSE_CLIENT);
    run();
    EXPECT(got(3)->error == KA_H2_CANCEL);
    stop();
}

static void memory_may_fail_at_every_point(void)
{
    for (unsigned permille = 20; permille <= 300; permille += 40)
        for (uint64_t seed = 1; seed < 40; seed++) {
            faults = (fault_plan){.state = seed, .longest_run = 3, .permille = {[FAULT_MEMORY] = permille}};
            handler = on_read = NULL;
            start_with(seed % 3 ? 64 << 20 : 20000);
            k->is_wild = 1;
            client_preface(k);
            client_settings(k, 100000, -1);
            for (uint32_t id = 1; id < 12; id += 2) {
                id % 4 == 1 ? client_get(k, id) : client_post(k, id);
                if (id % 4 == 3)
                    client_data(k, id, 3000, -1, 1);
            }
            faults.is_on = 1;
            run();
            for (uint32_t id = 1; id < 12; id += 2) {
                char to[1000];
                if (at(id)->x)
                    (void)ka_exchange_read(at(id)->x, to, sizeof to, w.d.now);
                held_by = id % 3 ? &n_released : NULL;
                if (at(id)->x && head(at(id), 200, 20000) == KA_OK && at(id)->x)
                    (void)content(at(id), 20000, 0);
                held_by = NULL;
                run();
            }
            client_window(k, 0, 1 << 20);
            run();
            faults.is_on = 0;
            stop();
        }
}

int main(void)
{
    set_up();
    a_head_that_is_not_whole_has_a_deadline();
    frames_that_go_on_coming_are_no_head_that_does_not();
    content_that_does_not_come_has_a_deadline();
    content_that_comes_too_slowly_is_answered();
    content_that_the_connection_has_no_window_for_is_not_late();
    content_over_its_limit_is_answered_whole();
    an_application_that_does_not_answer_has_a_deadline();
    an_application_that_is_held_back_is_not_late();
    a_client_that_opens_no_window_has_a_deadline();
    pings_are_no_content_that_a_client_takes();
    one_octet_windows_are_too_slow();
    a_client_that_reads_nothing_has_a_deadline();
    max_requests_is_exact();
    what_crosses_the_first_goaway_is_served();
    requests_behind_the_last_goaway_cost_something();
    streams_go_on_behind_the_clients_goaway();
    fin_lets_what_is_open_be_answered();
    an_idle_connection_ends_by_its_clock();
    what_is_wrong_with_an_idle_stream_is_the_connections();
    streams_over_the_limit_are_refused_and_hpack_stays_in_step();
    open_requests_beside_the_first_count_against_the_budget();
    work_for_nothing_ends_the_connection();
    an_honest_client_is_never_charged();
    many_wait_with_little_and_count_with_what_they_hold();
    content_that_fills_the_budget_is_sent_all_the_same();
    owners_may_write_when_they_are_let_go_of();
    what_one_request_does_to_another_is_seen();
    memory_may_fail_at_every_point();
    return CHECKS_DONE;
}
