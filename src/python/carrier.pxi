# Running an application's coroutine with the right asyncio.Task around it, and no Task made for a request that never
# suspends.
#
# A carrier is a real asyncio.Task that waits for nothing but to be used: its coroutine is a Carrier, parked on a future.
# To run a request, the engine declares the parked task the current one, copies the context, and takes the request's
# coroutine one step. If it finishes, no Task was made and the carrier is parked still. If it suspends, the carrier
# adopts it: the task is woken, hands what the coroutine waits for to asyncio, and is that request's task from then on.
#
# No task may be known to two requests: somebody may have kept it, named it, cancelled it or hung a callback on it.
# All of that shows in the bytes of the task object (its reference count, weak references and fields) or of the future
# it is parked on, so after each request they must be what they were when it was entered; else the carrier is retired
# and its task ends.
#
# What asyncio promises that this relies on is probed when a server starts (`probe_carriers`); where it does not hold,
# every request gets a Task of its own.
from libc.string cimport memcmp, memcpy

cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(object coroutine, object value, PyObject **result) noexcept
    object PyContext_Copy(object context)
    object PyContext_CopyCurrent()
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    void PyErr_Fetch(PyObject **kind, PyObject **value, PyObject **traceback) noexcept
    void PyErr_NormalizeException(PyObject **kind, PyObject **value, PyObject **traceback) noexcept
    int PyException_SetTraceback(PyObject *error, PyObject *traceback) noexcept

cdef extern from *:
    """
    static Py_ssize_t ka_basicsize(PyObject *o) { return Py_TYPE(o)->tp_basicsize; }
    """
    Py_ssize_t ka_basicsize(object o) noexcept

cdef enum:
    TASK_BYTES = 512       # an asyncio.Task has about 200
    FUTURE_BYTES = 256     # an asyncio.Future has about 130
    PARKED_MAX = 16        # carriers waiting at most
    SUSPENDERS = 32        # so many requests suspended in a row: begin with a Task of their own
    TRY_AGAIN = 64         # ... but see again, once in so many

cdef object Task, Future, CancelledError, current_task, enter_task, leave_task


cdef int import_asyncio() except -1:
    """On first use: who embeds the parser or the table need not load asyncio."""
    global Task, Future, CancelledError, current_task, enter_task, leave_task
    import asyncio
    import asyncio.tasks
    found = (asyncio.Task, asyncio.Future, asyncio.CancelledError, asyncio.current_task, asyncio.tasks._enter_task,
             asyncio.tasks._leave_task)
    ka_lock(&IMPORTS)
    if Task is None:
        Task, Future, CancelledError, current_task, enter_task, leave_task = found
    ka_unlock(&IMPORTS)
    return 0


cdef class Carrier:
    """The coroutine of a carrier's task. Looks like one to asyncio: send, throw, close, __await__."""
    cdef Runner runner
    cdef object task
    cdef object parked        # the future it waits on while it has no request
    cdef object coroutine     # the request's, once adopted
    cdef object context
    cdef object owed          # what the coroutine waits for, to be handed to asyncio at the next step
    cdef bint has_owed
    cdef bint is_over
    cdef Py_ssize_t n_bytes, n_future_bytes, n_weakrefs
    cdef char noted[TASK_BYTES]
    cdef char noted_future[FUTURE_BYTES]

    # -- the coroutine -----------------------------------------------------------------------------------

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.step()

    def send(self, value):
        """Coroutine protocol."""
        return self.step()

    cdef object step(self):
        if self.is_over:
            raise StopIteration
        if self.coroutine is None:
            self.parked = self.runner.loop.create_future()
            self.parked._asyncio_future_blocking = True
            self.runner.parked.append(self)
            return self.parked
        if self.has_owed:
            self.has_owed = False
            owed = self.owed
            self.owed = None
            return owed
        return self.drive()

    cdef object drive(self):
        cdef PyObject *result = NULL
        cdef PySendResult got
        PyContext_Enter(self.context)
        got = PyIter_Send(self.coroutine, None, &result)
        return self.outcome(got, result)

    cdef object outcome(self, PySendResult got, PyObject *result):
        """Leave the context; go on with what a step of the coroutine gave."""
        cdef object value
        if got == PYGEN_ERROR:
            error = caught()
            PyContext_Exit(self.context)
            self.is_over = True
            raise error
        PyContext_Exit(self.context)
        value = <object>result
        Py_DECREF(value)
        if got == PYGEN_RETURN:
            self.is_over = True
            raise StopIteration(value)
        return value

    def throw(self, kind, value=None, traceback=None):
        """Coroutine protocol; asyncio cancels a task by it."""
        cdef object error = kind if value is None else value
        if isinstance(error, type):
            error = error()
        if self.coroutine is None or self.is_over:
            self.leave_pool()
            raise error
        if self.has_owed:
            # Cancelled between the first step and the task's waking: cancel what the coroutine waits for, as
            # Task.cancel() would have; it then comes by way of that.
            self.has_owed = False
            owed = self.owed
            self.owed = None
            if isinstance(error, CancelledError) and hasattr(owed, "cancel") and owed.cancel(*error.args):
                return owed
            if getattr(owed, "_asyncio_future_blocking", None):
                owed._asyncio_future_blocking = False
        PyContext_Enter(self.context)
        try:
            result = self.coroutine.throw(error)
        except BaseException:
            self.is_over = True
            raise
        finally:
            PyContext_Exit(self.context)
        return result

    def close(self):
        """Coroutine protocol."""
        self.leave_pool()
        if self.coroutine is not None and not self.is_over:
            self.coroutine.close()
        self.is_over = True

    # -- the pool ----------------------------------------------------------------------------------------

    cdef int leave_pool(self) except -1:
        self.is_over = True
        if self in self.runner.parked:
            self.runner.parked.remove(self)
        return 0

    cdef int note(self) except -1:
        """Remember what the parked task and its future look like."""
        self.n_bytes = min(ka_basicsize(self.task), TASK_BYTES)
        self.n_future_bytes = min(ka_basicsize(self.parked), FUTURE_BYTES)
        self.n_weakrefs = count_weakrefs(self.task)
        memcpy(self.noted, <void *>self.task, self.n_bytes)
        memcpy(self.noted_future, <void *>self.parked, self.n_future_bytes)
        return 0

    cdef bint is_unknown(self) except -1:
        """Nobody but this file knows the task, and nothing was done to it."""
        return (memcmp(self.noted, <void *>self.task, self.n_bytes) == 0
                and memcmp(self.noted_future, <void *>self.parked, self.n_future_bytes) == 0
                and count_weakrefs(self.task) == self.n_weakrefs)

    cdef int retire(self) except -1:
        self.is_over = True
        if not self.parked.done():
            self.parked.set_result(None)
        return 0

    cdef int adopt(self, object coroutine, object context, object owed) except -1:
        self.coroutine = coroutine
        self.context = context
        self.owed = owed
        self.has_owed = True
        if not self.parked.done():
            self.parked.set_result(None)
        return 0


