"""Apache's words: what an httpd configuration says about connections, as a policy with a rule for each site.

The reader of the syntax is our own, since no well-kept one gives what the report needs: apacheconfig (the one
package for it, last released in 2020) returns nested dictionaries without line numbers and without the order
of different directives, and both count here. The syntax is small: one directive a line, a backslash joins
lines, blocks in angle brackets (https://httpd.apache.org/docs/2.4/configuring.html).

What a directive means was taken from the manual of Apache httpd 2.4 (core, event, mod_reqtimeout,
mod_headers, mod_setenvif) and from what Apache 2.4.71 did. Where the two servers do not mean the same the report says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from kacore.policy.policy import Policy
from kacore.policy.readers.reading import OURS, Directive, Handler, Malformed, Reading, Scope, Walker, read_text, whole
from kacore.policy.rules import compile_pattern, host_pattern


def read(
    text: str,
    *,
    base: str | None = None,
    file: str = "apache",
    htaccess: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Reading:
    """Read a configuration.

    text: of the main file. base: the directory of relative includes, in place of ServerRoot; without either
    they are not followed. file: what the report calls the text. htaccess: site name -> text of its .htaccess.
    environ: what ${NAME} is when no Define says it; default: os.environ.
    Raises PolicyError, naming file and line, for a block that is not closed or closed by another name.
    """
    reader = Reader(base, os.environ if environ is None else environ)
    reader.walk(parse(text, file), reader.out.server)
    for name, rules in (htaccess or {}).items():
        reader.walk_htaccess(name, parse(rules, f"{name}/.htaccess"))
    reader.finish()
    return reader.out


# -- syntax -------------------------------------------------------------------------------------------------

WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|\'((?:[^\'\\]|\\.)*)\'|(\S+)')


def split(text: str) -> list[str]:
    """The arguments of a directive. A backslash only hides the quote it stands before: `\\.` stays as it
    is."""
    found = []
    for double, single, plain in WORD.findall(text):
        quote, word = ('"', double) if double else ("'", single)
        found.append(plain or word.replace("\\" + quote, quote))
    return found


def parse(text: str, file: str) -> list[Directive]:
    """The tree of a text. PolicyError naming file and line for blocks that do not close as they opened."""
    top: list[Directive] = []
    here, opened = top, []  # type: list[Directive], list[tuple[Directive, list[Directive]]]
    for number, line in join_lines(text):
        if line.startswith("</"):
            name = line[2:].rstrip("> \t").lower()
            if not opened or opened[-1][0].name != name:
                expected = f"</{opened[-1][0].name}>" if opened else "no block to close"
                raise Malformed(f"{file}:{number}: {line}: must be {expected}")
            here = opened.pop()[1]
            continue
        is_block = line.startswith("<")
        raw = line[1:].rstrip().removesuffix(">") if is_block else line
        words = split(raw)
        if not words:
            continue
        found = Directive(words[0], words[1:], line, file, number)
        found.raw = raw
        here.append(found)
        if is_block:
            found.children = []
            opened.append((found, here))
            here = found.children
    if opened:
        raise Malformed(f"{file}:{opened[-1][0].line}: {opened[-1][0].text}: is never closed")
    return top


def join_lines(text: str) -> list[tuple[int, str]]:
    """(number of the first line, stripped text) of every directive; comments and empty lines are left out."""
    found, start, parts = [], 0, list[str]()
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not parts:
            start = number
        if line.endswith("\\"):
            parts.append(line[:-1])
            continue
        whole = "".join([*parts, line]).strip()
        parts.clear()
        if whole and not whole.startswith("#"):
            found.append((start, whole))
    if parts and "".join(parts).strip():
        found.append((start, "".join(parts).strip()))
    return found


# -- values -------------------------------------------------------------------------------------------------

UNITS = {"": 1.0, "s": 1.0, "ms": 0.001, "mi": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """A time as Apache writes it: seconds unless s, ms, mi(n) or h follows, in small letters; what comes behind these
    letters is not looked at there. ValueError for anything else."""
    match = re.fullmatch(r"([0-9]{1,18})(|s|ms|mi|h)(?:(?<=[a-z]).*)?", text)
    if not match:
        raise ValueError(f"{text!r} is not a time")
    return int(match[1]) * UNITS[match[2]]


def bare_seconds(text: str) -> float:
    """A time of the older directives, where Apache reads digits and passes over what follows: 1min is a second there."""
    if re.fullmatch(r"[0-9]{1,18}[a-zA-Z]+", text):
        raise ValueError(f"{text!r} has a unit, and Apache reads the number alone, as seconds: which is meant?")
    return float(whole(text))


def on_off(text: str) -> bool:
    if text.lower() not in ("on", "off"):
        raise ValueError(f"{text!r} is neither On nor Off")
    return text.lower() == "on"


# -- walking ------------------------------------------------------------------------------------------------


class Reader(Walker):
    """Keeps what is only known at the end: what several directives say together."""

    def __init__(self, base: str | None, environ: Mapping[str, str]) -> None:
        super().__init__(base)
        self.has_own_base = bool(base)
        self.is_htaccess = False
        self.environ = environ
        self.defined: dict[str, str | None] = {}  # None: defined without a value
        self.modules: set[str] = set()  # as LoadModule names them; none: the text does not say which there are
        self.workers: dict[str, tuple[int, Directive]] = {}  # directives that together bound the connections
        self.first_of: dict[str, Scope] = {}  # address -> its first virtual host
        self.timeouts: list[tuple[Directive, Scope, float]] = []
        self.closes: list[tuple[Directive, Scope]] = []  # Header ... Connection close
        self.header_keep_alive: list[tuple[Directive, Scope]] = []

    def prepare(self, found: Directive) -> None:
        found.args = self.arguments(found)

    def parse_file(self, path: str) -> list[Directive]:
        return parse(read_text(path), path)

    def matters(self, found: Directive) -> bool:
        words = [word.lower() for word in found.args]
        if found.name == "header":
            return any(word.removesuffix(":") in ("connection", "keep-alive") for word in words)
        if found.name in ("browsermatch", "browsermatchnocase", "setenvif", "setenvifnocase"):
            return any(word.startswith("nokeepalive") for word in words)
        return super().matters(found)

    def apply(self, found: Directive, scope: Scope) -> None:
        if self.is_htaccess and found.name in HANDLERS and found.name not in IN_HTACCESS:
            self.out.refuse(found, "not allowed in .htaccess: Apache answers every request with 500")
        elif len(found.args) > 1 and found.name in SINGLE:
            self.out.refuse(found, "takes one argument (a # within a line begins no comment)")
        else:
            super().apply(found, scope)

    # -- variables ------------------------------------------------------------------------------------------

    def arguments(self, found: Directive) -> list[str]:
        """What a variable holds is split like the rest of the line."""
        return split(self.expand(found.raw))[1:] if "${" in found.raw else found.args

    def expand(self, text: str) -> str:
        return re.sub(r"\$\{([^}]+)\}", lambda match: self.variable(match[1], match[0]), text)

    def variable(self, name: str, otherwise: str) -> str:
        """Apache tells variables apart by their letters, small or not; those of the environment by both."""
        defined = {key.lower(): value for key, value in self.defined.items() if value is not None}
        found = defined.get(name.lower(), self.environ.get(name))
        return otherwise if found is None else found

    # -- blocks ---------------------------------------------------------------------------------------------

    def enter(self, block: Directive, children: list[Directive], scope: Scope) -> None:
        if block.name == "virtualhost":
            self.enter_virtual_host(block, children)
        elif block.name in CONDITIONS:
            try:
                holds = CONDITIONS[block.name](self, block)
            except ValueError as error:
                self.out.refuse(block, str(error))
                return
            if holds:
                self.out.remark(block, "the condition is taken as true")
                self.walk(children, scope)
            else:
                self.out.refuse(block, f"{' '.join(block.args)} is taken as false")
        elif block.name in ("ifdirective", "ifsection"):
            self.out.refuse(block, "which directives an Apache knows is not known here")
        else:
            self.out.refuse(block, "kacore knows whole sites only, no part of one")

    def is_loaded(self, name: str) -> bool:
        """Whether Apache would find this module, by its whole identifier or the name of its source file, in that
        spelling. Where the text loads no module, all but MPMs count as loaded."""
        if mpm := re.fullmatch(r"mpm_(\w+)_module|(event|worker|prefork|winnt|mpmt_os2|mpm_netware|mpm_\w+)\.c", name):
            module = mpm[1] or mpm[2]
            return module == self.mpm() or f"{module.removeprefix('mpm_')}_module" in {
                loaded.removeprefix("mpm_") for loaded in self.modules if loaded[4:-7] not in MPMS
            }
        source = re.fullmatch(r"(?:mod_)?(?!mpm_)(\w+)\.c", name)
        identifier = f"{source[1]}_module" if source else name
        if not identifier.endswith("_module"):
            return False
        return not self.modules or identifier in self.modules or identifier in BUILT_IN

    def mpm(self) -> str:
        """The loaded one, "event" when the text does not say."""
        return next((name for name in MPMS if f"mpm_{name}_module" in self.modules), "event")

    def enter_virtual_host(self, block: Directive, children: list[Directive]) -> None:
        names = [word for child in children if child.name == "servername" for word in self.arguments(child)[:1]]
        names += [word for child in children if child.name == "serveralias" for word in self.arguments(child)]
        names = [re.sub(r"^[a-z]+://", "", name) for name in names]
        # One without a port is at every port, which no rule can say.
        anywhere = r"(\*|_default_)(:\*)?"
        addresses = [re.sub(r"^_default_:", "*:", word) for word in block.args if not re.fullmatch(anywhere, word)]
        scope = self.enter_site(block, children, names, addresses)
        if scope is None:
            return
        for address in block.args:
            self.first_of.setdefault(address, scope)
        # The manual of KeepAliveTimeout: a name-based virtual host without one has that of the first one.
        inherited = self.first_of[block.args[0]].changes.get("keep_alive_timeout") if block.args else None
        if inherited and "keep_alive_timeout" not in scope.changes:
            why = "as in the first virtual host of the address, which counts where none is set"
            self.out.take(block, scope, {"keep_alive_timeout": inherited}, why)

    # -- .htaccess ------------------------------------------------------------------------------------------

    def walk_htaccess(self, site: str, directives: list[Directive]) -> None:
        """A site's own file: only what Apache's manual allows in the context ".htaccess"."""
        name = host_pattern(site)
        scope = next((known for known in self.out.sites if name in known.hosts), None)
        if scope is None:
            scope = Scope([name], place=f"{name}/.htaccess:1")
            self.out.sites.append(scope)
        self.is_htaccess = True
        self.walk(directives, scope)
        self.is_htaccess = False

    # -- what needs the whole file --------------------------------------------------------------------------

    def finish(self) -> None:
        for found, scope, limit in self.timeouts:
            fields: dict[str, Any] = {"send_timeout": limit}
            why = ""
            if "request_body_timeout" in scope.changes:
                why = "the body's gap is what RequestReadTimeout says"
            else:
                fields["request_body_timeout"] = limit
            self.out.take(found, scope, fields, why)
        for found, scope in self.closes:
            self.out.take(found, scope, {"keep_alive": False})
        for found, scope in self.header_keep_alive:
            if scope.changes.get("keep_alive", self.out.server.changes.get("keep_alive")) is False:
                self.out.refuse(found, "the field alone keeps nothing open while KeepAlive is Off")
            elif "keep_alive" in scope.changes:
                self.out.remark(found, "KeepAlive On has said so", is_rest=False)
            else:
                self.out.take(found, scope, {"keep_alive": True}, "read as KeepAlive On, which is what keeps it open")
        self.bound_connections()
        self.settle_nameless()

    def bound_connections(self) -> None:
        """MaxRequestWorkers and its relatives, as https://httpd.apache.org/docs/2.4/mod/event.html computes
        them."""
        if not self.workers:
            return
        is_event = self.mpm() == "event"
        threads = 1 if self.mpm() == "prefork" else self.number("threadsperchild", 25)
        servers = self.number("serverlimit", 256 if self.mpm() == "prefork" else 16)
        requests = self.number("maxrequestworkers", threads * servers)
        factor = self.number("asyncrequestworkerfactor", 2) if is_event else 0
        limit = requests * (factor + 1)
        how = f"{requests} workers" + (f" * (AsyncRequestWorkerFactor {factor} + 1)" if is_event else "")
        main = next(name for name in BOUNDS if name in self.workers)
        for name, (_value, found) in self.workers.items():
            if name == main:
                why = f"{how} with the {self.mpm()} MPM; there for the whole server, here for each worker"
                self.out.take(found, self.out.server, {"max_connections": limit}, why)
            else:
                self.out.remark(found, f"counted in max_connections={limit}", is_rest=False)

    def number(self, name: str, default: int) -> int:
        return self.workers[name][0] if name in self.workers else default


MPMS = ("event", "worker", "prefork")
# What `apache2 -l` says of Debian's and of one built by itself.
BUILT_IN = {
    f"{name}_module" for name in ("core", "so", "http", "http_core", "watchdog", "log_config", "logio", "version", "unixd")
}
BOUNDS = ("maxrequestworkers", "threadsperchild", "serverlimit", "asyncrequestworkerfactor")


# -- conditions ---------------------------------------------------------------------------------------------


def asked(block: Directive) -> tuple[bool, str]:
    """What a condition asks, and whether the answer is to be yes. ValueError when it asks nothing."""
    text = " ".join(block.args)
    words = text.removeprefix("!").split()
    if not words:
        raise ValueError("asks nothing")
    return not text.startswith("!"), words[0]


def if_module(reader: Reader, block: Directive) -> bool:
    wanted, name = asked(block)
    return reader.is_loaded(name) is wanted


def if_define(reader: Reader, block: Directive) -> bool:
    wanted, name = asked(block)
    return (name in reader.defined) is wanted


def if_file(reader: Reader, block: Directive) -> bool:
    wanted, name = asked(block)
    if not reader.base and not name.startswith("/"):
        raise ValueError("not looked for: the directory of relative paths is not known")
    return os.path.exists(os.path.join(reader.base, name)) is wanted


RELEASES = range(37, 100)  # of 2.4; that of RHEL 8 is the oldest that anybody still maintains
COMPARE = {
    "=": lambda sign: sign == 0,
    "==": lambda sign: sign == 0,
    ">": lambda sign: sign > 0,
    ">=": lambda sign: sign >= 0,
    "<": lambda sign: sign < 0,
    "<=": lambda sign: sign <= 0,
}


def if_version(reader: Reader, block: Directive) -> bool:
    """As every release that is in use has it, or none; which one it is the text does not say."""
    words = block.args if len(block.args) != 1 else ["=", *block.args]
    if len(words) != 2:
        raise ValueError("Apache takes an operator and a version, with a space between")
    operator, version = words[0].removeprefix("!"), words[1]
    wanted = not words[0].startswith("!")
    slashes = re.fullmatch(r"/(.*)/", version)
    if operator == "~" or (operator in ("=", "==") and slashes):
        pattern = compile_pattern(slashes[1] if slashes and operator != "~" else version)
        answers = {pattern.search(f"2.4.{patch}") is not None for patch in RELEASES}
    else:
        if operator not in COMPARE or not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}){0,2}", version):
            raise ValueError("Apache takes =, ==, >, >=, <, <= or ~, and a version of up to three numbers")
        than = [*map(int, version.split(".")), 0, 0][:3]
        answers = {COMPARE[operator](([2, 4, patch] > than) - ([2, 4, patch] < than)) for patch in RELEASES}
    if len(answers) > 1:
        raise ValueError("some releases of Apache say yes and others no, and which it is is not known here")
    return (True in answers) is wanted


CONDITIONS = {"ifmodule": if_module, "ifdefine": if_define, "ifversion": if_version, "iffile": if_file}


# -- directives ---------------------------------------------------------------------------------------------


def keep_alive(reader: Reader, found: Directive, scope: Scope) -> None:
    reader.out.take(found, scope, {"keep_alive": on_off(found.args[0])})


def keep_alive_timeout(reader: Reader, found: Directive, scope: Scope) -> None:
    limit = seconds(found.args[0])
    if limit:
        reader.out.take(found, scope, {"keep_alive_timeout": limit})
    else:
        reader.out.take(found, scope, {"keep_alive": False}, "a timeout of 0 keeps nothing")


def max_keep_alive_requests(reader: Reader, found: Directive, scope: Scope) -> None:
    limit = whole(found.args[0])
    why = f"Apache gives {limit + 1} responses; here {limit} means {limit}" if limit else ""
    reader.out.take(found, scope, {"max_keep_alive_requests": limit}, why)


def time_out(reader: Reader, found: Directive, scope: Scope) -> None:
    limit = bare_seconds(found.args[0])
    if not limit:
        raise ValueError("0 would give every wait no time at all")
    reader.timeouts.append((found, scope, limit))


STAGE = re.compile(r"(handshake|header|body)=(\d+)(?:-(\d+))?(?:,minrate=(\d+))?", re.IGNORECASE)


def request_read_timeout(reader: Reader, found: Directive, scope: Scope) -> None:
    fields: dict[str, Any] = {}
    remarks = []
    if not found.args:
        raise IndexError
    for word in found.args:
        match = STAGE.fullmatch(word)
        if not match:
            raise ValueError(f"{word!r} must be stage=time[-max][,MinRate=rate]")
        stage, start = match[1].lower(), float(match[2])
        longest, rate = float(match[3] or start), int(match[4] or 0)
        if stage == "handshake":
            fields["handshake_timeout"] = longest
        elif stage == "header":
            fields.update(first_byte_timeout=start, request_header_timeout=longest)
            if rate and not match[3]:
                remarks.append("a head's time does not grow with its bytes here")
        elif not start:
            fields.update(request_body_timeout=0.0, min_request_body_rate=0)
        else:
            fields["request_body_timeout"] = start
            if rate:
                fields["min_request_body_rate"] = rate
            else:
                remarks.append("a total time there, the longest gap here")
            if rate and scope.is_server_wide:
                fields["rate_window"] = start
            if match[3]:
                remarks.append("the body's total time has no counterpart")
    reader.out.take(found, scope, fields, "; ".join(remarks))


def workers(reader: Reader, found: Directive, scope: Scope) -> None:
    name = {"maxclients": "maxrequestworkers"}.get(found.name, found.name)
    reader.workers[name] = (whole(found.args[0]), found)


def header(reader: Reader, found: Directive, scope: Scope) -> None:
    is_always = found.args[0].lower() == "always"
    args = found.args[1:] if found.args[0].lower() in ("always", "onsuccess") else found.args
    action, name = args[0].lower(), args[1].lower().removesuffix(":")
    value = re.split(r"[\s,]+", args[2].lower()) if len(args) > 2 else []
    if name not in ("connection", "keep-alive"):
        reader.out.refuse(found, OURS)
    elif len(args) > 3:
        reader.out.refuse(found, f"{' '.join(args[3:])}: a condition that kacore does not evaluate")
    elif action == "unset" and name == "connection" and (taken := closes_before(reader, scope, is_always)):
        reader.closes = [close for close in reader.closes if close not in taken]
        for close, _ in taken:
            reader.out.refuse(close, f"taken back by {found.place}")
        reader.out.remark(found, "takes back what was set before", is_rest=False)
    elif action == "unset":
        reader.out.refuse(found, "changes nothing in Apache either, which writes the field after mod_headers is done")
    elif action not in ("set", "add", "append", "merge", "setifempty"):
        reader.out.refuse(found, f"{action}: only set and the like have a counterpart")
    elif name == "keep-alive":
        reader.out.refuse(found, "kacore writes Keep-Alive itself, from the limits that hold")
    elif "close" in value:
        reader.closes.append((found, scope))
    elif "keep-alive" in value:
        reader.header_keep_alive.append((found, scope))
    else:
        reader.out.refuse(found, "only keep-alive and close have a counterpart")


def closes_before(reader: Reader, scope: Scope, is_always: bool) -> list[tuple[Directive, Scope]]:
    """Apache keeps the fields that are set always apart from the others."""
    return [
        (close, where)
        for close, where in reader.closes
        if where is scope and (close.args[0].lower() == "always") is is_always
    ]


def browser_match(reader: Reader, found: Directive, scope: Scope) -> None:
    match_agent(reader, found, scope, found.args[0], found.args[1:])


def set_env_if(reader: Reader, found: Directive, scope: Scope) -> None:
    if found.args[0].lower() != "user-agent":
        reader.out.refuse(found, OURS if "nokeepalive" not in found.args else "only User-Agent is looked at")
        return
    match_agent(reader, found, scope, found.args[1], found.args[2:])


def match_agent(reader: Reader, found: Directive, scope: Scope, pattern: str, names: list[str]) -> None:
    names = [name.partition("=")[0] for name in names]
    if "nokeepalive" not in names:
        why = "a rule cannot take back another" if "!nokeepalive" in names else OURS
        reader.out.refuse(found, why)
        return
    if found.name.endswith("nocase"):
        pattern = f"(?i){pattern}"
    compile_pattern(pattern)
    if scope.listeners:
        reader.out.refuse(found, "a rule looks at the listener or at the User-Agent, not at both")
        return
    scope.agents.append(pattern)
    others = [name for name in names if name != "nokeepalive"]
    why = f"no keep-alive for User-Agent {pattern}"
    reader.out.remark(found, why + (f"; without {', '.join(others)}" if others else ""), is_rest=False)


def one(field: str, *, zero: int = 0) -> Handler:
    """A directive that is one number. zero: what Apache's 0, no limit, becomes."""

    def handler(reader: Reader, found: Directive, scope: Scope) -> None:
        limit = whole(found.args[0])
        why = f"0, no limit there, is {zero} here" if zero and not limit else ""
        reader.out.take(found, scope, {field: limit or zero}, why)

    return handler


