"""kacore's connections inside uvicorn, over loopback. What it fixes is tested twice: with kacore's class on both
loops, and with uvicorn's own, where the test must fail."""

import asyncio
import contextvars
import gc
import inspect
import logging
import re
import socket
import ssl
import sys
import threading
import time

import pytest

from tests.conftest import module

uvicorn = module("uvicorn")
module("httptools")

from kacore import Policy, PolicyError, PolicySet, Rule  # noqa: E402
from kacore.embed import uvicorn as adapter  # noqa: E402
from tests.wire.conftest import certificates  # noqa: E402, F401

OPTIONS = inspect.signature(uvicorn.Config).parameters  # older ones have fewer
# Before 0.36 uvicorn takes classes, and no names of them.
KACORE = "kacore.embed.uvicorn:Protocol" if not hasattr(module("uvicorn.main"), "HTTP_CHOICES") else adapter.Protocol
PATIENCE = 15.0


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


class Served:
    """A uvicorn server in a thread."""

    def __init__(self, app, http, loop, before=None, **options):
        config = uvicorn.Config(
            app, port=0, http=http, loop=loop, lifespan="off", log_config=None, access_log=False, **options
        )
        self.server = uvicorn.Server(config)
        self.socks = []  # closed at the end, also of a test that fails as it must
        self.thread = threading.Thread(target=lambda: (before and before(), self.server.run()), daemon=True)
        self.thread.start()
        wait_until(lambda: self.server.started or not self.thread.is_alive())
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    @property
    def table(self):
        return self.server.server_state.kacore_host.table

    def connect(self):
        self.socks.append(socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE))
        return self.socks[-1]

    def stop(self):
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(PATIENCE)
        for sock in self.socks:
            sock.close()
        assert not self.thread.is_alive()


def wait_until(condition):
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.005)
    return found


def ask(sock, *lines, line="GET / HTTP/1.1", host="Host: a"):
    """The response to a request: status, lower-case fields, content (by its length)."""
    sock.sendall("\r\n".join([line, *([host] if host else []), *lines, "", ""]).encode())
    return answer(sock)


def answer(sock):
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        assert more, f"closed after {data!r}"
        data += more
    head, _, content = data.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
    while len(content) < int(fields.get("content-length", 0)):
        content += sock.recv(65536)
    return int(status.split()[1]), fields, content


def is_closed(sock, within):
    """Whether the server ends the connection in so many seconds, whatever it says before."""
    sock.settimeout(within)
    try:
        while sock.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


@pytest.fixture(
    params=[
        pytest.param((KACORE, "asyncio"), id="kacore-asyncio"),
        pytest.param((KACORE, "uvloop"), id="kacore-uvloop"),
        pytest.param(("httptools", "asyncio"), id="stock", marks=pytest.mark.xfail(strict=True, reason="fixed here")),
    ]
)
def serve(request):
    """serve(app, policy=..., **options of uvicorn.Config); with uvicorn's own class the test must fail."""
    servers = []
    http, loop = request.param
    if loop == "uvloop":
        module("uvloop")

    def start(app=hello, policy=None, **options):
        adapter.configure(policy or Policy())
        servers.append(Served(app, http, loop, **options))
        return servers[-1]

    # Whether the deadline is kept late or never: only stock, which must fail, has little time.
    start.patience = PATIENCE if http == KACORE else 0.6
    yield start
    adapter.configure(None)
    for server in servers:
        server.stop()


def test_client_that_says_nothing_is_closed_by_its_deadline(serve):
    with serve(policy=Policy(first_byte_timeout=0.2)).connect() as sock:
        assert is_closed(sock, serve.patience)


def test_head_that_trickles_in_is_answered_408(serve):
    with serve(policy=Policy(request_header_timeout=0.2)).connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHos")
        sock.settimeout(serve.patience)
        assert answer(sock)[0] == 408


def test_content_that_stalls_is_closed_by_its_deadline(serve):
    async def reads(scope, receive, send):
        while (await receive()).get("more_body"):
            pass

    with serve(reads, Policy(request_body_timeout=0.2)).connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        assert is_closed(sock, serve.patience)


def test_full_server_closes_an_idle_connection_for_a_newcomer(serve):
    server = serve(policy=Policy(min_idle_before_evict=0), limit_concurrency=3)
    socks = [server.connect() for _ in range(3)]
    for sock in socks:
        assert ask(sock)[0] == 200
    with server.connect() as newcomer:
        assert ask(newcomer)[0] == 200
    assert is_closed(socks[0], 5)
    for sock in socks:
        sock.close()


