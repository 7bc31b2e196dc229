"""One look at a server, with the same names whether it is one process or several workers. What is absent is not known."""

from __future__ import annotations

from typing import Any

COUNTERS = ("accepted", "requests", "reused", "races", "bytes_in", "bytes_out")


class Reading:
    """What `stats()` said: of all processes together where it says that, else of the one that was asked."""

    def __init__(self, stats: dict[str, Any]) -> None:
        workers: dict[str, Any] = stats.get("workers") or {}
        self.workers: list[dict[str, Any]] = list(workers.get("slots", ()))
        self.total: dict[str, Any] = workers.get("total") or stats
        self.phases: dict[str, int] | None = self._phases_of_workers() if workers else stats["phases"]
        self.engine: dict[str, int] = self.total.get("engine") or {}
        if self.phases is not None:
            self.n_open: int = sum(self.phases.values())
        else:
            self.n_open = self.total["open"]

    def _phases_of_workers(self) -> dict[str, int] | None:
        """The sum, if it is known of all that serve."""
        if "phases" in self.total:
            return dict(self.total["phases"])
        known = [one["phases"] for one in self.workers if one.get("phases")]
        if not known or len(known) < sum(1 for one in self.workers if one.get("ready", True)):
            return None
        return {name: sum(phases[name] for phases in known) for name in known[0]}

    def summed(self, name: str) -> int | None:
        """Over the workers that say it."""
        known = [one[name] for one in self.workers if one.get(name) is not None]
        return sum(known) if known else None

    @property
    def buffer_bytes(self) -> int | None:
        of_workers = self.summed("buffer_bytes")
        return of_workers if of_workers is not None else self.engine.get("buffer_bytes")

    def sample(self) -> dict[str, float]:
        """What is kept of every second."""
        found: dict[str, float] = {"open": self.n_open}
        found |= {name: self.total[name] for name in COUNTERS if name in self.total}
        found |= {f"closed {cause}": n for cause, n in self.total["closed"].items()}
        found |= {f"phase {name}": n for name, n in (self.phases or {}).items()}
        found |= {f"responses {name}": n for name, n in (self.total.get("responses") or {}).items()}
        found["closed"] = sum(self.total["closed"].values())
        if self.buffer_bytes is not None:
            found["buffer_bytes"] = self.buffer_bytes
        return found
