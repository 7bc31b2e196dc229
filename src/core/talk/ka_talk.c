/* ka_talk.c: see ka_talk.h. In three parts: the pool of talks, the driver's side, the application's side. */
#include "talk/ka_talk.h"
#include "http/ka_scan.h"

#include <stdlib.h>
#include <string.h>

enum {
    KA_TALKS_KEEP = 256
};

/* --- the service and its talks --- */

int ka_service_init(ka_service *service, ka_table *table, const ka_limits *limits, size_t max_buffer_bytes,
                    const ka_application *app)
{
    memset(service, 0, sizeof *service);
    service->table = table;
    service->app = *app;
    service->limits = *limits;
    ka_pool_init(&service->pool, max_buffer_bytes, app->release);
    service->fields = malloc(limits->max_headers * sizeof *service->fields);
    return service->fields ? KA_OK : KA_ENOMEM;
}

void ka_service_free(ka_service *service)
{
    while (service->free_talks) {
        ka_talk *talk = service->free_talks;
        service->free_talks = talk->parked_next; /* the link of the free list */
        free(talk);
    }
    free(service->fields);
    service->fields = NULL;
    free(service->common.extra);
    ka_pool_free(&service->pool);
}

int ka_service_set_fields(ka_service *service, const char *lines, uint32_t len, int sends_date)
{
    ka_reply_common *common = &service->common;
    char *copy = malloc(len + 1);
    if (copy == NULL)
        return KA_ENOMEM;
    memcpy(copy, lines, len);
    free(common->extra);
    common->extra = copy;
    common->extra_len = len;
    common->hides_date = !sends_date;
    if (common->hides_date)
        common->date_len = 0;
    return KA_OK;
}

ka_talk *ka_talk_new(ka_service *service, ka_handle conn)
{
    ka_talk *talk = service->free_talks;
    if (talk) {
        service->free_talks = talk->parked_next;
        service->n_free_talks--;
    } else if ((talk = malloc(sizeof *talk)) == NULL) {
        return NULL;
    }
    memset(talk, 0, sizeof *talk);
    talk->service = service;
    talk->conn = conn;
    talk->exchange.talk = talk;
    service->n_talks++;
    return talk;
}

static uint8_t *is_on(ka_talk *talk, ka_list list) { return list == KA_NOTED ? &talk->is_noted : &talk->is_later; }

__attribute__((noinline)) void ka_talk_put(ka_talk *talk, ka_list list)
{
    ka_service *service = talk->service;
    ka_talk *last = service->lists[list].last;
    if (*is_on(talk, list))
        return;
    *is_on(talk, list) = 1;
    talk->listed[list].next = NULL;
    talk->listed[list].prev = last;
    *(last ? &last->listed[list].next : &service->lists[list].first) = talk;
    service->lists[list].last = talk;
    service->lists[list].n++;
}

__attribute__((noinline)) void ka_talk_take(ka_talk *talk, ka_list list)
{
    ka_service *service = talk->service;
    ka_talk *next = talk->listed[list].next, *prev = talk->listed[list].prev;
    if (!*is_on(talk, list))
        return;
    *is_on(talk, list) = 0;
    *(prev ? &prev->listed[list].next : &service->lists[list].first) = next;
    *(next ? &next->listed[list].prev : &service->lists[list].last) = prev;
    service->lists[list].n--;
}

/* It is to have a turn, but after this call, which may come from deep inside the application. */
static void attend(ka_talk *talk)
{
    if (!talk->is_driven)
        ka_talk_put(talk, KA_NOTED);
}

static void lose_exchange(ka_talk *talk)
{
    void *exchange = talk->exchange.owner;
    talk->exchange.owner = NULL;
    talk->exchange.has_request = talk->exchange.has_response = talk->exchange.wants_body = talk->exchange.is_held = 0;
    if (exchange)
        talk->service->app.on_lost(exchange);
}

/* --- whose bytes wait --- */

static void unpark(ka_talk *talk)
{
    ka_talk **ring = &talk->service->parked[ka_buf_class(talk->in->cap)];
    if (talk->parked_next == talk) {
        *ring = NULL;
        return;
    }
    talk->parked_next->parked_prev = talk->parked_prev;
    talk->parked_prev->parked_next = talk->parked_next;
    if (*ring == talk)
        *ring = talk->parked_next;
}

/* The buffer of bytes that wait, in place of the one before; NULL: none. What was in that one is the caller's to copy. */
static void set_in(ka_talk *talk, ka_buf *in)
{
    if (talk->in) {
        unpark(talk);
        ka_buf_give(&talk->service->pool, talk->in);
    }
    talk->in = in;
    if (in == NULL)
        return;
    ka_talk **ring = &talk->service->parked[ka_buf_class(in->cap)], *oldest = *ring;
    if (oldest == NULL) {
        *ring = talk->parked_next = talk->parked_prev = talk;
        return;
    }
    talk->parked_next = oldest;
    talk->parked_prev = oldest->parked_prev;
    talk->parked_prev->parked_next = oldest->parked_prev = talk;
}

