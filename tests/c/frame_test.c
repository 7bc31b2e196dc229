/* Frames of HTTP/2: what each type may be like, whole and at every split, with the error and its reach; what is written is
 * read again.
 * link: h2 http */
#include "check.h"

#include "h2/ka_h2_frame.h"

static size_t unhex(uint8_t *to, const char *hex)
{
    size_t n = 0;
    for (unsigned byte; *hex; hex += 2) {
        while (*hex == ' ')
            hex++;
        if (*hex == 0 || sscanf(hex, "%2x", &byte) != 1)
            break;
        to[n++] = (uint8_t)byte;
    }
    return n;
}

static int same_faults(const ka_h2_fault *a, const ka_h2_fault *b)
{
    return a->stream == b->stream && a->code == b->code && a->error == b->error && a->of_stream == b->of_stream;
}

static int same_frames(const ka_h2_frame *a, const ka_h2_frame *b)
{
    return a->stream == b->stream && a->length == b->length && a->n_head == b->n_head && a->content == b->content &&
           a->padding == b->padding && a->type == b->type && a->flags == b->flags && a->is_unknown == b->is_unknown &&
           a->value == b->value && a->other_stream == b->other_stream && !memcmp(a->opaque, b->opaque, 8);
}

/* The first frame of `in`, when so many more bytes come each time. */
static int read_in_pieces(ka_h2_reader *r, const uint8_t *in, size_t len, size_t first, size_t step, ka_h2_frame *frame,
                          ka_h2_fault *fault)
{
    for (size_t have = first < len ? first : len;; have = have + step < len ? have + step : len) {
        const ka_h2_reader before = *r;
        int rc = ka_h2_frame_read(r, (const uint8_t *)at_the_edge((const char *)in, have), have, frame, fault);
        if (rc != KA_OK)
            EXPECT(before.continues == r->continues && before.has_settings == r->has_settings);
        if (rc != KA_PARTIAL || have == len)
            return rc;
        CHECK(have < KA_H2_FRAME_HEAD + 8, "%zu bytes were not enough", have);
    }
}

/* In which place a frame comes. */
enum {
    FIRST,
    LATER,
    IN_BLOCK /* of stream 1 */
};

typedef struct {
    const char *frame;
    const char *why;
    int place;
    unsigned fault;
} frame_case;

#define F(name) KA_H2_FAULT_##name

