"""Has the source changed? Asked by the process that starts the workers, which has not imported any of it, and by a worker
before it reads what arrived, so that nothing that was asked after a save is answered by the code of before.

Three parts: `Watcher` looks at files, `Freshness` asks in a worker, `Observer` is a process that waits for the system to
tell of changes (watchfiles), where there is one. And bytecode of what was saved just now is not kept.
"""

from __future__ import annotations

import fnmatch
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable
from importlib.machinery import SourceFileLoader
from importlib.util import source_from_cache
from typing import NamedTuple

from kacore.errors import UsageError

# Seconds between two looks: at least, and when an Observer tells of changes, too.
LOOK_EVERY, LOOK_EVERY_IF_TOLD = 0.25, 10.0
# Of the time, what looking may take: a large tree is looked at less often.
SHARE = 0.006
# A directory that changed this short a time before it was read may have changed since without another time of change.
RACY_NS = 100_000_000
# Bytecode knows the time of change of its source in whole seconds only, and its size: two saves within one look the same.
SETTLED_AFTER = 2.0
# Files that a worker looks at before it reads what arrived.
MAX_OF_WORKER = 2000
SKIPPED = {"__pycache__", "node_modules"}

State = tuple[int, int, int] | None


class Listing(NamedTuple):
    """What is in a directory. is_racy: it may have changed since."""

    when: tuple[int, int]
    is_racy: bool
    directories: list[tuple[str, bool]]  # and whether it is a symlink
    files: list[str]


NOTHING: list[tuple[str, bool]] = []


