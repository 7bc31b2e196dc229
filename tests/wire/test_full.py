"""A full server still answers the next client, and one client cannot have it all."""

import time

from kacore import Policy
from tests.wire.conftest import wait_until


def ok(request):
    return b"ok"


def test_a_full_server_closes_the_longest_idle_and_answers_the_next_at_once(start, client):
    running = start(ok, policy=Policy(max_connections=20))
    idle = [client(running) for _ in range(20)]
    for c in idle:
        c.get()
    idle[0].get()  # now the second is the one that has been idle longest
    assert client(running).get().status == 200
    assert idle[1].is_closed()
    assert running.closed("evicted") == 1
    assert running.ask(lambda: len(running.table)) == 20
    for c in (idle[0], *idle[2:]):
        assert c.get().status == 200


def test_a_full_server_of_silent_newcomers_answers_the_next_at_once(start, client):
    running = start(ok, policy=Policy(max_connections=20))
    silent = [client(running) for _ in range(20)]
    wait_until(lambda: running.ask(lambda: len(running.table)) == 20)
    assert client(running).get().status == 200
    assert silent[0].is_closed()


def test_a_request_in_the_kernel_saves_the_victim(start, client):
    running = start(ok, policy=Policy(max_connections=3))
    idle = [client(running) for _ in range(3)]
    for c in idle:
        c.get()
    running.loop.call_soon_threadsafe(time.sleep, 0.1)
    time.sleep(0.02)
    newcomer = client(running)
    idle[0].send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    newcomer.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert idle[0].response().status == 200
    assert newcomer.response().status == 200
    assert idle[1].is_closed()


def test_nobody_who_is_served_is_closed_for_a_newcomer(start, client):
    import asyncio

    go_on = asyncio.Event()

    async def waits(request):
        await go_on.wait()
        return b"served"

    running = start(waits, policy=Policy(max_connections=3))
    busy = [client(running).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(3)]
    wait_until(lambda: running.phase_count("busy") == 3)
    newcomer = client(running).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    steps = running.n_rounds()
    time.sleep(0.1)
    assert running.n_rounds() - steps < 20  # no spinning on the listener
    running.loop.call_soon_threadsafe(go_on.set)
    for c in [*busy, newcomer]:
        assert c.response().body == b"served"


def test_a_burst_of_newcomers_is_served(start, client):
    running = start(ok, policy=Policy(max_connections=50))
    clients = [client(running) for _ in range(400)]
    for c in clients[-50:]:
        c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    for c in clients[-50:]:
        assert c.response().status == 200
    running.check()


def test_one_client_holds_no_more_than_its_share(start, client):
    running = start(ok, policy=Policy(max_connections_per_client=3))
    held = [client(running) for _ in range(3)]
    for c in held:
        assert c.get().status == 200
    response = client(running).response()
    assert (response.status, response.get("connection")) == (503, "close")
    wait_until(lambda: running.closed("client_limit") == 1)
    held[0].close()
    wait_until(lambda: running.ask(lambda: len(running.table)) == 2)
    assert client(running).get().status == 200


def test_half_heads_stay_within_the_buffers_of_the_policy(start, client):
    cap = 2 << 20
    running = start(ok, policy=Policy(max_buffer_bytes=cap, max_connections=1000))
    half = ("GET / HTTP/1.1\r\nHost: a\r\n" + "X: " + "y" * 15000 + "\r\n" + "Z: " + "y" * 15000).encode()
    clients = [client(running) for _ in range(150)]
    for c in clients:
        try:
            c.send(half)
        except OSError:
            pass
    time.sleep(0.05)
    stats = running.stats()
    assert stats["engine"]["buffer_bytes"] <= cap
    assert stats["closed"]["buffer_limit"] > 0
    assert client(running).get().status == 200


def test_out_of_descriptors_the_server_goes_on_by_closing_the_idle(launch, tmp_path, client):
    import resource
    import sys

    (tmp_path / "app.py").write_text("def app(request):\n    return b'ok'\n")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64));"
        "from kacore.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 200
    assert sys.platform == "linux"
    child = launch("-c", code, "serve", "app:app", "--port", "0", "--max-connections", "1000")
    child.url = child.wait_for(r"http://[^\s/]+:[1-9][0-9]*")[0]
    for _ in range(150):
        assert client(child).get().status == 200
    assert child.stop() == 0, child.text
    assert "Traceback" not in child.text
