/* ka_engine.c: see ka_engine.h. In order: the timer, closing, the step, making and asking. Connections stand in ka_sock.c,
 * letting them in in ka_accept.c. */
#include "ka_accept.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum {
    MIN_EVENTS = 8,
    STEP_NS = 600 * 1000, /* a step is to take no longer, for the sake of the loop's other work */
};

/* --- the timer --- */

static void timer_arm(ka_engine *e) { ka_driver_arm(&e->d, e->retry_ns < e->resend_ns ? e->retry_ns : e->resend_ns); }

/* --- closing, from wherever the application does it ---
 *
 * In the middle of something, that is from within a call of ours, what is to be closed may be in its turn somewhere up
 * the stack. It is noted, and closed when the outermost of our functions is left. */

/* Around whatever may call the application. */
static void enter(ka_engine *e) { e->n_inside++; }

/* For later. */
static void doom(ka_engine *e, ka_handle h, ka_sock *s, ka_cause cause)
{
    if (s->talk)
        ka_talk_end_with(s->talk, cause); /* then it hands over no further request */
    if (e->n_doomed == e->doomed_cap) {
        uint32_t cap = e->doomed_cap ? 2 * e->doomed_cap : 16;
        ka_doomed *doomed = realloc(e->doomed, cap * sizeof *doomed);
        if (doomed == NULL) {
            (void)shutdown(s->fd, SHUT_RDWR); /* its event ends it, though by another cause */
            return;
        }
        e->doomed = doomed;
        e->doomed_cap = cap;
    }
    e->doomed[e->n_doomed++] = (ka_doomed){.conn = h, .cause = cause};
}

static void unmake(ka_engine *e)
{
    int fds[] = {e->epoll_fd, e->timer_fd, e->event_fd, e->spare_fd};
    for (uint32_t i = 0; i < e->n_chunks; i++)
        free(e->chunks[i]);
    free(e->chunks);
    free(e->sessions);
    free(e->doomed);
    ka_driver_free(&e->d);
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(e);
}

static void leave(ka_engine *e)
{
    /* Still inside while it is carried out, since that calls the application again. What it wrote goes out first. */
    while (e->n_inside == 1 && (e->d.service.lists[KA_NOTED].n || e->n_doomed || e->closes_all)) {
        if (e->d.service.lists[KA_NOTED].n) {
            ka_driver_attend(&e->d);
        } else if (e->n_doomed) {
            ka_doomed doomed = e->doomed[--e->n_doomed];
            ka_driver_close(&e->d, doomed.conn, doomed.cause);
        } else {
            ka_cause cause = (ka_cause)e->closes_all;
            e->closes_all = 0;
            ka_driver_close_all(&e->d, cause);
        }
    }
    if (--e->n_inside)
        return;
    if (ka_unlikely(e->is_freed)) {
        unmake(e);
        return;
    }
    if (ka_unlikely(e->d.has_place && e->has_paused))
        ka_listeners_resume(e);
    e->d.has_place = 0;
    timer_arm(e);
}

void ka_engine_close(ka_engine *e, ka_handle conn, ka_cause cause)
{
    ka_sock *s = ka_sock_of(e, conn);
    enter(e);
    if (s)
        doom(e, conn, s, cause);
    leave(e);
}

void ka_engine_close_all(ka_engine *e, ka_cause cause)
{
    enter(e);
    e->closes_all = (uint8_t)cause;
    leave(e);
}

void ka_engine_free(ka_engine *e)
{
    enter(e);
    e->n_listeners = 0;
    e->closes_all = KA_CAUSE_DRAIN;
    e->is_freed = 1;
    leave(e);
}

void ka_engine_attend(ka_engine *e)
{
    enter(e);
    leave(e); /* which comes to it, or whoever is outside of us does */
}

