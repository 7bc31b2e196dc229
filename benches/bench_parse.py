"""How long does one request head take, in nanoseconds: kacore, and peers in the same interleaved run?

Two tables. From Python the full result: method, target, version, all headers and whether the connection is
kept, by parse_parts (`full`) or from the attributes of parse_head's Head (`Head`), for `lazy` a Head of which only
keep_alive is read, and for `feed` the same from a RequestParser; by each way of scanning that there is. What no parser can
go below stands first: a compiled call that does nothing, and one that makes one object. A peer is asked in a
process without kacore, and once more (`beside`) in ours, where kacore has just read a head and is idle: the two must not
differ. From C: offsets of everything.
`make bench-parse` makes .venv-bench with the peers and runs this. Best and median of the rounds.
"""

import argparse
import ctypes
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from heads import BROWSER, HEADS, INPUTS
from parse_peers import Alone, peers, timed

import kacore
from kacore import _core

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench"
SLICE = 0.02  # seconds that one measurement should take


def kacore_full(pieces):
    parse_parts = kacore.parse_parts
    for piece in pieces:
        _method, _target, _version, _headers, _keep_alive, _ = parse_parts(piece)


def kacore_full_pipelined(pieces):
    parse_parts = kacore.parse_parts
    for piece in pieces:
        offset, n = 0, len(piece)
        while offset < n:
            _method, _target, _version, _headers, _keep_alive, offset = parse_parts(piece, offset)


def kacore_attributes(pieces):
    parse_head = kacore.parse_head
    for piece in pieces:
        head = parse_head(piece)
        head.method, head.target, head.version, head.headers, head.keep_alive  # noqa: B018


def kacore_attributes_pipelined(pieces):
    parse_head = kacore.parse_head
    for piece in pieces:
        offset, n = 0, len(piece)
        while offset < n:
            head = parse_head(piece, offset)
            head.method, head.target, head.version, head.headers, head.keep_alive  # noqa: B018
            offset += head.nbytes


def kacore_lazy(pieces):
    parse_head = kacore.parse_head
    for piece in pieces:
        parse_head(piece).keep_alive  # noqa: B018


def kacore_lazy_pipelined(pieces):
    parse_head = kacore.parse_head
    for piece in pieces:
        offset, n = 0, len(piece)
        while offset < n:
            head = parse_head(piece, offset)
            head.keep_alive  # noqa: B018
            offset += head.nbytes


def kacore_feed(pieces):
    parser, head_type = kacore.RequestParser(), kacore.Head
    for piece in pieces:
        for event in parser.feed(piece):
            if type(event) is head_type:
                event.keep_alive  # noqa: B018


def a_call(pieces):
    nothing = callable
    for piece in pieces:
        nothing(piece)


def an_object(pieces):
    one = iter
    for piece in pieces:
        one(piece)


