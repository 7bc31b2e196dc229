"""The build for systems without epoll (`make portable`): what needs the engine says so, in one line."""

import pytest

import kacore


def answer(request):
    return b"never asked"


def test_running_a_server_says_that_epoll_is_missing():
    with pytest.raises(kacore.LocalError, match="needs epoll"):
        kacore.Server(answer, port=0).run()


def test_command_says_it_in_one_line_with_status_2(launch, tmp_path):
    (tmp_path / "app.py").write_text("def answer(request):\n    return b''\n")
    child = launch("-m", "kacore", "serve", "app:answer", "--interface", "handler", "--port", "0")
    assert child.wait() == 2
    assert child.text.count("\n") == 1, child.text
    assert "needs epoll" in child.text
