"""Rule and PolicySet: which rule wins, what a rule may set, how its keys match."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kacore.policy import Policy, PolicyError, PolicySet, Rule
from kacore.policy.rules import CACHED_KEYS

REQUEST_FIELDS = {
    "keep_alive",
    "keep_alive_timeout",
    "max_keep_alive_requests",
    "advertise",
    "request_body_timeout",
    "min_request_body_rate",
    "max_body_bytes",
    "handler_timeout",
}


def other_value(name):
    """A value that is allowed and no default."""
    what = Policy.__fields__[name]
    default = what.make_default()
    if what.kind is bool:
        return not default
    if what.kind is str:
        return next(choice for choice in what.choices if choice != default)
    return what.high if default != what.high else what.low + 1


def test_without_rules_there_is_one_class():
    policies = PolicySet()
    assert policies.policies == (Policy(),)
    assert policies.class_for_client("127.0.0.1:80", "10.0.0.1") == 0
    assert policies.class_for_request(0, "example.com", "curl") == 0
    assert not policies.has_accept_rules
    assert not policies.has_request_rules


def test_the_first_matching_rule_wins_whole():
    policies = PolicySet(
        Policy(keep_alive_timeout=60),
        [
            Rule(host="a.example", keep_alive_timeout=5),
            Rule(host=["a.example", "b.example"], max_keep_alive_requests=10),
        ],
    )
    assert policies.class_for_request(0, "a.example", None) == 1
    assert policies.class_for_request(0, "b.example", None) == 2
    assert policies.class_for_request(0, "c.example", None) == 0
    assert policies.policies[1] == Policy(keep_alive_timeout=5)
    assert policies.policies[2] == Policy(keep_alive_timeout=60, max_keep_alive_requests=10)


def test_an_accept_rule_wins_over_later_request_rules_only():
    policies = PolicySet(
        rules=[
            Rule(host="first.example", keep_alive_timeout=1),
            Rule(client="10.0.0.0/8", keep_alive_timeout=2),
            Rule(host="second.example", keep_alive_timeout=3),
        ]
    )
    inside = policies.class_for_client("127.0.0.1:80", "10.1.2.3")
    outside = policies.class_for_client("127.0.0.1:80", "192.0.2.1")
    assert (inside, outside) == (2, 0)
    assert policies.class_for_request(inside, "first.example", None) == 1
    assert policies.class_for_request(inside, "second.example", None) == 2
    assert policies.class_for_request(outside, "second.example", None) == 3


def test_all_keys_of_a_rule_must_match():
    policies = PolicySet(
        rules=[
            Rule(listener="127.0.0.1:81", client="10.0.0.0/8", keep_alive=False),
            Rule(host="a.example", user_agent="MSIE", keep_alive=False),
        ]
    )
    assert policies.class_for_client("127.0.0.1:81", "10.0.0.1") == 1
    assert policies.class_for_client("127.0.0.1:80", "10.0.0.1") == 0
    assert policies.class_for_client("127.0.0.1:81", "11.0.0.1") == 0
    assert policies.class_for_request(0, b"a.example", b"MSIE 6") == 2
    assert policies.class_for_request(0, b"a.example", None) == 0
    assert policies.class_for_request(0, b"b.example", b"MSIE 6") == 0


@pytest.mark.parametrize("name", Policy.__fields__)
def test_what_the_client_writes_sets_only_what_it_may_choose(name):
    changes = {name: other_value(name)}
    for keys in ({"host": "a.example"}, {"user_agent": "curl"}):
        if name in REQUEST_FIELDS:
            assert Rule(**keys, **changes).changes == changes
        else:
            with pytest.raises(PolicyError, match=rf"rule .*: {name}="):
                Rule(**keys, **changes)


@pytest.mark.parametrize("name", Policy.__fields__)
def test_what_is_known_at_accept_sets_all_but_the_numbers_of_the_worker(name):
    changes = {name: other_value(name)}
    for keys in ({"listener": ":80"}, {"client": "10.0.0.0/8"}):
        if Policy.__fields__[name].scope == "worker":
            with pytest.raises(PolicyError, match="one number for a whole worker"):
                Rule(**keys, **changes)
        else:
            assert Rule(**keys, **changes).changes == changes


def test_a_rule_says_what_is_wrong_with_it():
    for keys, message in (
        ({}, "needs a key"),
        ({"host": "a.example", "client": "10.0.0.0/8"}, "make it two rules"),
        ({"client": "10.0.0.0/33"}, "client='10.0.0.0/33': must be an address or a network"),
        ({"client": "10.0.0.1/8"}, "has host bits set"),
        ({"listener": "localhost"}, "listener='localhost': must be"),
        ({"host": "www.*"}, "host='www.*': must be a name"),
        ({"host": "a b"}, "must be a name"),
        ({"host": ""}, "non-empty"),
        ({"user_agent": "("}, "must be a regular expression"),
        ({"host": [1]}, "non-empty str"),
    ):
        with pytest.raises(PolicyError) as raised:
            Rule(**keys)
        assert message in str(raised.value)
    with pytest.raises(PolicyError, match=r"rule 'host a.example': keep_alive_timeout=0: must be"):
        Rule(host="a.example", keep_alive_timeout=0)
    with pytest.raises(TypeError, match="did you mean 'keep_alive'"):
        Rule(host="a.example", keepalive=True)


def test_a_combination_that_only_the_default_makes_impossible_names_the_rule():
    rule = Rule(host="a.example", request_body_timeout=0)
    with pytest.raises(PolicyError, match=r"rule 'host a\.example': min_request_body_rate=240"):
        PolicySet(Policy(), [rule])
    assert PolicySet(Policy(min_request_body_rate=0), [rule]).policies[1].request_body_timeout == 0


def test_there_are_at_most_64_classes():
    rules = [Rule(host=f"site{i}.example", keep_alive=False) for i in range(64)]
    policies = PolicySet(rules=rules[:63])
    assert len(policies.policies) == 64
    assert policies.class_for_request(0, "site62.example", None) == 63
    with pytest.raises(PolicyError, match="64 rules: must be at most 63"):
        PolicySet(rules=rules)


@pytest.mark.parametrize(
    ("pattern", "host", "matches"),
    [
        ("example.com", "example.com", True),
        ("Example.COM.", b"eXample.com:8080", True),
        ("example.com", "example.com.", True),
        ("example.com", "www.example.com", False),
        ("example.com", "notexample.com", False),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("[::1]", "[::1]:80", True),
        ("example.com", None, False),
        ("example.com", b"\xff\xfe", False),
        ("example.com", "", False),
    ],
)
def test_hosts_match_by_name(pattern, host, matches):
    policies = PolicySet(rules=[Rule(host=pattern, keep_alive=False)])
    assert policies.class_for_request(0, host, None) == int(matches)
    assert policies.class_for_request(0, host, None) == int(matches)  # from the cache


@pytest.mark.parametrize(
    ("network", "address", "matches"),
    [
        ("10.0.0.0/8", "10.255.0.1", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.0.0.0/8", b"\x0a\0\0\1", True),
        ("10.0.0.0/8", "::ffff:10.0.0.1", True),
        ("0.0.0.0/0", "::1", False),
        ("2001:db8::/32", "2001:db8:1::2", True),
        ("2001:db8::/32", "2001:db9::", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("192.0.2.1", "192.0.2.1", True),
        ("0.0.0.0/0", None, False),
        ("0.0.0.0/0", "no address", False),
        ("0.0.0.0/0", b"abc", False),
        ("0.0.0.0/0", "1.2.3.4\0", False),
    ],
)
def test_networks_match_addresses(network, address, matches):
    policies = PolicySet(rules=[Rule(client=network, keep_alive=False)])
    assert policies.class_for_client(":80", address) == int(matches)


@pytest.mark.parametrize(
    ("pattern", "listener", "matches"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        (":80", "127.0.0.1:80", True),
        ("*:80", "[::1]:80", True),
        ("0.0.0.0:80", "0.0.0.0:80", True),
        ("127.0.0.1:80", "0.0.0.0:80", False),
        ("unix:/run/a.sock", "/run/a.sock", True),
        (":80", "unix:/run/a:80", False),
        (":80", "nonsense", False),
        (":80", "", False),
    ],
)
def test_listeners_match_by_address_and_port(pattern, listener, matches):
    policies = PolicySet(rules=[Rule(listener=pattern, keep_alive=False)])
    assert policies.class_for_client(listener, None) == int(matches)


def test_a_user_agent_is_searched_in_its_first_512_bytes():
    policies = PolicySet(rules=[Rule(user_agent=["MSIE [456]", "(?i)oldbot"], keep_alive=False)])
    assert policies.class_for_request(0, None, "Mozilla/4.0 (compatible; MSIE 6.0)") == 1
    assert policies.class_for_request(0, None, b"OLDBOT/1") == 1
    assert policies.class_for_request(0, None, b"x" * 600 + b"oldbot") == 0
    assert policies.class_for_request(0, None, None) == 0


def test_a_flood_of_names_is_forgotten_again():
    policies = PolicySet(rules=[Rule(host="*.example", user_agent="x", keep_alive=False)])
    for i in range(5 * CACHED_KEYS):
        assert policies.class_for_request(0, f"h{i}.example", f"x{i}") == 1
    policies.class_for_request(0, "h.example" * 1000, "x" * 10_000)
    for memo in (policies._host_mask, policies._user_agent_mask):
        kept = [*memo._young, *memo._old]
        assert len(kept) <= 2 * CACHED_KEYS
        assert max(map(len, kept)) <= 256


def model_class(rules, accept_class, host, agent):
    """The rule of the documentation, one rule after the other."""
    for number, rule in enumerate(rules, 1):
        if number == accept_class:
            return number
        if not rule.is_request_rule:
            continue
        if (not rule.host or host in rule.host) and (not rule.user_agent or agent in rule.user_agent):
            return number
    return accept_class


words = st.sampled_from(["a", "b", "c"])
keys = st.one_of(
    st.fixed_dictionaries({"client": st.sampled_from(["10.0.0.0/8", "192.0.2.0/24"])}),
    st.fixed_dictionaries({"host": st.lists(words, min_size=1, max_size=2)}, optional={"user_agent": words}),
    st.fixed_dictionaries({"user_agent": words}),
)


@settings(max_examples=200)
@given(st.lists(keys, max_size=8), st.sampled_from(["10.1.1.1", "192.0.2.9", "::1", None]), words, words)
def test_the_masks_find_what_trying_one_rule_after_the_other_finds(given_keys, address, host, agent):
    rules = [Rule(**key, keep_alive=False) for key in given_keys]
    policies = PolicySet(rules=rules)
    expected = next(
        (n for n, rule in enumerate(rules, 1) if rule.client and address and rule.client[0][:2] == address[:2]),
        0,
    )
    accepted = policies.class_for_client(":80", address)
    assert accepted == expected
    assert policies.class_for_request(accepted, host, agent) == model_class(rules, accepted, host, agent)


def test_rules_and_sets_are_values():
    rule = Rule(host="a.example", keep_alive=False)
    policies = PolicySet(Policy(advertise=False), [rule])
    assert pickle.loads(pickle.dumps(policies)) == policies
    assert hash(rule) == hash(Rule(host=["A.example"], keep_alive=False))
    assert eval(repr(policies), {"PolicySet": PolicySet, "Policy": Policy, "Rule": Rule}) == policies
    assert policies.replace_default(advertise=True).policies[1] == Policy(keep_alive=False)
    with pytest.raises(AttributeError, match="immutable"):
        rule.host = ()
    with pytest.raises(AttributeError, match="immutable"):
        policies.rules = ()
