"""One connection of aiohttp's server, watched for the table.

A RequestHandler watches aiohttp's work where it passes through methods or attributes of the handler, and tells the
table. These are not public in aiohttp, so they are looked for at import. What is told, in the words of docs/table.md:

    data_received, with no request open     received, head_done
    StreamReader._wait                      body_wanted, body_arrived
    pause_writing, resume_writing           blocked, unblocked
    StreamWriter's on_headers_sent          decide, and its verdict into the head
    _keepalive is set                       the response is written: kept or not, as decided
    _next_keepalive_close_time is set       responded: aiohttp would count its keep-alive from here
    set_parser                              tunnelled: a websocket has the connection
    sendfile of request._loop               blocked, unblocked: the loop sends a file by itself
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import hdrs
from aiohttp.http import HttpVersion10
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import ERROR
from aiohttp.web_protocol import RequestHandler as HostHandler

try:
    import fcntl
    import termios
except ImportError:  # not on Windows: nobody can be asked what waits in the kernel
    fcntl = termios = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from kacore._core import ConnectionTable, Verdict
    from kacore.policy import Policy

# What the table has been told about a connection, and what it will have to be told.
HEAD = 1  # a head has begun
REQUEST = 2  # a request is with the application, or waits for it
BODY = 4  # the application waits for content
WRITE = 8  # the client must take bytes first
OVER = 16  # the response is complete, but not yet with the kernel
TAIL = 32  # part of the next head has come behind the request
TUNNEL = 64
LINGER = 128
FILE = 256  # the loop sends a file by itself

LATE = {
    "answer_408": b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "answer_503": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
}
FIONREAD = getattr(termios, "FIONREAD", 0)
TIOCOUTQ = getattr(termios, "TIOCOUTQ", 0)
TCPI_BYTES_ACKED = slice(120, 128)  # of struct tcp_info, since Linux 4.1


class Manager(Protocol):
    """What a connection needs of its server."""

    policy: Policy
    table: ConnectionTable
    times_handlers: bool
    now: Callable[[], float]
    done: asyncio.Future[None]

    def admit(self, handler: RequestHandler, transport: Any) -> bool: ...
    def forget(self, handler: RequestHandler, cause: str) -> None: ...
    def transport_of(self, handler: RequestHandler) -> Any: ...
    def fields_of(self, verdict: Verdict) -> list[tuple[str, str]]: ...
    def arm(self) -> None: ...
    def settled(self) -> None: ...


class NoTimer:
    """In place of a connection's own timer."""

    def cancel(self) -> None:
        """There is none."""


NO_TIMER = NoTimer()
KEEPS: Any = HostHandler.__dict__["_keepalive"]  # where aiohttp has it
RECEIVE = HostHandler.data_received


def waiting_bytes(transport: Any, question: int) -> int:
    """FIONREAD: what has come and was not read; TIOCOUTQ: what the client has not acknowledged. 0 if unknown."""
    sock = transport.get_extra_info("socket")
    try:
        answer = fcntl.ioctl(sock.fileno(), question, b"\0\0\0\0")
    except (AttributeError, OSError, TypeError, ValueError):
        return 0
    return int.from_bytes(answer, sys.byteorder)


def acknowledged_bytes(transport: Any) -> int | None:
    """What the client has acknowledged since it came, where the kernel says so (Linux, TCP)."""
    sock = transport.get_extra_info("socket")
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCPI_BYTES_ACKED.stop)
    except (AttributeError, OSError):
        return None
    number = info[TCPI_BYTES_ACKED]
    return int.from_bytes(number, sys.byteorder) if len(number) == 8 else None


