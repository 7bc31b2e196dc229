/* ka_ws.h: what the bytes of a websocket frame mean, RFC 6455 section 5, as a server reads them. No I/O, no memory of
 * its own: a head may come in any pieces, payload is unmasked where it stands. */
#ifndef KA_WS_H
#define KA_WS_H

#include <string.h>

#include "ka_base.h"

enum {
    KA_WS_CONT = 0,
    KA_WS_TEXT = 1,
    KA_WS_BINARY = 2,
    KA_WS_CLOSE = 8,
    KA_WS_PING = 9,
    KA_WS_PONG = 10
};
enum {
    KA_WS_HEAD_MAX = 14,
    KA_WS_CONTROL_MAX = 125
};

typedef struct {
    uint64_t left;                /* payload that is still to come */
    uint8_t head[KA_WS_HEAD_MAX]; /* what has come of a head that is not whole */
    uint8_t n_head;
    uint8_t mask[4], mask_at;
    uint8_t opcode, is_fin, is_rsv1;
    uint8_t is_open; /* the head is whole, and its frame not over */
} ka_ws_frame;

/* How long a head is, as far as its first n bytes tell: 2 at least. */
static inline size_t ka_ws_head_size(const uint8_t *head, size_t n)
{
    unsigned size = n < 2 ? 0 : head[1] & 127;
    return n < 2 ? 2 : (size == 127 ? 10 : size == 126 ? 4 : 2) + (head[1] & 0x80 ? 4u : 0u);
}

/* Take bytes of a head; *used of them. KA_OK: it is whole; KA_PARTIAL; KA_EPEER and *why: it breaks a rule. */
static inline int ka_ws_read_head(ka_ws_frame *frame, const char *at, size_t n, size_t *used, const char **why)
{
    uint8_t *head = frame->head;
    *used = 0;
    while (frame->n_head < ka_ws_head_size(head, frame->n_head)) {
        if (*used == n)
            return KA_PARTIAL;
        head[frame->n_head++] = (uint8_t)at[(*used)++];
    }
    size_t size = frame->n_head, n_size = size - 4 - 2;
    frame->n_head = 0;
    frame->opcode = head[0] & 15;
    frame->is_fin = head[0] >> 7;
    frame->is_rsv1 = head[0] >> 6 & 1;
    frame->left = head[1] & 127;
    if ((head[1] & 0x80) == 0)
        *why = "a frame of a client must be masked"; /* 5.1 */
    else if (head[0] & 0x30)
        *why = "a reserved bit is set"; /* 5.2 */
    else if ((frame->opcode & 7) > 2)
        *why = "the opcode is reserved";
    else if (frame->opcode & 8 && (frame->left > KA_WS_CONTROL_MAX || !frame->is_fin))
        *why = "a control frame is longer than 125 bytes, or fragmented"; /* 5.5 */
    else if (n_size == 8 && head[2] & 0x80)
        *why = "a length has its highest bit set";
    else
        *why = NULL;
    if (*why)
        return KA_EPEER;
    if (n_size) {
        frame->left = 0;
        for (size_t i = 0; i < n_size; i++)
            frame->left = frame->left << 8 | head[2 + i];
    }
    memcpy(frame->mask, head + size - 4, 4);
    frame->mask_at = 0;
    frame->is_open = 1;
    return KA_OK;
}

/* The head of a frame that a server sends, of a whole message: at most 10 bytes. first: the opcode with its flags. */
static inline size_t ka_ws_write_head(char *to, unsigned first, size_t n)
{
    unsigned more = n < 126 ? 0 : n < 65536 ? 2 : 8;
    to[0] = (char)first;
    to[1] = (char)(more == 0 ? n : more == 2 ? 126 : 127);
    for (unsigned i = 0; i < more; i++)
        to[2 + i] = (char)(n >> 8 * (more - 1 - i));
    return 2 + more;
}

/* A vector register where there is one, else words. */
typedef uint64_t ka_ws_words __attribute__((vector_size(16)));

static inline void ka_ws_turn(char *at, const ka_ws_words *mask)
{
    ka_ws_words word;
    memcpy(&word, at, sizeof word);
    word ^= *mask;
    memcpy(at, &word, sizeof word);
}

/* The next n bytes of payload, in place. */
static inline void ka_ws_unmask(ka_ws_frame *frame, char *at, size_t n)
{
    uint8_t turned[16];
    ka_ws_words mask;
    size_t i = 0;
    for (; i < 16; i++)
        turned[i] = frame->mask[(frame->mask_at + i) & 3];
    memcpy(&mask, turned, 16);
    for (i = 0; i + 64 <= n; i += 64) { /* four at a time by hand: wheels compile this for size */
        ka_ws_turn(at + i, &mask);
        ka_ws_turn(at + i + 16, &mask);
        ka_ws_turn(at + i + 32, &mask);
        ka_ws_turn(at + i + 48, &mask);
    }
    for (; i + 16 <= n; i += 16)
        ka_ws_turn(at + i, &mask);
    for (; i < n; i++)
        at[i] = (char)((uint8_t)at[i] ^ turned[i & 15]);
    frame->mask_at = (uint8_t)((frame->mask_at + n) & 3);
    frame->left -= n;
}

/* UTF-8 in pieces, RFC 3629 section 4: `left` bytes of a character are to come, the next between low and high. */
typedef struct {
    uint8_t left, low, high;
} ka_ws_text;

/* Whether these bytes may follow. The text is whole when then `left` is 0. */
static inline int ka_ws_text_goes_on(ka_ws_text *state, const char *text, size_t n)
{
    ka_ws_text s = *state;
    for (size_t i = 0; i < n; i++) {
        uint64_t word;
        while (s.left == 0 && i + 8 <= n && (memcpy(&word, text + i, 8), (word & 0x8080808080808080u) == 0))
            i += 8;
        if (i == n)
            break;
        uint8_t c = (uint8_t)text[i];
        if (s.left) {
            if (c < s.low || c > s.high)
                return 0;
            s = (ka_ws_text){(uint8_t)(s.left - 1), 0x80, 0xbf};
        } else if (c >= 0x80) {
            if (c < 0xc2 || c > 0xf4)
                return 0;
            s.left = c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
            s.low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
            s.high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
        }
    }
    *state = s;
    return 1;
}

#endif
