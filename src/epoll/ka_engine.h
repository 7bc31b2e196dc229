/* ka_engine.h: the only room with system calls: accept, recv, send, epoll, timerfd, eventfd.
 *
 * One pollable descriptor: an epoll set holding the listeners, the connections, a timer and a wake-up. The host's loop
 * watches that one and calls ka_engine_step when it is readable, or waits in it: ka_engine_wait. Connections are
 * registered once, edge-triggered; an idle one owns a ka_sock (32 bytes) and its slot in the table, no buffer, no talk,
 * no timer.
 * Knows no policy number: it asks ka_conn. Knows nothing of HTTP: it asks ka_talk. Belongs to one thread, but for
 * ka_engine_wake. Linux only. */
#ifndef KA_ENGINE_H
#define KA_ENGINE_H

#include "ka_wire.h"
#include "table/ka_trust.h"
#include "talk/ka_turn.h"

typedef struct ka_engine ka_engine;

/* The application is called in the thread of the engine: from ka_engine_step, and from whatever else below ends a
 * connection, accepts one or gives one a turn. From within, everything of this header may be called, but that:
 *  - ka_engine_step does nothing and returns KA_EINVAL; ka_engine_attend leaves it to whoever is on it;
 *  - ka_engine_close, ka_engine_close_all and ka_engine_free are carried out when the outermost call is left;
 *  - ka_engine_stop_listening and ka_engine_unlisten take in who waits, but close nobody to make room;
 *  - ka_engine_give_away refuses a connection that is in its turn, or is ending.
 * All may read, respond and give up requests other than the one that is being lost or refused. A filter's calls and
 * `release` are the same. docs/embedding-c.md has a table. */

enum {
    KA_MAX_LISTENERS = 64
};

/* Return 0, KA_ENOMEM, or -errno - 1000 of the call that failed. The table is the caller's and outlives the engine. */
int ka_engine_new(ka_engine **out, ka_table *table, const ka_limits *limits, size_t max_buffer_bytes,
                  const ka_application *app);
void ka_engine_free(ka_engine *e); /* closes everything that is open, listeners excepted: they are the caller's */
int ka_engine_is_inside(const ka_engine *e); /* whether something of the engine's is going on, which called us */

int ka_engine_fileno(const ka_engine *e);
ka_driver *ka_engine_driver(ka_engine *e);

/* Pass the bytes of this listener's connections through a filter, with a handshake before the first request. `ctx` is
 * the argument of its `open` and outlives the engine. 0, KA_EINVAL (no such listener), KA_ENOMEM. */
int ka_engine_set_filter(ka_engine *e, unsigned listener, const ka_filter *filter, void *ctx);
ka_session *ka_engine_session(ka_engine *e, ka_handle conn); /* its session of the filter; NULL: none, stale */

/* Listen on an already listening, non-blocking socket. policy_class: of its connections. knows_clients: addresses of its
 * connections name clients (not for unix sockets and trusted proxies). Return its index, KA_EFULL, or -errno - 1000. */
int ka_engine_listen(ka_engine *e, int fd, unsigned policy_class, int knows_clients);

/* Listen on this socket no longer; it stays open, and can be listened on again. is_last: nobody else will accept from
 * its queue, so whoever is in it is taken in first. */
void ka_engine_unlisten(ka_engine *e, int fd, int is_last);
void ka_engine_stop_listening(ka_engine *e); /* on all of them, each as the last */

/* Take in a connected, non-blocking socket that another process accepted and gave away between two requests, as if it had
 * come through this listener, which has no filter. The descriptor is the engine's, unless the call fails: KA_EINVAL, or
 * -errno - 1000, as when the client is gone. A PROXY header is not expected. */
int ka_engine_adopt(ka_engine *e, unsigned listener, int fd);

/* Let no new client begin a handshake with a listening TCP socket, while those in the middle of one get through:
 * without it, whoever comes between the last accept() and close() gets a reset for an answer. Return 0 or -errno - 1000. */
