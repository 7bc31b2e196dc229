"""gunicorn.conf.py: the settings of gunicorn that have a counterpart here. The file is Python, and is run as gunicorn does.

    kacore config -c gunicorn.conf.py --format toml > kacore.toml
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

from kacore.config.options import ServeOptions
from kacore.errors import UsageError

# Setting -> the option that means the same.
SAME = {
    "backlog": "backlog",
    "bind": "bind",
    "ca_certs": "ssl_ca_certs",
    "certfile": "ssl_certfile",
    "ciphers": "ssl_ciphers",
    "forwarded_allow_ips": "forwarded_allow_ips",
    "graceful_timeout": "drain_timeout",
    "keepalive": "keep_alive_timeout",
    "keyfile": "ssl_keyfile",
    "limit_request_field_size": "max_header_bytes",
    "limit_request_fields": "max_headers",
    "limit_request_line": "max_target_bytes",
    "logconfig": "log_config",
    "loglevel": "log_level",
    "max_requests": "max_requests_per_worker",
    "pidfile": "pid",
    "pythonpath": "app_dir",
    "reload": "reload",
    "threads": "threads",
    "timeout": "worker_timeout",
    "worker_connections": "max_connections",
    "workers": "workers",
    "wsgi_app": "app",
}
# What has none, and why that is no loss.
WITHOUT = {
    "accesslog": "",  # below
    "access_log_format": "",
    "errorlog": "the log goes to stderr, or where log_config says",
    "max_requests_jitter": "max_requests_per_worker is varied by a tenth",
    "preload_app": "each worker imports the application itself",
    "proxy_allow_ips": "forwarded_allow_ips names those who send PROXY headers, too",
    "raw_env": "env_file has variables for the application",
    "umask": "uds_mode is for the socket",
    "user": "what starts the server changes the user",
    "group": "what starts the server changes the group",
    "daemon": "a service manager runs it in the background",
    "worker_class": "there is one kind of worker",
    "worker_tmp_dir": "workers have no files for signs of life",
    "proc_name": "the name of the process is not changed",
    "sendfile": "files are always sent by the kernel",
}


def is_gunicorns(path: str) -> bool:
    return path.endswith(".py") or path.startswith(("python:", "file:"))


def read(path: str) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The tables of a kacore.toml that says the same, and a sentence about each setting that has no counterpart.
    UsageError, OSError; what the file raises is told by name and line."""
    settings = settings_of(path)
    tables: dict[str, dict[str, Any]] = {"serve": {}, "policy": {}}
    remarks = []
    for name, value in settings.items():
        if name in SAME:
            ours = SAME[name]
            table = "serve" if ours in ServeOptions.__fields__ else "policy"
            if value is not None and not (name == "timeout" and value == 0):
                tables[table][ours] = plain(name, value)
        elif name in WITHOUT:
            if WITHOUT[name]:
                remarks.append(f"{path}: {name} is not taken: {WITHOUT[name]}")
        elif callable(value):
            remarks.append(f"{path}: {name} is not taken: there are no hooks")
    tables["serve"] |= access_log(settings)
    return tables, remarks


def settings_of(path: str) -> dict[str, Any]:
    if path.startswith("python:"):
        raise UsageError(f"{path}: a module with settings is not read; name the file")
    name = path.removeprefix("file:")
    with open(name, "rb") as file:
        text = file.read()
    module = ModuleType("__config__")
    module.__file__ = os.path.abspath(name)
    try:
        exec(compile(text, name, "exec"), module.__dict__)
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        line = error.lineno if isinstance(error, SyntaxError) else trace.tb_lineno if trace is not None else 0
        raise UsageError(f"{name}:{line}: {type(error).__name__}: {error}") from None
    found = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return {name: value for name, value in found.items() if not isinstance(value, ModuleType)}


def plain(name: str, value: Any) -> Any:
    """As a kacore.toml says it."""
    if name == "bind":
        given = [value] if isinstance(value, str) else list(value)
        return [with_port(one) for text in given for one in text.split(",")]
    if name == "forwarded_allow_ips":
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if name in ("graceful_timeout", "keepalive", "timeout") and isinstance(value, int):
        return float(value)
    return value


def with_port(address: str) -> str:
    """gunicorn's port is 8000 unless it is named."""
    if address.startswith("unix:"):
        return "unix:" + address.removeprefix("unix:").removeprefix("//")
    return address if address.rpartition(":")[2].isdigit() else f"{address}:8000"


def access_log(settings: dict[str, Any]) -> dict[str, Any]:
    where = settings.get("accesslog")
    if not where:
        return {}
    found = {"access_log": settings.get("access_log_format", "combined")}
    return found if where == "-" else {**found, "access_log_file": where}