ka_talk *ka_service_fattest(const ka_service *service)
{
    for (unsigned k = KA_BUF_SIZES + 1; k-- > 0;) {
        ka_talk *oldest = service->parked[k], *talk = oldest;
        while (talk && talk->is_driven) /* few are, at any time */
            talk = talk->parked_next == oldest ? NULL : talk->parked_next;
        if (talk)
            return talk;
    }
    return NULL;
}

void ka_talk_free(ka_talk *talk)
{
    ka_service *service = talk->service;
    lose_exchange(talk);
    if (ka_unlikely(talk->is_noted | talk->is_later)) {
        ka_talk_take(talk, KA_NOTED);
        ka_talk_take(talk, KA_LATER);
    }
    set_in(talk, NULL);
    ka_buf *out = talk->out;
    service->n_talks--;
    if (KA_KEEPS_FREED && service->n_free_talks < KA_TALKS_KEEP) {
        talk->parked_next = service->free_talks;
        service->free_talks = talk;
        service->n_free_talks++;
    } else {
        free(talk);
    }
    ka_buf_give_all(&service->pool, out); /* last: releasing an owner may run arbitrary code */
}

/* --- input --- */

static void consume(ka_talk *talk, size_t nbytes)
{
    if (nbytes == 0)
        return; /* and perhaps no window: NULL + 0 is undefined in C */
    talk->window += nbytes;
    talk->window_len -= nbytes;
    if (talk->in)
        talk->in->start += nbytes;
}

void ka_talk_arrived(ka_talk *talk, const char *bytes, size_t len)
{
    ka_assert(talk->window_len == 0 && talk->in == NULL);
    talk->window = bytes;
    talk->window_len = len;
}

char *ka_talk_room(ka_talk *talk, size_t want, size_t *room)
{
    ka_buf *in = talk->in;
    if (in == NULL || ka_buf_room(in) < want) {
        ka_buf *bigger = ka_buf_take(&talk->service->pool, KA_USE_INPUT, talk->window_len + want);
        if (bigger == NULL)
            return NULL;
        if (talk->window_len)
            memcpy(bigger->data, talk->window, talk->window_len);
        bigger->end = talk->window_len;
        set_in(talk, bigger);
        in = bigger;
        talk->window = in->data;
    }
    *room = ka_buf_room(in);
    return in->data + in->end;
}

void ka_talk_filled(ka_talk *talk, size_t nbytes)
{
    talk->in->end += nbytes;
    talk->window_len += nbytes;
}

int ka_talk_park(ka_talk *talk)
{
    size_t room;
    if (talk->window_len == 0) {
        set_in(talk, NULL);
        talk->window = NULL;
        return KA_OK;
    }
    if (talk->in == NULL && ka_talk_room(talk, 0, &room) == NULL)
        return KA_ENOMEM;
    return KA_OK;
}

void ka_talk_eof(ka_talk *talk) { talk->is_eof = talk->sees_fin = 1; }

static void end_with(ka_talk *talk, ka_cause cause)
{
    if (!talk->is_last) {
        talk->is_last = 1;
        talk->cause = (uint8_t)cause;
    }
}

/* --- request bodies --- */

int ka_talk_body_is_over(const ka_talk *talk)
{
    return talk->exchange.is_tunnel ? talk->is_eof && talk->window_len == 0 : ka_body_is_over(&talk->exchange.body);
}

size_t ka_talk_readable(const ka_talk *talk)
{
    if (talk->exchange.is_tunnel)
        return talk->window_len;
    if (ka_body_is_over(&talk->exchange.body))
        return 0;
    size_t here = talk->window_len;
    if (here <= talk->checked)
        return 0; /* framing that is not whole yet: nothing to do until more comes behind it */
    if ((talk->exchange.head_flags & KA_HEAD_CHUNKED) == 0 && (uint64_t)talk->exchange.body.left < here)
        here = (size_t)talk->exchange.body.left;
    return here;
}

size_t ka_talk_appetite(const ka_talk *talk)
{
    const ka_limits *limits = &talk->service->limits;
    uint64_t here = talk->window_len, most = KA_READ_AHEAD;
    if (talk->exchange.is_tunnel)
        most = KA_READ_MAX;
    else if ((talk->exchange.has_request ? talk->exchange.wants_body : talk->is_draining) &&
             !ka_body_is_over(&talk->exchange.body))
        most += (uint64_t)talk->exchange.body.left + limits->max_trailer_bytes; /* which are taken whole */
    else if (!talk->exchange.has_request && here && limits->max_head_bytes > most)
        most = limits->max_head_bytes; /* never reached: so long a head is refused */
    most = most > here ? most - here : 0;
    return most < KA_READ_MAX ? (size_t)most : KA_READ_MAX;
}

