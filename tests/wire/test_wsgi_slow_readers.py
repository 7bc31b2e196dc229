"""Slow clients hold no thread of a WSGI application: what they have not read waits in memory, then in files."""

import errno
import os
import threading
import time

import pytest

from kacore import Policy
from tests.wire.conftest import wait_until

PIECES = [bytes([65 + n % 26]) * (99_000 + n) for n in range(120)]  # 12 MB: more than the kernel takes
WHOLE = b"".join(PIECES)
SMALL = 32768  # of a client's receive buffer
ASK = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def nameless_files() -> int:
    names = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:  # closed meanwhile
            continue
    return sum("(deleted)" in name for name in names)


@pytest.fixture
def spool_files():
    """spool_files(): how many files without a name this process has more than when the test began."""
    before = nameless_files()
    return lambda: nameless_files() - before


def in_pieces(environ, start_response):
    start_response("200 OK", [])
    return [b"small"] if environ["PATH_INFO"] == "/small" else iter(PIECES)


def test_slow_readers_hold_no_thread_and_get_it_whole(start, client, spool_files):
    running = start(in_pieces, interface="wsgi", threads=1)
    slow = [client(running, receive_buffer=SMALL).send(ASK) for _ in range(3)]
    assert client(running).get("/small").body == b"small"
    assert spool_files() >= 3
    for c in slow:
        assert c.response().body == WHOLE
    wait_until(lambda: spool_files() == 0, "the files are given back")


def test_threads_that_wait_for_their_clients_are_stood_in_for(start, client):
    running = start(in_pieces, interface="wsgi", threads=2, policy=Policy(max_response_buffer=1 << 20))
    slow = [client(running, receive_buffer=SMALL).send(ASK) for _ in range(6)]
    wait_until(lambda: running.phase_count("write") == 6)
    for _ in range(3):
        assert client(running).get("/small").body == b"small"
    for c in slow:
        assert c.response().body == WHOLE
    assert client(running).get("/small").body == b"small"


def test_a_length_that_was_promised_holds_for_what_went_through_a_file(start, client, spool_files):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", str(len(WHOLE))), ("Connection", "close")])
        return iter(PIECES)

    c = client(start(app, interface="wsgi", threads=1), receive_buffer=SMALL).send(ASK)
    wait_until(spool_files)
    c.head()
    assert c.rest() == WHOLE


def test_what_is_ahead_of_a_client_is_bounded_and_then_the_thread_waits(start, client, spool_files):
    n_made = 0
    sizes = iter([1000] * 100_000)

    def app(environ, start_response):
        nonlocal n_made
        start_response("200 OK", [])
        for size in sizes:
            n_made += size
            yield b"x" * size

    running = start(app, interface="wsgi", threads=1, policy=Policy(max_response_buffer=2 << 20))
    c = client(running, receive_buffer=SMALL).send(ASK)
    wait_until(lambda: n_made > 2 << 20, "as much is ahead as may be")
    before = -1
    while before != n_made:
        before = n_made
        time.sleep(0.1)
    assert n_made < 12 << 20  # and what the kernel takes
    c.reset()
    running.check_empty()
    wait_until(lambda: spool_files() == 0, "the files are given back")


def test_a_thread_whose_client_has_left_is_free_at_once(start, client):
    ended = threading.Semaphore(0)

    def app(environ, start_response):
        try:
            start_response("200 OK", [])
            for _ in range(100_000):
                yield b"x" * 100_000
        finally:
            ended.release()

    running = start(app, interface="wsgi", threads=2, policy=Policy(max_response_buffer=1 << 20))
    readers = [client(running, receive_buffer=SMALL).send(ASK) for _ in range(2)]
    for c in readers:
        c.head()
    for c in readers:
        c.reset()
    assert all(ended.acquire(timeout=20) for _ in readers)


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("leaves", ["reset", "close"])
def test_empty_pieces_for_ever_end_with_their_client(start, client, threads, leaves):
    ended = threading.Semaphore(0)

    def app(environ, start_response):
        start_response("200 OK", [])
        try:
            while environ["PATH_INFO"] != "/small":
                yield b""
                time.sleep(0.001)
        finally:
            ended.release()
        yield b"small"

    running = start(app, interface="wsgi", threads=threads)
    gone = [client(running).send(ASK) for _ in range(2)]
    wait_until(lambda: running.phase_count("busy") == 2)
    for c in gone:
        getattr(c, leaves)()
    assert all(ended.acquire(timeout=20) for _ in gone)
    assert client(running).get("/small").body == b"small"


