/* ka_engine_parts.h: what the files of the engine share: its structures, and the few ways from one file to another.
 *
 * ka_engine.c moves the bytes of open connections and ends them; ka_accept.c lets connections in and turns them away;
 * ka_closing.c closes what the application wants closed.
 * Nobody else includes this. */
#ifndef KA_ENGINE_PARTS_H
#define KA_ENGINE_PARTS_H

#include "ka_engine.h"

#include <errno.h>
#include <time.h>

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

/* One that the application closed in the middle of something. */
typedef struct {
    ka_handle conn;
    ka_cause cause;
} ka_doomed;

struct ka_engine {
    ka_service service; /* first, so that the port's `attend` finds the engine */
    ka_table *table;    /* not owned */
    ka_calls calls;
    int epoll_fd, timer_fd, event_fd, spare_fd;
    int64_t now, armed_ns; /* armed_ns: what the timer is set to, INT64_MAX = off */
    int64_t date_s;
    size_t turn_bytes;     /* of input, in the turn that is being taken */
    ka_sock **chunks;      /* by slot index; owned */
    ka_session **sessions; /* by slot index; owned; NULL until a listener has a filter */
    uint32_t n_chunks, n_shakes;
    uint32_t batch; /* events that the next step takes at most */
    uint8_t is_stepping, has_paused, asks_class;
    int64_t retry_ns;     /* when paused listeners are watched again in any case, INT64_MAX = none is paused */
    int64_t resend_ns;    /* when sends that failed for want of memory are tried again, INT64_MAX = none did */
    uint8_t has_unlisted; /* talks are noted that `noted` had no room for */
    int64_t notice_ns;    /* no further notice of missing descriptors before */
    ka_trust trust;
    uint32_t n_listeners;
    ka_listener listeners[KA_MAX_LISTENERS];
    ka_handle *noted; /* talks to attend to after the application's calls; owned */
    uint32_t n_noted, noted_cap;
    ka_handle *later; /* whose next turn comes in another step, in the order they asked; owned */
    uint32_t n_later, later_cap;
    uint32_t n_inside; /* how deep we are in functions of ours that may call the application */
    ka_doomed *doomed; /* what it closed meanwhile; owned */
    uint32_t n_doomed, doomed_cap;
    uint8_t closes_all, is_freed, is_nested; /* the same for all: ka_cause; ka_engine_free; accepting, meanwhile */
    ka_engine_counters counters;
    char scratch[KA_SCRATCH];
};

/* epoll_data of what is no connection: slot 0, which no handle has. */
enum {
    KA_TAG_TIMER = 1,
    KA_TAG_EVENT = 2,
    KA_TAG_LISTENER = 16
};
#define KA_TAG(n) ((uint64_t)(n) << 32)

/* How long whatever failed for want of something waits before it is tried again: it may come back without us (a
 * descriptor that the application closes, memory of the kernel, a larger max_connections). */
enum {
    KA_RETRY_NS = 100 * 1000000
};

/* In ka_engine.c. */
ka_sock *ka_sock_of(ka_engine *e, ka_handle h);   /* NULL for a stale handle */
ka_sock *ka_sock_make(ka_engine *e, ka_handle h); /* NULL: out of memory */
void ka_sock_end(ka_engine *e, ka_handle h, ka_sock *s, ka_cause cause);
void ka_sock_look(ka_engine *e, ka_handle h, ka_sock *s);  /* once more at the kernel, before a verdict */
void ka_sock_evict(ka_engine *e, ka_handle h, ka_sock *s); /* its place is needed */
void ka_noted_attend(ka_engine *e);                        /* a turn for the talks that are noted */
void ka_timer_arm(ka_engine *e);                           /* for what is due next */

/* In ka_closing.c. Around whatever may call the application: what it may not do in the middle is noted, and done when the outermost of
 * them is left. The engine may be gone then. */
static inline void ka_engine_enter(ka_engine *e) { e->n_inside++; }
void ka_engine_leave(ka_engine *e);

/* In ka_accept.c. */
int ka_accept_some(ka_engine *e, uint32_t listener); /* return whether more may be waiting */
void ka_listeners_resume(ka_engine *e);
/* Read a PROXY header: KA_OK, KA_PARTIAL, KA_EPEER: is none, KA_ESTALE: gone, KA_ECLIENT, KA_ENOMEM. */
int ka_sock_introduce(ka_engine *e, ka_handle h, ka_sock *s);
void ka_say_no(ka_engine *e, int fd, unsigned listener); /* 503 and FIN; closing is left */

static inline uint32_t ka_slot_of(ka_handle h) { return (uint32_t)h; }

static inline int ka_os_error(void) { return -errno - 1000; }

static inline int64_t ka_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

#endif
