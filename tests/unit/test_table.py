"""ConnectionTable in virtual time: what it promises, one sentence a test."""

import math
import random
from itertools import pairwise
from types import SimpleNamespace

import pytest

from kacore import ConnectionTable, LocalError, Policy, PolicySet, Rule


def idle_one(table, now, client=None):
    conn = table.open(now, client)
    table.head_done(conn, now)
    table.responded(conn, now)
    return conn


def busy_one(table, now, client=None):
    conn = table.open(now, client)
    table.head_done(conn, now)
    return conn


# -- time --


def test_idle_connection_expires_at_its_time_and_not_before():
    table = ConnectionTable(max_connections=4, keep_alive_timeout=5.0)
    conn = idle_one(table, 100.0)
    assert table.next_due() == 105.0
    assert table.expire(now=104.999) == []
    assert table.expire(now=105.0) == [conn]
    assert table.next_due() is None


@pytest.mark.parametrize(
    ("field", "phase", "events", "cause"),
    [
        ("handshake_timeout", "handshake", (), "handshake_timeout"),
        ("first_byte_timeout", "new", (), "first_byte_timeout"),
        ("request_header_timeout", "head", ("received",), "header_timeout"),
        ("request_body_timeout", "body", ("head_done", "body_wanted"), "body_timeout"),
        ("handler_timeout", "busy", ("head_done",), "handler_timeout"),
        ("send_timeout", "write", ("head_done", "blocked"), "send_timeout"),
        ("keep_alive_timeout", "idle", ("head_done", "responded"), "idle_timeout"),
    ],
)
def test_every_phase_ends_at_its_own_limit_and_not_a_nanosecond_before(field, phase, events, cause):
    table = ConnectionTable(Policy(**{field: 3.25}))
    conn = table.open(1000.0, tls=phase == "handshake")
    for event in events:
        getattr(table, event)(conn, 1000.0)
    assert table.phase(conn) == phase
    assert table.due(math.nextafter(1003.25, 0)) is None
    assert table.due(1003.25)[::2] == (conn, cause)
    assert table.expire(1003.25) == [conn]
    assert table.stats()["closed"][cause] == 1


def test_no_start_is_rounded_down_and_no_look_is_rounded_up():
    draw = random.Random(7)
    for _ in range(2000):
        table = ConnectionTable(first_byte_timeout=1.5)
        start, later = draw.uniform(0, 1e6), draw.uniform(0, 3)
        table.open(start)
        is_due = table.due(start + later) is not None
        waited_ns = math.floor((start + later) * 1e9) - math.ceil(start * 1e9)
        assert is_due == (waited_ns >= 1_500_000_000)


def test_asking_again_at_next_due_finds_who_is_due():
    draw = random.Random(8)
    for _ in range(2000):
        table = ConnectionTable(first_byte_timeout=draw.uniform(0.001, 100))
        conn = table.open(draw.uniform(0, 1e7))
        assert table.expire(table.next_due()) == [conn]


def test_a_mass_expiry_is_bounded_and_goes_on_in_the_next_step():
    table = ConnectionTable(max_connections=100, first_byte_timeout=5.0)
    conns = [table.open(i / 1000) for i in range(100)]
    assert table.expire(6.0, limit=64) == conns[:64]
    assert table.expire(6.0, limit=64) == conns[64:]


def test_a_clock_that_runs_backward_stands_still():
    table = ConnectionTable(keep_alive_timeout=5.0)
    conn = idle_one(table, 100.0)
    assert table.expire(104.0) == []
    table.touch(conn, 3.0)
    assert table.next_due() == 109.0


@pytest.mark.parametrize("now", [math.nan, math.inf, -math.inf, 1e300])
def test_a_time_that_is_none_is_refused_by_name_and_changes_nothing(now):
    table = ConnectionTable()
    conn = table.open(1.0)
    for call in (table.open, table.expire, table.due, table.evict, table.drain, lambda now: table.touch(conn, now),
                 lambda now: table.head_done(conn, now)):
        with pytest.raises(ValueError, match=r"^now="):
            call(now)
    assert (len(table), table.phase(conn), table.is_draining) == (1, "new", False)


def test_progress_in_the_head_does_not_extend_its_limit():
    table = ConnectionTable(request_header_timeout=20.0)
    conn = table.open(0.0)
    table.received(conn, 1.0)
    with pytest.raises(LocalError):
        table.received(conn, 10.0)
    assert table.next_due() == 21.0


