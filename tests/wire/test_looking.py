"""The live page of the admin listener, its document and its stream of events: over sockets, and in a real browser."""

import base64
import contextlib
import functools
import hashlib
import html.parser
import json
import re
import socket
import time

import pytest

import kacore
from kacore.server.status.viewers import MAX_VIEWERS
from tests.wire.conftest import Client, Running, wait_until


def ok(request):
    return b"ok"


@contextlib.contextmanager
def served():
    """A server with a few requests behind it and a connection open."""
    running = Running(ok, admin="0", policy=kacore.Policy(max_connections=50))
    busy = Client(running.port)
    for _ in range(4):
        busy.get()
    running.ask(look(running))
    yield running
    busy.close()
    running.stop(now=True)
    assert not running.errors, running.errors


@pytest.fixture(scope="module")
def watched():
    """One for all that change nothing but counters."""
    with served() as running:
        yield running


@pytest.fixture
def untouched():
    """One whose counters are those of `served`."""
    with served() as running:
        yield running


def status_of(running):
    return running.server._admin._handler.status


def look(running):
    """As if a second were over."""
    return lambda: status_of(running).look()


def answer_of(running, target, *fields, method="GET"):
    """The whole answer of its admin listener."""
    c = Client(running.server.admin_port)
    with contextlib.closing(c):
        head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *fields])
        return c.send(f"{head}\r\n\r\n").response(method)


@pytest.fixture
def ask(watched):
    return functools.partial(answer_of, watched)


class Watching:
    """A viewer that reads."""

    def __init__(self, port, target="/events"):
        self.client = Client(port)
        self.client.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.status, self.fields = self.client.head()
        self.text = ""

    def event(self):
        """The next one, as JSON."""
        while not (found := re.search(r"^data: (.*)\n\n", self.text, re.MULTILINE)):
            size = int(self.client.until(b"\r\n"), 16)
            assert size, "the stream has ended"
            self.text += self.client.take(size + 2)[:-2].decode()
        self.text = self.text[found.end() :]
        return json.loads(found[1])


@pytest.fixture
def watch(watched):
    with contextlib.ExitStack() as stack:

        def open_one(target="/events", running=None):
            viewer = Watching((running or watched).server.admin_port, target)
            stack.callback(viewer.client.close)
            return viewer

        yield open_one
    wait_until(lambda: not watched.ask(lambda: len(status_of(watched)._viewers)), "all viewers are gone")


def test_the_page_has_its_numbers_without_javascript(untouched):
    page = answer_of(untouched, "/")
    assert (page.status, page.get("content-type")) == (200, "text/html; charset=utf-8")
    text = re.sub(r"<style>.*?</style>|<script>.*?</script>", "", page.body.decode(), flags=re.DOTALL)
    assert "1 <small>of 50</small>" in text
    assert "75 %" in text  # of four requests three
    assert text.count("<svg") >= 5
    assert '<meta http-equiv="refresh"' in text


def test_the_page_loads_nothing_and_runs_only_what_the_server_wrote(ask):
    page = ask("/")
    text, policy = page.body.decode(), page.get("content-security-policy")
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for tag, of in (("style", "style-src"), ("script", "script-src")):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{of} 'sha256-{digest}'" in policy

    class Loads(html.parser.HTMLParser):
        found = ()

        def handle_starttag(self, tag, attributes):
            loads = [value for name, value in attributes if name in ("src", "style") or name.startswith("on")]
            links = [value for name, value in attributes if tag == "link" and name == "href"]
            self.found = (*self.found, *loads, *(value for value in links if not value.startswith("data:")))

    loads = Loads()
    loads.feed(text)
    assert loads.found == ()
    assert page.get("x-content-type-options") == "nosniff"


def test_status_is_the_document_with_its_history(untouched):
    document = json.loads(answer_of(untouched, "/status").body)
    assert (document["open"], document["max"], document["phases"]["idle"]) == (1, 50, 1)
    assert (document["total"]["requests"], document["total"]["reuse_rate"], document["ready"]) == (4, 0.75, True)
    assert document["clients"] == [{"network": "127.0.0.1", "proxy": False, "connections": 1}]
    assert "requests" in document["history"]["series"]


def counted(running, monkeypatch):
    """Documents are made of their number from now on. Pages are not touched: one may be shown still."""
    made = []
    stream = status_of(running).documents
    monkeypatch.setattr(stream, "_make", lambda is_whole: made.append(is_whole) or json.dumps({"n": len(made)}))
    return made


def test_every_viewer_gets_the_same_text_each_second_and_it_is_made_once(watched, watch, monkeypatch):
    made = counted(watched, monkeypatch)
    viewers = [watch() for _ in range(3)]
    for viewer in viewers:
        viewer.event()
    made.clear()
    watched.ask(look(watched))
    seen = [viewer.event()["n"] for viewer in viewers]
    assert max(seen) <= len(made) <= 2  # one is ours, and one may be the clock's


def test_who_comes_and_goes_makes_nothing_anew_all_the_time(watched, monkeypatch):
    made = counted(watched, monkeypatch)
    began = time.monotonic()
    for _ in range(30):
        viewer = Watching(watched.server.admin_port)
        viewer.event()
        viewer.client.close()
    assert len(made) <= 6 + 6 * (time.monotonic() - began)


