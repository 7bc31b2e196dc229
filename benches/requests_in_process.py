"""Client, engine and application in one process and one thread: how many instructions does a request take?

Of no use with a clock, since the client is in it. Under callgrind, which counts inside of ka_engine_step only, the
difference of two runs is that of their requests, and callgrind_annotate says where they went:

    for n in 200 1200; do
        PYTHONHASHSEED=0 valgrind --tool=callgrind --toggle-collect=ka_engine_step \\
            --callgrind-out-file=/tmp/callgrind.$n .venv/bin/python benches/requests_in_process.py asgi $n
    done
    callgrind_annotate --inclusive=yes --tree=both /tmp/callgrind.1200

`--application fastapi` is a framework's hello in place of the bare one; `--close` has a connection for each request, and
what accepting and closing it takes is counted with it.
"""

import argparse
import asyncio
import logging
import os
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable

from kacore import TLS, _core

CONNECTIONS = 20
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n"
LAST_REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nConnection: close\r\n\r\n"


async def application(interface: str, name: str, logger: logging.Logger) -> _core.AsgiApplication | _core.WsgiApplication:
    interface = "wsgi" if interface == "wsgi" else "asgi"
    os.environ["BENCH_APP"], os.environ["BENCH_INTERFACE"] = name, interface
    from servers import apps, frameworks

    served = getattr(apps if name == "hello" else frameworks, f"{interface}_{name}")
    if interface == "wsgi":
        return _core.WsgiApplication(served, logger, threads=0)
    app = _core.AsgiApplication(served, asyncio.get_running_loop(), logger)
    assert await app.runner.probe() is None
    return app


def certificate() -> TLS:
    with tempfile.TemporaryDirectory() as where:
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        cert, key = f"{where}/cert", f"{where}/key"
        subprocess.run([*command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
        return TLS(cert, key)


def encrypted(client: socket.socket, step: Callable[[], int]) -> ssl.SSLSocket:
    """The handshake takes both sides in turn."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client.setblocking(False)
    tls = context.wrap_socket(client, do_handshake_on_connect=False)
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            step()
    step()
    tls.setblocking(True)
    return tls


def ask(engine: _core.Engine, address: tuple[str, int], n_requests: int, is_tls: bool) -> None:
    """All connections send, one step answers them all, all receive."""
    clients = [socket.create_connection(address) for _ in range(CONNECTIONS)]
    engine.step()
    engine.step()
    if is_tls:
        clients = [encrypted(client, engine.step) for client in clients]
    for _ in range(n_requests // CONNECTIONS):
        for client in clients:
            client.send(REQUEST)
        engine.step()
        for client in clients:
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
    for client in clients:
        client.close()


def ask_once_each(engine: _core.Engine, address: tuple[str, int], n_requests: int) -> None:
    """A connection for each request: all connect and send, steps answer them all, all receive."""
    for _ in range(n_requests // CONNECTIONS):
        clients = [socket.create_connection(address) for _ in range(CONNECTIONS)]
        for client in clients:
            client.send(LAST_REQUEST)
        engine.step()
        engine.step()
        for client in clients:
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
            client.close()


async def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("interface", choices=["asgi", "tls", "wsgi"])
    options.add_argument("--application", default="hello", choices=["hello", "starlette", "fastapi", "django", "flask"])
    options.add_argument("--close", action="store_true", help="a connection for each request")
    options.add_argument("requests", type=int)
    chosen = options.parse_args()
    app = await application(chosen.interface, chosen.application, logging.getLogger("bench"))
    tls = certificate() if chosen.interface == "tls" else None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        engine = _core.Engine(_core.ConnectionTable(), app)
        engine.listen(listener, tls=tls)
        # From a callback, as in a server: inside this task the engine would give each request a task of its own.
        address = listener.getsockname()
        if chosen.close:
            asyncio.get_running_loop().call_soon(ask_once_each, engine, address, chosen.requests)
        else:
            asyncio.get_running_loop().call_soon(ask, engine, address, chosen.requests, tls is not None)
        await asyncio.sleep(0.1)
        engine.close()


if __name__ == "__main__":
    asyncio.run(main())
