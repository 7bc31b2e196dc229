/* threads_test.c: what threads share of the core, each with a table of its own: tables of names and codes that are made once,
 * and what a pool counts. Run with ThreadSanitizer.
 *
 * link: http h2 table talk epoll */
#define _GNU_SOURCE
#include <pthread.h>

#include "check.h"
#include "h2/ka_hpack.h"
#include "http/ka_head.h"
#include "http/ka_scan.h"
#include "ka_engine.h"
#include "table/ka_conn.h"
#include "talk/ka_buf.h"

enum {
    THREADS = 4,
    ROUNDS = 2000
};

static ka_pool pool; /* the main thread's; the others hold of it */
static pthread_barrier_t all;

static int serve(ka_table *table, int round)
{
    static const char head[] = "GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n";
    ka_field fields[KA_MAX_FIELDS];
    ka_head parsed;
    ka_fault fault;
    ka_handle conn;
    int ok = ka_head_parse(head, sizeof head - 1, NULL, &ka_limits_default, &parsed, fields, &fault) == KA_OK;
    ok &= ka_conn_open(table, round, 0, NULL, 0, &conn) == KA_OK;
    ok &= ka_conn_event(table, conn, KA_EV_HEAD_DONE, round) >= 0;
    ok &= ka_conn_event(table, conn, KA_EV_RESPONDED, round) >= 0;
    ok &= ka_conn_close(table, conn, KA_CAUSE_CLIENT, round) == KA_OK;
    return ok;
}

static void *work(void *arg)
{
    ka_counters counters = {0};
    ka_table *table = NULL;
    intptr_t failed = 0;
    (void)arg;
    pthread_barrier_wait(&all);
    ka_hpack_init();
    failed += ka_process() != (uint64_t)getpid();
    failed += ka_table_new(&table, &ka_capacity_default, 1, &counters) != KA_OK;
    for (int i = 0; failed == 0 && i < ROUNDS; i++) {
        failed += strcmp(ka_fault_name(1), ka_fault_name(1)) != 0 || ka_name_find("accept-encoding", 15) < 0;
        failed += !serve(table, i);
        if (ka_pool_hold(&pool, KA_USE_OUTPUT, 100) == KA_OK) {
            (void)ka_pool_is_tight(&pool);
            ka_pool_let_go(&pool, 100);
        }
    }
    ka_table_free(table);
    return (void *)failed;
}

int main(void)
{
    pthread_t threads[THREADS];
    void *failed;
    EXPECT(ka_names_init() == KA_OK);
    ka_pool_init(&pool, 1 << 20, NULL);
    pthread_barrier_init(&all, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++)
        EXPECT(pthread_create(&threads[i], NULL, work, NULL) == 0);
    pthread_barrier_wait(&all);
    for (int i = 0; i < ROUNDS; i++) {
        ka_buf *buf = ka_buf_take(&pool, KA_USE_INPUT, 1000);
        EXPECT(buf != NULL);
        ka_buf_give(&pool, buf);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], &failed);
        EXPECT(failed == NULL);
    }
    EXPECT(pool.held_bytes == 0 && pool.lent_bytes == 0);
    ka_pool_free(&pool);
    return CHECKS_DONE;
}
