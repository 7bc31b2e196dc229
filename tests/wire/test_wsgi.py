"""WSGI, PEP 3333 to the letter, in threads and in the engine's own."""

import sys
import threading
import time
import wsgiref.validate

import pytest

from kacore import Policy
from tests.wire.conftest import wait_until


@pytest.fixture(params=[0, 1, 4])
def wsgi(request, start):
    def run(app, **options):
        return start(app, interface="wsgi", threads=request.param, **options)

    return run


def test_the_validator_finds_nothing(wsgi, client, caplog):
    def app(environ, start_response):
        body = environ["wsgi.input"].read(environ.get("CONTENT_LENGTH") and int(environ["CONTENT_LENGTH"]))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"%d" % len(body)]

    c = client(wsgi(wsgiref.validate.validator(app)))
    assert c.get("/a%20b?c=d", "X-Y: z").body == b"0"
    c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Type: a/b\r\nContent-Length: 5\r\n\r\nhello")
    assert c.response().body == b"5"
    c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert c.response().body == b"3"
    assert not caplog.records or all(record.levelname == "INFO" for record in caplog.records)


def test_the_environ_says_what_was_asked(wsgi, client):
    seen = {}

    def app(environ, start_response):
        seen.update(environ)
        start_response("200 OK", [])
        return [b""]

    running = wsgi(app)
    c = client(running)
    c.send(
        "POST /caf%C3%A9/a%20b?q=%20 HTTP/1.1\r\nHost: h\r\nContent-Type: t/p\r\nContent-Length: 2\r\nX-A: 1\r\n"
        "X-A: 2\r\nX_A: 3\r\nCookie: a=1\r\nCookie: b=2\r\nX-Latin: \xe9\r\n\r\nhi"
    )
    assert c.response().status == 200
    expected = {
        "REQUEST_METHOD": "POST", "SCRIPT_NAME": "", "PATH_INFO": "/caf\xc3\xa9/a b", "QUERY_STRING": "q=%20",
        "CONTENT_TYPE": "t/p", "CONTENT_LENGTH": "2", "SERVER_NAME": "127.0.0.1", "SERVER_PORT": str(running.port),
        "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "h", "HTTP_X_A": "1,2",
        "HTTP_COOKIE": "a=1; b=2", "HTTP_X_LATIN": "\xe9", "wsgi.url_scheme": "http", "wsgi.version": (1, 0),
        "wsgi.run_once": False,
    }  # fmt: skip
    assert {key: seen.get(key) for key in expected} == expected
    assert "HTTP_CONTENT_LENGTH" not in seen
    assert type(seen) is dict


@pytest.mark.parametrize(
    ("method", "target", "path"),
    [("GET", "http://h", "/"), ("GET", "http://h?q", "/"), ("OPTIONS", "http://h", "*"), ("OPTIONS", "*", "*")],
)
def test_a_target_without_a_path_has_one_for_the_application(wsgi, client, method, target, path):
    def app(environ, start_response):
        start_response("200 OK", [])
        return [f"{environ['PATH_INFO']} {environ['RAW_URI']}".encode()]

    c = client(wsgi(app))
    c.send(f"{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n")
    assert c.response().body == f"{path} {target}".encode()


def test_nothing_of_a_request_reaches_the_next_one(wsgi, client):
    """Environs are made of what the last one had."""
    seen = []

    def app(environ, start_response):
        names = ["PATH_INFO", "RAW_URI", "QUERY_STRING", "REMOTE_PORT", "HTTP_HOST", "HTTP_USER_AGENT", "wsgi.input"]
        seen.append([environ.get(name) for name in names])
        environ["wsgi.input"].close()
        assert environ["wsgi.input"].tell() == 0
        environ["wsgi.input"].seek(1)
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    running = wsgi(app)
    c, other = client(running), client(running)
    for one, path, host in [(c, "/a?b", "a"), (c, "/a", "a"), (other, "/a", "b"), (c, "/a%20b", ""), (c, "/a", "")]:
        one.send(
            f"GET {path} HTTP/1.{1 if host else 0}\r\nConnection: keep-alive\r\n" + f"Host: {host}\r\n\r\n"[not host and 8 :]
        )
        assert one.response().status == 200
    ports = [str(one.sock.getsockname()[1]) for one in (c, c, other, c, c)]
    assert [row[:6] for row in seen] == [
        ["/a", "/a?b", "b", ports[0], "a", None], ["/a", "/a", "", ports[1], "a", None],
        ["/a", "/a", "", ports[2], "b", None], ["/a b", "/a%20b", "", ports[3], None, None],
        ["/a", "/a", "", ports[4], None, None],
    ]  # fmt: skip


