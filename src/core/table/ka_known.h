/* ka_known.h: what a table has learned of client networks (ka_learned.h), for people, and for a table that comes after. */
#ifndef KA_KNOWN_H
#define KA_KNOWN_H

#include "table/ka_conn.h"
#include "table/ka_learned.h"

/* One network: the masked address, whether it is that of a trusted proxy; family 0: unix sockets and whom nobody knows. */
typedef struct {
    ka_client client;
    uint32_t n_open;
    int64_t kept_ns;    /* how long its idle connections are kept under KA_AUTO, while there is room */
    ka_learned learned; /* began_s, since_s: so many seconds ago */
} ka_known;

/* The next network of which something was learned; *at: 0 at first. Return whether there is one. O(networks) in all. */
int ka_known_next(const ka_table *t, int64_t now, uint32_t *at, ka_known *out);

/* The networks with most open connections, at most `room` of them, the busiest first. Return how many. O(networks). */
uint32_t ka_known_busiest(const ka_table *t, ka_known *out, uint32_t room);

/* Of the network of one connection. KA_OK, KA_ESTALE. */
int ka_known_of(const ka_table *t, ka_handle h, ka_known *out);

/* Take over what another table has learned. n_open and kept_ns are not looked at. KA_OK, KA_ENOMEM, or KA_EINVAL for what
 * is no address. */
int ka_known_take(ka_table *t, int64_t now, const ka_known *known);

/* The network that settled by the last close, once: it has closed first, three times at about the same age. */
int ka_known_settled(ka_table *t, ka_known *out);

#endif
