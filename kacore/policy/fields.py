"""What a field of the policy says besides what every option says: who may set it, why its default is what it is, and its
name in other servers."""

from __future__ import annotations

from typing import Any

from kacore.config.fields import Field

# Who may set a field, from the fewest to the most.
WORKER = "worker"  # one number for a whole worker: only the default policy sets it
CONNECTION = "connection"  # also a rule over the listener or the client's network, which are known at accept
REQUEST = "request"  # also a rule over what the client itself writes: Host, User-Agent


class PolicyField(Field):
    def __init__(
        self,
        *kind: Any,
        scope: str = CONNECTION,
        reason: str,
        apache: str = "",
        nginx: str = "",
        haproxy: str = "",
        **option: Any,
    ) -> None:
        super().__init__(*kind, group="Policy", **option)
        self.scope = scope
        self.reason = reason  # for the default
        self.apache, self.nginx, self.haproxy = apache, nginx, haproxy  # "" where they have no such thing