def test_start_response_and_write_take_what_pep_3333_gives_them(wsgi, client):
    def app(environ, start_response):
        for wrong in ((), ("200 OK",), ("200 OK", [], None, 1)):
            with pytest.raises(TypeError):
                start_response(*wrong)
        write = start_response("404 Not Found", headers=[("X-A", "1")])
        try:
            raise KeyError
        except KeyError:
            write = start_response("200 OK", [("X-A", "2")], exc_info=sys.exc_info())
        write(b"writ")
        return [b"ten"]

    response = client(wsgi(app)).get("/")
    assert (response.status, response.body, response.get("x-a")) == (200, b"written", "2")


def test_a_field_cannot_take_the_place_of_a_variable(wsgi, client):
    seen = {}

    def app(environ, start_response):
        seen.update(environ)
        start_response("200 OK", [])
        return []

    c = client(wsgi(app))
    c.get("/", "Content-Length: 0", "Content_Length: 5", "Remote-Addr: 1.2.3.4", "Proxy: http://evil")
    assert seen["REMOTE_ADDR"] == "127.0.0.1"
    assert seen["CONTENT_LENGTH"] == "0"
    assert seen["HTTP_REMOTE_ADDR"] == "1.2.3.4"


def test_an_upload_over_the_memory_limit_comes_as_a_file(wsgi, client):
    def app(environ, start_response):
        body = environ["wsgi.input"]
        start_response("200 OK", [])
        lines = [body.readline(), body.read(3), *body.readlines()[:1]]
        return [b"|".join(lines)]

    c = client(wsgi(app))
    content = b"first\nabcdef\n" + b"x" * 3_000_000
    for _ in range(2):
        c.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))
        assert c.response().body == b"first\n|abc|def\n"


def test_a_request_without_its_content_holds_no_thread(start, client):
    called = []

    def app(environ, start_response):
        called.append(environ["PATH_INFO"])
        start_response("200 OK", [])
        return [b"ok"]

    running = start(app, threads=1)
    stuck = [client(running).send("POST /stuck HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n") for _ in range(5)]
    assert client(running).get("/free").body == b"ok"
    assert called == ["/free"]
    for c in stuck:
        c.send("12345")
        assert c.response().body == b"ok"


def test_as_many_threads_as_allowed_work_at_once(start, client):
    barrier = threading.Barrier(3)

    def app(environ, start_response):
        barrier.wait(5)
        start_response("200 OK", [])
        return [b"together"]

    running = start(app, threads=3)
    clients = [client(running).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(3)]
    assert [c.response().body for c in clients] == [b"together"] * 3


def test_exc_info_replaces_the_head_until_it_is_sent(wsgi, client):
    def app(environ, start_response):
        start_response("200 OK", [("X-First", "1")])
        try:
            raise KeyError("x")
        except KeyError:
            start_response("503 Sorry", [("X-Second", "2")], sys.exc_info())
        return [b"sorry"]

    response = client(wsgi(app)).get()
    assert (response.status, response.get("x-first"), response.get("x-second")) == (503, None, "2")


def test_exc_info_raises_once_the_head_is_sent(wsgi, client):
    seen = []

    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"sent"
        try:
            raise KeyError("late")
        except KeyError:
            try:
                start_response("500 Oops", [], sys.exc_info())
            except KeyError as error:
                seen.append(error)
                raise

    c = client(wsgi(app))
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    c.head()
    assert c.rest() == b"4\r\nsent\r\n"
    assert len(seen) == 1


