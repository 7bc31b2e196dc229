"""How a server ends: nobody who was promised an answer goes without, and it ends when it said it would."""

import contextlib
import signal
import socket
import time

import pytest
from hammering import APPLICATION, Hammer

from tests.wire.conftest import wait_until


@pytest.fixture
def run(serve, tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    return lambda *arguments, **options: serve("app:app", *arguments, **options)


def say(sock, target="/"):
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode())


def answer(sock):
    """The next whole answer, or what came before the end."""
    data = b""
    while b"\r\n\r\n" not in data or not data.partition(b"\r\n\r\n")[2]:
        more = sock.recv(65536)
        if not more:
            return data
        data += more
    return data


def connected(port):
    return contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=20))


def hear_of_the_end(sock):
    """Ask until an answer says close: the server may not have seen its signal yet."""
    while True:
        say(sock)
        if b"connection: close" in answer(sock).lower():
            return


def is_refused(port):
    """Is a newcomer refused? Else it is served."""
    try:
        with connected(port) as sock:
            say(sock)
            assert answer(sock).startswith(b"HTTP/1.1 200")
    except ConnectionRefusedError:
        return True
    return False


@contextlib.contextmanager
def in_progress(server):
    """A connection with a request that waits for the file "go"."""
    with connected(server.port) as sock:
        say(sock, "/wait")
        server.wait_for("waits")
        yield sock


OVER_TRANSPORTS = ("--io", "transports")


@pytest.mark.parametrize(
    ("processes", "number"),
    [
        *(((), number) for number in (signal.SIGTERM, signal.SIGINT)),
        *((("--workers", n), number) for n in "12" for number in (signal.SIGTERM, signal.SIGINT)),
        (OVER_TRANSPORTS, signal.SIGTERM),
        (("--workers", "2", *OVER_TRANSPORTS), signal.SIGTERM),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else " ".join(value) or "alone",
)
def test_no_request_is_lost_when_the_server_ends_under_12_hammering_clients(run, processes, number):
    # All of them are told to close long before the grace is over, which is when the server ends.
    server = run("--drain-grace", "10", "--drain-spread", "0.1", *processes)
    with Hammer(socket.AF_INET, ("127.0.0.1", server.port)) as hammer:
        hammer.answered(300)
        assert server.stop(number) == 0, server.text
    assert hammer.lost == []
    assert "Traceback" not in server.text


def test_no_request_is_lost_on_a_unix_socket_and_its_file_is_gone(launch, tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    path = tmp_path / "s"
    server = launch("-m", "kacore", "serve", "app:app", "--uds", str(path), "--drain-grace", "10", ready="serves")
    with Hammer(socket.AF_UNIX, str(path)) as hammer:
        hammer.answered(300)
        assert server.stop() == 0, server.text
    assert hammer.lost == []
    assert not path.exists()


def test_idle_connection_is_answered_within_the_grace_and_told_to_close(run):
    server = run("--drain-grace", "25", "--drain-spread", "0.1")
    with connected(server.port) as sock:
        say(sock)
        assert b"close" not in answer(sock)
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        hear_of_the_end(sock)
        assert server.wait() == 0
        assert time.monotonic() - began < 20  # nobody is left to wait for


def test_request_in_progress_is_answered_and_new_clients_are_refused_meanwhile(run, tmp_path):
    server = run()
    with in_progress(server) as sock:
        server.send_signal(signal.SIGTERM)
        wait_until(lambda: is_refused(server.port), "newcomers are refused")
        (tmp_path / "go").touch()
        assert answer(sock).startswith(b"HTTP/1.1 200")
    assert server.wait() == 0


@pytest.mark.parametrize("processes", [(), ("--workers", "2")], ids=["alone", "2"])
def test_interrupt_closes_idle_connections_soon(run, processes):
    server = run("--drain-grace", "30", *processes)
    with connected(server.port) as sock:
        say(sock)
        answer(sock)
        began = time.monotonic()
        assert server.stop(signal.SIGINT) == 0
        assert time.monotonic() - began < 20
        assert sock.recv(1) == b""


@pytest.mark.parametrize("processes", [(), ("--workers", "2")], ids=["alone", "2"])
def test_second_signal_ends_at_once_whatever_is_in_progress(run, processes):
    server = run(*processes, STUBBORN="1")
    with in_progress(server):
        server.send_signal(signal.SIGTERM)
        wait_until(lambda: is_refused(server.port), "the first signal was heard")
        began = time.monotonic()
        assert server.stop() == 0, server.text
        assert time.monotonic() - began < 20  # drain_timeout is 25 s, the application's shutdown takes 60


@pytest.mark.parametrize("more", [(), OVER_TRANSPORTS], ids=["engine", "transports"])
def test_whatever_is_left_at_drain_timeout_is_cut_off_and_told_so_where_nothing_has_left(run, more):
    server = run("--drain-timeout", "0.5", "--drain-grace", "0", *more)
    with in_progress(server) as sock:
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began >= 0.5
        told = answer(sock)
        assert told.startswith(b"HTTP/1.1 503")
        assert told.endswith(b"the server is shutting down\n")


@pytest.mark.parametrize("processes", [(), ("--workers", "2"), OVER_TRANSPORTS], ids=["alone", "2", "transports"])
def test_lame_duck_serves_newcomers_and_keeps_connections_for_its_time(run, processes):
    server = run("--lame-duck", "0.6", "--drain-grace", "10", *processes)
    with connected(server.port) as kept:
        say(kept)
        answer(kept)
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        wait_until(lambda: is_refused(server.port), "newcomers are refused")
        assert time.monotonic() - began >= 0.6
        hear_of_the_end(kept)
    assert server.wait() == 0
