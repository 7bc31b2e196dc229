"""ClientPools and Replay: requests of a log become connections, and connections meet a table in virtual time."""

import math
import random

import pytest

from kacore import ConnectionTable
from kacore._core import ClientPools, Replay

NEVER = 1e9


def table_with(timeout, room=1 << 20, **fields):
    fields = {"pressure_start": 1.0, "pressure_full": 1.0, "max_connection_age": 0, **fields}
    return ConnectionTable(keep_alive_timeout=timeout, max_connections=room, seed=1, **fields)


def played(records, replays, *, edges=(NEVER,), batch=None, **options):
    """What the pools are after these records; all replays have played them."""
    pools = ClientPools(list(edges), **options)
    batch = batch or len(records) or 1
    for k in range(0, len(records), batch):
        pools.feed(records[k : k + batch])
        for replay in replays:
            replay.play(pools)
    pools.finish()
    for replay in replays:
        replay.play(pools)
        replay.table.check()
    return pools


def reused_at(pools, edges, timeout):
    return sum(pools.gaps()[0][: edges.index(timeout) + 1])


def mean_at(pools, edges, timeout):
    _, idled, idle = pools.gaps()
    at = edges.index(timeout) + 1
    return (pools.busy + sum(idle[:at]) + timeout * sum(idled[at:])) / (pools.ended - pools.begun)


def log_of(draw, n, n_clients, rate, durations):
    """n requests of clients of whom some come often, in the order of time."""
    at, records = 0.0, []
    for _ in range(n):
        at += draw.expovariate(rate)
        client = b"10.0.0.%d" % min(n_clients, int(draw.paretovariate(0.7)))
        records.append((at, draw.expovariate(1 / durations) if durations else 0.0, client))
    return records


# -- requests become connections --


def test_a_client_takes_the_connection_that_it_used_last():
    edges = [1.5, 3.5]
    records = [(0.0, 2.0, b"a"), (1.0, 2.0, b"a"), (4.0, 0.0, b"a"), (4.4, 0.0, b"a")]
    pools = played(records, [], edges=edges)
    assert pools.n_connections == 2
    reused, idled, idle = pools.gaps()
    assert reused == [2, 0, 0]  # after 1.0 and 0.4 s, both on the second one
    assert idled == [3, 1, 0]  # and those that the log's end found idle: that one for 0 s, the first one for 2.4 s
    assert idle == pytest.approx([1.4, 2.4, 0.0])


def test_requests_that_overlap_have_connections_of_their_own_and_those_that_touch_do_not():
    touching = [(0.0, 1.0, b"a"), (1.0, 1.0, b"a"), (2.0, 1.0, b"a")]
    overlapping = [(0.0, 1.1, b"a"), (1.0, 1.1, b"a"), (2.0, 1.1, b"a")]
    assert played(touching, []).n_connections == 1
    assert played(overlapping, []).n_connections == 2


def test_a_client_with_enough_connections_waits_for_one():
    records = [(0.0, 2.0, b"a"), (0.5, 2.0, b"a"), (1.0, 3.0, b"a"), (1.0, 0.0, b"b")]
    pools = played(records, [], per_client=1)
    assert (pools.n_connections, pools.n_requests, pools.ended, pools.busy) == (2, 4, 7.0, 7.0)
    assert played(records, [], per_client=2).ended == 5.0


def test_requests_that_overlap_share_a_connection_over_http_2():
    records = [(0.0, 3.0, b"a"), (1.0, 1.0, b"a"), (1.5, 0.0, b"a"), (2.0, 4.0, b"a"), (8.0, 1.0, b"a"), (20.0, 0.0, b"a")]
    edges = [1.0, 5.0]
    replays = [Replay(table_with(timeout)) for timeout in edges]
    pools = played(records, replays, edges=edges, shares=True)
    assert (pools.n_connections, pools.ended) == (1, 20.0)
    assert pools.gaps()[0] == [3, 1, 1]  # three at once, after 2 s and after 11 s
    assert [replay.n_reused for replay in replays] == [3, 4]
    assert [replay.table.stats()["requests"] for replay in replays] == [6, 6]


