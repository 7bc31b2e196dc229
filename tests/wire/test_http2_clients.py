"""HTTP/2 with what others wrote: curl, nghttp, h2load, httpx, node, Java, Chromium; HAProxy, nginx and Caddy in front.

A missing program skips its tests. What is asked is small; that it is asked over HTTP/2 is looked up on both sides.
"""

import asyncio
import http.client
import json
import os
import socket
import ssl
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import kacore
from kacore import Policy
from kacore.server import TLS
from tests.wire.http2_house import make, needs_http2, only_kacore

pytestmark = [needs_http2, only_kacore]

PATIENCE = 60.0


def run(*argv, **options):
    done = subprocess.run(argv, capture_output=True, timeout=PATIENCE, check=False, **options)
    assert done.returncode == 0, (argv, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout.decode()


@pytest.fixture
def io():
    """What differs between the drivers is not for these clients to find; a few ask over the other one, too."""
    return "epoll" if kacore._core.has_epoll else "transports"


@pytest.fixture(params=["plain", "tls", "plain over transports"])
def place(request, localhost, certificates):
    """(house, URL without a slash at its end, file of the root certificate or None)"""
    is_tls = request.param == "tls"
    io = "transports" if "transports" in request.param or not kacore._core.has_epoll else "epoll"
    house = make(io, tls=TLS(localhost)) if is_tls else make(io)
    url = f"https://localhost:{house.port}" if is_tls else f"http://127.0.0.1:{house.port}"
    yield house, url, certificates.roots if is_tls else None
    house.end()


@pytest.fixture
def secure(build, localhost, certificates):
    house = build(tls=TLS(localhost))
    return house, f"https://localhost:{house.port}", certificates.roots


def versions(house):
    """The versions by which the application was asked."""
    return {scope["http_version"] for scope in house.app.scopes}


# -- curl -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def curl(need, place):
    house, url, roots = place
    how = ("--cacert", roots, "--http2", "-4") if roots else ("--http2-prior-knowledge",)

    def curl(path, *arguments):
        return run(need("curl"), "-sS", "--max-time", "30", *how, *arguments, url + path)

    return house, url, curl


def test_curl_gets_posts_and_asks_for_heads(curl, tmp_path):
    house, _, ask = curl
    told = ask("/", "-w", "%{http_version} %{response_code}")
    assert told == "hello\n2 200"
    assert "HTTP/2 200" in ask("/bytes/1000", "-I") and "content-length: 1000" in ask("/bytes/1000", "-I").lower()
    data = os.urandom(2_000_000)
    (tmp_path / "sent").write_bytes(data)
    ask("/echo", "--data-binary", f"@{tmp_path / 'sent'}", "-o", str(tmp_path / "got"))
    assert (tmp_path / "got").read_bytes() == data
    assert versions(house) == {"2"}


def test_curl_waits_for_100_and_reads_hints_and_trailers(curl, tmp_path):
    _, _, ask = curl
    (tmp_path / "sent").write_bytes(b"x" * 100_000)
    told = ask("/read", "-i", "-H", "Expect: 100-continue", "--data-binary", f"@{tmp_path / 'sent'}")
    assert told.startswith("HTTP/2 100") and told.endswith("100000")
    assert "HTTP/2 103" in ask("/hints", "-i")
    told = ask("/trailers", "-H", "TE: trailers", "-D", "-")
    assert "x-sum: 42" in told and "content" in told


def test_curl_asks_for_many_at_once_on_one_connection(need, secure):
    """Not in the clear: curl 7.88 fails then with any server."""
    house, url, roots = secure
    urls = [f"{url}/bytes/{1000 + i}" for i in range(60)]
    how = ("-sS", "--http2", "-4", "--cacert", roots, "-Z", "--parallel-max", "50", "-w", "%{http_version}")
    told = run(need("curl"), *how, *urls)
    assert told.replace("y", "") == "2" * 60 and told.count("y") == sum(range(1000, 1060))
    assert house.running.stats()["accepted"] <= 2


def test_curl_offers_h2c_by_upgrade_and_stays_with_http_1(need, build):
    house = build()
    told = run(need("curl"), "-sS", "--http2", "-w", "%{http_version}", f"http://127.0.0.1:{house.port}/")
    assert told == "hello\n1.1"


# -- nghttp2's own ------------------------------------------------------------------------------------------------------


@pytest.fixture
def nghttp(need, place):
    _, url, _ = place
    return lambda path, *arguments: run(need("nghttp"), *arguments, url + path)


def test_nghttp_reads_all_frames(nghttp, tmp_path):
    told = nghttp("/", "-v")
    assert "recv SETTINGS frame" in told and "hello" in told and "recv RST_STREAM" not in told
    assert "recv GOAWAY" not in told
    (tmp_path / "sent").write_bytes(b"x" * 300_000)
    told = nghttp("/read", "-d", str(tmp_path / "sent"), "--trailer", "x-sum: 1", "-H", "te: trailers")
    assert told == "300000"
    told = nghttp("/bytes/100000", "-n", "-s", "-m", "30", "-w", "12", "-W", "12")
    assert told.count(" 200 ") == 30 and told.count("/bytes/100000") >= 30
    assert "content" in nghttp("/trailers", "-v", "-H", "te: trailers")
    assert nghttp("/", "--expect-continue", "-d", str(tmp_path / "sent")) == "hello\n"


@pytest.mark.parametrize(
    "more", [["-c", "4", "-m", "50"], ["-c", "1", "-m", "100", "-w", "10", "-W", "10"], ["-c", "20", "-m", "1"]]
)
def test_h2load_has_every_request_answered(need, place, more):
    house, url, _ = place
    told = run(need("h2load"), "-n", "2000", *more, f"{url}/bytes/1000")
    assert "2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout" in told
    assert "status codes: 2000 2xx" in told
    assert house.counts()["requests"] == 2000


def test_h2load_uploads(need, place, tmp_path):
    _, url, _ = place
    (tmp_path / "sent").write_bytes(b"x" * 100_000)
    told = run(need("h2load"), "-n", "200", "-c", "4", "-m", "10", "-d", str(tmp_path / "sent"), f"{url}/read")
    assert "200 succeeded" in told and "status codes: 200 2xx" in told


# -- httpx ------------------------------------------------------------------------------------------------------------


@pytest.mark.needs("module:httpx", "module:h2")
def test_httpx_asks_for_many_at_once(place, need):
    httpx = need("module:httpx")
    house, url, roots = place
    context = ssl.create_default_context(cafile=roots) if roots else True
    kept = httpx.Limits(keepalive_expiry=None)  # it would leave a connection after 5 s without a request

    async def ask():
        async with httpx.AsyncClient(http1=False, http2=True, verify=context, timeout=PATIENCE, limits=kept) as client:
            assert (await client.get(url + "/")).text == "hello\n"
            many = await asyncio.gather(*[client.get(f"{url}/bytes/{1000 * i}") for i in range(50)])
            assert [len(one.content) for one in many] == [1000 * i for i in range(50)]
            assert {one.http_version for one in many} == {"HTTP/2"}
            data = os.urandom(1_000_000)
            assert (await client.post(url + "/echo", content=data)).content == data
            assert (await client.head(url + "/bytes/1000")).headers["content-length"] == "1000"
            async with client.stream("GET", url + "/stream/1000000") as one:
                assert sum([len(piece) async for piece in one.aiter_bytes()]) == 1_000_000
            async with client.stream("GET", url + "/stream/100000000") as one:
                async for _ in one.aiter_bytes():
                    break  # and it is reset
            assert (await client.get(url + "/")).text == "hello\n"

    asyncio.run(ask())
    assert house.running.stats()["accepted"] == 1
    assert versions(house) == {"2"}


# -- node -------------------------------------------------------------------------------------------------------------

NODE = r"""
const http2 = require("http2"), fs = require("fs"), assert = require("assert");
const [url, roots] = process.argv.slice(2);
const client = http2.connect(url, roots ? {ca: fs.readFileSync(roots)} : {});
client.on("error", error => { console.error(error); process.exit(1); });
function ask(headers, body) {
  return new Promise((done, failed) => {
    const one = client.request(headers, {endStream: body === undefined}), pieces = [], told = {interim: []};
    one.on("headers", h => told.interim.push(h[":status"]));
    one.on("response", h => { told.head = h; });
    one.on("trailers", h => { told.trailers = h; });
    one.on("data", piece => pieces.push(piece));
    one.on("end", () => done({...told, body: Buffer.concat(pieces)}));
    one.on("error", failed);
    if (body !== undefined) one.end(body);
  });
}
(async () => {
  const first = await ask({":path": "/"});
  assert.equal(first.head[":status"], 200);
  assert.equal(first.body.toString(), "hello\n");
  const many = await Promise.all([...Array(100).keys()].map(i => ask({":path": `/bytes/${1000 * i}`})));
  many.forEach((one, i) => assert.equal(one.body.length, 1000 * i));
  const sent = Buffer.alloc(3000000, "z");
  assert.ok((await ask({":path": "/echo", ":method": "POST"}, sent)).body.equals(sent));
  const hinted = await ask({":path": "/hints"});
  assert.deepEqual(hinted.interim, [103, 103]);
  const trailed = await ask({":path": "/trailers", "te": "trailers"});
  assert.equal(trailed.trailers["x-sum"], "42");
  assert.equal((await ask({":path": "/bytes/1000", ":method": "HEAD"})).body.length, 0);
  await new Promise(done => client.ping((error) => { assert.ifError(error); done(); }));
  const cut = client.request({":path": "/wait"});
  cut.on("error", () => {});
  cut.close(http2.constants.NGHTTP2_CANCEL);
  await new Promise(done => cut.on("close", done));
  client.settings({initialWindowSize: 1000000});
  assert.equal((await ask({":path": "/bytes/900000"})).body.length, 900000);
  client.close(() => console.log("well"));
})().catch(error => { console.error(error); process.exit(1); });
"""


def test_node(need, place, tmp_path):
    house, url, roots = place
    (tmp_path / "ask.js").write_text(NODE)
    assert run(need("node"), str(tmp_path / "ask.js"), url, *([roots] if roots else [])) == "well\n"
    assert house.running.stats()["accepted"] == 1
    assert versions(house) == {"2"}


# -- Java -------------------------------------------------------------------------------------------------------------

JAVA = r"""
import java.io.*; import java.net.*; import java.net.http.*; import java.nio.file.*; import java.security.*;
import java.security.cert.*; import java.util.*; import java.util.concurrent.*; import javax.net.ssl.*;
public class Ask {
  public static void main(String[] args) throws Exception {
    String url = args[0];
    KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
    store.load(null, null);
    try (InputStream in = Files.newInputStream(Path.of(args[1]))) {
      store.setCertificateEntry("root", CertificateFactory.getInstance("X.509").generateCertificate(in));
    }
    TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
    trust.init(store);
    SSLContext context = SSLContext.getInstance("TLS");
    context.init(null, trust.getTrustManagers(), null);
    HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_2).sslContext(context).build();
    HttpRequest first = HttpRequest.newBuilder(URI.create(url + "/")).build();
    HttpResponse<String> hello = client.send(first, HttpResponse.BodyHandlers.ofString());
    check(hello.version() == HttpClient.Version.HTTP_2 && hello.body().equals("hello\n"), "hello");
    List<CompletableFuture<HttpResponse<byte[]>>> many = new ArrayList<>();
    for (int i = 0; i < 100; i++)
      many.add(client.sendAsync(HttpRequest.newBuilder(URI.create(url + "/bytes/" + 1000 * i)).build(),
                                HttpResponse.BodyHandlers.ofByteArray()));
    for (int i = 0; i < 100; i++) {
      HttpResponse<byte[]> one = many.get(i).get(30, TimeUnit.SECONDS);
      check(one.version() == HttpClient.Version.HTTP_2 && one.body().length == 1000 * i, "many");
    }
    byte[] sent = new byte[2000000];
    Arrays.fill(sent, (byte) 'z');
    HttpRequest post = HttpRequest.newBuilder(URI.create(url + "/echo")).expectContinue(true)
        .POST(HttpRequest.BodyPublishers.ofByteArray(sent)).build();
    check(Arrays.equals(client.send(post, HttpResponse.BodyHandlers.ofByteArray()).body(), sent), "post");
    System.out.println("well");
  }
  static void check(boolean is, String what) { if (!is) throw new RuntimeException(what); }
}
"""


def test_java(need, secure, tmp_path):
    house, url, roots = secure
    (tmp_path / "Ask.java").write_text(JAVA)
    java = need("java")
    if subprocess.run([java, "--list-modules"], capture_output=True, text=True).stdout.find("jdk.compiler") < 0:
        pytest.skip("a Java runtime without a compiler")
    assert run(java, "-Xshare:auto", "-XX:TieredStopAtLevel=1", str(tmp_path / "Ask.java"), url, roots).endswith("well\n")
    assert versions(house) == {"2"}


# -- Chromium ---------------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_chromium_asks_for_all_over_one_connection_and_has_its_websocket_there(need, secure):
    house, url, _ = secure
    chromium = need("chromium")
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--ignore-certificate-errors"]
    with need("module:playwright.sync_api").sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page()
        page.goto(url + "/")
        told = page.evaluate(
            """async () => {
                const ask = i => fetch(`/bytes/${i + 1}`).then(one => one.text()).then(text => text.length);
                const lengths = await Promise.all([...Array(100).keys()].map(ask));
                const sent = "z".repeat(500000);
                const got = await (await fetch("/echo", {method: "POST", body: sent})).text();
                const socket = new WebSocket(location.href.replace("https", "wss") + "ws");
                const said = await new Promise((done, failed) => {
                    socket.onopen = () => socket.send("hello");
                    socket.onmessage = event => done(event.data);
                    socket.onerror = () => failed("the websocket failed");
                });
                socket.close();
                const hops = performance.getEntriesByType("resource").map(one => one.nextHopProtocol);
                return [lengths, got === sent, said, [...new Set(hops)]];
            }"""
        )
        browser.close()
    assert told == [list(range(1, 101)), True, "hello", ["h2"]]
    assert versions(house) == {"2"}, [scope["path"] for scope in house.app.scopes if scope["http_version"] != "2"]
    assert {scope["type"] for scope in house.app.scopes} == {"http", "websocket"}


# -- proxies in front -------------------------------------------------------------------------------------------------

HAPROXY = """
global
  log stdout format raw local0
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  http-reuse always
frontend in
  bind 127.0.0.1:{port}
  default_backend out
backend out
  server one 127.0.0.1:{upstream} proto h2
"""
NGINX = """
daemon off; worker_processes 1; pid {directory}/pid; error_log stderr;
events {{ worker_connections 100; }}
http {{
  access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s; client_max_body_size 0;
  upstream out {{ server 127.0.0.1:{upstream}; keepalive 2; }}
  server {{ listen 127.0.0.1:{port}; location / {{ grpc_pass grpc://out; }} }}
}}
"""
CADDY = """
{{
  admin off
  auto_https off
}}
http://127.0.0.1:{port} {{
  reverse_proxy h2c://127.0.0.1:{upstream}
}}
"""
PROXIES = {
    "haproxy": (HAPROXY, ["-db", "-f"]),
    # What it calls gRPC is HTTP/2 with any content.
    "nginx": (NGINX, ["-e", "stderr", "-c"]),
    "caddy": (CADDY, ["run", "--adapter", "caddyfile", "--config"]),
}


@pytest.fixture(params=PROXIES)
def proxy(request, need, build, launch, free_port, tmp_path):  # the proxy ends first
    """(house, port of a proxy in front of it that speaks HTTP/1.1 to us and HTTP/2 to the house)"""
    house, port = build(), free_port()
    text, arguments = PROXIES[request.param]
    program = need(request.param)
    file = tmp_path / "configuration"
    file.write_text(text.format(port=port, upstream=house.port, directory=tmp_path))
    child = launch(program, *arguments, str(file), python=False, XDG_DATA_HOME=str(tmp_path), HOME=str(tmp_path))
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return house, port
        except OSError:
            assert time.monotonic() < end and child.process.poll() is None, child.text
            time.sleep(0.01)


def asked(connection, path, method="GET", body=None, **fields):
    connection.request(method, path, body, fields)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_proxy_in_front_speaks_http_2_to_it(proxy):
    house, port = proxy
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        assert asked(connection, "/") == (200, b"hello\n")
        data = os.urandom(1_000_000)
        assert asked(connection, "/echo", "POST", data) == (200, data)
        assert asked(connection, "/bytes/1000", "HEAD") == (200, b"")
        assert asked(connection, "/stream/1000000") == (200, b"z" * 1_000_000)
        assert asked(connection, "/status/404")[0] == 404
        status, scope = asked(connection, "/scope/a?b=c", Cookie="a=1; b=2")
        told = json.loads(scope)
        assert status == 200 and (told["http_version"], told["query_string"]) == ("2", "b=c")
        assert ["cookie", "a=1; b=2"] in told["headers"]
    finally:
        connection.close()
    assert versions(house) == {"2"}


def test_a_proxy_carries_many_clients(proxy):
    house, port = proxy

    def ask(i):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            return [asked(connection, f"/bytes/{1000 * i + n}") for n in range(10)]
        finally:
            connection.close()

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(20)))
    assert answers == [[(200, b"y" * (1000 * i + n)) for n in range(10)] for i in range(20)]
    assert house.counts()["requests"] == 200
    assert versions(house) == {"2"}


def test_a_proxy_loses_no_request_to_the_end_of_a_connection(
    build, need, launch, free_port, tmp_path
):  # the proxy ends first
    """HAProxy goes on with another connection after each GOAWAY."""
    house, port = build(policy=Policy(max_keep_alive_requests=7)), free_port()
    file = tmp_path / "configuration"
    file.write_text(HAPROXY.format(port=port, upstream=house.port))
    launch(need("haproxy"), "-db", "-f", str(file), python=False)
    end = time.monotonic() + PATIENCE
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            connection.connect()
            break
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.01)
    try:
        assert [asked(connection, "/") for _ in range(100)] == [(200, b"hello\n")] * 100
    finally:
        connection.close()
    assert house.running.stats()["accepted"] >= 14
