"""Reading another server's configuration: directives, the scopes they stand in, and what became of each.

Shared by apache.py and nginx.py, which know the words. The promise kept here is that nothing is dropped
silently: every directive ends as one line of the report, as taken (with the fields it became, and a remark
where the two servers do not mean quite the same) or as not taken (with the reason).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from kacore.config.fields import Value, show
from kacore.errors import PolicyError
from kacore.policy.fields import REQUEST, WORKER
from kacore.policy.policy import Policy
from kacore.policy.rules import PolicySet, Rule, host_pattern, listener_key

OURS = "no directive that kacore reads"
MAX_INCLUDE_DEPTH = 20  # nobody nests them deeper; Apache gives up and refuses to start at 128, nginx has no bound


class Directive:
    """One directive as it was written; `children` are those inside it, None when it is no block."""

    __slots__ = ("args", "children", "file", "line", "name", "order", "raw", "text")

    def __init__(self, name: str, args: list[str], text: str, file: str, line: int) -> None:
        self.name = name.lower()
        self.args = args
        self.text = printable(text)
        self.file = file
        self.line = line
        self.children: list[Directive] | None = None
        self.order = 0  # in which it was met; set by whoever walks, since includes and late decisions mix
        self.raw = ""  # name and arguments as they were written, where they must be split anew later

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    def leaves(self) -> Iterator[Directive]:
        """All directives that are no blocks, at any depth."""
        for child in self.children or ():
            if child.children is None:
                yield child
            else:
                yield from child.leaves()


def printable(text: str) -> str:
    """One line that any terminal and a TOML comment can hold, whatever bytes the file had."""
    line = " ".join(text.split())
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in line)


class Line:
    """What became of one directive. `str()` gives it as a line for people."""

    __slots__ = ("fields", "file", "is_rest", "is_taken", "line", "order", "text", "why")

    def __init__(
        self, source: Directive, is_taken: bool, fields: dict[str, Value], why: str, is_rest: bool = False
    ) -> None:
        self.file = source.file
        self.line = source.line
        self.order = source.order
        self.text = source.text
        self.is_taken = is_taken
        self.fields = fields  # the Policy fields it set, with their values
        self.why = why  # the reason, or a remark on what differs
        self.is_rest = is_rest  # says nothing that a person has to know: it is no loss, and changes nothing

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


def digest(report: Report) -> list[str]:
    """The report for people: what was taken, what was refused and why, and how many other lines there were."""
    told = [line for line in report if not line.is_rest]
    lines = [str(line) for is_taken in (True, False) for line in told if line.is_taken is is_taken]
    rest = Counter(
        "without effect here" if line.is_taken else OURS if line.why == OURS else "part of what is not taken"
        for line in report
        if line.is_rest
    )
    if rest:
        counts = ", ".join(f"{n} {what}" for what, n in rest.most_common())
        lines.append(f"other lines: {rest.total()} ({counts}); --verbose lists them")
    return lines


class Scope:
    """The fields set so far for the whole server (no keys) or for one site or listener."""

    def __init__(self, hosts: Iterable[str] = (), listeners: Iterable[str] = (), place: str = "") -> None:
        self.place = place  # "file:line" of the block
        self.hosts = list(hosts)
        self.listeners = list(listeners)
        self.changes: dict[str, Any] = {}
        self.origins: dict[str, str] = {}  # field -> "file:line directive"
        self.agents: list[str] = []  # User-Agent patterns that get no keep-alive
        self.end = 0  # order of the last directive inside

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
    """The outcome of reading: what to change, where it came from, and the report.

    matters: whether a directive could have been taken, had it stood elsewhere."""

    def __init__(self, matters: Callable[[Directive], bool]) -> None:
        self.matters = matters
        self.is_exact_first = False  # whether exact names go before patterns, and longer patterns before shorter ones
        self.server = Scope()
        self.sites: list[Scope] = []
        self.lines: list[Line] = []

    # -- noting ------------------------------------------------------------------------------------------

    def refuse(self, source: Directive, why: str, *, is_rest: bool | None = None) -> None:
        """Not taken; so is all that stands inside it. A block is worth a look when something inside is."""
        if is_rest is None:
            is_rest = why == OURS if source.children is None else not any(map(self.matters, source.leaves()))
        self.lines.append(Line(source, False, {}, why, is_rest))
        for child in source.children or ():
            child.order = source.order
            is_leaf = child.children is None
            self.refuse(child, f"inside {source.text}", is_rest=not self.matters(child) if is_leaf else None)

    def remark(self, source: Directive, why: str, *, is_rest: bool = True) -> None:
        """Taken, but no field came of it."""
        self.lines.append(Line(source, True, {}, why, is_rest))

    def amend(self, source: Directive, why: str, is_rest: bool) -> None:
        """What is known of a site only at the end."""
        line = next(line for line in self.lines if line.order == source.order)
        line.why, line.is_rest = why, is_rest

    def withdraw(self, source: Directive, scope: Scope, why: str) -> None:
        """A site that was walked, and cannot be one after all: none of its lines is taken."""
        inside = [line for line in self.lines if source.order < line.order <= scope.end]
        self.amend(source, why, all(line.is_rest for line in inside))
        for line in inside:
            if line.is_taken:
                line.why = f"inside {source.text}"
        for line in self.lines:
            if source.order <= line.order <= scope.end:
                line.is_taken, line.fields = False, {}
        self.sites.remove(scope)

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
        self.remark(source, "; ".join([*said, why] if why else said), is_rest=not why and known is None)
        if known is None:
            known = Scope(hosts, listeners, source.place)
            self.sites.append(known)
        known.hosts += [host for host in hosts if host not in known.hosts]
        return known

    # -- the outcome -------------------------------------------------------------------------------------

    @property
    def report(self) -> Report:
        return tuple(sorted(self.lines, key=lambda line: line.order))

    def policy(self, default: Policy | None = None) -> Policy:
        """The server-wide policy over `default`. PolicyError if the values do not go together."""
        return (default or Policy()).replace(**self.server.changes)

    def policy_set(self, default: Policy | None = None) -> PolicySet:
        """The policy with a rule for each site. PolicyError also for more than 63 rules."""
        return PolicySet(self.policy(default), self.rules())

    def rules(self) -> list[Rule]:
        """What the sites and the User-Agent patterns became, in the order they must be tried.

        The first rule wins whole, so a pattern that forbids keep-alive comes before the sites, and once more
        for each site that sets anything else, together with it. A listener has what no site asks for: its
        rule comes behind all sites, also those that set nothing, and before patterns, which must buy nobody
        looser limits than the listener's.
        """
        listeners = [site for site in self.sites if site.listeners and site.changes]
        named = self.named_sites()
        rules = []
        for hosts, site in named:
            agents = self.server.agents + site.agents
            if agents and (site.agents or set(site.changes) - KEEPING or listeners):
                off = {**site.changes, "keep_alive": False}
                rules.append(Rule(host=hosts, user_agent=agents, **off))
        patterns = [Rule(user_agent=self.server.agents, keep_alive=False)] if self.server.agents else []
        sites = [
            Rule(host=hosts, **site.changes)
            for i, (hosts, site) in enumerate(named)
            if site.changes or listeners or others_match(hosts, named[i + 1 :])
        ]
        if not listeners:
            return rules + patterns + sites
        # An address is looked at before a port of any address.
        for is_any in (False, True):
            for site in listeners:
                if keys := [key for key in site.listeners if key.startswith(":") is is_any]:
                    sites.append(Rule(listener=keys, **site.changes))
        return rules + sites + patterns

    def named_sites(self) -> list[tuple[list[str], Scope]]:
        """Names and what they have, in the order they are tried. Neighbours that set nothing are one."""
        named = [(site.hosts, site) for site in self.sites if site.hosts]
        if self.is_exact_first and any(others_match(hosts, named[:i]) for i, (hosts, _) in enumerate(named)):
            each = [(host, site) for hosts, site in named for host in hosts if host[0] == "*"]
            named = [([host for host in hosts if host[0] != "*"], site) for hosts, site in named]
            named += [([host], site) for host, site in sorted(each, key=lambda one: -len(one[0]))]
        found: list[tuple[list[str], Scope]] = []
        for hosts, site in named:
            is_alike = found and not any((site.changes, site.agents, found[-1][1].changes, found[-1][1].agents))
            if hosts and is_alike:
                found[-1] = (found[-1][0] + hosts, site)
            elif hosts:
                found.append((hosts, site))
        return found


def others_match(hosts: list[str], others: list[tuple[list[str], Scope]]) -> bool:
    """Whether a pattern of the others matches one of these names."""
    patterns = [name[1:] for names, _ in others for name in names if name[0] == "*"]
    return any(host.endswith(pattern) and host[1:] != pattern for host in hosts for pattern in patterns)


# What no longer matters once keep_alive is off.
KEEPING = {"keep_alive", "keep_alive_timeout", "max_keep_alive_requests", "advertise"}


Handler = Callable[[Any, Directive, Scope], None]


class Walker:
    """Goes through a tree in the order of the file. What the words mean is in `handlers`, by directive.

    A handler raises ValueError with the reason, or IndexError for a missing argument, when it takes nothing.
    """

    handlers: Mapping[str, Handler] = {}
    refused: Mapping[str, str] = {}  # directives that are not read, for a reason worth a word of its own
    structure: Iterable[str] = ()  # those of `handlers` that say nothing by themselves

    def __init__(self, base: str | None) -> None:
        self.out = Reading(self.matters)
        self.base = base or ""  # the directory of relative includes
        self.answers: dict[str, Directive] = {}  # listener -> the block that has requests for unknown names there
        self.names: dict[tuple[str, str], Directive] = {}  # listener and name -> the block that has it
        self._nameless: list[tuple[Directive, Scope, str]] = []
        self._order = 0
        self._chain: list[str] = []  # places of the includes that are being followed
        self._too_deep = ""  # where they were too deep: from there on none is followed

    def walk(self, directives: list[Directive], scope: Scope) -> None:
        for found in directives:
            self._order += 1
            found.order = self._order
            self.prepare(found)
            if found.children is not None:
                self.enter(found, found.children, scope)
            else:
                self.apply(found, scope)

    def matters(self, found: Directive) -> bool:
        return found.name in self.handlers and found.name not in self.structure

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
        """Walk a block as a site; when none of its names can be one, as a listener, of which `settle_nameless`
        has the last word. None if it is neither. addresses: all that it answers at."""
        hosts: list[str] = []
        refused: list[str] = []
        for name in names:
            try:
                hosts.append(host_pattern(name))
            except PolicyError:
                refused.append(name)
        listeners: list[str] = []
        for address in addresses:
            try:
                listeners.append(numeric_listener(address))
            except PolicyError as error:
                if not hosts:
                    self.out.refuse(block, str(error))
                    return None
        for key in listeners:
            self.answers.setdefault(key, block)
        if taken := [name for name in hosts if listeners and all((key, name) in self.names for key in listeners)]:
            refused += taken  # both servers go by the first block that has a name
            hosts = [name for name in hosts if name not in taken]
            there = self.names[listeners[0], taken[0]].place
            if not hosts:
                self.out.refuse(block, f"{', '.join(taken)}: {there} has the name at the same address, and comes first")
                return None
        for key in listeners:
            for name in hosts:
                self.names.setdefault((key, name), block)
        if not hosts and not listeners:
            self.out.refuse(block, "names neither a site nor an address of its own")
            return None
        no_names = [name for name in refused if name not in taken]
        why = f"not as {', '.join(no_names)}: must be a name, or '*.' and a name" if no_names else ""
        if taken:
            why = "; ".join(filter(None, (why, f"not as {', '.join(taken)}, which {there} has at the same address")))
        # With a name every listener is meant: a rule looks at the listener or at the Host, not at both.
        scope = self.out.enter_site(block, hosts, [] if hosts else list(dict.fromkeys(listeners)), why)
        if not hosts:
            self._nameless.append((block, scope, why))
        self.walk(children, scope)
        scope.end = max(scope.end, self._order)
        return scope

    def settle_nameless(self) -> None:
        """A block without a name is a rule over the listeners where requests for unknown names are its own. At the
        others it has only what a name would have brought there, which no rule can say."""
        for block, scope, why in self._nameless:
            others = [key for key in scope.listeners if self.answers[key] is not block]
            scope.listeners = [key for key in scope.listeners if key not in others]
            said = [f"at {key} requests for unknown names go to {self.answers[key].place}" for key in others]
            if scope.listeners:
                said = [f"listener {', '.join(scope.listeners)}", why, "for requests whose Host has no rule", *said]
                self.out.amend(block, "; ".join(filter(None, said)), not (scope.changes or others))
            else:
                self.out.withdraw(block, scope, "; ".join(filter(None, [why or "has no name", *said])))

    def include(self, found: Directive, scope: Scope) -> None:
        pattern = found.args[0]
        if not self.base and not pattern.startswith("/"):
            raise ValueError("not followed: the directory of relative includes is not known")
        files = follow(self.base, pattern)
        if not files:
            raise ValueError("no such file")
        if self._too_deep:
            raise ValueError(f"not followed: includes were nested too deep at {self._too_deep}")
        if len(self._chain) >= MAX_INCLUDE_DEPTH:
            self._too_deep = found.place
            chain = " > ".join(until_repeated([*self._chain, found.place]))
            raise ValueError(f"not followed: includes are nested deeper than {MAX_INCLUDE_DEPTH}: {chain}")
        self.out.remark(found, f"{len(files)} file{'s' * (len(files) > 1)} followed")
        self._chain.append(found.place)
        for i, path in enumerate(files):
            if self._too_deep:  # files that include each other's folder would be read a million times
                unread = ", ".join(files[i:])
                self.out.refuse(found, f"{unread}: not read: includes were nested too deep at {self._too_deep}")
                break
            try:
                tree = self.parse_file(path)
            except OSError as error:
                self.out.refuse(found, f"{path}: {error.strerror}")
                continue
            self.walk(tree, scope)
        self._chain.pop()


def until_repeated(places: list[str]) -> list[str]:
    """The beginning of a chain, up to the place that comes a second time."""
    for i, place in enumerate(places):
        if place in places[:i]:
            return [*places[: i + 1], "..."]
    return places


def numeric_listener(address: str) -> str:
    """The key of a rule; PolicyError also for an address that is a name, which would never match."""
    key = listener_key(address)
    host = key.rpartition(":")[0]
    if not key.startswith("unix:") and re.search(r"[^\d.]", host) and not host.startswith("["):
        raise PolicyError(f"{address}: a listener of a rule must be a number, not a name")
    return key


class Malformed(PolicyError):
    """The syntax of a file is broken: the whole reading fails, also when an include has met it."""


def whole(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError(f"{text!r} is not an integer")
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
