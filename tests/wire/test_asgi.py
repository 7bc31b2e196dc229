"""ASGI: the scope, what receive() tells and when, and lifespan."""

import asyncio
import signal
import time

import pytest

from tests.wire.conftest import wait_until


async def answer(send, body=b"ok", status=200):
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


def http_only(app):
    async def only(scope, receive, send):
        if scope["type"] == "http":
            await app(scope, receive, send)

    return only


def test_the_scope_says_what_was_asked(start, client):
    scopes = []

    @http_only
    async def app(scope, receive, send):
        scopes.append(scope)
        await answer(send)

    running = start(app, root_path="/mounted")
    c = client(running)
    c.get("/a%20b/%C3%BC?x=%20&y", "X-One: 1", "x-One: 2", "Cookie: a=b", version="1.0")
    scope = scopes[0]
    assert scope["asgi"]["version"] == "3.0"
    assert scope["asgi"]["spec_version"] == "2.3"  # frameworks listen for the disconnect below 2.4
    assert (scope["http_version"], scope["method"], scope["scheme"]) == ("1.0", "GET", "http")
    assert (scope["path"], scope["raw_path"]) == ("/mounted/a b/ü", b"/a%20b/%C3%BC")
    assert (scope["query_string"], scope["root_path"]) == (b"x=%20&y", "/mounted")
    assert scope["headers"] == [(b"host", b"test"), (b"x-one", b"1"), (b"x-one", b"2"), (b"cookie", b"a=b")]
    assert scope["client"] == c.sock.getsockname()
    assert scope["server"] == ("127.0.0.1", running.port)


def test_each_request_has_a_scope_of_its_own(start, client):
    seen = []

    @http_only
    async def app(scope, receive, send):
        seen.append("dirty" in scope or scope["headers"] != [(b"host", b"test")])
        scope["dirty"] = True
        scope["headers"].append((b"dirty", b""))
        await answer(send)

    c = client(start(app))
    c.get()
    c.get()
    assert seen == [False, False]


def test_nothing_that_an_application_keeps_or_changes_reaches_the_next_request(start, client):
    """Scopes are made of what the last one had."""
    kept = []

    @http_only
    async def app(scope, receive, send):
        first = "/first" in scope["path"]
        kept.append((dict(scope), dict(scope["extensions"]), scope["extensions"], receive, send))
        if scope["path"] == "/changes":
            kept.pop()
            scope["extensions"]["mine"] = {}
            scope["extensions"].pop("http.response.early_hint")
        await answer(send, b"first" if first else b"other")

    c = client(start(app))
    paths = ["/first?a=b", "/a%20b", "/a%20b", "/changes", "/changes", "/", "/"]
    for path in paths:
        assert c.get(path, "User-Agent: me" if path == "/" else "User-Agent: you").status == 200
    scopes = [scope for scope, *_ in kept]
    assert [(scope["path"], scope["raw_path"], scope["query_string"]) for scope in scopes] == [
        ("/first", b"/first", b"a=b"), ("/a b", b"/a%20b", b""), ("/a b", b"/a%20b", b""), ("/", b"/", b""), ("/", b"/", b""),
    ]  # fmt: skip
    assert [dict(scope["headers"])[b"user-agent"] for scope in scopes] == [b"you"] * 3 + [b"me"] * 2
    assert all(list(extensions) == ["http.response.early_hint"] for _, extensions, *_ in kept)
    for thing in range(2, 5):
        assert len({id(one[thing]) for one in kept}) == len(kept)


