"""Random sequences of HTTP/2 frames, sent to kacore and to nghttpd: a rule for every disagreement.

Run: `python tests/fuzz/differential_h2.py --runs 2000 --seed 1`; `nghttpd` must be installed. A sequence is legal and
illegal steps on a few streams, sent in one piece. What comes of it is compared: how the connection goes on, and how each
stream that we did not reset has ended. A disagreement is made as short as it gets, and then one of RULES must explain it:
by the steps that are left, what kacore did and what nghttpd did. One without a name makes the run fail and is printed.
"""

import argparse
import collections
import contextlib
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.wire.http2_app import App
from tests.wire.http2_client import (
    CONTINUATION,
    DATA,
    HEADERS,
    PING,
    PRIORITY,
    PRIORITY_UPDATE,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Client,
    Silence,
    frame,
    integer,
    literal,
    literals,
    request,
    settings,
)

QUIET, PATIENCE = 0.15, 3.0  # seconds in which a stream that can end has ended; before anything is called unexplained
U32 = struct.Struct("!I")
GET, POST = literals(request()), literals(request("/echo", "POST"))
FIRST, MARK = b"all sent", b"the end "


class Step(NamedTuple):
    """name: of its kind; data: the bytes; resets: the stream that we reset by it."""

    name: str
    data: bytes
    resets: int = 0


class Outcome(NamedTuple):
    """connection: "goes on", "GOAWAY code", "ends", or "breaks" and a rule.
    streams: by number "200", "reset code", "open"."""

    connection: str
    streams: dict[int, str]

    def disagrees(self, other: "Outcome") -> bool:
        if self.connection.startswith("breaks"):
            return True
        if self.connection != "goes on" and other.connection != "goes on":
            return self.connection != other.connection
        return self != other


# -- steps ----------------------------------------------------------------------------------------------------------

FIELDS = {
    "a capital in a name": (b"Upper", b"x"),
    "a space in a name": (b"a b", b"x"),
    "an empty name": (b"", b"x"),
    "NUL in a value": (b"a", b"\0"),
    "a space before a value": (b"a", b" x"),
    "connection": (b"connection", b"close"),
    "transfer-encoding": (b"transfer-encoding", b"chunked"),
    "te gzip": (b"te", b"gzip"),
    "te trailers": (b"te", b"trailers"),
    ":path again": (b":path", b"/"),
    ":status": (b":status", b"200"),
    "an equal host": (b"host", b"test"),
    "another host": (b"host", b"other"),
    "content-length 0": (b"content-length", b"0"),
    "content-length 5": (b"content-length", b"5"),
    "a bad content-length": (b"content-length", b"x"),
    "a plain field": (b"accept", b"*/*"),
}
PSEUDO = {
    "no :method": [1, 2, 3],
    "no :scheme": [0, 2, 3],
    "no :path": [0, 1, 3],
    "no :authority": [0, 1, 2],
    "another order": [3, 2, 1, 0],
}
BLOCKS = {
    "index 0": b"\x80",
    "an index behind the tables": integer(100, 7, 0x80),
    "an integer that does not end": b"\xff" + b"\x80" * 12,
    "a string that is not whole": b"\0\x05ab",
    "a size update behind fields": integer(0, 5, 0x20),
    "wrong Huffman padding": b"\0\x01a\x81\x18",
}
SETS = {
    "a window of 0": {4: 0},
    "a window of 10": {4: 10},
    "a larger window": {4: 1_000_000},
    "a window over 2^31-1": {4: 2**31},
    "ENABLE_PUSH 2": {2: 2},
    "MAX_FRAME_SIZE 100": {5: 100},
    "MAX_FRAME_SIZE 2^20": {5: 2**20},
    "no table": {1: 0},
    "an unknown setting": {0x99: 7},
    "nothing": {},
}


