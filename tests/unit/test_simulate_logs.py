"""Access logs are read whatever they look like: formats, packing, order, and lines that are none."""

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import threading

import pytest

from kacore.errors import UsageError
from kacore.server import access
from kacore.simulate import opening
from kacore.simulate.layout import Layout
from kacore.simulate.opening import Source
from kacore.simulate.reading import Log, in_order, spread
from kacore.simulate.recognise import recognise
from kacore.simulate.times import read_any

COMMON = '192.0.2.7 - - [17/May/2015:10:05:0{} +0000] "GET /a HTTP/1.1" 200 512'
MORNING = 1431857100.0  # 17 May 2015, 10:05:00 UTC


def lines_of(text, n=3, ending=""):
    return "".join(text.format(k) + ending + "\n" for k in range(n))


def requests_in(tmp_path, *texts, **options):
    """Of logs with these texts: all records, and the logs."""
    paths = []
    for k, text in enumerate(texts):
        path = tmp_path / f"{k}.log"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        paths.append(path)
    logs = [Log(str(path), **options) for path in paths]
    return [record for batch in in_order(logs, lambda n: None) for record in batch], logs


# -- formats --


@pytest.mark.parametrize(
    ("ending", "name", "took"),
    [
        ("", "common log format", 0.0),
        (' "-" "Mozilla/5.0 (X11; \\"odd\\") [a]"', "combined log format", 0.0),
        (' "-" "curl/8" "203.0.113.9, 10.0.0.1"', "combined log format, with X-Forwarded-For", 0.0),
        (' "-" "curl/8" "-"', "combined log format, with X-Forwarded-For", 0.0),
        (' "-" "curl/8" 0.250', "combined log format, durations in seconds", 0.25),
        (' "-" "curl/8" rt=0.250 urt="0.100"', "combined log format, durations in seconds", 0.25),
        (' "-" "curl/8" "-" request_time="0.250" x', "combined log format, durations in seconds, with X-Forwarded-For", 0.25),
        (" 250000", "common log format, durations in microseconds", 0.25),
    ],
)
def test_a_format_is_recognised_by_what_its_lines_are(tmp_path, ending, name, took):
    records, (log,) = requests_in(tmp_path, lines_of(COMMON, ending=ending))
    assert log.format.name == name
    is_end = "in seconds" in name  # as nginx writes it; Apache writes when a request began
    begun = [MORNING + k - (took if is_end else 0) for k in range(3)]
    assert records == [(at, took, b"192.0.2.7") for at in begun]
    assert log.wrong == 0


def test_the_name_of_a_virtual_host_in_front_is_not_the_client(tmp_path):
    records, _ = requests_in(tmp_path, lines_of("www.example.com:443 " + COMMON, ending=' "-" "curl/8"'))
    assert {client for _, _, client in records} == {b"192.0.2.7"}


def test_a_user_may_have_blanks_and_a_request_may_be_anything(tmp_path):
    odd = '2001:db8::1 - a b [c [17/May/2015:12:05:00 +0200] "\\x16\\x03\\"] [" 400 -\n'
    records, (log,) = requests_in(tmp_path, lines_of(COMMON) + odd)
    assert (MORNING, 0.0, b"2001:db8::1") in records
    assert log.wrong == 0


def test_our_own_json_is_read(tmp_path):
    line = {"time": "2015-05-17T10:05:00Z", "client": "192.0.2.7", "target": "/", "seconds": 0.25}
    unix = {**line, "client": None, "time": "2015-05-17T10:05:01Z"}
    records, (log,) = requests_in(tmp_path, json.dumps(line) + "\n" + json.dumps(unix) + "\n")
    assert records == [(MORNING, 0.25, b"192.0.2.7"), (MORNING + 1, 0.25, b"-")]
    assert (log.format.name, log.format.has_durations) == ("JSON objects", True)


def json_texts():
    agent = 'a "b" \\ \u00e9 {"client": 1}'
    good = {"time": "2015-05-17T10:05:00Z", "agent": agent, "client": "192.0.2.7", "seconds": 0.25, "n": 5, "x": None}
    return [json.dumps({**good, "client": client, "seconds": k}) for k, client in enumerate(["a", None, "b\\c", "::1", 7])]