def test_a_client_that_has_sent_fin_gets_what_comes_after_empty_pieces(start, client):
    def app(environ, start_response):
        start_response("200 OK", [])
        yield from (b"", b"", b"late", b"")

    for threads in (0, 1):
        c = client(start(app, interface="wsgi", threads=threads)).send(ASK).fin()
        assert c.response().body == b"late"


def test_a_full_disk_makes_the_thread_wait_and_loses_nothing(start, client, monkeypatch, caplog):
    def no_room(fd, data, at):
        raise OSError(errno.ENOSPC, "no room in the test")

    monkeypatch.setattr(os, "pwrite", no_room)
    running = start(in_pieces, interface="wsgi", threads=1)
    slow = client(running, receive_buffer=SMALL).send(ASK)
    other = client(running).send("GET /small HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: "could not be written" in caplog.text)
    assert slow.response().body == WHOLE
    assert other.response().body == b"small"
    assert caplog.text.count("could not be written") == 1


def test_a_disk_that_fills_up_later_loses_nothing_either(start, client, monkeypatch, caplog):
    write, n_written = os.pwrite, 0

    def some_room(fd, data, at):
        nonlocal n_written
        if n_written > 3_000_000:
            raise OSError(errno.ENOSPC, "no room in the test")
        n = write(fd, data[:50_000], at)  # in parts, as the system may
        n_written += n
        return n

    monkeypatch.setattr(os, "pwrite", some_room)
    running = start(in_pieces, interface="wsgi", threads=1)
    slow = client(running, receive_buffer=SMALL).send(ASK)
    wait_until(lambda: "could not be written" in caplog.text)
    assert slow.response().body == WHOLE


def test_no_directory_for_temporary_files_is_like_a_full_disk(start, client, monkeypatch, caplog):
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    slow = client(start(in_pieces, interface="wsgi", threads=1), receive_buffer=SMALL).send(ASK)
    wait_until(lambda: "could not be written" in caplog.text)
    assert slow.response().body == WHOLE


def test_memory_for_responses_ahead_is_half_of_the_budget_and_the_rest_goes_to_files(start, client, spool_files):
    running = start(in_pieces, interface="wsgi", threads=2, policy=Policy(max_buffer_bytes=512 << 10))
    slow = [client(running, receive_buffer=SMALL).send(ASK) for _ in range(4)]
    wait_until(lambda: spool_files() >= 4)
    assert client(running).get("/small").body == b"small"
    assert running.stats()["engine"]["buffer_bytes"] < 384 << 10
    for c in slow:
        c.reset()


def test_who_reads_nothing_goes_at_send_timeout_however_many_they_are(start, client):
    policy = Policy(send_timeout=0.3, min_send_rate=0)
    running = start(in_pieces, interface="wsgi", threads=2, policy=policy)
    for _ in range(8):
        client(running, receive_buffer=SMALL).send(ASK)
    wait_until(lambda: running.closed("send_timeout") == 8)


def test_one_large_piece_is_not_copied_to_a_file(start, client, monkeypatch):
    monkeypatch.setattr(os, "pwrite", None)
    large = b"x" * 3_000_000

    def app(environ, start_response):
        start_response("200 OK", [])
        return {"/list": [large], "/iter": iter([large])}[environ["PATH_INFO"]]

    running = start(app, interface="wsgi", threads=1)
    for path in ("/list", "/iter"):
        assert client(running).get(path).body == large


def test_the_last_descriptors_are_not_for_temporary_files(start, client, spool_files, monkeypatch, caplog):
    running = start(in_pieces, interface="wsgi", threads=1)
    monkeypatch.setattr("resource.getrlimit", lambda what: (8, 8))  # a quarter, and 16 at least
    slow = [client(running, receive_buffer=SMALL).send(ASK) for _ in range(17)]
    wait_until(lambda: "temporary files are open" in caplog.text)
    assert spool_files() == 16
    for c in slow[1:-1]:
        c.reset()
    for c in (slow[0], slow[-1]):
        assert c.response().body == WHOLE


def test_a_failure_behind_what_waits_in_a_file_cuts_it_off_there(start, client, spool_files, caplog):
    def app(environ, start_response):
        start_response("200 OK", [])
        yield from PIECES
        raise RuntimeError("at the end")

    c = client(start(app, interface="wsgi", threads=1), receive_buffer=SMALL).send(ASK)
    wait_until(spool_files)
    c.head()
    chunks = c.rest()
    assert not chunks.endswith(b"0\r\n\r\n")
    assert len(chunks) > len(WHOLE)
    assert chunks.endswith(PIECES[-1][-100:] + b"\r\n")
    assert "the application failed on GET /" in caplog.text
