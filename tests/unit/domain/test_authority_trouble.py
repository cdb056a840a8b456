"""Taints that meet a rotation, specs that change in the middle, clocks that jump: the life of authorities goes on."""

from serviceidentity.domain.authority import MakeAuthority
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
