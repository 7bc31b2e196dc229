/* ka_known.c: see ka_known.h; and what a close says about a network. */
#include "table/ka_known.h"

#include <string.h>

#include "table/ka_table_parts.h"

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

/* ---- which network ---- */

/* A dual-stack listener sees IPv4 clients as ::ffff:a.b.c.d (RFC 4291 2.5.5.2): one /64 would hold them all. */
uint64_t ka_table_network(const ka_table *t, const ka_client *client, uint8_t masked[16])
{
    int is_v4 = client->family == 4 || memcmp(client->addr, mapped, sizeof mapped) == 0;
    unsigned bits = is_v4 ? 96u + t->capacity.prefix_v4 : t->capacity.prefix_v6;
    uint8_t whole[16];
    memcpy(whole, client->addr, sizeof whole);
    if (client->family == 4) {
        memcpy(whole, mapped, sizeof mapped);
        memcpy(whole + sizeof mapped, client->addr, 4);
    }
    memset(masked, 0, 16);
    memcpy(masked, whole, bits / 8);
    if (bits % 8)
        masked[bits / 8] = (uint8_t)(whole[bits / 8] & 0xff << (8 - bits % 8));
    return ka_store_client_id(&t->store, masked, bits << 1 | (client->is_proxy != 0));
}

/* ---- learning ---- */

static uint32_t seconds(const ka_table *t) { return (uint32_t)((t->store.now == NEVER ? 0 : t->store.now) / SECOND); }

static void show(const ka_table *t, const ka_client_record *record, int is_nobody, ka_known *out)
{
    *out = (ka_known){.n_open = record->n_open, .learned = record->learned};
    out->kept_ns = t->ladder.ns[record->learned.rung];
    out->learned.began_s = seconds(t) - record->learned.began_s;
    out->learned.since_s = seconds(t) - record->learned.since_s;
    if (is_nobody)
        return;
    int is_v4 = memcmp(record->addr, mapped, sizeof mapped) == 0;
    out->client.family = is_v4 ? 4 : 6;
    out->client.is_proxy = (record->learned.marks & KA_LEARNED_IS_PROXY) != 0;
    memcpy(out->client.addr, is_v4 ? record->addr + 12 : record->addr, is_v4 ? 4 : 16);
}

void ka_table_idle_ended(ka_table *t, const ka_slot *slot, ka_cause cause)
{
    uint32_t client = ka_slot_client(slot);
    ka_client_record *record = ka_store_client(&t->store, client);
    int64_t age = t->store.now - ka_slot_since(slot);
    int is_theirs = cause == KA_CAUSE_CLIENT || cause == KA_CAUSE_ERROR;
    if (is_theirs)
        t->counters->idle_left[ka_bucket((uint64_t)age / 1000000)]++;
    if (t->policy[ka_slot_class(slot)].timeout_ns[KA_IDLE] != KA_AUTO)
        return;
    if (is_theirs) {
        if (!ka_learned_they_closed(&record->learned, &t->ladder, age, seconds(t)))
            return;
        show(t, record, client == 0, &t->settled);
        t->has_settled = 1;
    } else if (cause == KA_CAUSE_IDLE_TIMEOUT) {
        ka_learned_we_closed(&record->learned, &t->ladder, age, seconds(t));
    }
}

void ka_table_raced(ka_table *t, const ka_slot *slot)
{
    if (t->policy[ka_slot_class(slot)].timeout_ns[KA_IDLE] == KA_AUTO)
        ka_learned_raced(&ka_store_client(&t->store, ka_slot_client(slot))->learned, &t->ladder, seconds(t));
}

void ka_table_climb(ka_table *t)
{
    for (uint32_t c = 0; c < t->store.n_clients_used; c++) /* of a free record nothing is learned */
        ka_learned_climb(&ka_store_client(&t->store, c)->learned, &t->ladder, seconds(t));
}

/* ---- for others ---- */

int ka_known_next(const ka_table *t, int64_t now, uint32_t *at, ka_known *out)
{
    (void)clock_of((ka_table *)t, now);
    for (; *at < t->store.n_clients_used; ++*at) {
        const ka_client_record *record = ka_store_client(&t->store, *at);
        const ka_learned *learned = &record->learned;
        if (learned->n_theirs || learned->n_ours || learned->n_races) {
            show(t, record, *at == 0, out);
            ++*at;
            return 1;
        }
    }
    return 0;
}

uint32_t ka_known_busiest(const ka_table *t, ka_known *out, uint32_t room)
{
    uint32_t n = 0;
    for (uint32_t c = 0; c < t->store.n_clients_used; c++) { /* a free record has no connection */
        const ka_client_record *record = ka_store_client(&t->store, c);
        uint32_t fewest = n < room ? 0 : room ? out[room - 1].n_open : UINT32_MAX, at;
        if (record->n_open <= fewest)
            continue;
        at = n < room ? n++ : room - 1;
        for (; at > 0 && out[at - 1].n_open < record->n_open; at--)
            out[at] = out[at - 1];
        show(t, record, c == 0, &out[at]);
    }
    return n;
}

int ka_known_of(const ka_table *t, ka_handle h, ka_known *out)
{
    uint32_t i = ka_store_find(&t->store, h), client;
    if (i == 0)
        return KA_ESTALE;
    client = ka_slot_client(ka_store_slot(&t->store, i));
    show(t, ka_store_client(&t->store, client), client == 0, out);
    return KA_OK;
}

int ka_known_take(ka_table *t, int64_t now, const ka_known *known)
{
    ka_store *s = &t->store;
    ka_learned learned = known->learned;
    uint32_t c = 0, most = s->max_remembered;
    if (known->client.family != 0 && known->client.family != 4 && known->client.family != 6)
        return KA_EINVAL;
    (void)clock_of(t, now);
    if (known->client.family) {
        uint8_t masked[16];
        uint64_t id = ka_table_network(t, &known->client, masked);
        c = ka_store_client_find(s, id);
        if (c == 0 && (c = ka_store_client_make(s, id, masked, known->client.is_proxy)) == 0)
            return KA_ENOMEM;
    }
    learned.began_s = seconds(t) - learned.began_s;
    learned.since_s = seconds(t) - learned.since_s;
    ka_learned_merge(&ka_store_client(s, c)->learned, &t->ladder, &learned, seconds(t));
    ka_store_set_remembered(s, most);
    return KA_OK;
}

int ka_known_settled(ka_table *t, ka_known *out)
{
    if (ka_likely(!t->has_settled))
        return 0;
    *out = t->settled;
    t->has_settled = 0;
    return 1;
}
