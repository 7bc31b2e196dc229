/* ka_h2_frame.c: one table says what each type of frame must be like; the code reads it.
 *
 * The order of judging is fixed, so that the answer does not depend on how the bytes came: what the frame may be here
 * (first, or in a field block), then its length, its stream, its flags' bytes, and what those say. */
#include "h2/ka_h2_frame.h"

#include <string.h>

/* ---- faults ---- */

enum {
    ERROR_PROTOCOL = KA_H2_PROTOCOL_ERROR,
    ERROR_FRAME_SIZE = KA_H2_FRAME_SIZE_ERROR,
    ERROR_FLOW_CONTROL = KA_H2_FLOW_CONTROL_ERROR,
    ERROR_COMPRESSION = KA_H2_COMPRESSION_ERROR
};

static const struct {
    uint8_t error, of_stream;
    const char *text;
} faults[KA_H2_N_FAULTS] = {{0, 0, "no fault"},
#define X(name, error, of_stream, text) {ERROR_##error, of_stream, text},
                            KA_H2_FAULTS(X)
#undef X
};

const char *ka_h2_fault_text(unsigned code) { return faults[code < KA_H2_N_FAULTS ? code : 0].text; }

int ka_h2_fault_set(ka_h2_fault *fault, unsigned code, uint32_t stream)
{
    *fault = (ka_h2_fault){stream, (uint8_t)code, faults[code].error, faults[code].of_stream && stream != 0};
    return KA_EPEER;
}

/* ---- the types ---- */

enum {
    ON_CONNECTION = 1, /* stream 0 and no other */
    ON_STREAM = 2,     /* any but 0 */
    OF_CLIENT = 4 /* with ON_STREAM: an odd one. An even one would be ours, and we push nothing: it is idle for ever */
};

enum {
    ANY_LENGTH = 0,
    EXACT = 1,
    AT_LEAST = 2,
    SETTINGS_LENGTH = 3 /* whole settings */
};

typedef struct {
    uint8_t where;  /* 0: anywhere */
    uint8_t flags;  /* that mean something; RFC 9113 4.1: others are ignored */
    uint8_t fixed;  /* bytes that every frame of the type begins with */
    uint8_t length; /* ANY_LENGTH... against `fixed` */
    uint8_t
        too_large; /* fault when it is over max_frame. RFC 9113 4.2: of the connection where the frame may alter more
                           than its stream; that is every type but DATA, and those that are not known, to be safe */
    uint8_t bad_length; /* fault */
    uint8_t is_known;
} type_rule;

#define DATA_FAULT KA_H2_FAULT_DATA_TOO_LARGE, KA_H2_FAULT_BAD_DATA_SIZE
#define SIZE_FAULT KA_H2_FAULT_FRAME_TOO_LARGE, KA_H2_FAULT_BAD_FRAME_SIZE