void ka_engine_push(ka_engine *e, ka_talk *talk)
{
    ka_sock *s = ka_sock_of(e, talk->conn);
    (void)ka_engine_now(e);
    enter(e);
    if (s && s->talk == talk)
        ka_sock_push(e, s);
    e->n_inside--; /* not left: what waits for that is not to happen inside the application's code */
    if (ka_unlikely(e->n_inside == 0 && (e->n_doomed || e->closes_all)))
        ka_wake(e);
}

/* --- the step --- */

static void refresh_date(ka_engine *e)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME_COARSE, &t);
    if (t.tv_sec != e->date_s) {
        e->date_s = t.tv_sec;
        ka_reply_common_set_date(&e->d.service.common, t.tv_sec);
    }
}

/* The kernel had no memory for what some were to send. Which ones is not kept: it is rare. O(slots). */
static void send_again(ka_engine *e)
{
    e->resend_ns = INT64_MAX;
    for (uint32_t slot = 1; slot < e->n_chunks * KA_CHUNK; slot++) {
        ka_sock *s = ka_sock_at(e, slot);
        if (s->talk == NULL || s->talk->unsent == 0 || s->can_write)
            continue;
        s->can_write = 1;
        ka_sock_turn(&e->d, s->talk->conn, s);
    }
}

static void drain_counter(int fd)
{
    uint64_t n;
    (void)!read(fd, &n, sizeof n);
}

/* What an event costs is the application's business, so a step is bounded by what the last one took: the events it does
 * not take wait in the kernel, behind those that came before them. */
static void pace(ka_engine *e, uint32_t n, int64_t began_ns)
{
    if (n < MIN_EVENTS)
        return;
    int64_t took = ka_clock() - began_ns;
    if (took > STEP_NS && n >= e->batch / 2)
        e->batch = e->batch / 2 > MIN_EVENTS ? e->batch / 2 : MIN_EVENTS;
    else if (took < STEP_NS / 2 && n == e->batch && e->batch < KA_EVENTS)
        e->batch *= 2;
}

/* For epoll_wait: late by less than a millisecond, never early. */
static int ms_until(int64_t until_ns)
{
    int64_t left_ns;
    if (until_ns == INT64_MAX)
        return -1;
    if (until_ns <= 0 || (left_ns = until_ns - ka_clock()) <= 0)
        return 0;
    return left_ns > INT_MAX * (int64_t)1000000 ? INT_MAX : (int)((left_ns + 999999) / 1000000);
}

int ka_engine_wait(ka_engine *e, int64_t until_ns)
{
    if (e->n_inside)
        return KA_EINVAL;
    if (e->n_events)
        return KA_WAITED_STEP | KA_WAITED_HOST; /* the step that they are for has not come: look at everything */
    int n = epoll_wait(e->epoll_fd, e->events, (int)e->batch, ms_until(until_ns));
    if (n < 0)
        return errno == EINTR ? 0 : ka_os_error();
    int found = n == (int)e->batch ? KA_WAITED_HOST : 0; /* it may wait behind so many */
    for (int i = 0; i < n; i++) {
        if (e->events[i].data.u64 == KA_TAG(KA_TAG_HOST)) {
            found = KA_WAITED_HOST;
            e->events[i] = e->events[--n];
            break;
        }
    }
    e->n_events = (uint32_t)n;
    return n ? found | KA_WAITED_STEP : found;
}

