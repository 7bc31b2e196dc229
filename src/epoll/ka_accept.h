/* ka_accept.h: who gets in: listeners, accepting, making room, turning away. Nobody but the engine includes this. */
#ifndef KA_ACCEPT_H
#define KA_ACCEPT_H

#include "ka_sock.h"

int ka_accept_some(ka_engine *e, uint32_t listener); /* return whether more may be waiting */
/* One that another process accepted. Return 0, or -errno - 1000, and then the descriptor is still the caller's. */
int ka_accept_from_elsewhere(ka_engine *e, uint32_t listener, int fd);
void ka_listeners_resume(ka_engine *e); /* those that are paused */
void ka_listener_stop(ka_engine *e, uint32_t listener, int is_last);

#endif
