"""A whole HTTP/1.1 server on asyncio: greets, echoes what is posted, and ends gracefully on SIGTERM.

    python docs/examples/hello_asyncio.py 8000
"""

import asyncio
import signal
import sys

from kacore import Policy, Response
from kacore.embed.asyncio import Connections, KeepAliveProtocol


class Hello(KeepAliveProtocol):
    async def handle(self, head, body):
        if head.method == "POST":
            return body
        if head.target != b"/":
            return Response("no such page\n", status=404)
        return "hello\n"


async def main(port):
    loop = asyncio.get_running_loop()
    connections = Connections(Policy(keep_alive_timeout=30, max_connections=1000))
    server = await loop.create_server(lambda: Hello(connections), "127.0.0.1", port)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()
    server.close()
    await connections.drain_and_close()


asyncio.run(main(int((*sys.argv[1:2], 8000)[0])))
