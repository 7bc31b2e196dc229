"""How a server ends: drop nobody who got in, answer whatever can be answered, then go.

In this order, each step with its own time:

    lame duck    only readiness probes are told, so that load balancers send clients elsewhere
    drain        every response says `Connection: close`; idle connections are still answered for `grace` seconds, then
                 closed over the next `spread` seconds; whatever is left at `timeout` is closed
    listeners    new handshakes are refused, those under way are let in, and the sockets are closed; if a successor
                 accepts from the same sockets, they are simply left to it
    the last     wait until nothing is open but lingering connections, or until the timeout

`Departure` is this sequence without the waiting: an event loop awaits `leave()`, a plain loop takes a turn for every
step of `walk()`. A wait ends early when the driver says that it is drained (`when_drained`) or on `end_now()`, so nobody
polls. A host that does its own accepting uses `Terms` and `last_gone()`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from kacore._core import ConnectionTable
    from kacore.policy import Policy
    from kacore.server.listening import Listener

# Seconds for handshakes that are under way when new ones are refused: a long round trip.
LAST_CALL = 0.1
# Seconds past the timeout of a drain, in which the driver answers 503 where it still can.
LAST_WORD = 0.1
# The most that drain_grace can be in a hurry, in seconds: for requests already on their way on idle connections.
HURRIED_GRACE = 0.2


class Ending(Protocol):
    """Something with connections, which can say when the last one is gone."""

    def when_drained(self, call: Callable[[], object], /) -> None: ...


class Drained(Ending, Protocol):
    """Something with connections that can be drained."""

    def drain(self, *, grace: float, spread: float, timeout: float) -> None: ...


@dataclass(frozen=True)
class Terms:
    """How long each part of the end may take, in seconds: the drain_* fields of a policy, or less."""

    lame_duck: float
    grace: float
    spread: float
    timeout: float

    @classmethod
    def of(cls, policy: Policy) -> Terms:
        return cls(policy.drain_lame_duck, policy.drain_grace, policy.drain_spread, policy.drain_timeout)

    def without_lame_duck(self) -> Terms:
        """For a server whose clients go elsewhere already."""
        return replace(self, lame_duck=0.0)

    def hurried(self) -> Terms:
        """Somebody is waiting: at most HURRIED_GRACE for idle connections."""
        return replace(self, lame_duck=0.0, grace=min(self.grace, HURRIED_GRACE), spread=0.0)

    def at_once(self) -> Terms:
        """Only requests under way are waited for."""
        return replace(self, lame_duck=0.0, grace=0.0, spread=0.0)

    def within(self, seconds: float) -> Terms:
        """The whole of it, LAST_WORD included, in at most this many seconds."""
        return replace(self, timeout=max(0.0, min(self.timeout, seconds - self.lame_duck - LAST_WORD)))

    def begin(self, connections: Drained) -> None:
        """Start to drain."""
        connections.drain(grace=self.grace, spread=self.spread, timeout=self.timeout)


async def last_gone(connections: Ending, seconds: float) -> None:
    """Wait until the drain is over, at most this many seconds."""
    is_over = asyncio.Event()
    connections.when_drained(is_over.set)
    try:
        async with asyncio.timeout(seconds):
            await is_over.wait()
    except TimeoutError:
        pass


class Departure:
    """The end of one driver.

    driver:        accepts from `listeners`, which are closed on the way.
    has_successor: another process already accepts from the same sockets.
    admits_for:    seconds into the drain for which new connections are still accepted.
    when_closed:   called when the listeners are closed.
    """

    def __init__(
        self,
        driver: Any,
        table: ConnectionTable,
        terms: Terms,
        listeners: Iterable[Listener],
        *,
        has_successor: bool = False,
        admits_for: float = 0.0,
        when_closed: Callable[[], object] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.driver, self.table, self.terms, self.listeners = driver, table, terms, list(listeners)
        self.has_successor, self.admits_for, self.when_closed = has_successor, admits_for, when_closed
        self._clock = clock or time.monotonic
        self._is_cut_short = False
        self._news = asyncio.Event()

    def end_now(self) -> None:
        """Cut all waiting short. From the loop's thread."""
        self._is_cut_short = True
        self._news.set()

    async def leave(self, must_end: asyncio.Event) -> None:
        """The whole sequence, in the running loop; end_now() once must_end is set."""
        told = asyncio.ensure_future(must_end.wait())
        told.add_done_callback(lambda _: self.end_now())
        if must_end.is_set():
            self.end_now()
        try:
            for left in self.walk():
                try:
                    async with asyncio.timeout(left):
                        await self._news.wait()
                except TimeoutError:
                    pass
                self._news.clear()
        finally:
            told.cancel()

    def walk(self) -> Iterator[float]:
        """The whole sequence. Yields the seconds to let the driver work before the next look; come back early at will."""
        terms = self.terms
        yield from self._waiting(terms.lame_duck)
        began = self._clock()
        terms.begin(self.driver)
        yield from self._waiting_for_the_last(began + self.admits_for)
        if not self.has_successor and self._refuse_newcomers():
            yield from self._waiting(LAST_CALL)
        for listener in self.listeners:
            self.driver.unlisten(listener.sock, is_last=not self.has_successor)
            listener.close()
        if self.when_closed is not None:
            self.when_closed()
        yield from self._waiting_for_the_last(began + terms.timeout + LAST_WORD)

    def _refuse_newcomers(self) -> bool:
        """Return whether any listener is ours to close to new clients; others go on being served after us."""
        refused = [listener.refuse() for listener in self.listeners]
        return any(refused)

    def _waiting(self, seconds: float) -> Iterator[float]:
        deadline = self._clock() + seconds
        while (left := self._left(deadline)) > 0:
            yield left

    def _waiting_for_the_last(self, deadline: float) -> Iterator[float]:
        while (left := self._left(deadline)) > 0 and not self.table.is_drained:
            self.driver.when_drained(self._news.set)
            yield left

    def _left(self, deadline: float) -> float:
        return 0.0 if self._is_cut_short else deadline - self._clock()
