"""Client, engine and application in one process and one thread: how many instructions does a request take?

Of no use with a clock, since the client is in it. Under callgrind, the difference of two runs is that of their
requests, and callgrind_annotate says where they went:

    for n in 200 1200; do
        PYTHONHASHSEED=0 valgrind --tool=callgrind --callgrind-out-file=/tmp/callgrind.$n \\
            .venv/bin/python benches/requests_in_process.py asgi $n
    done
    callgrind_annotate --inclusive=yes --tree=both /tmp/callgrind.1200
"""

import argparse
import asyncio
import logging
import socket

from servers import apps

from kacore import _core

CONNECTIONS = 20
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n"


async def application(interface: str, logger: logging.Logger) -> _core.AsgiApplication | _core.WsgiApplication:
    if interface == "wsgi":
        return _core.WsgiApplication(apps.wsgi_hello, logger, threads=0)
    app = _core.AsgiApplication(apps.asgi_hello, asyncio.get_running_loop(), logger)
    assert await app.runner.probe() is None
    return app


def ask(engine: _core.Engine, address: tuple[str, int], n_requests: int) -> None:
    """All connections send, one step answers them all, all receive."""
    clients = [socket.create_connection(address) for _ in range(CONNECTIONS)]
    engine.step()
    engine.step()
    for _ in range(n_requests // CONNECTIONS):
        for client in clients:
            client.send(REQUEST)
        engine.step()
        for client in clients:
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
    for client in clients:
        client.close()


async def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("interface", choices=["asgi", "wsgi"])
    options.add_argument("requests", type=int)
    chosen = options.parse_args()
    app = await application(chosen.interface, logging.getLogger("bench"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        engine = _core.Engine(_core.ConnectionTable(), app)
        engine.listen(listener)
        # From a callback, as in a server: inside this task the engine would give each request a task of its own.
        asyncio.get_running_loop().call_soon(ask, engine, listener.getsockname(), chosen.requests)
        await asyncio.sleep(0.1)
        engine.close()


if __name__ == "__main__":
    asyncio.run(main())
