/* ka_buf.c: see ka_buf.h. */
#define _XOPEN_SOURCE 700 /* pread */
#include "talk/ka_buf.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void ka_pool_init(ka_pool *pool, size_t max_bytes, void (*release)(void *owner))
{
    memset(pool, 0, sizeof *pool);
    pool->max_bytes = max_bytes;
    pool->release = release;
}

void ka_pool_free(ka_pool *pool)
{
    for (unsigned k = 0; k < KA_BUF_SIZES; k++) {
        while (pool->free[k]) {
            ka_buf *buf = pool->free[k];
            pool->free[k] = buf->next;
            free(buf);
        }
    }
    pool->kept_bytes = 0;
}

/* Others read it. */
static inline void count_lent(ka_pool *pool, size_t lent)
{
    __atomic_store_n(&pool->lent_bytes, lent, __ATOMIC_RELAXED);
}

ka_buf *ka_buf_take(ka_pool *pool, ka_use use, size_t room)
{
    unsigned k = ka_buf_class(room);
    size_t cap = k < KA_BUF_SIZES ? (size_t)KA_BUF_MIN << k : room; /* at most half of one is empty */
    ka_buf *buf = NULL;
    if (ka_unlikely(!ka_pool_has_room(pool, use, cap) || cap > UINT32_MAX)) {
        ka_pool_refuse(pool);
        return NULL;
    }
    if (k < KA_BUF_SIZES && pool->free[k]) {
        buf = pool->free[k];
        pool->free[k] = buf->next;
        pool->kept_bytes -= cap;
    } else if ((buf = malloc(sizeof *buf + cap)) == NULL) {
        ka_pool_refuse(pool);
        return NULL;
    }
    count_lent(pool, pool->lent_bytes + cap);
    buf->next = NULL;
    buf->ptr = buf->data;
    buf->owner = NULL;
    buf->start = buf->end = 0;
    buf->file_off = 0;
    buf->fd = -1;
    buf->cap = (uint32_t)cap;
    return buf;
}

static ka_buf *refer(ka_pool *pool, const char *ptr, int fd, int64_t off, size_t len, void *owner)
{
    ka_buf *buf = malloc(sizeof *buf);
    if (buf == NULL) {
        ka_pool_refuse(pool);
        return NULL;
    }
    *buf = (ka_buf){.ptr = ptr, .owner = owner, .end = len, .file_off = off, .fd = fd};
    return buf;
}

ka_buf *ka_buf_refer(ka_pool *pool, const char *ptr, size_t len, void *owner)
{
    return refer(pool, ptr, -1, 0, len, owner);
}

ka_buf *ka_buf_refer_file(ka_pool *pool, int fd, int64_t off, size_t len, void *owner)
{
    return refer(pool, NULL, fd, off, len, owner);
}

ptrdiff_t ka_buf_read_file(const ka_buf *buf, char *to, size_t n)
{
    return pread(buf->fd, to, n, (off_t)(buf->file_off + (int64_t)buf->start));
}

void ka_buf_give(ka_pool *pool, ka_buf *buf)
{
    if (buf->cap == 0) {
        void *owner = buf->owner;
        free(buf);
        if (owner)
            pool->release(owner); /* last: it may run arbitrary code */
        return;
    }
    size_t cap = buf->cap;
    unsigned k = ka_buf_class(cap);
    count_lent(pool, pool->lent_bytes - cap);
    if (KA_KEEPS_FREED && k < KA_BUF_SIZES && pool->kept_bytes + cap <= KA_BUF_KEEP) {
        buf->next = pool->free[k];
        pool->free[k] = buf;
        pool->kept_bytes += cap;
    } else {
        free(buf);
    }
}

void ka_buf_give_all(ka_pool *pool, ka_buf *list)
{
    while (list) {
        ka_buf *next = list->next;
        ka_buf_give(pool, list);
        list = next;
    }
}
