"""Several worker processes: nobody waits where nobody serves, and the end of a worker costs its own requests only."""

import contextlib
import json
import os
import re
import resource
import signal
import socket
import ssl
import time
import urllib.request

import pytest
from hammering import APPLICATION, Hammer


@pytest.fixture
def run(serve, tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    return lambda *arguments, **options: serve("app:app", *arguments, **options)


def ask(server, path="/"):
    with urllib.request.urlopen(server.url + path, timeout=15) as response:
        return response.read().decode()


def pids(server, n_asked=40):
    return {int(ask(server)) for _ in range(n_asked)}


def parent(server):
    return int(re.search(r"\(pid (\d+), \d+ worker", server.text)[1])


def wait_until(condition, timeout=30):
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return value


def test_all_workers_serve_and_the_parent_is_none_of_them(run):
    server = run("--workers", "2")
    assert len(pids(server)) == 2
    assert server.pid == parent(server)
    assert server.pid not in pids(server)
    assert server.stop() == 0


def test_start_up_line_shows_the_product_of_the_limits(run):
    server = run("--workers", "2", "--max-connections", "150")
    assert "2 workers of at most 150 connections: 300" in server.text


def test_too_few_descriptors_are_told_and_a_low_soft_limit_is_raised(run, launch, tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])));"
    start = limit + "sys.argv[1:3] = ['serve', 'app:app', '--port', '0']; from kacore.cli import main; sys.exit(main())"
    short = launch("-c", start, "300", "300", "--max-connections", "1000", ready="serves")
    assert "max_connections=1000 needs 1064 file descriptors, but this process may open only 300" in short.text
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 2000:
        enough = launch("-c", start, "300", "2000", "--max-connections", "1000", ready="serves")
        assert "needs" not in enough.text


@pytest.mark.parametrize("processes", [(), ("--io", "transports"), ("--workers", "2")], ids=["alone", "transports", "2"])
def test_unless_told_as_many_connections_may_be_open_as_the_limit_can_be_raised_to(launch, tmp_path, processes):
    (tmp_path / "app.py").write_text(APPLICATION)
    low = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (300, 2000)); from kacore.cli import main; "
    child = launch("-c", f"{low} sys.exit(main())", "serve", "app:app", "--port", "0", *processes, ready="serves")
    most = int(re.search(r"at most (\d+) connections", child.text)[1])
    assert most == (1936 if "transports" not in processes else 1686)  # there newcomers need descriptors, too
    assert "needs" not in child.text
    shown = launch("-c", f"{low} sys.exit(main())", "policy")
    shown.wait_for(r"max_connections +1936 +connections +default")


@pytest.mark.parametrize("io", ["epoll", "transports"])
def test_killed_worker_is_replaced_and_nobody_hangs_meanwhile(run, io):
    server = run("--workers", "2", "--io", io)
    before = pids(server)
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    for _ in range(40):  # half of these come into the dead worker's queue, and must not wait for its client's patience
        ask(server)
    wait_until(lambda: len(pids(server) - {victim}) == 2)
    assert victim not in pids(server)
    assert f"(pid {victim}) exited with status -9" in server.text


def test_workers_that_die_at_once_are_restarted_ever_later_and_the_others_serve_their_clients(run):
    server = run("--workers", "2")
    survivor = max(pids(server))
    for _ in range(3):
        victim = wait_until(lambda: pids(server) - {survivor}).pop()
        os.kill(victim, signal.SIGKILL)
    server.wait_for(r"the next one starts in 0\.25 s")
    server.wait_for(r"the next one starts in 0\.5 s")
    for _ in range(20):  # nobody but the survivor is there for both queues
        assert int(ask(server)) == survivor


@pytest.mark.parametrize("io", ["epoll", "transports"])
def test_no_request_is_lost_while_all_workers_are_replaced_twice_under_load(run, io):
    server = run("--workers", "2", "--drain-grace", "10", "--drain-spread", "0.1", "--io", io)
    with Hammer(socket.AF_INET, ("127.0.0.1", server.port)) as hammer:
        hammer.answered(300)
        first = hammer.seen()
        for n in (1, 2):
            server.send_signal(signal.SIGHUP)
            wait_until(lambda n=n: len(re.findall(r"worker \d \(pid \d+\) serves", server.text)) == 2 * n)
            hammer.answered(300)
        wait_until(lambda: len(hammer.seen() - first) >= 3)
    assert hammer.lost == hammer.refused == []
    assert server.stop() == 0
    assert "Traceback" not in server.text


