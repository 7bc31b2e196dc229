"""What a server does with what it was sent: ends the connection, ends a stream, answers, or takes no notice."""

from typing import NamedTuple

from tests.wire.http2_client import NO_ERROR, Client, request


def is_alive(c: Client) -> bool:
    """Another request is answered, and nothing was said of an end. Needs no window, and no table of fields in step."""
    one = c.answer(c.raw(request("/", "HEAD")))
    return one.status == 200 and not c.goaways


class goaway(NamedTuple):
    """A connection error (RFC 9113 5.4.1): GOAWAY with one of these codes, and the end."""

    codes: tuple[int, ...]

    def check(self, c: Client, stream: int | None) -> None:
        c.rest()
        assert c.goaways, f"the connection ended without GOAWAY; {c.log[-5:]}"
        last, code = c.goaways[-1]
        assert code in self.codes, f"GOAWAY {code}, not {self.codes}"
        assert last <= max(c.streams, default=0), f"it speaks of stream {last}, which was never opened"
        assert not c.was_reset, "RST, which can destroy the GOAWAY on its way"


class closes(NamedTuple):
    """The end, with or without GOAWAY, since it is not known that the client speaks HTTP/2 (RFC 9113 3.4)."""

    codes: tuple[int, ...]

    def check(self, c: Client, stream: int | None) -> None:
        c.rest()
        assert all(code in self.codes for _, code in c.goaways), c.goaways


class resets(NamedTuple):
    """A stream error (RFC 9113 5.4.2): RST_STREAM with one of these codes; the connection goes on."""

    codes: tuple[int, ...]

    def check(self, c: Client, stream: int | None) -> None:
        assert stream is not None
        one = c.streams[stream]
        c.until(lambda: one.reset is not None, f"the reset of stream {stream}")
        assert one.reset in self.codes, f"RST_STREAM {one.reset}, not {self.codes}"
        assert is_alive(c), f"the connection does not go on: {c.goaways}"


class answers(NamedTuple):
    """A response, whole; the connection goes on."""

    status: int = 200
    body: bytes | None = None

    def check(self, c: Client, stream: int | None) -> None:
        assert stream is not None
        one = c.answer(stream)
        assert one.status == self.status, one
        assert self.body is None or one.data == self.body, one
        assert one.reset in (None, NO_ERROR), one  # RFC 9113 8.1: after the response, for content that nobody wants
        assert is_alive(c), f"the connection does not go on: {c.goaways}"


class ignores(NamedTuple):
    """Nothing comes of it: no stream was ended that was open, and the connection goes on."""

    def check(self, c: Client, stream: int | None) -> None:
        before = {number for number, one in c.streams.items() if one.reset is not None}
        c.settle()
        assert is_alive(c), f"the connection does not go on: {c.goaways}"
        after = {number for number, one in c.streams.items() if one.reset is not None}
        assert after == before, [c.streams[number] for number in after]


def GOAWAY(*codes: int) -> goaway:
    return goaway(codes)


def CLOSES(*codes: int) -> closes:
    return closes(codes)


def RESETS(*codes: int) -> resets:
    return resets(codes)


ANSWERS = answers()
IGNORES = ignores()
