"""Reading Apache's configuration: what each directive becomes, in which scope, and what the report says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacore.policy import Policy, PolicyError, PolicySet, Rule
from kacore.policy.apache import parse, read, split


def changes(text):
    return Policy.from_apache(text).changes()


def lines(text, **more):
    return [str(line) for line in PolicySet.from_apache(text, **more).report]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("KeepAlive Off", {"keep_alive": False}),
        ("keepalive on", {}),
        ("KeepAliveTimeout 15", {"keep_alive_timeout": 15.0}),
        ("KeepAliveTimeout 250ms", {"keep_alive_timeout": 0.25}),
        ("KeepAliveTimeout 2min", {"keep_alive_timeout": 120.0}),
        ("KeepAliveTimeout 0", {"keep_alive": False}),
        ("MaxKeepAliveRequests 100", {"max_keep_alive_requests": 100}),
        ("MaxKeepAliveRequests 0", {}),
        ("TimeOut 45", {"send_timeout": 45.0, "request_body_timeout": 45.0}),
        ("RequestReadTimeout handshake=5", {"handshake_timeout": 5.0}),
        ("RequestReadTimeout header=10", {"first_byte_timeout": 10.0, "request_header_timeout": 10.0}),
        (
            "RequestReadTimeout header=10-40,MinRate=500",
            {"first_byte_timeout": 10.0, "request_header_timeout": 40.0},
        ),
        (
            "RequestReadTimeout body=10,MinRate=1000",
            {"request_body_timeout": 10.0, "min_request_body_rate": 1000, "rate_window": 10.0},
        ),
        ("RequestReadTimeout body=10", {"request_body_timeout": 10.0}),
        ("RequestReadTimeout body=0", {"request_body_timeout": 0.0, "min_request_body_rate": 0}),
        ("TimeOut 45\nRequestReadTimeout body=9", {"send_timeout": 45.0, "request_body_timeout": 9.0}),
        ("MaxRequestWorkers 400", {"max_connections": 1200}),
        ("MaxClients 100\nAsyncRequestWorkerFactor 1", {"max_connections": 200}),
        ("ThreadsPerChild 10", {"max_connections": 480}),
        ("ThreadsPerChild 10\nServerLimit 2\nAsyncRequestWorkerFactor 3", {"max_connections": 80}),
        ("LoadModule mpm_prefork_module x.so\nMaxRequestWorkers 150", {"max_connections": 150}),
        ("LoadModule mpm_worker_module x.so\nMaxRequestWorkers 150", {"max_connections": 150}),
        ("LimitRequestBody 1048576", {"max_body_bytes": 1_048_576}),
        ("LimitRequestBody 0", {"max_body_bytes": 0}),
        ("LimitRequestLine 4000", {"max_target_bytes": 4000}),
        ("LimitRequestFields 50", {"max_headers": 50}),
        ("LimitRequestFields 0", {"max_headers": 1024}),
        ("LimitRequestFieldSize 4000", {"max_header_bytes": 4000}),
        ("GracefulShutdownTimeout 10", {"drain_timeout": 10.0}),
        ("QS_SrvMaxConnPerIP 20", {"max_connections_per_client": 20}),
        ("Header set Connection close", {"keep_alive": False}),
        ("Header always unset Connection", {"advertise": False}),
        ("Header unset Keep-Alive", {"advertise": False}),
        ("Define T 7\nKeepAliveTimeout ${T}", {"keep_alive_timeout": 7.0}),
        ("KeepAliveTimeout \\\n  8", {"keep_alive_timeout": 8.0}),
        ("KeepAliveTimeout 8\r\nKeepAlive off\r\n", {"keep_alive_timeout": 8.0, "keep_alive": False}),
        ("KeepAliveTimeout 8\nKeepAliveTimeout 9", {"keep_alive_timeout": 9.0}),
    ],
)
def test_a_directive_becomes_its_fields(text, expected):
    assert changes(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("KeepAlive maybe", "'maybe' is neither On nor Off"),
        ("KeepAlive", "too few arguments"),
        ("KeepAliveTimeout 5 # s", "takes one argument"),
        ("KeepAliveTimeout -5", "'-5' is no time"),
        ("KeepAliveTimeout 99999999999", "must be a number of seconds"),
        ("MaxKeepAliveRequests many", "'many' is no whole number"),
        ("TimeOut 0", "no time at all"),
        ("RequestReadTimeout", "too few arguments"),
        ("RequestReadTimeout header=x", "is no stage=time"),
        ("GracefulShutdownTimeout 0", "a drain always ends"),
        ("Header set Keep-Alive timeout=5", "writes Keep-Alive itself"),
        ("Header set Connection upgrade", "only keep-alive and close"),
        ('Header set Connection close "expr=true"', "a condition"),
        ("Header edit Connection a b", "a condition"),
        ("Header echo Connection", "only set and unset"),
        ("Header set X-Frame-Options DENY", "no directive that kacore reads"),
        ("BrowserMatch ( nokeepalive", "must be a regular expression"),
        ("BrowserMatch MSIE force-response-1.0", "no directive that kacore reads"),
        ("BrowserMatch MSIE !nokeepalive", "cannot take back"),
        ("SetEnvIf Remote_Addr ^10 nokeepalive", "only User-Agent"),
        ("Use Macro 1", "macros are not expanded"),
        ("Listen 80", "arguments of kacore serve"),
        ("DocumentRoot /var/www", "no directive that kacore reads"),
        ("Include sites/*.conf", "not followed"),
        ("Include /nowhere/at/all/*.conf", "no such file"),
        ("<Directory />\nKeepAlive Off\n</Directory>", "whole sites only"),
        ("<IfModule !mod_headers.c>\nKeepAlive Off\n</IfModule>", "taken as false"),
        ("<IfModule mpm_prefork_module>\nMaxRequestWorkers 5\n</IfModule>", "taken as false"),
        ("<IfDefine DEV>\nKeepAlive Off\n</IfDefine>", "taken as false"),
        ("<VirtualHost *:80>\nKeepAlive Off\n</VirtualHost>", "neither a site"),
    ],
)
def test_what_is_not_taken_has_a_reason_and_changes_nothing(text, reason):
    policies = PolicySet.from_apache(text)
    assert policies == PolicySet()
    assert not any(line.is_taken for line in policies.report)
    assert reason in str(policies.report[0])


def test_every_directive_is_in_the_report_once_and_in_order():
    text = """# comment
