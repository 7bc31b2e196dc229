# The applications of those who bring their own protocol class over Transports: a server of the user's, whose protocol
# answers itself, and hosts such as uvicorn, which want to see the tasks and to take upgraded connections.


cdef class ProtocolApplication(HandlerApplication):
    """Asks the connection's protocol: its handle(head, body) is the handler."""

    def __init__(self, loop, logger):
        HandlerApplication.__init__(self, None, loop, logger)

    cdef object handle(self, HandlerExchange exchange):
        cdef Request request = exchange.request
        return (<Transports>exchange.driver).protocol_of(ka_exchange_conn(exchange.core)).handle(request._head, request.body)


cdef class HostRunner(Runner):
    """Runs requests where the host can see them.

    tasks:     a set of the host's, which holds the tasks of suspended requests while they run; None = nowhere.
    make_task: callable(coroutine) that starts a task in the host's own way; None = an asyncio.Task.
    """
    cdef public object tasks, make_task

    cdef object start(self, object coroutine):
        task = Runner.start(self, coroutine)
        if task is not None and self.tasks is not None and self.make_task is None:
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        return task

    cdef object start_task(self, object coroutine):
        if self.make_task is None:
            return Runner.start_task(self, coroutine)
        return self.make_task(coroutine)


cdef class HostedAsgiApplication(AsgiApplication):
    """AsgiApplication for a host that has tasks and upgrades of its own.

    tasks, make_task: see HostRunner. scope: what every scope says besides, or instead.
    root_path: in front of path and of raw_path, too.
    upgrade: called with (protocol, Head) for a request that asks for an upgrade. Return: None to serve it as any other,
             or callable(transport, bytes), which gets the connection and the bytes that came behind that head.
    """
    cdef object upgrade

    def __init__(self, app, loop, logger, *, tasks=None, make_task=None, upgrade=None, scope=None, **options):
        cdef HostRunner runner
        AsgiApplication.__init__(self, app, loop, logger, **options)
        runner = HostRunner(loop)
        runner.tasks = tasks
        runner.make_task = make_task
        self.runner = runner
        self.upgrade = upgrade
        self.raw_root = self.root_path.encode("ascii")
        if scope is not None:
            self.template.update(scope)

    cdef int request(self, BaseDriver driver, ka_exchange *core, const ka_head *head, const ka_field *fields) except -1:
        if head.flags & KA_HEAD_UPGRADE and self.upgrade is not None:
            protocol = (<Transports>driver).protocol_of(ka_exchange_conn(core))
            taker = self.upgrade(protocol, make_head(ka_exchange_head_bytes(core), head, fields))
            if taker is not None:
                protocol.taker = taker
                return 0
        return AsgiApplication.request(self, driver, core, head, fields)


class NotMounted(LocalError):
    """The path is not below that at which the application stands."""


cdef class HostedWsgiApplication(WsgiApplication):
    """WsgiApplication for a host that says below which path it stands: that is SCRIPT_NAME, and no part of PATH_INFO.

    script_name: that path, without "/" at its end. is_told: clients that are trusted may name another in a field that is
    called SCRIPT_NAME. A request for any other path is logged and answered 500.
    """
    cdef bint is_told

    def __init__(self, app, logger, waker=None, *, is_told=False, **options):
        WsgiApplication.__init__(self, app, logger, waker, **options)
        self.is_told = is_told

    cdef int request(self, BaseDriver driver, ka_exchange *core, const ka_head *head, const ka_field *fields) except -1:
        try:
            return WsgiApplication.request(self, driver, core, head, fields)
        except NotMounted as error:
            self.logger.warning("%s", error)
        ka_exchange_refuse(core, 500, b"Internal Server Error", KA_CAUSE_APPLICATION, driver.now())
        return 0

    cdef dict environ_of(self, WsgiExchange exchange, BaseDriver driver, ka_exchange *core, const ka_head *head,
                         const ka_field *fields):
        cdef dict environ = WsgiApplication.environ_of(self, exchange, driver, core, head, fields)
        cdef str mount = environ["SCRIPT_NAME"], path
        if self.is_told and (<Driver>driver).is_trusted(ka_exchange_conn(core)):
            told = told_mount(ka_exchange_head_bytes(core), head, fields)
            if told is not None:
                mount = environ["SCRIPT_NAME"] = told
        if mount:
            path = environ["PATH_INFO"]
            if path[:len(mount)] != mount or path[len(mount):len(mount) + 1] not in ("", "/"):
                raise NotMounted(f"path {path!r} is not under SCRIPT_NAME {mount!r}")
            environ["PATH_INFO"] = path[len(mount):]
        return environ


cdef object told_mount(const char *buf, const ka_head *head, const ka_field *fields):
    """What a field SCRIPT_NAME says, or None."""
    cdef uint32_t i
    for i in range(head.n_fields):
        if fields[i].name.len == 11 and ka_equals_lower(buf + fields[i].name.off, b"script_name", 11):
            return PyUnicode_DecodeLatin1(buf + fields[i].value.off, fields[i].value.len, NULL).rstrip("/")
    return None
