"""What kacore reads out of an Apache or nginx configuration, beside what these servers do with the same text."""

import http.client
import os
import re
import socket
import subprocess

import pytest

from kacore.policy import read_apache, read_nginx
from kacore.policy.readers.apache import read
from tests.unit.test_policy_apache import CONDITIONS, LOADS
from tests.wire.conftest import wait_until

MODULES = "/usr/lib/apache2/modules/mod_"
EVENT = f"LoadModule mpm_event_module {MODULES}mpm_event.so\n"


@pytest.fixture
def apache(need, lacks, tmp_path):
    """Its program and the configuration that each test begins with."""
    program = need("apache2")
    if not os.path.exists(f"{MODULES}headers.so"):
        lacks(f"no {MODULES}headers.so")
    # What it serves, not as root, are its own modules: everybody may read them.
    own = "User nobody\nGroup nogroup\n" if os.geteuid() == 0 else ""
    own += f"ServerRoot {tmp_path}\nPidFile {tmp_path}/pid\nErrorLog {tmp_path}/log\n"
    own += f"DocumentRoot {os.path.dirname(MODULES)}\n"
    return program, f"{own}ServerName main.example\nLoadModule authz_core_module {MODULES}authz_core.so\n"


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def answers_again(client, request):
    try:
        client.sendall(request)
        return client.recv(1) == b"H"
    except ConnectionError:
        return False


def checked(program, directory, text, **environ):
    """`apache2 -t` of a configuration."""
    (directory / "apache.conf").write_text(text)
    argv = [program, "-t", "-D", "DUMP_RUN_CFG", "-f", str(directory / "apache.conf")]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, env={**os.environ, **environ})


def test_conditions_are_those_of_apache(apache, tmp_path):
    program, own = apache
    (tmp_path / "here.conf").write_text("")
    loads = re.sub(r"(\w+)_module x\.so", rf"\1_module {MODULES}\1.so", LOADS)
    text = f"{own}{loads}Define OWN\nDefine GONE 1\nUnDefine GONE\nListen 127.0.0.1:1\n"
    given = [(condition, holds) for condition, holds in CONDITIONS if holds is not None]
    for i, (condition, _) in enumerate(given):
        text += f"<{condition}>\nDefine YES{i}\n</{condition.split()[0]}>\n"
    told = checked(program, tmp_path, text)
    assert told.returncode == 0, told.stderr
    for i, (condition, holds) in enumerate(given):
        assert (f"Define: YES{i}\n" in told.stdout) is holds, condition


@pytest.mark.parametrize("unit", ["5", "5s", "5S", "5sec", "5ms", "5MS", "5m", "5mi", "5min", "5h", "5hours", "5d", "x"])
def test_units_are_those_of_apache(apache, tmp_path, unit):
    program, own = apache
    directive = f"KeepAliveTimeout {unit}\n"
    told = checked(program, tmp_path, f"{own}{EVENT}Listen 127.0.0.1:1\n{directive}")
    (line,) = read_apache(directive).report
    assert line.is_taken is (told.returncode == 0), told.stderr


HEADERS = {
    "a": "",
    "b": "Header set Connection close",
    "c": "Header always append Connection 'x, Close'",
    "d": "Header set Connection closed",
    "e": "Header unset Connection",
    "f": "Header set Connection close\nHeader unset Connection",
    "g": "Header set Connection close\nHeader always unset Connection",
    "h": "Header set Connection close\nKeepAlive On",
    "i": "KeepAlive Off\nHeader set Connection keep-alive",
    "j": "Header always unset Keep-Alive",
}


