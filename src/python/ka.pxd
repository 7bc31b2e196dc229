# The extern declarations of the C core, for the .pxi files of kacore._core. No Python object here.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

ctypedef void (*ka_release)(void *owner) noexcept  # out here, since what stands below may be called without the GIL


cdef extern from "ka_base.h" nogil:
    enum:
        KA_OK
        KA_PARTIAL
        KA_ENOMEM
        KA_EINVAL
        KA_ESTALE
        KA_EFULL
        KA_ECLIENT
        KA_ESLOW
        KA_EPEER

    ctypedef struct ka_span:
        uint32_t off
        uint32_t len


cdef extern from "http/ka_head.h" nogil:
    enum:
        KA_MAX_FIELDS
        KA_FAULT_NONE
        KA_FAULT_INCOMPLETE
        KA_HEAD_KEEP_ALIVE
        KA_HEAD_CHUNKED
        KA_HEAD_HAS_LENGTH
        KA_HEAD_EXPECTS_CONTINUE
        KA_HEAD_UPGRADE
        KA_HEAD_IS_HEAD
        KA_HEAD_IS_CONNECT
        KA_HEAD_IS_H2
        KA_TARGET_ORIGIN
        KA_TARGET_ABSOLUTE
        KA_TARGET_AUTHORITY
        KA_TARGET_ASTERISK

    ctypedef enum ka_fault_code:
        pass

    ctypedef struct ka_fault:
        uint16_t code
        uint16_t status
        uint64_t offset
        uint64_t limit

    ctypedef struct ka_limits:
        uint32_t max_head_bytes
        uint32_t max_target_bytes
        uint32_t max_headers
        uint32_t max_header_bytes
        uint32_t max_chunk_line_bytes
        uint32_t max_trailer_bytes
        int64_t max_body_bytes

    const ka_limits ka_limits_default

    ctypedef struct ka_field:
        ka_span name
        ka_span value

    ctypedef struct ka_head:
        uint32_t nbytes
        uint32_t n_fields
        ka_span method
        ka_span target
        ka_span host
        ka_span path
        ka_span query
        int64_t content_length
        uint16_t flags
        uint8_t minor
        uint8_t target_form

    const char *ka_fault_name(unsigned code)
    const char *ka_fault_text(unsigned code)
    int ka_simd_select(const char *name)
    const char *ka_simd_name()
    const char *ka_simd_at(unsigned i)
    int ka_fault_set(ka_fault *fault, ka_fault_code code, uint64_t offset, uint64_t limit)
    int ka_head_parse(const char *buf, size_t len, uint32_t *checked, const ka_limits *limits,
                      ka_head *head, ka_field *fields, ka_fault *fault)


cdef extern from "http/ka_body.h" nogil:
    ctypedef struct ka_body:
        int64_t left
        int64_t n_content
        uint64_t consumed

    enum:
        KA_BODY_NEEDS
        KA_BODY_DATA
        KA_BODY_END

    void ka_body_init(ka_body *body, const ka_head *head)
    int ka_body_next(ka_body *body, const char *buf, size_t len, const ka_limits *limits,
                     size_t *nbytes, ka_span *piece, ka_fault *fault)
    int ka_body_trailers(const char *buf, size_t len, const ka_limits *limits, ka_field *fields)
    bint ka_body_is_over(const ka_body *body)
    bint ka_trailer_is_forbidden(const char *name, size_t len)


cdef extern from "http/ka_scan.h" nogil:
    bint ka_equals_lower(const char *p, const char *lower, size_t n)
    void ka_lower_copy(char *to, const char *from_, size_t n)
    int ka_names_init()
    uint32_t ka_name_count()
    const char *ka_name_at(uint32_t i)
    uint32_t ka_name_len(uint32_t i)
    int ka_name_find(const char *name, uint32_t n)


