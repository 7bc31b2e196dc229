"""Compile and run the C tests of the core: every tests/c/*_test.c, plainly and with sanitizers."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SRC = HERE.parent.parent / "src"
COMPILER = os.environ.get("CC", "cc")
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Werror"]
BUILDS = {
    "plain": ["-O2"],
    "sanitized": ["-O1", "-g", "-DKA_DEBUG=1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no C compiler called {COMPILER!r}")
@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("program", sorted(HERE.glob("*_test.c")), ids=lambda path: path.stem)
def test_c_program_passes_its_checks(program, build, tmp_path):
    linked = re.search(r"link:([\w ]+)", program.read_text())
    assert linked, f"{program.name} names no files of the core in a `link:` comment"
    sources = [str(SRC / f"{name}.c") for name in linked[1].split()]
    binary = tmp_path / program.stem
    command = [COMPILER, "-std=gnu11", *WARNINGS, *BUILDS[build], f"-I{SRC}", f"-I{HERE}"]
    command += [str(program), *sources, "-o", str(binary)]
    compiled = subprocess.run(command, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    ran = subprocess.run([str(binary)], capture_output=True, text=True, timeout=50)
    assert ran.returncode == 0, ran.stdout + ran.stderr
