/* engine_test.c: the engine under failing system calls and failing memory, with clients of every kind.
 *
 * link: http h2 table talk epoll
 * wrap: recv send sendmsg sendfile accept4 epoll_ctl open malloc calloc realloc clock_gettime
 */
#include <sys/epoll.h>

#include "crowd.h"
#include "ka_engine_parts.h"

/* --- one failure at a time, for as long as it pleases --- */

static void only(fault_kind kind, int error)
{
    faults.only = error;
    faults.permille[kind] = 1000;
}

/* One client that asks for a small content; whether it has got it after `ms`. */
static int is_answered_within(server *s, client *c, int ms)
{
    score score = {0};
    for (int i = 0; i < ms && c->n_answered == 0; i += 5) {
        (void)client_act(c, &s->random);
        step(s);
        virtual_now += 5 * MS;
    }
    judge(c, &score);
    return score.n_whole == 1;
}

static void alone(server *s, client *c, const ka_capacity *capacity, uint32_t n_idle)
{
    static client idle;
    no_faults(1);
    server_open(s, capacity, NULL, 1 << 20);
    for (uint32_t i = 0; i < n_idle; i++) {
        idle = (client){.fd = -1, .piece = 100, .stays = 1};
        if (!client_connect(&idle, s))
            abort();
        ask(&idle, 'a', 1, &s->random);
        EXPECT(is_answered_within(s, &idle, 50));
        free(idle.text); /* its connection stays until the process ends: nobody tells */
    }
    *c = (client){.fd = -1, .piece = 100, .stays = 1};
    if (!client_connect(c, s))
        abort();
    ask(c, 'a', 7, &s->random);
}

static void go(server *s, client *c)
{
    client_leave(c);
    for (int i = 0; i < 200; i++) {
        virtual_now += 20 * S; /* in all longer than an idle connection is kept while there is room */
        step(s);
    }
    server_close(s);
}

/* --- those who send ahead of their turn, and take nothing --- */

enum {
    N_HOARDERS = 120,
    AHEAD = 70000
};

/* Each asks for `first`, then sends as much more as the kernel takes, up to AHEAD bytes. */
static void hoard(server *s, client *hoarders, int n, const char *first)
{
    static const char more[] = "GET /a1 HTTP/1.1\r\nHost: a\r\n\r\n";
    for (int i = 0; i < n; i++) {
        hoarders[i] = (client){.fd = -1, .piece = AHEAD, .manner = SILENT};
        if (!client_connect(&hoarders[i], s))
            abort();
        put(&hoarders[i], first, strlen(first));
        while (hoarders[i].n_text < AHEAD)
            put(&hoarders[i], more, sizeof more - 1);
        step(s);
        (void)!send(hoarders[i].fd, hoarders[i].text, hoarders[i].n_text, MSG_NOSIGNAL);
        step(s);
    }
}

static void what_is_sent_ahead_leaves_room_for_others(const char *first, size_t budget)
{
    static client hoarders[N_HOARDERS];
    server s;
    client c = {.fd = -1, .piece = 100, .stays = 1};
    no_faults(1);
    server_open(&s, &ka_capacity_default, NULL, budget);
    hoard(&s, hoarders, N_HOARDERS, first);
    const ka_pool *pool = &ka_engine_driver(s.engine)->service.pool;
    CHECK(ka_pool_used(pool) <= budget - budget / 8, "%zu of %zu bytes are used", ka_pool_used(pool), budget);
    if (!client_connect(&c, &s))
        abort();
    ask(&c, 'b', 7, &s.random);
    CHECK(is_answered_within(&s, &c, 50), "nobody else is answered");
    for (int i = 0; i < N_HOARDERS; i++)
        client_leave(&hoarders[i]);
    go(&s, &c);
}

