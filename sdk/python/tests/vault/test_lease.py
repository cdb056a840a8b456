"""When a lease is renewed, and when it is replaced."""

from hypothesis import given
from hypothesis import strategies as st

from serviceidentity_sdk.vault.lease import Grant, Step, next_step, next_time

SECONDS = st.floats(0.1, 1e7)


def test_the_times():
    grant = Grant(1000, 100, 100, renewable=True)
    assert next_time(grant) == grant.renewal == 1075
    assert [next_step(grant, now) for now in (1000, 1074.9, 1075, 1089.9, 1090)] == [
        Step.WAIT,
        Step.WAIT,
        Step.RENEW,
        Step.RENEW,
        Step.REPLACE,
    ]


def test_what_was_granted_counts_and_not_what_was_asked_for():
    grant = Grant(1000, 100, 100, renewable=True).renewed(1075, 60, renewable=True)
    assert (next_step(grant, 1075), next_time(grant)) == (Step.WAIT, 1075 + 45)
    assert (
        next_step(grant.renewed(1120, 49, renewable=True), 1120) is Step.REPLACE
    )  # less than half: its maximum is near


def test_what_is_not_renewable_is_replaced_when_it_would_be_renewed():
    grant = Grant(1000, 100, 100, renewable=False)
    assert [next_step(grant, now) for now in (1074, 1075)] == [Step.WAIT, Step.REPLACE]


def test_what_never_ends_is_left_alone():
    assert next_step(Grant(0, 0, 0, renewable=False), 1e12) is Step.WAIT


@given(SECONDS, SECONDS, SECONDS, st.booleans())
def test_something_is_done_between_three_quarters_and_the_end(granted, duration, first, renewable):
    grant = Grant(granted, duration, first, renewable)
    due = next_time(grant)
    assert granted <= due < grant.ends
    assert next_step(grant, due) is not Step.WAIT
    if duration * 2 >= first:
        assert next_step(grant, granted + duration * 0.74) is Step.WAIT


@given(SECONDS, st.floats(0, 2))
def test_after_a_failure_it_is_tried_again_soon_and_not_at_once(duration, part):
    grant = Grant(0, duration, duration, renewable=True)
    now = duration * (0.75 + part / 4)
    failed = grant.failed(now)
    assert next_step(failed, now) is Step.WAIT
    assert now + 1 <= next_time(failed) <= now + 60
    assert next_step(failed, next_time(failed)) is not Step.WAIT
