"""How a server ends, in virtual time: what is done when, and what is waited for."""

import asyncio

import pytest

from kacore import ConnectionTable, Policy
from kacore.server.departure import HURRIED_GRACE, LAST_CALL, LAST_WORD, Departure, Terms, last_gone

TERMS = Terms(lame_duck=5.0, grace=2.0, spread=1.0, timeout=30.0)


class Listener:
    def __init__(self, told, is_own=True):
        self.sock, self.told, self.is_own = self, told, is_own

    def refuse(self):
        self.told("refuse")
        return self.is_own

    def close(self):
        self.told("close")


class World:
    """A driver with some open connections, its listener, and a clock that only waiting moves on."""

    def __init__(self, terms=TERMS, is_own=True, n_open=1, **options):
        self.now, self.events, self.call = 100.0, [], None
        self.table = ConnectionTable(Policy())
        self.conns = [self.table.open(self.now) for _ in range(n_open)]
        options.setdefault("when_closed", lambda: self.told("closed"))
        self.departure = Departure(self, self.table, terms, [Listener(self.told, is_own)], clock=lambda: self.now, **options)

    def told(self, what):
        self.events.append((round(self.now - 100.0, 6), what))

    def drain(self, **_):
        self.told("drain")

    def unlisten(self, _, *, is_last):
        self.told("take the queue" if is_last else "leave the queue")

    def when_drained(self, call):
        self.call = call

    def walk(self, at=None, do=None):
        """To its end; after `at` seconds `do` happens, which cuts the wait in progress short."""
        for left in self.departure.walk():
            if at is not None and self.now + left > 100.0 + at:
                self.now, at = 100.0 + at, None
                do(self)
            else:
                self.now += left
        return self.events, round(self.now - 100.0, 6)


def close_all(world):
    for conn in world.conns:
        world.table.close(conn)


END = [(5.0, "drain"), (5.0, "refuse"), (5.1, "take the queue"), (5.1, "close"), (5.1, "closed")]


def test_everything_happens_in_its_order_and_the_last_connection_is_waited_for_until_the_timeout():
    assert World().walk() == (END, 5.0 + 30.0 + LAST_WORD)


def test_end_comes_with_the_last_connection():
    assert World().walk(at=9.0, do=close_all) == (END, 9.0)


def test_connections_that_linger_are_not_waited_for():
    def linger(world):
        for conn in world.conns:
            world.table.lingering(conn, 100.0)

    assert World(n_open=3).walk(at=9.0, do=linger) == (END, 9.0)


def test_lame_duck_is_waited_out_although_nothing_is_open():
    assert World(n_open=0).walk() == (END, 5.0 + LAST_CALL)


@pytest.mark.parametrize(("at", "then"), [(2.0, 2.0), (5.05, 5.05), (12.0, 5.1)])
def test_nobody_is_waited_for_once_it_is_to_end_now(at, then):
    events, end = World().walk(at=at, do=lambda world: world.departure.end_now())
    assert [what for _, what in events] == [what for _, what in END]
    assert events[-1][0] == then
    assert end == at


def test_listeners_are_left_to_a_successor():
    events, _ = World(Terms.without_lame_duck(TERMS), has_successor=True).walk()
    assert events == [(0.0, "drain"), (0.0, "leave the queue"), (0.0, "close"), (0.0, "closed")]


def test_sockets_that_others_serve_after_us_need_no_last_call():
    events, _ = World(is_own=False).walk()
    assert events == [(5.0, "drain"), (5.0, "refuse"), (5.0, "take the queue"), (5.0, "close"), (5.0, "closed")]


def test_newcomers_can_be_let_in_during_the_drain_until_nobody_is_left():
    world = World(admits_for=3.0)
    assert world.walk()[0][:3] == [(5.0, "drain"), (8.0, "refuse"), (8.1, "take the queue")]
    world = World(admits_for=3.0)
    assert world.walk(at=6.0, do=close_all)[0][:3] == [(5.0, "drain"), (6.0, "refuse"), (6.1, "take the queue")]


def test_terms_are_those_of_the_policy_or_less():
    terms = Terms.of(Policy(drain_lame_duck=5.0, drain_grace=2.0, drain_spread=1.0, drain_timeout=30.0))
    assert terms == TERMS
    assert terms.hurried() == Terms(0.0, HURRIED_GRACE, 0.0, 30.0)
    assert Terms(0.0, 0.1, 1.0, 30.0).hurried().grace == 0.1
    assert terms.at_once() == Terms(0.0, 0.0, 0.0, 30.0)
    assert terms.within(20.0).timeout == 20.0 - 5.0 - LAST_WORD
    assert terms.within(100.0) == terms
    assert terms.within(1.0).timeout == 0.0


def test_loop_is_woken_by_the_last_connection_and_by_the_order_to_end():
    """Without a wait: the terms would take an hour."""

    async def leaves(how):
        world = World(Terms(0.0, 0.0, 0.0, 3600.0), is_own=False)
        must_end = asyncio.Event()
        leaving = asyncio.create_task(world.departure.leave(must_end))
        await asyncio.sleep(0)
        assert world.events[-1] == (0.0, "closed")
        how(world, must_end)
        await leaving

    def gone(world, _):
        close_all(world)
        world.call()

    asyncio.run(leaves(gone))
    asyncio.run(leaves(lambda _, must_end: must_end.set()))


def test_last_one_gone_is_waited_for_and_not_longer_than_told():
    class Connections:
        def when_drained(self, call):
            self.call = call

    async def waits():
        gone, stays = Connections(), Connections()
        waiting = asyncio.create_task(last_gone(gone, 3600.0))
        await asyncio.sleep(0)
        gone.call()
        await waiting
        await last_gone(stays, 0.0)

    asyncio.run(waits())