static void what_is_sent_ahead_is_a_heads_worth_and_the_rest_stays_in_the_kernel(void)
{
    static client hoarders[4];
    server s;
    no_faults(1);
    server_open(&s, &ka_capacity_default, NULL, 1 << 20);
    hoard(&s, hoarders, 4, "GET /m1 HTTP/1.1\r\nHost: a\r\n\r\n");
    CHECK(ka_pool_used(&ka_engine_driver(s.engine)->service.pool) <= 4 * KA_READ_AHEAD, "%zu bytes of four",
          ka_pool_used(&ka_engine_driver(s.engine)->service.pool));
    client c = {.fd = -1};
    for (int i = 0; i < 4; i++)
        client_leave(&hoarders[i]);
    go(&s, &c);
}

static void a_turn_that_is_put_off_comes_whatever_else_woke_the_engine(void)
{
    static const char one[] = "GET /a1 HTTP/1.1\r\nHost: a\r\n\r\n";
    server s;
    client c = {.fd = -1, .piece = AHEAD, .stays = 1};
    no_faults(1);
    server_open(&s, &ka_capacity_default, NULL, 1 << 20);
    if (!client_connect(&c, &s))
        abort();
    step(&s);
    for (int i = 0; i < 2 * KA_TURN_REQUESTS; i++)
        put(&c, one, sizeof one - 1);
    if (send(c.fd, c.text, c.n_text, MSG_NOSIGNAL) != (ssize_t)c.n_text)
        abort();
    ka_engine_wake(s.engine); /* its event stands behind the connection's, and uses up what the turn has asked for */
    EXPECT(ka_engine_step(s.engine) >= 2);
    EXPECT(s.counters.requests == KA_TURN_REQUESTS);
    struct epoll_event events[8]; /* the timer is among them: it goes by another clock than this test */
    int is_awake = 0;
    for (int i = epoll_wait(ka_engine_fileno(s.engine), events, 8, 0); i > 0; i--)
        is_awake |= events[i - 1].data.u64 == KA_TAG(KA_TAG_EVENT);
    EXPECT(is_awake);
    step(&s);
    EXPECT(s.counters.requests == 2 * KA_TURN_REQUESTS);
    go(&s, &c);
}

static void a_fin_behind_more_than_is_taken_in_is_told(void)
{
    static client hoarder;
    server s;
    no_faults(1);
    server_open(&s, &ka_capacity_default, NULL, 1 << 20);
    hoard(&s, &hoarder, 1, "GET /m1 HTTP/1.1\r\nHost: a\r\n\r\n");
    EXPECT(s.n_fins == 0);
    if (shutdown(hoarder.fd, SHUT_WR) < 0)
        abort();
    step(&s);
    EXPECT(s.n_fins == 1);
    step(&s);
    EXPECT(s.n_fins == 1 && ka_table_open_count(s.table) == 1); /* it waits for its answers all the same */
    client_leave(&hoarder);
    client c = {.fd = -1};
    go(&s, &c);
}

static void what_accept_lacks_is_waited_for_without_spinning(int error)
{
    server s;
    client c;
    alone(&s, &c, &ka_capacity_default, 0);
    only(FAULT_ACCEPT, error);
    for (int i = 0; i < 100; i++)
        step(&s); /* time stands still */
    CHECK(faults.n_calls[FAULT_ACCEPT] < 20, "errno %d: %d calls", error, (int)faults.n_calls[FAULT_ACCEPT]);
    for (int i = 0; i < 300; i++) {
        virtual_now += 100 * MS;
        step(&s);
    }
    CHECK(s.n_notices <= 4, "errno %d: %d notices in 30 s", error, s.n_notices);
    CHECK(faults.n_calls[FAULT_ACCEPT] < 700, "errno %d: %d calls in 30 s", error, (int)faults.n_calls[FAULT_ACCEPT]);
    no_faults(1);
    CHECK(is_answered_within(&s, &c, 300), "errno %d: it stays away", error);
    go(&s, &c);
}

