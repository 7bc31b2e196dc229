# WSGI, PEP 3333, for any number of threads by one path.
#
# The application is called when the request's content is complete. With threads = 0 it runs in the engine's thread;
# else in a pool, whose threads are started when a request waits for one. Its iterable is advanced only while the
# client takes data. What a thread produces is handed to the engine's thread through `outbox`: a talk belongs to one
# thread, and only Port.wake may be called from another.
#
# Threads and engine share their state by holding the GIL, and wake each other once for many requests: a thread is woken
# for the first request that waits, and wakes another one if more wait when it takes it; the engine is woken for the
# first response, and finds those that came since.
import sys
from _thread import allocate_lock as allocate_lock

from libc.string cimport strlen

cdef extern from "Python.h":
    PyObject *PyDict_SetDefault(object, object, object) except NULL  # borrowed

cdef dict HTTP_KEYS = {}   # field name -> environ key; bounded, since names come from clients
cdef tuple COMMON_HTTP_KEYS   # the same for NAMES
cdef enum:
    MAX_HTTP_KEYS = 1024
    OUTBOX_HIGH = 256 * 1024


cdef object http_key_of(bytes name):
    """None for a name with "_", which could pass for another field ("X_Real_IP"), and for what PEP 3333 hides: the
    content is complete when the application sees it."""
    text = name.decode("ascii").upper().replace("-", "_")
    if b"_" in name or text == "TRANSFER_ENCODING":
        return None
    return text if text in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + text


COMMON_HTTP_KEYS = tuple([http_key_of(one) for one in NAMES])


cdef object http_key(const char *buf, ka_span where):
    """The environ key for a field name, or None."""
    cdef int i = ka_name_find(buf + where.off, where.len)
    if i >= 0:
        return COMMON_HTTP_KEYS[i]
    name = name_bytes(buf, where)
    key = HTTP_KEYS.get(name)
    if key is None:
        key = http_key_of(name)
        if len(HTTP_KEYS) < MAX_HTTP_KEYS:
            HTTP_KEYS[name] = key
    return key


cdef str decimal(unsigned n):
    """str(n), for a number of at most ten digits."""
    cdef char digits[10]
    cdef int i = 10
    while True:
        i -= 1
        digits[i] = <char>(48 + n % 10)
        n //= 10
        if n == 0:
            return PyUnicode_DecodeASCII(digits + i, 10 - i, NULL)


cdef object BytesIO   # io's, from the first application on


cdef class FileWrapper:
    """wsgi.file_wrapper of PEP 3333: an iterable over a file, which the server sends without reading where it can."""
    cdef object filelike
    cdef Py_ssize_t block_size

    def __init__(self, filelike, block_size=65536):
        self.filelike = filelike
        self.block_size = block_size

    def __iter__(self):
        return self

    def __next__(self):
        block = self.filelike.read(self.block_size)
        if not block:
            raise StopIteration
        return block

    def close(self):
        """Close the file, as PEP 3333 asks of it."""
        if hasattr(self.filelike, "close"):
            self.filelike.close()


