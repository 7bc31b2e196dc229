/* faults.h: system calls and allocations that fail the way a kernel may let them fail, by a seeded generator.
 *
 * Two ways in. A C test whose comment says `wrap: recv send ...` is linked with those names wrapped, and switches the
 * faults on around the code under test. Compiled with -DFAULTS_PRELOAD as a library for LD_PRELOAD, it acts on calls
 * out of kacore's extension only, from the environment: FAULTS="seed=1 recv=20 send=20 accept=50" in tenths of a
 * percent; at exit it says on standard error how many it made.
 *
 * A failure that a real kernel follows by an event (EAGAIN, a short read or write) is followed by that event here too,
 * else an edge-triggered server would wait for what cannot come. One after which nothing comes (ENOBUFS) is not. */
#ifndef FAULTS_H
#define FAULTS_H

#include <stdint.h>

typedef enum {
    FAULT_RECV,   /* EINTR, less than is there */
    FAULT_SEND,   /* EINTR, EAGAIN, ENOBUFS, ENOMEM, less than was asked */
    FAULT_ACCEPT, /* EMFILE, ENFILE, ENOBUFS, ENOMEM, ECONNABORTED, EINTR */
    FAULT_WATCH,  /* epoll_ctl(ADD): ENOSPC, ENOMEM */
    FAULT_OPEN,   /* EMFILE, ENFILE */
    FAULT_MEMORY, /* malloc, calloc, realloc: NULL */
    N_FAULTS
} fault_kind;

typedef struct {
    int is_on;
    uint64_t state;              /* of the generator */
    unsigned permille[N_FAULTS]; /* of the calls at which a run of failures begins */
    unsigned longest_run;        /* calls in a row that fail alike */
    int only;                    /* an errno: no other failure, and no short counts; 0 = any */
    uint64_t n_calls[N_FAULTS], n_made[N_FAULTS];
    unsigned run[N_FAULTS]; /* calls that the present run still fails */
    int how[N_FAULTS];      /* its errno, 0 = a short count */
    int sent_flags;         /* of the last send or sendmsg, on or off */
} fault_plan;

extern fault_plan faults;

uint64_t faults_random(uint64_t *state);

#endif
