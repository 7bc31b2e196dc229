"""Applications of the frameworks as people write them: served, each feature that leans on the server asked for once."""

import asyncio
import gc
import io
import json
import threading
import wsgiref.validate

import pytest
from websockets.sync.client import connect

from tests.wire.conftest import wait_until

pytestmark = pytest.mark.needs("module:starlette", "module:fastapi", "module:django", "module:flask")

BIG = bytes(range(256)) * 4096  # 1 MiB


def post(c, target, body, *fields):
    c.send("\r\n".join([f"POST {target} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *fields, "", ""]))
    return c.send(body).response()


def form(**files):
    """Content and field of a multipart form."""
    parts = [
        b'--x\r\nContent-Disposition: form-data; name="%b"; filename="f"\r\n\r\n%b\r\n' % (name.encode(), content)
        for name, content in files.items()
    ]
    return b"".join(parts) + b"--x--\r\n", "Content-Type: multipart/form-data; boundary=x"


def check_files(c, target, content):
    """As browsers ask for files: whole, again, a part, only the head; on one connection."""
    whole = c.get(target)
    assert (whole.status, whole.body, whole.get("content-length")) == (200, content, str(len(content)))
    assert c.get(target, f"If-None-Match: {whole.get('etag')}").status == 304
    part = c.get(target, "Range: bytes=1000-1999")
    assert (part.status, part.body) == (206, content[1000:2000])
    head = c.get(target, method="HEAD")
    assert (head.status, head.get("content-length"), head.body) == (200, str(len(content)), b"")
    assert c.get(target + ".missing").status == 404


# --- Starlette ----------------------------------------------------------------------------------------------


class Witness:
    """What an application did where no response shows it."""

    def __init__(self):
        self.events = []
        self.released = threading.Event()


def starlette_app(directory, witness):
    import contextlib

    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.middleware.gzip import GZipMiddleware
    from starlette.requests import ClientDisconnect
    from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
    from starlette.routing import Mount, Route, WebSocketRoute
    from starlette.staticfiles import StaticFiles

    @contextlib.asynccontextmanager
    async def lifespan(app):
        witness.events.append("startup")
        yield {"greeting": "hello"}
        witness.events.append("shutdown")

    async def hello(request):
        return PlainTextResponse(f"{request.state.greeting} {request.path_params['name']}")

    async def echo(request):
        return PlainTextResponse(await request.body())

    async def upload(request):
        async with request.form() as fields:
            return JSONResponse({name: len(await field.read()) for name, field in fields.items()})

    async def stream(request):
        async def pieces():
            try:
                for i in range(int(request.query_params["n"])):
                    yield f"{i};"
                    await asyncio.sleep(0)
            finally:
                witness.events.append("stream ended")

        return StreamingResponse(pieces())

    async def forever(request):
        async def pieces():
            try:
                while True:
                    yield "x"
                    await asyncio.sleep(0.01)
            finally:
                witness.events.append("forever ended")

        return StreamingResponse(pieces())

    async def count(request):
        n = 0
        try:
            async for piece in request.stream():
                n += len(piece)
                witness.events.append(f"counted {n}")
        except ClientDisconnect:
            witness.events.append("disconnect")
            raise
        return PlainTextResponse(str(n))

    async def background(request):
        async def later():
            await asyncio.to_thread(witness.released.wait, 5)
            witness.events.append("background")

        return PlainTextResponse("now", background=BackgroundTask(later))

    async def blocking(request):
        return PlainTextResponse(await asyncio.to_thread(lambda: "from a thread"))

    async def fail(request):
        raise ZeroDivisionError("on purpose")

    async def talk(websocket):
        await websocket.accept(subprotocol="chat")
        async for text in websocket.iter_text():
            await websocket.send_json({"got": text, "path": websocket.url.path})
        witness.events.append("talk ended")

    async def deny(websocket):
        await websocket.send_denial_response(PlainTextResponse("members only", status_code=402))

    class Stamp(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            response = await call_next(request)
            response.headers["x-stamp"] = request.method
            return response

    return Starlette(
        lifespan=lifespan,
        middleware=[Middleware(Stamp), Middleware(GZipMiddleware, minimum_size=500)],
        routes=[
            Route("/hello/{name}", hello),
            Route("/echo", echo, methods=["POST"]),
            Route("/upload", upload, methods=["POST"]),
            Route("/stream", stream),
            Route("/forever", forever),
            Route("/count", count, methods=["POST"]),
            Route("/background", background),
            Route("/blocking", blocking),
            Route("/fail", fail),
            Route("/file", lambda request: FileResponse(directory / "big")),
            WebSocketRoute("/talk", talk),
            WebSocketRoute("/deny", deny),
            Mount("/static", StaticFiles(directory=directory)),
        ],
    )


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "big").write_bytes(BIG)
    return tmp_path


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_starlette(start, client, directory, caplog, loop):
    witness = Witness()
    running = start(starlette_app(directory, witness), loop=loop)
    c = client(running)
    hello = c.get("/hello/caf%C3%A9")
    assert (hello.body.decode(), hello.get("x-stamp")) == ("hello café", "GET")
    assert post(c, "/echo", BIG).body == BIG
    body, field = form(a=b"x" * 10, b=BIG)
    assert json.loads(post(c, "/upload", body, field).body) == {"a": 10, "b": len(BIG)}
    streamed = c.get("/stream?n=1000")
    assert streamed.body.decode() == "".join(f"{i};" for i in range(1000))
    assert streamed.get("transfer-encoding") == "chunked"
    assert c.get("/blocking").body == b"from a thread"
    zipped = c.get("/stream?n=1000", "Accept-Encoding: gzip")
    assert zipped.get("content-encoding") == "gzip"
    check_files(c, "/static/big", BIG)
    assert c.get("/file").body == BIG
    assert c.get("/hello").status == 404
    assert c.get("/echo").status == 405
    assert c.get("/hello/x", method="OPTIONS").status == 405

    # A background task runs behind the response, and delays only its own connection at most.
    assert c.get("/background").body == b"now"
    assert "background" not in witness.events
    witness.released.set()
    wait_until(lambda: "background" in witness.events)

    # An error is a 500 of the framework, and its traceback is in the log once.
    caplog.clear()
    assert c.get("/fail").body == b"Internal Server Error"
    wait_until(lambda: caplog.text.count("ZeroDivisionError: on purpose") == 1)

    # Clients that leave in the middle, of a response and of a request.
    leaver = client(running).send("GET /forever HTTP/1.1\r\nHost: a\r\n\r\n")
    leaver.head()
    leaver.reset()
    # Cancelled inside send(), which is seldom, its generator is left to the garbage collector.
    wait_until(lambda: gc.collect() >= 0 and "forever ended" in witness.events)
    leaver = client(running).send("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
    wait_until(lambda: "counted 2" in witness.events)
    leaver.reset()
    wait_until(lambda: "disconnect" in witness.events)

    with connect(f"ws://127.0.0.1:{running.port}/talk", subprotocols=["chat"]) as ws:
        ws.send("hi")
        assert (json.loads(ws.recv()), ws.subprotocol) == ({"got": "hi", "path": "/talk"}, "chat")
    wait_until(lambda: "talk ended" in witness.events)
    denied = client(running).send(
        "GET /deny HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n\r\n"
    )
    answer = denied.response()
    assert (answer.status, answer.body) == (402, b"members only")
    for one in (c, denied):
        one.close()
    running.check_empty()
    running.stop()
    assert (witness.events[0], witness.events[-1]) == ("startup", "shutdown")


# --- FastAPI ------------------------------------------------------------------------------------------------


def fastapi_app(witness):
    from fastapi import BackgroundTasks, Depends, FastAPI, Form, HTTPException, UploadFile
    from fastapi.responses import StreamingResponse
    from pydantic import BaseModel

    class Item(BaseModel):
        name: str
        price: float

    async def session():
        witness.events.append("open")
        yield "session"
        witness.events.append("close")

    app = FastAPI()

    @app.post("/items")
    async def make(item: Item, tasks: BackgroundTasks):
        tasks.add_task(witness.events.append, f"made {item.name}")
        return item

    @app.get("/items/{number}")
    def read(number: int, session: str = Depends(session)):
        if number == 0:
            raise HTTPException(status_code=404, detail="none")
        return {"number": number, "session": session, "thread": threading.current_thread().name}

    @app.post("/upload")
    async def upload(file: UploadFile, note: str = Form("none")):
        return {"size": len(await file.read()), "note": note}

    @app.get("/sync-stream")
    def stream():
        return StreamingResponse(f"{i};".encode() for i in range(100))

    return app


def test_fastapi(start, client):
    witness = Witness()
    running = start(fastapi_app(witness), root_path="/api")
    c = client(running)
    made = post(c, "/items", b'{"name": "tea", "price": 1.5}', "Content-Type: application/json")
    assert json.loads(made.body) == {"name": "tea", "price": 1.5}
    wait_until(lambda: "made tea" in witness.events)
    assert post(c, "/items", b"{}", "Content-Type: application/json").status == 422
    found = json.loads(c.get("/items/5").body)
    assert (found["number"], found["session"]) == (5, "session")
    wait_until(lambda: witness.events[1:] == ["open", "close"])  # it is closed when the response is on its way
    assert c.get("/items/0").status == 404
    body, field = form(file=BIG)
    assert json.loads(post(c, "/upload", body, field).body) == {"size": len(BIG), "note": "none"}
    assert c.get("/sync-stream").body == "".join(f"{i};" for i in range(100)).encode()
    assert json.loads(c.get("/openapi.json").body)["servers"] == [{"url": "/api"}]
    assert c.get("/docs").status == 200


# --- Flask, through the validator of WSGI ---------------------------------------------------------------------


def flask_app(directory):
    import flask

    app = flask.Flask(__name__)
    app.secret_key = "secret"

    @app.get("/hello/<name>")
    def hello(name):
        flask.session["n"] = flask.session.get("n", 0) + 1
        return f"hello {name} {flask.session['n']} {flask.request.url}"

    @app.post("/echo")
    def echo():
        return flask.request.get_data()

    @app.post("/upload")
    def upload():
        return {name: len(file.read()) for name, file in flask.request.files.items()}

    @app.get("/stream")
    def stream():
        @flask.stream_with_context
        def pieces():
            for i in range(100):
                yield f"{flask.request.path}{i};"

        return pieces()

    @app.get("/file")
    def file():
        return flask.send_file(directory / "big", conditional=True, etag=True)

    @app.get("/made")
    def made():
        return flask.send_file(io.BytesIO(BIG), mimetype="application/octet-stream")

    @app.get("/fail")
    def fail():
        raise ZeroDivisionError("on purpose")

    return app


def validated_app(app):
    """The validator knows no read() without a size, which a server that says wsgi.input_terminated invites to."""

    def sized(environ, start_response):
        del environ["wsgi.input_terminated"]
        return app(environ, start_response)

    return wsgiref.validate.validator(sized)


@pytest.mark.parametrize("threads", [0, 4])
@pytest.mark.parametrize("validated", [False, True], ids=["plain", "validated"])
def test_flask(start, client, directory, caplog, threads, validated):
    app = flask_app(directory)
    served = validated_app(app.wsgi_app) if validated else app
    c = client(start(served, threads=threads, interface="wsgi"))
    first = c.get("/hello/caf%C3%A9?x=%20")
    assert first.body.decode() == "hello café 1 http://test/hello/café?x=%20"
    cookie = first.get("set-cookie").partition(";")[0]
    assert c.get("/hello/a", f"Cookie: {cookie}").body.startswith(b"hello a 2")
    assert post(c, "/echo", BIG).body == BIG
    body, field = form(a=b"x" * 10, b=BIG)
    assert json.loads(post(c, "/upload", body, field).body) == {"a": 10, "b": len(BIG)}
    chunks = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    c.send(f"POST /echo HTTP/1.1\r\nHost: test\r\n{chunks}")
    assert c.response().body == b"hello"
    assert c.get("/stream").body.decode() == "".join(f"/stream{i};" for i in range(100))
    check_files(c, "/file", BIG)
    assert c.get("/made").body == BIG
    assert c.get("/stream", method="HEAD").body == b""
    caplog.clear()
    assert c.get("/fail").status == 500
    assert caplog.text.count("ZeroDivisionError: on purpose") == 1


# --- Django: one settings module for the process, both interfaces ------------------------------------------------


@pytest.fixture(scope="session")
def django_urls():
    import django
    from django.conf import settings
    from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
    from django.urls import path

    def hello(request, name):
        return HttpResponse(f"hello {name} {request.build_absolute_uri()} {request.META['REMOTE_ADDR']}")

    async def slow(request):
        await asyncio.sleep(0.01)
        return HttpResponse("slow")

    def upload(request):
        return JsonResponse({name: len(file.read()) for name, file in request.FILES.items()})

    def stream(request):
        return StreamingHttpResponse(f"{i};" for i in range(100))

    async def stream_async(request):
        async def pieces():
            for i in range(100):
                yield f"{i};"

        return StreamingHttpResponse(pieces())

    def file(request):
        return FileResponse(open(request.GET["path"], "rb"))

    def fail(request):
        raise ZeroDivisionError("on purpose")

    settings.configure(
        ALLOWED_HOSTS=["test"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="secret",
        MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.middleware.gzip.GZipMiddleware"],
        USE_X_FORWARDED_HOST=False,
        LOGGING_CONFIG=None,
    )
    django.setup(set_prefix=False)
    globals()["urlpatterns"] = [
        path("hello/<name>", hello),
        path("slow", slow),
        path("upload", upload),
        path("stream", stream),
        path("stream-async", stream_async),
        path("file", file),
        path("fail", fail),
    ]


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume synchronous iterators")  # of its FileResponse
@pytest.mark.parametrize("interface", ["asgi", "wsgi", "wsgi validated"])
def test_django(start, client, django_urls, directory, caplog, interface):
    from django.core.asgi import get_asgi_application
    from django.core.wsgi import get_wsgi_application

    app, n_running = get_asgi_application() if interface == "asgi" else get_wsgi_application(), 0
    if "validated" in interface:
        app = validated_app(app)
    if interface == "asgi":

        async def counted(scope, receive, send, inner=app):
            nonlocal n_running
            n_running += 1
            try:
                await inner(scope, receive, send)
            finally:
                n_running -= 1

        app = counted
    running = start(app, interface=interface.partition(" ")[0])
    c = client(running)
    assert c.get("/hello/caf%C3%A9?q=1").body.decode() == "hello café http://test/hello/caf%C3%A9?q=1 127.0.0.1"
    assert c.get("/slow").body == b"slow"
    body, field = form(a=b"x" * 10, b=BIG * 3)  # over what Django keeps in memory
    assert json.loads(post(c, "/upload", body, field).body) == {"a": 10, "b": len(BIG) * 3}
    stream = "/stream-async" if interface == "asgi" else "/stream"
    assert c.get(stream).body == "".join(f"{i};" for i in range(100)).encode()
    assert c.get(stream, "Accept-Encoding: gzip").get("content-encoding") == "gzip"
    file = c.get(f"/file?path={directory / 'big'}")
    assert (file.status, file.body) == (200, BIG)
    assert c.get("/missing").status == 404
    c.send("GET /hello/x HTTP/1.1\r\nHost: elsewhere\r\n\r\n")
    assert c.response().status == 400
    caplog.clear()
    assert c.get("/fail").status == 500
    assert c.get("/slow", method="HEAD").body == b""
    assert c.is_open()
    # Who has closed his own side gets his answer, though Django listens for the disconnect while it works.
    assert client(running).send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").fin().response().body == b"slow"
    wait_until(lambda: n_running == 0, "Django has come to its end everywhere, where it closes its files")
