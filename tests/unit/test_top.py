"""`kacore top` without a server: words, addresses, hostile documents, and the screen driven by Textual's pilot."""

import asyncio
import json
import os
import subprocess
import sys

import pytest

from kacore import Policy
from kacore._core import ConnectionTable
from kacore.cli import main
from kacore.errors import UsageError
from kacore.server.status import Status, dumped
from kacore.top import text
from kacore.top.source import Place, checked
from tests.conftest import module

EVIL = "10.0.0.9\x1b]0;owned\x07\x1b[2J\u202e\r\n[red]"


class Subject:
    is_ready, trouble, since = True, "", 0.0
    policy = Policy(max_connections=100)

    def __init__(self):
        self.table = ConnectionTable(self.policy)

    def stats(self):
        return self.table.stats()

    def learned(self, limit):
        known = {"network": EVIL, "proxy": True, "connections": 4, "kept_for": 75.0, "closes_after": 60.0, "settled": True}
        return [known | {"closed_by_them": 3, "closed_by_us": 0, "races": 1}]

    def busiest(self):
        return [*self.table.busiest(), {"network": EVIL, "proxy": True, "connections": 4}]


@pytest.fixture
def document():
    subject = Subject()
    status = Status(subject)
    for k in range(3):
        subject.table.close(subject.table.open(1.0, f"192.0.2.{k}"), "idle_timeout")
        subject.table.open(1.0, f"192.0.2.{k}")
        status.look()
    return json.loads(dumped(status.document()))


def listed(n=3):
    one = {"class": 0, "kept_for": 75.0}
    found = [one | {"conn": k, "client": [f"192.0.2.{k}", 4000 + k], "phase": "idle", "requests": k} for k in range(n)]
    found.append(one | {"conn": 9, "client": None, "phase": EVIL, "requests": 100})
    return {"open": 50, "is_cut": True, "connections": found}


def is_harmless(shown):
    return all(letter.isprintable() or letter == "\n" for letter in shown)


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ("9001", "http://127.0.0.1:9001/"),
        (":9001", "http://127.0.0.1:9001/"),
        ("10.0.0.7:9001", "http://10.0.0.7:9001/"),
        ("http://[::1]:9001", "http://[::1]:9001/"),
        ("https://ops.example/kacore", "https://ops.example:443/kacore/"),
        ("http://ops.example", "http://ops.example:9000/"),
    ],
)
def test_an_admin_listener_is_named_in_any_common_way(said, url):
    assert Place.of(said).url == url


@pytest.mark.parametrize("said", ["", "http://", "ftp://a/", "http://a b/", "http://a:99999/", "http://a\x1b[2J/", "http://[::1"])
def test_what_is_no_address_is_a_usage_error(said):
    with pytest.raises(UsageError, match="must be the URL of an admin listener"):
        Place.of(said)


def test_once_has_all_numbers_as_plain_text(document):
    shown = text.once(document)
    for words in ("open        3 of 100", "new         3", "idle_timeout", "192.0.2.2", "proxy", "kacore keeps 75 s"):
        assert words in shown
    assert is_harmless(shown)


def test_tables_are_sorted_by_any_column_and_filtered_by_any_word():
    table = text.connections(listed())
    by_requests = text.arranged(table, by=2, is_up=False, wanted="")
    assert [row[2].key for row in by_requests] == [100, 2, 1, 0]
    assert [row[0].text for row in text.arranged(table, by=0, is_up=True, wanted="")][-1] == "unix"
    assert len(text.arranged(table, by=0, is_up=True, wanted="IDLE")) == 3
    assert [row[0].text for row in text.arranged(table, by=0, is_up=True, wanted="2.1:")] == ["192.0.2.1:4001"]
    assert table.note == "4 of 50"


def test_words_of_a_server_do_nothing_to_a_terminal(document):
    tables = (text.connections(listed()), text.clients(document), text.causes(document), text.workers(document))
    for table in tables:
        assert all(is_harmless(cell.text) for row in table.rows for cell in row)
    assert all(is_harmless(said) for _, said in text.advice(document))


@pytest.mark.parametrize("found", [{}, {"kacore": 1, "rates": {}}, {"kacore": "1", "rates": []}])
def test_another_json_is_no_document(found):
    with pytest.raises(UsageError, match="is not an admin listener"):
        checked(found, "http://a/")


