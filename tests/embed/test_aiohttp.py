"""kacore's connections inside aiohttp, over loopback and on both loops. What it fixes is also tested with aiohttp's own
runner, where the test must fail by what is seen on the wire; there nothing is asked about a table."""

import asyncio
import gc
import signal
import socket
import ssl
import struct
import subprocess
import sys

import pytest

from tests.conftest import module

aiohttp = module("aiohttp")

from aiohttp import web  # noqa: E402

from kacore import Policy  # noqa: E402
from kacore.embed import aiohttp as adapter  # noqa: E402

PATIENCE = 20.0
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Client:
    """One connection to a server on this loop."""

    def __init__(self, reader, writer, patience):
        self.reader, self.writer, self.patience = reader, writer, patience

    async def ask(self, request=GET):
        self.writer.write(request)
        return await self.answer()

    async def answer(self):
        """Status, fields and content of the next response."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), self.patience)
        status, *lines = head.decode().removesuffix("\r\n\r\n").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        content = await self.reader.readexactly(int(fields.get("content-length", 0)))
        return int(status.split()[1]), fields, content

    async def rest(self):
        """What still comes until the server ends the connection."""
        return await asyncio.wait_for(self.reader.read(), self.patience)

    async def is_closed(self):
        try:
            await self.rest()
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True


class House:
    """A server of aiohttp on this loop, and its clients."""

    def __init__(self, runner):
        self.runner = runner
        self.clients = []
        self.is_stock = not isinstance(runner, adapter.AppRunner)

    @property
    def table(self):
        return self.runner.server.table

    async def closes_one(self, cause):
        """Wait until the table has counted one that ended by this cause."""
        await until(lambda: self.is_stock or self.table.stats()["closed"][cause] == 1)

    async def has(self, phase, n=1):
        """Wait until so many connections are in this phase."""
        await until(lambda: self.is_stock or self.table.stats()["phases"][phase] == n)

    async def connect(self, **options):
        return await self.adopt(host="127.0.0.1", port=self.runner.addresses[0][1], **options)

    async def adopt(self, **options):
        reader, writer = await asyncio.open_connection(**options)
        self.clients.append(Client(reader, writer, 0.6 if self.is_stock else PATIENCE))
        return self.clients[-1]


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.002)


async def hello(request):
    return web.Response(text="hello")


KACORE = [pytest.param(("kacore", loop), id=f"kacore-{loop}") for loop in ("asyncio", "uvloop")]
STOCK = pytest.param(("aiohttp", "asyncio"), id="stock", marks=pytest.mark.xfail(strict=True, reason="fixed here"))


def visitor(whose, which):
    factory = module("uvloop").new_event_loop if which == "uvloop" else asyncio.new_event_loop

    def run(scenario, handler=hello, **fields):
        async def main():
            app = web.Application()
            app.router.add_route("*", "/", handler)
            if whose == "kacore":
                policy = Policy(**{"drain_grace": 0.0, "drain_spread": 0.0, "drain_timeout": 0.5, **fields})
                runner = adapter.AppRunner(app, policy=policy, access_log=None)
            else:
                runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            house, server = House(runner), runner.server
            try:
                await asyncio.wait_for(scenario(house), 2 * PATIENCE)
            finally:
                await runner.cleanup()
                for client in house.clients:
                    client.writer.close()
            if not house.is_stock:
                server.table.check()
                assert len(server.table) == 0
                stats = server.stats()
                assert stats["accepted"] == sum(stats["closed"].values())

        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(main())

    return run


@pytest.fixture(params=[*KACORE, STOCK])
def visit(request):
    """visit(scenario, handler, field=...) runs `await scenario(house)`, with nothing left in the table. What fails with
    aiohttp's own runner."""
    return visitor(*request.param)


@pytest.fixture(params=KACORE)
def visit_kacore(request):
    """The same for what only a table can tell, or what aiohttp does as well."""
    return visitor(*request.param)


# -- deadlines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "cause"), [(b"", "first_byte_timeout"), (b"\r\n", "first_byte_timeout"), (b"GET / HT", "header_timeout")]
)
def test_client_that_sends_no_whole_head_is_closed_by_its_deadline(visit, sent, cause):
    async def scenario(house):
        client = await house.connect()
        client.writer.write(sent)
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 408 ") if cause == "header_timeout" else answer == b""
        client.writer.close()
        await house.closes_one(cause)

    visit(scenario, **{"request_header_timeout" if cause == "header_timeout" else cause: 0.1})


