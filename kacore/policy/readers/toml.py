"""kacore.toml: the table [policy], and its rules.

    [policy]
    keep_alive_timeout = 75
    max_buffer_bytes = "64MiB"

    [policy.site."example.com"]          # also .listener, .client and .user_agent
    keep_alive_timeout = 15

    [[policy.rule]]                      # several keys, or one rule for several names
    host = ["a.example", "*.a.example"]
    keep_alive = false

The first rule that matches wins, in the order of the file; tables of one kind count where the first of them
stands, since that is all the order a TOML table has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from kacore.config.fields import Value, unknown
from kacore.errors import PolicyError
from kacore.policy.policy import Policy
from kacore.policy.rules import KEYS, Rule

T = TypeVar("T")

KINDS = {"site": "host", "listener": "listener", "client": "client", "user_agent": "user_agent"}


def read(text: str, file: str = "kacore.toml", tables: Collection[str] = ()) -> tuple[dict[str, Value], list[Rule]]:
    """The fields that [policy] sets, and the rules. tables: names of top-level tables that others read.

    Raises PolicyError, naming the file and the table, for malformed TOML, an unknown name and a wrong value.
    """
    errors: list[Exception] = []
    content = parse(text, file, ["policy", *tables])
    found = interpret(content.get("policy", {}), file, errors)
    for error in errors:
        raise error
    return found


def parse(text: str, file: str, tables: Collection[str]) -> dict[str, Any]:
    """The whole file. PolicyError for malformed TOML, and for a table that is none of these."""
    import tomllib

    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{file}: {error}") from None
    for name in content:
        if name not in tables:
            raise PolicyError(f"{file}: {unknown(name, tables)}")
    return content


def interpret(content: object, file: str, errors: list[Exception]) -> tuple[dict[str, Value], list[Rule]]:
    """[policy]: the fields it sets, and the rules. Mistakes are appended to `errors`."""
    changes: dict[str, Value] = {}
    rules: list[Rule] = []

    def checked(call: Callable[..., T], *arguments: Any, otherwise: T) -> T:
        try:
            return call(*arguments)
        except PolicyError as error:
            errors.append(error)
            return otherwise

    empty: dict[str, Any] = {}
    for name, value in checked(table, content, f"{file} [policy]", otherwise=empty).items():
        if name in KINDS:
            where = f"{file} [policy.{name}]"
            for key, inner in checked(table, value, where, otherwise=empty).items():
                where = f'{file} [policy.{name}."{key}"]'
                rules += checked(rules_of, {KINDS[name]: key}, inner, where, otherwise=[])
        elif name == "rule":
            if not isinstance(value, list):
                errors.append(PolicyError(f"{file}: a rule is a table of its own: [[policy.rule]]"))
                continue
            for number, inner in enumerate(value, 1):
                rules += checked(rules_of, {}, inner, f"{file} [[policy.rule]] {number}", otherwise=[])
        else:
            changes |= checked(fields_of, {name: value}, f"{file} [policy]", [*KINDS, "rule"], otherwise=empty)
    return changes, rules


def rules_of(keys: dict[str, Any], value: object, where: str) -> list[Rule]:
    """The one rule that a table is."""
    rest = table(value, where)
    if not keys:
        keys = {key: rest.pop(key) for key in KEYS if key in rest}
    return [rule(keys, rest, where)]


def fields_of(content: dict[str, Any], where: str, others: Collection[str] = ()) -> dict[str, Value]:
    return {name: field(name, value, where, others) for name, value in content.items()}


def table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PolicyError(f"{where}: must be a table, not {value!r}")
    return dict(value)


def rule(keys: dict[str, Any], content: dict[str, Any], where: str) -> Rule:
    changes: dict[str, Any] = fields_of(content, where)
    try:
        return Rule(name=where, **keys, **changes)
    except (PolicyError, TypeError) as error:  # TypeError: a key that is neither a string nor a list
        named = where in str(error)  # as the name of the rule
        raise PolicyError(str(error) if named else f"{where}: {error}") from None


def field(name: str, value: object, where: str, others: Collection[str] = ()) -> Value:
    what = Policy.__fields__.get(name)
    if what is None:
        raise PolicyError(f"{where}: {unknown(name, [*Policy.__fields__, *others])}")
    try:
        found: Value = what.read(value)
        return found
    except PolicyError as error:
        raise PolicyError(f"{where}: {error}", name) from None


def write_string(text: str) -> str:
    """A TOML basic string: JSON's, but nothing beyond ASCII need be escaped, and DEL must be."""
    import json

    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def write(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return write_string(value)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(write, value)) + "]"
    return str(value)
