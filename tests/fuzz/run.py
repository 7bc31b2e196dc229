"""Fuzz the C core for a while: `make fuzz SECONDS=60`, or `python tests/fuzz/run.py --runs 10000000 --target talk`.

Each target in turn gets its share of the time. First its positive control: the same target built with a planted bug must
be caught within its own short run, else the job fails. Then the real one, with the seeds of tests/fuzz/corpus where it has
some; where a target checks by itself what it sees, half of the time without the sanitizers, which gives several times as
many. Needs clang with libFuzzer. What is found is left in build/fuzz as <target>-crash-*; TELL=1 in the environment has the
talk's target say what it does with one.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CORE = ROOT / "src" / "core"
BUILD = ROOT / "build" / "fuzz"


class Target(NamedTuple):
    rooms: str  # of the core
    max_len: int
    seeds: str
    file: str  # where the bug is planted
    sound: str
    planted: str
    flags: tuple  # for all files
    room_flags: dict  # for one of them
    checks_itself: bool


FAILING = ("-Dmalloc=failing_malloc", "-Dcalloc=failing_calloc", "-Drealloc=failing_realloc")

TARGETS = {
    # An overread: a block that is not loaded further back at the end of the input.
    "core": Target(
        "http", 2048, "corpus", "http/ka_head_lines.h", "*q = p < last ? p : last;", "*q = p;", (), {}, False
    ),
    # A byte too many counts as sent when a large write was taken in part. What steers a play are single bytes, so that
    # following comparisons gains nothing; the table has its own tests, and its parts are kept for the next play.
    "talk": Target(
        "http h2 table talk",
        96,
        "",
        "talk/ka_talk.c",
        "talk->out->start += nbytes;",
        "talk->out->start += nbytes + (nbytes > 2900);",
        ("-fno-sanitize-coverage=trace-cmp",),
        {"table": ("-Daligned_alloc=kept_alloc", "-Dfree=kept_free", "-fno-sanitize=fuzzer-no-link")},
        True,
    ),
    # A byte less than a large frame of content has is taken off its stream's window.
    "session": Target(
        "http h2 table talk",
        256,
        "",
        "talk/ka_h2_out.c",
        "s->send_window -= (int32_t)n;",
        "s->send_window -= (int32_t)(n - (n > 2900));",
        ("-fno-sanitize-coverage=trace-cmp",),
        {
            "table": ("-Daligned_alloc=kept_alloc", "-Dfree=kept_free", "-fno-sanitize=fuzzer-no-link"),
            "talk": FAILING,
            "h2": FAILING,
        },
        True,
    ),
    # An overread: a word is loaded at the end of a string of 7 bytes.
    "h2": Target(
        "h2 http",
        1024,
        "",
        "h2/ka_huffman.c",
        "in->end - in->from >= 8",
        "in->end - in->from >= 7",
        (),
        {},
        True,
    ),
}


def build(name, target, suffix="", sanitizers=",address,undefined"):
    made = BUILD / f"{name}{suffix}-objects"
    made.mkdir(parents=True, exist_ok=True)
    sources = [path for room in target.rooms.split() for path in (CORE / room).glob("*.c")]
    objects = [compiled(source, target, CORE, made, sanitizers) for source in (*sources, HERE / f"fuzz_{name}.c")]
    return linked(BUILD / f"{name}{suffix}", objects, sanitizers)


def build_control(name, target, sanitizers=",address,undefined"):
    """The real one with the bug in it: only what has the planted line is compiled again."""
    copy = BUILD / f"{name}-planted"
    shutil.copytree(CORE, copy, dirs_exist_ok=True)
    file = copy / target.file
    text = file.read_text()
    if text.count(target.sound) != 1:
        sys.exit(f"the line to plant a bug in is not in {file.name} exactly once: {target.sound}")
    file.write_text(text.replace(target.sound, target.planted))
    bad = [path for path in file.parent.glob("*.c") if path == file or f'#include "{target.file}"' in path.read_text()]
    objects = {path.name: path for path in (BUILD / f"{name}-objects").iterdir()}
    objects |= {f"{path.stem}.o": compiled(path, target, copy, copy, sanitizers) for path in bad}
    return linked(BUILD / f"{name}-control", objects.values(), sanitizers)


def compiled(source, target, source_dir, made, sanitizers):
    flags = ["-std=gnu11", "-O2", "-g", "-DKA_DEBUG=1", "-fno-sanitize-recover=all", f"-fsanitize=fuzzer-no-link{sanitizers}"]
    flags += [*target.flags, *target.room_flags.get(source.parent.name, ()), f"-I{source_dir}"]
    subprocess.run(["clang", *flags, "-c", source, "-o", made / f"{source.stem}.o"], check=True)
    return made / f"{source.stem}.o"


def linked(binary, objects, sanitizers):
    subprocess.run(["clang", f"-fsanitize=fuzzer{sanitizers}", *objects, "-o", binary], check=True)
    return binary


def run(binary, target, *options):
    found = BUILD / f"found-{binary.name}"
    found.mkdir(parents=True, exist_ok=True)
    # Stack traces of allocations, and a large quarantine, cost half of the speed; a finding is run again with them by hand.
    quick = {
        **os.environ,
        "ASAN_OPTIONS": "malloc_context_size=0:detect_stack_use_after_return=0:max_malloc_fill_size=0:"
        "quarantine_size_mb=1:thread_local_quarantine_size_kb=64",
    }
    seeds = [HERE / target.seeds] if target.seeds else []
    command = [binary, f"-max_len={target.max_len}", "-print_final_stats=1", "-print_funcs=0", "-entropic=0"]
    command += [f"-artifact_prefix={BUILD}/{binary.name}-", *options, found, *seeds]
    return subprocess.run(command, capture_output=True, text=True, env=quick)


def fuzz(name, limit, n):
    """limit, n: the fuzzer's option for how long, and its number."""
    target = TARGETS[name]
    real = build(name, target)
    control = run(build_control(name, target), target, "-max_total_time=60")
    if control.returncode == 0 or not re.search("AddressSanitizer|broken:", control.stderr):
        sys.exit(f"{name}: the planted bug was not caught\n" + control.stderr[-2000:])
    print(f"{name}: positive control: the planted bug was caught", flush=True)
    if target.checks_itself:
        search(name, build(name, target, "-plain", ""), target, limit, n // 2)
        n -= n // 2
    search(name, real, target, limit, n)


def search(name, binary, target, limit, n):
    result = run(binary, target, f"-{limit}={max(1, n)}")
    if result.returncode:
        sys.exit(f"{name}:\n" + result.stderr[-6000:])
    stats = dict(re.findall(r"stat::(\w+):\s+(\d+)", result.stderr))
    n, speed = stats["number_of_executed_units"], stats["average_exec_per_sec"]
    print(f"{binary.name}: {n} executions, {speed} a second, nothing found", flush=True)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--target", choices=TARGETS, action="append", help="default: all")
    length = options.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=int, default=60, help="for all targets together")
    length.add_argument("--runs", type=int, help="of each target")
    chosen = options.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    names = chosen.target or list(TARGETS)
    for name in names:
        fuzz(name, *(("runs", chosen.runs) if chosen.runs else ("max_total_time", chosen.seconds // len(names))))


if __name__ == "__main__":
    main()
