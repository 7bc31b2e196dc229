/* ka_store.h: where connections are remembered: slots, handles, queues, per-client lists. Private to this room.
 *
 * Holds the mechanism only: what a phase means, which moves are legal and what a timeout is, the files above know.
 * Knows no socket, no clock, no Python object, no random source: `now` and the hash seed are arguments.
 *
 * Invariants, walked by ka_store_check():
 *  - a slot is on the free list, or in exactly one queue: that of its (class, lane);
 *  - a queue is ordered by since_ns: members enter at the tail and `now` never decreases;
 *  - an idle connection of a known client is on that client's idle list, in the same order;
 *  - the counts equal what the lists hold;
 *  - slot 0 is never handed out, so handle 0 and slot 0 mean "none". */
#ifndef KA_STORE_H
#define KA_STORE_H

#include "table/ka_learned.h"
#include "table/ka_phase.h"

/* What belongs to a connection lies in several arrays, by when it is needed: a touch reads the slot and the link and
 * writes the links of two neighbours and the tail, wherever they are, so the fewer bytes lie beside a link the better. */
typedef struct {
    uint32_t next, prev; /* in the queue of its class and phase, a ring through its anchor; free list: next */
} ka_link;

typedef struct {
    uint64_t since_phase;  /* ns since the table's first `now` (60 bits: 36 years) << 4 | phase */
    uint32_t gen;          /* must equal the handle's upper half, else the handle is stale */
    uint32_t client_class; /* index of the client record, 0 = none, << 6 | class */
} ka_slot;

/* What a phase needs for itself. */
typedef union {
    struct {
        uint32_t next, prev; /* IDLE, known client: the ring of that client's idle connections */
    } ring;
    struct {
        uint32_t spent;  /* other phases: time waited in this rate window, in us, saturating; LINGER: its start,
                                in 2^20 ns, rounded up, modulo 2^32 */
        uint32_t nbytes; /* moved in it, saturating; LINGER: bytes thrown away; multiplexed: open streams */
    } rate;
} ka_extra;

/* What a request needs and a touch does not. */
typedef struct {
    ka_extra extra;
    uint32_t requests;
    uint32_t opened; /* in 2^24 ns, rounded up, modulo 2^32 */
} ka_rest;

typedef struct {
    uint8_t home;   /* the class it was accepted under */
    uint8_t ending; /* low bits: the ka_cause it is about to end by; KA_IS_*, KA_RATE_* */
} ka_mark;

typedef struct {
    ka_link link[KA_CHUNK];
    ka_slot slot[KA_CHUNK];
    ka_rest rest[KA_CHUNK];
    ka_mark mark[KA_CHUNK];
} ka_chunk;
_Static_assert(sizeof(ka_chunk) == (size_t)42 * KA_CHUNK, "42 bytes a connection");

enum {
    KA_PHASE_BITS = 4,
    KA_CLASS_BITS = 6,
    KA_CHUNK_BITS = 12,
    KA_CLIENT_CHUNK_BITS = 10,
    KA_BUCKET_CHUNK_BITS = 10,
    KA_CLOCK_BITS = 60,
    KA_MAX_CONNECTIONS = (1 << 26) - 2, /* what is left for a client's index beside a class */
    KA_IS_MULTIPLEXED = 0x80,
    KA_RATE_IS_SENDING = 0x40, /* the rate window is of WRITE, not of BODY */
    KA_WAS_IDLE = 0x20,        /* LINGER: we closed it idle, so a byte now is a request that crossed the close */
    KA_WAS_SLOW = 0x20,        /* BODY, WRITE: its last whole rate window was below min_rate_when_full */
    KA_ENDING_MASK = 0x1f,
    /* A lane is a phase, but for IDLE, which has one for each rung of the ladder: one queue is one timeout. */
    KA_N_LANES = KA_N_PHASES + KA_N_RUNGS - 1,
    KA_N_ANCHORS = KA_N_LANES * KA_N_CLASSES /* the first slots are the anchors of the queues, so no end is special */
};
_Static_assert((int)KA_N_LANES <= 32, "a bit each");
_Static_assert((int)KA_N_ANCHORS < (int)KA_CHUNK, "anchors lie in the first chunk");
_Static_assert((int)KA_N_PHASES <= 1 << KA_PHASE_BITS && (int)KA_N_CLASSES == 1 << KA_CLASS_BITS, "packed above");
_Static_assert((int)KA_N_CAUSES <= KA_ENDING_MASK + 1, "a cause must fit");

