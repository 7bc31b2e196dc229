"""The demo in a real browser: what its page says is what the server counted, and what the browser counted.

The browser is Debian's chromium, driven by Playwright's Python package.
"""

import asyncio
import http.client
import json
import math
import threading
from collections import Counter, defaultdict
from xml.etree import ElementTree

import pytest

from kacore.demo import Demo, scene
from kacore.demo.control import MAX_LOADS

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# A browser opens at most so many connections to one HTTP/1.1 server.
BROWSER_LIMIT = 6
N_FILES = scene.N_FIRST + scene.N_SECOND


@pytest.fixture
def demo():
    """A running demo on a port of its own, in a thread with a loop of its own."""
    made, is_ready = [], threading.Event()

    async def serve():
        demo = Demo("127.0.0.1", 0)
        serving = asyncio.create_task(demo.serve())
        await demo.server.started()
        made.extend([demo, asyncio.get_running_loop()])
        is_ready.set()
        await serving

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    assert is_ready.wait(10)
    demo, loop = made
    yield demo
    loop.call_soon_threadsafe(demo.shutdown)
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def browser(need):
    chromium = need("chromium")
    with need("module:playwright.sync_api").sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: message.type == "error" and page.errors.append(message.text))
    yield page
    context.close()
    assert page.errors == []


def watch_connections(page):
    """Chromium's own view: port of the server -> connection id -> number of responses over it."""
    connections = defaultdict(Counter)
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")

    def note(event):
        response = event["response"]
        connections[response["remotePort"]][response["connectionId"]] += 1

    session.on("Network.responseReceived", note)
    return connections


def open_demo(page, demo, **settings):
    """Open the page, which loads at once, with short delays unless told otherwise; wait until it is done."""
    query = {"handshake": 10, "answer": 0, "pause": 0, **settings}
    address = f"http://127.0.0.1:{demo.server.port}/?" + "&".join(f"{k}={v}" for k, v in query.items())
    page.goto(address)
    page.wait_for_selector("body[data-state=done], body[data-state=failed]", timeout=30_000)
    assert page.locator("#trouble").inner_text() == ""


def shown(page, side):
    """The numbers on one side of the page."""
    return {
        name: int(page.inner_text(f"#{side} [data-metric={name}]"))
        for name in ("connections", "requests", "reused")
    }


def measured(page, demo, side):
    """The measured server behind one side of the page."""
    return demo.loads[page.get_attribute(f"#{side}", "data-load")]


def counted(page, demo, side):
    """What the server says when asked directly, in the form of `shown`."""
    stats = measured(page, demo, side).server.stats()
    accepted = stats["accepted"]
    return {
        "connections": accepted,
        "requests": stats["requests"],
        "reused": stats["reused"],
    }


@pytest.mark.browser
def test_numbers_on_the_page_are_the_counters_of_the_server_and_of_the_browser(demo, page):
    connections = watch_connections(page)
    open_demo(page, demo, pause=0.5)
    for side in ("on", "off"):
        assert shown(page, side) == counted(page, demo, side)
        seen = connections[measured(page, demo, side).server.port]
        assert shown(page, side)["connections"] == len(seen)
        assert shown(page, side)["requests"] == sum(seen.values()) == N_FILES
        assert shown(page, side)["reused"] == N_FILES - len(seen)
    assert shown(page, "on")["connections"] <= BROWSER_LIMIT
    assert shown(page, "off")["connections"] == N_FILES


@pytest.mark.browser
def test_picture_shows_each_handshake_and_each_file(demo, page):
    open_demo(page, demo)
    for side in ("on", "off"):
        numbers = shown(page, side)
        assert page.locator(f"#{side} .chart rect.handshake").count() == numbers["connections"]
        assert page.locator(f"#{side} .chart rect.file").count() == numbers["requests"]
        assert page.locator(f"#{side} .chart rect.pill").count() == numbers["connections"]
    on, off = (shown(page, side)["connections"] for side in ("on", "off"))
    assert f"{on} handshakes instead of {off}" in page.inner_text("#verdict")


@pytest.mark.browser
@pytest.mark.parametrize("limit", [1, 5])
def test_connections_follow_the_limit_of_requests(demo, page, limit):
    connections = watch_connections(page)
    open_demo(page, demo, max_keep_alive_requests=limit, mode="on")
    assert shown(page, "on") == counted(page, demo, "on")
    seen = connections[measured(page, demo, "on").server.port]
    assert max(seen.values()) == limit
    # Each connection was used up but for those still open at the end.
    fewest = math.ceil(scene.N_FIRST / limit)
    assert fewest <= shown(page, "on")["connections"] == len(seen) <= fewest + BROWSER_LIMIT


@pytest.mark.browser
def test_pause_longer_than_the_timeout_finds_the_connections_closed(demo, page):
    open_demo(page, demo, mode="on", pause=1.5, keep_alive_timeout=0.5)
    assert shown(page, "on") == counted(page, demo, "on")
    assert shown(page, "on")["connections"] > BROWSER_LIMIT
    assert "outlasted" in page.inner_text("#on .story")
    open_demo(page, demo, mode="on", pause=1.5, keep_alive_timeout=5)
    assert shown(page, "on")["connections"] <= BROWSER_LIMIT


@pytest.mark.browser
def test_each_new_connection_waits_for_the_handshake_delay(demo, page):
    open_demo(page, demo, mode="on", handshake=300)
    report = measured(page, demo, "on").report()
    assert len([r for r in report["requests"] if r["nth"] == 1]) == shown(page, "on")["connections"]
    # The document's connection first, and then the others, which cannot begin before.
    assert float(page.inner_text("#on [data-metric=time]").split()[0]) >= 0.6


