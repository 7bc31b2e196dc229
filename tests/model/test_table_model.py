"""The connection table against its plain-Python model, in virtual time."""

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from table_model import MOVES
from table_pair import CAUSES, CLIENTS, EVENTS, POLICIES, PROGRESS, Pair

STEPS = (0.0, 0.0, 1 / 512, 0.1, 0.5, 1.0, 2.5, 7.3, 31.0, 31.0, 400.0)
BYTES = (0, 1, 60, 250, 1200)
DRAINS = ((0.0, 0.0, 3.0), (1.0, 2.0, 9.0), (4.0, 5.5, 20.0), (2.0, 1.0, 0.5))

conns = st.integers(0, 63)


class TableMachine(RuleBasedStateMachine):
    @initialize(policies=st.sampled_from(POLICIES), seed=st.integers(0, 3))
    def begin(self, policies, seed):
        self.pair = Pair(policies, seed)

    def pick(self, k):
        """An open connection, or now and then one that is gone."""
        alive, gone = list(self.pair.conns), self.pair.gone
        return gone[k % len(gone)] if gone and k >= 60 else alive[k % len(alive)]

    @rule(step=st.sampled_from((*STEPS, -3.0)) | st.floats(0, 20))
    def time_passes(self, step):
        self.pair.now += step

    @rule(client=st.sampled_from(CLIENTS), policy_class=st.integers(0, 2), tls=st.booleans())
    def open(self, client, policy_class, tls):
        self.pair.open(client, policy_class, tls)

    @precondition(lambda self: self.pair.conns)
    @rule(k=conns, name=st.sampled_from(EVENTS))
    def event(self, k, name):
        self.pair.event(name, self.pick(k))

    @precondition(lambda self: self.pair.conns)
    @rule(k=conns, choice=st.integers(0, 9))
    def fitting_event(self, k, choice):
        conn = self.pick(k)
        phase = self.pair.conns[conn].phase if conn in self.pair.conns else "idle"
        fitting = [name for name in EVENTS if phase in MOVES[name]]
        if fitting:
            self.pair.event(fitting[choice % len(fitting)], conn)

    @precondition(lambda self: self.pair.conns)
    @rule(k=conns, name=st.sampled_from(tuple(PROGRESS)), nbytes=st.sampled_from(BYTES))
    def progress(self, k, name, nbytes):
        self.pair.progress(name, self.pick(k), nbytes)

    @precondition(lambda self: self.pair.conns)
    @rule(k=conns)
    def touch(self, k):
        self.pair.touch(self.pick(k))

    @precondition(lambda self: self.pair.conns)
    @rule(k=conns, policy_class=st.integers(0, 2))
    def set_class(self, k, policy_class):
        self.pair.set_class(self.pick(k), policy_class)

    @precondition(lambda self: self.pair.conns)
    @rule(k=conns, version=st.sampled_from(("1.0", "1.1", "2")), persists=st.booleans(),
          must_close=st.sampled_from((None, None, "bad_request")))
    def decide(self, k, version, persists, must_close):
        self.pair.decide(self.pick(k), version, persists, must_close)

    @precondition(lambda self: self.pair.conns)
    @rule(k=conns, cause=st.sampled_from(CAUSES))
    def close(self, k, cause):
        self.pair.close(self.pick(k), cause)

    @rule()
    def due(self):
        self.pair.due()

    @rule(limit=st.integers(1, 5))
    def expire(self, limit):
        self.pair.expire(limit)

    @rule()
    def evict(self):
        self.pair.evict()

    @rule(policies=st.sampled_from(POLICIES))
    def set_policy(self, policies):
        self.pair.set_policy(policies)

    @rule(times=st.sampled_from(DRAINS))
    def drain(self, times):
        self.pair.drain(*times)

    @invariant()
    def same_in_every_respect(self):
        if hasattr(self, "pair"):
            self.pair.compare()


TestTableMachine = TableMachine.TestCase
TestTableMachine.settings = settings(
    max_examples=300, stateful_step_count=60, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# Driven at random, mostly along lives that make sense, so that every phase is full of connections.
WEIGHTS = {"fitting": 40, "step": 16, "open": 14, "progress": 8, "touch": 6, "decide": 6, "expire": 3, "close": 2,
           "due": 1, "any": 1, "evict": 1, "class": 1}
COMMON = {"tunnelled": 0.05, "lingering": 0.2, "stream_opened": 0.3, "stream_closed": 0.9}


def drive(seed, n_operations, check_every):
    draw = random.Random(seed)
    kinds, weights = tuple(WEIGHTS), tuple(WEIGHTS.values())
    pair = Pair(draw.choice(POLICIES), seed)
    done = 0
    while done < n_operations:
        for kind in draw.choices(kinds, weights, k=500):
            done += 1
            try:
                operate(pair, draw, kind)
                if done % check_every == 0:
                    pair.compare()
            except Exception as error:
                raise AssertionError(f"seed {seed}, operation {done} ({kind}): {error}") from error
        if draw.random() < 0.2:
            pair.set_policy(draw.choice(POLICIES))
        if draw.random() < 0.02:
            pair.drain(*draw.choice(DRAINS))
        if draw.random() < 0.01 or (pair.model.drained and draw.random() < 0.3):
            pair.compare()
            pair = Pair(draw.choice(POLICIES), draw.getrandbits(64))
    pair.compare()


def operate(pair, draw, kind):
    if kind == "step":
        pair.now += draw.choice(STEPS) if draw.random() < 0.8 else draw.random() - 0.1
    elif kind == "open":
        if pair.table.is_full and draw.random() < 0.5:
            pair.evict()
        pair.open(draw.choice(CLIENTS), draw.randrange(3), draw.random() < 0.1)
    elif kind == "expire":
        pair.expire(draw.randrange(1, 6))
    elif kind == "due":
        pair.due()
    elif kind == "evict":
        pair.evict()
    elif pair.conns:
        conn = draw.choice(tuple(pair.conns))
        if pair.gone and draw.random() < 0.01:
            conn = draw.choice(pair.gone)
        if kind == "fitting":
            phase = pair.conns[conn].phase if conn in pair.conns else "idle"
            names = [name for name in EVENTS if phase in MOVES[name] and draw.random() < COMMON.get(name, 1.0)]
            if names:
                pair.event(draw.choice(names), conn)
            elif phase == "tunnel":
                pair.close(conn, "client")
        elif kind == "any":
            pair.event(draw.choice(EVENTS), conn)
        elif kind == "touch":
            pair.touch(conn)
        elif kind == "progress":
            pair.progress(draw.choice(tuple(PROGRESS)), conn, draw.choice(BYTES))
        elif kind == "decide":
            pair.decide(conn, draw.choice(("1.1", "1.0", "2")), draw.random() < 0.9,
                        None if draw.random() < 0.9 else "bad_request")
        elif kind == "class":
            pair.set_class(conn, draw.randrange(3))
        else:
            pair.close(conn, draw.choice(CAUSES))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(4))
def test_sixty_thousand_random_operations_agree_with_the_model(seed):
    """Every answer is compared; check() and every reading of the state once in 25 operations."""
    drive(seed, 60_000, check_every=25)


@pytest.mark.parametrize("seed", range(100, 110))
def test_the_state_agrees_with_the_model_after_every_single_operation(seed):
    drive(seed, 2_000, check_every=1)
