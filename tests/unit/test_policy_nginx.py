"""Reading nginx's configuration: what each directive becomes, in which scope, and what the report says."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kacore.policy import Policy, PolicyError, PolicySet, Rule
from kacore.policy.nginx import listen_address, seconds


def changes(directive):
    return Policy.from_nginx("http {\n" + directive + "\n}").changes()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("keepalive_timeout 65;", {"keep_alive_timeout": 65.0}),
        ("keepalive_timeout 1m;", {"keep_alive_timeout": 60.0}),
        ("keepalive_timeout 65s 60s;", {"keep_alive_timeout": 65.0, "advertise_margin": 5.0}),
        ("keepalive_timeout 65 65;", {"keep_alive_timeout": 65.0, "advertise_margin": 0.0}),
        ("keepalive_timeout 65 0;", {"keep_alive_timeout": 65.0, "advertise": False}),
        ("keepalive_timeout 65 90;", {"keep_alive_timeout": 65.0}),
        ("keepalive_timeout 0;", {"keep_alive": False}),
        ("keepalive_requests 1000;", {"max_keep_alive_requests": 1000}),
        ("keepalive_requests 0;", {"keep_alive": False}),
        ("keepalive_time 30m;", {"max_connection_age": 1800.0}),
        ("keepalive_min_timeout 5s;", {"min_idle_before_evict": 5.0, "drain_grace": 5.0}),
        (
            "client_header_timeout 12s;",
            {"handshake_timeout": 12.0, "first_byte_timeout": 12.0, "request_header_timeout": 12.0},
        ),
        ("client_body_timeout 12s;", {"request_body_timeout": 12.0}),
        ("send_timeout 500ms;", {"send_timeout": 0.5}),
        ("lingering_timeout 5s;", {"linger_timeout": 5.0}),
        ("lingering_time 10s;", {"linger_time": 10.0}),
        (
            "limit_conn addr 10; limit_conn_zone $binary_remote_addr zone=addr:10m;",
            {"max_connections_per_client": 10},
        ),
        ("client_max_body_size 8m;", {"max_body_bytes": 8 << 20}),
        ("client_max_body_size 0;", {"max_body_bytes": 0}),
        (
            "large_client_header_buffers 2 4k;",
            {"max_head_bytes": 8192, "max_target_bytes": 4096, "max_header_bytes": 4096},
        ),
        ("max_headers 50;", {"max_headers": 50}),
    ],
)
def test_a_directive_becomes_its_fields(text, expected):
    assert changes(text) == expected


def test_directives_outside_of_http():
    text = "worker_shutdown_timeout 10s;\nevents { worker_connections 768; }"
    assert Policy.from_nginx(text).changes() == {"drain_timeout": 10.0, "max_connections": 768}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("keepalive_timeout soon;", "'soon' is no time"),
        ("keepalive_timeout;", "too few arguments"),
        ("keepalive_requests -1;", "'-1' is no whole number"),
        ("keepalive_time 0;", "no time at all"),
        ("keepalive_disable opera;", "must be none, msie6 or safari"),
        ("client_max_body_size 1x;", "'1x' is no size"),
        ("send_timeout 0;", "no time at all"),
        ("lingering_close off;", "always on"),
        ("lingering_timeout 5m;", "linger_timeout=300.0: must be"),
        ("limit_conn addr 10;", "zone addr counts by an unknown key"),
        ("root /var/www;", "no directive that kacore reads"),
        ("include conf.d/*.conf;", "not followed"),
        ("include /nowhere/at/all;", "no such file"),
        ("upstream backend { keepalive 5; }", "no directive that kacore reads"),
        ("server { keepalive_timeout 5; }", "neither a site"),
        ("server { server_name _; keepalive_timeout 5; }", "neither a site"),
        ("server { listen 80; listen nonsense:; }", "must be 'address:port'"),
    ],
)
def test_what_is_not_taken_has_a_reason_and_changes_nothing(text, reason):
    policies = PolicySet.from_nginx(text)
    assert policies == PolicySet()
    assert not policies.report[0].is_taken
    assert reason in str(policies.report[0])


SERVERS = """
http {
    keepalive_timeout 30;
    server {
        listen 80;
        server_name a.example .b.example ~^c mail.*;
        keepalive_timeout 5 4;
        client_header_timeout 5;
        location /long { keepalive_timeout 0; }
    }
    server {
        listen 127.0.0.1:8080;
        listen unix:/run/a.sock;
        server_name "";
        send_timeout 5;
        limit_conn addr 5;
    }
    limit_conn_zone $binary_remote_addr zone=addr:1m;
}
"""


def test_servers_become_rules():
    policies = PolicySet.from_nginx(SERVERS)
    assert policies.default.changes() == {"keep_alive_timeout": 30.0}
    assert policies.rules == (
        Rule(listener=["127.0.0.1:8080", "unix:/run/a.sock"], send_timeout=5),
        Rule(host=["a.example", "b.example", "*.b.example"], keep_alive_timeout=5, advertise=True),
    )


def test_every_directive_is_in_the_report_in_order():
    report = PolicySet.from_nginx(SERVERS).report
    assert [line.line for line in report] == [2, 3, 4, 5, 6, 7, 8, 9, 9, 11, 12, 13, 14, 15, 16, 18]
    text = [str(line) for line in report]
    assert text[1] == "nginx:3: keepalive_timeout 30: taken: keep_alive_timeout=30"
    assert "not as ~^c, mail.*" in text[2]
    assert "less the advertise_margin of all" in text[5]
    assert "handshake_timeout cannot depend on the site" in text[6]
    assert text[8] == "nginx:9: keepalive_timeout 0: not taken: inside location /long"
    assert "max_connections_per_client is one number for a whole worker" in text[14]


@pytest.mark.parametrize(
    ("agent", "matches"),
    [
        ("Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1)", True),
        ("Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1; SV1)", False),
        ("Mozilla/4.0 (compatible; MSIE 5.5; Windows NT 5.0)", True),
        ("Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 6.0)", False),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15) AppleWebKit/605 Version/13 Safari/605", True),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15) AppleWebKit/537 Chrome/100 Safari/537", False),
        ("curl/8", False),
    ],
)
def test_keepalive_disable_knows_its_browsers(agent, matches):
    policies = PolicySet.from_nginx("http { keepalive_disable msie6 safari; }")
    klass = policies.class_for_request(0, "a.example", agent)
    assert policies.policies[klass].keep_alive is not matches


def test_keepalive_disable_none_makes_no_rule():
    assert PolicySet.from_nginx("http { keepalive_disable none; }").rules == ()


def test_includes_are_followed_from_the_base(tmp_path):
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.conf").write_text("keepalive_timeout 9;\n")
    (tmp_path / "loop.conf").write_text("include loop.conf;\n")
    policy = Policy.from_nginx("http { include conf.d/*.conf; }", base=str(tmp_path))
    assert policy.keep_alive_timeout == 9
    assert policy.report[-1].place == f"{tmp_path}/conf.d/a.conf:1"
    assert "nested deeper than 20" in str(Policy.from_nginx("include loop.conf;", base=str(tmp_path)).report[-1])


@pytest.mark.parametrize("text", ["http {\n keepalive_timeout 5;", "http { } }", 'http { a "b'])
def test_malformed_syntax_is_an_error_with_its_place(text):
    with pytest.raises(PolicyError, match=r"^nginx:\d+: unexpected"):
        Policy.from_nginx(text)


def test_without_the_extra_one_sentence_says_which(monkeypatch):
    monkeypatch.setitem(sys.modules, "crossplane", None)
    with pytest.raises(ImportError, match=r"needs crossplane: pip install 'kacore\[nginx\]'"):
        Policy.from_nginx("")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("75", 75), ("1h30m", 5400), ("1h 30m", 5400), ("500ms", 0.5), ("1d", 86_400), ("1M", 2_592_000)],
)
def test_times_are_read_as_nginx_does(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "s", "1x", "-1", "1.5"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="no time"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("80", ":80"), ("10.0.0.1", "10.0.0.1:80"), ("[::]:8080", "[::]:8080"), ("[::1]", "[::1]:80")],
)
def test_half_an_address_gets_its_other_half(text, expected):
    assert listen_address(text) == expected


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab ;{}\"'\\\n\t#$é\x00"), max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        policies = PolicySet.from_nginx(text)
    except PolicyError:
        return
    assert all(str(line).isprintable() for line in policies.report)
