/* ka_hpack_table.c: the static table of RFC 7541 appendix A and its names' hash; the dynamic table as bytes.
 *
 * An entry begins with 4 bytes, and has 2 in the index: so what is held is always less than what the RFC counts,
 * which is 32 for each. That difference is the slack that keeps moving entries back to the start rare. */
#include "h2/ka_hpack_table.h"

#include <stdlib.h>
#include <string.h>

/* ---- the static table ---- */

#define E(name, value) {name value, sizeof name - 1, sizeof value - 1}

/* RFC 7541 appendix A. */
const ka_hpack_static_entry ka_hpack_static[KA_HPACK_STATIC + 1] = {
    E("", ""),
    E(":authority", ""),
    E(":method", "GET"),
    E(":method", "POST"),
    E(":path", "/"),
    E(":path", "/index.html"),
    E(":scheme", "http"),
    E(":scheme", "https"),
    E(":status", "200"),
    E(":status", "204"),
    E(":status", "206"),
    E(":status", "304"),
    E(":status", "400"),
    E(":status", "404"),
    E(":status", "500"),
    E("accept-charset", ""),
    E("accept-encoding", "gzip, deflate"),
    E("accept-language", ""),
    E("accept-ranges", ""),
    E("accept", ""),
    E("access-control-allow-origin", ""),
    E("age", ""),
    E("allow", ""),
    E("authorization", ""),
    E("cache-control", ""),
    E("content-disposition", ""),
    E("content-encoding", ""),
    E("content-language", ""),
    E("content-length", ""),
    E("content-location", ""),
    E("content-range", ""),
    E("content-type", ""),
    E("cookie", ""),
    E("date", ""),
    E("etag", ""),
    E("expect", ""),
    E("expires", ""),
    E("from", ""),
    E("host", ""),
    E("if-match", ""),
    E("if-modified-since", ""),
    E("if-none-match", ""),
    E("if-range", ""),
    E("if-unmodified-since", ""),
    E("last-modified", ""),
    E("link", ""),
    E("location", ""),
    E("max-forwards", ""),
    E("proxy-authenticate", ""),
    E("proxy-authorization", ""),
    E("range", ""),
    E("referer", ""),
    E("refresh", ""),
    E("retry-after", ""),
    E("server", ""),
    E("set-cookie", ""),
    E("strict-transport-security", ""),
    E("transfer-encoding", ""),
    E("user-agent", ""),
    E("vary", ""),
    E("via", ""),
    E("www-authenticate", ""),
};
_Static_assert(sizeof(ka_hpack_static_entry) == 32, "two moves of 16 bytes");

#undef E

/* A hash without collisions among the 52 names; the factors were searched for. A test finds every name. */
static uint8_t slots[128];

static inline unsigned slot_of(const char *name, size_t n)
{
    return ((unsigned)n * 11 + (uint8_t)name[0] * 37u + (uint8_t)name[n - 1] * 48u + (uint8_t)name[n / 2] * 24u) % 128;
}

void ka_hpack_table_init(void)
{
    for (unsigned i = KA_HPACK_STATIC; i > 0; i--) /* so the lowest number of a name stays */
        slots[slot_of(ka_hpack_static[i].text, ka_hpack_static[i].name_len)] = (uint8_t)i;
}

unsigned ka_hpack_static_find(const char *name, size_t n)
{
    if (n == 0)
        return 0;
    unsigned i = slots[slot_of(name, n)];
    return ka_hpack_static[i].name_len == n && ka_hpack_same(ka_hpack_static[i].text, name, n) ? i : 0;
}

/* ---- the dynamic table ---- */

typedef ka_hpack_entry_head head;

enum {
    PLACE = sizeof(uint16_t),
    FIRST_ROOM = 512, /* most browsers' first request; the rest goes back when the connection is idle */
    SPARE = 64        /* more than this is worth giving back */
};
_Static_assert(KA_HPACK_MAX_TABLE <= (int)KA_HPACK_NAMED, "a name has less bytes than that");

static inline uint16_t *places(const ka_hpack_table *t) { return (uint16_t *)(void *)(t->mem + t->newest); }

static inline head head_at(const ka_hpack_table *t, uint32_t i)
{
    head h;
    memcpy(&h, t->mem + places(t)[i], sizeof h);
    return h;
}

static inline uint32_t bytes_of(head h)
{
    return (uint32_t)sizeof h + (h.name & KA_HPACK_NAMED ? 0u : h.name) + h.value_len;
}

static inline uint32_t counted(head h)
{
    uint32_t name_len = h.name & KA_HPACK_NAMED ? ka_hpack_static[h.name - KA_HPACK_NAMED].name_len : h.name;
    return KA_HPACK_OVERHEAD + name_len + h.value_len;
}

ka_hpack_found ka_hpack_table_find(const ka_hpack_table *t, uint32_t static_name, const char *name, uint32_t name_len,
                                   const char *value, uint32_t value_len)
{
    ka_hpack_found found = {-1, -1};
    uint32_t key = static_name ? KA_HPACK_NAMED | static_name : name_len, skip = static_name ? 0 : name_len;
    for (uint32_t i = 0; i < t->n; i++) {
        const char *p = t->mem + places(t)[i];
        head h;
        memcpy(&h, p, sizeof h);
        if (h.name != key || (skip > 0 && !ka_hpack_same(p + sizeof h, name, skip)))
            continue;
        if (found.name < 0)
            found.name = (int32_t)i;
        if (h.value_len == value_len && ka_hpack_same(p + sizeof h + skip, value, value_len)) {
            found.field = (int32_t)i;
            break;
        }
    }
    return found;
}

