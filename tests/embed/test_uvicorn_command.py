"""The command: `uvicorn app:app --http kacore.embed.uvicorn:Protocol`, with what stays uvicorn's."""

import contextlib
import http.client
import re
import signal
import ssl
import time

import pytest

from tests.conftest import module

module("uvicorn")
if hasattr(module("uvicorn.main"), "HTTP_CHOICES"):
    pytest.skip("the command of this uvicorn takes no name of a class", allow_module_level=True)

APP = """
import contextvars, os

seen = contextvars.ContextVar("seen", default="nothing")


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    found = seen.get()
    seen.set("the request before")
    text = "%d %s %s %s" % (os.getpid(), scope["scheme"], scope["client"][0], found)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
    await send({"type": "http.response.body", "body": text.encode()})
"""


@pytest.fixture
def command(launch, tmp_path, free_port):
    """command(*flags) starts `uvicorn` with kacore's class and waits until it serves; `.url` is where."""
    (tmp_path / "app.py").write_text(APP)

    def start(*flags):
        port = free_port()
        where = ("app:app", "--http", "kacore.embed.uvicorn:Protocol", "--port", str(port))
        child = launch("-m", "uvicorn", *where, *flags, ready="Application startup complete")
        child.url = f"http://127.0.0.1:{port}"
        return child

    return start


def connection_to(child, context=None):
    """Over TLS with `context`. It tries again while uvicorn has said that it is up but does not listen yet."""
    end = time.monotonic() + 15
    while True:
        if context:
            found = http.client.HTTPSConnection("localhost", child.port, context=context, timeout=10)
        else:
            found = http.client.HTTPConnection("127.0.0.1", child.port, timeout=10)
        try:
            found.connect()
            return contextlib.closing(found)
        except ConnectionRefusedError:
            assert time.monotonic() < end, child.text
            time.sleep(0.02)


def words(connection, **fields):
    """What the application said of this request: process, scheme, client, and what its context held."""
    connection.request("GET", "/where?a=b", headers={name.replace("_", "-"): value for name, value in fields.items()})
    response = connection.getresponse()
    assert response.status == 200
    assert response.headers["Keep-Alive"].startswith("timeout=")
    return response.read().decode().split(" ", 3)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_proxy_headers_and_access_log_stay_uvicorns_and_no_context_leaks(command, loop):
    child = command("--loop", loop, "--proxy-headers", "--forwarded-allow-ips", "127.0.0.1")
    with connection_to(child) as connection:
        for _ in range(2):  # on one connection
            assert words(connection)[1:] == ["http", "127.0.0.1", "nothing"]
        told = words(connection, X_Forwarded_For="192.0.2.7", X_Forwarded_Proto="https")
        assert told[1:] == ["https", "192.0.2.7", "nothing"]
    child.wait_for(re.escape('192.0.2.7:0 - "GET /where?a=b HTTP/1.1" 200'))
    child.process.send_signal(signal.SIGTERM)
    assert child.wait() in (0, -signal.SIGTERM)  # uvicorn ends itself by the signal that it was sent
    assert "Finished server process" in child.text
    assert "Traceback" not in child.text


def test_variable_that_is_wrong_is_told_at_the_start(launch, tmp_path, free_port):
    (tmp_path / "app.py").write_text(APP)
    where = ("app:app", "--http", "kacore.embed.uvicorn:Protocol", "--port", str(free_port()))
    child = launch("-m", "uvicorn", *where, KACORE_KEEP_ALIVE_TIMEOUT="long")
    assert child.wait() == 1
    assert re.search(r"PolicyError: .*KACORE_KEEP_ALIVE_TIMEOUT.*long", child.text)


def test_tls_and_workers_stay_uvicorns(command, need, tmp_path):
    root = need("module:trustme").CA()
    pem = root.issue_cert("localhost")
    pem.private_key_pem.write_to_path(str(tmp_path / "key"))
    pem.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
    child = command("--workers", "2", "--ssl-certfile", "cert", "--ssl-keyfile", "key")
    child.wait_for(r"(?s)startup complete.*startup complete")
    context = ssl.create_default_context()
    root.configure_trust(context)
    processes, end = set(), time.monotonic() + 15
    with contextlib.ExitStack() as all_open:
        while len(processes) < 2:  # one listener for both: who accepts is the kernel's choice
            assert time.monotonic() < end, "one worker has all connections"
            pid, *told = words(all_open.enter_context(connection_to(child, context)))
            assert told[0::2] == ["https", "nothing"]
            processes.add(pid)
    child.process.send_signal(signal.SIGTERM)
    child.wait()
    assert "Traceback" not in child.text