def test_requests_within_one_second_are_simultaneous_when_a_log_knows_no_better():
    records = [(0.1, 0.0, b"a"), (0.5, 0.0, b"a"), (0.9, 0.0, b"a"), (2.0, 0.0, b"a")]
    assert played(records, [], whole=True, per_client=2).n_connections == 2
    assert played(records, [], whole=True, per_client=6).n_connections == 3
    assert played(records, [], whole=True, per_client=1).n_connections == 1


def test_all_requests_are_those_of_one_client_when_it_is_so():
    records = [(0.0, 0.0, b"a"), (1.0, 0.0, b"b"), (2.0, 0.0, b"c")]
    pools = played(records, [], is_one=True)
    assert (pools.n_clients, pools.n_connections) == (1, 1)


def test_a_time_before_the_last_counts_as_the_last():
    pools = played([(5.0, 0.0, b"a"), (3.0, 0.0, b"a"), (6.0, 0.0, b"a")], [], edges=[0.5, 1.5])
    assert pools.gaps()[0] == [1, 1, 0]
    assert (pools.begun, pools.ended) == (5.0, 6.0)


def test_clients_that_stay_away_are_forgotten_when_there_are_very_many():
    pools = ClientPools([5.0])
    pools.feed([*((0.0, 0.0, b"%d" % k) for k in range(100_001)), (10.0, 0.0, b"kept")])
    pools.feed([(10.0, 0.0, b"0"), (10.0, 0.0, b"kept")])
    assert pools.n_clients == 100_003
    assert pools.n_connections == 100_003
    assert pools.gaps()[0] == [1, 0]


@pytest.mark.parametrize("edges", [[], [0.0], [2.0, 1.0], [1.0, 1.0], [math.nan], [1e10]])
def test_edges_that_do_not_rise_are_refused(edges):
    with pytest.raises(ValueError, match=r"^edges="):
        ClientPools(edges)


@pytest.mark.parametrize("record", [(math.nan, 0.0, b"a"), (math.inf, 0.0, b"a")])
def test_a_time_that_is_none_is_refused(record):
    with pytest.raises(ValueError, match="now="):
        ClientPools([1.0]).feed([record])


# -- the table --


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("durations", "options"),
    [(0.0, {}), (0.4, {}), (0.4, {"per_client": 2}), (0.0, {"shares": True}), (0.4, {"shares": True})],
)
def test_the_gaps_say_of_every_timeout_what_the_table_does(seed, durations, options):
    records = log_of(random.Random(seed), 3000, 40, 5.0, durations)
    edges = [0.5, 2.0, 5.0, 30.0, 300.0]
    replays = {timeout: Replay(table_with(timeout)) for timeout in edges}
    pools = played(records, list(replays.values()), edges=edges, batch=700, watched=edges, **options)
    for timeout, replay in replays.items():
        assert replay.n_requests == pools.n_requests == 3000
        assert replay.n_reused == reused_at(pools, edges, timeout), timeout
        assert replay.mean == pytest.approx(mean_at(pools, edges, timeout)), timeout
    assert [replay.peak for replay in replays.values()] == pools.peaks()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("room", [3, 8, 20])
def test_with_limited_room_it_does_what_a_simple_model_does(seed, room):
    records = log_of(random.Random(seed), 2000, 60, 5.0, 0.0)
    replay = Replay(table_with(7.0, room))
    played(records, [replay])
    open_since, reused, evicted = {}, 0, 0  # one connection a client; the longest idle goes
    for at, _, client in records:
        for other, since in list(open_since.items()):
            if math.floor(at * 1e9) - math.ceil(since * 1e9) >= 7_000_000_000:
                del open_since[other]
        if client in open_since:
            reused += 1
            del open_since[client]
        elif len(open_since) == room:
            del open_since[next(iter(open_since))]
            evicted += 1
        open_since[client] = at
    assert (replay.n_reused, replay.n_evicted) == (reused, evicted)
    assert replay.peak == min(room, 60) or replay.peak < room


def test_a_request_that_finds_no_room_at_all_is_refused_and_counted():
    replay = Replay(table_with(60.0, 2))
    played([(0.0, 9.0, b"a"), (1.0, 9.0, b"b"), (2.0, 1.0, b"c"), (20.0, 1.0, b"c")], [replay])
    assert (replay.n_requests, replay.n_opened, replay.n_refused, replay.n_evicted) == (4, 3, 1, 1)
    assert replay.table.stats()["closed"]["rejected"] == 1