@pytest.mark.parametrize(
    "texts",
    [
        json_texts(),
        [COMMON.format(k) + ' "-" "a \\"b\\" [\\\\"' for k in range(5)],
        [f'192.0.2.{k} - a b [17/May/2015:10:05:00 +0000] "\\"" 200 1 "-" "\\\\" "-" 0.1{k}0' for k in range(5)],
    ],
)
def test_lines_that_are_alike_are_read_quickly_and_to_the_same_effect(texts):
    """By one expression for a whole block; a line that is otherwise has them all read one by one."""
    block = "".join(line + "\n" for line in texts).encode()
    reader = recognise(block.splitlines(), "a.log")
    quickly = reader.read(block, print)
    assert len(quickly) == 5
    spoilt = []
    assert reader.read(block + b"rubbish\n", lambda line, why: spoilt.append(line)) == quickly
    assert spoilt == [b"rubbish"]


def test_json_that_nginx_was_made_to_write_is_read(tmp_path):
    line = {"msec": "1431857100.500", "remote_addr": "10.0.0.1", "request_time": "0.250", "http_x_forwarded_for": "192.0.2.7"}
    text = json.dumps(line) + "\n"
    records, _ = requests_in(tmp_path, text)
    assert records == [(MORNING + 0.25, 0.25, b"10.0.0.1")]
    records, _ = requests_in(tmp_path, text, wants_forwarded=True)
    assert records[0][2] == b"192.0.2.7"


@pytest.mark.parametrize("style", ["common", "combined", "as_json"])
def test_what_our_server_logs_is_read(tmp_path, style):
    class Entry:
        client, method, target, version = ("192.0.2.7", 4711), "GET", b'/"\x00', "1.1"
        status, n_bytes, unix_time, duration = 200, 0, int(MORNING), 0.25
        referer, user_agent = None, b'a "b" \\'
        connection, number, request_id = 17, 3, None

    records, (log,) = requests_in(tmp_path, getattr(access, style)()(Entry) + "\n")
    assert records == [(MORNING, 0.25 if style == "as_json" else 0.0, b"192.0.2.7")]
    assert log.wrong == 0


@pytest.mark.parametrize(
    ("text", "line", "record"),
    [
        ("$msec $remote_addr $request_time", "1431857100.5 192.0.2.7 0.250", (MORNING + 0.25, 0.25, b"192.0.2.7")),
        ('%a "%r" %t %D', '192.0.2.7 "GET / HTTP/1.1" [17/May/2015:10:05:00 +0000] 250000', (MORNING, 0.25, b"192.0.2.7")),
        ("%{ms}T %{sec}t %h %%", "250 1431857100 192.0.2.7 %", (MORNING, 0.25, b"192.0.2.7")),
        ("[$time_iso8601] $remote_addr|$host", "[2015-05-17T12:05:00+02:00] 192.0.2.7|a b", (MORNING, 0.0, b"192.0.2.7")),
    ],
)
def test_a_format_string_of_nginx_or_apache_says_what_a_line_is(tmp_path, text, line, record):
    records, (log,) = requests_in(tmp_path, line + "\n", given=text)
    assert records == [record]
    assert log.wrong == 0


@pytest.mark.parametrize(
    ("text", "rule"),
    [("$msec", "who the client is"), ("%h %D", "when it was"), ("%h %t %X", None)],
)
def test_a_format_string_must_say_who_and_when(text, rule):
    if rule is None:
        assert not Layout(text).has_durations
    else:
        with pytest.raises(UsageError, match=rf"^format='{text.replace('$', '[$]')}': says nowhere {rule}"):
            Layout(text)


def test_x_forwarded_for_must_be_there_when_it_is_asked_for(tmp_path):
    with pytest.raises(UsageError, match="X-Forwarded-For"):
        requests_in(tmp_path, lines_of(COMMON), wants_forwarded=True)


