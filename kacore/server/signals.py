"""Signals besides those that end a server, and what the first process of a container owes to the others.

Whoever sends SIGUSR1 to a server wants its log files opened again (logrotate), also while it starts. An application that
takes one of these signals itself, by signal.signal() or faulthandler.register(), keeps it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from functools import partial

from kacore.server import logs

IGNORED = tuple(getattr(signal, name) for name in ("SIGUSR2", "SIGWINCH") if hasattr(signal, name))  # Windows has neither
# What would end a process that has not yet said what to do with them.
DEADLY = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))


def survive() -> None:
    """Before the application is loaded, and in a new worker: what comes now is ignored, not deadly."""
    for number in DEADLY:
        if signal.getsignal(number) == signal.SIG_DFL and not is_caught(number):
            signal.signal(number, signal.SIG_IGN)


def is_caught(number: int) -> bool:
    """Whether somebody handles it in this process; faulthandler does so past the signal module. False where the system
    does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            line = next(line for line in status if line.startswith("SigCgt:"))
    except (OSError, StopIteration):
        return False
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


def handle(loop: asyncio.AbstractEventLoop, logger: logging.Logger) -> list[signal.Signals]:
    """Handle SIGUSR1 and those that are ignored. Return: which ones, for loop.remove_signal_handler."""
    told: set[int] = set()
    calls: dict[signal.Signals, Callable[[], None]] = {number: partial(ignore, number, told, logger) for number in IGNORED}
    calls[signal.SIGUSR1] = partial(reopen, logger)
    taken = [number for number in calls if not is_caught(number)]
    for number in taken:
        loop.add_signal_handler(number, calls[number])
    return taken


def reopen(logger: logging.Logger) -> None:
    """SIGUSR1."""
    n = logs.reopen_files()
    logger.info("SIGUSR1: %s", f"reopened {n} log file{'s' * (n > 1)}" if n else "no log file to reopen")


def ignore(number: int, told: set[int], logger: logging.Logger) -> None:
    """One line for each: a terminal sends SIGWINCH with every pixel."""
    if number not in told:
        told.add(number)
        logger.info("ignoring %s", signal.Signals(number).name)


# -- the first process of a container -----------------------------------------------------------------------------


def serve_below_init() -> None:
    """As process 1, leave its duties to a parent that does nothing else, and go on as its child.

    Process 1 inherits every process whose parent is gone, and only a wait() takes a dead one off the list. We cannot
    wait for any process, since the exit status of one that the application started is the application's. Elsewhere, and
    with a service manager that wants to hear from its own child, nothing happens.
    """
    if os.getpid() != 1 or os.environ.get("NOTIFY_SOCKET"):
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    child = os.fork()
    if child:
        os._exit(be_init(child))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def be_init(child: int) -> int:
    """Pass signals on, bury the dead, and end with the child. Return: its status, as a shell tells it."""
    while True:
        received = signal.sigwaitinfo(signal.valid_signals())
        if received.si_signo != signal.SIGCHLD:
            # What the kernel sends is the terminal's, and the child has got it, too: the same signal twice means "now".
            if received.si_code <= 0:
                os.kill(child, received.si_signo)
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return 1  # somebody else has waited for the child
            if pid == 0:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
