"""What options of other servers are called here: those that mean the same are taken, and whoever types another one out of
habit is told the word."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence

# Of gunicorn, uvicorn, granian and hypercorn: option -> ours that means the same and takes the same values.
SAME = {
    "--access-logfile": "--access-log-file",
    "--ca-certs": "--ssl-ca-certs",
    "--certfile": "--ssl-certfile",
    "--ciphers": "--ssl-ciphers",
    "--graceful-timeout": "--drain-timeout",
    "--keyfile": "--ssl-keyfile",
    "--limit-max-requests": "--max-requests-per-worker",
    "--limit-request-field_size": "--max-header-bytes",
    "--limit-request-fields": "--max-headers",
    "--max-requests": "--max-requests-per-worker",
    "--pidfile": "--pid",
    "--pythonpath": "--app-dir",
    "--ssl-certificate": "--ssl-certfile",
    "--timeout-graceful-shutdown": "--drain-timeout",
    "--timeout-keep-alive": "--keep-alive-timeout",
    "--timeout-worker-healthcheck": "--worker-timeout",
    "--url-path-prefix": "--root-path",
    "--websocket-max-message-size": "--ws-max-size",
    "--worker-connections": "--max-connections",
    "-c": "--config",
    "-p": "--pid",
}
# The same for options that need an explanation: the one that does the same here, or a sentence.
OPTIONS = {
    "--access-logformat": "--access-log takes a format in Apache's words: %h, %r, %s, %{User-Agent}i",
    "--asgi-disconnect-grace-period": "docs/operations.md says what a client that disconnects is",
    "--asgi-lifespan": "--lifespan",
    "--asgi-loop": "--loop",
    "--blocking-threads": "--threads",
    "--cert-reqs": "--ssl-client-certs is none, optional or required",
    "--chdir": "--app-dir is where the application is imported from; the directory stays that where it is started",
    "--daemon": "a service manager runs it in the background, see docs/workers.md",
    "--env": "--env-file has variables for the application",
    "--error-logfile": "--log-config says where the log goes; it is stderr",
    "--h11-max-incomplete-event-size": "--max-head-bytes",
    "--header-map": "of trusted proxies X-Forwarded-For and -Proto count; names with underscores pass for no others",
    "--http": "there is one implementation of HTTP/1.1",
    "--http2-cleartext": "--http2 serves it on plain ports, too",
    "--limit-concurrency": "--max-connections with --when-full reject",
    "--limit-request-line": "--max-target-bytes",
    "--log-config-json": "--log-config",
    "--log-syslog": "--log-config may name a SysLogHandler",
    "--max-requests-jitter": "--max-requests-per-worker is varied by a tenth",
    "--no-sendfile": "files are always sent by the kernel",
    "--paste": "--factory calls a function that loads the file",
    "--permit-obsolete-folding": "docs/strictness.md says what is refused, and why",
    "--preload": "each worker imports the application itself, so that a reload reads it anew",
    "--print-config": "kacore config prints it",
    "--protocol": "HTTP is spoken",
    "--proxy-allow-from": "--forwarded-allow-ips names those who send --proxy-protocol, too",
    "--proxy-headers": "--forwarded-allow-ips names the proxies that are believed; nobody else is",
    "--reload-delay": "a change is seen at once",
    "--reload-engine": "a change is seen at once, and cheaply with kacore[reload]",
    "--reload-extra-file": "--reload-include names files",
    "--reset-contextvars": "each request has a context of its own",
    "--server-header": "--server-name is its value",
    "--ssl-version": "TLS 1.2 and newer are spoken",
    "--statsd-host": "--admin has /metrics for Prometheus",
    "--timeout": "--worker-timeout replaces a worker whose event loop is stuck; --handler-timeout ends one response",
    "--umask": "--uds-mode is for the socket; the umask is that where it is started",
    "--use-colors": "levels are in colour on a terminal, unless NO_COLOR=1",
    "--user": "what starts the server changes the user, see docs/deploy.md",
    "--websockets": "install kacore[websockets]",
    "--worker-class": "there is one kind of worker, see --interface and --loop",
    "--worker-tmp-dir": "workers have no files for signs of life",
    "--ws-max-queue": "32 KiB of messages wait, and the client is not read meanwhile",
}
# Other names of the same.
ALIASES = {
    "--access-log-fmt": "--access-logformat",
    "--capture-output": "--error-logfile",
    "--casefold-http-method": "--permit-obsolete-folding",
    "--disable-redirect-access-to-syslog": "--log-syslog",
    "--do-handshake-on-connect": "--ssl-version",
    "--dogstatsd-tags": "--statsd-host",
    "--enable-backlog-metric": "--statsd-host",
    "--forwarder-headers": "--header-map",
    "--group": "--user",
    "--http-parser": "--permit-obsolete-folding",
    "--http-protocols": "--http2-cleartext",
    "--http2-initial-window-size": "--http2-cleartext",
    "--http2-max-concurrent-streams": "--http2-cleartext",
    "--http2-max-frame-size": "--http2-cleartext",
    "--http2-max-header-list-size": "--http2-cleartext",
    "--initgroups": "--user",
    "--limit-max-requests-jitter": "--max-requests-jitter",
    "--log-file": "--error-logfile",
    "--log-syslog-facility": "--log-syslog",
    "--log-syslog-prefix": "--log-syslog",
    "--log-syslog-to": "--log-syslog",
    "--logger-class": "--log-syslog",
    "--no-proxy-headers": "--proxy-headers",
    "--no-use-colors": "--use-colors",
    "--paste-global": "--paste",
    "--paster": "--paste",
    "--permit-unconventional-http-method": "--permit-obsolete-folding",
    "--permit-unconventional-http-version": "--permit-obsolete-folding",
    "--ssl-cert-reqs": "--cert-reqs",
    "--statsd-prefix": "--statsd-host",
    "--strip-header-spaces": "--permit-obsolete-folding",
    "--suppress-ragged-eofs": "--ssl-version",
    "--uwsgi-allow-from": "--protocol",
    "--ws": "--websockets",
    "-D": "--daemon",
    "-e": "--env",
    "-g": "--user",
    "-k": "--worker-class",
    "-m": "--umask",
    "-t": "--timeout",
    "-u": "--user",
}


def translate(words: Sequence[str], ours: Collection[str]) -> list[str]:
    """The command line in our words, as far as others mean the same. ours: the options that there are."""
    found: list[str] = []
    names_proxies = any(word.partition("=")[0] == "--forwarded-allow-ips" for word in words)
    for at, word in enumerate(words):
        option, equals, value = word.partition("=")
        after = value if equals else words[at + 1] if at + 1 < len(words) else ""
        if option == "--keep-alive" and is_number(after):  # gunicorn's; without a number it is ours
            found.append(f"--keep-alive-timeout{equals}{value}")
        elif word == "--no-access-log":  # uvicorn's
            found.append("--access-log=off")
        elif word == "--access-log" and (not after or after.startswith("-")):  # uvicorn's
            found.append("--access-log=short")
        elif word == "--proxy-headers" and names_proxies:  # uvicorn's, for whoever it names
            pass
        else:
            known = SAME.get(option)
            found.append(f"{known}{equals}{value}" if known in ours and option not in ours else word)
    return found


def is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", text) is not None


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
    return re.findall(r"--[a-z][a-z0-9-]*", sentence)
