"""Where the numbers come from: an admin listener, asked over HTTP.

Knows no terminal. Every wait has an end, every answer a limit, and the connection is given up for a new one when nothing
has come for a few seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from kacore.errors import UsageError, told

DEFAULT = "http://127.0.0.1:9000/"
PATIENCE = 5.0  # seconds without a byte
RETRY = 1.0  # seconds
MAX_BYTES = 8 << 20  # of an answer, and of an event
MAX_LINE = 65536  # of a head


class NotUnderstood(UsageError):
    """Something answers, and it is not an admin listener."""


class Place(NamedTuple):
    """host, port and path of an admin listener."""

    url: str
    host: str
    port: int
    is_tls: bool
    path: str  # with a slash at its end

    @classmethod
    def of(cls, text: str) -> Place:
        """Of "http://10.0.0.7:9000/", "10.0.0.7:9000", ":9000" or "9000". UsageError."""
        whole = text if "://" in text else f"http://127.0.0.1:{text.removeprefix(':')}" if is_port(text) else f"http://{text}"
        try:
            parts = urlsplit(whole)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if host is None or parts.scheme not in ("http", "https") or not all("!" <= letter <= "~" for letter in whole):
            raise UsageError(f"top: {text!r}: must be the URL of an admin listener, as {DEFAULT}")
        is_tls = parts.scheme == "https"
        path = parts.path if parts.path.endswith("/") else f"{parts.path}/"
        named = f"[{host}]" if ":" in host else host
        port = port if port is not None else 443 if is_tls else 9000
        return cls(f"{parts.scheme}://{named}:{port}{path}", host, port, is_tls, path)


def is_port(text: str) -> bool:
    return text.removeprefix(":").isdigit()


class Source:
    def __init__(self, place: Place, *, patience: float = PATIENCE, retry: float = RETRY) -> None:
        self.place = place
        self._patience, self._retry = patience, retry

    async def document(self) -> dict[str, Any]:
        """UsageError: it cannot be reached, or is something else."""
        return checked(await self._object("status"), self.place.url)

    async def connections(self) -> dict[str, Any]:
        """UsageError, as document()."""
        return await self._object("connections")

    async def follow(self) -> AsyncIterator[dict[str, Any] | str]:
        """Documents as they come; a str says why there is none at present, and another attempt is under way."""
        while True:
            try:
                async for event in self._events():
                    yield checked(event, self.place.url)
                yield "the server has closed the stream"
            except UsageError as error:
                yield str(error)
            await asyncio.sleep(self._retry)

    # -- HTTP -----------------------------------------------------------------------------------------------

    async def _object(self, name: str) -> dict[str, Any]:
        answer = Answer(self.place, self._patience)
        try:
            await answer.begin(name)
            content = b""
            async for piece in answer.pieces():
                content += piece
                if len(content) > MAX_BYTES:
                    raise NotUnderstood(f"top: {self.place.url}{name} gives more than {MAX_BYTES} bytes")
            return parsed(content, f"{self.place.url}{name}")
        finally:
            answer.close()

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        """Server-sent events whose data is JSON."""
        answer = Answer(self.place, self._patience)
        try:
            await answer.begin("events")
            rest = b""
            async for piece in answer.pieces():
                *whole, rest = (rest + piece).split(b"\n\n")
                if len(rest) > MAX_BYTES:
                    raise NotUnderstood(f"top: {self.place.url}events gives more than {MAX_BYTES} bytes in an event")
                for event in whole:
                    lines = event.split(b"\n")
                    data = b"".join(line[5:] for line in lines if line.startswith(b"data:"))
                    if data:
                        yield parsed(data, f"{self.place.url}events")
        finally:
            answer.close()


class Answer:
    """One request and its answer, on a connection of its own. UsageError for all that goes wrong."""

    def __init__(self, place: Place, patience: float) -> None:
        self._place, self._patience = place, patience
        self._reader = asyncio.StreamReader()
        self._writer: asyncio.StreamWriter | None = None
        self._length: int | None = None
        self._is_chunked = False

    async def begin(self, name: str) -> None:
        place = self._place
        tls = ssl.create_default_context() if place.is_tls else None
        opened = asyncio.open_connection(place.host, place.port, ssl=tls, limit=MAX_LINE)
        try:
            self._reader, writer = await asyncio.wait_for(opened, self._patience)
        except (OSError, ValueError) as error:
            why = "no answer" if isinstance(error, TimeoutError) else told(error)
            if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError | socket.gaierror):
                why = os.strerror(error.errno)  # without asyncio's words around it
            hint = f" (is it served with --admin {place.port}?)" if isinstance(error, ConnectionRefusedError) else ""
            raise UsageError(f"top: {place.url} cannot be reached: {why}{hint}") from None
        self._writer = writer
        named = f"[{place.host}]" if ":" in place.host else place.host
        head = f"GET {place.path}{name} HTTP/1.1\r\nHost: {named}:{place.port}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        status, fields = await self._head()
        if status == 503:
            raise UsageError(f"top: {place.url} has too many viewers, or is asked too often")
        if status != 200:
            raise NotUnderstood(f"top: {place.url} is not an admin listener of kacore: it answers /{name} with {status}")
        self._is_chunked = "chunked" in fields.get("transfer-encoding", "").lower()
        length = fields.get("content-length", "")
        self._length = int(length) if length.isdigit() and len(length) < 16 else None

    async def _head(self) -> tuple[int, dict[str, str]]:
        first, *lines = (await self._read(self._reader.readuntil(b"\r\n\r\n"))).decode("latin-1").split("\r\n")
        words = first.split(" ", 2)
        if not first.startswith("HTTP/1.") or len(words) < 2 or not (words[1].isascii() and words[1].isdigit()):
            raise NotUnderstood(f"top: {self._place.url} does not speak HTTP")
        return int(words[1][:3]), {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    async def pieces(self) -> AsyncIterator[bytes]:
        """The content as it comes."""
        if self._is_chunked:
            while size := await self._chunk_size():
                while size:
                    piece = await self._read(self._reader.read(min(size, MAX_LINE)))
                    if not piece:
                        raise self._lost()
                    size -= len(piece)
                    yield piece
                await self._read(self._reader.readexactly(2))
            return
        left = self._length
        while left is None or left > 0:
            piece = await self._read(self._reader.read(MAX_LINE))
            if not piece:
                if left is not None:
                    raise self._lost()
                return
            if left is not None:
                left -= len(piece)
            yield piece

    async def _chunk_size(self) -> int:
        line = await self._read(self._reader.readline())
        if not line:
            raise self._lost()
        try:
            return int(line.split(b";")[0], 16)
        except ValueError:
            raise NotUnderstood(f"top: {self._place.url} does not speak HTTP") from None

    async def _read(self, reading: Any) -> bytes:
        try:
            return bytes(await asyncio.wait_for(reading, self._patience))
        except (asyncio.LimitOverrunError, ValueError):
            raise NotUnderstood(f"top: {self._place.url} does not speak HTTP") from None
        except (OSError, asyncio.IncompleteReadError) as error:
            if isinstance(error, TimeoutError):
                raise UsageError(f"top: {self._place.url} has said nothing for {self._patience:g} s") from None
            raise self._lost() from None

    def _lost(self) -> UsageError:
        return UsageError(f"top: {self._place.url} has closed the connection")

    def close(self) -> None:
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()


def parsed(text: bytes, url: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise NotUnderstood(f"top: {url} is not what an admin listener of kacore answers")
    return found


def checked(document: dict[str, Any], url: str) -> dict[str, Any]:
    if not isinstance(document.get("kacore"), str) or not isinstance(document.get("rates"), dict):
        raise NotUnderstood(f"top: {url} is not an admin listener of kacore")
    return document
