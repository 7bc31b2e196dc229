"""How a server ends: refuse nobody who got in, answer what can be answered, then be gone.

In this order, each with its time:

    lame duck    nothing changes but what readiness probes are told, so that clients are sent elsewhere
    drain        every response says `Connection: close`; idle connections stay answerable for `grace` seconds and are
                 closed spread over `spread`; at `timeout` what is left is closed
    listeners    newcomers are kept from beginning to connect, those who had begun are let in, then the sockets are
                 closed; where a successor accepts from the same sockets, they are simply left to it
    the last     until nothing is open but connections that linger, or the timeout is over

`Departure` walks through it and does no waiting of its own: an event loop awaits `leave()`, a plain loop takes a turn
for every step of `walk()`. What ends a wait early is told by the driver (`when_drained`) or by `end_now()`; nobody polls.
A host that accepts by itself has `Terms`, `last_gone()` and the drain of its connections.
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

# For handshakes that are under way when nobody new is let in, in seconds: a round trip over a long way.
LAST_CALL = 0.1
# At the deadline of a drain the driver says 503 to whom it may, in seconds: a step of it, and the wait for its turn.
LAST_WORD = 0.1
# In a hurry, what drain_grace is at most: for requests that are under way on idle connections.
HURRIED_GRACE = 0.2


class Ending(Protocol):
    """Connections that end: of a driver, or of a host."""

    def when_drained(self, call: Callable[[], object], /) -> None: ...


class Drained(Ending, Protocol):
    """Connections that can be drained."""

    def drain(self, *, grace: float, spread: float, timeout: float) -> None: ...


@dataclass(frozen=True)
class Terms:
    """What connections are given at the end, in seconds: the drain_* fields of a policy, or less."""

    lame_duck: float
    grace: float
    spread: float
    timeout: float

    @classmethod
    def of(cls, policy: Policy) -> Terms:
        return cls(policy.drain_lame_duck, policy.drain_grace, policy.drain_spread, policy.drain_timeout)

    def without_lame_duck(self) -> Terms:
        """Whoever sends clients elsewhere knows already."""
        return replace(self, lame_duck=0.0)

    def hurried(self) -> Terms:
        """Somebody waits for the end: at most HURRIED_GRACE for idle connections."""
        return replace(self, lame_duck=0.0, grace=min(self.grace, HURRIED_GRACE), spread=0.0)

    def at_once(self) -> Terms:
        """Nobody is waited for but who has a request under way."""
        return replace(self, lame_duck=0.0, grace=0.0, spread=0.0)

    def within(self, seconds: float) -> Terms:
        """All of it, the last word included, in at most so many seconds."""
        return replace(self, timeout=max(0.0, min(self.timeout, seconds - self.lame_duck - LAST_WORD)))

    def begin(self, connections: Drained) -> None:
        """Drain from now on."""
        connections.drain(grace=self.grace, spread=self.spread, timeout=self.timeout)


async def last_gone(connections: Ending, seconds: float) -> None:
    """Wait until the drain has nobody left to wait for, so many seconds at most."""
    is_over = asyncio.Event()
    connections.when_drained(is_over.set)
    try:
        async with asyncio.timeout(seconds):
            await is_over.wait()
    except TimeoutError:
        pass


class Departure:
    """The end of one driver.

    driver:        what serves; it accepts from `listeners`, which are closed in the end.
    has_successor: another process accepts from the same sockets already.
    admits_for:    seconds of the drain in which newcomers are still let in.
    when_closed:   called once the listeners are closed.
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
        """Wait for nobody any more. From the loop's thread."""
        self._is_cut_short = True
        self._news.set()

    async def leave(self) -> None:
        """All of it, in the running loop."""
        for left in self.walk():
            try:
                async with asyncio.timeout(left):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()

    def walk(self) -> Iterator[float]:
        """Each step yields for how many seconds there is nothing to do here but to let the driver work."""
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
        """Whether there is anybody to refuse: at sockets that others serve after us, there is not."""
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
