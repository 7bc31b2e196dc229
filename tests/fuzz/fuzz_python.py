"""Atheris target for the Cython layer: any bytes give events or a PeerError, the same in pieces as at once.

Run: `pip install atheris`, then
`python tests/fuzz/fuzz_python.py -max_total_time=60 build/fuzz/python tests/fuzz/corpus`.
"""

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from events import feed

from kacore import PeerError, parse_head, parse_parts


def one_input(data: bytes) -> None:
    if not data:
        return
    step, data = data[0] + 1, data[1:]
    whole = feed([data])
    if feed([bytearray(data[i : i + step]) for i in range(0, len(data), step)]) != whole:
        raise AssertionError("told otherwise in pieces")
    try:
        head, parts = parse_head(data), parse_parts(data)
    except PeerError as error:
        if whole[0] != ("error", error.status, error.code, error.offset):
            raise AssertionError("parse_head tells another fault") from error
    else:
        assert (head is None) == (parts is None)
        if head is not None:
            assert parts[:5] == (head.method, head.target, head.version, head.headers, head.keep_alive)
            assert set(head.hop_by_hop) <= {name for name, _ in head.headers}


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
