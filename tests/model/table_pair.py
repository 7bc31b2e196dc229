"""A table and its model side by side: each operation is done to both, and the answers must be the same."""

from types import SimpleNamespace

from table_model import MOVES, Model, Refused

from kacore import ConnectionTable, LocalError, Policy

# As the model has them: of a trusted proxy a pair.
CLIENTS = (None, "192.0.2.1", "192.0.2.2", "2001:db8::", "198.51.100.7", ("192.0.2.1", True), ("10.0.0.1", True))
PROGRESS = {
    "body_progress": ("body", "busy", "write"),
    "write_progress": ("body", "busy", "write"),
    "linger_progress": ("linger",),
}
CAUSES = ("client", "application", "error", "bad_request")

ROOMY = Policy(
    max_connections=12, keep_alive_timeout=8.0, first_byte_timeout=5.0, request_header_timeout=4.0,
    handshake_timeout=3.0,
    request_body_timeout=6.0, send_timeout=7.0, handler_timeout=9.0, linger_timeout=2.0, linger_time=5.0,
    linger_bytes=1000, rate_window=2.0, min_request_body_rate=100, min_send_rate=50, max_connection_age=40.0, age_jitter=0.2,
    max_keep_alive_requests=5, client_share=0.25, pressure_start=0.5, pressure_full=0.9,
    max_head_bytes=4096, max_buffer_bytes=65536, min_rate_when_full=200,
)
TIGHT = ROOMY.replace(
    max_connections=7, max_connections_per_client=3, min_idle_before_evict=2.0, client_share=0.5, pressure_start=1.0,
    pressure_full=1.0, advertise=False, keep_alive_timeout=3.0, max_keep_alive_requests=0, handler_timeout=0.0,
    linger_bytes=0, linger_time=1.5, min_rate_when_full=0,
)
SITE = {"keep_alive_timeout": 2.5, "max_keep_alive_requests": 2, "handler_timeout": 1.0}
CLOSING = {"keep_alive": False}
# From 2 s, which are 12.5 of the longest step but one: what is learned matters within the time of a test.
LEARNING = ROOMY.replace(keep_alive_timeout="auto", keep_alive_min=2.0, keep_alive_max=500.0, max_connection_age=4000.0)
POLICIES = tuple(
    tuple([default, default.replace(**SITE), default.replace(**CLOSING)][:n])
    for default in (ROOMY, TIGHT, ROOMY.replace(client_share=0.1), TIGHT.replace(keep_alive_timeout=0.5), LEARNING,
                    LEARNING.replace(pressure_start=0.0, pressure_full=0.01, keep_alive_min=7.0, max_connections=5))
    for n in (3, 1)
)


def policy_set(policies):
    return SimpleNamespace(default=policies[0], policies=policies)


class Pair:
    def __init__(self, policies=POLICIES[0], seed=0):
        self.table = ConnectionTable(policy_set(policies), seed=seed)
        self.model = Model(policies, seed)
        self.n_classes = len(policies)
        self.seen = set()
        self.gone = []
        self.now = 0.0

    @property
    def conns(self):
        return self.model.conns

    def same(self, what, ask_table, ask_model):
        try:
            expected = ask_model()
        except Refused:
            expected = LocalError
        try:
            answer = ask_table()
        except LocalError:
            answer = LocalError
        assert answer == expected, f"{what}: the table says {answer!r}, the model {expected!r}"
        return answer

    def open(self, client, policy_class, tls):
        policy_class %= self.n_classes
        address, is_proxy = client if isinstance(client, tuple) else (client, False)
        conn = self.table.open(self.now, address, policy_class, tls, is_proxy)
        assert conn not in self.seen
        if conn:
            self.seen.add(conn)
        assert self.model.open(self.now, client, policy_class, tls, conn), f"open answered {conn}"

    def event(self, name, conn):
        self.same(f"{name}({conn:#x})", lambda: getattr(self.table, name)(conn, self.now),
                  lambda: self.model.event(name, conn, self.now))

    def progress(self, name, conn, nbytes):
        self.same(f"{name}({conn:#x}, {nbytes})", lambda: getattr(self.table, name)(conn, nbytes, self.now),
                  lambda: self.model.progress(conn, nbytes, self.now, PROGRESS[name]))

    def touch(self, conn):
        self.same("touch", lambda: self.table.touch(conn, self.now), lambda: self.model.touch(conn, self.now))

    def set_class(self, conn, policy_class):
        policy_class %= self.n_classes
        of_table, of_model = self.table.set_class, self.model.set_class
        self.same("set_class", lambda: of_table(conn, policy_class), lambda: of_model(conn, policy_class))

    def decide(self, conn, version, persists, must_close):
        def ask_table():
            verdict = self.table.decide(conn, self.now, version, persists, must_close)
            return verdict.keeps, verdict.cause, verdict.fields

        self.same("decide", ask_table, lambda: self.model.decide(conn, self.now, version, persists, must_close))

    def close(self, conn, cause):
        answer = self.same("close", lambda: self.table.close(conn, cause, self.now),
                           lambda: self.model.close(conn, cause, self.now))
        if answer is None:
            self.gone.append(conn)

    def due(self):
        return self.same("due", lambda: self.table.due(self.now), lambda: self.model.due(self.now))

    def expire(self, limit):
        expected = []
        while len(expected) < limit and (due := self.model.due(self.now)):
            self.model.close(due[0], due[2], self.now)
            expected.append(due[0])
        self.gone += self.same("expire", lambda: self.table.expire(self.now, limit), lambda: expected)

    def evict(self):
        victim = self.model.victim(self.now)
        assert self.table.victim(self.now) == victim
        if victim:
            self.model.close(victim, "evicted", self.now)
            self.gone.append(victim)
        assert self.table.evict(self.now) == victim

    def set_policy(self, policies):
        self.table.set_policy(policy_set(policies))
        self.model.set_policy(policies)
        self.n_classes = len(policies)

    def drain(self, grace, spread, timeout):
        self.table.drain(self.now, grace, spread, timeout)
        self.model.drain(self.now, grace, spread, timeout)

    def compare(self):
        """Every invariant of the table, and everything that can be read from it."""
        self.table.check()
        assert self.table.next_due() == self.model.next_due()
        shown, expected = self.table.stats(), self.model.stats()
        shown["closed"] = {cause: n for cause, n in shown["closed"].items() if n}
        for histogram in ("idle_gap", "idle_left", "requests_per_connection"):
            shown[histogram] = shown[histogram]["counts"]
        assert {key: shown[key] for key in expected} == expected
        assert len(self.table) == len(self.conns)
        learned = self.model.learned(self.now)
        shown = {(one["network"], True) if one["proxy"] else None if one["network"] == "unix" else one["network"]: one
                 for one in self.table.learned(self.now)}
        said = {client: {key: one[key] for key in learned.get(client, one)} for client, one in shown.items()}
        assert said == learned, f"learned: the table says {said}, the model {learned}"
        assert sum(expected["closed"].values()) + len(self.conns) == expected["accepted"]
        for handle, conn in self.conns.items():
            assert self.table.phase(handle) == conn.phase
            assert self.table.requests(handle) == conn.requests
            assert self.table.policy_class(handle) == conn.policy_class


EVENTS = tuple(MOVES)
