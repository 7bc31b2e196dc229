"""What goes wrong between the server and a whole network of clients: logged once per network, with what to change.

A request that crossed our close of an idle connection was written before our FIN could be seen, and is lost; a proxy turns
it into a 502. The cure is always that the client gives up idle connections before we do.

A trusted proxy that does not send the PROXY header which it is expected to send gets no answer at all.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from kacore.policy import Policy

# Networks that are remembered as told; when they are more, the first are told again.
MAX_NETWORKS = 1024


class OncePerNetwork:
    """line_every: seconds between two lines at least."""

    line_every = 0.0

    def __init__(self, policy: Policy, logger: logging.Logger) -> None:
        self.policy = policy
        self._logger = logger
        self._told: dict[str, None] = {}
        self._next = 0.0

    def warn(self, address: bytes | str | None, text: str) -> None:
        """text: with a place for the network."""
        network, now = self.network_of(address), time.monotonic()
        if network in self._told or now < self._next:
            return
        self._next = now + self.line_every
        while len(self._told) >= MAX_NETWORKS:
            del self._told[next(iter(self._told))]
        self._told[network] = None
        self._logger.warning(f"{text} (logged once per network)", network)

    def network_of(self, address: bytes | str | None) -> str:
        """As the table groups clients: client_prefix_v4 and client_prefix_v6."""
        import ipaddress  # 1 ms, and most servers never need it

        if address is None:
            return "a unix socket"
        host = ipaddress.ip_address(address)
        if isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped is not None:
            host = host.ipv4_mapped
        prefix = self.policy.client_prefix_v4 if host.version == 4 else self.policy.client_prefix_v6
        return str(ipaddress.ip_network((host, prefix), strict=False)) if prefix < host.max_prefixlen else str(host)


class RaceLog(OncePerNetwork):
    """Callable as the engine's on_race(address, cause)."""

    def __call__(self, address: bytes | None, cause: str) -> None:
        text = "a request from %s was lost: it crossed the server's close of its idle connection; "
        self.warn(address, text + self.advice(cause).replace("%", "%%"))

    def advice(self, cause: str) -> str:
        if cause == "drain":
            return f"raise drain_grace ({self.policy.drain_grace:g} s) above the time its connections are idle"
        if isinstance(self.policy.keep_alive_timeout, str):
            return f"from now on they are kept for up to keep_alive_max ({self.policy.keep_alive_max:g} s)"
        return (
            f"raise keep_alive_timeout ({self.policy.keep_alive_timeout:g} s) above its own idle timeout, "
            "or have it close idle connections sooner"
        )


class HeaderlessLog(OncePerNetwork):
    """Callable as the engine's on_closed(address, cause, phase, requests), for a server that expects PROXY headers."""

    line_every = 1.0  # with `*` trusted anybody can come from any number of networks

    def __call__(self, client: tuple[str, int] | None, cause: str, phase: str, requests: int) -> None:
        # Before the header nothing has been read: who is closed for bad bytes in these phases did not send one.
        if cause == "bad_request" and phase in ("new", "handshake") and not requests:
            self.warn(client and client[0], "a connection from %s did not begin with a PROXY header and was closed: " + CURE)


CURE = (
    "have the proxy send one (HAProxy's send-proxy), drop --proxy-protocol, or remove the address from"
    " --forwarded-allow-ips if it is not a proxy"
)


def both(*calls: Any) -> Any:
    """Of functions that may be None: one that calls the others; None when there is none."""
    given = [call for call in calls if call is not None]
    if len(given) < 2:
        return given[0] if given else None

    def call_all(*arguments: Any) -> None:
        for call in given:
            call(*arguments)

    return call_all
