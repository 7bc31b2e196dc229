"""--reload: nothing that is asked after a save is answered by the code of before, and who waits is not lost."""

import http.client
import os
import re
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from kacore.server.reload import Freshness, Watcher
from tests.wire.conftest import wait_until

APP = "VERSION = {!r}\n\ndef app(request):\n    return VERSION\n"


@pytest.fixture
def save(tmp_path):
    """Write app.py, or another file of the application."""

    def write(text, name="app.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


@pytest.fixture
def run(serve, save):
    """Python writes bytecode, as it does for whoever has not told it otherwise: all saves here are of the same second."""
    save(APP.format("v0"))
    return lambda *arguments, **options: serve("app:app", "--reload", *arguments, PYTHONDONTWRITEBYTECODE="", **options)


def ask(server, path="/", **fields):
    """Status and text."""
    request = urllib.request.Request(server.url + path, headers=fields)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["1", "2"])
def test_a_request_right_after_a_save_is_answered_by_the_new_code(run, save, workers):
    server = run(*workers)
    for n in range(1, 9):
        save(APP.format(f"v{n}"))
        assert ask(server) == (200, f"v{n}")
    assert server.stop() == 0


def test_a_kept_connection_is_kept_and_its_next_request_is_the_new_codes(run, save):
    server = run()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.connect()
    ours = connection.sock
    for n in range(4):
        save(APP.format(f"v{n}"))
        connection.request("POST", "/", body=b"once")
        assert connection.getresponse().read().decode() == f"v{n}"
    assert connection.sock is ours
    connection.close()
    assert server.stop() == 0


def test_a_connection_that_has_not_asked_yet_is_the_new_codes_too(run, save):
    server = run()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        ask(server)  # whoever came before has been accepted
        save(APP.format("v1"))
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert sock.recv(4096).endswith(b"v1")


def test_a_request_waits_for_code_that_takes_long_to_load(run, save, tmp_path):
    server = run()
    save("import os, time\nopen('loading', 'w')\nwhile not os.path.exists('go'): time.sleep(0.005)\n" + APP.format("v1"))
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        wait_until(lambda: (tmp_path / "loading").exists(), "it is being loaded")
        (tmp_path / "go").touch()
        assert sock.recv(4096).endswith(b"v1")


def test_what_is_in_progress_at_a_save_is_finished_by_the_code_it_was_asked_of(run, save, tmp_path):
    server = run()
    save("""
import asyncio, os

async def app(request):
    print("asked", flush=True)
    while not os.path.exists("go"):
        await asyncio.sleep(0.005)
    return b"old"
""")
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        server.wait_for("asked")
        save(APP.format("new"))
        assert ask(server) == (200, "new")
        (tmp_path / "go").touch()
        assert sock.recv(4096).endswith(b"old")
    assert server.stop() == 0


def test_no_more_than_the_code_before_the_last_edit_is_waited_for(run, save):
    """Of each slot two processes have a place: what hangs in the one before does not hold up the next."""
    server = run()
    hangs = "import asyncio\n\nasync def app(request):\n    if request.path == '/hang':\n        await asyncio.sleep(600)\n"
    socks = []
    for n in range(1, 4):
        save(hangs + f"    return b'v{n}'\n")
        assert ask(server) == (200, f"v{n}")
        socks.append(socket.create_connection(("127.0.0.1", server.port), timeout=30))
        socks[-1].sendall(b"GET /hang HTTP/1.0\r\n\r\n")
        ask(server)
    for sock in socks:
        sock.close()


def test_a_syntax_error_is_a_page_that_says_where_and_is_gone_with_the_next_save(run, save):
    server = run()
    save("x = 1\ndef broken(:\n")
    status, text = ask(server)
    assert status == 500
    assert "SyntaxError: invalid syntax" in text
    assert re.search(r"/app\.py, line 2\n", text)
    status, page = ask(server, Accept="text/html,*/*")
    assert status == 500
    assert page.startswith("<!doctype html>") and "app.py, line 2" in page
    save(APP.format("v1"))
    assert ask(server) == (200, "v1")
    assert server.text.count("SyntaxError: invalid syntax") == 1
    assert server.stop() == 0


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["1", "2"])
def test_an_import_that_fails_at_the_start_is_a_page_too_and_is_told_once(launch, save, workers):
    save("import nothing_like_this\n")
    child = launch("-m", "kacore", "serve", "app:app", "--reload", "--port", "0", *workers)
    child.url = child.wait_for(r"http://[^\s/]+:[1-9][0-9]*")[0]
    status, text = ask(child)
    assert status == 500
    assert "No module named 'nothing_like_this'" in text and "app.py, line 1" in text
    assert "kacore" not in text  # no frame of ours
    save("app = lambda request: b'there'\n", "nothing_like_this.py")
    save("from nothing_like_this import app\n")
    assert ask(child) == (200, "there")
    assert child.text.count("ModuleNotFoundError") == 1
    assert child.stop() == 0


def test_a_module_that_was_missing_and_is_saved_is_the_cure(run, save):
    server = run()
    save("from other import app\n")
    assert ask(server)[0] == 500
    save(APP.format("other"), "other.py")
    assert ask(server) == (200, "other")


@pytest.mark.parametrize(("text", "why"), [
    ("app = 5\n", "not callable"),
    ("import os\nos._exit(9)\n", "exited with status 9"),
    ("async def app(scope, receive, send):\n    await receive()\n"
     "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n", "no database"),
])  # fmt: skip
def test_the_page_says_whatever_kept_the_application_from_serving(run, save, text, why):
    server = run()
    save(text)
    status, said = ask(server)
    assert (status, why in said) == (500, True), said
    save(APP.format("v1"))
    assert ask(server) == (200, "v1")


