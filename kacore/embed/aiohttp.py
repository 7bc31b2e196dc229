"""kacore's connections inside aiohttp.web: `kacore.embed.aiohttp.run_app(app, policy=Policy(...))`.

aiohttp stays the server: it accepts, parses, calls the application, writes responses, websockets and logs. Around it
each connection stands in kacore's table: every phase has a deadline, a full server closes its least useful idle
connection, a drain answers what is under way, and one timer serves all connections. docs/embedding-aiohttp.md says
what changes.

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
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import hdrs, web
from aiohttp.http import HttpVersion10
from aiohttp.log import access_logger
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import ERROR
from aiohttp.web_protocol import RequestHandler as HostHandler
from aiohttp.web_server import Server as HostServer

from kacore._core import ConnectionTable
from kacore.embed._hosts import HostPackage
from kacore.policy import Policy
from kacore.server.assembly import policy_set, table_for
from kacore.server.departure import last_gone

try:
    import fcntl
    import termios
except ImportError:  # not on Windows: nobody can be asked what waits in the kernel
    fcntl = termios = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from ssl import SSLContext

    from kacore._core import Verdict

__all__ = ["AppRunner", "RequestHandler", "Server", "SockSite", "TCPSite", "UnixSite", "run_app"]

# Until 3.10.1 it is noted when a connection began to be idle, and since then when that is to end.
KEPT_SINCE = "_keepalive_time" if hasattr(HostHandler, "_keepalive_time") else "_next_keepalive_close_time"
PARSED = "aiohttp's parser has no such limit"
OF_HANDLER = "_close _current_request _force_close _keepalive _keepalive_handle _keepalive_timeout _messages _task_handler"
PACKAGE = HostPackage(
    "aiohttp",
    oldest="3.10",
    newest="3.14",
    needed=(
        *(f"aiohttp.web_protocol:RequestHandler.{name}" for name in (*OF_HANDLER.split(), "_waiter", KEPT_SINCE)),
        *(f"aiohttp.web_server:Server.{name}" for name in ("_connections", "_kwargs", "request_factory")),
        "aiohttp.web_request:BaseRequest._cancel",
        "aiohttp.web_runner:AppRunner._make_server",
        "aiohttp.http_writer:StreamWriter._on_headers_sent",
        "aiohttp.streams:StreamReader._wait",
    ),
    ineffective={
        "max_head_bytes": f"{PARSED}; max_target_bytes, max_header_bytes and max_headers it has",
        "max_chunk_line_bytes": PARSED,
        "max_trailer_bytes": PARSED,
        "max_body_bytes": "content has the application's client_max_size",
        "max_buffer_bytes": "the loop's transports have the buffers",
        "max_response_buffer": "applications are not WSGI",
    },
)
PACKAGE.at_import(aiohttp.__version__)

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

EXPIRIES = 64  # a round of the loop
INFINITY = float("inf")
NEVER = 1e6  # seconds, for a loop that takes no 0
REFUSAL = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: {}\r\nConnection: close\r\n\r\n"
LATE = {
    "answer_408": b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "answer_503": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
}
# aiohttp's arguments of a handler, and the field that says the same, where the policy says it.
PARSER_LIMITS = {
    "max_line_size": "max_target_bytes",
    "max_headers": "max_headers",
    "max_field_size": "max_header_bytes",
}
FIONREAD = getattr(termios, "FIONREAD", 0)
TIOCOUTQ = getattr(termios, "TIOCOUTQ", 0)
TCPI_BYTES_ACKED = slice(120, 128)  # of struct tcp_info, since Linux 4.1


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
    _manager: Server | None

    def __init__(self, manager: Server, *, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
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
        """Seconds an idle connection is kept when there is room."""
        return self._manager.policy.keep_alive_timeout if self._manager is not None else 0.0

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


class Server(HostServer):
    """aiohttp.web.Server with kacore's table: of one loop, with one timer.

    policy: kacore.Policy; default Policy(). keepalive_timeout, where it is given, counts instead of the policy's.
    Other arguments as aiohttp's. Raises TypeError for a policy that is none, PolicyError (a ValueError) for a value out
    of range, and for a field that is set and would have no effect: those of PACKAGE.ineffective.
    """

    def __init__(
        self,
        handler: Any,
        *,
        policy: Policy | None = None,
        request_factory: Any = None,
        keepalive_timeout: float | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(policy, Policy | None):
            raise TypeError(f"policy is a kacore.Policy, not {type(policy).__name__}: rules are for kacore's own server")
        policy = policy or Policy()
        PACKAGE.check_policy(policy)
        said = policy.changes()
        for argument, field in PARSER_LIMITS.items():
            if field in said:
                kwargs.setdefault(argument, getattr(policy, field))
        if keepalive_timeout is not None:
            policy = with_keepalive_timeout(policy, float(keepalive_timeout))
        super().__init__(handler, request_factory=request_factory, **kwargs)
        self.policy = policy
        self.table = table_for(policy_set(policy), logging.getLogger("kacore.error"))
        self.times_handlers = policy.handler_timeout > 0
        self.request_factory = watching(self.request_factory)
        self.now, self.done = self._loop.time, finished(self._loop)
        self._by_conn: dict[int, RequestHandler] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._armed = INFINITY
        self._on_drained: Callable[[], object] | None = None
        self._verdict: Verdict | None = None
        self._fields: list[tuple[str, str]] = []
        self._refusal = REFUSAL.format(policy.retry_after).encode()

    def __call__(self) -> RequestHandler:
        """A handler for a new connection. As aiohttp's, it does without arguments that it does not know."""
        try:
            return RequestHandler(self, loop=self._loop, **self._kwargs)
        except TypeError:
            known = ("debug", "access_log_class")
            handler = RequestHandler(self, loop=self._loop, **{k: v for k, v in self._kwargs.items() if k in known})
            handler.logger.warning("Arguments %r are not a handler's: using %s only", self._kwargs, known)
            return handler

    def stats(self) -> dict[str, Any]:
        """As ConnectionTable.stats()."""
        return self.table.stats()

    # -- coming and going --------------------------------------------------------------------------------

    def admit(self, handler: RequestHandler, transport: Any) -> bool:
        """Into the table, for which another may have to go; or refused with 503."""
        now = self._loop.time()
        peer = transport.get_extra_info("peername")
        try:
            client = peer if isinstance(peer, tuple) else None
            conn = self.table.open(now, client)
        except ValueError:  # neither IPv4 nor IPv6
            client = None
            conn = self.table.open(now)
        if not conn and self.table.is_full:
            if self._make_room(now):
                conn = self.table.open(now, client)
            else:
                self.table.refused("rejected")
        if not conn:
            transport.write(self._refusal)
            transport.close()
            return False
        handler._conn = conn
        self._by_conn[conn] = handler
        self.arm()
        return True

    def _make_room(self, now: float) -> bool:
        """Close the connection that goes first, unless bytes of it wait in the kernel, or have left it: then it is not
        idle, or not slow."""
        while victim := self.table.victim(now):
            handler = self._by_conn[victim]
            if handler._stage == 0 and waiting_bytes(self.transport_of(handler), FIONREAD):
                handler._stage = HEAD
                self.table.received(victim, now)
                continue
            if handler._stage & WRITE:
                handler.write_progress(now)
                if self.table.victim(now) != victim:
                    continue
            if self.table.phase(victim) == "body":
                handler.expire("answer_408", "evicted")
            handler.end("evicted")
            return True
        return False

    def transport_of(self, handler: RequestHandler) -> Any:
        """Also when the handler itself may not use it any more."""
        return self._connections[handler]

    def forget(self, handler: RequestHandler, cause: str) -> None:
        """The one way out of the table."""
        conn, handler._conn = handler._conn, 0
        del self._by_conn[conn]
        self.table.close(conn, cause)
        self.settled()

    def fields_of(self, verdict: Verdict) -> list[tuple[str, str]]:
        """What a response says about persistence. The table gives the same verdict again while it is the same."""
        if verdict is not self._verdict:
            names = {b"connection": hdrs.CONNECTION, b"keep-alive": hdrs.KEEP_ALIVE}
            self._fields = [(names[name], value.decode()) for name, value in verdict.fields]
            self._verdict = verdict
        return self._fields

    # -- time --------------------------------------------------------------------------------------------

    def arm(self) -> None:
        """Set the timer only when something is due earlier than it will fire."""
        due = self.table.next_due()
        if due is None or due >= self._armed:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed = due
        self._timer = self._loop.call_at(due, self._fired)

    def _fired(self) -> None:
        """ "Nothing has come" is no evidence before the loop has polled once more: let it. Until then no new timer."""
        self._timer, self._armed = None, -INFINITY
        self._loop.call_soon(self._loop.call_soon, self._expire)

    def _expire(self) -> None:
        """Carry out what is due, a bounded number; the rest in the next round of the loop."""
        now = self._loop.time()
        for _ in range(EXPIRIES):
            due = self.table.due(now)
            if due is None:
                break
            conn, action, cause = due
            handler = self._by_conn[conn]
            if handler._stage & WRITE:
                before = handler._unsent
                slow = handler.write_progress(now)
                if slow is None and handler._unsent < before and cause == "send_timeout":
                    continue
                cause = slow or cause
            handler.expire(action, cause)
        self._armed = INFINITY
        self.arm()

    # -- leaving -----------------------------------------------------------------------------------------

    def pre_shutdown(self) -> None:
        """As aiohttp's, called when no more connections are accepted: idle ones stay answerable for a moment."""
        self.table.drain(self._loop.time())
        self.arm()

    async def shutdown(self, timeout: float | None = None) -> None:
        """As aiohttp's: wait for the drain, `timeout` seconds at most, then end what is left."""
        self.pre_shutdown()
        limits = [self.policy.drain_timeout, *([] if timeout is None else [timeout])]
        await last_gone(self, min(limits))
        transports = dict(self._connections)
        await super().shutdown(timeout)
        for handler in list(self._by_conn.values()):
            transport, is_stuck = transports[handler], handler._stage & WRITE
            self.forget(handler, "drain")
            if is_stuck:
                transport.abort()
            else:
                transport.close()
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._armed = None, INFINITY

    def when_drained(self, call: Callable[[], object]) -> None:
        """Have it called once, when nobody is left but who only waits for the end of its lingering."""
        self._on_drained = call
        self.settled()

    def settled(self) -> None:
        """One has gone, or lingers."""
        if self._on_drained is not None and self.table.is_drained:
            call, self._on_drained = self._on_drained, None
            call()


