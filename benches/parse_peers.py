"""The peers of bench_parse.py in a process of their own, in which kacore is never imported: how long do they take there?

What a library leaves behind in a process may slow all others in it, so a peer is asked twice: here, and beside
kacore. Reads lines of JSON {input, peer, n} and answers each with seconds; `timed` and `peers` serve bench_parse.py too.
"""

import json
import subprocess
import sys
import time

from heads import INPUTS


def timed(function, pieces):
    """A short list of pieces is read many times in one call, so that the call is not what is measured."""
    times = max(1, 256 // len(pieces))
    many = pieces * times

    def run(n):
        start = time.perf_counter()
        for _ in range(n):
            function(many)
        return (time.perf_counter() - start) / times

    return run


def httptools_full():
    import httptools

    class Protocol:
        def __init__(self):
            self.headers = []
            self.url = b""

        def on_message_begin(self):
            self.headers = []

        def on_url(self, url):
            self.url = url

        def on_header(self, name, value):
            self.headers.append((name.lower(), value))

        def on_headers_complete(self):
            parser.get_method(), parser.get_http_version(), parser.should_keep_alive()

    parser = httptools.HttpRequestParser(Protocol())

    def run(pieces):
        for piece in pieces:
            parser.feed_data(piece)

    return run


def gunicorn_h1c_full():
    from gunicorn_h1c import parse_request_fast

    def run(pieces):
        for piece in pieces:
            head = parse_request_fast(piece)
            head.method, head.path, head.minor_version, head.asgi_headers, head.connection_close  # noqa: B018

    def run_pipelined(pieces):
        for piece in pieces:
            while piece:
                head = parse_request_fast(piece)
                head.method, head.path, head.minor_version, head.asgi_headers, head.connection_close  # noqa: B018
                piece = piece[head.consumed :]

    return run, run_pipelined


def aiohttp_full():
    import asyncio

    from aiohttp.base_protocol import BaseProtocol
    from aiohttp.http_parser import HttpRequestParserC

    loop = asyncio.new_event_loop()
    parser = HttpRequestParserC(BaseProtocol(loop), loop, 2**16)

    def run(pieces):
        for piece in pieces:
            for message, _ in parser.feed_data(piece)[0]:
                message.method, message.path, message.version, message.raw_headers, message.should_close  # noqa: B018

    return run


def h11_full():
    import h11

    def run(pieces):
        for piece in pieces:
            connection = h11.Connection(h11.SERVER)
            connection.receive_data(piece)
            for _ in range(piece.count(b"\r\n\r\n")):
                request = connection.next_event()
                request.method, request.target, request.http_version, list(request.headers)
                connection.next_event()
                connection.send(h11.Response(status_code=204, headers=[]))
                connection.send(h11.EndOfMessage())
                connection.start_next_cycle()

    return run


def peers(name):
    """{peer: function of a list of pieces} for one input; those that are not installed are not in it."""
    readers = {}
    for peer, make in [
        ("httptools", httptools_full),
        ("gunicorn_h1c", lambda: gunicorn_h1c_full()[name == "pipe16"]),
        ("aiohttp", aiohttp_full),
        ("h11", h11_full),
    ]:
        try:
            readers[peer] = make()
        except ImportError as error:
            print(f"{peer} is not here: {error}", file=sys.stderr)
    return readers


class Alone:
    """That process, seen from bench_parse.py."""

    def __init__(self):
        self._child = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def measure(self, name, peer):
        def seconds(n):
            self._child.stdin.write(json.dumps([name, peer, n]) + "\n")
            self._child.stdin.flush()
            return float(self._child.stdout.readline())

        return seconds

    def close(self):
        self._child.stdin.close()
        self._child.wait()


def main():
    measures = {}
    for line in sys.stdin:
        name, peer, n = json.loads(line)
        if name not in measures:
            measures[name] = {key: timed(reader, INPUTS[name]) for key, reader in peers(name).items()}
        print(measures[name][peer](n), flush=True)
    if "kacore" in sys.modules:
        raise SystemExit("kacore was imported beside peers that were to be alone")


if __name__ == "__main__":
    main()
