"""kacore: HTTP keep-alive connections, held cheaply and closed in time."""

from typing import TYPE_CHECKING, Any

from kacore._core import (
    ClientGone,
    ConnectionTable,
    EndOfMessage,
    Head,
    KacoreError,
    Limits,
    LocalError,
    PeerError,
    Request,
    RequestParser,
    Response,
    Stream,
    Upgrade,
    make_policies_by,
    parse_head,
    parse_parts,
)
from kacore._version import __version__
from kacore.errors import UsageError
from kacore.policy import Policy, PolicyError, PolicySet, Rule, strip_connection_fields

if TYPE_CHECKING:
    from kacore.server import TLS as TLS
    from kacore.server import Server as Server
    from kacore.server import run as run
    from kacore.server import serving as serving

__all__ = [
    "TLS",
    "ClientGone",
    "ConnectionTable",
    "EndOfMessage",
    "Head",
    "KacoreError",
    "Limits",
    "LocalError",
    "PeerError",
    "Policy",
    "PolicyError",
    "PolicySet",
    "Request",
    "RequestParser",
    "Response",
    "Rule",
    "Server",
    "Stream",
    "Upgrade",
    "UsageError",
    "__version__",
    "get_include",
    "parse_head",
    "parse_parts",
    "run",
    "serving",
    "strip_connection_fields",
]

make_policies_by(Policy)


def get_include() -> str:
    """The directory of the core's C headers and sources, for programs that use it without Python: parser, framing,
    table, conversation. In a source tree that is src/core/. Source: docs/embedding-c.md."""
    import os

    here = os.path.dirname(os.path.abspath(__file__))
    installed = os.path.join(here, "include")
    return installed if os.path.isdir(installed) else os.path.join(os.path.dirname(here), "src", "core")


def __getattr__(name: str) -> Any:
    """Server is imported when it is asked for: who embeds the parser or the table need not load asyncio."""
    if name in ("TLS", "Server", "run", "serving"):
        from kacore import server

        return getattr(server, name)
    raise AttributeError(f"module 'kacore' has no attribute {name!r}")
