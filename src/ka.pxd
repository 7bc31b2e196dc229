# The extern declarations of the C core, for the .pxi files of kacore._core. No Python object here.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


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


cdef extern from "ka_head.h" nogil:
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


cdef extern from "ka_body.h" nogil:
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


cdef extern from "ka_scan.h" nogil:
    bint ka_equals_lower(const char *p, const char *lower, size_t n)
    void ka_lower_copy(char *to, const char *from_, size_t n)
    int ka_names_init()
    uint32_t ka_name_count()
    const char *ka_name_at(uint32_t i)
    uint32_t ka_name_len(uint32_t i)
    int ka_name_find(const char *name, uint32_t n)
