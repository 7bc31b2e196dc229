"""The admin listener of a parent with workers: a process of its own, which tells of all of them on a bad day as well."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request

import pytest

from tests.wire.conftest import wait_until

APP = """
import os, time

def app(request):
    gate = request.path[1:]
    while gate and not os.path.exists(gate):  # in the loop's own thread
        time.sleep(0.01)
    return str(os.getpid())
"""


class Watched:
    def __init__(self, child):
        self.child = child
        self.port = int(child.wait_for(r"serves on http://127\.0\.0\.1:(\d+)")[1])
        self.admin = int(child.wait_for(r"admin on port (\d+)")[1])
        self.held = []

    def tell(self, path):
        """Status and text."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=20) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def connections(self):
        return json.loads(self.tell("/connections")[1])

    def metrics(self, parser):
        found = {}
        for family in parser.text_string_to_metric_families(self.tell("/metrics")[1]):
            for sample in family.samples:
                found[sample.name, *sorted(sample.labels.values())] = sample.value
        return found

    def connect(self):
        sock = socket.create_connection(("127.0.0.1", self.port), 20)
        self.held.append(sock)
        return sock

    def ask(self, sock, path="/"):
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())

    def ask_whole(self, sock):
        self.ask(sock)
        return int(re.search(rb"\r\n\r\n(\d+)$", sock.recv(4096))[1])

    def children(self):
        """Processes of the parent."""
        with open(f"/proc/{self.child.pid}/task/{self.child.pid}/children") as file:
            return {int(pid) for pid in file.read().split()}


@pytest.fixture
def watched(launch, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    arguments = ("--workers", "2", "--port", "0", "--admin", "0", "--drain-grace", "0", "--drain-spread", "0")
    found = Watched(launch("-m", "kacore", "serve", "app:app", "--interface", "handler", *arguments))
    yield found
    for sock in found.held:
        sock.close()


def one_of_each(watched):
    """A socket to each worker, by its pid."""
    by_pid = {}
    for _ in range(100):  # the kernel spreads by the port of the client
        sock = watched.connect()
        by_pid.setdefault(watched.ask_whole(sock), sock)
        if len(by_pid) == 2:
            return by_pid
    raise AssertionError("no worker but one gets connections")


def listening_inodes(port):
    """Of sockets that listen there, as links in /proc/PID/fd are called."""
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}


def descriptors(pid):
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def test_one_listener_tells_of_all_workers_through_a_bad_day_and_a_roll(watched, tmp_path, need):
    parser = need("module:prometheus_client.parser")
    by_pid = one_of_each(watched)
    n_asked = len(watched.held)

    # Everything of all, and of each.
    wait_until(lambda: watched.connections()["phases"]["idle"] == n_asked)  # which the clients may know before
    said = watched.connections()
    assert (said["open"], said["is_cut"]) == (n_asked, False)
    assert {one["worker"] for one in said["connections"]} == {0, 1}
    assert {tuple(one["client"]) for one in said["connections"]} == {sock.getsockname() for sock in watched.held}
    found = watched.metrics(parser)
    assert found["kacore_responses_total", "2xx"] == found["kacore_requests_total",] == n_asked
    assert found["kacore_request_duration_seconds_count",] == n_asked
    for worker in "01":
        assert found["kacore_ready", worker] == 1
        assert found["kacore_connections_max", worker] > found["kacore_connections", worker, "idle"] > 0
        assert found["kacore_buffer_bytes_max", worker] > 0
    assert watched.tell("/readyz") == (200, "ready\n")
    status = json.loads(watched.tell("/status")[1])
    assert [(one["pid"] in by_pid, one["ready"], one["open"] > 0) for one in status["workers"]] == [(True, True, True)] * 2
    wait_until(lambda: json.loads(watched.tell("/status")[1])["clients"] is not None)
    assert json.loads(watched.tell("/status")[1])["clients"] == [
        {"network": "127.0.0.1", "proxy": False, "connections": n_asked}
    ]

    # It is no worker, and has no listener of theirs.
    reporter = (watched.children() - by_pid.keys()).pop()
    assert listening_inodes(watched.port) & descriptors(min(by_pid))
    assert not listening_inodes(watched.port) & descriptors(reporter)

    # It answers when no worker does, and says of whom it has no list.
    for sock in by_pid.values():
        watched.ask(sock, "/gate")
    said = watched.connections()
    assert (said["is_cut"], said["connections"]) == (True, [])
    assert watched.tell("/healthz") == (200, "ok\n")  # not for long enough to be stuck
    (tmp_path / "gate").touch()
    for sock in by_pid.values():
        assert b"\r\n\r\n" in sock.recv(4096)
    assert not watched.connections()["is_cut"]

    # Another one takes its place, on the same port.
    os.kill(reporter, signal.SIGKILL)
    watched.child.wait_for(rf"admin listener \(pid {reporter}\) exited with status -9")
    wait_until(lambda: len(watched.connections()["connections"]) == n_asked)
    assert not watched.children() & {reporter}

    # A roll: the same process goes on, with the new workers, and no counter falls.
    reporter = (watched.children() - by_pid.keys()).pop()
    requests = watched.metrics(parser)["kacore_requests_total",]
    watched.child.send_signal(signal.SIGHUP)
    wait_until(lambda: watched.child.text.count(") serves") == 2 and not watched.children() & by_pid.keys())
    for sock in watched.held:
        sock.close()
    watched.held.clear()
    by_pid = one_of_each(watched)
    assert reporter in watched.children() - by_pid.keys()
    assert watched.metrics(parser)["kacore_requests_total",] == requests + len(watched.held)
    wait_until(lambda: {one["worker"] for one in watched.connections()["connections"]} == {0, 1})

    # The end: it says so, though no worker has come to it, and goes last.
    for sock in by_pid.values():
        watched.ask(sock, "/last")
    wait_until(lambda: watched.connections()["is_cut"])
    watched.child.send_signal(signal.SIGTERM)
    wait_until(lambda: watched.tell("/readyz") == (503, "not ready\n"))
    (tmp_path / "last").touch()
    assert watched.child.wait() == 0, watched.child.text
    assert not os.path.exists(f"/proc/{reporter}")
    assert "Traceback" not in watched.child.text


def test_what_metrics_say_is_well_formed(watched, need):
    promtool = need("promtool")
    need("module:prometheus_client")
    one_of_each(watched)
    text = watched.tell("/metrics")[1]
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_an_admin_port_that_is_in_use_is_told_at_the_start(launch, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        admin = str(taken.getsockname()[1])
        child = launch("-m", "kacore", "serve", "app:app", "--port", "0", "--workers", "2", "--admin", admin)
        assert child.wait() == 2
    assert f"cannot listen on 127.0.0.1 port {admin}" in child.text
