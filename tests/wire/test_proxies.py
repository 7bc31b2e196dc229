"""Who the client is when a trusted proxy stands in between: X-Forwarded-For, X-Forwarded-Proto, the PROXY protocol."""

import contextlib
import json
import socket
import struct

import pytest

from kacore import Policy, PolicySet, Rule, Server
from kacore.server import UsageError
from tests.wire.conftest import wait_until

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


async def who_asgi(scope, receive, send):
    body = json.dumps([scope["client"], scope["scheme"]]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def who_wsgi(environ, start_response):
    start_response("200 OK", [])
    client = [environ["REMOTE_ADDR"], int(environ["REMOTE_PORT"])]
    return [json.dumps([client, environ["wsgi.url_scheme"]]).encode()]


def who_handler(request):
    return json.dumps([request.client, request.scheme])


WHO = {"asgi": who_asgi, "wsgi": who_wsgi, "handler": who_handler}


@pytest.fixture(params=WHO)
def who(request, start):
    """who(options...) serves an application that answers [client, scheme], by each interface."""
    app = WHO[request.param]
    return lambda **options: start(app, lifespan="off" if app is who_asgi else "auto", **options)


def asked(c, *fields):
    (host, port), scheme = json.loads(c.get("/", *fields).body)
    return host, port, scheme


def own(c):
    return ("127.0.0.1", c.sock.getsockname()[1], "http")


def test_nobody_is_believed_unless_a_network_is_trusted(who, client):
    c = client(who())
    assert asked(c, "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https") == own(c)


def test_clients_outside_the_trusted_networks_are_not_believed(who, client):
    c = client(who(forwarded_allow_ips="10.0.0.0/8, ::1"))
    assert asked(c, "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https") == own(c)


def test_a_trusted_proxy_names_client_and_scheme_for_each_request_anew(who, client):
    c = client(who(forwarded_allow_ips=["127.0.0.0/8"]))
    assert asked(c, "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https") == ("192.0.2.1", 0, "https")
    assert asked(c, "X-Forwarded-For: 2001:db8::7") == ("2001:db8::7", 0, "http")
    assert asked(c) == own(c)


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ("192.0.2.9, 192.0.2.1", ("192.0.2.1", 0)),
        ("evil, 192.0.2.1, 10.0.0.1", ("192.0.2.1", 0)),
        ("192.0.2.1:4711", ("192.0.2.1", 4711)),
        ("[2001:db8::1]:4711", ("2001:db8::1", 4711)),
        ("[2001:db8::1]", ("2001:db8::1", 0)),
        ("10.0.0.2, 10.0.0.1", ("10.0.0.2", 0)),
        ("unknown, 10.0.0.1", ("10.0.0.1", 0)),
        ("192.0.2.1, , 10.0.0.1", ("10.0.0.1", 0)),
        ("192.0.2.1, 1.2.3.4\xe9, 10.0.0.1", ("10.0.0.1", 0)),
        ("192.0.2.1:99999", ("192.0.2.1", 0)),
        ("::ffff:10.0.0.3, ::ffff:10.0.0.1", ("::ffff:10.0.0.3", 0)),
    ],
)
def test_the_client_is_the_right_most_address_that_is_no_proxy_of_ours(start, client, chain, expected):
    c = client(start(who_handler, forwarded_allow_ips="127.0.0.1,10.0.0.0/8"))
    assert asked(c, f"X-Forwarded-For: {chain}")[:2] == expected