def finished(loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
    """What can be awaited, and is over at once."""
    future = loop.create_future()
    future.set_result(None)
    return future


class WatchedReader(StreamReader):
    """The content of a request, which tells when the application waits for it."""

    __slots__ = ()

    async def _wait(self, func_name: str) -> None:
        handler: Any = self._protocol
        handler.body_wanted()
        try:
            await super()._wait(func_name)
        finally:
            handler.body_arrived()


class FileLoop:
    """The loop, for a response that has it send a file: the handler is there while it does."""

    def __init__(self, handler: RequestHandler) -> None:
        self._handler, self._loop = handler, handler._loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def sendfile(self, *arguments: Any) -> None:
        """As of asyncio's loops."""
        await self._handler.send_file(self._loop.sendfile(*arguments))


class RequestHandler(HostHandler):
    """One connection: aiohttp's handler, which tells the Server's table what happens."""

    __slots__ = ("_cause", "_conn", "_exchange", "_file", "_stage", "_unsent")
    _manager: Manager | None  # type: ignore[assignment]

    def __init__(self, manager: Any, *, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        self._conn = 0  # its number in the table; 0: not there
        self._stage = 0
        self._cause: str | None = None  # what it will end by, once that is decided
        self._exchange: Any = None  # the request in hand
        self._unsent = 0  # bytes on our side, when last looked at; while a file is sent, less what was acknowledged
        self._file: asyncio.Task[Any] | None = None  # the loop's work on it
        # With 0 aiohttp starts no timer when a connection is made.
        super().__init__(manager, loop=loop, **{**kwargs, "keepalive_timeout": 0})

    @property
    def keepalive_timeout(self) -> float:
        """Seconds an idle connection is kept at least when there is room."""
        return self._manager.policy.least_keep_alive if self._manager is not None else 0.0

    # aiohttp looks whether it has a timer before it starts one: it has, whenever it would.
    _keepalive_handle = property(lambda self: NO_TIMER if self._keepalive else None, lambda self, value: None)

    def _kept(self, now: float) -> None:
        """aiohttp is through with a request, its unread content included, and keeps the connection."""
        manager, transport = self._manager, self.transport
        if not self._conn or manager is None or transport is None:
            return
        self._exchange = None
        if not transport.get_write_buffer_size() or not self._is_unsent():
            self._idle(now)

    _next_keepalive_close_time = property(lambda self: 0.0, _kept)
    _keepalive_time = _next_keepalive_close_time

    # -- coming and going --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As of asyncio.Protocol. A full table may close another connection for this one, or refuse it."""
        if self._manager is not None and self._manager.admit(self, transport):
            super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """As of asyncio.Protocol."""
        manager = self._manager
        if self._conn and manager is not None:
            stage = self._stage
            cause = "upgraded" if stage & TUNNEL else "application" if self._close and not exc else "error"
            manager.forget(self, self._cause or (cause if stage & (HEAD | REQUEST | TUNNEL) else "client"))
        super().connection_lost(exc)
        self._exchange = None

    def end(self, cause: str) -> None:
        """Out of the table and closed, whatever it was doing."""
        manager = self._manager
        if not self._conn or manager is None:
            return
        transport = manager.transport_of(self)
        is_stuck = self._stage & WRITE
        manager.forget(self, cause)
        self._release()
        if is_stuck:
            transport.abort()
        else:
            transport.close()

    def _release(self) -> None:
        """Nothing of aiohttp's or the application's may use the connection any more."""
        self._force_close = True
        self.transport = None
        if self._waiter is not None:
            self._waiter.cancel()
        if self._file is not None:
            self._file.cancel()
        if self._current_request is not None:
            self._current_request._cancel(ConnectionResetError("Connection lost"))

    def _linger(self, cause: str) -> None:
        """Half-close, and throw away what is under way for a moment: a plain close would destroy the answer."""
        manager, transport = self._manager, self.transport
        if not self._conn or manager is None:
            return
        self._cause = cause
        try:
            if transport is None or transport.is_closing() or not transport.can_write_eof() or self._stage & WRITE:
                raise OSError("no half-close")
            transport.write_eof()
        except OSError:  # or the client has gone meanwhile
            self.end(cause)
            return
        manager.table.lingering(self._conn, self._loop.time())
        self._stage = LINGER
        self._release()
        with suppress(RuntimeError):
            transport.resume_reading()
        manager.arm()
        manager.settled()

    def expire(self, action: str, cause: str) -> None:
        """Its time is up."""
        stage, answer = self._stage, LATE.get(action)
        if answer is not None and not stage & WRITE:
            exchange, task = self._exchange, self._task_handler
            if self.transport is not None and (exchange is None or exchange._payload_writer.output_size == 0):
                self.transport.write(answer)
            self._linger(cause)
            if action == "answer_503" and task is not None and stage & REQUEST:
                task.cancel()
        elif action == "half_close":
            self._linger(cause)
        else:
            self.end(cause)

    # -- requests ----------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """As of asyncio.Protocol; aiohttp itself calls it with b"" to have held back bytes parsed."""
        stage, conn, manager = self._stage, self._conn, self._manager
        if stage & TUNNEL:
            super().data_received(data)
        elif not conn or manager is None:
            return
        elif stage & LINGER:
            slow = manager.table.linger_progress(conn, len(data), self._loop.time())
            if slow is not None:
                self.end(slow)
        elif stage & REQUEST:
            self._more_received(data, stage)
        else:
            RECEIVE(self, data)
            if self._messages:  # as _begun(), for the sake of a call
                self._stage = REQUEST
                manager.table.head_done(conn, manager.now())
                if manager.times_handlers:
                    manager.arm()
            elif data and not stage and (data[0] > 13 or data.strip(b"\r\n")):
                self._stage = HEAD
                manager.table.received(conn, self._loop.time())
                manager.arm()

    def _more_received(self, data: bytes, stage: int) -> None:
        """Content, or requests behind the one that is with the application."""
        assert self._manager is not None
        if stage & BODY and data:
            slow = self._manager.table.body_progress(self._conn, len(data), self._loop.time())
            if slow is not None:
                self.expire("answer_408", slow)
                return
        exchange, n_messages = self._exchange, len(self._messages)
        is_content = exchange is not None and not exchange._payload.is_eof()
        super().data_received(data)
        if not is_content and data and exchange is not None:
            # Without a whole request in it, it is part of one, which HEAD will be about. (What came in one piece with
            # whole requests is not known: aiohttp's parser does not say. Its next byte begins HEAD.)
            self._stage = self._stage | TAIL if len(self._messages) == n_messages else self._stage & ~TAIL

    def _begun(self, now: float) -> None:
        """A whole head is here."""
        assert self._manager is not None
        self._stage = REQUEST
        self._manager.table.head_done(self._conn, now)
        if self._manager.times_handlers:
            self._manager.arm()

    def _idle(self, now: float) -> None:
        """The response is with the kernel. What came behind it begins here."""
        assert self._manager is not None
        has_tail = self._stage & TAIL
        self._stage = 0
        self._manager.table.responded(self._conn, now)
        if self._messages or self._exchange is not None:
            self._begun(now)
            self._stage |= has_tail
        elif has_tail:
            self._stage = HEAD
            self._manager.table.received(self._conn, now)
        self._manager.arm()

    def _decide(self, headers: Any) -> asyncio.Future[None]:
        """Is the connection kept after this response? The head says what was decided. aiohttp awaits it."""
        manager, request = self._manager, self._exchange
        if not self._conn or manager is None or request is None or not self._stage & REQUEST:
            return finished(self._loop)
        said = headers.get(hdrs.CONNECTION)
        if said is not None and "upgrade" in said.lower():
            return manager.done
        message = request._message
        is_old = message.version == HttpVersion10
        is_wanted, must_close = not message.should_close, None
        if message is ERROR:
            must_close = "bad_request"
        elif is_wanted and (is_old if said is None else said.lower() == "close"):
            must_close = "application"
        verdict = manager.table.decide(self._conn, manager.now(), "1.0" if is_old else "1.1", is_wanted, must_close)
        self._cause = verdict.cause
        if said is not None:
            del headers[hdrs.CONNECTION]
        if hdrs.KEEP_ALIVE in headers:
            del headers[hdrs.KEEP_ALIVE]
        headers.extend(manager.fields_of(verdict))
        if len(headers.get(hdrs.CONTENT_LENGTH, "")) > 4:  # it may be a file, for the loop to send
            request._loop = FileLoop(self)
        return manager.done

    def _answered(self, keeps: bool) -> None:
        """aiohttp has written a response, and asks nobody but it whether the connection is kept. We decided that when
        its head was written; where we ended it, the connection goes by lingering."""
        if self._cause is not None and self._conn and self._stage & REQUEST:
            keeps = False
            request = self._exchange
            if self._cause not in ("client", "application") and request is not None and request._payload.is_eof():
                self._force_close = True  # the closing is ours
                if not self._is_unsent():
                    self._linger(self._cause)
        KEEPS.__set__(self, keeps)

    _keepalive = property(KEEPS.__get__, _answered)

    def keep_alive(self, val: bool) -> None:
        """As aiohttp's."""
        KEEPS.__set__(self, val)

    # -- waiting for the client --------------------------------------------------------------------------

    def body_wanted(self) -> None:
        """The application waits for content."""
        if self._stage & REQUEST and not self._stage & BODY:
            self._stage |= BODY
            if self._conn and self._manager is not None and not self._stage & WRITE:
                self._manager.table.body_wanted(self._conn, self._loop.time())
                self._manager.arm()

    def body_arrived(self) -> None:
        """It has some, or waits no longer."""
        if self._stage & BODY:
            self._stage &= ~BODY
            if self._conn and self._manager is not None and not self._stage & WRITE:
                self._manager.table.body_arrived(self._conn, self._loop.time())

    def pause_writing(self) -> None:
        """As of asyncio.Protocol."""
        super().pause_writing()
        if self._conn and self._manager is not None and self._stage & (REQUEST | TUNNEL) and not self._stage & FILE:
            self._stage |= WRITE
            self._unsent = self._count_unsent()
            self._manager.table.blocked(self._conn, self._loop.time())
            self._manager.arm()

    def resume_writing(self) -> None:
        """As of asyncio.Protocol."""
        super().resume_writing()
        manager, conn, now = self._manager, self._conn, self._loop.time()
        if not self._stage & WRITE or self._stage & FILE or not conn or manager is None:
            return
        slow = self.write_progress(now)
        if slow is not None:
            self.end(slow)
            return
        self._stage &= ~WRITE
        manager.table.unblocked(conn, now)
        if self._stage & TUNNEL:
            manager.table.tunnelled(conn, now)
        elif self._stage & OVER:
            self._stage &= ~OVER
            manager.transport_of(self).set_write_buffer_limits()
            if self._force_close:
                self._linger(self._cause or "drain")
            else:
                self._idle(now)
        elif self._stage & BODY:
            manager.table.body_wanted(conn, now)
            manager.arm()

    def write_progress(self, now: float) -> str | None:
        """Tell the table what the client has taken since the last look. The cause to end it for, if it is too slow."""
        assert self._manager is not None
        before, self._unsent = self._unsent, self._count_unsent()
        if self._unsent >= before:
            return None
        return self._manager.table.write_progress(self._conn, before - self._unsent, now)

    def _count_unsent(self) -> int:
        assert self._manager is not None
        transport = self._manager.transport_of(self)
        if self._stage & FILE:
            return -(acknowledged_bytes(transport) or 0)
        return int(transport.get_write_buffer_size()) + waiting_bytes(transport, TIOCOUTQ)

    def _is_unsent(self) -> bool:
        """Whether the transport still has bytes of a complete response. If so, resume_writing() goes on with it."""
        transport = self.transport
        if transport is None or not transport.get_write_buffer_size():
            return False
        transport.set_write_buffer_limits(0)  # calls pause_writing(), and resume_writing() when all has gone
        if not self._stage & WRITE:
            return False
        self._stage |= OVER
        return True

    async def send_file(self, sending: Coroutine[Any, Any, Any]) -> None:
        """The client must take a file. The loop sends it past the transport's buffer, and calls nobody meanwhile."""
        manager, transport, task = self._manager, self.transport, asyncio.current_task()
        if not self._conn or manager is None or transport is None or acknowledged_bytes(transport) is None:
            await sending
            return
        is_blocked = self._stage & WRITE
        self._stage |= WRITE | FILE
        self._unsent = self._count_unsent()
        if not is_blocked:
            manager.table.blocked(self._conn, self._loop.time())
            manager.arm()
        self._file = self._loop.create_task(sending)
        try:
            await self._file
        except asyncio.CancelledError:
            if task is not None and task.cancelling():
                raise
            raise ConnectionResetError("Connection lost") from None  # it was us
        finally:
            self._file = None
            self._stage &= ~(WRITE | FILE)
            if self._conn:
                manager.table.unblocked(self._conn, self._loop.time())

    def set_parser(self, *arguments: Any, **named: Any) -> None:
        """As aiohttp's, which has more arguments in newer ones: a websocket takes over."""
        self._stage = TUNNEL | self._stage & WRITE
        if self._conn and self._manager is not None and not self._stage & WRITE:
            self._manager.table.tunnelled(self._conn, self._loop.time())
        super().set_parser(*arguments, **named)
