"""The HTTP/2 example: kacore's table under h2, seen by curl, by h2load and by a client that can misbehave."""

import asyncio
import importlib.util
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.conftest import module

module("h2")

from h2 import events  # noqa: E402
from h2.config import H2Configuration  # noqa: E402
from h2.connection import H2Connection  # noqa: E402
from h2.errors import ErrorCodes  # noqa: E402
from h2.settings import SettingCodes  # noqa: E402
from hyperframe.frame import ContinuationFrame, HeadersFrame  # noqa: E402

from kacore import Policy  # noqa: E402

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "h2_server.py"
PATIENCE = 20.0
CONNECTION_SPECIFIC = ("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade")


def load_example():
    spec = importlib.util.spec_from_file_location("h2_server", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


example = load_example()


class House:
    """A server of the example on this loop."""

    def __init__(self, server, port):
        self.server, self.table, self.port = server, server.table, port
        self.clients = []

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.002)

    async def closes_one(self, cause):
        await self.until(lambda: self.table.stats()["closed"][cause] == 1)

    async def has(self, phase, n=1):
        await self.until(lambda: self.table.stats()["phases"][phase] == n)

    async def connect(self, settings=None):
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        client.h2.initiate_connection()
        if settings:
            client.h2.update_settings(settings)
        client.flush()
        return client


class Client:
    """A client's end, on the other side of the same package; what it may not do is written as bytes."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False))
        self.events, self.goaways, self.takes_windows = [], [], True
        self.is_mute = False

    def flush(self):
        self.writer.write(self.h2.data_to_send())

    def get(self, path="/", method="GET", end=True):
        number = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "a")]
        self.h2.send_headers(number, head, end_stream=end)
        return number

    async def read(self):
        """What comes next; False at the end."""
        data = await asyncio.wait_for(self.reader.read(65536), PATIENCE)
        self.note_goaways(data)
        try:
            for event in self.h2.receive_data(data):
                self.events.append(event)
                if isinstance(event, events.DataReceived) and self.takes_windows:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        except Exception:
            pass  # h2 wants no more frames after a GOAWAY
        if data and not self.goaways and not self.is_mute:
            self.flush()
        return bool(data)

    def note_goaways(self, data):
        """Frames of type 7; those that the server sends are 17 bytes and never cut up on loopback."""
        at = 0
        while (at := data.find(b"\x00\x00\x08\x07\x00\x00\x00\x00\x00", at)) >= 0 and len(data) >= at + 17:
            last, code = data[at + 9 : at + 13], data[at + 13 : at + 17]
            self.goaways.append((int.from_bytes(last, "big"), ErrorCodes(int.from_bytes(code, "big"))))
            at += 17

    async def answer(self, number):
        """Fields and content of the response to a stream."""
        while not any(isinstance(e, events.StreamEnded) and e.stream_id == number for e in self.events):
            assert await self.read(), (self.events, self.goaways)
        mine = [e for e in self.events if getattr(e, "stream_id", None) == number]
        fields = [e.headers for e in mine if isinstance(e, events.ResponseReceived)]
        return dict(fields[0]), b"".join(e.data for e in mine if isinstance(e, events.DataReceived))

    async def ask(self, path="/"):
        number = self.get(path)
        self.flush()
        return await self.answer(number)

    async def ends(self):
        """The last GOAWAY before the server's end of the connection."""
        while await self.read():
            pass
        return self.goaways[-1] if self.goaways else None


def visit(scenario, app=None, tls=None, **fields):
    async def main():
        policy = Policy(**{"drain_grace": 0.0, "drain_spread": 0.0, "drain_timeout": 0.5, **fields})
        server = example.Server(app or example.hello, policy)
        listener = await server.loop.create_server(lambda: example.Connection(server), "127.0.0.1", 0, ssl=tls)
        house = House(server, listener.sockets[0].getsockname()[1])
        try:
            await asyncio.wait_for(scenario(house), 3 * PATIENCE)
        finally:
            listener.close()
            await server.drain()
            for client in house.clients:
                client.writer.close()
        server.table.check()
        assert len(server.table) == 0 and not server.connections
        assert not server.stalled.since and not server.uploading.since
        stats = server.table.stats()
        assert stats["accepted"] == sum(stats["closed"].values())

    asyncio.run(main())