/* type, where, flags, fixed, length, faults of size */
static const type_rule rules[] = {
    /* RFC 9113 6.1 */
    [KA_H2_DATA] = {ON_STREAM | OF_CLIENT, KA_H2_END_STREAM | KA_H2_PADDED, 0, ANY_LENGTH, DATA_FAULT, 1},
    /* RFC 9113 6.2 */
    [KA_H2_HEADERS] = {ON_STREAM | OF_CLIENT, KA_H2_END_STREAM | KA_H2_END_HEADERS | KA_H2_PADDED | KA_H2_HAS_PRIORITY,
                       0, ANY_LENGTH, SIZE_FAULT, 1},
    /* RFC 9113 6.3: another length is an error of the stream; what it says is of no use to anybody (5.3.2) */
    [KA_H2_PRIORITY] = {ON_STREAM, 0, 5, EXACT, KA_H2_FAULT_FRAME_TOO_LARGE, KA_H2_FAULT_BAD_PRIORITY_SIZE, 1},
    /* RFC 9113 6.4 */
    [KA_H2_RST_STREAM] = {ON_STREAM | OF_CLIENT, 0, 4, EXACT, SIZE_FAULT, 1},
    /* RFC 9113 6.5 */
    [KA_H2_SETTINGS] = {ON_CONNECTION, KA_H2_ACK, 0, SETTINGS_LENGTH, SIZE_FAULT, 1},
    /* RFC 9113 6.6, 8.4: refused before it is looked at */
    [KA_H2_PUSH_PROMISE] = {0, 0, 0, ANY_LENGTH, SIZE_FAULT, 1},
    /* RFC 9113 6.7 */
    [KA_H2_PING] = {ON_CONNECTION, KA_H2_ACK, 8, EXACT, SIZE_FAULT, 1},
    /* RFC 9113 6.8 */
    [KA_H2_GOAWAY] = {ON_CONNECTION, 0, 8, AT_LEAST, SIZE_FAULT, 1},
    /* RFC 9113 6.9: of the connection or of a stream */
    [KA_H2_WINDOW_UPDATE] = {OF_CLIENT, 0, 4, EXACT, SIZE_FAULT, 1},
    /* RFC 9113 6.10 */
    [KA_H2_CONTINUATION] = {ON_STREAM | OF_CLIENT, KA_H2_END_HEADERS, 0, ANY_LENGTH, SIZE_FAULT, 1},
    /* RFC 9218 7.1 */
    [KA_H2_PRIORITY_UPDATE] = {ON_CONNECTION, 0, 4, AT_LEAST, SIZE_FAULT, 1},
};
/* RFC 9113 5.5: ignored wherever it is, but not within a field block. */
static const type_rule unknown = {0, 0, 0, ANY_LENGTH, SIZE_FAULT, 0};

static inline const type_rule *rule_of(unsigned type)
{
    return type < sizeof rules / sizeof *rules && rules[type].is_known ? &rules[type] : &unknown;
}

/* ---- reading ---- */

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
_Static_assert(sizeof preface - 1 == KA_H2_PREFACE_LEN, "RFC 9113 3.4");

int ka_h2_preface_read(const uint8_t *in, size_t len, ka_h2_fault *fault)
{
    size_t n = len < KA_H2_PREFACE_LEN ? len : KA_H2_PREFACE_LEN;
    if (n > 0 && memcmp(in, preface, n) != 0)
        return ka_h2_fault_set(fault, KA_H2_FAULT_BAD_PREFACE, 0);
    return len < KA_H2_PREFACE_LEN ? KA_PARTIAL : KA_OK;
}

static inline uint32_t load32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* May such a frame come now? A fault, or 0. */
static inline unsigned judge_order(const ka_h2_reader *r, const ka_h2_frame *f)
{
    /* RFC 9113 3.4: an acknowledgement is not the one that is meant, since nothing was sent yet that it might be for. */
    if (ka_unlikely(!r->has_settings) && (f->type != KA_H2_SETTINGS || (f->flags & KA_H2_ACK)))
        return KA_H2_FAULT_NO_SETTINGS;
    /* RFC 9113 6.2, 6.10, 5.5: no other frame, of whatever type or stream, between those of a field block. */
    if (ka_unlikely(r->continues != 0) && (f->type != KA_H2_CONTINUATION || f->stream != r->continues))
        return KA_H2_FAULT_NOT_CONTINUED;
    if (f->type == KA_H2_CONTINUATION && r->continues == 0)
        return KA_H2_FAULT_NOTHING_TO_CONTINUE;
    if (f->type == KA_H2_PUSH_PROMISE)
        return KA_H2_FAULT_PUSH;
    return 0;
}

/* Do length and stream suit the type? A fault, or 0. */
static inline unsigned judge_shape(const type_rule *rule, const ka_h2_frame *f, uint32_t max_frame, uint32_t fixed)
{
    if ((rule->where & ON_STREAM) && f->stream == 0)
        return KA_H2_FAULT_NO_STREAM;
    if ((rule->where & ON_CONNECTION) && f->stream != 0)
        return KA_H2_FAULT_ON_STREAM;
    if ((rule->where & OF_CLIENT) && f->stream != 0 && f->stream % 2 == 0)
        return KA_H2_FAULT_BAD_STREAM;
    if (f->length > max_frame)
        return rule->too_large;
    /* RFC 9113 4.2: too small for what it must have. */
    if (f->length < fixed || (rule->length == EXACT && f->length != fixed))
        return rule->bad_length;
    if (rule->length == SETTINGS_LENGTH) {
        if ((f->flags & KA_H2_ACK) && f->length != 0)
            return KA_H2_FAULT_BAD_ACK_SIZE;
        if (f->length % KA_H2_SETTING_LEN != 0)
            return rule->bad_length;
    }
    return 0;
}

