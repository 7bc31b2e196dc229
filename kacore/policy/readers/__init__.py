"""What other people's words mean here: the configuration of Apache and nginx, and our own kacore.toml.

`reading.py` is what Apache's and nginx's have in common: directives, scopes, and the report of what became of each line.
A reader is imported when it is used: importing kacore costs none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kacore.policy.readers.reading import Reading


def read_apache(text: str, *, base: str | None = None, htaccess: Mapping[str, str] | None = None) -> Reading:
    """What an Apache configuration asks for.

    text:     of the main file. base: the directory of relative includes, in place of ServerRoot; without either they are
              not followed. htaccess: site name to the text of its .htaccess.
    Return:   a Reading: `policy()` for the server-wide part, `policy_set()` with a rule for each site, and `report`, which
              says of every line what became of it.
    Raises PolicyError, naming file and line, for a block that is not closed or closed by another name. Source:
    docs/policy.md.
    """
    from kacore.policy.readers import apache

    return apache.read(text, base=base, htaccess=htaccess)


def read_nginx(text: str, *, base: str | None = None) -> Reading:
    """What an nginx configuration asks for: of its http and events blocks, with a rule for each server.

    Arguments and result as of `read_apache`. Raises ImportError when crossplane is missing (kacore[nginx]), PolicyError,
    naming file and line, for malformed syntax. Source: docs/policy.md.
    """
    from kacore.policy.readers import nginx

    return nginx.read(text, base=base)
