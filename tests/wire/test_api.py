"""The Python side: Server by name, its calls from other threads and signal handlers, `kacore.run`, `kacore.serving`."""

import asyncio
import signal
import threading
import urllib.error
import urllib.request

import pytest

import kacore
from tests.wire.conftest import Client, wait_until


async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/slow":
        await asyncio.sleep(0.1)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def fetch(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read()


# --- from other threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_shutdown_from_another_thread_ends_the_server(start, loop):
    running = start(app, loop=loop)
    running.server.shutdown(hurry=True)
    assert running.server.is_ending
    running._thread.join(20)
    assert not running._thread.is_alive()
    running.server.shutdown()  # nobody is there any more


def test_a_second_shutdown_from_another_thread_ends_it_at_once(start, client):
    running = start(app, policy=kacore.Policy(drain_timeout=60))
    busy = client(running).send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET /slow HTTP/1.1\r\n")
    wait_until(lambda: running.phase_count("busy") == 1)
    running.server.shutdown()
    running.server.shutdown()
    running._thread.join(20)
    assert not running._thread.is_alive()
    busy.close()


def test_a_server_that_was_told_to_end_before_it_began_does_not_serve():
    server = kacore.Server(app, port=0)
    server.shutdown()
    asyncio.run(server.serve(handle_signals=False))


def test_a_policy_from_another_thread_is_in_force_when_the_call_returns(start, client):
    running = start(app, policy=kacore.Policy(keep_alive_timeout=60))
    c = client(running)
    c.get()
    running.server.set_policy(kacore.Policy(keep_alive_timeout=0.05))
    assert running.server.policy.keep_alive_timeout == 0.05
    assert c.is_closed()  # the server was asleep, and had nothing to do for a minute


def test_errors_of_a_call_from_another_thread_are_the_callers(start):
    running = start(app, policy=kacore.Policy(max_connections=10))
    with pytest.raises(kacore.UsageError, match="policy='a policy'"):
        running.server.set_policy("a policy")  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        running.server._calls.ask(lambda: 1 // 0)
    assert running.server.policy.max_connections == 10


def test_calls_of_many_threads_while_it_serves_and_ends(start, client):
    running = start(app)
    policies = [kacore.Policy(keep_alive_timeout=n) for n in range(5, 9)]
    stop = threading.Event()

    def steer(policy):
        while not stop.is_set():
            running.server.set_policy(policy)
            running.server.reload_certificates()

    threads = [threading.Thread(target=steer, args=(policy,)) for policy in policies]
    for thread in threads:
        thread.start()
    c = client(running)
    for _ in range(50):
        assert c.get().status == 200
    c.close()
    running.server.shutdown(hurry=True)
    running._thread.join(20)
    stop.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


SIGNALLED = """
import asyncio, signal, sys
import kacore
from kacore.server.loops import loop_factory

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body"})

server = kacore.Server(app, port=0, lifespan="off")
signal.signal(signal.SIGUSR1, lambda *_: server.shutdown(hurry=True))
signal.signal(signal.SIGUSR2, lambda *_: server.set_policy(kacore.Policy(keep_alive_timeout=0.05)))

async def main():
    serving = asyncio.create_task(server.serve(handle_signals=False))
    await server.started()
    print("at", server.url, flush=True)
    await serving

with asyncio.Runner(loop_factory=loop_factory(sys.argv[1])) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_calls_from_signal_handlers_wake_a_loop_that_sleeps(launch, client, tmp_path, loop):
    (tmp_path / "main.py").write_text(SIGNALLED)
    child = launch("main.py", loop, ready="at http")
    child.url = child.wait_for(r"http://[\d.]+:\d+")[0]
    c = client(child)
    c.get()
    child.send_signal(signal.SIGUSR2)
    assert c.is_closed()
    assert child.stop(signal.SIGUSR1) == 0


# --- run ----------------------------------------------------------------------------------------------------

APPLICATION = """
import os

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})

def make():
    return app
"""
MAIN = """
import kacore
if __name__ == "__main__":
    try:
        kacore.run({arguments}, port=0, lifespan="off")
    finally:
        print("behind it", flush=True)
