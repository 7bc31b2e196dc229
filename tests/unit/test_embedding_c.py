"""The C core without Python: docs/examples/poll_server.c, compiled from what kacore.get_include() names, and run."""

import http.client
import os
import shlex
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import kacore

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "poll_server.c"
COMPILER = shlex.split(os.environ.get("CC", "cc"))
INCLUDE = Path(kacore.get_include())
# Those that others may include: the parts of a file, or of a room, are its own.
HEADERS = sorted(path.relative_to(INCLUDE) for path in INCLUDE.rglob("*.h") if not path.stem.endswith(("_lines", "_parts")))
STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only", "-Wno-unused")


def accepts(compiler, *arguments):
    command = [*shlex.split(compiler), *STRICT, f"-I{INCLUDE}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr


def test_example_and_each_header_by_itself_are_plain_c99(need, tmp_path):
    need(COMPILER[0])
    for name in HEADERS:
        (tmp_path / name.name).with_suffix(".c").write_text(f'#include "{name}"\n')
    accepts(shlex.join(COMPILER), "-std=c99", EXAMPLE, *tmp_path.glob("*.c"))


def test_headers_are_included_from_cplusplus(need, tmp_path):
    need("c++")
    includes = "".join(f'#include "{name}"\n' for name in HEADERS)
    (tmp_path / "all.cpp").write_text(f'extern "C" {{\n{includes}}}\nint main() {{ return KA_OK; }}\n')
    accepts("c++", "-std=c++17", "-Wno-pedantic", tmp_path / "all.cpp")


@pytest.fixture(scope="module")
def program(need, tmp_path_factory):
    need(COMPILER[0])
    target = tmp_path_factory.mktemp("example") / "poll_server"
    sources = map(str, INCLUDE.rglob("*.c"))
    command = [*COMPILER, "-O1", "-Wall", "-Wextra", "-Werror", f"-I{INCLUDE}", str(EXAMPLE), *sources, "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    return str(target)


@pytest.fixture
def start(program, launch):
    def run(*arguments):
        server = launch(program, "0", *arguments, python=False)
        server.url = server.wait_for(r"http://127\.0\.0\.1:\d+")[0]
        return server

    return run


def ask(connection, target="/", method="GET", body=None):
    connection.request(method, target, body)
    response = connection.getresponse()
    return response.status, response.read(), response.getheader("Connection")


def test_c_server_keeps_connections_and_ends_gracefully(start):
    server = start()
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        assert ask(connection) == (200, b"hello\n", "keep-alive")
        first = connection.sock
        assert ask(connection, "/other", "POST", b"x" * 10_000) == (404, b"no such page\n", "keep-alive")
        assert ask(connection, method="HEAD")[:2] == (200, b"")
        assert connection.sock is first
        server.send_signal(15)
        assert ask(connection)[0] == 200  # under way when the end was announced
    assert server.wait() == 0
    assert "4 requests" in server.text


def test_c_server_is_strict_and_answers_pipelined_requests_in_order(start):
    server = start()
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=20)) as sock:
        for byte in b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /no HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n":
            sock.send(bytes([byte]))
        with sock.makefile("rb") as stream:
            said = stream.read()
    assert [line[9:12] for line in said.splitlines() if line.startswith(b"HTTP/1.1 ")] == [b"200", b"404", b"400"]


def test_full_c_server_closes_the_longest_idle_connection_for_the_next_client(start):
    server = start("2")
    connections = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=20) for _ in range(3)]
    try:
        for connection in connections:
            assert ask(connection)[0] == 200
        assert connections[0].sock.recv(1) == b""
        assert ask(connections[1])[0] == 200
    finally:
        for connection in connections:
            connection.close()


def test_classes_cannot_be_cimported_and_cython_says_so(need, tmp_path):
    need("module:Cython")
    (tmp_path / "user.pyx").write_text("from kacore._core cimport ConnectionTable\n")
    command = [sys.executable, "-m", "cython", "-3", "user.pyx"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=150)
    assert done.returncode != 0
    assert "kacore/_core.pxd' not found" in done.stderr
    assert not hasattr(kacore._core, "__pyx_capi__")
