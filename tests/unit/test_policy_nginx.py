"""Reading nginx's configuration: what each directive becomes, in which scope, and what the report says."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kacore.policy import PolicyError, PolicySet, Rule, read_nginx
from kacore.policy.readers.nginx import listen_address, seconds


def changes(directive):
    return read_nginx("http {\n" + directive + "\n}").policy().changes()


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


def test_no_directory_for_temporary_files_is_needed(monkeypatch):
    """A container's root may be read-only."""
    import os
    import tempfile

    if not hasattr(os, "memfd_create"):
        pytest.skip("this system has no files in memory")
    monkeypatch.setattr(tempfile, "_get_default_tempdir", lambda: "/nowhere")
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert changes("keepalive_timeout 65;") == {"keep_alive_timeout": 65.0}
    with pytest.raises(PolicyError, match=r"^nginx:\d: [^/]*$"):
        changes("}}")


def test_directives_outside_of_http():
    text = "worker_shutdown_timeout 10s;\nevents { worker_connections 768; }"
    assert read_nginx(text).policy().changes() == {"drain_timeout": 10.0, "max_connections": 768}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("keepalive_timeout soon;", "'soon' is not a time"),
        ("keepalive_timeout;", "too few arguments"),
        ("keepalive_requests -1;", "'-1' is not an integer"),
        ("keepalive_time 0;", "no time at all"),
        ("keepalive_disable opera;", "must be none, msie6 or safari"),
        ("client_max_body_size 1x;", "'1x' is not a size"),
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
    reading = read_nginx(text)
    policies = reading.policy_set()
    assert policies == PolicySet()
    assert not reading.report[0].is_taken
    assert reason in str(reading.report[0])


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
    policies = read_nginx(SERVERS).policy_set()
    assert policies.default.changes() == {"keep_alive_timeout": 30.0}
    assert policies.rules == (
        Rule(host=["a.example", "b.example", "*.b.example"], keep_alive_timeout=5, advertise=True),
        Rule(listener=["127.0.0.1:8080", "unix:/run/a.sock"], send_timeout=5),
    )


NAMELESS = """
server { listen 80; server_name a.example; }
server { listen 80; server_name ~^img\\d+; client_max_body_size 1k; }
server { listen 8080; server_name b.example; client_max_body_size 2k; }
server { listen 8080 default_server; listen [::]:8080 default_server; listen 80; server_name _; client_max_body_size 3k; }
server { listen 127.0.0.1:8080; client_max_body_size 4k; }
"""


def test_a_server_without_a_name_has_what_no_name_asks_for():
    reading = read_nginx(NAMELESS)
    policies = reading.policy_set()
    assert policies.rules == (
        Rule(host="a.example"),
        Rule(host="b.example", max_body_bytes=2048),
        Rule(listener="127.0.0.1:8080", max_body_bytes=4096),
        Rule(listener=":8080", max_body_bytes=3072),
    )

    def limit(listener, host):
        accepted = policies.class_for_client(listener, "198.51.100.1")
        return policies.policies[policies.class_for_request(accepted, host, None)].max_body_bytes

    assert limit("0.0.0.0:80", "img7") == limit("0.0.0.0:80", "a.example") == limit("0.0.0.0:8080", "a.example") == 1 << 30
    assert limit("0.0.0.0:8080", "b.example") == 2048
    assert limit("0.0.0.0:8080", "x.example") == 3072
    assert limit("127.0.0.1:8080", "x.example") == 4096
    report = [str(line) for line in reading.report]
    assert "; at :80 requests for unknown names go to nginx:2" in report[3]
    assert report[3].startswith("nginx:3: server: not taken: not as ~^img")
    assert "client_max_body_size 1k: not taken: inside server" in report[6]
    assert any(
        "taken: listener :8080; for requests whose Host has no rule; at :80 requests for unknown names go to nginx:2" in line
        for line in report
    )


