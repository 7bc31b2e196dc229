"""The public request cases beside the project (../shared/corpus), read as they must be, at every split.

expect accept: exactly the messages of the case. reject: an error, after at most the messages that are in
order. either: one of both. Incomplete: nothing that is not whole is told as a message. A message is only ever
told in the one permitted reading.
"""

import base64
import hashlib
import json
import random
import zlib
from pathlib import Path

import pytest
from events import every_way_of_scanning, feed, split_everywhere  # noqa: F401

CORPUS = Path(__file__).parents[3] / "shared" / "corpus" / "http1_public.jsonl"

pytestmark = pytest.mark.skipif(not CORPUS.exists(), reason=f"the public cases are not there: {CORPUS}")


def cases():
    if not CORPUS.exists():
        return []
    return [json.loads(line) for line in CORPUS.read_text().splitlines()]


def raw(case):
    return (
        base64.b64decode(case["raw"]) if "raw" in case else zlib.decompress(base64.b64decode(case["raw_z"]))
    )


def messages(events):
    """Whole messages as (head, body)."""
    out, body = [], b""
    for event in events:
        if event[0] == "head":
            head, body = event, b""
        elif event[0] == "body":
            body = event[1]
        elif event[0] == "end":
            out.append((head, body))
    return out


def reads_as(message, wanted):
    """Is the message what the case's reading says? Keys that the case leaves out are not compared."""
    (_, method, target, version, keep_alive, _, headers, _), body = message
    got = {"method": method, "target": target.decode(), "version": version, "keep_alive": keep_alive}
    if "headers" in wanted:
        lines = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in wanted["headers"]
        ]
        if headers != lines:
            return False
    if "body" in wanted:
        if body != base64.b64decode(wanted["body"]):
            return False
    elif hashlib.md5(body).hexdigest() != wanted["body_md5"]:
        return False
    return all(wanted[key] == value for key, value in got.items() if key in wanted)


def is_right(case, events):
    told, wanted = messages(events), case["requests"]
    code = events[-1][2] if events and events[-1][0] == "error" else None
    if len(told) > len(wanted) or not all(map(reads_as, told, wanted)):
        return False
    if case["expect"] == "accept":
        return code is None and len(told) == len(wanted)
    if case["expect"] == "reject":
        return code not in (None, "incomplete")
    return bool(case.get("incomplete")) or code is not None or len(told) == len(wanted)


def test_the_corpus_is_whole():
    assert len(cases()) == 732


@pytest.mark.parametrize("case", cases(), ids=lambda case: case["id"])
def test_public_case_is_read_as_it_must_be_at_every_split(case):
    data = raw(case)
    whole = feed([data])
    assert is_right(case, whole), (case["expect"], case["why"], data[:300], whole)
    if len(data) <= 2000:
        ways = split_everywhere(data)
    else:
        places = random.Random(case["id"])
        ways = ([data[:i], data[i:]] for i in (places.randrange(len(data)) for _ in range(50)))
    for pieces in ways:
        assert feed(pieces) == whole, [len(piece) for piece in pieces]
