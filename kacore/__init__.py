"""kacore: HTTP keep-alive connections, held cheaply and closed in time."""

from kacore._core import KacoreError, LocalError
from kacore._version import __version__

__all__ = ["KacoreError", "LocalError", "__version__"]
