"""Counters of a table in memory that is given to it, and requests that cross an idle close."""

import mmap

import pytest

from kacore import ConnectionTable, LocalError
from kacore._core import COUNTERS_BYTES, settle_counters, sum_counters


def serve(table, now, n=1):
    """One connection with `n` requests, left idle."""
    conn = table.open(now)
    for _ in range(n):
        table.head_done(conn, now)
        table.responded(conn, now)
    return conn


def test_table_goes_on_counting_where_the_one_before_it_stopped():
    page = mmap.mmap(-1, COUNTERS_BYTES)
    first = ConnectionTable(counters=page)
    first.close(serve(first, 1.0, n=3))
    second = ConnectionTable(counters=page)
    serve(second, 1.0, n=2)
    assert second.stats()["requests"] == sum_counters([page])["requests"] == 5
    assert len(second) == sum_counters([page])["open"] == 1


def test_counters_of_several_tables_add_up():
    pages = [bytearray(COUNTERS_BYTES) for _ in range(3)]
    tables = [ConnectionTable(counters=page) for page in pages]
    for n, table in enumerate(tables, 1):
        table.close(serve(table, 1.0, n=n), "max_age")
    total = sum_counters(pages)
    assert (total["accepted"], total["requests"], total["reused"]) == (3, 6, 3)
    assert total["closed"]["max_age"] == 3
    assert total["open"] == 0
    assert sum(total["requests_per_connection"]["counts"]) == 3


def test_what_a_dead_process_had_open_is_settled_once():
    page = bytearray(COUNTERS_BYTES)
    table = ConnectionTable(counters=page)
    for _ in range(4):
        serve(table, 1.0)
    assert settle_counters(page) == 4
    assert settle_counters(page) == 0
    assert sum_counters([page])["closed"]["error"] == 4


@pytest.mark.parametrize("buffer", [b"\0" * COUNTERS_BYTES, bytearray(COUNTERS_BYTES - 1), "text"])
def test_buffer_that_cannot_hold_them_is_refused(buffer):
    with pytest.raises((ValueError, BufferError, TypeError)):
        ConnectionTable(counters=buffer)


def test_buffer_stays_alive_and_whole_while_its_table_counts_in_it():
    page = bytearray(COUNTERS_BYTES)
    table = ConnectionTable(counters=page)
    with pytest.raises(BufferError):
        page.clear()
    del table
    page.clear()


def test_first_bytes_after_an_idle_close_are_a_race_once_a_connection():
    table = ConnectionTable(keep_alive_timeout=5.0)
    conn = serve(table, 1.0)
    assert table.due(6.0) == (conn, "half_close", "idle_timeout")
    table.lingering(conn, 6.0)
    assert table.linger_progress(conn, 40, 6.01) is None
    assert table.linger_progress(conn, 40, 6.02) is None
    assert table.stats()["races"] == 1
    table.check()


def test_bytes_after_an_answer_that_closed_are_no_race():
    table = ConnectionTable()
    conn = table.open(1.0)
    table.head_done(conn, 1.0)
    table.lingering(conn, 1.0)
    table.linger_progress(conn, 40, 1.1)
    assert table.stats()["races"] == 0
    table.close(conn)
    with pytest.raises(LocalError):
        table.linger_progress(conn, 1, 1.2)
    assert table.stats()["races"] == 0
