"""What ASGI's extension "tls" says of a connection: https://asgi.readthedocs.io/en/latest/specs/tls.html

Needs the ssl module alone: the sources of certificates and the transports, whose TLS is the loop's, both ask here.
"""

from __future__ import annotations

import re
import ssl
from typing import Any

VERSIONS = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
# RFC 4514 section 3; other attributes are named as OpenSSL names them.
SHORT_NAMES = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}
# RFC 4514 section 2.4: what stands behind a backslash in a value.
SPECIAL = re.compile(r'^[ #]|[",+;<>\\]| $')


def describe(tls: ssl.SSLObject) -> dict[str, Any]:
    """Of the client's certificates all that it sent, on Python 3.13 or newer; before, the first. A client whose
    certificate is wrong never gets here, so there is no error to tell."""
    leaf = tls.getpeercert(binary_form=True)
    chain: list[bytes] = [leaf] if leaf else []
    if leaf and hasattr(tls, "get_unverified_chain"):
        chain = tls.get_unverified_chain()
    name = cipher[0] if (cipher := tls.cipher()) else None
    return {
        "server_cert": getattr(tls.context, "server_cert", None),
        "client_cert_chain": [ssl.DER_cert_to_PEM_cert(certificate) for certificate in chain],
        "client_cert_name": distinguished_name(tls.getpeercert()) if leaf else None,
        "client_cert_error": None,
        "tls_version": VERSIONS.get(tls.version() or ""),
        "cipher_suite": suite_of(tls, name),
    }


SUITES: dict[str, int] = {}


def suite_of(tls: ssl.SSLObject, name: str | None) -> int | None:
    """The number of a cipher suite. Kept: to list them all costs as much as many requests."""
    if name is not None and name not in SUITES:
        SUITES.update((suite["name"], suite["id"] & 0xFFFF) for suite in tls.context.get_ciphers())
    return SUITES.get(name or "")


def distinguished_name(certificate: Any) -> str:
    """The subject as RFC 4514 writes it: the last part first."""
    parts = ["+".join(attribute(*pair) for pair in part) for part in reversed((certificate or {}).get("subject", ()))]
    return ",".join(parts)


def attribute(name: str, value: str) -> str:
    escaped = SPECIAL.sub(lambda found: "\\" + found[0], value).replace("\0", "\\00")
    return f"{SHORT_NAMES.get(name, name)}={escaped}"
