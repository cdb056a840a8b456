"""A deadline is when something can be done: where the plan has nothing to do, it lies ahead or is not there."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serviceidentity.domain import authority, plan, status
from serviceidentity.domain.authority import Hierarchy, MakeAuthority, MarkAuthority, RetireAuthority, Role, Trust
from serviceidentity.domain.credentials.certificate import leaf_facts, renewal
from serviceidentity.domain.material import Held
from serviceidentity.domain.plan import Hold
from serviceidentity.domain.status import Failure
from tests.unit.domain.builders import (
    CERTIFICATE,
    DAY,
    HOUR,
    T0,
    authorities,
    domain,
    issue,
    issued,
    make_authority,
    observed,
    with_spec,
)

HOURS = st.integers(1, 24 * 3650)
GONE = Held("TrustDomainNotFound", "gone")


@settings(max_examples=60, deadline=None)
@given(root=HOURS, intermediate=HOURS, leaf=HOURS, later=HOURS, now_asked=HOURS)
def test_a_trust_domain_with_nothing_to_do_has_a_deadline_ahead_or_none(root, intermediate, leaf, later, now_asked):
    intermediate = min(root, intermediate)
    spec = {"root": {"duration": f"{root}h"}, "maxLeafDuration": f"{min(leaf, intermediate)}h"}
    made = authorities(domain(**spec, intermediate={"duration": f"{intermediate}h"}))
    shorter = min(intermediate, now_asked)
    owner = domain(**spec | {"maxLeafDuration": f"{min(leaf, shorter)}h"}, intermediate={"duration": f"{shorter}h"})
    now = T0 + timedelta(hours=later)
    action = authority.plan(Hierarchy(owner, made), now)
    if not isinstance(action, MakeAuthority | MarkAuthority | RetireAuthority):
        due = authority.deadline(Hierarchy(owner, made), now)
        assert due is None or due > now


@settings(max_examples=60, deadline=None)
@given(st.integers(60, 40 * 86400), st.integers(0, 80 * 86400), st.booleans())
def test_an_identity_with_nothing_to_do_has_a_deadline_ahead_or_none(duration, age, trusted):
    seen = issued({"certificate": {"duration": f"{duration}s"}, "hmac": {}})
    seen = seen if trusted else replace(seen, trust=GONE)
    now = T0 + timedelta(seconds=age)
    if all(isinstance(action, Hold) for action in plan.plan(seen, now)):
        due = plan.deadline(seen, now)
        assert due is None or due > now


def test_after_a_failure_the_next_look_is_the_next_attempt():
    seen = issued({"certificate": {}})
    now = T0 + 2 * DAY
    found = status.of_identity(seen, {"certificate": Failure(status.REJECTED, "quota")}, {}, now)
    assert found["nextActionTime"] == found["backoff"]["nextAttemptTime"]


def test_a_deadline_of_a_held_certificate_is_its_end():
    seen = replace(issued({"certificate": {}}), trust=GONE)
    due = renewal(seen, seen.contents["order-service-tls"])
    assert plan.deadline(seen, due) == leaf_facts(seen.contents["order-service-tls"]).not_after


@pytest.mark.parametrize("spec", [{"certificate": {}}, {"hmac": {}}, {"certificate": {}, "hmac": {}}])
def test_something_is_due_at_the_deadline_and_nothing_a_second_before(spec):
    seen = issued(spec)
    due = plan.deadline(seen, T0)
    assert due is not None
    assert plan.plan(seen, due - timedelta(seconds=1)) == ()
    assert plan.plan(seen, due) != ()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 700 * 86400))
def test_an_expired_authority_signs_nothing_whoever_asks(age):
    owner = domain(intermediate={"duration": "4800h"}, root={"duration": "9600h"})
    made, now = authorities(owner), T0 + timedelta(seconds=age)
    trust = authority.trust_of(Hierarchy(owner, made), now)
    seen = observed({"certificate": {"duration": "2160h"}}, trusted=trust)
    (action,) = plan.plan(seen, now)
    if now >= made[1].not_after:
        assert isinstance(trust, Held) or isinstance(trust.signer, Held)
        assert isinstance(action, Hold)
    else:
        assert isinstance(trust, Trust)
        leaf = leaf_facts(issue(seen, CERTIFICATE, now).contents["order-service-tls"])
        assert now < leaf.not_after <= made[1].not_after


def test_a_leaf_cut_short_is_renewed_as_soon_as_there_is_a_successor():
    owner = domain(intermediate={"duration": "240h"}, maxLeafDuration="48h")
    root, old = authorities(owner)
    late = old.not_after - 10 * HOUR
    cut = authority.trust_of(Hierarchy(owner, (root, old)), late)
    assert isinstance(cut, Trust)
    seen = issue(observed({"certificate": {"duration": "48h"}}, trusted=cut), CERTIFICATE, late)
    due = renewal(seen, seen.contents["order-service-tls"])
    assert CERTIFICATE.decide(seen, due) is None
    new = make_authority(owner, Role.INTERMEDIATE, 2, root, due)
    fresh = authority.trust_of(Hierarchy(owner, (root, old, new)), due)
    assert isinstance(fresh, Trust)
    assert CERTIFICATE.decide(replace(seen, trust=fresh), due) is not None


def test_a_suspended_identity_has_no_deadline_and_its_status_says_so():
    seen = with_spec(issued({"certificate": {}}), {"certificate": {}, "suspend": True})
    found = status.of_identity(seen, {}, {}, T0)
    assert "nextActionTime" not in found
    assert found["conditions"][0]["reason"] == "Suspended"
