"""The access log: a line for each request, in one of a few styles or in a format of Apache's words.

What a client wrote is escaped, so that no line can pass for another and nothing reaches a terminal that steers it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable

from kacore._core import AccessEntry
from kacore.config import access_format
from kacore.config.access_format import Word

Line = Callable[[AccessEntry], str]

# What could end a quoted word or a line, or steer a terminal; bytes above ASCII too, whose encoding nobody knows.
UNSAFE = re.compile(r'[^\x20-\x7e]|["\\]')


def escaped(sent: bytes | None) -> str:
    r"""What a client sent, for the inside of a quoted word: `"` and `\` get a backslash, other bytes are \xhh."""
    if sent is None:
        return "-"
    text = sent.decode("latin-1")
    if UNSAFE.search(text) is None:
        return text
    return UNSAFE.sub(lambda found: "\\" + found[0] if found[0] in '"\\' else f"\\x{ord(found[0]):02x}", text)


class Clock:
    """The time in some format, made once a second."""

    def __init__(self, style: str, broken_down: Callable[[float], time.struct_time] = time.localtime) -> None:
        self._style, self._broken_down = style, broken_down
        self._second = -1
        self._text = ""

    def __call__(self, second: int) -> str:
        if second != self._second:
            self._second = second
            self._text = time.strftime(self._style, self._broken_down(second))
        return self._text


# -- the styles ------------------------------------------------------------------------------------------------


def request_line(entry: AccessEntry) -> str:
    return "-" if entry.method is None else f"{entry.method} {escaped(entry.target)} HTTP/{entry.version}"


def common() -> Line:
    """Apache's "%h %l %u %t \\"%r\\" %>s %b"."""
    clock = Clock("%d/%b/%Y:%H:%M:%S %z")

    def line(entry: AccessEntry) -> str:
        client = entry.client[0] if entry.client else "-"
        when = clock(entry.unix_time)
        return f'{client} - - [{when}] "{request_line(entry)}" {entry.status} {entry.n_bytes or "-"}'

    return line


def combined() -> Line:
    """The same and "%{Referer}i" "%{User-agent}i"."""
    first = common()
    return lambda entry: f'{first(entry)} "{escaped(entry.referer)}" "{escaped(entry.user_agent)}"'


to_json = json.JSONEncoder(check_circular=False).encode


def as_json() -> Line:
    """One object a line. Bytes above ASCII are given as the code points of Latin-1, escaped."""
    clock = Clock("%Y-%m-%dT%H:%M:%SZ", time.gmtime)

    def line(entry: AccessEntry) -> str:
        text = to_json(
            {
                "time": clock(entry.unix_time),
                "client": entry.client[0] if entry.client else None,
                "method": entry.method,
                "target": latin1(entry.target),
                "version": entry.version,
                "status": entry.status,
                "bytes": entry.n_bytes,
                "seconds": round(entry.duration, 6),
                "referer": latin1(entry.referer),
                "user_agent": latin1(entry.user_agent),
                "connection": f"{entry.connection:x}",
                "number": entry.number,
                **({"request_id": latin1(entry.request_id)} if entry.request_id is not None else {}),
            }
        )
        return text.replace("\x7f", "\\u007f")

    return line


def latin1(sent: bytes | None) -> str | None:
    return None if sent is None else sent.decode("latin-1")


# By the first digit of the status.
COLOURS = {2: "\x1b[32m", 3: "\x1b[36m", 4: "\x1b[33m", 5: "\x1b[31m"}
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def short(*, in_colour: bool) -> Line:
    """For people: `12:34:56 200 GET /items 1.3 ms 127.0.0.1:40112 #3`. #3 is the third request on its connection."""
    clock = Clock("%H:%M:%S")
    dim, plain = (DIM, PLAIN) if in_colour else ("", "")

    def line(entry: AccessEntry) -> str:
        what = "(no request)" if entry.method is None else f"{entry.method} {escaped(entry.target)}"
        version = f" HTTP/{entry.version}" if entry.version not in ("1.1", None) else ""
        client = "unix" if entry.client is None else client_text(*entry.client)
        status = f"{COLOURS.get(entry.status // 100, '')}{entry.status}{PLAIN}" if in_colour else entry.status
        rest = f"{version} {seconds_text(entry.duration)} {client} #{entry.number}"
        return f"{dim}{clock(entry.unix_time)}{plain} {status} {what}{dim}{rest}{plain}"

    return line


def client_text(host: str, port: int) -> str:
    where = f"[{host}]" if ":" in host else host
    return f"{where}:{port}" if port else where


def seconds_text(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.{1 if seconds >= 0.001 else 2}f} ms"


# -- formats ---------------------------------------------------------------------------------------------------


def of_format(text: str) -> tuple[Line, list[bytes]]:
    """The line, and the fields of requests that it needs."""
    parts = access_format.read(text)
    makers = [part if isinstance(part, str) else maker_of(part) for part in parts]
    fields = [part.name for part in parts if isinstance(part, Word) and part.letter == "i"]
    wanted = [name.lower().encode("latin-1", "replace") for name in fields]

    def line(entry: AccessEntry) -> str:
        return "".join([maker if isinstance(maker, str) else maker(entry) for maker in makers])

    return line, wanted


def maker_of(word: Word) -> Line | str:
    letter, name = word
    if letter in SIMPLE:
        return SIMPLE[letter]
    made = OF_NAME[letter](name)
    return made


