"""What people type who come from another server, served; and applications that are written as they once were."""

import http.client
import json
import urllib.parse

import pytest

import kacore


def fetch(url):
    where = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(where.netloc, timeout=20)
    connection.request("GET", where.path or "/")
    response = connection.getresponse()
    try:
        return response.read().decode(), dict(response.headers)
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("command", "timeout"),
    [
        (("app:app",), 74),
        (("app",), 74),
        (("app:app", "--timeout-keep-alive", "5"), 4),
        (("app:app", "--keep-alive", "5", "--no-access-log", "--log-level", "INFO"), 4),
        (("-w", "1", "-c", "gunicorn.conf.py"), 6),
    ],
)
def test_the_command_of_another_server_serves(launch, tmp_path, command, timeout):
    (tmp_path / "app.py").write_text("def app(request): return b'here'\n")
    (tmp_path / "gunicorn.conf.py").write_text("wsgi_app = 'app:app'\nkeepalive = 7\nworker_class = 'gthread'\n")
    child = launch("-m", "kacore", *command, "--port", "0")
    url = child.wait_for(r"http://[^\s/]+:[1-9][0-9]*")[0]
    text, fields = fetch(url)
    assert text == "here"
    assert fields["keep-alive"].startswith(f"timeout={timeout}")
    assert ("worker_class is not taken" in child.text) == ("-c" in command)
    assert child.stop() == 0


def test_the_port_of_a_platform_is_listened_on_from_outside(launch, tmp_path, free_port):
    (tmp_path / "app.py").write_text("def app(request): return b'here'\n")
    port = free_port()
    child = launch("-m", "kacore", "app:app", PORT=str(port), ready="serves")
    assert f"http://0.0.0.0:{port}" in child.text
    assert fetch(f"http://127.0.0.1:{port}")[0] == "here"


class OfVersion2:
    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        message = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps([self.scope["path"], message["type"]]).encode()})


def function_of_version_2(scope):
    return OfVersion2(scope)


@pytest.mark.parametrize("app", [OfVersion2, function_of_version_2])
def test_applications_of_asgi_2_are_served(app):
    with kacore.serving(app, lifespan="off") as server:
        assert server.interface == "asgi"
        assert json.loads(fetch(server.url + "/a")[0]) == ["/a", "http.request"]


def test_a_factory_that_needs_an_argument_is_not_taken_for_a_handler():
    def create_app(settings):
        return lambda request: b""

    with pytest.raises(kacore.UsageError, match=r"'create_app' looks like a factory that needs an argument \(settings\)"):
        kacore.Server(create_app)
    assert kacore.Server(create_app, interface="handler").interface == "handler"
