/* ka_huffman.h: the Huffman code of HPACK strings (RFC 7541 5.2 and appendix B). Knows bytes and nothing else. */
#ifndef KA_HUFFMAN_H
#define KA_HUFFMAN_H

#include "ka_base.h"

/* Make the tables below from the lengths of the codes. Once in a process, before anything else of this room; further
 * calls do nothing. Not safe beside another first call. */
void ka_huffman_init(void);

/* How many bytes the string takes when encoded. */
size_t ka_huffman_len(const char *text, size_t n);

/* Encode n bytes into ka_huffman_len bytes of room, which `code_len` says. Return: behind the last one. */
char *ka_huffman_encode(char *to, size_t code_len, const char *text, size_t n);

/* Decode `n` bytes. What fits is written to [to, to + room), and the whole is judged in any case.
 * Return: how long the text is, which may be more than `room`; -1 when the bytes are no such string. */
int64_t ka_huffman_decode(char *to, size_t room, const uint8_t *code, size_t n);

#endif
