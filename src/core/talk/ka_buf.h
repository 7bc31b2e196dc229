/* ka_buf.h: the buffers a connection borrows while it has unparsed or unsent bytes, and the pool they come from.
 *
 * An idle connection holds none. A buffer either has its own bytes (taken from the pool, in one of a few sizes) or
 * refers to somebody else's (a response body: never copied, released through the pool's `release` when sent).
 * The pool is a worker's budget for what strangers can make it hold: the buffers it lends, and what others report as
 * held for a peer (content collected, output ahead of a slow reader, parts of messages). It refuses at `max_bytes`, and
 * what peers send before that: responses and refusals have a reserve that input can never take. A bounded number of
 * free buffers is kept warm.
 *
 * A pool belongs to one thread. What is counted is atomic all the same, since others may hold and let go: the threads of an
 * application that is ahead of its client. */
#ifndef KA_BUF_H
#define KA_BUF_H

#include "ka_base.h"

typedef struct ka_buf {
    struct ka_buf *next; /* the owner's list, or the pool's free list */
    const char *ptr;     /* own bytes at `data`, or the owner's bytes */
    void *owner;         /* NULL: own bytes; else released by the pool's `release` */
    size_t start, end;   /* unread bytes: ptr[start..end) */
    int64_t file_off;    /* with fd >= 0: where in the file `start` is counted from */
    int fd;              /* >= 0: bytes of this file, sent by sendfile; not owned, `owner` keeps it open */
    uint32_t cap;        /* own bytes: room at `data`; 0 for a reference */
    char data[];
} ka_buf;

enum {
    KA_BUF_SIZES = 7,
    KA_BUF_MIN = 2048,
    KA_BUF_KEEP = 1 << 20
};

/* What memory of the budget is for. */
typedef enum {
    KA_USE_INPUT, /* from the peer: heads, what is sent ahead, content, messages. Not out of the reserve */
    KA_USE_OUTPUT /* for the peer: responses, refusals */
} ka_use;

typedef struct {
    ka_buf *free[KA_BUF_SIZES]; /* 2 KiB, 4 KiB ... 128 KiB */
    size_t lent_bytes;          /* own bytes in use */
    size_t held_bytes;          /* held elsewhere: ka_pool_hold */
    size_t kept_bytes;          /* own bytes on the free lists; at most KA_BUF_KEEP */
    size_t max_bytes;           /* cap on lent_bytes + held_bytes */
    size_t refused;             /* how often the cap or malloc said no */
    void (*release)(void *owner);
} ka_pool;

void ka_pool_init(ka_pool *pool, size_t max_bytes, void (*release)(void *owner));
void ka_pool_free(ka_pool *pool);

static inline size_t ka_pool_used(const ka_pool *pool)
{
    return __atomic_load_n(&pool->lent_bytes, __ATOMIC_RELAXED) + __atomic_load_n(&pool->held_bytes, __ATOMIC_RELAXED);
}

static inline void ka_pool_refuse(ka_pool *pool) { __atomic_fetch_add(&pool->refused, 1, __ATOMIC_RELAXED); }

/* What responses and refusals have for themselves. */
static inline size_t ka_pool_reserve(const ka_pool *pool) { return pool->max_bytes / 4; }

static inline int ka_pool_has_room(const ka_pool *pool, ka_use use, size_t nbytes)
{
    size_t most = pool->max_bytes - (use == KA_USE_INPUT ? ka_pool_reserve(pool) : 0), used = ka_pool_used(pool);
    return used <= most && nbytes <= most - used;
}

/* Count bytes that are held for a peer elsewhere than in buffers of the pool. KA_OK, or KA_ENOMEM: there is no room
 * for them, and nothing is counted. Whoever was told KA_OK lets go of them later. From any thread: several at once may
 * go over the cap by what they hold, which is a piece of content each. */
static inline int ka_pool_hold(ka_pool *pool, ka_use use, size_t nbytes)
{
    if (ka_unlikely(!ka_pool_has_room(pool, use, nbytes))) {
        ka_pool_refuse(pool);
        return KA_ENOMEM;
    }
    __atomic_fetch_add(&pool->held_bytes, nbytes, __ATOMIC_RELAXED);
    return KA_OK;
}

static inline void ka_pool_let_go(ka_pool *pool, size_t nbytes)
{
    size_t held = __atomic_fetch_sub(&pool->held_bytes, nbytes, __ATOMIC_RELAXED);
    ka_assert(nbytes <= held);
    (void)held;
}

/* Half of the budget is used: what can be moved to a file is to be moved. */
static inline int ka_pool_is_tight(const ka_pool *pool) { return ka_pool_used(pool) > pool->max_bytes / 2; }

/* A buffer with room for at least `room` bytes, or NULL at the cap or out of memory. */
ka_buf *ka_buf_take(ka_pool *pool, ka_use use, size_t room);

/* A buffer that refers to ptr[0..len), and takes over the caller's hold on `owner`. NULL: out of memory, and the hold stays
 * the caller's. */
ka_buf *ka_buf_refer(ka_pool *pool, const char *ptr, size_t len, void *owner);

/* The same for bytes [off, off+len) of an open file. */
ka_buf *ka_buf_refer_file(ka_pool *pool, int fd, int64_t off, size_t len, void *owner);

/* `n` bytes of the file from where the buffer stands, for who cannot leave it to the kernel. Return how many there were,
 * fewer at its end; -1 with errno. */
ptrdiff_t ka_buf_read_file(const ka_buf *buf, char *to, size_t n);

void ka_buf_give(ka_pool *pool, ka_buf *buf);
void ka_buf_give_all(ka_pool *pool, ka_buf *list);

/* Which of the sizes has room for so much; KA_BUF_SIZES: none, such a buffer is made as large as it must be. */
static inline unsigned ka_buf_class(size_t room)
{
    unsigned k = 0;
    while (k < KA_BUF_SIZES && (size_t)KA_BUF_MIN << k < room)
        k++;
    return k;
}

static inline size_t ka_buf_len(const ka_buf *buf) { return buf->end - buf->start; }
/* Bytes that can still be written behind `end`: none in a reference. */
static inline size_t ka_buf_room(const ka_buf *buf) { return buf->cap ? buf->cap - buf->end : 0; }

#endif
