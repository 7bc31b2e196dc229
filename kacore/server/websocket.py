"""The websocket scope of ASGI 3, over a Tunnel: https://asgi.readthedocs.io/en/latest/specs/www.html#websocket

The handshake and what it agrees upon are those of the `websockets` library, its part without I/O; what the client sends is
read by FrameReader, and each message goes through WebSocketCore, both compiled. This file has the rest: what happens to a
connection once. Needs kacore[websockets].

What a client can hold here: one message in the making (`max_size`, in FrameReader), messages that wait for the application
(32 KiB and one more; the limits are such that a large one waits alone), one pong. Nothing is read while either the
messages or the output wait; what one client may take of a round of the loop is bounded, and so is what all of those
take together who have more.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import zlib
from collections import deque
from collections.abc import Iterable, MutableMapping
from typing import TYPE_CHECKING, Any

from websockets.datastructures import Headers
from websockets.exceptions import ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Close, CloseCode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from kacore._core import ClientGone, FrameReader, WebSocketCore

if TYPE_CHECKING:
    from websockets.extensions import ServerExtensionFactory

    from kacore._core import Tunnel
    from kacore.config.options import ServerOptions

Message = MutableMapping[str, Any]
CLOSE, PING, PONG = 8, 9, 10  # RFC 6455 5.2
# Seconds of a round of the loop for all who have more than their share of it.
ROUND = 0.001
# Seconds that a client has to answer our close.
CLOSE_TIMEOUT = 10.0
# A ping waits so often for its answer while the client sends other frames: its pong may stand behind them.
PATIENCE = 3
# The library says "connection open" for each connection; the server has a log of its own.
QUIET = logging.getLogger("kacore.websocket")
QUIET.setLevel(logging.WARNING)


class WebSockets:
    """All websockets of one server. options: ServerOptions."""

    def __init__(self, loop: asyncio.AbstractEventLoop, logger: logging.Logger, options: ServerOptions) -> None:
        self.loop, self.logger, self.options = loop, logger, options
        self.open: set[WebSocket] = set()
        self.behind: deque[WebSocket] = deque()  # who has more to be read than its share of a round
        self._timer: asyncio.TimerHandle | None = None
        self._is_going_on = False

    def __call__(self, app: Any, scope: dict[str, Any], tunnel: Tunnel) -> bool:
        """A request for a websocket: run the application for it, or refuse it. Return: it is taken care of."""
        WebSocket(self, scope, tunnel).start(app, scope)
        return True

    def extensions(self) -> list[ServerExtensionFactory]:
        if not self.options.ws_per_message_deflate:
            return []
        settings = {"memLevel": 5}
        return [
            ServerPerMessageDeflateFactory(server_max_window_bits=12, client_max_window_bits=12, compress_settings=settings)
        ]

    def add(self, websocket: WebSocket) -> None:
        self.open.add(websocket)
        if self._timer is None and self.options.ws_ping_interval:
            self._timer = self.loop.call_later(self.options.ws_ping_interval, self._ping)

    # -- rounds ------------------------------------------------------------------------------------------

    def later(self, websocket: WebSocket) -> None:
        """Read on in the next round of the loop, after others."""
        if websocket.is_behind:
            return
        websocket.is_behind = True
        self.behind.append(websocket)
        if not self._is_going_on:
            self._is_going_on = True
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        end = self.loop.time() + ROUND
        for _ in range(len(self.behind)):
            websocket = self.behind.popleft()
            websocket.is_behind = False
            websocket.readable()
            if self.loop.time() >= end:
                break
        self._is_going_on = bool(self.behind)
        if self.behind:
            self.loop.call_soon(self._go_on)

    # -- pings -------------------------------------------------------------------------------------------

    def _ping(self) -> None:
        """One timer for all of them, and one for their answers."""
        self._timer = None
        payload = os.urandom(4)  # only who reads it can answer
        pinged = [websocket for websocket in self.open if websocket.ping(payload)]
        if self.options.ws_ping_timeout and pinged:
            self.loop.call_later(self.options.ws_ping_timeout, self._judge, payload, pinged)
        if self.open:
            self._timer = self.loop.call_later(self.options.ws_ping_interval, self._ping)

    def _judge(self, payload: bytes, pinged: list[WebSocket]) -> None:
        """The time to answer this ping is over."""
        waited_for = [websocket for websocket in pinged if websocket.is_excused(payload)]
        if waited_for:
            self.loop.call_later(self.options.ws_ping_timeout, self._judge, payload, waited_for)


class Handshake(ServerProtocol):
    """The handshake as the application decides it: no subprotocol but the one that it names."""

    def select_subprotocol(self, subprotocols: Any) -> None:
        return None


class Deflater:
    """Compresses what we send, RFC 7692 7.2.1."""

    def __init__(self, agreed: PerMessageDeflate) -> None:
        self.agreed = agreed
        self._encoder: Any = None

    def __call__(self, data: bytes) -> bytes:
        if self._encoder is None or self.agreed.local_no_context_takeover:
            settings = self.agreed.compress_settings
            self._encoder = zlib.compressobj(wbits=-self.agreed.local_max_window_bits, **settings)
        return self._encoder.compress(data) + self._encoder.flush(zlib.Z_SYNC_FLUSH)[:-4]  # type: ignore[no-any-return]


def asked_by_connect(headers: Headers) -> Headers:
    """What the library takes for a handshake: by an extended CONNECT the client says the same without these (RFC 8441 5)."""
    asked = headers.copy()
    asked["Upgrade"], asked["Connection"] = "websocket", "Upgrade"
    asked["Sec-WebSocket-Key"] = base64.b64encode(bytes(16)).decode()
    return asked


class WebSocket(WebSocketCore):
    """One websocket: before, during and after its handshake."""

    def __init__(self, group: WebSockets, scope: dict[str, Any], tunnel: Tunnel) -> None:
        super().__init__(tunnel, group.loop)
        self.group = group
        headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]])
        offered = ",".join(headers.get_all("sec-websocket-protocol")).split(",")
        self.subprotocols = [name.strip() for name in offered if name.strip()]
        self.version = headers.get("sec-websocket-version")
        scope["subprotocols"] = self.subprotocols
        scope["extensions"] = {name: scope["extensions"][name] for name in ("tls",) if name in scope["extensions"]}
        scope["extensions"]["websocket.http.response"] = {}
        handshake = Handshake(extensions=group.extensions(), logger=QUIET)
        target = (scope.get("raw_path") or b"/").decode("latin-1")
        self.is_http2 = scope["http_version"] == "2"
        self.answer = handshake.accept(Request(target, asked_by_connect(headers) if self.is_http2 else headers))
        self.agreed = next((one for one in handshake.extensions if isinstance(one, PerMessageDeflate)), None)
        self.put({"type": "websocket.connect"})
        self.denial: Message | None = None  # websocket.http.response.start, until its first body
        self.is_denied = False
        self.pinged: bytes | None = None  # what our ping said, until it is answered
        self.n_bytes, self.patience = 0, 0  # what had been read when it was sent, or judged last; see PATIENCE
        self._writer: asyncio.Future[None] | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, app: Any, scope: dict[str, Any]) -> None:
        if self.answer.status_code != 101:
            self._refuse_handshake()
            return
        self.tunnel.owner = self
        self._task = self.group.loop.create_task(app(scope, *self.functions()))
        self._task.add_done_callback(self._finished)

    def _refuse_handshake(self) -> None:
        status, headers = self.answer.status_code, []
        if self.version != "13":  # RFC 6455 4.4
            status, headers = 426, [(b"sec-websocket-version", b"13"), (b"upgrade", b"websocket")]
        text = bytes(self.answer.body or b"")
        self._respond(status, [*headers, (b"content-type", b"text/plain; charset=utf-8")], text)

    def _respond(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        self.tunnel.owner = None
        try:
            self.tunnel.begin(status, list(headers), len(body))
            self.tunnel.send(body, False)
        except ClientGone:
            pass

    # -- the application's side --------------------------------------------------------------------------

    def say(self, kind: str, message: Message) -> None:
        """What send() is given, when it is no message to an open websocket."""
        if self.is_over:
            raise ClientGone("the websocket is closed")
        if self.is_denied:
            self._deny(message)
        elif self.frames is None:
            self._decide(message)
        elif kind == "websocket.close":
            self._close(message.get("code", 1000), message.get("reason") or "")
        elif kind == "websocket.send":
            raise ClientGone("the websocket is closing")
        else:
            raise ValueError(f"expected websocket.send or websocket.close, not {kind!r}")

    async def drained(self) -> None:
        """Wait while the client takes more slowly than is sent."""
        while self.tunnel.is_full:
            if self._writer is None:
                self._writer = self.group.loop.create_future()
            await asyncio.shield(self._writer)

    def _decide(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self._accept(message.get("subprotocol"), message.get("headers", ()))
        elif kind == "websocket.close":
            self._reject()
        elif kind == "websocket.http.response.start":
            self.is_denied = True
            self.denial = message
        else:
            raise ValueError(f"expected websocket.accept, websocket.close or websocket.http.response.start, not {kind!r}")

    def _reject(self) -> None:
        self.is_over = True
        self._disconnect(1006, "")
        self._respond(403, (), b"")

    def _accept(self, subprotocol: str | None, headers: Iterable[tuple[bytes, bytes]]) -> None:
        if subprotocol is not None and subprotocol not in self.subprotocols:
            raise ValueError(f"subprotocol={subprotocol!r}: must be one that the client offers: {self.subprotocols}")
        if self.tunnel.is_draining:
            self._disconnect(1012, "")
            self._respond(503, (), b"")
            return
        # The answer's own Date and Server are the server's to write.
        own = ("Date", "Upgrade", "Connection", "Sec-WebSocket-Accept") if self.is_http2 else ("Date",)
        fields = [(name.encode(), value.encode()) for name, value in self.answer.headers.raw_items() if name not in own]
        if subprotocol is not None:
            fields.append((b"sec-websocket-protocol", subprotocol.encode("latin-1")))
        self.tunnel.open(101, [*fields, *headers])
        agreed = self.agreed
        self.frames = FrameReader(
            self.tunnel,
            self.group.options.ws_max_size,
            window_bits=agreed.remote_max_window_bits if agreed else 0,
            keeps_context=not (agreed and agreed.remote_no_context_takeover),
        )
        self.deflate = Deflater(agreed) if agreed else None
        self.group.add(self)
        self.readable()  # frames may have come with the request

    def _deny(self, message: Message) -> None:
        if message["type"] != "websocket.http.response.body":
            raise ValueError(f"expected websocket.http.response.body, not {message['type']!r}")
        body, more = bytes(message.get("body", b"")), message.get("more_body", False)
        if self.denial is not None:
            self.tunnel.begin(self.denial["status"], list(self.denial.get("headers", ())), -1 if more else len(body))
            self.denial = None
        if not more:
            self.is_over = True
            self.tunnel.owner = None
            self._disconnect(1006, "")
        self.tunnel.send(body, more)

    def _close(self, code: int, reason: str) -> None:
        """Say close, and give the client a time to answer it."""
        said = Close(code, reason).serialize()
        if len(said) > 125:
            raise ProtocolError(f"a close reason of {len(said) - 2} bytes: must be at most 123")
        self.is_over = True
        self._disconnect(code, reason)
        self._say_close(said)
        if not self.tunnel.is_gone:
            self._closing = self.group.loop.call_later(CLOSE_TIMEOUT, self.end)
            self.readable()

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self.forget()
        error = None if task.cancelled() else task.exception()
        failed = error is not None and not (isinstance(error, ClientGone) and self.is_over)
        if failed:
            self.group.logger.error("the application failed", exc_info=error)
        if self.is_over:
            return
        if self.frames is not None:
            self._close(1011 if failed or task.cancelled() else 1000, "")
            return
        if not failed and not task.cancelled() and not self.is_denied:
            if not self.tunnel.is_gone:
                self.group.logger.warning("the application returned without an answer to a websocket: it is rejected")
            self._reject()
            return
        if not failed and not self.tunnel.is_gone:
            self.group.logger.error("the application returned without an answer to a websocket")
        self.is_over = True
        if self.is_denied and self.denial is None:
            self.tunnel.owner = None
            self.tunnel.abort()  # half a denial
        else:
            self._respond(500, [(b"content-type", b"text/plain; charset=utf-8")], b"Internal Server Error")

    # -- the client's side: called by the Tunnel, WebSockets, WebSocketCore --------------------------------

    def news_before_frames(self) -> None:
        if self.tunnel.has_fin:
            self._disconnect(1006, "")

    def read_later(self) -> None:
        self.group.later(self)

    def writable(self) -> None:
        self.answer_ping()
        writer, self._writer = self._writer, None
        if writer is not None and not writer.done():
            writer.set_result(None)
        if self.frames is not None:
            self.group.later(self)  # it may have stood still while the output was full

    def draining(self) -> None:
        if self.frames is not None and not self.is_over:
            self._close(CloseCode.SERVICE_RESTART, "")

    def lost(self) -> None:
        self.ended(1006, "")

    def control(self, opcode: int, payload: bytes) -> bool:
        """A control frame. Return whether to go on."""
        if opcode == PING:
            self.pong = payload  # RFC 6455 5.5.3: the last one's answer will do
        elif opcode == PONG:
            if payload == self.pinged:
                self.pinged = None
        else:
            self._closed_by_client(payload)
            return False
        return True

    def _disconnect(self, code: int, reason: str) -> None:
        """The last that the application receives, once."""
        self.put_last({"type": "websocket.disconnect", "code": code, "reason": reason})

    # -- pings -------------------------------------------------------------------------------------------

    def answer_ping(self) -> None:
        """Not behind much that waits: a client that reads nothing gets no more to read."""
        if self.pong is not None and not self.has_said_close and self.tunnel.is_low:
            pong, self.pong = self.pong, None
            self._try_to_send(PONG, pong)

    def ping(self, payload: bytes) -> bool:
        """Time for a ping. Return whether one was sent: not while the last one waits for its answer."""
        if self.frames is None or self.has_said_close or self.tunnel.is_gone or self.pinged is not None:
            return False
        self.pinged = payload
        self.n_bytes, self.patience = self.frames.n_bytes, PATIENCE
        self._try_to_send(PING, payload)
        return True

    def is_excused(self, payload: bytes) -> bool:
        """The time to answer this ping is over. Return whether it is waited for once more; else it was answered, or the
        connection ends."""
        if self.frames is None or self.pinged != payload or self.has_said_close or self.tunnel.is_gone:
            return False
        if self.is_held or self.tunnel.is_full:
            self.pinged = None  # its answer may lie behind what we do not read
            return False
        if self.frames.n_bytes != self.n_bytes and self.patience > 1:
            self.n_bytes = self.frames.n_bytes
            self.patience -= 1
            return True
        self.fail(CloseCode.INTERNAL_ERROR, "no answer to a ping")
        return False

    # -- ends --------------------------------------------------------------------------------------------

    def _try_to_send(self, opcode: int, payload: bytes) -> None:
        try:
            self.send_control(opcode, payload)
        except ClientGone:
            pass
        except MemoryError:
            self.ended(1006, "")

    def _say_close(self, payload: bytes) -> None:
        if not self.has_said_close:
            self.has_said_close = True
            self.group.open.discard(self)
            self._try_to_send(CLOSE, payload)

    def fail(self, code: int, reason: str) -> None:
        """RFC 6455 7.1.7: say why, and close without waiting for an answer."""
        said = Close(code, reason)
        self._say_close(said.serialize())
        self.end(said)

    def _closed_by_client(self, payload: bytes) -> None:
        try:
            close = Close.parse(payload)
        except (ProtocolError, UnicodeDecodeError) as error:
            code = CloseCode.PROTOCOL_ERROR if isinstance(error, ProtocolError) else CloseCode.INVALID_DATA
            self.fail(code, "a close frame is malformed")
            return
        self.answer_ping()
        self._say_close(payload)
        self.end(close)

    def ended(self, code: int, reason: str) -> None:
        self.is_over = True
        self.group.open.discard(self)
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        self._disconnect(code, reason)
        writer, self._writer = self._writer, None
        if writer is not None and not writer.done():
            writer.set_result(None)

    def end(self, close: Close | None = None) -> None:
        """Close the connection. close: why, if either side said so."""
        self.ended(close.code if close else 1006, close.reason if close else "")
        self.tunnel.owner = None
        self.tunnel.close()