# -- rates --


def test_a_trickler_is_caught_by_its_own_late_byte_though_the_application_takes_each_at_once():
    table = ConnectionTable(min_request_body_rate=240, rate_window=5.0, request_body_timeout=30.0)
    conn = busy_one(table, 0.0)
    verdicts = []
    for second in range(1, 7):
        table.body_wanted(conn, second - 1.0)
        verdicts.append(table.body_progress(conn, 1, float(second)))
        table.body_arrived(conn, float(second))
    assert verdicts == [None, None, None, None, "body_rate", "body_rate"]


def test_a_steady_client_at_the_rate_is_kept_and_one_just_under_it_is_not():
    for nbytes, verdict in ((240, None), (239, "send_rate")):
        table = ConnectionTable(min_send_rate=240, rate_window=5.0)
        conn = busy_one(table, 0.0)
        table.blocked(conn, 0.0)
        told = [table.write_progress(conn, nbytes, float(second)) for second in range(1, 6)]
        assert told == [None] * 4 + [verdict]


def test_time_the_application_takes_is_not_the_clients():
    table = ConnectionTable(min_request_body_rate=1000, rate_window=1.0)
    conn = busy_one(table, 0.0)
    for k in range(10):
        table.body_wanted(conn, 100.0 * k)
        assert table.body_progress(conn, 500, 100.0 * k + 0.5) is None
        table.body_arrived(conn, 100.0 * k + 0.5)


def test_bytes_restart_the_gap_of_a_linger_and_its_whole_time_ends_it_all_the_same():
    table = ConnectionTable(linger_timeout=2.0, linger_time=30.0)
    conn = table.open(0.0)
    table.lingering(conn, 100.0)
    assert table.next_due() == 102.0
    for tick in range(1, 30):
        assert table.linger_progress(conn, 1 << 30, 100.0 + tick) is None
        assert table.next_due() == 102.0 + tick
    assert table.linger_progress(conn, 1, 129.999) is None
    assert table.linger_progress(conn, 1, 130.002) == "error"


def test_a_silent_linger_ends_after_its_whole_time_where_that_is_shorter_than_the_gap():
    table = ConnectionTable(linger_timeout=5.0, linger_time=3.0)
    table.lingering(table.open(0.0), 10.0)
    assert table.next_due() == 13.0


def test_linger_ends_for_the_reason_it_began_for():
    table = ConnectionTable(linger_bytes=1000, linger_timeout=2.0)
    conn = table.open(0.0)
    table.received(conn, 0.0)
    assert table.decide(conn, 0.0, must_close="bad_request").cause == "bad_request"
    table.lingering(conn, 0.0)
    assert table.linger_progress(conn, 1000, 1.0) is None
    assert table.linger_progress(conn, 1, 1.0) == "bad_request"
    assert table.due(3.0) == (conn, "close", "bad_request")


# -- the decision --


def test_the_advertised_timeout_is_shorter_than_the_real_one_by_the_margin():
    table = ConnectionTable(keep_alive_timeout=75.0, max_keep_alive_requests=100)
    verdict = table.decide(busy_one(table, 0.0), 0.0)
    assert (verdict.keeps, verdict.cause) == (True, None)
    assert verdict.fields == ((b"connection", b"keep-alive"), (b"keep-alive", b"timeout=74, max=99"))
    assert (verdict.timeout, verdict.max) == (74, 99)


def test_a_promise_below_a_second_is_not_made():
    table = ConnectionTable(keep_alive_timeout=1.9, max_keep_alive_requests=9)
    assert table.decide(busy_one(table, 0.0), 0.0).fields == ()
    assert table.decide(busy_one(table, 0.0), 0.0, "1.0").fields == ((b"connection", b"keep-alive"),)


def test_a_client_that_asks_for_close_gets_it():
    table = ConnectionTable()
    verdict = table.decide(busy_one(table, 0.0), 0.0, client_persists=False)
    assert (verdict.keeps, verdict.cause, verdict.fields) == (False, "client", ((b"connection", b"close"),))


def test_the_last_allowed_request_closes():
    table = ConnectionTable(max_keep_alive_requests=2)
    conn = idle_one(table, 0.0)
    table.head_done(conn, 0.0)
    assert table.requests(conn) == 2
    assert table.decide(conn, 0.0).cause == "max_requests"


