"""Has the source changed? Asked by the process that starts the workers, which has not imported any of it."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Iterator

from kacore.errors import UsageError

# Seconds between two looks.
LOOK_EVERY = 0.25
SKIPPED = {"__pycache__", "node_modules"}


class Watcher:
    """Remembers the time of change and the size of every .py file below some directories.

    include: patterns (fnmatch) for names of other files that count.
    """

    def __init__(self, directories: Iterable[str], include: Iterable[str] = ()) -> None:
        self._is_source = re.compile("|".join(map(fnmatch.translate, ["*.py", *include]))).match
        self._directories = [os.path.abspath(directory) for directory in directories]
        for directory in self._directories:
            if not os.path.isdir(directory):
                raise UsageError(f"reload_dir={directory!r}: is not a directory")
        self._seen = self._look()

    def changed(self) -> list[str]:
        """The files that were changed, added or deleted since the last call. Cost: one stat of each file."""
        now, before = self._look(), self._seen
        self._seen = now
        return sorted(path for path in now.keys() | before.keys() if now.get(path) != before.get(path))

    def _look(self) -> dict[str, tuple[int, int]]:
        return {path: state for directory in self._directories for path, state in walk(directory, self._is_source)}


def walk(directory: str, is_source: Callable[[str], object]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Sources below it, but for hidden directories, virtual environments and what SKIPPED names."""
    try:
        with os.scandir(directory) as entries:
            found = list(entries)
    except OSError:
        return
    if any(entry.name == "pyvenv.cfg" for entry in found):
        return
    for entry in found:
        try:
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith(".") and entry.name not in SKIPPED:
                    yield from walk(entry.path, is_source)
            elif is_source(entry.name):
                state = entry.stat()
                yield entry.path, (state.st_mtime_ns, state.st_size)
        except OSError:
            pass  # gone meanwhile
