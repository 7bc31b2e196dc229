"""How many cores this process may use: its affinity, the quota of its control group and of those around it, and whether its
threads can use more than one."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def usable_cores(root: str = "/") -> int:
    """At least 1; of a quota of 1.5 cores 2, which together can use it up. root: where /proc and /sys are."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in quotas(Path(root)))]))


def has_gil() -> bool:
    """Whether threads of this interpreter take turns: also without a global lock of its own, when an extension that was
    imported needs one."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def quotas(root: Path) -> Iterator[float]:
    """In cores, of each control group that has one; inside of a container its own stands at the top."""
    for line in text_of(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / controllers
        group = top / path.strip("/")
        for directory in (group, *group.parents):
            if directory == top.parent:
                break
            yield from quota_of(directory)


def quota_of(group: Path) -> Iterator[float]:
    limit = text_of(group / "cpu.max").split()  # version 2: "150000 100000", "max 100000"
    if not limit:  # version 1
        limit = text_of(group / "cpu.cfs_quota_us").split() + text_of(group / "cpu.cfs_period_us").split()
    if len(limit) == 2 and all(part.isdigit() for part in limit) and int(limit[1]):
        yield max(0.01, int(limit[0]) / int(limit[1]))


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