def test_exc_info_raises_once_something_was_written(wsgi, client):
    def app(environ, start_response):
        start_response("200 OK", [])(b"sent")
        try:
            raise KeyError("late")
        except KeyError:
            start_response("500 Oops", [], sys.exc_info())
        return [b"never"]

    c = client(wsgi(app))
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert c.head()[0] == 200
    assert c.rest() == b"4\r\nsent\r\n"


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ("200 OK", "200 OK"),
        ("200 Fine", "200 Fine"),
        ("599 Nobody Knows \xe9", "599 Nobody Knows \xe9"),
        ("404 N", "404 N"),
        ("404", "404 Not Found"),
        ("404 ", "404 Not Found"),
    ],
)
def test_the_status_line_says_what_the_application_said(wsgi, client, status, line):
    def app(environ, start_response):
        start_response(status, [("X-After", "1")])
        return [b"x"]

    c = client(wsgi(app)).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert c.until(b"\r\n") == b"HTTP/1.1 " + line.encode("latin-1")
    assert c.until(b"\r\n") == b"X-After: 1"


def test_start_response_twice_without_exc_info_is_an_error(wsgi, client):
    def app(environ, start_response):
        start_response("200 OK", [])
        start_response("201 Created", [])
        return [b""]

    assert client(wsgi(app)).get().status == 500


ODD = ["OK", "20 OK", "2000 OK", "200OK", "200 OK\r\nX: y", "200 \u20ac", 200, "", "100 Continue"]


@pytest.mark.parametrize("status", ODD)
def test_a_status_that_is_none_is_a_500(wsgi, client, status):
    def app(environ, start_response):
        start_response(status, [])
        return [b"x"]

    response = client(wsgi(app)).get()
    assert (response.status, response.get("x")) == (500, None)


def test_content_before_start_response_is_an_error(wsgi, client):
    assert client(wsgi(lambda environ, start_response: [b"x"])).get().status == 500


@pytest.mark.parametrize("pieces", [["text"], [b"a", "text"], [5], None, 5])
def test_what_is_no_bytes_is_an_error(wsgi, client, pieces):
    def app(environ, start_response):
        start_response("200 OK", [])
        return pieces

    assert client(wsgi(app)).get().status == 500


def test_the_legacy_write_and_what_is_returned_follow_each_other(wsgi, client):
    def app(environ, start_response):
        write = start_response("200 OK", [])
        write(b"one ")
        write(b"")
        write(b"two ")
        return [b"three ", b"four"]

    c = client(wsgi(app))
    for _ in range(3):
        assert c.get().body == b"one two three four"


def test_an_empty_result_is_an_empty_content(wsgi, client):
    def app(environ, start_response):
        start_response("200 OK", [])
        return {"/list": [], "/iter": iter([]), "/empties": iter([b"", b""])}[environ["PATH_INFO"]]

    c = client(wsgi(app))
    for path in ("/list", "/iter", "/empties"):
        assert c.get(path).body == b""


def test_start_response_may_come_with_the_first_piece(wsgi, client):
    def app(environ, start_response):
        start_response("201 Created", [("X-Late", "1")])
        yield b"a"
        yield b"b"

    response = client(wsgi(app)).get()
    assert (response.status, response.body, response.get("x-late")) == (201, b"ab", "1")


class Result:
    def __init__(self, pieces, fails=False):
        self.pieces = iter(pieces)
        self.n_closed = 0
        self.fails = fails

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.pieces)

    def close(self):
        self.n_closed += 1
        if self.fails:
            raise RuntimeError("in close")


def breaks():
    yield b"a"
    raise RuntimeError("in the middle")


def test_close_is_called_once_however_it_ends(wsgi, client):
    results = {"/good": Result([b"a", b"b"]), "/broken": Result(breaks()), "/fails": Result([b"a"], fails=True)}

    def app(environ, start_response):
        start_response("200 OK", [])
        return results[environ["PATH_INFO"]]

    running = wsgi(app)
    assert client(running).get("/good").body == b"ab"
    assert client(running).get("/fails").body == b"a"
    c = client(running).send("GET /broken HTTP/1.1\r\nHost: a\r\n\r\n")
    c.head()
    assert c.rest() == b"1\r\na\r\n"
    wait_until(lambda: [result.n_closed for result in results.values()] == [1, 1, 1])


