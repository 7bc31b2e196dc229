"""What the live page tells, in virtual time: samples, the document, the advice, and the words."""

import json

import pytest

from kacore import Policy
from kacore._core import ConnectionTable
from kacore.server.seldom import Seldom
from kacore.server.status import Status, words
from kacore.server.status.advice import advise
from kacore.server.status.history import PER_POINT, SECONDS, History
from kacore.server.status.page import Page
from kacore.server.status.reading import Reading


def history_of(seconds, per_second=10, gauge=5):
    history = History()
    for k in range(seconds):
        history.add(100.0 + k, {"requests": k * per_second, "open": gauge})
    return history


class Subject:
    """A server as the admin listener sees it."""

    is_ready, trouble, since = True, "", 0.0

    def __init__(self, **policy):
        self.policy = Policy(**policy)
        self.table = ConnectionTable(self.policy)
        self.known = []
        self.more = {}

    def stats(self):
        return self.table.stats() | self.more

    def learned(self, limit):
        return self.known

    def busiest(self):
        return self.table.busiest()


@pytest.fixture
def watched():
    """A status, its subject, and what moves the time by a second."""

    def make(**policy):
        subject = Subject(**policy)
        now = [1000.0]
        status = Status(subject, clock=lambda: now[0])

        def second(then=lambda: None):
            then()
            status.look()
            now[0] += 1.0

        second()
        return status, subject, second

    return make


# --- samples ---------------------------------------------------------------------------------------------------------


def test_a_rate_is_the_growth_of_the_last_seconds():
    history = history_of(20)
    assert history.rate("requests", 5) == 10.0
    history.add(120.0, {"requests": 290, "open": 5})
    assert history.rate("requests", 5) == 10 + 90 / 5
    assert history.growth("requests") == 290


def test_a_second_that_comes_late_is_slower_and_no_gap():
    history = history_of(10)
    history.add(119.0, {"requests": 190, "open": 5})  # ten seconds after the last
    assert history.rate("requests", 1) == 10.0
    assert history.rate("requests") == 10.0


def test_only_the_last_ten_minutes_are_kept():
    history = history_of(3 * SECONDS + 7)
    assert history.growth("requests") == (SECONDS - 1) * 10
    assert history.span() == SECONDS - 1
    assert len(history.levels("open")) <= SECONDS // PER_POINT
    assert set(history.levels("open")) == {5.0}
    assert set(history.rates("requests")[1:]) == {10.0}


def test_points_of_the_past_stay_as_they_were():
    history, seen = History(), {}
    for k in range(2 * SECONDS + 50):
        history.add(float(k), {"requests": k * k, "open": k % 17})
        if k % 37:
            continue
        for end, level, rate in zip(history.ends(), history.levels("open"), history.rates("requests"), strict=True):
            if end - PER_POINT > k - SECONDS:  # all of its samples are still there
                assert seen.setdefault(end, (level, rate)) == (level, rate)


def test_what_is_not_counted_is_not_known():
    history = history_of(5)
    assert history.rate("bytes_in") is None
    assert history.levels("bytes_in") == history.rates("bytes_in") == [None] * len(history.ends())
    history.add(105.0, {"requests": 50, "open": 5, "bytes_in": 7})
    assert history.rate("bytes_in", 5) == 7 / 5  # it began with nothing


def test_a_counter_that_began_anew_is_no_negative_rate():
    history = history_of(10)
    history.add(110.0, {"requests": 3, "open": 5})
    assert history.growth("requests", 5) == 3


def test_the_memory_of_a_history_is_bounded():
    history = history_of(2)
    subject = Subject()
    history.add(102.0, Reading(subject.stats()).sample())
    assert sum(column.itemsize * len(column) for column in history._columns.values()) < 250_000


# --- the document --------------------------------------------------------------------------------------------------------


def test_the_document_says_what_the_table_counts(watched):
    status, subject, second = watched(max_connections=100)
    table = subject.table

    def one():
        conn = table.open(1.0, "192.0.2.1")
        for _ in range(4):
            table.received(conn, 1.0)
            table.head_done(conn, 1.0)
            table.responded(conn, 1.0)

    for _ in range(5):
        second(one)
    document = json.loads(json.dumps(status.document(), allow_nan=False))
    assert (document["open"], document["max"], document["phases"]["idle"]) == (5, 100, 5)
    assert (document["rates"]["requests"], document["rates"]["accepted"]) == (4, 1)
    assert (document["lately"]["requests"], document["lately"]["reuse_rate"], document["lately"]["seconds"]) == (20, 0.75, 5)
    assert document["clients"] == [{"network": "192.0.2.1", "proxy": False, "connections": 5}]
    assert sum(document["idle_gap"]["counts"]) == 15
    assert document["history"]["series"]["phase idle"][-1] == 2  # the mean of the last whole three: 1, 2, 3
    assert document["responses"] == dict.fromkeys(("1xx", "2xx", "3xx", "4xx", "5xx"), 0)
    assert document["first_byte"] is None
    assert document["workers"] == []


