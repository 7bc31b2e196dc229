/* instructions.c: what bench_instructions.py counts with callgrind: `measured` reads every piece of one input once.
 *
 * Usage: instructions WAY FILE [rounds]. FILE: for each piece its length as 32 bits, then its bytes. A piece is one
 * or more requests. With rounds it prints nanoseconds a piece instead, for a quick look. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "http/ka_body.h"
#include "http/ka_scan.h"

static uint64_t sink;

__attribute__((noinline)) void measured(const char *buf, size_t len)
{
    static ka_field fields[KA_MAX_FIELDS];
    ka_head head;
    ka_body body;
    ka_fault fault;
    for (size_t i = 0; i < len;) {
        if (ka_head_parse(buf + i, len - i, NULL, &ka_limits_default, &head, fields, &fault) != KA_OK)
            exit(2);
        sink += head.n_fields;
        i += head.nbytes;
        ka_body_init(&body, &head);
        for (int rc = KA_BODY_NEEDS; rc != KA_BODY_END;) {
            size_t n;
            ka_span piece;
            rc = ka_body_next(&body, buf + i, len - i, &ka_limits_default, &n, &piece, &fault);
            if (rc < 0 || (rc == KA_BODY_NEEDS && n == 0))
                exit(3);
            i += n;
        }
    }
}

int main(int argc, char **argv)
{
    static char bytes[1 << 20];
    if (argc < 3 || ka_simd_select(argv[1]) != KA_OK)
        return 4;
    FILE *file = fopen(argv[2], "rb");
    if (file == NULL)
        return 5;
    size_t n = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    long rounds = argc > 3 ? atol(argv[3]) : 1, pieces = 0;
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (long r = 0; r < rounds; r++)
        for (size_t i = 0; i < n; pieces++) {
            uint32_t len;
            memcpy(&len, bytes + i, 4);
            measured(bytes + i + 4, len);
            i += 4 + len;
        }
    clock_gettime(CLOCK_MONOTONIC, &to);
    if (argc > 3)
        printf("%.2f\n",
               ((double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec)) / (double)pieces);
    return sink == 0;
}
