"""The demo's page and its JSON interface: `POST /api/loads` starts a measured server,
`GET /api/loads/N` asks it.

Keeps at most `MAX_LOADS` measured servers: a new one beyond that stops the oldest, so no visitor can pile
them up.
"""

import asyncio
import json
from importlib import resources
from itertools import count

from kacore import Policy, Request, Response, Server
from kacore.demo import scene
from kacore.demo.measured import Load, Measured

MAX_LOADS = 8
STATIC = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/chart.js": ("chart.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
# Nothing from outside: the frames are the measured servers, on other ports of this host.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; frame-src http:"
)
POLICY_FIELDS = ("keep_alive", "keep_alive_timeout", "max_keep_alive_requests")
DELAYS = ("handshake", "answer")
LONGEST_DELAY = 1.0  # seconds


def read_load(body: bytes) -> Load:
    """What the visitor chose, a JSON object of POLICY_FIELDS and DELAYS, all optional, times in seconds.

    Raises ValueError naming what is wrong.
    """
    chosen = json.loads(body)
    if not isinstance(chosen, dict):
        raise ValueError("expected a JSON object")
    policy = Policy(**{name: chosen.pop(name) for name in POLICY_FIELDS if name in chosen})
    delays = {name: chosen.pop(name) for name in DELAYS if name in chosen}
    if chosen:
        raise ValueError(f"unknown: {', '.join(sorted(chosen))}")
    for name, delay in delays.items():
        if type(delay) not in (int, float) or not 0 <= delay <= LONGEST_DELAY:
            raise ValueError(f"{name}={delay!r}: must be a number of seconds, at most {LONGEST_DELAY:g}")
    return Load(policy, **delays)


def as_json(value: object, status: int = 200) -> Response:
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    return Response(json.dumps(value), status=status, headers=headers)


class Demo:
    """The whole demo on one event loop. `await serve()` runs until `shutdown()`."""

    def __init__(self, host: str = "127.0.0.1", port: int = 8000) -> None:
        self.host = host
        self.server = Server(self.answer_request, host=host, port=port)
        self.loads: dict[str, Measured] = {}  # oldest first
        self.numbers = count(1)

    async def serve(self) -> None:
        try:
            await self.server.serve()
        finally:
            await asyncio.gather(*(self.forget(number) for number in list(self.loads)))

    def shutdown(self) -> None:
        self.server.shutdown(hurry=True)

    async def answer_request(self, request: Request) -> Response:
        """The application: the page, its parts, and the JSON interface."""
        if request.path == "/api/loads" and request.method == "POST":
            return await self.begin_load(request)
        if request.method not in ("GET", "HEAD"):
            return as_json({"error": f"{request.method} is not for {request.path}"}, status=405)
        if request.path.startswith("/api/loads/"):
            return self.report_load(request.path.removeprefix("/api/loads/"))
        if request.path not in STATIC:
            return as_json({"error": f"no {request.path} here"}, status=404)
        name, media_type = STATIC[request.path]
        content = resources.files("kacore.demo").joinpath(name).read_bytes()
        headers = [("Content-Type", media_type), ("Cache-Control", "no-cache")]
        return Response(content, headers=[*headers, ("Content-Security-Policy", CONTENT_SECURITY_POLICY)])

    async def begin_load(self, request: Request) -> Response:
        # A page of another site must not start servers here, though a browser would let it send the request.
        if request.get("origin") not in (None, f"http://{request.get('host')}"):
            return as_json({"error": "asked by a page of another origin"}, status=403)
        try:
            load = read_load(request.body)
        except ValueError as error:
            return as_json({"error": str(error)}, status=400)
        measured = Measured(load, self.host)
        port = await measured.start()
        number = str(next(self.numbers))
        self.loads[number] = measured
        while len(self.loads) > MAX_LOADS:
            await self.forget(next(iter(self.loads)))
        return as_json({"load": number, "port": port, "n_first": scene.N_FIRST}, status=201)

    def report_load(self, number: str) -> Response:
        measured = self.loads.get(number)
        if measured is None:
            return as_json({"error": f"no load {number}: the last {MAX_LOADS} are kept"}, status=404)
        return as_json(measured.report())

    async def forget(self, number: str) -> None:
        await self.loads.pop(number).stop()


def run(host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve the demo until SIGINT or SIGTERM, and say where.

    host, port: where the visitor's page is; the measured servers take free ports of the same host.
    Raises UsageError when the port cannot be had.
    """
    asyncio.run(announce(Demo(host, port)))


async def announce(demo: Demo) -> None:
    demo.server.bind()
    print(f"kacore demo on {', '.join(demo.server.addresses)} (Ctrl-C ends it)", flush=True)
    await demo.serve()
