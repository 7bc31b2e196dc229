"""`Rule` and `PolicySet`: which policy a connection has, by where it came in, who it is and what it asks for.

A rule looks either at what is known at accept (the listener, the client's address) or at what the client
writes (Host, User-Agent). A client must not be able to choose looser limits than it was accepted with, so a
rule of the second kind may set only fields of scope "request", and what happens before a head is complete is
always judged by the class found at accept. Fields of scope "worker" are one number for a whole worker,
whatever the connection.

Classes are small numbers: 0 is the default policy, n the n-th rule; the table holds at most 64. Matching is
done on bit masks (bit i = rule i), one mask for each key, remembered in bounded caches, since both the
addresses and the words of clients are theirs to vary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kacore.config.fields import Value, unknown
from kacore.errors import PolicyError
from kacore.policy.fields import REQUEST, WORKER
from kacore.policy.policy import Policy

if TYPE_CHECKING:
    import re
    from typing import Unpack

    from kacore._core import Limits
    from kacore.policy.keywords import PolicyFields

N_CLASSES = 64  # KA_N_CLASSES in src/core/table/ka_phase.h
CACHED_KEYS = 1024  # per generation and key; two generations are kept
CACHED_KEY_BYTES = 256  # longer ones are looked up each time
USER_AGENT_BYTES = 512  # so much of a User-Agent is looked at: patterns cost time that the client chooses

KEYS = ("listener", "client", "host", "user_agent")

Words = str | Iterable[str]
Network = tuple[int, int, int]  # bytes of an address, bits behind the prefix, the prefix as a number


class Rule:
    """What differs from the default policy for some connections or requests. Immutable.

    Keys known at accept, one or both:
        listener    "127.0.0.1:8080", "[::1]:8080", ":8080" (any address), "unix:/run/app.sock"
        client      a network: "10.0.0.0/8", "2001:db8::/32", or one address
    Keys that the client writes, one or both:
        host        "example.com", "*.example.com" (any name below it); port and case do not matter
        user_agent  a regular expression (Python's), searched for in the first 512 bytes
    Each is a str or several; one of them must match. All keys given must match. `changes` are the fields of
    Policy.

    Raises PolicyError: no key, keys of both kinds, a malformed key, a field that such a rule may not set, a
    wrong value. TypeError: an unknown field.
    """

    __slots__ = ("_networks", "_patterns", "changes", "client", "host", "listener", "name", "user_agent")

    listener: tuple[str, ...]
    client: tuple[str, ...]
    host: tuple[str, ...]
    user_agent: tuple[str, ...]
    name: str
    changes: Mapping[str, Any]
    _networks: tuple[Network, ...]
    _patterns: tuple[re.Pattern[str], ...]

    def __init__(
        self,
        *,
        listener: Words = (),
        client: Words = (),
        host: Words = (),
        user_agent: Words = (),
        name: str = "",
        **changes: Unpack[PolicyFields],
    ) -> None:
        put = object.__setattr__
        put(self, "listener", tuple(map(listener_key, words(listener))))
        put(self, "client", words(client))
        put(self, "host", tuple(map(host_pattern, words(host))))
        put(self, "user_agent", words(user_agent))
        put(self, "name", name or self._describe())
        if not (self.listener or self.client or self.host or self.user_agent):
            raise PolicyError("a rule needs a key: listener, client, host or user_agent")
        if self.is_request_rule and (self.listener or self.client):
            raise PolicyError(
                f"rule {self.name!r}: looks at what is known at accept (listener, client) and at what the"
                " client writes (host, user_agent); make it two rules"
            )
        put(self, "_networks", tuple(map(parse_network, self.client)))
        put(self, "_patterns", tuple(map(compile_pattern, self.user_agent)))
        checked = {field: self._check(field, value) for field, value in changes.items()}
        put(self, "changes", MappingProxyType(checked))

    @property
    def is_request_rule(self) -> bool:
        return bool(self.host or self.user_agent)

    def keys(self) -> dict[str, tuple[str, ...]]:
        """The keys given, in the form they are compared in."""
        return {key: getattr(self, key) for key in KEYS if getattr(self, key)}

    def _describe(self) -> str:
        return ", ".join(f"{key} {'|'.join(given)}" for key, given in self.keys().items())

    def _check(self, field: str, value: object) -> Value:
        what = Policy.__fields__.get(field)
        if what is None:
            raise TypeError(unknown(field, Policy.__fields__))
        try:
            checked: Value = what.check(value)
        except PolicyError as error:
            raise PolicyError(f"rule {self.name!r}: {error}", field) from None
        refusal = self.may_not_set(field)
        if refusal:
            raise PolicyError(f"rule {self.name!r}: {field}={value!r}: {refusal}", field)
        return checked

    def may_not_set(self, field: str) -> str:
        """Why this rule may not set the field; "" if it may."""
        scope = Policy.__fields__[field].scope
        if scope == WORKER:
            return "one number for a whole worker, which only the default policy can set"
        if scope != REQUEST and self.is_request_rule:
            return "a client must not choose it by what it writes (host, user_agent)"
        return ""

    def __setattr__(self, name: str, _value: object) -> None:
        raise AttributeError("a Rule is immutable")

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (self.keys(), self.name, dict(self.changes))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rule) and (self.keys(), self.changes) == (other.keys(), other.changes)

    def __hash__(self) -> int:
        return hash(tuple(self.keys().items()))

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={value!r}" for name, value in {**self.keys(), **self.changes}.items())
        return f"Rule({said})"


class PolicySet:
    """An ordered list of rules over a default policy; the first rule that matches wins whole. Immutable.

    `policies[policy_class]` is the policy of a class: 0 for the default, n for the n-th rule (the default with the
    rule's changes). Raises PolicyError for more than 63 rules and for what `Policy` refuses, naming the rule.
    """

    __slots__ = (
        "_accept",
        "_before",
        "_client_mask",
        "_host_mask",
        "_listener_mask",
        "_user_agent_mask",
        "default",
        "has_accept_rules",
        "has_request_rules",
        "policies",
        "rules",
    )

    default: Policy
    rules: tuple[Rule, ...]
    policies: tuple[Policy, ...]
    has_accept_rules: bool
    has_request_rules: bool
    _accept: int
    _before: tuple[int, ...]
    _listener_mask: Memo
    _client_mask: Memo
    _host_mask: Memo
    _user_agent_mask: Memo

    def __init__(self, default: Policy | None = None, rules: Iterable[Rule] = ()) -> None:
        put = object.__setattr__
        put(self, "default", Policy() if default is None else default)
        put(self, "rules", tuple(rules))
        if len(self.rules) + 1 > N_CLASSES:
            raise PolicyError(f"{len(self.rules)} rules: must be at most {N_CLASSES - 1}")
        policies = [self.default]
        for rule in self.rules:
            try:
                policies.append(self.default.replace(**rule.changes))
            except PolicyError as error:
                raise PolicyError(f"rule {rule.name!r}: {error}", error.field) from None
        put(self, "policies", tuple(policies))
        request = mask_of(self.rules, lambda rule: rule.is_request_rule)
        accept = mask_of(self.rules, lambda rule: not rule.is_request_rule)
        put(self, "has_accept_rules", bool(accept))
        put(self, "has_request_rules", bool(request))
        # By accept class: the request rules that stand before the rule of that class.
        put(self, "_before", (request, *(request & ((1 << i) - 1) for i in range(len(self.rules)))))
        put(self, "_accept", accept)
        put(self, "_listener_mask", Memo(self._match_listeners))
        put(self, "_client_mask", Memo(self._match_clients))
        put(self, "_host_mask", Memo(self._match_hosts))
        put(self, "_user_agent_mask", Memo(self._match_user_agents))

    # -- what is asked --------------------------------------------------------------------------------------

    def class_for_client(self, listener: str, address: str | bytes | None) -> int:
        """The class of a new connection.

        listener: where it came in, as in `Rule`. address: the client's, as text or in network byte order (4
        or 16 bytes), None for a unix socket; an IPv4-mapped IPv6 address counts as IPv4. Never raises: what
        is no listener or no address matches no rule that asks for one. O(1) when remembered.
        """
        if not self.has_accept_rules:
            return 0
        found = self._accept & self._listener_mask(listener) & self._client_mask(address)
        return (found & -found).bit_length()

    def class_for_request(self, accept_class: int, host: str | bytes | None, user_agent: str | bytes | None) -> int:
        """The class of a request on a connection of this class; the same class when no earlier rule matches.

        Never raises for what the client wrote. O(1) when remembered. Need not be called unless
        `has_request_rules`. From the end of its response until the next head is complete (IDLE) the
        connection stays in it; NEW and HEAD run under `accept_class`.
        """
        found = self._before[accept_class]
        if found:
            found &= self._host_mask(host)
        if found:
            found &= self._user_agent_mask(user_agent)
        return (found & -found).bit_length() if found else accept_class

    def rules_at(self, listener: str) -> int:
        """Bit n-1 for the n-th rule that a connection of this listener may have, whoever the client is."""
        return self._listener_mask(listener)

    def replace_default(self, **changes: Unpack[PolicyFields]) -> PolicySet:
        """The same rules over a changed default."""
        return PolicySet(self.default.replace(**changes), self.rules)

    def limits(self) -> Limits:
        """What the parser keeps to: the limits of the default, but content as long as any class allows, since each request
        is judged by its own class once that is known."""
        bodies = [policy.max_body_bytes for policy in self.policies]
        return self.default.replace(max_body_bytes=max(bodies) if all(bodies) else 0).limits()

    # -- matching -------------------------------------------------------------------------------------------

    def _match_listeners(self, listener: str) -> int:
        try:
            key = listener_key(listener)
        except PolicyError:
            key = ""
        keys = {key} if key.startswith("unix:") else {key, ":" + key.rpartition(":")[2]}
        return mask_of(self.rules, lambda rule: not rule.listener or not keys.isdisjoint(rule.listener))

    def _match_clients(self, address: str | bytes | None) -> int:
        packed = pack_address(address)

        def matches(rule: Rule) -> bool:
            return not rule.client or any(contains(network, packed) for network in rule._networks)

        return mask_of(self.rules, matches)

    def _match_hosts(self, host: str | bytes | None) -> int:
        name = host_name(host)
        labels = name.split(".")
        names = {name, *("*." + ".".join(labels[i:]) for i in range(1, len(labels)))}
        return mask_of(self.rules, lambda rule: not rule.host or not names.isdisjoint(rule.host))

    def _match_user_agents(self, user_agent: str | bytes | None) -> int:
        text = to_text(user_agent)[:USER_AGENT_BYTES]

        def matches(rule: Rule) -> bool:
            return not rule.user_agent or any(pattern.search(text) for pattern in rule._patterns)

        return mask_of(self.rules, matches)

    def __setattr__(self, name: str, _value: object) -> None:
        raise AttributeError("a PolicySet is immutable")

    def __reduce__(self) -> tuple[Any, ...]:
        return PolicySet, (self.default, self.rules)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PolicySet) and (self.default, self.rules) == (other.default, other.rules)

    def __hash__(self) -> int:
        return hash((self.default, self.rules))

    def __repr__(self) -> str:
        return f"PolicySet({self.default!r}, {list(self.rules)!r})"


class Memo:
    """A function's answers, remembered for the keys seen lately: at most 2 * CACHED_KEYS of them.

    Two generations: when the young one is full it becomes the old one, and what is asked for again moves
    over. A flood of keys that are never asked for twice costs lookups, never memory.
    """

    __slots__ = ("_find", "_old", "_young")

    def __init__(self, find: Callable[[Any], int]) -> None:
        self._find = find
        self._young: dict[Any, int] = {}
        self._old: dict[Any, int] = {}

    def __call__(self, key: Any) -> int:
        answer = self._young.get(key)
        if answer is not None:
            return answer
        answer = self._old.get(key)
        if answer is None:
            answer = self._find(key)
        if key is None or len(key) <= CACHED_KEY_BYTES:
            if len(self._young) >= CACHED_KEYS:
                self._old, self._young = self._young, {}
            self._young[key] = answer
        return answer


def mask_of(rules: Iterable[Rule], matches: Callable[[Rule], bool]) -> int:
    return sum(1 << i for i, rule in enumerate(rules) if matches(rule))


def rebuild(keys: dict[str, Any], name: str, changes: dict[str, Any]) -> Rule:
    """What pickle calls."""
    return Rule(**keys, name=name, **changes)


def words(given: Words) -> tuple[str, ...]:
    found = (given,) if isinstance(given, str) else tuple(given)
    for word in found:
        if not isinstance(word, str) or not word:
            raise PolicyError(f"{word!r}: a key of a rule must be a non-empty str, or several")
    return found


def to_text(value: str | bytes | None) -> str:
    return "" if value is None else value.decode("latin-1") if isinstance(value, bytes) else value


HOST_CHARACTERS = set("abcdefghijklmnopqrstuvwxyz0123456789-._[]:")

# -- listeners, hosts ---------------------------------------------------------------------------------------


def listener_key(text: str) -> str:
    """One spelling for a listener: "*:80", "0.0.0.0:80" and "[::]:80" in a rule mean any address."""
    if text.startswith(("unix:", "/")):
        return text if text.startswith("unix:") else "unix:" + text
    address, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or (":" in address and not address.endswith("]")):
        raise PolicyError(f"listener={text!r}: must be 'address:port', ':port' or 'unix:/path'")
    return (":" if address in ("*", "0.0.0.0", "[::]", "") else address.lower() + ":") + str(int(port))


def host_name(host: str | bytes | None) -> str:
    """The name in a Host field: lower case, without port and final dot."""
    name = to_text(host).strip().lower()
    if name.startswith("["):  # an IPv6 literal keeps its brackets
        return name.partition("]")[0] + "]"
    return name.partition(":")[0].removesuffix(".")


def host_pattern(text: str) -> str:
    name = host_name(text)
    if not set(name.removeprefix("*.")) - {"."} or set(name.removeprefix("*.")) - HOST_CHARACTERS:
        raise PolicyError(f"host={text!r}: must be a name, or '*.' and a name")
    return name


# -- addresses ----------------------------------------------------------------------------------------------

MAPPED = b"\0" * 10 + b"\xff\xff"  # RFC 4291 section 2.5.5.2


def pack_address(address: str | bytes | None) -> bytes:
    """Network byte order; b"" for what is no address."""
    if address is None:
        return b""
    if isinstance(address, str):
        import socket

        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            address = socket.inet_pton(family, address.partition("%")[0])
        except (OSError, ValueError):
            return b""
    if address.startswith(MAPPED):
        return address[12:] if len(address) == 16 else b""
    return address if len(address) in (4, 16) else b""


def parse_network(text: str) -> Network:
    """PolicyError for what is no network."""
    import ipaddress  # 2 ms, and only some servers need it

    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise PolicyError(f"client={text!r}: must be an address or a network: {error}") from None
    rest = network.max_prefixlen - network.prefixlen
    return (network.max_prefixlen // 8, rest, int(network.network_address) >> rest)


def contains(network: Network, packed: bytes) -> bool:
    size, rest, prefix = network
    return len(packed) == size and int.from_bytes(packed, "big") >> rest == prefix


def compile_pattern(text: str) -> re.Pattern[str]:
    """PolicyError for what is no regular expression."""
    import re

    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise PolicyError(f"user_agent={text!r}: must be a regular expression: {error}") from None
