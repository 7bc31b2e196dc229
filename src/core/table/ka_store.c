/* ka_store.c: the store under the connection table: memory for slots and clients, the client hash, the idle rings.
 *
 * Everything grows in parts that never move, nothing shrinks before ka_store_free(): a table's memory is that of its
 * busiest moment. A failed allocation is answered to the one caller and leaves the store as it was. */
#include "table/ka_store.h"

#include <stdlib.h>
#include <string.h>

/* ---- parts ---- */

/* One more part of `nbytes`, aligned to a cache line. Untouched memory stays the kernel's: nothing is cleared. */
static void *parts_grow(ka_parts *parts, size_t nbytes)
{
    if (parts->n == parts->room) {
        uint32_t room = parts->room ? parts->room * 2 : 16;
        void **moved = realloc(parts->part, room * sizeof *moved);
        if (moved == NULL)
            return NULL;
        parts->part = moved;
        parts->room = room;
    }
    void *part = aligned_alloc(64, nbytes);
    if (part != NULL)
        parts->part[parts->n++] = part;
    return part;
}

static void parts_free(ka_parts *parts)
{
    for (uint32_t k = 0; k < parts->n; k++)
        free(parts->part[k]);
    free(parts->part);
}

/* ---- slots ---- */

uint32_t ka_store_take(ka_store *s)
{
    uint32_t i = s->free_head;
    if (i) {
        s->free_head = ka_store_link(s, i)->next;
        return i;
    }
    i = s->n_used;
    if (i >> KA_CHUNK_BITS == s->slots.n && parts_grow(&s->slots, sizeof(ka_chunk)) == NULL)
        return 0;
    *ka_store_slot(s, i) = (ka_slot){.gen = 1};
    s->n_used++;
    return i;
}

void ka_store_give(ka_store *s, uint32_t i)
{
    ka_slot *slot = ka_store_slot(s, i);
    *slot = (ka_slot){.gen = slot->gen + 1};
    ka_store_link(s, i)->next = s->free_head;
    s->free_head = i;
}

/* ---- who is a client ---- */

