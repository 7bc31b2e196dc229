"""Values of a record from where users say them: flags, KACORE_* variables, a table of kacore.toml. For every value it is
remembered who said it, and every mistake is kept: who makes the record raises the first, who checks a configuration tells
them all.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from kacore.config.fields import FLAG, KEY, VARIABLE, Field, Record, unknown
from kacore.errors import ConfigError

PREFIX = "KACORE_"
# Switches of the build and of the compiled core, which are no option.
OTHER_VARIABLES = frozenset(
    f"KACORE_{name}" for name in ("DEBUG", "SANITIZE", "COVERAGE", "PORTABLE", "OPTIMIZE", "SIMD")
)
# What Kubernetes puts into every container for a Service called "kacore" or "kacore-...", and Docker for such a --link.
# Each with a pattern of its value, where the name alone could be an option or a mistake.
FROM_ELSEWHERE = (
    (r"KACORE(_\w+)?_SERVICE_(HOST|PORT(_\w+)?)", ""),
    (r"KACORE(_\w+)?_PORT_\d+_[A-Z]+(_(PROTO|ADDR|(PORT_)?(START|END)|PORT))?", ""),
    (r"KACORE(_\w+)?_PORT", r"\w+://"),
    (r"KACORE(_\w+)?_NAME", r"/\S+/\S+"),
    (r"KACORE(_\w+)?_ENV_\w+", ""),
)

_told: set[str] = set()  # variables without meaning that were told already; a worker knows what its parent told


class Values:
    """Of one kind of record, the later said over the earlier."""

    def __init__(self, record: type[Record]) -> None:
        self.record = record
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}  # of every field in `values`
        self.errors: list[Exception] = []

    def add(self, values: Mapping[str, Any], origin: str | Mapping[str, str]) -> None:
        """origin: one for all, or that of each field."""
        for name, value in values.items():
            self.values[name] = value
            self.origins[name] = origin if isinstance(origin, str) else origin[name]

    def merge(self, later: Values) -> None:
        """What another one has found, and what was wrong there."""
        self.add(later.values, later.origins)
        self.errors += later.errors

    def add_missing(self, found: Mapping[str, tuple[str, str]]) -> None:
        """What variables say that are not ours alone, field -> (variable, text): only of what nobody else has said."""
        for name, (said_by, text) in found.items():
            if name not in self.values:
                self.take(name, text, said_by, f"environment variable {said_by}")

    def origin(self, field: str) -> str:
        return self.origins.get(field, "default")

    def take(self, name: str, given: Any, origin: str, where: str) -> None:
        """One value, text or not. where: what a message about it begins with."""
        what = self.record.__fields__[name]
        try:
            self.add({name: interpreted(what, given, origin)}, origin)
        except ConfigError as error:
            self.errors.append(type(error)(f"{where}: {error}", name))

    def add_table(self, table: Mapping[str, Any], where: str) -> None:
        """A table of kacore.toml. where: "kacore.toml [serve]"."""
        fields = {name: what for name, what in self.record.__fields__.items() if KEY in what.sources}
        for name, value in table.items():
            if name not in fields:
                self.errors.append(self.record.__error__(f"{where}: {unknown(name, fields)}"))
                continue
            try:
                self.add({name: fields[name].read(value)}, where)
            except ConfigError as error:
                self.errors.append(type(error)(f"{where}: {error}", name))

    def add_flags(self, args: object) -> None:
        """args: the parsed command line, values as text; attributes that are missing or None were not given."""
        for name, what in self.record.__fields__.items():
            given = getattr(args, name, None)
            if given is not None and FLAG in what.sources:
                flag = f"--no-{what.flag[2:]}" if given is False else what.flag
                self.take(name, given, flag, flag)

    def clashing(self, error: ConfigError) -> ConfigError:
        """An error about values that do not go together says where they came from."""
        named = re.findall(r"\w+", str(error))
        said = [f"{name} from {origin}" for name, origin in self.origins.items() if name in named]
        return type(error)(f"{error}" + (f" ({', '.join(said)})" if said else ""), error.field)

    def provisional(self) -> Any:
        """The record of what is right, with defaults in place of mistakes: only to look for more of them."""
        made = self.record.__new__(self.record)
        fields = self.record.__fields__
        made.__dict__.update({name: self.values.get(name, what.make_default()) for name, what in fields.items()})
        return made

    def clashes(self) -> list[ConfigError]:
        """All that does not go together among the values that are no mistakes by themselves."""
        return [self.clashing(error) for error in self.provisional().clashes()]

    def make(self) -> Any:
        """The record. Raises the first mistake."""
        for error in self.errors:
            raise error
        try:
            return self.record(**self.values)
        except ConfigError as error:
            raise self.clashing(error) from None


def interpreted(what: Field, given: Any, origin: str) -> Any:
    if isinstance(given, list):  # of a flag that is repeated
        return tuple(what.parse_one(text) for text in given)
    return what.parse(given) if isinstance(given, str) else what.check(given)


def add_environment(
    environ: Mapping[str, str], records: Iterable[Values], others: Collection[str] = (), *, file: str = ""
) -> dict[str, str]:
    """What variables say of options of these records; an empty one says nothing. file: where they stand, if that is not the
    environment. Return: a sentence about each name that is no option's and none of `others`, and does not come from
    elsewhere; see `tell_unknown`."""
    strange: dict[str, str] = {}
    known: dict[str, tuple[Values, str]] = {}
    for values in records:
        for field, what in values.record.__fields__.items():
            if VARIABLE in what.sources:
                known[variable(field)] = values, field
    for name, text in environ.items():
        if not name.startswith(PREFIX) or name in OTHER_VARIABLES or name in others or not text.strip():
            continue
        if is_from_elsewhere(name, text, is_known=name in known):
            continue
        if name not in known:
            strange[name] = about_unknown(name, [*known, *others])
            continue
        values, field = known[name]
        where = f"{file}: {name}" if file else f"environment variable {name}"
        values.take(field, text, f"{file}: {name}" if file else name, where)
    return strange


def common_variables(environ: Mapping[str, str], said: Collection[str]) -> dict[str, tuple[str, str]]:
    """What platforms and other servers have in the environment: WEB_CONCURRENCY, PORT with HOST, FORWARDED_ALLOW_IPS.
    said: options with a value already. Return: field -> (variable, text).

    A platform that names a port alone means it to be reached there from outside. HOST is believed where it is an address,
    or localhost: shells and conda have other things there.
    """
    found: dict[str, tuple[str, str]] = {}

    def take(field: str, name: str, text: str) -> None:
        if text.strip() and field not in said:
            found[field] = name, text.strip()

    if "reload" not in said:
        take("workers", "WEB_CONCURRENCY", environ.get("WEB_CONCURRENCY", ""))
    take("forwarded_allow_ips", "FORWARDED_ALLOW_IPS", environ.get("FORWARDED_ALLOW_IPS", ""))
    if not {"bind", "uds", "fds"} & set(said) and not environ.get("LISTEN_FDS"):
        port, host = environ.get("PORT", ""), environ.get("HOST", "")
        take("port", "PORT", port)
        if re.fullmatch(r"localhost|[\d.]+|[\da-fA-F:]*:[\da-fA-F:.]*", host):
            take("host", "HOST", host)
        elif port.strip() and "port" not in said and "host" not in said:
            found["host"] = "PORT", ""
    return found


def variable(field: str) -> str:
    return PREFIX + field.upper()


def is_from_elsewhere(name: str, text: str, *, is_known: bool) -> bool:
    """Whether Kubernetes or Docker wrote this for somebody to find a service called kacore, which may be us. A name that
    is an option's is one, unless the value, too, is theirs."""
    return any(
        re.fullmatch(names, name) and re.match(values, text) and (values or not is_known) for names, values in FROM_ELSEWHERE
    )


def about_unknown(name: str, known: Collection[str]) -> str:
    from kacore.config.options import ServeOptions

    if name in map(variable, ServeOptions.__fields__) and name not in known:
        return f"{name} is an option of kacore serve alone"
    return unknown(name, known)


def tell_unknown(strange: Mapping[str, str]) -> None:
    """Each name once, on the logger kacore.error."""
    import logging

    for name, sentence in strange.items():
        if name not in _told:
            _told.add(name)
            logging.getLogger("kacore.error").warning("environment: %s; it is ignored", sentence)