static const frame_case cases[] = {
    /* RFC 9113 3.4 */
    {"000000 04 00 00000000", "3.4: empty SETTINGS", FIRST, 0},
    {"000006 04 00 00000000 000300000064", "3.4: SETTINGS", FIRST, 0},
    {"000000 04 01 00000000", "3.4: an acknowledgement first", FIRST, F(NO_SETTINGS)},
    {"000000 01 05 00000001", "3.4: HEADERS first", FIRST, F(NO_SETTINGS)},
    {"000000 42 00 00000000", "3.4: an unknown frame first", FIRST, F(NO_SETTINGS)},
    /* RFC 9113 4.1, 5.5 */
    {"000003 42 ff 00000005 616263", "5.5: an unknown type on a stream", LATER, 0},
    {"000000 ff 00 00000000", "5.5: an unknown type", LATER, 0},
    {"000000 0a 00 00000002", "5.5: ALTSVC, which is not ours", LATER, 0},
    {"000000 00 f6 80000001", "4.1: reserved bit, flags that mean nothing", LATER, 0},
    /* RFC 9113 4.2 */
    {"004000 00 00 00000001", "4.2: 16,384", LATER, 0},
    {"004001 00 00 00000001", "4.2: 16,385 of DATA", LATER, F(DATA_TOO_LARGE)},
    {"004001 00 00 00000000", "6.1: 16,385 of DATA on stream 0", LATER, F(NO_STREAM)},
    {"004001 01 04 00000001", "4.2: 16,385 of HEADERS", LATER, F(FRAME_TOO_LARGE)},
    {"004001 09 04 00000001", "4.2: 16,385 of CONTINUATION", IN_BLOCK, F(FRAME_TOO_LARGE)},
    {"004002 04 00 00000000", "4.2: 16,386 of SETTINGS", LATER, F(FRAME_TOO_LARGE)},
    {"ffffff 42 00 00000001", "4.2: 16 MiB of an unknown type", LATER, F(FRAME_TOO_LARGE)},
    /* RFC 9113 6.1 */
    {"000003 00 00 00000001 616263", "6.1: DATA", LATER, 0},
    {"000000 00 01 00000001", "6.1: empty DATA that ends the stream", LATER, 0},
    {"000003 00 08 00000001 026161", "6.1: all of it padding", LATER, 0},
    {"000001 00 08 00000001 00", "6.1: padding of 0", LATER, 0},
    {"000003 00 08 00000001 036161", "6.1: padding as long as the payload", LATER, F(BAD_PADDING)},
    {"000003 00 08 00000001 ff6161", "6.1: padding longer than the payload", LATER, F(BAD_PADDING)},
    {"000000 00 08 00000001", "4.2: no room for the padding's length", LATER, F(BAD_DATA_SIZE)},
    {"000001 00 00 00000000 61", "6.1: on stream 0", LATER, F(NO_STREAM)},
    {"000001 00 00 00000002 61", "5.1: on a stream that only a server opens", LATER, F(BAD_STREAM)},
    /* RFC 9113 6.2 */
    {"000001 01 05 00000001 82", "6.2: HEADERS", LATER, 0},
    {"000001 01 01 00000001 82", "6.2: HEADERS that are continued", LATER, 0},
    {"000006 01 25 00000001 0000000010 82", "6.2: with a priority", LATER, 0},
    {"000008 01 2d 00000001 01 8000000010 82 00", "6.2: with padding and a priority", LATER, 0},
    {"000006 01 2d 00000001 00 0000000010", "6.2: with both and no more", LATER, 0},
    {"000006 01 2d 00000001 01 0000000010", "6.2: padding longer than the rest", LATER, F(BAD_PADDING)},
    {"000005 01 2d 00000001 0000000010", "4.2: too short for both", LATER, F(BAD_FRAME_SIZE)},
    {"000004 01 25 00000001 00000000", "4.2: too short for a priority", LATER, F(BAD_FRAME_SIZE)},
    {"000000 01 0c 00000001", "4.2: too short for the padding's length", LATER, F(BAD_FRAME_SIZE)},
    {"000001 01 05 00000000 82", "6.2: on stream 0", LATER, F(NO_STREAM)},
    {"000001 01 05 00000002 82", "5.1.1: on an even stream", LATER, F(BAD_STREAM)},
    /* RFC 9113 6.3 */
    {"000005 02 00 00000003 0000000110", "6.3: PRIORITY", LATER, 0},
    {"000005 02 00 00000002 0000000110", "6.3: of any stream", LATER, 0},
    {"000004 02 00 00000003 00000001", "6.3: too short", LATER, F(BAD_PRIORITY_SIZE)},
    {"000006 02 00 00000003 000000011000", "6.3: too long", LATER, F(BAD_PRIORITY_SIZE)},
    {"000005 02 00 00000000 0000000110", "6.3: on stream 0", LATER, F(NO_STREAM)},
    /* RFC 9113 6.4 */
    {"000004 03 00 00000003 00000008", "6.4: RST_STREAM", LATER, 0},
    {"000004 03 00 00000003 deadbeef", "7: an error code that nobody knows", LATER, 0},
    {"000003 03 00 00000003 000000", "6.4: too short", LATER, F(BAD_FRAME_SIZE)},
    {"000005 03 00 00000003 0000000800", "6.4: too long", LATER, F(BAD_FRAME_SIZE)},
    {"000004 03 00 00000000 00000008", "6.4: on stream 0", LATER, F(NO_STREAM)},
    {"000004 03 00 00000004 00000008", "5.1: on a stream that is idle", LATER, F(BAD_STREAM)},
    /* RFC 9113 6.5 */
    {"000000 04 01 00000000", "6.5: an acknowledgement", LATER, 0},
    {"000006 04 01 00000000 000300000064", "6.5: one that is not empty", LATER, F(BAD_ACK_SIZE)},
    {"000005 04 00 00000000 0003000000", "6.5: no whole setting", LATER, F(BAD_FRAME_SIZE)},
    {"000000 04 00 00000001", "6.5: on a stream", LATER, F(ON_STREAM)},
    /* RFC 9113 6.6, 8.4 */
    {"000004 05 04 00000001 00000002", "8.4: PUSH_PROMISE", LATER, F(PUSH)},
    /* RFC 9113 6.7 */
    {"000008 06 00 00000000 0001020304050607", "6.7: PING", LATER, 0},
    {"000008 06 01 00000000 0001020304050607", "6.7: an acknowledgement", LATER, 0},
    {"000007 06 00 00000000 00010203040506", "6.7: too short", LATER, F(BAD_FRAME_SIZE)},
    {"000009 06 00 00000000 000102030405060708", "6.7: too long", LATER, F(BAD_FRAME_SIZE)},
    {"000008 06 00 00000001 0001020304050607", "6.7: on a stream", LATER, F(ON_STREAM)},
    /* RFC 9113 6.8 */
    {"000008 07 00 00000000 0000000000000000", "6.8: GOAWAY", LATER, 0},
    {"00000b 07 00 00000000 8000000300000002 627965", "6.8: with a text", LATER, 0},
    {"000007 07 00 00000000 00000000000000", "4.2: too short", LATER, F(BAD_FRAME_SIZE)},
    {"000008 07 00 00000001 0000000000000000", "6.8: on a stream", LATER, F(ON_STREAM)},
    /* RFC 9113 6.9 */
    {"000004 08 00 00000000 00000001", "6.9: WINDOW_UPDATE of the connection", LATER, 0},
    {"000004 08 00 00000003 ffffffff", "6.9: of a stream, with the reserved bit", LATER, 0},
    {"000004 08 00 00000000 00000000", "6.9: by 0", LATER, F(NO_CONNECTION_INCREMENT)},
    {"000004 08 00 00000003 80000000", "6.9: of a stream by 0", LATER, F(NO_INCREMENT)},
    {"000003 08 00 00000003 000001", "6.9: too short", LATER, F(BAD_FRAME_SIZE)},
    {"000005 08 00 00000003 0000000100", "6.9: too long", LATER, F(BAD_FRAME_SIZE)},
    {"000004 08 00 00000002 00000001", "5.1: of a stream that is idle", LATER, F(BAD_STREAM)},
    /* RFC 9113 6.10 */
    {"000001 09 04 00000001 82", "6.10: CONTINUATION", IN_BLOCK, 0},
    {"000000 09 00 00000001", "6.10: an empty one", IN_BLOCK, 0},
    {"000001 09 04 00000001 82", "6.10: with nothing before it", LATER, F(NOTHING_TO_CONTINUE)},
    {"000001 09 04 00000003 82", "6.10: of another stream", IN_BLOCK, F(NOT_CONTINUED)},
    {"000001 09 04 00000000 82", "6.10: on stream 0", LATER, F(NOTHING_TO_CONTINUE)},
    {"000001 01 05 00000001 82", "6.10: HEADERS again", IN_BLOCK, F(NOT_CONTINUED)},
    {"000000 00 00 00000001", "6.10: DATA between", IN_BLOCK, F(NOT_CONTINUED)},
    {"000008 06 00 00000000 0001020304050607", "6.10: PING between", IN_BLOCK, F(NOT_CONTINUED)},
    {"000000 42 00 00000001", "5.5: an unknown frame between", IN_BLOCK, F(NOT_CONTINUED)},
    /* RFC 9218 7.1 */
    {"000007 10 00 00000000 00000003 753d31", "9218 7.1: PRIORITY_UPDATE", LATER, 0},
    {"000004 10 00 00000000 80000003", "9218 7.1: with no value", LATER, 0},
    {"000004 10 00 00000000 00000000", "9218 7.1: of stream 0", LATER, F(PRIORITY_OF_NOTHING)},
    {"000003 10 00 00000000 000000", "9218 7.1: too short", LATER, F(BAD_FRAME_SIZE)},
    {"000004 10 00 00000001 00000003", "9218 7.1: on a stream", LATER, F(ON_STREAM)},
};

