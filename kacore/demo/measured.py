"""One measured load: a kacore server of its own, which answers the small files and remembers who asked.

Two waits are artificial, and the page says so: the first request of a connection waits for `handshake`
seconds, as for the round trips of TCP and TLS over a distance, and every request waits for `answer` seconds,
as for the one round trip it would need. All else is what really happened.
"""

import asyncio
from dataclasses import dataclass, field

from kacore import Policy, Request, Response, Server
from kacore.demo import scene

FILES = scene.build()
# Far more than a load needs: what is remembered of each must not grow with whoever plays with the port.
MAX_REQUESTS = 2000


@dataclass
class Load:
    """What one load is measured with, and what the server saw of it."""

    policy: Policy
    handshake: float = 0.0  # seconds, artificial
    answer: float = 0.0  # seconds, artificial
    # Client's address -> number of the connection, from 1, and how many requests it has carried. Two
    # connections of one load cannot share a client's port: whoever closed first still holds it (TIME-WAIT).
    connections: dict[tuple[str, int] | None, tuple[int, int]] = field(default_factory=dict)
    requests: list[dict[str, str | int]] = field(default_factory=list)

    async def answer_request(self, request: Request) -> Response:
        """The application: the file asked for, after the artificial waits."""
        if len(self.requests) >= MAX_REQUESTS:
            return Response(b"this load is over\n", status=503, headers=[("Content-Type", "text/plain")])
        number, n_before = self.connections.get(request.client, (len(self.connections) + 1, 0))
        self.connections[request.client] = (number, n_before + 1)
        self.requests.append({"path": request.path, "connection": number, "nth": n_before + 1})
        await asyncio.sleep(self.answer + (0.0 if n_before else self.handshake))
        if request.path not in FILES:
            return Response(b"no such file\n", status=404, headers=[("Content-Type", "text/plain")])
        media_type, content = FILES[request.path]
        # Each load has an origin of its own, so a cache could never serve it again: no-store keeps it out.
        return Response(content, headers=[("Content-Type", media_type), ("Cache-Control", "no-store")])


class Measured:
    """The server for one load, between `await start()` and `await stop()`."""

    def __init__(self, load: Load, host: str) -> None:
        self.load = load
        self.server = Server(load.answer_request, policy=load.policy, host=host, port=0)

    async def start(self) -> int:
        """Serve from now on; returns the port. Raises what keeps the server from starting."""
        self.serving = asyncio.create_task(self.server.serve(handle_signals=False))
        started = asyncio.create_task(self.server.started())
        await asyncio.wait([self.serving, started], return_when=asyncio.FIRST_COMPLETED)
        if self.serving.done():
            started.cancel()
            self.serving.result()
        return self.server.port

    async def stop(self) -> None:
        """Whoever is still loading is cut off."""
        self.server.shutdown(now=True, hurry=True)
        await self.serving

    def report(self) -> dict[str, object]:
        """The server's own counters, and which request came over which connection."""
        stats = self.server.stats()
        counters = {name: stats[name] for name in ("accepted", "requests", "reused")}
        return {"stats": counters, "requests": self.load.requests}