KeepAlive On
<VirtualHost *:80>
  ServerName a.example
  DocumentRoot /var/www
  <Location /x>
    Header set Connection close
  </Location>
</VirtualHost>
TimeOut 30

MaxRequestWorkers 10
"""
    numbers = [line.line for line in PolicySet.from_apache(text).report]
    assert numbers == [2, 3, 4, 5, 6, 7, 10, 12]
    assert lines(text)[0] == "apache:2: KeepAlive On: taken: keep_alive=on"
    assert lines(text)[5] == "apache:7: Header set Connection close: not taken: inside <Location /x>"


def test_the_hundred_and_first_response_is_remarked():
    (line,) = Policy.from_apache("MaxKeepAliveRequests 100").report
    assert line.fields == {"max_keep_alive_requests": 100}
    assert line.why == "Apache gives 101 responses; here 100 means 100"


def test_the_snippet_that_is_copied_everywhere_turns_keep_alive_on():
    snippet = "<IfModule mod_headers.c>\n  Header set Connection keep-alive\n</IfModule>"
    (block, header) = Policy.from_apache(snippet).report
    assert block.is_taken
    assert header.fields == {"keep_alive": True}
    off = Policy.from_apache("KeepAlive Off\n" + snippet)
    assert not off.keep_alive
    assert "not taken: the field alone keeps nothing open" in str(off.report[-1])


def test_a_later_directive_wins_and_says_so():
    report = lines("KeepAliveTimeout 8\nKeepAliveTimeout 9")
    assert report[1].endswith("keep_alive_timeout=9; instead of keep_alive_timeout=8 of apache:1 KeepAliveTimeout 8")


SITES = """
KeepAliveTimeout 30
<VirtualHost *:80>
  ServerName a.example:80
  ServerAlias www.a.example *.a.example www.*
  KeepAliveTimeout 5
  RequestReadTimeout header=10 body=20,MinRate=100
  MaxRequestWorkers 10
</VirtualHost>
<VirtualHost *:80>
  ServerName https://b.example
  KeepAlive Off
</VirtualHost>
<VirtualHost 192.0.2.1:8080>
  RequestReadTimeout header=10
</VirtualHost>
"""


def test_virtual_hosts_become_rules():
    policies = PolicySet.from_apache(SITES)
    assert policies.default.changes() == {"keep_alive_timeout": 30.0, "max_connections": 30}
    assert policies.rules == (
        Rule(listener="192.0.2.1:8080", first_byte_timeout=10, request_header_timeout=10),
        Rule(
            host=["a.example", "www.a.example", "*.a.example"],
            keep_alive_timeout=5,
            request_body_timeout=20,
            min_request_body_rate=100,
        ),
        Rule(host="b.example", keep_alive=False, keep_alive_timeout=5),
    )


def test_what_a_site_cannot_have_is_in_the_report():
    report = lines(SITES)
    assert any("not as www.*" in line for line in report)
    assert any("first_byte_timeout cannot depend on the site, which the client names" in line for line in report)
    assert any("as in the first virtual host of the address" in line for line in report)


def test_the_same_site_on_two_ports_is_one_rule():
    text = """
<VirtualHost *:80>
  ServerName a.example
  KeepAliveTimeout 5
</VirtualHost>
<VirtualHost *:443>
  ServerName a.example
  ServerAlias www.a.example
  KeepAliveTimeout 6
</VirtualHost>"""
    policies = PolicySet.from_apache(text)
    assert policies.rules == (Rule(host=["a.example", "www.a.example"], keep_alive_timeout=6),)
    assert "one site with that of apache:2" in str(policies.report[3])
    assert "instead of keep_alive_timeout=5 of apache:4" in str(policies.report[6])


def test_browsers_without_keep_alive_come_before_the_sites():
    text = """
