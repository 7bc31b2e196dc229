"""Lines of the access log: for people, and in formats of Apache's words; where they are written, and when by default."""

import logging
import os
import pty
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

from kacore import Response, UsageError
from kacore.config import access_format
from kacore.config.options import RunOptions
from kacore.server import access
from tests.wire.conftest import wait_until


def hello(request):
    status = int(request.path[1:]) if request.path[1:].isdigit() else 200
    return Response(b"hello", status, headers=[("X-Cost", "7"), ("X-Odd", "a\"b")])


@pytest.fixture
def lines(caplog):
    """The lines of the access log so far; call it."""
    caplog.set_level(logging.INFO, "kacore.access")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "kacore.access"]


def test_a_short_line_has_status_request_time_client_and_its_number_on_the_connection(start, client, lines):
    c = client(start(hello, access_log="short"))
    for path in ("/a?b", "/404", "/500"):
        c.get(path)
    port = c.sock.getsockname()[1]
    expected = (r"200 GET /a\?b", "404 GET /404", "500 GET /500")
    for number, (line, what) in enumerate(zip(lines(), expected, strict=True), 1):
        assert re.fullmatch(rf"\d\d:\d\d:\d\d {what} \d+\.\d+ ms 127\.0\.0\.1:{port} #{number}", line)


@pytest.mark.parametrize(("status", "colour"), [(204, 32), (304, 36), (404, 33), (500, 31)])
def test_on_a_terminal_the_status_is_coloured(status, colour):
    class Entry:
        unix_time, method, target, version, client, number, duration = 0, "GET", b"/", "2", ("::1", 5), 3, 1.25

    Entry.status = status
    line = access.short(in_colour=True)(Entry)
    assert f"\x1b[{colour}m{status}\x1b[0m GET /" in line
    assert "HTTP/2 1.25 s [::1]:5 #3" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("%h %l %u %m %U %q %H %s %>s %b %B", r"127\.0\.0\.1 - - GET /a \?q=1 HTTP/1\.1 200 200 5 5"),
        ('"%r" "%{Referer}i" "%{x-MINE}i" "%{None}i"', r'"GET /a\?q=1 HTTP/1\.1" "-" "y\\"z" "-"'),
        ("%{X-Cost}o|%{x-odd}o|%{X-None}o", r'7\|a\\"b\|-'),
        ("%D %T %{ms}T %{us}T %{s}T", r"\d+ 0 \d+ \d+ 0"),
        ("%t %{%Y}t %{sec}t", r"\[\d\d/\w+/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] 20\d\d \d{10}"),
        ("%p %{remote}p %A %v %V", r"PORT CLIENT 127\.0\.0\.1 test test"),
        ("%X %k %{number}x %{scheme}x %{tls}x 100%%", r"\+ 0 1 http - 100%"),
        ("%L %{c}L %{connection}x %{request}x", r"([0-9a-f]+)-1 \1 \1 \1-1"),
        ("%P", "PID"),
        ('%(h)s "%(r)s" %(s)s %(a)s', r'127\.0\.0\.1 "GET /a\?q=1 HTTP/1\.1" 200 -'),
        ("%(M)s %(D)s %({x-mine}i)s %(p)s", r'\d+ \d+ y\\"z <\d+>'),
    ],
)  # fmt: skip
def test_formats_are_written_in_apaches_words_and_gunicorns(start, client, lines, text, expected):
    running = start(hello, access_log=text)
    c = client(running)
    c.get("/a?q=1", 'X-Mine: y"z')
    values = {"PORT": running.port, "CLIENT": c.sock.getsockname()[1], "PID": os.getpid()}
    for word, value in values.items():
        expected = expected.replace(word, str(value))
    assert re.fullmatch(expected, lines()[0]), lines()


def test_the_third_request_is_the_third_and_the_last_one_closes(start, client, lines):
    c = client(start(hello, access_log="%k %{number}x %X"))
    c.get("/")
    c.get("/")
    c.get("/", "Connection: close")
    assert lines() == ["0 1 +", "1 2 +", "2 3 -"]


