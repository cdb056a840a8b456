"""Taints that meet a rotation, specs that change in the middle, clocks that jump: the life of authorities goes on."""

from tests.unit.domain.builders import HOUR
from tests.unit.domain.test_authority_life import annotated, tainted, works


def test_a_tainted_intermediate_is_replaced_while_the_one_before_is_still_retiring():
    made = works()
    annotated(made, rotate="1")
    made.go(made.now + 2 * HOUR)
    assert made.states() == {"root-1": "Active", "intermediate-1": "Retiring", "intermediate-2": "Active"}
    tainted(made, "intermediate-2")
    assert made.signs() == "intermediate-3"