class Story:
    """A sequence in the making: what it knows of its streams is only how it meant them."""

    def __init__(self, seed: random.Random) -> None:
        self.seed = seed
        self.next = 1
        self.open: list[int] = []  # content may follow
        self.ended: list[int] = []
        self.steps: list[Step] = []

    def add(self, name: str, data: bytes, resets: int = 0) -> None:
        self.steps.append(Step(name, data, resets))

    def new(self) -> int:
        number, self.next = self.next, self.next + 2
        return number

    def any_open(self) -> int:
        if not self.open:
            self.post()
        return self.seed.choice(self.open)

    def any_ended(self) -> int:
        if not self.ended:
            self.get()
        return self.seed.choice(self.ended)

    # requests

    def get(self) -> None:
        number = self.new()
        self.ended.append(number)
        flags, block = 5, GET
        kind = self.seed.choice(["GET", "padded GET", "GET with priority", "GET in three frames", "GET with odd flags"])
        if kind == "padded GET":
            flags, block = flags | 8, b"\x04" + block + bytes(4)
        elif kind == "GET with priority":
            flags, block = flags | 0x20, b"\0\0\0\0\x07" + block
        elif kind == "GET with odd flags":
            flags |= 0x90
        data = frame(HEADERS, flags, number, block)
        if kind == "GET in three frames":
            data = frame(HEADERS, 1, number, GET[:7]) + frame(CONTINUATION, 0, number, GET[7:20])
            data += frame(CONTINUATION, 4, number, GET[20:])
        self.add(kind, data)

    def post(self) -> None:
        number = self.new()
        self.open.append(number)
        self.add("POST", frame(HEADERS, 4, number, POST))

    def field(self) -> None:
        number, name = self.new(), self.seed.choice(list(FIELDS))
        self.ended.append(number)
        self.add(f"GET with {name}", frame(HEADERS, 5, number, GET + literal(*FIELDS[name])))

    def pseudo(self) -> None:
        number, name = self.new(), self.seed.choice(list(PSEUDO))
        self.ended.append(number)
        fields = request()
        block = literals([fields[i] for i in PSEUDO[name]])
        self.add(f"GET with {name}", frame(HEADERS, 5, number, block))

    def block(self) -> None:
        number, name = self.new(), self.seed.choice(list(BLOCKS))
        self.add(name, frame(HEADERS, 5, number, GET + BLOCKS[name]))

    def skip(self) -> None:
        self.next += 2 * self.seed.randrange(1, 4)

    # content

    def data(self) -> None:
        kind = self.seed.choice(["DATA", "DATA", "empty DATA", "padded DATA", "much DATA"])
        flags, payload = 0, b"0123456789"
        if kind == "empty DATA":
            payload = b""
        elif kind == "padded DATA":
            flags, payload = 8, b"\x03abc" + bytes(3)
        elif kind == "much DATA":
            payload = b"x" * 16384
        self.add(kind, frame(DATA, flags, self.any_open(), payload))

    def end(self) -> None:
        number = self.any_open()
        if number in self.open:
            self.open.remove(number)
            self.ended.append(number)
        kind = self.seed.choice(["END_STREAM", "trailers", "trailers without END_STREAM", "trailers with :path"])
        payload = literal("a", "b") if kind != "trailers with :path" else literal(":path", "/")
        data = frame(HEADERS, 4 if "without" in kind else 5, number, payload)
        self.add(kind, frame(DATA, 1, number, b"") if kind == "END_STREAM" else data)

    def late(self) -> None:
        kind, number = self.seed.choice(["DATA", "HEADERS", "WINDOW_UPDATE", "RST_STREAM", "PRIORITY"]), self.any_ended()
        data = {
            "DATA": frame(DATA, 1, number, b"x"),
            "HEADERS": frame(HEADERS, 5, number, GET),
            "WINDOW_UPDATE": frame(WINDOW_UPDATE, 0, number, U32.pack(5)),
            "RST_STREAM": frame(RST_STREAM, 0, number, U32.pack(8)),
            "PRIORITY": frame(PRIORITY, 0, number, b"\0\0\0\0\1"),
        }[kind]
        self.add(f"{kind} after the end", data, resets=number if kind == "RST_STREAM" else 0)

    def reset(self) -> None:
        number = self.any_open()
        if number in self.open:
            self.open.remove(number)
        self.add("RST_STREAM", frame(RST_STREAM, 0, number, U32.pack(self.seed.choice([0, 8, 99]))), resets=number)

    # the rest

    def control(self) -> None:
        number = self.any_open()
        kind, data = self.seed.choice(
            [
                ("PING", frame(PING, 0, 0, b"12345678")),
                ("PING with ACK", frame(PING, 1, 0, b"12345678")),
                ("PING of 7 bytes", frame(PING, 0, 0, b"1234567")),
                ("PING on a stream", frame(PING, 0, 1, b"12345678")),
                ("PRIORITY", frame(PRIORITY, 0, number, b"\0\0\0\0\1")),
                ("PRIORITY of 4 bytes", frame(PRIORITY, 0, number, b"\0\0\0\0")),
                ("PRIORITY on stream 0", frame(PRIORITY, 0, 0, b"\0\0\0\0\1")),
                ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, number, U32.pack(10))),
                ("WINDOW_UPDATE of the connection", frame(WINDOW_UPDATE, 0, 0, U32.pack(10))),
                ("WINDOW_UPDATE by 0", frame(WINDOW_UPDATE, 0, number, U32.pack(0))),
                ("WINDOW_UPDATE of the connection by 0", frame(WINDOW_UPDATE, 0, 0, U32.pack(0))),
                ("WINDOW_UPDATE by 2^31-1", frame(WINDOW_UPDATE, 0, number, U32.pack(2**31 - 1))),
                ("WINDOW_UPDATE of the connection by 2^31-1", frame(WINDOW_UPDATE, 0, 0, U32.pack(2**31 - 1))),
                ("WINDOW_UPDATE of 3 bytes", frame(WINDOW_UPDATE, 0, 0, b"\0\0\1")),
                ("an unknown frame", frame(0x55, 0xFF, self.seed.choice([0, number, 999]), b"abc")),
                ("PRIORITY_UPDATE", frame(PRIORITY_UPDATE, 0, 0, U32.pack(1) + b"u=1")),
                ("PRIORITY_UPDATE of stream 0", frame(PRIORITY_UPDATE, 0, 0, U32.pack(0) + b"u=1")),
                ("PUSH_PROMISE", frame(PUSH_PROMISE, 4, number, U32.pack(2) + GET)),
                ("GOAWAY", frame(7, 0, 0, bytes(8))),
                ("GOAWAY on a stream", frame(7, 0, 1, bytes(8))),
                ("CONTINUATION of nothing", frame(CONTINUATION, 4, number, GET)),
                ("DATA on stream 0", frame(DATA, 0, 0, b"x")),
                ("HEADERS on stream 0", frame(HEADERS, 5, 0, GET)),
                ("HEADERS on an even stream", frame(HEADERS, 5, 2, GET)),
                ("RST_STREAM on an idle stream", frame(RST_STREAM, 0, self.next + 10, U32.pack(8))),
                ("DATA on an idle stream", frame(DATA, 0, self.next + 10, b"x")),
                ("RST_STREAM of 3 bytes", frame(RST_STREAM, 0, number, b"\0\0\0")),
                ("DATA that is all padding", frame(DATA, 8, number, b"\x06hello")),
                ("DATA with no room for padding", frame(DATA, 8, number, b"")),
                ("DATA of 16385 bytes", frame(DATA, 0, number, b"x" * 16385)),
                ("SETTINGS on a stream", frame(SETTINGS, 0, 1, b"")),
                ("SETTINGS of 5 bytes", frame(SETTINGS, 0, 0, b"12345")),
                ("SETTINGS with ACK and content", frame(SETTINGS, 1, 0, settings({1: 1}))),
            ]
        )
        self.add(kind, data)

    def set(self) -> None:
        name = self.seed.choice(list(SETS))
        self.add(f"SETTINGS: {name}", frame(SETTINGS, 0, 0, settings(SETS[name])))


