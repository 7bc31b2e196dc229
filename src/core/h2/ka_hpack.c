/* ka_hpack.c: representations of fields (RFC 7541 section 6), and which of them a response's fields get.
 *
 * The decoder takes whole representations: one that is not whole is looked at again when more is here, and says before how
 * much it needs. The encoder enters a field into its table when its name has none there, or when the same field was sent
 * not long ago: so what a server says in each response is sent once, what it says of one resource only is sent as it is,
 * a date costs an entry where more than one response goes out in its second, and no list of names has to know. */
#include "h2/ka_hpack.h"

#include <string.h>

#include "h2/ka_huffman.h"

static void make_tables(void)
{
    ka_huffman_init();
    ka_hpack_table_init();
}

void ka_hpack_init(void)
{
    static int state;
    ka_once(&state, make_tables);
}

/* ---- integers (RFC 7541 5.1) ---- */

enum {
    /* RFC 7541 5.1: encodings that exceed an implementation's limits, in value or in octets, are errors. */
    MAX_INTEGER_OCTETS = 5
};

/* An integer whose prefix is the low bits of **p, one byte at least. KA_OK, KA_PARTIAL or KA_EPEER. */
static inline int read_integer(const uint8_t **p, const uint8_t *end, unsigned prefix, uint32_t *value)
{
    uint32_t mask = (1u << prefix) - 1;
    *value = *(*p)++ & mask;
    if (ka_likely(*value < mask))
        return KA_OK;
    uint64_t n = *value;
    for (unsigned i = 0; i < MAX_INTEGER_OCTETS; i++) {
        if (*p == end)
            return KA_PARTIAL;
        uint8_t c = *(*p)++;
        n += (uint64_t)(c & 0x7f) << (7 * i);
        if (n > UINT32_MAX)
            return KA_EPEER;
        if (!(c & 0x80)) {
            *value = (uint32_t)n;
            return KA_OK;
        }
    }
    return KA_EPEER;
}

static inline char *write_integer(char *at, unsigned pattern, unsigned prefix, uint32_t value)
{
    uint32_t mask = (1u << prefix) - 1;
    if (ka_likely(value < mask)) {
        *at++ = (char)(pattern | value);
        return at;
    }
    *at++ = (char)(pattern | mask);
    for (value -= mask; value >= 0x80; value >>= 7)
        *at++ = (char)(0x80 | (value & 0x7f));
    *at++ = (char)value;
    return at;
}

/* ---- decoding ---- */

void ka_hpack_decoder_init(ka_hpack_decoder *d)
{
    *d = (ka_hpack_decoder){.limit = KA_HPACK_DEFAULT_TABLE, .table.max = KA_HPACK_DEFAULT_TABLE};
}

void ka_hpack_decoder_free(ka_hpack_decoder *d) { ka_hpack_table_clear(&d->table); }

void ka_hpack_decoder_limit(ka_hpack_decoder *d, uint32_t limit)
{
    ka_assert(limit <= KA_HPACK_MAX_TABLE);
    d->limit = (uint16_t)limit;
    /* RFC 7541 4.2: a reduction below the size in use is answered by an update at the start of the next block, and by one to
     * the lowest when there were several. */
    if (limit < d->table.max && (!d->must_update || limit < d->must_go_to)) {
        d->must_update = 1;
        d->must_go_to = (uint16_t)limit;
    }
}

/* Room for n more bytes of the field that is being read. */
static inline int has_room(const ka_hpack_section *s, uint64_t n) { return !s->is_too_large && s->used + n <= s->size; }

static inline void copy(char *to, const char *from, size_t n)
{
    if (n > 16) {
        memcpy(to, from, n);
    } else if (n >= 8) {
        uint64_t a, b;
        memcpy(&a, from, 8);
        memcpy(&b, from + n - 8, 8);
        memcpy(to, &a, 8);
        memcpy(to + n - 8, &b, 8);
    } else if (n >= 4) {
        uint32_t a, b;
        memcpy(&a, from, 4);
        memcpy(&b, from + n - 4, 4);
        memcpy(to, &a, 4);
        memcpy(to + n - 4, &b, 4);
    } else {
        for (size_t i = 0; i < n; i++)
            to[i] = from[i];
    }
}