cdef extern from "table/ka_phase.h" nogil:
    ctypedef uint64_t ka_handle

    ctypedef enum ka_phase:
        KA_FREE
        KA_HANDSHAKE
        KA_NEW
        KA_HEAD
        KA_BODY
        KA_BUSY
        KA_WRITE
        KA_IDLE
        KA_LINGER
        KA_TUNNEL
        KA_N_PHASES

    ctypedef enum ka_cause:
        KA_CAUSE_NONE
        KA_CAUSE_CLIENT
        KA_CAUSE_APPLICATION
        KA_CAUSE_EVICTED
        KA_CAUSE_UPGRADED
        KA_CAUSE_BUFFER_LIMIT
        KA_CAUSE_HANDLER_TIMEOUT
        KA_CAUSE_CLIENT_LIMIT
        KA_CAUSE_BAD_REQUEST
        KA_CAUSE_REJECTED
        KA_CAUSE_DRAIN
        KA_CAUSE_ERROR
        KA_N_CAUSES

    enum:
        KA_N_CLASSES
        KA_N_BUCKETS
        KA_N_STATUS_CLASSES

    ctypedef struct ka_counters:
        uint64_t accepted
        uint64_t requests
        uint64_t reused
        uint64_t closed[1]  # KA_N_CAUSES
        uint64_t idle_gap[1]  # KA_N_BUCKETS
        uint64_t idle_left[1]
        uint64_t requests_per_connection[1]  # KA_N_BUCKETS
        uint64_t races
        uint64_t responses[1]  # KA_N_STATUS_CLASSES
        uint64_t received
        uint64_t sent
        uint64_t first_byte[1]  # KA_N_BUCKETS
        uint64_t duration[1]  # KA_N_BUCKETS
        uint64_t first_byte_sum
        uint64_t duration_sum
        uint64_t tls_handshakes
        uint64_t tls_resumed
        uint64_t tls_failed

    void ka_count_response(ka_counters *counters, unsigned status)
    const char *ka_phase_name(unsigned phase)
    const char *ka_cause_name(unsigned cause)
    uint64_t ka_bucket_edge(unsigned bucket)


cdef extern from "table/ka_table.h" nogil:
    ctypedef struct ka_table:
        pass

    enum:
        KA_AUTO

    ctypedef struct ka_policy:
        int64_t timeout_ns[1]  # KA_N_PHASES
        int64_t rate_window_ns
        uint32_t min_body_rate
        uint32_t min_send_rate
        int64_t max_age_ns
        uint32_t age_jitter_permille
        uint32_t max_requests
        uint32_t linger_bytes
        int64_t linger_time_ns
        int64_t advertise_margin_ns
        int64_t max_body_bytes
        uint8_t keep_alive
        uint8_t advertise

    ctypedef struct ka_capacity:
        uint32_t max_connections
        uint32_t max_per_client
        uint32_t client_share
        uint8_t prefix_v4
        uint8_t prefix_v6
        uint8_t rejects_when_full
        int64_t keep_alive_min_ns
        int64_t keep_alive_max_ns
        int64_t min_idle_before_evict_ns
        double pressure_start
        double pressure_full
        uint32_t retry_after_s
        uint32_t min_rate_when_full

    ctypedef enum ka_action:
        KA_DO_NOTHING
        KA_DO_CLOSE
        KA_DO_ANSWER_408
        KA_DO_ANSWER_503
        KA_DO_HALF_CLOSE
        KA_DO_GOAWAY

    const ka_policy ka_policy_default
    const ka_capacity ka_capacity_default

    int ka_table_new(ka_table **out, const ka_capacity *capacity, uint64_t hash_seed, ka_counters *counters)
    void ka_table_free(ka_table *t)
    int ka_table_set_policy(ka_table *t, unsigned policy_class, const ka_policy *policy)
    int ka_table_set_capacity(ka_table *t, const ka_capacity *capacity)
    const ka_capacity *ka_table_capacity(const ka_table *t)
    void ka_table_refused(ka_table *t, ka_cause cause)
    ka_action ka_table_due(ka_table *t, int64_t now, ka_handle *h, ka_cause *cause)
    int64_t ka_table_next_due(ka_table *t)
    ka_handle ka_table_victim(ka_table *t, int64_t now)
    void ka_table_drain(ka_table *t, int64_t now, int64_t grace_ns, int64_t spread_ns, int64_t deadline_ns)
    bint ka_table_is_draining(const ka_table *t)
    ka_handle ka_table_handle(const ka_table *t, uint32_t slot)
    uint32_t ka_table_open_count(const ka_table *t)
    uint32_t ka_table_phase_count(const ka_table *t, ka_phase phase)
    bint ka_table_is_full(const ka_table *t)
    bint ka_table_is_drained(const ka_table *t)
    size_t ka_table_bytes(const ka_table *t)
    const char *ka_table_check(const ka_table *t)