def test_bytes_do_not_restart_the_deadline_of_a_head(visit):
    async def scenario(house):
        client = await house.connect()

        async def trickle():
            for byte in b"GET / HTTP/1.1\r\nHost: " + b"a" * 100:
                client.writer.write(bytes([byte]))
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert await client.is_closed()
        trickling.cancel()

    visit(scenario, request_header_timeout=0.2)


async def reads_all(request):
    return web.Response(body=await request.read())


UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"


def test_silent_upload_is_answered_408_and_the_handler_released(visit):
    released = []

    async def handler(request):
        try:
            return await reads_all(request)
        except OSError as error:
            released.append(error)
            raise

    async def scenario(house):
        client = await house.connect()
        client.writer.write(UPLOAD + b"x" * 10)
        assert (await client.answer())[0] == 408
        client.writer.close()
        await house.closes_one("body_timeout")
        assert released

    visit(scenario, handler, request_body_timeout=0.15)


def test_trickled_upload_is_closed_for_its_rate(visit):
    async def scenario(house):
        client = await house.connect()
        client.writer.write(UPLOAD)

        async def trickle():
            while True:
                client.writer.write(b"x")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert (await client.answer())[0] == 408
        trickling.cancel()
        client.writer.close()
        await house.closes_one("body_rate")

    visit(scenario, reads_all, request_body_timeout=5.0, min_request_body_rate=1000, rate_window=0.2)


async def big(request):
    return web.Response(body=b"y" * 20_000_000)


async def takes_nothing(house):
    client = await house.connect(limit=1024)
    client.writer.write(GET)
    await house.has("write")
    await (house.closes_one("send_timeout") if not house.is_stock else asyncio.sleep(1))
    assert len(await client.rest()) < 20_000_000


def test_client_that_takes_nothing_is_closed_by_its_deadline(visit):
    visit(takes_nothing, big, send_timeout=0.2)


async def narrow(request):
    """More than the kernel takes here, and less than what aiohttp waits for."""
    request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return web.Response(body=b"y" * 60_000)


async def connect_narrow(house):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, house.runner.addresses[0])
    return await house.adopt(sock=sock, limit=1024)


def test_complete_response_that_the_kernel_has_not_taken_is_no_idle_connection(visit_kacore):
    async def scenario(house):
        client = await connect_narrow(house)
        client.writer.write(GET + GET)
        await house.has("write")
        client.writer.write(GET[:9])
        for _ in range(2):
            assert len((await client.answer())[2]) == 60_000
        await house.has("head")
        assert len((await client.ask(GET[9:]))[2]) == 60_000
        await house.has("idle")
        assert house.table.stats()["requests"] == 3

    visit_kacore(scenario, narrow)


def test_last_response_is_taken_whole_before_the_connection_lingers(visit_kacore):
    async def scenario(house):
        client = await connect_narrow(house)
        client.writer.write(GET)
        await house.has("write")
        await asyncio.sleep(0.3)
        assert (await client.rest()).endswith(b"y" * 60_000)
        client.writer.close()
        await house.closes_one("max_requests")

    visit_kacore(scenario, narrow, max_keep_alive_requests=1, linger_timeout=0.1)


def test_last_response_that_is_not_taken_ends_by_its_deadline(visit_kacore):
    async def scenario(house):
        client = await connect_narrow(house)
        client.writer.write(GET)
        await house.has("write")
        await house.closes_one("send_timeout")

    visit_kacore(scenario, narrow, max_keep_alive_requests=1, send_timeout=0.2)


@pytest.fixture
def serves_file(tmp_path):
    """A handler that has the loop send a file, where the loop can."""
    path = tmp_path / "file"
    path.write_bytes(b"y" * 20_000_000)

    async def handler(request):
        return web.FileResponse(path)

    return handler


def test_client_that_takes_nothing_of_a_file_is_closed_by_its_deadline(visit, serves_file):
    visit(takes_nothing, serves_file, send_timeout=0.2)


