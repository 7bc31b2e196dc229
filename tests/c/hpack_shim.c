/* HPACK as a shared object for test_hpack_peers.py: contexts behind pointers, field lists as one string of bytes, in
 * which each field is the lengths of name and value as 32 bits each, and both. */
#include <stdlib.h>
#include <string.h>

#include "h2/ka_hpack.h"

enum {
    ROOM = 1 << 20,
    MAX_FIELDS = 1000
};

void *shim_decoder(uint32_t max);
void *shim_decoder(uint32_t max)
{
    ka_hpack_decoder *d = malloc(sizeof *d);
    ka_hpack_init();
    if (d == NULL)
        return NULL;
    ka_hpack_decoder_init(d);
    /* As if it had always been so, without the update that a reduction demands. */
    d->limit = (uint16_t)max;
    ka_hpack_table_resize(&d->table, max);
    return d;
}

void shim_decoder_limit(ka_hpack_decoder *d, uint32_t limit);
void shim_decoder_limit(ka_hpack_decoder *d, uint32_t limit) { ka_hpack_decoder_limit(d, limit); }

void shim_decoder_free(ka_hpack_decoder *d);
void shim_decoder_free(ka_hpack_decoder *d)
{
    ka_hpack_decoder_free(d);
    free(d);
}

/* Decode a block in two pieces, or byte by byte when `first` is -1, each an allocation of its own. The length of the list,
 * or what ka_hpack_decode says. */
long shim_decode(ka_hpack_decoder *d, const uint8_t *in, size_t len, long first, char *list);
long shim_decode(ka_hpack_decoder *d, const uint8_t *in, size_t len, long first, char *list)
{
    static char buf[ROOM];
    static ka_field fields[MAX_FIELDS];
    ka_hpack_section s = {.buf = buf, .fields = fields, .size = ROOM, .max_fields = MAX_FIELDS, .max_list = ROOM};
    size_t at = 0, have = first < 0 ? 1 : (size_t)first;
    int rc = KA_PARTIAL;
    for (;;) {
        size_t consumed, needs;
        have = have < len ? have : len;
        uint8_t *piece = malloc(have - at + 1);
        if (piece == NULL)
            return KA_ENOMEM;
        memcpy(piece, in + at, have - at);
        rc = ka_hpack_decode(d, &s, piece, have - at, have == len, &consumed, &needs);
        free(piece);
        at += consumed;
        if (have == len || (rc != KA_OK && rc != KA_PARTIAL))
            break;
        have = first < 0 ? have + 1 : len;
    }
    if (rc != KA_OK || !ka_hpack_table_check(&d->table) || s.is_too_large)
        return rc != KA_OK ? rc : -100;
    char *to = list;
    for (uint32_t i = 0; i < s.n_fields; i++) {
        memcpy(to, &fields[i].name.len, 4);
        memcpy(to + 4, &fields[i].value.len, 4);
        memcpy(to + 8, buf + fields[i].name.off, fields[i].name.len);
        memcpy(to + 8 + fields[i].name.len, buf + fields[i].value.off, fields[i].value.len);
        to += 8 + fields[i].name.len + fields[i].value.len;
    }
    return to - list;
}

void *shim_encoder(uint32_t own_limit);
void *shim_encoder(uint32_t own_limit)
{
    ka_hpack_encoder *e = malloc(sizeof *e);
    ka_hpack_init();
    if (e != NULL)
        ka_hpack_encoder_init(e, own_limit);
    return e;
}

void shim_encoder_limit(ka_hpack_encoder *e, uint32_t limit);
void shim_encoder_limit(ka_hpack_encoder *e, uint32_t limit) { ka_hpack_encoder_limit(e, limit); }

void shim_encoder_free(ka_hpack_encoder *e);
void shim_encoder_free(ka_hpack_encoder *e)
{
    ka_hpack_encoder_free(e);
    free(e);
}

long shim_encode(ka_hpack_encoder *e, const char *list, size_t len, char *out);
long shim_encode(ka_hpack_encoder *e, const char *list, size_t len, char *out)
{
    char *at = out;
    ka_hpack_encode_begin(e, &at);
    for (const char *p = list; p < list + len;) {
        uint32_t name_len, value_len;
        memcpy(&name_len, p, 4);
        memcpy(&value_len, p + 4, 4);
        ka_hpack_encode_field(e, &at, p + 8, name_len, p + 8 + name_len, value_len, 0);
        p += 8 + name_len + value_len;
    }
    return ka_hpack_table_check(&e->table) ? at - out : -100;
}
