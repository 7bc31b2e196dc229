# WSGI, PEP 3333, for any number of threads by one path.
#
# The application is called when the request's content is complete. With threads = 0 it runs in the engine's thread;
# else in a pool, whose threads are started when a request waits for one. Without threads its iterable is advanced only
# while the client takes data. A thread never waits for its client: what it produces is handed to the engine's thread
# through an Outbox, which goes on in files, and only beyond `max_response_buffer` it waits. An exchange belongs to one
# thread, and only BaseDriver.wake may be called from another.
#
# Threads and engine share the state of the pool under the application's mutex and that of an exchange under its own, and
# wake each other once for many requests: a thread is woken for the first request that waits, and wakes another one if more
# wait when it takes it; the engine is woken for the first response, and finds those that came since.
from _thread import allocate_lock as allocate_lock
from collections import deque

cdef enum:
    STAND_INS = 64       # threads at most in place of such as wait for a client
    PIECES_A_TURN = 64   # asked of an iterable in the engine's thread, before others have their turn

# A client that has sent FIN may still read, and only bytes that it does not take tell that it has left. While there are
# none, it is given up after this long.
cdef int64_t LEFT_NS = 1000 * 1000 * 1000


cdef object END = kept(object())   # of an iterator


@cython.final
cdef class WsgiExchange(CollectedExchange):
    """One request, and what its application is given as `start_response` and as what that returns, `write`: the one has
    two or three arguments, the other one. To be called costs less than to make functions."""
    cdef vectorcallfunc call     # wsgi_call
    cdef WsgiApplication app
    cdef dict environ
    cdef str method, target      # for logs: the environ is the application's
    cdef object context          # the request's, for all that the application does
    cdef object result, rest     # the application's iterable, and an iterator over it
    cdef unsigned status
    cdef bytes reason            # of the status line, if not the usual one
    cdef object headers          # a tuple or list of pairs
    cdef Py_ssize_t n_bytes      # in headers: see bytes_in
    cdef bint has_content        # some of it was given: the head is as good as sent
    cdef bint is_all             # the last of it was given
    cdef bint is_headed          # the response head is written
    cdef bint is_started         # the application has been called
    cdef bint is_inside          # ... and its code is on the stack, in the engine's thread
    cdef int64_t left_ns         # since when there is nothing to tell whether it has left; 0: there is
    cdef ka_mutex mutex          # with threads, for the rest, and for `is_started`
    cdef Outbox outbox           # pieces from a thread; None until there is one that is not the last
    cdef object last             # from a thread: the piece that ends the response
    cdef object gate             # a lock that a thread waits on; made with the outbox
    cdef bint is_slow            # the client takes no more now
    cdef object error            # what the application raised, in a thread
    cdef bint has_fin            # the client sent FIN
    cdef bint is_gone
    cdef bint is_posted

    # -- the application's thread -----------------------------------------------------------------------

    def __call__(self, status, headers=None, exc_info=None):
        """PEP 3333 start_response(status, headers, exc_info=None), which returns the legacy write(data)."""
        if self.app is None:
            raise TypeError("not the start_response() of a request")
        if headers is not None:
            return self.start_response(status, headers, exc_info)
        if self.headers is None:
            raise TypeError("start_response() must be called with status and headers")
        self.write_now(status)

    cdef object start_response(self, object status, object headers, object exc_info):
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
        # A copy, through and through: lists stay the application's. A tuple is made at less cost than a list.
        fields = tuple(headers)
        self.n_bytes = bytes_in(fields, True)
        self.headers = fields if self.n_bytes >= 0 else plain_headers(fields)
        return self

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
            self.result = self.app.app(self.environ, self)
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
            if self.has_gone():  # while the application's code was on the stack
                raise ClientGone("the client has disconnected")
        except BaseException as error:
            return self.fail(error)
        return self.yield_turn() if n == PIECES_A_TURN else 0

    cdef int look_for_client(self) except -1:
        """Between two pieces without content, which tell nothing of the client. ClientGone."""
        cdef int64_t now
        cdef bint has_fin
        if self.has_gone():
            raise ClientGone("the client has disconnected")
        ka_lock(&self.mutex)
        has_fin = self.has_fin
        ka_unlock(&self.mutex)
        if has_fin:
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
        if self.has_gone():
            raise ClientGone("the client has disconnected")
        self.has_content = True
        self.is_all = is_last
        if self.app.threads == 0:
            return self.put(piece, is_last)
        ka_hand_over(piece)
        if is_last:
            ka_lock(&self.mutex)
            self.last = piece
            ka_unlock(&self.mutex)
            return self.app.post(self)
        if self.outbox is None:
            self.open_outbox()
        # The engine's thread comes at once, unlike a client: what it can send now need not go to a file.
        while self.is_about_to_send() and not self.outbox.has_room(piece, most):
            self.gate.acquire()
        try:
            self.outbox.put(piece, most)
        except OSError as error:
            self.app.say_of_files(error)
            self.outbox.put_anyway(piece)
        self.app.post(self)
        if self.outbox.is_full(most) and not self.has_gone():
            self.wait_for_client(most)
        return 0

    cdef int open_outbox(self) except -1:
        outbox = outbox_of(self.driver)
        gate = allocate_lock()
        gate.acquire()
        ka_lock(&self.mutex)
        self.outbox, self.gate = outbox, gate
        ka_unlock(&self.mutex)
        return 0

    cdef bint has_gone(self) noexcept:
        """Whether the client has, for any thread."""
        cdef bint is_gone
        ka_lock(&self.mutex)
        is_gone = self.is_gone
        ka_unlock(&self.mutex)
        return is_gone

    cdef bint is_about_to_send(self) noexcept:
        """Whether the engine's thread was called, and will open the gate when it has looked at this exchange."""
        cdef bint is_about
        ka_lock(&self.mutex)
        is_about = self.is_posted and not self.is_slow and not self.is_gone
        ka_unlock(&self.mutex)
        return is_about

    cdef bint claim(self) noexcept:
        """A thread begins with it. False: nobody waits for it any more; threads that are short must not work for nobody."""
        cdef bint is_wanted
        ka_lock(&self.mutex)
        is_wanted = self.is_started = not self.is_gone
        ka_unlock(&self.mutex)
        return is_wanted

    cdef int wait_for_client(self, int64_t most) except -1:
        """Until it has taken so much that more may be ahead of it. Meanwhile another thread works in this one's place, but
        for an application that was promised a single one (wsgi.multithread)."""
        cdef bint has_stand_in = self.app.threads > 1
        if has_stand_in:
            self.app.hold_thread(1)
        try:
            while self.outbox.is_full(most) and not self.has_gone():
                self.gate.acquire()
        finally:
            if has_stand_in:
                self.app.hold_thread(-1)
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
        if isinstance(error, ClientGone) and self.has_gone():
            return 0
        self.is_all = True
        ka_lock(&self.mutex)
        self.error = error
        ka_unlock(&self.mutex)
        return self.app.post(self)

    cdef bint ends_process(self, object error) except -1:
        """In a thread it is the request's end."""
        return self.app.threads == 0 and isinstance(error, (SystemExit, KeyboardInterrupt))

    # -- the engine's thread ----------------------------------------------------------------------------

    cdef int complete(self) except -1:
        if self.collector is not None:
            self.environ["wsgi.input"] = self.collector.as_file()
            self.environ["CONTENT_LENGTH"] = str(self.collector.n)
        if self.app.threads:
            return self.app.submit(self)
        return self.run()

    cdef int put(self, object piece, bint is_last) except -1:
        cdef SpoolPart part
        if not self.is_headed:
            self.write_head(self.status, self.headers, len(piece) if is_last else -1, self.reason, self.n_bytes)
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
        ka_lock(&self.mutex)
        self.is_posted = False
        ka_unlock(&self.mutex)
        try:
            self.send_on()
        except BaseException as error:
            self.report(error)
            self.client_lost()
        return self.open_gate()

    cdef int send_on(self) except -1:
        cdef Outbox outbox
        # In this order: a thread that gives the last piece now may have given others before it, since we looked.
        ka_lock(&self.mutex)
        outbox, last, error = self.outbox, self.last, self.error
        self.is_slow = False
        ka_unlock(&self.mutex)
        while outbox is not None and outbox.items:
            if self.is_held():
                ka_lock(&self.mutex)
                self.is_slow = True
                ka_unlock(&self.mutex)
                return 0
            self.put(outbox.take(), False)
        if last is not None and not self.is_held():
            self.forget_end()
            self.put(last, True)
        elif error is not None:
            self.forget_end()
            self.report(error)
        return 0

    cdef int forget_end(self) except -1:
        ka_lock(&self.mutex)
        last, error = self.last, self.error
        self.last = self.error = None
        ka_unlock(&self.mutex)
        return 0

    cdef int open_gate(self) except -1:
        """Have the thread that waits look again, or the one that will."""
        ka_lock(&self.mutex)
        gate = self.gate
        ka_unlock(&self.mutex)
        if gate is not None and gate.locked():
            gate.release()
        return 0

    cdef int report(self, object error) except -1:
        """The application failed. Whatever that makes of the log, the request is answered, or broken off."""
        if isinstance(error, ClientGone) and (self.core == NULL or self.left_ns):
            return self.break_off()
        self.app.say(f"the application failed on {self.method} {self.target}", error)
        return self.refuse(500, b"Internal Server Error")

    cdef bint is_new_again(self) noexcept:
        """Nobody else has it, and nothing is left of its request. False: let it go."""
        if (self.core != NULL or self.app.threads or self.is_gone or not self.is_all or self.entry is not None
                or self.rest is not None or self.result is not None or self.collector is not None):
            return False
        self.call = NULL
        self.app = self.driver = self.request_id = None
        self.environ = self.method = self.target = self.context = self.reason = self.headers = None
        self.has_content = self.is_all = self.is_headed = self.is_started = self.is_inside = self.has_fin = False
        self.status = 0
        self.n_bytes = self.left_ns = 0
        if KA_COMPARES_REUSED:
            ka_assert_as_new(self, WsgiExchange.__new__(WsgiExchange))
        return True

    cdef int news(self, ka_news news) except -1:
        if news == KA_NEWS_LOW:
            if self.app.threads:
                return self.pump()
            return self.go_on() if self.rest is not None and not self.is_inside else 0
        if news == KA_NEWS_EOF:
            ka_lock(&self.mutex)
            self.has_fin = True
            ka_unlock(&self.mutex)
        return CollectedExchange.news(self, news) if not self.is_started else 0

    cdef int cancel(self) except -1:
        what = ("took longer than handler_timeout; what its thread still gives is dropped" if self.is_started else
                "found no thread free within handler_timeout; it is dropped")
        self.app.logger.warning("%s %s %s", self.method, self.target, what)
        return 0

    cdef int client_lost(self) except -1:
        cdef bint is_started
        cdef Outbox outbox
        ka_lock(&self.mutex)
        self.is_gone = True
        is_started, outbox = self.is_started, self.outbox
        ka_unlock(&self.mutex)
        if not is_started:  # it may stay among the work for long
            self.environ = None
            self.collector = None
        elif self.app.threads:
            self.forget_end()
            if outbox is not None:
                outbox.clear()
            self.open_gate()
        elif self.rest is not None and not self.is_inside:
            self.rest = None
            PyContext_Enter(self.context)
            try:
                self.close_result()
            finally:
                PyContext_Exit(self.context)
        return 0


