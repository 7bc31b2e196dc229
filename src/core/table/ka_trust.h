/* ka_trust.h: addresses of clients, and the proxies that may speak for them.
 *
 * Knows no socket: a driver says whom the kernel or the loop named, and what a PROXY header said. */
#ifndef KA_TRUST_H
#define KA_TRUST_H

#include "http/ka_proxy.h"
#include "table/ka_conn.h"

/* A network whose members may speak for others; family 0: every unix socket. */
typedef struct {
    uint8_t family, bits; /* 0, 4 or 6; leading bits of addr that count */
    uint8_t addr[16];
} ka_network;

/* Zeros: nobody is trusted. */
typedef struct {
    ka_network *networks; /* owned */
    uint32_t n;
    uint8_t expects_proxy; /* each of their connections begins with a PROXY header; others never have one */
} ka_trust;

/* In place of those of before. 0, KA_ENOMEM, KA_EINVAL for a prefix that is too long. */
int ka_trust_set(ka_trust *trust, const ka_network *networks, uint32_t n, int expects_proxy);
void ka_trust_free(ka_trust *trust);

int ka_trusts(const ka_trust *trust, unsigned family, const uint8_t addr[16]);

/* Any address in 16 bytes: IPv4 as ::ffff:a.b.c.d (RFC 4291 2.5.5.2), of a unix socket ones. unpack: the family. */
void ka_addr_pack(uint8_t to[16], unsigned family, const uint8_t addr[16]);
unsigned ka_addr_unpack(const uint8_t packed[16], uint8_t addr[16]);

/* Who is at the other end. */
typedef struct {
    uint8_t addr[16];   /* packed */
    uint16_t port;      /* host order */
    uint8_t is_trusted; /* a proxy that may name the client in fields */
} ka_peer;

/* A PROXY header was read on a connection of a trusted proxy: it is whom the header names from now on. *peer changes
 * when it names one. Return: as ka_conn_set_client. */
int ka_trust_named(const ka_trust *trust, ka_table *table, ka_handle h, const ka_proxy_source *said, ka_peer *peer);

/* Why a connection ends whose PROXY header was not read, or named one who may have no more: got < 0. */
static inline ka_cause ka_trust_cause(int got)
{
    return got == KA_ESTALE  ? KA_CAUSE_CLIENT
         : got == KA_ECLIENT ? KA_CAUSE_CLIENT_LIMIT
         : got == KA_ENOMEM  ? KA_CAUSE_BUFFER_LIMIT
                             : KA_CAUSE_BAD_REQUEST;
}

#endif