cdef class WsgiExchange(CollectedExchange):
    cdef WsgiApplication app
    cdef dict environ
    cdef object result, rest     # the application's iterable, and an iterator over it
    cdef unsigned status
    cdef bytes reason            # of the status line, if not the usual one
    cdef object headers
    cdef bint has_content        # some of it was given: the head is as good as sent
    cdef bint is_headed          # the response head is written
    cdef bint is_started         # the application has been called
    cdef list outbox             # pieces from a thread
    cdef bint is_all             # ... the last of which ends the response
    cdef Py_ssize_t outbox_bytes
    cdef object gate             # a lock that a thread waits on while the client is slow; None until then
    cdef object error            # what the application raised, in a thread
    cdef bint is_gone
    cdef bint is_posted

    # -- the application's thread -----------------------------------------------------------------------

    def start_response(self, status, headers, exc_info=None):
        """PEP 3333 start_response(): returns the legacy write()."""
        if exc_info is not None:
            try:
                if self.has_content:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.headers is not None:
            raise LocalError("start_response() was called already")
        self.status = status_of(status)
        self.reason = reason_of(status, self.status)
        # A copy: the list stays the application's.
        self.headers = list(headers)
        if bytes_in(self.headers) < 0:
            self.headers = plain_headers(self.headers)
        return PyCFunction_New(&WSGI_WRITE, self)

    cdef int write_now(self, object data) except -1:
        if data:
            self.deliver(data, False)
        return 0

    cdef int run(self) except -1:
        """Call the application and send what it returns. Never raises for the application's errors."""
        try:
            self.is_started = True
            self.result = self.app.app(self.environ, self.start_response)
            if isinstance(self.result, FileWrapper) and self.outbox_bytes == 0 and not self.is_headed:
                opened = self.as_file()
                if opened is not None:
                    self.deliver(opened, True)
                    return self.close_result()
            if isinstance(self.result, (list, tuple)) and self.outbox_bytes == 0 and not self.is_headed:
                pieces = self.result
                self.deliver(pieces[0] if len(pieces) == 1 else b"".join(pieces), True)
                self.close_result()
                return 0
            self.rest = iter(self.result)
        except ClientGone:
            return self.close_result()
        except Exception as error:
            self.close_result()
            return self.fail(error)
        return self.advance()

    cdef OpenFile as_file(self):
        """What wsgi.file_wrapper was given, if the kernel can send it: up to Content-Length, else to its end."""
        cdef OpenFile opened = file_behind((<FileWrapper>self.result).filelike)
        if opened is not None and self.headers is not None:
            for name, value in plain_headers(self.headers):
                if name.lower() == b"content-length" and value.isdigit():
                    opened.n = min(opened.n, int(value))
        return opened

    cdef int advance(self) except -1:
        """Send what the iterable gives while the client takes it."""
        try:
            for piece in self.rest:
                if not piece:
                    continue
                self.deliver(piece, False)
                if self.app.threads == 0 and self.is_held():
                    return 0
            self.rest = None
            self.deliver(b"", True)
        except ClientGone:
            pass
        except Exception as error:
            self.rest = None
            self.close_result()
            return self.fail(error)
        self.rest = None
        return self.close_result()

    cdef int close_result(self) except -1:
        result = self.result
        self.result = None
        if PyList_CheckExact(result) or PyTuple_CheckExact(result):
            return 0
        if hasattr(result, "close"):
            try:
                result.close()
            except Exception:
                self.app.logger.error("close() of the application's iterable failed", exc_info=True)
        return 0

    cdef int deliver(self, object piece, bint is_last) except -1:
        if self.headers is None:
            raise LocalError("the application sent content before start_response()")
        if not isinstance(piece, OpenFile):
            piece = content_of(piece)
        self.has_content = True
        if self.app.threads == 0:
            return self.put(piece, is_last)
        if self.is_gone:
            raise ClientGone("the client is gone")
        if self.outbox is None:
            self.outbox = [piece]
        else:
            self.outbox.append(piece)
        self.is_all = is_last
        self.outbox_bytes += len(piece)
        self.app.post(self)
        while not is_last and self.outbox_bytes > OUTBOX_HIGH and not self.is_gone:
            if self.gate is None:
                self.gate = allocate_lock()
                self.gate.acquire()
            self.gate.acquire()
        return 0

    cdef int fail(self, object error) except -1:
        if self.app.threads == 0:
            return self.report(error)
        self.error = error
        return self.app.post(self)

    # -- the engine's thread ----------------------------------------------------------------------------

    cdef int complete(self) except -1:
        self.environ["wsgi.input"] = self.collector.as_file() if self.collector is not None else BytesIO()
        if self.collector is not None:
            self.environ["CONTENT_LENGTH"] = str(self.collector.n)
        if self.app.threads:
            return self.app.submit(self)
        return self.run()

    cdef int put(self, object piece, bint is_last) except -1:
        if not self.is_headed:
            self.write_head(self.status, self.headers, len(piece) if is_last else -1, self.reason)
            self.is_headed = True
        if isinstance(piece, OpenFile):
            return self.write_file(piece)
        self.write(piece, not is_last)
        if not is_last and self.app.threads == 0:
            self.push()  # PEP 3333: before the application is asked for the next one
        return 0

    cdef int pump(self) except -1:
        """Send what the thread has produced."""
        cdef list outbox = self.outbox
        self.is_posted = False
        try:
            while outbox and not self.is_held():
                piece = outbox.pop(0)
                self.outbox_bytes -= len(piece)
                self.put(piece, self.is_all and not outbox)
        except ClientGone:
            self.lost()
        except Exception as error:
            self.report(error)
            self.lost()
        if self.error is not None and not outbox:
            self.report(self.error)
            self.error = None
        self.open_gate()
        return 0

    cdef int open_gate(self) except -1:
        if self.gate is not None and self.gate.locked():
            self.gate.release()
        return 0

    cdef int report(self, object error) except -1:
        if self.talk == NULL and isinstance(error, ClientGone):
            return 0
        self.app.logger.error("the application failed on %s %s", self.environ["REQUEST_METHOD"],
                              self.environ["RAW_URI"], exc_info=error)
        return self.refuse(500, b"Internal Server Error")

    cdef int news(self, ka_news news) except -1:
        if news == KA_NEWS_LOW:
            if self.app.threads:
                return self.pump()
            return self.advance() if self.rest is not None else 0
        return CollectedExchange.news(self, news) if not self.is_started else 0

    cdef int cancel(self) except -1:
        what = ("took longer than handler_timeout; what its thread still gives is dropped" if self.is_started else
                "found no thread free within handler_timeout; it is dropped")
        self.app.logger.warning("%s %s %s", self.environ["REQUEST_METHOD"], self.environ["RAW_URI"], what)
        return 0

    cdef int lost(self) except -1:
        self.is_gone = True
        if not self.is_started:  # it may stay among the work for long
            self.environ = None
            self.collector = None
        elif self.app.threads:
            self.outbox_bytes = 0
            self.open_gate()
        elif self.rest is not None:
            self.rest = None
            self.close_result()
        return 0


