"""What a server says to whoever started it: where it is and how to stop it, who is waited for, what there was."""

import os
import pty
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from kacore.server import telling

APP = """
import asyncio, os

async def app(request):
    if request.path == "/slow":
        print("asked", flush=True)
        while not os.path.exists("go"):
            await asyncio.sleep(0.005)
    return b"hi"
"""


@pytest.fixture
def run(serve, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    return lambda *arguments, **options: serve("app:app", *arguments, **options)


@pytest.mark.parametrize(("number", "again"), [(signal.SIGINT, "Ctrl-C again"), (signal.SIGTERM, "a second signal")])
def test_it_says_who_is_waited_for_how_to_end_at_once_and_what_there_was(run, tmp_path, number, again):
    server = run("--drain-timeout", "30")
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
        server.wait_for("asked")
        port = sock.getsockname()[1]
        server.send_signal(number)
        server.wait_for(rf"INFO stopping: waiting at most 30 s for 1 request \(127\.0\.0\.1:{port}\); {again} ends at once\n")
        (tmp_path / "go").touch()
        while sock.recv(4096):
            pass
    assert server.wait() == 0
    assert re.search(r"INFO stopped: 1 request on 1 connection in \d+\.\d s\n$", server.text)


def test_a_parent_says_it_for_its_workers_once(run, tmp_path):
    server = run("--workers", "2")
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
        server.wait_for("asked")
        server.send_signal(signal.SIGINT)
        server.wait_for("INFO stopping: 1 connection open, waiting at most 25 s for what is in progress; Ctrl-C again ends")
        (tmp_path / "go").touch()
        while sock.recv(4096):
            pass
    assert server.wait() == 0
    assert re.search(r"INFO stopped: 1 request on 1 connection in \d+\.\d s\n$", server.text)
    assert server.text.count("stopping") == server.text.count("stopped") == 1


@pytest.mark.parametrize(
    "program",
    [
        "import kacore; kacore.Server(lambda request: b'hi', port=0).run()",
        "import kacore; kacore.run(lambda request: b'hi', port=0)",
    ],
)
def test_programs_that_have_set_up_no_logging_speak_too_and_on_a_terminal_say_how_to_stop(program, python_environment):
    ours, theirs = pty.openpty()
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    env = {**python_environment, "NO_COLOR": "1", "TERM": "xterm"}
    child = subprocess.Popen([sys.executable, "-c", program], env=env, **streams)
    os.close(theirs)
    text = ""

    def read_until(pattern):
        nonlocal text
        while not (found := re.search(pattern, text)):
            text += os.read(ours, 65536).decode()
        return found

    try:
        url = read_until(r"serves a handler on (http://\S+?:[1-9]\d*) .*; Ctrl-C stops")[1]
        urllib.request.urlopen(url + "/x", timeout=20).read()
        read_until(r"200 GET /x .* #1")
        child.send_signal(signal.SIGINT)
        read_until("INFO stopped: 1 request on 1 connection")
        assert child.wait(20) == 0
    finally:
        child.kill()
        child.wait()
        os.close(ours)


def test_a_program_that_has_set_up_logging_keeps_it(launch, tmp_path):
    (tmp_path / "run.py").write_text(
        "import logging, kacore\n"
        "logging.basicConfig(level='INFO', format='mine: %(message)s')\n"
        "kacore.Server(lambda request: b'hi', port=0).run()\n"
    )
    child = launch("run.py", ready="mine: kacore .* serves a handler")
    assert child.stop() == 0
    assert child.text.count("serves") == 1


@pytest.mark.parametrize("workers", ["1", "3"])
def test_an_error_that_all_workers_have_stands_once(launch, tmp_path, workers):
    (tmp_path / "app.py").write_text("raise RuntimeError('no database')\n")
    child = launch("-m", "kacore", "app:app", "--port", "0", "--workers", workers)
    assert child.wait() == 3
    assert child.text.count("RuntimeError: no database") == 1
    assert child.text.count("did not start") == 1
    assert "kacore/" not in child.text.replace(str(tmp_path), "")  # the traceback begins in the application


@pytest.mark.parametrize(
    ("connections", "expected"),
    [
        ([("idle", 1)], "stopping"),
        ([("busy", 1), ("idle", 2)], "stopping: waiting at most 5 s for 1 request (h:1); Ctrl-C again ends at once"),
        (
            [("write", 1), ("busy", 2), ("body", 3), ("head", 4), ("tunnel", 5)],
            "stopping: waiting at most 5 s for 4 requests (h:1, h:2, h:3, ...) and 1 tunnel (h:5); Ctrl-C again ends at once",
        ),
    ],
)
def test_who_is_waited_for_is_named_but_for_the_many(connections, expected):
    found = [{"phase": phase, "client": ("h", port)} for phase, port in connections]
    assert telling.stopping(found, 5.0, by_keyboard=True) == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.26, "0.3 s"), (59.9, "59.9 s"), (200, "3 min 20 s"), (7260, "2 h 1 min"), (90_000, "1 d 1 h")],
)
def test_times_are_written_in_two_units(seconds, text):
    assert telling.duration(seconds) == text
