"""keep_alive_timeout = "auto" in virtual time, against populations of real fronts, and against who would use it."""

import logging
import math
import re

import pytest
from fronts import FRONTS, Front, Simulation, compare

from kacore import ConnectionTable, Policy

HOUR = 3600.0


@pytest.fixture(scope="module", params=[60, 1000], ids="room for {}".format)
def runs(request):
    return request.param, compare(4 * HOUR, request.param)


def test_no_request_is_lost_that_need_not_be_after_a_networks_first(runs):
    _, found = runs
    for name in ("auto", "auto, no spare room"):
        assert found[name].avoidable_after_the_first(3900.0) == 0
    assert found["auto"].n_races <= found["75"].n_races < found["5"].n_races


def test_reuse_is_within_a_point_of_closing_nobody_before_the_place_is_needed(runs):
    _, found = runs
    best = found["never, the longest idle goes"].reuse
    assert found["auto"].reuse > best - 0.01
    assert found["auto"].reuse > found["600"].reuse > found["75"].reuse > found["5"].reuse + 0.2


def test_it_never_holds_more_than_max_connections(runs):
    room, found = runs
    for one in found.values():
        assert one.peak <= room
        one.table.check()


def test_every_front_with_a_timeout_is_kept_for_longer_than_that_and_shown():
    fronts = [front for front in FRONTS if front.keeps < math.inf]
    one = Simulation(Policy(pressure_start=0.0, pressure_full=1e-9, max_connection_age=0), fronts=fronts).run(12 * HOUR)
    shown = {entry["network"]: entry for entry in one.table.learned(one.now)}
    for source in one.sources:
        keeps = source.front.keeps
        if keeps * 1.25 + 5 > 75.0 and source.front.is_proxy:
            entry = shown[source.address]
            assert entry["kept_for"] >= min(keeps * 1.25 + 5, 3900.0)
            assert keeps <= entry["closes_after"] <= keeps + 0.2
            assert entry["proxy"]


def test_a_front_whose_timeout_was_changed_is_relearned_within_a_day():
    front = Front("changed", "10.0.0.1", 600.0)
    one = Simulation(Policy(pressure_start=0.0, pressure_full=1e-9, max_connection_age=0), fronts=[front])
    one.run(24 * HOUR)
    assert one.table.learned(one.now)[0]["kept_for"] >= 755.0
    front.keeps = 100.0
    begun = one.now
    while one.now < begun + 24 * HOUR:
        one.run(one.now + HOUR)
    (entry,) = one.table.learned(one.now)
    assert 100.0 <= entry["closes_after"] < 101.0
    assert 130.0 <= entry["kept_for"] < 165.0


# -- when room is short --


def idle_one(table, now, client, *, proxy=False):
    conn = table.open(now, client, proxy=proxy)
    table.head_done(conn, now)
    table.responded(conn, now)
    return conn


def taught(table, client, *, proxy=True, after=600.0, now=0.0):
    for _ in range(3):
        table.close(idle_one(table, now, client, proxy=proxy), "client", now + after)
        now += after
    return now


def test_in_a_flood_newcomers_take_the_places_of_those_who_are_kept_longest():
    table = ConnectionTable(max_connections=100)
    now = taught(table, "10.0.0.1")
    kept = [idle_one(table, now, "10.0.0.1", proxy=True) for _ in range(100)]
    newcomers = []
    for k in range(90):
        now += 0.001
        assert table.evict(now) == kept[k]
        newcomers.append(idle_one(table, now, f"192.0.2.{k}"))
    assert all(table.phase(conn) == "idle" for conn in newcomers)


def test_who_would_keep_many_places_by_teaching_pays_with_its_own():
    """What a client teaches is about its own network, and beyond client_share its own connections go first."""
    table = ConnectionTable(max_connections=100, client_share=0.25)
    others = [idle_one(table, 0.0, f"192.0.2.{k}") for k in range(40)]
    now = taught(table, "198.51.100.1", proxy=False, after=3000.0)
    for conn in others:
        table.touch(conn, now)
    mine = [idle_one(table, now + 1.0, "198.51.100.1") for _ in range(60)]
    for k in range(60 - 25):
        assert table.evict(now + 2.0) == mine[k]
        idle_one(table, now + 2.0, f"203.0.113.{k}")
    assert table.evict(now + 2.0) == others[0]
    kept = {entry["network"]: entry["kept_for"] for entry in table.learned(now)}
    assert kept == {"198.51.100.1": pytest.approx(3900.0)}


