"""What an ASGI application may expect of asyncio: a real current task, cancellation, timeouts, context variables of its
own. The server runs most requests without a Task made for them; none of this may show it."""

import asyncio
import contextvars
import http.client
import json
import logging
import signal
import sys

import anyio
import pytest
import sniffio

import kacore

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
KEPT: dict[object, str] = {}  # objects keyed by the current task, as scoped sessions of databases keep them
DONE: list[str] = []


async def plain():
    return "finished at once"


async def with_timeout():
    async with asyncio.timeout(5):
        await asyncio.sleep(0)
    return "in time"


async def timed_out():
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(5)
    except TimeoutError:
        return "timed out"


async def waits_for():
    try:
        await asyncio.wait_for(asyncio.sleep(5), 0.01)
    except TimeoutError:
        return "timed out"


async def task_group():
    async with asyncio.TaskGroup() as group:
        first = group.create_task(asyncio.sleep(0, "a"))
        second = group.create_task(asyncio.sleep(0.001, "b"))
    return first.result() + second.result()


async def failing_group():
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            await asyncio.sleep(5)
    except* ZeroDivisionError:
        pass
    return "group failed"


async def fail():
    raise ZeroDivisionError


async def cancels_itself_and_recovers():
    task = asyncio.current_task()
    task.cancel()
    try:
        await asyncio.sleep(5)
    except asyncio.CancelledError:
        task.uncancel()
        return "recovered"
    return "was not cancelled"


async def cancels_itself_and_never_waits():
    asyncio.current_task().cancel()
    return "finished"


async def cancelled_from_outside():
    task = asyncio.current_task()
    asyncio.get_running_loop().call_later(0.005, task.cancel)
    try:
        await asyncio.sleep(5)
    except asyncio.CancelledError:
        return "cancelled"


async def cancels_what_it_waits_for():
    inner = asyncio.ensure_future(asyncio.sleep(5))
    asyncio.current_task().cancel()
    try:
        await inner
    except asyncio.CancelledError:
        return f"inner cancelled: {inner.cancelled()}"


async def names_itself():
    asyncio.current_task().set_name("mine")
    return "named"


async def tells_its_name():
    return "mine" if asyncio.current_task().get_name() == "mine" else "not mine"


async def keeps_an_object():
    KEPT[asyncio.current_task()] = "secret"
    return "kept"


async def looks_for_the_object():
    return KEPT.get(asyncio.current_task(), "nothing")


async def has_a_done_callback():
    asyncio.current_task().add_done_callback(lambda _: DONE.append("called"))
    return "added"


async def spawns_a_task_that_outlives_it():
    asyncio.get_running_loop().create_task(append_later(), name="outlives")
    return "spawned"


async def append_later():
    await asyncio.sleep(0.001)
    DONE.append("outlived")


async def keeps_its_context_over_a_suspension():
    VARIABLE.set("mine")
    task = asyncio.current_task()
    await asyncio.sleep(0.001)
    return f"{VARIABLE.get()}, {asyncio.current_task() is task}"


async def sleeps_zero():
    task = asyncio.current_task()
    for _ in range(3):
        await asyncio.sleep(0)
    return str(asyncio.current_task() is task)


async def cancels_itself_and_takes_it_back():
    task = asyncio.current_task()
    task.cancel()
    return f"{task.cancelling()} {task.uncancel()}"


async def shields_what_it_waits_for():
    inner = asyncio.ensure_future(asyncio.sleep(0.005, "slept"))
    asyncio.current_task().cancel()
    try:
        await asyncio.shield(inner)
    except asyncio.CancelledError:
        asyncio.current_task().uncancel()
    return await inner


async def gathers():
    return "".join(await asyncio.gather(asyncio.sleep(0, "a"), asyncio.sleep(0.001, "b")))


async def finds_no_task_in_a_callback():
    seen = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: seen.set_result(asyncio.current_task()))
    return str(await seen)


async def is_one_of_all_tasks():
    return str(asyncio.current_task() in asyncio.all_tasks())


async def resets_a_variable():
    token = VARIABLE.set("inner")
    await asyncio.sleep(0)
    VARIABLE.reset(token)
    return VARIABLE.get()


async def children_inherit_its_context():
    VARIABLE.set("parent")
    return await asyncio.create_task(tells_the_variable())


async def tells_the_variable():
    return VARIABLE.get()