static void an_idle_connection_goes_when_nothing_more_can_be_watched(void)
{
    server s;
    client c;
    alone(&s, &c, &ka_capacity_default, 2);
    only(FAULT_WATCH, ENOSPC);
    faults.permille[FAULT_WATCH] = 0;
    faults.run[FAULT_WATCH] = 1; /* the next one */
    faults.how[FAULT_WATCH] = ENOSPC;
    EXPECT(is_answered_within(&s, &c, 50));
    EXPECT(s.counters.closed[KA_CAUSE_EVICTED] == 1);
    go(&s, &c);
}

static void a_newcomer_that_cannot_be_watched_is_told_so(void)
{
    server s;
    client c;
    alone(&s, &c, &ka_capacity_default, 0);
    only(FAULT_WATCH, ENOSPC);
    (void)is_answered_within(&s, &c, 50);
    EXPECT(c.status == 503);
    EXPECT(s.counters.closed[KA_CAUSE_REJECTED] == 1);
    go(&s, &c);
}

static void a_send_without_memory_is_tried_again(int error)
{
    server s;
    client c;
    alone(&s, &c, &ka_capacity_default, 0);
    only(FAULT_SEND, error);
    CHECK(!is_answered_within(&s, &c, 500), "errno %d", error);
    CHECK(faults.n_calls[FAULT_SEND] < 10, "errno %d: %d calls in 0.5 s", error, (int)faults.n_calls[FAULT_SEND]);
    no_faults(1);
    CHECK(is_answered_within(&s, &c, 200), "errno %d: it waits for ever", error);
    go(&s, &c);
}

/* --- bytes pushed from inside the application --- */

static client *reader;    /* whose server is at work */
static size_t n_heard;    /* what it has had while the application was still at it */
static unsigned n_rounds; /* how often that was told to go on */

static void hear_now(void)
{
    char heard[4096];
    for (ssize_t n; (n = recv(reader->fd, heard, sizeof heard, 0)) > 0;)
        n_heard += (size_t)n;
}

static void asks_for(server *s, client *c, char kind, void (*acts)(exchange *x))
{
    no_faults(1);
    server_open(s, &ka_capacity_default, NULL, 1 << 20);
    s->acts = acts;
    *c = (client){.fd = -1, .piece = 100};
    if (!client_connect(c, s))
        abort();
    ask(c, kind, 1, &s->random);
    EXPECT(send(c->fd, c->text, c->n_text, MSG_NOSIGNAL) == (ssize_t)c->n_text);
    reader = c;
    n_heard = n_rounds = 0;
}

static void gives_a_piece_and_looks(exchange *x)
{
    EXPECT(begin(x, 200, NULL, NULL, KA_WHOLE_UNKNOWN) == KA_OK);
    hear_now();
    EXPECT(n_heard == 0); /* the head waits for what follows it */
    EXPECT(ka_exchange_content(&x->talk->exchange, "first", 5, 1, NULL) == KA_OK);
    uint64_t sends = ka_engine_stats(x->server->engine)->sends;
    ka_engine_push(x->server->engine, x->talk);
    EXPECT(ka_engine_stats(x->server->engine)->sends == sends + 1);
    hear_now();
    EXPECT(n_heard > 5 && x->talk->unsent == 0 && !ka_exchange_holds(&x->talk->exchange));
    ka_engine_push(x->server->engine, x->talk); /* nothing is pending */
    EXPECT(ka_exchange_content(&x->talk->exchange, "last", 4, 0, NULL) == KA_OK);
}

static void what_is_pushed_is_there_before_the_application_goes_on(void)
{
    server s;
    client c;
    asks_for(&s, &c, 'z', gives_a_piece_and_looks);
    for (int i = 0; i < 4; i++)
        step(&s);
    size_t before = n_heard;
    hear_now();
    EXPECT(before > 5 && n_heard > before + 4 && s.n_exchanges == 0);
    go(&s, &c);
}