/* One network: an address prefix with at least one connection, or of which something was learned. It is found by a keyed
 * 64-bit hash alone: the key is secret, so nobody can make two prefixes meet. Record 0 is that of unix sockets and of whom
 * nobody knows; it is never limited, has no ring, and is not in the hash. */
typedef struct {
    uint64_t id;
    uint32_t chain; /* next in its hash bucket; also links the free list */
    uint32_t n_open;
    uint32_t n_idle;
    uint32_t idle_tail; /* newest of the ring of idle connections; the one after it is the oldest */
    /* The list of clients with more than `share` idle connections; without any connection: of those remembered. */
    uint32_t list_next, list_prev;
    uint8_t addr[16]; /* masked; IPv4 as ::ffff:a.b.c.d. For people, and for what outlives the process */
    ka_learned learned;
} ka_client_record;
_Static_assert(sizeof(ka_client_record) == 80, "48 bytes more than a client needs");

/* A list through list_next and list_prev. */
typedef struct {
    uint32_t head, tail, n;
} ka_client_list;

/* Parts of equal size that never move. */
typedef struct {
    void **part; /* owned, and so is each part */
    uint32_t n, room;
} ka_parts;

typedef struct {
    ka_parts slots;  /* of ka_chunk */
    uint32_t n_used; /* slots ever handed out, with the anchors */
    uint32_t free_head;
    uint32_t n_open;
    uint32_t n_in[KA_N_PHASES];
    uint64_t classes_in[KA_N_LANES]; /* bit c: the queue of class c is not empty */
    uint32_t lanes;                  /* bit l: a queue of lane l is not empty */

    ka_parts clients; /* of ka_client_record */
    ka_parts buckets; /* of uint32_t: linear hashing, one bucket is split per new client, so growth never stalls */
    uint32_t n_clients_used; /* records ever handed out, with record 0 */
    uint32_t client_free;
    uint32_t n_clients;
    uint32_t n_buckets;
    ka_client_list over;          /* more idle connections than `share`, the first to be so at the head */
    ka_client_list remembered[2]; /* without a connection, the longest so at the head; [1]: of trusted proxies */
    uint32_t max_remembered;
    uint32_t share;
    uint64_t key[2];

    int64_t base;       /* the first `now`; everything below and in slots counts from it */
    int64_t now;        /* the latest `now`; INT64_MAX before the first */
    uint64_t clock_end; /* from here on a `now` needs a second look: 60 bits are over, or the owner wants to know */
    uint8_t head_left;  /* a queue lost its head since the owner last cleared this: its earliest due may be later */
} ka_store;

int ka_store_init(ka_store *s, uint64_t seed);
void ka_store_free(ka_store *s);
/* A slot in no queue, phase KA_FREE, all else zero but its generation. 0 when out of memory. */
uint32_t ka_store_take(ka_store *s);
void ka_store_give(ka_store *s, uint32_t i); /* back to the free list, under the next generation */

/* masked: as in a record. tag: what else tells networks apart. */
uint64_t ka_store_client_id(const ka_store *s, const uint8_t masked[16], unsigned tag);
uint32_t ka_store_client_find(const ka_store *s, uint64_t id);
/* A record without a connection, 0 when out of memory. */
uint32_t ka_store_client_make(ka_store *s, uint64_t id, const uint8_t masked[16], int is_proxy);
void ka_store_client_join(ka_store *s, uint32_t client); /* one connection more */
/* One connection less. With the last the record is remembered when `is_worth_it`, else it goes. */
void ka_store_client_leave(ka_store *s, uint32_t client, int is_worth_it);
void ka_store_set_remembered(ka_store *s, uint32_t most); /* of each list; the longest without a connection go first */
void ka_store_ring_add(ka_store *s, uint32_t client, uint32_t i);
void ka_store_ring_remove(ka_store *s, uint32_t client, uint32_t i);
int ka_store_ring_renew(ka_store *s, uint32_t client, uint32_t i); /* to the tail; KA_OK */
void ka_store_set_share(ka_store *s, uint32_t share);              /* O(clients) when it changes */
uint64_t ka_store_mix(uint64_t x);
size_t ka_store_bytes(const ka_store *s);
const char *ka_store_check(const ka_store *s); /* NULL, or the first broken invariant */