/* What is fixed behind the nine bytes. A fault, or 0. */
static inline unsigned judge_fixed(ka_h2_frame *f, const uint8_t *p)
{
    switch (f->type) {
    case KA_H2_DATA:
    case KA_H2_HEADERS:
        if (f->flags & KA_H2_PADDED) {
            /* RFC 9113 6.1, 6.2: no more than there is room for; all of it may be padding. */
            if (*p > f->content)
                return KA_H2_FAULT_BAD_PADDING;
            f->padding = *p;
            f->content -= *p;
        }
        return 0;
    case KA_H2_RST_STREAM: f->value = load32(p); return 0;
    case KA_H2_PING:       memcpy(f->opaque, p, 8); return 0;
    case KA_H2_GOAWAY:
        f->other_stream = load32(p) & KA_H2_MAX_WINDOW;
        f->value = load32(p + 4);
        return 0;
    case KA_H2_WINDOW_UPDATE:
        f->value = load32(p) & KA_H2_MAX_WINDOW;
        if (f->value == 0)
            return f->stream ? KA_H2_FAULT_NO_INCREMENT : KA_H2_FAULT_NO_CONNECTION_INCREMENT;
        return 0;
    case KA_H2_PRIORITY_UPDATE:
        f->other_stream = load32(p) & KA_H2_MAX_WINDOW;
        return f->other_stream == 0 ? KA_H2_FAULT_PRIORITY_OF_NOTHING : 0;
    default: return 0;
    }
}

int ka_h2_frame_read(ka_h2_reader *r, const uint8_t *in, size_t len, ka_h2_frame *frame, ka_h2_fault *fault)
{
    if (len < KA_H2_FRAME_HEAD)
        return KA_PARTIAL;
    const type_rule *rule = rule_of(in[3]);
    ka_h2_frame *f = frame;
    *f = (ka_h2_frame){
        .stream = load32(in + 5) & KA_H2_MAX_WINDOW, /* RFC 9113 4.1: the reserved bit is ignored */
        .length = load32(in) >> 8,
        .type = in[3],
        .flags = in[4] & rule->flags,
        .is_unknown = !rule->is_known,
        .n_head = KA_H2_FRAME_HEAD,
    };
    uint32_t fixed = rule->fixed + (f->flags & KA_H2_PADDED ? 1u : 0u) + (f->flags & KA_H2_HAS_PRIORITY ? 5u : 0u);
    unsigned found = judge_order(r, f);
    f->content = f->length;
    if (ka_likely(found == 0))
        found = judge_shape(rule, f, r->max_frame, fixed);
    if (ka_unlikely(found != 0))
        return ka_h2_fault_set(fault, found, f->stream);
    if (len < KA_H2_FRAME_HEAD + fixed)
        return KA_PARTIAL;
    f->n_head = KA_H2_FRAME_HEAD + fixed;
    f->content = f->length - fixed;
    found = judge_fixed(f, in + KA_H2_FRAME_HEAD);
    if (ka_unlikely(found != 0))
        return ka_h2_fault_set(fault, found, f->stream);
    r->has_settings = 1;
    if (f->type == KA_H2_HEADERS || f->type == KA_H2_CONTINUATION)
        r->continues = f->flags & KA_H2_END_HEADERS ? 0 : f->stream;
    return KA_OK;
}

