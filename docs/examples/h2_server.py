"""kacore's table under HTTP/2: a server for asyncio on the `h2` package (pip install kacore[http2]).

    python h2_server.py 8000                      prior knowledge, without TLS
    python h2_server.py 8443 cert.pem key.pem     TLS, ALPN "h2"

h2 knows the protocol and no clock; the table knows when a connection must go and no protocol; here bytes move. What
the table is told: accepted (new), the first byte (head: preface, SETTINGS and the first request have one deadline
together), and each stream that opens or closes (no open stream = idle). What it asks for: GOAWAY.

What bounds a hostile client: streams (100 at once), header lists (64 KiB) and CONTINUATION frames (64), which h2
counts; resets and what else costs it nothing (ALLOWANCE); content (MAX_BODY a stream); and time: one that grants no
window or takes no bytes has `send_timeout`, one that does not go on with its content `request_body_timeout`, and
there is one timer for all. It is an example: content is collected before the application sees it, no byte rate is
asked for, and a GOAWAY of the client ends what is under way, since h2 then sends nothing more.
"""

import asyncio
import signal
import sys
from contextlib import suppress

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from hyperframe.frame import GoAwayFrame

from kacore import ConnectionTable, Policy, strip_connection_fields

MAX_BODY = 1 << 20  # bytes of content that a request may have
# What costs us work and the client nothing (RST_STREAM, PING, SETTINGS, PRIORITY, empty DATA, WINDOW_UPDATE that nobody
# waits for or that grants next to nothing), beyond four for each response that was completed. Who opens streams and
# resets them (CVE-2023-44487) runs out of it.
ALLOWANCE = 200
SMALL = 64  # bytes that a window grows by
LAST_STREAM = 2**31 - 1  # "whatever you have sent" (RFC 9113 section 6.8)


class Queue:
    """Whose clock began when: in the order of beginning, since it is put at the end. One timeout for all in it."""

    def __init__(self, timeout, cause):
        self.timeout, self.cause, self.since = timeout, cause, {}

    def restart(self, who, now):
        self.since.pop(who, None)
        self.since[who] = now

    def stop(self, who):
        self.since.pop(who, None)

    def first(self):
        """(when, who) of the one that is due first, or None."""
        if not self.timeout or not self.since:
            return None
        who, since = next(iter(self.since.items()))
        return since + self.timeout, who


class Server:
    """All connections: their table, their one timer. app: async (fields: dict, body: bytes) -> (status, fields, body)."""

    def __init__(self, app, policy=None):
        self.app, self.policy = app, policy or Policy()
        self.table = ConnectionTable(self.policy)
        self.loop = asyncio.get_running_loop()
        self.connections = {}
        self.stalled = Queue(self.policy.send_timeout, "send_timeout")
        self.uploading = Queue(self.policy.request_body_timeout, "body_timeout")
        self.timer, self.armed = None, float("inf")

    def admit(self, connection, peer):
        """Its number in the table, or 0: refused. A full table closes who is least useful."""
        now, client = self.loop.time(), peer if isinstance(peer, tuple) else None
        conn = self.table.open(now, client)
        if not conn and self.table.is_full:
            victim = self.table.victim(now)
            if victim:
                self.connections[victim].leave("evicted", lingers=False)
                conn = self.table.open(now, client)
            else:
                self.table.refused("rejected")
        if conn:
            self.connections[conn] = connection
            self.arm()
        return conn

    def arm(self):
        """Have the one timer fire when something is due, if that is earlier than it would."""
        due = self.table.next_due()
        times = [due] if due is not None else []
        times += [first[0] for first in (self.stalled.first(), self.uploading.first()) if first]
        if times and min(times) < self.armed:
            if self.timer:
                self.timer.cancel()
            self.armed = min(times)
            self.timer = self.loop.call_at(self.armed, self.fired)

    def fired(self):
        """What came before is handled before anything is judged: the loop polls once more."""
        self.timer, self.armed = None, float("-inf")
        self.loop.call_soon(self.loop.call_soon, self.expire)

    def expire(self):
        now = self.loop.time()
        while due := self.table.due(now):
            conn, action, cause = due
            self.connections[conn].leave(cause, lingers=action != "close")
        for queue in (self.stalled, self.uploading):
            while (first := queue.first()) and first[0] <= now:
                queue.stop(first[1])
                first[1].leave(queue.cause, error=ErrorCodes.CANCEL)
        self.armed = float("inf")
        self.arm()

    async def drain(self):
        """Tell every client to open no more streams here, finish those that are open, and end what is left."""
        self.table.drain(self.loop.time())
        for connection in list(self.connections.values()):
            connection.announce("drain")
        self.arm()
        until = self.loop.time() + self.policy.drain_timeout
        while any(one.streams or not one.lingers for one in self.connections.values()) and self.loop.time() < until:
            await asyncio.sleep(0.01)
        for connection in list(self.connections.values()):
            connection.leave("drain", lingers=False)
        if self.timer:
            self.timer.cancel()