int ka_talk_drop_ahead(ka_talk *talk)
{
    int is_answering = talk->exchange.has_request ? !talk->exchange.is_tunnel && ka_body_is_over(&talk->exchange.body)
                                                  : talk->unsent > 0;
    if (!is_answering || talk->is_draining)
        return 0;
    talk->window_len = talk->checked = 0;
    (void)ka_talk_park(talk);
    end_with(talk, KA_CAUSE_BUFFER_LIMIT);
    talk->needs_linger = 1;
    return 1;
}

/* Nothing more can be sent in step. */
static void break_off(ka_talk *talk, ka_cause cause)
{
    end_with(talk, cause);
    talk->exchange.has_response = talk->is_cut = 1;
    attend(talk); /* the application may have come to it by reading, outside of a turn */
}

/* A rule of the protocol is broken, here or in the parser: answer it if the client can still take it for the answer. */
static void fail(ka_talk *talk, int64_t now)
{
    int phase = ka_conn_phase(talk->service->table, talk->conn);
    if (phase == KA_IDLE || phase == KA_NEW) /* it has begun, badly: what still comes did not cross an idle close */
        (void)ka_conn_event(talk->service->table, talk->conn, KA_EV_RECEIVED, now);
    talk->exchange.is_failed = 1;
    if (ka_talk_refuse(talk, talk->exchange.fault.status, ka_fault_text(talk->exchange.fault.code),
                       KA_CAUSE_BAD_REQUEST, now) < 0)
        break_off(talk, KA_CAUSE_BAD_REQUEST);
}

/* The next content from the window, at most `most` bytes: *piece, or *len = 0 at the end of the body.
 * KA_PARTIAL when the window gave nothing, KA_EPEER after a fault, which is answered already. */
static int next_piece(ka_talk *talk, size_t most, const char **piece, size_t *len, int64_t now)
{
    ka_limits limits = talk->service->limits;
    if (talk->exchange.max_body < limits.max_body_bytes)
        limits.max_body_bytes = talk->exchange.max_body;
    while (!ka_body_is_over(&talk->exchange.body)) {
        size_t nbytes;
        ka_span span;
        ka_body before = talk->exchange.body;
        int event = ka_body_next(&talk->exchange.body, talk->window, talk->window_len, &limits, &nbytes, &span,
                                 &talk->exchange.fault);
        if (event == KA_BODY_DATA && span.len > most) { /* more than was asked for: take a part of it */
            talk->exchange.body = before;
            event = ka_body_next(&talk->exchange.body, talk->window, span.off + most, &limits, &nbytes, &span,
                                 &talk->exchange.fault);
        }
        if (event == KA_EPEER) {
            fail(talk, now);
            return KA_EPEER;
        }
        consume(talk, nbytes);
        talk->checked = event == KA_BODY_NEEDS ? (uint32_t)talk->window_len : 0;
        if (event == KA_BODY_NEEDS)
            return KA_PARTIAL;
        if (event == KA_BODY_DATA) {
            *piece = talk->window - nbytes + span.off;
            *len = span.len;
            return KA_OK;
        }
    }
    *len = 0;
    return KA_OK;
}

/* Can the rest of the body be thrown away within a bound, so that the connection is kept? For a chunked body only if
 * its end is here already: looked for on a copy of the state. */
static int is_drainable(const ka_talk *talk)
{
    if (ka_body_is_over(&talk->exchange.body))
        return 1;
    if ((talk->exchange.head_flags & KA_HEAD_CHUNKED) == 0)
        return talk->exchange.body.left <= KA_DRAIN_MAX;
    ka_body ahead = talk->exchange.body;
    const char *at = talk->window;
    size_t left = talk->window_len;
    ka_span piece;
    ka_fault fault;
    while (left) {
        size_t nbytes = 0;
        int event = ka_body_next(&ahead, at, left, &talk->service->limits, &nbytes, &piece, &fault);
        if (event == KA_BODY_END)
            return 1;
        if (event != KA_BODY_DATA)
            return 0;
        at += nbytes;
        left -= nbytes;
    }
    return 0;
}

static ptrdiff_t read_tunnel(ka_talk *talk, char *to, size_t cap)
{
    size_t n = talk->window_len < cap ? talk->window_len : cap;
    if (n == 0 && !talk->is_eof) {
        talk->exchange.wants_body = 1;
        attend(talk);
        return KA_PARTIAL;
    }
    if (n)
        memcpy(to, talk->window, n);
    consume(talk, n);
    return (ptrdiff_t)n;
}