cdef object caught():
    """The exception that is set, taken. With a call of its own, since a coroutine's error must not be raised while
    its context is entered."""
    cdef PyObject *kind = NULL
    cdef PyObject *value = NULL
    cdef PyObject *traceback = NULL
    PyErr_Fetch(&kind, &value, &traceback)
    PyErr_NormalizeException(&kind, &value, &traceback)
    if traceback != NULL:
        PyException_SetTraceback(value, traceback)
        Py_DECREF(<object>traceback)
    error = <object>value
    Py_DECREF(<object>kind)
    Py_DECREF(error)
    return error


cdef class Runner:
    """Runs coroutines for one loop: by carriers, or each in a Task.

    uses_carriers: False = a Task each. Switched on by probe().
    """
    cdef readonly object loop
    cdef public bint uses_carriers
    cdef object value         # result of the last that finished at once
    cdef list parked          # carriers that can be used
    cdef Carrier entered      # whose task is the current one in this step of the engine; none of `parked`
    cdef bint is_running      # it has a coroutine at this moment
    cdef int n_coming         # carriers whose tasks have not taken their first step
    cdef int n_suspended      # requests in a row that suspended
    cdef int n_skipped
    cdef readonly uint64_t n_eager, n_adopted, n_retired, n_tasks

    def __cinit__(self, loop):
        import_asyncio()
        self.loop = loop
        self.parked = []

    cdef object start(self, object coroutine):
        """Run a coroutine up to its first suspension. Return: None if it finished (see take_value), else its task, whose
        callbacks can be added until the caller returns to the loop. Raises what the coroutine raises in that step."""
        if (self.n_suspended >= SUSPENDERS and self.prefers_tasks()) or self.is_running:
            return self.start_task(coroutine)
        if self.entered is None and not self.enter():
            return self.start_task(coroutine)
        return self.run(coroutine)

    cdef bint enter(self) except -1:
        """Make a carrier's task the current one; false when there is none, or the host's own is."""
        cdef Carrier carrier
        if not self.uses_carriers:
            return False
        while True:
            if not self.parked:
                self.stock()
                return False
            carrier = <Carrier>self.parked.pop()
            if not carrier.parked.done():
                break
        try:
            enter_task(self.loop, carrier.task)
        except RuntimeError:  # the host steps the engine inside a task of its own
            self.parked.append(carrier)
            return False
        carrier.note()
        self.entered = carrier
        return True

    cdef object run(self, object coroutine):
        cdef Carrier carrier = self.entered
        cdef PyObject *result = NULL
        cdef PySendResult got
        cdef object context = PyContext_CopyCurrent()
        cdef object error = None
        PyContext_Enter(context)
        self.is_running = True
        got = PyIter_Send(coroutine, None, &result)
        self.is_running = False
        if got == PYGEN_ERROR:
            error = caught()
        PyContext_Exit(context)
        if got == PYGEN_NEXT:
            self.drop()
            owed = <object>result
            Py_DECREF(owed)
            self.n_adopted += 1
            self.n_suspended += 1
            carrier.adopt(coroutine, context, owed)
            self.stock()
            return carrier.task
        self.n_suspended = 0
        if got == PYGEN_RETURN:
            self.value = <object>result
            Py_DECREF(self.value)
        self.n_eager += 1
        if not carrier.is_unknown():
            self.drop()
            self.n_retired += 1
            carrier.retire()
            self.stock()
        if error is not None:
            raise error
        return None

    cdef object take_value(self):
        """What the coroutine that finished in start() returned."""
        value = self.value
        self.value = None
        return value

    cdef bint prefers_tasks(self) noexcept:
        """An application that always suspends gains nothing from a carrier, and pays a round of the loop."""
        if self.n_suspended < SUSPENDERS:
            return False
        self.n_skipped += 1
        if self.n_skipped < TRY_AGAIN:
            return True
        self.n_skipped = 0
        return False

    cdef object start_task(self, object coroutine):
        # Made directly: a factory of the user's must not see it, and an eager one would run it in here.
        self.leave()
        task = Task(coroutine, loop=self.loop)
        self.n_tasks += 1
        return task

    cdef int leave(self) except -1:
        """No task is the current one any more. To be called before the engine's step ends."""
        cdef Carrier entered = self.entered
        if entered is not None:
            self.drop()
            if self.uses_carriers:
                self.parked.append(entered)
            else:
                entered.retire()
        return 0

    cdef int drop(self) except -1:
        """The same, and its carrier is not used again."""
        cdef Carrier entered = self.entered
        self.entered = None
        leave_task(self.loop, entered.task)
        return 0

    cdef int stock(self) except -1:
        """Have a few carriers ready."""
        cdef Carrier carrier
        self.n_coming = max(0, self.n_coming)
        if len(self.parked) + self.n_coming >= PARKED_MAX // 4:
            return 0
        self.n_coming += 1
        self.loop.call_soon(self.add_carrier)
        return 0

    def add_carrier(self):
        """Make a carrier; its task parks itself at its first step."""
        cdef Carrier carrier = Carrier.__new__(Carrier)
        self.n_coming -= 1
        if not self.uses_carriers:
            return
        carrier.runner = self
        carrier.task = Task(carrier, loop=self.loop)
        carrier.task._log_destroy_pending = False

    def close(self):
        """End the parked carriers. No request is run by one any more."""
        cdef Carrier carrier
        self.uses_carriers = False
        parked = self.parked
        self.parked = []
        for one in parked:
            carrier = one
            carrier.retire()

    def stats(self):
        """dict: eager (finished without a Task), adopted, retired, tasks (a Task each)."""
        return {"eager": self.n_eager, "adopted": self.n_adopted, "retired": self.n_retired, "tasks": self.n_tasks}

    async def probe(self):
        """Switch to carriers if this interpreter and loop keep what they rely on. Return: None, or why not (str)."""
        self.uses_carriers = True
        try:
            why = await self.try_out()
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        self.uses_carriers = why is None
        if why is not None:
            self.close()
        return why

    async def try_out(self):
        import asyncio
        import contextvars
        cdef Carrier carrier
        if ka_basicsize(asyncio.current_task()) > TASK_BYTES or ka_basicsize(self.loop.create_future()) > FUTURE_BYTES:
            return "a Task or a Future is larger than expected"
        if {Task.__module__, type(self.loop.create_future()).__module__} != {"_asyncio"}:
            return "a Task or a Future is not asyncio's own in C, whose bytes say everything"
        self.add_carrier()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if len(self.parked) != 1:
            return "a carrier did not park"
        carrier = <Carrier>self.parked[0]
        variable = contextvars.ContextVar("kacore_probe", default=0)
        seen = []

        async def plain():
            seen.append(asyncio.current_task() is carrier.task)
            variable.set(1)
            async with asyncio.timeout(60):
                pass

        async def suspending():
            seen.append(variable.get() == 0)
            variable.set(2)
            task = asyncio.current_task()
            await asyncio.sleep(0)
            seen.append(asyncio.current_task() is task and variable.get() == 2)

        # From a callback, as from the engine's step: no task is the current one there.
        done = self.loop.create_future()
        outcome = []

        def begin():
            try:
                outcome.append(self.start(plain()))
                outcome.append(self.is_ready(carrier))
                task = self.start(suspending())
                outcome.append(task is carrier.task)
                self.leave()
                task.add_done_callback(lambda _: done.set_result(None))
            except Exception as error:
                done.set_exception(error)

        self.loop.call_soon(begin)
        await asyncio.wait_for(done, 5)
        if outcome != [None, True, True] or seen[:3] != [True, True, True]:
            return f"a probe gave {outcome!r}, {[item is True for item in seen]!r}"
        return None

    cdef bint is_ready(self, Carrier carrier):
        return carrier is self.entered
