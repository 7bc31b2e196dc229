"""Requests and responses as gunicorn's hooks and loggers know them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from kacore._core import AccessEntry

# Where the environ or scope of a request holds the Request that pre_request was given.
KEY = "kacore.request"


class Request:
    """One request as gunicorn's hooks and loggers know it; hooks may hang attributes of their own on it."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self.environ = environ
        self.method = environ["REQUEST_METHOD"]
        self.uri = environ["RAW_URI"]
        self.path, _, self.query = self.uri.partition("?")
        self.version = (1, 0 if environ["SERVER_PROTOCOL"] == "HTTP/1.0" else 1)
        self.scheme = environ.get("wsgi.url_scheme", "http")
        self.remote_addr = (environ.get("REMOTE_ADDR", ""), environ.get("REMOTE_PORT", ""))
        self.headers = [
            (name.removeprefix("HTTP_").replace("_", "-"), value)
            for name, value in environ.items()
            if name.startswith("HTTP_") or name in ("CONTENT_TYPE", "CONTENT_LENGTH")
        ]


class Reply:
    """What became of it, the same way."""

    def __init__(self, entry: AccessEntry) -> None:
        self.status_code = entry.status
        try:
            self.status = f"{entry.status} {HTTPStatus(entry.status).phrase}"
        except ValueError:
            self.status = str(entry.status)
        self.sent = self.response_length = entry.n_bytes
        self.headers = [(to_text(name), to_text(value)) for name, value in entry.fields or ()]


def to_text(value: Any) -> str:
    return value if isinstance(value, str) else bytes(value).decode("latin-1")


def environ_of(scope: dict[str, Any]) -> dict[str, Any]:
    """Of an ASGI scope what gunicorn's loggers look for in a WSGI environ."""
    query = scope["query_string"].decode("latin-1")
    path = scope["raw_path"].decode("latin-1")
    environ = {
        "REQUEST_METHOD": scope.get("method", "GET"),
        "RAW_URI": f"{path}?{query}" if query else path,
        "PATH_INFO": scope["path"],
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "wsgi.url_scheme": scope["scheme"],
    }
    if scope["client"] is not None:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = scope["client"][0], str(scope["client"][1])
    for name, value in scope["headers"]:
        key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
        text = value.decode("latin-1")
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    return environ


def request_of(entry: AccessEntry) -> Request:
    """The Request of pre_request if there was one, else one of what is known."""
    source = entry.request
    if source is None:  # the application never got it
        path, _, query = (entry.target or b"").decode("latin-1").partition("?")
        client, port = entry.client or ("", 0)
        source = {
            "REQUEST_METHOD": entry.method,
            "RAW_URI": f"{path}?{query}" if query else path,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_PROTOCOL": f"HTTP/{entry.version}",
            "REMOTE_ADDR": client,
            "REMOTE_PORT": str(port),
        }
    made = source.get(KEY)
    if isinstance(made, Request):
        return made
    return Request(source if "REQUEST_METHOD" in source else environ_of(source))


def has_access_log(log: Any, cfg: Any) -> bool:
    """Whether gunicorn's own logger writes one."""
    try:
        return bool(log.access_log_enabled)
    except AttributeError:  # before 26: where access() returns, having nothing to do
        is_syslog = cfg.syslog and not cfg.disable_redirect_access_to_syslog
        return bool(cfg.accesslog or cfg.logconfig or cfg.logconfig_dict or cfg.logconfig_json or is_syslog)
