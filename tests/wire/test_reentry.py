"""What the application does to its driver from within the driver's own calls: every call, every deed, nothing breaks."""

import asyncio
import contextlib
import logging
import socket

import pytest

from kacore import ConnectionTable, Response
from kacore._core import HandlerApplication, LocalError, TransportProtocol, Transports

_core = pytest.importorskip("kacore._core")
if not _core.has_epoll:
    pytest.skip("there is no engine in this build", allow_module_level=True)

CALLS = ["handler", "class_for_client", "class_for_request", "access_log", "on_closed", "on_race"]
DEEDS = ["close", "stop_listening", "drain", "step", "set_classes", "stats", "unlisten"]
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Scene:
    """A driver, and clients that bring it to make each of its calls; at the first of the chosen one the deed is done."""

    has_accept_rules = has_request_rules = True  # it is the PolicySet, too

    def __init__(self, loop, kind, call, deed):
        self.loop, self.kind, self.call, self.deed = loop, kind, call, deed
        self.done = 0
        self.table = ConnectionTable()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        application = HandlerApplication(self.handler, None, logging.getLogger("test"))
        told = {name: lambda *_, name=name: self.at(name) for name in ("access_log", "on_closed", "on_race")}
        if kind == "engine":
            self.driver = _core.Engine(self.table, application, call_soon=loop.call_soon, **told)
            self.driver.listen(self.listener)
            self.fileno = self.driver.fileno()
            loop.add_reader(self.fileno, self.driver.step)
        else:
            self.driver = Transports(self.table, application, loop, **told)
        self.driver.set_classes(self)

    def class_for_client(self, listener, address):
        self.at("class_for_client")
        return 0

    def class_for_request(self, now, host, agent):
        self.at("class_for_request")
        return 0

    def handler(self, request):
        self.at("handler")
        return Response("hello\n")

    def at(self, call):
        if call != self.call or self.done:
            return
        self.done += 1
        if self.deed == "close":
            self.close()
            self.close()
        elif self.deed == "drain":
            self.driver.drain(grace=0.0, spread=0.0, timeout=0.0)
        elif self.deed == "set_classes":
            self.driver.set_classes(None)
        elif self.deed == "stats":
            assert self.driver.stats()["talks"] >= 0
        elif self.kind == "engine" and self.deed == "step":
            with pytest.raises(LocalError, match="from within"):
                self.driver.step()
        elif self.kind == "engine" and self.deed == "unlisten":
            self.driver.unlisten(self.listener)
            self.driver.listen(self.listener)
        elif self.kind == "engine":
            self.driver.stop_listening()
            self.listener.close()

    def close(self):
        if self.kind == "engine":
            self.loop.remove_reader(self.fileno)
        self.driver.close()
        if self.kind == "engine":
            self.listener.close()

    async def serve(self):
        if self.kind == "transports":
            self.server = await self.loop.create_server(lambda: TransportProtocol(self.driver), sock=self.listener)

    async def play(self):
        waits, busy, idle = clients = [Client(self.loop, self.listener) for _ in range(3)]
        waits.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        busy.say(GET + GET + b"GET /")
        idle.say(GET)
        await self.serve()
        await idle.hear(b"hello\n")
        with contextlib.suppress(LocalError):
            self.driver.drain(grace=0.0, spread=0.0, timeout=60.0)  # what is idle is half-closed
        await idle.hear()
        idle.say(GET)  # which crosses that
        waits.say(b"hello")
        await waits.hear()
        for one in clients:
            one.sock.close()
        while len(self.table):
            await asyncio.sleep(0.001)
        self.close()
        if self.kind == "transports":
            self.server.close()


class Client:
    def __init__(self, loop, listener):
        self.loop = loop
        self.heard = b""
        self.sock = socket.create_connection(listener.getsockname())
        self.sock.setblocking(False)

    def say(self, text):
        with contextlib.suppress(ConnectionError):
            self.sock.send(text)

    async def hear(self, until=None):
        """Up to `until`, or to the end."""
        with contextlib.suppress(ConnectionError):
            while not (until and until in self.heard):
                got = await self.loop.sock_recv(self.sock, 65536)
                self.heard += got
                if not got:
                    break
        return self.heard


@pytest.mark.parametrize("kind", ["engine", "transports"])
@pytest.mark.parametrize("call", CALLS)
def test_a_driver_bears_what_is_done_to_it_from_within(kind, call, caplog):
    for deed in DEEDS:
        scene = Scene(asyncio.new_event_loop(), kind, call, deed)
        scene.loop.run_until_complete(scene.play())
        scene.loop.close()
        assert scene.done == 1, f"{call} was not called"
        assert len(scene.table) == 0
        scene.table.check()
    assert not caplog.records, [record.exc_info for record in caplog.records]


@pytest.mark.parametrize("kind", ["engine", "transports"])
def test_the_response_of_a_handler_that_closes_its_driver_is_sent_first(kind):
    scene = Scene(asyncio.new_event_loop(), kind, "handler", "close")

    async def play():
        client = Client(scene.loop, scene.listener)
        client.say(GET)
        await scene.serve()
        await client.hear()
        client.sock.close()
        if kind == "transports":
            scene.server.close()
        return client.heard

    heard = scene.loop.run_until_complete(play())
    scene.loop.close()
    assert heard.endswith(b"hello\n")
    assert len(scene.table) == 0