DEFAULT = Policy()
# Of the default head, what is left for other fields beside the longest target and the longest one.
ROOM = DEFAULT.max_head_bytes - DEFAULT.max_target_bytes - DEFAULT.max_header_bytes


def line_limit(field: str) -> Handler:
    """A limit of one line, beside which Apache has none for the whole head: it must fit in there."""

    def handler(reader: Reader, found: Directive, scope: Scope) -> None:
        fields = {field: whole(found.args[0])}
        known = {**DEFAULT.as_dict(), **reader.out.server.changes, **scope.changes, **fields}
        head = known["max_target_bytes"] + known["max_header_bytes"] + ROOM
        why = ""
        if head > known["max_head_bytes"] and not scope.may_not_set("max_head_bytes"):
            fields["max_head_bytes"] = head
            why = "the head must have room for such a line, and Apache has no limit for it"
        reader.out.take(found, scope, fields, why)

    return handler


def graceful_shutdown_timeout(reader: Reader, found: Directive, scope: Scope) -> None:
    limit = bare_seconds(found.args[0])
    if not limit:
        raise ValueError("0, no limit, has no counterpart: a drain always ends")
    reader.out.take(found, scope, {"drain_timeout": limit})


def server_root(reader: Reader, found: Directive, scope: Scope) -> None:
    if not reader.has_own_base:
        reader.base = found.args[0]
    reader.out.remark(found, f"relative includes start from {reader.base}")


