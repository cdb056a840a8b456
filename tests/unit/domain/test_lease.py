"""When a lease is renewed or replaced: for all durations, and the same after a restart."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.domain.vault import lease as rules
from serviceidentity.domain.vault.lease import Renew, Replace
from serviceidentity.domain.vault.views import Lease
from tests.unit.domain.builders import T0

SECOND = timedelta(seconds=1)
seconds = st.integers(min_value=2, max_value=10**7)
ids = st.text(min_size=1, max_size=20)


def lease(duration=3600, first=None, name="a", **changes):
    span = timedelta(seconds=duration)
    first = span if first is None else timedelta(seconds=first)
    return replace(Lease(name, T0, T0, span, first, renewable=True), **changes)


@given(seconds, ids)
def test_renewal_is_after_the_grant_and_before_three_quarters(duration, name):
    one = lease(duration, name=name)
    due = rules.renewal_time(one)
    assert due > T0
    assert (due - T0) * 4 < one.duration * 3
    assert due.microsecond == 0


@given(st.integers(min_value=2, max_value=19))
def test_a_short_one_is_renewed_as_late_as_whole_seconds_allow(duration):
    due = rules.renewal_time(lease(duration))
    assert (due + SECOND - T0) * 4 >= timedelta(seconds=duration) * 3


@given(seconds, ids)
def test_what_can_not_be_renewed_is_replaced_before_the_end(duration, name):
    fixed, stuck = lease(duration, name=name, renewable=False), lease(duration, name=name)
    assert isinstance(rules.next_step(fixed, rules.renewal_time(fixed)), Replace)
    assert rules.last_call(stuck) < stuck.ends
    assert isinstance(rules.next_step(stuck, rules.last_call(stuck)), Replace)


@given(seconds, seconds)
def test_less_than_half_of_the_first_grant_is_replaced_at_once(first, granted):
    step = rules.next_step(lease(granted, first), T0)
    assert isinstance(step, Replace) is (granted * 2 < first)


def test_the_order_of_reasons():
    one = lease()
    assert rules.next_step(one, T0) is None
    assert rules.next_step(one, rules.renewal_time(one)) == Renew()
    assert rules.next_step(replace(one, lost="gone"), T0) == Replace(rules.LEASE_LOST, "gone")
    assert rules.next_step(one, one.ends).reason == rules.LEASE_LOST
    assert not rules.may_renew(replace(one, lost="gone"), one.ends - SECOND)
    assert rules.may_renew(one, one.ends - SECOND)


@given(seconds, st.integers(0, 10**7), st.integers(-2, 2), st.booleans())
def test_after_a_restart_the_same_is_decided(duration, passed, off, with_status):
    first = max(duration, 10)
    granted = T0 + timedelta(seconds=min(passed, 10**6))
    one = lease(first, granted=granted)
    now = granted + timedelta(seconds=passed % first)
    left = one.ends - now + timedelta(seconds=off)
    begun = Lease(one.lease_id, one.issued, now, one.first, one.first, renewable=True)
    again = rules.rebuilt(begun, left, True, rules.report(one) if with_status else {})
    if with_status:
        assert again == one
        assert rules.next_step(again, now) == rules.next_step(one, now)
    else:
        assert abs(again.ends - (now + left)) <= 2 * SECOND
        assert rules.renewal_time(again) < again.ends


def test_a_status_that_vault_does_not_agree_with_does_not_count():
    one = lease()
    begun = replace(one, granted=T0 + 60 * SECOND)
    again = rules.rebuilt(begun, 100 * SECOND, True, rules.report(one))
    assert again.ends == T0 + 160 * SECOND
    assert rules.may_renew(again, T0 + 60 * SECOND)


@given(seconds, st.integers(0, 10**7))
def test_retries_come_soon_and_before_the_end(duration, passed):
    one = lease(duration)
    now = T0 + timedelta(seconds=passed)
    pause = rules.retry_time(one, now) - now
    assert SECOND <= pause <= 60 * SECOND