cdef extern from "table/ka_conn.h" nogil:
    ctypedef struct ka_client:
        uint8_t family
        uint8_t addr[16]
        uint8_t is_proxy

    ctypedef enum ka_event:
        KA_EV_HANDSHAKE_DONE
        KA_EV_RECEIVED
        KA_EV_HEAD_DONE
        KA_EV_BODY_WANTED
        KA_EV_BODY_ARRIVED
        KA_EV_BLOCKED
        KA_EV_UNBLOCKED
        KA_EV_RESPONDED
        KA_EV_LINGERING
        KA_EV_TUNNELLED
        KA_EV_STREAM_OPENED
        KA_EV_STREAM_CLOSED

    ctypedef struct ka_verdict:
        uint8_t keeps
        uint8_t sends_close
        uint8_t sends_keep_alive
        uint8_t cause
        uint32_t timeout_s
        uint32_t max

    const ka_policy *ka_conn_policy(const ka_table *t, ka_handle h)
    int ka_conn_open(ka_table *t, int64_t now, unsigned policy_class, const ka_client *client, int is_tls, ka_handle *out)
    int ka_conn_event(ka_table *t, ka_handle h, ka_event event, int64_t now)
    int ka_conn_progress(ka_table *t, ka_handle h, size_t nbytes, int64_t now, ka_cause *cause)
    int ka_conn_touch(ka_table *t, ka_handle h, int64_t now)
    int ka_conn_set_class(ka_table *t, ka_handle h, unsigned policy_class)
    int ka_conn_phase(const ka_table *t, ka_handle h)
    int ka_conn_class(const ka_table *t, ka_handle h)
    uint32_t ka_conn_requests(const ka_table *t, ka_handle h)
    int ka_conn_decide(ka_table *t, ka_handle h, unsigned minor, int client_persists, ka_cause must_close,
                       int64_t now, ka_verdict *out)
    int ka_conn_close(ka_table *t, ka_handle h, ka_cause cause, int64_t now)
    bint ka_conn_crossed(ka_table *t, ka_handle h)
    int ka_conn_will_end(ka_table *t, ka_handle h, ka_cause cause)
    ka_cause ka_conn_ending(const ka_table *t, ka_handle h)


cdef extern from "table/ka_known.h" nogil:
    enum:
        KA_LEARNED_AGREED
        KA_LEARNED_RACED
        KA_LEARNED_RACED_BEFORE
        KA_SETTLED_AFTER

    ctypedef struct ka_learned:
        uint32_t theirs_ms[2]
        uint32_t ours_ms[2]
        uint32_t began_s
        uint32_t since_s
        uint16_t n_theirs
        uint16_t n_ours
        uint16_t n_races
        uint8_t rung
        uint8_t marks

    ctypedef struct ka_known:
        ka_client client
        uint32_t n_open
        int64_t kept_ns
        ka_learned learned

    bint ka_known_next(const ka_table *t, int64_t now, uint32_t *at, ka_known *out)
    uint32_t ka_known_busiest(const ka_table *t, ka_known *out, uint32_t room)
    int ka_known_of(const ka_table *t, ka_handle h, ka_known *out)
    int ka_known_take(ka_table *t, int64_t now, const ka_known *known)
    bint ka_known_settled(ka_table *t, ka_known *out)
    uint32_t ka_learned_theirs_ms(const ka_learned *of)


cdef extern from "http/ka_reply.h" nogil:
    ctypedef struct ka_reply:
        int64_t n_content
        const char *why
        uint16_t status
        uint8_t minor
        uint8_t is_head
        uint8_t is_started
        uint8_t is_over

    ctypedef struct ka_reply_common:
        pass

    void ka_reply_common_set_date(ka_reply_common *common, int64_t unix_seconds)
    int ka_reply_common_set_server(ka_reply_common *common, const char *value, size_t len)
    int ka_reply_reword(ka_reply *reply, char **at, const char *reason, size_t len)
    const char *ka_reply_reason(unsigned status)
    int ka_reply_line(ka_reply *reply, char **at, const char *name, size_t name_len, const char *value,
                      size_t value_len)
    int ka_reply_field(ka_reply *reply, char **at, const char *name, size_t name_len, const char *value,
                       size_t value_len)


