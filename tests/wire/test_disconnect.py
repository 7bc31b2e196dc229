"""A stream ends with its client: the application hears of it at once, wherever it waits, and nothing is logged.

FIN alone is not the client's end: who has closed only his own side gets his answer whole."""

import os
import re
import signal
from pathlib import Path

import pytest

import kacore
from tests.wire.conftest import Client, wait_until

pytestmark = pytest.mark.needs("module:starlette", "module:fastapi", "module:sse_starlette")

HERE = Path(__file__).parent
WAYS = {"fin": lambda c: c.close(), "reset": lambda c: c.reset()}
COMPLAINTS = re.compile(r"ERROR|Traceback|Exception|returned without|CRITICAL|WARNING")


@pytest.fixture
def leaving(tmp_path, monkeypatch):
    monkeypatch.setenv("LEAVING", str(tmp_path / "noted"))
    import leaving

    return leaving


def hear_pieces(port, leaving, path):
    """Read each piece while the application stands still behind it."""
    c = Client(port).send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
    try:
        for end in (b"preload\r\n\r\n", b"5\r\npiece\r\n", b"5\r\npiece\r\n"):
            c.until(end)
            leaving.note("heard")
        assert c.until(b"0\r\n\r\n") == b""
        assert c.get("/nowhere").status == 404
    finally:
        c.close()


def all_leave(port, leaving, way):
    """A client of every stream, who leaves when it has begun."""
    clients = []
    n = len(leaving.STREAMS)
    try:
        for path in leaving.STREAMS:
            clients.append(Client(port).send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
        wait_until(lambda: leaving.noted().count("began") == n, "every stream has begun")
    finally:
        for one in clients:
            WAYS[way](one)
    wait_until(lambda: leaving.noted().count("ended") == n, "every stream has ended")


def half_closed(port, path):
    """All that a client gets who says that he will send no more."""
    c = Client(port).send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").fin()
    try:
        return c.rest()
    finally:
        c.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_stream_ends_with_its_client(start, leaving, caplog, way, loop):
    running = start(leaving.app, loop=loop)
    all_leave(running.port, leaving, way)
    running.check_empty()
    assert not [record for record in caplog.records if record.levelname != "INFO"], caplog.text


def test_a_stream_over_tls_ends_with_its_client(start, leaving, over_tls, localhost, caplog):
    running = start(leaving.app, tls=kacore.TLS(localhost))
    for n, path in enumerate(("/wait", "/tick"), 1):
        one = over_tls(running)
        one.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda n=n: leaving.noted().count("began") == n, "the stream has begun")
        one.close()
        wait_until(lambda n=n: leaving.noted().count("ended") == n, "the stream has ended")
    running.check_empty()
    assert not [record for record in caplog.records if record.levelname != "INFO"], caplog.text


def test_who_closed_his_own_side_only_gets_the_stream_whole(start, leaving, caplog):
    running = start(leaving.app)
    for path in ("/pieces", "/stamped/pieces"):
        answer = half_closed(running.port, path)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.count(b"piece;") == 5
        assert answer.endswith(b"\r\n0\r\n\r\n")
    assert not [record for record in caplog.records if record.levelname != "INFO"], caplog.text


def test_an_application_that_obeys_the_disconnect_of_a_half_closed_client_is_no_error(start, leaving, caplog):
    """It has been given nothing for a while, and so counts as gone: no 500, no line."""
    running = start(leaving.app)
    assert half_closed(running.port, "/wait") == b""
    assert half_closed(running.port, "/elsewhere/").endswith(b"\r\n4\r\nhead\r\n" + 3 * b"4\r\nmore\r\n")
    running.check_empty()
    assert not [record for record in caplog.records if record.levelname != "INFO"], caplog.text


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("when", ["", "later"])
def test_a_piece_is_with_the_client_before_the_application_goes_on(start, leaving, loop, when):
    running = start(leaving.app, loop=loop)
    hear_pieces(running.port, leaving, f"/blocking/{when}")


def faces():
    serve = ["-m", "kacore", "serve", "leaving:app", "--port", "0", "--app-dir", str(HERE)]
    uvicorn = [
        *("-m", "uvicorn", "leaving:app", "--port", "0", "--app-dir", str(HERE)),
        *("--http", "kacore.embed.uvicorn:Protocol"),
    ]
    gunicorn = ["-m", "gunicorn", "-k", "kacore.embed.gunicorn.ASGIWorker", "-b", "127.0.0.1:0", "--no-control-socket"]
    return {
        "workers": [*serve, "--workers", "2"],
        "uvicorn-asyncio": [*uvicorn, "--loop", "asyncio"],
        "uvicorn-uvloop": [*uvicorn, "--loop", "uvloop"],
        "gunicorn": [*gunicorn, "--chdir", str(HERE), "leaving:app"],
    }


@pytest.fixture(params=faces())
def face(request, need, launch, leaving, tmp_path):
    name = request.param
    need("module:" + {"workers": "kacore"}.get(name, name.partition("-")[0]))
    child = launch(*faces()[name], LEAVING=os.environ["LEAVING"])
    child.wait_for(r"(?s)http://127\.0\.0\.1:[1-9]\d*.*") if name != "gunicorn" else child.wait_for("Booting worker")
    child.url = re.search(r"http://127\.0\.0\.1:[1-9]\d*", child.text)[0]
    return child


def test_a_stream_ends_with_its_client_on_every_face(face, leaving):
    all_leave(face.port, leaving, "fin")
    answer = half_closed(face.port, "/pieces")
    assert answer.count(b"piece;") == 5 and answer.endswith(b"\r\n0\r\n\r\n")
    hear_pieces(face.port, leaving, "/blocking/")
    face.process.send_signal(signal.SIGTERM)
    face.wait()
    assert not COMPLAINTS.search(face.text), face.text