ptrdiff_t ka_talk_read(ka_talk *talk, char *to, size_t cap, int64_t now)
{
    size_t n = 0;
    talk->exchange.wants_body = 0;
    if (talk->exchange.is_tunnel)
        return read_tunnel(talk, to, cap);
    if (talk->exchange.is_failed)
        return KA_EPEER; /* the state of the framing says nothing any more */
    while (n < cap) {
        const char *piece;
        size_t len;
        int got = next_piece(talk, cap - n, &piece, &len, now);
        if (got == KA_EPEER)
            return n ? (ptrdiff_t)n : KA_EPEER; /* the fault is seen by the next call: is_failed */
        if (got == KA_PARTIAL)
            break;
        if (len == 0)
            return (ptrdiff_t)n;
        memcpy(to + n, piece, len);
        n += len;
        talk->exchange.owes_continue = 0; /* RFC 9110 10.1.1: content has come without it */
    }
    if (n)
        return (ptrdiff_t)n;
    if (talk->is_eof)
        return KA_ESTALE;
    if (talk->exchange.owes_continue && !talk->exchange.reply.is_started) {
        static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
        talk->exchange.owes_continue = 0;
        if (ka_talk_interim(talk, interim, sizeof interim - 1) < 0)
            return KA_ENOMEM;
    }
    talk->exchange.wants_body = 1;
    attend(talk);
    return KA_PARTIAL;
}

/* --- the driver's turn --- */

/* The exchange is over but for what the next turn does about it: the rest of its content is to be thrown away. */
static int has_part_of_body(const ka_talk *talk)
{
    return talk->is_draining ||
           (talk->exchange.has_response && !talk->is_last && !ka_body_is_over(&talk->exchange.body));
}

/* Only a stray empty line is no beginning of a request. */
static int has_part_of_head(const ka_talk *talk)
{
    if (talk->is_last || talk->window_len == 0)
        return 0;
    return !(talk->window[0] == '\r' && (talk->window_len == 1 || (talk->window_len == 2 && talk->window[1] == '\n')));
}

/* The response is out of the application's hands: what remains is the rest of the request's body. */
static void end_exchange(ka_talk *talk)
{
    lose_exchange(talk);
    if (talk->exchange.is_tunnel) {
        end_with(talk, KA_CAUSE_UPGRADED);
        talk->needs_linger = 1;
    } else if (!ka_body_is_over(&talk->exchange.body)) {
        if (!talk->is_last && !is_drainable(talk))
            end_with(talk, KA_CAUSE_APPLICATION); /* the body grew past what was foreseen */
        talk->is_draining = !talk->is_last;
        talk->needs_linger |= talk->is_last;
    }
    memset(&talk->exchange.reply, 0, sizeof talk->exchange.reply);
}

static ka_talk_step drain(ka_talk *talk, int64_t now)
{
    const char *piece;
    size_t len;
    for (;;) {
        int got = next_piece(talk, SIZE_MAX, &piece, &len, now);
        if (got == KA_PARTIAL) {
            if (talk->is_eof)
                end_with(talk, KA_CAUSE_CLIENT);
            return talk->is_eof ? KA_TALK_CLOSE : KA_TALK_READ;
        }
        if (got == KA_EPEER || len == 0) {
            talk->is_draining = 0;
            return KA_TALK_WAIT; /* go on */
        }
    }
}

/* Does the client offer nothing but protocols whose first bytes can be no request? A preface of HTTP/2 and a ClientHello
 * are refused by the parser. They are also the ones that are offered with any request, in case the server can. */
static int are_safe_offers(const char *list, size_t len)
{
    const char *end = list + len;
    while (list < end) {
        const char *word = list;
        while (list < end && *list != ',')
            list++;
        while (word < list && (*word == ' ' || *word == '\t'))
            word++;
        size_t n = (size_t)(list++ - word);
        while (n && (word[n - 1] == ' ' || word[n - 1] == '\t'))
            n--;
        if (n && !(n == 3 && ka_equals_lower(word, "h2c", 3)) && !(n > 4 && ka_equals_lower(word, "tls/", 4)))
            return 0;
    }
    return 1;
}

/* RFC 9110 7.8, 9.3.6: a client that expects a yes may send what comes behind it, before it has read the answer. */
static int may_switch(const ka_talk *talk, const ka_head *head)
{
    if (head->flags & KA_HEAD_IS_CONNECT)
        return 1;
    if (ka_likely((head->flags & KA_HEAD_UPGRADE) == 0))
        return 0;
    const ka_field *field = talk->service->fields;
    for (uint32_t i = 0; i < head->n_fields; i++, field++)
        if (field->name.len == 7 && ka_equals_lower(talk->window + field->name.off, "upgrade", 7) &&
            !are_safe_offers(talk->window + field->value.off, field->value.len))
            return 1;
    return 0;
}

