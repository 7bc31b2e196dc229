"""Policy.response_fields and strip_connection_fields."""

import pytest

from kacore.policy import Policy, strip_connection_fields

KEPT = (b"connection", b"keep-alive")
CLOSE = [(b"connection", b"close")]


def test_the_advertised_timeout_is_shorter_than_the_real_one():
    assert Policy().response_fields() == [KEPT, (b"keep-alive", b"timeout=74")]
    assert Policy(keep_alive_timeout=5.9).response_fields() == [KEPT, (b"keep-alive", b"timeout=4")]
    assert Policy().response_fields(timeout=3.5) == [KEPT, (b"keep-alive", b"timeout=2")]
    assert Policy(advertise_margin=0).response_fields() == [KEPT, (b"keep-alive", b"timeout=75")]


def test_below_one_second_nothing_is_promised():
    assert Policy(keep_alive_timeout=1.9).response_fields() == []
    assert Policy(keep_alive_timeout=1.9).response_fields(http_version="1.0") == [KEPT]
    assert Policy(advertise=False).response_fields() == []
    assert Policy(keep_alive_timeout=1, advertise_margin=5).response_fields() == []


def test_max_counts_down_to_a_close():
    policy = Policy(max_keep_alive_requests=5)
    said = [policy.response_fields(responses=n) for n in range(1, 7)]
    assert said[:4] == [[KEPT, (b"keep-alive", b"timeout=74, max=%d" % left)] for left in (4, 3, 2, 1)]
    assert said[4:] == [CLOSE, CLOSE]


def test_without_keep_alive_every_response_closes():
    assert Policy(keep_alive=False).response_fields() == CLOSE
    assert Policy(keep_alive=False).response_fields(http_version="1.0") == CLOSE


@pytest.mark.parametrize("version", ["2", "2.0", "3"])
@pytest.mark.parametrize("policy", [Policy(), Policy(keep_alive=False), Policy(max_keep_alive_requests=1)])
def test_http_2_and_later_get_no_connection_fields(policy, version):
    assert policy.response_fields(http_version=version) == []


@pytest.mark.parametrize("version", ["", "1", "0.9", "1.x", "4", "HTTP/1.1", 2, 1.1])
def test_an_unknown_version_is_refused(version):
    with pytest.raises(ValueError, match="http_version="):
        Policy().response_fields(http_version=version)


def test_the_first_response_is_number_one():
    with pytest.raises(ValueError, match="responses=0"):
        Policy().response_fields(responses=0)


def test_connection_specific_fields_are_stripped_and_what_they_name():
    fields = [
        (b"Connection", b"keep-alive, X-Hop"),
        (b"connection", b" x-other "),
        (b"Keep-Alive", b"timeout=5"),
        (b"X-HOP", b"1"),
        (b"x-other", b"1"),
        (b"Proxy-Connection", b"keep-alive"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Upgrade", b"h2c"),
        (b"TE", b"trailers"),
        (b"te", b"gzip"),
        (b"Content-Type", b"text/plain"),
    ]
    assert strip_connection_fields(fields) == [(b"TE", b"trailers"), (b"Content-Type", b"text/plain")]
    as_text = [(name.decode(), value.decode()) for name, value in fields]
    assert strip_connection_fields(iter(as_text)) == [("TE", "trailers"), ("Content-Type", "text/plain")]
    assert strip_connection_fields(Policy().response_fields()) == []