def test_who_comes_from_many_networks_makes_the_table_remember_no_more_than_it_has_places():
    table = ConnectionTable(max_connections=50)
    taught(table, "10.0.0.1")
    nbytes = None
    for k in range(3000):
        client = bytes([11, k >> 8, k & 255, 1])
        now = 1000.0 * (k + 2)
        table.close(idle_one(table, now, client), "client", now + 600.0)
        if k == 200:
            nbytes = table.nbytes
    table.check()
    assert table.nbytes == nbytes
    learned = table.learned(1e7)
    assert len(learned) == 51
    assert learned[0]["network"] == "10.0.0.1"


def test_addresses_are_shown_as_the_system_writes_them():
    table = ConnectionTable(max_connections=20)
    addresses = ["0.1.9.10", "11.99.100.101", "109.110.199.200", "249.250.254.255", "2001:db8:0:1::1"]
    for number, address in enumerate(addresses):
        taught(table, address, after=1000.0 * (number + 1))
    shown = [entry["network"] for entry in table.learned(1e7)]
    assert sorted(shown) == sorted([*addresses[:4], "2001:db8:0:1::"])


# -- told, and handed on --


def test_a_network_that_settles_is_told_once():
    told = []
    table = ConnectionTable()
    table.on_settled = told.append
    now = taught(table, "10.0.3.7", after=60.0)
    taught(table, "10.0.3.7", after=60.0, now=now)
    (entry,) = told
    assert (entry["network"], entry["closes_after"], entry["settled"]) == ("10.0.3.7", 60.0, True)
    assert entry["kept_for"] == 93.75


def test_the_log_has_a_line_for_a_proxy_and_few_for_many_clients(caplog):
    from kacore.server.learned import SettledLog

    caplog.set_level(logging.INFO)
    now = [0.0]
    log = SettledLog(logging.getLogger("settled-test"), clock=lambda: now[0])
    entry = {"network": "10.0.3.7", "proxy": True, "closes_after": 60.0, "kept_for": 80.0}
    log(entry)
    log(entry | {"network": "unix", "proxy": False})
    for k in range(100):
        now[0] += 1.0
        log(entry | {"network": f"192.0.2.{k}", "proxy": False})
    text = [record.getMessage() for record in caplog.records]
    assert text[0] == "10.0.3.7 closes idle connections after 60.0 s: kept for 80 s"
    assert text[1] == "the proxy on unix sockets closes idle connections after 60.0 s: kept for 80 s"
    assert len(text) == 12


def test_what_was_learned_can_be_taken_over():
    table, other = ConnectionTable(seed=1), ConnectionTable(seed=2)
    now = taught(table, "10.0.0.1")
    now = taught(table, None, after=300.0, proxy=False, now=now)
    taught(table, "2001:db8::5", proxy=False, after=400.0, now=now)
    said = table.learned(5000.0)
    other.learn(100.0, said)
    assert other.learned(100.0) == said
    assert [one["network"] for one in said] == ["unix", "10.0.0.1", "2001:db8::"]
    other.check()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (5, "5: must be an entry of learned()"),
        ({}, "network=None: must be an IP address as text, or 'unix'"),
        ({"network": "nobody"}, "client='nobody': must be an IP address"),
        ({"network": "10.0.0.1", "theirs": [1]}, "theirs=[1]: must be two numbers of seconds"),
        ({"network": "10.0.0.1", "theirs": [1, -2]}, "theirs=-2: must be a number from 0 to 4e+06"),
        ({"network": "10.0.0.1", "theirs": [1, float("nan")]}, "theirs=nan: must be a number from 0 to 4e+06"),
        ({"network": "10.0.0.1", "races": "many"}, "races='many': must be a number from 0 to 65535"),
    ],
)
def test_what_cannot_have_been_learned_is_refused(said, message):
    table = ConnectionTable()
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        table.learn(0.0, [said])
    table.check()


def test_what_is_saved_is_read_again_and_what_is_broken_is_not():
    from kacore.server.learned import packed, unpacked

    table, other = ConnectionTable(), ConnectionTable()
    now = 0.0
    for k in range(300):
        now = taught(table, f"10.0.{k // 100}.{k % 100}", now=now)
    data = packed(table.learned(now, 256), 1 << 16)
    other.learn(0.0, unpacked(data.ljust(1 << 16, b"\0")))
    assert len(other.learned(0.0)) == 256
    assert len(packed(table.learned(now), 4096)) <= 4096
    assert unpacked(b"") == unpacked(bytes(4096)) == []
    for cut in range(9, len(data), 997):
        with pytest.raises(ValueError, match="checksum"):
            unpacked(data[:cut])
