"""How a server starts and what may go wrong then: closed streams, the pid file, the environment, a start that hangs."""

import errno
import os
import signal
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from kacore.server import listening
from tests.wire.conftest import wait_until

APP = """
import asyncio, os, time

def app(request):
    return b"hello"

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        print("starts", flush=True)
        await asyncio.sleep(600)

async def blocks(scope, receive, send):
    if scope["type"] == "lifespan":
        print("starts", flush=True)
        time.sleep(600)
"""
PROCESSES = pytest.mark.parametrize("processes", [(), ("--workers", "2"), ("--reload",)], ids=["alone", "2", "reload"])


@pytest.fixture
def app(tmp_path):
    (tmp_path / "app.py").write_text(APP)


def ask(server):
    with urllib.request.urlopen(server.url, timeout=20) as response:
        return response.read()


# --- standard streams ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("closed", "processes"),
    [("0<&-", ()), ("1>&-", ()), ("2>&-", ()), ("0<&- 1>&- 2>&-", ()), ("0<&- 1>&- 2>&-", ("--workers", "1"))],
)
def test_a_server_with_closed_streams_serves_and_writes_into_no_connection(
    launch, app, free_port, python_environment, closed, processes
):
    port = str(free_port())
    command = [sys.executable, "-m", "kacore", "serve", "app:app", "--port", port, "--access-log", "common", *processes]
    child = launch("sh", "-c", f'exec "$@" {closed}', "sh", *command, python=False, **python_environment)
    child.url = f"http://127.0.0.1:{port}"
    wait_until(lambda: is_there(child), "it serves")
    links = [os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in range(3)]
    assert not [link for link in links if link.startswith(("socket", "anon"))]
    assert ask(child) == b"hello"
    assert child.stop() == 0


def is_there(server):
    try:
        return ask(server) == b"hello"
    except OSError:
        return False


# --- the pid file ---------------------------------------------------------------------------------------------------


@PROCESSES
def test_a_second_start_leaves_the_first_ones_pid_file(serve, launch, app, tmp_path, processes):
    first = serve("app:app", "--pid", "pid", *processes, ready="serves")
    for port in (str(first.port), "0"):  # which it cannot have; which it could
        second = launch("-m", "kacore", "serve", "app:app", "--pid", "pid", "--port", port, *processes)
        assert second.wait() == 2
        assert (tmp_path / "pid").read_text() == f"{first.pid}\n"
    assert second.text == f"kacore: pid 'pid': already exists, and process {first.pid} is running\n"
    assert first.stop() == 0
    assert not (tmp_path / "pid").exists()


@PROCESSES
def test_a_pid_file_is_not_written_before_the_address_is_had(serve, launch, app, tmp_path, processes):
    first = serve("app:app", ready="serves")
    second = launch("-m", "kacore", "serve", "app:app", "--pid", "pid", "--port", str(first.port), *processes)
    assert second.wait() == 2
    assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize("processes", [(), ("--workers", "1")], ids=["alone", "1"])
def test_a_socket_is_given_up_when_the_pid_file_cannot_be_had(launch, app, tmp_path, processes):
    (tmp_path / "pid").write_text("not a number")
    child = launch("-m", "kacore", "serve", "app:app", "--pid", "pid", "--uds", "s", *processes)
    assert child.wait() == 2
    assert child.text == "kacore: pid 'pid': already exists and does not contain a process id\n"
    assert (tmp_path / "pid").read_text() == "not a number"
    assert not (tmp_path / "s").exists()


def test_the_pid_file_of_a_killed_server_is_replaced(serve, app, tmp_path):
    first = serve("app:app", "--pid", "pid", ready="serves")
    first.process.kill()
    first.wait()
    second = serve("app:app", "--pid", "pid", ready="serves")
    assert (tmp_path / "pid").read_text() == f"{second.pid}\n"


def identity(path):
    found = path.lstat()
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns


