"""TLS settings of a server: certificates in, one ssl.SSLContext out, made anew when the files have changed.

A connection keeps the context it was opened with: reloading changes what the next ones get and closes none.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from kacore._tls_extension import describe
from kacore.errors import UsageError

if TYPE_CHECKING:
    from kacore.config.options import ServeOptions

ClientCertificates = Literal["none", "optional", "required"]
CLIENT_CERTIFICATES: dict[str, ssl.VerifyMode] = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
Path = str | os.PathLike[str]


class TLS:
    """The TLS settings of a server.

    certfile:     PEM file with the certificate and the intermediate ones up to a root.
    keyfile:      PEM file with its private key; default: in certfile. password: passphrase of the private key, if it has one.
    ca_certs:     PEM file with the roots that client certificates are verified against.
    client_certs: "none", "optional" or "required"; default: "required" with ca_certs, else "none".
    ciphers:      cipher suites of TLS 1.2, in OpenSSL's syntax (`openssl ciphers`); default: the library's.
    names:        by server name (SNI, any case, "*.example.org" for one label), (certfile, keyfile or None) of its own.
                  A client that names none of them gets certfile.
    Raises UsageError for files that cannot be read or do not fit together.
    """

    def __init__(
        self,
        certfile: Path,
        keyfile: Path | None = None,
        *,
        password: str | None = None,
        ca_certs: Path | None = None,
        client_certs: ClientCertificates | None = None,
        ciphers: str | None = None,
        names: Mapping[str, tuple[Path, Path | None]] | None = None,
    ) -> None:
        if client_certs is not None and client_certs not in CLIENT_CERTIFICATES:
            raise UsageError(f"client_certs={client_certs!r}: must be none, optional or required")
        if client_certs in ("optional", "required") and ca_certs is None:
            raise UsageError(f"client_certs={client_certs!r}: requires ca_certs")
        self.certfile, self.keyfile, self.password, self.ca_certs = certfile, keyfile, password, ca_certs
        self.ciphers = ciphers
        self.protocols = ["http/1.1"]  # by ALPN, the best first
        self.client_certs = client_certs or ("none" if ca_certs is None else "required")
        self.names = {name.lower().rstrip("."): files for name, files in (names or {}).items()}
        self.context = self._make()

    def reload(self) -> None:
        """Read the files again; new connections use what they contain. UsageError, and nothing changes, if they
        cannot be used."""
        self.context = self._make()

    def offer_http2(self, *, is_asked: bool = True) -> None:
        """Agree on HTTP/2 with clients that know it. is_asked: by the user; makes no difference here."""
        self.protocols = ["h2", "http/1.1"]
        for context in (self.context, *self._by_name.values()):
            context.set_alpn_protocols(self.protocols)

    def _make(self) -> ssl.SSLContext:
        context = self._context_for(self.certfile, self.keyfile, take_context())
        self._by_name = {
            name: self._context_for(*files, Context(ssl.PROTOCOL_TLS_SERVER)) for name, files in self.names.items()
        }
        if self.names:
            context.sni_callback = chooser(self._by_name)
        return context

    def describe(self, tls: ssl.SSLObject) -> dict[str, Any]:
        """What ASGI's extension "tls" says of a connection whose handshake is done."""
        return describe(tls)

    def _context_for(self, certfile: Path, keyfile: Path | None, context: Context) -> Context:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION
        make_strict(context)
        context.set_alpn_protocols(self.protocols)
        if self.ciphers is not None:
            try:
                context.set_ciphers(self.ciphers)
            except ssl.SSLError:
                raise UsageError(f"ciphers={self.ciphers!r}: OpenSSL knows no cipher suite of that name") from None
        try:
            # Without a password a locked key is an error, never a question at the terminal.
            context.load_cert_chain(certfile, keyfile, password=self.password or "")
            context.server_cert = first_certificate(certfile)
            if self.ca_certs is not None:
                context.load_verify_locations(self.ca_certs)
        except ssl.SSLError as error:
            raise UsageError(f"TLS with {self._files(certfile, keyfile)}: {error.reason or error}") from None
        except OSError as error:
            raise UsageError(f"TLS with {self._files(certfile, keyfile)}: {error.strerror or error}") from None
        context.verify_mode = CLIENT_CERTIFICATES[self.client_certs]
        return context

    def _files(self, certfile: Path, keyfile: Path | None) -> str:
        return ", ".join(os.fspath(file) for file in (certfile, keyfile, self.ca_certs) if file is not None)