def test_file_is_sent_whole_and_the_next_request_answered(visit_kacore, serves_file):
    async def scenario(house):
        client = await house.connect()
        client.writer.write(GET + GET)
        for _ in range(2):
            assert len((await client.answer())[2]) == 20_000_000
        await house.has("idle")

    visit_kacore(scenario, serves_file)


def test_what_a_client_takes_of_a_file_is_progress_before_the_loop_can_send_more(serves_file):
    async def scenario(house):
        client = await house.connect(limit=1024)
        client.writer.write(GET)
        await house.has("write")
        (handler,) = house.runner.server.connections
        for _ in range(5):
            handler.write_progress(house.runner.server.now())
            before = handler._unsent
            await asyncio.wait_for(client.reader.readexactly(200_000), PATIENCE)
            await until(lambda before=before: handler._count_unsent() < before)
        await house.has("write")

    visitor("kacore", "asyncio")(scenario, serves_file)


def test_idle_connection_is_half_closed_by_its_deadline_and_a_crossing_request_counted(visit):
    async def scenario(house):
        client = await house.connect()
        assert (await client.ask())[2] == b"hello"
        assert await client.rest() == b""
        client.writer.write(GET)
        await until(lambda: house.is_stock or house.table.stats()["races"] == 1)
        client.writer.close()
        await house.closes_one("idle_timeout")

    visit(scenario, keep_alive_timeout=0.1)


def test_timeouts_are_learned_from_who_closes_first(visit_kacore, caplog):
    caplog.set_level("INFO")

    async def scenario(house):
        for n in range(3):
            client = await house.connect()
            assert (await client.ask())[2] == b"hello"
            client.writer.close()
            await until(lambda n=n: house.table.stats()["closed"]["client"] == n + 1)
        client = await house.connect()
        fields = (await client.ask())[1]
        assert int(fields["keep-alive"].removeprefix("timeout=")) >= 4
        client.writer.close()
        await until(lambda: len(house.table) == 0)
        assert "127.0.0.1 closes idle connections after" in caplog.text

    visit_kacore(scenario, keep_alive_min=1.0, pressure_start=0.0, pressure_full=1e-9)


def test_handler_over_its_time_is_cancelled_and_answered_503(visit):
    cancelled = []

    async def handler(request):
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def scenario(house):
        client = await house.connect()
        assert (await client.ask())[0] == 503
        await until(lambda: cancelled)

    visit(scenario, handler, handler_timeout=0.1)


def test_there_is_one_timer_for_all_connections(visit):
    async def scenario(house):
        timers = []
        loop = asyncio.get_running_loop()
        if hasattr(loop, "_scheduled"):  # asyncio's; uvloop does not show its own
            before = len(loop._scheduled)
            timers.append(lambda: len(loop._scheduled) - before)
        for _ in range(50):
            await (await house.connect()).ask()
        assert all(count() <= 2 for count in timers)
        await house.has("idle", 50)

    visit(scenario)


# -- room --------------------------------------------------------------------------------------------------


def test_full_server_evicts_the_longest_idle_one(visit):
    async def scenario(house):
        first, second = await house.connect(), await house.connect()
        await first.ask()
        await second.ask()
        third = await house.connect()
        assert (await third.ask())[0] == 200
        assert await first.is_closed()
        assert (await second.ask())[0] == 200
        await house.closes_one("evicted")

    visit(scenario, max_connections=2)


def test_full_server_of_a_slow_upload_and_a_client_that_takes_nothing_has_room(visit_kacore):
    async def handler(request):
        if request.method == "POST":
            await request.read()
        return web.Response(body=bytes(16 << 20) if "big" in request.query else b"hello")

    async def scenario(house):
        upload, silent = await house.connect(), await house.connect()
        upload.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nx")
        silent.writer.transport.pause_reading()
        silent.writer.write(b"GET /?big HTTP/1.1\r\nHost: a\r\n\r\n")
        await house.has("body")
        await house.has("write")
        await until(lambda: house.table.victim(asyncio.get_running_loop().time()))
        assert (await (await house.connect()).ask())[0] == 200
        assert (await upload.answer())[0] == 408
        await house.closes_one("evicted")

    visit_kacore(scenario, handler, max_connections=2, rate_window=0.1)