@pytest.mark.parametrize("kind", ["symlink", "dangling", "directory", "fifo", "device"])
def test_what_is_no_regular_file_is_refused_and_left_alone(launch, app, tmp_path, lacks, kind):
    path, target = tmp_path / "pid", tmp_path / "target"
    if kind == "symlink":
        target.write_text("")
        path.symlink_to(target)
    elif kind == "dangling":
        path.symlink_to(target)
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:  # a copy of /dev/null
        try:
            os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError:
            lacks("a device needs root")
    before = identity(path)
    child = launch("-m", "kacore", "serve", "app:app", "--port", "0", "--pid", "pid")
    assert child.wait() == 2
    assert child.text == "kacore: pid 'pid': already exists and is not a regular file\n"
    assert identity(path) == before
    assert not target.exists() or target.read_text() == ""


@pytest.mark.parametrize("successor", ["other file", "symlink", "same file, other text"])
def test_at_the_end_only_the_file_that_is_still_ours_is_deleted(serve, app, tmp_path, successor):
    path = tmp_path / "pid"
    server = serve("app:app", "--pid", "pid", ready="serves")
    (tmp_path / "victim").write_text(f"{server.pid}\n")
    if successor == "other file":
        path.rename(tmp_path / "moved")
        path.write_text(f"{server.pid}\n")
    elif successor == "symlink":
        path.unlink()
        path.symlink_to(tmp_path / "victim")
    else:
        path.write_text("1\n")
    before = identity(path)
    assert server.stop() == 0
    assert identity(path) == before
    assert (tmp_path / "victim").exists()


# --- the environment --------------------------------------------------------------------------------------------------


@PROCESSES
def test_a_pod_beside_a_service_called_kacore_starts(serve, app, processes):
    server = serve(
        "app:app",
        *processes,
        ready="serves",
        KACORE_SERVICE_HOST="10.0.0.1",
        KACORE_PORT="tcp://10.0.0.1:8000",
        KACORE_KEEP_ALIVE_TIMEOUT="",
        KACORE_KEEPALIVE="1",
    )
    assert ask(server) == b"hello"
    assert server.text.count("WARNING") == 1
    assert server.text.count("environment: unknown name 'KACORE_KEEPALIVE'; did you mean 'KACORE_KEEP_ALIVE'?") == 1
    assert server.stop() == 0


def test_a_wrong_value_in_the_environment_is_a_mistake(launch, app):
    child = launch("-m", "kacore", "serve", "app:app", "--port", "0", KACORE_MAX_CONNECTIONS="many")
    assert child.wait() == 2
    assert "environment variable KACORE_MAX_CONNECTIONS: max_connections='many'" in child.text


# --- descriptors ------------------------------------------------------------------------------------------------------


@pytest.mark.needs("module:resource")
def test_a_limit_that_may_not_be_raised_is_a_warning(monkeypatch, caplog):
    import logging
    import resource

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 1000))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    listening.raise_descriptor_limit(500, logging.getLogger("kacore.error"))
    assert "the limit on file descriptors is 100 instead of 564: [Errno 1] Operation not permitted" in caplog.text
    assert "max_connections=500 needs 564 file descriptors, but this process may open only 100" in caplog.text


@pytest.mark.needs("module:resource")
def test_where_no_limit_is_promised_and_less_is_taken_it_is_raised_as_far_as_that(monkeypatch, caplog):
    import logging
    import resource

    taken = []

    def take(_, limits):
        if limits[0] > 10_240:
            raise ValueError("current limit exceeds maximum limit")
        taken.append(limits)

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", take)
    listening.raise_descriptor_limit(30_000, logging.getLogger("kacore.error"))
    assert taken == [(7_516, resource.RLIM_INFINITY)]
    assert "the limit on file descriptors is 7516 instead of 30064: current limit exceeds" in caplog.text


# --- errors ------------------------------------------------------------------------------------------------------------


