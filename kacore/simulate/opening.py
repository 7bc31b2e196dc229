"""The bytes of a log: a file, plain or packed by gzip or zstd, or stdin. What it is packed by is seen in its first bytes,
whatever its name says."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, Any, cast

from kacore.errors import UsageError

BLOCK = 1 << 20
MAX_LINE = 1 << 16  # no server writes a longer one

GZIP = b"\x1f\x8b"
ZSTD = b"\x28\xb5\x2f\xfd"
STDIN = "-"


class Source:
    """One log. `position` of `size` bytes have been read, as they lie on disk; size is 0 where nobody knows it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = "stdin" if path == STDIN else path
        self.size = 0
        self.is_once = path == STDIN  # it cannot be opened again
        self._raw: IO[bytes] | None = None

    @property
    def position(self) -> int:
        if self._raw is None or not self.size:
            return 0
        return self.size if self._raw.closed else self._raw.tell()

    def blocks(self) -> Iterator[bytes]:
        """Whole lines, about a MiB of them at a time. A line that is far too long is given in pieces. OSError, UsageError."""
        self._raw = raw = self._open()
        try:
            with unpacked(raw, self.name) as file:
                rest = b""
                while block := file.read(BLOCK):
                    cut = block.rfind(b"\n") + 1
                    if cut == 0 and len(rest) + len(block) < MAX_LINE:
                        rest += block
                        continue
                    yield rest + (block[:cut] or block)
                    rest = block[cut:] if cut else b""
                if rest:
                    yield rest
        except (EOFError, gzip.BadGzipFile) as error:
            raise UsageError(f"{self.name}: {str(error)[:1].lower()}{str(error)[1:]}") from None
        finally:
            if raw is not sys.stdin.buffer:
                raw.close()

    def _open(self) -> io.BufferedReader:
        if self.path == STDIN:
            return cast(io.BufferedReader, sys.stdin.buffer)
        raw = open(self.path, "rb")  # noqa: SIM115
        if raw.seekable():
            self.size = raw.seek(0, io.SEEK_END)
            raw.seek(0)
        else:
            self.is_once = True
        return raw


def unpacked(raw: io.BufferedReader, name: str) -> Any:
    """A context manager that gives something with read()."""
    begins = raw.peek(4)
    if begins.startswith(GZIP):
        return gzip.GzipFile(fileobj=raw)
    if begins.startswith(ZSTD):
        return unpacked_zstd(raw, name)
    return raw


def unpacked_zstd(raw: io.BufferedReader, name: str) -> Any:
    """By Python itself from 3.14 on, by the package zstandard, or by the program zstd."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]

        return zstd.ZstdFile(raw)
    except ImportError:
        pass
    try:
        import zstandard  # type: ignore[import-not-found, unused-ignore]

        return zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False)
    except ImportError:
        pass
    program = shutil.which("zstd")
    if program is None:
        raise UsageError(f"{name}: is packed by zstd, which needs Python 3.14, the package zstandard or the program zstd")
    return Piped([program, "--decompress", "--stdout", "--quiet"], raw, name)


class Piped:
    """What a program makes of a file."""

    def __init__(self, command: list[str], raw: io.BufferedReader, name: str) -> None:
        self._name = name
        try:
            os.lseek(raw.fileno(), 0, os.SEEK_SET)  # what was looked at is in our buffer, and the program has a descriptor
        except OSError:
            raise UsageError(f"{name}: is packed by zstd; unpack it first: zstd -dc FILE | kacore simulate -") from None
        self._program = subprocess.Popen(command, stdin=raw, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __enter__(self) -> Piped:
        return self

    def read(self, n: int) -> bytes:
        assert self._program.stdout is not None
        return self._program.stdout.read(n)

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is not None:
            self._program.kill()
        _, said = self._program.communicate()
        if kind is None and self._program.returncode:
            raise UsageError(f"{self._name}: zstd: {said.decode(errors='replace').strip()}")