def test_exact_names_go_before_patterns_and_longer_patterns_before_shorter_ones():
    text = """
server { server_name *.example; client_max_body_size 1k; }
server { server_name *.a.example; client_max_body_size 2k; }
server { server_name www.a.example; }
"""
    assert read_nginx(text).policy_set().rules == (
        Rule(host="www.a.example"),
        Rule(host="*.a.example", max_body_bytes=2048),
        Rule(host="*.example", max_body_bytes=1024),
    )


def test_a_pattern_of_browsers_buys_nobody_looser_limits_than_the_listener_s():
    text = """
keepalive_disable msie6;
server { listen 80; server_name a.example; }
server { listen 8080; client_max_body_size 1k; }
"""
    policies = read_nginx(text).policy_set()
    agent = "Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1)"
    accepted = policies.class_for_client("0.0.0.0:8080", "198.51.100.1")
    assert policies.policies[policies.class_for_request(accepted, "x.example", agent)].max_body_bytes == 1024
    assert not policies.policies[policies.class_for_request(accepted, "a.example", agent)].keep_alive
    assert not policies.policies[policies.class_for_request(0, "x.example", agent)].keep_alive
    assert policies.policies[policies.class_for_request(0, "a.example", "curl/8")].keep_alive


def test_files_that_include_each_other_s_folder_are_not_read_a_million_times(tmp_path):
    for here, there in (("a", "b"), ("b", "a")):
        (tmp_path / here).mkdir()
        for name in ("1.conf", "2.conf"):
            (tmp_path / here / name).write_text(f"include {there}/*;\n")
    report = read_nginx("include a/*;", base=str(tmp_path)).report
    assert len(report) < 60
    (deepest,) = [line.why for line in report if "nested deeper than 20" in line.why]
    assert deepest.endswith(f"nginx:1 > {tmp_path}/a/1.conf:1 > {tmp_path}/b/1.conf:1 > {tmp_path}/a/1.conf:1 > ...")


def test_sixty_four_sites_that_set_nothing_are_no_reason_to_refuse():
    sites = "".join(f"server {{ listen 80; server_name s{i}.example; }}\n" for i in range(70))
    policies = read_nginx(sites + "server { listen 8080; client_max_body_size 1k; }").policy_set()
    assert [len(rule.host) for rule in policies.rules] == [70, 0]


def test_every_directive_is_in_the_report_in_order():
    report = read_nginx(SERVERS).report
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
    policies = read_nginx("http { keepalive_disable msie6 safari; }").policy_set()
    policy_class = policies.class_for_request(0, "a.example", agent)
    assert policies.policies[policy_class].keep_alive is not matches


def test_keepalive_disable_none_makes_no_rule():
    assert read_nginx("http { keepalive_disable none; }").policy_set().rules == ()


def test_includes_are_followed_from_the_base(tmp_path):
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.conf").write_text("keepalive_timeout 9;\n")
    (tmp_path / "loop.conf").write_text("include loop.conf;\n")
    reading = read_nginx("http { include conf.d/*.conf; }", base=str(tmp_path))
    policy = reading.policy()
    assert policy.keep_alive_timeout == 9
    assert reading.report[-1].place == f"{tmp_path}/conf.d/a.conf:1"
    assert "nested deeper than 20" in str(read_nginx("include loop.conf;", base=str(tmp_path)).report[-1])


@pytest.mark.parametrize("text", ["http {\n keepalive_timeout 5;", "http { } }", 'http { a "b'])
def test_malformed_syntax_is_an_error_with_its_place(text):
    with pytest.raises(PolicyError, match=r"^nginx:\d+: unexpected"):
        read_nginx(text).policy()


def test_without_the_extra_one_sentence_says_which(monkeypatch):
    monkeypatch.setitem(sys.modules, "crossplane", None)
    with pytest.raises(ImportError, match=r"needs crossplane: pip install 'kacore\[nginx\]'"):
        read_nginx("").policy()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("75", 75), ("1h30m", 5400), ("1h 30m", 5400), ("500ms", 0.5), ("1d", 86_400), ("1M", 2_592_000)],
)
def test_times_are_read_as_nginx_does(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "s", "1x", "-1", "1.5"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="not a time"):
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
        reading = read_nginx(text)
        reading.policy_set()
    except PolicyError:
        return
    assert all(str(line).isprintable() for line in reading.report)
