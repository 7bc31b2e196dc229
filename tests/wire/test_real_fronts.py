"""Real proxies in front of a server that learns their idle timeouts: the short form of `python tests/wire/real_fronts.py`."""

import asyncio
import logging

import pytest

import kacore
from tests.wire.conftest import wait_until
from tests.wire.real_fronts import FRONTS, SERVICE, answers, command, rounds

# From a tenth of the shortest of their timeouts, and never more room than what was learned needs.
LEARNS = kacore.Policy(keep_alive_min=0.1, pressure_start=0.0, pressure_full=1e-9)


async def slow(request):
    await asyncio.sleep(SERVICE / 4)
    return b"ok"


@pytest.mark.parametrize(
    ("io", "name"),
    [("epoll", "nginx"), ("transports", "nginx"), ("epoll", "haproxy"), ("epoll", "caddy"), ("epoll", "apache")],
    indirect=["io"],
)
def test_no_post_is_lost_at_a_fronts_timeout_once_it_is_learned(need, start, launch, free_port, tmp_path, caplog, name):
    caplog.set_level(logging.INFO, "kacore.error")
    front = FRONTS[name]._replace(timeout=1)
    need(front.program)
    running = start(slow, policy=LEARNS, forwarded_allow_ips="127.0.0.1")
    port = free_port()
    launch(*command(front, tmp_path, port=port, app=running.port), python=False)
    wait_until(lambda: answers(port))
    rounds(port, 1.0, 3, at_once=8)
    found = rounds(port, 1.0, 2, at_once=8, seed=2)
    assert found == [[200] * 8] * 2
    (learned,) = running.ask(lambda: running.server.learned())
    assert (learned["network"], learned["proxy"]) == ("127.0.0.1", True)
    if name in ("nginx", "caddy"):  # which close by their timeout and for nothing else
        assert 0.9 < learned["closes_after"] < 2.0
        assert learned["kept_for"] >= learned["closes_after"] * 1.25 + 5
        # On a busy machine it may not be three times that it was at about the same age.
        wait_until(lambda: ("127.0.0.1 closes idle connections after" in caplog.text) == learned["settled"])