def test_replaced_workers_run_what_the_files_say_by_now(run, tmp_path):
    server = run("--workers", "1")
    (tmp_path / "app.py").write_text("def app(request): return b'new'")
    server.send_signal(signal.SIGHUP)
    wait_until(lambda: ask(server) == "new")


def test_worker_whose_new_code_does_not_start_leaves_the_old_one_serving(run, tmp_path):
    server = run("--workers", "1")
    old = pids(server)
    (tmp_path / "app.py").write_text("syntax error")
    server.send_signal(signal.SIGHUP)
    server.wait_for("did not start: status 3; the old one keeps serving")
    assert pids(server) == old
    (tmp_path / "app.py").write_text("def app(request): return b'new'")
    server.send_signal(signal.SIGHUP)
    wait_until(lambda: ask(server) == "new")


def test_application_that_does_not_start_ends_the_whole_with_its_status(launch, tmp_path):
    (tmp_path / "app.py").write_text("x = 1")
    server = launch("-m", "kacore", "serve", "app:app", "--workers", "2", "--port", "0")
    assert server.wait() == 2
    assert "'app' has no 'app'" in server.text


def test_worker_is_replaced_after_its_number_of_requests_and_none_is_lost(run):
    server = run("--workers", "1", "--max-requests-per-worker", "200", "--drain-grace", "10", "--drain-spread", "0.1")
    with Hammer(socket.AF_INET, ("127.0.0.1", server.port), n=6) as hammer:
        wait_until(lambda: len(hammer.seen()) >= 3)
    assert hammer.lost == hammer.refused == []
    assert server.stop() == 0


def test_sigterm_to_one_worker_has_it_replaced_first(run):
    server = run("--workers", "1", "--drain-grace", "0.1", "--drain-spread", "0.1")
    (old,) = pids(server)
    os.kill(old, signal.SIGTERM)
    for _ in range(50):
        ask(server)
    wait_until(lambda: pids(server, 3) != {old})
    assert server.process.poll() is None


def test_a_worker_that_begins_to_serve_as_it_is_told_to_end_answers_what_it_was_asked(launch, tmp_path, free_port):
    (tmp_path / "app.py").write_text("""
import asyncio, os

async def there(name):
    while not os.path.exists(name):
        await asyncio.sleep(0.002)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        print("starts", flush=True)
        await there("go")
        await send({"type": "lifespan.startup.complete"})
        return await receive()
    print("asked", flush=True)
    await there("answer")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"answered"})
""")
    short = "import sys; from kacore.server import supervisor; supervisor.KILL_STARTING = 0.01; from kacore.cli import main; "
    port = free_port()
    where = ("--port", str(port), "--workers", "1")
    server = launch("-c", f"{short} sys.exit(main())", "serve", "app:app", *where, ready="starts")
    server.send_signal(signal.SIGSTOP)  # so that it hears of both at once
    (tmp_path / "go").touch()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        server.wait_for("asked")
        server.send_signal(signal.SIGTERM)
        server.send_signal(signal.SIGCONT)
        wait_until(lambda: is_refused(port))
        (tmp_path / "answer").touch()
        text = b""
        while data := sock.recv(4096):
            text += data
    assert text.endswith(b"answered")
    assert server.wait() == 0


def is_refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=20).close()
    except ConnectionRefusedError:
        return True
    return False


def test_workers_drain_and_end_when_their_parent_is_killed(run):
    server = run("--workers", "2", "--drain-grace", "0.1", "--drain-spread", "0.1")
    workers = pids(server)
    server.process.kill()
    server.wait_for("the parent process has exited")
    wait_until(lambda: not any(is_running(pid) for pid in workers))


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_any_worker_answers_for_all_and_no_counter_falls_with_a_restart(launch, tmp_path):
    (tmp_path / "run.py").write_text("""
import json, os, sys
import kacore
from kacore.config.options import RunOptions
from kacore.server.supervisor import Supervisor

def make_server(worker, shows):
    def app(request):
        if request.path == "/die":
            os._exit(9)
        stats = server.stats()["workers"]
        return json.dumps([stats["total"], [slot["requests"] for slot in stats["slots"]]])
    server = kacore.Server(app, worker=worker)
    return server

import logging; logging.basicConfig(level="INFO")
sys.exit(Supervisor(make_server, RunOptions(workers=2, bind=["127.0.0.1:0"]), policy=kacore.Policy()).run())
""")
    server = launch("run.py", ready=r"http://[^\s/]+:\d+")
    server.url = server.wait_for(r"http://[^\s/]+:[1-9][0-9]*")[0]
    for n in range(1, 21):
        total, slots = json.loads(ask(server))
        assert total["requests"] == sum(slots) == n
        assert total["open"] == total["accepted"] - sum(total["closed"].values())
    assert min(slots) > 0
    with pytest.raises(OSError):
        ask(server, "/die")
    wait_until(lambda: server.text.count(") serves") == 1)
    total, slots = json.loads(ask(server))
    assert total["requests"] == sum(slots) == 22
    assert total["closed"]["error"] == 1  # what the dead worker had open
    assert total["open"] == 1


