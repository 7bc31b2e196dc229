"""A TLS 1.3 client that writes its own records: key updates, empty ones, padded ones, as many as it likes.

The handshake, and what the server says, are left to the ssl module; the keys of what we say come from its key log.
"""

import hmac
import ssl
import struct
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

HANDSHAKE, APPLICATION_DATA, ALERT = 22, 23, 21
KEY_UPDATE = b"\x18\x00\x00\x01\x01"  # RFC 8446 4.6.3: and update yours
# Key's length, hash, cipher.
SUITES: dict[str, tuple[int, str, Any]] = {
    "TLS_AES_128_GCM_SHA256": (16, "sha256", AESGCM),
    "TLS_AES_256_GCM_SHA384": (32, "sha384", AESGCM),
    "TLS_CHACHA20_POLY1305_SHA256": (32, "sha256", ChaCha20Poly1305),
}


def expand(secret: bytes, label: bytes, size: int, digest: str) -> bytes:
    """HKDF-Expand-Label of RFC 8446 7.1, for one block of output."""
    full = b"tls13 " + label
    info = struct.pack("!HB", size, len(full)) + full + b"\x00"
    return hmac.digest(secret, info + b"\x01", digest)[:size]


class HostileClient:
    """sock: connected. keylog: a path that nobody else writes to."""

    def __init__(self, sock: Any, cafile: str, keylog: Path) -> None:
        context = ssl.create_default_context(cafile=cafile)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.keylog_filename = str(keylog)
        self.sock = context.wrap_socket(sock, server_hostname="localhost")
        self.suite = SUITES[self.sock.cipher()[0]]  # type: ignore[index]
        lines = [line.split() for line in keylog.read_text().splitlines()]
        self._use(next(bytes.fromhex(line[2]) for line in lines if line[0] == "CLIENT_TRAFFIC_SECRET_0"))

    def _use(self, secret: bytes) -> None:
        size, digest, cipher = self.suite
        self.secret, self.n_sent = secret, 0
        self.cipher = cipher(expand(secret, b"key", size, digest))
        self.iv = expand(secret, b"iv", 12, digest)

    def record(self, content: bytes, kind: int = APPLICATION_DATA, padding: int = 0) -> bytes:
        """RFC 8446 5.2."""
        inner = content + bytes([kind]) + bytes(padding)
        head = struct.pack("!BHH", APPLICATION_DATA, 0x0303, len(inner) + 16)
        nonce = bytes(a ^ b for a, b in zip(self.iv, self.n_sent.to_bytes(12), strict=True))
        self.n_sent += 1
        return head + bytes(self.cipher.encrypt(nonce, inner, head))

    def key_update(self) -> bytes:
        """And what is said after it has the next keys."""
        record = self.record(KEY_UPDATE, HANDSHAKE)
        _, digest, _ = self.suite
        self._use(expand(self.secret, b"traffic upd", len(self.secret), digest))
        return record

    def send(self, raw: bytes) -> None:
        """Records, as they are."""
        view = memoryview(raw)
        while view:
            view = view[self._socket_send(view) :]

    def _socket_send(self, view: memoryview) -> int:
        # Past the ssl module, which would encrypt it.
        import socket

        return socket.socket.send(self.sock, view)  # type: ignore[arg-type]
