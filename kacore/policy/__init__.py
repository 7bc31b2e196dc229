"""The policy of a server: what a connection may take, ask and keep. See docs/policy.md.

`Policy`, `PolicySet` and what they are made of; the readers of other people's words (Apache, nginx, TOML,
environment, command line) are imported when they are used.
"""

from kacore.errors import PolicyError
from kacore.policy.headers import strip_connection_fields
from kacore.policy.policy import Policy
from kacore.policy.readers import read_apache, read_nginx
from kacore.policy.rules import PolicySet, Rule

__all__ = ["Policy", "PolicyError", "PolicySet", "Rule", "read_apache", "read_nginx", "strip_connection_fields"]