uint64_t ka_store_mix(uint64_t x)
{ /* the finalizer of splitmix64 (Steele, Lea, Flood 2014) */
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static inline uint64_t rotl(uint64_t x, unsigned n) { return x << n | x >> (64 - n); }

static inline void sip_round(uint64_t v[4])
{
    v[0] += v[1], v[1] = rotl(v[1], 13) ^ v[0], v[0] = rotl(v[0], 32);
    v[2] += v[3], v[3] = rotl(v[3], 16) ^ v[2];
    v[0] += v[3], v[3] = rotl(v[3], 21) ^ v[0];
    v[2] += v[1], v[1] = rotl(v[1], 17) ^ v[2], v[2] = rotl(v[2], 32);
}

/* SipHash-1-3 (Aumasson, Bernstein 2012). */
uint64_t ka_store_client_id(const ka_store *s, const uint8_t masked[16], unsigned tag)
{
    uint64_t word[3];
    memcpy(word, masked, 16);
    word[2] = (uint64_t)18 << 56 | tag;
    uint64_t v[4] = {s->key[0] ^ 0x736f6d6570736575u, s->key[1] ^ 0x646f72616e646f6du, s->key[0] ^ 0x6c7967656e657261u,
                     s->key[1] ^ 0x7465646279746573u};
    for (int k = 0; k < 3; k++) {
        v[3] ^= word[k];
        sip_round(v);
        v[0] ^= word[k];
    }
    v[2] ^= 0xff;
    for (int k = 0; k < 3; k++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* ---- the client hash: linear hashing (Litwin 1980) with chains through the records ---- */

static inline uint32_t *bucket_at(const ka_store *s, uint32_t b)
{
    uint32_t *part = (uint32_t *)s->buckets.part[b >> KA_BUCKET_CHUNK_BITS];
    return &part[b & ((1u << KA_BUCKET_CHUNK_BITS) - 1)];
}

/* The largest power of two that is at most n_buckets. */
static inline uint32_t hash_floor(const ka_store *s) { return 1u << (31 - __builtin_clz(s->n_buckets)); }

static inline uint32_t *bucket_of(const ka_store *s, uint64_t id)
{
    uint32_t floor = hash_floor(s);
    uint32_t b = (uint32_t)id & (2 * floor - 1);
    return bucket_at(s, b < s->n_buckets ? b : b - floor);
}

static int bucket_part_add(ka_store *s)
{
    size_t nbytes = sizeof(uint32_t) << KA_BUCKET_CHUNK_BITS;
    uint32_t *part = parts_grow(&s->buckets, nbytes);
    if (part != NULL)
        memset(part, 0, nbytes);
    return part != NULL;
}

/* Split the next bucket in two. Without memory for it the chains merely get longer. */
static void bucket_split(ka_store *s)
{
    uint32_t new = s->n_buckets, old = new - hash_floor(s), floor = hash_floor(s);
    if (new >> KA_BUCKET_CHUNK_BITS == s->buckets.n && !bucket_part_add(s))
        return;
    s->n_buckets++;
    uint32_t stays = 0, moves = 0;
    for (uint32_t c = *bucket_at(s, old), next; c; c = next) {
        ka_client_record *record = ka_store_client(s, c);
        uint32_t *list = (uint32_t)record->id & floor ? &moves : &stays;
        next = record->chain;
        record->chain = *list;
        *list = c;
    }
    *bucket_at(s, old) = stays;
    *bucket_at(s, new) = moves;
}

uint32_t ka_store_client_find(const ka_store *s, uint64_t id)
{
    uint32_t c = *bucket_of(s, id);
    while (c && ka_store_client(s, c)->id != id)
        c = ka_store_client(s, c)->chain;
    return c;
}

/* ---- lists of clients ---- */

static void list_add(ka_store *s, ka_client_list *list, uint32_t client)
{
    ka_client_record *record = ka_store_client(s, client);
    record->list_next = 0;
    record->list_prev = list->tail;
    if (list->tail)
        ka_store_client(s, list->tail)->list_next = client;
    else
        list->head = client;
    list->tail = client;
    list->n++;
}

static void list_remove(ka_store *s, ka_client_list *list, uint32_t client)
{
    ka_client_record *record = ka_store_client(s, client);
    if (record->list_next)
        ka_store_client(s, record->list_next)->list_prev = record->list_prev;
    else
        list->tail = record->list_prev;
    if (record->list_prev)
        ka_store_client(s, record->list_prev)->list_next = record->list_next;
    else
        list->head = record->list_next;
    list->n--;
}

/* ---- coming and going of clients ---- */

/* Whoever has many addresses cannot make us forget what proxies have shown. */
static ka_client_list *remembered_of(ka_store *s, uint32_t client)
{
    return &s->remembered[(ka_store_client(s, client)->learned.marks & KA_LEARNED_IS_PROXY) != 0];
}

uint32_t ka_store_client_make(ka_store *s, uint64_t id, const uint8_t masked[16], int is_proxy)
{
    uint32_t c = s->client_free;
    if (c) {
        s->client_free = ka_store_client(s, c)->chain;
    } else {
        c = s->n_clients_used;
        size_t nbytes = sizeof(ka_client_record) << KA_CLIENT_CHUNK_BITS;
        if (c >> KA_CLIENT_CHUNK_BITS == s->clients.n && parts_grow(&s->clients, nbytes) == NULL)
            return 0;
        s->n_clients_used++;
    }
    if (s->n_clients++ >= s->n_buckets)
        bucket_split(s);
    uint32_t *bucket = bucket_of(s, id);
    ka_client_record *record = ka_store_client(s, c);
    *record = (ka_client_record){.id = id, .chain = *bucket};
    record->learned.marks = is_proxy ? KA_LEARNED_IS_PROXY : 0;
    memcpy(record->addr, masked, sizeof record->addr);
    *bucket = c;
    list_add(s, remembered_of(s, c), c);
    return c;
}

static void client_forget(ka_store *s, uint32_t client)
{
    ka_client_record *record = ka_store_client(s, client);
    uint32_t *link = bucket_of(s, record->id);
    list_remove(s, remembered_of(s, client), client);
    while (*link != client)
        link = &ka_store_client(s, *link)->chain;
    *link = record->chain;
    *record = (ka_client_record){.chain = s->client_free};
    s->client_free = client;
    s->n_clients--;
}

void ka_store_client_join(ka_store *s, uint32_t client)
{
    if (ka_store_client(s, client)->n_open++ == 0 && client)
        list_remove(s, remembered_of(s, client), client);
}

void ka_store_client_leave(ka_store *s, uint32_t client, int is_worth_it)
{
    if (--ka_store_client(s, client)->n_open || client == 0)
        return;
    ka_client_list *list = remembered_of(s, client);
    list_add(s, list, client);
    if (!is_worth_it)
        client_forget(s, client);
    else if (list->n > s->max_remembered)
        client_forget(s, list->head);
}

void ka_store_set_remembered(ka_store *s, uint32_t most)
{
    s->max_remembered = most;
    for (unsigned k = 0; k < 2; k++)
        while (s->remembered[k].n > most)
            client_forget(s, s->remembered[k].head);
}

/* ---- a client's idle connections, and the clients that have too many ---- */

/* A trusted proxy has a ring, but no share: it stands for many. */
static int is_limited(const ka_client_record *record) { return !(record->learned.marks & KA_LEARNED_IS_PROXY); }

/* Into a ring that is not empty, as its newest. */
static void ring_link(ka_store *s, ka_client_record *record, uint32_t i)
{
    ka_extra *extra = ka_store_extra(s, i), *tail = ka_store_extra(s, record->idle_tail);
    extra->ring.prev = record->idle_tail;
    extra->ring.next = tail->ring.next;
    ka_store_extra(s, tail->ring.next)->ring.prev = i;
    tail->ring.next = i;
    record->idle_tail = i;
}

void ka_store_ring_add(ka_store *s, uint32_t client, uint32_t i)
{
    ka_client_record *record = ka_store_client(s, client);
    ka_extra *extra = ka_store_extra(s, i);
    if (record->idle_tail) {
        ring_link(s, record, i);
    } else {
        extra->ring.next = extra->ring.prev = record->idle_tail = i;
    }
    if (++record->n_idle == s->share + 1 && is_limited(record))
        list_add(s, &s->over, client);
}

void ka_store_ring_remove(ka_store *s, uint32_t client, uint32_t i)
{
    ka_client_record *record = ka_store_client(s, client);
    ka_extra *extra = ka_store_extra(s, i);
    if (--record->n_idle == s->share && is_limited(record))
        list_remove(s, &s->over, client);
    if (record->n_idle == 0) {
        record->idle_tail = 0;
    } else {
        ka_store_extra(s, extra->ring.prev)->ring.next = extra->ring.next;
        ka_store_extra(s, extra->ring.next)->ring.prev = extra->ring.prev;
        if (record->idle_tail == i)
            record->idle_tail = extra->ring.prev;
    }
    extra->rate.spent = extra->rate.nbytes = 0;
}

int ka_store_ring_renew(ka_store *s, uint32_t client, uint32_t i)
{
    ka_client_record *record = ka_store_client(s, client);
    if (record->idle_tail == i)
        return KA_OK;
    ka_extra *extra = ka_store_extra(s, i);
    ka_store_extra(s, extra->ring.prev)->ring.next = extra->ring.next;
    ka_store_extra(s, extra->ring.next)->ring.prev = extra->ring.prev;
    ring_link(s, record, i);
    return KA_OK;
}

void ka_store_set_share(ka_store *s, uint32_t share)
{
    if (share == s->share)
        return;
    s->share = share;
    s->over = (ka_client_list){0};
    for (uint32_t c = 1; c < s->n_clients_used; c++) /* a free record has no idle connection */
        if (ka_store_client(s, c)->n_idle > share && is_limited(ka_store_client(s, c)))
            list_add(s, &s->over, c);
}

/* ---- the whole ---- */

int64_t ka_store_clock(ka_store *s, int64_t now)
{
    const uint64_t most = ((uint64_t)1 << KA_CLOCK_BITS) - 1;
    if (s->now == INT64_MAX) {
        s->base = now;
        return s->now = 0;
    }
    uint64_t since_base = now > s->base ? (uint64_t)now - (uint64_t)s->base : 0;
    if (since_base > most)
        since_base = most;
    if ((int64_t)since_base > s->now)
        s->now = (int64_t)since_base;
    return s->now;
}

int ka_store_init(ka_store *s, uint64_t seed)
{
    memset(s, 0, sizeof *s);
    s->n_used = KA_N_ANCHORS;
    s->n_clients_used = 1;
    s->now = INT64_MAX;
    s->clock_end = (uint64_t)1 << KA_CLOCK_BITS;
    s->share = UINT32_MAX - 1;
    s->max_remembered = UINT32_MAX;
    s->key[0] = ka_store_mix(seed);
    s->key[1] = ka_store_mix(~seed);
    if (!bucket_part_add(s) || parts_grow(&s->slots, sizeof(ka_chunk)) == NULL ||
        parts_grow(&s->clients, sizeof(ka_client_record) << KA_CLIENT_CHUNK_BITS) == NULL)
        return KA_ENOMEM;
    *ka_store_client(s, 0) = (ka_client_record){0};
    for (uint32_t i = 0; i < KA_N_ANCHORS; i++) {
        *ka_store_link(s, i) = (ka_link){i, i};
        *ka_store_slot(s, i) = (ka_slot){.since_phase = KA_FREE};
    }
    s->n_buckets = 1u << KA_BUCKET_CHUNK_BITS;
    return KA_OK;
}

void ka_store_free(ka_store *s)
{
    parts_free(&s->slots);
    parts_free(&s->clients);
    parts_free(&s->buckets);
}

size_t ka_store_bytes(const ka_store *s)
{
    size_t directories = (size_t)s->slots.room + s->clients.room + s->buckets.room;
    return s->slots.n * sizeof(ka_chunk) + ((size_t)s->clients.n * sizeof(ka_client_record) << KA_CLIENT_CHUNK_BITS) +
           ((size_t)s->buckets.n * sizeof(uint32_t) << KA_BUCKET_CHUNK_BITS) + directories * sizeof(void *);
}

/* ---- check ---- */

#define MUST(condition, sentence) \
    if (!(condition))             \
    return sentence

static const char *check_queue(const ka_store *s, unsigned lane, unsigned policy_class, uint32_t *n)
{
    uint32_t anchor = ka_queue_anchor(lane, policy_class), before = anchor, i;
    unsigned phase = ka_lane_phase(lane);
    int is_empty = ka_queue_head(s, lane, policy_class) == 0;
    int64_t since = 0;
    MUST(is_empty != (int)(s->classes_in[lane] >> policy_class & 1),
         "the bit of a queue does not say whether it is empty");
    for (i = ka_store_link(s, anchor)->next; i != anchor; i = ka_store_link(s, i)->next) {
        MUST(i >= KA_N_ANCHORS && i < s->n_used, "a queue leaves the table");
        MUST(++*n < s->n_used, "a queue never ends");
        const ka_slot *slot = ka_store_slot(s, i);
        MUST(ka_store_link(s, i)->prev == before, "a link back in a queue is wrong");
        MUST(ka_slot_phase(slot) == phase && ka_slot_class(slot) == policy_class, "a slot is in another's queue");
        MUST(ka_slot_since(slot) >= since && ka_slot_since(slot) <= s->now, "a queue is out of order");
        since = ka_slot_since(slot);
        before = i;
    }
    MUST(ka_store_link(s, anchor)->prev == before, "the tail of a queue is wrong");
    return NULL;
}

static const char *check_ring(const ka_store *s, uint32_t c)
{
    const ka_client_record *record = ka_store_client(s, c);
    uint32_t n = 0, i = record->idle_tail;
    MUST((i != 0) == (record->n_idle != 0), "a client has a tail without idle connections, or none with them");
    int64_t since = i ? ka_slot_since(ka_store_slot(s, ka_store_extra(s, i)->ring.next)) : 0;
    while (n < record->n_idle) {
        uint32_t next = ka_store_extra(s, i)->ring.next;
        MUST(next >= KA_N_ANCHORS && next < s->n_used, "the ring of a client leaves the table");
        const ka_slot *slot = ka_store_slot(s, next);
        MUST(ka_slot_phase(slot) == KA_IDLE && ka_slot_client(slot) == c, "a stranger is in the ring of a client");
        MUST(ka_store_extra(s, next)->ring.prev == i, "a link back in the ring of a client is wrong");
        MUST(ka_slot_since(slot) >= since, "the ring of a client is out of order");
        since = ka_slot_since(slot);
        i = next;
        n++;
    }
    MUST(i == record->idle_tail, "the ring of a client is longer than its count");
    return NULL;
}

static const char *check_list(const ka_store *s, const ka_client_list *list, int is_over)
{
    uint32_t before = 0, n = 0;
    for (uint32_t c = list->head; c; c = ka_store_client(s, c)->list_next) {
        const ka_client_record *record = ka_store_client(s, c);
        MUST(++n <= list->n, "a list of clients is longer than its count");
        MUST(is_over ? record->n_idle > s->share && is_limited(record) : record->n_open == 0,
             "a client is on the wrong list");
        MUST(record->list_prev == before, "a link back in a list of clients is wrong");
        before = c;
    }
    MUST(list->tail == before && n == list->n, "a list of clients is shorter than its count");
    return NULL;
}

/* n_open[c]: how many slots name client c, counted by the caller. */
static const char *check_clients(const ka_store *s, const uint32_t *n_open)
{
    uint32_t n = 0, n_idle = 0, n_over = 0, n_remembered = 0;
    MUST(ka_store_client(s, 0)->n_open == n_open[0], "the connections of nobody are miscounted");
    for (uint32_t b = 0; b < s->n_buckets; b++) {
        for (uint32_t c = *bucket_at(s, b); c; c = ka_store_client(s, c)->chain) {
            MUST(c < s->n_clients_used && ++n <= s->n_clients, "a chain of clients leaves the table or is too long");
            const ka_client_record *record = ka_store_client(s, c);
            MUST(bucket_of(s, record->id) == bucket_at(s, b), "a client is in another's bucket");
            MUST(record->n_open == n_open[c], "the connections of a client are miscounted");
            const char *broken = check_ring(s, c);
            if (broken)
                return broken;
            n_idle += record->n_idle;
            n_over += record->n_idle > s->share && is_limited(record);
            n_remembered += record->n_open == 0;
        }
    }
    MUST(n == s->n_clients, "the clients are miscounted");
    const char *broken = check_list(s, &s->over, 1);
    for (unsigned k = 0; k < 2 && broken == NULL; k++)
        broken = check_list(s, &s->remembered[k], 0);
    if (broken)
        return broken;
    MUST(n_over == s->over.n, "a client over its share is not listed");
    MUST(n_remembered == s->remembered[0].n + s->remembered[1].n, "a client without a connection is not listed");
    MUST(s->remembered[0].n <= s->max_remembered && s->remembered[1].n <= s->max_remembered, "too many are remembered");
    uint32_t idle_of_clients = 0;
    for (unsigned lane = KA_IDLE; lane < KA_N_LANES; lane++)
        for (unsigned policy_class = 0; policy_class < KA_N_CLASSES && ka_lane_phase(lane) == KA_IDLE; policy_class++)
            for (uint32_t i = ka_queue_head(s, lane, policy_class); i >= KA_N_ANCHORS; i = ka_store_link(s, i)->next)
                idle_of_clients += ka_slot_client(ka_store_slot(s, i)) != 0;
    MUST(idle_of_clients == n_idle, "an idle connection is not in the ring of its client");
    return NULL;
}

const char *ka_store_check(const ka_store *s)
{
    uint32_t n = 0, n_in[KA_N_PHASES] = {0};
    for (unsigned lane = 1; lane < KA_N_LANES; lane++) {
        uint32_t before = n;
        for (unsigned policy_class = 0; policy_class < KA_N_CLASSES; policy_class++) {
            const char *broken = check_queue(s, lane, policy_class, &n);
            if (broken)
                return broken;
        }
        n_in[ka_lane_phase(lane)] += n - before;
        MUST((s->lanes >> lane & 1) == (s->classes_in[lane] != 0),
             "the bit of a lane does not say whether it is empty");
    }
    for (unsigned phase = 1; phase < KA_N_PHASES; phase++)
        MUST(n_in[phase] == s->n_in[phase], "a phase is miscounted");
    MUST(n == s->n_open, "the open connections are miscounted");
    for (uint32_t i = s->free_head; i; i = ka_store_link(s, i)->next) {
        MUST(i < s->n_used && ++n < s->n_used, "the free list leaves the table or runs in a circle");
        MUST(ka_slot_phase(ka_store_slot(s, i)) == KA_FREE, "a slot in use is on the free list");
    }
    MUST(n == s->n_used - KA_N_ANCHORS, "a slot is on no list");
    uint32_t *n_open = calloc(s->n_clients_used, sizeof *n_open);
    MUST(n_open != NULL, "no memory to check the clients");
    for (uint32_t i = KA_N_ANCHORS; i < s->n_used; i++) {
        uint32_t c = ka_slot_client(ka_store_slot(s, i));
        if (c < s->n_clients_used && ka_slot_phase(ka_store_slot(s, i)) != KA_FREE)
            n_open[c]++;
    }
    const char *broken = check_clients(s, n_open);
    free(n_open);
    return broken;
}
