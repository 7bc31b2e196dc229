"""Where a server listens: whatever this machine has, asked of bind(2) and in network namespaces of the test's own."""

import contextlib
import errno
import os
import re
import socket
import subprocess
import sys
import threading

import pytest

from kacore.server import UsageError, listening
from tests.wire.conftest import wait_until

APP = "def app(request): return b'hello'\n"
PROCESSES = pytest.mark.parametrize("processes", [(), ("--workers", "2")], ids=["alone", "2"])


@pytest.fixture
def app(tmp_path):
    (tmp_path / "app.py").write_text(APP)


@pytest.fixture
def network(launch, need, lacks, app, python_environment):
    """network("ip addr add ...; ...", *arguments) serves in a network of its own, where at first only loopback is up."""
    unshare = need("unshare")
    need("ip"), need("nsenter")
    if os.geteuid() != 0:
        lacks("a network namespace needs root")
    if subprocess.run([unshare, "--net", "true"], capture_output=True).returncode:
        lacks("this system gives us no network namespace")

    def start(set_up, *arguments, ready="serves"):
        preload = python_environment.get("LD_PRELOAD", "")
        script = f'ip link set lo up; {set_up}; LD_PRELOAD="{preload}" exec "$@"'
        command = ("sh", "-c", script, "sh", sys.executable, "-m", "kacore", "serve", "app:app", *arguments)
        return launch(unshare, "--net", *command, python=False, ready=ready)

    return start


ONLY_IPV6 = "ip addr add 2001:db8::7/128 dev lo"
ONLY_LINK_LOCAL = "ip addr add fe80::7/64 dev lo"
ONLY_IPV4 = "ip addr add 192.0.2.7/32 dev lo"
WITHOUT_IPV6 = "echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"


def answers(child, host):
    """Whether a client in the child's network gets its answer."""
    code = (
        "import sys, urllib.request\n"
        "print(urllib.request.urlopen(f'http://{sys.argv[1]}:8000/', timeout=10).read())\n"
    )
    command = ["nsenter", "--net", "--target", str(child.pid), sys.executable, "-c", code, host]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return done.stdout == "b'hello'\n"


@pytest.mark.parametrize(
    ("interfaces", "address", "hosts"),
    [
        (ONLY_IPV6, "127.0.0.1:8000", ["127.0.0.1"]),
        (ONLY_IPV6, "0.0.0.0:8000", ["127.0.0.1"]),
        (ONLY_LINK_LOCAL, ":8000", ["127.0.0.1", "[::1]"]),
        (ONLY_IPV4, "[::]:8000", ["[::1]"]),
        ("true", "localhost:8000", ["127.0.0.1"]),
    ],
)
def test_whatever_the_interfaces_are_an_address_of_this_machine_is_listened_on(network, interfaces, address, hosts):
    child = network(interfaces, "--bind", address)
    assert all(answers(child, host) for host in hosts), child.text


@PROCESSES
def test_an_address_of_a_family_that_is_not_there_is_passed_over_and_said(network, processes):
    child = network(WITHOUT_IPV6, "--bind", "localhost:8000", "--bind", ":8001", *processes)
    assert re.search(r"serves .*on http://127\.0\.0\.1:8000, http://0\.0\.0\.0:8001", child.text)
    if "::1" in [address[4][0] for address in socket.getaddrinfo("localhost", 1, type=socket.SOCK_STREAM)]:
        assert "localhost: not listening on ::1: " in child.text


def test_an_address_that_is_not_there_alone_is_a_mistake(network):
    child = network(WITHOUT_IPV6, "--bind", "[::1]:8000", ready=None)
    assert child.wait() == 2
    assert child.text == "kacore: cannot listen on ::1 port 8000: Cannot assign requested address\n"


def test_without_a_family_in_the_kernel_all_addresses_are_those_of_the_other(monkeypatch, caplog):
    real = socket.socket

    def without_ipv6(family=-1, *arguments, **options):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *arguments, **options)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    with caplog.at_level("INFO", "kacore.error"):
        (listener,) = listening.open_listeners([":0"])
    listener.close()
    assert "not listening on ::: Address family not supported by protocol" in caplog.text
    with pytest.raises(UsageError, match="cannot listen on :: port 8000: Address family not supported"):
        listening.open_listeners(["[::]:8000"])


