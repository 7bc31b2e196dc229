/* ka_filter.c: see ka_filter.h. */
#include "talk/ka_filter.h"

#include <errno.h>

int ka_filter_encrypt(ka_session *session, const ka_talk *talk)
{
    struct iovec iov[KA_WIRE_AHEAD / KA_WIRE_RECORD];
    char piece[KA_WIRE_RECORD];
    const int most = (int)(sizeof iov / sizeof iov[0]);
    int n_iov = 0;
    const ka_buf *buf = talk->out;
    if (buf->fd >= 0) {
        size_t len = ka_buf_len(buf) < sizeof piece ? ka_buf_len(buf) : sizeof piece;
        ptrdiff_t n = ka_buf_read_file(buf, piece, len);
        if (n <= 0)
            return (int)n;
        iov[n_iov++] = (struct iovec){.iov_base = piece, .iov_len = (size_t)n};
        session->n_covered = (size_t)n;
    }
    for (; n_iov < most && buf && buf->fd < 0; buf = buf->next) {
        const char *at = buf->ptr + buf->start;
        for (size_t left = ka_buf_len(buf); left && n_iov < most;) {
            size_t len = left < KA_WIRE_RECORD ? left : KA_WIRE_RECORD;
            iov[n_iov++] = (struct iovec){.iov_base = (void *)(uintptr_t)at, .iov_len = len};
            session->n_covered += len;
            at += len;
            left -= len;
        }
    }
    if (session->filter->write(session, iov, n_iov) < 0) {
        errno = EPROTO;
        return -1;
    }
    return 0;
}