def test_an_application_that_exits_does_not_cost_its_thread(start, client):
    def app(environ, start_response):
        if environ["PATH_INFO"] == "/exit":
            sys.exit("enough")
        start_response("200 OK", [])
        return [b"ok"]

    running = start(app, threads=1)
    assert client(running).get("/exit").status == 500
    assert client(running).get("/").body == b"ok"


def test_a_slow_reader_holds_back_what_the_thread_makes(start, client):
    made = 0

    def app(environ, start_response):
        nonlocal made
        start_response("200 OK", [])
        for _ in range(1000):
            made += 100_000
            yield b"x" * 100_000

    running = start(app, threads=1, policy=Policy(max_response_buffer=1 << 20))
    c = client(running, receive_buffer=4096)
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    c.head()
    before = -1
    while before != made:
        before = made
        time.sleep(0.1)
    assert made < 10_000_000
    c.reset()


def test_a_request_whose_client_left_before_a_thread_was_free_is_not_begun(start, client, caplog):
    go_on = threading.Event()
    called = []

    def app(environ, start_response):
        called.append(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/first":
            go_on.wait(20)
        start_response("200 OK", [])
        return [b"ok"]

    running = start(app, threads=1, policy=Policy(handler_timeout=1))
    first = client(running).send("GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: called)
    left = client(running).send("GET /left HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: running.phase_count("busy") == 2)
    left.reset()
    wait_until(lambda: running.phase_count("busy") == 1)
    assert client(running).get("/late").status == 503  # no thread in time
    assert first.response().status == 503
    go_on.set()
    wait_until(lambda: client(running).get("/next").status == 200)
    assert "/left" not in called
    assert "/late" not in called
    assert any("GET /late found no thread free within handler_timeout" in one.getMessage() for one in caplog.records)


def test_work_that_outlives_its_client_ends_quietly(start, client, caplog):
    go_on = threading.Event()

    def app(environ, start_response):
        go_on.wait(5)
        start_response("200 OK", [])
        return [b"late"]

    running = start(app, threads=1)
    c = client(running)
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: running.phase_count("busy") == 1)
    c.reset()
    running.check_empty()
    go_on.set()
    assert client(running).get().body == b"late"
    assert all(record.levelname == "INFO" for record in caplog.records)


def test_what_takes_any_arguments_and_is_not_async_is_told_to_be_wsgi(start, client):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"x"]

    running = start(wsgiref.validate.validator(app))
    assert running.server.interface == "wsgi"
    assert client(running).get().status == 200


def test_a_piece_is_with_the_client_before_the_application_is_asked_for_the_next(wsgi, client):
    clients, heard = [], []

    def app(environ, start_response):
        write = start_response("200 OK", [])
        c = clients[0]
        write(b"written")
        heard.append(c.until(b"written\r\n"))
        for piece in (b"first", b"second"):
            yield piece
            heard.append(c.until(piece + b"\r\n"))

    running = wsgi(app)
    clients.append(client(running))
    clients[0].send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: len(heard) == 3)
    assert clients[0].take(5) == b"0\r\n\r\n"


def test_an_application_that_gives_for_ever_leaves_others_their_turn(start, client):
    def app(environ, start_response):
        start_response("200 OK", [])
        if environ["PATH_INFO"] == "/":
            return [b"ok"]
        return iter(lambda: b"x" * 4096, None)

    running = start(app, interface="wsgi", threads=0)
    endless = client(running).send("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
    is_enough = threading.Event()

    def read_on():
        while not is_enough.is_set():
            endless.sock.recv(1 << 20)

    reader = threading.Thread(target=read_on)
    reader.start()
    for _ in range(3):
        assert client(running).get("/").body == b"ok"
    is_enough.set()
    reader.join()
    endless.reset()


@pytest.mark.parametrize("threads", [0, 2])
def test_fields_are_those_of_the_call_whatever_becomes_of_the_lists(start, client, threads):
    def app(environ, start_response):
        pair = ["X-A", "1"]
        headers = [pair, ("X-B", "2")]
        start_response("200 OK", headers)
        pair[1] = "9" * 100_000
        headers.append(("X-C", "3"))
        return [b"ok"]

    response = client(start(app, interface="wsgi", threads=threads)).get()
    assert (response.status, response.body) == (200, b"ok")
    assert [response.get(name) for name in ("x-a", "x-b", "x-c")] == ["1", "2", None]
