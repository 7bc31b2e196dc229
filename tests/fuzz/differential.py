"""Generated and mutated requests, read by kacore, httptools (llhttp) and h11: a rule for every disagreement.

Run: `python tests/fuzz/differential.py --runs 1000000 --seed 1`. Three kinds of disagreement:
- kacore refuses what a peer reads: kacore's code is the rule; a code that the peer is not known to pass over
  is unexplained;
- a peer refuses what kacore reads: one of REASONS must see why in the bytes;
- both read it, but not as the same messages: always unexplained.
A disagreement without a name makes the run fail and is printed.
"""

import argparse
import collections
import random
import re
import sys

from kacore import EndOfMessage, Head, PeerError, RequestParser

HEADS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a?b=c HTTP/1.0\r\nHost: a.example:80\r\nAccept: */*\r\n\r\n",
    b"HEAD /%41 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Long: " + b"v" * 70 + b"\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\nCookie: a=b; c=d\r\nConnection: keep-alive\r\n\r\n",
    b"DELETE http://a/x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"PUT /p HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
    b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\na;x=y\r\n0123456789\r\n0\r\nA: b\r\n\r\n",
]
PIECES = [
    *(b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b";", b",", b"\x00", b"\x7f", b"\x80", b"\xff", b"0", b"5"),
    *(
        b"-",
        b"+",
        b"_",
        b"#",
        b"%",
        b"?",
        b'"',
        b"HTTP/1.1",
        b"HTTP/2.0",
        b"Host: b\r\n",
        b"chunked",
        b"close",
    ),
    *(b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Content-Length: 6\r\n", b"X: y\r\n"),
    *(b" z\r\n", b"0x", b"gzip", b"GET "),
]

# What the peers are known to let through, by the code with which kacore refuses it.
LAX = {
    "httptools": {
        *(
            "empty_lines",
            "missing_host",
            "bad_host",
            "repeated_host",
            "host_mismatch",
            "missing_version",
            "bad_target",
            "bad_escape",
        ),
        *(
            "unknown_method",
            "old_transfer_encoding",
            "bad_version",
            "bad_request_line",
            "bad_chunk_extension",
        ),
        *(
            "bare_lf",
            "bare_cr",
            "forbidden_trailer",
            "unknown_transfer_coding",
            "bad_transfer_encoding",
            "unsupported_version",
        ),
    },
    "h11": {
        *(
            "bare_lf",
            "bare_cr",
            "bad_host",
            "bad_target",
            "unknown_method",
            "bad_value",
            "obs_fold",
            "host_mismatch",
        ),
        *(
            "ambiguous_length",
            "bad_escape",
            "bad_chunk_extension",
            "repeated_content_length",
            "bad_request_line",
        ),
        *("forbidden_trailer", "unsupported_version", "missing_host", "old_transfer_encoding"),
    },
}

NOT_KEPT = "HTTP/1.0 is not kept"

# What a peer refuses and kacore reads: a name, and how its refusal shows that it is this.
REASONS = {
    "httptools": [
        ("bytes after the last message, which kacore leaves alone", r"Data after `Connection: close`"),
        ("a method that it has no name for", r"Invalid method|Expected space after method"),
        ("white space around the parts of a chunk line", r"Invalid character in chunk (size|extensions)"),
        ("a tab behind the transfer coding", r"Request has invalid `Transfer-Encoding`"),
        ("a minor version over 1", r"Invalid HTTP version"),
    ],
    "h11": [
        ("a second request on an HTTP/1.0 connection", r"^HTTP/1.0 is not kept$"),
        ("an empty line before the request", r"no request line received"),
        ("white space around the semicolon of a chunk extension", r"illegal chunk header"),
    ],
}


def mutated(seed: random.Random) -> bytes:
    data = bytearray(b"".join(seed.choices(HEADS, k=seed.choice((1, 1, 2)))))
    for _ in range(seed.choice((0, 1, 1, 1, 2, 3))):
        at = seed.randrange(len(data))
        kind = seed.randrange(5)
        if kind == 0:
            data[at] = seed.randrange(256)
        elif kind == 1:
            data[at:at] = seed.choice(PIECES)
        elif kind == 2:
            del data[at : at + seed.choice((1, 1, 2, 5))]
        elif kind == 3:
            data[at : at + 1] = seed.choice(PIECES)
        else:
            end = data.find(b"\n", at) + 1
            data[end:end] = seed.choice(PIECES)
        data = data or bytearray(b"G")
    return bytes(data)


def plain(headers):
    """h11 gives the value of Transfer-Encoding in lower case, llhttp keeps a tab behind a value."""
    pairs = [(name.lower(), value.strip(b" \t")) for name, value in headers]
    return [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in pairs]


def by_kacore(data):
    """(messages, why refused or None). A message: (method, target, headers, body); whole ones only.

    "incomplete" when the bytes end inside a message, which may then still be refused.
    """
    messages, code = [], None
    parser = RequestParser()
    for event in parser.feed(data) + parser.feed_eof():
        if isinstance(event, Head):
            head, body = event, b""
        elif isinstance(event, PeerError):
            code = event.code
        elif isinstance(event, EndOfMessage):
            messages.append((head.method.encode(), head.target, plain(head.headers), body))
        else:
            body += event
    return messages, code


def by_httptools(data):
    import httptools

    messages = []

    class Protocol:
        def on_message_begin(self):
            self.url, self.headers, self.body, self.done = b"", [], b"", False

        def on_url(self, url):
            self.url += url

        def on_header(self, name, value):
            if not self.done:
                self.headers.append((name, value))

        def on_headers_complete(self):
            self.done = True
            self.method = parser.get_method()

        def on_body(self, body):
            self.body += body

        def on_message_complete(self):
            messages.append((self.method, self.url, plain(self.headers), self.body))

    parser = httptools.HttpRequestParser(Protocol())
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        return messages, "upgrade"
    except httptools.HttpParserError as error:
        return messages, f"{type(error).__name__}: {error}"
    return messages, None


def by_h11(data):
    import h11

    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=100_000)
    messages = []
    try:
        connection.receive_data(data)
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                messages.append((bytes(request.method), bytes(request.target), plain(request.headers), body))
                connection.send(h11.Response(status_code=204, headers=[]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return messages, NOT_KEPT if request.http_version == b"1.0" else None
                connection.start_next_cycle()
            else:
                return messages, None
    except h11.RemoteProtocolError as error:
        return messages, str(error)


def explain(peer, data, ours, theirs):
    """The name of a disagreement; "" when there is none; None when it has no name."""
    (our_messages, code), (their_messages, refusal) = ours, theirs
    common = min(len(our_messages), len(their_messages))
    if our_messages[:common] != their_messages[:common]:
        return None
    if len(their_messages) > len(our_messages):
        return f"kacore refuses: {code}" if code in LAX[peer] else None
    # From here on the peer has told nothing that kacore does not tell: it is the stricter or the later one.
    if len(their_messages) == len(our_messages) and (code is not None or refusal in (None, NOT_KEPT)):
        return ""
    if refusal is None:
        return None
    return next((f"{peer} refuses: {name}" for name, sign in REASONS[peer] if re.search(sign, refusal)), None)


def compare(runs, seed, peers):
    """Counter of named disagreements, and the list of (peer, data, ours, theirs) without a name."""
    source, named, unexplained = random.Random(seed), collections.Counter(), []
    readers = {"httptools": by_httptools, "h11": by_h11}
    for _ in range(runs):
        data = mutated(source)
        ours = by_kacore(data)
        for peer in peers:
            theirs = readers[peer](data)
            name = explain(peer, data, ours, theirs)
            if name is None:
                unexplained.append((peer, data, ours, theirs))
            elif name:
                named[peer, name] += 1
    return named, unexplained


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=100_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--peers", default="httptools,h11")
    chosen = options.parse_args()
    named, unexplained = compare(chosen.runs, chosen.seed, chosen.peers.split(","))
    for (peer, name), n in sorted(named.items()):
        print(f"{n:8} {peer}: {name}")
    for peer, data, ours, theirs in unexplained[:20]:
        print(f"UNEXPLAINED {peer}\n  {data}\n  kacore {ours}\n  {peer} {theirs}")
    print(f"{chosen.runs} runs with seed {chosen.seed}: {len(unexplained)} unexplained")
    return bool(unexplained)


if __name__ == "__main__":
    sys.exit(main())
