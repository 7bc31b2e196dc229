"""Applications that do what nobody should. Their request is answered or broken off, and nobody else's waits for it."""

import array
import logging
import threading
from typing import Any

import pytest

import kacore
from tests.wire.conftest import wait_until


class Odd(BaseException):
    """Neither an error nor the end of the process."""


class Unprintable(Exception):
    def __str__(self):
        raise Odd("no words")

    __repr__ = __str__


class Unspeakable:
    def __str__(self):
        raise Odd("no words")

    __repr__ = __eq__ = __hash__ = __str__


class OwnBytes(bytes):
    def __len__(self):
        return 1000

    def __bytes__(self):
        raise Odd("no bytes")

    def __bool__(self):
        return True


# What passes for bytes, and the bytes that are meant.
CONTENTS = {
    "subclass": (OwnBytes(b"content"), b"content"),
    "bytearray": (bytearray(b"content"), b"content"),
    "memoryview": (memoryview(b"content"), b"content"),
    "every other byte": (memoryview(b"c_o_n_t_e_n_t_")[::2], b"content"),
    "array": (array.array("B", b"content"), b"content"),
    "large subclass": (OwnBytes(b"x" * 100_000), b"x" * 100_000),
    "large memoryview": (memoryview(b"x" * 100_000), b"x" * 100_000),
}


@pytest.fixture(params=CONTENTS)
def content(request):
    return CONTENTS[request.param]


@pytest.fixture(params=[0, 2])
def wsgi(request, start):
    def run(app, **options):
        return start(app, interface="wsgi", threads=request.param, **options)

    return run


def test_what_passes_for_bytes_is_sent_as_what_it_is_by_wsgi(wsgi, client, content):
    given, meant = content
    ways = {"/list": [given], "/two": [given, b"!"], "/iter": None, "/write": None}

    def app(environ, start_response):
        write = start_response("200 OK", [])
        if environ["PATH_INFO"] == "/write":
            write(given)
            return []
        return ways[environ["PATH_INFO"]] or iter([given])

    c = client(wsgi(app))
    for path in ways:
        assert c.get(path).body == meant + b"!" * (path == "/two")


def test_what_passes_for_bytes_is_sent_as_what_it_is_by_handlers(start, client, content):
    given, meant = content
    if isinstance(given, array.array):
        pytest.skip("an array is iterable: its items would be pieces")

    def handler(request):
        return {
            "/plain": given,
            "/response": kacore.Response(given),
            "/pieces": kacore.Response([given, given]),
        }[request.path]

    c = client(start(handler))
    assert c.get("/plain").body == meant
    assert c.get("/response").body == meant
    assert c.get("/pieces").body == meant * 2


def test_what_passes_for_bytes_is_sent_as_what_it_is_by_asgi(start, client, content):
    given, meant = content

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200})
        if scope["path"] == "/pieces":
            await send({"type": "http.response.body", "body": given, "more_body": True})
        await send({"type": "http.response.body", "body": given})

    c = client(start(app, lifespan="off"))
    assert c.get("/").body == meant
    assert c.get("/pieces").body == meant * 2


# -- what is raised, and where -----------------------------------------------------------------------------


def empties_its_environ(environ, start_response):
    environ.clear()
    raise RuntimeError("on purpose")


def deletes_what_a_log_would_say(environ, start_response):
    del environ["REQUEST_METHOD"], environ["RAW_URI"], environ["PATH_INFO"]
    raise RuntimeError("on purpose")


def has_unspeakable_variables(environ, start_response):
    for name in list(environ):
        environ[name] = Unspeakable()
    raise RuntimeError("on purpose")


def raises_what_cannot_be_printed(environ, start_response):
    raise Unprintable


def raises_neither_error_nor_exit(environ, start_response):
    raise Odd("on purpose")


def raises_generator_exit(environ, start_response):
    raise GeneratorExit


def says_that_its_client_is_gone(environ, start_response):
    raise kacore.ClientGone("on purpose")


def returns_what_cannot_be_iterated(environ, start_response):
    start_response("200 OK", [])
    return Unspeakable()


def breaks_in_iter(environ, start_response):
    class Result:
        def __iter__(self):
            raise Odd("in iter")

    start_response("200 OK", [])
    return Result()


def breaks_in_next(environ, start_response):
    class Result:
        def __iter__(self):
            return self

        def __next__(self):
            raise Odd("in next")

    start_response("200 OK", [])
    return Result()


def has_no_way_to_look_for_close(environ, start_response):
    class Result:
        def __iter__(self):
            raise RuntimeError("on purpose")

        @property
        def close(self):
            raise Odd("in the look-up of close")

    start_response("200 OK", [])
    return Result()