def test_the_callables_of_a_request_refuse_other_arguments(start, client):
    @http_only
    async def app(scope, receive, send):
        for wrong in (
            lambda: send(),
            lambda: send({}, {}),
            lambda: receive(1),
            lambda: receive(x=1),
            type(send),
            type(receive),
        ):
            with pytest.raises(TypeError):
                await wrong()() if isinstance(wrong, type) else wrong()
        assert callable(send)
        assert callable(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": (await receive())["type"].encode()})

    assert client(start(app)).get("/").body == b"http.request"


def test_options_asterisk_and_connect_reach_the_application(start, client):
    paths = []

    @http_only
    async def app(scope, receive, send):
        paths.append((scope["method"], scope["path"]))
        await answer(send, b"", 400 if scope["method"] == "CONNECT" else 200)

    running = start(app)
    assert client(running).get("*", method="OPTIONS").status == 200
    c = client(running)
    c.send("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n")
    assert c.response().status == 400
    assert paths == [("OPTIONS", "*"), ("CONNECT", "a:443")]


def test_the_addresses_of_a_unix_socket_and_of_ipv6(start, lacks, tmp_path):
    import socket

    @http_only
    async def app(scope, receive, send):
        await answer(send, repr((scope["client"], scope["server"])).encode())

    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_INET6) as six:
        one.bind(path)
        try:
            six.bind(("::1", 0))
        except OSError:
            lacks("no IPv6 here")
        six_port = six.getsockname()[1]
        for sock in (one, six):
            sock.listen()
        start(app, sockets=[one, six])
        for family, where in ((socket.AF_UNIX, path), (socket.AF_INET6, ("::1", six_port))):
            with socket.socket(family) as c:
                c.settimeout(5)
                c.connect(where)
                c.sendall(b"GET / HTTP/1.0\r\n\r\n")
                text = c.makefile("rb").read().partition(b"\r\n\r\n")[2].decode()
                if family == socket.AF_UNIX:
                    assert text == repr((None, (path, None)))
                else:
                    assert text == repr((("::1", c.getsockname()[1]), ("::1", six_port)))


@pytest.mark.parametrize(
    ("method", "target", "path", "raw_path", "query"),
    [
        ("GET", "http://test", "/sub/", b"/", b""),
        ("GET", "http://test?a=b", "/sub/", b"/", b"a=b"),
        ("GET", "HTTP://test:80/a%2Fb?c", "/sub/a/b", b"/a%2Fb", b"c"),
        ("GET", "https://test/%ff//./..", "/sub/\ufffd//./..", b"/%ff//./..", b""),
        ("OPTIONS", "http://test", "*", b"*", b""),
        ("OPTIONS", "http://test?a", "/sub/", b"/", b"a"),
        ("OPTIONS", "*", "*", b"*", b""),
        ("GET", "/?", "/sub/", b"/", b""),
        ("GET", "//test//?a?b", "/sub//test//", b"//test//", b"a?b"),
    ],
)
def test_the_path_of_every_form_of_target(start, client, method, target, path, raw_path, query):
    seen = []

    @http_only
    async def app(scope, receive, send):
        seen.append((scope["path"], scope["raw_path"], scope["query_string"]))
        await answer(send)

    c = client(start(app, root_path="/sub"))
    host = "test:80" if ":80" in target else "test"
    c.send(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")
    assert c.response().status == 200
    assert seen == [(path, raw_path, query)]


def test_receive_after_the_content_waits_for_the_end(start, client):
    events = []

    @http_only
    async def app(scope, receive, send):
        assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0.05)
        events.append(waiting.done())
        await answer(send)
        events.append(await waiting)
        events.append(await receive())

    c = client(start(app))
    assert c.get().status == 200
    wait_until(lambda: len(events) == 3)
    assert events == [False, {"type": "http.disconnect"}, {"type": "http.disconnect"}]
    assert c.is_open()