/* The field is counted; may it be kept? */
static inline int is_kept(ka_hpack_section *s, uint64_t name_len, uint64_t value_len)
{
    s->list_size += name_len + value_len + KA_HPACK_OVERHEAD;
    s->has_begun = 1;
    if (ka_unlikely(s->list_size > s->max_list || s->n_fields >= s->max_fields || !has_room(s, name_len + value_len)))
        s->is_too_large = 1;
    return !s->is_too_large;
}

/* Its bytes are at s->used: they stay. */
static inline void keep(ka_hpack_section *s, uint32_t name_len, uint32_t value_len, int is_secret)
{
    ka_field *f = &s->fields[s->n_fields];
    f->name = (ka_span){s->used, name_len};
    f->value = (ka_span){s->used + name_len, value_len};
    if (s->is_secret != NULL)
        s->is_secret[s->n_fields] = (uint8_t)is_secret;
    s->n_fields++;
    s->used += name_len + value_len;
}

static inline int indexed(ka_hpack_decoder *d, ka_hpack_section *s, uint32_t i)
{
    if (i - 1 < KA_HPACK_STATIC) {
        const ka_hpack_static_entry *e = &ka_hpack_static[i];
        uint32_t n = (uint32_t)e->name_len + e->value_len;
        if (!is_kept(s, e->name_len, e->value_len))
            return KA_OK;
        if (ka_likely(s->size - s->used >= sizeof *e))
            memcpy(s->buf + s->used, e->text, sizeof e->text);
        else
            memcpy(s->buf + s->used, e->text, n);
        keep(s, e->name_len, e->value_len, 0);
        return KA_OK;
    }
    /* RFC 7541 2.3.3: an index beyond both tables is an error; 6.1: and so is 0. */
    if (i - KA_HPACK_STATIC - 1 >= d->table.n)
        return KA_EPEER;
    ka_hpack_entry e = ka_hpack_table_at(&d->table, i - KA_HPACK_STATIC - 1);
    if (!is_kept(s, e.name_len, e.value_len))
        return KA_OK;
    char *to = s->buf + s->used;
    copy(to, e.name, e.name_len);
    copy(to + e.name_len, e.value, e.value_len);
    keep(s, e.name_len, e.value_len, 0);
    return KA_OK;
}

/* A string that is whole, where it lies. */
typedef struct {
    const uint8_t *bytes;
    uint32_t n;
    uint8_t is_huffman;
} string;

/* RFC 7541 5.2. KA_PARTIAL: *needs is how many bytes from *p would do. */
static inline int find_string(const uint8_t **p, const uint8_t *end, string *found, uint64_t *needs)
{
    const uint8_t *from = *p;
    *needs = 1;
    if (from == end)
        return KA_PARTIAL;
    found->is_huffman = *from >> 7;
    int rc = read_integer(p, end, 7, &found->n);
    if (rc != KA_OK) {
        *needs = (uint64_t)(end - from) + 1;
        return rc;
    }
    found->bytes = *p;
    *needs = (uint64_t)(*p - from) + found->n;
    if ((size_t)(end - *p) < found->n)
        return KA_PARTIAL;
    *p += found->n;
    return KA_OK;
}

/* To [to, to + room); how long it is, which may be more, or KA_EPEER. */
static inline int64_t read_string(char *to, size_t room, const string *from)
{
    if (from->is_huffman)
        return ka_huffman_decode(to, room, from->bytes, from->n);
    copy(to, (const char *)from->bytes, from->n < room ? from->n : room);
    return from->n;
}

/* Name and value to the room behind what is kept; when they are too large, to the start of it, where nothing counts any
 * more: there they are needed for the table only, and fit if they fit the table. */
