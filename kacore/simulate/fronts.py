"""What stands in front of servers, and for how long it keeps a connection idle before it closes it; and what other servers
do, by default."""

from __future__ import annotations

from typing import NamedTuple

from kacore.errors import UsageError


class Front(NamedTuple):
    name: str
    timeout: float  # seconds after which it closes an idle connection to us


# Their defaults, by the names that --front knows.
KNOWN = {
    "alb": 60.0,
    "nginx": 60.0,
    "go": 90.0,
    "heroku": 90.0,
    "gcp": 600.0,
    "envoy": 3600.0,
    "chrome": 300.0,
    "firefox": 115.0,
    "httpx": 5.0,
    "aiohttp": 15.0,
    "java": 30.0,
}
DEFAULT = "nginx:60,alb:60,go:90,gcp:600,envoy:3600"

# Timeouts of other servers' idle connections by default.
SERVERS = {2.0: ("gunicorn",), 5.0: ("uvicorn", "node", "Apache"), 75.0: ("nginx",)}


def read_fronts(text: str) -> list[Front]:
    """nginx:60,alb:60. A known name may stand alone. UsageError."""
    fronts: list[Front] = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, colon, seconds = word.partition(":")
        try:
            timeout = float(seconds) if colon else KNOWN[name]
        except KeyError:
            raise UsageError(f"front={word!r}: must be NAME:SECONDS, or one of {', '.join(KNOWN)}") from None
        except ValueError:
            timeout = 0.0
        if not name or not 0 < timeout <= 1e6:
            raise UsageError(f"front={word!r}: must be NAME:SECONDS, seconds above 0 and at most 1000000")
        if name in [front.name for front in fronts]:
            raise UsageError(f"front={word!r}: {name} is named twice")
        fronts.append(Front(name, timeout))
    return fronts
