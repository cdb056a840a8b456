"""Restarts under any order of events: new content, time, crashes, two operators, lost statuses, other people's hands."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serviceidentity.app.rollouts import Rollouts
from serviceidentity.domain import ownership, rollout
from serviceidentity.domain.schedule import format_duration
from serviceidentity.errors import ConflictError, RetryableError
from tests.unit.app.fake_workloads import DEPLOYMENT, PLACE, FakeWorkload, FakeWorkloads
from tests.unit.domain.builders import T0, issued

SECRETS = ("order-service-tls", "order-service-hmac")
MINE = rollout.annotation_of("order-service")


class NoEvents:
    def emit(self, *_: object, **__: object) -> None:
        pass


class RolloutLife(RuleBasedStateMachine):
    @initialize(interval=st.integers(0, 900), settle=st.integers(0, 60))
    def begin(self, interval, settle):
        self.now, self.loop = T0, asyncio.new_event_loop()
        block = {
            "targets": [{"kind": "Deployment", "name": "order-service"}],
            "minInterval": format_duration(timedelta(seconds=interval)),
            "settle": format_duration(timedelta(seconds=settle)),
        }
        self.seen = issued({"certificate": {}, "hmac": {}, "rollout": block})
        self.spec = self.seen.identity.rollout
        self.count = 0
        for name in SECRETS:
            self.new_content(name)
        self.workloads = FakeWorkloads()
        self.target = self.workloads.stored[PLACE] = FakeWorkload()
        self.rollouts = Rollouts(self.workloads, NoEvents(), lambda: self.now)
        self.status = self.stale = {}
        self.restarts = []
        self.rolled_out = self.contents  # by a restart of ours, or there from the beginning
        self.changed_by_others = False
        self.work()

    def teardown(self):
        if hasattr(self, "loop"):
            self.loop.close()

    @property
    def contents(self):
        return rollout.contents_of(self.seen, self.spec)

    def new_content(self, name):
        self.count += 1
        view = self.seen.contents[name]
        fresh = replace(view, annotations={**view.annotations, ownership.CONTENT_ID_ANNOTATION: f"{self.count:016x}"})
        self.seen = replace(self.seen, contents={**self.seen.contents, name: fresh})

    def advance(self, status):
        """One pass: return the status that it would write, and when it wants the next one."""
        generation = self.target.generation
        outcome = self.loop.run_until_complete(self.rollouts.advance(self.seen, status))
        if self.target.generation != generation:
            assert self.contents != self.rolled_out, "no restart without new content"
            self.restarts.append(self.now)
            self.rolled_out = self.contents
        return {"rollout": outcome.report.entries}, outcome.report.deadline

    def work(self):
        self.stale = self.status
        self.status, self.deadline = self.advance(self.status)
        again, deadline = self.advance(self.status)
        assert (again, deadline) == (self.status, self.deadline), "at rest until the deadline"

    @rule(name=st.sampled_from(SECRETS))
    def change(self, name):
        self.new_content(name)
        self.work()

    @rule(seconds=st.integers(0, 1200))
    def tick(self, seconds):
        end = self.now + timedelta(seconds=seconds)
        while self.deadline is not None and self.deadline <= end:
            self.now = max(self.deadline, self.now)
            self.work()
        self.now = end

    @rule()
    def restart_of_the_operator(self):
        before = len(self.restarts)
        calls = dict(self.workloads.calls)
        self.work()
        assert len(self.restarts) == before
        assert self.workloads.calls == calls, "nothing due, nothing read"

    @rule(name=st.sampled_from(SECRETS))
    def crash_before_the_status_is_written(self, name):
        self.new_content(name)
        self.now += self.spec.settle
        self.advance(self.status)
        self.work()

    @rule(failing=st.sampled_from(["read", "annotate"]), error=st.sampled_from([ConflictError, RetryableError]))
    def a_pass_that_fails(self, failing, error):
        self.workloads.failures[failing] = error("away")
        self.work()
        self.workloads.failures.clear()
        self.work()

    @precondition(lambda self: not self.changed_by_others)
    @rule()
    def another_operator_with_an_old_status(self):
        self.advance(self.stale)
        self.work()

    @precondition(lambda self: MINE in self.target.annotations and not self.changed_by_others)
    @rule()
    def the_status_is_lost(self):
        self.status = self.stale = {}
        self.work()

    @precondition(lambda self: self.restarts)
    @rule(keep=st.booleans())
    def somebody_takes_the_annotation_off_or_rolls_back(self, keep):
        self.changed_by_others = True
        old = {MINE: '{"at":"2026-01-01T12:00:00Z","for":{"order-service-tls":"0"}}'}
        self.target.change(old if keep else {})
        self.work()

    @rule()
    def in_the_end_all_is_rolled_out(self):
        self.tick(int((self.spec.min_interval + self.spec.settle).total_seconds()))
        assert self.deadline is None
        assert self.rolled_out == self.contents
        assert rollout.records_of(self.status)[DEPLOYMENT].contents == self.contents

    @invariant()
    def never_two_within_the_interval(self):
        if hasattr(self, "restarts"):
            pairs = zip(self.restarts, self.restarts[1:], strict=False)
            assert all(later - earlier >= self.spec.min_interval for earlier, later in pairs)


RolloutLife.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
test_restarts_under_any_order_of_events = RolloutLife.TestCase
