"""What a RequestParser tells, as plain values, for tests that feed the same bytes in different ways."""

import pytest

from kacore import EndOfMessage, Head, PeerError, RequestParser
from kacore._core import set_simd_variant, simd_variant, simd_variants


@pytest.fixture(autouse=True, params=simd_variants())
def every_way_of_scanning(request):
    """Imported by a test module, it runs each of its tests once for every way of scanning."""
    before = simd_variant()
    set_simd_variant(request.param)
    yield
    set_simd_variant(before)


def told(events):
    """Events as tuples, adjacent body pieces joined. Anything that is no event fails."""
    out = []
    for event in events:
        if isinstance(event, Head):
            facts = (event.content_length, event.chunked, event.expects_continue, event.upgrade, event.host)
            line = (event.method, event.target, event.version, event.keep_alive, event.nbytes)
            out.append(("head", *line, event.headers, facts))
        elif isinstance(event, bytes):
            assert event, "an empty body piece"
            if out and out[-1][0] == "body":
                event = out.pop()[1] + event
            out.append(("body", event))
        elif isinstance(event, EndOfMessage):
            out.append(("end", event.trailers))
        else:
            assert isinstance(event, PeerError)
            out.append(("error", event.status, event.code, event.offset))
    assert all(event[0] != "error" for event in out[:-1]), "an event after an error"
    return out


def feed(pieces, limits=None):
    """What is told when the pieces arrive one by one and then the connection ends."""
    parser = RequestParser(limits)
    events = []
    for piece in pieces:
        events += parser.feed(piece)
    return told(events + parser.feed_eof())


def split_everywhere(data):
    """The bytes one at a time, then in two pieces at every place."""
    yield [data[i : i + 1] for i in range(len(data))]
    for i in range(1, len(data)):
        yield [data[:i], data[i:]]
