/* ka_sock.h: the connections of an engine: the moves that it brings to ka_driver, and what epoll says of one.
 *
 * Knows of no listener, timer or step. Nobody but the engine includes this. */
#ifndef KA_SOCK_H
#define KA_SOCK_H

#include "ka_engine_parts.h"

extern const ka_moves *const ka_sock_moves;

static inline ka_sock *ka_sock_at(ka_engine *e, uint32_t slot) { return &e->chunks[slot / KA_CHUNK][slot % KA_CHUNK]; }
ka_sock *ka_sock_of(ka_engine *e, ka_handle h);   /* NULL for a stale handle */
ka_sock *ka_sock_make(ka_engine *e, ka_handle h); /* NULL: out of memory */
ka_session *ka_session_of(const ka_engine *e, ka_handle h);
int ka_sessions_grow(ka_engine *e, uint32_t from_chunk); /* 0 or KA_ENOMEM */

void ka_sock_turn(ka_driver *d, ka_handle h, void *peer);
void ka_sock_event(ka_engine *e, ka_handle h, uint32_t events); /* what epoll says */
void ka_sock_push(ka_engine *e, ka_sock *s);                    /* see ka_turn_push */

/* Say why, as far as that is possible without keeping anything: no place is left to linger in. Before a handshake nothing
 * can be said. Closing is left. */
void ka_say_no(ka_engine *e, int fd, unsigned listener);

#endif
