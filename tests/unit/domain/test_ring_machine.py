"""The life of HMAC keys under any order of events: time, publication, requests, restarts."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from serviceidentity.domain import hmac_ring, key_ring
from serviceidentity.domain.key_ring import KeyState, Rhythm
from tests.unit.domain.builders import DAY, HOUR, T0

SECOND = timedelta(seconds=1)


class RingLife(RuleBasedStateMachine):
    @initialize(
        publish=st.integers(0, 7200), overlap=st.integers(0, 3 * 86400), rest=st.integers(1, 30 * 86400)
    )  # fmt: skip
    def begin(self, publish, overlap, rest):
        self.now = T0
        self.reachable = True
        self.in_keyrings = set()
        self.rhythm = Rhythm(
            rotate_every=timedelta(seconds=publish + overlap + rest),
            overlap=timedelta(seconds=overlap),
            publish_before=timedelta(seconds=publish),
            published=lambda key_id: key_id in self.in_keyrings,
        )
        self.ring = key_ring.new_ring(hmac_ring.make, T0)
        self.made = {self.ring.active.key_id: T0}
        self.signs_since = {self.ring.active.key_id: T0}
        self.stopped = {}
        self.publish()

    def publish(self):
        if self.reachable:
            self.in_keyrings = set(self.ring.key_ids)

    def step(self, *, requested=False):
        before = self.ring
        self.ring = key_ring.advance(
            before, replace(self.rhythm, rotation_requested=requested), hmac_ring.make, self.now
        )
        self.watch(before)
        self.publish()
        if self.ring is not before:
            self.step()  # what was just published may sign now, if it need not wait

    def watch(self, before):
        for key_id in self.ring.key_ids - before.key_ids:
            self.made[key_id] = self.now
        if self.ring.active.key_id != before.active.key_id:
            new, old = self.ring.active.key_id, before.active.key_id
            assert new in self.in_keyrings, "a key signs only when every verifier has it"
            assert self.now - self.made[new] >= self.rhythm.publish_before
            self.signs_since[new] = self.stopped[old] = self.now
        gone = before.key_ids - self.ring.key_ids
        for key_id in gone:
            assert key_id in self.stopped, "a key that signs or will sign is not dropped"
            assert self.now - self.stopped[key_id] >= self.rhythm.overlap

    @rule(pause=st.timedeltas(SECOND, 90 * DAY) | st.timedeltas(SECOND, HOUR))
    def time_passes(self, pause):
        self.now += timedelta(seconds=int(pause.total_seconds()))
        self.step()

    @rule()
    def the_deadline_comes(self):
        due = key_ring.deadline(self.ring, self.rhythm)
        assert due is not None
        assert due > self.now or self.ring.in_state(KeyState.PREPARED), "overdue only while a keyring is missing"
        if due - SECOND >= self.now:
            self.now = due - SECOND
            same = self.ring
            self.step()
            assert self.ring == same, "nothing before its time"
        self.now = max(self.now, due)
        self.step()

    @rule()
    def a_rotation_is_requested(self):
        self.step(requested=True)

    @rule(reachable=st.booleans())
    def verifiers_come_and_go(self, reachable):
        self.reachable = reachable
        self.publish()
        self.step()

    @rule()
    def the_operator_restarts(self):
        again = hmac_ring.from_json(hmac_ring.to_json(self.ring))
        assert again == self.ring
        self.ring = again

    @rule()
    def it_looks_again(self):
        assert key_ring.next_step(self.ring, self.rhythm, self.now) is None
        assert key_ring.advance(self.ring, self.rhythm, hmac_ring.make, self.now) is self.ring

    @invariant()
    def one_key_signs_and_at_most_one_is_next(self):
        states = [key.state for key in self.ring.keys]
        assert states.count(KeyState.ACTIVE) == 1
        assert states.count(KeyState.PREPARED) <= 1

    @invariant()
    def a_key_that_signed_verifies_for_exactly_the_overlap(self):
        for key_id, since in self.stopped.items():
            assert (key_id in self.ring.key_ids) == (self.now < since + self.rhythm.overlap)

    @invariant()
    def jitter_is_only_earlier(self):
        active = self.ring.active
        due = key_ring.prepare_time(self.ring, self.rhythm) + self.rhythm.publish_before
        assert active.changed < due <= active.changed + self.rhythm.rotate_every


TestRingLife = RingLife.TestCase
TestRingLife.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
