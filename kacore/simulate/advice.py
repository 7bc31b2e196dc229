"""A recommendation, and its reason, as a kacore.toml."""

from __future__ import annotations

from typing import NamedTuple

from kacore.policy import Policy
from kacore.policy.readers.toml import write
from kacore.simulate import words
from kacore.simulate.study import AUTO_MAX, Result, Row

ENOUGH = 0.01  # of all requests: who reuses so much less than is possible has lost nothing that matters
HEADROOM = 2  # times the peak of the log: the next day may be busier


class Advice(NamedTuple):
    policy: dict[str, object]  # what should be set
    reasons: list[str]  # sentences
    row: Row  # what it does


def advise(result: Result) -> Advice:
    """ "auto", where there is that; else the shortest timeout of the table that reuses nearly as much as the longest and is
    longer than that of any front. More room than the default when the log needs it."""
    row = result.auto if result.has_auto else best_number(result)
    longest: object = "auto" if result.has_auto else AUTO_MAX
    policy: dict[str, object] = {"keep_alive_timeout": longest if row.timeout is None else row.timeout}
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
        last = max(result.fronts, key=lambda front: front.timeout)
        reasons.append(front_reason(row.timeout or (None if result.has_auto else AUTO_MAX), last.name, last.timeout))
    default = Policy().max_connections
    if row.peak * HEADROOM > default:
        policy["max_connections"] = rounded_up(row.peak * HEADROOM)
        reasons.append(f"max_connections is {HEADROOM} times that peak; where there are several workers, each has its share.")
    else:
        reasons.append(f"There is room for {default:,}; when it is used up, the longest idle connection makes room.")
    return Advice(policy, reasons, row)


def best_number(result: Result) -> Row:
    most = max(row.reused for row in result.rows)
    above = max((front.timeout for front in result.fronts), default=0.0)
    good = [row for row in result.rows if result.share(most - row.reused) <= ENOUGH]
    safe = [row for row in good if row.timeout is not None and row.timeout > above]
    return safe[0] if safe else result.auto


def front_reason(ours: float | None, name: str, timeout: float) -> str:
    theirs = f"{name}'s {words.duration(timeout)}"
    if ours is None:
        return f"Behind a proxy it learns when that closes, and closes later, so that no request meets our close: {theirs}."
    if ours > timeout:
        return f"It is longer than {theirs}: a proxy closes first, and no request meets our close."
    return f"It is not longer than {theirs}: behind that, requests can meet our close."


def rounded_up(number: int) -> int:
    """To two digits."""
    step: int = 10 ** max(0, len(str(number)) - 2)
    return -(-number // step) * step


def as_toml(advice: Advice, about: str) -> str:
    """What kacore serve reads."""
    lines = [f"# kacore simulate: {about}", *(f"# {reason}" for reason in advice.reasons), "[policy]"]
    return "\n".join([*lines, *(f"{name} = {write(value)}" for name, value in advice.policy.items())]) + "\n"