def test_object_of_a_reset_connection_is_freed_at_once(serve):
    server = serve()
    sock = server.connect()
    assert ask(sock)[0] == 200
    (protocol,) = server.server.server_state.connections
    kind = type(protocol)
    del protocol
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    sock.close()
    wait_until(lambda: not server.server.server_state.connections)
    end = time.monotonic() + min(serve.patience, 4)  # the loop drops it in its next rounds; stock's timer takes 5 s
    while any(type(one) is kind for one in gc.get_objects()):
        assert time.monotonic() < end, "the object is still there"
        time.sleep(0.02)


def test_requests_of_a_connection_are_limited(serve):
    with serve(policy=Policy(max_keep_alive_requests=2)).connect() as sock:
        assert ask(sock)[1].get("connection") == "keep-alive"
        assert ask(sock)[1].get("connection") == "close"
        assert is_closed(sock, 5)


def test_request_on_an_idle_connection_just_after_the_shutdown_is_answered(serve):
    server = serve()
    with server.connect() as sock:
        assert ask(sock)[0] == 200
        server.server.should_exit = True
        while (fields := ask(sock)[1]).get("connection") != "close":
            time.sleep(0.02)  # the server looks every 0.1 s
        assert fields["content-length"] == "5"
        assert is_closed(sock, 5)


def test_request_without_a_host_is_refused(serve):
    with serve().connect() as sock:
        assert ask(sock, host="")[0] == 400


def test_keep_alive_is_advertised(serve):
    with serve(timeout_keep_alive=31).connect() as sock:
        assert ask(sock)[1].get("keep-alive") == "timeout=30"


def test_http_1_0_client_that_asks_for_keep_alive_gets_it(serve):
    with serve().connect() as sock:
        for _ in range(2):
            status, fields, content = ask(sock, "Connection: keep-alive", line="GET / HTTP/1.0")
            assert (status, fields.get("connection"), content) == (200, "keep-alive", b"hello")


# -- what stays uvicorn's --------------------------------------------------------------------------------


@pytest.fixture
def served():
    servers = []

    def start(app=hello, policy=None, **options):
        adapter.configure(policy or Policy())
        servers.append(Served(app, KACORE, "asyncio", **options))
        return servers[-1]

    yield start
    adapter.configure(None)
    for server in servers:
        server.stop()


def test_flags_win_where_they_differ_from_the_defaults_of_uvicorn():
    def policy(**options):
        return adapter.policy_for(uvicorn.Config(hello, **options)).default

    adapter.configure(Policy(keep_alive_timeout=40, max_connections=77))
    try:
        assert policy().keep_alive_timeout == 40
        assert policy(timeout_keep_alive=9).keep_alive_timeout == 9
        assert policy(limit_concurrency=5).max_connections == 5
        assert policy(timeout_graceful_shutdown=7).drain_timeout == 7
        assert policy(h11_max_incomplete_event_size=20000).max_head_bytes == 20000
    finally:
        adapter.configure(None)


def test_limit_concurrency_answers_503_when_nobody_can_go(served):
    entered, gate = threading.Event(), threading.Event()

    async def waits(scope, receive, send):
        entered.set()
        while not gate.is_set():
            await asyncio.sleep(0.005)
        await hello(scope, receive, send)

    server = served(waits, limit_concurrency=1)
    with server.connect() as busy:
        busy.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert entered.wait(PATIENCE)
        with server.connect() as newcomer:
            assert answer(newcomer)[0] == 503
        gate.set()
        assert answer(busy)[0] == 200


@pytest.mark.parametrize("field", ["handshake_timeout", "drain_lame_duck"])
def test_field_that_would_have_no_effect_inside_uvicorn_is_refused(monkeypatch, field):
    with pytest.raises(PolicyError, match=f"{field}=7: has no effect inside uvicorn"):
        adapter.configure(Policy(**{field: 7.0}))
    monkeypatch.setenv(f"KACORE_{field.upper()}", "7")
    with pytest.raises(PolicyError, match=f"{field}=7"):
        adapter.policy_for(uvicorn.Config(hello))


def test_rules_are_asked_for_each_request(served):
    with served(policy=PolicySet(Policy(), [Rule(host="b", keep_alive_timeout=20.0)])).connect() as sock:
        told = [ask(sock, host=f"Host: {host}")[1]["keep-alive"] for host in "aba"]
        assert told == ["timeout=74", "timeout=19", "timeout=74"]


def test_proxies_that_uvicorn_trusts_are_no_clients_of_the_limit(served):
    for trusted, status in (("127.0.0.1", 200), ("10.0.0.0/8, name", 503)):
        server = served(policy=Policy(max_connections_per_client=1), forwarded_allow_ips=trusted)
        with server.connect() as first, server.connect() as second:
            assert ask(first)[0] == 200
            assert ask(second)[0] == status