cdef extern from "talk/ka_buf.h" nogil:
    ctypedef struct ka_buf:
        ka_buf *next
        const char *ptr
        void *owner
        size_t start
        size_t end
        int64_t file_off
        int fd

    ctypedef enum ka_use:
        KA_USE_INPUT
        KA_USE_OUTPUT

    ctypedef struct ka_pool:
        size_t lent_bytes
        size_t held_bytes
        size_t kept_bytes
        size_t refused
        size_t max_bytes

    size_t ka_pool_used(const ka_pool *pool)
    int ka_pool_hold(ka_pool *pool, ka_use use, size_t nbytes)
    void ka_pool_let_go(ka_pool *pool, size_t nbytes)
    bint ka_pool_is_tight(const ka_pool *pool)


cdef extern from "talk/ka_exchange.h" nogil:
    enum:
        KA_OUT_HIGH
        KA_OUT_LOW
        KA_COPY_MAX
        KA_WHOLE_UNKNOWN
        KA_WHOLE_TUNNEL

    ctypedef struct ka_talk

    ctypedef struct ka_exchange:
        ka_talk *talk
        void *owner
        uint16_t head_flags
        uint8_t is_h2

    const char *ka_exchange_protocol(const ka_exchange *x, size_t *n)
    bint ka_exchange_is_open(const ka_exchange *x)
    bint ka_exchange_is_over(const ka_exchange *x)
    bint ka_exchange_is_tunnel(const ka_exchange *x)
    bint ka_exchange_is_started(const ka_exchange *x)
    bint ka_exchange_is_http_1_0(const ka_exchange *x)
    unsigned ka_exchange_status(const ka_exchange *x)
    int64_t ka_exchange_n_content(const ka_exchange *x)
    const char *ka_exchange_why(const ka_exchange *x)
    ka_handle ka_exchange_conn(const ka_exchange *x)
    ka_cause ka_exchange_cause(const ka_exchange *x)
    bint ka_exchange_sees_fin(const ka_exchange *x)
    bint ka_exchange_is_draining(const ka_exchange *x)
    size_t ka_exchange_unsent(const ka_exchange *x)
    const char *ka_exchange_head_bytes(const ka_exchange *x)

    ptrdiff_t ka_exchange_read(ka_exchange *x, char *to, size_t cap, int64_t now)
    size_t ka_exchange_readable(const ka_exchange *x)
    bint ka_exchange_body_is_over(const ka_exchange *x)
    bint ka_exchange_is_eof(const ka_exchange *x)
    const char *ka_exchange_peek(const ka_exchange *x, size_t *n)
    int ka_exchange_head_begin(ka_exchange *x, unsigned status, size_t field_bytes, char **at)
    int ka_exchange_reword(ka_exchange *x, char **at, const char *reason, size_t n)
    int ka_exchange_field(ka_exchange *x, char **at, const char *name, size_t name_len, const char *value,
                          size_t value_len)
    int ka_exchange_head_end(ka_exchange *x, char *at, int64_t whole, int64_t now)
    int ka_exchange_content(ka_exchange *x, const char *bytes, size_t n, bint more, void *owner)
    int ka_exchange_file(ka_exchange *x, int fd, int64_t off, size_t n, bint more, void *owner)
    int ka_exchange_line(ka_exchange *x, char **at, const char *name, size_t name_len, const char *value,
                         size_t value_len)
    int ka_exchange_trailers(ka_exchange *x, const char *lines, size_t n)
    int ka_exchange_interim(ka_exchange *x, unsigned status, const char *lines, size_t n)
    bint ka_exchange_holds(ka_exchange *x)
    bint ka_exchange_awaits_low(ka_exchange *x)
    bint ka_exchange_awaits_empty(ka_exchange *x)
    void ka_exchange_rest(ka_exchange *x)
    void ka_exchange_done(ka_exchange *x, ka_cause cause)
    int ka_exchange_refuse(ka_exchange *x, unsigned status, const char *text, ka_cause cause, int64_t now)


