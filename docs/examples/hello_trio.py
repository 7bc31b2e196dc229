"""kacore's engine under trio: the engine is one descriptor, and trio waits for it.

    python docs/examples/hello_trio.py 8000

Any loop that can wait for a descriptor will do; anyio.wait_readable() is the same under asyncio and trio. Handlers are
plain functions here, called inside step(): a coroutine of ASGI would need asyncio around it.
"""

import logging
import signal
import socket
import sys

import trio

from kacore import ConnectionTable, Policy, Response
from kacore._core import Engine, HandlerApplication


def hello(request):
    if request.path != "/":
        return Response("no such page\n", status=404)
    return request.body or "hello\n"


async def serve(engine):
    while True:
        await trio.lowlevel.wait_readable(engine.fileno())
        engine.step()


async def main(port):
    listener = socket.create_server(("127.0.0.1", port), backlog=128)
    listener.setblocking(False)
    table = ConnectionTable(Policy(keep_alive_timeout=30, max_connections=1000))
    engine = Engine(table, HandlerApplication(hello, None, logging.getLogger("hello")))
    engine.listen(listener)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, engine)
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            await anext(aiter(signals))
        engine.drain(grace=2.0, spread=1.0, timeout=10.0)
        engine.stop_listening()
        while len(table):
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    engine.close()


trio.run(main, int((*sys.argv[1:2], 8000)[0]))