static int literal(ka_hpack_decoder *d, ka_hpack_section *s, uint32_t name_index, const string *name,
                   const string *value, int enters, int is_secret)
{
    char *to = s->buf + (s->is_too_large ? 0 : s->used);
    size_t room = s->size - (size_t)(to - s->buf);
    uint32_t static_name = 0;
    int64_t name_len, value_len;
again:
    if (name_index == 0) {
        name_len = read_string(to, room, name);
    } else if (name_index <= KA_HPACK_STATIC) {
        const ka_hpack_static_entry *e = &ka_hpack_static[name_index];
        static_name = name_index;
        name_len = e->name_len;
        copy(to, e->text, e->name_len < room ? e->name_len : room);
    } else {
        /* RFC 7541 2.3.3, 6.2.1 */
        if (name_index - KA_HPACK_STATIC - 1 >= d->table.n)
            return KA_EPEER;
        ka_hpack_entry e = ka_hpack_table_at(&d->table, name_index - KA_HPACK_STATIC - 1);
        static_name = e.static_name;
        name_len = e.name_len;
        /* A copy, since this entry may be evicted for the new one (RFC 7541 4.4). */
        copy(to, e.name, e.name_len < room ? e.name_len : room);
    }
    if (ka_unlikely(name_len < 0))
        return KA_EPEER;
    size_t name_room = (uint64_t)name_len < room ? (size_t)name_len : room;
    value_len = read_string(to + name_room, room - name_room, value);
    if (ka_unlikely(value_len < 0))
        return KA_EPEER;
    if (ka_unlikely((uint64_t)(name_len + value_len) > room && to != s->buf)) {
        s->is_too_large = 1;
        to = s->buf;
        room = s->size;
        goto again;
    }
    int kept = is_kept(s, (uint64_t)name_len, (uint64_t)value_len);
    if (enters) {
        int rc = ka_hpack_table_add(&d->table, static_name, to, (uint32_t)name_len, to + name_room,
                                    (uint32_t)value_len);
        if (ka_unlikely(rc != KA_OK))
            return rc;
    }
    if (ka_likely(kept))
        keep(s, (uint32_t)name_len, (uint32_t)value_len, is_secret);
    return KA_OK;
}

/* RFC 7541 6.3 */
static int size_update(ka_hpack_decoder *d, ka_hpack_section *s, uint32_t max)
{
    /* RFC 7541 4.2: at the beginning of a block; 6.3: not over the limit. */
    if (s->has_begun || max > d->limit)
        return KA_EPEER;
    if (max <= d->must_go_to)
        d->must_update = 0;
    ka_hpack_table_resize(&d->table, max);
    return KA_OK;
}

/* One representation at *p < end. KA_PARTIAL: *needs is how many bytes it has at least. */
static inline int representation(ka_hpack_decoder *d, ka_hpack_section *s, const uint8_t **p, const uint8_t *end,
                                 uint64_t *needs)
{
    const uint8_t *from = *p;
    uint8_t first = *from;
    uint32_t n;
    int rc;
    *needs = (uint64_t)(end - from) + 1;
    if ((first & 0xe0) == 0x20) { /* RFC 7541 6.3 */
        rc = read_integer(p, end, 5, &n);
        return rc == KA_OK ? size_update(d, s, n) : rc;
    }
    /* RFC 7541 4.2: the update that a reduction demands comes first. */
    if (ka_unlikely(d->must_update))
        return KA_EPEER;
    if (first & 0x80) { /* RFC 7541 6.1 */
        rc = read_integer(p, end, 7, &n);
        return rc == KA_OK ? indexed(d, s, n) : rc;
    }
    int enters = first & 0x40, is_secret = !enters && (first & 0x10); /* RFC 7541 6.2.1, 6.2.2, 6.2.3 */
    string name = {0}, value;
    if ((rc = read_integer(p, end, enters ? 6 : 4, &n)) != KA_OK)
        return rc;
    /* Told before the value is here: the entry may go by what comes before it is decoded in no case. */
    if (n > KA_HPACK_STATIC && n - KA_HPACK_STATIC - 1 >= d->table.n)
        return KA_EPEER;
    uint64_t more;
    const uint8_t *string_from = *p;
    if (n == 0 && (rc = find_string(p, end, &name, &more)) != KA_OK) {
        *needs = (uint64_t)(string_from - from) + more;
        return rc;
    }
    string_from = *p;
    if ((rc = find_string(p, end, &value, &more)) != KA_OK) {
        *needs = (uint64_t)(string_from - from) + more;
        return rc;
    }
    return literal(d, s, n, &name, &value, enters, is_secret != 0);
}

