"""Requests that crossed our close of an idle connection: told once for each client network, with what to change.

Such a request was written before our FIN could be seen, and is lost; a proxy turns it into a 502. The cure is always
that the client gives up idle connections before we do.
"""

from __future__ import annotations

import logging

from kacore.policy import Policy

# Networks that are remembered as told; when they are more, the first are told again.
MOST_NETWORKS = 1024


class RaceLog:
    """Callable as the engine's on_race(address, cause)."""

    def __init__(self, policy: Policy, logger: logging.Logger) -> None:
        self.policy = policy
        self._logger = logger
        self._told: dict[str, None] = {}

    def __call__(self, address: bytes | None, cause: str) -> None:
        network = self.network_of(address)
        if network in self._told:
            return
        while len(self._told) >= MOST_NETWORKS:
            del self._told[next(iter(self._told))]
        self._told[network] = None
        self._logger.warning(
            "a request from %s crossed our close of its idle connection and was lost: %s (told once per network)",
            network,
            self.advice(cause),
        )

    def network_of(self, address: bytes | None) -> str:
        """As the table groups clients: client_prefix_v4 and client_prefix_v6."""
        import ipaddress  # 1 ms, and most servers never need it

        if address is None:
            return "a unix socket"
        host = ipaddress.ip_address(address)
        if isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped is not None:
            host = host.ipv4_mapped
        prefix = self.policy.client_prefix_v4 if host.version == 4 else self.policy.client_prefix_v6
        return str(ipaddress.ip_network((host, prefix), strict=False)) if prefix < host.max_prefixlen else str(host)

    def advice(self, cause: str) -> str:
        if cause == "drain":
            return f"raise drain_grace ({self.policy.drain_grace:g} s) above the time its connections are idle"
        return (
            f"raise keep_alive_timeout ({self.policy.keep_alive_timeout:g} s) above its own idle timeout, "
            "or have it close idle connections sooner"
        )
