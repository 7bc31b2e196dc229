/* ka_wire.c: see ka_wire.h. In order: receiving, sending, through a filter and straight. */
#define _GNU_SOURCE
#include "ka_wire.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PROBE_SECONDS = 5,
    IOVECS = 16,
    FILE_BYTES = 512 * 1024 /* a sendfile */
};

/* --- receiving --- */

/* Return n > 0, 0 at FIN, or -1 with errno. Edge-triggered: a short read means that the kernel is empty, unless FIN
 * was announced, which can come with data. */
static ssize_t receive_raw(ka_sock *s, char *to, size_t room, int *is_used_up, uint64_t *n_calls)
{
    ssize_t n;
    do
        n = recv(s->fd, to, room, 0);
    while (n < 0 && errno == EINTR);
    ++*n_calls;
    *is_used_up = n < 0 || ((size_t)n < room && !s->saw_fin);
    return n;
}

ssize_t ka_wire_feed(ka_sock *s, ka_session *session, char *scratch, uint64_t *n_calls)
{
    int is_used_up;
    if (session->is_drained)
        return KA_PARTIAL;
    /* A record at a time: a filter's own buffers stay as large as what was put in at once. */
    ssize_t n = receive_raw(s, scratch, KA_WIRE_RECORD, &is_used_up, n_calls);
    session->is_drained = is_used_up != 0;
    if (n < 0)
        return errno == EAGAIN ? KA_PARTIAL : KA_EPEER;
    session->n_raw += (uint32_t)n;
    int got = session->filter->feed(session, scratch, (size_t)n);
    return got < 0 ? got : n;
}

/* KA_PARTIAL with s->can_read still set: there is more, for a turn to come. */
static ssize_t receive_through(ka_sock *s, ka_session *session, char *scratch, char *to, size_t room, uint64_t *n_calls)
{
    size_t total = 0;
    for (;;) {
        ptrdiff_t n = session->filter->read(session, to, room);
        if (n > 0 && session->is_drained && session->is_empty)
            s->can_read = 0; /* known without asking both once more */
        if (n != KA_PARTIAL || session->has_more || total >= KA_SCRATCH)
            return n;
        ssize_t fed = ka_wire_feed(s, session, scratch, n_calls);
        if (fed == KA_PARTIAL)
            s->can_read = 0; /* nothing in the kernel, nothing inside */
        if (fed < 0)
            return fed;
        total += (size_t)fed;
        if (fed == 0)
            session->is_drained = 1; /* FIN is known: what the filter makes of it comes from the next read */
    }
}

ssize_t ka_wire_receive(ka_sock *s, ka_session *session, char *scratch, char *to, size_t room, uint64_t *n_calls)
{
    int is_used_up;
    if (session)
        return receive_through(s, session, scratch, to, room, n_calls);
    ssize_t n = receive_raw(s, to, room, &is_used_up, n_calls);
    if (is_used_up)
        s->can_read = 0;
    return n >= 0 ? n : errno == EAGAIN ? KA_PARTIAL : KA_EPEER;
}

void ka_wire_probe(int fd)
{
    const int on = 1, seconds = PROBE_SECONDS;
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on); /* a unix socket's close says so by itself */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof seconds);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof seconds);
}

/* --- sending --- */

ssize_t ka_wire_send_session(ka_sock *s, ka_session *session, int is_last)
{
    if (session->out_len == 0)
        return 0;
    size_t asked = session->out_len;
    s->is_corked = is_last != 0;
    ssize_t n = send(s->fd, session->out, asked, MSG_NOSIGNAL | (is_last ? MSG_MORE : 0));
    if (n > 0) {
        session->filter->sent(session, (size_t)n);
        if ((size_t)n < asked)
            s->can_write = 0;
    }
    return n;
}

static ssize_t send_through(ka_sock *s, ka_session *session, const ka_talk *talk, size_t *n_done)
{
    if (session->out_len == 0) {
        if (ka_filter_encrypt(session, talk) < 0)
            return -1;
        if (session->n_covered == 0)
            return 0;
    }
    ssize_t n = ka_wire_send_session(s, session, talk->is_last);
    if (n >= 0 && session->out_len == 0) {
        *n_done = session->n_covered;
        session->n_covered = 0;
    }
    return n;
}

/* The kernel sends the file from its own pages. At most FILE_BYTES a call, since a file on a slow disk holds up
 * everybody. */
static ssize_t send_file(const ka_sock *s, const ka_buf *buf)
{
    off_t at = (off_t)(buf->file_off + (int64_t)buf->start);
    size_t len = ka_buf_len(buf);
    return sendfile(s->fd, buf->fd, &at, len < FILE_BYTES ? len : FILE_BYTES);
}

ssize_t ka_wire_send(ka_sock *s, ka_session *session, ka_talk *talk, size_t most, size_t *n_done)
{
    struct iovec iov[IOVECS];
    struct msghdr message = {.msg_iov = iov};
    size_t asked = 0;
    ssize_t n;
    int n_iov = 0;
    *n_done = 0;
    if (session)
        return send_through(s, session, talk, n_done);
    const ka_buf *buf = talk->out;
    if (buf->fd >= 0) { /* a short count says nothing here: ask until EAGAIN, or 0 at the file's end */
        n = send_file(s, buf);
    } else {
        for (; buf && n_iov < IOVECS && buf->fd < 0 && asked < most; buf = buf->next, n_iov++) {
            size_t len = ka_buf_len(buf) < most - asked ? ka_buf_len(buf) : most - asked;
            iov[n_iov].iov_base = (void *)(uintptr_t)(buf->ptr + buf->start);
            iov[n_iov].iov_len = len;
            asked += len;
        }
        /* A head does not leave in a packet of its own when a file follows, nor what is last when FIN does. */
        s->is_corked = talk->is_last && buf == NULL;
        int flags = MSG_NOSIGNAL | (s->is_corked || (buf && buf->fd >= 0) ? MSG_MORE : 0);
        message.msg_iovlen = (size_t)n_iov;
        n = n_iov == 1 ? send(s->fd, iov[0].iov_base, iov[0].iov_len, flags) : sendmsg(s->fd, &message, flags);
    }
    if (n > 0) {
        *n_done = (size_t)n;
        if ((size_t)n < asked)
            s->can_write = 0;
    }
    return n;
}

void ka_wire_shut(ka_sock *s, ka_session *session)
{
    if (session->out_len)
        return; /* behind bytes that will not be sent it would tell a lie */
    session->filter->shut(session);
    (void)ka_wire_send_session(s, session, 1);
}