static void evict_until(ka_hpack_table *t, uint32_t size)
{
    while (t->size > size) {
        head h = head_at(t, t->n - 1u);
        t->size = (uint16_t)(t->size - counted(h));
        t->from = (uint16_t)(t->from + bytes_of(h));
        t->n--;
    }
    if (t->n == 0) {
        t->from = t->to = 0;
        t->newest = t->room;
    }
}

/* Entries to the start, places to the end, within t->mem, which has t->room bytes. */
static void gather(ka_hpack_table *t)
{
    uint16_t live = (uint16_t)(t->to - t->from), by = t->from, newest = (uint16_t)(t->room - t->n * PLACE);
    memmove(t->mem + newest, t->mem + t->newest, (size_t)t->n * PLACE);
    t->newest = newest;
    if (by == 0)
        return;
    memmove(t->mem, t->mem + by, live);
    for (uint32_t i = 0; i < t->n; i++)
        places(t)[i] = (uint16_t)(places(t)[i] - by);
    t->from = 0;
    t->to = live;
}

static uint32_t held(const ka_hpack_table *t) { return (uint32_t)(t->to - t->from) + t->n * (uint32_t)PLACE; }

/* Another block of `room` bytes, at least what is held. */
static int move_to(ka_hpack_table *t, uint32_t room)
{
    char *mem = malloc(room);
    if (mem == NULL)
        return KA_ENOMEM;
    uint16_t by = t->from, live = (uint16_t)(t->to - t->from), newest = (uint16_t)(room - t->n * (uint32_t)PLACE);
    if (t->n > 0) {
        memcpy(mem, t->mem + by, live);
        memcpy(mem + newest, t->mem + t->newest, t->n * (size_t)PLACE);
    }
    free(t->mem);
    *t = (ka_hpack_table){mem, (uint16_t)room, 0, live, newest, t->n, t->size, t->max};
    for (uint32_t i = 0; i < t->n; i++)
        places(t)[i] = (uint16_t)(places(t)[i] - by);
    return KA_OK;
}

/* See that `need` bytes are free between entries and places. */
static int make_room(ka_hpack_table *t, uint32_t need)
{
    if ((uint32_t)(t->newest - t->to) >= need)
        return KA_OK;
    uint32_t wanted = held(t) + need, limit = t->max & ~1u;
    /* Gathering is worth it where it is not asked for again at once. */
    if (wanted + t->room / 8 <= t->room || (wanted <= t->room && t->room >= limit)) {
        gather(t);
        return KA_OK;
    }
    uint32_t room = t->room * 2u;
    room = room < FIRST_ROOM ? FIRST_ROOM : room;
    room = room > limit ? limit : room;
    room = room < wanted ? wanted : room;
    return move_to(t, (room + 1) & ~1u); /* places are aligned */
}

int ka_hpack_table_add(ka_hpack_table *t, uint32_t static_name, const char *name, uint32_t name_len, const char *value,
                       uint32_t value_len)
{
    if (static_name)
        name_len = ka_hpack_static[static_name].name_len;
    uint64_t size = (uint64_t)KA_HPACK_OVERHEAD + name_len + value_len;
    if (size > t->max) {
        evict_until(t, 0);
        return KA_OK;
    }
    evict_until(t, t->max - (uint32_t)size);
    head h = {(uint16_t)(static_name ? KA_HPACK_NAMED | static_name : name_len), (uint16_t)value_len};
    if (ka_unlikely(make_room(t, bytes_of(h) + PLACE) < 0))
        return KA_ENOMEM;
    char *p = t->mem + t->to;
    t->newest = (uint16_t)(t->newest - PLACE);
    *places(t) = t->to;
    t->to = (uint16_t)(t->to + bytes_of(h));
    t->n++;
    t->size = (uint16_t)(t->size + size);
    memcpy(p, &h, sizeof h);
    p += sizeof h;
    if (!static_name && name_len > 0)
        memcpy(p, name, name_len);
    if (value_len > 0)
        memcpy(p + (static_name ? 0 : name_len), value, value_len);
    return KA_OK;
}

void ka_hpack_table_resize(ka_hpack_table *t, uint32_t max)
{
    ka_assert(max <= KA_HPACK_MAX_TABLE);
    if (t->size > max)
        evict_until(t, max);
    t->max = (uint16_t)max;
    if (t->room > max)
        ka_hpack_table_trim(t);
}

void ka_hpack_table_trim(ka_hpack_table *t)
{
    uint32_t room = (held(t) + 1) & ~1u;
    if (t->n == 0)
        ka_hpack_table_clear(t);
    else if (t->room > room + SPARE)
        (void)move_to(t, room); /* without memory it stays as it is */
}

void ka_hpack_table_clear(ka_hpack_table *t)
{
    free(t->mem);
    *t = (ka_hpack_table){.max = t->max};
}

int ka_hpack_table_check(const ka_hpack_table *t)
{
    uint32_t size = 0, at = t->to;
    if (t->mem == NULL)
        return t->n == 0 && t->size == 0 && t->room == 0 && t->to == 0 && t->newest == 0;
    if (t->from > t->to || t->to > t->newest || t->newest + t->n * (uint32_t)PLACE > t->room)
        return 0;
    for (uint32_t i = 0; i < t->n; i++) {
        head h = head_at(t, i);
        if (places(t)[i] + bytes_of(h) != at)
            return 0;
        at = places(t)[i];
        size += counted(h);
    }
    return at == t->from && size == t->size && size <= t->max;
}