# By the vectorcall protocol: no tuple of arguments is made.
cdef object wsgi_call(object itself, PyObject **arguments, size_t n, PyObject *names):
    cdef WsgiExchange exchange = itself
    cdef Py_ssize_t i, n_arguments = PyVectorcall_NARGS(n)
    if names != NULL:
        keywords = {name: <object>arguments[n_arguments + i] for i, name in enumerate(<tuple>names)}
        return WsgiExchange.__call__(exchange, *[<object>arguments[i] for i in range(n_arguments)], **keywords)
    if n_arguments == 2:
        return exchange.start_response(<object>arguments[0], <object>arguments[1], None)
    if n_arguments == 3:
        return exchange.start_response(<object>arguments[0], <object>arguments[1], <object>arguments[2])
    if n_arguments == 1 and exchange.headers is not None:
        exchange.write_now(<object>arguments[0])
        return None
    raise TypeError("start_response() takes status, headers and perhaps exc_info, and write() one argument")


cdef WsgiExchange no_response = WsgiExchange.__new__(WsgiExchange)
(<PyTypeObject *>WsgiExchange).tp_vectorcall_offset = <char *>&no_response.call - <char *><void *>no_response
(<PyTypeObject *>WsgiExchange).tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL
no_response = None


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


cdef class WsgiApplication(EnvironMaker):
    """app: a WSGI application; threads: at most so many at once, 0 = the engine's own; waker: called from threads;
    environ: what every environ begins with besides, such as wsgi.errors; max_response_buffer: of the policy."""
    cdef readonly object app
    cdef readonly int threads
    cdef object waker
    cdef object work, posted         # deques: requests that wait for a thread, exchanges that wait for the engine
    cdef list idle                   # a lock of each thread that waits for work: to release it wakes the thread
    cdef int n_started
    cdef int n_held                  # of those that are started: threads that wait for a client, see wait_for_client
    cdef bint is_waking              # a thread was woken, or started, and has not come to look yet
    cdef bint is_called              # the engine was woken, and has not come to look yet
    cdef bint is_stopping
    cdef WsgiExchange spare          # of an earlier request, for the next one
    cdef public int64_t max_response_buffer  # bytes that a thread may be ahead of its client

    def __init__(self, app, logger, waker=None, *, threads=4, multiprocess=False, scheme="http", script_name="",
                 environ=None, max_response_buffer=16 << 20):
        EnvironMaker.__init__(self, threads > 1, multiprocess, scheme, script_name, environ)
        self.app = app
        self.logger = logger
        self.threads = threads
        self.max_response_buffer = max_response_buffer
        self.waker = waker
        self.work = deque()
        self.posted = deque()
        self.idle = []

    cdef int request(self, BaseDriver driver, ka_exchange *core, const ka_head *head, const ka_field *fields) except -1:
        cdef size_t n
        if head.flags & KA_HEAD_IS_CONNECT and ka_exchange_protocol(core, &n) != NULL:
            refuse_protocol(driver, core)
            return 0
        cdef WsgiExchange exchange = self.spare
        if exchange is None:
            exchange = WsgiExchange.__new__(WsgiExchange)
        self.spare = None
        exchange.app = self
        exchange.call = <vectorcallfunc>wsgi_call
        exchange.environ = self.environ_of(exchange, driver, core, head, fields)
        exchange.attach(driver, core)
        if exchange.entry is not None:
            exchange.entry.request = exchange.environ
        exchange.collect()
        if KA_HAS_GIL and Py_REFCNT(<PyObject *>exchange) == 1 and exchange.is_new_again():
            self.spare = exchange
        return 0

    # -- the pool ---------------------------------------------------------------------------------------

    cdef int submit(self, WsgiExchange exchange) except -1:
        """Leave a request to the threads."""
        if not KA_HAS_GIL:
            ka_hand_over(exchange)
            ka_hand_over(exchange.collector)
            ka_hand_over(exchange.environ)
            ka_hand_over(exchange.environ["wsgi.input"])
        ka_lock(&self.mutex)
        self.work.append(exchange)
        ka_unlock(&self.mutex)
        return self.wake_thread()

    cdef int wake_thread(self) except -1:
        """Have one more thread look for work, if there is some and none is on its way: one that waits, else a new one if
        there may be more."""
        cdef int n_started = 0
        cdef object lock = None
        ka_lock(&self.mutex)
        if self.work and not self.is_waking:
            if self.idle:
                self.is_waking = True
                lock = self.idle.pop()
            elif self.n_started - self.n_held < self.threads and self.n_started < self.threads + STAND_INS:
                self.is_waking = True
                self.n_started += 1
                n_started = self.n_started
        ka_unlock(&self.mutex)
        if lock is not None:
            lock.release()
        elif n_started:
            from threading import Thread
            try:
                Thread(target=self.serve, name=f"kacore-wsgi-{n_started}", daemon=True).start()
            except RuntimeError as error:  # the system has no thread to give
                ka_lock(&self.mutex)
                self.is_waking = False
                self.n_started -= 1
                n_started = self.n_started
                ka_unlock(&self.mutex)
                return self.lack_thread(n_started, error)
        return 0

    cdef int hold_thread(self, int n) except -1:
        """One more, or one less, waits for its client, and another is welcome in its place."""
        ka_lock(&self.mutex)
        self.n_held += n
        ka_unlock(&self.mutex)
        return self.wake_thread() if n > 0 else 0

    cdef int lack_thread(self, int n_started, object error) except -1:
        """Those that are there do the work. When there is none, nobody ever would. In the engine's thread, or else there
        is one: the thread that asks."""
        cdef WsgiExchange exchange
        if n_started == 0:
            while self.work:
                exchange = self.work.popleft()
                exchange.refuse(503, b"no thread could be started for the request")
        return self.say(f"no thread could be started besides {n_started} of {self.threads}", error)

    def serve(self):
        """What a thread of the pool does until `stop`."""
        cdef WsgiExchange exchange
        lock = allocate_lock()
        lock.acquire()
        while True:
            ka_lock(&self.mutex)
            self.is_waking = False
            ka_unlock(&self.mutex)
            exchange = self.next_work()
            while exchange is not None:
                self.wake_thread()  # for the next one: this one may be held up by what it does
                try:
                    if exchange.claim():
                        exchange.run()
                except BaseException as error:  # sys.exit() in the application is the request's end, not the thread's
                    self.say("a thread of the pool failed and goes on", error)
                exchange = self.next_work()
            if not self.may_stay(lock):
                return
            lock.acquire()

    cdef WsgiExchange next_work(self):
        cdef WsgiExchange exchange = None
        ka_lock(&self.mutex)
        if self.work:
            exchange = self.work.popleft()
        ka_unlock(&self.mutex)
        return exchange

    cdef bint may_stay(self, object lock) except -1:
        """Whether the thread is to wait for more work until its lock is released, and then look for it."""
        cdef bint may_stay
        ka_lock(&self.mutex)
        may_stay = not self.is_stopping and self.n_started - self.n_held <= self.threads
        if self.work:  # since it looked
            may_stay = True
            lock.release()
        elif may_stay:
            self.idle.append(lock)
        else:
            self.n_started -= not self.is_stopping
        ka_unlock(&self.mutex)
        return may_stay

    def stop(self):
        """End the pool's threads when they have finished what they do."""
        ka_lock(&self.mutex)
        self.is_stopping = True
        idle, self.idle = self.idle, []
        ka_unlock(&self.mutex)
        for lock in idle:
            lock.release()

    cdef int post(self, WsgiExchange exchange) except -1:
        """From a thread: have the engine's thread look at this exchange."""
        cdef bint is_new, is_first = False
        ka_lock(&exchange.mutex)
        is_new = not exchange.is_posted
        exchange.is_posted = True
        ka_unlock(&exchange.mutex)
        if is_new:
            ka_lock(&self.mutex)
            self.posted.append(exchange)
            is_first = not self.is_called
            self.is_called = True
            ka_unlock(&self.mutex)
        if is_first:
            self.waker()
        return 0

    cdef WsgiExchange next_posted(self):
        cdef WsgiExchange exchange = None
        ka_lock(&self.mutex)
        if self.posted:
            exchange = self.posted.popleft()
        ka_unlock(&self.mutex)
        return exchange

    cdef int wake(self) except -1:
        cdef WsgiExchange exchange
        ka_lock(&self.mutex)
        self.is_called = False
        ka_unlock(&self.mutex)
        exchange = self.next_posted()
        while exchange is not None:
            try:
                exchange.pump()
            except BaseException as error:  # of the log: the others' responses wait
                exchange.driver.failed(error)
            exchange = self.next_posted()
        return 0
