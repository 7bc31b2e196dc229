"""nginx's words: what an nginx configuration says about client connections, as a policy with a rule for each
server.

The syntax is read by crossplane (the extra `kacore[nginx]`), which keeps line numbers and order and reads
unknown directives; it parses files only, so a text becomes one for it (in memory), and includes are followed
here, so that a missing one is a line of the report.

What a directive means was taken from nginx's own documentation (ngx_core_module, ngx_http_core_module,
ngx_http_limit_conn_module). Where the two servers do not mean the same the report says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from kacore.policy.readers.reading import OURS, Directive, Handler, Malformed, Reading, Scope, Walker, whole
from kacore.policy.rules import listener_key


def read(text: str, *, base: str | None = None, file: str = "nginx") -> Reading:
    """Read a configuration.

    text: of the main file. base: the directory of relative includes; without it they are not followed.
    file: what the report calls the text.
    Raises ImportError when crossplane is missing, PolicyError, naming file and line, for malformed syntax.
    """
    crossplane = syntax()
    with readable(text) as path:
        tree = parse(crossplane, path, file)
    reader = Reader(crossplane, base)
    reader.walk(tree, reader.out.server)
    reader.settle_nameless()
    return reader.out


@contextmanager
def readable(text: str) -> Iterator[str]:
    """A path where the text can be read: in memory where the system can do that, since a server may have no directory that
    it can write to."""
    import os
    import tempfile

    if hasattr(os, "memfd_create") and os.path.exists("/proc/self/fd"):
        copy: Any = open(os.memfd_create("kacore"), "wb")  # noqa: SIM115
    else:
        copy = tempfile.NamedTemporaryFile(prefix="kacore-", suffix=".conf")  # noqa: SIM115
    with copy:
        copy.write(text.encode("utf-8", "surrogateescape"))
        copy.flush()
        yield copy.name if isinstance(copy.name, str) else f"/proc/self/fd/{copy.fileno()}"


def syntax() -> Any:
    try:
        return import_module("crossplane")
    except ImportError:
        raise ImportError("reading nginx's configuration needs crossplane: pip install 'kacore[nginx]'") from None


def parse(crossplane: Any, path: str, file: str) -> list[Directive]:
    """The tree of one file, includes left as they are. PolicyError naming the place for malformed syntax."""
    found = crossplane.parse(path, single=True, comments=False, check_ctx=False, check_args=False)
    for error in found["errors"]:
        reason = str(error["error"]).partition(f" in {path}")[0]
        raise Malformed(f"{file}:{error['line'] or 1}: {reason}")
    return [build(statement, file) for config in found["config"] for statement in config["parsed"]]


def build(statement: dict[str, Any], file: str) -> Directive:
    # crossplane moves the condition of `if` and the like out of its parentheses; that only shows in the
    # report.
    words = [statement["directive"], *statement["args"]]
    text = " ".join(word if re.fullmatch(r"[^\s;{}\"']+", word) else repr(word) for word in words)
    found = Directive(statement["directive"], list(statement["args"]), text, file, statement["line"])
    if "block" in statement:
        found.children = [build(inner, file) for inner in statement["block"]]
    return found


# -- values -------------------------------------------------------------------------------------------------

TIME_UNITS = {"y": 31_536_000.0, "M": 2_592_000.0, "w": 604_800.0, "d": 86_400.0, "h": 3600.0, "m": 60.0}
TIME_UNITS |= {"s": 1.0, "": 1.0, "ms": 0.001}
SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def seconds(text: str) -> float:
    """A time as nginx writes it: "75", "75s", "1h30m", "500ms". ValueError for anything else."""
    parts = re.findall(r"(\d+)(ms|[yMwdhms]?)\s*", text)
    if not parts or not re.fullmatch(r"(\d+(ms|[yMwdhms]?)\s*)+", text):
        raise ValueError(f"{text!r} is not a time")
    return sum(int(number) * TIME_UNITS[unit] for number, unit in parts)


def size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,15})([kmg]?)", text.lower())
    if not match:
        raise ValueError(f"{text!r} is not a size")
    return int(match[1]) * SIZE_UNITS[match[2]]


# -- walking ------------------------------------------------------------------------------------------------


class Reader(Walker):
    """Knows the blocks of nginx."""

    def __init__(self, crossplane: Any, base: str | None) -> None:
        super().__init__(base)
        self.crossplane = crossplane
        self.out.is_exact_first = True
        self.zones: dict[str, str] = {}  # zone of limit_conn_zone -> its key

    def parse_file(self, path: str) -> list[Directive]:
        return parse(self.crossplane, path, path)

    def walk(self, directives: list[Directive], scope: Scope) -> None:
        for found in directives:
            if found.name == "limit_conn_zone":  # may stand after its use
                self.learn_zone(found)
        super().walk(directives, scope)

    def enter(self, block: Directive, children: list[Directive], scope: Scope) -> None:
        if block.name in ("http", "events") and not block.args:
            self.out.remark(block, "the default policy")
            self.walk(children, scope)
        elif block.name == "server" and not block.args:
            self.enter_server(block, children)
        elif block.name == "location":
            self.out.refuse(block, "kacore knows whole sites only, no part of one")
        else:
            self.out.refuse(block, OURS)

    def enter_server(self, block: Directive, children: list[Directive]) -> None:
        given = [word for child in children if child.name == "server_name" for word in child.args]
        names: list[str] = []
        for name in given:
            if name not in ("_", ""):  # the usual names of the server that answers when no other does
                names += [name[1:], "*" + name] if name.startswith(".") else [name]
        listens = [child for child in children if child.name == "listen" and child.args]
        addresses = [listen_address(child.args[0]) for child in listens]
        if self.enter_site(block, children, names, addresses) is None:
            return
        for listen, address in zip(listens, addresses, strict=True):
            if "default_server" in listen.args or "default" in listen.args:
                self.answers[listener_key(address)] = block

    def learn_zone(self, found: Directive) -> None:
        key = found.args[0] if found.args else ""
        for word in found.args[1:]:
            if word.startswith("zone="):
                self.zones[word.removeprefix("zone=").partition(":")[0]] = key


def listen_address(word: str) -> str:
    """The address of a listen directive in the form of `Rule`: a bare port or address gets its other half."""
    if word.startswith("unix:"):
        return word
    if word.isdecimal():
        return f":{word}"
    return word if re.search(r":\d+$", word) and not word.endswith("]") else f"{word}:80"


# -- directives ---------------------------------------------------------------------------------------------

MSIE6 = r"MSIE (?:[45]\.|6\.(?!.*SV1))"
SAFARI = r"^(?!.*(?:Opera|MSIE |Gecko/|Chrome/))(?=.*Mac OS X).*Safari/"


def keepalive_timeout(reader: Reader, found: Directive, scope: Scope) -> None:
    limit = seconds(found.args[0])
    if not limit:
        reader.out.take(found, scope, {"keep_alive": False}, "a timeout of 0 keeps nothing")
        return
    fields: dict[str, Any] = {"keep_alive_timeout": limit}
    why = ""
    if len(found.args) > 1:
        promised = seconds(found.args[1])
        fields["advertise"] = bool(promised)
        if promised > limit:
            why = f"kacore never promises more than it keeps: {found.args[1]} is not advertised"
        elif promised and scope.hosts:
            why = "the advertised time is the timeout less the advertise_margin of all"
        elif promised:
            fields["advertise_margin"] = limit - promised
    reader.out.take(found, scope, fields, why)


def keepalive_requests(reader: Reader, found: Directive, scope: Scope) -> None:
    limit = whole(found.args[0])
    if limit:
        reader.out.take(found, scope, {"max_keep_alive_requests": limit})
    else:
        reader.out.take(found, scope, {"keep_alive": False}, "0 requests keep nothing")


def keepalive_disable(reader: Reader, found: Directive, scope: Scope) -> None:
    known = {"msie6": MSIE6, "safari": SAFARI}
    unknown = [word for word in found.args if word not in known and word != "none"]
    if unknown or not found.args:
        raise ValueError(f"{' '.join(unknown)!r}: must be none, msie6 or safari")
    if scope.listeners:
        raise ValueError("a rule looks at the listener or at the User-Agent, not at both")
    scope.agents += [known[word] for word in found.args if word in known]
    why = "for all methods; nginx looks at POST only" if "msie6" in found.args else ""
    reader.out.remark(found, why, is_rest=not scope.agents)


def client_header_timeout(reader: Reader, found: Directive, scope: Scope) -> None:
    limit = positive(found.args[0])
    names = ("handshake_timeout", "first_byte_timeout", "request_header_timeout")
    why = "three limits here: handshake, first byte, head" if scope.is_server_wide else ""
    reader.out.take(found, scope, dict.fromkeys(names, limit), why)


def limit_conn(reader: Reader, found: Directive, scope: Scope) -> None:
    zone, limit = found.args[0], whole(found.args[1])
    key = reader.zones.get(zone)
    if key not in ("$binary_remote_addr", "$remote_addr"):
        raise ValueError(f"zone {zone} counts by {key or 'an unknown key'}, kacore by the client's address")
    why = "nginx counts connections with a request, kacore all"
    reader.out.take(found, scope, {"max_connections_per_client": limit}, why)


def limit_conn_zone(reader: Reader, found: Directive, scope: Scope) -> None:
    reader.out.remark(found, "its key decides what limit_conn counts; memory is the table's own affair")


def large_client_header_buffers(reader: Reader, found: Directive, scope: Scope) -> None:
    number, each = whole(found.args[0]), size(found.args[1])
    fields = {"max_head_bytes": number * each, "max_target_bytes": each, "max_header_bytes": each}
    reader.out.take(found, scope, fields)


def lingering_close(reader: Reader, found: Directive, scope: Scope) -> None:
    raise ValueError("always on: a close with unread input could destroy the answer")


def worker_connections(reader: Reader, found: Directive, scope: Scope) -> None:
    why = "nginx counts connections to other servers too"
    reader.out.take(found, scope, {"max_connections": whole(found.args[0])}, why)


def keepalive_min_timeout(reader: Reader, found: Directive, scope: Scope) -> None:
    limit = seconds(found.args[0])
    reader.out.take(found, scope, {"min_idle_before_evict": limit, "drain_grace": limit})


def named(what: str) -> Handler:
    def handler(reader: Reader, found: Directive, scope: Scope) -> None:
        if scope.is_server_wide:
            reader.out.refuse(found, "the default policy needs none", is_rest=True)
        else:
            reader.out.remark(found, what)

    return handler


def positive(text: str) -> float:
    limit = seconds(text)
    if not limit:
        raise ValueError("0 would give every wait no time at all")
    return limit


def one(field: str, convert: Callable[[str], Any]) -> Handler:
    """A directive that is one value of one field."""

    def handler(reader: Reader, found: Directive, scope: Scope) -> None:
        reader.out.take(found, scope, {field: convert(found.args[0])})

    return handler


HANDLERS: dict[str, Handler] = {
    "include": Walker.include,
    "worker_connections": worker_connections,
    "keepalive_timeout": keepalive_timeout,
    "keepalive_requests": keepalive_requests,
    "keepalive_time": one("max_connection_age", positive),
    "keepalive_disable": keepalive_disable,
    "keepalive_min_timeout": keepalive_min_timeout,
    "client_header_timeout": client_header_timeout,
    "client_body_timeout": one("request_body_timeout", positive),
    "send_timeout": one("send_timeout", positive),
    "lingering_timeout": one("linger_timeout", positive),
    "lingering_time": one("linger_time", positive),
    "lingering_close": lingering_close,
    "limit_conn": limit_conn,
    "limit_conn_zone": limit_conn_zone,
    "client_max_body_size": one("max_body_bytes", size),
    "large_client_header_buffers": large_client_header_buffers,
    "max_headers": one("max_headers", whole),
    "worker_shutdown_timeout": one("drain_timeout", positive),
    "listen": named("kept for rules; listeners are arguments of kacore serve"),
    "server_name": named("names the site"),
}

Reader.handlers = HANDLERS
Reader.structure = {"include", "listen", "server_name", "limit_conn_zone"}
