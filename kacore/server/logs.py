"""What a server says: the loggers kacore.error and kacore.access, and their format when the program has not set up logging.

Everything goes through the standard `logging` module. The lines of the access log are made in access.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from kacore.config.options import RunOptions

def address_text(client: tuple[str, int] | None) -> str:
    """ "192.0.2.1:4711", "[2001:db8::1]:4711"; "unix" if there is none."""
    if client is None:
        return "unix"
    host, port = client
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# -- connections ------------------------------------------------------------------------------------------------


def closed_log(logger: logging.Logger) -> Callable[[Any, str, str, int], None] | None:
    """What the engine calls for each connection that ends; None unless `logger` is at debug."""
    if not logger.isEnabledFor(logging.DEBUG):
        return None

    def log(client: Any, cause: str, phase: str, requests: int) -> None:
        logger.debug("%s closed in %s after %d requests: %s", address_text(client), phase, requests, cause)

    return log


def notice_log(logger: logging.Logger) -> Callable[[str], None]:
    """What the engine calls when an operator should know; it calls at most once in ten seconds."""

    def log(what: str) -> None:
        if what == "descriptors":
            logger.warning(
                "out of file descriptors: idle connections are closed to admit new ones; when none are left, new ones"
                " must wait (raise the limit with `ulimit -n`, or lower max_connections)"
            )

    return log


# -- for programs that have not set up logging ------------------------------------------------------------------

COLOURS = {
    logging.DEBUG: "\x1b[2m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[31m",
}


class LineFormatter(logging.Formatter):
    """Time, level, message; the level in colour when `stream` is a terminal that wants it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self.in_colour = is_colourful(stream)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        colour = COLOURS.get(record.levelno, "") if self.in_colour else ""
        return text.replace(record.levelname, f"{colour}{record.levelname}\x1b[0m", 1) if colour else text


def is_colourful(stream: TextIO) -> bool:
    """A terminal, unless the environment says NO_COLOR (https://no-color.org) or TERM=dumb."""
    import os

    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def configure(path: str) -> None:
    """Set up the logging module from a file: a dictConfig in .json or .toml, else a fileConfig. UsageError."""
    import configparser
    import logging.config
    import tomllib

    from kacore.errors import UsageError

    try:
        if path.endswith((".json", ".toml")):
            with open(path, "rb") as file:
                settings = (json.load if path.endswith(".json") else tomllib.load)(file)
            logging.config.dictConfig({"disable_existing_loggers": False, **settings})
        elif path.endswith((".yaml", ".yml")):
            raise UsageError(f"log_config={path!r}: YAML is not supported; use .json or .toml")
        else:
            logging.config.fileConfig(path, disable_existing_loggers=False)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, configparser.Error) as error:
        if isinstance(error, UsageError):
            raise
        why = getattr(error, "strerror", None) or f"{error.__cause__ or error}".partition("\n")[0]
        raise UsageError(f"log_config={path!r}: {why}") from None


def reopen_files() -> int:
    """Open the files of all handlers again by their names, after logrotate has moved them. Return: how many. One that
    cannot be opened stays what it is, and that is logged."""
    n = 0
    for handler in {handler for logger in all_loggers() for handler in logger.handlers}:
        if not isinstance(handler, logging.FileHandler) or handler.stream is None:
            continue
        handler.acquire()
        try:
            before, handler.mode = handler.stream, "a"  # not "w": it may be the same file, which nobody moved
            handler.stream = handler._open()
            before.close()
            n += 1
        except OSError as error:
            logging.getLogger("kacore.error").error("the log file stays the one it was: %s", error)
        finally:
            handler.release()
    return n


def all_loggers() -> list[logging.Logger]:
    known = logging.root.manager.loggerDict.values()
    return [logging.root, *(logger for logger in known if isinstance(logger, logging.Logger))]


class LineHandler(logging.StreamHandler[TextIO]):
    """Bare lines, written together once in a round of the running event loop: to write each by itself would cost more
    than to serve the request that it tells of. Without a running loop they are written at once."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._begin()

    def _begin(self) -> None:
        self.setFormatter(logging.Formatter("%(message)s"))
        self._lines: list[str] = []
        self._coming: set[int] = set()  # threads that write at the end of their round; each for itself, as one may be held up

    def write_line(self, line: str) -> None:
        """What emit does, for a line that needs no record."""
        me = threading.get_ident()
        self.acquire()
        self._lines.append(line)
        is_first = me not in self._coming
        self._coming.add(me)
        self.release()
        if is_first:
            try:
                asyncio.get_running_loop().call_soon(self.flush)
            except RuntimeError:
                self.flush()

    def emit(self, record: logging.LogRecord) -> None:
        self.write_line(self.format(record))

    def flush(self) -> None:
        """Write what waits. As in every handler, an error is reported on stderr and goes no further."""
        self.acquire()
        lines, self._lines = self._lines, []
        self._coming.clear()
        try:
            if lines:
                self.stream.write("\n".join(lines) + "\n")
            super().flush()
        except Exception:
            self.handleError(logging.LogRecord("kacore.access", logging.INFO, "", 0, "".join(lines[:1]), None, None))
        finally:
            self.release()


class LineFileHandler(LineHandler, logging.FileHandler):
    """The same into a file, which is made anew if it was moved (reopen_files)."""

    def __init__(self, path: str) -> None:
        logging.FileHandler.__init__(self, path, encoding="utf-8", errors="backslashreplace")
        self._begin()


def set_up(level: int | str, access_file: str | None = None) -> None:
    """For a program that has not set up logging itself: messages to stderr, the access log to stdout or a file, bare. level:
    of the logging module, or its name in small letters. UsageError for a file that cannot be opened."""
    errors = logging.getLogger("kacore")
    errors.setLevel(logging.DEBUG if level == "trace" else level.upper() if isinstance(level, str) else level)
    access = logging.getLogger("kacore.access")
    access.setLevel(logging.INFO)
    if not errors.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(LineFormatter(sys.stderr))
        errors.addHandler(handler)
        access.addHandler(LineHandler(sys.stdout) if access_file in (None, "-") else line_file(access_file))
        access.propagate = False


def line_file(path: str) -> LineFileHandler:
    from kacore.errors import UsageError, told

    try:
        return LineFileHandler(path)
    except OSError as error:
        raise UsageError(f"access_log_file={path!r}: {error.strerror or told(error)}") from None


def with_access_log(options: RunOptions) -> dict[str, object]:
    """The options of the server, with the format of the access log that is meant where nothing is said."""
    is_terminal = access_log_on_terminal() is not None
    return {**options.server_options(), "access_log": options.chosen_access_log(is_terminal=is_terminal)}


def access_log_on_terminal() -> str | None:
    """The format for whoever looks at stdout; None: nobody does."""
    return "short" if sys.stdout is not None and sys.stdout.isatty() else None