def test_the_client_is_the_first_in_x_forwarded_for_and_the_peer_where_there_is_none(tmp_path):
    text = COMMON.format(0) + ' "-" "-" "203.0.113.9, 10.0.0.1"\n' + COMMON.format(1) + ' "-" "-" "-"\n'
    records, _ = requests_in(tmp_path, text, wants_forwarded=True)
    assert [client for _, _, client in records] == [b"203.0.113.9", b"192.0.2.7"]


@pytest.mark.parametrize("text", ["", "\n", "hello\n", "a b c\n" * 3, "{}\n", "[]\n", '{"time": 1}\n'])
def test_a_log_of_no_known_format_is_refused_by_name(tmp_path, text):
    with pytest.raises(UsageError, match=r"its format is not known|is empty|the JSON lines have"):
        requests_in(tmp_path, text)


# -- lines that are none --


def test_lines_that_cannot_be_read_are_counted_and_the_first_is_told(tmp_path):
    bad_time = COMMON.format(0).replace("17/May", "17/Mai")
    text = COMMON.format(0) + "\n\nrubbish \x1b[31m\n" + bad_time + "\n" + COMMON.format(1) + "\n"
    records, (log,) = requests_in(tmp_path, text)
    assert [at for at, _, _ in records] == [MORNING, MORNING + 1]
    assert log.wrong == 2
    assert log.first_wrong.endswith("0.log:3: is not a line common log format: 'rubbish \\x1b[31m'")


def test_a_wrong_json_line_is_counted_too(tmp_path):
    good = json.dumps({"time": "2015-05-17T10:05:00Z", "client": "192.0.2.7"})
    records, (log,) = requests_in(tmp_path, good + '\n{"time": "soon", "client": 1}\n[1]\n{"time"\n{"client": 1}\n')
    assert (len(records), log.wrong) == (1, 4)
    assert "'soon' is not a number" in log.first_wrong


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "BLOCK", 1024)
    monkeypatch.setattr(opening, "MAX_LINE", 4096)
    text = COMMON.format(0) + "\n" + "x" * 50_000 + "\n" + COMMON.format(1) + "\n"
    path = tmp_path / "a.log"
    path.write_text(text)
    blocks = list(Source(str(path)).blocks())
    assert b"".join(blocks) == text.encode()
    assert max(map(len, blocks)) <= 4096 + 1024
    records, (log,) = requests_in(tmp_path, text)
    assert len(records) == 2
    assert log.wrong >= 1


@pytest.mark.parametrize("size", [1, 7, 100, 1 << 20])
def test_blocks_are_cut_at_the_ends_of_lines_wherever_they_lie(tmp_path, monkeypatch, size):
    monkeypatch.setattr(opening, "BLOCK", size)
    records, (log,) = requests_in(tmp_path, lines_of(COMMON, 9).rstrip("\n"))
    assert [at - MORNING for at, _, _ in records] == list(range(9))
    assert log.wrong == 0


@pytest.mark.parametrize(
    "stamp",
    [b"17/May/2015:10:05:00", b"17/Xyz/2015:10:05:00 +0000", b"17/May/2015:25:05:00 +0000", b"17/May/2015:10:05:61 +0000",
     b"17/May/2015:10:05:-1 +0000", b"00/May/2015:10:05:00 +0000", b"2015-13-01T00:00:00Z", b"-5", b"nan", b"inf", b"1e300"],
)  # fmt: skip
def test_a_time_that_is_none_is_refused(stamp):
    with pytest.raises(ValueError, match="is not a"):
        read_any(stamp)


@pytest.mark.parametrize("stamp", [b"17/May/2015:10:05:00 +0000", b"17/May/2015:03:35:00 -0630", b"2015-05-17T10:05:00Z",
                                   b"2015-05-17T12:05:00.000+02:00", b"2015-05-17T10:05:00", b"1431857100"])  # fmt: skip
def test_all_ways_to_write_a_time_give_the_same(stamp):
    assert read_any(stamp) == MORNING


# -- packed --


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / "a.log.gz"
    path.write_bytes(gzip.compress(lines_of(COMMON).encode()) + gzip.compress(lines_of(COMMON).encode()))
    return path


def test_gzip_is_unpacked_whatever_the_name_says(packed):
    named = packed.rename(packed.with_name("a.log"))
    assert b"".join(Source(str(named)).blocks()) == lines_of(COMMON).encode() * 2


