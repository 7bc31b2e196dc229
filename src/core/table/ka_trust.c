/* ka_trust.c: see ka_trust.h. */
#include "table/ka_trust.h"

#include <stdlib.h>
#include <string.h>

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
enum {
    NOBODY = 0xff
}; /* each byte of it: the last address of multicast, which is nobody's. `::` can be written */

void ka_addr_pack(uint8_t to[16], unsigned family, const uint8_t addr[16])
{
    memset(to, NOBODY, 16);
    if (family == 4) {
        memcpy(to, mapped, 12);
        memcpy(to + 12, addr, 4);
    } else if (family == 6) {
        memcpy(to, addr, 16);
    }
}

unsigned ka_addr_unpack(const uint8_t packed[16], uint8_t addr[16])
{
    memset(addr, 0, 16);
    if (packed[0] == NOBODY && memcmp(packed, packed + 1, 15) == 0)
        return 0;
    if (memcmp(packed, mapped, 12) == 0) {
        memcpy(addr, packed + 12, 4);
        return 4;
    }
    memcpy(addr, packed, 16);
    return 6;
}

static int is_within(const ka_network *network, unsigned family, const uint8_t *addr)
{
    unsigned whole = network->bits / 8, rest = network->bits % 8;
    return network->family == family && memcmp(network->addr, addr, whole) == 0 &&
           (rest == 0 || ((network->addr[whole] ^ addr[whole]) >> (8 - rest)) == 0);
}

int ka_trusts(const ka_trust *trust, unsigned family, const uint8_t addr[16])
{
    if (family == 6 && memcmp(addr, mapped, 12) == 0) {
        family = 4;
        addr += 12;
    }
    for (uint32_t i = 0; i < trust->n; i++)
        if (is_within(&trust->networks[i], family, addr))
            return 1;
    return 0;
}

int ka_trust_set(ka_trust *trust, const ka_network *networks, uint32_t n, int expects_proxy)
{
    ka_network *copy = malloc((n ? n : 1) * sizeof *copy);
    if (copy == NULL)
        return KA_ENOMEM;
    for (uint32_t i = 0; i < n; i++) {
        if (networks[i].bits > (networks[i].family == 6 ? 128 : networks[i].family == 4 ? 32 : 0)) {
            free(copy);
            return KA_EINVAL;
        }
        copy[i] = networks[i];
    }
    free(trust->networks);
    *trust = (ka_trust){.networks = copy, .n = n, .expects_proxy = expects_proxy != 0};
    return KA_OK;
}

void ka_trust_free(ka_trust *trust)
{
    free(trust->networks);
    *trust = (ka_trust){0};
}

int ka_trust_named(const ka_trust *trust, ka_table *table, ka_handle h, const ka_proxy_source *said, ka_peer *peer)
{
    if (said->family == 0)
        return KA_OK; /* nobody */
    ka_addr_pack(peer->addr, said->family, said->addr);
    peer->port = said->port;
    peer->is_trusted = ka_trusts(trust, said->family, said->addr) != 0;
    if (peer->is_trusted)
        return KA_OK; /* one more proxy */
    ka_client client = {.family = said->family};
    memcpy(client.addr, said->addr, sizeof client.addr);
    return ka_conn_set_client(table, h, &client);
}
