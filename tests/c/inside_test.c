/* inside_test.c: what an application does to the engine from within its calls: every call, every deed.
 *
 * link: http h2 table talk epoll
 * wrap: recv send sendmsg sendfile accept4 epoll_ctl open malloc calloc realloc clock_gettime */
#include "engine_driver.h"

static const char *const calls[] = {"request", "news", "lost",    "wake",    "notice",          "release",
                                    "closed",  "race", "refused", "settled", "class of client", "class of request"};
static const char *const deeds[] = {"free",           "close all", "close this",    "close all one by one",
                                    "stop listening", "unlisten",  "step",          "attend",
                                    "drain",          "give away", "answer others", "ask nothing"};

enum {
    N_CALLS = sizeof calls / sizeof calls[0],
    N_DEEDS = sizeof deeds / sizeof deeds[0]
};

static const char *the_call, *the_deed;
static int n_done, is_freed;

static void ask_classes(server *s, uint8_t asks)
{
    ka_service *service = &ka_engine_driver(s->engine)->service;
    service->asks_clients = service->asks_requests = asks;
}

static void do_it(void *ctx, const char *where, ka_handle conn)
{
    server *s = ctx;
    if (n_done || strcmp(where, the_call) != 0)
        return;
    n_done = 1;
    EXPECT(ka_engine_is_inside(s->engine));
    if (strcmp(the_deed, "free") == 0) {
        ka_engine_free(s->engine);
        is_freed = 1;
    } else if (strcmp(the_deed, "close all") == 0) {
        ka_engine_close_all(s->engine, KA_CAUSE_DRAIN);
    } else if (strcmp(the_deed, "close this") == 0) {
        ka_engine_close(s->engine, conn, KA_CAUSE_APPLICATION);
        ka_engine_close(s->engine, conn, KA_CAUSE_APPLICATION);
    } else if (strcmp(the_deed, "close all one by one") == 0) {
        for (uint32_t slot = 1; slot < 1000; slot++)
            ka_engine_close(s->engine, ka_table_handle(s->table, slot), KA_CAUSE_APPLICATION);
    } else if (strcmp(the_deed, "stop listening") == 0) {
        ka_engine_stop_listening(s->engine);
    } else if (strcmp(the_deed, "unlisten") == 0) {
        ka_engine_unlisten(s->engine, s->fd, 1);
        EXPECT(ka_engine_listen(s->engine, s->fd, 0, 0) == 0);
    } else if (strcmp(the_deed, "step") == 0) {
        EXPECT(ka_engine_step(s->engine) == KA_EINVAL);
    } else if (strcmp(the_deed, "attend") == 0) {
        ka_engine_attend(s->engine);
    } else if (strcmp(the_deed, "drain") == 0) {
        ka_engine_drain(s->engine, 0, 0, 0);
    } else if (strcmp(the_deed, "give away") == 0) {
        int given = ka_engine_give_away(s->engine, conn);
        EXPECT(given < 0 || strcmp(where, "news") == 0); /* the drain tells a tunnel outside of its turn */
        if (given >= 0)
            close(given);
    } else if (strcmp(the_deed, "answer others") == 0) {
        for (int i = 0; i < N_EXCHANGES; i++) {
            exchange *x = &exchanges[i];
            if (x->talk && x->talk->conn != conn && !ka_exchange_is_over(&x->talk->exchange) &&
                !x->talk->exchange.reply.is_started)
                give_up(x);
        }
    } else {
        ask_classes(s, 0);
    }
}

static void say(client *c, const server *s, const char *text)
{
    *c = (client){.fd = -1, .piece = 1 << 20, .manner = RUBBISH};
    if (!client_connect(c, s))
        return;
    if (send(c->fd, text, strlen(text), MSG_NOSIGNAL) < 0)
        abort();
}

