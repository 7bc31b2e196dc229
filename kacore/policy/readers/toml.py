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

from collections.abc import Collection
from typing import Any

from kacore.policy.fields import PolicyError, Value, unknown
from kacore.policy.policy import Policy
from kacore.policy.rules import KEYS, Rule

KINDS = {"site": "host", "listener": "listener", "client": "client", "user_agent": "user_agent"}


def read(text: str, file: str = "kacore.toml", tables: Collection[str] = ()) -> tuple[dict[str, Value], list[Rule]]:
    """The fields that [policy] sets, and the rules. tables: names of top-level tables that others read.

    Raises PolicyError, naming the file and the table, for malformed TOML, an unknown name and a wrong value.
    """
    import tomllib

    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{file}: {error}") from None
    for name in content:
        if name != "policy" and name not in tables:
            raise PolicyError(f"{file}: {unknown(name, ['policy', *tables])}")
    policy = table(content.get("policy", {}), f"{file} [policy]")
    changes: dict[str, Value] = {}
    rules: list[Rule] = []
    for name, value in policy.items():
        if name in KINDS:
            for key, inner in table(value, f"{file} [policy.{name}]").items():
                where = f'{file} [policy.{name}."{key}"]'
                rules.append(rule({KINDS[name]: key}, table(inner, where), where))
        elif name == "rule":
            if not isinstance(value, list):
                raise PolicyError(f"{file}: a rule is a table of its own: [[policy.rule]]")
            for number, inner in enumerate(value, 1):
                where = f"{file} [[policy.rule]] {number}"
                rest = table(inner, where)
                keys = {key: rest.pop(key) for key in KEYS if key in rest}
                rules.append(rule(keys, rest, where))
        else:
            changes[name] = field(name, value, f"{file} [policy]", [*KINDS, "rule"])
    return changes, rules


def table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PolicyError(f"{where}: must be a table, not {value!r}")
    return value


def rule(keys: dict[str, Any], content: dict[str, Any], where: str) -> Rule:
    changes: dict[str, Any] = {name: field(name, value, where) for name, value in content.items()}
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
        return what.parse(value) if isinstance(value, str) and what.unit == "bytes" else what.check(value)
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
