"""Which proxies are trusted, as users write it: networks, "unix" for unix sockets, "*" for all."""

from __future__ import annotations

from collections.abc import Iterable

from kacore.server.loading import UsageError


def trusted_networks(given: str | Iterable[str]) -> list[str]:
    """As Engine.trust() takes them; a str is split at commas. UsageError names what is not a network."""
    import ipaddress  # 1 ms, and most servers never need it

    words = given.split(",") if isinstance(given, str) else given
    networks = [word.strip() for word in words if word.strip()]
    for word in networks:
        try:
            if word not in ("*", "unix"):
                ipaddress.ip_network(word)
        except ValueError as error:
            raise UsageError(f"forwarded_allow_ips={word!r}: {error}") from None
    return networks
