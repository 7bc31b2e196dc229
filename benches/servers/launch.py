"""Start a server that has no command line of its own: launch.py SERVER MODULE:NAME PORT."""

import importlib
import sys


def load(name):
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def bjoern(app, port):
    import bjoern

    bjoern.run(load(app), "127.0.0.1", port, listen_backlog=4096)


def fastpysgi(app, port):
    from fastpysgi import server

    server.backlog = 4096
    server.tcp_nodelay = 1
    server.init(load(app), "127.0.0.1", port, loglevel=0)
    server.run()


def mrhttp(app, port):
    """In this process: its own run() forks one for each core, and asks for a loop in a way that uvloop has left."""
    import mrhttp

    application = mrhttp.Application()

    @application.route("/", _type="text")
    def hello(request):
        return "Hello, world!"

    loop = new_loop()
    server = application.start_server(host="127.0.0.1", port=port, loop=loop)
    loop.run_until_complete(server)
    loop.run_forever()


def aiohttp(app, port):
    from aiohttp import web

    async def hello(request):
        return web.Response(body=b"Hello, world!", content_type="text/plain")

    application = web.Application()
    application.router.add_get("/", hello)
    web.run_app(application, host="127.0.0.1", port=port, access_log=None, backlog=4096, print=None, loop=new_loop())


def new_loop():
    import asyncio

    import uvloop

    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


if __name__ == "__main__":
    launch = {"aiohttp": aiohttp, "bjoern": bjoern, "fastpysgi": fastpysgi, "mrhttp": mrhttp}
    launch[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
