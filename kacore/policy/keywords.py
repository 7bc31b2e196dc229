"""The fields of a policy as keywords, for type checkers and editors. Made by tests/unit/test_editors.py."""

from __future__ import annotations

from typing import Literal, TypedDict


class PolicyFields(TypedDict, total=False):
    """What Policy() takes, and whatever changes one."""

    keep_alive: bool
    keep_alive_timeout: float | Literal['auto']
    keep_alive_min: float
    keep_alive_max: float
    max_keep_alive_requests: int
    advertise: bool
    advertise_margin: float
    max_connection_age: float
    age_jitter: float
    handshake_timeout: float
    first_byte_timeout: float
    request_header_timeout: float
    request_body_timeout: float
    min_request_body_rate: int
    send_timeout: float
    min_send_rate: int
    rate_window: float
    handler_timeout: float
    linger_timeout: float
    linger_time: float
    linger_bytes: int
    max_connections: int
    max_connections_per_client: int
    client_prefix_v4: int
    client_prefix_v6: int
    client_share: float
    min_idle_before_evict: float
    min_rate_when_full: int
    max_buffer_bytes: int
    max_response_buffer: int
    pressure_start: float
    pressure_full: float
    when_full: Literal["wait", "reject"]
    retry_after: int
    max_head_bytes: int
    max_target_bytes: int
    max_headers: int
    max_header_bytes: int
    max_chunk_line_bytes: int
    max_trailer_bytes: int
    max_body_bytes: int
    drain_lame_duck: float
    drain_grace: float
    drain_spread: float
    drain_timeout: float
