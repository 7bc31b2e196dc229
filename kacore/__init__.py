"""kacore: HTTP keep-alive connections, held cheaply and closed in time."""

from kacore._core import KacoreError, LocalError
from kacore._version import __version__
from kacore.policy import Policy, PolicyError

__all__ = ["KacoreError", "LocalError", "Policy", "PolicyError", "__version__"]
