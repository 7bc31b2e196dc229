"""A full server still answers the next client, and one client cannot have it all."""

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
    with running.held():
        newcomer = client(running)
        idle[0].send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        newcomer.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert idle[0].response().status == 200
    assert newcomer.response().status == 200
    assert idle[1].is_closed()


def test_what_came_of_a_victim_is_read_before_its_place_is_taken(over, client):
    running, connect = over(ok, policy=Policy(max_connections=3))
    idle = [connect() for _ in range(3)]
    for c in idle:
        c.get()
    with running.held():
        client(running)
        idle[0].send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert idle[0].response().status == 200
    assert idle[1].is_closed()
    assert running.closed("evicted") == 1


def test_a_burst_of_newcomers_is_served(start, client):
    running = start(ok, policy=Policy(max_connections=50))
    clients = [client(running) for _ in range(400)]
    for c in clients[-50:]:
        c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    for c in clients[-50:]:
        assert c.response().status == 200
    running.check()


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
    wait_until(lambda: running.closed("buffer_limit") > 0)
    assert running.stats()["engine"]["buffer_bytes"] <= cap
    assert client(running).get().status == 200
