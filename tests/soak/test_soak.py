"""The soak in small: a few seconds of it, with failing system calls; `make soak` is the long form."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).with_name("soak.py")


@pytest.mark.needs("cc")
def test_a_few_seconds_of_hundreds_of_clients_leave_the_books_balanced(python_environment, tmp_path):
    argv = [sys.executable, str(SOAK), "--scene", "asgi-faults", "--seconds", "2", "--connections", "600"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, cwd=tmp_path, env=python_environment)
    assert done.returncode == 0, done.stdout + done.stderr
