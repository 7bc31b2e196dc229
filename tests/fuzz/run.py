"""Fuzz the C core for a while: `make fuzz SECONDS=60`, or `python tests/fuzz/run.py --runs 10000000`.

First the positive control: the same target built with a planted overread (a block that is not loaded
further back at the end of the input) must be caught within its own short run, else the job fails. Then
the real target, with the seeds of tests/fuzz/corpus. Needs clang with libFuzzer. What is found is left
in build/fuzz as crash-*.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "fuzz"
SAFE, PLANTED = "*q = p < last ? p : last;", "*q = p;"
SANITIZERS = "-fsanitize=fuzzer,address,undefined"


def build(name, source_dir):
    binary = BUILD / name
    sources = [source_dir / f"ka_{part}.c" for part in ("scan", "head", "body")]
    flags = [
        "-std=gnu11",
        "-O2",
        "-g",
        "-DKA_DEBUG=1",
        SANITIZERS,
        "-fno-sanitize-recover=all",
        f"-I{source_dir}",
    ]
    subprocess.run(["clang", *flags, HERE / "fuzz_core.c", *sources, "-o", binary], check=True)
    return binary


def planted_sources():
    copy = BUILD / "planted"
    copy.mkdir(parents=True, exist_ok=True)
    for path in (ROOT / "src").glob("ka_*.[ch]"):
        (copy / path.name).write_text(path.read_text())
    lines = copy / "ka_head_lines.h"
    text = lines.read_text()
    if text.count(SAFE) != 1:
        sys.exit(f"the line to plant the overread in is not in {lines.name} exactly once")
    lines.write_text(text.replace(SAFE, PLANTED))
    return copy


def run(binary, *options):
    found = BUILD / f"found-{binary.name}"
    found.mkdir(parents=True, exist_ok=True)
    # Stack traces of allocations cost half of the speed; a finding is run again with them by hand.
    quick = {**os.environ, "ASAN_OPTIONS": "malloc_context_size=0:detect_stack_use_after_return=0"}
    command = [binary, "-max_len=2048", "-print_final_stats=1", f"-artifact_prefix={BUILD}/", *options]
    return subprocess.run([*command, found, HERE / "corpus"], capture_output=True, text=True, env=quick)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    length = options.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=int, default=60)
    length.add_argument("--runs", type=int)
    chosen = options.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)

    control = run(build("control", planted_sources()), "-max_total_time=30")
    if control.returncode == 0 or "AddressSanitizer" not in control.stderr:
        sys.exit("the planted overread was not caught\n" + control.stderr[-2000:])
    print("positive control: the planted overread was caught")

    limit = f"-runs={chosen.runs}" if chosen.runs else f"-max_total_time={chosen.seconds}"
    result = run(build("core", ROOT / "src"), limit)
    if result.returncode:
        sys.exit(result.stderr[-6000:])
    stats = dict(re.findall(r"stat::(\w+):\s+(\d+)", result.stderr))
    n, speed = stats["number_of_executed_units"], stats["average_exec_per_sec"]
    print(f"{n} executions, {speed} a second, nothing found")


if __name__ == "__main__":
    main()
