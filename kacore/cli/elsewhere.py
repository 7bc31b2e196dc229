"""What options of other servers are called here, so that whoever types one out of habit is told the word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

ONE_KIND = "there is one kind of worker, see --interface and --loop"
# of gunicorn, uvicorn, granian and hypercorn: option -> ours, or a sentence.
OPTIONS = {
    "--access-logfile": "--access-log",
    "--access-logformat": "--access-log",
    "--access-log-fmt": "--access-log",
    "--blocking-threads": "--threads",
    "--ca-certs": "--ssl-ca-certs",
    "--cert-reqs": "--ssl-client-certs",
    "--certfile": "--ssl-certfile",
    "--chdir": "--app-dir",
    "--ciphers": "--ssl-ciphers",
    "--daemon": "a service manager runs it in the background, see docs/workers.md",
    "--env": "set variables where it is started",
    "--env-file": "set variables where it is started",
    "--graceful-timeout": "--drain-timeout",
    "--h11-max-incomplete-event-size": "--max-head-bytes",
    "--http": "there is one implementation of HTTP/1.1",
    "--keyfile": "--ssl-keyfile",
    "--limit-concurrency": "--max-connections",
    "--limit-max-requests": "--max-requests-per-worker",
    "--limit-max-requests-jitter": "--max-requests-per-worker is varied by a tenth",
    "--limit-request-field_size": "--max-header-bytes",
    "--limit-request-fields": "--max-headers",
    "--limit-request-line": "--max-target-bytes",
    "--max-requests": "--max-requests-per-worker",
    "--max-requests-jitter": "--max-requests-per-worker is varied by a tenth",
    "--no-access-log": "the access log is off unless --access-log asks for it",
    "--no-proxy-headers": "proxies are not believed unless --forwarded-allow-ips names them",
    "--no-sendfile": "files are always sent by the kernel",
    "--no-use-colors": "set NO_COLOR=1",
    "--pidfile": "--pid",
    "--preload": "each worker imports the application itself, so that a reload reads it anew",
    "--proxy-allow-from": "--forwarded-allow-ips",
    "--proxy-headers": "--forwarded-allow-ips",
    "--pythonpath": "--app-dir",
    "--reuse-port": "--workers",
    "--ssl-cert-reqs": "--ssl-client-certs",
    "--ssl-certificate": "--ssl-certfile",
    "--ssl-version": "TLS 1.2 and newer are spoken",
    "--timeout": "--handler-timeout",
    "--timeout-graceful-shutdown": "--drain-timeout",
    "--timeout-keep-alive": "--keep-alive-timeout",
    "--umask": "--uds-mode",
    "--url-path-prefix": "--root-path",
    "--use-colors": "levels are in colour on a terminal",
    "--websocket-max-message-size": "--ws-max-size",
    "--websockets": "install kacore[websockets]",
    "--worker-class": ONE_KIND,
    "--worker-connections": "--max-connections",
    "--ws": "install kacore[websockets]",
    "-D": "a service manager runs it in the background, see docs/workers.md",
    "-c": "--config",
    "-e": "set variables where it is started",
    "-k": ONE_KIND,
    "-p": "--pid",
    "-t": "--handler-timeout",
}


def explain(words: list[str], ours: Iterable[str]) -> str:
    """The message for command-line words that mean nothing here. ours: the options that there are."""
    option = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
    if option is None:
        return f"{words[0]!r} belongs to no option"
    known = OPTIONS.get(option)
    if known is None:
        near = difflib.get_close_matches(option, ours, n=1)
        return f"there is no option {option}" + (f"; did you mean {near[0]}?" if near else "")
    return f"there is no option {option}: {known}" if " " in known else f"there is no option {option}: it is {known} here"