def with_keepalive_timeout(policy: Policy, seconds: float) -> Policy:
    """What aiohttp's keepalive_timeout means, which bounds the wait for a first request, too. 0: none is kept."""
    if seconds <= 0:
        return policy.replace(keep_alive=False)
    said = policy.changes()
    first = {
        name: seconds
        for name in ("first_byte_timeout", "request_header_timeout")
        if name not in said and getattr(policy, name) > seconds
    }
    return policy.replace(keep_alive_timeout=seconds, **first)


def watching(factory: Any) -> Any:
    """A request factory that also tells the handler."""

    def make_request(message: Any, payload: Any, protocol: RequestHandler, writer: Any, task: Any) -> Any:
        writer._on_headers_sent = protocol._decide
        if type(payload) is StreamReader:
            payload.__class__ = WatchedReader
        request = protocol._exchange = factory(message, payload, protocol, writer, task)
        return request

    return make_request


class AppRunner(web.AppRunner):
    """aiohttp.web.AppRunner whose server holds its connections in kacore's table.

    policy: kacore.Policy; default Policy(). The arguments keepalive_timeout and shutdown_timeout, where they are given,
    count instead of its keep_alive_timeout and drain_timeout. Other arguments, sites and errors as aiohttp's.
    """

    __slots__ = ("_policy",)

    def __init__(self, app: web.Application, *, policy: Policy | None = None, **kwargs: Any) -> None:
        timeout = kwargs.pop("shutdown_timeout", None)
        if timeout is not None:
            policy = (policy or Policy()).replace(drain_timeout=float(timeout))
        kwargs["shutdown_timeout"] = (policy or Policy()).drain_timeout
        super().__init__(app, **kwargs)
        self._policy = policy

    @property
    def table(self) -> ConnectionTable:
        """The table of its server. RuntimeError before setup() and after cleanup()."""
        if not isinstance(self._server, Server):
            raise RuntimeError("Call runner.setup() before asking for its table")
        return self._server.table

    def stats(self) -> dict[str, Any]:
        """As ConnectionTable.stats(). RuntimeError before setup() and after cleanup()."""
        return self.table.stats()

    async def _make_server(self) -> HostServer:
        made = await super()._make_server()
        server = Server(
            made.request_handler,
            policy=self._policy,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,
            **made._kwargs,
        )
        server._connections = made._connections
        return server

    async def cleanup(self) -> None:
        """As aiohttp's. First whoever waits in the backlog is accepted: it would be reset with the listeners."""
        await asyncio.sleep(self._server.policy.drain_lame_duck if isinstance(self._server, Server) else 0)
        await super().cleanup()


