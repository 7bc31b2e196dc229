"""Limits of websockets, apart from the code that serves them: that needs a library which may not be installed."""

from __future__ import annotations

from dataclasses import dataclass

from kacore.server.loading import UsageError


@dataclass(frozen=True)
class WebSocketOptions:
    """What a websocket may take.

    max_size:      bytes of one message, uncompressed; a longer one closes with 1009.
    ping_interval: seconds between pings; 0 = none, and a client that vanished is noticed when something is sent to it.
    ping_timeout:  seconds until a client that has answered no ping is gone (1011); 0 = never.
    per_message_deflate: compress messages when the client offers it (RFC 7692).
    Raises UsageError for what cannot be.
    """

    max_size: int = 16 * 1024 * 1024
    ping_interval: float = 20.0
    ping_timeout: float = 20.0
    per_message_deflate: bool = True

    def __post_init__(self) -> None:
        if self.max_size < 1:
            raise UsageError(f"ws_max_size={self.max_size}: must be at least 1 byte")
        for name in ("ping_interval", "ping_timeout"):
            if not 0 <= getattr(self, name) <= 86400:
                raise UsageError(f"ws_{name}={getattr(self, name)}: must be between 0 and 86400 seconds")