static ka_talk_step next_head(ka_talk *talk, int64_t now, ka_head *head)
{
    ka_service *service = talk->service;
    if (talk->window_len) {
        int got = ka_head_parse(talk->window, talk->window_len, &talk->checked, &service->limits, head, service->fields,
                                &talk->exchange.fault);
        if (ka_likely(got == KA_OK)) {
            const ka_policy *policy;
            if (ka_conn_phase(service->table, talk->conn) > KA_HEAD) /* over, though it may not be sent yet */
                (void)ka_conn_event(service->table, talk->conn, KA_EV_RESPONDED, now);
            (void)ka_conn_event(service->table, talk->conn, KA_EV_HEAD_DONE, now);
            talk->checked = 0;
            talk->exchange.head_bytes = head->nbytes;
            talk->exchange.head_flags = head->flags;
            ka_body_init(&talk->exchange.body, head);
            memset(&talk->exchange.reply, 0, sizeof talk->exchange.reply);
            talk->exchange.reply.minor = head->minor;
            talk->exchange.reply.is_head = (head->flags & KA_HEAD_IS_HEAD) != 0;
            talk->exchange.reply.is_connect = (head->flags & KA_HEAD_IS_CONNECT) != 0;
            talk->exchange.owes_continue = (head->flags & KA_HEAD_EXPECTS_CONTINUE) != 0 &&
                                           !ka_body_is_over(&talk->exchange.body);
            talk->may_switch = (uint8_t)may_switch(talk, head);
            talk->exchange.has_request = 1;
            /* The head's offsets stay good: consume moves the window past it, the bytes stay where they are. */
            consume(talk, head->nbytes);
            if (ka_unlikely(service->asks_requests)) {
                const ka_application *app = &service->app;
                unsigned policy_class = app->class_of_request(app->ctx, talk, head, service->fields);
                (void)ka_conn_set_class(service->table, talk->conn, policy_class);
            }
            policy = ka_conn_policy(service->table, talk->conn);
            talk->exchange.max_body = policy && policy->max_body_bytes ? policy->max_body_bytes : INT64_MAX;
            if (head->content_length > talk->exchange.max_body) {
                if (ka_talk_refuse(talk, 413, "the content is longer than max_body_bytes", KA_CAUSE_BAD_REQUEST, now) <
                    0)
                    break_off(talk, KA_CAUSE_BAD_REQUEST);
                return KA_TALK_WAIT;
            }
            return KA_TALK_REQUEST;
        }
        if (got == KA_EPEER) {
            fail(talk, now);
            return KA_TALK_WAIT;
        }
    }
    if (talk->is_eof) {
        end_with(talk, KA_CAUSE_CLIENT);
        return KA_TALK_CLOSE;
    }
    return KA_TALK_READ;
}

ka_talk_step ka_talk_next(ka_talk *talk, int64_t now, ka_head *head)
{
    for (;;) {
        ka_talk_step step = KA_TALK_WAIT;
        if (talk->exchange.has_response)
            end_exchange(talk);
        if (talk->unsent > KA_OUT_HIGH && !talk->exchange.is_tunnel) /* whose directions do not wait for each other */
            return KA_TALK_WAIT;
        if (talk->exchange.has_request) {
            if (!talk->exchange.wants_body)
                return KA_TALK_WAIT;
            return ka_talk_readable(talk) || ka_talk_body_is_over(talk) || talk->is_eof ? KA_TALK_BODY : KA_TALK_READ;
        }
        if (talk->is_draining)
            step = drain(talk, now);
        else if (talk->is_last)
            return talk->is_eof || !(talk->needs_linger || talk->window_len) ? KA_TALK_CLOSE : KA_TALK_LINGER;
        else
            step = next_head(talk, now, head);
        if (step != KA_TALK_WAIT)
            return step;
    }
}

int ka_talk_is_idle(const ka_talk *talk)
{
    return !talk->exchange.has_request && !talk->is_draining && talk->unsent == 0 && talk->window_len == 0 &&
           !talk->is_last && !talk->is_eof && !talk->is_later;
}

/* Whom do we wait for? */
static ka_phase phase_of(const ka_talk *talk)
{
    int is_answering = talk->exchange.has_request && !talk->exchange.has_response;
    if (talk->exchange.is_tunnel && is_answering) /* what is unsent at the end of a turn the client does not take */
        return talk->unsent ? KA_WRITE : KA_TUNNEL;
    if (talk->unsent > KA_OUT_HIGH || (talk->unsent && (talk->exchange.is_held || !is_answering)))
        return KA_WRITE;
    if (is_answering)
        return talk->exchange.wants_body && !ka_talk_readable(talk) ? KA_BODY : KA_BUSY;
    if (has_part_of_body(talk))
        return KA_BODY;
    return has_part_of_head(talk) ? KA_HEAD : KA_IDLE; /* also a whole one, which waits for another turn */
}