def test_no_address_is_a_unix_socket_of_ours(start, client, tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        start(who_handler, sockets=[listener], forwarded_allow_ips="unix")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(path)
            for unspecified in ("::", "0.0.0.0", "::ffff:0:0"):
                chain = f"192.0.2.1, {unspecified}"
                sock.sendall(f"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {chain}\r\n\r\n".encode())
                (host, _port), _scheme = json.loads(sock.recv(65536).partition(b"\r\n\r\n")[2])
                assert host == unspecified


def test_several_lines_are_one_list(start, client):
    c = client(start(who_handler, forwarded_allow_ips="127.0.0.1,10.0.0.0/8"))
    assert asked(c, "X-Forwarded-For: 192.0.2.1", "x-forwarded-for: 10.0.0.1")[0] == "192.0.2.1"


@pytest.mark.parametrize(("value", "scheme"), [("HTTPS", "https"), ("http, wss", "https"), ("gopher", "http")])
def test_scheme_is_http_or_https_by_the_nearest_proxy(start, client, value, scheme):
    c = client(start(who_handler, forwarded_allow_ips="*"))
    assert asked(c, f"X-Forwarded-Proto: {value}")[2] == scheme


def test_other_spellings_are_the_clients_own_and_not_believed(start, client):
    c = client(start(who_handler, forwarded_allow_ips="*"))
    assert asked(c, "Forwarded: for=192.0.2.1;proto=https", "X-Real-IP: 192.0.2.1") == own(c)


def test_a_trusted_proxy_is_no_client_of_the_per_client_limit(start, client):
    policy = Policy(max_connections_per_client=1)
    running = start(who_handler, policy=policy, forwarded_allow_ips="127.0.0.1")
    first, second = client(running), client(running)
    assert first.get().status == second.get().status == 200
    assert running.closed("client_limit") == 0


@pytest.mark.parametrize("given", ["10.0.0.1/8", "example.com", "300.0.0.1"])
def test_what_is_no_network_is_a_usage_error(given):
    with pytest.raises(UsageError, match="forwarded_allow_ips="):
        Server(who_handler, forwarded_allow_ips=given)


# -- the PROXY protocol ----------------------------------------------------------------------------------------


def v2(command=0x21, family=0x11, content=None, tlvs=b""):
    if content is None:
        content = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.1") + struct.pack("!HH", 4711, 443)
    content += tlvs
    return SIGNATURE + bytes([command, family]) + struct.pack("!H", len(content)) + content


V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1") * 2 + struct.pack("!HH", 4711, 443)


@pytest.fixture
def proxied(start):
    return lambda app=who_handler, **options: start(
        app, forwarded_allow_ips="127.0.0.1", proxy_protocol=True, **options
    )


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n", ("192.0.2.1", 4711)),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n", ("2001:db8::1", 4711)),
        (v2(), ("192.0.2.1", 4711)),
        (v2(family=0x21, content=V6), ("2001:db8::1", 4711)),
        (v2(tlvs=b"\x04\x00\x08" + b"\0" * 8), ("192.0.2.1", 4711)),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ff:: ff:: 1 2\r\n", None),
        (v2(command=0x20), None),
        (v2(family=0, content=b""), None),
        (v2(family=0x31, content=b"\0" * 216), None),
    ],
)
def test_a_proxy_header_names_the_client_of_the_connection(proxied, client, head, expected):
    c = client(proxied()).send(head)
    if expected is None:
        expected = own(c)[:2]
    assert asked(c)[:2] == expected
    assert asked(c, "X-Forwarded-For: 203.0.113.9")[:2] in (expected, ("203.0.113.9", 0))


