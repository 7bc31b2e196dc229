"""The application that the tests of HTTP/2 ask: plain ASGI, so that other servers can run it too (`http2_app:app`).

What it saw is counted, and told by /count; /release lets go of those who wait.
"""

import asyncio
import collections
import json
from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PIECE = 10_000
TOLD = ("type", "http_version", "method", "scheme", "path", "query_string", "raw_path", "root_path", "client")


class App:
    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.n_active = 0
        self.scopes: list[Message] = []
        self._released: asyncio.Event | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["path"] == "/count":
            await reply(send, json.dumps({**self.counts, "active": self.n_active}).encode())
            return
        if scope["path"] == "/forget":
            self.forget()
            await reply(send, b"forgotten")
            return
        if scope["path"] == "/release":
            self.release()
            await reply(send, b"released")
            return
        self.counts["requests"] += 1
        self.scopes.append(scope)
        self.n_active += 1
        try:
            await self._answer(scope, receive, send)
        finally:
            self.n_active -= 1

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        route, _, argument = scope["path"][1:].partition("/")
        answer = getattr(self, f"_{route or 'hello'}", None)
        if answer is None:
            await reply(send, b"not here", 404)
            return
        await answer(scope, receive, send, argument)

    def forget(self) -> None:
        self.counts.clear()
        self.scopes.clear()

    def release(self) -> None:
        """All who wait go on. In the thread of the loop."""
        self._gate().set()
        self._released = None

    def _gate(self) -> asyncio.Event:
        if self._released is None:
            self._released = asyncio.Event()
        return self._released

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _websocket(self, scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        if scope["path"] == "/refused":
            await send({"type": "websocket.close", "code": 1000})
            return
        await send({"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None)})
        while (message := await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")})
        self.counts[f"websocket ended {message.get('code')}"] += 1

    # -- what answers at once -------------------------------------------------------------------------------

    async def _hello(self, scope: Message, receive: Receive, send: Send, _: str) -> None:
        await reply(send, b"hello\n")

    async def _scope(self, scope: Message, receive: Receive, send: Send, _: str) -> None:
        """The scope, as JSON."""
        told = {name: scope.get(name) for name in TOLD}
        told["headers"] = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
        told["extensions"] = sorted(scope.get("extensions") or {})
        text = json.dumps(told, default=lambda value: value.decode("latin-1"))
        await reply(send, text.encode())

    async def _bytes(self, scope: Message, receive: Receive, send: Send, n: str) -> None:
        await reply(send, b"y" * int(n))

    async def _status(self, scope: Message, receive: Receive, send: Send, code: str) -> None:
        await send({"type": "http.response.start", "status": int(code), "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def _fields(self, scope: Message, receive: Receive, send: Send, _: str) -> None:
        """Fields as applications written for HTTP/1 send them."""
        fields = [
            (b"Connection", b"close, X-Other"),
            (b"Keep-Alive", b"timeout=5"),
            (b"Transfer-Encoding", b"chunked"),
            (b"X-Upper-Case", b"Yes"),
            (b"set-cookie", b"a=1"),
            (b"set-cookie", b"b=2"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": b"fields"})

    async def _mirror(self, scope: Message, receive: Receive, send: Send, _: str) -> None:
        """The fields of the request that begin with x-, as fields of the response."""
        fields = [(name, value) for name, value in scope["headers"] if name.startswith(b"x-")]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": b"mirrored"})

    async def _large(self, scope: Message, receive: Receive, send: Send, n: str) -> None:
        """A head of N bytes or more."""
        fields = [(b"x-%d" % i, b"%d " % i * 200 + b".") for i in range(int(n) // 600)]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": b"large"})

    async def _short(self, scope: Message, receive: Receive, send: Send, _: str) -> None:
        """Promises ten bytes and sends five."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"short", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _fail(self, scope: Message, receive: Receive, send: Send, _: str) -> None:
        raise RuntimeError("on purpose")

    async def _break(self, scope: Message, receive: Receive, send: Send, _: str) -> None:
        """Fails in the middle of its response."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("on purpose")

    # -- what takes content ---------------------------------------------------------------------------------

    async def _echo(self, scope: Message, receive: Receive, send: Send, _: str) -> None:
        """Content goes back as it comes."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.counts["disconnects"] += 1
                return
            more = message.get("more_body", False)
            await send({"type": "http.response.body", "body": message.get("body", b""), "more_body": more})
            if not more:
                return

    async def _read(self, scope: Message, receive: Receive, send: Send, _: str) -> None:
        """All content, then its length."""
        n = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.counts["disconnects"] += 1
                return
            n += len(message.get("body", b""))
            if not message.get("more_body", False):
                break
        self.counts["read"] += n
        await reply(send, str(n).encode())

    async def _refuse(self, scope: Message, receive: Receive, send: Send, _: str) -> None:
        """Answers, and never asks for the content."""
        await reply(send, b"no, thanks", 403)

    # -- what waits -----------------------------------------------------------------------------------------

    async def _hold(self, scope: Message, receive: Receive, send: Send, _: str) -> None:
        """Asks for nothing until it is released."""
        self.counts["held"] += 1
        await self._gate().wait()
        await reply(send, b"released")

    async def _then(self, scope: Message, receive: Receive, send: Send, _: str) -> None:
        """Asks for nothing until it is released, then for all content."""
        self.counts["held"] += 1
        await self._gate().wait()
        await self._read(scope, receive, send, "")

    async def _wait(self, scope: Message, receive: Receive, send: Send, _: str) -> None:
        """Until the client is gone."""
        self.counts["held"] += 1
        while (await receive())["type"] != "http.disconnect":
            pass
        self.counts["disconnects"] += 1

    async def _stream(self, scope: Message, receive: Receive, send: Send, n: str) -> None:
        """N bytes in pieces, the first of them with the head."""
        left = int(n)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while left > 0:
            await send({"type": "http.response.body", "body": b"z" * min(PIECE, left), "more_body": True})
            self.counts["sent"] += min(PIECE, left)
            left -= PIECE
        await send({"type": "http.response.body"})

    async def _head(self, scope: Message, receive: Receive, send: Send, _: str) -> None:
        """The head at once, content when it is released."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await self._gate().wait()
        await send({"type": "http.response.body", "body": b" last"})

    # -- extensions -----------------------------------------------------------------------------------------

    async def _trailers(self, scope: Message, receive: Receive, send: Send, _: str) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": b"content"})
        await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"42"), (b"X-More", b"1")]})

    async def _hints(self, scope: Message, receive: Receive, send: Send, _: str) -> None:
        for link in (b"</a.css>; rel=preload", b"</b.js>; rel=preload"):
            await send({"type": "http.response.early_hint", "links": [link]})
        await reply(send, b"hinted")

    async def _file(self, scope: Message, receive: Receive, send: Send, _: str) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": __file__})


async def reply(send: Send, body: bytes, status: int = 200) -> None:
    fields = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


app = App()