def test_workers_are_summed_as_far_as_they_are_known(watched):
    status, subject, second = watched(max_connections=100)
    empty = subject.table.stats()
    phases = dict.fromkeys(empty["phases"], 0)
    counters = {name: empty[name] for name in ("accepted", "requests", "reused", "races", "closed")}
    counters |= {"idle_gap": empty["idle_gap"], "requests_per_connection": empty["requests_per_connection"]}
    slots = [{**counters, "open": 7, "requests": 10, "reused": 5}, {**counters, "open": 1}]
    subject.more = {"workers": {"total": {**counters, "open": 8, "requests": 10}, "slots": slots}}
    second()
    document = status.document()
    assert (document["open"], document["max"], document["phases"]) == (8, 200, None)
    assert [one["open"] for one in document["workers"]] == [7, 1]
    assert document["workers"][0]["reuse_rate"] == 0.5
    for one, n in zip(slots, (7, 1), strict=True):
        one |= {"phases": phases | {"idle": n}, "ready": True, "pid": 12, "max": 50}
        one |= {"buffer_bytes": 10, "max_buffer_bytes": 99}
    second()
    document = status.document()
    assert (document["open"], document["max"], document["phases"]["idle"]) == (8, 100, 8)
    assert document["buffers"] == {"bytes": 20, "max": 198}
    assert "12" in Page().whole(document)


def test_clients_with_most_connections_come_first():
    table = ConnectionTable(max_connections=1000)
    for k in range(50):
        for _ in range(k % 40 + 1):
            table.open(1.0, f"10.0.0.{k}")
    table.open(1.0, "10.9.9.9", proxy=True)
    found = table.busiest()
    assert len(found) == 32
    assert [one["connections"] for one in found] == sorted((k % 40 + 1 for k in range(50)), reverse=True)[:32]
    assert found[0] == {"network": "10.0.0.39", "proxy": False, "connections": 40}
    assert ConnectionTable().busiest() == []


# --- advice ------------------------------------------------------------------------------------------------------------


def entry(**said):
    known = {"network": "10.0.0.5", "proxy": True, "connections": 1, "kept_for": 80.0, "closes_after": None, "settled": False}
    return known | {"closed_by_them": 0, "closed_by_us": 0, "races": 0} | said


@pytest.mark.parametrize(
    ("policy", "known", "level", "sentence"),
    [
        (
            {},
            {"closes_after": 60.0, "settled": True, "closed_by_them": 3},
            "fine",
            "10.0.0.5 closes after 60 s; kacore keeps 80 s: nothing to do.",
        ),
        ({}, {"closes_after": 60.0}, "fine", "10.0.0.5 has closed after 60 s; kacore keeps 80 s, and watches on."),
        ({}, {}, "fine", "10.0.0.5 has not closed an idle connection yet; kacore keeps 80 s."),
        (
            {},
            {"network": "unix", "proxy": False, "kept_for": 3900.0, "closed_by_us": 2},
            "act",
            "The proxy on unix sockets keeps idle connections for longer than keep_alive_max (65 min): set that above its"
            " timeout.",
        ),
        (
            {"keep_alive_timeout": 60.0},
            {"closes_after": 75.0, "settled": True},
            "act",
            "10.0.0.5 keeps idle connections for 75 s, but keep_alive_timeout is 60 s: set it above 75 s, or to auto.",
        ),
        (
            {"keep_alive_timeout": 60.0},
            {"closes_after": 5.0},
            "fine",
            "10.0.0.5 closes after 5 s; kacore keeps 60 s: nothing to do.",
        ),
    ],
)
def test_what_a_proxy_showed_is_advice_in_words(watched, policy, known, level, sentence):
    status, subject, _ = watched(**policy)
    subject.known = [entry(**known)]
    assert {"level": level, "text": sentence} in status.document()["advice"]


def test_clients_that_are_no_proxies_need_no_advice(watched):
    status, subject, _ = watched()
    subject.known = [entry(proxy=False, closes_after=4.0)]
    assert status.document()["advice"] == []