cdef extern from "talk/ka_talk.h" nogil:
    enum:
        KA_READ_AHEAD
        KA_READ_MAX
        KA_READ_BEHIND

    ctypedef enum ka_news:
        KA_NEWS_BODY
        KA_NEWS_LOW
        KA_NEWS_DRAIN
        KA_NEWS_EOF

    ctypedef enum ka_notice:
        KA_NOTICE_DESCRIPTORS

    ctypedef struct ka_application:
        void *ctx
        void (*on_request)(void *ctx, ka_exchange *x, const ka_head *head, const ka_field *fields) noexcept
        void (*on_news)(void *ctx, ka_exchange *x, ka_news news) noexcept
        void (*on_lost)(void *exchange) noexcept
        void (*release)(void *owner) noexcept
        void (*on_refused)(void *ctx, ka_exchange *x) noexcept
        void (*on_closed)(void *ctx, ka_handle conn, ka_cause cause) noexcept
        void (*on_race)(void *ctx, ka_handle conn, ka_cause cause) noexcept
        void (*on_settled)(void *ctx, const ka_known *network) noexcept
        unsigned (*class_of_client)(void *ctx, unsigned listener, const ka_client *client) noexcept
        unsigned (*class_of_request)(void *ctx, ka_exchange *x, const ka_head *head, const ka_field *fields) noexcept
        void (*on_wake)(void *ctx) noexcept
        void (*on_notice)(void *ctx, ka_notice what) noexcept

    enum:
        KA_NOTED
        KA_LATER

    ctypedef struct ka_talk_list:
        uint32_t n

    ctypedef struct ka_h2
    ctypedef struct ka_h2_service:  # ka_h2.h
        uint32_t n_connections
        uint32_t n_open

    ctypedef struct ka_service:
        ka_table *table
        ka_counters *counters
        ka_application app
        ka_pool pool
        ka_reply_common common
        ka_limits limits
        ka_field *fields
        ka_talk_list *lists
        ka_h2_service *h2
        uint32_t n_talks
        uint8_t asks_clients
        uint8_t asks_requests

    ctypedef enum ka_persistence:
        KA_PERSISTS

    ctypedef struct ka_talk:
        ka_service *service
        uint8_t persistence
        ka_handle conn
        ka_h2 *h2
        const char *window
        size_t window_len
        ka_buf *out
        ka_exchange exchange
        size_t unsent
        uint8_t cause
        uint8_t is_driven
        uint8_t is_noted
        uint8_t is_filtered
        int32_t outq

    ka_talk *ka_talk_new(ka_service *service, ka_handle conn)
    void ka_talk_free(ka_talk *talk)
    void ka_talk_arrived(ka_talk *talk, const char *bytes, size_t len)
    size_t ka_talk_appetite(const ka_talk *talk)
    char *ka_talk_room(ka_talk *talk, size_t want, size_t *room)
    void ka_talk_filled(ka_talk *talk, size_t nbytes)
    void ka_talk_sent(ka_talk *talk, size_t nbytes)
    int ka_talk_park(ka_talk *talk)
    int ka_service_set_fields(ka_service *service, const char *lines, uint32_t len, bint sends_date)
    bint ka_talk_is_eof(const ka_talk *talk)
    bint ka_talk_sees_fin(const ka_talk *talk)
    bint ka_talk_is_cut(const ka_talk *talk)
    bint ka_talk_needs_reset(const ka_talk *talk)


cdef extern from "sys/uio.h" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len


cdef extern from "talk/ka_h2.h" nogil:
    ctypedef struct ka_h2_options:
        uint32_t max_streams
        uint32_t window
        uint32_t max_window

    const ka_h2_options ka_h2_options_default
    int ka_h2_enable(ka_service *service, const ka_h2_options *options)


cdef extern from "talk/ka_filter.h" nogil:
    enum:
        KA_WIRE_RECORD
        KA_TLS_ALERT_MAX

    ctypedef struct ka_session:
        const ka_filter *filter
        void *owner
        const char *out
        size_t out_len
        size_t n_covered
        uint8_t is_empty
        uint8_t has_more
        uint8_t is_abusive
        uint8_t is_h2

    ctypedef struct ka_filter:
        ka_session *(*open)(void *ctx) noexcept
        int (*feed)(ka_session *session, const char *bytes, size_t len) noexcept
        int (*shake)(ka_session *session) noexcept
        ptrdiff_t (*read)(ka_session *session, char *to, size_t room) noexcept
        int (*write)(ka_session *session, const iovec *iov, int n) noexcept
        void (*sent)(ka_session *session, size_t nbytes) noexcept
        void (*shut)(ka_session *session) noexcept
        void (*close)(ka_session *session) noexcept

    int ka_filter_encrypt(ka_session *session, const ka_talk *talk)