def test_old_connections_close_with_a_response_within_the_jitter_of_their_age():
    table = ConnectionTable(max_connection_age=3600.0, age_jitter=0.1, max_connections=1000)
    conns = [busy_one(table, 0.0) for _ in range(1000)]
    by_age = {age: sum(not table.decide(conn, float(age)).keeps for conn in conns) for age in (3239, 3600, 3961)}
    assert by_age[3239] == 0
    assert 400 < by_age[3600] < 600
    assert by_age[3961] == 1000


def test_no_connection_field_is_sent_on_http_2():
    table = ConnectionTable()
    conn = table.open(0.0)
    table.stream_opened(conn, 0.0)
    assert table.decide(conn, 0.0, "2").fields == ()
    assert table.decide(conn, 0.0, "2", must_close="drain").fields == ()


def test_an_equal_verdict_is_the_same_object_and_cannot_be_changed():
    table = ConnectionTable()
    conn = busy_one(table, 0.0)
    verdict = table.decide(conn, 0.0)
    assert verdict is table.decide(conn, 0.0)
    with pytest.raises(AttributeError):
        verdict.keeps = False


# -- misuse --


def test_a_stale_handle_is_refused_even_when_its_slot_is_taken_again():
    table = ConnectionTable()
    old = table.open(0.0)
    table.close(old)
    new = table.open(0.0)
    assert new & 0xFFFFFFFF == old & 0xFFFFFFFF
    for call in (lambda: table.close(old), lambda: table.touch(old, 1.0), lambda: table.received(old, 1.0),
                 lambda: table.decide(old, 1.0), lambda: table.phase(old), lambda: table.requests(old),
                 lambda: table.set_class(old, 0), lambda: table.body_progress(old, 1, 1.0), lambda: table.policy_class(old)):
        with pytest.raises(LocalError, match="stale"):
            call()
    assert (old in table, new in table) == (False, True)


@pytest.mark.parametrize("conn", [0, 1, 639, 640, 1 << 32, (1 << 64) - 1])
def test_a_number_that_was_never_a_handle_is_refused(conn):
    with pytest.raises(LocalError):
        ConnectionTable().touch(conn, 1.0)


def test_an_impossible_transition_names_the_phase_and_changes_nothing():
    table = ConnectionTable()
    conn = table.open(5.0)
    with pytest.raises(LocalError, match=r"responded: connection 0x.* is in phase new"):
        table.responded(conn, 7.0)
    assert table.phase(conn) == "new"
    assert table.next_due() == 35.0