async def run(*argv):
    """The output of a program."""
    child = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = await asyncio.wait_for(child.communicate(), PATIENCE)
    assert child.returncode == 0, output.decode()
    return output.decode()


@pytest.fixture(scope="module")
def server_tls(need, tmp_path_factory):
    """A context for the server, and the path of the authority's certificate."""
    trustme = need("module:trustme")
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    context.set_alpn_protocols(["h2"])
    path = tmp_path_factory.mktemp("tls") / "authority.pem"
    authority.cert_pem.write_to_path(path)
    return context, str(path)


# -- other people's clients --------------------------------------------------------------------------------


@pytest.mark.needs("curl")
@pytest.mark.parametrize("secured", [False, True])
def test_curl_is_answered_and_never_sees_a_connection_specific_field(secured, server_tls):
    async def careless(fields, body):
        return 200, [(name, "close, x-hop") for name in CONNECTION_SPECIFIC] + [("x-hop", "1"), ("x-end", "2")], b"hello"

    async def scenario(house):
        how = ("--cacert", server_tls[1]) if secured else ("--http2-prior-knowledge",)
        scheme = "https" if secured else "http"
        output = await run("curl", "-si", "--http2", *how, f"{scheme}://127.0.0.1:{house.port}/")
        head, _, content = output.partition("\r\n\r\n")
        status, *lines = head.split("\r\n")
        assert status.strip() == "HTTP/2 200" and content == "hello"
        assert [line.partition(":")[0] for line in lines] == ["x-end", "content-length"]

    visit(scenario, careless, server_tls[0] if secured else None)


@pytest.mark.needs("curl")
def test_curl_sends_and_receives_more_than_a_window(tmp_path):
    async def scenario(house):
        (tmp_path / "sent").write_bytes(bytes(range(256)) * 3000)
        sent = f"@{tmp_path / 'sent'}"
        await run("curl", "-s", "--http2-prior-knowledge", "--data-binary", sent, "-o", str(tmp_path / "got"),
                  f"http://127.0.0.1:{house.port}/")  # fmt: skip
        assert (tmp_path / "got").read_bytes() == (tmp_path / "sent").read_bytes()

    visit(scenario)


@pytest.mark.needs("h2load")
@pytest.mark.parametrize("secured", [False, True])
def test_h2load_has_every_request_answered_on_few_connections(secured, server_tls):
    async def scenario(house):
        scheme = "https" if secured else "http"
        output = await run("h2load", "-n300", "-c3", "-m10", f"{scheme}://127.0.0.1:{house.port}/1000")
        assert "300 succeeded, 0 failed" in output
        stats = house.table.stats()
        assert (stats["accepted"], stats["requests"], stats["reused"]) == (3, 300, 297)

    visit(scenario, tls=server_tls[0] if secured else None)


@pytest.mark.needs("curl")
def test_client_without_alpn_is_turned_away(server_tls):
    async def scenario(house):
        context = ssl.create_default_context(cafile=server_tls[1])
        _, writer = await asyncio.open_connection("127.0.0.1", house.port, ssl=context)
        await house.closes_one("bad_request")
        writer.close()

    visit(scenario, tls=server_tls[0])


@pytest.mark.needs("curl")
def test_example_serves_as_a_program_and_ends_gracefully(launch):
    child = launch(str(EXAMPLE), "0")
    url = child.wait_for(r"http://\S+")[0]
    output = subprocess.run(["curl", "-s", "--http2-prior-knowledge", url], capture_output=True, timeout=PATIENCE)
    assert output.stdout == b"hello\n"
    assert child.stop() == 0, child.text


# -- deadlines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sent", "cause"), [(b"", "first_byte_timeout"), (b"PRI * HT", "header_timeout")])
def test_client_that_does_not_begin_is_closed_by_its_deadline(sent, cause):
    async def scenario(house):
        client = Client(*await asyncio.open_connection("127.0.0.1", house.port))
        client.is_mute = True
        client.writer.write(sent)
        await client.ends()
        client.writer.close()
        await house.closes_one(cause)

    visit(scenario, **{"request_header_timeout" if cause == "header_timeout" else cause: 0.1})


def test_settings_without_a_request_are_no_reason_to_stay():
    async def scenario(house):
        client = await house.connect()
        assert await client.ends() == (0, ErrorCodes.NO_ERROR)
        client.writer.close()
        await house.closes_one("header_timeout")

    visit(scenario, request_header_timeout=0.1)