static void gives_to_nobody(exchange *x)
{
    close(reader->fd);
    reader->fd = -1;
    EXPECT(begin(x, 200, NULL, NULL, KA_WHOLE_UNKNOWN) == KA_OK);
    for (int i = 0; i < 3; i++) {
        EXPECT(ka_exchange_content(&x->talk->exchange, "piece", 5, 1, NULL) == KA_OK);
        ka_engine_push(x->server->engine, x->talk);
        EXPECT(x->server->n_exchanges == 1 &&
               ka_exchange_holds(&x->talk->exchange)); /* still there: the turn ends it */
    }
}

static void a_push_that_finds_the_client_gone_leaves_the_end_to_the_turn(void)
{
    server s;
    client c;
    asks_for(&s, &c, 'z', gives_to_nobody);
    for (int i = 0; i < 4; i++)
        step(&s);
    EXPECT(s.n_exchanges == 0 && s.counters.closed[KA_CAUSE_ERROR] == 1);
    go(&s, &c);
}

static void gives_for_ever(exchange *x)
{
    if (n_rounds++ == 0)
        EXPECT(begin(x, 200, NULL, NULL, KA_WHOLE_UNKNOWN) == KA_OK);
    for (unsigned n = 0; !ka_exchange_holds(&x->talk->exchange); n++) {
        if (n > 2 * KA_PUSH_MAX / 4096)
            abort();
        EXPECT(ka_exchange_content(&x->talk->exchange, pattern, 4096, 1, NULL) == KA_OK);
        ka_engine_push(x->server->engine, x->talk);
        hear_now(); /* as fast as it is given */
    }
}

static void who_pushes_for_ever_leaves_the_others_their_turn(void)
{
    server s;
    client c, other = {.fd = -1, .piece = 100, .stays = 1};
    asks_for(&s, &c, 'z', gives_for_ever);
    if (!client_connect(&other, &s))
        abort();
    ask(&other, 'a', 7, &s.random);
    EXPECT(is_answered_within(&s, &other, 50));
    EXPECT(n_rounds > 1 && n_heard > (n_rounds - 1) * (size_t)KA_PUSH_MAX);
    client_leave(&other);
    go(&s, &c);
}

/* --- the last bytes, and FIN --- */

static void has_all_with_fin(void)
{
    char heard[8192];
    ssize_t n;
    while ((n = recv(reader->fd, heard, sizeof heard, 0)) > 0)
        n_heard += (size_t)n;
    EXPECT(n == 0 && n_heard > 5000);
    n_rounds++;
}

static void nobody_who_hears_of_the_end_holds_it_up(void)
{
    server s;
    client c;
    asks_for(&s, &c, 'u', NULL); /* HTTP/1.0: nothing lingers */
    s.hears_of_the_end = has_all_with_fin;
    for (int k = 0; k < 4; k++)
        step(&s);
    EXPECT(n_rounds == 1);
    go(&s, &c);
}

static void only_what_is_last_may_wait_in_the_kernel_for_fin(void)
{
    static const struct {
        char kind;
        int is_corked;
    } cases[] = {{'a', 0}, {'b', 0}, {'j', MSG_MORE}, {'u', MSG_MORE}, {'k', 0}, {'o', MSG_MORE}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        server s;
        client c;
        char heard[8192];
        asks_for(&s, &c, cases[i].kind, NULL);
        for (int k = 0; k < 4; k++)
            step(&s);
        CHECK((faults.sent_flags & MSG_MORE) == cases[i].is_corked, "kind %c", cases[i].kind);
        EXPECT(recv(c.fd, heard, sizeof heard, 0) > 0);
        if (cases[i].is_corked) /* it has not waited for long */
            EXPECT(recv(c.fd, heard, sizeof heard, 0) == 0);
        go(&s, &c);
    }
}

/* --- a host that waits in here --- */

static void waits_itself(exchange *x)
{
    EXPECT(ka_engine_wait(x->server->engine, 0) == KA_EINVAL);
    EXPECT(whole(x, 200, NULL, NULL, 4) == KA_OK);
}