static void pass(server *s, client *clients, int n, int64_t ns)
{
    static char heard[1 << 16];
    for (int i = 0; i < 6 && !is_freed; i++) {
        virtual_now += ns;
        (void)ka_engine_step(s->engine);
        if (!is_freed)
            act_late(s);
        for (int k = 0; k < n; k++)
            while (clients[k].fd >= 0 && recv(clients[k].fd, heard, sizeof heard, 0) > 0)
                ;
    }
}

/* Clients of every kind, so that each call is made; some are in the middle of something when it is. */
static void scene(void)
{
    client clients[7];
    server s;
    faults = (fault_plan){.state = 1};
    n_done = is_freed = 0;
    inside = do_it;
    ka_capacity capacity = small_capacity(6);
    capacity.pressure_start = capacity.pressure_full = 0; /* idle connections end after keep_alive_min_ns */
    server_open(&s, &capacity, NULL, 1 << 20);
    for (int i = 0; i < KA_SETTLED_AFTER; i++) { /* each closes its idle connection first */
        say(&clients[0], &s, "GET /a1 HTTP/1.1\r\nHost: a\r\n\r\n");
        pass(&s, clients, 1, MS);
        client_leave(&clients[0]);
        pass(&s, clients, 1, MS);
    }
    ask_classes(&s, 1);
    say(&clients[0], &s, "GET /a1 HTTP/1.1\r\nHost: a\r\n\r\n"); /* to be idle */
    say(&clients[1], &s, "GET /m1 HTTP/1.1\r\nHost: a\r\n\r\n"); /* never answered */
    say(&clients[2], &s, "GET /g1 HTTP/1.1\r\nHost: a\r\n\r\nGET /a1 HTTP/1.1\r\nHost: a\r\n\r\nGET /b");
    say(&clients[3], &s, "POST /e10 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
    say(&clients[4], &s,
        "GET /b1 HTTP/1.1\r\nHost: a\r\n\r\nGET /b2 HTTP/1.1\r\nHost: a\r\n\r\nGET /b3 HTTP/1.1\r\nHost: a\r\n\r\n");
    say(&clients[5], &s, "nonsense\r\n\r\n");
    ka_engine_wake(s.engine);
    pass(&s, clients, 6, MS);
    if (clients[3].fd >= 0)
        (void)!send(clients[3].fd, "67890", 5, MSG_NOSIGNAL);
    pass(&s, clients, 6, MS);
    faults.only = EMFILE; /* for one more */
    faults.run[FAULT_ACCEPT] = 1;
    faults.how[FAULT_ACCEPT] = EMFILE;
    faults.is_on = 1;
    say(&clients[6], &s, "GET /a1 HTTP/1.1\r\nHost: a\r\n\r\n");
    pass(&s, clients, 7, MS);
    faults.is_on = 0;
    pass(&s, clients, 7, 13 * S); /* what is idle has just been half-closed */
    for (int i = 0; i < 7; i++)
        if (clients[i].fd >= 0)
            (void)!send(clients[i].fd, "GET /a1 HTTP/1.1\r\nHost: a\r\n\r\n", 28, MSG_NOSIGNAL);
    pass(&s, clients, 7, MS);
    for (int i = 0; i < 7; i++)
        client_leave(&clients[i]);
    for (int i = 0; i < 4; i++)
        pass(&s, clients, 7, 100 * S);
    inside = NULL;
    CHECK(n_done, "the call \"%s\" was not made", the_call);
    if (is_freed) {
        EXPECT(ka_table_open_count(s.table) == 0 && s.n_exchanges == 0 && s.holds == 0);
        ka_table_free(s.table);
        close(s.fd);
        close(s.file_fd);
        return;
    }
    ka_engine_close_all(s.engine, KA_CAUSE_DRAIN);
    server_close(&s);
}

int main(void)
{
    for (int call = 0; call < N_CALLS; call++)
        for (int deed = 0; deed < N_DEEDS; deed++) {
            int failed = checks_failed;
            the_call = calls[call];
            the_deed = deeds[deed];
            scene();
            if (checks_failed > failed)
                fprintf(stderr, "  in \"%s\": %s\n", the_call, the_deed);
        }
    return CHECKS_DONE;
}
