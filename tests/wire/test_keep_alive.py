"""Which connections are kept, and what the responses say about it (RFC 9112 section 9)."""

import pytest

from kacore import Policy, Response
from tests.wire.conftest import wait_until


def ok(request):
    return b"ok"


def closes(request):
    return Response(b"ok", headers=[("Connection", "close")])


def persistence(response):
    return response.get("connection"), response.get("keep-alive")


def test_http_1_1_is_kept_and_says_for_how_long(start, client):
    c = client(start(ok))
    for _ in range(3):
        assert persistence(c.get()) == ("keep-alive", "timeout=74")


def test_without_advertising_a_kept_http_1_1_response_says_nothing(start, client):
    c = client(start(ok, policy=Policy(advertise=False)))
    assert persistence(c.get()) == (None, None)
    assert c.is_open()
    assert persistence(c.get("/", "Connection: keep-alive", version="1.0")) == ("keep-alive", None)


@pytest.mark.parametrize(
    "fields",
    [
        ["Connection: close"],
        ["connection:CLOSE"],
        ["Connection: x, Close"],
        ["Connection: keep-alive", "Connection: close"],
        ["Connection: close", "Connection: keep-alive"],
        ["Connection: ,, close ,"],
        ["Connection: x\t,\tclose\t"],
    ],
)
def test_a_close_in_any_line_and_any_case_is_answered_by_a_close(start, client, fields):
    running = start(ok)
    c = client(running)
    response = c.get("/", *fields)
    assert persistence(response) == ("close", None)
    assert response.body == b"ok"
    assert c.is_closed()
    assert running.closed("client") == 1


@pytest.mark.parametrize("value", ["not-close", "closed", "close-not", "clo se", "xclose, closex", '"close"'])
def test_words_that_contain_close_close_nothing(start, client, value):
    c = client(start(ok))
    assert persistence(c.get("/", f"Connection: {value}")) == ("keep-alive", "timeout=74")
    assert c.is_open()


def test_http_1_0_is_closed_unless_it_asks(start, client):
    running = start(ok)
    c = client(running)
    assert persistence(c.get(version="1.0")) == ("close", None)
    assert c.is_closed()
    c = client(running)
    for _ in range(2):
        assert persistence(c.get("/", "Connection: Keep-Alive", version="1.0")) == ("keep-alive", "timeout=74")
    assert persistence(c.get("/", "Connection: keep-alive, close", version="1.0")) == ("close", None)
    assert c.is_closed()


def test_a_limit_of_five_counts_down_and_the_fifth_response_closes(start, client):
    running = start(ok, policy=Policy(max_keep_alive_requests=5, keep_alive_timeout=31))
    c = client(running)
    said = [persistence(c.get()) for _ in range(5)]
    assert said == [("keep-alive", f"timeout=30, max={n}") for n in (4, 3, 2, 1)] + [("close", None)]
    assert c.is_closed()
    c.close()
    wait_until(lambda: running.closed("max_requests") == 1)


def test_a_limit_of_one_closes_at_once(start, client):
    c = client(start(ok, policy=Policy(max_keep_alive_requests=1)))
    assert persistence(c.get()) == ("close", None)
    assert c.is_closed()


def test_pipelined_requests_count_against_the_limit(start, client):
    c = client(start(ok, policy=Policy(max_keep_alive_requests=5)))
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 9)
    said = [persistence(c.response())[0] for _ in range(5)]
    assert said == ["keep-alive"] * 4 + ["close"]
    assert c.is_closed()


def test_keep_alive_off_closes_every_response(start, client):
    running = start(ok, policy=Policy(keep_alive=False))
    c = client(running)
    assert persistence(c.get("/", "Connection: keep-alive")) == ("close", None)
    assert c.is_closed()
    c.close()
    wait_until(lambda: running.closed("policy") == 1)


def test_an_application_that_says_close_closes(start, client):
    running = start(closes)
    c = client(running)
    assert persistence(c.get()) == ("close", None)
    assert c.is_closed()
    c.close()
    wait_until(lambda: running.closed("application") == 1)


def test_another_policy_acts_on_open_connections(start, client):
    running = start(ok)
    c = client(running)
    assert persistence(c.get()) == ("keep-alive", "timeout=74")
    running.ask(lambda: running.server.set_policy(Policy(keep_alive_timeout=11)))
    assert persistence(c.get()) == ("keep-alive", "timeout=10")
    running.ask(lambda: running.server.set_policy(Policy(keep_alive=False)))
    assert persistence(c.get()) == ("close", None)


def test_a_timeout_too_short_to_promise_is_not_promised(start, client):
    c = client(start(ok, policy=Policy(keep_alive_timeout=1.5)))
    assert persistence(c.get()) == (None, None)
    assert c.is_open()
