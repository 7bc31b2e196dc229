"""The file that says which process the server is, for as long as it runs.

Made by us alone (no symlink is followed, nothing is overwritten), after the addresses were had, so that a second start
that fails changes nothing. At the end only a file that is still ours is deleted.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from kacore.errors import UsageError

# No pid is longer. More is not read of a file that is not ours.
MAX_TEXT = 64


@contextlib.contextmanager
def pid_file(path: str | None) -> Iterator[None]:
    """Inside, the file says our pid; None: no file. UsageError when it says that of another process which runs, or is
    no such file. OSError when it cannot be written."""
    pid = os.getpid()
    if path is None:
        yield
        return
    written = write(path, pid)
    try:
        yield
    finally:
        if os.getpid() == pid and is_ours(path, written, pid):  # not in a worker, who comes out of the same call
            with contextlib.suppress(OSError):
                os.unlink(path)


def write(path: str, pid: int) -> tuple[int, int]:
    """Return: device and inode."""
    remove_left_over(path, pid)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise UsageError(f"pid {path!r}: another process has just written it") from None
    with open(fd, "w", encoding="ascii") as file:
        file.write(f"{pid}\n")
        made = os.fstat(fd)
    return made.st_dev, made.st_ino


def remove_left_over(path: str, pid: int) -> None:
    """Remove the file of a server that was killed, which must not keep the next one from starting."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"pid {path!r}: already exists and is not a regular file")
    text = content(path)
    if text.strip() and not text.strip().isdigit():
        raise UsageError(f"pid {path!r}: already exists and does not contain a process id")
    if text.strip() and int(text) != pid and is_running(int(text)):
        raise UsageError(f"pid {path!r}: already exists, and process {int(text)} is running")
    os.unlink(path)


def content(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, encoding="latin-1") as file:
        return file.read(MAX_TEXT)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def is_ours(path: str, written: tuple[int, int], pid: int) -> bool:
    """Still the file that we made: numbers of inodes are used again, so what it says counts, too."""
    try:
        found = os.lstat(path)
        is_same = stat.S_ISREG(found.st_mode) and (found.st_dev, found.st_ino) == written
        return is_same and content(path) == f"{pid}\n"
    except OSError:
        return False
