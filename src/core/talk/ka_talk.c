/* ka_talk.c: see ka_talk.h. The pool of talks, and the driver's side of one. */
#include "http/ka_scan.h"
#include "talk/ka_h2.h"
#include "talk/ka_talk_parts.h"

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
    service->counters = ka_table_counters(table);
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
    ka_h2_disable(service);
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
    talk->exchange.timed_at = KA_TIMED;
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

/* The application has the exchange no longer, if it still did. */
static void lose_exchange(ka_talk *talk, ka_reading reading)
{
    ka_exchange *x = &talk->exchange;
    void *owner = x->owner;
    x->owner = NULL;
    x->reading = (uint8_t)reading;
    x->wants_body = x->hold = 0;
    if (owner)
        talk->service->app.on_lost(owner);
}

/* --- whose bytes wait --- */

static void leave_ring(ka_talk *talk)
{
    ka_talk **ring = &talk->service->parked[talk->rank - 1];
    talk->rank = 0;
    if (talk->parked_next == talk) {
        *ring = NULL;
        return;
    }
    talk->parked_next->parked_prev = talk->parked_prev;
    talk->parked_prev->parked_next = talk->parked_next;
    if (*ring == talk)
        *ring = talk->parked_next;
}

void ka_talk_waits(ka_talk *talk, size_t nbytes)
{
    unsigned rank = nbytes ? ka_buf_class(nbytes) + 1 : 0;
    if (rank == talk->rank)
        return;
    if (talk->rank)
        leave_ring(talk);
    talk->rank = (uint8_t)rank;
    if (rank == 0)
        return;
    ka_talk **ring = &talk->service->parked[rank - 1], *oldest = *ring;
    if (oldest == NULL) {
        *ring = talk->parked_next = talk->parked_prev = talk;
        return;
    }
    talk->parked_next = oldest;
    talk->parked_prev = oldest->parked_prev;
    talk->parked_prev->parked_next = oldest->parked_prev = talk;
}

