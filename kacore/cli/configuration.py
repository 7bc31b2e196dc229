"""The whole configuration: the options of serving and the policy, from all their sources, with who said what.

Flags win over variables of the environment, these over those of --env-file, these over kacore.toml, and that over another
server's configuration and the defaults.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from kacore.cli.gunicorn_file import is_gunicorns
from kacore.cli.gunicorn_file import read as read_gunicorn
from kacore.config.options import CONFIGURATION, ServeOptions
from kacore.config.sources import Values, add_environment, common_variables, tell_unknown
from kacore.errors import ConfigError, UsageError
from kacore.policy import Policy, PolicySet
from kacore.policy.sources import Sources

DEFAULT_FILE = "kacore.toml"
TABLES = ("policy", "serve")


class Configuration:
    """What is in force. Reading never raises: `options` and `policies` raise the first mistake, `mistakes()` tells all.

    variables: what --env-file adds to the environment; see `complete_environment`.
    """

    def __init__(self, args: object, environ: Mapping[str, str]) -> None:
        self.serve = Values(ServeOptions)
        self.policy_sources = Sources()
        self.variables: dict[str, str] = {}
        self.strange: dict[str, str] = {}  # variables that are none, for tell_unknown() once there is a log
        self.remarks: list[str] = []  # about settings of another server that have no counterpart
        self.errors: list[Exception] = []  # of the files as such
        flags, of_environment, of_file = self._without_files(args, environ)
        named = {**of_file[0].values, **of_environment[0].values, **flags[0].values}
        tables = self._tables(named.get("config"))
        if "serve" in tables:
            self.serve.add_table(*tables["serve"])
        for layer in (of_file, of_environment, flags):
            self.serve.merge(layer[0])
        self.serve.add_missing(common_variables({**self.variables, **environ}, self.serve.values))
        self._read_other_servers()
        if "policy" in tables:
            self.policy_sources.add_policy_table(tables["policy"][0], tables["policy"][1].partition(" [")[0])
        for layer in (of_file, of_environment, flags):
            self.policy_sources.merge(layer[1])

    def _without_files(self, args: object, environ: Mapping[str, str]) -> list[tuple[Values, Values]]:
        """Flags, environment and --env-file: each the values for the options of serving, and for the policy."""
        flags, of_environment, of_file = [(Values(ServeOptions), Values(Policy)) for _ in range(3)]
        for values in flags:
            values.add_flags(args)
        self.strange |= add_environment(environ, of_environment)
        path = {**of_environment[0].values, **flags[0].values}.get("env_file")
        if path is not None:
            from kacore.config import envfile

            self.variables = self._tried(envfile.read, path) or {}
            self.strange |= add_environment(self.variables, of_file, file=path)
        return [flags, of_environment, of_file]

    def _tables(self, path: str | None) -> dict[str, tuple[Any, str]]:
        """The tables of kacore.toml, each with what it is called in messages. The file is the one that was named, else the
        one in the current directory, if any."""
        if path is None and os.path.exists(DEFAULT_FILE):
            path = DEFAULT_FILE
        if path is None:
            return {}
        if is_gunicorns(path):
            content, self.remarks = self._tried(read_gunicorn, path) or ({}, [])
        else:
            content = self._tried(read_toml, path) or {}
        found = {name: (table, f"{path} [{name}]") for name, table in content.items()}
        if "serve" in found and not isinstance(found["serve"][0], dict):
            table, where = found.pop("serve")
            self.errors.append(UsageError(f"{where}: must be a table, not {table!r}"))
        return found

    def _read_other_servers(self) -> None:
        apache, nginx, htaccess = (self.serve.values.get(name) for name in ("from_apache", "from_nginx", "htaccess"))
        if apache:
            self._tried(self.policy_sources.add_apache, apache, dict(htaccess or ()))
        elif htaccess:
            self.errors.append(UsageError("--htaccess: needs --from-apache", "htaccess"))
        if nginx:
            self._tried(self.policy_sources.add_nginx, nginx)

    def _tried(self, read: Any, *arguments: Any) -> Any:
        try:
            return read(*arguments)
        except (ConfigError, OSError, ImportError) as error:
            self.errors.append(error)
            return None

    # -- the outcome -------------------------------------------------------------------------------------

    @property
    def options(self) -> ServeOptions:
        """ConfigError (a ValueError) with one line that names the source, the value and the rule; OSError for a file that
        cannot be read; ImportError for a missing extra."""
        self._raise_first()
        made: ServeOptions = self.serve.make()
        return made

    @property
    def policies(self) -> PolicySet:
        """Raises as `options` does."""
        self._raise_first()
        return self.policy_sources.policy_set()

    def _raise_first(self) -> None:
        for error in [*self.errors, *self.serve.errors]:
            what = ServeOptions.__fields__.get(getattr(error, "field", ""))
            if error in self.errors or (what is not None and what.group == CONFIGURATION):
                raise error

    def mistakes(self) -> list[Exception]:
        """All of them."""
        found = [*self.errors, *self.serve.errors, *self.policy_sources.errors]
        return [*found, *self.serve.clashes(), *self.policy_sources.clashes()]

    def tell(self) -> None:
        """What means nothing here: variables, and settings of another server. On the logger kacore.error."""
        tell_unknown(self.strange)
        for sentence in self.remarks:
            logging.getLogger("kacore.error").warning("%s", sentence)

    def complete_environment(self, environ: Mapping[str, str]) -> None:
        """Give the application the variables of --env-file; those of `environ` win."""
        os.environ.update({name: value for name, value in self.variables.items() if name not in environ})


def read_toml(path: str) -> dict[str, Any]:
    from kacore.policy.readers import toml

    with open(path, encoding="utf-8") as file:
        try:
            text = file.read()
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: must be UTF-8: {error}") from None
    return toml.parse(text, path, TABLES)
