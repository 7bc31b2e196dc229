"""kacore's workers under gunicorn's own arbiter, in a child process, over loopback."""

import contextlib
import functools
import http.client
import os
import re
import signal
import socket
import ssl
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hammering import APPLICATION, Hammer

pytestmark = pytest.mark.needs("module:gunicorn")
try:
    from gunicorn.config import KNOWN_SETTINGS
except ImportError:
    KNOWN_SETTINGS = []
SETTINGS = {setting.name for setting in KNOWN_SETTINGS}  # older ones have fewer

# Answers with the process id; /block waits so many seconds, /meet until three requests are in it.
WSGI = """
import asyncio, json, os, threading, time

meeting = threading.Barrier(3)

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/block":
        time.sleep(float(environ["QUERY_STRING"]))
    if path == "/meet":
        meeting.wait(20)
    body = str(os.getpid())
    if path == "/about":
        try:
            asyncio.get_running_loop()
            has_loop = True
        except RuntimeError:
            has_loop = False
        body = json.dumps({
            "loop": has_loop, "client": environ["REMOTE_ADDR"], "scheme": environ["wsgi.url_scheme"],
            "threads": environ["wsgi.multithread"], "processes": environ["wsgi.multiprocess"],
        })
        environ["wsgi.errors"].write("said by the application\\n")
    start_response("200 OK", [("Content-Length", str(len(body))), ("X-Answer", "yes")])
    return [body.encode()]
"""
BLOCK = """
    if scope["path"] == "/block":
        import time
        time.sleep(10)
"""
ASGI = APPLICATION.replace("    body = str", BLOCK + "    body = str")
PROXY = next((True if one.default is False else "auto" for one in KNOWN_SETTINGS if one.name == "proxy_protocol"), None)
ALONE = ("--no-control-socket",) if "control_socket" in SETTINGS else ()
WORKERS = {"wsgi": "Worker", "asgi": "ASGIWorker"}
either = pytest.mark.parametrize("kind", WORKERS)
# A drain that a test can wait for, and longer than a client of a busy machine is idle by accident.
SHORT = {"KACORE_DRAIN_GRACE": "1", "KACORE_DRAIN_SPREAD": "0.1"}


@pytest.fixture
def run(launch, tmp_path):
    """run("wsgi", "--keep-alive", "3", conf="text of gunicorn.conf.py") starts gunicorn on a free port."""
    started = []

    def start(kind, *arguments, conf="", app=None, bind="127.0.0.1:0", **environ):
        (tmp_path / "app.py").write_text(app or {"wsgi": WSGI, "asgi": ASGI}[kind])
        (tmp_path / "gunicorn.conf.py").write_text(conf)
        worker = f"kacore.embed.gunicorn.{WORKERS[kind]}"
        where = () if "-b" in arguments else ("-b", bind)
        child = launch("-m", "gunicorn", "-k", worker, *where, *ALONE, *arguments, "app:app", cwd=tmp_path, **environ)
        started.append(child)
        child.wait_for(r"Booting worker|Error: ")
        found = re.search(r"https?://127\.0\.0\.1:[1-9]\d*", child.text)
        child.url = found[0] if found else ""
        return child

    yield start
    for child in started:
        end_at_once(child)


def end_at_once(server):
    """With its workers: the arbiter takes its time, and how it ends is for the tests that look."""
    if server.process.poll() is None:
        with contextlib.suppress(OSError), open(f"/proc/{server.pid}/task/{server.pid}/children") as file:
            workers = [int(number) for number in file.read().split()]
            for number in (server.pid, *workers):
                os.kill(number, signal.SIGKILL)
            server.process.wait()


def wait_until(condition, timeout=30):
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return value


