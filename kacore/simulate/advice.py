"""A recommendation, and its reason, as a kacore.toml."""

from __future__ import annotations

from typing import NamedTuple

from kacore.policy import Policy
from kacore.policy.readers.toml import write
from kacore.simulate import words
from kacore.simulate.study import Result, Row

HEADROOM = 2  # times the peak of the log: the next day may be busier


class Advice(NamedTuple):
    policy: dict[str, object]  # what should be set
    reasons: list[str]  # sentences
    row: Row  # what it does


def advise(result: Result) -> Advice:
    """ "auto", in any case: no number reuses more. More room than the default when the log needs it."""
    row = result.auto
    policy: dict[str, object] = {"keep_alive_timeout": "auto"}
    five = next((found for found in result.rows if found.timeout == 5), result.rows[0])
    reasons = [
        f"{words.percent(result.share(row.reused))} of the requests find their connection open, at a timeout of"
        f" {words.duration(five.timeout)} it is {words.percent(result.share(five.reused))}:"
        f" {row.reused - five.reused:,} handshakes less in {words.duration(result.span)}."
    ]
    ours, kernel = row.memory()
    reasons.append(
        f"It costs {words.mean(row.mean)} open connections on average and {row.peak:,} at most, which take"
        f" {words.size(kernel)} in the kernel and {words.size(ours)} here."
    )
    if result.fronts:
        reasons.append("Behind a proxy it learns when that closes, and closes later, so that no request meets our close.")
    default = Policy().max_connections
    if row.peak * HEADROOM > default:
        policy["max_connections"] = rounded_up(row.peak * HEADROOM)
        reasons.append(f"max_connections is {HEADROOM} times that peak; where there are several workers, each has its share.")
    else:
        reasons.append(f"There is room for {default:,}; when it is used up, the longest idle connection makes room.")
    return Advice(policy, reasons, row)


def rounded_up(number: int) -> int:
    """To two digits."""
    step: int = 10 ** max(0, len(str(number)) - 2)
    return -(-number // step) * step


def as_toml(advice: Advice, about: str) -> str:
    """What kacore serve reads."""
    lines = [f"# kacore simulate: {about}", *(f"# {reason}" for reason in advice.reasons), "[policy]"]
    return "\n".join([*lines, *(f"{name} = {write(value)}" for name, value in advice.policy.items())]) + "\n"
