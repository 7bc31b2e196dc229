"""How many instructions do the core's C functions take: the parser's for one head or body, and all of them
for one request and its response, without sockets?

callgrind counts the functions of src/ka_*.c with the intrinsics they use and nothing else, so the
figure repeats to the instruction. The counts are kept in benches/instructions.json, keyed by compiler
and way of scanning; 3 % more than kept is a failure. A key that is not kept yet is reported and is no
failure; --keep writes the counts.
"""

import argparse
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

from heads import BROWSER, HEADS, INPUTS, WRK

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench"
KEPT = ROOT / "benches" / "instructions.json"
TOLERANCE = 1.03

POST = b"POST /upload HTTP/1.1\r\nHost: a.example\r\n"
BODIES = {
    "length body": [POST + b"Content-Length: 1024\r\n\r\n" + b"x" * 1024],
    "chunked body": [
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"400\r\n%b\r\n" % (b"x" * 1024) * 4 + b"0\r\n\r\n"
    ],
}

# Whole requests: what arrives in one read, how many requests that is, and pieces of content in each response.
TALKS = {
    "request": ([WRK], 1, 1),
    "request, browser": ([BROWSER], 1, 1),
    "request, 16 pipelined": ([WRK * 16], 16, 1),
    "request, 1 KiB posted": (BODIES["length body"], 1, 1),
    "request, 16 chunks back": ([WRK], 1, 16),
}
PARSER = ("http",)
TALK = ("http", "h2", "table", "talk")
CORE = ROOT / "src" / "core"


def build(name, rooms):
    BUILD.mkdir(parents=True, exist_ok=True)
    cc = os.environ.get("CC", "cc")
    sources = [ROOT / "benches" / f"{name}.c", *(path for room in rooms for path in sorted((CORE / room).glob("*.c")))]
    subprocess.run(
        [cc, "-std=gnu11", "-O3", "-g", f"-I{CORE}", *sources, "-o", BUILD / name], check=True
    )
    return BUILD / name


def compiler_version():
    cc = os.environ.get("CC", "cc")
    said = subprocess.run([cc, "--version"], capture_output=True, text=True, check=True).stdout
    return said.splitlines()[0]


def ways(binary):
    for way in ("scalar", "sse4.2", "neon"):
        if subprocess.run([binary, way, os.devnull], check=False).returncode != 4:
            yield way


def count(binary, way, pieces, n_counted, *more):
    """Instructions in the functions of src/ka_*.c, divided by `n_counted`. more: arguments of the program."""
    data = BUILD / "input.bin"
    data.write_bytes(b"".join(struct.pack("=I", len(piece)) + piece for piece in pieces))
    out = BUILD / "callgrind.out"
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--toggle-collect=measured"]
    subprocess.run([*command, binary, way, data, *more], check=True, capture_output=True, timeout=120)
    total, ours, is_callers = 0, False, False
    # "fl=", "fi=", "fe=" name the file of the cost lines behind; the line behind "calls=" is not its own.
    text = out.read_text()
    files = dict(re.findall(r"^c?f[lie]=(\(\d+\)) (.+)$", text, re.MULTILINE))
    lines = iter(text.splitlines())
    for line in lines:
        if found := re.match(r"f([lie])=(\(\d+\))", line):
            # "fl" is the function's own file: what the program here does to call one is not the core's.
            is_callers = files[found[2]].endswith(f"{binary.name}.c") if found[1] == "l" else is_callers
            ours = not is_callers and re.search(r"/ka_\w+\.[ch]$|intrin\.h$|arm_neon\.h$", files[found[2]]) is not None
        elif line.startswith("calls="):
            next(lines)
        elif ours and re.match(r"[+*\d-]", line):
            total += int(line.split()[1])
    return round(total / n_counted, 1)


def count_all(parser, talk, way):
    """Every count of one way of scanning, by name."""
    counts = {
        name: count(parser, way, pieces, HEADS.get(name, len(pieces)))
        for name, pieces in {**INPUTS, **BODIES}.items()
    }
    for name, (pieces, n_requests, n_pieces) in TALKS.items():
        counts[name] = count(talk, way, pieces, n_requests, str(n_pieces))
    return counts


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--keep", action="store_true", help="write the counts to benches/instructions.json")
    chosen = options.parse_args()
    parser, talk = build("instructions", PARSER), build("instructions_talk", TALK)
    compiler = compiler_version()
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    failed = False
    for way in ways(parser):
        key = f"{compiler}, {way}"
        counts = count_all(parser, talk, way)
        print(key if key in kept else f"{key}: nothing kept to compare with")
        for name, now in counts.items():
            before = kept.get(key, {}).get(name, now)
            verdict = "MORE" if now > before * TOLERANCE else "fewer" if now < before / TOLERANCE else ""
            failed |= verdict == "MORE"
            print(
                f"  {name:24}{now:10.1f} instructions, kept {before:8.1f} {now / before - 1:+7.1%} {verdict}"
            )
        kept[key] = counts
    if chosen.keep:
        KEPT.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
        return 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
