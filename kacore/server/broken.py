"""What is answered while an application under development cannot be loaded: a page that says where and why."""

from __future__ import annotations

import html
import importlib
import json
import os
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

from kacore._core import Request, Response
from kacore.errors import ConfigError, told

# Of a traceback, what is told to the parent: the end says most.
MAX_TEXT = 30_000
# Frames of these are ours, and say nothing of the mistake.
OURS = (os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep, importlib.__file__, "<frozen ")


class Failure(NamedTuple):
    """Why a worker does not serve. text: a traceback, or one line for a mistake in how it was called."""

    title: str
    where: str = ""
    text: str = ""
    is_mistake: bool = False

    def to_bytes(self) -> bytes:
        return json.dumps(self._replace(text=self.text[-MAX_TEXT:])).encode()

    @classmethod
    def from_bytes(cls, given: bytes) -> Failure:
        return cls(*json.loads(given))

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Of an application that raised this while it was loaded, or of kacore's word about it."""
        if isinstance(error, ConfigError):
            return cls(told(error), is_mistake=True)
        trace = without_ours(error.__traceback__)
        title = traceback.format_exception_only(error)[-1].strip()
        text = "".join(traceback.format_exception(type(error), error, trace))
        if isinstance(error, SyntaxError) and error.filename:
            return cls(title, f"{error.filename}, line {error.lineno}", text)
        frames = traceback.extract_tb(trace)
        last = next((one for one in reversed(frames) if not one.filename.startswith(OURS)), None)
        return cls(title, f"{last.filename}, line {last.lineno}" if last else "", text)


def without_ours(trace: TracebackType | None) -> TracebackType | None:
    """From the first frame that is the application's; all of it when none is."""
    first = trace
    while first is not None and first.tb_frame.f_code.co_filename.startswith(OURS):
        first = first.tb_next
    return first or trace


# Asks once a second whether there is other code, since a request waits for that.
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }}
body {{ margin: 2rem auto; max-width: 60rem; padding: 0 1rem }}
h1 {{ font-size: 1.3rem; overflow-wrap: anywhere }}
pre {{ overflow-x: auto; padding: 1rem; border: 1px solid #8886; border-radius: .4rem; font-size: .85rem }}
code {{ overflow-wrap: anywhere }}
</style>
<h1>{title}</h1>
{where}
{text}
<p>The application could not be loaded. This page reloads itself when a file is saved.</p>
<script>
setInterval(async () => {{
  const answer = await fetch(location, {{ method: "HEAD", cache: "no-store" }}).catch(() => null)
  if (answer && !answer.headers.has("X-Kacore-Broken")) location.reload()
}}, 1000)
</script>
"""


def application_of(failure: Failure) -> Callable[[Request], Any]:
    """A handler that answers everything with 500: HTML to who asks for it, else text."""
    text = f"{failure.title}\n{failure.where}\n\n{failure.text}".rstrip() + "\n"
    page = PAGE.format(
        title=html.escape(failure.title),
        where=f"<p><code>{html.escape(failure.where)}</code></p>" if failure.where else "",
        text=f"<pre>{html.escape(failure.text)}</pre>" if failure.text else "",
    )

    def broken(request: Request) -> Response:
        is_html = "text/html" in (request.get("accept") or "")
        return Response(
            page if is_html else text,
            500,
            headers=[
                ("Content-Type", f"text/{'html' if is_html else 'plain'}; charset=utf-8"),
                ("Cache-Control", "no-store"),
                ("X-Kacore-Broken", "1"),
            ],
        )

    return broken
