/* ka_wire.h: the bytes of one connection on their way between its socket and its talk.
 *
 * They travel straight, or through a filter: TLS is one. A connection that has a filter has a session of it, made when
 * its first byte arrives; a plain one costs nothing for that. The filter never touches the socket and this file never
 * touches a key. What a talk has to send counts as sent when its ciphertext is with the kernel, so that everything
 * built on "sent" (phases, idle timers, closing) means the same with and without TLS. */
#ifndef KA_WIRE_H
#define KA_WIRE_H

#include <sys/types.h>

#include "talk/ka_filter.h"

enum {
    KA_SCRATCH = KA_READ_MAX
};

/* What an open connection owns while idle, beside its slot. */
typedef struct {
    int32_t fd;           /* owned; -1 = none */
    uint8_t can_read : 1; /* readiness was announced and not used up: edge-triggered events come once */
    uint8_t can_write : 1;
    uint8_t saw_fin : 1;   /* RDHUP: FIN is in the kernel, perhaps behind unread bytes */
    uint8_t is_corked : 1; /* the kernel may hold back what was sent last, until FIN */
    uint8_t sent_fin : 1;
    uint8_t listener : 6;
    uint8_t is_trusted : 1;   /* the peer is a proxy that may name the client in fields */
    uint8_t awaits_proxy : 1; /* its first bytes are to be a PROXY header */
    uint16_t port;            /* of the client, host order */
    ka_talk *talk;            /* owned; NULL when nothing is pending */
    uint8_t addr[16];         /* of the client; IPv4 as ::ffff:a.b.c.d; unix socket: see ka_addr_pack */
} ka_sock;
_Static_assert(sizeof(ka_sock) == 32, "an idle connection's memory is a promise");

/* Receive up to `room` bytes. scratch: KA_SCRATCH bytes that may be overwritten; `to` may be in it.
 * Return: n > 0; 0 at FIN (and the filter's word for it); KA_PARTIAL when nothing is there, or, with s->can_read still
 * set, what came through a filter gave nothing and a turn to come goes on with it; KA_EPEER when the
 * connection is broken; KA_ESTALE: FIN, but a filter missed the peer's word that it is complete. */
ssize_t ka_wire_receive(ka_sock *s, ka_session *session, char *scratch, char *to, size_t room, uint64_t *n_calls);

/* From the socket into the filter. n > 0, 0 at FIN, KA_PARTIAL, KA_EPEER, KA_ENOMEM. */
ssize_t ka_wire_feed(ka_sock *s, ka_session *session, char *scratch, uint64_t *n_calls);

/* Something for the socket is there. */
static inline int ka_wire_is_pending(const ka_session *session, const ka_talk *talk)
{
    return talk->unsent || (session && session->out_len);
}

/* Send some of it, at most `most` bytes, by one system call. Return the bytes the kernel took, 0 for a file that became shorter, or -1 with
 * errno. *n_done: how many bytes of the talk's output are sent now. Clears s->can_write when the kernel is full. */
ssize_t ka_wire_send(ka_sock *s, ka_session *session, ka_talk *talk, size_t most, size_t *n_done);

/* What the filter itself has to say (handshake, alerts). As ka_wire_send, and 0 when there is nothing. is_last: FIN follows
 * at once. */
ssize_t ka_wire_send_session(ka_sock *s, ka_session *session, int is_last);

/* A client that has sent FIN may be gone altogether, or wait for its answer: to us both look alike, and nothing may be sent
 * before its time. Have the kernel ask it every few seconds (TCP keep-alive). One that waits acknowledges; of one that
 * closed its socket the kernel there knows nothing any more within a minute (RFC 9293 3.6: its FIN-WAIT-2), and answers by a
 * reset, which ends the connection in any phase. */
void ka_wire_probe(int fd);

/* The filter's last word, if the peer can still take it for one: nothing waits before it. Never blocks. */
void ka_wire_shut(ka_sock *s, ka_session *session);

#endif
