"""Every rule of the parser: cases that keep it, and cases that break it with status, code and offset.

A case is bytes with the place of the fault marked by U+2020 (taken out before parsing); where the bytes
cannot show the place, the case gives the offset. Each is fed at every split point.
"""

import re
from pathlib import Path

import pytest
from events import every_way_of_scanning, feed, split_everywhere  # noqa: F401

from kacore import Limits

MARK = "\u2020".encode()
G = b"GET / HTTP/1.1\r\n"
H = b"Host: a\r\n"
P = b"POST / HTTP/1.1\r\nHost: a\r\n"
C = P + b"Transfer-Encoding: chunked\r\n\r\n"
SMALL = Limits(
    max_head_bytes=120,
    max_target_bytes=20,
    max_headers=4,
    max_header_bytes=40,
    max_body_bytes=10,
    max_chunk_line_bytes=8,
    max_trailer_bytes=20,
)


def m(before: bytes, after: bytes) -> bytes:
    return before + MARK + after


REFUSED = {
    "empty_lines": (400, [m(b"\r\n", b"\r\n" + G + H + b"\r\n"), m(G + H + b"\r\n\r\n", b"\r\n")]),
    "bad_method": (
        400,
        [
            m(b"", b" / HTTP/1.1\r\n"),
            m(b"", b"\x16\x03\x01\x02"),
            m(b"GE", b"\x00T / HTTP/1.1\r\n"),
            m(b"G", b"(T / HTTP/1.1\r\n"),
            m(b"bla", b":rgh /foo HTTP/1.1\r\n"),
            m(b"", b"\x80 / HTTP/1.1\r\n"),
            m(b"", b"{} / HTTP/1.1\r\n"),
        ],
    ),
    "method_too_long": (501, [m(b"A" * 32, b"A / HTTP/1.1\r\n")]),
    "unknown_method": (501, [m(b"", b"get / HTTP/1.1\r\n"), m(b"GE", b"t / HTTP/1.1\r\n"), m(b"A", b"1 / ")]),
    "bad_request_line": (
        400,
        [m(b"GET ", b" / HTTP/1.1\r\n"), m(b"GET", b"\t/ HTTP/1.1\r\n"), m(b"GET", b"\r\n"), m(b"", b"\t/")],
    ),
    "bad_target": (
        400,
        [
            m(b"GET /a", b"#b HTTP/1.1\r\n"),
            m(b"GET /", b"\x00 HTTP/1.1\r\n"),
            m(b"GET /", b"\x7f HTTP/1.1\r\n"),
            m(b"GET /", b"\xc3\xa9 HTTP/1.1\r\n"),
            m(b"GET /", b'"x" HTTP/1.1\r\n'),
            m(b"GET /", b"<x> HTTP/1.1\r\n"),
            m(b"GET /a", b"\tb HTTP/1.1\r\n"),
            m(b"GET ", b"a HTTP/1.1\r\n"),
            m(b"GET ", b"* HTTP/1.1\r\n"),
            m(b"OPTIONS ", b"*x HTTP/1.1\r\n"),
            m(b"GET ", b"a.example:80 HTTP/1.1\r\n"),
            m(b"GET ", b"ftp://a/ HTTP/1.1\r\n"),
            m(b"GET http://", b"/ HTTP/1.1\r\n"),
            m(b"GET http://", b"u@a/ HTTP/1.1\r\n"),
            m(b"GET http://", b"a:x/ HTTP/1.1\r\n"),
            m(b"GET http://", b"a:65536/ HTTP/1.1\r\n"),
            m(b"GET http://", b"[::1/ HTTP/1.1\r\n"),
            m(b"CONNECT ", b"/ HTTP/1.1\r\n"),
            m(b"CONNECT ", b"a HTTP/1.1\r\n"),
            m(b"CONNECT ", b"a: HTTP/1.1\r\n"),
            m(b"CONNECT ", b"http://a:1/ HTTP/1.1\r\n"),
        ],
    ),
    "bad_escape": (
        400,
        [
            m(b"GET /", b"%zz HTTP/1.1\r\n"),
            m(b"GET /", b"%4 HTTP/1.1\r\n"),
            m(b"GET /", b"%00 HTTP/1.1\r\n"),
            m(b"GET /%41", b"%4?%41 HTTP/1.1\r\n"),
        ],
    ),
    "target_too_long": (414, [(m(b"GET /" + b"x" * 19, b"x HTTP/1.1\r\n"), SMALL)]),
    "missing_version": (400, [m(b"GET /", b"\r\n"), m(b"GET HTTP/1.1", b"\r\n")]),
    "bad_version": (
        400,
        [
            m(b"GET / ", b"\r\n"),
            m(b"GET / ", b"http/1.1\r\n"),
            m(b"GET / ", b" HTTP/1.1\r\n"),
            m(b"GET / HTTP/1", b"\r\n"),
            m(b"GET / HTTP/1", b"1.1\r\n"),
            m(b"GET / HTTP/1.", b"x\r\n"),
            m(b"GET / HTTP/1.1", b"0\r\n"),
            m(b"GET / HTTP/1.1", b" \r\n"),
            m(b"GET /a ", b"b HTTP/1.1\r\n"),
            m(b"GET / HTT", b"/1.1\r\n"),
        ],
    ),
    "unsupported_version": (505, [m(b"GET / HTTP/", b"2.0\r\n"), m(b"GET / HTTP/", b"0.9\r\n")]),
    "http2_preface": (505, [m(b"PRI * HTTP/", b"2.0\r\n\r\nSM\r\n\r\n")]),
    "bare_cr": (
        400,
        [
            m(b"", b"\rGET / HTTP/1.1\r\n"),
            m(b"GET / HTTP/1.1", b"\rHost: a\r\n"),
            m(G + b"A: b", b"\rc\r\n"),
            m(G + b"A: b", b"\r\r\n"),
            m(G + H, b"\rx"),
            (C + b"5\r;a\r\nhello", len(C) + 2),
        ],
    ),
    "bare_lf": (
        400,
        [
            m(b"", b"\nGET"),
            m(b"\r\n", b"\nGET"),
            m(b"GET", b"\n"),
            m(b"GET /", b"\n"),
            m(b"GET / HTTP/1.1", b"\n"),
            m(G + b"Host: a", b"\n\r\n"),
            m(G + b"Host", b"\n"),
            m(G + H, b"\n"),
            m(C + b"5", b"\nhello\r\n"),
            m(C + b"5;a", b"\nhello\r\n"),
            m(C + b"0\r\nA: b", b"\n\r\n"),
            m(C + b"0\r\n", b"\n"),
        ],
    ),
    "space_before_field": (400, [m(G, b" Host: a\r\n"), m(G, b"\tHost: a\r\n"), m(G, b" \r\n")]),
    "obs_fold": (
        400,
        [m(G + H, b" b\r\n\r\n"), m(G + H, b"\tb\r\n\r\n"), m(G + H, b" \r\n"), m(C + b"0\r\n", b" \r\n")],
    ),
    "empty_name": (400, [m(G, b": a\r\n"), m(C + b"0\r\n", b":a\r\n")]),
    "space_before_colon": (
        400,
        [m(G + b"Host", b" : a\r\n"), m(G + b"Host", b"\t: a\r\n"), m(G + b"A", b" b: c\r\n")],
    ),
    "bad_name": (
        400,
        [
            m(G + b"A", b"(: b\r\n"),
            m(G, b"\x00: b\r\n"),
            m(G + b"A", b"\x80: b\r\n"),
            m(G + b"a", b'": b'),
            m(G, b"@: b"),
            m(G, b"[: b"),
            m(G, b"/: b"),
            m(G, b"{: b"),
            m(G, b"\x7f: b"),
        ],
    ),
    "missing_colon": (400, [m(G + b"Host", b"\r\n"), m(C + b"0\r\nA", b"\r\n")]),
    "bad_value": (
        400,
        [
            m(G + b"A: ", b"\x00\r\n"),
            m(G + b"A: b", b"\x1fc"),
            m(G + b"A: ", b"\x7f\r\n"),
            m(G + b"A:", b"\x0b b"),
            m(C + b"0\r\nA: ", b"\x01\r\n"),
        ],
    ),
    "header_too_large": (
        431,
        [(m(G + b"A: " + b"x" * 37, b"x\r\n"), SMALL), (m(G + b"x" * 40, b"x"), SMALL)],
    ),
    "too_many_headers": (
        431,
        [
            (m(G + H + b"a:\r\n" * 3, b"a:\r\n\r\n"), SMALL),
            (C + b"0\r\n" + b"a:\r\n" * 5 + b"\r\n", len(C) + 3 + 19, SMALL),
        ],
    ),
    "head_too_large": (
        431,
        [(m(G + H + (b"a: " + b"x" * 34 + b"\r\n") * 2 + b"b: 67890123456789", b"6"), SMALL)],
    ),
    "missing_host": (
        400,
        [m(G, b"\r\n"), m(G + b"Hos: a\r\n", b"\r\n"), m(b"GET http://a/ HTTP/1.1\r\n", b"\r\n")],
    ),
    "repeated_host": (400, [m(G + H, H + b"\r\n"), m(b"GET / HTTP/1.0\r\n" + H, b"host: b\r\n\r\n")]),
    "bad_host": (
        400,
        [
            m(G + b"Host:", b"\r\n\r\n"),
            *(
                m(G + b"Host: ", value + b"\r\n\r\n")
                for value in (
                    *(
                        b"a b",
                        b"a/b",
                        b"a@b",
                        b"u@a:1",
                        b"a:b",
                        b":80",
                        b"a:80:80",
                        b"a:65536",
                        b"a:-1",
                        b"a%4",
                        b"%zz",
                    ),
                    *(
                        b"[",
                        b"[]",
                        b"[::1",
                        b"::1",
                        b"[::1]x",
                        b"[::g]",
                        b"[1:2]",
                        b"[1:2:3:4:5:6:7:8:9]",
                        b"[:1::2]",
                    ),
                    *(
                        b"[1::2::3]",
                        b"[::1.2.3]",
                        b"[::1.2.3.256]",
                        b"[12345::]",
                        b"[v1.x]",
                        b"a..b",
                        b".a",
                        b"a\\b",
                    ),
                    *(b"http://a", b"a?", b"a#b", b"\xe4", b"[1:2:3:4:5:6:7::8]", b"[::1:]", b"[1.2.3.4]"),
                )
            ),
        ],
    ),
    "host_mismatch": (
        400,
        [
            m(b"GET http://a/ HTTP/1.1\r\nHost: ", b"b\r\n\r\n"),
            m(b"GET http://a:1/ HTTP/1.1\r\nHost: ", b"a\r\n\r\n"),
        ],
    ),
    "bad_content_length": (
        400,
        [
            *(
                m(P + b"Content-Length: ", value + b"\r\n\r\n")
                for value in (b"", b"+1", b"-1", b"x", b",1", b"\xb2")
            ),
            m(P + b"Content-Length: 1", b", 1\r\n\r\n"),
            m(P + b"Content-Length: 1", b" 1\r\n\r\n"),
            m(P + b"Content-Length: 1", b"_0\r\n\r\n"),
            m(P + b"Content-Length: 0", b"x10\r\n\r\n"),
            m(P + b"Content-Length: 1", b".0\r\n\r\n"),
            m(P + b"Content-Length: 1", b"e1\r\n\r\n"),
            m(P + b"Content-Length: 99999999999999999999", b"x\r\n\r\n"),
        ],
    ),
    "repeated_content_length": (
        400,
        [
            m(P + b"Content-Length: 1\r\n", b"Content-Length: 1\r\n\r\n"),
            m(P + b"Content-Length: 1\r\n", b"content-length: 2\r\n\r\n"),
        ],
    ),
    "body_too_large": (
        413,
        [
            *(
                m(P + b"Content-Length: ", str(n).encode() + b"\r\n\r\n")
                for n in (2**30 + 1, 2**63 - 1, 2**63, 2**64)
            ),
            m(P + b"Content-Length: ", b"9" * 40 + b"\r\n\r\n"),
            (m(P + b"Content-Length: ", b"11\r\n\r\n"), SMALL),
            m(C + b"4000000", b"1\r\n"),
            m(C + b"40000000", b"0" * 9 + b"\r\n"),
            (m(C + b"6\r\nabcdef\r\n", b"5\r\nabcde"), SMALL),
        ],
    ),
    "bad_transfer_encoding": (
        400,
        [
            m(P + b"Transfer-Encoding: ", b"\r\n\r\n"),
            m(P + b"Transfer-Encoding: ", b", chunked\r\n\r\n"),
            m(P + b"Transfer-Encoding: chunked", b";q=1\r\n\r\n"),
            m(P + b"Transfer-Encoding: chunked", b" x\r\n\r\n"),
            m(P + b"Transfer-Encoding: ", b"=\r\n\r\n"),
            m(P + b"Transfer-Encoding: ", b'"chunked"\r\n\r\n'),
            (P + b"Transfer-Encoding: chunked,\r\n\r\n", len(P) + 27),
        ],
    ),
    "chunked_not_last": (
        400,
        [
            m(P, b"Transfer-Encoding: " + value + b"\r\n\r\n")
            for value in (b"gzip", b"identity", b"chunked, gzip", b"xchunked")
        ],
    ),
    "repeated_chunked": (
        400,
        [
            m(P, b"Transfer-Encoding: chunked, chunked\r\n\r\n"),
            m(P + b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked\r\n\r\n"),
            m(P, b"Transfer-Encoding: chunked, gzip, chunked\r\n\r\n"),
        ],
    ),
    "unknown_transfer_coding": (
        501,
        [
            m(P, b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
            m(P + b"Transfer-Encoding: gzip\r\n", b"Transfer-Encoding: chunked\r\n\r\n"),
        ],
    ),
    "old_transfer_encoding": (400, [m(b"POST / HTTP/1.0\r\n", b"Transfer-Encoding: chunked\r\n\r\n")]),
    "ambiguous_length": (
        400,
        [
            m(P + b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n\r\n"),
            m(P + b"Transfer-Encoding: chunked\r\n", b"Content-Length: 0\r\n\r\n"),
        ],
    ),
    "connect_with_content": (
        400,
        [
            m(b"CONNECT a:1 HTTP/1.1\r\n" + H, b"Content-Length: 1\r\n\r\n"),
            m(b"CONNECT a:1 HTTP/1.1\r\n" + H, b"Transfer-Encoding: chunked\r\n\r\n"),
        ],
    ),
    "bad_chunk_size": (
        400,
        [
            m(C, value)
            for value in (b"\r\n", b" 5\r\n", b"+5\r\n", b"-5\r\n", b";a\r\n", b"g\r\n", b"_5\r\n", b"\x00")
        ]
        + [
            m(C + b"0", b"x5\r\n"),
            m(C + b"5", b"_0\r\n"),
            m(C + b"5", b"g\r\n"),
            m(C + b"5", b".0\r\n"),
            m(C + b"5", b","),
        ],
    ),
    "bad_chunk_extension": (
        400,
        [
            m(C + b"5 ", b"\r\n"),
            m(C + b"5\t", b"\r\n"),
            m(C + b"5;", b"\r\n"),
            m(C + b"5;", b";a\r\n"),
            m(C + b"5;a=", b"\r\n"),
            m(C + b"5;a=", b";b\r\n"),
            m(C + b"5;a", b"[\r\n"),
            m(C + b"5;a=b", b'"c"\r\n'),
            m(C + b'5;a="b"', b"c\r\n"),
            m(C + b'5;a="b', b"\r\n"),
            m(C + b'5;a="\\', b"\r\n"),
            m(C + b"5;a ", b"b\r\n"),
            m(C + b"5;a ", b"\r\n"),
            m(C + b"5;a=b ", b"\r\n"),
            m(C + b"5;a", b"\x00\r\n"),
        ],
    ),
    "chunk_line_too_long": (
        400,
        [(m(C + b"5;abcdef", b"g\r\n"), SMALL), (m(C + b"00000000", b"1\r\n"), SMALL)],
    ),
    "bad_chunk_end": (
        400,
        [
            m(C + b"1\r\na", b"b\r\n"),
            m(C + b"1\r\na", b"\n"),
            m(C + b"1\r\na\r", b"\r\n"),
            m(C + b"2\r\nab", b"0"),
        ],
    ),
    "forbidden_trailer": (
        400,
        [
            m(C + b"0\r\n", name + b": 1\r\n\r\n")
            for name in (
                b"Content-Length",
                b"transfer-encoding",
                b"Host",
                b"Connection",
                b"TRAILER",
                b"Authorization",
                b"Cookie",
                b"Expect",
            )
        ]
        + [m(C + b"0\r\nA: b\r\n", b"Host: a\r\n\r\n")],
    ),
    "trailers_too_large": (431, [(C + b"0\r\nA: 3456789\r\nB: 3456789\r\n\r\n", len(C) + 3 + 20, SMALL)]),
    "incomplete": (
        400,
        [b"GET / HT" + MARK, G + MARK, C + b"5\r\nhe" + MARK, C + b"0\r\nA: b\r\n" + MARK, b"\r" + MARK],
    ),
}

REFUSALS = [(code, status, case) for code, (status, cases) in REFUSED.items() for case in cases]


@pytest.mark.parametrize(("code", "status", "case"), REFUSALS)
def test_a_broken_rule_is_told_with_status_code_and_offset_at_every_split(code, status, case):
    data, *rest = case if isinstance(case, tuple) else (case,)
    limits = next((item for item in rest if isinstance(item, Limits)), None)
    offset = next((item for item in rest if isinstance(item, int)), data.find(MARK))
    assert offset >= 0
    data = data.replace(MARK, b"")
    start = len(data) - len(data.removeprefix(G + H + b"\r\n"))  # where the message begins
    whole = feed([data], limits)
    assert whole[-1] == ("error", status, code, offset - start)
    for pieces in split_everywhere(data):
        assert feed(pieces, limits) == whole


def test_every_fault_of_the_core_has_cases():
    header = (Path(__file__).parents[2] / "src/core/http/ka_head.h").read_text()
    faults = {name.lower(): int(status) for name, status in re.findall(r"X\(([A-Z0-9_]+), (\d{3}),", header)}
    assert faults == {code: status for code, (status, _) in REFUSED.items()}
    assert set(faults.values()) == {400, 413, 414, 431, 501, 505}


ACCEPTED = [
    b"\r\n" + G + H + b"\r\n",
    b"M-SEARCH /_ HTTP/1.1\r\n" + H + b"\r\n",
    b"A" * 32 + b" / HTTP/1.1\r\n" + H + b"\r\n",
    b"GET /a;b=c,d/%41%c3%a9?x=%zz&y[]={|}^`\\ HTTP/1.1\r\n" + H + b"\r\n",
    b"GET /?? HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n",
    b"GET http://a HTTP/1.1\r\n" + H + b"\r\n",
    b"GET HTTPS://A:8443?x HTTP/1.1\r\nHost: a:8443\r\n\r\n",
    b"GET http://[2001:db8::1]:80/x HTTP/1.0\r\n\r\n",
    b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
    G.replace(b"1.1", b"1.9") + H + b"\r\n",
    G + H + b"A:\r\nB: \t \r\nC:\t x \ty\t \r\n!#$%&'*+-.^_`|~09: \x80\xff\r\n\r\n",
    *(
        G + b"Host: " + host + b"\r\n\r\n"
        for host in (
            *(
                b"a.",
                b"a:",
                b"a:0",
                b"a:00080",
                b"a_b",
                b"1.2.3.4",
                b"a%41",
                b"a=b",
                b"[::]",
                b"[::1]:8080",
                b"[1::]",
            ),
            *(
                b"[1:2:3:4:5:6:7:8]",
                b"[::ffff:1.2.3.4]",
                b"[1:2:3:4:5:6:1.2.3.4]",
                b"[1:2:3:4:5:6:7::]",
                b"[fe80::1]",
            ),
        )
    ),
    P + b"Content-Length: 0\r\n\r\n",
    P + b"Content-Length: 0000000000000000000000000000003\r\n\r\nabc",
    P + b"Content-Length:\t3 \r\nExpect: 100-Continue\r\n\r\nabc",
    P + b"TRANSFER-ENCODING:\tChunked \r\n\r\n0\r\n\r\n",
    C + b'5;a;b=c ; d = "e\\"\\\x80\t;" ;f\r\nhello\r\n00A\r\n0123456789\r\n000\r\nX: y\r\nVary: *\r\n\r\n',
    C + b'a;x="\\\\"\r\n0123456789\r\n0;last\r\n\r\n',
]


@pytest.mark.parametrize("data", ACCEPTED)
def test_what_the_rules_allow_is_read_at_every_split(data):
    whole = feed([data])
    assert [event[0] for event in whole if event[0] != "body"] == ["head", "end"]
    for pieces in split_everywhere(data):
        assert feed(pieces) == whole


@pytest.mark.parametrize(
    ("lines", "minor", "kept"),
    [
        (b"", 1, True),
        (b"", 0, False),
        (b"Connection: keep-alive\r\n", 0, True),
        (b"Connection: close\r\n", 1, False),
        (b"connection:  Foo , ,\tCLOSE\t\r\n", 1, False),
        (b"Connection: a\r\nX: close\r\nConnection: Close\r\n", 1, False),
        (b"Connection: keep-alive, close\r\n", 1, False),
        (b"Connection: keep-alive\r\nConnection: close\r\n", 0, False),
        (b"Connection: closed\r\n", 1, True),
        (b"Connection: close keep-alive\r\n", 1, True),
        (b"Proxy-Connection: close\r\n", 1, True),
    ],
)
def test_connection_options_decide_whether_the_client_can_reuse_it(lines, minor, kept):
    head, *_ = feed([b"GET / HTTP/1.%d\r\nHost: a\r\n" % minor + lines + b"\r\n"])
    assert head[4] is kept


def test_limits_are_met_exactly_and_not_one_byte_more():
    target = b"/" + b"x" * 19
    line = b"A: " + b"x" * 37
    head = b"GET " + target + b" HTTP/1.1\r\n" + H + line + b"\r\n\r\n"
    at_limit = Limits(max_head_bytes=len(head), max_target_bytes=20, max_headers=2, max_header_bytes=40)
    assert feed([head], at_limit)[0][2] == target
    assert feed([head], Limits(max_head_bytes=len(head) - 1))[-1][2:] == ("head_too_large", len(head) - 1)
    assert feed([head], Limits(max_headers=1))[-1][2] == "too_many_headers"
    trailers = C + b"0\r\nA: b\r\n\r\n"
    assert feed([trailers], Limits(max_trailer_bytes=6))[-1] == ("end", ((b"a", b"b"),))
    assert feed([trailers], Limits(max_trailer_bytes=5))[-1][2] == "trailers_too_large"
    assert feed([C + b"0\r\n\r\n"], Limits(max_trailer_bytes=0))[-1] == ("end", ())
