"""Reading another server's configuration: directives, the scopes they stand in, and what became of each.

Shared by apache.py and nginx.py, which know the words. The promise kept here is that nothing is dropped
silently: every directive ends as one line of the report, as taken (with the fields it became, and a remark
where the two servers do not mean quite the same) or as not taken (with the reason).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kacore.policy.fields import REQUEST, WORKER, PolicyError, Value, show
from kacore.policy.policy import Policy
from kacore.policy.rules import PolicySet, Rule


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
