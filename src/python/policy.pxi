# kacore.Policy as the C core wants it. Read by attribute name: the compiled module imports no policy.
# Whoever holds a ka_table (ConnectionTable, the engine) fills it here and nowhere else.
from libc.math cimport ceil
from libc.stdint cimport INT64_MAX
from libc.string cimport memset


cdef int64_t duration_ns(object policy, str name) except -1:
    """A field in seconds, rounded up: nothing ends early, and no limit that is set becomes none."""
    cdef double seconds = getattr(policy, name)
    if not 0 <= seconds <= 1e9:
        raise ValueError(f"{name}={seconds!r}: must be between 0 and 1e9 seconds")
    return <int64_t>ceil(seconds * 1e9)


cdef uint32_t count_of(object policy, str name) except? 0xffffffff:
    cdef object value = getattr(policy, name)
    return <uint32_t>min(max(value, 0), 0xfffffffe)


cdef int fill_policy(object policy, ka_policy *out) except -1:
    """What one class of connections is allowed. policy: a kacore.Policy, or None for the defaults of the core."""
    if policy is None:
        out[0] = ka_policy_default
        return 0
    memset(out, 0, sizeof(ka_policy))
    out.timeout_ns[<int>KA_HANDSHAKE] = duration_ns(policy, "handshake_timeout")
    out.timeout_ns[<int>KA_NEW] = duration_ns(policy, "first_byte_timeout")
    out.timeout_ns[<int>KA_HEAD] = duration_ns(policy, "request_header_timeout")
    out.timeout_ns[<int>KA_BODY] = duration_ns(policy, "request_body_timeout")
    out.timeout_ns[<int>KA_BUSY] = duration_ns(policy, "handler_timeout")
    out.timeout_ns[<int>KA_WRITE] = duration_ns(policy, "send_timeout")
    out.timeout_ns[<int>KA_IDLE] = KA_AUTO
    if policy.keep_alive_timeout != "auto":
        out.timeout_ns[<int>KA_IDLE] = duration_ns(policy, "keep_alive_timeout")
    out.timeout_ns[<int>KA_LINGER] = duration_ns(policy, "linger_timeout")
    out.rate_window_ns = duration_ns(policy, "rate_window")
    out.min_body_rate = count_of(policy, "min_request_body_rate")
    out.min_send_rate = count_of(policy, "min_send_rate")
    out.max_age_ns = duration_ns(policy, "max_connection_age")
    out.age_jitter_permille = <uint32_t>(<double>policy.age_jitter * 1000 + 0.5)
    out.max_requests = count_of(policy, "max_keep_alive_requests")
    out.linger_bytes = count_of(policy, "linger_bytes")
    out.linger_time_ns = duration_ns(policy, "linger_time")
    out.advertise_margin_ns = duration_ns(policy, "advertise_margin")
    out.max_body_bytes = policy.max_body_bytes or INT64_MAX
    out.keep_alive = bool(policy.keep_alive)
    out.advertise = bool(policy.advertise)
    return 0


cdef int fill_capacity(object policy, ka_capacity *out) except -1:
    """What the whole table is allowed. policy: as for fill_policy."""
    cdef double share
    if policy is None:
        out[0] = ka_capacity_default
        return 0
    memset(out, 0, sizeof(ka_capacity))
    out.max_connections = count_of(policy, "max_connections")
    out.max_per_client = count_of(policy, "max_connections_per_client")
    share = <double>policy.client_share * out.max_connections
    out.client_share = <uint32_t>share if share >= 1 else 1
    out.prefix_v4 = policy.client_prefix_v4
    out.prefix_v6 = policy.client_prefix_v6
    out.rejects_when_full = policy.when_full == "reject"
    out.keep_alive_min_ns = duration_ns(policy, "keep_alive_min")
    out.keep_alive_max_ns = duration_ns(policy, "keep_alive_max")
    out.min_idle_before_evict_ns = duration_ns(policy, "min_idle_before_evict")
    out.pressure_start = policy.pressure_start
    out.pressure_full = policy.pressure_full
    out.retry_after_s = policy.retry_after
    out.min_rate_when_full = count_of(policy, "min_rate_when_full")
    return 0


cdef object default_of(object policy):
    """The Policy whose capacity counts: of a PolicySet its default."""
    return getattr(policy, "default", policy)


cdef int set_policies(ka_table *table, object policy) except -1:
    """Give a table its capacity and its classes: class 0 is the default, n the n-th rule of a PolicySet. All others are
    the default, too: connections may still be in them, from an earlier call.

    Return: the number of classes. Nothing has changed when it raises: ValueError from reading the policy.
    """
    cdef ka_capacity capacity
    cdef ka_policy filled[64]
    cdef unsigned n = 0, k
    for one in getattr(policy, "policies", (policy,)):
        if n == KA_N_CLASSES:
            raise ValueError(f"a policy set may have at most {KA_N_CLASSES} classes")
        fill_policy(one, &filled[n])
        n += 1
    fill_capacity(default_of(policy), &capacity)
    if ka_table_set_capacity(table, &capacity) != KA_OK:
        raise ValueError(f"max_connections={capacity.max_connections}, keep_alive_min or a pressure limit is out of range")
    for k in range(n, <unsigned>KA_N_CLASSES):
        filled[k] = filled[0]
    for k in range(<unsigned>KA_N_CLASSES):
        if ka_table_set_policy(table, k, &filled[k]) != KA_OK:
            raise ValueError(f"class {k} of the policy has a value out of range")
    return n


cdef object make_policy = None  # what makes a policy of fields


def make_policies_by(make):
    """kacore.Policy, or what is to take its place in ConnectionTable(keep_alive_timeout=5)."""
    global make_policy
    make_policy = make


cdef object policy_with(object policy, dict fields):
    """A Policy (of a PolicySet: its default) with some fields changed."""
    if policy is None:
        return make_policy(**fields)
    return policy.replace_default(**fields) if hasattr(policy, "replace_default") else policy.replace(**fields)
