"""An application whose clients leave, for tests in this process and in children: `leaving:app`.

What happens in it is appended to the file that LEAVING names, a line each: with several workers nobody else knows.
"""

import asyncio
import contextlib
import os
import time

from fastapi import FastAPI
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Mount, Route


def note(line):
    with open(os.environ["LEAVING"], "a") as file:
        file.write(line + "\n")


def noted():
    with contextlib.suppress(FileNotFoundError), open(os.environ["LEAVING"]) as file:
        return file.read().split("\n")[:-1]
    return []


async def waiting():
    note("began")
    try:
        await asyncio.Event().wait()
        yield b"never"
    finally:
        note("ended")


async def ticking():
    note("began")
    try:
        while True:
            yield b"tick"
            await asyncio.sleep(0.01)
    finally:
        note("ended")


async def pieces():
    for _ in range(5):
        await asyncio.sleep(0.05)
        yield b"piece;"


async def background(request):
    note("began")
    while not await request.is_disconnected():
        await asyncio.sleep(0.01)

    async def later():
        note("ended")

    return JSONResponse({}, background=later)


class Stamp(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        return await call_next(request)


fastapi = FastAPI()


@fastapi.get("/wait")
async def wait():
    return StreamingResponse(waiting())


async def elsewhere(scope, receive, send):
    """It waits in receive() in a task of its own, and for something else."""
    gone = asyncio.Event()

    async def listen():
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    listening = asyncio.create_task(listen())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"head", "more_body": True})
    note("began")
    await gone.wait()
    await listening
    for _ in range(3):  # nobody hears it, and nobody minds
        await send({"type": "http.response.body", "body": b"more", "more_body": True})
    note("ended")


async def blocking(scope, receive, send):
    """Pieces, each with the loop standing still until the client says that it has it; early hints, too."""
    heard = 0

    def stand():
        nonlocal heard
        heard += 1
        for _ in range(1000):
            if noted().count("heard") >= heard:
                return
            time.sleep(0.005)
        raise TimeoutError(f"piece {heard} did not leave")

    if scope["path"].endswith("/later"):
        await asyncio.sleep(0)
    if "http.response.early_hint" in scope["extensions"]:
        await send({"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload"]})
        stand()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(2):
        await send({"type": "http.response.body", "body": b"piece", "more_body": True})
        stand()
    await send({"type": "http.response.body", "body": b""})


ROUTES = [
    Route("/wait", lambda request: StreamingResponse(waiting())),
    Route("/tick", lambda request: StreamingResponse(ticking())),
    Route("/pieces", lambda request: StreamingResponse(pieces())),
    Route("/sse", lambda request: EventSourceResponse(waiting())),
    Route("/background", background),
    Mount("/fastapi", fastapi),
    Mount("/elsewhere", elsewhere),
    Mount("/blocking", blocking),
]
app = Starlette(routes=[*ROUTES, Mount("/stamped", Starlette(routes=ROUTES, middleware=[Middleware(Stamp)]))])
# Not /stamped/tick: now and then BaseHTTPMiddleware is cancelled between two of its own pieces, under any server, and leaves
# its generator to the garbage collector.
STREAMS = ["/wait", "/tick", "/sse", "/background", "/fastapi/wait", "/elsewhere/", "/stamped/wait"]
