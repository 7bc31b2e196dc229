"""Compile and run the C tests of the core, tests/c/*_test.c, plainly and with sanitizers (a leak fails).

`make cross` runs them on other processors, and with musl: CC makes the programs, TEST_EMULATOR, which may be empty, runs
them. There is no sanitizer's library then; undefined behaviour ends the program with a trap.

What is compiled stays in build/c-tests for the next run, for as long as nothing that it is made of changes.
"""

import fcntl
import functools
import hashlib
import os
import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SRC = ROOT / "src"
KEPT = ROOT / "build" / "c-tests"
COMPILER = shlex.split(os.environ.get("CC", "cc"))
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Werror"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
PATIENCE = 150
EMULATOR = os.environ.get("TEST_EMULATOR")
if EMULATOR is not None:
    PATIENCE = 600
    SANITIZERS = ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
BUILDS = {"plain": ["-O2"], "sanitized": ["-O1", "-g", "-DKA_DEBUG=1", *SANITIZERS]}


@functools.cache
def surroundings():
    """A digest of all that an object may be made of besides its own source and flags."""
    version = subprocess.run([*COMPILER, "--version"], capture_output=True, text=True, check=True).stdout
    headers = sorted(path for where in (HERE, SRC) for path in where.rglob("*.h"))
    return hashlib.sha256(b"".join([version.encode(), *(path.read_bytes() for path in headers)]))


@pytest.fixture(scope="session")
def compile_c(need, lacks, tmp_path_factory):
    """compile_c(build, file, ..., output=..., link=[flags]) with the flags of that build; an error fails the test. A file
    is compiled once for each build, whichever process of the run wants it first, and several at a time."""
    need(COMPILER[0])
    own = tmp_path_factory.getbasetemp()
    KEPT.mkdir(parents=True, exist_ok=True)

    def run(build, *arguments):
        flags = ["-std=gnu11", *WARNINGS, *BUILDS[build], f"-I{SRC / 'core'}", f"-I{SRC / 'epoll'}", f"-I{HERE}"]
        return subprocess.run([*COMPILER, *flags, *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE)

    def compile_once(build, source, target):
        """Return: what the compiler complained about."""
        quickly = ["-O0"] if build == "sanitized" and source.parent == HERE else []
        key = surroundings().copy()
        key.update(repr([WARNINGS, BUILDS[build], quickly]).encode() + source.read_bytes())
        with open(target.with_suffix(".said"), "a+") as said:
            fcntl.flock(said, fcntl.LOCK_EX)
            said.seek(0)
            made_of, _, told = said.read().partition("\n")
            if made_of != key.hexdigest() or not told:
                said.truncate(0)
                done = run(build, *quickly, "-c", source, "-o", target)
                told = f"{done.returncode}\n{done.stderr}"
                said.write(f"{key.hexdigest()}\n{told}")
        status, _, complaint = told.partition("\n")
        return complaint if status != "0" else ""

    empty = own / "empty.c"
    empty.write_text("int main(void) { return 0; }\n")
    variant = hashlib.sha256(repr((COMPILER, EMULATOR)).encode()).hexdigest()[:8]  # on another processor, with another libc
    able = {build: run(build, empty, "-o", empty.with_suffix("")).returncode == 0 for build in BUILDS}

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compilations = {}

        def object_of(build, source):
            target = KEPT / f"{source.stem}-{build}-{variant}.o"
            if target not in compilations:
                compilations[target] = pool.submit(compile_once, build, source, target)
            return target

        def checked(build, *sources, output, link=()):
            if not able[build]:
                lacks(f"{COMPILER[0]} cannot make a {build} program")
            objects = [object_of(build, source) for source in sources]
            for made in objects:
                assert not compilations[made].result(), compilations[made].result()
            done = run(build, *objects, *link, "-o", output)
            assert done.returncode == 0, done.stderr

        yield checked


if EMULATOR is None:
    BUILDS["threads"] = ["-O1", "-g", "-fsanitize=thread"]
PROGRAMS = [
    (path, build)
    for path in sorted(HERE.glob("*_test.c"))
    for build in BUILDS
    if build != "threads" or path.stem == "threads_test"
]


def name(value):
    return getattr(value, "stem", value)


@pytest.mark.parametrize(("program", "build"), [p for p in PROGRAMS if p != (HERE / "engine_test.c", "plain")], ids=name)
def test_c_program_passes_its_checks(compile_c, launch, program, build, tmp_path):
    text = program.read_text()
    linked = re.search(r"link:([\w ]+)", text)
    assert linked, f"{program.name} names no rooms of src/ in a `link:` comment"
    sources = [path for room in linked[1].split() for path in SRC.rglob(f"{room}/*.c")]
    wrapped = re.search(r"wrap:([\w ]+)", text)
    faults, wraps = ([HERE / "faults.c"], [f"-Wl,--wrap={name}" for name in wrapped[1].split()]) if wrapped else ([], [])
    binary = tmp_path / program.stem
    compile_c(build, program, *sources, *faults, output=binary, link=wraps)
    # The sanitizer of threads wants memory where it was when the sanitizer was made.
    before = ["setarch", "-R"] if build == "threads" else shlex.split(EMULATOR or "")
    command = [*before, str(binary)]
    child = launch(*command, python=False, ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=1")
    assert child.wait(PATIENCE) == 0, child.text