int ka_hpack_decode(ka_hpack_decoder *d, ka_hpack_section *s, const uint8_t *in, size_t len, int is_last,
                    size_t *consumed, size_t *needs)
{
    const uint8_t *p = in, *end = in + len, *from = in;
    uint64_t more = 1;
    int rc = KA_OK;
    ka_assert(s->size >= d->limit && len <= INT32_MAX);
    while (p < end) {
        from = p;
        rc = representation(d, s, &p, end, &more);
        if (ka_unlikely(rc != KA_OK))
            break;
        from = p;
        more = 1;
    }
    *consumed = (size_t)(from - in);
    *needs = (size_t)more;
    if (rc == KA_PARTIAL && is_last)
        return KA_EPEER; /* a block that ends inside a representation (RFC 7541 5.1, 5.2; RFC 9113 4.3) */
    return rc;
}

/* ---- encoding ---- */

void ka_hpack_encoder_init(ka_hpack_encoder *e, uint32_t own_limit)
{
    ka_assert(own_limit <= KA_HPACK_MAX_TABLE);
    *e = (ka_hpack_encoder){.own_limit = (uint16_t)own_limit};
    e->table.max = KA_HPACK_DEFAULT_TABLE; /* what the peer takes us to have */
    ka_hpack_encoder_limit(e, KA_HPACK_DEFAULT_TABLE);
}

void ka_hpack_encoder_free(ka_hpack_encoder *e) { ka_hpack_table_clear(&e->table); }

/* The table has another maximum from the next block on, which says so. */
static void resize(ka_hpack_encoder *e, uint32_t max)
{
    /* RFC 7541 4.2: when it was changed more than once, the smallest is told as well. */
    if (!e->must_tell || max < e->lowest)
        e->lowest = (uint16_t)max;
    e->must_tell = 1;
    ka_hpack_table_resize(&e->table, max);
}

void ka_hpack_encoder_limit(ka_hpack_encoder *e, uint32_t peers)
{
    uint32_t max = peers < e->own_limit ? peers : e->own_limit;
    if (max != e->table.max)
        resize(e, max);
}

void ka_hpack_encoder_forget(ka_hpack_encoder *e)
{
    uint32_t max = e->table.max;
    if (e->table.n == 0)
        return;
    resize(e, 0);
    ka_hpack_table_clear(&e->table);
    resize(e, max);
    memset(e->recent, 0, sizeof e->recent);
}

void ka_hpack_encode_begin(ka_hpack_encoder *e, char **at)
{
    if (ka_likely(!e->must_tell))
        return;
    if (e->lowest < e->table.max)
        *at = write_integer(*at, 0x20, 5, e->lowest);
    *at = write_integer(*at, 0x20, 5, e->table.max);
    e->must_tell = 0;
}

static inline char *write_string(char *at, const char *text, uint32_t n)
{
    size_t coded = ka_huffman_len(text, n);
    if (coded < n)
        return ka_huffman_encode(write_integer(at, 0x80, 7, (uint32_t)coded), coded, text, n);
    at = write_integer(at, 0, 7, n);
    copy(at, text, n);
    return at + n;
}

/* RFC 7541 7.1.3: what a guess at a table's content must not be able to find. */
static int is_credential(unsigned static_name)
{
    switch (static_name) {
    case 23: /* authorization */
    case 32: /* cookie */
    case 49: /* proxy-authorization */
    case 55: /* set-cookie */ return 1;
    default: return 0;
    }
}