static ka_h2_reader reader_at(int place)
{
    ka_h2_reader r = {.max_frame = KA_H2_MIN_MAX_FRAME, .has_settings = place != FIRST};
    r.continues = place == IN_BLOCK;
    return r;
}

static void test_rules(void)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const frame_case *c = &cases[i];
        uint8_t in[64];
        size_t n = unhex(in, c->frame);
        ka_h2_frame whole, frame;
        ka_h2_fault fault = {0};
        ka_h2_reader r = reader_at(c->place);
        int rc = read_in_pieces(&r, in, n, n, 1, &whole, &fault);
        CHECK(rc == (c->fault ? KA_EPEER : KA_OK) && fault.code == c->fault, "%s: %d, %s", c->why, rc,
              ka_h2_fault_text(fault.code));
        CHECK(rc == KA_OK || strlen(ka_h2_fault_text(fault.code)) > 20, "%s", c->why);
        /* The bytes are all accounted for, so that they can be skipped. */
        CHECK((rc != KA_OK && !fault.of_stream) ||
                  whole.n_head + whole.content + whole.padding == KA_H2_FRAME_HEAD + whole.length,
              "%s", c->why);
        for (size_t first = 0; first <= n; first++)
            for (size_t step = 1; step < 30; step += 13) {
                ka_h2_fault again = {0};
                r = reader_at(c->place);
                CHECK(read_in_pieces(&r, in, n, first, step, &frame, &again) == rc, "%s: at %zu", c->why, first);
                CHECK(same_faults(&fault, &again), "%s: at %zu", c->why, first);
                CHECK(same_frames(&whole, &frame), "%s: at %zu", c->why, first);
            }
    }
}