def test_sites_and_what_they_keep_open_are_those_of_apache(apache, launch, free_port, tmp_path):
    program, own = apache
    port = free_port()
    sites = "".join(
        f"<VirtualHost *:{port}>\nServerName {name}.example\nHeader always set X-Site {name}\n{text}\n</VirtualHost>\n"
        for name, text in HEADERS.items()
    )
    text = f"{own}{EVENT}LoadModule headers_module {MODULES}headers.so\nListen 127.0.0.1:{port}\n{sites}"
    (tmp_path / "apache.conf").write_text(text)
    launch(program, "-X", "-f", str(tmp_path / "apache.conf"), python=False)
    wait_until(lambda: answers(port))
    policies = read_apache(text).policy_set()
    for name, directives in HEADERS.items():
        request = f"GET /mod_headers.so HTTP/1.1\r\nHost: {name}.example\r\nConnection: keep-alive\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(request)
            response = http.client.HTTPResponse(client)
            response.begin()
            response.read(int(response.headers["Content-Length"]))
            is_kept = answers_again(client, request)
            response.close()
        assert (response.status, response.headers["X-Site"]) == (200, name)
        policy = policies.policies[policies.class_for_request(0, f"{name}.example", None)]
        assert policy.keep_alive is is_kept, directives
        # The fields that say so are there as in kacore when it advertises.
        assert (response.headers["Keep-Alive"] is not None) is (policy.advertise and policy.keep_alive), directives


def test_variables_are_those_of_apache(apache, tmp_path):
    program, own = apache
    text = "Define t 7\nDefine NONE\nDefine GONE 1\nUnDefine GONE\n<IfDefine ELSE>\nError reached\n</IfDefine>\n"
    text += "Error ${T}-${ELSE}-${NONE}-${GONE}-${NOWHERE}"
    environ = {"ELSE": "e", "GONE": "g"}
    told = checked(program, tmp_path, f"{own}{EVENT}Listen 127.0.0.1:1\n{text}\n", **environ)
    # What is put in is put into every directive: what kacore makes of a time is what Apache says as its error.
    report = read(text.replace("Error $", "KeepAliveTimeout $"), environ=environ).report
    assert report[-1].why == f"{told.stderr.strip().splitlines()[-1]!r} is not a time"


SERVERS = """
events {{}}
http {{
    access_log off;
    server {{ listen 127.0.0.1:{a}; server_name a.example *.b.example; client_max_body_size 1k; return 200 1024; }}
    server {{ listen 127.0.0.1:{a}; server_name ~^img\\d+; client_max_body_size 2k; return 200 2048; }}
    server {{ listen 127.0.0.1:{a}; server_name www.b.example; client_max_body_size 3k; return 200 3072; }}
    server {{ listen 127.0.0.1:{a}; server_name a.example c.example; client_max_body_size 4k; return 200 4096; }}
    server {{ listen 127.0.0.1:{b}; server_name ~^img\\d+; client_max_body_size 5k; return 200 5120; }}
    server {{ listen 127.0.0.1:{b}; server_name a.example; client_max_body_size 1k; return 200 1024; }}
    server {{ listen 127.0.0.1:{b} default_server; server_name _; client_max_body_size 6k; return 200 6144; }}
}}
"""


def test_the_server_of_a_name_is_that_of_nginx(need, launch, free_port, tmp_path):
    a, b = free_port(), free_port()
    text = SERVERS.format(a=a, b=b)
    (tmp_path / "nginx.conf").write_text(f"daemon off; master_process off; pid {tmp_path}/pid; error_log stderr;\n{text}")
    launch(need("nginx"), "-p", str(tmp_path), "-c", "nginx.conf", python=False)
    wait_until(lambda: answers(b))
    policies = read_nginx(text).policy_set()
    told = {}
    asked = [(a, host) for host in ("a.example", "x.b.example", "www.b.example", "c.example")]
    for port, host in [*asked, (b, "a.example"), (b, "x")]:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        client.request("GET", "/", headers={"Host": host})
        told[port, host] = int(client.getresponse().read())
        client.close()
    read_here = {}
    for port, host in told:
        accepted = policies.class_for_client(f"127.0.0.1:{port}", "127.0.0.1")
        read_here[port, host] = policies.policies[policies.class_for_request(accepted, host, None)].max_body_bytes
    assert read_here == told
