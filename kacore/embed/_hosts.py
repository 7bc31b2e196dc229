"""What an adapter says of its host: `HostPackage`, one for each.

An adapter uses what is not public in its host, so it says which versions it was tested with and what it needs. An older
version is refused; a newer one is accepted, with a warning, if all that is needed is there; what is missing is named. And
of the policy it says which fields could have no effect there, so that nobody sets one in vain.
"""

from __future__ import annotations

import dis
import importlib
import inspect
import re
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from kacore.policy import Policy, PolicyError, PolicySet

__all__ = ["HostPackage", "UntestedHostWarning"]


class UntestedHostWarning(UserWarning):
    """The host is newer than the versions that the adapter was tested with."""


class HostPackage(NamedTuple):
    """A host, and the versions that the adapter was tested with.

    host:        the package. oldest, newest: as far as they tell versions apart: "27" stands for all of 27.
    needed:      "module:name" or "module:class.attribute" of what the adapter uses.
    ineffective: fields of a policy that have no effect inside this host, and why.
    """

    host: str
    oldest: str
    newest: str
    needed: tuple[str, ...]
    ineffective: Mapping[str, str] = MappingProxyType({})

    def at_import(self, version: str) -> None:
        """ImportError or UntestedHostWarning, if there is something to say of this version."""
        if refusal := self.refusal(version):
            raise ImportError(refusal)
        if warning := self.warning(version):
            warnings.warn(warning, UntestedHostWarning, stacklevel=3)

    def refusal(self, version: str) -> str | None:
        """Why the adapter cannot work with this version, or None."""
        missing = [one for one in self.needed if not is_there(one)]
        if is_older(version, self.oldest):
            why = f"the oldest version it supports is {self.oldest}"
        elif missing:
            why = f"{', '.join(missing)} is missing there; the adapter was tested with {self}"
        else:
            return None
        return f"kacore.embed.{self.host} does not work with {self.host} {version}: {why} (pip install kacore[{self.host}])"

    def warning(self, version: str) -> str | None:
        """What to say of a version that is newer than all that were tried, or None."""
        if not is_older(self.newest, version):
            return None
        return f"kacore.embed.{self.host} has not been tested with {self.host} {version}, only with {self}"

    def check_policy(self, policies: Policy | PolicySet) -> None:
        """PolicyError for a field that is set and would have no effect."""
        for policy in [policies] if isinstance(policies, Policy) else policies.policies:
            said = policy.changes()
            for name, why in self.ineffective.items():
                if name in said:
                    raise PolicyError(f"{name}={said[name]:g}: has no effect inside {self.host}: {why}", name)

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
