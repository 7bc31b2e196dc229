/* ka_engine_parts.h: the structures that the files of the engine share. Each calls only those before it: ka_wire.c moves
 * bytes, ka_sock.c has the connections, ka_accept.c lets them in, ka_engine.c has the step. Nobody else includes this. */
#ifndef KA_ENGINE_PARTS_H
#define KA_ENGINE_PARTS_H

#include "ka_engine.h"

#include <errno.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

_Static_assert((int)KA_MAX_LISTENERS <= 64, "a listener fits its six bits");

typedef struct {
    int32_t fd; /* not owned; -1 = free */
    uint8_t policy_class;
    uint8_t knows_clients;
    uint8_t is_paused : 1;   /* taken out of epoll while the table is full: level-triggered, it would spin */
    uint8_t is_off : 1;      /* not listened on; connections that came through it may still be open */
    const ka_filter *filter; /* NULL: none */
    void *filter_ctx;        /* not owned */
} ka_listener;

enum {
    KA_EVENTS = 128 /* a step, at most: see pace in ka_engine.c */
};

/* One that the application closed in the middle of something. */
typedef struct {
    ka_handle conn;
    ka_cause cause;
} ka_doomed;

struct ka_engine {
    ka_driver d; /* first: the moves find the engine by it */
    int epoll_fd, timer_fd, event_fd, spare_fd;
    int64_t date_s;
    ka_sock **chunks;      /* by slot index; owned */
    ka_session **sessions; /* by slot index; owned; NULL until a listener has a filter */
    uint32_t n_chunks, n_shakes;
    uint32_t batch;    /* events that the next step takes at most */
    uint32_t n_events; /* those that ka_engine_wait has left in `events` for it */
    uint8_t is_stepping, has_paused, asks_class;
    uint8_t has_place; /* a connection ended, or can be closed now: listeners that are paused may go on */
    int64_t retry_ns;  /* when paused listeners are watched again in any case, INT64_MAX = none is paused */
    int64_t resend_ns; /* when sends that failed for want of memory are tried again, INT64_MAX = none did */
    int64_t notice_ns; /* no further notice of missing descriptors before */
    uint32_t n_listeners;
    ka_listener listeners[KA_MAX_LISTENERS];
    uint32_t n_inside; /* how deep we are in functions of ours that may call the application */
    ka_doomed *doomed; /* what it closed meanwhile; owned */
    uint32_t n_doomed, doomed_cap;
    uint8_t closes_all, is_freed; /* the same for all: ka_cause; ka_engine_free */
    ka_engine_counters counters;
    struct epoll_event events[KA_EVENTS]; /* of one step */
    char scratch[KA_SCRATCH];
};

/* epoll_data of what is no connection: slot 0, which no handle has. */
enum {
    KA_TAG_TIMER = 1,
    KA_TAG_EVENT = 2,
    KA_TAG_HOST = 3,
    KA_TAG_LISTENER = 16
};
#define KA_TAG(n) ((uint64_t)(n) << 32)

/* How long whatever failed for want of something waits before it is tried again: it may come back without us (a
 * descriptor that the application closes, memory of the kernel, a larger max_connections). */
enum {
    KA_RETRY_NS = 100 * 1000000
};

static inline uint32_t ka_slot_of(ka_handle h) { return (uint32_t)h; }

/* Have a step taken soon. */
static inline void ka_wake(const ka_engine *e)
{
    uint64_t one = 1;
    (void)!write(e->event_fd, &one, sizeof one);
}

static inline int ka_os_error(void) { return -errno - 1000; }

static inline int64_t ka_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

#endif
