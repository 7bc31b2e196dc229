"""A log that is replayed on a real server reuses as many connections as its simulation says."""

import asyncio
import random

import pytest
from bench_replay import BODY, Replayed, policy_for, simulated

SPEEDS = 100.0, 50.0, 25.0
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


def replayed(start, records, timeout, room):
    """Return: the server, the replay, and the shares of requests that found their connection open, there and in the
    simulation, which gets the times when the replay came to send. A machine that holds both up is a client that is late and
    a server that is as late to close, and the last look finds the request: then it is played again, more slowly."""
    for speed in SPEEDS:
        running = start(lambda request: BODY, policy=policy_for(timeout, room, speed))
        replay = Replayed(records, running.port, speed)
        asyncio.run(asyncio.wait_for(replay.run(), 60))
        found = (replay.n_reused - replay.n_lost) / len(records)  # one that crosses a close is asked again
        said = simulated(replay.sent, policy_for(timeout, room))
        if abs(found - said) <= 3 * POINT:
            break
    return running, replay, found, said


def test_a_replayed_log_reuses_what_the_simulation_says(start):
    records = log_of(random.Random(1), 320, 40, 12.0, 60.0)
    running, replay, found, said = replayed(start, records, 30.0, 1000)
    n_reused = replay.n_reused - replay.n_lost
    stats = running.stats()
    assert stats["requests"] == len(records) == replay.n_opened + n_reused
    assert stats["reused"] == n_reused
    assert 0.5 < said < 0.9
    assert found == pytest.approx(said, abs=3 * POINT)


def test_with_limited_room_too(start):
    """Fewer places than clients: whose connection is closed for a newcomer is what the simulation says."""
    records = log_of(random.Random(3), 200, 20, 12.0, 60.0)
    running, _, found, said = replayed(start, records, 300.0, 12)
    assert running.closed("evicted") > 0
    # Two that come within a millisecond of the replay change places on a busy machine, and so does who is closed.
    assert found == pytest.approx(said, abs=3 * POINT)
