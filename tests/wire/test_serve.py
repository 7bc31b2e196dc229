"""`kacore serve` as a process: it says where it listens, answers there, and ends when it is told to."""

import urllib.request

import pytest

APPLICATIONS = """
async def asgi(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"asgi"})

def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Length", "4")])
    return [b"wsgi"]

def handler(request):
    return b"handler"
"""


@pytest.mark.parametrize("name", ["asgi", "wsgi", "handler"])
def test_served_application_answers_and_the_server_ends_with_status_0(serve, tmp_path, name):
    (tmp_path / "app.py").write_text(APPLICATIONS)
    server = serve(f"app:{name}")
    with urllib.request.urlopen(server.url, timeout=10) as response:
        assert response.read() == name.encode()
    assert server.stop() == 0, server.text
