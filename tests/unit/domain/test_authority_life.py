"""The life of roots and intermediates: trust is published before it is used and withdrawn after its last use."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serviceidentity.domain import authority, parse
from serviceidentity.domain.authority import MakeAuthority, RetireAuthority
from serviceidentity.domain.material import Held
from tests.unit.domain.authorities_at_work import Works
from tests.unit.domain.builders import DAY, HOUR, T0, domain, trust_domain_body

SECOND = timedelta(seconds=1)
SHORT = {
    "root": {"duration": "2400h"},
    "intermediate": {"duration": "240h"},
    "maxLeafDuration": "24h",
    "backdate": "0s",
    "propagation": "2h",
}


def works(**spec):
    made = Works(domain(**SHORT | spec))
    made.work()
    made.publish()
    return made


def annotated(made, **annotations):
    body = trust_domain_body(**SHORT)
    body["metadata"]["annotations"] = {f"serviceidentity.dev/{k.replace('_', '-')}": v for k, v in annotations.items()}
    made.domain = parse.trust_domain(body)
    made.work()


def tainted(made, name, **more):
    fingerprint = made.named(name).fingerprint
    made.domain = domain(**SHORT, taintedAuthorities=[{"fingerprint": fingerprint, **more}])
    made.work()


def test_the_first_root_and_its_intermediate_sign_at_once():
    made = Works(domain(**SHORT))
    made.work()
    assert made.states() == {"root-1": "Active", "intermediate-1": "Active"}
    assert [type(step) for step in made.steps] == [MakeAuthority, MakeAuthority], "two writes and no more"


def test_a_root_is_prepared_then_active_and_the_old_one_retires_after_its_last_leaf():
    made = works()
    due = made.next()
    while made.states().get("root-2") is None:
        made.go(made.next())
        made.publish()
    assert made.now >= due
    assert made.states()["root-2"] == "Prepared"
    assert made.signs() != "nobody"
    assert made.named("root-1").signed(next(a for a in made.found if a.issuer is made.trust.signer))
    published = made.named("root-2").published_at
    while made.states()["root-2"] == "Prepared":
        made.go(made.next())
    assert made.now == published + 2 * HOUR
    assert made.states()["root-1"] == "Retiring"
    assert made.named("root-2").signed(next(a for a in made.found if a.issuer is made.trust.signer))
    switched = made.now
    while "root-1" in made.states():
        made.go(made.next())
    assert made.now == switched + 24 * HOUR, "when the last leaf under it has ended"
    assert made.roots() == ["root-2"]


def test_nothing_is_signed_under_a_root_that_somebody_does_not_have():
    made = works()
    annotated(made, rotate_root="1")
    assert made.states()["root-2"] == "Prepared"
    for _ in range(20):
        made.go(made.now + DAY)
        assert made.states()["root-2"] == "Prepared", "nobody has published it"
        assert made.named("root-2").published_at is None
    made.publish()
    made.go(made.now + 2 * HOUR - SECOND)
    assert made.states()["root-2"] == "Prepared"
    made.go(made.now + SECOND)
    assert made.states()["root-2"] == "Active"


def test_activation_can_be_asked_for_but_never_before_publication():
    made = works()
    annotated(made, rotate_root="1")
    annotated(made, rotate_root="1", activate="now")
    assert made.states()["root-2"] == "Prepared"
    made.publish()
    assert made.states()["root-2"] == "Active"
    annotated(made, rotate_root="2", activate="now")
    made.publish()
    assert made.states()["root-3"] == "Prepared", "that request was for the one before"


@pytest.mark.parametrize(("annotation", "made_new"), [("rotate", "intermediate-2"), ("rotate_root", "root-2")])
def test_a_rotation_that_was_asked_for_happens_once(annotation, made_new):
    made = works()
    annotated(made, **{annotation: "1"})
    made.publish()
    assert made.states()[made_new] == "Prepared"
    made.go(made.now + 3 * HOUR)
    assert made.states()[made_new] == "Active"
    count = len([step for step in made.steps if isinstance(step, MakeAuthority)])
    made.go(made.now + DAY)
    assert len([step for step in made.steps if isinstance(step, MakeAuthority)]) == count


def test_an_intermediate_is_replaced_before_it_cuts_a_leaf_short():
    made = works()
    old = made.named("intermediate-1")
    while made.signs() == "intermediate-1":
        made.go(made.next())
    assert made.signs() == "intermediate-2"
    assert made.now + made.domain.max_leaf_duration <= old.not_after


def test_a_certificate_in_use_keeps_its_authority_even_when_the_limit_was_lowered():
    made = works()
    made.leaves[made.named("intermediate-1").fingerprint] = T0 + 9 * DAY
    annotated(made, rotate="1")
    made.go(made.now + 2 * HOUR)
    made.domain = replace(made.domain, max_leaf_duration=HOUR)
    made.go(T0 + 9 * DAY - SECOND)
    assert made.states()["intermediate-1"] == "Retiring"
    made.go(T0 + 9 * DAY)
    assert "intermediate-1" not in made.states()


def test_a_tainted_root_that_was_replaced_before_goes_when_nothing_under_it_is_in_use():
    made = works()
    made.leaves[made.named("intermediate-1").fingerprint] = T0 + 20 * HOUR
    annotated(made, rotate_root="1")
    made.publish()
    made.go(made.now + 2 * HOUR)
    assert made.states()["root-1"] == "Retiring"
    tainted(made, "root-1")
    assert (made.states()["root-1"], made.states()["intermediate-1"]) == ("Tainted", "Tainted")
    assert made.roots() == ["root-1", "root-2"], "until everything under it is replaced"
    assert made.named("intermediate-1").fingerprint in made.trust.tainted
    made.go(made.now + HOUR)
    assert "root-1" in made.states()
    made.leaves.clear()
    made.work()
    made.go(made.next())
    assert made.roots() == ["root-2"]
    assert "root-1" not in made.states()


def test_a_tainted_active_root_signs_nothing_and_its_successor_only_waits_for_publication():
    made = works()
    tainted(made, "root-1")
    assert isinstance(made.trust.signer, Held)
    assert made.trust.signer.reason == "IssuerTainted"
    assert made.states()["root-2"] == "Prepared"
    made.publish()
    assert made.states()["root-2"] == "Active"
    assert made.signs() == "intermediate-2"


def test_a_tainted_authority_can_leave_the_bundle_at_once():
    made = works()
    annotated(made, rotate_root="1")
    made.publish()
    tainted(made, "root-1", removeFromBundle="Immediately")
    assert made.roots() == ["root-2"]


def test_a_tainted_intermediate_is_replaced_under_the_same_root():
    made = works()
    tainted(made, "intermediate-1")
    assert made.signs() == "intermediate-2"
    assert made.roots() == ["root-1"]


def test_an_expired_root_is_followed_by_another_once_everyone_has_it():
    made = works()
    made.go(T0 + 200 * DAY)
    assert isinstance(made.trust.signer, Held)
    assert made.trust.signer.reason == "IssuerExpired"
    made.publish()
    assert made.signs() != "nobody"
    assert all(a.not_after > made.now for a in made.found), "the dead are gone"


def test_a_root_on_record_as_active_is_not_removed_before_the_record_is_changed():
    made = works()
    made.go(T0 + 200 * DAY)
    made.publish()
    made = Works(made.domain, now=made.now, found=made.found, bundle_held=made.bundle_held)
    dead = Works(domain(**SHORT))
    dead.work()
    hierarchy = replace(made.seen, authorities=(*made.found, *dead.found), recorded=frozenset({"default-root-1"}))
    steps = []
    while isinstance(step := authority.plan(hierarchy, made.now), RetireAuthority):
        steps.append(step.secret_name)
        left = tuple(a for a in hierarchy.authorities if a.view.name != step.secret_name)
        hierarchy = replace(hierarchy, authorities=left)
    assert "default-intermediate-1" in steps
    assert "default-root-1" not in steps


LIFETIMES = st.tuples(st.integers(60, 400), st.integers(20, 200), st.integers(5, 100), st.integers(0, 100))


@settings(max_examples=100, deadline=None)
@given(
    lifetimes=LIFETIMES,
    story=st.lists(
        st.tuples(
            st.integers(1, 300),
            st.sampled_from(["publish", "publish", "", "rotate-root", "rotate", "taint", "activate"]),
        ),
        max_size=14,
    ),
)
def test_whatever_happens_nobody_meets_a_certificate_whose_root_is_new_to_them(lifetimes, story):
    root, intermediate, leaf, propagation = lifetimes
    intermediate, leaf = min(root, intermediate), min(root, intermediate, leaf)
    spec = {
        "root": {"duration": f"{root}s"}, "intermediate": {"duration": f"{intermediate}s"}, "backdate": "0s",
        "maxLeafDuration": f"{leaf}s", "propagation": f"{propagation}s",
    }  # fmt: skip
    made, annotations = Works(domain(**spec)), {}
    made.work()
    made.publish()
    for number, (pause, event) in enumerate(story):
        body = trust_domain_body(**spec)
        if event in ("rotate-root", "rotate", "activate"):
            annotations[f"serviceidentity.dev/{event}"] = str(number)
        body["metadata"]["annotations"] = annotations
        if event == "taint":
            worst = made.found[number % len(made.found)]
            spec["taintedAuthorities"] = [*spec.get("taintedAuthorities", []), {"fingerprint": worst.fingerprint}]
            body["spec"] = body["spec"] | spec
        made.domain = parse.trust_domain(body)
        until = made.now + pause * SECOND
        made.work()
        while (due := authority.deadline(made.seen, made.now)) is not None and due <= until:
            made.go(due)
            _check(made)
        made.go(until)
        if event == "publish":
            made.publish()
        _check(made)
    made.publish()
    for _ in range(3):
        made.publish()
    assert made.signs() != "nobody", "in the end somebody signs"


def _check(made):
    trust = authority.trust_of(made.seen, made.now)
    if isinstance(trust, Held) or isinstance(trust.signer, Held):
        return
    signer = trust.signer
    (by,) = (a for a in made.found if a.issuer is signer)
    root = made.seen.root_of(by)
    assert made.now < by.not_after <= root.not_after
    assert not made.seen.is_tainted(by)
    assert root.view.value("tls.crt").strip() in made.bundle_held, "the root was published before its first leaf"
    end = made.now + min(made.domain.max_leaf_duration, by.not_after - made.now)
    made.leaves[by.fingerprint] = max(end, made.leaves.get(by.fingerprint, end))
    for fingerprint, ends in made.leaves.items():
        alive = [a for a in made.found if a.fingerprint == fingerprint]
        if ends > made.now:
            assert alive, "an authority stays while what it signed may be in use"
            assert made.seen.root_of(alive[0]).certificate in trust.roots
