"""A plugin of pytest: kacore's Protocol stands where uvicorn's tests look for the httptools one.

Their loop is a mock that has call_later() and create_task() only, and runs each task as a whole.
"""

import asyncio

import uvicorn.protocols.http.httptools_impl as impl

from kacore.embed.uvicorn import Host, Protocol


class BareLoop:
    """What a mock loop has, with the futures of the running one."""

    def __init__(self, loop):
        self.call_later = loop.call_later
        self.create_task = loop.create_task

    def create_future(self):
        return asyncio.get_running_loop().create_future()


class BareTask:
    """A task on such a loop: enough of one for a request."""

    def __init__(self, coroutine):
        self.coroutine, self.callbacks, self.error = coroutine, [], None

    async def run(self):
        try:
            await self.coroutine
        except BaseException as error:
            self.error = error
        for callback in self.callbacks:
            callback(self)

    def add_done_callback(self, callback):
        self.callbacks.append(callback)

    def cancelled(self):
        return isinstance(self.error, asyncio.CancelledError)

    def exception(self):
        return self.error


class InPlace(Protocol):
    def __init__(self, config, server_state, app_state, _loop=None):
        if not hasattr(_loop, "call_soon") and _loop is not None and not hasattr(server_state, "kacore_host"):

            def make_task(coroutine):
                task = BareTask(coroutine)
                _loop.create_task(task.run())
                return task

            if not config.loaded:
                config.load()
            host = Host(config, server_state, app_state, BareLoop(_loop), make_task)
            host.given_loop = _loop
            server_state.kacore_host = host
        super().__init__(config, server_state, app_state, _loop)


impl.HttpToolsProtocol = InPlace
