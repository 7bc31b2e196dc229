"""Threads that work at the same time, as they do without a GIL; with one it is still their order that must not matter."""

import os
import sys
from pathlib import Path

STRESS = Path(__file__).parents[1] / "soak" / "threads.py"


def test_pools_and_engines_answer_everybody_while_threads_look_at_them(launch):
    """For longer by hand: KACORE_STRESS=3000 requests of each client."""
    stress = launch(str(STRESS), "--requests", os.environ.get("KACORE_STRESS", "40"))
    assert stress.wait(600) == 0, stress.text
    assert stress.text.count(" 0 failures") == 3
    if "t" in sys.abiflags:
        assert "without a GIL" in stress.text  # importing kacore did not turn it on
