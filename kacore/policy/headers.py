"""The response fields about persistence, and the fields that must not reach HTTP/2.

For hosts without a connection table. Inside the engine the same words are chosen by ka_conn, from the
connection's own count and the current timeout.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import AnyStr

# RFC 9110 section 7.6.1 names them, RFC 9113 section 8.2.2 and RFC 9114 section 4.2 forbid them.
CONNECTION_SPECIFIC = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))


def persistence_fields(http_version: str, responses: int, limit: int, promised: float) -> list[tuple[bytes, bytes]]:
    """See `Policy.response_fields`. limit: how many responses the connection gets; 0 = any number. promised: seconds that
    Keep-Alive may name; below 1 it names none."""
    major, dot, minor = http_version.partition(".") if isinstance(http_version, str) else ("", "", "")
    if major not in ("1", "2", "3") or (dot and not minor.isdecimal()) or (major == "1" and not dot):
        raise ValueError(f"http_version={http_version!r}: must be '1.0', '1.1', '2' or '3'")
    if responses < 1:
        raise ValueError(f"responses={responses!r}: must be at least 1, this response is counted")
    if major != "1":
        return []
    if limit and responses >= limit:
        return [(b"connection", b"close")]
    if promised >= 1:
        parameters = b"timeout=%d" % int(promised) + (b", max=%d" % (limit - responses) if limit else b"")
        return [(b"connection", b"keep-alive"), (b"keep-alive", parameters)]
    # RFC 9112 section 9.3: HTTP/1.1 persists unsaid, HTTP/1.0 only when both sides say so.
    return [(b"connection", b"keep-alive")] if minor == "0" else []


def strip_connection_fields(fields: Iterable[tuple[AnyStr, AnyStr]]) -> list[tuple[AnyStr, AnyStr]]:
    """The fields that may be sent on HTTP/2 and HTTP/3: without the connection-specific ones.

    fields: (name, value) pairs of bytes or of str, names in any case.
    Return: the others in their order. Dropped are Connection, Keep-Alive, Proxy-Connection,
            Transfer-Encoding, Upgrade, every field that a Connection field names, and TE unless it says just
            "trailers".
    Cost:   O(fields). Source: RFC 9113 section 8.2.2, RFC 9110 section 7.6.1.
    """
    pairs = list(fields)
    dropped = set(CONNECTION_SPECIFIC)
    for name, value in pairs:
        if plain(name) == b"connection":
            dropped.update(plain(option) for option in value.split("," if isinstance(value, str) else b","))
    return [
        (name, value)
        for name, value in pairs
        if plain(name) not in dropped and (plain(name) != b"te" or plain(value) == b"trailers")
    ]


def plain(text: str | bytes) -> bytes:
    raw = text.encode("latin-1", "replace") if isinstance(text, str) else text
    return raw.strip(b" \t").lower()
