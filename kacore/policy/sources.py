"""Where the values of a policy come from, and which of them counts: defaults < another server's configuration
< kacore.toml < environment < command line.

The later one wins field by field. Rules are not merged: those of kacore.toml are tried before those that
another server's configuration became.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from kacore.config.sources import Values, add_environment, tell_unknown
from kacore.errors import ConfigError, PolicyError
from kacore.policy.policy import Policy
from kacore.policy.rules import PolicySet, Rule


class Sources(Values):
    """Values and rules, and the policies made of them."""

    def __init__(self) -> None:
        super().__init__(Policy)
        self.rules: list[Rule] = []
        self.rule_origins: list[str] = []
        self.report: tuple[Any, ...] = ()

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

    def add_policy_table(self, table: Any, path: str) -> None:
        """[policy] of kacore.toml."""
        from kacore.policy.readers import toml

        values, rules = toml.interpret(table, path, self.errors)
        self.add(values, f"{path} [policy]")
        self.add_rules(rules, path)

    def add_environment(self, environ: Mapping[str, str], others: Collection[str] = ()) -> None:
        """See kacore.config.sources.add_environment; unknown names are told at once."""
        tell_unknown(add_environment(environ, [self], others))

    def policy_set(self) -> PolicySet:
        """Raises the first mistake."""
        for error in self.errors:
            raise error
        try:
            return PolicySet(Policy(**self.values), self.rules)
        except PolicyError as error:
            raise self.clashing(error) from None

    def clashes(self) -> list[ConfigError]:
        """As of Values; also what a rule makes of the default."""
        found = super().clashes()
        if not found and not self.errors:
            try:
                self.policy_set()
            except ConfigError as error:
                found.append(error)
        return found


def folder(path: str) -> str:
    import os

    return os.path.dirname(os.path.abspath(path))
