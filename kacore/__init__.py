"""kacore: HTTP keep-alive connections, held cheaply and closed in time."""

from kacore._core import (
    EndOfMessage,
    Head,
    KacoreError,
    Limits,
    LocalError,
    PeerError,
    RequestParser,
    parse_head,
)
from kacore._version import __version__
from kacore.policy import Policy, PolicyError, PolicySet, Rule

__all__ = [
    "EndOfMessage",
    "Head",
    "KacoreError",
    "Limits",
    "LocalError",
    "PeerError",
    "Policy",
    "PolicyError",
    "PolicySet",
    "RequestParser",
    "Rule",
    "__version__",
    "parse_head",
]
