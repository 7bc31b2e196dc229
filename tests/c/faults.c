/* faults.c: see faults.h. In order: the generator, events that follow, the calls. */
#define _GNU_SOURCE
#include "faults.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

fault_plan faults = {.longest_run = 4};

uint64_t faults_random(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

enum {
    SHORT = 0,
    MOST = 8
};
static const struct {
    unsigned n;
    int how[MOST];
} ways[N_FAULTS] = {
    [FAULT_RECV] = {3, {EINTR, SHORT, SHORT}}, /* no EAGAIN: a kernel never says it when bytes are there */
    [FAULT_SEND] = {6, {EINTR, EAGAIN, ENOBUFS, ENOMEM, SHORT, SHORT}},
    [FAULT_ACCEPT] = {6, {EMFILE, ENFILE, ENOBUFS, ENOMEM, ECONNABORTED, EINTR}},
    [FAULT_WATCH] = {2, {ENOSPC, ENOMEM}},
    [FAULT_OPEN] = {2, {EMFILE, ENFILE}},
    [FAULT_MEMORY] = {1, {ENOMEM}},
};

/* Return whether this call fails, with *how. */
static int fails(fault_kind kind, int *how)
{
    fault_plan *f = &faults;
    f->n_calls[kind]++;
#ifdef FAULTS_PRELOAD
    if (f->n_calls[FAULT_ACCEPT] == 0)
        return 0; /* a server that cannot start says so and ends: nothing to see */
#endif
    if (f->run[kind] == 0) {
        if (faults_random(&f->state) % 1000 >= f->permille[kind])
            return 0;
        f->run[kind] = 1 + (unsigned)(faults_random(&f->state) % f->longest_run);
        f->how[kind] = f->only ? f->only : ways[kind].how[faults_random(&f->state) % ways[kind].n];
    }
    f->run[kind]--;
    f->n_made[kind]++;
    *how = f->how[kind];
    return 1;
}

/* --- the event that follows --- */

enum {
    MAX_FDS = 1 << 16
};
static struct {
    int epoll_fd;
    uint32_t events;
    uint64_t tag;
} watched[MAX_FDS];

#ifdef FAULTS_PRELOAD
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>

static uintptr_t ours_from, ours_to;
static __thread int is_inside; /* the dynamic linker allocates too */

static int find_ours(struct dl_phdr_info *info, size_t size, void *ctx)
{
    (void)size, (void)ctx;
    if (strstr(info->dlpi_name, "/kacore/_core.") == NULL)
        return 0;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_LOAD && (info->dlpi_phdr[i].p_flags & PF_X)) {
            ours_from = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
            ours_to = ours_from + info->dlpi_phdr[i].p_memsz;
        }
    return 1;
}

/* Is this a call out of kacore's extension? It is looked for until it is there: at epoll_ctl, which it calls first. */
static int is_ours(void *caller, int may_look)
{
    if (!faults.is_on || is_inside)
        return 0;
    if (ours_to == 0 && may_look) {
        is_inside = 1;
        dl_iterate_phdr(find_ours, NULL);
        is_inside = 0;
    }
    return (uintptr_t)caller >= ours_from && (uintptr_t)caller < ours_to;
}

#define CALL(name) name
#define REAL(result, name, ...)         \
    static result (*real)(__VA_ARGS__); \
    if (real == NULL)                   \
    real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)
#define IS_ON(may_look) is_ours(__builtin_return_address(0), may_look)
#define REAL_EPOLL_CTL ((int (*)(int, int, int, struct epoll_event *))dlsym(RTLD_NEXT, "epoll_ctl"))

__attribute__((constructor)) static void read_plan(void)
{
    static const char *const names[N_FAULTS] = {"recv=", "send=", "accept=", "watch=", "open=", "memory="};
    const char *text = getenv("FAULTS"), *at;
    if (text == NULL)
        return;
    if ((at = strstr(text, "seed=")) != NULL)
        faults.state = strtoull(at + 5, NULL, 10);
    for (int i = 0; i < N_FAULTS; i++)
        if ((at = strstr(text, names[i])) != NULL)
            faults.permille[i] = (unsigned)atoi(at + strlen(names[i]));
    faults.is_on = 1;
}

__attribute__((destructor)) static void tell(void)
{
    if (ours_to == 0)
        return;
    fprintf(stderr, "faults made: recv %llu send %llu accept %llu watch %llu open %llu memory %llu\n",
            (unsigned long long)faults.n_made[FAULT_RECV], (unsigned long long)faults.n_made[FAULT_SEND],
            (unsigned long long)faults.n_made[FAULT_ACCEPT], (unsigned long long)faults.n_made[FAULT_WATCH],
            (unsigned long long)faults.n_made[FAULT_OPEN], (unsigned long long)faults.n_made[FAULT_MEMORY]);
}
#else
#define CALL(name) __wrap_##name
#define REAL(result, name, ...)               \
    extern result __real_##name(__VA_ARGS__); \
    result (*real)(__VA_ARGS__) = __real_##name
#define IS_ON(may_look) faults.is_on
extern int __real_epoll_ctl(int, int, int, struct epoll_event *);
#define REAL_EPOLL_CTL __real_epoll_ctl
#endif

/* Whatever the socket is ready for is reported again. */
static void remind(int fd)
{
    if (fd < 0 || fd >= MAX_FDS || watched[fd].epoll_fd == 0)
        return;
    struct epoll_event event = {.events = watched[fd].events, .data.u64 = watched[fd].tag};
    int saved = errno;
    (void)REAL_EPOLL_CTL(watched[fd].epoll_fd, EPOLL_CTL_MOD, fd, &event);
    errno = saved;
}

