"""The part of a policy that the parser keeps to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kacore.policy import Policy

if TYPE_CHECKING:
    from kacore._core import Limits
    from kacore.policy import PolicySet


def limits_of(policies: Policy | PolicySet) -> Limits:
    """The Limits that `policies` ask for: of a PolicySet its default's, but content as long as any class allows, since
    each request is judged by its own class once that is known."""
    if isinstance(policies, Policy):
        return policies.limits()
    bodies = [policy.max_body_bytes for policy in policies.policies]
    return policies.default.replace(max_body_bytes=max(bodies) if all(bodies) else 0).limits()
