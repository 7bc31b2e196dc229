"""What is allowed and can hardly be meant: a limit that another one makes void, a rule over a listener that is not there.

`kacore policy` and the start of a server say it; it is no error, since a value alone does not tell what is to come.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kacore.config.fields import show
from kacore.policy.policy import Policy
from kacore.policy.rules import PolicySet

# A part that was said to be larger than the whole it is in.
PARTS = {"max_header_bytes": "max_head_bytes", "max_target_bytes": "max_head_bytes"}
OF_AUTO = ("keep_alive_min", "keep_alive_max", "pressure_start", "pressure_full")
DRAIN = ("drain_lame_duck", "drain_grace", "drain_spread")


def voided(policies: PolicySet) -> list[str]:
    """A sentence for each limit that is never reached, since another one is."""
    found = sentences(policies.default, policies.default.changes())
    for rule, policy in zip(policies.rules, policies.policies[1:], strict=True):
        found += [f"rule {rule.name!r}: {text}" for text in sentences(policy, rule.changes)]
    said = [name for name in OF_AUTO if name in policies.default.changes()]
    if said and all(policy.keep_alive_timeout != "auto" for policy in policies.policies):
        found.append(f"{' and '.join(said)} {'say' if len(said) > 1 else 'says'} nothing: keep_alive_timeout is a number")
    return found


def sentences(policy: Policy, said: Iterable[str]) -> list[str]:
    values: dict[str, Any] = policy.as_dict()
    found = [
        f"{part}={show(values[part])} is never reached: a whole head has {whole}={show(values[whole])}, raise it too"
        for part, whole in PARTS.items()
        if part in said and values[part] > values[whole]
    ]
    if set(DRAIN) & set(said) and sum(values[name] for name in DRAIN) > values["drain_timeout"]:
        together = " + ".join(f"{name}={show(values[name])}" for name in DRAIN if values[name])
        found.append(f"{together} is cut short by drain_timeout={show(values['drain_timeout'])}")
    return found


def unheard(policies: PolicySet, listeners: Iterable[str]) -> list[str]:
    """A sentence for each rule over a listener that is none of these, in the form of `Rule`."""
    heard = [policies.rules_at(name) for name in listeners]
    return [
        f"rule {rule.name!r} holds for nobody: nothing listens there"
        for i, rule in enumerate(policies.rules)
        if rule.listener and not any(mask >> i & 1 for mask in heard)
    ]
