"""A loop of ours on asyncio waits in the engine: the loop's own work is done all the same, and in time."""

import asyncio
import contextlib
import os
import selectors
import signal
import threading

import pytest

import kacore
from kacore.server.loops import EngineSelector, loop_factory
from tests.wire.conftest import Client, wait_until


@pytest.fixture
def loop():
    with contextlib.closing(loop_factory("asyncio")()) as made:
        yield made


@contextlib.asynccontextmanager
async def served(app, step_of=None):
    server = kacore.Server(app, port=0, lifespan="off")
    if step_of is not None:
        server.place.step_of = step_of
    serving = asyncio.create_task(server.serve(handle_signals=False))
    await server.started()
    try:
        yield server
    finally:
        server.shutdown(now=True)
        await serving


async def answer(send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def hello(scope, receive, send):
    await answer(send)


def ask(port, paths):
    """In a thread, one after the other."""
    with contextlib.closing(Client(port)) as client:
        return [client.get(path).status for path in paths]


def is_lent(loop):
    return loop._selector.is_lent


def test_what_a_request_adds_to_the_loop_is_done_though_it_was_answered_at_once(loop):
    done = set()

    async def ask_itself(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        if b" 200 " in await reader.read():
            done.add("/task")
        writer.close()
        await writer.wait_closed()

    async def app(scope, receive, send):
        def add():
            done.add(scope["path"])

        if scope["path"] == "/soon":
            loop.call_soon(add)
        elif scope["path"] == "/later":
            loop.call_later(0.001, add)
        elif scope["path"] == "/thread":
            threading.Thread(target=loop.call_soon_threadsafe, args=[add]).start()
        elif scope["path"] == "/task":
            tasks.append(asyncio.create_task(ask_itself(servers[0])))
        await answer(send)

    tasks, servers = [], []

    def ask_and_wait(port):
        for path in ("/soon", "/later", "/thread", "/task"):
            assert ask(port, [path]) == [200]
            wait_until(lambda path=path: path in done, path)

    async def main():
        async with served(app) as server:
            servers.append(server)
            assert is_lent(loop)
            await asyncio.to_thread(ask_and_wait, server.port)

    loop.run_until_complete(main())


def test_requests_that_are_answered_at_once_do_not_turn_the_loop(loop):
    async def main():
        async with served(hello) as server:
            selects, select = [], loop._selector.select
            loop._selector.select = lambda timeout=None: selects.append(timeout) or select(timeout)
            assert await asyncio.to_thread(ask, server.port, ["/"] * 200) == [200] * 200
            assert server.table.stats()["requests"] == 200
            assert len(selects) < 100

    loop.run_until_complete(main())


def test_timers_come_while_there_is_always_something_to_do(loop):
    def never_ceasing(server, step):
        def call():
            step()
            server._driver.wake()

        return call

    async def main():
        async with served(hello, never_ceasing) as server:
            server._driver.wake()
            for _ in range(3):
                await asyncio.sleep(0.01)
            assert server.stats()["engine"]["steps"] > 3

    loop.run_until_complete(main())


def test_a_step_that_fails_is_told_to_the_loop_and_what_it_was_for_is_not_lost(loop):
    told, calls = [], []

    def failing_once(server, step):
        def call():
            calls.append(1)
            if len(calls) == 1:
                raise ValueError("the first")
            return step()

        return call

    async def main():
        async with served(hello, failing_once) as server:
            assert await asyncio.to_thread(ask, server.port, ["/"]) == [200]

    loop.set_exception_handler(lambda _, context: told.append(str(context["exception"])))
    loop.run_until_complete(main())
    assert told == ["the first"]


def test_an_application_may_turn_the_loop_from_within(loop):
    seen = []

    async def app(scope, receive, send):
        loop.call_soon(seen.append, "callback")
        seen.append(loop._selector.select(0))
        await answer(send)

    async def main():
        async with served(app) as server:
            assert await asyncio.to_thread(ask, server.port, ["/"]) == [200]

    loop.run_until_complete(main())
    assert seen == [[], "callback"]


def test_one_engine_lends_its_set_and_others_in_its_loop_serve_beside_it(loop):
    async def main():
        async with served(hello) as lender, served(hello) as other:
            for server in (lender, other):
                assert await asyncio.to_thread(ask, server.port, ["/", "/"]) == [200, 200]
            assert [server._driver._selector is not None for server in (lender, other)] == [True, False]
        assert not is_lent(loop)
        async with served(hello) as lender:
            assert is_lent(loop)
            assert await asyncio.to_thread(ask, lender.port, ["/"]) == [200]

    loop.run_until_complete(main())


def test_in_debug_mode_the_loop_watches_the_engine(loop):
    loop.set_debug(True)

    async def main():
        async with served(hello) as server:
            assert isinstance(loop._selector, EngineSelector) and not is_lent(loop)
            assert await asyncio.to_thread(ask, server.port, ["/"]) == [200]

    loop.run_until_complete(main())


def test_a_signal_ends_the_wait_and_the_loop_can_go_on(loop):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    async def main():
        async with served(hello) as server:
            threading.Timer(0.01, os.kill, [os.getpid(), signal.SIGUSR1]).start()
            ports.append(server.port)
            await is_over.wait()

    ports, is_over = [], asyncio.Event()
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        serving = loop.create_task(main())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(serving)
        assert is_lent(loop)
        assert loop.run_until_complete(asyncio.wait_for(asyncio.to_thread(ask, ports[0], ["/"]), 20)) == [200]
        is_over.set()
        loop.run_until_complete(serving)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_loop_that_the_application_has_set_up_stays_as_it_is(monkeypatch):
    def handles(loop, context):
        raise AssertionError

    def set_up(selector):
        made = asyncio.SelectorEventLoop(selector)
        made.set_exception_handler(handles)
        return made

    for kind, is_ours in ((selectors.EpollSelector, EngineSelector), (selectors.PollSelector, selectors.PollSelector)):
        monkeypatch.setattr(asyncio, "new_event_loop", lambda kind=kind: set_up(kind()))
        with contextlib.closing(loop_factory("asyncio")()) as loop:
            assert (loop.get_exception_handler(), type(loop._selector)) == (handles, is_ours)
            assert loop.run_until_complete(asyncio.sleep(0, "done")) == "done"