def test_a_gzip_file_that_was_cut_off_is_told_by_name(packed):
    whole = packed.read_bytes()
    packed.write_bytes(whole[: len(whole) - 20])
    with pytest.raises(UsageError, match=r"a\.log\.gz: compressed file ended"):
        list(Source(str(packed)).blocks())


def test_zstd_is_unpacked_by_whatever_is_there(tmp_path, need):
    zstd = need("zstd")
    text = lines_of(COMMON, 9).encode()
    path = tmp_path / "a.log.zst"
    path.write_bytes(subprocess.run([zstd, "-c"], input=text, capture_output=True, check=True).stdout)
    assert b"".join(Source(str(path)).blocks()) == text
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises((UsageError, EOFError)):
        list(Source(str(path)).blocks())


def test_zstd_without_anything_that_knows_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "compression", None)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    path = tmp_path / "a.log.zst"
    path.write_bytes(opening.ZSTD + b"rest")
    with pytest.raises(UsageError, match=r"needs Python 3\.14, the package zstandard or the program zstd"):
        list(Source(str(path)).blocks())


def test_stdin_is_read_once_also_when_it_is_packed(packed, monkeypatch):
    class Stdin:
        buffer = io.BufferedReader(io.BytesIO(packed.read_bytes()))

    monkeypatch.setattr(sys, "stdin", Stdin)
    log = Log("-")
    assert sum(map(len, in_order([log], lambda n: None))) == 6
    assert (log.source.name, log.source.size) == ("stdin", 0)


def test_a_pipe_is_read_once_though_it_has_a_name(tmp_path):
    """As a shell's <(zcat a.log.gz) is."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=[lines_of(COMMON)])
    writer.start()
    log = Log(str(pipe))
    assert sum(map(len, in_order([log], lambda n: None))) == 3
    writer.join()


# -- order --


def test_rotated_logs_follow_one_another_however_they_are_named(tmp_path):
    later = COMMON.replace("10:05", "11:05")
    records, _ = requests_in(tmp_path, lines_of(later), lines_of(COMMON))
    assert [at for at, _, _ in records] == [*(MORNING + k for k in range(3)), *(MORNING + 3600 + k for k in range(3))]


def test_logs_of_several_machines_are_merged(tmp_path):
    texts = ["".join(f'10.0.0.{m} - - [17/May/2015:10:{k:02}:{m:02} +0000] "-" 200 1\n' for k in range(60)) for m in range(3)]
    records, _ = requests_in(tmp_path, *texts)
    assert [at for at, _, _ in records] == sorted(at for at, _, _ in records)
    assert [client for _, _, client in records[:4]] == [b"10.0.0.0", b"10.0.0.1", b"10.0.0.2", b"10.0.0.0"]


def test_a_request_that_took_long_has_its_place_where_it_began(tmp_path):
    text = "1000.0 a 0.1\n1030.0 b 0.1\n1031.0 c 30.5\n"
    records, _ = requests_in(tmp_path, text, given="$msec $remote_addr $request_time")
    assert [client for _, _, client in records] == [b"a", b"c", b"b"]


def test_requests_of_one_second_have_their_parts_of_it():
    records = [(5.0, 0.0, b"a"), (6.0, 0.0, b"b"), (6.0, 0.0, b"c"), (6.25, 0.0, b"d"), (6.25, 0.0, b"e")]
    assert [at for at, _, _ in spread(records)] == [5.0, 6.0, 6.5, 6.25, 6.25]


def test_a_second_that_is_cut_by_a_block_is_spread_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "BLOCK", 100)
    records, _ = requests_in(tmp_path, (COMMON.format(0) + "\n") * 4 + COMMON.format(1) + "\n")
    assert [at - MORNING for at, _, _ in records] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_a_sample_decides_and_lines_that_are_otherwise_are_wrong_ones():
    text = recognise([COMMON.format(k).encode() for k in range(3)], "a.log")
    wrong = []
    assert text.read(b"1431857100.5 192.0.2.7\n", lambda line, why: wrong.append(line)) == []
    assert wrong == [b"1431857100.5 192.0.2.7"]
