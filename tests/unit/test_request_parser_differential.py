"""The short form of tests/fuzz/differential.py: no disagreement with a peer is without a name."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "fuzz" / "differential.py"


@pytest.mark.parametrize("peer", ["httptools", "h11"])
def test_every_disagreement_with_a_peer_has_a_name(need, peer):
    need(f"module:{peer}")
    spec = importlib.util.spec_from_file_location("differential", PATH)
    differential = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(differential)
    named, unexplained = differential.compare(2000, 3, [peer])
    assert unexplained == []
    assert len(named) >= 3, "the generator found hardly a disagreement: it does not generate what it should"