"""


@pytest.mark.parametrize(
    "arguments",
    ["'named:app'", "'named:make', factory=True", "named.app", "named.make, factory=True", "'named', interface='asgi'"],
)
def test_run_serves_until_it_is_told_to_end(launch, tmp_path, arguments):
    (tmp_path / "named.py").write_text(APPLICATION)
    (tmp_path / "main.py").write_text("import named\n" + MAIN.format(arguments=arguments))
    # Where the suite keeps directories of scripts off the path, this script's own is wanted.
    child = launch("main.py", ready=r"serves ASGI on http://[\d.]+:\d+", PYTHONSAFEPATH="")
    child.url = child.wait_for(r"http://[\d.]+:\d+")[0]
    assert fetch(child.url) == str(child.pid).encode()
    assert child.stop() == 0
    assert child.text.count("behind it") == 1


@pytest.mark.parametrize("more", ["workers=2", "reload=True", "max_requests_per_worker=1000"])
def test_run_with_workers_returns_in_the_parent_only(launch, tmp_path, more):
    (tmp_path / "named.py").write_text(APPLICATION)
    (tmp_path / "main.py").write_text(MAIN.format(arguments=f"'named:app', {more}"))
    child = launch("main.py", ready=r"http://[\d.]+:\d+")
    child.url = child.wait_for(r"http://[\d.]+:\d+")[0]
    assert int(fetch(child.url)) != child.pid
    assert child.stop() == 0
    assert child.text.count("behind it") == 1


def test_a_worker_that_cannot_start_ends_run_with_its_reason(launch, tmp_path):
    (tmp_path / "named.py").write_text("")
    (tmp_path / "main.py").write_text(MAIN.format(arguments="'named:app', workers=2"))
    child = launch("main.py")
    assert child.wait() not in (0, None)
    assert "'named' has no 'app'" in child.text
    assert child.text.count("behind it") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 2}, 'need the application as "module:name"'),
        ({"reload": True}, 'need the application as "module:name"'),
        ({"log_level": "loud"}, "log_level='loud': must be one of"),
        ({"port": -1, "log_level": None}, "port=-1"),
    ],
)
def test_what_run_cannot_do_it_says(options, message):
    with pytest.raises(kacore.UsageError, match=message):
        kacore.run(app, **options)


def test_sockets_are_not_shared_among_workers():
    with pytest.raises(kacore.UsageError, match="workers share addresses"):
        kacore.run("a:b", workers=2, sockets=[], log_level=None)


# --- serving ------------------------------------------------------------------------------------------------


def test_serving_is_ready_on_entry_and_gone_on_exit(io):
    with kacore.serving(app, io=io) as server:
        assert server.url == f"http://127.0.0.1:{server.port}"
        assert fetch(server.url + "/here") == b"/here"
    with pytest.raises(urllib.error.URLError):
        fetch(server.url)


def test_serving_answers_what_is_in_progress_before_it_ends(io):
    with kacore.serving(app, io=io) as server:
        c = Client(server.port).send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: server.stats()["requests"] == 1)
    try:
        assert c.response().body == b"/slow"
    finally:
        c.close()


def test_two_at_once_and_inside_a_running_loop():
    async def main():
        with kacore.serving(app) as one, kacore.serving(app, loop="asyncio") as two:
            assert one.port != two.port
            found = await asyncio.gather(*(asyncio.to_thread(fetch, f"{it.url}/{it.port}") for it in (one, two)))
            assert found == [f"/{it.port}".encode() for it in (one, two)]

    asyncio.run(main())


def test_what_keeps_it_from_serving_is_raised(tmp_path):
    async def fails(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(kacore.UsageError, match="no database"), kacore.serving(fails):
        pytest.fail("it does not serve")
    with kacore.serving(app) as server, pytest.raises(kacore.UsageError), kacore.serving(app, port=server.port):
        pytest.fail("the port is taken")


def test_an_error_inside_the_block_goes_on_and_the_server_ends():
    with pytest.raises(ZeroDivisionError), kacore.serving(app) as server:
        raise ZeroDivisionError
    assert server.is_ending


def test_a_server_takes_an_application_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "named_for_server.py").write_text(APPLICATION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with kacore.serving("named_for_server:app") as server:
        assert fetch(server.url)
    with pytest.raises(kacore.UsageError, match="no module"):
        kacore.Server("nowhere_at_all:app")
