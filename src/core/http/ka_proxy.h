/* ka_proxy.h: the PROXY protocol, versions 1 and 2: who a proxy says is at the other end of a connection.
 *
 * Without I/O and without state: bytes in, one answer out. Whether the sender may be believed is the caller's to know.
 * Source: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, sections 2.1 and 2.2. */
#ifndef KA_PROXY_H
#define KA_PROXY_H

#include "ka_base.h"

enum {
    KA_PROXY_MAX = 16 + 2048
}; /* bytes of a header that is accepted, with all its TLVs */

typedef struct {
    uint8_t family; /* 4, 6, or 0: nothing said about an IP client (LOCAL, UNKNOWN, unix): the real peer counts */
    uint8_t addr[16];
    uint16_t port; /* host order */
} ka_proxy_source;

/* Return: length of the header, KA_PARTIAL when more bytes are needed, KA_EPEER when this is none. Never KA_PARTIAL
 * for KA_PROXY_MAX bytes. */
int ka_proxy_parse(const char *bytes, size_t len, ka_proxy_source *out);

#endif
