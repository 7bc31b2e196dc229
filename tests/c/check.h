/* check.h: the little that a C test needs: CHECK, and bytes that end right before an unreadable page.
 *
 * A test program is a file tests/c/<name>_test.c whose comment `link: ka_a ka_b` names the files of the core it is built
 * with (`link: core`: all), and `wrap: recv send` the functions that faults.c stands before; it returns CHECKS_DONE from
 * main. tests/c/test_c_programs.py compiles and runs each, plainly and with sanitizers. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int checks_made, checks_failed;

#define CHECK(condition, ...)                                               \
    do {                                                                    \
        checks_made++;                                                      \
        if (!(condition)) {                                                 \
            checks_failed++;                                                \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
            fprintf(stderr, __VA_ARGS__);                                   \
            fputc('\n', stderr);                                            \
        }                                                                   \
    } while (0)

#define EXPECT(condition) CHECK(condition, "it is not so")

/* A program that checked nothing has failed. */
#define CHECKS_DONE (printf("%d checks, %d failed\n", checks_made, checks_failed), checks_failed || !checks_made)

enum {
    EDGE_BYTES = 1 << 17
};

/* A copy of `n` <= EDGE_BYTES bytes whose end is the end of the last readable page. One copy at a time. */
static inline char *at_the_edge(const char *bytes, size_t n)
{
    static char *map;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (map == NULL) {
        map = mmap(NULL, EDGE_BYTES + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map == MAP_FAILED || mprotect(map + EDGE_BYTES, page, PROT_NONE) != 0)
            exit(99);
    }
    return memcpy(map + EDGE_BYTES - n, bytes, n);
}

#endif