async def start_site(site: Any, create: Any, *where: Any, **options: Any) -> None:
    """What start() of aiohttp's sites does, with the policy's time for TLS handshakes, which the loop has to keep."""
    await web.BaseSite.start(site)
    server: Server = site._runner.server
    if site._ssl_context is not None:
        options["ssl_handshake_timeout"] = server.policy.handshake_timeout or NEVER
    site._server = await create(server, *where, ssl=site._ssl_context, backlog=site._backlog, **options)


class TCPSite(web.TCPSite):
    """aiohttp.web.TCPSite for an AppRunner of this module, whose policy has a handshake_timeout."""

    __slots__ = ()

    async def start(self) -> None:
        """As aiohttp's."""
        create = asyncio.get_running_loop().create_server
        reuse = {"reuse_address": self._reuse_address, "reuse_port": self._reuse_port}
        await start_site(self, create, self._host, self._port, **reuse)
        sockets = getattr(self._server, "sockets", ())
        bound = sockets[0].getsockname()[1] if sockets else self._port
        setattr(self, "_bound_port" if hasattr(self, "_bound_port") else "_port", bound)  # what its name says


class UnixSite(web.UnixSite):
    """aiohttp.web.UnixSite, the same way."""

    __slots__ = ()

    async def start(self) -> None:
        """As aiohttp's."""
        await start_site(self, asyncio.get_running_loop().create_unix_server, self._path)


