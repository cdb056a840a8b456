"""Taints that meet a rotation, specs that change in the middle, clocks that jump: the life of authorities goes on."""

from tests.unit.domain.builders import HOUR, domain
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
