"""Where a server listens: addresses as users write them, the sockets made of them, and how a socket is given up.

A `Listener` knows whether its socket was made here or was inherited. Only one made here may be closed to newcomers at
the end; an inherited one (systemd, another process manager) goes on to listen for whoever comes after us.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import sys
from collections.abc import Iterable
from typing import Any

from kacore import _core
from kacore.config.options import BACKLOG, ServerOptions
from kacore.errors import UsageError

# Descriptors besides those of connections: standard streams, epoll sets, the loop's, files of the application.
DESCRIPTORS_ELSE = 64
# What bind() and socket() say of an address, or a family, that this machine has not.
NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
# How many free ports are tried for one that IPv4 and IPv6 both have.
PORT_ATTEMPTS = 8
MAX_UNIX_PATH = 107  # sun_path of unix(7) without its NUL

logger = logging.getLogger("kacore.error")


class Listener:
    """One listening socket.

    is_own: made by this server, so that nobody else accepts from it. slot: the worker slot that accepts from it as long
    as it is served; None: every worker does.
    """

    def __init__(self, sock: socket.socket, *, is_own: bool, slot: int | None = None) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.is_own = is_own
        self.slot = slot
        self.address = address_of(sock)
        self.port = 0 if sock.family == socket.AF_UNIX else int(sock.getsockname()[1])
        self._path = os.path.abspath(sock.getsockname()) if is_own and sock.family == socket.AF_UNIX else None
        self._inode = inode(self._path) if self._path else None

    def refuse(self) -> bool:
        """Let nobody new begin to connect, if it is ours; who has begun can still be accepted. Idempotent. Return: whether
        it is ours and open."""
        if not self.is_own or self.sock.fileno() < 0:
            return False
        if self._path is not None:
            if self._inode is not None and inode(self._path) == self._inode:  # not a successor's
                os.unlink(self._path)
        elif self.sock.family != socket.AF_UNIX:
            try:
                _core.refuse_new_connections(self.sock.fileno())
            except OSError:
                pass  # then a client may come between the last accept and the close
        return True

    def close(self) -> None:
        self.sock.close()


def inode(path: str | bytes) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def address_of(sock: socket.socket) -> str:
    """ "http://127.0.0.1:8000", "unix:/run/app.sock"."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name if isinstance(name, str) else os.fsdecode(name)}"
    host = f"[{name[0]}]" if sock.family == socket.AF_INET6 else name[0]
    return f"http://{host}:{name[1]}"


def addresses(listeners: Iterable[Listener], scheme: str) -> list[str]:
    """As they are shown to people: each once, http and https separately."""
    return [text.replace("http://", f"{scheme}://", 1) for text in dict.fromkeys(one.address for one in listeners)]


