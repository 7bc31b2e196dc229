"""A thread for each connection, by the standard library's socketserver; kacore reads, decides and keeps the time.

    python docs/examples/hello_threads.py [PORT [CONNECTIONS]]

RequestParser says what the bytes mean, one ConnectionTable who may stay and who is late. The table belongs to one
thread at a time, so a lock goes around it; a socket that has to go is shut down, which wakes the thread that reads it.
An idle connection costs a thread here, and with it far more than its place in the table.
"""

import signal
import socket
import socketserver
import sys
import threading
import time

from kacore import ConnectionTable, EndOfMessage, Head, LocalError, PeerError, Policy, RequestParser


def answer(head, body):
    return (200, body or b"hello\n") if head.target == b"/" else (404, b"no such page\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, policy):
        self.table, self.lock, self.sockets = ConnectionTable(policy), threading.Lock(), {}
        super().__init__(address, Connection)

    def tell(self, event, *arguments):
        """Report an event of a connection. LocalError when it has been closed."""
        with self.lock:
            return getattr(self.table, event)(*arguments)

    def admit(self, sock, client):
        """Its handle; 0 when nobody can make room for it."""
        with self.lock:
            conn = self.table.open(time.monotonic(), client)
            if not conn and (victim := self.table.evict(time.monotonic())):
                shut(self.sockets.pop(victim))
                conn = self.table.open(time.monotonic(), client)
            if conn:
                self.sockets[conn] = sock
            return conn

    def forget(self, conn):
        with self.lock:
            if self.sockets.pop(conn, None) is not None:
                self.table.close(conn)

    def service_actions(self):
        """Called by serve_forever() every poll_interval: close who is late."""
        with self.lock:
            for conn in self.table.expire(time.monotonic()):
                shut(self.sockets.pop(conn))

    def drain_and_shutdown(self):
        """Every response says close from now on; whoever is idle may ask once more within the grace."""
        self.tell("drain", time.monotonic())
        while len(self.table):
            time.sleep(0.02)
        self.shutdown()


class Connection(socketserver.BaseRequestHandler):
    def handle(self):
        self.conn = self.server.admit(self.request, self.client_address)
        if not self.conn:
            return self.refuse(503)
        try:
            self.converse(RequestParser())
        except OSError:
            pass  # the client is gone
        except LocalError:
            if self.conn in self.server.table:  # else its time was up, or it made room for another
                raise
        finally:
            self.server.forget(self.conn)

    def converse(self, parser):
        head, body, is_idle, goes_on = None, [], True, True
        while goes_on and (data := self.request.recv(65536)):
            if head is not None:
                if self.tell("body_progress", len(data)):
                    return self.refuse(408)
                self.tell("body_arrived")
            elif is_idle:
                self.tell("received")
                is_idle = False
            for event in parser.feed(data):
                if isinstance(event, PeerError):
                    return self.refuse(event.status)
                if isinstance(event, Head):
                    head, body = event, []
                    self.tell("head_done")
                elif isinstance(event, EndOfMessage):
                    goes_on = self.respond(head, b"".join(body))
                    head, is_idle = None, True
                else:
                    body.append(event)
            if head is not None:
                if head.expects_continue and not body:
                    self.request.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                self.tell("body_wanted")

    def respond(self, head, body):
        status, content = answer(head, body)
        verdict = self.server.tell("decide", self.conn, time.monotonic(), head.version, head.keep_alive)
        self.tell("blocked")  # until the kernel has taken it all, the client is waited for
        self.send(status, content, verdict.fields, head.method == "HEAD")
        if verdict.keeps:
            self.tell("responded")
        return verdict.keeps

    def refuse(self, status):
        self.send(status, b"", ((b"connection", b"close"),))

    def send(self, status, content, fields, is_head=False):
        lines = [b"HTTP/1.1 %d " % status, b"content-length: %d" % len(content), *(b"%s: %s" % field for field in fields)]
        self.request.sendall(b"\r\n".join([*lines, b"", b"" if is_head else content]))

    def tell(self, event, *arguments):
        return self.server.tell(event, self.conn, *arguments, time.monotonic())


def shut(sock):
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the client was quicker


port, connections = int((*sys.argv[1:2], 8000)[0]), int((*sys.argv[2:3], 100)[0])
with Server(("127.0.0.1", port), Policy(max_connections=connections)) as server:
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.drain_and_shutdown).start())
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever(poll_interval=0.1)
