"""The promise of `spec.jwt`: no token is refused for its key, whatever the rhythm and whenever the operator looks.

A verifier uses a JWK Set that is up to cacheTime old, of a ConfigMap that it sees up to `propagation` late. A signer sees
the Secret up to `propagation` late, and its tokens live up to maxTokenTTL. So a key has to be in the ConfigMap from
cacheTime and propagation before it is the Active one, until propagation and maxTokenTTL after it was replaced.
"""

from dataclasses import replace
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serviceidentity.domain import ownership, plan
from serviceidentity.domain.credentials import jwt
from serviceidentity.domain.jwt import publication
from serviceidentity.domain.plan import Publish, Write
from tests.unit.domain.builders import DAY, HOUR, JWT, T0, observed, view_of, with_spec

SECOND = timedelta(seconds=1)
SECRET, JWKS = "order-service-jwt", "order-service-jwks"


class SigningKeyLife(RuleBasedStateMachine):
    @initialize(
        cache=st.integers(0, 7200),
        propagation=st.integers(0, 600),
        lifetime=st.integers(10, 7200),
        rest=st.integers(1, 30 * 86400),
    )
    def begin(self, cache, propagation, lifetime, rest):
        self.lead = timedelta(seconds=cache + propagation)
        self.tail = timedelta(seconds=lifetime + propagation)
        self.spec = {
            "jwt": {
                "algorithm": "EdDSA",
                "cacheTime": f"{cache}s",
                "propagation": f"{propagation}s",
                "maxTokenTTL": f"{lifetime}s",
                "rotateEvery": f"{cache + lifetime + 2 * propagation + rest}s",
            }
        }
        self.annotations = {}
        self.asked = 0
        self.seen = observed(self.spec)
        self.now = T0
        self.begins_over()
        self.operator_looks()

    def begins_over(self):
        """Nothing is promised of what was before: nobody had a key, or all of them were revoked."""
        self.published = []  # since when the ConfigMap has which keys
        self.signs = {}  # since when, and until when, each key is the Active one

    def operator_looks(self, *, crashes=False):
        actions = plan.plan(self.seen, self.now)
        for action in actions:
            if isinstance(action, Publish):
                self.publish(self.seen.contents[SECRET])
            elif isinstance(action, Write):
                content = JWT.render(self.seen, action.due, self.now, None)
                self.publish(content)
                if not crashes:
                    self.store(content)
        return actions

    def publish(self, content):
        wanted = jwt.to_publish(self.seen, content, self.now)
        if jwt.is_published(self.seen, wanted):
            return
        metadata = publication.metadata_of(self.seen.identity, JWKS, wanted)
        view = view_of(wanted, JWKS, labels=metadata.labels, annotations=metadata.annotations, owners=metadata.owners)
        self.seen = replace(self.seen, jwks={JWKS: view})
        ring = jwt.read_ring(content)
        if self.revoked:
            assert len(ring.keys) == 1, "no key from before is left"
            self.begins_over()
            self.revoked = False
        self.published.append((self.now, ring.key_ids))

    revoked = False

    def store(self, content):
        metadata = plan.metadata_of(self.seen, JWT, content)
        view = view_of(
            content, SECRET, labels=metadata.labels, annotations=metadata.annotations, owners=metadata.owners
        )
        self.seen = replace(self.seen, contents={SECRET: view})
        active = jwt.read_ring(view).active.key_id
        for key_id, (since, until) in self.signs.items():
            if key_id != active and until is None:
                self.signs[key_id] = (since, self.now)
        self.signs.setdefault(active, (self.now, None))

    def ask(self, annotation):
        self.asked += 1
        self.annotations = self.annotations | {annotation: str(self.asked)}
        self.seen = with_spec(self.seen, self.spec, annotations=self.annotations)

    @rule(pause=st.timedeltas(SECOND, 90 * DAY) | st.timedeltas(SECOND, HOUR), crashes=st.booleans())
    def time_passes(self, pause, crashes):
        self.now += timedelta(seconds=int(pause.total_seconds()))
        self.operator_looks(crashes=crashes)

    @rule(late=st.sampled_from([timedelta(0), SECOND, HOUR]))
    def the_deadline_comes(self, late):
        self.operator_looks()  # after a crash there is something to do at once
        due = plan.deadline(self.seen, self.now)
        assert due is not None, "a key has always something before it"
        assert due > self.now
        self.now = due + late
        assert self.operator_looks(), "who comes at the deadline finds something to do"

    @rule()
    def a_rotation_is_requested(self):
        self.ask(ownership.ROTATE_ANNOTATION)
        self.operator_looks()

    @rule(crashes=st.booleans())
    def the_keys_are_revoked(self, crashes):
        self.ask(ownership.REVOKE_JWT_ANNOTATION)
        self.revoked = True
        self.operator_looks(crashes=crashes)
        if crashes:
            self.revoked = True
            self.operator_looks()

    @precondition(lambda self: JWKS in self.seen.jwks)
    @rule()
    def it_looks_again(self):
        self.operator_looks()
        assert self.operator_looks() == ()

    @invariant()
    def every_key_was_published_whenever_it_is_needed(self):
        begin = self.published[0][0] if self.published else None
        for key_id, (since, until) in self.signs.items():
            first = max(since - self.lead, begin)
            end = self.now if until is None else min(self.now, until + self.tail - SECOND)
            for time, keys in self.in_force(first, end):
                assert key_id in keys, f"{time - since} after it began to sign, {until and time - until} after its end"

    def in_force(self, first, end):
        """Return what was published at some time from `first` to `end`; of two writes in one second, the later."""
        latest = dict(self.published)
        before = max((time for time in latest if time <= first), default=None)
        return [(time, keys) for time, keys in latest.items() if time == before or first < time <= end]

    @invariant()
    def what_is_published_is_dropped_in_the_end(self):
        if SECRET in self.seen.contents:
            assert len(jwt.read_ring(self.seen.contents[SECRET]).keys) <= 3 + self.asked


TestSigningKeyLife = SigningKeyLife.TestCase
TestSigningKeyLife.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