def test_engine_of_the_parent_is_refused_in_a_forked_child(launch, tmp_path):
    (tmp_path / "run.py").write_text("""
import asyncio, os
import kacore
from kacore import _core

server = kacore.Server(lambda request: b"")
engine = _core.Engine(server.table, _core.HandlerApplication(lambda request: b"", None, server.logger))
engine.step()
pid = os.fork()
if pid == 0:
    try:
        engine.step()
    except kacore.LocalError as error:
        print("refused:", error)
    engine.close()
    _core.Engine(kacore.ConnectionTable(), _core.HandlerApplication(lambda r: b"", None, server.logger)).step()
    print("its own works")
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
engine.step()
print("still here")
""")
    child = launch("run.py")
    assert child.wait() == 0, child.text
    for words in ("refused: the engine was created before a fork", "its own works", "still here"):
        assert words in child.text


def test_second_server_on_the_port_is_refused(run, launch):
    server = run("--workers", "2")
    second = launch("-m", "kacore", "serve", "app:app", "--workers", "2", "--port", str(server.port))
    assert second.wait() == 2
    assert "Address already in use" in second.text


@pytest.mark.parametrize("processes", [(), ("--workers", "2")], ids=["alone", "2"])
def test_several_listeners_are_served_ipv6_and_unix_among_them(run, tmp_path, processes):
    path = tmp_path / "app.sock"
    server = run("--port", "0", "--bind", "[::1]:0", "--bind", f"unix:{path}", *processes)
    found = re.search(r"http://\[::1\]:(\d+)", server.text)
    for family, address in (
        (socket.AF_INET, ("127.0.0.1", server.port)),
        (socket.AF_INET6, ("::1", int(found[1]))),
        (socket.AF_UNIX, str(path)),
    ):
        with contextlib.closing(socket.socket(family)) as sock:
            sock.settimeout(5)
            sock.connect(address)
            sock.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")
    assert server.stop() == 0
    assert not path.exists()


@pytest.mark.parametrize("address", ["8000", "::1:80", "host:99999", "unix:", "[::1]"])
def test_address_that_is_none_is_refused_by_name(launch, tmp_path, address):
    (tmp_path / "app.py").write_text(APPLICATION)
    child = launch("-m", "kacore", "serve", "app:app", "--bind", address)
    assert child.wait() == 2
    assert address in child.text


def test_worker_whose_event_loop_is_stuck_is_replaced(run, tmp_path):
    (tmp_path / "app.py").write_text("""
import os, time

def app(request):
    while request.path == "/stuck":
        time.sleep(0.01)
    return str(os.getpid())
""")
    server = run("--worker-timeout", "0.5")
    (old,) = pids(server, 3)
    with pytest.raises(OSError):
        ask(server, "/stuck")
    assert pids(server, 3) != {old}
    assert f"killing worker 0 (pid {old}): its event loop does not respond" in server.text


def test_workers_resume_the_tls_sessions_of_each_other_until_a_sighup(serve, tmp_path, need):
    (tmp_path / "app.py").write_text(APPLICATION)
    root = need("module:trustme").CA()
    root.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "localhost.pem")
    server = serve("app:app", "--workers", "2", "--ssl-certfile", "localhost.pem")
    port = int(server.url.rpartition(":")[2])
    context = ssl.create_default_context()
    root.configure_trust(context)

    def ask_by_tls(session=None):
        with context.wrap_socket(
            socket.create_connection(("127.0.0.1", port)), server_hostname="localhost", session=session
        ) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(4096), b""))
            return int(answer.rpartition(b"\r\n")[2]), sock.session_reused, sock.session

    seen = set()
    for _ in range(2):
        _, _, session = ask_by_tls()
        answers = [ask_by_tls(session)[:2] for _ in range(20)]
        assert {reused for _, reused in answers} == {True}
        of_these = {pid for pid, _ in answers}
        assert len(of_these) == 2 and not of_these & seen
        seen.update(of_these)
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in seen))
        assert ask_by_tls(session)[1] is False  # the keys are new, and so is the handshake, which nothing else shows
