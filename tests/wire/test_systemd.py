"""Sockets that a service manager passes, and what it is told, over a real NOTIFY_SOCKET."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

from kacore.server.listening import parse_address
from kacore.server.systemd import Notifier, passed_fds

APPLICATION = """
import os, time

def app(request):
    if request.path == "/block":
        print("blocks", flush=True)
        time.sleep(30)
    return str(os.getpid()).encode()
"""
# Becomes the server with the descriptor that it was given as number 3, as systemd passes one.
ACTIVATED = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "kacore", "serve", "app:app", *sys.argv[2:]])
"""


@pytest.fixture
def application(tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)


@pytest.fixture
def manager(tmp_path):
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
        sock.settimeout(20)
        sock.bind(str(tmp_path / "notify"))
        yield sock


def heard(manager, wanted):
    """Read until the message `wanted` comes; everything before it."""
    before = []
    while True:
        message = manager.recv(4096).decode()
        if message.partition("\n")[0] == wanted:
            return before
        before.append(message)


def ask(address, family=socket.AF_INET, path="/"):
    with contextlib.closing(socket.socket(family)) as sock:
        sock.settimeout(20)
        sock.connect(address)
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while more := sock.recv(4096):
            data += more
    assert data.startswith(b"HTTP/1.1 200"), data
    return int(data.rpartition(b"\r\n")[2])


@pytest.mark.parametrize("processes", [(), ("--workers", "2")], ids=["alone", "2"])
def test_ready_is_told_when_it_serves_and_stopping_when_it_is_told_to_end(serve, application, manager, processes):
    server = serve("app:app", *processes, NOTIFY_SOCKET=manager.getsockname())
    assert heard(manager, "READY=1") == []
    ask(("127.0.0.1", server.port))
    if processes:
        server.send_signal(signal.SIGHUP)
        assert heard(manager, "RELOADING=1") == []
        assert heard(manager, "READY=1") == []
    server.send_signal(signal.SIGTERM)
    assert heard(manager, "STOPPING=1") == []
    assert server.wait() == 0


def test_watchdog_hears_from_a_server_that_turns_and_not_from_one_that_is_stuck(serve, application, manager):
    server = serve("app:app", NOTIFY_SOCKET=manager.getsockname(), WATCHDOG_USEC="400000")
    for _ in range(4):
        heard(manager, "WATCHDOG=1")
    with contextlib.closing(socket.create_connection(("127.0.0.1", server.port))) as sock:
        sock.sendall(b"GET /block HTTP/1.1\r\nHost: test\r\n\r\n")
        server.wait_for("blocks")
        manager.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while manager.recv(4096):
                pass
        manager.settimeout(0.6)
        with pytest.raises(TimeoutError):
            manager.recv(4096)
        server.process.kill()


def test_stuck_worker_is_killed_and_replaced_while_the_watchdog_goes_on(serve, application, manager):
    server = serve("app:app", "--workers", "1", NOTIFY_SOCKET=manager.getsockname(), WATCHDOG_USEC="600000")
    with contextlib.closing(socket.create_connection(("127.0.0.1", server.port))) as sock:
        sock.sendall(b"GET /block HTTP/1.1\r\nHost: test\r\n\r\n")
        server.wait_for("its event loop does not respond")
        ask(("127.0.0.1", server.port))
    manager.settimeout(20)
    heard(manager, "WATCHDOG=1")


@pytest.mark.parametrize("processes", [(), ("--workers", "2")], ids=["alone", "2"])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX], ids=["tcp", "unix"])
def test_passed_socket_is_served_and_outlives_the_server(application, python_environment, tmp_path, family, processes):
    with contextlib.closing(socket.socket(family)) as listener:
        listener.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "s"))
        listener.listen(16)
        os.set_inheritable(listener.fileno(), True)
        for _ in range(2):  # the second finds it as the first did
            child = subprocess.Popen(
                [sys.executable, "-c", ACTIVATED, str(listener.fileno()), *processes],
                cwd=tmp_path,
                close_fds=False,
                env=python_environment,
            )
            try:
                assert ask(listener.getsockname(), family) > 0
                child.terminate()
                assert child.wait(10) == 0
            finally:
                child.kill()
                child.wait()
        with contextlib.closing(socket.socket(family)) as waiting:  # still there, for the next to be activated
            waiting.connect(listener.getsockname())
    if family == socket.AF_UNIX:
        assert (tmp_path / "s").exists()


def test_descriptors_passed_to_another_process_are_left_alone():
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}
    assert passed_fds(environ) == []
    assert environ == {}
    assert passed_fds({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"}) == [3, 4]


def test_abstract_notify_socket_is_found_and_a_missing_one_stops_nobody(caplog):
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(f"\0kacore-test-{os.getpid()}")
        environ = {"NOTIFY_SOCKET": f"@kacore-test-{os.getpid()}", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}
        notifier = Notifier(environ)
        assert environ == {}
        assert notifier.watchdog is None
        notifier.ready()
        assert manager.recv(100) == b"READY=1"
    notifier.ready()
    assert "cannot notify" in caplog.text
    Notifier({}).ready()


@pytest.mark.parametrize("what", ["closed", "not listening"])
def test_descriptor_that_does_not_listen_is_refused_by_number(launch, application, what):
    fd = "99" if what == "closed" else "0"
    child = launch("-m", "kacore", "serve", "app:app", "--fd", fd)
    assert child.wait() == 2
    assert f"fd {fd}: " in child.text


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        (":8000", ("", 8000)),
        ("[::1]:0", ("::1", 0)),
        ("unix:/run/x.sock", "/run/x.sock"),
    ],
)
def test_address_is_read_as_written(text, address):
    assert parse_address(text) == address
