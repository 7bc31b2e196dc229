"""Everything at once: worker processes that speak TLS behind a PROXY header, with the admin listener on top."""

import json
import logging
import mmap
import shutil
import signal
import socket
import ssl
import struct
import time
import urllib.request

import pytest

from kacore import ConnectionTable
from kacore._core import COUNTERS_BYTES, Engine, HandlerApplication, sum_counters
from tests.wire.conftest import certificates  # noqa: F401
from tests.wire.test_proxies import v2

APP = """
import json, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError
    body = json.dumps([os.getpid(), scope["client"], scope["scheme"], scope["extensions"]["tls"]["tls_version"]]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


class Fleet:
    def __init__(self, child, admin_port, roots):
        self.child, self.admin_port = child, admin_port
        self.port = int(child.wait_for(r"https://127\.0\.0\.1:(\d+)")[1])
        self.context = ssl.create_default_context(cafile=roots)

    def connect(self, head=b"PROXY UNKNOWN\r\n", name="localhost"):
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        sock.sendall(head)
        return self.context.wrap_socket(sock, server_hostname=name)

    def ask(self, head=b"PROXY UNKNOWN\r\n", name="localhost"):
        with self.connect(head, name) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            text = b""
            while data := sock.recv(65536):
                text += data
        return json.loads(text.partition(b"\r\n\r\n")[2])

    def tell(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=30) as response:
            return response.read().decode()


@pytest.fixture
def fleet(request, launch, tmp_path, certificates, free_port):  # noqa: F811
    (tmp_path / "app.py").write_text(APP)
    shutil.copy(certificates.issue("localhost"), tmp_path / "site.pem")
    admin = free_port()
    arguments = ("--workers", "2", "--port", "0", "--ssl-certfile", "site.pem", "--admin", str(admin))
    proxies = ("--proxy-protocol", "--forwarded-allow-ips", "127.0.0.1", "--max-connections-per-client", "2")
    io = ("--io", getattr(request, "param", "auto"))
    return Fleet(launch("-m", "kacore", "serve", "app:app", *arguments, *proxies, *io), admin, certificates.roots)


@pytest.mark.parametrize("fleet", ["epoll", "transports"], indirect=True)
def test_workers_speak_tls_behind_a_proxy_header_and_one_page_tells_of_all(fleet, tmp_path, certificates, need):  # noqa: F811
    parser = need("module:prometheus_client.parser")
    # Version 1 and 2, before the handshake.
    heads = (b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n", v2(), b"PROXY UNKNOWN\r\n")
    answers = [fleet.ask(head) for head in heads for _ in range(4)]
    assert [answer[1] for answer in answers[:8]] == [["192.0.2.1", 4711]] * 8
    assert {answer[1][0] for answer in answers[8:]} == {"127.0.0.1"}
    assert {(answer[2], answer[3]) for answer in answers} == {("https", 0x0304)}
    pids = {answer[0] for answer in answers}
    while len(pids) < 2:  # the kernel spreads by the port of the client
        answers.append(fleet.ask())
        pids.add(answers[-1][0])
    assert fleet.child.pid not in pids

    # A client over its limit, of each worker, meets the end of the connection: there is no word before the handshake.
    held = []
    with pytest.raises((ssl.SSLError, ConnectionError)):
        held.extend(fleet.connect(v2()) for _ in range(5))
    assert 2 <= len(held) <= 4
    for sock in held:
        sock.close()

    def totals():
        return {
            sample.name: sample.value
            for family in parser.text_string_to_metric_families(fleet.tell("/metrics"))
            for sample in family.samples
            if not sample.labels
        }

    found = totals()
    assert found["kacore_requests_total"] == len(answers)
    assert found["kacore_accepted_total"] >= len(answers) + len(held)
    assert found["kacore_tls_handshakes_total"] == len(answers) + len(held)
    assert found["kacore_out_of_descriptors_total"] == found["kacore_accept_errors_total"] == 0
    assert fleet.tell("/readyz") == "ready\n"
    assert json.loads(fleet.tell("/connections"))["open"] <= 1

    # SIGHUP: new workers, new certificate, and no counter falls.
    shutil.copy(certificates.issue("renewed.test"), tmp_path / "site.pem")
    fleet.child.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 10
    while True:
        try:
            answers.append(fleet.ask(name="renewed.test"))
            if answers[-1][0] not in pids and fleet.child.text.count(") serves") == 2:
                break
        except ssl.SSLCertVerificationError:
            pass
        assert time.monotonic() < deadline, fleet.child.text
        time.sleep(0.05)
    assert totals()["kacore_requests_total"] == len(answers)
    assert fleet.child.stop() == 0, fleet.child.text
    assert "Traceback" not in fleet.child.text


def test_a_proxy_header_in_pieces_with_the_handshake_behind_it(fleet):
    head = v2(tlvs=b"\x04" + struct.pack("!H", 100) + b"\0" * 100)
    for cut in (1, 12, 15, 16, 40, len(head) - 1):
        sock = socket.create_connection(("127.0.0.1", fleet.port), timeout=10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(head[:cut])
        time.sleep(0.02)
        sock.sendall(head[cut:])
        with fleet.context.wrap_socket(sock, server_hostname="localhost") as tls:
            tls.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b'["192.0.2.1", 4711]' in tls.recv(65536)
    assert fleet.child.stop() == 0


def test_the_counters_of_engines_are_added_up_and_survive_them():
    pages = [mmap.mmap(-1, COUNTERS_BYTES) for _ in range(2)]
    for round_number in (1, 2):
        for page in pages:
            application = HandlerApplication(None, None, logging.getLogger())
            engine = Engine(ConnectionTable(counters=page), application)
            engine.step()
            engine.close()
        total = sum_counters(pages)["engine"]
        assert total["steps"] == 2 * round_number
        assert set(total) == {"steps", "events", "receives", "sends", "accepts", "accept_errors", "out_of_descriptors"}