async def moves_on():
    with anyio.move_on_after(0.01) as scope:
        await anyio.sleep(5)
    return f"cancelled: {scope.cancelled_caught}"


async def scope_cancelled_before_it_waits():
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anyio.sleep(5)
    return f"cancelled: {scope.cancelled_caught}"


async def scope_without_waiting():
    with anyio.fail_after(5):
        pass
    return str(anyio.get_current_task().id == id(asyncio.current_task()))


async def anyio_group():
    found = []

    async def child(what):
        await anyio.sleep(0.001)
        found.append(what)

    async with anyio.create_task_group() as group:
        group.start_soon(child, "a")
        group.start_soon(child, "b")
    return "".join(sorted(found))


async def cancelled_anyio_group():
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 5)
        await anyio.sleep(0)
        group.cancel_scope.cancel()
    return "left"


async def works_in_a_thread():
    return await anyio.to_thread.run_sync(lambda: anyio.from_thread.run_sync(sniffio.current_async_library))


async def knows_its_library():
    return sniffio.current_async_library()


async def cancels_the_tasks_that_wait_for_requests():
    """As whoever cancels all tasks does. The server is to go on with others."""
    waiting = [task for task in asyncio.all_tasks() if type(task.get_coro()).__name__ == "Carrier"]
    for task in waiting:
        if task is not asyncio.current_task():
            task.cancel()
    return "cancelled them"


PROBES = {
    plain: "finished at once",
    with_timeout: "in time",
    timed_out: "timed out",
    waits_for: "timed out",
    task_group: "ab",
    failing_group: "group failed",
    cancels_itself_and_recovers: "recovered",
    cancels_itself_and_never_waits: "finished",
    cancelled_from_outside: "cancelled",
    cancels_what_it_waits_for: "inner cancelled: True",
    names_itself: "named",
    tells_its_name: "not mine",
    keeps_an_object: "kept",
    looks_for_the_object: "nothing",
    has_a_done_callback: "added",
    spawns_a_task_that_outlives_it: "spawned",
    keeps_its_context_over_a_suspension: "mine, True",
    sleeps_zero: "True",
    cancels_itself_and_takes_it_back: "1 0",
    shields_what_it_waits_for: "slept",
    gathers: "ab",
    finds_no_task_in_a_callback: "None",
    is_one_of_all_tasks: "True",
    resets_a_variable: "/resets_a_variable",
    children_inherit_its_context: "parent",
    moves_on: "cancelled: True",
    scope_cancelled_before_it_waits: "cancelled: True",
    scope_without_waiting: "True",
    anyio_group: "ab",
    cancelled_anyio_group: "left",
    works_in_a_thread: "asyncio",
    knows_its_library: "asyncio",
    cancels_the_tasks_that_wait_for_requests: "cancelled them",
}


async def app(scope, receive, send):
    assert scope["type"] == "http"
    probe = {one.__name__: one for one in [*PROBES, raises, exits]}[scope["path"][1:]]
    found = {"before": VARIABLE.get(), "task": isinstance(asyncio.current_task(), asyncio.Task)}
    VARIABLE.set(scope["path"])
    await receive()
    found["answer"] = await probe()
    body = json.dumps(found).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def raises():
    raise ZeroDivisionError("on purpose")


async def exits():
    raise SystemExit(3)


def loop_factories():
    yield asyncio.new_event_loop
    try:
        import uvloop
    except ImportError:
        return
    yield uvloop.new_event_loop


@pytest.fixture(params=list(loop_factories()), ids=lambda factory: factory.__module__.partition(".")[0])
def in_loop(request):
    """Run a coroutine function, given a running server, in each kind of loop."""

    def run(client, prepare=None):
        async def main():
            if prepare:
                prepare(asyncio.get_running_loop())
            server = kacore.Server(app, port=0)
            serving = asyncio.create_task(server.serve(handle_signals=False))
            await server.started()
            try:
                return await asyncio.to_thread(client, server), server
            finally:
                server.shutdown(hurry=True)
                await serving

        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(main())[0]

    return run


def ask(connection, name):
    connection.request("GET", f"/{name}")
    response = connection.getresponse()
    return response.status, response.read()