def define(reader: Reader, found: Directive, scope: Scope) -> None:
    if len(found.args) > 2:
        raise ValueError("takes a name and at most one value")
    reader.defined[found.args[0]] = found.args[1] if len(found.args) > 1 else None
    reader.out.remark(found, "")


def undefine(reader: Reader, found: Directive, scope: Scope) -> None:
    reader.defined.pop(found.args[0], None)
    reader.out.remark(found, "")


def load_module(reader: Reader, found: Directive, scope: Scope) -> None:
    reader.modules.add(found.args[0])
    if found.args[0].removesuffix("_module").removeprefix("mpm_") in MPMS:
        reader.out.remark(found, "decides what MaxRequestWorkers counts")
    else:
        reader.out.remark(found, "decides what <IfModule> says")


def site_name(reader: Reader, found: Directive, scope: Scope) -> None:
    if scope.is_server_wide:
        reader.out.refuse(found, "the default policy needs no name", is_rest=True)
    else:
        reader.out.remark(found, "names the site")


HANDLERS: dict[str, Handler] = {
    "keepalive": keep_alive,
    "keepalivetimeout": keep_alive_timeout,
    "maxkeepaliverequests": max_keep_alive_requests,
    "timeout": time_out,
    "requestreadtimeout": request_read_timeout,
    "maxrequestworkers": workers,
    "maxclients": workers,
    "threadsperchild": workers,
    "serverlimit": workers,
    "asyncrequestworkerfactor": workers,
    "header": header,
    "browsermatch": browser_match,
    "browsermatchnocase": browser_match,
    "setenvif": set_env_if,
    "setenvifnocase": set_env_if,
    "limitrequestbody": one("max_body_bytes"),
    "limitrequestline": line_limit("max_target_bytes"),
    "limitrequestfields": one("max_headers", zero=1024),
    "limitrequestfieldsize": line_limit("max_header_bytes"),
    "qs_srvmaxconnperip": one("max_connections_per_client"),
    "gracefulshutdowntimeout": graceful_shutdown_timeout,
    "include": Walker.include,
    "includeoptional": Walker.include,
    "serverroot": server_root,
    "define": define,
    "undefine": undefine,
    "loadmodule": load_module,
    "servername": site_name,
    "serveralias": site_name,
}

STRUCTURE = {
    "include", "includeoptional", "serverroot", "define", "undefine", "loadmodule", "servername", "serveralias",
}  # fmt: skip

SINGLE = {
    "keepalive", "keepalivetimeout", "maxkeepaliverequests", "timeout", "maxrequestworkers", "maxclients",
    "threadsperchild", "serverlimit", "asyncrequestworkerfactor", "gracefulshutdowntimeout", "include",
    "includeoptional", "serverroot", "servername", "undefine",
}  # fmt: skip

# Not taken, for a reason that is worth a word of its own.
REFUSED = {
    "use": "macros are not expanded",
    "listen": "listeners are arguments of kacore serve",
    "listenbacklog": "the backlog is an argument of kacore serve",
    "proxytimeout": "concerns the server behind a proxy",
}

# Those of the above that Apache allows in .htaccess; in any other it refuses the request.
IN_HTACCESS = {
    "header", "browsermatch", "browsermatchnocase", "setenvif", "setenvifnocase", "limitrequestbody",
}  # fmt: skip

Reader.handlers = HANDLERS
Reader.refused = REFUSED
Reader.structure = STRUCTURE