int ka_engine_step(ka_engine *e)
{
    uint32_t ready[KA_MAX_LISTENERS], n_ready = 0;
    if (e->n_inside)
        return KA_EINVAL;
    int n = (int)e->n_events;
    e->n_events = 0;
    if (n == 0 && (n = epoll_wait(e->epoll_fd, e->events, (int)e->batch, 0)) < 0)
        return errno == EINTR ? 0 : ka_os_error();
    enter(e);
    e->is_stepping = 1;
    int64_t began_ns = e->d.now = ka_clock();
    e->counters.steps++;
    e->n_shakes = 0;
    e->counters.events += (uint64_t)n;
    refresh_date(e);
    const uint32_t n_later = e->d.service.lists[KA_LATER].n;
    for (int i = 0; i < n && !e->closes_all; i++) {
        uint64_t tag = e->events[i].data.u64;
        if (ka_slot_of(tag) != 0) {
            ka_sock_event(e, tag, e->events[i].events);
        } else if (tag == KA_TAG(KA_TAG_TIMER)) {
            drain_counter(e->timer_fd);
            e->d.armed_ns = INT64_MAX;
        } else if (tag == KA_TAG(KA_TAG_EVENT)) {
            drain_counter(e->event_fd);
            e->d.service.app.on_wake(e->d.service.app.ctx);
        } else if (tag != KA_TAG(KA_TAG_HOST)) { /* which stays readable until ka_engine_wait says so */
            ready[n_ready++] = (uint32_t)(tag >> 32) - KA_TAG_LISTENER;
        }
    }
    if (ka_unlikely(n_later) && !e->closes_all)
        ka_driver_take_turns(&e->d, n_later < e->batch ? n_later : e->batch);
    ka_driver_expire(&e->d);
    ka_driver_relieve(&e->d);
    if (ka_unlikely(e->d.now >= e->retry_ns))
        ka_listeners_resume(e);
    if (ka_unlikely(e->d.now >= e->resend_ns))
        send_again(e);
    for (uint32_t i = 0; i < n_ready; i++)
        if (ready[i] < e->n_listeners && !e->closes_all)
            (void)ka_accept_some(e, ready[i]);
    ka_driver_attend(&e->d);
    if (e->d.service.lists[KA_LATER].n)
        ka_engine_wake(e); /* here and not before: this step may have used up an earlier one */
    pace(e, (uint32_t)n, began_ns);
    e->is_stepping = 0;
    leave(e);
    return n;
}

/* --- making, unmaking and asking --- */

static int watch(ka_engine *e, int fd, uint64_t tag)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = tag};
    return epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

int ka_engine_new(ka_engine **out, ka_table *table, const ka_limits *limits, size_t max_buffer_bytes,
                  const ka_application *app)
{
    ka_engine *e = calloc(1, sizeof *e);
    if (e == NULL)
        return KA_ENOMEM;
    e->batch = KA_EVENTS;
    e->retry_ns = e->resend_ns = INT64_MAX;
    e->d.now = ka_clock();
    e->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    e->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    e->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    e->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int got = ka_driver_init(&e->d, table, limits, max_buffer_bytes, app, ka_sock_moves);
    if (got == KA_OK &&
        (e->epoll_fd < 0 || e->timer_fd < 0 || e->event_fd < 0 || watch(e, e->timer_fd, KA_TAG(KA_TAG_TIMER)) < 0 ||
         watch(e, e->event_fd, KA_TAG(KA_TAG_EVENT)) < 0))
        got = ka_os_error();
    if (got < 0) {
        ka_engine_free(e);
        return got;
    }
    refresh_date(e);
    *out = e;
    return KA_OK;
}

int ka_engine_watch_host(ka_engine *e, int fd) { return watch(e, fd, KA_TAG(KA_TAG_HOST)) < 0 ? ka_os_error() : KA_OK; }

int ka_engine_set_filter(ka_engine *e, unsigned listener, const ka_filter *filter, void *ctx)
{
    if (listener >= e->n_listeners)
        return KA_EINVAL;
    if (e->sessions == NULL && ka_sessions_grow(e, 0) < 0)
        return KA_ENOMEM;
    e->listeners[listener].filter = filter;
    e->listeners[listener].filter_ctx = ctx;
    return KA_OK;
}