def make_strict(context: ssl.SSLContext) -> None:
    """What no context of ours may do, and none that we are given: it is changed in place.

    To take FIN for the peer's word that all has come would hide a truncation (RFC 8446 6.1); some builds of Python set that
    in every context. A renegotiation costs as much as a handshake, and is asked for by the client (RFC 5246 7.2.2: we may
    decline it)."""
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    context.options |= ssl.OP_NO_RENEGOTIATION


class FixedTLS:
    """A context that somebody else made, as it is but for make_strict()."""

    def __init__(self, context: ssl.SSLContext) -> None:
        make_strict(context)
        self.context = context

    def reload(self) -> None:
        """Nothing to do: the owner of the context loads certificates into it."""

    def offer_http2(self, *, is_asked: bool) -> None:
        """As of TLS. What a context offers is its owner's to say, unless we are asked to."""
        if is_asked:
            self.context.set_alpn_protocols(["h2", "http/1.1"])

    def describe(self, tls: ssl.SSLObject) -> dict[str, Any]:
        """As TLS.describe, but without the server's certificate, which the context does not reveal."""
        return describe(tls)


class Context(ssl.SSLContext):
    """Knows the certificate that it shows (PEM), which the library does not tell."""

    server_cert: str | None = None


# What a ticket was encrypted with belongs to the context in which its handshake began. OpenSSL makes up those keys with the
# context, and ssl does not let us set them: for workers to resume each other's sessions, their contexts are copies of one.
_shared: Context | None = None


def share_tickets() -> None:
    """In the parent of workers, before it forks them: what they load their certificates into. Again: with new keys."""
    global _shared
    _shared = Context(ssl.PROTOCOL_TLS_SERVER)


def take_context() -> Context:
    """What share_tickets() made, once in each process; else a new one."""
    global _shared
    context, _shared = _shared, None
    return context or Context(ssl.PROTOCOL_TLS_SERVER)


def first_certificate(path: Path) -> str | None:
    """Of a PEM file: the server's own, RFC 8446 4.4.2."""
    with open(path, encoding="latin-1") as file:
        found = re.search("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", file.read(), re.DOTALL)
    return found[0] if found else None


def chooser(contexts: Mapping[str, ssl.SSLContext]) -> Callable[[ssl.SSLObject, str | None, ssl.SSLContext], None]:
    """An sni_callback: the context of the name, or of "*." and what follows its first label (RFC 9525 6.3)."""

    def choose(tls: ssl.SSLObject, name: str | None, _default: ssl.SSLContext) -> None:
        if name is None:
            return
        name = name.lower().rstrip(".")
        chosen = contexts.get(name) or contexts.get("*." + name.partition(".")[2])
        if chosen is not None:
            tls.context = chosen

    return choose


def from_options(options: ServeOptions) -> TLS | None:
    """From the ssl_ options of the command. None: no TLS is asked for. UsageError."""
    if options.ssl_certfile is None:
        return None
    return TLS(
        options.ssl_certfile,
        options.ssl_keyfile,
        password=options.ssl_keyfile_password,
        ca_certs=options.ssl_ca_certs,
        client_certs=options.ssl_client_certs,
        ciphers=options.ssl_ciphers,
        names=dict(options.ssl_sni),
    )
