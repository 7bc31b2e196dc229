"""Several engines in one process: each has a thread, a loop, a listener and a lifespan of its own.

Here they run under a GIL as well, which costs them their sense and nothing else: the command believes that there is none.
"""

import json
import re
import signal
import socket
import sys
import urllib.error
import urllib.request

import pytest
from hammering import Hammer

# Answers with the name of the thread that its lifespan ran in, and the number of lifespans so far; /fail ends its engine.
APPLICATION = """
import itertools, os, threading

numbers = itertools.count(1)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            if event == "lifespan.startup":
                scope["state"]["mine"] = f"{threading.current_thread().name} {next(numbers)}"
                if os.path.exists("broken"):
                    await send({"type": "lifespan.startup.failed", "message": "as it was told"})
                    return
            await send({"type": event + ".complete"})
            if event == "lifespan.shutdown":
                os.write(1, f"ends {scope['state']['mine']}\\n".encode())
                return
    if scope["path"] == "/fail":
        raise SystemExit(5)
    assert threading.current_thread().name in scope["state"]["mine"]
    body = scope["state"]["mine"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""
WSGI = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [f"{environ['wsgi.multithread']} {environ['wsgi.multiprocess']}".encode()]
"""
WITHOUT_GIL = "import sys; sys._is_gil_enabled = lambda: False; from kacore.cli import main; sys.exit(main())"


@pytest.fixture
def run(launch, tmp_path):
    def start(*arguments, application=APPLICATION, ready=r"serves on http://[^\s/]+:[1-9][0-9]*"):
        (tmp_path / "app.py").write_text(application)
        child = launch("-c", WITHOUT_GIL, "serve", "app:app", "--port", "0", "--loop", "asyncio", *arguments)
        child.url = child.wait_for(ready)[0].rpartition(" ")[2]
        return child

    return start


def ask(url, path="/"):
    try:
        with urllib.request.urlopen(url + path, timeout=15) as response:
            return response.read().decode()
    except urllib.error.HTTPError as error:
        error.close()
        raise


def test_engines_serve_are_replaced_without_a_loss_and_end_with_their_lifespans(run, free_port, tmp_path):
    admin = free_port()
    server = run("--engines", "2", "--admin", str(admin), "--drain-grace", "0.1", "--drain-spread", "0")
    assert "2 engines of at most" in server.text
    with Hammer(socket.AF_INET, ("127.0.0.1", server.port), n=9) as hammer:
        hammer.answered(60)
        server.send_signal(signal.SIGHUP)
        server.wait_for("(?s)SIGHUP.*engine 0 serves.*engine 1 serves")
        hammer.answered(60)
        assert "ready" in ask(f"http://127.0.0.1:{admin}", "/readyz")
        seen = json.loads(ask(f"http://127.0.0.1:{admin}", "/connections"))
        assert seen["open"] == sum(seen["phases"].values()) > 0
        assert len(seen["connections"]) > 0
    assert (hammer.lost, hammer.refused) == ([], [])
    assert {int(body.split()[-1]) for body in map(str_of, hammer.bodies)} == {1, 2, 3, 4}

    (tmp_path / "broken").touch()
    server.send_signal(signal.SIGHUP)
    server.wait_for("the new engine 0 did not start; the old one keeps serving")
    assert {ask(server.url).split()[-1] for _ in range(30)} == {"3", "4"}
    assert server.stop() == 0
    assert set(re.findall(r"ends kacore-engine-. (\d)", server.text)) == {"1", "2", "3", "4"}
    assert re.search(r"stopped: \d[\d,]* requests", server.text)


def str_of(body):
    return body.decode() if isinstance(body, bytes) else str(body)


def test_what_ends_one_engine_ends_the_process(run):
    server = run("--engines", "2")
    with pytest.raises(OSError):
        ask(server.url, "/fail")
    assert server.wait() == 5
    assert "ends kacore-engine-" in server.text


def test_an_application_that_does_not_start_is_told_once_and_as_without_engines(run, tmp_path):
    (tmp_path / "broken").touch()
    server = run("--engines", "2", ready="the application's startup failed: as it was told")
    assert server.wait() == 2


def test_a_wsgi_application_is_told_of_threads_and_of_no_processes(run):
    server = run("--engines", "2", "--threads", "0", application=WSGI)
    assert ask(server.url) == "True False"


@pytest.mark.skipif(not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="this Python has no GIL")
def test_engines_under_a_gil_are_refused_and_workers_named(launch, tmp_path):
    (tmp_path / "app.py").write_text(WSGI)
    refused = launch("-m", "kacore", "serve", "app:app", "--engines", "2")
    assert refused.wait() == 2
    assert "use --workers 2" in refused.text
