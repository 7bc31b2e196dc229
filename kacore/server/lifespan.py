"""The lifespan protocol of ASGI 3: https://asgi.readthedocs.io/en/latest/specs/lifespan.html

One task runs the application's lifespan for as long as the server stands. An application that raises before it
answered the start-up does not speak the protocol: with `auto` that is no error. Whatever ends that task, at any moment,
nobody waits for it in vain, and what went wrong is told once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from typing import Any, Literal

Mode = Literal["auto", "on", "off"]
Message = MutableMapping[str, Any]
# Seconds for the application to return once it has said that its shutdown is complete.
RETURN_WITHIN = 0.1
# What its shutdown gets when we must end now.
SHUTDOWN_AT_ONCE = 0.1


class LifespanError(RuntimeError):
    """The application said that its start-up or shutdown failed."""


class Lifespan:
    """mode: `auto` tolerates an application without the protocol, `on` does not, `off` never asks.

    `state` is what the application put into scope["state"]; each request gets a shallow copy.
    """

    def __init__(self, app: Any, mode: Mode, logger: logging.Logger) -> None:
        self.app = app
        self.mode = mode
        self.logger = logger
        self.state: dict[str, Any] = {}
        self._to_app: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        # What the application is in the middle of: "startup", "serving", "shutdown"; "over": nothing it says counts.
        self._stage = "startup"
        self._answer: asyncio.Future[Message | None] | None = None  # None: it ended without one
        self._error: BaseException | None = None
        self._is_ours = False  # we cancelled it

    async def start(self, is_over: asyncio.Event) -> bool:
        """startup(), which is not waited for once is_over is set. Return: whether the application is up. LifespanError."""
        startup = asyncio.ensure_future(self.startup())
        told = asyncio.ensure_future(is_over.wait())
        try:
            await asyncio.wait([startup, told], return_when=asyncio.FIRST_COMPLETED)
            if startup.done():
                startup.result()
                return True
            self.logger.info("stopped before the application had started")
            return False
        finally:
            told.cancel()
            if startup.cancel():
                await asyncio.wait([startup])

    async def end(self, must_end: asyncio.Event) -> None:
        """shutdown(), for which the application may take its time until must_end is set."""
        shutdown = asyncio.ensure_future(self.shutdown())
        told = asyncio.ensure_future(must_end.wait())
        await asyncio.wait([shutdown, told], return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if not shutdown.done():
            await asyncio.wait([shutdown], timeout=SHUTDOWN_AT_ONCE)
            shutdown.cancel()

    async def startup(self) -> None:
        """Raises LifespanError when the application failed to start, or must have the protocol and has not. Cancelled,
        it cancels the application, too."""
        if self.mode == "off":
            return
        self._answer = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name="kacore-lifespan")
        try:
            answer = await self._ask("lifespan.startup")
        except asyncio.CancelledError:
            self._stage = "over"
            self._cancel()
            await asyncio.wait([self._task], timeout=RETURN_WITHIN)
            raise
        if answer is None:
            self._stage = "over"
            self._judge_silence()
        elif answer["type"] == "lifespan.startup.failed":
            self._stage = "over"
            raise LifespanError(f"the application's startup failed: {answer.get('message') or 'no reason given'}")

    def _judge_silence(self) -> None:
        """The application ended before it answered. One that was asked and then raised meant to have a lifespan."""
        if isinstance(self._error, asyncio.CancelledError):
            raise LifespanError("the application's startup was cancelled") from self._error
        has_failed = self._error is not None and self._to_app.empty()
        if self.mode == "on" and has_failed:
            raise LifespanError(f"the application's startup failed: {self._error!r}") from self._error
        if self.mode == "on":
            raise LifespanError("the application has no lifespan, and lifespan=on requires one") from self._error
        if has_failed:
            self.logger.warning("the application's lifespan failed; serving it without one", exc_info=self._error)

    async def shutdown(self) -> None:
        """Never raises: what the application says is logged."""
        if self._task is None or self._task.done() or self._stage != "serving":
            return
        self._stage = "shutdown"
        self._answer = asyncio.get_running_loop().create_future()
        try:
            await self._ask("lifespan.shutdown")
            # It has nothing left to do; one that goes on waiting for events does not hold up the end.
            await asyncio.wait([self._task], timeout=RETURN_WITHIN)
        finally:
            self._cancel()

    def _cancel(self) -> None:
        self._is_ours = True
        if self._task is not None:
            self._task.cancel()

    async def _ask(self, event: str) -> Message | None:
        assert self._answer is not None
        self._to_app.put_nowait({"type": event})
        return await self._answer

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self.app(scope, self._to_app.get, self._send)
        except (Exception, asyncio.CancelledError) as error:
            self._error = error
        finally:  # also of what means to end the process
            self._ended()

    def _ended(self) -> None:
        error = None if self._is_ours else self._error
        if error is not None and self._stage in ("serving", "shutdown"):
            when = "while it was serving" if self._stage == "serving" else "in its shutdown"
            what = "was cancelled" if isinstance(error, asyncio.CancelledError) else "failed"
            self.logger.error("the application's lifespan %s %s", what, when, exc_info=error)
        self._resolve(None)

    def _resolve(self, answer: Message | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        known = ("startup.complete", "startup.failed", "shutdown.complete", "shutdown.failed")
        if kind not in [f"lifespan.{word}" for word in known]:
            raise ValueError(f"unknown lifespan message type {kind!r}")
        if self._stage == "over":
            return
        if self._stage == "startup":
            if kind.startswith("lifespan.shutdown"):
                raise ValueError(f"{kind} was sent before the answer to lifespan.startup")
            self._stage = "serving" if kind == "lifespan.startup.complete" else "over"
            self._resolve(message)
        elif kind.startswith("lifespan.startup"):
            raise ValueError(f"{kind}: lifespan.startup has already been answered")
        else:  # perhaps on its own, without having been asked
            if kind == "lifespan.shutdown.failed":
                self._stage = "over"  # frameworks raise, too, what they have said here
                self.logger.error("the application's shutdown failed: %s", message.get("message") or "no reason given")
            self._resolve(message)