int ka_talk_settle(ka_talk *talk, int64_t now)
{
    ka_table *table = talk->service->table;
    ka_handle h = talk->conn;
    ka_phase to = phase_of(talk);
    int at = ka_conn_phase(table, h);
    if (to == KA_IDLE && at == KA_NEW)
        to = KA_NEW;
    if (to == KA_IDLE && talk->is_last)
        return at; /* it will be closed now: what the client still sends does not cross the close of an idle one */
    /* At most three moves lead from any phase to any other; each loop makes one. */
    for (int i = 0; i < 4 && at >= 0 && at != (int)to; i++) {
        ka_event event;
        switch (at) {
        case KA_NEW:
        case KA_IDLE: event = KA_EV_RECEIVED; break;
        case KA_HEAD: event = to == KA_WRITE ? KA_EV_BLOCKED : KA_EV_HEAD_DONE; break;
        case KA_BUSY:
            event = to == KA_WRITE ? KA_EV_BLOCKED : to == KA_BODY ? KA_EV_BODY_WANTED : KA_EV_RESPONDED;
            break;
        case KA_BODY:
            event = to == KA_WRITE ? KA_EV_BLOCKED : to == KA_BUSY ? KA_EV_BODY_ARRIVED : KA_EV_RESPONDED;
            break;
        case KA_WRITE:
            event = to == KA_TUNNEL                ? KA_EV_TUNNELLED
                  : to == KA_BUSY || to == KA_BODY ? KA_EV_UNBLOCKED
                                                   : KA_EV_RESPONDED;
            break;
        case KA_TUNNEL:
            if (to != KA_WRITE)
                return at; /* it will be closed now */
            event = KA_EV_BLOCKED;
            break;
        default: return at; /* LINGER is left by closing only */
        }
        at = ka_conn_event(table, h, event, now);
    }
    ka_assert(at == (int)to || at < 0);
    return at;
}

/* --- output --- */

void ka_talk_sent(ka_talk *talk, size_t nbytes)
{
    ka_buf *done = talk->out, **end = &done;
    ka_assert(nbytes <= talk->unsent);
    talk->unsent -= nbytes;
    while (*end && nbytes >= ka_buf_len(*end)) {
        nbytes -= ka_buf_len(*end);
        end = &(*end)->next;
    }
    talk->out = *end;
    *end = NULL;
    if (talk->out)
        talk->out->start += nbytes;
    else
        talk->out_last = NULL;
    ka_buf_give_all(&talk->service->pool, done); /* last: releasing an owner may run arbitrary code, and write again */
}

static void append(ka_talk *talk, ka_buf *buf)
{
    if (talk->out_last)
        talk->out_last->next = buf;
    else
        talk->out = buf;
    talk->out_last = buf;
}

/* `n` bytes of room at the end of the output, or NULL. Written bytes count once `wrote` says so. */
static char *reserve(ka_talk *talk, size_t n)
{
    ka_buf *last = talk->out_last;
    if (last == NULL || ka_buf_room(last) < n) {
        last = ka_buf_take(&talk->service->pool, KA_USE_OUTPUT, n);
        if (last == NULL)
            return NULL;
        append(talk, last);
    }
    return last->data + last->end;
}

static void wrote(ka_talk *talk, size_t n)
{
    talk->out_last->end += n;
    talk->unsent += n;
}

static int put_copy(ka_talk *talk, const char *bytes, size_t n)
{
    if (n == 0)
        return KA_OK;
    char *at = reserve(talk, n);
    if (at == NULL)
        return KA_ENOMEM;
    memcpy(at, bytes, n);
    wrote(talk, n);
    return KA_OK;
}

int ka_talk_head_begin(ka_talk *talk, unsigned status, size_t field_bytes, char **at)
{
    uint8_t minor = talk->exchange.reply.minor, is_head = talk->exchange.reply.is_head,
            is_connect = talk->exchange.reply.is_connect;
    if (talk->exchange.reply.is_started || !talk->exchange.has_request || talk->exchange.has_response) {
        talk->exchange.reply.why = "the response has already begun";
        return KA_EINVAL;
    }
    if (status >= 100 && status < 200 && status != 101) {
        talk->exchange.reply.why = "an interim status cannot be the final one (RFC 9110 15.2)";
        return KA_EINVAL;
    }
    *at = reserve(talk, field_bytes + KA_REPLY_FIXED + talk->service->common.extra_len);
    if (*at == NULL)
        return KA_ENOMEM;
    talk->exchange.reply = (ka_reply){.minor = minor, .is_head = is_head, .is_connect = is_connect};
    return ka_reply_start(&talk->exchange.reply, at, status);
}

