"""A file of environment variables: KEY=VALUE lines, as `--env-file` takes them.

Empty lines and those that begin with # say nothing. What stands before = is the name, what stands behind it the value,
both without the blanks around them; a pair of quotes around a value is taken off. Nothing is expanded or escaped.
"""

from __future__ import annotations

import re

from kacore.errors import UsageError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def read(path: str) -> dict[str, str]:
    """Name to value. UsageError, naming file and line, for a line that is none of this; OSError."""
    with open(path, encoding="utf-8") as file:
        try:
            lines = file.read().splitlines()
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: must be UTF-8: {error}") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not NAME.fullmatch(name) or "\0" in value:
            raise UsageError(f"{path}:{number}: must be a line of the form KEY=VALUE")
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        found[name] = value
    return found