static inline ka_chunk *ka_store_chunk(const ka_store *s, uint32_t i)
{
    return (ka_chunk *)s->slots.part[i >> KA_CHUNK_BITS];
}

static inline ka_slot *ka_store_slot(const ka_store *s, uint32_t i)
{
    return &ka_store_chunk(s, i)->slot[i & (KA_CHUNK - 1)];
}

static inline ka_link *ka_store_link(const ka_store *s, uint32_t i)
{
    return &ka_store_chunk(s, i)->link[i & (KA_CHUNK - 1)];
}

/* The link of an anchor: they lie in the first chunk. */
static inline ka_link *ka_store_anchor(const ka_store *s, uint32_t anchor)
{
    return &((ka_chunk *)s->slots.part[0])->link[anchor];
}

static inline ka_extra *ka_store_extra(const ka_store *s, uint32_t i)
{
    return &ka_store_chunk(s, i)->rest[i & (KA_CHUNK - 1)].extra;
}

static inline uint32_t *ka_store_requests(const ka_store *s, uint32_t i)
{
    return &ka_store_chunk(s, i)->rest[i & (KA_CHUNK - 1)].requests;
}

static inline ka_mark *ka_store_mark(const ka_store *s, uint32_t i)
{
    return &ka_store_chunk(s, i)->mark[i & (KA_CHUNK - 1)];
}

static inline ka_client_record *ka_store_client(const ka_store *s, uint32_t client)
{
    ka_client_record *part = (ka_client_record *)s->clients.part[client >> KA_CLIENT_CHUNK_BITS];
    return &part[client & ((1u << KA_CLIENT_CHUNK_BITS) - 1)];
}

static inline unsigned ka_slot_phase(const ka_slot *slot) { return slot->since_phase & ((1u << KA_PHASE_BITS) - 1); }
static inline int64_t ka_slot_since(const ka_slot *slot) { return (int64_t)(slot->since_phase >> KA_PHASE_BITS); }
static inline unsigned ka_slot_class(const ka_slot *slot) { return slot->client_class & (KA_N_CLASSES - 1); }
static inline uint32_t ka_slot_client(const ka_slot *slot) { return slot->client_class >> KA_CLASS_BITS; }

static inline void ka_slot_set(ka_slot *slot, int64_t since, unsigned phase)
{
    slot->since_phase = (uint64_t)since << KA_PHASE_BITS | phase;
}

/* Whether a handle names a connection that is open. The slot of an anchor looks free. */
static inline int ka_store_knows(const ka_store *s, ka_handle h)
{
    uint32_t i = (uint32_t)h;
    if (ka_unlikely(i >= s->n_used))
        return 0;
    const ka_slot *slot = ka_store_slot(s, i);
    return ka_likely(slot->gen == h >> 32) && ka_likely(ka_slot_phase(slot) != KA_FREE);
}

/* The slot a handle names, or 0 when it is stale or never was one. */
static inline uint32_t ka_store_find(const ka_store *s, ka_handle h) { return ka_store_knows(s, h) ? (uint32_t)h : 0; }

static inline ka_handle ka_store_handle(const ka_store *s, uint32_t i)
{
    return i == 0 ? 0 : (ka_handle)ka_store_slot(s, i)->gen << 32 | i;
}

/* `now` as the table counts it: from its first `now` on, never backward, at most 60 bits. Right for any `now`. */
int64_t ka_store_clock(ka_store *s, int64_t now);

/* Take a `now` that goes on from the latest and needs no second look. Return: whether it is such a one. */
static inline int ka_store_clock_goes_on(ka_store *s, int64_t now)
{
    uint64_t since_base = (uint64_t)now - (uint64_t)s->base;
    if (ka_unlikely(since_base < (uint64_t)s->now || since_base >= s->clock_end))
        return 0;
    s->now = (int64_t)since_base;
    return 1;
}