@contextlib.contextmanager
def connected(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        yield connection
    finally:
        connection.close()


def answer(connection, path="/", headers=None, method="GET"):
    connection.request(method, path, headers=headers or {})
    response = connection.getresponse()
    response.text = response.read().decode()
    return response


def ask(server, path="/", **headers):
    with connected(server) as connection:
        return answer(connection, path, headers)


def pid(server):
    return int(ask(server).text)


@either
def test_connection_is_kept_and_the_end_is_clean(run, kind):
    server = run(kind, **SHORT)
    with connected(server) as connection:
        first = answer(connection)
        assert first.getheader("Keep-Alive") == "timeout=74"
        assert answer(connection).text == first.text
        server.send_signal(signal.SIGTERM)
        wait_until(lambda: answer(connection).getheader("Connection") == "close")  # once the worker has heard
    assert server.wait() == 0
    assert "Traceback" not in server.text


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("wsgi", ("-w", "2")),
        ("wsgi", ("-w", "1", "--preload")),
        ("asgi", ("-w", "2")),
        ("asgi", ("-w", "2", "--reuse-port")),
    ],
)
def test_no_request_is_lost_while_hup_replaces_the_workers(run, kind, options, free_port):
    bind = f"127.0.0.1:{free_port()}"
    server = run(kind, *options, bind=bind, **SHORT)
    server.url = f"http://{bind}"
    wait_until(lambda: can_connect(server))
    with Hammer(socket.AF_INET, ("127.0.0.1", server.port), n=6) as hammer:
        hammer.answered(100)
        first = hammer.seen()
        server.send_signal(signal.SIGHUP)
        server.wait_for(rf"(?s)(Worker exiting.*){{{options[1]}}}")
        hammer.answered(100)
        assert hammer.seen() - first
    assert hammer.lost == hammer.refused == []
    assert server.stop() == 0
    assert "Traceback" not in server.text


def children_of(number):
    with open(f"/proc/{number}/task/{number}/children") as file:
        return [int(child) for child in file.read().split()]


def test_no_request_is_lost_while_workers_come_and_go_by_ttin_ttou_and_sigterm(run):
    server = run("wsgi", **SHORT)
    with Hammer(socket.AF_INET, ("127.0.0.1", server.port), n=6) as hammer:
        hammer.answered(50)
        first = children_of(server.pid)[0]
        server.send_signal(signal.SIGTTIN)
        wait_until(lambda: len(children_of(server.pid)) == 2)
        os.kill(first, signal.SIGTERM)  # the arbiter starts another for it
        wait_until(lambda: first not in children_of(server.pid) and len(children_of(server.pid)) == 2)
        hammer.answered(100)
        server.send_signal(signal.SIGTTOU)
        wait_until(lambda: len(children_of(server.pid)) == 1)
        hammer.answered(50)
    assert hammer.lost == hammer.refused == []
    assert "Traceback" not in server.text


def test_no_request_is_lost_when_usr2_starts_a_new_arbiter_and_the_old_one_ends(launch, tmp_path):
    (tmp_path / "app.py").write_text(WSGI)
    command = os.path.join(os.path.dirname(sys.executable), "gunicorn")  # which starts itself again
    settings = ("-b", "127.0.0.1:0", *ALONE, "--pid", "pid", "-k", "kacore.embed.gunicorn.Worker")
    server = launch(command, *settings, "app:app", cwd=tmp_path, **SHORT)
    server.url = server.wait_for(r"http://127\.0\.0\.1:[1-9]\d*")[0]
    wait_until(lambda: can_connect(server))
    with Hammer(socket.AF_INET, ("127.0.0.1", server.port), n=6) as hammer:
        hammer.answered(50)
        server.send_signal(signal.SIGUSR2)
        new = wait_until(lambda: (path := tmp_path / "pid.2").exists() and int(path.read_text() or 0))
        try:
            wait_until(lambda: children_of(new))
            hammer.answered(50)
            server.send_signal(signal.SIGTERM)
            assert server.process.wait(20) == 0  # its output is now the other's
            hammer.answered(50)
        finally:
            os.kill(new, signal.SIGTERM)
    assert hammer.lost == []
    wait_until(lambda: server.text.count("Shutting down") == 2)
    assert "Traceback" not in server.text


def test_newcomer_whom_a_leaving_worker_lets_in_last_has_time_to_ask(run):
    server = run("wsgi", "--max-requests", "1", KACORE_DRAIN_GRACE="1.5", KACORE_DRAIN_SPREAD="0")
    request, answered = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", set()
    # A first one that keeps the worker until the others come: without anybody it would be gone at once.
    waiting = [socket.create_connection(("127.0.0.1", server.port), timeout=20)]
    old = pid(server)
    while "Worker exiting" not in server.text:
        waiting.append(socket.create_connection(("127.0.0.1", server.port), timeout=20))
        time.sleep(0.01)
        if len(waiting) > 15:  # let in a while ago, and silent so far
            with contextlib.closing(waiting.pop(0)) as sock:
                sock.sendall(request)
                answered.add(int(sock.recv(4096).rpartition(b"\r\n")[2]))
    for sock in waiting:
        sock.close()
    assert old in answered, server.text