/* A reason of our own for closing after this response, or KA_CAUSE_NONE. */
static ka_cause reason_to_close(const ka_talk *talk)
{
    if (talk->is_last)
        return (ka_cause)talk->cause;
    if (talk->exchange.reply.frame == KA_FRAME_CLOSE || talk->exchange.reply.wants_close)
        return KA_CAUSE_APPLICATION;
    if (talk->is_eof && talk->window_len == 0)
        return KA_CAUSE_CLIENT;
    /* RFC 9110 10.1.1: the client may or may not send the content now; no way to stay in step. */
    if (talk->exchange.owes_continue || !is_drainable(talk))
        return KA_CAUSE_APPLICATION;
    /* Not accepted, or by a 2xx to CONNECT that the application does not mean: what follows must not be read as HTTP. */
    if (talk->may_switch)
        return KA_CAUSE_APPLICATION;
    return KA_CAUSE_NONE;
}

static int tunnel_begin(ka_talk *talk, char *at, int64_t now)
{
    static const ka_verdict says_nothing;
    ka_reply *reply = &talk->exchange.reply;
    int is_agreed = reply->status == 101 ? (talk->exchange.head_flags & KA_HEAD_UPGRADE) != 0
                                         : reply->is_connect && reply->status / 100 == 2;
    if (!is_agreed)
        reply->why = "a tunnel must begin with 101 to a request with Upgrade, or 2xx to CONNECT (RFC 9110 7.8, 9.3.6)";
    else if (!ka_body_is_over(&talk->exchange.body))
        reply->why = "the request's content must be read before switching protocols (RFC 9110 7.8)";
    if (!is_agreed || !ka_body_is_over(&talk->exchange.body))
        return KA_EINVAL;
    int got = ka_conn_event(talk->service->table, talk->conn, KA_EV_TUNNELLED, now);
    if (got < 0)
        return got;
    (void)ka_reply_choose_frame(reply, KA_WHOLE_UNKNOWN);
    ka_reply_finish_head(reply, &at, &says_nothing, &talk->service->common);
    wrote(talk, (size_t)(at - (talk->out_last->data + talk->out_last->end)));
    talk->exchange.is_tunnel = 1;
    attend(talk);
    return KA_OK;
}

int ka_talk_head_end(ka_talk *talk, char *at, int64_t whole, int64_t now)
{
    ka_verdict verdict;
    if (whole == KA_WHOLE_TUNNEL)
        return tunnel_begin(talk, at, now);
    if (talk->exchange.reply.status == 101) {
        talk->exchange.reply.why = "101 is only for a response that begins a tunnel (RFC 9110 15.2.2)";
        return KA_EINVAL;
    }
    int frame = ka_reply_choose_frame(&talk->exchange.reply, whole);
    if (frame < 0)
        return frame;
    int got = ka_conn_decide(talk->service->table, talk->conn, talk->exchange.reply.minor,
                             (talk->exchange.head_flags & KA_HEAD_KEEP_ALIVE) != 0, reason_to_close(talk), now,
                             &verdict);
    if (got < 0)
        return got;
    if (!verdict.keeps) {
        end_with(talk, verdict.cause);
        talk->needs_linger |= talk->may_switch || !ka_body_is_over(&talk->exchange.body);
    }
    talk->ends_by_close = frame == KA_FRAME_CLOSE;
    ka_reply_finish_head(&talk->exchange.reply, &at, &verdict, &talk->service->common);
    wrote(talk, (size_t)(at - (talk->out_last->data + talk->out_last->end)));
    return KA_OK;
}

/* One piece of content: own or referred bytes, or with fd >= 0 those of a file. */
static int put_content(ka_talk *talk, const char *bytes, int fd, int64_t off, size_t len, int more, void *owner)
{
    char before[KA_CHUNK_FRAME], after[KA_CHUNK_FRAME];
    size_t before_len, after_len;
    int sends, error;
    ka_pool *pool = &talk->service->pool;
    if (!talk->exchange.has_request || talk->exchange.has_response) {
        talk->exchange.reply.why = "the response is already complete";
        error = KA_EINVAL;
    } else if (talk->exchange.is_tunnel) {
        before_len = after_len = 0;
        sends = len > 0;
        error = KA_OK;
    } else {
        error = ka_reply_piece(&talk->exchange.reply, len, more, before, &before_len, after, &after_len, &sends);
    }
    if (error == KA_OK)
        error = put_copy(talk, before, before_len);
    if (error == KA_OK && sends && len) {
        if (bytes && (owner == NULL || len <= KA_COPY_MAX)) {
            error = put_copy(talk, bytes, len);
        } else {
            ka_buf *buf = bytes ? ka_buf_refer(pool, bytes, len, owner) : ka_buf_refer_file(pool, fd, off, len, owner);
            error = buf ? KA_OK : KA_ENOMEM;
            if (buf) {
                append(talk, buf);
                talk->unsent += len;
                owner = NULL; /* the buffer's */
            }
        }
    }
    if (error == KA_OK)
        error = put_copy(talk, after, after_len);
    if (error == KA_OK && !more)
        talk->exchange.has_response = 1;
    if (error < 0 && talk->exchange.has_request && !talk->exchange.has_response)
        ka_talk_done(talk); /* half a promise cannot be mended */
    else if (error == KA_OK)
        attend(talk);
    if (owner)
        pool->release(owner); /* last: it may run arbitrary code */
    return error;
}

