"""How many nanoseconds of CPU time does HPACK take for one head: kacore and libnghttp2 in one run? How many bytes?

The blocks are libnghttp2's own (needs libnghttp2-dev; without it kacore is measured alone). Best and median of the rounds.
"""

import argparse
import ctypes
import os
import statistics
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench"
CORE = ROOT / "src" / "core"
SLICE = 0.005  # seconds that one measurement should take
QUESTIONS = (
    "decode a browser's first head",
    "decode the heads behind it",
    "encode a repeated response head",
)


def library():
    BUILD.mkdir(parents=True, exist_ok=True)
    cc, target = os.environ.get("CC", "cc"), BUILD / "libhpack.so"
    sources = [ROOT / "benches" / "hpack.c", *(p for room in ("h2", "http") for p in sorted((CORE / room).glob("*.c")))]
    command = [*cc.split(), "-std=gnu11", "-O3", "-shared", "-fPIC", f"-I{CORE}", *map(str, sources), "-o", str(target)]
    if subprocess.run([*command, "-DWITH_NGHTTP2", "-lnghttp2"], capture_output=True).returncode:
        subprocess.run(command, check=True)
    made = ctypes.CDLL(str(target))
    made.bench_run.restype = ctypes.c_double
    return made


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=101)
    chosen = options.parse_args()
    made = library()
    readers = ("kacore", "nghttp2") if made.bench_begin() else ("kacore",)
    print(f"{chosen.rounds} rounds; ns: best (median)")
    for what, question in enumerate(QUESTIONS):
        times = {reader: [] for reader in readers}
        once = made.bench_run(0, what, ctypes.c_long(1000)) / 1000
        n = max(1, int(SLICE * 1e9 / once))
        for _ in range(chosen.rounds):
            for i, reader in enumerate(readers):
                taken = made.bench_run(i, what, ctypes.c_long(n)) / n
                if taken < 0:
                    raise SystemExit(f"{reader} does not {question}")
                times[reader].append(taken)
        cells = "".join(f"{reader} {min(t):7.0f} ({statistics.median(t):.0f})  " for reader, t in times.items())
        ratio = f"{min(times['nghttp2']) / min(times['kacore']):.2f}x" if "nghttp2" in times else ""
        print(f"{question:36}{cells}{ratio}")
    figures = (ctypes.c_uint32 * 9)()
    made.bench_bytes(figures)
    print("bytes on the wire: browser's head {}, the next {}; response's head {}, the next ones {}, {}".format(*figures[:5]))
    print("bytes of an idle connection: decoder {} + {}, encoder {} + {}".format(*figures[5:]), "=", sum(figures[5:]))


if __name__ == "__main__":
    main()