/* --- the calls --- */

int CALL(epoll_ctl)(int epoll_fd, int op, int fd, struct epoll_event *event)
{
    REAL(int, epoll_ctl, int, int, int, struct epoll_event *);
    int how;
    if (!IS_ON(1))
        return real(epoll_fd, op, fd, event);
    if (op == EPOLL_CTL_ADD && fails(FAULT_WATCH, &how)) {
        errno = how;
        return -1;
    }
    if (fd >= 0 && fd < MAX_FDS) {
        int is_edge = op != EPOLL_CTL_DEL && (event->events & (uint32_t)EPOLLET);
        watched[fd].epoll_fd = is_edge ? epoll_fd : 0;
        if (is_edge) {
            watched[fd].events = event->events;
            watched[fd].tag = event->data.u64;
        }
    }
    return real(epoll_fd, op, fd, event);
}

/* Decide about a call that moves `len` bytes. Return whether it has failed; else *len may be less. */
static int moves_fewer(fault_kind kind, int fd, size_t *len)
{
    int how;
    if (!fails(kind, &how))
        return 0;
    if (how == EAGAIN || how == SHORT)
        remind(fd);
    if (how == SHORT) {
        if (*len > 1)
            *len = 1 + (size_t)(faults_random(&faults.state) % (*len < 64 ? *len : 64));
        return 0;
    }
    errno = how;
    return 1;
}

ssize_t CALL(recv)(int fd, void *to, size_t len, int flags)
{
    REAL(ssize_t, recv, int, void *, size_t, int);
    size_t asked = len;
    if (!IS_ON(0) || (flags & MSG_PEEK))
        return real(fd, to, len, flags);
    if (moves_fewer(FAULT_RECV, fd, &len))
        return -1;
    ssize_t n = real(fd, to, len, flags);
    if (len < asked)
        remind(fd); /* the rest has come just now */
    return n;
}

ssize_t CALL(send)(int fd, const void *from, size_t len, int flags)
{
    REAL(ssize_t, send, int, const void *, size_t, int);
    size_t asked = len;
    faults.sent_flags = flags;
    if (!IS_ON(0))
        return real(fd, from, len, flags);
    if (moves_fewer(FAULT_SEND, fd, &len))
        return -1;
    ssize_t n = real(fd, from, len, flags);
    if (len < asked)
        remind(fd);
    return n;
}

ssize_t CALL(sendmsg)(int fd, const struct msghdr *message, int flags)
{
    REAL(ssize_t, sendmsg, int, const struct msghdr *, int);
    faults.sent_flags = flags;
    if (!IS_ON(0))
        return real(fd, message, flags);
    size_t first = message->msg_iovlen ? message->msg_iov[0].iov_len : 0, len = first;
    if (moves_fewer(FAULT_SEND, fd, &len))
        return -1;
    if (len == first)
        return real(fd, message, flags);
    struct iovec iov = {.iov_base = message->msg_iov[0].iov_base, .iov_len = len};
    struct msghdr one = *message;
    one.msg_iov = &iov;
    one.msg_iovlen = 1;
    ssize_t n = real(fd, &one, flags);
    remind(fd);
    return n;
}

ssize_t CALL(sendfile)(int to, int from, off_t *at, size_t len)
{
    REAL(ssize_t, sendfile, int, int, off_t *, size_t);
    size_t asked = len;
    if (!IS_ON(0))
        return real(to, from, at, len);
    if (moves_fewer(FAULT_SEND, to, &len))
        return -1;
    ssize_t n = real(to, from, at, len);
    if (len < asked)
        remind(to);
    return n;
}

int CALL(accept4)(int fd, struct sockaddr *from, socklen_t *len, int flags)
{
    REAL(int, accept4, int, struct sockaddr *, socklen_t *, int);
    int how;
    if (IS_ON(0) && fails(FAULT_ACCEPT, &how)) {
        errno = how;
        return -1;
    }
    return real(fd, from, len, flags);
}

int CALL(open)(const char *path, int flags, ...)
{
    REAL(int, open, const char *, int, ...);
    va_list rest;
    va_start(rest, flags);
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0, how;
    va_end(rest);
    if (IS_ON(0) && fails(FAULT_OPEN, &how)) {
        errno = how;
        return -1;
    }
    return real(path, flags, mode);
}

/* --- memory --- */

#ifdef FAULTS_PRELOAD
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
#define REAL_MEMORY(name) __libc_##name
#else
extern void *__real_malloc(size_t), *__real_calloc(size_t, size_t), *__real_realloc(void *, size_t);
#define REAL_MEMORY(name) __real_##name
#endif

#ifndef FAULTS_SPARE_MEMORY /* under AddressSanitizer, whose own malloc is the one to call */
void *CALL(malloc)(size_t size)
{
    int how;
    return IS_ON(0) && fails(FAULT_MEMORY, &how) ? NULL : REAL_MEMORY(malloc)(size);
}

void *CALL(calloc)(size_t n, size_t size)
{
    int how;
    return IS_ON(0) && fails(FAULT_MEMORY, &how) ? NULL : REAL_MEMORY(calloc)(n, size);
}

void *CALL(realloc)(void *old, size_t size)
{
    int how;
    return IS_ON(0) && fails(FAULT_MEMORY, &how) ? NULL : REAL_MEMORY(realloc)(old, size);
}
#endif