/* ---- queues ---- */

static inline unsigned ka_lane_of_rung(unsigned rung)
{
    return rung ? (unsigned)KA_N_PHASES + rung - 1 : (unsigned)KA_IDLE;
}
static inline unsigned ka_lane_rung(unsigned lane) { return lane < KA_N_PHASES ? 0 : lane - KA_N_PHASES + 1; }
static inline unsigned ka_lane_phase(unsigned lane) { return lane < KA_N_PHASES ? lane : (unsigned)KA_IDLE; }

static inline uint32_t ka_queue_anchor(unsigned lane, unsigned policy_class)
{
    return lane * KA_N_CLASSES + policy_class;
}
static inline unsigned ka_anchor_lane(uint32_t anchor) { return anchor / KA_N_CLASSES; }

/* The one that entered first, or 0. */
static inline uint32_t ka_queue_head(const ka_store *s, unsigned lane, unsigned policy_class)
{
    uint32_t i = ka_store_link(s, ka_queue_anchor(lane, policy_class))->next;
    return i < KA_N_ANCHORS ? 0 : i;
}

/* It is not empty. */
static inline void ka_queue_note(ka_store *s, unsigned lane, unsigned policy_class)
{
    s->classes_in[lane] |= (uint64_t)1 << policy_class;
    s->lanes |= (uint32_t)1 << lane;
}

static inline void ka_link_between(ka_store *s, uint32_t i, uint32_t before, uint32_t after)
{
    *ka_store_link(s, i) = (ka_link){.next = after, .prev = before};
    ka_store_link(s, before)->next = i;
    ka_store_link(s, after)->prev = i;
}

/* Take a slot out of its queue. */
static inline void ka_queue_remove(ka_store *s, uint32_t i)
{
    ka_link *own = ka_store_link(s, i);
    uint32_t next = own->next, prev = own->prev;
    if (next == prev) { /* both are the anchor: the queue is empty now */
        ka_link *ends = ka_store_anchor(s, next);
        ends->next = ends->prev = next;
        unsigned lane = ka_anchor_lane(next);
        s->classes_in[lane] &= ~((uint64_t)1 << next % KA_N_CLASSES);
        if (s->classes_in[lane] == 0)
            s->lanes &= ~((uint32_t)1 << lane);
        s->head_left = 1;
        return;
    }
    ka_store_link(s, next)->prev = prev;
    ka_store_link(s, prev)->next = next;
    if (prev < KA_N_ANCHORS)
        s->head_left = 1;
}

/* Put a slot at the tail of the queue of its class and `lane`, where its `since` belongs: it is `now`.
 * Return: whether it is the head. */
static inline int ka_queue_push(ka_store *s, const ka_slot *slot, uint32_t i, unsigned lane)
{
    uint32_t anchor = ka_queue_anchor(lane, ka_slot_class(slot));
    ka_link *ends = ka_store_anchor(s, anchor);
    uint32_t tail = ends->prev;
    *ka_store_link(s, i) = (ka_link){.next = anchor, .prev = tail};
    ends->prev = i;
    if (tail != anchor) {
        ka_store_link(s, tail)->next = i;
        return 0;
    }
    ends->next = i;
    ka_queue_note(s, lane, ka_slot_class(slot));
    return 1;
}

/* In the queue of this anchor, from wherever it was to the tail. */
static inline void ka_queue_renew(ka_store *s, uint32_t anchor, uint32_t i)
{
    ka_link *own = ka_store_link(s, i);
    uint32_t next = own->next, prev = own->prev;
    if (prev < KA_N_ANCHORS)
        s->head_left = 1;
    if (next < KA_N_ANCHORS)
        return; /* it is the tail */
    ka_store_link(s, next)->prev = prev;
    ka_store_link(s, prev)->next = next;
    ka_link *ends = ka_store_anchor(s, anchor);
    uint32_t tail = ends->prev;
    ends->prev = i;
    ka_store_link(s, tail)->next = i;
    own->next = anchor;
    own->prev = tail;
}

#endif
