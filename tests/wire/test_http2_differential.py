"""A few random sequences of frames of HTTP/2 beside nghttpd; tests/fuzz/differential_h2.py plays as many as one likes."""

import importlib.util
from pathlib import Path

import pytest

from tests.wire.http2_house import needs_http2, only_kacore

pytestmark = [needs_http2, only_kacore]

FILE = Path(__file__).parents[1] / "fuzz" / "differential_h2.py"


@pytest.mark.needs("nghttpd")
def test_no_disagreement_with_nghttpd_is_left_unexplained(io):
    spec = importlib.util.spec_from_file_location("differential_h2", FILE)
    differential = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(differential)
    assert differential.compare(runs=50, seed=14, io=io) == []
