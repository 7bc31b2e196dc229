"""A million connections from Python, in a process of its own: within 30 s and 100 MB over what Python takes."""

import json
import sys

import pytest

PROGRAM = """
import json, random
from array import array
from kacore import ConnectionTable, Policy


def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024


N = 1_000_000
draw = random.Random(1)
table = ConnectionTable(Policy(max_connections=N, client_share=1.0), seed=1)
touch, base = table.touch, resident()
conns = array("Q", (table.open(0.0, (i % 100_000).to_bytes(4, "big")) for i in range(N)))
for now in range(1, 4):
    draw.shuffle(conns)
    for conn in conns:
        touch(conn, float(now))
assert table.expire(32.9) == []
order, n_expired = array("Q"), 0
while closed := table.expire(33.0, 4096):
    order.extend(closed)
assert order == conns, "they must go in the order of their last touch"
table.check()
print(json.dumps({"bytes": resident() - base, "table": table.nbytes,
                  "left": len(table), "counted": table.stats()["closed"]["first_byte_timeout"]}))
"""


@pytest.mark.timeout(240)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of resident memory from /proc")
def test_a_million_connections_open_are_touched_three_times_each_at_random_and_expire(launch, sanitized):
    child = launch("-c", PROGRAM)
    assert child.wait(220) == 0, child.text  # about 4 s on an idle machine; the suite asserts no time
    seen = json.loads(child.text)
    assert (seen["left"], seen["counted"]) == (0, 1_000_000)
    assert seen["table"] / 1_000_000 <= 51
    if not sanitized:  # their shadow memory counts too
        assert seen["bytes"] < 100e6