def parse_address(text: str) -> tuple[str, int] | str:
    """HOST:PORT, [HOST]:PORT, :PORT (all addresses) or unix:PATH -> (host, port) or the path. UsageError."""
    if text.startswith("unix:"):
        if len(text) == len("unix:"):
            raise UsageError(f"bind {text!r}: the path is missing")
        return text.removeprefix("unix:")
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()):
        raise UsageError(f"bind {text!r}: must be HOST:PORT, [HOST]:PORT, :PORT or unix:PATH")
    if int(port) > 65535:
        raise UsageError(f"bind {text!r}: port {port} must be between 0 and 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UsageError(f"bind {text!r}: write an IPv6 address in brackets, as in [::1]:8000")
    return host, int(port)


def open_listeners(
    bind: Iterable[str],
    fds: Iterable[int] = (),
    n_slots: int = 0,
    *,
    backlog: int = BACKLOG,
    uds_mode: int | None = None,
    reuse_port: bool = False,
) -> list[Listener]:
    """Listen on all of them. UsageError when one cannot be had, and then none is kept.

    bind:       see parse_address. fds: descriptors that listen already.
    n_slots:    TCP addresses get a socket for each of so many worker slots; 0: one socket.
    backlog:    connections that may wait to be accepted. uds_mode: permissions of unix sockets; None: by the umask.
    reuse_port: other processes of this user may listen on the same TCP addresses, if they say so, too.
    """
    fds = list(dict.fromkeys(fds))
    check_inherited(fds)  # before a socket of ours can get the number of one that is missing
    listeners: list[Listener] = []
    try:
        for address in map(parse_address, dict.fromkeys(bind)):
            if isinstance(address, str):
                listeners.append(Listener(unix_socket(address, backlog, uds_mode), is_own=True))
            else:
                listeners += tcp_listeners(*address, n_slots, backlog, reuse_port)
        listeners += [Listener(inherited_socket(fd), is_own=False) for fd in fds]
    except BaseException:
        for listener in listeners:
            listener.refuse()
            listener.close()
        raise
    return listeners


def open_listeners_of(options: ServerOptions, n_slots: int = 0) -> list[Listener]:
    """Where the options say."""
    return open_listeners(
        options.addresses(),
        options.fds,
        n_slots,
        backlog=options.backlog,
        uds_mode=options.uds_mode,
        reuse_port=options.reuse_port,
    )


def resolve(host: str, port: int) -> list[tuple[int, Any]]:
    """(family, address) of everything that `host` names; "": all of IPv4 and all of IPv6. UsageError.

    The resolver is asked about names only. It is never asked which families this machine has (AI_ADDRCONFIG): it goes
    by the interfaces that are up just now, and does not count loopback among them. bind() knows better.
    """
    if not host:
        return [(socket.AF_INET, ("0.0.0.0", port)), (socket.AF_INET6, ("::", port, 0, 0))]
    try:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise UsageError(f"host {host!r}: {error.strerror}") from None
    except UnicodeError:
        raise UsageError(f"host {host!r}: is not a valid host name") from None
    return [(family, address) for family, _, _, _, address in dict.fromkeys(found)]


def tcp_listeners(host: str, port: int, n_slots: int, backlog: int, reuse_port: bool) -> list[Listener]:
    """On every address of `host` that this machine has; with port 0 one free port for all of them."""
    found = resolve(host, port)
    for attempt in range(PORT_ATTEMPTS):
        listeners: list[Listener] = []
        absent: dict[tuple[str, int], OSError] = {}
        chosen = port
        for family, address in found:
            try:
                listeners += sockets_at(family, (address[0], chosen, *address[2:]), n_slots, backlog, reuse_port)
                chosen = listeners[-1].port
            except OSError as error:
                if error.errno in NOT_HERE and len(found) > 1:
                    absent[address[0], port] = error
                    continue
                for listener in listeners:
                    listener.close()
                if error.errno == errno.EADDRINUSE and listeners and not port and attempt + 1 < PORT_ATTEMPTS:
                    break  # the port is free for one family and not for the other: another one
                raise cannot_listen((address[0], chosen), error) from None
        else:
            if not listeners:
                raise cannot_listen(*next(iter(absent.items())))
            for (name, _), why in absent.items():
                logger.info("%s: not listening on %s: %s", host or f":{port}", name, reason(why))
            return listeners
    raise AssertionError("the last attempt returns or raises")


def cannot_listen(where: tuple[str, int], error: OSError) -> UsageError:
    return UsageError(f"cannot listen on {where[0]} port {where[1]}: {reason(error)}")


def sockets_at(family: int, address: Any, n_slots: int, backlog: int, reuse_port: bool) -> list[Listener]:
    """One socket, or one for each slot; with port 0 on the same free port. OSError, and then there is none."""
    host, port, *rest = address
    if n_slots and not reuse_port:  # with SO_REUSEPORT a second server would go unnoticed: ask without it first
        probe = tcp_socket(family, address, backlog=None)
        port = probe.getsockname()[1]
        probe.close()
    listeners: list[Listener] = []
    try:
        for slot in [*range(n_slots)] or [None]:
            sock = tcp_socket(family, (host, port, *rest), backlog=backlog, is_shared=n_slots > 0 or reuse_port)
            listeners.append(Listener(sock, is_own=True, slot=slot))
            port = listeners[-1].port
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def reason(error: OSError) -> str:
    """What went wrong, in words; not every OSError has a number."""
    return error.strerror or str(error) or type(error).__name__


def tcp_socket(family: int, address: Any, *, backlog: int | None, is_shared: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        set_inherited_options(sock)
        sock.bind(address)
        if backlog is not None:
            sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def set_inherited_options(sock: socket.socket) -> None:
    """Set once here and inherited by every connection: no system call for each."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def unix_socket(path: str, backlog: int, mode: int | None) -> socket.socket:
    """A socket file that no process listens on is replaced; one in use, or another kind of file, is not."""
    n_bytes = len(os.fsencode(path))
    if n_bytes > MAX_UNIX_PATH or "\0" in path:
        raise UsageError(f"uds {path!r}: must be at most {MAX_UNIX_PATH} bytes without NUL, and has {n_bytes}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if is_abandoned(path):
            os.unlink(path)
        sock.bind(path)
        if mode is not None:
            os.chmod(path, mode)  # before it listens, so that nobody gets in by other permissions
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise UsageError(f"cannot listen on unix socket {path!r}: {reason(error)}") from None
    except UsageError:
        sock.close()
        raise
    return sock


def is_abandoned(path: str) -> bool:
    """Whether a socket file exists and no process listens on it. UsageError for another kind of file. Does not wait for
    a holder that accepts nobody: its full queue is an answer, too."""
    if not os.path.exists(path):
        return False
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        raise UsageError(f"uds {path!r}: already exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED


def check_inherited(fds: Iterable[int]) -> None:
    """UsageError when one of the descriptors is not open, or no stream socket that listens. Changes nothing."""
    for fd in fds:
        try:
            is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
        except (OSError, OverflowError) as error:
            raise UsageError(f"fd {fd}: {reason(error) if isinstance(error, OSError) else error}") from None
        if not is_socket or not is_listening(fd):
            raise UsageError(f"fd {fd}: is not a listening stream socket")


def is_listening(fd: int) -> bool:
    sock = socket.socket(fileno=fd)
    try:
        return sock.type == socket.SOCK_STREAM and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    finally:
        sock.detach()


def inherited_socket(fd: int) -> socket.socket:
    """A descriptor that listens already, of systemd or another parent, and was checked."""
    sock = socket.socket(fileno=fd)
    os.set_inheritable(fd, False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        set_inherited_options(sock)
    return sock


def most_connections() -> int:
    """How many can be open in a process that cannot close one for want of a descriptor, with room for newcomers who wait
    and for the application."""
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(1, soft - min(DESCRIPTORS_ELSE, soft // 4) - min(_core.MAX_WAITING, soft // 8))


def raise_descriptor_limit(n_connections: int, logger: logging.Logger) -> None:
    """Every connection is a descriptor. Raise the soft limit as far as the hard one lets us; say when it is short."""
    try:
        import resource
    except ImportError:  # no such limit on this platform
        return
    needed = n_connections + DESCRIPTORS_ELSE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    # macOS and BSD may say "no limit" and take less (kern.maxfilesperproc), which half as many may be.
    refused = None
    while allowed > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
            break
        except (OSError, ValueError) as error:  # a sandbox forbids it, or the system has another limit
            refused = refused or error
            allowed = max(soft, allowed // 2)
    if refused:
        logger.warning("the limit on file descriptors is %d instead of %d: %s", allowed, wanted, refused)
    if allowed < needed:
        logger.warning(
            "max_connections=%d needs %d file descriptors, but this process may open only %d (ulimit -n): idle connections "
            "will be closed to admit new ones before max_connections is reached",
            n_connections,
            needed,
            allowed,
        )
