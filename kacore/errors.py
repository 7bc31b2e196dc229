"""What a user did wrong in Python: in an argument, a flag, a variable or a file. The compiled core has errors of its own."""

from __future__ import annotations


class ConfigError(ValueError):
    """What was asked for cannot be had. The message is one line, meant for the user: it names the value and the rule.

    `field` is the name of the (first) option that is wrong, "" when it is something else.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class UsageError(ConfigError):
    """What the user asked for cannot be done. The message is one line, meant for the user."""


class PolicyError(ConfigError):
    """A wrong value, an impossible combination or an unknown name in a policy. The message names the field, the value and
    the rule."""


def told(error: BaseException) -> str:
    """The error in one line. Not every OSError has a file, or a number."""
    if not isinstance(error, OSError):
        return str(error)
    why = error.strerror or str(error) or type(error).__name__
    return why if error.filename is None else f"{error.filename}: {why}"
