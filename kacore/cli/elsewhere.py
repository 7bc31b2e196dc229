"""What options of other servers are called here, so that whoever types one out of habit is told the word."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

# Of gunicorn, uvicorn, granian and hypercorn: option -> the one that does the same here, or a sentence.
OPTIONS = {
    "--access-logfile": "--access-log writes it to stdout, --log-config anywhere",
    "--access-logformat": "--access-log has common, combined and json",
    "--blocking-threads": "--threads",
    "--ca-certs": "--ssl-ca-certs",
    "--cert-reqs": "--ssl-client-certs is none, optional or required",
    "--certfile": "--ssl-certfile",
    "--chdir": "--app-dir is where the application is imported from; the directory stays that where it is started",
    "--ciphers": "--ssl-ciphers",
    "--daemon": "a service manager runs it in the background, see docs/workers.md",
    "--env": "--env-file has variables for the application",
    "--graceful-timeout": "--drain-timeout",
    "--h11-max-incomplete-event-size": "--max-head-bytes",
    "--http": "there is one implementation of HTTP/1.1",
    "--keyfile": "--ssl-keyfile",
    "--limit-concurrency": "--max-connections with --when-full reject",
    "--limit-max-requests": "--max-requests-per-worker",
    "--limit-request-field_size": "--max-header-bytes",
    "--limit-request-fields": "--max-headers",
    "--limit-request-line": "--max-target-bytes",
    "--max-requests": "--max-requests-per-worker",
    "--max-requests-jitter": "--max-requests-per-worker is varied by a tenth",
    "--no-access-log": "the access log is off unless --access-log asks for it",
    "--no-sendfile": "files are always sent by the kernel",
    "--pidfile": "--pid",
    "--preload": "each worker imports the application itself, so that a reload reads it anew",
    "--proxy-allow-from": "--forwarded-allow-ips names those who send --proxy-protocol, too",
    "--proxy-headers": "--forwarded-allow-ips names the proxies that are believed; nobody else is",
    "--pythonpath": "--app-dir",
    "--ssl-certificate": "--ssl-certfile",
    "--ssl-version": "TLS 1.2 and newer are spoken",
    "--timeout": "--handler-timeout is for a response; the process is looked after by systemd's WatchdogSec",
    "--timeout-graceful-shutdown": "--drain-timeout",
    "--timeout-keep-alive": "--keep-alive-timeout",
    "--umask": "--uds-mode is for the socket; the umask is that where it is started",
    "--url-path-prefix": "--root-path",
    "--use-colors": "levels are in colour on a terminal, unless NO_COLOR=1",
    "--websocket-max-message-size": "--ws-max-size",
    "--websockets": "install kacore[websockets]",
    "--worker-class": "there is one kind of worker, see --interface and --loop",
    "--worker-connections": "--max-connections",
}
# Other names of the same.
ALIASES = {
    "--access-log-fmt": "--access-logformat",
    "--limit-max-requests-jitter": "--max-requests-jitter",
    "--no-proxy-headers": "--proxy-headers",
    "--no-use-colors": "--use-colors",
    "--ssl-cert-reqs": "--cert-reqs",
    "--ws": "--websockets",
    "-D": "--daemon",
    "-e": "--env",
    "-k": "--worker-class",
    "-p": "--pidfile",
    "-t": "--timeout",
}


def explain(words: list[str], ours: Collection[str]) -> str:
    """The message for command-line words that mean nothing here. ours: the options that there are."""
    option = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
    if option is None:
        return f"{words[0]!r} belongs to no option"
    known = OPTIONS.get(ALIASES.get(option, option))
    if known is None or not set(flags_in(known)) <= set(ours):
        near = difflib.get_close_matches(option, ours, n=1)
        return f"there is no option {option}" + (f"; did you mean {near[0]}?" if near else "")
    return f"there is no option {option}: {known}" if " " in known else f"there is no option {option}: it is {known} here"


def flags_in(sentence: str) -> list[str]:
    return re.findall(r"--[a-z][a-z-]*", sentence)