def python_measures(name, alone):
    """{reader: seconds of n times}: kacore by every way of scanning, each peer alone, and each beside kacore."""
    piped, pieces = name == "pipe16", INPUTS[name]
    own = {
        "full": kacore_full_pipelined if piped else kacore_full,
        "Head": kacore_attributes_pipelined if piped else kacore_attributes,
        "lazy": kacore_lazy_pipelined if piped else kacore_lazy,
        "feed": kacore_feed,
    }
    # One for each head, also where a piece has sixteen.
    heads = pieces * (HEADS[name] // len(pieces))
    floors = {"a call": a_call, "a call, an object": an_object}
    measures = {floor: timed(function, heads) for floor, function in floors.items()}
    measures |= {
        f"{reader}, {variant}": scanning_by(variant, timed(function, pieces))
        for variant in _core.simd_variants()
        for reader, function in own.items()
    }
    for peer, function in peers(name).items():
        measures[peer] = alone.measure(name, peer)
        measures[f"{peer} beside"] = beside_kacore(timed(function, pieces))
    return measures


def scanning_by(variant, measure):
    def seconds(n):
        _core.set_simd_variant(variant)
        return measure(n)

    return seconds


def beside_kacore(measure):
    """In kacore's process, where it has just read one head and is idle now."""

    def seconds(n):
        _core.set_simd_variant(None)
        kacore.parse_head(BROWSER)
        return measure(n)

    return seconds


def interleaved(measures, rounds):
    """{name: run(n) -> seconds} -> {name: seconds of one time, per round}; every round runs all once."""
    times, repeats = {name: [] for name in measures}, {}
    for name, run in measures.items():
        run(1)
        n = 1
        start = time.perf_counter()
        while time.perf_counter() - start < SLICE / 2:
            n *= 2
            start = time.perf_counter()
            run(n)
        repeats[name] = n
    for _ in range(rounds):
        for name, run in measures.items():
            times[name].append(run(repeats[name]) / repeats[name])
    return times


def unpack(pattern, wanted):
    """A directory of a peer's source out of its sdist in build/peers; None when it is not there."""
    for archive in sorted((ROOT / "build" / "peers").glob(pattern)):
        with tarfile.open(archive) as tar:
            tar.extractall(BUILD / "peers", filter="data")
        return next((BUILD / "peers").glob(wanted))
    return None


def c_library():
    """The bench in C, with its peers when their sources are there. All is built with the same flags."""
    BUILD.mkdir(parents=True, exist_ok=True)
    llhttp = unpack("httptools-*.tar.gz", "httptools-*/vendor/llhttp")
    pico = unpack("gunicorn_h1c-*.tar.gz", "gunicorn_h1c-*/src/gunicorn_h1c/picohttpparser")
    cc, flags = os.environ.get("CC", "cc"), ["-std=gnu11", "-O3", "-fPIC", f"-I{ROOT / 'src/core'}"]
    objects = []
    sources = [(ROOT / "src/core/http" / name, []) for name in ("ka_head.c", "ka_scan.c")]
    if llhttp and pico:
        sources += [(path, [f"-I{llhttp / 'include'}"]) for path in sorted((llhttp / "src").glob("*.c"))]
        sources += [(pico / "picohttpparser.c", ["-msse4.2"])]
        own = ["-DWITH_PEERS", f"-I{llhttp / 'include'}", f"-I{pico}"]
    else:
        print("the sources of llhttp and picohttpparser are not in build/peers", file=sys.stderr)
        own = []
    for path, extra in [*sources, (ROOT / "benches" / "parse.c", own)]:
        objects.append(str(BUILD / f"{path.stem}.o"))
        subprocess.run([cc, *flags, *extra, "-c", str(path), "-o", objects[-1]], check=True)
    library = BUILD / "libparse.so"
    subprocess.run([cc, "-shared", *objects, "-o", str(library), "-ldl"], check=True)
    return ctypes.CDLL(str(library))


def c_measures(library, name):
    run = library.bench_run
    run.restype = ctypes.c_double
    pieces = INPUTS[name]
    buffers = (ctypes.c_char_p * len(pieces))(*pieces)
    lens = (ctypes.c_size_t * len(pieces))(*map(len, pieces))

    def measure(parser):
        def seconds(n):
            heads, rounds = ctypes.c_size_t(HEADS[name]), ctypes.c_long(n)
            return run(parser.encode(), buffers, lens, ctypes.c_size_t(len(pieces)), heads, rounds) / 1e9

        return seconds

    ours = [f"kacore {variant}" for variant in _core.simd_variants()]
    measures = {parser: measure(parser) for parser in (*ours, "pico debian", "pico sse4.2", "llhttp")}
    for parser, seconds in list(measures.items()):
        answer = seconds(1) * 1e9
        if round(answer) == -2:
            raise SystemExit(f"{parser} does not read {name} as {HEADS[name]} heads")
        if round(answer) == -1:
            del measures[parser]
    return measures


def table(title, rows, against):
    """rows: {input: {reader: [seconds a head]}}. Prints best (median) in ns, then ratios of bests."""
    readers = list(next(iter(rows.values())))
    print(f"\n{title}\n{'':22}" + "".join(f"{name:>16}" for name in rows))
    for reader in readers:
        cells = [
            (min(times[reader]) * 1e9, statistics.median(times[reader]) * 1e9) for times in rows.values()
        ]
        print(f"{reader:22}" + "".join(f"{best:8.1f} ({median:.0f})".rjust(16) for best, median in cells))
    for ours, peer in against:
        if ours in readers and peer in readers:
            ratios = [min(times[peer]) / min(times[ours]) for times in rows.values()]
            print(
                f"{ours + ' is faster than ' + peer + ' by':54}"
                + "".join(f"{ratio:9.2f}x" for ratio in ratios)
            )


def processor():
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--only", choices=["c", "python"])
    options.add_argument("--inputs", default=",".join(INPUTS))
    options.add_argument("--raw", type=Path, help="write all times to this file, as JSON")
    chosen = options.parse_args()
    best = _core.simd_variants()[-1]
    print(
        f"{processor()}, CPython {platform.python_version()}, kacore {kacore.__version__} scanning by {best}"
    )
    print(f"{chosen.rounds} rounds; ns a head: best (median)")
    raw, names = {}, chosen.inputs.split(",")
    if chosen.only != "c":
        alone = Alone()
        raw["python"] = {name: interleaved(python_measures(name, alone), chosen.rounds) for name in names}
        alone.close()
    if chosen.only != "python":
        library = c_library()
        raw["c"] = {name: interleaved(c_measures(library, name), chosen.rounds) for name in names}
    for part in raw.values():
        for name, times in part.items():
            part[name] = {reader: [t / HEADS[name] for t in values] for reader, values in times.items()}
    if "python" in raw:
        others = ("httptools", "gunicorn_h1c", "aiohttp", "h11")
        ratios = [(f"full, {best}", peer) for peer in others] + [(f"lazy, {best}", "httptools")]
        ratios += [(f"feed, {best}", "httptools")]
        table("From Python", raw["python"], ratios + [(peer, f"{peer} beside") for peer in others])
    if "c" in raw:
        table("From C", raw["c"], [(f"kacore {best}", peer) for peer in ("pico debian", "pico sse4.2", "llhttp")])
    if chosen.raw:
        chosen.raw.write_text(json.dumps(raw))


if __name__ == "__main__":
    main()
