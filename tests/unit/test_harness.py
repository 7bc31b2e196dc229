"""The fixtures of conftest.py: a harness that cannot fail would make every other test worthless."""

import os
import shutil
import socket
import sys
from pathlib import Path

import pytest

import kacore._core


def test_needed_program_is_given_as_its_path(need):
    assert need("sh") == shutil.which("sh")


def test_needed_module_is_given_as_the_module(need):
    assert need("module:os") is os


@pytest.mark.parametrize("name", ["no-such-program-of-kacore", "module:no_such_module_of_kacore"])
def test_missing_program_skips_for_a_user_and_fails_in_ci(need, monkeypatch, name):
    monkeypatch.setitem(need.__globals__, "IN_CI", False)
    with pytest.raises(pytest.skip.Exception, match="is not installed"):
        need(name)
    monkeypatch.setitem(need.__globals__, "IN_CI", True)
    with pytest.raises(pytest.fail.Exception, match="is not installed"):
        need(name)


def test_child_is_ready_when_it_has_printed_its_line(launch):
    code = "import time; print('listening on http://127.0.0.1:9'); time.sleep(60)"
    child = launch("-c", code, ready="listening")
    assert child.wait_for(r"http://\S+")[0] == "http://127.0.0.1:9"
    assert child.process.poll() is None
    assert child.stop() < 0


def test_child_that_dies_before_it_is_ready_fails_the_test_with_what_it_said(launch):
    with pytest.raises(pytest.fail.Exception, match="no such port"):
        launch("-c", "import sys; sys.exit('no such port')", ready="listening")


def test_child_that_does_not_end_in_time_fails_the_test(launch):
    child = launch("-c", "import time; print('up'); time.sleep(60)", ready="up")
    with pytest.raises(pytest.fail.Exception, match="still runs"):
        child.wait(timeout=0.01)


def test_child_that_a_sanitizer_reported_fails_the_test(launch):
    child = launch("-c", "print('x.c:1:2: runtime error: signed integer overflow')")
    assert child.wait() == 0
    with pytest.raises(pytest.fail.Exception, match="reported by a sanitizer"):
        child.end()
    child.text = ""


def test_child_that_runs_python_uses_this_interpreter_and_this_build_of_kacore(launch):
    child = launch("-c", "import sys, kacore._core as c; print(sys.executable, c.__file__)")
    assert child.wait() == 0, child.text
    assert child.text.split() == [sys.executable, kacore._core.__file__]


def test_sanitizers_are_in_the_build_that_is_tested_exactly_when_they_are_asked_for(sanitized):
    assert (b"__asan_init" in Path(kacore._core.__file__).read_bytes()) == sanitized


def test_other_programs_do_not_inherit_the_sanitizers(launch):
    child = launch(shutil.which("env"), python=False)
    assert child.wait() == 0
    assert "libasan" not in child.text


def test_free_port_can_be_listened_on(free_port):
    with socket.create_server(("127.0.0.1", free_port())) as server:
        assert server.getsockname()[1] > 0