int ka_talk_content(ka_talk *talk, const char *bytes, size_t len, int more, void *owner)
{
    return put_content(talk, bytes, -1, 0, len, more, owner);
}

int ka_talk_file(ka_talk *talk, int fd, int64_t off, size_t len, int more, void *owner)
{
    return put_content(talk, NULL, fd, off, len, more, owner);
}

int ka_talk_trailers(ka_talk *talk, const char *lines, size_t len)
{
    static const char last_chunk[] = "0\r\n";
    if (!talk->exchange.has_request || talk->exchange.has_response || len == 0 ||
        talk->exchange.reply.frame != KA_FRAME_CHUNKED)
        return put_content(talk, NULL, -1, 0, 0, 0, NULL);
    int error = put_copy(talk, last_chunk, sizeof last_chunk - 1);
    if (error == KA_OK)
        error = put_copy(talk, lines, len);
    if (error == KA_OK)
        error = put_copy(talk, "\r\n", 2);
    if (error < 0) {
        ka_talk_done(talk);
        return error;
    }
    talk->exchange.reply.is_over = talk->exchange.has_response = 1;
    attend(talk);
    return KA_OK;
}

void ka_talk_done(ka_talk *talk)
{
    if (!talk->exchange.has_request || talk->exchange.has_response)
        return;
    talk->exchange.has_response = 1;
    talk->is_cut = talk->exchange.reply.is_started &&
                   !talk->exchange.is_tunnel; /* what the client has must look incomplete */
    end_with(talk, talk->exchange.is_tunnel ? KA_CAUSE_UPGRADED : KA_CAUSE_APPLICATION);
    attend(talk);
}

void ka_talk_rest(ka_talk *talk)
{
    talk->n_pushed = KA_PUSH_MAX;
    talk->exchange.is_held = 1;
    attend(talk);
}

int ka_talk_interim(ka_talk *talk, const char *bytes, size_t len)
{
    if (talk->exchange.reply.is_started || talk->exchange.has_response) {
        talk->exchange.reply.why = "an interim response must come before the final one (RFC 9110 15.2)";
        return KA_EINVAL;
    }
    int error = put_copy(talk, bytes, len);
    if (error == KA_OK)
        attend(talk);
    return error;
}

int ka_talk_refuse(ka_talk *talk, unsigned status, const char *text, ka_cause cause, int64_t now)
{
    static const ka_verdict closes = {.sends_close = 1};
    size_t len = strlen(text);
    ka_reply *reply = &talk->exchange.reply;
    (void)now;
    if (reply->is_started || talk->exchange.has_response || talk->is_draining ||
        (talk->is_last && !talk->exchange.has_request))
        return KA_EINVAL;            /* the last response is there, or a part of one */
    if (!talk->exchange.has_request) /* a head that could not be read */
        *reply = (ka_reply){.minor = 1};
    char *at = reserve(talk, KA_REPLY_FIXED + talk->service->common.extra_len + len);
    char *start = at;
    if (at == NULL)
        return KA_ENOMEM;
    *reply = (ka_reply){.minor = reply->minor, .is_head = reply->is_head};
    (void)ka_reply_start(reply, &at, status);
    static const char type[] = "text/plain; charset=utf-8";
    (void)ka_reply_field(reply, &at, "content-type", 12, type, sizeof type - 1);
    (void)ka_reply_choose_frame(reply, (int64_t)len + 1);
    ka_reply_finish_head(reply, &at, &closes, &talk->service->common);
    if (!reply->is_head) {
        memcpy(at, text, len);
        at[len] = '\n';
        at += len + 1;
    }
    reply->is_over = 1;
    reply->n_content = (int64_t)len + 1;
    wrote(talk, (size_t)(at - start));
    end_with(talk, cause);
    talk->cause = (uint8_t)cause;
    talk->needs_linger = 1;
    talk->exchange.has_response = 1;
    const ka_application *app = &talk->service->app;
    if (app->on_refused && talk->exchange.owner == NULL && cause != KA_CAUSE_APPLICATION)
        app->on_refused(app->ctx, talk);
    attend(talk);
    return KA_OK;
}
