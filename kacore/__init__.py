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
    parse_parts,
)
from kacore._version import __version__

__all__ = [
    "EndOfMessage",
    "Head",
    "KacoreError",
    "Limits",
    "LocalError",
    "PeerError",
    "RequestParser",
    "__version__",
    "parse_head",
    "parse_parts",
]
