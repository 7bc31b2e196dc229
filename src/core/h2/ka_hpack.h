/* ka_hpack.h: field sections of HTTP/2 from bytes to fields and back (RFC 7541), without I/O.
 *
 * A connection has one decoder and one encoder. Between field sections each is its dynamic table and a few numbers; what
 * is needed while a section is read lives in the caller's ka_hpack_section. Blocks must be decoded in the order in which
 * they came, all of them, and what was encoded must be sent in the order in which it was encoded, all of it: the tables at
 * both ends stay in step by nothing else. So a request that is refused is decoded all the same. */
#ifndef KA_HPACK_H
#define KA_HPACK_H

#include "h2/ka_hpack_table.h"
#include "http/ka_head.h"

/* Once in a process, before anything else of this room. Not safe beside another first call. */
void ka_hpack_init(void);

/* ---- decoding ---- */

typedef struct {
    ka_hpack_table table;
    uint16_t limit;      /* SETTINGS_HEADER_TABLE_SIZE as the peer has acknowledged it */
    uint16_t must_go_to; /* with must_update: the next block says so much or less first */
    uint8_t must_update;
} ka_hpack_decoder;

void ka_hpack_decoder_init(ka_hpack_decoder *d); /* 4,096 holds until the peer has acknowledged another limit */
void ka_hpack_decoder_free(ka_hpack_decoder *d);

/* Our SETTINGS_HEADER_TABLE_SIZE is acknowledged. Until then the one of before holds. limit <= KA_HPACK_MAX_TABLE. */
void ka_hpack_decoder_limit(ka_hpack_decoder *d, uint32_t limit);

/* What one field section is decoded into. Names and values lie in `buf` behind each other, and fields are spans of it. */
typedef struct {
    /* the caller's, set before the first call */
    char *buf;          /* `size` bytes, at least the decoder's limit, and what max_list allows */
    ka_field *fields;   /* max_fields of them */
    uint8_t *is_secret; /* NULL, or max_fields: 1 for a field that may never be indexed (RFC 7541 6.2.3) */
    uint32_t size, max_fields;
    uint32_t max_list; /* SETTINGS_MAX_HEADER_LIST_SIZE: names, values, and 32 a field (RFC 9113 6.5.2) */
    /* ours; zeros at first */
    uint32_t used; /* of buf */
    uint32_t n_fields;
    uint64_t list_size;   /* of all fields, of those as well that are not kept */
    uint8_t has_begun;    /* a field was there: no more table size updates */
    uint8_t is_too_large; /* a limit was passed: what is kept means nothing, the table is right */
} ka_hpack_section;

/* Decode what is whole of `in`, less than 2 GiB; is_last: the bytes end the block.
 * Return: KA_OK all of it is decoded; KA_PARTIAL: the rest, from *consumed, is needed again with more behind it, to a total
 *         of *needs bytes at least (call again when they are here, or for the end: then a piece costs O(piece)). KA_EPEER:
 *         COMPRESSION_ERROR of the connection (RFC 9113 4.3). KA_ENOMEM: the table is no longer in step, the connection
 *         must end.
 * Too large a section is no error here: is_too_large is set, and all is decoded as it must be. Then a field from a table
 * costs nothing, and a literal what it has on the wire and at most one table's size. */
int ka_hpack_decode(ka_hpack_decoder *d, ka_hpack_section *s, const uint8_t *in, size_t len, int is_last,
                    size_t *consumed, size_t *needs);

/* Give back what entries to come would use; for a connection that falls idle. */
static inline void ka_hpack_decoder_rest(ka_hpack_decoder *d) { ka_hpack_table_trim(&d->table); }

/* ---- encoding ---- */

enum {
    KA_HPACK_RECENT = 8
};

typedef struct {
    ka_hpack_table table;
    uint16_t own_limit;               /* of the table, whatever the peer allows */
    uint16_t lowest;                  /* with must_tell: the table was so small since the last block */
    uint8_t must_tell;                /* the next block begins with the table's size */
    uint8_t next_recent;              /* which of those below is overwritten next */
    uint16_t recent[KA_HPACK_RECENT]; /* hashes of literals that were sent and are not in the table; 0 = none */
} ka_hpack_encoder;

enum {
    KA_HPACK_OWN_TABLE =
        1024, /* a good own_limit: what a dozen fields of a response need; dates that are over go soon */
    KA_HPACK_BEGIN_BYTES = 8, /* room for ka_hpack_encode_begin */
    KA_HPACK_FIELD_BYTES = 16 /* room for a field besides its name and value */
};

void ka_hpack_encoder_init(ka_hpack_encoder *e, uint32_t own_limit);
void ka_hpack_encoder_free(ka_hpack_encoder *e);

/* The peer's SETTINGS_HEADER_TABLE_SIZE: any value; it holds for the next block. */
void ka_hpack_encoder_limit(ka_hpack_encoder *e, uint32_t peers);

/* Forget all entries, and give back their memory; the next block says so in 4 bytes. For an idle connection that
 * holds much. */
void ka_hpack_encoder_forget(ka_hpack_encoder *e);
static inline void ka_hpack_encoder_rest(ka_hpack_encoder *e) { ka_hpack_table_trim(&e->table); }

/* First of a block. */
void ka_hpack_encode_begin(ka_hpack_encoder *e, char **at);

/* One field; its name has no capitals (RFC 9113 8.2). is_secret: nobody on the way may put it into a table; set-cookie
 * and the fields with credentials are taken so in any case. */
void ka_hpack_encode_field(ka_hpack_encoder *e, char **at, const char *name, uint32_t name_len, const char *value,
                           uint32_t value_len, int is_secret);

/* :status, 100 to 999. */
void ka_hpack_encode_status(ka_hpack_encoder *e, char **at, unsigned status);

#endif