def test_html_in_an_error_is_shown_and_not_obeyed(run, save):
    server = run()
    save("raise ValueError('<script>alert(1)</script>')\n")
    _, page = ask(server, Accept="text/html")
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_sighup_keeps_the_old_code_until_the_new_one_serves(run, save, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    server = run("--reload-dir", "elsewhere")
    save("broken(")
    server.send_signal(signal.SIGHUP)
    server.wait_for("did not start: status 3; the old one keeps serving")
    assert ask(server) == (200, "v0")
    assert server.stop() == 0


@pytest.mark.parametrize("has_watchfiles", [True, False], ids=["watchfiles", "polling"])
def test_files_that_no_module_is_are_seen_without_a_request(run, save, tmp_path, need, has_watchfiles):
    if has_watchfiles:
        need("module:watchfiles")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "sitecustomize.py").write_text("import sys\nsys.modules['watchfiles'] = None\n")
    more = {}
    if not has_watchfiles:
        more["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "none"), *filter(None, [os.environ.get("PYTHONPATH")])])
    server = run("--reload-include", "*.html", **more)
    save("<p>", "templates/page.html")
    server.wait_for(r"page\.html changed: reloading")
    save("x = 1", "new.py")
    server.wait_for(r"new\.py changed: reloading")
    assert server.stop() == 0


def test_the_process_that_watches_ends_with_the_server(run, need):
    need("module:watchfiles")
    server = run()
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    assert len(children) == 2
    server.process.kill()
    wait_until(lambda: not any(map(is_running, children)), "they have ended")


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- what is watched ----------------------------------------------------------------------------------------------


def test_a_file_that_changes_appears_or_goes_is_a_change_and_nothing_else_is(tmp_path, save):
    save("1", "a.py")
    save("1", "pkg/b.py")
    save("1", "notes.txt")
    watcher = Watcher([str(tmp_path)])
    assert watcher.changed() == []
    save("2", "notes.txt")
    assert watcher.changed() == []
    save("22", "pkg/b.py")
    assert watcher.changed() == [str(tmp_path / "pkg/b.py")]
    save("1", "pkg/deep/c.py")
    assert watcher.changed() == [str(tmp_path / "pkg/deep/c.py")]
    (tmp_path / "a.py").unlink()
    assert watcher.changed() == [str(tmp_path / "a.py")]
    assert watcher.changed() == []


def test_what_is_hidden_installed_or_excluded_is_not_watched(tmp_path, save):
    skipped = (".git/a.py", "node_modules/a.py", "__pycache__/a.py", "venv/lib/a.py", "tests/a.py", "gen/x/a.py", "b_pb2.py")
    for name in skipped:
        save("1", name)
    save("", "venv/pyvenv.cfg")
    save("1", "gen/keep.py")
    watcher = Watcher([str(tmp_path)], exclude=["tests", "gen/x", "*_pb2.py"])
    assert list(watcher.seen) == [str(tmp_path / "gen/keep.py")]


def test_a_symlinked_package_is_watched_and_a_circle_or_a_heap_of_files_is_not(tmp_path, save):
    save("1", "elsewhere/pkg/__init__.py")
    save("1", "elsewhere/pkg/sub/a.py")
    save("1", "elsewhere/heap/b.py")
    save("1", "site/app.py")
    (tmp_path / "site/pkg").symlink_to(tmp_path / "elsewhere/pkg")
    (tmp_path / "site/heap").symlink_to(tmp_path / "elsewhere/heap")
    (tmp_path / "elsewhere/pkg/back").symlink_to(tmp_path / "elsewhere/pkg")
    watcher = Watcher([str(tmp_path / "site")])
    assert sorted(watcher.seen) == [str(tmp_path / "site" / name) for name in ("app.py", "pkg/__init__.py", "pkg/sub/a.py")]
    save("22", "elsewhere/pkg/sub/a.py")
    assert watcher.changed() == [str(tmp_path / "site/pkg/sub/a.py")]


def test_a_worker_is_stale_when_a_module_that_it_has_loaded_changed(tmp_path, save, monkeypatch):
    import importlib

    save("x = 1", "some_module_of_a_test.py")
    save("x = 1", "never_loaded.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    freshness = Freshness(Watcher([str(tmp_path)]))
    assert not freshness.is_stale()
    save("x = 22", "never_loaded.py")
    assert not freshness.is_stale()
    save("x = 22", "some_module_of_a_test.py")
    importlib.import_module("some_module_of_a_test")
    assert freshness.is_stale()  # it may be the old text, or the new one: nobody knows
    monkeypatch.delitem(sys.modules, "some_module_of_a_test")


def test_bytecode_is_kept_of_what_was_not_saved_just_now(run, save, tmp_path):
    save("x = 1\n", "old.py")
    os.utime(tmp_path / "old.py", (1e9, 1e9))
    save("import old\n" + APP.format("v0"))
    os.utime(tmp_path / "app.py", (time.time() + 60,) * 2)  # just now, however long the start takes
    server = run()
    assert ask(server) == (200, "v0")
    assert [path.name.split(".")[0] for path in (tmp_path / "__pycache__").iterdir()] == ["old"]


def test_a_large_tree_is_looked_at_less_often(tmp_path):
    for n in range(50):
        (tmp_path / f"{n}").mkdir()
        for k in range(20):
            (tmp_path / f"{n}" / f"{k}.py").touch()
    watcher = Watcher([str(tmp_path)])
    assert watcher.changed() == []
    assert watcher.look_every >= 0.25
    assert len(watcher.seen) == 1000