cdef extern from "table/ka_trust.h" nogil:
    ctypedef struct ka_network:
        uint8_t family
        uint8_t bits
        uint8_t addr[16]

    ctypedef struct ka_trust:
        uint8_t expects_proxy

    ctypedef struct ka_peer:
        uint8_t addr[16]
        uint16_t port
        uint8_t is_trusted

    int ka_trust_set(ka_trust *trust, const ka_network *networks, uint32_t n, bint expects_proxy)
    void ka_trust_free(ka_trust *trust)
    bint ka_trusts(const ka_trust *trust, unsigned family, const uint8_t *addr)
    void ka_addr_pack(uint8_t *to, unsigned family, const uint8_t *addr)
    unsigned ka_addr_unpack(const uint8_t *packed, uint8_t *addr)


cdef extern from "talk/ka_driver.h" nogil:
    enum:
        KA_NO_MAX
        KA_TURN_OUTPUT
        KA_READ_COST

    ctypedef enum ka_how:
        KA_CLOSE
        KA_CLOSE_CUT
        KA_CLOSE_RESET

    ctypedef struct ka_moves:
        ptrdiff_t (*receive)(ka_driver *d, void *peer, ka_talk *talk) noexcept
        ka_cause (*flush)(ka_driver *d, void *peer, ka_talk *talk) noexcept
        bint (*saw_fin)(ka_driver *d, void *peer, ka_talk *talk) noexcept
        bint (*can_read)(ka_driver *d, void *peer) noexcept
        bint (*can_send)(ka_driver *d, void *peer) noexcept
        bint (*has_unread)(ka_driver *d, void *peer, ka_talk *talk) noexcept
        void *(*peer_of)(ka_driver *d, ka_handle conn) noexcept
        ka_talk **(*talk_of)(void *peer) noexcept
        void (*turn)(ka_driver *d, ka_handle conn, void *peer) noexcept
        void (*attend)(ka_driver *d, ka_handle conn, void *peer) noexcept
        void (*again)(ka_driver *d, ka_handle conn, void *peer) noexcept
        void (*look)(ka_driver *d, ka_handle conn, void *peer, int phase) noexcept
        int (*queued)(ka_driver *d, void *peer) noexcept
        void (*shut)(ka_driver *d, ka_handle conn, void *peer) noexcept
        int (*send_fin)(ka_driver *d, ka_handle conn, void *peer) noexcept
        void (*linger)(ka_driver *d, ka_handle conn, void *peer) noexcept
        void (*close)(ka_driver *d, ka_handle conn, void *peer, ka_cause cause, ka_how how) noexcept
        void (*say_no)(ka_driver *d, void *peer) noexcept
        int64_t (*clock)(ka_driver *d) noexcept
        void (*wake)(ka_driver *d) noexcept
        int (*set_timer)(ka_driver *d, int64_t at) noexcept

    ctypedef struct ka_driver:
        ka_service service
        ka_trust trust
        void *owner
        int64_t now
        int64_t armed_ns
        size_t turn_bytes
        uint8_t keeps_all

    int ka_driver_init(ka_driver *d, ka_table *table, const ka_limits *limits, size_t max_buffer_bytes,
                       const ka_application *app, const ka_moves *moves)
    void ka_driver_free(ka_driver *d)
    void ka_driver_arm(ka_driver *d, int64_t at)
    void ka_driver_expire(ka_driver *d)
    void ka_driver_attend(ka_driver *d)
    void ka_driver_again(ka_driver *d, ka_handle conn, void *peer, ka_talk *talk)
    void ka_driver_take_turns(ka_driver *d, uint32_t n)
    int ka_driver_open(ka_driver *d, unsigned policy_class, const ka_client *client, bint is_tls, ka_handle *conn)
    void ka_driver_relieve(ka_driver *d)
    char *ka_driver_room_behind(ka_driver *d, ka_talk *talk, size_t want, size_t *room)
    size_t ka_driver_no(const ka_driver *d, char *text)
    int ka_driver_introduce(ka_driver *d, ka_handle conn, const char *bytes, size_t len, ka_peer *who)
    void ka_driver_turn_away(ka_driver *d, ka_handle conn, void *peer, int got)
    void ka_driver_close(ka_driver *d, ka_handle conn, ka_cause cause)
    void ka_driver_close_all(ka_driver *d, ka_cause cause)
    void ka_driver_half_close(ka_driver *d, ka_handle conn, void *peer, ka_cause cause)
    bint ka_driver_discarded(ka_driver *d, ka_handle conn, void *peer, size_t nbytes, size_t least)
    void ka_driver_drain(ka_driver *d, int64_t grace_ns, int64_t spread_ns, int64_t deadline_ns)