cdef object wsgi_write(object exchange, object data):
    (<WsgiExchange>exchange).write_now(data)


cdef PyMethodDef WSGI_WRITE
WSGI_WRITE.ml_name = b"write"
WSGI_WRITE.ml_meth = wsgi_write
WSGI_WRITE.ml_flags = METH_O
WSGI_WRITE.ml_doc = b"PEP 3333 write(): for old applications."


cdef unsigned status_of(object status) except 0:
    """The number of "200 OK"."""
    cdef text said
    cdef int i
    if isinstance(status, str) and text_at(<PyObject *>status, &said) and said.n >= 3 and (said.n == 3 or said.at[3] == 32):
        if 48 <= said.at[0] <= 57 and 48 <= said.at[1] <= 57 and 48 <= said.at[2] <= 57:
            number = 100 * (said.at[0] - 48) + 10 * (said.at[1] - 48) + (said.at[2] - 48)
            if number:
                return number
    raise LocalError(f"status is a str such as '200 OK', not {status!r}")


cdef bytes reason_of(object status, unsigned number):
    """What follows the number, or None for what usually follows it."""
    cdef text said
    cdef const char *usual = ka_reply_reason(number)
    if not text_at(<PyObject *>status, &said) or said.n <= 4:
        return None
    if said.n - 4 == strlen(usual) and memcmp(said.at + 4, usual, said.n - 4) == 0:
        return None
    return PyBytes_FromStringAndSize(said.at + 4, <Py_ssize_t>said.n - 4)


