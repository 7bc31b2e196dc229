"""Where a server listens: addresses as users write them, the sockets made of them, and how a socket is given up.

A `Listener` knows whether its socket was made here or was inherited. Only one made here may be closed to newcomers at
the end; an inherited one (systemd, another process manager) goes on to listen for whoever comes after us.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import sys
from collections.abc import Iterable
from typing import Any

from kacore import _core
from kacore.server.loading import UsageError

BACKLOG = 4096  # the kernel cuts it to net.core.somaxconn
# Descriptors besides those of connections: standard streams, epoll sets, the loop's, files of the application.
DESCRIPTORS_ELSE = 64


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

    def refuse(self) -> None:
        """Let nobody new begin to connect, if it is ours; who has begun can still be accepted. Idempotent."""
        if not self.is_own or self.sock.fileno() < 0:
            return
        if self._path is not None:
            if self._inode is not None and inode(self._path) == self._inode:  # not a successor's
                os.unlink(self._path)
        elif self.sock.family != socket.AF_UNIX:
            try:
                _core.refuse_new_connections(self.sock.fileno())
            except OSError:
                pass  # then a client may come between the last accept and the close

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
    """As they are told to people: each once, http and https apart."""
    return [text.replace("http://", f"{scheme}://", 1) for text in dict.fromkeys(one.address for one in listeners)]


def parse_address(text: str) -> tuple[str, int] | str:
    """HOST:PORT, [HOST]:PORT, :PORT (all addresses) or unix:PATH -> (host, port) or the path. UsageError."""
    if text.startswith("unix:"):
        if len(text) == len("unix:"):
            raise UsageError(f"bind {text!r}: there is no path")
        return text.removeprefix("unix:")
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()):
        raise UsageError(f"bind {text!r}: must be HOST:PORT, [HOST]:PORT, :PORT or unix:PATH")
    if int(port) > 65535:
        raise UsageError(f"bind {text!r}: port {port} must be between 0 and 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UsageError(f"bind {text!r}: an IPv6 address stands in brackets, as in [::1]:8000")
    return host, int(port)


def open_listeners(
    bind: Iterable[str],
    fds: Iterable[int] = (),
    n_slots: int = 0,
    *,
    backlog: int = BACKLOG,
    uds_mode: int | None = None,
    is_alone: bool = True,
) -> list[Listener]:
    """Listen on all of them. UsageError when one cannot be had, and then none is kept.

    bind:     see parse_address. fds: descriptors that listen already.
    n_slots:  TCP addresses get a socket for each of so many worker slots; 0: one socket.
    backlog:  connections that may wait to be accepted. uds_mode: permissions of unix sockets; None: by the umask.
    is_alone: with n_slots, nobody else may listen on these addresses; else other processes of ours do.
    """
    if not 1 <= backlog <= 1 << 20:
        raise UsageError(f"backlog={backlog}: must be between 1 and {1 << 20}")
    if uds_mode is not None and not 0 <= uds_mode <= 0o777:
        raise UsageError(f"uds_mode={uds_mode:o}: must be between 0 and 777 (octal)")
    listeners: list[Listener] = []
    try:
        for address in map(parse_address, dict.fromkeys(bind)):
            if isinstance(address, str):
                listeners.append(Listener(unix_socket(address, backlog, uds_mode), is_own=True))
            else:
                listeners += tcp_listeners(*address, n_slots, backlog, is_alone)
        listeners += [Listener(inherited_socket(fd), is_own=False) for fd in dict.fromkeys(fds)]
    except BaseException:
        for listener in listeners:
            listener.refuse()
            listener.close()
        raise
    return listeners


def tcp_listeners(host: str, port: int, n_slots: int, backlog: int, is_alone: bool) -> list[Listener]:
    """On every address of `host`; with port 0 one free port for all of them."""
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
    except socket.gaierror as error:
        raise UsageError(f"host {host!r}: {error.strerror}") from None
    listeners: list[Listener] = []
    slots: list[int | None] = [*range(n_slots)] or [None]
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            if n_slots and is_alone:  # with SO_REUSEPORT a second server would go unnoticed: ask without it first
                probe = tcp_socket(family, (address[0], port, *address[2:]), backlog=None)
                address = (address[0], probe.getsockname()[1], *address[2:])
                probe.close()
            for slot in slots:
                address = (address[0], port, *address[2:]) if port else address
                sock = tcp_socket(family, address, backlog=backlog, is_shared=n_slots > 0)
                listeners.append(Listener(sock, is_own=True, slot=slot))
                port = listeners[-1].port
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise UsageError(f"cannot listen on {address[0]} port {port}: {os.strerror(error.errno or 0)}") from None
    return listeners


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
    """A socket file that nobody listens on any more is replaced; one in use, or another kind of file, is not."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.exists(path) and sock.connect_ex(path) != 0:
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                raise UsageError(f"uds {path!r}: is there already and is no socket")
            os.unlink(path)
        sock.close()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(path)
        if mode is not None:
            os.chmod(path, mode)  # before it listens, so that nobody gets in by other permissions
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise UsageError(f"cannot listen on unix socket {path!r}: {os.strerror(error.errno or 0)}") from None
    return sock


def inherited_socket(fd: int) -> socket.socket:
    """A descriptor that listens already, of systemd or another parent. UsageError when it is anything else."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise UsageError(f"fd {fd}: {os.strerror(error.errno or 0)}") from None
    is_stream = sock.type == socket.SOCK_STREAM
    if not is_stream or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        raise UsageError(f"fd {fd}: is not a listening stream socket")
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
    return max(1, soft - min(DESCRIPTORS_ELSE, soft // 4) - min(_core.MOST_WAITING, soft // 8))


def raise_descriptor_limit(n_connections: int, logger: logging.Logger) -> None:
    """Every connection is a descriptor. Raise the soft limit as far as the hard one lets us; say when it is short."""
    import resource

    needed = n_connections + DESCRIPTORS_ELSE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        logger.warning(
            "max_connections=%d needs %d descriptors, and this process may have %d (ulimit -n): idle connections will "
            "be closed for new ones before max_connections is reached",
            n_connections,
            needed,
            allowed,
        )