@pytest.mark.browser
def test_keyboard_alone_changes_the_policy_and_loads_again(demo, page):
    open_demo(page, demo, mode="on")
    before = page.get_attribute("#on", "data-load")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "max_keep_alive_requests":
            break
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.inner_text("label:has([name=max_keep_alive_requests]) output") == "at most 3"
    page.keyboard.press("Enter")
    page.wait_for_selector(f"#on:not([data-load='{before}'])", timeout=30_000)
    page.wait_for_selector("body[data-state=done]", timeout=30_000)
    assert measured(page, demo, "on").load.policy.max_keep_alive_requests == 3
    assert shown(page, "on") == counted(page, demo, "on")


@pytest.mark.browser
def test_the_first_numbers_are_there_before_the_reader_clicks_on(demo, page):
    page.goto(f"http://127.0.0.1:{demo.server.port}/?handshake=10&answer=0&pause=5&mode=on")
    page.wait_for_selector("#on [data-metric=time]:text-matches('s$')")
    assert page.inner_text("#on .progress") == "the reader reads"
    assert page.get_attribute("body", "data-state") == "running"
    assert int(page.inner_text("#on [data-metric=requests]")) == scene.N_FIRST


@pytest.mark.browser
def test_the_pause_is_drawn_as_long_as_it_was_and_no_number_stands_twice(demo, page):
    open_demo(page, demo, pause=1, handshake=20)
    for side in ("on", "off"):
        width = page.evaluate(f"document.querySelector('#{side} .chart svg').viewBox.baseVal.width")
        pause = float(page.get_attribute(f"#{side} rect.pause", "width"))
        marks = page.locator(f"#{side} .chart text").all_text_contents()
        assert "1 s pause" in marks
        files = page.locator(f"#{side} .chart rect.file")
        last = max(float(files.nth(n).get_attribute("x")) for n in range(files.count()))
        assert last <= width
        # A second of pause takes as much of the axis as a second of loading.
        ticks = [float(page.locator(f"#{side} line.tick").nth(n).get_attribute("x1")) for n in (0, 1)]
        step = float(next(mark for mark in marks if mark not in ("0",) and mark.endswith(" s")).removesuffix(" s"))
        second = (ticks[1] - ticks[0]) / step
        assert 0.95 * second <= pause <= 3 * second  # the browser may be late
    names = ("time", "connections", "files", "requests", "reused")
    numbers = [page.inner_text(f"#on [data-metric={name}]") for name in names]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.browser
@pytest.mark.parametrize(
    ("delays", "words"),
    [
        ({"handshake": 20, "answer": 5}, "at an artificial distance of 20 ms for each handshake and 5 ms for each file"),
        ({"handshake": 0, "answer": 0}, "without artificial delay"),
    ],
)
def test_the_factor_is_said_together_with_the_artificial_delay(demo, page, delays, words):
    open_demo(page, demo, **delays)
    assert words in page.inner_text("#verdict")


@pytest.mark.browser
def test_on_a_phone_the_two_numbers_stand_side_by_side(demo, page):
    page.set_viewport_size({"width": 375, "height": 740})
    open_demo(page, demo)
    on, off = (page.locator(f"#{side} [data-metric=time]").bounding_box() for side in ("on", "off"))
    assert on["y"] == off["y"]
    assert on["x"] + on["width"] <= off["x"]
    assert off["y"] + off["height"] <= 740  # and are seen without scrolling
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_screen_needs_no_sideways_scrolling_and_nothing_from_outside(demo, page, scheme):
    hosts = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2].split(":")[0]))
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme=scheme)
    open_demo(page, demo)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert hosts == {"127.0.0.1"}


def ask(demo, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", demo.server.port, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_page_to_measure_has_at_least_60_small_well_formed_files():
    files = scene.build()
    assert len(files) == N_FILES
    assert scene.N_FIRST >= 60
    for path, (media_type, content) in files.items():
        assert 0 < len(content) < 8192, path
        if media_type == "image/svg+xml":
            ElementTree.fromstring(content)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("{", "line 1"),
        ("[]", "JSON object"),
        ('{"keep_alive": 1}', "keep_alive=1"),
        ('{"keep_alive_timeout": -1}', "keep_alive_timeout=-1"),
        ('{"handshake": 7}', "handshake=7"),
        ('{"answer": NaN}', "answer=nan"),
        ('{"max_connections": 5}', "max_connections"),
    ],
)
def test_wrong_choice_is_refused_by_name_and_starts_no_server(demo, body, named):
    status, answer = ask(demo, "POST", "/api/loads", body)
    assert status == 400
    assert named in answer["error"]
    assert demo.loads == {}


def test_page_of_another_origin_cannot_start_servers(demo):
    status, _ = ask(demo, "POST", "/api/loads", "{}", {"Origin": "http://elsewhere.example"})
    assert status == 403
    assert demo.loads == {}


def test_oldest_measured_server_goes_when_there_are_too_many(demo):
    for _ in range(MAX_LOADS + 2):
        status, answer = ask(demo, "POST", "/api/loads", "{}")
        assert status == 201
    assert len(demo.loads) == MAX_LOADS
    assert ask(demo, "GET", f"/api/loads/{answer['load']}")[0] == 200
    assert ask(demo, "GET", "/api/loads/1")[0] == 404
