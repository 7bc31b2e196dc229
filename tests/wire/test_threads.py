"""Threads that work at the same time, as they do without a GIL; with one it is still their order that must not matter."""

import asyncio
import io
import logging
import os
import sys
import threading
from pathlib import Path

import kacore
from kacore.server import logs
from kacore.server.learned import Learned

STRESS = Path(__file__).parents[1] / "soak" / "threads.py"


def test_pools_and_engines_answer_everybody_while_threads_look_at_them(launch):
    """For longer by hand: KACORE_STRESS=3000 requests of each client."""
    stress = launch(str(STRESS), "--requests", os.environ.get("KACORE_STRESS", "40"))
    assert stress.wait(600) == 0, stress.text
    assert stress.text.count(" 0 failures") == 3
    if "t" in sys.abiflags:
        assert "without a GIL" in stress.text  # importing kacore did not turn it on

def test_a_thread_whose_loop_is_held_up_keeps_no_lines_of_other_threads():
    written = io.StringIO()
    handler = logs.LineHandler(written)
    has_written, goes_on = threading.Event(), threading.Event()

    async def held_up():
        handler.write_line("of the first")
        has_written.set()
        goes_on.wait(30)

    async def other():
        handler.write_line("of the second")
        await asyncio.sleep(0)

    first = threading.Thread(target=lambda: asyncio.run(held_up()))
    first.start()
    has_written.wait(30)
    asyncio.run(other())
    said = written.getvalue()
    goes_on.set()
    first.join()
    assert said == "of the first\nof the second\n"


def test_two_engines_that_write_what_was_learned_at_the_same_time_use_two_files(monkeypatch, tmp_path):
    both, used = threading.Barrier(2), []

    def replace(beside, path):
        both.wait(30)
        used.append(beside)

    monkeypatch.setattr("os.replace", replace)
    table, logger = kacore.ConnectionTable(), logging.getLogger("test")
    known = Learned(table, logger, file=str(tmp_path / "known"), page=None, pages=[], writes_file=True)
    threads = [threading.Thread(target=known._write, args=[str(tmp_path / "known"), b"data"]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(used)) == 2
