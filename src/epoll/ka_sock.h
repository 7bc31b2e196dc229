/* ka_sock.h: the connections of an engine: what each does with its bytes, its turns and its ends.
 *
 * Knows of no listener, timer or step. Nobody but the engine includes this. */
#ifndef KA_SOCK_H
#define KA_SOCK_H

#include "ka_engine_parts.h"

static inline ka_sock *ka_sock_at(ka_engine *e, uint32_t slot) { return &e->chunks[slot / KA_CHUNK][slot % KA_CHUNK]; }
ka_sock *ka_sock_of(ka_engine *e, ka_handle h);   /* NULL for a stale handle */
ka_sock *ka_sock_make(ka_engine *e, ka_handle h); /* NULL: out of memory */
ka_session *ka_session_of(const ka_engine *e, ka_handle h);
int ka_sessions_grow(ka_engine *e, uint32_t from_chunk); /* 0 or KA_ENOMEM */

/* The one way out. Whoever waits for a place is let in when this pass is over: e->has_place. */
void ka_sock_end(ka_engine *e, ka_handle h, ka_sock *s, ka_cause cause);
void ka_sock_turn(ka_engine *e, ka_handle h, ka_sock *s);
void ka_sock_event(ka_engine *e, ka_handle h, uint32_t events); /* what epoll says */
void ka_sock_look(ka_engine *e, ka_handle h, ka_sock *s);       /* once more at the kernel, before a verdict */
void ka_sock_evict(ka_engine *e, ka_handle h, ka_sock *s);      /* its place is needed */
void ka_sock_expire(ka_engine *e, ka_handle h, ka_sock *s, ka_action action, ka_cause cause);
void ka_sock_push(ka_engine *e, ka_sock *s);             /* see ka_turn_push */
void ka_say_no(ka_engine *e, int fd, unsigned listener); /* 503 and FIN; closing is left */
void ka_sock_note(void *port, ka_talk *talk);
void ka_noted_attend(ka_engine *e); /* a turn for the talks that are noted */
void ka_sock_relieve(ka_engine *e); /* keep some of the budget free */

#endif