uint64_t ka_process(void)
{
    static uint64_t *shared; /* in a page that a fork empties in the child */
    uint64_t *stamp = __atomic_load_n(&shared, __ATOMIC_ACQUIRE), process;
    if (ka_likely(stamp && (process = __atomic_load_n(stamp, __ATOMIC_RELAXED)) != 0))
        return process;
    process = (uint64_t)getpid();
    if (stamp == NULL) {
        void *page = mmap(NULL, sizeof *stamp, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (page != MAP_FAILED && madvise(page, sizeof *stamp, MADV_WIPEONFORK) < 0) {
            munmap(page, sizeof *stamp);
            page = MAP_FAILED;
        }
        if (page == MAP_FAILED)
            return process;
        if (!__atomic_compare_exchange_n(&shared, &stamp, (uint64_t *)page, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            munmap(page, sizeof *stamp); /* another thread was first */
        else
            stamp = page;
    }
    __atomic_store_n(stamp, process, __ATOMIC_RELAXED);
    return process;
}

int ka_engine_fileno(const ka_engine *e) { return e->epoll_fd; }
ka_driver *ka_engine_driver(ka_engine *e) { return &e->d; }
int ka_engine_is_stepping(const ka_engine *e) { return e->is_stepping; }
int ka_engine_is_inside(const ka_engine *e) { return e->n_inside != 0; }
const ka_engine_counters *ka_engine_stats(const ka_engine *e) { return &e->counters; }

int64_t ka_engine_read_clock(void) { return ka_clock(); }

int64_t ka_engine_now(ka_engine *e)
{
    if (!e->is_stepping)
        e->d.now = ka_clock();
    return e->d.now;
}

void ka_engine_wake(ka_engine *e) { ka_wake(e); }

void ka_engine_drain(ka_engine *e, int64_t grace_ns, int64_t spread_ns, int64_t deadline_ns)
{
    (void)ka_engine_now(e);
    enter(e);
    ka_driver_drain(&e->d, grace_ns, spread_ns, deadline_ns);
    leave(e);
}

void ka_engine_unlisten(ka_engine *e, int fd, int is_last)
{
    enter(e);
    for (uint32_t i = 0; i < e->n_listeners; i++)
        if (e->listeners[i].fd == fd)
            ka_listener_stop(e, i, is_last);
    leave(e);
}

void ka_engine_stop_listening(ka_engine *e)
{
    enter(e);
    for (uint32_t i = 0; i < e->n_listeners; i++)
        ka_listener_stop(e, i, 1);
    leave(e);
}

ka_session *ka_engine_session(ka_engine *e, ka_handle conn)
{
    return ka_sock_of(e, conn) ? ka_session_of(e, conn) : NULL;
}

int ka_engine_adopt(ka_engine *e, unsigned listener, int fd)
{
    if (listener >= e->n_listeners || e->listeners[listener].filter)
        return KA_EINVAL;
    (void)ka_engine_now(e);
    enter(e);
    int got = ka_accept_from_elsewhere(e, listener, fd);
    leave(e);
    return got;
}

/* Nothing of a request is here, and nothing of a response is left: what is said next belongs to nobody yet. */
static int is_quiet(const ka_engine *e, ka_handle conn)
{
    int phase = ka_conn_phase(e->d.service.table, conn);
    return phase == KA_IDLE || phase == KA_NEW;
}

int ka_engine_give_away(ka_engine *e, ka_handle conn)
{
    ka_sock *s = ka_sock_of(e, conn);
    if (s == NULL)
        return KA_ESTALE;
    if (e->d.ending == conn)
        return KA_EINVAL;
    if (ka_session_of(e, conn) || (s->talk ? s->talk->h2 || s->talk->is_driven || s->talk->unsent : !is_quiet(e, conn)))
        return KA_EINVAL;
    int fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return ka_os_error();
    (void)epoll_ctl(e->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL); /* closing it would not, for the file stays open */
    enter(e);
    ka_driver_end(&e->d, conn, s, KA_CAUSE_UPGRADED);
    leave(e);
    return fd;
}

int ka_engine_fd(ka_engine *e, ka_handle conn)
{
    ka_sock *s = ka_sock_of(e, conn);
    return s ? s->fd : -1;
}