class Stream:
    """A request and its response. task: the application's; output: what is still to be sent, when it has answered."""

    def __init__(self, fields):
        self.fields, self.body, self.is_whole, self.task, self.output = fields, bytearray(), False, None, None


class Connection(asyncio.Protocol):
    """One connection: h2's state machine, the table's clock, the loop's transport."""

    def __init__(self, server):
        self.server, self.table, self.conn = server, server.table, 0
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.streams = {}  # number -> Stream, while the table counts it as open
        self.allowance = ALLOWANCE
        self.last = 0  # number of the last stream that was opened
        self.cause = None  # what it will end by, once that is decided
        self.is_paused = self.has_spoken = self.lingers = False

    # -- what the loop calls -----------------------------------------------------------------------------

    def connection_made(self, transport):
        self.transport = transport
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self.table.refused("bad_request")
            transport.close()
            return
        self.conn = self.server.admit(self, transport.get_extra_info("peername"))
        if not self.conn:  # REFUSED_STREAM would need a stream: a GOAWAY says that nothing was looked at
            self.say_goaway(0, ErrorCodes.ENHANCE_YOUR_CALM)
            transport.close()
            return
        self.h2.initiate_connection()
        self.flush()

    def data_received(self, data):
        if self.lingers and self.table.linger_progress(self.conn, len(data), self.now()):
            self.end(self.cause)
        if self.lingers or not self.conn:
            return
        if not self.has_spoken:
            self.has_spoken = True
            self.table.received(self.conn, self.now())
            self.server.arm()
        try:
            for event in self.h2.receive_data(data):
                self.handle(event)
                if not self.conn or self.lingers:
                    return
        except ProtocolError as error:
            self.h2.clear_outbound_data_buffer()  # h2 says a GOAWAY of its own, but not always
            self.leave("bad_request", error=error.error_code)
            return
        self.pump()

    def connection_lost(self, error):
        self.end(self.cause or ("error" if self.streams else "client"))

    def pause_writing(self):
        self.is_paused = True
        if self.conn and not self.lingers:
            self.transport.pause_reading()  # acknowledgements would pile up behind what the client does not take
            self.server.stalled.restart(self, self.now())
            self.server.arm()

    def resume_writing(self):
        self.is_paused = False
        self.server.stalled.stop(self)
        if self.conn and not self.lingers:
            self.transport.resume_reading()
            self.pump()

    def now(self):
        return self.server.loop.time()

    # -- what h2 tells -----------------------------------------------------------------------------------

    def handle(self, event):
        """Those that cost us something are paid for from the allowance."""
        if isinstance(event, events.RequestReceived):
            self.open(event)
        elif isinstance(event, events.DataReceived):
            self.take(event)
        elif isinstance(event, events.StreamEnded):
            self.whole(event.stream_id)
        elif isinstance(event, events.WindowUpdated):
            is_wanted = event.delta >= SMALL and any(stream.output for stream in self.streams.values())
            self.pay(0 if is_wanted else 1)
        elif isinstance(event, events.ConnectionTerminated):
            self.leave("client", error=None)
        elif isinstance(event, events.StreamReset):
            self.pay(1)
            self.close(event.stream_id)
        elif isinstance(event, events.PingReceived | events.RemoteSettingsChanged | events.PriorityUpdated):
            self.pay(1)

    def pay(self, price):
        self.allowance -= price
        if self.allowance < 0:
            self.leave("bad_request", error=ErrorCodes.ENHANCE_YOUR_CALM)

    def open(self, event):
        number = event.stream_id
        if self.cause is not None and self.cause != "drain":  # it was told to open none
            self.h2.reset_stream(number, ErrorCodes.REFUSED_STREAM)
            return
        self.last = number
        self.streams[number] = Stream(dict(event.headers))
        self.table.stream_opened(self.conn, self.now())
        if event.stream_ended is None:
            self.server.uploading.restart(self, self.now())
        self.server.arm()

    def take(self, event):
        stream = self.streams.get(event.stream_id)
        if stream is None or len(stream.body) + len(event.data) > MAX_BODY:
            if stream is not None:
                self.h2.reset_stream(event.stream_id, ErrorCodes.CANCEL)
                self.close(event.stream_id)
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            return
        if not event.data and not event.stream_ended:
            self.pay(1)
            return
        stream.body += event.data
        self.server.uploading.restart(self, self.now())
        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def whole(self, number):
        stream = self.streams.get(number)
        if stream is None:
            return
        stream.is_whole = True
        if all(one.is_whole for one in self.streams.values()):
            self.server.uploading.stop(self)
        stream.task = asyncio.ensure_future(self.answer(number, stream))

    # -- answers -----------------------------------------------------------------------------------------

    async def answer(self, number, stream):
        try:
            status, fields, body = await self.server.app(stream.fields, bytes(stream.body))
        except Exception:
            status, fields, body = 500, [], b""
        if self.streams.get(number) is not stream:
            return
        verdict = self.table.decide(self.conn, self.now(), "2")
        head = [(":status", str(status)), *(one for one in strip_connection_fields(fields) if one[0] != "content-length")]
        if status not in (204, 304):  # RFC 9110 section 8.6
            head.append(("content-length", str(len(body))))
        if stream.fields[":method"] == "HEAD":
            body = b""
        try:
            self.h2.send_headers(number, head, end_stream=not body)
        except ProtocolError:  # fields that cannot be sent
            self.h2.reset_stream(number, ErrorCodes.INTERNAL_ERROR)
            self.close(number)
            self.pump()
            return
        stream.output = memoryview(body)
        if not body:
            self.finished(number)
        self.pump()
        if not verdict.keeps:
            self.announce(verdict.cause)
            self.pump()

    def finished(self, number):
        self.allowance = min(ALLOWANCE, self.allowance + 4)
        self.close(number)

    def pump(self):
        """Send what the windows allow, a frame of each stream in turn, until the transport holds some of it back."""
        waiting = {number: stream for number, stream in self.streams.items() if stream.output}
        now, is_held, has_sent = self.now(), False, False
        while waiting and not self.is_paused and self.conn:
            for number, stream in list(waiting.items()):
                left = len(stream.output)
                n = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size, left)
                if n <= 0:
                    is_held = True
                    del waiting[number]
                    continue
                self.h2.send_data(number, stream.output[:n].tobytes(), end_stream=n == left)
                stream.output, has_sent = stream.output[n:], True
                if not stream.output:
                    del waiting[number]
                    self.finished(number)
            self.flush()
        self.flush()
        if self.is_paused or not self.conn:
            return
        if not is_held:
            self.server.stalled.stop(self)
        elif has_sent or self not in self.server.stalled.since:
            self.server.stalled.restart(self, now)
            self.server.arm()
        if self.cause is not None and not self.streams and self.cause != "drain":
            self.leave(self.cause)

    def flush(self):
        data = self.h2.data_to_send()
        if data:
            self.transport.write(data)

    # -- ends --------------------------------------------------------------------------------------------

    def close(self, number):
        """A stream is over, for the table and for the application."""
        stream = self.streams.pop(number, None)
        if stream is None:
            return
        if stream.task is not None and not stream.task.done() and stream.output is None:
            stream.task.cancel()
        if all(one.is_whole for one in self.streams.values()):
            self.server.uploading.stop(self)
        self.table.stream_closed(self.conn, self.now())
        self.server.arm()

    def announce(self, cause):
        """The first GOAWAY: no new streams, please; those under way are served (RFC 9113 section 6.8)."""
        if self.cause is None and self.conn:
            self.cause = cause
            self.flush()
            self.say_goaway(LAST_STREAM, ErrorCodes.NO_ERROR)

    def say_goaway(self, last, error):
        # Not h2's close_connection(), which would let nothing follow.
        self.transport.write(GoAwayFrame(0, last_stream_id=last, error_code=error).serialize())

    def leave(self, cause, error=ErrorCodes.NO_ERROR, lingers=True):
        """The last GOAWAY names the last stream that was looked at, so that the client may repeat the others."""
        if not self.conn:
            return
        if self.lingers:
            self.end(self.cause)
            return
        self.cause = cause
        stuck = self.is_paused
        self.flush()
        if error is not None:
            self.say_goaway(self.last, error)
        if stuck or not lingers or not self.transport.can_write_eof():
            self.end(cause)
            if stuck:
                self.transport.abort()
            return
        with suppress(OSError):
            self.transport.write_eof()
        self.table.lingering(self.conn, self.now())
        self.lingers = True
        self.forget_work()
        self.server.arm()

    def forget_work(self):
        for stream in self.streams.values():
            if stream.task is not None:
                stream.task.cancel()
        self.streams.clear()
        self.server.stalled.stop(self)
        self.server.uploading.stop(self)

    def end(self, cause):
        """The one way out."""
        if self.conn:
            del self.server.connections[self.conn]
            self.table.close(self.conn, cause)
            self.conn = 0
            self.forget_work()
            self.transport.close()


async def hello(fields, body):
    """GET / says hello, POST gives back what it got, GET /N is N bytes."""
    if fields[":method"] == "POST":
        return 200, [("content-type", "application/octet-stream")], body
    n = fields[":path"].lstrip("/")
    return 200, [("content-type", "text/plain")], b"y" * int(n) if n.isdigit() else b"hello\n"


async def main(port, *files, policy=None):
    tls = None
    if files:
        import ssl

        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*files)
        tls.set_alpn_protocols(["h2"])
    server = Server(hello, policy)
    listener = await server.loop.create_server(lambda: Connection(server), "127.0.0.1", int(port), ssl=tls)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        server.loop.add_signal_handler(number, ended.set)
    scheme, address = "https" if tls else "http", listener.sockets[0].getsockname()
    print(f"HTTP/2 on {scheme}://{address[0]}:{address[1]}", flush=True)
    await ended.wait()
    listener.close()
    await server.drain()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