/* RFC 9113 5.4: which of them end a stream alone, and with which code. */
static void test_reach_of_faults(void)
{
    ka_h2_fault fault;
    EXPECT(ka_h2_fault_set(&fault, F(NO_INCREMENT), 3) == KA_EPEER && fault.of_stream && fault.stream == 3);
    EXPECT(fault.error == KA_H2_PROTOCOL_ERROR);
    (void)ka_h2_fault_set(&fault, F(DATA_TOO_LARGE), 3);
    EXPECT(fault.of_stream && fault.error == KA_H2_FRAME_SIZE_ERROR);
    (void)ka_h2_fault_set(&fault, F(BAD_PRIORITY_SIZE), 3);
    EXPECT(fault.of_stream && fault.error == KA_H2_FRAME_SIZE_ERROR);
    (void)ka_h2_fault_set(&fault, F(FRAME_TOO_LARGE), 3);
    EXPECT(!fault.of_stream && fault.error == KA_H2_FRAME_SIZE_ERROR);
    (void)ka_h2_fault_set(&fault, F(BAD_PADDING), 3);
    EXPECT(!fault.of_stream && fault.error == KA_H2_PROTOCOL_ERROR);
    (void)ka_h2_fault_set(&fault, F(COMPRESSION), 3);
    EXPECT(!fault.of_stream && fault.error == KA_H2_COMPRESSION_ERROR);
    (void)ka_h2_fault_set(&fault, F(BAD_INITIAL_WINDOW), 0);
    EXPECT(!fault.of_stream && fault.error == KA_H2_FLOW_CONTROL_ERROR);
    (void)ka_h2_fault_set(&fault, F(NO_INCREMENT), 0);
    EXPECT(!fault.of_stream);
    EXPECT(!strcmp(ka_h2_fault_text(KA_H2_N_FAULTS), "no fault"));
}