static void one_wait_tells_what_is_the_hosts_and_what_is_the_engines(void)
{
    server s;
    client c;
    int fds[2];
    char byte;
    asks_for(&s, &c, 'z', waits_itself);
    ka_engine *e = s.engine;
    if (pipe(fds) < 0)
        abort();
    (void)epoll_ctl(e->epoll_fd, EPOLL_CTL_DEL, e->timer_fd, NULL); /* it goes by another clock than this test */
    EXPECT(ka_engine_watch_host(e, fds[0]) == KA_OK && ka_engine_watch_host(e, -1) == -EBADF - 1000);
    EXPECT(ka_engine_wait(e, INT64_MAX) == KA_WAITED_STEP);
    do {
        step(&s);
        hear_now(); /* of which the engine is told: there is room again */
    } while (ka_engine_wait(e, 0));
    EXPECT(n_heard > 4);
    EXPECT(ka_engine_wait(e, virtual_now + 1) == 0); /* after a millisecond: nothing shorter can be waited for */
    EXPECT(write(fds[1], "x", 1) == 1);
    for (int i = 0; i < 2; i++)
        EXPECT(ka_engine_wait(e, INT64_MAX) == KA_WAITED_HOST);               /* and no step is needed for it */
    EXPECT(ka_engine_step(e) == 1 && ka_engine_wait(e, 0) == KA_WAITED_HOST); /* nor does one use it up */
    ka_engine_wake(e);
    EXPECT(ka_engine_wait(e, INT64_MAX) == (KA_WAITED_HOST | KA_WAITED_STEP));
    EXPECT(read(fds[0], &byte, 1) == 1 && write(c.fd, "GET", 3) == 3);
    EXPECT(ka_engine_wait(e, INT64_MAX) & KA_WAITED_STEP); /* what was found stays until the step */
    EXPECT(ka_engine_step(e) == 1);                        /* which takes this, and not what came later */
    EXPECT(ka_engine_wait(e, INT64_MAX) == KA_WAITED_STEP);
    EXPECT(ka_engine_step(e) == 1);
    e->batch = 1;
    ka_engine_wake(e);
    EXPECT(ka_engine_wait(e, 0) == (KA_WAITED_HOST | KA_WAITED_STEP)); /* it may stand behind as many as a step takes */
    close(fds[0]);
    close(fds[1]);
    go(&s, &c);
}

int main(void)
{
    crowds();
    what_is_sent_ahead_leaves_room_for_others("GET /m1 HTTP/1.1\r\nHost: a\r\n\r\n", 1 << 20); /* never answered */
    what_is_sent_ahead_leaves_room_for_others("GET /d1 HTTP/1.1\r\nHost: a\r\n\r\n", 1 << 20); /* nobody reads it */
    what_is_sent_ahead_leaves_room_for_others("GET /a1 HTTP/1.1\r\nHost: a\r\nX: ", 1 << 20); /* heads without an end */
    what_is_sent_ahead_is_a_heads_worth_and_the_rest_stays_in_the_kernel();
    a_fin_behind_more_than_is_taken_in_is_told();
    a_turn_that_is_put_off_comes_whatever_else_woke_the_engine();
    static const int lacks[] = {EMFILE, ENFILE, ENOBUFS, ENOMEM};
    for (int i = 0; i < 4; i++)
        what_accept_lacks_is_waited_for_without_spinning(lacks[i]);
    an_idle_connection_goes_when_nothing_more_can_be_watched();
    a_newcomer_that_cannot_be_watched_is_told_so();
    a_send_without_memory_is_tried_again(ENOBUFS);
    a_send_without_memory_is_tried_again(ENOMEM);
    what_is_pushed_is_there_before_the_application_goes_on();
    a_push_that_finds_the_client_gone_leaves_the_end_to_the_turn();
    who_pushes_for_ever_leaves_the_others_their_turn();
    only_what_is_last_may_wait_in_the_kernel_for_fin();
    nobody_who_hears_of_the_end_holds_it_up();
    one_wait_tells_what_is_the_hosts_and_what_is_the_engines();
    return CHECKS_DONE;
}