def test_request_that_crosses_the_idle_close_is_counted_and_told(served, caplog):
    server = served(policy=Policy(keep_alive_timeout=0.05))
    with server.connect() as sock:
        assert ask(sock)[0] == 200
        assert sock.recv(1) == b""
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: "a request from 127.0.0.1 was lost" in caplog.text)
    assert server.table.stats()["races"] == 1


def test_timeouts_are_learned_unless_a_flag_says_one(served, caplog):
    caplog.set_level("INFO")
    server = served(policy=Policy(keep_alive_min=1.0, pressure_start=0.0, pressure_full=1e-9))
    for n in range(3):
        with server.connect() as sock:
            assert ask(sock)[0] == 200
        wait_until(lambda n=n: server.table.stats()["closed"]["client"] == n + 1)
    with server.connect() as sock:
        assert int(ask(sock)[1]["keep-alive"].removeprefix("timeout=")) >= 4
    wait_until(lambda: "127.0.0.1 closes idle connections after" in caplog.text)
    with served(policy=Policy(), timeout_keep_alive=31).connect() as sock:
        assert ask(sock)[1]["keep-alive"] == "timeout=30"


def test_tls_extension_tells_of_the_connection(served, certificates):  # noqa: F811
    seen = []

    async def tells(scope, receive, send):
        seen.append(scope["extensions"]["tls"])
        await hello(scope, receive, send)

    path = certificates.issue("localhost")
    server = served(tells, ssl_certfile=path, ssl_keyfile=path)
    context = ssl.create_default_context(cafile=certificates.roots)
    with context.wrap_socket(server.connect(), server_hostname="localhost") as sock:
        assert ask(sock)[0] == ask(sock)[0] == 200
        assert [one["tls_version"] for one in seen] == [{"TLSv1.3": 0x0304, "TLSv1.2": 0x0303}[sock.version()]] * 2
    assert seen[0]["client_cert_chain"] == []


def test_variables_of_the_environment_make_the_policy_without_configure(monkeypatch):
    monkeypatch.setenv("KACORE_MAX_KEEP_ALIVE_REQUESTS", "3")
    assert adapter.policy_for(uvicorn.Config(hello)).default.max_keep_alive_requests == 3


def test_fields_of_uvicorn_are_sent_and_date_and_server_can_be_left_out(served):
    with served(headers=[("x-from", "uvicorn")]).connect() as sock:
        fields = ask(sock)[1]
        assert (fields["x-from"], fields["server"]) == ("uvicorn", "uvicorn")
        assert "date" in fields
    with served(server_header=False, date_header=False).connect() as sock:
        assert not {"date", "server"} & set(ask(sock)[1])


@pytest.mark.parametrize("names", [("one", "two"), (200 * "n",)])
def test_every_server_field_of_uvicorn_is_sent(served, names):
    with served(headers=[("Server", name) for name in names]).connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        head = b"".join(iter(lambda: sock.recv(65536), b"")).lower()
        assert re.findall(rb"\r\nserver: (\w+)", head) == [name.encode() for name in names]


def test_trace_level_tells_of_connections_as_uvicorn_does(served, caplog):
    module("wsproto")
    server = served(echo_app, log_level="trace", ws="wsproto")
    with server.connect() as sock, server.connect() as other:
        name = "{}:{}".format(*sock.getsockname())
        assert ask(other)[0] == 200
        assert ask(sock, *HANDSHAKE)[0] == 101
    wait_until(lambda: "HTTP connection lost" in caplog.text)
    for message in (f"{name} - HTTP connection made", f"{name} - Upgrading to WebSocket"):
        assert message in caplog.messages
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)


SEEN = contextvars.ContextVar("seen", default="nothing")


@pytest.mark.parametrize(
    ("loop", "reset", "first"),
    [
        ("asyncio", False, "outer"),
        ("uvloop", False, "outer"),
        *([("asyncio", True, "nothing"), ("uvloop", True, "nothing")] if "reset_contextvars" in OPTIONS else []),
    ],
)
def test_context_variables_of_a_request_are_not_those_of_another(loop, reset, first):
    """--reset-contextvars hides what was set around the server, too."""
    if loop == "uvloop":
        module("uvloop")

    async def tells(scope, receive, send):
        found = SEEN.get()
        SEEN.set("the request before")
        while (await receive()).get("more_body"):
            SEEN.set("the request before")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-found", found.encode())]})
        await send({"type": "http.response.body", "body": b""})

    adapter.configure(Policy())
    options = {"reset_contextvars": True} if reset else {}
    server = Served(tells, KACORE, loop, before=lambda: SEEN.set("outer"), **options)
    try:
        with server.connect() as sock:
            for content in (b"", 300_000 * b"x", b"", b"abc"):
                sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(content))
                sock.sendall(content)
                assert answer(sock)[1]["x-found"] == first
    finally:
        adapter.configure(None)
        server.stop()