def can_connect(server):
    with contextlib.suppress(OSError):
        return pid(server)


@either
def test_worker_is_replaced_after_max_requests_and_none_is_lost(run, kind):
    server = run(kind, "--max-requests", "150", "--max-requests-jitter", "50", **SHORT)
    with Hammer(socket.AF_INET, ("127.0.0.1", server.port), n=6) as hammer:
        wait_until(lambda: len(hammer.seen()) >= 3)
    assert hammer.lost == hammer.refused == []
    counts = [int(n) for n in re.findall(r"Autorestarting worker after (\d+)", server.text)]
    assert counts
    assert all(150 <= n < 250 for n in counts)


@either
def test_blocked_worker_is_killed_and_an_idle_one_is_not(run, kind):
    conf = "def worker_abort(worker): print('aborted', worker.pid, flush=True)"
    server = run(kind, "-w", "2", "--timeout", "1", conf=conf, **SHORT)
    pids = wait_until(lambda: (found := {pid(server) for _ in range(10)}) and len(found) == 2 and found)
    try:
        assert ask(server, "/block?10").status == 500  # on the way out
    except (OSError, http.client.HTTPException):
        pass
    victim = int(server.wait_for(r"WORKER TIMEOUT \(pid:(\d+)\)")[1])
    server.wait_for(f"aborted {victim}")
    # What the victim had let in goes with it.
    others = wait_until(lambda: len(found := {can_connect(server) for _ in range(10)} - {victim, None}) == 2 and found)
    assert pids - {victim} < others
    assert server.text.count("WORKER TIMEOUT") == 1


def test_full_worker_closes_an_idle_connection_for_the_newcomer(run):
    server = run("wsgi", "--worker-connections", "3")
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connected(server)) for _ in range(3)]
        for connection in idle:
            answer(connection)
        assert ask(server).status == 200
        assert idle[0].sock.recv(1) == b""
        assert answer(idle[2]).status == 200


def test_keepalive_and_limits_of_gunicorn_are_heard(run):
    server = run(
        "wsgi",
        *("--keep-alive", "9", "--limit-request-line", "100"),
        *("--limit-request-fields", "5", "--limit-request-field_size", "50", "--header-map", "dangerous"),
        KACORE_KEEP_ALIVE_TIMEOUT="33",  # gunicorn's own flag is over it
    )
    assert ask(server).getheader("Keep-Alive") == "timeout=8"
    assert ask(server, "/" + 100 * "x").status == 414
    assert ask(server, x=100 * "x").status == 431
    assert ask(server, **{f"x{i}": "y" for i in range(5)}).status == 431
    assert re.findall(r"(\w+) has no effect in kacore", server.text) == ["header_map"]


def test_keepalive_0_closes_after_every_response(run):
    server = run("wsgi", "--keep-alive", "0")
    assert ask(server).getheader("Connection") == "close"


def test_policy_comes_from_the_configuration_file_and_over_it_from_the_environment(run):
    conf = "from kacore import Policy\nkacore_policy = Policy(keep_alive_timeout=20, max_keep_alive_requests=7)"
    server = run("wsgi", "--env", "KACORE_KEEP_ALIVE_TIMEOUT=50", conf=conf)
    assert ask(server).getheader("Keep-Alive") == "timeout=49, max=6"


def test_timeouts_are_learned_from_who_closes_first(run):
    learns = "Policy(keep_alive_min=1.0, pressure_start=0.0, pressure_full=1e-9)"
    server = run("wsgi", conf=f"from kacore import Policy\nkacore_policy = {learns}")
    assert ask(server).getheader("Keep-Alive") is None  # a promise under a second is not worth making
    wait_until(lambda: int((ask(server).getheader("Keep-Alive") or "timeout=0").removeprefix("timeout=")) >= 4)


@pytest.mark.parametrize(
    ("conf", "sentence"),
    [
        ("import gunicorn; gunicorn.__version__ = '21.2'", "with gunicorn 21.2: the oldest version it supports is 22"),
        (
            "from gunicorn.arbiter import Arbiter; del Arbiter.WORKER_BOOT_ERROR",
            "gunicorn.arbiter:Arbiter.WORKER_BOOT_ERROR is missing there; the adapter was tested with 22 to 27",
        ),
    ],
)
def test_gunicorn_that_cannot_be_served_is_told_in_one_sentence(run, conf, sentence):
    server = run("wsgi", conf=conf)
    assert server.wait() == 1
    (error,) = re.findall("^Error: .*", server.text, re.MULTILINE)
    assert sentence in error
    assert "Traceback" not in server.text


