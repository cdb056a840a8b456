"""Taints that meet a rotation, specs that change in the middle, clocks that jump: the life of authorities goes on."""

from dataclasses import replace

import pytest

from serviceidentity.domain import status
from serviceidentity.domain.authority import MakeAuthority
from serviceidentity.domain.material import Held
from tests.unit.domain.builders import DAY, HOUR, T0, domain
from tests.unit.domain.test_authority_life import SHORT, annotated, tainted, works


def test_a_tainted_intermediate_is_replaced_while_the_one_before_is_still_retiring():
    made = works()
    annotated(made, rotate="1")
    made.go(made.now + 2 * HOUR)
    assert made.states() == {"root-1": "Active", "intermediate-1": "Retiring", "intermediate-2": "Active"}
    tainted(made, "intermediate-2")
    assert made.signs() == "intermediate-3"


def test_an_intermediate_is_replaced_in_time_when_its_duration_was_shortened():
    made = works()
    old = made.named("intermediate-1")
    made.domain = domain(**SHORT | {"intermediate": {"duration": "24h"}})
    made.work()
    while made.signs() == "intermediate-1":
        made.go(made.next())
    assert made.signs() == "intermediate-2"
    assert old.not_after - made.now > 23 * HOUR, "what it signed does not run out all at once"


def test_an_authority_that_a_clock_ahead_activated_is_succeeded_all_the_same():
    made = works()
    made.now += DAY  # the clock was ahead
    annotated(made, rotate_root="1")
    made.publish()
    made.go(made.now + 2 * HOUR)
    assert made.states()["root-2"] == "Active"
    made.now = T0 + HOUR  # and was put right
    annotated(made, rotate_root="2")
    for _ in range(3):
        made.publish()
        made.go(made.now + 2 * HOUR)
    assert made.states()["root-3"] == "Active"
    assert made.signs() == "intermediate-3"
    count = len([step for step in made.steps if isinstance(step, MakeAuthority)])
    made.go(made.now + 3 * HOUR)
    assert len([step for step in made.steps if isinstance(step, MakeAuthority)]) == count


def test_publication_by_a_clock_ahead_does_not_hold_up_the_activation():
    made = works()
    annotated(made, rotate_root="1")
    made.now += 50 * DAY
    made.publish()
    made.now = T0 + HOUR
    made.work()
    made.go(made.now + 2 * HOUR)
    assert made.states()["root-2"] == "Active"


def test_nothing_is_signed_by_an_authority_that_is_not_valid_yet():
    made = works()
    made.now = T0 - HOUR
    made.work()
    assert isinstance(made.trust.signer, Held)
    assert made.trust.signer.reason == "IssuerNotYetValid"
    assert made.next() == T0
    made.now = T0
    assert made.signs() == "intermediate-1"
    made.now = T0 - HOUR
    tainted(made, "root-1")  # the way out when it was the clock of then that was wrong
    made.publish()
    assert made.signs() == "intermediate-2"


def shown(made):
    found = status.of_trust_domain(made.seen, None, None, {}, made.now)["authorities"]
    return {item["secretName"].removeprefix("default-"): item.get("activationTime") for item in found}


def test_the_intermediate_of_a_prepared_root_is_shown_to_sign_when_its_root_does():
    made = works()
    annotated(made, rotate_root="1")
    assert (shown(made)["root-2"], shown(made)["intermediate-2"]) == (None, None), "nobody knows yet"
    made.go(made.now + DAY)
    made.publish()
    assert shown(made)["root-2"] == shown(made)["intermediate-2"] == "2026-01-02T14:00:00Z"


def test_an_intermediate_signs_in_its_own_time_while_a_root_is_prepared():
    made = works()
    annotated(made, rotate="1")
    made.now += HOUR
    annotated(made, rotate="1", rotate_root="1")
    assert made.next() == T0 + 2 * HOUR
    made.go(made.next())
    assert made.signs() == "intermediate-2"


def test_the_only_root_left_is_published_before_it_signs():
    made = works()
    tainted(made, "root-1")
    made.found = tuple(a for a in made.found if a.view.name != "default-root-1")  # by somebody's hand
    made.work()
    assert made.signs() == "nobody"
    made.publish()
    assert made.signs() == "intermediate-2"


def test_an_authority_whose_record_of_activation_was_lost_stays_while_what_it_signed_is_in_use():
    made = works()
    annotated(made, rotate="1")
    made.go(made.now + 2 * HOUR)
    old = made.named("intermediate-1")
    made.leaves[old.fingerprint] = made.now + 20 * HOUR
    made.found = tuple(replace(a, activated_at=None) if a == old else a for a in made.found)
    made.work()
    assert "intermediate-1" in made.states()
    made.go(made.now + 20 * HOUR)
    assert "intermediate-1" not in made.states()


def test_an_authority_that_is_listed_twice_leaves_the_bundle_as_soon_as_either_says():
    made = works()
    annotated(made, rotate_root="1")
    made.publish()
    plain = made.named("root-1").fingerprint
    with_colons = ":".join(plain[at : at + 2] for at in range(0, len(plain), 2)).upper()
    listed = [{"fingerprint": with_colons, "removeFromBundle": "Immediately"}, {"fingerprint": plain}]
    made.domain = domain(**SHORT, taintedAuthorities=listed)
    assert made.roots() == ["root-2"]


@pytest.mark.parametrize(("annotation", "name"), [("rotate_root", "root-2"), ("rotate", "intermediate-2")])
def test_what_a_clock_ahead_prepared_is_prepared_anew(annotation, name):
    made = works()
    made.now += 5 * DAY
    annotated(made, **{annotation: "1"})
    ahead = made.named(name)
    made.now = T0 + HOUR
    made.work()
    made.publish()
    assert made.named(name).fingerprint != ahead.fingerprint
    made.go(made.now + 2 * HOUR)
    assert made.states()[name] == "Active"
    assert made.signs() == "intermediate-2"


def test_a_fingerprint_that_no_authority_has_does_not_pass_in_silence():
    made = works()
    right = made.named("root-1").fingerprint
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")

    def message(*fingerprints):
        made.domain = domain(**SHORT, taintedAuthorities=[{"fingerprint": one} for one in fingerprints])
        ready, *_ = status.of_trust_domain(made.seen, None, None, {}, made.now)["conditions"]
        assert ready["status"] == "True"
        return ready["message"].partition("; ")[2]

    assert message() == message(right) == ""
    told = "spec.taintedAuthorities: there is no authority (any more) with fingerprint "
    assert message(right, wrong) == f"{told}{wrong[:16]}..."
    assert message("0" * 64, wrong, "f" * 64) == f"{told}{'0' * 16}... and 2 more"
