"""What the servers serve: the same answers from every interface that a server may ask for.

A name is `interface_application`. Every answer says its type and length, so no server has to guess either.
"""

import asyncio
import json
import os
import time

HELLO = b"Hello, world!"
MEBIBYTE = b"x" * (1 << 20)
HUNDRED = b"x" * 100_000
CHUNK = b"x" * 1024
N_CHUNKS = 16
BIG_BYTES = 20_000_000


def fields(length):
    return [("content-type", "text/plain"), ("content-length", str(length))]


def raw(pairs):
    return [(name.encode(), value.encode()) for name, value in pairs]


START = {"type": "http.response.start", "status": 200, "headers": raw(fields(len(HELLO)))}
START_MEBIBYTE = {"type": "http.response.start", "status": 200, "headers": raw(fields(len(MEBIBYTE)))}
START_STREAM = {"type": "http.response.start", "status": 200, "headers": raw(fields(0)[:1])}


def only_http(scope):
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])


async def answer(send, body, kind="text/plain"):
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def asgi_hello(scope, receive, send):
    only_http(scope)
    await send({"type": "http.response.start", "status": 200, "headers": START["headers"]})
    await send({"type": "http.response.body", "body": HELLO})


async def take(scope, receive, send, expected):
    """Reads the whole content before it answers."""
    only_http(scope)
    n_bytes, more = 0, True
    while more:
        message = await receive()
        n_bytes += len(message.get("body", b""))
        more = message.get("more_body", False)
    if scope["method"] == "POST" and n_bytes != expected:
        raise ValueError(f"{n_bytes} bytes of content")
    await send(START)
    await send({"type": "http.response.body", "body": HELLO})


async def asgi_post(scope, receive, send):
    await take(scope, receive, send, 1024)


async def asgi_upload(scope, receive, send):
    await take(scope, receive, send, len(MEBIBYTE))


async def asgi_echo(scope, receive, send):
    """Sends a websocket's messages back; to others it says hello."""
    if scope["type"] != "websocket":
        await asgi_hello(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": message["bytes"]})


async def asgi_stream(scope, receive, send):
    """16 pieces of 1 KiB and no length: chunked coding."""
    only_http(scope)
    await send(START_STREAM)
    for i in range(N_CHUNKS):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": i < N_CHUNKS - 1})


async def asgi_hundred(scope, receive, send):
    only_http(scope)
    await answer(send, HUNDRED)


async def asgi_mebibyte(scope, receive, send):
    only_http(scope)
    await send(START_MEBIBYTE)
    await send({"type": "http.response.body", "body": MEBIBYTE})


async def asgi_file(scope, receive, send):
    """A file of 10 MiB, named by the environment's path; by path where the server can, else read piece by piece."""
    only_http(scope)
    path = os.environ["BENCH_FILE"]
    size = str(os.stat(path).st_size).encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", size)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if "http.response.pathsend" in scope.get("extensions", {}):
        await send({"type": "http.response.pathsend", "path": path})
        return
    with open(path, "rb") as file:
        while piece := file.read(1 << 18):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def asgi_sleep(scope, receive, send):
    only_http(scope)
    await asyncio.sleep(0.001)
    await send(START)
    await send({"type": "http.response.body", "body": HELLO})


async def asgi_timeout(scope, receive, send):
    only_http(scope)
    async with asyncio.timeout(5):
        await send(START)
        await send({"type": "http.response.body", "body": HELLO})


lags = []
tickers = []


async def tick(every_s=0.002):
    """By the system's clock: the loop's own may stand still between two turns."""
    while True:
        due = time.monotonic() + every_s
        await asyncio.sleep(every_s)
        lags.append(time.monotonic() - due)


async def asgi_lag(scope, receive, send):
    """Hello; /start begins to look how late a timer of 2 ms is, /lag tells the lags since then in seconds."""
    only_http(scope)
    if scope["path"] == "/start":
        lags.clear()
        tickers[:] = tickers or [asyncio.create_task(tick())]
        await answer(send, HELLO)
    elif scope["path"] == "/lag":
        await answer(send, json.dumps(lags).encode(), "application/json")
    else:
        await send(START)
        await send({"type": "http.response.body", "body": HELLO})


async def asgi_big(scope, receive, send):
    """Hello; /big is 20 MB, made anew for each request."""
    only_http(scope)
    await answer(send, bytes(BIG_BYTES) if scope["path"] == "/big" else HELLO)


def wsgi_hello(environ, start_response):
    start_response("200 OK", fields(len(HELLO)))
    return [HELLO]


def wsgi_big(environ, start_response):
    body = bytes(BIG_BYTES) if environ["PATH_INFO"] == "/big" else HELLO
    start_response("200 OK", fields(len(body)))
    return [body]


def handler_hello(request):
    return HELLO