def test_a_connection_that_may_carry_no_more_requests_is_closed_by_the_policy():
    replay = Replay(table_with(60.0, max_keep_alive_requests=2))
    played([(float(k), 0.0, b"a") for k in range(6)], [replay])
    assert (replay.n_opened, replay.n_reused) == (3, 3)


def test_exponential_gaps_are_reused_as_the_closed_form_says():
    draw, at, n, mean_gap = random.Random(3), 0.0, 40_000, 20.0
    records = []
    for _ in range(n):
        at += draw.expovariate(1 / mean_gap)
        records.append((at, 0.0, b"a"))
    edges = [5.0, 20.0, 60.0]
    replays = {timeout: Replay(table_with(timeout)) for timeout in edges}
    pools = played(records, list(replays.values()), edges=edges, batch=5000)
    for timeout, replay in replays.items():
        share = 1 - math.exp(-timeout / mean_gap)
        assert reused_at(pools, edges, timeout) / n == pytest.approx(share, abs=0.01)
        assert replay.mean == pytest.approx(share, abs=0.01)  # E min(gap, T) / E gap


def test_pareto_gaps_are_reused_as_the_closed_form_says():
    draw, at, n, shape = random.Random(4), 0.0, 40_000, 1.5
    records = []
    for _ in range(n):
        at += draw.paretovariate(shape)
        records.append((at, 0.0, b"a"))
    edges = [2.0, 10.0, 100.0]
    pools = played(records, [], edges=edges)
    for timeout in edges:
        assert reused_at(pools, edges, timeout) / n == pytest.approx(1 - timeout**-shape, abs=0.01)


# -- clients close, too --


def test_clients_that_close_first_are_never_closed_on_and_lose_nothing():
    replay = Replay(table_with(9.0), closes=5.0, window=0.1)
    played([(0.0, 0.0, b"a"), (5.5, 0.0, b"a"), (10.0, 0.0, b"a"), (40.0, 0.0, b"a")], [replay])
    stats = replay.table.stats()
    assert (replay.n_opened, replay.n_reused, replay.n_races) == (3, 1, 0)
    assert (stats["closed"]["client"], stats["closed"]["idle_timeout"]) == (2, 0)


def test_a_request_that_crosses_our_close_is_a_race_and_is_repeated_on_a_new_connection():
    replay = Replay(table_with(5.0), closes=60.0, window=0.1)
    played([(0.0, 0.0, b"a"), (5.05, 0.0, b"a"), (10.2, 0.0, b"a")], [replay])
    stats = replay.table.stats()
    assert (replay.n_races, stats["races"]) == (1, 1)
    assert (replay.n_opened, replay.n_reused) == (3, 0)
    assert stats["closed"]["idle_timeout"] == 2


def test_a_request_in_the_very_moment_of_our_close_finds_it_closed_and_is_no_race():
    replay = Replay(table_with(5.0), window=0.1)
    played([(0.0, 0.0, b"a"), (5.0, 0.0, b"a")], [replay])
    assert (replay.n_races, replay.n_opened, replay.n_reused) == (0, 2, 0)


def test_a_connection_that_was_closed_takes_its_place_until_the_client_has_seen_it():
    records = [(0.0, 0.0, b"a"), (5.5, 0.0, b"b"), (9.0, 0.0, b"c")]
    seen_at_once, seen_later = Replay(table_with(5.0)), Replay(table_with(5.0), window=1.0)
    played(records, [seen_at_once, seen_later])
    assert (seen_at_once.peak, seen_later.peak) == (2, 2)  # b and c
    assert seen_later.mean - seen_at_once.mean == pytest.approx(1.0 / 9.0)  # a for a second more


def test_a_table_that_is_in_use_and_times_that_are_none_are_refused():
    table = table_with(5.0)
    table.open(1.0)
    with pytest.raises(ValueError, match="has 1 connections, must have none"):
        Replay(table)
    with pytest.raises(ValueError, match=r"closes=-1\.0"):
        Replay(table_with(5.0), closes=-1.0)
