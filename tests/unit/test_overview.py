"""What is told of several processes, out of the pages that they share."""

import mmap
import os
import time

import pytest

from kacore import ConnectionTable, Policy
from kacore._core import COUNTERS_BYTES, read_gauges, settle_counters
from kacore.server import overview
from kacore.server.overview import Workers, told


@pytest.fixture
def pages():
    """Two slots of two pages."""
    return [[mmap.mmap(-1, COUNTERS_BYTES) for _ in range(2)] for _ in range(2)]


def worker(page, state="serving", n=0):
    table = ConnectionTable(counters=page, max_connections=100)
    table.tell_state(state)
    for _ in range(n):
        table.open(1.0)
    return table


def test_a_page_says_who_counts_in_it_until_that_process_is_gone(pages):
    page = pages[0][0]
    assert read_gauges(page) is None
    table = worker(page, "starting")
    found = read_gauges(page)
    assert (found["pid"], found["state"], found["max"]) == (os.getpid(), "starting", 100)
    assert 0 <= found["heard"] < 60
    with pytest.raises(ValueError, match="state='asleep': must be one of starting, serving, leaving"):
        table.tell_state("asleep")
    del table
    settle_counters(page)
    assert read_gauges(page) is None


def test_a_slot_counts_what_is_gone_and_leaving_and_names_who_serves(pages):
    leaving, serving = worker(pages[0][0], "leaving", n=3), worker(pages[0][1], n=2)
    one, other = told(pages, has_tls=False)["slots"]
    assert (one["ready"], one["leaving"], one["accepted"], one["open"], one["max"]) == (True, 1, 5, 5, 100)
    assert (other["ready"], other["pid"], other["heard"], other["accepted"]) == (False, None, None, 0)
    assert other["phases"].keys() == one["phases"].keys()
    total = told(pages, has_tls=True)["total"]
    assert (total["accepted"], total["max"], total["tls"]["failed"]) == (5, 100, 0)
    assert one["tls"] is None
    assert leaving and serving


def test_ready_is_who_has_one_that_serves_and_none_of_it_was_told_to_end(pages):
    workers = Workers(pages, [], Policy(), has_tls=False, since=0.0)
    assert not workers.is_ready
    tables = [worker(pages[0][0], "starting"), worker(pages[1][0])]
    assert workers.is_ready
    workers.is_ending = True
    assert not workers.is_ready
    workers.is_ending = False
    tables[1].tell_state("leaving")
    assert not workers.is_ready


def test_trouble_is_when_the_loops_of_all_who_serve_are_silent(pages, monkeypatch):
    workers = Workers(pages, [], Policy(), has_tls=False, since=0.0)
    assert workers.trouble == ""  # nobody serves yet: that is readiness
    tables = [worker(pages[0][0]), worker(pages[1][0])]
    assert workers.trouble == ""
    monkeypatch.setattr(overview, "SILENT_AFTER", 0.0)
    assert workers.trouble.splitlines() == [f"worker {k}: its event loop has not turned for 0 s" for k in range(2)]
    assert tables


def test_what_workers_have_learned_is_told_out_of_their_pages(pages):
    from kacore.server.learned import PAGE_BYTES, packed

    policy = Policy(keep_alive_timeout="auto")
    table = ConnectionTable(policy)
    for k in range(3):
        conn = table.open(100.0 * k, "192.0.2.1")
        table.head_done(conn, 100.0 * k)
        table.responded(conn, 100.0 * k)
        table.close(conn, "client", 100.0 * k + 60)
    shared = mmap.mmap(-1, PAGE_BYTES)
    data = packed(table.learned(400.0), PAGE_BYTES)
    shared[: len(data)] = data
    broken = mmap.mmap(-1, PAGE_BYTES)
    broken[:8] = b"\x09\0\0\0half"
    workers = Workers(pages, [shared, broken], policy, has_tls=False, since=time.time())
    (found,) = workers.learned(10)
    assert (found["network"], found["settled"], found["connections"]) == ("192.0.2.1", True, None)
    assert found["closes_after"] == pytest.approx(60, rel=0.1)
