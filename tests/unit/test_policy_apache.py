"""Reading Apache's configuration: what each directive becomes, in which scope, and what the report says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacore.policy import Policy, PolicyError, PolicySet, Rule, read_apache
from kacore.policy.readers.apache import parse, read, split
from kacore.policy.readers.reading import digest


def changes(text):
    return read_apache(text).policy().changes()


def lines(text, **more):
    return [str(line) for line in read_apache(text, **more).report]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("KeepAlive Off", {"keep_alive": False}),
        ("keepalive on", {}),
        ("KeepAliveTimeout 15", {"keep_alive_timeout": 15.0}),
        ("KeepAliveTimeout 250ms", {"keep_alive_timeout": 0.25}),
        ("KeepAliveTimeout 2min", {"keep_alive_timeout": 120.0}),
        ("KeepAliveTimeout 2minutes", {"keep_alive_timeout": 120.0}),
        ("KeepAliveTimeout 2seconds", {"keep_alive_timeout": 2.0}),
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
        ("LimitRequestFieldSize 65536", {"max_header_bytes": 65536, "max_head_bytes": 65536 + 8192 + 8192}),
        ("LimitRequestLine 40000", {"max_target_bytes": 40000, "max_head_bytes": 40000 + 16384 + 8192}),
        (
            "LimitRequestLine 40000\nLimitRequestFieldSize 40000",
            {"max_target_bytes": 40000, "max_header_bytes": 40000, "max_head_bytes": 80000 + 8192},
        ),
        ("GracefulShutdownTimeout 10", {"drain_timeout": 10.0}),
        ("QS_SrvMaxConnPerIP 20", {"max_connections_per_client": 20}),
        ("Header set Connection close", {"keep_alive": False}),
        ("Header always append Connection 'x, Close'", {"keep_alive": False}),
        ("Header set Connection close\nKeepAlive On", {"keep_alive": False}),
        ("Header set Connection close\nHeader unset Connection", {}),
        ("Header set Connection close\nHeader always unset Connection", {"keep_alive": False}),
        ("Define T 7\nKeepAliveTimeout ${T}", {"keep_alive_timeout": 7.0}),
        ("Define t 7\nKeepAliveTimeout ${T}s", {"keep_alive_timeout": 7.0}),
        ("Define BOTH 'header=5 body=6'\nRequestReadTimeout ${BOTH}", {
            "first_byte_timeout": 5.0, "request_header_timeout": 5.0, "request_body_timeout": 6.0,
        }),
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
        ("KeepAliveTimeout -5", "'-5' is not a time"),
        ("KeepAliveTimeout 5S", "'5S' is not a time"),
        ("KeepAliveTimeout 5MS", "'5MS' is not a time"),
        ("KeepAliveTimeout 5m", "'5m' is not a time"),
        ("KeepAliveTimeout ${NOWHERE}", "'${NOWHERE}' is not a time"),
        ("TimeOut 1min", "Apache reads the number alone"),
        ("GracefulShutdownTimeout 5s", "Apache reads the number alone"),
        ("KeepAliveTimeout 99999999999", "must be a number of seconds"),
        ("MaxKeepAliveRequests many", "'many' is not an integer"),
        ("TimeOut 0", "no time at all"),
        ("RequestReadTimeout", "too few arguments"),
        ("RequestReadTimeout header=x", "must be stage=time"),
        ("GracefulShutdownTimeout 0", "a drain always ends"),
        ("Header set Keep-Alive timeout=5", "writes Keep-Alive itself"),
        ("Header set Connection upgrade", "only keep-alive and close"),
        ("Header set Connection closed", "only keep-alive and close"),
        ("Header unset Connection", "changes nothing in Apache either"),
        ("Header always unset Connection", "changes nothing in Apache either"),
        ("Header unset Keep-Alive", "changes nothing in Apache either"),
        ('Header set Connection close "expr=true"', "a condition"),
        ("Header edit Connection a b", "a condition"),
        ("Header echo Connection", "only set and the like"),
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
        ("<VirtualHost *>\nKeepAlive Off\n</VirtualHost>", "neither a site"),
        ("<VirtualHost _default_>\nKeepAlive Off\n</VirtualHost>", "neither a site"),
        ("<VirtualHost www.a.example:80>\nKeepAlive Off\n</VirtualHost>", "a number, not a name"),
        ("<IfModule prefork.c>\nKeepAlive Off\n</IfModule>", "taken as false"),
        ("<IfModule mpm_winnt_module>\nKeepAlive Off\n</IfModule>", "taken as false"),
        ("<IfModule mpm_itk.c>\nKeepAlive Off\n</IfModule>", "taken as false"),
        ("<IfModule headers>\nKeepAlive Off\n</IfModule>", "taken as false"),
        ("<IfVersion < 2.4>\nKeepAlive Off\n</IfVersion>", "taken as false"),
        ("<IfVersion >= 2.4.60>\nKeepAlive Off\n</IfVersion>", "some releases of Apache say yes"),
        ("<IfVersion >=2.4>\nKeepAlive Off\n</IfVersion>", "a version of up to three numbers"),
        ("<IfVersion>\nKeepAlive Off\n</IfVersion>", "an operator"),
        ("<IfFile /nowhere/at/all>\nKeepAlive Off\n</IfFile>", "taken as false"),
        ("<IfFile conf.d>\nKeepAlive Off\n</IfFile>", "not known"),
        ("<IfModule>\nKeepAlive Off\n</IfModule>", "asks nothing"),
        ("<IfDirective KeepAlive>\nKeepAlive Off\n</IfDirective>", "not known"),
    ],
)
def test_what_is_not_taken_has_a_reason_and_changes_nothing(text, reason):
    reading = read_apache(text)
    policies = reading.policy_set()
    assert policies == PolicySet()
    assert not any(line.is_taken for line in reading.report)
    assert reason in str(reading.report[0])


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
    numbers = [line.line for line in read_apache(text).report]
    assert numbers == [2, 3, 4, 5, 6, 7, 10, 12]
    assert lines(text)[0] == "apache:2: KeepAlive On: taken: keep_alive=on"
    assert lines(text)[5] == "apache:7: Header set Connection close: not taken: inside <Location /x>"


def test_the_hundred_and_first_response_is_remarked():
    (line,) = read_apache("MaxKeepAliveRequests 100").report
    assert line.fields == {"max_keep_alive_requests": 100}
    assert line.why == "Apache gives 101 responses; here 100 means 100"


def test_the_snippet_that_is_copied_everywhere_turns_keep_alive_on():
    snippet = "<IfModule mod_headers.c>\n  Header set Connection keep-alive\n</IfModule>"
    (block, header) = read_apache(snippet).report
    assert block.is_taken
    assert header.fields == {"keep_alive": True}
    reading = read_apache("KeepAlive Off\n" + snippet)
    off = reading.policy()
    assert not off.keep_alive
    assert "not taken: the field alone keeps nothing open" in str(reading.report[-1])


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
    policies = read_apache(SITES).policy_set()
    assert policies.default.changes() == {"keep_alive_timeout": 30.0, "max_connections": 30}
    assert policies.rules == (
        Rule(
            host=["a.example", "www.a.example", "*.a.example"],
            keep_alive_timeout=5,
            request_body_timeout=20,
            min_request_body_rate=100,
        ),
        Rule(host="b.example", keep_alive=False, keep_alive_timeout=5),
        Rule(listener="192.0.2.1:8080", first_byte_timeout=10, request_header_timeout=10),
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
    reading = read_apache(text)
    policies = reading.policy_set()
    assert policies.rules == (Rule(host=["a.example", "www.a.example"], keep_alive_timeout=6),)
    assert "one site with that of apache:2" in str(reading.report[3])
    assert "instead of keep_alive_timeout=5 of apache:4" in str(reading.report[6])


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
    reading = read_apache(text)
    policies = reading.policy_set()
    agents = ("Mozilla/2", "(?i)msie 4\\.0b2;", "^old")
    assert policies.rules == (
        Rule(host="a.example", user_agent=agents, keep_alive=False, max_body_bytes=10),
        Rule(user_agent=agents, keep_alive=False),
        Rule(host="a.example", max_body_bytes=10),
        Rule(host="b.example", keep_alive_timeout=5),
    )
    policy_class = policies.class_for_request(0, "a.example", "x MSIE 4.0B2; y")
    assert policies.policies[policy_class].changes() == {"keep_alive": False, "max_body_bytes": 10}
    assert any("without downgrade-1.0" in str(line) for line in reading.report)


def test_a_pattern_inside_a_site_holds_for_that_site():
    text = "<VirtualHost *>\nServerName a.example\nBrowserMatch Old nokeepalive\n</VirtualHost>"
    policies = read_apache(text).policy_set()
    assert policies.rules == (Rule(host="a.example", user_agent="Old", keep_alive=False),)


def test_htaccess_takes_only_what_apache_allows_there():
    rules = read_apache(
        "<VirtualHost *:80>\nServerName a.example\n</VirtualHost>",
        htaccess={
            "a.example": "Header unset Connection\nKeepAlive Off\nLimitRequestBody 5\nTimeOut 1",
            "b.example": "<IfModule mod_headers.c>\nHeader set Connection close\nTimeOut 5\n</IfModule>",
        },
    )
    assert rules.policy_set().rules == (
        Rule(host="a.example", max_body_bytes=5),
        Rule(host="b.example", keep_alive=False),
    )
    refused = [str(line) for line in rules.report if not line.is_taken]
    assert [line.partition(":")[0] for line in refused] == ["a.example/.htaccess"] * 3 + ["b.example/.htaccess"]
    assert all("not allowed in .htaccess" in line for line in refused[1:])


def test_includes_are_followed_from_the_base_or_the_server_root(tmp_path):
    (tmp_path / "mods").mkdir()
    (tmp_path / "mods" / "b.conf").write_text("KeepAliveTimeout 4\n")
    (tmp_path / "mods" / "a.conf").write_text("KeepAliveTimeout 3\nMaxKeepAliveRequests 9\n")
    for text, base in (
        ("Include mods/*.conf", str(tmp_path)),
        (f'ServerRoot "{tmp_path}"\nIncludeOptional mods/*.conf', None),
        (f"Include {tmp_path}/mods", None),
    ):
        reading = read_apache(text, base=base)
        policy = reading.policy()
        assert policy.changes() == {"keep_alive_timeout": 4.0, "max_keep_alive_requests": 9}
        assert [line.place for line in reading.report][-1] == f"{tmp_path}/mods/b.conf:1"


def test_an_include_of_itself_ends(tmp_path):
    (tmp_path / "a.conf").write_text("Include a.conf\n")
    report = read_apache("Include a.conf", base=str(tmp_path)).report
    assert len(report) == 21
    assert "nested deeper than 20" in str(report[-1])


def test_files_that_include_each_other_s_folder_are_not_read_a_million_times(tmp_path):
    for here, there in (("a", "b"), ("b", "a")):
        (tmp_path / here).mkdir()
        for name in ("1.conf", "2.conf"):
            (tmp_path / here / name).write_text(f"Include {there}\nKeepAliveTimeout 9\n")
    report = read_apache("Include a\nKeepAlive Off", base=str(tmp_path)).report
    assert len(report) < 100
    (deepest,) = [line.why for line in report if "nested deeper than 20" in line.why]
    first, second = f"{tmp_path}/a/1.conf:1", f"{tmp_path}/b/1.conf:1"
    assert deepest.endswith(f": apache:1 > {first} > {second} > {first} > ...")
    assert any("2.conf: not read: includes were nested too deep at" in line.why for line in report)
    assert report[-1].fields == {"keep_alive": False}


def test_variables_of_the_environment_stand_in_for_those_that_nothing_defines():
    environ = {"T": "7", "OWN": "1"}
    text = "Define own 8\nKeepAliveTimeout ${OWN}\nMaxKeepAliveRequests ${T}\n<IfDefine T>\nKeepAlive Off\n</IfDefine>"
    assert read(text, environ=environ).policy().changes() == {"keep_alive_timeout": 8.0, "max_keep_alive_requests": 7}
    text = "Define T 9\nUnDefine T\nKeepAliveTimeout ${T}\n<IfDefine T>\nKeepAlive Off\n</IfDefine>"
    assert read(text, environ=environ).policy().changes() == {"keep_alive_timeout": 7.0}


LOADS = "LoadModule mpm_worker_module x.so\nLoadModule headers_module x.so\n"


# What Apache 2.4.71 does was asked of it; tests/unit/test_policy_beside_hosts.py asks again where there is one.
CONDITIONS = [
    ("IfModule mod_headers.c", True),
    ("IfModule headers_module", True),
    ('IfModule "mod_headers.c"', True),
    ("IfModule mod_headers.c mod_ssl.c", True),
    ("IfModule !mod_headers.c", False),
    ("IfModule ! mod_headers.c", False),
    ("IfModule MOD_HEADERS.C", False),
    ("IfModule mod_headers", False),
    ("IfModule mod_ssl.c", False),
    ("IfModule !ssl_module", True),
    ("IfModule worker.c", True),
    ("IfModule mpm_worker_module", True),
    ("IfModule mpm_worker.c", False),
    ("IfModule mod_mpm_worker.c", False),
    ("IfModule event.c", False),
    ("IfModule !mpm_event_module", True),
    ("IfModule mpm_winnt_module", False),
    ("IfModule !mpm_itk.c", True),
    ("IfModule core.c", True),
    ("IfModule mod_so.c", True),
    ("IfModule http_core.c", True),
    ("IfModule version_module", True),
    ("IfVersion >= 2.4", True),
    ("IfVersion > 2.4.0", True),
    ("IfVersion >= 2.4.17", True),
    ("IfVersion < 2.4.10", False),
    ("IfVersion 2.4", False),
    ("IfVersion >= 2.4.60", None),
    ("IfVersion !>= 2.4", False),
    ("IfVersion < 2.4", False),
    ("IfVersion >= 2.5", False),
    ("IfVersion > 2", True),
    ("IfVersion ~ ^2.4", True),
    ("IfVersion !~ 2.4", False),
    ("IfVersion = /^2.4/", True),
    ("IfDefine OWN", True),
    ("IfDefine ! OWN", False),
    ("IfDefine own", False),
    ("IfDefine GONE", False),
    ("IfFile here.conf", True),
    ("IfFile !here.conf", False),
    ("IfFile ! here.conf", False),
    ("IfFile nowhere.conf", False),
    ("IfFile *.conf", False),
]


@pytest.mark.parametrize(("condition", "holds"), CONDITIONS)
def test_conditions_are_decided_as_apache_does(condition, holds, tmp_path):
    (tmp_path / "here.conf").write_text("")
    text = f"{LOADS}Define OWN\nDefine GONE 1\nUnDefine GONE\n<{condition}>\nKeepAlive Off\n</{condition.split()[0]}>"
    reading = read_apache(text, base=str(tmp_path))
    policy = reading.policy()
    assert policy.keep_alive is not bool(holds)
    if holds is None:
        assert any("which it is is not known here" in line.why for line in reading.report)


def test_a_text_that_loads_no_module_has_them_all():
    for name in ("mod_headers.c", "ssl_module", "mod_php7.c"):
        assert changes(f"<IfModule {name}>\nKeepAlive Off\n</IfModule>") == {"keep_alive": False}


NAMELESS = """
<VirtualHost 192.0.2.1:80>
  LimitRequestBody 1024