def story(seed: random.Random) -> list[Step]:
    one = Story(seed)
    acts: list[tuple[Callable[[], None], int]] = [
        (one.get, 5),
        (one.post, 5),
        (one.data, 6),
        (one.end, 4),
        (one.field, 2),
        (one.pseudo, 1),
        (one.set, 1),
        (one.control, 2),
        (one.late, 1),
        (one.reset, 1),
        (one.skip, 1),
    ]
    if seed.random() < 0.1:
        acts.append((one.block, 2))
    for act in seed.choices([act for act, _ in acts], [weight for _, weight in acts], k=seed.randrange(1, 15)):
        act()
    return one.steps


# -- what comes of them -----------------------------------------------------------------------------------------------


def outcome(port: int, steps: list[Step], quiet: float = QUIET) -> Outcome:
    c, broken = Client(port), ""
    try:
        c._waiting.extend([{}] * 100)
        c.ours[4] = c.window = 2**31 - 1  # how much comes is not compared
        for kind, _, number in frames_of(steps):
            if kind == HEADERS and number % 2:
                c.open(number).window = 2**31 - 1
        c.send(b"".join(step.data for step in steps) + frame(PING, 0, 0, FIRST))
        ends = time.monotonic() + quiet
        while not c.is_closed and time.monotonic() < ends:
            if MARK in c.pongs and not c.goaways and all_over(c, steps):
                break
            c.sock.settimeout(max(0.001, ends - time.monotonic()))
            with contextlib.suppress(Silence):
                c.read()
            if c.pongs[-1:] == [FIRST]:  # some answer PING before they say what was wrong before it
                c.pongs.append(b"")
                c.frame(PING, 0, 0, MARK)
    except AssertionError as error:  # what no server may send: each frame is judged as it comes
        broken = f"breaks {error}"
    finally:
        c.close()
    ours = {step.resets for step in steps if step.resets}
    told = {number: state(one) for number, one in c.streams.items() if number not in ours}
    bad = [code for _, code in c.goaways if code]
    ending = f"GOAWAY {bad[-1]}" if bad else "goes on" if MARK in c.pongs else "ends"
    return Outcome(broken or ending, told)