/* The buffer of bytes that wait, in place of the one before; NULL: none. What was in that one is the caller's to copy. */
static void set_in(ka_talk *talk, ka_buf *in)
{
    if (talk->in)
        ka_buf_give(&talk->service->pool, talk->in);
    talk->in = in;
    if (ka_unlikely(talk->h2 != NULL))
        ka_h2_waits(talk->h2);
    else
        ka_talk_waits(talk, in ? in->cap : 0);
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
    if (ka_unlikely(talk->h2 != NULL)) {
        ka_h2_free(talk->h2);
        talk->h2 = NULL;
    }
    lose_exchange(talk, KA_READING_CLOSED);
    if (ka_unlikely(talk->is_noted | talk->is_later)) {
        ka_talk_take(talk, KA_NOTED);
        ka_talk_take(talk, KA_LATER);
    }
    set_in(talk, NULL);
    ka_talk_waits(talk, 0);
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

void ka_talk_eof(ka_talk *talk) { talk->fin = KA_FIN_HERE; }

size_t ka_talk_appetite(const ka_talk *talk)
{
    const ka_exchange *x = &talk->exchange;
    const ka_limits *limits = &talk->service->limits;
    uint64_t here = talk->window_len, most = KA_READ_AHEAD;
    int is_open = ka_exchange_is_open(x);
    if (ka_unlikely(talk->h2 != NULL))
        return ka_h2_appetite(talk->h2);
    if (ka_exchange_is_tunnel(x))
        most = KA_READ_MAX;
    else if ((is_open ? x->wants_body : x->reading == KA_READING_DISCARD) && !ka_body_is_over(&x->body))
        most += (uint64_t)x->body.left + limits->max_trailer_bytes; /* which are taken whole */
    else if (!is_open && here && limits->max_head_bytes > most)
        most = limits->max_head_bytes; /* never reached: so long a head is refused */
    most = most > here ? most - here : 0;
    return most < KA_READ_MAX ? (size_t)most : KA_READ_MAX;
}

int ka_talk_drop_ahead(ka_talk *talk)
{
    const ka_exchange *x = &talk->exchange;
    int is_ahead = talk->h2               ? 0
                 : ka_exchange_is_open(x) ? !ka_exchange_is_tunnel(x) && ka_body_is_over(&x->body)
                                          : x->reading != KA_READING_DISCARD && talk->unsent > 0;
    if (!is_ahead)
        return 0;
    talk->window_len = talk->checked = 0;
    (void)ka_talk_park(talk);
    ka_talk_end_with(talk, KA_CAUSE_BUFFER_LIMIT);
    talk->persistence = KA_LINGERS;
    return 1;
}

/* --- the driver's turn --- */

/* The rest of the content is thrown away, or will be by the next turn, which ends the exchange. */
static int has_part_of_body(const ka_talk *talk)
{
    const ka_exchange *x = &talk->exchange;
    return x->reading == KA_READING_DISCARD ||
           (ka_exchange_is_over(x) && talk->persistence == KA_PERSISTS && !ka_body_is_over(&x->body));
}

/* Only a stray empty line is no beginning of a request. */
static int has_part_of_head(const ka_talk *talk)
{
    if (talk->persistence != KA_PERSISTS || talk->window_len == 0)
        return 0;
    return !(talk->window[0] == '\r' && (talk->window_len == 1 || (talk->window_len == 2 && talk->window[1] == '\n')));
}

/* The next request may come, unless there is to be none. */
static ka_reading next_or_none(ka_talk *talk)
{
    if (talk->persistence != KA_PERSISTS)
        return KA_READING_CLOSED;
    talk->exchange.writing = KA_WRITING_NOTHING;
    return KA_READING_HEAD;
}

/* The response is out of the application's hands: what remains is the rest of the request's body. */
static void end_exchange(ka_talk *talk)
{
    ka_exchange *x = &talk->exchange;
    ka_reading next;
    if (ka_unlikely(ka_exchange_is_tunnel(x))) {
        ka_talk_end_with(talk, KA_CAUSE_UPGRADED);
        talk->persistence = KA_LINGERS;
        next = KA_READING_CLOSED;
    } else if (ka_unlikely(!ka_body_is_over(&x->body))) {
        if (talk->persistence == KA_PERSISTS && !ka_h1_is_drainable(x))
            ka_talk_end_with(talk, KA_CAUSE_APPLICATION); /* the body grew past what was foreseen */
        next = talk->persistence == KA_PERSISTS ? KA_READING_DISCARD : KA_READING_CLOSED;
        if (next == KA_READING_CLOSED)
            talk->persistence = KA_LINGERS;
    } else {
        next = next_or_none(talk);
    }
    lose_exchange(talk, next);
}

/* Throw content away, as far as it is here. */
static ka_talk_step discard(ka_talk *talk)
{
    ka_exchange *x = &talk->exchange;
    const char *piece;
    size_t len;
    int got;
    do {
        got = ka_h1_next_piece(x, SIZE_MAX, &piece, &len);
    } while (got == KA_OK && len);
    if (got == KA_PARTIAL && !ka_talk_is_eof(talk))
        return KA_TALK_READ;
    if (got == KA_EPEER) { /* behind a whole response: there is nobody to tell */
        ka_talk_end_with(talk, KA_CAUSE_BAD_REQUEST);
        talk->persistence = KA_LINGERS;
    } else if (got == KA_PARTIAL) {
        ka_talk_end_with(talk, KA_CAUSE_CLIENT);
    }
    x->reading = (uint8_t)next_or_none(talk);
    return KA_TALK_WAIT; /* go on */
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

/* A whole head is here: an exchange begins. */
static ka_talk_step begin_exchange(ka_talk *talk, int64_t now, const ka_head *head)
{
    ka_exchange *x = &talk->exchange;
    ka_service *service = talk->service;
    int phase = ka_conn_phase(service->table, talk->conn);
    if (phase > KA_HEAD && phase != KA_IDLE) /* the last one is over, though it may not be sent yet */
        (void)ka_conn_event(service->table, talk->conn, KA_EV_RESPONDED, now);
    (void)ka_conn_event(service->table, talk->conn, KA_EV_HEAD_DONE, now);
    talk->checked = 0;
    talk->may_switch = (uint8_t)may_switch(talk, head);
    x->head_bytes = head->nbytes;
    x->head_flags = head->flags;
    ka_exchange_begins(x, now);
    ka_body_init(&x->body, head);
    memset(&x->reply, 0, sizeof x->reply);
    x->reply.minor = head->minor;
    x->reply.is_head = (head->flags & KA_HEAD_IS_HEAD) != 0;
    x->reply.is_connect = (head->flags & KA_HEAD_IS_CONNECT) != 0;
    x->reading = (head->flags & KA_HEAD_EXPECTS_CONTINUE) && !ka_body_is_over(&x->body) ? KA_READING_EXPECTED
                                                                                        : KA_READING_CONTENT;
    /* The head's offsets stay good: consume moves the window past it, the bytes stay where they are. */
    ka_talk_consume(talk, head->nbytes);
    if (ka_unlikely(service->asks_requests)) {
        const ka_application *app = &service->app;
        unsigned policy_class = app->class_of_request(app->ctx, x, head, service->fields);
        (void)ka_conn_set_class(service->table, talk->conn, policy_class);
    }
    const ka_policy *policy = ka_conn_policy(service->table, talk->conn);
    x->max_body = policy && policy->max_body_bytes ? policy->max_body_bytes : INT64_MAX;
    if (ka_likely(head->content_length <= x->max_body))
        return KA_TALK_REQUEST;
    ka_h1_reject(x, 413, "the content is longer than max_body_bytes", now);
    return KA_TALK_WAIT;
}

static ka_talk_step next_head(ka_talk *talk, int64_t now, ka_head *head)
{
    ka_exchange *x = &talk->exchange;
    ka_service *service = talk->service;
    if (talk->window_len) {
        if (ka_unlikely(talk->window[0] == 'P') && (talk->window_len < 3 || talk->window[2] == 'I')) {
            int is_preface = ka_h2_is_preface(talk);
            if (is_preface == KA_OK)
                return KA_TALK_HTTP2;
            if (is_preface == KA_PARTIAL && !ka_talk_is_eof(talk))
                return KA_TALK_READ;
        }
        int got = ka_head_parse(talk->window, talk->window_len, &talk->checked, &service->limits, head, service->fields,
                                &x->fault);
        if (ka_likely(got == KA_OK))
            return begin_exchange(talk, now, head);
        if (got == KA_EPEER) {
            int phase = ka_conn_phase(service->table, talk->conn);
            if (phase == KA_IDLE || phase == KA_NEW) /* begun, badly: what still comes did not cross an idle close */
                (void)ka_conn_event(service->table, talk->conn, KA_EV_RECEIVED, now);
            ka_h1_reject(x, x->fault.status, ka_fault_text(x->fault.code), now);
            return KA_TALK_WAIT;
        }
    }
    if (!ka_talk_is_eof(talk))
        return KA_TALK_READ;
    ka_talk_end_with(talk, KA_CAUSE_CLIENT);
    return KA_TALK_CLOSE;
}

ka_talk_step ka_talk_next(ka_talk *talk, int64_t now, ka_head *head)
{
    const ka_exchange *x = &talk->exchange;
    for (;;) {
        ka_talk_step step = KA_TALK_WAIT;
        if (ka_exchange_is_over(x))
            end_exchange(talk);
        if (talk->unsent > KA_OUT_HIGH && !ka_exchange_is_tunnel(x)) /* whose directions do not wait for each other */
            return KA_TALK_WAIT;
        switch (x->reading) {
        case KA_READING_HEAD:    step = next_head(talk, now, head); break;
        case KA_READING_DISCARD: step = discard(talk); break;
        case KA_READING_CLOSED:
            return ka_talk_is_eof(talk) || !(talk->persistence == KA_LINGERS || talk->window_len) ? KA_TALK_CLOSE
                                                                                                  : KA_TALK_LINGER;
        default:
            if (!x->wants_body)
                return KA_TALK_WAIT;
            return ka_h1_readable(x) || ka_h1_body_is_over(x) || ka_talk_is_eof(talk) ? KA_TALK_BODY : KA_TALK_READ;
        }
        if (step != KA_TALK_WAIT)
            return step;
    }
}

int ka_talk_is_idle(const ka_talk *talk)
{
    return talk->exchange.reading == KA_READING_HEAD && talk->unsent == 0 && talk->window_len == 0 &&
           !ka_talk_is_eof(talk) && !talk->is_later;
}

/* Whom do we wait for? */
static ka_phase phase_of(const ka_talk *talk)
{
    const ka_exchange *x = &talk->exchange;
    int is_answering = ka_exchange_is_answering(x);
    if (ka_exchange_is_tunnel(x) && is_answering) /* what is unsent at the end of a turn the client does not take */
        return talk->unsent ? KA_WRITE : KA_TUNNEL;
    if (talk->unsent > KA_OUT_HIGH || (talk->unsent && (x->hold != KA_HOLD_NOT || !is_answering)))
        return KA_WRITE;
    if (is_answering)
        return x->wants_body && !ka_h1_readable(x) ? KA_BODY : KA_BUSY;
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
    if (to == KA_IDLE && talk->persistence != KA_PERSISTS)
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
    talk->service->counters->sent += nbytes;
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