def test_the_client_that_a_proxy_header_names_is_not_believed_itself(proxied, client):
    c = client(proxied()).send(b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n")
    assert asked(c, "X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https") == ("192.0.2.1", 4711, "http")


def test_the_client_that_a_proxy_header_names_has_its_limit_of_connections(proxied, client):
    running = proxied(policy=Policy(max_connections_per_client=2, retry_after=3))
    held = [client(running).send(b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n") for _ in range(2)]
    assert [c.get().status for c in held] == [200, 200]
    over = client(running).send(v2() + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = over.response()
    assert (answer.status, answer.get("retry-after")) == (503, "3")
    assert over.is_closed()
    assert running.closed("client_limit") == 1
    for named in (b"TCP4 192.0.2.2 198.51.100.1 1 443", b"TCP4 127.0.0.1 127.0.0.1 1 443", b"UNKNOWN"):
        head = b"PROXY " + named + b"\r\n"
        others = [client(running).send(head) for _ in range(2)]
        assert [c.get().status for c in others] == [200, 200]
    trusted = [client(running).send(b"PROXY UNKNOWN\r\n") for _ in range(3)]
    assert [c.get().status for c in trusted] == [200] * 3
    held[0].close()
    wait_until(lambda: running.closed("client") == 1, "it has let one go")
    assert client(running).send(v2()).get().status == 200
    running.check()


@pytest.mark.parametrize("head", [b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n", v2(tlvs=b"\x05\0\x03abc")])
def test_a_proxy_header_may_come_in_any_pieces(proxied, client, head):
    running = proxied()
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    for cut in (1, 5, 6, 11, 12, 13, 15, 16, 17, len(head) - 1, len(head), len(head) + 3):
        c = client(running).send((head + request)[:cut])
        c.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        running.ask(lambda: None)
        c.send((head + request)[cut:])
        assert json.loads(c.response().body)[0] == ["192.0.2.1", 4711]


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\n",
        b"PROXY TCP4 192.0.2.1  198.51.100.1 4711 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443 \r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443 1\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 4711\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 04711 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 4711 443\r\n",
        b"PROXY TCP4 192.0.2.1\0 198.51.100.1 4711 443\r\n",
        b"PROXY TCP5 192.0.2.1 198.51.100.1 4711 443\r\n",
        b"PROXY \r\n",
        b"PROXY " + b"A" * 200,
        b"\r\n\r\n\0\r\nQUIX\n" + b"\0" * 20,
        v2(command=0x11),
        v2(command=0x22),
        v2(family=0x12),
        v2(content=b"\0" * 11),
        v2(family=0x21, content=b"\0" * 35),
        SIGNATURE + b"\x21\x11\xff\xff",
    ],
)
def test_what_is_no_proxy_header_closes_without_an_answer(proxied, client, head):
    running = proxied()
    c = client(running).send(head)
    assert c.rest() == b""
    assert running.closed("bad_request") == 1


def test_a_proxy_that_sends_no_header_is_told_of_once(proxied, client, caplog):
    running = proxied()
    for _ in range(3):
        client(running).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").rest()
    # with a header it is its client who is wrong, and one that says nothing may be a health check
    client(running).send("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nrubbish\r\n\r\n").rest()
    client(running).close()
    running.check_empty()
    told = "a connection from 127.0.0.1 did not begin with a PROXY header and was closed: have the proxy send one"
    assert caplog.text.count(told) == caplog.text.count("PROXY") == 1


def test_half_a_proxy_header_ends_with_its_sender_or_with_the_first_byte_timeout(proxied, client):
    running = proxied(policy=Policy(first_byte_timeout=0.2))
    silent = client(running).send(b"PROXY TCP4 192.")
    client(running).send(SIGNATURE).fin().rest()
    client(running).fin().rest()
    with contextlib.suppress(ConnectionResetError):  # where what it sent stays in the kernel, unread
        assert silent.rest() == b""
    assert running.closed("first_byte_timeout") == 1
    assert running.closed("client") == 1
    assert running.closed("bad_request") == 1


def test_untrusted_clients_speak_http_at_once(start, client):
    running = start(who_handler, forwarded_allow_ips="10.0.0.0/8", proxy_protocol=True)
    c = client(running)
    assert asked(c) == own(c)
    assert client(running).send(v2()).response().status == 400


def test_proxy_protocol_from_nobody_is_a_usage_error():
    with pytest.raises(UsageError, match="proxy_protocol needs forwarded_allow_ips"):
        Server(who_handler, proxy_protocol=True)


# -- rules -----------------------------------------------------------------------------------------------------


def keep_alive(response):
    return response.get("keep-alive")


def test_a_rule_for_the_clients_network_gives_its_connections_their_class(start, client):
    rules = [Rule(client="127.0.0.0/8", keep_alive_timeout=20.0), Rule(client="10.0.0.0/8", keep_alive_timeout=5.0)]
    c = client(start(who_handler, policy=PolicySet(Policy(), rules)))
    assert keep_alive(c.get()) == "timeout=19"


def test_a_rule_for_a_listener_gives_its_connections_their_class(start, client, free_port):
    port = free_port()
    rules = [Rule(listener=f"127.0.0.1:{port}", keep_alive_timeout=20.0)]
    with socket.create_server(("127.0.0.1", port)) as sock:
        running = start(who_handler, policy=PolicySet(Policy(), rules), sockets=[sock])
        assert keep_alive(client(running).get()) == "timeout=19"


def test_rules_for_host_and_user_agent_are_asked_for_each_request(start, client):
    rules = [
        Rule(user_agent="^Old", keep_alive=False),
        Rule(host="*.example.com", keep_alive_timeout=20.0),
    ]
    running = start(who_handler, policy=PolicySet(Policy(), rules))
    c = client(running)
    assert keep_alive(c.get()) == "timeout=74"
    c.send("GET / HTTP/1.1\r\nHost: www.example.com:80\r\n\r\n")
    assert keep_alive(c.response()) == "timeout=19"
    assert keep_alive(c.get()) == "timeout=74"
    assert c.get("/", "User-Agent: Old/1").get("connection") == "close"
    assert c.is_closed()
    c.close()
    wait_until(lambda: running.closed("policy") == 1)


def test_max_body_bytes_of_the_class_is_the_limit_of_its_requests(start, client):
    default = Policy(max_body_bytes=10)
    rules = [Rule(host="big", max_body_bytes=100), Rule(host="small", max_body_bytes=3)]
    running = start(lambda request: request.body, policy=PolicySet(default, rules))

    def post(host, n, chunked):
        c = client(running).send(f"POST / HTTP/1.1\r\nHost: {host}\r\n")
        if chunked:
            c.send(f"Transfer-Encoding: chunked\r\n\r\n{n:x}\r\n{'x' * n}\r\n0\r\n\r\n")
        else:
            c.send(f"Content-Length: {n}\r\n\r\n{'x' * n}")
        return c.response().status

    for chunked in (False, True):
        for host, limit in (("other", 10), ("big", 100), ("small", 3)):
            assert post(host, limit, chunked) == 200
            assert post(host, limit + 1, chunked) == 413


def test_rules_given_to_a_running_server_count_from_the_next_request_on(start, client):
    running = start(who_handler)
    c = client(running)
    assert keep_alive(c.get()) == "timeout=74"
    policy = PolicySet(Policy(), [Rule(host="test", keep_alive_timeout=20.0)])
    running.ask(lambda: running.server.set_policy(policy))
    assert keep_alive(c.get()) == "timeout=19"