int ka_h2_setting_read(const uint8_t *in, ka_h2_setting *setting, ka_h2_fault *fault)
{
    uint32_t value = load32(in + 2);
    *setting = (ka_h2_setting){(uint16_t)(in[0] << 8 | in[1]), value};
    switch (setting->id) {
    case KA_H2_ENABLE_PUSH:
    case KA_H2_ENABLE_CONNECT_PROTOCOL: /* RFC 8441 3 */
    case KA_H2_NO_RFC7540_PRIORITIES:   /* RFC 9218 2.1 */
        return value > 1 ? ka_h2_fault_set(fault, KA_H2_FAULT_BAD_SETTING, 0) : KA_OK;
    case KA_H2_INITIAL_WINDOW_SIZE:
        return value > KA_H2_MAX_WINDOW ? ka_h2_fault_set(fault, KA_H2_FAULT_BAD_INITIAL_WINDOW, 0) : KA_OK;
    case KA_H2_MAX_FRAME_SIZE:
        if (value < KA_H2_MIN_MAX_FRAME || value > KA_H2_MAX_MAX_FRAME)
            return ka_h2_fault_set(fault, KA_H2_FAULT_BAD_SETTING, 0);
        return KA_OK;
    default: return KA_OK;
    }
}

/* ---- writing ---- */

static inline char *put32(char *at, uint32_t value)
{
    for (int shift = 24; shift >= 0; shift -= 8)
        *at++ = (char)(value >> shift);
    return at;
}

char *ka_h2_put_head(char *at, uint32_t length, unsigned type, unsigned flags, uint32_t stream)
{
    ka_assert(length <= KA_H2_MAX_MAX_FRAME && stream <= KA_H2_MAX_WINDOW);
    at = put32(at, length << 8 | type);
    *at++ = (char)flags;
    return put32(at, stream);
}

char *ka_h2_put_settings(char *at, const ka_h2_setting *settings, uint32_t n)
{
    at = ka_h2_put_head(at, KA_H2_SETTING_LEN * n, KA_H2_SETTINGS, 0, 0);
    for (uint32_t i = 0; i < n; i++) {
        *at++ = (char)(settings[i].id >> 8);
        *at++ = (char)settings[i].id;
        at = put32(at, settings[i].value);
    }
    return at;
}

char *ka_h2_put_settings_ack(char *at) { return ka_h2_put_head(at, 0, KA_H2_SETTINGS, KA_H2_ACK, 0); }

char *ka_h2_put_ping(char *at, const uint8_t opaque[8], int is_ack)
{
    at = ka_h2_put_head(at, 8, KA_H2_PING, is_ack ? KA_H2_ACK : 0, 0);
    memcpy(at, opaque, 8);
    return at + 8;
}

char *ka_h2_put_reset(char *at, uint32_t stream, uint32_t error)
{
    return put32(ka_h2_put_head(at, 4, KA_H2_RST_STREAM, 0, stream), error);
}

char *ka_h2_put_window_update(char *at, uint32_t stream, uint32_t increment)
{
    ka_assert(increment > 0 && increment <= KA_H2_MAX_WINDOW);
    return put32(ka_h2_put_head(at, 4, KA_H2_WINDOW_UPDATE, 0, stream), increment);
}

char *ka_h2_put_goaway(char *at, uint32_t last_stream, uint32_t error)
{
    return put32(put32(ka_h2_put_head(at, 8, KA_H2_GOAWAY, 0, 0), last_stream), error);
}

char *ka_h2_put_fields(char *at, size_t len, uint32_t max_frame, uint32_t stream, unsigned flags)
{
    size_t n = len <= max_frame ? 1 : (len + max_frame - 1) / max_frame;
    char *end = at + ka_h2_fields_room(len, max_frame);
    /* From the last one back, each to behind the heads of those before it. */
    for (size_t i = n; i-- > 0;) {
        size_t from = i * max_frame, size = i + 1 < n ? max_frame : len - from;
        char *to = at + from + i * KA_H2_FRAME_HEAD;
        memmove(to + KA_H2_FRAME_HEAD, at + KA_H2_FRAME_HEAD + from, size);
        ka_h2_put_head(to, (uint32_t)size, i ? KA_H2_CONTINUATION : KA_H2_HEADERS,
                       (i ? 0 : flags) | (i + 1 == n ? KA_H2_END_HEADERS : 0), stream);
    }
    return end;
}
