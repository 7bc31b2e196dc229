/* ka_closing.c: closing connections, and the engine itself, from wherever the application does so. A part of ka_engine.c.
 *
 * In the middle of something, that is from within a call of ours, what is to be closed may be in its turn somewhere up
 * the stack. It is noted, and closed when the outermost of our functions is left. */
#include "ka_engine_parts.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* For later. */
static void doom(ka_engine *e, ka_handle h, ka_sock *s, ka_cause cause)
{
    if (s->talk && !s->talk->is_last) { /* then it hands over no further request */
        s->talk->is_last = 1;
        s->talk->cause = (uint8_t)cause;
    }
    if (e->n_doomed == e->doomed_cap) {
        uint32_t cap = e->doomed_cap ? 2 * e->doomed_cap : 16;
        ka_doomed *doomed = realloc(e->doomed, cap * sizeof *doomed);
        if (doomed == NULL) {
            (void)shutdown(s->fd, SHUT_RDWR); /* its event ends it, though by another cause */
            return;
        }
        e->doomed = doomed;
        e->doomed_cap = cap;
    }
    e->doomed[e->n_doomed++] = (ka_doomed){.conn = h, .cause = cause};
}

void ka_engine_close(ka_engine *e, ka_handle conn, ka_cause cause)
{
    ka_sock *s = ka_sock_of(e, conn);
    ka_engine_enter(e);
    if (s)
        doom(e, conn, s, cause);
    ka_engine_leave(e);
}

void ka_engine_close_all(ka_engine *e, ka_cause cause)
{
    ka_engine_enter(e);
    e->closes_all = (uint8_t)cause;
    ka_engine_leave(e);
}

void ka_engine_free(ka_engine *e)
{
    ka_engine_enter(e);
    e->n_listeners = 0;
    e->closes_all = KA_CAUSE_DRAIN;
    e->is_freed = 1;
    ka_engine_leave(e);
}

void ka_engine_attend(ka_engine *e)
{
    ka_engine_enter(e);
    ka_engine_leave(e); /* which comes to it, or whoever is outside of us does */
}

static void close_one(ka_engine *e, ka_handle h, ka_cause cause)
{
    ka_sock *s = ka_sock_of(e, h);
    if (s)
        ka_sock_end(e, h, s, ka_conn_phase(e->table, h) == KA_LINGER ? (ka_cause)s->cause : cause);
}

static void close_all(ka_engine *e)
{
    ka_cause cause = (ka_cause)e->closes_all;
    e->closes_all = 0;
    for (uint32_t slot = 1; slot < e->n_chunks * KA_CHUNK; slot++)
        if (e->chunks[slot / KA_CHUNK][slot % KA_CHUNK].fd >= 0)
            close_one(e, ka_table_handle(e->table, slot), cause);
}

static void unmake(ka_engine *e)
{
    int fds[] = {e->epoll_fd, e->timer_fd, e->event_fd, e->spare_fd};
    for (uint32_t i = 0; i < e->n_chunks; i++)
        free(e->chunks[i]);
    free(e->chunks);
    free(e->sessions);
    free(e->noted);
    free(e->later);
    free(e->doomed);
    ka_trust_free(&e->trust);
    ka_service_free(&e->service);
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(e);
}

void ka_engine_leave(ka_engine *e)
{
    /* Still inside while it is carried out, since that calls the application again. What it wrote goes out first. */
    while (e->n_inside == 1 && (e->n_noted || e->has_unlisted || e->n_doomed || e->closes_all)) {
        if (e->n_noted || e->has_unlisted) {
            ka_noted_attend(e);
        } else if (e->n_doomed) {
            ka_doomed doomed = e->doomed[--e->n_doomed];
            close_one(e, doomed.conn, doomed.cause);
        } else {
            close_all(e);
        }
    }
    if (--e->n_inside)
        return;
    if (ka_unlikely(e->is_freed))
        unmake(e);
    else
        ka_timer_arm(e);
}