def test_a_request_that_nobody_could_read_has_a_line_in_every_format(start, client, lines):
    words = access_format.WORDS.items()
    every = [f"%{{{names.split()[0]}}}{letter}" if names else f"%{letter}" for letter, names in words]
    client(start(hello, access_log=" ".join(every))).send("nonsense\r\n\r\n").rest()
    assert " 400 " in lines()[0]


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_fields_of_responses_are_found_as_every_interface_gives_them(start, client, lines, interface):
    async def asgi(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-cost", b"7")]})
        await send({"type": "http.response.body", "body": b""})

    def wsgi(environ, start_response):
        start_response("200 OK", [("X-Cost", "7")])
        return [b""]

    client(start({"asgi": asgi, "wsgi": wsgi}[interface], lifespan="off", access_log="%{X-Cost}o")).get("/")
    assert lines() == ["7"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("%h %Z", "unknown word %Z; there are %"),
        ("%h %", "'%' is no word of a format"),
        ("%i", "%i: takes a name in braces"),
        ("%{weeks}T", "%{weeks}T: takes one of s, ms, us in braces"),
        ("%{x}h", "%{x}h: takes nothing in braces"),
        ("%400{Referer}i", "'%400{Referer"),
        ("pretty", "must be off, short"),
    ],
)
def test_a_format_that_is_none_is_an_error_that_names_the_word(text, why):
    with pytest.raises(UsageError, match=re.escape(why)):
        RunOptions(access_log=text)


@pytest.mark.parametrize(
    ("options", "is_terminal", "chosen"),
    [
        ({}, False, "off"),
        ({}, True, "short"),
        ({"reload": True}, False, "short"),
        ({"access_log": "off", "reload": True}, True, "off"),
        ({"access_log_file": "a.log"}, True, "combined"),
        ({"access_log_file": "a.log", "access_log": "json"}, True, "json"),
        ({"access_log_file": "-"}, True, "short"),
        ({"log_config": "log.json"}, True, "off"),
    ],
)
def test_by_default_there_are_lines_where_a_developer_looks(options, is_terminal, chosen):
    assert RunOptions(**options).chosen_access_log(is_terminal=is_terminal) == chosen


def test_on_a_terminal_requests_are_shown_with_colours(tmp_path, python_environment):
    (tmp_path / "app.py").write_text("def app(request): return b'hi'\n")
    ours, theirs = pty.openpty()
    env = {**python_environment, "TERM": "xterm", "PYTHONUNBUFFERED": "1"}
    env.pop("NO_COLOR", None)
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    child = subprocess.Popen([sys.executable, "-m", "kacore", "app:app", "--port", "0"], cwd=tmp_path, env=env, **streams)
    os.close(theirs)
    text = ""
    try:
        while not (found := re.search(r"http://\S+?:[1-9]\d*", text)):
            text += os.read(ours, 65536).decode()
        urllib.request.urlopen(found[0] + "/x", timeout=20).read()
        while " #1" not in text:
            text += os.read(ours, 65536).decode()
    finally:
        child.terminate()
        child.wait()
        os.close(ours)
    assert "\x1b[32m200\x1b[0m GET /x" in text


def test_lines_go_to_a_file_that_sigusr1_opens_again(serve, tmp_path):
    (tmp_path / "app.py").write_text("def app(request): return b'hi'\n")
    server = serve("app:app", "--access-logfile", "access.log", "--workers", "1")
    urllib.request.urlopen(server.url + "/before", timeout=20).read()
    line = '"GET /before HTTP/1.1" 200 2 "-" "Python-urllib'
    wait_until(lambda: line in (tmp_path / "access.log").read_text(), "it is there")
    (tmp_path / "access.log").rename(tmp_path / "moved")
    server.send_signal(signal.SIGUSR1)
    wait_until(lambda: server.text.count("reopened 1 log file") == 2, "both have opened it")
    urllib.request.urlopen(server.url + "/after", timeout=20).read()
    wait_until(lambda: "/after" in (tmp_path / "access.log").read_text(), "it is in the new one")
    assert "/after" not in (tmp_path / "moved").read_text()
    assert server.stop() == 0


def test_a_file_that_cannot_be_written_is_one_line(launch, tmp_path):
    (tmp_path / "app.py").write_text("def app(request): return b'hi'\n")
    child = launch("-m", "kacore", "serve", "app:app", "--access-log-file", "no/such/dir")
    assert child.wait() == 2
    assert child.text == "kacore: access_log_file='no/such/dir': No such file or directory\n"