@pytest.mark.parametrize(
    ("policy", "seen", "words"),
    [
        ({"keep_alive_timeout": 5.0}, {"races": 3}, "3 requests crossed the close of their idle connection"),
        ({}, {"races": 1}, "learned from it"),
        ({}, {"closed": {"rejected": 7}}, "7 connections were turned away in 10 min: raise max_connections (100)"),
        ({}, {"closed": {"evicted": 7}}, "7 connections were evicted to make room"),
        ({}, {"closed": {"client_limit": 7}}, "forwarded_allow_ips"),
        ({}, {"closed": {"buffer_limit": 1}}, "raise max_buffer_bytes"),
        ({"keep_alive": False}, {"requests": 500, "reuse_rate": 0.0, "closed": {"policy": 500}}, "keep_alive is off"),
        ({}, {"requests": 500, "reuse_rate": 0.01, "closed": {"client": 490}}, "Only 1 % of requests found their"),
        (
            {"keep_alive_timeout": 1.0},
            {"requests": 500, "reuse_rate": 0.1, "closed": {"idle_timeout": 9}},
            "keep_alive_timeout (1 s) ends them",
        ),
        ({}, {"requests": 500, "reuse_rate": 0.1, "closed": {"max_requests": 9}}, "max_keep_alive_requests ends them"),
    ],
)
def test_what_goes_wrong_is_said_with_what_to_set(watched, policy, seen, words):
    status, _, _ = watched(max_connections=100, **policy)
    document = status.document()
    document["lately"] |= {"seconds": 599, "races": 0, "closed": {}} | seen
    assert any(words in one["text"] for one in advise(document))


def test_no_advice_where_nothing_explains_what_is_seen(watched):
    status, _, _ = watched()
    document = status.document()
    document["lately"] |= {"seconds": 9, "requests": 500, "reuse_rate": 0.0, "closed": {}}
    assert advise(document) == []


def test_the_worst_comes_first_and_a_quiet_server_needs_nothing(watched):
    status, subject, _ = watched(max_connections=10)
    assert watched()[0].document()["advice"] == []
    subject.known = [entry(closes_after=60.0, settled=True)]
    for _ in range(9):
        subject.table.open(1.0, "192.0.2.1")
    status.look()
    document = status.document()
    document["engine"] = {"out_of_descriptors": 1}
    subject.is_ready = False
    assert [one["level"] for one in advise(document)] == ["act", "know", "fine"]


# --- words and the page ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "value"),
    [
        ("–", words.number(None)),
        ("0", words.number(0)),
        ("< 0.01", words.number(0.001)),
        ("0.25", words.number(0.25)),
        ("12.3", words.number(12.34)),
        ("1,235", words.number(1234.6)),
        ("99.9 %", words.percent(0.99999)),
        ("100 %", words.percent(1)),
        ("12 ms", words.duration(0.012)),
        ("60 s", words.duration(60)),
        ("65 min", words.duration(3900)),
        ("1.5 MiB", words.size(1.5 * 1024 * 1024)),
    ],
)
def test_numbers_are_as_people_read_them(shown, value):
    assert value == shown


HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e\"'&"


def test_no_word_of_the_network_can_become_markup(watched):
    status, subject, second = watched()
    subject.known = [entry(network=HOSTILE, races=1)]
    subject.busiest = lambda: [{"network": HOSTILE, "proxy": False, "connections": 1}]
    status._busiest._call = subject.busiest
    subject.trouble = HOSTILE
    subject.more = {"responses": {HOSTILE: 3}, "tls": {HOSTILE: 1}}
    second()
    text = Page().whole(status.document())
    body = text[text.index("</style>") : text.rindex("<script>")]
    assert "alert(1)" in body
    for wrong in ("<script", "\x1b", "\u202e", "\"'"):
        assert wrong not in body


def test_only_parts_that_are_new_are_sent_again(watched):
    status, _, second = watched()
    page = status.page
    assert set(page.changed(status.document())) == set(page.changed(None))
    second()
    assert "advice" not in page.changed(status.document())
    assert "advice" in page.changed(None)


def test_what_takes_long_is_asked_seldom(monkeypatch):
    now, asked = [0.0], []
    monkeypatch.setattr("kacore.server.seldom.time.monotonic", lambda: now[0])

    def slow():
        asked.append(now[0])
        now[0] += 0.1
        return "said" if len(asked) > 1 else None

    ask = Seldom(slow)
    for second in range(1, 101):
        now[0] = float(second)
        ask()
    assert asked == [1.0, 2.0, 53.0]  # a five-hundredth of the time, once there was an answer