cdef class WsgiApplication(Application):
    """app: a WSGI application; threads: at most so many at once, 0 = the engine's own; wake: called from threads;
    environ: what every environ begins with besides, such as wsgi.errors."""
    cdef readonly object app
    cdef readonly int threads
    cdef object waker, work, posted  # deques: requests that wait for a thread, exchanges that wait for the engine
    cdef list idle                   # a lock of each thread that waits for work: to release it wakes the thread
    cdef int n_started
    cdef bint is_waking              # a thread was woken, or started, and has not come to look yet
    cdef bint is_called              # the engine was woken, and has not come to look yet
    cdef bint is_stopping
    cdef dict template
    cdef object server               # the listener that the template names

    def __init__(self, app, logger, waker=None, *, threads=4, multiprocess=False, scheme="http", script_name="",
                 environ=None):
        from collections import deque
        global BytesIO
        from io import BytesIO
        self.app = app
        self.logger = logger
        self.threads = threads
        self.waker = waker
        self.work = deque()
        self.posted = deque()
        self.idle = []
        # Every key but the client's fields: to fill in a copy costs less than to let a dict grow.
        self.template = {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": script_name,
            "PATH_INFO": None,
            "QUERY_STRING": "",
            "RAW_URI": None,
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "",
            "SERVER_SOFTWARE": "kacore",
            "REMOTE_ADDR": None,
            "REMOTE_PORT": None,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": scheme,
            "wsgi.input": None,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": threads > 1,
            "wsgi.multiprocess": multiprocess,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
            **(environ or {}),
        }

    cdef int request(self, Port port, ka_talk *talk, const ka_head *head, const ka_field *fields) except -1:
        cdef WsgiExchange exchange = WsgiExchange.__new__(WsgiExchange)
        exchange.app = self
        exchange.environ = self.environ_of(port, talk, head, fields)
        exchange.attach(port, talk)
        if exchange.entry is not None:
            exchange.entry.request = exchange.environ
        return exchange.collect()

    cdef int name_server(self, object server) except -1:
        self.server = server
        self.template["SERVER_NAME"], port = server or ("localhost", None)
        self.template["SERVER_PORT"] = "" if port is None else str(port)
        return 0

    cdef dict environ_of(self, Port port, ka_talk *talk, const ka_head *head, const ka_field *fields):
        cdef const char *buf = ka_talk_head_bytes(talk)
        cdef dict environ
        cdef str path = path_of(buf, head, True)
        cdef PyObject *known
        cdef uint32_t i
        server = port.server_of(talk)
        if server is not self.server:
            self.name_server(server)
        environ = self.template.copy()
        if not is_get(buf, head.method):
            environ["REQUEST_METHOD"] = method_str(buf, head.method)
        environ["PATH_INFO"] = path
        if head.query.len:
            environ["QUERY_STRING"] = PyUnicode_DecodeASCII(buf + head.query.off, head.query.len, NULL)
        if head.target.len == head.path.len == <uint32_t>PyUnicode_GET_LENGTH(path):
            environ["RAW_URI"] = path  # nothing is decoded in it
        else:
            environ["RAW_URI"] = PyUnicode_DecodeASCII(buf + head.target.off, head.target.len, NULL)
        if head.minor == 0:
            environ["SERVER_PROTOCOL"] = "HTTP/1.0"
        client = port.client_of(talk)
        if port.has_proxies:
            origin = port.origin_of(talk, head, fields)
            if origin is not None:
                client = origin[0]
                environ["wsgi.url_scheme"] = origin[1] or environ["wsgi.url_scheme"]
        if client is not None:
            environ["REMOTE_ADDR"] = client[0]
            environ["REMOTE_PORT"] = decimal(client[1])
        else:
            del environ["REMOTE_ADDR"], environ["REMOTE_PORT"]
        for i in range(head.n_fields):
            key = http_key(buf, fields[i].name)
            if key is None:
                continue
            value = PyUnicode_DecodeLatin1(buf + fields[i].value.off, fields[i].value.len, NULL)
            known = PyDict_SetDefault(environ, key, value)
            if known != <PyObject *>value:
                environ[key] = f"{<object>known}{'; ' if key == 'HTTP_COOKIE' else ','}{value}"
        return environ

    # -- the pool ---------------------------------------------------------------------------------------

    cdef int submit(self, WsgiExchange exchange) except -1:
        """Leave a request to the threads."""
        self.work.append(exchange)
        if not self.is_waking:
            self.wake_thread()
        return 0

    cdef int wake_thread(self) except -1:
        """Have one more thread look for work: one that waits, else a new one if there may be more."""
        if self.idle:
            self.is_waking = True
            self.idle.pop().release()
        elif self.n_started < self.threads:
            from threading import Thread
            self.is_waking = True
            self.n_started += 1
            Thread(target=self.serve, name=f"kacore-wsgi-{self.n_started}", daemon=True).start()
        return 0

    def serve(self):
        """What a thread of the pool does until `stop`."""
        cdef WsgiExchange exchange
        lock = allocate_lock()
        lock.acquire()
        while True:
            self.is_waking = False
            while self.work:
                exchange = self.work.popleft()
                if self.work and not self.is_waking:
                    self.wake_thread()  # this one may be held up by what it does
                if exchange.is_gone:  # nobody waits for it: threads that are short must not work for nobody
                    exchange = None
                    continue
                try:
                    exchange.run()
                except BaseException as error:  # sys.exit() in the application: the request's end, not the thread's
                    exchange.close_result()
                    exchange.fail(error)
                exchange = None
            if self.is_stopping:
                return
            self.idle.append(lock)
            lock.acquire()

    def stop(self):
        """End the pool's threads when they have finished what they do."""
        self.is_stopping = True
        while self.idle:
            self.idle.pop().release()

    cdef int post(self, WsgiExchange exchange) except -1:
        """From a thread: have the engine's thread look at this exchange."""
        if not exchange.is_posted:
            exchange.is_posted = True
            self.posted.append(exchange)
            if not self.is_called:
                self.is_called = True
                self.waker()
        return 0

    cdef int wake(self) except -1:
        cdef WsgiExchange exchange
        self.is_called = False
        while self.posted:
            exchange = self.posted.popleft()
            exchange.pump()
        return 0