def test_idle_is_no_open_stream_and_its_end_a_goaway_that_names_the_last_one():
    async def slow(fields, body):
        await asyncio.sleep(0.4)
        return 200, [], b"late"

    async def scenario(house):
        client = await house.connect()
        assert (await client.ask())[1] == b"late"
        assert house.table.stats()["phases"]["idle"] == 1
        assert await client.ends() == (1, ErrorCodes.NO_ERROR)
        client.writer.close()
        await house.closes_one("idle_timeout")

    visit(scenario, slow, keep_alive_timeout=0.1)


def test_client_that_grants_no_window_is_closed_by_its_deadline():
    async def scenario(house):
        client = await house.connect({SettingCodes.INITIAL_WINDOW_SIZE: 1000})
        client.takes_windows = False
        client.get("/100000")
        client.flush()
        assert await client.ends() == (1, ErrorCodes.CANCEL)
        client.writer.close()
        await house.closes_one("send_timeout")

    visit(scenario, send_timeout=0.2)


def test_client_that_takes_no_bytes_is_closed_by_its_deadline():
    async def scenario(house):
        client = await house.connect({SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
        client.h2.increment_flow_control_window(2**31 - 1 - 65535)
        client.get("/50000000")
        client.flush()
        await house.closes_one("send_timeout")

    visit(scenario, send_timeout=0.2)


def test_content_that_does_not_go_on_is_closed_by_its_deadline():
    async def scenario(house):
        client = await house.connect()
        number = client.get("/", "POST", end=False)
        client.h2.send_data(number, b"some")
        client.flush()
        assert await client.ends() == (1, ErrorCodes.CANCEL)
        client.writer.close()
        await house.closes_one("body_timeout")

    visit(scenario, request_body_timeout=0.1)


def test_handler_over_its_time_is_cancelled_with_its_connection():
    cancelled = []

    async def waits(fields, body):
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def scenario(house):
        client = await house.connect()
        client.get()
        client.flush()
        await client.ends()
        client.writer.close()
        await house.closes_one("handler_timeout")
        assert cancelled

    visit(scenario, waits, handler_timeout=0.1)


# -- room, and leaving -------------------------------------------------------------------------------------


def test_full_server_sends_the_longest_idle_one_away():
    async def scenario(house):
        first, second = await house.connect(), await house.connect()
        await first.ask()
        await second.ask()
        third = await house.connect()
        assert (await third.ask())[1] == b"hello\n"
        assert await first.ends() == (1, ErrorCodes.NO_ERROR)
        assert (await second.ask())[1] == b"hello\n"
        await house.closes_one("evicted")

    visit(scenario, max_connections=2)


def test_newcomer_is_turned_away_when_nobody_can_go():
    async def waits(fields, body):
        await asyncio.sleep(30)

    async def scenario(house):
        busy = await house.connect()
        busy.get()
        busy.flush()
        await house.has("busy")
        assert await (await house.connect()).ends() == (0, ErrorCodes.ENHANCE_YOUR_CALM)
        await house.closes_one("rejected")

    visit(scenario, waits, max_connections=1)


def test_last_request_that_is_allowed_is_answered_and_then_a_goaway_comes():
    async def scenario(house):
        client = await house.connect()
        await client.ask()
        await client.ask()
        await client.ends()
        assert client.goaways == [(2**31 - 1, ErrorCodes.NO_ERROR), (3, ErrorCodes.NO_ERROR)]
        client.writer.close()
        await house.closes_one("max_requests")

    visit(scenario, max_keep_alive_requests=2)


def test_drain_serves_what_is_under_way_and_names_the_last_stream():
    async def slow(fields, body):
        await asyncio.sleep(0.1)
        return 200, [], b"late"

    async def scenario(house):
        idle, busy = await house.connect(), await house.connect()
        await idle.ask()
        number = busy.get()
        busy.flush()
        await house.has("busy")
        crossing = idle.get()
        draining = asyncio.create_task(house.server.drain())
        await house.until(lambda: house.table.is_draining)
        idle.flush()  # was sent before the GOAWAY was read
        for client, stream in ((busy, number), (idle, crossing)):
            await client.ends()
            data = [e.data for e in client.events if isinstance(e, events.DataReceived) and e.stream_id == stream]
            assert client.goaways == [(2**31 - 1, ErrorCodes.NO_ERROR), (stream, ErrorCodes.NO_ERROR)]
            assert data == [] or data == [b"late"]  # h2's client hides what follows a GOAWAY
            client.writer.close()
        await draining
        assert house.table.stats()["requests"] == 3
        assert house.table.stats()["closed"]["drain"] == 2

    visit(scenario, slow, drain_grace=0.5, drain_timeout=5.0)


# -- hostile clients ---------------------------------------------------------------------------------------


def test_streams_that_are_opened_and_reset_end_the_connection():
    started = []

    async def counts(fields, body):
        started.append(True)
        await asyncio.sleep(30)

    async def scenario(house):
        client = await house.connect()
        for _ in range(1000):
            number = client.get()
            client.h2.reset_stream(number)
        client.flush()
        assert (await client.ends())[1] == ErrorCodes.ENHANCE_YOUR_CALM
        client.writer.close()
        await house.closes_one("bad_request")
        assert house.table.stats()["requests"] <= example.ALLOWANCE + 1
        assert len(started) <= example.ALLOWANCE + 1

    visit(scenario, counts)


def test_more_streams_at_once_than_allowed_end_the_connection():
    async def waits(fields, body):
        await asyncio.sleep(30)

    async def scenario(house):
        client = await house.connect()
        for _ in range(101):
            client.get()
        client.flush()
        assert (await client.ends())[1] != ErrorCodes.NO_ERROR
        client.writer.close()
        await house.closes_one("bad_request")
        assert house.table.stats()["requests"] <= 100

    visit(scenario, waits)


def test_head_that_goes_on_in_continuations_ends_the_connection():
    async def scenario(house):
        client = await house.connect()
        frames = [HeadersFrame(1, data=b"\x82")] + [ContinuationFrame(1, data=b"\x00\x01a\x01b") for _ in range(200)]
        client.writer.write(b"".join(frame.serialize() for frame in frames))
        assert (await client.ends())[1] != ErrorCodes.NO_ERROR
        client.writer.close()
        await house.closes_one("bad_request")

    visit(scenario)


@pytest.mark.parametrize("what", ["ping", "settings", "dribble", "empty"])
def test_frames_that_cost_only_us_end_the_connection(what):
    async def scenario(house):
        client = await house.connect({SettingCodes.INITIAL_WINDOW_SIZE: 0} if what == "dribble" else None)
        client.takes_windows = False
        number = client.get("/1000", "POST" if what == "empty" else "GET", end=what != "empty")
        client.flush()
        await house.until(lambda: house.table.stats()["requests"] == 1)
        for k in range(300):
            if what == "ping":
                client.h2.ping(b"12345678")
            elif what == "settings":
                client.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 4096 + k})
            elif what == "dribble":
                client.h2.increment_flow_control_window(1, number)
            else:
                client.h2.send_data(number, b"")
            client.flush()
        assert (await client.ends())[1] == ErrorCodes.ENHANCE_YOUR_CALM
        client.writer.close()
        await house.closes_one("bad_request")

    visit(scenario)


