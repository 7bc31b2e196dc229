"""Reading another server's configuration: directives, the scopes they stand in, and what became of each.

Shared by apache.py and nginx.py, which know the words. The promise kept here is that nothing is dropped
silently: every directive ends as one line of the report, as taken (with the fields it became, and a remark
where the two servers do not mean quite the same) or as not taken (with the reason).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Any

from kacore.policy.fields import REQUEST, WORKER, PolicyError, Value, show
from kacore.policy.policy import Policy
from kacore.policy.rules import PolicySet, Rule, host_pattern, listener_key

OURS = "no directive that kacore reads"
MAX_INCLUDE_DEPTH = 20  # Apache's own bound (AP_MAX_INCLUDE_DEPTH); nginx knows none


class Directive:
    """One directive as it was written; `children` are those inside it, None when it is no block."""

    __slots__ = ("args", "children", "file", "line", "name", "order", "text")

    def __init__(self, name: str, args: list[str], text: str, file: str, line: int) -> None:
        self.name = name.lower()
        self.args = args
        self.text = printable(text)
        self.file = file
        self.line = line
        self.children: list[Directive] | None = None
        self.order = 0  # in which it was met; set by whoever walks, since includes and late decisions mix


def printable(text: str) -> str:
    """One line that any terminal and a TOML comment can hold, whatever bytes the file had."""
    line = " ".join(text.split())
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in line)


class Line:
    """What became of one directive. `str()` gives it as a line for people."""

    __slots__ = ("fields", "file", "is_taken", "line", "order", "text", "why")

    def __init__(self, source: Directive, is_taken: bool, fields: dict[str, Value], why: str) -> None:
        self.file = source.file
        self.line = source.line
        self.order = source.order
        self.text = source.text
        self.is_taken = is_taken
        self.fields = fields  # the Policy fields it set, with their values
        self.why = why  # the reason, or a remark on what differs

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    def __str__(self) -> str:
        became = ", ".join(f"{name}={show(value)}" for name, value in self.fields.items())
        verdict = "taken" if self.is_taken else "not taken"
        said = "; ".join(filter(None, (became, self.why)))
        return f"{self.place}: {self.text}: {verdict}" + (f": {said}" if said else "")

    def __repr__(self) -> str:
        return f"<{self}>"


Report = tuple[Line, ...]


class Scope:
    """The fields set so far for the whole server (no keys) or for one site or listener."""

    def __init__(self, hosts: Iterable[str] = (), listeners: Iterable[str] = (), place: str = "") -> None:
        self.place = place  # "file:line" of the block
        self.hosts = list(hosts)
        self.listeners = list(listeners)
        self.changes: dict[str, Any] = {}
        self.origins: dict[str, str] = {}  # field -> "file:line directive"
        self.agents: list[str] = []  # User-Agent patterns that get no keep-alive

    @property
    def is_server_wide(self) -> bool:
        return not self.hosts and not self.listeners

    def may_not_set(self, field: str) -> str:
        """Why this scope cannot hold the field; "" if it can. The same as `Rule.may_not_set`, in words for
        here."""
        scope = Policy.__fields__[field].scope
        if self.is_server_wide or scope == REQUEST:
            return ""
        if scope == WORKER:
            return f"{field} is one number for a whole worker: set it outside of the sites"
        if self.hosts:
            return f"{field} cannot depend on the site, which the client names"
        return ""


class Reading:
    """The outcome of reading: what to change, where it came from, and the report."""

    def __init__(self) -> None:
        self.server = Scope()
        self.sites: list[Scope] = []
        self.lines: list[Line] = []

    # -- noting ------------------------------------------------------------------------------------------

    def refuse(self, source: Directive, why: str) -> None:
        """Not taken; so is all that stands inside it."""
        self.lines.append(Line(source, False, {}, why))
        for child in source.children or ():
            child.order = source.order
            self.refuse(child, f"inside {source.text}")

    def remark(self, source: Directive, why: str) -> None:
        """Taken, but no field came of it."""
        self.lines.append(Line(source, True, {}, why))

    def take(self, source: Directive, scope: Scope, fields: Mapping[str, Value], why: str = "") -> bool:
        """Set these fields where they are allowed. Return: whether any was."""
        kept: dict[str, Value] = {}
        reasons = [why] if why else []
        for field, value in fields.items():
            refusal = scope.may_not_set(field)
            try:
                if not refusal:
                    kept[field] = Policy.__fields__[field].check(value)
                    if scope.changes.get(field, kept[field]) != kept[field]:
                        before = show(scope.changes[field])
                        reasons.append(f"instead of {field}={before} of {scope.origins[field]}")
                    continue
            except PolicyError as error:
                refusal = str(error)
            reasons.append(refusal)
        scope.changes.update(kept)
        scope.origins.update(dict.fromkeys(kept, f"{source.file}:{source.line} {source.text}"))
        self.lines.append(Line(source, bool(kept), kept, "; ".join(reasons)))
        return bool(kept)

    def enter_site(self, source: Directive, hosts: list[str], listeners: list[str], why: str = "") -> Scope:
        """The scope of a site, or of a listener when it has no name. Blocks that share a name are one site,
        since a rule that looks at the name cannot also look at the listener."""
        known = next((site for site in self.sites if set(hosts) & set(site.hosts)), None)
        what = "site " + ", ".join(hosts) if hosts else "listener " + ", ".join(listeners)
        said = [what, f"one site with that of {known.place}"] if known else [what]
        self.remark(source, "; ".join([*said, why] if why else said))
        if known is None:
            known = Scope(hosts, listeners, f"{source.file}:{source.line}")
            self.sites.append(known)
        known.hosts += [host for host in hosts if host not in known.hosts]
        return known

    # -- the outcome -------------------------------------------------------------------------------------

    @property
    def report(self) -> Report:
        return tuple(sorted(self.lines, key=lambda line: line.order))

    def policy(self, default: Policy | None = None) -> Policy:
        """The server-wide policy over `default`. PolicyError if the values do not go together."""
        made = (default or Policy()).replace(**self.server.changes)
        object.__setattr__(made, "_report", self.report)
        return made

    def policy_set(self, default: Policy | None = None) -> PolicySet:
        """The policy with a rule for each site. PolicyError also for more than 63 rules."""
        return PolicySet(self.policy(default), self.rules())

    def rules(self) -> list[Rule]:
        """What the sites and the User-Agent patterns became, in the order they must be tried.

        The first rule wins whole, so a pattern that forbids keep-alive comes before the sites, and once more
        for each site that sets anything else, together with it.
        """
        rules = [
            Rule(listener=site.listeners, **site.changes) for site in self.sites if not site.hosts and site.changes
        ]
        for site in self.sites:
            agents = self.server.agents + site.agents
            if site.hosts and agents and (site.agents or set(site.changes) - KEEPING):
                off = {**site.changes, "keep_alive": False}
                rules.append(Rule(host=site.hosts, user_agent=agents, **off))
        if self.server.agents:
            rules.append(Rule(user_agent=self.server.agents, keep_alive=False))
        rules += [Rule(host=site.hosts, **site.changes) for site in self.sites if site.hosts and site.changes]
        return rules


# What no longer matters once keep_alive is off.
KEEPING = {"keep_alive", "keep_alive_timeout", "max_keep_alive_requests", "advertise"}


Handler = Callable[[Any, Directive, Scope], None]


class Walker:
    """Goes through a tree in the order of the file. What the words mean is in `handlers`, by directive.

    A handler raises ValueError with the reason, or IndexError for a missing argument, when it takes nothing.
    """

    handlers: Mapping[str, Handler] = {}
    refused: Mapping[str, str] = {}  # directives that are not read, for a reason worth a word of its own

    def __init__(self, base: str | None) -> None:
        self.out = Reading()
        self.base = base or ""  # the directory of relative includes
        self._order = count()
        self._depth = 0

    def walk(self, directives: list[Directive], scope: Scope) -> None:
        for found in directives:
            found.order = next(self._order)
            self.prepare(found)
            if found.children is not None:
                self.enter(found, found.children, scope)
            else:
                self.apply(found, scope)

    def prepare(self, found: Directive) -> None:
        """Before it is looked at."""

    def enter(self, block: Directive, children: list[Directive], scope: Scope) -> None:
        raise NotImplementedError

    def parse_file(self, path: str) -> list[Directive]:
        raise NotImplementedError

    def apply(self, found: Directive, scope: Scope) -> None:
        handler = self.handlers.get(found.name)
        if handler is None:
            self.out.refuse(found, self.refused.get(found.name, OURS))
            return
        try:
            handler(self, found, scope)
        except IndexError:
            self.out.refuse(found, "too few arguments")
        except ValueError as error:
            if isinstance(error, Malformed):
                raise
            self.out.refuse(found, str(error))

    def enter_site(
        self, block: Directive, children: list[Directive], names: list[str], addresses: list[str]
    ) -> Scope | None:
        """Walk a block as a site, or as a listener when none of its names can be one. None if it is
        neither."""
        hosts: list[str] = []
        refused: list[str] = []
        for name in names:
            try:
                hosts.append(host_pattern(name))
            except PolicyError:
                refused.append(name)
        try:
            # With a name every listener is meant: a rule looks at the listener or at the Host, not at both.
            listeners = [] if hosts else list(dict.fromkeys(map(listener_key, addresses)))
        except PolicyError as error:
            self.out.refuse(block, str(error))
            return None
        if not hosts and not listeners:
            self.out.refuse(block, "names neither a site nor an address of its own")
            return None
        why = f"not as {', '.join(refused)}: must be a name, or '*.' and a name" if refused else ""
        scope = self.out.enter_site(block, hosts, listeners, why)
        self.walk(children, scope)
        return scope

    def include(self, found: Directive, scope: Scope) -> None:
        pattern = found.args[0]
        if not self.base and not pattern.startswith("/"):
            raise ValueError("not followed: the directory of relative includes is not known")
        files = follow(self.base, pattern)
        if not files:
            raise ValueError("no such file")
        if self._depth >= MAX_INCLUDE_DEPTH:
            raise ValueError(f"not followed: includes are nested deeper than {MAX_INCLUDE_DEPTH}")
        self.out.remark(found, f"{len(files)} file{'s' * (len(files) > 1)} followed")
        self._depth += 1
        for path in files:
            try:
                tree = self.parse_file(path)
            except OSError as error:
                self.out.refuse(found, f"{path}: {error.strerror}")
                continue
            self.walk(tree, scope)
        self._depth -= 1


class Malformed(PolicyError):
    """The syntax of a file is broken: the whole reading fails, also when an include has met it."""


def whole(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def read_text(path: str) -> str:
    """A configuration file; bytes that are no UTF-8 are kept apart, not refused: only our words must be
    readable."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def follow(base: str, pattern: str) -> list[str]:
    """The files that an include pattern names, sorted as both servers do."""
    import glob
    import os

    path = os.path.join(base, pattern)
    if os.path.isdir(path):  # Apache: all files below
        path = os.path.join(path, "**")
    return sorted(found for found in glob.glob(path, recursive=True) if os.path.isfile(found))
