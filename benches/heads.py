"""What do the parser benches read? tiny, wrk, browser, h40, pipe16, and mixed: 256 different heads."""

import random

TINY = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
WRK = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n"

BROWSER = (
    b"GET /wp-content/uploads/2010/03/hello-kitty-darth-vader-pink.jpg HTTP/1.1\r\n"
    b"Host: www.kittyhell.com\r\n"
    b"User-Agent: Mozilla/5.0 (Macintosh; U; Intel Mac OS X 10.6; ja-JP-mac; rv:1.9.2.3) Gecko/20100401 "
    b"Firefox/3.6.3 Pathtraq/0.9\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    b"Accept-Language: ja,en-us;q=0.7,en;q=0.3\r\n"
    b"Accept-Encoding: gzip,deflate\r\n"
    b"Accept-Charset: Shift_JIS,utf-8;q=0.7,*;q=0.7\r\n"
    b"Keep-Alive: 115\r\n"
    b"Connection: keep-alive\r\n"
    b"Cookie: wp_ozh_wsa_visits=2; wp_ozh_wsa_visit_lasttime=xxxxxxxxxx; "
    b"__utma=xxxxxxxxx.xxxxxxxxxx.xxxxxxxxxx.xxxxxxxxxx.xxxxxxxxxx.x; "
    b"__utmz=xxxxxxxxx.xxxxxxxxxx.x.x.utmccn=(referral)|utmcsr=reader.livedoor.com|utmcct=/reader/|"
    b"utmcmd=referral\r\n\r\n"
)

COMMON = [
    (
        b"User-Agent",
        b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36",
    ),
    (b"Accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
    (b"Accept-Encoding", b"gzip, deflate, br, zstd"),
    (b"Accept-Language", b"en-GB,en;q=0.9,de;q=0.8"),
    (b"Connection", b"keep-alive"),
    (b"Cache-Control", b"max-age=0"),
    (b"sec-ch-ua", b'"Chromium";v="126", "Not.A/Brand";v="24"'),
    (b"sec-ch-ua-mobile", b"?0"),
    (b"sec-ch-ua-platform", b'"Linux"'),
    (b"Sec-Fetch-Dest", b"document"),
    (b"Sec-Fetch-Mode", b"navigate"),
    (b"Sec-Fetch-Site", b"same-origin"),
    (b"Upgrade-Insecure-Requests", b"1"),
    (b"X-Forwarded-For", b"203.0.113.195, 198.51.100.178"),
    (b"X-Forwarded-Proto", b"https"),
    (b"X-Request-Id", b"7f3c2a9e-5b1d-4c8e-9f0a-1d2e3f4a5b6c"),
    (b"Referer", b"https://shop.example.com/catalogue/lamps?page=3"),
    (b"Origin", b"https://shop.example.com"),
    (b"If-None-Match", b'W/"5d8c72a5edda8"'),
    (b"DNT", b"1"),
    (b"Pragma", b"no-cache"),
    (b"Authorization", b"Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"),
]


def joined(line: bytes, fields: list[tuple[bytes, bytes]]) -> bytes:
    return line + b"\r\n" + b"".join(name + b": " + value + b"\r\n" for name, value in fields) + b"\r\n"


def h40() -> bytes:
    own = [(b"X-Custom-Field-%02d" % i, b"value-of-the-field-%02d-" % i + b"v" * 16) for i in range(1, 30)]
    return joined(
        b"GET /api/v1/things/42?with=all HTTP/1.1", [(b"Host", b"api.example.com"), *COMMON[:10], *own]
    )


def mixed(n: int = 256) -> list[bytes]:
    """Different heads, as many clients behind one proxy would send them. Seeded: the same list each time."""
    seed = random.Random(1)
    heads = []
    for i in range(n):
        fields = [(b"Host", b"host%d.example.com" % seed.randrange(50))]
        for name, value in seed.sample(COMMON, seed.randrange(3, 14)):
            fields.append(
                (name, value[: seed.randrange(1, len(value) + 1)] if seed.random() < 0.4 else value)
            )
        if seed.random() < 0.6:
            fields.append((b"Cookie", b"session=" + seed.randbytes(seed.randrange(8, 60)).hex().encode()))
        seed.shuffle(fields)
        path = b"/" + b"/".join(b"%x" % seed.randrange(16**6) for _ in range(seed.randrange(1, 6)))
        heads.append(joined(b"GET " + path + (b"?id=%d" % i if i % 3 else b"") + b" HTTP/1.1", fields))
    return heads


# name -> the pieces that are fed one after the other; a piece of pipe16 holds 16 heads
INPUTS = {
    "tiny": [TINY],
    "wrk": [WRK],
    "browser": [BROWSER],
    "h40": [h40()],
    "pipe16": [TINY * 16],
    "mixed": mixed(),
}
HEADS = {name: sum(piece.count(b"\r\n\r\n") for piece in pieces) for name, pieces in INPUTS.items()}

if __name__ == "__main__":
    for name, pieces in INPUTS.items():
        print(f"{name}: {sum(map(len, pieces)) / HEADS[name]:.0f} bytes a head, {HEADS[name]} heads")
