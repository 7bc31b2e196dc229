/* What is taken in ahead of its turn: how much, and who gives it up.
 * link: http h2 table talk */
#include "talk_driver.h"

#define GET "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

static void never(wire *w)
{
    (void)w;
    CHECK(0, "nobody asked for content");
}

static void keeps_it(wire *w, const ka_head *head)
{
    (void)w;
    (void)head;
}

static void no_more_than_a_heads_worth_is_taken_in_ahead(void)
{
    static char ahead[KA_READ_AHEAD + sizeof GET];
    wire *w = wire_open(keeps_it, never);
    for (size_t i = 0; i < sizeof ahead; i++)
        ahead[i] = "GET / HTTP/1.1\r\n"[i % 16];
    wire_text(w, GET);
    EXPECT(ka_talk_appetite(w->talk) == KA_READ_AHEAD);
    memcpy(w->scratch, ahead, 5000);
    ka_talk_arrived(w->talk, w->scratch, 5000);
    EXPECT(ka_talk_park(w->talk) == KA_OK && ka_talk_appetite(w->talk) == KA_READ_AHEAD - 5000);
    size_t room;
    char *to = ka_talk_room(w->talk, KA_READ_AHEAD - 5000, &room);
    memcpy(to, ahead, KA_READ_AHEAD - 5000);
    ka_talk_filled(w->talk, KA_READ_AHEAD - 5000);
    EXPECT(ka_talk_appetite(w->talk) == 0);
    EXPECT(w->service.pool.lent_bytes == KA_READ_AHEAD);
    wire_close(w);
}

static void content_is_taken_in_as_far_as_it_is_asked_for(void)
{
    wire *w = wire_open(keeps_it, never);
    wire_text(w, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n");
    EXPECT(ka_talk_appetite(w->talk) == KA_READ_AHEAD); /* nobody has asked */
    w->talk->exchange.wants_body = 1;
    EXPECT(ka_talk_appetite(w->talk) >= 20000 + KA_READ_AHEAD && ka_talk_appetite(w->talk) < KA_READ_MAX);
    wire_close(w);
    w = wire_open(keeps_it, never);
    wire_text(w, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n");
    w->talk->exchange.wants_body = 1;
    EXPECT(ka_talk_appetite(w->talk) == KA_READ_MAX);
    wire_close(w);
}

static void the_longest_head_that_is_allowed_can_be_taken_in(void)
{
    wire *w = wire_open(keeps_it, never);
    static char head[32768];
    int n = snprintf(head, sizeof head, "GET / HTTP/1.1\r\nHost: a\r\nX: ");
    memset(head + n, 'y', sizeof head - (size_t)n);
    memcpy(head + 12000, "\r\nY: ", 5);
    memcpy(head + 24000, "\r\nZ: ", 5);
    for (size_t at = 0; at < sizeof head - 4;) {
        size_t piece = sizeof head - 4 - at < 1000 ? sizeof head - 4 - at : 1000;
        w->kernel = head + at;
        w->n_kernel = piece;
        wire_turn(w);
        at += piece;
        EXPECT(w->n_requests == 0 && ka_talk_appetite(w->talk) >= 4);
    }
    EXPECT(w->service.pool.lent_bytes == 32768);
    wire_text(w, "\r\n\r\n");
    EXPECT(w->n_requests == 1);
    wire_close(w);
}

static void what_was_sent_ahead_can_be_given_up_and_the_response_is_the_last(void)
{
    wire *w = wire_open(keeps_it, never);
    wire_text(w, GET GET "GET /third");
    EXPECT(w->talk->window_len && ka_service_fattest(&w->service) == w->talk);
    EXPECT(ka_talk_drop_ahead(w->talk) == 1);
    EXPECT(ka_service_fattest(&w->service) == NULL && w->service.pool.lent_bytes == 0);
    EXPECT(wire_answer(w, 200, "", "ok", 2) == KA_OK);
    wire_turn(w);
    EXPECT(w->n_requests == 1 && wire_count(w, "connection: close") == 1 && w->end == KA_TALK_LINGER);
    EXPECT(w->talk->cause == KA_CAUSE_BUFFER_LIMIT);
    wire_close(w);
}

static void what_is_not_ahead_cannot_be_given_up(void)
{
    wire *w = wire_open(keeps_it, never);
    wire_text(w, "GET / HT");
    EXPECT(ka_talk_drop_ahead(w->talk) == 0 && w->talk->window_len == 8);
    wire_close(w);
    w = wire_open(keeps_it, never);
    wire_text(w, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfour");
    EXPECT(ka_talk_drop_ahead(w->talk) == 0 && w->talk->window_len == 4);
    wire_close(w);
}

static void the_fattest_is_the_one_with_the_largest_buffer_and_among_equals_the_longest(void)
{
    static char bytes[KA_READ_AHEAD];
    static const size_t sizes[] = {100, 9000, 10000, 3000, 9500};
    wire *w = wire_open(keeps_it, never);
    ka_talk *talks[5];
    for (int i = 0; i < 5; i++) {
        talks[i] = ka_talk_new(&w->service, w->conn);
        ka_talk_arrived(talks[i], bytes, sizes[i]);
        EXPECT(ka_talk_park(talks[i]) == KA_OK);
    }
    static const int order[] = {1, 2, 4, 3, 0};
    talks[2]->is_driven = 1; /* whose turn it is keeps what it has */
    ka_talk_free(talks[1]);
    EXPECT(ka_service_fattest(&w->service) == talks[4]);
    talks[2]->is_driven = 0;
    for (int i = 1; i < 5; i++) {
        EXPECT(ka_service_fattest(&w->service) == talks[order[i]]);
        ka_talk_free(talks[order[i]]);
    }
    EXPECT(ka_service_fattest(&w->service) == NULL);
    wire_close(w);
}

int main(void)
{
    no_more_than_a_heads_worth_is_taken_in_ahead();
    content_is_taken_in_as_far_as_it_is_asked_for();
    the_longest_head_that_is_allowed_can_be_taken_in();
    what_was_sent_ahead_can_be_given_up_and_the_response_is_the_last();
    what_is_not_ahead_cannot_be_given_up();
    the_fattest_is_the_one_with_the_largest_buffer_and_among_equals_the_longest();
    return CHECKS_DONE;
}
