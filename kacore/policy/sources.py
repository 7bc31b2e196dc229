"""Where the values of a policy come from, and which of them counts: defaults < another server's configuration
< kacore.toml < environment < command line. For every field it is remembered who said it.

The later one wins field by field. Rules are not merged: those of kacore.toml are tried before those that
another server's configuration became.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from kacore.policy.fields import PolicyError, Value, unknown
from kacore.policy.policy import Policy
from kacore.policy.rules import PolicySet, Rule

# Switches of the build and of the compiled core, which are no policy.
OTHER_VARIABLES = frozenset(("KACORE_DEBUG", "KACORE_SANITIZE", "KACORE_COVERAGE", "KACORE_PORTABLE", "KACORE_SIMD"))
PREFIX = "KACORE_"
# What Kubernetes puts into every container for a Service called "kacore" or "kacore-...", and Docker for such a --link.
# Each with a part of its value, where the name alone could be a mistake.
FROM_ELSEWHERE = (
    (r"KACORE(_\w+)?_SERVICE_(HOST|PORT(_\w+)?)", ""),
    (r"KACORE(_\w+)?_PORT_\d+_[A-Z]+(_(PROTO|ADDR|(PORT_)?(START|END)|PORT))?", ""),
    (r"KACORE(_\w+)?_PORT", "://"),
    (r"KACORE(_\w+)?_NAME", "/"),
    (r"KACORE(_\w+)?_ENV_\w+", ""),
)

_told: set[str] = set()  # variables without meaning that were told already; a worker knows what its parent told


class Sources:
    """Collects values from their sources, the later over the earlier, and makes the policy of them."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}  # of every field in `values`
        self.rules: list[Rule] = []
        self.rule_origins: list[str] = []
        self.report: tuple[Any, ...] = ()

    def add(self, values: Mapping[str, Value], origin: str | Mapping[str, str]) -> None:
        """origin: one for all, or that of each field."""
        for name, value in values.items():
            self.values[name] = value
            self.origins[name] = origin if isinstance(origin, str) else origin[name]

    def add_rules(self, rules: list[Rule], origin: str) -> None:
        """Before those that are there already."""
        self.rules[:0] = rules
        self.rule_origins[:0] = [origin] * len(rules)

    def add_apache(self, path: str, htaccess: Mapping[str, str] | None = None) -> None:
        """htaccess: site name -> path of its .htaccess."""
        from kacore.policy.readers import apache
        from kacore.policy.readers.reading import read_text

        texts = {site: read_text(name) for site, name in (htaccess or {}).items()}
        self._add_reading(apache.read(read_text(path), base=folder(path), file=path, htaccess=texts), path)

    def add_nginx(self, path: str) -> None:
        from kacore.policy.readers import nginx
        from kacore.policy.readers.reading import read_text

        self._add_reading(nginx.read(read_text(path), base=folder(path), file=path), path)

    def _add_reading(self, found: Any, path: str) -> None:
        self.add(found.server.changes, found.server.origins)
        self.add_rules(found.rules(), path)
        self.report += found.report

    def add_toml(self, path: str, tables: Collection[str] = ()) -> None:
        from kacore.policy.readers import toml

        with open(path, encoding="utf-8") as file:
            try:
                text = file.read()
            except UnicodeDecodeError as error:
                raise PolicyError(f"{path}: must be UTF-8: {error}") from None
        values, rules = toml.read(text, path, tables)
        self.add(values, f"{path} [policy]")
        self.add_rules(rules, path)

    def add_environment(self, environ: Mapping[str, str], others: Collection[str] = ()) -> None:
        """What fields' variables say; an empty one says nothing. A name that is no field's and none of `others` is told
        once on the logger kacore.error, but for those that come from elsewhere. PolicyError names the variable."""
        for name, text in environ.items():
            if not name.startswith(PREFIX) or name in OTHER_VARIABLES or name in others or not text.strip():
                continue
            key = name.removeprefix(PREFIX).lower()
            if key in Policy.__fields__ and name == PREFIX + key.upper():
                self.add({key: parse(key, text, f"environment variable {name}")}, name)
            elif not is_from_elsewhere(name, text):
                tell_unknown(name, others)

    def add_flags(self, args: object) -> None:
        """args: the parsed command line; attributes that are missing or None were not given."""
        for key, what in Policy.__fields__.items():
            given = getattr(args, key, None)
            if given is not None:
                flag = "--" + ("no-" if given is False else "") + key.replace("_", "-")
                self.add({key: parse(key, given, flag) if isinstance(given, str) else what.check(given)}, flag)

    def policy_set(self) -> PolicySet:
        """PolicyError for values that do not go together says where they came from."""
        import re

        try:
            return PolicySet(Policy(**self.values), self.rules)
        except PolicyError as error:
            named = re.findall(r"\w+", str(error))
            said = [f"{name} from {self.origins[name]}" for name in self.origins if name in named]
            raise PolicyError(f"{error}" + (f" ({', '.join(said)})" if said else ""), error.field) from None

    def origin(self, field: str) -> str:
        return self.origins.get(field, "default")


def is_from_elsewhere(name: str, text: str) -> bool:
    """Whether Kubernetes or Docker wrote this for somebody to find a service called kacore, which may be us."""
    import re

    return any(re.fullmatch(names, name) and part in text for names, part in FROM_ELSEWHERE)


def tell_unknown(name: str, others: Collection[str]) -> None:
    import logging

    if name not in _told:
        _told.add(name)
        known = [*(PREFIX + field.upper() for field in Policy.__fields__), *others]
        logging.getLogger("kacore.error").warning("environment: %s; it is ignored", unknown(name, known))


def parse(field: str, text: str, origin: str) -> Value:
    try:
        return Policy.__fields__[field].parse(text)
    except PolicyError as error:
        raise PolicyError(f"{origin}: {error}", field) from None


def folder(path: str) -> str:
    import os

    return os.path.dirname(os.path.abspath(path))