class SockSite(web.SockSite):
    """aiohttp.web.SockSite, the same way."""

    __slots__ = ()

    async def start(self) -> None:
        """As aiohttp's."""
        await start_site(self, asyncio.get_running_loop().create_server, sock=self._sock)


def run_app(
    app: web.Application | Awaitable[web.Application],
    *,
    policy: Policy | None = None,
    host: str | Iterable[str] | None = None,
    port: int | None = None,
    path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
    sock: socket.socket | Iterable[socket.socket] | None = None,
    print: Any = print,
    handle_signals: bool = True,
    loop: asyncio.AbstractEventLoop | None = None,
    ssl_context: SSLContext | None = None,
    backlog: int = 128,
    reuse_address: bool | None = None,
    reuse_port: bool | None = None,
    **options: Any,
) -> None:
    """aiohttp.web.run_app() with a policy for its connections: serve until SIGINT or SIGTERM, drain, return.

    policy:  kacore.Policy; default Policy(). keepalive_timeout and shutdown_timeout, where given, count instead.
    others:  as of aiohttp.web.run_app().
    """
    loop = loop or asyncio.new_event_loop()
    if loop.get_debug():
        show_access_log(options.get("access_log", access_logger))
    every: dict[str, Any] = {"ssl_context": ssl_context, "backlog": backlog}
    ports: dict[str, Any] = {**every, "port": port, "reuse_address": reuse_address, "reuse_port": reuse_port}
    hosts: list[Any] = [] if host is None else several(host, str)
    if host is None and (port is not None or (path is None and sock is None)):
        hosts = [None]

    async def serve() -> None:
        made: Any = await app if asyncio.iscoroutine(app) else app
        runner = AppRunner(made, policy=policy, handle_signals=handle_signals, **options)
        await runner.setup()
        try:
            sites: list[web.BaseSite] = [TCPSite(runner, one, **ports) for one in hosts]
            sites += [UnixSite(runner, one, **every) for one in several(path, (str, os.PathLike))]
            sites += [SockSite(runner, one, **every) for one in several(sock)]
            for site in sites:
                await site.start()
            if print:
                names = ", ".join(sorted(site.name for site in runner.sites))
                print(f"======== Running on {names} ========\n(Press CTRL+C to quit)")
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    asyncio.set_event_loop(loop)
    run_to_end(loop, loop.create_task(serve()))


def show_access_log(logger: logging.Logger | None) -> None:
    """In debug mode aiohttp's own access log is seen without being configured."""
    if logger is not None and logger.name == access_logger.name:
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.DEBUG)
        if not logger.hasHandlers():
            logger.addHandler(logging.StreamHandler())


def several(what: Any, single: Any = ()) -> list[Any]:
    """One, several or none, as a list. single: what is one although it can be iterated over."""
    return [] if what is None else list(what) if isinstance(what, Iterable) and not isinstance(what, single) else [what]


def run_to_end(loop: asyncio.AbstractEventLoop, main: asyncio.Task[None]) -> None:
    """Until a signal ends it, then its cleanup, then what other tasks are left. Closes the loop."""
    with asyncio.Runner(loop_factory=lambda: loop):
        try:
            loop.run_until_complete(main)
        except (web.GracefulExit, KeyboardInterrupt):
            pass
        finally:
            if not main.done():  # the signal broke into the loop: what it was doing goes on here, with its cleanup
                main.cancel()
                with suppress(asyncio.CancelledError):
                    loop.run_until_complete(main)
