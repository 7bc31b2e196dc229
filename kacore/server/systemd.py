"""What systemd says to a service and wants to hear from it: passed sockets, notifications, the watchdog.

Sources: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3). The variables are taken out of the environment, so that
no child of the application answers in our name.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping

FIRST_FD = 3


def passed_fds(environ: MutableMapping[str, str] = os.environ) -> list[int]:
    """The listening descriptors that systemd passed to this very process; [] when it passed none."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    return list(range(FIRST_FD, FIRST_FD + int(count)))


class Notifier:
    """Tells the service manager how we are, when there is one that wants to know.

    watchdog: seconds within which it expects a keep-alive message, or None.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self._path = environ.pop("NOTIFY_SOCKET", "")
        microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        self.watchdog: float | None = None
        if self._path and microseconds.isdigit() and int(microseconds) > 0 and pid in ("", str(os.getpid())):
            self.watchdog = int(microseconds) / 1e6

    def send(self, *lines: str) -> None:
        """Never raises and never waits: a manager that does not listen must not stop the server."""
        if not self._path:
            return
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
                sock.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            logging.getLogger("kacore.error").warning("cannot notify the service manager: %s", error)

    def ready(self) -> None:
        self.send("READY=1")

    def reloading(self) -> None:
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self.send("STOPPING=1")

    def alive(self) -> None:
        self.send("WATCHDOG=1")
