"""The access logs of two real sites, where they lie beside the project; they are not a part of it."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = {"nasa": "nasa-1995-08-01.log.gz", "semicomplete": "semicomplete-2015-05.log.gz"}


def trace(name):
    """Its path, or a skip."""
    for parent in ROOT.parents:
        path = parent / "shared" / "traces" / NAMES[name]
        if path.is_file():
            return path
    return pytest.skip(f"{NAMES[name]} is not here")
