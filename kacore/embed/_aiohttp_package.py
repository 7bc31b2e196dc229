"""What kacore.embed.aiohttp needs of aiohttp: the versions that were tested, and what is not public in them."""

from __future__ import annotations

from aiohttp.web_protocol import RequestHandler

from kacore.embed._hosts import HostPackage

# Until 3.10.1 it is noted when a connection began to be idle, and since then when that is to end.
KEPT_SINCE = "_keepalive_time" if hasattr(RequestHandler, "_keepalive_time") else "_next_keepalive_close_time"
PARSED = "aiohttp's parser has no such limit"
OF_HANDLER = "_close _current_request _force_close _keepalive _keepalive_handle _keepalive_timeout _messages _task_handler"
PACKAGE = HostPackage(
    "aiohttp",
    oldest="3.10",
    newest="3.14",
    needed=(
        *(f"aiohttp.web_protocol:RequestHandler.{name}" for name in (*OF_HANDLER.split(), "_waiter", KEPT_SINCE)),
        *(f"aiohttp.web_server:Server.{name}" for name in ("_connections", "_kwargs", "request_factory")),
        "aiohttp.web_request:BaseRequest._cancel",
        "aiohttp.web_runner:AppRunner._make_server",
        "aiohttp.http_writer:StreamWriter._on_headers_sent",
        "aiohttp.streams:StreamReader._wait",
    ),
    ineffective={
        "max_head_bytes": f"{PARSED}; max_target_bytes, max_header_bytes and max_headers it has",
        "max_chunk_line_bytes": PARSED,
        "max_trailer_bytes": PARSED,
        "max_body_bytes": "content has the application's client_max_size",
        "max_buffer_bytes": "the loop's transports have the buffers",
        "max_response_buffer": "applications are not WSGI",
    },
)
