"""kacore: HTTP keep-alive connections, held cheaply and closed in time."""

from kacore._core import KacoreError, LocalError
from kacore._version import __version__
from kacore.policy import Policy, PolicyError, PolicySet, Rule, strip_connection_fields

__all__ = [
    "KacoreError",
    "LocalError",
    "Policy",
    "PolicyError",
    "PolicySet",
    "Rule",
    "__version__",
    "strip_connection_fields",
]