def test_every_probe_answers_as_with_a_task_of_its_own_and_leaves_nothing_to_the_next(in_loop):
    KEPT.clear()

    def client(server):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        for probe, expected in PROBES.items():
            for name, answer in ((probe.__name__, expected), ("plain", PROBES[plain])):
                status, body = ask(connection, name)
                assert (status, json.loads(body)) == (200, {"before": "unset", "task": True, "answer": answer})
        connection.close()

    in_loop(client)


def test_callbacks_on_oneself_and_tasks_that_outlive_a_request_are_run(in_loop):
    DONE.clear()

    def client(server):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        for name in ("has_a_done_callback", "spawns_a_task_that_outlives_it", "sleeps_zero", "timed_out"):
            assert ask(connection, name)[0] == 200
        connection.close()

    in_loop(client)
    assert sorted(DONE) == ["called", "outlived"]


def test_many_requests_at_once_each_keep_their_own_context(in_loop):
    def client(server):
        connections = [http.client.HTTPConnection("127.0.0.1", server.port) for _ in range(40)]
        for connection in connections:
            connection.request("GET", "/keeps_its_context_over_a_suspension")
        for connection in connections:
            assert json.loads(connection.getresponse().read())["answer"] == "mine, True"
            connection.close()

    in_loop(client)


def test_a_task_factory_of_the_users_sees_no_request(in_loop):
    """An eager one (Python 3.12) would run the application inside the server's own step."""
    seen = []

    def factory(loop, coroutine, **options):
        seen.append(coroutine.__qualname__)
        return asyncio.Task(coroutine, loop=loop, **options)

    def client(server):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        for name in ("plain", "sleeps_zero", "spawns_a_task_that_outlives_it"):
            assert ask(connection, name)[0] == 200
        connection.close()

    in_loop(client, lambda loop: loop.set_task_factory(factory))
    assert "append_later" in seen
    assert "app" not in seen


class EagerTasks:
    """asyncio.eager_task_factory, less the argument that uvloop passes and the first 3.13 do not take."""

    def __call__(self, loop, coroutine, name=None, context=None, **_):
        return asyncio.eager_task_factory(loop, coroutine, name=name, context=context)

    def __getattr__(self, name):  # anyio knows it by its code and its closure
        return getattr(asyncio.eager_task_factory, name)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio.eager_task_factory came with Python 3.12")
def test_every_probe_answers_the_same_where_tasks_begin_at_once(in_loop):
    """asyncio.eager_task_factory runs a new task at once, inside the one that makes it."""

    def client(server):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        for probe, expected in PROBES.items():
            for name, answer in ((probe.__name__, expected), ("plain", PROBES[plain])):
                status, body = ask(connection, name)
                assert (status, json.loads(body)) == (200, {"before": "unset", "task": True, "answer": answer})
        connection.close()

    in_loop(client, lambda loop: loop.set_task_factory(EagerTasks()))


def test_an_error_before_the_first_suspension_is_logged_and_answered(in_loop, caplog):
    def client(server):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        status, _ = ask(connection, "raises")
        assert status == 500
        connection.close()

    with caplog.at_level(logging.ERROR, "kacore.error"):
        in_loop(client)
    assert "ZeroDivisionError: on purpose" in caplog.text


def test_the_server_runs_requests_without_a_task_where_it_can(in_loop):
    """Else the tests above would show nothing of carriers."""
    stats = {}

    def client(server):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        for _ in range(5):
            ask(connection, "plain")
        connection.close()
        stats.update(server.stats()["tasks"])

    in_loop(client)
    assert stats["eager"] >= 5
    assert stats["tasks"] <= 1


@pytest.mark.parametrize("waits", ["", "    await asyncio.sleep(0)\n"], ids=["at_once", "after_a_suspension"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(("error", "code"), [("SystemExit(3)", 3), ("KeyboardInterrupt", -signal.SIGINT)])
def test_what_means_to_end_the_process_does(serve, tmp_path, need, error, code, loop, waits):
    if loop == "uvloop":
        need("module:uvloop")
    (tmp_path / "leaves.py").write_text(
        f"import asyncio\nasync def app(scope, receive, send):\n{waits}    raise {error}\n"
    )
    child = serve("leaves:app", "--lifespan", "off", "--loop", loop)
    connection = http.client.HTTPConnection(child.url.removeprefix("http://"))
    connection.request("GET", "/")
    if not waits:
        assert connection.getresponse().status == 500
    assert child.wait() == code
    connection.close()