def frames_of(steps: list[Step]) -> Iterator[tuple[int, int, int]]:
    """(type, flags, stream) of each."""
    data = b"".join(step.data for step in steps)
    while data:
        yield data[3], data[4], int.from_bytes(data[5:9], "big")
        data = data[9 + int.from_bytes(data[:3], "big") :]


def all_over(c: Client, steps: list[Step]) -> bool:
    """Have all streams ended whose content has?"""
    if any("a window of" in step.name for step in steps):
        return True  # they may wait for ever
    ours = {step.resets for step in steps}
    ended = {number for kind, flags, number in frames_of(steps) if kind in (DATA, HEADERS) and flags & 1}
    return all(one.is_over for number, one in c.streams.items() if number in ended - ours)


def state(one: Any) -> str:
    if one.reset:
        return f"reset {one.reset}"
    return str(one.status) if one.is_ended or one.reset == 0 else "open"


def shortest(steps: list[Step], ports: tuple[int, int]) -> tuple[list[Step], Outcome, Outcome]:
    """Without the steps that the disagreement does not need."""
    mine, yours = (outcome(port, steps) for port in ports)
    at = 0
    while at < len(steps):
        fewer = steps[:at] + steps[at + 1 :]
        found = [outcome(port, fewer) for port in ports]
        if found[0].disagrees(found[1]):
            steps, (mine, yours), at = fewer, found, 0  # those before may go now
        else:
            at += 1
    return steps, mine, yours


# -- why ----------------------------------------------------------------------------------------------------------------


class Rule(NamedTuple):
    """last: the last of the steps that are left, several with "|"; ours, theirs: part of what each made of it, which is the
    end of the connection where it ended, and else that of the streams in question."""

    why: str
    last: str
    ours: str
    theirs: str
    besides: str = ""  # part of the name of a step that must be among them