def test_content_over_its_limit_is_reset_and_the_connection_kept():
    async def scenario(house):
        client = await house.connect()
        number = client.get("/", "POST", end=False)
        client.flush()
        sent = 0
        while not any(isinstance(e, events.StreamReset) for e in client.events):
            room = min(client.h2.local_flow_control_window(number), 16384)
            if room and sent <= example.MAX_BODY:
                client.h2.send_data(number, b"x" * room)
                client.flush()
                sent += room
            else:
                await client.read()
        assert (await client.ask())[1] == b"hello\n"

    visit(scenario)


@pytest.mark.parametrize(("status", "length"), [(204, None), (304, None), (200, "5")])
def test_length_is_that_of_the_content_and_none_where_there_is_never_any(status, length):
    async def app(fields, body):
        return status, [("content-length", "99")], b"hello" if length else b""

    async def scenario(house):
        fields, content = await (await house.connect()).ask()
        assert fields.get("content-length") == length and len(content) == int(length or 0)

    visit(scenario, app)


def test_bytes_that_are_no_http_2_end_the_connection():
    async def scenario(house):
        client = Client(*await asyncio.open_connection("127.0.0.1", house.port))
        client.is_mute = True
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.ends())[1] == ErrorCodes.PROTOCOL_ERROR
        client.writer.close()
        await house.closes_one("bad_request")

    visit(scenario)