def test_fin_is_told_as_a_disconnect_and_the_response_still_arrives(start, client):
    events = []

    @http_only
    async def app(scope, receive, send):
        await receive()
        events.append((await receive())["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            await asyncio.sleep(0.01)
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await send({"type": "http.response.body"})

    c = client(start(app))
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    time.sleep(0.02)
    c.fin()
    assert c.response().body == b"part" * 3
    assert events == ["http.disconnect"]
    assert c.is_closed()


def test_fin_inside_the_content_is_a_disconnect(start, client):
    events = []

    @http_only
    async def app(scope, receive, send):
        while True:
            events.append(await receive())
            if events[-1]["type"] == "http.disconnect":
                break
        await answer(send, b"heard you", 400)

    c = client(start(app))
    c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nfour")
    time.sleep(0.02)
    c.fin()
    assert c.response().body == b"heard you"
    assert [event.get("body") for event in events] == [b"four", None]


@pytest.mark.parametrize("waits", [False, True])
def test_a_reset_is_a_disconnect_and_what_is_sent_then_goes_nowhere_in_silence(start, client, waits):
    events = []

    @http_only
    async def app(scope, receive, send):
        await receive()
        listening = asyncio.create_task(receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not listening.done():  # with nothing else to wait for, it would be alone in the loop
            if waits:
                await asyncio.sleep(0)
            await send({"type": "http.response.body", "body": b"" if waits else b"x" * 100, "more_body": True})
        events.append((await listening)["type"])
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        events.append("end")

    running = start(app)
    c = client(running)
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: running.phase_count("busy") == 1)
    c.reset()
    wait_until(lambda: len(events) == 2)
    assert events == ["http.disconnect", "end"]


def test_cancelling_one_receive_leaves_another_waiting(start, client):
    outcome = []

    @http_only
    async def app(scope, receive, send):
        await receive()
        one, two = asyncio.ensure_future(receive()), asyncio.ensure_future(receive())
        await asyncio.sleep(0.01)
        one.cancel()
        await asyncio.sleep(0.01)
        outcome.append((one.cancelled(), two.done()))
        await answer(send)
        outcome.append(await two)

    c = client(start(app))
    assert c.get().status == 200
    wait_until(lambda: len(outcome) == 2)
    assert outcome == [(True, False), {"type": "http.disconnect"}]


def test_a_cancelled_send_can_be_followed_by_another(start, client):
    @http_only
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            message = {"type": "http.response.body", "body": b"x" * 200_000, "more_body": True}
            try:
                await asyncio.wait_for(send(message), 0.05)
            except TimeoutError:
                break
        await send({"type": "http.response.body", "body": b"mid", "more_body": True})
        await send({"type": "http.response.body", "body": b"end", "more_body": False})

    c = client(start(app), receive_buffer=4096)
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    time.sleep(0.3)
    assert c.response().body.endswith(b"xmidend")


def test_context_variables_do_not_leak_into_the_next_request(start, client):
    import contextvars

    variable = contextvars.ContextVar("variable", default="clean")

    @http_only
    async def app(scope, receive, send):
        before = variable.get()
        variable.set("dirty")
        if scope["path"] == "/wait":
            await asyncio.sleep(0.01)
        await answer(send, before.encode())

    c = client(start(app))
    for path in ("/", "/", "/wait", "/", "/wait", "/wait"):
        assert c.get(path).body == b"clean"


def test_each_request_has_a_task_that_timeouts_and_groups_accept(start, client):
    @http_only
    async def app(scope, receive, send):
        assert asyncio.current_task() is not None
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        await answer(send)

    c = client(start(app))
    for _ in range(50):
        assert c.get().status == 200


# --- lifespan -----------------------------------------------------------------------------------------------


def test_lifespan_state_reaches_each_request_as_a_copy(start, client):
    log = []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            assert (await receive())["type"] == "lifespan.startup"
            scope["state"]["shared"] = ["here"]
            await send({"type": "lifespan.startup.complete"})
            assert (await receive())["type"] == "lifespan.shutdown"
            log.append("down")
            await send({"type": "lifespan.shutdown.complete"})
            return
        await answer(send, repr(sorted(scope["state"])).encode())
        scope["state"]["mine"] = 1

    running = start(app)
    c = client(running)
    assert c.get().body == b"['shared']"
    assert c.get().body == b"['shared']"
    c.close()
    running.check_empty()
    running.stop()
    assert log == ["down"]


FAILURES = """
async def fails(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})

async def raises_after(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
    raise RuntimeError("no database")

async def without(scope, receive, send):
    assert scope["type"] == "http"

async def raises(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        raise RuntimeError("no queue")
    await send({"type": "http.response.start", "status": 204})
    await send({"type": "http.response.body"})

async def cancels(scope, receive, send):
    import asyncio
    await receive()
    raise asyncio.CancelledError

async def leaves(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        raise SystemExit(3)

async def hangs(scope, receive, send):
    import asyncio
    try:
        print("waits", flush=True)
        await asyncio.Event().wait()
    finally:
        print("cancelled", flush=True)
"""


@pytest.mark.parametrize("name", ["fails", "raises_after"])
def test_a_failed_start_up_is_one_line_and_exit_status_2(launch, tmp_path, name):
    (tmp_path / "app.py").write_text(FAILURES)
    child = launch("-m", "kacore", "serve", f"app:{name}", "--port", "0")
    assert child.wait() == 2
    assert child.text == "kacore: the application's startup failed: no database\n"


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_a_start_up_that_is_cancelled_has_failed(launch, tmp_path, mode):
    (tmp_path / "app.py").write_text(FAILURES)
    child = launch("-m", "kacore", "serve", "app:cancels", "--port", "0", "--lifespan", mode)
    assert child.wait() == 2
    assert child.text == "kacore: the application's startup was cancelled\n"


def test_a_start_up_that_means_to_end_the_process_does(launch, tmp_path):
    (tmp_path / "app.py").write_text(FAILURES)
    child = launch("-m", "kacore", "serve", "app:leaves", "--port", "0")
    assert child.wait() == 3


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("raise RuntimeError('queue gone')", ["the application's lifespan failed while it was serving", "queue gone"]),
        ("raise asyncio.CancelledError", ["the application's lifespan was cancelled while it was serving"]),
        ("await send({'type': 'lifespan.shutdown.failed', 'message': 'no queue'})", ["shutdown failed: no queue"]),
        (
            "await send({'type': 'lifespan.shutdown.failed', 'message': 'no queue'}); raise RuntimeError('again')",
            ["shutdown failed: no queue"],
        ),
        ("await send({'type': 'lifespan.shutdown.complete'})", []),
        ("pass", []),
        ("await send({'type': 'lifespan.startup.complete'})", ["lifespan.startup.complete: lifespan.startup has"]),
        ("await receive(); raise RuntimeError('at the end')", ["lifespan failed in its shutdown", "at the end"]),
        ("await receive(); raise asyncio.CancelledError", ["the application's lifespan was cancelled in its shutdown"]),
        ("await receive(); asyncio.current_task().cancel(); await asyncio.sleep(0)", ["was cancelled in its shutdown"]),
        ("await receive(); await send({'type': 'lifespan.shutdown.failed'}); raise RuntimeError", ["no reason given"]),
        (
            "await receive(); await send({'type': 'lifespan.shutdown.complete'}); raise RuntimeError('late')",
            ["the application's lifespan failed in its shutdown", "RuntimeError: late"],
        ),
        ("await receive(); await send({'type': 'lifespan.shutdown.complete'}); await receive()", []),
    ],
)
def test_however_a_lifespan_ends_it_is_told_once_and_nobody_waits(start, client, caplog, end, told):
    program = f"""
async def lifespan(receive, send):
    await receive()
    await send({{"type": "lifespan.startup.complete"}})
    {end}
"""
    names = {"asyncio": asyncio}
    exec(program, names)

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await names["lifespan"](receive, send)
        else:
            await answer(send, repr(scope["state"]).encode())

    running = start(app)
    c = client(running)
    assert c.get().body == b"{}"
    c.close()
    running.stop(hurry=True)
    said = [record for record in caplog.records if record.levelname != "INFO"]
    assert len(said) == bool(told), caplog.text
    for what in told:
        assert what in caplog.text


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_there_is_always_a_state_and_each_request_has_its_own(start, client, mode):
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while (await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            return
        scope["state"]["n"] = scope["state"].get("n", 0) + 1
        await answer(send, repr(scope["state"]).encode())

    c = client(start(app, lifespan=mode))
    assert [c.get().body for _ in range(3)] == [b"{'n': 1}"] * 3


def test_lifespan_on_demands_the_protocol(launch, tmp_path):
    (tmp_path / "app.py").write_text(FAILURES)
    child = launch("-m", "kacore", "serve", "app:without", "--port", "0", "--lifespan", "on")
    assert child.wait() == 2
    assert child.text == "kacore: the application has no lifespan, and lifespan=on requires one\n"


def test_a_lifespan_that_breaks_is_told_and_with_on_ends_the_server(serve, launch, client, tmp_path):
    (tmp_path / "app.py").write_text(FAILURES)
    server = serve("app:raises")
    assert client(server).get().status == 204
    assert server.text.count("the application's lifespan failed; serving it without one") == 1
    assert "RuntimeError: no queue" in server.text
    child = launch("-m", "kacore", "serve", "app:raises", "--port", "0", "--lifespan", "on")
    assert child.wait() == 2
    assert child.text == "kacore: the application's startup failed: RuntimeError('no queue')\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_start_up_that_hangs(launch, tmp_path, number):
    (tmp_path / "app.py").write_text(FAILURES)
    child = launch("-m", "kacore", "serve", "app:hangs", "--port", "0", ready="waits")
    child.process.send_signal(number)
    assert child.wait() == 0
    assert "cancelled" in child.text
    assert "stopped before the application had started" in child.text
    assert "Traceback" not in child.text