def test_newcomer_is_answered_503_when_nobody_can_go(visit):
    async def waits(request):
        await asyncio.sleep(30)

    async def scenario(house):
        (await house.connect()).writer.write(GET)
        await house.has("busy")
        status, fields, _ = await (await house.connect()).answer()
        assert status == 503 and fields["retry-after"] == "7"
        await house.closes_one("rejected")

    visit(scenario, waits, max_connections=1, retry_after=7)


def test_one_client_has_its_limit_of_connections(visit):
    async def scenario(house):
        first = await house.connect()
        await first.ask()
        assert (await (await house.connect()).answer())[0] == 503
        assert (await first.ask())[0] == 200
        await house.closes_one("client_limit")

    visit(scenario, max_connections_per_client=1)


def test_connection_that_is_reset_leaves_nothing_behind(visit_kacore):
    async def scenario(house):
        client = await house.connect()
        await client.ask()
        server = house.runner.server
        gc.collect()
        gc.disable()
        try:
            sock = client.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.writer.close()
            await until(lambda: not server.connections)
            await asyncio.sleep(0)
            kinds = (aiohttp.web_protocol.RequestHandler, aiohttp.web_log.AccessLogger)
            assert [one for one in gc.get_objects() if isinstance(one, kinds)] == []
        finally:
            gc.enable()

    visit_kacore(scenario)


# -- what responses say ------------------------------------------------------------------------------------


def test_responses_advertise_how_long_and_how_often(visit):
    async def scenario(house):
        client = await house.connect()
        _, fields, _ = await client.ask()
        assert (fields["connection"], fields["keep-alive"]) == ("keep-alive", "timeout=29, max=2")
        _, fields, _ = await client.ask()
        assert fields["keep-alive"] == "timeout=29, max=1"
        _, fields, _ = await client.ask()
        assert fields["connection"] == "close" and "keep-alive" not in fields
        assert await client.rest() == b""
        client.writer.close()
        await house.closes_one("max_requests")

    visit(scenario, keep_alive_timeout=30, max_keep_alive_requests=3)


