"""How a server ends: nobody who was promised an answer goes without, and it ends when it said it would."""

import contextlib
import signal
import socket
import time

import pytest
from hammering import APPLICATION, Hammer


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
    return contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=10))


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
    server = run("--drain-grace", "0.5", "--drain-spread", "0.1", *processes)
    with Hammer(socket.AF_INET, ("127.0.0.1", server.port)) as hammer:
        hammer.answered(300)
        assert server.stop(number) == 0, server.text
    assert hammer.lost == []
    assert "Traceback" not in server.text


def test_no_request_is_lost_on_a_unix_socket_and_its_file_is_gone(launch, tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    path = tmp_path / "s"
    server = launch("-m", "kacore", "serve", "app:app", "--uds", str(path), "--drain-grace", "0.3", ready="serves")
    with Hammer(socket.AF_UNIX, str(path)) as hammer:
        hammer.answered(300)
        assert server.stop() == 0, server.text
    assert hammer.lost == []
    assert not path.exists()


def test_idle_connection_is_answered_within_the_grace_and_told_to_close(run):
    server = run("--drain-grace", "5", "--drain-spread", "0.1")
    with connected(server.port) as sock:
        say(sock)
        assert b"close" not in answer(sock)
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        say(sock)
        assert b"connection: close" in answer(sock).lower()
        assert server.wait() == 0
        assert time.monotonic() - began < 4  # nobody is left to wait for


def test_request_in_progress_is_answered_and_new_clients_are_refused_meanwhile(run):
    server = run()
    with connected(server.port) as sock:
        say(sock, "/slow?1.2")
        time.sleep(0.1)
        server.send_signal(signal.SIGTERM)
        time.sleep(0.4)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)
        assert answer(sock).startswith(b"HTTP/1.1 200")
    assert server.wait() == 0


@pytest.mark.parametrize("processes", [(), ("--workers", "2")], ids=["alone", "2"])
def test_interrupt_closes_idle_connections_soon(run, processes):
    server = run("--drain-grace", "20", *processes)
    with connected(server.port) as sock:
        say(sock)
        answer(sock)
        began = time.monotonic()
        assert server.stop(signal.SIGINT) == 0
        assert time.monotonic() - began < 2
        assert sock.recv(1) == b""


@pytest.mark.parametrize("processes", [(), ("--workers", "2")], ids=["alone", "2"])
def test_second_signal_ends_at_once_whatever_is_in_progress(run, processes):
    server = run(*processes, STUBBORN="1")
    with connected(server.port) as sock:
        say(sock, "/slow?30")
        time.sleep(0.2)
        server.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None
        began = time.monotonic()
        assert server.stop() == 0, server.text
        assert time.monotonic() - began < 3


def test_whatever_is_left_at_drain_timeout_is_cut_off(run):
    server = run("--drain-timeout", "0.5", "--drain-grace", "0")
    with connected(server.port) as sock:
        say(sock, "/slow?30")
        time.sleep(0.2)
        began = time.monotonic()
        assert server.stop() == 0
        assert 0.4 < time.monotonic() - began < 3


@pytest.mark.parametrize("processes", [(), ("--workers", "2"), OVER_TRANSPORTS], ids=["alone", "2", "transports"])
def test_lame_duck_serves_newcomers_and_keeps_connections_for_its_time(run, processes):
    server = run("--lame-duck", "0.6", *processes)
    server.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    with connected(server.port) as sock:
        say(sock)
        assert b"connection: close" not in answer(sock).lower()
        time.sleep(0.7)
        say(sock)
        assert b"connection: close" in answer(sock).lower()
    assert server.wait() == 0