@pytest.mark.parametrize("name", ["rates", "policy", "phases", "total", "lately", "workers", "advice", "clients", "buffers"])
def test_a_document_that_lies_is_refused_and_no_traceback(document, name):
    for lie in ("x", 1, [1], {"a": {}}):
        document[name] = lie
        try:
            text.once(document)
        except text.WRONG:
            pass


def test_a_spark_is_as_wide_as_asked_and_shows_the_newest():
    assert text.spark([0, 4, 8, None, 2], 5) == "▁▅█ ▃"
    assert text.spark([1, 2], 4) == "  ▅█"
    assert text.spark(range(100), 3) == "███"


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "textual.app", None)
    monkeypatch.delitem(sys.modules, "kacore.top.screen", raising=False)
    assert main(["top", "1"]) == 2
    assert capsys.readouterr().err == "kacore: top needs textual (pip install kacore[top]); --once and --json do without\n"


def test_once_and_json_load_no_library_of_screens():
    program = (
        "import sys; from kacore.cli import main; status = main(['top', '--once', '1']);"
        "sys.exit(any(name.split('.')[0] in ('textual', 'rich') for name in sys.modules) or status != 2)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    said = "kacore: top: http://127.0.0.1:1/ cannot be reached: Connection refused (is it served with --admin 1?)\n"
    assert done.stderr == said


# --- the screen ------------------------------------------------------------------------------------------------------------


class Played:
    """A source that says what the test tells it to."""

    place = Place.of("9000")

    def __init__(self):
        self.news = asyncio.Queue()

    async def connections(self):
        return listed()

    async def follow(self):
        while True:
            yield await self.news.get()


def play(document, act, size=(100, 32)):
    """act: a coroutine function of (pilot, screen, source, shown)."""
    screens = module("kacore.top.screen")

    async def run():
        source = Played()
        screen = screens.Screen(source, document)

        def shown(name):
            return str(screen.query_one(f"#{name}").render())

        async with screen.run_test(size=size) as pilot:
            await act(pilot, screen, source, shown)

    asyncio.run(run())


def column(screen, k):
    table = screen.query_one("#table")
    return [str(table.get_row_at(row)[k]) for row in range(table.row_count)]


@pytest.mark.needs("module:textual")
def test_keys_choose_sort_and_filter(document):
    async def act(pilot, screen, source, shown):
        await pilot.pause()
        assert "3 of 100" in shown("figures")
        assert "idle 0" in shown("recent") and "new 3" in shown("recent")
        assert column(screen, 2) == ["100", "2", "1", "0"]
        await pilot.press("r")
        assert column(screen, 2) == ["0", "1", "2", "100"]
        await pilot.press("s", "s", "s")
        assert column(screen, 0)[0] == "192.0.2.0:4000"
        await pilot.press("slash", *"2.1:")
        assert column(screen, 0) == ["192.0.2.1:4001"]
        await pilot.press("enter", "2")
        assert column(screen, 0) == []
        await pilot.press("escape")
        assert len(column(screen, 0)) == 4
        await pilot.press("3")
        assert column(screen, 0) == ["idle_timeout"]
        await pilot.press("tab")
        assert "4 Workers" in shown("views") and column(screen, 0) == []

    play(document, act)


@pytest.mark.needs("module:textual")
def test_it_says_that_it_reconnects_and_goes_on(document):
    async def act(pilot, screen, source, shown):
        await source.news.put(f"it is away{EVIL}")
        await pilot.pause()
        assert "reconnecting: it is away" in shown("line") and is_harmless(shown("line"))
        assert "3 of 100" in shown("figures")
        await source.news.put(document | {"open": 77})
        await pilot.pause()
        assert "reconnecting" not in shown("line")
        assert "77 of 100" in shown("figures")
        await source.news.put(document | {"lately": 5})
        await pilot.pause()
        assert "does not understand" in shown("line")
        assert "77 of 100" in shown("figures")

    play(document, act)


@pytest.mark.needs("module:textual")
def test_it_follows_the_size_of_its_terminal(document):
    async def act(pilot, screen, source, shown):
        for size in ((200, 60), (40, 10), (5, 2), (100, 32)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            assert max(map(len, shown("recent").split("\n"))) <= max(size[0], 140)
        await pilot.press("down", "down")
        await source.news.put(document)
        await pilot.pause()
        assert screen.query_one("#table").cursor_row == 2

    play(document, act)