def test_response_of_unknown_length_ends_a_connection_of_http_1_0(visit):
    async def streams(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"some")
        return response

    async def scenario(house):
        client = await house.connect()
        client.writer.write(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (await client.rest()).endswith(b"some")

    visit(scenario, streams)


def test_pipelined_requests_are_each_counted_and_answered_in_order(visit_kacore):
    async def scenario(house):
        client = await house.connect()
        client.writer.write(GET * 40 + GET[:9])
        for _ in range(40):
            assert (await client.answer())[0] == 200
        assert (await client.ask(GET[9:]))[0] == 200
        stats = house.table.stats()
        assert (stats["requests"], stats["reused"]) == (41, 40)

    visit_kacore(scenario)


# -- leaving -----------------------------------------------------------------------------------------------


def test_request_on_an_idle_connection_is_answered_in_a_drain(visit):
    async def scenario(house):
        client = await house.connect()
        await client.ask()
        leaving = asyncio.create_task(house.runner.server.shutdown(5.0))
        await until(lambda: house.is_stock or house.table.is_draining)
        status, fields, _ = await client.ask()
        assert status == 200 and fields["connection"] == "close"
        assert await client.rest() == b""
        await asyncio.wait_for(leaving, 1.5)

    visit(scenario, drain_grace=2.0, drain_spread=1.0, drain_timeout=5.0)


def test_drain_waits_for_a_request_and_then_cancels_it(visit_kacore):
    async def scenario(house):
        client, other = await house.connect(), await house.connect()
        client.writer.write(GET)
        other.writer.write(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        await house.has("busy", 2)
        leaving = asyncio.create_task(house.runner.server.shutdown(0.4))
        assert (await client.answer())[0] == 200
        assert b" 503 " in await other.rest()
        await asyncio.wait_for(leaving, 2.0)

    async def handler(request):
        await asyncio.sleep(0.1 if request.method == "GET" else 30)
        return web.Response()

    visit_kacore(scenario, handler, drain_timeout=0.4)


SERVED = """
from aiohttp import web
from kacore import Policy
from kacore.embed.aiohttp import run_app

async def hello(request):
    return web.Response(text="hello")

app = web.Application()
app.router.add_get("/", hello)
run_app(app, host="127.0.0.1", port=0, policy=Policy(drain_grace=2.0), access_log=None)
"""


def test_run_app_answers_an_idle_connection_after_sigterm_and_ends(launch, tmp_path):
    child = launch("-c", SERVED)
    port = int(child.wait_for(r"http://127.0.0.1:(\d+)")[1])
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        sock.sendall(GET)
        assert b"keep-alive: timeout=" in sock.recv(65536).lower()
        child.send_signal(signal.SIGTERM)
        sock.settimeout(PATIENCE)
        while True:  # until the listener is gone the signal may not have been seen
            try:
                socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
            except OSError:
                break
        sock.sendall(GET)
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
    assert b"connection: close" in answer.lower() and answer.endswith(b"hello")
    assert child.wait() == 0, child.text


# -- what stays aiohttp's ----------------------------------------------------------------------------------


def test_websocket_is_a_tunnel_without_a_deadline():
    async def echo(request):
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            await ws.send_str(message.data)
        return ws

    async def main():
        app = web.Application()
        app.router.add_get("/", echo)
        policy = Policy(keep_alive_timeout=0.05, first_byte_timeout=0.05, handler_timeout=0.05, drain_timeout=0.5)
        runner = adapter.AppRunner(app, policy=policy)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{runner.addresses[0][1]}") as ws:
            await until(lambda: runner.stats()["phases"]["tunnel"])  # older ones say 101 a little earlier
            await asyncio.sleep(0.2)
            await ws.send_str("hi")
            assert await ws.receive_str() == "hi"
        await until(lambda: runner.stats()["closed"]["upgraded"] == 1)
        await runner.cleanup()

    asyncio.run(main())


def test_keep_alive_field_of_the_application_is_not_sent(visit_kacore):
    async def handler(request):
        return web.Response(headers={"Keep-Alive": "timeout=9999", "Connection": "keep-alive"})

    async def scenario(house):
        fields = (await (await house.connect()).ask())[1]
        assert "keep-alive" not in fields and "connection" not in fields

    visit_kacore(scenario, handler, advertise=False)


@pytest.mark.parametrize("which", ["asyncio", "uvloop"])
def test_tls_handshake_has_the_policys_deadline(need, which):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    need("module:trustme").CA().issue_cert("localhost").configure_cert(context)

    async def main():
        runner = adapter.AppRunner(web.Application(), policy=Policy(handshake_timeout=0.1))
        await runner.setup()
        site = adapter.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", runner.addresses[0][1])
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()
        await runner.cleanup()

    factory = module("uvloop").new_event_loop if which == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as loop:
        loop.run(main())


EVERYWHERE = """
import os, socket, sys
from aiohttp import web
from kacore.embed.aiohttp import run_app

async def hello(request):
    return web.Response(text="hello")

async def make():
    app = web.Application()
    app.router.add_get("/", hello)
    return app

class Wrapped:  # a socket by another name: nothing that can be iterated over is one
    def __init__(self, sock): self.sock = sock
    def __getattr__(self, name): return getattr(self.sock, name)

one, two = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
run_app(make(), host=["127.0.0.1", "localhost"], port=0, path=[sys.argv[1], sys.argv[2]], sock=(one, two), reuse_port=True,
    backlog=64, keepalive_timeout=5.0, shutdown_timeout=0.1, access_log=None, handler_cancellation=True, handle_signals=True)
"""


def test_run_app_listens_wherever_aiohttps_does(launch, tmp_path):
    paths = [str(tmp_path / name) for name in ("a", "b")]
    child = launch("-c", EVERYWHERE, *paths)
    names = child.wait_for(r"Running on (.*) =+")[1].split(", ")
    assert sorted(name for name in names if "unix" in name) == [f"http://unix:{path}:" for path in paths]
    for name in names:
        family, address = socket.AF_UNIX, name.removeprefix("http://unix:").removesuffix(":")
        if "unix" not in name:
            family, address = socket.AF_INET, ("127.0.0.1", int(name.rpartition(":")[2]))
        with socket.socket(family) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(address)
            sock.sendall(GET)
            assert b"keep-alive: timeout=4" in sock.recv(65536).lower()
    assert len(names) == 6
    child.send_signal(signal.SIGTERM)
    assert child.wait() == 0, child.text


BY_GUNICORN = """
import os
from aiohttp import web
from kacore import Policy
from kacore.embed.aiohttp import AppRunner

async def hello(request):
    return web.Response(text=str(os.getpid()))

async def app():
    made = web.Application()
    made.router.add_get("/", hello)
    return AppRunner(made, policy=Policy(drain_grace=0.1, drain_spread=0.1))
"""


@pytest.mark.needs("module:gunicorn")
def test_runner_is_served_by_aiohttps_gunicorn_worker(launch, tmp_path):
    (tmp_path / "app.py").write_text(BY_GUNICORN)
    worker = ("-k", "aiohttp.GunicornWebWorker", "-b", "127.0.0.1:0", "app:app")
    child = launch("-m", "gunicorn", *worker, cwd=tmp_path)
    port = int(child.wait_for(r"Listening at: http://127.0.0.1:(\d+)")[1])
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        sock.sendall(GET)
        assert b"keep-alive: timeout=" in sock.recv(65536).lower()
    child.send_signal(signal.SIGTERM)
    assert child.wait() == 0, child.text


@pytest.mark.skipif(
    not hasattr(aiohttp.web_protocol.RequestHandler, "max_headers"), reason="an older one keeps them in its parser only"
)
def test_arguments_of_aiohttp_count_instead_of_the_policy():
    async def main():
        app = web.Application()
        policy = Policy(max_headers=50, drain_timeout=3.0)
        runner = adapter.AppRunner(app, policy=policy, keepalive_timeout=7, shutdown_timeout=9, max_line_size=100)
        await runner.setup()
        server = runner.server
        assert (server.policy.keep_alive_timeout, server.policy.drain_timeout) == (7.0, 9.0)
        assert server.policy.first_byte_timeout == 7.0
        assert server().max_headers == 50 and server().max_line_size == 100 and server().max_field_size == 8190
        await runner.cleanup()

    asyncio.run(main())


def test_rules_are_refused():
    async def main():
        with pytest.raises(TypeError, match=r"policy is a kacore.Policy, not PolicySet"):
            adapter.Server(hello, policy=__import__("kacore").PolicySet(Policy(), []))

    asyncio.run(main())


@pytest.mark.parametrize("field", sorted(adapter.PACKAGE.ineffective))
def test_field_without_effect_is_refused(field):
    async def main():
        with pytest.raises(ValueError, match=f"^{field}=.*has no effect inside aiohttp"):
            adapter.Server(hello, policy=Policy().replace(**{field: getattr(Policy(), field) + 1}))

    asyncio.run(main())


def test_newcomers_are_served_while_a_lame_duck_waits(visit_kacore):
    async def scenario(house):
        port = house.runner.addresses[0][1]
        leaving = asyncio.create_task(house.runner.cleanup())
        await asyncio.sleep(0)
        client = await house.adopt(host="127.0.0.1", port=port)
        assert (await client.ask())[2] == b"hello"
        client.writer.close()
        await leaving
        with pytest.raises(OSError):
            await house.adopt(host="127.0.0.1", port=port)

    visit_kacore(scenario, drain_lame_duck=0.3)


def test_importing_kacore_imports_no_host(python_environment):
    hosts = ("aiohttp", "gunicorn", "h2", "uvicorn")
    code = f"import sys, kacore, kacore.embed, kacore.server; print([m for m in {hosts} if m in sys.modules])"
    child = subprocess.run([sys.executable, "-c", code], env=python_environment, capture_output=True, text=True, timeout=30)
    assert child.stdout == "[]\n", child.stderr


@pytest.mark.parametrize(
    ("spoiled", "status", "sentence"),
    [
        ("aiohttp.__version__ = '3.9.5'", 1, "does not work with aiohttp 3.9.5: the oldest version it supports is 3.10"),
        ("aiohttp.__version__ = '4.0.1'", 0, "kacore.embed.aiohttp has not been tested with aiohttp 4.0.1"),
        ("del aiohttp.streams.StreamReader._wait", 1, "aiohttp.streams:StreamReader._wait is missing there"),
    ],
)
def test_version_that_is_not_known_is_told_in_one_sentence(python_environment, spoiled, status, sentence):
    code = f"import aiohttp; {spoiled}; import kacore.embed.aiohttp"
    child = subprocess.run([sys.executable, "-c", code], env=python_environment, capture_output=True, text=True, timeout=60)
    assert child.returncode == status
    assert sentence in child.stderr