</VirtualHost>
<VirtualHost *:80>
  ServerName a.example
</VirtualHost>
<VirtualHost *:80>
  ServerAlias www.*
  LimitRequestBody 2048
</VirtualHost>
<VirtualHost _default_:8080>
  LimitRequestBody 4096
</VirtualHost>
"""


def test_a_virtual_host_without_a_name_has_what_no_name_asks_for():
    policies = read_apache(NAMELESS).policy_set()
    assert policies.rules == (
        Rule(host="a.example"),
        Rule(listener="192.0.2.1:80", max_body_bytes=1024),
        Rule(listener=":8080", max_body_bytes=4096),
    )
    accepted = policies.class_for_client("192.0.2.1:80", "198.51.100.1")
    assert policies.policies[accepted].max_body_bytes == 1024
    assert policies.policies[policies.class_for_request(accepted, "x.example", None)].max_body_bytes == 1024
    assert policies.policies[policies.class_for_request(accepted, "a.example", None)] == Policy()
    report = lines(NAMELESS)
    assert (
        "apache:8: <VirtualHost *:80>: not taken: not as www.*: must be a name, or '*.' and a name;"
        " at :80 requests for unknown names go to apache:5" in report
    )
    assert "apache:10: LimitRequestBody 2048: not taken: inside <VirtualHost *:80>" in report


def test_the_first_virtual_host_of_an_address_has_the_name():
    site = "<VirtualHost *:{}>\nServerName a.example\nServerAlias {}\nLimitRequestBody {}\n</VirtualHost>\n"
    text = site.format(80, "b.example", 5) + site.format(80, "b.example", 6) + site.format(80, "c.example", 7)
    reading = read_apache(text)
    policies = reading.policy_set()
    assert policies.rules == (
        Rule(host=["a.example", "b.example"], max_body_bytes=5),
        Rule(host="c.example", max_body_bytes=7),
    )
    refused = "apache:6: <VirtualHost *:80>: not taken: a.example, b.example: apache:1 has the name at the same address"
    assert any(str(line).startswith(refused) for line in reading.report)


def test_people_are_told_what_was_taken_then_what_was_refused_then_how_much_else_there_was():
    text = """
DocumentRoot /var/www
KeepAliveTimeout 5S
LoadModule mpm_event_module x.so
<Directory />
  Options None
</Directory>
<Location /long>
  Header set Connection close
</Location>
KeepAlive On
<IfModule !mod_alias.c>
  Alias /icons /usr/share/icons
</IfModule>
"""
    assert digest(read_apache(text).report) == [
        "apache:11: KeepAlive On: taken: keep_alive=on",
        "apache:3: KeepAliveTimeout 5S: not taken: '5S' is not a time",
        "apache:8: <Location /long>: not taken: kacore knows whole sites only, no part of one",
        "apache:9: Header set Connection close: not taken: inside <Location /long>",
        "other lines: 6 (2 no directive that kacore reads, 2 without effect here, 2 part of what is not taken);"
        " --verbose lists them",
    ]


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
        read_apache(text).policy()
    assert message in str(raised.value)


def test_values_that_do_not_go_together_are_an_error():
    with pytest.raises(PolicyError, match=r"max_connections_per_client=50 does not go with max_connections=30"):
        read_apache("MaxRequestWorkers 10\nQS_SrvMaxConnPerIP 50").policy()


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