int ka_listener_refuse(int fd);

/* A number that is another one in a child made by fork: two processes with one epoll set break each other. Costs a
 * load, but in a kernel before Linux 4.14, where it is a system call. Never 0. */
uint64_t ka_process(void);

/* Trusted proxies, ka_driver.trust: nobody at first, ka_trust_set to change. Their connections count for no client, and their
 * word about the client is taken: ka_engine_is_trusted. One that is to begin with a PROXY header and does not is closed. */

/* One bounded pass: what arrived, then what expired, then who wants in. Never blocks.
 * Return: number of events seen, -errno - 1000, or KA_EINVAL from within. */
int ka_engine_step(ka_engine *e);

/* For a host that waits in here, for all of its own as well: one system call where a loop that watches ka_engine_fileno
 * makes two. Watch a descriptor of the host's (its own epoll set, as a rule) until it is closed. 0, or -errno - 1000. */
int ka_engine_watch_host(ka_engine *e, int fd);

/* Wait until a step has something to do, or the host's descriptor is readable; not beyond until_ns of the engine's clock,
 * rounded up to milliseconds (0: not at all; INT64_MAX: no end). What was found is kept for the next step, which looks
 * for no more. Calls nobody, so the host may let go of a lock meanwhile.
 * Return: KA_WAITED_*, of which the host's may be a false alarm; 0: time is up, or a signal came; -errno - 1000;
 * KA_EINVAL from within. */
enum {
    KA_WAITED_STEP = 1,
    KA_WAITED_HOST = 2
};
int ka_engine_wait(ka_engine *e, int64_t until_ns);

/* Give a turn to the talks that were noted outside a step (a response made by a task of the host's loop). */
void ka_engine_attend(ka_engine *e);

/* Send what is pending of this one now: see ka_turn_push. Within a step, and between two. */
void ka_engine_push(ka_engine *e, ka_talk *talk);

void ka_engine_wake(ka_engine *e); /* from any thread: a step soon, with on_wake */

void ka_engine_close(ka_engine *e, ka_handle conn, ka_cause cause);
void ka_engine_close_all(ka_engine *e, ka_cause cause);

/* Start draining: see ka_table_drain. */
void ka_engine_drain(ka_engine *e, int64_t grace_ns, int64_t spread_ns, int64_t deadline_ns);

int64_t ka_engine_now(ka_engine *e); /* the engine's clock: CLOCK_MONOTONIC, ns; fresh at each step */
int64_t ka_engine_read_clock(void);  /* the same, read now: a step may have run an application for long */
int ka_engine_is_stepping(const ka_engine *e);

/* Who is at the other end, as a PROXY header said or the kernel: family 0 (unix), 4 or 6; addr: 4 or 16 bytes; port;
 * index of the listener. */
int ka_engine_peer(ka_engine *e, ka_handle conn, uint8_t addr[16], uint16_t *port, unsigned *listener);
int ka_engine_is_trusted(ka_engine *e, ka_handle conn); /* whether it is a trusted proxy */
/* Give the socket of a tunnel, or of a connection between two requests, away: a descriptor of its own, the caller's. The
 * connection is over here (KA_CAUSE_UPGRADED) and nothing is said about it to the peer; what the talk of a tunnel still
 * holds unread is to be taken before. KA_EINVAL when output waits, a turn or a request is on, or the bytes pass through a
 * filter; KA_ESTALE; -errno - 1000. */
int ka_engine_give_away(ka_engine *e, ka_handle conn);
int ka_engine_fd(ka_engine *e, ka_handle conn); /* the socket, still the engine's; -1 if stale */

/* In the order of ENGINE_NAMES in table.pxi. */
typedef struct {
    uint64_t steps, events, receives, sends, accepts, accept_errors, out_of_descriptors;
} ka_engine_counters;
const ka_engine_counters *ka_engine_stats(const ka_engine *e);

#endif
