"""Context variables never cross requests: not by the connection, the loop's callbacks, nor a place that comes free."""

import asyncio
import contextvars
import socket
import threading

import pytest

import kacore
from tests.wire.conftest import Client, wait_until

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")
BIG = 400_000
loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


async def app(scope, receive, send):
    """Answers what the variable was before it set it."""
    before = VARIABLE.get()
    VARIABLE.set(f"set by {scope['method']} {scope['path']}")
    while scope["method"] == "POST" and (await receive())["more_body"]:
        await asyncio.sleep(0)
    if scope["path"] == "/wait":
        await asyncio.sleep(0.01)
    close = [(b"connection", b"close")] if scope["path"] == "/last" else []
    await send({"type": "http.response.start", "status": 200, "headers": close})
    if scope["path"] == "/large":
        await send({"type": "http.response.body", "body": bytes(3_000_000), "more_body": True})
    await send({"type": "http.response.body", "body": before.encode()})


def get(path="/"):
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"


def post(n, path="/"):
    return f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {n}\r\n\r\n"


def a_large_post(c):
    """Reading is paused, and resumed by the application."""
    c.send(post(BIG) + "x" * BIG)
    yield c.response()
    for path in ("/", "/wait", "/"):
        yield c.get(path)


def a_late_body_and_requests_behind_it(c):
    c.send(post(5, "/wait"))
    c.send("12345" + get() + get("/wait") + get())
    for _ in range(4):
        yield c.response()


def many_pipelined(c):
    c.send(get("/wait") + 70 * get() + get("/wait") + get())
    for _ in range(73):
        yield c.response()


def a_client_that_reads_late(c):
    """The loop tells when the kernel takes more, and the next request is handed over from there."""
    c.send(get("/large") + get())
    c.take(1)
    c.buf[:0] = b"H"
    yield c.response()._replace(body=b"clean")
    yield c.response()
    yield c.get()


WAYS = [a_large_post, a_late_body_and_requests_behind_it, many_pipelined, a_client_that_reads_late]
ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


@ways
@loops
def test_requests_of_a_connection_see_nothing_of_each_other(start, client, way, loop):
    running = start(app, lifespan="off", loop=loop)
    assert {answer.body for answer in way(client(running, receive_buffer=65536))} == {b"clean"}


@loops
def test_who_gets_the_place_of_another_sees_nothing_of_his(start, client, loop):
    running = start(app, lifespan="off", loop=loop, policy=kacore.Policy(max_connections=1, when_full="wait"))
    first = client(running)
    assert first.get().body == b"clean"
    first.send(post(BIG, "/last") + "x")
    wait_until(lambda: running.stats()["requests"] == 2)
    second = client(running).send(get())
    first.send("x" * (BIG - 1))
    assert first.response().body == b"clean"
    assert second.response().body == b"clean"


def test_an_application_that_works_when_it_is_called_has_a_context_of_its_own(start, client):
    def early(scope, receive, send):
        before = VARIABLE.get()
        VARIABLE.set("set early")
        assert asyncio.current_task() is not None

        async def later():
            assert VARIABLE.get() == "set early"
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": before.encode()})

        return later()

    c = client(start(early, lifespan="off"))
    assert [c.get().body for _ in range(3)] == [b"clean"] * 3


@pytest.mark.parametrize("kind", ["plain", "iterable", "awaitable", "async"])
def test_handlers_have_a_context_each(start, client, kind):
    def plain(request):
        before = VARIABLE.get()
        VARIABLE.set("set by a handler")
        return before

    def iterable(request):
        def pieces():
            yield VARIABLE.get().encode()
            VARIABLE.set("set by an iterable")

        return kacore.Response(pieces())

    def awaitable(request):
        before = plain(request)

        async def later():
            await asyncio.sleep(0)
            assert VARIABLE.get() == "set by a handler"
            return before

        return later()

    async def asynchronous(request):
        await asyncio.sleep(0)
        return plain(request)

    handlers = {"plain": plain, "iterable": iterable, "awaitable": awaitable, "async": asynchronous}
    c = client(start(handlers[kind], interface="handler"))
    assert [c.get().body for _ in range(3)] == [b"clean"] * 3


@pytest.mark.parametrize("threads", [0, 1])
def test_wsgi_requests_have_a_context_each_and_keep_it_to_their_end(start, client, threads):
    ends = []

    def wsgi(environ, start_response):
        before = VARIABLE.get()
        VARIABLE.set("mine")
        start_response("200 OK", [])

        class Pieces:
            n = 0

            def __iter__(self):
                return self

            def __next__(self):
                self.n += 1
                if self.n > 40:
                    raise StopIteration
                return bytes(100_000) if VARIABLE.get() == "mine" else b"lost"  # more than fits into one turn

            def close(self):
                ends.append(VARIABLE.get())

        return Pieces() if environ["PATH_INFO"] == "/pieces" else [before.encode()]

    running = start(wsgi, interface="wsgi", threads=threads)
    c = client(running)
    assert c.get().body == b"clean"
    assert c.get("/pieces").body == bytes(4_000_000)
    assert c.get().body == b"clean"
    leaver = client(running, receive_buffer=65536).send(get("/pieces"))
    leaver.head()
    leaver.reset()
    wait_until(lambda: ends == ["mine", "mine"])


# --- inside uvicorn -----------------------------------------------------------------------------------------


@ways
@loops
@pytest.mark.parametrize("reset", [False, True], ids=["", "reset"])
def test_nor_inside_uvicorn(need, way, loop, reset):
    """--reset-contextvars: it is so without, and with it what was set before the server started is not seen either."""
    uvicorn = need("module:uvicorn")
    config = uvicorn.Config(
        app,
        http="kacore.embed.uvicorn:Protocol",
        loop=loop,
        lifespan="off",
        log_config=None,
        access_log=False,
        reset_contextvars=reset,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        context = contextvars.copy_context()
        context.run(VARIABLE.set, "clean" if not reset else "set before")
        thread = threading.Thread(target=context.run, args=(server.run, [sock]))
        thread.start()
        try:
            c = Client(port, receive_buffer=65536)
            try:
                assert {answer.body for answer in way(c)} == {b"clean"}
            finally:
                c.close()
        finally:
            server.should_exit = True
            thread.join()