class Watcher:
    """Remembers the time of change and the size of every .py file below some directories, symlinked packages included.

    include: patterns (fnmatch) for names of other files that count. exclude: for names, or paths below the directory, of
    files and directories that do not.
    """

    def __init__(self, directories: Iterable[str], include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        self._is_source = re.compile("|".join(map(fnmatch.translate, ["*.py", *include]))).match
        patterns = [pattern.rstrip("/") for pattern in exclude]
        patterns += [f"*/{pattern}" for pattern in patterns]
        self._is_excluded = re.compile("|".join(map(fnmatch.translate, patterns)) or r"\Z.").match
        self.directories = [os.path.abspath(directory) for directory in directories]
        for directory in self.directories:
            if not os.path.isdir(directory):
                raise UsageError(f"reload_dir={directory!r}: is not a directory")
        self._listings: dict[str, Listing] = {}
        self.look_every = LOOK_EVERY
        self.seen: dict[str, State] = self._look()

    def changed(self) -> list[str]:
        """The files that were changed, added or deleted since the last call. Cost: one stat of each file and directory."""
        began = time.thread_time()
        now, before = self._look(), self.seen
        self.seen = now
        self.look_every = max(LOOK_EVERY, (time.thread_time() - began) / SHARE)
        return sorted(path for path in now.keys() | before.keys() if now.get(path) != before.get(path))

    def may_matter(self, path: str) -> bool:
        """Whether something that happened to this path can be a change of the source."""
        name = os.path.basename(path)
        return bool(self._is_source(name)) or "." not in name.strip(".")  # or a directory

    def _look(self) -> dict[str, State]:
        found: dict[str, State] = {}
        listings: dict[str, Listing] = {}
        known: set[tuple[int, int]] = set()  # directories, since a symlink may lead into a circle
        for root in self.directories:
            waiting = [(root, False)]
            while waiting:
                directory, is_link = waiting.pop()
                listing = self._listing(root, directory, is_link, known)
                if listing is None:
                    continue
                listings[directory] = listing
                waiting += listing.directories
                for path in listing.files:
                    state = state_of(path)
                    if state is not None:
                        found[path] = state
        self._listings = listings
        return found

    def _listing(self, root: str, directory: str, is_link: bool, known: set[tuple[int, int]]) -> Listing | None:
        try:
            status = os.stat(directory)
        except OSError:
            return None
        if (status.st_dev, status.st_ino) in known:
            return None
        known.add((status.st_dev, status.st_ino))
        when = status.st_mtime_ns, status.st_ino
        before = self._listings.get(directory)
        if before is not None and before.when == when and not before.is_racy:
            return before
        is_racy = time.time_ns() - status.st_mtime_ns < RACY_NS
        directories, files = self._entries(root, directory, is_link)
        return Listing(when, is_racy, directories, files)

    def _entries(self, root: str, directory: str, is_link: bool) -> tuple[list[tuple[str, bool]], list[str]]:
        """Directories and sources in it: none of a virtual environment, nor of a symlink that leads to no package."""
        try:
            with os.scandir(directory) as entries:
                found = list(entries)
        except OSError:
            return [], []
        names = {entry.name for entry in found}
        if "pyvenv.cfg" in names or (is_link and "__init__.py" not in names):
            return [], []
        directories, files = [], []
        for entry in found:
            if self._is_excluded(entry.name) or self._is_excluded(os.path.relpath(entry.path, root)):
                continue
            try:
                is_directory = entry.is_dir()
            except OSError:
                continue
            if not is_directory:
                if self._is_source(entry.name):
                    files.append(entry.path)
            elif not entry.name.startswith(".") and entry.name not in SKIPPED:
                directories.append((entry.path, entry.is_symlink()))
        return directories, files


def state_of(path: str) -> State:
    """None: there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


class Freshness:
    """In a worker: whether what it runs is what the files say, as far as the parent had looked when it started.

    It looks at the modules that are loaded and at what `include` names, and so costs a microsecond or two for each. When
    there is a failure to show, any change may be the cure.
    """

    def __init__(self, watcher: Watcher, *, shows_failure: bool = False) -> None:
        self._watcher = watcher
        self._looks_at_all = shows_failure
        self._others = [path for path in watcher.seen if not path.endswith(".py")]
        self._n_modules = 0
        self._watched: list[tuple[str, State]] = []

    def is_stale(self) -> bool:
        if self._looks_at_all:
            return bool(self._watcher.changed())
        if len(sys.modules) != self._n_modules:
            self._collect()
        return any(state_of(path) != state for path, state in self._watched)

    def _collect(self) -> None:
        modules = list(sys.modules.values())
        self._n_modules = len(modules)
        seen = self._watcher.seen
        files = [getattr(module, "__dict__", {}).get("__file__") for module in modules]
        paths = [path for path in files if isinstance(path, str) and path in seen]
        self._watched = [(path, seen[path]) for path in [*paths, *self._others][:MAX_OF_WORKER]]


def keep_no_bytecode_of_fresh_sources() -> None:
    """From here on this process writes none for a source that may be saved once more within the same second."""
    keep = SourceFileLoader.set_data

    def keep_if_settled(loader: SourceFileLoader, path: str, data: bytes, **how: int) -> None:
        source = state_of(source_from_cache(path))
        if source is not None and source[0] / 1e9 < time.time() - SETTLED_AFTER:
            keep(loader, path, data, **how)

    SourceFileLoader.set_data = keep_if_settled  # type: ignore[assignment, method-assign]


class Observer:
    """A process of its own, since who forks workers must have no threads. `fileno()` is readable after a change, and at its
    end of file there is nobody to tell any more. To be made before anything that it must not inherit is open."""

    def __init__(self, watcher: Watcher) -> None:
        self._reading, writing = os.pipe()
        os.set_blocking(self._reading, False)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._reading)
                observe(watcher, writing, lambda: os.getppid() == parent)
            finally:
                os._exit(0)
        os.close(writing)

    def fileno(self) -> int:
        return self._reading

    def has_news(self) -> bool | None:
        """None: it has ended."""
        try:
            return None if not os.read(self._reading, 4096) else True
        except BlockingIOError:
            return False

    def close(self, *, in_child: bool = False) -> None:
        os.close(self._reading)
        if not in_child:
            try:
                os.kill(self.pid, signal.SIGTERM)
                os.waitpid(self.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass


def made_observer(watcher: Watcher) -> Observer | None:
    """None where watchfiles is missing."""
    from importlib.util import find_spec

    return Observer(watcher) if find_spec("watchfiles") is not None else None


def observe(watcher: Watcher, writing: int, is_wanted: Callable[[], bool]) -> None:
    """The life of an observer. What it cannot do (too many files for inotify) ends it, and then the parent looks itself."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    os.closerange(3, writing)
    os.closerange(writing + 1, 4096)
    import watchfiles

    changes = watchfiles.watch(
        *watcher.directories,
        watch_filter=lambda _, path: watcher.may_matter(path),
        debounce=100,
        step=30,
        rust_timeout=1000,
        yield_on_timeout=True,
        raise_interrupt=False,
        ignore_permission_denied=True,
    )
    for found in changes:
        if not is_wanted():
            return
        if found:
            os.write(writing, b".")
