"""Runs the C tests: each tests/c/test_*.c is a program that ends with status 0 or says what is wrong.

They are linked with the core as it stands in src/, with its assertions, without Python. In the run under the
sanitizers (`make asan`) the programs have them too, and there a leak is an error.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SRC = HERE.parents[1] / "src"
PROGRAMS = sorted(HERE.glob("test_*.c"))
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]


@pytest.fixture(scope="session")
def compile_c(need, sanitized):
    """compile_c("-c", file, "-o", object): one call of the compiler; its complaints fail the test."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    need(compiler[0])
    flags = [
        "-std=gnu11",
        "-g",
        "-O1",
        "-DKA_DEBUG=1",
        f"-I{SRC}",
        f"-I{HERE}",
        *(SANITIZERS if sanitized else []),
    ]

    def run(*arguments):
        done = subprocess.run(
            [*compiler, *flags, *map(str, arguments)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr

    return run


@pytest.fixture(scope="session")
def core(compile_c, tmp_path_factory):
    """The core's objects; a program links what it uses. Only Linux has what the engine calls."""
    where = tmp_path_factory.mktemp("core")
    objects = []
    for source in sorted(SRC.glob("ka_*.c")):
        if source.stem != "ka_engine" or sys.platform.startswith("linux"):
            objects.append(where / f"{source.stem}.o")
            compile_c("-c", source, "-o", objects[-1])
    subprocess.run(["ar", "rcs", where / "libka.a", *objects], check=True, timeout=60)
    return where / "libka.a"


@pytest.mark.parametrize("source", PROGRAMS, ids=lambda path: path.stem)
def test_c_program_ends_well(compile_c, core, launch, tmp_path, source):
    program = tmp_path / source.stem
    compile_c(source, core, "-o", program)
    child = launch(str(program), python=False, ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=1")
    assert child.wait() == 0, child.text