def test_a_free_port_is_free_for_both_families(monkeypatch):
    """The one that the kernel gave for IPv4 may be taken for IPv6."""
    real, refused = listening.sockets_at, []

    def taken_once(family, *arguments):
        if family == socket.AF_INET6 and not refused:
            refused.append(arguments[0][1])
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return real(family, *arguments)

    monkeypatch.setattr(listening, "sockets_at", taken_once)
    made = listening.open_listeners([":0"])
    with contextlib.ExitStack() as stack:
        for listener in made:
            stack.callback(listener.close)
    assert len({listener.port for listener in made}) == 1
    assert refused


@pytest.mark.parametrize("host", ["a" * 70, "a..b", "no.such.host.invalid", "256.1.1.1"])
def test_a_host_that_is_none_is_named(host):
    with pytest.raises(UsageError, match=f"host '{re.escape(host)}': "):
        listening.open_listeners([f"{host}:0"])


# --- unix sockets -----------------------------------------------------------------------------------------------


@pytest.fixture
def short(tmp_path, monkeypatch):
    """A socket's path may be no longer than 107 bytes, and tmp_path nearly is: relative ones are short."""
    monkeypatch.chdir(tmp_path)


def open_unix(path):
    for listener in listening.open_listeners([f"unix:{path}"]):
        listener.refuse()
        listener.close()


@pytest.mark.parametrize("path", ["s" * 108, "ä" * 54, "a\0b"])
def test_a_path_that_no_socket_can_have_is_named_with_its_length(path):
    with pytest.raises(UsageError, match=r"uds .*: must be at most 107 bytes without NUL, and has \d+"):
        open_unix(path)


def test_a_path_of_107_bytes_is_listened_on(short):
    open_unix("s" * 107)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["stuck", "another kind"])
def test_a_socket_whose_holder_does_not_accept_is_in_use_and_waited_for_by_nobody(short, kind):
    with contextlib.ExitStack() as stack:
        holder = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
        holder.bind("s")
        if kind == socket.SOCK_STREAM:
            holder.listen(0)
            for _ in range(2):  # fills its queue
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect_ex("s")
        with pytest.raises(UsageError, match="cannot listen on unix socket 's': Address already in use"):
            open_unix("s")
        assert os.path.exists("s")


def test_a_socket_that_nobody_holds_is_replaced(short):
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind("s")
    open_unix("s")
    assert not os.path.exists("s")


# --- inherited descriptors ---------------------------------------------------------------------------------------


@PROCESSES
def test_an_inherited_descriptor_is_checked_before_anything_can_take_its_number(launch, app, tmp_path, processes):
    """4 is the number that the log file would get."""
    (tmp_path / "log.json").write_text(
        '{"version": 1, "handlers": {"out": {"class": "logging.FileHandler", "filename": "log"}},'
        ' "root": {"handlers": ["out"], "level": "INFO"}}'
    )
    command = ("serve", "app:app", "--fd", "4", "--port", "0", "--log-config", "log.json", *processes)
    child = launch("-m", "kacore", *command)
    assert child.wait() == 2
    assert child.text == "kacore: fd 4: Bad file descriptor\n"


@pytest.mark.parametrize("fd", [-1, 1 << 40, 99])
def test_a_descriptor_that_cannot_be_is_named(fd):
    with pytest.raises(UsageError, match=f"fd {fd}: "):
        listening.open_listeners([], [fd])


# --- one port, two servers ----------------------------------------------------------------------------------------


@PROCESSES
def test_a_second_server_takes_over_the_port_and_nobody_is_lost(serve, app, free_port, processes):
    where = ("--port", str(free_port()), "--reuse-port", "--drain-grace", "0.1", "--drain-spread", "0", *processes)
    where += ("--admin", str(free_port()))
    first = serve("app:app", *where, ready="serves")
    stop, answered, lost = threading.Event(), [], []

    def ask():
        while not stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", first.port), 20) as sock:
                    sock.settimeout(20)
                    sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                    answer = b""
                    while data := sock.recv(4096):
                        answer += data
                (answered if answer.endswith(b"hello") else lost).append(answer)
            except OSError as error:
                lost.append(error)

    clients = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        wait_until(lambda: len(answered) > 20, "the first one serves")
        second = serve("app:app", *where, ready="serves")
        assert first.stop() == 0
        n = len(answered)
        wait_until(lambda: len(answered) > n + 20, "the second one serves")
    finally:
        stop.set()
        for client in clients:
            client.join(20)
    assert not lost, lost[:3]
    assert second.process.poll() is None


def test_without_the_word_of_both_a_second_server_is_refused(serve, launch, app):
    first = serve("app:app", ready="serves")
    second = launch("-m", "kacore", "serve", "app:app", "--port", str(first.port), "--reuse-port")
    assert second.wait() == 2
    assert "Address already in use" in second.text