# -- the end of the server -------------------------------------------------------------------------------


@pytest.fixture
def waiting_server(monkeypatch):
    """asyncio's servers wait for their transports since Python 3.12."""
    if sys.version_info < (3, 12):

        async def wait_closed(self):
            while self._active_count:
                await asyncio.sleep(0.01)

        monkeypatch.setattr(asyncio.base_events.Server, "wait_closed", wait_closed)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("idle", ["when told", "before"])
def test_client_that_does_not_answer_the_close_holds_up_no_exit(waiting_server, loop, idle):
    if loop == "uvloop":
        module("uvloop")
    adapter.configure(
        Policy(drain_grace=0.05, drain_spread=0.05, linger_timeout=60.0, keep_alive_timeout=60.0 if idle[0] == "w" else 0.05)
    )
    server = Served(hello, KACORE, loop)
    try:
        sock = server.connect()
        assert ask(sock)[0] == 200
        if idle == "before":
            assert sock.recv(1) == b""  # it lingers
        server.server.should_exit = True
        server.thread.join(PATIENCE)
        assert not server.thread.is_alive()
    finally:
        adapter.configure(None)
        server.stop()


def test_tls_client_that_does_not_answer_the_close_holds_up_no_exit(waiting_server, served, certificates):  # noqa: F811
    path = certificates.issue("localhost")
    policy = Policy(drain_grace=0.05, drain_spread=0.05, linger_timeout=60.0)
    server = served(policy=policy, ssl_certfile=path, ssl_keyfile=path)
    context = ssl.create_default_context(cafile=certificates.roots)
    with context.wrap_socket(server.connect(), server_hostname="localhost") as sock:
        assert ask(sock)[0] == 200
        server.server.should_exit = True
        server.thread.join(PATIENCE)
        assert not server.thread.is_alive()


def test_client_that_waited_for_a_place_is_one_of_uvicorns_connections_and_waited_for(served):
    entered, gate = threading.Semaphore(0), threading.Semaphore(0)

    async def waits(scope, receive, send):
        entered.release()
        while not gate.acquire(blocking=False):
            await asyncio.sleep(0.005)
        await hello(scope, receive, send)

    server = served(waits, policy=Policy(max_connections=1, min_idle_before_evict=0, drain_grace=0, drain_spread=0))
    request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with server.connect() as first:
        first.sendall(request)
        assert entered.acquire(timeout=PATIENCE)
        second = server.connect()
        second.sendall(request)
        gate.release()
        assert entered.acquire(timeout=PATIENCE)
        wait_until(lambda: len(server.server.server_state.connections) == 1)
        server.server.should_exit = True
        gate.release()
        assert (answer(first)[0], answer(second)[0]) == (200, 200)
        server.thread.join(PATIENCE)
        assert not server.thread.is_alive()


def test_requests_are_counted_for_limit_max_requests(served):
    server = served(limit_max_requests=2)
    with server.connect() as sock:
        assert ask(sock)[0] == 200
        assert ask(sock)[0] == 200
    server.thread.join(PATIENCE)
    assert not server.thread.is_alive()


def test_task_of_a_suspended_request_is_one_of_uvicorns_tasks_while_it_runs(served):
    seen = []

    async def waits(scope, receive, send):
        await asyncio.sleep(0)
        seen.append(asyncio.current_task() in server.server.server_state.tasks)
        await hello(scope, receive, send)

    server = served(waits)
    with server.connect() as sock:
        assert ask(sock)[0] == 200
    assert seen == [True]
    wait_until(lambda: not server.server.server_state.tasks)


def test_failing_application_is_logged_in_uvicorns_words(served, caplog):
    async def fails(scope, receive, send):
        raise RuntimeError("as planned")

    with served(fails).connect() as sock:
        assert ask(sock)[0] == 500
    assert [record.message for record in caplog.records if record.name == "uvicorn.error"].count(
        "Exception in ASGI application\n"
    ) == 1


HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
EMPTY_TEXT = b"\x81\x80\0\0\0\0"  # a websocket frame of a client


async def echo_app(scope, receive, send):
    """Each text of a websocket goes back; a request is answered with its path's last letter, late."""
    if scope["type"] == "http":
        await asyncio.sleep(0.05)
        return await hello(scope, receive, send)
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": "heard"})


