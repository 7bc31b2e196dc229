"""Keywords of `Server` and `kacore.run`: the options of serving, and what only a program can give."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from kacore.config.fields import Record, field
from kacore.config.options import RunOptions, ServerOptions
from kacore.errors import ConfigError, UsageError
from kacore.policy import Policy, PolicySet
from kacore.server.tls import TLS

if TYPE_CHECKING:
    from kacore.server.engines import Sibling
    from kacore.server.place import Worker


def is_policy(given: object) -> bool:
    return isinstance(given, Policy | PolicySet)


def is_tls(given: object) -> bool:
    return isinstance(given, TLS | ssl.SSLContext)


class Given(Record):
    __error__: ClassVar[type[ConfigError]] = UsageError

    policy: Policy | PolicySet | None = field(
        object,
        default=None,
        verify=is_policy,
        must="a kacore.Policy or kacore.PolicySet",
        sources=(),
        doc="What connections may take; None: Policy().",
    )
    tls: TLS | ssl.SSLContext | None = field(
        object,
        default=None,
        verify=is_tls,
        must="a kacore.TLS or an ssl.SSLContext",
        sources=(),
        doc="Speak TLS on every socket; see reload_certificates().",
    )
    sockets: Iterable[socket.socket] | None = field(
        object,
        default=None,
        convert=tuple,
        must="sockets that listen",
        sources=(),
        doc="Listening sockets, in place of bind, host, port, uds and fds. They may be other processes', too.",
    )


class ServerKeywords(ServerOptions, Given):
    """What `Server` is made with."""

    worker: Worker | Sibling | None = field(
        object,
        default=None,
        sources=(),
        doc="The place among others, for a server that a Supervisor or Engines started.",
    )


class RunKeywords(RunOptions, Given):
    """What `kacore.run` is called with."""
