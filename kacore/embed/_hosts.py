"""Is an adapter at home in the host that it finds?

An adapter watches what is not public in its host, so each says which versions were tried and what it needs. An older
version is refused; a newer one is tried, with a warning, where all that is needed is there; what is missing is named.
"""

from __future__ import annotations

import dis
import importlib
import inspect
import re
import warnings
from typing import Any, NamedTuple

__all__ = ["Tried", "UntriedHostWarning"]


class UntriedHostWarning(UserWarning):
    """The host is newer than those that the adapter was tried with."""


class Tried(NamedTuple):
    """What an adapter was tried with.

    host: the package. oldest, newest: as far as they tell versions apart: "27" stands for all of 27.
    needed: "module:name" or "module:class.attribute" of what the adapter uses.
    """

    host: str
    oldest: str
    newest: str
    needed: tuple[str, ...]

    def at_import(self, version: str) -> None:
        """ImportError or UntriedHostWarning, if there is something to say of this version."""
        if refusal := self.refusal(version):
            raise ImportError(refusal)
        if warning := self.warning(version):
            warnings.warn(warning, UntriedHostWarning, stacklevel=3)

    def refusal(self, version: str) -> str | None:
        """Why the adapter cannot work with this version, or None."""
        missing = [one for one in self.needed if not is_there(one)]
        if is_older(version, self.oldest):
            why = f"{self.oldest} is the oldest that it knows"
        elif missing:
            why = f"{', '.join(missing)} is missing in it; {self} were tried"
        else:
            return None
        return f"kacore.embed.{self.host} cannot be in {self.host} {version}: {why} (pip install kacore[{self.host}])"

    def warning(self, version: str) -> str | None:
        """What to say of a version that is newer than all that were tried, or None."""
        if not is_older(self.newest, version):
            return None
        return f"kacore.embed.{self.host} is not tried yet with {self.host} {version}: {self} were"

    def __str__(self) -> str:
        return f"{self.oldest} to {self.newest}"


def is_older(version: str, other: str) -> bool:
    """Whether its numbers are lower, as far as both have some: "27.0.1" is not older than "27", and not newer."""
    one, two = (tuple(int(n) for n in re.findall(r"\d+", text)) for text in (version, other))
    n = min(len(one), len(two))
    return one[:n] < two[:n]


def is_there(where: str) -> bool:
    """Whether there is such a name. An attribute that only methods set counts, too."""
    module, _, names = where.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ImportError:
        return False
    for name in names.split("."):
        if not hasattr(found, name):
            return inspect.isclass(found) and name in names_set_in(found)
        found = getattr(found, name)
    return True


def names_set_in(kind: type) -> set[str]:
    """Of the attributes to which its methods assign something."""
    methods = [method for one in kind.__mro__ for method in vars(one).values() if inspect.isfunction(method)]
    return {step.argval for method in methods for step in dis.get_instructions(method) if step.opname == "STORE_ATTR"}
