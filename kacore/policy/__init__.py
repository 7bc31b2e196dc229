"""The policy of a server: what a connection may take, ask and keep. See docs/policy.md.

`Policy` and what it is made of; the readers of other people's words (Apache, nginx, TOML, environment,
command line) are imported when they are used.
"""

from kacore.policy.fields import PolicyError
from kacore.policy.policy import Policy

__all__ = ["Policy", "PolicyError"]
