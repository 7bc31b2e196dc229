# WSGI, PEP 3333, for any number of threads by one path.
#
# The application is called when the request's content is complete. With threads = 0 it runs in the engine's thread;
# else in a pool, whose threads are started when a request waits for one. Without threads its iterable is advanced only
# while the client takes data. A thread never waits for its client: what it produces is handed to the engine's thread
# through an Outbox, which goes on in files, and only beyond `max_response_buffer` it waits. An exchange belongs to one
# thread, and only BaseDriver.wake may be called from another.
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
    STAND_INS = 64       # threads at most in place of such as wait for a client
    PIECES_A_TURN = 64   # asked of an iterable in the engine's thread, before others have their turn

# A client that has sent FIN may still read, and only bytes that it does not take tell that it has left. While there are
# none, it is given up after this long.
cdef int64_t LEFT_NS = 1000 * 1000 * 1000


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


cdef object END = object()   # of an iterator


cdef class WsgiExchange(CollectedExchange):
    cdef WsgiApplication app
    cdef dict environ
    cdef str method, target      # for logs: the environ is the application's
    cdef object context          # the request's, for all that the application does
    cdef object result, rest     # the application's iterable, and an iterator over it
    cdef unsigned status
    cdef bytes reason            # of the status line, if not the usual one
    cdef list headers
    cdef bint has_content        # some of it was given: the head is as good as sent
    cdef bint is_all             # the last of it was given
    cdef bint is_headed          # the response head is written
    cdef bint is_started         # the application has been called
    cdef bint is_inside          # ... and its code is on the stack, in the engine's thread
    cdef Outbox outbox           # pieces from a thread; None until there is one that is not the last
    cdef object last             # from a thread: the piece that ends the response
    cdef object gate             # a lock that a thread waits on; None until then
    cdef bint is_slow            # the client takes no more now
    cdef object error            # what the application raised, in a thread
    cdef bint has_fin            # the client sent FIN
    cdef int64_t left_ns         # since when there is nothing to tell whether it has left; 0: there is
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
            raise LocalError("start_response() has already been called")
        self.status = status_of(status)
        self.reason = reason_of(status, self.status)
        # A copy, through and through: lists stay the application's.
        fields = list(headers)
        self.headers = fields if are_tuples(fields) and bytes_in(fields) >= 0 else plain_headers(fields)
        return PyCFunction_New(&WSGI_WRITE, self)

    cdef int write_now(self, object data) except -1:
        if data:
            self.deliver(data, False)
        return 0

    cdef int run(self) except -1:
        """Call the application, in a context of the request's own, and send what it returns."""
        self.context = PyContext_CopyCurrent()
        PyContext_Enter(self.context)
        try:
            return self.begin()
        finally:
            PyContext_Exit(self.context)

    cdef int go_on(self) except -1:
        """The same, for the rest of it."""
        PyContext_Enter(self.context)
        try:
            return self.advance()
        finally:
            PyContext_Exit(self.context)

    cdef int begin(self) except -1:
        """Whatever the application raises ends here."""
        try:
            self.is_started = self.is_inside = True
            self.result = self.app.app(self.environ, self.start_response)
            self.is_inside = False
            if isinstance(self.result, FileWrapper) and not self.has_content:
                opened = self.as_file()
                if opened is not None:
                    self.deliver(opened, True)
                    return self.close_result()
            if isinstance(self.result, (list, tuple)) and not self.has_content:
                pieces = self.result
                self.deliver(pieces[0] if len(pieces) == 1 else b"".join([content_of(one) for one in pieces]), True)
                return self.close_result()
            self.is_inside = True
            self.rest = iter(self.result)
        except BaseException as error:
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
        """Send what the iterable gives: for as long as it is asked. Whatever it raises ends here."""
        cdef unsigned n = 0
        try:
            self.is_inside = True
            while self.app.threads or (n < PIECES_A_TURN and not self.is_held()):
                piece = next(self.rest, END)
                if piece is END:
                    self.rest = None
                    self.deliver(b"", True)
                    return self.close_result()
                if piece:
                    self.deliver(piece, False)
                    self.left_ns = 0
                else:
                    self.look_for_client()
                n += 1
            self.is_inside = False
            if self.is_gone:  # while the application's code was on the stack
                raise ClientGone("the client has disconnected")
        except BaseException as error:
            return self.fail(error)
        return self.yield_turn() if n == PIECES_A_TURN else 0

    cdef int look_for_client(self) except -1:
        """Between two pieces without content, which tell nothing of the client. ClientGone."""
        cdef int64_t now
        if self.is_gone:
            raise ClientGone("the client has disconnected")
        if self.has_fin:
            now = self.driver.now_exactly()
            if self.left_ns == 0:
                self.left_ns = now
            elif now - self.left_ns > LEFT_NS:
                raise ClientGone("the client has disconnected")
        return 0

    cdef int close_result(self) except -1:
        """PEP 3333: once, however it ended."""
        result = self.result
        self.result = None
        if result is None or PyList_CheckExact(result) or PyTuple_CheckExact(result):
            self.is_inside = False
            return 0
        self.is_inside = True
        try:
            close = getattr(result, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            if self.ends_process(error):
                self.driver.failed(error)
            else:
                self.app.say(f"close() of the application's iterable failed on {self.method} {self.target}", error)
        self.is_inside = False
        return 0

    cdef int deliver(self, object piece, bint is_last) except -1:
        cdef int64_t most = self.app.max_response_buffer
        if self.headers is None:
            raise LocalError("the application sent content before start_response()")
        if self.is_all:
            raise LocalError("the response is already complete")
        piece = content_of(piece)
        if self.is_gone:
            raise ClientGone("the client has disconnected")
        self.has_content = True
        self.is_all = is_last
        if self.app.threads == 0:
            return self.put(piece, is_last)
        if is_last:
            self.last = piece
            return self.app.post(self)
        if self.outbox is None:
            self.outbox = outbox_of(self.driver)
        # The engine's thread comes at once, unlike a client: what it can send now need not go to a file.
        while self.is_posted and not (self.is_slow or self.is_gone or self.outbox.has_room(piece, most)):
            self.wait()
        try:
            self.outbox.put(piece, most)
        except OSError as error:
            self.app.say_of_files(error)
            self.outbox.put_anyway(piece)
        self.app.post(self)
        if self.outbox.is_full(most) and not self.is_gone:
            self.wait_for_client(most)
        return 0

    cdef int wait_for_client(self, int64_t most) except -1:
        """Until it has taken so much that more may be ahead of it. Meanwhile another thread works in this one's place, but
        for an application that was promised a single one (wsgi.multithread)."""
        cdef bint has_stand_in = self.app.threads > 1
        self.app.n_held += has_stand_in
        try:
            if has_stand_in and self.app.work and not self.app.is_waking:
                self.app.wake_thread()
            while self.outbox.is_full(most) and not self.is_gone:
                self.wait()
        finally:
            self.app.n_held -= has_stand_in
        return 0

    cdef int wait(self) except -1:
        """Until the engine's thread has looked at this exchange, or there is something to be told."""
        if self.gate is None:
            self.gate = allocate_lock()
            self.gate.acquire()
        self.gate.acquire()
        return 0

    cdef int fail(self, object error) except -1:
        """The application is through, by an exception of its own or since its client is gone."""
        self.rest = None
        self.close_result()
        if self.app.threads == 0:
            if self.ends_process(error):
                self.driver.failed(error)
                return self.refuse(500, b"Internal Server Error")
            return self.report(error)
        if self.is_gone and isinstance(error, ClientGone):
            return 0
        self.is_all = True
        self.error = error
        return self.app.post(self)

    cdef bint ends_process(self, object error) except -1:
        """In a thread it is the request's end."""
        return self.app.threads == 0 and isinstance(error, (SystemExit, KeyboardInterrupt))

    # -- the engine's thread ----------------------------------------------------------------------------

    cdef int complete(self) except -1:
        self.environ["wsgi.input"] = self.collector.as_file() if self.collector is not None else BytesIO()
        if self.collector is not None:
            self.environ["CONTENT_LENGTH"] = str(self.collector.n)
        if self.app.threads:
            return self.app.submit(self)
        return self.run()

    cdef int put(self, object piece, bint is_last) except -1:
        cdef SpoolPart part
        if not self.is_headed:
            self.write_head(self.status, self.headers, len(piece) if is_last else -1, self.reason)
            self.is_headed = True
        if isinstance(piece, SpoolPart):
            part = piece
            return self.write_part(part.file, part.offset, part.n, True)
        if isinstance(piece, OpenFile):
            return self.write_file(piece)
        self.write(piece, not is_last)
        if not is_last and self.app.threads == 0:
            self.push()  # PEP 3333: before the application is asked for the next one
        return 0

    cdef int pump(self) except -1:
        """Send what the thread has produced."""
        self.is_posted = False
        try:
            self.send_on()
        except BaseException as error:
            self.report(error)
            self.lost()
        return self.open_gate()

    cdef int send_on(self) except -1:
        cdef Outbox outbox = self.outbox
        self.is_slow = False
        while outbox is not None and outbox.items:
            if self.is_held():
                self.is_slow = True
                return 0
            self.put(outbox.take(), False)
        if self.last is not None and not self.is_held():
            last = self.last
            self.last = None
            self.put(last, True)
        elif self.error is not None:
            error = self.error
            self.error = None
            self.report(error)
        return 0

    cdef int open_gate(self) except -1:
        if self.gate is not None and self.gate.locked():
            self.gate.release()
        return 0

    cdef int report(self, object error) except -1:
        """The application failed. Whatever that makes of the log, the request is answered, or broken off."""
        if isinstance(error, ClientGone) and (self.core == NULL or self.left_ns):
            return self.break_off()
        self.app.say(f"the application failed on {self.method} {self.target}", error)
        return self.refuse(500, b"Internal Server Error")

    cdef int news(self, ka_news news) except -1:
        if news == KA_NEWS_LOW:
            if self.app.threads:
                return self.pump()
            return self.go_on() if self.rest is not None and not self.is_inside else 0
        if news == KA_NEWS_EOF:
            self.has_fin = True
        return CollectedExchange.news(self, news) if not self.is_started else 0

    cdef int cancel(self) except -1:
        what = ("took longer than handler_timeout; what its thread still gives is dropped" if self.is_started else
                "found no thread free within handler_timeout; it is dropped")
        self.app.logger.warning("%s %s %s", self.method, self.target, what)
        return 0

    cdef int lost(self) except -1:
        self.is_gone = True
        if not self.is_started:  # it may stay among the work for long
            self.environ = None
            self.collector = None
        elif self.app.threads:
            self.last = None
            if self.outbox is not None:
                self.outbox.clear()
            self.open_gate()
        elif self.rest is not None and not self.is_inside:
            self.rest = None
            PyContext_Enter(self.context)
            try:
                self.close_result()
            finally:
                PyContext_Exit(self.context)
        return 0


cdef object wsgi_write(object exchange, object data):
    (<WsgiExchange>exchange).write_now(data)


cdef PyMethodDef WSGI_WRITE
WSGI_WRITE.ml_name = b"write"
WSGI_WRITE.ml_meth = wsgi_write
WSGI_WRITE.ml_flags = METH_O
WSGI_WRITE.ml_doc = b"PEP 3333 write(): for old applications."


cdef bint are_tuples(list items) noexcept:
    for item in items:
        if not PyTuple_CheckExact(item):
            return False
    return True


cdef unsigned status_of(object status) except 0:
    """The number of "200 OK"."""
    cdef text said
    cdef int i
    if isinstance(status, str) and text_at(<PyObject *>status, &said) and said.n >= 3 and (said.n == 3 or said.at[3] == 32):
        if 48 <= said.at[0] <= 57 and 48 <= said.at[1] <= 57 and 48 <= said.at[2] <= 57:
            number = 100 * (said.at[0] - 48) + 10 * (said.at[1] - 48) + (said.at[2] - 48)
            if number:
                return number
    raise LocalError(f"status must be a str such as '200 OK', not {status!r}")


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
    environ: what every environ begins with besides, such as wsgi.errors; max_response_buffer: of the policy."""
    cdef readonly object app
    cdef readonly int threads
    cdef object waker, work, posted  # deques: requests that wait for a thread, exchanges that wait for the engine
    cdef list idle                   # a lock of each thread that waits for work: to release it wakes the thread
    cdef int n_started
    cdef int n_held                  # of those that are started: threads that wait for a client, see wait_for_client
    cdef bint is_waking              # a thread was woken, or started, and has not come to look yet
    cdef bint is_called              # the engine was woken, and has not come to look yet
    cdef bint is_stopping
    cdef dict template
    cdef object server               # the listener that the template names
    cdef public int64_t max_response_buffer  # bytes that a thread may be ahead of its client

    def __init__(self, app, logger, waker=None, *, threads=4, multiprocess=False, scheme="http", script_name="",
                 environ=None, max_response_buffer=16 << 20):
        from collections import deque
        global BytesIO
        from io import BytesIO
        self.app = app
        self.logger = logger
        self.threads = threads
        self.max_response_buffer = max_response_buffer
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

    cdef int request(self, BaseDriver driver, ka_exchange *core, const ka_head *head, const ka_field *fields) except -1:
        cdef size_t n
        if head.flags & KA_HEAD_IS_CONNECT and ka_exchange_protocol(core, &n) != NULL:
            refuse_protocol(driver, core)
            return 0
        cdef WsgiExchange exchange = WsgiExchange.__new__(WsgiExchange)
        exchange.app = self
        exchange.environ = self.environ_of(exchange, driver, core, head, fields)
        exchange.attach(driver, core)
        if exchange.entry is not None:
            exchange.entry.request = exchange.environ
        return exchange.collect()

    cdef int name_server(self, object server) except -1:
        self.server = server
        self.template["SERVER_NAME"], port = server or ("localhost", None)
        self.template["SERVER_PORT"] = "" if port is None else str(port)
        return 0

    cdef dict environ_of(self, WsgiExchange exchange, BaseDriver driver, ka_exchange *core, const ka_head *head,
                         const ka_field *fields):
        cdef const char *buf = ka_exchange_head_bytes(core)
        cdef dict environ
        cdef str path = path_of(buf, head, True)
        cdef PyObject *known
        cdef uint32_t i
        server = driver.server_of(core)
        if server is not self.server:
            self.name_server(server)
        environ = self.template.copy()
        exchange.method = "GET"
        if not is_get(buf, head.method):
            environ["REQUEST_METHOD"] = exchange.method = method_str(buf, head.method)
        environ["PATH_INFO"] = path
        if head.query.len:
            environ["QUERY_STRING"] = PyUnicode_DecodeASCII(buf + head.query.off, head.query.len, NULL)
        if head.target.len == head.path.len == <uint32_t>PyUnicode_GET_LENGTH(path):
            exchange.target = path  # nothing is decoded in it
        else:
            exchange.target = PyUnicode_DecodeASCII(buf + head.target.off, head.target.len, NULL)
        environ["RAW_URI"] = exchange.target
        if head.flags & KA_HEAD_IS_H2:
            environ["SERVER_PROTOCOL"] = "HTTP/2"
        elif head.minor == 0:
            environ["SERVER_PROTOCOL"] = "HTTP/1.0"
        client = driver.client_of(core)
        if driver.has_proxies:
            origin = driver.origin_of(core, head, fields)
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
        elif self.n_started - self.n_held < self.threads and self.n_started < self.threads + STAND_INS:
            from threading import Thread
            self.is_waking = True
            self.n_started += 1
            try:
                Thread(target=self.serve, name=f"kacore-wsgi-{self.n_started}", daemon=True).start()
            except RuntimeError as error:  # the system has no thread to give
                self.is_waking = False
                self.n_started -= 1
                return self.lack_thread(error)
        return 0

    cdef int lack_thread(self, object error) except -1:
        """Those that are there do the work. When there is none, nobody ever would."""
        cdef WsgiExchange exchange
        if self.n_started == 0:
            while self.work:
                exchange = self.work.popleft()
                exchange.refuse(503, b"no thread could be started for the request")
        return self.say(f"no thread could be started besides {self.n_started} of {self.threads}", error)

    def serve(self):
        """What a thread of the pool does until `stop`."""
        lock = allocate_lock()
        lock.acquire()
        while True:
            self.is_waking = False
            while self.work:
                try:
                    self.do_one()
                except BaseException as error:  # sys.exit() in the application is the request's end, not the thread's
                    self.say("a thread of the pool failed and goes on", error)
            if self.is_stopping or self.n_started - self.n_held > self.threads:
                self.n_started -= not self.is_stopping
                return
            self.idle.append(lock)
            lock.acquire()

    cdef int do_one(self) except -1:
        cdef WsgiExchange exchange = self.work.popleft()
        if self.work and not self.is_waking:
            self.wake_thread()  # this one may be held up by what it does
        if exchange.is_gone:  # nobody waits for it: threads that are short must not work for nobody
            return 0
        return exchange.run()

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
            try:
                exchange.pump()
            except BaseException as error:  # of the log: the others' responses wait
                exchange.driver.failed(error)
        return 0
