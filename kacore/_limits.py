"""The part of a policy that the parser keeps to."""

from __future__ import annotations

from kacore._core import Limits
from kacore.policy import Policy


def limits_of(policy: Policy) -> Limits:
    """The Limits that `policy` asks for."""
    names = ("head_bytes", "target_bytes", "headers", "header_bytes", "chunk_line_bytes", "trailer_bytes")
    return Limits(
        max_body_bytes=policy.max_body_bytes or None,
        **{f"max_{name}": getattr(policy, f"max_{name}") for name in names},
    )
