"""Files as responses: ASGI's http.response.pathsend and WSGI's wsgi.file_wrapper, sent by the kernel."""

import gzip
import io
import os
import socket
import tempfile

import pytest

from kacore import Policy
from tests.wire.conftest import wait_until

SIZES = [0, 1, 100, 70_000, 9_000_000]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    where = tmp_path_factory.mktemp("files")
    for size in SIZES:
        (where / f"{size}").write_bytes(os.urandom(size))
    return where


def pathsend(where, headers=()):
    async def app(scope, receive, send):
        assert scope["extensions"]["http.response.pathsend"] == {}
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        await send({"type": "http.response.pathsend", "path": str(where) + scope["path"]})

    return app


class Wsgi:
    """Serves what `open_it` opens, by wsgi.file_wrapper."""

    def __init__(self, open_it, headers=()):
        self.open_it, self.headers = open_it, list(headers)
        self.opened = None

    def __call__(self, environ, start_response):
        self.opened = self.open_it(environ["PATH_INFO"])
        start_response("200 OK", self.headers)
        return environ["wsgi.file_wrapper"](self.opened, 4096)


@pytest.fixture(params=["asgi", "wsgi-0", "wsgi-4"])
def serving(request, start, files):
    """A server of the files, by each interface."""
    if request.param == "asgi":
        return start(pathsend(files), lifespan="off", pathsend=True)
    return start(Wsgi(lambda path: open(str(files) + path, "rb")), threads=int(request.param[-1]), interface="wsgi")


@pytest.mark.parametrize("size", SIZES)
def test_a_file_arrives_whole_with_its_length_and_the_connection_is_kept(serving, client, files, size):
    c = client(serving)
    for _ in range(2):
        response = c.get(f"/{size}")
        assert response.get("content-length") == str(size)
        assert response.body == (files / str(size)).read_bytes()
    head = c.get("/70000", method="HEAD")
    assert head.get("content-length") == "70000"
    assert c.get("/1").body == (files / "1").read_bytes()


def test_pipelined_files_leave_in_order(serving, client, files):
    c = client(serving)
    order = [70_000, 1, 0, 9_000_000, 100, 70_000]
    c.send("".join(f"GET /{size} HTTP/1.1\r\nHost: a\r\n\r\n" for size in order))
    for size in order:
        assert c.response().body == (files / str(size)).read_bytes()


def test_a_slow_reader_of_a_file_costs_no_buffer_and_holds_up_nobody(serving, client, files):
    slow = client(serving, receive_buffer=4096)
    slow.send("GET /9000000 HTTP/1.1\r\nHost: a\r\n\r\n")
    other = client(serving)
    assert other.get("/100").status == 200
    wait_until(lambda: serving.phase_count("write") == 1, "the client is waited for")
    assert serving.stats()["engine"]["buffer_bytes"] < 100_000
    slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    assert slow.response().body == (files / "9000000").read_bytes()


def test_a_reader_that_vanishes_gives_the_descriptor_back(serving, client):
    def n_descriptors():
        return len(os.listdir("/proc/self/fd"))

    before = n_descriptors()
    for _ in range(3):
        c = client(serving, receive_buffer=4096)
        c.send("GET /9000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        c.take(100)
        c.reset()
    serving.check_empty()
    assert n_descriptors() <= before


def test_content_length_of_the_application_that_is_not_the_files_is_an_error(start, client, files):
    c = client(start(pathsend(files, [(b"content-length", b"99")]), lifespan="off", pathsend=True))
    response = c.get("/100")
    assert response.status == 500
    assert c.is_closed()


@pytest.mark.parametrize("path", ["/none", "/."])
def test_a_file_that_cannot_be_opened_is_an_error_of_the_application(start, client, files, path):
    c = client(start(pathsend(files), lifespan="off", pathsend=True))
    assert c.get(path).status == 500


def test_a_pipe_is_refused_and_does_not_hang_the_server(start, client, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    c = client(start(pathsend(tmp_path), lifespan="off", pathsend=True))
    assert c.get("/pipe").status == 500


def test_a_file_that_becomes_shorter_while_it_is_sent_cuts_the_response_off(start, client, tmp_path):
    (tmp_path / "log").write_bytes(b"x" * 9_000_000)
    running = start(pathsend(tmp_path), lifespan="off", pathsend=True, policy=Policy())
    c = client(running, receive_buffer=4096)
    c.send("GET /log HTTP/1.1\r\nHost: a\r\n\r\n")
    status, fields = c.head()
    assert (status, dict(fields)["content-length"]) == (200, "9000000")
    os.truncate(tmp_path / "log", 10)
    assert len(c.rest()) < 9_000_000
    assert running.closed("application") == 1


def test_wsgi_sends_from_where_the_file_stands_up_to_content_length(start, client, files):
    whole = (files / "70000").read_bytes()

    def open_at(path):
        file = open(files / "70000", "rb")  # noqa: SIM115 -- the server closes it
        file.read(1000)  # more is buffered: the position counts, not what was read ahead
        return file

    app = Wsgi(open_at)
    c = client(start(app, threads=0))
    assert c.get().body == whole[1000:]
    app.headers = [("Content-Length", "500")]
    assert c.get().body == whole[1000:1500]
    assert c.get().status == 200


def test_wsgi_file_is_closed_when_the_response_is_over(start, client, files):
    app = Wsgi(lambda path: (files / "100").open("rb"))
    c = client(start(app, threads=0))
    c.get()
    assert app.opened.closed


def test_wsgi_temporary_file_written_just_now_is_sent_whole(start, client):
    def made(path):
        file = tempfile.NamedTemporaryFile()  # noqa: SIM115 -- the server closes it
        file.write(b"written just now")
        file.seek(8)
        return file

    c = client(start(Wsgi(made), threads=0))
    assert c.get().body == b"just now"


@pytest.mark.parametrize("kind", ["memory", "gzip"])
def test_wsgi_objects_whose_read_is_not_the_files_are_read(start, client, tmp_path, kind):
    with gzip.open(tmp_path / "z", "wb") as packed:
        packed.write(b"unpacked" * 10_000)
    opened = {
        "memory": lambda path: io.BytesIO(b"unpacked" * 10_000),
        "gzip": lambda path: gzip.GzipFile(tmp_path / "z"),
    }
    c = client(start(Wsgi(opened[kind]), threads=0))
    response = c.get()
    assert response.get("transfer-encoding") == "chunked"
    assert response.body == b"unpacked" * 10_000