@pytest.mark.filterwarnings("ignore")  # the oldest implementation is deprecated on both sides
@pytest.mark.parametrize("ws", ["wsproto", "websockets", "websockets-sansio"])
def test_websocket_is_handed_to_uvicorns_class_with_names_as_uvicorn_writes_them(served, ws):
    module("wsproto")
    if ws not in uvicorn.config.WS_PROTOCOLS:
        pytest.skip("this uvicorn has no such implementation")
    seen = []

    async def socket_app(scope, receive, send):
        seen.append(scope)
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "chat"})
        await send({"type": "websocket.close"})

    said = {"Cookie": "a=b", "Origin": "http://a", "Authorization": "Basic x", "X-Forwarded-Proto": "https", "X-A": "B"}
    server = served(socket_app, ws=ws, forwarded_allow_ips="127.0.0.1")
    with server.connect() as sock:
        lines = [f"{name}: {value}" for name, value in said.items()]
        asked = (*HANDSHAKE, *lines, "Sec-WebSocket-Protocol: chat")
        status, fields, _ = ask(sock, *asked, line="GET /chat?c=d HTTP/1.1")
        assert (status, fields["upgrade"].lower()) == (101, "websocket")
        assert fields["sec-websocket-protocol"] == "chat"
    (scope,) = seen
    assert (scope["type"], scope["path"], scope["query_string"], scope["scheme"]) == ("websocket", "/chat", b"c=d", "wss")
    assert scope["subprotocols"] == ["chat"]
    names = dict(scope["headers"])
    assert {name: names.get(name.lower().encode()) for name in said} == {k: v.encode() for k, v in said.items()}
    assert not any(name != name.lower() for name in names)
    assert server.table.stats()["closed"]["upgraded"] == 1


@pytest.mark.skipif("websockets-sansio" not in uvicorn.config.WS_PROTOCOLS, reason="a newer one of uvicorn's")
def test_websocket_behind_a_slow_request_gets_all_that_was_sent_behind_its_handshake(served):
    n_frames = 30_000  # more than is read ahead
    handshake = "\r\n".join(["GET /chat HTTP/1.1", "Host: a", *HANDSHAKE, "", ""]).encode()
    with served(echo_app, ws="websockets-sansio").connect() as sock:
        sender = threading.Thread(
            target=sock.sendall, args=(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + handshake + n_frames * EMPTY_TEXT,)
        )
        sender.start()
        got = b""
        while got.count(b"heard") < n_frames:
            more = sock.recv(1 << 20)
            assert more, got[:1000]
            got += more
        sender.join()


def test_websocket_of_a_client_that_has_ended_its_side_already_is_not_begun(served):
    module("wsproto")
    handshake = "\r\n".join(["GET /chat HTTP/1.1", "Host: a", *HANDSHAKE, "", ""]).encode()
    server = served(echo_app, ws="wsproto")
    with server.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + handshake)
        sock.shutdown(socket.SHUT_WR)
        assert is_closed(sock, PATIENCE)
    wait_until(lambda: not server.server.server_state.connections)


def test_version_of_uvicorn_that_is_too_old_is_refused_in_one_sentence(launch):
    child = launch("-c", "import uvicorn; uvicorn.__version__ = '0.29.0'\nimport kacore.embed.uvicorn")
    assert child.wait() == 1
    assert "ImportError: kacore.embed.uvicorn does not work with uvicorn 0.29.0: the oldest version" in child.text


def test_version_of_uvicorn_that_is_newer_is_warned_of_and_tried(launch):
    child = launch("-c", "import uvicorn; uvicorn.__version__ = '9.9.9'\nimport kacore.embed.uvicorn\nprint('goes on')")
    assert child.wait() == 0
    assert "UntestedHostWarning: kacore.embed.uvicorn has not been tested with uvicorn 9.9.9" in child.text
    assert "goes on" in child.text


def test_what_is_missing_in_uvicorn_is_named(launch):
    spoil = "import uvicorn.protocols.utils; del uvicorn.protocols.utils.get_client_addr\nimport kacore.embed.uvicorn"
    child = launch("-c", spoil)
    assert child.wait() == 1
    assert "uvicorn.protocols.utils:get_client_addr is missing there" in child.text


def test_importing_kacore_imports_no_host(launch):
    child = launch(
        "-c",
        "import sys, kacore, kacore.embed, kacore.embed.asyncio\n"
        "print([name for name in ('uvicorn', 'gunicorn', 'aiohttp', 'h2') if name in sys.modules])",
    )
    assert child.wait() == 0
    assert child.text.strip() == "[]"
