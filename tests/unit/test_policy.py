"""Policy: defaults, checks of single values and of combinations, immutability."""

import copy
import inspect
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kacore
from kacore.policy import Policy, PolicyError
from kacore.policy.policy import default_max_connections

FIELDS = Policy.__fields__
TIMES = [name for name, what in FIELDS.items() if what.unit == "s" and what.kind is float]


def test_defaults_are_those_of_the_documentation():
    policy = Policy()
    assert (policy.keep_alive, policy.keep_alive_timeout, policy.max_keep_alive_requests) == (True, "auto", 0)
    assert (policy.keep_alive_min, policy.keep_alive_max) == (75.0, 3900.0)
    assert (policy.advertise, policy.advertise_margin) == (True, 1.0)
    assert (policy.first_byte_timeout, policy.request_header_timeout) == (30.0, 20.0)
    assert (policy.request_body_timeout, policy.send_timeout, policy.handler_timeout) == (30.0, 60.0, 0.0)
    assert (policy.min_request_body_rate, policy.min_send_rate, policy.rate_window) == (240, 240, 5.0)
    assert (policy.linger_timeout, policy.linger_time, policy.linger_bytes) == (2.0, 30.0, 0)
    assert (policy.max_connection_age, policy.age_jitter, policy.handshake_timeout) == (3600.0, 0.1, 10.0)
    assert (policy.max_connections_per_client, policy.client_share) == (0, 0.25)
    assert (policy.client_prefix_v4, policy.client_prefix_v6) == (32, 64)
    assert (policy.max_buffer_bytes, policy.min_idle_before_evict) == (64 << 20, 0.0)
    assert policy.min_rate_when_full == 4096
    assert (policy.pressure_start, policy.pressure_full) == (0.85, 0.95)
    assert (policy.when_full, policy.retry_after) == ("wait", 1)
    assert (policy.drain_lame_duck, policy.drain_grace, policy.drain_spread, policy.drain_timeout) == (
        0,
        2,
        1,
        25,
    )


def test_the_limits_of_a_request_are_those_of_the_parser():
    assert Policy().limits() == kacore.Limits()
    limits = Policy(max_headers=7, max_body_bytes=0).limits()
    assert limits == kacore.Limits(max_headers=7, max_body_bytes=(1 << 63) - 1)
    names = [name for name in dir(kacore.Limits) if name.startswith("max_")]
    for extreme in ("low", "high"):  # whatever Policy takes, Limits takes
        values = {name: int(getattr(FIELDS[name], extreme)) for name in names}
        Policy(**values, max_buffer_bytes=1 << 30).limits()


def test_max_connections_leaves_descriptors_for_the_rest(need, monkeypatch):
    resource = need("module:resource")
    for hard, expected in ((1024, 960), (1_048_576, 10_000), (resource.RLIM_INFINITY, 10_000), (20, 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda _which, hard=hard: (20, hard))  # a server raises the soft one
        assert default_max_connections() == expected
        assert Policy().max_connections == expected


@pytest.mark.parametrize("name", FIELDS)
def test_every_default_passes_its_own_check(name):
    what = FIELDS[name]
    assert what.check(what.make_default()) == what.make_default()
    assert Policy(**{name: what.make_default()}) == Policy()


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_says_what_it_is_and_why(name):
    what = FIELDS[name]
    assert what.doc.endswith(".")
    assert what.reason.endswith(".")
    assert what.scope in ("worker", "connection", "request")


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), None, [], b"1", 1 << 70])
def test_a_wrong_value_names_the_field_the_value_and_the_rule(name, value):
    with pytest.raises(PolicyError) as raised:
        Policy(**{name: value})
    assert str(raised.value).startswith(f"{name}={value!r}: must be ")
    assert raised.value.field == name
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("name", [name for name, what in FIELDS.items() if what.kind in (int, float)])
def test_a_boolean_is_not_a_number(name):
    with pytest.raises(PolicyError, match=name):
        Policy(**{name: True})


@pytest.mark.parametrize("name", [name for name, what in FIELDS.items() if what.kind is int])
def test_a_count_is_whole(name):
    with pytest.raises(PolicyError, match="must be an integer"):
        Policy(**{name: 100.0})


@pytest.mark.parametrize("name", TIMES)
def test_a_time_may_be_written_as_a_whole_number(name):
    others = {"keep_alive_min": 3} if name == "keep_alive_max" else {}
    assert type(getattr(Policy(**{name: 3, **others}), name)) is float