def test_the_events_of_the_page_are_its_parts_first_all_and_then_what_is_new(watched, watch):
    viewer = watch("/events?page")
    assert dict(viewer.fields)["content-type"] == "text/event-stream"
    whole = viewer.event()
    assert {"top", "tiles", "phases", "closes", "advice"} <= set(whole)
    busy = Client(watched.port)
    busy.get()
    watched.ask(look(watched))
    wait_until(lambda: "2 <small>of 50" in viewer.event().get("tiles", ""), "the page shows it")
    late = watch("/events?page")
    assert set(late.event()) == set(whole)
    busy.close()


def test_a_page_of_another_origin_cannot_watch(ask):
    assert ask("/events", "Sec-Fetch-Site: cross-site").status == 403
    assert ask("/events", method="HEAD").status == 405


def test_viewers_are_bounded_and_probes_are_answered_beside_them(watched, watch, ask):
    viewers = [watch() for _ in range(MAX_VIEWERS)]
    refused = ask("/events")
    assert (refused.status, refused.get("retry-after")) == (503, "5")
    assert b"32 viewers are watching" in refused.body
    assert [ask("/healthz").status for _ in range(3)] == [200] * 3
    viewers[0].client.close()
    wait_until(lambda: not watched.ask(lambda: status_of(watched).is_full), "its place is free")
    assert watch().event()["max"] == 50


def test_a_viewer_that_does_not_read_is_dropped_and_holds_nothing(start, monkeypatch):
    monkeypatch.setattr("kacore.server.admin.POLICY", kacore.Policy(max_connections=64, send_timeout=0.3))
    running = start(ok, admin="0")
    status = status_of(running)
    monkeypatch.setattr(status, "document", lambda **_: {"much": "x" * 200_000})
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", running.server.admin_port))
        sock.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: running.ask(lambda: len(status._viewers)) == 1, "it watches")
        most = 0

        def is_gone():
            nonlocal most
            running.ask(look(running))
            most = max(most, running.ask(lambda: running.server._admin._server.stats()["engine"]["buffer_bytes"]))
            return running.ask(lambda: not status._viewers)

        wait_until(is_gone, "it is dropped")
    assert most < 500_000  # at most the text that it is being sent


def test_the_listener_ends_at_once_whoever_watches(start):
    running = start(ok, admin="0")
    viewers = [Watching(running.server.admin_port) for _ in range(3)]
    for viewer in viewers:
        viewer.event()
    running.stop()
    for viewer in viewers:
        viewer.client.close()


# --- in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(need):
    chromium = need("chromium")
    with need("module:playwright.sync_api").sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(watched, browser):
    """Open it in a context of its own; nothing may be refused by the policy of the page, or fail."""
    errors, contexts = [], []

    def go(width=1280, port=None, **how):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, **how))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: message.type == "error" and errors.append(message.text))
        page.goto(f"http://127.0.0.1:{port or watched.server.admin_port}/")
        return page

    go.errors = errors
    yield go
    for context in contexts:
        context.close()
    assert errors == []


@pytest.mark.browser
def test_the_page_follows_the_server_and_keeps_what_the_reader_selected(watched, open_page):
    page = open_page()
    page.wait_for_selector("#live.on")
    page.evaluate("window.legend = document.querySelector('#phase_names li')")
    busy = [Client(watched.port) for _ in range(6)]
    for c in busy:
        c.get()
    page.wait_for_selector("#tiles b:has-text('7 of 50')")
    page.wait_for_selector("#phase_names li:has-text('idle 7')")
    assert page.evaluate("legend.isConnected && legend.textContent.startsWith('idle')")
    for c in busy:
        c.close()
    page.wait_for_selector("#tiles b:has-text('1 of 50')")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280, 3840])
def test_the_page_fits_every_screen(open_page, width, scheme):
    page = open_page(width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 128")
    assert dark == (scheme == "dark")
    assert page.evaluate("[...document.querySelectorAll('main > :not(:empty)')].every(one => one.clientHeight > 40)")


@pytest.mark.browser
def test_the_page_is_readable_without_javascript(open_page):
    page = open_page(java_script_enabled=False)
    assert "of 50" in page.inner_text("#tiles")
    assert page.inner_text("#live") == "as of now"
    assert page.locator("#phases svg").bounding_box()["height"] > 100


@pytest.mark.browser
def test_the_page_goes_on_after_a_restart_of_the_server(open_page, free_port):
    port = free_port()
    first = Running(ok, admin=str(port))
    page = open_page(port=port)
    page.wait_for_selector("#live.on")
    first.stop(now=True)
    page.wait_for_selector("#live.off")
    assert page.inner_text("#live") == "reconnecting"
    second = Running(ok, admin=str(port), policy=kacore.Policy(max_connections=7))
    page.wait_for_selector("#live.on")
    page.wait_for_selector("#tiles b:has-text('of 7')")
    page.context.close()
    second.stop(now=True)
    open_page.errors[:] = [text for text in open_page.errors if "ERR_" not in text]  # of the time between


@pytest.mark.browser
def test_hostile_words_of_the_network_stay_words(open_page, monkeypatch):
    words = "<img src=x onerror=alert(1)><script>document.title = 'gone'</script>"
    running = Running(ok, admin="0")
    network = {"network": words, "proxy": False, "connections": 1}
    monkeypatch.setattr(running.server, "busiest", lambda: [network])
    page = open_page(port=running.server.admin_port)
    page.wait_for_selector("#live.on")
    assert words in page.inner_text("#clients")
    assert page.locator("#clients img, #clients script").count() == 0
    assert page.title() == "kacore: live"
    page.context.close()
    running.stop(now=True)