def breaks_in_close_after_an_error(environ, start_response):
    class Result:
        def __iter__(self):
            raise RuntimeError("on purpose")

        def close(self):
            raise Odd("in close")

    start_response("200 OK", [])
    return Result()


def gives_a_status_of_its_own_kind(environ, start_response):
    start_response(Unspeakable(), [])
    return [b"x"]


def gives_fields_that_break(environ, start_response):
    class Pair:
        def __iter__(self):
            raise Odd("in a field")

    start_response("200 OK", [Pair()])
    return [b"x"]


def gives_a_field_that_may_not_be(environ, start_response):
    start_response("200 OK", [("X-A", "a\r\nX-B: b")])
    return [b"x"]


def makes_its_fields_wrong_later(environ, start_response):
    fields = [["X-A", "a"]]
    start_response("200 OK", fields)
    fields[0][1] = None
    fields.append(5)
    return [b"x"]


ODD = [
    empties_its_environ, deletes_what_a_log_would_say, has_unspeakable_variables, raises_what_cannot_be_printed,
    raises_neither_error_nor_exit, raises_generator_exit, says_that_its_client_is_gone, returns_what_cannot_be_iterated,
    breaks_in_iter, breaks_in_next, has_no_way_to_look_for_close, breaks_in_close_after_an_error,
    gives_a_status_of_its_own_kind, gives_fields_that_break, gives_a_field_that_may_not_be,
]  # fmt: skip


def calm(environ, start_response):
    start_response("200 OK", [])
    return [b"calm"]


def test_whatever_an_application_raises_its_request_is_answered(wsgi, client):
    apps = {f"/{app.__name__}": app for app in ODD}
    running = wsgi(lambda environ, start_response: apps.get(environ["PATH_INFO"], calm)(environ, start_response))
    for path in apps:
        assert client(running).get(path).status == 500, path
        assert client(running).get("/").body == b"calm", path


@pytest.fixture
def broken_logs():
    """Both logs raise, whatever they are told at level ERROR or of a request."""

    def breaks(record):
        if record.levelno >= logging.ERROR or record.name == "kacore.access":
            raise Odd("in the log")
        return True

    loggers = [logging.getLogger(name) for name in ("kacore.access", "kacore.error")]
    for logger in loggers:
        logger.addFilter(breaks)
    yield
    for logger in loggers:
        logger.removeFilter(breaks)


def test_a_log_that_breaks_costs_no_answer(wsgi, client, broken_logs):
    def app(environ, start_response):
        if environ["PATH_INFO"] == "/fails":
            raise RuntimeError("on purpose")
        return calm(environ, start_response)

    running = wsgi(app, access_log="common")
    for _ in range(3):
        assert client(running).get("/fails").status == 500
        assert client(running).get().body == b"calm"


def test_a_log_that_breaks_costs_no_answer_of_a_handler(start, client, broken_logs):
    def handler(request):
        return b"calm" if request.path == "/" else raise_(RuntimeError("on purpose"))

    running = start(handler, access_log="common")
    for _ in range(3):
        assert client(running).get("/fails").status == 500
        assert client(running).get().body == b"calm"


def test_fields_are_what_they_were_when_start_response_was_called(wsgi, client):
    response = client(wsgi(makes_its_fields_wrong_later)).get()
    assert (response.status, response.get("x-a"), response.body) == (200, "a", b"x")


class Result:
    def __init__(self, pieces, close):
        self.pieces, self.close = iter(pieces), close

    def __iter__(self):
        return self.pieces


def test_write_in_close_comes_too_late(wsgi, client, caplog):
    def app(environ, start_response):
        write = start_response("200 OK", [])
        return Result([b"a", b"b"], lambda: write(b"late"))

    c = client(wsgi(app))
    for _ in range(3):
        assert c.get().body == b"ab"
    wait_until(lambda: caplog.text.count("LocalError: the response is already complete") == 3)


def test_write_after_the_end_is_an_error_of_the_application(wsgi, client):
    writes = []

    def app(environ, start_response):
        writes.append(start_response("200 OK", []))
        return [b"all"]

    c = client(wsgi(app))
    for n in range(1, 4):
        assert c.get().body == b"all"
        with pytest.raises(kacore.KacoreError):
            writes[n - 1](b"more")
    assert len({id(write) for write in writes}) == 3


