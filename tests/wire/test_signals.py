"""Signals that do not mean the end, and those that mean it at once."""

import os
import signal
import urllib.request

import pytest

from tests.wire.conftest import wait_until

APP = """
import logging, os

logger = logging.getLogger("app")

def app(request):
    logger.warning("asked %s", request.path)
    return str(os.getpid())

async def slow(request):
    print("waits", flush=True)
    import asyncio
    await asyncio.sleep(600)
"""
LOG = """{"version": 1,
 "handlers": {"app": {"class": "logging.FileHandler", "filename": "app.log", "mode": "w"},
              "err": {"class": "logging.StreamHandler"}},
 "loggers": {"app": {"handlers": ["app"]}, "kacore": {"handlers": ["err"], "level": "INFO"}}}"""
PROCESSES = pytest.mark.parametrize("processes", [(), ("--workers", "2"), ("--reload",)], ids=["alone", "2", "reload"])


@pytest.fixture
def run(serve, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "log.json").write_text(LOG)

    def start(*arguments, name="app", **options):
        return serve(f"app:{name}", "--log-config", "log.json", *arguments, ready="serves", **options)

    return start


def ask(server, path="/"):
    with urllib.request.urlopen(server.url + path, timeout=20) as response:
        return int(response.read())


@PROCESSES
def test_sigusr1_opens_the_log_files_again(run, tmp_path, processes):
    server = run(*processes)
    n = len({ask(server, "/before") for _ in range(20)})
    (tmp_path / "app.log").rename(tmp_path / "app.log.1")
    server.send_signal(signal.SIGUSR1)
    n_processes = n + bool(processes)  # the parent has none of the application's loggers, but all handlers
    wait_until(lambda: server.text.count("SIGUSR1: reopened 1 log file") == n_processes, server.text)
    for _ in range(20):
        ask(server, "/after")
    assert "asked /before" in (tmp_path / "app.log.1").read_text()
    assert "asked /after" not in (tmp_path / "app.log.1").read_text()
    assert (tmp_path / "app.log").read_text().count("asked /after") == 20
    assert server.stop() == 0


def test_sigusr1_empties_no_file_that_was_not_moved_and_keeps_one_that_cannot_be_opened(run, tmp_path):
    server = run()
    ask(server, "/one")
    server.send_signal(signal.SIGUSR1)
    server.wait_for("reopened 1 log file")
    assert "asked /one" in (tmp_path / "app.log").read_text()
    (tmp_path / "app.log").rename(tmp_path / "moved")
    (tmp_path / "app.log").mkdir()
    server.send_signal(signal.SIGUSR1)
    server.wait_for("the log file stays the one it was: .*Is a directory")
    ask(server, "/two")
    assert "asked /two" in (tmp_path / "moved").read_text()


@PROCESSES
def test_signals_that_mean_nothing_are_ignored_with_one_line(run, processes):
    server = run(*processes)
    for number in (signal.SIGUSR2, signal.SIGWINCH):
        for _ in range(2):
            server.send_signal(number)
            server.wait_for(f"ignoring {number.name}")
    server.send_signal(signal.SIGUSR1)
    server.wait_for("SIGUSR1: ")
    assert server.text.count("ignoring SIGUSR2") == server.text.count("ignoring SIGWINCH") == 1
    ask(server)
    assert server.stop() == 0


def test_a_worker_survives_them_too(run):
    server = run("--workers", "1")
    worker = ask(server)
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGQUIT):
        os.kill(worker, number)
    server.wait_for("SIGUSR1: ")
    assert ask(server) == worker


@PROCESSES
def test_sigquit_ends_at_once(run, processes):
    server = run("--drain-timeout", "60", *processes, name="slow")
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    import socket

    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(request)
        server.wait_for("waits")
        assert server.stop(signal.SIGQUIT, timeout=15) == 0


@pytest.mark.parametrize("processes", [(), ("--workers", "1")], ids=["alone", "1"])
def test_a_signal_while_the_application_is_loaded_is_survived(launch, tmp_path, processes):
    (tmp_path / "app.py").write_text(
        "import os, time\nprint(f'starts {os.getpid()} ', flush=True)\n"
        "while not os.path.exists('go'): time.sleep(0.005)\n"
        "app = lambda request: b''\n"
    )
    child = launch("-m", "kacore", "serve", "app:app", "--port", "0", *processes)
    pid = int(child.wait_for(r"starts (\d+) ")[1])
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH):
        os.kill(pid, number)
        os.kill(child.pid, number)
    (tmp_path / "go").touch()
    child.wait_for("serves")
    assert child.stop() == 0


@pytest.mark.parametrize("takes", ["signal.signal(number, said)", "faulthandler.register(number, open('taken', 'w'))"])
def test_a_signal_that_the_application_takes_is_its_own(launch, tmp_path, takes):
    (tmp_path / "app.py").write_text(
        "import faulthandler, os, signal\n"
        "def said(*_):\n"
        "    os.write(os.open('taken', os.O_WRONLY | os.O_CREAT), b'said')\n"
        f"for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT):\n    {takes}\n"
        "app = lambda request: b''\n"
    )
    child = launch("-m", "kacore", "serve", "app:app", "--port", "0", ready="serves")
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT):
        (tmp_path / "taken").unlink(missing_ok=True) if "said" in takes else os.truncate(tmp_path / "taken", 0)
        child.send_signal(number)
        wait_until(lambda: (tmp_path / "taken").exists() and (tmp_path / "taken").read_text(), "it was told")
    assert "ignoring" not in child.text
    assert child.stop() == 0