def test_newer_gunicorn_is_warned_of_and_served(run):
    server = run("wsgi", conf="import gunicorn; gunicorn.__version__ = '99.0'")
    server.wait_for("kacore.embed.gunicorn has not been tested with gunicorn 99.0, only with 22 to 27")
    assert ask(server).status == 200


MOUNTED = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [repr((environ["SCRIPT_NAME"], environ["PATH_INFO"])).encode()]
"""


def test_script_name_of_the_environment_is_taken_off_the_path(run):
    server = run("wsgi", app=MOUNTED, SCRIPT_NAME="/mount/")
    for path, rest in (("/mount/a%20b?c", "/a b"), ("/mount", ""), ("/mount/", "/"), ("/%6Dount/x", "/x")):
        assert ask(server, path).text == repr(("/mount", rest))
    for path in ("/", "/mounted", "/other/mount"):
        assert ask(server, path).status == 500
    server.wait_for("path '/mounted' is not under SCRIPT_NAME '/mount'")
    assert "Traceback" not in server.text


def test_script_name_of_a_trusted_proxy_counts_and_nobody_elses(run):
    trusted = {"SCRIPT_NAME": "/proxied"}
    server = run("wsgi", app=MOUNTED)
    expected = ("/proxied", "/a") if "forwarder_headers" in SETTINGS else ("", "/proxied/a")
    assert ask(server, "/proxied/a", **trusted).text == repr(expected)
    assert ask(server, "/proxied/a").text == repr(("", "/proxied/a"))
    stranger = run("wsgi", "--forwarded-allow-ips", "127.0.0.2", app=MOUNTED)
    assert ask(stranger, "/proxied/a", **trusted).text == repr(("", "/proxied/a"))


def test_worker_that_leaves_serves_on_for_drain_lame_duck(need, monkeypatch):
    from kacore import Policy, PolicySet
    from kacore.embed import gunicorn as adapter

    config = need("module:gunicorn.config").Config()
    now, drained = [100.0], []
    worker = object.__new__(adapter.Worker)
    worker.cfg, worker.listeners = config, []
    worker.policies = PolicySet(Policy(drain_lame_duck=5.0, drain_grace=2.0, drain_spread=1.0))
    worker.table = type("Table", (), {"is_drained": False})()
    drain = {"drain": lambda self, **times: drained.append((now[0], times["timeout"])), "when_drained": lambda *_: None}
    worker.engine = type("Engine", (), drain)()
    monkeypatch.setattr(adapter.time, "monotonic", lambda: now[0])
    for _ in worker.departure().walk():
        now[0] += 0.5
    assert drained == [(105.0, 21.9)]  # of the 27 s that graceful_timeout leaves, with the last word
    assert now[0] == 127.0


@pytest.mark.parametrize(
    ("settings", "policy", "sentence"),
    [
        ({}, {"keep_alive_timeout": -1}, "keep_alive_timeout=-1"),
        ({}, {"keep_alive_timeot": 1}, "keep_alive_timeot"),
        ({}, 7, "kacore_policy=7: must be a Policy, a PolicySet or a dict of fields"),
        ({"worker_connections": 10}, {"max_connections_per_client": 20}, "max_connections from gunicorn's settings"),
        ({"graceful_timeout": 10}, {"drain_lame_duck": 9.0}, "drain_lame_duck=9: must be less than 9, nine tenths"),
        *(
            [({"protocol": "uwsgi"}, None, "protocol='uwsgi': kacore's workers only support protocol='http'")]
            if "protocol" in SETTINGS
            else []
        ),
        *([({"http_protocols": "h2,h1"}, None, "HTTP/1.1 only")] if "http_protocols" in SETTINGS else []),
        ({"proxy_protocol": PROXY, "proxy_allow_ips": "10.0.0.1"}, None, "need the same proxy_allow_ips"),
    ],
)
def test_what_cannot_be_served_is_an_error_of_one_line(need, monkeypatch, settings, policy, sentence):
    from kacore.embed import gunicorn

    config = need("module:gunicorn.config").Config()
    monkeypatch.setitem(sys.modules, "__config__", type(sys)("__config__"))
    sys.modules["__config__"].kacore_policy = policy
    for name, value in settings.items():
        config.set(name, value)
    with pytest.raises(RuntimeError, match=re.escape(sentence)) as caught:
        gunicorn.Worker.check_config(config, None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "app", "right"), [("wsgi", ASGI, "ASGIWorker"), ("asgi", WSGI, "Worker")])
def test_application_of_the_other_kind_is_told_which_worker_it_needs(run, kind, app, right):
    server = run(kind, app=app)
    assert server.wait() == 3
    assert f"use -k kacore.embed.gunicorn.{right}\n" in server.text


@either
def test_hooks_are_called_in_order_with_one_request_object(run, kind):
    conf = """
