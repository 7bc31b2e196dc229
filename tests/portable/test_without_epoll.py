"""The build for systems without epoll (`make portable`): what needs the engine says so, in one line."""

import pytest

import kacore
from kacore import _core


def test_making_an_engine_says_that_epoll_is_missing():
    with pytest.raises(kacore.LocalError, match="needs epoll"):
        _core.Engine()
