"""The websocket scope of ASGI 3, over a Tunnel: https://asgi.readthedocs.io/en/latest/specs/www.html#websocket

Frames, masks, compression and the closing handshake are those of the `websockets` library, its part without I/O; this
file carries bytes between it and the Tunnel, and messages between it and the application. Needs kacore[websockets].
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, MutableMapping
from typing import TYPE_CHECKING, Any

from websockets.datastructures import Headers
from websockets.exceptions import InvalidState
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from kacore._core import ClientGone

if TYPE_CHECKING:
    from websockets.extensions import ServerExtensionFactory

    from kacore._core import Tunnel
    from kacore.server.server import WebSocketOptions

Message = MutableMapping[str, Any]
# Bytes of messages that wait for the application, above which the connection is not read on.
QUEUE_HIGH = 64 * 1024
# Seconds that a client has to answer our close.
CLOSE_TIMEOUT = 10.0
# The library says "connection open" for each connection; the server has a log of its own.
QUIET = logging.getLogger("kacore.websocket")
QUIET.setLevel(logging.WARNING)


class WebSockets:
    """All websockets of one server. options: WebSocketOptions."""

    def __init__(self, loop: asyncio.AbstractEventLoop, logger: logging.Logger, options: WebSocketOptions) -> None:
        self.loop, self.logger, self.options = loop, logger, options
        self.open: set[WebSocket] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, app: Any, scope: dict[str, Any], tunnel: Tunnel) -> bool:
        """A request for a websocket: run the application for it, or refuse it. Return: it is taken care of."""
        WebSocket(self, scope, tunnel).start(app, scope)
        return True

    def extensions(self) -> list[ServerExtensionFactory]:
        if not self.options.per_message_deflate:
            return []
        settings = {"memLevel": 5}
        return [
            ServerPerMessageDeflateFactory(
                server_max_window_bits=12, client_max_window_bits=12, compress_settings=settings
            )
        ]

    def add(self, websocket: WebSocket) -> None:
        self.open.add(websocket)
        if self._timer is None and self.options.ping_interval:
            self._timer = self.loop.call_later(self.options.ping_interval, self._ping)

    def _ping(self) -> None:
        """One timer for all of them, and one for their answers."""
        self._timer = None
        pinged = {websocket: websocket.n_pings for websocket in self.open if websocket.ping()}
        if self.options.ping_timeout and pinged:
            self.loop.call_later(self.options.ping_timeout, give_up, pinged)
        if self.open:
            self._timer = self.loop.call_later(self.options.ping_interval, self._ping)


def give_up(pinged: dict[WebSocket, int]) -> None:
    for websocket, n_pings in pinged.items():
        websocket.give_up(n_pings)


class Handshake(ServerProtocol):
    """The handshake as the application decides it: no subprotocol but the one that it names."""

    def select_subprotocol(self, subprotocols: Any) -> None:
        return None


class WebSocket:
    """One websocket: before, during and after its handshake."""

    def __init__(self, group: WebSockets, scope: dict[str, Any], tunnel: Tunnel) -> None:
        self.group, self.tunnel = group, tunnel
        headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]])
        offered = ",".join(headers.get_all("sec-websocket-protocol")).split(",")
        self.subprotocols = [name.strip() for name in offered if name.strip()]
        self.version = headers.get("sec-websocket-version")
        scope["subprotocols"] = self.subprotocols
        scope["extensions"] = {name: scope["extensions"][name] for name in ("tls",) if name in scope["extensions"]}
        scope["extensions"]["websocket.http.response"] = {}
        handshake = Handshake(extensions=group.extensions(), logger=QUIET)
        target = (scope.get("raw_path") or b"/").decode("latin-1")
        self.answer = handshake.accept(Request(target, headers))
        # Another one for what comes after the head: it begins with frames.
        self.protocol = ServerProtocol(state=State.OPEN, max_size=group.options.max_size, logger=QUIET)
        self.protocol.extensions = handshake.extensions
        self.messages: deque[tuple[Message, int]] = deque([({"type": "websocket.connect"}, 0)])
        self.n_waiting = 0  # bytes in `messages`
        self.parts: list[Frame] = []  # of a message that is not whole yet
        self.is_accepted = False
        self.denial: Message | None = None  # websocket.http.response.start, until its first body
        self.is_denied = False
        self.is_over = False  # the application was told that it ended, or ended it
        self.awaits_pong = False
        self.n_pings = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, app: Any, scope: dict[str, Any]) -> None:
        if self.answer.status_code != 101:
            self._refuse_handshake()
            return
        self.tunnel.owner = self
        self._task = self.group.loop.create_task(app(scope, self.receive, self.send))
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

    async def receive(self) -> Message:
        while not self.messages:
            if self._reader is None:
                self._reader = self.group.loop.create_future()
            await asyncio.shield(self._reader)
        if self.messages[0][0]["type"] == "websocket.disconnect":
            return self.messages[0][0]  # again for whoever asks again
        message, size = self.messages.popleft()
        self.n_waiting -= size
        if size and self.is_accepted:
            self.readable()
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self.is_over:
            raise ClientGone("the websocket is closed")
        if self.is_denied:
            self._deny(message)
        elif not self.is_accepted:
            self._decide(message)
        elif kind == "websocket.send":
            self._send_message(message)
        elif kind == "websocket.close":
            self._close(message.get("code", 1000), message.get("reason") or "")
        else:
            raise ValueError(f"an open websocket takes websocket.send and .close, not {kind!r}")
        while self.tunnel.is_full:
            if self._writer is None:
                self._writer = self.group.loop.create_future()
            await asyncio.shield(self._writer)

    def _decide(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self._accept(message.get("subprotocol"), message.get("headers", ()))
        elif kind == "websocket.close":
            self.is_over = True
            self._disconnect(1006, "")
            self._respond(403, (), b"")
        elif kind == "websocket.http.response.start":
            self.is_denied = True
            self.denial = message
        else:
            raise ValueError(f"websocket.accept, .close or .http.response.start comes first, not {kind!r}")

    def _accept(self, subprotocol: str | None, headers: Iterable[tuple[bytes, bytes]]) -> None:
        if subprotocol is not None and subprotocol not in self.subprotocols:
            raise ValueError(f"subprotocol={subprotocol!r}: the client offers {self.subprotocols}")
        if self.tunnel.is_draining:
            self._disconnect(1012, "")
            self._respond(503, (), b"")
            return
        # The answer's own Date and Server are the server's to write.
        fields = [(name.encode(), value.encode()) for name, value in self.answer.headers.raw_items() if name != "Date"]
        if subprotocol is not None:
            fields.append((b"sec-websocket-protocol", subprotocol.encode("latin-1")))
        self.tunnel.open(101, [*fields, *headers])
        self.is_accepted = True
        self.group.add(self)
        self.readable()  # frames may have come with the request

    def _deny(self, message: Message) -> None:
        if message["type"] != "websocket.http.response.body":
            raise ValueError(f"a denial goes on with websocket.http.response.body, not {message['type']!r}")
        body, more = bytes(message.get("body", b"")), message.get("more_body", False)
        if self.denial is not None:
            self.tunnel.begin(self.denial["status"], list(self.denial.get("headers", ())), -1 if more else len(body))
            self.denial = None
        if not more:
            self.is_over = True
            self.tunnel.owner = None
            self._disconnect(1006, "")
        self.tunnel.send(body, more)

    def _send_message(self, message: Message) -> None:
        text, data = message.get("text"), message.get("bytes")
        if text is None and not isinstance(data, bytes | bytearray | memoryview):
            raise ValueError("websocket.send has neither text nor bytes")
        try:
            if text is not None:
                self.protocol.send_text(text.encode())
            else:
                self.protocol.send_binary(bytes(data or b""))
        except InvalidState:
            raise ClientGone("the websocket is closing") from None
        self._flush()

    def _close(self, code: int, reason: str) -> None:
        """Say close, and give the client a time to answer it."""
        self.is_over = True
        self._disconnect(code, reason)
        if self.protocol.state is State.OPEN:
            self.protocol.send_close(code, reason)
            self._flush()
        if not self.tunnel.is_gone:
            self._closing = self.group.loop.call_later(CLOSE_TIMEOUT, self._end)
            self.readable()

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._task = None
        error = None if task.cancelled() else task.exception()
        failed = error is not None and not (isinstance(error, ClientGone) and self.is_over)
        if failed:
            self.group.logger.error("the application failed", exc_info=error)
        if self.is_over:
            return
        if self.is_accepted:
            self._close(1011 if failed or task.cancelled() else 1000, "")
            return
        if not failed and not self.tunnel.is_gone:
            self.group.logger.error("the application returned without an answer to a websocket")
        self.is_over = True
        if self.is_denied and self.denial is None:
            self.tunnel.owner = None
            self.tunnel.abort()  # half a denial
        else:
            self._respond(500, [(b"content-type", b"text/plain; charset=utf-8")], b"Internal Server Error")

    # -- the client's side: called by the Tunnel ---------------------------------------------------------

    def readable(self) -> None:
        if not self.is_accepted:
            if self.tunnel.has_fin:
                self._disconnect(1006, "")
            return
        while self.n_waiting < QUEUE_HIGH and not self.tunnel.is_gone:
            data = self.tunnel.receive()
            if data is None:
                return
            if data:
                self.protocol.receive_data(data)
            else:
                self.protocol.receive_eof()
            for event in self.protocol.events_received():
                if isinstance(event, Frame):
                    self._take(event)
            self._flush()
            if not data:
                self._end()
            self._notice_end()

    def writable(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None and not writer.done():
            writer.set_result(None)

    def draining(self) -> None:
        if self.is_accepted and not self.is_over:
            self._close(CloseCode.SERVICE_RESTART, "")

    def lost(self) -> None:
        self._ended(1006, "")

    def ping(self) -> bool:
        """Time for a ping. Return whether one was sent: not while the last one waits for its answer."""
        if self.protocol.state is not State.OPEN or self.awaits_pong:
            return False
        self.awaits_pong = True
        self.n_pings += 1
        self.protocol.send_ping(b"")
        self._flush()
        return True

    def give_up(self, n_pings: int) -> None:
        """The time to answer this ping is over."""
        if self.protocol.state is State.OPEN and self.awaits_pong and self.n_pings == n_pings:
            self.protocol.fail(CloseCode.INTERNAL_ERROR, "no answer to a ping")
            self._flush()
            self._notice_end()

    def _take(self, frame: Frame) -> None:
        self.awaits_pong = False  # whatever came: somebody is there
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return
        self.parts.append(frame)
        if not frame.fin:
            return
        data, opcode = b"".join(part.data for part in self.parts), self.parts[0].opcode
        self.parts.clear()
        if self.is_over:
            return
        message: Message = {"type": "websocket.receive", "bytes": None, "text": None}
        if opcode is Opcode.TEXT:
            try:
                message["text"] = data.decode()
            except UnicodeDecodeError:
                self.protocol.fail(CloseCode.INVALID_DATA, "text that is no UTF-8")
                return
        else:
            message["bytes"] = data
        self._put(message, len(data) or 1)

    def _put(self, message: Message, size: int) -> None:
        self.messages.append((message, size))
        self.n_waiting += size
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        self._reader = None

    def _disconnect(self, code: int, reason: str) -> None:
        """The last that the application receives, once."""
        if not self.messages or self.messages[-1][0]["type"] != "websocket.disconnect":
            self._put({"type": "websocket.disconnect", "code": code, "reason": reason}, 0)

    def _flush(self) -> None:
        """Send what the protocol wants sent; its empty bytes mean FIN."""
        for data in self.protocol.data_to_send():
            if data == b"":
                self._end()
            elif not self.tunnel.is_gone:
                try:
                    self.tunnel.send(data)
                except ClientGone:
                    return

    def _notice_end(self) -> None:
        """Tell the application when the client, or the protocol, ended it."""
        protocol = self.protocol
        if protocol.state is not State.OPEN and not self.is_over:
            close = protocol.close_rcvd or protocol.close_sent
            self._ended(close.code if close else 1006, close.reason if close else "")

    def _ended(self, code: int, reason: str) -> None:
        self.is_over = True
        self.group.open.discard(self)
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        self._disconnect(code, reason)
        self.writable()

    def _end(self) -> None:
        """Close the connection."""
        close = self.protocol.close_rcvd or self.protocol.close_sent
        self._ended(close.code if close else 1006, close.reason if close else "")
        self.tunnel.owner = None
        self.tunnel.close()