def test_an_error_without_a_file_name_is_told_without_one(monkeypatch, capsys):
    from kacore import cli

    no_memory = OSError(errno.ENOMEM, "Cannot allocate memory")
    for error, told in ((OSError("no number"), "no number"), (no_memory, "Cannot allocate memory")):
        monkeypatch.setattr("kacore.cli.serve.run", raising(error))
        monkeypatch.setattr("kacore.server.logs.set_up", lambda _: None)
        assert cli.main(["serve", "app:app"]) == 2
        assert capsys.readouterr().err == f"kacore: {told}\n"


def raising(error):
    def call(*_):
        raise error

    return call


def test_an_error_of_the_application_while_it_is_loaded_shows_where(launch, tmp_path):
    (tmp_path / "app.py").write_text("open('missing.csv')")
    child = launch("-m", "kacore", "serve", "app:app", "--port", "0")
    assert child.wait() == 1
    assert "app.py" in child.text and "missing.csv" in child.text


# --- a start that hangs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@PROCESSES
def test_a_start_up_that_hangs_can_be_interrupted(launch, app, processes, number):
    child = launch("-m", "kacore", "serve", "app:asgi", "--port", "0", *processes, ready="starts")
    assert child.stop(number, timeout=15) == 0, child.text


def test_a_start_up_that_holds_up_its_worker_can_be_interrupted(launch, app):
    child = launch("-m", "kacore", "serve", "app:blocks", "--port", "0", "--reload", ready="starts")
    assert child.stop(signal.SIGINT, timeout=15) == 0, child.text
    assert "it did not exit in time" in child.text


def test_an_import_that_hangs_can_be_interrupted(launch, tmp_path):
    (tmp_path / "app.py").write_text("import time\nprint('starts', flush=True)\ntime.sleep(600)\n")
    child = launch("-m", "kacore", "serve", "app:app", "--port", "0", "--workers", "1", ready="starts")
    assert child.stop(signal.SIGINT, timeout=15) == 0, child.text


def test_an_edit_ends_a_start_up_that_hangs(launch, app, tmp_path):
    child = launch("-m", "kacore", "serve", "app:asgi", "--port", "0", "--reload", ready="starts")
    (tmp_path / "app.py").write_text("asgi = lambda request: b'edited'")
    child.url = child.wait_for(r"http://[^\s/]+:[1-9]\d*")[0]
    assert ask(child) == b"edited"


# --- process 1 ------------------------------------------------------------------------------------------------------------

ORPHANS = """
import os, subprocess, sys

def app(request):
    if request.path == "/orphan":
        # a child that leaves a grandchild behind, which ends after it
        return subprocess.run(["sh", "-c", "(sleep 0.05; exit 5) & exit 7"]).returncode.to_bytes(1, "big")
    zombies = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    zombies.append(pid)
        except OSError:
            pass
    return " ".join(zombies).encode()
"""


@pytest.mark.parametrize("processes", [(), ("--workers", "1")], ids=["alone", "1"])
def test_as_process_1_the_dead_are_buried_and_the_applications_children_are_its_own(
    launch, tmp_path, need, lacks, processes
):
    alone = need("unshare"), "--pid", "--fork", "--mount-proc", "--kill-child"
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        lacks("a namespace of processes needs root, and one that is a mount point")
    (tmp_path / "app.py").write_text(ORPHANS)
    command = sys.executable, "-m", "kacore", "serve", "app:app"
    child = launch(*alone, *command, "--port", "0", "--pid", "pid", *processes, python=False, ready="serves")
    child.url = child.wait_for(r"http://[^\s/]+:[1-9][0-9]*")[0]
    for _ in range(3):
        with urllib.request.urlopen(child.url + "/orphan", timeout=20) as response:
            assert response.read() == b"\x07"
    wait_until(lambda: ask(child) == b"", "nobody dead is left")
    first = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text()
    os.kill(int(first), signal.SIGTERM)  # process 1, as `docker stop` does
    assert child.wait() == 0, child.text
    assert not (tmp_path / "pid").exists()