def test_a_keep_alive_timeout_of_zero_points_to_keep_alive():
    with pytest.raises(PolicyError, match=r"keep_alive_timeout=0: must be .* above 0 .*set keep_alive to false"):
        Policy(keep_alive_timeout=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"pressure_start": 0.9, "pressure_full": 0.8},
            "pressure_start=0.9 does not go with pressure_full=0.8",
        ),
        (
            {"max_connections": 10, "max_connections_per_client": 11},
            "max_connections_per_client=11 does not go with max_connections=10",
        ),
        (
            {"max_head_bytes": 131_072, "max_buffer_bytes": 65_536},
            "max_head_bytes=131072 does not go with max_buffer_bytes=65536",
        ),
        ({"request_body_timeout": 0}, "min_request_body_rate=240 does not go with request_body_timeout=0"),
        ({"send_timeout": 0}, "min_send_rate=240 does not go with send_timeout=0"),
    ],
)
def test_an_impossible_combination_names_both_fields(values, message):
    with pytest.raises(PolicyError) as raised:
        Policy(**values)
    assert message in str(raised.value)
    assert raised.value.field


def test_no_limit_for_a_gap_and_its_rate_go_together():
    policy = Policy(request_body_timeout=0, min_request_body_rate=0, send_timeout=0, min_send_rate=0)
    assert policy.send_timeout == 0


def test_an_unknown_field_is_refused_with_the_nearest_name():
    with pytest.raises(TypeError, match="unknown name 'keepalive_timeout'; did you mean 'keep_alive_timeout'"):
        Policy(keepalive_timeout=5)


def test_a_policy_is_immutable_and_compares_by_value():
    policy = Policy(keep_alive_timeout=5)
    with pytest.raises(AttributeError, match="immutable"):
        policy.keep_alive_timeout = 6
    with pytest.raises(AttributeError, match="immutable"):
        del policy.keep_alive
    with pytest.raises(AttributeError):
        policy.something_new = 1
    assert policy == Policy(keep_alive_timeout=5.0) != Policy()
    assert policy != 5
    assert hash(policy) == hash(Policy(keep_alive_timeout=5))
    assert pickle.loads(pickle.dumps(policy)) == copy.deepcopy(policy) == policy
    assert repr(policy) == "Policy(keep_alive_timeout=5.0)"
    assert policy.replace(advertise=False).changes() == {"keep_alive_timeout": 5.0, "advertise": False}
    assert kacore.Policy is Policy


def test_the_signature_shows_every_field_with_type_and_default():
    parameters = inspect.signature(Policy).parameters
    assert list(parameters) == list(FIELDS)
    assert parameters["keep_alive_timeout"].default == "auto"
    assert parameters["keep_alive_timeout"].annotation == "float | Literal['auto']"
    assert parameters["keep_alive_min"].default == 75.0
    assert parameters["keep_alive_min"].annotation == "float"


def test_replace_checks_again():
    with pytest.raises(PolicyError, match="pressure_start"):
        Policy().replace(pressure_start=0.96)


@given(st.sampled_from([n for n, w in FIELDS.items() if w.kind is float]), st.floats())
def test_a_float_is_kept_exactly_or_refused(name, value):
    what = FIELDS[name]
    allowed = what.low <= value <= what.high and not (what.is_open and value == what.low)
    try:
        kept = what.check(value)
    except PolicyError:
        assert not allowed
    else:
        assert allowed
        assert kept == value


@given(st.sampled_from([n for n, w in FIELDS.items() if w.kind is int]), st.integers())
def test_an_integer_is_kept_exactly_or_refused(name, value):
    what = FIELDS[name]
    try:
        kept = what.check(value)
    except PolicyError:
        assert not what.low <= value <= what.high
    else:
        assert what.low <= value <= what.high
        assert kept == value


@given(st.sampled_from(list(FIELDS)), st.text(max_size=12))
def test_any_text_is_read_or_refused_by_name(name, text):
    what = FIELDS[name]
    try:
        kept = what.parse(text)
    except PolicyError:  # any other exception is a bug
        return
    assert what.check(kept) == kept


def test_text_reads_as_values():
    assert FIELDS["keep_alive"].parse(" Yes ") is True
    assert FIELDS["keep_alive"].parse("off") is False
    assert FIELDS["max_buffer_bytes"].parse("64MiB") == 64 << 20
    assert FIELDS["max_body_bytes"].parse("2GiB") == 2 << 30
    assert FIELDS["keep_alive_timeout"].parse("2.5") == 2.5
    assert FIELDS["when_full"].parse("reject") == "reject"
    for name, text in (("keep_alive_timeout", "5s"), ("linger_bytes", "xKiB"), ("max_headers", "1.5")):
        with pytest.raises(PolicyError, match=name):
            FIELDS[name].parse(text)