cdef extern from "talk/ka_turn.h" nogil:
    ctypedef enum ka_turned:
        KA_TURN_ON
        KA_TURN_PAUSE
        KA_TURN_ENDED

    ka_turned ka_turn_arrived(ka_driver *d, void *peer, ka_talk *talk, size_t nbytes)
    ka_cause ka_turn_broken(int phase)
    bint ka_turn_is_cut_short(const ka_talk *talk)
    void ka_turn_fin(ka_driver *d, ka_talk *talk)
    void ka_turn_eof(ka_driver *d, ka_talk *talk)
    ka_cause ka_turn_left(ka_driver *d, ka_talk *talk, size_t nbytes)
    bint ka_turn_agreed_h2(const ka_moves *moves, ka_driver *d, ka_handle conn, void *peer)
    bint ka_turn_has_talk(const ka_moves *moves, ka_driver *d, ka_handle conn, void *peer)
    char *ka_turn_room(ka_driver *d, ka_talk *talk, char *scratch, size_t *room)
    void ka_turn_took(ka_talk *talk, const char *scratch, const char *to, size_t nbytes)
    void ka_turn(const ka_moves *moves, ka_driver *d, void *peer, ka_talk *talk)
    void ka_turn_push(const ka_moves *moves, ka_driver *d, void *peer, ka_talk *talk)
    void ka_turn_attend(const ka_moves *moves, ka_driver *d, void *peer, ka_talk *talk)


cdef extern from "ka_engine.h" nogil:
    ctypedef struct ka_engine:
        pass

    ctypedef struct ka_engine_counters:
        pass

    int ka_engine_new(ka_engine **out, ka_table *table, const ka_limits *limits, size_t max_buffer_bytes,
                      const ka_application *app)
    void ka_engine_free(ka_engine *e)
    int ka_engine_fileno(const ka_engine *e)
    ka_driver *ka_engine_driver(ka_engine *e)
    int ka_engine_listen(ka_engine *e, int fd, unsigned policy_class, bint knows_clients)
    int ka_engine_adopt(ka_engine *e, unsigned listener, int fd)
    int ka_engine_give_away(ka_engine *e, ka_handle conn)
    ka_session *ka_engine_session(ka_engine *e, ka_handle conn)
    int ka_engine_set_filter(ka_engine *e, unsigned listener, const ka_filter *filter, void *ctx)
    void ka_engine_unlisten(ka_engine *e, int fd, bint is_last)
    void ka_engine_stop_listening(ka_engine *e)
    int ka_listener_refuse(int fd)
    uint64_t ka_process()
    int ka_engine_step(ka_engine *e)
    enum:
        KA_WAITED_STEP
        KA_WAITED_HOST
    int ka_engine_watch_host(ka_engine *e, int fd)
    int ka_engine_wait(ka_engine *e, int64_t until_ns)
    void ka_engine_attend(ka_engine *e)
    void ka_engine_push(ka_engine *e, ka_talk *talk)
    void ka_engine_wake(ka_engine *e)
    void ka_engine_close(ka_engine *e, ka_handle conn, ka_cause cause)
    void ka_engine_close_all(ka_engine *e, ka_cause cause)
    void ka_engine_drain(ka_engine *e, int64_t grace_ns, int64_t spread_ns, int64_t deadline_ns)
    int64_t ka_engine_now(ka_engine *e)
    int64_t ka_engine_read_clock()
    bint ka_engine_is_stepping(const ka_engine *e)
    bint ka_engine_is_inside(const ka_engine *e)
    int ka_engine_peer(ka_engine *e, ka_handle conn, uint8_t *addr, uint16_t *port, unsigned *listener)
    int ka_engine_is_trusted(ka_engine *e, ka_handle conn)
    int ka_engine_fd(ka_engine *e, ka_handle conn)
    const ka_engine_counters *ka_engine_stats(const ka_engine *e)
