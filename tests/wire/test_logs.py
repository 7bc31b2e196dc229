"""What a server logs: a line for each request when asked, a reason for each closed connection at debug."""

import io
import json
import logging
import re
import time

import pytest

from kacore import Policy, Response
from kacore.server import UsageError, logs

TIME = r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"


def hello(request):
    if request.path == "/fail":
        raise RuntimeError("on purpose")
    return Response(b"" if request.path == "/empty" else b"hello", 404 if request.path == "/no" else 200)


@pytest.fixture
def lines(caplog):
    """The lines of the access log so far; call it."""
    caplog.set_level(logging.INFO, "kacore.access")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "kacore.access"]


def test_common_format_is_that_of_apache(start, client, lines):
    c = client(start(hello, access_log="common"))
    c.get("/a%20b?c=d")
    c.get("/no")
    c.get("/empty", version="1.0")
    assert re.fullmatch(rf'127\.0\.0\.1 - - {TIME} "GET /a%20b\?c=d HTTP/1\.1" 200 5', lines()[0])
    assert lines()[1].endswith('"GET /no HTTP/1.1" 404 5')
    assert lines()[2].endswith('"GET /empty HTTP/1.0" 200 -')


def test_combined_format_escapes_what_the_client_wrote(start, client, lines):
    c = client(start(hello, access_log="combined"))
    c.get("/", 'Referer: a"b\\c\td', "User-Agent: x\xe9\x9b[31m")
    assert lines()[0].endswith(r'"GET / HTTP/1.1" 200 5 "a\"b\\c\x09d" "x\xe9\x9b[31m"')
    c.get("/")
    assert lines()[1].endswith('200 5 "-" "-"')


def test_time_of_an_application_that_holds_up_the_loop_is_logged(start, client, lines):
    def takes_its_time(request):
        time.sleep(0.02)
        return Response(b"")

    client(start(takes_its_time, access_log="json")).get("/")
    assert 0.02 <= json.loads(lines()[0])["seconds"] < 10


def test_json_format_is_one_ascii_object_a_line(start, client, lines):
    c = client(start(hello, access_log="json"))
    c.get("/?q", 'User-Agent: "\xe9\t')
    line = lines()[0]
    assert line.isascii()
    assert "\n" not in line
    entry = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry.pop("time"))
    assert 0 <= entry.pop("seconds") < 10
    assert int(entry.pop("connection"), 16) > 0
    assert entry == {
        "client": "127.0.0.1",
        "method": "GET",
        "target": "/?q",
        "version": "1.1",
        "status": 200,
        "bytes": 5,
        "referer": None,
        "user_agent": '"\xe9',
        "number": 1,
    }


def test_every_interface_logs_each_request_once(echo, client, lines):
    c = client(echo(access_log="common"))
    c.get("/one")
    c.get("/two", method="HEAD")
    c.get("/fail")
    assert [line.partition("] ")[2] for line in lines()] == [
        '"GET /one HTTP/1.1" 200 9',
        '"HEAD /two HTTP/1.1" 200 -',
        '"GET /fail HTTP/1.1" 500 22',
    ]


def test_requests_that_no_application_saw_are_logged_with_their_answer(start, client, lines):
    running = start(hello, access_log="common", policy=Policy(max_body_bytes=10))
    client(running).send("GET / HTTP/1.1\r\n\r\n").rest()
    client(running).send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n").rest()
    assert [line.partition("] ")[2].split()[:2] for line in lines()] == [['"-"', "400"], ['"-"', "413"]]


def test_nothing_is_logged_of_requests_unless_asked(start, client, lines):
    c = client(start(hello))
    c.get("/")
    assert lines() == []


def test_unknown_format_is_a_usage_error_that_names_the_known():
    from kacore import Server

    with pytest.raises(UsageError, match="access_log='apache': must be off, short, common, combined, json, or a format as"):
        Server(hello, access_log="apache")


def test_closed_connections_are_logged_at_debug_with_phase_and_cause(start, client, caplog):
    caplog.set_level(logging.DEBUG, "kacore.error")
    running = start(hello)
    c = client(running)
    c.get("/")
    c.get("/", "Connection: close")
    assert c.is_closed()
    running.check_empty()
    said = [record.getMessage() for record in caplog.records if " closed in " in record.getMessage()]
    assert len(said) == 1
    assert re.fullmatch(r"127\.0\.0\.1:\d+ closed in \w+ after 2 requests: client", said[0])


def test_serve_writes_the_access_log_to_stdout_a_line_at_the_start_and_two_at_the_end(serve, tmp_path):
    (tmp_path / "app.py").write_text("def handler(request): return b'hi'\n")
    server = serve("app:handler", "--access-log", "common")
    import urllib.request

    urllib.request.urlopen(server.url + "/x", timeout=10).read()
    server.wait_for(r'"GET /x HTTP/1\.1" 200 2')
    assert server.stop() == 0
    lines = server.text.splitlines()
    assert len(lines) == 4
    assert re.search(r" INFO kacore \S+ serves a handler on http://127\.0\.0\.1:\d+ \(", lines[0])
    assert "\x1b" not in server.text


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "env", "in_colour"),
    [
        (Terminal(), {"TERM": "xterm"}, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
    ],
)
def test_levels_are_coloured_on_a_terminal_only(monkeypatch, stream, env, in_colour):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    record = logging.LogRecord("kacore.error", logging.ERROR, "", 0, "gone", (), None)
    text = logs.LineFormatter(stream).format(record)
    assert ("\x1b[31mERROR\x1b[0m gone" in text) is in_colour
    assert ("\x1b" in text) is in_colour
