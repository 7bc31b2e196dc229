"""A log that is replayed on a real server reuses as many connections as its simulation says."""

import asyncio
import random

import pytest
from bench_replay import BODY, Replayed, policy_for, simulated

SPEED = 100.0
POINT = 0.01


def log_of(draw, n, n_clients, shorter, longer):
    """Requests whose gaps are clearly shorter or clearly longer than a timeout that lies between, so that a busy machine
    does not decide which."""
    begins = [draw.uniform(0, longer) for _ in range(n_clients)]
    records = []
    for client, at in enumerate(begins):
        for _ in range(n // n_clients):
            records.append((at, 0.0, b"10.0.0.%d" % client))
            at += draw.uniform(1, shorter) if draw.random() < 0.7 else draw.uniform(longer, longer * 1.2)
    return sorted(records)


def test_a_replayed_log_reuses_what_the_simulation_says(start):
    records = log_of(random.Random(1), 320, 40, 12.0, 60.0)
    running = start(lambda request: BODY, policy=policy_for(30.0, 1000, SPEED))
    replayed = Replayed(records, running.port, SPEED)
    asyncio.run(asyncio.wait_for(replayed.run(), 60))
    n_reused = replayed.n_reused - replayed.n_lost  # one that crosses a close on a busy machine is asked again
    said = simulated(replayed.sent, policy_for(30.0, 1000))
    stats = running.stats()
    assert stats["requests"] == len(records) == replayed.n_opened + n_reused
    assert stats["reused"] == n_reused
    assert 0.5 < said < 0.9
    assert n_reused / len(records) == pytest.approx(said, abs=3 * POINT)


def test_with_limited_room_too(start):
    """Fewer places than clients: whose connection is closed for a newcomer is what the simulation says."""
    records = log_of(random.Random(3), 200, 20, 12.0, 60.0)
    running = start(lambda request: BODY, policy=policy_for(300.0, 12, SPEED))
    replayed = Replayed(records, running.port, SPEED)
    asyncio.run(asyncio.wait_for(replayed.run(), 60))
    assert running.closed("evicted") > 0
    said = simulated(replayed.sent, policy_for(300.0, 12))
    # Two that come within a millisecond of the replay change places on a busy machine, and so does who is closed.
    assert (replayed.n_reused - replayed.n_lost) / len(records) == pytest.approx(said, abs=3 * POINT)
