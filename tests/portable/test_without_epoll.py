"""The build for systems without epoll (`make portable`): the server serves over the loop's transports, and says so."""

import urllib.request

import pytest

import kacore

APP = "def answer(request):\n    return request.body or b'hello'\n"


def answer(request):
    return b"never asked"


def test_asking_for_epoll_says_that_it_is_missing():
    with pytest.raises(ValueError, match="has no epoll"):
        kacore.Server(answer, port=0, io="epoll")


def test_the_engine_itself_says_that_it_is_missing():
    with pytest.raises(kacore.LocalError, match="needs epoll"):
        kacore._core.Engine(None, None)


def test_the_command_serves_over_transports_and_says_so(launch, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    command = ("-m", "kacore", "serve", "app:answer", "--interface", "handler", "--port", "0")
    child = launch(*command, ready=r"http://\S+")
    url = child.wait_for(r"http://[0-9.:]+")[0]
    assert "transports, without the memory and speed of the engine" in child.text
    with urllib.request.urlopen(url, timeout=10) as response:
        assert response.read() == b"hello"
    with urllib.request.urlopen(url, data=b"x" * 300_000, timeout=10) as response:
        assert response.read() == b"x" * 300_000
    assert child.stop() == 0, child.text
