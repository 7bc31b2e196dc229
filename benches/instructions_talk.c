/* instructions_talk.c: what bench_instructions.py counts with callgrind for whole requests: `measured` takes one
 * connection through a turn for every piece of the input, as the engine does, without a socket.
 *
 * Usage: instructions_talk WAY FILE [pieces of content in a response]. FILE: for each piece its length as 32 bits, then
 * its bytes: what one read of the socket gave, one or more whole requests. Each is answered with two fields and 13 bytes
 * of content; more pieces than one are sent in chunks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http/ka_scan.h"
#include "talk/ka_talk.h"

#define SECOND ((int64_t)1000000000)

static ka_service service;
static ka_table *table;
static ka_handle conn;
static int64_t now = 100 * SECOND;
static long n_pieces = 1;

static void lost(void *exchange) { (void)exchange; }
static void release(void *owner) { (void)owner; }

static void expect(int is_so)
{
    if (!is_so)
        exit(3);
}

static void answer(ka_talk *talk)
{
    static const char type[] = "text/plain", length[] = "13", content[] = "Hello, world!";
    char taken[2048], *at;
    while (!ka_exchange_body_is_over(&talk->exchange))
        expect(ka_exchange_read(&talk->exchange, taken, sizeof taken, now) >= 0);
    expect(ka_exchange_head_begin(&talk->exchange, 200, 64, &at) == KA_OK);
    expect(ka_exchange_field(&talk->exchange, &at, "content-type", 12, type, sizeof type - 1) == KA_OK);
    if (n_pieces == 1)
        expect(ka_exchange_field(&talk->exchange, &at, "content-length", 14, length, sizeof length - 1) == KA_OK);
    expect(ka_exchange_head_end(&talk->exchange, at, n_pieces == 1 ? 13 : KA_WHOLE_UNKNOWN, now) == KA_OK);
    for (long i = n_pieces; i > 0; i--)
        expect(ka_exchange_content(&talk->exchange, content, sizeof content - 1, i > 1, NULL) == KA_OK);
}

static inline void turn(const char *bytes, size_t len)
{
    ka_talk *talk = ka_talk_new(&service, conn);
    ka_talk_step step;
    ka_head head;
    ka_cause cause;
    expect(talk != NULL);
    talk->is_driven = 1;
    ka_talk_arrived(talk, bytes, len);
    expect(ka_conn_progress(table, conn, len, now, &cause) == KA_OK);
    service.counters->received += len;
    while ((step = ka_talk_next(talk, now, &head)) == KA_TALK_REQUEST) {
        answer(talk);
        if (ka_exchange_is_untimed(&talk->exchange))
            ka_exchange_time(&talk->exchange, now);
    }
    expect(step == KA_TALK_READ);
    ka_talk_sent(talk, talk->unsent);
    expect(ka_talk_settle(talk, now) == KA_IDLE && ka_talk_is_idle(talk));
    ka_talk_free(talk);
}

__attribute__((noinline)) void measured(const char *bytes, size_t len) { turn(bytes, len); }

int main(int argc, char **argv)
{
    static char bytes[1 << 20];
    static ka_counters counters;
    const ka_application app = {.on_lost = lost, .release = release};
    if (argc < 3 || ka_simd_select(argv[1]) != KA_OK)
        return 4;
    FILE *file = fopen(argv[2], "rb");
    if (file == NULL)
        return 5;
    size_t n = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    if (argc > 3)
        n_pieces = atol(argv[3]);
    expect(ka_table_new(&table, &ka_capacity_default, 1, &counters) == KA_OK);
    expect(ka_service_init(&service, table, &ka_limits_default, 1 << 20, &app) == KA_OK);
    expect(ka_reply_common_set_server(&service.common, "kacore", 6) == KA_OK);
    ka_reply_common_set_date(&service.common, 784111777);
    expect(ka_conn_open(table, now, 0, NULL, 0, &conn) == KA_OK);
    turn("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27); /* the first one, and what it fills, is not counted */
    for (size_t i = 0; i < n;) {
        uint32_t len;
        memcpy(&len, bytes + i, 4);
        now += SECOND / 1000;
        measured(bytes + i + 4, len);
        i += 4 + len;
    }
    ka_service_free(&service);
    ka_table_free(table);
    return 0;
}
