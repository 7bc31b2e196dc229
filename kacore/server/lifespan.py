"""The lifespan protocol of ASGI 3: https://asgi.readthedocs.io/en/latest/specs/lifespan.html

One task runs the application's lifespan for as long as the server stands. An application that raises before it
answered the start-up does not speak the protocol: with `auto` that is no error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from typing import Any, Literal

Mode = Literal["auto", "on", "off"]
# Seconds for the application to return once it has said that its shutdown is complete.
RETURN_WITHIN = 0.1


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
        self._answers: asyncio.Queue[MutableMapping[str, Any] | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None

    async def startup(self) -> None:
        """Raises LifespanError when the application failed to start, or must have the protocol and has not. Cancelled,
        it cancels the application, too."""
        if self.mode == "off":
            return
        self._task = asyncio.create_task(self._run(), name="kacore-lifespan")
        try:
            answer = await self._ask("lifespan.startup")
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=RETURN_WITHIN)
            raise
        if answer is None:
            self._task = None
            self._judge_silence()
        elif answer["type"] == "lifespan.startup.failed":
            raise LifespanError(f"the application's start-up failed: {answer.get('message') or 'no reason given'}")

    def _judge_silence(self) -> None:
        """The application ended before it answered. One that was asked and then raised meant to have a lifespan."""
        has_failed = self._error is not None and self._to_app.empty()
        if self.mode == "on" and has_failed:
            raise LifespanError(f"the application's start-up failed: {self._error!r}") from self._error
        if self.mode == "on":
            raise LifespanError("the application has no lifespan, and lifespan=on demands one") from self._error
        if has_failed:
            self.logger.warning("the application failed in its lifespan and is served without one", exc_info=self._error)

    async def shutdown(self) -> None:
        """Never raises: what the application says is logged."""
        if self._task is None or self._task.done():
            return
        answer = await self._ask("lifespan.shutdown")
        if answer is None:
            if self._error is not None:
                self.logger.error("the application's shutdown failed", exc_info=self._error)
        elif answer["type"] == "lifespan.shutdown.failed":
            self.logger.error("the application's shutdown failed: %s", answer.get("message") or "no reason given")
        # It has nothing left to do; one that goes on waiting for events does not hold up the end.
        await asyncio.wait([self._task], timeout=RETURN_WITHIN)
        self._task.cancel()

    async def _ask(self, event: str) -> MutableMapping[str, Any] | None:
        self._to_app.put_nowait({"type": event})
        return await self._answers.get()

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self.app(scope, self._to_app.get, self._send)
        except Exception as error:
            self._error = error
        self._answers.put_nowait(None)

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        known = ("startup.complete", "startup.failed", "shutdown.complete", "shutdown.failed")
        if message["type"] not in [f"lifespan.{word}" for word in known]:
            raise ValueError(f"no lifespan message has the type {message['type']!r}")
        self._answers.put_nowait(message)