def test_wrong_arguments_are_refused_by_name():
    table = ConnectionTable()
    conn = table.open(0.0)
    for match, call in (
        ("policy_class=1", lambda: table.open(0.0, policy_class=1)),
        ("client='nobody'", lambda: table.open(0.0, "nobody")),
        ("cause='boredom'", lambda: table.close(conn, "boredom")),
        ("cause='none'", lambda: table.close(conn, "none")),
        ("limit=0", lambda: table.expire(0.0, 0)),
        ("http_version='1.2'", lambda: table.decide(busy_one(table, 0.0), 0.0, "1.2")),
        ("grace=-1", lambda: table.drain(0.0, grace=-1)),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    assert conn in table


# -- room --


def full_table(**fields):
    return ConnectionTable(**{"max_connections": 8, "pressure_start": 1.0, "pressure_full": 1.0, **fields})


def test_a_full_table_gives_the_least_useful_connection_for_a_new_one():
    table = full_table(client_share=0.25)
    busy = busy_one(table, 0.0)
    tunnel = busy_one(table, 0.0)
    table.tunnelled(tunnel, 0.0)
    head = table.open(0.0)
    table.received(head, 0.5)
    new = table.open(0.0)
    longest_idle = idle_one(table, 1.0)
    greedy = [idle_one(table, 2.0 + k, "192.0.2.1") for k in range(3)]
    assert (table.is_full, table.open(9.0)) == (True, 0)
    lingering = greedy[1]
    table.lingering(lingering, 9.0)
    order = [table.evict(10.0) for _ in range(8)]
    assert order == [lingering, longest_idle, greedy[0], greedy[2], new, head, 0, 0]
    assert (table.phase(busy), table.phase(tunnel)) == ("busy", "tunnel")
    assert table.stats()["closed"]["evicted"] == 6


def test_a_client_over_its_share_makes_room_before_the_longest_idle_one():
    table = full_table(client_share=0.25)
    longest_idle = idle_one(table, 0.0)
    greedy = [idle_one(table, 1.0 + k, "192.0.2.1") for k in range(3)]
    assert [table.evict(9.0) for _ in range(2)] == [greedy[0], longest_idle]


def test_a_short_idleness_is_spared_while_somebody_else_can_go_but_no_longer():
    table = full_table(min_idle_before_evict=5.0)
    idle = idle_one(table, 10.0)
    new = table.open(11.0)
    head = table.open(11.0)
    table.received(head, 11.0)
    assert [table.evict(12.0) for _ in range(3)] == [new, idle, head]


def sending(table, now, client=None):
    conn = busy_one(table, now, client)
    table.body_wanted(conn, now)
    return conn


def taking(table, now, client=None):
    conn = busy_one(table, now, client)
    table.blocked(conn, now)
    return conn


def test_a_server_full_of_slow_bodies_gives_them_up_after_a_rate_window_and_no_fast_one():
    table = full_table(rate_window=5.0, min_rate_when_full=4096)
    slow = [sending(table, 0.0) for _ in range(4)]
    fast = [sending(table, 0.0) for _ in range(4)]
    for second in range(1, 16):
        now = float(second)
        for conn in slow:
            assert table.body_progress(conn, 300, now) is None
        for conn in fast:
            table.body_progress(conn, 5000, now)
        assert table.victim(now + 0.5) == (slow[0] if now + 0.5 > 5 else 0)
    assert [table.evict(15.5) for _ in range(5)] == [*slow, 0]
    assert [table.phase(conn) for conn in fast] == ["body"] * 4


def test_who_reads_nothing_of_a_response_goes_after_one_window_and_after_slow_bodies():
    table = full_table(rate_window=5.0)
    reader = taking(table, 0.0)
    silent = taking(table, 0.0)
    body = sending(table, 0.5)
    table.write_progress(reader, 1 << 20, 2.0)
    assert table.evict(4.9) == 0
    assert [table.evict(5.5) for _ in range(3)] == [body, silent, 0]
    assert [table.evict(7.0) for _ in range(2)] == [reader, 0]  # silent for a window, whatever it took before


def test_who_was_slow_and_is_fast_again_is_spared():
    table = full_table(rate_window=5.0)
    conn = sending(table, 0.0)
    table.body_progress(conn, 2000, 5.0)
    assert table.victim(5.0) == conn
    table.body_progress(conn, 100_000, 6.0)
    assert table.victim(6.0) == 0
    assert table.victim(10.0) == 0
    table.body_progress(conn, 1, 10.9)  # 100,001 bytes in 5.9 s
    assert table.victim(11.0) == 0


def test_a_request_and_another_direction_begin_without_what_was_slow_before():
    table = full_table(rate_window=5.0)
    conn = sending(table, 0.0)
    table.body_progress(conn, 2000, 5.0)
    table.blocked(conn, 5.0)
    assert table.victim(9.9) == 0
    table.write_progress(conn, 2000, 10.0)
    assert table.victim(10.0) == conn
    table.responded(conn, 10.0)
    table.head_done(conn, 10.0)
    table.body_wanted(conn, 10.0)
    assert table.victim(14.9) == 0


def test_slow_ones_behind_many_good_ones_are_found_though_few_are_looked_at():
    table = ConnectionTable(max_connections=1000, rate_window=5.0)
    slow = [sending(table, 0.0) for _ in range(2)]
    good = [sending(table, 0.0) for _ in range(200)]
    for conn in slow:
        table.body_progress(conn, 1500, 5.0)
    for conn in good:
        table.body_progress(conn, 1 << 20, 5.0)
    for conn in slow:
        table.body_progress(conn, 100, 6.0)  # a byte now and then, while the good ones wait for a moment
    found = [table.victim(6.0) for _ in range(200 // 16 + 2)]
    assert set(found[:10]) == {0}
    assert found[-1] == slow[0] == table.victim(6.0)  # the same until it goes
    assert [table.evict(6.0), table.victim(6.0)] == slow


def test_of_the_slow_the_client_with_more_than_its_share_goes_first():
    table = full_table(rate_window=5.0, client_share=0.25)
    other = sending(table, 0.0, "192.0.2.2")
    mine = [sending(table, 0.0, "192.0.2.1") for _ in range(3)]
    assert [table.evict(6.0) for _ in range(4)] == [mine[0], other, *mine[1:]]


def test_no_rate_is_asked_for_where_the_policy_says_so():
    table = full_table(min_rate_when_full=0)
    sending(table, 0.0), taking(table, 0.0)
    assert table.victim(29.0) == 0


def test_a_slow_one_goes_before_who_has_only_just_come_and_after_all_others():
    table = full_table(rate_window=5.0)
    slow = sending(table, 0.0), taking(table, 0.0)
    old_head, head = table.open(0.0), table.open(0.0)
    table.received(old_head, 18.0)
    new, handshake = table.open(18.5), table.open(19.2, tls=True)
    table.received(head, 19.1)
    assert [table.evict(19.5) for _ in range(7)] == [new, old_head, *slow, handshake, head, 0]


def test_connections_of_one_address_or_prefix_are_limited_and_others_are_not():
    table = ConnectionTable(max_connections=100, max_connections_per_client=2)
    for group in (("192.0.2.1", b"\xc0\x00\x02\x01", ("::ffff:192.0.2.1", 80, 0, 0)),
                  ("2001:db8::1", "2001:db8::2%eth0", "2001:db8:0:0:ffff::1")):
        assert [table.open(0.0, client) > 0 for client in group] == [True, True, False]
    assert all(table.open(0.0, client) for client in ("192.0.2.2", "2001:db8:0:1::1"))
    assert all(table.open(0.0, client) for client in (None, "", None, ""))
    assert table.stats()["closed"]["client_limit"] == 2
    table.check()


def test_two_hundred_thousand_addresses_are_told_apart_in_few_bytes():
    table = ConnectionTable(max_connections=200_000, max_connections_per_client=1, seed=5)
    assert all(table.open(0.0, i.to_bytes(4, "big")) for i in range(200_000))
    table.check()
    assert table.nbytes / 200_000 < 42 + 37 + 48 + 3  # 48 are what can be learned of a network


# -- pressure --


def test_the_idle_timeout_under_pressure_is_what_envoy_makes_of_the_same_numbers():
    """Envoy's scaled timer: minimum 2 s, maximum 600 s, thresholds 85 and 95 %, usage 92 %: 181.4 s."""
    table = ConnectionTable(max_connections=100, keep_alive_min=2.0, keep_alive_max=600.0, pressure_start=0.85,
                            pressure_full=0.95)
    conns = [idle_one(table, 0.0) for _ in range(85)]
    assert table.next_due() == 600.0
    conns += [idle_one(table, 0.0) for _ in range(7)]
    assert table.next_due() == pytest.approx(181.4, abs=1e-6)
    conns += [idle_one(table, 0.0) for _ in range(8)]
    assert table.next_due() == 2.0
    for conn in conns[80:]:
        table.close(conn)
    assert table.next_due() == 600.0


def test_a_shorter_timeout_holds_for_a_hundred_thousand_idle_connections_at_once():
    table = ConnectionTable(max_connections=100_000, keep_alive_timeout=75.0)
    conns = [idle_one(table, i / 100_000) for i in range(100_000)]
    assert table.next_due() == 75.0
    table.set_policy(table.policy.replace(keep_alive_timeout=10.0))
    assert table.next_due() == 10.0
    assert table.expire(10.5, limit=200_000) == conns[:50_001]


# -- classes --


def test_a_request_runs_in_its_class_and_the_next_head_under_that_of_accept():
    slow = Rule(host="slow.example", keep_alive_timeout=30.0)
    table = ConnectionTable(PolicySet(Policy(keep_alive_timeout=5.0), [slow]))
    conn = busy_one(table, 0.0)
    table.set_class(conn, 1)
    table.responded(conn, 1.0)
    assert (table.policy_class(conn), table.next_due()) == (1, 31.0)
    table.received(conn, 2.0)
    assert table.policy_class(conn) == 0


def test_classes_that_are_gone_fall_under_the_default():
    table = ConnectionTable(PolicySet(Policy(keep_alive_timeout=5.0), [Rule(host="a", keep_alive_timeout=30.0)]))
    conn = busy_one(table, 0.0)
    table.set_class(conn, 1)
    table.responded(conn, 0.0)
    table.set_policy(Policy(keep_alive_timeout=7.0))
    assert table.next_due() == 7.0
    with pytest.raises(ValueError, match="policy_class=1"):
        table.set_class(conn, 1)
    table.set_policy(Policy(keep_alive_timeout=9.0))
    assert table.next_due() == 9.0


def test_the_defaults_of_the_core_are_those_of_policy():
    """Two places state them, for hosts in C and in Python; here they meet."""
    ways = []
    for table in (ConnectionTable(seed=1), ConnectionTable(Policy(max_connections=10_000), seed=1)):
        seen = [table.nbytes]
        for events in ((), ("received",), ("head_done",), ("head_done", "body_wanted"), ("head_done", "blocked"),
                       ("head_done", "responded"), ("lingering",)):
            conn = table.open(0.0)
            for event in events:
                getattr(table, event)(conn, 0.0)
            seen.append(table.next_due())
            table.close(conn)
        conn = busy_one(table, 0.0)
        seen += [table.decide(conn, float(now)).cause for now in range(3000, 4200, 10)]
        table.lingering(conn, 0.0)
        seen += [table.linger_progress(conn, 1 << 31, now) is None for now in (0.0, 29.9, 30.1)]
        slow = [sending(table, 0.0), taking(table, 0.0)]
        seen += [table.victim(2.0), table.body_progress(slow[0], 20_000, 4.9), table.victim(5.0)]
        ways.append(seen)
    assert ways[0] == ways[1]


# -- drain --


def test_a_drain_answers_first_then_closes_the_idle_ones_spread_out_and_the_rest_at_the_end():
    table = ConnectionTable(max_connections=100)
    idle = [idle_one(table, k / 10) for k in range(10)]
    busy = busy_one(table, 1.0)
    table.drain(10.0, grace=2.0, spread=1.0, timeout=30.0)
    assert (table.is_draining, table.decide(busy, 10.0).cause) == (True, "drain")
    assert (table.next_due(), table.expire(11.999)) == (12.0, [])
    table.received(idle[0], 11.0)  # answerable until the grace is over
    closed = {tick: table.expire(12.0 + tick / 9) for tick in range(10)}
    assert [conn for tick in range(9) for conn in closed[tick]] == idle[1:]
    assert max(map(len, closed.values())) <= 2
    assert table.due(39.999)[2] == "header_timeout"
    table.close(idle[0], "header_timeout")
    assert table.due(40.0) == (busy, "answer_503", "drain")
    assert table.expire(40.0) == [busy]
    assert table.stats()["closed"]["drain"] == 10


def test_a_table_is_drained_once_nothing_but_what_lingers_is_open():
    table = ConnectionTable()
    assert table.is_drained
    conns = idle_one(table, 1.0), busy_one(table, 1.0), table.open(1.0)
    table.drain(2.0, grace=1.0, spread=0.0, timeout=5.0)
    for conn in conns:
        assert not table.is_drained
        table.lingering(conn, 2.0)
    assert (table.is_drained, len(table)) == (True, 3)
    table.open(2.0)
    assert not table.is_drained


def test_an_idle_one_that_leaves_of_itself_in_a_drain_takes_a_turn_from_the_others():
    table = ConnectionTable(max_connections=100)
    idle = [idle_one(table, k / 10) for k in range(10)]
    table.drain(10.0, grace=2.0, spread=1.0, timeout=30.0)
    assert table.expire(12.0) == idle[:1]
    assert table.next_due() == 12.1
    table.received(idle[5], 12.0)
    assert table.next_due() == 12.2


def test_who_is_let_in_at_the_end_of_a_drain_has_the_grace_to_ask_in():
    table = ConnectionTable()
    early, busy = table.open(9.0), busy_one(table, 9.0)
    table.drain(10.0, grace=2.0, spread=1.0, timeout=6.0)
    late = table.open(12.5)
    assert table.expire(13.0) == [early]
    assert table.next_due() == 14.5
    latest = table.open(14.4)
    assert table.expire(14.5) == [late]
    assert table.due(16.0)[0] in (busy, latest)  # the end of the drain is before its grace
    assert table.next_due() == 16.0


def test_a_second_drain_can_only_hasten_the_first():
    table = ConnectionTable()
    busy_one(table, 0.0)
    table.drain(0.0, 2.0, 1.0, 30.0)
    table.drain(1.0, 50.0, 50.0, 50.0)
    assert table.next_due() == 30.0
    table.drain(1.0, 0.0, 0.0, 4.0)
    assert table.next_due() == 5.0


# -- many streams on one connection --


def test_an_http_2_connection_is_idle_without_streams_and_expires_with_goaway():
    table = ConnectionTable(keep_alive_timeout=5.0)
    conn = table.open(0.0)
    table.stream_opened(conn, 1.0)
    table.stream_opened(conn, 2.0)
    table.stream_closed(conn, 3.0)
    assert table.phase(conn) == "busy"
    table.stream_closed(conn, 4.0)
    assert table.phase(conn) == "idle"
    assert table.due(9.0) == (conn, "goaway", "idle_timeout")
    for event in ("received", "head_done", "stream_closed", "blocked"):
        with pytest.raises(LocalError):
            getattr(table, event)(conn, 5.0)
    assert table.stats()["requests"] == 2


# -- counters --


def test_counters_add_up_and_histograms_fill_the_right_buckets():
    table = ConnectionTable(keep_alive_timeout=75.0)
    conn = idle_one(table, 0.0)
    for gap in (0.0, 0.0025, 10.0):
        now = table.next_due() - 75.0 + gap
        table.head_done(conn, now)
        table.responded(conn, now)
    table.close(conn)
    table.refused("rejected")
    stats = table.stats()
    assert (stats["accepted"], stats["requests"], stats["reused"], stats["reuse_rate"]) == (2, 4, 3, 0.75)
    assert stats["closed"]["client"] == stats["closed"]["rejected"] == 1
    edges = stats["idle_gap"]["edges"]
    assert [edges[k] for k, n in enumerate(stats["idle_gap"]["counts"]) if n] == [0.0, 0.002, 8.192]
    counts = stats["requests_per_connection"]["counts"]
    assert [stats["requests_per_connection"]["edges"][k] for k, n in enumerate(counts) if n] == [0, 4]
    stats["phases"]["idle"] = 99
    assert table.stats()["phases"]["idle"] == 0


def test_bucket_edges_are_at_most_half_apart():
    edges = ConnectionTable().stats()["requests_per_connection"]["edges"]
    assert (len(edges), edges[:8]) == (64, (0, 1, 2, 3, 4, 6, 8, 12))
    assert all(after / edge <= 1.5 for edge, after in pairwise(edges[2:]))


# -- known reuse rates --


def reuse_rate(timeout, gap, n_gaps=60_000):
    """One client after another sends requests, its gaps drawn from `gap`; one that finds its connection closed opens
    another. Return the share of gaps that ended in a reuse, in per cent."""
    table = ConnectionTable(keep_alive_timeout=timeout)
    now, n_reused = 0.0, 0
    conn = idle_one(table, now)
    for _ in range(n_gaps):
        now += gap()
        if table.expire(now):
            conn = idle_one(table, now)
        else:
            n_reused += 1
            table.head_done(conn, now)
            table.responded(conn, now)
    assert table.stats()["reused"] == n_reused
    return 100 * n_reused / n_gaps


@pytest.mark.parametrize(("timeout", "exponential", "pareto"),
                         [(5, 15.35, 91.06), (15, 39.35, 98.28), (30, 63.21, 99.39), (75, 91.79, 99.85)])
def test_reuse_rates_are_those_of_the_distribution_of_gaps(timeout, exponential, pareto):
    """1 - exp(-timeout / 30), and 1 - timeout ** -1.5 for Pareto(1, 1.5)."""
    draw = random.Random(timeout)
    assert reuse_rate(timeout, lambda: draw.expovariate(1 / 30)) == pytest.approx(exponential, abs=0.5)
    assert reuse_rate(timeout, lambda: draw.paretovariate(1.5)) == pytest.approx(pareto, abs=0.5)


def test_a_policy_is_read_by_its_names_alone():
    names = {name: getattr(Policy(), name) for name in Policy.__fields__}
    table = ConnectionTable(SimpleNamespace(**{**names, "first_byte_timeout": 1.0}))
    table.open(0.0)
    assert table.next_due() == 1.0
    with pytest.raises(ValueError, match="first_byte_timeout"):
        ConnectionTable(SimpleNamespace(**{**names, "first_byte_timeout": math.nan}))
