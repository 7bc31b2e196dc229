"""The application of the soak, once by each interface. A path's letter says what it does, its number which content.

a small   b large   l larger than any kernel buffers   c in pieces   e the request's content   f a file   g after a moment
x raises before the response   y raises in it   w says a wrong length   h takes too long
/books: what the server knows about itself, as JSON; `check` must be null.
"""

import asyncio
import gc
import json
import os
import tempfile
import time

import kacore

ALPHABET = bytes(range(97, 123)) * 20_000
LARGE = bytes(20 << 20)
directory = tempfile.TemporaryDirectory()
FILE = directory.name + "/alphabet"
with open(FILE, "wb") as made:
    made.write(ALPHABET)


def content(letter, number):
    """The bytes that /LETTER NUMBER is answered with, if it is answered."""
    size = {"b": 100_000 + number % 200_000, "c": 5 * (number % 5000 + 1), "e": number % 100_000, "f": len(ALPHABET)}
    if letter == "l":
        return LARGE
    start = 0 if letter == "f" else number % 26
    return ALPHABET[start : start + size.get(letter, number % 300)]


def books():
    (server,) = (found for found in gc.get_objects() if type(found) is kacore.Server)
    try:
        wrong = server.table.check()
    except AssertionError as error:
        wrong = str(error)
    try:
        n_tasks = len(asyncio.all_tasks())
    except RuntimeError:
        n_tasks = 0  # in a thread of its own
    gc.collect()
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    n_descriptors = len(os.listdir("/proc/self/fd"))
    facts = {"check": wrong, "tasks": n_tasks, "descriptors": n_descriptors, "resident": resident, "cpu": time.process_time()}
    return json.dumps({**facts, "stats": server.stats()}).encode()


def asked(path):
    return path[1:2], int(path[2:] or 0) if path[2:].isdigit() else 0


async def echo_messages(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": message.get("bytes")})


async def asgi(scope, receive, send):
    if scope["type"] == "websocket":
        return await echo_messages(receive, send)
    if scope["type"] != "http":
        raise RuntimeError("no lifespan")
    letter, number = asked(scope["path"])
    body = b""
    if letter == "e":
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
    elif letter == "g":
        await asyncio.sleep(0.01)
    elif letter == "h":
        await asyncio.sleep(60)
    elif letter == "x":
        raise RuntimeError("on purpose")
    if letter != "e":
        body = books() if scope["path"] == "/books" else content(letter, number)
    headers = [(b"content-length", b"100")] if letter == "w" else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if letter == "f":
        await send({"type": "http.response.pathsend", "path": FILE})
        return
    if letter in ("c", "y"):
        step = max(1, len(body) // 5)
        for at in range(0, len(body), step):
            await send({"type": "http.response.body", "body": body[at : at + step], "more_body": True})
            await asyncio.sleep(0)
        if letter == "y":
            raise RuntimeError("on purpose")
        body = b""
    await send({"type": "http.response.body", "body": body[:50] if letter == "w" else body})


def wsgi(environ, start_response):
    letter, number = asked(environ["PATH_INFO"])
    body = environ["wsgi.input"].read() if letter == "e" else content(letter, number)
    if environ["PATH_INFO"] == "/books":
        body = books()
    if letter in ("g", "h"):
        time.sleep(0.01 if letter == "g" else 1.5)
    if letter == "x":
        raise RuntimeError("on purpose")
    start_response("200 OK", [("Content-Length", "100")] if letter == "w" else [])
    if letter == "f":
        return environ["wsgi.file_wrapper"](open(FILE, "rb"))
    return pieces(letter, body) if letter in ("c", "y") else [body[:50] if letter == "w" else body]


def pieces(letter, body):
    step = max(1, len(body) // 5)
    for at in range(0, len(body), step):
        yield body[at : at + step]
    if letter == "y":
        raise RuntimeError("on purpose")


async def handler(request):
    letter, number = asked(request.path)
    if letter in ("g", "h"):
        await asyncio.sleep(0.01 if letter == "g" else 60)
    if letter == "x":
        raise RuntimeError("on purpose")
    if request.path == "/books":
        return books()
    body = request.body if letter == "e" else content(letter, number)
    if letter in ("c", "y"):
        return kacore.Response(pieces(letter, body))
    return kacore.Response(body[:50], 200, (("content-length", "100"),)) if letter == "w" else body
