"""Whatever code of an application is called, the engine may be closed in it: nothing of the connection is used after."""

import asyncio
import logging
import socket
from typing import Any

import pytest

import kacore
from kacore import _core

LOGGER = logging.getLogger("kacore.error")
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n"


class Closer:
    """Closes what it was given, from whatever is asked of it."""

    engine: Any = None

    def close_engine(self) -> None:
        self.engine.close()


CLOSER = Closer()


class Fields:
    def __iter__(self):
        CLOSER.close_engine()
        return iter([(b"x-a", b"a")])


class Pair:
    def __iter__(self):
        CLOSER.close_engine()
        return iter((b"x-a", b"a"))


class Value(bytes):
    def __bytes__(self):
        CLOSER.close_engine()
        return b"a"


class Body:
    def __iter__(self):
        CLOSER.close_engine()
        return iter([b"a", b"b"])


def pieces():
    yield b"a"
    CLOSER.close_engine()
    yield b"b"


def empty_pieces():
    CLOSER.close_engine()
    yield b""
    yield b""


ODD_FIELDS = {"fields": Fields, "pair": lambda: [Pair()], "value": lambda: [(b"x-a", Value(b"b"))]}
RESPONSES = {
    **{name: lambda make=make: kacore.Response(b"x", headers=make()) for name, make in ODD_FIELDS.items()},
    "body": lambda: kacore.Response(Body()),
    "next": lambda: kacore.Response(pieces()),
    "empty": lambda: kacore.Response(empty_pieces()),
    "handler": lambda: CLOSER.close_engine() or b"x",
}


def run(application_of: Any, io: str, access_log: Any = None) -> None:
    """Serve one request until the client's connection ends."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        table = kacore.ConnectionTable()
        application = application_of(loop)
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        if io == "epoll":
            engine: Any = _core.Engine(table, application, call_soon=loop.call_soon, access_log=access_log)
            with socket.create_server(("127.0.0.1", 0)) as listener:
                theirs.close()
                theirs = socket.create_connection(listener.getsockname())
                theirs.setblocking(False)
                listener.setblocking(False)
                engine.listen(listener)
                loop.add_reader(engine.fileno(), lambda: engine.step())
                CLOSER.engine = engine
                fd = engine.fileno()
                try:
                    await exchange(loop, theirs)
                finally:
                    loop.remove_reader(fd)
                    engine.close()
                    await asyncio.sleep(0.01)
        else:
            engine = CLOSER.engine = _core.Transports(table, application, loop, access_log=access_log)
            await loop.create_connection(lambda: _core.TransportProtocol(engine), sock=ours)
            ours = socket.socket()
            await exchange(loop, theirs)
            engine.close()
            await asyncio.sleep(0.01)
        ours.close()
        theirs.close()
        assert len(table) == 0

    asyncio.run(asyncio.wait_for(main(), 20))


async def exchange(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    await loop.sock_sendall(sock, REQUEST)
    try:
        while await loop.sock_recv(sock, 65536):
            pass
    except ConnectionResetError:
        pass


between = pytest.mark.parametrize("is_between", [True, False], ids=["between steps", "inside a step"])


@between
@pytest.mark.parametrize("response", RESPONSES)
def test_in_what_a_handler_returns(io, response, is_between):
    async def handler(request: kacore.Request) -> Any:
        if is_between:
            await asyncio.sleep(0)
        return RESPONSES[response]()

    run(lambda loop: _core.HandlerApplication(handler, loop, LOGGER), io)


def wsgi_app(environ: Any, start_response: Any) -> Any:
    where = environ["closes in"]
    if where == "application":
        CLOSER.close_engine()
    write = start_response("200 OK", ODD_FIELDS[where]() if where in ODD_FIELDS else [])
    if where == "write":
        write(b"a")
        CLOSER.close_engine()
        write(b"b")
    if where == "close":
        return Closing()
    return {"body": Body, "next": pieces, "empty": empty_pieces}.get(where, lambda: [b"x"])()


class Closing:
    def __iter__(self):
        return iter([b"a"])

    def close(self):
        CLOSER.close_engine()


@pytest.mark.parametrize("where", [*ODD_FIELDS, "application", "write", "close", "body", "next", "empty"])
def test_in_what_a_wsgi_application_does(io, where):
    run(lambda loop: _core.WsgiApplication(wsgi_app, LOGGER, threads=0, environ={"closes in": where}), io)


@between
@pytest.mark.parametrize("where", [*ODD_FIELDS, "trailers", "hints", "access log", "application"])
def test_in_what_an_asgi_application_sends(io, where, is_between):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if is_between:
            await asyncio.sleep(0)
        if where == "application":
            CLOSER.close_engine()
        if where == "hints":
            await send({"type": "http.response.early_hint", "links": [Value(b"x")]})
        headers = ODD_FIELDS[where]() if where in ODD_FIELDS else []
        await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": where == "trailers"})
        await send({"type": "http.response.body", "body": b"x"})
        if where == "trailers":
            await send({"type": "http.response.trailers", "headers": Fields()})

    def log(entry: Any) -> None:
        CLOSER.close_engine()

    run(lambda loop: _core.AsgiApplication(app, loop, LOGGER), io, log if where == "access log" else None)


@pytest.mark.skipif(not _core.has_epoll, reason="this build has no epoll")
def test_a_step_inside_a_step_is_refused():
    refused = []

    def handler(request: kacore.Request) -> bytes:
        with pytest.raises(kacore.LocalError, match="cannot be called from within a step"):
            CLOSER.engine.step()
        refused.append(True)
        CLOSER.close_engine()
        return b"x"

    run(lambda loop: _core.HandlerApplication(handler, loop, LOGGER), "epoll")
    assert refused