CONTENT = "DATA|empty DATA|padded DATA|much DATA|END_STREAM|DATA after the end"
SECTIONS = "HEADERS after the end|trailers|trailers with :path|trailers without END_STREAM"
OF_STREAMS = "PRIORITY of 4 bytes|WINDOW_UPDATE by 0|DATA of 16385 bytes|DATA with no room for padding"
RULES = [
    Rule("nghttpd: an error of a stream is one of the connection (9113 5.1)", f"{CONTENT}|{SECTIONS}", "reset 5", "GOAWAY 5"),
    Rule(
        "nghttpd: what follows a malformed request is an error of the connection",
        f"{CONTENT}|{SECTIONS}",
        "reset 1",
        "GOAWAY 5",
    ),
    Rule("nghttpd: an error of a stream is one of the connection (9113 4.2, 6.3, 6.9)", OF_STREAMS, "reset", "GOAWAY"),
    Rule("nghttpd: another code for padding without its length (9113 4.2 or 6.1)", "DATA with no room for padding", "6", "1"),
    Rule("nghttpd: passes over content for a number that was left out (9113 5.1)", CONTENT, "reset 5", "nothing"),
    Rule(
        "nghttpd: passes over a window for a number that was left out (9113 5.1)", "WINDOW_UPDATE by 0", "reset 1", "nothing"
    ),
    Rule(
        "nghttpd: passes over padding for a number that was left out (9113 6.1)", "DATA that is all padding", "GOAWAY 1", ""
    ),
    Rule("nghttpd: the frame that ends a response waits for a window", f"{CONTENT}|{SECTIONS}", "200", "open", "a window of"),
    Rule("nghttpd: passes over fields for a number that was left out (9113 5.1.1)", SECTIONS, "GOAWAY 1", ""),
    Rule("nghttpd: reads a host that is not :authority (9113 8.3.1)", "GET with another host", "reset 1", "200"),
    Rule("nghttpd: PRIORITY_UPDATE means nothing (9218 7.1)", "PRIORITY_UPDATE of stream 0", "GOAWAY 1", ""),
    Rule("who had sent content before the window closed", "SETTINGS: a window of 0|SETTINGS: a window of 10", "200", "open"),
    Rule("who had sent content before the window closed", "SETTINGS: a window of 0|SETTINGS: a window of 10", "open", "200"),
]


def explain(steps: list[Step], ours: Outcome, theirs: Outcome) -> str | None:
    def told(one: Outcome, other: Outcome) -> str:
        if one.connection != "goes on":
            return one.connection
        numbers = sorted(one.streams.keys() | other.streams.keys())
        differs = [number for number in numbers if one.streams.get(number) != other.streams.get(number)]
        asked = differs if other.connection == "goes on" else numbers
        return ", ".join(one.streams.get(number, "nothing") for number in asked)

    mine, yours = told(ours, theirs), told(theirs, ours)
    for rule in RULES:
        is_last = steps[-1].name in rule.last.split("|")
        has_besides = any(rule.besides in step.name for step in steps)
        if is_last and has_besides and rule.ours in mine and rule.theirs in yours:
            return rule.why
    return None


# -- the servers ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def nghttpd() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "index.html").write_text("hello\n")
        program = shutil.which("nghttpd") or sys.exit("nghttpd is not installed (Debian: nghttp2-server)")
        argv = [program, "--no-tls", "-a", "127.0.0.1", "-d", directory, "--echo-upload", str(port)]
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.01)
            yield port
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def kacore_server(io: str) -> Iterator[int]:
    import kacore
    from tests.wire.conftest import Running

    running = Running(App(), io=io, policy=kacore.Policy())
    if running.failure is not None:
        raise running.failure
    try:
        yield running.port
        running.check_empty()
    finally:
        running.stop(now=True)


def compare(runs: int, seed: int, io: str = "epoll", tell: Callable[[str], None] = print) -> list[str]:
    """What is left unexplained, as text."""
    seeds, unexplained, found = random.Random(seed), [], collections.Counter[str]()
    with kacore_server(io) as ours, nghttpd() as theirs:
        for _ in range(runs):
            steps = story(seeds)
            if not outcome(ours, steps).disagrees(outcome(theirs, steps)):
                found["they agree"] += 1
                continue
            short, mine, yours = shortest(steps, (ours, theirs))
            why = explain(short, mine, yours)
            if why is None:  # one of them may have been slow
                mine, yours = (outcome(port, short, PATIENCE) for port in (ours, theirs))
                why = explain(short, mine, yours) if mine.disagrees(yours) else "they agree when there is time"
            if why is None:
                names = " + ".join(step.name for step in short)
                unexplained.append(f"{names}\n    kacore:  {mine}\n    nghttpd: {yours}")
            found[why or "unexplained"] += 1
    for why, n in found.most_common():
        tell(f"{n:7} {why}")
    return unexplained


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--io", choices=("epoll", "transports"), default="epoll")
    arguments = parser.parse_args()
    unexplained = compare(arguments.runs, arguments.seed, arguments.io)
    for one in sorted(set(unexplained)):
        print(one)
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