/* What is said of one resource: the first of a connection is likely to be the last of its kind. */
static int is_of_one_resource(unsigned static_name)
{
    switch (static_name) {
    case 21: /* age */
    case 30: /* content-range */
    case 34: /* etag */
    case 36: /* expires */
    case 44: /* last-modified */
    case 46: /* location */ return 1;
    default: return 0;
    }
}

static uint16_t hash_of(const char *name, uint32_t name_len, const char *value, uint32_t value_len)
{
    uint32_t h = 2166136261u ^ name_len;
    for (uint32_t i = 0; i < name_len; i++)
        h = (h ^ (uint8_t)name[i]) * 16777619u;
    for (uint32_t i = 0; i < value_len; i++)
        h = (h ^ (uint8_t)value[i]) * 16777619u;
    h ^= h >> 16;
    return (uint16_t)(h ? h : 1);
}

/* Was it sent not long ago? If not, it is now. */
static int is_recent(ka_hpack_encoder *e, uint16_t hash)
{
    for (unsigned i = 0; i < KA_HPACK_RECENT; i++)
        if (e->recent[i] == hash)
            return 1;
    e->recent[e->next_recent] = hash;
    e->next_recent = (uint8_t)((e->next_recent + 1) % KA_HPACK_RECENT);
    return 0;
}

static int enters(ka_hpack_encoder *e, int has_name, unsigned static_name, const char *name, uint32_t name_len,
                  const char *value, uint32_t value_len)
{
    /* One that would take half of the table costs others more than it saves. */
    if ((uint64_t)name_len + value_len + KA_HPACK_OVERHEAD > e->table.max / 2)
        return 0;
    if (!has_name && !is_of_one_resource(static_name))
        return 1;
    return is_recent(e, hash_of(name, name_len, value, value_len));
}

void ka_hpack_encode_field(ka_hpack_encoder *e, char **at, const char *name, uint32_t name_len, const char *value,
                           uint32_t value_len, int is_secret)
{
    unsigned static_name = ka_hpack_static_find(name, name_len);
    unsigned pattern = 0x10, prefix = 4; /* RFC 7541 6.2.3 */
    uint32_t index = static_name;
    if (!is_secret && !is_credential(static_name)) {
        /* Several values in a row have one name in the static table. */
        for (unsigned i = static_name; i != 0 && i <= KA_HPACK_STATIC; i++) {
            const ka_hpack_static_entry *s = &ka_hpack_static[i];
            if (s->value_len == 0 || s->name_len != name_len || !ka_hpack_same(s->text, name, name_len))
                break;
            if (s->value_len == value_len && ka_hpack_same(s->text + name_len, value, value_len)) {
                *at = write_integer(*at, 0x80, 7, i);
                return;
            }
        }
        ka_hpack_found found = ka_hpack_table_find(&e->table, static_name, name, name_len, value, value_len);
        if (ka_likely(found.field >= 0)) {
            *at = write_integer(*at, 0x80, 7, KA_HPACK_STATIC + 1 + (uint32_t)found.field);
            return;
        }
        if (index == 0 && found.name >= 0)
            index = KA_HPACK_STATIC + 1 + (uint32_t)found.name;
        pattern = 0; /* RFC 7541 6.2.2 */
        if (enters(e, found.name >= 0, static_name, name, name_len, value, value_len) &&
            ka_hpack_table_add(&e->table, static_name, name, name_len, value, value_len) == KA_OK) {
            pattern = 0x40; /* RFC 7541 6.2.1 */
            prefix = 6;
        }
    }
    *at = write_integer(*at, pattern, prefix, index);
    if (index == 0)
        *at = write_string(*at, name, name_len);
    *at = write_string(*at, value, value_len);
}

void ka_hpack_encode_status(ka_hpack_encoder *e, char **at, unsigned status)
{
    char digits[3] = {(char)('0' + status / 100 % 10), (char)('0' + status / 10 % 10), (char)('0' + status % 10)};
    ka_hpack_encode_field(e, at, ":status", 7, digits, 3, 0);
}
