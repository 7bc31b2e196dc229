"""aiohttp's Server with kacore's table: who gets in, whose time is up, who makes room, the drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs
from aiohttp.streams import StreamReader
from aiohttp.web_server import Server as HostServer

from kacore.embed._aiohttp_connection import FIONREAD, HEAD, WRITE, RequestHandler, WatchedReader, finished, waiting_bytes
from kacore.embed._aiohttp_package import PACKAGE
from kacore.policy import Policy
from kacore.server.assembly import policy_set, table_for
from kacore.server.departure import last_gone

if TYPE_CHECKING:
    from kacore._core import Verdict

EXPIRIES = 64  # a round of the loop
INFINITY = float("inf")
REFUSAL = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: {}\r\nConnection: close\r\n\r\n"
# aiohttp's arguments of a handler, and the field that says the same, where the policy says it.
PARSER_LIMITS = {
    "max_line_size": "max_target_bytes",
    "max_headers": "max_headers",
    "max_field_size": "max_header_bytes",
}


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
        self.table.close(conn, cause, self._loop.time())
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
    first: dict[str, Any] = {
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