def test_an_application_that_says_nothing_is_not_answered_for_by_the_one_before(wsgi, start, client, caplog):
    """What serves a request may serve the next one, too."""

    def by_wsgi(environ, start_response):
        if environ["PATH_INFO"] == "/":
            start_response("200 Fine", [("X-Mine", "yes")])
        elif environ["PATH_INFO"] == "/plain":
            start_response("200 OK", [])
        return [b"all"]

    async def by_asgi(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        if scope["path"] != "/silent":
            fields = [(b"x-mine", b"yes")] if scope["path"] == "/" else []
            await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": b"all"})

    for running in (wsgi(by_wsgi), start(by_asgi)):
        c = client(running)
        for _ in range(2):
            assert c.get("/").get("x-mine") == "yes"
            assert c.get("/plain").get("x-mine") is None
        assert c.get("/silent").status == 500
        assert client(running).get("/silent").status == 500
        assert client(running).get("/plain").body == b"all"


def test_close_that_breaks_is_told_and_costs_nothing(wsgi, client, caplog):
    def breaks():
        raise Odd("in close")

    def app(environ, start_response):
        start_response("200 OK", [])
        return Result([b"a"], breaks)

    c = client(wsgi(app))
    for _ in range(3):
        assert c.get().body == b"a"
    wait_until(lambda: caplog.text.count("close() of the application's iterable failed on GET /") == 3)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("where", ["next", "close"])
def test_no_thread_is_lost_to_what_ends_a_process(start, client, error, where):
    def breaks():
        raise error("in close")

    def fails():
        yield b"a"
        raise error("in next")

    def app(environ, start_response):
        start_response("200 OK", [])
        if environ["PATH_INFO"] == "/":
            return [b"calm"]
        return fails() if where == "next" else Result([b"a"], breaks)

    running = start(app, interface="wsgi", threads=1)
    for _ in range(2):
        c = client(running).send("GET /odd HTTP/1.1\r\nHost: a\r\n\r\n")
        assert c.head()[0] == 200
        assert c.take(6) == b"1\r\na\r\n"
    assert client(running).get("/").body == b"calm"


def test_a_system_without_threads_answers_503_and_goes_on_with_those_it_has(start, client, monkeypatch, caplog):
    begin, may_begin = threading.Thread.start, []

    def start_thread(thread):
        if thread.name.startswith("kacore-wsgi") and not may_begin:
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start_thread)
    running = start(calm, interface="wsgi", threads=2)
    assert client(running).get().status == 503
    assert client(running).get().status == 503
    may_begin.append(True)
    assert client(running).get().body == b"calm"
    may_begin.clear()
    assert client(running).get().body == b"calm"
    assert "no thread could be started" in caplog.text


def test_an_endless_answer_to_head_leaves_others_their_turn(wsgi, client):
    def app(environ, start_response):
        start_response("200 OK", [])
        return iter(lambda: b"x", None) if environ["REQUEST_METHOD"] == "HEAD" else [b"calm"]

    running = wsgi(app)
    endless = client(running).send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert endless.head()[0] == 200
    assert client(running).get().body == b"calm"
    endless.reset()


# -- handlers ------------------------------------------------------------------------------------------------


def raise_(error: BaseException) -> Any:
    raise error


HANDLERS = {
    "/odd": lambda: raise_(Odd("on purpose")),
    "/gone": lambda: raise_(kacore.ClientGone("on purpose")),
    "/unprintable": lambda: raise_(Unprintable()),
    "/status": lambda: kacore.Response(b"x", status=1000),
    "/nothing": lambda: None,
    "/number": lambda: 5,
    "/fields": lambda: kacore.Response(b"x", headers=[Unspeakable()]),
    "/text": lambda: "\ud800",
    "/iter": lambda: kacore.Response(Breaks()),
}


class Breaks:
    def __iter__(self):
        raise Odd("in iter")


@pytest.mark.parametrize("is_async", [False, True])
def test_whatever_a_handler_raises_its_request_is_answered(start, client, is_async):
    def handler(request):
        return HANDLERS[request.path]() if request.path in HANDLERS else b"calm"

    async def later(request):
        return handler(request)

    running = start(later if is_async else handler)
    for path in HANDLERS:
        assert client(running).get(path).status == 500, path
        assert client(running).get("/").body == b"calm", path


def test_a_handlers_pieces_are_with_the_client_one_by_one(start, client):
    clients, heard = [], []

    def pieces():
        for piece in (b"first", b"second"):
            yield piece
            heard.append(clients[0].until(piece + b"\r\n"))

    running = start(lambda request: kacore.Response(pieces()))
    clients.append(client(running))
    clients[0].send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: len(heard) == 2)
    assert clients[0].take(5) == b"0\r\n\r\n"