static void test_preface(void)
{
    static const char good[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    char bytes[KA_H2_PREFACE_LEN + 1];
    ka_h2_fault fault = {0};
    for (size_t n = 0; n < KA_H2_PREFACE_LEN; n++) {
        EXPECT(ka_h2_preface_read((const uint8_t *)at_the_edge(good, n), n, &fault) == KA_PARTIAL);
        memcpy(bytes, good, sizeof good);
        bytes[n] ^= 1;
        for (size_t len = 0; len <= KA_H2_PREFACE_LEN; len++) {
            int rc = ka_h2_preface_read((const uint8_t *)at_the_edge(bytes, len), len, &fault);
            CHECK(rc == (len > n ? KA_EPEER : KA_PARTIAL), "byte %zu of %zu", n, len);
        }
    }
    EXPECT(fault.code == F(BAD_PREFACE));
    EXPECT(ka_h2_preface_read((const uint8_t *)good, sizeof good, &fault) == KA_OK);
}

static void test_settings(void)
{
    static const struct {
        uint16_t id;
        uint32_t value;
        unsigned fault;
    } rows[] = {
        {KA_H2_HEADER_TABLE_SIZE, 0, 0},
        {KA_H2_HEADER_TABLE_SIZE, UINT32_MAX, 0},
        {KA_H2_ENABLE_PUSH, 0, 0},
        {KA_H2_ENABLE_PUSH, 1, 0},
        {KA_H2_ENABLE_PUSH, 2, F(BAD_SETTING)},
        {KA_H2_MAX_CONCURRENT_STREAMS, 0, 0},
        {KA_H2_MAX_CONCURRENT_STREAMS, UINT32_MAX, 0},
        {KA_H2_INITIAL_WINDOW_SIZE, 0, 0},
        {KA_H2_INITIAL_WINDOW_SIZE, KA_H2_MAX_WINDOW, 0},
        {KA_H2_INITIAL_WINDOW_SIZE, KA_H2_MAX_WINDOW + 1u, F(BAD_INITIAL_WINDOW)},
        {KA_H2_MAX_FRAME_SIZE, 16383, F(BAD_SETTING)},
        {KA_H2_MAX_FRAME_SIZE, 16384, 0},
        {KA_H2_MAX_FRAME_SIZE, 16777215, 0},
        {KA_H2_MAX_FRAME_SIZE, 16777216, F(BAD_SETTING)},
        {KA_H2_MAX_HEADER_LIST_SIZE, 0, 0},
        {7, UINT32_MAX, 0}, /* nobody's */
        {KA_H2_ENABLE_CONNECT_PROTOCOL, 1, 0},
        {KA_H2_ENABLE_CONNECT_PROTOCOL, 2, F(BAD_SETTING)},
        {KA_H2_NO_RFC7540_PRIORITIES, 1, 0},
        {KA_H2_NO_RFC7540_PRIORITIES, 2, F(BAD_SETTING)},
        {0, 0, 0},
        {0xffff, 1, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char out[KA_H2_FRAME_HEAD + KA_H2_SETTING_LEN];
        ka_h2_setting setting = {rows[i].id, rows[i].value}, got;
        ka_h2_fault fault = {0};
        EXPECT(ka_h2_put_settings(out, &setting, 1) == out + sizeof out);
        const char *edge = at_the_edge(out + KA_H2_FRAME_HEAD, KA_H2_SETTING_LEN);
        int rc = ka_h2_setting_read((const uint8_t *)edge, &got, &fault);
        EXPECT(rc == (rows[i].fault ? KA_EPEER : KA_OK) && fault.code == rows[i].fault);
        EXPECT(got.id == rows[i].id && got.value == rows[i].value);
    }
}

/* What is written is read as it was meant. */
static void test_writing(void)
{
    static const uint8_t opaque[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    static const ka_h2_setting settings[] = {{KA_H2_ENABLE_PUSH, 0}, {KA_H2_MAX_FRAME_SIZE, 16384}};
    char out[200], *end = out;
    end = ka_h2_put_settings(end, settings, 2);
    end = ka_h2_put_settings_ack(end);
    end = ka_h2_put_ping(end, opaque, 0);
    end = ka_h2_put_ping(end, opaque, 1);
    end = ka_h2_put_reset(end, 0x7fffffff, KA_H2_CANCEL);
    end = ka_h2_put_window_update(end, 0, 0x7fffffff);
    end = ka_h2_put_goaway(end, 5, KA_H2_ENHANCE_YOUR_CALM);
    EXPECT(end - out == 9 + 12 + 9 + 17 + 17 + 13 + 13 + 17);
    ka_h2_reader r = {.max_frame = KA_H2_MIN_MAX_FRAME};
    ka_h2_frame f[7];
    ka_h2_fault fault;
    const char *at = out;
    for (int i = 0; i < 7; i++) {
        EXPECT(ka_h2_frame_read(&r, (const uint8_t *)at, (size_t)(end - at), &f[i], &fault) == KA_OK);
        at += f[i].n_head + f[i].content + f[i].padding;
    }
    EXPECT(at == end);
    EXPECT(f[0].type == KA_H2_SETTINGS && f[0].content == 12 && f[0].flags == 0);
    EXPECT(f[1].type == KA_H2_SETTINGS && f[1].content == 0 && f[1].flags == KA_H2_ACK);
    EXPECT(f[2].type == KA_H2_PING && f[2].flags == 0 && !memcmp(f[2].opaque, opaque, 8));
    EXPECT(f[3].type == KA_H2_PING && f[3].flags == KA_H2_ACK);
    EXPECT(f[4].type == KA_H2_RST_STREAM && f[4].stream == 0x7fffffff && f[4].value == KA_H2_CANCEL);
    EXPECT(f[5].type == KA_H2_WINDOW_UPDATE && f[5].stream == 0 && f[5].value == 0x7fffffff);
    EXPECT(f[6].type == KA_H2_GOAWAY && f[6].other_stream == 5 && f[6].value == KA_H2_ENHANCE_YOUR_CALM);
}

static void test_field_blocks_in_frames(void)
{
    enum {
        MAX_FRAME = 16384,
        ROOM = 100000
    };
    static char out[ROOM], block[ROOM];
    for (size_t i = 0; i < ROOM; i++)
        block[i] = (char)(i * 7 + i / 256);
    static const size_t sizes[] = {0, 1, MAX_FRAME - 1, MAX_FRAME, MAX_FRAME + 1, 2 * MAX_FRAME, 5 * MAX_FRAME + 77};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        size_t n = sizes[k], got = 0, frames = 0;
        memset(out, 0x55, sizeof out);
        memcpy(out + KA_H2_FRAME_HEAD, block, n);
        char *end = ka_h2_put_fields(out, n, MAX_FRAME, 7, KA_H2_END_STREAM);
        EXPECT((size_t)(end - out) == ka_h2_fields_room(n, MAX_FRAME) && *end == 0x55);
        ka_h2_reader r = {.max_frame = MAX_FRAME, .has_settings = 1};
        ka_h2_fault fault;
        for (const char *at = out; at < end; frames++) {
            ka_h2_frame f;
            EXPECT(ka_h2_frame_read(&r, (const uint8_t *)at, (size_t)(end - at), &f, &fault) == KA_OK);
            EXPECT(f.type == (frames ? KA_H2_CONTINUATION : KA_H2_HEADERS) && f.stream == 7);
            EXPECT(!(f.flags & KA_H2_END_STREAM) == (frames > 0));
            EXPECT(!memcmp(at + f.n_head, block + got, f.content));
            got += f.content;
            at += f.n_head + f.content;
        }
        EXPECT(got == n && r.continues == 0);
    }
}

int main(void)
{
    test_rules();
    test_reach_of_faults();
    test_preface();
    test_settings();
    test_writing();
    test_field_blocks_in_frames();
    return CHECKS_DONE;
}