def of_request(name: str) -> Line:
    wanted = name.lower().encode("latin-1", "replace")
    return lambda entry: escaped(entry.headers.get(wanted)) if entry.headers else "-"


def of_response(name: str) -> Line:
    wanted = name.lower()

    def found(entry: AccessEntry) -> str:
        given = entry.fields.items() if isinstance(entry.fields, dict) else entry.fields or ()
        for field, value in given:
            field = field.decode("latin-1") if isinstance(field, bytes) else field
            if field.lower() == wanted:
                return escaped(value if isinstance(value, bytes) else str(value).encode("latin-1", "replace"))
        return "-"

    return found


def of_time(style: str) -> Line:
    if style in ("sec", "msec", "usec"):
        factor = {"sec": 1, "msec": 1000, "usec": 1_000_000}[style]
        return lambda entry: str(entry.unix_time * factor)
    clock = Clock(style or "[%d/%b/%Y:%H:%M:%S %z]")
    return lambda entry: clock(entry.unix_time)


def of_duration(unit: str) -> Line:
    factor = {"": 1, "s": 1, "ms": 1000, "us": 1_000_000}[unit]
    return lambda entry: str(int(entry.duration * factor))


def of_port(which: str) -> Line:
    if which == "remote":
        return lambda entry: str(entry.client[1]) if entry.client else "-"
    return lambda entry: str(entry.server[1]) if entry.server and entry.server[1] is not None else "-"


def target_of(entry: AccessEntry) -> bytes:
    return entry.target or b""


def host_of(entry: AccessEntry) -> str:
    return escaped(re.sub(rb":\d*$", b"", entry.host)) if entry.host else "-"


def client_of(entry: AccessEntry) -> str:
    return entry.client[0] if entry.client else "-"


def id_of(entry: AccessEntry) -> str:
    return f"{entry.connection:x}"


def scheme_of(entry: AccessEntry) -> str:
    return "https" if entry.is_tls else "http"


SIMPLE: dict[str, Line] = {
    "A": lambda entry: entry.server[0] if entry.server and entry.server[1] is not None else "-",
    "B": lambda entry: str(entry.n_bytes),
    "D": lambda entry: str(int(entry.duration * 1e6)),
    "H": lambda entry: f"HTTP/{entry.version}" if entry.version else "-",
    "U": lambda entry: escaped(target_of(entry).partition(b"?")[0]) or "-",
    "V": host_of,
    "X": lambda entry: "X" if entry.status == 499 else "+" if entry.is_kept else "-",
    "a": client_of,
    "b": lambda entry: str(entry.n_bytes or "-"),
    "h": client_of,
    "k": lambda entry: str(max(0, entry.number - 1)),
    "l": lambda _: "-",
    "m": lambda entry: entry.method or "-",
    "q": lambda entry: escaped(b"".join(target_of(entry).partition(b"?")[1:])),
    "r": request_line,
    "s": lambda entry: str(entry.status),
    "u": lambda _: "-",
    "v": host_of,
}
OF_NAME: dict[str, Callable[[str], Line | str]] = {
    "L": lambda name: id_of if name else lambda entry: f"{id_of(entry)}-{entry.number}",
    "P": lambda _: str(os.getpid()),
    "T": of_duration,
    "e": lambda name: escaped(os.environ.get(name, "-").encode("utf-8", "surrogateescape")),
    "i": of_request,
    "o": of_response,
    "p": of_port,
    "t": of_time,
    "x": lambda name: {
        "connection": id_of,
        "number": lambda entry: str(entry.number),
        "request": lambda entry: f"{id_of(entry)}-{entry.number}",
        "request-id": lambda entry: latin1(entry.request_id) or "-",
        "scheme": scheme_of,
        "tls": lambda entry: "on" if entry.is_tls else "-",
    }[name],
}


# -- the log ---------------------------------------------------------------------------------------------------


def line_of(style: str, *, in_colour: bool) -> tuple[Line, list[bytes]]:
    if style == "short":
        return short(in_colour=in_colour), []
    known = {"common": common, "combined": combined, "json": as_json}
    return (known[style](), []) if style in known else of_format(style)


class Log:
    """What the engine calls for each request. fields: of requests, which it is to keep for the line."""

    def __init__(self, fields: list[bytes], log: Callable[[AccessEntry], None]) -> None:
        self.fields, self._log = fields, log

    def __call__(self, entry: AccessEntry) -> None:
        self._log(entry)


def access_log(style: str | None) -> Callable[[AccessEntry], None] | None:
    """None when nothing is to be logged, which costs nothing."""
    from kacore.server.logs import LineHandler, is_colourful

    logger = logging.getLogger("kacore.access")
    if style in (None, "off") or not logger.isEnabledFor(logging.INFO):
        return None
    handler = logger.handlers[0] if logger.handlers else None
    if isinstance(handler, LineHandler) and len(logger.handlers) == 1 and not (logger.filters or logger.propagate):
        write: Callable[[str], None] = handler.write_line
        line, fields = line_of(style or "", in_colour=is_colourful(handler.stream))
    else:
        line, fields = line_of(style or "", in_colour=False)

        def handle(text: str) -> None:
            # By hand: Logger.info would walk the stack for the place in the source, which says nothing here.
            logger.handle(logging.LogRecord("kacore.access", logging.INFO, "", 0, text, None, None))

        write = handle
    if not fields:
        return lambda entry: write(line(entry))
    return Log(fields, lambda entry: write(line(entry)))