def say(*words): print("hook", *words, flush=True)
def post_worker_init(worker): say("init", type(worker).__name__)
def pre_request(worker, req):
    req.mark = 41
    say("pre", req.method, req.uri, req.version)
    if req.path == "/bad": raise ValueError("before")
def post_request(worker, req, environ, resp):
    fields = dict((name.lower(), value) for name, value in resp.headers)
    say("post", req.mark + 1, environ["RAW_URI"], resp.status, fields.get("content-length", 0))
    if req.path == "/after": raise ValueError("after")
def worker_int(worker): say("int")
def worker_exit(server, worker): say("exit")
def child_exit(server, worker): say("child exit")
"""
    server = run(kind, conf=conf, **SHORT)
    text = ask(server, "/a?b=c").text
    assert [ask(server, path).status for path in ("/bad", "/after")] == [500, 200]  # its own request at most
    server.wait_for("ValueError: before")
    server.wait_for("ValueError: after")
    server.stop(signal.SIGINT)
    assert re.findall("^hook (.*)", server.text, re.MULTILINE) == [
        f"init {WORKERS[kind]}",
        "pre GET /a?b=c (1, 1)",
        f"post 42 /a?b=c 200 OK {len(text)}",
        "pre GET /bad (1, 1)",
        "post 42 /bad 500 Internal Server Error 0",
        "pre GET /after (1, 1)",
        f"post 42 /after 200 OK {len(text)}",
        "int",
        "exit",
        "child exit",
    ]


def test_websocket_is_served_and_logged(run, need):
    need("module:websockets")
    client = need("module:websockets.sync.client")
    app = """
async def app(scope, receive, send):
    assert scope["type"] == "websocket"
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": (await receive())["text"]})
"""
    quiet = ("--asgi-lifespan", "off") if "asgi_lifespan" in SETTINGS else ()
    server = run("asgi", *quiet, "--access-logfile", "-", app=app)
    with client.connect(f"ws://127.0.0.1:{server.port}/chat", open_timeout=5) as websocket:
        websocket.send("hello")
        assert websocket.recv(5) == "hello"
    server.wait_for(r'"GET /chat HTTP/1\.1" 101 ')
    assert "Traceback" not in server.text


@either
def test_access_log_and_statsd_are_written_by_gunicorns_loggers(run, kind):
    log = '%(h)s "%(r)s" %(s)s %(B)s %({x-asked}i)s %({content-length}o)s %(m)s %(U)s?%(q)s'
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(5)
        where = f"127.0.0.1:{statsd.getsockname()[1]}"
        server = run(kind, "--access-logfile", "-", "--access-logformat", log, "--statsd-host", where)
        text = ask(server, "/a?b=c", **{"X-Asked": "this"}).text
        heard = ""
        while "gunicorn.request.status.200:1|c" not in heard:
            heard += statsd.recv(1000).decode() + "\n"
    assert "gunicorn.requests:1|c" in heard
    server.wait_for(re.escape(f'127.0.0.1 "GET /a?b=c HTTP/1.1" 200 {len(text)} this {len(text)} GET /a?b=c\n'))


@either
def test_tls_by_gunicorns_settings_and_hook(run, need, tmp_path, kind):
    root = need("module:trustme").CA()
    pem = root.issue_cert("localhost")
    pem.private_key_pem.write_to_path(str(tmp_path / "key"))
    pem.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
    conf = "def ssl_context(conf, make):\n    print('made', flush=True)\n    return make()"
    server = run(kind, "--certfile", "cert", "--keyfile", "key", conf=conf)
    context = ssl.create_default_context()
    root.configure_trust(context)
    connection = http.client.HTTPSConnection("localhost", server.port, context=context, timeout=20)
    with contextlib.closing(connection):
        assert answer(connection).status == 200
        if kind == "wsgi":
            assert '"scheme": "https"' in answer(connection, "/about").text
    assert "made" in server.text


def test_several_binds_and_a_unix_socket_are_served(run, tmp_path):
    path = tmp_path / "app.sock"
    server = run("wsgi", "-b", "127.0.0.1:0", "-b", f"unix:{path}")
    assert ask(server).status == 200
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.settimeout(5)
        sock.connect(str(path))
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")
    server.stop()
    assert not path.exists()


def test_reload_serves_an_edit_and_shows_why_there_is_none(run, tmp_path):
    server = run("asgi", "--reload")
    module = tmp_path / "app.py"
    edited = module.read_text().replace("str(os.getpid())", "'edited'")
    assert ask(server).text != "edited"

    def answers():
        answered = ask(server)
        return answered.status, "SyntaxError" in answered.text

    for text, expected in (("broken(", (500, True)), (edited, (200, False))):
        module.write_text(text)
        end = time.monotonic() + 60
        while answers() != expected:
            assert time.monotonic() < end, server.text
            time.sleep(0.5)
            os.utime(module)  # gunicorn's watcher may not have seen the file yet as it was before
    assert ask(server).text == "edited"


def test_threads_run_requests_at_once_and_one_thread_is_the_loops_own(run):
    server = run("wsgi", "--threads", "4")
    with Hammer(socket.AF_INET, ("127.0.0.1", server.port), n=1), ThreadPoolExecutor(3) as clients:
        assert [met.status for met in clients.map(ask, 3 * [server], 3 * ["/meet"])] == [200] * 3
    about = ask(server, "/about").text
    assert '"threads": true' in about
    alone = run("wsgi", "-w", "2")
    about = ask(alone, "/about").text
    for words in ('"loop": false', '"threads": false', '"processes": true'):
        assert words in about
    alone.wait_for("said by the application")


PIECES = """
import os, time