BrowserMatch "Mozilla/2" nokeepalive
BrowserMatchNoCase "msie 4\\.0b2;" nokeepalive downgrade-1.0
SetEnvIf User-Agent ^old nokeepalive=1
<VirtualHost *:80>
  ServerName a.example
  LimitRequestBody 10
</VirtualHost>
<VirtualHost *:80>
  ServerName b.example
  KeepAliveTimeout 5
</VirtualHost>"""
    policies = PolicySet.from_apache(text)
    agents = ("Mozilla/2", "(?i)msie 4\\.0b2;", "^old")
    assert policies.rules == (
        Rule(host="a.example", user_agent=agents, keep_alive=False, max_body_bytes=10),
        Rule(user_agent=agents, keep_alive=False),
        Rule(host="a.example", max_body_bytes=10),
        Rule(host="b.example", keep_alive_timeout=5),
    )
    klass = policies.class_for_request(0, "a.example", "x MSIE 4.0B2; y")
    assert policies.policies[klass].changes() == {"keep_alive": False, "max_body_bytes": 10}
    assert any("without downgrade-1.0" in str(line) for line in policies.report)


def test_a_pattern_inside_a_site_holds_for_that_site():
    text = "<VirtualHost *>\nServerName a.example\nBrowserMatch Old nokeepalive\n</VirtualHost>"
    policies = PolicySet.from_apache(text)
    assert policies.rules == (Rule(host="a.example", user_agent="Old", keep_alive=False),)


def test_htaccess_takes_only_what_apache_allows_there():
    rules = PolicySet.from_apache(
        "<VirtualHost *:80>\nServerName a.example\n</VirtualHost>",
        htaccess={
            "a.example": "Header unset Connection\nKeepAlive Off\nLimitRequestBody 5\nTimeOut 1",
            "b.example": "<IfModule mod_headers.c>\nHeader set Connection close\nTimeOut 5\n</IfModule>",
        },
    )
    assert rules.rules == (
        Rule(host="a.example", advertise=False, max_body_bytes=5),
        Rule(host="b.example", keep_alive=False),
    )
    refused = [str(line) for line in rules.report if not line.is_taken]
    assert [line.partition(":")[0] for line in refused] == ["a.example/.htaccess"] * 2 + ["b.example/.htaccess"]
    assert all("not allowed in .htaccess" in line for line in refused)


def test_includes_are_followed_from_the_base_or_the_server_root(tmp_path):
    (tmp_path / "mods").mkdir()
    (tmp_path / "mods" / "b.conf").write_text("KeepAliveTimeout 4\n")
    (tmp_path / "mods" / "a.conf").write_text("KeepAliveTimeout 3\nMaxKeepAliveRequests 9\n")
    for text, base in (
        ("Include mods/*.conf", str(tmp_path)),
        (f'ServerRoot "{tmp_path}"\nIncludeOptional mods/*.conf', None),
        (f"Include {tmp_path}/mods", None),
    ):
        policy = Policy.from_apache(text, base=base)
        assert policy.changes() == {"keep_alive_timeout": 4.0, "max_keep_alive_requests": 9}
        assert [line.place for line in policy.report][-1] == f"{tmp_path}/mods/b.conf:1"


def test_an_include_of_itself_ends(tmp_path):
    (tmp_path / "a.conf").write_text("Include a.conf\n")
    report = Policy.from_apache("Include a.conf", base=str(tmp_path)).report
    assert len(report) == 21
    assert "nested deeper than 20" in str(report[-1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("KeepAlive On\n<VirtualHost *>\n", "apache:2: <VirtualHost *>: is never closed"),
        ("<VirtualHost *>\n</Directory>", "apache:2: </Directory>: must be </virtualhost>"),
        ("</VirtualHost>", "apache:1: </VirtualHost>: must be no block to close"),
    ],
)
def test_a_block_that_does_not_close_is_an_error_with_its_place(text, message):
    with pytest.raises(PolicyError) as raised:
        Policy.from_apache(text)
    assert message in str(raised.value)


def test_values_that_do_not_go_together_are_an_error():
    with pytest.raises(PolicyError, match=r"max_connections_per_client=50 does not go with max_connections=30"):
        Policy.from_apache("MaxRequestWorkers 10\nQS_SrvMaxConnPerIP 50")


def test_words_are_split_as_apache_does():
    assert split(r"""a "b c" 'd "e"' "f \" g" MSIE\ 4\.0""") == [
        "a",
        "b c",
        'd "e"',
        'f " g',
        "MSIE\\",
        "4\\.0",
    ]


@given(st.text(alphabet=st.sampled_from("ab \\\"'\n\t<>/#=${}%\x00\x85é"), max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        tree = parse(text, "x")
    except PolicyError:
        return
    outcome = read(text)
    assert len(outcome.report) >= len(tree)
    assert all(str(line).isprintable() for line in outcome.report)
