# What stands in engine.pxi's place where there is no epoll: the same name, which says what is missing.
# Everything else needs nothing of the engine and works in such a build: Server by transport_protocol.pxi.
import sys

has_epoll = False


class Engine:
    """Not available in this build: making one raises LocalError."""

    def __init__(self, *args, **kwargs):
        raise LocalError(f"the engine needs epoll, which this build of kacore for {sys.platform} does not have")


def refuse_new_connections(fd):
    """Nothing: the kernel filter that does it is Linux's, and closing the socket comes soon after."""


def return_large_blocks():
    """Nothing: what it changes is glibc's."""