def app(environ, start_response):
    start_response("200 OK", [])
    yield b"first"
    while not os.path.exists("go"):
        time.sleep(0.005)
    yield b"second"
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_piece_is_with_the_client_before_the_application_goes_on(run, tmp_path, threads):
    child = run("wsgi", "--threads", threads, app=PIECES)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", int(child.url.rpartition(":")[2]), timeout=20)) as client:
        client.request("GET", "/")
        response = client.getresponse()
        assert response.read(5) == b"first"
        (tmp_path / "go").touch()
        assert response.read() == b"second"


def test_forwarded_allow_ips_says_whose_word_is_taken(run):
    server = run("wsgi", "--forwarded-allow-ips", "127.0.0.2")
    said = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    assert '"client": "127.0.0.1", "scheme": "http"' in ask(server, "/about", **said).text
    proxy = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10, source_address=("127.0.0.2", 0))
    with contextlib.closing(proxy):
        assert '"client": "192.0.2.7", "scheme": "https"' in answer(proxy, "/about", said).text


def test_proxy_protocol_names_the_client(run):
    server = run("wsgi", "--proxy-protocol", *([PROXY] if PROXY == "auto" else []))
    with contextlib.closing(socket.create_connection(("127.0.0.1", server.port), timeout=5)) as sock:
        sock.sendall(b"PROXY TCP4 192.0.2.9 192.0.2.1 4711 80\r\nGET /about HTTP/1.1\r\nHost: a\r\n\r\n")
        received = functools.reduce(lambda data, _: data if b"}" in data else data + sock.recv(4096), range(9), b"")
    assert b'"client": "192.0.2.9"' in received


def test_lifespan_is_run_and_one_that_fails_stops_gunicorn(run):
    app = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        scope["state"]["word"] = b"remembered"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("shut down", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["state"]["word"]})
"""
    server = run("asgi", app=app, **SHORT)
    assert ask(server).text == "remembered"
    assert server.stop() == 0
    assert "shut down" in server.text
    failing = run("asgi", app=app.replace("startup.complete", "startup.failed"))
    assert failing.wait() == 3
    assert "the application's startup failed" in failing.text


def test_workers_drain_and_end_when_the_arbiter_is_killed(run):
    server = run("asgi", "-w", "2", "--timeout", "1", **SHORT)
    wait_until(lambda: len({pid(server) for _ in range(10)}) == 2)
    server.process.kill()
    server.wait_for(r"(?s)(Worker exiting.*){2}")
