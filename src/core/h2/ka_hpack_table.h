/* ka_hpack_table.h: what HPACK remembers: the static table, and the dynamic one, in as few bytes as it needs.
 *
 * An idle connection of HTTP/2 costs mostly its two dynamic tables, so they are written for that: one block of memory that
 * is taken when the first entry comes and grows with what is in it, never beyond the size that the RFC counts; entries as
 * bytes behind each other, a name of the static table as its number; two bytes of an index for each. No entry: no memory.
 *
 *     mem    free   entries, oldest first          free            places, newest first   free
 *     |      |      [head name value][head ...     |               [2][2][2]              |
 *     0             from                           to              newest                 room
 *
 * Both move towards each other and are moved back when they meet. */
#ifndef KA_HPACK_TABLE_H
#define KA_HPACK_TABLE_H

#include <string.h>

#include "ka_base.h"

enum {
    KA_HPACK_STATIC = 61,         /* entries of the static table, numbered from 1 */
    KA_HPACK_OVERHEAD = 32,       /* RFC 7541 4.1: what an entry counts besides its bytes */
    KA_HPACK_MAX_TABLE = 32768,   /* of a dynamic table here; places are 16 bits */
    KA_HPACK_DEFAULT_TABLE = 4096 /* RFC 9113 6.5.2: until a SETTINGS_HEADER_TABLE_SIZE says otherwise */
};

/* Name and value behind each other in a fixed width, so that both are copied by one move of 32 bytes. */
typedef struct {
    char text[30];
    uint8_t name_len, value_len;
} ka_hpack_static_entry;
extern const ka_hpack_static_entry ka_hpack_static[KA_HPACK_STATIC + 1]; /* [0] is empty */

/* The lowest number whose name this is, or 0. n may be 0. */
unsigned ka_hpack_static_find(const char *name, size_t n);

/* Makes the hash that the function above needs; once in a process. */
void ka_hpack_table_init(void);

typedef struct {
    char *mem; /* owned; NULL when it was never needed, or was given back */
    uint16_t room, from, to, newest;
    uint16_t n;    /* entries */
    uint16_t size; /* as RFC 7541 4.1 counts it */
    uint16_t max;  /* never more than this of it */
} ka_hpack_table;

typedef struct {
    const char *name, *value; /* borrowed, until the table changes */
    uint32_t name_len, value_len;
    uint32_t static_name; /* the number of the name in the static table, 0 when the table holds its bytes */
} ka_hpack_entry;

/* What an entry begins with: the length of its name, or KA_HPACK_NAMED and the number of it in the static table. */
typedef struct {
    uint16_t name, value_len;
} ka_hpack_entry_head;
enum {
    KA_HPACK_NAMED = 0x8000
};

static inline const uint16_t *ka_hpack_places(const ka_hpack_table *t)
{
    return (const uint16_t *)(const void *)(t->mem + t->newest);
}

/* The i-th entry counted from the newest, which is 0; requires i < t->n. */
static inline ka_hpack_entry ka_hpack_table_at(const ka_hpack_table *t, uint32_t i)
{
    ka_hpack_entry_head h;
    ka_hpack_entry e;
    const char *p = t->mem + ka_hpack_places(t)[i];
    memcpy(&h, p, sizeof h);
    p += sizeof h;
    e.value_len = h.value_len;
    e.static_name = h.name & KA_HPACK_NAMED ? h.name - (uint32_t)KA_HPACK_NAMED : 0;
    e.name = e.static_name ? ka_hpack_static[e.static_name].text : p;
    e.name_len = e.static_name ? ka_hpack_static[e.static_name].name_len : h.name;
    e.value = e.static_name ? p : p + h.name;
    return e;
}

/* memcmp is a call, and most names and values are short. */
static inline int ka_hpack_same(const char *a, const char *b, size_t n)
{
    uint64_t x, y;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        memcpy(&x, a + i, 8);
        memcpy(&y, b + i, 8);
        if (x != y)
            return 0;
    }
    for (; i < n; i++)
        if (a[i] != b[i])
            return 0;
    return 1;
}

/* Where a field, and the newest with its name, are: places counted as above, -1 for none. */
typedef struct {
    int32_t field, name;
} ka_hpack_found;
ka_hpack_found ka_hpack_table_find(const ka_hpack_table *t, uint32_t static_name, const char *name, uint32_t name_len,
                                   const char *value, uint32_t value_len);

/* Put a field in front, after making room for it (RFC 7541 4.4): one that is larger than the table empties it and is no
 * error. Neither name nor value may lie in the table. static_name: as above; then `name` is not looked at.
 * Return: KA_OK, or KA_ENOMEM with the table as it was, apart from what was evicted. */
int ka_hpack_table_add(ka_hpack_table *t, uint32_t static_name, const char *name, uint32_t name_len, const char *value,
                       uint32_t value_len);

/* Another maximum: entries go until the rest fits (RFC 7541 4.3). max <= KA_HPACK_MAX_TABLE. */
void ka_hpack_table_resize(ka_hpack_table *t, uint32_t max);

/* Give back the memory that entries to come would use: for a connection that falls idle. Costs nothing when there is
 * little of it. */
void ka_hpack_table_trim(ka_hpack_table *t);

/* Empty it, and give all memory back; the maximum stays. */
void ka_hpack_table_clear(ka_hpack_table *t);

/* Debugging: do all parts agree? */
int ka_hpack_table_check(const ka_hpack_table *t);

#endif
